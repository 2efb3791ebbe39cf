//! What the leader knows of one other member's log.
//!
//! Invariant: `0 <= matched < next`. Entries up to `matched` are durable there; those between are
//! on their way or guesses.
//!
//! - *Probe*: the end of the common log is not known. One `Append` per answer or heartbeat.
//! - *Replicate*: it is known. `Append`s go out without waiting, within the window of `Inflight`.
//! - *Snapshot*: what it needs is compacted. Nothing is sent until the snapshot is there or has
//!   failed.

use std::collections::VecDeque;

use super::types::{LogIndex, NodeId};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ProgressState {
    Probe {
        /// Sent and not answered: nothing more until the answer or the next heartbeat's.
        sent: bool,
    },
    Replicate,
    Snapshot {
        index: LogIndex,
    },
}

pub(super) struct Progress {
    pub(super) id: NodeId,
    pub(super) matched: LogIndex,
    pub(super) next: LogIndex,
    pub(super) state: ProgressState,
    pub(super) inflight: Inflight,
    /// The commit index of the newest `Append`: the member is told again when ours is higher.
    pub(super) sent_commit: LogIndex,
    /// Heard from since the last check of the quorum.
    pub(super) is_recently_active: bool,
    /// The newest round of reads it confirmed.
    pub(super) confirmed_round: u64,
    /// An answer showed that it is behind, so an `Append` goes out even if empty: if one was lost,
    /// this brings it to light.
    pub(super) is_nudged: bool,
    /// Once for each heartbeat that is due by time; those for reads are many.
    pub(super) may_be_nudged: bool,
}

impl Progress {
    pub(super) fn new(id: NodeId, next: LogIndex) -> Progress {
        Progress {
            id,
            matched: LogIndex(0),
            next,
            state: ProgressState::Probe { sent: false },
            inflight: Inflight::default(),
            sent_commit: LogIndex(0),
            is_recently_active: false,
            confirmed_round: 0,
            is_nudged: false,
            may_be_nudged: false,
        }
    }

    pub(super) fn become_probe(&mut self) {
        self.next = self.matched.next();
        self.state = ProgressState::Probe { sent: false };
        self.inflight.clear();
    }

    pub(super) fn become_replicate(&mut self) {
        self.next = self.matched.next();
        self.state = ProgressState::Replicate;
        self.inflight.clear();
    }

    pub(super) fn become_snapshot(&mut self, index: LogIndex) {
        self.state = ProgressState::Snapshot { index };
        self.inflight.clear();
    }

    pub(super) fn pending_snapshot(&self) -> Option<LogIndex> {
        match self.state {
            ProgressState::Snapshot { index } => Some(index),
            ProgressState::Probe { .. } | ProgressState::Replicate => None,
        }
    }

    /// The snapshot has arrived or not; what the member makes of it shows when it is next heard
    /// from.
    pub(super) fn snapshot_finished(&mut self, index: LogIndex, arrived: bool) {
        self.become_probe();
        self.state = ProgressState::Probe { sent: true };
        if arrived {
            self.next = self.matched.max(index).next();
        }
    }

    /// Returns whether this is news.
    pub(super) fn accept(&mut self, matched: LogIndex) -> bool {
        self.next = self.next.max(matched.next());
        self.inflight.free_up_to(matched);
        let is_news = matched > self.matched;
        self.matched = self.matched.max(matched);
        is_news
    }

    /// An `Append` with `prev` was refused, and the logs can agree at `hint` at most. Returns
    /// whether that is news: messages may be old.
    pub(super) fn reject(&mut self, prev: LogIndex, hint: LogIndex) -> bool {
        if prev <= self.matched {
            return false;
        }
        match self.state {
            ProgressState::Replicate => {
                self.become_probe();
                true
            }
            ProgressState::Probe { .. } => {
                if self.next.prev() != prev {
                    return false;
                }
                self.next = prev.min(hint.next()).max(self.matched.next());
                self.state = ProgressState::Probe { sent: false };
                true
            }
            ProgressState::Snapshot { .. } => false,
        }
    }
}

/// The window of `Append`s that were sent and not acknowledged: last index and bytes of each,
/// oldest first.
#[derive(Default)]
pub(super) struct Inflight {
    sent: VecDeque<(LogIndex, usize)>,
    bytes: usize,
}

impl Inflight {
    pub(super) fn add(&mut self, last: LogIndex, bytes: usize) {
        self.sent.push_back((last, bytes));
        self.bytes += bytes;
    }

    pub(super) fn free_up_to(&mut self, matched: LogIndex) {
        while let Some((_, bytes)) = self.sent.pop_front_if(|(last, _)| *last <= matched) {
            self.bytes -= bytes;
        }
    }

    /// Makes room for one more: its answer may have been lost.
    pub(super) fn free_first(&mut self) {
        if let Some((_, bytes)) = self.sent.pop_front() {
            self.bytes -= bytes;
        }
    }

    fn clear(&mut self) {
        self.sent.clear();
        self.bytes = 0;
    }

    pub(super) fn is_full(&self, count_max: usize, bytes_max: usize) -> bool {
        self.sent.len() >= count_max || (self.bytes >= bytes_max && !self.sent.is_empty())
    }

    pub(super) fn count(&self) -> usize {
        self.sent.len()
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn probing(matched: u64, next: u64) -> Progress {
        let mut progress = Progress::new(NodeId(2), LogIndex(next));
        progress.matched = LogIndex(matched);
        progress
    }

    #[test]
    fn a_probe_goes_back_with_each_refusal_and_never_behind_what_is_matched() {
        let mut progress = probing(3, 20);
        assert!(progress.reject(LogIndex(19), LogIndex(12)));
        assert_eq!(progress.next, LogIndex(13));
        // The refusal of an earlier probe.
        assert!(!progress.reject(LogIndex(19), LogIndex(5)));
        // A hint that would lead forward.
        assert!(progress.reject(LogIndex(12), LogIndex(18)));
        assert_eq!(progress.next, LogIndex(12));
        assert!(progress.reject(LogIndex(11), LogIndex(0)));
        assert_eq!(progress.next, LogIndex(4));
        assert!(!progress.reject(LogIndex(3), LogIndex(0)));
        assert_eq!(progress.next, LogIndex(4));
    }

    #[test]
    fn a_window_is_bounded_by_count_and_by_bytes_and_opens_with_acknowledgements() {
        let mut inflight = Inflight::default();
        assert!(!inflight.is_full(2, 0));
        inflight.add(LogIndex(5), 700);
        assert!(inflight.is_full(2, 700) && !inflight.is_full(2, 701));
        inflight.add(LogIndex(9), 1);
        assert!(inflight.is_full(2, 9999));
        inflight.free_up_to(LogIndex(8));
        assert_eq!((inflight.count(), inflight.bytes()), (1, 1));
        inflight.free_first();
        inflight.free_first();
        assert_eq!((inflight.count(), inflight.bytes()), (0, 0));
    }

    #[test]
    fn after_a_snapshot_the_next_guess_is_behind_it_only_if_it_arrived() {
        for (arrived, next) in [(true, 51), (false, 4)] {
            let mut progress = probing(3, 4);
            progress.become_snapshot(LogIndex(50));
            assert!(!progress.reject(LogIndex(10), LogIndex(9)));
            progress.snapshot_finished(LogIndex(50), arrived);
            assert_eq!(progress.next, LogIndex(next));
            assert_eq!(progress.state, ProgressState::Probe { sent: true });
        }
    }
}
