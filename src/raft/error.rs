//! What can go wrong, told apart by who has to act.

use super::types::{LogIndex, NodeId, Term};

/// Why a proposal was not taken. Nothing has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    #[error("there is no leader")]
    NoLeader,
    #[error("the leader is member {leader}")]
    NotLeader { leader: NodeId },
    #[error("leadership is being transferred to member {to}")]
    Transferring { to: NodeId },
    #[error("the leader is no longer a voter and is about to step down")]
    SteppingDown,
    #[error("{bytes} bytes of entries are not committed yet")]
    TooManyUncommitted { bytes: usize },
}

/// Why a change of the configuration cannot be. The same on every member that applies the change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfChangeError {
    #[error("member id 0 in a configuration change")]
    ZeroId,
    #[error("member {id} is named twice in one configuration change")]
    Duplicate { id: NodeId },
    #[error("the configuration change leaves no voter")]
    NoVoters,
    #[error("the configuration is joint, only leaving it is possible")]
    AlreadyJoint,
    #[error("the configuration is not joint, there is nothing to leave")]
    NotJoint,
    #[error("the change would make more than {max} members")]
    TooManyMembers { max: usize },
    #[error("an encoded configuration is damaged")]
    Damaged,
}

/// Why a proposed configuration change was not taken. Nothing has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProposeConfChangeError {
    #[error(transparent)]
    Propose(#[from] ProposeError),
    #[error(transparent)]
    Invalid(#[from] ConfChangeError),
    /// At most one change is under way (thesis, section 4.1).
    #[error("a configuration change up to index {index} may not be applied yet")]
    Pending { index: LogIndex },
    /// Ongaro, "bug in single-server membership changes", raft-dev 2015.
    #[error("no entry of term {term} is committed yet")]
    NoOwnTermCommit { term: Term },
}

/// Why a read was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    #[error("there is no leader")]
    NoLeader,
    #[error("{pending} reads are waiting for an answer")]
    TooMany { pending: usize },
    #[error("read context {context} does not rise above the one before it")]
    ContextReused { context: u64 },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TransferError {
    #[error("this member is not the leader")]
    NotLeader,
    #[error("member {to} is not a voter")]
    NotVoter { to: NodeId },
}

/// What is wrong with a message. See [`StepError::is_fatal`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StepError {
    #[error("message for member {to}")]
    Misaddressed { to: NodeId },
    #[error("malformed message of member {from}: {what}")]
    Malformed { from: NodeId, what: &'static str },
    #[error(
        "member {leader} has been told that this log reaches index {commit}, but it ends at \
         {last}: this member lost its data and must come back under a new id"
    )]
    DataLost { leader: NodeId, commit: LogIndex, last: LogIndex },
    #[error(
        "the entry of member {leader} at index {index} differs from the one committed here \
         (commit index {commit}): the logs of the cluster have diverged"
    )]
    Diverged { leader: NodeId, index: LogIndex, commit: LogIndex },
    #[error(
        "member {other} claims to lead term {term}, which has another leader: \
         a member has voted twice"
    )]
    TwoLeaders { term: Term, other: NodeId },
}

impl StepError {
    /// A fatal error means that what members hold contradicts what they have acknowledged: this one
    /// must stop. After any other the message is simply dropped.
    pub fn is_fatal(&self) -> bool {
        match self {
            StepError::DataLost { .. }
            | StepError::Diverged { .. }
            | StepError::TwoLeaders { .. } => true,
            StepError::Misaddressed { .. } | StepError::Malformed { .. } => false,
        }
    }
}

/// Why a member cannot start from what it found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RestoreError {
    #[error("unusable setting: {what}")]
    Config { what: &'static str },
    #[error("unusable configuration: {what}")]
    Configuration { what: &'static str },
    #[error("the log has index {found} where {expected} should be")]
    Gap { expected: LogIndex, found: LogIndex },
    #[error("term {term} at index {index} is below the term before it or above the current one")]
    TermOrder { index: LogIndex, term: Term },
    #[error("index {commit} is committed, but the log ends at {last}")]
    CommitBeyondLog { commit: LogIndex, last: LogIndex },
    #[error("index {applied} is applied, but the log holds only {start} to {last}")]
    AppliedOutsideLog { applied: LogIndex, start: LogIndex, last: LogIndex },
}
