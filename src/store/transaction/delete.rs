//! Deleting entries, and joining nodes that have become small.

use super::super::Store;
use super::super::edit::merged_size;
use super::super::frames::FrameId;
use super::super::meta::Root;
use super::super::node::{Child, Node, PAYLOAD, Parts};
use super::super::page::{Corruption, Tree};
use super::Path;

/// A node that uses less looks for a neighbour to be joined with.
const MERGE_BELOW: usize = PAYLOAD / 2;
/// Joined nodes are at most this full, so that the next put does not split them again.
const MERGED_MAX: usize = PAYLOAD / 8 * 7;

impl Store {
    /// Deletes an entry; false if there is none.
    pub fn delete(&mut self, tree: Tree, key: &[u8]) -> Result<bool, Corruption> {
        if self.root_mut(tree).is_empty() {
            return Ok(false);
        }
        let Some(stored) = self.stored_if_there(tree, key)? else { return Ok(false) };
        self.uncommitted = true;
        let path = self.path_for_write(tree, &stored)?;
        let (index, found) = self.dirty(path.leaf).search(&stored);
        if !found {
            return Ok(false);
        }
        let weight = self.dirty(path.leaf).slot(index).has_weight();
        let value_len = self.free_run(path.leaf, index, key.len());
        self.dirty_mut(path.leaf).remove(index);
        self.add_weight(tree, &path, -i64::from(weight));
        let root = self.root_mut(tree);
        root.entries -= 1;
        root.bytes -= (key.len() + value_len) as u64;
        self.shrink_path(tree, &path)?;
        Ok(true)
    }

    /// After an entry of the leaf has gone: empty nodes go, small ones are joined with a neighbour,
    /// up the path.
    pub(super) fn shrink_path(&mut self, tree: Tree, path: &Path) -> Result<(), Corruption> {
        for depth in (1..=path.steps.len()).rev() {
            let frame = path.frame(depth);
            let step = path.steps[depth - 1];
            let node = self.dirty(frame);
            if node.count() == 0 {
                self.free_dirty(frame);
                self.dirty_mut(step.frame).remove(step.index);
                continue;
            }
            if node.used() >= MERGE_BELOW || !self.join(step.frame, step.index)? {
                return Ok(());
            }
        }
        self.shrink_root(tree)
    }

    /// An empty root goes; one with a single child makes place for it.
    fn shrink_root(&mut self, tree: Tree) -> Result<(), Corruption> {
        loop {
            let root = *self.root_mut(tree);
            let node = self.pages.node(root.page, root.stamp, root.level)?;
            if node.count() == 0 {
                self.free_node(root.page, root.stamp, root.level)?;
                *self.root_mut(tree) = Root::default();
                return Ok(());
            }
            if root.level == 0 || node.count() > 1 {
                return Ok(());
            }
            let child = node.child(0);
            self.free_node(root.page, root.stamp, root.level)?;
            let level = root.level - 1;
            *self.root_mut(tree) = Root { page: child.page, stamp: child.stamp, level, ..root };
        }
    }

    /// Joins child `index` of a dirty node with the neighbour it fits together with; false if there
    /// is none.
    fn join(&mut self, parent: FrameId, index: usize) -> Result<bool, Corruption> {
        for left in [index.checked_sub(1), Some(index)].into_iter().flatten() {
            if left + 1 < self.dirty(parent).count() && self.join_pair(parent, left, MERGED_MAX)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Joins the children `at` and `at + 1` of a dirty node if they take at most `bytes_max`
    /// together.
    pub(super) fn join_pair(
        &mut self,
        parent: FrameId,
        at: usize,
        bytes_max: usize,
    ) -> Result<bool, Corruption> {
        let above = self.dirty(parent);
        let level = above.0.level() - 1;
        let (left, right) = (above.child(at), above.child(at + 1));
        let left_node = self.pages.node(left.page, left.stamp, level)?;
        let right_node = self.pages.node(right.page, right.stamp, level)?;
        // Prefixes and separator aside, which is much cheaper and nearly always decides.
        if left_node.used() + right_node.used() > bytes_max {
            return Ok(false);
        }
        let separator = above.key(at + 1);
        let (size, prefix_len) = merged_size(left_node, right_node, separator);
        if size > bytes_max {
            return Ok(false);
        }
        let mut right_copy = self.pages.take_buffer();
        let right_node = self.pages.node(right.page, right.stamp, level)?;
        right_copy.0.copy_from_slice(&right_node.0.0);
        let right_node = Node(&right_copy);

        let frame = self.writable_child(parent, at, level + 1)?;
        let left_copy = self.copy_of(frame);
        let left_node = Node(&left_copy);
        let separator: Vec<u8> = self.dirty(parent).key(at + 1).bytes().collect();
        let separator = Parts(&separator, &[]);
        let mut joined = self.dirty_mut(frame);
        joined.clear();
        let first = if left_node.keyed_from() < left_node.count() {
            left_node.key(left_node.keyed_from())
        } else {
            separator
        };
        joined.set_prefix(first, prefix_len);
        for index in 0..left_node.count() {
            let keyless = index < left_node.keyed_from();
            joined.append(left_node, index, left_node.key(index), keyless);
        }
        for index in 0..right_node.count() {
            let keyless = index < right_node.keyed_from();
            let key = if keyless { separator } else { right_node.key(index) };
            joined.append(right_node, index, key, false);
        }
        self.pages.give_buffer(left_copy);
        self.pages.give_buffer(right_copy);

        let weight = left.weight + right.weight;
        let child = Child { weight, ..self.dirty(parent).child(at) };
        self.dirty_mut(parent).set_child(at, child);
        self.dirty_mut(parent).remove(at + 1);
        self.free_node(right.page, right.stamp, level)?;
        Ok(true)
    }
}
