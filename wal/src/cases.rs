//! The decision what a place in the log is: a batch, the end, a torn batch, or damage.
//!
//! Recovery walks from batch to batch. At each place it makes a [`Sight`], five observations, and finds
//! the one row of [`RECOVERY_CASES`] that matches it. Every combination of observations matches exactly
//! one row; a test tries them all.
//!
//! The rows rest on three facts. Before a batch is written, its place is *unwritten*: each sector is zero or
//! stale, left by an earlier life of the file and known by the stamp of a batch that is older than the log.
//! A sector is either written as a whole or not at all. A write is handed out only when the one before it is
//! durable, so what lies behind a batch proves that the batch was durable. Hence a batch may be cut only if
//! sectors of it are *missing* (unwritten), no sector of it is *wrong*, and nothing lies behind it.
//!
//! A single member has no other copy of what it lost: all damage stops it.

/// What the first sector of the place shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Head {
    /// Zero all over, or the place is the end of the segment.
    Blank,
    /// Of a batch that is older than the log, whatever it holds.
    Stale,
    /// Neither zero nor stale, and not a header.
    Rotten,
    /// A header of another format version.
    OtherVersion,
    /// A header that names another segment, another size of the segment, or leads out of it.
    Misplaced,
    /// A header in its place that does not continue the batch before: another sequence or another link.
    Stranger,
    /// The header of the batch that is due here.
    Next,
}

/// The sectors of the batch. Its header says how many there are; if that is lost, all up to the last one
/// in the segment that is not unwritten.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sectors {
    /// All unwritten, or there are none.
    Unwritten,
    /// All bear the stamp of the batch that is due here.
    Whole,
    /// Some are unwritten, all others bear the stamp.
    Holes,
    /// Some are neither unwritten nor bear the stamp.
    Mixed,
}

/// What lies behind the batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum After {
    /// What is unwritten, and segments without a batch.
    Nothing,
    /// Something in the same segment.
    Same,
    /// What is unwritten, and a later segment that was written to.
    Later,
    /// The next segment begins with the very batch that is due here.
    NextContinues,
}

/// What recovery sees at a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sight {
    /// Whether sequence and link of the batch that is due are known: from the batch before, or since the
    /// place is the beginning of segment 1.
    pub anchored: bool,
    pub head: Head,
    pub sectors: Sectors,
    /// The checksum of the body is right, and the body is the records it should be.
    pub body_sound: bool,
    /// Not looked at, and `Nothing`, where the body is sound.
    pub after: After,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Take the batch.
    Accept,
    /// Go on with the next segment.
    NextSegment,
    /// The log ends here.
    End,
    /// The log ends here, and what lies here was never acknowledged: zero it.
    Cut,
    /// Damage that nothing here can repair.
    Stop,
}

/// A row: it matches a sight if each observation is among those it lists.
#[derive(Debug, PartialEq, Eq)]
pub struct Case {
    pub name: &'static str,
    pub anchored: &'static [bool],
    pub head: &'static [Head],
    pub sectors: &'static [Sectors],
    pub body_sound: &'static [bool],
    pub after: &'static [After],
    pub decision: Decision,
    /// For the operator.
    pub meaning: &'static str,
}

impl Case {
    pub fn matches(&self, sight: &Sight) -> bool {
        self.anchored.contains(&sight.anchored)
            && self.head.contains(&sight.head)
            && self.sectors.contains(&sight.sectors)
            && self.body_sound.contains(&sight.body_sound)
            && self.after.contains(&sight.after)
    }
}

/// The row for a sight.
pub fn case_of(sight: &Sight) -> &'static Case {
    RECOVERY_CASES.iter().find(|case| case.matches(sight)).expect("some row matches every sight")
}

use After::{Later, NextContinues, Nothing, Same};
use Decision::{Accept, Cut, End, NextSegment, Stop};
use Head::{Blank, Misplaced, Next, OtherVersion, Rotten, Stale, Stranger};
use Sectors::{Holes, Mixed, Unwritten, Whole};

const YES: &[bool] = &[true];
const NO: &[bool] = &[false];
const EITHER: &[bool] = &[true, false];
const ANY_SECTORS: &[Sectors] = &[Unwritten, Whole, Holes, Mixed];
const ANY_AFTER: &[After] = &[Nothing, Same, Later, NextContinues];

/// What each sight means. Rows marked *never* cannot come from a disk; they are there so that the table
/// is whole, and stop.
pub const RECOVERY_CASES: &[Case] = &[
    Case {
        name: "batch",
        anchored: EITHER,
        head: &[Next],
        sectors: &[Whole],
        body_sound: YES,
        after: ANY_AFTER,
        decision: Accept,
        meaning: "a batch as it was written",
    },
    Case {
        name: "end of log",
        anchored: YES,
        head: &[Blank, Stale],
        sectors: &[Unwritten],
        body_sound: NO,
        after: &[Nothing],
        decision: End,
        meaning: "nothing was written here or later",
    },
    Case {
        name: "end of segment",
        anchored: YES,
        head: &[Blank, Stale],
        sectors: &[Unwritten],
        body_sound: NO,
        after: &[Later, NextContinues],
        decision: NextSegment,
        meaning: "the next batch did not fit into this segment",
    },
    Case {
        name: "debris behind a finished segment",
        anchored: YES,
        head: &[Blank, Stale, Rotten],
        sectors: &[Whole, Holes, Mixed],
        body_sound: NO,
        after: &[NextContinues],
        decision: NextSegment,
        meaning: "the rest of a segment is damaged, but the next segment proves that no batch was there",
    },
    Case {
        name: "torn batch",
        anchored: YES,
        head: &[Next],
        sectors: &[Holes],
        body_sound: NO,
        after: &[Nothing],
        decision: Cut,
        meaning: "the last write was interrupted and was never acknowledged",
    },
    Case {
        name: "torn batch without its header",
        anchored: YES,
        head: &[Blank, Stale],
        sectors: &[Holes],
        body_sound: NO,
        after: &[Nothing],
        decision: Cut,
        meaning: "the last write was interrupted and was never acknowledged",
    },
    Case {
        name: "rot in the last batch",
        anchored: EITHER,
        head: &[Next],
        sectors: &[Whole],
        body_sound: NO,
        after: &[Nothing],
        decision: Stop,
        meaning: "the last batch was written completely and has changed since; it may have been acknowledged",
    },
    Case {
        name: "rot before the end",
        anchored: EITHER,
        head: &[Next],
        sectors: &[Whole],
        body_sound: NO,
        after: &[Same, Later, NextContinues],
        decision: Stop,
        meaning: "a batch has changed since it was written; later batches prove that it was durable",
    },
    Case {
        name: "hole before the end",
        anchored: EITHER,
        head: &[Next],
        sectors: &[Holes],
        body_sound: NO,
        after: &[Same, Later, NextContinues],
        decision: Stop,
        meaning: "sectors of a batch are missing; later batches prove that it was durable",
    },
    Case {
        name: "hole in the first batch",
        anchored: NO,
        head: &[Next],
        sectors: &[Holes],
        body_sound: NO,
        after: &[Nothing],
        decision: Stop,
        meaning: "the only batch left is incomplete, although earlier segments go only when it is durable",
    },
    Case {
        name: "wrong sector in a batch",
        anchored: EITHER,
        head: &[Next],
        sectors: &[Mixed],
        body_sound: NO,
        after: ANY_AFTER,
        decision: Stop,
        meaning: "a sector of a batch holds something else than this batch",
    },
    Case {
        name: "rotten header",
        anchored: YES,
        head: &[Rotten],
        sectors: ANY_SECTORS,
        body_sound: NO,
        after: &[Nothing, Same, Later],
        decision: Stop,
        meaning: "where a batch or the end of the log should be lies something that is neither",
    },
    Case {
        name: "debris at the end",
        anchored: YES,
        head: &[Blank, Stale],
        sectors: &[Whole, Mixed],
        body_sound: NO,
        after: &[Nothing],
        decision: Stop,
        meaning: "behind the last batch lies something that no interrupted write leaves",
    },
    Case {
        name: "missing header",
        anchored: YES,
        head: &[Blank, Stale],
        sectors: &[Whole, Holes, Mixed],
        body_sound: NO,
        after: &[Later],
        decision: Stop,
        meaning: "a batch has lost its header; later segments prove that it was durable",
    },
    Case {
        name: "no beginning",
        anchored: NO,
        head: &[Blank, Stale, Rotten],
        sectors: ANY_SECTORS,
        body_sound: NO,
        after: ANY_AFTER,
        decision: Stop,
        meaning: "the oldest segment does not begin with a batch; segments are missing or damaged",
    },
    Case {
        name: "another version",
        anchored: EITHER,
        head: &[OtherVersion],
        sectors: ANY_SECTORS,
        body_sound: EITHER,
        after: ANY_AFTER,
        decision: Stop,
        meaning: "the log was written in a format this version does not know",
    },
    Case {
        name: "misplaced batch",
        anchored: EITHER,
        head: &[Misplaced],
        sectors: ANY_SECTORS,
        body_sound: EITHER,
        after: ANY_AFTER,
        decision: Stop,
        meaning: "a batch belongs to another segment, or the file's size was changed",
    },
    Case {
        name: "broken chain",
        anchored: EITHER,
        head: &[Stranger],
        sectors: ANY_SECTORS,
        body_sound: EITHER,
        after: ANY_AFTER,
        decision: Stop,
        meaning: "a batch does not continue the one before it; batches are missing or of another log",
    },
    Case {
        name: "never: an unwritten place that goes on",
        anchored: YES,
        head: &[Blank, Stale],
        sectors: ANY_SECTORS,
        body_sound: NO,
        after: &[Same],
        decision: Stop,
        meaning: "contradiction: without a header, all of the segment is looked at",
    },
    Case {
        name: "never: a rotten header in unwritten sectors",
        anchored: YES,
        head: &[Rotten],
        sectors: &[Unwritten],
        body_sound: NO,
        after: &[NextContinues],
        decision: Stop,
        meaning: "contradiction: the header's sector is one of them",
    },
    Case {
        name: "never: a header in unwritten sectors",
        anchored: EITHER,
        head: &[Next],
        sectors: &[Unwritten],
        body_sound: EITHER,
        after: ANY_AFTER,
        decision: Stop,
        meaning: "contradiction: the header's sector is one of them",
    },
    Case {
        name: "never: a body without its sectors",
        anchored: EITHER,
        head: &[Next],
        sectors: &[Holes, Mixed],
        body_sound: YES,
        after: ANY_AFTER,
        decision: Stop,
        meaning: "contradiction: the checksum covers the stamps",
    },
    Case {
        name: "never: a body without a header",
        anchored: EITHER,
        head: &[Blank, Stale, Rotten],
        sectors: ANY_SECTORS,
        body_sound: YES,
        after: ANY_AFTER,
        decision: Stop,
        meaning: "contradiction: the header holds the checksum",
    },
];

#[cfg(test)]
mod tests;
