//! What a number of runs has come to: counts of all that must not be 0, or they prove nothing.

use std::collections::BTreeMap;

use ringd::raft::Mark;

use crate::odds::Fault;
use crate::world::World;

/// Turns that correct members of this kind do not take: a joint configuration is nothing that a
/// client of etcd can ask for, and a leader sends the state only to members of the configuration
/// that it sends along. Raft's own simulator and its texts take them.
const OUT_OF_REACH: [Mark; 2] = [Mark::JointLeft, Mark::SnapshotWithoutUs];

/// Too rare for few seeds: a state that arrives while there is no leader, on a disk that stalls.
const RARE: [Mark; 1] = [Mark::CampaignWithUnappliedChange];

#[derive(Default)]
pub struct Report {
    pub seeds: u64,
    pub simulated_us: u64,
    pub counts: BTreeMap<&'static str, u64>,
    pub faults: BTreeMap<Fault, u64>,
    pub marks: Vec<u64>,
}

impl Report {
    pub fn add(&mut self, world: &World) {
        self.seeds += 1;
        self.simulated_us += world.now_us;
        for (what, count) in &world.counts {
            *self.counts.entry(what).or_default() += count;
        }
        for (fault, count) in &world.faults {
            *self.faults.entry(*fault).or_default() += count;
        }
        self.marks.resize(Mark::ALL.len(), 0);
        for (sum, count) in self.marks.iter_mut().zip(&world.marks) {
            *sum += count;
        }
        for (what, count) in [
            ("entries committed", world.truth.committed()),
            ("elections", world.laws.elections),
            ("writes answered", world.history.writes),
            ("reads answered", world.history.reads),
            ("answers that are errors", world.history.refused),
            ("outcomes unknown", world.history.unknown),
            ("leases renewed", world.leases.renewed),
            ("leases expired", world.leases.expired),
        ] {
            *self.counts.entry(what).or_default() += count;
        }
    }

    /// A run in which nothing happens proves nothing.
    pub fn expect_alive(&self, is_long: bool) {
        let per_seed = [("writes answered", 20), ("reads answered", 10), ("events watched", 10)];
        for (what, least) in per_seed {
            assert!(self.count(what) > least * self.seeds, "too few {what}");
        }
        for what in [
            "answers that are errors",
            "connections broken",
            "failed operations of a disk",
            "leases expired",
            "leases renewed",
            "members that ended as they were removed",
            "snapshots installed",
            "operations without room on the disk",
            "outcomes unknown",
            "progress told",
            "watches compacted",
            "watches resumed",
            "writes of the log that were held back",
        ] {
            assert!(self.count(what) > 0, "no {what}");
        }
        for fault in Fault::ALL {
            assert!(self.faults.contains_key(fault), "no {fault:?}");
        }
        assert!(self.count("elections") > 2 * self.seeds, "too few elections");
        let taken = Mark::ALL.iter().zip(&self.marks);
        let never: Vec<_> = taken
            .filter(|(mark, count)| **count == 0 && !OUT_OF_REACH.contains(mark))
            .filter(|(mark, _)| is_long || !RARE.contains(mark))
            .map(|(mark, _)| mark)
            .collect();
        assert!(never.is_empty(), "turns of Raft that were never taken: {never:?}");
    }

    fn count(&self, what: &str) -> u64 {
        self.counts.get(what).copied().unwrap_or_default()
    }

    pub fn print(&self, real: std::time::Duration) {
        let simulated = self.simulated_us as f64 / 1e6;
        println!(
            "{} seeds, {:.1} simulated hours, {:.0} times real time",
            self.seeds,
            simulated / 3_600.0,
            simulated / real.as_secs_f64()
        );
        for (what, count) in &self.counts {
            println!("  {count:>10}  {what}");
        }
        for fault in Fault::ALL {
            let count = self.faults.get(fault).copied().unwrap_or_default();
            println!("  {count:>10}  fault: {fault:?}");
        }
        for (mark, count) in Mark::ALL.iter().zip(&self.marks) {
            println!("  {count:>10}  raft: {mark:?}");
        }
    }
}
