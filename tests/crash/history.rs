//! What clients were told, and whether it can be true.
//!
//! Each key is a register, each value is written once, and every answer names a revision: that of the put, or that of
//! the value which was read. So the order in which everything must have happened is known, and linearizability is
//! three rules:
//! - a revision belongs to one put, and what is read at a revision is what was put there;
//! - what begins after something has ended is not before it: not of its key, and not of the whole store;
//! - nothing is read before somebody began to write it.

use std::collections::BTreeMap;

/// One answered call. Times are microseconds of one clock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Op {
    pub begun_us: u64,
    pub ended_us: u64,
    pub key: u32,
    /// The value that was put or read; 0 for a key that is not there.
    pub value: u64,
    /// Of the put, or of the value that was read; 0 for a key that is not there.
    pub revision: i64,
    /// Of the store, as the answer's header has it.
    pub store_revision: i64,
    pub is_put: bool,
}

#[derive(Debug, Default)]
pub struct History {
    pub ops: Vec<Op>,
    /// Key and beginning of every put, answered or not, by its value.
    pub puts: BTreeMap<u64, (u32, u64)>,
    /// What the watcher saw: key and value by revision.
    pub watched: BTreeMap<i64, (u32, u64)>,
}

impl History {
    /// What cannot be true, if anything.
    pub fn complaint(&self) -> Option<String> {
        self.revisions().or_else(|| self.real_time()).or_else(|| self.watch())
    }

    fn revisions(&self) -> Option<String> {
        let mut known: BTreeMap<i64, (u32, u64)> = BTreeMap::new();
        for op in &self.ops {
            if op.revision == 0 {
                continue;
            }
            let Some((key, begun_us)) = self.puts.get(&op.value) else {
                return Some(format!("a value that nobody wrote: {op:?}"));
            };
            if *key != op.key || *begun_us > op.ended_us {
                return Some(format!("read before it was written, or at another key: {op:?}"));
            }
            let there = known.entry(op.revision).or_insert((op.key, op.value));
            if *there != (op.key, op.value) {
                return Some(format!("revision {} is {there:?} and {op:?}", op.revision));
            }
        }
        let mut of_values: BTreeMap<u64, i64> = BTreeMap::new();
        for (revision, (_, value)) in known {
            if let Some(other) = of_values.insert(value, revision) {
                return Some(format!("value {value} was written at {other} and at {revision}"));
            }
        }
        None
    }

    fn real_time(&self) -> Option<String> {
        let mut by_end: Vec<&Op> = self.ops.iter().collect();
        by_end.sort_by_key(|op| op.ended_us);
        let mut by_begin: Vec<&Op> = self.ops.iter().collect();
        by_begin.sort_by_key(|op| op.begun_us);
        let mut ended = by_end.into_iter().peekable();
        let mut of_keys: BTreeMap<u32, &Op> = BTreeMap::new();
        let mut of_store: Option<&Op> = None;
        for op in by_begin {
            while let Some(before) = ended.next_if(|before| before.ended_us < op.begun_us) {
                let last = of_keys.entry(before.key).or_insert(before);
                if before.revision > last.revision {
                    *last = before;
                }
                if of_store.is_none_or(|last| before.store_revision > last.store_revision) {
                    of_store = Some(before);
                }
            }
            if let Some(last) = of_keys.get(&op.key) {
                let stale = if op.is_put {
                    op.revision <= last.revision
                } else {
                    op.revision < last.revision
                };
                if stale {
                    return Some(format!("{op:?} is before {last:?}, which had ended"));
                }
            }
            if let Some(last) = of_store
                && op.store_revision < last.store_revision
            {
                return Some(format!("{op:?} sees an older store than {last:?}, which had ended"));
            }
        }
        None
    }

    /// The watcher checks that revisions have no gap as it takes them; here they are held against
    /// the answers.
    fn watch(&self) -> Option<String> {
        let last = self.watched.last_key_value().map_or(0, |(revision, _)| *revision);
        for op in self.ops.iter().filter(|op| op.is_put && op.revision <= last) {
            if self.watched.get(&op.revision) != Some(&(op.key, op.value)) {
                let there = self.watched.get(&op.revision);
                return Some(format!("acknowledged and lost: {op:?}, the watcher saw {there:?}"));
            }
        }
        None
    }
}

/// Each rule is broken once by hand, so that the checker is known to see it.
mod planted {
    use super::*;

    fn put(begun_us: u64, ended_us: u64, value: u64, revision: i64) -> Op {
        let store_revision = revision;
        Op { begun_us, ended_us, key: 1, value, revision, store_revision, is_put: true }
    }

    fn read(begun_us: u64, ended_us: u64, value: u64, revision: i64) -> Op {
        Op { is_put: false, ..put(begun_us, ended_us, value, revision) }
    }

    fn history(ops: Vec<Op>) -> History {
        let puts = [(1, (1, 0)), (2, (1, 20)), (3, (1, 40))].into();
        History { ops, puts, watched: BTreeMap::new() }
    }

    #[test]
    fn what_can_be_true_is_believed() {
        let ops = vec![put(0, 10, 1, 2), read(5, 30, 2, 3), put(20, 30, 2, 3), read(31, 32, 2, 3)];
        assert_eq!(history(ops).complaint(), None);
        // A put without an answer may have happened at any time, or never.
        assert_eq!(history(vec![put(0, 10, 1, 2), read(50, 60, 3, 9)]).complaint(), None);
    }

    #[test]
    fn what_cannot_be_true_is_found() {
        let lies = [
            ("a stale read", vec![put(0, 10, 1, 2), put(20, 30, 2, 3), read(31, 32, 1, 2)]),
            ("a read before the write", vec![read(0, 10, 2, 3)]),
            ("a value of nobody", vec![read(0, 10, 9, 3)]),
            ("two values of a revision", vec![put(0, 10, 1, 2), put(20, 30, 2, 2)]),
            ("a value at two revisions", vec![put(0, 10, 1, 2), read(20, 30, 1, 3)]),
            ("a key that is gone", vec![put(0, 10, 1, 2), read(20, 30, 0, 0)]),
        ];
        for (name, ops) in lies {
            assert!(history(ops).complaint().is_some(), "{name}");
        }
        let older = Op { key: 2, store_revision: 2, ..read(31, 32, 0, 0) };
        assert!(history(vec![put(20, 30, 2, 3), older]).complaint().is_some(), "an older store");
        let mut lost = history(vec![put(0, 10, 1, 2)]);
        lost.watched = [(3, (1, 2))].into();
        assert!(lost.complaint().is_some(), "lost");
    }
}
