//! The member on disks that crash: what was acknowledged is there afterwards, at its revision. And,
//! below, several members with a network between them.

mod bed;
mod cluster;
mod crashes;
#[cfg(feature = "mutants")]
mod mutants;

use std::collections::{BTreeMap, HashMap};
use std::io;

use prost::Message;

use super::*;
use crate::membership::Cluster;
use crate::proto::etcdserverpb::{PutRequest, RangeRequest, RangeResponse};
use crate::store::MemoryDisk;
use wal::{SegmentId, SegmentSource};

const SECTOR: usize = 512;

/// The log's files, with at most one write that is neither done nor lost.
#[derive(Default)]
struct LogDisk {
    files: BTreeMap<SegmentId, Vec<u8>>,
    in_flight: Option<(wal::OpId, SegmentId, u64, Vec<u8>)>,
}

impl SegmentSource for LogDisk {
    fn list(&mut self) -> io::Result<Vec<(SegmentId, u64)>> {
        Ok(self.files.iter().map(|(id, file)| (*id, file.len() as u64)).collect())
    }

    fn read(&mut self, segment: SegmentId) -> io::Result<Vec<u8>> {
        Ok(self.files[&segment].clone())
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
        let applied = (applier.applied_index(), applier.applied_term());
        let mut recovered = Recovered::new(applied, self.log_kept.1 as usize, 1 << 20);
        let log = wal::recover(&mut self.log, &mut |record| {
            recovered.visit(record.kind, record.index, record.bytes());
        })
        .unwrap();
        self.incoming = None;
        let small = wal::Options { segment_bytes: 256 << 10, batch_bytes: 64 << 10 };
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
            corrupt_check_ms: Some(60_000),
            strict_reconfig_check: true,
            first_id: self.id << 48 | self.starts << 32,
            seed: self.starts,
        };
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
        while let Some((id, op)) = self.node().next_log_op() {
            match op {
                wal::Op::Create { segment, bytes } => {
                    self.log.files.insert(segment, vec![0; bytes as usize]);
                    self.node().log_op_done(id);
                }
                wal::Op::Write { segment, offset, data } => {
                    assert!(self.log.in_flight.is_none(), "one write at a time");
                    self.log.in_flight = Some((id, segment, offset, data.as_slice().to_vec()));
                }
                wal::Op::Remove { segment } => {
                    self.log.files.remove(&segment);
                    self.node().log_op_done(id);
                }
            }
        }
    }

    fn finish_log_write(&mut self) {
        if let Some((id, segment, offset, data)) = self.log.in_flight.take() {
            self.log.write(segment, offset, &data);
            self.node().log_op_done(id);
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
                self.node().snapshot_installed(now_ms).unwrap();
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
