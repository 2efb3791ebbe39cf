//! Every bound of this layer that is no setting, in one place, each with its origin.

/// Leases that are revoked in one turn; etcd: 500 each half second.
pub const LEASE_REVOKES_PER_TURN: usize = 500;

/// Changes that one slice of a physical compaction looks at, so that a slice stays far under a
/// millisecond.
pub const COMPACTION_SLICE: usize = 32;

/// Entries that are applied before the loop may do something else.
pub const APPLY_ENTRIES_MAX: usize = 4_096;
/// And their bytes, which is where the time goes when transactions are large: some milliseconds.
pub const APPLY_BYTES_MAX: usize = 256 << 10;

/// Dirty pages at which replay of the log after a start begins a checkpoint; at half as many more it waits
/// for the disk. What the running server leaves unwritten where pages are new: beside them are the entries
/// that are not applied yet, which may be as many bytes again and more.
pub const REPLAY_DIRTY_BYTES: u64 = 40 << 20;

/// Bytes of proposals that a member which does not lead keeps until it learns their outcome: as
/// much as a leader takes that is not committed (`raft::limits::UNCOMMITTED_BYTES_MAX`).
pub const FORWARDED_BYTES_MAX: usize = 64 << 20;

/// Bytes of entries that wait for the disk of a leader while others commit them: what may be
/// uncommitted (`raft::limits::UNCOMMITTED_BYTES_MAX`), and as much again.
pub const LOG_PENDING_BYTES_MAX: usize = 128 << 20;

/// Entries in memory behind the applied index, beyond which the older half goes even if a follower
/// may still want it. Above what can be uncommitted, far below what a small machine has.
pub const LOG_KEPT_BYTES_MAX: usize = 128 << 20;

/// Snapshots on their way at once: each pins a state, and they share one network.
pub const SNAPSHOTS_SENT_MAX: usize = 2;

/// Bytes of one piece of a snapshot: read in about 100 microseconds.
pub const SNAPSHOT_PIECE_BYTES: usize = 128 << 10;

/// Bytes on their way to one receiver: 1 Gbit/s for a round trip of 8 ms.
pub const SNAPSHOT_WINDOW_BYTES: usize = 1 << 20;

/// A transfer without an answer for so long is given up.
pub const SNAPSHOT_SILENCE_MS: u64 = 10_000;

/// A transfer that takes longer is given up: 1 TiB at 100 MB/s takes three hours, and as long the
/// pages of the pinned state cannot be used again.
pub const SNAPSHOT_PIN_MS: u64 = 3 * 60 * 60 * 1000;

/// `Options::snapshot_dirty_bytes` of a real member.
pub const SNAPSHOT_DIRTY_BYTES: u64 = 32 << 20;

/// Questions about leases without an answer; beyond, a question is lost at once. As many as all
/// leases of 60 s that a cluster of 100,000 nodes renews in ten seconds.
pub const LEASE_QUESTIONS_MAX: usize = 65_536;

/// A question about a lease is asked again after so long; etcd tries a read index again after it.
pub const LEASE_RETRY_MS: u64 = 500;

/// How often a leader looks whether the members should speak another version; etcd's every 4 s, too.
pub const VERSION_CHECK_MS: u64 = 4_000;

/// Changes that one slice of a hash takes in, so that a slice stays far under a millisecond.
pub const HASH_SLICE: usize = 512;

/// Hashes that other members wait for; beyond, a question is not answered. One leader asks for one.
pub const HASH_REQUESTS_MAX: usize = 4;

/// Proposals of one other member that a leader remembers, to know a doubled one: more than a member
/// may have open (`Options::pending_max` is 10,000).
pub const TAKEN_IDS_MAX: usize = 16_384;

/// After so long a full disk is asked again for a segment of the log: somebody may have made room,
/// and without the log nothing else would come to ask.
pub const LOG_RETRY_MS: u64 = 1_000;
