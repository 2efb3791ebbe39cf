//! The disks of a member: operations are done late, and what was not synced is lost, kept or torn
//! when the process or the power ends.
//!
//! The log's disk writes one batch at a time and syncs with it. The store's disk has several
//! writes out and remembers nothing before a sync; what is written shows in the map at once, in
//! parts.

use std::collections::BTreeMap;
use std::io;
use std::rc::Rc;

use ringd::store::{self, Map, Memory};
use wal::{SegmentId, SegmentSource};

use crate::random::Random;

const SECTOR: usize = 512;
const SPARES_MAX: usize = 2;

/// What an operation has come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Done {
    Done,
    NoSpace,
}

#[derive(Default)]
pub struct LogDisk {
    files: BTreeMap<SegmentId, Vec<u8>>,
    /// Files of segments that have gone, for those to come.
    spares: Vec<Vec<u8>>,
    in_flight: Vec<(wal::OpId, wal::Op)>,
    /// No file can be made.
    pub is_full: bool,
}

impl LogDisk {
    pub fn start(&mut self, id: wal::OpId, op: wal::Op) {
        if matches!(op, wal::Op::Write { .. }) {
            let is_write = |(_, op): &(wal::OpId, wal::Op)| matches!(op, wal::Op::Write { .. });
            assert!(!self.in_flight.iter().any(is_write), "two writes of the log at once");
        }
        self.in_flight.push((id, op));
    }

    pub fn complete(&mut self, id: wal::OpId) -> Done {
        let at = self.in_flight.iter().position(|(other, _)| *other == id);
        let (_, op) = self.in_flight.remove(at.expect("an operation that was started"));
        if self.is_full && matches!(op, wal::Op::Create { .. }) {
            return Done::NoSpace;
        }
        self.apply(op, |_| true);
        Done::Done
    }

    /// The operation does nothing, and says nothing of it.
    pub fn lose(&mut self, id: wal::OpId) {
        self.in_flight.retain(|(other, _)| *other != id);
    }

    /// Of what is in flight, anything may have happened.
    pub fn crash(&mut self, random: &mut Random) {
        for (_, op) in std::mem::take(&mut self.in_flight) {
            match random.below(4) {
                0 => {}
                1 => self.apply(op, |_| true),
                2 => self.apply(op, |_| random.one_in(2)),
                _ => {
                    let lost = random.below(16);
                    self.apply(op, |sector| sector != lost);
                }
            }
        }
    }

    /// `happens` is asked for each sector of a write, once for any other operation.
    fn apply(&mut self, op: wal::Op, mut happens: impl FnMut(u64) -> bool) {
        match op {
            wal::Op::Create { segment, bytes } if happens(0) => {
                let spare = self.spares.iter().position(|spare| spare.len() as u64 == bytes);
                let file = match spare {
                    Some(spare) => self.spares.remove(spare),
                    None => vec![0; bytes as usize],
                };
                let former = self.files.insert(segment, file);
                assert!(former.is_none(), "{segment} was there");
            }
            wal::Op::Remove { segment } if happens(0) => {
                let removed = self.files.remove(&segment);
                let removed = removed.unwrap_or_else(|| panic!("{segment} was not there"));
                if self.spares.len() < SPARES_MAX {
                    self.spares.push(removed);
                }
            }
            wal::Op::Write { segment, offset, data } => {
                let file = self.files.get_mut(&segment).expect("a segment that was created");
                let place = &mut file[offset as usize..offset as usize + data.len()];
                let sectors = place.chunks_mut(SECTOR).zip(data.chunks(SECTOR));
                for (nth, (place, sector)) in sectors.enumerate() {
                    if happens(nth as u64) {
                        place.copy_from_slice(sector);
                    }
                }
            }
            _ => {}
        }
    }
}

impl SegmentSource for LogDisk {
    fn list(&mut self) -> io::Result<Vec<(SegmentId, u64)>> {
        Ok(self.files.iter().map(|(id, file)| (*id, file.len() as u64)).collect())
    }

    fn read(&mut self, segment: SegmentId) -> io::Result<wal::Content> {
        match self.files.get(&segment) {
            Some(file) => Ok(Box::new(file.clone())),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }
}

/// Addresses for a store to grow into. Only what is touched costs memory.
const RESERVE_BYTES: u64 = 256 << 20;

/// Bytes behind a cut that are made unreadable, so that reading them shows.
const SCRIBBLED_BYTES: u64 = 64 << 10;

pub struct StoreDisk {
    memory: Rc<Memory>,
    /// Length as the running process sees it.
    len: u64,
    /// What a crash certainly leaves.
    durable: Vec<u8>,
    /// Writes done, not synced.
    unsynced: Vec<(u64, Vec<u8>)>,
    /// A cut done, not synced.
    cut: Option<u64>,
    in_flight: Vec<(store::OpId, store::Op)>,
    /// The file cannot grow.
    pub is_full: bool,
}

impl StoreDisk {
    pub fn new(image: Vec<u8>) -> StoreDisk {
        let (_, memory) = Map::memory(image.len() as u64);
        StoreDisk {
            memory,
            len: image.len() as u64,
            durable: image,
            unsynced: Vec::new(),
            cut: None,
            in_flight: Vec::new(),
            is_full: false,
        }
    }

    /// A map of the file as it is after a crash, and its length.
    pub fn map(&mut self) -> (Map, u64) {
        let (map, memory) = Map::memory(RESERVE_BYTES);
        memory.write(0, &self.durable);
        self.memory = memory;
        self.len = self.durable.len() as u64;
        (map, self.len)
    }

    /// Begins an operation. A write may show in the map from here on, in parts.
    pub fn start(&mut self, id: store::OpId, op: store::Op, random: &mut Random) {
        match &op {
            store::Op::Write { offset, data } => {
                let end = offset + data.len() as u64;
                assert!(end <= self.len, "a write beyond the end of the store's file");
                for (_, other) in &self.in_flight {
                    if let store::Op::Write { offset: at, data: bytes } = other {
                        let apart = at + bytes.len() as u64 <= *offset || end <= *at;
                        assert!(apart, "two writes at once to one page");
                    }
                }
                let shown = random.below((data.len() / SECTOR) as u64 + 1) as usize * SECTOR;
                self.memory.write(*offset, &data[..shown]);
            }
            store::Op::Sync | store::Op::Grow { .. } | store::Op::Truncate { .. } => {
                assert!(self.in_flight.is_empty(), "{op:?} beside another operation");
            }
        }
        if let store::Op::Truncate { len } = op {
            let bytes = SCRIBBLED_BYTES.min(self.len - len);
            self.memory.write(len, &vec![0xee; bytes as usize]);
        }
        self.in_flight.push((id, op));
    }

    pub fn complete(&mut self, id: store::OpId) -> Done {
        let at = self.in_flight.iter().position(|(other, _)| *other == id);
        let (_, op) = self.in_flight.remove(at.expect("an operation that was started"));
        match op {
            store::Op::Write { offset, data } => {
                self.memory.write(offset, &data);
                self.unsynced.push((offset, data));
            }
            store::Op::Sync => {
                for (offset, data) in self.unsynced.drain(..) {
                    self.durable[offset as usize..][..data.len()].copy_from_slice(&data);
                }
                if let Some(len) = self.cut.take() {
                    self.durable.truncate(len as usize);
                }
            }
            store::Op::Grow { .. } if self.is_full => return Done::NoSpace,
            store::Op::Grow { len } => {
                assert!(self.unsynced.is_empty() && len > self.len);
                self.memory.write(self.len, &vec![0; (len - self.len) as usize]);
                self.durable.truncate(self.len as usize);
                self.cut = None;
                self.durable.resize(len as usize, 0);
                self.len = len;
            }
            store::Op::Truncate { len } => {
                assert!(len < self.len, "a cut that makes the file longer");
                self.len = len;
                self.cut = Some(len);
            }
        }
        Done::Done
    }

    /// The operation does nothing, and says nothing of it.
    pub fn lose(&mut self, id: store::OpId) {
        self.in_flight.retain(|(other, _)| *other != id);
    }

    /// Leaves what is certain, and of the rest anything.
    pub fn crash(&mut self, random: &mut Random) {
        let mut writes = std::mem::take(&mut self.unsynced);
        for (_, op) in std::mem::take(&mut self.in_flight) {
            match op {
                store::Op::Write { offset, data } => writes.push((offset, data)),
                store::Op::Grow { len } if !self.is_full && random.one_in(2) => {
                    self.durable.resize(len as usize, 0);
                }
                store::Op::Truncate { len } => self.cut = Some(len),
                store::Op::Grow { .. } | store::Op::Sync => {}
            }
        }
        for index in (1..writes.len()).rev() {
            writes.swap(index, random.index(index + 1));
        }
        let mode = random.below(4);
        for (offset, data) in writes {
            let at = offset as usize;
            let whole = match mode {
                0 => false,
                1 => true,
                2 => random.one_in(2),
                _ => {
                    for sector in (0..data.len()).step_by(SECTOR) {
                        let kept = match random.below(8) {
                            0..4 => SECTOR,
                            4 => random.index(SECTOR),
                            _ => 0,
                        };
                        self.durable[at + sector..][..kept]
                            .copy_from_slice(&data[sector..sector + kept]);
                    }
                    false
                }
            };
            if whole {
                self.durable[at..at + data.len()].copy_from_slice(&data);
            }
        }
        if let Some(len) = self.cut.take().filter(|_| random.one_in(2)) {
            self.durable.truncate(len as usize);
        }
    }
}
