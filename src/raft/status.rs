//! A view of the whole for metrics, operators and tests.

use super::Raft;
use super::configuration::Configuration;
use super::progress::ProgressState;
use super::types::{LogIndex, NodeId, Role, Term};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    pub id: NodeId,
    pub term: Term,
    pub vote: Option<NodeId>,
    pub role: Role,
    pub leader: Option<NodeId>,
    pub commit: LogIndex,
    pub applied: LogIndex,
    /// Durable on this member.
    pub persisted: LogIndex,
    pub first: LogIndex,
    pub last: LogIndex,
    pub log_bytes: usize,
    /// At a leader: bytes of entries not committed yet.
    pub uncommitted_bytes: usize,
    /// Reads without an answer.
    pub reads: usize,
    pub configuration: Configuration,
    pub transfer_to: Option<NodeId>,
    /// At a leader: the other members.
    pub members: Vec<MemberStatus>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemberStatus {
    pub id: NodeId,
    pub is_learner: bool,
    /// Durable there.
    pub matched: LogIndex,
    pub next: LogIndex,
    pub replication: Replication,
    /// `Append`s on the way, and their bytes.
    pub inflight: usize,
    pub inflight_bytes: usize,
    /// Heard from since the quorum was last checked.
    pub is_recently_active: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replication {
    Probe,
    Replicate,
    Snapshot,
}

impl Raft {
    /// Whether this member leads and takes proposals, as far as their number allows.
    pub fn is_accepting(&self) -> bool {
        self.role == Role::Leader && self.transfer.is_none() && self.steps_down_after.is_none()
    }

    /// The entries behind the applied index, committed or not.
    pub fn unapplied(&self) -> impl Iterator<Item = &super::Entry> {
        self.log.range(self.log.applied().next(), self.log.last().index)
    }

    /// At a leader: how far the log of another member is known to equal its own.
    pub fn matched(&self, id: NodeId) -> Option<LogIndex> {
        self.progress.iter().find(|progress| progress.id == id).map(|progress| progress.matched)
    }

    pub fn status(&self) -> Status {
        let member = |progress: &super::Progress| MemberStatus {
            id: progress.id,
            is_learner: self.configuration.is_learner(progress.id),
            matched: progress.matched,
            next: progress.next,
            replication: match progress.state {
                ProgressState::Probe { .. } => Replication::Probe,
                ProgressState::Replicate => Replication::Replicate,
                ProgressState::Snapshot { .. } => Replication::Snapshot,
            },
            inflight: progress.inflight.count(),
            inflight_bytes: progress.inflight.bytes(),
            is_recently_active: progress.is_recently_active,
        };
        Status {
            id: self.config.id,
            term: self.term,
            vote: self.vote,
            role: self.role,
            leader: self.leader,
            commit: self.log.commit(),
            applied: self.log.applied(),
            persisted: self.log.persisted(),
            first: self.log.start().index.next(),
            last: self.log.last().index,
            log_bytes: self.log.bytes(),
            uncommitted_bytes: if self.role == Role::Leader { self.uncommitted_bytes } else { 0 },
            reads: self.reads.waiting(),
            configuration: self.configuration.clone(),
            transfer_to: self.transfer_target(),
            members: self.progress.iter().map(member).collect(),
        }
    }

    /// How often each rare turn was taken since the start.
    pub fn marks(&self) -> impl Iterator<Item = (Mark, u64)> + '_ {
        Mark::ALL.iter().map(|&mark| (mark, self.marks.0[mark as usize]))
    }
}

macro_rules! marks {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// Turns that are rare enough to ask of a test whether it ever took them.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Mark {
            $($(#[$doc])* $name,)*
        }

        impl Mark {
            pub const ALL: &[Mark] = &[$(Mark::$name,)*];
        }
    };
}

marks! {
    PreVoteStarted,
    ElectionStarted,
    BecameLeader,
    SteppedDown,
    CampaignLost,
    /// A voter ignored a candidate, since it hears from a leader.
    LoyalToLeader,
    /// A leader of an earlier term was told of ours.
    DeafToOldLeader,
    LowerTermPreVote,
    LearnerVoted,
    CampaignWithUnappliedChange,
    QuorumLost,
    /// Something that had waited for the disk had lost its meaning.
    HeldMessageDropped,
    LogTruncated,
    AppendRejected,
    OldRejection,
    /// A window was full for so long that an answer must have been lost.
    FullWindowOpened,
    ReadDeferred,
    UnaskedReadAnswer,
    SnapshotSent,
    SnapshotFailed,
    SnapshotAccepted,
    SnapshotOutdated,
    SnapshotOvertaken,
    SnapshotWithoutUs,
    TransferAborted,
    EarlyConfChangeRefused,
    LeaderRemoved,
    /// A commit index was learned from a message about votes.
    CommitByVote,
    JointLeft,
}

pub(super) struct Marks([u64; Mark::ALL.len()]);

impl Default for Marks {
    fn default() -> Marks {
        Marks([0; Mark::ALL.len()])
    }
}

impl Marks {
    pub(super) fn count(&mut self, mark: Mark) {
        self.0[mark as usize] += 1;
    }
}
