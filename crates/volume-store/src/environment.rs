//! The system's clock and random generator.

use std::time::{SystemTime, UNIX_EPOCH};

use rustix::rand::{GetRandomFlags, getrandom};
use volume::Environment;

/// `CLOCK_REALTIME` and `getrandom(2)`.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemEnvironment;

impl Environment for SystemEnvironment {
    fn now(&self) -> i64 {
        let since = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
    }

    /// # Panics
    /// When the kernel's generator fails, which Linux never does once it is seeded: nothing can be made without it.
    fn random(&self, out: &mut [u8]) {
        let mut rest = out;
        while !rest.is_empty() {
            match getrandom(&mut *rest, GetRandomFlags::empty()) {
                Ok(count) => rest = rest.get_mut(count..).unwrap_or_default(),
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => panic!("getrandom failed: {error}"),
            }
        }
    }
}
