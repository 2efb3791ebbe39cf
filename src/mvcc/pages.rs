//! How many keys are left of lists that clients read in pages.
//!
//! A page behind the first is asked for at the revision of the first, from the key behind the last one that
//! came. Its answer says how many keys there are from there on, and to find that takes a walk over all of
//! them, or over all changes since. But it is what the page before has said, less the keys that it had: the
//! state at a revision does not change. So that is kept, for the last pages that were answered.
//!
//! Invariant: what is kept is exact for as long as its revision can be read, which whoever asks has checked.

use std::cell::RefCell;
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
        kept.iter().find(|rest| rest.is(interval, revision)).map(|rest| rest.keys)
    }

    /// A page at `revision` has ended, and so many keys are left in `interval`, which begins behind it.
    pub(super) fn note(&self, interval: Interval<'_>, revision: i64, keys: u64) {
        let Interval { start, end } = interval;
        let end_bytes = if let End::Before(end) = end { end.len() } else { 0 };
        let is_known = self.find(interval, revision).is_some();
        if end == End::Single || is_known || start.len() + end_bytes > BOUNDS_BYTES_MAX {
            return;
        }
        let end = if let End::Before(end) = end { Some(end.into()) } else { None };
        let mut kept = self.0.borrow_mut();
        kept.truncate(REMEMBERED_MAX - 1);
        kept.push_front(Rest { revision, keys, start: start.into(), end });
    }
}
