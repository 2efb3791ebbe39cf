//! Known bugs, to be turned on one at a time: what shows that the tests can find bugs at all.
//!
//! Each is one line at the place it mutates: `if mutants::is_on(Mutant::...)`. Without the feature
//! `mutants` every such line is compiled to nothing. With it, a thread has at most one bug: the one
//! [`set`] on it, or the one that the environment variable `RINGD_MUTANT` names. The log's are in
//! `wal::mutants`, by the same rules.
//!
//! A leaf: it knows the names of bugs and nothing about what they do.

/// A bug, named by what goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutant {
    /// Pages that the last durable checkpoint reaches are handed out again.
    ReuseDurablePages,
    /// Pages that the checkpoint in flight reaches are handed out again.
    ReuseCheckpointPages,
    /// The meta is written before the pages it names are synced.
    MetaBeforePages,
    /// Pages are written beyond the end of the file, which has not been made longer.
    WriteWithoutGrowth,
    /// A page is changed in place, by a move as by any other write, although a reader or the
    /// checkpoint in flight holds it.
    ChangePinnedPages,
    /// The applied index is saved apart from what was applied, a commit later.
    IndexInItsOwnCommit,
    /// The log is cut behind what is in memory, not behind what is durable.
    LogCutBehindMemory,
    /// An operation of the disk that failed is taken for done. It is in what stands in for the shell in
    /// the tests of `node`, as the shell itself does not run on a simulated disk.
    FailedIsDone,
    /// A compaction takes the deletion at exactly its revision along.
    CompactionTakesTombstone,
    /// What Raft wants persisted is called durable before it is written.
    DurableBeforeWritten,
    /// A vote, or a request for one, leaves before it is durable.
    VoteBeforeDurable,
    /// A leader answers reads before it knows what was committed before its term.
    ReadBeforeOwnCommit,
    /// A read is confirmed by answers to heartbeats that were sent before it was asked for.
    ReadJoinsOldRound,
    /// Who asks for a pre-vote in an old term gets no answer.
    LowerTermPreVoteIgnored,
    /// Progress is told although some watchers of the stream have not caught up.
    ProgressBeforeEvents,
    /// A watch from a future revision on gets what comes before it, too.
    FutureWatchGetsAll,
}

impl Mutant {
    pub const ALL: &[Mutant] = &[
        Mutant::ReuseDurablePages,
        Mutant::ReuseCheckpointPages,
        Mutant::MetaBeforePages,
        Mutant::WriteWithoutGrowth,
        Mutant::ChangePinnedPages,
        Mutant::IndexInItsOwnCommit,
        Mutant::LogCutBehindMemory,
        Mutant::FailedIsDone,
        Mutant::CompactionTakesTombstone,
        Mutant::DurableBeforeWritten,
        Mutant::VoteBeforeDurable,
        Mutant::ReadBeforeOwnCommit,
        Mutant::ReadJoinsOldRound,
        Mutant::LowerTermPreVoteIgnored,
        Mutant::ProgressBeforeEvents,
        Mutant::FutureWatchGetsAll,
    ];
}

#[cfg(not(feature = "mutants"))]
#[inline(always)]
pub const fn is_on(_: Mutant) -> bool {
    false
}

#[cfg(feature = "mutants")]
pub use switch::{is_on, set};

#[cfg(feature = "mutants")]
mod switch {
    use super::Mutant;
    use std::cell::Cell;

    thread_local! {
        static ON: Cell<Option<Mutant>> = Cell::new(from_environment());
    }

    fn from_environment() -> Option<Mutant> {
        let name = std::env::var("RINGD_MUTANT").ok()?;
        Mutant::ALL.iter().copied().find(|mutant| format!("{mutant:?}") == name)
    }

    pub fn is_on(mutant: Mutant) -> bool {
        ON.get() == Some(mutant)
    }

    /// Turns one bug on in this thread and all others off, or all off.
    pub fn set(mutant: Option<Mutant>) {
        ON.set(mutant);
    }
}
