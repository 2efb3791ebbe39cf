//! The bugs of `wal::mutants` are found by the loops. `cargo test -p wal --features mutants mutants`

use std::panic::catch_unwind;

use wal::mutants::{Mutant, set};

use crate::{crash, faults, flips, rows};

const LOOPS: &[(&str, fn())] = &[
    ("a crash at any operation", crash::a_crash_at_any_operation_of_a_run_loses_nothing_that_was_acknowledged),
    ("random crashes", crash::random_runs_with_many_crashes_lose_nothing_that_was_acknowledged),
    ("an error at every operation", faults::an_error_at_every_operation_ends_the_process_and_loses_nothing_that_was_acknowledged),
    ("a full disk at every operation", faults::a_full_disk_at_every_operation_delays_and_loses_nothing),
    ("stale sectors", rows::stale_sectors_count_as_nothing_in_every_row),
    ("every bit flipped", flips::every_flipped_bit_is_found_at_its_batch_or_harmless),
];

#[test]
fn every_mutant_of_the_log_is_found() {
    for &mutant in Mutant::ALL {
        set(Some(mutant));
        let found = LOOPS.iter().find(|(_, run)| catch_unwind(run).is_err());
        set(None);
        let (name, _) = found.unwrap_or_else(|| panic!("{mutant:?} is not found"));
        println!("{mutant:?}: found by {name}");
    }
}
