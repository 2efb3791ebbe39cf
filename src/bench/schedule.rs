//! When requests are sent, and which of them count.
//!
//! *Closed loop*: whoever has an answer asks again. *Open loop*: request n is due at n / rate,
//! whatever has become of those before; its latency counts from then. So a server that stands still
//! for a second at 1,000 requests/s is charged with 1,000 latencies, half of them above 500 ms,
//! and not with the one request of each connection that it happened to hold.
//!
//! Knows no requests: only numbers and times (nanoseconds).

/// How a load ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Until {
    /// This long after the warm-up.
    Duration(u64),
    /// This many requests after the warm-up.
    Total(u64),
}

#[derive(Clone, Debug)]
pub struct Schedule {
    rate_per_second: Option<f64>,
    start_ns: u64,
    /// What is due before is not measured.
    measured_from_ns: u64,
    until: Until,
    issued: u64,
    issued_measured: u64,
}

/// A request to be sent now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Due {
    /// From when its latency counts.
    pub start_ns: u64,
    pub is_measured: bool,
}

impl Schedule {
    pub fn new(
        rate_per_second: Option<f64>,
        start_ns: u64,
        warmup_ns: u64,
        until: Until,
    ) -> Schedule {
        let measured_from_ns = start_ns + warmup_ns;
        Schedule {
            rate_per_second,
            start_ns,
            measured_from_ns,
            until,
            issued: 0,
            issued_measured: 0,
        }
    }

    pub fn measured_from_ns(&self) -> u64 {
        self.measured_from_ns
    }

    /// Takes the next request, if it is due and a slot is free, which the caller knows.
    #[inline]
    pub fn take(&mut self, now_ns: u64) -> Option<Due> {
        let start_ns = self.next_start_ns(now_ns);
        if start_ns > now_ns || self.ends_before(start_ns) {
            return None;
        }
        let is_measured = start_ns >= self.measured_from_ns;
        self.issued += 1;
        self.issued_measured += u64::from(is_measured);
        Some(Due { start_ns, is_measured })
    }

    /// Nothing is due any more, now or later. In the open loop that includes what is late.
    pub fn is_over(&self, now_ns: u64) -> bool {
        self.ends_before(self.next_start_ns(now_ns))
    }

    /// When the next request is due; `None` in the closed loop, where it is a matter of slots.
    pub fn next_due_ns(&self) -> Option<u64> {
        self.rate_per_second.map(|_| self.next_start_ns(0))
    }

    /// When a load with a duration ends.
    pub fn end_ns(&self) -> Option<u64> {
        match self.until {
            Until::Duration(duration_ns) => Some(self.measured_from_ns + duration_ns),
            Until::Total(_) => None,
        }
    }

    /// Requests of the open loop that should have been sent by now (or by the end) and were not.
    pub fn late(&self, now_ns: u64) -> u64 {
        let Some(rate) = self.rate_per_second else { return 0 };
        let until_ns = self.end_ns().map_or(now_ns, |end_ns| end_ns.min(now_ns));
        let since_ns = until_ns.saturating_sub(self.start_ns) as f64;
        let due = (since_ns * rate / 1e9).ceil() as u64;
        let due = match self.until {
            Until::Total(total) => due.min(self.issued + (total - self.issued_measured)),
            Until::Duration(_) => due,
        };
        due.saturating_sub(self.issued)
    }

    fn next_start_ns(&self, now_ns: u64) -> u64 {
        match self.rate_per_second {
            Some(rate) => self.start_ns + (self.issued as f64 * 1e9 / rate) as u64,
            None => now_ns,
        }
    }

    fn ends_before(&self, start_ns: u64) -> bool {
        match self.until {
            Until::Duration(duration_ns) => start_ns >= self.measured_from_ns + duration_ns,
            Until::Total(total) => self.issued_measured >= total,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    #[test]
    fn a_closed_loop_is_always_due_until_its_end() {
        let mut schedule = Schedule::new(None, 100, 50, Until::Duration(200));
        assert_eq!(schedule.take(100), Some(Due { start_ns: 100, is_measured: false }));
        assert_eq!(schedule.take(150), Some(Due { start_ns: 150, is_measured: true }));
        assert_eq!(schedule.take(349), Some(Due { start_ns: 349, is_measured: true }));
        assert_eq!(schedule.take(350), None);
        assert!(schedule.is_over(350) && !schedule.is_over(349));
        assert_eq!((schedule.late(350), schedule.next_due_ns()), (0, None));
    }

    #[test]
    fn an_open_loop_is_due_at_its_rate_and_never_forgets() {
        let mut schedule = Schedule::new(Some(1_000.0), 5 * MS, 2 * MS, Until::Duration(4 * MS));
        assert_eq!(schedule.take(4 * MS), None);
        assert_eq!(schedule.take(5 * MS), Some(Due { start_ns: 5 * MS, is_measured: false }));
        assert_eq!(schedule.take(5 * MS), None);
        assert_eq!(schedule.next_due_ns(), Some(6 * MS));
        // Nobody had a slot until now: all of it is late, and counts from when it was due.
        assert_eq!(schedule.late(30 * MS), 5);
        let starts: Vec<_> = std::iter::from_fn(|| schedule.take(30 * MS)).collect();
        let expected = [(6, false), (7, true), (8, true), (9, true), (10, true)];
        let expected = expected.map(|(ms, is_measured)| Due { start_ns: ms * MS, is_measured });
        assert_eq!(starts, expected);
        assert!(schedule.is_over(30 * MS));
        assert_eq!(schedule.late(30 * MS), 0);
    }

    #[test]
    fn a_total_counts_only_what_is_measured() {
        let mut schedule = Schedule::new(Some(1_000.0), 0, 2 * MS, Until::Total(3));
        let taken: Vec<_> = std::iter::from_fn(|| schedule.take(60 * MS)).collect();
        assert_eq!(taken.len(), 5);
        assert_eq!(taken.iter().filter(|due| due.is_measured).count(), 3);
        assert!(schedule.is_over(0));
        let mut schedule = Schedule::new(None, 0, 0, Until::Total(2));
        assert!(schedule.take(1).is_some() && schedule.take(1).is_some());
        assert_eq!(schedule.take(1), None);
    }
}
