//! Writers, readers and a watcher that go on whatever happens to the members.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use bytes::Bytes;
use prost::Message;
use ringd::proto::etcdserverpb as pb;

use crate::block_on;
use crate::client::Client;
use crate::history::{History, Op};
use crate::rng::Rng;

const WRITERS: u64 = 6;
const READERS: u64 = 4;
const KEYS: usize = 5;
/// Longer than an election; an answer that comes later is no answer.
const CALL_TIMEOUT: Duration = Duration::from_millis(1_500);
/// After a failure, so that a member that is down is not asked a thousand times a second.
const PAUSE: Duration = Duration::from_millis(5);

pub struct Traffic {
    shared: Arc<Shared>,
    thread: JoinHandle<()>,
}

pub struct Shared {
    started: Instant,
    endpoints: Mutex<Vec<SocketAddr>>,
    history: Mutex<History>,
    next_value: AtomicU64,
    stop: AtomicBool,
    pub acknowledged: AtomicU64,
    pub reads: AtomicU64,
    pub failed: AtomicU64,
}

impl Shared {
    fn now_us(&self) -> u64 {
        self.started.elapsed().as_micros() as u64
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    fn endpoint(&self, rng: &mut Rng) -> SocketAddr {
        let endpoints = self.endpoints.lock().expect("no poison");
        endpoints[rng.below(endpoints.len())]
    }
}

fn key_of(number: u32) -> Bytes {
    Bytes::from(format!("key/{number}"))
}

fn number_of(key: &[u8]) -> u32 {
    std::str::from_utf8(key)
        .ok()
        .and_then(|key| key.strip_prefix("key/")?.parse().ok())
        .expect("a key")
}

fn value_of(value: &[u8]) -> u64 {
    std::str::from_utf8(value).ok().and_then(|value| value.parse().ok()).expect("a value")
}

impl Traffic {
    /// Every write makes a revision, and nobody else may write.
    pub fn start(endpoints: Vec<SocketAddr>, seed: u64) -> Traffic {
        let shared = Arc::new(Shared {
            started: Instant::now(),
            endpoints: Mutex::new(endpoints),
            history: Mutex::default(),
            next_value: AtomicU64::new(1),
            stop: AtomicBool::new(false),
            acknowledged: AtomicU64::new(0),
            reads: AtomicU64::new(0),
            failed: AtomicU64::new(0),
        });
        let of_thread = Arc::clone(&shared);
        let thread = thread::spawn(move || block_on(run(of_thread, seed)));
        Traffic { shared, thread }
    }

    pub fn add_endpoint(&self, endpoint: SocketAddr) {
        self.shared.endpoints.lock().expect("no poison").push(endpoint);
    }

    pub fn shared(&self) -> &Shared {
        &self.shared
    }

    /// Waits until `more` writes have been acknowledged from now on.
    pub async fn progress(&self, more: u64) {
        let from = self.shared.acknowledged.load(Ordering::Relaxed);
        let waiting = async {
            while self.shared.acknowledged.load(Ordering::Relaxed) < from + more {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let patience = crate::server::PATIENCE;
        tokio::time::timeout(patience, waiting).await.expect("writes are accepted again");
    }

    /// Ends it, waits until the watcher has seen every acknowledged write, and checks everything.
    pub fn finish(self) -> History {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("no task panicked");
        let history = std::mem::take(&mut *self.shared.history.lock().expect("no poison"));
        assert_eq!(history.complaint(), None);
        assert!(!history.ops.is_empty() && !history.watched.is_empty(), "nothing happened");
        history
    }
}

async fn run(shared: Arc<Shared>, seed: u64) {
    let rng = |number: u64| Rng::new(seed.wrapping_mul(1_000) + number);
    let mut tasks = Vec::new();
    for number in 0..WRITERS {
        tasks.push(tokio::spawn(write(Arc::clone(&shared), rng(number))));
    }
    for number in 0..READERS {
        tasks.push(tokio::spawn(read(Arc::clone(&shared), rng(100 + number))));
    }
    // The watcher ends when it has seen all that the others were told, so it is waited for last.
    tasks.push(tokio::spawn(watch(Arc::clone(&shared), rng(200))));
    for task in tasks {
        task.await.expect("no task panicked");
    }
}

/// A client of one member, replaced when a call fails.
struct Caller {
    client: Option<Client>,
}

impl Caller {
    async fn call<A: Message + Default>(
        &mut self,
        shared: &Shared,
        rng: &mut Rng,
        path: &str,
        request: &impl Message,
    ) -> Option<A> {
        let answer = async {
            if self.client.is_none() || rng.chance(2) {
                self.client = Client::try_connect(shared.endpoint(rng)).await.ok();
            }
            let reply = self.client.as_ref()?.call(path, request).await;
            (reply.code() == 0 && reply.broken.is_none()).then(|| reply.message())
        };
        let answer = tokio::time::timeout(CALL_TIMEOUT, answer).await.ok().flatten();
        if answer.is_none() {
            self.client = None;
            shared.failed.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep(PAUSE).await;
        }
        answer
    }
}

async fn write(shared: Arc<Shared>, mut rng: Rng) {
    let mut caller = Caller { client: None };
    while !shared.stopped() {
        let value = shared.next_value.fetch_add(1, Ordering::Relaxed);
        let key = rng.below(KEYS) as u32;
        let begun_us = shared.now_us();
        shared.history.lock().expect("no poison").puts.insert(value, (key, begun_us));
        let request = pb::PutRequest {
            key: key_of(key),
            value: Bytes::from(value.to_string()),
            ..Default::default()
        };
        let answer: Option<pb::PutResponse> =
            caller.call(&shared, &mut rng, "/etcdserverpb.KV/Put", &request).await;
        let Some(answer) = answer else { continue };
        let revision = answer.header.expect("a header").revision;
        let ended_us = shared.now_us();
        let op =
            Op { begun_us, ended_us, key, value, revision, store_revision: revision, is_put: true };
        shared.history.lock().expect("no poison").ops.push(op);
        shared.acknowledged.fetch_add(1, Ordering::Relaxed);
    }
}

async fn read(shared: Arc<Shared>, mut rng: Rng) {
    let mut caller = Caller { client: None };
    while !shared.stopped() {
        let key = rng.below(KEYS) as u32;
        let begun_us = shared.now_us();
        let request = pb::RangeRequest { key: key_of(key), ..Default::default() };
        let answer: Option<pb::RangeResponse> =
            caller.call(&shared, &mut rng, "/etcdserverpb.KV/Range", &request).await;
        let Some(answer) = answer else { continue };
        let found = answer.kvs.first();
        let op = Op {
            begun_us,
            ended_us: shared.now_us(),
            key,
            value: found.map_or(0, |kv| value_of(&kv.value)),
            revision: found.map_or(0, |kv| kv.mod_revision),
            store_revision: answer.header.expect("a header").revision,
            is_put: false,
        };
        shared.history.lock().expect("no poison").ops.push(op);
        shared.reads.fetch_add(1, Ordering::Relaxed);
    }
}

/// Follows all keys from the first revision on, at one member after another.
async fn watch(shared: Arc<Shared>, mut rng: Rng) {
    loop {
        // Written by whom is known by then: the writers stop before they are waited for.
        let goal = {
            let history = shared.history.lock().expect("no poison");
            let acknowledged = history.ops.iter().filter(|op| op.is_put);
            let goal = acknowledged.map(|op| op.revision).max().unwrap_or(0);
            let seen = history.watched.last_key_value().map_or(1, |(revision, _)| *revision);
            if shared.stopped() && seen >= goal {
                return;
            }
            seen
        };
        let endpoint = shared.endpoint(&mut rng);
        let connecting = async { Client::try_connect(endpoint).await.ok() };
        let client = tokio::time::timeout(CALL_TIMEOUT, connecting).await;
        let Ok(Some(client)) = client else {
            tokio::time::sleep(PAUSE).await;
            continue;
        };
        let opened = client.open("/etcdserverpb.Watch/Watch");
        let Ok(mut stream) = tokio::time::timeout(CALL_TIMEOUT, opened).await else { continue };
        let create = pb::WatchCreateRequest {
            key: Bytes::from_static(b"\0"),
            range_end: Bytes::from_static(b"\0"),
            start_revision: goal + 1,
            ..Default::default()
        };
        let union = pb::watch_request::RequestUnion::CreateRequest(create);
        stream.send(&pb::WatchRequest { request_union: Some(union) });
        // A member that says nothing for a while may be cut off: another is asked.
        while let Ok(Some(bytes)) = tokio::time::timeout(CALL_TIMEOUT, stream.next()).await {
            let response = pb::WatchResponse::decode(bytes).expect("a watch response");
            if response.canceled {
                break;
            }
            let mut history = shared.history.lock().expect("no poison");
            for event in response.events {
                let kv = event.kv.expect("a key");
                let last = history.watched.last_key_value().map_or(1, |(revision, _)| *revision);
                assert_eq!(kv.mod_revision, last + 1, "no gap, no repetition");
                history.watched.insert(kv.mod_revision, (number_of(&kv.key), value_of(&kv.value)));
            }
        }
    }
}
