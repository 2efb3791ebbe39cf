//! Transactions of a client: conditions, then one of two lists of requests, nested as deep as it
//! likes.
//!
//! In three passes, as etcd does: all conditions, those of nested transactions included, are
//! decided on the state before; then the requests that will run are checked, on the same state;
//! then they run, each seeing what the former ones did. The third pass cannot fail.
//!
//! Headers inside the response have only a revision; that of a nested transaction is there, empty.

use smallvec::SmallVec;

use super::Mvcc;
use super::error::MvccError;
use super::range::{COUNT, MORE};
use super::reader::Reader;
use super::wire::{put_bytes, put_delimited, put_int};
use super::write::{Reply, WriteTxn};
use crate::proto::etcdserverpb::request_op::Request;
use crate::proto::etcdserverpb::{RangeRequest, RequestOp, TxnRequest};
use crate::store::Store;

/// Field numbers of the messages that are written here.
const HEADER: u8 = 1;
const HEADER_REVISION: u8 = 3;
const TXN_SUCCEEDED: u8 = 2;
const TXN_RESPONSES: u8 = 3;
const OP_RANGE: u8 = 1;
const OP_PUT: u8 = 2;
const OP_DELETE_RANGE: u8 = 3;
const OP_TXN: u8 = 4;

/// Whether both branches consist of ranges: then nothing needs to be agreed upon. A nested
/// transaction makes it a write, whatever is in there.
pub fn is_read_only(request: &TxnRequest) -> bool {
    operations(request).all(|op| matches!(op.request, Some(Request::RequestRange(_))))
}

/// Whether a read-only transaction may be answered from this member's state as it is.
pub fn is_serializable(request: &TxnRequest) -> bool {
    operations(request).all(|op| match &op.request {
        Some(Request::RequestRange(range)) => range.serializable,
        _ => false,
    })
}

fn operations(request: &TxnRequest) -> impl Iterator<Item = &RequestOp> {
    request.success.iter().chain(&request.failure)
}

impl Mvcc {
    /// Runs a transaction. The body of the reply is what a `TxnResponse` has behind its header.
    ///
    /// Errors leave everything as it was: [`MvccError::LeaseNotFound`], [`MvccError::KeyNotFound`],
    /// [`MvccError::Compacted`], [`MvccError::FutureRevision`].
    pub fn txn(
        &mut self,
        store: &mut Store,
        request: &TxnRequest,
        lease_exists: &dyn Fn(i64) -> bool,
    ) -> Result<Reply, MvccError> {
        self.run_txn(store, request, lease_exists, true)
    }

    /// Runs a transaction as [`Mvcc::txn`] does, where nobody waits for the answer: the ranges in
    /// it are not carried out, and the body of the reply is empty.
    pub fn txn_unanswered(
        &mut self,
        store: &mut Store,
        request: &TxnRequest,
        lease_exists: &dyn Fn(i64) -> bool,
    ) -> Result<Reply, MvccError> {
        self.run_txn(store, request, lease_exists, false)
    }

    fn run_txn(
        &mut self,
        store: &mut Store,
        request: &TxnRequest,
        lease_exists: &dyn Fn(i64) -> bool,
        answer: bool,
    ) -> Result<Reply, MvccError> {
        let reader = self.reader(store.view());
        let path = Path::decide(&reader, request)?;
        check(&reader, request, lease_exists, &mut path.steps())?;
        let mut txn = WriteTxn::begin(self, store);
        let mut body = Vec::new();
        let mut steps = path.steps();
        if answer {
            execute(&mut txn, request, &mut steps, &mut body)?;
        } else {
            execute_unanswered(&mut txn, request, &mut steps)?;
        }
        Ok(Reply { revision: txn.finish(), body })
    }
}

impl Reader<'_> {
    /// Runs a transaction for which [`is_read_only`] holds; of any other, only the ranges.
    pub fn read_txn(&self, request: &TxnRequest) -> Result<Reply, MvccError> {
        let path = Path::decide(self, request)?;
        check(self, request, &|_| true, &mut path.steps())?;
        let mut body = Vec::new();
        let branch = branch(request, &mut path.steps(), &mut body);
        for op in branch {
            if let Some(Request::RequestRange(range)) = &op.request {
                put_delimited(&mut body, TXN_RESPONSES, |out| answer_range(self, range, out))?;
            }
        }
        Ok(Reply { revision: self.revisions.current, body })
    }
}

/// Which branch each transaction takes: the outermost first, then the nested ones of its branch in
/// their order, each followed by its own nested ones. The passes walk in the same order.
struct Path(SmallVec<[bool; 8]>);

struct Steps<'p>(std::slice::Iter<'p, bool>);

impl Path {
    fn decide(reader: &Reader<'_>, request: &TxnRequest) -> Result<Path, MvccError> {
        let mut path = Path(SmallVec::new());
        path.decide_into(reader, request)?;
        Ok(path)
    }

    fn decide_into(&mut self, reader: &Reader<'_>, request: &TxnRequest) -> Result<(), MvccError> {
        let succeeded = reader.all_hold(&request.compare)?;
        self.0.push(succeeded);
        for op in if succeeded { &request.success } else { &request.failure } {
            if let Some(Request::RequestTxn(nested)) = &op.request {
                self.decide_into(reader, nested)?;
            }
        }
        Ok(())
    }

    fn steps(&self) -> Steps<'_> {
        Steps(self.0.iter())
    }
}

impl Steps<'_> {
    fn take<'r>(&mut self, request: &'r TxnRequest) -> (bool, &'r [RequestOp]) {
        let succeeded = self.0.next().copied().unwrap_or(false);
        (succeeded, if succeeded { &request.success } else { &request.failure })
    }
}

/// Finds out whether everything that will run can.
fn check(
    reader: &Reader<'_>,
    request: &TxnRequest,
    lease_exists: &dyn Fn(i64) -> bool,
    steps: &mut Steps<'_>,
) -> Result<(), MvccError> {
    for op in steps.take(request).1 {
        match &op.request {
            Some(Request::RequestRange(range)) => check_range(reader, range)?,
            Some(Request::RequestPut(put)) => {
                if put.lease != 0 && !lease_exists(put.lease) {
                    return Err(MvccError::LeaseNotFound);
                }
                WriteTxn::check_put(reader, put)?;
            }
            Some(Request::RequestTxn(nested)) => check(reader, nested, lease_exists, steps)?,
            Some(Request::RequestDeleteRange(_)) | None => {}
        }
    }
    Ok(())
}

/// Unlike in a range by itself, a negative revision is one of the past.
fn check_range(reader: &Reader<'_>, range: &RangeRequest) -> Result<(), MvccError> {
    let revisions = reader.revisions();
    match range.revision {
        0 => Ok(()),
        revision if revision > revisions.current => Err(MvccError::FutureRevision),
        revision if revision < revisions.compact => Err(MvccError::Compacted),
        _ => Ok(()),
    }
}

/// Takes the next step of the path and notes where it leads.
fn branch<'r>(
    request: &'r TxnRequest,
    steps: &mut Steps<'_>,
    out: &mut Vec<u8>,
) -> &'r [RequestOp] {
    let (succeeded, branch) = steps.take(request);
    put_int(out, TXN_SUCCEEDED, i64::from(succeeded));
    branch
}

fn execute(
    txn: &mut WriteTxn<'_>,
    request: &TxnRequest,
    steps: &mut Steps<'_>,
    out: &mut Vec<u8>,
) -> Result<(), MvccError> {
    for op in branch(request, steps, out) {
        put_delimited(out, TXN_RESPONSES, |out| execute_op(txn, op, steps, out))?;
    }
    Ok(())
}

fn execute_op(
    txn: &mut WriteTxn<'_>,
    op: &RequestOp,
    steps: &mut Steps<'_>,
    out: &mut Vec<u8>,
) -> Result<(), MvccError> {
    match &op.request {
        Some(Request::RequestRange(range)) => answer_range(&txn.reader(), range, out),
        Some(Request::RequestPut(put)) => put_delimited(out, OP_PUT, |out| {
            put_header(out, txn.main());
            txn.put(put, Some(out))
        }),
        Some(Request::RequestDeleteRange(delete)) => {
            put_delimited(out, OP_DELETE_RANGE, |out| {
                // The header comes first and depends on what is deleted.
                let mut body = Vec::new();
                txn.delete_range(delete, Some(&mut body))?;
                put_header(out, txn.revision());
                out.extend_from_slice(&body);
                Ok(())
            })
        }
        Some(Request::RequestTxn(nested)) => put_delimited(out, OP_TXN, |out| {
            put_bytes(out, HEADER, b"");
            execute(txn, nested, steps, out)
        }),
        None => Ok(()),
    }
}

fn execute_unanswered(
    txn: &mut WriteTxn<'_>,
    request: &TxnRequest,
    steps: &mut Steps<'_>,
) -> Result<(), MvccError> {
    for op in steps.take(request).1 {
        match &op.request {
            Some(Request::RequestPut(put)) => txn.put(put, None)?,
            Some(Request::RequestDeleteRange(delete)) => drop(txn.delete_range(delete, None)?),
            Some(Request::RequestTxn(nested)) => execute_unanswered(txn, nested, steps)?,
            Some(Request::RequestRange(_)) | None => {}
        }
    }
    Ok(())
}

/// Appends the `ResponseOp` of a range.
fn answer_range(
    reader: &Reader<'_>,
    range: &RangeRequest,
    out: &mut Vec<u8>,
) -> Result<(), MvccError> {
    put_delimited(out, OP_RANGE, |out| {
        put_header(out, reader.revisions().current);
        let outcome = reader.range(range, out)?;
        put_int(out, MORE, i64::from(outcome.more));
        put_int(out, COUNT, outcome.count);
        Ok(())
    })
}

fn put_header(out: &mut Vec<u8>, revision: i64) {
    put_delimited(out, HEADER, |out| put_int(out, HEADER_REVISION, revision));
}
