//! What must hold after every step of every member: the properties of figure 3 of the Raft paper,
//! and that nothing is said before it is durable.

use std::collections::HashMap;

use ringd::node::PeerMessage;
use ringd::raft::{Body, LogIndex, Message, Raft, Term};

use crate::shadow::Shadow;
use crate::truth::{Check, Truth};

#[derive(Default)]
pub struct Laws {
    /// Election Safety.
    leaders: HashMap<u64, u64>,
    votes: HashMap<(u64, u64), u64>,
    /// Leader Append-Only: term, and index and term of the last entry when last seen.
    leader_ends: HashMap<u64, (u64, u64, u64)>,
    /// The commit index of each running member when last seen.
    commits: HashMap<u64, u64>,
    /// In which term an index was committed: that of the leader that did it, which is the first to say so.
    committed_in: HashMap<u64, u64>,
    pub elections: u64,
}

impl Laws {
    pub fn stopped(&mut self, member: u64) {
        self.leader_ends.remove(&member);
        self.commits.remove(&member);
    }

    /// The greatest term that had a leader, and who that was.
    pub fn last_leader(&self) -> Option<(u64, u64)> {
        self.leaders.iter().max().map(|(term, leader)| (*term, *leader))
    }

    /// `member` has just taken a step.
    pub fn after_step(&mut self, member: u64, raft: &Raft, truth: &mut Truth) -> Check {
        if let Some(complaint) = raft.complaint() {
            return Err(format!("member {member}: {complaint}: {:?}", raft.status()));
        }
        let commit = raft.commit_index().0;
        let seen = *self.commits.entry(member).or_insert_with(|| {
            // What it knew when it stopped is known here, if it was ever said.
            raft.start_index().0
        });
        if commit < seen && seen > raft.start_index().0 {
            return Err(format!("member {member}: the commit index fell from {seen} to {commit}"));
        }
        for index in seen + 1..=commit {
            self.committed_in.entry(index).or_insert(raft.term().0);
            let term = raft.term_at(LogIndex(index)).map(|Term(term)| term);
            // Compacted, or told by a snapshot: others have said it, or will.
            let Some(term) = term else { continue };
            truth.commit(index, term).map_err(|error| format!("member {member}: {error}"))?;
        }
        self.commits.insert(member, commit.max(seen));
        if raft.is_leader() {
            self.leads(member, raft, truth)
        } else {
            self.leader_ends.remove(&member);
            Ok(())
        }
    }

    fn leads(&mut self, member: u64, raft: &Raft, truth: &Truth) -> Check {
        let term = raft.term().0;
        let first = *self.leaders.entry(term).or_insert_with(|| {
            self.elections += 1;
            member
        });
        if first != member {
            return Err(format!("Election Safety: {first} and {member} both lead in term {term}"));
        }
        let last = raft.last_index();
        let last_term = raft.term_at(last).map_or(0, |term| term.0);
        match self.leader_ends.insert(member, (term, last.0, last_term)) {
            Some((before, index, index_term)) if before == term => {
                let still = raft.term_at(LogIndex(index)).map(|term| term.0);
                let is_compacted = index < raft.start_index().0;
                if last.0 < index || !(is_compacted || still == Some(index_term)) {
                    return Err(format!(
                        "Leader Append-Only: {member} had {index} of term {index_term}, and has {still:?}"
                    ));
                }
                Ok(())
            }
            _ => {
                // Newly elected: everything committed in earlier terms is in its log. An entry of an earlier term that
                // was committed in a later one need not be: the votes may be older than that.
                for index in raft.start_index().0.max(1)..=truth.committed() {
                    let Some(committed) = truth.term_of(index) else { continue };
                    if *self.committed_in.get(&index).unwrap_or(&committed) >= term {
                        continue;
                    }
                    let found = raft.term_at(LogIndex(index)).map(|term| term.0);
                    if found != Some(committed) {
                        return Err(format!(
                            "Leader Completeness: {member}, leader of term {term}, has {found:?} at {index}, where \
                             {committed} was committed in term {:?}",
                            self.committed_in.get(&index)
                        ));
                    }
                }
                Ok(())
            }
        }
    }

    /// A message leaves a member whose disk holds `log`.
    pub fn sent(&mut self, message: &PeerMessage, log: &Shadow, raft: &Raft) -> Check {
        let PeerMessage::Raft(message) = message else { return Ok(()) };
        let Message { from, to, term, body } = message;
        let durable = &log.durable;
        let voted_for = match body {
            Body::VoteRequest { last, .. } => {
                if !log.holds(last.index.0, last.term.0) {
                    return Err(format!("a candidate boasts of a log it may lose: {message:?}"));
                }
                from.0
            }
            Body::VoteResponse { granted: true, .. } => to.0,
            Body::AppendAccepted { matched } => {
                let held = raft.term_at(*matched).is_none_or(|term| log.holds(matched.0, term.0));
                if durable.hard_state.0 < term.0 || !held {
                    return Err(format!("acknowledged and not durable: {message:?}"));
                }
                return Ok(());
            }
            _ => return Ok(()),
        };
        if durable.hard_state != (term.0, voted_for) {
            return Err(format!(
                "a vote is out before it is durable: {message:?}, on disk {:?}",
                durable.hard_state
            ));
        }
        let first = *self.votes.entry((term.0, from.0)).or_insert(voted_for);
        if first != voted_for {
            return Err(format!(
                "member {from} votes in term {term} for {first} and for {voted_for}"
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shadow::Record;
    use ringd::raft::{Config, Configuration, HardState, LogPosition, NodeId};

    fn message(body: Body) -> PeerMessage {
        PeerMessage::Raft(Message { from: NodeId(1), to: NodeId(2), term: Term(5), body })
    }

    fn position(index: u64, term: u64) -> LogPosition {
        LogPosition { index: LogIndex(index), term: Term(term) }
    }

    fn raft(id: u64, voters: &[u64]) -> Raft {
        let configuration = Configuration::of_voters(voters.iter().copied().map(NodeId));
        let start = (LogIndex(1), Term(1));
        let config = Config::new(NodeId(id));
        Raft::new(config, HardState::default(), configuration, start, Vec::new(), LogIndex(1))
            .unwrap()
    }

    fn shadow(vote: (u64, u64)) -> Shadow {
        let mut shadow = Shadow::default();
        let state = Record::HardState { term: vote.0, vote: vote.1 };
        shadow.restart(&[state], (1, 1));
        shadow
    }

    #[test]
    fn what_is_durable_may_be_said() {
        let (mut laws, raft) = (Laws::default(), raft(1, &[1, 2]));
        let committed = position(1, 1);
        let request = Body::VoteRequest { last: position(1, 1), committed, transfer: false };
        laws.sent(&message(request), &shadow((5, 1)), &raft).unwrap();
        let accepted = Body::AppendAccepted { matched: LogIndex(1) };
        laws.sent(&message(accepted), &shadow((5, 0)), &raft).unwrap();
    }

    #[test]
    fn what_is_not_durable_may_not_be_said() {
        let (mut laws, raft) = (Laws::default(), raft(1, &[1, 2]));
        let committed = position(1, 1);
        let granted = Body::VoteResponse { granted: true, committed };
        assert!(laws.sent(&message(granted.clone()), &shadow((4, 2)), &raft).is_err());
        assert!(laws.sent(&message(granted), &shadow((5, 3)), &raft).is_err());
        let request = Body::VoteRequest { last: position(2, 1), committed, transfer: false };
        assert!(laws.sent(&message(request), &shadow((5, 1)), &raft).is_err());
        let accepted = Body::AppendAccepted { matched: LogIndex(1) };
        assert!(laws.sent(&message(accepted), &shadow((4, 0)), &raft).is_err());
    }

    #[test]
    fn two_votes_in_one_term_are_found() {
        let (mut laws, raft) = (Laws::default(), raft(1, &[1, 2, 3]));
        let committed = position(1, 1);
        let granted = Body::VoteResponse { granted: true, committed };
        laws.sent(&message(granted), &shadow((5, 2)), &raft).unwrap();
        let request = Body::VoteRequest { last: position(1, 1), committed, transfer: false };
        assert!(laws.sent(&message(request), &shadow((5, 1)), &raft).is_err());
    }

    /// A leader of a cluster of its own.
    fn leader(id: u64) -> Raft {
        let mut raft = raft(id, &[id]);
        raft.campaign();
        while let Some(ready) = raft.ready() {
            if let Some(persist) = ready.persist {
                raft.persisted(persist.token);
            }
        }
        assert!(raft.is_leader());
        raft
    }

    #[test]
    fn two_leaders_of_one_term_are_found() {
        let (mut laws, mut truth) = (Laws::default(), Truth::new(1, 2));
        laws.after_step(1, &leader(1), &mut truth).unwrap();
        let second = laws.after_step(2, &leader(2), &mut truth);
        assert!(second.unwrap_err().contains("Election Safety"));
    }

    #[test]
    fn a_leader_without_a_committed_entry_is_found() {
        let (mut laws, mut truth) = (Laws::default(), Truth::new(1, 2));
        let logged = crate::truth::tests::normal(Default::default(), 1);
        truth.logged(2, 1, logged).unwrap();
        truth.commit(2, 1).unwrap();
        let incomplete = laws.after_step(1, &leader(1), &mut truth);
        assert!(incomplete.is_err(), "its log has another entry at 2");
        // Its votes were given before the entry of the earlier term was committed in a later one.
        let late = leader(1);
        let mut laws = Laws::default();
        laws.committed_in.insert(2, late.term().0);
        laws.leads(1, &late, &truth).unwrap();
        let mut laws = Laws::default();
        laws.committed_in.insert(2, late.term().0 - 1);
        assert!(laws.leads(1, &late, &truth).is_err());
    }

    #[test]
    fn a_leader_that_drops_an_entry_is_found() {
        let (mut laws, mut truth) = (Laws::default(), Truth::new(1, 2));
        laws.leader_ends.insert(1, (2, 9, 2));
        let shorter = laws.after_step(1, &leader(1), &mut truth);
        assert!(shorter.unwrap_err().contains("Append-Only"));
    }
}
