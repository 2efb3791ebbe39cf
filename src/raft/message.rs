//! What members say to each other. One-way messages: an answer is a message of its own, and any may
//! be lost, repeated, reordered or late.

use super::configuration::Configuration;
use super::types::{Entry, LogIndex, LogPosition, NodeId, Term};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    pub from: NodeId,
    pub to: NodeId,
    /// The sender's term; but in a `PreVoteRequest`, and in the `PreVoteResponse` that grants it,
    /// the term the sender of the request would campaign in.
    pub term: Term,
    pub body: Body,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    /// Thesis, section 9.6. All messages about votes say what their sender knows to be committed;
    /// see `learn_commit`.
    PreVoteRequest {
        last: LogPosition,
        committed: LogPosition,
    },
    PreVoteResponse {
        granted: bool,
        committed: LogPosition,
    },
    /// RequestVote of the paper. `transfer`: the leader itself asked for this election, so it is
    /// not a disturbance (thesis, section 4.2.3).
    VoteRequest {
        last: LogPosition,
        committed: LogPosition,
        transfer: bool,
    },
    VoteResponse {
        granted: bool,
        committed: LogPosition,
    },
    /// AppendEntries of the paper. Entries follow `prev` without a gap.
    Append {
        prev: LogPosition,
        commit: LogIndex,
        entries: Vec<Entry>,
    },
    /// The log up to `matched` is durable and equal to the leader's.
    AppendAccepted {
        matched: LogIndex,
    },
    /// There is no entry like `prev` of the `Append`. `hint` is the last place where the logs could
    /// still agree.
    AppendRejected {
        prev: LogIndex,
        hint: LogPosition,
    },
    /// Sent every heartbeat interval, and at once to confirm leadership for reads. `commit` never
    /// goes beyond what the receiver is known to have. `round` counts the leader's reads.
    Heartbeat {
        commit: LogIndex,
        round: u64,
    },
    HeartbeatResponse {
        round: u64,
    },
    /// The state itself travels apart from this message. A receiver steps this only when it holds
    /// all of it.
    Snapshot {
        snapshot: SnapshotMeta,
    },
    /// Thesis, section 3.10: campaign at once.
    TimeoutNow,
    /// A member asks the leader for a read index. `incarnation` and `context` come back as they
    /// are.
    ReadIndex {
        incarnation: u64,
        context: u64,
    },
    ReadIndexResponse {
        incarnation: u64,
        context: u64,
        index: LogIndex,
    },
}

/// What a snapshot stands for: the state after `position`, and the configuration in effect there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotMeta {
    pub position: LogPosition,
    pub configuration: Configuration,
}
