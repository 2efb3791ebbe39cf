//! One member: disks that outlive it, a clock, and, while it runs, the node of production.

use std::collections::VecDeque;

use ringd::apply::{self, Applier};
use ringd::membership::{self, Cluster};
use ringd::mvcc::Revision;
use ringd::node::{self, Metadata, Node, Output, PeerMessage, Recovered, Retention, SnapshotOp};
use ringd::proto::etcdserverpb::RangeRequest;
use ringd::store::{self, Store};

use crate::disk::{LogDisk, StoreDisk};
use crate::front::{Ask, Conn, Front};
use crate::model::{At, Summary, digest_change};
use crate::odds::Odds;
use crate::random::{Concern, Digest, Random};
use crate::shadow::{Record, Shadow};
use crate::truth::{Check, Truth};

pub const HEARTBEAT_MS: u64 = 100;
pub const ELECTION_MS: u64 = 1_000;
/// etcd's for these times.
pub const LEASE_TTL_MIN_S: i64 = 2;
const CLUSTER: u64 = 0xc1;

/// What has reached a process and waits for its turn.
pub enum Input {
    Message(u64, PeerMessage),
    Client(Conn, Ask),
    Arrived(Conn),
    LogDone(wal::OpId),
    LogFull(wal::OpId),
    StoreDone(store::OpId),
    StoreFull(store::OpId),
    /// Done, or met a full disk.
    Snapshot(SnapshotOp, bool),
}

pub struct Process {
    pub node: Node,
    pub front: Front,
    pub output: Output,
    pub inbox: VecDeque<Input>,
    /// The turn that is planned.
    pub turn_at_us: Option<u64>,
    pub paused_until_us: u64,
    /// The state was last compared with the model here.
    checked: u64,
    revision: i64,
    digest: Digest,
}

/// Time as a member sees it: it began somewhere, and runs a little too fast or too slow.
#[derive(Clone, Copy)]
pub struct Clock {
    offset_us: u64,
    rate_ppm: u64,
}

impl Clock {
    pub fn ms(&self, now_us: u64) -> u64 {
        self.offset_us / 1_000 + now_us / 1_000 * self.rate_ppm / 1_000_000
    }

    /// The earliest moment at which the member's clock shows `ms`.
    pub fn when(&self, ms: u64) -> u64 {
        let own_ms = ms.saturating_sub(self.offset_us / 1_000);
        (own_ms.saturating_mul(1_000_000)).div_ceil(self.rate_ppm).saturating_mul(1_000)
    }
}

pub struct Member {
    pub id: u64,
    pub incarnation: u64,
    pub log_disk: LogDisk,
    pub store_disk: StoreDisk,
    /// The file of a state that arrives from another member.
    pub incoming: Option<StoreDisk>,
    pub shadow: Shadow,
    pub process: Option<Process>,
    pub clock: Clock,
    pub stalled_until_us: u64,
    /// The next operation of a disk fails.
    pub fails_next: bool,
    pub random: Random,
    seed: u64,
    odds: Odds,
    /// Voters of the cluster when it was founded; for a member that joins, hints.
    joins: bool,
}

impl Member {
    pub fn new(id: u64, seed: u64, odds: &Odds, joins: bool) -> Member {
        let image = store::initial_image(&store::Options { store_id: seed ^ id });
        let mut clocks = Random::of(seed, Concern::Clocks, id);
        let skew = clocks.below(2 * odds.skew_ppm + 1);
        Member {
            id,
            incarnation: 0,
            log_disk: LogDisk::default(),
            store_disk: StoreDisk::new(image),
            incoming: None,
            shadow: Shadow::default(),
            process: None,
            clock: Clock {
                offset_us: clocks.below(1_000_000_000),
                rate_ppm: 1_000_000 + skew - odds.skew_ppm,
            },
            stalled_until_us: 0,
            fails_next: false,
            random: Random::of(seed, Concern::Disks, id),
            seed,
            odds: odds.clone(),
            joins,
        }
    }

    /// From what is on the disks to a running process.
    pub fn start(&mut self, now_us: u64, truth: &Truth) -> Check {
        let wrong = |what: &dyn std::fmt::Display| Err(format!("member {}: {what}", self.id));
        self.incarnation += 1;
        let now_ms = self.clock.ms(now_us);
        self.incoming = None;
        let (map, len) = self.store_disk.map();
        let store = match Store::open(map, len, store::Options::default()) {
            Ok(store) => store,
            Err(error) => return wrong(&error),
        };
        if let Err(error) = store.check() {
            return wrong(&error);
        }
        let (cluster, own) = match apply::identity(&store) {
            Ok(known) => known.unwrap_or_else(|| (self.founders(), self.id)),
            Err(error) => return wrong(&error),
        };
        let options = apply::Options { lease_ttl_min_s: LEASE_TTL_MIN_S, joins: self.joins };
        let applier = match Applier::open(store, cluster, own, options, now_ms) {
            Ok(applier) => applier,
            Err(error) => return wrong(&error),
        };
        let applied = (applier.applied_index(), applier.applied_term());
        let options = node::Options {
            metadata: Metadata { cluster_id: CLUSTER, member_id: self.id },
            name: format!("m{}", self.id),
            client_urls: vec![format!("http://m{}", self.id)],
            heartbeat_ms: HEARTBEAT_MS,
            election_ms: ELECTION_MS,
            patience_ms: 7_000,
            quota_bytes: None,
            request_bytes_max: 1 << 20,
            pending_max: 1_000,
            retention: Retention::Off,
            defrag_threshold_percent: 20,
            snapshot_count: self.odds.snapshot_count,
            catch_up_entries: self.odds.catch_up_entries,
            replay_dirty_bytes: self.odds.replay_dirty_bytes,
            snapshot_dirty_bytes: self.odds.snapshot_dirty_bytes,
            corrupt_check_ms: self.odds.corrupt_check_ms,
            strict_reconfig_check: self.odds.strict_reconfig,
            first_id: self.id << 48 | self.incarnation << 24,
            inflight_appends_max: self.odds.inflight_appends_max,
            seed: self.seed,
        };
        let (entries, bytes) = options.kept_log(applier.cluster.members().len());
        let mut recovered = Recovered::new(applied, entries, bytes);
        let mut records = Vec::new();
        let log = wal::recover(&mut self.log_disk, &mut |record| {
            records.extend(Record::decode(record.kind, record.index, record.bytes()));
            recovered.visit(record.kind, record.index, record.bytes());
        });
        let log = match log {
            Ok(log) => wal::Writer::new(self.wal(), log),
            Err(error) => return wrong(&error),
        };
        self.shadow.restart(&records, applied);
        let node = match Node::new(applier, log, recovered, options, now_ms) {
            Ok(node) => node,
            Err(error) => return wrong(&error),
        };
        let revision = node.applier.mvcc.current_revision();
        let mut process = Process {
            front: Front::new(&node),
            node,
            output: Output::default(),
            inbox: VecDeque::new(),
            turn_at_us: None,
            paused_until_us: 0,
            checked: 0,
            revision,
            digest: truth.model.digest_at(revision),
        };
        let whole = process.compare_all(truth);
        self.process = Some(process);
        whole.map_err(|error| format!("member {}, after its start: {error}", self.id))
    }

    fn wal(&self) -> wal::Options {
        let Odds { segment_bytes, batch_bytes, .. } = self.odds;
        wal::Options { segment_bytes, batch_bytes }
    }

    fn founders(&self) -> Cluster {
        let member = |id| membership::Member {
            id,
            peer_urls: vec![format!("http://m{id}")],
            ..membership::Member::default()
        };
        Cluster::restore(CLUSTER, (1..=self.odds.members).map(member))
    }

    /// The process ends at once, and with it the power if `random` says so.
    pub fn stop(&mut self, random: &mut Random) {
        self.process = None;
        self.incoming = None;
        self.fails_next = false;
        self.log_disk.crash(random);
        self.store_disk.crash(random);
    }
}

impl Process {
    pub fn take_messages(&mut self) -> Vec<(u64, PeerMessage)> {
        self.output.messages.drain(..).map(|(to, message)| (to.0, message)).collect()
    }

    /// Compares what changed since the last time with the model.
    pub fn compare(&mut self, truth: &Truth) -> Check {
        let index = self.node.applier.applied_index();
        if std::mem::take(&mut self.front.is_state_replaced) {
            self.compare_all(truth)?;
            self.revision = self.node.applier.mvcc.current_revision();
            self.digest = truth.model.digest_at(self.revision);
            self.checked = index;
        }
        if index == self.checked {
            return Ok(());
        }
        self.checked = index;
        let Some(wanted) = truth.summary(index) else {
            return Err(format!("entry {index} is applied, and not committed"));
        };
        let found = self.summary();
        if found != wanted {
            return Err(format!("after entry {index} the state is {found:?}, not {wanted:?}"));
        }
        let applier = &self.node.applier;
        let reader = applier.mvcc.reader(applier.store.view());
        let mut changes = reader.changes(Revision::new(self.revision + 1, 0));
        let mut digest = self.digest;
        while let Some(change) = changes.next().map_err(|error| error.to_string())? {
            let Revision { main, sub } = change.revision;
            let kv = if change.delete { change.key } else { change.kv };
            digest = digest_change(digest, main, sub, change.delete, kv);
        }
        self.revision = found.at.current;
        self.digest = digest;
        if digest != truth.model.digest_at(self.revision) {
            return Err(format!(
                "the changes up to revision {} are not those that are committed",
                self.revision
            ));
        }
        Ok(())
    }

    fn summary(&self) -> Summary {
        let applier = &self.node.applier;
        let at = At {
            current: applier.mvcc.current_revision(),
            compact: applier.mvcc.compact_revision(),
        };
        let mut leases: Vec<i64> = applier.lessor.list().iter().map(|lease| lease.0).collect();
        leases.sort_unstable();
        let alarms = applier.alarms.all().iter().map(|raised| (raised.member_id, raised.alarm));
        let members = applier.cluster.members().map(|member| (member.id, member.is_learner));
        Summary::new(at, leases, alarms, members)
    }

    /// Compares every key at the newest and at the oldest revision that can be read.
    pub fn compare_all(&mut self, truth: &Truth) -> Check {
        let index = self.node.applier.applied_index();
        if index == 0 {
            // It joins, and has nothing yet.
            return Ok(());
        }
        let Some(wanted) = truth.summary(index) else {
            return Err(format!("entry {index} is applied, and was never committed"));
        };
        let found = self.summary();
        if found != wanted {
            return Err(format!("at index {index} the state is {found:?}, not {wanted:?}"));
        }
        let applier = &self.node.applier;
        for revision in [0, wanted.at.compact.max(0)] {
            let request = RangeRequest {
                key: "\0".into(),
                range_end: "\0".into(),
                revision,
                ..RangeRequest::default()
            };
            let mut body = Vec::new();
            let outcome = applier.mvcc.range(applier.store.view(), &request, &mut body);
            let outcome = outcome.map_err(|error| error.to_string())?;
            let model = truth.model.range(&request, wanted.at).expect("a revision to be read");
            let found: ringd::proto::etcdserverpb::RangeResponse =
                prost::Message::decode(&body[..]).map_err(|error| error.to_string())?;
            if found.kvs != model.kvs || outcome.count != model.count {
                return Err(format!(
                    "at index {index}, revision {revision}, the keys are {:?}, not {:?}",
                    found.kvs, model.kvs
                ));
            }
        }
        Ok(())
    }
}
