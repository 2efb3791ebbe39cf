//! What a member finds on its disk when it starts: the log's records, taken one by one, and what
//! keeps them from being used.
//!
//! A snapshot that was installed replaces the log. Its record says so in the log; but the store gets
//! its name before that record is durable. So a crash between the two leaves a store that the log
//! knows nothing of, and what follows the store's applied index in the log is of a history that was
//! given up. It is told by the entry at that very index: another term, or none at all. The same is
//! found where the store has applied, and made durable, what others have and the own log has not yet.
//! Then a new record says where the log goes on, before anything is appended behind the old end:
//! else the next start would take what was given up and what came after for one history.

use std::collections::VecDeque;

use bytes::Bytes;

use super::record::{self, ENTRY, HARD_STATE, METADATA, Metadata, SNAPSHOT};
use crate::apply::FOUNDING_INDEX;
use crate::mvcc::MvccError;
use crate::raft::{Entry, HardState, LogIndex, LogPosition, RestoreError, Term};

/// Why a member cannot start from what its disk holds.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("{0}")]
    State(#[from] MvccError),
    #[error("the log belongs to member {log:x?}, the command line names member {configured:x?}")]
    Foreign { log: Metadata, configured: Metadata },
    #[error("the log has a gap: entry {found} follows entry {expected_after}")]
    Gap { expected_after: u64, found: u64 },
    #[error("the log has an unreadable record of kind {kind}")]
    Record { kind: u8 },
    #[error("the log and the store do not fit together: {0}")]
    Restore(#[from] RestoreError),
    #[error(
        "the log ends at entry {last}, and the store has all up to {applied}: the end of the log has been \
         lost after it was acknowledged"
    )]
    LogBehindStore { last: u64, applied: u64 },
    #[error("the members of the cluster and the configuration of its log disagree")]
    Configuration,
}

/// What was read from the log, collected record by record while it is recovered.
pub struct Recovered {
    applied: LogPosition,
    /// How many applied entries to keep for followers that are behind, and how many bytes.
    keep: (usize, usize),
    kept_bytes: usize,
    pub(super) metadata: Option<Metadata>,
    hard_state: HardState,
    /// Without a gap; some of them applied.
    entries: VecDeque<Entry>,
    /// The entry at the applied index is not the one that was applied.
    is_void: bool,
    /// The other members are lost for ever: this one is to go on without them.
    pub(super) forces_new_cluster: bool,
    /// The newest entry or snapshot.
    last: u64,
    error: Option<OpenError>,
}

impl Recovered {
    /// `applied` is the last entry whose effect the store holds. Up to `keep_entries` and
    /// `keep_bytes` before it are kept.
    pub fn new(applied: (u64, u64), keep_entries: usize, keep_bytes: usize) -> Recovered {
        Recovered {
            applied: LogPosition { index: LogIndex(applied.0), term: Term(applied.1) },
            keep: (keep_entries, keep_bytes),
            kept_bytes: 0,
            metadata: None,
            hard_state: HardState::default(),
            entries: VecDeque::new(),
            is_void: false,
            forces_new_cluster: false,
            last: 0,
            error: None,
        }
    }

    /// The member is to be the only one of its cluster from now on (`--force-new-cluster`).
    pub fn forcing_new_cluster(self) -> Recovered {
        Recovered { forces_new_cluster: true, ..self }
    }

    /// Index of the newest entry in the log; 0 if there is none.
    pub fn last_index(&self) -> u64 {
        self.last
    }

    /// Index of the first entry that the store has not got, if there is one.
    pub fn first_needed(&self) -> Option<u64> {
        let mut entries = self.entries.iter();
        entries.find(|entry| entry.index > self.applied.index).map(|entry| entry.index.0)
    }

    /// Whether the end of the log is there. A lost last write looks like one that was interrupted,
    /// which recovery cuts; a checkpoint that has its entries gives it away.
    ///
    /// Only of a sole voter it must be there: with others, the store may have come from one of them.
    pub(super) fn expect_end(&self) -> Result<(), OpenError> {
        let (last, applied) = (self.last, self.applied.index.0);
        if applied > FOUNDING_INDEX && last < applied {
            return Err(OpenError::LogBehindStore { last, applied });
        }
        Ok(())
    }

    /// Takes one record.
    pub fn visit(&mut self, kind: u8, index: u64, data: Bytes) {
        if self.error.is_some() {
            return;
        }
        let understood = match kind {
            METADATA => {
                record::decode_metadata(&data).map(|metadata| self.metadata = Some(metadata))
            }
            HARD_STATE => record::decode_hard_state(&data).map(|state| self.hard_state = state),
            ENTRY => record::decode_entry(index, data).map(|entry| self.entry(entry)),
            SNAPSHOT => record::decode_snapshot(&data)
                .filter(|position| position.index <= self.applied.index)
                .map(|position| {
                    self.last = position.index.0;
                    self.forget();
                }),
            _ => None,
        };
        if understood.is_none() {
            self.error = Some(OpenError::Record { kind });
        }
    }

    fn forget(&mut self) {
        self.entries.clear();
        self.kept_bytes = 0;
        self.is_void = false;
    }

    /// A later entry with an index that is already there replaces it and what follows it.
    fn entry(&mut self, entry: Entry) {
        self.last = entry.index.0;
        let applied = self.applied.index;
        if entry.index > applied && self.is_void {
            return;
        }
        while let Some(last) = self.entries.pop_back_if(|last| last.index >= entry.index) {
            if last.index <= applied {
                self.kept_bytes -= last.size_bytes();
            }
        }
        let before = self.entries.back().map(|last| last.index);
        if entry.index <= applied {
            if before.is_some_and(|before| before.next() != entry.index) {
                self.forget();
            }
            if entry.index == applied {
                self.is_void = entry.term != self.applied.term;
            }
            self.kept_bytes += entry.size_bytes();
            self.entries.push_back(entry);
            while self.entries.len() > self.keep.0.max(1) || self.kept_bytes > self.keep.1 {
                let Some(dropped) = self.entries.pop_front() else { break };
                self.kept_bytes -= dropped.size_bytes();
            }
            return;
        }
        let before = before.unwrap_or(applied);
        if entry.index != before.next() {
            self.error = Some(OpenError::Gap { expected_after: before.0, found: entry.index.0 });
            return;
        }
        self.entries.push_back(entry);
    }

    /// Term, vote and commit index. This one covers entries before it in the log, some of which may have been
    /// given up since.
    pub(super) fn hard_state(&self) -> HardState {
        let end = self.entries.back().map_or(self.applied.index, |last| last.index);
        HardState { commit: self.hard_state.commit.min(end), ..self.hard_state }
    }

    /// Whether the log holds entries, and they do not lead to the store's state: where the log goes on
    /// after it has to be written down first.
    pub(super) fn is_given_up(&self) -> bool {
        self.is_void || (!self.entries.is_empty() && !self.reaches_applied())
    }

    fn reaches_applied(&self) -> bool {
        self.entries.back().is_some_and(|last| last.index >= self.applied.index)
    }

    /// The log as Raft takes it up: where it begins, and what it holds.
    pub(super) fn into_log(mut self) -> Result<(LogPosition, Vec<Entry>), OpenError> {
        if let Some(error) = self.error {
            return Err(error);
        }
        if self.is_void || !self.reaches_applied() {
            return Ok((self.applied, Vec::new()));
        }
        let start = match self.entries.pop_front_if(|first| first.index <= self.applied.index) {
            Some(first) => first.position(),
            None => self.applied,
        };
        Ok((start, self.entries.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft::EntryKind;

    fn visit(recovered: &mut Recovered, index: u64, term: u64) {
        let (index, term) = (LogIndex(index), Term(term));
        let entry = Entry { term, index, kind: EntryKind::Normal, data: Bytes::new() };
        let record = record::entry_head(&entry);
        recovered.visit(ENTRY, index.0, Bytes::copy_from_slice(&record));
    }

    fn log(recovered: Recovered) -> (u64, Vec<(u64, u64)>) {
        let (start, entries) = recovered.into_log().unwrap();
        (start.index.0, entries.iter().map(|e| (e.index.0, e.term.0)).collect())
    }

    #[test]
    fn a_commit_index_whose_entries_a_crash_took_is_that_of_what_is_left() {
        let mut recovered = Recovered::new((1, 1), 100, 1 << 20);
        (2..=4).for_each(|index| visit(&mut recovered, index, 1));
        let state = HardState { term: Term(1), vote: None, commit: LogIndex(6) };
        let record = record::encode_hard_state(&state);
        recovered.visit(HARD_STATE, 0, Bytes::copy_from_slice(&record));
        assert_eq!(recovered.hard_state(), HardState { commit: LogIndex(4), ..state });
    }

    #[test]
    fn some_applied_entries_stay_for_followers_that_are_behind() {
        let mut recovered = Recovered::new((10, 1), 4, 1 << 20);
        (1..=12).for_each(|index| visit(&mut recovered, index, 1));
        let (start, entries) = log(recovered);
        assert_eq!(start, 7);
        assert_eq!(entries, [(8, 1), (9, 1), (10, 1), (11, 1), (12, 1)]);
    }

    #[test]
    fn a_suffix_that_was_replaced_is_gone_whether_it_is_applied_or_not() {
        let mut recovered = Recovered::new((3, 2), 100, 1 << 20);
        [(1, 1), (2, 1), (3, 1), (4, 1), (3, 2), (4, 2), (5, 2), (4, 3)]
            .into_iter()
            .for_each(|(index, term)| visit(&mut recovered, index, term));
        assert_eq!(log(recovered), (1, vec![(2, 1), (3, 2), (4, 3)]));
    }

    #[test]
    fn what_follows_another_entry_than_the_applied_one_is_of_another_history() {
        let mut recovered = Recovered::new((3, 5), 100, 1 << 20);
        (1..=6).for_each(|index| visit(&mut recovered, index, 4));
        assert_eq!(log(recovered), (3, vec![]));
        let mut short = Recovered::new((30, 5), 100, 1 << 20);
        (1..=6).for_each(|index| visit(&mut short, index, 4));
        assert_eq!(log(short), (30, vec![]));
    }

    #[test]
    fn the_record_of_a_snapshot_ends_the_log_before_it() {
        let mut recovered = Recovered::new((30, 5), 100, 1 << 20);
        (1..=6).for_each(|index| visit(&mut recovered, index, 4));
        let position = LogPosition { index: LogIndex(30), term: Term(5) };
        let record = record::encode_snapshot(position);
        recovered.visit(SNAPSHOT, 0, Bytes::copy_from_slice(&record));
        visit(&mut recovered, 31, 6);
        assert_eq!(log(recovered), (30, vec![(31, 6)]));
    }

    #[test]
    fn what_was_given_up_is_told_from_what_came_after_by_a_record_between_them() {
        for others in [1..=6, 1..=40] {
            let applied = (30, 5);
            let mut recovered = Recovered::new(applied, 100, 1 << 20);
            others.clone().for_each(|index| visit(&mut recovered, index, 4));
            assert!(recovered.is_given_up());
            let position = LogPosition { index: LogIndex(30), term: Term(5) };
            let record = record::encode_snapshot(position);
            let mut again = Recovered::new(applied, 100, 1 << 20);
            others.for_each(|index| visit(&mut again, index, 4));
            again.visit(SNAPSHOT, 0, Bytes::copy_from_slice(&record));
            assert!(!again.is_given_up());
            visit(&mut again, 31, 5);
            assert_eq!(log(again), (30, vec![(31, 5)]));
        }
        let mut sound = Recovered::new((3, 1), 100, 1 << 20);
        assert!(!sound.is_given_up());
        (1..=3).for_each(|index| visit(&mut sound, index, 1));
        assert!(!sound.is_given_up());
    }

    #[test]
    fn a_gap_is_an_error() {
        let mut recovered = Recovered::new((3, 1), 100, 1 << 20);
        visit(&mut recovered, 5, 1);
        assert!(matches!(
            recovered.into_log(),
            Err(OpenError::Gap { expected_after: 3, found: 5 })
        ));
    }
}
