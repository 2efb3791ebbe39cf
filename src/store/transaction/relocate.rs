//! Moving a live page to one nearer the start of the file: an ordinary write that changes nothing.

use super::super::Store;
use super::super::free::Freed;
use super::super::node::{FLAG_RUN, Node};
use super::super::page::{Corruption, KIND_INNER, KIND_LEAF, KIND_RUN, PageId};
use super::super::run::{self, RunRef};
use super::Path;

impl Store {
    /// Moves the node or run that begins at `page` to available pages below it; how many pages have
    /// been moved. None if it has no place there.
    pub(in super::super) fn relocate(&mut self, page: PageId) -> Result<u32, Corruption> {
        match self.pages.read(page)?.kind() {
            KIND_LEAF | KIND_INNER => self.relocate_node(page),
            KIND_RUN => self.relocate_run(page),
            _ => Err(Corruption::new(page, "a live page is of no kind that can be moved")),
        }
    }

    fn relocate_node(&mut self, page: PageId) -> Result<u32, Corruption> {
        if self.space.first_available().is_none_or(|first| first > page) {
            return Ok(0);
        }
        let node = Node(self.pages.read(page)?);
        let (tree, level) = (node.0.tree(), node.0.level());
        let key = self.first_key_below(node)?;
        self.expect_owner(
            self.view()
                .roots
                .get(usize::from(tree.0))
                .is_some_and(|root| !root.is_empty() && root.level >= level),
            page,
        )?;
        self.uncommitted = true;
        let path = self.path_to_level(tree, &key, level)?;
        let frame = path.leaf;
        if self.pages.frame(frame).first != page {
            // It was not writable where it was, and so has been copied on the way down.
            return Ok(1);
        }
        let old = self.pages.frame(frame).allocated;
        if self.space.first_available().is_none_or(|first| first > page) {
            // The nodes above it have taken what there was.
            return Ok(0);
        }
        let to = self.space.allocate(&mut self.pages);
        self.pages.renumber(frame, to, self.txn);
        let freed = Freed { first: page, pages: 1, allocated: old, freed: self.txn };
        self.space.release(&mut self.pages, freed);
        match path.steps.last() {
            Some(step) => {
                let weight = self.dirty(step.frame).child(step.index).weight;
                let child = self.reference(frame, weight);
                self.dirty_mut(step.frame).set_child(step.index, child);
            }
            None => {
                let child = self.reference(frame, 0);
                let root = self.root_mut(tree);
                (root.page, root.stamp) = (child.page, child.stamp);
            }
        }
        Ok(1)
    }

    /// A key by which a node is found from the root.
    fn first_key_below<'a>(&'a self, mut node: Node<'a>) -> Result<Vec<u8>, Corruption> {
        while !node.is_leaf() {
            let child = node.child(0);
            node = self.pages.node(child.page, child.stamp, node.0.level() - 1)?;
        }
        Ok(node.key(0).bytes().collect())
    }

    fn relocate_run(&mut self, page: PageId) -> Result<u32, Corruption> {
        let first = self.pages.read(page)?;
        let (tree, txn, count) = (first.tree(), first.txn(), run::page_count(first));
        let value_len = run::value_len(first);
        if !self.space.has_run_below(page, count) {
            return Ok(0);
        }
        let reference = RunRef { page, value_len: value_len as u32, txn };
        let mut copy = self.pages.run(reference)?.to_vec().into_boxed_slice();
        let key = run::key(&copy).to_vec();
        let owned = self.view().roots.get(usize::from(tree.0)).is_some()
            && self.view().contains(tree, &key)?;
        self.expect_owner(owned, page)?;
        let stored = self.stored_if_there(tree, &key)?;
        self.expect_owner(stored.is_some(), page)?;
        let stored = stored.unwrap_or_default();
        self.uncommitted = true;
        let path: Path = self.path_for_write(tree, &stored)?;
        let node = self.dirty(path.leaf);
        let (index, _) = node.search(&stored);
        let slot = node.slot(index);
        let refers = slot.flags() & FLAG_RUN != 0 && RunRef::read(node.payload(slot)) == reference;
        self.expect_owner(refers, page)?;
        if !self.space.has_run_below(page, count) {
            return Ok(0);
        }
        let to = self.space.allocate_run(&mut self.pages, count);
        run::finish(&mut copy, to, self.txn, self.pages.seed());
        self.pages.add_run(to, self.txn, copy);
        self.space.release(&mut self.pages, reference.freed(key.len(), self.txn));
        let moved = RunRef { page: to, txn: self.txn, ..reference };
        let place = self.dirty_mut(path.leaf).replace(
            index,
            super::super::node::RUN_REF_BYTES,
            slot.flags(),
        );
        moved.write(&mut self.pages.dirty_mut(path.leaf).0[place]);
        Ok(count)
    }

    fn expect_owner(&self, is_owner: bool, page: PageId) -> Result<(), Corruption> {
        if is_owner {
            Ok(())
        } else {
            Err(Corruption::new(page, "a live page that no tree reaches"))
        }
    }
}
