//! Every limit of the store, each with its origin.

/// Bytes of a page. Everything in the file is a multiple of it. Twice the usual 4 KiB: seven values
/// of 1 KiB fill a page to 93 %, and a tree of a million small entries is three pages high.
pub const PAGE_SIZE: usize = 8192;

/// Trees in one store: what a meta page names. Five are used by the layers above today.
pub const TREES: usize = 8;

/// Longest key. Far above what a request may hold, and what a run can.
pub const KEY_BYTES_MAX: usize = 2 << 30;

/// Longest key in a node. Longer ones have a stand-in there, which begins with so much of them.
pub const KEY_INLINE_MAX: usize = 3488;

/// Longest label of a stand-in, in words of 8 bytes. More are needed where keys are put between each other
/// on purpose only.
pub const LABEL_WORDS_MAX: usize = 64;

/// Entries on either side of a long key that get new labels where there is none left for it. Labels are at their
/// longest after twice as many puts: less would have to be done again sooner, and more makes a put take longer.
pub const RELABEL_REACH: usize = 128;

/// Longest key or stand-in in a node. Two entries must fit a page whatever they are, or a split could fail:
/// half of a page's payload, less the fixed parts of the larger kind of entry (an inner one: 24 bytes).
pub const KEY_STORED_MAX: usize = KEY_INLINE_MAX + 8 * LABEL_WORDS_MAX;

/// Longest value inside a leaf, a quarter of a page. Longer ones go to runs of their own, so that a
/// leaf holds enough keys to be worth its place in the tree.
pub const VALUE_INLINE_MAX: usize = PAGE_SIZE / 4;

/// Longest value at all: a run is written from one heap buffer. etcd's default bound of a request
/// is 1.5 MiB; this leaves room for any sane setting of it.
pub const VALUE_BYTES_MAX: usize = 1 << 30;

/// Highest tree. An inner node has two children or more but on the right edge, so 2^32 pages of the
/// longest keys stay below; reading stops here in place of following a loop.
pub const HEIGHT_MAX: usize = 48;

/// Pages whose space is described by one space page: what fits a page at two bits each.
pub const GROUP_PAGES: u32 = ((PAGE_SIZE - 32) / 2 * 8) as u32;

/// Space pages in a store: what a meta page can list behind its fixed part. Bounds a store to 511
/// GiB.
pub const GROUPS_MAX: usize = (PAGE_SIZE - 416) / 4;

/// Largest write a checkpoint hands out: a step of its pace, and copying it takes some microseconds, so
/// that the loop is not held.
pub const WRITE_BYTES_MAX: usize = 64 * 1024;

/// Writes handed out and not yet done: as many as the shell carries out at one go. Pages that lie
/// apart are a write each.
pub const WRITES_IN_FLIGHT_MAX: usize = 32;

/// Bytes of these writes after which no further one is handed out: what a disk takes in a few
/// milliseconds, so that a write of the log waits behind no more than that.
pub const WRITE_BYTES_IN_FLIGHT_MAX: usize = 256 * 1024;

/// The file grows by this share of itself, within the bounds below: few growths (each costs a sync
/// of the file's metadata), and little unused space. It is cut when twice the share is unused.
pub const GROW_SHARE: u64 = 64;
/// See [`GROW_SHARE`].
pub const GROW_BYTES_MIN: u64 = 1 << 20;
/// See [`GROW_SHARE`].
pub const GROW_BYTES_MAX: u64 = 64 << 20;

/// Defragmentation leaves this share of the pages in use as holes: moving a page copies those above it, so
/// that the last holes cost more than they are worth.
pub const HOLES_SHARE: u32 = 64;

/// Frames kept for the next dirty pages when no more are expected: 16 MiB. Fresh memory costs page faults, and the
/// kernel's time for zeroing it.
pub const SPARE_FRAMES_MIN: usize = 2048;

/// Memory for frames that another thread has made ready and that is not in use yet, in pieces of 2 MiB. Puts at
/// full speed need one in 20 ms, and making one ready takes 5 ms at most.
pub const FRAME_MEMORY_READY_MAX: usize = 2;
/// From so many pieces in use on it is worth asking another thread: 8 MiB of dirty pages.
pub const FRAME_MEMORY_FROM: usize = 4;

/// Single page buffers kept for copies that live for one operation.
pub const SPARE_BUFFERS_MAX: usize = 16;
