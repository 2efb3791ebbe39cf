//! A disk that forgets: what was not synced is lost, kept, torn or reordered at a crash; operations
//! are done late and in any order.

use super::*;

/// What becomes of writes that were not synced.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CrashMode {
    DropAll,
    KeepAll,
    /// Each write is kept or dropped as a whole.
    KeepSome,
    /// Each sector of each write is kept, dropped, or (the last one kept of a write) half old.
    Torn,
}

pub const CRASH_MODES: [CrashMode; 4] =
    [CrashMode::DropAll, CrashMode::KeepAll, CrashMode::KeepSome, CrashMode::Torn];

const SECTOR: usize = 512;

pub struct SimDisk {
    memory: std::rc::Rc<Memory>,
    reserve_bytes: u64,
    /// Length as the running process sees it.
    len: u64,
    /// What a crash certainly leaves.
    durable: Vec<u8>,
    /// Writes done, not synced.
    unsynced: Vec<(u64, Vec<u8>)>,
    /// A cut done, not synced.
    cut: Option<u64>,
    outstanding: Vec<(OpId, Op)>,
    /// Full beyond this length.
    pub capacity: u64,
    /// Operations begun or done so far.
    pub events: u64,
}

impl SimDisk {
    pub fn new(image: Vec<u8>, reserve_bytes: u64) -> (SimDisk, Map) {
        let (map, memory) = Map::memory(reserve_bytes);
        memory.write(0, &image);
        let disk = SimDisk {
            memory,
            reserve_bytes,
            len: image.len() as u64,
            durable: image,
            unsynced: Vec::new(),
            cut: None,
            outstanding: Vec::new(),
            capacity: u64::MAX,
            events: 0,
        };
        (disk, map)
    }

    pub fn len(&self) -> u64 {
        self.len
    }

    pub fn is_idle(&self) -> bool {
        self.outstanding.is_empty()
    }

    /// Begins an operation. A write may show in the map from here on, in parts.
    pub fn submit(&mut self, id: OpId, op: Op, random: &mut Random) {
        self.events += 1;
        match &op {
            Op::Write { offset, data } => {
                let shown = random.below((data.len() / SECTOR) as u64 + 1) as usize * SECTOR;
                assert!(
                    offset + data.len() as u64 <= self.len,
                    "a write beyond the end of the file"
                );
                for (_, other) in &self.outstanding {
                    if let Op::Write { offset: at, data: bytes } = other {
                        let apart =
                            at + bytes.len() as u64 <= *offset || offset + data.len() as u64 <= *at;
                        assert!(apart, "two writes outstanding on one page");
                    }
                }
                self.memory.write(*offset, &data[..shown]);
            }
            Op::Sync | Op::Grow { .. } | Op::Truncate { .. } => {
                assert!(self.outstanding.is_empty(), "{op:?} beside another operation");
            }
        }
        if let Op::Truncate { len } = op {
            // What is read from here on is not what was there.
            self.scribble(len);
        }
        self.outstanding.push((id, op));
    }

    fn scribble(&self, from: u64) {
        let bytes = (self.reserve_bytes - from).min(1 << 20) as usize;
        self.memory.write(from, &vec![0xee; bytes]);
    }

    /// Completes one of the outstanding operations. The error says that the disk is full.
    pub fn complete(&mut self, random: &mut Random) -> Result<OpId, OpId> {
        self.events += 1;
        let index = random.below(self.outstanding.len() as u64) as usize;
        let (id, op) = self.outstanding.swap_remove(index);
        match op {
            Op::Write { offset, data } => {
                self.memory.write(offset, &data);
                self.unsynced.push((offset, data));
            }
            Op::Sync => {
                for (offset, data) in self.unsynced.drain(..) {
                    let at = offset as usize;
                    self.durable[at..at + data.len()].copy_from_slice(&data);
                }
                if let Some(len) = self.cut.take() {
                    self.durable.truncate(len as usize);
                }
            }
            Op::Grow { len } => {
                if len > self.capacity {
                    return Err(id);
                }
                assert!(self.unsynced.is_empty() && len > self.len);
                self.memory.write(self.len, &vec![0; (len - self.len) as usize]);
                self.durable.truncate(self.len as usize);
                self.cut = None;
                self.durable.resize(len as usize, 0);
                self.len = len;
            }
            Op::Truncate { len } => {
                assert!(len < self.len, "a cut that makes the file longer");
                self.len = len;
                self.cut = Some(len);
            }
        }
        Ok(id)
    }

    /// What is on the disk after a crash.
    pub fn crash(mut self, mode: CrashMode, random: &mut Random) -> Vec<u8> {
        let mut writes = std::mem::take(&mut self.unsynced);
        for (_, op) in std::mem::take(&mut self.outstanding) {
            match op {
                Op::Write { offset, data } => writes.push((offset, data)),
                Op::Grow { len } if len <= self.capacity && random.one_in(2) => {
                    self.durable.resize(len as usize, 0);
                }
                Op::Truncate { len } => self.cut = Some(len),
                Op::Grow { .. } | Op::Sync => {}
            }
        }
        // The order does not matter for the outcome if the store keeps its rules; so try others.
        for index in (1..writes.len()).rev() {
            writes.swap(index, random.below(index as u64 + 1) as usize);
        }
        for (offset, data) in writes {
            let at = offset as usize;
            let whole = match mode {
                CrashMode::DropAll => false,
                CrashMode::KeepAll => true,
                CrashMode::KeepSome => random.one_in(2),
                CrashMode::Torn => {
                    for sector in (0..data.len()).step_by(SECTOR) {
                        let kept = match random.below(8) {
                            0..4 => SECTOR,
                            4 => random.below(SECTOR as u64) as usize,
                            _ => 0,
                        };
                        self.durable[at + sector..at + sector + kept]
                            .copy_from_slice(&data[sector..sector + kept]);
                    }
                    false
                }
            };
            if whole {
                self.durable[at..at + data.len()].copy_from_slice(&data);
            }
        }
        if let Some(len) = self.cut.filter(|_| random.one_in(2)) {
            self.durable.truncate(len as usize);
        }
        self.durable
    }
}
