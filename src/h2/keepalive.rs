//! Who may ping how often, and when a silent peer is given up; both as grpc-go does it, since
//! clients are tuned to that.

use super::limits::Limits;

/// Judges the client's pings.
///
/// A client that measures the bandwidth-delay product pings whenever it receives data. Those pings
/// are no offence: after each HEADERS or DATA frame sent, one ping is free and clears the strikes.
#[derive(Debug, Default)]
pub(super) struct PingPolicy {
    last_ping_ms: Option<u64>,
    strikes: u32,
    is_forgiving: bool,
}

impl PingPolicy {
    /// HEADERS or DATA have been sent.
    #[inline]
    pub fn forgive(&mut self) {
        self.is_forgiving = true;
    }

    /// False when this ping is one too many.
    pub fn admit(&mut self, limits: &Limits, has_streams: bool, now_ms: u64) -> bool {
        let last_ping_ms = self.last_ping_ms.replace(now_ms);
        if std::mem::take(&mut self.is_forgiving) {
            self.strikes = 0;
            return true;
        }
        let interval_ms = if has_streams || limits.ping_without_stream {
            limits.ping_min_interval_ms
        } else {
            limits.ping_idle_interval_ms
        };
        if last_ping_ms.is_some_and(|last_ms| now_ms < last_ms.saturating_add(interval_ms)) {
            self.strikes += 1;
        }
        self.strikes <= limits.ping_strikes_max
    }
}

/// Decides when the client is pinged and when it counts as gone.
#[derive(Debug, Default)]
pub(super) struct Keepalive {
    last_read_ms: u64,
    ping_sent_ms: Option<u64>,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Due {
    Nothing,
    Ping,
    /// No byte since the ping.
    Gone,
}

impl Keepalive {
    #[inline]
    pub fn heard(&mut self, now_ms: u64) {
        self.last_read_ms = now_ms;
        self.ping_sent_ms = None;
    }

    pub fn deadline_ms(&self, limits: &Limits) -> u64 {
        match self.ping_sent_ms {
            Some(sent_ms) => sent_ms.saturating_add(limits.keepalive_timeout_ms),
            None => self.last_read_ms.saturating_add(limits.keepalive_interval_ms),
        }
    }

    pub fn due(&mut self, limits: &Limits, now_ms: u64) -> Due {
        if now_ms < self.deadline_ms(limits) {
            return Due::Nothing;
        }
        if self.ping_sent_ms.is_some() {
            return Due::Gone;
        }
        self.ping_sent_ms = Some(now_ms);
        Due::Ping
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admitted(has_streams: bool, pings_ms: &[u64]) -> Vec<bool> {
        let mut policy = PingPolicy::default();
        let limits = Limits::default();
        pings_ms.iter().map(|&now_ms| policy.admit(&limits, has_streams, now_ms)).collect()
    }

    #[test]
    fn the_third_strike_is_too_many() {
        assert_eq!(admitted(true, &[0, 1, 2, 3]), [true, true, true, false]);
        assert_eq!(admitted(true, &[0, 5_000, 10_000, 15_000, 20_000]), [true; 5]);
        assert_eq!(admitted(false, &[0, 5_000, 10_000, 15_000]), [true, true, true, false]);
    }

    #[test]
    fn a_ping_after_data_clears_the_strikes() {
        let mut policy = PingPolicy::default();
        let limits = Limits::default();
        for round in 0..100 {
            policy.forgive();
            assert!(policy.admit(&limits, true, round), "the free ping of round {round}");
            assert!(policy.admit(&limits, true, round), "first strike of round {round}");
            assert!(policy.admit(&limits, true, round), "second strike of round {round}");
        }
        assert!(!policy.admit(&limits, true, 100));
    }

    #[test]
    fn a_silent_peer_is_pinged_and_then_given_up() {
        let limits = Limits::default();
        let two_hours_ms = limits.keepalive_interval_ms;
        let mut keepalive = Keepalive::default();
        keepalive.heard(7);
        assert_eq!(keepalive.due(&limits, 6 + two_hours_ms), Due::Nothing);
        assert_eq!(keepalive.due(&limits, 7 + two_hours_ms), Due::Ping);
        assert_eq!(keepalive.due(&limits, 8 + two_hours_ms), Due::Nothing);
        assert_eq!(keepalive.deadline_ms(&limits), 7 + two_hours_ms + 20_000);
        assert_eq!(keepalive.due(&limits, 7 + two_hours_ms + 20_000), Due::Gone);
        keepalive.heard(8 + two_hours_ms);
        assert_eq!(keepalive.due(&limits, 9 + two_hours_ms), Due::Nothing);
    }
}
