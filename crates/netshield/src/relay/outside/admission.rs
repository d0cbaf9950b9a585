//! How many clients at once, together and from one address, and how many refusals are told.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use rustix::process::{Resource, getrlimit};

use super::OutsideLimits;

/// Refusals that are told at once, and then per second.
const BURST: f64 = 32.0;
const PER_SECOND: f64 = 0.5;

#[derive(Debug, Default, Clone, Copy)]
struct Count {
    shaking: usize,
    all: usize,
}

/// Descriptors that are not for clients: volumes, members, the CAS.
const RESERVED: u64 = 512;
/// Descriptors of one client: its socket and the program's.
const PER_CLIENT: u64 = 2;

/// Counts connections.
pub struct Admission {
    most: Count,
    most_of_one: Count,
    table: Mutex<(Count, HashMap<IpAddr, Count>)>,
}

impl Admission {
    pub fn new(limits: &OutsideLimits) -> Self {
        let share = limits.share.max(1);
        Self {
            most: Count {
                shaking: limits.handshakes,
                all: limits.connections,
            },
            most_of_one: Count {
                shaking: limits.handshakes / share,
                all: limits.connections / share,
            },
            table: Mutex::default(),
        }
    }

    /// A place for a connection from `address`, in its handshake.
    ///
    /// # Errors
    /// Why there is none.
    pub fn enter(self: &Arc<Self>, address: IpAddr) -> Result<Place, &'static str> {
        let from = network(address);
        if !has_descriptors(self.lock().0.all) {
            return Err("too few descriptors (RLIMIT_NOFILE)");
        }
        let (total, of) = &mut *self.lock();
        if total.shaking >= self.most.shaking || total.all >= self.most.all {
            return Err("too many connections");
        }
        let one = of.entry(from).or_default();
        if one.shaking >= self.most_of_one.shaking || one.all >= self.most_of_one.all {
            return Err("too many connections from one address");
        }
        for count in [total, one] {
            count.shaking += 1;
            count.all += 1;
        }
        Ok(Place {
            admission: Arc::clone(self),
            from,
            is_shaking: true,
        })
    }

    fn lock(&self) -> MutexGuard<'_, (Count, HashMap<IpAddr, Count>)> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One connection's place, until dropped.
pub struct Place {
    admission: Arc<Admission>,
    from: IpAddr,
    is_shaking: bool,
}

impl Place {
    /// The handshake is done.
    pub fn established(&mut self) {
        if std::mem::take(&mut self.is_shaking) {
            let (total, of) = &mut *self.admission.lock();
            total.shaking -= 1;
            if let Some(one) = of.get_mut(&self.from) {
                one.shaking -= 1;
            }
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.established();
        let (total, of) = &mut *self.admission.lock();
        total.all -= 1;
        if let Some(one) = of.get_mut(&self.from) {
            one.all -= 1;
            if one.all == 0 {
                of.remove(&self.from);
            }
        }
    }
}

/// Whether this process may open what one more client needs: an exhausted one could not read its volumes either.
fn has_descriptors(clients: usize) -> bool {
    let most = getrlimit(Resource::Nofile).current;
    most.is_none_or(|most| (clients as u64 + 1) * PER_CLIENT + RESERVED <= most)
}

/// What one client can choose addresses from: of IPv6 a /64 (RFC 4291 section 2.5.4).
fn network(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX))),
    }
}

/// A token bucket for refusals that are told, and the count of those that are not.
#[derive(Debug)]
pub struct Throttle(Mutex<(f64, Instant, u64)>);

impl Default for Throttle {
    fn default() -> Self {
        Self(Mutex::new((BURST, Instant::now(), 0)))
    }
}

impl Throttle {
    /// How many were not told since the last one that was; none when this one is not told either.
    pub fn take(&self) -> Option<u64> {
        let (level, at, untold) = &mut *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        *level = (*level + now.duration_since(*at).as_secs_f64() * PER_SECOND).min(BURST);
        *at = now;
        if *level < 1.0 {
            *untold += 1;
            return None;
        }
        *level -= 1.0;
        Some(std::mem::take(untold))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admission(handshakes: usize, connections: usize) -> Arc<Admission> {
        Arc::new(Admission::new(&OutsideLimits {
            handshakes,
            connections,
            ..OutsideLimits::default()
        }))
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn one_address_takes_half_of_the_places_and_gives_them_back() {
        let admission = admission(4, 4);
        let held = [(); 2].map(|()| admission.enter(ip("10.0.0.1")).ok().unwrap());
        let refused = admission.enter(ip("10.0.0.1")).err();
        assert_eq!(refused, Some("too many connections from one address"));
        let others = [(); 2].map(|()| admission.enter(ip("10.0.0.2")).ok().unwrap());
        assert_eq!(
            admission.enter(ip("10.0.0.3")).err(),
            Some("too many connections")
        );
        drop((held, others));
        assert!(admission.enter(ip("10.0.0.1")).is_ok());
        assert!(admission.lock().1.is_empty());
    }

    #[test]
    fn established_connections_leave_room_for_handshakes() {
        let admission = admission(2, 100);
        let mut first = admission.enter(ip("10.0.0.1")).ok().unwrap();
        assert!(admission.enter(ip("10.0.0.1")).is_err());
        first.established();
        first.established();
        assert!(admission.enter(ip("10.0.0.1")).is_ok());
    }

    #[test]
    fn addresses_of_one_v6_network_count_together() {
        let admission = admission(2, 100);
        let _held = admission.enter(ip("2001:db8::1")).ok().unwrap();
        assert!(admission.enter(ip("2001:db8::2")).is_err());
        assert!(admission.enter(ip("2001:db8:0:1::2")).is_ok());
    }

    #[test]
    fn of_many_refusals_the_first_are_told_and_the_rest_counted() {
        let throttle = Throttle::default();
        let told = (0..200).filter_map(|_| throttle.take()).count();
        assert!((32..40).contains(&told), "{told}");
        throttle.0.lock().unwrap().0 = 1.0;
        assert!(throttle.take().is_some_and(|untold| untold >= 160));
    }
}
