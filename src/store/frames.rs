//! Frames: dirty pages on the heap.
//!
//! Single pages lie in chunks, and a frame's number is its place, so that a page is found from its
//! number with one memory access beside the table's. Runs lie where the allocator puts them.
//!
//! A chunk is best a huge page: a put, which looks at pages all over the trees, takes a quarter less time.
//! But a new one costs up to 5 ms in the kernel, which the one thread cannot spare. So chunks are made by
//! another thread before they are needed ([`FrameMemory`]); where none is ready, one of small pages will do.

use super::bits::PageSet;
use super::limits::{FRAME_MEMORY_FROM, FRAME_MEMORY_READY_MAX, PAGE_SIZE, SPARE_FRAMES_MIN};
use super::page::{Page, PageId, TxnId};
use memmap2::{Advice, MmapMut};

/// Number of a frame: a place in the chunks, or [`RUN`] and the number of a run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FrameId(pub u32);

const RUN: u32 = 1 << 31;

/// What is known about a page (or a run of pages) that has no bytes in the file yet, or whose write
/// is not done.
#[derive(Clone, Copy, Debug)]
pub struct Frame {
    pub first: PageId,
    pub pages: u32,
    pub allocated: TxnId,
    /// The transaction that freed it, [`TxnId::NEVER`] while it is live.
    pub freed: TxnId,
    /// Pages not yet handed out for writing.
    pub unwritten: u32,
    /// Pages whose write has been handed out and is not done.
    pub in_flight: u32,
    /// Only readers can reach it, so that no checkpoint will write it.
    pub kept: bool,
}

impl Frame {
    fn new(first: PageId, pages: u32, allocated: TxnId) -> Frame {
        let freed = TxnId::NEVER;
        Frame { first, pages, allocated, freed, unwritten: pages, in_flight: 0, kept: false }
    }
}

struct Run {
    frame: Frame,
    pages: Box<[Page]>,
}

/// Pages of a chunk: 2 MiB.
const CHUNK_PAGES: usize = 256;

struct Chunk {
    memory: MmapMut,
    in_use: usize,
}

/// Memory for dirty pages, made ready before it is needed.
pub struct FrameMemory(MmapMut);

impl FrameMemory {
    /// Takes the kernel some milliseconds: it is for another thread than the store's. `None` without memory.
    pub fn prepare() -> Option<FrameMemory> {
        let memory = MmapMut::map_anon(CHUNK_PAGES * PAGE_SIZE).ok()?;
        // Kernels that cannot do the one or the other make small pages, or make them later.
        let _ = memory.advise(Advice::HugePage);
        let _ = memory.advise(Advice::PopulateWrite);
        Some(FrameMemory(memory))
    }
}

impl Chunk {
    fn new(ready: Option<FrameMemory>) -> Chunk {
        let memory = match ready {
            Some(FrameMemory(memory)) => memory,
            None => MmapMut::map_anon(CHUNK_PAGES * PAGE_SIZE).expect("memory for dirty pages"),
        };
        Chunk { memory, in_use: 0 }
    }

    #[inline]
    fn page(&self, index: usize) -> &Page {
        let bytes = &self.memory[index * PAGE_SIZE..][..PAGE_SIZE];
        // SAFETY: `bytes` has the size of a page and begins at a multiple of it from the start of a
        // mapping, which is aligned more strictly than a `Page`; every content is a valid `Page`.
        unsafe { &*bytes.as_ptr().cast::<Page>() }
    }

    #[inline]
    fn page_mut(&mut self, index: usize) -> &mut Page {
        let bytes = &mut self.memory[index * PAGE_SIZE..][..PAGE_SIZE];
        // SAFETY: as in `page`; the borrow is exclusive.
        unsafe { &mut *bytes.as_mut_ptr().cast::<Page>() }
    }
}

#[derive(Default)]
pub struct Frames {
    chunks: Vec<Chunk>,
    /// So many vacant frames are not given back.
    spare: usize,
    /// For the next chunks.
    ready: Vec<FrameMemory>,
    vacant: PageSet,
    /// By place in the chunks; arbitrary where vacant.
    singles: Vec<Frame>,
    runs: Vec<Option<Run>>,
    vacant_runs: Vec<u32>,
    pages: usize,
}

impl Frames {
    /// Pages in all frames.
    pub fn pages(&self) -> usize {
        self.pages
    }

    /// Whether another thread should make memory ready.
    pub fn wants_memory(&self) -> bool {
        self.chunks.len() >= FRAME_MEMORY_FROM
            && self.ready.len() < FRAME_MEMORY_READY_MAX
            && self.vacant.len() < FRAME_MEMORY_READY_MAX * CHUNK_PAGES
    }

    pub fn give_memory(&mut self, memory: FrameMemory) {
        if self.ready.len() < FRAME_MEMORY_READY_MAX {
            self.ready.push(memory);
        }
    }

    /// As many pages will get dirty soon as there have been, or none if that is 0: memory for so many stays.
    pub fn expect(&mut self, pages: usize) {
        self.spare = pages;
        self.give_back_memory();
    }

    fn run(&self, id: FrameId) -> &Run {
        self.runs[(id.0 & !RUN) as usize].as_ref().expect("a frame that has been dropped")
    }

    /// The first page of a frame.
    #[inline]
    pub fn page(&self, id: FrameId) -> &Page {
        if id.0 & RUN == 0 {
            self.chunks[id.0 as usize / CHUNK_PAGES].page(id.0 as usize % CHUNK_PAGES)
        } else {
            &self.run(id).pages[0]
        }
    }

    #[inline]
    pub fn page_mut(&mut self, id: FrameId) -> &mut Page {
        assert!(id.0 & RUN == 0, "a run is never changed");
        self.chunks[id.0 as usize / CHUNK_PAGES].page_mut(id.0 as usize % CHUNK_PAGES)
    }

    /// All pages of a frame.
    pub fn all_pages(&self, id: FrameId) -> &[Page] {
        if id.0 & RUN == 0 { std::slice::from_ref(self.page(id)) } else { &self.run(id).pages }
    }

    #[inline]
    pub fn get(&self, id: FrameId) -> &Frame {
        if id.0 & RUN == 0 { &self.singles[id.0 as usize] } else { &self.run(id).frame }
    }

    #[inline]
    pub fn get_mut(&mut self, id: FrameId) -> &mut Frame {
        if id.0 & RUN == 0 {
            return &mut self.singles[id.0 as usize];
        }
        let run = self.runs[(id.0 & !RUN) as usize].as_mut();
        &mut run.expect("a frame that has been dropped").frame
    }

    /// A frame for one page, with arbitrary content.
    pub fn add(&mut self, first: PageId, allocated: TxnId) -> FrameId {
        let place = match self.vacant.next(0) {
            Some(place) => place,
            None => {
                let place = (self.chunks.len() * CHUNK_PAGES) as u32;
                self.chunks.push(Chunk::new(self.ready.pop()));
                for vacant in place..place + CHUNK_PAGES as u32 {
                    self.vacant.insert(vacant);
                    self.singles.push(Frame::new(PageId::NONE, 1, TxnId(0)));
                }
                place
            }
        };
        self.vacant.remove(place);
        self.chunks[place as usize / CHUNK_PAGES].in_use += 1;
        self.singles[place as usize] = Frame::new(first, 1, allocated);
        self.pages += 1;
        FrameId(place)
    }

    pub fn add_run(&mut self, first: PageId, allocated: TxnId, pages: Box<[Page]>) -> FrameId {
        self.pages += pages.len();
        let run = Some(Run { frame: Frame::new(first, pages.len() as u32, allocated), pages });
        let number = match self.vacant_runs.pop() {
            Some(number) => {
                self.runs[number as usize] = run;
                number
            }
            None => {
                self.runs.push(run);
                self.runs.len() as u32 - 1
            }
        };
        FrameId(RUN | number)
    }

    pub fn remove(&mut self, id: FrameId) -> Frame {
        if id.0 & RUN != 0 {
            let number = id.0 & !RUN;
            let run = self.runs[number as usize].take().expect("a frame is dropped twice");
            self.vacant_runs.push(number);
            self.pages -= run.pages.len();
            return run.frame;
        }
        assert!(self.vacant.insert(id.0), "a frame is dropped twice");
        let frame = self.singles[id.0 as usize];
        self.chunks[id.0 as usize / CHUNK_PAGES].in_use -= 1;
        self.pages -= 1;
        self.give_back_memory();
        frame
    }

    /// Drops the last chunk if it is empty and enough remain for the next pages. Frames are taken
    /// from the front, so that the chunks at the end become empty.
    fn give_back_memory(&mut self) {
        while self.chunks.last().is_some_and(|chunk| chunk.in_use == 0)
            && self.vacant.len() >= self.spare.max(SPARE_FRAMES_MIN) + CHUNK_PAGES
        {
            self.chunks.pop();
            self.ready.clear();
            let end = self.chunks.len() * CHUNK_PAGES;
            self.singles.truncate(end);
            for place in end..end + CHUNK_PAGES {
                self.vacant.remove(place as u32);
            }
        }
    }

    /// Copies the page of one frame to another.
    pub fn copy(&mut self, from: FrameId, to: FrameId) {
        // By way of the stack: the two may be of one chunk, and this costs less than it looks.
        let page = self.page(from).0;
        self.page_mut(to).0.copy_from_slice(&page);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_come_and_go_and_memory_is_given_back() {
        let mut frames = Frames::default();
        let mut given = 0;
        let ids: Vec<FrameId> = (0..20_000)
            .map(|number| {
                while frames.wants_memory() {
                    frames.give_memory(FrameMemory::prepare().unwrap());
                    given += 1;
                }
                let id = frames.add(PageId(number + 2), TxnId(u64::from(number)));
                frames.page_mut(id).0[17] = number as u8;
                id
            })
            .collect();
        let run = frames.add_run(PageId(90_000), TxnId(5), vec![Page::ZERO; 3].into_boxed_slice());
        assert_eq!((frames.pages(), frames.all_pages(run).len()), (20_003, 3));
        let chunks = 20_000_usize.div_ceil(CHUNK_PAGES);
        assert_eq!(given, chunks - FRAME_MEMORY_FROM + FRAME_MEMORY_READY_MAX);
        for (number, id) in ids.iter().enumerate() {
            assert_eq!(frames.page(*id).0[17], number as u8);
            assert_eq!(frames.get(*id).first, PageId(number as u32 + 2));
        }
        frames.copy(ids[3], ids[19_999]);
        assert_eq!(frames.page(ids[19_999]).0[17], 3);
        frames.expect(10_000);
        for id in ids {
            frames.remove(id);
        }
        assert_eq!(frames.chunks.len(), 10_000 / CHUNK_PAGES + 1);
        frames.expect(0);
        assert_eq!(frames.remove(run).pages, 3);
        assert_eq!(frames.pages(), 0);
        assert!(frames.chunks.len() * CHUNK_PAGES <= SPARE_FRAMES_MIN + CHUNK_PAGES);
        assert!(frames.ready.is_empty() && !frames.wants_memory());
        let again = frames.add(PageId(7), TxnId(1));
        assert_eq!(frames.get(again).first, PageId(7));
    }
}
