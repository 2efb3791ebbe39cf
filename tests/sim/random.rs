//! The random numbers of the simulator: SplitMix64 (Steele et al. 2014), one sequence for each
//! concern, so that a new kind of fault does not change what an old seed does elsewhere.

/// What a sequence of random numbers is for.
#[derive(Clone, Copy)]
pub enum Concern {
    Odds,
    Network,
    Disks,
    Crashes,
    Faults,
    Clients,
    Clocks,
    Turns,
}

pub struct Random(u64);

impl Random {
    /// The sequence of a concern. `number` tells several of one kind apart.
    pub fn of(seed: u64, concern: Concern, number: u64) -> Random {
        let mut start = Random(seed ^ (concern as u64 + 1) << 56 ^ number << 40);
        Random(start.next())
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Below `bound`, which is not 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    pub fn index(&mut self, len: usize) -> usize {
        self.below(len as u64) as usize
    }

    pub fn between(&mut self, least: u64, most: u64) -> u64 {
        least + self.below(most - least + 1)
    }

    pub fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    /// True in so many of a thousand cases.
    pub fn permille(&mut self, n: u64) -> bool {
        n > 0 && self.below(1000) < n
    }

    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.index(from.len())]
    }

    /// Around `mean`, seldom far more: exponentially distributed, but for its tail.
    pub fn around(&mut self, mean: u64) -> u64 {
        let uniform = (self.below(1_000_000) + 1) as f64 / 1_000_000.0;
        (-(uniform.ln()) * mean as f64).min(20.0 * mean as f64) as u64
    }

    /// An index, as often as its weight says. Not all weights are 0.
    pub fn weighted(&mut self, weights: &[u64]) -> usize {
        let mut at = self.below(weights.iter().sum());
        for (index, weight) in weights.iter().enumerate() {
            if at < *weight {
                return index;
            }
            at -= weight;
        }
        unreachable!("the weights sum up")
    }
}

/// FNV-1a, for hashes that have to be the same on every machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Digest(pub u64);

impl Digest {
    pub const EMPTY: Digest = Digest(0xcbf2_9ce4_8422_2325);

    pub fn bytes(mut self, bytes: &[u8]) -> Digest {
        // Eight at a time: long values would otherwise be most of a run.
        let mut words = bytes.chunks_exact(8);
        for word in &mut words {
            self = self.word(u64::from_le_bytes(word.try_into().expect("eight bytes")));
        }
        for byte in words.remainder() {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
        self.word(bytes.len() as u64)
    }

    pub fn word(self, word: u64) -> Digest {
        let mixed = (self.0 ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        Digest(mixed ^ (mixed >> 29))
    }
}
