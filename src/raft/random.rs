//! SplitMix64 (Steele, Lea, Flood 2014): enough to keep election timeouts apart, and the same
//! everywhere.

pub(super) struct Random(u64);

impl Random {
    #[cfg(test)]
    pub(super) fn new(seed: u64) -> Random {
        Random(seed)
    }

    /// One of many sequences of a seed: members and their lives must not share one, or they split
    /// votes in step.
    pub(super) fn of(seed: u64, parts: [u64; 2]) -> Random {
        parts.iter().fold(Random(seed), |mut random, part| Random(random.next() ^ part))
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`, which is not 0.
    pub(super) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::Random;

    #[test]
    fn the_same_seed_gives_the_same_numbers_and_another_seed_others() {
        let take = |seed| {
            (0..8)
                .map({
                    let mut r = Random::new(seed);
                    move |_| r.below(1000)
                })
                .collect::<Vec<_>>()
        };
        assert_eq!(take(7), take(7));
        assert_ne!(take(7), take(8));
    }

    #[test]
    fn two_members_or_lives_share_no_sequence() {
        let firsts: HashSet<u64> =
            (0..10_000).map(|i| Random::of(1, [i % 100, i / 100]).next()).collect();
        assert_eq!(firsts.len(), 10_000);
    }
}
