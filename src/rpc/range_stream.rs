//! `KV/RangeStream`: a range in chunks, made only as fast as the connection takes them.

use bytes::Bytes;
use prost::encoding::{WireType, bool, encode_key, encode_varint, int64};

use super::connection::{Call, Caller, Connections, StreamKey};
use super::dispatch::decode;
use super::encode::Message;
use super::error::RpcError;
use super::{Core, Read, limits, validate};
use crate::mvcc::{Chunk, MvccError, RangeStream};
use crate::proto::etcdserverpb::RangeRequest;

/// Chunks that one stream makes before the others have their turn.
const CHUNKS_PER_TURN: usize = 4;

pub struct RangeStreamCall {
    request: RangeRequest,
    /// None until the linearization point was reached.
    stream: Option<RangeStream>,
    started: bool,
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
        let key = StreamKey::new(caller.connection, caller.stream);
        let serializable = request.serializable;
        let call = RangeStreamCall { request, stream: None, started: false };
        connection.calls.insert(caller.stream, Call::RangeStream(Box::new(call)));
        if serializable {
            self.start_range_stream(connections, key);
        } else {
            self.reads_new.push(Read::RangeStream(key));
        }
        Ok(())
    }

    pub(super) fn start_range_stream(&mut self, connections: &mut Connections, key: StreamKey) {
        let Some((connection, stream)) = connections.stream(key) else { return };
        let Some(Call::RangeStream(call)) = connection.calls.get_mut(&stream) else { return };
        let request = std::mem::take(&mut call.request);
        call.stream = Some(RangeStream::new(request, self.options.max_request_bytes));
        self.streaming.push_back(key);
    }

    /// Each stream that can send makes some chunks.
    pub(super) fn feed_streams(&mut self, connections: &mut Connections) {
        self.behind_streams = false;
        for _ in 0..self.streaming.len() {
            let Some(key) = self.streaming.pop_front() else { break };
            if self.feed_stream(connections, key) {
                self.streaming.push_back(key);
            }
        }
    }

    /// Tells whether the stream has more to send.
    fn feed_stream(&mut self, connections: &mut Connections, key: StreamKey) -> bool {
        for _ in 0..CHUNKS_PER_TURN {
            let Some((connection, stream)) = connections.stream(key) else { return false };
            if connection.queued(stream) >= limits::STREAM_OUTPUT_MAX_BYTES {
                return true;
            }
            let Some((connection, stream)) = connections.touch_stream(key) else { return false };
            let Some(Call::RangeStream(call)) = connection.calls.get_mut(&stream) else {
                return false;
            };
            let Some(range) = &mut call.stream else { return false };
            let started = std::mem::replace(&mut call.started, true);
            let made = self.chunk(range);
            match made {
                Ok((message, done)) => {
                    if !started {
                        connection.start_stream(stream);
                    }
                    connection.send_message(stream, message);
                    if done {
                        connection.forget(stream);
                        connection.finish_stream(stream, Ok(()));
                        return false;
                    }
                }
                Err(error) => {
                    let error = self.read_error(error);
                    connection.forget(stream);
                    if started {
                        connection.finish_stream(stream, Err(error));
                    } else {
                        let id = connection.id;
                        connections.refuse(id, stream, error);
                    }
                    return false;
                }
            }
        }
        self.behind_streams = true;
        true
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
