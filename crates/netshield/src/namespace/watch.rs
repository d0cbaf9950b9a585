//! Turns refusals of the namespace into entries of the denial log.

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;

use super::nflog::{RefusalSocket, Refused};
use super::process::Processes;
use crate::event::{Denial, DenialLog};
use crate::names;
use crate::policy::Policy;

/// Knows the names of the policy and the processes of the namespace.
pub(super) struct Watch {
    by_address: BTreeMap<IpAddr, String>,
    processes: Mutex<Processes>,
    denials: Arc<dyn DenialLog>,
}

impl Watch {
    /// `namespace`: the inode of the namespace.
    pub(super) fn new(policy: &Policy, namespace: u64, denials: Arc<dyn DenialLog>) -> Self {
        let names = names::of(policy);
        let addressed = names.iter().rev();
        let by_address = addressed
            .flat_map(|(name, all)| all.iter().map(|address| (*address, name.to_lowercase())))
            .collect();
        Self {
            by_address,
            processes: Mutex::new(Processes::of(namespace)),
            denials,
        }
    }

    /// The program's processes, of which one opened a connection.
    pub(super) fn processes(&self) -> String {
        self.processes.lock().describe(None)
    }

    /// The program asked for a name that no rule has.
    pub(super) fn unknown_name(&self, name: &str) {
        self.report(None, format!("{name} (name)"), names::UNKNOWN);
    }

    /// Reads refusals until `stop` is readable.
    pub(super) fn read(&self, refusals: &RefusalSocket, stop: &OwnedFd) {
        loop {
            let mut wait = [
                PollFd::new(refusals, PollFlags::IN),
                PollFd::new(stop, PollFlags::IN),
            ];
            match poll(&mut wait, None) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(_) => return,
            }
            let [_, stopped] = wait.map(|one| !one.revents().is_empty());
            let read = refusals.read();
            if stopped && !matches!(read, Ok(Some(_))) {
                return;
            }
            self.note(read);
        }
    }

    fn note(&self, read: io::Result<Option<Vec<Refused>>>) {
        match read {
            Ok(refused) => {
                for one in refused.into_iter().flatten() {
                    self.refused(&one);
                }
            }
            Err(_) => self.report(
                None,
                "several destinations".to_owned(),
                "refused faster than they could be logged",
            ),
        }
    }

    fn refused(&self, one: &Refused) {
        let name = self.by_address.get(&one.destination.ip());
        let (name, reason) = match name {
            Some(name) => (
                format!(" ({name})"),
                "no rule of the Manifest has this port",
            ),
            None => (String::new(), "no rule of the Manifest has this address"),
        };
        let (protocol, reason) = if one.protocol == "tcp" {
            (String::new(), reason)
        } else {
            (format!("/{}", one.protocol), "only TCP is carried")
        };
        let destination = format!("{}{protocol}{name}", one.destination);
        self.report(one.uid, destination, reason);
    }

    fn report(&self, uid: Option<u32>, destination: String, reason: &str) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let process = self.processes.lock().describe(uid);
        self.denials.deny(Denial {
            time_s: now.map_or(0, |now| now.as_secs()),
            direction: "outbound",
            process,
            destination,
            reason: reason.to_owned(),
        });
    }
}
