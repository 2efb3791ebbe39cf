//! A member with log and store on one simulated disk, which delays, loses, fails and fills up.

use std::io;
use std::rc::Rc;

use prost::Message;
use simdisk::{self as disk, Disk, FileId, Loss, Outcome};
use wal::{SegmentId, SegmentSource};

use super::super::*;
use super::{MEMBER, Random};
use crate::membership::Cluster;
use crate::mutants::Mutant;
use crate::proto::etcdserverpb::{PutRequest, RangeRequest, RangeResponse};
use crate::store::{Map, Store};

/// The store's file on the simulated disk. Segments of the log have their own numbers.
const STORE: FileId = FileId(0);

/// What recovery reads of the log.
struct Log<'a>(&'a Disk);

impl SegmentSource for Log<'_> {
    fn list(&mut self) -> io::Result<Vec<(SegmentId, u64)>> {
        let segments = self.0.files().filter(|file| *file != STORE);
        Ok(segments.map(|file| (SegmentId(file.0), self.0.read(file).len() as u64)).collect())
    }

    fn read(&mut self, segment: SegmentId) -> io::Result<wal::Content> {
        Ok(Box::new(self.0.read(FileId(segment.0)).to_vec()))
    }
}

/// Applied entries between two cuts of the log, and those that stay.
const LOG_KEPT: (u64, u64) = (20, 10);

pub struct Bed {
    pub disk: Disk,
    pub random: Random,
    pub segment_bytes: u64,
    /// Dirty pages that replay of the log leaves unwritten: from the next start on.
    pub replay_dirty_bytes: u64,
    /// An operation of the disk has failed: the process has ended.
    pub failed: bool,
    pub node: Option<Node>,
    pub output: Output,
    pub now_ms: u64,
    pub starts: u64,
}

impl Bed {
    pub fn new() -> Bed {
        Bed::with_segments(256 << 10)
    }

    pub fn with_segments(segment_bytes: u64) -> Bed {
        let mut disk = Disk::default();
        disk.spares_max = 2;
        disk.insert(STORE, store::initial_image(&store::Options::default()));
        let mut bed = Bed {
            disk,
            random: Random(1),
            segment_bytes,
            replay_dirty_bytes: REPLAY_DIRTY_BYTES,
            failed: false,
            node: None,
            output: Output::default(),
            now_ms: 0,
            starts: 0,
        };
        bed.start();
        bed
    }

    pub fn start(&mut self) {
        self.try_start().unwrap();
    }

    pub fn try_start(&mut self) -> Result<(), OpenError> {
        self.starts += 1;
        self.failed = false;
        let (map, memory) = Map::memory(64 << 20);
        self.disk.mirror(STORE, Rc::new(move |offset, bytes| memory.write(offset, bytes)));
        let len = self.disk.read(STORE).len() as u64;
        let store = Store::open(map, len, store::Options::default()).unwrap();
        let (cluster, member) = crate::apply::identity(&store).unwrap().unwrap_or_else(|| {
            let name = format!("m{MEMBER}");
            let member = crate::membership::Member { id: MEMBER, name, ..Default::default() };
            (Cluster::restore(1, [member]), MEMBER)
        });
        let options = crate::apply::Options { lease_ttl_min_s: 2, joins: false };
        let applier = Applier::open(store, cluster, member, options, self.now_ms).unwrap();
        let applied = (applier.applied_index(), applier.applied_term());
        let mut recovered = Recovered::new(applied, LOG_KEPT.1 as usize, 1 << 20);
        let log = wal::recover(&mut Log(&self.disk), &mut |record| {
            recovered.visit(record.kind, record.index, record.bytes());
        })
        .unwrap();
        let small = wal::Options { segment_bytes: self.segment_bytes, batch_bytes: 64 << 10 };
        let options = Options {
            metadata: Metadata { cluster_id: 1, member_id: MEMBER },
            name: format!("m{MEMBER}"),
            client_urls: Vec::new(),
            heartbeat_ms: 100,
            election_ms: 1000,
            quota_bytes: None,
            request_bytes_max: 1 << 20,
            pending_max: 1000,
            patience_ms: 7000,
            retention: Retention::Off,
            defrag_threshold_percent: 0,
            snapshot_count: LOG_KEPT.0,
            catch_up_entries: LOG_KEPT.1,
            replay_dirty_bytes: self.replay_dirty_bytes,
            snapshot_dirty_bytes: SNAPSHOT_DIRTY_BYTES,
            corrupt_check_ms: None,
            strict_reconfig_check: true,
            first_id: self.starts << 32,
            inflight_appends_max: 256,
            seed: self.starts,
        };
        let log = wal::Writer::new(small, log);
        self.node = Some(Node::new(applier, log, recovered, options, self.now_ms)?);
        Ok(())
    }

    pub fn node(&mut self) -> &mut Node {
        self.node.as_mut().expect("started")
    }

    pub fn turn(&mut self) {
        self.now_ms += 10;
        let Bed { node, output, now_ms, .. } = self;
        let node = node.as_mut().expect("started");
        node.turn(*now_ms, output).unwrap();
        node.background(*now_ms).unwrap();
    }

    /// Begins something that the log wants.
    pub fn begin_log_op(&mut self) -> bool {
        let Some((id, op)) = self.node().next_log_op(u64::MAX) else { return false };
        let op = match op {
            wal::Op::Create { segment, bytes } => {
                disk::Op::Create { file: FileId(segment.0), bytes }
            }
            wal::Op::Write { segment, offset, data } => {
                assert!(!self.is_writing_log(), "one write at a time");
                let (file, data) = (FileId(segment.0), data.as_slice().to_vec());
                disk::Op::Write { file, offset, data, durable: true }
            }
            wal::Op::Remove { segment } => disk::Op::Remove { file: FileId(segment.0) },
        };
        self.begin(id.0, op);
        true
    }

    /// Begins something that the store wants.
    pub fn begin_store_op(&mut self) -> bool {
        let Some((id, op)) = self.node().next_store_op() else { return false };
        let file = STORE;
        let op = match op {
            store::Op::Grow { len } => disk::Op::Grow { file, bytes: len },
            store::Op::Write { offset, data } => {
                disk::Op::Write { file, offset, data, durable: false }
            }
            store::Op::Sync => disk::Op::Sync { file },
            store::Op::Truncate { len } => disk::Op::Truncate { file, bytes: len },
        };
        self.begin(id.0, op);
        true
    }

    pub fn begin(&mut self, id: u64, op: disk::Op) {
        let Bed { disk, random, .. } = self;
        disk.start(disk::Token(id), op, &mut |n| random.below(n));
    }

    /// Ends one of the operations that the disk is busy with, and tells the member.
    pub fn end_op(&mut self, nth: usize) {
        let Bed { disk, random, now_ms, .. } = self;
        let now_ms = *now_ms;
        let (disk::Token(id), op, outcome) = disk.complete(nth, &mut |n| random.below(n));
        let of_store = op.file() == STORE;
        let ignored = outcome == Outcome::Failed && crate::mutants::is_on(Mutant::FailedIsDone);
        let outcome = if ignored { Outcome::Done } else { outcome };
        match outcome {
            Outcome::Done if of_store => self.node().store_op_done(store::OpId(id), now_ms),
            Outcome::Done => self.node().log_op_done(wal::OpId(id), u64::MAX),
            Outcome::NoSpace if of_store => self.node().store_no_space(store::OpId(id), now_ms),
            Outcome::NoSpace => self.node().log_no_space(wal::OpId(id)),
            Outcome::Failed => self.failed = true,
        }
    }

    /// Ends all operations in flight that `which` says.
    pub fn end_ops(&mut self, which: impl Fn(&disk::Op) -> bool) {
        loop {
            let nth = self.disk.outstanding().position(|(_, op)| which(op));
            let Some(nth) = nth else { break };
            self.end_op(nth);
        }
    }

    pub fn is_writing_log(&self) -> bool {
        self.disk.outstanding().any(|(_, op)| is_log_write(op))
    }

    /// Does what the log wants; a write stays in flight.
    pub fn start_log_ops(&mut self) {
        while self.begin_log_op() {
            self.end_ops(|op| op.file() != STORE && !is_log_write(op));
        }
    }

    pub fn finish_log_write(&mut self) {
        self.end_ops(is_log_write);
    }

    pub fn store_op(&mut self) {
        self.begin_store_op();
        self.end_ops(|op| op.file() == STORE);
    }

    /// The power goes.
    pub fn crash_with(&mut self, loss: Loss) {
        self.node = None;
        self.output = Output::default();
        let Bed { disk, random, .. } = self;
        disk.crash(loss, &mut |n| random.below(n));
        self.start();
    }

    /// The process ends, and another one begins.
    pub fn restart(&mut self) {
        self.node = None;
        self.output = Output::default();
        let Bed { disk, random, .. } = self;
        disk.restart(&mut |n| random.below(n));
        self.start();
    }

    /// Until nothing is left to do.
    pub fn settle(&mut self) {
        for _ in 0..10 {
            self.turn();
            self.start_log_ops();
            self.finish_log_write();
        }
    }

    /// Everything is in a checkpoint then.
    pub fn defragment(&mut self) {
        let ticket = self.node().start_defragment();
        while !self.node().defragmented(ticket) {
            self.turn();
            self.store_op();
        }
    }

    pub fn put(&mut self, key: &str, value: &str) -> u64 {
        let request = PutRequest {
            key: key.to_owned().into(),
            value: value.to_owned().into(),
            ..Default::default()
        };
        self.node().propose(Kind::Put, &request.encode_to_vec()).unwrap()
    }

    pub fn get(&mut self, key: &str, revision: i64) -> Option<String> {
        let applier = &self.node().applier;
        let request = RangeRequest { key: key.to_owned().into(), revision, ..Default::default() };
        let mut kvs = Vec::new();
        applier.mvcc.range(applier.store.view(), &request, &mut kvs).unwrap();
        let response = RangeResponse::decode(&kvs[..]).unwrap();
        response.kvs.first().map(|kv| String::from_utf8(kv.value.to_vec()).unwrap())
    }
}

fn is_log_write(op: &disk::Op) -> bool {
    op.file() != STORE && matches!(op, disk::Op::Write { .. })
}
