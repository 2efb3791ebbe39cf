//! Elections (paper, section 5.2), with PreVote (thesis, section 9.6) and CheckQuorum (thesis,
//! section 6.2).
//!
//! A member votes once in a term, and a vote is out only when it is durable: both the answers to
//! others and the candidate's vote for itself. A candidate's requests wait for the disk as well.
//! They claim a log and a term; a candidate that forgot either in a crash could win with votes that
//! were given to a longer log, or vote again in the same term.

use bytes::Bytes;
use smallvec::SmallVec;

use super::Raft;
use super::message::{Body, Message};
use super::progress::Progress;
use super::quorum::{self, VoteResult};
use super::random::Random;
use super::ready::Held;
use super::status::Mark;
use super::types::{EntryKind, LogPosition, NodeId, Role, Term};

/// Paper, section 5.2: randomized, so that split votes are rare.
pub(super) fn random_timeout(random: &mut Random, election_ticks: u32) -> u32 {
    election_ticks + random.below(u64::from(election_ticks)) as u32
}

impl Raft {
    /// Campaigns at once, or as soon as this member may (see `is_promotable`), unless a leader is
    /// heard from before. For the only voter at its start, and for a member that wants to lead.
    pub fn campaign(&mut self) {
        self.is_campaign_wanted = true;
        self.campaign_if_wanted();
    }

    pub(super) fn campaign_if_wanted(&mut self) {
        if self.is_campaign_wanted && self.role != Role::Leader && self.is_promotable() {
            self.start_campaign();
        }
    }

    /// A member with a committed change of the configuration that it has not applied must not
    /// campaign: it would count the votes of a configuration that may be two changes old.
    fn is_promotable(&self) -> bool {
        self.configuration.is_voter(self.config.id)
            && self.log.is_start_persisted()
            && !self.log.has_unapplied_conf_change()
    }

    pub(super) fn tick_election(&mut self) {
        // A candidate whose vote is not durable yet has asked nobody. To start over would only give
        // the disk more to do.
        if self.role == Role::Candidate && self.durability.holds_own_vote(self.term) {
            return;
        }
        self.election_elapsed = self.election_elapsed.saturating_add(1);
        if self.election_elapsed < self.election_timeout
            || !self.configuration.is_voter(self.config.id)
        {
            return;
        }
        self.restart_election_timer();
        if self.is_promotable() {
            self.start_campaign();
        } else {
            self.mark(Mark::CampaignWithUnappliedChange);
        }
    }

    fn start_campaign(&mut self) {
        self.is_campaign_wanted = false;
        // Nobody to disturb, nobody to ask.
        if self.configuration.is_sole_voter(self.config.id) {
            self.start_election(false);
        } else {
            self.start_pre_vote();
        }
    }

    /// The leader has told us to, so there is no question whether the cluster can do without it.
    pub(super) fn campaign_for_transfer(&mut self) {
        if self.is_promotable() {
            self.start_election(true);
        }
    }

    fn start_pre_vote(&mut self) {
        self.mark(Mark::PreVoteStarted);
        self.role = Role::PreCandidate;
        self.leader = None;
        self.lose_reads();
        self.restart_election_timer();
        self.votes.clear();
        self.send_pre_vote_requests();
        self.record_vote(self.config.id, true);
    }

    /// Asks the voters for what they cannot give to a member that has no vote itself. They learn what
    /// is committed from it, and whoever has removed this member can say so.
    pub fn ask_in_vain(&mut self) {
        if self.configuration.is_voter(self.config.id) {
            return;
        }
        self.send_pre_vote_requests();
    }

    fn send_pre_vote_requests(&mut self) {
        let (last, committed) = (self.log.last(), self.log.committed());
        let (from, term) = (self.config.id, self.term.next());
        for to in self.other_voters() {
            let body = Body::PreVoteRequest { last, committed };
            self.messages.push(Message { from, to, term, body });
        }
    }

    /// `transfer`: the leader asked for it, which stands above the patience of voters who still
    /// hear from that leader.
    fn start_election(&mut self, transfer: bool) {
        self.mark(Mark::ElectionStarted);
        self.set_term(self.term.next());
        self.vote = Some(self.config.id);
        self.role = Role::Candidate;
        self.leader = None;
        self.is_campaign_wanted = false;
        self.restart_election_timer();
        let (last, committed) = (self.log.last(), self.log.committed());
        let (from, term) = (self.config.id, self.term);
        for to in self.other_voters() {
            let body = Body::VoteRequest { last, committed, transfer };
            self.hold(Held::Send(Message { from, to, term, body }));
        }
        self.hold(Held::OwnVote(term));
    }

    fn other_voters(&self) -> impl Iterator<Item = NodeId> + use<> {
        let id = self.config.id;
        let voters: SmallVec<[NodeId; 8]> =
            self.configuration.all_voters().iter().filter(|&voter| voter != id).collect();
        voters.into_iter()
    }

    /// A vote, or the promise of one, has come in for the campaign under way.
    pub(super) fn record_vote(&mut self, from: NodeId, granted: bool) {
        if !self.votes.iter().any(|(voter, _)| *voter == from) {
            self.votes.push((from, granted));
        }
        let votes = &self.votes;
        let vote = |id| votes.iter().find(|(voter, _)| *voter == id).map(|(_, granted)| *granted);
        match quorum::joint_vote_result(self.configuration.halves(), vote) {
            VoteResult::Pending => {}
            VoteResult::Lost => {
                self.mark(Mark::CampaignLost);
                self.become_follower(self.term, None);
            }
            VoteResult::Won if self.role == Role::PreCandidate => self.start_election(false),
            VoteResult::Won => self.become_leader(),
        }
    }

    /// A voter that has heard from a leader within the shortest election timeout does not help to
    /// depose it.
    pub(super) fn is_loyal(&self) -> bool {
        self.leader.is_some() && self.election_elapsed < self.config.election_ticks
    }

    pub(super) fn handle_pre_vote_request(&mut self, from: NodeId, term: Term, last: LogPosition) {
        let granted = term > self.term && self.log.is_up_to_date(last);
        let body = Body::PreVoteResponse { granted, committed: self.log.committed() };
        // A grant is for the term that was asked for, in which nobody is yet.
        let term = if granted { term } else { self.term };
        self.messages.push(Message { from: self.config.id, to: from, term, body });
    }

    /// A learner votes like anybody else: it may have been promoted without having heard of it.
    pub(super) fn handle_vote_request(&mut self, from: NodeId, last: LogPosition) {
        let is_free = self.vote == Some(from) || (self.vote.is_none() && self.leader.is_none());
        if !is_free || !self.log.is_up_to_date(last) {
            self.refuse_vote(from);
            return;
        }
        if self.configuration.is_learner(self.config.id) {
            self.mark(Mark::LearnerVoted);
        }
        self.vote = Some(from);
        self.restart_election_timer();
        let body = Body::VoteResponse { granted: true, committed: self.log.committed() };
        let message = Message { from: self.config.id, to: from, term: self.term, body };
        self.hold(Held::Send(message));
    }

    pub(super) fn refuse_vote(&mut self, candidate: NodeId) {
        let body = Body::VoteResponse { granted: false, committed: self.log.committed() };
        self.send(candidate, body);
    }

    pub(super) fn refuse_pre_vote(&mut self, candidate: NodeId) {
        let body = Body::PreVoteResponse { granted: false, committed: self.log.committed() };
        self.send(candidate, body);
    }

    /// Another member knows that `position` is committed. That is true for ever and for everybody,
    /// so if it is in our log, it is committed here as well.
    ///
    /// Without this a cluster can be stuck: a leader commits the change that takes its vote away,
    /// applies it and is gone before any other member has heard of the commit. Those still need its
    /// vote, by the configuration they know, and do not get it if its log is longer; and it does
    /// not campaign.
    pub(super) fn learn_commit(&mut self, position: LogPosition) {
        if self.role == Role::Leader
            || position.index <= self.log.commit()
            || !self.log.holds(position)
        {
            return;
        }
        self.mark(Mark::CommitByVote);
        self.log.commit_to(position.index);
        if self.role != Role::Follower && self.log.has_unapplied_conf_change() {
            // The votes so far are those of a configuration that is no more.
            self.become_follower(self.term, None);
            self.is_campaign_wanted = true;
        }
    }

    pub(super) fn handle_pre_vote_response(&mut self, from: NodeId, term: Term, granted: bool) {
        // A refusal bears the term of its sender, which is ours at this place.
        if self.role == Role::PreCandidate && (!granted || term == self.term.next()) {
            self.record_vote(from, granted);
        }
    }

    pub(super) fn handle_vote_response(&mut self, from: NodeId, granted: bool) {
        if self.role == Role::Candidate {
            self.record_vote(from, granted);
        }
    }

    fn become_leader(&mut self) {
        assert_eq!(self.role, Role::Candidate, "a leader that was no candidate");
        self.mark(Mark::BecameLeader);
        self.role = Role::Leader;
        self.leader = Some(self.config.id);
        self.votes.clear();
        self.election_elapsed = 0;
        self.heartbeat_elapsed = 0;
        self.is_heartbeat_due = false;
        let last = self.log.last().index;
        let id = self.config.id;
        let others = self.configuration.members();
        self.progress =
            others.iter().filter(|&m| m != id).map(|m| Progress::new(m, last.next())).collect();
        self.uncommitted_bytes = self.log.uncommitted_bytes();
        // There may be a change among the entries we have not seen committed.
        self.pending_conf_index = last;
        self.term_start = last.next();
        self.append_entry(EntryKind::Normal, Bytes::new());
    }

    /// Enters `term` if it is new, and follows `leader` if one is known.
    pub(super) fn become_follower(&mut self, term: Term, leader: Option<NodeId>) {
        if self.role == Role::Leader {
            self.mark(Mark::SteppedDown);
        }
        if term > self.term {
            self.set_term(term);
        }
        self.lose_reads();
        self.role = Role::Follower;
        self.leader = leader;
        self.votes.clear();
        self.progress.clear();
        self.transfer = None;
        self.steps_down_after = None;
        self.restart_election_timer();
    }

    fn set_term(&mut self, term: Term) {
        assert!(term > self.term, "a term that falls: {term} after {}", self.term);
        self.term = term;
        self.vote = None;
        self.votes.clear();
        self.lose_reads();
        // What equals one leader's log need not equal the next one's, the committed part aside.
        self.matched = self.log.commit();
        self.acknowledged = self.matched;
        self.is_ack_due = false;
    }

    pub(super) fn restart_election_timer(&mut self) {
        self.election_elapsed = 0;
        self.election_timeout = random_timeout(&mut self.random, self.config.election_ticks);
    }

    /// A leader that has not heard from a quorum for an election timeout steps down: its clients
    /// should look elsewhere.
    pub(super) fn check_quorum(&mut self) {
        let id = self.config.id;
        let progress = &mut self.progress;
        let is_active = |member| {
            let found = progress.iter().find(|p| p.id == member);
            Some(member == id || found.is_some_and(|p| p.is_recently_active))
        };
        let result = quorum::joint_vote_result(self.configuration.halves(), is_active);
        for progress in &mut self.progress {
            progress.is_recently_active = false;
        }
        if result != VoteResult::Won {
            self.mark(Mark::QuorumLost);
            self.become_follower(self.term, None);
        }
    }

    /// The own vote in `term` is durable.
    pub(super) fn own_vote_persisted(&mut self, term: Term) {
        if self.role == Role::Candidate && self.term == term {
            self.record_vote(self.config.id, true);
        }
    }

    pub(super) fn has_own_term_commit(&self) -> bool {
        self.role == Role::Leader && self.log.commit() >= self.term_start
    }
}
