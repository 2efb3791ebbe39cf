//! What the layer must do, said as simply as possible: a list of all changes that ever were, gone
//! through from its beginning for every question. Structured as etcd's code is, not as ours.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use prost::Message;

use super::fixture::header;
use crate::mvcc::Revision;
use crate::proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use crate::proto::etcdserverpb::range_request::{SortOrder, SortTarget};
use crate::proto::etcdserverpb::request_op::Request;
use crate::proto::etcdserverpb::response_op::Response;
use crate::proto::etcdserverpb::{
    Compare, DeleteRangeRequest, DeleteRangeResponse, PutRequest, PutResponse, RangeRequest,
    RangeResponse, ResponseOp, TxnRequest, TxnResponse,
};
use crate::proto::mvccpb::KeyValue;

#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    pub revision: Revision,
    pub delete: bool,
    /// Of a deletion, only the key.
    pub kv: KeyValue,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    Compacted,
    FutureRevision,
    LeaseNotFound,
    KeyNotFound,
}

#[derive(Clone)]
pub struct Model {
    pub changes: Vec<Change>,
    pub current: i64,
    pub compact: i64,
}

type Keys = BTreeMap<Bytes, KeyValue>;

pub fn in_interval(key: &[u8], start: &[u8], range_end: &[u8]) -> bool {
    match range_end {
        b"" => key == start,
        b"\0" => key >= start,
        end => key >= start && key < end,
    }
}

impl Model {
    pub fn new() -> Model {
        Model { changes: Vec::new(), current: 1, compact: -1 }
    }

    /// The keys that exist after all changes of the transactions up to `main`.
    pub fn keys_at(&self, main: i64) -> Keys {
        let mut keys = Keys::new();
        for change in self.changes.iter().filter(|change| change.revision.main <= main) {
            if change.delete {
                keys.remove(&change.kv.key);
            } else {
                keys.insert(change.kv.key.clone(), change.kv.clone());
            }
        }
        keys
    }

    fn resolve(&self, revision: i64, current: i64) -> Result<i64, Refused> {
        match revision {
            revision if revision > current => Err(Refused::FutureRevision),
            revision if revision <= 0 => Ok(current),
            revision if revision < self.compact => Err(Refused::Compacted),
            revision => Ok(revision),
        }
    }

    pub fn range(&self, request: &RangeRequest) -> Result<RangeResponse, Refused> {
        self.range_when(request, self.current)
    }

    fn range_when(&self, request: &RangeRequest, current: i64) -> Result<RangeResponse, Refused> {
        let at = self.resolve(request.revision, current)?;
        let all: Vec<KeyValue> = self
            .keys_at(at)
            .into_values()
            .filter(|kv| in_interval(&kv.key, &request.key, &request.range_end))
            .collect();
        let count = all.len() as i64;
        let mut response = RangeResponse { header: header(current), count, ..Default::default() };
        if request.count_only {
            return Ok(response);
        }
        let default_order = request.sort_order == SortOrder::None as i32
            || (request.sort_target == SortTarget::Key as i32
                && request.sort_order == SortOrder::Ascend as i32);
        let filters = [
            request.min_mod_revision,
            request.max_mod_revision,
            request.min_create_revision,
            request.max_create_revision,
        ];
        let mut kvs = all;
        if request.limit > 0 && default_order && filters == [0; 4] {
            kvs.truncate(request.limit as usize + 1);
        }
        kvs.retain(|kv| {
            let [min_mod, max_mod, min_create, max_create] = filters;
            !(max_mod != 0 && kv.mod_revision > max_mod
                || min_mod != 0 && kv.mod_revision < min_mod
                || max_create != 0 && kv.create_revision > max_create
                || min_create != 0 && kv.create_revision < min_create)
        });
        match SortTarget::try_from(request.sort_target).unwrap() {
            SortTarget::Key => {}
            SortTarget::Version => kvs.sort_by_key(|kv| kv.version),
            SortTarget::Create => kvs.sort_by_key(|kv| kv.create_revision),
            SortTarget::Mod => kvs.sort_by_key(|kv| kv.mod_revision),
            SortTarget::Value => kvs.sort_by_key(|kv| kv.value.clone()),
        }
        if request.sort_order == SortOrder::Descend as i32 {
            // Equal ones keep the order of keys.
            kvs.reverse();
            match SortTarget::try_from(request.sort_target).unwrap() {
                SortTarget::Key => {}
                SortTarget::Version => reverse_runs(&mut kvs, |a, b| a.version == b.version),
                SortTarget::Create => {
                    reverse_runs(&mut kvs, |a, b| a.create_revision == b.create_revision)
                }
                SortTarget::Mod => reverse_runs(&mut kvs, |a, b| a.mod_revision == b.mod_revision),
                SortTarget::Value => reverse_runs(&mut kvs, |a, b| a.value == b.value),
            }
        }
        if request.limit > 0 && kvs.len() as i64 > request.limit {
            kvs.truncate(request.limit as usize);
            response.more = true;
        }
        if request.keys_only {
            for kv in &mut kvs {
                kv.value.clear();
                if request.sort_target != SortTarget::Value as i32 {
                    kv.lease = 0;
                }
            }
        }
        response.kvs = kvs;
        Ok(response)
    }

    /// The messages of a stream: how many keys each has is not promised, so all in one.
    pub fn stream(&self, request: &RangeRequest) -> Result<RangeResponse, Refused> {
        let whole = RangeRequest { limit: request.limit.max(0), ..request.clone() };
        self.range(&whole)
    }

    pub fn put(&mut self, request: &PutRequest) -> Result<PutResponse, Refused> {
        let mut txn = Txn::begin(self);
        txn.check_put(request, &|_| true)?;
        let response = txn.put(request);
        txn.end();
        Ok(response)
    }

    pub fn delete_range(&mut self, request: &DeleteRangeRequest) -> DeleteRangeResponse {
        let mut txn = Txn::begin(self);
        let response = txn.delete_range(request);
        txn.end();
        response
    }

    pub fn delete_lease_keys(&mut self, lease: i64) -> u64 {
        let keys = self.keys_of_lease(lease);
        let mut txn = Txn::begin(self);
        for key in &keys {
            let key = Bytes::copy_from_slice(key);
            txn.delete_range(&DeleteRangeRequest { key, ..Default::default() });
        }
        txn.end();
        keys.len() as u64
    }

    pub fn txn(
        &mut self,
        request: &TxnRequest,
        lease_exists: &dyn Fn(i64) -> bool,
    ) -> Result<TxnResponse, Refused> {
        let mut txn = Txn::begin(self);
        let before = txn.model.clone();
        txn.check(request, lease_exists, &before)?;
        let mut response = txn.run(request, &before);
        response.header = header(txn.revision());
        txn.end();
        Ok(response)
    }

    pub fn compact(&mut self, revision: i64) -> Result<(), Refused> {
        if revision <= self.compact {
            return Err(Refused::Compacted);
        }
        if revision > self.current {
            return Err(Refused::FutureRevision);
        }
        self.compact = revision;
        Ok(())
    }

    pub fn keys_of_lease(&self, lease: i64) -> Vec<Vec<u8>> {
        let keys = self.keys_at(self.current).into_values();
        keys.filter(|kv| kv.lease == lease).map(|kv| kv.key.to_vec()).collect()
    }

    /// What is left of the history when a compaction is through: what came after it, and of each
    /// key the last change before, if it is a put, or a deletion exactly at the bound.
    pub fn history(&self) -> Vec<Change> {
        let is_last = |change: &Change| {
            !self.changes.iter().any(|other| {
                other.kv.key == change.kv.key
                    && other.revision > change.revision
                    && other.revision.main <= self.compact
            })
        };
        self.changes
            .iter()
            .filter(|change| {
                let main = change.revision.main;
                main > self.compact || is_last(change) && (!change.delete || main == self.compact)
            })
            .cloned()
            .collect()
    }

    /// What an event of a change shows as the value before.
    pub fn prev_kv(&self, change: &Change) -> Option<KeyValue> {
        let is_create = change.kv.create_revision == change.revision.main;
        let before = change.revision.main - 1;
        if is_create || before < self.compact {
            return None;
        }
        self.keys_at(before).remove(&change.kv.key)
    }

    /// HashKV: the hash, and the bound that it was computed with.
    pub fn hash_kv(&self, revision: i64) -> Result<(u32, i64), Refused> {
        let revision = self.resolve(revision, self.current)?;
        let keep: BTreeSet<Revision> = self
            .keys_at(revision)
            .values()
            .map(|kv| {
                let made = |change: &&Change| {
                    change.kv.key == kv.key && change.revision.main == kv.mod_revision
                };
                self.changes.iter().rfind(made).unwrap().revision
            })
            .collect();
        let mut hashed = b"key".to_vec();
        for change in self.history() {
            let main = change.revision.main;
            let superseded =
                main <= self.compact && !keep.is_empty() && !keep.contains(&change.revision);
            if main > revision || superseded || (main == self.compact && change.delete) {
                continue;
            }
            hashed.extend(main.to_be_bytes());
            hashed.push(b'_');
            hashed.extend(i64::from(change.revision.sub).to_be_bytes());
            if change.delete {
                hashed.push(b't');
            }
            hashed.extend(change.kv.encode_to_vec());
        }
        Ok((crc32c_bit_by_bit(&hashed), self.compact))
    }
}

fn reverse_runs(kvs: &mut [KeyValue], same: impl Fn(&KeyValue, &KeyValue) -> bool) {
    kvs.chunk_by_mut(same).for_each(|run| run.reverse());
}

/// CRC-32C by its definition (RFC 3720, appendix B.4: reflected polynomial 0x82f63b78).
fn crc32c_bit_by_bit(bytes: &[u8]) -> u32 {
    let mut crc = !0u32;
    for &byte in bytes {
        crc ^= u32::from(byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 };
        }
    }
    !crc
}

#[test]
fn the_models_checksum_is_crc32c() {
    assert_eq!(crc32c_bit_by_bit(b"123456789"), 0xe306_9283);
}

struct Txn<'m> {
    model: &'m mut Model,
    changes: u32,
}

impl<'m> Txn<'m> {
    fn begin(model: &'m mut Model) -> Txn<'m> {
        Txn { model, changes: 0 }
    }

    fn revision(&self) -> i64 {
        self.model.current + i64::from(self.changes > 0)
    }

    fn end(self) {
        self.model.current = self.revision();
    }

    fn keys(&self) -> Keys {
        self.model.keys_at(i64::MAX)
    }

    fn change(&mut self, delete: bool, kv: KeyValue) {
        let revision = Revision::new(self.model.current + 1, self.changes);
        self.model.changes.push(Change { revision, delete, kv });
        self.changes += 1;
    }

    fn check_put(
        &self,
        request: &PutRequest,
        lease_exists: &dyn Fn(i64) -> bool,
    ) -> Result<(), Refused> {
        if request.lease != 0 && !lease_exists(request.lease) {
            return Err(Refused::LeaseNotFound);
        }
        let keeps = request.ignore_value || request.ignore_lease;
        if keeps && !self.keys().contains_key(&request.key) {
            return Err(Refused::KeyNotFound);
        }
        Ok(())
    }

    fn put(&mut self, request: &PutRequest) -> PutResponse {
        let main = self.model.current + 1;
        let prev = self.keys().remove(&request.key);
        let kept = prev.clone().unwrap_or_default();
        let kv = KeyValue {
            key: request.key.clone(),
            create_revision: if prev.is_some() { kept.create_revision } else { main },
            mod_revision: main,
            version: kept.version + 1,
            value: if request.ignore_value { kept.value } else { request.value.clone() },
            lease: if request.ignore_lease { kept.lease } else { request.lease },
        };
        self.change(false, kv);
        PutResponse { header: header(main), prev_kv: prev.filter(|_| request.prev_kv) }
    }

    fn delete_range(&mut self, request: &DeleteRangeRequest) -> DeleteRangeResponse {
        let mut prev_kvs: Vec<KeyValue> = self.keys().into_values().collect();
        prev_kvs.retain(|kv| in_interval(&kv.key, &request.key, &request.range_end));
        for kv in &prev_kvs {
            self.change(true, KeyValue { key: kv.key.clone(), ..Default::default() });
        }
        let deleted = prev_kvs.len() as i64;
        if !request.prev_kv {
            prev_kvs.clear();
        }
        DeleteRangeResponse { header: header(self.revision()), deleted, prev_kvs }
    }

    fn check(
        &self,
        request: &TxnRequest,
        lease_exists: &dyn Fn(i64) -> bool,
        before: &Model,
    ) -> Result<(), Refused> {
        let succeeded = request.compare.iter().all(|compare| before.holds(compare));
        for op in if succeeded { &request.success } else { &request.failure } {
            match op.request.as_ref().unwrap() {
                Request::RequestRange(range) if range.revision > before.current => {
                    return Err(Refused::FutureRevision);
                }
                Request::RequestRange(range)
                    if range.revision != 0 && range.revision < before.compact =>
                {
                    return Err(Refused::Compacted);
                }
                Request::RequestPut(put) => self.check_put(put, lease_exists)?,
                Request::RequestTxn(nested) => self.check(nested, lease_exists, before)?,
                Request::RequestRange(_) | Request::RequestDeleteRange(_) => {}
            }
        }
        Ok(())
    }

    fn run(&mut self, request: &TxnRequest, before: &Model) -> TxnResponse {
        let succeeded = request.compare.iter().all(|compare| before.holds(compare));
        let ops = if succeeded { &request.success } else { &request.failure };
        let mut responses = Vec::new();
        for op in ops {
            let response = match op.request.as_ref().unwrap() {
                Request::RequestRange(range) => {
                    let revision = self.revision();
                    Response::ResponseRange(self.model.range_when(range, revision).unwrap())
                }
                Request::RequestPut(put) => Response::ResponsePut(self.put(put)),
                Request::RequestDeleteRange(delete) => {
                    Response::ResponseDeleteRange(self.delete_range(delete))
                }
                Request::RequestTxn(nested) => Response::ResponseTxn(self.run(nested, before)),
            };
            responses.push(ResponseOp { response: Some(response) });
        }
        TxnResponse { header: header(0), succeeded, responses }
    }
}

impl Model {
    fn holds(&self, compare: &Compare) -> bool {
        let mut kvs: Vec<KeyValue> = self.keys_at(self.current).into_values().collect();
        kvs.retain(|kv| in_interval(&kv.key, &compare.key, &compare.range_end));
        let target = CompareTarget::try_from(compare.target).unwrap();
        if kvs.is_empty() {
            if target == CompareTarget::Value {
                return false;
            }
            kvs.push(KeyValue::default());
        }
        kvs.iter().all(|kv| {
            let union = compare.target_union.as_ref();
            let ordering = match target {
                CompareTarget::Version => kv.version.cmp(&match union {
                    Some(TargetUnion::Version(wanted)) => *wanted,
                    _ => 0,
                }),
                CompareTarget::Create => kv.create_revision.cmp(&match union {
                    Some(TargetUnion::CreateRevision(wanted)) => *wanted,
                    _ => 0,
                }),
                CompareTarget::Mod => kv.mod_revision.cmp(&match union {
                    Some(TargetUnion::ModRevision(wanted)) => *wanted,
                    _ => 0,
                }),
                CompareTarget::Lease => kv.lease.cmp(&match union {
                    Some(TargetUnion::Lease(wanted)) => *wanted,
                    _ => 0,
                }),
                CompareTarget::Value => kv.value.cmp(&match union {
                    Some(TargetUnion::Value(wanted)) => wanted.clone(),
                    _ => Bytes::new(),
                }),
            };
            match CompareResult::try_from(compare.result).unwrap() {
                CompareResult::Equal => ordering.is_eq(),
                CompareResult::NotEqual => ordering.is_ne(),
                CompareResult::Greater => ordering.is_gt(),
                CompareResult::Less => ordering.is_lt(),
            }
        })
    }
}
