//! The LeaseKeepAlive stream: each message renews one lease, answers come in the same order.
//!
//! The leader answers, wherever the stream is. For a lease that has expired and is not revoked yet
//! it waits, so that a client never hears of a renewal that the revocation then overtakes.
//!
//! While auth is enabled, a renewal needs a right on each key of its lease. What that may look at in a turn is bounded for
//! all streams together; those that have messages left wait for the next turn, one behind the other.

use std::collections::{BTreeMap, VecDeque};

use prost::encoding::int64;

use super::connection::{Call, Connections, StreamKey};
use super::dispatch::decode;
use super::encode::{Header, Message};
use super::error::{self, RpcError};
use super::method::Method;
use super::metrics::Count;
use super::{Core, limits};
use crate::grpc::{self, Code};
use crate::lease::LeaseId;
use crate::proto::etcdserverpb::LeaseKeepAliveRequest;

pub struct KeepAliveCall {
    pub decoder: grpc::Decoder,
    queue: VecDeque<Renewal>,
    ended: bool,
    /// It waits for the next turn, in this place.
    place: Option<u64>,
}

/// What a turn does for all streams.
#[derive(Default)]
pub struct Turns {
    /// Keys of leases that may still be looked at in this one.
    keys_left: u64,
    /// Streams that wait for the next one, by their places.
    waiting: BTreeMap<u64, StreamKey>,
    last_place: u64,
}

impl Turns {
    pub fn is_awaited(&self) -> bool {
        !self.waiting.is_empty()
    }
}

struct Renewal {
    /// The node's number of the question.
    number: u64,
    lease: LeaseId,
    /// From before the renewal, as etcd's.
    header: Header,
    ttl_s: Option<i64>,
}

impl KeepAliveCall {
    pub fn new(decoder: grpc::Decoder) -> KeepAliveCall {
        KeepAliveCall { decoder, queue: VecDeque::new(), ended: false, place: None }
    }

    /// The client sends no more. Tells whether the stream can end at once.
    pub fn end(&mut self) -> bool {
        self.ended = true;
        self.is_over()
    }

    fn is_over(&self) -> bool {
        self.ended && self.queue.is_empty() && self.place.is_none()
    }
}

impl Core {
    /// Takes what a client has sent. A stream with too many messages that wait for their answers is held: its
    /// windows are not given back, or its connection is not read, until there are fewer. And so is one that waits for
    /// the next turn.
    pub(super) fn keep_alive(
        &mut self,
        connections: &mut Connections,
        key: StreamKey,
    ) -> Result<(), RpcError> {
        let header = self.current_header();
        loop {
            let Some((connection, stream)) = connections.touch_stream(key) else { return Ok(()) };
            let Some(Call::KeepAlive(call)) = connection.calls.get_mut(&stream) else {
                return Ok(());
            };
            let is_full = call.queue.len() >= limits::KEEP_ALIVE_QUEUE_MAX;
            let turns = &mut self.keep_alive_turns;
            if turns.keys_left == 0 && !is_full && call.place.is_none() {
                turns.last_place += 1;
                turns.waiting.insert(turns.last_place, key);
                call.place = Some(turns.last_place);
            }
            if is_full || call.place.is_some() {
                return if connection.hold(stream) {
                    Ok(())
                } else {
                    Err(error::TOO_MANY_REQUESTS)
                };
            }
            let next = connection.next_message(stream)?;
            if next.is_some() {
                self.metrics.received(Method::LeaseKeepAlive);
            }
            let Some(message) = next else {
                connection.release(stream);
                return Ok(());
            };
            let request: LeaseKeepAliveRequest = decode(message)?;
            let lease = LeaseId(request.id);
            self.ask_for(connection, stream);
            let permitted = self.permit_keep_alive(request.id);
            self.ask_for_nobody();
            permitted?;
            if let Some(Call::KeepAlive(call)) = connection.calls.get_mut(&stream) {
                let number = self.node.renew_lease(lease);
                self.keep_alives.insert(number, key);
                call.queue.push_back(Renewal { number, lease, header, ttl_s: None });
            }
        }
    }

    /// A turn begins. Streams that have waited for it go on, each as far as the turn allows.
    pub(super) fn resume_keep_alives(&mut self, connections: &mut Connections) {
        self.keep_alive_turns.keys_left = limits::KEEP_ALIVE_KEYS_PER_TURN;
        while self.keep_alive_turns.keys_left > 0
            && let Some((_, key)) = self.keep_alive_turns.waiting.pop_first()
        {
            let Some((connection, stream)) = connections.stream(key) else { continue };
            let Some(Call::KeepAlive(call)) = connection.calls.get_mut(&stream) else { continue };
            call.place = None;
            let result = self.keep_alive(connections, key);
            self.conclude_keep_alive(connections, key, result);
        }
    }

    /// Nobody waits for it any more.
    pub(super) fn abandon_keep_alive(&mut self, call: &KeepAliveCall) {
        if let Some(place) = call.place {
            self.keep_alive_turns.waiting.remove(&place);
        }
    }

    /// A renewal has looked at so many keys.
    pub(super) fn spend_on_keys(&mut self, keys: u64) {
        let left = &mut self.keep_alive_turns.keys_left;
        *left = left.saturating_sub(keys + 1);
    }

    /// The answer to a renewal: its stream gets it when all before it have theirs.
    pub(super) fn finish_renewal(
        &mut self,
        connections: &mut Connections,
        number: u64,
        answer: Result<i64, RpcError>,
    ) {
        let Some(key) = self.keep_alives.remove(&number) else { return };
        let Some((connection, stream)) = connections.touch_stream(key) else { return };
        let Some(Call::KeepAlive(call)) = connection.calls.get_mut(&stream) else { return };
        // The number of a stream may have gone to another one meanwhile.
        let Some(renewal) = call.queue.iter_mut().find(|renewal| renewal.number == number) else {
            return;
        };
        if answer.as_ref().is_ok_and(|ttl_s| *ttl_s > 0) {
            self.metrics.count(Count::LeaseRenewed, 1);
        }
        let result = answer.map(|ttl_s| renewal.ttl_s = Some(ttl_s));
        let was_full = call.queue.len() >= limits::KEEP_ALIVE_QUEUE_MAX;
        let mut messages = Vec::new();
        while let Some(Renewal { lease, header, ttl_s: Some(ttl_s), .. }) = call.queue.front() {
            messages.push(renewed(header, *lease, *ttl_s));
            call.queue.pop_front();
        }
        self.metrics.sent(Method::LeaseKeepAlive, messages.len() as u64);
        for message in messages {
            connection.send_message(stream, message);
        }
        // What was held back has its turn before the stream can be over.
        let result = match result {
            Ok(()) if was_full => self.keep_alive(connections, key),
            result => result,
        };
        self.conclude_keep_alive(connections, key, result);
    }

    /// Ends a stream that is over, or has failed.
    fn conclude_keep_alive(
        &mut self,
        connections: &mut Connections,
        key: StreamKey,
        result: Result<(), RpcError>,
    ) {
        let Some((connection, stream)) = connections.touch_stream(key) else { return };
        let Some(Call::KeepAlive(call)) = connection.calls.get(&stream) else { return };
        if result.is_err() || call.is_over() {
            self.abandon_keep_alive(call);
            connection.forget(stream);
            let code = result.as_ref().err().map_or(Code::Ok, |error| error.code);
            self.metrics.handled(Method::LeaseKeepAlive, code);
            connection.finish_stream(stream, result);
        }
    }
}

fn renewed(header: &Header, id: LeaseId, ttl: i64) -> Message {
    let mut message = Message::new(header, b"");
    if id.0 != 0 {
        int64::encode(2, &id.0, message.out());
    }
    if ttl != 0 {
        int64::encode(3, &ttl, message.out());
    }
    message
}
