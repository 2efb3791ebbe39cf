//! Error codes and the two kinds of error of RFC 9113, 5.4.

use std::fmt;

use super::StreamId;

/// An error code as it stands in RST_STREAM and GOAWAY frames (RFC 9113, 7). Unknown ones are kept
/// as they are.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct ErrorCode(pub u32);

impl ErrorCode {
    pub const NO_ERROR: ErrorCode = ErrorCode(0x0);
    pub const PROTOCOL_ERROR: ErrorCode = ErrorCode(0x1);
    pub const INTERNAL_ERROR: ErrorCode = ErrorCode(0x2);
    pub const FLOW_CONTROL_ERROR: ErrorCode = ErrorCode(0x3);
    pub const SETTINGS_TIMEOUT: ErrorCode = ErrorCode(0x4);
    pub const STREAM_CLOSED: ErrorCode = ErrorCode(0x5);
    pub const FRAME_SIZE_ERROR: ErrorCode = ErrorCode(0x6);
    pub const REFUSED_STREAM: ErrorCode = ErrorCode(0x7);
    pub const CANCEL: ErrorCode = ErrorCode(0x8);
    pub const COMPRESSION_ERROR: ErrorCode = ErrorCode(0x9);
    pub const CONNECT_ERROR: ErrorCode = ErrorCode(0xa);
    pub const ENHANCE_YOUR_CALM: ErrorCode = ErrorCode(0xb);
    pub const INADEQUATE_SECURITY: ErrorCode = ErrorCode(0xc);
    pub const HTTP_1_1_REQUIRED: ErrorCode = ErrorCode(0xd);

    /// The name of the RFC, where there is one.
    pub fn name(self) -> Option<&'static str> {
        const NAMES: [&str; 14] = [
            "NO_ERROR",
            "PROTOCOL_ERROR",
            "INTERNAL_ERROR",
            "FLOW_CONTROL_ERROR",
            "SETTINGS_TIMEOUT",
            "STREAM_CLOSED",
            "FRAME_SIZE_ERROR",
            "REFUSED_STREAM",
            "CANCEL",
            "COMPRESSION_ERROR",
            "CONNECT_ERROR",
            "ENHANCE_YOUR_CALM",
            "INADEQUATE_SECURITY",
            "HTTP_1_1_REQUIRED",
        ];
        NAMES.get(self.0 as usize).copied()
    }
}

impl fmt::Debug for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "error code {:#x}", self.0),
        }
    }
}

/// The connection is over: a GOAWAY with this code is in the output. Flush and close.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fatal {
    pub code: ErrorCode,
    /// What the peer did, for the log; sent as debug data as well.
    pub reason: &'static str,
}

impl fmt::Display for Fatal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code, self.reason)
    }
}

impl std::error::Error for Fatal {}

/// What a frame can have done wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Violation {
    /// RFC 9113, 5.4.2: the stream is reset, the connection goes on.
    Stream(StreamId, ErrorCode),
    /// RFC 9113, 5.4.1.
    Connection(Fatal),
}

impl Violation {
    pub fn connection(code: ErrorCode, reason: &'static str) -> Violation {
        Violation::Connection(Fatal { code, reason })
    }

    pub fn protocol(reason: &'static str) -> Violation {
        Violation::connection(ErrorCode::PROTOCOL_ERROR, reason)
    }

    pub fn frame_size(reason: &'static str) -> Violation {
        Violation::connection(ErrorCode::FRAME_SIZE_ERROR, reason)
    }

    pub fn calm(reason: &'static str) -> Violation {
        Violation::connection(ErrorCode::ENHANCE_YOUR_CALM, reason)
    }
}

impl From<Fatal> for Violation {
    fn from(fatal: Fatal) -> Violation {
        Violation::Connection(fatal)
    }
}
