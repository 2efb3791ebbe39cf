//! A connection as the layers above see it.

use std::collections::VecDeque;
use std::rc::Rc;

use bytes::Bytes;

use super::StreamId;
use super::error::{ErrorCode, Fatal};
use super::floods::Floods;
use super::flow::{ReceiveWindow, SendWindow};
use super::frame;
use super::head::RequestHead;
use super::head_cache::HeadCache;
use super::hpack::Decoder;
use super::keepalive::{Due, Keepalive, PingPolicy};
use super::limits::{EVENTS_KEPT, Limits, WINDOW_BYTES_DEFAULT};
use super::receive::{ClosedStreams, OpenBlock};
use super::send::Output;
use super::settings::{self, PeerSettings};
use super::streams::Streams;

/// What a client did. Streams are named by it until their `Reset`, or until both sides have ended
/// them; after that, calls with the name do nothing.
#[derive(Debug)]
pub enum Event {
    /// A request. `end_stream`: it has no data.
    Headers { stream: StreamId, head: Rc<RequestHead>, end_stream: bool },
    /// A part of the data of a request, wherever possible a slice of the input. Whoever keeps it
    /// keeps all of that input.
    Data { stream: StreamId, data: Bytes, end_stream: bool },
    /// The request ended with trailers, which are dropped.
    Trailers { stream: StreamId },
    /// The client reset the stream, or did something for which this end had to. Nothing can be sent
    /// on it any more.
    Reset { stream: StreamId, code: ErrorCode },
}

/// Where a connection stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// The magic octets of the client's preface; this many have come.
    Preface(usize),
    /// The SETTINGS frame that must follow them.
    FirstSettings,
    Running,
    /// After a connection error; the rest of the output is dropped at `linger_until_ms`.
    Dead(Fatal),
}

#[derive(Debug)]
pub struct Connection {
    pub(super) limits: Limits,
    pub(super) phase: Phase,
    pub(super) now_ms: u64,
    /// When the connection first heard of the time.
    started_ms: Option<u64>,
    /// The beginning of a frame whose end has not come.
    pub(super) partial: Vec<u8>,
    pub(super) open_block: Option<OpenBlock>,
    pub(super) decoder: Decoder,
    pub(super) heads: HeadCache,
    pub(super) streams: Streams,
    pub(super) closed_streams: ClosedStreams,
    /// The highest stream the client has opened.
    pub(super) highest_stream: StreamId,
    pub(super) events: VecDeque<Event>,
    pub(super) output: Output,
    /// DATA in the queues of all streams.
    pub(super) queued_bytes: usize,
    pub(super) send_window: SendWindow,
    pub(super) receive_window: ReceiveWindow,
    pub(super) peer: PeerSettings,
    pub(super) is_settings_acked: bool,
    /// The client still expects to hear that the dynamic table is not used.
    pub(super) owes_table_update: bool,
    pub(super) floods: Floods,
    pub(super) pings: PingPolicy,
    pub(super) keepalive: Keepalive,
    /// The highest stream that is still served, once a GOAWAY has been sent.
    pub(super) last_served: Option<StreamId>,
    linger_until_ms: u64,
}

impl Connection {
    /// The server's preface is in the output at once. Time starts with the first call that names
    /// it; until then [`Connection::next_timeout`] is 0.
    pub fn new(limits: Limits) -> Connection {
        let mut output = Output::default();
        output.control(|out| settings::write_preface(&limits, out));
        Connection {
            limits,
            phase: Phase::Preface(0),
            now_ms: 0,
            started_ms: None,
            partial: Vec::new(),
            open_block: None,
            decoder: Decoder::default(),
            heads: HeadCache::default(),
            streams: Streams::default(),
            closed_streams: ClosedStreams::default(),
            highest_stream: StreamId(0),
            events: VecDeque::new(),
            output,
            queued_bytes: 0,
            send_window: SendWindow::new(WINDOW_BYTES_DEFAULT),
            receive_window: ReceiveWindow::new(
                limits.connection_window_bytes.max(WINDOW_BYTES_DEFAULT),
            ),
            peer: PeerSettings::default(),
            is_settings_acked: false,
            owes_table_update: false,
            floods: Floods::default(),
            pings: PingPolicy::default(),
            keepalive: Keepalive::default(),
            last_served: None,
            linger_until_ms: u64::MAX,
        }
    }

    /// Takes what was read. On an error the events before it are still there; GOAWAY is in the
    /// output, to be flushed before closing. Later input is ignored.
    pub fn receive(&mut self, input: Bytes, now_ms: u64) -> Result<(), Fatal> {
        if let Phase::Dead(_) = self.phase {
            return Ok(());
        }
        self.hear_time(now_ms);
        self.keepalive.heard(now_ms);
        self.take_input(input).inspect_err(|&fatal| self.die(fatal))
    }

    pub fn poll_event(&mut self) -> Option<Event> {
        let event = self.events.pop_front();
        if event.is_none() && self.events.capacity() > EVENTS_KEPT {
            self.events = VecDeque::new();
        }
        event
    }

    /// Carries out what is due: keepalive, handshake, settings, the end of a lingering close.
    pub fn timeout(&mut self, now_ms: u64) {
        self.hear_time(now_ms);
        if let Phase::Dead(_) = self.phase {
            if now_ms >= self.linger_until_ms {
                self.output.clear();
            }
            return;
        }
        let started_ms = self.started_ms.unwrap_or(now_ms);
        if now_ms >= self.handshake_deadline_ms(started_ms) {
            let reason = match self.phase {
                Phase::Running => "header block not complete in time",
                _ => "no connection preface in time",
            };
            return self.die(Fatal { code: ErrorCode::PROTOCOL_ERROR, reason });
        }
        if now_ms >= self.settings_deadline_ms(started_ms) {
            let reason = "SETTINGS not acknowledged in time";
            return self.die(Fatal { code: ErrorCode::SETTINGS_TIMEOUT, reason });
        }
        match self.keepalive.due(&self.limits, now_ms) {
            Due::Nothing => {}
            Due::Ping => self.output.control(|out| frame::write_ping([0; 8], false, out)),
            Due::Gone => {
                let reason = "keepalive ping not answered in time";
                self.die(Fatal { code: ErrorCode::NO_ERROR, reason });
                self.output.clear();
            }
        }
    }

    /// When to call [`Connection::timeout`] next.
    pub fn next_timeout(&self) -> Option<u64> {
        let Some(started_ms) = self.started_ms else { return Some(0) };
        if let Phase::Dead(_) = self.phase {
            return self.wants_output().then_some(self.linger_until_ms);
        }
        let handshake_ms = self.handshake_deadline_ms(started_ms);
        let settings_ms = self.settings_deadline_ms(started_ms);
        Some(self.keepalive.deadline_ms(&self.limits).min(handshake_ms).min(settings_ms))
    }

    /// Announces that no further streams are served. With NO_ERROR the open ones are finished, then
    /// the connection is closed; with any other code it ends here.
    pub fn go_away(&mut self, code: ErrorCode, debug: &[u8]) {
        if let Phase::Dead(_) = self.phase {
            return;
        }
        if code != ErrorCode::NO_ERROR {
            return self.end(Fatal { code, reason: "ended by the server" }, debug);
        }
        if self.last_served.is_none() {
            let last = self.highest_stream;
            self.last_served = Some(last);
            self.output.control(|out| frame::write_go_away(last, code, debug, out));
        }
    }

    /// Nothing will come out any more: the socket can be closed.
    pub fn is_closed(&self) -> bool {
        let is_over = match self.phase {
            Phase::Dead(_) => true,
            _ => self.last_served.is_some() && self.streams.is_empty(),
        };
        is_over && self.output.is_empty()
    }

    /// False while the client is to be left waiting: it does not read what it asked for. This is
    /// the only reason not to read from it; in particular DATA that is queued because windows are
    /// closed is none, since the frames that open them have to be read.
    pub fn wants_input(&self) -> bool {
        self.output.control_bytes() <= self.limits.control_queue_bytes_pause
            && self.output.len() <= self.limits.output_bytes_pause
    }

    /// Streams that are not closed.
    pub fn stream_count(&self) -> usize {
        self.streams.len()
    }

    fn hear_time(&mut self, now_ms: u64) {
        self.now_ms = now_ms;
        if self.started_ms.is_none() {
            self.started_ms = Some(now_ms);
            self.keepalive.heard(now_ms);
        }
    }

    fn handshake_deadline_ms(&self, started_ms: u64) -> u64 {
        let since_ms = match (self.phase, &self.open_block) {
            (Phase::Preface(_) | Phase::FirstSettings, _) => started_ms,
            (_, Some(block)) => block.since_ms,
            _ => return u64::MAX,
        };
        since_ms.saturating_add(self.limits.handshake_timeout_ms)
    }

    fn settings_deadline_ms(&self, started_ms: u64) -> u64 {
        match self.is_settings_acked {
            true => u64::MAX,
            false => started_ms.saturating_add(self.limits.settings_timeout_ms),
        }
    }

    pub(super) fn die(&mut self, fatal: Fatal) {
        self.end(fatal, fatal.reason.as_bytes());
    }

    fn end(&mut self, fatal: Fatal, debug: &[u8]) {
        let last = self.last_served.unwrap_or(self.highest_stream);
        self.output.control(|out| frame::write_go_away(last, fatal.code, debug, out));
        self.phase = Phase::Dead(fatal);
        self.linger_until_ms = self.now_ms.saturating_add(self.limits.linger_timeout_ms);
        self.streams.clear();
        self.queued_bytes = 0;
        self.partial = Vec::new();
        self.open_block = None;
    }
}
