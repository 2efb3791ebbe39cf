//! Transactions, the one message that holds others of its own kind, decoded level by level: prost's bound
//! on nesting ends at fifty transactions, and etcd takes as many as `--max-txn-ops` (by default 128).

use bytes::{Buf, Bytes};
use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};
use prost::{DecodeError, Message};

use super::etcdserverpb::request_op::Request;
use super::etcdserverpb::{
    Compare, DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, TxnRequest,
};

/// Transactions within each other, the outermost counted in. Chosen: more than etcd's default bound lets through, and a
/// small part of a thread's stack.
pub const TXN_DEPTH_MAX: usize = 160;

/// Bytes that are no transaction, or one that is nested too deep.
#[derive(Debug, PartialEq, Eq)]
pub struct Malformed;

impl From<DecodeError> for Malformed {
    fn from(_: DecodeError) -> Malformed {
        Malformed
    }
}

/// Decodes a `TxnRequest`. Byte strings are slices of `message`.
pub fn decode_txn(message: Bytes) -> Result<TxnRequest, Malformed> {
    let mut txn = TxnRequest::default();
    merge_txn(&mut txn, message, TXN_DEPTH_MAX)?;
    Ok(txn)
}

fn merge_txn(txn: &mut TxnRequest, mut rest: Bytes, depth: usize) -> Result<(), Malformed> {
    let depth = depth.checked_sub(1).ok_or(Malformed)?;
    while rest.has_remaining() {
        match take_field(&mut rest, 3)? {
            Some((1, compare)) => txn.compare.push(Compare::decode(compare)?),
            Some((2, op)) => txn.success.push(decode_op(op, depth)?),
            Some((_, op)) => txn.failure.push(decode_op(op, depth)?),
            None => {}
        }
    }
    Ok(())
}

/// What is given twice is merged, and of two kinds the last one counts.
fn decode_op(mut rest: Bytes, depth: usize) -> Result<RequestOp, Malformed> {
    let mut request = None;
    while rest.has_remaining() {
        let Some((field, inner)) = take_field(&mut rest, 4)? else { continue };
        match (field, &mut request) {
            (1, Some(Request::RequestRange(range))) => range.merge(inner)?,
            (2, Some(Request::RequestPut(put))) => put.merge(inner)?,
            (3, Some(Request::RequestDeleteRange(delete))) => delete.merge(inner)?,
            (4, Some(Request::RequestTxn(txn))) => merge_txn(txn, inner, depth)?,
            (1, _) => request = Some(Request::RequestRange(RangeRequest::decode(inner)?)),
            (2, _) => request = Some(Request::RequestPut(PutRequest::decode(inner)?)),
            (3, _) => {
                request = Some(Request::RequestDeleteRange(DeleteRangeRequest::decode(inner)?));
            }
            _ => {
                let mut txn = TxnRequest::default();
                merge_txn(&mut txn, inner, depth)?;
                request = Some(Request::RequestTxn(txn));
            }
        }
    }
    Ok(RequestOp { request })
}

/// The next field if it is one of those up to `known`, all of which are messages.
fn take_field(rest: &mut Bytes, known: u32) -> Result<Option<(u32, Bytes)>, Malformed> {
    let (field, wire_type) = decode_key(rest)?;
    if field > known {
        skip_field(wire_type, field, rest, DecodeContext::default())?;
        return Ok(None);
    }
    if wire_type != WireType::LengthDelimited {
        return Err(Malformed);
    }
    let len = decode_varint(rest)?;
    if len > rest.remaining() as u64 {
        return Err(Malformed);
    }
    Ok(Some((field, rest.split_to(len as usize))))
}
