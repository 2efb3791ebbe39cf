//! Changes of the configuration (thesis, chapter 4; joint consensus: paper, section 6).
//!
//! A change takes effect on a member when the member applies it, not when it appends it. That keeps
//! one source of truth, the applied state, and needs no way back when an entry is replaced. It is
//! as safe, by four rules together:
//!
//! 1. A leader appends a change only when all before it are applied there, those it found in its
//!    log included.
//! 2. It does so only after an entry of its own term is committed (Ongaro, raft-dev 2015). Where
//!    changes take effect when appended, this alone keeps two leaders from committing by two
//!    configurations that are one step from a third each, and share no quorum. Here rule 1 all but
//!    implies it, and it costs nothing.
//! 3. A member with a committed change not yet applied does not campaign.
//! 4. An entry is never acknowledged before the commit index that came with it or before it is
//!    durable, too. A member that has acknowledged the second of two changes so knows, even after a
//!    crash, that the first is committed, and by rule 3 has applied it before it counts votes. One that
//!    holds the second and crashed before it acknowledged it needs the vote of one that has, if the
//!    second is in effect, and learns it from the answer (`learn_commit`). A member that holds neither
//!    cannot win: a quorum of the configuration it believes in holds the first.
//!
//! So the configurations of any two members that can elect or commit at one time are at most one
//! step apart, and any quorum of one shares a member with any quorum of the other.

use bytes::Bytes;

use super::Raft;
use super::configuration::{ConfChange, Configuration};
use super::error::{ConfChangeError, ProposeConfChangeError};
use super::message::Body;
use super::progress::Progress;
use super::status::Mark;
use super::types::{EntryKind, LogIndex, Role};

impl Raft {
    /// Appends a change of the configuration at the leader.
    pub fn propose_conf_change(
        &mut self,
        change: &ConfChange,
    ) -> Result<LogIndex, ProposeConfChangeError> {
        self.check_can_propose(change.context.len())?;
        if !self.has_own_term_commit() {
            self.mark(Mark::EarlyConfChangeRefused);
            return Err(ProposeConfChangeError::NoOwnTermCommit { term: self.term });
        }
        if self.pending_conf_index > self.log.applied() {
            return Err(ProposeConfChangeError::Pending { index: self.pending_conf_index });
        }
        self.configuration.changed(change)?;
        Ok(self.append_conf_change(change))
    }

    fn append_conf_change(&mut self, change: &ConfChange) -> LogIndex {
        self.pending_conf_index = self.append_entry(EntryKind::ConfChange, change.encode());
        self.pending_conf_index
    }

    /// Ends what follows the commit index, which nobody will ever commit: the other members are lost.
    /// Returns how many entries that were.
    pub fn discard_uncommitted(&mut self) -> u64 {
        assert_eq!(self.role, Role::Follower, "a member that has just been started");
        let (last, commit) = (self.log.last().index, self.log.commit());
        if last > commit {
            self.log.truncate(commit);
        }
        last.0 - commit.0
    }

    /// Takes all of the log for committed. For the only voter that ever was asked for what follows
    /// the commit index.
    pub fn commit_all(&mut self) {
        assert_eq!(self.role, Role::Follower, "a member that has just been started");
        self.log.commit_to(self.log.last().index);
    }

    /// Appends a change of the configuration, and takes it for committed although no quorum has it.
    /// That breaks all that the paper proves, unless none of the others is ever heard of again.
    pub fn force_conf_change(&mut self, change: &ConfChange) -> LogIndex {
        assert_eq!(self.role, Role::Follower, "a member that has just been started");
        assert_eq!(self.log.last().index, self.log.commit(), "nothing is uncommitted");
        let index = self.append_entry(EntryKind::ConfChange, change.encode());
        self.uncommitted_bytes = 0;
        self.log.commit_to(index);
        index
    }

    /// Begins a term of its own for what is forced, in which no lost leader can have appended
    /// anything that was ever seen here.
    pub fn enter_next_term(&mut self) {
        let term = self.term.next();
        self.become_follower(term, None);
    }

    /// Puts into effect the change that `ready` gave out last, in the entry at `index`; all entries
    /// up to there are applied with this. An error says that the change is impossible; then nothing
    /// changes, here as everywhere, and the entry counts as applied.
    pub fn apply_conf_change(
        &mut self,
        index: LogIndex,
        change: &ConfChange,
    ) -> Result<&Configuration, ConfChangeError> {
        self.close_conf_change(index);
        let result = self.configuration.changed(change).map(|after| self.set_configuration(after));
        self.after_applying();
        result.map(|()| &self.configuration)
    }

    /// The application refuses the change in the entry at `index`: the same on all members. The
    /// entry counts as applied.
    pub fn skip_conf_change(&mut self, index: LogIndex) {
        self.close_conf_change(index);
        self.after_applying();
    }

    fn close_conf_change(&mut self, index: LogIndex) {
        assert_eq!(
            self.open_conf_change,
            Some(index),
            "no configuration change to apply at {index}"
        );
        self.open_conf_change = None;
        self.log.apply_to(index);
    }

    fn set_configuration(&mut self, configuration: Configuration) {
        self.configuration = configuration;
        if self.role != Role::Leader {
            return;
        }
        let id = self.config.id;
        let configuration = &self.configuration;
        self.progress.retain(|progress| configuration.contains(progress.id));
        let next = self.log.last().index.next();
        for member in configuration.members().iter().filter(|&member| member != id) {
            if !self.progress.iter().any(|progress| progress.id == member) {
                let mut progress = Progress::new(member, next);
                // The benefit of the doubt: it must not cost the leader its quorum at once.
                progress.is_recently_active = true;
                self.progress.push(progress);
            }
        }
        if self.transfer.as_ref().is_some_and(|transfer| !configuration.is_voter(transfer.to)) {
            self.transfer = None;
        }
        if !configuration.is_voter(id) {
            self.mark(Mark::LeaderRemoved);
            self.steps_down_after = Some(self.append_entry(EntryKind::Normal, Bytes::new()));
        }
        // A smaller quorum may be complete already.
        self.maybe_commit();
        self.answer_confirmed_reads();
    }

    /// A leader that is no voter any more goes on until one more entry is committed (thesis,
    /// section 4.2.2, has it go at once; there a change is in effect as soon as it is appended).
    /// Whoever holds that entry durably knows by rule 4 that the change is committed, so a quorum
    /// of those who remain can elect without this member.
    pub(super) fn maybe_step_down(&mut self) {
        if self.steps_down_after.is_none_or(|index| index > self.log.commit()) {
            return;
        }
        // All that remains to be said: what is committed, and who may begin at once.
        self.send_appends();
        let configuration = &self.configuration;
        let voters = self.progress.iter().filter(|p| configuration.is_voter(p.id));
        if let Some(successor) = voters.max_by_key(|p| p.matched).map(|p| p.id) {
            self.send(successor, Body::TimeoutNow);
        }
        self.become_follower(self.term, None);
    }

    /// Ends a joint configuration that asked for it, whichever leader began it.
    pub(super) fn maybe_leave_joint(&mut self) {
        if self.role == Role::Leader
            && self.configuration.auto_leave
            && self.transfer.is_none()
            && self.pending_conf_index <= self.log.applied()
            && self.has_own_term_commit()
        {
            self.mark(Mark::JointLeft);
            self.append_conf_change(&ConfChange::leave());
        }
    }
}
