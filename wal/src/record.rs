//! Records: what a batch carries.
//!
//! ```text
//! one record, little endian; logical offsets, any alignment
//!    0        4    5        8                16
//!    +--------+----+--------+----------------+-------------------+
//!    | length |kind| zero   | index          | data: length bytes|
//!    +--------+----+--------+----------------+-------------------+
//! ```

use bytes::Bytes;

use crate::{
    sector::disk_offset,
    segment::{BatchSeq, Position, SegmentId},
};

const LENGTH: usize = 0;
const KIND: usize = LENGTH + 4;
const RESERVED: usize = KIND + 1;
const INDEX: usize = RESERVED + 3;
pub(crate) const RECORD_HEADER_BYTES: usize = INDEX + 8;
const _: () = assert!(RECORD_HEADER_BYTES == 16);

pub(crate) fn encode_header(kind: u8, index: u64, length: u32) -> [u8; RECORD_HEADER_BYTES] {
    let mut header = [0; RECORD_HEADER_BYTES];
    header[LENGTH..KIND].copy_from_slice(&length.to_le_bytes());
    header[KIND] = kind;
    header[INDEX..].copy_from_slice(&index.to_le_bytes());
    header
}

/// One record, as it was appended.
#[derive(Clone, Copy, Debug)]
pub struct RecordRef<'a> {
    pub kind: u8,
    pub index: u64,
    pub data: &'a [u8],
    /// Where its header begins.
    pub at: Position,
    pub batch: BatchSeq,
    /// Repeated from earlier segments by [`crate::Writer::set_preamble`], not appended here.
    pub preamble: bool,
    body: &'a Bytes,
}

impl RecordRef<'_> {
    /// The data without a copy. Keeps the data of the whole batch alive.
    pub fn bytes(&self) -> Bytes {
        self.body.slice_ref(self.data)
    }
}

/// Where a body lies, for the positions of its records.
#[derive(Clone, Copy)]
pub(crate) struct BodyPlace {
    pub segment: SegmentId,
    /// Of the batch, in its segment.
    pub offset: u64,
    /// Of the body, logical.
    pub logical: usize,
    pub sequence: BatchSeq,
    pub preamble_count: u32,
}

/// The records of a body whose checksum was right.
pub(crate) struct Records<'a> {
    body: &'a Bytes,
    place: BodyPlace,
    at: usize,
    count: u32,
}

impl<'a> Records<'a> {
    pub(crate) fn new(body: &'a Bytes, place: BodyPlace) -> Records<'a> {
        Records { body, place, at: 0, count: 0 }
    }

    /// Whether the body is exactly `count` well-formed records.
    pub(crate) fn are_whole(mut self, count: u32) -> bool {
        while self.next().is_some() {}
        self.at == self.body.len() && self.count == count
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = RecordRef<'a>;

    fn next(&mut self) -> Option<RecordRef<'a>> {
        let rest = self.body.get(self.at..)?;
        let (header, rest) = rest.split_first_chunk::<RECORD_HEADER_BYTES>()?;
        let length = u32::from_le_bytes(*header[LENGTH..KIND].first_chunk()?) as usize;
        if header[RESERVED..INDEX] != [0; INDEX - RESERVED] {
            return None;
        }
        let data = rest.get(..length)?;
        let record = RecordRef {
            kind: header[KIND],
            index: u64::from_le_bytes(*header[INDEX..].first_chunk()?),
            data,
            at: Position {
                segment: self.place.segment,
                offset: self.place.offset + disk_offset(self.place.logical + self.at) as u64,
            },
            batch: self.place.sequence,
            preamble: self.count < self.place.preamble_count,
            body: self.body,
        };
        self.at += RECORD_HEADER_BYTES + length;
        self.count += 1;
        Some(record)
    }
}
