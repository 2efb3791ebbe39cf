//! The expensive invariants of one member. For tests and the simulator, after every step.

use super::Raft;
use super::types::{LogIndex, Role};

impl Raft {
    /// What is wrong inside, if anything.
    pub fn complaint(&self) -> Option<&'static str> {
        let last = self.log.last().index;
        if let Some(complaint) = self.log.complaint() {
            return Some(complaint);
        }
        if let Some(complaint) = self.configuration.complaint() {
            return Some(complaint);
        }
        if self.log.last().term > self.term {
            return Some("the log is ahead of the term");
        }
        if self.matched > last || self.acknowledged > self.matched {
            return Some("not acknowledged <= matched <= last");
        }
        if self.role == Role::Leader {
            self.leader_complaint(last)
        } else if !self.progress.is_empty()
            || self.transfer.is_some()
            || self.steps_down_after.is_some()
        {
            Some("something of a leader has stayed")
        } else {
            None
        }
    }

    fn leader_complaint(&self, last: LogIndex) -> Option<&'static str> {
        let members = self.configuration.members();
        if self.leader != Some(self.config.id) || self.vote != Some(self.config.id) {
            Some("a leader that did not vote for itself")
        } else if self.progress.iter().any(|p| p.matched >= p.next || p.next > last.next()) {
            Some("not matched < next <= last + 1")
        } else if members
            .iter()
            .any(|m| m != self.config.id && !self.progress.iter().any(|p| p.id == m))
            || self.progress.iter().any(|p| !members.contains(p.id) || p.id == self.config.id)
        {
            Some("the leader does not track exactly the other members")
        } else if self.configuration.is_voter(self.config.id) == self.steps_down_after.is_some() {
            Some("a leader without a vote that does not step down, or the other way round")
        } else if self.uncommitted_bytes != self.log.uncommitted_bytes() {
            Some("the uncommitted bytes are miscounted")
        } else {
            None
        }
    }
}
