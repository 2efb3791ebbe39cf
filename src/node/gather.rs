//! When the next write of the log begins: at once, or when those who were just answered are back.
//! At once is before what the former write has made durable is applied, so that the disk works meanwhile.
//!
//! Clients that ask again as soon as they have their answer come in two halves: while one half is written,
//! the other collects, and is written when the first is done. Each then waits for two writes, and each write
//! carries half of what it could. So after a write that answers many, the next one is held back for those to
//! come back and be part of it.
//!
//! That gains something only if they are all back, and their requests taken in, in less time than a write
//! takes: the halves keep the disk busy while requests are taken in, and the whole does not. So a wait has
//! that bound, and one that reaches it is a loss, after which some writes begin at once: the more, the more
//! losses in a row. A request that finds the disk idle, and nobody just answered, is written at once.
//!
//! Knows nothing of the log and the disk but how long a write takes. Times are microseconds.

/// Fewer open requests than this are not worth a wait. Chosen: a write for each is as fast.
const OPEN_MIN: usize = 8;
/// A write goes when so many of sixteen are there.
const ENOUGH_OF_16: usize = 14;
/// The longest wait after the answers. Chosen: what a client on a busy machine takes to ask again.
const WAIT_MAX_US: u64 = 1_000;
/// The longest time from one write to the next, in quarters of what a write takes.
const PAUSE_MAX_QUARTERS: u64 = 3;
/// Weight of the latest write in the average, as a shift.
const AVERAGE_SHIFT: u32 = 3;
/// After waits that brought nothing, up to so many writes are not waited for, as a power of two.
const SKIP_SHIFT_MAX: u32 = 6;

#[derive(Debug, Default)]
pub struct Gather {
    state: State,
    /// How long a write takes, on average.
    write_us: u64,
    /// Waits in a row that were too long.
    losses: u32,
    /// Writes that are not waited for.
    skips: u32,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Free,
    /// A write is done, and the answers are not sent yet. So many requests were open.
    Answering {
        open: usize,
        done_us: u64,
    },
    Waiting {
        open: usize,
        until_us: u64,
    },
}

impl Gather {
    /// A write is done, which took so long; so many requests were open, those among them that it answers.
    pub fn written(&mut self, took_us: u64, open: usize, now_us: u64) {
        let kept_us = self.write_us - (self.write_us >> AVERAGE_SHIFT);
        self.write_us = kept_us + (took_us >> AVERAGE_SHIFT);
        self.state = State::Free;
        if open < OPEN_MIN {
            return;
        }
        match self.skips.checked_sub(1) {
            Some(fewer) => self.skips = fewer,
            None => self.state = State::Answering { open, done_us: now_us },
        }
    }

    /// Whether the next write may begin, with so many requests open.
    pub fn may_begin(&mut self, open: usize, now_us: u64) -> bool {
        let (before, until_us) = match self.state {
            State::Free => return true,
            State::Answering { open, .. } => (open, u64::MAX),
            State::Waiting { open, until_us } => (open, until_us),
        };
        if open * 16 >= before * ENOUGH_OF_16 {
            self.losses = 0;
        } else if now_us >= until_us {
            self.losses += 1;
            self.skips = 1 << self.losses.min(SKIP_SHIFT_MAX);
        } else {
            return false;
        }
        self.state = State::Free;
        true
    }

    /// The answers are sent. How long the next write is held back at most, if it is.
    pub fn answered(&mut self, now_us: u64) -> Option<u64> {
        let State::Answering { open, done_us } = self.state else { return None };
        let last_us = done_us.saturating_add(self.write_us * PAUSE_MAX_QUARTERS / 4);
        let until_us = last_us.min(now_us.saturating_add(WAIT_MAX_US));
        self.state = State::Waiting { open, until_us };
        Some(until_us.saturating_sub(now_us))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Writes of two milliseconds.
    fn slow() -> Gather {
        let mut gather = Gather::default();
        for _ in 0..100 {
            gather.written(2_000, 1, 0);
        }
        gather
    }

    #[test]
    fn a_lone_client_never_waits() {
        let mut gather = slow();
        for _ in 0..100 {
            assert!(gather.may_begin(1, 0));
            gather.written(2_000, 1, 0);
            assert!(gather.may_begin(0, 0));
            assert_eq!(gather.answered(0), None);
        }
    }

    #[test]
    fn a_write_waits_for_those_who_were_just_answered_and_not_for_the_last_of_them() {
        let mut gather = slow();
        for _ in 0..100 {
            gather.written(2_000, 200, 0);
            assert!(
                !gather.may_begin(100, 0),
                "half is there, and the others are not answered yet"
            );
            let wait_us = gather.answered(50).unwrap();
            assert!((900..=WAIT_MAX_US).contains(&wait_us), "{wait_us}");
            assert!(!gather.may_begin(170, 60));
            assert!(gather.may_begin(175, 70));
            assert!(gather.may_begin(1, 70), "once it has begun nothing is waited for");
        }
    }

    #[test]
    fn who_does_not_come_back_is_not_waited_for_again_and_again() {
        let mut gather = slow();
        let mut waits = 0;
        for _ in 0..1_000 {
            gather.written(2_000, 20, 0);
            if let Some(wait_us) = gather.answered(0) {
                waits += 1;
                assert!(!gather.may_begin(10, wait_us - 1));
                assert!(gather.may_begin(10, wait_us));
            }
        }
        assert!((10..40).contains(&waits), "{waits} waits that brought nothing");
        // They are back: soon each write waits for them.
        let mut waits = 0;
        for _ in 0..200 {
            gather.written(2_000, 20, 0);
            if gather.answered(0).is_some() {
                waits += 1;
                assert!(gather.may_begin(20, 10));
            }
        }
        assert!(waits > 100, "{waits}");
    }

    #[test]
    fn where_the_answers_depend_on_others_nothing_is_held_back() {
        // The write is done and the quorum is not: all requests stay open.
        let mut gather = slow();
        gather.written(2_000, 200, 0);
        assert!(gather.may_begin(200, 0));
    }

    #[test]
    fn no_wait_makes_the_pause_between_writes_as_long_as_a_write() {
        let mut gather = slow();
        gather.written(2_000, 1_000, 5_000);
        assert!(!gather.may_begin(500, 5_000));
        // Answering has taken longer than is gained.
        assert_eq!(gather.answered(6_500), Some(0));
        assert!(gather.may_begin(510, 6_500));
        let mut fast = Gather::default();
        for _ in 0..100 {
            fast.written(80, 100, 0);
            assert!(fast.answered(0).is_none_or(|wait_us| wait_us < 80));
            fast.may_begin(100, 0);
        }
    }
}
