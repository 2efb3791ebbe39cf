//! The receiving half: input into frames, frames into events.
//!
//! Frames are handled where they lie. Only one that is torn across two inputs is copied, and only
//! once.

use std::ops::Range;
use std::rc::Rc;

use bytes::Bytes;

use super::StreamId;
use super::connection::{Connection, Event, Phase};
use super::error::{ErrorCode, Fatal, Violation};
use super::frame::{self, FrameHeader, HEADER_LEN, Kind, PREFACE, flags};
use super::head::{HeadBuilder, RequestHead};
use super::hpack::{DecodeError, Decoded, Decoder};
use super::limits::{CLOSED_STREAMS_REMEMBERED, FRAME_BYTES_MAX, Limits, RESET_STREAMS_REMEMBERED};
use super::settings;
use super::stream::{Signal, Stream};

/// A field block whose END_HEADERS has not come.
#[derive(Debug)]
pub(super) struct OpenBlock {
    stream: StreamId,
    end_stream: bool,
    depends_on_itself: bool,
    fragments: Vec<u8>,
    continuations: u32,
    pub since_ms: u64,
}

/// Why a stream is no longer there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Closed {
    /// Reset by this end: the client may not know yet, so its frames are let pass.
    ResetHere,
    /// Reset by the client, which must not send on it any more.
    ResetByPeer,
    /// Both sides have ended it.
    Ended,
    /// Too long ago to tell, or skipped by the client.
    Forgotten,
}

/// The last streams that were closed; two rings, so that a busy connection does not drive out the
/// few that were reset.
#[derive(Debug, Default)]
pub(super) struct ClosedStreams {
    reset_here: Ring<RESET_STREAMS_REMEMBERED>,
    reset_by_peer: Ring<CLOSED_STREAMS_REMEMBERED>,
    ended: Ring<CLOSED_STREAMS_REMEMBERED>,
}

#[derive(Debug, Default)]
struct Ring<const LEN: usize> {
    ids: Vec<StreamId>,
    next: usize,
}

impl<const LEN: usize> Ring<LEN> {
    #[inline]
    fn push(&mut self, id: StreamId) {
        match self.ids.get_mut(self.next) {
            Some(oldest) => *oldest = id,
            None => self.ids.push(id),
        }
        self.next = (self.next + 1) % LEN;
    }
}

impl ClosedStreams {
    pub fn reset_here(&mut self, id: StreamId) {
        self.reset_here.push(id);
    }

    pub fn ended(&mut self, id: StreamId) {
        self.ended.push(id);
    }

    fn find(&self, id: StreamId) -> Closed {
        if self.reset_here.ids.contains(&id) {
            Closed::ResetHere
        } else if self.reset_by_peer.ids.contains(&id) {
            Closed::ResetByPeer
        } else if self.ended.ids.contains(&id) {
            Closed::Ended
        } else {
            Closed::Forgotten
        }
    }
}

impl Connection {
    pub(super) fn take_input(&mut self, input: Bytes) -> Result<(), Fatal> {
        let mut at = self.take_preface(&input)?;
        at += self.complete_partial(&input, at)?;
        while let Some(header) = FrameHeader::parse(&input[at..]) {
            check_length(&header)?;
            let payload = at + HEADER_LEN..at + HEADER_LEN + header.length;
            if payload.end > input.len() {
                break;
            }
            at = payload.end;
            self.take_frame(&header, &input, payload)?;
        }
        self.partial.extend_from_slice(&input[at..]);
        Ok(())
    }

    /// How much of the input belongs to the magic octets of the preface.
    fn take_preface(&mut self, input: &[u8]) -> Result<usize, Fatal> {
        let Phase::Preface(seen) = self.phase else { return Ok(0) };
        let expected = &PREFACE[seen..];
        let len = expected.len().min(input.len());
        if input[..len] != expected[..len] {
            let code = ErrorCode::PROTOCOL_ERROR;
            return Err(Fatal { code, reason: "invalid connection preface" });
        }
        self.phase = match len == expected.len() {
            true => Phase::FirstSettings,
            false => Phase::Preface(seen + len),
        };
        Ok(len)
    }

    /// Completes the frame the former input ended in; how much of this input that took.
    fn complete_partial(&mut self, input: &[u8], at: usize) -> Result<usize, Fatal> {
        if self.partial.is_empty() {
            return Ok(0);
        }
        let input = &input[at..];
        let mut taken = HEADER_LEN.saturating_sub(self.partial.len()).min(input.len());
        self.partial.extend_from_slice(&input[..taken]);
        let Some(header) = FrameHeader::parse(&self.partial) else { return Ok(taken) };
        check_length(&header)?;
        let frame_len = HEADER_LEN + header.length;
        let more = (frame_len - self.partial.len()).min(input.len() - taken);
        self.partial.reserve_exact(frame_len - self.partial.len());
        self.partial.extend_from_slice(&input[taken..taken + more]);
        taken += more;
        if self.partial.len() == frame_len {
            let whole = Bytes::from(std::mem::take(&mut self.partial));
            self.take_frame(&header, &whole, HEADER_LEN..frame_len)?;
        }
        Ok(taken)
    }

    /// Judges a frame; a violation of a stream ends there, one of the connection is the result.
    #[inline]
    fn take_frame(
        &mut self,
        header: &FrameHeader,
        input: &Bytes,
        payload: Range<usize>,
    ) -> Result<(), Fatal> {
        match self.on_frame(header, input, payload) {
            Ok(()) => Ok(()),
            Err(Violation::Connection(fatal)) => Err(fatal),
            Err(Violation::Stream(stream, code)) => self.reset_for_violation(stream, code),
        }
    }

    #[inline]
    fn on_frame(
        &mut self,
        header: &FrameHeader,
        input: &Bytes,
        payload: Range<usize>,
    ) -> Result<(), Violation> {
        let octets = &input[payload.clone()];
        if self.open_block.is_some() && header.kind != Kind::Continuation {
            return Err(Violation::protocol("frame within a field block"));
        }
        if self.phase == Phase::FirstSettings {
            if header.kind != Kind::Settings || header.has(flags::ACK) {
                return Err(Violation::protocol("connection preface without SETTINGS"));
            }
            self.phase = Phase::Running;
        }
        match header.kind {
            Kind::Data => self.on_data(header, input, payload),
            Kind::Headers => self.on_headers(header, octets),
            Kind::Continuation => self.on_continuation(header, octets),
            Kind::WindowUpdate => self.on_window_update(header, octets),
            Kind::RstStream => self.on_rst_stream(header, octets),
            Kind::Settings => self.on_settings(header, octets),
            Kind::Ping => self.on_ping(header, octets),
            Kind::Priority => self.on_priority(header, octets),
            Kind::GoAway => frame::go_away(header, octets),
            Kind::PushPromise => Err(Violation::protocol("PUSH_PROMISE from a client")),
            Kind::Unknown(_) => Ok(()),
        }
    }

    fn on_data(
        &mut self,
        header: &FrameHeader,
        input: &Bytes,
        payload: Range<usize>,
    ) -> Result<(), Violation> {
        let within = frame::data(header, &input[payload.clone()])?;
        let end_stream = header.has(flags::END_STREAM);
        let flow_bytes = header.length as u32;
        self.refuse_idle(header.stream)?;
        self.receive_window.receive(flow_bytes).map_err(|_| {
            Violation::connection(
                ErrorCode::FLOW_CONTROL_ERROR,
                "DATA beyond the window of the connection",
            )
        })?;
        if within.is_empty() && !end_stream {
            let rate = self.limits.empty_data;
            if !self.floods.empty_data.admit(rate, self.now_ms) {
                return Err(Violation::calm("too many empty DATA frames"));
            }
        }
        let id = header.stream;
        let Some(stream) = self.streams.get_mut(id) else {
            self.give_back_connection(flow_bytes);
            return self.on_closed_stream(id, "DATA on a closed stream");
        };
        let verdict = match stream.state.receive(Signal::Data, end_stream) {
            Err(_) => Err(ErrorCode::STREAM_CLOSED),
            Ok(state) if stream.receive_window.receive(flow_bytes).is_ok() => {
                match count_content(stream, within.len(), end_stream) {
                    true => Ok(state),
                    false => Err(ErrorCode::PROTOCOL_ERROR),
                }
            }
            Ok(_) => Err(ErrorCode::FLOW_CONTROL_ERROR),
        };
        let state = match verdict {
            Ok(state) => state,
            Err(code) => {
                self.give_back_connection(flow_bytes);
                return Err(Violation::Stream(id, code));
            }
        };
        stream.state = state;
        let data_bytes = within.len() as u32;
        let (back, held) = match stream.is_held {
            true => (flow_bytes - data_bytes, data_bytes),
            false => (flow_bytes, 0),
        };
        stream.held_bytes += held;
        if !end_stream && let Some(increment) = stream.receive_window.consume(back) {
            self.output.control(|out| frame::write_window_update(id, increment, out));
        }
        self.give_back_connection(back);
        if !within.is_empty() || end_stream {
            let data = input.slice(payload.start + within.start..payload.start + within.end);
            self.events.push_back(Event::Data { stream: id, data, end_stream });
        }
        Ok(())
    }

    #[inline]
    pub(super) fn give_back_connection(&mut self, bytes: u32) {
        if let Some(increment) = self.receive_window.consume(bytes) {
            self.output.control(|out| frame::write_window_update(StreamId(0), increment, out));
        }
    }

    #[inline]
    fn on_headers(&mut self, header: &FrameHeader, payload: &[u8]) -> Result<(), Violation> {
        let parts = frame::headers(header, payload)?;
        if header.stream.0.is_multiple_of(2) {
            return Err(Violation::protocol("HEADERS on an even stream"));
        }
        let fragment = &payload[parts.fragment];
        let end_stream = header.has(flags::END_STREAM);
        if header.has(flags::END_HEADERS) {
            return self.on_block(header.stream, end_stream, parts.depends_on_itself, fragment);
        }
        self.open_block = Some(OpenBlock {
            stream: header.stream,
            end_stream,
            depends_on_itself: parts.depends_on_itself,
            fragments: fragment.to_vec(),
            continuations: 0,
            since_ms: self.now_ms,
        });
        Ok(())
    }

    fn on_continuation(&mut self, header: &FrameHeader, payload: &[u8]) -> Result<(), Violation> {
        let Some(block) = self.open_block.as_mut().filter(|block| block.stream == header.stream)
        else {
            return Err(Violation::protocol("CONTINUATION without its HEADERS"));
        };
        block.continuations += 1;
        if block.continuations > self.limits.continuation_frames_max
            || block.fragments.len() + payload.len() > self.limits.header_block_bytes_max
        {
            return Err(Violation::calm("field block too long"));
        }
        block.fragments.extend_from_slice(payload);
        if !header.has(flags::END_HEADERS) {
            return Ok(());
        }
        match self.open_block.take() {
            Some(OpenBlock { stream, end_stream, depends_on_itself, fragments, .. }) => {
                self.on_block(stream, end_stream, depends_on_itself, &fragments)
            }
            None => Ok(()),
        }
    }

    /// A complete field block. It is decoded whatever becomes of it, for the sake of the table.
    #[inline]
    fn on_block(
        &mut self,
        id: StreamId,
        end_stream: bool,
        depends_on_itself: bool,
        block: &[u8],
    ) -> Result<(), Violation> {
        if id <= self.highest_stream {
            return self.on_trailers(id, end_stream, depends_on_itself, block);
        }
        let head = self.decode_request(id, block)?;
        self.highest_stream = id;
        if self.last_served.is_some() {
            return Ok(());
        }
        let head = head?;
        let missing_content = end_stream && head.content_length.is_some_and(|length| length != 0);
        if depends_on_itself || missing_content {
            return Err(Violation::Stream(id, ErrorCode::PROTOCOL_ERROR));
        }
        if self.streams.len() >= self.limits.concurrent_streams_max as usize {
            return Err(Violation::Stream(id, ErrorCode::REFUSED_STREAM));
        }
        let state = super::stream::State::Idle
            .receive(Signal::Headers, end_stream)
            .map_err(|_| Violation::protocol("HEADERS in a state without such an edge"))?;
        let mut stream =
            Stream::new(id, state, self.peer.initial_window_bytes, self.limits.stream_window_bytes);
        stream.content_left = head.content_length;
        self.streams.insert(stream);
        self.events.push_back(Event::Headers { stream: id, head, end_stream });
        Ok(())
    }

    /// The outer error is of the connection, the inner one of the stream.
    #[inline]
    fn decode_request(
        &mut self,
        id: StreamId,
        block: &[u8],
    ) -> Result<Result<Rc<RequestHead>, Violation>, Violation> {
        let generation = self.decoder.generation();
        if let Some(head) = self.heads.find(generation, block) {
            return Ok(Ok(head));
        }
        let mut fields = self.heads.fields();
        let is_oversized =
            decode(&mut self.decoder, &self.limits, block, &mut |field| fields.push(field))?;
        if is_oversized {
            return Ok(Err(Violation::Stream(id, ErrorCode::FRAME_SIZE_ERROR)));
        }
        let Ok(head) = fields.into_request() else {
            return Ok(Err(Violation::Stream(id, ErrorCode::PROTOCOL_ERROR)));
        };
        let head = Rc::new(head);
        if generation == self.decoder.generation() {
            self.heads.offer(generation, block, &head);
        }
        Ok(Ok(head))
    }

    fn on_trailers(
        &mut self,
        id: StreamId,
        end_stream: bool,
        depends_on_itself: bool,
        block: &[u8],
    ) -> Result<(), Violation> {
        let mut builder = HeadBuilder::default();
        let push = &mut |decoded: Decoded<'_>| builder.push(decoded.field().clone(), false);
        let is_oversized = decode(&mut self.decoder, &self.limits, block, push)?;
        let Some(stream) = self.streams.get_mut(id) else {
            return match self.closed_streams.find(id) {
                Closed::Forgotten => Err(Violation::protocol("stream identifier out of order")),
                _ => self.on_closed_stream(id, "HEADERS on a closed stream"),
            };
        };
        let Ok(state) = stream.state.receive(Signal::Headers, end_stream) else {
            return Err(Violation::Stream(id, ErrorCode::STREAM_CLOSED));
        };
        if is_oversized {
            return Err(Violation::Stream(id, ErrorCode::FRAME_SIZE_ERROR));
        }
        if !end_stream
            || depends_on_itself
            || builder.check_trailers().is_err()
            || !count_content(stream, 0, true)
        {
            return Err(Violation::Stream(id, ErrorCode::PROTOCOL_ERROR));
        }
        stream.state = state;
        self.events.push_back(Event::Trailers { stream: id });
        Ok(())
    }

    fn on_window_update(&mut self, header: &FrameHeader, payload: &[u8]) -> Result<(), Violation> {
        let increment = frame::window_update(payload)?;
        let id = header.stream;
        if id.0 == 0 {
            if increment == 0 {
                return Err(Violation::protocol("WINDOW_UPDATE of 0"));
            }
            return self.send_window.grow(increment).map_err(|_| {
                Violation::connection(
                    ErrorCode::FLOW_CONTROL_ERROR,
                    "window of the connection above 2^31 - 1",
                )
            });
        }
        self.refuse_idle(id)?;
        if increment == 0 {
            return Err(Violation::Stream(id, ErrorCode::PROTOCOL_ERROR));
        }
        // A closed stream is nothing special: the two may have crossed.
        let Some(stream) = self.streams.get_mut(id) else { return Ok(()) };
        if stream.send_window.grow(increment).is_err() {
            return Err(Violation::Stream(id, ErrorCode::FLOW_CONTROL_ERROR));
        }
        if stream.queued_bytes > 0 && stream.send_window.available() > 0 {
            self.streams.make_ready(id);
        }
        Ok(())
    }

    fn on_rst_stream(&mut self, header: &FrameHeader, payload: &[u8]) -> Result<(), Violation> {
        let code = frame::rst_stream(header, payload)?;
        let id = header.stream;
        self.refuse_idle(id)?;
        let Some(stream) = self.drop_stream(id) else { return Ok(()) };
        self.closed_streams.reset_by_peer.push(id);
        self.events.push_back(Event::Reset { stream: id, code });
        let rate = self.limits.peer_resets;
        if !stream.has_replied && !self.floods.peer_resets.admit(rate, self.now_ms) {
            return Err(Violation::calm("too many resets"));
        }
        Ok(())
    }

    fn on_settings(&mut self, header: &FrameHeader, payload: &[u8]) -> Result<(), Violation> {
        if settings::check(header, payload)? {
            self.is_settings_acked = true;
            return Ok(());
        }
        let rate = self.limits.settings;
        if !self.floods.settings.admit(rate, self.now_ms) {
            return Err(Violation::calm("too many SETTINGS"));
        }
        let before = self.peer;
        self.peer.apply(payload)?;
        if self.peer.header_table_bytes_min < before.header_table_bytes_min
            && before.header_table_bytes_min == super::hpack::CAPACITY_MAX as u32
        {
            self.owes_table_update = true;
        }
        let difference =
            i64::from(self.peer.initial_window_bytes) - i64::from(before.initial_window_bytes);
        if difference != 0 {
            self.shift_send_windows(difference)?;
        }
        self.output.control(settings::write_ack);
        self.check_control_queue()
    }

    fn on_ping(&mut self, header: &FrameHeader, payload: &[u8]) -> Result<(), Violation> {
        let octets = frame::ping(header, payload)?;
        if header.has(flags::ACK) {
            return Ok(());
        }
        self.output.control(|out| frame::write_ping(octets, true, out));
        if !self.pings.admit(&self.limits, !self.streams.is_empty(), self.now_ms) {
            // grpc-go's clients look for exactly this text and slow down.
            return Err(Violation::calm("too_many_pings"));
        }
        self.check_control_queue()
    }

    fn on_priority(&mut self, header: &FrameHeader, payload: &[u8]) -> Result<(), Violation> {
        match frame::priority(header, payload) {
            Err(Violation::Stream(id, code)) if id > self.highest_stream => {
                // There is no stream yet that could be reset.
                Err(Violation::connection(code, "malformed PRIORITY on an idle stream"))
            }
            verdict => verdict,
        }
    }

    fn refuse_idle(&self, id: StreamId) -> Result<(), Violation> {
        if id > self.highest_stream || id.0.is_multiple_of(2) {
            return Err(Violation::protocol("frame on an idle stream"));
        }
        Ok(())
    }

    /// DATA or HEADERS on a stream that is no more (RFC 9113, 5.1, "closed").
    fn on_closed_stream(&mut self, id: StreamId, what: &'static str) -> Result<(), Violation> {
        let is_beyond_go_away = self.last_served.is_some_and(|last| id > last);
        match self.closed_streams.find(id) {
            _ if is_beyond_go_away => Ok(()),
            Closed::ResetHere => Ok(()),
            Closed::Ended => Err(Violation::connection(ErrorCode::STREAM_CLOSED, what)),
            Closed::ResetByPeer | Closed::Forgotten => {
                Err(Violation::Stream(id, ErrorCode::STREAM_CLOSED))
            }
        }
    }

    /// RFC 9113, 5.4.2. Counted: a peer can provoke resets as cheaply as it can send them.
    #[cold]
    fn reset_for_violation(&mut self, id: StreamId, code: ErrorCode) -> Result<(), Fatal> {
        if self.drop_stream(id).is_some() {
            self.events.push_back(Event::Reset { stream: id, code });
        }
        self.closed_streams.reset_here(id);
        self.output.control(|out| frame::write_rst_stream(id, code, out));
        let rate = self.limits.own_resets;
        if !self.floods.own_resets.admit(rate, self.now_ms) {
            let reason = "too many stream errors";
            return Err(Fatal { code: ErrorCode::ENHANCE_YOUR_CALM, reason });
        }
        match self.check_control_queue() {
            Err(Violation::Connection(fatal)) => Err(fatal),
            _ => Ok(()),
        }
    }

    fn check_control_queue(&self) -> Result<(), Violation> {
        if self.output.control_bytes() > self.limits.control_queue_bytes_max {
            return Err(Violation::calm("replies to control frames are not read"));
        }
        Ok(())
    }
}

/// Decodes a block; true when the list is longer than is tolerated.
fn decode(
    decoder: &mut Decoder,
    limits: &Limits,
    block: &[u8],
    emit: &mut impl FnMut(Decoded<'_>),
) -> Result<bool, Violation> {
    if block.len() > limits.header_block_bytes_max {
        return Err(Violation::calm("field block too long"));
    }
    match decoder.decode(block, limits.header_list_bytes_max, emit) {
        Ok(summary) => Ok(summary.list_bytes > limits.header_list_bytes_max),
        Err(DecodeError::ListTooLong) => Err(Violation::calm("field list too long")),
        Err(_) => Err(Violation::connection(ErrorCode::COMPRESSION_ERROR, "invalid field block")),
    }
}

/// False when the data does not match content-length (RFC 9113, 8.1.1).
#[inline]
fn count_content(stream: &mut Stream, data_bytes: usize, end_stream: bool) -> bool {
    let Some(left) = stream.content_left else { return true };
    let Some(left) = left.checked_sub(data_bytes as u64) else { return false };
    stream.content_left = Some(left);
    !end_stream || left == 0
}

#[inline]
fn check_length(header: &FrameHeader) -> Result<(), Fatal> {
    if header.length > FRAME_BYTES_MAX {
        let reason = "frame above SETTINGS_MAX_FRAME_SIZE";
        return Err(Fatal { code: ErrorCode::FRAME_SIZE_ERROR, reason });
    }
    Ok(())
}
