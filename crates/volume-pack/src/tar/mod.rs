//! Tar streams in and out of a volume. The crate `tar` reads and writes the fields of headers; the order of members,
//! extended headers and sparse maps are read here, with bounds, because a stream that is cut must never pass for a whole one.

mod emit;
mod fill;
mod member;
mod pax;
mod sparse;
mod stream;

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use volume::Volume;

use crate::error::PackError;
use crate::progress::{Meter, Progress, Tally};

/// Bytes of a header, and unit of everything in a stream.
const BLOCK: usize = 512;
const BLOCK_U64: u64 = BLOCK as u64;

/// Makes the tree of `volume` equal to the tar stream in the file `source`, or on standard input: one commit at its end.
/// A stream that is cut or refused changes nothing; the volume is then closed for writing.
///
/// # Errors
/// [`PackError::Usage`] naming the member for paths and links that lead out, devices, unknown members, and for what is no
/// whole tar stream; else as the source or the volume says.
pub fn pack_tar(
    volume: &Volume,
    source: Option<&Path>,
    progress: Progress<'_>,
) -> Result<Tally, PackError> {
    let named = source.unwrap_or(Path::new("standard input"));
    let unreadable = |error: io::Error| PackError::io("read", named, &error);
    let file = match source {
        Some(path) => OwnedFd::from(File::open(path).map_err(unreadable)?),
        None => rustix::stdio::stdin()
            .try_clone_to_owned()
            .map_err(unreadable)?,
    };
    volume
        .hold_commits()
        .map_err(|error| PackError::volume(b"", error))?;
    let outcome = with_meter(progress, |meter| {
        let source = Polled {
            file: File::from(file),
            meter,
        };
        let source = io::BufReader::with_capacity(1 << 20, source);
        fill::fill(volume, source, named, meter)
    });
    if outcome.is_err() {
        volume.abandon();
    }
    outcome
}

/// Writes the whole tree of `volume`, every byte verified, as a tar stream (pax) to a new file, or to standard output.
///
/// # Errors
/// [`PackError::Usage`] before anything is written if the file exists or the volume holds sockets or devices; else as the
/// volume or the target says, and what was written is then no whole stream.
pub fn unpack_tar(
    volume: &Volume,
    target: Option<&Path>,
    progress: Progress<'_>,
) -> Result<Tally, PackError> {
    let named = target.unwrap_or(Path::new("standard output"));
    let unwritable = |error: io::Error| PackError::io("write", named, &error);
    let tree = emit::Tree::read(volume)?;
    let file = match target {
        Some(path) => File::create_new(path).map_err(unwritable)?,
        None => File::from(
            rustix::stdio::stdout()
                .try_clone_to_owned()
                .map_err(unwritable)?,
        ),
    };
    with_meter(progress, |meter| {
        let mut out = io::BufWriter::with_capacity(1 << 20, file);
        let tally = emit::emit(volume, &tree, &mut out, named, meter)?;
        out.flush().map_err(unwritable)?;
        Ok(tally)
    })
}

/// Runs `work` on one thread beside the observer.
fn with_meter(
    progress: Progress<'_>,
    work: impl FnOnce(&Meter) -> Result<Tally, PackError> + Send,
) -> Result<Tally, PackError> {
    let meter = Meter::default();
    let work = std::sync::Mutex::new((Some(work), None));
    meter.watch(
        1,
        &|| {
            if let Ok(mut slot) = work.lock()
                && let Some(run) = slot.0.take()
            {
                slot.1 = Some(run(&meter));
            }
        },
        progress,
    );
    match work.into_inner() {
        Ok((_, Some(Err(_)))) if meter.stopped() => Err(PackError::Cancelled),
        Ok((_, Some(outcome))) => outcome,
        _ => Err(PackError::Cancelled),
    }
}

/// A file or pipe whose reader notices that it is to stop, also while nothing comes.
struct Polled<'a> {
    file: File,
    meter: &'a Meter,
}

impl Read for Polled<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let pause = Timespec {
            tv_sec: 0,
            tv_nsec: 200_000_000,
        };
        loop {
            if self.meter.stopped() {
                return Err(io::Error::other("stopped"));
            }
            let mut wanted = [PollFd::from_borrowed_fd(self.file.as_fd(), PollFlags::IN)];
            match poll(&mut wanted, Some(&pause)) {
                Ok(0) | Err(rustix::io::Errno::INTR) => {}
                Ok(_) => return self.file.read(buf),
                Err(errno) => return Err(errno.into()),
            }
        }
    }
}
