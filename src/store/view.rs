//! Reading one state of the store: the live one, or that of a snapshot.

use super::cursor::Cursor;
use super::long::search_key;
use super::lookup::Lookup;
use super::meta::{Root, Roots};
use super::node::{FLAG_RUN, Node, Slot};
use super::page::{Corruption, Tree};
use super::pages::Pages;
use super::run::{self, RunRef};

/// One state of the store, as long as the store is borrowed. Cheap to copy.
#[derive(Clone, Copy)]
pub struct View<'a> {
    pub(super) pages: &'a Pages,
    pub(super) roots: &'a Roots,
}

impl<'a> View<'a> {
    pub(super) fn root(self, tree: Tree) -> &'a Root {
        &self.roots[usize::from(tree.0)]
    }

    /// The value of a key. Allocates nothing and copies nothing.
    pub fn get(self, tree: Tree, key: &[u8]) -> Result<Option<&'a [u8]>, Corruption> {
        let (key, can_be) = search_key(self.pages, self.root(tree), key)?;
        let Some(leaf) = self.leaf_of(tree, &key)?.filter(|_| can_be) else { return Ok(None) };
        match leaf.search(&key) {
            (index, true) => value_of(self.pages, leaf, leaf.slot(index)).map(Some),
            (_, false) => Ok(None),
        }
    }

    /// Whether the key is there.
    pub fn contains(self, tree: Tree, key: &[u8]) -> Result<bool, Corruption> {
        let (key, can_be) = search_key(self.pages, self.root(tree), key)?;
        Ok(can_be && self.leaf_of(tree, &key)?.is_some_and(|leaf| leaf.search(&key).1))
    }

    /// The leaf that covers a key; none for an empty tree.
    fn leaf_of(self, tree: Tree, key: &[u8]) -> Result<Option<Node<'a>>, Corruption> {
        let root = self.root(tree);
        if root.is_empty() {
            return Ok(None);
        }
        let mut node = self.pages.node(root.page, root.stamp, root.level)?;
        for level in (0..root.level).rev() {
            let child = node.child(node.child_index(key));
            node = self.pages.node(child.page, child.stamp, level)?;
        }
        Ok(Some(node))
    }

    /// Sum of the weights of the entries whose keys are smaller than `key`.
    pub fn rank(self, tree: Tree, key: &[u8]) -> Result<u64, Corruption> {
        let root = self.root(tree);
        if root.is_empty() {
            return Ok(0);
        }
        let (key, _) = search_key(self.pages, root, key)?;
        let mut node = self.pages.node(root.page, root.stamp, root.level)?;
        let mut rank = 0;
        for level in (0..root.level).rev() {
            let index = node.child_index(&key);
            rank += node.weight_before(index);
            let child = node.child(index);
            node = self.pages.node(child.page, child.stamp, level)?;
        }
        Ok(rank + node.weight_before(node.search(&key).0))
    }

    /// Sum of the weights of all entries of a tree.
    pub fn weight(self, tree: Tree) -> u64 {
        self.root(tree).weight
    }

    /// Number of entries of a tree.
    pub fn entries(self, tree: Tree) -> u64 {
        self.root(tree).entries
    }

    /// Sum of the lengths of all keys and values of a tree.
    pub fn bytes(self, tree: Tree) -> u64 {
        self.root(tree).bytes
    }

    /// For values of keys that mostly lie near each other.
    pub fn lookup(self, tree: Tree) -> Lookup<'a> {
        Lookup::new(self, tree)
    }

    /// A cursor before the first entry.
    pub fn cursor(self, tree: Tree) -> Cursor<'a> {
        Cursor::new(self, tree)
    }
}

/// The value of a leaf's entry, wherever it lies.
#[inline]
pub(super) fn value_of<'a>(
    pages: &'a Pages,
    leaf: Node<'a>,
    slot: Slot,
) -> Result<&'a [u8], Corruption> {
    let payload = leaf.payload(slot);
    if slot.flags() & FLAG_RUN == 0 {
        return Ok(payload);
    }
    Ok(run::value(pages.run(RunRef::read(payload))?))
}
