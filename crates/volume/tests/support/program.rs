//! Random programs.

use securetf_volume::FileType;

use super::Rng;

/// A path: directory and name. Directory "" is the root.
pub type Place = (String, String);

#[derive(Clone, Debug)]
pub enum Op {
    Write {
        at: Place,
        offset: u64,
        data: Vec<u8>,
    },
    Truncate {
        at: Place,
        size: u64,
    },
    /// Punches a hole (`grow` false) or zeroes a range.
    Zero {
        at: Place,
        offset: u64,
        length: u64,
        grow: bool,
    },
    /// A FIFO, socket or device.
    Special {
        at: Place,
        kind: FileType,
        device: u32,
    },
    Unlink(Place),
    MakeDir(String),
    RemoveDir(String),
    Rename {
        from: Place,
        to: Place,
        exchange: bool,
    },
    Link {
        from: Place,
        to: Place,
    },
    Symlink {
        at: Place,
        target: Vec<u8>,
    },
    Xattr {
        at: Place,
        value: Vec<u8>,
    },
    Mode {
        at: Place,
        mode: u32,
    },
    Compact,
    Sync,
}

pub fn random_op(rng: &mut Rng) -> Op {
    let place = |rng: &mut Rng| {
        let dir = ["", "", "d0", "d1"][rng.below(4) as usize].to_owned();
        (dir, format!("f{}", rng.below(5)))
    };
    match rng.below(29) {
        0..=8 => {
            let size = [10, 700, 3000, 4096, 9000, 20_000][rng.below(6) as usize];
            let length = 1 + rng.below(size) as usize;
            let offset = [0, 0, 100, 4096, 5000, 12_288, 40_000][rng.below(7) as usize];
            let seed = rng.next();
            let data = (0..length)
                .map(|i| (seed.rotate_left((i % 61) as u32) as u8) ^ (i as u8))
                .collect();
            Op::Write {
                at: place(rng),
                offset,
                data,
            }
        }
        9..=11 => Op::Truncate {
            at: place(rng),
            size: [0, 5, 2048, 4096, 4097, 10_000, 30_000][rng.below(7) as usize],
        },
        12..=13 => Op::Unlink(place(rng)),
        14 => Op::MakeDir(format!("d{}", rng.below(2))),
        15 => Op::RemoveDir(format!("d{}", rng.below(2))),
        16..=17 => Op::Rename {
            from: place(rng),
            to: place(rng),
            exchange: rng.below(4) == 0,
        },
        18 => Op::Link {
            from: place(rng),
            to: place(rng),
        },
        19 => Op::Symlink {
            at: place(rng),
            target: format!("../t{}", rng.below(9)).into_bytes(),
        },
        20 => Op::Xattr {
            at: place(rng),
            value: vec![rng.next() as u8; rng.below(200) as usize],
        },
        21 => Op::Mode {
            at: place(rng),
            mode: rng.below(0o1000) as u32,
        },
        22..=24 => Op::Zero {
            at: place(rng),
            offset: [0, 1, 4096, 5000, 8192][rng.below(5) as usize],
            length: [1, 100, 4096, 8192, 30_000][rng.below(5) as usize],
            grow: rng.below(2) == 0,
        },
        25 => {
            let kinds = [
                FileType::Fifo,
                FileType::Socket,
                FileType::CharDevice,
                FileType::BlockDevice,
            ];
            let kind = kinds[rng.below(4) as usize];
            let device = if rng.below(2) == 0 {
                0
            } else {
                rng.next() as u32
            };
            Op::Special {
                at: place(rng),
                kind,
                device,
            }
        }
        26 => Op::Compact,
        _ => Op::Sync,
    }
}
