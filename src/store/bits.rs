//! Sets of page numbers: bitmaps.

/// A bitmap with summaries: a bit of a level says whether its word of the level below has any bit
/// set. Finding the first member at or after a number costs a few words, however large the set.
#[derive(Default)]
pub struct PageSet {
    levels: Vec<Vec<u64>>,
    len: usize,
}

impl PageSet {
    pub fn len(&self) -> usize {
        self.len
    }

    pub fn contains(&self, page: u32) -> bool {
        self.levels
            .first()
            .and_then(|words| words.get(page as usize / 64))
            .is_some_and(|word| word >> (page % 64) & 1 == 1)
    }

    fn grow(&mut self, words: usize) {
        if self.levels.is_empty() {
            self.levels.push(Vec::new());
        }
        let mut words = words;
        let mut level = 0;
        loop {
            if self.levels[level].len() < words {
                self.levels[level].resize(words, 0);
            }
            if self.levels[level].len() <= 1 {
                break;
            }
            words = self.levels[level].len().div_ceil(64);
            level += 1;
            if self.levels.len() == level {
                // A new top summarises what is there already.
                let below = &self.levels[level - 1];
                let mut summary = vec![0; words];
                for (index, word) in below.iter().enumerate() {
                    if *word != 0 {
                        summary[index / 64] |= 1 << (index % 64);
                    }
                }
                self.levels.push(summary);
            }
        }
    }

    /// Adds a page; false if it was there.
    pub fn insert(&mut self, page: u32) -> bool {
        let mut index = page as usize;
        if self.levels.first().is_none_or(|words| words.len() <= index / 64) {
            // In steps, so that a file growing page by page does not resize each time.
            self.grow((index / 64 + 1).next_multiple_of(64));
        }
        if self.contains(page) {
            return false;
        }
        for words in &mut self.levels {
            let word = &mut words[index / 64];
            let was = *word;
            *word |= 1 << (index % 64);
            if was != 0 {
                break;
            }
            index /= 64;
        }
        self.len += 1;
        true
    }

    /// Takes a page out; false if it was not there.
    pub fn remove(&mut self, page: u32) -> bool {
        if !self.contains(page) {
            return false;
        }
        let mut index = page as usize;
        for words in &mut self.levels {
            let word = &mut words[index / 64];
            *word &= !(1 << (index % 64));
            if *word != 0 {
                break;
            }
            index /= 64;
        }
        self.len -= 1;
        true
    }

    /// The smallest member `>= from`.
    pub fn next(&self, from: u32) -> Option<u32> {
        let mut index = from as usize;
        let mut level = 0;
        // Up, until a word has a bit at or behind the place,
        loop {
            let words = self.levels.get(level)?;
            let word = words.get(index / 64).map_or(0, |word| word >> (index % 64) << (index % 64));
            if word != 0 {
                index = index / 64 * 64 + word.trailing_zeros() as usize;
                break;
            }
            index = index / 64 + 1;
            level += 1;
        }
        // and down along the first bits.
        while level > 0 {
            level -= 1;
            index = index * 64 + self.levels[level][index].trailing_zeros() as usize;
        }
        Some(index as u32)
    }

    /// First of the next stretch of members `>= from`, and its length, not looking beyond `enough`.
    pub fn next_stretch(&self, from: u32, enough: u32) -> Option<(u32, u32)> {
        let first = self.next(from)?;
        let words = &self.levels[0];
        let mut end = first as usize;
        while end < first as usize + enough as usize {
            let Some(word) = words.get(end / 64) else { break };
            let ones = (word >> (end % 64)).trailing_ones() as usize;
            end += ones;
            if ones < 64 - (end - ones) % 64 {
                break;
            }
        }
        Some((first, (end - first as usize).min(enough as usize) as u32))
    }

    #[cfg(test)]
    pub fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        let mut from = Some(0);
        std::iter::from_fn(move || {
            let page = self.next(from?)?;
            from = page.checked_add(1);
            Some(page)
        })
    }
}

/// A plain bitmap.
#[derive(Default, Clone)]
pub struct Bits {
    words: Vec<u64>,
}

impl Bits {
    pub fn get(&self, index: u32) -> bool {
        self.words.get(index as usize / 64).is_some_and(|word| word >> (index % 64) & 1 == 1)
    }

    pub fn set(&mut self, index: u32, value: bool) {
        let word = index as usize / 64;
        if self.words.len() <= word {
            self.words.resize((word + 1).next_multiple_of(64), 0);
        }
        if value {
            self.words[word] |= 1 << (index % 64);
        } else {
            self.words[word] &= !(1 << (index % 64));
        }
    }

    /// The last set bit below `end`.
    pub fn last_below(&self, end: u32) -> Option<u32> {
        let mut word_index = end as usize / 64;
        let mut word = self.word(word_index) & ((1 << (end % 64)) - 1);
        while word == 0 {
            word_index = word_index.checked_sub(1)?;
            word = self.word(word_index);
        }
        Some(word_index as u32 * 64 + 63 - word.leading_zeros())
    }

    /// The first set bit `>= from`.
    pub fn next(&self, from: u32) -> Option<u32> {
        let mut word_index = from as usize / 64;
        let mut word = self.word(word_index) >> (from % 64) << (from % 64);
        while word == 0 {
            word_index += 1;
            word = *self.words.get(word_index)?;
        }
        Some(word_index as u32 * 64 + word.trailing_zeros())
    }

    /// Word `index`, zero beyond the end.
    pub fn word(&self, index: usize) -> u64 {
        self.words.get(index).copied().unwrap_or(0)
    }

    pub fn set_word(&mut self, index: usize, value: u64) {
        if self.words.len() <= index {
            self.words.resize((index + 1).next_multiple_of(64), 0);
        }
        self.words[index] = value;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn random(state: &mut u64) -> u64 {
        *state ^= *state << 13;
        *state ^= *state >> 7;
        *state ^= *state << 17;
        *state
    }

    #[test]
    fn a_page_set_agrees_with_a_btree_set() {
        let mut state = 7;
        let mut set = PageSet::default();
        let mut model = BTreeSet::new();
        for step in 0..200_000u64 {
            let spread = if step % 1000 < 900 { 5_000 } else { 600_000 };
            let page = (random(&mut state) % spread) as u32;
            match random(&mut state) % 5 {
                0 | 1 => assert_eq!(set.insert(page), model.insert(page)),
                2 => assert_eq!(set.remove(page), model.remove(&page)),
                3 => assert_eq!(set.next(page), model.range(page..).next().copied()),
                _ => {
                    let wanted = model.range(page..).next().map(|first| {
                        let length =
                            (*first..).take(20).take_while(|page| model.contains(page)).count();
                        (*first, length as u32)
                    });
                    assert_eq!(set.next_stretch(page, 20), wanted);
                }
            }
            assert_eq!(set.len(), model.len());
        }
        assert!(set.iter().eq(model.iter().copied()));
    }

    #[test]
    fn the_last_bit_below_a_number_is_found() {
        let mut bits = Bits::default();
        for page in [3, 64, 200, 640] {
            bits.set(page, true);
        }
        let found = [0, 3, 4, 64, 65, 200, 201, 640, 641, 9000].map(|end| bits.last_below(end));
        let wanted = [None, None, Some(3), Some(3), Some(64), Some(64), Some(200), Some(200)];
        assert_eq!(found[..8], wanted);
        assert_eq!(found[8..], [Some(640), Some(640)]);
    }

    #[test]
    fn an_empty_set_has_no_members() {
        let set = PageSet::default();
        assert_eq!((set.next(0), set.next(70), set.contains(3)), (None, None, false));
    }
}
