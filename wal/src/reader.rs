//! Batches of a log in use: for members that have fallen behind, and for checking.

use bytes::Bytes;

use crate::{
    batch::{BatchHeader, FirstSector},
    record::{RecordRef, Records},
    sector::{SECTOR_BYTES, is_stale},
    segment::{BatchSeq, Position},
};

/// A batch with sound checksums.
#[derive(Debug)]
pub struct Batch {
    header: BatchHeader,
    body: Bytes,
    offset: u64,
}

impl Batch {
    pub(crate) fn new(header: BatchHeader, body: Bytes, offset: u64) -> Batch {
        Batch { header, body, offset }
    }

    pub fn sequence(&self) -> BatchSeq {
        self.header.sequence
    }

    /// Where the batch behind it begins, in the same segment or, if that is full, not at all.
    pub fn end(&self) -> Position {
        let offset = self.offset + self.header.extent_bytes() as u64;
        Position { segment: self.header.segment, offset }
    }

    pub fn records(&self) -> impl Iterator<Item = RecordRef<'_>> {
        Records::new(&self.body, self.header.place(self.offset))
    }
}

/// What [`read_batch`] found.
#[derive(Debug)]
pub enum Step {
    Batch(Batch),
    /// The batch is longer than the bytes at hand: ask again with so many from the same place.
    NeedBytes(usize),
    /// No batch has been written here.
    End,
}

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{at}: not a batch of this log, or a damaged one")]
pub struct Damaged {
    pub at: Position,
}

/// Reads the batch that begins at `at`, of which `bytes` holds the beginning. `oldest` is the oldest batch
/// of the log. Whether the batch continues the one before is for the caller to see by its sequence. Only
/// batches that are durable may be read.
pub fn read_batch(at: Position, oldest: BatchSeq, bytes: &[u8]) -> Result<Step, Damaged> {
    let Some(first) = bytes.get(..SECTOR_BYTES) else { return Ok(Step::NeedBytes(SECTOR_BYTES)) };
    if is_stale(first, oldest) {
        return Ok(Step::End);
    }
    let header = match BatchHeader::examine(bytes) {
        FirstSector::Blank => return Ok(Step::End),
        FirstSector::Sound(header, _) if header.segment == at.segment => header,
        _ => return Err(Damaged { at }),
    };
    let extent_bytes = header.extent_bytes();
    let Some(extent) = bytes.get(..extent_bytes) else { return Ok(Step::NeedBytes(extent_bytes)) };
    let body = header.body(extent).ok_or(Damaged { at })?;
    Ok(Step::Batch(Batch::new(header, body, at.offset)))
}
