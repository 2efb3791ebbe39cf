//! Linearizable reads (thesis, section 6.4), always confirmed by a round of heartbeats, never by a
//! lease.
//!
//! A read gets the commit index of the moment it reaches the leader, and is answered when a quorum
//! has confirmed the leader after that moment. Reads that come between two calls of `ready` share a
//! round; an answer to a round answers all before it, so a lost message costs a heartbeat interval
//! at most. Before an entry of its own term is committed a leader does not know what is (thesis,
//! section 6.4, step 1), and reads wait for that.
//!
//! An answer must never serve another question: rounds count up through the whole life of a process
//! and only count in the term they were asked in; the contexts of reads rise, which is checked; and
//! a question that travels to the leader bears the incarnation of the process that asked.

use std::collections::VecDeque;

use super::Raft;
use super::error::ReadError;
use super::message::Body;
use super::quorum;
use super::ready::ReadState;
use super::status::Mark;
use super::types::{LogIndex, NodeId, Role};
use crate::mutants::{self, Mutant};

#[derive(Default)]
pub(super) struct Reads {
    last_context: Option<u64>,
    /// The newest round sent out.
    round: u64,
    /// Waiting for the first commit of the term.
    deferred: Vec<Question>,
    /// Waiting for their round to be confirmed, in the order of rounds.
    pending: VecDeque<Pending>,
    /// Asked of the leader, and the tick at which we stop to wait.
    forwarded: VecDeque<(u64, u64)>,
    pub(super) answered: Vec<ReadState>,
    pub(super) lost: Vec<u64>,
}

/// Who asked, and under what name.
#[derive(Clone, Copy)]
struct Question {
    from: NodeId,
    incarnation: u64,
    context: u64,
}

struct Pending {
    round: u64,
    index: LogIndex,
    question: Question,
}

impl Reads {
    pub(super) fn round(&self) -> u64 {
        self.round
    }

    pub(super) fn waiting(&self) -> usize {
        self.deferred.len() + self.pending.len() + self.forwarded.len()
    }
}

impl Raft {
    /// Asks for the index a linearizable read has to wait for. `context` names the read and is
    /// above all before it. The answer comes in `Ready::read_states`, or the context in
    /// `Ready::lost_reads`.
    pub fn read_index(&mut self, context: u64) -> Result<(), ReadError> {
        if self.reads.last_context.is_some_and(|last| context <= last) {
            return Err(ReadError::ContextReused { context });
        }
        let pending = self.reads.waiting();
        if pending >= self.config.reads_max {
            return Err(ReadError::TooMany { pending });
        }
        let (from, incarnation) = (self.config.id, self.config.incarnation);
        if self.role == Role::Leader {
            self.open_read(Question { from, incarnation, context });
        } else {
            let Some(leader) = self.leader else { return Err(ReadError::NoLeader) };
            let patience = self.ticks + u64::from(self.config.election_ticks);
            self.reads.forwarded.push_back((context, patience));
            self.send(leader, Body::ReadIndex { incarnation, context });
        }
        self.reads.last_context = Some(context);
        Ok(())
    }

    pub(super) fn handle_read_index(&mut self, from: NodeId, incarnation: u64, context: u64) {
        if self.role == Role::Leader && self.reads.waiting() < self.config.reads_max {
            self.open_read(Question { from, incarnation, context });
        }
    }

    fn open_read(&mut self, question: Question) {
        if !self.has_own_term_commit() && !mutants::is_on(Mutant::ReadBeforeOwnCommit) {
            self.mark(Mark::ReadDeferred);
            self.reads.deferred.push(question);
            return;
        }
        let index = self.log.commit();
        if self.configuration.is_sole_voter(self.config.id) {
            self.answer_read(question, index);
        } else {
            let joins_old = u64::from(mutants::is_on(Mutant::ReadJoinsOldRound));
            let round = self.reads.round + 1 - joins_old;
            self.reads.pending.push_back(Pending { round, index, question });
        }
    }

    pub(super) fn open_deferred_reads(&mut self) {
        for question in std::mem::take(&mut self.reads.deferred) {
            self.open_read(question);
        }
    }

    fn answer_read(&mut self, question: Question, index: LogIndex) {
        let Question { from, incarnation, context } = question;
        if from == self.config.id {
            self.reads.answered.push(ReadState { ctx: context, index });
        } else {
            self.send(from, Body::ReadIndexResponse { incarnation, context, index });
        }
    }

    /// Whether heartbeats have to go out now for the reads that came since the last round.
    pub(super) fn open_read_round(&mut self) -> bool {
        let opens =
            self.reads.pending.back().is_some_and(|pending| pending.round > self.reads.round);
        self.reads.round += u64::from(opens);
        opens
    }

    pub(super) fn answer_confirmed_reads(&mut self) {
        if self.reads.pending.is_empty() {
            return;
        }
        let id = self.config.id;
        let (progress, own_round) = (&self.progress, self.reads.round);
        let confirmed_by = |member| match progress.iter().find(|p| p.id == member) {
            Some(progress) => progress.confirmed_round,
            None if member == id => own_round,
            None => 0,
        };
        let round = quorum::joint_reached(self.configuration.halves(), confirmed_by).min(own_round);
        while let Some(pending) = self.reads.pending.pop_front_if(|pending| pending.round <= round)
        {
            self.answer_read(pending.question, pending.index);
        }
    }

    pub(super) fn handle_read_index_response(
        &mut self,
        incarnation: u64,
        context: u64,
        index: LogIndex,
    ) {
        let asked = self.reads.forwarded.iter().position(|(asked, _)| *asked == context);
        match asked {
            Some(place) if incarnation == self.config.incarnation => {
                self.reads.forwarded.remove(place);
                self.reads.answered.push(ReadState { ctx: context, index });
            }
            _ => self.mark(Mark::UnaskedReadAnswer),
        }
    }

    pub(super) fn expire_forwarded_reads(&mut self) {
        let now = self.ticks;
        while let Some((context, _)) = self.reads.forwarded.pop_front_if(|(_, until)| *until <= now)
        {
            self.reads.lost.push(context);
        }
    }

    /// The leader has changed, or is not known any more.
    pub(super) fn lose_reads(&mut self) {
        let id = self.config.id;
        let reads = &mut self.reads;
        let pending = reads.pending.drain(..).map(|pending| pending.question);
        let own = reads.deferred.drain(..).chain(pending).filter(|question| question.from == id);
        reads.lost.extend(own.map(|question| question.context));
        reads.lost.extend(reads.forwarded.drain(..).map(|(context, _)| context));
    }
}
