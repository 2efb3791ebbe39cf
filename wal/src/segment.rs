//! Segments by name: what the log is made of, seen from outside.

use std::{fmt, io, ops::Deref};

/// Number of a segment. The first is 1, and there are no gaps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SegmentId(pub u64);

impl SegmentId {
    pub const FIRST: SegmentId = SegmentId(1);

    pub fn next(self) -> SegmentId {
        SegmentId(self.0 + 1)
    }

    /// The name errors call it by, and under which the caller is expected to keep it.
    pub fn file_name(self) -> String {
        format!("{:016x}.log", self.0)
    }
}

impl fmt::Display for SegmentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}.log", self.0)
    }
}

/// Number of a batch. The first of a log is 1; 0 is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BatchSeq(pub u64);

impl BatchSeq {
    pub const NONE: BatchSeq = BatchSeq(0);

    pub fn next(self) -> BatchSeq {
        BatchSeq(self.0 + 1)
    }
}

/// A place in the log: bytes from the start of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    pub segment: SegmentId,
    pub offset: u64,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at offset {}", self.segment, self.offset)
    }
}

/// A segment that holds batches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentInfo {
    pub segment: SegmentId,
    pub bytes: u64,
    /// Largest index of its records, those of the preamble aside. 0 if none has an index.
    pub index_max: u64,
}

/// The segments as recovery finds them, files kept for later segments not among them.
///
/// What it reads must be durable already: a caller that may follow a crash of the process alone
/// syncs files and directory before it lets recovery look, or a batch could be taken that the next
/// loss of power takes back.
pub trait SegmentSource {
    /// Number and length in bytes of each, in any order. Unfinished creations are not among them.
    fn list(&mut self) -> io::Result<Vec<(SegmentId, u64)>>;

    /// The whole of one.
    fn read(&mut self, segment: SegmentId) -> io::Result<Content>;
}

/// Bytes of a segment: in memory, or a map of its file, which then changes no more as long as this is there.
pub type Content = Box<dyn Deref<Target = [u8]>>;
