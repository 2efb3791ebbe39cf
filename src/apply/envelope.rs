//! The bytes of an entry: etcd's `InternalRaftRequest` around a request as the client sent it.
//!
//! The client's bytes go in as they are, under the field number of their kind, and come out as
//! slices of the entry; nothing is decoded and encoded again on the way into the log. The whole
//! `InternalRaftRequest` is never built: it has a place for every kind of request there is.

use bytes::{Buf, Bytes};
use prost::Message;
use prost::encoding::{
    DecodeContext, WireType, decode_key, decode_varint, encode_key, encode_varint, skip_field,
};

use crate::proto::etcdserverpb::{
    AlarmRequest, CompactionRequest, DeleteRangeRequest, LeaseGrantRequest, LeaseRevokeRequest,
    PutRequest, RequestHeader, TxnRequest,
};
use crate::proto::membershippb::ClusterMemberAttrSetRequest;
use crate::proto::{self, decode_txn};

/// The kinds of requests that are replicated, with their field numbers in `InternalRaftRequest`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Kind {
    Put = 4,
    DeleteRange = 5,
    Txn = 6,
    Compaction = 7,
    LeaseGrant = 8,
    LeaseRevoke = 9,
    Alarm = 10,
    MemberAttributes = 1301,
}

const HEADER_FIELD: u32 = 100;

/// A request that was wrapped.
#[derive(Debug, PartialEq)]
pub enum Request {
    Put(PutRequest),
    DeleteRange(DeleteRangeRequest),
    Txn(TxnRequest),
    Compaction(CompactionRequest),
    LeaseGrant(LeaseGrantRequest),
    LeaseRevoke(LeaseRevokeRequest),
    Alarm(AlarmRequest),
    MemberAttributes(ClusterMemberAttrSetRequest),
    /// A kind that changes nothing here.
    Other,
}

/// Bytes that no member proposes.
#[derive(Debug, PartialEq, Eq)]
pub struct Undecodable;

impl From<proto::Malformed> for Undecodable {
    fn from(_: proto::Malformed) -> Undecodable {
        Undecodable
    }
}

impl From<prost::DecodeError> for Undecodable {
    fn from(_: prost::DecodeError) -> Undecodable {
        Undecodable
    }
}

/// Wraps `request`, an encoded message of `kind`. `id` names the proposal for its proposer.
pub fn wrap(id: u64, kind: Kind, request: &[u8]) -> Vec<u8> {
    let header = RequestHeader { id, ..Default::default() };
    let header_len = header.encoded_len();
    let mut entry = Vec::with_capacity(32 + header_len + request.len());
    encode_key(HEADER_FIELD, WireType::LengthDelimited, &mut entry);
    encode_varint(header_len as u64, &mut entry);
    header.encode(&mut entry).expect("a vector grows");
    encode_key(kind as u32, WireType::LengthDelimited, &mut entry);
    encode_varint(request.len() as u64, &mut entry);
    entry.extend_from_slice(request);
    entry
}

/// Whether an entry is a compaction, without decoding its request.
pub fn is_compaction(mut entry: &[u8]) -> bool {
    while let Ok((field, WireType::LengthDelimited)) = decode_key(&mut entry) {
        if field == Kind::Compaction as u32 {
            return true;
        }
        let Ok(len) = decode_varint(&mut entry) else { return false };
        match usize::try_from(len).ok().and_then(|len| entry.get(len..)) {
            Some(rest) => entry = rest,
            None => return false,
        }
    }
    false
}

/// The id of the proposal and the request. Byte strings are slices of `entry`.
pub fn unwrap(mut entry: Bytes) -> Result<(u64, Request), Undecodable> {
    let mut id = 0;
    let mut request = Request::Other;
    while entry.has_remaining() {
        let (field, wire_type) = decode_key(&mut entry)?;
        if wire_type != WireType::LengthDelimited {
            skip_field(wire_type, field, &mut entry, DecodeContext::default())?;
            continue;
        }
        let len = decode_varint(&mut entry)?;
        if len > entry.remaining() as u64 {
            return Err(Undecodable);
        }
        let inner = entry.split_to(len as usize);
        match field {
            HEADER_FIELD => id = RequestHeader::decode(inner)?.id,
            4 => request = Request::Put(PutRequest::decode(inner)?),
            5 => request = Request::DeleteRange(DeleteRangeRequest::decode(inner)?),
            6 => request = Request::Txn(decode_txn(inner)?),
            7 => request = Request::Compaction(CompactionRequest::decode(inner)?),
            8 => request = Request::LeaseGrant(LeaseGrantRequest::decode(inner)?),
            9 => request = Request::LeaseRevoke(LeaseRevokeRequest::decode(inner)?),
            10 => request = Request::Alarm(AlarmRequest::decode(inner)?),
            1301 => {
                request = Request::MemberAttributes(ClusterMemberAttrSetRequest::decode(inner)?);
            }
            _ => {}
        }
    }
    Ok((id, request))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::etcdserverpb::InternalRaftRequest;

    #[test]
    fn a_wrapped_request_is_an_internal_raft_request() {
        let put = PutRequest { key: "k".into(), value: "v".into(), lease: 7, ..Default::default() };
        let entry = wrap(1 << 63, Kind::Put, &put.encode_to_vec());
        let decoded = InternalRaftRequest::decode(entry.as_slice()).unwrap();
        assert_eq!(decoded.header.unwrap().id, 1 << 63);
        assert_eq!(decoded.put.as_ref(), Some(&put));
        assert!(decoded.txn.is_none() && decoded.range.is_none());
        assert_eq!(unwrap(entry.into()).unwrap(), (1 << 63, Request::Put(put)));
    }

    #[test]
    fn an_entry_of_a_kind_that_is_not_known_changes_nothing() {
        let request = InternalRaftRequest {
            header: Some(RequestHeader { id: 9, ..Default::default() }),
            auth_enable: Some(Default::default()),
            ..Default::default()
        };
        assert_eq!(unwrap(request.encode_to_vec().into()).unwrap(), (9, Request::Other));
    }

    #[test]
    fn compactions_are_told_from_other_entries() {
        let compaction = CompactionRequest { revision: 5, physical: true }.encode_to_vec();
        let entry = wrap(u64::MAX, Kind::Compaction, &compaction);
        assert!(is_compaction(&entry));
        assert!(!is_compaction(&entry[..3]));
        assert!(!is_compaction(&wrap(1, Kind::Put, &compaction)));
        assert!(!is_compaction(b""));
    }

    #[test]
    fn damaged_entries_are_errors() {
        let put = PutRequest { key: "k".into(), ..Default::default() };
        let entry = wrap(1, Kind::Put, &put.encode_to_vec());
        for len in 1..entry.len() {
            if let Ok((_, request)) = unwrap(Bytes::copy_from_slice(&entry[..len])) {
                assert_eq!(request, Request::Other, "cut at {len}");
            }
        }
    }
}
