//! Who sent a refused packet. Its socket is closed by the refusal at once, so that only the user is certain; the
//! processes of the namespace with that user are the candidates.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

const FRESH: Duration = Duration::from_millis(200); // a flood of refusals reads /proc five times a second
const NAMED: usize = 4; // candidates in one entry

/// The processes of one network namespace.
pub(super) struct Processes {
    /// As in `readlink /proc/PID/ns/net`.
    namespace: PathBuf,
    known: Vec<(u32, String)>,
    read: Option<Instant>,
}

impl Processes {
    pub(super) fn of(inode: u64) -> Self {
        Self {
            namespace: PathBuf::from(format!("net:[{inode}]")),
            known: Vec::new(),
            read: None,
        }
    }

    /// `pid comm` when one process of this user is in the namespace, `one of …` when several are, else `unknown`.
    pub(super) fn describe(&mut self, uid: Option<u32>) -> String {
        if self.read.is_none_or(|read| read.elapsed() > FRESH) {
            self.known = self.candidates();
            self.read = Some(Instant::now());
        }
        let wanted = self.known.iter();
        let wanted = wanted.filter(|(owner, _)| uid.is_none_or(|uid| uid == *owner));
        let names: Vec<&str> = wanted.map(|(_, name)| name.as_str()).collect();
        match (names.as_slice(), uid) {
            ([], Some(uid)) => format!("unknown, uid {uid}"),
            ([], None) => "unknown".to_owned(),
            ([only], _) => (*only).to_owned(),
            (several, _) => {
                let shown = several.iter().take(NAMED).copied().collect::<Vec<_>>();
                let more = if several.len() > NAMED { ", …" } else { "" };
                format!("one of {}{more}", shown.join(", "))
            }
        }
    }

    fn candidates(&self) -> Vec<(u32, String)> {
        let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
        let processes = entries.filter_map(|entry| {
            let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
            let directory = entry.path();
            if fs::read_link(directory.join("ns/net")).ok()? != self.namespace {
                return None;
            }
            let uid = fs::metadata(&directory).ok()?.uid();
            let comm = fs::read_to_string(directory.join("comm")).ok()?;
            Some((uid, format!("{pid} {}", comm.trim_end())))
        });
        processes.collect()
    }
}
