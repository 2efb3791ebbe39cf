//! A client: one request at a time, and watches beside it. Requests are made from what the
//! protocol allows, not from what the server is known to do.

use std::collections::BTreeSet;

use bytes::Bytes;
use prost::Message;
use ringd::apply::envelope::Kind;
use ringd::proto::etcdserverpb::alarm_request::AlarmAction;
use ringd::proto::etcdserverpb::compare::TargetUnion;
use ringd::proto::etcdserverpb::request_op::Request;
use ringd::proto::etcdserverpb::{
    AlarmRequest, CompactionRequest, Compare, DeleteRangeRequest, LeaseGrantRequest,
    LeaseRevokeRequest, PutRequest, RangeRequest, RequestOp, TxnRequest,
};

use crate::front::{Ask, Conn};
use crate::history::{OpId, Read};
use crate::odds::Odds;
use crate::random::Random;
use crate::truth::Truth;
use crate::watching::{Wanted, Watch};

/// A request without an answer.
pub struct InFlight {
    pub op: OpId,
    pub sent_us: u64,
    /// The lease that is granted or renewed: id, and seconds if granted.
    pub grants: Option<(i64, i64)>,
    pub renews: Option<i64>,
    pub revokes: Option<i64>,
}

/// A watch on the present connection.
pub struct Watching {
    pub id: i64,
    pub watch: Watch,
    /// The revision that was asked for on this connection.
    pub start: i64,
    pub is_created: bool,
    pub is_wanted: bool,
}

pub struct Client {
    pub number: u64,
    pub random: Random,
    /// Connection, and the member at its other end.
    pub conn: Option<(Conn, u64)>,
    pub in_flight: Option<InFlight>,
    pub watches: Vec<Watching>,
    next_watch: i64,
    leases: Vec<i64>,
    ops: u64,
    is_slow: bool,
    /// It only wants to know whether the cluster takes writes, and soon.
    is_probe: bool,
    pub think_us: u64,
    pub patience_us: u64,
}

/// How long a client that probes thinks and waits: both far below an election timeout.
const PROBE_THINK_US: u64 = 50_000;
const PROBE_PATIENCE_US: u64 = 500_000;

/// Watches of one client at the same time.
const WATCHES_MAX: usize = 3;

impl Client {
    pub fn new(number: u64, random: Random, odds: &Odds) -> Client {
        let mut client = Client {
            number,
            random,
            conn: None,
            in_flight: None,
            watches: Vec::new(),
            next_watch: 1,
            leases: Vec::new(),
            ops: 0,
            is_slow: false,
            is_probe: false,
            think_us: odds.think_us,
            patience_us: odds.patience_us,
        };
        client.is_slow = client.random.permille(odds.slow_watchers);
        client
    }

    /// One that does nothing but put, one put after the other.
    pub fn probe(number: u64, random: Random, odds: &Odds) -> Client {
        Client {
            is_probe: true,
            think_us: PROBE_THINK_US,
            patience_us: PROBE_PATIENCE_US,
            ..Client::new(number, random, odds)
        }
    }

    /// How long events take to this client beyond the network.
    pub fn reading_us(&mut self) -> u64 {
        if self.is_slow { self.random.around(300_000) } else { 0 }
    }

    /// A new connection: the watches go on where they were.
    pub fn resume(&mut self) -> Vec<Ask> {
        self.watches.retain(|watching| watching.is_wanted);
        let mut asks = Vec::new();
        for watching in &mut self.watches {
            watching.id = self.next_watch;
            watching.start = watching.watch.next;
            watching.is_created = false;
            self.next_watch += 1;
            let wanted = watching.watch.wanted.clone();
            asks.push(Ask::Watch { id: watching.id, wanted, start: watching.start });
        }
        asks
    }

    pub fn watching(&mut self, id: i64) -> Option<&mut Watching> {
        self.watches.iter_mut().find(|watching| watching.id == id)
    }

    /// The next thing to ask for.
    pub fn next(&mut self, odds: &Odds, truth: &Truth, now_us: u64) -> Ask {
        let no_space = !truth.model.alarms.is_empty();
        if no_space && (self.is_probe || self.random.one_in(4)) {
            return self.disarm(truth, now_us);
        }
        if self.is_probe {
            let put = |client: &mut Client| {
                let (key, value) = (client.key(odds), client.value(odds));
                PutRequest { key, value, ..PutRequest::default() }.encode_to_vec()
            };
            return self.propose(Kind::Put, put, now_us);
        }
        match self.random.weighted(&odds.requests) {
            0 => self.propose(Kind::Put, |client| client.put(odds, truth).encode_to_vec(), now_us),
            1 => {
                let delete = |client: &mut Client| client.delete(odds).encode_to_vec();
                self.propose(Kind::DeleteRange, delete, now_us)
            }
            2 => self.transact(odds, truth, now_us),
            3 => self.range(odds, truth, now_us),
            4 => {
                let current = truth.model.current as u64;
                let compact = |client: &mut Client| {
                    let revision = match client.random.below(4) {
                        0 => client.random.below(current + 2) as i64 - 1,
                        _ => current.saturating_sub(client.random.below(30)) as i64,
                    };
                    CompactionRequest { revision, physical: false }.encode_to_vec()
                };
                self.propose(Kind::Compaction, compact, now_us)
            }
            5 => self.grant(truth, now_us),
            6 => self.revoke(now_us),
            7 => self.renew(now_us),
            8 => self.watch(odds, truth),
            _ => Ask::Progress,
        }
    }

    fn op(&mut self, now_us: u64) -> OpId {
        self.ops += 1;
        let op = OpId(self.number << 32 | self.ops);
        let (grants, renews, revokes) = (None, None, None);
        self.in_flight = Some(InFlight { op, sent_us: now_us, grants, renews, revokes });
        op
    }

    fn propose(
        &mut self,
        kind: Kind,
        request: impl FnOnce(&mut Client) -> Vec<u8>,
        now_us: u64,
    ) -> Ask {
        let op = self.op(now_us);
        Ask::Propose(op, kind, request(self))
    }

    fn key(&mut self, odds: &Odds) -> Bytes {
        // Some of the keys are prefixes of others.
        match self.random.below(odds.keys) {
            0 => Bytes::from_static(b"k"),
            1 => Bytes::from_static(b"k\0"),
            number => format!("k{number}").into(),
        }
    }

    fn range_end(&mut self, odds: &Odds) -> Bytes {
        match self.random.below(4) {
            0 | 1 => Bytes::new(),
            2 => Bytes::from_static(b"\0"),
            _ => {
                let mut end = self.key(odds).to_vec();
                end.push(b'~');
                end.into()
            }
        }
    }

    fn lease(&mut self) -> i64 {
        match self.random.below(4) {
            0 if !self.leases.is_empty() => self.leases[self.random.index(self.leases.len())],
            1 if self.random.one_in(10) => 0x7777,
            _ => 0,
        }
    }

    fn value(&mut self, odds: &Odds) -> Bytes {
        self.ops += 1;
        let mut value = format!("{}-{}", self.number, self.ops).into_bytes();
        if self.random.permille(odds.long_values) {
            let long = self.random.pick(&[100, 2_500, 9_000, 40_000]);
            value.resize(long, b'.');
        }
        value.into()
    }

    fn put(&mut self, odds: &Odds, _: &Truth) -> PutRequest {
        let ignore_value = self.random.one_in(12);
        let ignore_lease = self.random.one_in(12);
        PutRequest {
            key: self.key(odds),
            value: if ignore_value { Bytes::new() } else { self.value(odds) },
            lease: if ignore_lease { 0 } else { self.lease() },
            prev_kv: self.random.one_in(3),
            ignore_value,
            ignore_lease,
        }
    }

    fn delete(&mut self, odds: &Odds) -> DeleteRangeRequest {
        let range_end = if self.random.one_in(3) { self.range_end(odds) } else { Bytes::new() };
        DeleteRangeRequest { key: self.key(odds), range_end, prev_kv: self.random.one_in(3) }
    }

    fn revision(&mut self, truth: &Truth) -> i64 {
        let current = truth.model.current;
        match self.random.below(6) {
            0 => self.random.below(current as u64 + 2) as i64,
            1 => (current - self.random.below(10) as i64).max(0),
            _ => 0,
        }
    }

    fn bound(&mut self, truth: &Truth) -> i64 {
        match self.random.below(12) {
            0 => self.random.below(truth.model.current as u64 + 1) as i64,
            _ => 0,
        }
    }

    fn range_request(&mut self, odds: &Odds, truth: &Truth) -> RangeRequest {
        RangeRequest {
            key: self.key(odds),
            range_end: self.range_end(odds),
            limit: self.random.pick(&[0, 0, 0, 1, 2, 10]),
            revision: self.revision(truth),
            sort_order: self.random.pick(&[0, 0, 1, 2]),
            sort_target: self.random.pick(&[0, 0, 0, 1, 2, 3, 4]),
            serializable: self.random.one_in(4),
            keys_only: self.random.one_in(6),
            count_only: self.random.one_in(8),
            min_mod_revision: self.bound(truth),
            max_mod_revision: self.bound(truth),
            min_create_revision: self.bound(truth),
            max_create_revision: self.bound(truth),
        }
    }

    fn range(&mut self, odds: &Odds, truth: &Truth, now_us: u64) -> Ask {
        let request = self.range_request(odds, truth);
        let serializable = request.serializable;
        Ask::Read(self.op(now_us), Read::Range(request), serializable)
    }

    fn compare(&mut self, odds: &Odds, truth: &Truth) -> Compare {
        let key = self.key(odds);
        let seen = truth.model.current - self.random.pick(&[0, 0, 0, 1, 3]);
        let known = truth.model.key_at(&key, seen);
        let number = |of: fn(&ringd::proto::mvccpb::KeyValue) -> i64| known.map_or(0, of);
        let target = self.random.below(5) as i32;
        let target_union = match target {
            0 => TargetUnion::Version(number(|kv| kv.version)),
            1 => TargetUnion::CreateRevision(number(|kv| kv.create_revision)),
            2 => TargetUnion::ModRevision(number(|kv| kv.mod_revision)),
            3 => TargetUnion::Value(known.map(|kv| kv.value.clone()).unwrap_or_default()),
            _ => TargetUnion::Lease(number(|kv| kv.lease)),
        };
        Compare {
            result: self.random.pick(&[0, 0, 0, 1, 2, 3]),
            target,
            key,
            target_union: Some(target_union),
            range_end: if self.random.one_in(6) { self.range_end(odds) } else { Bytes::new() },
        }
    }

    /// A guarded update more often than not. No key is put twice, or put and deleted.
    fn transact(&mut self, odds: &Odds, truth: &Truth, now_us: u64) -> Ask {
        let request = self.txn(odds, truth, 1, &mut BTreeSet::new());
        if ringd::mvcc::is_read_only(&request) {
            let serializable = ringd::mvcc::is_serializable(&request);
            return Ask::Read(self.op(now_us), Read::Txn(request), serializable);
        }
        self.propose(Kind::Txn, |_| request.encode_to_vec(), now_us)
    }

    fn txn(
        &mut self,
        odds: &Odds,
        truth: &Truth,
        depth: u32,
        changed: &mut BTreeSet<Bytes>,
    ) -> TxnRequest {
        let compare = (0..self.random.below(3)).map(|_| self.compare(odds, truth)).collect();
        let mut branch = || {
            let mut ops = Vec::new();
            for _ in 0..self.random.below(4) {
                let request = match self.random.below(8) {
                    0 | 1 => Request::RequestRange(self.range_request(odds, truth)),
                    2 => {
                        let delete =
                            DeleteRangeRequest { range_end: Bytes::new(), ..self.delete(odds) };
                        if !changed.insert(delete.key.clone()) {
                            continue;
                        }
                        Request::RequestDeleteRange(delete)
                    }
                    3 if depth > 0 => {
                        Request::RequestTxn(self.txn(odds, truth, depth - 1, changed))
                    }
                    _ => {
                        let put = self.put(odds, truth);
                        if !changed.insert(put.key.clone()) {
                            continue;
                        }
                        Request::RequestPut(put)
                    }
                };
                ops.push(RequestOp { request: Some(request) });
            }
            ops
        };
        let (success, failure) = (branch(), branch());
        TxnRequest { compare, success, failure }
    }

    fn grant(&mut self, truth: &Truth, now_us: u64) -> Ask {
        let ttl = self.random.between(1, 6) as i64;
        let fresh = (self.number << 20 | self.ops) as i64;
        let taken = truth.model.leases.keys().next().copied();
        let id = taken.filter(|_| self.random.one_in(10)).unwrap_or(fresh);
        let ask = self.propose(
            Kind::LeaseGrant,
            |_| LeaseGrantRequest { id, ttl }.encode_to_vec(),
            now_us,
        );
        if let Some(in_flight) = &mut self.in_flight {
            in_flight.grants = Some((id, ttl));
        }
        if self.leases.len() == 4 {
            self.leases.remove(0);
        }
        self.leases.push(id);
        ask
    }

    fn revoke(&mut self, now_us: u64) -> Ask {
        let id = self.leases.pop().unwrap_or(0x7777);
        let request = LeaseRevokeRequest { id }.encode_to_vec();
        let ask = self.propose(Kind::LeaseRevoke, |_| request, now_us);
        if let Some(in_flight) = &mut self.in_flight {
            in_flight.revokes = Some(id);
        }
        ask
    }

    fn renew(&mut self, now_us: u64) -> Ask {
        let id = match self.leases.len() {
            0 => 0x7777,
            count => self.leases[self.random.index(count)],
        };
        let op = self.op(now_us);
        if let Some(in_flight) = &mut self.in_flight {
            in_flight.renews = Some(id);
        }
        Ask::Renew(op, id)
    }

    fn disarm(&mut self, truth: &Truth, now_us: u64) -> Ask {
        let (member_id, alarm) = *truth.model.alarms.first().expect("an alarm");
        let action = AlarmAction::Deactivate as i32;
        let request = AlarmRequest { action, member_id, alarm };
        self.propose(Kind::Alarm, |_| request.encode_to_vec(), now_us)
    }

    fn watch(&mut self, odds: &Odds, truth: &Truth) -> Ask {
        if self.watches.len() >= WATCHES_MAX {
            let at = self.random.index(self.watches.len());
            let watching = &mut self.watches[at];
            watching.is_wanted = false;
            return Ask::Unwatch { id: watching.id };
        }
        let (key, range_end) = match self.random.below(3) {
            0 => (self.key(odds), Bytes::new()),
            1 => (Bytes::from_static(b"k"), Bytes::from_static(b"l")),
            _ => (Bytes::from_static(b"\0"), Bytes::from_static(b"\0")),
        };
        let wanted = Wanted {
            key,
            range_end,
            no_put: self.random.one_in(6),
            no_delete: self.random.one_in(6),
            prev_kv: self.random.one_in(2),
        };
        let current = truth.model.current;
        let start = match self.random.below(5) {
            0 | 1 => 0,
            2 => current + self.random.below(5) as i64,
            3 => truth.model.compact.max(1) + self.random.pick(&[0, 0, 1, 2]),
            _ => 1 + self.random.below(current as u64) as i64,
        };
        let id = self.next_watch;
        self.next_watch += 1;
        let watch = Watch::new(wanted.clone(), start);
        self.watches.push(Watching { id, watch, start, is_created: false, is_wanted: true });
        Ask::Watch { id, wanted, start }
    }
}
