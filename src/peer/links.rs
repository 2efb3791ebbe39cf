//! All lanes to all other members.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::PeerError;
use super::hello::{Hello, Identity, Refusal};
use super::lane::{Counters, Lane, State};
use super::limits::COMPLAINT_INTERVAL_MS;
use crate::node::{Class, PeerMessage};
use crate::raft::NodeId;

const LANES: [Class; 3] = [Class::Urgent, Class::Data, Class::Bulk];

/// One connection of one lane. Each attempt to connect has a number of its own, so that what
/// happens late to an old socket is told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LaneId {
    pub member: NodeId,
    pub lane: Class,
    pub attempt: u64,
}

/// A connection to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dial {
    pub id: LaneId,
    pub url: String,
}

/// What is worth a line in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    Active {
        member: NodeId,
        lane: Class,
    },
    Inactive {
        member: NodeId,
        lane: Class,
        reason: String,
    },
    Unreachable {
        member: NodeId,
        url: String,
        reason: String,
    },
    /// Another member says that this one was removed from the cluster.
    Removed {
        by: NodeId,
    },
}

struct Link {
    urls: Vec<String>,
    lanes: [(Lane, u64); 3],
    complain_us: u64,
}

pub struct Links {
    own: Identity,
    links: BTreeMap<NodeId, Link>,
    attempts: u64,
    events: Vec<Event>,
    /// Connections that are to be closed.
    closing: Vec<LaneId>,
}

impl Links {
    pub fn new(own: Identity) -> Links {
        Links { own, links: BTreeMap::new(), attempts: 0, events: Vec::new(), closing: Vec::new() }
    }

    /// The other members and their addresses, whenever they change.
    pub fn set_members<'a>(
        &mut self,
        members: impl IntoIterator<Item = (NodeId, &'a [String])>,
        now_us: u64,
    ) {
        let mut old = std::mem::take(&mut self.links);
        for (id, urls) in members {
            if id == self.own.member {
                continue;
            }
            let link = match old.remove(&id) {
                Some(mut link) => {
                    if link.urls != urls {
                        link.urls = urls.to_vec();
                        link.lanes.iter_mut().for_each(|(lane, _)| lane.hasten(now_us));
                    }
                    link
                }
                None => self.new_link(id, urls, now_us),
            };
            self.links.insert(id, link);
        }
        for (member, link) in old {
            self.closing.extend(link.open().map(|(lane, attempt)| LaneId {
                member,
                lane,
                attempt,
            }));
        }
    }

    /// Whether there is no other member.
    pub fn is_empty(&self) -> bool {
        self.links.is_empty()
    }

    fn new_link(&self, to: NodeId, urls: &[String], now_us: u64) -> Link {
        let Identity { cluster, member: from } = self.own;
        let lane = |lane| (Lane::new(Hello { cluster, from, to, lane }, now_us), 0);
        Link { urls: urls.to_vec(), lanes: LANES.map(lane), complain_us: 0 }
    }

    /// Puts a message into its lane. One for a member that is not known is dropped.
    pub fn send(&mut self, to: NodeId, message: PeerMessage) {
        let class = message.class();
        if let Some(link) = self.links.get_mut(&to) {
            link.lanes[class as usize].0.send(message);
        }
    }

    /// Moves time: who is to be dialled goes to `dials`.
    pub fn tick(&mut self, now_us: u64, dials: &mut Vec<Dial>) {
        let mut failed = Vec::new();
        for (&member, link) in &mut self.links {
            for ((lane, attempt), class) in link.lanes.iter_mut().zip(LANES) {
                let id = LaneId { member, lane: class, attempt: *attempt };
                if let Err(error) = lane.tick(now_us) {
                    failed.push((id, error));
                } else if !link.urls.is_empty() && lane.dial(now_us) {
                    self.attempts += 1;
                    *attempt = self.attempts;
                    // Each attempt tries the next address.
                    let url = &link.urls[self.attempts as usize % link.urls.len()];
                    dials.push(Dial { id: LaneId { attempt: *attempt, ..id }, url: url.clone() });
                }
            }
        }
        for (id, error) in failed {
            self.closing.push(id);
            self.failed(id, &error.to_string(), now_us);
        }
    }

    pub fn next_deadline_us(&self) -> u64 {
        let lanes = self.links.values().filter(|link| !link.urls.is_empty());
        let lanes = lanes.flat_map(|link| &link.lanes);
        lanes.map(|(lane, _)| lane.next_deadline_us()).min().unwrap_or(u64::MAX)
    }

    fn lane(&mut self, id: LaneId) -> Option<&mut Lane> {
        let (lane, attempt) = &mut self.links.get_mut(&id.member)?.lanes[id.lane as usize];
        (*attempt == id.attempt).then_some(lane)
    }

    /// The other end has accepted. False: nobody wants this connection any more.
    pub fn connected(&mut self, id: LaneId, now_us: u64) -> bool {
        let Some(lane) = self.lane(id) else { return false };
        let wanted = matches!(lane.state(), State::Connecting { .. });
        if wanted {
            lane.connected(now_us);
        }
        wanted
    }

    /// The other end takes a part of what had to wait for it.
    pub fn progressed(&mut self, id: LaneId, now_us: u64) {
        if let Some(lane) = self.lane(id) {
            lane.progressed(now_us);
        }
    }

    /// The connection is over, or was never made.
    pub fn failed(&mut self, id: LaneId, reason: &str, now_us: u64) {
        let Some(lane) = self.lane(id) else { return };
        let was = lane.state();
        if matches!(was, State::Idle { .. }) {
            return;
        }
        lane.failed(now_us);
        let LaneId { member, lane, .. } = id;
        let reason = reason.to_owned();
        if matches!(was, State::Up { .. }) {
            self.events.push(Event::Inactive { member, lane, reason });
        } else if let Some(link) = self.links.get_mut(&member)
            && link.complain_us <= now_us
        {
            link.complain_us = now_us + COMPLAINT_INTERVAL_MS * 1000;
            let url = link.urls.join(",");
            self.events.push(Event::Unreachable { member, url, reason });
        }
    }

    /// Bytes of the other end. Gives the round trip of a ping, in microseconds. After an error the
    /// connection is to be closed.
    pub fn receive(
        &mut self,
        id: LaneId,
        piece: Bytes,
        now_us: u64,
    ) -> Result<Option<u64>, PeerError> {
        let Some(lane) = self.lane(id) else { return Ok(None) };
        let was_up = matches!(lane.state(), State::Up { .. });
        let received = lane.receive(piece, now_us);
        let is_up = matches!(lane.state(), State::Up { .. });
        match &received {
            Ok(_) if is_up && !was_up => {
                self.events.push(Event::Active { member: id.member, lane: id.lane });
            }
            Ok(_) => {}
            Err(error) => {
                if *error == PeerError::Refused(Refusal::Removed) {
                    self.events.push(Event::Removed { by: id.member });
                }
                self.failed(id, &error.to_string(), now_us);
            }
        }
        received
    }

    /// Lanes with something to send, the urgent ones first.
    pub fn with_output(&self, into: &mut Vec<LaneId>) {
        for lane in LANES {
            for (&member, link) in &self.links {
                let (state, attempt) = &link.lanes[lane as usize];
                if state.has_output() {
                    into.push(LaneId { member, lane, attempt: *attempt });
                }
            }
        }
    }

    pub fn take_output(&mut self, id: LaneId, max: usize, out: &mut Vec<u8>) {
        if let Some(lane) = self.lane(id) {
            lane.take_output(max, out);
        }
    }

    pub fn drain_events(&mut self) -> impl Iterator<Item = Event> + '_ {
        self.events.drain(..)
    }

    pub fn drain_closing(&mut self) -> impl Iterator<Item = LaneId> + '_ {
        self.closing.drain(..)
    }

    /// Each member, since when its urgent lane is up, and what was sent to it.
    pub fn members(&self) -> impl Iterator<Item = (NodeId, Option<u64>, Counters)> + '_ {
        self.links.iter().map(|(&id, link)| {
            let since = match link.lanes[0].0.state() {
                State::Up { since_us } => Some(since_us),
                _ => None,
            };
            let mut sum = Counters::default();
            for (lane, _) in &link.lanes {
                sum.sent_bytes += lane.counters.sent_bytes;
                sum.dropped += lane.counters.dropped;
            }
            (id, since, sum)
        })
    }
}

impl Link {
    fn open(&self) -> impl Iterator<Item = (Class, u64)> + '_ {
        let lanes = self.lanes.iter().zip(LANES);
        lanes.map(|((_, attempt), class)| (class, *attempt))
    }
}
