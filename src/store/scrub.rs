//! Looking for damage before somebody needs the page: all live pages of the file are verified, some
//! at a time, in the order in which they lie there, whether they have been looked at before or not.

use super::Store;
use super::page::{Corruption, PageId};

/// Where a scrub stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ScrubProgress {
    pub verified_pages: u32,
    /// Where to go on; none when the end has been reached.
    pub next: Option<PageId>,
}

impl Store {
    /// Verifies about `budget_pages` live pages from page `from` on. After an error, go on behind
    /// the page it names.
    pub fn scrub_step(&self, from: PageId, budget_pages: u32) -> Result<ScrubProgress, Corruption> {
        let mut next = from.0;
        let mut verified_pages = 0;
        if next < 2 {
            self.verify_newest_meta()?;
            next = 2;
        }
        while verified_pages < budget_pages {
            let Some(page) = self.space.next_live(PageId(next)) else {
                return Ok(ScrubProgress { verified_pages, next: None });
            };
            let count = if self.pages.frame_of(page).is_some() {
                // On the heap: there is nothing of it in the file yet.
                1
            } else if self.space.is_space_page(page) {
                self.space.verify_space_page(&self.pages, page)?;
                1
            } else {
                self.pages.verify_in_map(page)?
            };
            verified_pages += count;
            next = page.0 + count;
        }
        Ok(ScrubProgress { verified_pages, next: Some(PageId(next)) })
    }
}
