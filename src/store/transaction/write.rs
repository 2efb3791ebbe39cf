//! Putting entries.

use super::super::Store;
use super::super::edit::{Fit, NewEntry, NewKind, fit};
use super::super::frames::FrameId;
use super::super::limits::{KEY_BYTES_MAX, KEY_STORED_MAX, VALUE_BYTES_MAX, VALUE_INLINE_MAX};
use super::super::long::is_long;
use super::super::node::{
    ENTRY_BYTES_MAX, FLAG_RUN, FLAG_WEIGHT, LEAF_HEAD, RUN_REF_BYTES, SLOT_BYTES,
};
use super::super::page::{Corruption, Tree};
use super::super::run::{self, RunRef};
use super::Path;
use std::ops::Range;

impl Store {
    /// Sets the value of a key.
    ///
    /// # Panics
    /// If the key is longer than [`KEY_BYTES_MAX`] or the value than [`VALUE_BYTES_MAX`]: the
    /// caller has checked.
    pub fn put(
        &mut self,
        tree: Tree,
        key: &[u8],
        value: &[u8],
        weight: bool,
    ) -> Result<(), Corruption> {
        self.put_with(tree, key, value.len(), weight, |place| place.copy_from_slice(value))
    }

    /// Sets the value of a key to what `fill` writes to its place of `value_len` bytes, whose
    /// content before is arbitrary.
    ///
    /// # Panics
    /// As [`put`](Self::put).
    pub fn put_with(
        &mut self,
        tree: Tree,
        key: &[u8],
        value_len: usize,
        weight: bool,
        fill: impl FnOnce(&mut [u8]),
    ) -> Result<(), Corruption> {
        assert!(key.len() <= KEY_BYTES_MAX, "a key of {} bytes", key.len());
        let stored = self.stored_for_put(tree, key)?;
        let path = self.path_for_put(tree, &stored, value_len)?;
        let (index, found) = self.dirty(path.leaf).search(&stored);
        let spot = Spot { path: &path, stored: &stored, index, found, weight_gone: 0 };
        self.put_at(tree, spot, key, value_len, weight, fill);
        Ok(())
    }

    /// Puts an entry and takes the weight off another one, `former`; false if there is no such
    /// entry (the put is made all the same). Where the two are neighbours in a leaf, `former` behind
    /// `key`, this costs no more than the put.
    ///
    /// # Panics
    /// As [`put`](Self::put).
    pub fn put_before(
        &mut self,
        tree: Tree,
        key: &[u8],
        value: &[u8],
        weight: bool,
        former: &[u8],
    ) -> Result<bool, Corruption> {
        if !is_long(former)
            && let Some(opening) = self.opening(tree, key)?
            && opening.is_before(former)
        {
            opening.put(value, weight, true);
            return Ok(true);
        }
        let was_there = self.set_weight(tree, former, false)?;
        self.put(tree, key, value, weight)?;
        Ok(was_there)
    }

    /// The path to the leaf that a key goes to, all of it writable.
    pub(super) fn path_for_put(
        &mut self,
        tree: Tree,
        key: &[u8],
        value_len: usize,
    ) -> Result<Path, Corruption> {
        assert!(key.len() <= KEY_STORED_MAX, "{} bytes of a key in a node", key.len());
        assert!(value_len <= VALUE_BYTES_MAX, "a value of {value_len} bytes");
        self.uncommitted = true;
        if self.root_mut(tree).is_empty() {
            let leaf = self.new_node(tree, 0);
            let child = self.reference(leaf, 0);
            let root = self.root_mut(tree);
            (root.page, root.stamp) = (child.page, child.stamp);
        }
        self.path_for_write(tree, key)
    }

    pub(super) fn put_at(
        &mut self,
        tree: Tree,
        spot: Spot<'_>,
        key: &[u8],
        value_len: usize,
        weight: bool,
        fill: impl FnOnce(&mut [u8]),
    ) {
        let weight_flag = if weight { FLAG_WEIGHT } else { 0 };
        if is_inline(key, value_len) {
            let (frame, place) = self.place(tree, spot, key, value_len, value_len, weight_flag);
            fill(&mut self.pages.dirty_mut(frame).0[place]);
        } else {
            let reference = self.new_run(tree, key, value_len, fill);
            let flags = weight_flag | FLAG_RUN;
            let (frame, place) = self.place(tree, spot, key, value_len, RUN_REF_BYTES, flags);
            reference.write(&mut self.pages.dirty_mut(frame).0[place]);
        }
    }

    /// Sets the weight of an entry; false if there is none.
    pub fn set_weight(&mut self, tree: Tree, key: &[u8], weight: bool) -> Result<bool, Corruption> {
        if self.root_mut(tree).is_empty() {
            return Ok(false);
        }
        let Some(key) = self.stored_if_there(tree, key)? else { return Ok(false) };
        self.uncommitted = true;
        let path = self.path_for_write(tree, &key)?;
        let (index, found) = self.dirty(path.leaf).search(&key);
        if !found {
            return Ok(false);
        }
        let slot = self.dirty(path.leaf).slot(index);
        let change = i64::from(weight) - i64::from(slot.has_weight());
        let flags = slot.flags() & !FLAG_WEIGHT | if weight { FLAG_WEIGHT } else { 0 };
        self.dirty_mut(path.leaf).set_flags(index, flags);
        self.add_weight(tree, &path, change);
        Ok(true)
    }

    /// Makes a place for a payload in the leaf, with all that follows from it in the tree.
    fn place(
        &mut self,
        tree: Tree,
        spot: Spot<'_>,
        key: &[u8],
        value_len: usize,
        payload_len: usize,
        flags: u8,
    ) -> (FrameId, Range<usize>) {
        let Spot { path, stored, index, found, weight_gone } = spot;
        let mut change = i64::from(flags & FLAG_WEIGHT != 0) - weight_gone;
        if found {
            let node = self.dirty(path.leaf);
            let slot = node.slot(index);
            change -= i64::from(slot.has_weight());
            let old_len = node.payload(slot).len();
            let old_value_len = self.free_run(path.leaf, index, key.len());
            let root = self.root_mut(tree);
            root.bytes = root.bytes - old_value_len as u64 + value_len as u64;
            if payload_len <= old_len {
                self.add_weight(tree, path, change);
                return (path.leaf, self.dirty_mut(path.leaf).replace(index, payload_len, flags));
            }
            self.dirty_mut(path.leaf).remove(index);
        } else {
            let root = self.root_mut(tree);
            root.entries += 1;
            root.bytes += (key.len() + value_len) as u64;
        }
        self.add_weight(tree, path, change);
        let entry = NewEntry { key: stored, kind: NewKind::Leaf { payload_len }, flags };
        self.insert(tree, path, path.steps.len(), index, &entry)
    }

    /// Frees the run of a leaf's entry that is about to go, if it has one; the length of its value.
    pub(super) fn free_run(&mut self, leaf: FrameId, index: usize, key_len: usize) -> usize {
        let node = self.dirty(leaf);
        let slot = node.slot(index);
        if slot.flags() & FLAG_RUN == 0 {
            return node.payload(slot).len();
        }
        let reference = RunRef::read(node.payload(slot));
        self.space.release(&mut self.pages, reference.freed(key_len, self.txn));
        reference.value_len as usize
    }

    /// Inserts an entry into the node at `depth` of the path. The weights above it count it
    /// already.
    pub(super) fn insert(
        &mut self,
        tree: Tree,
        path: &Path,
        depth: usize,
        index: usize,
        entry: &NewEntry<'_>,
    ) -> (FrameId, Range<usize>) {
        let frame = path.frame(depth);
        match fit(self.dirty(frame), index, entry) {
            Fit::InPlace => {}
            Fit::Rebuild(prefix_len) => self.rebuild(frame, prefix_len),
            Fit::Split => return self.split(tree, path, depth, index, entry),
        }
        (frame, self.dirty_mut(frame).insert(index, entry))
    }

    fn rebuild(&mut self, frame: FrameId, prefix_len: usize) {
        let copy = self.copy_of(frame);
        let node = super::Node(&copy);
        self.dirty_mut(frame).rebuild(node, 0..node.count(), prefix_len, false);
        self.pages.give_buffer(copy);
    }

    fn new_run(
        &mut self,
        tree: Tree,
        key: &[u8],
        value_len: usize,
        fill: impl FnOnce(&mut [u8]),
    ) -> RunRef {
        let count = run::pages_for(value_len, key.len());
        let page = self.space.allocate_run(&mut self.pages, count);
        let (mut pages, place) = run::build(page, self.txn, tree, key, value_len);
        fill(&mut run::bytes_mut(&mut pages)[place]);
        run::finish(&mut pages, page, self.txn, self.pages.seed());
        self.pages.add_run(page, self.txn, pages);
        RunRef { page, value_len: value_len as u32, txn: self.txn }
    }
}

/// Where in its leaf an entry goes.
#[derive(Clone, Copy)]
pub(super) struct Spot<'p> {
    pub path: &'p Path,
    /// The key as nodes have it.
    pub stored: &'p [u8],
    pub index: usize,
    /// An entry of this key is there, which it replaces.
    pub found: bool,
    /// What the leaf has lost in weight that its parents do not know of yet.
    pub weight_gone: i64,
}

/// Whether a value lies in the leaf: a quarter of a page at most, and not more than half of one
/// with its key, all of which is there.
fn is_inline(key: &[u8], value_len: usize) -> bool {
    !is_long(key)
        && value_len <= VALUE_INLINE_MAX
        && SLOT_BYTES + LEAF_HEAD + key.len() + value_len <= ENTRY_BYTES_MAX
}

const _: () = assert!(SLOT_BYTES + LEAF_HEAD + KEY_STORED_MAX + RUN_REF_BYTES <= ENTRY_BYTES_MAX);
