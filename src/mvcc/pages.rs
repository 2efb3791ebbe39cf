//! How many keys are left of lists that clients read in pages.
//!
//! A page behind the first is asked for at the revision of the first, from the key behind the last one that
//! came. Its answer says how many keys there are from there on, and to find that takes a walk over all of
//! them, or over all changes since. But it is what the page before has said, less the keys that it had: the
//! state at a revision does not change. So that is kept, for the last pages that were answered. What nobody waits
//! for any more goes first: a list that goes on does not come back to it.
//!
//! Invariant: what is kept is exact for as long as its revision can be read, which whoever asks has checked.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;

use super::keys::{End, Interval};

/// Lists that are being read. Chosen: a page of each request that ten busy connections have in flight.
const REMEMBERED_MAX: usize = 512;
/// Intervals with longer bounds are not kept: all together take a megabyte.
const BOUNDS_BYTES_MAX: usize = 2_048;

#[derive(Debug, Default)]
pub struct PageCounts(RefCell<VecDeque<Rest>>);

/// What is left behind a page.
#[derive(Debug)]
struct Rest {
    revision: i64,
    keys: u64,
    /// Lists that have not asked for the page behind it yet.
    lists: Cell<u32>,
    start: Box<[u8]>,
    /// None if the end is open.
    end: Option<Box<[u8]>>,
}

impl Rest {
    fn is(&self, interval: Interval<'_>, revision: i64) -> bool {
        let end = match interval.end {
            End::Single => return false,
            End::Before(end) => Some(end),
            End::Open => None,
        };
        self.revision == revision && *self.start == *interval.start && self.end.as_deref() == end
    }
}

impl PageCounts {
    /// The number of keys in `interval` at `revision`, if a page has ended before it.
    pub(super) fn find(&self, interval: Interval<'_>, revision: i64) -> Option<u64> {
        let kept = self.0.borrow();
        let rest = kept.iter().find(|rest| rest.is(interval, revision))?;
        rest.lists.set(rest.lists.get().saturating_sub(1));
        Some(rest.keys)
    }

    /// A page at `revision` has ended, and so many keys are left in `interval`, which begins behind it.
    pub(super) fn note(&self, interval: Interval<'_>, revision: i64, keys: u64) {
        let Interval { start, end } = interval;
        let end_bytes = if let End::Before(end) = end { end.len() } else { 0 };
        if end == End::Single || start.len() + end_bytes > BOUNDS_BYTES_MAX {
            return;
        }
        let end = if let End::Before(end) = end { Some(end.into()) } else { None };
        let mut kept = self.0.borrow_mut();
        if let Some(known) = kept.iter().find(|rest| rest.is(interval, revision)) {
            known.lists.set(known.lists.get() + 1);
            return;
        }
        if kept.len() == REMEMBERED_MAX {
            let oldest =
                kept.iter().rposition(|rest| rest.lists.get() == 0).unwrap_or(kept.len() - 1);
            kept.remove(oldest);
        }
        kept.push_front(Rest { revision, keys, lists: Cell::new(1), start: start.into(), end });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn behind(start: &[u8]) -> Interval<'_> {
        Interval { start, end: End::Open }
    }

    #[test]
    fn lists_that_go_on_are_remembered_however_many_pages_others_have_had() {
        let counts = PageCounts::default();
        // Half as many lists as are kept: one of them is read now and then, and the others all the time.
        let lists = REMEMBERED_MAX as i64 / 2;
        for page in 0..1_000_u64 {
            for list in 1..=lists {
                if list == 1 && page % 500 != 0 {
                    continue;
                }
                if page > 0 {
                    let before = if list == 1 { page - 500 } else { page - 1 };
                    let found = counts.find(behind(&before.to_be_bytes()), list);
                    assert_eq!(found, Some(before), "list {list}, page {page}");
                }
                counts.note(behind(&page.to_be_bytes()), list, page);
            }
        }
        assert_eq!(counts.0.borrow().len(), REMEMBERED_MAX);
    }

    #[test]
    fn two_lists_of_one_revision_are_both_remembered() {
        let counts = PageCounts::default();
        counts.note(behind(b"k"), 1, 7);
        counts.note(behind(b"k"), 1, 7);
        assert_eq!(counts.find(behind(b"k"), 1), Some(7));
        for list in 2..=2 * REMEMBERED_MAX as i64 {
            counts.note(behind(b"k"), list, 7);
            assert_eq!(counts.find(behind(b"k"), list), Some(7));
        }
        assert_eq!(counts.find(behind(b"k"), 1), Some(7));
    }

    #[test]
    fn the_oldest_list_is_forgotten_when_there_are_too_many() {
        let counts = PageCounts::default();
        for list in 1..=REMEMBERED_MAX as i64 + 1 {
            counts.note(behind(b"k"), list, 7);
        }
        assert_eq!(counts.find(behind(b"k"), 1), None);
        assert_eq!(counts.find(behind(b"k"), 2), Some(7));
    }
}
