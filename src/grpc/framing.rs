//! Length-prefixed messages: one octet for "compressed", four for the length, the message.
//!
//! ```text
//! +----------------+----------------------+---------------- - -
//! | compressed (1) | length, big end. (4) | message
//! +----------------+----------------------+---------------- - -
//! ```

use std::io::Read;

use bytes::{Buf, Bytes, BytesMut};
use flate2::read::GzDecoder;

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
    /// What `rest` takes up, once it is no slice of an input any more.
    room: usize,
    /// A prefix or a message of which only this much has come.
    gathered: Vec<u8>,
    /// The message being gathered; none while its prefix is.
    message: Option<Announced>,
    /// Messages may be compressed.
    takes_gzip: bool,
    /// What `count_buffered` found last.
    counted: usize,
}

/// Octets kept for messages that are not complete, now and when they were counted before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counted {
    pub before: usize,
    pub now: usize,
}

/// What a prefix says of its message.
#[derive(Debug, Clone, Copy)]
struct Announced {
    len: usize,
    is_compressed: bool,
}

impl Decoder {
    pub fn new(max_message_bytes: usize) -> Decoder {
        Decoder {
            max_message_bytes,
            rest: Bytes::new(),
            room: 0,
            gathered: Vec::new(),
            message: None,
            takes_gzip: false,
            counted: 0,
        }
    }

    /// For a stream whose `grpc-encoding` is gzip: each of its messages may be compressed, or not. The bound
    /// holds for a message before and after.
    pub fn with_gzip(max_message_bytes: usize) -> Decoder {
        Decoder { takes_gzip: true, ..Decoder::new(max_message_bytes) }
    }

    /// Takes the next piece of data; [`Decoder::next_message`] until there is none should follow, or else
    /// [`Decoder::set_aside`].
    #[inline]
    pub fn push(&mut self, data: Bytes) {
        if self.rest.is_empty() {
            self.rest = data;
            self.room = 0;
            return;
        }
        // Copied at most once: what is joined here is held by nobody else.
        let rest = std::mem::take(&mut self.rest);
        let mut joined = rest.try_into_mut().unwrap_or_else(|shared| BytesMut::from(&shared[..]));
        joined.extend_from_slice(&data);
        self.room = joined.capacity();
        self.rest = joined.freeze();
    }

    /// The data is not looked at for now. It is copied once: a slice keeps all of the input that it is a part of.
    pub fn set_aside(&mut self) {
        if self.room == 0 && !self.rest.is_empty() {
            self.rest = Bytes::copy_from_slice(&self.rest);
            self.room = self.rest.len();
        }
    }

    /// The next complete message. After an error the stream is to be ended with that status.
    #[inline]
    pub fn next_message(&mut self) -> Result<Option<Bytes>, Status> {
        if self.message.is_none() {
            let Some(prefix) = self.take_prefix() else { return Ok(None) };
            self.message = Some(self.check_prefix(prefix)?);
        }
        let Some(Announced { len, is_compressed }) = self.message else { return Ok(None) };
        let message = if self.gathered.is_empty() && self.rest.len() >= len {
            match self.rest.len() == len {
                true => std::mem::take(&mut self.rest),
                false => self.rest.split_to(len),
            }
        } else {
            self.gather(len);
            if self.gathered.len() < len {
                return Ok(None);
            }
            Bytes::from(std::mem::take(&mut self.gathered))
        };
        self.message = None;
        if is_compressed {
            return decompress(&message, self.max_message_bytes).map(Some);
        }
        Ok(Some(message))
    }

    /// A prefix has come and its message has not; at the end of a stream grpc-go calls this "unexpected EOF", and
    /// half a prefix "EOF", as nothing at all.
    pub fn is_within_message(&self) -> bool {
        self.message.is_some()
    }

    /// No part of a message is left.
    pub fn is_between_messages(&self) -> bool {
        self.message.is_none() && self.gathered.is_empty() && self.rest.is_empty()
    }

    /// Octets kept for messages that are not complete.
    pub fn buffered_bytes(&self) -> usize {
        let rest = if self.rest.is_empty() { 0 } else { self.room.max(self.rest.len()) };
        self.gathered.capacity() + rest
    }

    /// Counts them, for whoever keeps the sum over many streams.
    #[inline]
    pub fn count_buffered(&mut self) -> Counted {
        let now = self.buffered_bytes();
        Counted { before: std::mem::replace(&mut self.counted, now), now }
    }

    pub fn counted(&self) -> usize {
        self.counted
    }

    fn take_prefix(&mut self) -> Option<[u8; PREFIX_LEN]> {
        if self.gathered.is_empty()
            && let Some(&prefix) = self.rest.first_chunk::<PREFIX_LEN>()
        {
            self.rest.advance(PREFIX_LEN);
            if self.rest.is_empty() {
                // Even an empty slice keeps its input.
                self.rest = Bytes::new();
            }
            return Some(prefix);
        }
        self.gather(PREFIX_LEN);
        let prefix = *self.gathered.first_chunk::<PREFIX_LEN>()?;
        self.gathered.clear();
        Some(prefix)
    }

    fn check_prefix(&self, prefix: [u8; PREFIX_LEN]) -> Result<Announced, Status> {
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
            0 => Ok(Announced { len: message_len, is_compressed: false }),
            1 if self.takes_gzip => Ok(Announced { len: message_len, is_compressed: true }),
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

/// At most one octet more than allowed is made, so that a small message cannot become a huge one.
#[cold]
fn decompress(message: &[u8], max_bytes: usize) -> Result<Bytes, Status> {
    let mut plain = Vec::new();
    let mut reader = GzDecoder::new(message).take(max_bytes as u64 + 1);
    if let Err(error) = reader.read_to_end(&mut plain) {
        // The text behind the colon is that of the library.
        let text = format!("grpc: failed to read decompressed data: {error}");
        return Err(Status::new(Code::Internal, text));
    }
    if plain.len() > max_bytes {
        let text =
            format!("grpc: received message after decompression larger than max {max_bytes}");
        return Err(Status::new(Code::ResourceExhausted, text));
    }
    Ok(plain.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gzip(plain: &[u8]) -> Vec<u8> {
        use std::io::Write;
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        encoder.write_all(plain).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn a_compressed_message_is_what_it_was_and_never_larger_than_allowed() {
        let one = |plain: &[u8], max| {
            let packed = gzip(plain);
            let prefix = encode_prefix(packed.len());
            let mut decoder = Decoder::with_gzip(max);
            decoder.push([&[1], &prefix[1..], &packed].concat().into());
            decoder.next_message()
        };
        assert_eq!(one(b"hello", 1_000), Ok(Some(Bytes::from_static(b"hello"))));
        assert_eq!(one(&[0; 1_000], 1_000), Ok(Some(vec![0; 1_000].into())));
        let text = "grpc: received message after decompression larger than max 100000";
        let expected = Err(Status::new(Code::ResourceExhausted, text));
        assert_eq!(one(&vec![0; 50_000_000], 100_000), expected);

        let mut decoder = Decoder::with_gzip(1_000);
        decoder.push(Bytes::from_static(b"\0\0\0\0\x02hi\x01\0\0\0\x03abc"));
        assert_eq!(decoder.next_message(), Ok(Some(Bytes::from_static(b"hi"))));
        assert_eq!(decoder.next_message().map_err(|status| status.code), Err(Code::Internal));
    }

    #[test]
    fn pieces_that_wait_are_joined_without_copying_them_again() {
        let mut decoder = Decoder::new(1 << 20);
        let wire = framed(&[&[7; 200_000]]);
        for octet in wire.iter() {
            decoder.push(Bytes::copy_from_slice(&[*octet]));
        }
        // Quadratic work would take minutes here.
        assert_eq!(decoder.next_message(), Ok(Some(vec![7; 200_000].into())));
    }

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
    fn what_waits_keeps_nothing_of_the_input_and_is_counted() {
        let input = Bytes::from(vec![0; 1_000]);
        let mut decoder = Decoder::new(1_000);
        decoder.push(input.slice(..5));
        decoder.set_aside();
        assert!(input.is_unique());
        assert_eq!(decoder.count_buffered(), Counted { before: 0, now: 5 });
        for _ in 0..100 {
            decoder.push(input.slice(..5));
            decoder.set_aside();
        }
        assert!(input.is_unique());
        assert!(decoder.count_buffered().now >= 505);
        let mut found = Vec::new();
        drain(&mut decoder, &mut found);
        assert_eq!(found.len(), 101);
        assert_eq!(decoder.count_buffered().now, 0);
    }

    #[test]
    fn a_prefix_alone_keeps_nothing_of_the_input() {
        let input = Bytes::from(framed(&[b"hello"]));
        let mut decoder = Decoder::new(10);
        decoder.push(input.slice(..PREFIX_LEN));
        assert_eq!(decoder.next_message(), Ok(None));
        assert!(input.is_unique());
        decoder.push(input.slice(PREFIX_LEN..));
        assert_eq!(decoder.next_message(), Ok(Some(Bytes::from_static(b"hello"))));
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
