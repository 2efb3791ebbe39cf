//! The small types every part of this module speaks: the integers of the paper as newtypes, log
//! entries, and what must be durable.

use std::fmt;

use bytes::Bytes;

macro_rules! newtype {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub u64);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

newtype! {
    /// A term: the logical clock of Raft (paper, section 5.1). 0 is "before the first election".
    Term
}
newtype! {
    /// A position in the log. The first entry ever has index 1; 0 is "nothing".
    LogIndex
}
newtype! {
    /// A member of the cluster. 0 names nobody and is refused wherever a member is expected.
    NodeId
}
newtype! {
    /// Names one [`Persist`](super::Persist). Tokens rise by one and are never reused while the
    /// process lives.
    Token
}

impl LogIndex {
    pub fn next(self) -> LogIndex {
        LogIndex(self.0 + 1)
    }

    /// The index before this one; 0 stays 0.
    pub fn prev(self) -> LogIndex {
        LogIndex(self.0.saturating_sub(1))
    }
}

impl Term {
    pub fn next(self) -> Term {
        Term(self.0 + 1)
    }
}

/// Index and term of an entry: by Log Matching the two name one history.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct LogPosition {
    pub index: LogIndex,
    pub term: Term,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EntryKind {
    /// Data of the application, or the empty entry with which a leader begins its term.
    Normal,
    /// An encoded [`ConfChange`](super::ConfChange).
    ConfChange,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub term: Term,
    pub index: LogIndex,
    pub kind: EntryKind,
    /// Empty for the entry with which a leader begins its term.
    pub data: Bytes,
}

impl Entry {
    /// What an entry counts for in every byte limit: its data and what carrying it costs.
    pub fn size_bytes(&self) -> usize {
        self.data.len() + Entry::OVERHEAD_BYTES
    }

    /// Index, term, kind and the handle of the data, in memory and about the same on the wire.
    pub const OVERHEAD_BYTES: usize = 56;

    pub fn position(&self) -> LogPosition {
        LogPosition { index: self.index, term: self.term }
    }
}

/// What a member must find again after a restart (paper, figure 2, "persistent state"), beside the
/// log.
///
/// `commit` is a lower bound: it is written with the next entries, never for its own sake. But
/// entries that arrived with a commit index are never acknowledged without it, on which the safety of
/// configuration changes rests (see `reconfigure.rs`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HardState {
    pub term: Term,
    pub vote: Option<NodeId>,
    pub commit: LogIndex,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    Follower,
    /// Asks whether it could win, without touching any term (thesis, section 9.6).
    PreCandidate,
    Candidate,
    Leader,
}

/// What others like to know as it changes; lost at restart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SoftState {
    pub role: Role,
    pub term: Term,
    pub leader: Option<NodeId>,
}
