//! Slots in segments: where the next chunk goes, what is dead, what may be reused.
//!
//! Only segments of this mount's epoch are written; slots of older epochs only die. A slot is freed when the commit
//! that no longer references it is anchored, never before.

use std::collections::{BTreeMap, BTreeSet};

use crate::error::VolumeError;
use crate::ops::SegmentKind;
use crate::types::Ino;

/// Bytes of a segment of chunks, and of a pack.
const SEGMENT_BYTES: u64 = 64 << 20;
const PACK_BYTES: u64 = 32 << 20;
/// Unit of slots in packs, in bytes.
pub const PACK_UNIT: u64 = 64;
/// Files of at least this size get segments of their own.
const OWN_FROM: u64 = 4 << 20;

/// A segment is emptied when more than this part of it is dead.
const DEAD_SHARE: u64 = 8;

/// One segment.
pub struct Segment {
    pub epoch: u32,
    pub kind: SegmentKind,
    /// Slots in use.
    live: u32,
    live_bytes: u64,
    /// Next never used slot (units of the kind).
    next: u32,
    /// Slots that may be used again.
    free: BTreeSet<u32>,
    owner: Ino,
}

/// Which of the segments that are being filled for an owner: what two threads write at once goes to two of them, since
/// file systems let one thread at a time write to a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Lane {
    First,
    Second,
}

/// A run of slots in one segment, `count` of them, consecutive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    pub segment: u32,
    pub slot: u32,
    pub count: u32,
}

/// A dead slot: segment, slot and the plain bytes it held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dead {
    pub segment: u32,
    pub slot: u32,
    pub bytes: u32,
}

/// All segments of a volume.
pub struct Segments {
    table: BTreeMap<u32, Segment>,
    epoch: u32,
    chunk_size: u32,
    next_id: u32,
    /// The segment being filled, per kind, owner (0: shared) and lane.
    current: BTreeMap<(u8, Ino, Lane), u32>,
    /// Segments with slots to use again, per owner.
    reusable: BTreeSet<(Ino, u32)>,
    /// Made since the last capture.
    created: Vec<u32>,
}

impl Segments {
    pub fn new(epoch: u32, chunk_size: u32) -> Self {
        Self {
            table: BTreeMap::new(),
            epoch,
            chunk_size,
            next_id: 1,
            current: BTreeMap::new(),
            reusable: BTreeSet::new(),
            created: Vec::new(),
        }
    }

    /// Adds a segment read from a record or snapshot.
    pub fn load(&mut self, id: u32, epoch: u32, kind: SegmentKind) {
        let segment = Segment {
            epoch,
            kind,
            live: 0,
            live_bytes: 0,
            next: 0,
            free: BTreeSet::new(),
            owner: 0,
        };
        self.table.insert(id, segment);
        self.reserve_ids(id.saturating_add(1));
    }

    /// Numbers below `next` are never given out again.
    pub fn reserve_ids(&mut self, next: u32) {
        self.next_id = self.next_id.max(next);
    }

    pub fn next_id(&self) -> u32 {
        self.next_id
    }

    pub fn get(&self, id: u32) -> Option<&Segment> {
        self.table.get(&id)
    }

    /// Epoch, and offset in bytes of a slot.
    pub fn locate(&self, id: u32, slot: u32) -> Option<(u32, u64)> {
        let segment = self.table.get(&id)?;
        Some((segment.epoch, u64::from(slot) * self.unit(segment.kind)))
    }

    fn unit(&self, kind: SegmentKind) -> u64 {
        match kind {
            SegmentKind::Chunks => u64::from(self.chunk_size),
            SegmentKind::Pack => PACK_UNIT,
        }
    }

    /// Counts a referenced slot of a loaded segment.
    pub fn count_live(&mut self, id: u32, slot: u32, bytes: u32) -> bool {
        let unit = self.table.get(&id).map(|segment| self.unit(segment.kind));
        let (Some(segment), Some(unit)) = (self.table.get_mut(&id), unit) else {
            return false;
        };
        segment.live += 1;
        segment.live_bytes += u64::from(bytes);
        let end = u64::from(slot) + u64::from(bytes).div_ceil(unit);
        segment.next = segment.next.max(u32::try_from(end).unwrap_or(u32::MAX));
        true
    }

    /// Slots for up to `wanted` full chunks of a file of `file_size` bytes; at least one, consecutive.
    pub fn allocate_chunks(
        &mut self,
        ino: Ino,
        file_size: u64,
        wanted: u32,
        lane: Lane,
    ) -> Result<Run, VolumeError> {
        let owner = if file_size >= OWN_FROM { ino } else { 0 };
        let slots = u32::try_from((SEGMENT_BYTES / u64::from(self.chunk_size)).max(1)).unwrap_or(1);
        let reused = self
            .reusable
            .range((owner, 0)..=(owner, u32::MAX))
            .next()
            .copied();
        if let Some((_, id)) = reused
            && let Some(run) = self.take_free(id, owner, wanted)
        {
            return Ok(run);
        }
        let id = self.current_segment((SegmentKind::Chunks, owner, lane), slots, 1)?;
        let chunk_size = self.chunk_size;
        let segment = self.table.get_mut(&id).ok_or(VolumeError::TooBig)?;
        let count = wanted.min(slots - segment.next);
        let run = Run {
            segment: id,
            slot: segment.next,
            count,
        };
        segment.next += count;
        segment.live += count;
        segment.live_bytes += u64::from(count) * u64::from(chunk_size);
        Ok(run)
    }

    fn take_free(&mut self, id: u32, owner: Ino, wanted: u32) -> Option<Run> {
        let chunk_size = self.chunk_size;
        let segment = self.table.get_mut(&id)?;
        let slot = segment.free.pop_first()?;
        let mut count = 1;
        while count < wanted && segment.free.remove(&(slot + count)) {
            count += 1;
        }
        segment.live += count;
        segment.live_bytes += u64::from(count) * u64::from(chunk_size);
        if segment.free.is_empty() {
            self.reusable.remove(&(owner, id));
        }
        Some(Run {
            segment: id,
            slot,
            count,
        })
    }

    /// Room for one short chunk.
    pub fn allocate_short(&mut self, bytes: u32) -> Result<Run, VolumeError> {
        let units =
            u32::try_from(u64::from(bytes).div_ceil(PACK_UNIT)).map_err(|_| VolumeError::TooBig)?;
        let limit = u32::try_from(PACK_BYTES / PACK_UNIT).unwrap_or(u32::MAX);
        let id = self.current_segment((SegmentKind::Pack, 0, Lane::First), limit, units)?;
        let segment = self.table.get_mut(&id).ok_or(VolumeError::TooBig)?;
        let run = Run {
            segment: id,
            slot: segment.next,
            count: 1,
        };
        segment.next += units;
        segment.live += 1;
        segment.live_bytes += u64::from(bytes);
        Ok(run)
    }

    fn current_segment(
        &mut self,
        (kind, owner, lane): (SegmentKind, Ino, Lane),
        limit: u32,
        need: u32,
    ) -> Result<u32, VolumeError> {
        let key = (kind as u8, owner, lane);
        if let Some(id) = self.current.get(&key)
            && self
                .table
                .get(id)
                .is_some_and(|segment| segment.next.saturating_add(need) <= limit)
        {
            return Ok(*id);
        }
        let id = self.next_id;
        self.next_id = id.checked_add(1).ok_or(VolumeError::TooBig)?;
        self.load(id, self.epoch, kind);
        if let Some(segment) = self.table.get_mut(&id) {
            segment.owner = owner;
        }
        self.created.push(id);
        self.current.insert(key, id);
        Ok(id)
    }

    /// Segments made since the last call.
    pub fn take_created(&mut self) -> Vec<u32> {
        std::mem::take(&mut self.created)
    }

    /// Takes back what `take_created` gave: their record was not written.
    pub fn restore_created(&mut self, ids: &[u32]) {
        self.created.extend_from_slice(ids);
    }

    /// Frees a slot that no anchored state references. Returns the segment's path when nothing lives in it any more.
    pub fn free(&mut self, dead: Dead) -> Option<String> {
        let segment = self.table.get_mut(&dead.segment)?;
        segment.live = segment.live.saturating_sub(1);
        segment.live_bytes = segment.live_bytes.saturating_sub(u64::from(dead.bytes));
        if segment.live == 0 && !self.created.contains(&dead.segment) {
            let owner = segment.owner;
            let path = path(segment.epoch, dead.segment);
            self.table.remove(&dead.segment);
            self.reusable.remove(&(owner, dead.segment));
            self.current.retain(|_, id| *id != dead.segment);
            return Some(path);
        }
        if segment.epoch == self.epoch && segment.kind == SegmentKind::Chunks {
            segment.free.insert(dead.slot);
            self.reusable.insert((segment.owner, dead.segment));
        }
        None
    }

    /// Removes loaded segments that nothing references; returns their paths.
    pub fn drop_unreferenced(&mut self) -> Vec<String> {
        let dead = self.table.iter().filter(|(_, segment)| segment.live == 0);
        let paths = dead.map(|(id, segment)| path(segment.epoch, *id)).collect();
        self.table.retain(|_, segment| segment.live > 0);
        paths
    }

    /// All segments.
    pub fn iter(&self) -> impl Iterator<Item = (u32, &Segment)> {
        self.table.iter().map(|(id, segment)| (*id, segment))
    }

    /// Segments that are worth emptying: of earlier epochs, or full packs of this one, with an eighth dead or more.
    /// Free slots of this epoch's other segments are used again anyway.
    pub fn wasteful(&self) -> BTreeSet<u32> {
        let filled = |id: u32| !self.current.values().any(|current| *current == id);
        let movable = |(id, segment): &(&u32, &Segment)| {
            segment.epoch != self.epoch || (segment.kind == SegmentKind::Pack && filled(**id))
        };
        let wasted = |(_, segment): &(&u32, &Segment)| {
            let used = u64::from(segment.next) * self.unit(segment.kind);
            used.saturating_sub(segment.live_bytes) > used / DEAD_SHARE
        };
        let chosen = self.table.iter().filter(movable).filter(wasted);
        chosen.map(|(id, _)| *id).collect()
    }

    /// Segments of epochs before this one.
    pub fn before(&self, epoch: u32) -> BTreeSet<u32> {
        let older = self.table.iter().filter(|(_, one)| one.epoch < epoch);
        older.map(|(id, _)| *id).collect()
    }

    /// Bytes of slots that were not given back.
    pub fn live_bytes(&self) -> u64 {
        let live = self.table.values().map(|segment| segment.live_bytes);
        live.fold(0, u64::saturating_add)
    }

    /// Bytes of slots that nothing references.
    pub fn dead_bytes(&self) -> u64 {
        let used = |segment: &Segment| u64::from(segment.next) * self.unit(segment.kind);
        self.table
            .values()
            .map(|segment| used(segment).saturating_sub(segment.live_bytes))
            .sum()
    }
}

/// The store's name of a segment.
pub fn path(epoch: u32, segment: u32) -> String {
    format!("data/{epoch:08x}/{segment:08x}")
}
