//! The watch hub: events x watchers, and what a watcher costs that waits. `cargo bench --bench watch`.

#[path = "../common/instructions.rs"]
mod instructions;

use std::hint::black_box;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput};

use instructions::report;
use ringd::mvcc::Mvcc;
use ringd::mvcc::watch::{KeyRange, NewWatcher, Sink, WatchHub};
use ringd::proto::etcdserverpb::PutRequest;
use ringd::store::{self, MemoryDisk, Store};

/// Revisions that one turn hands to the watchers.
const EVENTS: u64 = 10;
const IDLE: usize = 100_000;

/// Streams that take everything.
#[derive(Default)]
struct Counting {
    bytes: usize,
}

impl Sink for Counting {
    fn ready(&mut self, _: u64) -> bool {
        true
    }

    fn events(&mut self, _: u64, _: i64, _: bool, _: i64, events: &[&[u8]]) {
        self.bytes += events.iter().map(|event| event.len()).sum::<usize>();
    }

    fn compacted(&mut self, _: u64, _: i64, _: i64) {}
}

struct Bed {
    store: Store,
    disk: MemoryDisk,
    mvcc: Mvcc,
    hub: WatchHub,
}

impl Bed {
    fn new() -> Bed {
        let disk = MemoryDisk::new(4 << 30, &store::Options::default());
        let store = disk.open().expect("a store");
        let mvcc = Mvcc::open(&store).expect("an empty state");
        Bed { store, disk, mvcc, hub: WatchHub::new(1) }
    }

    fn watch(&mut self, n: usize, range: KeyRange) {
        self.hub.create(
            NewWatcher {
                stream: n as u64,
                id: 0,
                range,
                start_revision: 0,
                no_put: false,
                no_delete: false,
                prev_kv: false,
                fragment: false,
            },
            self.mvcc.current_revision(),
        );
    }

    fn write(&mut self) {
        for n in 0..EVENTS {
            let key = format!("/registry/pods/default/pod-{n:04}").into();
            let put = PutRequest { key, value: vec![b'v'; 256].into(), ..Default::default() };
            self.mvcc.put(&mut self.store, &put).expect("a put");
        }
        self.store.commit(self.store.committed_mark() + 1);
        if self.store.dirty_bytes() > 64 << 20 {
            self.disk.checkpoint(&mut self.store);
        }
    }

    fn notify(&mut self, sink: &mut Counting) {
        let reader = self.mvcc.reader(self.store.view());
        self.hub.notify(reader, sink).expect("a sound store");
    }

    fn turn(&mut self) -> usize {
        let mut sink = Counting::default();
        self.write();
        self.notify(&mut sink);
        black_box(sink.bytes)
    }
}

fn prefix() -> KeyRange {
    KeyRange::new("/registry/pods/".into(), "/registry/pods0".into())
}

fn main() {
    let mut criterion = Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1))
        .without_plots()
        .configure_from_args();
    let mut group = criterion.benchmark_group("watch");
    for watchers in [1, 100, 1_000, 10_000] {
        let mut bed = Bed::new();
        (0..watchers).for_each(|n| bed.watch(n, prefix()));
        group.throughput(Throughput::Elements(EVENTS * watchers as u64));
        let id = BenchmarkId::new("events to watchers of one prefix", watchers);
        group.bench_function(id, |bencher| bencher.iter(|| bed.turn()));
        let name = format!("watch/prefix, {watchers} watchers");
        report(&name, 100 * EVENTS * watchers as u64, || {
            (0..100).for_each(|_| assert!(bed.turn() > 0));
        });
    }
    let mut bed = Bed::new();
    let before = heap_bytes();
    (0..IDLE).for_each(|n| bed.watch(n, KeyRange::new(format!("/idle/{n:08}").into(), "".into())));
    let each = (heap_bytes() - before) / IDLE as u64;
    group.throughput(Throughput::Elements(EVENTS));
    group.bench_function("events beside 100,000 watchers of other keys", |bencher| {
        bencher.iter(|| bed.turn());
    });
    group.finish();
    criterion.final_summary();
    println!("an idle watcher of a key of its own, in the hub alone: {each} bytes of heap");
}

/// Resident memory that is no file.
fn heap_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("procfs");
    let line = status.lines().find(|line| line.starts_with("RssAnon:")).expect("RssAnon");
    let kib: u64 = line.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).expect("kB");
    kib << 10
}
