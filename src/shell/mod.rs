//! The shell: the only part that names glommio, sockets, files and clocks.
//!
//! It carries out what the state machine below decides and tells it what happened. One thread does
//! all of it; beside it there are glommio's blocking thread (segment files) and the kernel's own
//! workers.
//!
//! ```text
//! uring.rs      may this process use io_uring? one line if not
//! data_dir.rs   may this directory be used? first initialisation
//! check.rs      `ringd check`: is what the disk holds what was written?
//! join.rs       a first start: which cluster, which id; srv.rs asks DNS for the members
//! open.rs       what the disk holds becomes a server
//! reactor.rs    the turn
//! socket.rs, connection.rs, listener.rs    sockets of clients
//! peers.rs, dial.rs, peer_metrics.rs       sockets between members
//! tls/          certificates and handshakes, for both
//! log_disk.rs, segments.rs, store_disk.rs, snapshot_disk.rs, files.rs, glommio_files.rs   disks
//! warm.rs, sigbus.rs   the store's map: read into memory early, and what if it cannot be read
//! clock.rs, signals.rs, systemd.rs, process_metrics.rs, log.rs, log/rotate.rs
//! limits.rs     every bound
//! bench/        sockets and clock of the load generator, which shares nothing with the server
//! ```
//!
//! Invariants: nothing here decides what a request means or what is durable enough. A failed write
//! or sync ends the process. Replacing glommio is a change of this folder.

pub mod bench;
pub mod check;
mod clock;
mod connection;
mod data_dir;
mod dial;
mod discovery;
mod fatal;
mod files;
mod glommio_files;
mod join;
mod limits;
mod listener;
pub mod log;
mod log_disk;
mod notify;
mod open;
mod peer_metrics;
mod peers;
mod process_metrics;
mod reactor;
mod segments;
mod sigbus;
mod signals;
mod snapshot_disk;
mod socket;
mod srv;
mod store_disk;
mod systemd;
mod tls;
mod uring;
mod warm;

use crate::config::Config;
use crate::node::StopReason;
use crate::rpc::ListenerKind;
use clock::Clock;
use data_dir::DataDir;
use glommio::timer::Timer;
use glommio::{LocalExecutorBuilder, Placement, PoolPlacement};
use limits::{
    BIND_PATIENCE, BLOCKING_THREADS, GUARD_PERIOD, IO_MEMORY_BYTES, PREEMPT_TIMER, RING_DEPTH,
    STOP_GRACE_MS,
};
use listener::{Bound, Serves};
use log_disk::LogDisk;
use reactor::{Core, Ended};
use snapshot_disk::SnapshotDisk;
use std::cell::RefCell;
use std::path::Path;
use std::process::ExitCode;
use std::rc::Rc;
use store_disk::StoreDisk;
use tls::Tls;

pub use process_metrics::render as process_metrics;

/// The text of a configuration file, or one line that says why there is none.
pub fn read_config(path: &Path) -> Result<String, String> {
    std::fs::read_to_string(path)
        .map_err(|error| format!("cannot read the configuration file {}: {error}", path.display()))
}

/// Serves until a signal asks for the end. What keeps it from serving is one line.
pub fn run(config: &Config) -> ExitCode {
    if let Err(error) = log::install(&config.log) {
        eprintln!("{error}");
        return ExitCode::from(fatal::EXIT_FATAL);
    }
    match serve(config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(line) => {
            tracing::error!(target: log::FATAL, "{line}");
            ExitCode::from(fatal::EXIT_FATAL)
        }
    }
}

/// Start-up, in the order in which an operator's mistakes are cheapest to report; then the loop.
fn serve(config: &Config) -> Result<(), String> {
    let clock = Clock::start();
    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }
    uring::check()?;
    let bound = bind_all(config)?;
    let mut tls = Tls::open(config)?;
    let founding = match DataDir::is_there(&config.data_dir) {
        true => None,
        false => Some(join::found(config, &tls.dialling(), true)?),
    };
    let data_dir = DataDir::open(&config.data_dir, config.wal_dir.as_deref(), open::initial_store)
        .map_err(|error| error.to_string())?;
    let durability = log_disk::probe(data_dir.wal_path(), config.unsafe_no_fsync)
        .map_err(|error| format!("cannot write to {}: {error}", data_dir.wal_path().display()))?;
    tls.start(config, &config.data_dir)?;
    let (server, peers) = open::server(config, &data_dir, founding, &tls, clock)?;
    let executor = LocalExecutorBuilder::new(Placement::Unbound)
        .name("ringd")
        .io_memory(IO_MEMORY_BYTES)
        .ring_depth(RING_DEPTH)
        .preempt_timer(PREEMPT_TIMER)
        .blocking_thread_pool_placement(PoolPlacement::Unbound(BLOCKING_THREADS))
        .make()
        .map_err(|error| format!("cannot start the event loop: {error}"))?;
    let ended = executor.run(async {
        glommio::spawn_local(guard()).detach();
        let log_disk = LogDisk::open(data_dir.wal_path(), durability)
            .await
            .map_err(|error| format!("cannot open /dev/null: {error}"))?;
        let store_path = data_dir.store_path();
        let store_disk = StoreDisk::open(&store_path, config.unsafe_no_fsync)
            .await
            .map_err(|error| format!("cannot open {}: {error}", store_path.display()))?;
        let snapshot_disk = SnapshotDisk::new(&store_path, config.unsafe_no_fsync);
        let core = Core::new(server, clock, log_disk, store_disk, snapshot_disk, peers, tls);
        run_until_stopped(&core, bound).await
    });
    // Tasks that still wait for something are abandoned with the process; taking the executor down
    // would wait for them.
    std::mem::forget(executor);
    ended?;
    if let Err(error) = data_dir.mark_stopped() {
        tracing::warn!(error = %error, "could not mark the clean stop");
    }
    tracing::info!("stopped");
    Ok(())
}

/// Keeps the event loop from sleeping for ever, see [`GUARD_PERIOD`].
async fn guard() {
    loop {
        Timer::new(GUARD_PERIOD).await;
    }
}

fn bind_all(config: &Config) -> Result<Vec<Bound>, String> {
    // With places of its own for HTTP, the others are for gRPC alone.
    let clients = match config.listen_client_http_urls.is_empty() {
        true => ListenerKind::Client,
        false => ListenerKind::Grpc,
    };
    let kinds = [
        (Serves::Peers, &config.listen_peer_urls),
        (Serves::Rpc(clients), &config.listen_client_urls),
        (Serves::Rpc(ListenerKind::Http), &config.listen_client_http_urls),
        (Serves::Rpc(ListenerKind::Metrics), &config.listen_metrics_urls),
    ];
    let all =
        kinds.into_iter().flat_map(|(serves, urls)| urls.iter().map(move |url| (serves, url)));
    let bind = |(serves, url)| listener::bind(serves, url, config.socket_reuse_port, BIND_PATIENCE);
    all.map(bind).collect()
}

async fn run_until_stopped(core: &Rc<Core>, bound: Vec<Bound>) -> Result<(), String> {
    let stop = signals::Stop::listen()
        .map_err(|error| format!("cannot install the signal handlers: {error}"))?;
    let stopper = core.clone();
    glommio::spawn_local(async move {
        stop.wait().await;
        tracing::info!("received a signal; shutting down");
        systemd::stopping();
        stopper.stop();
    })
    .detach();

    let (mut clients, mut peers, mut metrics) = (Vec::new(), Vec::new(), Vec::new());
    for bound in bound {
        match bound.serves {
            Serves::Rpc(ListenerKind::Metrics) => metrics.push(bound),
            Serves::Rpc(_) => clients.push(bound),
            Serves::Peers => peers.push(bound),
        }
    }
    // Members are heard to the end: leadership has to be handed over.
    let mut accepting_peers = Vec::new();
    for bound in peers {
        bound.listen()?;
        tracing::info!(address = bound.name, "serving peer traffic");
        accepting_peers.push(glommio::spawn_local(bound.accept_all(core.clone())));
    }
    // Dropping a task closes its listener, which is how accepting ends.
    let accepting = RefCell::new(Vec::new());
    let accept = |bound: Bound| {
        accepting.borrow_mut().push(glommio::spawn_local(bound.accept_all(core.clone())));
    };
    for bound in metrics {
        tracing::info!(address = bound.name, "serving metrics");
        accept(bound);
    }
    let mut stop_at_ms = None;
    let mut outcome = Ok(());
    core.run(|core| {
        if let Some(reason) = core.stop_reason() {
            // As etcd has it: 0 for who is removed while it serves, 1 for who finds it out at a start.
            if reason == StopReason::Removed && clients.is_empty() {
                tracing::warn!(error = %reason, "server error");
                tracing::warn!("data-dir used by this member must be removed");
            } else {
                outcome = Err(reason.to_string());
            }
            return Ended::Yes;
        }
        if core.is_stopping() {
            accepting.borrow_mut().clear();
            clients.clear();
            let at_ms = *stop_at_ms.get_or_insert(core.clock().now_ms() + STOP_GRACE_MS);
            if core.is_drained() || core.clock().now_ms() >= at_ms {
                return Ended::Yes;
            }
            return Ended::AskAgainAt(at_ms);
        }
        if !clients.is_empty() && core.is_ready() {
            for bound in clients.drain(..) {
                tracing::info!("ready to serve client requests");
                let how = match bound.is_tls {
                    true => "serving client traffic securely",
                    false => "serving client traffic insecurely; this is strongly discouraged!",
                };
                tracing::info!(traffic = bound.traffic(), address = bound.name, "{how}");
                accept(bound);
            }
            systemd::ready();
        }
        Ended::No
    })
    .await;
    drop(accepting_peers);
    outcome
}
