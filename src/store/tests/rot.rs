//! Damage: every bit flipped, pages lost, swapped and made up. It is found when the store is opened
//! or read, or it makes no difference; what is read is right or an error.

use super::*;
use crate::store::page::{read_u32, seal};
use crate::store::run;

/// A small store with all kinds of pages, as two checkpoints left it.
struct Sample {
    memory: Rc<Memory>,
    image: Vec<u8>,
    /// What is in it, and what was at the checkpoint before.
    states: [Model; 2],
}

impl Sample {
    fn new(keys: u32) -> Sample {
        let disk = MemoryDisk::new(1 << 22, &Options { store_id: 99 });
        let mut store = disk.open().unwrap();
        let mut model = Model::new();
        let mut before = Model::new();
        for round in 0..3u8 {
            for number in 0..keys {
                let key = format!("key-{number:05}-{}", "x".repeat(number as usize % 50));
                let value = vec![round.wrapping_add(number as u8); 40 + number as usize % 70];
                let weight = number % 3 == 0;
                store.put(Tree(2), key.as_bytes(), &value, weight).unwrap();
                model.insert(key.into_bytes().into(), (value.into(), weight));
            }
            let value = vec![round; 9000];
            store.put(Tree(2), b"long", &value, true).unwrap();
            model.insert(b"long"[..].into(), (value.into(), true));
            for last in *b"ab" {
                let key = [&[b'k'; 4000][..], &[last]].concat();
                store.put(Tree(2), &key, &[round], true).unwrap();
                model.insert(key.into(), ([round][..].into(), true));
            }
            store.commit(u64::from(round) + 1);
            disk.checkpoint(&mut store);
            if round == 1 {
                before = model.clone();
            }
        }
        store.check().unwrap();
        let image = disk.image();
        let (_, memory) = Map::memory(image.len() as u64);
        memory.write(0, &image);
        Sample { memory, image, states: [before, model] }
    }

    fn open(&self) -> Result<Store, OpenError> {
        let map = Map::of_memory(&self.memory);
        Store::open(map, self.image.len() as u64, Options::default())
    }

    /// Reads all of it, and says whether damage was found. What is read before is right.
    fn is_damage_found(&self) -> bool {
        let Ok(store) = self.open() else { return true };
        let model = match store.durable_mark() {
            3 => &self.states[1],
            2 => &self.states[0],
            mark => panic!("the store is at mark {mark}"),
        };
        let view = store.view();
        let mut cursor = view.cursor(Tree(2));
        for (key, (value, weight)) in model {
            match cursor.next() {
                Ok(found) => assert!(found, "an entry is missing"),
                Err(_) => return true,
            }
            assert_eq!((cursor.key(), cursor.weight()), (&key[..], *weight));
            match cursor.value() {
                Ok(found) => assert_eq!(found, &value[..]),
                Err(_) => return true,
            }
        }
        assert!(!cursor.next().unwrap());
        store.check().unwrap();
        false
    }

    fn pages(&self) -> usize {
        self.image.len() / PAGE_SIZE
    }

    fn page(&self, page: usize) -> &[u8] {
        &self.image[page * PAGE_SIZE..(page + 1) * PAGE_SIZE]
    }

    fn write_page(&self, page: usize, content: &[u8]) {
        self.memory.write((page * PAGE_SIZE) as u64, content);
    }

    fn restore_page(&self, page: usize) {
        self.write_page(page, self.page(page));
    }

    /// Pages that the newest state consists of.
    fn live_pages(&self) -> Vec<usize> {
        let store = self.open().unwrap();
        (0..self.pages()).filter(|page| store.space.is_live(PageId(*page as u32))).collect()
    }
}

#[test]
fn no_flipped_bit_is_served() {
    // All that is read after each flip; of all bits that takes hours, so a share of them.
    let sample = Sample::new(150);
    assert!(!sample.is_damage_found());
    let live = sample.live_pages();
    let mut flips = 0;
    for page in 0..sample.pages() {
        for bit in (0..PAGE_SIZE * 8).step_by(61) {
            flips += 1;
            let at = page * PAGE_SIZE + bit / 8;
            sample.memory.write(at as u64, &[sample.image[at] ^ 1 << (bit % 8)]);
            let found = sample.is_damage_found();
            // A meta's damage is made good by the other; what is free does not matter.
            assert!(page < 2 || found == live.contains(&page), "page {page}, bit {bit}: {found}");
            sample.memory.write(at as u64, &sample.image[at..at + 1]);
        }
    }
    println!("{flips} bits in {} pages, {} of them in use", sample.pages(), live.len());
    assert!(!sample.is_damage_found());
}

/// A key whose entry cannot be read without a page.
struct Witness<'a> {
    page: usize,
    key: &'a [u8],
}

impl Sample {
    /// For each page in use, a key that cannot be read without it.
    fn witnesses(&self) -> Vec<Witness<'_>> {
        let keys = || self.states[1].keys().map(|key| &key[..]);
        let mut witnesses = Vec::new();
        for page in self.live_pages() {
            let at = page * PAGE_SIZE + 30;
            self.memory.write(at as u64, &[self.image[at] ^ 1]);
            let key = match self.open() {
                // Metas and space pages are looked at by whoever opens the store: any key does.
                Err(_) => keys().next(),
                Ok(_) if page < 2 => keys().next(),
                Ok(store) => keys().find(|key| store.view().get(Tree(2), key).is_err()),
            };
            let key = key.expect("a page in use that no entry needs");
            witnesses.push(Witness { page, key });
            self.restore_page(page);
        }
        witnesses
    }

    /// Opens the store and reads one entry: whether one of both is refused. What is read is right.
    fn is_refused(&self, key: &[u8]) -> bool {
        let Ok(store) = self.open() else { return true };
        let model = match store.durable_mark() {
            3 => &self.states[1],
            2 => &self.states[0],
            mark => panic!("the store is at mark {mark}"),
        };
        let Ok(found) = store.view().get(Tree(2), key) else { return true };
        assert_eq!(found, model.get(key).map(|(value, _)| &value[..]));
        false
    }
}

/// A page's damage is seen by who needs the page, whoever else there is: so each flip is followed by opening
/// the store and reading one entry that lies in the page or below it. With `STORE_EXHAUSTIVE=1` each bit
/// of each page in use, or else a share of them.
#[test]
fn no_flipped_bit_of_a_page_is_served_to_who_needs_it() {
    let all = std::env::var_os("STORE_EXHAUSTIVE").is_some();
    let sample = Sample::new(3900);
    let witnesses = sample.witnesses();
    assert!(witnesses.len() >= 64, "{} pages in use", witnesses.len());
    let mut flips = 0;
    for Witness { page, key } in &witnesses {
        for bit in (0..PAGE_SIZE * 8).step_by(if all { 1 } else { 1021 }) {
            flips += 1;
            let at = page * PAGE_SIZE + bit / 8;
            sample.memory.write(at as u64, &[sample.image[at] ^ 1 << (bit % 8)]);
            assert!(sample.is_refused(key) || *page < 2, "page {page}, bit {bit}");
            sample.memory.write(at as u64, &sample.image[at..at + 1]);
        }
    }
    println!("{flips} bits of {} pages in use", witnesses.len());
    assert!(witnesses.iter().all(|witness| !sample.is_refused(witness.key)));
}

#[test]
fn every_bit_of_a_header_matters() {
    let sample = Sample::new(150);
    let live = sample.live_pages();
    for page in live.into_iter().filter(|page| *page >= 2) {
        for bit in 0..40 * 8 {
            let at = page * PAGE_SIZE + bit / 8;
            sample.memory.write(at as u64, &[sample.image[at] ^ 1 << (bit % 8)]);
            assert!(sample.is_damage_found(), "page {page}, bit {bit}");
            sample.memory.write(at as u64, &sample.image[at..at + 1]);
        }
    }
}

#[test]
fn a_lost_write_is_found() {
    // The page as it was before: whole, of the right number, and old.
    let old = Sample::new(150);
    let seed = crate::store::meta::seed_of(99);
    for page in old.live_pages().into_iter().filter(|page| *page >= 2) {
        let mut content = old.page(page).to_vec();
        let txn = read_u32(&content, 8);
        if content[16] == crate::store::page::KIND_RUN || txn == 0 {
            continue;
        }
        content[8..12].copy_from_slice(&(txn - 1).to_le_bytes());
        seal(seed, &mut content);
        old.write_page(page, &content);
        assert!(old.is_damage_found(), "page {page}");
        old.restore_page(page);
    }
}

#[test]
fn a_misdirected_write_is_found() {
    let sample = Sample::new(150);
    let live = sample.live_pages();
    for page in live.iter().copied().filter(|page| *page >= 2) {
        for other in live.iter().copied().filter(|other| *other != page) {
            sample.write_page(page, sample.page(other));
            assert!(sample.is_damage_found(), "page {other} in the place of {page}");
        }
        sample.write_page(page, &[0; PAGE_SIZE]);
        assert!(sample.is_damage_found(), "zeros in the place of {page}");
        sample.restore_page(page);
    }
}

#[test]
fn a_page_of_another_store_is_found() {
    let sample = Sample::new(150);
    for page in sample.live_pages().into_iter().filter(|page| *page >= 2) {
        let mut content = sample.page(page).to_vec();
        seal(crate::store::meta::seed_of(98), &mut content);
        sample.write_page(page, &content);
        assert!(sample.is_damage_found(), "page {page}");
        sample.restore_page(page);
    }
}

/// Everything that reads, whatever comes of it.
fn read_all(store: &Store) {
    let _ = store.check();
    for tree in (0..TREES as u8).map(Tree) {
        let view = store.view();
        let mut cursor = view.cursor(tree);
        let mut keys = vec![b"key-00077".to_vec(), b"long".to_vec(), Vec::new(), vec![0xff; 20]];
        for _ in 0..2000 {
            if !matches!(cursor.next(), Ok(true)) {
                break;
            }
            let _ = cursor.value();
            if keys.len() < 50 {
                keys.push(cursor.key().to_vec());
            }
        }
        for key in &keys {
            let _ = view.get(tree, key);
            let _ = view.rank(tree, key);
            let _ = cursor.seek_weighted(key);
            let _ = cursor.seek_before(key);
            let _ = cursor.seek(key);
            let _ = cursor.prev();
        }
        let _ = cursor.last();
        let _ = (0..2000).take_while(|_| matches!(cursor.prev(), Ok(true))).count();
        let _ = cursor.first();
        let _ = (0..2000).take_while(|_| matches!(cursor.next_weighted(), Ok(true))).count();
    }
}

#[test]
fn pages_made_up_with_the_right_checksum_never_panic() {
    let sample = Sample::new(150);
    let seed = crate::store::meta::seed_of(99);
    let live = sample.live_pages();
    let mut random = Random::new(5);
    for _ in 0..30_000 {
        let page = live[random.below(live.len() as u64) as usize];
        let mut content = sample.page(page).to_vec();
        for _ in 0..1 + random.below(4) {
            // Mostly the header and the slots, where it hurts.
            let limit = if random.one_in(3) { PAGE_SIZE } else { 200 };
            let at = random.below(limit as u64) as usize;
            content[at] = match random.below(4) {
                0 => random.next() as u8,
                1 => content[at] ^ 1 << random.below(8),
                2 => 0xff,
                _ => content[at].wrapping_add(1),
            };
        }
        seal(if page < 2 { 0 } else { seed }, &mut content);
        sample.write_page(page, &content);
        if let Ok(store) = sample.open() {
            read_all(&store);
        }
        sample.restore_page(page);
    }
}

#[test]
fn a_scrub_finds_damage_in_what_has_been_read_before() {
    let sample = Sample::new(150);
    let store = sample.open().unwrap();
    store.check().unwrap();
    let scrub = || -> Result<u32, Corruption> {
        let (mut from, mut verified) = (PageId(0), 0);
        loop {
            let progress = store.scrub_step(from, 3)?;
            verified += progress.verified_pages;
            match progress.next {
                Some(next) => from = next,
                None => return Ok(verified),
            }
        }
    };
    let live = sample.live_pages();
    assert_eq!(scrub(), Ok(live.len() as u32 - 2));
    let newest_meta = (store.checkpoints.durable_no() % 2) as usize;
    for page in live.into_iter().filter(|page| *page >= 2 || *page == newest_meta) {
        let at = page * PAGE_SIZE + 300;
        sample.memory.write(at as u64, &[sample.image[at] ^ 4]);
        assert!(scrub().is_err(), "page {page}");
        sample.memory.write(at as u64, &sample.image[at..at + 1]);
    }
    assert!(scrub().is_ok());
}

#[test]
fn runs_are_verified_whole() {
    let sample = Sample::new(10);
    let run_at = sample
        .live_pages()
        .into_iter()
        .find(|page| *page >= 2 && sample.page(*page)[16] == crate::store::page::KIND_RUN)
        .unwrap();
    // The last byte of the value, and the last of the padding, both in the second page.
    for at in [32 + 8999, 2 * PAGE_SIZE - 1] {
        let at = run_at * PAGE_SIZE + at;
        sample.memory.write(at as u64, &[sample.image[at] ^ 0x10]);
        assert!(sample.is_damage_found());
        sample.memory.write(at as u64, &sample.image[at..at + 1]);
    }
    assert_eq!(run::pages_for(9000, 4), 2);
}
