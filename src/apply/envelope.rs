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

use crate::auth;
use crate::proto::etcdserverpb::{
    AlarmRequest, CompactionRequest, DeleteRangeRequest, LeaseGrantRequest, LeaseRevokeRequest,
    PutRequest, RequestHeader, TxnRequest,
};
use crate::proto::membershippb::{
    ClusterMemberAttrSetRequest, ClusterVersionSetRequest, DowngradeInfoSetRequest,
};
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
    ClusterVersion = 1300,
    MemberAttributes = 1301,
    Downgrade = 1302,
}

const HEADER_FIELD: u32 = 100;

/// Whose requests are those of nobody in particular.
pub const NOBODY: &auth::Identity = &auth::Identity { user: String::new(), revision: 0 };

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
    ClusterVersion(ClusterVersionSetRequest),
    MemberAttributes(ClusterMemberAttrSetRequest),
    Auth(Box<auth::Request>),
    Downgrade(DowngradeInfoSetRequest),
    /// A kind that changes nothing here.
    Other,
}

/// An entry: who proposed it under which id, on whose behalf, and what.
#[derive(Debug, PartialEq)]
pub struct Unwrapped {
    pub id: u64,
    pub who: auth::Identity,
    pub request: Request,
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
    wrap_for(NOBODY, id, kind as u32, request)
}

/// The same for a request in the field `kind`, on somebody's behalf.
pub fn wrap_for(who: &auth::Identity, id: u64, kind: u32, request: &[u8]) -> Vec<u8> {
    let auth::Identity { user, revision } = who;
    let header = RequestHeader { id, username: user.clone(), auth_revision: *revision };
    let header_len = header.encoded_len();
    let mut entry = Vec::with_capacity(32 + header_len + request.len());
    encode_key(HEADER_FIELD, WireType::LengthDelimited, &mut entry);
    encode_varint(header_len as u64, &mut entry);
    header.encode(&mut entry).expect("a vector grows");
    encode_key(kind, WireType::LengthDelimited, &mut entry);
    encode_varint(request.len() as u64, &mut entry);
    entry.extend_from_slice(request);
    entry
}

/// Whether an entry is a compaction, without decoding its request.
pub fn is_compaction(entry: &[u8]) -> bool {
    request_of(entry, Kind::Compaction).is_some()
}

/// The lease that an entry grants, if it asks for one of its own choice.
pub fn granted_lease(entry: &[u8]) -> Option<i64> {
    LeaseGrantRequest::decode(request_of(entry, Kind::LeaseGrant)?).ok().map(|request| request.id)
}

/// The request in an entry, if it is of this kind.
fn request_of(mut entry: &[u8], kind: Kind) -> Option<&[u8]> {
    while let Ok((field, WireType::LengthDelimited)) = decode_key(&mut entry) {
        let len = usize::try_from(decode_varint(&mut entry).ok()?).ok()?;
        let (inner, rest) = entry.split_at_checked(len)?;
        if field == kind as u32 {
            return Some(inner);
        }
        entry = rest;
    }
    None
}

/// Takes an entry apart. Byte strings are slices of `entry`.
pub fn unwrap(mut entry: Bytes) -> Result<Unwrapped, Undecodable> {
    let mut header = RequestHeader::default();
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
            HEADER_FIELD => header = RequestHeader::decode(inner)?,
            4 => request = Request::Put(PutRequest::decode(inner)?),
            5 => request = Request::DeleteRange(DeleteRangeRequest::decode(inner)?),
            6 => request = Request::Txn(decode_txn(inner)?),
            7 => request = Request::Compaction(CompactionRequest::decode(inner)?),
            8 => request = Request::LeaseGrant(LeaseGrantRequest::decode(inner)?),
            9 => request = Request::LeaseRevoke(LeaseRevokeRequest::decode(inner)?),
            10 => request = Request::Alarm(AlarmRequest::decode(inner)?),
            1300 => request = Request::ClusterVersion(ClusterVersionSetRequest::decode(inner)?),
            1301 => {
                request = Request::MemberAttributes(ClusterMemberAttrSetRequest::decode(inner)?);
            }
            1302 => request = Request::Downgrade(DowngradeInfoSetRequest::decode(inner)?),
            field => {
                if let Some(found) = auth::Request::decode(field, inner)? {
                    request = Request::Auth(Box::new(found));
                }
            }
        }
    }
    let RequestHeader { id, username: user, auth_revision: revision } = header;
    Ok(Unwrapped { id, who: auth::Identity { user, revision }, request })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::etcdserverpb::{AuthUserGetRequest, InternalRaftRequest};

    #[test]
    fn a_wrapped_request_is_an_internal_raft_request() {
        let put = PutRequest { key: "k".into(), value: "v".into(), lease: 7, ..Default::default() };
        let entry = wrap(1 << 63, Kind::Put, &put.encode_to_vec());
        let decoded = InternalRaftRequest::decode(entry.as_slice()).unwrap();
        assert_eq!(decoded.header.unwrap().id, 1 << 63);
        assert_eq!(decoded.put.as_ref(), Some(&put));
        assert!(decoded.txn.is_none() && decoded.range.is_none());
        let unwrapped = unwrap(entry.into()).unwrap();
        assert_eq!((unwrapped.id, unwrapped.request), (1 << 63, Request::Put(put)));
    }

    #[test]
    fn an_entry_says_on_whose_behalf_it_was_proposed() {
        let who = auth::Identity { user: "alice".to_owned(), revision: 9 };
        let request = AuthUserGetRequest { name: "bob".to_owned() };
        let kind = auth::Kind::UserGet as u32;
        let entry = wrap_for(&who, 5, kind, &request.encode_to_vec());
        let decoded = InternalRaftRequest::decode(entry.as_slice()).unwrap();
        assert_eq!(decoded.header.as_ref().unwrap().username, "alice");
        assert_eq!(decoded.auth_user_get.as_ref(), Some(&request));
        let request = Request::Auth(Box::new(auth::Request::UserGet(request)));
        assert_eq!(unwrap(entry.into()).unwrap(), Unwrapped { id: 5, who, request });
    }

    #[test]
    fn an_entry_of_a_kind_that_is_not_known_changes_nothing() {
        let request = InternalRaftRequest {
            header: Some(RequestHeader { id: 9, ..Default::default() }),
            lease_checkpoint: Some(Default::default()),
            ..Default::default()
        };
        let unwrapped = unwrap(request.encode_to_vec().into()).unwrap();
        assert_eq!((unwrapped.id, unwrapped.request), (9, Request::Other));
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
            if let Ok(unwrapped) = unwrap(Bytes::copy_from_slice(&entry[..len])) {
                assert_eq!(unwrapped.request, Request::Other, "cut at {len}");
            }
        }
    }
}
