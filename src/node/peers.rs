//! What other members say, and when they were last heard.

use super::message::{PeerMessage, SnapshotMessage};
use super::proposals::Forwarded;
use super::snapshot::Answer;
use super::{LeaseAnswer, Node, StopReason, members};
use crate::apply::UsersValue;
use crate::mvcc::HashKvValue;
use crate::raft::{self, Body, NodeId};

/// When a member was heard from without a silence of an election timeout.
pub(super) struct Heard {
    id: NodeId,
    since_ms: u64,
    last_ms: u64,
}

/// Why a request may have taken too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Late {
    Unknown,
    /// It came when the leader before this one was lost.
    LeaderFailure,
    ConnectionLost,
}

impl Node {
    /// Takes a message of another member, which the transport has seen to come from there.
    pub fn receive(&mut self, from: NodeId, message: PeerMessage, now_ms: u64) {
        self.now_ms = self.now_ms.max(now_ms);
        self.note_heard(from);
        match message {
            PeerMessage::Raft(message) => self.handle_raft(from, message),
            PeerMessage::Propose { id, attempt, term, kind, entry } => {
                self.handle_propose(from, Forwarded { id, attempt, term, kind, entry });
            }
            PeerMessage::Refused { id, attempt, refusal } => self.refused(id, attempt, refusal),
            PeerMessage::Gone => self.is_gone = true,
            PeerMessage::Snapshot(message) => self.handle_snapshot(from, message),
            PeerMessage::LeaseRenew { context, lease } => {
                self.handle_lease_renew(from, context, lease);
            }
            PeerMessage::LeaseRenewed { context, ttl_s, .. } => {
                self.conclude_question(context, LeaseAnswer::Renewed { ttl_s });
            }
            PeerMessage::LeaseTimeToLive { context, lease } => {
                self.handle_lease_time_to_live(from, context, lease);
            }
            PeerMessage::LeaseTimeToLiveIs { context, granted_s, remaining_s, .. } => {
                let answer = LeaseAnswer::TimeToLive { granted_s, remaining_s };
                self.conclude_question(context, answer);
            }
            PeerMessage::HashKv { context, revision } => {
                self.take_hash_request(from, context, revision);
            }
            PeerMessage::HashKvIs {
                context,
                revision,
                compact_revision,
                hash,
                auth_revision,
                users_hash,
            } => {
                let value = HashKvValue { hash, compact_revision, hash_revision: revision };
                let users = UsersValue { revision: auth_revision, hash: users_hash };
                self.handle_hash(from, context, value, users);
            }
        }
    }

    /// What was sent to a member may be lost.
    pub fn unreachable(&mut self, id: NodeId) {
        self.raft.unreachable(id);
    }

    fn handle_raft(&mut self, from: NodeId, message: raft::Message) {
        if message.from != from {
            return;
        }
        let asks_for_votes =
            matches!(message.body, Body::PreVoteRequest { .. } | Body::VoteRequest { .. });
        if asks_for_votes && self.applier.cluster.is_removed(from.0) {
            // Whether it was away or waits for just that: nobody else tells it.
            if self.settled_removal().is_some() {
                self.messages.push((from, PeerMessage::Gone));
            }
            return;
        }
        if let Body::Append { entries, .. } = &message.body
            && !entries.iter().all(members::is_readable)
        {
            // Once it is in the log, it is applied without a question, at each start.
            if !std::mem::replace(&mut self.met_unreadable, true) {
                tracing::error!(
                    member = %format_args!("{:x}", from.0),
                    "a member sends entries that cannot be applied, and this one cannot follow it"
                );
            }
            return;
        }
        if matches!(message.body, Body::Snapshot { .. }) {
            // Only `snapshot` hands these to Raft, with the state that they stand for.
            return;
        }
        self.step(message);
    }

    fn handle_snapshot(&mut self, from: NodeId, message: SnapshotMessage) {
        match message {
            SnapshotMessage::Offer { transfer, meta, length, .. } => {
                self.handle_offer(from, transfer, meta, length);
            }
            SnapshotMessage::Piece { transfer, offset, data } => {
                self.handle_piece(from, transfer, offset, &data);
            }
            SnapshotMessage::Received { transfer, offset } => {
                self.handle_snapshot_answer(from, transfer, Answer::Received(offset));
            }
            SnapshotMessage::Complete { transfer } => {
                self.handle_snapshot_answer(from, transfer, Answer::Complete);
            }
            SnapshotMessage::Over { transfer } => {
                self.handle_snapshot_answer(from, transfer, Answer::Over);
            }
        }
    }

    pub(super) fn step(&mut self, message: raft::Message) {
        if let Err(error) = self.raft.step(message)
            && error.is_fatal()
        {
            self.stop_reason = Some(StopReason::Contradiction(error));
        }
    }

    fn note_heard(&mut self, id: NodeId) {
        let now_ms = self.now_ms;
        match self.heard.iter_mut().find(|heard| heard.id == id) {
            Some(heard) => {
                if heard.last_ms + self.options.election_ms < now_ms {
                    heard.since_ms = now_ms;
                }
                heard.last_ms = now_ms;
            }
            None if self.applier.cluster.member(id.0).is_some() => {
                self.heard.push(Heard { id, since_ms: now_ms, last_ms: now_ms });
            }
            None => {}
        }
    }

    /// Whether no leader has been known for so long (three election timeouts) that streams which need
    /// one are to end.
    pub fn is_leaderless(&self) -> bool {
        self.leadership.leader.is_none()
            && self.leadership.since_ms + 3 * self.options.election_ms <= self.now_ms
    }

    /// Why a request that came at `since_ms` may have taken too long.
    pub fn why_late(&self, since_ms: u64) -> Late {
        let elected_ms = self.leadership.elected_ms;
        let lost_ms = elected_ms.saturating_sub(2 * self.options.election_ms);
        if since_ms > lost_ms && since_ms < elected_ms {
            return Late::LeaderFailure;
        }
        let is_connected = match self.raft.leader() {
            None => true,
            Some(leader) if leader == self.raft.id() => {
                let voters = self.applier.cluster.voters();
                let heard = voters.filter(|m| self.is_heard_since(NodeId(m.id), since_ms)).count();
                heard > self.applier.cluster.voters().count() / 2
            }
            Some(leader) => self.is_heard_since(leader, since_ms),
        };
        if is_connected { Late::Unknown } else { Late::ConnectionLost }
    }

    /// Forgets what is remembered of members that are none any more.
    pub(super) fn forget_strangers(&mut self) {
        let configuration = self.raft.configuration();
        self.heard.retain(|heard| configuration.contains(heard.id));
        self.taken.forget_strangers(|id| configuration.contains(id));
    }

    /// Whether a member is heard from; this one always is.
    pub fn is_heard(&self, id: NodeId) -> bool {
        self.is_heard_since(id, self.now_ms)
    }

    /// Whether a member has been heard from all the time since.
    pub fn is_heard_since(&self, id: NodeId, since_ms: u64) -> bool {
        id == self.raft.id()
            || self.heard.iter().any(|heard| {
                heard.id == id
                    && heard.since_ms <= since_ms
                    && heard.last_ms + self.options.election_ms >= self.now_ms
            })
    }
}
