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

/// Bytes of one answer that is made in pieces (Watch, RangeStream, a large Range) that may wait in a
/// connection before its producer pauses. Chosen: one default HTTP/2 window of a Go client and its
/// successor.
pub const STREAM_OUTPUT_MAX_BYTES: usize = 512 << 10;

/// Bytes that wait in one connection, be it for the windows of its client or to be taken. From here on
/// each stream may have no more than a frame, so that some streams that are not read do not stop the
/// others. Chosen: 32 streams of the bound above.
pub const CONNECTION_OUTPUT_SOFT_BYTES: usize = 16 << 20;
pub const STREAM_OUTPUT_MIN_BYTES: usize = 16 << 10;

/// From here on nothing more is made for the connection, and its new calls are refused.
pub const CONNECTION_OUTPUT_MAX_BYTES: usize = 64 << 20;

/// Parts of messages that one connection has sent and not completed, in protobuf or in JSON, and what waits for its
/// turn or for its token. A call that goes beyond is refused. Chosen: 40 requests of the largest size that etcd takes.
pub const CONNECTION_GATHERED_MAX_BYTES: usize = 64 << 20;

/// Messages of one keep-alive stream that wait behind an expired lease; beyond it the stream is held.
/// Chosen: a client renews each lease once in a third of its time.
pub const KEEP_ALIVE_QUEUE_MAX: usize = 1_024;

/// Keys of leases that are looked at in one turn, where whoever keeps a lease alive needs a right on each of its keys;
/// each keep-alive counts for one more. Those beyond it wait for the next turn. Chosen: a millisecond or two.
pub const KEEP_ALIVE_KEYS_PER_TURN: u64 = 10_000;

/// A range is answered in one piece up to this size; above, its state is pinned and the answer is made
/// as the client takes it. Chosen: a page of 500 Kubernetes objects is mostly below.
pub const RANGE_AT_ONCE_BYTES: usize = 1 << 20;

/// Answers in the making, in the whole server. Each costs up to `STREAM_OUTPUT_MAX_BYTES`.
pub const LARGE_RANGES_MAX: usize = 4_096;

/// What all answers that are made in pieces may do in one turn, in bytes: about two milliseconds.
pub const PIECES_PER_TURN_BYTES: usize = 2 << 20;

/// A slice of adding up lengths, and what it counts for: 100 ns a key.
pub const MEASURED_SLICE_KEYS: u64 = 2_048;
pub const MEASURED_SLICE_COST_BYTES: usize = 256 << 10;

/// A slice of an answer.
pub const WRITTEN_SLICE_BYTES: usize = 64 << 10;

/// A large range or a snapshot whose client takes nothing for so long is given up (RST_STREAM with
/// ENHANCE_YOUR_CALM), and so is one that is slower than the rate on the whole: it keeps pages from being
/// used again. Chosen: a thousandth of what a local client takes.
pub const PINNED_STALL_MS: u64 = 30_000;
pub const PINNED_BYTES_PER_MS_MIN: u64 = 1_024;

/// Reads of the whole server that wait for their linearization point; beyond it `too many requests`.
/// Chosen: what a core answers in a quarter of a second.
pub const PENDING_READS_MAX: usize = 100_000;

/// Proposals that wait for their commit in the whole server; etcd's gap between committed and
/// applied entries is 5,000 (`maxGapBetweenApplyAndCommitIndex`), beyond which it answers
/// `too many requests`.
pub const PENDING_PROPOSALS_MAX: usize = 5_000 * 2;

/// Overhead that etcd allows a gRPC message beyond `--max-request-bytes` (`grpcOverheadBytes`).
pub const GRPC_OVERHEAD_BYTES: usize = 512 << 10;

/// Watchers of the whole server. Chosen: etcd has no bound; ten million is its own largest test.
pub const WATCHERS_MAX: usize = 10_000_000;

/// Operations on passwords that wait, and how many are computed at once. Chosen: what a core computes within the
/// patience of a client at etcd's default cost, with some to spare; and fewer than there are other threads.
pub const PASSWORDS_WAITING_MAX: usize = 1_000;
pub const PASSWORDS_IN_FLIGHT_MAX: usize = 2;

/// How often deadlines of waiting calls are looked at.
pub const DEADLINE_SCAN_MS: u64 = 100;

/// An HTTP/1.1 request head, in bytes; and the number of its headers.
pub const HTTP1_HEAD_MAX_BYTES: usize = 16 << 10;
pub const HTTP1_HEADERS_MAX: usize = 64;

/// A line of the frame of a chunked body: a length, or a trailer.
pub const HTTP1_CHUNK_LINE_MAX_BYTES: usize = 4 << 10;

/// JSON that is taken for a message of a gRPC client's size. Base64 makes four bytes of three; the rest is for
/// names, white space and escapes.
pub const JSON_BYTES_PER_BYTE: usize = 2;

/// An answer of the gateway that is not made in one piece is gathered first: its JSON begins when all of it is
/// there. Chosen: as much as may wait in a connection.
pub const GATEWAY_ANSWER_MAX_BYTES: usize = CONNECTION_OUTPUT_MAX_BYTES;

/// All such answers that are being gathered in the whole server; beyond it a call is told `too many requests`.
/// Chosen: two of the largest.
pub const GATEWAY_ANSWERS_MAX_BYTES: usize = 2 * GATEWAY_ANSWER_MAX_BYTES;

/// Locks and elections under way in the whole server. Chosen: each keeps a watcher and some hundred bytes.
pub const RECIPES_MAX: usize = 1_000_000;

/// Snapshots that are sent at once. Chosen: each pins a state, whose pages the file keeps meanwhile.
pub const SNAPSHOTS_MAX: usize = 4;

/// Content that one slice of a snapshot looks at, so that a slice takes a fraction of a
/// millisecond; a multiple of a message.
pub const SNAPSHOT_SLICE_BYTES: usize = 128 << 10;

/// Calls that `/debug/requests` shows: those that were answered last, and those that took longest.
/// Chosen: what a person looks through.
pub const TRACES_LAST_MAX: usize = 256;
pub const TRACES_SLOWEST_MAX: usize = 64;
