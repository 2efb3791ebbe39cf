//! Keys that are too long for a node.
//!
//! A key longer than [`KEY_INLINE_MAX`] lies in the run of its entry, behind the value. In the nodes a
//! *stand-in* has its place:
//!
//! ```text
//! stand-in    the first KEY_INLINE_MAX bytes of the key | label
//! label       1 to LABEL_WORDS_MAX x u64, big-endian; the first neither 0 nor the largest u64,
//!             the last not 0
//! ```
//! Labels order the keys that begin alike, and say nothing else. A key that is put gets one between those
//! of its neighbours; where there is none left that is short enough, some hundred neighbours get new ones.
//!
//! A label is a fraction of 64 bits a word. A new one goes near the younger of its neighbours, which is the
//! one with more bits: it takes about 1/65536 of the gap between them. So keys that come one after the other, in
//! either direction, make the gap smaller slowly, and keys at random places cost a few bits each. Only where
//! they come now left, now right of the last one do labels get long: that takes 250 of them.
//!
//! # Invariants
//!
//! - In a leaf, what is longer than [`KEY_INLINE_MAX`] is a stand-in, and its entry has a run.
//! - Stand-ins sort as their keys do. (With different beginnings they do by themselves, and a shorter key
//!   sorts before all that it is the beginning of.) So nothing but a search by a long key and
//!   reading a key needs to know of them.

use super::cursor::Cursor;
use super::limits::{KEY_INLINE_MAX, LABEL_WORDS_MAX};
use super::meta::Root;
use super::node::Parts;
use super::page::Corruption;
use super::pages::Pages;
use smallvec::{SmallVec, smallvec};
use std::borrow::Cow;
use std::cmp::Ordering;

/// Bytes of a word.
const WORD: usize = 8;
/// The middle of all words.
const MIDDLE: u64 = 1 << 63;
/// Labels at an end are set so far apart: what comes between two keys later has room.
const STEP: u64 = 1 << 32;
/// A new label takes `2^-SHARE_BITS` of its gap.
const SHARE_BITS: u32 = 16;
/// Gaps of two words that are smaller are left for longer labels.
const ROOM: u128 = 1 << (SHARE_BITS + 1);
/// Longest labels that neighbours get together: from there to [`LABEL_WORDS_MAX`] there is room again.
const SPREAD_WORDS_MAX: usize = LABEL_WORDS_MAX - 8;

pub type Label = SmallVec<[u64; 4]>;

#[inline]
pub fn is_long(key: &[u8]) -> bool {
    key.len() > KEY_INLINE_MAX
}

/// The stand-in of a key with this label.
pub fn stand_in(key: &[u8], label: &[u64]) -> Vec<u8> {
    let mut stored = Vec::with_capacity(KEY_INLINE_MAX + label.len() * WORD);
    stored.extend_from_slice(&key[..KEY_INLINE_MAX]);
    label.iter().for_each(|word| stored.extend_from_slice(&word.to_be_bytes()));
    stored
}

/// The label in a stand-in.
pub fn label_of(stored: Parts<'_>) -> Label {
    let bytes: SmallVec<[u8; 64]> = stored.bytes().skip(KEY_INLINE_MAX).collect();
    let word = |chunk: &[u8]| {
        let mut word = [0; WORD];
        word[..chunk.len()].copy_from_slice(chunk);
        u64::from_be_bytes(word)
    };
    bytes.chunks(WORD).map(word).collect()
}

/// Whether a stand-in is one of this key.
pub fn stands_for(stored: &[u8], key: &[u8]) -> bool {
    let Some((beginning, label)) = stored.split_at_checked(KEY_INLINE_MAX) else { return false };
    let words = label_of(Parts(stored, &[]));
    is_long(key)
        && key.starts_with(beginning)
        && label.len().is_multiple_of(WORD)
        && (1..=LABEL_WORDS_MAX).contains(&words.len())
        && words[0] != 0
        && words[0] != u64::MAX
        && words.last() != Some(&0)
}

/// Where a long key is in a tree, or would be.
pub struct Found {
    /// It is there, and `above` is its label.
    pub is_there: bool,
    /// Labels of its neighbours that begin as it does.
    pub below: Option<Label>,
    pub above: Option<Label>,
}

impl Found {
    /// A key of nodes that is above all lesser keys and not above `key` and greater ones.
    pub fn bound(&self, key: &[u8]) -> Vec<u8> {
        match &self.above {
            Some(label) => stand_in(key, label),
            None => stand_in(key, &[u64::MAX]),
        }
    }

    /// A label for the key, if it is not there and there is one that is short enough.
    pub fn new_label(&self) -> Option<Label> {
        between(self.below.as_deref(), self.above.as_deref())
            .filter(|label| label.len() <= LABEL_WORDS_MAX)
    }
}

/// What a tree is to be searched by for a key, and whether a key that is found then can be this one.
pub fn search_key<'k>(
    pages: &Pages,
    root: &Root,
    key: &'k [u8],
) -> Result<(Cow<'k, [u8]>, bool), Corruption> {
    if !is_long(key) {
        return Ok((Cow::Borrowed(key), true));
    }
    let found = find(pages, root, key)?;
    Ok((Cow::Owned(found.bound(key)), found.is_there))
}

/// Finds a long key among those that begin as it does. Separators are no keys that it could be compared with, but
/// the first entry behind each has one: so the search halves the children of a node, and then the entries of
/// the leaf.
pub fn find(pages: &Pages, root: &Root, key: &[u8]) -> Result<Found, Corruption> {
    let mut alike = Alike { cursor: Cursor::over(pages, root), key };
    let nothing = Found { is_there: false, below: None, above: None };
    let Some((first, order)) = alike.first()? else { return Ok(nothing) };
    if order != Ordering::Less {
        return Ok(Found { is_there: order.is_eq(), above: Some(first), ..nothing });
    }
    let Some((last, order)) = alike.last()? else { return Ok(nothing) };
    if order == Ordering::Less {
        return Ok(Found { below: Some(last), ..nothing });
    }
    // The key is behind `below` and not behind `above`.
    let (mut below, mut above) = (first, (last, order));
    let mut node = pages.node(root.page, root.stamp, root.level)?;
    for level in (0..root.level).rev() {
        // Those that hold `below` and `above`, if `above` is not the first entry behind the node.
        let mut low = node.child_index(&stand_in(key, &below));
        let mut high = node.child_index(&stand_in(key, &above.0));
        while low < high {
            let middle = low + (high - low).div_ceil(2);
            let separator: Vec<u8> = node.key(middle).bytes().collect();
            match alike.from(&separator)? {
                Some((label, Ordering::Less)) => (below, low) = (label, middle),
                Some(found) => (above, high) = (found, middle - 1),
                None => high = middle - 1,
            }
        }
        let child = node.child(low);
        node = pages.node(child.page, child.stamp, level)?;
    }
    let (mut low, _) = node.search(&stand_in(key, &below));
    let (mut high, _) = node.search(&stand_in(key, &above.0));
    while low < high {
        let middle = low + (high - low) / 2;
        let stored: Vec<u8> = node.key(middle).bytes().collect();
        match alike.from(&stored)? {
            Some((label, Ordering::Less)) => (below, low) = (label, middle + 1),
            Some(found) => (above, high) = (found, middle),
            None => high = middle,
        }
    }
    let (above, order) = above;
    Ok(Found { is_there: order.is_eq(), below: Some(below), above: Some(above) })
}

/// The entries whose keys begin as a long key does.
struct Alike<'a, 'k> {
    cursor: Cursor<'a>,
    key: &'k [u8],
}

/// The label of an entry, and how its key compares with the one that is looked for.
type Probe = Option<(Label, Ordering)>;

impl Alike<'_, '_> {
    fn first(&mut self) -> Result<Probe, Corruption> {
        let mut bound = stand_in(self.key, &[]);
        // Behind the key that is no longer than the beginning, before all labels.
        bound.push(0);
        self.cursor.seek_stored(&bound)?;
        Ok(self.probe())
    }

    fn last(&mut self) -> Result<Probe, Corruption> {
        self.cursor.seek_before_stored(&stand_in(self.key, &[u64::MAX]))?;
        Ok(self.probe())
    }

    fn from(&mut self, stored: &[u8]) -> Result<Probe, Corruption> {
        self.cursor.seek_stored(stored)?;
        Ok(self.probe())
    }

    fn probe(&self) -> Probe {
        let stored = self.cursor.stored().filter(|stored| stored.len() > KEY_INLINE_MAX)?;
        let key = self.cursor.key();
        key.starts_with(&self.key[..KEY_INLINE_MAX]).then(|| (label_of(stored), key.cmp(self.key)))
    }
}

/// Labels for so many keys between two labels that stay, or the ends: as far apart as can be. `None` if they would
/// be so long that there is little room between them.
pub fn spread(low: Option<&[u64]>, high: Option<&[u64]>, count: usize) -> Option<Vec<Label>> {
    let gap = Gap::find(low.unwrap_or(&[1]), high.unwrap_or(&[u64::MAX]), count);
    if gap.shared.len() + 2 > SPREAD_WORDS_MAX {
        return None;
    }
    let step = gap.width / (count as u128 + 1);
    Some((1..=count as u128).map(|nth| gap.label(gap.from + nth * step)).collect())
}

/// The place between two labels: two words, behind those that are shared, above `from` and for `width`.
struct Gap {
    shared: Label,
    from: u128,
    width: u128,
}

impl Gap {
    /// The place for `count` labels of the fewest words that leaves room between them. `low < high`.
    fn find(low: &[u64], high: &[u64], count: usize) -> Gap {
        assert!(low < high, "labels are not in order");
        let word = |label: &[u64], at: usize| label.get(at).copied().unwrap_or(0);
        let pair =
            |label: &[u64], at| u128::from(word(label, at)) << 64 | u128::from(word(label, at + 1));
        let mut shared = (0..high.len())
            .find(|at| word(low, *at) != word(high, *at))
            .expect("a label does not end with 0");
        let mut width = pair(high, shared) - pair(low, shared);
        while width / (count as u128 + 1) < ROOM {
            // Behind the word of `low`, where nothing but `low` bounds it.
            shared += 1;
            width = u128::MAX - pair(low, shared);
        }
        let beginning = (0..shared).map(|at| word(low, at)).collect();
        Gap { shared: beginning, from: pair(low, shared), width }
    }

    fn label(&self, place: u128) -> Label {
        let mut label = self.shared.clone();
        label.extend([(place >> 64) as u64, place as u64]);
        if label.last() == Some(&0) {
            label.pop();
        }
        label
    }
}

/// Whether the first of two labels has more bits than the other.
fn is_finer(label: &[u64], other: &[u64]) -> bool {
    let bits = |label: &[u64]| (label.len(), label.last().map(|word| 64 - word.trailing_zeros()));
    bits(label) > bits(other)
}

/// A label between two, or at an end.
fn between(low: Option<&[u64]>, high: Option<&[u64]>) -> Option<Label> {
    match (low, high) {
        (None, None) => Some(smallvec![MIDDLE]),
        (Some(low), None) => {
            let raised = low[0].checked_add(STEP).filter(|word| *word != u64::MAX);
            Some(match raised {
                Some(word) => smallvec![word],
                None => extended(low, MIDDLE),
            })
        }
        (None, Some(high)) => {
            let lowered = high[0].checked_sub(STEP).filter(|word| *word != 0);
            lowered.or(high[0].checked_sub(1).filter(|word| *word != 0)).map(|word| smallvec![word])
        }
        (Some(low), Some(high)) => Some(inside(low, high)),
    }
}

/// A label between two, near the finer one, or else near the upper one, where the versions of a key get
/// theirs, one after the other.
fn inside(low: &[u64], high: &[u64]) -> Label {
    let gap = Gap::find(low, high, 0);
    // About a share of the gap, and half of it: a bit that neither neighbour has if it is coarser.
    let step = 1 << (gap.width.ilog2() - SHARE_BITS);
    let near = if is_finer(low, high) { gap.from + step } else { gap.from + (gap.width - step) };
    gap.label((near & !(step - 1)) | (step / 2))
}

fn extended(label: &[u64], word: u64) -> Label {
    let mut longer: Label = label.into();
    longer.push(word);
    longer
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::tests::Random;

    fn is_label(label: &[u64]) -> bool {
        label[0] != 0 && label[0] != u64::MAX && label.last() != Some(&0)
    }

    /// Labels are put between neighbours at random, at one end, behind the first, now left, now right
    /// of the last one, and before the last: they stay in order, and short but for one case.
    #[test]
    fn there_is_a_label_between_any_two() {
        for (pattern, words_max) in [(0, 8), (1, 3), (2, 3), (3, 3), (4, 110), (5, 3)] {
            let mut random = Random::new(5);
            let mut labels: Vec<Label> = Vec::new();
            let mut last = 0;
            for number in 0..400 {
                let at = match pattern {
                    0 => random.below(labels.len() as u64 + 1) as usize,
                    1 => labels.len(),
                    2 => 0,
                    3 => labels.len().min(1),
                    5 => labels.len().saturating_sub(1),
                    _ => (last + number % 2).min(labels.len()),
                };
                let low = at.checked_sub(1).map(|below| &labels[below][..]);
                let label = between(low, labels.get(at).map(|above| &above[..])).unwrap();
                assert!(is_label(&label), "{label:?}");
                labels.insert(at, label);
                last = at;
            }
            assert!(labels.is_sorted() && labels.windows(2).all(|pair| pair[0] != pair[1]));
            let longest = labels.iter().map(|label| label.len()).max().unwrap();
            assert!(longest <= words_max, "pattern {pattern}: {longest} words");
        }
    }

    #[test]
    fn labels_that_are_spread_are_labels_in_order_between_their_bounds() {
        let longest = [7; SPREAD_WORDS_MAX - 2];
        let beyond = [7; SPREAD_WORDS_MAX];
        let above = |label: &[u64], last| extended(label, last);
        for count in [1, 2, 3, 1000] {
            for (low, high) in [
                (None, None),
                (None, Some(Label::from_slice(&[2]))),
                (Some(Label::from_slice(&[u64::MAX - 1])), None),
                (Some(Label::from_slice(&[5])), Some(Label::from_slice(&[5, 0, 1]))),
                (Some(Label::from_slice(&[5, u64::MAX, u64::MAX])), Some(Label::from_slice(&[6]))),
                (Some(longest.into_iter().collect()), Some(above(&longest, 1))),
            ] {
                let labels = spread(low.as_deref(), high.as_deref(), count).unwrap();
                assert!(labels.len() == count && labels.windows(2).all(|pair| pair[0] < pair[1]));
                assert!(labels.iter().all(|label| is_label(label)));
                assert!(low.is_none_or(|low| low < labels[0]));
                assert!(high.is_none_or(|high| high > labels[count - 1]));
                assert!(labels.iter().all(|label| label.len() <= SPREAD_WORDS_MAX));
            }
            assert_eq!(spread(Some(&beyond), Some(&above(&beyond, 1)), count), None);
        }
    }

    #[test]
    fn what_no_label_is_stands_for_nothing() {
        let key = vec![b'k'; KEY_INLINE_MAX + 9];
        assert!(stands_for(&stand_in(&key, &[7, 0, 9]), &key));
        for label in [&[][..], &[0], &[u64::MAX], &[7, 0], &[1; LABEL_WORDS_MAX + 1]] {
            assert!(!stands_for(&stand_in(&key, label), &key), "{label:?}");
        }
        assert!(!stands_for(&stand_in(&key, &[7]), &key[..KEY_INLINE_MAX]));
        assert!(!stands_for(&stand_in(&key, &[7]), &vec![b'l'; KEY_INLINE_MAX + 9]));
        assert!(!stands_for(&stand_in(&key, &[7])[..KEY_INLINE_MAX + 7], &key));
    }
}
