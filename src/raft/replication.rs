//! Log replication (paper, section 5.3) and commit (section 5.4.2).
//!
//! Nothing is sent when it is proposed. `ready` looks at each follower's progress and makes the
//! messages then, so that what came in between two calls travels together. The leader does not wait
//! for its own disk: its share in a commit is what is durable here, like anybody's, and a quorum
//! without it is as good as any.
//!
//! A follower acknowledges the smaller of how far its log equals the leader's (`matched`) and how
//! far it is durable. Both only speak of the log as it is now: `matched` starts anew with each
//! term, `persisted` is cut with the log.

use bytes::Bytes;

use super::Raft;
use super::error::{ProposeError, StepError};
use super::message::Body;
use super::progress::ProgressState;
use super::quorum;
use super::status::Mark;
use super::types::{Entry, EntryKind, LogIndex, LogPosition, NodeId, Role};

// At the leader.
impl Raft {
    pub(super) fn check_can_propose(&self, data_bytes: usize) -> Result<(), ProposeError> {
        if self.role != Role::Leader {
            return Err(match self.leader {
                Some(leader) => ProposeError::NotLeader { leader },
                None => ProposeError::NoLeader,
            });
        }
        if let Some(transfer) = &self.transfer {
            return Err(ProposeError::Transferring { to: transfer.to });
        }
        if self.steps_down_after.is_some() {
            return Err(ProposeError::SteppingDown);
        }
        let bytes = self.uncommitted_bytes;
        let more = data_bytes + Entry::OVERHEAD_BYTES;
        if bytes > 0 && bytes + more > self.config.uncommitted_bytes_max {
            return Err(ProposeError::TooManyUncommitted { bytes });
        }
        Ok(())
    }

    pub(super) fn append_entry(&mut self, kind: EntryKind, data: Bytes) -> LogIndex {
        let index = self.log.last().index.next();
        let entry = Entry { term: self.term, index, kind, data };
        self.uncommitted_bytes += entry.size_bytes();
        self.log.push(entry);
        index
    }

    /// Heartbeats go first, so that no amount of data delays them.
    pub(super) fn send_heartbeats(&mut self) {
        let opens_round = self.open_read_round();
        if !self.is_heartbeat_due && !opens_round {
            return;
        }
        let round = self.reads.round();
        for place in 0..self.progress.len() {
            let progress = &mut self.progress[place];
            let to = progress.id;
            progress.may_be_nudged |= self.is_heartbeat_due;
            if self.is_heartbeat_due || self.configuration.is_voter(to) {
                let commit = progress.matched.min(self.log.commit());
                self.send(to, Body::Heartbeat { commit, round });
            }
        }
        self.is_heartbeat_due = false;
    }

    pub(super) fn send_appends(&mut self) {
        for place in 0..self.progress.len() {
            while self.send_append(place) {}
        }
    }

    /// Sends one `Append` if there is reason to, and returns whether there may be reason for
    /// another.
    fn send_append(&mut self, place: usize) -> bool {
        let last = self.log.last().index;
        let commit = self.log.commit();
        let progress = &mut self.progress[place];
        let is_replicating = match progress.state {
            ProgressState::Snapshot { .. } | ProgressState::Probe { sent: true } => return false,
            ProgressState::Probe { sent: false } => false,
            ProgressState::Replicate => true,
        };
        if is_replicating {
            let has_news =
                progress.next <= last || progress.sent_commit < commit || progress.is_nudged;
            let (count_max, bytes_max) =
                (self.config.inflight_appends_max, self.config.inflight_bytes_max);
            if !has_news || progress.inflight.is_full(count_max, bytes_max) {
                return false;
            }
        }
        let Some(term) = self.log.term(progress.next.prev()) else {
            self.send_snapshot(place);
            return false;
        };

        let prev = LogPosition { index: progress.next.prev(), term };
        let entries = self.log.page(progress.next, last, self.config.append_bytes_max);
        progress.sent_commit = commit;
        progress.is_nudged = false;
        if !is_replicating {
            progress.state = ProgressState::Probe { sent: true };
        } else if let Some(end) = entries.last() {
            progress.next = end.index.next();
            progress.inflight.add(end.index, entries.iter().map(Entry::size_bytes).sum());
        }
        let to = progress.id;
        self.send(to, Body::Append { prev, commit, entries });
        is_replicating
    }

    pub(super) fn handle_accepted(
        &mut self,
        from: NodeId,
        matched: LogIndex,
    ) -> Result<(), StepError> {
        let log = &self.log;
        let Some(progress) = self.progress.iter_mut().find(|p| p.id == from) else { return Ok(()) };
        if matched > log.last().index {
            return Err(StepError::Malformed { from, what: "it acknowledges what was never sent" });
        }
        progress.is_recently_active = true;
        let is_news = progress.accept(matched);
        match progress.state {
            ProgressState::Replicate => {}
            ProgressState::Probe { .. } => progress.become_replicate(),
            // Whether by this snapshot or another, the log can go on from there.
            ProgressState::Snapshot { .. } if log.term(progress.matched).is_some() => {
                progress.become_replicate();
            }
            ProgressState::Snapshot { .. } => {}
        }
        if is_news {
            self.maybe_commit();
            self.maybe_finish_transfer(from);
        }
        Ok(())
    }

    pub(super) fn handle_rejected(&mut self, from: NodeId, prev: LogIndex, hint: LogPosition) {
        let log = &self.log;
        let Some(progress) = self.progress.iter_mut().find(|p| p.id == from) else { return };
        progress.is_recently_active = true;
        let is_news = progress.reject(prev, log.last_possible_match(hint).index);
        self.mark(if is_news { Mark::AppendRejected } else { Mark::OldRejection });
    }

    pub(super) fn handle_heartbeat_response(&mut self, from: NodeId, round: u64) {
        let last = self.log.last().index;
        let (count_max, bytes_max) =
            (self.config.inflight_appends_max, self.config.inflight_bytes_max);
        let Some(progress) = self.progress_of(from) else { return };
        progress.is_recently_active = true;
        progress.confirmed_round = progress.confirmed_round.max(round);
        match progress.state {
            ProgressState::Probe { .. } => progress.state = ProgressState::Probe { sent: false },
            ProgressState::Replicate if progress.matched < last && progress.may_be_nudged => {
                progress.may_be_nudged = false;
                progress.is_nudged = true;
                if progress.inflight.is_full(count_max, bytes_max) {
                    progress.inflight.free_first();
                    self.mark(Mark::FullWindowOpened);
                }
            }
            ProgressState::Replicate | ProgressState::Snapshot { .. } => {}
        }
        self.answer_confirmed_reads();
    }

    /// A member could not be reached: what was on its way may be lost.
    pub fn unreachable(&mut self, id: NodeId) {
        if let Some(progress) = self.progress_of(id)
            && progress.state == ProgressState::Replicate
        {
            progress.become_probe();
        }
    }

    /// Commits what a quorum holds, if it is of this term: an older entry on a quorum may still be
    /// replaced (figure 8 of the paper), and is committed by a younger one after it.
    pub(super) fn maybe_commit(&mut self) {
        let (id, persisted) = (self.config.id, self.log.persisted());
        let progress = &self.progress;
        let durable_at = |member| match progress.iter().find(|p| p.id == member) {
            Some(progress) => progress.matched.0,
            None if member == id => persisted.0,
            None => 0,
        };
        let index = LogIndex(quorum::joint_reached(self.configuration.halves(), durable_at));
        if index <= self.log.commit() || self.log.term(index) != Some(self.term) {
            return;
        }
        let had_own_term_commit = self.has_own_term_commit();
        self.uncommitted_bytes -= self.log.commit_to(index);
        if !had_own_term_commit {
            self.open_deferred_reads();
        }
        self.maybe_step_down();
    }
}

// At a follower.
impl Raft {
    pub(super) fn handle_append(
        &mut self,
        from: NodeId,
        prev: LogPosition,
        commit: LogIndex,
        mut entries: Vec<Entry>,
    ) -> Result<(), StepError> {
        // What is committed here is the same at every leader to come, and may be compacted here.
        let own_commit = self.log.commit();
        let mut prev = prev;
        if prev.index < own_commit {
            entries.retain(|entry| entry.index > own_commit);
            if entries.is_empty() {
                self.matched = self.matched.max(own_commit);
                self.is_ack_due = true;
                return Ok(());
            }
            let term = self.log.term(own_commit);
            prev = LogPosition { index: own_commit, term: term.expect("the start is committed") };
        }
        if !self.log.holds(prev) {
            if prev.index == own_commit {
                let (index, commit) = (prev.index, own_commit);
                return Err(StepError::Diverged { leader: from, index, commit });
            }
            let hint = self.log.last_possible_match(prev);
            self.send(from, Body::AppendRejected { prev: prev.index, hint });
            return Ok(());
        }

        let end = entries.last().map_or(prev.index, |entry| entry.index);
        let known = entries.iter().take_while(|entry| self.log.holds(entry.position())).count();
        if known < entries.len() {
            let keep = LogIndex(prev.index.0 + known as u64);
            if keep < self.log.last().index {
                self.mark(Mark::LogTruncated);
                self.log.truncate(keep);
            }
            for entry in entries.drain(known..) {
                self.log.push(entry);
            }
        }
        self.matched = self.matched.max(end);
        self.log.commit_to(commit.min(end));
        // To a message that only brings a commit index there is nothing new to say. When our last
        // acknowledgement was lost, the leader asks once more, without one.
        let is_only_commit = prev.index == end && self.log.commit() > own_commit;
        self.is_ack_due |= !is_only_commit || self.acknowledged < self.matched;
        Ok(())
    }

    /// What the leader thinks we acknowledged we hold, or we are not who we were.
    pub(super) fn handle_heartbeat(
        &mut self,
        from: NodeId,
        commit: LogIndex,
        round: u64,
    ) -> Result<(), StepError> {
        let last = self.log.last().index;
        if commit > last {
            return Err(StepError::DataLost { leader: from, commit, last });
        }
        self.log.commit_to(commit);
        self.send(from, Body::HeartbeatResponse { round });
        Ok(())
    }

    pub(super) fn send_acknowledgement(&mut self) {
        let Some(leader) = self.leader else { return };
        if self.role != Role::Follower || !self.is_term_persisted() {
            return;
        }
        let matched = self.matched.min(self.log.persisted());
        if matched > self.acknowledged || (self.is_ack_due && matched == self.matched) {
            self.acknowledged = matched;
            self.is_ack_due = matched < self.matched;
            self.send(leader, Body::AppendAccepted { matched });
        }
    }
}
