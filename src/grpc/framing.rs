//! Length-prefixed messages: one octet for "compressed", four for the length, the message.
//!
//! ```text
//! +----------------+----------------------+---------------- - -
//! | compressed (1) | length, big end. (4) | message
//! +----------------+----------------------+---------------- - -
//! ```

use bytes::{Buf, Bytes};

use super::status::{Code, Status};

pub const PREFIX_LEN: usize = 5;

/// The prefix of an uncompressed message.
///
/// A message has at most 2^32 - 1 octets; replies are bounded far below that.
#[inline]
pub fn encode_prefix(message_len: usize) -> [u8; PREFIX_LEN] {
    let [a, b, c, d] = (message_len as u32).to_be_bytes();
    [0, a, b, c, d]
}

/// Cuts the data of a stream into messages.
///
/// A message that lies in one piece of data is a slice of it. One that does not is gathered in a
/// buffer that grows with what has really come, never with what the prefix promises.
#[derive(Debug)]
pub struct Decoder {
    max_message_bytes: usize,
    /// Data not looked at yet.
    rest: Bytes,
    /// A prefix or a message of which only this much has come.
    gathered: Vec<u8>,
    /// Length of the message being gathered; none while its prefix is.
    message_len: Option<usize>,
}

impl Decoder {
    pub fn new(max_message_bytes: usize) -> Decoder {
        Decoder { max_message_bytes, rest: Bytes::new(), gathered: Vec::new(), message_len: None }
    }

    /// Takes the next piece of data; [`Decoder::next_message`] until there is none should follow.
    #[inline]
    pub fn push(&mut self, data: Bytes) {
        if self.rest.is_empty() {
            self.rest = data;
        } else {
            self.rest = [&self.rest[..], &data[..]].concat().into();
        }
    }

    /// The next complete message. After an error the stream is to be ended with that status.
    #[inline]
    pub fn next_message(&mut self) -> Result<Option<Bytes>, Status> {
        if self.message_len.is_none() {
            let Some(prefix) = self.take_prefix() else { return Ok(None) };
            self.message_len = Some(self.check_prefix(prefix)?);
        }
        let Some(message_len) = self.message_len else { return Ok(None) };
        if self.gathered.is_empty() && self.rest.len() >= message_len {
            self.message_len = None;
            if self.rest.len() == message_len {
                return Ok(Some(std::mem::take(&mut self.rest)));
            }
            return Ok(Some(self.rest.split_to(message_len)));
        }
        self.gather(message_len);
        if self.gathered.len() < message_len {
            return Ok(None);
        }
        self.message_len = None;
        Ok(Some(Bytes::from(std::mem::take(&mut self.gathered))))
    }

    /// A prefix has come and its message has not; at the end of a stream grpc-go calls this "unexpected EOF", and
    /// half a prefix "EOF", as nothing at all.
    pub fn is_within_message(&self) -> bool {
        self.message_len.is_some()
    }

    /// No part of a message is left.
    pub fn is_between_messages(&self) -> bool {
        self.message_len.is_none() && self.gathered.is_empty() && self.rest.is_empty()
    }

    /// Octets kept for messages that are not complete.
    pub fn buffered_bytes(&self) -> usize {
        self.gathered.capacity() + self.rest.len()
    }

    fn take_prefix(&mut self) -> Option<[u8; PREFIX_LEN]> {
        if self.gathered.is_empty()
            && let Some(&prefix) = self.rest.first_chunk::<PREFIX_LEN>()
        {
            self.rest.advance(PREFIX_LEN);
            return Some(prefix);
        }
        self.gather(PREFIX_LEN);
        let prefix = *self.gathered.first_chunk::<PREFIX_LEN>()?;
        self.gathered.clear();
        Some(prefix)
    }

    fn check_prefix(&self, prefix: [u8; PREFIX_LEN]) -> Result<usize, Status> {
        let [format, a, b, c, d] = prefix;
        let message_len = u32::from_be_bytes([a, b, c, d]) as usize;
        if message_len > self.max_message_bytes {
            let max = self.max_message_bytes;
            return Err(Status::new(
                Code::ResourceExhausted,
                format!("grpc: received message larger than max ({message_len} vs. {max})"),
            ));
        }
        match format {
            0 => Ok(message_len),
            1 => Err(Status::new(
                Code::Internal,
                "grpc: compressed flag set with identity or empty encoding",
            )),
            _ => Err(Status::new(
                Code::Internal,
                format!("grpc: received unexpected payload format {format}"),
            )),
        }
    }

    /// Moves what there is into the buffer, until that holds `len` octets.
    fn gather(&mut self, len: usize) {
        let missing = len.saturating_sub(self.gathered.len());
        let part = missing.min(self.rest.len());
        if part == 0 {
            return;
        }
        // Once half has come, the rest is room well spent.
        if (self.gathered.len() + part) * 2 >= len {
            self.gathered.reserve_exact(missing);
        }
        self.gathered.extend_from_slice(&self.rest[..part]);
        if part == self.rest.len() {
            self.rest = Bytes::new();
        } else {
            self.rest.advance(part);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn framed(messages: &[&[u8]]) -> Vec<u8> {
        messages.iter().flat_map(|m| [&encode_prefix(m.len())[..], m].concat()).collect()
    }

    fn drain(decoder: &mut Decoder, found: &mut Vec<Bytes>) {
        while let Some(message) = decoder.next_message().unwrap() {
            found.push(message);
        }
    }

    #[test]
    fn messages_come_out_whole_however_the_data_is_cut() {
        let messages: [&[u8]; 5] = [b"", b"a", b"hello world", b"", &[7; 300]];
        let wire = framed(&messages);
        for first in 0..=wire.len() {
            for second in [first, first.midpoint(wire.len()), wire.len()] {
                let mut decoder = Decoder::new(1_000);
                let mut found = Vec::new();
                for part in [&wire[..first], &wire[first..second], &wire[second..]] {
                    decoder.push(Bytes::copy_from_slice(part));
                    drain(&mut decoder, &mut found);
                }
                assert_eq!(found, messages, "cut at {first} and {second}");
                assert!(decoder.is_between_messages());
            }
        }
    }

    #[test]
    fn octet_by_octet_is_no_different() {
        let messages: [&[u8]; 3] = [b"abc", b"", b"defgh"];
        let mut decoder = Decoder::new(10);
        let mut found = Vec::new();
        for octet in framed(&messages) {
            decoder.push(Bytes::copy_from_slice(&[octet]));
            drain(&mut decoder, &mut found);
        }
        assert_eq!(found, messages);
    }

    #[test]
    fn data_pushed_without_draining_is_joined() {
        let wire = framed(&[b"abc", b"def"]);
        let mut decoder = Decoder::new(10);
        for part in wire.chunks(3) {
            decoder.push(Bytes::copy_from_slice(part));
        }
        let mut found = Vec::new();
        drain(&mut decoder, &mut found);
        assert_eq!(found, [&b"abc"[..], b"def"]);
    }

    #[test]
    fn a_message_in_one_piece_is_a_slice_of_the_data() {
        let wire = Bytes::from(framed(&[b"hello", b"world"]));
        let mut decoder = Decoder::new(10);
        decoder.push(wire.clone());
        let hello = decoder.next_message().unwrap().unwrap();
        let world = decoder.next_message().unwrap().unwrap();
        assert_eq!(hello.as_ptr(), wire[5..].as_ptr());
        assert_eq!(world.as_ptr(), wire[15..].as_ptr());
    }

    #[test]
    fn bad_prefixes_get_the_texts_of_grpc_go() {
        let cases: [([u8; 5], Code, &str); 4] = [
            (
                [0, 0, 0, 4, 1],
                Code::ResourceExhausted,
                "grpc: received message larger than max (1025 vs. 1024)",
            ),
            (
                [0xff; 5],
                Code::ResourceExhausted,
                "grpc: received message larger than max (4294967295 vs. 1024)",
            ),
            (
                [1, 0, 0, 0, 1],
                Code::Internal,
                "grpc: compressed flag set with identity or empty encoding",
            ),
            ([2, 0, 0, 0, 1], Code::Internal, "grpc: received unexpected payload format 2"),
        ];
        for (prefix, code, message) in cases {
            let mut decoder = Decoder::new(1_024);
            decoder.push(Bytes::copy_from_slice(&prefix));
            assert_eq!(decoder.next_message(), Err(Status::new(code, message)));
        }
    }

    #[test]
    fn a_promised_length_reserves_nothing() {
        let mut decoder = Decoder::new(1 << 30);
        decoder.push(Bytes::copy_from_slice(&[0, 0x20, 0, 0, 0, 1, 2, 3]));
        assert_eq!(decoder.next_message(), Ok(None));
        assert!(!decoder.is_between_messages());
        assert!(decoder.buffered_bytes() < 1_000);
    }
}
