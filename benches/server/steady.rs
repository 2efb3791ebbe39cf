//! What puts feel of the work in the background: a steady load at a fixed rate, first alone, then beside a compaction
//! every ten seconds and the defragmentation that follows; and how small the file is when the load is over.
//!
//! `RINGD_STEADY_KEYS`, `RINGD_STEADY_RATE` (puts a second) and `RINGD_STEADY_SECONDS` (of each half) change the load.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use ringd::proto::etcdserverpb as pb;

use crate::block_on;
use crate::client::Client;
use crate::noise::Noise;
use crate::server::{Kind, Server};

const KEYS: u64 = 1_000_000;
const RATE: u64 = 2_000;
const SECONDS: u64 = 30;
const VALUE_BYTES: [u64; 2] = [256, 2048];
const CONNECTIONS: usize = 4;
const COMPACTION_PERIOD: Duration = Duration::from_secs(10);
const AFTER: Duration = Duration::from_secs(30);
const QUOTA: &str = "--quota-backend-bytes=17179869184";
const NO_DEFRAG: &str = "--ringd-defrag-threshold-percent=0";

pub fn measure() {
    let setting = |name: &str, default| {
        std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
    };
    let keys = setting("RINGD_STEADY_KEYS", KEYS);
    let rate = setting("RINGD_STEADY_RATE", RATE);
    let seconds = setting("RINGD_STEADY_SECONDS", SECONDS);
    let [low, high] = VALUE_BYTES;
    println!(
        "steady: {keys} keys of {low} to {high} bytes, {rate} puts a second for {seconds} s each"
    );
    let home = tempfile::tempdir().expect("a temporary directory");
    let data_dir = home.path().join("data.etcd");
    let mut random = Random(1);
    let mut server = Server::start_at(Kind::Ringd, &[QUOTA, NO_DEFRAG], &data_dir);
    let started = Instant::now();
    block_on(fill(&server, keys, &mut random));
    println!("filled in {:.1} s, file {} MiB", started.elapsed().as_secs_f64(), file_mib(&server));
    block_on(quiet(&server));
    println!(
        "| load | p50 ms | p99 ms | p99.9 ms | worst ms | turns up to 1 ms, % | turns over 10 ms | longest turn ms | syncs of the log over 16 ms | major faults | of the machine: late by, p99 ms | a synced write, p99 ms |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|---|---|");
    let alone = block_on(load(&server, keys, rate, seconds, false, &mut random));
    alone.print("puts alone");
    server.stop();
    drop(server);
    let server = Server::start_at(Kind::Ringd, &[QUOTA], &data_dir);
    let beside = block_on(load(&server, keys, rate, seconds, true, &mut random));
    beside.print("puts, compaction every 10 s, defragmentation");
    println!("p99 is {:.2} times that of puts alone", beside.at(0.99) / alone.at(0.99));
    let ended = Instant::now();
    loop {
        let (file, live) = sizes(&server);
        let seconds = ended.elapsed().as_secs_f64();
        println!(
            "{seconds:.1} s after the load: file {:.1} MiB, {:.3} times the live data",
            file / 1048576.0,
            file / live
        );
        if ended.elapsed() >= AFTER {
            break;
        }
        std::thread::sleep(AFTER / 6);
    }
    for line in metrics(server.client).lines().filter(|line| line.starts_with("ringd_defrag")) {
        println!("{line}");
    }
}

struct Measured {
    /// Sorted, in milliseconds.
    latencies: Vec<f64>,
    /// Of all turns of the loop, a share.
    quick_turns: f64,
    stalls: f64,
    longest_turn: f64,
    slow_syncs: f64,
    major_faults: f64,
    /// See `noise.rs`.
    noise: [f64; 2],
}

impl Measured {
    fn at(&self, quantile: f64) -> f64 {
        self.latencies[((self.latencies.len() - 1) as f64 * quantile) as usize]
    }

    fn print(&self, name: &str) {
        let [p50, p99, p999, worst] = [0.5, 0.99, 0.999, 1.0].map(|quantile| self.at(quantile));
        println!(
            "| {name} | {p50:.2} | {p99:.2} | {p999:.2} | {worst:.1} | {:.3} | {} | {:.1} | {} | {} | {:.2} | {:.2} |",
            self.quick_turns * 100.0,
            self.stalls,
            self.longest_turn * 1e3,
            self.slow_syncs,
            self.major_faults,
            self.noise[0],
            self.noise[1]
        );
    }
}

/// Puts at a fixed rate. A latency counts from when the put was due, not from when it was sent.
async fn load(
    server: &Server,
    keys: u64,
    rate: u64,
    seconds: u64,
    compact: bool,
    random: &mut Random,
) -> Measured {
    let mut clients = Vec::new();
    for _ in 0..CONNECTIONS {
        clients.push(Client::connect(server.client).await);
    }
    let before = metrics(server.client);
    let noise = Noise::begin(server.data_dir().parent().expect("a directory"));
    let latencies = Arc::new(Mutex::new(Vec::new()));
    let started = Instant::now();
    let compactor = tokio::spawn(compact_now_and_then(clients[0].clone(), compact));
    let mut running = tokio::task::JoinSet::new();
    for number in 0..rate * seconds {
        let due = started + Duration::from_nanos(number * 1_000_000_000 / rate);
        if due > Instant::now() {
            tokio::time::sleep_until(due.into()).await;
        }
        let put = put(random.below(keys), random);
        let (client, latencies) =
            (clients[number as usize % CONNECTIONS].clone(), Arc::clone(&latencies));
        running.spawn(async move {
            let _: pb::PutResponse = client.call("/etcdserverpb.KV/Put", &put).await.message();
            latencies.lock().expect("no poison").push(due.elapsed().as_secs_f64() * 1e3);
        });
        while running.try_join_next().is_some_and(|put| put.is_ok()) {}
    }
    while let Some(put) = running.join_next().await {
        put.expect("a put");
    }
    compactor.abort();
    let noise = noise.end();
    let after = metrics(server.client);
    let mut latencies = std::mem::take(&mut *latencies.lock().expect("no poison"));
    latencies.sort_by(f64::total_cmp);
    let over = |text: &str, name: &str, bound: &str| {
        let all = value(text, &format!("{name}_count"));
        all - value(text, &format!("{name}_bucket{{le=\"{bound}\"}}"))
    };
    let turn = "ringd_turn_duration_seconds";
    let turns = |text: &str| value(text, &format!("{turn}_count"));
    let over_1_ms = over(&after, turn, "0.001") - over(&before, turn, "0.001");
    let sync = "etcd_disk_wal_fsync_duration_seconds";
    Measured {
        latencies,
        quick_turns: 1.0 - over_1_ms / (turns(&after) - turns(&before)),
        stalls: over(&after, turn, "0.01") - over(&before, turn, "0.01"),
        longest_turn: value(&after, "ringd_turn_longest_seconds"),
        slow_syncs: over(&after, sync, "0.016") - over(&before, sync, "0.016"),
        major_faults: value(&after, "ringd_major_faults_total")
            - value(&before, "ringd_major_faults_total"),
        noise,
    }
}

async fn compact_now_and_then(client: Client, wanted: bool) {
    if !wanted {
        return;
    }
    let mut period = tokio::time::interval(COMPACTION_PERIOD);
    loop {
        period.tick().await;
        let range = pb::RangeRequest { key: "none".into(), ..Default::default() };
        let found: pb::RangeResponse =
            client.call("/etcdserverpb.KV/Range", &range).await.message();
        let revision = found.header.expect("a header").revision;
        let compact = pb::CompactionRequest { revision, physical: false };
        let _ = client.call("/etcdserverpb.KV/Compact", &compact).await;
    }
}

fn put(key: u64, random: &mut Random) -> pb::PutRequest {
    let [low, high] = VALUE_BYTES;
    let length = low + random.below(high - low + 1);
    let value =
        (0..length.div_ceil(8)).flat_map(|_| random.next().to_le_bytes()).collect::<Vec<u8>>();
    pb::PutRequest {
        key: format!("key/{key:010}").into(),
        value: value.into(),
        ..Default::default()
    }
}

async fn fill(server: &Server, keys: u64, random: &mut Random) {
    let client = Client::connect(server.client).await;
    let mut running = tokio::task::JoinSet::new();
    for first in (0..keys).step_by(100) {
        let puts = (first..(first + 100).min(keys)).map(|key| pb::RequestOp {
            request: Some(pb::request_op::Request::RequestPut(put(key, random))),
        });
        let txn = pb::TxnRequest { success: puts.collect(), ..Default::default() };
        let client = client.clone();
        running.spawn(async move {
            let _: pb::TxnResponse = client.call("/etcdserverpb.KV/Txn", &txn).await.message();
        });
        if running.len() == 16 {
            running.join_next().await.expect("running").expect("a transaction");
        }
    }
    while let Some(txn) = running.join_next().await {
        txn.expect("a transaction");
    }
}

/// Returns when everything is durable in the store.
async fn quiet(server: &Server) {
    while value(&metrics(server.client), "ringd_store_dirty_bytes") > 0.0 {
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

fn sizes(server: &Server) -> (f64, f64) {
    let text = metrics(server.client);
    let live = value(&text, "etcd_mvcc_db_total_size_in_use_in_bytes");
    let file = std::fs::metadata(server.data_dir().join("member/ringd/store"))
        .map_or(0, |file| file.len());
    (file as f64, live)
}

fn file_mib(server: &Server) -> u64 {
    sizes(server).0 as u64 >> 20
}

fn metrics(addr: SocketAddr) -> String {
    let mut tcp = TcpStream::connect(addr).expect("a connection");
    write!(tcp, "GET /metrics HTTP/1.1\r\nHost: {addr}\r\nConnection: close\r\n\r\n")
        .expect("a request");
    let mut text = String::new();
    tcp.read_to_string(&mut text).expect("an answer");
    text
}

/// The value of a metric, 0 if there is none of the name.
fn value(text: &str, name: &str) -> f64 {
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.and_then(|value| value.trim().parse().ok()).unwrap_or(0.0)
}

struct Random(u64);

impl Random {
    /// splitmix64.
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}
