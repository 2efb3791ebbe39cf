//! The trees against a `BTreeMap`.

use super::*;

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
