//! What members say to each other, in bytes.
//!
//! ```text
//! kind  body
//!    1  hello         see hello.rs, as are 2 to 7
//!   16  Raft          term u64 | form u8 | what the form has:
//!                       0 PreVoteRequest     last position | committed position
//!                       1 PreVoteResponse    granted u8 | committed position
//!                       2 VoteRequest        last position | committed position | transfer u8
//!                       3 VoteResponse       granted u8 | committed position
//!                       4 Append             prev position | commit u64 | count u32 |
//!                                            count x (term u64 | kind u8 | length u32 | data)
//!                       5 AppendAccepted     matched u64
//!                       6 AppendRejected     prev u64 | hint position
//!                       7 Heartbeat          commit u64 | round u64
//!                       8 HeartbeatResponse  round u64
//!                       9 Snapshot           snapshot
//!                      10 TimeoutNow
//!                      11 ReadIndex          incarnation u64 | context u64
//!                      12 ReadIndexResponse  incarnation u64 | context u64 | index u64
//!   17  Propose       id u64 | attempt u64 | term u64 | kind u8 | entry: the rest
//!   18  Refused       id u64 | attempt u64 | refusal u8: 0 NotLeader, 1 TooManyRequests, 2 Later, 3 Invalid,
//!                       4 Unhealthy, 5 NotEnoughStarted, 6 LearnerNotReady
//!   19  LeaseRenew    context u64 | lease i64
//!   20  LeaseRenewed  context u64 | lease i64 | ttl in seconds i64
//!   21  LeaseTimeToLive    context u64 | lease i64
//!   22  LeaseTimeToLiveIs  context u64 | lease i64 | granted i64 | remaining i64, seconds
//!   23  Offer         transfer u64 | term u64 | length u64 | snapshot
//!   24  Piece         transfer u64 | offset u64 | data: the rest
//!   25  Received      transfer u64 | offset u64
//!   26  Complete      transfer u64
//!   27  Over          transfer u64
//!   28  HashKv        context u64 | revision i64
//!   29  HashKvIs      context u64 | revision i64 | compact revision i64 | hash u32 |
//!                     auth revision u64 | hash of users and roles u32
//!   30  Gone
//!
//! position      index u64 | term u64
//! snapshot      position | configuration: the rest, as in an entry (src/raft/codec.rs)
//! kind u8       of an entry: 0 Normal, 1 ConfChange
//! ```
//!
//! Sender and receiver of a message of Raft are those of the connection. Entries follow `prev`
//! without a gap, so their indexes are not sent. Data is a slice of what was received.

use bytes::{Buf, BufMut, Bytes};

use super::PeerError;
use super::frame::{self, Frame};
use super::limits::ENTRIES_MAX;
use crate::node::{PeerMessage, Refusal, SnapshotMessage};
use crate::raft::{
    Body, Configuration, Entry, EntryKind, LogIndex, LogPosition, Message, NodeId, SnapshotMeta,
    Term,
};

const RAFT: u8 = 16;
const PROPOSE: u8 = 17;
const REFUSED: u8 = 18;
const LEASE_RENEW: u8 = 19;
const LEASE_RENEWED: u8 = 20;
const LEASE_TTL: u8 = 21;
const LEASE_TTL_IS: u8 = 22;
const OFFER: u8 = 23;
const PIECE: u8 = 24;
const RECEIVED: u8 = 25;
const COMPLETE: u8 = 26;
const OVER: u8 = 27;
const HASH_KV: u8 = 28;
const HASH_KV_IS: u8 = 29;
const GONE: u8 = 30;

/// About what a message takes on the wire, for the bounds of queues.
pub fn size_bytes(message: &PeerMessage) -> usize {
    let data = match message {
        PeerMessage::Raft(Message { body: Body::Append { entries, .. }, .. }) => {
            entries.iter().map(Entry::size_bytes).sum()
        }
        PeerMessage::Propose { entry, .. } => entry.len(),
        PeerMessage::Snapshot(SnapshotMessage::Piece { data, .. }) => data.len(),
        _ => 0,
    };
    frame::HEAD_BYTES + 64 + data
}

/// Appends the frame of a message.
pub fn encode(message: &PeerMessage, out: &mut Vec<u8>) {
    use SnapshotMessage::{Complete, Offer, Over, Piece, Received};
    match message {
        PeerMessage::Raft(raft) => frame::put(out, RAFT, |out| put_raft(raft, out)),
        PeerMessage::Propose { id, attempt, term, kind, entry } => {
            frame::put(out, PROPOSE, |out| {
                out.put_u64_le(*id);
                out.put_u64_le(*attempt);
                out.put_u64_le(term.0);
                out.put_u8(entry_kind(*kind));
                out.put_slice(entry);
            })
        }
        PeerMessage::Refused { id, attempt, refusal } => frame::put(out, REFUSED, |out| {
            out.put_u64_le(*id);
            out.put_u64_le(*attempt);
            out.put_u8(match refusal {
                Refusal::NotLeader => 0,
                Refusal::TooManyRequests => 1,
                Refusal::Later => 2,
                Refusal::Invalid => 3,
                Refusal::Unhealthy => 4,
                Refusal::NotEnoughStarted => 5,
                Refusal::LearnerNotReady => 6,
            });
        }),
        PeerMessage::LeaseRenew { context, lease } => frame::put(out, LEASE_RENEW, |out| {
            out.put_u64_le(*context);
            out.put_i64_le(*lease);
        }),
        PeerMessage::LeaseRenewed { context, lease, ttl_s } => {
            frame::put(out, LEASE_RENEWED, |out| {
                out.put_u64_le(*context);
                out.put_i64_le(*lease);
                out.put_i64_le(*ttl_s);
            });
        }
        PeerMessage::LeaseTimeToLive { context, lease } => frame::put(out, LEASE_TTL, |out| {
            out.put_u64_le(*context);
            out.put_i64_le(*lease);
        }),
        PeerMessage::LeaseTimeToLiveIs { context, lease, granted_s, remaining_s } => {
            frame::put(out, LEASE_TTL_IS, |out| {
                out.put_u64_le(*context);
                out.put_i64_le(*lease);
                out.put_i64_le(*granted_s);
                out.put_i64_le(*remaining_s);
            });
        }
        PeerMessage::Snapshot(Offer { transfer, term, meta, length }) => {
            frame::put(out, OFFER, |out| {
                out.put_u64_le(*transfer);
                out.put_u64_le(term.0);
                out.put_u64_le(*length);
                put_snapshot(meta, out);
            });
        }
        PeerMessage::Snapshot(Piece { transfer, offset, data }) => frame::put(out, PIECE, |out| {
            out.put_u64_le(*transfer);
            out.put_u64_le(*offset);
            out.put_slice(data);
        }),
        PeerMessage::Snapshot(Received { transfer, offset }) => frame::put(out, RECEIVED, |out| {
            out.put_u64_le(*transfer);
            out.put_u64_le(*offset);
        }),
        PeerMessage::Snapshot(Complete { transfer }) => {
            frame::put(out, COMPLETE, |out| out.put_u64_le(*transfer));
        }
        PeerMessage::Snapshot(Over { transfer }) => {
            frame::put(out, OVER, |out| out.put_u64_le(*transfer));
        }
        PeerMessage::HashKv { context, revision } => frame::put(out, HASH_KV, |out| {
            out.put_u64_le(*context);
            out.put_i64_le(*revision);
        }),
        PeerMessage::HashKvIs {
            context,
            revision,
            compact_revision,
            hash,
            auth_revision,
            users_hash,
        } => {
            frame::put(out, HASH_KV_IS, |out| {
                out.put_u64_le(*context);
                out.put_i64_le(*revision);
                out.put_i64_le(*compact_revision);
                out.put_u32_le(*hash);
                out.put_u64_le(*auth_revision);
                out.put_u32_le(*users_hash);
            });
        }
        PeerMessage::Gone => frame::put(out, GONE, |_| {}),
    }
}

fn put_raft(message: &Message, out: &mut Vec<u8>) {
    out.put_u64_le(message.term.0);
    match &message.body {
        Body::PreVoteRequest { last, committed } => {
            out.put_u8(0);
            put_position(*last, out);
            put_position(*committed, out);
        }
        Body::PreVoteResponse { granted, committed } => {
            out.put_u8(1);
            out.put_u8((*granted).into());
            put_position(*committed, out);
        }
        Body::VoteRequest { last, committed, transfer } => {
            out.put_u8(2);
            put_position(*last, out);
            put_position(*committed, out);
            out.put_u8((*transfer).into());
        }
        Body::VoteResponse { granted, committed } => {
            out.put_u8(3);
            out.put_u8((*granted).into());
            put_position(*committed, out);
        }
        Body::Append { prev, commit, entries } => {
            out.put_u8(4);
            put_position(*prev, out);
            out.put_u64_le(commit.0);
            out.put_u32_le(u32::try_from(entries.len()).expect("entries are bounded by bytes"));
            let mut index = prev.index;
            for entry in entries {
                index = index.next();
                assert_eq!(entry.index, index, "entries follow each other");
                out.put_u64_le(entry.term.0);
                out.put_u8(entry_kind(entry.kind));
                out.put_u32_le(
                    u32::try_from(entry.data.len()).expect("an entry fits into a frame"),
                );
                out.put_slice(&entry.data);
            }
        }
        Body::AppendAccepted { matched } => {
            out.put_u8(5);
            out.put_u64_le(matched.0);
        }
        Body::AppendRejected { prev, hint } => {
            out.put_u8(6);
            out.put_u64_le(prev.0);
            put_position(*hint, out);
        }
        Body::Heartbeat { commit, round } => {
            out.put_u8(7);
            out.put_u64_le(commit.0);
            out.put_u64_le(*round);
        }
        Body::HeartbeatResponse { round } => {
            out.put_u8(8);
            out.put_u64_le(*round);
        }
        Body::Snapshot { snapshot } => {
            out.put_u8(9);
            put_snapshot(snapshot, out);
        }
        Body::TimeoutNow => out.put_u8(10),
        Body::ReadIndex { incarnation, context } => {
            out.put_u8(11);
            out.put_u64_le(*incarnation);
            out.put_u64_le(*context);
        }
        Body::ReadIndexResponse { incarnation, context, index } => {
            out.put_u8(12);
            out.put_u64_le(*incarnation);
            out.put_u64_le(*context);
            out.put_u64_le(index.0);
        }
    }
}

fn put_position(position: LogPosition, out: &mut Vec<u8>) {
    out.put_u64_le(position.index.0);
    out.put_u64_le(position.term.0);
}

fn put_snapshot(meta: &SnapshotMeta, out: &mut Vec<u8>) {
    put_position(meta.position, out);
    out.put_slice(&meta.configuration.encode());
}

fn entry_kind(kind: EntryKind) -> u8 {
    match kind {
        EntryKind::Normal => 0,
        EntryKind::ConfChange => 1,
    }
}

/// The message of a frame, on a connection from `from` to `to`.
pub fn decode(from: NodeId, to: NodeId, frame: Frame) -> Result<PeerMessage, PeerError> {
    let kind = frame.kind;
    decode_body(from, to, frame).ok_or(PeerError::Malformed { kind })
}

fn decode_body(from: NodeId, to: NodeId, frame: Frame) -> Option<PeerMessage> {
    let mut body = frame.body;
    let message = match frame.kind {
        RAFT => {
            let term = Term(u64_of(&mut body)?);
            let body = raft_body(&mut body)?;
            PeerMessage::Raft(Message { from, to, term, body })
        }
        PROPOSE => PeerMessage::Propose {
            id: u64_of(&mut body)?,
            attempt: u64_of(&mut body)?,
            term: Term(u64_of(&mut body)?),
            kind: entry_kind_of(&mut body)?,
            entry: rest(&mut body),
        },
        REFUSED => PeerMessage::Refused {
            id: u64_of(&mut body)?,
            attempt: u64_of(&mut body)?,
            refusal: match body.try_get_u8().ok()? {
                0 => Refusal::NotLeader,
                1 => Refusal::TooManyRequests,
                2 => Refusal::Later,
                3 => Refusal::Invalid,
                4 => Refusal::Unhealthy,
                5 => Refusal::NotEnoughStarted,
                6 => Refusal::LearnerNotReady,
                _ => return None,
            },
        },
        LEASE_RENEW => PeerMessage::LeaseRenew {
            context: u64_of(&mut body)?,
            lease: body.try_get_i64_le().ok()?,
        },
        LEASE_RENEWED => PeerMessage::LeaseRenewed {
            context: u64_of(&mut body)?,
            lease: body.try_get_i64_le().ok()?,
            ttl_s: body.try_get_i64_le().ok()?,
        },
        LEASE_TTL => PeerMessage::LeaseTimeToLive {
            context: u64_of(&mut body)?,
            lease: body.try_get_i64_le().ok()?,
        },
        LEASE_TTL_IS => PeerMessage::LeaseTimeToLiveIs {
            context: u64_of(&mut body)?,
            lease: body.try_get_i64_le().ok()?,
            granted_s: body.try_get_i64_le().ok()?,
            remaining_s: body.try_get_i64_le().ok()?,
        },
        OFFER => {
            let transfer = u64_of(&mut body)?;
            let term = Term(u64_of(&mut body)?);
            let length = u64_of(&mut body)?;
            let meta = snapshot(&mut body)?;
            PeerMessage::Snapshot(SnapshotMessage::Offer { transfer, term, meta, length })
        }
        PIECE => PeerMessage::Snapshot(SnapshotMessage::Piece {
            transfer: u64_of(&mut body)?,
            offset: u64_of(&mut body)?,
            data: rest(&mut body),
        }),
        RECEIVED => PeerMessage::Snapshot(SnapshotMessage::Received {
            transfer: u64_of(&mut body)?,
            offset: u64_of(&mut body)?,
        }),
        COMPLETE => {
            PeerMessage::Snapshot(SnapshotMessage::Complete { transfer: u64_of(&mut body)? })
        }
        OVER => PeerMessage::Snapshot(SnapshotMessage::Over { transfer: u64_of(&mut body)? }),
        HASH_KV => PeerMessage::HashKv {
            context: u64_of(&mut body)?,
            revision: body.try_get_i64_le().ok()?,
        },
        HASH_KV_IS => PeerMessage::HashKvIs {
            context: u64_of(&mut body)?,
            revision: body.try_get_i64_le().ok()?,
            compact_revision: body.try_get_i64_le().ok()?,
            hash: body.try_get_u32_le().ok()?,
            auth_revision: u64_of(&mut body)?,
            users_hash: body.try_get_u32_le().ok()?,
        },
        GONE => PeerMessage::Gone,
        _ => return None,
    };
    body.is_empty().then_some(message)
}

fn raft_body(body: &mut Bytes) -> Option<Body> {
    Some(match body.try_get_u8().ok()? {
        0 => Body::PreVoteRequest { last: position(body)?, committed: position(body)? },
        1 => Body::PreVoteResponse { granted: bool_of(body)?, committed: position(body)? },
        2 => Body::VoteRequest {
            last: position(body)?,
            committed: position(body)?,
            transfer: bool_of(body)?,
        },
        3 => Body::VoteResponse { granted: bool_of(body)?, committed: position(body)? },
        4 => {
            let prev = position(body)?;
            let commit = LogIndex(u64_of(body)?);
            let entries = entries(prev.index, body)?;
            Body::Append { prev, commit, entries }
        }
        5 => Body::AppendAccepted { matched: LogIndex(u64_of(body)?) },
        6 => Body::AppendRejected { prev: LogIndex(u64_of(body)?), hint: position(body)? },
        7 => Body::Heartbeat { commit: LogIndex(u64_of(body)?), round: u64_of(body)? },
        8 => Body::HeartbeatResponse { round: u64_of(body)? },
        9 => Body::Snapshot { snapshot: snapshot(body)? },
        10 => Body::TimeoutNow,
        11 => Body::ReadIndex { incarnation: u64_of(body)?, context: u64_of(body)? },
        12 => Body::ReadIndexResponse {
            incarnation: u64_of(body)?,
            context: u64_of(body)?,
            index: LogIndex(u64_of(body)?),
        },
        _ => return None,
    })
}

fn entries(prev: LogIndex, body: &mut Bytes) -> Option<Vec<Entry>> {
    /// Term, kind and length: what an entry takes at least.
    const ENTRY_BYTES_MIN: usize = 13;
    let count = body.try_get_u32_le().ok()? as usize;
    if count > ENTRIES_MAX || count > body.len() / ENTRY_BYTES_MIN {
        return None;
    }
    // The last index must be one.
    prev.0.checked_add(count as u64)?;
    let mut entries = Vec::with_capacity(count);
    let mut index = prev;
    for _ in 0..count {
        index = index.next();
        let term = Term(u64_of(body)?);
        let kind = entry_kind_of(body)?;
        let length = body.try_get_u32_le().ok()? as usize;
        if length > body.len() {
            return None;
        }
        entries.push(Entry { term, index, kind, data: body.split_to(length) });
    }
    Some(entries)
}

fn snapshot(body: &mut Bytes) -> Option<SnapshotMeta> {
    let position = position(body)?;
    let configuration = Configuration::decode(&rest(body)).ok()?;
    Some(SnapshotMeta { position, configuration })
}

fn position(body: &mut Bytes) -> Option<LogPosition> {
    Some(LogPosition { index: LogIndex(u64_of(body)?), term: Term(u64_of(body)?) })
}

fn entry_kind_of(body: &mut Bytes) -> Option<EntryKind> {
    match body.try_get_u8().ok()? {
        0 => Some(EntryKind::Normal),
        1 => Some(EntryKind::ConfChange),
        _ => None,
    }
}

fn u64_of(body: &mut Bytes) -> Option<u64> {
    body.try_get_u64_le().ok()
}

fn bool_of(body: &mut Bytes) -> Option<bool> {
    match body.try_get_u8().ok()? {
        0 => Some(false),
        1 => Some(true),
        _ => None,
    }
}

fn rest(body: &mut Bytes) -> Bytes {
    std::mem::take(body)
}
