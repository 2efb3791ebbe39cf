//! The page: numbers, the header common to all kinds, checksum.
//!
//! ```text
//!  0  checksum u32   crc32c of all behind it (of the whole run, for a run), seeded by the store's id
//!  4  page     u32   its own number: a misdirected write is seen
//!  8  txn      u64   the transaction that allocated it
//! 16  kind     u8    1 meta, 2 space, 3 leaf, 4 inner, 5 run
//! 17  level    u8    0 for leaves, height above the leaves for inner nodes, else 0
//! 18  tree     u8    the tree it belongs to (nodes and runs), else 0
//! 19  zero     u8
//! 20  ...            by kind
//! 32  payload
//! ```
//! All integers are little-endian.

use super::limits::PAGE_SIZE;

/// Number of a page: its offset in the file divided by [`PAGE_SIZE`]. Pages 0 and 1 are the metas,
/// so 0 also says "none".
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct PageId(pub u32);

impl PageId {
    pub const NONE: PageId = PageId(0);

    pub fn offset(self) -> u64 {
        u64::from(self.0) * PAGE_SIZE as u64
    }
}

impl std::fmt::Display for PageId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// Number of a write transaction, counted from 1. Zero is the content of a new file.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct TxnId(pub u64);

impl TxnId {
    pub const NEVER: TxnId = TxnId(u64::MAX);

    pub fn next(self) -> TxnId {
        TxnId(self.0 + 1)
    }

    /// What a reference to a page remembers of the page's transaction. A lost write leaves an older
    /// page of the same number in place; its transaction differs.
    pub fn stamp(self) -> u32 {
        self.0 as u32
    }
}

/// One of the trees of a store.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Tree(pub u8);

/// A page in memory. Aligned to the cache line, so that a slot never straddles two.
#[repr(C, align(64))]
#[derive(Clone)]
pub struct Page(pub [u8; PAGE_SIZE]);

const _: () = assert!(size_of::<Page>() == PAGE_SIZE);

impl Page {
    pub const ZERO: Page = Page([0; PAGE_SIZE]);

    pub fn header(&self) -> Header {
        Header {
            page: PageId(read_u32(&self.0, AT_PAGE)),
            txn: TxnId(read_u64(&self.0, AT_TXN)),
            kind: self.0[AT_KIND],
            level: self.0[AT_LEVEL],
            tree: Tree(self.0[AT_TREE]),
        }
    }

    pub fn set_header(&mut self, header: &Header) {
        write_u32(&mut self.0, AT_PAGE, header.page.0);
        write_u64(&mut self.0, AT_TXN, header.txn.0);
        self.0[AT_KIND] = header.kind;
        self.0[AT_LEVEL] = header.level;
        self.0[AT_TREE] = header.tree.0;
        self.0[AT_ZERO] = 0;
    }

    pub fn txn(&self) -> TxnId {
        TxnId(read_u64(&self.0, AT_TXN))
    }

    pub fn kind(&self) -> u8 {
        self.0[AT_KIND]
    }

    pub fn level(&self) -> u8 {
        self.0[AT_LEVEL]
    }

    pub fn tree(&self) -> Tree {
        Tree(self.0[AT_TREE])
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Header {
    pub page: PageId,
    pub txn: TxnId,
    pub kind: u8,
    pub level: u8,
    pub tree: Tree,
}

pub const KIND_META: u8 = 1;
pub const KIND_SPACE: u8 = 2;
pub const KIND_LEAF: u8 = 3;
pub const KIND_INNER: u8 = 4;
pub const KIND_RUN: u8 = 5;

pub const AT_CHECKSUM: usize = 0;
pub const AT_PAGE: usize = AT_CHECKSUM + 4;
pub const AT_TXN: usize = AT_PAGE + 4;
pub const AT_KIND: usize = AT_TXN + 8;
pub const AT_LEVEL: usize = AT_KIND + 1;
pub const AT_TREE: usize = AT_LEVEL + 1;
pub const AT_ZERO: usize = AT_TREE + 1;
pub const AT_BY_KIND: usize = AT_ZERO + 1;
pub const HEADER_BYTES: usize = 32;
const _: () = assert!(AT_BY_KIND == 20);

/// Checksum of a page or of a run: everything behind the checksum itself. The seed is the store's
/// id, so that a page left behind by another store on the same blocks is not taken for one of ours.
pub fn checksum(seed: u32, bytes: &[u8]) -> u32 {
    crc32c::crc32c_append(seed, &bytes[AT_PAGE..])
}

pub fn seal(seed: u32, bytes: &mut [u8]) {
    let sum = checksum(seed, bytes);
    write_u32(bytes, AT_CHECKSUM, sum);
}

pub fn is_sealed(seed: u32, bytes: &[u8]) -> bool {
    read_u32(bytes, AT_CHECKSUM) == checksum(seed, bytes)
}

/// Damage in the file: the member stops. Never an answer to a client.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("store: page {page} at offset {offset}: {what}")]
pub struct Corruption {
    pub page: PageId,
    pub offset: u64,
    pub what: &'static str,
}

impl Corruption {
    pub fn new(page: PageId, what: &'static str) -> Corruption {
        Corruption { page, offset: page.offset(), what }
    }
}

#[inline]
pub fn read_u16(bytes: &[u8], at: usize) -> u16 {
    let mut raw = [0; 2];
    raw.copy_from_slice(&bytes[at..at + 2]);
    u16::from_le_bytes(raw)
}

#[inline]
pub fn read_u32(bytes: &[u8], at: usize) -> u32 {
    let mut raw = [0; 4];
    raw.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(raw)
}

#[inline]
pub fn read_u64(bytes: &[u8], at: usize) -> u64 {
    let mut raw = [0; 8];
    raw.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(raw)
}

#[inline]
pub fn write_u16(bytes: &mut [u8], at: usize, value: u16) {
    bytes[at..at + 2].copy_from_slice(&value.to_le_bytes());
}

#[inline]
pub fn write_u32(bytes: &mut [u8], at: usize, value: u32) {
    bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
}

#[inline]
pub fn write_u64(bytes: &mut [u8], at: usize, value: u64) {
    bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
}
