//! `KV/RangeStream`: a range in chunks, made only as fast as the connection takes them.

use bytes::Bytes;
use prost::encoding::{WireType, bool, encode_key, encode_varint, int64};

use super::connection::{Call, Caller, Connections, StreamKey};
use super::dispatch::decode;
use super::encode::Message;
use super::error::{self, RpcError};
use super::method::Method;
use super::{Core, Read, limits, validate};
use crate::grpc::Code;
use crate::mvcc::{Chunk, MvccError, RangeStream};
use crate::proto::etcdserverpb::RangeRequest;

/// Chunks that one stream makes before the others have their turn.
const CHUNKS_PER_TURN: usize = 4;

/// What the smallest chunk counts for.
const CHUNK_COST_BYTES_MIN: usize = 4 << 10;

pub struct RangeStreamCall {
    /// None once it has begun.
    request: Option<RangeRequest>,
    /// None until the linearization point was reached.
    stream: Option<RangeStream>,
    started: bool,
    /// As of which revision the range was permitted; 0 while nothing has to be.
    auth_revision: u64,
}

/// What a turn of an answer that is made in pieces has come to.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Fed {
    /// There is more to make, and the connection takes it.
    More,
    /// The connection takes no more at the moment.
    Waits,
    IsOver,
}

impl Core {
    pub(super) fn range_stream(
        &mut self,
        connections: &mut Connections,
        caller: Caller,
        message: Bytes,
    ) -> Result<(), RpcError> {
        let request: RangeRequest = decode(message)?;
        validate::range_stream(&request)?;
        let Some(connection) = connections.get(caller.connection) else { return Ok(()) };
        let serializable = request.serializable;
        let call = RangeStreamCall {
            request: Some(request),
            stream: None,
            started: false,
            auth_revision: 0,
        };
        connection.put(caller.stream, Call::RangeStream(Box::new(call)));
        if serializable {
            self.start_range_stream(connections, caller);
        } else {
            self.reads.push(Read::RangeStream(caller))?;
        }
        Ok(())
    }

    /// The linearization point was reached, or none is asked for.
    pub(super) fn start_range_stream(&mut self, connections: &mut Connections, caller: Caller) {
        let Some(connection) = connections.get(caller.connection) else { return };
        let Some(Call::RangeStream(call)) = connection.calls.get_mut(&caller.stream) else {
            return;
        };
        let Some(request) = call.request.take() else { return };
        if let Err(error) = self.permit_range(&request) {
            connection.forget(caller.stream);
            return connections.refuse(caller.connection, caller.stream, error);
        }
        call.auth_revision = self.auth_revision();
        call.stream = Some(RangeStream::new(request, self.options.max_request_bytes));
        self.streaming.push_back(StreamKey::new(caller.connection, caller.stream));
    }

    /// Answers that are made in pieces get one after the other, in turns, until all have done what a turn
    /// allows or wait for their connections. Those that had no turn are first in the next.
    pub(super) fn feed_streams(&mut self, connections: &mut Connections) {
        let mut budget = limits::PIECES_PER_TURN_BYTES;
        // How many in a row have nothing to do at the moment.
        let mut waiting = 0;
        while budget > 0 && waiting < self.streaming.len() {
            let Some(key) = self.streaming.pop_front() else { break };
            let is_large_range = connections.stream(key).is_some_and(|(connection, stream)| {
                matches!(connection.calls.get(&stream), Some(Call::LargeRange(_)))
            });
            let fed = if is_large_range {
                self.feed_large_range(connections, key, &mut budget)
            } else {
                self.feed_stream(connections, key, &mut budget)
            };
            waiting = if fed == Fed::Waits { waiting + 1 } else { 0 };
            if fed != Fed::IsOver {
                self.streaming.push_back(key);
            }
        }
        self.behind_streams = waiting < self.streaming.len();
    }

    fn feed_stream(
        &mut self,
        connections: &mut Connections,
        key: StreamKey,
        budget: &mut usize,
    ) -> Fed {
        for _ in 0..CHUNKS_PER_TURN {
            let Some((connection, stream)) = connections.stream(key) else { return Fed::IsOver };
            if connection.room(stream) == 0 {
                return Fed::Waits;
            }
            let Some((connection, stream)) = connections.touch_stream(key) else {
                return Fed::IsOver;
            };
            let Some(Call::RangeStream(call)) = connection.calls.get_mut(&stream) else {
                return Fed::IsOver;
            };
            let Some(range) = &mut call.stream else { return Fed::IsOver };
            let started = std::mem::replace(&mut call.started, true);
            let permitted_at = call.auth_revision;
            let made = self.chunk(range);
            match made {
                Ok((message, done)) => {
                    *budget = budget.saturating_sub(message.body_len().max(CHUNK_COST_BYTES_MIN));
                    if !started {
                        connection.start_stream(stream);
                    }
                    connection.send_message(stream, message);
                    self.metrics.sent(Method::RangeStream, 1);
                    if done {
                        // As in etcd: what was sent cannot be taken back, but it may have been too much.
                        let permitted = [0, self.auth_revision()].contains(&permitted_at);
                        let result = if permitted { Ok(()) } else { Err(error::AUTH_OLD_REVISION) };
                        connection.forget(stream);
                        let code = result.as_ref().err().map_or(Code::Ok, |error| error.code);
                        self.metrics.handled(Method::RangeStream, code);
                        connection.finish_stream(stream, result);
                        return Fed::IsOver;
                    }
                }
                Err(error) => {
                    let error = self.read_error(error);
                    self.metrics.handled(Method::RangeStream, error.code);
                    connection.forget(stream);
                    if started {
                        connection.finish_stream(stream, Err(error));
                    } else {
                        let id = connection.id;
                        connections.refuse(id, stream, error);
                    }
                    return Fed::IsOver;
                }
            }
        }
        Fed::More
    }

    /// The next message of a stream, and whether it is the last.
    fn chunk(&self, range: &mut RangeStream) -> Result<(Message, bool), MvccError> {
        let applier = &self.node.applier;
        let reader = applier.mvcc.reader(applier.store.view());
        let mut kvs = Vec::new();
        let chunk = range.next_chunk(&reader, &mut kvs)?;
        let mut head = Vec::new();
        let mut tail = Vec::new();
        if let Chunk::Last { revision, more, count } = chunk {
            self.header(revision).encode(&mut head);
            if more {
                bool::encode(3, &true, &mut tail);
            }
            if count != 0 {
                int64::encode(4, &count, &mut tail);
            }
        }
        let len = head.len() + kvs.len() + tail.len();
        let mut message = Message::with_capacity(len + 8);
        encode_key(1, WireType::LengthDelimited, message.out());
        encode_varint(len as u64, message.out());
        for part in [head, kvs, tail] {
            message.out().extend_from_slice(&part);
        }
        Ok((message, matches!(chunk, Chunk::Last { .. })))
    }
}
