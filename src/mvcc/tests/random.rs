//! Random histories: everything the layer can be asked, compared with the model.

use std::collections::BTreeSet;

use bytes::Bytes;
use prost::Message;

use super::fixture::{Bed, header, op_delete, op_put, op_range, op_txn, range_bytes, with_header};
use super::model::{Change, Model, Refused, in_interval};
use crate::mvcc::{
    Chunk, HashKv, Interval, LargeRange, MvccError, Progress, RangeOutcome, RangeStream, Reader,
    Revision, is_read_only,
};
use crate::proto::etcdserverpb::compare::TargetUnion;
use crate::proto::etcdserverpb::{
    Compare, DeleteRangeRequest, PutRequest, RangeRequest, RangeResponse, RequestOp, TxnRequest,
};
use crate::proto::mvccpb::{self, event::EventType};

/// SplitMix64 (Steele et al. 2014): a sequence for each seed, the same on every machine.
struct Random {
    state: u64,
    /// So many bytes are the same in nearly all keys.
    alike: usize,
}

impl Random {
    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    fn pick<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len() as u64) as usize]
    }

    /// Few keys that differ in what an encoding may stumble over.
    fn key(&mut self) -> Bytes {
        let len = 1 + self.below(3);
        let alike = if self.alike > 0 && self.one_in(8) { 0 } else { self.alike };
        let beginning = std::iter::repeat_n(b'p', alike);
        beginning.chain((0..len).map(|_| self.pick(&[0x00, 0x01, b'a', 0xff]))).collect()
    }

    fn range_end(&mut self) -> Bytes {
        match self.below(4) {
            0 => Bytes::new(),
            1 => Bytes::from_static(b"\0"),
            _ => self.key(),
        }
    }

    fn value(&mut self) -> Bytes {
        let len = self.pick(&[0, 1, 1, 2, 5, 130, 3000]);
        Bytes::from(vec![b'0' + self.below(4) as u8; len])
    }

    fn lease(&mut self) -> i64 {
        self.pick(&[0, 0, 0, 1, 2, -3])
    }

    fn revision(&mut self, model: &Model) -> i64 {
        match self.below(8) {
            0..3 => 0,
            3 => self.pick(&[-5, -1, model.current, model.current + 1, model.compact]),
            _ => self.below(model.current as u64 + 1) as i64,
        }
    }

    fn bound(&mut self, model: &Model) -> i64 {
        if self.one_in(4) { self.below(model.current as u64 + 2) as i64 - 1 } else { 0 }
    }

    fn put(&mut self) -> PutRequest {
        let ignore_value = self.one_in(8);
        let ignore_lease = self.one_in(8);
        PutRequest {
            key: self.key(),
            value: if ignore_value { Bytes::new() } else { self.value() },
            lease: if ignore_lease { 0 } else { self.lease() },
            prev_kv: self.one_in(3),
            ignore_value,
            ignore_lease,
        }
    }

    fn delete(&mut self) -> DeleteRangeRequest {
        let range_end = if self.one_in(3) { self.range_end() } else { Bytes::new() };
        DeleteRangeRequest { key: self.key(), range_end, prev_kv: self.one_in(3) }
    }

    fn range(&mut self, model: &Model) -> RangeRequest {
        RangeRequest {
            key: self.key(),
            range_end: self.range_end(),
            limit: self.pick(&[0, 0, 1, 2, 3, 10, i64::MAX, -1]),
            revision: self.revision(model),
            sort_order: self.pick(&[0, 0, 1, 2]),
            sort_target: self.pick(&[0, 0, 0, 1, 2, 3, 4]),
            serializable: self.one_in(2),
            keys_only: self.one_in(4),
            count_only: self.one_in(8),
            min_mod_revision: self.bound(model),
            max_mod_revision: self.bound(model),
            min_create_revision: self.bound(model),
            max_create_revision: self.bound(model),
        }
    }

    fn compare(&mut self, model: &Model) -> Compare {
        let number = self.pick(&[0, 1, 2, 3, model.current, model.current - 1]);
        let target = self.below(5) as i32;
        let union = if self.one_in(10) { self.below(5) as i32 } else { target };
        let target_union = match union {
            0 => TargetUnion::Version(number),
            1 => TargetUnion::CreateRevision(number),
            2 => TargetUnion::ModRevision(number),
            3 => TargetUnion::Value(self.value()),
            _ => TargetUnion::Lease(number),
        };
        Compare {
            result: self.below(4) as i32,
            target,
            key: self.key(),
            target_union: (!self.one_in(10)).then_some(target_union),
            range_end: if self.one_in(3) { self.range_end() } else { Bytes::new() },
        }
    }

    /// `puts` has the keys put so far: a validated transaction puts none of them twice. It may
    /// well delete what it puts, in either order.
    fn txn(&mut self, model: &Model, depth: u32, puts: &mut BTreeSet<Bytes>) -> TxnRequest {
        let compare = (0..self.below(3)).map(|_| self.compare(model)).collect();
        let mut branch = || {
            let mut ops: Vec<RequestOp> = Vec::new();
            for _ in 0..self.below(4) {
                match self.below(8) {
                    0..3 => ops.push(op_range(self.range(model))),
                    3..5 => ops.push(op_delete(self.delete())),
                    5 if depth > 0 => ops.push(op_txn(self.txn(model, depth - 1, puts))),
                    _ => {
                        let put = self.put();
                        if puts.insert(put.key.clone()) {
                            ops.push(op_put(put));
                        }
                    }
                }
            }
            ops
        };
        TxnRequest { compare, success: branch(), failure: branch() }
    }
}

fn refused(error: MvccError) -> Refused {
    match error {
        MvccError::Compacted => Refused::Compacted,
        MvccError::FutureRevision => Refused::FutureRevision,
        MvccError::LeaseNotFound => Refused::LeaseNotFound,
        MvccError::KeyNotFound => Refused::KeyNotFound,
        other => panic!("{other}"),
    }
}

/// A model and two members of a cluster: one that answers, one that only follows and that removes
/// its garbage at another pace.
struct Trial {
    random: Random,
    model: Model,
    /// What the model was at the last checkpoint.
    durable: Model,
    answering: Bed,
    following: Bed,
}

/// Whether the store is still the one it was.
#[derive(PartialEq)]
enum Wrote {
    On,
    Anew,
}

const LEASES: [i64; 3] = [1, 2, -3];

impl Trial {
    fn new(seed: u64, alike: usize) -> Trial {
        Trial {
            random: Random { state: seed, alike },
            model: Model::new(),
            durable: Model::new(),
            answering: Bed::new(),
            following: Bed::new(),
        }
    }

    fn write(&mut self) -> Wrote {
        let mut wrote = Wrote::On;
        match self.random.below(20) {
            0..8 => {
                let request = self.random.put();
                let reply = self.answering.put_request(&request).map(|reply| with_header(&reply));
                self.following.put_request(&request).ok();
                let expected = self.model.put(&request).map(|response| response.encode_to_vec());
                assert_eq!(reply.map_err(refused), expected, "{request:?}");
            }
            8..11 => {
                let request = self.random.delete();
                let reply = self.answering.delete_request(&request).unwrap();
                self.following.delete_request(&request).unwrap();
                let expected = self.model.delete_range(&request).encode_to_vec();
                assert_eq!(with_header(&reply), expected, "{request:?}");
            }
            11..16 => {
                let request = self.random.txn(&self.model, 2, &mut BTreeSet::new());
                let lease_exists = |lease| lease != 2;
                if is_read_only(&request) {
                    let reply = self.answering.reader().read_txn(&request);
                    let reply = reply.map(|reply| with_header(&reply)).map_err(refused);
                    let expected = self.model.clone().txn(&request, &lease_exists);
                    let expected = expected.map(|response| response.encode_to_vec());
                    assert_eq!(reply, expected, "{request:?}");
                }
                let Bed { store, mvcc, .. } = &mut self.answering;
                let reply = mvcc.txn(store, &request, &lease_exists);
                let Bed { store, mvcc, .. } = &mut self.following;
                mvcc.txn_unanswered(store, &request, &lease_exists).ok();
                let reply = reply.map(|reply| with_header(&reply)).map_err(refused);
                let expected = self.model.txn(&request, &lease_exists);
                let expected = expected.map(|response| response.encode_to_vec());
                assert_eq!(reply, expected, "{request:?}");
            }
            16 => {
                let lease = self.random.pick(&LEASES);
                let expected = self.model.delete_lease_keys(lease);
                for bed in [&mut self.answering, &mut self.following] {
                    let deleted = bed.mvcc.delete_lease_keys(&mut bed.store, lease).unwrap();
                    assert_eq!(deleted, expected);
                }
            }
            17 => {
                let newest = self.model.current + 1;
                let least = self.model.compact - 1;
                let revision = least + self.random.below((newest - least) as u64 + 1) as i64;
                let result = self.answering.compact(revision).map_err(refused);
                assert_eq!(self.following.compact(revision).map_err(refused), result);
                assert_eq!(result, self.model.compact(revision), "compact {revision}");
            }
            18 => {
                let bed = &mut self.answering;
                let budget = self.random.below(20) as usize;
                bed.mvcc.compact_step(&mut bed.store, budget).unwrap();
            }
            _ if self.random.one_in(4) => {
                self.answering.crash();
                self.following.crash();
                self.model = self.durable.clone();
                wrote = Wrote::Anew;
            }
            _ => {
                self.answering.reopen();
                self.following.checkpoint();
                self.durable = self.model.clone();
                wrote = Wrote::Anew;
            }
        }
        for bed in [&self.answering, &self.following] {
            assert_eq!(bed.mvcc.current_revision(), self.model.current);
            assert_eq!(bed.mvcc.compact_revision(), self.model.compact);
        }
        wrote
    }

    fn finish_compactions(&mut self) {
        for bed in [&mut self.answering, &mut self.following] {
            while bed.mvcc.compact_step(&mut bed.store, 7).unwrap() == Progress::More {}
        }
    }

    fn read(&mut self) {
        for bed in [&self.answering, &self.following] {
            let reader = bed.reader();
            compare_reads(&mut self.random, &reader, &self.model);
            compare_hash(&mut self.random, &reader, &self.model);
            for lease in LEASES {
                assert_eq!(bed.keys_of_lease(lease), self.model.keys_of_lease(lease));
            }
        }
    }

    fn compare_history(&self) {
        let expected = self.model.history();
        for bed in [&self.answering, &self.following] {
            let mut events = Vec::new();
            let reader = bed.reader();
            let mut changes = reader.changes(Revision::default());
            let mut seen = Vec::new();
            while let Some(change) = changes.next().unwrap() {
                let kv = mvccpb::KeyValue::decode(change.kv).unwrap();
                let simple = Change { revision: change.revision, delete: change.delete, kv };
                if change.revision.main >= self.model.compact {
                    let prev_kv = reader.prev_kv(&change).unwrap();
                    let decoded = prev_kv.map(|kv| mvccpb::KeyValue::decode(kv).unwrap());
                    assert_eq!(decoded, self.model.prev_kv(&simple), "{simple:?}");
                    change.put_event(&mut events, 11, prev_kv);
                }
                seen.push(simple);
            }
            assert_eq!(seen, expected);
            let expected_events: Vec<u8> = expected
                .iter()
                .filter(|change| change.revision.main >= self.model.compact)
                .flat_map(|change| self.event(change))
                .collect();
            assert_eq!(events, expected_events);
        }
    }

    fn event(&self, change: &Change) -> Vec<u8> {
        let mut kv = change.kv.clone();
        kv.mod_revision = change.revision.main;
        let r#type = if change.delete { EventType::Delete } else { EventType::Put } as i32;
        let event = mvccpb::Event { r#type, kv: Some(kv), prev_kv: self.model.prev_kv(change) };
        let events = vec![event];
        let response = crate::proto::etcdserverpb::WatchResponse { events, ..Default::default() };
        response.encode_to_vec()
    }
}

fn compare_reads(random: &mut Random, reader: &Reader<'_>, model: &Model) {
    for _ in 0..8 {
        let request = random.range(model);
        let bytes = range_bytes(reader, &request).map_err(refused);
        let expected = model.range(&request).map(|response| response.encode_to_vec());
        assert_eq!(bytes, expected, "{request:?}");
        let in_slices = large_range_bytes(random, reader, &request).map_err(refused);
        assert_eq!(in_slices, expected, "in slices: {request:?}");
        compare_bounded(random, reader, &request);

        let interval = Interval::new(&request.key, &request.range_end);
        let count = reader.count(interval, request.revision).map_err(refused);
        let whole = RangeRequest { count_only: true, ..request.clone() };
        assert_eq!(count.map(|count| count as i64), model.range(&whole).map(|all| all.count));

        let plain = RangeRequest {
            sort_order: 0,
            sort_target: 0,
            min_mod_revision: 0,
            max_mod_revision: 0,
            min_create_revision: 0,
            max_create_revision: 0,
            ..request
        };
        let expected = model.stream(&plain);
        let streamed = stream(random, reader, plain.clone()).map_err(refused);
        assert_eq!(streamed, expected, "{plain:?}");
    }
}

/// The answer made in two walks, each in slices of random size.
fn large_range_bytes(
    random: &mut Random,
    reader: &Reader<'_>,
    request: &RangeRequest,
) -> Result<Vec<u8>, MvccError> {
    let mut range = LargeRange::new(request, reader)?;
    let keys_max = random.pick(&[1, 2, 7, 1_000]);
    let measured = loop {
        if let Some(measured) = range.measure(reader, keys_max)? {
            break measured;
        }
    };
    let mut kvs = Vec::new();
    while !range.write(reader, random.pick(&[0, 1, 60, 10_000]), &mut kvs)? {}
    assert_eq!(kvs.len() as u64, measured.kvs_len, "{request:?}");
    let RangeOutcome { count, more, revision, written } = measured.outcome;
    let kvs = RangeResponse::decode(&kvs[..]).unwrap().kvs;
    assert_eq!(kvs.len() as i64, written);
    Ok(RangeResponse { header: header(revision), kvs, more, count }.encode_to_vec())
}

/// An answer under a bound is the whole answer or none.
fn compare_bounded(random: &mut Random, reader: &Reader<'_>, request: &RangeRequest) {
    let mut whole = b"before".to_vec();
    let Ok(outcome) = reader.range(request, &mut whole) else { return };
    let mut bounded = b"before".to_vec();
    let bytes_max = random.below(200) as usize;
    match reader.range_up_to(request, bytes_max, &mut bounded).unwrap() {
        Some(found) => assert_eq!((found, &bounded), (outcome, &whole), "{request:?}"),
        None => {
            assert!(whole.len() > bytes_max && bounded == b"before", "{request:?}");
        }
    }
    if outcome.more {
        compare_next_page(reader, request, &whole[b"before".len()..]);
    }
}

/// The page behind a page says the same whether or not it is known what that one has left.
fn compare_next_page(reader: &Reader<'_>, request: &RangeRequest, page: &[u8]) {
    let page = RangeResponse::decode(page).unwrap();
    let Some(last) = page.kvs.last() else { return };
    let revision = reader.resolve(request.revision).unwrap();
    let key = [&last.key[..], b"\0"].concat().into();
    let request = RangeRequest { key, revision, ..request.clone() };
    let forgetful = Reader { pages: None, ..*reader };
    let answer = |reader: &Reader<'_>| {
        let mut bytes = Vec::new();
        reader.range_up_to(&request, usize::MAX, &mut bytes).unwrap().map(|found| (found, bytes))
    };
    assert_eq!(answer(reader), answer(&forgetful), "{request:?}");
}

fn stream(
    random: &mut Random,
    reader: &Reader<'_>,
    request: RangeRequest,
) -> Result<RangeResponse, MvccError> {
    let mut stream = RangeStream::new(request, random.pick(&[1, 50, 10_000]));
    let mut bytes = Vec::new();
    loop {
        if let Chunk::Last { revision, more, count } = stream.next_chunk(reader, &mut bytes)? {
            let kvs = RangeResponse::decode(&bytes[..]).unwrap().kvs;
            return Ok(RangeResponse { header: header(revision), kvs, more, count });
        }
    }
}

fn compare_hash(random: &mut Random, reader: &Reader<'_>, model: &Model) {
    let revision = random.revision(model).max(0);
    let budget = 1 + random.below(9) as usize;
    let hash = HashKv::begin(reader, revision).and_then(|mut hash| {
        loop {
            if let Some(value) = hash.step(reader, budget)? {
                return Ok((value.hash, value.compact_revision));
            }
        }
    });
    assert_eq!(hash.map_err(refused), model.hash_kv(revision), "hash at {revision}");
}

fn run(seed: u64, alike: usize, steps: usize) {
    let mut trial = Trial::new(seed, alike);
    let mut pinned = None;
    for step in 0..steps {
        if trial.write() == Wrote::Anew {
            pinned = None;
        }
        if step % 3 == 0 {
            trial.read();
        }
        if trial.random.one_in(40) {
            trial.finish_compactions();
            trial.compare_history();
        }
        if trial.random.one_in(25) {
            let bed = &mut trial.answering;
            bed.store.commit(step as u64);
            pinned = Some((bed.store.snapshot(), bed.mvcc.revisions(), trial.model.clone()));
        }
        if let Some((snapshot, revisions, model)) = &pinned {
            let bed = &trial.answering;
            let reader = bed.mvcc.reader_at(bed.store.view_at(snapshot), *revisions);
            compare_reads(&mut trial.random, &reader, model);
        }
    }
    trial.finish_compactions();
    trial.compare_history();
    trial.answering.reopen();
    trial.compare_history();
    trial.read();
}

#[test]
fn random_histories_agree_with_the_model() {
    for seed in 0..60 {
        let outcome = std::panic::catch_unwind(|| run(seed, 0, 200));
        assert!(outcome.is_ok(), "seed {seed}: replay with run({seed}, 0, 200)");
    }
}

/// Keys about as long as nodes hold them, and longer ones: what the store has in their places shows in nothing.
#[test]
fn random_histories_of_long_keys_agree_with_the_model() {
    for seed in 0..12 {
        let alike = [3460, 3470, 3485, 5000][seed as usize % 4];
        let outcome = std::panic::catch_unwind(|| run(seed, alike, 150));
        assert!(outcome.is_ok(), "seed {seed}: replay with run({seed}, {alike}, 150)");
    }
}

#[test]
fn intervals_of_the_model_and_of_the_layer_are_the_same() {
    let mut random = Random { state: 7, alike: 0 };
    for _ in 0..2_000 {
        let (key, start, end) = (random.key(), random.key(), random.range_end());
        let interval = Interval::new(&start, &end);
        assert_eq!(interval.contains(&key), in_interval(&key, &start, &end));
    }
}
