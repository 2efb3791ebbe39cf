//! The trees against a `BTreeMap`.

use super::*;
use std::ops::Bound::{Excluded, Unbounded};

fn new_store() -> (MemoryDisk, Store) {
    let disk = MemoryDisk::new(1 << 28, &Options { store_id: 7 });
    let store = disk.open().unwrap();
    (disk, store)
}

/// Random steps on two trees, checkpoints and openings between them, compared with the model now
/// and then.
fn random_steps(seed: u64, steps: u32, keys: u64) {
    let mut random = Random::new(seed);
    let (disk, mut store) = new_store();
    let mut models: [Model; 2] = Default::default();
    let mut deletes_in_ten = 3;
    let mut openings = 0;
    for step in 0..steps {
        if random.one_in(500) {
            deletes_in_ten = random.below(9);
        }
        let index = usize::from(random.one_in(4));
        let (tree, model) = (Tree(index as u8), &mut models[index]);
        let key = random_key(&mut random, keys);
        let weight = random.one_in(2);
        if random.below(10) < deletes_in_ten {
            assert_eq!(store.delete(tree, &key).unwrap(), model.remove(&key[..]).is_some());
        } else if random.one_in(5) {
            let there = model.get_mut(&key[..]).map(|entry| entry.1 = weight).is_some();
            assert_eq!(store.set_weight(tree, &key, weight).unwrap(), there);
        } else if random.one_in(4) {
            // The neighbour behind it mostly, else one that need not be there.
            let behind = model.range::<[u8], _>((Excluded(&key[..]), Unbounded)).next();
            let former = match behind {
                Some((former, _)) if !random.one_in(4) => former.to_vec(),
                _ => random_key(&mut random, keys),
            };
            let value = random_value(&mut random);
            let there = model.get_mut(&former[..]).map(|entry| entry.1 = false).is_some();
            let found = store.put_before(tree, &key, &value, weight, &former).unwrap();
            assert_eq!(found, there);
            model.insert(key.into(), (value.into(), weight));
        } else if random.one_in(3) {
            let value = random_value(&mut random);
            let behind = model.range_mut::<[u8], _>((Excluded(&key[..]), Unbounded)).next();
            let Some(opening) = store.opening(tree, &key).unwrap() else { continue };
            openings += 1;
            let (first, second) = opening.next_key();
            let next = ([first, second].concat(), opening.next_value().unwrap());
            let takes_weight = behind.is_some() && random.one_in(2);
            if let Some((behind, entry)) = behind {
                assert_eq!(next, (behind.to_vec(), &entry.0[..]));
                entry.1 &= !takes_weight;
            } else {
                assert_eq!(next, (Vec::new(), &[][..]));
            }
            opening.put(&value, weight, takes_weight);
            assert!(model.insert(key.into(), (value.into(), weight)).is_none());
        } else {
            let value = random_value(&mut random);
            store.put(tree, &key, &value, weight).unwrap();
            model.insert(key.into(), (value.into(), weight));
        }
        if random.one_in(20) {
            store.commit(u64::from(step));
        }
        if random.one_in(400) {
            store.check().unwrap_or_else(|error| panic!("seed {seed}, step {step}: {error}"));
            for (index, model) in models.iter().enumerate() {
                assert_equal(store.view(), Tree(index as u8), model, &mut random);
            }
        }
        if random.one_in(700) {
            store.commit(u64::from(step));
            disk.checkpoint(&mut store);
            if random.one_in(2) {
                store = disk.open().unwrap();
            }
        }
    }
    assert!(openings > steps / 50, "{openings} keys had an opening");
    for (index, model) in models.iter().enumerate() {
        for key in model.keys() {
            assert!(store.delete(Tree(index as u8), key).unwrap());
        }
    }
    let report = store.check().unwrap();
    assert_eq!((report.leaf_pages, report.inner_pages, report.run_pages), (0, 0, 0));
}

#[test]
fn random_steps_agree_with_a_btree_map() {
    for seed in 0..6 {
        random_steps(seed, 6000, [50, 400, 4000][seed as usize % 3]);
    }
}

#[test]
fn appended_entries_fill_their_pages() {
    let (_, mut store) = new_store();
    for number in 0..20_000u64 {
        let key = [number.to_be_bytes(), [0; 8]].concat();
        store.put(Tree(0), &key, &[7; 100], false).unwrap();
    }
    store.commit(1);
    let report = store.check().unwrap();
    let fill = report.leaf_bytes as f64 / (f64::from(report.leaf_pages) * PAGE_SIZE as f64);
    assert!(fill > 0.97, "leaves are filled to {fill}");
}

#[test]
fn a_key_is_replaced_by_shorter_and_longer_values() {
    let (_, mut store) = new_store();
    for length in [0, 10, 5, 2000, 30, 2048, 2049, 100_000, 1, 8160, 8161, 0] {
        store.put(Tree(3), b"key", &vec![length as u8; length], true).unwrap();
        store.commit(length as u64);
        assert_eq!(store.view().get(Tree(3), b"key").unwrap().unwrap().len(), length);
        store.check().unwrap();
    }
    assert_eq!((store.view().entries(Tree(3)), store.view().weight(Tree(3))), (1, 1));
}

/// Half of the sum of two big-endian numbers.
fn midpoint(a: &[u8], b: &[u8]) -> Vec<u8> {
    let mut carry = 0;
    let sums = a.iter().zip(b).rev().map(|(a, b)| {
        let sum = u32::from(*a) + u32::from(*b) + carry;
        carry = sum >> 8;
        sum as u8
    });
    let mut sums: Vec<u8> = sums.collect();
    sums.reverse();
    let mut above = carry as u8;
    let half = |byte: u8| (std::mem::replace(&mut above, byte & 1) << 7) | byte >> 1;
    sums.into_iter().map(half).collect()
}

/// Between any two there is place for another one: labels get longer, and then some get new ones.
#[test]
fn long_keys_that_begin_alike_keep_their_order_wherever_the_next_one_is_put() {
    for pattern in 0..4 {
        let mut random = Random::new(6);
        let (disk, mut store) = new_store();
        let mut model = Model::new();
        let tree = Tree(1);
        let mut numbers = vec![vec![1; 60], vec![200; 60]];
        let mut last = 0;
        for step in 0..220 {
            let at = match pattern {
                0 => random.below(numbers.len() as u64 - 1) as usize,
                1 => numbers.len() - 2,
                2 => 0,
                // Now left, now right of the last one: the labels get longest.
                _ => last + step % 2,
            };
            let number = midpoint(&numbers[at], &numbers[at + 1]);
            numbers.insert(at + 1, number.clone());
            last = at;
            let key = [&vec![b'x'; limits::KEY_INLINE_MAX + 5][..], &number].concat();
            let (value, weight) = (vec![step as u8; step % 300], step % 3 == 0);
            store.put(tree, &key, &value, weight).unwrap();
            model.insert(key.into(), (value.into(), weight));
            store.put(tree, &vec![b'x'; limits::KEY_INLINE_MAX - step], b"short", false).unwrap();
            model.insert(
                vec![b'x'; limits::KEY_INLINE_MAX - step].into(),
                (b"short"[..].into(), false),
            );
            if step % 50 == 0 {
                store.check().unwrap();
            }
        }
        store.commit(1);
        disk.checkpoint(&mut store);
        let mut store = disk.open().unwrap();
        store.check().unwrap();
        assert_equal(store.view(), tree, &model, &mut random);
        for key in model.keys().filter(|key| key.len() > limits::KEY_INLINE_MAX) {
            assert_eq!(
                store.view().get(tree, key).unwrap().map(<[u8]>::len),
                Some(model[key].0.len())
            );
            assert!(store.view().contains(tree, key).unwrap());
            assert_eq!(store.view().get(tree, &[key, &b"y"[..]].concat()).unwrap(), None);
        }
        let keys: Vec<_> = model.keys().cloned().collect();
        for key in keys {
            assert!(store.delete(tree, &key).unwrap() && !store.delete(tree, &key).unwrap());
        }
        assert_eq!(store.check().unwrap().run_pages, 0);
    }
}

/// Keys of the length at which stand-ins begin, longer and shorter ones, that begin alike and are beginnings of
/// each other, up to the highest there are; with compaction's deletes, moves of pages and openings between.
#[test]
fn long_keys_agree_with_a_btree_map_whatever_they_have_in_common() {
    for seed in 0..6 {
        let mut random = Random::new(seed);
        let (disk, mut store) = new_store();
        let (tree, mut model) = (Tree(2), Model::new());
        let key = |random: &mut Random| {
            let byte = [0, b'k', 0xfe, 0xff][random.below(4) as usize];
            let len = limits::KEY_INLINE_MAX - 3 + random.below(9) as usize;
            let tail = match random.below(4) {
                0 => Vec::new(),
                1 => vec![0xff; random.below(30) as usize],
                2 => vec![0; random.below(30) as usize],
                _ => random.below(40).to_be_bytes().to_vec(),
            };
            [&vec![byte; len][..], &tail].concat()
        };
        for step in 0..700 {
            let name = key(&mut random);
            let weight = random.one_in(2);
            match random.below(8) {
                0..3 => {
                    assert_eq!(
                        store.delete(tree, &name).unwrap(),
                        model.remove(&name[..]).is_some()
                    );
                }
                3 => {
                    let former = key(&mut random);
                    let there = model.get_mut(&former[..]).map(|entry| entry.1 = false).is_some();
                    let was_there = store.put_before(tree, &name, b"new", weight, &former).unwrap();
                    assert_eq!(was_there, there);
                    model.insert(name.into(), (b"new"[..].into(), weight));
                }
                _ => {
                    let value = vec![step as u8; step % 90 * 100];
                    store.put(tree, &name, &value, weight).unwrap();
                    model.insert(name.into(), (value.into(), weight));
                }
            }
            assert_found(store.view(), tree, &model, &key(&mut random));
            if step % 70 == 69 {
                store.commit(step as u64);
                disk.checkpoint(&mut store);
                store.defrag_step(20).unwrap();
                store.pack_step(&mut PackPosition::default(), 20).unwrap();
                store.check().unwrap();
                assert_equal(store.view(), tree, &model, &mut random);
            }
            if step % 210 == 209 {
                store.commit(step as u64 + 1);
                disk.checkpoint(&mut store);
                store = disk.open().unwrap();
            }
        }
        for name in model.keys() {
            assert!(store.delete(tree, name).unwrap());
        }
        assert_eq!((store.check().unwrap().run_pages, store.view().weight(tree)), (0, 0));
    }
}

/// However many long keys begin alike and wherever the next one is put, a put gives a bounded number of them other
/// labels, and seldom any; and to find one takes a few paths.
#[test]
fn a_put_of_a_long_key_relabels_a_bounded_number_of_others() {
    const PUTS: usize = 3000;
    for (pattern, each_max, all_max) in
        [(0, 0, 0), (1, 0, 0), (2, 0, 0), (3, 256, 2 * PUTS), (4, 256, 2 * PUTS)]
    {
        let mut random = Random::new(8);
        let (_, mut store) = new_store();
        let tree = Tree(1);
        let mut numbers = vec![vec![1; 420], vec![200; 420]];
        let (mut last, mut most, mut before) = (0, 0, 0);
        for step in 0..PUTS {
            let at = match pattern {
                0 => random.below(numbers.len() as u64 - 1) as usize,
                // Behind the first, before the last: the gap gets smaller from one side.
                1 => numbers.len() - 2,
                2 => 0,
                // Now left, now right of the last one; and at random of the two.
                3 => last + step % 2,
                _ => last + random.below(2) as usize,
            };
            let number = midpoint(&numbers[at], &numbers[at + 1]);
            assert!(number != numbers[at] && number != numbers[at + 1], "the keys are too short");
            numbers.insert(at + 1, number.clone());
            last = at;
            let key = [&[b'x'; limits::KEY_INLINE_MAX][..], &number].concat();
            store.put(tree, &key, b"", true).unwrap();
            most = most.max(store.relabelled_entries() - before);
            before = store.relabelled_entries();
        }
        assert!(most <= each_max, "pattern {pattern}: {most} entries by one put");
        assert!(before <= all_max as u64, "pattern {pattern}: {before} entries by all puts");
        assert_eq!(store.view().weight(tree), PUTS as u64);
        store.check().unwrap();
        let view = store.view();
        let mut cursor = view.cursor(tree);
        for number in &numbers[1..=PUTS] {
            assert!(cursor.next().unwrap());
            assert_eq!(&cursor.key()[limits::KEY_INLINE_MAX..], &number[..]);
            // The search halves what is left, at a path and a key for each step.
            let before = store.page_lookups();
            let key = [&[b'x'; limits::KEY_INLINE_MAX][..], number].concat();
            assert!(view.contains(tree, &key).unwrap());
            let pages = store.page_lookups() - before;
            assert!(pages <= 200, "pattern {pattern}: {pages} pages looked at");
        }
    }
}

#[test]
fn packing_fills_the_leaves_and_changes_nothing_else() {
    for (seed, value_len) in [(1, 24), (2, 250), (3, 1000), (4, 1800)] {
        let mut random = Random::new(seed);
        let (_, mut store) = new_store();
        let mut model = Model::new();
        for _ in 0..6000 {
            let number = random.below(40_000);
            let key = format!("/registry/pods/namespace-{}/pod-{number:07}", number % 7);
            let value = vec![number as u8; value_len + number as usize % 20];
            let weight = number.is_multiple_of(3);
            store.put(Tree(5), key.as_bytes(), &value, weight).unwrap();
            model.insert(key.into_bytes().into(), (value.into(), weight));
        }
        let keys: Vec<_> = model.keys().cloned().collect();
        for key in keys.iter().filter(|_| random.one_in(3)) {
            store.delete(Tree(5), key).unwrap();
            model.remove(key);
        }
        store.commit(1);
        let mut position = PackPosition::default();
        while !store.pack_step(&mut position, 10).unwrap().wrapped {
            store.check().unwrap();
        }
        assert!(!store.has_uncommitted());
        let report = store.check().unwrap();
        let fill = report.leaf_bytes as f64 / (f64::from(report.leaf_pages) * PAGE_SIZE as f64);
        assert!(fill > 0.82, "values of {value_len}: leaves are filled to {fill}");
        assert_equal(store.view(), Tree(5), &model, &mut random);
        // A second time there is nothing to do.
        let mut saved = 0;
        loop {
            let progress = store.pack_step(&mut position, 10).unwrap();
            saved += progress.saved_pages;
            if progress.wrapped {
                break;
            }
        }
        assert!(saved <= 2, "{saved} pages saved in the second pass");
    }
}

#[test]
fn defragmentation_makes_the_file_short_again() {
    let (disk, mut store) = new_store();
    let mut random = Random::new(4);
    for number in 0..30_000u64 {
        store.put(Tree(0), &number.to_be_bytes(), &[1; 300], false).unwrap();
        if number % 500 == 0 {
            store.put(Tree(1), &number.to_be_bytes(), &[2; 30_000], true).unwrap();
        }
    }
    store.commit(1);
    disk.checkpoint(&mut store);
    let full = store.file_len();
    for number in 0..30_000u64 {
        if !random.one_in(10) {
            store.delete(Tree(0), &number.to_be_bytes()).unwrap();
        }
    }
    store.commit(2);
    disk.checkpoint(&mut store);
    let mut position = PackPosition::default();
    while !store.pack_step(&mut position, 50).unwrap().wrapped {}
    let mut checkpoints = 0;
    loop {
        match store.defrag_step(20).unwrap().state {
            DefragState::More => continue,
            DefragState::Waiting { readers } => assert_eq!(readers, 0),
            DefragState::Done => break,
        }
        disk.checkpoint(&mut store);
        checkpoints += 1;
        assert!(checkpoints < 20, "it does not end");
    }
    for mark in 3..6 {
        store.commit(mark);
        disk.checkpoint(&mut store);
    }
    let report = store.check().unwrap();
    let live = u64::from(report.live_pages) * PAGE_SIZE as u64;
    assert!(store.extent_bytes() < live + (live / 16).max(64 * PAGE_SIZE as u64));
    assert!(store.file_len() < full / 2, "{} of {full} bytes", store.file_len());
    let long: Vec<u8> = vec![2; 30_000];
    assert_eq!(store.view().get(Tree(1), &0u64.to_be_bytes()).unwrap(), Some(&long[..]));
}

#[test]
fn a_reader_holds_what_defragmentation_waits_for() {
    let (disk, mut store) = new_store();
    for number in 0..10_000u64 {
        store.put(Tree(0), &number.to_be_bytes(), &[1; 300], false).unwrap();
    }
    store.commit(1);
    disk.checkpoint(&mut store);
    let snapshot = store.snapshot();
    for number in 0..9_000u64 {
        store.delete(Tree(0), &number.to_be_bytes()).unwrap();
    }
    store.commit(2);
    let mut waited = false;
    for round in 0..10 {
        store.commit(3 + round);
        disk.checkpoint(&mut store);
        let state = store.defrag_step(1000).unwrap().state;
        waited |= state == DefragState::Waiting { readers: 1 };
    }
    assert!(waited);
    assert_eq!(store.view_at(&snapshot).entries(Tree(0)), 10_000);
    let mut cursor = store.view_at(&snapshot).cursor(Tree(0));
    assert_eq!((0..10_000).filter(|_| cursor.next().unwrap()).count(), 10_000);
    drop(cursor);
    drop(snapshot);
    for round in 0..10 {
        store.commit(20 + round);
        disk.checkpoint(&mut store);
        store.defrag_step(1000).unwrap();
    }
    assert_eq!(store.defrag_step(1000).unwrap().state, DefragState::Done);
    assert_eq!(store.reader_count(), 0);
    store.check().unwrap();
}
