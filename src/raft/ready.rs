//! What is to be done, and what had to wait until something was durable.
//!
//! Every [`Persist`] has a token. A message that promises something durable is held under the token
//! of the `Persist` that makes it so, and let go when that token is persisted. What has lost its
//! meaning by then — another term has begun, the candidacy is over — is dropped instead.
//! Acknowledgements of entries are not held one by one: they are made when due, from how far the
//! log is equal to the leader's and durable (see `replication.rs`), so an old one cannot exist.

use std::collections::VecDeque;

use super::Raft;
use super::message::{Body, Message, SnapshotMeta};
use super::status::Mark;
use super::types::{Entry, HardState, LogIndex, Role, SoftState, Term, Token};
use crate::mutants::{self, Mutant};

/// One turn of work. See the head of [`super`].
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Ready {
    pub persist: Option<Persist>,
    /// To be sent now; nothing here waits for `persist`.
    pub messages: Vec<Message>,
    /// To be applied, in this order. A configuration change is the last of its `Ready`.
    pub committed: Vec<Entry>,
    /// Reads that may be served once their index is applied.
    pub read_states: Vec<ReadState>,
    /// Contexts of reads that will not be answered. They may be asked again, under new contexts.
    pub lost_reads: Vec<u64>,
    /// Given when it has changed.
    pub soft_state: Option<SoftState>,
}

/// To be made durable, in the order of tokens, and of each in the order of its fields. A crash may
/// leave any beginning of that. So no commit index covers an entry behind it: what is left of the log
/// without that entry may end with another, which it replaces.
#[derive(Debug, PartialEq, Eq)]
pub struct Persist {
    pub token: Token,
    /// A snapshot to put in the place of all state. The log begins after it, former entries are
    /// void.
    pub snapshot: Option<SnapshotMeta>,
    /// Given when it has changed.
    pub hard_state: Option<HardState>,
    /// If the first of them has an index that was given before, that entry and all after it are
    /// replaced.
    pub entries: Vec<Entry>,
    /// The hard state once more, where its commit index covers some of the entries.
    pub hard_state_behind: Option<HardState>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadState {
    pub ctx: u64,
    /// State that has applied this much is fresh enough for the read.
    pub index: LogIndex,
}

pub(super) enum Held {
    Send(Message),
    /// A candidate's vote for itself in this term.
    OwnVote(Term),
}

pub(super) struct Durability {
    /// Of the next `Persist`.
    next: Token,
    /// All up to here is durable.
    persisted: Token,
    /// The `Persist` that holds the present term and vote, if they are given out already.
    hard_state_in: Token,
    /// As last given out, or found on the disk.
    hard_state: HardState,
    /// The next `Persist` is to hold the commit index, whatever else it holds.
    is_commit_wanted: bool,
    /// In the order of tokens.
    held: VecDeque<(Token, Held)>,
}

impl Durability {
    pub(super) fn new(hard_state: HardState) -> Durability {
        Durability {
            next: Token(1),
            persisted: Token(0),
            hard_state_in: Token(0),
            hard_state,
            is_commit_wanted: false,
            held: VecDeque::new(),
        }
    }

    pub(super) fn holds_own_vote(&self, term: Term) -> bool {
        self.held.iter().any(|(_, held)| matches!(held, Held::OwnVote(t) if *t == term))
    }
}

impl Raft {
    /// What is to be done now, or `None` when there is nothing.
    pub fn ready(&mut self) -> Option<Ready> {
        if self.role == Role::Leader {
            self.send_heartbeats();
            self.send_appends();
        } else {
            self.send_acknowledgement();
        }

        let persist = self.take_persist();
        let committed = self.take_committed();
        let soft_state = self.soft_state();
        let has_changed = soft_state != self.last_soft_state;
        self.last_soft_state = soft_state;

        let ready = Ready {
            persist,
            messages: std::mem::take(&mut self.messages),
            committed,
            read_states: std::mem::take(&mut self.reads.answered),
            lost_reads: std::mem::take(&mut self.reads.lost),
            soft_state: has_changed.then_some(soft_state),
        };
        (ready != Ready::default()).then_some(ready)
    }

    /// All that was given out under tokens up to `token` is durable.
    pub fn persisted(&mut self, token: Token) {
        assert!(token < self.durability.next, "token {token} was never given out");
        if token <= self.durability.persisted {
            return;
        }
        self.durability.persisted = token;

        let was_start_persisted = self.log.is_start_persisted();
        self.log.persist(token);
        if !was_start_persisted && self.log.is_start_persisted() {
            self.log.snapshot_persisted();
        }
        while let Some((_, held)) = self.durability.held.pop_front_if(|(t, _)| *t <= token) {
            self.let_go(held);
        }
        if self.role == Role::Leader {
            self.maybe_commit();
        }
        self.campaign_if_wanted();
    }

    fn let_go(&mut self, held: Held) {
        match held {
            Held::OwnVote(term) => self.own_vote_persisted(term),
            Held::Send(message) => {
                let is_wanted = match message.body {
                    Body::VoteRequest { .. } => self.role == Role::Candidate,
                    _ => self.vote == Some(message.to),
                };
                if message.term == self.term && is_wanted {
                    self.messages.push(message);
                } else {
                    self.mark(Mark::HeldMessageDropped);
                }
            }
        }
    }

    /// Holds something until the present term and vote are durable. Where these are new, so is by
    /// then all of the log as it is now.
    pub(super) fn hold(&mut self, held: Held) {
        let token = if self.is_hard_state_unhanded() {
            self.durability.next
        } else {
            self.durability.hard_state_in
        };
        let is_early = mutants::is_on(Mutant::VoteBeforeDurable);
        if token <= self.durability.persisted || is_early {
            self.let_go(held);
        } else {
            self.durability.held.push_back((token, held));
        }
    }

    fn is_hard_state_unhanded(&self) -> bool {
        let given = self.durability.hard_state;
        (given.term, given.vote) != (self.term, self.vote)
    }

    pub(super) fn is_term_persisted(&self) -> bool {
        !self.is_hard_state_unhanded() && self.durability.hard_state_in <= self.durability.persisted
    }

    /// Asks for a `Persist` if the commit index has risen since the last one.
    pub fn save_commit(&mut self) {
        self.durability.is_commit_wanted = self.log.commit() > self.durability.hard_state.commit;
    }

    /// A commit index alone is not worth a write; it goes along with the next one, or when the caller
    /// has nothing better to do.
    fn take_persist(&mut self) -> Option<Persist> {
        let is_urgent = self.is_hard_state_unhanded();
        let is_commit_wanted = std::mem::take(&mut self.durability.is_commit_wanted);
        let has_news = self.log.has_unhanded() || self.unhanded_snapshot.is_some();
        if !is_urgent && !has_news && !is_commit_wanted {
            return None;
        }
        let token = self.durability.next;
        self.durability.next = Token(token.0 + 1);
        if is_urgent {
            self.durability.hard_state_in = token;
        }
        let entries = self.log.hand_out(token);
        let behind = HardState { term: self.term, vote: self.vote, commit: self.log.commit() };
        let commit = match entries.first() {
            Some(first) => behind.commit.min(LogIndex(first.index.0 - 1)),
            None => behind.commit,
        };
        let given = std::mem::replace(&mut self.durability.hard_state, behind);
        assert!(commit >= given.commit, "a saved commit index never falls");
        let hard_state = HardState { commit, ..behind };
        Some(Persist {
            token,
            snapshot: self.unhanded_snapshot.take(),
            hard_state: (hard_state != given).then_some(hard_state),
            entries,
            hard_state_behind: (behind != hard_state).then_some(behind),
        })
    }

    fn take_committed(&mut self) -> Vec<Entry> {
        use super::types::EntryKind::ConfChange;
        if self.open_conf_change.is_some() {
            return Vec::new();
        }
        let bytes_max = self.config.committed_bytes_max;
        let committed = self.log.release(self.config.apply_unpersisted, bytes_max);
        self.open_conf_change =
            committed.last().filter(|entry| entry.kind == ConfChange).map(|entry| entry.index);
        committed
    }

    pub(super) fn soft_state(&self) -> SoftState {
        SoftState { role: self.role, term: self.term, leader: self.leader }
    }
}
