//! Who is there: the first frame of a connection, its answers, and the list of members for one who
//! joins.
//!
//! ```text
//! kind  body
//!    1  hello     version u16 | lane u8: 0 urgent, 1 data, 2 bulk | cluster u64 |
//!                 from u64 | to u64
//!    2  welcome   version u16
//!    3  refused   version u16 | reason u8 | what the other end is u64
//!                 reason 0 its version is another; 1 its cluster is; 2 its member is;
//!                 3 the sender was removed from the cluster
//!    4  ping      any u64
//!    5  pong      the u64 of the ping
//!    6  query     version u16
//!    7  members   version u16 | cluster u64 | member u64 | count u16 |
//!                 count x (length u32 | member as stored, JSON)
//! ```
//!
//! The version comes first in all of them, and a version that is not known is answered with our own.
//! A hello is answered by 2 or 3, a query by 7. An id that is refused is said to the other end, so
//! that both logs tell what is wrong.

use std::fmt;

use bytes::{Buf, BufMut, Bytes};

use super::PeerError;
use super::frame::{self, Frame};
use super::limits::LISTED_MEMBERS_MAX;
use crate::membership::{Cluster, Member};
use crate::node::Class;
use crate::raft::NodeId;

/// Version of the peer protocol.
pub const VERSION: u16 = 1;

pub const HELLO: u8 = 1;
pub const WELCOME: u8 = 2;
pub const REFUSED: u8 = 3;
pub const PING: u8 = 4;
pub const PONG: u8 = 5;
pub const QUERY: u8 = 6;
pub const MEMBERS: u8 = 7;

/// A member of a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    pub cluster: u64,
    pub member: NodeId,
}

/// What the one who is dialled knows of the cluster.
#[derive(Clone, Copy, Debug)]
pub struct Roster<'a> {
    pub own: NodeId,
    pub cluster: &'a Cluster,
    /// Whether who was removed can be told so (`Node::settled_removal`).
    pub is_removal_settled: bool,
}

/// The first thing a member says on a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hello {
    pub cluster: u64,
    pub from: NodeId,
    pub to: NodeId,
    pub lane: Class,
}

/// Why a hello was not welcome. The numbers are what the one is who refuses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    Version(u16),
    Cluster(u64),
    Member(NodeId),
    Removed,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refusal::Version(version) => {
                write!(f, "peer protocol version mismatch: {version} there, {VERSION} here")
            }
            Refusal::Cluster(id) => write!(f, "cluster ID mismatch: the cluster there is {id:x}"),
            Refusal::Member(id) => write!(f, "member ID mismatch: the member there is {:x}", id.0),
            Refusal::Removed => f.write_str("the member has been permanently removed"),
        }
    }
}

impl Hello {
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&frame::MAGIC);
        frame::put(out, HELLO, |out| {
            out.put_u16_le(VERSION);
            out.put_u8(match self.lane {
                Class::Urgent => 0,
                Class::Data => 1,
                Class::Bulk => 2,
            });
            out.put_u64_le(self.cluster);
            out.put_u64_le(self.from.0);
            out.put_u64_le(self.to.0);
        });
    }

    /// The greeting, or why it cannot be taken: another version says other things behind it.
    pub fn decode(frame: Frame) -> Result<Result<Hello, Refusal>, PeerError> {
        let malformed = PeerError::Malformed { kind: frame.kind };
        let mut body = frame.body;
        match body.try_get_u16_le() {
            Ok(VERSION) => hello(&mut body).map(Ok).ok_or(malformed),
            Ok(_) => Ok(Err(Refusal::Version(VERSION))),
            Err(_) => Err(malformed),
        }
    }

    /// Whether one who knows `roster` may take it. A sender that is not known may have been added
    /// a moment ago, of which we have not heard yet.
    pub fn judge(&self, roster: Roster<'_>) -> Result<(), Refusal> {
        if self.cluster != roster.cluster.id {
            return Err(Refusal::Cluster(roster.cluster.id));
        }
        if self.to != roster.own {
            return Err(Refusal::Member(roster.own));
        }
        if roster.is_removal_settled && roster.cluster.is_removed(self.from.0) {
            return Err(Refusal::Removed);
        }
        Ok(())
    }
}

fn hello(body: &mut Bytes) -> Option<Hello> {
    let lane = match body.try_get_u8().ok()? {
        0 => Class::Urgent,
        1 => Class::Data,
        2 => Class::Bulk,
        _ => return None,
    };
    let cluster = body.try_get_u64_le().ok()?;
    let from = NodeId(body.try_get_u64_le().ok()?);
    let to = NodeId(body.try_get_u64_le().ok()?);
    let sound = body.is_empty() && from != NodeId(0) && from != to;
    sound.then_some(Hello { cluster, from, to, lane })
}

pub fn put_welcome(out: &mut Vec<u8>) {
    frame::put(out, WELCOME, |out| out.put_u16_le(VERSION));
}

pub fn put_refused(refusal: Refusal, out: &mut Vec<u8>) {
    let (reason, what) = match refusal {
        Refusal::Version(version) => (0, version.into()),
        Refusal::Cluster(id) => (1, id),
        Refusal::Member(id) => (2, id.0),
        Refusal::Removed => (3, 0),
    };
    frame::put(out, REFUSED, |out| {
        out.put_u16_le(VERSION);
        out.put_u8(reason);
        out.put_u64_le(what);
    });
}

/// The answer to a hello.
pub fn read_answer(frame: Frame) -> Result<(), PeerError> {
    let malformed = PeerError::Malformed { kind: frame.kind };
    let mut body = frame.body;
    let version = body.try_get_u16_le();
    let refused = |refusal| Err(PeerError::Refused(refusal));
    match (frame.kind, version) {
        (WELCOME | REFUSED, Ok(other)) if other != VERSION => refused(Refusal::Version(other)),
        (WELCOME, Ok(_)) if body.is_empty() => Ok(()),
        (REFUSED, Ok(_)) => match (body.try_get_u8(), body.try_get_u64_le(), body.is_empty()) {
            (Ok(0), Ok(version), true) => refused(Refusal::Version(version as u16)),
            (Ok(1), Ok(id), true) => refused(Refusal::Cluster(id)),
            (Ok(2), Ok(id), true) => refused(Refusal::Member(NodeId(id))),
            (Ok(3), Ok(_), true) => refused(Refusal::Removed),
            _ => Err(malformed),
        },
        (WELCOME, _) => Err(malformed),
        (kind, _) => Err(PeerError::OutOfPlace { kind }),
    }
}

pub fn put_word(kind: u8, word: u64, out: &mut Vec<u8>) {
    frame::put(out, kind, |out| out.put_u64_le(word));
}

/// The word of a ping or pong.
pub fn read_word(frame: Frame) -> Result<u64, PeerError> {
    let malformed = PeerError::Malformed { kind: frame.kind };
    let mut body = frame.body;
    match (body.try_get_u64_le(), body.is_empty()) {
        (Ok(word), true) => Ok(word),
        _ => Err(malformed),
    }
}

/// Asks whoever is there which cluster it belongs to.
#[derive(Debug)]
pub struct Query {
    frames: frame::Frames,
}

/// The answer to a query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listing {
    pub cluster: u64,
    /// The member that answered.
    pub member: NodeId,
    pub members: Vec<Member>,
}

impl Query {
    /// The query, and the bytes to send.
    pub fn new() -> (Query, Vec<u8>) {
        let mut out = frame::MAGIC.to_vec();
        frame::put(&mut out, QUERY, |out| out.put_u16_le(VERSION));
        (Query { frames: frame::Frames::of_dialled() }, out)
    }

    /// Takes bytes of the answer; gives it when it is whole.
    pub fn receive(&mut self, piece: Bytes) -> Result<Option<Listing>, PeerError> {
        self.frames.feed(piece);
        let Some(frame) = self.frames.next().map_err(|_| PeerError::NotRingd)? else {
            return Ok(None);
        };
        match frame.kind {
            MEMBERS => Listing::decode(frame).map(Some),
            REFUSED => read_answer(frame).map(|()| None),
            kind => Err(PeerError::OutOfPlace { kind }),
        }
    }
}

/// The version of a query, if it is ours.
pub fn read_query(frame: Frame) -> Result<(), Refusal> {
    let mut body = frame.body;
    match (body.try_get_u16_le(), body.is_empty()) {
        (Ok(VERSION), true) => Ok(()),
        _ => Err(Refusal::Version(VERSION)),
    }
}

impl Listing {
    pub fn encode(roster: Roster<'_>, out: &mut Vec<u8>) {
        frame::put(out, MEMBERS, |out| {
            out.put_u16_le(VERSION);
            out.put_u64_le(roster.cluster.id);
            out.put_u64_le(roster.own.0);
            let members = roster.cluster.members();
            let count = members.len().min(LISTED_MEMBERS_MAX);
            out.put_u16_le(count as u16);
            for member in members.take(count) {
                let record = member.encode();
                out.put_u32_le(u32::try_from(record.len()).expect("a record is short"));
                out.put_slice(&record);
            }
        });
    }

    fn decode(frame: Frame) -> Result<Listing, PeerError> {
        let malformed = PeerError::Malformed { kind: frame.kind };
        let mut body = frame.body;
        match body.try_get_u16_le() {
            Ok(VERSION) => listing(&mut body).ok_or(malformed),
            Ok(other) => Err(PeerError::Refused(Refusal::Version(other))),
            Err(_) => Err(malformed),
        }
    }
}

fn listing(body: &mut Bytes) -> Option<Listing> {
    let cluster = body.try_get_u64_le().ok()?;
    let member = NodeId(body.try_get_u64_le().ok()?);
    let count = usize::from(body.try_get_u16_le().ok()?);
    if count > LISTED_MEMBERS_MAX {
        return None;
    }
    let mut members = Vec::with_capacity(count);
    for _ in 0..count {
        let length = body.try_get_u32_le().ok()? as usize;
        if length > body.len() {
            return None;
        }
        members.push(Member::read(&body.split_to(length)).ok()?);
    }
    body.is_empty().then_some(Listing { cluster, member, members })
}
