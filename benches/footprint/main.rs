//! What keys with a history take: on the disk, on the heap, and in time to open again.
//! `cargo bench --bench footprint -- space` and `-- heap`.
//!
//! The data lie below `target/`, or in the directory that `RINGD_BENCH_DIR` names: `heap` takes some 4 GiB there.

#[path = "../common/data.rs"]
mod data;
#[path = "../common/disk.rs"]
mod disk;

use std::path::{Path, PathBuf};
use std::time::Instant;

use ringd::mvcc::{Mvcc, Progress};
use ringd::proto::etcdserverpb::{PutRequest, RangeRequest};
use ringd::store::{DefragState, PackPosition, Tree};

use data::{Random, key, value};
use disk::Disk;

/// Measures below a directory of its own.
type Measurement = fn(&Path);

const MEASUREMENTS: [(&str, Measurement); 2] = [("space", space), ("heap", heap)];

fn main() {
    let names: Vec<String> =
        std::env::args().skip(1).filter(|arg| !arg.starts_with("--")).collect();
    let dir = std::env::var_os("RINGD_BENCH_DIR")
        .map_or_else(|| PathBuf::from(env!("CARGO_TARGET_TMPDIR")), PathBuf::from);
    for (name, measure) in MEASUREMENTS {
        if names.is_empty() || names.iter().any(|wanted| wanted == name) {
            let dir = tempfile::tempdir_in(&dir).expect("a directory for the data");
            measure(dir.path());
        }
    }
}

/// A store with keys in it.
struct Bed {
    disk: Disk,
    mvcc: Mvcc,
    index: u64,
}

impl Bed {
    fn create(path: &Path) -> Bed {
        let disk = Disk::create(path);
        let mvcc = Mvcc::open(&disk.store).expect("a store");
        Bed { disk, mvcc, index: 0 }
    }

    fn put(&mut self, key: Vec<u8>, value: Vec<u8>) {
        let request = PutRequest { key: key.into(), value: value.into(), ..Default::default() };
        self.mvcc.put(&mut self.disk.store, &request).expect("a put");
        self.end_turn();
    }

    fn end_turn(&mut self) {
        self.index += 1;
        self.disk.store.commit(self.index);
        self.disk.turn();
    }
}

/// A million pods with values of 1 KiB in an order at random, a fifth of them changed once more; then history is given
/// up, leaves are packed and the file is cut.
fn space(dir: &Path) {
    const KEYS: u64 = 1_000_000;
    const VALUE_BYTES: usize = 1024;
    let mut bed = Bed::create(&dir.join("store"));
    let mut raw = 0;
    for number in 0..KEYS {
        let key = key(number);
        raw += (key.len() + VALUE_BYTES) as u64;
        bed.put(key, value(number, VALUE_BYTES));
    }
    let mut random = Random::new(1);
    for _ in 0..KEYS / 5 {
        let number = random.below(KEYS);
        bed.put(key(number), value(number, VALUE_BYTES));
    }
    println!("space: {KEYS} keys with values of {VALUE_BYTES} bytes, {} MiB raw", raw >> 20);
    report(&bed, "history and all", raw);
    let newest = bed.mvcc.current_revision();
    bed.mvcc.compact(&mut bed.disk.store, newest).expect("a compaction");
    while bed.mvcc.compact_step(&mut bed.disk.store, 1_000).expect("a step") == Progress::More {
        bed.end_turn();
    }
    bed.end_turn();
    report(&bed, "after the compaction", raw);
    let mut at = PackPosition::default();
    while !bed.disk.store.pack_step(&mut at, 100).expect("a step").wrapped {
        bed.disk.turn();
    }
    report(&bed, "after packing", raw);
    loop {
        let progress = bed.disk.store.defrag_step(100).expect("a step");
        match progress.state {
            DefragState::Done => break,
            DefragState::More => bed.disk.turn(),
            DefragState::Waiting { .. } => bed.disk.settle(),
        }
    }
    // The end of the file is free after the first of them, and cut off after the second.
    for _ in 0..2 {
        bed.end_turn();
        bed.disk.settle();
    }
    report(&bed, "after defragmenting", raw);
    for (name, tree) in [("keys", Tree(0)), ("revisions", Tree(1))] {
        let view = bed.disk.store.view();
        println!(
            "  {name}: {} entries, {} MiB in them",
            view.entries(tree),
            view.bytes(tree) >> 20
        );
    }
}

fn report(bed: &Bed, when: &str, raw: u64) {
    let (used, file) = (bed.disk.store.in_use_bytes(), bed.disk.store.file_len());
    let times = |bytes: u64| bytes as f64 / raw as f64;
    println!(
        "{when}: pages in use {} MiB ({:.3} of raw), file {} MiB ({:.3})",
        used >> 20,
        times(used),
        file >> 20,
        times(file)
    );
}

/// Ten million small keys: what stays on the heap, and how long it takes to have them again.
fn heap(dir: &Path) {
    const KEYS: u64 = 10_000_000;
    let path = dir.join("store");
    let mut bed = Bed::create(&path);
    let small_key = |number: u64| format!("key/{number:012}").into_bytes();
    let before = status("RssAnon");
    let mut most = before;
    let begun = Instant::now();
    for number in 0..KEYS {
        bed.put(small_key(number), value(number, 32));
        if number % 100_000 == 0 {
            most = most.max(status("RssAnon"));
        }
    }
    let loaded = begun.elapsed();
    bed.disk.settle();
    println!("heap: {KEYS} keys of 16 and values of 32 bytes, loaded in {loaded:.1?}");
    println!("  file {} MiB", bed.disk.store.file_len() >> 20);
    println!(
        "  anonymous memory before {} MiB, at most while loading {} MiB",
        before >> 10,
        most >> 10
    );
    println!("  when all is durable {} MiB", status("RssAnon") >> 10);
    drop(bed);
    let begun = Instant::now();
    let disk = Disk::open(&path);
    let mvcc = Mvcc::open(&disk.store).expect("a store");
    let opened = begun.elapsed();
    let view = disk.store.view();
    let one = RangeRequest { key: small_key(KEYS / 3).into(), ..Default::default() };
    assert_eq!(mvcc.range(view, &one, &mut Vec::new()).expect("a read").count, 1);
    let all =
        RangeRequest { key: vec![0].into(), range_end: vec![0].into(), count_only: true, ..one };
    assert_eq!(mvcc.range(view, &all, &mut Vec::new()).expect("a read").count, KEYS as i64);
    println!("opened in {opened:.1?}; a read and a count after {:.1?}", begun.elapsed());
    println!("  anonymous memory {} MiB", status("RssAnon") >> 10);
}

/// KiB, from `/proc/self/status`.
fn status(name: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("its own status");
    let line = status.lines().find(|line| line.starts_with(name)).expect("a line of that name");
    line.split_whitespace().nth(1).and_then(|number| number.parse().ok()).expect("a number")
}
