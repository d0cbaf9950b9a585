//! Checking: every chunk of every file is read and opened.

use crate::error::VolumeError;
use crate::types::{FileType, Finding, Ino};
use crate::volume::{Result, Volume};

/// Bytes read at once.
const STEP: usize = 1 << 20;

impl Volume {
    /// Reads everything and names each damaged file; an empty list means that all is well.
    ///
    /// # Errors
    /// `Io` when the store itself fails.
    pub fn check(&self) -> Result<Vec<Finding>> {
        let mut files: Vec<Ino> = {
            let tree = self.tree.read();
            tree.nodes
                .values()
                .filter(|node| node.kind == FileType::File)
                .map(|node| node.ino)
                .collect()
        };
        files.sort_unstable();
        let mut findings = Vec::new();
        let mut buffer = vec![0; STEP];
        for ino in files {
            match self.check_file(ino, &mut buffer) {
                Ok(()) | Err(VolumeError::NotFound) => {}
                Err(VolumeError::Integrity { what, problem }) => findings.push(Finding {
                    path: what,
                    what: problem,
                }),
                Err(VolumeError::Key(problem)) => {
                    findings.push(Finding {
                        path: self.tree.read().path_of(ino),
                        what: problem,
                    });
                }
                Err(error) => return Err(error),
            }
        }
        Ok(findings)
    }

    fn check_file(&self, ino: Ino, buffer: &mut [u8]) -> Result<()> {
        let mut offset = 0;
        loop {
            let got = self.read(ino, offset, buffer)?;
            if got == 0 {
                return Ok(());
            }
            offset += got as u64;
        }
    }
}
