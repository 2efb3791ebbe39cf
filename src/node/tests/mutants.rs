//! The bugs of `mutants` that only log and store together show are found by their loops.
//! `cargo test --lib --features mutants mutants`

use std::panic::catch_unwind;

use super::crashes;
use crate::mutants::{Mutant, set};

const LOOPS: &[(&str, fn())] = &[
    (
        "a crash at every event",
        crashes::a_crash_at_every_event_of_a_run_loses_nothing_that_was_acknowledged,
    ),
    (
        "an error at every operation",
        crashes::an_error_at_every_operation_of_a_run_ends_the_process_and_loses_nothing,
    ),
];

#[test]
fn every_mutant_of_log_and_store_together_is_found() {
    for mutant in [Mutant::IndexInItsOwnCommit, Mutant::LogCutBehindMemory, Mutant::FailedIsDone] {
        set(Some(mutant));
        let found = LOOPS.iter().find(|(_, run)| catch_unwind(run).is_err());
        set(None);
        let (name, _) = found.unwrap_or_else(|| panic!("{mutant:?} is not found"));
        println!("{mutant:?}: found by {name}");
    }
}
