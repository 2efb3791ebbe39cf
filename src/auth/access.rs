//! Which keys a request touches, and how: the one walk over requests that all checks of permissions use.
//!
//! It is recursive by construction: a transaction touches what its compares, both its branches, and the
//! transactions in them touch. The matches name every field's case, so that a new kind of operation does not compile
//! until it is said here what it touches.

use std::collections::BTreeSet;

use super::Right;
use crate::proto::etcdserverpb::{
    DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, TxnRequest, request_op,
};

/// What a request needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need<'r> {
    /// A right on a range, written as requests write it.
    Keys { right: Right, key: &'r [u8], range_end: &'r [u8] },
    /// A right on all keys of a lease.
    Lease { right: Right, lease: i64 },
}

/// Hands every need of a request to `visit`, and ends with the first error.
pub type Visit<'r, 'v, E> = &'v mut dyn FnMut(Need<'r>) -> Result<(), E>;

/// Each lease only once: all its keys are looked at for it, and one request can name it in every operation.
pub fn once_per_lease<'r, E>(
    mut visit: impl FnMut(Need<'r>) -> Result<(), E>,
) -> impl FnMut(Need<'r>) -> Result<(), E> {
    let mut seen = BTreeSet::new();
    move |need| match need {
        Need::Lease { right, lease } if !seen.insert((right, lease)) => Ok(()),
        _ => visit(need),
    }
}

pub fn range<'r, E>(request: &'r RangeRequest, visit: Visit<'r, '_, E>) -> Result<(), E> {
    visit(Need::Keys { right: Right::Read, key: &request.key, range_end: &request.range_end })
}

pub fn put<'r, E>(request: &'r PutRequest, visit: Visit<'r, '_, E>) -> Result<(), E> {
    visit(Need::Keys { right: Right::Write, key: &request.key, range_end: b"" })?;
    if request.lease != 0 {
        // Whoever attaches a key can have the others of the lease removed, by letting it expire.
        visit(Need::Lease { right: Right::Write, lease: request.lease })?;
    }
    if request.prev_kv {
        visit(Need::Keys { right: Right::Read, key: &request.key, range_end: b"" })?;
    }
    Ok(())
}

pub fn delete_range<'r, E>(
    request: &'r DeleteRangeRequest,
    visit: Visit<'r, '_, E>,
) -> Result<(), E> {
    let (key, range_end) = (&request.key, &request.range_end);
    visit(Need::Keys { right: Right::Write, key, range_end })?;
    if request.prev_kv {
        visit(Need::Keys { right: Right::Read, key, range_end })?;
    }
    Ok(())
}

pub fn txn<'r, E>(request: &'r TxnRequest, visit: Visit<'r, '_, E>) -> Result<(), E> {
    for compare in &request.compare {
        let (key, range_end) = (&compare.key, &compare.range_end);
        visit(Need::Keys { right: Right::Read, key, range_end })?;
    }
    request.success.iter().chain(&request.failure).try_for_each(|op| operation(op, visit))
}

fn operation<'r, E>(op: &'r RequestOp, visit: Visit<'r, '_, E>) -> Result<(), E> {
    match &op.request {
        Some(request_op::Request::RequestRange(request)) => range(request, visit),
        Some(request_op::Request::RequestPut(request)) => put(request, visit),
        Some(request_op::Request::RequestDeleteRange(request)) => delete_range(request, visit),
        Some(request_op::Request::RequestTxn(request)) => txn(request, visit),
        None => Ok(()),
    }
}

pub fn lease_revoke<E>(lease: i64, visit: Visit<'_, '_, E>) -> Result<(), E> {
    visit(Need::Lease { right: Right::Write, lease })
}

pub fn lease_keep_alive<E>(lease: i64, visit: Visit<'_, '_, E>) -> Result<(), E> {
    visit(Need::Lease { right: Right::Write, lease })
}

/// The names of keys are told only to whoever may read them.
pub fn lease_time_to_live<E>(lease: i64, keys: bool, visit: Visit<'_, '_, E>) -> Result<(), E> {
    if keys { visit(Need::Lease { right: Right::Read, lease }) } else { Ok(()) }
}

pub fn lease_leases<E>(
    leases: impl Iterator<Item = i64>,
    visit: Visit<'_, '_, E>,
) -> Result<(), E> {
    for lease in leases {
        visit(Need::Lease { right: Right::Read, lease })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_is_looked_at_once_however_often_a_request_names_it() {
        let put = |lease| {
            let put = PutRequest { key: b"k".to_vec().into(), lease, ..Default::default() };
            RequestOp { request: Some(request_op::Request::RequestPut(put)) }
        };
        let branches = |success: Vec<RequestOp>, failure: Vec<RequestOp>| TxnRequest {
            success,
            failure,
            ..Default::default()
        };
        let inner = branches(vec![put(7), put(8)], vec![put(7)]);
        let inner = RequestOp { request: Some(request_op::Request::RequestTxn(inner)) };
        let request = branches(vec![put(7), put(7), inner], vec![put(8), put(0)]);
        let (mut leases, mut keys) = (Vec::new(), 0);
        let walked = txn(
            &request,
            &mut once_per_lease(|need| {
                match need {
                    Need::Lease { right, lease } => leases.push((right, lease)),
                    Need::Keys { .. } => keys += 1,
                }
                Ok::<_, ()>(())
            }),
        );
        assert_eq!(walked, Ok(()));
        assert_eq!(leases, [(Right::Write, 7), (Right::Write, 8)]);
        assert_eq!(keys, 7, "a key of each put");
    }
}
