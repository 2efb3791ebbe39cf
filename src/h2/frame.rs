//! Frames: layout, and what each kind demands of its own form (RFC 9113, 4 and 6).
//!
//! ```text
//! +-----------------------------------------------+
//! |                 Length (24)                   |
//! +---------------+---------------+---------------+
//! |   Type (8)    |   Flags (8)   |
//! +-+-------------+---------------+-------------------------------+
//! |R|                 Stream Identifier (31)                      |
//! +=+=============================================================+
//! |                   Frame Payload (0...)                      ...
//! +---------------------------------------------------------------+
//! ```
//!
//! Nothing here knows the state of a stream or a connection.

use std::ops::Range;

use super::StreamId;
use super::error::{ErrorCode, Violation};

pub const HEADER_LEN: usize = 9;
pub const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

pub mod flags {
    pub const ACK: u8 = 0x1;
    pub const END_STREAM: u8 = 0x1;
    pub const END_HEADERS: u8 = 0x4;
    pub const PADDED: u8 = 0x8;
    pub const PRIORITY: u8 = 0x20;
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Data,
    Headers,
    Priority,
    RstStream,
    Settings,
    PushPromise,
    Ping,
    GoAway,
    WindowUpdate,
    Continuation,
    Unknown(u8),
}

impl Kind {
    #[inline]
    fn from_octet(octet: u8) -> Kind {
        match octet {
            0 => Kind::Data,
            1 => Kind::Headers,
            2 => Kind::Priority,
            3 => Kind::RstStream,
            4 => Kind::Settings,
            5 => Kind::PushPromise,
            6 => Kind::Ping,
            7 => Kind::GoAway,
            8 => Kind::WindowUpdate,
            9 => Kind::Continuation,
            other => Kind::Unknown(other),
        }
    }

    fn octet(self) -> u8 {
        match self {
            Kind::Data => 0,
            Kind::Headers => 1,
            Kind::Priority => 2,
            Kind::RstStream => 3,
            Kind::Settings => 4,
            Kind::PushPromise => 5,
            Kind::Ping => 6,
            Kind::GoAway => 7,
            Kind::WindowUpdate => 8,
            Kind::Continuation => 9,
            Kind::Unknown(other) => other,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameHeader {
    pub length: usize,
    pub kind: Kind,
    pub flags: u8,
    pub stream: StreamId,
}

impl FrameHeader {
    /// None when there are fewer than nine octets.
    #[inline]
    pub fn parse(octets: &[u8]) -> Option<FrameHeader> {
        let &[l2, l1, l0, kind, flags, s3, s2, s1, s0, ..] = octets else { return None };
        Some(FrameHeader {
            length: u32::from_be_bytes([0, l2, l1, l0]) as usize,
            kind: Kind::from_octet(kind),
            flags,
            stream: StreamId(u32::from_be_bytes([s3 & 0x7f, s2, s1, s0])),
        })
    }

    #[inline]
    pub fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    #[inline]
    pub fn write(&self, out: &mut Vec<u8>) {
        let [_, l2, l1, l0] = (self.length as u32).to_be_bytes();
        let [s3, s2, s1, s0] = self.stream.0.to_be_bytes();
        out.extend_from_slice(&[l2, l1, l0, self.kind.octet(), self.flags, s3, s2, s1, s0]);
    }
}

/// The parts of a HEADERS payload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeadersParts {
    /// The field block fragment within the payload.
    pub fragment: Range<usize>,
    /// The deprecated priority fields name the stream itself.
    pub depends_on_itself: bool,
}

/// Where the data lies within the payload of a DATA frame.
#[inline]
pub(super) fn data(header: &FrameHeader, payload: &[u8]) -> Result<Range<usize>, Violation> {
    on_stream(header)?;
    unpadded(header, payload)
}

#[inline]
pub(super) fn headers(header: &FrameHeader, payload: &[u8]) -> Result<HeadersParts, Violation> {
    on_stream(header)?;
    let mut fragment = unpadded(header, payload)?;
    let mut depends_on_itself = false;
    if header.has(flags::PRIORITY) {
        let fields = payload.get(fragment.start..fragment.start + 5);
        let Some(&[d3, d2, d1, d0, _weight]) = fields.filter(|_| fragment.len() >= 5) else {
            return Err(Violation::frame_size("HEADERS too short for its priority fields"));
        };
        depends_on_itself = u32::from_be_bytes([d3 & 0x7f, d2, d1, d0]) == header.stream.0;
        fragment.start += 5;
    }
    Ok(HeadersParts { fragment, depends_on_itself })
}

/// PRIORITY is deprecated and means nothing, but its form is still checked (RFC 9113, 6.3).
pub(super) fn priority(header: &FrameHeader, payload: &[u8]) -> Result<(), Violation> {
    on_stream(header)?;
    let &[d3, d2, d1, d0, _weight] = payload else {
        return Err(Violation::Stream(header.stream, ErrorCode::FRAME_SIZE_ERROR));
    };
    if u32::from_be_bytes([d3 & 0x7f, d2, d1, d0]) == header.stream.0 {
        return Err(Violation::Stream(header.stream, ErrorCode::PROTOCOL_ERROR));
    }
    Ok(())
}

pub(super) fn rst_stream(header: &FrameHeader, payload: &[u8]) -> Result<ErrorCode, Violation> {
    on_stream(header)?;
    match payload.try_into() {
        Ok(code) => Ok(ErrorCode(u32::from_be_bytes(code))),
        Err(_) => Err(Violation::frame_size("RST_STREAM not of 4 octets")),
    }
}

pub(super) fn ping(header: &FrameHeader, payload: &[u8]) -> Result<[u8; 8], Violation> {
    on_connection(header)?;
    payload.try_into().map_err(|_| Violation::frame_size("PING not of 8 octets"))
}

pub(super) fn go_away(header: &FrameHeader, payload: &[u8]) -> Result<(), Violation> {
    on_connection(header)?;
    if payload.len() < 8 {
        return Err(Violation::frame_size("GOAWAY of less than 8 octets"));
    }
    Ok(())
}

/// The increment, 0 included: what that means depends on the stream.
#[inline]
pub(super) fn window_update(payload: &[u8]) -> Result<u32, Violation> {
    match payload.try_into() {
        Ok(increment) => Ok(u32::from_be_bytes(increment) & 0x7fff_ffff),
        Err(_) => Err(Violation::frame_size("WINDOW_UPDATE not of 4 octets")),
    }
}

pub(super) fn on_connection(header: &FrameHeader) -> Result<(), Violation> {
    if header.stream.0 == 0 {
        return Ok(());
    }
    Err(Violation::protocol("connection frame on a stream"))
}

#[inline]
pub(super) fn on_stream(header: &FrameHeader) -> Result<(), Violation> {
    if header.stream.0 != 0 {
        return Ok(());
    }
    Err(Violation::protocol("stream frame on stream 0"))
}

#[inline]
fn unpadded(header: &FrameHeader, payload: &[u8]) -> Result<Range<usize>, Violation> {
    if !header.has(flags::PADDED) {
        return Ok(0..payload.len());
    }
    let Some(&padding) = payload.first() else {
        return Err(Violation::frame_size("padded frame without a pad length"));
    };
    match (payload.len() - 1).checked_sub(usize::from(padding)) {
        Some(len) => Ok(1..1 + len),
        None => Err(Violation::protocol("padding longer than its frame")),
    }
}

pub fn write_rst_stream(stream: StreamId, code: ErrorCode, out: &mut Vec<u8>) {
    FrameHeader { length: 4, kind: Kind::RstStream, flags: 0, stream }.write(out);
    out.extend_from_slice(&code.0.to_be_bytes());
}

pub fn write_ping(payload: [u8; 8], is_ack: bool, out: &mut Vec<u8>) {
    let flags = if is_ack { flags::ACK } else { 0 };
    FrameHeader { length: 8, kind: Kind::Ping, flags, stream: StreamId(0) }.write(out);
    out.extend_from_slice(&payload);
}

pub fn write_go_away(last: StreamId, code: ErrorCode, debug: &[u8], out: &mut Vec<u8>) {
    let length = 8 + debug.len();
    FrameHeader { length, kind: Kind::GoAway, flags: 0, stream: StreamId(0) }.write(out);
    out.extend_from_slice(&last.0.to_be_bytes());
    out.extend_from_slice(&code.0.to_be_bytes());
    out.extend_from_slice(debug);
}

pub fn write_window_update(stream: StreamId, increment: u32, out: &mut Vec<u8>) {
    FrameHeader { length: 4, kind: Kind::WindowUpdate, flags: 0, stream }.write(out);
    out.extend_from_slice(&increment.to_be_bytes());
}

/// HEADERS, and CONTINUATION frames where the block is longer than a frame may be. `prefix` comes
/// before the block.
pub fn write_headers(
    stream: StreamId,
    prefix: &[u8],
    block: &[u8],
    end_stream: bool,
    frame_bytes_max: usize,
    out: &mut Vec<u8>,
) {
    let first_len = block.len().min(frame_bytes_max.saturating_sub(prefix.len()));
    let (first, mut rest) = block.split_at(first_len);
    let end_headers = if rest.is_empty() { flags::END_HEADERS } else { 0 };
    let end = if end_stream { flags::END_STREAM } else { 0 };
    let length = prefix.len() + first.len();
    FrameHeader { length, kind: Kind::Headers, flags: end_headers | end, stream }.write(out);
    out.extend_from_slice(prefix);
    out.extend_from_slice(first);
    while !rest.is_empty() {
        let (next, after) = rest.split_at(rest.len().min(frame_bytes_max));
        rest = after;
        let flags = if rest.is_empty() { flags::END_HEADERS } else { 0 };
        FrameHeader { length: next.len(), kind: Kind::Continuation, flags, stream }.write(out);
        out.extend_from_slice(next);
    }
}
