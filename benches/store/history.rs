//! Keys with a history, on the same store: what a client's put, get and count cost without the disk in their way.

use std::cell::RefCell;
use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::time::Duration;

use criterion::Criterion;
use ringd::mvcc::Mvcc;
use ringd::proto::etcdserverpb::{PutRequest, RangeRequest};

use crate::data::{Random, key, value};
use crate::disk::Disk;
use crate::summary::Summary;
use crate::{KEYS, VALUE_BYTES, timed};

const NAME: &str = "history";

struct Bed {
    disk: Disk,
    mvcc: Mvcc,
    index: u64,
}

impl Bed {
    fn create(path: &Path) -> Bed {
        let disk = Disk::create(path);
        let mvcc = Mvcc::open(&disk.store).expect("a store");
        let mut bed = Bed { disk, mvcc, index: 0 };
        (0..KEYS).for_each(|number| bed.put(&put_of(number)));
        bed.disk.settle();
        bed
    }

    fn put(&mut self, request: &PutRequest) {
        self.mvcc.put(&mut self.disk.store, request).expect("a put");
        self.index += 1;
        if self.index.is_multiple_of(100) {
            self.disk.store.commit(self.index);
            self.disk.turn();
        }
    }

    fn count(&self, request: &RangeRequest, out: &mut Vec<u8>) -> i64 {
        out.clear();
        self.mvcc.range(self.disk.store.view(), request, out).expect("a read").count
    }
}

fn put_of(number: u64) -> PutRequest {
    let value = value(number, VALUE_BYTES).into();
    PutRequest { key: key(number).into(), value, ..Default::default() }
}

pub fn measure(criterion: &mut Criterion, summary: &Summary, dir: &Path) {
    let bed = Lazy { path: dir.join("history"), bed: RefCell::new(None) };
    let mut random = Random::new(7);
    summary.measure(criterion, "a client's get", NAME, 1, |rounds| {
        let gets: Vec<_> = (0..rounds)
            .map(|_| RangeRequest { key: key(random.below(KEYS)).into(), ..Default::default() })
            .collect();
        let mut out = Vec::new();
        bed.with(|bed| {
            timed(|| gets.iter().for_each(|get| assert_eq!(bed.count(get, &mut out), 1)))
        })
    });
    let all = RangeRequest {
        key: vec![0].into(),
        range_end: vec![0].into(),
        count_only: true,
        ..Default::default()
    };
    for ago in [0, 100, 1_000] {
        let work = format!("count {ago} revisions ago");
        summary.measure(criterion, &work, NAME, 1, |rounds| {
            bed.with(|bed| {
                let request =
                    RangeRequest { revision: bed.mvcc.current_revision() - ago, ..all.clone() };
                assert_eq!(
                    bed.count(&request, &mut Vec::new()),
                    KEYS as i64 - loaded_since(bed, ago)
                );
                timed(|| {
                    for _ in 0..rounds {
                        black_box(bed.count(&request, &mut Vec::new()));
                    }
                })
            })
        });
    }
    summary.measure(criterion, "a client's put", NAME, 1, |rounds| {
        let puts: Vec<_> = (0..rounds).map(|_| put_of(random.below(KEYS))).collect();
        bed.with(|bed| timed(|| puts.iter().for_each(|put| bed.put(put))))
    });
}

/// Keys that the last so many revisions have made: all of them, as long as there were only the puts of the load.
fn loaded_since(bed: &Bed, ago: i64) -> i64 {
    if bed.mvcc.current_revision() == KEYS as i64 + 1 { ago } else { 0 }
}

struct Lazy {
    path: PathBuf,
    bed: RefCell<Option<Bed>>,
}

impl Lazy {
    fn with(&self, work: impl FnOnce(&mut Bed) -> Duration) -> Duration {
        work(self.bed.borrow_mut().get_or_insert_with(|| Bed::create(&self.path)))
    }
}
