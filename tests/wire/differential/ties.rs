//! Ranges that are sorted by something that several keys have in common: in which order these come is open.
//!
//! Etcd sorts with Go's `sort.Sort`, which is not stable beyond a dozen elements. So both answers are put into the
//! same order before they are compared, provided that they are sorted at all; and where a limit cuts through keys that
//! are equal, which of them are there is open as well, and only how many counts.

use std::cmp::Ordering;

use ringd::proto::etcdserverpb as pb;
use ringd::proto::etcdserverpb::range_request::{SortOrder, SortTarget};
use ringd::proto::mvccpb::KeyValue;

/// Up to here Go sorts by insertion, which keeps the order of what is equal.
const STABLE_MAX: i64 = 12;

pub fn level(request: &pb::RangeRequest, response: &mut pb::RangeResponse) {
    let order = |left: &KeyValue, right: &KeyValue| {
        let ascending = match SortTarget::try_from(request.sort_target) {
            Ok(SortTarget::Version) => left.version.cmp(&right.version),
            Ok(SortTarget::Create) => left.create_revision.cmp(&right.create_revision),
            Ok(SortTarget::Mod) => left.mod_revision.cmp(&right.mod_revision),
            Ok(SortTarget::Value) => left.value.cmp(&right.value),
            Ok(SortTarget::Key) | Err(_) => left.key.cmp(&right.key),
        };
        match SortOrder::try_from(request.sort_order) {
            Ok(SortOrder::Descend) => ascending.reverse(),
            _ => ascending,
        }
    };
    let kvs = &mut response.kvs;
    if request.sort_target == SortTarget::Key as i32 || response.count <= STABLE_MAX {
        return;
    }
    if !kvs.is_sorted_by(|left, right| order(left, right) != Ordering::Greater) {
        return;
    }
    kvs.sort_by(|left, right| order(left, right).then_with(|| left.key.cmp(&right.key)));
    if !response.more {
        return;
    }
    let Some(last) = kvs.last().cloned() else { return };
    for kv in kvs.iter_mut().filter(|kv| order(kv, &last) == Ordering::Equal) {
        *kv = KeyValue::default();
    }
}

/// The ranges of a transaction, nested ones included.
pub fn level_all(request: &pb::TxnRequest, response: &mut pb::TxnResponse) {
    use pb::request_op::Request::{RequestRange, RequestTxn};
    use pb::response_op::Response::{ResponseRange, ResponseTxn};
    let branch = if response.succeeded { &request.success } else { &request.failure };
    for (request, response) in branch.iter().zip(&mut response.responses) {
        match (&request.request, &mut response.response) {
            (Some(RequestRange(request)), Some(ResponseRange(response))) => {
                level(request, response)
            }
            (Some(RequestTxn(request)), Some(ResponseTxn(response))) => {
                level_all(request, response)
            }
            _ => {}
        }
    }
}
