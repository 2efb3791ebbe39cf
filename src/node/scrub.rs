//! Looking for damage before somebody needs the page: the whole store is verified again and again, a
//! window of the file at a time. A window is first read on another thread ([`Scrub::window`]), so
//! that looking at its pages does not wait for the disk.

use std::ops::Range;

use crate::store::{Corruption, PAGE_SIZE, PageId, Store};

/// Pages of a window: about 200 microseconds of checksums.
const WINDOW_PAGES: u32 = 64;
/// Time between two windows: 5 MiB a second, a tenth of a percent of a core.
const WINDOW_MS: u64 = 100;
/// Time between two passes.
const PASS_MS: u64 = 10 * 60_000;

/// What the scrubber has done since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ScrubCounts {
    pub verified_pages: u64,
    pub passes: u64,
    pub damaged_pages: u64,
}

pub struct Scrub {
    next: PageId,
    due_ms: u64,
    reading: bool,
    pub counts: ScrubCounts,
}

impl Scrub {
    pub fn new(now_ms: u64) -> Scrub {
        Scrub {
            next: PageId(0),
            due_ms: now_ms + WINDOW_MS,
            reading: false,
            counts: ScrubCounts::default(),
        }
    }

    pub fn next_deadline(&self) -> u64 {
        if self.reading { u64::MAX } else { self.due_ms }
    }

    /// The bytes of the file that are to be read into the page cache before [`Scrub::verify`] is
    /// called, if it is time.
    pub fn window(&mut self, store: &Store, now_ms: u64) -> Option<Range<u64>> {
        if self.reading || now_ms < self.due_ms {
            return None;
        }
        self.reading = true;
        let first = store.next_live(self.next).unwrap_or(self.next);
        let start = first.offset().min(store.file_len());
        let end = start + u64::from(WINDOW_PAGES) * PAGE_SIZE as u64;
        Some(start..end.min(store.file_len()))
    }

    /// Verifies a window. An error is a damaged page; the next window begins behind it.
    pub fn verify(&mut self, store: &Store, now_ms: u64) -> Result<(), Corruption> {
        self.reading = false;
        self.due_ms = now_ms + WINDOW_MS;
        match store.scrub_step(self.next, WINDOW_PAGES) {
            Ok(progress) => {
                self.counts.verified_pages += u64::from(progress.verified_pages);
                match progress.next {
                    Some(next) => self.next = next,
                    None => {
                        self.next = PageId(0);
                        self.counts.passes += 1;
                        self.due_ms = now_ms + PASS_MS;
                    }
                }
                Ok(())
            }
            Err(corruption) => {
                self.counts.damaged_pages += 1;
                self.next = PageId(corruption.page.0.max(self.next.0) + 1);
                Err(corruption)
            }
        }
    }
}
