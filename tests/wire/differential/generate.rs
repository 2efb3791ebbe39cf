//! Makes the sequences: derived from the protocol's definition, every field of every request, and not from what a
//! server is known to do.
//!
//! What comes next depends on the seed and on [`World`], which only follows the reference's answers; so a seed means
//! one sequence. Nothing in it depends on time: leases either outlive the run by far or are revoked at once.

use bytes::Bytes;
use ringd::proto::etcdserverpb as pb;
use ringd::proto::health::{HealthCheckRequest, HealthListRequest};
use ringd::proto::{v3electionpb as election, v3lockpb as lock};

use super::administration::administration;
use super::json;
use super::request::{ADDED, ELECTED, Request};
use crate::rng::Rng;

/// What the generator knows of the state that the servers are in.
#[derive(Clone, Debug)]
pub struct World {
    pub revision: i64,
    pub compacted: i64,
    /// Every revision that was compacted at.
    pub compactions: Vec<i64>,
    pub member: u64,
    pub limits: Limits,
}

/// How the servers of this seed are started.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub max_txn_ops: usize,
    pub max_request_bytes: usize,
}

/// What gRPC accepts beyond `max_request_bytes`.
const OVERHEAD_BYTES: usize = 512 << 10;
/// Requests this near to `max_request_bytes` are left out: a request's id in the log is as long as the server makes it.
const EDGE_BYTES: usize = 200;

#[derive(Clone, Debug)]
pub enum Step {
    /// One call, or several that overlap, none of which changes anything.
    Calls(Vec<Request>),
    /// A call in JSON: the request that it was made of, and the body.
    Gateway {
        request: Request,
        body: String,
        is_damaged: bool,
    },
    /// A call that waits until `then` has been asked. Before that there are to be `keys` keys below `prefix`: the
    /// call has put its own.
    Waiting {
        request: Request,
        prefix: &'static str,
        keys: i64,
        then: Vec<Request>,
    },
    /// A stream of which one message comes at once, and one more after each of `then`.
    Observing {
        request: Request,
        then: Vec<Vec<Request>>,
    },
    WatchCreate {
        stream: usize,
        request: pb::WatchCreateRequest,
    },
    WatchCancel {
        stream: usize,
        watch_id: i64,
    },
    WatchProgress {
        stream: usize,
    },
    /// Ends a stream and opens another in its place.
    WatchReopen {
        stream: usize,
    },
    /// Ends both servers, by SIGKILL or by SIGTERM, and starts them again.
    Restart {
        kill: bool,
    },
    /// Waits for all events and compares them.
    Drain,
    /// Waits until no watcher is still looking for events of the past: a compaction would cancel it.
    Settle,
}

pub const STREAMS: usize = 3;

impl Step {
    pub fn only_reads(&self) -> bool {
        use Request::*;
        let reads = |request: &Request| {
            matches!(
                request,
                Range(_)
                    | RangeStream(_)
                    | HashKv(_)
                    | Status(_)
                    | MemberList(_)
                    | LeaseLeases(_)
                    | LeaseTimeToLive(_)
            )
        };
        match self {
            Step::Calls(requests) => requests.iter().all(reads),
            Step::Gateway { request, .. } => reads(request),
            _ => false,
        }
    }

    pub fn is_watch(&self) -> bool {
        use Step::*;
        matches!(
            self,
            WatchCreate { .. } | WatchCancel { .. } | WatchProgress { .. } | WatchReopen { .. }
        )
    }

    pub fn is_lease(&self) -> bool {
        use Request::*;
        let leases =
            |request: &Request| matches!(request, LeaseGrant(_) | LeaseRevoke(_) | KeepAlive(_));
        matches!(self, Step::Calls(requests) if requests.iter().all(leases))
    }
}

impl Limits {
    pub fn of_seed(seed: u64) -> Limits {
        let (max_txn_ops, max_request_bytes) = match seed % 4 {
            0 => (128, 1_572_864),
            1 => (8, 20_000),
            2 => (3, 100_000),
            _ => (32, 1_572_864),
        };
        Limits { max_txn_ops, max_request_bytes }
    }
}

pub struct Generator {
    rng: Rng,
    /// How many members were added.
    learners: usize,
    /// Widens the keys of some seeds, so that ranges are long in some and collisions frequent in others.
    spread: usize,
}

/// Longest key.
const KEY_BYTES_MAX: usize = 6_000;

const KEYS: &[&[u8]] = &[
    b"a",
    b"b",
    b"a\0",
    b"aa",
    b"ab",
    b"b\xff",
    b"k/",
    b"k/1",
    b"k/2",
    b"k/3",
    b"k/33",
    b"k0",
    b"z",
    b"\0",
    b"\0\0",
    b"\x01",
    b"\xff",
    b"\xff\xff",
    b"\xff\0",
    b"K",
];
const ENDS: &[&[u8]] = &[b"b", b"k0", b"k/3", b"l", b"\xff", b"a", b"zz", b"\x01"];
const LEASES: &[i64] = &[1, 2, 3, 4, 5, 7_587_862_094_001, i64::MAX, -3];
/// Longer than any run.
const TTLS: &[i64] = &[5_000, 6_000, 7_000, 8_000, 1_000_000, 9_000_000_000];
/// Names of locks and elections, what their keys begin with, and the key of the first of [`RECIPE_LEASES`].
const RECIPES: &[[&str; 3]] =
    &[["lock", "lock/", "lock/1269"], ["a", "a/", "a/1269"], ["b", "b/", "b/1269"]];
const RECIPE_LEASES: [i64; 2] = [0x1269, 0x126a];
const SHORT_TTLS: &[i64] = &[0, 1, 2, -1, i64::MIN];

impl Generator {
    pub fn new(seed: u64) -> Generator {
        let mut rng = Rng::new(seed);
        let spread = rng.pick(&[0, 0, 10, 60, 400]);
        Generator { rng, learners: 0, spread }
    }

    /// The next steps, which belong together.
    pub fn next(&mut self, world: &World) -> Vec<Step> {
        let steps = self.next_calls(world);
        if let [Step::Calls(requests)] = &steps[..]
            && let [request] = &requests[..]
            && self.rng.chance(8)
            // How long a message is that is too large for gRPC, the gateway cannot know from the JSON.
            && request.encode().len() < world.limits.max_request_bytes + OVERHEAD_BYTES
            && let Some((body, is_damaged)) = json::body(request, &mut self.rng)
        {
            return vec![Step::Gateway { request: request.clone(), body, is_damaged }];
        }
        steps
    }

    fn next_calls(&mut self, world: &World) -> Vec<Step> {
        let one = |request| vec![Step::Calls(vec![request])];
        match self.rng.weighted(&[300, 300, 60, 120, 12, 10, 10, 60, 12, 1, 8, 10, 1, 4, 3, 40, 6])
        {
            0 => {
                let count = 1 + self.rng.below(6);
                vec![Step::Calls((0..count).map(|_| self.read(world)).collect())]
            }
            1 => one(Request::Put(self.put(world))),
            2 => one(Request::DeleteRange(self.delete())),
            3 => one(Request::Txn(self.txn(world, 0))),
            4 => vec![
                Step::Drain,
                Step::Settle,
                Step::Calls(vec![Request::Compact(self.compact(world))]),
            ],
            5 => one(Request::LeaseGrant(pb::LeaseGrantRequest {
                id: self.rng.pick(LEASES),
                ttl: self.rng.pick(TTLS),
            })),
            6 => one(Request::LeaseRevoke(pb::LeaseRevokeRequest { id: self.lease_id() })),
            7 => self.watch(world),
            8 => self.odd_lease(),
            9 => one(Request::Defragment(pb::DefragmentRequest {})),
            10 => self.alarm(world),
            12 => vec![Step::Drain, Step::Settle, Step::Restart { kill: self.rng.chance(70) }],
            13 => self.recipe(),
            14 => self.members(),
            15 => {
                let request = administration(&mut self.rng);
                // With that, auth would be enabled some day; the other run has it on.
                let is_roots = matches!(&request, Request::UserGrantRole(grant)
                    if grant.user == "root" && grant.role == "root");
                if is_roots { Vec::new() } else { one(request) }
            }
            16 => one(self.maintenance(world)),
            // A stream by its nature; of a lease that outlives the run it changes no more than the order of expiry.
            _ => one(Request::KeepAlive(pb::LeaseKeepAliveRequest { id: self.lease_id() })),
        }
    }

    fn read(&mut self, world: &World) -> Request {
        match self.rng.weighted(&[60, 12, 8, 6, 3, 3, 3, 2]) {
            0 => Request::Range(self.range(world)),
            1 => {
                let mut range = self.range(world);
                if range.sort_order == 0 {
                    // Etcd would sort each of its parts, and go on behind the last key of it: ties decide which.
                    range.sort_target = 0;
                }
                if self.rng.chance(70) {
                    range.sort_order = 0;
                    range.sort_target = 0;
                    range.min_mod_revision = 0;
                    range.max_mod_revision = 0;
                    range.min_create_revision = 0;
                    range.max_create_revision = 0;
                }
                Request::RangeStream(range)
            }
            2 => Request::LeaseTimeToLive(pb::LeaseTimeToLiveRequest {
                id: self.lease_id(),
                keys: self.rng.chance(60),
            }),
            3 => Request::HashKv(pb::HashKvRequest { revision: self.revision(world) }),
            4 => Request::LeaseLeases(pb::LeaseLeasesRequest {}),
            5 => Request::MemberList(pb::MemberListRequest { linearizable: self.rng.chance(50) }),
            6 => Request::Status(pb::StatusRequest {}),
            _ => Request::Alarm(pb::AlarmRequest {
                action: 0,
                member_id: self.rng.pick(&[0, 1, world.member]),
                alarm: self.rng.pick(&[0, 1, 2]),
            }),
        }
    }

    fn key(&mut self) -> Bytes {
        if self.spread > 0 && self.rng.chance(60) {
            return Bytes::from(format!("k/{:04}", self.rng.below(self.spread)));
        }
        match self.rng.below(60) {
            0 => Bytes::new(),
            1 => {
                // Some of them too long for a node of the store, and the same to its end.
                let mut key = vec![b'l'; 1 + self.rng.below(KEY_BYTES_MAX - 1)];
                key.extend(self.rng.chance(50).then(|| b'0' + self.rng.below(10) as u8));
                Bytes::from(key)
            }
            _ => Bytes::from_static(self.rng.pick(KEYS)),
        }
    }

    fn range_end(&mut self, key: &[u8]) -> Bytes {
        match self.rng.below(10) {
            0..=2 => Bytes::new(),
            3 => Bytes::from_static(b"\0"),
            4 => self.key(),
            5 => {
                let mut end = key.to_vec();
                match end.last_mut() {
                    Some(last) => *last = last.wrapping_add(1),
                    None => end.push(0),
                }
                end.into()
            }
            _ => Bytes::from_static(self.rng.pick(ENDS)),
        }
    }

    fn value(&mut self, world: &World) -> Bytes {
        let fill = b'0' + self.rng.below(10) as u8;
        let length = match self.rng.below(100) {
            0..=4 => 0,
            5..=79 => 1,
            80..=94 => self.rng.below(60),
            95..=97 => self.rng.below(6_000),
            _ => self.rng.below(60_000),
        };
        vec![
            fill;
            length.min(world.limits.max_request_bytes.saturating_sub(KEY_BYTES_MAX + EDGE_BYTES))
        ]
        .into()
    }

    /// A value that makes a request too large for the server, or too large for gRPC.
    fn oversized_value(&mut self, world: &World) -> Bytes {
        let length = world.limits.max_request_bytes
            + match self.rng.below(3) {
                0 => EDGE_BYTES + self.rng.below(5_000),
                1 => OVERHEAD_BYTES - 6_000,
                _ => OVERHEAD_BYTES + self.rng.below(3_000),
            };
        vec![b'x'; length].into()
    }

    fn revision(&mut self, world: &World) -> i64 {
        let near = self.rng.below(40) as i64;
        match self.rng.below(24) {
            0..=9 => 0,
            10..=14 => (world.revision - near).max(1),
            15 => world.compacted,
            16 => world.compacted - 1,
            17 => world.compacted + 1,
            18 => world.revision,
            19 => world.revision + 1,
            20 => world.revision + 100,
            21 => -1 - near,
            22 => 1 + self.rng.below(world.revision.max(1) as usize) as i64,
            _ => self.rng.pick(&[i64::MAX, i64::MIN, 1, 2]),
        }
    }

    fn lease_id(&mut self) -> i64 {
        if self.rng.chance(5) {
            self.rng.pick(&[0, -1, 77, i64::MIN])
        } else {
            self.rng.pick(LEASES)
        }
    }

    fn range(&mut self, world: &World) -> pb::RangeRequest {
        let key = self.key();
        let range_end = self.range_end(&key);
        let mut range = pb::RangeRequest { key, range_end, ..Default::default() };
        if self.rng.chance(10) {
            range.key = Bytes::from_static(b"\0");
            range.range_end = Bytes::from_static(b"\0");
        }
        range.revision = self.revision(world);
        range.limit = match self.rng.below(12) {
            0..=5 => 0,
            6..=9 => 1 + self.rng.below(12) as i64,
            10 => self.rng.pick(&[-1, i64::MIN, i64::MAX, i64::MAX - 1]),
            _ => 100,
        };
        if self.rng.chance(30) {
            range.sort_order = self.rng.below(3) as i32;
            range.sort_target = self.rng.below(5) as i32;
        }
        if self.rng.chance(2) {
            range.sort_order = self.rng.pick(&[3, -1, i32::MAX]);
        }
        if self.rng.chance(2) {
            range.sort_target = self.rng.pick(&[5, -1, i32::MIN]);
        }
        range.serializable = self.rng.chance(30);
        range.keys_only = self.rng.chance(15);
        range.count_only = self.rng.chance(15);
        if self.rng.chance(15) {
            let mut bound =
                |percent| if self.rng.chance(percent) { self.revision(world) } else { 0 };
            range.min_mod_revision = bound(40);
            range.max_mod_revision = bound(40);
            range.min_create_revision = bound(40);
            range.max_create_revision = bound(40);
        }
        range
    }

    fn put(&mut self, world: &World) -> pb::PutRequest {
        let mut put = pb::PutRequest {
            key: self.key(),
            value: self.value(world),
            prev_kv: self.rng.chance(30),
            ..Default::default()
        };
        if self.rng.chance(20) {
            put.lease = self.lease_id();
        }
        if self.rng.chance(10) {
            put.ignore_value = true;
            if self.rng.chance(90) {
                put.value = Bytes::new();
            }
        }
        if self.rng.chance(10) {
            put.ignore_lease = true;
            if self.rng.chance(90) {
                put.lease = 0;
            }
        }
        if self.rng.below(150) == 0 {
            put.value = self.oversized_value(world);
        }
        put
    }

    fn delete(&mut self) -> pb::DeleteRangeRequest {
        let key = self.key();
        let range_end = if self.rng.chance(70) { Bytes::new() } else { self.range_end(&key) };
        pb::DeleteRangeRequest { key, range_end, prev_kv: self.rng.chance(30) }
    }

    fn compact(&mut self, world: &World) -> pb::CompactionRequest {
        let span = (world.revision - world.compacted).max(1) as usize;
        let revision = match self.rng.below(10) {
            0 => self.revision(world),
            1 => world.revision,
            2 => world.compacted,
            _ => world.compacted + 1 + self.rng.below(span.min(1 + span / 2)) as i64,
        };
        // Not 0: etcd remembers the hash of a compaction, and this one would be the answer to "the current revision".
        let revision = if revision == 0 { 1 } else { revision };
        pb::CompactionRequest { revision, physical: self.rng.chance(30) }
    }

    fn txn(&mut self, world: &World, depth: usize) -> pb::TxnRequest {
        let compares = self.rng.weighted(&[25, 45, 20, 10]);
        let mut txn = pb::TxnRequest {
            compare: (0..compares).map(|_| self.compare(world)).collect(),
            success: self.ops(world, depth),
            failure: self.ops(world, depth),
        };
        if depth == 0 && self.rng.below(80) == 0 {
            let too_many = world.limits.max_txn_ops + self.rng.below(2);
            let compare = self.compare(world);
            match self.rng.below(3) {
                0 => txn.compare = vec![compare; too_many],
                1 => txn.success = (0..too_many).map(|_| self.range_op(world)).collect(),
                _ => txn.failure = (0..too_many).map(|_| self.range_op(world)).collect(),
            }
        }
        if depth == 0
            && let Some(last) = last_put(&txn)
        {
            spare_puts(&mut txn, &last);
        }
        txn
    }

    fn range_op(&mut self, world: &World) -> pb::RequestOp {
        let mut range = self.range(world);
        if self.rng.chance(70) {
            range.revision = 0;
        }
        pb::RequestOp { request: Some(pb::request_op::Request::RequestRange(range)) }
    }

    /// The operations of a branch. A key is mostly put only once, or few transactions would pass the validation.
    fn ops(&mut self, world: &World, depth: usize) -> Vec<pb::RequestOp> {
        use pb::request_op::Request as Op;
        let count = self.rng.weighted(&[15, 35, 25, 15, 8, 4, 2]).min(world.limits.max_txn_ops + 1);
        let unique = self.rng.chance(85);
        let only_reads = self.rng.chance(20);
        let mut keys: Vec<Bytes> = Vec::new();
        let mut ops = Vec::new();
        for _ in 0..count {
            let kind = if only_reads { 0 } else { self.rng.weighted(&[30, 45, 15, 12, 1]) };
            let request = match kind {
                0 => {
                    ops.push(self.range_op(world));
                    continue;
                }
                1 => {
                    let mut put = self.put(world);
                    if unique && keys.contains(&put.key) {
                        put.key = Bytes::from(format!("txn/{depth}/{}", ops.len()));
                    }
                    keys.push(put.key.clone());
                    if self.rng.chance(60) {
                        put.lease = 0;
                    }
                    Some(Op::RequestPut(put))
                }
                2 => {
                    let mut delete = self.delete();
                    if unique && (keys.contains(&delete.key) || !keys.is_empty()) {
                        delete.range_end = Bytes::new();
                        delete.key = Bytes::from_static(b"txn/deleted");
                    }
                    keys.push(delete.key.clone());
                    Some(Op::RequestDeleteRange(delete))
                }
                3 if depth < 3 => Some(Op::RequestTxn(self.txn(world, depth + 1))),
                3 => Some(Op::RequestTxn(pb::TxnRequest::default())),
                _ => None,
            };
            ops.push(pb::RequestOp { request });
        }
        ops
    }

    fn compare(&mut self, world: &World) -> pb::Compare {
        use pb::compare::TargetUnion as Union;
        let key = self.key();
        let target = self.rng.below(5) as i32;
        let number = match self.rng.below(4) {
            0 => 0,
            1 => 1 + self.rng.below(4) as i64,
            2 => self.revision(world),
            _ => (world.revision - self.rng.below(40) as i64).max(1),
        };
        // Now and then the union is another one than the target, or there is none.
        let union = if self.rng.chance(94) { target } else { self.rng.below(6) as i32 };
        let target_union = match union {
            0 => Some(Union::Version(number)),
            1 => Some(Union::CreateRevision(number)),
            2 => Some(Union::ModRevision(number)),
            3 => Some(Union::Value(self.value(world).at_most(20))),
            4 => Some(Union::Lease(self.lease_id())),
            _ => None,
        };
        let range_end = if self.rng.chance(80) { Bytes::new() } else { self.range_end(&key) };
        let mut compare =
            pb::Compare { result: self.rng.below(4) as i32, target, key, target_union, range_end };
        match self.rng.below(60) {
            0 => compare.result = self.rng.pick(&[4, -1, i32::MAX]),
            1 => compare.target = self.rng.pick(&[5, -1, i32::MIN]),
            _ => {}
        }
        compare
    }

    /// Leases that would end within the run, and ids that the server chooses: granted and revoked at once.
    fn odd_lease(&mut self) -> Vec<Step> {
        let one = |request| Step::Calls(vec![request]);
        match self.rng.below(4) {
            0 => vec![one(Request::LeaseGrant(pb::LeaseGrantRequest {
                id: self.rng.pick(LEASES),
                ttl: self.rng.pick(&[9_000_000_001, i64::MAX]),
            }))],
            1 => vec![
                one(Request::LeaseGrant(pb::LeaseGrantRequest { id: 4_711, ttl: 3 })),
                one(Request::KeepAlive(pb::LeaseKeepAliveRequest { id: 4_711 })),
                one(Request::LeaseRevoke(pb::LeaseRevokeRequest { id: 4_711 })),
            ],
            _ => {
                let id = 4_712;
                vec![
                    one(Request::LeaseGrant(pb::LeaseGrantRequest {
                        id,
                        ttl: self.rng.pick(SHORT_TTLS),
                    })),
                    one(Request::LeaseRevoke(pb::LeaseRevokeRequest { id })),
                    one(Request::LeaseRevoke(pb::LeaseRevokeRequest { id })),
                ]
            }
        }
    }

    /// An alarm, what it refuses, and its end.
    fn alarm(&mut self, world: &World) -> Vec<Step> {
        let member_id = self.rng.pick(&[world.member, world.member, 0, 1]);
        let alarm = self.rng.pick(&[1, 1, 2, 0, 3, -1]);
        let order = |action| Request::Alarm(pb::AlarmRequest { action, member_id, alarm });
        let mut requests = vec![order(1), order(0)];
        for _ in 0..self.rng.below(6) {
            requests.push(match self.rng.below(7) {
                0 => Request::Put(self.put(world)),
                1 => Request::DeleteRange(self.delete()),
                2 | 3 => Request::Txn(self.txn(world, 0)),
                4 => Request::LeaseGrant(pb::LeaseGrantRequest {
                    id: self.rng.pick(LEASES),
                    ttl: TTLS[0],
                }),
                5 => Request::LeaseRevoke(pb::LeaseRevokeRequest { id: self.lease_id() }),
                _ => Request::Status(pb::StatusRequest {}),
            });
        }
        // An action that the protocol does not define ends the real etcd with a panic.
        requests.push(order(self.rng.pick(&[1, 0, 2])));
        requests.push(order(2));
        requests.push(Request::Alarm(pb::AlarmRequest::default()));
        requests.into_iter().map(|request| Step::Calls(vec![request])).collect()
    }

    /// What takes no key, and changes nothing that the rest of a sequence could notice.
    fn maintenance(&mut self, world: &World) -> Request {
        match self.rng.below(9) {
            0 => Request::Hash(pb::HashRequest {}),
            1 => Request::Snapshot(pb::SnapshotRequest {}),
            2 => Request::MoveLeader(pb::MoveLeaderRequest {
                target_id: self.rng.pick(&[world.member, 0, 1]),
            }),
            // A downgrade that is enabled goes on in the background: at the end of a sequence only.
            3 | 4 => Request::Downgrade(pb::DowngradeRequest {
                action: self.rng.pick(&[0, 0, 2, 3, -1]),
                version: self.downgrade_target(),
            }),
            5 => Request::Downgrade(pb::DowngradeRequest {
                action: 1,
                version: self.rng.pick(&["3.5", "3.8.0", "x", "", "4.6", "3"]).to_owned(),
            }),
            6 => Request::HealthList(HealthListRequest {}),
            7 => Request::AuthDisable(pb::AuthDisableRequest {}),
            _ => Request::HealthCheck(HealthCheckRequest { service: self.service() }),
        }
    }

    fn service(&mut self) -> String {
        self.rng.pick(&["", "", "etcdserverpb.KV", "nonsense"]).to_owned()
    }

    fn downgrade_target(&mut self) -> String {
        let targets =
            ["3.6", "3.6.0", "3.6.9", "3.5", "3.7", "3.7.0", "3.8", "x", "", "3.6.x", "6"];
        self.rng.pick(&targets).to_owned()
    }

    /// What ends a sequence: a leader stays one, and what goes on in the background.
    pub fn last(&mut self, world: &World) -> Vec<Step> {
        let downgrade = |action| {
            let version = "3.6".to_owned();
            Request::Downgrade(pb::DowngradeRequest { action, version })
        };
        let status = || Request::Status(pb::StatusRequest {});
        let stay = Request::MoveLeader(pb::MoveLeaderRequest { target_id: world.member });
        [stay, status(), downgrade(1), status(), downgrade(2)]
            .map(|request| Step::Calls(vec![request]))
            .into()
    }

    /// A learner that nobody has started comes and goes.
    fn members(&mut self) -> Vec<Step> {
        // A member's id is made of its address and of the second: none comes back, so no address does.
        self.learners += 1;
        let [url, other] = [1, 2].map(|port| {
            format!("http://127.1.{}.{}:{port}", self.learners / 256, self.learners % 256)
        });
        let (url, other) = (url.as_str(), other.as_str());
        let add = |urls: &[&str], is_learner| {
            let peer_urls = urls.iter().map(|url| (*url).to_owned()).collect();
            Request::MemberAdd(pb::MemberAddRequest { peer_urls, is_learner })
        };
        let promote = |id| Request::MemberPromote(pb::MemberPromoteRequest { id });
        let remove = |id| Request::MemberRemove(pb::MemberRemoveRequest { id });
        let list = |linearizable| Request::MemberList(pb::MemberListRequest { linearizable });
        // Addresses that are none end the real etcd with a panic.
        let update = |id, urls: &[&str]| {
            let peer_urls = urls.iter().map(|url| (*url).to_owned()).collect();
            Request::MemberUpdate(pb::MemberUpdateRequest { id, peer_urls })
        };
        let mut between = vec![
            add(&[other], true),
            add(&[url], true),
            // One that votes would leave the other without a majority: only what is refused is tried.
            add(&[url], false),
            add(&["http://nowhere"], false),
            add(&[], self.rng.chance(50)),
            promote(ADDED),
            promote(1),
            update(ADDED, &[other]),
            update(ADDED, &[url, other]),
            update(1, &[other]),
            remove(1),
            list(true),
            list(false),
            Request::MoveLeader(pb::MoveLeaderRequest { target_id: ADDED }),
            Request::Status(pb::StatusRequest {}),
            Request::HashKv(pb::HashKvRequest { revision: 0 }),
        ];
        let mut requests = vec![add(&[url], true), list(true)];
        for _ in 0..self.rng.below(8) {
            let at = self.rng.below(between.len());
            let request = between.swap_remove(at);
            // As long as it has the address that others are refused for.
            if matches!(request, Request::MemberUpdate(_)) {
                between
                    .retain(|other| !matches!(other, Request::MemberAdd(add) if !add.is_learner));
            }
            requests.push(request);
        }
        requests.extend([remove(ADDED), remove(ADDED), promote(ADDED), list(true)]);
        requests.into_iter().map(|request| Step::Calls(vec![request])).collect()
    }

    /// Locks and elections, with leases of their own, which take their keys along. A lease that the server makes
    /// has an id that differs, and would end within the run.
    fn recipe(&mut self) -> Vec<Step> {
        let one = |request| Step::Calls(vec![request]);
        let lease = |number: usize| RECIPE_LEASES[number];
        let [name, below, key] = RECIPES[self.rng.below(RECIPES.len())];
        let bytes = |text: &'static str| Bytes::from_static(text.as_bytes());
        let lock =
            |number| Request::Lock(lock::LockRequest { name: bytes(name), lease: lease(number) });
        let unlock = || Request::Unlock(lock::UnlockRequest { key: bytes(key) });
        let campaign = |number, value| {
            let (name, value) = (bytes(name), bytes(value));
            Request::Campaign(election::CampaignRequest { name, lease: lease(number), value })
        };
        let asked = || election::LeaderRequest { name: bytes(name) };
        let leader =
            |rev| election::LeaderKey { name: bytes(name), key: bytes(key), rev, lease: lease(0) };
        let revoke = |number| Request::LeaseRevoke(pb::LeaseRevokeRequest { id: lease(number) });
        let grant = |number| {
            one(Request::LeaseGrant(pb::LeaseGrantRequest { id: lease(number), ttl: TTLS[0] }))
        };
        let mut steps = vec![grant(0), grant(1)];
        let is_election = self.rng.chance(60);
        let mut first = if is_election { campaign(0, "one") } else { lock(0) };
        if self.rng.chance(10) {
            // A lease that is not there.
            match &mut first {
                Request::Lock(lock) => lock.lease = 77,
                Request::Campaign(campaign) => campaign.lease = 77,
                _ => {}
            }
        }
        let has_begun = !matches!(
            &first,
            Request::Lock(lock::LockRequest { lease: 77, .. })
                | Request::Campaign(election::CampaignRequest { lease: 77, .. })
        );
        steps.push(one(first));
        for _ in 0..self.rng.below(4) {
            steps.push(one(match self.rng.below(8) {
                0 if is_election => campaign(0, "two"),
                0 => lock(0),
                1 => Request::Leader(asked()),
                // Now and then of another revision than the key has.
                2 => Request::Proclaim(election::ProclaimRequest {
                    leader: Some(leader(self.rng.pick(&[ELECTED, ELECTED, 1]))),
                    value: bytes("three"),
                }),
                3 => Request::Proclaim(election::ProclaimRequest::default()),
                4 => Request::Resign(election::ResignRequest { leader: Some(leader(1)) }),
                5 => Request::Resign(election::ResignRequest::default()),
                6 => Request::Unlock(lock::UnlockRequest { key: bytes("nobody's") }),
                _ => Request::Leader(election::LeaderRequest::default()),
            }));
        }
        if has_begun {
            let free = match self.rng.below(4) {
                0 => unlock(),
                1 => revoke(0),
                2 if is_election => {
                    Request::Resign(election::ResignRequest { leader: Some(leader(ELECTED)) })
                }
                _ => Request::DeleteRange(pb::DeleteRangeRequest {
                    key: bytes(key),
                    ..Default::default()
                }),
            };
            let next = if is_election { campaign(1, "four") } else { lock(1) };
            if is_election && self.rng.chance(50) {
                let then = vec![vec![campaign(0, "five")], vec![free, next]];
                steps.push(Step::Observing { request: Request::Observe(asked()), then });
            } else {
                steps.push(Step::Waiting {
                    request: next,
                    prefix: below,
                    keys: 2,
                    then: vec![free],
                });
            }
        }
        steps.push(one(Request::Leader(asked())));
        steps.extend([one(revoke(0)), one(revoke(1))]);
        if self.rng.chance(20) {
            let request = Request::HealthWatch(HealthCheckRequest { service: self.service() });
            steps.push(Step::Observing { request, then: Vec::new() });
        }
        steps
    }

    fn watch(&mut self, world: &World) -> Vec<Step> {
        let stream = self.rng.below(STREAMS);
        match self.rng.weighted(&[60, 25, 12, 8]) {
            0 => {
                let key = self.key();
                let range_end = self.range_end(&key);
                let filters = match self.rng.below(10) {
                    0 => vec![0],
                    1 => vec![1],
                    2 => vec![0, 1],
                    3 => vec![self.rng.pick(&[2, -1])],
                    _ => vec![],
                };
                let request = pb::WatchCreateRequest {
                    key,
                    range_end,
                    start_revision: if self.rng.chance(50) { 0 } else { self.revision(world) },
                    progress_notify: self.rng.chance(20),
                    filters,
                    prev_kv: self.rng.chance(40),
                    watch_id: self.rng.pick(&[0, 0, 0, 0, 1, 2, 5, 9, -7, i64::MAX]),
                    fragment: self.rng.chance(20),
                };
                vec![Step::WatchCreate { stream, request }]
            }
            1 => vec![
                Step::Drain,
                Step::WatchCancel {
                    stream,
                    watch_id: self.rng.pick(&[0, 1, 2, 3, 4, 5, 9, -7, i64::MAX]),
                },
            ],
            2 => vec![Step::Drain, Step::WatchProgress { stream }],
            _ => vec![Step::Drain, Step::WatchReopen { stream }],
        }
    }
}

trait AtMost {
    fn at_most(self, length: usize) -> Self;
}

impl AtMost for Bytes {
    fn at_most(mut self, length: usize) -> Bytes {
        self.truncate(length);
        self
    }
}

/// Whether there is a put, at any depth.
/// The greatest key that a transaction puts.
fn last_put(txn: &pb::TxnRequest) -> Option<Bytes> {
    use pb::request_op::Request as Op;
    let ops = txn.success.iter().chain(&txn.failure).filter_map(|op| op.request.as_ref());
    let puts = ops.filter_map(|op| match op {
        Op::RequestPut(put) => Some(put.key.clone()),
        Op::RequestTxn(inner) => last_put(inner),
        _ => None,
    });
    puts.max()
}

/// A real etcd does not see that a deletion without an end overlaps a put of the same transaction. If the key that is
/// put is one that has just been deleted, etcd goes wrong: it ends with a panic, again at each start, where the put is
/// to keep value or lease; and a compaction at this revision loses the key, and ends it when the key is read.
fn spare_puts(txn: &mut pb::TxnRequest, last: &Bytes) {
    use pb::request_op::Request as Op;
    let ops = txn.success.iter_mut().chain(&mut txn.failure);
    for op in ops.filter_map(|op| op.request.as_mut()) {
        match op {
            Op::RequestDeleteRange(delete) if delete.range_end == "\0" && delete.key <= last => {
                delete.range_end = Bytes::new();
            }
            Op::RequestTxn(inner) => spare_puts(inner, last),
            _ => {}
        }
    }
}
