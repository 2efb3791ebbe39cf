//! Giving up history.
//!
//! [`Mvcc::compact`] moves the bound of what can be read, at once. [`Mvcc::compact_step`] removes,
//! in slices and at the price of the changes between the last bound and the new one, what no
//! permitted read can see any more. Nothing waits for it, and nothing shows how far it has come.
//!
//! With B the former bound and C the new one, what is superfluous is found by walking the changes
//! of the revisions from B to C:
//!
//! 1. The change before each of them, of the same key: a read at C or later sees the later one.
//! 2. A deletion below C: a read at C or later sees nothing either way. A deletion exactly at C
//!    stays, as every key's last change at C does, for a watch that starts there; it goes with the
//!    next bound, which is why the walk begins at B and not behind it.
//!
//! Changes below B were walked before and are each the newest of their key up to B.
//!
//! The cursor says up to where the walk has come. A new bound sets it back to the former one, if
//! the walk had come so far: what was walked with a lower bound differs from what would have been
//! walked with the new one only in the deletions at that lower bound.
//!
//! Everything is done in the caller's store transactions, cursor included. So a crash leaves a
//! state in which the walk has come to some point; where it is done again, it finds nothing.

use super::error::MvccError;
use super::keys::{KEY, KeyBuf, META, REV, meta};
use super::record::Record;
use super::revision::Revision;
use super::{Mvcc, Revisions};
use crate::mutants::{self, Mutant};
use crate::store::Store;

/// Changes looked at between two accesses to the tree that is changed.
const BATCH: usize = 64;

/// Whether there is more to remove.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    More,
    Done,
}

impl Mvcc {
    /// Gives up the history below `revision`.
    ///
    /// Errors: [`MvccError::Compacted`] up to the present bound (which is -1 at first, so that 0
    /// is allowed once), [`MvccError::FutureRevision`] above the current revision.
    pub fn compact(&mut self, store: &mut Store, revision: i64) -> Result<(), MvccError> {
        if revision <= self.compact {
            return Err(MvccError::Compacted);
        }
        if revision > self.current {
            return Err(MvccError::FutureRevision);
        }
        let former = Revision::new(self.compact.max(0), 0);
        self.compact_cursor = self.compact_cursor.min(former);
        self.compact = revision;
        store.put(META, meta::COMPACT_SCHEDULED, &revision.to_be_bytes(), false)?;
        store.put(META, meta::COMPACT_CURSOR, &self.compact_cursor.to_bytes(), false)?;
        Ok(())
    }

    /// Removes what the bound has made superfluous, looking at up to `budget` changes.
    pub fn compact_step(
        &mut self,
        store: &mut Store,
        budget: usize,
    ) -> Result<Progress, MvccError> {
        if self.removed == self.compact {
            return Ok(Progress::Done);
        }
        let mut garbage = Garbage::default();
        let mut left = budget;
        while left > 0 {
            let batch = left.min(BATCH);
            left -= batch;
            let more = garbage.collect(store, self.compact_cursor, self.compact, batch)?;
            self.counts.compacted += garbage.changes.len() as u64;
            garbage.remove(store)?;
            self.compact_cursor = garbage.cursor;
            if !more {
                self.removed = self.compact;
                self.compact_cursor = Revision::new(self.compact, 0);
                store.put(META, meta::COMPACT_FINISHED, &self.removed.to_be_bytes(), false)?;
                break;
            }
        }
        store.put(META, meta::COMPACT_CURSOR, &self.compact_cursor.to_bytes(), false)?;
        Ok(if self.removed == self.compact { Progress::Done } else { Progress::More })
    }
}

/// Superfluous changes that were found and not yet removed.
#[derive(Default)]
struct Garbage {
    changes: Vec<(Revision, usize)>,
    /// The user keys of the changes, one behind the other; each change has the end of its own.
    keys: Vec<u8>,
    cursor: Revision,
}

impl Garbage {
    /// Looks at up to `count` changes from `from` on. False if the bound was reached.
    fn collect(
        &mut self,
        store: &Store,
        from: Revision,
        bound: i64,
        count: usize,
    ) -> Result<bool, MvccError> {
        let mut cursor = store.view().cursor(REV);
        let mut found = cursor.seek(&from.to_bytes())?;
        self.cursor = from;
        for _ in 0..count {
            if !found {
                return Ok(false);
            }
            let malformed = || MvccError::damaged("a record of a change is malformed");
            let revision = Revision::from_bytes(cursor.key()).ok_or_else(malformed)?;
            if revision.main > bound {
                return Ok(false);
            }
            let record = Record::decode(cursor.value()?).ok_or_else(malformed)?;
            let vanishes = record.tombstone
                && (revision.main < bound || mutants::is_on(Mutant::CompactionTakesTombstone));
            if vanishes || record.prev.is_some() {
                self.keys.extend_from_slice(record.key().ok_or_else(malformed)?);
                self.changes.extend(record.prev.map(|prev| (prev, self.keys.len())));
                self.changes.extend(vanishes.then_some((revision, self.keys.len())));
            }
            self.cursor = revision.next();
            found = cursor.next()?;
        }
        Ok(true)
    }

    fn remove(&mut self, store: &mut Store) -> Result<(), MvccError> {
        let mut start = 0;
        let mut key = KeyBuf::empty();
        let mut last_end = usize::MAX;
        for (revision, end) in self.changes.drain(..) {
            if end != last_end {
                key = KeyBuf::of(&self.keys[start..end]);
                (start, last_end) = (end, end);
            }
            if store.delete(REV, &revision.to_bytes())? {
                store.delete(KEY, key.version(revision))?;
            }
        }
        self.keys.clear();
        Ok(())
    }
}

/// What META says of compactions.
pub(super) fn load(store: &Store) -> Result<(Revisions, Revision), MvccError> {
    let number = |name| -> Result<Option<i64>, MvccError> {
        let Some(bytes) = store.view().get(META, name)? else { return Ok(None) };
        let bytes = bytes.try_into().map_err(|_| MvccError::damaged("a revision in META"))?;
        Ok(Some(i64::from_be_bytes(bytes)))
    };
    let compact = number(meta::COMPACT_SCHEDULED)?.unwrap_or(-1);
    let removed = number(meta::COMPACT_FINISHED)?.unwrap_or(-1);
    let cursor = match store.view().get(META, meta::COMPACT_CURSOR)? {
        None => Revision::default(),
        Some(bytes) => Revision::from_bytes(bytes)
            .ok_or_else(|| MvccError::damaged("the cursor of the compaction"))?,
    };
    // The change at the bound is kept here; in a history that was made elsewhere it may be missing.
    let current = compact.max(1);
    Ok((Revisions { current, compact, removed }, cursor))
}
