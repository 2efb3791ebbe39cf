//! What a seed draws for its run: sizes, probabilities and tempers, each of them 0 often enough
//! that the others get their chance alone.

use crate::random::{Concern, Random};
use ringd::node::{REPLAY_DIRTY_BYTES, SNAPSHOT_DIRTY_BYTES};

/// What can go wrong on purpose. A new kind belongs into `ALL`, and the compiler then asks for it
/// wherever faults are done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Fault {
    Crash,
    CrashAll,
    /// The process stands still and time goes on.
    Pause,
    /// The members fall into two halves.
    Split,
    /// One direction of one link.
    OneWay,
    /// One link.
    Link,
    /// One member from all others.
    Isolate,
    /// A disk does nothing for a while.
    DiskStall,
    /// The next operation of a disk fails, and the process ends.
    DiskError,
    DiskFull,
    Transfer,
    /// A new member, as a learner or as a voter.
    Add,
    Promote,
    Remove,
    Defragment,
    /// One member is cut off from all others, and a candidate that it does not know asks it for its vote, two terms ahead
    /// and without a pre-vote: its term rises, and theirs does not.
    Outsider,
}

impl Fault {
    pub const ALL: &[Fault] = &[
        Fault::Crash,
        Fault::CrashAll,
        Fault::Pause,
        Fault::Split,
        Fault::OneWay,
        Fault::Link,
        Fault::Isolate,
        Fault::DiskStall,
        Fault::DiskError,
        Fault::DiskFull,
        Fault::Transfer,
        Fault::Add,
        Fault::Promote,
        Fault::Remove,
        Fault::Defragment,
        Fault::Outsider,
    ];
}

#[derive(Clone, Debug)]
pub struct Odds {
    pub members: u64,
    /// Length of the phase with faults.
    pub faulty_us: u64,

    // The network, in thousandths and microseconds.
    pub loss: u64,
    pub repeat: u64,
    pub keeps_order: bool,
    pub delay_us: (u64, u64),
    pub late: u64,

    // Disks.
    pub log_write_us: (u64, u64),
    pub store_op_us: (u64, u64),
    pub segment_bytes: u64,
    pub batch_bytes: usize,

    // The log in memory.
    pub snapshot_count: u64,
    pub catch_up_entries: u64,
    pub corrupt_check_ms: Option<u64>,
    pub strict_reconfig: bool,
    pub inflight_appends_max: usize,

    // Processes.
    pub turn_us: u64,
    pub skew_ppm: u64,

    // Faults: mean time between two, and the weight of each kind.
    pub fault_every_us: u64,
    pub fault_weights: Vec<u64>,
    pub down_us: u64,
    pub pause_us: u64,
    pub cut_us: u64,

    // Clients.
    pub clients: u64,
    pub think_us: u64,
    pub patience_us: u64,
    pub keys: u64,
    pub long_values: u64,
    /// Weights of kinds of requests, in the order of `client::Kind`.
    pub requests: [u64; 10],
    pub slow_watchers: u64,

    /// Dirty pages that replay of the log leaves unwritten. Not so few that a slow disk has a member replay for longer
    /// than it may be without a write after healing.
    pub replay_dirty_bytes: u64,
    /// Dirty bytes of a state that arrives, at which it is written back. Not so few that a piece waits for each write:
    /// what is not taken comes again two heartbeats later.
    pub snapshot_dirty_bytes: u64,
    /// Writes of the log are held back for those who were just answered, as by a real clock.
    pub holds_writes: bool,
}

fn maybe(random: &mut Random, most: u64) -> u64 {
    if random.one_in(3) { 0 } else { random.below(most + 1) }
}

/// The longest run with many clients.
const MANY_CLIENTS_US: u64 = 15_000_000;

impl Odds {
    pub fn of(seed: u64, faulty_us: u64) -> Odds {
        let random = &mut Random::of(seed, Concern::Odds, 0);
        let members = random.pick(&SIZES);
        let fast = random.between(50, 2_000);
        let slow_network = random.one_in(4);
        let sync = random.pick(&[20, 200, 2_000, 20_000]);
        let mut fault_weights: Vec<u64> =
            Fault::ALL.iter().map(|fault| maybe(random, fault.weight_max())).collect();
        if fault_weights.iter().all(|weight| *weight == 0) {
            fault_weights[0] = 1;
        }
        let mut requests = [0; 10];
        for (weight, most) in requests.iter_mut().zip([40, 10, 20, 30, 3, 5, 3, 10, 8, 4]) {
            *weight = maybe(random, most);
        }
        requests[0] += 5;
        requests[3] += 3;
        let mut odds = Odds {
            members,
            faulty_us,
            loss: maybe(random, 150),
            repeat: maybe(random, 150),
            keeps_order: random.one_in(2),
            delay_us: match slow_network {
                true => (fast, fast + random.below(100_000)),
                false => (fast, fast + random.below(5_000)),
            },
            late: maybe(random, 20),
            log_write_us: (sync / 2, sync * random.between(1, 4)),
            store_op_us: (sync / 4, sync * random.between(1, 8)),
            segment_bytes: random.pick(&[8 << 10, 32 << 10, 128 << 10]),
            batch_bytes: random.pick(&[1, 4 << 10, 64 << 10]),
            snapshot_count: random.pick(&[0, 3, 30, 1_000]),
            catch_up_entries: random.pick(&[0, 3, 30, 1_000]),
            corrupt_check_ms: random.pick(&[None, Some(1_000), Some(5_000)]),
            strict_reconfig: !random.one_in(4),
            inflight_appends_max: random.pick(&[1, 3, 256]),
            turn_us: random.pick(&[0, 20, 500, 5_000]),
            skew_ppm: random.pick(&[0, 0, 1_000, 50_000]),
            fault_every_us: random.between(400_000, 8_000_000),
            fault_weights,
            down_us: random.pick(&[100_000, 1_000_000, 6_000_000]),
            pause_us: random.pick(&[200_000, 2_000_000, 8_000_000]),
            cut_us: random.pick(&[300_000, 3_000_000, 12_000_000]),
            clients: random.between(1, 5),
            think_us: random.pick(&[5_000, 50_000, 200_000, 400_000]),
            patience_us: random.pick(&[500_000, 2_000_000, 7_000_000]),
            keys: random.pick(&[1, 3, 8, 24]),
            long_values: maybe(random, 100),
            requests,
            slow_watchers: maybe(random, 500),
            replay_dirty_bytes: random.pick(&[256 << 10, 1 << 20, REPLAY_DIRTY_BYTES]),
            holds_writes: random.one_in(2),
            snapshot_dirty_bytes: random.pick(&[256 << 10, 1 << 20, SNAPSHOT_DIRTY_BYTES]),
        };
        // A disk that writes one record at a time has no time for so many; and in a long run they make a state that is
        // longer on its way than the cluster has to come to rest.
        if odds.batch_bytes > 1 && faulty_us <= MANY_CLIENTS_US && random.one_in(4) {
            odds.clients = 12;
        }
        odds
    }
}

/// How many members, as often as they stand here.
const SIZES: [u64; 11] = [1, 1, 2, 3, 3, 3, 3, 3, 4, 5, 7];

impl Fault {
    fn weight_max(self) -> u64 {
        match self {
            Fault::Crash => 12,
            Fault::CrashAll => 2,
            Fault::Pause => 8,
            Fault::Split | Fault::Isolate => 8,
            Fault::OneWay | Fault::Link => 6,
            Fault::DiskStall => 4,
            Fault::DiskError => 4,
            Fault::DiskFull => 2,
            Fault::Transfer => 6,
            Fault::Add => 4,
            Fault::Promote => 8,
            Fault::Remove => 4,
            Fault::Defragment => 4,
            Fault::Outsider => 6,
        }
    }
}
