//! A store on a forgetful disk, beside a model of what it must contain and of which pages it may
//! write to.
//!
//! The model of pages knows nothing of transaction numbers: it is the sets of pages that were
//! reached from each pinned tree when it was pinned. No page of any of them may ever be handed out.

use super::disk::{Loss, Outcome, SimDisk};
use super::*;
use crate::store::check::Walk;
use rustc_hash::FxHashSet;

const TREES_USED: usize = 3;
const RESERVE_BYTES: u64 = 1 << 26;

type Models = [Model; TREES_USED];
type PageIds = FxHashSet<PageId>;

struct Reader {
    snapshot: Snapshot,
    models: Models,
    pages: PageIds,
}

/// A checkpoint: what it contains, and the pages it consists of.
struct Pinned {
    mark: u64,
    models: Models,
    pages: PageIds,
}

/// What a run does how often.
#[derive(Clone, Copy, Debug)]
pub struct Mix {
    pub keys: u64,
    pub deletes_in_ten: u64,
    pub commit_one_in: u64,
    pub checkpoint_one_in: u64,
    pub reader_one_in: u64,
    pub readers_max: usize,
    /// Events of the disk per step, at most.
    pub disk_pace: u64,
    pub big_values: bool,
    pub defrag_one_in: u64,
}

impl Mix {
    pub fn draw(random: &mut Random) -> Mix {
        Mix {
            keys: [20, 200, 2000][random.below(3) as usize],
            deletes_in_ten: random.below(8),
            commit_one_in: 1 + random.below(20),
            checkpoint_one_in: 5 + random.below(200),
            reader_one_in: 5 + random.below(100),
            readers_max: random.below(5) as usize,
            disk_pace: 1 + random.below(6),
            big_values: random.one_in(3),
            defrag_one_in: [1_000_000, 50, 5][random.below(3) as usize],
        }
    }
}

pub struct Simulation {
    pub random: Random,
    pub mix: Mix,
    pub disk: SimDisk,
    store: Option<Store>,
    models: Models,
    committed: Models,
    mark: u64,
    readers: Vec<Reader>,
    durable: Pinned,
    checkpoint: Option<Pinned>,
    pub checkpoints: u64,
    pub full_disks: u64,
    /// An operation has failed: the process has ended.
    pub failed: bool,
    pub growths: u64,
    pub cuts: u64,
    pub moved_pages: u64,
    pub packed_pages: u64,
    pack_position: PackPosition,
    scrub_position: PageId,
}

impl Simulation {
    pub fn new(seed: u64, mix: Mix) -> Simulation {
        let image = initial_image(&Options { store_id: seed });
        let (disk, map) = SimDisk::new(image, RESERVE_BYTES);
        let store = open(map, &disk);
        let pages = pages_of(&store, None);
        Simulation {
            random: Random::new(seed),
            mix,
            disk,
            store: Some(store),
            models: Default::default(),
            committed: Default::default(),
            mark: 0,
            readers: Vec::new(),
            durable: Pinned { mark: 0, models: Default::default(), pages },
            checkpoint: None,
            checkpoints: 0,
            full_disks: 0,
            failed: false,
            growths: 0,
            cuts: 0,
            moved_pages: 0,
            packed_pages: 0,
            pack_position: PackPosition::default(),
            scrub_position: PageId::NONE,
        }
    }

    pub fn store(&mut self) -> &mut Store {
        self.store.as_mut().unwrap()
    }

    /// One change, and whatever else the dice say.
    pub fn step(&mut self) {
        self.change();
        self.check_handed_out();
        if self.random.one_in(self.mix.commit_one_in) {
            self.commit();
            if self.random.one_in(self.mix.reader_one_in) {
                self.move_readers();
            }
            if self.random.one_in(self.mix.checkpoint_one_in) {
                self.begin_checkpoint();
            }
        }
        for _ in 0..self.random.below(self.mix.disk_pace + 1) {
            self.disk_event();
        }
        if self.random.one_in(self.mix.defrag_one_in) {
            let budget = 1 + self.random.below(20) as u32;
            let moved = self.store().defrag_step(budget).unwrap().moved_pages;
            self.moved_pages += u64::from(moved);
            let mut position = std::mem::take(&mut self.pack_position);
            let packed = self.store().pack_step(&mut position, budget).unwrap();
            self.pack_position = position;
            self.packed_pages += u64::from(packed.saved_pages);
            self.scrub(budget);
        }
        self.check_handed_out();
    }

    fn change(&mut self) {
        let index = self.random.below(TREES_USED as u64) as usize;
        let tree = Tree(index as u8);
        let key = random_key(&mut self.random, self.mix.keys);
        let weight = self.random.one_in(2);
        let model = &mut self.models[index];
        let store = self.store.as_mut().unwrap();
        match self.random.below(10) {
            dice if dice < self.mix.deletes_in_ten => {
                assert_eq!(store.delete(tree, &key).unwrap(), model.remove(&key[..]).is_some());
            }
            9 => {
                let there = model.get_mut(&key[..]).map(|entry| entry.1 = weight).is_some();
                assert_eq!(store.set_weight(tree, &key, weight).unwrap(), there);
            }
            _ => {
                let mut value = random_value(&mut self.random);
                if !self.mix.big_values {
                    value.truncate(700);
                }
                store.put(tree, &key, &value, weight).unwrap();
                model.insert(key.into(), (value.into(), weight));
            }
        }
    }

    /// Something to checkpoint.
    pub fn change_and_commit(&mut self) {
        self.change();
        self.commit();
    }

    pub fn commit(&mut self) {
        self.mark += 1;
        let mark = self.mark;
        self.store().commit(mark);
        self.committed = self.models.clone();
    }

    fn move_readers(&mut self) {
        if !self.readers.is_empty() && self.random.one_in(2) {
            let index = self.random.below(self.readers.len() as u64) as usize;
            let reader = self.readers.swap_remove(index);
            self.check_reader(&reader);
        } else if self.readers.len() < self.mix.readers_max {
            let snapshot = self.store().snapshot();
            let pages = pages_of(self.store(), Some(&snapshot));
            self.readers.push(Reader { snapshot, models: self.committed.clone(), pages });
        }
    }

    fn check_reader(&mut self, reader: &Reader) {
        let view = self.store.as_ref().unwrap().view_at(&reader.snapshot);
        for (index, model) in reader.models.iter().enumerate() {
            assert_equal(view, Tree(index as u8), model, &mut self.random);
        }
    }

    pub fn begin_checkpoint(&mut self) {
        if self.store().begin_checkpoint() {
            self.check_handed_out();
            let pages = pages_of(self.store(), None);
            let (mark, models) = (self.mark, self.committed.clone());
            self.checkpoint = Some(Pinned { mark, models, pages });
        }
    }

    /// Something is handed to the disk, or done by it. False if there is nothing to do.
    pub fn disk_event(&mut self) -> bool {
        let store = self.store.as_mut().unwrap();
        let disk = &mut self.disk;
        if self.failed {
            return false;
        }
        let next = if disk.is_idle() || self.random.one_in(2) { store.next_op() } else { None };
        if let Some((id, op)) = next {
            if let Op::Write { offset, data } = &op {
                let first = (offset / PAGE_SIZE as u64) as u32;
                let end = first + (data.len() / PAGE_SIZE) as u32;
                let durable = &self.durable.pages;
                let overwritten = (first.max(2)..end).find(|page| durable.contains(&PageId(*page)));
                assert_eq!(overwritten, None, "a page of the durable checkpoint is overwritten");
            }
            self.cuts += u64::from(matches!(op, Op::Truncate { .. }));
            self.growths += u64::from(matches!(op, Op::Grow { .. }));
            disk.submit(id, op, &mut self.random);
            return true;
        }
        if disk.is_idle() {
            return false;
        }
        let durable_before = store.durable_mark();
        match disk.complete(&mut self.random) {
            (id, Outcome::Done) => store.op_done(id),
            (id, Outcome::NoSpace) => {
                self.full_disks += 1;
                store.no_space(id);
                assert!(store.is_short_of_space());
                if !store.checkpoint_running() {
                    self.checkpoint = None;
                }
            }
            (_, Outcome::Failed) => self.failed = true,
        }
        if store.durable_mark() != durable_before {
            self.durable = self.checkpoint.take().expect("a checkpoint has been begun");
            assert_eq!(store.durable_mark(), self.durable.mark);
            self.checkpoints += 1;
        }
        true
    }

    fn scrub(&mut self, budget: u32) {
        let from = self.scrub_position;
        let progress = self.store().scrub_step(from, budget).unwrap();
        self.scrub_position = progress.next.unwrap_or_default();
    }

    /// No page that a pinned tree consists of has been handed out.
    fn check_handed_out(&mut self) {
        let handed_out = std::mem::take(&mut self.store().space.handed_out);
        for page in handed_out {
            let reached = self.durable.pages.contains(&page)
                || self.checkpoint.as_ref().is_some_and(|pinned| pinned.pages.contains(&page))
                || self.readers.iter().any(|reader| reader.pages.contains(&page));
            assert!(!reached, "page {page} is handed out and in use");
        }
    }

    pub fn check(&mut self) {
        let store = self.store.as_ref().unwrap();
        store.check().unwrap();
        for (index, model) in self.models.iter().enumerate() {
            assert_equal(store.view(), Tree(index as u8), model, &mut self.random);
        }
        let readers = std::mem::take(&mut self.readers);
        for reader in &readers {
            self.check_reader(reader);
        }
        self.readers = readers;
    }

    /// The power goes, and the store is opened again.
    pub fn crash(&mut self, loss: Loss) {
        self.end_process();
        let map = self.disk.crash(loss, &mut self.random);
        self.reopen(map);
    }

    /// The process ends, and the store is opened again.
    pub fn restart(&mut self) {
        self.end_process();
        let map = self.disk.restart(&mut self.random);
        self.reopen(map);
    }

    fn end_process(&mut self) {
        self.readers.clear();
        self.store = None;
    }

    /// Opens what the disk has kept: the last durable checkpoint, or the one in flight, and nothing
    /// between.
    fn reopen(&mut self, map: Map) {
        self.failed = false;
        let store = open(map, &self.disk);
        let found = store.committed_mark();
        assert_eq!(found, store.durable_mark());
        if let Some(pinned) = self.checkpoint.take()
            && pinned.mark == found
        {
            self.durable = pinned;
        }
        assert_eq!(found, self.durable.mark, "a state that never was is found after a crash");
        self.models = self.durable.models.clone();
        self.committed = self.durable.models.clone();
        self.mark = self.mark.max(found);
        assert_eq!(pages_of(&store, None), self.durable.pages, "other pages than were written");
        self.store = Some(store);
        self.check();
    }

    /// Lets the disk finish all there is.
    pub fn finish(&mut self) {
        while self.disk_event() {}
    }
}

fn open(map: Map, disk: &SimDisk) -> Store {
    let mut store = Store::open(map, disk.len(), Options::default()).unwrap();
    // So that small stores grow and are cut often.
    store.checkpoints.growth_bytes_min = 4 * PAGE_SIZE as u64;
    store
}

/// Pages of which a state consists, the metas aside; for the live state its space pages, too.
fn pages_of(store: &Store, snapshot: Option<&Snapshot>) -> PageIds {
    let view = match snapshot {
        Some(snapshot) => store.view_at(snapshot),
        None => store.view(),
    };
    let mut walk = Walk::new(view);
    walk.all_trees().unwrap();
    let mut reached = walk.reached;
    if snapshot.is_none() {
        reached.extend(store.space.space_pages());
    }
    reached
}
