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
//! of its neighbours; where there is none left that is short enough, all that begin alike get new ones.
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

/// Finds a long key among those that begin as it does. Their number is not known, and labels are no measure
/// of it: the search halves the labels and takes one step through the entries in turn.
pub fn find(pages: &Pages, root: &Root, key: &[u8]) -> Result<Found, Corruption> {
    let mut alike = Alike { cursor: Cursor::over(pages, root), key };
    let nothing = Found { is_there: false, below: None, above: None };
    let Some((first, order)) = alike.first()? else { return Ok(nothing) };
    if order != Ordering::Less {
        return Ok(Found { is_there: order.is_eq(), above: Some(first), ..nothing });
    }
    let Some((mut above, order)) = alike.last()? else { return Ok(nothing) };
    if order == Ordering::Less {
        return Ok(Found { below: Some(above), ..nothing });
    }
    let mut below = first;
    // No entry lies from here to `above`.
    let mut high = above.clone();
    loop {
        let Some((next, order)) = alike.behind(&below)? else { break };
        if order != Ordering::Less {
            above = next;
            return Ok(Found { is_there: order.is_eq(), below: Some(below), above: Some(above) });
        }
        below = next;
        let Some(middle) = middle(&below, &high) else { continue };
        match alike.from(&middle)? {
            Some((label, Ordering::Less)) => below = label,
            Some((label, _)) => (above, high) = (label, middle),
            None => high = middle,
        }
    }
    Ok(Found { is_there: false, below: Some(below), above: Some(above) })
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

    fn from(&mut self, label: &[u64]) -> Result<Probe, Corruption> {
        self.cursor.seek_stored(&stand_in(self.key, label))?;
        Ok(self.probe())
    }

    fn behind(&mut self, label: &[u64]) -> Result<Probe, Corruption> {
        self.cursor.seek_stored(&stand_in(self.key, label))?;
        self.cursor.next()?;
        Ok(self.probe())
    }

    fn probe(&self) -> Probe {
        let stored = self.cursor.stored().filter(|stored| stored.len() > KEY_INLINE_MAX)?;
        let key = self.cursor.key();
        key.starts_with(&self.key[..KEY_INLINE_MAX]).then(|| (label_of(stored), key.cmp(self.key)))
    }
}

/// Labels for so many keys that begin alike, as far apart as can be.
pub fn spread(count: usize) -> impl Iterator<Item = u64> {
    let step = (u64::MAX - 1) / (count as u64 + 1);
    (1..=count as u64).map(move |nth| nth * step)
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

/// A label between two: the short ones first, and just below the upper one, where the versions of a
/// key get theirs, one after the other.
fn inside(low: &[u64], high: &[u64]) -> Label {
    debug_assert!(low < high);
    let mut lowered: Label = high.into();
    let last = lowered.last_mut().expect("a label has words");
    *last = last.saturating_sub(1);
    if *last > 0 && lowered[..] > *low {
        return lowered;
    }
    if let Some(word) = low.last().and_then(|word| word.checked_add(1)) {
        let mut raised: Label = low.into();
        *raised.last_mut().expect("a label has words") = word;
        if raised[..] < *high {
            return raised;
        }
    }
    let longer = extended(low, MIDDLE);
    if longer[..] < *high { longer } else { extended(&lowered, MIDDLE) }
}

fn extended(label: &[u64], word: u64) -> Label {
    let mut longer: Label = label.into();
    longer.push(word);
    longer
}

/// Some place about the middle between two labels.
fn middle(low: &[u64], high: &[u64]) -> Option<Label> {
    let same = low.iter().zip(high).take_while(|(a, b)| a == b).count();
    let word = |label: &[u64], at: usize| label.get(at).copied().unwrap_or(0);
    let (from, to) = (word(low, same), word(high, same));
    if to.checked_sub(from)? >= 2 {
        return Some(extended(&low[..same], from + (to - from) / 2));
    }
    // Behind `low`, with the word that both share or that is one below.
    let beginning = low.get(..=same)?;
    let from = word(low, same + 1);
    let half = (u64::MAX - from) / 2;
    (half > 0 && to > word(low, same)).then(|| extended(beginning, from + half))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::tests::Random;

    fn is_label(label: &[u64]) -> bool {
        label[0] != 0 && label[0] != u64::MAX && label.last() != Some(&0)
    }

    /// Labels are put between neighbours at random, at one place, at both ends, and now left, now right
    /// of the last one: they stay in order, and short but for the last.
    #[test]
    fn there_is_a_label_between_any_two() {
        for (pattern, words_max) in [(0, 24), (1, 3), (2, 3), (3, 3), (4, 400)] {
            let mut random = Random::new(5);
            let mut labels: Vec<Label> = Vec::new();
            let mut last = 0;
            for number in 0..400 {
                let at = match pattern {
                    0 => random.below(labels.len() as u64 + 1) as usize,
                    1 => labels.len(),
                    2 => 0,
                    3 => labels.len().min(1),
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
            for pair in labels.windows(2) {
                let middle = middle(&pair[0], &pair[1]);
                assert!(middle.is_none_or(|m| m > pair[0] && m < pair[1]), "{pair:?}");
            }
        }
    }

    #[test]
    fn labels_that_are_spread_are_labels_in_order() {
        for count in [1, 2, 3, 1000] {
            let labels: Vec<u64> = spread(count).collect();
            assert!(labels.len() == count && labels.windows(2).all(|pair| pair[0] < pair[1]));
            assert!(labels.iter().all(|word| is_label(&[*word])));
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
