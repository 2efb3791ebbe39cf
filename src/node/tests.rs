//! The member on disks that crash: what was acknowledged is there afterwards, at its revision. And,
//! below, several members with a network between them.

mod bed;
mod cluster;
mod crashes;
mod disasters;
#[cfg(feature = "mutants")]
mod mutants;
mod users;

use std::collections::{BTreeMap, HashMap};
use std::io;

use prost::Message;

use super::*;
use crate::membership::Cluster;
use crate::mvcc::MvccError;
use crate::proto::etcdserverpb::{PutRequest, RangeRequest, RangeResponse};
use crate::store::MemoryDisk;
use wal::{SegmentId, SegmentSource};

const SECTOR: usize = 512;

/// The log's files, with at most one write that is neither done nor lost.
#[derive(Default)]
struct LogDisk {
    files: BTreeMap<SegmentId, Vec<u8>>,
    in_flight: Option<(wal::OpId, SegmentId, u64, Vec<u8>)>,
    /// No further file can be made, and so many times one was asked for.
    is_full: bool,
    refused: u32,
}

impl SegmentSource for LogDisk {
    fn list(&mut self) -> io::Result<Vec<(SegmentId, u64)>> {
        Ok(self.files.iter().map(|(id, file)| (*id, file.len() as u64)).collect())
    }

    fn read(&mut self, segment: SegmentId) -> io::Result<wal::Content> {
        Ok(Box::new(self.files[&segment].clone()))
    }
}

impl LogDisk {
    fn write(&mut self, segment: SegmentId, offset: u64, data: &[u8]) {
        let file = self.files.get_mut(&segment).expect("created before it is written");
        file[offset as usize..][..data.len()].copy_from_slice(data);
    }

    /// Of the write in flight, any sectors may have arrived.
    fn crash(&mut self, random: &mut Random) {
        let Some((_, segment, offset, data)) = self.in_flight.take() else { return };
        let kind = random.below(3);
        for (index, sector) in data.chunks(SECTOR).enumerate() {
            if kind == 0 || (kind == 1 && random.below(2) == 0) {
                self.write(segment, offset + (index * SECTOR) as u64, sector);
            }
        }
    }
}

struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) % bound
    }
}

struct Bed {
    log: LogDisk,
    store: MemoryDisk,
    /// The store that arrives from another member.
    incoming: Option<MemoryDisk>,
    node: Option<Node>,
    output: Output,
    now_ms: u64,
    starts: u64,
    id: u64,
    /// What a new store begins with.
    founding: Cluster,
    joins: bool,
    /// Applied entries between two cuts of the log, and those that stay.
    log_kept: (u64, u64),
    snapshot_dirty_bytes: u64,
    forces_new_cluster: bool,
    defrag_threshold_percent: u32,
}

const MEMBER: u64 = 7;

impl Bed {
    fn new() -> Bed {
        let name = format!("m{MEMBER}");
        let member = crate::membership::Member { id: MEMBER, name, ..Default::default() };
        let mut bed = Bed::stopped(MEMBER, Cluster::restore(1, [member]), false);
        bed.start();
        bed
    }

    /// A member with new disks that has not been started.
    fn stopped(id: u64, founding: Cluster, joins: bool) -> Bed {
        let options = store::Options { store_id: id };
        Bed {
            log: LogDisk::default(),
            store: MemoryDisk::new(64 << 20, &options),
            incoming: None,
            node: None,
            output: Output::default(),
            now_ms: 0,
            starts: 0,
            id,
            founding,
            joins,
            log_kept: (100, 50),
            snapshot_dirty_bytes: SNAPSHOT_DIRTY_BYTES,
            forces_new_cluster: false,
            defrag_threshold_percent: 0,
        }
    }

    fn compact(&mut self, revision: i64) {
        let request = CompactionRequest { revision, physical: true };
        self.node().propose(Kind::Compaction, &request.encode_to_vec()).unwrap();
        self.settle();
        while self.node().applier.mvcc.compaction_pending() {
            self.turn();
            self.store_op();
        }
    }

    /// Looks at the whole store once.
    fn scrub(&mut self) {
        let passes = self.node().scrub_counts().passes;
        while self.node().scrub_counts().passes == passes {
            self.turn();
            let now_ms = self.now_ms;
            if self.output.scrub_window.take().is_some() {
                self.node().scrub(now_ms);
            }
        }
    }

    fn start(&mut self) {
        self.starts += 1;
        let store = self.store.open().unwrap();
        let (cluster, member) = crate::apply::identity(&store)
            .unwrap()
            .unwrap_or_else(|| (self.founding.clone(), self.id));
        let options = crate::apply::Options { lease_ttl_min_s: 2, joins: self.joins };
        let applier = Applier::open(store, cluster, member, options, self.now_ms).unwrap();
        let options = Options {
            metadata: Metadata { cluster_id: 1, member_id: self.id },
            name: format!("m{}", self.id),
            client_urls: Vec::new(),
            heartbeat_ms: 100,
            election_ms: 1000,
            quota_bytes: None,
            request_bytes_max: 1 << 20,
            pending_max: 1000,
            patience_ms: 7000,
            retention: Retention::Off,
            snapshot_count: self.log_kept.0,
            catch_up_entries: self.log_kept.1,
            replay_dirty_bytes: REPLAY_DIRTY_BYTES,
            snapshot_dirty_bytes: self.snapshot_dirty_bytes,
            corrupt_check_ms: Some(60_000),
            strict_reconfig_check: true,
            defrag_threshold_percent: self.defrag_threshold_percent,
            first_id: self.id << 48 | self.starts << 32,
            inflight_appends_max: 256,
            seed: self.starts,
        };
        let applied = (applier.applied_index(), applier.applied_term());
        let (entries, bytes) = options.kept_log(applier.cluster.members().len());
        let mut recovered = Recovered::new(applied, entries, bytes);
        if self.forces_new_cluster {
            recovered = recovered.forcing_new_cluster();
        }
        let log = wal::recover(&mut self.log, &mut |record| {
            recovered.visit(record.kind, record.index, record.bytes());
        })
        .unwrap();
        self.incoming = None;
        let small = wal::Options { segment_bytes: 256 << 10, batch_bytes: 64 << 10 };
        let log = wal::Writer::new(small, log);
        self.node = Some(Node::new(applier, log, recovered, options, self.now_ms).unwrap());
    }

    fn node(&mut self) -> &mut Node {
        self.node.as_mut().expect("started")
    }

    fn turn(&mut self) {
        self.now_ms += 10;
        let Bed { node, output, now_ms, .. } = self;
        let node = node.as_mut().expect("started");
        node.turn(*now_ms, output).unwrap();
        node.background(*now_ms).unwrap();
    }

    /// Begins what the log wants; a write stays in flight.
    fn start_log_ops(&mut self) {
        while let Some((id, op)) = self.node().next_log_op(u64::MAX) {
            self.begin_log_op(id, op);
        }
    }

    /// Begins the next write of the log, if there is one to begin at this time.
    fn begin_log_write(&mut self, now_us: u64) -> bool {
        while let Some((id, op)) = self.node().next_log_op(now_us) {
            self.begin_log_op(id, op);
            if self.log.in_flight.is_some() {
                return true;
            }
        }
        false
    }

    fn begin_log_op(&mut self, id: wal::OpId, op: wal::Op) {
        match op {
            wal::Op::Create { .. } if self.log.is_full => {
                self.log.refused += 1;
                self.node().log_no_space(id);
            }
            wal::Op::Create { segment, bytes } => {
                self.log.files.insert(segment, vec![0; bytes as usize]);
                self.node().log_op_done(id, u64::MAX);
            }
            wal::Op::Write { segment, offset, data } => {
                assert!(self.log.in_flight.is_none(), "one write at a time");
                self.log.in_flight = Some((id, segment, offset, data.as_slice().to_vec()));
            }
            wal::Op::Remove { segment } => {
                self.log.files.remove(&segment);
                self.node().log_op_done(id, u64::MAX);
            }
        }
    }

    fn finish_log_write(&mut self) {
        self.finish_log_write_at(u64::MAX);
    }

    fn finish_log_write_at(&mut self, now_us: u64) {
        if let Some((id, segment, offset, data)) = self.log.in_flight.take() {
            self.log.write(segment, offset, &data);
            self.node().log_op_done(id, now_us);
        }
    }

    fn store_op(&mut self) {
        let now_ms = self.now_ms;
        if let Some((id, op)) = self.node().next_store_op() {
            self.store.apply(&op);
            self.node().store_op_done(id, now_ms);
        }
    }

    /// The next operation on the store that arrives. False if there is none.
    fn snapshot_op(&mut self) -> bool {
        let now_ms = self.now_ms;
        let Some(op) = self.node().next_snapshot_op() else { return false };
        match op {
            SnapshotOp::Create => {
                let options = store::Options { store_id: self.id << 32 | now_ms };
                let disk = MemoryDisk::new(64 << 20, &options);
                let store = disk.open().unwrap();
                self.incoming = Some(disk);
                self.node().snapshot_created(store);
            }
            SnapshotOp::Store(id, op) => {
                self.incoming.as_ref().expect("created before").apply(&op);
                self.node().snapshot_store_op_done(id);
            }
            SnapshotOp::Install => {
                self.store = self.incoming.take().expect("created before");
                self.node().snapshot_installed(now_ms);
            }
            SnapshotOp::Discard => {
                self.incoming = None;
                self.node().snapshot_discarded();
            }
        }
        true
    }

    fn crash(&mut self, random: &mut Random) {
        self.node = None;
        self.output = Output::default();
        self.log.crash(random);
        self.start();
    }

    /// Until nothing is left to do.
    fn settle(&mut self) {
        for _ in 0..10 {
            self.turn();
            self.start_log_ops();
            self.finish_log_write();
        }
    }

    fn put(&mut self, key: &str, value: &str) -> u64 {
        let request = PutRequest {
            key: key.to_owned().into(),
            value: value.to_owned().into(),
            ..Default::default()
        };
        self.node().propose(Kind::Put, &request.encode_to_vec()).unwrap()
    }

    fn puts(&mut self, count: usize) {
        for n in 0..count {
            self.put(&format!("k{n}"), "v");
        }
    }

    /// The values of all puts, in the order of their revisions.
    fn history(&mut self) -> Vec<String> {
        let applier = &self.node().applier;
        let mut changes =
            applier.mvcc.reader(applier.store.view()).changes(crate::mvcc::Revision::new(0, 0));
        let mut values = Vec::new();
        while let Some(change) = changes.next().unwrap() {
            let kv = crate::proto::mvccpb::KeyValue::decode(change.kv).unwrap();
            values.push(String::from_utf8(kv.value.to_vec()).unwrap());
        }
        values
    }

    fn get(&mut self, key: &str, revision: i64) -> Option<String> {
        let applier = &self.node().applier;
        let request = RangeRequest { key: key.to_owned().into(), revision, ..Default::default() };
        let mut kvs = Vec::new();
        applier.mvcc.range(applier.store.view(), &request, &mut kvs).unwrap();
        let response = RangeResponse::decode(&kvs[..]).unwrap();
        response.kvs.first().map(|kv| String::from_utf8(kv.value.to_vec()).unwrap())
    }
}

#[test]
fn nothing_is_acknowledged_before_the_log_is_durable() {
    let mut bed = Bed::new();
    bed.settle();
    assert!(bed.node().is_ready());
    let id = bed.put("k", "v");
    for _ in 0..5 {
        bed.turn();
        bed.start_log_ops();
    }
    assert!(bed.output.outcomes.is_empty() && bed.get("k", 0).is_none());
    bed.finish_log_write();
    bed.turn();
    assert_eq!(bed.output.outcomes.len(), 1);
    assert_eq!(bed.output.outcomes[0].id, id);
    assert_eq!(bed.get("k", 0).as_deref(), Some("v"));
}

/// Although no checkpoint of the store and no removal of a segment has made room.
/// A member whose writes of the log took `write_us`, and that has made 200 puts durable, which it did not apply
/// yet, while 100 more have come.
fn between_two_writes(write_us: u64) -> (Bed, u64) {
    let mut bed = Bed::new();
    bed.settle();
    let mut now_us = 1_000_000;
    for round in 0..200 {
        let is_last = round == 199;
        bed.puts(if is_last { 200 } else { 1 });
        bed.turn();
        assert!(bed.begin_log_write(now_us), "nobody is to come back");
        now_us += write_us;
        if is_last {
            bed.puts(100);
        }
        bed.finish_log_write_at(now_us);
        if !is_last {
            bed.turn();
            assert_eq!(bed.node().answers_sent(now_us), None, "a lone put is not waited for");
        }
    }
    let now_ms = bed.now_ms;
    bed.node().begin_turn(now_ms, &mut Vec::new());
    assert_eq!(bed.node().unapplied(), 200);
    (bed, now_us)
}

#[test]
fn the_next_write_waits_for_those_who_are_answered_and_for_no_longer_than_a_write_takes() {
    let (mut bed, now_us) = between_two_writes(2_000);
    assert!(!bed.begin_log_write(now_us), "200 are answered in this turn");
    bed.turn();
    assert!(!bed.begin_log_write(now_us + 100), "they are not back");
    let wait_us = bed.node().answers_sent(now_us + 100).expect("a write that is held back");
    assert!(!bed.begin_log_write(now_us + 99 + wait_us));
    assert!(bed.begin_log_write(now_us + 100 + wait_us));
}

#[test]
fn where_nobody_is_waited_for_the_next_write_begins_before_the_former_one_is_applied() {
    let (mut bed, mut now_us) = between_two_writes(80);
    // Nobody comes back in so little time: a wait that is lost.
    bed.turn();
    let wait_us = bed.node().answers_sent(now_us).expect("a write that is held back");
    now_us += wait_us;
    assert!(bed.begin_log_write(now_us), "the wait is over");
    bed.puts(100);
    bed.finish_log_write_at(now_us + 80);
    let (now_ms, applied) = (bed.now_ms, bed.node().applier.applied_index());
    bed.node().begin_turn(now_ms, &mut Vec::new());
    assert_eq!(bed.node().unapplied(), 100);
    assert!(bed.begin_log_write(now_us + 80));
    assert_eq!(bed.node().applier.applied_index(), applied);
}

#[test]
fn a_full_disk_is_asked_again_for_a_segment_of_the_log() {
    let mut bed = Bed::new();
    bed.settle();
    bed.log.is_full = true;
    while bed.log.refused == 0 {
        bed.put("k", &"x".repeat(20_000));
        bed.settle();
    }
    let refused_at_ms = bed.now_ms;
    bed.settle();
    assert!(bed.node().applier.alarms.active(AlarmType::Nospace));
    assert_eq!(bed.log.refused, 1, "it is not asked for again at once");
    while bed.log.refused == 1 {
        bed.settle();
    }
    assert!(bed.now_ms >= refused_at_ms + limits::LOG_RETRY_MS);
    assert!(bed.now_ms < refused_at_ms + 2 * limits::LOG_RETRY_MS);
    bed.log.is_full = false;
    let segments = bed.log.files.len();
    while bed.log.files.len() == segments {
        bed.settle();
        assert!(bed.now_ms < refused_at_ms + 4 * limits::LOG_RETRY_MS);
    }
}

#[test]
fn a_read_does_not_wait_for_a_write_in_flight() {
    let mut bed = Bed::new();
    bed.settle();
    bed.put("k", "v");
    bed.turn();
    bed.start_log_ops();
    assert!(bed.log.in_flight.is_some());
    let read = bed.node().read();
    bed.turn();
    assert_eq!(bed.output.reads, [read]);
}

#[test]
fn before_its_own_entry_is_durable_a_leader_answers_no_read() {
    let mut bed = Bed::new();
    bed.turn();
    bed.start_log_ops();
    let read = bed.node().read();
    bed.turn();
    assert!(!bed.node().is_ready());
    assert!(bed.output.reads.is_empty());
    bed.settle();
    if bed.output.reads.is_empty() {
        assert_eq!(bed.output.lost_reads, [read], "asked before there was a leader");
    }
}

#[test]
fn what_was_acknowledged_survives_any_crash_at_its_revision() {
    for seed in 0..40 {
        let mut random = Random(seed);
        let mut bed = Bed::new();
        bed.settle();
        let mut proposed: HashMap<u64, (String, String)> = HashMap::new();
        let mut acknowledged: Vec<(String, String, i64)> = Vec::new();
        let mut newest = 1;
        for step in 0..600 {
            match random.below(12) {
                0..=3 => {
                    let (key, value) = (format!("k{}", random.below(20)), format!("v{step}"));
                    if bed.node().is_ready() {
                        let id = bed.put(&key, &value);
                        proposed.insert(id, (key, value));
                    }
                }
                4 | 5 => bed.turn(),
                6 | 7 => bed.start_log_ops(),
                8 => bed.finish_log_write(),
                9 => bed.store_op(),
                10 if random.below(8) == 0 => {
                    bed.node().start_defragment();
                }
                11 if random.below(12) == 0 => {
                    bed.crash(&mut random);
                    proposed.clear();
                    bed.settle();
                    let current = bed.node().applier.mvcc.current_revision();
                    assert!(current >= newest, "seed {seed}: {current} after {newest}");
                    for (key, value, revision) in &acknowledged {
                        let found = bed.get(key, *revision);
                        assert_eq!(found.as_ref(), Some(value), "seed {seed}, revision {revision}");
                    }
                }
                _ => {}
            }
            for outcome in std::mem::take(&mut bed.output.outcomes) {
                let (key, value) =
                    proposed.remove(&outcome.id).expect("told once, to its proposer");
                let revision = outcome.result.unwrap().revision;
                assert!(revision > newest, "revisions only grow");
                newest = revision;
                acknowledged.push((key, value, revision));
            }
        }
        assert!(!acknowledged.is_empty(), "seed {seed} did nothing");
    }
}

#[test]
fn defragmentation_returns_what_a_compaction_has_freed() {
    let mut bed = Bed::new();
    bed.settle();
    for round in 0..8000 {
        bed.put(&format!("k{}", round % 60), &"x".repeat(1000));
        if round % 200 == 0 {
            bed.settle();
        }
    }
    bed.settle();
    let finish = |bed: &mut Bed| {
        let ticket = bed.node().start_defragment();
        while !bed.node().defragmented(ticket) {
            bed.turn();
            bed.store_op();
        }
    };
    finish(&mut bed);
    let before = bed.node().applier.store.file_len();
    let request = CompactionRequest { revision: 8001, physical: true };
    bed.node().propose(Kind::Compaction, &request.encode_to_vec()).unwrap();
    bed.settle();
    while bed.node().applier.mvcc.compaction_pending() {
        bed.turn();
    }
    finish(&mut bed);
    let store = &bed.node().applier.store;
    let (file, live) = (store.file_len(), store.in_use_bytes());
    assert!(file < before / 3, "{file} of {before} bytes are left");
    assert!(file <= live + (3 << 20), "{file} bytes for {live} in use");
    bed.crash(&mut Random(1));
    bed.settle();
    for key in 0..60 {
        assert!(bed.get(&format!("k{key}"), 0).is_some());
    }
}

#[test]
fn the_log_is_cut_behind_the_durable_checkpoint_only() {
    let mut bed = Bed::new();
    bed.settle();
    for round in 0..200 {
        bed.put("k", &"x".repeat(8 << 10));
        bed.turn();
        bed.start_log_ops();
        bed.finish_log_write();
        bed.turn();
        assert!(bed.log.files.len() > round / 40, "a segment went before a checkpoint");
    }
    let before = bed.log.files.len();
    let ticket = bed.node().start_defragment();
    while !bed.node().defragmented(ticket) {
        bed.turn();
        bed.store_op();
    }
    bed.settle();
    assert!(bed.log.files.len() < before, "{before} segments are still there");
    let durable = bed.node().applier.store.durable_mark();
    assert!(durable > 200, "{durable}");
    bed.crash(&mut Random(1));
    bed.settle();
    assert!(bed.get("k", 0).is_some());
}

#[test]
fn the_file_gets_shorter_by_itself_when_much_of_it_lies_idle() {
    let mut bed = Bed::new();
    bed.defrag_threshold_percent = 10;
    bed.crash(&mut Random(1));
    bed.settle();
    for round in 0..12_000 {
        bed.put(&format!("k{}", round % 1000), &"x".repeat(1000));
        if round % 200 == 0 {
            bed.settle();
            bed.store_op();
        }
    }
    bed.settle();
    let revision = bed.node().applier.mvcc.current_revision();
    bed.compact(revision);
    let before = bed.node().applier.store.file_len().max(bed.node().applier.store.extent_bytes());
    let mut turns = 0;
    while bed.node().defrag_counts().done == 0 {
        bed.turn();
        bed.store_op();
        turns += 1;
        assert!(turns < 100_000, "it does not end: {:?}", bed.node().defrag_counts());
    }
    let counts = bed.node().defrag_counts();
    let store = &bed.node().applier.store;
    let (file, live) = (store.file_len(), store.in_use_bytes());
    assert!(file < before / 2, "{file} of {before} bytes are left");
    assert!(file <= live * 6 / 5 + (2 << 20), "{file} bytes for {live} in use");
    assert!(counts.moved_pages > 0, "{counts:?}");
    // And it is content with that.
    for _ in 0..2_000 {
        bed.turn();
        bed.store_op();
    }
    let again = bed.node().defrag_counts();
    assert_eq!((again.moved_pages, again.done), (counts.moved_pages, counts.done));
    bed.crash(&mut Random(1));
    bed.settle();
    for key in 0..1000 {
        assert!(bed.get(&format!("k{key}"), 0).is_some());
    }
}

#[test]
fn a_run_that_a_reader_keeps_from_going_on_says_so_and_ends() {
    let mut bed = Bed::new();
    bed.settle();
    for round in 0..8_000 {
        bed.put(&format!("k{}", round % 60), &"x".repeat(1000));
        if round % 200 == 0 {
            bed.settle();
        }
    }
    bed.settle();
    let snapshot = bed.node().applier.store.snapshot();
    let revision = bed.node().applier.mvcc.current_revision();
    bed.compact(revision);
    let ticket = bed.node().start_defragment();
    let mut longest_ms = 0;
    while !bed.node().defragmented(ticket) {
        bed.turn();
        bed.store_op();
        longest_ms = longest_ms.max(bed.node().defrag_counts().pinned_ms);
    }
    let counts = bed.node().defrag_counts();
    assert_eq!((counts.pinned, counts.done), (1, 0), "{counts:?}");
    assert!(longest_ms > 5_000, "{longest_ms}");
    drop(snapshot);
    let ticket = bed.node().start_defragment();
    while !bed.node().defragmented(ticket) {
        bed.turn();
        bed.store_op();
    }
    assert_eq!(bed.node().defrag_counts().done, 1);
    assert!(bed.node().applier.store.file_len() < 4 << 20);
}

#[test]
fn a_member_on_its_own_starts_with_nothing_but_what_it_has_to_replay() {
    let mut bed = Bed::new();
    bed.settle();
    for round in 0..40 {
        bed.put(&format!("k{round}"), "v");
    }
    bed.settle();
    let ticket = bed.node().start_defragment();
    while !bed.node().defragmented(ticket) {
        bed.turn();
        bed.store_op();
    }
    let durable = bed.node().applier.store.durable_mark();
    assert!(durable > 40);
    bed.put("k", "later");
    bed.settle();
    bed.crash(&mut Random(1));
    let raft = bed.node().raft();
    assert_eq!(raft.start_index().0, durable);
    assert!(raft.last_index().0 > durable);
    bed.settle();
    assert_eq!(bed.get("k", 0).as_deref(), Some("later"));
}

#[test]
fn after_a_stop_nothing_is_left_to_replay() {
    let mut bed = Bed::new();
    bed.settle();
    for round in 0..300 {
        bed.put(&format!("k{round}"), "v");
    }
    bed.settle();
    assert!(bed.node().applier.store.durable_mark() < bed.node().applier.applied_index());
    bed.node().stop();
    while !bed.node().is_stopped() {
        bed.turn();
        bed.store_op();
    }
    let store = &bed.node().applier.store;
    assert_eq!(store.durable_mark(), store.committed_mark());
    assert_eq!(bed.node().applier.applied_index(), bed.node().applier.store.durable_mark());
}

#[test]
fn damage_is_found_before_it_is_needed_and_raises_the_alarm() {
    let mut bed = Bed::new();
    bed.settle();
    for round in 0..2_000 {
        bed.put(&format!("k{round:04}"), &"x".repeat(500));
        if round % 200 == 0 {
            bed.settle();
        }
    }
    bed.settle();
    bed.node().stop();
    while !bed.node().is_stopped() {
        bed.turn();
        bed.store_op();
    }
    bed.scrub();
    assert_eq!(bed.node().scrub_counts().damaged_pages, 0);
    // A byte of a leaf that nobody has looked at since the start.
    let mut image = bed.store.image();
    let at = image.windows(500).position(|bytes| bytes == [b'x'; 500]).unwrap() + 100;
    image[at] ^= 4;
    bed.store = MemoryDisk::with_image(64 << 20, &image);
    bed.crash(&mut Random(1));
    bed.settle();
    assert!(!bed.node().applier.alarms.active(AlarmType::Corrupt));
    bed.scrub();
    assert_eq!(bed.node().scrub_counts().damaged_pages, 1);
    bed.settle();
    assert!(bed.node().applier.alarms.active(AlarmType::Corrupt));
    // The page is not served; all others are.
    let mut refused = 0;
    for round in 0..2_000 {
        let applier = &bed.node().applier;
        let request = RangeRequest { key: format!("k{round:04}").into(), ..Default::default() };
        match applier.mvcc.range(applier.store.view(), &request, &mut Vec::new()) {
            Ok(_) => {}
            Err(MvccError::Corruption(corruption)) => {
                assert_eq!(corruption.offset, (at / store::PAGE_SIZE * store::PAGE_SIZE) as u64);
                refused += 1;
            }
            Err(other) => panic!("{other}"),
        }
    }
    assert!((1..20).contains(&refused), "{refused} keys are refused");
    bed.put("k0000", "new");
    bed.settle();
    let refusal = bed.output.outcomes.last().unwrap().result.as_ref();
    assert!(matches!(refusal, Err(crate::apply::ApplyError::Corrupt)), "{refusal:?}");
    // Whoever takes the alarm back without mending the page sees it again.
    let disarm = |bed: &mut Bed| {
        let request = crate::proto::etcdserverpb::AlarmRequest {
            action: crate::proto::etcdserverpb::alarm_request::AlarmAction::Deactivate as i32,
            member_id: MEMBER,
            alarm: AlarmType::Corrupt as i32,
        };
        bed.node().propose(Kind::Alarm, &request.encode_to_vec()).unwrap();
        bed.turn();
        bed.start_log_ops();
        bed.finish_log_write();
        bed.turn();
    };
    disarm(&mut bed);
    assert!(!bed.node().applier.alarms.active(AlarmType::Corrupt));
    bed.settle();
    assert!(bed.node().applier.alarms.active(AlarmType::Corrupt));
    // A page that was mended is served, and the work in the background goes on.
    bed.store.apply(&store::Op::Write { offset: at as u64, data: vec![b'x'] });
    disarm(&mut bed);
    bed.put("k0000", "new");
    bed.settle();
    assert!(!bed.node().applier.alarms.active(AlarmType::Corrupt));
    assert!(bed.output.outcomes.last().unwrap().result.is_ok());
    let ticket = bed.node().start_defragment();
    for _ in 0..2_000 {
        bed.turn();
        bed.store_op();
    }
    assert!(bed.node().defrag_counts().done > 0 && bed.node().defragmented(ticket));
}

/// A history of 400 changes of 30 keys, and what the newest revisions of it show.
fn history(bed: &mut Bed) -> Vec<(String, i64, Option<String>)> {
    let mut model: BTreeMap<String, String> = BTreeMap::new();
    let mut shown = Vec::new();
    for round in 0..400_u32 {
        let key = format!("k{}", round * 7 % 30);
        if round % 5 == 4 && model.contains_key(&key) {
            let request = crate::proto::etcdserverpb::DeleteRangeRequest {
                key: key.clone().into(),
                ..Default::default()
            };
            bed.node().propose(Kind::DeleteRange, &request.encode_to_vec()).unwrap();
            model.remove(&key);
        } else {
            bed.put(&key, &format!("v{round}"));
            model.insert(key, format!("v{round}"));
        }
        if round % 50 == 49 {
            bed.settle();
        }
        if round >= 350 {
            let number = round % 30;
            let key = format!("k{number}");
            // Each change is one revision, and the first is 2.
            shown.push((key.clone(), i64::from(round) + 2, model.get(&key).cloned()));
        }
    }
    bed.settle();
    shown
}

#[test]
fn a_crash_at_any_point_of_a_compaction_is_survived() {
    const COMPACTED: i64 = 350;
    let mut left_without_a_crash = None;
    for crash_at in (0..).map(|step| if step == 0 { usize::MAX } else { step }) {
        let mut bed = Bed::new();
        bed.settle();
        let shown = history(&mut bed);
        let request = CompactionRequest { revision: COMPACTED, physical: false };
        bed.node().propose(Kind::Compaction, &request.encode_to_vec()).unwrap();
        bed.node().start_defragment();
        let mut step = 0;
        let done = |bed: &mut Bed| {
            let mvcc = &bed.node().applier.mvcc;
            mvcc.compact_revision() == COMPACTED && !mvcc.compaction_pending()
        };
        let mut ended = false;
        while step < crash_at && !ended {
            match step % 4 {
                0 => bed.turn(),
                1 => bed.start_log_ops(),
                2 => bed.finish_log_write(),
                _ => bed.store_op(),
            }
            step += 1;
            ended = done(&mut bed) && bed.node().defragmented(1);
        }
        if !ended {
            bed.crash(&mut Random(crash_at as u64));
            bed.settle();
            if bed.node().applier.mvcc.compact_revision() != COMPACTED {
                // It had not got to the disk.
                bed.node().propose(Kind::Compaction, &request.encode_to_vec()).unwrap();
                bed.settle();
            }
            while !done(&mut bed) {
                bed.turn();
            }
        }
        bed.node().applier.store.check().unwrap();
        for (key, revision, value) in &shown {
            assert_eq!(bed.get(key, *revision), *value, "step {crash_at}, {key} at {revision}");
        }
        let left = bed.node().applier.store.entry_bytes();
        assert_eq!(left, *left_without_a_crash.get_or_insert(left), "step {crash_at}");
        if ended && crash_at != usize::MAX {
            assert!(crash_at > 50, "only {crash_at} steps");
            break;
        }
    }
}
