//! The log in memory: everything after a start position, and how far each part of its life has got.
//!
//! ```text
//!   start              applied   released   commit              last
//!     |------------------|----------|---------|-------------------|
//!     :  compacted         given out for applying
//!     |------------------------------------|---------|------------|
//!                                      persisted   handed
//!                                       durable    given out for persisting
//! ```
//!
//! Invariants: `applied <= released <= commit <= last`; `persisted <= handed <= last`; indexes have
//! no gap, terms never fall. Entries up to `commit` never change.
//!
//! `persisted` counts entries as they are in memory now. When a suffix is replaced, `persisted`,
//! `handed` and the batches still on their way to the disk are cut back to what was kept, so that
//! the completion of an old write can never make a new entry at the same index look durable
//! ("ABA").
//!
//! Deliberately knows no roles, no members and no messages.

use std::collections::VecDeque;

use super::error::RestoreError;
use super::types::{Entry, EntryKind, LogIndex, LogPosition, Term, Token};

pub(super) struct Log {
    /// The entry before the first in `entries`; all up to here is part of a snapshot.
    start: LogPosition,
    entries: VecDeque<Entry>,
    bytes: usize,
    commit: LogIndex,
    applied: LogIndex,
    released: LogIndex,
    handed: LogIndex,
    persisted: LogIndex,
    batches: VecDeque<Batch>,
}

/// A part of the log that is on its way to the disk: all up to `last` is durable when `token` is.
struct Batch {
    token: Token,
    last: LogIndex,
}

impl Log {
    /// A log as it was found on the disk, so all of it is durable.
    pub(super) fn restore(
        start: LogPosition,
        entries: Vec<Entry>,
        commit: LogIndex,
        applied: LogIndex,
        term: Term,
    ) -> Result<Log, RestoreError> {
        let mut before = start;
        if start.term > term {
            return Err(RestoreError::TermOrder { index: start.index, term: start.term });
        }
        for entry in &entries {
            if entry.index != before.index.next() {
                let (expected, found) = (before.index.next(), entry.index);
                return Err(RestoreError::Gap { expected, found });
            }
            if entry.term < before.term || entry.term > term {
                return Err(RestoreError::TermOrder { index: entry.index, term: entry.term });
            }
            before = entry.position();
        }

        let last = before.index;
        if applied < start.index || applied > last {
            return Err(RestoreError::AppliedOutsideLog { applied, start: start.index, last });
        }
        if commit > last {
            return Err(RestoreError::CommitBeyondLog { commit, last });
        }
        Ok(Log {
            start,
            bytes: entries.iter().map(Entry::size_bytes).sum(),
            entries: entries.into(),
            // What is applied was committed, even when the commit index has not been written since.
            commit: commit.max(applied),
            applied,
            released: applied,
            handed: last,
            persisted: last,
            batches: VecDeque::new(),
        })
    }

    pub(super) fn start(&self) -> LogPosition {
        self.start
    }

    pub(super) fn commit(&self) -> LogIndex {
        self.commit
    }

    pub(super) fn applied(&self) -> LogIndex {
        self.applied
    }

    pub(super) fn persisted(&self) -> LogIndex {
        self.persisted
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn last(&self) -> LogPosition {
        self.entries.back().map_or(self.start, Entry::position)
    }

    pub(super) fn committed(&self) -> LogPosition {
        let term = self.term(self.commit).expect("the commit index is in the log or its start");
        LogPosition { index: self.commit, term }
    }

    /// `None` for what is compacted or not there yet.
    pub(super) fn term(&self, index: LogIndex) -> Option<Term> {
        if index == self.start.index {
            return Some(self.start.term);
        }
        self.entry(index).map(|entry| entry.term)
    }

    pub(super) fn holds(&self, position: LogPosition) -> bool {
        self.term(position.index) == Some(position.term)
    }

    /// Paper, section 5.4.1: whether a log that ends at `other` may lead one that ends like this
    /// one.
    pub(super) fn is_up_to_date(&self, other: LogPosition) -> bool {
        let last = self.last();
        (other.term, other.index) >= (last.term, last.index)
    }

    pub(super) fn entry(&self, index: LogIndex) -> Option<&Entry> {
        let offset = index.0.checked_sub(self.start.index.0 + 1)?;
        self.entries.get(usize::try_from(offset).ok()?)
    }

    /// Entries of `first..=last`, which are in memory.
    pub(super) fn range(&self, first: LogIndex, last: LogIndex) -> impl Iterator<Item = &Entry> {
        let from = (first.0 - self.start.index.0 - 1) as usize;
        let to = ((last.0 - self.start.index.0) as usize).max(from);
        self.entries.range(from..to)
    }

    /// Entries from `first` on, up to `bytes_max` but at least one if there is any.
    pub(super) fn page(&self, first: LogIndex, last: LogIndex, bytes_max: usize) -> Vec<Entry> {
        let mut bytes = 0;
        let within = |entry: &&Entry| {
            let fits = bytes == 0 || bytes + entry.size_bytes() <= bytes_max;
            bytes += entry.size_bytes();
            fits
        };
        self.range(first, last).take_while(within).cloned().collect()
    }

    /// The last position not after `position` at which a log that holds `position` could agree with
    /// this one: nothing above it in either log can have a common term. Terms never fall, so this
    /// is a search by halves.
    pub(super) fn last_possible_match(&self, position: LogPosition) -> LogPosition {
        if position.index <= self.start.index {
            return LogPosition { index: position.index, term: Term(0) };
        }
        let index = position.index.min(self.last().index);
        let count = (index.0 - self.start.index.0) as usize;
        let mut low = 0;
        let mut high = count;
        while low < high {
            let middle = low + (high - low) / 2;
            if self.entries.get(middle).is_some_and(|entry| entry.term <= position.term) {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        match low.checked_sub(1).and_then(|place| self.entries.get(place)) {
            Some(entry) => entry.position(),
            None => self.start,
        }
    }

    pub(super) fn push(&mut self, entry: Entry) {
        let last = self.last();
        assert_eq!(entry.index, last.index.next(), "a gap in the log after {last:?}");
        assert!(entry.term >= last.term, "a term that falls after {last:?}");
        self.bytes += entry.size_bytes();
        self.entries.push_back(entry);
    }

    /// Drops everything after `keep`, which is at least `commit`.
    pub(super) fn truncate(&mut self, keep: LogIndex) {
        assert!(keep >= self.commit, "cutting committed entries: {keep} < {}", self.commit);
        let kept = (keep.0 - self.start.index.0) as usize;
        self.bytes -= self.entries.range(kept..).map(Entry::size_bytes).sum::<usize>();
        self.entries.truncate(kept);
        self.cut_persistence(keep);
    }

    fn cut_persistence(&mut self, keep: LogIndex) {
        self.handed = self.handed.min(keep);
        self.persisted = self.persisted.min(keep);
        for batch in &mut self.batches {
            batch.last = batch.last.min(keep);
        }
    }

    /// Forgets all entries for a snapshot, which is not durable yet.
    pub(super) fn reset_to_snapshot(&mut self, position: LogPosition) {
        assert!(position.index > self.commit, "a snapshot of {position:?} behind the commit index");
        self.cut_persistence(self.commit);
        self.entries.clear();
        self.bytes = 0;
        self.start = position;
        self.commit = position.index;
        self.released = position.index;
        self.handed = position.index;
    }

    /// The state of the snapshot at the start of the log is in place now.
    pub(super) fn snapshot_persisted(&mut self) {
        self.applied = self.applied.max(self.start.index);
    }

    /// The snapshot at the start of the log is durable, as is everything when there was none.
    pub(super) fn is_start_persisted(&self) -> bool {
        self.persisted >= self.start.index
    }

    /// Raises the commit index, and returns the bytes of the entries that became committed.
    pub(super) fn commit_to(&mut self, index: LogIndex) -> usize {
        if index <= self.commit {
            return 0;
        }
        assert!(index <= self.last().index, "commit index {index} beyond {:?}", self.last());
        let bytes = self.range(self.commit.next(), index).map(Entry::size_bytes).sum();
        self.commit = index;
        bytes
    }

    pub(super) fn uncommitted_bytes(&self) -> usize {
        self.range(self.commit.next(), self.last().index).map(Entry::size_bytes).sum()
    }

    /// Entries not yet handed out for persisting. They are, after this, under `token`.
    pub(super) fn hand_out(&mut self, token: Token) -> Vec<Entry> {
        let last = self.last().index;
        let entries = self.range(self.handed.next(), last).cloned().collect();
        self.handed = last;
        self.batches.push_back(Batch { token, last });
        entries
    }

    pub(super) fn has_unhanded(&self) -> bool {
        self.handed < self.last().index
    }

    /// Everything handed out up to `token` is durable.
    pub(super) fn persist(&mut self, token: Token) {
        while let Some(batch) = self.batches.pop_front_if(|batch| batch.token <= token) {
            self.persisted = self.persisted.max(batch.last);
        }
    }

    /// The end of what may be released for applying.
    fn releasable(&self, unpersisted_too: bool) -> LogIndex {
        if !self.is_start_persisted() {
            return self.released;
        }
        if unpersisted_too { self.commit } else { self.commit.min(self.persisted) }
    }

    /// The next committed entries, up to `bytes_max` (but at least one if there is any), and none
    /// after a configuration change.
    pub(super) fn release(&mut self, unpersisted_too: bool, bytes_max: usize) -> Vec<Entry> {
        let last = self.releasable(unpersisted_too);
        if last <= self.released {
            return Vec::new();
        }
        let mut page = self.page(self.released.next(), last, bytes_max);
        if let Some(place) = page.iter().position(|entry| entry.kind == EntryKind::ConfChange) {
            page.truncate(place + 1);
        }
        self.released = page.last().map_or(self.released, |entry| entry.index);
        page
    }

    pub(super) fn apply_to(&mut self, index: LogIndex) {
        assert!(index <= self.released, "applied {index} was never handed out: {}", self.released);
        self.applied = self.applied.max(index);
    }

    /// Whether a change of the configuration is committed and not applied.
    pub(super) fn has_unapplied_conf_change(&self) -> bool {
        self.applied < self.commit
            && self
                .range(self.applied.next(), self.commit)
                .any(|entry| entry.kind == EntryKind::ConfChange)
    }

    /// Forgets entries up to `index`, as far as they are applied and durable.
    pub(super) fn compact(&mut self, index: LogIndex) {
        let index = index.min(self.applied).min(self.persisted);
        let Some(term) = self.term(index) else { return };
        let dropped = (index.0 - self.start.index.0) as usize;
        self.bytes -= self.entries.drain(..dropped).map(|e| e.size_bytes()).sum::<usize>();
        self.start = LogPosition { index, term };
        // A log that was long once must not hold that memory for ever.
        if self.entries.capacity() > 1024 && self.entries.len() < self.entries.capacity() / 8 {
            self.entries.shrink_to(self.entries.len() * 2);
        }
    }

    /// The expensive invariants.
    pub(super) fn complaint(&self) -> Option<&'static str> {
        let last = self.last().index;
        let in_order = self.applied <= self.released && self.released <= self.commit;
        let mut before = self.start;
        for entry in &self.entries {
            if entry.index != before.index.next() || entry.term < before.term {
                return Some("a gap or a falling term in the log");
            }
            before = entry.position();
        }
        if !in_order || self.commit > last {
            Some("not applied <= released <= commit <= last")
        } else if self.persisted > self.handed || self.handed > last {
            Some("not persisted <= handed <= last")
        } else if self.bytes != self.entries.iter().map(Entry::size_bytes).sum::<usize>() {
            Some("the bytes of the log are miscounted")
        } else if self.batches.iter().any(|batch| batch.last > self.handed) {
            Some("a batch goes beyond what is handed out")
        } else {
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft::random::Random;
    use bytes::Bytes;

    fn entry(index: u64, term: u64) -> Entry {
        let (term, index) = (Term(term), LogIndex(index));
        Entry { term, index, kind: EntryKind::Normal, data: Bytes::from_static(b"data") }
    }

    fn at(index: u64, term: u64) -> LogPosition {
        LogPosition { index: LogIndex(index), term: Term(term) }
    }

    /// A log that begins after 3/1, all durable, nothing committed beyond.
    fn log(terms: &[u64]) -> Log {
        let entries: Vec<Entry> =
            (4..).zip(terms).map(|(index, &term)| entry(index, term)).collect();
        Log::restore(at(3, 1), entries, LogIndex(3), LogIndex(3), Term(99)).unwrap()
    }

    #[test]
    fn the_last_possible_match_is_the_one_a_walk_backwards_finds() {
        let mut random = Random::new(5);
        for _ in 0..2000 {
            let mut term = 1;
            let terms: Vec<u64> = (0..random.below(12))
                .map(|_| {
                    term += random.below(3);
                    term
                })
                .collect();
            let log = log(&terms);
            let from = at(4 + random.below(15), random.below(20));
            let found = log.last_possible_match(from);
            let walk = (4..=from.index.0.min(log.last().index.0)).rev().map(LogIndex);
            let expected = walk
                .filter_map(|index| log.entry(index))
                .find(|entry| entry.term <= from.term)
                .map_or(at(3, 1), Entry::position);
            assert_eq!(found, expected, "{terms:?} {from:?}");
        }
    }

    #[test]
    fn completions_of_cut_batches_count_only_for_what_was_kept() {
        let mut log = log(&[]);
        for index in 4..=9 {
            log.push(entry(index, 2));
            if index % 2 == 1 {
                log.hand_out(Token(index));
            }
        }
        // Under way: 4 and 5 as #5, 6 and 7 as #7, 8 and 9 as #9. All from 7 on is replaced.
        log.truncate(LogIndex(6));
        log.push(entry(7, 3));
        log.push(entry(8, 3));
        assert_eq!(log.hand_out(Token(10)).len(), 2);
        let mut persisted = Vec::new();
        for token in [5, 7, 9, 10] {
            log.persist(Token(token));
            persisted.push(log.persisted().0);
        }
        assert_eq!(persisted, [5, 6, 6, 8]);
        assert_eq!(log.complaint(), None);
    }

    #[test]
    fn bytes_are_known_through_all_changes() {
        let mut log = log(&[1, 1, 2, 2, 2]);
        let size = entry(1, 1).size_bytes();
        assert_eq!((log.bytes(), log.uncommitted_bytes()), (5 * size, 5 * size));
        assert_eq!(log.commit_to(LogIndex(6)), 3 * size);
        assert_eq!(log.commit_to(LogIndex(5)), 0);
        log.truncate(LogIndex(7));
        assert_eq!((log.bytes(), log.uncommitted_bytes()), (4 * size, size));
        assert_eq!(log.release(false, size).len(), 1);
        assert_eq!(log.release(false, 2 * size + 1).len(), 2);
        log.apply_to(LogIndex(6));
        log.compact(LogIndex(99));
        assert_eq!((log.start(), log.bytes()), (at(6, 2), size));
        log.reset_to_snapshot(at(20, 5));
        assert_eq!((log.start(), log.last(), log.bytes()), (at(20, 5), at(20, 5), 0));
        assert_eq!(log.complaint(), None);
    }

    #[test]
    fn positions_outside_the_log_are_answered_and_not_reached_for() {
        let log = log(&[2, 2]);
        assert_eq!(log.term(LogIndex(2)), None);
        assert_eq!(log.term(LogIndex(3)), Some(Term(1)));
        assert_eq!(log.term(LogIndex(6)), None);
        assert_eq!(log.term(LogIndex(u64::MAX)), None);
        assert!(log.entry(LogIndex(0)).is_none() && log.entry(LogIndex(3)).is_none());
        assert_eq!(log.last_possible_match(at(u64::MAX, u64::MAX)), at(5, 2));
        assert_eq!(log.last_possible_match(at(1, 9)).index, LogIndex(1));
        assert_eq!(log.page(LogIndex(6), LogIndex(5), 100), []);
    }
}
