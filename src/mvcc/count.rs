//! How many keys exist in an interval at a revision.
//!
//! Now: the difference of two ranks. Then: what the page before it has left, or the number of now, and each
//! change since undone, or, where that is more work, a walk over the interval.

use super::error::MvccError;
use super::keys::{End, Interval, KEY, KeyBuf, REV};
use super::reader::Reader;
use super::record::Record;
use super::revision::Revision;

/// Changes are undone up to this many, however few keys there are now: many may have been deleted.
const UNDO_MIN: u64 = 1024;

impl Reader<'_> {
    /// The number of keys in `interval` at `revision`: 0 and below mean the current one.
    pub fn count(&self, interval: Interval<'_>, revision: i64) -> Result<u64, MvccError> {
        self.count_at(interval, self.resolve(revision)?)
    }

    pub(super) fn count_at(&self, interval: Interval<'_>, revision: i64) -> Result<u64, MvccError> {
        if interval.end == End::Single {
            let visible = self.visible(&mut KeyBuf::of(interval.start), revision)?;
            return Ok(u64::from(visible.is_some()));
        }
        if let Some(known) = self.pages.and_then(|pages| pages.find(interval, revision)) {
            return Ok(known);
        }
        let now = self.count_now(interval)?;
        if revision >= self.revisions.current {
            return Ok(now);
        }
        // A walk over the interval meets at least every key of now.
        let undo_max = UNDO_MIN.max(now.saturating_mul(2));
        match self.count_undoing(interval, revision, now, undo_max)? {
            Some(count) => Ok(count),
            None => self.count_walking(interval, revision),
        }
    }

    /// The number of keys in `interval` at `revision`, if finding it takes no more than `steps_max`
    /// steps.
    pub(super) fn count_within(
        &self,
        interval: Interval<'_>,
        revision: i64,
        steps_max: u64,
    ) -> Result<Option<u64>, MvccError> {
        if interval.end == End::Single || revision >= self.revisions.current {
            return self.count_at(interval, revision).map(Some);
        }
        if let Some(known) = self.pages.and_then(|pages| pages.find(interval, revision)) {
            return Ok(Some(known));
        }
        let now = self.count_now(interval)?;
        self.count_undoing(interval, revision, now, steps_max)
    }

    fn count_now(&self, interval: Interval<'_>) -> Result<u64, MvccError> {
        let below = |key: &[u8]| self.view.rank(KEY, KeyBuf::of(key).prefix());
        let end = match interval.end {
            End::Open => self.view.weight(KEY),
            End::Before(end) => below(end)?,
            End::Single => self.view.rank(KEY, KeyBuf::of(interval.start).after())?,
        };
        Ok(end.saturating_sub(below(interval.start)?))
    }

    /// `None` if there were more than `undo_max` changes since.
    fn count_undoing(
        &self,
        interval: Interval<'_>,
        revision: i64,
        now: u64,
        undo_max: u64,
    ) -> Result<Option<u64>, MvccError> {
        // Every revision has at least one change.
        if (self.revisions.current - revision) as u64 > undo_max {
            return Ok(None);
        }
        let mut count = now as i64;
        let mut cursor = self.view.cursor(REV);
        let mut found = cursor.seek(&Revision::new(revision + 1, 0).to_bytes())?;
        let mut undone = 0;
        while found {
            undone += 1;
            if undone > undo_max {
                return Ok(None);
            }
            let malformed = || MvccError::damaged("a record of a change is malformed");
            let record = Record::decode(cursor.value()?).ok_or_else(malformed)?;
            if (record.tombstone || record.create)
                && interval.contains(record.key().ok_or_else(malformed)?)
            {
                count += if record.tombstone { 1 } else { -1 };
            }
            found = cursor.next()?;
        }
        u64::try_from(count)
            .map(Some)
            .map_err(|_| MvccError::damaged("the history has more creations than keys"))
    }

    fn count_walking(&self, interval: Interval<'_>, revision: i64) -> Result<u64, MvccError> {
        let mut scan = self.scan(interval, revision);
        let mut count = 0;
        while scan.next()? {
            count += 1;
        }
        Ok(count)
    }
}
