//! Every bound of the request layer, in one place, each with its origin.

/// Connections that the server keeps at once. Beyond it a new one is closed at once.
/// Chosen: ten times the 10,000 idle connections that the server must hold.
pub const CONNECTIONS_MAX: usize = 100_000;

/// Unary requests of one connection that wait for an answer; beyond it the connection is not read.
/// Chosen: HTTP/2 bounds the streams of a connection as well, this bounds HTTP/2's bound.
pub const CONNECTION_CALLS_MAX: usize = 4_096;

/// Bytes that wait to be sent on one HTTP/1.1 connection before it is not read any more; HTTP/2 has
/// bounds of its own. Chosen: some pages of metrics.
pub const HTTP1_OUTPUT_MAX_BYTES: usize = 1 << 20;

/// A client that has not said by then which protocol it speaks is sent away; h2 gives a handshake
/// the same time.
pub const FIRST_BYTES_TIMEOUT_MS: u64 = 10_000;

/// How often the timeouts of connections are looked at. Chosen: the shortest of them is seconds.
pub const CONNECTION_TIMEOUT_SCAN_MS: u64 = 1_000;

/// Bytes of one streaming answer (Watch, RangeStream) that may wait in a connection before its
/// producer pauses. Chosen: one default HTTP/2 window of a Go client and its successor.
pub const STREAM_OUTPUT_MAX_BYTES: usize = 512 << 10;

/// Proposals that wait for their commit in the whole server; etcd's gap between committed and
/// applied entries is 5,000 (`maxGapBetweenApplyAndCommitIndex`), beyond which it answers
/// `too many requests`.
pub const PENDING_PROPOSALS_MAX: usize = 5_000 * 2;

/// Overhead that etcd allows a gRPC message beyond `--max-request-bytes` (`grpcOverheadBytes`).
pub const GRPC_OVERHEAD_BYTES: usize = 512 << 10;

/// Watchers of the whole server. Chosen: etcd has no bound; ten million is its own largest test.
pub const WATCHERS_MAX: usize = 10_000_000;

/// How often deadlines of waiting calls are looked at.
pub const DEADLINE_SCAN_MS: u64 = 100;

/// An HTTP/1.1 request head, in bytes; and the number of its headers.
pub const HTTP1_HEAD_MAX_BYTES: usize = 16 << 10;
pub const HTTP1_HEADERS_MAX: usize = 64;

/// Snapshots that are sent at once. Chosen: each pins a state, whose pages the file keeps meanwhile.
pub const SNAPSHOTS_MAX: usize = 4;

/// Content that one slice of a snapshot looks at, so that a slice takes a fraction of a
/// millisecond; a multiple of a message.
pub const SNAPSHOT_SLICE_BYTES: usize = 128 << 10;
