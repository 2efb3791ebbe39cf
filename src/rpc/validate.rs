//! What a request must satisfy before it is proposed or read, in etcd's order and words.
//!
//! Knows nothing of the store: whatever needs the state (unknown leases, compacted revisions) is
//! decided when the request is applied.

use std::collections::HashSet;

use bytes::Bytes;

use super::error::{self, RpcError};
use crate::mvcc::{has_revision_filters, is_default_order};
use crate::proto::etcdserverpb::range_request::{SortOrder, SortTarget};
use crate::proto::etcdserverpb::request_op::Request;
use crate::proto::etcdserverpb::{
    DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, TxnRequest,
};

pub fn range(request: &RangeRequest) -> Result<(), RpcError> {
    if request.key.is_empty() {
        return Err(error::EMPTY_KEY);
    }
    if SortOrder::try_from(request.sort_order).is_err()
        || SortTarget::try_from(request.sort_target).is_err()
    {
        return Err(error::INVALID_SORT_OPTION);
    }
    Ok(())
}

pub fn range_stream(request: &RangeRequest) -> Result<(), RpcError> {
    range(request)?;
    if !is_default_order(request) {
        return Err(error::STREAM_SORT);
    }
    if has_revision_filters(request) {
        return Err(error::STREAM_FILTER);
    }
    Ok(())
}

pub fn put(request: &PutRequest) -> Result<(), RpcError> {
    if request.key.is_empty() {
        return Err(error::EMPTY_KEY);
    }
    if request.ignore_value && !request.value.is_empty() {
        return Err(error::VALUE_PROVIDED);
    }
    if request.ignore_lease && request.lease != 0 {
        return Err(error::LEASE_PROVIDED);
    }
    Ok(())
}

pub fn delete_range(request: &DeleteRangeRequest) -> Result<(), RpcError> {
    if request.key.is_empty() {
        return Err(error::EMPTY_KEY);
    }
    Ok(())
}

pub fn txn(request: &TxnRequest, ops_max: usize) -> Result<(), RpcError> {
    txn_ops(request, ops_max as i64)?;
    intervals(&request.success)?;
    intervals(&request.failure)?;
    Ok(())
}

fn txn_ops(request: &TxnRequest, ops_max: i64) -> Result<(), RpcError> {
    let ops = request.compare.len().max(request.success.len()).max(request.failure.len()) as i64;
    if ops > ops_max {
        return Err(error::TOO_MANY_OPS);
    }
    if request.compare.iter().any(|compare| compare.key.is_empty()) {
        return Err(error::EMPTY_KEY);
    }
    for op in request.success.iter().chain(&request.failure) {
        match &op.request {
            Some(Request::RequestRange(inner)) => range(inner)?,
            Some(Request::RequestPut(inner)) => put(inner)?,
            Some(Request::RequestDeleteRange(inner)) => delete_range(inner)?,
            Some(Request::RequestTxn(inner)) => txn_ops(inner, ops_max - ops)?,
            None => return Err(error::KEY_NOT_FOUND),
        }
    }
    Ok(())
}

/// The delete ranges of one level of a transaction and of the levels below it: disjoint and sorted once `normalize` ran.
///
/// A range whose end is not behind its key, the from-key range `[key, "\0")` among them, is taken literally, as in
/// etcd: it holds nothing.
#[derive(Default)]
struct Deletes(Vec<(Bytes, Bytes)>);

impl Deletes {
    fn insert(&mut self, request: &DeleteRangeRequest) {
        if request.range_end.is_empty() {
            let mut end = request.key.to_vec();
            end.push(0);
            self.0.push((request.key.clone(), end.into()));
        } else if request.key < request.range_end {
            self.0.push((request.key.clone(), request.range_end.clone()));
        }
    }

    fn normalize(&mut self) {
        self.0.sort_unstable();
        self.0.dedup_by(|next, kept| {
            let joined = next.0 <= kept.1;
            if joined && next.1 > kept.1 {
                kept.1 = next.1.clone();
            }
            joined
        });
    }

    fn holds(&self, key: &Bytes) -> bool {
        let after = self.0.partition_point(|(start, _)| start <= key);
        after > 0 && self.0[after - 1].1 > *key
    }

    fn union(&mut self, other: Deletes) {
        self.0.extend(other.0);
        self.normalize();
    }
}

/// Refuses a key that is put twice, or put and deleted, whichever way the transaction goes.
/// The two branches of a nested transaction exclude each other, so they may name the same key.
fn intervals(ops: &[RequestOp]) -> Result<(HashSet<Bytes>, Deletes), RpcError> {
    let mut deletes = Deletes::default();
    for op in ops {
        if let Some(Request::RequestDeleteRange(request)) = &op.request {
            deletes.insert(request);
        }
    }
    deletes.normalize();

    let mut puts: HashSet<Bytes> = HashSet::new();
    for op in ops {
        let Some(Request::RequestTxn(nested)) = &op.request else { continue };
        let (then_puts, then_deletes) = intervals(&nested.success)?;
        let (else_puts, else_deletes) = intervals(&nested.failure)?;
        for key in &then_puts {
            if deletes.holds(key) || !puts.insert(key.clone()) {
                return Err(error::DUPLICATE_KEY);
            }
        }
        for key in else_puts {
            if deletes.holds(&key) || (puts.contains(&key) && !then_puts.contains(&key)) {
                return Err(error::DUPLICATE_KEY);
            }
            puts.insert(key);
        }
        deletes.union(then_deletes);
        deletes.union(else_deletes);
    }

    for op in ops {
        let Some(Request::RequestPut(request)) = &op.request else { continue };
        if deletes.holds(&request.key) || !puts.insert(request.key.clone()) {
            return Err(error::DUPLICATE_KEY);
        }
    }
    Ok((puts, deletes))
}

/// What a request adds to the store at most, by etcd's estimate.
pub mod cost {
    use super::*;

    const KEY_OVERHEAD: u64 = 256;
    pub const LEASE: u64 = 64;

    pub fn put(request: &PutRequest) -> u64 {
        KEY_OVERHEAD + request.key.len() as u64 + request.value.len() as u64
    }

    pub fn txn(request: &TxnRequest) -> u64 {
        let sum = |ops: &[RequestOp]| -> u64 {
            ops.iter()
                .map(|op| match &op.request {
                    Some(Request::RequestPut(request)) => put(request),
                    Some(Request::RequestTxn(nested)) => txn(nested),
                    _ => 0,
                })
                .sum()
        };
        sum(&request.success).max(sum(&request.failure))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put_op(key: &'static [u8]) -> RequestOp {
        let request = PutRequest { key: Bytes::from_static(key), ..Default::default() };
        RequestOp { request: Some(Request::RequestPut(request)) }
    }

    fn delete_op(key: &'static [u8], end: &'static [u8]) -> RequestOp {
        let request = DeleteRangeRequest {
            key: Bytes::from_static(key),
            range_end: Bytes::from_static(end),
            ..Default::default()
        };
        RequestOp { request: Some(Request::RequestDeleteRange(request)) }
    }

    fn nested(success: Vec<RequestOp>, failure: Vec<RequestOp>) -> RequestOp {
        let request = TxnRequest { compare: vec![], success, failure };
        RequestOp { request: Some(Request::RequestTxn(request)) }
    }

    fn check(success: Vec<RequestOp>) -> Result<(), RpcError> {
        txn(&TxnRequest { compare: vec![], success, failure: vec![] }, 128)
    }

    #[test]
    fn overlapping_puts_and_deletes_are_refused_as_etcd_refuses_them() {
        let duplicate = Err(error::DUPLICATE_KEY);
        let cases: Vec<(Vec<RequestOp>, Result<(), RpcError>)> = vec![
            (vec![put_op(b"a"), put_op(b"b")], Ok(())),
            (vec![put_op(b"a"), put_op(b"a")], duplicate.clone()),
            (vec![put_op(b"a"), delete_op(b"a", b"")], duplicate.clone()),
            (vec![put_op(b"b"), delete_op(b"a", b"c")], duplicate.clone()),
            (vec![put_op(b"c"), delete_op(b"a", b"c")], Ok(())),
            (vec![delete_op(b"a", b"c"), delete_op(b"b", b"d")], Ok(())),
            // A from-key delete is taken as the literal interval [key, "\0").
            (vec![put_op(b"c"), delete_op(b"b", b"\0")], Ok(())),
            (vec![put_op(b"b"), delete_op(b"b", b"\0")], Ok(())),
            (vec![put_op(b"b"), delete_op(b"b", b"a")], Ok(())),
            // Then and else exclude each other.
            (vec![nested(vec![put_op(b"a")], vec![put_op(b"a")])], Ok(())),
            (vec![nested(vec![put_op(b"a")], vec![]), put_op(b"a")], duplicate.clone()),
            (vec![nested(vec![delete_op(b"a", b"")], vec![]), put_op(b"a")], duplicate.clone()),
            (vec![nested(vec![put_op(b"a")], vec![]), delete_op(b"a", b"")], duplicate.clone()),
            // Between siblings the order decides, as it does in etcd.
            (
                vec![
                    nested(vec![delete_op(b"a", b"")], vec![]),
                    nested(vec![put_op(b"a")], vec![]),
                ],
                duplicate.clone(),
            ),
            (
                vec![
                    nested(vec![put_op(b"a")], vec![]),
                    nested(vec![delete_op(b"a", b"")], vec![]),
                ],
                Ok(()),
            ),
        ];
        for (index, (ops, expected)) in cases.into_iter().enumerate() {
            assert_eq!(check(ops), expected, "case {index}");
        }
    }

    #[test]
    fn nested_transactions_share_the_bound_on_operations() {
        let inner = nested((0..127).map(|_| delete_op(b"a", b"")).collect(), vec![]);
        assert_eq!(check(vec![inner.clone()]), Ok(()));
        assert_eq!(check(vec![inner, delete_op(b"a", b"")]), Err(error::TOO_MANY_OPS));
        assert_eq!(check(vec![RequestOp { request: None }]), Err(error::KEY_NOT_FOUND));
    }

    #[test]
    fn the_cost_of_a_transaction_is_that_of_its_dearer_branch() {
        let request = TxnRequest {
            compare: vec![],
            success: vec![put_op(b"a")],
            failure: vec![put_op(b"a"), nested(vec![put_op(b"bc")], vec![])],
        };
        assert_eq!(cost::txn(&request), 257 + 258);
    }
}
