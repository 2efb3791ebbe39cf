//! Defragmentation with a reader pinned at any moment of it.

use super::*;

/// A store of which two thirds have been deleted, all over the file.
fn sparse() -> (MemoryDisk, Store, Model) {
    let disk = MemoryDisk::new(1 << 24, &Options { store_id: 5 });
    let mut store = disk.open().unwrap();
    store.checkpoints.growth_bytes_min = 4 * PAGE_SIZE as u64;
    let mut model = Model::new();
    for number in 0..4500u64 {
        let key = format!("key-{number:05}");
        let long = if number % 90 == 0 { 9000 } else { 0 };
        let value = vec![number as u8; 300 + long];
        store.put(Tree(1), key.as_bytes(), &value, true).unwrap();
        model.insert(key.into_bytes().into(), (value.into(), true));
    }
    store.commit(1);
    disk.checkpoint(&mut store);
    let gone: Vec<_> =
        model.keys().enumerate().filter(|(nth, _)| nth % 9 < 6).map(|(_, k)| k.clone()).collect();
    for key in gone {
        store.delete(Tree(1), &key).unwrap();
        model.remove(&key);
    }
    store.commit(2);
    disk.checkpoint(&mut store);
    (disk, store, model)
}

/// One step of a run: some pages move, a key changes, and now and then there is a checkpoint.
fn step(nth: u64, disk: &MemoryDisk, store: &mut Store, model: &mut Model) -> DefragState {
    let state = store.defrag_step(2).unwrap().state;
    let key = format!("new-{:03}", nth % 40);
    store.put(Tree(1), key.as_bytes(), &nth.to_be_bytes(), false).unwrap();
    model.insert(key.into_bytes().into(), (nth.to_be_bytes()[..].into(), false));
    store.commit(3 + nth);
    if nth % 3 == 2 {
        disk.checkpoint(store);
    }
    state
}

fn assert_short(store: &Store) {
    let (file, live) = (store.file_len(), store.in_use_bytes());
    // Holes that are left, and the room to grow into.
    let slack = 32 * PAGE_SIZE as u64 + 12 * PAGE_SIZE as u64;
    assert!(file <= live + live / 5 + slack, "{file} bytes for {live} in use");
}

#[test]
fn a_reader_pinned_at_any_step_of_a_defragmentation_sees_what_it_has_pinned() {
    const STEPS: u64 = 120;
    for pin_at in 0..STEPS {
        let (disk, mut store, mut model) = sparse();
        let before = store.file_len();
        let mut pinned = None;
        for nth in 0..STEPS {
            if nth == pin_at {
                pinned = Some((store.snapshot(), model.clone()));
            }
            step(nth, &disk, &mut store, &mut model);
        }
        let (snapshot, then) = pinned.expect("it was pinned");
        let view = store.view_at(&snapshot);
        assert_equal(view, Tree(1), &then, &mut Random::new(pin_at));
        store.check().unwrap();
        // It lets go, and the file becomes as short as it can be.
        drop(snapshot);
        for nth in STEPS..4 * STEPS {
            step(nth, &disk, &mut store, &mut model);
        }
        for _ in 0..4 {
            store.commit(store.committed_mark() + 1);
            disk.checkpoint(&mut store);
        }
        assert_equal(store.view(), Tree(1), &model, &mut Random::new(pin_at));
        store.check().unwrap();
        assert!(store.file_len() < before, "{} of {before} bytes", store.file_len());
        assert_short(&store);
    }
}
