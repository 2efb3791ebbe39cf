//! Tree nodes: reading, and the check that makes reading safe.
//!
//! ```text
//! header, continued
//! 20  count       u16   entries
//! 22  heap        u16   offset of the lowest cell; cells lie from here to the end, unordered
//! 24  dead        u16   bytes behind `heap` that belong to no cell
//! 26  prefix      u16   length of what every key of the node starts with
//! 28  zero        u32
//! 32  prefix, zero-filled to a multiple of 8: here, as every search begins with it
//!     slots       u64 x count, in key order:
//!        bits  0..16 offset of the cell     bits 16..28 length of the key's suffix
//!        bit  28 weight, bit 29 run         bits 30..32 zero
//!        bits 32..64 head: first four bytes of the suffix, big-endian, zero-filled
//!     free, zeros in the file
//!     cells, up to the end of the page
//!        leaf:  payload length u16, suffix, payload (the value, or the reference of a run)
//!        inner: child u32, its txn u32 (low half), its weight u64, suffix
//! ```
//! Key = prefix + suffix; of a long key, its stand-in ([`super::long`]). Entry 0 of an inner node has an empty suffix and stands for "everything
//! below entry 1"; the prefix is that of the entries behind it.
//!
//! **Invariant.** A [`Node`] is made of a page that [`validate`] has passed (or that this process
//! built), so that offsets and lengths in it lie inside the page. A bad byte is met in `validate`
//! and nowhere else.

use super::limits::{HEIGHT_MAX, KEY_INLINE_MAX, KEY_STORED_MAX, PAGE_SIZE};
use super::page::{
    HEADER_BYTES, KIND_INNER, KIND_LEAF, Page, PageId, TxnId, read_u16, read_u32, read_u64,
};
use std::cmp::Ordering;
use std::ops::Range;

pub const AT_COUNT: usize = 20;
pub const AT_HEAP: usize = AT_COUNT + 2;
pub const AT_DEAD: usize = AT_HEAP + 2;
pub const AT_PREFIX: usize = AT_DEAD + 2;
pub const AT_NODE_ZERO: usize = AT_PREFIX + 2;
pub const AT_NODE_PREFIX: usize = AT_NODE_ZERO + 4;
const _: () = assert!(AT_NODE_PREFIX == HEADER_BYTES);

pub const SLOT_BYTES: usize = 8;
/// What slots, cells and prefix share.
pub const PAYLOAD: usize = PAGE_SIZE - HEADER_BYTES;
/// More than any subtree has, and so little that a node's sum does not overflow.
const WEIGHT_MAX: u64 = 1 << 48;
/// Fixed part of a leaf's cell: the payload's length.
pub const LEAF_HEAD: usize = 2;
/// Fixed part of an inner node's cell: child, txn, weight.
pub const INNER_HEAD: usize = 16;

/// Largest entry, slot and key included. Two always fit a page, whatever the prefix does to them:
/// that is what makes splitting possible.
pub const ENTRY_BYTES_MAX: usize = PAYLOAD / 2 - 16;
const _: () = assert!(KEY_STORED_MAX + SLOT_BYTES + INNER_HEAD <= ENTRY_BYTES_MAX);
const _: () = assert!(KEY_STORED_MAX < 1 << 12);

pub const FLAG_WEIGHT: u8 = 1;
pub const FLAG_RUN: u8 = 2;

/// What a prefix of this length takes.
#[inline]
pub fn prefix_bytes(len: usize) -> usize {
    len.next_multiple_of(8)
}

#[derive(Clone, Copy)]
pub struct Slot(pub u64);

impl Slot {
    #[inline]
    pub fn new(head: u32, offset: usize, suffix_len: usize, flags: u8) -> Slot {
        debug_assert!(offset < PAGE_SIZE && suffix_len <= KEY_STORED_MAX && flags < 4);
        Slot(
            u64::from(head) << 32
                | u64::from(flags) << 28
                | (suffix_len as u64) << 16
                | offset as u64,
        )
    }

    #[inline]
    pub fn head(self) -> u32 {
        (self.0 >> 32) as u32
    }

    #[inline]
    pub fn offset(self) -> usize {
        usize::from(self.0 as u16)
    }

    #[inline]
    pub fn suffix_len(self) -> usize {
        usize::from((self.0 >> 16) as u16 & 0xfff)
    }

    #[inline]
    pub fn flags(self) -> u8 {
        (self.0 >> 28) as u8 & 0xf
    }

    #[inline]
    pub fn has_weight(self) -> bool {
        self.0 & (1 << 28) != 0
    }
}

/// First four bytes of a suffix as a number that compares as they do.
#[inline]
pub fn head_of(suffix: &[u8]) -> u32 {
    match suffix.first_chunk::<4>() {
        Some(four) => u32::from_be_bytes(*four),
        None => {
            let mut four = [0; 4];
            four[..suffix.len()].copy_from_slice(suffix);
            u32::from_be_bytes(four)
        }
    }
}

/// Asks for the cache lines of a part of a page.
#[inline]
pub fn prefetch_bytes(page: &Page, bytes: Range<usize>) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        for line in bytes.step_by(64) {
            // SAFETY: a prefetch reads nothing that the program sees, whatever the address.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(page.0.as_ptr().wrapping_add(line).cast()) };
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (page, bytes);
}

/// A key in two pieces, as nodes hold it.
#[derive(Clone, Copy)]
pub struct Parts<'a>(pub &'a [u8], pub &'a [u8]);

impl<'a> Parts<'a> {
    pub fn len(self) -> usize {
        self.0.len() + self.1.len()
    }

    pub fn skip(self, n: usize) -> Parts<'a> {
        match self.0.get(n..) {
            Some(rest) => Parts(rest, self.1),
            None => Parts(&[], &self.1[n - self.0.len()..]),
        }
    }

    /// How it compares with this key.
    #[inline]
    pub fn cmp(self, key: &[u8]) -> Ordering {
        let (first, second) = key.split_at(self.0.len().min(key.len()));
        self.0.cmp(first).then_with(|| self.1.cmp(second))
    }

    /// Whether it is this key.
    pub fn is(self, key: &[u8]) -> bool {
        key.len() == self.len() && key.starts_with(self.0) && key.ends_with(self.1)
    }

    pub fn bytes(self) -> impl Iterator<Item = u8> + 'a {
        self.0.iter().chain(self.1).copied()
    }

    pub fn copy_to(self, out: &mut [u8]) {
        let (first, second) = out.split_at_mut(self.0.len());
        first.copy_from_slice(self.0);
        second.copy_from_slice(self.1);
    }

    pub fn common_prefix(self, other: Parts<'_>) -> usize {
        self.bytes().zip(other.bytes()).take_while(|(a, b)| a == b).count()
    }
}

pub fn common_prefix(a: &[u8], b: &[u8]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

/// A reference to a node, as its parent or the list of roots holds it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Child {
    pub page: PageId,
    pub stamp: u32,
    pub weight: u64,
}

#[derive(Clone, Copy)]
pub struct Node<'a>(pub &'a Page);

impl<'a> Node<'a> {
    #[inline]
    pub fn count(self) -> usize {
        usize::from(read_u16(&self.0.0, AT_COUNT))
    }

    pub fn heap(self) -> usize {
        usize::from(read_u16(&self.0.0, AT_HEAP))
    }

    pub fn dead(self) -> usize {
        usize::from(read_u16(&self.0.0, AT_DEAD))
    }

    #[inline]
    pub fn prefix_len(self) -> usize {
        usize::from(read_u16(&self.0.0, AT_PREFIX))
    }

    #[inline]
    pub fn prefix(self) -> &'a [u8] {
        &self.0.0[AT_NODE_PREFIX..AT_NODE_PREFIX + self.prefix_len()]
    }

    #[inline]
    pub fn is_leaf(self) -> bool {
        self.0.kind() == KIND_LEAF
    }

    /// Where the slots begin.
    #[inline]
    pub fn slots_at(self) -> usize {
        AT_NODE_PREFIX + prefix_bytes(self.prefix_len())
    }

    #[inline]
    pub fn slot(self, index: usize) -> Slot {
        Slot(read_u64(&self.0.0, self.slots_at() + index * SLOT_BYTES))
    }

    fn cell_head(self) -> usize {
        if self.is_leaf() { LEAF_HEAD } else { INNER_HEAD }
    }

    #[inline]
    fn suffix_at(self, slot: Slot, head: usize) -> &'a [u8] {
        let at = slot.offset() + head;
        &self.0.0[at..at + slot.suffix_len()]
    }

    pub fn suffix(self, index: usize) -> &'a [u8] {
        self.suffix_at(self.slot(index), self.cell_head())
    }

    /// Suffix of a leaf's entry.
    #[inline]
    pub fn leaf_suffix(self, slot: Slot) -> &'a [u8] {
        self.suffix_at(slot, LEAF_HEAD)
    }

    pub fn key(self, index: usize) -> Parts<'a> {
        Parts(self.prefix(), self.suffix(index))
    }

    /// Free bytes between slots and cells.
    pub fn gap(self) -> usize {
        self.heap() - (self.slots_at() + self.count() * SLOT_BYTES)
    }

    /// Bytes taken by prefix, slots and living cells.
    pub fn used(self) -> usize {
        PAYLOAD - self.gap() - self.dead()
    }

    /// Entries that hold a key: all, but not the first of an inner node.
    pub fn keyed_from(self) -> usize {
        usize::from(!self.is_leaf())
    }

    /// Index of the first entry `>= key`, looking at `from..count`, and whether it is equal.
    #[inline]
    fn lower_bound(self, key: &[u8], from: usize, head: usize) -> (usize, bool) {
        let count = self.count();
        let prefix = self.prefix();
        self.prefetch_slots(count);
        let suffix = match key.strip_prefix(prefix) {
            Some(suffix) => suffix,
            None if key < prefix => return (from, false),
            None => return (count, false),
        };
        let wanted = head_of(suffix);
        let slots = &self.0.0[self.slots_at()..self.slots_at() + count * SLOT_BYTES];
        let (mut low, mut high) = (from, count);
        // Behind the last: what is put in order comes there, and the search would take all its steps.
        if let Some(last) = slots.last_chunk::<SLOT_BYTES>()
            && Slot(u64::from_le_bytes(*last)).head() < wanted
        {
            return (count, false);
        }
        while low < high {
            let middle = (low + high) / 2;
            let slot = Slot(read_u64(slots, middle * SLOT_BYTES));
            let order =
                slot.head().cmp(&wanted).then_with(|| self.suffix_at(slot, head).cmp(suffix));
            match order {
                Ordering::Less => low = middle + 1,
                Ordering::Equal => return (middle, true),
                Ordering::Greater => high = middle,
            }
        }
        (low, false)
    }

    /// Asks for the cache lines of all slots at once. The search goes through four or five of them
    /// one after the other, each a wait of its own for memory.
    #[inline]
    fn prefetch_slots(self, count: usize) {
        let from = self.slots_at();
        prefetch_bytes(self.0, from..from + count * SLOT_BYTES);
    }

    /// In a leaf: index of the first entry `>= key`, and whether it is the key itself.
    #[inline]
    pub fn search(self, key: &[u8]) -> (usize, bool) {
        self.lower_bound(key, 0, LEAF_HEAD)
    }

    /// In an inner node: index of the child that covers `key`.
    #[inline]
    pub fn child_index(self, key: &[u8]) -> usize {
        match self.lower_bound(key, 1, INNER_HEAD) {
            (index, true) => index,
            (index, false) => index - 1,
        }
    }

    #[inline]
    pub fn child(self, index: usize) -> Child {
        let at = self.slot(index).offset();
        Child {
            page: PageId(read_u32(&self.0.0, at)),
            stamp: read_u32(&self.0.0, at + 4),
            weight: read_u64(&self.0.0, at + 8),
        }
    }

    /// Payload of a leaf's entry: the value, or the reference of its run.
    #[inline]
    pub fn payload(self, slot: Slot) -> &'a [u8] {
        let length = usize::from(read_u16(&self.0.0, slot.offset()));
        let at = slot.offset() + LEAF_HEAD + slot.suffix_len();
        &self.0.0[at..at + length]
    }

    fn cell_bytes(self, slot: Slot) -> usize {
        if self.is_leaf() {
            LEAF_HEAD + slot.suffix_len() + usize::from(read_u16(&self.0.0, slot.offset()))
        } else {
            INNER_HEAD + slot.suffix_len()
        }
    }

    /// Bytes of slot and cell.
    pub fn entry_bytes(self, index: usize) -> usize {
        SLOT_BYTES + self.cell_bytes(self.slot(index))
    }

    /// Sum of the weights of the entries `0..end`.
    pub fn weight_before(self, end: usize) -> u64 {
        if self.is_leaf() {
            (0..end).map(|index| u64::from(self.slot(index).has_weight())).sum()
        } else {
            (0..end).map(|index| self.child(index).weight).sum()
        }
    }

    pub fn weight(self) -> u64 {
        self.weight_before(self.count())
    }

    /// Transaction of the page, in the form in which references remember it.
    #[inline]
    pub fn stamp(self) -> u32 {
        self.txn().stamp()
    }

    pub fn txn(self) -> TxnId {
        self.0.txn()
    }
}

/// Whether the page, whose checksum is right, is a node that can be read without looking further.
pub fn validate(page: &Page) -> Result<(), &'static str> {
    let bytes = &page.0;
    let leaf = match page.kind() {
        KIND_LEAF if page.level() == 0 => true,
        KIND_INNER if (1..HEIGHT_MAX).contains(&usize::from(page.level())) => false,
        _ => return Err("a node's level does not fit its kind"),
    };
    let node = Node(page);
    let (count, heap, dead, prefix) = (node.count(), node.heap(), node.dead(), node.prefix_len());
    let slots_end = node.slots_at() + count * SLOT_BYTES;
    if read_u32(bytes, AT_NODE_ZERO) != 0 {
        return Err("a reserved field of a node is not zero");
    }
    if prefix > KEY_STORED_MAX || slots_end > heap || heap > PAGE_SIZE {
        return Err("a node's slots, cells and prefix overlap");
    }
    if bytes[AT_NODE_PREFIX + prefix..node.slots_at()].iter().any(|byte| *byte != 0) {
        return Err("a node's prefix is not filled with zeros");
    }
    if count == 0 {
        return Err("a node is empty");
    }
    let mut living = 0;
    for index in 0..count {
        let slot = node.slot(index);
        let head = if leaf { LEAF_HEAD } else { INNER_HEAD };
        let (at, suffix) = (slot.offset(), slot.suffix_len());
        if slot.flags() > 3 || (!leaf && slot.flags() != 0) {
            return Err("a slot has unknown flags");
        }
        if prefix + suffix > KEY_STORED_MAX || at < heap || at + head + suffix > PAGE_SIZE {
            return Err("a slot points outside of the cells");
        }
        let cell = node.cell_bytes(slot);
        if at + cell > PAGE_SIZE {
            return Err("a value reaches beyond the cells");
        }
        living += cell;
        if slot.head() != head_of(node.suffix_at(slot, head)) {
            return Err("a slot's head is not that of its key");
        }
        if leaf && prefix + suffix > KEY_INLINE_MAX && slot.flags() & FLAG_RUN == 0 {
            return Err("a long key without a run");
        }
        if leaf && slot.flags() & FLAG_RUN != 0 && node.payload(slot).len() != RUN_REF_BYTES {
            return Err("the reference of a run has a wrong length");
        }
        if !leaf {
            let child = node.child(index);
            if child.page.0 < 2 || child.weight > WEIGHT_MAX {
                return Err("a child is out of range");
            }
            if index == 0 && suffix != 0 {
                return Err("the first child of an inner node has a key");
            }
        }
        if index > node.keyed_from() && node.suffix(index - 1) >= node.suffix(index) {
            return Err("the keys of a node are out of order");
        }
    }
    if living + dead != PAGE_SIZE - heap {
        return Err("the cells of a node do not add up");
    }
    Ok(())
}

/// Bytes of a run's reference in a leaf.
pub const RUN_REF_BYTES: usize = 16;
