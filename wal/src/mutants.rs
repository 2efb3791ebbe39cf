//! Known bugs of the log, to be turned on one at a time: what shows that the tests can find bugs at
//! all. The rules are those of ringd's `src/mutants.rs`, which cannot be named here: without the
//! feature `mutants` nothing of it is compiled in, and with it a thread has the one bug that is
//! [`set`] on it or that the environment variable `RINGD_MUTANT` names.

/// A bug, named by what goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutant {
    /// The log ends at the first place that holds no sound batch, whatever it is.
    EndAtFirstDamage,
    /// What a torn batch left stays where it is.
    TornStays,
    /// A segment goes although a record in it is still needed.
    RemoveOneTooMany,
    /// What a former life of a file left counts as written.
    StaleIsWritten,
    /// Any older batch's sector counts as left by a former life, whether its batch is still in the log or not.
    AnyOlderIsStale,
}

impl Mutant {
    pub const ALL: &[Mutant] = &[
        Mutant::EndAtFirstDamage,
        Mutant::TornStays,
        Mutant::RemoveOneTooMany,
        Mutant::StaleIsWritten,
        Mutant::AnyOlderIsStale,
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
