//! Splitting a node that is full.

use super::super::Store;
use super::super::edit::{NewEntry, NewKind, prefix_with, split_point, virtual_key};
use super::super::frames::FrameId;
use super::super::limits::HEIGHT_MAX;
use super::super::node::Node;
use super::super::page::{Page, Tree};
use super::Path;
use smallvec::SmallVec;
use std::ops::Range;

/// A key on the stack, mostly.
pub(super) type Key = SmallVec<[u8; 64]>;

impl Store {
    pub(super) fn copy_of(&mut self, frame: FrameId) -> Box<Page> {
        let mut copy = self.pages.take_buffer();
        copy.0.copy_from_slice(&self.pages.dirty(frame).0);
        copy
    }

    /// Splits the node at `depth` of the path in two, inserts the entry into one of them, and tells
    /// the parent. The upper part gets a new page.
    #[cold]
    pub(super) fn split(
        &mut self,
        tree: Tree,
        path: &Path,
        depth: usize,
        index: usize,
        entry: &NewEntry<'_>,
    ) -> (FrameId, Range<usize>) {
        let left = path.frame(depth);
        let right_edge =
            path.steps[..depth].iter().all(|step| step.index + 1 == self.dirty(step.frame).count());
        let copy = self.copy_of(left);
        let node = Node(&copy);
        let count = node.count();
        let inner = !node.is_leaf();
        let right = self.new_node(tree, node.0.level());

        // Of the entries with the new one among them, `kept` stay; of the old ones alone,
        // `kept_old`.
        let kept = split_point(node, index, entry, right_edge);
        let stays = index < kept;
        let kept_old = kept - usize::from(stays);
        let separator = separator(node, index, entry, kept);

        let prefix = prefix_with(node, index, entry, kept..count + 1, inner);
        let loses_key = inner && index != kept;
        self.dirty_mut(right).rebuild(node, kept_old..count, prefix, loses_key);
        if kept_old < count || stays {
            let prefix = prefix_with(node, index, entry, 0..kept, false);
            self.dirty_mut(left).rebuild(node, 0..kept_old, prefix, false);
        }
        let place = if stays {
            (left, self.dirty_mut(left).insert(index, entry))
        } else {
            (right, self.dirty_mut(right).insert(index - kept, entry))
        };
        self.pages.give_buffer(copy);
        self.add_sibling(tree, path, depth, right, &separator);
        place
    }

    /// Tells the parent of the node at `depth` of its new sibling.
    fn add_sibling(
        &mut self,
        tree: Tree,
        path: &Path,
        depth: usize,
        right: FrameId,
        separator: &[u8],
    ) {
        let weight = self.dirty(right).weight();
        let child = self.reference(right, weight);
        let entry = NewEntry { key: separator, kind: NewKind::Inner(child), flags: 0 };
        if let Some(above) = depth.checked_sub(1) {
            let step = path.steps[above];
            self.dirty_mut(step.frame).add_weight(step.index, -(weight as i64));
            self.insert(tree, path, above, step.index + 1, &entry);
            return;
        }
        let total = self.root_mut(tree).weight;
        let left = self.reference(path.frame(depth), total - weight);
        let level = self.root_mut(tree).level + 1;
        assert!(usize::from(level) < HEIGHT_MAX, "a tree of {level} levels");
        let top = self.new_node(tree, level);
        let first = NewEntry { key: &[], kind: NewKind::Inner(left), flags: 0 };
        self.dirty_mut(top).insert(0, &first);
        self.dirty_mut(top).insert(1, &entry);
        let child = self.reference(top, total);
        let root = self.root_mut(tree);
        (root.page, root.stamp, root.level) = (child.page, child.stamp, level);
    }
}

/// What separates the halves: the shortest key above the left one's last and not above the right
/// one's first. In an inner node it is the key of the right one's first entry, which loses it.
fn separator(node: Node<'_>, index: usize, entry: &NewEntry<'_>, kept: usize) -> Key {
    let first = virtual_key(node, index, entry, kept);
    let length = if node.is_leaf() {
        virtual_key(node, index, entry, kept - 1).common_prefix(first) + 1
    } else {
        first.len()
    };
    first.bytes().take(length).collect()
}
