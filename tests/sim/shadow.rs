//! What a member's log holds, read from the operations that go to its disk: as it was written, and
//! as a crash would leave it. What a member says to others is held against the latter.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use ringd::node::{ENTRY, HARD_STATE, SNAPSHOT};

use crate::truth::Logged;

/// One record that matters here.
#[derive(Clone, Debug)]
pub enum Record {
    HardState {
        term: u64,
        vote: u64,
    },
    /// All before it is void.
    Snapshot {
        index: u64,
        term: u64,
    },
    Entry {
        index: u64,
        term: u64,
        kind: u8,
        data: Bytes,
    },
}

impl Record {
    /// `docs/FORMAT.md` has the layouts.
    pub fn decode(kind: u8, index: u64, data: Bytes) -> Option<Record> {
        let word = |at: usize| {
            data.get(at..at + 8).map(|word| u64::from_le_bytes(word.try_into().expect("eight")))
        };
        match kind {
            HARD_STATE => Some(Record::HardState { term: word(0)?, vote: word(8)? }),
            SNAPSHOT => Some(Record::Snapshot { index: word(0)?, term: word(8)? }),
            ENTRY => Some(Record::Entry {
                index,
                term: word(0)?,
                kind: *data.get(8)?,
                data: data.slice(9..),
            }),
            _ => None,
        }
    }

    /// The records of one write of the log; none of one that clears what was torn.
    pub fn of_write(segment: wal::SegmentId, offset: u64, data: &[u8]) -> Vec<Record> {
        let at = wal::Position { segment, offset };
        match wal::read_batch(at, wal::BatchSeq::NONE, data) {
            Ok(wal::Step::Batch(batch)) => batch
                .records()
                .filter(|record| !record.preamble)
                .filter_map(|record| Record::decode(record.kind, record.index, record.bytes()))
                .collect(),
            Ok(wal::Step::End) => Vec::new(),
            other => panic!("a write of the log that cannot be read: {other:?}"),
        }
    }
}

/// One view of the log.
#[derive(Clone, Default)]
pub struct View {
    /// Term and vote.
    pub hard_state: (u64, u64),
    /// Terms of entries, by index.
    pub terms: BTreeMap<u64, u64>,
}

/// Entries that are remembered behind the newest: more than any run has, as a store without a checkpoint
/// needs all of them.
const KEPT: u64 = 1 << 17;

impl View {
    pub fn take(&mut self, record: &Record) {
        match *record {
            Record::HardState { term, vote } => self.hard_state = (term, vote),
            Record::Snapshot { index, term } => self.terms = BTreeMap::from([(index, term)]),
            Record::Entry { index, term, .. } => {
                drop(self.terms.split_off(&index));
                self.terms.insert(index, term);
                if self.terms.len() as u64 > 2 * KEPT {
                    self.terms = self.terms.split_off(&(index - KEPT));
                }
            }
        }
    }
}

#[derive(Default)]
pub struct Shadow {
    pub written: View,
    pub durable: View,
    writes: VecDeque<(wal::OpId, Vec<Record>)>,
}

impl Shadow {
    /// A member starts, and this is what it finds.
    pub fn restart(&mut self, records: &[Record], applied: (u64, u64)) {
        self.writes.clear();
        self.durable = View::default();
        records.iter().for_each(|record| self.durable.take(record));
        let (index, term) = applied;
        let terms = &mut self.durable.terms;
        let goes_on = match terms.get(&index) {
            Some(found) => *found == term,
            None => terms.first_key_value().is_some_and(|(first, _)| *first == index + 1),
        };
        if !goes_on {
            // All of it is older, or of a history that was given up.
            terms.clear();
        }
        terms.insert(index, term);
        self.written = self.durable.clone();
    }

    /// A write begins. Gives each entry with its place, as it has to be known to `Truth`.
    pub fn write(&mut self, op: wal::OpId, records: Vec<Record>) -> Vec<(u64, u64, Logged)> {
        let mut logged = Vec::new();
        for record in &records {
            if let Record::Entry { index, term, kind, data } = record
                && let Some(prev_term) = self.written.terms.get(&(index - 1))
            {
                let entry = Logged { kind: *kind, data: data.clone(), prev_term: *prev_term };
                logged.push((*index, *term, entry));
            }
            self.written.take(record);
        }
        self.writes.push_back((op, records));
        logged
    }

    pub fn write_done(&mut self, op: wal::OpId) {
        if self.writes.front().is_some_and(|(id, _)| *id == op)
            && let Some((_, records)) = self.writes.pop_front()
        {
            records.iter().for_each(|record| self.durable.take(record));
        }
    }

    /// Whether the entry at this place would survive a crash. What is older than what is
    /// remembered does.
    pub fn holds(&self, index: u64, term: u64) -> bool {
        match self.durable.terms.first_key_value() {
            Some((first, _)) if index < *first => true,
            _ => self.durable.terms.get(&index) == Some(&term),
        }
    }
}
