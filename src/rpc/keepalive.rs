//! The LeaseKeepAlive stream: each message renews one lease, answers come in the same order.
//!
//! The leader answers, wherever the stream is. For a lease that has expired and is not revoked yet
//! it waits, so that a client never hears of a renewal that the revocation then overtakes.

use std::collections::VecDeque;

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
        KeepAliveCall { decoder, queue: VecDeque::new(), ended: false }
    }

    /// The client sends no more. Tells whether the stream can end at once.
    pub fn end(&mut self) -> bool {
        self.ended = true;
        self.queue.is_empty()
    }
}

impl Core {
    /// Takes what a client has sent. A stream with too many messages that wait for their answers is held: its
    /// windows are not given back, or its connection is not read, until there are fewer.
    pub(super) fn keep_alive(
        &mut self,
        connections: &mut Connections,
        key: StreamKey,
    ) -> Result<(), RpcError> {
        let header = self.current_header();
        loop {
            let Some((connection, stream)) = connections.touch_stream(key) else { return Ok(()) };
            let Some(Call::KeepAlive(call)) = connection.calls.get(&stream) else { return Ok(()) };
            if call.queue.len() >= limits::KEEP_ALIVE_QUEUE_MAX {
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
        let Some((connection, stream)) = connections.touch_stream(key) else { return };
        let Some(Call::KeepAlive(call)) = connection.calls.get(&stream) else { return };
        if result.is_err() || (call.ended && call.queue.is_empty()) {
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
