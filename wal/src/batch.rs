//! Batches: what one write writes.
//!
//! ```text
//! header, at the start of the first sector, little endian
//!    0                                8       10     12             16
//!    +--------------------------------+-------+-------+--------------+
//!    | magic "ringdWAL"               |version| zero  |segment_blocks|
//!    +--------------------------------+-------+-------+--------------+
//!   16                               24                             32
//!    +--------------------------------+------------------------------+
//!    | segment                        | sequence                     |
//!    +--------------------------------+------------------------------+
//!   32                               40              44             48
//!    +--------------------------------+---------------+--------------+
//!    | durable                        | body_bytes    | record_count |
//!    +--------------------------------+---------------+--------------+
//!   48               52              56              60             64
//!    +----------------+---------------+---------------+--------------+
//!    | preamble_count | body_crc      | link          | header_crc   |
//!    +----------------+---------------+---------------+--------------+
//! ```
//!
//! * The first batch of a segment opens with the segment's preamble: `preamble_count` of its
//!   `record_count` records repeat what earlier segments said. In any other batch it is 0.
//! * `durable` is the newest batch that was known durable when this one was handed out. With one write in
//!   flight it is `sequence - 1`.
//! * `body_crc` is the CRC-32 of all bytes of the batch on the disk behind this header: records, stamps,
//!   padding. `header_crc` is the CRC-32 of the 60 bytes before it. Both together leave no bit uncovered.
//! * `link` is the `header_crc` of the batch before, 0 in the first of a log. Since the header covers the
//!   body and the link, equal checksums stand for equal histories.
//! * `magic`, `version` and `header_crc` stay where they are in every version, so that another version is
//!   not taken for rot.

use bytes::Bytes;

use crate::{
    limits::{BLOCK_BYTES, SEQUENCE_MAX},
    record::{BodyPlace, RECORD_HEADER_BYTES, Records},
    sector::{SECTOR_BYTES, bears_stamp, extent_bytes, gather, stamp_of},
    segment::{BatchSeq, SegmentId},
};

pub(crate) const MAGIC: [u8; 8] = *b"ringdWAL";
pub(crate) const FORMAT_VERSION: u16 = 1;

const VERSION: usize = MAGIC.len();
const RESERVED: usize = VERSION + 2;
const SEGMENT_BLOCKS: usize = RESERVED + 2;
const SEGMENT: usize = SEGMENT_BLOCKS + 4;
const SEQUENCE: usize = SEGMENT + 8;
const DURABLE: usize = SEQUENCE + 8;
const BODY_BYTES: usize = DURABLE + 8;
const RECORD_COUNT: usize = BODY_BYTES + 4;
const PREAMBLE_COUNT: usize = RECORD_COUNT + 4;
const BODY_CRC: usize = PREAMBLE_COUNT + 4;
const LINK: usize = BODY_CRC + 4;
const HEADER_CRC: usize = LINK + 4;
pub(crate) const BATCH_HEADER_BYTES: usize = HEADER_CRC + 4;
const _: () = assert!(BATCH_HEADER_BYTES == 64);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BatchHeader {
    pub segment_blocks: u32,
    pub segment: SegmentId,
    pub sequence: BatchSeq,
    pub durable: BatchSeq,
    pub body_bytes: u32,
    pub record_count: u32,
    pub preamble_count: u32,
    pub body_crc: u32,
    pub link: u32,
}

/// What the first sector of a batch shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FirstSector {
    /// Zero all over.
    Blank,
    /// Not a header of any version.
    Rotten,
    OtherVersion,
    /// A header, and its checksum: the link of the batch behind it.
    Sound(BatchHeader, u32),
}

impl BatchHeader {
    /// The bytes, and the checksum that ends them.
    pub(crate) fn encode(&self) -> ([u8; BATCH_HEADER_BYTES], u32) {
        let mut bytes = [0; BATCH_HEADER_BYTES];
        bytes[..VERSION].copy_from_slice(&MAGIC);
        bytes[VERSION..RESERVED].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
        bytes[SEGMENT_BLOCKS..SEGMENT].copy_from_slice(&self.segment_blocks.to_le_bytes());
        bytes[SEGMENT..SEQUENCE].copy_from_slice(&self.segment.0.to_le_bytes());
        bytes[SEQUENCE..DURABLE].copy_from_slice(&self.sequence.0.to_le_bytes());
        bytes[DURABLE..BODY_BYTES].copy_from_slice(&self.durable.0.to_le_bytes());
        bytes[BODY_BYTES..RECORD_COUNT].copy_from_slice(&self.body_bytes.to_le_bytes());
        bytes[RECORD_COUNT..PREAMBLE_COUNT].copy_from_slice(&self.record_count.to_le_bytes());
        bytes[PREAMBLE_COUNT..BODY_CRC].copy_from_slice(&self.preamble_count.to_le_bytes());
        bytes[BODY_CRC..LINK].copy_from_slice(&self.body_crc.to_le_bytes());
        bytes[LINK..HEADER_CRC].copy_from_slice(&self.link.to_le_bytes());
        let crc = crc32fast::hash(&bytes[..HEADER_CRC]);
        bytes[HEADER_CRC..].copy_from_slice(&crc.to_le_bytes());
        (bytes, crc)
    }

    /// Reads the header at the start of `bytes`, of which the first sector is looked at.
    pub(crate) fn examine(bytes: &[u8]) -> FirstSector {
        let Some(sector) = bytes.first_chunk::<SECTOR_BYTES>() else { return FirstSector::Rotten };
        if crate::sector::is_blank(sector) {
            return FirstSector::Blank;
        }
        Self::decode(sector).unwrap_or(FirstSector::Rotten)
    }

    fn decode(sector: &[u8; SECTOR_BYTES]) -> Option<FirstSector> {
        let crc = u32::from_le_bytes(field(sector, HEADER_CRC)?);
        if sector[..VERSION] != MAGIC || crc != crc32fast::hash(&sector[..HEADER_CRC]) {
            return None;
        }
        if u16::from_le_bytes(field(sector, VERSION)?) != FORMAT_VERSION {
            return Some(FirstSector::OtherVersion);
        }
        let header = BatchHeader {
            segment_blocks: u32::from_le_bytes(field(sector, SEGMENT_BLOCKS)?),
            segment: SegmentId(u64::from_le_bytes(field(sector, SEGMENT)?)),
            sequence: BatchSeq(u64::from_le_bytes(field(sector, SEQUENCE)?)),
            durable: BatchSeq(u64::from_le_bytes(field(sector, DURABLE)?)),
            body_bytes: u32::from_le_bytes(field(sector, BODY_BYTES)?),
            record_count: u32::from_le_bytes(field(sector, RECORD_COUNT)?),
            preamble_count: u32::from_le_bytes(field(sector, PREAMBLE_COUNT)?),
            body_crc: u32::from_le_bytes(field(sector, BODY_CRC)?),
            link: u32::from_le_bytes(field(sector, LINK)?),
        };
        let sensible = field(sector, RESERVED)? == [0, 0]
            && (1..=SEQUENCE_MAX).contains(&header.sequence.0)
            && bears_stamp(sector, &stamp_of(header.sequence))
            && header.durable < header.sequence
            && header.preamble_count <= header.record_count;
        sensible.then_some(FirstSector::Sound(header, crc))
    }

    /// Bytes on the disk, a multiple of the block.
    pub(crate) fn extent_bytes(&self) -> usize {
        extent_bytes(BATCH_HEADER_BYTES + self.body_bytes as usize)
    }

    pub(crate) fn segment_bytes(&self) -> u64 {
        u64::from(self.segment_blocks) * BLOCK_BYTES as u64
    }

    /// The body of the batch that lies in `extent`, if it is what was written.
    pub(crate) fn body(&self, extent: &[u8]) -> Option<Bytes> {
        if extent.len() != self.extent_bytes() || self.body_crc != body_crc(extent) {
            return None;
        }
        let body = Bytes::from(gather(extent, BATCH_HEADER_BYTES, self.body_bytes as usize)?);
        Records::new(&body, self.place(0)).are_whole(self.record_count).then_some(body)
    }

    /// For the positions of records, when the batch begins at `offset` of its segment.
    pub(crate) fn place(&self, offset: u64) -> BodyPlace {
        BodyPlace {
            segment: self.segment,
            offset,
            logical: BATCH_HEADER_BYTES,
            sequence: self.sequence,
            preamble_count: self.preamble_count,
        }
    }
}

pub(crate) fn body_crc(extent: &[u8]) -> u32 {
    crc32fast::hash(extent.get(BATCH_HEADER_BYTES..).unwrap_or_default())
}

/// Logical bytes of a record of so much data.
pub(crate) const fn record_bytes(data_bytes: usize) -> usize {
    RECORD_HEADER_BYTES + data_bytes
}

fn field<const N: usize>(sector: &[u8; SECTOR_BYTES], at: usize) -> Option<[u8; N]> {
    sector.get(at..)?.first_chunk().copied()
}
