//! What is refused when a store is opened, and in which words.

use super::*;
use crate::store::page::{seal, write_u32};

fn open(image: &[u8]) -> Result<Store, OpenError> {
    let (map, memory) = Map::memory(1 << 20);
    memory.write(0, image);
    Store::open(map, image.len() as u64, Options::default())
}

fn error_of(image: &[u8]) -> String {
    open(image).err().expect("the store opens").to_string()
}

/// A new store with its first meta changed, and sealed again.
fn with_meta(change: impl FnOnce(&mut [u8])) -> Vec<u8> {
    let mut image = initial_image(&Options { store_id: 3 });
    change(&mut image[..PAGE_SIZE]);
    seal(0, &mut image[..PAGE_SIZE]);
    image
}

#[test]
fn a_new_store_is_empty_and_in_order() {
    let store = open(&initial_image(&Options { store_id: 3 })).unwrap();
    let report = store.check().unwrap();
    assert_eq!((report.live_pages, report.available_pages, report.pending_pages), (3, 0, 0));
    assert_eq!((store.committed_mark(), store.durable_mark(), store.dirty_bytes()), (0, 0, 0));
}

#[test]
fn what_is_not_a_store_is_refused_with_the_place_and_the_reason() {
    let image = initial_image(&Options { store_id: 3 });
    let cases = [
        (Vec::new(), "store: the file is 0 bytes long, which no store is"),
        (image[..PAGE_SIZE * 2].to_vec(), "store: the file is 16384 bytes long, which no store is"),
        (
            vec![0xab; PAGE_SIZE * 4],
            "store: neither meta page can be used: at offset 0 there is no magic number; at offset \
             8192 there is no magic number",
        ),
        (
            with_meta(|meta| write_u32(meta, 40, 2)),
            "store: format version 2 at offset 0: this program reads version 1",
        ),
        (
            with_meta(|meta| write_u32(meta, 44, 4096)),
            "store: page size 4096 at offset 0: this program uses 8192",
        ),
        (
            with_meta(|meta| write_u32(meta, 72, 9)),
            "store: the meta page at offset 0 names 73728 bytes, and the file has 24576",
        ),
        (
            with_meta(|meta| write_u32(meta, 56, 1)),
            "store: page 0 at offset 0: a meta in the other's slot",
        ),
        (
            with_meta(|meta| write_u32(meta, 84, 1)),
            "store: page 0 at offset 0: a reserved field is not zero",
        ),
        (with_meta(|meta| write_u32(meta, 88, 1)), "store: page 0 at offset 0: an impossible root"),
        (
            with_meta(|meta| write_u32(meta, 80, 1)),
            "store: page 2 at offset 16384: the space pages are not those of their meta",
        ),
    ];
    for (image, wanted) in cases {
        assert_eq!(error_of(&image), wanted);
    }
    let mut damaged = image.clone();
    damaged[100] ^= 1;
    let wanted = "store: neither meta page can be used: at offset 0 the checksum is wrong; at offset \
                  8192 nothing has been written";
    assert_eq!(error_of(&damaged), wanted);
    let mut damaged = image;
    damaged[2 * PAGE_SIZE + 5000] ^= 1;
    assert_eq!(
        error_of(&damaged),
        "store: page 2 at offset 16384: checksum mismatch in a space page"
    );
}

#[test]
fn a_map_that_is_too_small_is_refused() {
    let disk = MemoryDisk::new(1 << 22, &Options { store_id: 3 });
    let mut store = disk.open().unwrap();
    store.put(Tree(0), b"key", &[1; 100_000], false).unwrap();
    store.commit(1);
    disk.checkpoint(&mut store);
    let (map, _) = Map::memory(1 << 16);
    let error = Store::open(map, disk.image().len() as u64, Options::default()).err();
    assert_eq!(error, Some(OpenError::Reservation(1 << 16)));
}

#[test]
fn a_store_in_a_real_file_is_written_and_opened_again() {
    use std::io::{Seek, SeekFrom, Write};
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(&initial_image(&Options { store_id: 12 })).unwrap();
    let mut models = Model::new();
    for round in 0..4u64 {
        let len = file.metadata().unwrap().len();
        let map = Map::open(&file, 1 << 30).unwrap();
        let mut store = Store::open(map, len, Options::default()).unwrap();
        assert_eq!(store.durable_mark(), round);
        assert_equal(store.view(), Tree(0), &models, &mut Random::new(round));
        for number in 0..3000 * (round + 1) {
            let key = format!("{}", number * 7);
            let value = vec![round as u8; (number % 900) as usize];
            store.put(Tree(0), key.as_bytes(), &value, true).unwrap();
            models.insert(key.into_bytes().into(), (value.into(), true));
        }
        store.commit(round + 1);
        assert!(store.begin_checkpoint());
        while let Some((id, op)) = store.next_op() {
            match op {
                Op::Grow { len } | Op::Truncate { len } => file.set_len(len).unwrap(),
                Op::Write { offset, data } => {
                    file.seek(SeekFrom::Start(offset)).unwrap();
                    file.write_all(&data).unwrap();
                }
                Op::Sync => file.sync_data().unwrap(),
            }
            store.op_done(id);
        }
        // What has been on the heap is read from the map now.
        assert_eq!(store.dirty_bytes(), 0);
        assert_equal(store.view(), Tree(0), &models, &mut Random::new(round));
        store.check().unwrap();
    }
}

/// If this fails, the format has changed: then its version must, too, or stores of users are lost.
#[test]
fn the_format_is_that_of_version_1() {
    let disk = MemoryDisk::new(1 << 22, &Options { store_id: 0x1234_5678 });
    assert_eq!(crc32c::crc32c(&disk.image()), INITIAL_IMAGE);
    let mut store = disk.open().unwrap();
    for number in 0..1000u64 {
        let weight = number % 2 == 0;
        store.put(Tree(0), format!("key/{number:06}").as_bytes(), &[1; 20], weight).unwrap();
        store.put(Tree(1), &number.to_be_bytes(), b"value", false).unwrap();
    }
    store.put(Tree(7), b"long", &[9; 20_000], true).unwrap();
    store.commit(77);
    disk.checkpoint(&mut store);
    assert_eq!(crc32c::crc32c(&disk.image()), SMALL_STORE);
}

const INITIAL_IMAGE: u32 = 1_326_987_289;
const SMALL_STORE: u32 = 2_982_482_261;
