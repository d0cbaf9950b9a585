//! kill -9 of a process that writes a volume, again and again: nothing acknowledged is lost, nothing torn is visible,
//! the volume opens each time, and nothing is called an attack.
//!
//! `SECURETF_KILLS=1000` gives the number of kills. In every fourth round, the process is not killed but may write
//! files up to some size only, so that the kernel cuts a write short and refuses the next one.
#![allow(
    missing_docs,
    clippy::pedantic,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stdout
)]

extern crate volume as securetf_volume;

#[path = "../../volume/tests/support/mod.rs"]
mod support;

use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use securetf_volume_store::open_directory;
use support::Rng;
use support::model::{self, Model, Op, View};
use support::program::random_op;
use volume::{
    Anchor, AnchorError, Freshness, Grant, Position, Protection, Volume, VolumeError, VolumeKey,
};

const STEP_OPS: usize = 4;
const PATIENCE: Duration = Duration::from_secs(60);

/// A local trust file: epoch, sequence and root in one line, replaced as a whole.
struct FileAnchor(PathBuf);

impl FileAnchor {
    fn read(&self) -> (u32, Position) {
        let Ok(text) = std::fs::read_to_string(&self.0) else {
            return (0, (0, [0; 32]));
        };
        let words: Vec<&str> = text.split(' ').collect();
        let mut root = [0; 32];
        for (at, byte) in root.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&words[2][at * 2..at * 2 + 2], 16).unwrap();
        }
        (words[0].parse().unwrap(), (words[1].parse().unwrap(), root))
    }

    fn write(&self, epoch: u32, (seq, root): Position) -> std::io::Result<()> {
        let hex: String = root.iter().map(|byte| format!("{byte:02x}")).collect();
        let new = self.0.with_extension("new");
        std::fs::write(&new, format!("{epoch} {seq} {hex}"))?;
        std::fs::rename(&new, &self.0)
    }

    fn grant(&self, writable: bool) -> Grant {
        let (mut epoch, (seq, root)) = self.read();
        if writable {
            epoch += 1;
            self.write(epoch, (seq, root)).unwrap();
        }
        Grant {
            volume_id: [1; 16],
            key: VolumeKey::new([7; 32]),
            key_version: 1,
            key_since: 0,
            older_key: None,
            kept_since: 0,
            epoch,
            seq,
            root,
            writable,
            chunk_size: 4096,
            protection: Protection::Encrypted,
        }
    }
}

impl Anchor for FileAnchor {
    fn advance(&self, epoch: u32, from: Position, to: Position) -> Result<(), AnchorError> {
        let (current, position) = self.read();
        if current != epoch {
            return Err(AnchorError::Fenced);
        }
        if position != from {
            return Err(AnchorError::Conflict);
        }
        self.write(epoch, to)
            .map_err(|error| AnchorError::Refused(error.to_string()))
    }
}

fn open(area: &Path, writable: bool) -> Result<Arc<Volume>, VolumeError> {
    let anchor = Arc::new(FileAnchor(area.join("anchor")));
    let grant = anchor.grant(writable);
    let freshness = if writable {
        Freshness::Group
    } else {
        Freshness::Pinned
    };
    open_directory(&area.join("v"), Some(anchor), grant, freshness)
}

/// What one step does; the same in both processes.
fn step_ops(seed: u64, step: u64) -> Vec<Op> {
    let mut rng = Rng(seed ^ step.wrapping_mul(0x9e37_79b9));
    (0..STEP_OPS).map(|_| random_op(&mut rng)).collect()
}

fn digest(view: &View) -> u64 {
    let mut hasher = DefaultHasher::new();
    format!("{view:?}").hash(&mut hasher);
    hasher.finish()
}

fn number(name: &str) -> u64 {
    std::env::var(name)
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(0)
}

/// Not a test: the process that is killed. Says the state that it found, then each step that is safe.
#[test]
#[ignore = "a process of the test below"]
fn writer() {
    let Ok(area) = std::env::var("KILLED_AREA") else {
        return;
    };
    let (seed, start) = (number("KILLED_SEED"), number("KILLED_START"));
    let failed = |error: VolumeError| -> ! {
        println!("\nfailed {}", error.kind());
        std::process::exit(3)
    };
    let volume = open(Path::new(&area), true).unwrap_or_else(|error| failed(error));
    let view = model::view(&volume).unwrap_or_else(|error| failed(error));
    println!("\nstate {}", digest(&view));
    for step in start.. {
        for op in step_ops(seed, step) {
            match model::apply(&volume, &op) {
                Err(error @ (VolumeError::Io(_) | VolumeError::NoSpace)) => failed(error),
                Err(error @ (VolumeError::Integrity { .. } | VolumeError::Anchor(_))) => {
                    failed(error)
                }
                _ => {}
            }
        }
        volume.sync(None).unwrap_or_else(|error| failed(error));
        println!("\nack {step}");
    }
}

/// A writer under way, and the lines that it says.
struct Writer {
    process: Child,
    lines: Receiver<String>,
    said: Vec<String>,
}

impl Writer {
    /// `limit`: blocks of 512 bytes that a file of it may have; beyond it, write(2) is cut short, then fails (EFBIG).
    fn start(area: &Path, seed: u64, start: u64, limit: Option<u64>) -> Self {
        let this = std::env::current_exe().unwrap();
        let arguments = ["writer", "--exact", "--ignored", "--nocapture"];
        let mut command = match limit {
            None => Command::new(this),
            Some(blocks) => {
                let mut shell = Command::new("/bin/sh");
                shell.args(["-c", "trap '' XFSZ; ulimit -f \"$0\"; exec \"$@\""]);
                shell.arg(blocks.to_string()).arg(this);
                shell
            }
        };
        let mut process = command
            .args(arguments)
            .env("KILLED_AREA", area)
            .env("KILLED_SEED", seed.to_string())
            .env("KILLED_START", start.to_string())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let output = BufReader::new(process.stdout.take().unwrap());
        let (say, lines) = channel();
        std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                let _ = say.send(line);
            }
        });
        Self {
            process,
            lines,
            said: Vec::new(),
        }
    }

    /// Waits until it writes, or has ended.
    fn wait_until_it_writes(&mut self) {
        while let Ok(line) = self.lines.recv_timeout(PATIENCE) {
            let begins = line.starts_with("state ");
            self.said.push(line);
            if begins {
                return;
            }
        }
    }

    /// Waits for the end and returns all that was said.
    fn end(mut self) -> Vec<String> {
        let deadline = Instant::now() + PATIENCE;
        while self.process.try_wait().unwrap().is_none() {
            assert!(Instant::now() < deadline, "the writer does not end");
            std::thread::sleep(Duration::from_millis(1));
        }
        self.said.extend(self.lines.iter());
        self.said
    }
}

/// What may be in the volume, and what was seen so far.
struct Scene {
    seed: u64,
    next: u64,
    possible: Vec<Model>,
    acknowledged: u64,
    verified: u64,
    early: u64,
    refused: u64,
}

impl Scene {
    /// Follows what a writer said: each state is one that may be there, each acknowledged step is in it.
    fn follow(&mut self, lines: &[String]) {
        let words = |line: &String| {
            let (what, number) = line.split_once(' ')?;
            Some((what.to_owned(), number.to_owned()))
        };
        let mut begun = false;
        for (what, value) in lines.iter().filter_map(words) {
            match what.as_str() {
                "state" => {
                    let found = value.parse().unwrap();
                    self.possible.retain(|model| digest(&model.view()) == found);
                    assert!(!self.possible.is_empty(), "lost or torn: {lines:?}");
                    self.possible.truncate(1); // they look the same, and so will all that follows
                    (self.verified, begun) = (self.verified + 1, true);
                }
                "ack" => {
                    assert_eq!(value, self.next.to_string());
                    for op in step_ops(self.seed, self.next) {
                        let _ = self.possible[0].apply(&op);
                    }
                    (self.next, self.acknowledged) = (self.next + 1, self.acknowledged + 1);
                }
                "failed" => {
                    assert!(
                        ["VolumeIoError", "CasRefusedError"].contains(&value.as_str()),
                        "alarm: {value}"
                    );
                    self.refused += 1;
                }
                _ => {}
            }
        }
        self.early += u64::from(!begun);
        if begun {
            let mut model = self.possible[0].clone();
            for op in step_ops(self.seed, self.next) {
                self.possible.extend(only_made(&model, &op));
                let _ = model.apply(&op);
                self.possible.push(model.clone());
            }
            self.next += 1;
        }
    }
}

/// A file that is made and then filled is two calls of the engine; a commit of its own may come between them.
fn only_made(model: &Model, op: &Op) -> Option<Model> {
    let (Op::Write { at, .. } | Op::Truncate { at, .. } | Op::Zero { at, .. }) = op else {
        return None;
    };
    if model.view().contains_key(&model::join(&at.0, &at.1)) {
        return None;
    }
    let mut made = model.clone();
    let empty = Op::Truncate {
        at: at.clone(),
        size: 0,
    };
    made.apply(&empty).is_ok().then_some(made)
}

#[test]
fn test_a_writer_that_is_killed_at_any_point_loses_nothing_acknowledged_and_raises_no_alarm() {
    let wanted = number("SECURETF_KILLS").max(30);
    let given = number("SECURETF_SEED");
    let seed = if given == 0 {
        u64::from(std::process::id())
    } else {
        given
    };
    println!("SECURETF_SEED={seed}");
    let area = tempfile::tempdir().unwrap();
    drop(open(area.path(), true).unwrap());
    let mut rng = Rng(seed);
    let mut scene = Scene {
        seed,
        next: 1,
        possible: vec![Model::default()],
        acknowledged: 0,
        verified: 0,
        early: 0,
        refused: 0,
    };
    let (mut round, mut kills) = (0, 0);
    while kills < wanted {
        let limit = (round % 4 == 3).then(|| 1 + rng.below(100));
        let mut writer = Writer::start(area.path(), seed, scene.next, limit);
        if rng.below(4) > 0 {
            writer.wait_until_it_writes();
        }
        let pause = [3, 10, 40][rng.below(3) as usize] * 1000;
        std::thread::sleep(Duration::from_micros(rng.below(pause)));
        if limit.is_none() {
            writer.process.kill().unwrap();
            kills += 1;
        }
        let lines = writer.end();
        scene.follow(&lines);
        let reader = open(area.path(), false)
            .unwrap_or_else(|error| panic!("round {round}: false alarm: {error}"));
        assert_eq!(reader.check().unwrap(), [], "round {round}");
        round += 1;
    }
    let last = open(area.path(), true).unwrap();
    let found = model::view(&last).unwrap();
    assert!(scene.possible.iter().any(|model| model.view() == found));
    println!(
        "{round} rounds: {kills} kills, {} ended by writes that the kernel cut short; {} of all before the volume \
         was open; {} acknowledged steps, {} verified starts; none lost, none torn, no alarm",
        scene.refused, scene.early, scene.acknowledged, scene.verified
    );
    assert!(scene.acknowledged > round, "{} steps", scene.acknowledged);
    assert!(scene.verified > round / 3, "{} starts", scene.verified);
}
