//! WebSocket frames (RFC 6455), for pages that want the streams of the JSON gateway: each message of the client is
//! JSON of its body, each line of the answer is a message.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::{Buf, Bytes, BytesMut};
use sha1::{Digest, Sha1};

/// What the RFC puts behind a client's key.
const GUID: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

const TEXT: u8 = 1;
const CLOSE: u8 = 8;
const PING: u8 = 9;
const PONG: u8 = 10;
const FINAL: u8 = 0x80;
/// RFC 6455, 5.5: frames that control are small.
const CONTROL_MAX: usize = 125;

/// The answer to a client's key.
pub fn accept(key: &str) -> String {
    STANDARD.encode(Sha1::digest(format!("{key}{GUID}")))
}

/// What a client has sent.
#[derive(Debug, PartialEq, Eq)]
pub enum Item {
    /// A part of a message.
    Data(Bytes),
    EndOfMessage,
    Ping(Bytes),
    Close,
}

/// Bytes that are no frames of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

/// Takes frames apart. Payloads are handed on as they come; nothing is gathered but what controls.
#[derive(Debug, Default)]
pub struct Frames {
    payload: Option<Payload>,
}

#[derive(Debug)]
struct Payload {
    left: u64,
    mask: [u8; 4],
    /// Which byte of the mask is next.
    at: usize,
    is_final: bool,
}

impl Frames {
    pub fn next(&mut self, input: &mut BytesMut) -> Result<Option<Item>, Malformed> {
        loop {
            if let Some(payload) = &mut self.payload {
                if payload.left == 0 {
                    let is_final = payload.is_final;
                    self.payload = None;
                    if is_final {
                        return Ok(Some(Item::EndOfMessage));
                    }
                    continue;
                }
                let there = input.len().min(usize::try_from(payload.left).unwrap_or(usize::MAX));
                if there == 0 {
                    return Ok(None);
                }
                let mut data = input.split_to(there);
                unmask(&mut data, payload.mask, payload.at);
                payload.at = (payload.at + there) % 4;
                payload.left -= there as u64;
                return Ok(Some(Item::Data(data.freeze())));
            }
            let Some(&[first, second]) = input.first_chunk::<2>() else { return Ok(None) };
            let (is_final, opcode) = (first & FINAL != 0, first & 0x0f);
            // Extensions were not agreed upon; a client masks what it sends.
            if first & 0x70 != 0 || second & 0x80 == 0 {
                return Err(Malformed);
            }
            let (len, head) = match second & 0x7f {
                126 => match input.get(2..4).and_then(|bytes| bytes.first_chunk()) {
                    Some(bytes) => (u64::from(u16::from_be_bytes(*bytes)), 4),
                    None => return Ok(None),
                },
                127 => match input.get(2..10).and_then(|bytes| bytes.first_chunk()) {
                    Some(bytes) => (u64::from_be_bytes(*bytes), 10),
                    None => return Ok(None),
                },
                len => (u64::from(len), 2),
            };
            let Some(mask) = input.get(head..head + 4).and_then(|bytes| bytes.first_chunk()) else {
                return Ok(None);
            };
            let mask = *mask;
            if opcode < CLOSE {
                input.advance(head + 4);
                self.payload = Some(Payload { left: len, mask, at: 0, is_final });
                continue;
            }
            if len > CONTROL_MAX as u64 || !is_final {
                return Err(Malformed);
            }
            let end = head + 4 + len as usize;
            if input.len() < end {
                return Ok(None);
            }
            let mut frame = input.split_to(end).split_off(head + 4);
            unmask(&mut frame, mask, 0);
            match opcode {
                CLOSE => return Ok(Some(Item::Close)),
                PING => return Ok(Some(Item::Ping(frame.freeze()))),
                PONG => {}
                _ => return Err(Malformed),
            }
        }
    }
}

fn unmask(data: &mut [u8], mask: [u8; 4], at: usize) {
    for (byte, mask) in data.iter_mut().zip(mask.iter().cycle().skip(at)) {
        *byte ^= mask;
    }
}

/// A message of text.
pub fn text(message: &[u8], out: &mut BytesMut) {
    frame(TEXT, message, out);
}

pub fn pong(payload: &[u8], out: &mut BytesMut) {
    frame(PONG, payload, out);
}

/// The end, with a status of the RFC.
pub fn close(status: u16, out: &mut BytesMut) {
    frame(CLOSE, &status.to_be_bytes(), out);
}

fn frame(opcode: u8, payload: &[u8], out: &mut BytesMut) {
    let len = payload.len();
    out.extend_from_slice(&[FINAL | opcode]);
    match len {
        0..126 => out.extend_from_slice(&[len as u8]),
        126..=0xffff => {
            out.extend_from_slice(&[126]);
            out.extend_from_slice(&(len as u16).to_be_bytes());
        }
        _ => {
            out.extend_from_slice(&[127]);
            out.extend_from_slice(&(len as u64).to_be_bytes());
        }
    }
    out.extend_from_slice(payload);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn masked(first: u8, payload: &[u8]) -> Vec<u8> {
        let mask = [1, 2, 3, 4];
        let mut out = vec![first];
        match payload.len() {
            len @ 0..126 => out.push(0x80 | len as u8),
            len => {
                out.push(0x80 | 126);
                out.extend((len as u16).to_be_bytes());
            }
        }
        out.extend(mask);
        let mut payload = payload.to_vec();
        unmask(&mut payload, mask, 0);
        out.extend(payload);
        out
    }

    /// The items of some bytes that come in pieces, with data joined.
    fn items(bytes: &[u8], piece: usize) -> Result<Vec<Item>, Malformed> {
        let mut frames = Frames::default();
        let mut input = BytesMut::new();
        let mut found: Vec<Item> = Vec::new();
        for piece in bytes.chunks(piece) {
            input.extend_from_slice(piece);
            while let Some(item) = frames.next(&mut input)? {
                match (found.last_mut(), item) {
                    (Some(Item::Data(before)), Item::Data(more)) => {
                        *before = Bytes::from([&before[..], &more].concat());
                    }
                    (_, item) => found.push(item),
                }
            }
        }
        Ok(found)
    }

    #[test]
    fn frames_are_taken_apart_however_they_come() {
        let long = vec![b'x'; 300];
        let bytes = [
            masked(FINAL | TEXT, b"hello"),
            masked(FINAL | PING, b"?"),
            masked(TEXT, b"one "),
            masked(FINAL | PONG, b""),
            masked(FINAL, &long),
            masked(FINAL | CLOSE, &[3, 232]),
        ]
        .concat();
        let expected = vec![
            Item::Data("hello".into()),
            Item::EndOfMessage,
            Item::Ping("?".into()),
            Item::Data([&b"one "[..], &long].concat().into()),
            Item::EndOfMessage,
            Item::Close,
        ];
        for piece in [1, 2, 7, bytes.len()] {
            assert_eq!(items(&bytes, piece).as_ref(), Ok(&expected), "in pieces of {piece}");
        }
    }

    #[test]
    fn what_no_client_may_send_is_refused() {
        let unmasked = [FINAL | TEXT, 1, b'x'];
        let extended = masked(FINAL | 0x40 | TEXT, b"x");
        let large_control = masked(FINAL | PING, &[0; 126]);
        let unknown = masked(FINAL | 11, b"");
        for bytes in [&unmasked[..], &extended, &large_control, &unknown] {
            assert_eq!(items(bytes, bytes.len()), Err(Malformed), "{bytes:?}");
        }
    }

    #[test]
    fn the_key_of_the_rfc_gets_the_answer_of_the_rfc() {
        assert_eq!(accept("dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }
}
