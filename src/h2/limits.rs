//! Every limit of the layer, with its origin.

/// The limits of a connection. The defaults are those of etcd's gRPC server where it has one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// SETTINGS_MAX_CONCURRENT_STREAMS. etcd has 2^32 - 1; no client depends on the figure, and a
    /// finite one bounds memory.
    pub concurrent_streams_max: u32,
    /// SETTINGS_INITIAL_WINDOW_SIZE: what a client may send on a stream ahead of its consumption.
    pub stream_window_bytes: u32,
    /// The same for the connection as a whole.
    pub connection_window_bytes: u32,
    /// SETTINGS_MAX_HEADER_LIST_SIZE: what grpc-core and grpc-java have, and grpc-go from 1.82 on.
    pub header_list_bytes_advertised: u32,
    /// What is really tolerated: twice the advertised size. Above, the stream is reset with
    /// FRAME_SIZE_ERROR, as grpc-go does.
    pub header_list_bytes_max: usize,
    /// An encoded block above this ends the connection, and so does a list above four times the
    /// tolerated one, as in the h2 crate.
    pub header_block_bytes_max: usize,
    /// CONTINUATION frames of one block. The h2 crate: max(5, list / frame * 1.25).
    pub continuation_frames_max: u32,
    /// RST_STREAM frames for requests that have had no reply yet (rapid reset, CVE-2023-44487).
    /// The h2 crate: 20 at a time. Here a request costs little to begin, and a client whose
    /// deadlines all pass at once, under the load of others, is no attacker.
    pub peer_resets: Rate,
    /// Streams this end resets for errors of the peer (CVE-2025-8671). The h2 crate: 1,024 in the
    /// life of a connection; here the count leaks, since connections live for months.
    pub own_resets: Rate,
    /// SETTINGS frames, each of which wants an acknowledgement (CVE-2019-9515).
    pub settings: Rate,
    /// DATA frames without data that do not end a stream (CVE-2019-9518). The h2 crate: 100.
    pub empty_data: Rate,
    /// Replies to control frames not yet taken, about 1,000 frames. Go's net/http2: 10,000 frames.
    pub control_queue_bytes_max: usize,
    /// Above this `wants_input` is false. 100 frames, as grpc-go 1.82.1.
    pub control_queue_bytes_pause: usize,
    /// Above this much output that only waits for being taken, `wants_input` is false. DATA that
    /// waits for the client's windows does not count: what opens them has to be read.
    pub output_bytes_pause: usize,
    /// etcd's `--grpc-keepalive-min-time`.
    pub ping_min_interval_ms: u64,
    /// grpc-go: pings without a stream are a strike unless two hours apart.
    pub ping_idle_interval_ms: u64,
    /// etcd: false.
    pub ping_without_stream: bool,
    /// grpc-go: this many strikes are forgiven, the next one is `too_many_pings`.
    pub ping_strikes_max: u32,
    /// etcd's `--grpc-keepalive-interval`: after this long without a byte from the client it is
    /// pinged.
    pub keepalive_interval_ms: u64,
    /// etcd's `--grpc-keepalive-timeout`: and after this long without an answer it is gone.
    pub keepalive_timeout_ms: u64,
    /// Preface and SETTINGS of the client must have come by then, and later each header block
    /// within this time. The TLS handshake has the same limit.
    pub handshake_timeout_ms: u64,
    /// The client must acknowledge the settings by then.
    pub settings_timeout_ms: u64,
    /// How long a peer may take to read the last words (GOAWAY) before they are dropped.
    pub linger_timeout_ms: u64,
}

/// A bucket that leaks: `burst` events at once, `per_second` on the average.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    pub burst: u32,
    pub per_second: u32,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            concurrent_streams_max: 1 << 16,
            stream_window_bytes: 1 << 20,
            connection_window_bytes: 16 << 20,
            header_list_bytes_advertised: 8 << 10,
            header_list_bytes_max: 16 << 10,
            header_block_bytes_max: 64 << 10,
            continuation_frames_max: 8,
            peer_resets: Rate { burst: 4_096, per_second: 1_024 },
            own_resets: Rate { burst: 1_024, per_second: 64 },
            settings: Rate { burst: 100, per_second: 10 },
            empty_data: Rate { burst: 100, per_second: 10 },
            control_queue_bytes_max: 16 << 10,
            control_queue_bytes_pause: 1_700,
            output_bytes_pause: 256 << 10,
            ping_min_interval_ms: 5_000,
            ping_idle_interval_ms: 2 * 60 * 60 * 1_000,
            ping_without_stream: false,
            ping_strikes_max: 2,
            keepalive_interval_ms: 2 * 60 * 60 * 1_000,
            keepalive_timeout_ms: 20_000,
            handshake_timeout_ms: 10_000,
            settings_timeout_ms: 60_000,
            linger_timeout_ms: 5_000,
        }
    }
}

/// SETTINGS_MAX_FRAME_SIZE of both directions: the RFC's minimum and default. Larger frames would
/// only let one stream hold up the others for longer.
pub(super) const FRAME_BYTES_MAX: usize = 16_384;
/// The window of the RFC before any SETTINGS or WINDOW_UPDATE.
pub(super) const WINDOW_BYTES_DEFAULT: u32 = 65_535;
/// The largest window (RFC 9113, 6.9.1).
pub(super) const WINDOW_BYTES_MAX: u32 = (1 << 31) - 1;
/// DATA up to this size is copied into the output at once; larger is kept and waits.
pub(super) const COPY_BYTES_MAX: usize = 4_096;
/// Parts of queued DATA below this are copied into what is sent: a piece more for the kernel to gather
/// costs about as much.
pub(super) const SHARED_BYTES_MIN: usize = 2_048;
/// When this little room is left in what is taken, DATA waits for the next time instead of being
/// cut into crumbs.
pub(super) const CRUMB_BYTES: usize = 1_024;
/// DATA is copied at once only while the output is shorter than this.
pub(super) const OUTPUT_BYTES_SOFT_MAX: usize = 64 << 10;
/// Buffers that have grown beyond this are given back when they are empty.
pub(super) const BUFFER_BYTES_KEPT: usize = 64 << 10;
/// An event queue that has grown beyond this is given back when it is empty.
pub(super) const EVENTS_KEPT: usize = 1_024;
/// Streams reset by this end whose late frames are still let pass in silence. The h2 crate: 50.
pub(super) const RESET_STREAMS_REMEMBERED: usize = 64;
/// Streams closed otherwise that get the exact error of the RFC for late frames.
pub(super) const CLOSED_STREAMS_REMEMBERED: usize = 16;
/// Header blocks kept decoded.
pub(super) const HEADS_CACHED: usize = 16;
/// Patterns of header blocks kept.
pub(super) const HEAD_PATTERNS_CACHED: usize = 16;
/// Blocks longer than this are not kept.
pub(super) const HEAD_BLOCK_BYTES_CACHED_MAX: usize = 1_024;
