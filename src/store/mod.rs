//! The store: copy-on-write B+trees over pages in one file, read through a map, written at
//! checkpoints.
//!
//! It knows bytes and pages. It does not know revisions, and it does no I/O: what is to be done to
//! the file comes out of [`Store::next_op`], and the caller says when it is done. (The [`Map`] is
//! the exception: reading is a memory access.)
//!
//! # One writer, many readers, checkpoints
//!
//! There is always one open write transaction. [`Store::commit`] ends it; there is no rollback,
//! callers check before they write. The log above is the durable truth; the store becomes durable
//! at **checkpoints**, and a crash goes back to the last one. The `mark` of a commit (the index of
//! the last log entry in it) says from where to replay.
//!
//! A [`Snapshot`] pins a committed state. It costs nothing to take and never holds up the writer,
//! which copies the pages it changes.
//!
//! # Invariants
//!
//! - A page that a pinned tree contains is not written to ([`free`]: the reuse rule).
//! - A checkpoint is durable when its meta is: pages, sync, meta, sync ([`checkpoint`]).
//! - A byte of the file is used only after its page's checksum has been verified ([`pages`]).
//! - Every page is live, pending or available ([`check`]).

mod bits;
mod check;
mod checkpoint;
mod cursor;
mod defrag;
mod edit;
mod frames;
mod free;
pub mod limits;
mod long;
mod lookup;
mod map;
mod memory;
mod meta;
mod node;
mod open;
mod page;
mod pages;
mod run;
mod scrub;
mod snapshot;
mod transaction;
mod view;

#[cfg(test)]
mod tests;

pub use check::CheckReport;
pub use checkpoint::{CheckpointProgress, Op, OpId};
pub use cursor::Cursor;
pub use defrag::{DefragProgress, DefragState};
pub use frames::FrameMemory;
pub use limits::{KEY_BYTES_MAX, PAGE_SIZE, TREES, VALUE_BYTES_MAX};
pub use lookup::Lookup;
pub use map::{Map, Memory, Warmer};
pub use memory::MemoryDisk;
pub use open::{MetaSlot, OpenError, Options, initial_image};
pub use page::{Corruption, PageId, Tree, TxnId};
pub use scrub::ScrubProgress;
pub use snapshot::Snapshot;
pub use transaction::{Opening, PackPosition, PackProgress};
pub use view::View;

use checkpoint::Checkpoints;
use free::Space;
use meta::Roots;
use pages::Pages;
use snapshot::Committed;
use std::rc::Rc;

pub struct Store {
    pages: Pages,
    space: Space,
    /// Of the open transaction.
    roots: Roots,
    txn: TxnId,
    /// The open transaction has changed something.
    uncommitted: bool,
    committed: Committed,
    checkpoints: Checkpoints,
    /// Pages that were copied since the last checkpoint began although a checkpoint has written them.
    rewritten_pages: u64,
    store_id: u64,
    /// Entries that got another label: what a test holds a cost against.
    #[cfg(test)]
    relabelled: u64,
    /// What the snapshots of this store carry.
    identity: Rc<()>,
}

impl Store {
    /// Ends the transaction: snapshots and checkpoints see what it wrote. `mark` is the caller's
    /// number of it.
    pub fn commit(&mut self, mark: u64) {
        if !self.uncommitted && mark == self.committed.mark {
            return;
        }
        self.space.commit(&mut self.pages, self.txn);
        self.committed = Committed { txn: self.txn, mark, roots: self.roots };
        self.txn = self.txn.next();
        self.uncommitted = false;
    }

    /// Ends the transaction if all its changes are moves, which change nothing for readers.
    fn commit_moves(&mut self, open_before: bool) {
        if self.uncommitted && !open_before {
            self.commit(self.committed.mark);
        }
    }

    /// Entries of long keys that got another label, for others to have room.
    #[cfg(test)]
    pub fn relabelled_entries(&self) -> u64 {
        self.relabelled
    }

    /// Whether the open transaction has changed anything.
    pub fn has_uncommitted(&self) -> bool {
        self.uncommitted
    }

    /// The live state, what is not committed included.
    pub fn view(&self) -> View<'_> {
        View { pages: &self.pages, roots: &self.roots }
    }

    /// Pins the last commit.
    ///
    /// # Panics
    /// If the open transaction has changed something: it changes pages in place, so that the commit
    /// before exists only between transactions.
    pub fn snapshot(&mut self) -> Snapshot {
        assert!(!self.uncommitted, "a snapshot within a transaction");
        self.space.drop_readers(&mut self.pages);
        let root = match self.space.newest_reader() {
            Some(root) => root.clone(),
            None => {
                let root = Rc::new(self.committed.clone());
                self.space.pin_reader(&root);
                root
            }
        };
        Snapshot { root, store: self.identity.clone() }
    }

    /// The state that a snapshot pins.
    ///
    /// # Panics
    /// If the snapshot is of another store.
    pub fn view_at<'a>(&'a self, snapshot: &'a Snapshot) -> View<'a> {
        assert!(Rc::ptr_eq(&snapshot.store, &self.identity), "a snapshot of another store");
        View { pages: &self.pages, roots: &snapshot.root.roots }
    }

    /// Mark of the last commit.
    pub fn committed_mark(&self) -> u64 {
        self.committed.mark
    }

    /// Bytes on the heap that are not in the file yet and have to come there.
    pub fn dirty_bytes(&self) -> u64 {
        self.pages.dirty_pages() as u64 * PAGE_SIZE as u64
    }

    /// Bytes on the heap that only readers can reach: as long as there are these.
    pub fn kept_bytes(&self) -> u64 {
        self.pages.kept_pages() as u64 * PAGE_SIZE as u64
    }

    /// Bytes of the pages that the last checkpoint wrote, or an earlier one, and the next one writes again:
    /// what it costs to make one now and not later.
    pub fn rewritten_bytes(&self) -> u64 {
        self.rewritten_pages * PAGE_SIZE as u64
    }

    /// Bytes of the file.
    pub fn file_len(&self) -> u64 {
        u64::from(self.pages.file_pages()) * PAGE_SIZE as u64
    }

    /// Bytes of the pages that the newest state consists of: what the quota counts.
    pub fn in_use_bytes(&self) -> u64 {
        u64::from(self.space.live_pages()) * PAGE_SIZE as u64
    }

    /// Bytes of the pages up to the last one in use or waiting: what the file could be cut to.
    pub fn extent_bytes(&self) -> u64 {
        u64::from(self.space.page_count()) * PAGE_SIZE as u64
    }

    /// What brings parts of the file into memory, for other threads.
    pub fn warmer(&self) -> Warmer {
        self.pages.warmer()
    }

    /// Whether another thread should make memory for dirty pages ready ([`FrameMemory::prepare`]).
    pub fn wants_memory(&self) -> bool {
        self.pages.wants_memory()
    }

    /// Takes memory that was made ready.
    pub fn give_memory(&mut self, memory: FrameMemory) {
        self.pages.give_memory(memory);
    }

    /// Bytes of the keys and values of all trees.
    pub fn entry_bytes(&self) -> u64 {
        self.roots.iter().map(|root| root.bytes).sum()
    }

    /// Lets go a slice of the pages whose last reader has gone.
    pub fn let_go(&mut self) {
        self.space.drop_readers(&mut self.pages);
    }

    /// Whether there is more to let go.
    pub fn is_letting_go(&self) -> bool {
        self.space.is_letting_go()
    }

    /// The first page in use from `from` on that is not within a run.
    pub fn next_live(&self, from: PageId) -> Option<PageId> {
        self.space.next_live(from)
    }

    /// Pages looked up so far.
    #[cfg(test)]
    pub fn page_lookups(&self) -> u64 {
        self.pages.lookups.get()
    }

    /// Commits held by snapshots.
    pub fn reader_count(&self) -> usize {
        self.space.reader_count()
    }
}
