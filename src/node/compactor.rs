//! Auto-compaction: which revision is old enough to be compacted, by time or by number.
//!
//! Runs on the leader only; what it decides is proposed like a client's Compact.

use std::collections::VecDeque;

/// `--auto-compaction-mode` with its `--auto-compaction-retention`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retention {
    Off,
    /// Keep what is younger than so many milliseconds.
    Periodic {
        retention_ms: u64,
    },
    /// Keep so many revisions.
    Revision {
        revisions: i64,
    },
}

/// etcd compacts by number every five minutes.
const REVISION_INTERVAL_MS: u64 = 5 * 60 * 1000;
/// etcd looks at the revision ten times an interval, and an interval is an hour at most.
const SAMPLES_PER_INTERVAL: u64 = 10;
const INTERVAL_MAX_MS: u64 = 60 * 60 * 1000;

pub struct Compactor {
    retention: Retention,
    next_ms: u64,
    /// The revision at each look, oldest first: time and revision.
    samples: VecDeque<(u64, i64)>,
}

impl Compactor {
    pub fn new(retention: Retention, now_ms: u64) -> Compactor {
        let mut compactor = Compactor { retention, next_ms: 0, samples: VecDeque::new() };
        compactor.next_ms = now_ms + compactor.step_ms();
        compactor
    }

    fn step_ms(&self) -> u64 {
        match self.retention {
            Retention::Off => u64::MAX / 2,
            Retention::Periodic { retention_ms } => {
                (retention_ms.min(INTERVAL_MAX_MS) / SAMPLES_PER_INTERVAL).max(1)
            }
            Retention::Revision { .. } => REVISION_INTERVAL_MS,
        }
    }

    pub fn next_deadline(&self) -> Option<u64> {
        (self.retention != Retention::Off).then_some(self.next_ms)
    }

    /// The revision to compact now, if it is time for one. `leads` is false on a follower, which
    /// only watches the clock.
    pub fn due(&mut self, now_ms: u64, current: i64, compacted: i64, leads: bool) -> Option<i64> {
        if self.retention == Retention::Off || now_ms < self.next_ms {
            return None;
        }
        self.next_ms = now_ms + self.step_ms();
        let revision = match self.retention {
            Retention::Off => return None,
            Retention::Revision { revisions } => current - revisions,
            Retention::Periodic { retention_ms } => {
                self.samples.push_back((now_ms, current));
                let old_enough = |at: u64| at + retention_ms <= now_ms;
                let mut oldest = None;
                while let Some(&(at, revision)) = self.samples.front() {
                    if !old_enough(at) {
                        break;
                    }
                    oldest = Some(revision);
                    self.samples.pop_front();
                }
                oldest?
            }
        };
        (leads && revision > compacted && revision > 1).then_some(revision)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn by_time_it_compacts_what_was_current_one_retention_ago() {
        let mut compactor = Compactor::new(Retention::Periodic { retention_ms: 1000 }, 0);
        let mut compacted = -1;
        let mut done = Vec::new();
        for now in 0..=3000 {
            let current = 10 + now as i64;
            if let Some(revision) = compactor.due(now, current, compacted, true) {
                compacted = revision;
                done.push((now, revision));
            }
        }
        assert_eq!(done.first(), Some(&(1100, 110)));
        assert!(done.iter().all(|(now, revision)| *revision == 10 + *now as i64 - 1000));
        assert_eq!(done.len(), 20);
    }

    #[test]
    fn by_number_it_keeps_so_many_revisions_and_never_goes_back() {
        let mut compactor = Compactor::new(Retention::Revision { revisions: 100 }, 0);
        assert_eq!(compactor.due(REVISION_INTERVAL_MS - 1, 500, -1, true), None);
        assert_eq!(compactor.due(REVISION_INTERVAL_MS, 500, -1, true), Some(400));
        assert_eq!(compactor.due(2 * REVISION_INTERVAL_MS, 500, 400, true), None);
        assert_eq!(compactor.due(3 * REVISION_INTERVAL_MS, 50, -1, true), None);
    }

    #[test]
    fn a_follower_proposes_nothing() {
        let mut compactor = Compactor::new(Retention::Revision { revisions: 1 }, 0);
        assert_eq!(compactor.due(REVISION_INTERVAL_MS, 500, -1, false), None);
        assert_eq!(Compactor::new(Retention::Off, 0).next_deadline(), None);
    }
}
