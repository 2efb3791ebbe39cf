//! What must hold after every step: the five properties of figure 3 of the paper, and the
//! durability contract seen from outside, by what members say against what their disks hold.

use std::collections::{BTreeMap, HashMap};

use crate::raft::{
    Body, Configuration, Entry, EntryKind, LogIndex, LogPosition, Message, NodeId, Persist, Raft,
    Term,
};

use super::member::{Disk, Member, State};

pub(super) fn digest(before: u64, entry: &Entry) -> u64 {
    let mut hash = before ^ 0xcbf2_9ce4_8422_2325;
    let kind = matches!(entry.kind, EntryKind::ConfChange).into();
    let head = entry.index.0.to_le_bytes().into_iter().chain(entry.term.0.to_le_bytes());
    for byte in head.chain([kind]).chain(entry.data.iter().copied()) {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    hash
}

#[derive(Default)]
pub(super) struct Checks {
    /// Election Safety.
    leaders: HashMap<Term, NodeId>,
    votes: HashMap<(Term, NodeId), NodeId>,
    /// Log Matching: index and term of an entry decide its content and the term before it.
    entries: HashMap<LogPosition, (u64, Term)>,
    /// Leader Append-Only: where each leader's log ended when last seen.
    leader_ends: HashMap<NodeId, (Term, LogPosition)>,
    /// Leader Completeness and State Machine Safety.
    committed: BTreeMap<LogIndex, Term>,
    states: BTreeMap<LogIndex, (u64, Configuration)>,
    seen: HashMap<NodeId, (LogIndex, Configuration)>,
}

impl Checks {
    pub(super) fn committed(&self) -> u64 {
        self.committed.len() as u64
    }

    pub(super) fn leaders(&self) -> u64 {
        self.leaders.len() as u64
    }

    pub(super) fn digest_at(&self, index: LogIndex) -> u64 {
        self.states.get(&index).map_or(0, |(digest, _)| *digest)
    }

    /// A message leaves a member with this disk.
    pub(super) fn sent(&mut self, message: &Message, disk: &Disk, raft: &Raft) {
        let Message { from, to, term, ref body } = *message;
        let voted_for = match body {
            Body::VoteRequest { last, .. } => {
                assert!(disk.holds(*last), "a candidate boasts of a log it may lose: {message:?}");
                Some(from)
            }
            Body::VoteResponse { granted: true, .. } => Some(to),
            Body::AppendAccepted { matched } => {
                assert!(disk.hard_state.term >= term, "a term is acknowledged, but not durable");
                assert!(disk.last().index >= *matched, "not durable: {message:?}");
                let known = disk.hard_state.commit.max(disk.state.position.index);
                let acknowledged = disk.entries.iter().filter(|entry| {
                    entry.kind == EntryKind::ConfChange
                        && entry.index > known
                        && entry.index <= *matched
                });
                assert!(acknowledged.count() <= 1, "the first change is committed: {message:?}");
                // What is compacted here is committed, and cannot be another entry.
                if let Some(term) = raft.term_at(*matched) {
                    let position = LogPosition { index: *matched, term };
                    assert!(disk.holds(position), "another entry is durable: {message:?}");
                }
                None
            }
            _ => None,
        };
        if let Some(candidate) = voted_for {
            let durable = (disk.hard_state.term, disk.hard_state.vote);
            assert_eq!(durable, (term, Some(candidate)), "a vote is out before it is durable");
            let first = *self.votes.entry((term, from)).or_insert(candidate);
            assert_eq!(first, candidate, "member {from} votes twice in term {term}");
        }
    }

    pub(super) fn appended(&mut self, persist: &Persist, raft: &Raft) {
        for entry in &persist.entries {
            let before = raft.term_at(entry.index.prev()).expect("what is before is not compacted");
            let content = (digest(0, entry), before);
            let first = *self.entries.entry(entry.position()).or_insert(content);
            assert_eq!(first, content, "Log Matching: two entries at {:?}", entry.position());
        }
    }

    pub(super) fn applied(&mut self, entry: &Entry, state: &State) {
        let now = (state.digest, state.configuration.clone());
        let first = self.states.entry(entry.index).or_insert_with(|| now.clone());
        assert_eq!(*first, now, "State Machine Safety: two states at {}", entry.index);
        self.commit(entry.position());
    }

    fn commit(&mut self, position: LogPosition) {
        let first = *self.committed.entry(position.index).or_insert(position.term);
        assert_eq!(first, position.term, "two entries are committed at {}", position.index);
    }

    /// `member` has just taken a step.
    pub(super) fn after_step(&mut self, member: &Member, all: &[Member]) {
        let Some(raft) = &member.raft else {
            self.leader_ends.remove(&member.id);
            self.seen.remove(&member.id);
            return;
        };
        if let Some(complaint) = raft.complaint() {
            panic!("member {}: {complaint}: {:?}", member.id, raft.status());
        }

        let commit = raft.commit_index();
        let now = (commit, raft.configuration().clone());
        let (seen, before) = self.seen.insert(member.id, now).unwrap_or_default();
        assert!(commit >= seen, "a commit index that falls");
        for index in (seen.0.max(raft.start_index().0) + 1..=commit.0).map(LogIndex) {
            let term = raft.term_at(index).expect("what is committed is there or compacted");
            self.commit(LogPosition { index, term });
        }
        // A leader counts for its own term only; else it learned of the commit before it became
        // one.
        if commit > seen && raft.is_leader() && raft.term_at(commit) == Some(raft.term()) {
            // What was committed may have changed the configuration in the same step.
            assert!(
                is_durable(raft, &before, all) || is_durable(raft, raft.configuration(), all),
                "{commit} is committed by {}, but not durable on a quorum",
                raft.id()
            );
        }

        match member.leads_in() {
            Some(term) => self.check_leader(term, raft),
            None => {
                self.leader_ends.remove(&member.id);
            }
        }
    }

    fn check_leader(&mut self, term: Term, raft: &Raft) {
        let id = raft.id();
        let first = *self.leaders.entry(term).or_insert(id);
        assert_eq!(first, id, "Election Safety: two leaders in term {term}");

        let end = LogPosition {
            index: raft.last_index(),
            term: raft.term_at(raft.last_index()).expect("the end of the log"),
        };
        match self.leader_ends.insert(id, (term, end)) {
            Some((before, old)) if before == term => {
                let still = raft.term_at(old.index);
                let compacted = old.index < raft.start_index();
                assert!(
                    end.index >= old.index && (compacted || still == Some(old.term)),
                    "Leader Append-Only: {old:?} is gone at {id}"
                );
            }
            _ => {
                for (&index, &committed) in &self.committed {
                    let found = raft.term_at(index);
                    assert!(
                        index < raft.start_index() || found == Some(committed) || committed > term,
                        "Leader Completeness: leader {id} of term {term} has {found:?} at {index}, \
                         where {committed} is committed"
                    );
                }
            }
        }
    }
}

/// Whether what `raft` has committed is on the disks of a quorum of both halves.
fn is_durable(raft: &Raft, configuration: &Configuration, all: &[Member]) -> bool {
    let index = raft.commit_index();
    let Some(term) = raft.term_at(index) else { return true };
    let position = LogPosition { index, term };
    [&configuration.voters, &configuration.outgoing].iter().all(|half| {
        let durable = all.iter().filter(|m| half.contains(m.id) && m.disk.holds(position)).count();
        durable * 2 > half.len() || half.is_empty()
    })
}
