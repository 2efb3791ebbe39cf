//! A hierarchical timing wheel: tokens that are due at a time in milliseconds.
//!
//! ```text
//! level 0    64 slots of     1 ms   one token list per millisecond of the current 64 ms
//! level 1    64 slots of    64 ms
//! level 2    64 slots of     4 s
//!  ...
//! level 7    64 slots of   139 years
//! ```
//!
//! A time is eight digits of six bits. A token lies on the level of the highest digit in which its time
//! differs from the wheel's, in the slot of that digit. When the wheel's time enters a slot of a higher
//! level, its tokens move down, each to the level of the next digit that differs.
//!
//! Invariants
//! * On each level, tokens lie in slots from the wheel's own digit on: no slot wraps around.
//! * A slot of a higher level that is the wheel's own is being emptied; nothing is put into it.
//!
//! Setting and removing cost a few instructions, and a token moves at most seven times. How many move in
//! one call is the caller's to say, so that a million tokens of one slot do not hold up the thread.

/// No token.
const NONE: u32 = u32::MAX;
/// Of a token that is not in the wheel.
const NO_SLOT: u16 = u16::MAX;

const DIGIT_BITS: u32 = 6;
const SLOTS: usize = 1 << DIGIT_BITS;
const LEVELS: usize = 8;
/// Later times wait as long as this one: 8,900 years.
const TIME_MAX: u64 = (1 << (DIGIT_BITS * LEVELS as u32)) - 1;

/// A token's place: in the circular list of its slot.
#[derive(Clone, Copy)]
struct Node {
    when_ms: u64,
    prev: u32,
    next: u32,
    slot: u16,
}

pub struct Wheel {
    now_ms: u64,
    /// By token.
    nodes: Vec<Node>,
    /// First token of each slot, `level * SLOTS + digit`.
    heads: Box<[u32; LEVELS * SLOTS]>,
    /// One bit for each slot of a level that has tokens.
    occupied: [u64; LEVELS],
}

impl Wheel {
    pub fn new(now_ms: u64) -> Wheel {
        Wheel {
            now_ms: now_ms.min(TIME_MAX),
            nodes: Vec::new(),
            heads: Box::new([NONE; LEVELS * SLOTS]),
            occupied: [0; LEVELS],
        }
    }

    /// Adds a token that is not in the wheel. Tokens are small numbers: memory is held up to the largest.
    pub fn insert(&mut self, token: u32, when_ms: u64) {
        let index = token as usize;
        if index >= self.nodes.len() {
            let free = Node { when_ms: 0, prev: NONE, next: NONE, slot: NO_SLOT };
            self.nodes.resize(index + 1, free);
        }
        assert!(self.nodes[index].slot == NO_SLOT, "token {token} is in the wheel");
        let place_ms = when_ms.clamp(self.now_ms, TIME_MAX);
        let level = ((place_ms ^ self.now_ms) | 1).ilog2() / DIGIT_BITS;
        let slot = level as usize * SLOTS + digit(place_ms, level);
        let first = self.heads[slot];
        let (prev, next) = if first == NONE {
            self.heads[slot] = token;
            self.occupied[level as usize] |= 1 << digit(place_ms, level);
            (token, token)
        } else {
            let last = self.nodes[first as usize].prev;
            self.nodes[last as usize].next = token;
            self.nodes[first as usize].prev = token;
            (last, first)
        };
        self.nodes[index] = Node { when_ms, prev, next, slot: slot as u16 };
    }

    /// Takes a token out. False if it is not in the wheel.
    pub fn remove(&mut self, token: u32) -> bool {
        let Some(node) = self.nodes.get_mut(token as usize) else { return false };
        let Node { prev, next, slot, .. } = *node;
        if slot == NO_SLOT {
            return false;
        }
        node.slot = NO_SLOT;
        let slot = usize::from(slot);
        if next == token {
            self.heads[slot] = NONE;
            self.occupied[slot / SLOTS] &= !(1 << (slot % SLOTS));
        } else {
            self.nodes[prev as usize].next = next;
            self.nodes[next as usize].prev = prev;
            if self.heads[slot] == token {
                self.heads[slot] = next;
            }
        }
        true
    }

    /// When a token is due. `None` if it is not in the wheel.
    pub fn when_ms(&self, token: u32) -> Option<u64> {
        self.nodes.get(token as usize).filter(|node| node.slot != NO_SLOT).map(|node| node.when_ms)
    }

    /// Takes out a token that is due at `now_ms`, the earliest first. Moves at most `moves` tokens on the
    /// way and counts them down; with none left the answer may be `None` too early.
    pub fn pop(&mut self, now_ms: u64, moves: &mut u32) -> Option<u32> {
        loop {
            let Some((slot, start_ms)) =
                self.earliest().filter(|&(_, start_ms)| start_ms <= now_ms)
            else {
                self.now_ms = self.now_ms.max(now_ms.min(TIME_MAX));
                return None;
            };
            self.now_ms = self.now_ms.max(start_ms);
            let token = self.heads[slot];
            if slot < SLOTS {
                self.remove(token);
                return Some(token);
            }
            *moves = moves.checked_sub(1)?;
            let when_ms = self.nodes[token as usize].when_ms;
            self.remove(token);
            self.insert(token, when_ms);
        }
    }

    /// No token is due before this time. It may be early, when tokens have to move first.
    pub fn next_deadline(&self) -> Option<u64> {
        self.earliest().map(|(_, start_ms)| start_ms)
    }

    /// The slot with the earliest start, and of several the one on the highest level: what is still to move
    /// down was there before what came to the lower level since.
    fn earliest(&self) -> Option<(usize, u64)> {
        let mut earliest = None;
        for (level, occupied) in self.occupied.iter().enumerate() {
            let own = digit(self.now_ms, level as u32);
            let ahead = occupied >> own;
            if ahead == 0 {
                continue;
            }
            let digit = own + ahead.trailing_zeros() as usize;
            let shift = DIGIT_BITS * level as u32;
            let before = self.now_ms >> shift >> DIGIT_BITS << DIGIT_BITS;
            let start_ms = (before | digit as u64) << shift;
            if earliest.is_none_or(|(_, so_far_ms)| start_ms <= so_far_ms) {
                earliest = Some((level * SLOTS + digit, start_ms));
            }
        }
        earliest
    }
}

fn digit(time_ms: u64, level: u32) -> usize {
    (time_ms >> (DIGIT_BITS * level)) as usize % SLOTS
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    /// SplitMix64.
    struct Rng(u64);

    impl Rng {
        fn below(&mut self, n: u64) -> u64 {
            self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
            let mut z = self.0;
            z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
            (z ^ (z >> 31)) % n
        }

        /// Small and large ones alike.
        fn span_ms(&mut self) -> u64 {
            let bits = self.below(44);
            self.below(1 << bits)
        }
    }

    /// Takes all that is due in both, and compares.
    fn pop_all(
        wheel: &mut Wheel,
        model: &mut BTreeMap<(u64, u32), ()>,
        now_ms: u64,
        moves_max: u32,
    ) {
        let mut due_ms = 0;
        loop {
            let mut moves = moves_max;
            match wheel.pop(now_ms, &mut moves) {
                Some(token) => {
                    let when_ms = wheel.nodes[token as usize].when_ms;
                    assert!(
                        when_ms >= due_ms && when_ms <= now_ms,
                        "the earliest first, and none too early"
                    );
                    due_ms = when_ms;
                    assert!(model.remove(&(when_ms, token)).is_some());
                }
                None if moves == 0 && wheel.next_deadline().is_some_and(|at| at <= now_ms) => {}
                None => break,
            }
        }
        if let Some((&(when_ms, _), ())) = model.first_key_value() {
            assert!(when_ms > now_ms, "none is forgotten");
            let deadline = wheel.next_deadline().expect("there is one");
            assert!(deadline <= when_ms && deadline > now_ms);
        } else {
            assert_eq!(wheel.next_deadline(), None);
        }
    }

    #[test]
    fn the_wheel_agrees_with_a_sorted_map() {
        for seed in 0..30 {
            let mut rng = Rng(seed);
            let mut now_ms = rng.span_ms();
            let mut wheel = Wheel::new(now_ms);
            let mut model = BTreeMap::new();
            for _ in 0..3000 {
                let token = rng.below(300) as u32;
                match rng.below(8) {
                    0..4 => {
                        // Never in the past, so that the order of what is popped is that of the times.
                        let when_ms = now_ms + rng.span_ms();
                        if let Some(before_ms) = wheel.when_ms(token) {
                            assert!(model.remove(&(before_ms, token)).is_some());
                            assert!(wheel.remove(token));
                        }
                        wheel.insert(token, when_ms);
                        model.insert((when_ms, token), ());
                    }
                    4 => {
                        let before_ms = wheel.when_ms(token);
                        assert_eq!(wheel.remove(token), before_ms.is_some());
                        if let Some(before_ms) = before_ms {
                            assert!(model.remove(&(before_ms, token)).is_some());
                        }
                    }
                    kind => {
                        now_ms += if kind == 5 { rng.below(200) } else { rng.span_ms() / 64 };
                        let moves_max = if rng.below(2) == 0 { 1 } else { 1000 };
                        pop_all(&mut wheel, &mut model, now_ms, moves_max);
                    }
                }
            }
            pop_all(&mut wheel, &mut model, u64::MAX >> 8, 5);
            assert!(model.is_empty());
        }
    }

    #[test]
    fn what_is_due_in_the_past_is_due_at_once() {
        let mut wheel = Wheel::new(1_000_000);
        wheel.insert(3, 5);
        assert_eq!(wheel.next_deadline(), Some(1_000_000));
        assert_eq!(wheel.pop(1_000_000, &mut 0), Some(3));
    }

    #[test]
    fn what_is_due_after_the_end_of_time_waits_until_then() {
        let mut wheel = Wheel::new(0);
        wheel.insert(0, u64::MAX);
        assert_eq!(wheel.pop(TIME_MAX - 1, &mut 100), None);
        assert_eq!(wheel.pop(u64::MAX, &mut 100), Some(0));
        wheel.insert(0, u64::MAX);
        assert_eq!(wheel.pop(u64::MAX, &mut 100), Some(0));
    }

    #[test]
    fn a_crowded_slot_is_emptied_in_steps() {
        let mut wheel = Wheel::new(0);
        for token in 0..1000 {
            wheel.insert(token, 70_000 + u64::from(token));
        }
        let (mut popped, mut calls) = (0, 0);
        while popped < 1000 {
            let mut moves = 100;
            while wheel.pop(80_000, &mut moves).is_some() {
                popped += 1;
            }
            calls += 1;
        }
        assert!((10..=60).contains(&calls), "{calls} calls");
    }

    #[test]
    fn tokens_of_one_millisecond_come_in_the_order_they_were_set() {
        let mut wheel = Wheel::new(0);
        for token in [5, 1, 9, 3] {
            wheel.insert(token, 5000);
        }
        assert!(wheel.remove(9));
        let popped: Vec<u32> = std::iter::from_fn(|| wheel.pop(5000, &mut 100)).collect();
        assert_eq!(popped, [5, 1, 3]);
    }
}
