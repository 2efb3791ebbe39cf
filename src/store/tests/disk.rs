//! The store's file on the simulated disk, and what the store sees of it through its map.

use super::*;
use simdisk::{Disk, FileId, Token};

pub use simdisk::{Fault, Loss, Outcome};

const FILE: FileId = FileId(1);

pub struct SimDisk {
    pub inner: Disk,
    reserve_bytes: u64,
}

impl SimDisk {
    pub fn new(image: Vec<u8>, reserve_bytes: u64) -> (SimDisk, Map) {
        let mut inner = Disk::default();
        inner.insert(FILE, image);
        let mut disk = SimDisk { inner, reserve_bytes };
        let map = disk.map();
        (disk, map)
    }

    fn map(&mut self) -> Map {
        let (map, memory) = Map::memory(self.reserve_bytes);
        self.inner.mirror(FILE, Rc::new(move |offset, bytes| memory.write(offset, bytes)));
        map
    }

    pub fn len(&self) -> u64 {
        self.inner.read(FILE).len() as u64
    }

    pub fn is_idle(&self) -> bool {
        self.inner.is_idle()
    }

    /// Operations begun or done so far.
    pub fn events(&self) -> u64 {
        self.inner.events()
    }

    /// Begins an operation. A write may show in the map from here on, in parts.
    pub fn submit(&mut self, id: OpId, op: Op, random: &mut Random) {
        let op = match op {
            Op::Grow { len } => simdisk::Op::Grow { file: FILE, bytes: len },
            Op::Write { offset, data } => {
                simdisk::Op::Write { file: FILE, offset, data, durable: false }
            }
            Op::Sync => simdisk::Op::Sync { file: FILE },
            Op::Truncate { len } => simdisk::Op::Truncate { file: FILE, bytes: len },
        };
        self.inner.start(Token(id.0), op, &mut |n| random.below(n));
    }

    /// Ends one of the outstanding operations.
    pub fn complete(&mut self, random: &mut Random) -> (OpId, Outcome) {
        let nth = random.below(self.inner.outstanding().len() as u64) as usize;
        let (token, _, outcome) = self.inner.complete(nth, &mut |n| random.below(n));
        (OpId(token.0), outcome)
    }

    /// The power goes. What is on the disk afterwards.
    pub fn crash(&mut self, loss: Loss, random: &mut Random) -> Map {
        self.inner.crash(loss, &mut |n| random.below(n));
        self.map()
    }

    /// The process ends, and the next one settles the file before it reads it.
    pub fn restart(&mut self, random: &mut Random) -> Map {
        self.inner.restart(&mut |n| random.below(n));
        self.map()
    }
}
