//! The store beside LMDB and redb, the same work in the same run: `cargo bench --bench store`. A filter picks some of it,
//! `cargo bench --bench store -- get/ringd`.
//!
//! The data lie below `target/`, or in the directory that `RINGD_BENCH_DIR` names: it should be on a disk, and not in
//! memory. Each engine is filled with the same million keys and values in the same order.

#[path = "../common/data.rs"]
mod data;
#[path = "../common/disk.rs"]
mod disk;
#[path = "../common/log.rs"]
mod log;
#[path = "../common/summary.rs"]
mod summary;

mod engines;
mod history;
#[path = "ringd.rs"]
mod ringd_store;

use std::cell::{Cell, RefCell};
use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use criterion::Criterion;

use data::{Random, key, value};
use engines::{Engine, Lmdb, Pair, Redb};
use ringd_store::Ringd;
use summary::{SAMPLES, Summary};

const KEYS: u64 = 1_000_000;
const VALUE_BYTES: usize = 256;
const BATCH: usize = 100;
const SCAN: usize = 1_000;
/// Keys of a bulk load: few enough to be repeated.
const LOAD: u64 = 100_000;

fn main() {
    let dir = std::env::var_os("RINGD_BENCH_DIR")
        .map_or_else(|| PathBuf::from(env!("CARGO_TARGET_TMPDIR")), PathBuf::from);
    let dir = tempfile::tempdir_in(dir).expect("a directory for the data");
    let mut criterion = Criterion::default()
        .sample_size(SAMPLES)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2))
        .without_plots()
        .configure_from_args();
    let summary = Summary::default();
    let ringd = Filled::<Ringd>::new(dir.path());
    let lmdb = Filled::<Lmdb>::new(dir.path());
    let redb = Filled::<Redb>::new(dir.path());
    macro_rules! each_engine {
        ($($work:ident),*) => {$(
            $work(&mut criterion, &summary, &ringd);
            $work(&mut criterion, &summary, &lmdb);
            $work(&mut criterion, &summary, &redb);
        )*};
    }
    each_engine!(get, scan, count, count_all, put, mixed, load);
    history::measure(&mut criterion, &summary, dir.path());
    summary.print();
}

/// An engine, filled when it is needed first.
struct Filled<E> {
    dir: PathBuf,
    engine: RefCell<Option<E>>,
    loads: Cell<u32>,
}

impl<E: Engine> Filled<E> {
    fn new(dir: &Path) -> Filled<E> {
        Filled { dir: dir.to_owned(), engine: RefCell::new(None), loads: Cell::new(0) }
    }

    fn with<R>(&self, work: impl FnOnce(&mut E) -> R) -> R {
        let mut engine = self.engine.borrow_mut();
        let engine = engine.get_or_insert_with(|| {
            let mut engine = E::create(&self.dir.join(E::NAME));
            engine.load(&mut (0..KEYS).map(|n| (key(n), value(n, VALUE_BYTES))));
            assert_eq!(engine.count(b"/", b"0"), KEYS, "{} has lost keys", E::NAME);
            engine
        });
        work(engine)
    }

    /// An empty directory for a load of its own.
    fn next_dir(&self) -> PathBuf {
        self.loads.set(self.loads.get() + 1);
        self.dir.join(format!("{}-{}", E::NAME, self.loads.get()))
    }
}

/// Values at random, in an order that no cache knows; a thousand to a read transaction.
fn get<E: Engine>(criterion: &mut Criterion, summary: &Summary, filled: &Filled<E>) {
    const READS: usize = 1_000;
    let mut random = Random::new(1);
    summary.measure(criterion, "get", E::NAME, 1, |rounds| {
        let mut took = Duration::ZERO;
        for _ in 0..rounds.div_ceil(READS as u64) {
            let keys: Vec<_> = (0..READS).map(|_| key(random.below(KEYS))).collect();
            took += filled.with(|engine| timed(|| engine.get(&keys)));
        }
        took * rounds as u32 / (rounds.div_ceil(READS as u64) * READS as u64) as u32
    });
}

/// A thousand keys and values from a place at random on.
fn scan<E: Engine>(criterion: &mut Criterion, summary: &Summary, filled: &Filled<E>) {
    let mut random = Random::new(2);
    summary.measure(criterion, "scan of 1,000", E::NAME, SCAN as u64, |rounds| {
        let from: Vec<_> = (0..rounds).map(|_| key(random.below(KEYS))).collect();
        filled.with(|engine| timed(|| from.iter().map(|from| engine.scan(from, SCAN)).sum::<u64>()))
    });
}

/// How many keys a namespace has: one of two hundred.
fn count<E: Engine>(criterion: &mut Criterion, summary: &Summary, filled: &Filled<E>) {
    let mut random = Random::new(3);
    summary.measure(criterion, "count of 5,000", E::NAME, 1, |rounds| {
        let from: Vec<_> = (0..rounds).map(|_| random.below(200)).collect();
        filled.with(|engine| {
            timed(|| {
                for namespace in from {
                    let from = format!("/registry/pods/team-{namespace:03}/");
                    let to = format!("/registry/pods/team-{namespace:03}0");
                    black_box(engine.count(from.as_bytes(), to.as_bytes()));
                }
            })
        })
    });
}

/// How many keys there are, by a range that has them all.
fn count_all<E: Engine>(criterion: &mut Criterion, summary: &Summary, filled: &Filled<E>) {
    summary.measure(criterion, "count of 1,000,000", E::NAME, 1, |rounds| {
        filled.with(|engine| timed(|| (0..rounds).map(|_| engine.count(b"/", b"0")).sum::<u64>()))
    });
}

fn batch(random: &mut Random) -> Vec<Pair> {
    (0..BATCH)
        .map(|_| {
            let number = random.below(KEYS);
            (key(number), value(number ^ 1 << 32, VALUE_BYTES))
        })
        .collect()
}

/// A hundred keys at random get another value, durably. What goes on beside is waited for at the end of each sample.
fn put<E: Engine>(criterion: &mut Criterion, summary: &Summary, filled: &Filled<E>) {
    let mut random = Random::new(4);
    summary.measure(criterion, "durable batch of 100 puts", E::NAME, BATCH as u64, |rounds| {
        let batches: Vec<_> = (0..rounds).map(|_| batch(&mut random)).collect();
        filled.with(|engine| {
            timed(|| {
                batches.iter().for_each(|batch| engine.put(batch));
                engine.settle();
            })
        })
    });
}

/// Nine hundred reads, and a durable batch of a hundred puts.
fn mixed<E: Engine>(criterion: &mut Criterion, summary: &Summary, filled: &Filled<E>) {
    let mut random = Random::new(5);
    summary.measure(criterion, "900 gets, 100 puts", E::NAME, 1_000, |rounds| {
        let works: Vec<_> = (0..rounds)
            .map(|_| {
                let gets: Vec<_> = (0..9 * BATCH).map(|_| key(random.below(KEYS))).collect();
                (gets, batch(&mut random))
            })
            .collect();
        filled.with(|engine| {
            timed(|| {
                for (gets, puts) in &works {
                    black_box(engine.get(gets));
                    engine.put(puts);
                }
                engine.settle();
            })
        })
    });
}

/// A new store is filled, in an order at random, durable at the end.
fn load<E: Engine>(criterion: &mut Criterion, summary: &Summary, filled: &Filled<E>) {
    let pairs: Vec<_> = (0..LOAD).map(|n| (key(n), value(n, VALUE_BYTES))).collect();
    summary.measure(criterion, "bulk load of 100,000", E::NAME, LOAD, |rounds| {
        let mut took = Duration::ZERO;
        for _ in 0..rounds {
            let dir = filled.next_dir();
            let mut engine = E::create(&dir);
            took += timed(|| engine.load(&mut pairs.iter().cloned()));
            drop(engine);
            std::fs::remove_dir_all(dir).expect("its directory");
        }
        took
    });
}

fn timed<R>(work: impl FnOnce() -> R) -> Duration {
    let begun = Instant::now();
    black_box(work());
    begun.elapsed()
}
