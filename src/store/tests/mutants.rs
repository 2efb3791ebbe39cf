//! The bugs of `mutants` that are the store's are found by its loops.
//! `cargo test --lib --features mutants mutants`

use super::crash;
use crate::mutants::{Mutant, set};
use std::panic::catch_unwind;

const LOOPS: &[(&str, fn())] = &[
    ("a crash after every event", crash::a_crash_after_every_event_of_the_disk_is_survived),
    (
        "random runs",
        crash::random_runs_with_random_crashes_lose_nothing_durable_and_reuse_nothing_pinned,
    ),
];

#[test]
fn every_mutant_of_the_store_is_found() {
    for mutant in [
        Mutant::ReuseDurablePages,
        Mutant::ReuseCheckpointPages,
        Mutant::MetaBeforePages,
        Mutant::WriteWithoutGrowth,
        Mutant::ChangePinnedPages,
    ] {
        set(Some(mutant));
        let found = LOOPS.iter().find(|(_, run)| catch_unwind(run).is_err());
        set(None);
        let (name, _) = found.unwrap_or_else(|| panic!("{mutant:?} is not found"));
        println!("{mutant:?}: found by {name}");
    }
}
