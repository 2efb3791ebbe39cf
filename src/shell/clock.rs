//! The clocks. Everything below the shell is given its time as a number.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Monotonic milliseconds since the clock was made, which is when the process started to serve.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    started: Instant,
}

impl Clock {
    pub fn start() -> Clock {
        Clock { started: Instant::now() }
    }

    pub fn now_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// The same in microseconds, for what has to be measured.
    pub fn now_us(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    /// How long until `at_ms`; zero when it has passed. Never early: `now_ms()` after this pause
    /// is at least `at_ms`.
    pub fn until(&self, at_ms: u64) -> Duration {
        Duration::from_millis(at_ms).saturating_sub(self.started.elapsed())
    }
}

/// Milliseconds since 1970, by a clock that can be set: for numbers that must differ from one start to the next, and
/// for what others have dated. Nothing waits by it.
pub fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_in_the_past_is_no_wait() {
        let clock = Clock::start();
        assert_eq!(clock.until(0), Duration::ZERO);
        assert!(clock.until(clock.now_ms() + 60_000) > Duration::from_secs(1));
    }
}
