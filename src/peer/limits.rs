//! Every bound between members in one place, each with where it comes from.

use crate::node::FORWARDED_BYTES_MAX;

/// Body of one frame. Entries are never cut, and a request may be 512 MiB (`--max-request-bytes`);
/// `raft` puts at most one such entry into a message. A receiver takes memory as bytes arrive, not
/// as they are announced.
pub const FRAME_BYTES_MAX: usize = 520 << 20;

/// Body of a frame before the other end is known to be a member, and of every frame that carries no
/// message. A list of `MEMBERS_MAX` members with long names and several addresses fits.
pub const GREETING_BYTES_MAX: usize = 256 << 10;

/// Members in an answer to a query; far above what a cluster can be.
pub const LISTED_MEMBERS_MAX: usize = 64;

/// Entries in one message: `raft` cuts by bytes, and an empty entry counts for 56 of them.
pub const ENTRIES_MAX: usize = 1 << 20;

/// Messages that wait in one lane. All proposals that a member may have open fit, for those that are dropped are
/// not made again: 10,000 of clients, and some of its own.
pub const QUEUE_MESSAGES_MAX: usize = 12_000;

/// Bytes of messages that wait in one lane: what a member may have forwarded, and Raft's window of entries on the
/// way to one member. One message is always taken.
pub const QUEUE_BYTES_MAX: usize = 80 << 20;
const _: () = assert!(QUEUE_BYTES_MAX > FORWARDED_BYTES_MAX);

/// Answers to pings that wait for who sent them.
pub const PONGS_BYTES_MAX: usize = 4 << 10;

/// A pause between two attempts to connect: at first, and at most. An attempt costs a SYN; an
/// election timeout must not pass between two of them.
pub const RETRY_MIN_MS: u64 = 50;
pub const RETRY_MAX_MS: u64 = 800;

/// How long a connection may take to be made and greeted. A lost SYN is sent again after a second
/// by the kernel; a new attempt is as good and sooner.
pub const GREETING_TIMEOUT_MS: u64 = 1_000;

/// Pings: twice in etcd's interval between two `raft` probes would do; this often, a link that was
/// cut is noticed by the first `PING_TIMEOUT_MS` of silence.
pub const PING_INTERVAL_MS: u64 = 500;

/// A connection on which nothing was heard for so long is given up (etcd: 5 s, `raft-read-timeout`).
/// It is not the election timeout: a new connection through the same network is not better, unless
/// the kernel's retransmissions have backed off for seconds.
pub const PING_TIMEOUT_MS: u64 = 3_000;

/// One log line about a link that cannot be made in so many milliseconds.
pub const COMPLAINT_INTERVAL_MS: u64 = 10_000;

/// How long one who greeted may be silent. Longer than `PING_TIMEOUT_MS`, so that the one who
/// dialled notices first and the other end has not to guess.
pub const INBOUND_TIMEOUT_MS: u64 = 10_000;

/// Connections from others at a time: three lanes of `MEMBERS_MAX` members, and as many queries.
pub const INBOUND_MAX: usize = 256;
