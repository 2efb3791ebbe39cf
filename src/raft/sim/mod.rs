//! Whole clusters of [`Raft`] in one thread, at the mercy of a seed: a network that loses, repeats
//! and reorders, disks that are slow and lose what was not synced, members that crash, pause and
//! change. After every step the checks of `checks.rs`; at the end everything heals and the cluster
//! must come to rest with equal state.
//!
//! `RAFT_SIM_FIRST` and `RAFT_SIM_SEEDS` choose the seeds: `RAFT_SIM_FIRST=17 RAFT_SIM_SEEDS=1`
//! replays seed 17 alone.

mod checks;
mod member;
mod world;

use super::Mark;
use world::World;

const STEPS: usize = 5000;
const SEEDS: u64 = 120;

/// Too rare for a short run, or (the last) out of reach for correct members. The texts of the
/// interaction tests take all.
const RARE: [Mark; 3] =
    [Mark::LearnerVoted, Mark::CampaignWithUnappliedChange, Mark::SnapshotWithoutUs];

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
}

/// Prints how to come back to the seed at which a check failed.
struct Replay(u64);

impl Drop for Replay {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let seed = self.0;
            eprintln!("replay: RAFT_SIM_FIRST={seed} RAFT_SIM_SEEDS=1 cargo test raft::sim");
        }
    }
}

fn run(seed: u64) -> World {
    let _replay = Replay(seed);
    let mut world = World::new(seed);
    for _ in 0..STEPS {
        world.step();
    }
    world.heal_and_settle();
    world
}

#[test]
fn no_schedule_of_faults_breaks_a_property_of_raft_and_every_cluster_recovers() {
    let first = setting("RAFT_SIM_FIRST", 0);
    let seeds = setting("RAFT_SIM_SEEDS", SEEDS);
    let mut marks = vec![0; Mark::ALL.len()];
    let (mut committed, mut reads, mut leaders, mut crashes) = (0, 0, 0, 0);
    for seed in first..first + seeds {
        let world = run(seed);
        for (sum, count) in marks.iter_mut().zip(&world.marks) {
            *sum += count;
        }
        committed += world.checks.committed();
        leaders += world.checks.leaders();
        reads += world.reads_answered;
        crashes += world.crashes;
    }
    let counts: Vec<_> = Mark::ALL.iter().zip(&marks).collect();
    println!(
        "{committed} committed, {reads} reads, {leaders} leaders, {crashes} crashes, {counts:?}"
    );
    if seeds >= SEEDS {
        // A run in which nothing happens proves nothing.
        assert!(committed > 30 * seeds && reads > 10 * seeds);
        assert!(leaders > 2 * seeds && crashes > 5 * seeds);
        let never: Vec<_> =
            counts.iter().filter(|(mark, count)| **count == 0 && !RARE.contains(mark)).collect();
        assert!(never.is_empty(), "turns never taken: {never:?}");
    }
}

#[test]
fn the_same_seed_gives_the_same_run() {
    for seed in [3, 44] {
        assert_eq!(run(seed).trace, run(seed).trace);
    }
    assert_ne!(run(3).trace, run(44).trace);
}
