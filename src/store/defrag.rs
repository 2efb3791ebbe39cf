//! Making the file shorter while it is in use: live pages at its end move to available pages nearer
//! its start; the next checkpoints make the end free and cut it off.
//!
//! A move is an ordinary write of the open transaction, so a crash at any point finds either state
//! whole. A step does a bounded number of moves.

use super::Store;
use super::limits::HOLES_SHARE;
use super::page::Corruption;

/// What a step has done, and how things stand.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DefragProgress {
    pub moved_pages: u32,
    pub state: DefragState,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DefragState {
    /// The file is as short as moving pages makes it, or will be after the next checkpoints.
    Done,
    /// There is more to move.
    More,
    /// There is more to move, but to pages that are still held: by the last checkpoint (the next
    /// one frees them), or by this many readers.
    Waiting { readers: usize },
}

impl Store {
    /// Moves about `budget_pages` pages from the end of the file to its start. If the open
    /// transaction had no changes, the moves are committed under the mark of the last commit.
    pub fn defrag_step(&mut self, budget_pages: u32) -> Result<DefragProgress, Corruption> {
        let open_before = self.uncommitted;
        self.space.drop_readers(&mut self.pages);
        let (mut moved_pages, mut tried_pages) = (0, 0);
        let mut below = self.space.end();
        let state = loop {
            let Some(last) = self.space.last_live_below(below) else { break DefragState::Done };
            if self.holes_below(last) <= self.holes_tolerated() {
                break DefragState::Done;
            }
            if self.space.first_available().is_none_or(|first| first > last) {
                break DefragState::Waiting { readers: self.space.reader_count() };
            }
            if tried_pages >= budget_pages {
                break DefragState::More;
            }
            below = last;
            if !self.space.renew_space_page(last) {
                let moved = self.relocate(last)?;
                moved_pages += moved;
                tried_pages += moved.max(1);
            }
        };
        self.commit_moves(open_before);
        Ok(DefragProgress { moved_pages, state })
    }

    /// Pages below a live one that are not live.
    fn holes_below(&self, last: super::PageId) -> u32 {
        (last.0 + 1).saturating_sub(self.space.live_pages())
    }

    /// Holes that are left: moving a page copies those above it, so that a few holes remain always.
    fn holes_tolerated(&self) -> u32 {
        (self.space.live_pages() / HOLES_SHARE).max(HOLES_MIN)
    }
}

/// See [`Store::holes_tolerated`]: some times the height of a tree.
const HOLES_MIN: u32 = 32;
