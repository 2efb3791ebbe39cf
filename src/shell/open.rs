//! What the disk holds becomes a server: store, then log, then the state machines above them.

use std::fs::File;
use std::io::{self, Read};

use super::clock::Clock;
use super::data_dir::DataDir;
use super::process_metrics;
use super::segments::Segments;
use crate::apply::{self, Applier};
use crate::h2;
use crate::config::{AutoCompaction, Config};
use crate::membership::Cluster;
use crate::node::{self, Metadata, Node, Recovered, Retention};
use crate::rpc::{self, Metrics, Server};
use crate::store::{self, Map, Store};

/// Addresses reserved for the store's file to grow into: it is mapped once and never again.
const MAP_RESERVE_BYTES: u64 = 1 << 40;

/// etcd's bound on a lease: so many election timeouts, rounded up to seconds.
fn lease_ttl_min_s(config: &Config) -> i64 {
    (3 * config.election_timeout_ms).div_ceil(2).div_ceil(1000) as i64
}

/// Content of the store file of a new member.
pub fn initial_store() -> Vec<u8> {
    let store_id = random().unwrap_or_else(|error| {
        super::fatal::disk("read", "/dev/urandom".as_ref(), None, &error)
    });
    store::initial_image(&store::Options { store_id })
}

/// Opens store and log, and brings the server up to what was acknowledged.
pub fn server(config: &Config, data_dir: &DataDir, clock: Clock) -> Result<Server, String> {
    let now_ms = clock.now_ms();
    let store_path = data_dir.store_path();
    let in_store = |error: &dyn std::fmt::Display| format!("{}: {error}", store_path.display());
    let file = File::open(&store_path).map_err(|error| in_store(&error))?;
    super::files::settle(&file, data_dir.was_unclean()).map_err(|error| in_store(&error))?;
    let file_len = file.metadata().map_err(|error| in_store(&error))?.len();
    let map = Map::open(&file, MAP_RESERVE_BYTES).map_err(|error| in_store(&error))?;
    let store = Store::open(map, file_len, store::Options { store_id: 0 })
        .map_err(|error| in_store(&error))?;

    let client_urls: Vec<String> =
        config.advertise_client_urls.iter().map(ToString::to_string).collect();
    let (cluster, member_id) = match apply::identity(&store).map_err(|error| in_store(&error))? {
        Some(identity) => identity,
        None => found(config, &client_urls)?,
    };
    let options = apply::Options { lease_ttl_min_s: lease_ttl_min_s(config) };
    let applier = Applier::open(store, cluster, member_id, options, now_ms)
        .map_err(|error| in_store(&error))?;
    let metadata = Metadata { cluster_id: applier.cluster.id, member_id };

    let wal_path = data_dir.wal_path();
    let in_log = |error: &dyn std::fmt::Display| format!("{}: {error}", wal_path.display());
    let mut segments =
        Segments::open(wal_path, data_dir.was_unclean()).map_err(|error| in_log(&error))?;
    let applied = applier.applied_index();
    let mut recovered = Recovered::default();
    let log = wal::recover(&mut segments, &mut |record| {
        recovered.visit(applied, record.kind, record.index, record.bytes());
    })
    .map_err(|error| in_log(&error))?;
    if let Some(torn) = &log.torn {
        tracing::warn!(
            segment = torn.segment.file_name(),
            offset = torn.offset,
            bytes = torn.bytes,
            "cut a write that the last process could not finish"
        );
    }
    tracing::info!(
        records = log.records,
        segments = log.segments.len(),
        applied_index = applied,
        "read the log"
    );
    let log = wal::Writer::new(wal::Options::default(), log);

    let seed = random().map_err(|error| format!("/dev/urandom: {error}"))?;
    let options = node::Options {
        metadata,
        name: config.name.clone(),
        client_urls,
        heartbeat_ms: config.heartbeat_interval_ms,
        election_ms: config.election_timeout_ms,
        quota_bytes: config.quota_bytes(),
        request_bytes_max: config.max_request_bytes,
        pending_max: rpc::PENDING_PROPOSALS_MAX,
        retention: match config.auto_compaction {
            AutoCompaction::Off => Retention::Off,
            AutoCompaction::Periodic { retention_ms } => Retention::Periodic { retention_ms },
            AutoCompaction::Revision { retention } => Retention::Revision { revisions: retention },
        },
        // Random above, so that ids differ between starts; zero below, to count up from.
        first_id: seed & !0xffff_ffff,
        seed,
    };
    let node = Node::new(applier, log, recovered, options, now_ms)
        .map_err(|error| format!("{}: {error}", data_dir.wal_path().display()))?;
    let default = h2::Limits::default();
    let options = rpc::Options {
        max_txn_ops: config.max_txn_ops,
        max_request_bytes: config.max_request_bytes,
        request_timeout_ms: 5_000 + 2 * config.election_timeout_ms,
        progress_interval_ms: config.watch_progress_notify_interval_ms,
        h2: h2::Limits {
            concurrent_streams_max: default.concurrent_streams_max.min(config.max_concurrent_streams),
            ping_min_interval_ms: config.keepalive.min_time_ms,
            keepalive_interval_ms: config.keepalive.interval_ms,
            keepalive_timeout_ms: config.keepalive.timeout_ms,
            ..default
        },
    };
    let metrics = Metrics::new(member_id, Box::new(process_metrics::render));
    Ok(Server::new(node, options, metrics, now_ms))
}

/// A new cluster of the members that the command line names, and which of them this is.
fn found(config: &Config, client_urls: &[String]) -> Result<(Cluster, u64), String> {
    let members = config.bootstrap_members().map_err(|error| error.to_string())?;
    let mut cluster = Cluster::bootstrap(&members, &config.initial_cluster_token)
        .map_err(|error| error.to_string())?;
    let own = cluster.by_name(&config.name).map(|member| member.id);
    let own = own.ok_or_else(|| format!("no member is named {:?}", config.name))?;
    if let Some(member) = cluster.member_mut(own) {
        member.client_urls = client_urls.to_vec();
    }
    Ok((cluster, own))
}

fn random() -> io::Result<u64> {
    let mut bytes = [0; 8];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(u64::from_ne_bytes(bytes))
}
