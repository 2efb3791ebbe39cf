//! How long a start takes and how much heap, with few keys and with many: after SIGKILL amid a load, with the tail of the
//! log to be replayed, and with next to none of it, after SIGTERM and after SIGKILL. `RINGD_OPEN_KEYS` measures another
//! number of keys alone.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use ringd::proto::etcdserverpb as pb;

use crate::block_on;
use crate::client::Client;
use crate::heap::{self, Peak};
use crate::proc;
use crate::server::{Kind, Server};

const KEYS: [usize; 3] = [1_000, 100_000, 1_000_000];
const VALUE_BYTES: usize = 100;
const KEYS_PER_TXN: usize = 100;
const TXNS_AT_ONCE: usize = 32;
const STARTS: usize = 7;
/// Keys that are put until the SIGKILL: each time another part of a checkpoint.
const KEYS_UNTIL_KILL: [usize; 5] = [200_000, 270_000, 340_000, 410_000, 480_000];
/// After it is ready a server is watched for so long: until a checkpoint has written what replay has left.
const WATCHED: Duration = Duration::from_secs(12);

pub fn measure() {
    println!("open-time: {VALUE_BYTES} byte values; after a stop the median of {STARTS} starts");
    println!(
        "| keys | after | ready ms | of that recovery ms | log records | resident MiB | heap MiB | at most |"
    );
    println!("|---|---|---|---|---|---|---|---|");
    let wanted = std::env::var("RINGD_OPEN_KEYS").ok().and_then(|keys| keys.parse().ok());
    for keys in wanted.map_or(KEYS.to_vec(), |keys| vec![keys]) {
        let mut server = Server::start(Kind::Ringd, &["--quota-backend-bytes=8589934592"]);
        let peak = Peak::watch(server.pid());
        block_on(fill(&server, keys));
        let now = heap::mib(server.pid());
        println!("heap when {keys} keys are in: {now} MiB, at most {} MiB", peak.mib());
        let mut there = keys;
        for more in KEYS_UNTIL_KILL {
            there += kill_amid_load(&mut server, there, more.min(keys));
            let measured = start(&mut server, WATCHED);
            print(&server, there, "SIGKILL amid a load", &measured);
        }
        block_on(checkpoint(&server));
        report(&mut server, there, "SIGKILL", Server::kill);
        report(&mut server, there, "SIGTERM", |server| {
            server.stop();
        });
    }
}

/// Time until ready, peak of the heap, and what the log says of the recovery.
type Start = (Duration, u64, [String; 2]);

fn report(server: &mut Server, keys: usize, after: &str, end: impl Fn(&mut Server)) {
    let mut measured: Vec<Start> = Vec::new();
    for _ in 0..STARTS {
        end(server);
        measured.push(start(server, Duration::ZERO));
    }
    measured.sort();
    print(server, keys, after, &measured[measured.len() / 2]);
}

fn start(server: &mut Server, watched: Duration) -> Start {
    let started = Instant::now();
    let mut peak = None;
    server.run_watched(|pid| peak = Some(Peak::watch(pid))).expect("it starts again");
    let ready = started.elapsed();
    std::thread::sleep(watched);
    let peak = peak.expect("it has been watched").mib();
    let log = server.log();
    let recovered = log.iter().find(|line| line.contains("recovered from the data directory"));
    let field = |name| recovered.map_or("-".to_owned(), |line| number_after(line, name));
    (ready, peak, [field("\"took_ms\":"), field("\"log_records\":")])
}

fn print(server: &Server, keys: usize, after: &str, (ready, peak, [recovery, records]): &Start) {
    let resident = proc::resident_bytes(server.pid()) >> 20;
    println!(
        "| {keys} | {after} | {} | {recovery} | {records} | {resident} | {} | {peak} |",
        ready.as_millis(),
        heap::mib(server.pid())
    );
}

fn number_after(line: &str, name: &str) -> String {
    let after = line.split_once(name).map_or("", |(_, after)| after);
    after.chars().take_while(char::is_ascii_digit).collect()
}

/// Defragmentation begins by making everything durable, so nothing older is to be replayed.
async fn checkpoint(server: &Server) {
    let client = Client::connect(server.client).await;
    let defragment = pb::DefragmentRequest {};
    let _: pb::DefragmentResponse =
        client.call("/etcdserverpb.Maintenance/Defragment", &defragment).await.message();
}

async fn fill(server: &Server, keys: usize) {
    let client = Client::connect(server.client).await;
    let mut running = Vec::new();
    for first in (0..keys).step_by(KEYS_PER_TXN) {
        let txn = puts(first, (first + KEYS_PER_TXN).min(keys));
        let client = client.clone();
        running.push(tokio::spawn(async move {
            let _: pb::TxnResponse = client.call("/etcdserverpb.KV/Txn", &txn).await.message();
        }));
        if running.len() == TXNS_AT_ONCE {
            for txn in running.drain(..) {
                txn.await.expect("a transaction");
            }
        }
    }
    for txn in running {
        txn.await.expect("a transaction");
    }
}

/// Kills the server while new keys are put, when so many are in. How many may be.
fn kill_amid_load(server: &mut Server, first: usize, keys: usize) -> usize {
    let address = server.client;
    let acknowledged = Arc::new(AtomicUsize::new(0));
    let so_far = acknowledged.clone();
    let load = std::thread::spawn(move || {
        block_on(async move {
            let client = Client::connect(address).await;
            let mut next = first;
            loop {
                let calls = (0..TXNS_AT_ONCE).map(|_| {
                    let txn = puts(next, next + KEYS_PER_TXN);
                    next += KEYS_PER_TXN;
                    let client = client.clone();
                    tokio::spawn(async move { client.call("/etcdserverpb.KV/Txn", &txn).await })
                });
                for call in calls.collect::<Vec<_>>() {
                    if call.await.expect("a call").code() != 0 {
                        return next - first;
                    }
                    so_far.fetch_add(KEYS_PER_TXN, Ordering::Relaxed);
                }
            }
        })
    });
    while acknowledged.load(Ordering::Relaxed) < keys && !load.is_finished() {
        std::thread::sleep(Duration::from_millis(1));
    }
    server.kill();
    load.join().expect("the load")
}

fn puts(first: usize, end: usize) -> pb::TxnRequest {
    let puts = (first..end).map(|key| {
        let put = pb::PutRequest {
            key: format!("key/{key:010}").into(),
            value: vec![b'x'; VALUE_BYTES].into(),
            ..Default::default()
        };
        pb::RequestOp { request: Some(pb::request_op::Request::RequestPut(put)) }
    });
    pb::TxnRequest { success: puts.collect(), ..Default::default() }
}
