//! Capturing: one consistent cut of everything that changed, as the payload of records or as a snapshot.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::chunkmap::Entry;
use crate::content::View;
use crate::error::VolumeError;
use crate::inode::Node;
use crate::ops::{MAP_RUN_MAX, Op, encode_name};
use crate::segment::Dead;
use crate::snapshot;
use crate::tree::Tree;
use crate::types::Ino;
use crate::volume::{Pending, Result, Volume};

/// Bytes after which the payload of a commit goes on in another record.
const PART_TARGET: usize = 2 << 20;

/// Content inside inodes that one commit may add, in bytes; with more, its small files go into packs. A few small
/// files are durable with one write; many would fill the memory, where inodes stay while the volume is open.
const INLINE_COMMIT_MAX: usize = 64 << 10;

/// A cut of the state. Until it is durable, `Volume::restore` can put everything back.
pub(crate) struct Captured {
    /// Payloads of the records.
    pub parts: Vec<Vec<u8>>,
    /// Instead of `parts`: the whole state.
    pub snapshot: Option<Pages>,
    pub superseded: Vec<Dead>,
    pub unsynced: BTreeSet<u32>,
    pub created: Vec<u32>,
    nodes: BTreeSet<Ino>,
    names: BTreeSet<(Ino, Arc<[u8]>)>,
    /// Write a record even when nothing changed.
    pub forced: bool,
    /// Chunk entries that were written, per file.
    maps: Vec<(Arc<Node>, BTreeSet<u64>, Option<u64>)>,
}

/// A snapshot as it goes to the store, and the payload of its record.
pub(crate) struct Pages {
    pub seq: u64,
    pub bytes: Vec<u8>,
    pub record: Vec<u8>,
}

impl Pending {
    pub(crate) fn is_clean(&self) -> bool {
        self.nodes.is_empty() && self.names.is_empty()
    }
}

impl Captured {
    pub(crate) fn is_empty(&self) -> bool {
        !self.forced && self.nodes.is_empty() && self.names.is_empty() && self.snapshot.is_none()
    }

    /// Puts an operation before all others; there will be a record even when nothing else changed.
    pub(crate) fn put_first(&mut self, op: &Op) {
        self.forced = true;
        let mut first = Vec::new();
        op.encode(&mut first);
        if let Some(part) = self.parts.first_mut() {
            first.append(part);
            *part = first;
        }
    }
}

impl Volume {
    /// Takes everything that changed; with `snapshot` (the sequence of its record) also the whole state.
    pub(crate) fn capture(&self, snapshot: Option<u64>) -> Result<Captured> {
        let tree = self.tree.read();
        let mut captured = {
            let mut pending = self.pending.lock();
            Captured {
                parts: vec![Vec::new()],
                snapshot: None,
                superseded: std::mem::take(&mut pending.superseded),
                unsynced: BTreeSet::new(),
                created: Vec::new(),
                nodes: std::mem::take(&mut pending.nodes),
                names: std::mem::take(&mut pending.names),
                forced: false,
                maps: Vec::new(),
            }
        };
        let result = self.encode_changes(&tree, &mut captured).and_then(|()| {
            captured.created = self.segments.lock().take_created();
            for id in &captured.created {
                if let Some(op) = self.segment_op(*id) {
                    op.encode(captured.parts.last_mut().ok_or(VolumeError::TooBig)?);
                }
            }
            if let Some(seq) = snapshot {
                captured.snapshot = Some(self.encode_state(&tree, seq, &mut captured)?);
            }
            Ok(())
        });
        captured.unsynced = std::mem::take(&mut self.pending.lock().unsynced);
        match result {
            Ok(()) => Ok(captured),
            Err(error) => {
                self.restore(captured);
                Err(error)
            }
        }
    }

    /// Puts a cut back that did not become durable.
    pub(crate) fn restore(&self, captured: Captured) {
        for (node, changed, cut) in captured.maps {
            let mut content = node.data.write();
            let mut data = content.change();
            data.changed.extend(changed);
            data.cut = data.cut.into_iter().chain(cut).min();
        }
        self.segments.lock().restore_created(&captured.created);
        let mut pending = self.pending.lock();
        pending.nodes.extend(captured.nodes);
        pending.names.extend(captured.names);
        pending.superseded.extend(captured.superseded);
        pending.unsynced.extend(captured.unsynced);
    }

    fn segment_op(&self, id: u32) -> Option<Op> {
        let segments = self.segments.lock();
        segments.get(id).map(|segment| Op::Segment {
            id,
            epoch: segment.epoch,
            kind: segment.kind,
        })
    }

    fn encode_changes(&self, tree: &Tree, captured: &mut Captured) -> Result<()> {
        let version = self.keys.newest().version;
        let inos: Vec<Ino> = captured.nodes.iter().copied().collect();
        let bulk = inline_bytes(tree, &inos) > INLINE_COMMIT_MAX;
        for ino in inos {
            let Some(node) = tree.nodes.get(ino) else {
                emit(&mut captured.parts, |out| Op::InodeGone(ino).encode(out));
                continue;
            };
            let mut content = node.data.write();
            let mut data = content.change();
            if bulk {
                self.leave_inline(node, &mut data);
            }
            self.flush(node, &mut data)?;
            emit(&mut captured.parts, |out| {
                let record = node.to_record(View::Open(&data), version);
                Op::Inode(Box::new(record)).encode(out);
            });
            let changed = std::mem::take(&mut data.changed);
            let cut = data.cut.take();
            if let Some(from) = cut {
                emit(&mut captured.parts, |out| {
                    Op::MapCut { ino, from }.encode(out);
                });
            }
            map_runs(View::Open(&data), ino, changed.iter().copied(), |op| {
                emit(&mut captured.parts, |out| op.encode(out));
                Ok(())
            })?;
            if cut.is_some() || !changed.is_empty() {
                captured.maps.push((Arc::clone(node), changed, cut));
            }
            if node.opens() == 0 {
                self.hot.forget(ino);
            }
        }
        for (parent, name) in &captured.names {
            let Some(dir) = tree.dirs.get(parent) else {
                continue;
            };
            match dir.get(name) {
                Some(ino) => emit(&mut captured.parts, |out| {
                    encode_name(out, *parent, name, ino);
                }),
                None => emit(&mut captured.parts, |out| {
                    Op::NameGone {
                        parent: *parent,
                        name: name.to_vec(),
                    }
                    .encode(out);
                }),
            }
        }
        Ok(())
    }

    /// The whole state. Files that changed again since their capture are flushed again, so each is whole.
    fn encode_state(&self, tree: &Tree, seq: u64, captured: &mut Captured) -> Result<Pages> {
        let mut writer = snapshot::Writer::new(&self.keys, &self.nonces, seq);
        let version = self.keys.newest().version;
        for node in tree.nodes.iter() {
            let ino = node.ino;
            let mut content = node.data.write();
            if content.view().is_waiting() {
                self.flush(node, &mut content.change())?;
            }
            let view = content.view();
            writer.add(ino, |out| {
                Op::Inode(Box::new(node.to_record(view, version))).encode(out);
            })?;
            let indices = view.entries().map(|(index, _)| index);
            map_runs(view, ino, indices, |op| {
                writer.add(ino, |out| op.encode(out))
            })?;
            let names = tree.dirs.get(&ino).into_iter().flat_map(|dir| dir.after(0));
            for (_, name, child) in names {
                writer.add(ino, |out| encode_name(out, ino, name, child))?;
            }
        }
        captured.created.extend(self.segments.lock().take_created());
        let (next_segment, table) = {
            let segments = self.segments.lock();
            let op = |(id, segment): (u32, &crate::segment::Segment)| Op::Segment {
                id,
                epoch: segment.epoch,
                kind: segment.kind,
            };
            (
                segments.next_id(),
                segments.iter().map(op).collect::<Vec<_>>(),
            )
        };
        for op in table {
            writer.add(Ino::MAX, |out| op.encode(out))?;
        }
        let (root, bytes) = writer.finish()?;
        let mut record = Vec::new();
        let epoch = self.nonces.epoch;
        let (chunk_size, next_ino) = (self.chunk_size, tree.next_ino);
        Op::Snapshot {
            epoch,
            seq,
            chunk_size,
            root,
            next_ino,
            next_segment,
        }
        .encode(&mut record);
        Ok(Pages { seq, bytes, record })
    }
}

/// Bytes of content inside these inodes.
fn inline_bytes(tree: &Tree, inos: &[Ino]) -> usize {
    let nodes = inos.iter().filter_map(|ino| tree.nodes.get(*ino));
    nodes
        .map(|node| node.data.read().view().inline().map_or(0, <[u8]>::len))
        .sum()
}

/// Appends one operation to the last part, or to a new one when that is full.
fn emit(parts: &mut Vec<Vec<u8>>, encode: impl FnOnce(&mut Vec<u8>)) {
    if parts.last().is_none_or(|part| part.len() >= PART_TARGET) {
        parts.push(Vec::new());
    }
    if let Some(part) = parts.last_mut() {
        encode(part);
    }
}

/// Hands the entries of `indices` (ascending) to `sink` in runs.
fn map_runs(
    data: View<'_>,
    ino: Ino,
    indices: impl Iterator<Item = u64>,
    mut sink: impl FnMut(&Op) -> Result<()>,
) -> Result<()> {
    let mut first = 0;
    let mut entries: Vec<Entry> = Vec::new();
    for index in indices {
        let follows = index == first + entries.len() as u64;
        if (!follows || entries.len() == MAP_RUN_MAX) && !entries.is_empty() {
            let entries = std::mem::take(&mut entries);
            sink(&Op::MapSet {
                ino,
                first,
                entries,
            })?;
        }
        if entries.is_empty() {
            first = index;
        }
        entries.push(data.entry(index).unwrap_or_default());
    }
    if entries.is_empty() {
        return Ok(());
    }
    sink(&Op::MapSet {
        ino,
        first,
        entries,
    })
}
