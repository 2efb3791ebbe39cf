//! A write-ahead log without any I/O of its own.
//!
//! The log is a row of *segments* (files of a fixed size, written in full before their first use: with zeros,
//! or since they were a segment before). A
//! segment is nothing but *batches*, each of which was one synced write. A batch is a header and
//! *records*, and a record is a kind, an index and bytes that mean nothing here.
//!
//! [`Writer`] collects records into batches (group commit) and says which operation the caller has
//! to carry out next; [`recover`] reads everything back and decides, by the table
//! [`RECOVERY_CASES`], what the end of the log is; [`read_batch`] reads single batches of a log
//! that is in use.
//!
//! # Invariants
//!
//! * A record is durable when the operation that wrote its batch is done, and never before
//!   [`Writer::op_done`] names its batch.
//! * One write is in flight at a time, so at most one batch can be torn, and it is the last one.
//! * What has not been written yet is zero, or stale: of a batch older than the log. A torn batch is zeroed
//!   before anything is written after it.
//! * A segment goes only when a later one holds a durable batch, and the oldest goes first.
//!
//! # What this crate does not know
//!
//! Files and their names in a directory, clocks, threads, the event loop, and Raft. A failed write never
//! comes back here: the caller ends the process.

mod batch;
mod buffer;
mod cases;
mod collecting;
mod limits;
#[doc(hidden)]
pub mod mutants;
mod reader;
mod record;
mod recovery;
mod sector;
mod segment;
mod verify;
mod writer;

pub use buffer::AlignedBuf;
pub use cases::{After, Case, Decision, Head, RECOVERY_CASES, Sectors, Sight, case_of};
pub use limits::{
    BATCH_BYTES_DEFAULT, BLOCK_BYTES, Options, PREAMBLE_BYTES_MAX, PREAMBLES_MAX, RECORD_BYTES_MAX,
    SEGMENT_BYTES_DEFAULT, SEGMENT_BYTES_MIN,
};
pub use reader::{Batch, Damaged, Step, read_batch};
pub use record::RecordRef;
pub use recovery::{RecoverError, Recovered, Torn, recover};
pub use segment::{BatchSeq, Content, Position, SegmentId, SegmentInfo, SegmentSource};
pub use verify::{Verified, verify};
pub use writer::{Op, OpId, Writer};
