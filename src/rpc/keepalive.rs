//! The LeaseKeepAlive stream: each message renews one lease, answers come in the same order.
//!
//! A lease that has expired and is not revoked yet makes its stream wait, so that a client never
//! hears of a renewal that the revocation then overtakes.

use std::collections::VecDeque;

use bytes::Bytes;
use prost::encoding::int64;

use super::Core;
use super::connection::{Call, Caller, Connections, StreamKey};
use super::dispatch::decode;
use super::encode::{Header, Message};
use super::error::RpcError;
use super::lease::{NOT_PRIMARY, TTL_OF_NO_LEASE};
use crate::grpc;
use crate::lease::LeaseId;
use crate::proto::etcdserverpb::LeaseKeepAliveRequest;

/// Messages of one stream that may wait behind an expired lease; beyond it nothing more is read.
const QUEUE_MAX: usize = 1_024;

pub struct KeepAliveCall {
    decoder: grpc::Decoder,
    /// The lease whose revocation is waited for, with the header that its answer gets.
    waiting: Option<(LeaseId, Header)>,
    queue: VecDeque<LeaseId>,
    ended: bool,
}

impl KeepAliveCall {
    pub fn new(decoder: grpc::Decoder) -> KeepAliveCall {
        KeepAliveCall { decoder, waiting: None, queue: VecDeque::new(), ended: false }
    }

    pub fn decoder(&mut self) -> Option<&mut grpc::Decoder> {
        (self.queue.len() < QUEUE_MAX).then_some(&mut self.decoder)
    }

    /// The client sends no more. Tells whether the stream can end at once.
    pub fn end(&mut self) -> bool {
        self.ended = true;
        self.waiting.is_none()
    }
}

impl Core {
    pub(super) fn keep_alive(
        &mut self,
        connections: &mut Connections,
        caller: Caller,
        message: Bytes,
        now_ms: u64,
    ) -> Result<(), RpcError> {
        let request: LeaseKeepAliveRequest = decode(message)?;
        let key = StreamKey::new(caller.connection, caller.stream);
        if let Some((connection, stream)) = connections.touch_stream(key)
            && let Some(Call::KeepAlive(call)) = connection.calls.get_mut(&stream)
        {
            call.queue.push_back(LeaseId(request.id));
        }
        self.renew_queued(connections, key, now_ms)
    }

    /// Renews what a stream has asked for, until one has to wait.
    fn renew_queued(
        &mut self,
        connections: &mut Connections,
        key: StreamKey,
        now_ms: u64,
    ) -> Result<(), RpcError> {
        let header = self.current_header();
        while let Some((connection, stream)) = connections.touch_stream(key)
            && let Some(Call::KeepAlive(call)) = connection.calls.get_mut(&stream)
            && call.waiting.is_none()
            && let Some(id) = call.queue.pop_front()
        {
            if !self.node.raft().is_leader() {
                return Err(NOT_PRIMARY);
            }
            let lessor = &mut self.node.applier.lessor;
            if lessor.contains(id) && lessor.is_expired(id, now_ms) {
                call.waiting = Some((id, header));
                self.expiring.entry(id).or_default().push(key);
                break;
            }
            let ttl = lessor.renew(id, now_ms).unwrap_or(TTL_OF_NO_LEASE);
            connection.send_message(stream, renewed(&header, id, ttl));
        }
        Ok(())
    }

    /// Streams that waited for this lease go on.
    pub(super) fn lease_revoked(
        &mut self,
        connections: &mut Connections,
        id: LeaseId,
        now_ms: u64,
    ) {
        for key in self.expiring.remove(&id).unwrap_or_default() {
            let Some((connection, stream)) = connections.touch_stream(key) else { continue };
            let Some(Call::KeepAlive(call)) = connection.calls.get_mut(&stream) else { continue };
            let Some((_, header)) = call.waiting.take_if(|(waiting, _)| *waiting == id) else {
                continue;
            };
            connection.send_message(stream, renewed(&header, id, TTL_OF_NO_LEASE));
            let result = self.renew_queued(connections, key, now_ms);
            let Some((connection, stream)) = connections.touch_stream(key) else { continue };
            let Some(Call::KeepAlive(call)) = connection.calls.get(&stream) else { continue };
            if result.is_err() || (call.ended && call.waiting.is_none()) {
                connection.forget(stream);
                connection.finish_stream(stream, result);
            }
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
