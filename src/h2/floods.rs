//! Budgets for what costs the peer little and this end more: each a bucket that leaks.

use super::limits::Rate;

/// Thousandths of an event, so that a slow leak over a short time is not lost.
const SCALE: u64 = 1_000;

#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Bucket {
    level: u64,
    at_ms: u64,
}

impl Bucket {
    /// Counts one event; false when that is one too many.
    pub fn admit(&mut self, rate: Rate, now_ms: u64) -> bool {
        let elapsed_ms = now_ms.saturating_sub(self.at_ms);
        let leaked = elapsed_ms.saturating_mul(u64::from(rate.per_second));
        self.at_ms = now_ms;
        self.level = self.level.saturating_sub(leaked);
        let is_admitted = self.level + SCALE <= u64::from(rate.burst) * SCALE;
        self.level += if is_admitted { SCALE } else { 0 };
        is_admitted
    }
}

#[derive(Debug, Default)]
pub(super) struct Floods {
    pub peer_resets: Bucket,
    pub own_resets: Bucket,
    pub settings: Bucket,
    pub empty_data: Bucket,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_admits_its_burst_and_then_its_rate() {
        let rate = Rate { burst: 3, per_second: 2 };
        let mut bucket = Bucket::default();
        let admitted: Vec<_> = [0, 0, 0, 0, 400, 500, 1_500, 1_500, 1_500, 60_000]
            .into_iter()
            .map(|now_ms| bucket.admit(rate, now_ms))
            .collect();
        let expected = [true, true, true, false, false, true, true, true, false, true];
        assert_eq!(admitted, expected);
    }
}
