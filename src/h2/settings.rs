//! SETTINGS (RFC 9113, 6.5).

use super::StreamId;
use super::error::{ErrorCode, Violation};
use super::frame::{self, FrameHeader, Kind, flags};
use super::limits::{FRAME_BYTES_MAX, Limits, WINDOW_BYTES_DEFAULT, WINDOW_BYTES_MAX};

const HEADER_TABLE_SIZE: u16 = 0x1;
const ENABLE_PUSH: u16 = 0x2;
const MAX_CONCURRENT_STREAMS: u16 = 0x3;
const INITIAL_WINDOW_SIZE: u16 = 0x4;
const MAX_FRAME_SIZE: u16 = 0x5;
const MAX_HEADER_LIST_SIZE: u16 = 0x6;

const ENTRY_LEN: usize = 6;

/// What the peer has told so far, as far as it matters to a server that neither pushes nor indexes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PeerSettings {
    pub initial_window_bytes: u32,
    pub frame_bytes_max: usize,
    /// The smallest table size named so far.
    pub header_table_bytes_min: u32,
}

impl Default for PeerSettings {
    fn default() -> PeerSettings {
        PeerSettings {
            initial_window_bytes: WINDOW_BYTES_DEFAULT,
            frame_bytes_max: FRAME_BYTES_MAX,
            header_table_bytes_min: super::hpack::CAPACITY_MAX as u32,
        }
    }
}

impl PeerSettings {
    /// Applies the entries of a frame in their order.
    pub fn apply(&mut self, payload: &[u8]) -> Result<(), Violation> {
        for entry in payload.as_chunks::<ENTRY_LEN>().0 {
            let [i1, i0, v3, v2, v1, v0] = *entry;
            let value = u32::from_be_bytes([v3, v2, v1, v0]);
            match u16::from_be_bytes([i1, i0]) {
                HEADER_TABLE_SIZE => {
                    self.header_table_bytes_min = self.header_table_bytes_min.min(value);
                }
                ENABLE_PUSH if value > 1 => {
                    return Err(Violation::protocol("SETTINGS_ENABLE_PUSH neither 0 nor 1"));
                }
                INITIAL_WINDOW_SIZE if value > WINDOW_BYTES_MAX => {
                    return Err(Violation::connection(
                        ErrorCode::FLOW_CONTROL_ERROR,
                        "SETTINGS_INITIAL_WINDOW_SIZE above 2^31 - 1",
                    ));
                }
                INITIAL_WINDOW_SIZE => self.initial_window_bytes = value,
                MAX_FRAME_SIZE if !(1 << 14..1 << 24).contains(&value) => {
                    return Err(Violation::protocol("SETTINGS_MAX_FRAME_SIZE out of range"));
                }
                MAX_FRAME_SIZE => self.frame_bytes_max = FRAME_BYTES_MAX.min(value as usize),
                // MAX_CONCURRENT_STREAMS limits pushes; MAX_HEADER_LIST_SIZE is advisory; others
                // are unknown and ignored.
                _ => {}
            }
        }
        Ok(())
    }
}

/// True for an acknowledgement. The form of the frame is right when this returns.
pub(super) fn check(header: &FrameHeader, payload: &[u8]) -> Result<bool, Violation> {
    frame::on_connection(header)?;
    let is_ack = header.has(flags::ACK);
    if is_ack && !payload.is_empty() {
        return Err(Violation::frame_size("SETTINGS acknowledgement with a payload"));
    }
    if !payload.len().is_multiple_of(ENTRY_LEN) {
        return Err(Violation::frame_size("SETTINGS not of whole entries"));
    }
    Ok(is_ack)
}

/// The server's connection preface, and the WINDOW_UPDATE that opens the connection's window.
pub(super) fn write_preface(limits: &Limits, out: &mut Vec<u8>) {
    let entries = [
        (MAX_CONCURRENT_STREAMS, limits.concurrent_streams_max),
        (INITIAL_WINDOW_SIZE, limits.stream_window_bytes),
        (MAX_FRAME_SIZE, FRAME_BYTES_MAX as u32),
        (MAX_HEADER_LIST_SIZE, limits.header_list_bytes_advertised),
    ];
    let length = entries.len() * ENTRY_LEN;
    FrameHeader { length, kind: Kind::Settings, flags: 0, stream: StreamId(0) }.write(out);
    for (id, value) in entries {
        out.extend_from_slice(&id.to_be_bytes());
        out.extend_from_slice(&value.to_be_bytes());
    }
    if let Some(more @ 1..) = limits.connection_window_bytes.checked_sub(WINDOW_BYTES_DEFAULT) {
        frame::write_window_update(StreamId(0), more, out);
    }
}

pub(super) fn write_ack(out: &mut Vec<u8>) {
    FrameHeader { length: 0, kind: Kind::Settings, flags: flags::ACK, stream: StreamId(0) }
        .write(out);
}
