//! What `/metrics` shows: etcd's names and labels, so that dashboards and alerts find them.
//!
//! Counters of this layer are kept here; what the node and the store know is read when it is asked
//! for. The shell adds what only it can measure: times of the disk, and the process.

use prometheus::{
    Encoder, Gauge, GaugeVec, Histogram, HistogramOpts, IntCounter, IntCounterVec, Opts, Registry,
    TextEncoder, exponential_buckets,
};

use super::Core;
use super::method::{METHODS, Method};
use crate::grpc::Code;
use crate::node::SnapshotCounts;
use crate::version;

pub struct Metrics {
    registry: Registry,
    started: Vec<IntCounter>,
    handled: IntCounterVec,
    handled_ok: Vec<IntCounter>,
    health_success: IntCounter,
    health_failures: IntCounter,
    values: Vec<(Gauge, ReadValue)>,
    of_transfers: Vec<GaugeVec>,
    open_connections: Gauge,
    /// Duration of one write of the log, in seconds.
    pub wal_fsync_seconds: Histogram,
    /// Duration of one checkpoint, in seconds.
    pub backend_commit_seconds: Histogram,
    /// Time that the loop was busy with one turn, in seconds.
    turn_seconds: Histogram,
    longest_turn_seconds: Gauge,
    /// Metrics of the process, as Prometheus text.
    process: Box<dyn Fn() -> String>,
}

/// Seconds. A turn of more than 10 ms is a stall; the usual ones are far below 1 ms.
const TURN_BUCKETS: [f64; 9] = [0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.1, 1.0];

/// Reads what the node, the store or the hub knows.
type ReadValue = fn(&Core) -> f64;

/// Name, help and source of a gauge.
type Value = (&'static str, &'static str, ReadValue);

const VALUES: &[Value] = &[
    ("etcd_server_has_leader", "Whether a leader is known.", |core| {
        f64::from(core.node.raft().leader().is_some())
    }),
    ("etcd_server_is_leader", "Whether this member leads.", |core| {
        f64::from(core.node.raft().is_leader())
    }),
    ("etcd_server_is_learner", "Whether this member is a learner.", |core| {
        f64::from(core.node.is_learner())
    }),
    ("etcd_server_proposals_committed_total", "Index of the last committed entry.", |core| {
        core.node.raft().commit_index().0 as f64
    }),
    ("etcd_server_proposals_applied_total", "Index of the last applied entry.", |core| {
        core.node.applier.applied_index() as f64
    }),
    ("etcd_server_proposals_pending", "Proposals that wait for their commit.", |core| {
        core.node.pending_proposals() as f64
    }),
    ("etcd_server_proposals_failed_total", "Proposals that failed.", |core| {
        core.node.failed_proposals() as f64
    }),
    ("etcd_server_leader_changes_seen_total", "Leaders seen.", |core| {
        core.node.leadership().changes as f64
    }),
    ("etcd_server_quota_backend_bytes", "The quota of the store.", |core| {
        core.node.quota_bytes().unwrap_or(0) as f64
    }),
    ("etcd_mvcc_db_total_size_in_bytes", "Size of the store's file.", |core| {
        core.node.applier.size_bytes() as f64
    }),
    ("etcd_mvcc_db_total_size_in_use_in_bytes", "Bytes of the store in use.", |core| {
        core.node.applier.store.in_use_bytes() as f64
    }),
    ("etcd_debugging_mvcc_current_revision", "The current revision.", |core| {
        core.node.applier.mvcc.current_revision() as f64
    }),
    ("etcd_debugging_mvcc_compact_revision", "The revision of the last compaction.", |core| {
        core.node.applier.mvcc.compact_revision() as f64
    }),
    ("etcd_debugging_auth_revision", "The current revision of auth store.", |core| {
        core.node.applier.auth.revision() as f64
    }),
    ("etcd_debugging_mvcc_keys_total", "Keys at the current revision.", |core| {
        core.node.applier.key_count().unwrap_or(0) as f64
    }),
    ("etcd_debugging_mvcc_watcher_total", "Watchers.", |core| core.hub.len() as f64),
    ("etcd_debugging_mvcc_watch_stream_total", "Watch streams.", |core| core.progress.len() as f64),
    ("etcd_debugging_mvcc_slow_watcher_total", "Watchers that catch up.", |core| {
        core.hub.unsynced() as f64
    }),
    ("etcd_debugging_mvcc_events_total", "Events sent to watchers.", |core| {
        core.hub.events_total as f64
    }),
    ("ringd_store_dirty_bytes", "Changed pages that no checkpoint has written yet.", |core| {
        core.node.applier.store.dirty_bytes() as f64
    }),
    ("ringd_store_entry_bytes", "Bytes of all keys and values in the store.", |core| {
        core.node.applier.store.entry_bytes() as f64
    }),
    ("ringd_store_readers", "States of the store that readers hold.", |core| {
        core.node.applier.store.reader_count() as f64
    }),
    ("ringd_defrag_moved_pages_total", "Pages moved towards the start of the file.", |core| {
        core.node.defrag_counts().moved_pages as f64
    }),
    ("ringd_defrag_packed_pages_total", "Pages saved by filling up leaves.", |core| {
        core.node.defrag_counts().packed_pages as f64
    }),
    ("ringd_defrag_returned_bytes_total", "Bytes by which runs made the file shorter.", |core| {
        core.node.defrag_counts().returned_bytes as f64
    }),
    ("ringd_defrag_runs_done_total", "Runs that found nothing more to do.", |core| {
        core.node.defrag_counts().done as f64
    }),
    ("ringd_defrag_runs_exhausted_total", "Runs that took all their checkpoints.", |core| {
        core.node.defrag_counts().exhausted as f64
    }),
    ("ringd_defrag_runs_pinned_total", "Runs that readers kept from going on.", |core| {
        core.node.defrag_counts().pinned as f64
    }),
    ("ringd_defrag_pinned_seconds", "For how long readers have held up the run.", |core| {
        core.node.defrag_counts().pinned_ms as f64 / 1e3
    }),
    ("ringd_scrub_verified_pages_total", "Pages whose checksum was verified again.", |core| {
        core.node.scrub_counts().verified_pages as f64
    }),
    ("ringd_scrub_passes_total", "Times that the whole store was verified again.", |core| {
        core.node.scrub_counts().passes as f64
    }),
    ("ringd_scrub_damaged_pages_total", "Damaged pages that were found.", |core| {
        core.node.scrub_counts().damaged_pages as f64
    }),
    ("ringd_leases", "Leases.", |core| core.node.applier.lessor.len() as f64),
];

/// Name, help, label and source of what is known of the transfers with each other member.
type OfTransfers = (&'static str, &'static str, &'static str, fn(&SnapshotCounts) -> u64);

const OF_TRANSFERS: &[OfTransfers] = &[
    ("etcd_network_snapshot_send_success", "Snapshots that arrived.", "To", |c| c.sent),
    ("etcd_network_snapshot_send_failures", "Snapshots that did not.", "To", |c| c.send_failed),
    ("etcd_network_snapshot_send_inflights_total", "Being sent.", "To", |c| c.sending),
    ("etcd_network_snapshot_receive_success", "Snapshots installed.", "From", |c| c.received),
    ("etcd_network_snapshot_receive_failures", "Not received whole.", "From", |c| c.receive_failed),
    ("etcd_network_snapshot_receive_inflights_total", "Being received.", "From", |c| c.receiving),
];

impl Metrics {
    /// `process` gives the metrics of the process whenever they are asked for.
    pub fn new(member_id: u64, process: Box<dyn Fn() -> String>) -> Metrics {
        Metrics::build(member_id, process).expect("names and labels are constants, and differ")
    }

    fn build(member_id: u64, process: Box<dyn Fn() -> String>) -> prometheus::Result<Metrics> {
        let registry = Registry::new();
        let counters = |name: &str, help: &str, labels: &[&str]| {
            let counters = IntCounterVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(counters.clone()))?;
            Ok::<_, prometheus::Error>(counters)
        };
        let counter = |name: &str, help: &str| {
            let counter = IntCounter::new(name, help)?;
            registry.register(Box::new(counter.clone()))?;
            Ok::<_, prometheus::Error>(counter)
        };
        let gauge = |name: &str, help: &str| {
            let gauge = Gauge::new(name, help)?;
            registry.register(Box::new(gauge.clone()))?;
            Ok::<_, prometheus::Error>(gauge)
        };
        let histogram = |name: &str, help: &str, buckets| {
            let histogram = Histogram::with_opts(HistogramOpts::new(name, help).buckets(buckets))?;
            registry.register(Box::new(histogram.clone()))?;
            Ok::<_, prometheus::Error>(histogram)
        };
        // etcd's buckets: from 1 ms, doubling, 14 of them.
        let seconds =
            |name: &str, help: &str| histogram(name, help, exponential_buckets(0.001, 2.0, 14)?);

        let labels = ["grpc_method", "grpc_service", "grpc_type"];
        let started = counters("grpc_server_started_total", "RPCs begun.", &labels)?;
        let labels = ["grpc_code", "grpc_method", "grpc_service", "grpc_type"];
        let handled = counters("grpc_server_handled_total", "RPCs ended.", &labels)?;
        let info = |name: &str, help: &str, label: &str, value: &str| {
            let info = counters(name, help, &[label])?;
            info.with_label_values(&[value]).inc();
            Ok::<_, prometheus::Error>(())
        };
        info(
            "etcd_server_version",
            "The version that is claimed.",
            "server_version",
            version::VERSION,
        )?;
        info(
            "etcd_cluster_version",
            "The cluster's version.",
            "cluster_version",
            version::CLUSTER_VERSION,
        )?;
        info("etcd_server_id", "The member's id.", "server_id", &format!("{member_id:x}"))?;
        let of_transfers = OF_TRANSFERS.iter().map(|(name, help, label, _)| {
            let gauges = GaugeVec::new(Opts::new(*name, *help), &[label])?;
            registry.register(Box::new(gauges.clone()))?;
            Ok(gauges)
        });
        let of_transfers = of_transfers.collect::<prometheus::Result<_>>()?;
        let values = VALUES.iter().map(|(name, help, value)| Ok((gauge(name, help)?, *value)));
        Ok(Metrics {
            started: METHODS
                .iter()
                .map(|known| {
                    started.with_label_values(&[known.name, known.service, known.kind.label()])
                })
                .collect(),
            handled_ok: METHODS
                .iter()
                .map(|known| {
                    handled.with_label_values(&[
                        "OK",
                        known.name,
                        known.service,
                        known.kind.label(),
                    ])
                })
                .collect(),
            handled,
            health_success: counter("etcd_server_health_success", "Health checks that went well.")?,
            health_failures: counter("etcd_server_health_failures", "Health checks that failed.")?,
            values: values.collect::<prometheus::Result<_>>()?,
            of_transfers,
            open_connections: gauge("ringd_connections", "Open connections.")?,
            wal_fsync_seconds: seconds(
                "etcd_disk_wal_fsync_duration_seconds",
                "Time of one durable write of the log.",
            )?,
            backend_commit_seconds: seconds(
                "etcd_disk_backend_commit_duration_seconds",
                "Time of one checkpoint of the store.",
            )?,
            turn_seconds: histogram(
                "ringd_turn_duration_seconds",
                "Time that the event loop was busy with one turn.",
                TURN_BUCKETS.to_vec(),
            )?,
            longest_turn_seconds: gauge(
                "ringd_turn_longest_seconds",
                "The longest turn of the event loop since the start.",
            )?,
            registry,
            process,
        })
    }

    /// The loop was busy for so long with one turn.
    pub fn turned(&self, seconds: f64) {
        self.turn_seconds.observe(seconds);
        if seconds > self.longest_turn_seconds.get() {
            self.longest_turn_seconds.set(seconds);
        }
    }

    pub(super) fn started(&mut self, method: Method) {
        self.started[method as usize].inc();
    }

    pub(super) fn handled(&mut self, method: Method, code: Code) {
        if code == Code::Ok {
            return self.handled_ok[method as usize].inc();
        }
        let known = method.describe();
        let labels = [code.name(), known.name, known.service, known.kind.label()];
        self.handled.with_label_values(&labels).inc();
    }

    pub(super) fn health_checked(&mut self, healthy: bool) {
        if healthy { self.health_success.inc() } else { self.health_failures.inc() }
    }
}

impl Core {
    pub(super) fn render_metrics(&self, connections: usize) -> String {
        for (gauge, value) in &self.metrics.values {
            gauge.set(value(self));
        }
        let counts = self.node.snapshot_counts_by_member();
        for (gauges, (_, _, label, count)) in self.metrics.of_transfers.iter().zip(OF_TRANSFERS) {
            let sends = *label == "To";
            let concerns = |c: &SnapshotCounts| match sends {
                true => c.sent + c.send_failed + c.sending > 0,
                false => c.received + c.receive_failed + c.receiving > 0,
            };
            for (member, counts) in counts.iter().filter(|(_, counts)| concerns(counts)) {
                let member = format!("{:x}", member.0);
                gauges.with_label_values(&[&member]).set(count(counts) as f64);
            }
        }
        self.metrics.open_connections.set(connections as f64);
        let mut text = Vec::new();
        TextEncoder::new()
            .encode(&self.metrics.registry.gather(), &mut text)
            .expect("a vector grows, and every metric has a value");
        let text = String::from_utf8(text).expect("names, labels and numbers are UTF-8");
        text + &(self.metrics.process)()
    }
}
