//! The client side of HTTP/2 (RFC 9113) and gRPC, as far as a load needs it: bytes go in, events and
//! bytes come out.
//!
//! Many requests wait in `output` for one send, one read may hold many frames; a message that lies in
//! one frame is handed on as a slice of what was read.
//!
//! Invariants:
//! - Each stream that was opened ends with exactly one [`Event::End`], unless the connection is dropped.
//! - Never more DATA is in the output than the windows of stream and connection allow.
//! - No bytes of a server panic or grow memory beyond the limits: it gets an error, and the
//!   connection is to be closed.
//!
//! It judges a server only as far as it has to in order to go on; it is no test of conformance.

mod messages;
mod request_head;
mod response_head;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::fmt;

use rustc_hash::FxHashMap;
use slab::Slab;

use super::limits::{
    CONCURRENT_STREAMS_DEFAULT, CONNECTION_WINDOW_BYTES, FRAME_BYTES_MAX, HEADER_BYTES_MAX,
    STREAM_WINDOW_BYTES, WINDOW_BYTES_DEFAULT, WINDOW_CREDIT_SHIFT,
};
use crate::grpc::{PREFIX_LEN, encode_prefix};
use crate::h2::frame::{self, FrameHeader, HEADER_LEN, Kind, flags};
use crate::h2::{ErrorCode, PREFACE, StreamId};
use messages::Messages;
pub use messages::Want;
pub use request_head::Method;
use request_head::RequestHeads;
use response_head::{ResponseHead, ResponseHeads};

const SETTINGS_HEADER_TABLE_SIZE: u16 = 1;
const SETTINGS_ENABLE_PUSH: u16 = 2;
const SETTINGS_MAX_CONCURRENT_STREAMS: u16 = 3;
const SETTINGS_INITIAL_WINDOW_SIZE: u16 = 4;
const STREAM_ID_MAX: u32 = (1 << 31) - 1;
/// A buffer of output that has grown beyond this is given back when it is empty.
const OUTPUT_BYTES_KEPT: usize = 1 << 20;

/// What the server did. `token` is the number that the caller gave the stream.
#[derive(Debug)]
pub enum Event<'a> {
    /// A message, empty if the stream wants nothing of it.
    Message {
        token: u32,
        message: &'a [u8],
    },
    End {
        token: u32,
        outcome: Outcome,
    },
}

/// How a call ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    Ok,
    /// Any other `grpc-status`, and its message.
    Status(u32, String),
    /// Not an answer of gRPC.
    Http(u16),
    Reset(ErrorCode),
    /// The server was going away and has not looked at it.
    Refused,
    /// Compressed, cut short, too long, or no message of the type expected.
    Malformed,
}

/// Why a connection is of no use any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Broken(pub &'static str);

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

#[derive(Debug)]
struct Stream {
    id: u32,
    token: u32,
    want: Want,
    messages: Messages,
    /// What may still be sent.
    send_window: i64,
    /// Received and not yet given back.
    uncredited: u32,
    http_status: u16,
    is_request_ended: bool,
    is_unreadable: bool,
}

/// A part of a request that the windows have held back.
#[derive(Debug)]
struct Waiting {
    stream: u32,
    data: Vec<u8>,
    at: usize,
    end_stream: bool,
}

/// HEADERS without END_HEADERS.
#[derive(Debug)]
struct OpenBlock {
    stream: u32,
    end_stream: bool,
    block: Vec<u8>,
}

#[derive(Debug)]
pub struct Connection {
    output: Vec<u8>,
    sent: usize,
    /// The beginning of a frame whose end has not come.
    partial: Vec<u8>,
    streams: Slab<Stream>,
    by_id: FxHashMap<u32, usize>,
    next_id: u32,
    send_window: i64,
    uncredited: u32,
    initial_send_window: i64,
    concurrent_max: u32,
    waiting: VecDeque<Waiting>,
    request_heads: RequestHeads,
    response_heads: ResponseHeads,
    open_block: Option<OpenBlock>,
    is_ready: bool,
    is_going_away: bool,
    bytes_received: u64,
}

impl Connection {
    /// The preface is in the output.
    pub fn new(authority: &str) -> Connection {
        let mut output = PREFACE.to_vec();
        let entries =
            [(SETTINGS_ENABLE_PUSH, 0), (SETTINGS_INITIAL_WINDOW_SIZE, STREAM_WINDOW_BYTES)];
        let length = entries.len() * 6;
        FrameHeader { length, kind: Kind::Settings, flags: 0, stream: StreamId(0) }
            .write(&mut output);
        for (id, value) in entries {
            output.extend_from_slice(&id.to_be_bytes());
            output.extend_from_slice(&value.to_be_bytes());
        }
        let more = CONNECTION_WINDOW_BYTES - WINDOW_BYTES_DEFAULT;
        frame::write_window_update(StreamId(0), more, &mut output);
        Connection {
            output,
            sent: 0,
            partial: Vec::new(),
            streams: Slab::new(),
            by_id: FxHashMap::default(),
            next_id: 1,
            send_window: i64::from(WINDOW_BYTES_DEFAULT),
            uncredited: 0,
            initial_send_window: i64::from(WINDOW_BYTES_DEFAULT),
            concurrent_max: CONCURRENT_STREAMS_DEFAULT,
            waiting: VecDeque::new(),
            request_heads: RequestHeads::new(authority),
            response_heads: ResponseHeads::default(),
            open_block: None,
            is_ready: false,
            is_going_away: false,
            bytes_received: 0,
        }
    }

    /// The server's settings are known: streams can be opened.
    pub fn is_ready(&self) -> bool {
        self.is_ready
    }

    /// How many streams the server takes at a time.
    pub fn concurrent_max(&self) -> usize {
        self.concurrent_max as usize
    }

    /// No stream can be opened any more. The connection is to be replaced once it is idle.
    pub fn is_ending(&self) -> bool {
        self.is_going_away || self.next_id > STREAM_ID_MAX
    }

    pub fn is_idle(&self) -> bool {
        self.streams.is_empty()
    }

    pub fn bytes_received(&self) -> u64 {
        self.bytes_received
    }

    /// What is to be sent; [`Connection::sent`] says how much of it was.
    pub fn output(&self) -> &[u8] {
        self.output.get(self.sent..).unwrap_or_default()
    }

    pub fn sent(&mut self, bytes: usize) {
        self.sent += bytes;
        if self.sent >= self.output.len() {
            self.sent = 0;
            self.output.clear();
            if self.output.capacity() > OUTPUT_BYTES_KEPT {
                self.output = Vec::new();
            }
        }
    }

    /// A call with its only message. Not to be called before the connection is ready, or when it is
    /// ending.
    pub fn open(&mut self, method: Method, message: &[u8], want: Want, token: u32) {
        let key = self.open_stream(method, want, token);
        self.send(key, message, true);
    }

    /// A call that goes on. `token` names it in events; the name that is returned is for
    /// [`Connection::send`], until the stream has ended.
    pub fn open_stream(&mut self, method: Method, want: Want, token: u32) -> usize {
        let id = self.next_id;
        self.next_id = id.saturating_add(2);
        let key = self.streams.insert(Stream {
            id,
            token,
            want,
            messages: Messages::default(),
            send_window: self.initial_send_window,
            uncredited: 0,
            http_status: 0,
            is_request_ended: false,
            is_unreadable: false,
        });
        self.by_id.insert(id, key);
        let start = self.output.len();
        let header = FrameHeader {
            length: 0,
            kind: Kind::Headers,
            flags: flags::END_HEADERS,
            stream: StreamId(id),
        };
        header.write(&mut self.output);
        self.request_heads.write(method, &mut self.output);
        let length = self.output.len() - start - HEADER_LEN;
        self.output[start..start + 3].copy_from_slice(&(length as u32).to_be_bytes()[1..]);
        key
    }

    /// From now on requests are those of the user who got this token.
    pub fn set_token(&mut self, token: String) {
        self.request_heads.set_token(token);
    }

    /// Asks for a sign of life.
    pub fn ping(&mut self) {
        frame::write_ping([0; 8], false, &mut self.output);
    }

    /// One more message of an open call.
    pub fn send(&mut self, key: usize, message: &[u8], end_stream: bool) {
        let Some(stream) = self.streams.get_mut(key) else { return };
        stream.is_request_ended = end_stream;
        let length = PREFIX_LEN + message.len();
        let fits = length as i64 <= self.send_window.min(stream.send_window);
        if self.waiting.is_empty() && fits && length <= FRAME_BYTES_MAX {
            stream.send_window -= length as i64;
            self.send_window -= length as i64;
            let flags = if end_stream { flags::END_STREAM } else { 0 };
            let stream = StreamId(stream.id);
            FrameHeader { length, kind: Kind::Data, flags, stream }.write(&mut self.output);
            self.output.extend_from_slice(&encode_prefix(message.len()));
            self.output.extend_from_slice(message);
            return;
        }
        let data = [&encode_prefix(message.len())[..], message].concat();
        self.waiting.push_back(Waiting { stream: stream.id, data, at: 0, end_stream });
        self.send_waiting();
    }

    /// Takes what was read. After an error the connection is to be dropped.
    pub fn receive(
        &mut self,
        mut input: &[u8],
        on_event: &mut impl FnMut(Event<'_>),
    ) -> Result<(), Broken> {
        self.bytes_received += input.len() as u64;
        if !self.partial.is_empty() {
            let mut partial = std::mem::take(&mut self.partial);
            let mut is_whole = complete(&mut partial, HEADER_LEN, &mut input);
            if is_whole {
                let length = frame_len(&partial)?;
                is_whole = complete(&mut partial, length, &mut input);
            }
            if is_whole {
                let header =
                    FrameHeader::parse(&partial).ok_or(Broken("a frame without header"))?;
                self.frame(header, partial.get(HEADER_LEN..).unwrap_or_default(), on_event)?;
                partial.clear();
            }
            self.partial = partial;
        }
        while let Some(header) = FrameHeader::parse(input) {
            let end = frame_len(input)?;
            let Some((frame, rest)) = input.split_at_checked(end) else { break };
            input = rest;
            self.frame(header, &frame[HEADER_LEN..], on_event)?;
        }
        self.partial.extend_from_slice(input);
        Ok(())
    }

    fn frame(
        &mut self,
        header: FrameHeader,
        payload: &[u8],
        on_event: &mut impl FnMut(Event<'_>),
    ) -> Result<(), Broken> {
        if self.open_block.is_some() && header.kind != Kind::Continuation {
            return Err(Broken("a header block was interrupted"));
        }
        if !self.is_ready && header.kind != Kind::Settings {
            return Err(Broken("the server does not speak HTTP/2"));
        }
        let stream = header.stream.0;
        match header.kind {
            Kind::Data => self.data(header, payload, on_event),
            Kind::Headers => self.headers(header, payload, on_event),
            Kind::Continuation => self.continuation(header, payload, on_event),
            Kind::Settings if !header.has(flags::ACK) => self.settings(payload),
            Kind::Ping if !header.has(flags::ACK) => {
                let payload = payload.try_into().map_err(|_| Broken("PING not of 8 octets"))?;
                frame::write_ping(payload, true, &mut self.output);
                Ok(())
            }
            Kind::WindowUpdate => self.window_update(stream, payload),
            Kind::RstStream => {
                let code = payload.try_into().map_err(|_| Broken("RST_STREAM not of 4 octets"))?;
                let code = ErrorCode(u32::from_be_bytes(code));
                self.end(stream, Outcome::Reset(code), on_event);
                Ok(())
            }
            Kind::GoAway => {
                let last = payload.first_chunk().ok_or(Broken("a short GOAWAY"))?;
                self.go_away(u32::from_be_bytes(*last) & STREAM_ID_MAX, on_event);
                Ok(())
            }
            Kind::PushPromise => Err(Broken("a push, which was not allowed")),
            // Acknowledgements; PRIORITY means nothing; unknown frames are to be ignored.
            _ => Ok(()),
        }
    }

    fn data(
        &mut self,
        header: FrameHeader,
        payload: &[u8],
        on_event: &mut impl FnMut(Event<'_>),
    ) -> Result<(), Broken> {
        // Padding counts for the windows as well.
        self.uncredited += payload.len() as u32;
        if self.uncredited >= CONNECTION_WINDOW_BYTES >> WINDOW_CREDIT_SHIFT {
            frame::write_window_update(StreamId(0), self.uncredited, &mut self.output);
            self.uncredited = 0;
        }
        let data = unpadded(header, payload)?;
        let id = header.stream.0;
        let Some(stream) = self.by_id.get(&id).and_then(|&key| self.streams.get_mut(key)) else {
            // Late data of a stream that has been reset.
            return Ok(());
        };
        let is_end = header.has(flags::END_STREAM);
        stream.uncredited += payload.len() as u32;
        if stream.uncredited >= STREAM_WINDOW_BYTES >> WINDOW_CREDIT_SHIFT && !is_end {
            frame::write_window_update(StreamId(id), stream.uncredited, &mut self.output);
            stream.uncredited = 0;
        }
        let token = stream.token;
        if !stream.is_unreadable {
            let pushed = stream.messages.push(data, stream.want, &mut |message| {
                on_event(Event::Message { token, message });
            });
            stream.is_unreadable = pushed.is_err();
        }
        if is_end {
            // gRPC ends with trailers.
            self.end(id, Outcome::Malformed, on_event);
        }
        Ok(())
    }

    fn headers(
        &mut self,
        header: FrameHeader,
        payload: &[u8],
        on_event: &mut impl FnMut(Event<'_>),
    ) -> Result<(), Broken> {
        let mut block = unpadded(header, payload)?;
        if header.has(flags::PRIORITY) {
            block = block.get(5..).ok_or(Broken("HEADERS without its priority fields"))?;
        }
        let (stream, end_stream) = (header.stream.0, header.has(flags::END_STREAM));
        if header.has(flags::END_HEADERS) {
            return self.block(stream, end_stream, block, on_event);
        }
        self.open_block = Some(OpenBlock { stream, end_stream, block: block.to_vec() });
        Ok(())
    }

    fn continuation(
        &mut self,
        header: FrameHeader,
        payload: &[u8],
        on_event: &mut impl FnMut(Event<'_>),
    ) -> Result<(), Broken> {
        let Some(mut open) = self.open_block.take().filter(|o| o.stream == header.stream.0) else {
            return Err(Broken("CONTINUATION of no header block"));
        };
        if open.block.len() + payload.len() > HEADER_BYTES_MAX {
            return Err(Broken("a header block that is too long"));
        }
        open.block.extend_from_slice(payload);
        if header.has(flags::END_HEADERS) {
            return self.block(open.stream, open.end_stream, &open.block, on_event);
        }
        self.open_block = Some(open);
        Ok(())
    }

    fn block(
        &mut self,
        id: u32,
        end_stream: bool,
        block: &[u8],
        on_event: &mut impl FnMut(Event<'_>),
    ) -> Result<(), Broken> {
        // Decoded for the sake of the table even when the stream is no more.
        let decoded = self.response_heads.decode(block);
        let head = decoded.map_err(|_| Broken("a header block that cannot be decoded"))?;
        let Some(stream) = self.by_id.get(&id).and_then(|&key| self.streams.get_mut(key)) else {
            return Ok(());
        };
        if head.http_status != 0 {
            stream.http_status = head.http_status;
        }
        if end_stream {
            let outcome = outcome(stream, &head);
            self.end(id, outcome, on_event);
        }
        Ok(())
    }

    fn settings(&mut self, payload: &[u8]) -> Result<(), Broken> {
        let (entries, rest) = payload.as_chunks::<6>();
        if !rest.is_empty() {
            return Err(Broken("SETTINGS not of whole entries"));
        }
        if !self.is_ready {
            // Without an entry there is no limit (RFC 9113, 6.5.2).
            self.concurrent_max = u32::MAX;
        }
        for &[i1, i0, v3, v2, v1, v0] in entries {
            let value = u32::from_be_bytes([v3, v2, v1, v0]);
            match u16::from_be_bytes([i1, i0]) {
                SETTINGS_HEADER_TABLE_SIZE => self.request_heads.set_table_bytes(value as usize),
                SETTINGS_MAX_CONCURRENT_STREAMS => self.concurrent_max = value,
                SETTINGS_INITIAL_WINDOW_SIZE if value > STREAM_ID_MAX => {
                    return Err(Broken("a window above 2^31 - 1"));
                }
                SETTINGS_INITIAL_WINDOW_SIZE => {
                    let change = i64::from(value) - self.initial_send_window;
                    self.initial_send_window = i64::from(value);
                    for (_, stream) in &mut self.streams {
                        stream.send_window += change;
                    }
                }
                _ => {}
            }
        }
        self.is_ready = true;
        FrameHeader { length: 0, kind: Kind::Settings, flags: flags::ACK, stream: StreamId(0) }
            .write(&mut self.output);
        self.send_waiting();
        Ok(())
    }

    fn window_update(&mut self, id: u32, payload: &[u8]) -> Result<(), Broken> {
        let more = payload.try_into().map_err(|_| Broken("WINDOW_UPDATE not of 4 octets"))?;
        let more = i64::from(u32::from_be_bytes(more) & STREAM_ID_MAX);
        if id == 0 {
            self.send_window += more;
        } else if let Some(&key) = self.by_id.get(&id) {
            self.streams[key].send_window += more;
        }
        if !self.waiting.is_empty() {
            self.send_waiting();
        }
        Ok(())
    }

    fn go_away(&mut self, last: u32, on_event: &mut impl FnMut(Event<'_>)) {
        self.is_going_away = true;
        let mut refused: Vec<u32> = self.by_id.keys().copied().filter(|&id| id > last).collect();
        refused.sort_unstable();
        for id in refused {
            self.end(id, Outcome::Refused, on_event);
        }
    }

    /// Sends what the windows allow. A stream whose own window is closed holds up no other.
    fn send_waiting(&mut self) {
        let mut blocked = 0;
        while blocked < self.waiting.len() && self.send_window > 0 {
            let waiting = &mut self.waiting[blocked];
            let known = self.by_id.get(&waiting.stream);
            let Some(stream) = known.and_then(|&key| self.streams.get_mut(key)) else {
                self.waiting.remove(blocked);
                continue;
            };
            let rest = waiting.data.get(waiting.at..).unwrap_or_default();
            let window = self.send_window.min(stream.send_window).max(0);
            let length = rest.len().min(FRAME_BYTES_MAX).min(window as usize);
            if length == 0 {
                blocked += 1;
                continue;
            }
            let is_last = length == rest.len();
            let flags = if is_last && waiting.end_stream { flags::END_STREAM } else { 0 };
            let stream_id = StreamId(stream.id);
            FrameHeader { length, kind: Kind::Data, flags, stream: stream_id }
                .write(&mut self.output);
            self.output.extend_from_slice(&rest[..length]);
            waiting.at += length;
            stream.send_window -= length as i64;
            self.send_window -= length as i64;
            if is_last {
                self.waiting.remove(blocked);
            }
        }
    }

    fn end(&mut self, id: u32, outcome: Outcome, on_event: &mut impl FnMut(Event<'_>)) {
        let Some(key) = self.by_id.remove(&id) else { return };
        let stream = self.streams.remove(key);
        let is_reset = matches!(outcome, Outcome::Reset(_) | Outcome::Refused);
        let is_sent = stream.is_request_ended && self.waiting.iter().all(|w| w.stream != id);
        if !is_sent && !is_reset {
            // An answer before the request has ended: the rest of it is not wanted.
            frame::write_rst_stream(StreamId(id), ErrorCode::CANCEL, &mut self.output);
        }
        self.waiting.retain(|waiting| waiting.stream != id);
        on_event(Event::End { token: stream.token, outcome });
    }
}

fn outcome(stream: &Stream, trailers: &ResponseHead) -> Outcome {
    match trailers.grpc_status {
        _ if stream.http_status != 200 => Outcome::Http(stream.http_status),
        Some(0) if stream.is_unreadable || !stream.messages.is_between() => Outcome::Malformed,
        Some(0) => Outcome::Ok,
        Some(code) => Outcome::Status(code, trailers.message.clone()),
        None => Outcome::Malformed,
    }
}

/// Moves octets from `input` until `partial` has `length`; false when they do not suffice.
fn complete(partial: &mut Vec<u8>, length: usize, input: &mut &[u8]) -> bool {
    let missing = length.saturating_sub(partial.len()).min(input.len());
    let (part, rest) = input.split_at(missing);
    partial.extend_from_slice(part);
    *input = rest;
    partial.len() >= length
}

/// Of a whole frame whose header is there; of the header alone when it is not.
fn frame_len(octets: &[u8]) -> Result<usize, Broken> {
    match FrameHeader::parse(octets) {
        None => Ok(HEADER_LEN),
        Some(header) if header.length <= FRAME_BYTES_MAX => Ok(HEADER_LEN + header.length),
        // What HTTP/1.1 answers looks like that.
        Some(_) => Err(Broken("a frame that is too long, or not HTTP/2 at all")),
    }
}

fn unpadded(header: FrameHeader, payload: &[u8]) -> Result<&[u8], Broken> {
    if !header.has(flags::PADDED) {
        return Ok(payload);
    }
    let (&padding, data) = payload.split_first().ok_or(Broken("padding without its length"))?;
    let length = data.len().checked_sub(usize::from(padding));
    length.and_then(|length| data.get(..length)).ok_or(Broken("padding longer than its frame"))
}
