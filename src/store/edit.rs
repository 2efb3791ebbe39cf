//! Tree nodes: changing them in place and building them anew. Where a page may be changed is not
//! known here; a page given to these functions is a dirty one on the heap.

use super::limits::PAGE_SIZE;
use super::node::{
    AT_COUNT, AT_DEAD, AT_HEAP, AT_NODE_PREFIX, AT_NODE_ZERO, AT_PREFIX, Child, INNER_HEAD,
    LEAF_HEAD, Node, PAYLOAD, Parts, SLOT_BYTES, Slot, common_prefix, head_of, prefix_bytes,
};
use super::page::{KIND_INNER, KIND_LEAF, Page, read_u64, write_u16, write_u32, write_u64};
use std::ops::Range;

/// What an entry to be inserted consists of.
#[derive(Clone, Copy)]
pub struct NewEntry<'a> {
    pub key: &'a [u8],
    pub kind: NewKind,
    pub flags: u8,
}

#[derive(Clone, Copy)]
pub enum NewKind {
    Leaf { payload_len: usize },
    Inner(Child),
}

impl NewEntry<'_> {
    /// Bytes of slot and cell in a node with a prefix of `prefix_len`.
    pub fn bytes(&self, prefix_len: usize) -> usize {
        let fixed = match self.kind {
            NewKind::Leaf { payload_len } => LEAF_HEAD + payload_len,
            NewKind::Inner(_) => INNER_HEAD,
        };
        SLOT_BYTES + fixed + self.key.len() - prefix_len
    }
}

/// How an entry gets into a node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fit {
    /// As the node is.
    InPlace,
    /// After the node has been rebuilt with a prefix of this length.
    Rebuild(usize),
    /// Not at all: the node must be split.
    Split,
}

/// A longer prefix is worth rebuilding a full node for only if it frees this much.
const PREFIX_GAIN_MIN: usize = PAYLOAD / 16;

/// How `entry` gets into `node` at `index`.
pub fn fit(node: Node<'_>, index: usize, entry: &NewEntry<'_>) -> Fit {
    let prefix = node.prefix();
    let shared = common_prefix(prefix, entry.key);
    let free = node.gap() + node.dead();
    let keyed = node.count().saturating_sub(node.keyed_from());
    if shared < prefix.len() {
        if keyed == 0 {
            return Fit::Rebuild(0);
        }
        // Of the prefix's place, which is rounded up, less than it is shortened by may become free.
        let growth = (prefix.len() - shared) * keyed + prefix_bytes(shared);
        return if entry.bytes(shared) + growth <= free + prefix_bytes(prefix.len()) {
            Fit::Rebuild(shared)
        } else {
            Fit::Split
        };
    }
    let wanted = entry.bytes(shared);
    if wanted <= node.gap() {
        return Fit::InPlace;
    }
    if wanted <= free {
        return Fit::Rebuild(shared);
    }
    if keyed < 2 {
        return Fit::Split;
    }
    let (first, last) = (node.key(node.keyed_from()), node.key(node.count() - 1));
    let new = Parts(entry.key, &[]);
    let longer = if index <= node.keyed_from() {
        new.common_prefix(last)
    } else {
        first.common_prefix(last).min(first.common_prefix(new))
    };
    let free = free + (longer - shared) * keyed;
    let wanted = entry.bytes(longer) + prefix_bytes(longer) - prefix_bytes(shared);
    if (longer - shared) * keyed >= PREFIX_GAIN_MIN && wanted <= free {
        Fit::Rebuild(longer)
    } else {
        Fit::Split
    }
}

/// A node being changed in place.
pub struct NodeMut<'a>(pub &'a mut Page);

impl NodeMut<'_> {
    pub fn node(&self) -> Node<'_> {
        Node(self.0)
    }

    fn set(&mut self, at: usize, value: usize) {
        debug_assert!(value <= PAGE_SIZE);
        write_u16(&mut self.0.0, at, value as u16);
    }

    /// Makes the page an empty node of its kind. The header's common part is left alone.
    pub fn clear(&mut self) {
        self.set(AT_COUNT, 0);
        self.set(AT_HEAP, PAGE_SIZE);
        self.set(AT_DEAD, 0);
        self.set(AT_PREFIX, 0);
        write_u32(&mut self.0.0, AT_NODE_ZERO, 0);
    }

    /// Sets the prefix of an empty node.
    pub fn set_prefix(&mut self, prefix: Parts<'_>, len: usize) {
        debug_assert!(self.node().count() == 0);
        let place = &mut self.0.0[AT_NODE_PREFIX..AT_NODE_PREFIX + prefix_bytes(len)];
        place.fill(0);
        for (to, from) in place[..len].iter_mut().zip(prefix.bytes()) {
            *to = from;
        }
        self.set(AT_PREFIX, len);
    }

    fn set_slot(&mut self, index: usize, slot: Slot) {
        let at = self.node().slots_at() + index * SLOT_BYTES;
        write_u64(&mut self.0.0, at, slot.0);
    }

    /// Takes `bytes` from the gap and opens slot `index` for it; the cell's offset.
    #[inline]
    fn open(&mut self, index: usize, bytes: usize) -> usize {
        let node = self.node();
        let (count, heap) = (node.count(), node.heap());
        assert!(index <= count && node.gap() >= bytes + SLOT_BYTES, "no room for an entry");
        let at = heap - bytes;
        let slots = node.slots_at();
        self.0.0.copy_within(
            slots + index * SLOT_BYTES..slots + count * SLOT_BYTES,
            slots + (index + 1) * SLOT_BYTES,
        );
        self.set(AT_COUNT, count + 1);
        self.set(AT_HEAP, at);
        at
    }

    /// Inserts an entry that [`fit`] found to fit in place; where its payload is to be written.
    pub fn insert(&mut self, index: usize, entry: &NewEntry<'_>) -> Range<usize> {
        let prefix = self.node().prefix_len();
        let keyless = index < self.node().keyed_from();
        let suffix: &[u8] = if keyless { &[] } else { &entry.key[prefix..] };
        match entry.kind {
            NewKind::Leaf { payload_len } => {
                let at = self.open(index, LEAF_HEAD + suffix.len() + payload_len);
                write_u16(&mut self.0.0, at, payload_len as u16);
                let payload = at + LEAF_HEAD + suffix.len();
                self.0.0[at + LEAF_HEAD..payload].copy_from_slice(suffix);
                self.set_slot(index, Slot::new(head_of(suffix), at, suffix.len(), entry.flags));
                payload..payload + payload_len
            }
            NewKind::Inner(child) => {
                let at = self.open(index, INNER_HEAD + suffix.len());
                self.write_child(at, child);
                let key = at + INNER_HEAD;
                self.0.0[key..key + suffix.len()].copy_from_slice(suffix);
                self.set_slot(index, Slot::new(head_of(suffix), at, suffix.len(), 0));
                key..key
            }
        }
    }

    /// Appends a copy of an entry of another node of the same kind. `keyless` for what becomes the
    /// first entry of an inner node; `key` where the entry had none.
    pub fn append(&mut self, from: Node<'_>, index: usize, key: Parts<'_>, keyless: bool) {
        let slot = from.slot(index);
        let prefix = self.node().prefix_len();
        let suffix = if keyless { Parts(&[], &[]) } else { key.skip(prefix) };
        let len = suffix.len();
        let (head, tail): (usize, &[u8]) =
            if from.is_leaf() { (LEAF_HEAD, from.payload(slot)) } else { (INNER_HEAD, &[]) };
        let count = self.node().count();
        let at = self.open(count, head + len + tail.len());
        let source = slot.offset();
        self.0.0[at..at + head].copy_from_slice(&from.0.0[source..source + head]);
        suffix.copy_to(&mut self.0.0[at + head..at + head + len]);
        let payload = at + head + len;
        self.0.0[payload..payload + tail.len()].copy_from_slice(tail);
        let first = head_of(&self.0.0[at + head..payload]);
        self.set_slot(count, Slot::new(first, at, len, slot.flags()));
    }

    /// Replaces all by the entries `range` of `from`, with a prefix of `prefix_len`. For an inner
    /// node whose range does not begin at 0, the first entry loses its key if `first_keyless`.
    pub fn rebuild(
        &mut self,
        from: Node<'_>,
        range: Range<usize>,
        prefix_len: usize,
        first_keyless: bool,
    ) {
        self.clear();
        let first_keyed = range.start.max(from.keyed_from()) + usize::from(first_keyless);
        if first_keyed < range.end {
            self.set_prefix(from.key(first_keyed), prefix_len);
        }
        for index in range.clone() {
            let keyless =
                !from.is_leaf() && (index == 0 || (first_keyless && index == range.start));
            self.append(from, index, from.key(index), keyless);
        }
    }

    /// Overwrites the payload of entry `index` by one of at most the same length.
    pub fn replace(&mut self, index: usize, payload_len: usize, flags: u8) -> Range<usize> {
        let slot = self.node().slot(index);
        let old_len = self.node().payload(slot).len();
        assert!(payload_len <= old_len, "a payload is replaced by a longer one");
        let dead = self.node().dead() + old_len - payload_len;
        self.set(AT_DEAD, dead);
        write_u16(&mut self.0.0, slot.offset(), payload_len as u16);
        self.set_slot(index, Slot::new(slot.head(), slot.offset(), slot.suffix_len(), flags));
        let payload = slot.offset() + LEAF_HEAD + slot.suffix_len();
        payload..payload + payload_len
    }

    pub fn set_flags(&mut self, index: usize, flags: u8) {
        let slot = self.node().slot(index);
        self.set_slot(index, Slot::new(slot.head(), slot.offset(), slot.suffix_len(), flags));
    }

    pub fn remove(&mut self, index: usize) {
        let node = self.node();
        let count = node.count();
        assert!(index < count, "an entry that is not there is removed");
        let slot = node.slot(index);
        let cell = node.entry_bytes(index) - SLOT_BYTES;
        let (heap, dead, keyed_from) = (node.heap(), node.dead(), node.keyed_from());
        let slots = node.slots_at();
        self.0.0.copy_within(
            slots + (index + 1) * SLOT_BYTES..slots + count * SLOT_BYTES,
            slots + index * SLOT_BYTES,
        );
        self.set(AT_COUNT, count - 1);
        if slot.offset() == heap {
            self.set(AT_HEAP, heap + cell);
        } else {
            self.set(AT_DEAD, dead + cell);
        }
        if index < keyed_from && count > 1 {
            // What was entry 1 of an inner node is the first one now, and that has no key.
            let slot = self.node().slot(0);
            let dead = self.node().dead() + slot.suffix_len();
            self.set(AT_DEAD, dead);
            self.set_slot(0, Slot::new(0, slot.offset(), 0, 0));
        }
    }

    fn write_child(&mut self, at: usize, child: Child) {
        write_u32(&mut self.0.0, at, child.page.0);
        write_u32(&mut self.0.0, at + 4, child.stamp);
        write_u64(&mut self.0.0, at + 8, child.weight);
    }

    pub fn set_child(&mut self, index: usize, child: Child) {
        let at = self.node().slot(index).offset();
        self.write_child(at, child);
    }

    /// Adds to the weight of a child.
    #[inline]
    pub fn add_weight(&mut self, index: usize, change: i64) {
        let at = self.node().slot(index).offset() + 8;
        let weight = read_u64(&self.0.0, at)
            .checked_add_signed(change)
            .expect("a subtree has a weight below zero");
        write_u64(&mut self.0.0, at, weight);
    }
}

/// Length of the prefix of a node that would hold the entries `range` of `node` with `new` inserted
/// before its entry `at` (numbers in `range` count the new one).
pub fn prefix_with(
    node: Node<'_>,
    at: usize,
    new: &NewEntry<'_>,
    range: Range<usize>,
    first_keyless: bool,
) -> usize {
    let first = range.start.max(node.keyed_from()) + usize::from(first_keyless);
    if first + 1 >= range.end {
        return 0;
    }
    virtual_key(node, at, new, first).common_prefix(virtual_key(node, at, new, range.end - 1))
}

/// Key of entry `index` of `node` with `new` inserted before its entry `at`.
pub fn virtual_key<'a>(node: Node<'a>, at: usize, new: &NewEntry<'a>, index: usize) -> Parts<'a> {
    match index.cmp(&at) {
        std::cmp::Ordering::Less => node.key(index),
        std::cmp::Ordering::Equal => Parts(new.key, &[]),
        std::cmp::Ordering::Greater => node.key(index - 1),
    }
}

/// How many entries of `node` with `new` inserted before its entry `at` stay in the left half of a
/// split. `right_edge` says that entries are being appended to the tree: then the left page is left
/// full.
pub fn split_point(node: Node<'_>, at: usize, new: &NewEntry<'_>, right_edge: bool) -> usize {
    let count = node.count();
    let prefix = node.prefix_len();
    let breaks_prefix = common_prefix(node.prefix(), new.key) < prefix;
    if at == count && (right_edge || breaks_prefix) {
        return count;
    }
    if breaks_prefix {
        // Below all keys of the node: only there and behind them can a key lack their common
        // prefix.
        return at.max(1);
    }
    let new_bytes = new.bytes(prefix);
    let total: usize = (0..count).map(|index| node.entry_bytes(index)).sum::<usize>() + new_bytes;
    // A half's prefix may be longer, which makes its entries shorter and itself at most 8 bytes
    // longer.
    let capacity = PAYLOAD - prefix_bytes(prefix) - 8;
    let mut left = 0;
    let mut best = (usize::MAX, 0);
    for m in 1..=count {
        let index = m - 1;
        left += match index.cmp(&at) {
            std::cmp::Ordering::Less => node.entry_bytes(index),
            std::cmp::Ordering::Equal => new_bytes,
            std::cmp::Ordering::Greater => node.entry_bytes(index - 1),
        };
        let right = total - left;
        if left <= capacity && right <= capacity {
            best = best.min((left.abs_diff(right), m));
        }
    }
    assert!(best.1 > 0, "a node cannot be split");
    best.1
}

/// Bytes that the entries of `left` and `right`, neighbours in this order under a separator, take
/// in one node, and that node's prefix length.
pub fn merged_size(left: Node<'_>, right: Node<'_>, separator: Parts<'_>) -> (usize, usize) {
    let leaf = left.is_leaf();
    let keyed_from = left.keyed_from();
    let first = if keyed_from < left.count() { left.key(keyed_from) } else { separator };
    let last = match right.count() {
        n if n > keyed_from => right.key(n - 1),
        _ => separator,
    };
    let keys = left.count() + right.count() - keyed_from;
    let prefix = if keys < 2 { 0 } else { first.common_prefix(last) };
    let entries = |node: Node<'_>| -> usize {
        let keyed = node.count() - node.keyed_from().min(node.count());
        node.used() - prefix_bytes(node.prefix_len()) + keyed * node.prefix_len()
    };
    let mut full = entries(left) + entries(right);
    if !leaf {
        full += separator.len();
    }
    (full - prefix * keys + prefix_bytes(prefix), prefix)
}

/// Kind byte of a node at `level`.
pub fn kind_of(level: u8) -> u8 {
    if level == 0 { KIND_LEAF } else { KIND_INNER }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::page::{Header, PageId, Tree, TxnId};

    /// A leaf of three entries whose keys share `prefix` bytes, with `free` bytes left.
    fn leaf(prefix: usize, free: usize) -> Page {
        let mut page = Page::ZERO;
        let header =
            Header { page: PageId(9), txn: TxnId(1), kind: KIND_LEAF, level: 0, tree: Tree(0) };
        page.set_header(&header);
        let mut node = NodeMut(&mut page);
        node.clear();
        let key = |last: u8| [&vec![b'p'; prefix][..], &[last]].concat();
        node.set_prefix(Parts(&key(b'a'), &[]), prefix);
        for (index, last) in [b'a', b'b', b'c'].into_iter().enumerate() {
            let key = key(last);
            let new =
                |payload_len| NewEntry { key: &key, kind: NewKind::Leaf { payload_len }, flags: 0 };
            let gap = node.node().gap();
            let payload_len = if index < 2 { 100 } else { gap - new(0).bytes(prefix) - free };
            node.insert(index, &new(payload_len));
        }
        assert_eq!(node.node().gap(), free);
        page
    }

    #[test]
    fn what_fits_has_room_however_much_of_the_prefix_goes() {
        let mut rebuilt = 0;
        for prefix in 1..=20 {
            for shared in 0..prefix {
                for free in 0..120 {
                    let mut page = leaf(prefix, free);
                    let key = [&vec![b'p'; shared][..], b"a"].concat();
                    let entry =
                        NewEntry { key: &key, kind: NewKind::Leaf { payload_len: 1 }, flags: 0 };
                    let Fit::Rebuild(len) = fit(Node(&page), 0, &entry) else { continue };
                    let copy = Page(page.0);
                    NodeMut(&mut page).rebuild(Node(&copy), 0..3, len, false);
                    NodeMut(&mut page).insert(0, &entry);
                    rebuilt += 1;
                }
            }
        }
        assert!(rebuilt > 1000, "{rebuilt}");
    }
}
