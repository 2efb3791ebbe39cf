//! Keys with a history: etcd's multi-version store, on the trees of [`crate::store`].
//!
//! Every transaction that changes something makes a new revision. A key can be read as it was at
//! any revision from the bound of compaction on; the changes can be followed in their order.
//!
//! - [`keys`], [`record`], [`revision`]: what is where in the trees, byte by byte.
//! - [`reader`], [`range`], [`large`], [`stream`], [`count`], [`pages`], [`compare`], [`changes`], [`hash`],
//!   [`export`]: reading.
//! - [`write`], [`txn`], [`compact`]: changing.
//!
//! Invariants:
//!
//! - REV has a record of every change that a permitted read or watch can see, and KEY an entry for
//!   exactly the changes that REV has.
//! - The current revision is the greatest in REV: a compaction never takes away the last change.
//!   So it needs no writing down, and cannot go back.
//! - All that lives outside the store is in [`Mvcc`]: four numbers, and a bounded memory of lists that are
//!   being read. Nothing grows with the keys.
//!
//! Requests are taken as validated (not empty, known enums, no two puts of one key). This layer
//! survives those that are not; what it then answers is not promised. It knows neither Raft nor
//! permissions nor the life of leases, and of the store it knows keys and values, not pages.

mod changes;
mod compact;
mod compare;
mod count;
mod error;
pub mod export;
mod hash;
mod keys;
mod large;
mod pages;
mod range;
mod reader;
mod record;
mod revision;
mod stream;
mod txn;
pub mod watch;
mod wire;
mod write;

#[cfg(test)]
mod tests;

pub use changes::{Change, Changes};
pub use compact::Progress;
pub use error::MvccError;
pub use hash::{HashBucket, HashKv, HashKvValue};
pub use keys::{End, Interval};
pub use large::{LargeRange, Measured};
pub use range::{RangeOutcome, has_revision_filters, is_default_order};
pub use reader::{LeaseKeys, Reader, Revisions};
pub use revision::Revision;
pub use stream::{Chunk, RangeStream};
pub use txn::{is_read_only, is_serializable};
pub use write::Reply;

use crate::proto::etcdserverpb::RangeRequest;
use crate::store::{Store, View};

/// The bounds of the history. Everything else is in the store, which the caller owns: it opens,
/// commits and pins, and hands the store or a view of it to each call.
#[derive(Debug)]
pub struct Mvcc {
    current: i64,
    compact: i64,
    removed: i64,
    compact_cursor: Revision,
    pages: pages::PageCounts,
    pub counts: Counts,
}

/// What was done since the start, for metrics.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    pub puts: u64,
    pub put_bytes: u64,
    pub deletes: u64,
    /// Changes that compactions have removed.
    pub compacted: u64,
}

impl Mvcc {
    /// Takes up what the store holds: the greatest revision in it, and how far it is compacted.
    pub fn open(store: &Store) -> Result<Mvcc, MvccError> {
        let (revisions, compact_cursor) = compact::load(store)?;
        let mut cursor = store.view().cursor(keys::REV);
        let newest = if cursor.last()? {
            Revision::from_bytes(cursor.key())
                .ok_or_else(|| MvccError::damaged("a key of the revision tree is malformed"))?
                .main
        } else {
            0
        };
        Ok(Mvcc {
            current: revisions.current.max(newest),
            compact: revisions.compact,
            removed: revisions.removed,
            compact_cursor,
            pages: pages::PageCounts::default(),
            counts: Counts::default(),
        })
    }

    /// The newest revision; 1 in an empty store.
    pub fn current_revision(&self) -> i64 {
        self.current
    }

    /// The revision below which nothing can be read; -1 if nothing was ever compacted.
    pub fn compact_revision(&self) -> i64 {
        self.compact
    }

    /// Whether a compaction still has history to remove.
    pub fn compaction_pending(&self) -> bool {
        self.removed != self.compact
    }

    pub fn revisions(&self) -> Revisions {
        Revisions { current: self.current, compact: self.compact, removed: self.removed }
    }

    /// Reads what `view` shows, which must be the state that this `Mvcc` is in.
    pub fn reader<'a>(&'a self, view: View<'a>) -> Reader<'a> {
        self.reader_at(view, self.revisions())
    }

    /// Reads a pinned state, with the [`Revisions`] that it had.
    pub fn reader_at<'a>(&'a self, view: View<'a>, revisions: Revisions) -> Reader<'a> {
        Reader { pages: Some(&self.pages), ..Reader::new(view, revisions) }
    }

    /// Answers a range from `view`; see [`Reader::range`].
    pub fn range(
        &self,
        view: View<'_>,
        request: &RangeRequest,
        out: &mut Vec<u8>,
    ) -> Result<RangeOutcome, MvccError> {
        self.reader(view).range(request, out)
    }

    /// Answers a range from `view` if it is not large; see [`Reader::range_up_to`].
    pub fn range_up_to(
        &self,
        view: View<'_>,
        request: &RangeRequest,
        bytes_max: usize,
        out: &mut Vec<u8>,
    ) -> Result<Option<RangeOutcome>, MvccError> {
        self.reader(view).range_up_to(request, bytes_max, out)
    }
}
