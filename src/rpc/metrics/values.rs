//! What is read from the node, the store and the hub whenever somebody asks.

use std::fmt::Write;

use super::super::Core;
use crate::node::SnapshotCounts;

/// How Prometheus is to take a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Counter,
    Gauge,
}
use Kind::{Counter, Gauge};

/// Kind, name, help and source.
type Value = (Kind, &'static str, &'static str, fn(&Core) -> f64);

const VALUES: &[Value] = &[
    (Gauge, "etcd_server_has_leader", "Whether a leader is known.", |core| {
        f64::from(core.node.raft().leader().is_some())
    }),
    (Gauge, "etcd_server_is_leader", "Whether this member leads.", |core| {
        f64::from(core.node.raft().is_leader())
    }),
    (Gauge, "etcd_server_is_learner", "Whether this member is a learner.", |core| {
        f64::from(core.node.is_learner())
    }),
    (
        Gauge,
        "etcd_server_proposals_committed_total",
        "Index of the last committed entry.",
        |core| core.node.raft().commit_index().0 as f64,
    ),
    (Gauge, "etcd_server_proposals_applied_total", "Index of the last applied entry.", |core| {
        core.node.applier.applied_index() as f64
    }),
    (Gauge, "etcd_server_proposals_pending", "Proposals that wait for their commit.", |core| {
        core.node.pending_proposals() as f64
    }),
    (Counter, "etcd_server_proposals_failed_total", "Proposals that failed.", |core| {
        core.node.failed_proposals() as f64
    }),
    (Counter, "etcd_server_leader_changes_seen_total", "Leaders seen.", |core| {
        core.node.leadership().changes as f64
    }),
    (Gauge, "etcd_server_quota_backend_bytes", "The quota of the store.", |core| {
        core.node.quota_bytes().unwrap_or(0) as f64
    }),
    (Gauge, "etcd_mvcc_db_total_size_in_bytes", "Size of the store's file.", |core| {
        core.node.applier.size_bytes() as f64
    }),
    (Gauge, "etcd_mvcc_db_total_size_in_use_in_bytes", "Bytes of the store in use.", |core| {
        core.node.applier.store.in_use_bytes() as f64
    }),
    (Gauge, "etcd_debugging_mvcc_current_revision", "The current revision.", |core| {
        core.node.applier.mvcc.current_revision() as f64
    }),
    (
        Gauge,
        "etcd_debugging_mvcc_compact_revision",
        "The revision of the last compaction.",
        |core| core.node.applier.mvcc.compact_revision() as f64,
    ),
    (Gauge, "etcd_debugging_mvcc_keys_total", "Keys at the current revision.", |core| {
        core.node.applier.key_count().unwrap_or(0) as f64
    }),
    (Gauge, "etcd_debugging_mvcc_watcher_total", "Watchers.", |core| core.hub.len() as f64),
    (Gauge, "etcd_debugging_mvcc_watch_stream_total", "Watch streams.", |core| {
        core.progress.len() as f64
    }),
    (Gauge, "etcd_debugging_mvcc_slow_watcher_total", "Watchers that catch up.", |core| {
        core.hub.unsynced() as f64
    }),
    (Counter, "etcd_debugging_mvcc_events_total", "Events sent to watchers.", |core| {
        core.hub.events_total as f64
    }),
    (
        Gauge,
        "ringd_store_dirty_bytes",
        "Changed pages that no checkpoint has written yet.",
        |core| core.node.applier.store.dirty_bytes() as f64,
    ),
    (Gauge, "ringd_store_entry_bytes", "Bytes of all keys and values in the store.", |core| {
        core.node.applier.store.entry_bytes() as f64
    }),
    (Gauge, "ringd_store_readers", "States of the store that readers hold.", |core| {
        core.node.applier.store.reader_count() as f64
    }),
    (
        Counter,
        "ringd_defrag_moved_pages_total",
        "Pages moved towards the start of the file.",
        |core| core.node.defrag_counts().moved_pages as f64,
    ),
    (Counter, "ringd_defrag_packed_pages_total", "Pages saved by filling up leaves.", |core| {
        core.node.defrag_counts().packed_pages as f64
    }),
    (
        Counter,
        "ringd_defrag_returned_bytes_total",
        "Bytes by which runs made the file shorter.",
        |core| core.node.defrag_counts().returned_bytes as f64,
    ),
    (Counter, "ringd_defrag_runs_done_total", "Runs that found nothing more to do.", |core| {
        core.node.defrag_counts().done as f64
    }),
    (
        Counter,
        "ringd_defrag_runs_exhausted_total",
        "Runs that took all their checkpoints.",
        |core| core.node.defrag_counts().exhausted as f64,
    ),
    (Counter, "ringd_defrag_runs_pinned_total", "Runs that readers kept from going on.", |core| {
        core.node.defrag_counts().pinned as f64
    }),
    (Gauge, "ringd_defrag_pinned_seconds", "For how long readers have held up the run.", |core| {
        core.node.defrag_counts().pinned_ms as f64 / 1e3
    }),
    (
        Counter,
        "ringd_scrub_verified_pages_total",
        "Pages whose checksum was verified again.",
        |core| core.node.scrub_counts().verified_pages as f64,
    ),
    (
        Counter,
        "ringd_scrub_passes_total",
        "Times that the whole store was verified again.",
        |core| core.node.scrub_counts().passes as f64,
    ),
    (Counter, "ringd_scrub_damaged_pages_total", "Damaged pages that were found.", |core| {
        core.node.scrub_counts().damaged_pages as f64
    }),
    (Gauge, "ringd_leases", "Leases.", |core| core.node.applier.lessor.len() as f64),
    (Gauge, "etcd_debugging_auth_revision", "The revision of users and roles.", |core| {
        core.node.applier.auth.revision() as f64
    }),
    (Counter, "etcd_debugging_lease_granted_total", "Leases granted.", |core| {
        core.node.applier.counts.leases_granted as f64
    }),
    (Counter, "etcd_debugging_lease_revoked_total", "Leases revoked.", |core| {
        core.node.applier.counts.leases_revoked as f64
    }),
    (
        Counter,
        "etcd_debugging_server_lease_expired_total",
        "Leases that this leader let end.",
        |core| core.node.expired_leases() as f64,
    ),
    (
        Counter,
        "etcd_debugging_mvcc_db_compaction_keys_total",
        "Changes that compactions removed.",
        |core| core.node.applier.mvcc.counts.compacted as f64,
    ),
    (
        Gauge,
        "etcd_debugging_mvcc_pending_events_total",
        "Events queued for watchers: none ever.",
        |_| 0.0,
    ),
    (
        Gauge,
        "etcd_debugging_mvcc_total_put_size_in_bytes",
        "Bytes of keys and values put.",
        |core| core.node.applier.mvcc.counts.put_bytes as f64,
    ),
    (Counter, "etcd_mvcc_put_total", "Puts.", |core| core.node.applier.mvcc.counts.puts as f64),
    (Counter, "etcd_mvcc_delete_total", "Deletions.", |core| {
        core.node.applier.mvcc.counts.deletes as f64
    }),
    (Counter, "etcd_mvcc_txn_total", "Transactions.", |core| core.node.applier.counts.txns as f64),
    (
        Gauge,
        "etcd_mvcc_db_open_read_transactions",
        "States of the store that readers hold.",
        |core| core.node.applier.store.reader_count() as f64,
    ),
    (Gauge, "etcd_disk_defrag_inflight", "Whether a client waits for a defragmentation.", |core| {
        f64::from(!core.defragments.is_empty())
    }),
    (
        Gauge,
        "etcd_server_snapshot_apply_in_progress_total",
        "States of others being taken over.",
        |core| {
            core.node
                .snapshot_counts_by_member()
                .values()
                .map(|counts| counts.receiving)
                .sum::<u64>() as f64
        },
    ),
    (Gauge, "promhttp_metric_handler_requests_in_flight", "Scrapes being served.", |_| 1.0),
];

/// Kind, name, help, label and source of what is known of the transfers with each other member.
type OfTransfers = (Kind, &'static str, &'static str, &'static str, fn(&SnapshotCounts) -> u64);

const OF_TRANSFERS: &[OfTransfers] = &[
    (Counter, "etcd_network_snapshot_send_success", "Snapshots that arrived.", "To", |c| c.sent),
    (Counter, "etcd_network_snapshot_send_failures", "Snapshots that did not.", "To", |c| {
        c.send_failed
    }),
    (Gauge, "etcd_network_snapshot_send_inflights_total", "Being sent.", "To", |c| c.sending),
    (Counter, "etcd_network_snapshot_receive_success", "Snapshots installed.", "From", |c| {
        c.received
    }),
    (Counter, "etcd_network_snapshot_receive_failures", "Not received whole.", "From", |c| {
        c.receive_failed
    }),
    (Gauge, "etcd_network_snapshot_receive_inflights_total", "Being received.", "From", |c| {
        c.receiving
    }),
];

/// What etcd exports and has no counterpart here: its v2 store, its gRPC proxy. Each is and stays 0, as in an etcd
/// that uses neither.
const ABSENT: &[(Kind, &str)] = &[
    (Counter, "etcd_debugging_store_expires_total"),
    (Counter, "etcd_debugging_store_watch_requests_total"),
    (Gauge, "etcd_debugging_store_watchers"),
    (Gauge, "etcd_grpc_proxy_cache_hits_total"),
    (Gauge, "etcd_grpc_proxy_cache_keys_total"),
    (Gauge, "etcd_grpc_proxy_cache_misses_total"),
    (Counter, "etcd_grpc_proxy_events_coalescing_total"),
    (Gauge, "etcd_grpc_proxy_watchers_coalescing_total"),
    (Counter, "etcd_server_heartbeat_send_failures_total"),
];

/// etcd's feature gates, with their stages. None of them changes anything here: on are those whose effect is
/// always there.
const FEATURES: &[(&str, &str, bool)] = &[
    ("AllAlpha", "ALPHA", false),
    ("AllBeta", "BETA", false),
    ("CompactHashCheck", "ALPHA", false),
    ("FastLeaseKeepAlive", "BETA", true),
    ("InitialCorruptCheck", "ALPHA", false),
    ("LeaseCheckpoint", "ALPHA", false),
    ("LeaseCheckpointPersist", "ALPHA", false),
    ("PriorityRequest", "ALPHA", false),
    ("SetMemberLocalAddr", "ALPHA", false),
    ("StopGRPCServiceOnDefrag", "ALPHA", false),
    ("TxnModeWriteWithSharedBuffer", "BETA", true),
];

/// Prometheus text of all of them.
pub fn render(core: &Core) -> String {
    let mut out = String::with_capacity(16 << 10);
    let head = |out: &mut String, kind: Kind, name: &str, help: &str| {
        let kind = if kind == Counter { "counter" } else { "gauge" };
        // Writing into a string cannot fail.
        let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
    };
    for (kind, name, help, value) in VALUES {
        head(&mut out, *kind, name, help);
        let _ = writeln!(out, "{name} {}", value(core));
    }
    for (kind, name) in ABSENT {
        head(&mut out, *kind, name, "Without a counterpart in this server; always 0.");
        let _ = writeln!(out, "{name} 0");
    }
    let counts = core.node.snapshot_counts_by_member();
    for (kind, name, help, label, count) in OF_TRANSFERS {
        let sends = *label == "To";
        let concerned = counts.iter().filter(|(_, c)| match sends {
            true => c.sent + c.send_failed + c.sending > 0,
            false => c.received + c.receive_failed + c.receiving > 0,
        });
        for (at, (member, counts)) in concerned.enumerate() {
            if at == 0 {
                head(&mut out, *kind, name, help);
            }
            let _ = writeln!(out, "{name}{{{label}=\"{:x}\"}} {}", member.0, count(counts));
        }
    }
    let cluster = core.cluster_version();
    let minor = cluster.rsplit_once('.').map_or(cluster, |(minor, _)| minor);
    head(&mut out, Gauge, "etcd_cluster_version", "The cluster's version.");
    let _ = writeln!(out, "etcd_cluster_version{{cluster_version=\"{minor}\"}} 1");
    head(&mut out, Gauge, "etcd_server_feature_enabled", "Feature gates.");
    for (name, stage, on) in FEATURES {
        let on = u8::from(*on);
        let _ =
            writeln!(out, "etcd_server_feature_enabled{{name=\"{name}\",stage=\"{stage}\"}} {on}");
    }
    head(&mut out, Gauge, "etcd_network_known_peers", "Members of the cluster.");
    let own = core.node.metadata().member_id;
    for member in core.node.applier.cluster.members() {
        let remote = member.id;
        let _ =
            writeln!(out, "etcd_network_known_peers{{Local=\"{own:x}\",Remote=\"{remote:x}\"}} 1");
    }
    out
}
