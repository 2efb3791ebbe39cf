//! One connection: bytes in, calls; answers, bytes out.
//!
//! Tells HTTP/2 from HTTP/1.1 by the first bytes, keeps what each stream is doing, and turns
//! finished calls into frames. What a call means is decided in the files of the services.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use bytes::{Bytes, BytesMut};
use rustc_hash::FxHashMap;
use slab::Slab;

use super::ListenerKind;
use super::access::Presented;
use super::encode::{self, Message};
use super::error::{self, RpcError};
use super::gateway::GatewayCall;
use super::http::Request;
use super::http1;
use super::keepalive::KeepAliveCall;
use super::large_range::LargeRangeCall;
use super::limits;
use super::method::Method;
use super::range_stream::RangeStreamCall;
use super::recipes::Recipe;
use super::reflection::ReflectionCall;
use super::snapshot::SnapshotCall;
use super::watch::WatchCall;
use crate::grpc;
use crate::h2::{self, ErrorCode, RequestHead, Sink, StreamId};

/// Names a connection for as long as it lives; never given to another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnId {
    index: u32,
    generation: u32,
}

/// Who waits for an answer.
#[derive(Clone, Copy, Debug)]
pub struct Caller {
    pub connection: ConnId,
    pub stream: StreamId,
    pub method: Method,
    pub deadline_ms: u64,
    /// The deadline is the client's own (`grpc-timeout`), not the server's patience.
    pub is_clients_deadline: bool,
    /// When the call's message had come.
    pub since_ms: u64,
}

/// Names a stream of all connections, and never one of a connection that has taken the place of another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StreamKey {
    connection: ConnId,
    stream: StreamId,
}

impl StreamKey {
    pub fn new(connection: ConnId, stream: StreamId) -> StreamKey {
        StreamKey { connection, stream }
    }

    /// A shorter name, for the watch hub. It forgets a stream that goes away at once, so it knows none whose
    /// place another one has.
    pub fn short(self) -> u64 {
        u64::from(self.connection.index) << 32 | u64::from(self.stream.0)
    }
}

/// What a stream is doing.
pub enum Call {
    /// Its request is arriving.
    Open(OpenCall),
    /// A unary call whose answer is being made.
    Waiting,
    Watch(WatchCall),
    KeepAlive(KeepAliveCall),
    RangeStream(Box<RangeStreamCall>),
    Snapshot(Box<SnapshotCall>),
    LargeRange(Box<LargeRangeCall>),
    /// `grpc.health.v1.Health/Watch`: told once, and again when it changes.
    HealthWatch,
    Reflection(Box<ReflectionCall>),
    /// A lock or an election.
    Recipe(Box<Recipe>),
    /// A request that is no gRPC call, whose body is dropped. It is answered when it has ended: an answer that
    /// overtakes the rest of its request would end the stream before the rest could be found malformed.
    Plain(Plain),
}

/// A request that is no gRPC call.
#[derive(Clone)]
pub enum Plain {
    Http1(Box<Request>),
    Http2(Rc<RequestHead>),
}

impl Call {
    /// Whether it goes on until somebody ends it.
    pub fn is_stream(&self) -> bool {
        matches!(
            self,
            Call::Watch(_)
                | Call::KeepAlive(_)
                | Call::HealthWatch
                | Call::Reflection(_)
                | Call::Recipe(_)
        )
    }

    /// Whether it has not begun its answer, and may still be told that it is refused.
    pub fn is_unanswered(&self) -> bool {
        match self {
            Call::Open(_) | Call::Waiting => true,
            Call::Recipe(recipe) => !recipe.is_stream(),
            _ => false,
        }
    }

    /// The method of a call that is known by its state.
    pub fn method(&self) -> Option<Method> {
        match self {
            Call::Open(call) => Some(call.method),
            Call::Watch(_) => Some(Method::Watch),
            Call::KeepAlive(_) => Some(Method::LeaseKeepAlive),
            Call::RangeStream(_) => Some(Method::RangeStream),
            Call::Snapshot(_) => Some(Method::Snapshot),
            Call::LargeRange(_) => Some(Method::Range),
            Call::HealthWatch => Some(Method::HealthWatch),
            Call::Reflection(call) => Some(call.method),
            Call::Recipe(recipe) => Some(recipe.method()),
            Call::Waiting | Call::Plain(_) => None,
        }
    }

    /// What collects the messages of a client that may still send some.
    pub fn decoder(&mut self) -> Option<&mut grpc::Decoder> {
        match self {
            Call::Open(call) => Some(&mut call.decoder),
            Call::Watch(call) => Some(&mut call.decoder),
            Call::KeepAlive(call) => Some(&mut call.decoder),
            Call::Reflection(call) => Some(&mut call.decoder),
            Call::Waiting
            | Call::RangeStream(_)
            | Call::LargeRange(_)
            | Call::Snapshot(_)
            | Call::HealthWatch
            | Call::Recipe(_)
            | Call::Plain(_) => None,
        }
    }
}

pub struct OpenCall {
    pub method: Method,
    pub decoder: grpc::Decoder,
    pub deadline_ms: u64,
    pub is_clients_deadline: bool,
}

pub enum Protocol {
    /// Too few bytes so far to tell.
    Unknown(BytesMut),
    Http2(Box<h2::Connection>),
    Http1(Box<http1::Connection>),
}

pub struct Connection {
    pub id: ConnId,
    pub protocol: Protocol,
    pub calls: FxHashMap<StreamId, Call>,
    /// Streams that are to end without a leader (`hasleader`).
    pub needs_leader: BTreeSet<StreamId>,
    /// When the clients of calls give up, where they have said so (`grpc-timeout`).
    pub deadlines: BTreeMap<StreamId, (u64, Method)>,
    /// What calls have presented to say who makes them, of those that have.
    pub presented: FxHashMap<StreamId, Presented>,
    /// There is a TLS session with it.
    pub is_secure: bool,
    /// What the certificate that the client has shown calls it.
    pub common_name: Option<Rc<str>>,
    /// Calls that came by the JSON gateway.
    pub gateway: FxHashMap<StreamId, Box<GatewayCall>>,
    pub kind: ListenerKind,
    pub spoke_tls: bool,
    waiting: usize,
    /// Octets that the decoders of all calls, and the gateway for them, keep of messages that are not complete, or that
    /// wait.
    gathered: usize,
    is_dirty: bool,
    closing: bool,
    opened_ms: u64,
}

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Whether these may be the first bytes of an HTTP/1.1 request.
fn begins_a_request(bytes: &[u8]) -> bool {
    const METHODS: [&[u8]; 9] = [
        b"GET ",
        b"HEAD ",
        b"POST ",
        b"PUT ",
        b"DELETE ",
        b"OPTIONS ",
        b"TRACE ",
        b"CONNECT ",
        b"PATCH ",
    ];
    METHODS.iter().any(|method| {
        let compared = method.len().min(bytes.len());
        method[..compared] == bytes[..compared]
    })
}

impl Connection {
    pub fn h2(&mut self) -> Option<&mut h2::Connection> {
        match &mut self.protocol {
            Protocol::Http2(connection) => Some(connection),
            _ => None,
        }
    }

    /// Decides the protocol once enough bytes are there. Returns the bytes to process, if any.
    pub fn sniff(&mut self, input: Bytes, limits: &h2::Limits) -> Option<Bytes> {
        let Protocol::Unknown(seen) = &mut self.protocol else { return Some(input) };
        seen.extend_from_slice(&input);
        let compared = seen.len().min(PREFACE.len());
        let takes_http2 = matches!(self.kind, ListenerKind::Client | ListenerKind::Grpc);
        let is_http2 = seen[..compared] == PREFACE[..compared] && takes_http2;
        if is_http2 && compared < PREFACE.len() {
            return None;
        }
        let is_request = match self.kind {
            ListenerKind::Client => begins_a_request(seen),
            ListenerKind::Grpc => false,
            ListenerKind::Http | ListenerKind::Metrics => true,
        };
        if !is_http2 && !is_request {
            // No protocol that is spoken here; etcd says nothing, either.
            self.closing = true;
            self.spoke_tls = seen.starts_with(&[0x16, 0x03]);
            return None;
        }
        let seen = std::mem::take(seen).freeze();
        self.protocol = if is_http2 {
            Protocol::Http2(Box::new(h2::Connection::new(*limits)))
        } else {
            Protocol::Http1(Box::default())
        };
        Some(seen)
    }

    pub fn wants_read(&self) -> bool {
        let takes_more = match &self.protocol {
            Protocol::Unknown(_) => true,
            Protocol::Http2(h2) => h2.wants_input(),
            Protocol::Http1(http1) => http1.wants_input(),
        };
        takes_more && !self.closing && self.waiting < limits::CONNECTION_CALLS_MAX
    }

    /// Notes what a stream is doing from now on.
    pub fn put(&mut self, stream: StreamId, call: Call) {
        self.waiting += usize::from(matches!(call, Call::Waiting));
        if let Some(mut before) = self.calls.insert(stream, call) {
            self.uncount(&mut before);
        }
    }

    /// Gives the decoder of a stream more data. False when the connection has sent too much that is not
    /// complete.
    pub fn gather(&mut self, stream: StreamId, data: Bytes) -> bool {
        let Some(decoder) = self.calls.get_mut(&stream).and_then(Call::decoder) else {
            return true;
        };
        decoder.push(data);
        // Counted before anybody looks for messages in it: that may have to wait.
        let counted = decoder.count_buffered();
        self.gathered = (self.gathered + counted.now) - counted.before;
        self.gathered <= limits::CONNECTION_GATHERED_MAX_BYTES
    }

    /// Counts what a call of the gateway keeps of its request. False when the connection has sent too much that is
    /// not complete.
    pub fn count_gateway(&mut self, stream: StreamId) -> bool {
        let Some(call) = self.gateway.get_mut(&stream) else { return true };
        let counted = call.count_kept();
        self.gathered = (self.gathered + counted.now) - counted.before;
        self.gathered <= limits::CONNECTION_GATHERED_MAX_BYTES
    }

    /// Forgets what the gateway has of a call.
    pub fn forget_gateway(&mut self, stream: StreamId) -> Option<Box<GatewayCall>> {
        let call = self.gateway.remove(&stream)?;
        self.gathered -= call.counted();
        Some(call)
    }

    /// Takes no more of a stream, so that its client has to stop, and keeps what has come. False when the connection
    /// keeps too much.
    pub fn hold(&mut self, stream: StreamId) -> bool {
        match &mut self.protocol {
            Protocol::Http2(h2) => h2.hold(stream),
            Protocol::Http1(http1) => http1.hold(),
            Protocol::Unknown(_) => {}
        }
        if let Some(decoder) = self.calls.get_mut(&stream).and_then(Call::decoder) {
            decoder.set_aside();
            let counted = decoder.count_buffered();
            self.gathered = (self.gathered + counted.now) - counted.before;
        }
        self.gathered <= limits::CONNECTION_GATHERED_MAX_BYTES
    }

    pub fn release(&mut self, stream: StreamId) {
        match &mut self.protocol {
            Protocol::Http2(h2) => h2.release(stream),
            Protocol::Http1(http1) => http1.release(),
            Protocol::Unknown(_) => {}
        }
    }

    /// The next whole message that a client has sent on a stream.
    pub fn next_message(&mut self, stream: StreamId) -> Result<Option<Bytes>, grpc::Status> {
        let Some(decoder) = self.calls.get_mut(&stream).and_then(Call::decoder) else {
            return Ok(None);
        };
        let message = decoder.next_message();
        let counted = decoder.count_buffered();
        self.gathered = (self.gathered + counted.now) - counted.before;
        message
    }

    /// Notes that a unary call waits for its answer.
    pub fn wait(&mut self, stream: StreamId) {
        self.put(stream, Call::Waiting);
    }

    /// Forgets a call; answers with what it was doing.
    pub fn forget(&mut self, stream: StreamId) -> Option<Call> {
        let mut call = self.calls.remove(&stream)?;
        self.needs_leader.remove(&stream);
        self.deadlines.remove(&stream);
        if !self.presented.is_empty() {
            self.presented.remove(&stream);
        }
        self.uncount(&mut call);
        Some(call)
    }

    fn uncount(&mut self, call: &mut Call) {
        self.waiting -= usize::from(matches!(call, Call::Waiting));
        self.gathered -= call.decoder().map_or(0, |decoder| decoder.counted());
    }

    /// Sends the one message of a unary call and ends it.
    fn finish_unary(&mut self, stream: StreamId, result: Result<Message, RpcError>) {
        if self.is_gateway(stream) {
            return self.gateway_finish_unary(stream, result);
        }
        let Some(h2) = self.h2() else { return };
        match result {
            Ok(message) => {
                h2.respond(stream, &encode::HEADERS, message.finish(), &encode::TRAILERS_OK);
            }
            Err(error) => h2.send_headers(stream, &encode::trailers_only(&error), true),
        }
    }

    /// Begins the answer of a streaming call.
    pub fn start_stream(&mut self, stream: StreamId) {
        if !self.is_gateway(stream)
            && let Some(h2) = self.h2()
        {
            h2.send_headers(stream, &encode::HEADERS, false);
        }
    }

    pub fn send_message(&mut self, stream: StreamId, message: Message) {
        if self.is_gateway(stream) {
            return self.gateway_message(stream, &message);
        }
        if let Some(h2) = self.h2() {
            h2.send_data(stream, message.finish(), false);
        }
    }

    /// Sends a part of a message. An error ends the call: there is no room for it.
    pub fn send_bytes(&mut self, stream: StreamId, bytes: Vec<u8>) -> Result<(), RpcError> {
        if self.is_gateway(stream) {
            return self.gateway_part(stream, &bytes);
        }
        if let Some(h2) = self.h2() {
            h2.send_data(stream, bytes, false);
        }
        Ok(())
    }

    /// Ends a streaming call that has begun its answer.
    pub fn finish_stream(&mut self, stream: StreamId, result: Result<(), RpcError>) {
        if self.is_gateway(stream) {
            return self.gateway_finish_stream(stream, result);
        }
        let Some(h2) = self.h2() else { return };
        match result {
            Ok(()) => h2.send_headers(stream, &encode::TRAILERS_OK, true),
            Err(error) => h2.send_headers(stream, &encode::trailers(&error), true),
        }
    }

    /// Bytes of one stream that were not sent yet.
    pub fn queued(&mut self, stream: StreamId) -> usize {
        match &mut self.protocol {
            Protocol::Http2(h2) => h2.queued(stream),
            Protocol::Http1(http1) => http1.output_len(),
            Protocol::Unknown(_) => 0,
        }
    }

    /// Bytes of all streams that were not sent yet.
    fn queued_total(&mut self) -> usize {
        match &mut self.protocol {
            Protocol::Http2(h2) => h2.queued_total(),
            Protocol::Http1(http1) => http1.output_len(),
            Protocol::Unknown(_) => 0,
        }
    }

    /// How much more may be queued for one stream.
    pub fn room(&mut self, stream: StreamId) -> usize {
        let waiting = self.queued_total();
        let max = if waiting < limits::CONNECTION_OUTPUT_SOFT_BYTES {
            limits::STREAM_OUTPUT_MAX_BYTES
        } else if waiting < limits::CONNECTION_OUTPUT_MAX_BYTES {
            limits::STREAM_OUTPUT_MIN_BYTES
        } else {
            0
        };
        max.saturating_sub(self.queued(stream))
    }

    /// How large an answer may be that is made in one piece; none when nothing more is to be made.
    pub fn at_once(&mut self) -> Option<usize> {
        let waiting = self.queued_total();
        if waiting < limits::CONNECTION_OUTPUT_SOFT_BYTES {
            Some(limits::RANGE_AT_ONCE_BYTES)
        } else if waiting < limits::CONNECTION_OUTPUT_MAX_BYTES {
            Some(limits::STREAM_OUTPUT_MIN_BYTES)
        } else {
            None
        }
    }

    /// The connection ends once what is queued was sent.
    pub fn close_after_flush(&mut self) {
        self.closing = true;
    }
}

/// All connections, and which of them have something to send.
#[derive(Default)]
pub struct Connections {
    slab: Slab<Connection>,
    dirty: Vec<ConnId>,
    next_generation: u32,
    next_timeout_ms: u64,
}

impl Connections {
    pub fn insert(&mut self, kind: ListenerKind, now_ms: u64) -> Option<ConnId> {
        if self.slab.len() >= limits::CONNECTIONS_MAX {
            return None;
        }
        self.next_generation = self.next_generation.wrapping_add(1);
        let entry = self.slab.vacant_entry();
        let id = ConnId { index: entry.key() as u32, generation: self.next_generation };
        entry.insert(Connection {
            id,
            protocol: Protocol::Unknown(BytesMut::new()),
            calls: FxHashMap::default(),
            kind,
            spoke_tls: false,
            waiting: 0,
            needs_leader: BTreeSet::new(),
            deadlines: BTreeMap::new(),
            presented: FxHashMap::default(),
            is_secure: false,
            common_name: None,
            gateway: FxHashMap::default(),
            gathered: 0,
            is_dirty: false,
            closing: false,
            opened_ms: now_ms,
        });
        Some(id)
    }

    pub fn len(&self) -> usize {
        self.slab.len()
    }

    pub fn get(&mut self, id: ConnId) -> Option<&mut Connection> {
        self.slab.get_mut(id.index as usize).filter(|connection| connection.id == id)
    }

    pub fn remove(&mut self, id: ConnId) -> Option<Connection> {
        self.get(id)?;
        Some(self.slab.remove(id.index as usize))
    }

    /// Carries out what is due on idle connections: keepalive, handshake, lingering.
    pub fn timeout(&mut self, now_ms: u64) {
        if now_ms < self.next_timeout_ms {
            return;
        }
        self.next_timeout_ms = now_ms + limits::CONNECTION_TIMEOUT_SCAN_MS;
        for id in self.ids() {
            let is_silent = |connection: &mut Connection| {
                matches!(connection.protocol, Protocol::Unknown(_))
                    && connection.opened_ms + limits::FIRST_BYTES_TIMEOUT_MS <= now_ms
            };
            if self.get(id).is_some_and(is_silent)
                && let Some(connection) = self.touch(id)
            {
                connection.close_after_flush();
            }
            let due = |h2: &mut h2::Connection| h2.next_timeout().is_some_and(|at| at <= now_ms);
            if self.get(id).and_then(Connection::h2).is_some_and(due)
                && let Some(h2) = self.touch(id).and_then(Connection::h2)
            {
                h2.timeout(now_ms);
            }
        }
    }

    pub fn next_timeout(&self) -> u64 {
        if self.slab.is_empty() { u64::MAX } else { self.next_timeout_ms }
    }

    pub fn ids(&self) -> Vec<ConnId> {
        self.slab.iter().map(|(_, connection)| connection.id).collect()
    }

    /// Calls whose clients have given up by now.
    pub fn overdue(&self, now_ms: u64) -> Vec<(ConnId, StreamId, Method)> {
        let late = self.slab.iter().flat_map(|(_, connection)| {
            let late = connection.deadlines.iter().filter(move |(_, (at_ms, _))| *at_ms <= now_ms);
            late.map(|(stream, (_, method))| (connection.id, *stream, *method))
        });
        late.collect()
    }

    /// Ends a call whose client has given up, as grpc-go does: without a word.
    pub fn cancel(&mut self, id: ConnId, stream: StreamId) -> Option<Call> {
        let connection = self.touch(id)?;
        let call = connection.forget(stream)?;
        if connection.is_gateway(stream) {
            // Those who do not speak gRPC are told.
            connection.gateway_finish_stream(stream, Err(error::DEADLINE_EXCEEDED));
        } else {
            connection.reset(stream, ErrorCode::CANCEL);
        }
        Some(call)
    }

    pub fn any_needs_leader(&self) -> bool {
        self.slab.iter().any(|(_, connection)| !connection.needs_leader.is_empty())
    }

    /// The connection for a change that makes it have something to send.
    pub fn touch(&mut self, id: ConnId) -> Option<&mut Connection> {
        let connection =
            self.slab.get_mut(id.index as usize).filter(|connection| connection.id == id)?;
        if !connection.is_dirty {
            connection.is_dirty = true;
            self.dirty.push(id);
        }
        Some(connection)
    }

    pub fn touch_stream(&mut self, key: StreamKey) -> Option<(&mut Connection, StreamId)> {
        self.touch(key.connection).map(|connection| (connection, key.stream))
    }

    pub fn stream(&mut self, key: StreamKey) -> Option<(&mut Connection, StreamId)> {
        self.get(key.connection).map(|connection| (connection, key.stream))
    }

    /// The stream that has a short name now.
    pub fn named(&self, short: u64) -> Option<StreamKey> {
        let connection = self.slab.get((short >> 32) as usize)?.id;
        Some(StreamKey { connection, stream: StreamId(short as u32) })
    }

    pub fn drain_dirty(&mut self, into: &mut Vec<ConnId>) {
        for id in self.dirty.drain(..) {
            if let Some(connection) = self.slab.get_mut(id.index as usize)
                && connection.id == id
            {
                connection.is_dirty = false;
                into.push(id);
            }
        }
    }

    pub fn take_output(&mut self, id: ConnId, max: usize, out: &mut impl Sink) {
        let Some(connection) = self.get(id) else { return };
        match &mut connection.protocol {
            Protocol::Unknown(_) => {}
            Protocol::Http2(h2) => h2.take_output(max, out),
            Protocol::Http1(http1) => http1.take_output(max, out.buffer()),
        }
    }

    pub fn should_close(&mut self, id: ConnId) -> bool {
        let Some(connection) = self.get(id) else { return true };
        match &connection.protocol {
            Protocol::Unknown(_) => connection.closing,
            Protocol::Http2(h2) => h2.is_closed() || (connection.closing && !h2.wants_output()),
            Protocol::Http1(http1) => {
                (http1.is_closed() || connection.closing) && http1.output_len() == 0
            }
        }
    }

    /// Ends a stream that has no call with an error.
    pub fn refuse(&mut self, id: ConnId, stream: StreamId, error: RpcError) {
        if let Some(connection) = self.touch(id) {
            connection.finish_unary(stream, Err(error));
        }
    }

    /// Answers a unary call, unless its caller has gone away.
    pub fn reply(&mut self, caller: Caller, result: Result<Message, RpcError>) -> bool {
        let Some(connection) = self.touch(caller.connection) else { return false };
        if connection.forget(caller.stream).is_none() {
            return false;
        }
        connection.finish_unary(caller.stream, result);
        true
    }
}
