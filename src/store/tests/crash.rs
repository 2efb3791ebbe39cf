//! Crashes, at random and everywhere.

use super::disk::{Fault, Loss};
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
pub fn random_runs_with_random_crashes_lose_nothing_durable_and_reuse_nothing_pinned() {
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
                simulation.crash(Loss::USUAL[random.below(5) as usize]);
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

/// Reachable, free and pending pages are all pages and no page is two of them, after each transaction; and none
/// that a reader, a checkpoint in flight or the durable one consists of is handed out. `STORE_TXNS` for more.
#[test]
fn pages_are_conserved_by_every_transaction_and_pinned_ones_never_handed_out() {
    let asked = std::env::var("STORE_TXNS").map(|txns| txns.parse().expect("a number"));
    let txns_wanted: u64 = asked.unwrap_or(6000);
    let (mut txns, mut checkpoints, mut seed) = (0, 0, 0);
    while txns < txns_wanted {
        let mut random = Random::new(seed + 2_000_000);
        let mix = Mix {
            keys: [20, 200][random.below(2) as usize],
            commit_one_in: 1,
            reader_one_in: 2 + random.below(20),
            readers_max: 1 + random.below(5) as usize,
            big_values: false,
            ..Mix::draw(&mut random)
        };
        let mut simulation = Simulation::new(seed, mix);
        for _ in 0..2000 {
            simulation.step();
            simulation.store().check().unwrap();
            txns += 1;
        }
        checkpoints += simulation.checkpoints;
        seed += 1;
    }
    println!("{txns} transactions, {checkpoints} checkpoints");
    assert!(checkpoints > txns / 500);
}

/// A short run with all there is: growth and checkpoints, and then deletion and cutting.
const STEPS: u32 = 600;

fn script() -> Mix {
    Mix {
        keys: 60,
        deletes_in_ten: 1,
        commit_one_in: 4,
        checkpoint_one_in: 4,
        reader_one_in: 4,
        readers_max: 2,
        disk_pace: 2,
        big_values: true,
        defrag_one_in: 10,
    }
}

fn step(simulation: &mut Simulation, nth: u32) {
    if nth == STEPS / 2 {
        simulation.mix.deletes_in_ten = 10;
    }
    simulation.step();
}

#[test]
pub fn a_crash_after_every_event_of_the_disk_is_survived() {
    let mix = script();
    let mut crashes = 0;
    for mode in Loss::USUAL {
        for crash_at in 1.. {
            let mut simulation = Simulation::new(77, mix);
            let mut crashed = false;
            for nth in 0..STEPS {
                step(&mut simulation, nth);
                if simulation.disk.events() >= crash_at {
                    simulation.crash(mode);
                    crashed = true;
                    crashes += 1;
                    break;
                }
            }
            if !crashed {
                // The run had all there is.
                let Simulation { growths, cuts, moved_pages, packed_pages, .. } = simulation;
                let all = [growths, cuts, moved_pages, packed_pages, simulation.checkpoints];
                assert!(all.iter().all(|count| *count > 0), "{all:?}");
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
    println!("{crashes} crashes");
}

#[test]
pub fn a_full_disk_stops_checkpoints_and_nothing_else() {
    for_each_seed(0..10, |seed| {
        let mut random = Random::new(seed + 2_000_000);
        let mut mix = Mix::draw(&mut random);
        (mix.big_values, mix.checkpoint_one_in, mix.keys) = (true, 5, 2000);
        let mut simulation = Simulation::new(seed, mix);
        simulation.disk.inner.space = Some(600_000);
        for step in 0..1500 {
            simulation.step();
            if step % 20 == 0 {
                simulation.store().check().unwrap();
            }
            if step == 1000 {
                assert!(simulation.full_disks > 0, "the disk never got full");
                simulation.crash(Loss::USUAL[random.below(5) as usize]);
                simulation.disk.inner.space = None;
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

/// What fails ends the process, and is never tried again by the same one. The next one finds the last
/// durable checkpoint or the one in flight, whether the power went too or not, and whether the disk is
/// sound again or fails for some time more.
#[test]
pub fn an_error_at_every_operation_of_the_disk_ends_the_process_and_loses_nothing_durable() {
    let mix = script();
    let mut failures = 0;
    'kinds: for (for_ever, power_goes) in
        [(false, false), (false, true), (true, false), (true, true)]
    {
        for at in 1.. {
            let mut simulation = Simulation::new(78, mix);
            simulation.disk.inner.fail(Some(Fault { at, for_ever }));
            let mut failed = false;
            for process in 0..2 {
                for nth in 0..if process == 0 { STEPS } else { 40 } {
                    step(&mut simulation, nth);
                    if simulation.failed {
                        break;
                    }
                }
                failed |= simulation.failed;
                failures += u64::from(simulation.failed);
                match power_goes {
                    true => simulation.crash(Loss::Whole),
                    false => simulation.restart(),
                }
            }
            simulation.disk.inner.fail(None);
            for _ in 0..30 {
                simulation.step();
            }
            simulation.finish();
            simulation.check();
            if !failed {
                assert!(at > 50, "only {at} operations in the run");
                continue 'kinds;
            }
        }
    }
    println!("{failures} failed operations");
}

/// The disk is full at every operation, once or until somebody makes room: checkpoints are put off,
/// and nothing else happens.
#[test]
pub fn a_full_disk_at_every_operation_puts_off_checkpoints_and_loses_nothing() {
    let mix = script();
    let mut shortages = 0;
    'kinds: for (for_ever, power_goes) in
        [(false, false), (false, true), (true, false), (true, true)]
    {
        for at in 1.. {
            let mut simulation = Simulation::new(79, mix);
            simulation.disk.inner.fill(Some(Fault { at, for_ever }));
            for nth in 0..STEPS {
                step(&mut simulation, nth);
            }
            if power_goes {
                simulation.crash(Loss::Sectors);
            }
            let hit = simulation.disk.inner.faults().1;
            shortages += hit;
            simulation.disk.inner.fill(None);
            simulation.change_and_commit();
            simulation.finish();
            simulation.begin_checkpoint();
            simulation.finish();
            let store = simulation.store();
            assert!(!store.is_short_of_space());
            assert_eq!(store.durable_mark(), store.committed_mark());
            simulation.check();
            if hit == 0 {
                assert!(at > 20, "only {at} operations in the run");
                continue 'kinds;
            }
        }
    }
    println!("{shortages} full disks");
}
