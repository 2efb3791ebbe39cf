//! Filling leaves. Puts and deletes at random leave them two thirds full; this goes through a tree
//! from left to right and moves entries into the leaf before, where that saves a page.

use super::super::Store;
use super::super::edit::{NewEntry, NewKind};
use super::super::limits::TREES;
use super::super::node::{Child, Node, PAYLOAD, prefix_bytes};
use super::super::page::{Corruption, Tree};
use super::split::Key;

/// Leaves looked at together. Where this many do not fit into one less, they are full enough: then
/// they are filled to more than 85 %.
const WINDOW: usize = 12;
/// A leaf is filled up to this, so that a put does not split it at once.
const FILL: usize = PAYLOAD / 16 * 15;

/// Where packing goes on: a tree, and a key in it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct PackPosition {
    tree: u8,
    key: Vec<u8>,
}

/// What a step has done.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct PackProgress {
    /// Leaves looked at or changed.
    pub visited_pages: u32,
    pub saved_pages: u32,
    /// The end of the last tree has been reached; the next step begins at the first one.
    pub wrapped: bool,
}

/// What became of a leaf and its right neighbour.
enum ToppedUp {
    /// They are one.
    Joined,
    /// The right one begins here now.
    Moved(Key),
    /// The leaf has no right neighbour under its parent.
    Last,
}

impl Store {
    /// Packs about `budget_pages` leaves from a position on, and moves it. Stops at the end of the
    /// last tree. If the open transaction had no changes, the moves are committed under the mark of
    /// the last commit.
    pub fn pack_step(
        &mut self,
        at: &mut PackPosition,
        budget_pages: u32,
    ) -> Result<PackProgress, Corruption> {
        let open_before = self.uncommitted;
        let mut progress = PackProgress::default();
        while progress.visited_pages < budget_pages && !progress.wrapped {
            self.pack_at(at, &mut progress)?;
        }
        self.commit_moves(open_before);
        Ok(progress)
    }

    fn pack_at(
        &mut self,
        at: &mut PackPosition,
        progress: &mut PackProgress,
    ) -> Result<(), Corruption> {
        let tree = Tree(at.tree);
        let root = *self.root_mut(tree);
        progress.visited_pages += 1;
        if root.level == 0 {
            next_tree(at, progress);
            return Ok(());
        }
        let mut node = self.pages.node(root.page, root.stamp, root.level)?;
        let mut end: Option<Key> = None;
        for level in (1..root.level).rev() {
            let index = node.child_index(&at.key);
            if index + 1 < node.count() {
                end = Some(node.key(index + 1).bytes().collect());
            }
            let child = node.child(index);
            node = self.pages.node(child.page, child.stamp, level)?;
        }
        let index = node.child_index(&at.key);
        let leaves = (node.count() - index).min(WINDOW);
        if self.leaves_needed(node, index, leaves)? < leaves {
            progress.visited_pages += leaves as u32;
            return self.pack_window(tree, leaves, at, progress);
        }
        if index + 1 < node.count() {
            at.key = node.key(index + 1).bytes().collect();
        } else if let Some(end) = end {
            at.key = end.to_vec();
        } else {
            next_tree(at, progress);
        }
        Ok(())
    }

    /// Into how many leaves the `leaves` children of `parent` from `index` on would go.
    fn leaves_needed(
        &self,
        parent: Node<'_>,
        index: usize,
        leaves: usize,
    ) -> Result<usize, Corruption> {
        let mut nodes = Vec::with_capacity(leaves);
        let mut used = 0;
        for child in (index..index + leaves).map(|index| parent.child(index)) {
            let node = self.pages.node(child.page, child.stamp, 0)?;
            used += node.used();
            nodes.push(node);
        }
        if leaves < 2 || used > (leaves - 1) * PAYLOAD {
            return Ok(leaves);
        }
        // With no more of a prefix than all of them share: what is counted on here does come true.
        let last = nodes[leaves - 1];
        let shared = nodes[0].key(0).common_prefix(last.key(last.count() - 1));
        let (mut needed, mut filled) = (1, prefix_bytes(shared));
        for node in nodes {
            for index in 0..node.count() {
                let bytes = node.entry_bytes(index) + node.prefix_len().saturating_sub(shared);
                if !has_room(filled, bytes) {
                    needed += 1;
                    filled = prefix_bytes(shared);
                }
                filled += bytes;
            }
        }
        Ok(needed)
    }

    /// Fills the leaf at a position from those behind it, then the next one, for `leaves` of them.
    fn pack_window(
        &mut self,
        tree: Tree,
        leaves: usize,
        at: &mut PackPosition,
        progress: &mut PackProgress,
    ) -> Result<(), Corruption> {
        self.uncommitted = true;
        for _ in 1..leaves {
            match self.top_up(tree, &at.key)? {
                ToppedUp::Joined => progress.saved_pages += 1,
                ToppedUp::Moved(key) => at.key = key.to_vec(),
                ToppedUp::Last => break,
            }
        }
        Ok(())
    }

    /// Moves entries to the leaf that covers `key` from its right neighbour under the same parent,
    /// as many as it takes.
    fn top_up(&mut self, tree: Tree, key: &[u8]) -> Result<ToppedUp, Corruption> {
        if self.root_mut(tree).level == 0 {
            return Ok(ToppedUp::Last);
        }
        let path = self.path_to_level(tree, key, 1)?;
        let parent = path.leaf;
        let index = self.dirty(parent).child_index(key);
        if index + 1 >= self.dirty(parent).count() {
            return Ok(ToppedUp::Last);
        }
        if self.join_pair(parent, index, FILL)? {
            self.shrink_path(tree, &path)?;
            return Ok(ToppedUp::Joined);
        }
        let left = self.writable_child(parent, index, 1)?;
        let right = self.writable_child(parent, index + 1, 1)?;
        let (left_copy, right_copy) = (self.copy_of(left), self.copy_of(right));
        let (left_node, right_node) = (Node(&left_copy), Node(&right_copy));
        let (moved, prefix_len) = entries_that_fit(left_node, right_node);
        if moved == 0 {
            let separator = self.dirty(parent).key(index + 1).bytes().collect();
            return Ok(ToppedUp::Moved(separator));
        }
        let mut filled = self.dirty_mut(left);
        filled.clear();
        filled.set_prefix(left_node.key(0), prefix_len);
        for index in 0..left_node.count() {
            filled.append(left_node, index, left_node.key(index), false);
        }
        for index in 0..moved {
            filled.append(right_node, index, right_node.key(index), false);
        }
        let first = right_node.key(moved);
        let rest = right_node.count() - moved;
        let rest_prefix =
            if rest > 1 { first.common_prefix(right_node.key(right_node.count() - 1)) } else { 0 };
        self.dirty_mut(right).rebuild(right_node, moved..moved + rest, rest_prefix, false);
        let length = right_node.key(moved - 1).common_prefix(first) + 1;
        let separator: Key = first.bytes().take(length).collect();
        let moved_weight = right_node.weight_before(moved);
        self.pages.give_buffer(left_copy);
        self.pages.give_buffer(right_copy);

        let left_child = self.dirty(parent).child(index);
        let right_child = self.dirty(parent).child(index + 1);
        let mut above = self.dirty_mut(parent);
        let weight = left_child.weight + moved_weight;
        above.set_child(index, Child { weight, ..left_child });
        above.remove(index + 1);
        let weight = right_child.weight - moved_weight;
        let kind = NewKind::Inner(Child { weight, ..right_child });
        let entry = NewEntry { key: &separator, kind, flags: 0 };
        self.insert(tree, &path, path.steps.len(), index + 1, &entry);
        Ok(ToppedUp::Moved(separator))
    }
}

fn next_tree(at: &mut PackPosition, progress: &mut PackProgress) {
    at.key.clear();
    at.tree = (at.tree + 1) % TREES as u8;
    progress.wrapped = at.tree == 0;
}

/// Whether an entry goes to a leaf that is filled so far. The last bit of a leaf is left free; but
/// not for want of a small part of a large entry.
fn has_room(filled: usize, entry_bytes: usize) -> bool {
    let filled = filled + entry_bytes;
    filled <= FILL || (filled <= PAYLOAD && entry_bytes > PAYLOAD - FILL)
}

/// How many entries of `right` go to `left`, at least one staying, and the prefix length of `left`
/// then.
fn entries_that_fit(left: Node<'_>, right: Node<'_>) -> (usize, usize) {
    // Slots and cells as they were without a prefix.
    let mut full = left.used() - prefix_bytes(left.prefix_len()) + left.count() * left.prefix_len();
    let first = left.key(0);
    let mut best = (0, 0);
    for index in 0..right.count() - 1 {
        let entry_bytes = right.entry_bytes(index) + right.prefix_len();
        let prefix = first.common_prefix(right.key(index));
        let before = full - prefix * left.count() - prefix * index + prefix_bytes(prefix);
        if !has_room(before, entry_bytes - prefix) {
            break;
        }
        full += entry_bytes;
        best = (index + 1, prefix);
    }
    best
}
