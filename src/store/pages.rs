//! Where the bytes of a page are: on the heap while it is dirty, in the map otherwise. And the
//! first look at a page of the map: its checksum, its number and its structure, once.
//!
//! A frame holds a page (or a run of pages) that has no bytes in the file yet, or whose write is
//! not done. The table says for every page number in one load: not looked at, looked at, or which
//! frame.

use super::bits::PageSet;
use super::frames::{Frame, FrameId, FrameMemory, Frames};
use super::limits::{PAGE_SIZE, SPARE_BUFFERS_MAX};
use super::map::{Map, Warmer};
use super::node::{self, Node};
use super::page::{
    Corruption, HEADER_BYTES, Header, KIND_INNER, KIND_LEAF, KIND_RUN, Page, PageId, TxnId,
    is_sealed,
};
use super::run::{self, RunRef};
use std::cell::Cell;

const UNSEEN: u32 = 0;
const SEEN: u32 = 1;
const FRAMES: u32 = 2;

/// Chunked, so that growing copies nothing.
#[derive(Default)]
struct Table {
    chunks: Vec<Box<[Cell<u32>]>>,
}

const CHUNK: usize = 1 << 14;

impl Table {
    #[inline]
    fn get(&self, page: PageId) -> u32 {
        match self.cell(page) {
            Some(cell) => cell.get(),
            None => UNSEEN,
        }
    }

    #[inline]
    fn cell(&self, page: PageId) -> Option<&Cell<u32>> {
        self.chunks.get(page.0 as usize / CHUNK)?.get(page.0 as usize % CHUNK)
    }

    fn set(&mut self, page: PageId, value: u32) {
        let chunk = page.0 as usize / CHUNK;
        while self.chunks.len() <= chunk {
            self.chunks.push(vec![Cell::new(UNSEEN); CHUNK].into_boxed_slice());
        }
        self.chunks[chunk][page.0 as usize % CHUNK].set(value);
    }
}

pub struct Pages {
    map: Map,
    /// Pages of the file that exist: what may be read through the map.
    file_pages: u32,
    seed: u32,
    table: Table,
    frames: Frames,
    /// Pages in frames that are kept for readers.
    kept_pages: usize,
    /// First pages of all frames.
    dirty_first: PageSet,
    /// Buffers for copies.
    spare: Vec<Box<Page>>,
    /// Pages that were looked up: what a test holds a cost against.
    #[cfg(test)]
    pub lookups: Cell<u64>,
}

impl Pages {
    pub fn new(map: Map, file_pages: u32, seed: u32) -> Pages {
        let mut table = Table::default();
        if file_pages > 0 {
            table.set(PageId(file_pages - 1), UNSEEN);
        }
        Pages {
            map,
            file_pages,
            seed,
            table,
            frames: Frames::default(),
            kept_pages: 0,
            dirty_first: PageSet::default(),
            spare: Vec::new(),
            #[cfg(test)]
            lookups: Cell::new(0),
        }
    }

    pub fn seed(&self) -> u32 {
        self.seed
    }

    pub fn file_pages(&self) -> u32 {
        self.file_pages
    }

    pub fn warmer(&self) -> Warmer {
        self.map.warmer()
    }

    pub fn reserved_pages(&self) -> usize {
        self.map.reserved_bytes() / PAGE_SIZE
    }

    /// Pages on the heap for a checkpoint to write.
    pub fn dirty_pages(&self) -> usize {
        self.frames.pages() - self.kept_pages
    }

    /// Pages on the heap that only readers can reach.
    pub fn kept_pages(&self) -> usize {
        self.kept_pages
    }

    /// Only readers can reach a page from now on; if it is on the heap, it stays there for them.
    pub fn keep(&mut self, page: PageId) {
        let Some(id) = self.frame_of(page) else { return };
        let frame = self.frames.get_mut(id);
        if !std::mem::replace(&mut frame.kept, true) {
            self.kept_pages += frame.pages as usize;
        }
    }

    pub fn wants_memory(&self) -> bool {
        self.frames.wants_memory()
    }

    /// How many pages will get dirty until the next checkpoint.
    pub fn expect_dirty(&mut self, pages: usize) {
        self.frames.expect(pages);
    }

    pub fn give_memory(&mut self, memory: FrameMemory) {
        self.frames.give_memory(memory);
    }

    /// After the file has grown, or before it is cut.
    pub fn set_file_pages(&mut self, pages: u32) {
        for cut in pages..self.file_pages {
            if self.table.get(PageId(cut)) == SEEN {
                self.table.set(PageId(cut), UNSEEN);
            }
        }
        self.file_pages = pages;
    }

    /// The page `page`, whatever it is.
    #[inline]
    pub fn read(&self, page: PageId) -> Result<&Page, Corruption> {
        #[cfg(test)]
        self.lookups.set(self.lookups.get() + 1);
        match self.table.get(page) {
            SEEN => Ok(&self.map.pages(page.0, 1)[0]),
            UNSEEN => self.first_look(page),
            frame => Ok(self.frames.page(FrameId(frame - FRAMES))),
        }
    }

    /// A page, if it has been looked at already.
    #[inline]
    pub fn peek(&self, page: PageId) -> Option<&Page> {
        match self.table.get(page) {
            SEEN => Some(&self.map.pages(page.0, 1)[0]),
            UNSEEN => None,
            frame => Some(self.frames.page(FrameId(frame - FRAMES))),
        }
    }

    /// The node a reference points to.
    #[inline]
    pub fn node(&self, page: PageId, stamp: u32, level: u8) -> Result<Node<'_>, Corruption> {
        let found = Node(self.read(page)?);
        if found.stamp() != stamp {
            return Err(Corruption::new(page, "a page is not of the transaction its parent names"));
        }
        if found.0.level() != level || !matches!(found.0.kind(), KIND_LEAF | KIND_INNER) {
            return Err(Corruption::new(
                page,
                "a page is not a node of the level its parent names",
            ));
        }
        Ok(found)
    }

    /// All pages of a run, of which the caller wants the value.
    pub fn run(&self, reference: RunRef) -> Result<&[Page], Corruption> {
        let first = self.read(reference.page)?;
        if first.txn() != reference.txn
            || first.kind() != KIND_RUN
            || run::value_len(first) != reference.value_len as usize
        {
            return Err(Corruption::new(reference.page, "a run is not the one its leaf names"));
        }
        let count = run::page_count(first);
        match self.table.get(reference.page) {
            UNSEEN | SEEN => Ok(self.map.pages(reference.page.0, count as usize)),
            frame => Ok(self.frames.all_pages(FrameId(frame - FRAMES))),
        }
    }

    #[cold]
    fn first_look(&self, id: PageId) -> Result<&Page, Corruption> {
        self.verify_in_map(id)?;
        if let Some(cell) = self.table.cell(id) {
            cell.set(SEEN);
        }
        Ok(&self.map.pages(id.0, 1)[0])
    }

    /// Verifies the page or run in the file that begins at `id`; its number of pages.
    pub fn verify_in_map(&self, id: PageId) -> Result<u32, Corruption> {
        let bad = |what| Corruption::new(id, what);
        if id.0 >= self.file_pages {
            return Err(bad("a page beyond the end of the file is referred to"));
        }
        let page = &self.map.pages(id.0, 1)[0];
        if page.kind() == KIND_RUN {
            // The length cannot be trusted before the checksum has been looked at, but it bounds
            // what is.
            let count = run::page_count(page);
            if count == 0 || count > self.file_pages - id.0 || !run::is_consistent(page) {
                return Err(bad("the header of a run is damaged"));
            }
            let pages = self.map.pages(id.0, count as usize);
            if !is_sealed(self.seed, run::bytes(pages)) {
                return Err(bad("checksum mismatch in a run"));
            }
            if page.header().page != id {
                return Err(bad("a page lies in the place of another"));
            }
            return Ok(count);
        }
        if !is_sealed(self.seed, &page.0) {
            return Err(bad("checksum mismatch"));
        }
        if page.header().page != id {
            return Err(bad("a page lies in the place of another"));
        }
        match page.kind() {
            KIND_LEAF | KIND_INNER => node::validate(page).map_err(bad)?,
            _ => return Err(bad("a page is of no kind that can be referred to")),
        }
        Ok(1)
    }

    /// A page of the file as it is, not looked at; for space pages, which verify themselves.
    pub fn raw(&self, id: PageId) -> Result<&Page, Corruption> {
        if id.0 >= self.file_pages {
            return Err(Corruption::new(id, "a page beyond the end of the file is referred to"));
        }
        Ok(&self.map.pages(id.0, 1)[0])
    }

    /// The frame of a page that is on the heap.
    #[inline]
    pub fn frame_of(&self, page: PageId) -> Option<FrameId> {
        self.table.get(page).checked_sub(FRAMES).map(FrameId)
    }

    #[inline]
    pub fn frame(&self, id: FrameId) -> &Frame {
        self.frames.get(id)
    }

    #[inline]
    pub fn frame_mut(&mut self, id: FrameId) -> &mut Frame {
        self.frames.get_mut(id)
    }

    /// The page of a frame.
    #[inline]
    pub fn dirty(&self, id: FrameId) -> &Page {
        self.frames.page(id)
    }

    #[inline]
    pub fn dirty_mut(&mut self, id: FrameId) -> &mut Page {
        self.frames.page_mut(id)
    }

    pub fn dirty_run(&self, id: FrameId) -> &[Page] {
        self.frames.all_pages(id)
    }

    /// A buffer with arbitrary content.
    pub fn take_buffer(&mut self) -> Box<Page> {
        self.spare.pop().unwrap_or_else(|| Box::new(Page::ZERO))
    }

    /// Gives back what [`take_buffer`](Self::take_buffer) gave.
    pub fn give_buffer(&mut self, buffer: Box<Page>) {
        if self.spare.len() < SPARE_BUFFERS_MAX {
            self.spare.push(buffer);
        }
    }

    /// Puts a page on the heap under its number, with arbitrary content.
    pub fn add_frame(&mut self, page: PageId, allocated: TxnId) -> FrameId {
        assert!(self.frame_of(page).is_none(), "a page is put on the heap twice");
        let id = self.frames.add(page, allocated);
        self.table.set(page, id.0 + FRAMES);
        self.dirty_first.insert(page.0);
        id
    }

    /// Puts a copy of a node, which has been looked at, on the heap under another number.
    pub fn add_copy(&mut self, of: PageId, page: PageId, allocated: TxnId) -> FrameId {
        let id = self.add_frame(page, allocated);
        match self.frame_of(of) {
            Some(from) => self.frames.copy(from, id),
            None => {
                let source = &self.map.pages(of.0, 1)[0];
                self.frames.page_mut(id).0.copy_from_slice(&source.0);
            }
        }
        let copy = self.frames.page_mut(id);
        copy.set_header(&Header { page, txn: allocated, ..copy.header() });
        id
    }

    /// Puts a run on the heap under the number of its first page.
    pub fn add_run(&mut self, first: PageId, allocated: TxnId, pages: Box<[Page]>) -> FrameId {
        assert!(self.frame_of(first).is_none(), "a page is put on the heap twice");
        let id = self.frames.add_run(first, allocated, pages);
        self.table.set(first, id.0 + FRAMES);
        self.dirty_first.insert(first.0);
        id
    }

    /// Drops a page from the heap. `written`: its bytes are in the file now, as they are here; else
    /// the page is one that nobody can reach any more.
    pub fn drop_frame(&mut self, id: FrameId, written: bool) {
        let frame = self.frames.remove(id);
        assert!(frame.in_flight == 0, "a page is dropped while it is being written");
        if frame.kept {
            self.kept_pages -= frame.pages as usize;
        }
        self.table.set(frame.first, if written { SEEN } else { UNSEEN });
        self.dirty_first.remove(frame.first.0);
    }

    /// Gives a single dirty page another number.
    pub fn renumber(&mut self, id: FrameId, to: PageId, allocated: TxnId) {
        assert!(self.frame_of(to).is_none(), "a page is put on the heap twice");
        let frame = self.frames.get_mut(id);
        assert!(frame.pages == 1 && frame.unwritten == 1, "a page being written is moved");
        let from = std::mem::replace(&mut frame.first, to);
        frame.allocated = allocated;
        let page = self.frames.page_mut(id);
        page.set_header(&Header { page: to, txn: allocated, ..page.header() });
        self.table.set(from, UNSEEN);
        self.table.set(to, id.0 + FRAMES);
        self.dirty_first.remove(from.0);
        self.dirty_first.insert(to.0);
    }

    /// Forgets what is known about a page, as it gets a new content.
    pub fn forget(&mut self, page: PageId) {
        assert!(self.frame_of(page).is_none(), "a page on the heap is forgotten");
        self.table.set(page, UNSEEN);
    }

    /// The first dirty page `>= from`.
    pub fn next_dirty(&self, from: u32) -> Option<PageId> {
        self.dirty_first.next(from).map(PageId)
    }
}

const _: () = assert!(HEADER_BYTES == 32);
