//! Frames: the pieces that a stream between members is made of.
//!
//! ```text
//! stream     magic "ringd-p\n" (8 bytes), from the one who dials | frames
//!            the one who is dialled answers with frames alone
//! frame      length of the body u32 | kind u8 | 0 u8 x 3 |
//!            crc32c of the 8 bytes before u32 | crc32c of the body u32 | body
//! ```
//!
//! All integers are little-endian. The head has a checksum of its own, so that a damaged length is
//! never waited for.

use bytes::{Bytes, BytesMut};

use super::PeerError;
use super::limits::{FRAME_BYTES_MAX, GREETING_BYTES_MAX};

pub const MAGIC: [u8; 8] = *b"ringd-p\n";
pub const HEAD_BYTES: usize = 16;

/// One frame as it was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    pub kind: u8,
    pub body: Bytes,
}

/// Appends a frame of `kind` whose body `write` makes.
pub fn put(out: &mut Vec<u8>, kind: u8, write: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.extend_from_slice(&[0; HEAD_BYTES]);
    write(out);
    let length = out.len() - start - HEAD_BYTES;
    assert!(length <= FRAME_BYTES_MAX, "a frame of {length} bytes");
    let body = crc32c::crc32c(&out[start + HEAD_BYTES..]);
    let mut head = [0; HEAD_BYTES];
    head[..4].copy_from_slice(&(length as u32).to_le_bytes());
    head[4] = kind;
    let sum = crc32c::crc32c(&head[..8]);
    head[8..12].copy_from_slice(&sum.to_le_bytes());
    head[12..].copy_from_slice(&body.to_le_bytes());
    out[start..start + HEAD_BYTES].copy_from_slice(&head);
}

struct Head {
    length: usize,
    kind: u8,
    body_sum: u32,
}

impl Head {
    fn read(bytes: &[u8], length_max: usize) -> Result<Head, PeerError> {
        let word = |at: usize| {
            let mut word = [0; 4];
            word.copy_from_slice(&bytes[at..at + 4]);
            u32::from_le_bytes(word)
        };
        if crc32c::crc32c(&bytes[..8]) != word(8) {
            return Err(PeerError::Frame("the checksum of its head"));
        }
        if bytes[5..8] != [0; 3] {
            return Err(PeerError::Frame("its head has bits of another version"));
        }
        let length = word(0) as usize;
        if length > length_max {
            return Err(PeerError::Frame("it is too long"));
        }
        Ok(Head { length, kind: bytes[4], body_sum: word(12) })
    }
}

/// Finds frames in bytes that arrive in any pieces. A frame that lies whole in one piece is a slice
/// of it; only one that does not is gathered.
#[derive(Debug)]
pub struct Frames {
    magic_due: bool,
    length_max: usize,
    /// The piece that is being read.
    input: Bytes,
    /// The beginning of a frame, or of the magic, that went on beyond the last piece.
    gathered: BytesMut,
}

impl Frames {
    /// The stream of one who dials begins with the magic.
    pub fn of_dialler() -> Frames {
        Frames {
            magic_due: true,
            length_max: GREETING_BYTES_MAX,
            input: Bytes::new(),
            gathered: BytesMut::new(),
        }
    }

    pub fn of_dialled() -> Frames {
        Frames { magic_due: false, ..Frames::of_dialler() }
    }

    /// The other end is a member now; its frames may be long.
    pub fn trust(&mut self) {
        self.length_max = FRAME_BYTES_MAX;
    }

    /// Hands in what has arrived. To be followed by `next` until it gives none.
    pub fn feed(&mut self, piece: Bytes) {
        assert!(self.input.is_empty(), "the last piece was not read to its end");
        self.input = piece;
    }

    /// The next frame, if all of it has arrived.
    pub fn next(&mut self) -> Result<Option<Frame>, PeerError> {
        if self.magic_due {
            let Some(magic) = self.take(MAGIC.len()) else {
                // What can never become the magic is not waited for.
                let begun = MAGIC.starts_with(&self.gathered);
                return if begun { Ok(None) } else { Err(PeerError::NotRingd) };
            };
            if magic[..] != MAGIC {
                return Err(PeerError::NotRingd);
            }
            self.magic_due = false;
        }
        let Some(head) = self.peek_head()? else { return Ok(None) };
        let Some(mut body) = self.take(HEAD_BYTES + head.length) else { return Ok(None) };
        let body = body.split_off(HEAD_BYTES);
        if crc32c::crc32c(&body) != head.body_sum {
            return Err(PeerError::Frame("the checksum of its body"));
        }
        Ok(Some(Frame { kind: head.kind, body }))
    }

    fn peek_head(&mut self) -> Result<Option<Head>, PeerError> {
        if self.gathered.is_empty() && self.input.len() >= HEAD_BYTES {
            return Head::read(&self.input, self.length_max).map(Some);
        }
        self.gather(HEAD_BYTES);
        if self.gathered.len() < HEAD_BYTES {
            return Ok(None);
        }
        Head::read(&self.gathered, self.length_max).map(Some)
    }

    /// The next `count` bytes, or none of them while they are not all there.
    fn take(&mut self, count: usize) -> Option<Bytes> {
        if self.gathered.is_empty() && self.input.len() >= count {
            return Some(self.input.split_to(count));
        }
        self.gather(count);
        (self.gathered.len() == count).then(|| self.gathered.split().freeze())
    }

    /// Moves bytes of the piece to those that are gathered, until they are `count`.
    fn gather(&mut self, count: usize) {
        let missing = count.saturating_sub(self.gathered.len()).min(self.input.len());
        self.gathered.extend_from_slice(&self.input.split_to(missing));
    }
}
