//! Tests of the whole store.

mod crash;
mod defrag;
mod disk;
#[cfg(feature = "mutants")]
mod mutants;
mod opening;
mod rot;
mod simulation;
mod trees;

use super::*;
use std::collections::BTreeMap;
use std::ops::Bound::{Excluded, Included, Unbounded};
use std::rc::Rc;

/// Small, fast, and the same everywhere.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11
    }

    pub fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    pub fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

/// Shared bytes, as models are copied at every commit.
pub type Model = BTreeMap<Rc<[u8]>, (Rc<[u8]>, bool)>;

/// A key of one of several shapes, from a space small enough to be met again.
pub fn random_key(random: &mut Random, space: u64) -> Vec<u8> {
    let number = random.below(space);
    // Long ones, many of which begin alike.
    match number % 13 {
        5 => {
            return [&vec![b'k'; 3400 + number as usize % 200][..], &number.to_be_bytes()].concat();
        }
        9 => {
            let len =
                if number.is_multiple_of(5) { number * 37 % 20_000 } else { number * 37 % 500 };
            return [&[b'l'; 3600][..], &vec![b'a' + (number % 3) as u8; len as usize]].concat();
        }
        _ => {}
    }
    match number % 7 {
        0 => format!("/registry/pods/namespace-{}/pod-{number}", number % 5).into_bytes(),
        1 => number.to_be_bytes().to_vec(),
        2 => vec![(number % 251) as u8; (number % 40) as usize],
        3 => [&[b'x'; 700][..], &number.to_be_bytes()].concat(),
        4 => vec![b'k'; (number * 37 % 4001) as usize],
        5 => format!("{number}").into_bytes(),
        _ => [&number.to_le_bytes()[..], &[0; 9]].concat(),
    }
}

pub fn random_value(random: &mut Random) -> Vec<u8> {
    let length = match random.below(20) {
        0 => random.below(60_000),
        1 => random.below(5000),
        2..=5 => random.below(1500),
        _ => random.below(60),
    };
    let byte = random.next() as u8;
    (0..length).map(|index| byte.wrapping_add(index as u8)).collect()
}

/// Compares a tree with its model, by every way of reading.
pub fn assert_equal(view: View<'_>, tree: Tree, model: &Model, random: &mut Random) {
    let mut cursor = view.cursor(tree);
    for (key, (value, weight)) in model {
        assert!(cursor.next().unwrap(), "an entry is missing");
        assert_eq!(cursor.key(), &key[..]);
        assert_eq!(cursor.value().unwrap(), &value[..]);
        assert_eq!(cursor.weight(), *weight);
    }
    assert!(!cursor.next().unwrap() && !cursor.next().unwrap());
    for key in model.keys().rev() {
        assert!(cursor.prev().unwrap());
        assert_eq!(cursor.key(), &key[..]);
    }
    assert!(!cursor.prev().unwrap() && !cursor.prev().unwrap());
    for (key, _) in model.iter().filter(|(_, (_, weight))| *weight) {
        assert!(cursor.next_weighted().unwrap());
        assert_eq!(cursor.key(), &key[..]);
    }
    assert!(!cursor.next_weighted().unwrap());
    assert_looked_up(view, tree, model, random);
    let weight = model.values().filter(|(_, weight)| *weight).count() as u64;
    assert_eq!((view.weight(tree), view.entries(tree)), (weight, model.len() as u64));
    for _ in 0..50 {
        let mut key = random_key(random, 4000);
        if random.one_in(3) {
            key.push(random.next() as u8);
        }
        assert_found(view, tree, model, &key);
    }
}

/// Compares what is found by a key, and on either side of it, with the model.
pub fn assert_found(view: View<'_>, tree: Tree, model: &Model, key: &[u8]) {
    let mut cursor = view.cursor(tree);
    assert_eq!(view.get(tree, key).unwrap(), model.get(key).map(|(value, _)| &value[..]));
    let rank = model
        .range::<[u8], _>((Unbounded, Excluded(key)))
        .filter(|(_, (_, weight))| *weight)
        .count() as u64;
    assert_eq!(view.rank(tree, key).unwrap(), rank);
    let wanted = model.range::<[u8], _>((Included(key), Unbounded)).next().map(|(key, _)| &key[..]);
    assert_eq!(cursor.seek(key).unwrap(), wanted.is_some());
    assert_eq!(cursor.key(), wanted.unwrap_or_default());
    let wanted =
        model.range::<[u8], _>((Included(key), Unbounded)).find(|(_, (_, weight))| *weight);
    assert_eq!(cursor.seek_weighted(key).unwrap(), wanted.is_some());
    assert_eq!(cursor.key(), wanted.map(|(key, _)| &key[..]).unwrap_or_default());
    let wanted =
        model.range::<[u8], _>((Unbounded, Excluded(key))).next_back().map(|(key, _)| &key[..]);
    assert_eq!(cursor.seek_before(key).unwrap(), wanted.is_some());
    assert_eq!(cursor.key(), wanted.unwrap_or_default());
}

/// Looks keys up in their order, against it, with gaps and at random, and keys between them that are not there.
fn assert_looked_up(view: View<'_>, tree: Tree, model: &Model, random: &mut Random) {
    let keys: Vec<&[u8]> = model.keys().map(|key| &key[..]).collect();
    let lookup = view.lookup(tree);
    let expect = |key: &[u8]| {
        let wanted = model.get(key).map(|(value, _)| &value[..]);
        assert_eq!(lookup.get(key).unwrap(), wanted);
    };
    for key in keys.iter().chain(keys.iter().rev()) {
        expect(key);
        if random.one_in(3) {
            expect(&[key, &[random.next() as u8][..]].concat());
        }
    }
    let mut at = 0;
    for _ in 0..keys.len() {
        at += [0, 1, 1, 2, 5, 40, 1000][random.below(7) as usize];
        expect(keys[at % keys.len()]);
    }
    expect(b"");
    expect(&[0xff; 40]);
}
