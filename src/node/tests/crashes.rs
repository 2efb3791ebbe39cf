//! Log and store together on the simulated disk: a crash, an error and a full disk at every
//! operation of a scripted run, and what must be there afterwards, by a model that knows the
//! requests in their order and nothing else.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;

use super::super::*;
use super::Random;
use super::bed::Bed;
use crate::proto::etcdserverpb::{DeleteRangeRequest, PutRequest};
use prost::Message;
use simdisk::{self as disk, Fault, FileId, Loss};

/// Requests of the run.
const REQUESTS: usize = 200;
const KEYS: u64 = 12;
/// Dirty pages that replay leaves unwritten: the run makes more.
const REPLAY_BYTES: u64 = 32 << 10;

/// `RINGD_EXHAUSTIVE=1` tries each kind of loss at each point, in place of one after the other.
fn is_exhaustive() -> bool {
    std::env::var_os("RINGD_EXHAUSTIVE").is_some()
}

#[derive(Clone, Debug)]
enum Request {
    Put(String, String),
    Delete(String),
    Compact(i64),
}

type State = BTreeMap<String, String>;

struct Run {
    bed: Bed,
    random: Random,
    /// What was proposed and may have been applied, in the order of the log.
    requests: Vec<(u64, Request)>,
    asked: usize,
    /// The newest revision that was told to anybody.
    told: i64,
    /// What was acknowledged: the key, its value, and the revision at which it was so.
    acknowledged: Vec<(String, Option<String>, i64)>,
    compacted: i64,
    /// The alarm of a full disk makes the member refuse puts; then only what was acknowledged is known.
    may_refuse: bool,
}

impl Run {
    fn new(seed: u64) -> Run {
        let mut bed = Bed::with_segments(64 << 10);
        bed.random = Random(seed + 1000);
        bed.replay_dirty_bytes = REPLAY_BYTES;
        Run {
            bed,
            random: Random(seed),
            requests: Vec::new(),
            asked: 0,
            told: 1,
            acknowledged: Vec::new(),
            compacted: -1,
            may_refuse: false,
        }
    }

    fn is_done(&self) -> bool {
        self.asked >= REQUESTS && self.bed.disk.is_idle()
    }

    /// One thing happens.
    fn step(&mut self) {
        match self.random.below(16) {
            0 | 1 if self.asked < REQUESTS && self.bed.node().is_ready() => self.ask(),
            2 if self.random.below(8) == 0 => {
                self.bed.node().start_defragment();
            }
            // Checkpoints are made by the clock.
            3 if self.random.below(10) == 0 => self.bed.now_ms += 11_000,
            0..=6 => self.bed.turn(),
            7..=9 => {
                self.bed.begin_log_op();
            }
            10 | 11 => {
                self.bed.begin_store_op();
            }
            _ => {
                let busy = self.bed.disk.outstanding().len();
                if busy > 0 {
                    let nth = self.random.below(busy as u64) as usize;
                    self.bed.end_op(nth);
                }
            }
        }
        self.hear();
    }

    fn ask(&mut self) {
        let key = format!("key-{}", self.random.below(KEYS));
        let value = format!("{}-{}", self.asked, "x".repeat(self.random.below(3000) as usize));
        self.asked += 1;
        let (kind, bytes, request) = match self.random.below(12) {
            0 | 1 => {
                let message = DeleteRangeRequest { key: key.clone().into(), ..Default::default() };
                (Kind::DeleteRange, message.encode_to_vec(), Request::Delete(key))
            }
            2 => {
                let current = self.bed.node().applier.mvcc.current_revision();
                let revision = current - self.random.below(5).min(current as u64 - 1) as i64;
                let message = CompactionRequest { revision, physical: false };
                (Kind::Compaction, message.encode_to_vec(), Request::Compact(revision))
            }
            _ => {
                let message = PutRequest {
                    key: key.clone().into(),
                    value: value.clone().into(),
                    ..Default::default()
                };
                (Kind::Put, message.encode_to_vec(), Request::Put(key, value))
            }
        };
        // A full disk or a full log may refuse it.
        if let Ok(id) = self.bed.node().propose(kind, &bytes) {
            self.requests.push((id, request));
        }
    }

    /// Takes note of what is acknowledged.
    fn hear(&mut self) {
        for outcome in std::mem::take(&mut self.bed.output.outcomes) {
            let request = self.requests.iter().find(|(id, _)| *id == outcome.id);
            // The member's own are the alarm of a full disk.
            let Some((_, request)) = request.cloned() else { continue };
            // A compaction may find that there was one already, and the quota may refuse a put.
            let Ok(reply) = outcome.result else { continue };
            assert!(reply.revision >= self.told, "{} after {}", reply.revision, self.told);
            self.told = reply.revision;
            match request {
                Request::Put(key, value) => {
                    self.acknowledged.push((key, Some(value), reply.revision));
                }
                Request::Delete(key) => self.acknowledged.push((key, None, reply.revision)),
                Request::Compact(revision) => self.compacted = self.compacted.max(revision),
            }
        }
    }

    /// Whatever has happened, the member is in order, has all it has acknowledged, and its state is
    /// what the first so many requests make.
    fn check(&mut self) {
        let applier = &self.bed.node().applier;
        applier.store.check().unwrap();
        let current = applier.mvcc.current_revision();
        let compacted = applier.mvcc.compact_revision();
        assert!(current >= self.told, "{current} after {} was told", self.told);
        assert!(compacted >= self.compacted, "{compacted}: the one at {} is lost", self.compacted);
        if !self.may_refuse {
            let state = self.forget_what_came_later(current);
            for key in 0..KEYS {
                let key = format!("key-{key}");
                let found = self.bed.get(&key, 0);
                assert_eq!(found.as_ref(), state.get(&key), "{key} at {current}");
            }
            assert_eq!(self.bed.node().applier.key_count().unwrap(), state.len() as u64);
        }
        for (key, value, revision) in &self.acknowledged {
            if *revision >= compacted {
                assert_eq!(self.bed.get(key, *revision), *value, "{key} at revision {revision}");
            }
        }
    }

    /// The state at a revision; requests that would lead beyond it are lost.
    fn forget_what_came_later(&mut self, current: i64) -> State {
        let mut state = State::new();
        let mut revision = 1;
        let mut kept = 0;
        for (_, request) in &self.requests {
            let changed = match request {
                Request::Put(..) => true,
                Request::Delete(key) => state.contains_key(key),
                Request::Compact(_) => false,
            };
            if changed && revision == current {
                break;
            }
            match request {
                Request::Put(key, value) => drop(state.insert(key.clone(), value.clone())),
                Request::Delete(key) => drop(state.remove(key)),
                Request::Compact(_) => {}
            }
            revision += i64::from(changed);
            kept += 1;
        }
        assert_eq!(revision, current, "more has happened than was asked for");
        self.requests.truncate(kept);
        state
    }

    fn settle(&mut self) {
        for _ in 0..1000 {
            self.bed.turn();
            let busy = self.bed.begin_log_op() | self.bed.begin_store_op();
            self.bed.end_ops(|_| true);
            if !busy && self.bed.node().is_ready() {
                break;
            }
        }
        self.hear();
        assert!(self.bed.node().is_ready(), "the member is not ready");
    }

    /// After a start: what came back, and that it goes on and comes back once more.
    fn check_and_go_on(&mut self) {
        self.settle();
        self.check();
        for _ in 0..60 {
            self.step();
        }
        self.settle();
        self.check();
        self.bed.crash_with(Loss::All);
        self.settle();
        self.check();
    }
}

/// Says on a panic what was tried.
struct Trying(String);

impl Drop for Trying {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("failed with {}", self.0);
        }
    }
}

/// The run as it is without any fault: how many events the disk sees.
fn length_of_run(seed: u64) -> (u64, u64) {
    let mut run = Run::new(seed);
    let (mut cut, mut grown) = (false, false);
    let mut checkpoints = BTreeSet::new();
    while !run.is_done() {
        run.step();
        grown |= run.bed.disk.outstanding().any(|(_, op)| matches!(op, disk::Op::Grow { .. }));
        cut |= run.bed.disk.outstanding().any(|(_, op)| matches!(op, disk::Op::Remove { .. }));
        checkpoints.insert(run.bed.node().applier.store.durable_mark());
    }
    assert!(cut && grown && checkpoints.len() > 4 && run.compacted > 1, "the run lacks something");
    run.settle();
    run.check();
    (run.bed.disk.events(), run.bed.disk.started())
}

/// What the disk can lose while it writes whole sectors, which is all that is assumed of it.
const LOSSES: [Loss; 4] = [Loss::Sectors, Loss::All, Loss::None, Loss::Whole];

#[test]
pub fn a_crash_at_every_event_of_a_run_loses_nothing_that_was_acknowledged() {
    let (events, _) = length_of_run(5);
    let mut crashes = 0;
    for crash_at in 1..=events {
        let losses = if is_exhaustive() { &LOSSES[..] } else { &[LOSSES[crash_at as usize % 4]] };
        for loss in losses {
            let _trying = Trying(format!("a crash at event {crash_at}, {loss:?}"));
            let mut run = Run::new(5);
            while run.bed.disk.events() < crash_at && !run.is_done() {
                run.step();
            }
            crashes += 1;
            run.bed.crash_with(*loss);
            run.check_and_go_on();
        }
    }
    println!("{crashes} crashes at {events} events");
}

#[test]
pub fn an_error_at_every_operation_of_a_run_ends_the_process_and_loses_nothing() {
    let (_, operations) = length_of_run(6);
    let mut failures = 0;
    for at in 1..=operations {
        let kinds = [(false, false), (true, true), (false, true), (true, false)];
        let kinds = if is_exhaustive() { &kinds[..] } else { &[kinds[at as usize % 4]] };
        for (for_ever, power_goes) in kinds {
            let _trying = Trying(format!("operation {at}, {for_ever}, {power_goes}"));
            let mut run = Run::new(6);
            run.bed.disk.fail(Some(Fault { at, for_ever: *for_ever }));
            while !run.bed.failed && !run.is_done() {
                run.step();
            }
            failures += u64::from(run.bed.failed);
            run.bed.disk.fail(None);
            match power_goes {
                true => run.bed.crash_with(Loss::Sectors),
                false => run.bed.restart(),
            }
            run.check_and_go_on();
        }
    }
    println!("{failures} failed operations of {operations}");
    // The last ones belong to settling, behind the run.
    assert!(failures + 10 > operations, "{failures} of {operations}");
}

#[test]
pub fn a_full_disk_at_every_operation_of_a_run_loses_nothing() {
    let (_, operations) = length_of_run(7);
    let mut shortages = 0;
    for at in 1..=operations {
        for for_ever in [false, true] {
            if !is_exhaustive() && (at % 2 == 0) == for_ever {
                continue;
            }
            let _trying = Trying(format!("a full disk at operation {at}, {for_ever}"));
            let mut run = Run::new(7);
            run.may_refuse = true;
            run.bed.disk.fill(Some(Fault { at, for_ever }));
            for _ in 0..4000 {
                if run.is_done() {
                    break;
                }
                run.step();
            }
            shortages += run.bed.disk.faults().1;
            if at % 3 == 0 {
                run.bed.crash_with(Loss::Sectors);
            }
            run.bed.disk.fill(None);
            // The next durable checkpoint makes the log try again.
            run.bed.node().start_defragment();
            run.bed.now_ms += 20_000;
            run.check_and_go_on();
        }
    }
    println!("{shortages} full disks at {operations} operations");
    assert!(shortages > operations / 2);
}

/// A crash before any of the run's requests is in a checkpoint: its first half is to be replayed.
fn before_replay(seed: u64) -> Run {
    let mut run = Run::new(seed);
    run.settle();
    let founded = run.bed.node().applier.store.durable_mark();
    while run.asked < REQUESTS / 2 {
        run.ask();
        run.bed.turn();
        run.bed.start_log_ops();
        run.bed.finish_log_write();
        run.hear();
    }
    assert_eq!(run.bed.node().applier.store.durable_mark(), founded);
    run.bed.crash_with(Loss::All);
    run
}

/// Replay as it is without any fault: the events and the operations of the disk behind those of the run.
fn length_of_replay(seed: u64) -> (RangeInclusive<u64>, RangeInclusive<u64>) {
    let mut run = before_replay(seed);
    let (events, operations) = (run.bed.disk.events(), run.bed.disk.started());
    let mut checkpoints = BTreeSet::new();
    while !run.bed.node().is_ready() {
        run.step();
        checkpoints.insert(run.bed.node().applier.store.durable_mark());
    }
    assert!(checkpoints.len() > 3, "{checkpoints:?}: there were few checkpoints");
    (events + 1..=run.bed.disk.events(), operations + 1..=run.bed.disk.started())
}

#[test]
pub fn a_crash_at_every_event_of_replay_loses_nothing_that_was_acknowledged() {
    let (events, _) = length_of_replay(8);
    for crash_at in events.clone() {
        let losses = if is_exhaustive() { &LOSSES[..] } else { &[LOSSES[crash_at as usize % 4]] };
        for loss in losses {
            let _trying = Trying(format!("a crash at event {crash_at} of {events:?}, {loss:?}"));
            let mut run = before_replay(8);
            while run.bed.disk.events() < crash_at {
                run.step();
            }
            run.bed.crash_with(*loss);
            run.check_and_go_on();
        }
    }
    println!("crashes at {} events", events.count());
}

#[test]
pub fn an_error_at_every_operation_of_replay_ends_the_process_and_loses_nothing() {
    let (_, operations) = length_of_replay(9);
    for at in operations.clone() {
        let _trying = Trying(format!("an error at operation {at} of {operations:?}"));
        let mut run = before_replay(9);
        run.bed.disk.fail(Some(Fault { at, for_ever: at % 2 == 0 }));
        while !run.bed.failed {
            run.step();
        }
        run.bed.disk.fail(None);
        match at % 3 {
            0 => run.bed.restart(),
            _ => run.bed.crash_with(Loss::Sectors),
        }
        run.check_and_go_on();
    }
    println!("errors at {} operations", operations.count());
}

/// Deletions are what frees a full disk, so a member comes to serve them on one as well.
#[test]
pub fn a_full_disk_at_any_operation_of_replay_does_not_hold_it_up() {
    let (_, operations) = length_of_replay(10);
    for at in operations.clone() {
        let _trying = Trying(format!("a full disk from operation {at} of {operations:?} on"));
        let mut run = before_replay(10);
        run.bed.disk.fill(Some(Fault { at, for_ever: true }));
        run.settle();
        run.check();
    }
    println!("full disks at {} operations", operations.count());
}

#[test]
fn replay_leaves_no_more_pages_unwritten_than_it_may() {
    const BOUND: u64 = 256 << 10;
    /// One entry may be applied where there is hardly room.
    const SLACK: u64 = 64 << 10;
    let replay = |bound| {
        let mut bed = Bed::new();
        bed.settle();
        for key in 0..500 {
            bed.put(&format!("key-{key}"), &"x".repeat(key * 7 % 3000));
            bed.turn();
            bed.start_log_ops();
            bed.finish_log_write();
        }
        bed.replay_dirty_bytes = bound;
        bed.restart();
        let (mut most, mut checkpoints) = (0, BTreeSet::new());
        let mut waited = 0;
        while !bed.node().is_ready() {
            bed.turn();
            let store = &bed.node().applier.store;
            most = most.max(store.dirty_bytes());
            checkpoints.insert(store.durable_mark());
            bed.start_log_ops();
            bed.finish_log_write();
            if bed.begin_store_op() && bed.node().holds_replay() {
                // The disk's answer is what it waits for.
                let now_ms = bed.now_ms;
                waited += u32::from(bed.node().next_deadline(now_ms) > now_ms);
            }
            bed.end_ops(|_| true);
        }
        let last = bed.get("key-499", 0).map(|value| value.len());
        assert_eq!(last, Some(499 * 7 % 3000));
        (most, checkpoints.len(), waited)
    };
    let (most, checkpoints, waited) = replay(BOUND);
    assert!(most <= BOUND + BOUND / 2 + SLACK, "{most} bytes of dirty pages");
    assert!(checkpoints > 3 && waited > 0, "{checkpoints} checkpoints, waited {waited} times");
    let (most, ..) = replay(REPLAY_DIRTY_BYTES);
    assert!(most > 4 * BOUND, "{most} bytes were to be replayed");
}

/// A last batch whose sectors are lost after it was acknowledged looks like one that never was. What
/// a checkpoint had of it gives it away.
#[test]
fn a_lost_end_of_the_log_is_noticed_if_a_checkpoint_had_it() {
    let mut bed = Bed::new();
    bed.settle();
    for round in 0..5 {
        bed.put("k", &format!("{round}"));
        bed.settle();
    }
    bed.defragment();
    let last = bed.node().applier.store.durable_mark();
    bed.settle();
    bed.node = None;
    for lost in 0..4 {
        match bed.try_start() {
            Ok(()) => bed.node = None,
            Err(OpenError::LogBehindStore { last: found, applied }) => {
                assert!(lost > 0 && found < last && applied == last, "{found}, {applied}, {last}");
                return;
            }
            Err(other) => panic!("{other}"),
        }
        let log = FileId(1);
        bed.disk.spoil(log, |bytes| {
            let end = bytes.iter().rposition(|byte| *byte != 0).expect("batches") / 4096 * 4096;
            bytes[end..end + 4096].fill(0);
        });
    }
    panic!("four lost batches are not noticed");
}

/// A checkpoint has all entries, so that all segments may go, and a full disk leaves of what comes next
/// only term and commit index in a new one. Were the newest entry gone, that would look like a log
/// whose end was lost.
#[test]
fn the_newest_entry_stays_in_the_log_whatever_follows_it() {
    let mut alone = 0;
    for puts in 1..12 {
        let mut bed = Bed::with_segments(16 << 10);
        bed.settle();
        for round in 0..puts {
            bed.put("k", &format!("{round}"));
            bed.settle();
        }
        bed.defragment();
        let durable = bed.node().applier.store.durable_mark();
        bed.settle();
        bed.disk.fill(Some(Fault { at: 0, for_ever: true }));
        bed.put("large", &"x".repeat(14_000));
        bed.settle();
        let segments: Vec<_> = bed.node().log.segments().map(|info| info.index_max).collect();
        alone += u32::from(segments.len() == 2 && segments[1] == 0);
        assert!(segments.iter().any(|index_max| *index_max >= durable), "{segments:?}");
        bed.disk.fill(None);
        bed.crash_with(Loss::All);
        bed.settle();
        assert!(bed.node().raft().last_index().0 > durable);
        assert_eq!(bed.get("k", 0), Some(format!("{}", puts - 1)));
    }
    assert!(alone > 0, "no segment in which only the state stands");
}
