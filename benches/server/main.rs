//! Figures of a whole server, for the documents: `cargo bench --bench server -- open-time`, `-- idle`, `-- steady`.
//!
//! They depend on the machine, so nothing here is asserted. `RINGD_BIN` names another binary to measure, a real etcd
//! for example.

#[allow(dead_code)]
#[path = "../../tests/wire/client.rs"]
mod client;
#[path = "../../tests/wire/ports.rs"]
mod ports;
#[path = "../../tests/wire/proc.rs"]
mod proc;
#[allow(dead_code)]
#[path = "../../tests/wire/server.rs"]
mod server;

mod heap;
mod idle;
mod noise;
mod open_time;
mod steady;

const MEASUREMENTS: [(&str, fn()); 3] =
    [("open-time", open_time::measure), ("idle", idle::measure), ("steady", steady::measure)];

fn main() {
    let names: Vec<String> =
        std::env::args().skip(1).filter(|arg| !arg.starts_with("--")).collect();
    for (name, measure) in MEASUREMENTS {
        if names.is_empty() || names.iter().any(|wanted| wanted == name) {
            measure();
        }
    }
}

fn block_on<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime")
        .block_on(future)
}
