//! Every bound of the shell in one place, each with where it comes from.

use std::time::Duration;

/// Registered memory of glommio's rings. Pinned three times over (one registration per ring), so
/// it must stay far below the usual 8 MiB of RLIMIT_MEMLOCK; log batches above it are written from
/// ordinary memory, which costs a page pin per write and nothing else.
pub const IO_MEMORY_BYTES: usize = 256 << 10;

/// Submission queue of each ring: glommio's default.
pub const RING_DEPTH: usize = 128;

/// glommio refuses to start below this soft limit of RLIMIT_MEMLOCK.
pub const MEMLOCK_MIN_BYTES: u64 = 512 << 10;

/// One shared chunk that all connections read into. A request that lies in it is handed on without
/// a copy; below glibc's mmap threshold (128 KiB), so that a chunk is not a page-fault storm.
pub const READ_CHUNK_BYTES: usize = 64 << 10;

/// A new chunk is taken when less than this is left: a smaller window would cut large requests
/// into many system calls.
pub const READ_WINDOW_MIN_BYTES: usize = 16 << 10;

/// What one connection may send in one round of a flush, before the next connection has its turn: what a
/// stream may have queued, with the headers of its frames.
pub const FLUSH_BYTES_MAX: usize = 528 << 10;

/// Rounds of `FLUSH_BYTES_MAX` per connection and turn; the rest waits for the next turn.
pub const FLUSH_ROUNDS_MAX: usize = 4;

/// glommio counts a task's wakers in an i16 and every connection may hold a waker of its own
/// tasks only; this bound keeps slabs, wakers and file descriptors in a range that is tested.
pub const CONNECTIONS_MAX: usize = 30_000;

/// File descriptors kept for files, rings and listeners. etcd reserves the same number.
pub const FDS_RESERVED: u64 = 150;

/// Backlog of a listening socket; the kernel cuts it to net.core.somaxconn.
pub const LISTEN_BACKLOG: i32 = 4096;

/// How long an address in use is tried again. The kernel was seen to hold a killed process's
/// listening socket for some milliseconds.
pub const BIND_PATIENCE: Duration = Duration::from_secs(1);
pub const BIND_RETRY: Duration = Duration::from_millis(20);

/// How long other members are asked at a first start: whether they know this one already (etcd: 1 s),
/// and who belongs to a cluster that this one joins (etcd: 10 s).
pub const ASK_NEW_TIMEOUT: Duration = Duration::from_secs(1);
pub const ASK_EXISTING_TIMEOUT: Duration = Duration::from_secs(10);

/// The discovery service is asked again after 2 s, twice as long each time, and so many times (etcd: up to 256 s).
pub const DISCOVERY_BACKOFFS: u32 = 8;
/// A watch there is silent for so long before a ping, whatever the flag says: gRPC's clients do the same, and servers
/// send those away who ask more often.
pub const DISCOVERY_SILENCE_MIN: Duration = Duration::from_secs(10);

/// TCP keep-alive period of accepted connections: etcd's.
pub const TCP_KEEPALIVE_SECONDS: i32 = 30;

/// After the last byte of a connection that the server closes: how long the peer may go on sending
/// before its bytes meet a reset. Without this pause a GOAWAY can be lost to the reset.
pub const LINGER: Duration = Duration::from_secs(1);

/// TLS handshakes under way at a time; the oldest is given up for the newest. Each has some ten KiB.
pub const HANDSHAKES_MAX: usize = 1_000;

/// What one step of a handshake reads: most messages of handshakes are smaller.
pub const HANDSHAKE_READ_BYTES: usize = 4 << 10;

/// How often files of certificates are looked at.
pub const CERTIFICATE_LOOK_PERIOD: Duration = Duration::from_millis(500);

/// Lines in the log about connections that were rejected: at once, and from then on.
pub const REJECTIONS_LOGGED_BURST: u64 = 20;
/// See [`REJECTIONS_LOGGED_BURST`].
pub const REJECTIONS_LOGGED_PER_SECOND: u64 = 1;

/// What a name of a member was found to mean serves attempts for so long.
pub const NAME_KEPT: Duration = Duration::from_secs(5);

/// Pause after an accept that failed for want of descriptors or memory.
pub const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// A stop that takes longer ends anyway: whoever stops us is promised an end within 1.5 s.
pub const STOP_GRACE_MS: u64 = 1_000;

/// Store operations handed to the kernel at one time. The store has a bound of its own below this;
/// this one keeps the ring's queue (`RING_DEPTH`) from being filled by any change of that.
pub const STORE_OPS_IN_FLIGHT_MAX: usize = 32;

/// Segments of the log that are kept for later use when they are not needed any more. With the two or three
/// in use that is as much space as etcd's five segments and their snapshots take.
pub const LOG_SPARES_MAX: usize = 4;

/// Files are zeroed in pieces of this size, one at a time, so that a log write waits behind
/// one piece at most.
pub const ZERO_PIECE_BYTES: usize = 256 << 10;

/// The pause after each piece is so many times what the piece took, and within this bound: the disk
/// is the log's first, and a segment is made long before it is needed.
pub const ZERO_PAUSES: u32 = 2;
/// See [`ZERO_PAUSES`].
pub const ZERO_PAUSE_MAX: Duration = Duration::from_millis(4);

/// Threads for calls that block: one may be busy with a segment while the other writes pages.
/// Beside them are those that compute hashes of passwords, which takes long.
pub const BLOCKING_THREADS: usize = 2 + crate::rpc::PASSWORDS_IN_FLIGHT_MAX;

/// The share of the free memory that the store's file is read into at start.
pub const WARM_SHARE: u64 = 2;
/// It is read in pieces of this size.
pub const WARM_PIECE_BYTES: u64 = 4 << 20;

/// Alignment of memory, offsets and lengths for O_DIRECT: the largest logical block size in use.
pub const DIRECT_ALIGN: usize = 4096;

/// How long tasks that are ready may run before completions are looked at again. Not shorter: if
/// the kernel takes the thread away for this long at the wrong moment, glommio goes to sleep with
/// tasks that could run (see [`GUARD_PERIOD`]).
pub const PREEMPT_TIMER: Duration = Duration::from_millis(10);

/// A timer of this period is always armed. When glommio finds its preemption timer expired before
/// it has run a single task, it takes that for "nothing to run" and sleeps until something else
/// happens; without a timer that can be never, as at start, when there is no other event to come.
pub const GUARD_PERIOD: Duration = Duration::from_millis(100);

/// From this many connections to send to on, a log write is handed to the kernel first. Below, the
/// extra pass through the event loop costs more than the sends would delay the write.
pub const FENCE_CONNECTIONS_MIN: usize = 4;

/// From so many entries to apply on, the same: applying fewer takes no longer than that pass.
pub const FENCE_ENTRIES_MIN: usize = 8;

/// Addresses reserved for the store's file to grow into: just above what a store can be (511 GiB).
pub const MAP_RESERVE_BYTES: u64 = 512 << 30;

/// Where addresses are limited, less is reserved; below this there is no use in starting.
pub const MAP_RESERVE_BYTES_MIN: u64 = 1 << 30;
