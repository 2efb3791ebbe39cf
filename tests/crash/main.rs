//! Clusters of real processes: members are killed, paused, cut off and slowed down, while writers, readers and a
//! watcher record what they are told, and every record is checked.
//!
//! Members talk through proxies of the test, one in front of each member's peer port, which tell the two ends apart
//! by the greeting and can cut, slow down or delay each direction of each pair. `cargo test` runs a short bounded
//! round of each; `RINGD_CLUSTER_KILLS` and `RINGD_CLUSTER_FAULTS` set how many.

mod alerts;
#[allow(dead_code)]
#[path = "../wire/client.rs"]
mod client;
mod clients;
mod cluster;
#[allow(dead_code)]
#[path = "../wire/disk.rs"]
mod disk;
mod faults;
mod history;
mod members;
mod network;
#[path = "../wire/ports.rs"]
mod ports;
mod proxy;
mod quorum;
#[allow(dead_code)]
#[path = "../wire/rng.rs"]
mod rng;
#[allow(dead_code)]
#[path = "../wire/server.rs"]
mod server;
mod space;
mod tls;
mod traffic;

/// A runtime of one thread. Traffic has a thread and a runtime of its own, and goes on while the test waits.
pub fn block_on<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime")
        .block_on(future)
}

/// How often, by an environment variable or as `cargo test` does it.
pub fn rounds(variable: &str, default: usize) -> usize {
    std::env::var(variable).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}
