//! What a cluster must do, said as simply as possible: the committed entries applied one after the
//! other to maps that keep everything. Structured as etcd's documents say it, not as ours is.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use prost::Message;
use ringd::proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use ringd::proto::etcdserverpb::range_request::{SortOrder, SortTarget};
use ringd::proto::etcdserverpb::request_op::Request;
use ringd::proto::etcdserverpb::response_op::Response;
use ringd::proto::etcdserverpb::{
    Compare, DeleteRangeRequest, DeleteRangeResponse, PutRequest, PutResponse, RangeRequest,
    RangeResponse, ResponseHeader, ResponseOp, TxnRequest, TxnResponse,
};
use ringd::proto::mvccpb::KeyValue;

use crate::random::Digest;

/// One change of one key.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    pub main: i64,
    pub sub: u32,
    pub delete: bool,
    /// Of a deletion, only the key.
    pub kv: KeyValue,
}

/// Why a request changed nothing and got no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    Compacted,
    FutureRevision,
    LeaseNotFound,
    LeaseExists,
    LeaseTtlTooLarge,
    KeyNotFound,
    NoSpace,
    Corrupt,
    MemberNotFound,
    MemberExists,
    MemberRemoved,
    NotLearner,
    NoVoterLeft,
}

/// A change of the members.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemberChange {
    Add { id: u64, is_learner: bool },
    Promote(u64),
    Remove(u64),
}

impl MemberChange {
    fn id(&self) -> u64 {
        match self {
            MemberChange::Add { id, .. } | MemberChange::Promote(id) | MemberChange::Remove(id) => {
                *id
            }
        }
    }
}

/// The state as of which a read is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct At {
    pub current: i64,
    pub compact: i64,
}

#[derive(Clone)]
struct Version {
    main: i64,
    sub: u32,
    /// None of a deletion.
    kv: Option<KeyValue>,
}

pub struct Model {
    keys: BTreeMap<Bytes, Vec<Version>>,
    changes: Vec<Change>,
    pub current: i64,
    pub compact: i64,
    /// Id and time to live in seconds.
    pub leases: BTreeMap<i64, i64>,
    pub lease_ttl_min_s: i64,
    /// Id, and whether it is a learner.
    pub members: BTreeMap<u64, bool>,
    pub removed: BTreeSet<u64>,
    /// Member and alarm.
    pub alarms: BTreeSet<(u64, i32)>,
    /// Over all changes up to each revision, beginning with revision 1.
    digests: Vec<Digest>,
}

pub fn header(revision: i64) -> Option<ResponseHeader> {
    Some(ResponseHeader { revision, ..Default::default() })
}

pub fn in_interval(key: &[u8], start: &[u8], range_end: &[u8]) -> bool {
    match range_end {
        b"" => key == start,
        b"\0" => key >= start,
        end => key >= start && key < end,
    }
}

/// Takes one change into the digest of all. `kv` is the encoded `mvccpb.KeyValue`, of a deletion
/// the key.
pub fn digest_change(before: Digest, main: i64, sub: u32, delete: bool, kv: &[u8]) -> Digest {
    before.word(main as u64).word(u64::from(sub) << 1 | u64::from(delete)).bytes(kv)
}

impl Model {
    pub fn new(voters: u64, lease_ttl_min_s: i64) -> Model {
        Model {
            keys: BTreeMap::new(),
            changes: Vec::new(),
            current: 1,
            compact: -1,
            leases: BTreeMap::new(),
            lease_ttl_min_s,
            members: (1..=voters).map(|id| (id, false)).collect(),
            removed: BTreeSet::new(),
            alarms: BTreeSet::new(),
            digests: vec![Digest::EMPTY; 2],
        }
    }

    pub fn now(&self) -> At {
        At { current: self.current, compact: self.compact }
    }

    pub fn digest_at(&self, revision: i64) -> Digest {
        self.digests[revision as usize]
    }

    /// All changes from revision `from` on, in their order.
    pub fn changes_from(&self, from: i64) -> &[Change] {
        let at = self.changes.partition_point(|change| change.main < from);
        &self.changes[at..]
    }

    pub fn key_at(&self, key: &[u8], main: i64) -> Option<&KeyValue> {
        version_at(self.keys.get(key)?, main)?.kv.as_ref()
    }

    /// The keys of an interval that exist at a revision.
    pub fn keys_at<'a>(
        &'a self,
        key: &'a Bytes,
        range_end: &'a [u8],
        main: i64,
    ) -> impl Iterator<Item = &'a KeyValue> {
        let from = self.keys.range(key.clone()..);
        let inside = from.take_while(move |(name, _)| in_interval(name, key, range_end));
        inside.filter_map(move |(_, versions)| version_at(versions, main)?.kv.as_ref())
    }

    /// What an event of a change shows as the value before; none where it is compacted.
    pub fn prev_kv(&self, change: &Change, compact: i64) -> Option<&KeyValue> {
        if change.main - 1 < compact {
            return None;
        }
        self.key_at(&change.kv.key, change.main - 1)
    }

    fn resolve(&self, revision: i64, at: At) -> Result<i64, Refused> {
        match revision {
            revision if revision > at.current => Err(Refused::FutureRevision),
            revision if revision <= 0 => Ok(at.current),
            revision if revision < at.compact => Err(Refused::Compacted),
            revision => Ok(revision),
        }
    }

    /// A range as of an earlier state, or the present one.
    pub fn range(&self, request: &RangeRequest, at: At) -> Result<RangeResponse, Refused> {
        let main = self.resolve(request.revision, at)?;
        let all = self.keys_at(&request.key, &request.range_end, main);
        Ok(answer(request, all.cloned().collect(), at.current))
    }

    pub fn put(&mut self, request: &PutRequest) -> Result<(PutResponse, i64), Refused> {
        if request.lease != 0 && !self.leases.contains_key(&request.lease) {
            return Err(Refused::LeaseNotFound);
        }
        let mut txn = Txn::begin(self);
        txn.check_put(request)?;
        let response = txn.put(request);
        Ok((response, txn.end()))
    }

    pub fn delete_range(&mut self, request: &DeleteRangeRequest) -> (DeleteRangeResponse, i64) {
        let mut txn = Txn::begin(self);
        let response = txn.delete_range(request);
        (response, txn.end())
    }

    pub fn txn(&mut self, request: &TxnRequest) -> Result<(TxnResponse, i64), Refused> {
        let before = self.now();
        let mut path = Vec::new();
        self.decide(request, before, &mut path);
        let mut txn = Txn::begin(self);
        txn.check(request, &mut path.iter().copied(), before)?;
        let response = txn.run(request, &mut path.iter().copied(), before);
        Ok((response, txn.end()))
    }

    /// A transaction that only reads, as of an earlier state.
    pub fn read_txn(&self, request: &TxnRequest, at: At) -> Result<TxnResponse, Refused> {
        let succeeded = request.compare.iter().all(|compare| self.holds(compare, at));
        let ops = if succeeded { &request.success } else { &request.failure };
        let mut responses = Vec::new();
        for op in ops {
            let Some(Request::RequestRange(range)) = &op.request else { panic!("not a read") };
            if range.revision != 0 && range.revision < at.compact {
                return Err(Refused::Compacted);
            }
            let mut response = self.range(range, at)?;
            response.header = header(at.current);
            responses.push(ResponseOp { response: Some(Response::ResponseRange(response)) });
        }
        Ok(TxnResponse { header: None, succeeded, responses })
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

    pub fn lease_grant(&mut self, id: i64, ttl: i64) -> Result<i64, Refused> {
        if id == 0 {
            return Err(Refused::LeaseNotFound);
        }
        if ttl > 9_000_000_000 {
            return Err(Refused::LeaseTtlTooLarge);
        }
        if self.leases.contains_key(&id) {
            return Err(Refused::LeaseExists);
        }
        let ttl = ttl.max(self.lease_ttl_min_s);
        self.leases.insert(id, ttl);
        Ok(ttl)
    }

    pub fn lease_revoke(&mut self, id: i64) -> Result<(), Refused> {
        if self.leases.remove(&id).is_none() {
            return Err(Refused::LeaseNotFound);
        }
        let mut keys = Vec::new();
        for versions in self.keys.values() {
            if let Some(Version { kv: Some(kv), .. }) = versions.last()
                && kv.lease == id
            {
                keys.push(kv.key.clone());
            }
        }
        let mut txn = Txn::begin(self);
        for key in keys {
            txn.delete_range(&DeleteRangeRequest { key, ..Default::default() });
        }
        txn.end();
        Ok(())
    }

    pub fn change_members(&mut self, change: &MemberChange) -> Result<(), Refused> {
        let id = change.id();
        if self.removed.contains(&id) {
            return Err(Refused::MemberRemoved);
        }
        let present = self.members.get(&id).copied();
        let voters = self.members.values().filter(|is_learner| !**is_learner).count();
        match (change, present) {
            (MemberChange::Add { .. }, Some(_)) => return Err(Refused::MemberExists),
            (MemberChange::Add { is_learner, .. }, None) => {
                self.members.insert(id, *is_learner);
            }
            (_, None) => return Err(Refused::MemberNotFound),
            (MemberChange::Promote(_), Some(false)) => return Err(Refused::NotLearner),
            (MemberChange::Promote(_), Some(true)) => {
                self.members.insert(id, false);
            }
            (MemberChange::Remove(_), Some(false)) if voters == 1 => {
                return Err(Refused::NoVoterLeft);
            }
            (MemberChange::Remove(_), Some(_)) => {
                self.members.remove(&id);
                self.removed.insert(id);
            }
        }
        Ok(())
    }

    /// The branches that will run, in the order in which they are met.
    fn decide(&self, request: &TxnRequest, at: At, path: &mut Vec<bool>) {
        let succeeded = request.compare.iter().all(|compare| self.holds(compare, at));
        path.push(succeeded);
        for op in if succeeded { &request.success } else { &request.failure } {
            if let Some(Request::RequestTxn(nested)) = &op.request {
                self.decide(nested, at, path);
            }
        }
    }

    fn holds(&self, compare: &Compare, at: At) -> bool {
        let target = CompareTarget::try_from(compare.target).expect("a known target");
        let mut any = false;
        let all = self
            .keys_at(&compare.key, &compare.range_end, at.current)
            .inspect(|_| any = true)
            .all(|kv| compares(compare, target, kv));
        match any {
            true => all,
            false if target == CompareTarget::Value => false,
            false => compares(compare, target, &KeyValue::default()),
        }
    }
}

fn version_at(versions: &[Version], main: i64) -> Option<&Version> {
    let after = versions.partition_point(|version| version.main <= main);
    versions[..after].last()
}

fn compares(compare: &Compare, target: CompareTarget, kv: &KeyValue) -> bool {
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
    match CompareResult::try_from(compare.result).expect("a known result") {
        CompareResult::Equal => ordering.is_eq(),
        CompareResult::NotEqual => ordering.is_ne(),
        CompareResult::Greater => ordering.is_gt(),
        CompareResult::Less => ordering.is_lt(),
    }
}

/// Orders, filters and cuts what a range has found.
fn answer(request: &RangeRequest, all: Vec<KeyValue>, current: i64) -> RangeResponse {
    let count = all.len() as i64;
    let mut response = RangeResponse { header: header(current), count, ..Default::default() };
    if request.count_only {
        return response;
    }
    let target = SortTarget::try_from(request.sort_target).expect("a known target");
    let order = SortOrder::try_from(request.sort_order).expect("a known order");
    let in_key_order =
        order == SortOrder::None || (target == SortTarget::Key && order == SortOrder::Ascend);
    let &RangeRequest {
        min_mod_revision: min_mod,
        max_mod_revision: max_mod,
        min_create_revision: min_create,
        max_create_revision: max_create,
        ..
    } = request;
    let is_filtered = [min_mod, max_mod, min_create, max_create] != [0; 4];
    let mut kvs = all;
    if request.limit > 0 && in_key_order && !is_filtered {
        kvs.truncate((request.limit as usize).saturating_add(1));
    }
    kvs.retain(|kv| {
        (max_mod == 0 || kv.mod_revision <= max_mod)
            && (min_mod == 0 || kv.mod_revision >= min_mod)
            && (max_create == 0 || kv.create_revision <= max_create)
            && (min_create == 0 || kv.create_revision >= min_create)
    });
    let by = |a: &KeyValue, b: &KeyValue| {
        let ordering = match target {
            SortTarget::Key => a.key.cmp(&b.key),
            SortTarget::Version => a.version.cmp(&b.version),
            SortTarget::Create => a.create_revision.cmp(&b.create_revision),
            SortTarget::Mod => a.mod_revision.cmp(&b.mod_revision),
            SortTarget::Value => a.value.cmp(&b.value),
        };
        if order == SortOrder::Descend { ordering.reverse() } else { ordering }
    };
    // Stable, so that equal ones keep the order of keys.
    kvs.sort_by(by);
    if request.limit > 0 && kvs.len() as i64 > request.limit {
        kvs.truncate(request.limit as usize);
        response.more = true;
    }
    if request.keys_only {
        for kv in &mut kvs {
            kv.value.clear();
            if target != SortTarget::Value {
                kv.lease = 0;
            }
        }
    }
    response.kvs = kvs;
    response
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

    fn end(self) -> i64 {
        let revision = self.revision();
        if self.changes > 0 {
            let mut digest = self.model.digest_at(revision - 1);
            for change in self.model.changes_from(revision) {
                let &Change { main, sub, delete, ref kv } = change;
                digest = match delete {
                    true => digest_change(digest, main, sub, true, &kv.key),
                    false => digest_change(digest, main, sub, false, &kv.encode_to_vec()),
                };
            }
            self.model.digests.push(digest);
        }
        self.model.current = revision;
        revision
    }

    fn change(&mut self, delete: bool, kv: KeyValue) {
        let (main, sub) = (self.model.current + 1, self.changes);
        let versions = self.model.keys.entry(kv.key.clone()).or_default();
        versions.push(Version { main, sub, kv: (!delete).then(|| kv.clone()) });
        debug_assert!(versions.is_sorted_by_key(|version| (version.main, version.sub)));
        self.model.changes.push(Change { main, sub, delete, kv });
        self.changes += 1;
    }

    fn check_put(&self, request: &PutRequest) -> Result<(), Refused> {
        let keeps = request.ignore_value || request.ignore_lease;
        if keeps && self.model.key_at(&request.key, i64::MAX).is_none() {
            return Err(Refused::KeyNotFound);
        }
        Ok(())
    }

    fn put(&mut self, request: &PutRequest) -> PutResponse {
        let main = self.model.current + 1;
        let prev = self.model.key_at(&request.key, i64::MAX).cloned();
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
        let found = self.model.keys_at(&request.key, &request.range_end, i64::MAX);
        let mut prev_kvs: Vec<KeyValue> = found.cloned().collect();
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
        path: &mut dyn Iterator<Item = bool>,
        before: At,
    ) -> Result<(), Refused> {
        let succeeded = path.next().expect("decided before");
        for op in if succeeded { &request.success } else { &request.failure } {
            match op.request.as_ref().expect("an operation") {
                Request::RequestRange(range) if range.revision > before.current => {
                    return Err(Refused::FutureRevision);
                }
                Request::RequestRange(range)
                    if range.revision != 0 && range.revision < before.compact =>
                {
                    return Err(Refused::Compacted);
                }
                Request::RequestPut(put) => {
                    if put.lease != 0 && !self.model.leases.contains_key(&put.lease) {
                        return Err(Refused::LeaseNotFound);
                    }
                    self.check_put(put)?;
                }
                Request::RequestTxn(nested) => self.check(nested, path, before)?,
                Request::RequestRange(_) | Request::RequestDeleteRange(_) => {}
            }
        }
        Ok(())
    }

    fn run(
        &mut self,
        request: &TxnRequest,
        path: &mut dyn Iterator<Item = bool>,
        before: At,
    ) -> TxnResponse {
        let succeeded = path.next().expect("decided before");
        let mut responses = Vec::new();
        for op in if succeeded { &request.success } else { &request.failure } {
            let response = match op.request.as_ref().expect("an operation") {
                Request::RequestRange(range) => {
                    let at = At { current: self.revision(), compact: before.compact };
                    Response::ResponseRange(self.model.range(range, at).expect("checked before"))
                }
                Request::RequestPut(put) => Response::ResponsePut(self.put(put)),
                Request::RequestDeleteRange(delete) => {
                    Response::ResponseDeleteRange(self.delete_range(delete))
                }
                Request::RequestTxn(nested) => {
                    let mut response = self.run(nested, path, before);
                    response.header = header(0);
                    Response::ResponseTxn(response)
                }
            };
            responses.push(ResponseOp { response: Some(response) });
        }
        TxnResponse { header: None, succeeded, responses }
    }
}

/// Bounds, leases and alarms: what two members that applied the same have in common, beside the
/// changes of keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    pub at: At,
    pub leases: Digest,
    pub alarms: Digest,
    pub members: Digest,
}

impl Summary {
    /// `leases`, `alarms` and `members` in rising order.
    pub fn new(
        at: At,
        leases: impl IntoIterator<Item = i64>,
        alarms: impl IntoIterator<Item = (u64, i32)>,
        members: impl IntoIterator<Item = (u64, bool)>,
    ) -> Summary {
        let digest_member = |digest: Digest, (id, is_learner): (u64, bool)| {
            digest.word(id).word(u64::from(is_learner))
        };
        let digest_alarm =
            |digest: Digest, (member, alarm): (u64, i32)| digest.word(member).word(alarm as u64);
        Summary {
            at,
            leases: leases.into_iter().fold(Digest::EMPTY, |digest, id| digest.word(id as u64)),
            alarms: alarms.into_iter().fold(Digest::EMPTY, digest_alarm),
            members: members.into_iter().fold(Digest::EMPTY, digest_member),
        }
    }
}

impl Model {
    pub fn summary(&self) -> Summary {
        let members = self.members.iter().map(|(id, is_learner)| (*id, *is_learner));
        let leases = self.leases.keys().copied();
        Summary::new(self.now(), leases, self.alarms.iter().copied(), members)
    }
}
