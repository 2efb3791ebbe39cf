//! Runs: values too long for a leaf, in consecutive pages under one header and one checksum, so
//! that a value is one slice.
//!
//! ```text
//! header, continued
//! 20  key_len    u32   length of the key, which follows the value
//! 24  value_len  u32
//! 28  pages      u32   pages of the run
//! 32  value, key, zeros to the end of the last page
//! ```
//! The key (and the tree in the header) leads back to the leaf that refers to the run: what moves
//! pages needs it. A long key ([`super::long`]) is nowhere else, so its entry has a run, whatever its value.

use super::free::Freed;
use super::limits::{KEY_BYTES_MAX, PAGE_SIZE, VALUE_BYTES_MAX};
use super::page::{
    HEADER_BYTES, Header, KIND_RUN, Page, PageId, Tree, TxnId, read_u32, read_u64, seal, write_u32,
    write_u64,
};
use std::ops::Range;

const AT_KEY_LEN: usize = 20;
const AT_VALUE_LEN: usize = AT_KEY_LEN + 4;
const AT_PAGES: usize = AT_VALUE_LEN + 4;
const _: () = assert!(AT_PAGES + 4 == HEADER_BYTES);

/// The reference to a run, as a leaf's payload: page u32, value_len u32, txn u64.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RunRef {
    pub page: PageId,
    pub value_len: u32,
    pub txn: TxnId,
}

impl RunRef {
    pub fn read(payload: &[u8]) -> RunRef {
        RunRef {
            page: PageId(read_u32(payload, 0)),
            value_len: read_u32(payload, 4),
            txn: TxnId(read_u64(payload, 8)),
        }
    }

    pub fn write(&self, payload: &mut [u8]) {
        write_u32(payload, 0, self.page.0);
        write_u32(payload, 4, self.value_len);
        write_u64(payload, 8, self.txn.0);
    }

    /// What is freed with it.
    pub fn freed(&self, key_len: usize, freed: TxnId) -> Freed {
        let pages = pages_for(self.value_len as usize, key_len);
        Freed { first: self.page, pages, allocated: self.txn, freed }
    }
}

/// Pages of a run for such a value and key.
pub fn pages_for(value_len: usize, key_len: usize) -> u32 {
    (HEADER_BYTES + value_len + key_len).div_ceil(PAGE_SIZE) as u32
}

pub fn value_len(first: &Page) -> usize {
    read_u32(&first.0, AT_VALUE_LEN) as usize
}

fn key_len(first: &Page) -> usize {
    read_u32(&first.0, AT_KEY_LEN) as usize
}

pub fn page_count(first: &Page) -> u32 {
    read_u32(&first.0, AT_PAGES)
}

/// Whether the header's numbers fit each other.
pub fn is_consistent(first: &Page) -> bool {
    value_len(first) <= VALUE_BYTES_MAX
        && key_len(first) <= KEY_BYTES_MAX
        && page_count(first) == pages_for(value_len(first), key_len(first))
}

/// Pages as bytes.
pub fn bytes(pages: &[Page]) -> &[u8] {
    // SAFETY: `Page` is `repr(C)`, an array of bytes without padding (its size is asserted), so
    // that a slice of pages is a slice of bytes of that many times its size.
    unsafe { std::slice::from_raw_parts(pages.as_ptr().cast::<u8>(), size_of_val(pages)) }
}

pub fn bytes_mut(pages: &mut [Page]) -> &mut [u8] {
    // SAFETY: as in `bytes`; the borrow is exclusive, and every content of the bytes is a valid
    // `Page`.
    unsafe { std::slice::from_raw_parts_mut(pages.as_mut_ptr().cast::<u8>(), size_of_val(pages)) }
}

pub fn value(pages: &[Page]) -> &[u8] {
    let Some(first) = pages.first() else { return &[] };
    let range = HEADER_BYTES..HEADER_BYTES + value_len(first);
    bytes(pages).get(range).unwrap_or(&[])
}

pub fn key(pages: &[Page]) -> &[u8] {
    let Some(first) = pages.first() else { return &[] };
    let at = HEADER_BYTES + value_len(first);
    bytes(pages).get(at..at + key_len(first)).unwrap_or(&[])
}

/// A run, and where in it the value is to be written.
pub fn build(
    page: PageId,
    txn: TxnId,
    tree: Tree,
    key: &[u8],
    value_len: usize,
) -> (Box<[Page]>, Range<usize>) {
    let count = pages_for(value_len, key.len());
    let mut pages = vec![Page::ZERO; count as usize].into_boxed_slice();
    pages[0].set_header(&Header { page, txn, kind: KIND_RUN, level: 0, tree });
    write_u32(&mut pages[0].0, AT_KEY_LEN, key.len() as u32);
    write_u32(&mut pages[0].0, AT_VALUE_LEN, value_len as u32);
    write_u32(&mut pages[0].0, AT_PAGES, count);
    let value = HEADER_BYTES..HEADER_BYTES + value_len;
    bytes_mut(&mut pages)[value.end..value.end + key.len()].copy_from_slice(key);
    (pages, value)
}

/// Gives a copied run its new place and time, and its checksum.
pub fn finish(pages: &mut [Page], page: PageId, txn: TxnId, seed: u32) {
    if let Some(first) = pages.first_mut() {
        let header = Header { page, txn, ..first.header() };
        first.set_header(&header);
    }
    seal(seed, bytes_mut(pages));
}
