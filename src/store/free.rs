//! Free space: which pages may be written to. The place where an engine of this kind loses data, if
//! it does.
//!
//! # The reuse rule
//!
//! A page allocated by transaction A and freed by transaction K is reached by the tree of
//! transaction t if and only if `A <= t < K`: from the commit of A on, and no more in the tree of
//! K. (A page may be *changed in place* after A; only while no pinned t with `A <= t` exists, see
//! [`Space::writable_above`].)
//!
//! Trees that must stay whole are **pinned**:
//! - S, the last durable checkpoint: after a crash it is what there is;
//! - C, the checkpoint in flight: after a crash its meta may be on the disk, or not, so that both
//!   must be whole. C becomes S when the *second* sync of the checkpoint is done, not before;
//! - every snapshot that a reader holds.
//!
//! A page is reusable iff its K has been committed and no pinned tree reaches it.
//! [`Space::blocker`] is this rule, and nothing else decides about it. With one reader only, and R
//! the oldest of all, this is the better known `K <= R && (K <= S || A > S)`; asking each pin by
//! itself keeps one old reader from holding what is younger than it.
//!
//! The rule is asked when the page is freed for good (at the commit of K), and when the pin that
//! held it goes. It need not be asked again: later pins are later transactions, which do not reach
//! it.
//!
//! # Conservation
//!
//! Every page below `page_count` is exactly one of: live (in the newest tree, a space page, a
//! meta), pending (freed, and blocked or not committed), available. `check` counts.

use super::bits::{Bits, PageSet};
use super::limits::{GROUP_PAGES, GROUPS_MAX, PAGE_SIZE};
use super::page::{
    AT_BY_KIND, Corruption, HEADER_BYTES, Header, KIND_SPACE, Page, PageId, Tree, TxnId, is_sealed,
    read_u32, read_u64, seal, write_u32, write_u64,
};
use super::pages::Pages;
use super::snapshot::Committed;
use crate::mutants::{self, Mutant};
use std::rc::Rc;

/// A page, or a run of pages, that has been freed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Freed {
    pub first: PageId,
    pub pages: u32,
    pub allocated: TxnId,
    pub freed: TxnId,
}

impl Freed {
    /// Whether the tree of transaction `t` reaches it.
    pub fn is_reached_by(&self, t: TxnId) -> bool {
        self.allocated <= t && t < self.freed
    }
}

/// A tree that must stay whole, and the freed pages that wait for it to go.
struct Pin {
    txn: TxnId,
    blocked: Vec<Freed>,
}

struct Reader {
    root: Rc<Committed>,
    blocked: Vec<Freed>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Blocker {
    /// K is not committed yet.
    Uncommitted,
    Durable,
    Checkpoint,
    Reader(usize),
}

/// The page that holds the space bits of one group of pages.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Group {
    page: PageId,
    allocated: TxnId,
    checksum: u32,
    /// Bits have changed since the page was made.
    stale: bool,
}

/// Freed pages that are sent on at a time when their pin has gone: about 100 microseconds.
const UNPINNED_SLICE: usize = 2048;

pub struct Space {
    /// Pages that have ever been handed out and not been cut off since, the metas included.
    page_count: u32,
    live: Bits,
    /// Pages of runs, but not the first.
    continues: Bits,
    live_pages: u32,
    available: PageSet,
    groups: Vec<Group>,
    last_commit: TxnId,
    uncommitted: Vec<Freed>,
    durable: Pin,
    checkpoint: Option<Pin>,
    readers: Vec<Reader>,
    /// Freed pages whose pin has gone, to be sent on in slices.
    unpinned: Vec<Freed>,
    /// All pages ever handed out, for the model that the reuse rule is tested against.
    #[cfg(test)]
    pub handed_out: Vec<PageId>,
}

impl Space {
    fn blocker(&self, page: &Freed) -> Option<Blocker> {
        if page.freed > self.last_commit {
            return Some(Blocker::Uncommitted);
        }
        if page.is_reached_by(self.durable.txn) && !mutants::is_on(Mutant::ReuseDurablePages) {
            return Some(Blocker::Durable);
        }
        if self.checkpoint.as_ref().is_some_and(|pin| page.is_reached_by(pin.txn))
            && !mutants::is_on(Mutant::ReuseCheckpointPages)
        {
            return Some(Blocker::Checkpoint);
        }
        let reader = self.readers.iter().position(|reader| page.is_reached_by(reader.root.txn));
        reader.map(Blocker::Reader)
    }

    /// A page on the heap may be changed in place iff it was allocated after this transaction: no
    /// pinned tree contains it then.
    pub fn writable_above(&self) -> TxnId {
        if mutants::is_on(Mutant::ChangePinnedPages) {
            return self.durable.txn;
        }
        let checkpoint = self.checkpoint.as_ref().map_or(TxnId(0), |pin| pin.txn);
        let reader = self.readers.last().map_or(TxnId(0), |reader| reader.root.txn);
        self.durable.txn.max(checkpoint).max(reader)
    }

    /// The last transaction that a checkpoint has made durable or is making so.
    pub fn checkpointed_txn(&self) -> TxnId {
        self.checkpoint.as_ref().map_or(self.durable.txn, |pin| pin.txn)
    }

    /// A page to write to, the one nearest to the start of the file, so that its end empties.
    pub fn allocate(&mut self, pages: &mut Pages) -> PageId {
        let page = match self.available.next(0) {
            Some(page) => page,
            None => self.extend(pages, 1),
        };
        self.hand_out(pages, page, 1)
    }

    /// The page that [`allocate`](Self::allocate) would give, if the store need not grow for it.
    pub fn first_available(&self) -> Option<PageId> {
        self.available.next(0).map(PageId)
    }

    /// Whether `count` consecutive pages below `page` are available.
    pub fn has_run_below(&self, page: PageId, count: u32) -> bool {
        let mut from = 0;
        while let Some((first, length)) = self.available.next_stretch(from, count) {
            if first >= page.0 {
                return false;
            }
            if length == count {
                return true;
            }
            from = first + length;
        }
        false
    }

    /// The first page of the last live page or run below `page`, the metas aside.
    pub fn last_live_below(&self, page: PageId) -> Option<PageId> {
        let mut last = self.live.last_below(page.0)?;
        while self.continues.get(last) {
            last -= 1;
        }
        (last >= 2).then_some(PageId(last))
    }

    /// The first live page `>= from` that is not within a run that begins before.
    pub fn next_live(&self, from: PageId) -> Option<PageId> {
        let mut page = self.live.next(from.0)?;
        while self.continues.get(page) {
            page = self.live.next(page + 1)?;
        }
        Some(PageId(page))
    }

    pub fn is_space_page(&self, page: PageId) -> bool {
        self.groups.iter().any(|group| group.page == page)
    }

    /// Verifies a space page in the file, again.
    pub fn verify_space_page(&self, pages: &Pages, page: PageId) -> Result<(), Corruption> {
        let checksum = self.groups.iter().find(|group| group.page == page).map(|g| g.checksum);
        let found = pages.raw(page)?;
        if !is_sealed(pages.seed(), &found.0) || Some(read_u32(&found.0, 0)) != checksum {
            return Err(Corruption::new(page, "checksum mismatch in a space page"));
        }
        Ok(())
    }

    /// If this is a space page, has the next checkpoint put it elsewhere.
    pub fn renew_space_page(&mut self, page: PageId) -> bool {
        match self.groups.iter_mut().find(|group| group.page == page) {
            Some(group) => {
                group.stale = true;
                true
            }
            None => false,
        }
    }

    /// Consecutive pages to write to.
    pub fn allocate_run(&mut self, pages: &mut Pages, count: u32) -> PageId {
        let mut from = 0;
        while let Some((first, length)) = self.available.next_stretch(from, count) {
            if length == count {
                return self.hand_out(pages, first, count);
            }
            from = first + length;
            if from == self.page_count {
                self.extend(pages, count - length);
                return self.hand_out(pages, first, count);
            }
        }
        let first = self.extend(pages, count);
        self.hand_out(pages, first, count)
    }

    fn extend(&mut self, pages: &Pages, count: u32) -> u32 {
        let first = self.page_count;
        let end = first.checked_add(count).expect("more pages than a number can name");
        assert!(
            end as usize <= pages.reserved_pages()
                && u64::from(end) <= u64::from(GROUP_PAGES) * GROUPS_MAX as u64,
            "the store has outgrown its reservation of {} pages; the quota must lie below it",
            pages.reserved_pages()
        );
        for page in first..end {
            self.available.insert(page);
        }
        self.page_count = end;
        first
    }

    fn hand_out(&mut self, pages: &mut Pages, first: u32, count: u32) -> PageId {
        for page in first..first + count {
            assert!(self.available.remove(page), "a page is handed out that is not available");
            assert!(!self.live.get(page), "a live page is handed out");
            pages.forget(PageId(page));
            #[cfg(test)]
            self.handed_out.push(PageId(page));
            self.mark(page, true, page != first);
        }
        PageId(first)
    }

    fn mark(&mut self, page: u32, live: bool, continues: bool) {
        self.live.set(page, live);
        self.continues.set(page, continues);
        if live {
            self.live_pages += 1;
        } else {
            self.live_pages -= 1;
        }
        // A group without a page yet gets one at the next checkpoint anyway.
        if let Some(group) = self.groups.get_mut((page / GROUP_PAGES) as usize) {
            group.stale = true;
        }
    }

    /// Frees a page or run in transaction `freed.freed`.
    pub fn release(&mut self, pages: &mut Pages, freed: Freed) {
        for page in freed.first.0..freed.first.0 + freed.pages {
            assert!(self.live.get(page), "a page is freed that is not live");
            self.mark(page, false, false);
        }
        if let Some(frame) = pages.frame_of(freed.first) {
            pages.frame_mut(frame).freed = freed.freed;
        }
        self.route(pages, freed);
    }

    /// Sends a freed page to the list of what it has to wait for, or makes it available.
    fn route(&mut self, pages: &mut Pages, freed: Freed) {
        match self.blocker(&freed) {
            Some(Blocker::Uncommitted) => self.uncommitted.push(freed),
            Some(Blocker::Durable) => self.durable.blocked.push(freed),
            Some(Blocker::Checkpoint) => match &mut self.checkpoint {
                Some(pin) => pin.blocked.push(freed),
                None => unreachable!("blocked by a checkpoint that is not there"),
            },
            Some(Blocker::Reader(index)) => {
                pages.keep(freed.first);
                self.readers[index].blocked.push(freed);
            }
            None => {
                if let Some(frame) = pages.frame_of(freed.first) {
                    pages.drop_frame(frame, false);
                }
                for page in freed.first.0..freed.first.0 + freed.pages {
                    assert!(!self.live.get(page), "a live page is made available");
                    assert!(self.available.insert(page), "a page is made available twice");
                }
            }
        }
    }

    /// Sends on what waited for a pin that has gone, a slice of it: an old reader may have held a
    /// large part of the store. Waiting longer is safe: later pins do not reach it.
    fn route_unpinned(&mut self, pages: &mut Pages) {
        let rest = self.unpinned.len().saturating_sub(UNPINNED_SLICE);
        for freed in self.unpinned.split_off(rest) {
            self.route(pages, freed);
        }
    }

    pub fn commit(&mut self, pages: &mut Pages, txn: TxnId) {
        assert!(txn > self.last_commit, "transactions are committed in order");
        self.last_commit = txn;
        for freed in std::mem::take(&mut self.uncommitted) {
            self.route(pages, freed);
        }
        self.drop_readers(pages);
    }

    /// Pins the last commit for a reader.
    pub fn pin_reader(&mut self, root: &Rc<Committed>) {
        assert!(root.txn == self.last_commit, "only the last commit can be pinned");
        self.readers.push(Reader { root: root.clone(), blocked: Vec::new() });
    }

    /// The pin of the last commit, if some reader holds it already.
    pub fn newest_reader(&self) -> Option<&Rc<Committed>> {
        self.readers.last().map(|reader| &reader.root).filter(|root| root.txn == self.last_commit)
    }

    /// Lets go what nobody holds any more, a slice of it at a time.
    pub fn drop_readers(&mut self, pages: &mut Pages) {
        let mut index = 0;
        while let Some(reader) = self.readers.get(index) {
            if Rc::strong_count(&reader.root) > 1 {
                index += 1;
                continue;
            }
            let blocked = self.readers.remove(index).blocked;
            self.unpin(blocked);
        }
        self.route_unpinned(pages);
    }

    fn unpin(&mut self, mut blocked: Vec<Freed>) {
        if self.unpinned.is_empty() {
            self.unpinned = blocked;
        } else {
            self.unpinned.append(&mut blocked);
        }
    }

    /// Whether there is more to let go than one slice did.
    pub fn is_letting_go(&self) -> bool {
        !self.unpinned.is_empty()
    }

    pub fn reader_count(&self) -> usize {
        self.readers.len()
    }

    /// Pins the last commit for a checkpoint.
    pub fn pin_checkpoint(&mut self) {
        assert!(self.checkpoint.is_none(), "two checkpoints at once");
        assert!(self.uncommitted.is_empty(), "a checkpoint within a transaction");
        assert!(self.last_commit > self.durable.txn, "a checkpoint of nothing new");
        self.checkpoint = Some(Pin { txn: self.last_commit, blocked: Vec::new() });
    }

    /// Transaction of the last durable checkpoint.
    pub fn durable_txn(&self) -> TxnId {
        self.durable.txn
    }

    /// The checkpoint in flight is durable: it takes the place of the one before.
    pub fn checkpoint_durable(&mut self, pages: &mut Pages) {
        let pin = self.checkpoint.take().expect("a checkpoint that has not begun is done");
        let before = std::mem::replace(&mut self.durable, pin);
        self.unpin(before.blocked);
        self.route_unpinned(pages);
    }

    /// The checkpoint in flight will not be: not a byte of it has been written.
    pub fn checkpoint_abandoned(&mut self, pages: &mut Pages) {
        let pin = self.checkpoint.take().expect("a checkpoint that has not begun is given up");
        self.unpin(pin.blocked);
        self.route_unpinned(pages);
    }

    /// The first page number behind the store.
    pub fn end(&self) -> PageId {
        PageId(self.page_count)
    }

    pub fn page_count(&self) -> u32 {
        self.page_count
    }

    pub fn live_pages(&self) -> u32 {
        self.live_pages
    }

    pub fn available_pages(&self) -> usize {
        self.available.len()
    }

    pub fn is_live(&self, page: PageId) -> bool {
        self.live.get(page.0)
    }

    pub fn is_available(&self, page: PageId) -> bool {
        self.available.contains(page.0)
    }

    /// All freed pages that are not available yet.
    pub fn pending(&self) -> impl Iterator<Item = &Freed> {
        let readers = self.readers.iter().flat_map(|reader| &reader.blocked);
        let checkpoint = self.checkpoint.iter().flat_map(|pin| &pin.blocked);
        let waiting = self.uncommitted.iter().chain(&self.unpinned);
        waiting.chain(&self.durable.blocked).chain(checkpoint).chain(readers)
    }

    /// Gives up available pages at the end.
    pub fn shrink(&mut self) {
        while self.page_count > 0 && self.available.remove(self.page_count - 1) {
            self.page_count -= 1;
        }
    }

    /// Puts the space pages of the checkpoint that has just been pinned on the heap: the live pages
    /// of its tree. Returns their numbers and the checksum over their checksums.
    pub fn make_space_pages(&mut self, pages: &mut Pages) -> (Vec<PageId>, u32) {
        let txn = self.last_commit;
        let fresh = Group { page: PageId::NONE, allocated: txn, checksum: 0, stale: true };
        while self.groups.len() > self.page_count.div_ceil(GROUP_PAGES) as usize {
            if let Some(group) = self.groups.pop() {
                self.release_group(pages, group, txn);
            }
        }
        // A stale group gets a new page, which makes that group stale in which the page lies. Each
        // group gets one at most, so this ends.
        let mut renewed = vec![false; self.groups.len()];
        loop {
            let wanted = self.page_count.div_ceil(GROUP_PAGES) as usize;
            self.groups.resize(wanted, fresh);
            renewed.resize(wanted, false);
            let before = self.page_count;
            let mut changed = false;
            for (index, renewed) in renewed.iter_mut().enumerate() {
                let old = self.groups[index];
                if !old.stale || *renewed {
                    continue;
                }
                *renewed = true;
                changed = true;
                if old.page != PageId::NONE {
                    self.release_group(pages, old, txn);
                }
                let page = self.allocate(pages);
                self.groups[index] = Group { page, ..fresh };
            }
            if !changed && before == self.page_count {
                break;
            }
        }
        for (index, _) in renewed.into_iter().enumerate().filter(|(_, renewed)| *renewed) {
            let page = self.groups[index].page;
            let image = self.space_page(index, page, txn, pages.seed());
            self.groups[index].checksum = read_u32(&image.0, 0);
            self.groups[index].stale = false;
            let frame = pages.add_frame(page, txn);
            *pages.dirty_mut(frame) = image;
        }
        let sums = space_checksum(self.groups.iter().map(|group| group.checksum));
        (self.groups.iter().map(|group| group.page).collect(), sums)
    }

    fn release_group(&mut self, pages: &mut Pages, group: Group, txn: TxnId) {
        let Group { page: first, allocated, .. } = group;
        self.release(pages, Freed { first, pages: 1, allocated, freed: txn });
    }

    /// Pages of the newest space pages; live, but in no tree.
    pub fn space_pages(&self) -> impl Iterator<Item = PageId> {
        self.groups.iter().map(|group| group.page).filter(|page| *page != PageId::NONE)
    }

    fn space_page(&self, index: usize, page: PageId, txn: TxnId, seed: u32) -> Page {
        let mut image = Page::ZERO;
        image.set_header(&Header { page, txn, kind: KIND_SPACE, level: 0, tree: Tree(0) });
        write_u32(&mut image.0, AT_GROUP, index as u32);
        for word in 0..GROUP_WORDS {
            let at = HEADER_BYTES + word * 8;
            let source = index * GROUP_WORDS + word;
            write_u64(&mut image.0, at, self.live.word(source));
            write_u64(&mut image.0, at + GROUP_WORDS * 8, self.continues.word(source));
        }
        seal(seed, &mut image.0);
        image
    }
}

const AT_SPACE_ZERO: usize = AT_BY_KIND;
const AT_GROUP: usize = AT_SPACE_ZERO + 4;
const AT_SPACE_ZERO_2: usize = AT_GROUP + 4;
const _: () = assert!(AT_SPACE_ZERO_2 + 4 == HEADER_BYTES);
/// Words of live bits in a space page, and as many of continuation bits behind them.
const GROUP_WORDS: usize = GROUP_PAGES as usize / 64;
const _: () =
    assert!(GROUP_PAGES.is_multiple_of(64) && HEADER_BYTES + GROUP_WORDS * 16 == PAGE_SIZE);

/// Checksum of the space pages' checksums: binds them to the meta that lists them.
fn space_checksum(checksums: impl Iterator<Item = u32>) -> u32 {
    checksums.fold(0, |sum, next| crc32c::crc32c_append(sum, &next.to_le_bytes()))
}

/// The first space page of a new store: pages 0 to 2 are live, and itself is page 2.
pub fn initial_space_page(seed: u32) -> (Page, u32) {
    let mut space = Space::empty(3);
    for page in 0..3 {
        space.live.set(page, true);
    }
    let page = space.space_page(0, PageId(2), TxnId(0), seed);
    let sum = space_checksum(std::iter::once(read_u32(&page.0, 0)));
    (page, sum)
}

impl Space {
    fn empty(page_count: u32) -> Space {
        Space {
            page_count,
            live: Bits::default(),
            continues: Bits::default(),
            live_pages: 0,
            available: PageSet::default(),
            groups: Vec::new(),
            last_commit: TxnId(0),
            uncommitted: Vec::new(),
            durable: Pin { txn: TxnId(0), blocked: Vec::new() },
            checkpoint: None,
            readers: Vec::new(),
            unpinned: Vec::new(),
            #[cfg(test)]
            handed_out: Vec::new(),
        }
    }

    /// The space as the durable checkpoint `txn` left it. What its tree does not reach is
    /// available: there is no reader yet.
    pub fn load(
        pages: &Pages,
        page_count: u32,
        txn: TxnId,
        listed: &[PageId],
        checksum_of_all: u32,
    ) -> Result<Space, Corruption> {
        let mut space = Space::empty(page_count);
        space.last_commit = txn;
        space.durable.txn = txn;
        for (index, id) in listed.iter().enumerate() {
            let bad = |what| Corruption::new(*id, what);
            let page = pages.raw(*id)?;
            let header = page.header();
            if !is_sealed(pages.seed(), &page.0) {
                return Err(bad("checksum mismatch in a space page"));
            }
            if header.page != *id
                || header.kind != KIND_SPACE
                || header.txn > txn
                || read_u32(&page.0, AT_GROUP) as usize != index
            {
                return Err(bad("a space page is not the one its meta names"));
            }
            for word in 0..GROUP_WORDS {
                let at = HEADER_BYTES + word * 8;
                let target = index * GROUP_WORDS + word;
                space.live.set_word(target, read_u64(&page.0, at));
                space.continues.set_word(target, read_u64(&page.0, at + GROUP_WORDS * 8));
            }
            let checksum = read_u32(&page.0, 0);
            space.groups.push(Group { page: *id, allocated: header.txn, checksum, stale: false });
        }
        let first = listed.first().copied().unwrap_or(PageId::NONE);
        if space_checksum(space.groups.iter().map(|group| group.checksum)) != checksum_of_all {
            return Err(Corruption::new(first, "the space pages are not those of their meta"));
        }
        let must_be_live = [PageId(0), PageId(1)].into_iter().chain(listed.iter().copied());
        for page in must_be_live {
            if !space.live.get(page.0) {
                return Err(Corruption::new(page, "a page in use is marked as free"));
            }
        }
        for word in 0..listed.len() * GROUP_WORDS {
            let (live, continues) = (space.live.word(word), space.continues.word(word));
            let below = (u64::from(page_count)).saturating_sub(word as u64 * 64).min(64) as u32;
            let inside = if below == 64 { u64::MAX } else { (1 << below) - 1 };
            if live & !inside != 0 || continues & !live != 0 {
                return Err(Corruption::new(first, "the space pages contradict themselves"));
            }
            space.live_pages += live.count_ones();
            let mut free = !live & inside;
            while free != 0 {
                space.available.insert(word as u32 * 64 + free.trailing_zeros());
                free &= free - 1;
            }
        }
        Ok(space)
    }
}
