//! Known bugs, turned on one at a time: a simulator that does not find them proves nothing.
//!
//! `cargo test --release --features mutants --test sim mutants -- --nocapture`

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use ringd::mutants::{Mutant, set};

use crate::runs::run_quietly;

/// What a bug may cost until it is found, on one core.
const PATIENCE: Duration = Duration::from_secs(600);

/// Seeds until the first that fails, if one does in time.
fn hunt(mutant: Mutant) -> (u64, Duration, Option<String>) {
    let started = Instant::now();
    let mut seeds = 0;
    while started.elapsed() < PATIENCE {
        set(Some(mutant));
        let result = catch_unwind(AssertUnwindSafe(|| run_quietly(seeds)));
        set(None);
        seeds += 1;
        if let Err(panic) = result {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
            return (seeds, started.elapsed(), Some(text.unwrap_or_default()));
        }
    }
    (seeds, started.elapsed(), None)
}

#[test]
fn mutants_are_found() {
    std::panic::set_hook(Box::new(|_| {}));
    let mut missed = Vec::new();
    for &mutant in Mutant::ALL {
        let (seeds, took, found) = hunt(mutant);
        let what = found.as_ref().map_or("NOT FOUND", |text| text.lines().next().unwrap_or(""));
        let what: String = what.chars().take(160).collect();
        println!("{mutant:?}: {seeds} seeds, {:.1} s: {what}", took.as_secs_f64());
        if found.is_none() {
            missed.push(mutant);
        }
    }
    drop(std::panic::take_hook());
    assert!(missed.is_empty(), "bugs that nobody finds: {missed:?}");
}
