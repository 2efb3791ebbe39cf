//! One member: Raft, a disk that completes when told, and a state that is a digest of all it
//! applied.

use std::collections::VecDeque;

use crate::raft::{
    ConfChange, Config, Configuration, Entry, EntryKind, HardState, LogIndex, LogPosition, Message,
    NodeId, Persist, Raft, ReadState, Ready, Term,
};

use super::checks::{Checks, digest};

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct State {
    pub(super) position: LogPosition,
    pub(super) configuration: Configuration,
    pub(super) digest: u64,
}

/// What survives a crash, and what is on its way there.
pub(super) struct Disk {
    pub(super) hard_state: HardState,
    pub(super) start: LogPosition,
    pub(super) entries: Vec<Entry>,
    pub(super) state: State,
    pub(super) pending: VecDeque<Persist>,
}

impl Disk {
    pub(super) fn last(&self) -> LogPosition {
        self.entries.last().map_or(self.start, Entry::position)
    }

    pub(super) fn holds(&self, position: LogPosition) -> bool {
        if position.index <= self.start.index {
            return true;
        }
        let place = (position.index.0 - self.start.index.0 - 1) as usize;
        self.entries.get(place).is_some_and(|entry| entry.term == position.term)
    }

    /// The oldest write is durable now, if there is one.
    fn complete_one(&mut self, checks: &Checks) -> Option<Persist> {
        let persist = self.pending.pop_front()?;
        if let Some(snapshot) = &persist.snapshot {
            self.start = snapshot.position;
            self.entries.clear();
            self.state = State {
                position: snapshot.position,
                configuration: snapshot.configuration.clone(),
                digest: checks.digest_at(snapshot.position.index),
            };
        }
        if let Some(hard_state) = persist.hard_state {
            self.hard_state = hard_state;
        }
        if let Some(first) = persist.entries.first() {
            assert!(first.index > self.start.index && first.index <= self.last().index.next());
            self.entries.truncate((first.index.0 - self.start.index.0 - 1) as usize);
            self.entries.extend(persist.entries.iter().cloned());
        }
        if let Some(hard_state) = persist.hard_state_behind {
            self.hard_state = hard_state;
        }
        assert!(self.hard_state.term >= self.last().term, "an entry is durable before its term");
        Some(persist)
    }

    /// Of the oldest write the first `parts` are durable: the hard state if it has one, entries, the hard
    /// state behind them. A snapshot comes as a whole, or not at all.
    fn complete_partly(&mut self, parts: usize, checks: &Checks) {
        let Some(persist) = self.pending.front_mut() else { return };
        if persist.snapshot.is_some() || parts == 0 {
            return;
        }
        let entries = parts - usize::from(persist.hard_state.is_some());
        if entries <= persist.entries.len() {
            persist.hard_state_behind = None;
        }
        persist.entries.truncate(entries);
        self.complete_one(checks);
    }

    /// Of how many parts the write after the `kept` oldest consists.
    pub(super) fn parts_after(&self, kept: usize) -> usize {
        let of = |persist: &Persist| {
            let states = [persist.hard_state, persist.hard_state_behind];
            states.iter().flatten().count() + persist.entries.len()
        };
        self.pending.get(kept).map_or(0, of)
    }
}

pub(super) struct Member {
    pub(super) id: NodeId,
    pub(super) disk: Disk,
    pub(super) state: State,
    /// `None` while it is down.
    pub(super) raft: Option<Raft>,
    incarnation: u64,
    next_context: u64,
    /// Context and the commit index that the answer must reach.
    reads: VecDeque<(u64, LogIndex)>,
    config: Config,
}

impl Member {
    pub(super) fn new(config: Config, configuration: Configuration, start: LogPosition) -> Member {
        let state = State { position: start, configuration, digest: 0 };
        let hard_state = HardState::default();
        let (entries, pending) = (Vec::new(), VecDeque::new());
        let disk = Disk { hard_state, start, entries, state: state.clone(), pending };
        let id = config.id;
        let reads = VecDeque::new();
        let mut member =
            Member { id, disk, state, raft: None, incarnation: 0, next_context: 0, reads, config };
        member.start();
        member
    }

    pub(super) fn start(&mut self) {
        let disk = &self.disk;
        self.incarnation += 1;
        self.state = disk.state.clone();
        let mut config = self.config.clone();
        config.incarnation = self.incarnation;
        // A crash may have left it without the entries that came with it.
        let commit = disk.hard_state.commit.min(disk.last().index);
        let raft = Raft::new(
            config,
            HardState { commit, ..disk.hard_state },
            disk.state.configuration.clone(),
            (disk.start.index, disk.start.term),
            disk.entries.clone(),
            disk.state.position.index,
        );
        self.raft = Some(raft.unwrap_or_else(|error| panic!("member {}: {error}", self.id)));
    }

    /// Loses everything but the disk, and of the writes under way all but the `kept` oldest and so many
    /// `parts` of the one after them. Contexts of reads start over, as those of a careless caller would.
    pub(super) fn crash(&mut self, kept: usize, parts: usize, checks: &Checks) -> Option<Raft> {
        for _ in 0..kept {
            self.disk.complete_one(checks);
        }
        self.disk.complete_partly(parts, checks);
        self.disk.pending.clear();
        self.reads.clear();
        self.next_context = 0;
        self.raft.take()
    }

    pub(super) fn read(&mut self, floor: LogIndex) {
        let Some(raft) = &mut self.raft else { return };
        self.next_context += 1;
        if raft.read_index(self.next_context).is_ok() {
            self.reads.push_back((self.next_context, floor));
        }
    }

    pub(super) fn disk_completes(&mut self, checks: &Checks) {
        let Some(raft) = &mut self.raft else { return };
        let Some(persist) = self.disk.complete_one(checks) else { return };
        raft.persisted(persist.token);
        if persist.snapshot.is_some() && self.state.position.index < self.disk.state.position.index
        {
            self.state = self.disk.state.clone();
        }
    }

    /// Makes the state durable, and forgets the log up to `keep` entries before it.
    pub(super) fn checkpoint(&mut self, keep: u64) {
        let Some(raft) = &mut self.raft else { return };
        // A snapshot under way replaces all of it; and a state must not be durable ahead of the
        // log.
        let busy = self.disk.pending.iter().any(|persist| persist.snapshot.is_some());
        if busy || self.state.position.index > raft.persisted_index() {
            return;
        }
        self.disk.state = self.state.clone();
        let until = LogIndex(self.state.position.index.0.saturating_sub(keep));
        let start = raft.compact(until);
        let disk = &mut self.disk;
        while disk.start.index < start {
            disk.start = disk.entries.remove(0).position();
        }
    }

    /// Does what `ready` says, and returns the messages. Returns the number of reads answered.
    pub(super) fn turn(&mut self, checks: &mut Checks) -> (Vec<Message>, usize) {
        let mut messages = Vec::new();
        let mut answered = 0;
        while let Some(raft) = &mut self.raft
            && let Some(ready) = raft.ready()
        {
            let Ready { persist, messages: more, committed, read_states, lost_reads, .. } = ready;
            for message in &more {
                checks.sent(message, &self.disk, raft);
            }
            messages.extend(more);
            if let Some(persist) = persist {
                checks.appended(&persist, raft);
                self.disk.pending.push_back(persist);
            }
            for ReadState { ctx, index } in read_states {
                let place = self.reads.iter().position(|(context, _)| *context == ctx);
                let (_, floor) =
                    self.reads.remove(place.expect("an answer nobody asked for")).unwrap();
                assert!(index >= floor, "a stale read at member {}: {index} < {floor}", self.id);
                answered += 1;
            }
            for context in lost_reads {
                let place = self.reads.iter().position(|(asked, _)| *asked == context);
                self.reads.remove(place.expect("a read that was lost before"));
            }
            for entry in committed {
                self.apply(entry, checks);
            }
        }
        (messages, answered)
    }

    fn apply(&mut self, entry: Entry, checks: &mut Checks) {
        let Some(raft) = &mut self.raft else { return };
        assert_eq!(entry.index, self.state.position.index.next(), "a gap in what is applied");
        self.state.position = entry.position();
        self.state.digest = digest(self.state.digest, &entry);
        match entry.kind {
            EntryKind::Normal => raft.applied(entry.index),
            EntryKind::ConfChange => {
                let change = ConfChange::decode(&entry.data).unwrap();
                // The application has its own opinion of some changes.
                if change.context.first() == Some(&0) {
                    raft.skip_conf_change(entry.index);
                } else if let Ok(configuration) = raft.apply_conf_change(entry.index, &change) {
                    self.state.configuration = configuration.clone();
                }
            }
        }
        checks.applied(&entry, &self.state);
    }

    pub(super) fn commit(&self) -> LogIndex {
        self.raft.as_ref().map_or(LogIndex(0), Raft::commit_index)
    }

    pub(super) fn leads_in(&self) -> Option<Term> {
        self.raft.as_ref().filter(|raft| raft.is_leader()).map(Raft::term)
    }
}
