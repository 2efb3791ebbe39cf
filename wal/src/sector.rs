//! Sectors: how a batch lies in the 512-byte units that a disk writes as a whole.
//!
//! ```text
//! one sector
//!    0                                                            504      512
//!    +--------------------------------------------------------------+--------+
//!    | data                                                         | stamp  |
//!    +--------------------------------------------------------------+--------+
//!
//! stamp, little endian
//!    0                            6        8
//!    +----------------------------+--------+
//!    | sequence of the batch      | 0x5EC7 |
//!    +----------------------------+--------+
//! ```
//!
//! Every sector of a batch bears the stamp of that batch, the unused ones of its last block too. What
//! was there before a batch is zero. So a sector of a batch that never reached the disk is known by
//! being zero all over, and that is how a torn batch is told from a rotten one: a rotten sector is not
//! zero. The mark in the stamp keeps ten bits set in every written sector, so that no flipped bit makes
//! one look unwritten.
//!
//! The data of a batch is the data of its sectors, one after the other. An offset into it is *logical*;
//! an offset into the segment, or from the batch's start on the disk, is a *disk* offset.

use crate::{
    limits::{BLOCK_BYTES, SEQUENCE_MAX},
    segment::BatchSeq,
};

pub(crate) const SECTOR_BYTES: usize = 512;
pub(crate) const STAMP_BYTES: usize = 8;
/// Data in a sector, and the offset of its stamp.
pub(crate) const SECTOR_DATA_BYTES: usize = SECTOR_BYTES - STAMP_BYTES;

const STAMP_MARK: u64 = 0x5EC7 << 48;

const _: () = assert!(BLOCK_BYTES.is_multiple_of(SECTOR_BYTES));
const _: () = assert!(STAMP_MARK & SEQUENCE_MAX == 0 && STAMP_MARK.count_ones() == 10);

pub(crate) fn stamp_of(sequence: BatchSeq) -> [u8; STAMP_BYTES] {
    debug_assert!(sequence.0 <= SEQUENCE_MAX);
    (STAMP_MARK | sequence.0).to_le_bytes()
}

pub(crate) fn bears_stamp(sector: &[u8], stamp: &[u8; STAMP_BYTES]) -> bool {
    sector.get(SECTOR_DATA_BYTES..) == Some(stamp)
}

pub(crate) fn is_blank(bytes: &[u8]) -> bool {
    const ZEROS: [u8; BLOCK_BYTES] = [0; BLOCK_BYTES];
    bytes.chunks(BLOCK_BYTES).all(|chunk| chunk == &ZEROS[..chunk.len()])
}

/// Where the byte at a logical offset lies.
pub(crate) fn disk_offset(logical: usize) -> usize {
    logical / SECTOR_DATA_BYTES * SECTOR_BYTES + logical % SECTOR_DATA_BYTES
}

/// Bytes that a batch of so much data takes on the disk: whole blocks.
pub(crate) fn extent_bytes(data_bytes: usize) -> usize {
    (data_bytes.div_ceil(SECTOR_DATA_BYTES) * SECTOR_BYTES).next_multiple_of(BLOCK_BYTES)
}

/// `len` bytes of data from a logical offset, without the stamps between them.
/// `None` if the sectors do not hold that much.
pub(crate) fn gather(sectors: &[u8], mut logical: usize, len: usize) -> Option<Vec<u8>> {
    if disk_offset(logical.checked_add(len)?) > sectors.len() {
        return None;
    }
    let mut out = Vec::with_capacity(len);
    while out.len() < len {
        let room = SECTOR_DATA_BYTES - logical % SECTOR_DATA_BYTES;
        let take = room.min(len - out.len());
        let from = disk_offset(logical);
        out.extend_from_slice(sectors.get(from..from + take)?);
        logical += take;
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_survives_the_loss_of_any_bit_as_a_sector_that_is_not_blank() {
        for sequence in [1, 2, 3, SEQUENCE_MAX] {
            let mut sector = [0; SECTOR_BYTES];
            sector[SECTOR_DATA_BYTES..].copy_from_slice(&stamp_of(BatchSeq(sequence)));
            for bit in 0..SECTOR_BYTES * 8 {
                sector[bit / 8] ^= 1 << (bit % 8);
                assert!(!is_blank(&sector), "sequence {sequence}, bit {bit}");
                sector[bit / 8] ^= 1 << (bit % 8);
            }
        }
    }

    #[test]
    fn data_is_gathered_from_between_the_stamps() {
        let mut sectors = vec![0xEE; 4 * SECTOR_BYTES];
        for logical in 0..4 * SECTOR_DATA_BYTES {
            sectors[disk_offset(logical)] = (logical % 251) as u8;
        }
        for (from, len) in
            [(0, 0), (0, 504), (0, 505), (3, 501), (500, 1008), (64, 1952), (2016, 0)]
        {
            let expected: Vec<u8> =
                (from..from + len).map(|logical| (logical % 251) as u8).collect();
            assert_eq!(gather(&sectors, from, len), Some(expected), "{from}, {len}");
        }
        assert_eq!(gather(&sectors, 0, 2017), None);
        assert_eq!(gather(&sectors, usize::MAX, 2), None);
    }

    #[test]
    fn an_extent_is_whole_blocks() {
        assert_eq!(extent_bytes(1), BLOCK_BYTES);
        assert_eq!(extent_bytes(8 * SECTOR_DATA_BYTES), BLOCK_BYTES);
        assert_eq!(extent_bytes(8 * SECTOR_DATA_BYTES + 1), 2 * BLOCK_BYTES);
    }
}
