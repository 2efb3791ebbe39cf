//! Putting an entry that depends on the one behind it: one way down the tree for both.

use super::super::Store;
use super::super::limits::{KEY_INLINE_MAX, VALUE_BYTES_MAX};
use super::super::long::is_long;
use super::super::node::{FLAG_WEIGHT, Node, Parts, Slot};
use super::super::page::{Corruption, Tree};
use super::super::view::value_of;
use super::Path;
use super::write::Spot;

/// The place of a key that is not there. All above it is writable, so that it can be put without
/// searching again.
pub struct Opening<'s, 'k> {
    store: &'s mut Store,
    tree: Tree,
    key: &'k [u8],
    path: Path,
    index: usize,
}

impl Store {
    /// The place of a key, for who wants to know what is behind it before it is put. `None` where
    /// the key has to be put in the usual way: it is there, it or what is behind it is long, or what
    /// is behind it lies in another leaf.
    pub fn opening<'s, 'k>(
        &'s mut self,
        tree: Tree,
        key: &'k [u8],
    ) -> Result<Option<Opening<'s, 'k>>, Corruption> {
        if is_long(key) || self.root_mut(tree).is_empty() {
            return Ok(None);
        }
        let path = self.path_for_put(tree, key, 0)?;
        let leaf = self.dirty(path.leaf);
        let (index, is_there) = leaf.search(key);
        let is_last =
            || path.steps.iter().all(|step| step.index + 1 == self.dirty(step.frame).count());
        let is_known = match index < leaf.count() {
            true => leaf.key(index).len() <= KEY_INLINE_MAX,
            false => is_last(),
        };
        if is_there || !is_known {
            return Ok(None);
        }
        Ok(Some(Opening { store: self, tree, key, path, index }))
    }
}

impl Opening<'_, '_> {
    fn leaf(&self) -> Node<'_> {
        self.store.dirty(self.path.leaf)
    }

    fn behind(&self) -> Option<Slot> {
        (self.index < self.leaf().count()).then(|| self.leaf().slot(self.index))
    }

    /// The key behind the place; empty at the end of the tree.
    pub fn next_key(&self) -> (&[u8], &[u8]) {
        match self.behind() {
            Some(_) => {
                let Parts(first, second) = self.leaf().key(self.index);
                (first, second)
            }
            None => (&[], &[]),
        }
    }

    /// The value of the key behind the place; empty at the end of the tree.
    pub fn next_value(&self) -> Result<&[u8], Corruption> {
        match self.behind() {
            Some(slot) => value_of(&self.store.pages, self.leaf(), slot),
            None => Ok(&[]),
        }
    }

    /// Whether `key` is behind the place.
    pub(super) fn is_before(&self, key: &[u8]) -> bool {
        let (first, second) = self.next_key();
        Parts(first, second).is(key)
    }

    /// Puts the key, and takes the weight off the one behind it if that is wanted.
    ///
    /// # Panics
    /// As [`Store::put`]; or if there is nothing behind it to take the weight off.
    pub fn put(self, value: &[u8], weight: bool, takes_weight: bool) {
        assert!(value.len() <= VALUE_BYTES_MAX, "a value of {} bytes", value.len());
        let mut weight_gone = 0;
        if takes_weight {
            let slot = self.behind().expect("an entry behind the place");
            weight_gone = i64::from(slot.has_weight());
            let mut leaf = self.store.dirty_mut(self.path.leaf);
            leaf.set_flags(self.index, slot.flags() & !FLAG_WEIGHT);
        }
        let Opening { store, tree, key, path, index } = self;
        let spot = Spot { path: &path, stored: key, index, found: false, weight_gone };
        let fill = |place: &mut [u8]| place.copy_from_slice(value);
        store.put_at(tree, spot, key, value.len(), weight, fill);
    }
}
