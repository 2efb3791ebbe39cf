//! Snapshots (paper, section 7): for a follower that needs entries which are compacted.
//!
//! The leader sends a message that says what the snapshot stands for; the caller streams the state
//! beside it. The receiver's caller steps the message when it holds all of the state, and finds in
//! `Ready::persist` whether to put it in place: by then it may be of no use any more.

use super::Raft;
use super::message::{Body, SnapshotMeta};
use super::progress::ProgressState;
use super::status::Mark;
use super::types::{LogIndex, LogPosition, NodeId};

impl Raft {
    /// Sends the state as it is applied now. The caller may stream a younger one, if it changes the
    /// message to match.
    pub(super) fn send_snapshot(&mut self, place: usize) {
        let progress = &mut self.progress[place];
        // Streaming to a member that is away would only take memory.
        if !progress.is_recently_active {
            return;
        }
        let index = self.log.applied();
        let Some(term) = self.log.term(index) else { return };
        progress.become_snapshot(index);
        let to = progress.id;
        let position = LogPosition { index, term };
        let configuration = self.configuration.clone();
        self.mark(Mark::SnapshotSent);
        self.send(to, Body::Snapshot { snapshot: SnapshotMeta { position, configuration } });
    }

    /// At a leader: the index of the snapshot that `to` is being sent, if it is.
    pub fn pending_snapshot(&self, to: NodeId) -> Option<LogIndex> {
        self.progress.iter().find(|progress| progress.id == to)?.pending_snapshot()
    }

    /// The stream to `to` has ended: with everything received, or not. Until this is told (or the
    /// member acknowledges more), nothing else is sent there.
    pub fn snapshot_finished(&mut self, to: NodeId, arrived: bool) {
        if let Some(progress) = self.progress_of(to)
            && let ProgressState::Snapshot { index } = progress.state
        {
            progress.snapshot_finished(index, arrived);
            if !arrived {
                self.mark(Mark::SnapshotFailed);
            }
        }
    }

    pub(super) fn handle_snapshot(&mut self, snapshot: SnapshotMeta) {
        let position = snapshot.position;
        if position.index <= self.log.commit() {
            self.mark(Mark::SnapshotOutdated);
            self.matched = self.matched.max(self.log.commit());
            self.is_ack_due = true;
        } else if self.log.holds(position) {
            // The log has caught up beside the stream. To install would throw away what comes
            // after.
            self.mark(Mark::SnapshotOvertaken);
            self.log.commit_to(position.index);
            self.matched = self.matched.max(position.index);
            self.is_ack_due = true;
        } else if !snapshot.configuration.contains(self.config.id) {
            // From before this member was added: with it, it would not know that it belongs to the
            // cluster.
            self.mark(Mark::SnapshotWithoutUs);
        } else {
            self.mark(Mark::SnapshotAccepted);
            self.log.reset_to_snapshot(position);
            self.matched = position.index;
            self.is_ack_due = true;
            self.open_conf_change = None;
            // As it was there: a voter may come out of this a learner, or the other way round.
            self.configuration = snapshot.configuration.clone();
            self.unhanded_snapshot = Some(snapshot);
        }
    }
}
