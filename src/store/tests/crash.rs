//! Crashes, at random and everywhere.

use super::disk::CRASH_MODES;
use super::simulation::{Mix, Simulation};
use super::*;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

/// Seeds and steps of a run; `STORE_SEEDS=from..to` runs others.
fn seeds(default: std::ops::Range<u64>) -> std::ops::Range<u64> {
    let parse = |text: String| {
        let (from, to) = text.split_once("..")?;
        Some(from.parse().ok()?..to.parse().ok()?)
    };
    std::env::var("STORE_SEEDS").ok().and_then(parse).unwrap_or(default)
}

/// Runs a test for each seed and says which one failed.
fn for_each_seed(default: std::ops::Range<u64>, mut test: impl FnMut(u64)) {
    for seed in seeds(default) {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| test(seed))) {
            eprintln!("failed; to run it again: STORE_SEEDS={seed}..{} cargo test", seed + 1);
            resume_unwind(panic);
        }
    }
}

#[test]
fn random_runs_with_random_crashes_lose_nothing_durable_and_reuse_nothing_pinned() {
    let [mut checkpoints, mut cuts, mut moved, mut packed] = [0; 4];
    for_each_seed(0..40, |seed| {
        let mut random = Random::new(seed + 1_000_000);
        let mix = Mix::draw(&mut random);
        let mut simulation = Simulation::new(seed, mix);
        let crash_one_in = 100 + random.below(2000);
        for _ in 0..2500 {
            simulation.step();
            if random.one_in(500) {
                simulation.check();
            }
            if random.one_in(crash_one_in) {
                simulation.crash(CRASH_MODES[random.below(4) as usize]);
            }
        }
        simulation.check();
        checkpoints += simulation.checkpoints;
        cuts += simulation.cuts;
        moved += simulation.moved_pages;
        packed += simulation.packed_pages;
    });
    println!("{checkpoints} checkpoints, {cuts} cuts, {moved} pages moved, {packed} saved");
    assert!(checkpoints > 100 && cuts > 10 && moved > 100 && packed > 20);
}

/// A short run with all there is: growth, checkpoints, deletion, cutting.
fn script() -> (Mix, u32) {
    let mix = Mix {
        keys: 120,
        deletes_in_ten: 3,
        commit_one_in: 4,
        checkpoint_one_in: 4,
        reader_one_in: 4,
        readers_max: 2,
        disk_pace: 2,
        big_values: true,
        defrag_one_in: 10,
    };
    (mix, 400)
}

#[test]
fn a_crash_after_every_event_of_the_disk_is_survived() {
    let (mix, steps) = script();
    for mode in CRASH_MODES {
        for crash_at in 1.. {
            let mut simulation = Simulation::new(77, mix);
            let mut crashed = false;
            for _ in 0..steps {
                simulation.step();
                if simulation.disk().events >= crash_at {
                    simulation.crash(mode);
                    crashed = true;
                    break;
                }
            }
            // It goes on as if nothing had been.
            for _ in 0..30 {
                simulation.step();
            }
            simulation.finish();
            simulation.check();
            if !crashed {
                assert!(crash_at > 100, "only {crash_at} events in the run");
                break;
            }
        }
    }
}

#[test]
fn a_full_disk_stops_checkpoints_and_nothing_else() {
    for_each_seed(0..10, |seed| {
        let mut random = Random::new(seed + 2_000_000);
        let mut mix = Mix::draw(&mut random);
        (mix.big_values, mix.checkpoint_one_in, mix.keys) = (true, 5, 2000);
        let mut simulation = Simulation::new(seed, mix);
        simulation.disk().capacity = 600_000;
        for step in 0..1500 {
            simulation.step();
            if step % 20 == 0 {
                simulation.store().check().unwrap();
            }
            if step == 1000 {
                assert!(simulation.full_disks > 0, "the disk never got full");
                simulation.crash(CRASH_MODES[random.below(4) as usize]);
                simulation.disk().capacity = u64::MAX;
            }
        }
        simulation.commit();
        simulation.finish();
        simulation.begin_checkpoint();
        simulation.finish();
        assert!(!simulation.store().is_short_of_space());
        let durable = simulation.store().durable_mark();
        assert_eq!(durable, simulation.store().committed_mark());
        simulation.check();
    });
}
