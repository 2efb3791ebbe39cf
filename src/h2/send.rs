//! The sending half: replies into frames, under flow control.
//!
//! Headers and small DATA that the windows allow go straight into one output buffer. Other DATA
//! waits in the queue of its stream, uncopied, and is cut into frames when output is taken, where it stays
//! uncopied if whoever sends can gather; streams take turns, one frame each.

use std::collections::VecDeque;

use bytes::{Buf, Bytes};

use super::StreamId;
use super::connection::{Connection, Phase};
use super::error::{ErrorCode, Violation};
use super::frame::{self, FrameHeader, HEADER_LEN, Kind, flags};
use super::gathered::Sink;
use super::hpack::NO_DYNAMIC_TABLE;
use super::limits::{
    BUFFER_BYTES_KEPT, COPY_BYTES_MAX, CRUMB_BYTES, FRAME_BYTES_MAX, OUTPUT_BYTES_SOFT_MAX,
    SHARED_BYTES_MIN,
};
use super::stream::{Ending, Signal, State, Stream};

/// Data to be sent: copied when it is small and can go at once, kept otherwise.
pub trait Payload {
    fn as_slice(&self) -> &[u8];
    fn into_bytes(self) -> Bytes;
}

impl Payload for Bytes {
    fn as_slice(&self) -> &[u8] {
        self
    }

    fn into_bytes(self) -> Bytes {
        self
    }
}

impl Payload for Vec<u8> {
    fn as_slice(&self) -> &[u8] {
        self
    }

    /// What waits, waits in exactly as much memory as it needs.
    fn into_bytes(self) -> Bytes {
        Bytes::from(self.into_boxed_slice())
    }
}

impl Payload for &[u8] {
    fn as_slice(&self) -> &[u8] {
        self
    }

    fn into_bytes(self) -> Bytes {
        Bytes::copy_from_slice(self)
    }
}

/// Frames that wait for nothing but being taken.
#[derive(Debug, Default)]
pub(super) struct Output {
    buffer: Vec<u8>,
    taken: usize,
    /// How many octets of control frames are in `buffer` at most.
    control_bytes: usize,
}

impl Output {
    pub fn len(&self) -> usize {
        self.buffer.len() - self.taken
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn control_bytes(&self) -> usize {
        self.control_bytes
    }

    pub fn clear(&mut self) {
        *self = Output::default();
    }

    /// Appends a frame the peer provoked, which counts against the limit for those.
    pub fn control(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        let before = self.buffer.len();
        write(&mut self.buffer);
        self.control_bytes += self.buffer.len() - before;
    }

    fn take(&mut self, max: usize, out: &mut impl Sink) {
        let len = self.len().min(max);
        out.buffer().extend_from_slice(&self.buffer[self.taken..self.taken + len]);
        self.taken += len;
        if self.taken == self.buffer.len() {
            self.taken = 0;
            self.buffer.clear();
            if self.buffer.capacity() > BUFFER_BYTES_KEPT {
                self.buffer = Vec::new();
            }
        }
        self.control_bytes = self.control_bytes.min(self.len());
    }
}

impl Connection {
    /// Sends a header block, the reply's or, with `end_stream`, its trailers, which wait for queued
    /// DATA.
    pub fn send_headers(&mut self, stream: StreamId, block: &[u8], end_stream: bool) {
        let Some(sender) = self.sender(stream) else { return };
        if sender.queued_bytes > 0 {
            if end_stream {
                sender.ending = Ending::WithTrailers(block.into());
            }
            return;
        }
        let Ok(state) = sender.state.send(Signal::Headers, end_stream) else { return };
        sender.state = state;
        sender.has_replied = true;
        self.write_headers(stream, block, end_stream);
        if end_stream {
            self.finish(stream, state);
        }
    }

    /// Sends data, or queues it while the windows are closed.
    pub fn send_data(&mut self, stream: StreamId, data: impl Payload, end_stream: bool) {
        let has_room = self.output.len() < OUTPUT_BYTES_SOFT_MAX;
        let connection_window = self.send_window.available();
        let Some(sender) = self.sender(stream) else { return };
        let octets = data.as_slice();
        let len = octets.len();
        if len == 0 && !end_stream {
            return;
        }
        let fits = len <= sender.send_window.available().min(connection_window);
        if sender.queued_bytes > 0 || !fits || len > COPY_BYTES_MAX || !(has_room || len == 0) {
            return self.queue_data(stream, data.into_bytes(), end_stream);
        }
        let Ok(state) = sender.state.send(Signal::Data, end_stream) else { return };
        sender.state = state;
        sender.send_window.take(len);
        self.send_window.take(len);
        let end = if end_stream { flags::END_STREAM } else { 0 };
        let out = &mut self.output.buffer;
        FrameHeader { length: len, kind: Kind::Data, flags: end, stream }.write(out);
        out.extend_from_slice(octets);
        self.pings.forgive();
        if end_stream {
            self.finish(stream, state);
        }
    }

    /// A whole unary reply: headers, data, trailers.
    pub fn respond(
        &mut self,
        stream: StreamId,
        headers: &[u8],
        data: impl Payload,
        trailers: &[u8],
    ) {
        if !self.respond_at_once(stream, headers, data.as_slice(), trailers) {
            self.send_headers(stream, headers, false);
            self.send_data(stream, data, false);
            self.send_headers(stream, trailers, true);
        }
    }

    /// The usual case of [`Connection::respond`]: everything fits. False when it does not.
    #[inline]
    fn respond_at_once(
        &mut self,
        stream: StreamId,
        headers: &[u8],
        data: &[u8],
        trailers: &[u8],
    ) -> bool {
        let len = data.len();
        let allowed = COPY_BYTES_MAX.min(self.send_window.available());
        let has_room = self.output.len() < OUTPUT_BYTES_SOFT_MAX && len <= allowed;
        let block_bytes_max = self.peer.frame_bytes_max;
        let are_plain =
            headers.len().max(trailers.len()) <= block_bytes_max && !self.owes_table_update;
        if !has_room || !are_plain {
            return false;
        }
        let Some(sender) = self.sender(stream) else { return true };
        if sender.queued_bytes > 0 || len > sender.send_window.available() {
            return false;
        }
        let Ok(state) = sender.state.send(Signal::Headers, true) else { return true };
        self.send_window.take(len);
        let out = &mut self.output.buffer;
        out.reserve(3 * HEADER_LEN + headers.len() + len + trailers.len());
        frame::write_headers(stream, &[], headers, false, block_bytes_max, out);
        FrameHeader { length: len, kind: Kind::Data, flags: 0, stream }.write(out);
        out.extend_from_slice(data);
        frame::write_headers(stream, &[], trailers, true, block_bytes_max, out);
        self.pings.forgive();
        self.finish(stream, state);
        true
    }

    /// Ends a stream at once; what was queued for it is dropped.
    pub fn reset(&mut self, stream: StreamId, code: ErrorCode) {
        if self.drop_stream(stream).is_some() {
            self.closed_streams.reset_here(stream);
            frame::write_rst_stream(stream, code, &mut self.output.buffer);
        }
    }

    /// Does not give the windows of this stream back from now on, so that the client has to stop.
    pub fn hold(&mut self, stream: StreamId) {
        if let Some(stream) = self.streams.get_mut(stream) {
            stream.is_held = true;
        }
    }

    /// Gives back what was held.
    pub fn release(&mut self, id: StreamId) {
        let Some(stream) = self.streams.get_mut(id) else { return };
        stream.is_held = false;
        let held = std::mem::take(&mut stream.held_bytes);
        let may_send_more = matches!(stream.state, State::Open | State::HalfClosedLocal);
        if may_send_more && let Some(increment) = stream.receive_window.consume(held) {
            self.output.control(|out| frame::write_window_update(id, increment, out));
        }
        self.give_back_connection(held);
    }

    /// DATA of this stream that waits for its windows or for being taken.
    pub fn queued(&self, stream: StreamId) -> usize {
        self.streams.get(stream).map_or(0, |stream| stream.queued_bytes)
    }

    /// All output not taken yet.
    pub fn queued_total(&self) -> usize {
        self.queued_bytes + self.output.len()
    }

    /// Something can be taken now.
    pub fn wants_output(&self) -> bool {
        let has_data = self.streams.has_ready() && self.send_window.available() > 0;
        !self.output.is_empty() || has_data
    }

    /// Appends at most `max` octets to `out`; a `max` below ten is taken for ten, the shortest
    /// frame with data.
    pub fn take_output(&mut self, max: usize, out: &mut impl Sink) {
        let start = out.len();
        let end = start.saturating_add(max.max(HEADER_LEN + 1));
        self.output.take(end - start, out);
        while self.output.is_empty() {
            let room = end - out.len();
            let is_crumb = out.len() > start && room < CRUMB_BYTES;
            if room <= HEADER_LEN || is_crumb || !self.write_queued(room - HEADER_LEN, out) {
                break;
            }
            // Trailers may have followed.
            self.output.take(end - out.len(), out);
        }
    }

    /// The stream, if something may still be given to it.
    #[inline]
    fn sender(&mut self, id: StreamId) -> Option<&mut Stream> {
        self.streams.get_mut(id).filter(|stream| !stream.has_ended())
    }

    fn write_headers(&mut self, stream: StreamId, block: &[u8], end_stream: bool) {
        let prefix: &[u8] = match std::mem::take(&mut self.owes_table_update) {
            true => &[NO_DYNAMIC_TABLE],
            false => &[],
        };
        let frame_bytes_max = self.peer.frame_bytes_max;
        let out = &mut self.output.buffer;
        frame::write_headers(stream, prefix, block, end_stream, frame_bytes_max, out);
        self.pings.forgive();
    }

    fn queue_data(&mut self, id: StreamId, data: Bytes, end_stream: bool) {
        let Some(stream) = self.streams.get_mut(id) else { return };
        if end_stream {
            stream.ending = Ending::WithData;
        }
        if data.is_empty() {
            return;
        }
        self.queued_bytes += data.len();
        stream.queued_bytes += data.len();
        stream.queue.push_back(data);
        if stream.send_window.available() > 0 {
            self.streams.make_ready(id);
        }
    }

    /// Writes one DATA frame of the stream whose turn it is; false when none may be sent.
    fn write_queued(&mut self, payload_max: usize, out: &mut impl Sink) -> bool {
        let connection_window = self.send_window.available();
        let frame_bytes_max = self.peer.frame_bytes_max.min(FRAME_BYTES_MAX);
        let Some(stream) = self.streams.front_ready() else { return false };
        let window = stream.send_window.available();
        if window == 0 {
            // Closed by a change of settings after it became ready.
            self.streams.pop_ready();
            return true;
        }
        let allowed = window.min(connection_window).min(frame_bytes_max).min(payload_max);
        let len = stream.queued_bytes.min(allowed);
        if len == 0 {
            return false;
        }
        let id = stream.id;
        stream.send_window.take(len);
        stream.queued_bytes -= len;
        self.send_window.take(len);
        self.queued_bytes -= len;
        let is_drained = stream.queued_bytes == 0;
        let is_blocked = stream.send_window.available() == 0;
        let end_stream = is_drained && stream.ending == Ending::WithData;
        let flags = if end_stream { flags::END_STREAM } else { 0 };
        FrameHeader { length: len, kind: Kind::Data, flags, stream: id }.write(out.buffer());
        move_out(&mut stream.queue, len, out);
        self.pings.forgive();
        if !is_drained {
            match is_blocked {
                true => self.streams.pop_ready(),
                false => self.streams.rotate_ready(),
            }
            return true;
        }
        stream.queue = VecDeque::new();
        let ending = std::mem::replace(&mut stream.ending, Ending::Open);
        let signal = match ending {
            Ending::Open => None,
            Ending::WithData => Some(Signal::Data),
            Ending::WithTrailers(_) => Some(Signal::Headers),
        };
        let state = signal.and_then(|signal| stream.state.send(signal, true).ok());
        self.streams.pop_ready();
        if let Ending::WithTrailers(block) = ending {
            self.write_headers(id, &block, true);
        }
        if let Some(state) = state {
            self.finish(id, state);
        }
        true
    }

    /// END_STREAM has been sent. A client that is still sending is told to stop, as RFC 9113, 8.1
    /// allows and grpc-go does, so that a stream never outlives its reply.
    fn finish(&mut self, id: StreamId, state: State) {
        self.drop_stream(id);
        if state == State::Closed {
            self.closed_streams.ended(id);
        } else {
            self.closed_streams.reset_here(id);
            frame::write_rst_stream(id, ErrorCode::NO_ERROR, &mut self.output.buffer);
        }
    }

    /// Forgets a stream with all that was queued or held for it.
    pub(super) fn drop_stream(&mut self, id: StreamId) -> Option<Stream> {
        let stream = self.streams.remove(id)?;
        self.queued_bytes -= stream.queued_bytes;
        if stream.held_bytes > 0 && !matches!(self.phase, Phase::Dead(_)) {
            self.give_back_connection(stream.held_bytes);
        }
        Some(stream)
    }

    /// SETTINGS_INITIAL_WINDOW_SIZE has changed (RFC 9113, 6.9.2).
    pub(super) fn shift_send_windows(&mut self, difference: i64) -> Result<(), Violation> {
        let mut opened = Vec::new();
        for stream in self.streams.iter_mut() {
            if stream.send_window.shift(difference).is_err() {
                return Err(Violation::connection(
                    ErrorCode::FLOW_CONTROL_ERROR,
                    "SETTINGS_INITIAL_WINDOW_SIZE takes a window above 2^31 - 1",
                ));
            }
            if stream.queued_bytes > 0 && stream.send_window.available() > 0 {
                opened.push(stream.id);
            }
        }
        for id in opened {
            self.streams.make_ready(id);
        }
        Ok(())
    }
}

/// Moves `len` octets from the head of a queue.
fn move_out(queue: &mut VecDeque<Bytes>, mut len: usize, out: &mut impl Sink) {
    while len > 0 {
        let Some(chunk) = queue.front_mut() else { return };
        let part = chunk.len().min(len);
        if part < SHARED_BYTES_MIN {
            out.buffer().extend_from_slice(&chunk[..part]);
            chunk.advance(part);
        } else {
            out.share(chunk.split_to(part));
        }
        len -= part;
        if chunk.is_empty() {
            queue.pop_front();
        }
    }
}
