//! How long a start takes, with few keys and with many: with the tail of the log that a load leaves to be replayed, and
//! with next to none, after SIGTERM and after SIGKILL. `RINGD_OPEN_KEYS` measures another number of keys alone.

use std::time::{Duration, Instant};

use ringd::proto::etcdserverpb as pb;

use crate::block_on;
use crate::client::Client;
use crate::proc;
use crate::server::{Kind, Server};

const KEYS: [usize; 3] = [1_000, 100_000, 1_000_000];
const VALUE_BYTES: usize = 100;
const KEYS_PER_TXN: usize = 100;
const TXNS_AT_ONCE: usize = 32;
const STARTS: usize = 7;

pub fn measure() {
    println!("open-time: {VALUE_BYTES} byte values, median of {STARTS} starts");
    println!(
        "| keys | after | ready ms | of that recovery ms | log records replayed | resident MiB | heap MiB |"
    );
    println!("|---|---|---|---|---|---|---|");
    let wanted = std::env::var("RINGD_OPEN_KEYS").ok().and_then(|keys| keys.parse().ok());
    for keys in wanted.map_or(KEYS.to_vec(), |keys| vec![keys]) {
        let mut server = Server::start(Kind::Ringd, &["--quota-backend-bytes=8589934592"]);
        block_on(fill(&server, keys));
        println!("heap when {keys} keys are in: {} MiB", heap_mib(&server));
        report(&mut server, keys, "a load and SIGKILL", Server::kill);
        block_on(checkpoint(&server));
        report(&mut server, keys, "SIGKILL", Server::kill);
        report(&mut server, keys, "SIGTERM", |server| {
            server.stop();
        });
    }
}

fn report(server: &mut Server, keys: usize, after: &str, end: impl Fn(&mut Server)) {
    let mut measured: Vec<(Duration, [String; 2])> = Vec::new();
    for _ in 0..STARTS {
        end(server);
        let started = Instant::now();
        server.run().expect("it starts again");
        let ready = started.elapsed();
        let log = server.log();
        let recovered = log.iter().find(|line| line.contains("recovered from the data directory"));
        let field = |name| recovered.map_or("-".to_owned(), |line| number_after(line, name));
        measured.push((ready, [field("\"took_ms\":"), field("\"log_records\":")]));
    }
    measured.sort();
    let (ready, [recovery, records]) = &measured[measured.len() / 2];
    let resident = proc::resident_bytes(server.pid()) >> 20;
    println!(
        "| {keys} | {after} | {} | {recovery} | {records} | {resident} | {} |",
        ready.as_millis(),
        heap_mib(server)
    );
}

/// What is resident and of no file.
fn heap_mib(server: &Server) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.pid()));
    let status = status.expect("the server's status");
    let line = status.lines().find(|line| line.starts_with("RssAnon:")).expect("RssAnon");
    line.split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok()).expect("a number") >> 10
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
        let puts = (first..(first + KEYS_PER_TXN).min(keys)).map(|key| {
            let put = pb::PutRequest {
                key: format!("key/{key:010}").into(),
                value: vec![b'x'; VALUE_BYTES].into(),
                ..Default::default()
            };
            pb::RequestOp { request: Some(pb::request_op::Request::RequestPut(put)) }
        });
        let txn = pb::TxnRequest { success: puts.collect(), ..Default::default() };
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
