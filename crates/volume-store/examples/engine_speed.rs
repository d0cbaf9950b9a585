//! Speed of the engine over a directory: `engine_speed DIRECTORY [MIB]`. Give a directory in memory (tmpfs) to see
//! the engine, one on a disk to see the disk. Prints one line per figure.
#![allow(
    clippy::unwrap_used,
    clippy::cast_precision_loss,
    clippy::indexing_slicing
)]

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use securetf_volume_store::open_directory;
use volume::{
    Anchor, AnchorError, Freshness, Grant, Ino, NodeKind, Position, Protection, ROOT_INO, Volume,
    VolumeKey,
};

/// An anchor in this process: the figures are without a CAS.
#[derive(Default)]
struct LocalAnchor(Mutex<(u32, Position)>);

impl Anchor for LocalAnchor {
    fn advance(&self, _: u32, from: Position, to: Position) -> Result<(), AnchorError> {
        let mut state = self.0.lock().unwrap();
        if from != state.1 {
            return Err(AnchorError::Conflict);
        }
        state.1 = to;
        Ok(())
    }
}

fn open(dir: &Path, anchor: &Arc<LocalAnchor>, writable: bool) -> Arc<Volume> {
    let mut state = anchor.0.lock().unwrap();
    state.0 += u32::from(writable);
    let (epoch, (seq, root)) = *state;
    drop(state);
    let key = VolumeKey::new([7; 32]);
    let grant = Grant {
        volume_id: [1; 16],
        key,
        key_version: 1,
        key_since: 0,
        older_key: None,
        kept_since: 0,
        epoch,
        seq,
        root,
        writable,
        chunk_size: 65536,
        protection: Protection::Encrypted,
    };
    let freshness = if writable {
        Freshness::Group
    } else {
        Freshness::Pinned
    };
    open_directory(
        dir,
        Some(Arc::clone(anchor) as Arc<dyn Anchor>),
        grant,
        freshness,
    )
    .unwrap()
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    let parent = PathBuf::from(arguments.next().expect("engine_speed DIRECTORY [MIB]"));
    let mib: u64 = arguments.next().map_or(1024, |text| text.parse().unwrap());
    let dir = parent.join("engine-speed-volume");
    assert!(!dir.exists(), "{} exists", dir.display());
    let anchor = Arc::new(LocalAnchor::default());
    let step = vec![0x5a; 1 << 20];
    plain(&parent, mib, &step);
    let volume = open(&dir, &anchor, true);
    let file = write_big(&volume, mib, &step);
    create_small(&volume, &step);
    sync_often(&volume, file, &step);
    volume.close().unwrap();
    drop(volume);
    let start = Instant::now();
    let volume = open(&dir, &anchor, false);
    report("open", 1.0, "/s", start.elapsed());
    read_big(&volume, file, mib);
    println!("{:?}", volume.status());
    drop(volume);
    std::fs::remove_dir_all(&dir).unwrap();
}

fn write_big(volume: &Volume, mib: u64, step: &[u8]) -> Ino {
    let file = volume
        .make_node(ROOT_INO, b"big", NodeKind::File, 0o644, 0, 0)
        .unwrap()
        .ino;
    for pass in ["write", "rewrite"] {
        let start = Instant::now();
        for at in 0..mib {
            volume.write(file, at << 20, step).unwrap();
        }
        volume.sync(None).unwrap();
        report(
            &format!("{pass} and commit"),
            mib as f64 * 1.048_576,
            "MB/s",
            start.elapsed(),
        );
    }
    file
}

fn create_small(volume: &Volume, step: &[u8]) {
    let start = Instant::now();
    for number in 0..10_000_u32 {
        let name = format!("small-{number}");
        let ino = volume
            .make_node(ROOT_INO, name.as_bytes(), NodeKind::File, 0o644, 0, 0)
            .unwrap()
            .ino;
        volume.write(ino, 0, &step[..4096]).unwrap();
    }
    volume.sync(None).unwrap();
    report(
        "create files of 4 KiB, and commit",
        10_000.0,
        "/s",
        start.elapsed(),
    );
}

fn sync_often(volume: &Volume, file: Ino, step: &[u8]) {
    for threads in [1, 16] {
        let start = Instant::now();
        std::thread::scope(|scope| {
            for thread in 0..threads {
                scope.spawn(move || {
                    for number in 0..200_u64 {
                        volume
                            .write(file, (thread * 200 + number) * 4096, &step[..4096])
                            .unwrap();
                        volume.sync(None).unwrap();
                    }
                });
            }
        });
        report(
            &format!("write 4 KiB and fsync, {threads} threads"),
            threads as f64 * 200.0,
            "/s",
            start.elapsed(),
        );
    }
}

fn read_big(volume: &Volume, file: Ino, mib: u64) {
    let buffer = vec![0; 1 << 20];
    for threads in [1, 2] {
        let start = Instant::now();
        std::thread::scope(|scope| {
            for thread in 0..threads {
                let mut buffer = buffer.clone();
                scope.spawn(move || {
                    for at in (thread..mib).step_by(usize::try_from(threads).unwrap()) {
                        assert_eq!(volume.read(file, at << 20, &mut buffer).unwrap(), 1 << 20);
                    }
                });
            }
        });
        report(
            &format!("read, {threads} threads"),
            mib as f64 * 1.048_576,
            "MB/s",
            start.elapsed(),
        );
    }
    let mut buffer = vec![0; 4096];
    let start = Instant::now();
    volume.open_file(file).unwrap();
    for number in 0..20_000_u64 {
        let at = number.wrapping_mul(2_654_435_761) % ((mib << 20) / 4096) * 4096;
        volume.read(file, at, &mut buffer).unwrap();
    }
    volume.release(file);
    report("random read of 4 KiB", 20_000.0, "/s", start.elapsed());
}

fn report(what: &str, amount: f64, unit: &str, took: std::time::Duration) {
    println!(
        "{what}: {:.0} {unit} ({:.3} s wall, {:.2} s CPU)",
        amount / took.as_secs_f64(),
        took.as_secs_f64(),
        cpu()
    );
}

/// Processor seconds of this process since the last call.
fn cpu() -> f64 {
    static BEFORE: Mutex<f64> = Mutex::new(0.0);
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat
        .rsplit(')')
        .next()
        .unwrap()
        .split_whitespace()
        .collect();
    let ticks: f64 = fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap();
    let mut before = BEFORE.lock().unwrap();
    let spent = ticks / 100.0 - *before;
    *before = ticks / 100.0;
    spent
}

/// What the same bytes cost without the engine.
fn plain(dir: &Path, mib: u64, step: &[u8]) {
    use std::os::unix::fs::FileExt;
    let path = dir.join("engine-speed-plain");
    let file = std::fs::File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .open(&path)
        .unwrap();
    let start = Instant::now();
    for at in 0..mib {
        file.write_all_at(step, at << 20).unwrap();
    }
    file.sync_data().unwrap();
    report(
        "plain file: write and fdatasync",
        mib as f64 * 1.048_576,
        "MB/s",
        start.elapsed(),
    );
    let mut buffer = vec![0; 1 << 20];
    let start = Instant::now();
    for at in 0..mib {
        file.read_exact_at(&mut buffer, at << 20).unwrap();
    }
    report(
        "plain file: read",
        mib as f64 * 1.048_576,
        "MB/s",
        start.elapsed(),
    );
    std::fs::remove_file(path).unwrap();
}
