//! From what the disk holds to a server: the store, the state in it, the log, and the settings of
//! each layer as the command line has them.
//!
//! Order: the store first, since its applied index says which entries of the log are still needed;
//! then the log. Everything is settled (`files::settle`) before it is read.

use super::clock::{Clock, unix_ms};
use super::data_dir::DataDir;
use super::join::Founding;
use super::limits::{MAP_RESERVE_BYTES, MAP_RESERVE_BYTES_MIN};
use super::peer_metrics::PeerMetrics;
use super::peers::Peers;
use super::segments::Segments;
use super::snapshot_disk::SnapshotDisk;
use super::tls::Tls;
use super::{files, join, process_metrics, sigbus, uring, warm};
use crate::apply::{self, Applier};
use crate::auth::jwt::Jwt;
use crate::config::{AuthToken, AutoCompaction, Config, LogLevel};
use crate::h2;
use crate::node::{self, Metadata, Node, Retention};
use crate::peer::Identity;
use crate::raft::{self, NodeId};
use crate::rpc::{self, AuthOptions, Metrics, Server, TokenKind};
use crate::store::{self, Map, Store};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;

/// etcd gives up a request after this and two election timeouts.
const REQUEST_TIMEOUT_MS: u64 = 5_000;
/// Members compare their histories so often. It reads all of it, which is one second of a core for
/// some millions of changes.
const CORRUPT_CHECK_MS: u64 = 60 * 60 * 1000;

/// Content of the store file of a new member.
pub fn initial_store(random: u64) -> Vec<u8> {
    store::initial_image(&store::Options { store_id: random })
}

/// The server and its links to other members, or one line that says what keeps it from being one.
/// `founding`: what a member whose directory has just been made starts with.
pub fn server(
    config: &Config,
    data_dir: &DataDir,
    founding: Option<Founding>,
    tls: &Tls,
    clock: Clock,
) -> Result<(Server, Peers), String> {
    let now_ms = clock.now_ms();
    let store_path = data_dir.store_path();
    SnapshotDisk::clean(&store_path)
        .map_err(|error| format!("{}: {error}", store_path.display()))?;
    let store = open_store(&store_path, data_dir.was_unclean())?;
    sigbus::install(store.warmer());
    warm::begin(store.warmer(), store.file_len());
    let known = apply::identity(&store).map_err(|error| error.to_string())?;
    let Founding { cluster, member_id, joins } = match (known, founding) {
        (Some((cluster, member_id)), _) => {
            if config.discovery.is_some() {
                tracing::warn!(
                    "discovery token is ignored since cluster already initialized; valid logs are found"
                );
            }
            Founding { cluster, member_id, joins: false }
        }
        (None, Some(founding)) => founding,
        // The first start came to its end before a checkpoint: the log has what there is.
        (None, None) => join::found(config, &tls.dialling(), false)?,
    };
    let metadata = Metadata { cluster_id: cluster.id, member_id };
    let applier = apply::Options { lease_ttl_min_s: lease_ttl_min_s(config), joins };
    let mut applier = Applier::open(store, cluster, member_id, applier, now_ms)
        .map_err(|error| format!("{}: {error}", data_dir.store_path().display()))?;
    applier.auth.tokens.set_ttl_ms(config.auth_token_ttl_s.saturating_mul(1000));

    let in_log = |error: &dyn std::fmt::Display| {
        format!("log in {}: {error}", data_dir.wal_path().display())
    };
    let mut segments = Segments::open(data_dir.wal_path(), data_dir.was_unclean())
        .map_err(|error| in_log(&error))?;
    let seed = files::random().map_err(|error| format!("/dev/urandom: {error}"))?;
    let options = node_options(config, metadata, u64::from_be_bytes(seed));
    let applied = applier.applied_index();
    let (entries, bytes) = options.kept_log(applier.cluster.members().len());
    let mut recovered = node::Recovered::new((applied, applier.applied_term()), entries, bytes);
    if config.force_new_cluster {
        recovered = recovered.forcing_new_cluster();
    }
    let log = wal::recover(&mut segments, &mut |record| {
        recovered.visit(record.kind, record.index, record.bytes());
    })
    .map_err(|error| in_log(&error))?;
    if let Some(torn) = &log.torn {
        tracing::warn!(
            segment = %torn.segment,
            offset = torn.offset,
            bytes = torn.bytes,
            "the log ends in a write that was interrupted; it was never acknowledged and is dropped"
        );
    }
    tracing::info!(
        applied_index = applied,
        log_records = log.records,
        took_ms = clock.now_ms() - now_ms,
        "recovered from the data directory"
    );
    let log = wal::Writer::new(wal::Options::default(), log);
    let node =
        Node::new(applier, log, recovered, options, now_ms).map_err(|error| in_log(&error))?;
    let of_peers = Rc::new(PeerMetrics::new(member_id));
    let own = Identity { cluster: metadata.cluster_id, member: NodeId(member_id) };
    let peers = Peers::new(own, of_peers.clone());
    let of_tls = tls.metrics();
    let process = move || process_metrics::render() + &of_peers.render() + &of_tls();
    let started = std::time::Instant::now();
    let elapsed = move || started.elapsed().as_secs_f64();
    let mut metrics = Metrics::new(member_id, Box::new(process), Box::new(elapsed));
    if config.extensive_metrics {
        metrics.measure_handling();
    }
    let auth = auth_options(config)?;
    let options = rpc::Options { auth, ..rpc_options(config) };
    let mut server = Server::new(node, options, metrics, now_ms);
    server.set_wall_clock(unix_ms(), clock.now_ms());
    Ok((server, peers))
}

pub fn open_store(path: &Path, unclean: bool) -> Result<Store, String> {
    let line = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
    let file = File::open(path).map_err(|error| line(&error))?;
    files::settle(&file, unclean).map_err(|error| line(&error))?;
    let len = file.metadata().map_err(|error| line(&error))?.len();
    // Addresses cost nothing, but a limit (RLIMIT_AS) may be set on them.
    let mut reserve = MAP_RESERVE_BYTES;
    let map = loop {
        match Map::open(&file, reserve) {
            Ok(map) => break map,
            Err(_) if reserve / 2 >= MAP_RESERVE_BYTES_MIN.max(len) => reserve /= 2,
            Err(error) => return Err(line(&error)),
        }
    };
    Store::open(map, len, store::Options::default()).map_err(|error| line(&error))
}

/// etcd: one and a half election timeouts, in whole seconds.
pub(super) fn lease_ttl_min_s(config: &Config) -> i64 {
    let seconds = (config.election_timeout_ms * 3 / 2).div_ceil(1000);
    i64::try_from(seconds).unwrap_or(i64::MAX)
}

fn request_timeout_ms(config: &Config) -> u64 {
    REQUEST_TIMEOUT_MS + 2 * config.election_timeout_ms
}

pub(super) fn node_options(config: &Config, metadata: Metadata, seed: u64) -> node::Options {
    node::Options {
        metadata,
        name: config.name.clone(),
        client_urls: config.advertise_client_urls.iter().map(ToString::to_string).collect(),
        heartbeat_ms: config.heartbeat_interval_ms,
        election_ms: config.election_timeout_ms,
        quota_bytes: config.quota_bytes(),
        request_bytes_max: config.max_request_bytes,
        pending_max: rpc::PENDING_PROPOSALS_MAX,
        patience_ms: request_timeout_ms(config),
        snapshot_count: config.snapshot_count,
        catch_up_entries: config.snapshot_catchup_entries,
        replay_dirty_bytes: node::REPLAY_DIRTY_BYTES,
        snapshot_dirty_bytes: node::SNAPSHOT_DIRTY_BYTES,
        corrupt_check_ms: Some(config.corrupt_check_ms.unwrap_or(CORRUPT_CHECK_MS)),
        strict_reconfig_check: config.strict_reconfig_check,
        retention: match config.auto_compaction {
            AutoCompaction::Off => Retention::Off,
            AutoCompaction::Periodic { retention_ms } => Retention::Periodic { retention_ms },
            AutoCompaction::Revision { retention } => Retention::Revision { revisions: retention },
        },
        defrag_threshold_percent: config.defrag_threshold_percent,
        first_id: first_id(metadata.member_id, unix_ms()),
        inflight_appends_max: raft::limits::INFLIGHT_APPENDS_MAX,
        seed,
    }
}

/// etcd's layout of ids: 16 bits of the member, 40 of the milliseconds at start, 8 to count with. A
/// start that follows another begins beyond what that one has used, unless it used 256 a
/// millisecond all its life.
fn first_id(member_id: u64, unix_ms: u64) -> u64 {
    (member_id & 0xffff) << 48 | (unix_ms & ((1 << 40) - 1)) << 8
}

fn rpc_options(config: &Config) -> rpc::Options {
    // 0 on the command line is never.
    let or_never = |ms| if ms == 0 { u64::MAX / 2 } else { ms };
    rpc::Options {
        max_txn_ops: config.max_txn_ops,
        max_request_bytes: config.max_request_bytes,
        request_timeout_ms: request_timeout_ms(config),
        max_learners: config.max_learners,
        auth: AuthOptions::default(),
        progress_interval_ms: config.watch_progress_notify_interval_ms,
        gateway: config.enable_grpc_gateway,
        warning_request_ms: config.warning_request_ms,
        warning_apply_ms: config.warning_apply_ms,
        pprof: config.enable_pprof || config.log.level == LogLevel::Debug,
        traces: config.log.level == LogLevel::Debug,
        command_line: std::env::args_os().map(|arg| arg.to_string_lossy().into_owned()).collect(),
        fds_max: uring::soft_limit(libc::RLIMIT_NOFILE),
        access: rpc::Access { origins: config.cors.clone(), hosts: config.host_whitelist.clone() },
        h2: h2::Limits {
            concurrent_streams_max: config
                .max_concurrent_streams
                .min(h2::Limits::default().concurrent_streams_max),
            ping_min_interval_ms: config.keepalive.min_time_ms,
            keepalive_interval_ms: or_never(config.keepalive.interval_ms),
            keepalive_timeout_ms: or_never(config.keepalive.timeout_ms),
            ..h2::Limits::default()
        },
    }
}

/// What tokens are, and what passwords cost.
fn auth_options(config: &Config) -> Result<AuthOptions, String> {
    let tokens = match &config.auth_token {
        AuthToken::Simple => TokenKind::Simple,
        AuthToken::None => TokenKind::None,
        AuthToken::Jwt { method, public_key, private_key, ttl_s } => {
            let read = |path: &Option<PathBuf>| match path {
                Some(path) => std::fs::read(path)
                    .map(Some)
                    .map_err(|error| format!("--auth-token: {}: {error}", path.display())),
                None => Ok(None),
            };
            let (public, private) = (read(public_key)?, read(private_key)?);
            let jwt = Jwt::new(method, public.as_deref(), private.as_deref(), *ttl_s);
            TokenKind::Jwt(Arc::new(jwt.map_err(|error| format!("--auth-token: {error}"))?))
        }
    };
    let client_cert_auth = config.client_security.client_cert_auth;
    Ok(AuthOptions { tokens, bcrypt_cost: config.bcrypt_cost, client_cert_auth })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_of_a_later_start_are_beyond_those_of_an_earlier_one() {
        let first = first_id(0xabcd_1234, 1_700_000_000_000);
        assert_eq!(first >> 48, 0x1234);
        assert_eq!(first_id(0xabcd_1234, 1_700_000_000_001) - first, 256);
    }
}
