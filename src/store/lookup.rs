//! Looking up keys that mostly lie near the one looked up before: what was written in order is found in
//! order, a step at a time and without a way down the tree.

use super::long::is_long;
use super::node::{Node, SLOT_BYTES, prefetch_bytes};
use super::page::{Corruption, Page, Tree};
use super::view::{View, value_of};
use std::cell::Cell;
use std::cmp::Ordering;

/// A place in one tree of one state of the store.
pub struct Lookup<'a> {
    view: View<'a>,
    tree: Tree,
    place: Cell<Option<Place<'a>>>,
}

#[derive(Clone, Copy)]
struct Place<'a> {
    /// The node above the leaf, and which of its children the leaf is.
    above: Option<(Node<'a>, usize)>,
    leaf: Node<'a>,
    /// Of the key that was found last, or would have been there.
    index: usize,
    /// The leaf that comes next, where the last ones came one after the other.
    ahead: Option<&'a Page>,
}

impl<'a> Lookup<'a> {
    pub(super) fn new(view: View<'a>, tree: Tree) -> Lookup<'a> {
        Lookup { view, tree, place: Cell::new(None) }
    }

    /// The value of a key.
    pub fn get(&self, key: &[u8]) -> Result<Option<&'a [u8]>, Corruption> {
        if is_long(key) {
            return self.view.get(self.tree, key);
        }
        let near = match self.place.get() {
            Some(place) => self.near(place, key)?,
            None => None,
        };
        let place = match near {
            Some(place) => place,
            None => match self.descend(key)? {
                Some(place) => place,
                None => return Ok(None),
            },
        };
        self.place.set(Some(place));
        let Place { leaf, index, ahead, .. } = place;
        if index < leaf.count() && leaf.key(index).is(key) {
            if let Some(ahead) = ahead {
                prefetch(ahead, leaf, index);
            }
            value_of(self.view.pages, leaf, leaf.slot(index)).map(Some)
        } else {
            Ok(None)
        }
    }

    /// The place of a key in the same leaf, or the next one below the same node, if it is certain to be
    /// there.
    fn near(&self, place: Place<'a>, key: &[u8]) -> Result<Option<Place<'a>>, Corruption> {
        let Place { above, leaf, index, .. } = place;
        let next = index + 1;
        if next < leaf.count() {
            return Ok(match leaf.key(next).cmp(key) {
                Ordering::Equal => Some(Place { index: next, ..place }),
                _ => self.within(place, key),
            });
        }
        if let Some((node, child)) = above
            && child + 2 < node.count()
            && node.key(child + 1).cmp(key).is_le()
            && node.key(child + 2).cmp(key).is_gt()
        {
            let child = child + 1;
            let reference = node.child(child);
            let leaf = self.view.pages.node(reference.page, reference.stamp, 0)?;
            let index = leaf.search(key).0;
            let ahead = self.view.pages.peek(node.child(child + 1).page);
            return Ok(Some(Place { above: Some((node, child)), leaf, index, ahead }));
        }
        Ok(self.within(place, key))
    }

    fn within(&self, place: Place<'a>, key: &[u8]) -> Option<Place<'a>> {
        let (index, found) = place.leaf.search(key);
        let is_inside = found || (index > 0 && index < place.leaf.count());
        is_inside.then_some(Place { index, ..place })
    }

    fn descend(&self, key: &[u8]) -> Result<Option<Place<'a>>, Corruption> {
        let root = self.view.root(self.tree);
        if root.is_empty() {
            return Ok(None);
        }
        let mut above = None;
        let mut node = self.view.pages.node(root.page, root.stamp, root.level)?;
        for level in (0..root.level).rev() {
            let index = node.child_index(key);
            let child = node.child(index);
            above = Some((node, index));
            node = self.view.pages.node(child.page, child.stamp, level)?;
        }
        let index = node.search(key).0;
        Ok(Some(Place { above, leaf: node, index, ahead: None }))
    }
}

/// Asks for the part of the next leaf that lies where an entry lies in this one. Leaves that were filled
/// one after the other are filled alike, so all of the next one is there when its turn comes.
#[inline]
fn prefetch(ahead: &Page, leaf: Node<'_>, index: usize) {
    let slot = leaf.slot(index);
    let payload = leaf.payload(slot);
    if index == 0 {
        prefetch_bytes(ahead, 0..leaf.slots_at() + leaf.count() * SLOT_BYTES);
    }
    prefetch_bytes(ahead, slot.offset()..slot.offset() + payload.len());
}
