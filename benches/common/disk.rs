//! A store on a real disk, as the server drives it, but with a thread for what goes on beside.

use std::fs::{File, OpenOptions};
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, channel};

use ringd::store::{Map, Op, OpId, Options, Store, initial_image};

/// Dirty pages that begin a checkpoint: half of what the server takes where pages are written again and again
/// (`src/node/checkpoint.rs`), so that there are several within the seconds of a sample.
const DIRTY_BYTES: u64 = 64 << 20;
/// Dirty pages at most: what the server takes in before it makes its clients wait.
const DIRTY_BYTES_MAX: u64 = 4 * DIRTY_BYTES;
const MAP_BYTES: u64 = 64 << 30;

/// A store on the disk, whose operations a thread beside carries out.
pub struct Disk {
    pub store: Store,
    beside: Sender<(OpId, Op)>,
    done: Receiver<OpId>,
}

impl Disk {
    pub fn create(path: &Path) -> Disk {
        std::fs::write(path, initial_image(&Options { store_id: 7 })).expect("a store");
        Disk::open(path)
    }

    pub fn open(path: &Path) -> Disk {
        let file = OpenOptions::new().read(true).write(true).open(path).expect("a store");
        file.sync_all().expect("a sync");
        let map = Map::open(&file, MAP_BYTES).expect("a map");
        let bytes = file.metadata().expect("its length").len();
        let store = Store::open(map, bytes, Options::default()).expect("a store");
        let (beside, ops) = channel::<(OpId, Op)>();
        let (report, done) = channel();
        std::thread::spawn(move || {
            for (id, op) in ops {
                carry_out(&file, op);
                if report.send(id).is_err() {
                    break;
                }
            }
        });
        Disk { store, beside, done }
    }

    /// What the server does once a turn: hears what is done, begins a checkpoint if one is due, starts what can be.
    pub fn turn(&mut self) {
        while let Ok(id) = self.done.try_recv() {
            self.store.op_done(id);
        }
        self.store.let_go();
        if self.store.dirty_bytes() > DIRTY_BYTES {
            self.store.begin_checkpoint();
        }
        self.start();
        // As far behind as the server lets its disk be.
        while self.store.dirty_bytes() > DIRTY_BYTES_MAX && self.store.checkpoint_running() {
            let id = self.done.recv().expect("the thread beside");
            self.store.op_done(id);
            self.start();
        }
    }

    /// Waits until everything is durable in the store as well.
    pub fn settle(&mut self) {
        while self.store.begin_checkpoint() || self.store.checkpoint_running() {
            self.start();
            if self.store.checkpoint_running() {
                let id = self.done.recv().expect("the thread beside");
                self.store.op_done(id);
            }
        }
        while self.store.is_letting_go() {
            self.store.let_go();
        }
    }

    fn start(&mut self) {
        while let Some(op) = self.store.next_op() {
            self.beside.send(op).expect("the thread beside");
        }
    }
}

fn carry_out(file: &File, op: Op) {
    match op {
        Op::Grow { len } => {
            // SAFETY: a call on an open file; nothing is handed over but numbers.
            let failed = unsafe { libc::fallocate(file.as_raw_fd(), 0, 0, len as i64) };
            assert!(failed == 0, "no space for {len} bytes");
            file.sync_data().expect("a sync");
        }
        Op::Write { offset, data } => file.write_all_at(&data, offset).expect("a write"),
        Op::Sync => file.sync_data().expect("a sync"),
        Op::Truncate { len } => file.set_len(len).expect("a truncation"),
    }
}
