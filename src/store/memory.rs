//! A disk in memory that does what it is told, at once: for the tests of the layers above.

use super::checkpoint::Op;
use super::map::{Map, Memory};
use super::open::{OpenError, Options, initial_image};
use super::{PAGE_SIZE, Store};
use std::cell::{Cell, RefCell};
use std::rc::Rc;

/// A file in memory. Nothing is lost that has been written.
pub struct MemoryDisk {
    reserve_bytes: u64,
    memory: RefCell<Rc<Memory>>,
    len: Cell<u64>,
}

impl MemoryDisk {
    /// A disk with a new store on it, which can grow to `reserve_bytes`.
    pub fn new(reserve_bytes: u64, options: &Options) -> MemoryDisk {
        let image = initial_image(options);
        MemoryDisk::with_image(reserve_bytes, &image)
    }

    /// A disk with this content.
    pub fn with_image(reserve_bytes: u64, image: &[u8]) -> MemoryDisk {
        let (_, memory) = Map::memory(reserve_bytes.max(image.len() as u64 + PAGE_SIZE as u64));
        memory.write(0, image);
        MemoryDisk {
            reserve_bytes,
            memory: RefCell::new(memory),
            len: Cell::new(image.len() as u64),
        }
    }

    /// Opens the store as it is on the disk, as after a crash. A store opened before must not be
    /// used any more.
    pub fn open(&self) -> Result<Store, OpenError> {
        let image = self.image();
        let (map, memory) = Map::memory(self.reserve_bytes.max(image.len() as u64));
        memory.write(0, &image);
        self.memory.replace(memory);
        Store::open(map, self.len.get(), Options::default())
    }

    /// The content of the disk.
    pub fn image(&self) -> Vec<u8> {
        self.memory.borrow().read(self.len.get())
    }

    pub fn apply(&self, op: &Op) {
        match op {
            Op::Grow { len } | Op::Truncate { len } => self.len.set(*len),
            Op::Write { offset, data } => self.memory.borrow().write(*offset, data),
            Op::Sync => {}
        }
    }

    /// Does all that a store wants to be done.
    pub fn run(&self, store: &mut Store) {
        while let Some((id, op)) = store.next_op() {
            self.apply(&op);
            store.op_done(id);
        }
    }

    /// Makes the last commit of a store durable.
    pub fn checkpoint(&self, store: &mut Store) {
        store.begin_checkpoint();
        self.run(store);
    }
}
