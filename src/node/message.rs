//! What members say to each other. One-way messages: an answer is a message of its own, and any may
//! be lost, repeated, reordered or late; who needs an answer asks again or gives up.

use bytes::Bytes;

use crate::raft::{self, EntryKind, SnapshotMeta};

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PeerMessage {
    Raft(raft::Message),
    /// A proposal of a member that does not lead, for the leader to append. `entry` is what the log
    /// gets; the sender finds its outcome when it applies it itself, by `id`. Only who leads in
    /// `term` may take it, and no more than once: so a late or doubled one has no effect when the
    /// sender has tried again elsewhere.
    Propose {
        id: u64,
        attempt: u64,
        term: raft::Term,
        kind: EntryKind,
        entry: Bytes,
    },
    /// The proposal `id` was not appended by this attempt, and will not be.
    Refused {
        id: u64,
        attempt: u64,
        refusal: Refusal,
    },
    /// A keep-alive that a client sent to a member that does not lead.
    LeaseRenew {
        context: u64,
        lease: i64,
    },
    /// `ttl_s` is what the lease has been given anew; 0: there is no such lease.
    LeaseRenewed {
        context: u64,
        lease: i64,
        ttl_s: i64,
    },
    /// How long has a lease? Only the leader's clock counts.
    LeaseTimeToLive {
        context: u64,
        lease: i64,
    },
    /// `granted_s` and `remaining_s` are -1 when there is no such lease.
    LeaseTimeToLiveIs {
        context: u64,
        lease: i64,
        granted_s: i64,
        remaining_s: i64,
    },
    Snapshot(SnapshotMessage),
    /// What is the hash of the history up to `revision`?
    HashKv {
        context: u64,
        revision: i64,
    },
    /// Comparable only with one made with the same bound of compaction.
    HashKvIs {
        context: u64,
        revision: i64,
        compact_revision: i64,
        hash: u32,
        /// Users and roles as they are now, comparable with those of the same auth revision.
        auth_revision: u64,
        users_hash: u32,
    },
    /// The receiver has been removed from the cluster, for ever.
    Gone,
}

/// Why the leader did not append a proposal, or the receiver is not one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    NotLeader,
    /// Not now: leadership is on its way to another member, or a change of the members is under way.
    Later,
    TooManyRequests,
    /// It can never become an entry.
    Invalid,
    /// The change of the members could cost the cluster its quorum: not all members are heard from.
    Unhealthy,
    /// The change of the members could cost the cluster its quorum: some have never been started.
    NotEnoughStarted,
    /// The learner to be promoted is too far behind.
    LearnerNotReady,
}

/// The state of a member on its way to another, in pieces that are acknowledged. `transfer` names
/// one transfer of one sender. What is not acknowledged for a while is sent again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SnapshotMessage {
    /// `length` bytes follow, which stand for `meta`. `term` is that of the sender.
    Offer {
        transfer: u64,
        term: raft::Term,
        meta: SnapshotMeta,
        length: u64,
    },
    Piece {
        transfer: u64,
        offset: u64,
        data: Bytes,
    },
    /// All before `offset` has arrived, and as much as is in a window may follow. Said again, it keeps
    /// the sender waiting.
    Received {
        transfer: u64,
        offset: u64,
    },
    /// All of it has arrived and will be installed.
    Complete {
        transfer: u64,
    },
    /// The receiver knows nothing of this transfer, or the sender cannot go on with it.
    Over {
        transfer: u64,
    },
}

/// In which order a link that is behind sends, and what it may drop first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// Elections, heartbeats, reads: small, and never behind the rest.
    Urgent,
    /// Entries and proposals.
    Data,
    /// Pieces of snapshots.
    Bulk,
}

impl PeerMessage {
    pub fn class(&self) -> Class {
        match self {
            PeerMessage::Raft(message) => match message.body {
                raft::Body::Append { .. } => Class::Data,
                _ => Class::Urgent,
            },
            PeerMessage::Propose { .. } => Class::Data,
            PeerMessage::Snapshot(SnapshotMessage::Piece { .. }) => Class::Bulk,
            PeerMessage::Refused { .. }
            | PeerMessage::LeaseRenew { .. }
            | PeerMessage::LeaseRenewed { .. }
            | PeerMessage::LeaseTimeToLive { .. }
            | PeerMessage::LeaseTimeToLiveIs { .. }
            | PeerMessage::HashKv { .. }
            | PeerMessage::HashKvIs { .. }
            | PeerMessage::Gone
            | PeerMessage::Snapshot(_) => Class::Urgent,
        }
    }
}
