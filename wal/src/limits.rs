//! Every limit of the log, with where it comes from.

/// Unit of writing. Batches start at a multiple of it and are a multiple of it long: what `O_DIRECT`
/// asks of offset, length and memory on the disks we know (512 to 4096 bytes).
pub const BLOCK_BYTES: usize = 4096;

/// Size of a segment. etcd's size of a segment.
pub const SEGMENT_BYTES_DEFAULT: u64 = 64 << 20;

/// Two blocks: less could not hold a batch beside another.
pub const SEGMENT_BYTES_MIN: u64 = 2 * BLOCK_BYTES as u64;

/// A batch that has reached this size takes no further records. Long enough that the sync and not the
/// transfer is what a write costs, short enough that those who wait behind it wait one sync more.
pub const BATCH_BYTES_DEFAULT: usize = 1 << 20;

/// Largest record. Far above any `--max-request-bytes` that makes sense; keeps every length of a batch
/// within its 32-bit field.
pub const RECORD_BYTES_MAX: usize = 1 << 30;

/// Largest record of a preamble: it is written once more with each segment.
pub const PREAMBLE_BYTES_MAX: usize = 64 << 10;

/// Kinds of records in a preamble.
pub const PREAMBLES_MAX: usize = 16;

/// Buffers kept for later batches: one is being written, one collects, one is spare.
pub(crate) const POOLED_BUFFERS_MAX: usize = 3;

/// Zeros written at once over what a torn batch left.
pub(crate) const WIPE_BYTES: u64 = 256 << 10;

/// A sequence shares its stamp with a mark of 16 bits. 2^48 batches are 89 years at 100,000 a second.
pub(crate) const SEQUENCE_MAX: u64 = (1 << 48) - 1;

/// Sizes of a log. They may differ from one start to the next: what is there already keeps its size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Size of a new segment; rounded up to whole blocks. A segment for a batch that is larger than
    /// this is made as large as that batch needs.
    pub segment_bytes: u64,
    /// See [`BATCH_BYTES_DEFAULT`].
    pub batch_bytes: usize,
}

impl Default for Options {
    fn default() -> Self {
        Options { segment_bytes: SEGMENT_BYTES_DEFAULT, batch_bytes: BATCH_BYTES_DEFAULT }
    }
}

impl Options {
    pub(crate) fn segment_bytes(&self) -> u64 {
        self.segment_bytes.max(SEGMENT_BYTES_MIN).next_multiple_of(BLOCK_BYTES as u64)
    }
}
