//! The settings of a member, and all limits of this module with their origin.

use super::types::NodeId;

#[derive(Clone, Debug)]
pub struct Config {
    pub id: NodeId,
    /// Ticks without a leader after which a follower campaigns, at least; the real timeout of each
    /// wait lies in `election_ticks..2 * election_ticks`. Also the interval of CheckQuorum and the
    /// patience of a leadership transfer.
    pub election_ticks: u32,
    /// Ticks between two heartbeats of a leader.
    pub heartbeat_ticks: u32,
    /// Makes the randomized timeouts, with id and incarnation. The same seed and inputs give the
    /// same outputs.
    pub seed: u64,
    /// Differs at each start of the process, so that answers to reads of an earlier life are told
    /// apart.
    pub incarnation: u64,
    /// Hand out committed entries before they are durable here (they are durable on a quorum). A
    /// caller whose durable state gets ahead of its own log by this has to start with a log that
    /// begins at that state, as after a snapshot: the log's own end is of no use any more.
    pub apply_unpersisted: bool,
    /// Bytes of entries in one `Append`. A single entry may be larger.
    pub append_bytes_max: usize,
    /// `Append`s on the way to one follower.
    pub inflight_appends_max: usize,
    /// Bytes of entries on the way to one follower. One `Append` is always allowed.
    pub inflight_bytes_max: usize,
    /// Bytes of entries not yet committed, above which a leader refuses proposals. One entry is
    /// always allowed.
    pub uncommitted_bytes_max: usize,
    /// Bytes of committed entries in one `Ready`. A single entry may be larger.
    pub committed_bytes_max: usize,
    /// Bytes of log in memory up to which `compact` spares what a follower needs after the snapshot
    /// it is being sent.
    pub log_bytes_max: usize,
    /// Reads waiting for an answer.
    pub reads_max: usize,
}

impl Config {
    /// Defaults for member `id`; times are etcd's (heartbeat 100 ms, election 1000 ms) at a tick of
    /// 100 ms.
    pub fn new(id: NodeId) -> Config {
        Config {
            id,
            election_ticks: 10,
            heartbeat_ticks: 1,
            seed: 0,
            incarnation: 0,
            apply_unpersisted: false,
            append_bytes_max: limits::APPEND_BYTES_MAX,
            inflight_appends_max: limits::INFLIGHT_APPENDS_MAX,
            inflight_bytes_max: limits::INFLIGHT_BYTES_MAX,
            uncommitted_bytes_max: limits::UNCOMMITTED_BYTES_MAX,
            committed_bytes_max: limits::COMMITTED_BYTES_MAX,
            log_bytes_max: limits::LOG_BYTES_MAX,
            reads_max: limits::READS_MAX,
        }
    }

    /// What is wrong with the settings, if anything.
    pub(super) fn complaint(&self) -> Option<&'static str> {
        if self.id == NodeId(0) {
            Some("the id is 0")
        } else if self.heartbeat_ticks == 0 {
            Some("heartbeat_ticks is 0")
        } else if self.election_ticks <= self.heartbeat_ticks {
            Some("election_ticks is not above heartbeat_ticks")
        } else if self.inflight_appends_max == 0 {
            Some("inflight_appends_max is 0")
        } else {
            None
        }
    }
}

pub mod limits {
    /// etcd's `maxSizePerMsg` is 1 MiB: one message keeps a 1 Gbit/s link busy for 8 ms, below a
    /// heartbeat interval.
    pub const APPEND_BYTES_MAX: usize = 1 << 20;
    /// A window of 256 messages covers 100 ms of round trip at one message each 0.4 ms. etcd's is
    /// 512.
    pub const INFLIGHT_APPENDS_MAX: usize = 256;
    /// 16 MiB covers 1 Gbit/s times 128 ms, and bounds what a follower that does not answer costs
    /// in its buffers.
    pub const INFLIGHT_BYTES_MAX: usize = 16 << 20;
    /// Some seconds of a disk at its slowest; beyond, clients do better to hear an error than to
    /// wait.
    pub const UNCOMMITTED_BYTES_MAX: usize = 64 << 20;
    /// One turn of applying: about a millisecond of small entries. One entry of etcd's default
    /// `max-request-bytes` (1.5 MiB) still passes by itself.
    pub const COMMITTED_BYTES_MAX: usize = 1 << 20;
    /// Above the uncommitted bytes, so that a follower being sent a snapshot can be spared a second
    /// one.
    pub const LOG_BYTES_MAX: usize = 256 << 20;
    /// Far above the requests a member takes in one round trip; only a member without a quorum gets
    /// here.
    pub const READS_MAX: usize = 65_536;
}
