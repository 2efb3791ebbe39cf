//! What happened, twice: as a hash that two runs of a seed must share, and the last events in
//! words for whoever has to find out why a seed fails.

use std::collections::VecDeque;

use ringd::node::{PeerMessage, SnapshotMessage};
use ringd::raft::Body;

use crate::odds::Fault;
use crate::random::Digest;

/// Events that are kept: of all kinds, and of those that are few and tell the story.
const KEPT: usize = 200;
const LANDMARKS: usize = 60;

#[derive(Clone, Copy, Debug)]
pub enum What {
    Turn { term: u64, commit: u64, applied: u64, leads: bool },
    Deliver { from: u64, kind: &'static str, term: u64 },
    Lost { from: u64, kind: &'static str },
    LogDone,
    StoreDone,
    Asked { client: u64, op: u64 },
    Said { client: u64, kind: &'static str },
    Fault(Fault),
    Start { incarnation: u64, applied: u64 },
    Stop,
    Heal,
}

impl What {
    fn is_landmark(self) -> bool {
        use What::{Asked, Fault, Heal, Said, Start, Stop};
        matches!(self, Asked { .. } | Said { .. } | Fault(_) | Start { .. } | Stop | Heal)
    }
}

/// When, at which member, what.
type Event = (u64, u64, What);

pub struct Trace {
    pub hash: Digest,
    pub events: u64,
    kept: VecDeque<Event>,
    landmarks: VecDeque<Event>,
}

impl Trace {
    pub fn new() -> Trace {
        Trace { hash: Digest::EMPTY, events: 0, kept: VecDeque::new(), landmarks: VecDeque::new() }
    }

    /// Something happened at a member.
    pub fn note(&mut self, now_us: u64, member: u64, what: What) {
        self.events += 1;
        let hash = self.hash.word(now_us).word(member);
        self.hash = match what {
            What::Turn { term, commit, applied, leads } => {
                hash.word(term).word(commit << 1 | u64::from(leads)).word(applied)
            }
            What::Deliver { from, kind, term } => hash.word(from).word(term).bytes(kind.as_bytes()),
            What::Lost { from, kind } => hash.word(from).bytes(kind.as_bytes()),
            What::Asked { client, op } => hash.word(client).word(op),
            What::Said { client, kind } => hash.word(client).bytes(kind.as_bytes()),
            What::Fault(fault) => hash.word(fault as u64),
            What::Start { incarnation, applied } => hash.word(incarnation).word(applied),
            What::LogDone => hash.word(1),
            What::StoreDone => hash.word(2),
            What::Stop => hash.word(3),
            What::Heal => hash.word(4),
        };
        if self.kept.len() == KEPT {
            self.kept.pop_front();
        }
        self.kept.push_back((now_us, member, what));
        if what.is_landmark() {
            if self.landmarks.len() == LANDMARKS {
                self.landmarks.pop_front();
            }
            self.landmarks.push_back((now_us, member, what));
        }
    }

    pub fn print(&self) {
        let print = |event: &Event| {
            let (now_us, member, what) = event;
            eprintln!("{:>12.3} ms  member {member}  {what:?}", *now_us as f64 / 1_000.0);
        };
        eprintln!("the last {} of {} events:", self.kept.len(), self.events);
        self.kept.iter().for_each(print);
        eprintln!("what clients asked and heard, and what was done to members, at last:");
        self.landmarks.iter().for_each(print);
    }
}

pub fn kind(message: &PeerMessage) -> &'static str {
    match message {
        PeerMessage::Raft(message) => match message.body {
            Body::PreVoteRequest { .. } => "PreVoteRequest",
            Body::PreVoteResponse { .. } => "PreVoteResponse",
            Body::VoteRequest { .. } => "VoteRequest",
            Body::VoteResponse { .. } => "VoteResponse",
            Body::Append { ref entries, .. } if entries.is_empty() => "Append of nothing",
            Body::Append { .. } => "Append",
            Body::AppendAccepted { .. } => "AppendAccepted",
            Body::AppendRejected { .. } => "AppendRejected",
            Body::Heartbeat { .. } => "Heartbeat",
            Body::HeartbeatResponse { .. } => "HeartbeatResponse",
            Body::Snapshot { .. } => "Snapshot",
            Body::TimeoutNow => "TimeoutNow",
            Body::ReadIndex { .. } => "ReadIndex",
            _ => "of Raft",
        },
        PeerMessage::Propose { .. } => "Propose",
        PeerMessage::Refused { .. } => "Refused",
        PeerMessage::LeaseRenew { .. } => "LeaseRenew",
        PeerMessage::LeaseRenewed { .. } => "LeaseRenewed",
        PeerMessage::LeaseTimeToLive { .. } => "LeaseTimeToLive",
        PeerMessage::LeaseTimeToLiveIs { .. } => "LeaseTimeToLiveIs",
        PeerMessage::HashKv { .. } => "HashKv",
        PeerMessage::HashKvIs { .. } => "HashKvIs",
        PeerMessage::Gone => "Gone",
        PeerMessage::Snapshot(message) => match message {
            SnapshotMessage::Offer { .. } => "Offer",
            SnapshotMessage::Piece { .. } => "Piece",
            SnapshotMessage::Received { .. } => "Received",
            SnapshotMessage::Complete { .. } => "Complete",
            SnapshotMessage::Over { .. } => "Over",
        },
    }
}
