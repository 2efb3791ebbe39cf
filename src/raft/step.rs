//! Messages in: what their term means, before what they say.

use super::Raft;
use super::error::StepError;
use super::message::{Body, Message};
use super::status::Mark;
use super::types::{LogPosition, NodeId, Role, Term};
use crate::mutants::{self, Mutant};

/// No cluster has so many elections, and there is room to count on.
const TERM_MAX: Term = Term(1 << 62);

impl Raft {
    /// Takes a message of another member. An error leaves everything as it was, apart from the
    /// term; see [`StepError::is_fatal`].
    pub fn step(&mut self, message: Message) -> Result<(), StepError> {
        self.check_form(&message)?;
        let Message { from, term, body, .. } = message;
        if let Body::PreVoteRequest { committed, .. }
        | Body::PreVoteResponse { committed, .. }
        | Body::VoteRequest { committed, .. }
        | Body::VoteResponse { committed, .. } = body
        {
            self.learn_commit(committed);
        }
        if term < self.term {
            self.answer_lower_term(from, body);
            return Ok(());
        }
        if term > self.term && !self.enter_higher_term(from, term, &body) {
            return Ok(());
        }

        match body {
            Body::PreVoteRequest { last, .. } => self.handle_pre_vote_request(from, term, last),
            Body::PreVoteResponse { granted, .. } => {
                self.handle_pre_vote_response(from, term, granted)
            }
            Body::VoteRequest { last, .. } => self.handle_vote_request(from, last),
            Body::VoteResponse { granted, .. } => self.handle_vote_response(from, granted),
            Body::Append { prev, commit, entries } => {
                self.follow(from)?;
                self.handle_append(from, prev, commit, entries)?;
            }
            Body::Heartbeat { commit, round } => {
                self.follow(from)?;
                self.handle_heartbeat(from, commit, round)?;
            }
            Body::Snapshot { snapshot } => {
                self.follow(from)?;
                self.handle_snapshot(snapshot);
            }
            Body::AppendAccepted { matched } => self.handle_accepted(from, matched)?,
            Body::AppendRejected { prev, hint } => self.handle_rejected(from, prev, hint),
            Body::HeartbeatResponse { round } => self.handle_heartbeat_response(from, round),
            Body::TimeoutNow => self.handle_timeout_now(from),
            Body::ReadIndex { incarnation, context } => {
                self.handle_read_index(from, incarnation, context);
            }
            Body::ReadIndexResponse { incarnation, context, index } => {
                self.handle_read_index_response(incarnation, context, index);
            }
        }
        Ok(())
    }

    /// What no correct member sends. Nothing below has to expect it.
    fn check_form(&self, message: &Message) -> Result<(), StepError> {
        let Message { from, to, term, .. } = *message;
        let malformed = |what| Err(StepError::Malformed { from, what });
        if to != self.config.id {
            return Err(StepError::Misaddressed { to });
        }
        if from == NodeId(0) || from == self.config.id {
            return malformed("it comes from nobody else");
        }
        if term == Term(0) {
            return malformed("its term is 0");
        }
        if term > TERM_MAX {
            return malformed("its term is beyond all counting");
        }
        match &message.body {
            Body::Append { prev, entries, .. } => {
                let mut before = *prev;
                for entry in entries {
                    if entry.index.0.checked_sub(1) != Some(before.index.0)
                        || entry.term < before.term
                    {
                        return malformed("its entries do not follow each other");
                    }
                    before = entry.position();
                }
                if before.term > term {
                    return malformed("an entry is of a later term than its leader");
                }
            }
            Body::Snapshot { snapshot } => {
                if snapshot.configuration.complaint().is_some() {
                    return malformed("the configuration of the snapshot is unusable");
                }
                if snapshot.position.term > term || snapshot.position.index.0 == 0 {
                    return malformed("the position of the snapshot is impossible");
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// Returns whether the message is to be handled.
    fn enter_higher_term(&mut self, from: NodeId, term: Term, body: &Body) -> bool {
        match body {
            Body::PreVoteRequest { .. } | Body::VoteRequest { transfer: false, .. }
                if self.is_loyal() =>
            {
                self.mark(Mark::LoyalToLeader);
                return false;
            }
            // Only asks. And who grants it speaks of a term nobody is in yet.
            Body::PreVoteRequest { .. } | Body::PreVoteResponse { granted: true, .. } => {}
            Body::Append { .. } | Body::Heartbeat { .. } | Body::Snapshot { .. } => {
                self.become_follower(term, Some(from));
            }
            _ => self.become_follower(term, None),
        }
        true
    }

    /// The sender is behind. It must hear of our term where it would go on without us otherwise: a
    /// leader that we no longer follow, or a candidate that waits for us while we wait for it.
    fn answer_lower_term(&mut self, from: NodeId, body: Body) {
        match body {
            Body::Append { prev, .. } => {
                self.mark(Mark::DeafToOldLeader);
                let body = Body::AppendRejected { prev: prev.index, hint: LogPosition::default() };
                self.send(from, body);
            }
            Body::Heartbeat { .. } | Body::Snapshot { .. } => {
                self.mark(Mark::DeafToOldLeader);
                self.send(from, Body::HeartbeatResponse { round: 0 });
            }
            Body::PreVoteRequest { .. } if mutants::is_on(Mutant::LowerTermPreVoteIgnored) => {}
            Body::PreVoteRequest { .. } => {
                self.mark(Mark::LowerTermPreVote);
                self.refuse_pre_vote(from);
            }
            Body::VoteRequest { .. } => self.refuse_vote(from),
            _ => {}
        }
    }

    /// `from` leads this term.
    fn follow(&mut self, from: NodeId) -> Result<(), StepError> {
        if self.role == Role::Leader || self.leader.is_some_and(|leader| leader != from) {
            return Err(StepError::TwoLeaders { term: self.term, other: from });
        }
        if self.role != Role::Follower {
            self.become_follower(self.term, Some(from));
        }
        self.leader = Some(from);
        self.election_elapsed = 0;
        self.is_campaign_wanted = false;
        Ok(())
    }
}
