//! Changing the trees: the one open write transaction.
//!
//! A write goes from the root down and makes every page of the path writable on its way: a page
//! that some pinned tree contains is copied to a new place (once per pin), one that was allocated
//! since the newest pin is changed where it is. So when the leaf is reached, the whole path can be
//! changed in place.

mod delete;
mod long;
mod opening;
mod pack;
mod relocate;
mod split;
mod write;

pub use opening::Opening;
pub use pack::{PackPosition, PackProgress};

use super::Store;
use super::edit::{NodeMut, kind_of};
use super::frames::FrameId;
use super::free::Freed;
use super::meta::Root;
use super::node::{Child, Node};
use super::page::{Corruption, Header, PageId, Tree};
use smallvec::SmallVec;

/// A path from the root to a leaf, all writable.
struct Path {
    steps: SmallVec<[Step; 8]>,
    leaf: FrameId,
}

#[derive(Clone, Copy)]
struct Step {
    frame: FrameId,
    /// The child taken.
    index: usize,
}

impl Path {
    /// The frame at a depth; the leaf is below all steps.
    fn frame(&self, depth: usize) -> FrameId {
        self.steps.get(depth).map_or(self.leaf, |step| step.frame)
    }
}

impl Store {
    fn root_mut(&mut self, tree: Tree) -> &mut Root {
        &mut self.roots[usize::from(tree.0)]
    }

    /// A dirty node.
    #[inline]
    fn dirty(&self, frame: FrameId) -> Node<'_> {
        Node(self.pages.dirty(frame))
    }

    #[inline]
    fn dirty_mut(&mut self, frame: FrameId) -> NodeMut<'_> {
        NodeMut(self.pages.dirty_mut(frame))
    }

    /// Reference to a dirty node.
    fn reference(&self, frame: FrameId, weight: u64) -> Child {
        let frame = self.pages.frame(frame);
        Child { page: frame.first, stamp: frame.allocated.stamp(), weight }
    }

    /// A new, empty node.
    fn new_node(&mut self, tree: Tree, level: u8) -> FrameId {
        let page = self.space.allocate(&mut self.pages);
        let frame = self.pages.add_frame(page, self.txn);
        let header = Header { page, txn: self.txn, kind: kind_of(level), level, tree };
        self.pages.dirty_mut(frame).set_header(&header);
        self.dirty_mut(frame).clear();
        frame
    }

    /// Frees a node's page.
    fn free_node(&mut self, page: PageId, stamp: u32, level: u8) -> Result<(), Corruption> {
        let allocated = self.pages.node(page, stamp, level)?.txn();
        let freed = Freed { first: page, pages: 1, allocated, freed: self.txn };
        self.space.release(&mut self.pages, freed);
        Ok(())
    }

    /// Frees the page of a dirty node.
    fn free_dirty(&mut self, frame: FrameId) {
        let frame = self.pages.frame(frame);
        let (first, allocated) = (frame.first, frame.allocated);
        let freed = Freed { first, pages: 1, allocated, freed: self.txn };
        self.space.release(&mut self.pages, freed);
    }

    /// The node as one that can be changed in place: itself if no pinned tree contains it, else a
    /// copy, which the caller has to tell the parent about.
    #[inline]
    fn writable(&mut self, page: PageId, stamp: u32, level: u8) -> Result<FrameId, Corruption> {
        if let Some(frame) = self.pages.frame_of(page)
            && self.pages.frame(frame).allocated > self.space.writable_above()
        {
            return Ok(frame);
        }
        self.copy(page, stamp, level)
    }

    #[cold]
    fn copy(&mut self, page: PageId, stamp: u32, level: u8) -> Result<FrameId, Corruption> {
        let allocated = self.pages.node(page, stamp, level)?.txn();
        if allocated <= self.space.checkpointed_txn() {
            self.rewritten_pages += 1;
        }
        let to = self.space.allocate(&mut self.pages);
        let frame = self.pages.add_copy(page, to, self.txn);
        let freed = Freed { first: page, pages: 1, allocated, freed: self.txn };
        self.space.release(&mut self.pages, freed);
        Ok(frame)
    }

    /// The writable root of a tree that is not empty.
    fn writable_root(&mut self, tree: Tree) -> Result<FrameId, Corruption> {
        let root = *self.root_mut(tree);
        let frame = self.writable(root.page, root.stamp, root.level)?;
        let child = self.reference(frame, root.weight);
        let root = self.root_mut(tree);
        (root.page, root.stamp) = (child.page, child.stamp);
        Ok(frame)
    }

    /// The writable child `index` of a dirty node at `level`.
    #[inline]
    fn writable_child(
        &mut self,
        parent: FrameId,
        index: usize,
        level: u8,
    ) -> Result<FrameId, Corruption> {
        let child = self.dirty(parent).child(index);
        let frame = self.writable(child.page, child.stamp, level - 1)?;
        let now = self.reference(frame, child.weight);
        if now != child {
            self.dirty_mut(parent).set_child(index, now);
        }
        Ok(frame)
    }

    /// The path to the leaf that covers `key`, all of it writable. The tree is not empty.
    fn path_for_write(&mut self, tree: Tree, key: &[u8]) -> Result<Path, Corruption> {
        self.path_to_level(tree, key, 0)
    }

    /// The path to the node at `lowest` that covers `key`, all of it writable. The tree is at least
    /// that high.
    fn path_to_level(&mut self, tree: Tree, key: &[u8], lowest: u8) -> Result<Path, Corruption> {
        let mut steps = SmallVec::new();
        let mut frame = self.writable_root(tree)?;
        for level in (lowest + 1..=self.root_mut(tree).level).rev() {
            let index = self.dirty(frame).child_index(key);
            steps.push(Step { frame, index });
            frame = self.writable_child(frame, index, level)?;
        }
        Ok(Path { steps, leaf: frame })
    }

    /// Adds to the weights above a leaf, the tree's included.
    #[inline]
    fn add_weight(&mut self, tree: Tree, path: &Path, change: i64) {
        if change == 0 {
            return;
        }
        for step in &path.steps {
            self.dirty_mut(step.frame).add_weight(step.index, change);
        }
        let root = self.root_mut(tree);
        root.weight =
            root.weight.checked_add_signed(change).expect("a tree has a weight below zero");
    }
}
