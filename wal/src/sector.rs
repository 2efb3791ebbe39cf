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
//!    | sequence of the batch      | check  |
//!    +----------------------------+--------+
//! check = CRC-16/DNP of the six bytes before (polynomial 0x3D65, from 0, not reflected) ^ 0x5EC7
//! ```
//!
//! Every sector of a batch bears the stamp of that batch, the unused ones of its last block too. What
//! was there before a batch is zero, or *stale*: left by an earlier life of the file, when it was a
//! segment that has gone since. All batches of a segment that has gone are older than the oldest that
//! is left, so a stale sector is known by its stamp. A sector of a batch that never reached the disk is
//! known by being zero or stale, and that is how a torn batch is told from a rotten one.
//!
//! The check keeps one from looking like the other: two stamps differ in at least six bits, and every
//! stamp has at least four bits that are set, so that no flipped bit makes a sector look stale or zero.
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

/// Mixed into the check, so that zeros are no stamp.
const STAMP_MARK: u16 = 0x5EC7;
const STAMP_POLYNOMIAL: u16 = 0x3D65;

const _: () = assert!(BLOCK_BYTES.is_multiple_of(SECTOR_BYTES));
const _: () = assert!(SEQUENCE_MAX >> 48 == 0);

pub(crate) fn stamp_of(sequence: BatchSeq) -> [u8; STAMP_BYTES] {
    debug_assert!(sequence.0 <= SEQUENCE_MAX);
    (u64::from(check_of(sequence.0)) << 48 | sequence.0).to_le_bytes()
}

pub(crate) fn bears_stamp(sector: &[u8], stamp: &[u8; STAMP_BYTES]) -> bool {
    sector.get(SECTOR_DATA_BYTES..) == Some(stamp)
}

/// The batch that a sector bears the stamp of. `None` if what is there is no stamp.
pub(crate) fn stamped(sector: &[u8]) -> Option<BatchSeq> {
    let stamp = sector.get(SECTOR_DATA_BYTES..)?.first_chunk()?;
    let sequence = BatchSeq(u64::from_le_bytes(*stamp) & SEQUENCE_MAX);
    (stamp_of(sequence) == *stamp).then_some(sequence)
}

/// Whether a sector was left by an earlier life of its file: `oldest` is the oldest batch of the log.
pub(crate) fn is_stale(sector: &[u8], oldest: BatchSeq) -> bool {
    stamped(sector).is_some_and(|sequence| sequence < oldest)
}

/// Whether none of the sectors was written since the file became this segment.
pub(crate) fn is_unwritten(sectors: &[u8], oldest: BatchSeq) -> bool {
    until_unwritten(sectors, oldest).is_empty()
}

/// The sectors without those at their end that were not written since the file became this segment.
pub(crate) fn until_unwritten(sectors: &[u8], oldest: BatchSeq) -> &[u8] {
    let last = sectors
        .chunks(SECTOR_BYTES)
        .rposition(|sector| !is_blank(sector) && !is_stale(sector, oldest));
    let end = last.map_or(0, |last| (last + 1) * SECTOR_BYTES);
    sectors.get(..end).unwrap_or(sectors)
}

fn check_of(sequence: u64) -> u16 {
    let [bytes @ .., _, _] = sequence.to_le_bytes();
    let step =
        |crc: u16, byte: u8| crc << 8 ^ CRC_OF_BYTE[usize::from(crc >> 8) ^ usize::from(byte)];
    bytes.into_iter().fold(0, step) ^ STAMP_MARK
}

const CRC_OF_BYTE: [u16; 256] = {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < table.len() {
        let mut crc = (byte as u16) << 8;
        let mut bit = 0;
        while bit < 8 {
            crc = crc << 1 ^ if crc & 0x8000 == 0 { 0 } else { STAMP_POLYNOMIAL };
            bit += 1;
        }
        table[byte] = crc;
        byte += 1;
    }
    table
};

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

    /// All ways to flip so many bits of a stamp.
    fn flips(bits: u32, visit: &mut dyn FnMut(u64)) {
        fn more(pattern: u64, from: u32, bits: u32, visit: &mut dyn FnMut(u64)) {
            if bits == 0 {
                return visit(pattern);
            }
            (from..64).for_each(|bit| more(pattern | 1 << bit, bit + 1, bits - 1, visit));
        }
        more(0, 0, bits, visit);
    }

    fn sector(stamp: u64) -> [u8; SECTOR_BYTES] {
        let mut sector = [0; SECTOR_BYTES];
        sector[SECTOR_DATA_BYTES..].copy_from_slice(&stamp.to_le_bytes());
        sector
    }

    /// The code is linear, so what holds for one stamp holds for all.
    #[test]
    fn four_flipped_bits_make_no_stamp_of_a_stamp_and_three_none_of_zeros() {
        for sequence in [1, 2, 0x1234_5678_9abc, SEQUENCE_MAX] {
            let stamp = u64::from_le_bytes(stamp_of(BatchSeq(sequence)));
            assert_eq!(stamped(&sector(stamp)), Some(BatchSeq(sequence)));
            let bits_max = if sequence == 1 { 4 } else { 2 };
            for bits in 1..=bits_max {
                flips(bits, &mut |pattern| {
                    assert_eq!(stamped(&sector(stamp ^ pattern)), None, "{pattern:x}");
                });
            }
        }
        for bits in 0..=3 {
            flips(bits, &mut |pattern| assert_eq!(stamped(&sector(pattern)), None, "{pattern:x}"));
        }
    }

    #[test]
    fn what_is_older_than_the_log_is_stale_and_nothing_else() {
        let of = |sequence| sector(u64::from_le_bytes(stamp_of(BatchSeq(sequence))));
        for (sequence, stale) in [(1, true), (6, true), (7, false), (8, false)] {
            assert_eq!(is_stale(&of(sequence), BatchSeq(7)), stale, "{sequence}");
        }
        assert!(!is_stale(&[0; SECTOR_BYTES], BatchSeq(7)));
        let sectors = [of(7), of(3), [0; SECTOR_BYTES], of(6)].concat();
        assert_eq!(until_unwritten(&sectors, BatchSeq(7)), of(7));
        assert!(is_unwritten(&sectors[SECTOR_BYTES..], BatchSeq(7)));
        assert!(!is_unwritten(&sectors[SECTOR_BYTES..], BatchSeq(6)));
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
