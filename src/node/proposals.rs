//! Proposals on their way: from whoever asks on this member, through the leader, whoever that is,
//! to the outcome that this member finds when it applies the entry.
//!
//! A proposal that nobody can have appended — there is no leader, or the leader said no — is made
//! again. One that was given to a leader is not: it may be in a log, and would take effect twice.
//! If no outcome comes, its time ends here, and whoever asked does not know what became of it.
//!
//! Invariant: each open proposal is here once, with its bytes as long as it may have to be made
//! again; their number and their bytes are bounded.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;

use super::limits::{FORWARDED_BYTES_MAX, LOG_PENDING_BYTES_MAX, TAKEN_IDS_MAX};
use super::message::{PeerMessage, Refusal};
use super::{Node, Output};
use crate::apply::Outcome;
use crate::apply::envelope::{self, Kind};
use crate::auth::Identity;
use crate::raft::{self, EntryKind, NodeId, Term};

/// Why a request did not become an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProposeError {
    TooManyRequests,
    TooLarge,
}

struct Open {
    id: u64,
    since_ms: u64,
    /// Answered, and only still here since an older one is not.
    is_closed: bool,
    /// To be made again.
    is_waiting: bool,
    /// Which one is under way; a refusal of an earlier one says nothing any more.
    attempt: u64,
    /// Kept by a member that does not lead.
    entry: Option<(EntryKind, Bytes)>,
}

#[derive(Default)]
pub(super) struct Proposals {
    /// In rising order of their ids, which is that of their age.
    queue: VecDeque<Open>,
    open: usize,
    bytes: usize,
    /// Ids of those to be made again.
    waiting: Vec<u64>,
    /// Not before.
    retry_ms: u64,
    pub(super) failed_total: u64,
}

impl Proposals {
    fn insert(&mut self, id: u64, now_ms: u64, entry: Option<(EntryKind, Bytes)>) {
        self.bytes += entry.as_ref().map_or(0, |(_, data)| data.len());
        self.open += 1;
        let (is_closed, is_waiting, attempt) = (false, false, 0);
        self.queue.push_back(Open { id, since_ms: now_ms, is_closed, is_waiting, attempt, entry });
    }

    fn find(&mut self, id: u64) -> Option<&mut Open> {
        let place = match self.queue.front() {
            Some(first) if first.id == id => 0,
            _ => self.queue.binary_search_by_key(&id, |open| open.id).ok()?,
        };
        self.queue.get_mut(place).filter(|open| !open.is_closed)
    }

    /// Whether the id is that of an open proposal, which it is no longer.
    pub(super) fn close(&mut self, id: u64) -> bool {
        let Some(open) = self.find(id) else { return false };
        open.is_closed = true;
        let entry = open.entry.take();
        self.bytes -= entry.map_or(0, |(_, data)| data.len());
        self.open -= 1;
        while self.queue.pop_front_if(|open| open.is_closed).is_some() {}
        true
    }

    pub(super) fn len(&self) -> usize {
        self.open
    }

    /// Ends what is older than `since_ms`.
    fn expire(&mut self, since_ms: u64) {
        let before = self.open;
        while let Some(id) = self.queue.front().filter(|o| o.since_ms < since_ms).map(|o| o.id) {
            self.close(id);
        }
        if self.open < before {
            self.failed_total += (before - self.open) as u64;
            let oldest = self.queue.front().map_or(u64::MAX, |open| open.id);
            self.waiting.retain(|id| *id >= oldest);
        }
    }
}

/// A proposal as another member sent it.
pub(super) struct Forwarded {
    pub id: u64,
    pub attempt: u64,
    pub term: Term,
    pub kind: EntryKind,
    pub entry: Bytes,
}

/// The proposals that this member saw while it led, in any term, by the member that sent them. The
/// network may double a message: what was appended is never taken again, and what was refused only
/// if its sender tries again. What is too old to be remembered counts as doubled.
#[derive(Default)]
pub(super) struct Taken {
    by: BTreeMap<NodeId, Seen>,
}

#[derive(Default)]
struct Seen {
    /// By id, the attempts that are of no use any more: all, or those up to this one.
    attempts: BTreeMap<u64, u64>,
    /// Ids up to here are forgotten.
    floor: u64,
}

impl Taken {
    /// Whether an answer to the attempt was given, or will come of itself.
    fn is_known(&self, from: NodeId, id: u64, attempt: u64) -> bool {
        self.by.get(&from).is_some_and(|seen| {
            id <= seen.floor || seen.attempts.get(&id).is_some_and(|last| *last >= attempt)
        })
    }

    /// Whether the proposal may be appended.
    fn take(&mut self, from: NodeId, id: u64, attempt: u64) -> bool {
        if self.is_known(from, id, attempt) {
            return false;
        }
        let seen = self.by.entry(from).or_default();
        seen.attempts.insert(id, u64::MAX);
        while seen.attempts.len() > TAKEN_IDS_MAX
            && let Some((oldest, _)) = seen.attempts.pop_first()
        {
            seen.floor = oldest;
        }
        true
    }

    /// This attempt came to nothing; a later one may.
    fn refuse(&mut self, from: NodeId, id: u64, attempt: u64) {
        if let Some(last) = self.by.get_mut(&from).and_then(|seen| seen.attempts.get_mut(&id)) {
            *last = attempt;
        }
    }

    /// Of those who are no members any more only one number stays: what they sent before counts as
    /// doubled.
    pub(super) fn forget_strangers(&mut self, is_member: impl Fn(NodeId) -> bool) {
        for (_, seen) in self.by.iter_mut().filter(|(id, _)| !is_member(**id)) {
            if let Some((last, _)) = seen.attempts.pop_last() {
                seen.floor = last;
                seen.attempts.clear();
            }
        }
    }
}

impl Node {
    pub fn pending_proposals(&self) -> usize {
        self.proposals.len()
    }

    /// Proposals that failed since the start.
    pub fn failed_proposals(&self) -> u64 {
        self.proposals.failed_total
    }

    /// Proposes an encoded message of `kind`, at whichever member leads. The outcome carries the id
    /// that is returned; without one in `Options::patience_ms` nothing is known of it any more.
    pub fn propose(&mut self, kind: Kind, request: &[u8]) -> Result<u64, ProposeError> {
        self.propose_for(None, kind as u32, request)
    }

    /// The same for a request in the field `kind` of an entry, on somebody's behalf.
    pub fn propose_for(
        &mut self,
        who: Option<&Identity>,
        kind: u32,
        request: &[u8],
    ) -> Result<u64, ProposeError> {
        self.check_room()?;
        let id = self.fresh_id();
        let entry = envelope::wrap_for(who.unwrap_or(envelope::NOBODY), id, kind, request);
        if entry.len() > self.options.request_bytes_max {
            return Err(ProposeError::TooLarge);
        }
        self.submit(id, EntryKind::Normal, entry.into())?;
        Ok(id)
    }

    pub(super) fn check_room(&self) -> Result<(), ProposeError> {
        if self.proposals.len() >= self.options.pending_max {
            return Err(ProposeError::TooManyRequests);
        }
        Ok(())
    }

    pub(super) fn submit(
        &mut self,
        id: u64,
        kind: EntryKind,
        entry: Bytes,
    ) -> Result<(), ProposeError> {
        if kind == EntryKind::Normal && self.raft.is_accepting() {
            if self.is_log_behind() || self.raft.propose(entry).is_err() {
                return Err(ProposeError::TooManyRequests);
            }
            self.proposals.insert(id, self.now_ms, None);
            return Ok(());
        }
        if self.proposals.bytes + entry.len() > FORWARDED_BYTES_MAX {
            return Err(ProposeError::TooManyRequests);
        }
        self.proposals.insert(id, self.now_ms, Some((kind, entry)));
        self.pass_on(id);
        Ok(())
    }

    /// Gives an open proposal to the leader, or keeps it until there is one.
    fn pass_on(&mut self, id: u64) {
        let Some(open) = self.proposals.find(id) else { return };
        open.is_waiting = false;
        open.attempt += 1;
        let attempt = open.attempt;
        let Some((kind, entry)) = open.entry.clone() else { return };
        let refusal = match self.raft.leader() {
            Some(leader) if leader != self.raft.id() => {
                let term = self.raft.term();
                let message = PeerMessage::Propose { id, attempt, term, kind, entry };
                self.messages.push((leader, message));
                return;
            }
            Some(_) => match self.append(kind, entry) {
                Ok(()) => return,
                Err(refusal) => refusal,
            },
            None => Refusal::NotLeader,
        };
        self.refused(id, attempt, refusal);
    }

    /// Appends a proposal of any member to the log, if this one leads.
    fn append(&mut self, kind: EntryKind, entry: Bytes) -> Result<(), Refusal> {
        match kind {
            EntryKind::Normal if self.is_log_behind() => Err(Refusal::TooManyRequests),
            EntryKind::Normal => self.raft.propose(entry).map(drop).map_err(refusal_of),
            EntryKind::ConfChange => self.append_change(&entry),
        }
    }

    /// Whether this member's disk is so far behind that nothing more may wait for it. A majority of
    /// the others may commit without it; but all that is not written here is kept in memory.
    fn is_log_behind(&self) -> bool {
        self.log.pending_bytes() > LOG_PENDING_BYTES_MAX
    }

    /// A proposal of another member.
    pub(super) fn handle_propose(&mut self, from: NodeId, proposal: Forwarded) {
        let Forwarded { id, attempt, term, kind, entry } = proposal;
        let is_sound = match kind {
            // What is in the log is applied on all members without a question.
            EntryKind::Normal => {
                entry.len() <= self.options.request_bytes_max
                    && envelope::unwrap(entry.clone()).is_ok_and(|found| found.id == id)
            }
            EntryKind::ConfChange => true,
        };
        let result = if !self.raft.is_leader() || self.raft.term() != term {
            // The double of one that was taken says nothing of that one: it may be in a log.
            if self.taken.is_known(from, id, attempt) {
                return;
            }
            Err(Refusal::NotLeader)
        } else if !self.taken.take(from, id, attempt) {
            return;
        } else {
            let result = if !is_sound {
                Err(Refusal::Invalid)
            } else if self.is_overrun() {
                Err(Refusal::TooManyRequests)
            } else {
                self.append(kind, entry)
            };
            if result.is_err() {
                self.taken.refuse(from, id, attempt);
            }
            result
        };
        if let Err(refusal) = result {
            self.messages.push((from, PeerMessage::Refused { id, attempt, refusal }));
        }
    }

    /// A proposal was not appended by one of the attempts.
    pub(super) fn refused(&mut self, id: u64, attempt: u64, refusal: Refusal) {
        let Some(open) = self.proposals.find(id) else { return };
        if open.entry.is_none() || open.attempt != attempt {
            return;
        }
        if matches!(refusal, Refusal::NotLeader | Refusal::Later) {
            if !std::mem::replace(&mut open.is_waiting, true) {
                self.proposals.waiting.push(id);
                self.proposals.retry_ms = self.now_ms + self.options.heartbeat_ms;
            }
            return;
        }
        self.proposals.close(id);
        self.proposals.failed_total += 1;
        self.refusals.push((id, refusal));
    }

    /// Makes proposals again that nobody has taken, and ends those that took too long.
    pub(super) fn retry_proposals(&mut self) {
        self.proposals.expire(self.now_ms.saturating_sub(self.options.patience_ms));
        let proposals = &mut self.proposals;
        if proposals.waiting.is_empty()
            || self.raft.leader().is_none()
            || self.now_ms < proposals.retry_ms
        {
            return;
        }
        for id in std::mem::take(&mut proposals.waiting) {
            self.pass_on(id);
        }
    }

    /// An entry was applied: tells the outcome if it is one of ours.
    pub(super) fn conclude(&mut self, outcome: Outcome, output: &mut Output) {
        if self.is_own(outcome.id) && self.proposals.close(outcome.id) {
            output.outcomes.push(outcome);
        }
    }

    /// Whether an id may be that of a proposal of this start of this process.
    fn is_own(&self, id: u64) -> bool {
        id > self.options.first_id && id <= self.next_id
    }
}

pub(super) fn refusal_of(error: raft::ProposeError) -> Refusal {
    match error {
        raft::ProposeError::NoLeader | raft::ProposeError::NotLeader { .. } => Refusal::NotLeader,
        raft::ProposeError::Transferring { .. } | raft::ProposeError::SteppingDown => {
            Refusal::Later
        }
        raft::ProposeError::TooManyUncommitted { .. } => Refusal::TooManyRequests,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_leader_takes_a_proposal_once_and_a_refused_one_when_it_is_made_again() {
        let mut taken = Taken::default();
        let from = NodeId(1);
        assert!(taken.take(from, 7, 1) && !taken.take(from, 7, 1));
        assert!(taken.take(from, 8, 1));
        taken.refuse(from, 8, 1);
        assert!(!taken.take(from, 8, 1), "a late double of the refused attempt");
        assert!(taken.take(from, 8, 2) && !taken.take(from, 8, 3));
        assert!(taken.take(NodeId(2), 7, 1), "another member's");
        for id in 100..100 + TAKEN_IDS_MAX as u64 {
            assert!(taken.take(from, id, 1));
        }
        assert!(!taken.take(from, 7, 2), "too old to be remembered");
        assert!(taken.take(NodeId(2), 9, 1));
        taken.forget_strangers(|id| id == from);
        assert!(taken.by[&NodeId(2)].attempts.is_empty() && !taken.by[&from].attempts.is_empty());
        assert!(!taken.take(NodeId(2), 7, 1) && !taken.take(NodeId(2), 9, 2));
        assert!(taken.take(NodeId(2), 10, 1));
    }
}
