//! The runs: which seeds, how long, and what has to come of them.

use std::time::{Duration, Instant};

use crate::odds::Odds;
use crate::report::Report;
use crate::world::World;

/// Seeds of an ordinary test run, and of one that has to have met everything.
const SEEDS: u64 = 200;
const SEEDS_FOR_ALL: u64 = 200;
/// And of a long one that has to have met what is rare as well: once in 10,876 of these seeds.
const SEEDS_FOR_LONG: u64 = 50_000;

/// Seeds from here on are those of long runs.
const LONG: u64 = 1_000_000;

/// How long a seed's phase with faults is.
fn faulty_us(seed: u64) -> u64 {
    if seed < LONG { 15_000_000 } else { 60_000_000 }
}

fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|value| value.parse().ok())
}

/// Disks and segments come and go all the time: the allocator is not to fetch each anew from the system.
fn keep_memory() {
    // SAFETY: plain calls that set two numbers of the C library's allocator.
    let taken = unsafe {
        [
            libc::mallopt(libc::M_MMAP_THRESHOLD, 1 << 30),
            libc::mallopt(libc::M_TRIM_THRESHOLD, 1 << 30),
        ]
    };
    assert_eq!(taken, [1, 1]);
}

/// Tells how to come back to a seed that fails, and what happened last.
struct Replay<'a>(&'a World);

impl Drop for Replay<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.trace.print();
            eprintln!(
                "replay: SIM_SEED={} cargo test --release --test sim one_seed -- --nocapture",
                self.0.seed
            );
        }
    }
}

/// Runs a world, and says so when it fails.
struct Running(World);

impl Drop for Running {
    fn drop(&mut self) {
        drop(Replay(&self.0));
    }
}

fn run(seed: u64) -> World {
    let mut running = Running(World::new(seed, Odds::of(seed, faulty_us(seed))));
    running.0.run();
    let Running(world) = &mut running;
    std::mem::replace(world, World::new(seed, Odds::of(seed, 0)))
}

/// For those who expect it to fail.
#[cfg(feature = "mutants")]
pub fn run_quietly(seed: u64) {
    World::new(seed, Odds::of(seed, faulty_us(seed))).run();
}

#[test]
fn a_seed_gives_the_same_run_each_time() {
    for seed in [3, 11] {
        let [first, second] = [run(seed), run(seed)];
        assert_eq!(first.trace.hash, second.trace.hash, "seed {seed}");
        assert_eq!(first.trace.events, second.trace.events, "seed {seed}");
        assert_eq!(first.truth.digest(), second.truth.digest(), "seed {seed}");
    }
    assert_ne!(run(3).trace.hash, run(11).trace.hash);
}

#[test]
fn no_seed_breaks_a_promise() {
    keep_memory();
    let started = Instant::now();
    let mut report = Report::default();
    for seed in 0..setting("SIM_SEEDS").unwrap_or(SEEDS) {
        report.add(&run(seed));
    }
    report.print(started.elapsed());
    if report.seeds >= SEEDS_FOR_ALL {
        report.expect_alive(false);
    }
}

/// A quiet cluster of three, whose clients ask for something every few seconds: the log that stays
/// in memory is looked at after each step.
fn quiet(snapshot_count: u64) -> World {
    let odds = Odds {
        members: 3,
        loss: 0,
        repeat: 0,
        late: 0,
        delay_us: (200, 2_000),
        log_write_us: (100, 2_000),
        store_op_us: (100, 2_000),
        snapshot_count,
        catch_up_entries: snapshot_count,
        skew_ppm: 1_000,
        fault_every_us: u64::MAX / 100,
        clients: 3,
        think_us: 8_000_000,
        patience_us: 7_000_000,
        ..Odds::of(1, 0)
    };
    World::new(1, odds)
}

#[test]
fn a_member_that_was_cut_off_for_an_hour_comes_back_unnoticed() {
    // With the log that it missed, and with the state in its place.
    for snapshot_count in [100_000, 30] {
        let mut world = quiet(snapshot_count);
        world.run_until(5_000_000);
        let (term, leader) = world.laws.last_leader().expect("a leader");
        let lost = world.member_ids().into_iter().find(|id| *id != leader).expect("three members");
        world.shunned = Some(lost);
        for number in 1..=3 {
            world.disconnect(number);
        }
        world.run_until(world.now_us + 20_000_000);
        let failures = |world: &World| {
            let kinds = ["requests given up", "requests refused", "connections broken"];
            kinds.map(|kind| world.counts.get(kind).copied().unwrap_or_default())
        };
        let before = (failures(&world), world.history.unknown);
        let writes = world.history.writes;
        for other in world.member_ids().into_iter().filter(|id| *id != lost) {
            world.cut.extend([(lost, other), (other, lost)]);
        }
        world.run_until(world.now_us + 3_600_000_000);
        world.cut.clear();
        world.run_until(world.now_us + 30_000_000);
        assert!(world.history.writes > writes + 60, "{} writes", world.history.writes);
        assert_eq!((failures(&world), world.history.unknown), before, "clients notice");
        assert_eq!(world.laws.last_leader(), Some((term, leader)));
        let committed = world.truth.committed();
        for member in world.members.values() {
            let node = &member.process.as_ref().expect("nobody ends").node;
            assert_eq!(node.raft().term().0, term, "member {}", member.id);
            assert!(node.applier.applied_index() + 10 > committed, "member {} lags", member.id);
        }
        let installed = world.counts.get("snapshots installed").copied().unwrap_or_default();
        assert_eq!(installed > 0, snapshot_count == 30);
    }
}

#[test]
fn one_seed() {
    let Some(seed) = setting("SIM_SEED") else { return };
    let started = Instant::now();
    let mut report = Report::default();
    let world = run(seed);
    println!("{:?}", world.odds);
    report.add(&world);
    report.print(started.elapsed());
}

#[test]
fn for_hours() {
    let Some(minutes) = setting("SIM_MINUTES") else { return };
    keep_memory();
    let started = Instant::now();
    let mut report = Report::default();
    let mut seed = setting("SIM_FIRST").unwrap_or(LONG);
    while started.elapsed() < Duration::from_secs(60 * minutes) {
        report.add(&run(seed));
        seed += 1;
    }
    report.print(started.elapsed());
    if report.seeds >= SEEDS_FOR_LONG {
        report.expect_alive(true);
    }
}
