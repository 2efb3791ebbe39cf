//! Writers at full speed, `kill -9`, restart, again and again: nothing that was acknowledged is lost, revisions never go
//! back, and a watch that is resumed from the last revision it has seen misses nothing and repeats nothing.
//!
//! `RINGD_KILL_CYCLES` sets how often (20 by default). Every write makes a revision, and one watcher follows all keys
//! through all cycles; so its history must be without gaps, each acknowledged write must be in it at the revision of
//! its answer, and replaying it must give the keys that are there.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::process::Stdio;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use prost::Message;
use ringd::proto::etcdserverpb as pb;
use tokio::sync::Notify;

use crate::block_on;
use crate::client::{Client, Stream};
use crate::rng::Rng;
use crate::server::{Kind, Server};

const DEFAULT_CYCLES: u64 = 20;
const WRITERS: u64 = 16;
/// Writers share connections, as the goroutines of a client do.
const CONNECTIONS: usize = 4;
/// Every so many cycles values are large, so that logs and checkpoints move on as well.
const LARGE_EVERY: u64 = 5;
/// Every so many cycles the server is killed while it starts, too.
const KILLED_STARTING_EVERY: u64 = 4;
const LEASE: i64 = 4_711;

#[derive(Clone, Debug)]
struct Write {
    revision: i64,
    /// Key and value; `None` for a deletion.
    changes: Vec<(Bytes, Option<Bytes>)>,
}

/// What is known for sure, beside what the watcher has seen.
#[derive(Default)]
struct Ledger {
    acknowledged: Mutex<Vec<Write>>,
    count: AtomicUsize,
    enough: Notify,
}

#[derive(Clone, Debug, PartialEq)]
struct Stored {
    value: Bytes,
    create: i64,
    modified: i64,
    version: i64,
    lease: i64,
}

/// The watcher's side: all changes by revision, and the keys that they amount to.
#[derive(Default)]
struct History {
    changes: BTreeMap<i64, Vec<(Bytes, Option<Bytes>)>>,
    keys: BTreeMap<Bytes, Stored>,
    /// What is to be in it as soon as the server is up again.
    acknowledged: Vec<Write>,
}

#[test]
fn killed_writers_lose_nothing_that_was_acknowledged() {
    let cycles = std::env::var("RINGD_KILL_CYCLES").ok().and_then(|text| text.parse().ok());
    let cycles = cycles.unwrap_or(DEFAULT_CYCLES);
    let mut server = Server::start(Kind::Ringd, &[]);
    let mut history = History::default();
    let mut acknowledged = 0;
    for cycle in 0..cycles {
        acknowledged += block_on(one_cycle(&mut server, cycle, &mut history));
        if cycle % KILLED_STARTING_EVERY == 1 {
            kill_while_starting(&server, cycle);
        }
        server.run().unwrap_or_else(|ended| panic!("cycle {cycle}: {ended:#?}"));
        let complaint = server.log().into_iter().find(|line| line.contains("\"level\":\"error\""));
        assert_eq!(complaint, None, "cycle {cycle}: nothing is wrong");
    }
    block_on(verify(&server, cycles, &mut history));
    println!(
        "{cycles} cycles, {acknowledged} writes acknowledged, {} revisions, nothing lost",
        history.changes.len()
    );
    assert!(acknowledged > cycles as usize * 10, "hardly anything was written");
}

/// Checks what the last cycle has left, writes, and kills. Gives the number of acknowledged writes.
async fn one_cycle(server: &mut Server, cycle: u64, history: &mut History) -> usize {
    let mut rng = Rng::new(cycle);
    let mut watch = verify(server, cycle, history).await;

    let ledger = Arc::new(Ledger::default());
    let enough = 50 + rng.below(400);
    let mut clients = Vec::new();
    for _ in 0..CONNECTIONS {
        clients.push(Client::connect(server.client).await);
    }
    for number in 0..WRITERS {
        let client = clients[number as usize % CONNECTIONS].clone();
        let writer = Writer {
            rng: Rng::new(cycle * WRITERS + number),
            number,
            large: cycle % LARGE_EVERY == LARGE_EVERY - 1,
        };
        tokio::spawn(write(writer, client, Arc::clone(&ledger), enough));
    }
    let seen = history.last();
    if seen > 100 {
        let client = clients[0].clone();
        let compact = pb::CompactionRequest { revision: seen - 50, physical: rng.chance(50) };
        tokio::spawn(async move { client.call("/etcdserverpb.KV/Compact", &compact).await });
    }
    ledger.enough.notified().await;
    server.kill();

    while let Some(bytes) = watch.next().await {
        history.take(&bytes, cycle);
    }
    let mut acknowledged = ledger.acknowledged.lock().expect("no poison");
    let count = acknowledged.len();
    history.acknowledged.append(&mut acknowledged);
    count
}

struct Writer {
    rng: Rng,
    number: u64,
    large: bool,
}

impl Writer {
    fn value(&mut self) -> Bytes {
        let length = if self.large { self.rng.below(120_000) } else { self.rng.below(300) };
        vec![b'a' + self.rng.below(26) as u8; length].into()
    }

    fn next(&mut self) -> (pb::TxnRequest, Vec<(Bytes, Option<Bytes>)>) {
        use pb::request_op::Request as Op;
        let own = Bytes::from(format!("own/{}/{}", self.number, self.rng.below(50)));
        let shared = Bytes::from(format!("shared/{}", self.rng.below(20)));
        let (first, second) = (self.value(), self.value());
        let lease = if self.rng.chance(10) { LEASE } else { 0 };
        let put = |key: &Bytes, value: &Bytes, lease| {
            let (key, value) = (key.clone(), value.clone());
            Op::RequestPut(pb::PutRequest { key, value, lease, ..Default::default() })
        };
        let (ops, changes) = match self.rng.below(4) {
            0 => (vec![put(&own, &first, lease)], vec![(own, Some(first))]),
            1 => (vec![put(&shared, &first, 0)], vec![(shared, Some(first))]),
            2 => (
                vec![put(&own, &first, lease), put(&shared, &second, 0)],
                vec![(own, Some(first)), (shared, Some(second))],
            ),
            _ => {
                // Put in the same transaction: so the deletion always makes a revision.
                let gone = pb::DeleteRangeRequest { key: own.clone(), ..Default::default() };
                (
                    vec![Op::RequestDeleteRange(gone), put(&shared, &first, 0)],
                    vec![(own, None), (shared, Some(first))],
                )
            }
        };
        let success = ops.into_iter().map(|op| pb::RequestOp { request: Some(op) }).collect();
        (pb::TxnRequest { success, ..Default::default() }, changes)
    }
}

async fn write(mut writer: Writer, client: Client, ledger: Arc<Ledger>, enough: usize) {
    loop {
        let (request, mut changes) = writer.next();
        let reply = client.call("/etcdserverpb.KV/Txn", &request).await;
        if reply.broken.is_some() {
            break;
        }
        let response: pb::TxnResponse = reply.message();
        let deleted = response.responses.iter().any(|op| {
            use pb::response_op::Response::ResponseDeleteRange;
            matches!(&op.response, Some(ResponseDeleteRange(range)) if range.deleted > 0)
        });
        if !deleted {
            changes.retain(|(_, value)| value.is_some());
        }
        let revision = response.header.expect("a header").revision;
        ledger.acknowledged.lock().expect("no poison").push(Write { revision, changes });
        if ledger.count.fetch_add(1, Ordering::Relaxed) + 1 == enough {
            ledger.enough.notify_one();
        }
    }
}

/// The server is up again: the watcher is resumed, and what it has seen by then is compared with what is there.
async fn verify(server: &Server, cycle: u64, history: &mut History) -> Stream {
    let client = Client::connect(server.client).await;
    let everything = pb::RangeRequest {
        key: Bytes::from_static(b"\0"),
        range_end: Bytes::from_static(b"\0"),
        ..Default::default()
    };
    // The first of all reads is one that waits for nobody.
    let at_once = pb::RangeRequest { serializable: true, count_only: true, ..everything.clone() };
    let mut there = pb::RangeResponse::default();
    let mut current = 0;
    for range in [&at_once, &everything] {
        there = client.call("/etcdserverpb.KV/Range", range).await.message();
        current = there.header.as_ref().expect("a header").revision;
        let known = history.acknowledged.iter().map(|write| write.revision).max();
        let known = history.last().max(known.unwrap_or_default());
        assert!(current >= known, "cycle {cycle}: back at {current} from {known}");
    }

    let mut watch = client.open("/etcdserverpb.Watch/Watch").await;
    let create = pb::WatchCreateRequest {
        key: everything.key,
        range_end: everything.range_end,
        start_revision: history.last() + 1,
        ..Default::default()
    };
    let union = pb::watch_request::RequestUnion::CreateRequest(create);
    watch.send(&pb::WatchRequest { request_union: Some(union) });
    while history.last() < current {
        let bytes = watch.next().await.expect("the stream stays open");
        history.take(&bytes, cycle);
    }

    for write in std::mem::take(&mut history.acknowledged) {
        let there = history.changes.get(&write.revision);
        assert!(there == Some(&write.changes), "cycle {cycle}: lost {}", shorten(&write));
    }

    let there: BTreeMap<Bytes, Stored> = there
        .kvs
        .into_iter()
        .map(|kv| {
            let stored = Stored {
                value: kv.value,
                create: kv.create_revision,
                modified: kv.mod_revision,
                version: kv.version,
                lease: kv.lease,
            };
            (kv.key, stored)
        })
        .collect();
    assert!(there == history.keys, "cycle {cycle}: {}", history.difference(&there));

    let time: pb::LeaseTimeToLiveResponse = client
        .call(
            "/etcdserverpb.Lease/LeaseTimeToLive",
            &pb::LeaseTimeToLiveRequest { id: LEASE, keys: true },
        )
        .await
        .message();
    if time.ttl < 0 {
        assert_eq!(cycle, 0, "cycle {cycle}: the lease is gone");
        let grant = pb::LeaseGrantRequest { ttl: 100_000, id: LEASE };
        let _: pb::LeaseGrantResponse =
            client.call("/etcdserverpb.Lease/LeaseGrant", &grant).await.message();
    }
    let mut attached = time.keys;
    attached.sort();
    let expected = history.keys.iter().filter(|(_, stored)| stored.lease == LEASE);
    let expected: Vec<Bytes> = expected.map(|(key, _)| key.clone()).collect();
    assert_eq!(attached, expected, "cycle {cycle}: the lease's keys");
    watch
}

impl History {
    /// The revision up to which everything is known. A store that has seen nothing is at 1.
    fn last(&self) -> i64 {
        self.changes.last_key_value().map_or(1, |(revision, _)| *revision)
    }

    fn take(&mut self, bytes: &Bytes, cycle: u64) {
        let response = pb::WatchResponse::decode(bytes.clone()).expect("a watch response");
        assert!(!response.canceled, "cycle {cycle}: {response:?}");
        for (index, event) in response.events.into_iter().enumerate() {
            let kv = event.kv.expect("a key");
            let revision = kv.mod_revision;
            // The events of a revision come together.
            let last = self.last();
            let next = revision == last + 1 || (index > 0 && revision == last);
            assert!(next, "cycle {cycle}: {revision} comes after {last}");
            let deleted = event.r#type == 1;
            let change = (kv.key.clone(), (!deleted).then(|| kv.value.clone()));
            self.changes.entry(revision).or_default().push(change);
            if deleted {
                assert!(self.keys.remove(&kv.key).is_some(), "cycle {cycle}: nothing to delete");
                continue;
            }
            let old = self.keys.get(&kv.key);
            let version = old.map_or(1, |old| old.version + 1);
            let create = old.map_or(revision, |old| old.create);
            assert_eq!(
                (kv.version, kv.create_revision),
                (version, create),
                "cycle {cycle}: {kv:?}"
            );
            let stored =
                Stored { value: kv.value, create, modified: revision, version, lease: kv.lease };
            self.keys.insert(kv.key, stored);
        }
    }

    fn difference(&self, there: &BTreeMap<Bytes, Stored>) -> String {
        let odd = |key: &&Bytes| self.keys.get(*key) != there.get(*key);
        let key = self.keys.keys().chain(there.keys()).find(odd);
        let key = key.cloned().unwrap_or_default();
        let (left, right) = (there.get(&key), self.keys.get(&key));
        format!("{key:?} is {} and should be {}", shorten(&left), shorten(&right))
    }
}

/// Starts the server and kills it before or after it is ready, whatever comes first.
fn kill_while_starting(server: &Server, cycle: u64) {
    let mut rng = Rng::new(cycle);
    let mut command = server.command();
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = command.spawn().expect("a server");
    std::thread::sleep(Duration::from_micros(rng.below(60_000) as u64));
    child.kill().expect("killing a child");
    child.wait().expect("waiting for a child");
}

fn shorten(shown: &impl Debug) -> String {
    let mut shown = format!("{shown:?}");
    shown.truncate(1_000);
    shown
}
