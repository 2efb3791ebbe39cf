//! Every bound of the generator, with its origin.

/// Octets that the shell reads from a socket at a time.
pub const READ_BYTES: usize = 256 << 10;

/// SETTINGS_INITIAL_WINDOW_SIZE: large enough that a list of many megabytes is not what waits for the
/// client. grpc-go's clients grow theirs up to 16 MiB.
pub(super) const STREAM_WINDOW_BYTES: u32 = 4 << 20;
/// The same for a connection.
pub(super) const CONNECTION_WINDOW_BYTES: u32 = 64 << 20;
/// Windows are opened again when a quarter of them has been used.
pub(super) const WINDOW_CREDIT_SHIFT: u32 = 2;
/// The window of RFC 9113 before any SETTINGS or WINDOW_UPDATE.
pub(super) const WINDOW_BYTES_DEFAULT: u32 = 65_535;
/// SETTINGS_MAX_FRAME_SIZE: RFC 9113's default, of both directions.
pub(super) const FRAME_BYTES_MAX: usize = 16_384;
/// Streams of a connection until the server has said how many: RFC 9113 recommends at least 100.
pub(super) const CONCURRENT_STREAMS_DEFAULT: u32 = 100;
/// A block of response headers, and the list that it stands for.
pub(super) const HEADER_BYTES_MAX: usize = 64 << 10;
/// Decoded response heads that are kept. Servers have two or three that repeat.
pub(super) const HEADS_CACHED: usize = 8;
/// A longer message of a server ends the run's trust in the stream: etcd's largest requests are far
/// below, and answers that are longer are not gathered but counted.
pub(super) const MESSAGE_BYTES_MAX: usize = 64 << 20;

/// `--connections`, `--streams` and their product; file descriptors and ports end about there.
pub(super) const CONNECTIONS_MAX: usize = 20_000;
pub(super) const STREAMS_MAX: usize = 10_000;
pub(super) const SLOTS_MAX: usize = 1_000_000;
/// `--keys`, `--prefill`.
pub(super) const KEYS_MAX: u64 = 1_000_000_000;
/// `--value-size`: above etcd's default for a whole request, for servers that allow more.
pub(super) const VALUE_BYTES_MAX: usize = 8 << 20;
/// `--watchers`.
pub(super) const WATCHERS_MAX: u64 = 10_000_000;
/// Keys of one transaction of the prefill: below etcd's `--max-txn-ops` of 128.
pub(super) const PREFILL_KEYS_PER_TXN: u64 = 100;
/// And octets of it: below etcd's `--max-request-bytes` of 1.5 MiB.
pub(super) const PREFILL_BYTES_PER_TXN: usize = 512 << 10;

/// A connection that could not be made, or was lost, is tried again after this long.
pub(super) const RECONNECT_PAUSE_NS: u64 = 100_000_000;
/// At the start, all connections must stand by then.
pub(super) const CONNECT_PATIENCE_NS: u64 = 10_000_000_000;
/// What is in flight at the end is waited for this long, and so is an open loop that lags.
pub(super) const DRAIN_PATIENCE_NS: u64 = 10_000_000_000;

/// Histograms reach from a nanosecond to an hour, with three significant digits.
pub(super) const LATENCY_NS_MAX: u64 = 3_600_000_000_000;
pub(super) const LATENCY_DIGITS: u8 = 3;
/// Seconds of the timeline; later ones are added to the last.
pub(super) const TIMELINE_SECONDS_MAX: usize = 24 * 60 * 60;
/// Different errors that are told apart; further ones are counted together.
pub(super) const ERRORS_KEPT: usize = 32;
