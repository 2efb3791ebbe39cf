//! Walking a tree in key order, either way.
//!
//! A cursor is before the first entry, on one, or behind the last. It holds the path to its leaf;
//! nothing below it can change while it lives, as it borrows the store.

use super::long::{is_long, search_key};
use super::meta::Root;
use super::node::{Node, Parts, Slot};
use super::page::Corruption;
use super::page::Tree;
use super::pages::Pages;
use super::run::{self, RunRef};
use super::view::{View, value_of};
use smallvec::SmallVec;

/// A place between or on the entries of a tree.
pub struct Cursor<'a> {
    pages: &'a Pages,
    root: &'a Root,
    /// Inner nodes from the root down, with the child taken.
    path: SmallVec<[(Node<'a>, usize); 6]>,
    place: Place<'a>,
    /// The key of the current entry: the leaf's prefix, then the suffix; or a long key as a whole.
    key: SmallVec<[u8; 96]>,
    has_long_key: bool,
}

#[derive(Clone, Copy)]
enum Place<'a> {
    BeforeFirst,
    On { leaf: Node<'a>, index: usize, slot: Slot },
    BehindLast,
}

/// Which child to take on the way down.
#[derive(Clone, Copy)]
enum Edge {
    First,
    Last,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(view: View<'a>, tree: Tree) -> Cursor<'a> {
        Cursor::over(view.pages, view.root(tree))
    }

    pub(super) fn over(pages: &'a Pages, root: &'a Root) -> Cursor<'a> {
        Cursor {
            pages,
            root,
            path: SmallVec::new(),
            place: Place::BeforeFirst,
            key: SmallVec::new(),
            has_long_key: false,
        }
    }

    /// Goes to the first entry `>= key`; false (and behind the last) if there is none.
    pub fn seek(&mut self, key: &[u8]) -> Result<bool, Corruption> {
        let (stored, _) = search_key(self.pages, self.root, key)?;
        self.seek_stored(&stored)
    }

    /// Goes to the last entry `< key`; false (and before the first) if there is none.
    pub fn seek_before(&mut self, key: &[u8]) -> Result<bool, Corruption> {
        let (stored, _) = search_key(self.pages, self.root, key)?;
        self.seek_before_stored(&stored)
    }

    /// Goes to the first entry `>= key` with weight; false (and behind the last) if there is none.
    pub fn seek_weighted(&mut self, key: &[u8]) -> Result<bool, Corruption> {
        let (stored, _) = search_key(self.pages, self.root, key)?;
        let Some((leaf, index)) = self.descend(&stored)? else { return Ok(false) };
        self.weighted_from(leaf, index)
    }

    /// As [`Cursor::seek`], by a key as nodes have it.
    pub(super) fn seek_stored(&mut self, stored: &[u8]) -> Result<bool, Corruption> {
        let Some((leaf, index)) = self.descend(stored)? else { return Ok(false) };
        if index < leaf.count() {
            self.enter(leaf, index)?;
            return Ok(true);
        }
        self.step_to_leaf(Edge::First)
    }

    /// As [`Cursor::seek_before`], by a key as nodes have it.
    pub(super) fn seek_before_stored(&mut self, stored: &[u8]) -> Result<bool, Corruption> {
        let Some((leaf, index)) = self.descend(stored)? else {
            self.place = Place::BeforeFirst;
            return Ok(false);
        };
        if index > 0 {
            self.enter(leaf, index - 1)?;
            return Ok(true);
        }
        self.step_to_leaf(Edge::Last)
    }

    /// The key of the current entry as its leaf has it.
    pub(super) fn stored(&self) -> Option<Parts<'a>> {
        match self.place {
            Place::On { leaf, index, .. } => Some(leaf.key(index)),
            Place::BeforeFirst | Place::BehindLast => None,
        }
    }

    /// Flags and payload of the current entry as its leaf has them.
    pub(super) fn stored_entry(&self) -> Option<(u8, &'a [u8])> {
        match self.place {
            Place::On { leaf, slot, .. } => Some((slot.flags(), leaf.payload(slot))),
            Place::BeforeFirst | Place::BehindLast => None,
        }
    }

    pub fn first(&mut self) -> Result<bool, Corruption> {
        self.start(Edge::First)
    }

    pub fn last(&mut self) -> Result<bool, Corruption> {
        self.start(Edge::Last)
    }

    /// Goes to the next entry: the first one from before it. False behind the last.
    #[expect(clippy::should_implement_trait, reason = "an iterator cannot lend its key")]
    #[inline]
    pub fn next(&mut self) -> Result<bool, Corruption> {
        match self.place {
            Place::On { leaf, index, .. } => {
                if index + 1 < leaf.count() {
                    self.stay(leaf, index + 1)?;
                    return Ok(true);
                }
                self.step_to_leaf(Edge::First)
            }
            Place::BeforeFirst => self.first(),
            Place::BehindLast => Ok(false),
        }
    }

    /// Goes to the entry before: the last one from behind it. False before the first.
    #[inline]
    pub fn prev(&mut self) -> Result<bool, Corruption> {
        match self.place {
            Place::On { leaf, index, .. } => {
                if index > 0 {
                    self.stay(leaf, index - 1)?;
                    return Ok(true);
                }
                self.step_to_leaf(Edge::Last)
            }
            Place::BeforeFirst => Ok(false),
            Place::BehindLast => self.last(),
        }
    }

    /// Goes to the next entry with weight. Subtrees without any are not read.
    pub fn next_weighted(&mut self) -> Result<bool, Corruption> {
        match self.place {
            Place::On { leaf, index, .. } => {
                match (index + 1..leaf.count()).find(|index| leaf.slot(*index).has_weight()) {
                    Some(index) => self.stay(leaf, index).map(|()| true),
                    None => self.weighted_from(leaf, leaf.count()),
                }
            }
            Place::BeforeFirst => {
                self.path.clear();
                if self.root.weight == 0 {
                    self.place = Place::BehindLast;
                    return Ok(false);
                }
                let root = self.pages.node(self.root.page, self.root.stamp, self.root.level)?;
                self.weighted_below(root, self.root.level)
            }
            Place::BehindLast => Ok(false),
        }
    }

    pub fn is_on_entry(&self) -> bool {
        matches!(self.place, Place::On { .. })
    }

    /// The key of the current entry; empty if there is none.
    #[inline]
    pub fn key(&self) -> &[u8] {
        if self.is_on_entry() { &self.key } else { &[] }
    }

    /// The value of the current entry; empty if there is none.
    #[inline]
    pub fn value(&self) -> Result<&'a [u8], Corruption> {
        match self.place {
            Place::On { leaf, slot, .. } => value_of(self.pages, leaf, slot),
            Place::BeforeFirst | Place::BehindLast => Ok(&[]),
        }
    }

    /// Whether the current entry has weight.
    pub fn weight(&self) -> bool {
        matches!(self.place, Place::On { slot, .. } if slot.has_weight())
    }

    /// Takes the path to the leaf that covers `key`; the leaf and the index of its first entry `>=
    /// key`. None (and behind the last) in an empty tree.
    fn descend(&mut self, key: &[u8]) -> Result<Option<(Node<'a>, usize)>, Corruption> {
        self.path.clear();
        self.place = Place::BehindLast;
        if self.root.is_empty() {
            return Ok(None);
        }
        let mut node = self.pages.node(self.root.page, self.root.stamp, self.root.level)?;
        for level in (0..self.root.level).rev() {
            let index = node.child_index(key);
            self.path.push((node, index));
            let child = node.child(index);
            node = self.pages.node(child.page, child.stamp, level)?;
        }
        Ok(Some((node, node.search(key).0)))
    }

    fn start(&mut self, edge: Edge) -> Result<bool, Corruption> {
        self.path.clear();
        self.place = match edge {
            Edge::First => Place::BehindLast,
            Edge::Last => Place::BeforeFirst,
        };
        if self.root.is_empty() {
            return Ok(false);
        }
        let node = self.pages.node(self.root.page, self.root.stamp, self.root.level)?;
        self.edge_below(node, self.root.level, edge)
    }

    /// Goes to the first or last entry below `node`. No node is empty.
    fn edge_below(
        &mut self,
        mut node: Node<'a>,
        level: u8,
        edge: Edge,
    ) -> Result<bool, Corruption> {
        for level in (0..level).rev() {
            let index = match edge {
                Edge::First => 0,
                Edge::Last => node.count() - 1,
            };
            self.path.push((node, index));
            let child = node.child(index);
            node = self.pages.node(child.page, child.stamp, level)?;
        }
        let index = match edge {
            Edge::First => 0,
            Edge::Last => node.count() - 1,
        };
        self.enter(node, index)?;
        Ok(true)
    }

    /// Leaves the current leaf for the next (`First`: by its first entry) or the one before
    /// (`Last`).
    fn step_to_leaf(&mut self, edge: Edge) -> Result<bool, Corruption> {
        while let Some((node, index)) = self.path.pop() {
            let index = match edge {
                Edge::First if index + 1 < node.count() => index + 1,
                Edge::Last if index > 0 => index - 1,
                Edge::First | Edge::Last => continue,
            };
            self.path.push((node, index));
            let child = node.child(index);
            let level = node.0.level() - 1;
            let below = self.pages.node(child.page, child.stamp, level)?;
            return self.edge_below(below, level, edge);
        }
        self.place = match edge {
            Edge::First => Place::BehindLast,
            Edge::Last => Place::BeforeFirst,
        };
        Ok(false)
    }

    /// Goes to the first entry with weight at or behind entry `index` of `leaf`, at the end of the
    /// path.
    fn weighted_from(&mut self, leaf: Node<'a>, index: usize) -> Result<bool, Corruption> {
        if let Some(index) = (index..leaf.count()).find(|i| leaf.slot(*i).has_weight()) {
            self.enter(leaf, index)?;
            return Ok(true);
        }
        while let Some((node, index)) = self.path.pop() {
            let next = (index + 1..node.count()).find(|index| node.child(*index).weight > 0);
            let Some(index) = next else { continue };
            self.path.push((node, index));
            let child = node.child(index);
            let level = node.0.level() - 1;
            let below = self.pages.node(child.page, child.stamp, level)?;
            return self.weighted_below(below, level);
        }
        self.place = Place::BehindLast;
        Ok(false)
    }

    /// Goes to the first entry with weight below `node`, which has some.
    fn weighted_below(&mut self, mut node: Node<'a>, level: u8) -> Result<bool, Corruption> {
        for level in (0..level).rev() {
            let Some(index) = (0..node.count()).find(|index| node.child(*index).weight > 0) else {
                return Err(missing_weight(node));
            };
            self.path.push((node, index));
            let child = node.child(index);
            node = self.pages.node(child.page, child.stamp, level)?;
        }
        let Some(index) = (0..node.count()).find(|index| node.slot(*index).has_weight()) else {
            return Err(missing_weight(node));
        };
        self.enter(node, index)?;
        Ok(true)
    }

    /// Goes to an entry of a leaf that may not be the current one.
    fn enter(&mut self, leaf: Node<'a>, index: usize) -> Result<(), Corruption> {
        self.has_long_key = false;
        self.key.clear();
        self.key.extend_from_slice(leaf.prefix());
        self.stay(leaf, index)
    }

    /// Goes to another entry of the current leaf.
    #[inline]
    fn stay(&mut self, leaf: Node<'a>, index: usize) -> Result<(), Corruption> {
        if self.has_long_key {
            return self.enter(leaf, index);
        }
        let slot = leaf.slot(index);
        self.key.truncate(leaf.prefix_len());
        self.key.extend_from_slice(leaf.leaf_suffix(slot));
        self.place = Place::On { leaf, index, slot };
        if is_long(&self.key) { self.take_long_key(leaf, slot) } else { Ok(()) }
    }

    /// The key of the current entry is what a stand-in stands for.
    #[cold]
    fn take_long_key(&mut self, leaf: Node<'a>, slot: Slot) -> Result<(), Corruption> {
        let run = self.pages.run(RunRef::read(leaf.payload(slot)))?;
        self.has_long_key = true;
        self.key.clear();
        self.key.extend_from_slice(run::key(run));
        Ok(())
    }
}

fn missing_weight(node: Node<'_>) -> Corruption {
    Corruption::new(node.0.header().page, "a subtree has less weight than its parent says")
}
