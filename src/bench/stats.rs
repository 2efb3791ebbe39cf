//! What came of the requests: a histogram for each operation, errors by code, and a timeline.
//!
//! Memory does not grow with the number of requests.

use hdrhistogram::Histogram;

use super::client::Outcome;
use super::limits::{ERRORS_KEPT, LATENCY_DIGITS, LATENCY_NS_MAX, TIMELINE_SECONDS_MAX};
use crate::grpc::Code;

const NS_PER_SECOND: u64 = 1_000_000_000;

#[derive(Debug)]
pub struct Stats {
    /// When what is measured began.
    pub start_ns: u64,
    /// When the last of it ended.
    pub last_ns: u64,
    pub operations: Vec<Tally>,
    pub errors: Vec<ErrorCount>,
    pub timeline: Vec<Second>,
}

/// One kind of operation.
#[derive(Debug)]
pub struct Tally {
    pub name: &'static str,
    pub latency_ns: Histogram<u64>,
}

#[derive(Debug, PartialEq, Eq)]
pub struct ErrorCount {
    pub code: String,
    pub count: u64,
    /// The text of the first one.
    pub example: String,
}

/// What ended within one second of the run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Second {
    pub done: u64,
    pub failed: u64,
    pub latency_ns_max: u64,
}

impl Stats {
    pub fn new(operations: &[&'static str]) -> Stats {
        let tally = |&name| Tally { name, latency_ns: histogram() };
        Stats {
            start_ns: 0,
            last_ns: 0,
            operations: operations.iter().map(tally).collect(),
            errors: Vec::new(),
            timeline: Vec::new(),
        }
    }

    /// `operation` by its place in the list that [`Stats::new`] was given.
    #[inline]
    pub fn done(&mut self, operation: usize, start_ns: u64, now_ns: u64) {
        let latency_ns = now_ns.saturating_sub(start_ns);
        if let Some(tally) = self.operations.get_mut(operation) {
            tally.latency_ns.saturating_record(latency_ns.max(1));
        }
        let second = self.second(now_ns);
        second.done += 1;
        second.latency_ns_max = second.latency_ns_max.max(latency_ns);
    }

    pub fn failed(&mut self, now_ns: u64, code: &str, example: &str) {
        self.second(now_ns).failed += 1;
        self.count_error(code, 1, example);
    }

    pub fn failed_with(&mut self, now_ns: u64, outcome: &Outcome) {
        let (code, example) = describe(outcome);
        self.failed(now_ns, &code, &example);
    }

    pub fn count_error(&mut self, code: &str, count: u64, example: &str) {
        if let Some(known) = self.errors.iter_mut().find(|error| error.code == code) {
            known.count += count;
            return;
        }
        let code = if self.errors.len() < ERRORS_KEPT { code } else { "others" };
        match self.errors.iter_mut().find(|error| error.code == code) {
            Some(others) => others.count += count,
            None => self.errors.push(ErrorCount {
                code: code.to_owned(),
                count,
                example: example.to_owned(),
            }),
        }
    }

    pub fn done_count(&self) -> u64 {
        self.operations.iter().map(|tally| tally.latency_ns.len()).sum()
    }

    pub fn failed_count(&self) -> u64 {
        self.errors.iter().map(|error| error.count).sum()
    }

    /// All operations but those of `except` in one histogram.
    pub fn merged(&self, except: Option<&str>) -> Histogram<u64> {
        let mut all = histogram();
        for tally in self.operations.iter().filter(|tally| Some(tally.name) != except) {
            // Same bounds: nothing can be lost.
            let _ = all.add(&tally.latency_ns);
        }
        all
    }

    #[inline]
    fn second(&mut self, now_ns: u64) -> &mut Second {
        self.last_ns = self.last_ns.max(now_ns);
        let at = (now_ns.saturating_sub(self.start_ns) / NS_PER_SECOND) as usize;
        let at = at.min(TIMELINE_SECONDS_MAX);
        if at >= self.timeline.len() {
            self.timeline.resize(at + 1, Second::default());
        }
        &mut self.timeline[at]
    }
}

pub fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LATENCY_NS_MAX, LATENCY_DIGITS).expect("bounds that are in order")
}

/// Code and text of what was no success.
pub fn describe(outcome: &Outcome) -> (String, String) {
    match outcome {
        Outcome::Ok => ("OK".to_owned(), String::new()),
        Outcome::Status(number, text) => {
            let code = Code::from_number(*number);
            (code.map_or_else(|| format!("code {number}"), |code| code.to_string()), text.clone())
        }
        Outcome::Http(status) => ("HTTP".to_owned(), format!("HTTP status {status}")),
        Outcome::Reset(code) => ("reset".to_owned(), format!("stream reset with {code}")),
        Outcome::Refused => ("refused".to_owned(), "the server was going away".to_owned()),
        Outcome::Malformed => ("malformed".to_owned(), "an answer that cannot be read".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latencies_keep_three_digits_from_nanoseconds_to_an_hour() {
        let mut stats = Stats::new(&["put"]);
        for latency_ns in [1, 999, 123_456, 78_900_000_000, LATENCY_NS_MAX] {
            stats.done(0, 5, 5 + latency_ns);
            let max_ns = stats.operations[0].latency_ns.max();
            assert!(max_ns.abs_diff(latency_ns) <= latency_ns / 1_000, "{latency_ns}: {max_ns}");
        }
        stats.done(0, 0, 10 * LATENCY_NS_MAX);
        assert_eq!(stats.done_count(), 6);
    }

    #[test]
    fn errors_are_counted_by_code_with_the_first_text() {
        let mut stats = Stats::new(&[]);
        stats.failed_with(1, &Outcome::Status(8, "too many".to_owned()));
        stats.failed_with(2, &Outcome::Status(8, "too large".to_owned()));
        stats.failed_with(3, &Outcome::Http(502));
        let counted: Vec<_> =
            stats.errors.iter().map(|e| (&e.code[..], e.count, &e.example[..])).collect();
        let expected = [("ResourceExhausted", 2, "too many"), ("HTTP", 1, "HTTP status 502")];
        assert_eq!(counted, expected);
        for code in 0..100 {
            stats.failed(4, &format!("code {code}"), "");
        }
        assert_eq!(stats.errors.len(), ERRORS_KEPT + 1);
        assert_eq!(stats.failed_count(), 103);
    }

    #[test]
    fn the_timeline_shows_in_which_second_something_ended() {
        let mut stats = Stats::new(&["get"]);
        stats.start_ns = 10 * NS_PER_SECOND;
        stats.done(0, 10 * NS_PER_SECOND, 10 * NS_PER_SECOND + 7);
        stats.done(0, 10 * NS_PER_SECOND, 12 * NS_PER_SECOND + 1);
        stats.failed(12 * NS_PER_SECOND + 2, "lost", "");
        let seconds: Vec<_> = stats.timeline.iter().map(|s| (s.done, s.failed)).collect();
        assert_eq!(seconds, [(1, 0), (0, 0), (1, 1)]);
        assert_eq!(stats.timeline[2].latency_ns_max, 2 * NS_PER_SECOND + 1);
    }
}
