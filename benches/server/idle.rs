//! What a server costs that has nothing to do: alone, and with clients that are connected and watch.

use std::time::{Duration, Instant};

use ringd::proto::etcdserverpb as pb;

use crate::block_on;
use crate::client::{Client, Stream};
use crate::proc;
use crate::server::{Kind, Server};

const SETTLE: Duration = Duration::from_secs(3);
const OBSERVED: Duration = Duration::from_secs(20);
const CONNECTIONS: usize = 100;
const WATCHERS_PER_CONNECTION: usize = 100;

pub fn measure() {
    println!("idle: observed for {} s", OBSERVED.as_secs());
    println!("| server | CPU % of a core | resident MiB |");
    println!("|---|---|---|");
    let server = Server::start(Kind::Ringd, &[]);
    observe("alone", server.pid());
    block_on(async {
        let mut clients = Vec::new();
        for _ in 0..CONNECTIONS {
            clients.push(watch(&server).await);
        }
        let what = format!(
            "{CONNECTIONS} connections, {} watchers",
            CONNECTIONS * WATCHERS_PER_CONNECTION
        );
        observe(&what, server.pid());
    });
}

fn observe(what: &str, pid: u32) {
    std::thread::sleep(SETTLE);
    let (before, started) = (cpu_seconds(pid), Instant::now());
    std::thread::sleep(OBSERVED);
    let percent = 100.0 * (cpu_seconds(pid) - before) / started.elapsed().as_secs_f64();
    println!(
        "| {what} | {percent:.2} | {:.1} |",
        proc::resident_bytes(pid) as f64 / f64::from(1 << 20)
    );
}

async fn watch(server: &Server) -> (Client, Stream) {
    let client = Client::connect(server.client).await;
    let mut stream = client.open("/etcdserverpb.Watch/Watch").await;
    for number in 0..WATCHERS_PER_CONNECTION {
        let create =
            pb::WatchCreateRequest { key: format!("key/{number}").into(), ..Default::default() };
        let union = Some(pb::watch_request::RequestUnion::CreateRequest(create));
        stream.send(&pb::WatchRequest { request_union: union });
        assert!(stream.message::<pb::WatchResponse>().await.created);
    }
    (client, stream)
}

/// CPU time that a process has used, in seconds.
fn cpu_seconds(pid: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("a process of ours");
    // The name, in parentheses, may hold spaces. User and system time are fields 14 and 15.
    let fields = stat.rsplit_once(')').expect("a name").1;
    let ticks = fields.split_whitespace().skip(11).take(2).map(|ticks| ticks.parse::<f64>());
    // SAFETY: plain call.
    let ticks_per_second = unsafe { libc::sysconf(libc::_SC_CLK_TCK) } as f64;
    ticks.map(|ticks| ticks.expect("a number")).sum::<f64>() / ticks_per_second
}
