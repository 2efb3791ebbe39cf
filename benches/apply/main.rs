//! Committed entries into the state, without disk and network: puts and transactions.
//! `cargo bench --bench apply`.

#[path = "../common/instructions.rs"]
mod instructions;

use std::time::Duration;

use bytes::Bytes;
use criterion::{Criterion, Throughput};
use prost::Message;

use instructions::report;
use ringd::apply::envelope::{Kind, wrap};
use ringd::apply::{Applier, Options};
use ringd::membership::{Cluster, Member};
use ringd::proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use ringd::proto::etcdserverpb::request_op::Request;
use ringd::proto::etcdserverpb::{Compare, PutRequest, RangeRequest, RequestOp, TxnRequest};
use ringd::store::{self, MemoryDisk};

const KEYS: u64 = 100_000;
const VALUE_BYTES: usize = 256;
/// Entries that become one transaction of the store, as under load.
const BATCH: u64 = 100;

struct Bed {
    applier: Applier,
    disk: MemoryDisk,
    index: u64,
    seed: u64,
}

impl Bed {
    fn new() -> Bed {
        let disk = MemoryDisk::new(4 << 30, &store::Options::default());
        let cluster = Cluster::restore(1, [Member { id: 1, ..Default::default() }]);
        let options = Options { lease_ttl_min_s: 2, joins: false };
        let applier = Applier::open(disk.open().expect("a store"), cluster, 1, options, 0)
            .expect("an empty state");
        let index = applier.applied_index();
        let mut bed = Bed { applier, disk, index, seed: 1 };
        for first in (0..KEYS).step_by(1_000) {
            (first..first + 1_000).for_each(|n| bed.apply(Kind::Put, &put(n).encode_to_vec()));
            bed.commit();
        }
        bed
    }

    fn random(&mut self) -> u64 {
        self.seed = self.seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        self.seed >> 33
    }

    fn apply(&mut self, kind: Kind, request: &[u8]) {
        self.index += 1;
        let entry = Bytes::from(wrap(self.index, kind, request));
        let outcome = self.applier.apply(self.index, 1, &entry, 0).expect("a sound store");
        outcome.result.expect("a request that succeeds");
    }

    fn commit(&mut self) {
        self.applier.commit().expect("a sound store");
        // As the server does, so that the dirty pages do not grow for ever.
        if self.applier.store.dirty_bytes() > 64 << 20 {
            self.disk.checkpoint(&mut self.applier.store);
        }
    }

    fn puts(&mut self) {
        for _ in 0..BATCH {
            let request = put(self.random() % KEYS).encode_to_vec();
            self.apply(Kind::Put, &request);
        }
        self.commit();
    }

    /// Kubernetes' guarded update: put if the revision is the expected one, else get.
    fn txns(&mut self) {
        for _ in 0..BATCH {
            let put = put(self.random() % KEYS);
            let op = |request| RequestOp { request: Some(request) };
            let range = RangeRequest { key: put.key.clone(), ..Default::default() };
            let request = TxnRequest {
                compare: vec![Compare {
                    result: CompareResult::Greater as i32,
                    target: CompareTarget::Mod as i32,
                    key: put.key.clone(),
                    target_union: Some(TargetUnion::ModRevision(1)),
                    ..Default::default()
                }],
                success: vec![op(Request::RequestPut(put))],
                failure: vec![op(Request::RequestRange(range))],
            };
            self.apply(Kind::Txn, &request.encode_to_vec());
        }
        self.commit();
    }
}

fn put(n: u64) -> PutRequest {
    let key = format!("/registry/pods/default/pod-{n:010}").into();
    PutRequest { key, value: vec![b'v'; VALUE_BYTES].into(), ..Default::default() }
}

fn main() {
    let mut criterion = Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2))
        .without_plots()
        .configure_from_args();
    let mut bed = Bed::new();
    let mut group = criterion.benchmark_group("apply");
    group.throughput(Throughput::Elements(BATCH));
    group.bench_function("puts", |bencher| bencher.iter(|| bed.puts()));
    group.bench_function("guarded txns", |bencher| bencher.iter(|| bed.txns()));
    group.finish();
    criterion.final_summary();
    report("apply/puts", 100 * BATCH, || (0..100).for_each(|_| bed.puts()));
    report("apply/guarded txns", 100 * BATCH, || (0..100).for_each(|_| bed.txns()));
}
