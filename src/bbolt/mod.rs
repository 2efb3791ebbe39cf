//! A bbolt file, written from its first byte to its last: etcd's snapshots are such files.
//!
//! The bytes of a file depend on how much is in it, so it is made in two passes over the same
//! entries. A [`Planner`] is told their sizes and lays out the pages; its [`Plan`] has everything
//! that comes first: metas, the root bucket, the branches. Then [`Leaves`] is given the entries and
//! makes the rest. What is kept between is one key for every 32 KiB of content.
//!
//! ```text
//! pages 0, 1   metas, with the same root            one page each
//! ...          leaf of the root bucket: names
//! ...          branches, from the top down, bucket by bucket
//! ...          leaves, bucket by bucket, in the order of their keys
//! ```
//!
//! Facts of the format are those of bbolt's `internal/common` (version 2). A node larger than a page
//! has the pages behind it, as bbolt itself does for large values; so leaves are made eight pages
//! long. No free list is stored, and no page is free.
//!
//! Knows nothing of what the entries mean.

mod leaves;
mod plan;
#[cfg(test)]
mod tests;

pub use leaves::Leaves;
pub use plan::{Plan, Planner};

pub const PAGE_SIZE: usize = 4096;
/// A node ends before the entry that would make it larger.
const NODE_BYTES: usize = 32 << 10;

const PAGE_HEADER: usize = 16;
/// Of a branch and of a leaf alike.
const ELEMENT: usize = 16;

const FLAG_BRANCH: u16 = 0x01;
const FLAG_LEAF: u16 = 0x02;
const FLAG_META: u16 = 0x04;

fn pages_of(bytes: usize) -> u64 {
    bytes.div_ceil(PAGE_SIZE) as u64
}

/// The size of a node that is being filled: the one rule by which both passes cut alike.
#[derive(Clone, Copy)]
struct Size {
    count: usize,
    bytes: usize,
}

impl Size {
    const EMPTY: Size = Size { count: 0, bytes: PAGE_HEADER };

    fn takes(self, content: usize) -> bool {
        self.count == 0 || self.bytes + ELEMENT + content <= NODE_BYTES
    }

    fn add(&mut self, content: usize) {
        self.count += 1;
        self.bytes += ELEMENT + content;
    }

    fn pages(self) -> u64 {
        pages_of(self.bytes)
    }
}

/// Appends a node: its header, its elements and what they point to, filled up to whole pages.
fn put_node<'a>(
    out: &mut Vec<u8>,
    page: u64,
    flags: u16,
    entries: impl ExactSizeIterator<Item = Entry<'a>> + Clone,
) {
    let start = out.len();
    let count = entries.len();
    let content: usize = entries.clone().map(|entry| entry.key.len() + entry.value.len()).sum();
    let bytes = PAGE_HEADER + ELEMENT * count + content;
    let overflow = pages_of(bytes) - 1;
    out.extend_from_slice(&page.to_le_bytes());
    out.extend_from_slice(&flags.to_le_bytes());
    out.extend_from_slice(&u16::try_from(count).expect("a node is small").to_le_bytes());
    out.extend_from_slice(&u32::try_from(overflow).expect("an entry is small").to_le_bytes());
    // A position counts from its own element.
    let mut position = ELEMENT * count;
    for entry in entries.clone() {
        let word = |value: usize| u32::try_from(value).expect("an entry is small").to_le_bytes();
        match entry.kind {
            Kind::Branch { child } => {
                out.extend_from_slice(&word(position));
                out.extend_from_slice(&word(entry.key.len()));
                out.extend_from_slice(&child.to_le_bytes());
            }
            Kind::Leaf { is_bucket } => {
                out.extend_from_slice(&u32::from(is_bucket).to_le_bytes());
                out.extend_from_slice(&word(position));
                out.extend_from_slice(&word(entry.key.len()));
                out.extend_from_slice(&word(entry.value.len()));
            }
        }
        position = position + entry.key.len() + entry.value.len() - ELEMENT;
    }
    for entry in entries {
        out.extend_from_slice(entry.key);
        out.extend_from_slice(entry.value);
    }
    debug_assert_eq!(out.len() - start, bytes);
    out.resize(start + pages_of(bytes) as usize * PAGE_SIZE, 0);
}

#[derive(Clone, Copy)]
struct Entry<'a> {
    key: &'a [u8],
    /// Empty in a branch.
    value: &'a [u8],
    kind: Kind,
}

#[derive(Clone, Copy)]
enum Kind {
    Branch { child: u64 },
    Leaf { is_bucket: bool },
}
