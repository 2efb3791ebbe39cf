//! The whole store checked: trees, and that every page is exactly one of live, pending, available.
//! Reads all of it; for tests, the simulator and the check command.

use super::Store;
use super::limits::TREES;
use super::long::{is_long, stands_for};
use super::meta::Root;
use super::node::{FLAG_RUN, Node};
use super::page::{Corruption, PageId, Tree};
use super::run::{self, RunRef};
use super::view::View;
use rustc_hash::FxHashSet;

/// What a check has found in a store that is in order.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct CheckReport {
    pub live_pages: u32,
    pub available_pages: u32,
    pub pending_pages: u32,
    pub leaf_pages: u32,
    pub inner_pages: u32,
    pub run_pages: u32,
    /// Bytes in use in leaves, of `leaf_pages` pages.
    pub leaf_bytes: u64,
    pub entries: [u64; TREES],
    /// Lengths of keys and values.
    pub bytes: [u64; TREES],
    pub levels: [u8; TREES],
}

/// Pages reached, and what was met on the way.
pub(super) struct Walk<'a> {
    view: View<'a>,
    /// The last long key of the tree.
    last_long: Option<&'a [u8]>,
    pub reached: FxHashSet<PageId>,
    report: CheckReport,
}

impl Store {
    /// Checks the live state.
    pub fn check(&self) -> Result<CheckReport, Corruption> {
        let mut walk = Walk::new(self.view());
        walk.all_trees()?;
        let Walk { mut reached, mut report, .. } = walk;
        for page in [PageId(0), PageId(1)].into_iter().chain(self.space.space_pages()) {
            if !reached.insert(page) {
                return Err(Corruption::new(page, "a page is used twice"));
            }
        }
        let mut pending = FxHashSet::default();
        for freed in self.space.pending() {
            for page in (freed.first.0..freed.first.0 + freed.pages).map(PageId) {
                if !pending.insert(page) {
                    return Err(Corruption::new(page, "a page is freed twice"));
                }
            }
        }
        for page in (0..self.space.page_count()).map(PageId) {
            let states = [
                (reached.contains(&page), "reached"),
                (pending.contains(&page), "pending"),
                (self.space.is_available(page), "available"),
            ];
            if states.iter().filter(|(is, _)| *is).count() != 1 {
                return Err(Corruption::new(page, "a page is lost, or used and free at once"));
            }
            if self.space.is_live(page) != states[0].0 {
                return Err(Corruption::new(page, "the live pages are not those that are reached"));
            }
        }
        report.live_pages = reached.len() as u32;
        report.pending_pages = pending.len() as u32;
        report.available_pages = self.space.available_pages() as u32;
        let total = report.live_pages + report.pending_pages + report.available_pages;
        if total != self.space.page_count() || report.live_pages != self.space.live_pages() {
            return Err(Corruption::new(PageId(0), "the pages do not add up"));
        }
        Ok(report)
    }
}

impl<'a> Walk<'a> {
    pub fn new(view: View<'a>) -> Walk<'a> {
        Walk {
            view,
            last_long: None,
            reached: FxHashSet::default(),
            report: CheckReport::default(),
        }
    }

    pub fn all_trees(&mut self) -> Result<(), Corruption> {
        for (index, root) in self.view.roots.iter().enumerate() {
            if !root.is_empty() {
                self.tree(Tree(index as u8), root)?;
                self.report.levels[index] = root.level + 1;
            }
            self.report.entries[index] = root.entries;
        }
        Ok(())
    }

    fn reach(&mut self, page: PageId) -> Result<(), Corruption> {
        if self.reached.insert(page) {
            Ok(())
        } else {
            Err(Corruption::new(page, "a page is used twice"))
        }
    }

    fn tree(&mut self, tree: Tree, root: &Root) -> Result<(), Corruption> {
        let node = self.view.pages.node(root.page, root.stamp, root.level)?;
        self.last_long = None;
        let bytes_before: u64 = self.report.bytes.iter().sum();
        let (entries, weight) = self.node(tree, root.page, node, &[], None)?;
        let bytes = self.report.bytes.iter().sum::<u64>() - bytes_before;
        if entries != root.entries || weight != root.weight || bytes != root.bytes {
            return Err(Corruption::new(root.page, "a tree is not of the size its root says"));
        }
        Ok(())
    }

    /// Checks a subtree whose keys are in `low..high`; its entries and weight.
    fn node(
        &mut self,
        tree: Tree,
        id: PageId,
        node: Node<'a>,
        low: &[u8],
        high: Option<&[u8]>,
    ) -> Result<(u64, u64), Corruption> {
        let bad = |what| Corruption::new(id, what);
        self.reach(id)?;
        if node.0.tree() != tree {
            return Err(bad("a node is of another tree"));
        }
        super::node::validate(node.0).map_err(bad)?;
        let keys: Vec<Vec<u8>> =
            (0..node.count()).map(|index| node.key(index).bytes().collect()).collect();
        let keyed = &keys[node.keyed_from()..];
        if keyed.first().is_some_and(|key| key.as_slice() < low)
            || keyed.last().is_some_and(|key| high.is_some_and(|high| key.as_slice() >= high))
        {
            return Err(bad("a key lies outside of what its parent says"));
        }
        if node.is_leaf() {
            self.report.leaf_pages += 1;
            self.report.leaf_bytes += node.used() as u64;
            for (index, key) in keys.iter().enumerate() {
                let slot = node.slot(index);
                self.report.bytes[usize::from(tree.0)] += if slot.flags() & FLAG_RUN != 0 {
                    self.run(tree, RunRef::read(node.payload(slot)), key)?
                } else {
                    (key.len() + node.payload(slot).len()) as u64
                };
            }
            return Ok((node.count() as u64, node.weight()));
        }
        self.report.inner_pages += 1;
        let (mut entries, mut weight) = (0, 0);
        for index in 0..node.count() {
            let child = node.child(index);
            let below = self.view.pages.node(child.page, child.stamp, node.0.level() - 1)?;
            let from = if index == 0 { low } else { &keys[index] };
            let to = keys.get(index + 1).map(Vec::as_slice).or(high);
            let (below_entries, below_weight) = self.node(tree, child.page, below, from, to)?;
            if below_weight != child.weight {
                return Err(Corruption::new(
                    child.page,
                    "a subtree is not of the weight its parent says",
                ));
            }
            entries += below_entries;
            weight += below_weight;
        }
        Ok((entries, weight))
    }

    /// Bytes of the key and value in it. `stored` is the key as its leaf has it.
    fn run(&mut self, tree: Tree, reference: RunRef, stored: &[u8]) -> Result<u64, Corruption> {
        let bad = |what| Corruption::new(reference.page, what);
        let pages = self.view.pages.run(reference)?;
        let key = run::key(pages);
        let is_of_key = if is_long(stored) { stands_for(stored, key) } else { stored == key };
        if pages[0].tree() != tree || !is_of_key {
            return Err(bad("a run is of another key"));
        }
        if is_long(key) {
            if self.last_long.is_some_and(|last| last >= key) {
                return Err(bad("long keys are out of order"));
            }
            self.last_long = Some(key);
        }
        for page in 0..pages.len() as u32 {
            self.reach(PageId(reference.page.0 + page))?;
        }
        self.report.run_pages += pages.len() as u32;
        Ok(key.len() as u64 + u64::from(reference.value_len))
    }
}
