//! What `/metrics` shows: etcd's names, labels and buckets, so that dashboards and alerts find them.
//!
//! Counters and times of this layer are kept here; what the node and the store know is read when it is asked for
//! ([`values`]). The shell adds what only it can measure: times of the disk, and the process. It also lends a clock,
//! for measuring only.

mod values;

use prometheus::{
    Encoder, Gauge, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, Opts,
    Registry, TextEncoder, exponential_buckets,
};

use super::Core;
use super::method::{Kind, METHODS, Method};
use crate::grpc::Code;
use crate::node::Transferred;
use crate::version;

/// A time, or another quantity, that is shown as a distribution.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Timing {
    WalFsync,
    WalWrite,
    BackendCommit,
    CommitWrite,
    Defrag,
    Snapshot,
    Hash,
    HashRev,
    LeaseTtl,
    CompactionTotal,
    WatchEvents,
    WatchEach,
    WatchControl,
    WatchProgress,
    StateSync,
    StateSave,
}

/// Name, help, first bucket and number of buckets, each of which is twice the one before: etcd's.
type Buckets = (&'static str, &'static str, f64, usize);

const TIMINGS: [Buckets; 16] = [
    ("etcd_disk_wal_fsync_duration_seconds", "Time of one durable write of the log.", 0.001, 14),
    (
        "etcd_disk_wal_write_duration_seconds",
        "Time of one write of the log: the same, since a write is durable when it is done.",
        0.001,
        14,
    ),
    ("etcd_disk_backend_commit_duration_seconds", "Time of one sync of the store.", 0.001, 14),
    (
        "etcd_debugging_disk_backend_commit_write_duration_seconds",
        "Time in which one set of pages was written to the store.",
        0.001,
        14,
    ),
    ("etcd_disk_backend_defrag_duration_seconds", "Time of Defragment calls.", 0.1, 13),
    ("etcd_disk_backend_snapshot_duration_seconds", "Time of Snapshot calls.", 0.01, 17),
    ("etcd_mvcc_hash_duration_seconds", "Time of Hash calls.", 0.01, 15),
    ("etcd_mvcc_hash_rev_duration_seconds", "Time of HashKV calls.", 0.01, 15),
    (
        "etcd_debugging_lease_ttl_total",
        "Times to live that leases were given, in seconds.",
        1.0,
        24,
    ),
    (
        "etcd_debugging_mvcc_db_compaction_total_duration_milliseconds",
        "Time from a compaction's beginning until what it gave up was removed.",
        100.0,
        14,
    ),
    (
        "etcd_debugging_server_watch_send_loop_watch_stream_duration_seconds",
        "Time of giving all watchers what is new, once in a turn that has something for them.",
        0.001,
        14,
    ),
    (
        "etcd_debugging_server_watch_send_loop_watch_stream_duration_per_event_seconds",
        "The same by the number of events that they got.",
        0.001,
        14,
    ),
    (
        "etcd_debugging_server_watch_send_loop_control_stream_duration_seconds",
        "Time of one request of a watch stream.",
        0.001,
        14,
    ),
    (
        "etcd_debugging_server_watch_send_loop_progress_duration_seconds",
        "Time of telling all watchers that are due how far the history is.",
        0.001,
        14,
    ),
    (
        "etcd_snap_db_fsync_duration_seconds",
        "Time of one sync of a state that another member sends.",
        0.001,
        14,
    ),
    (
        "etcd_snap_db_save_total_duration_seconds",
        "Time from the offer of another member's state until it was this member's.",
        0.1,
        10,
    ),
];

/// Distributions of etcd's that have no counterpart here; they stay empty.
const EMPTY: &[Buckets] = &[
    (
        "etcd_debugging_disk_backend_commit_rebalance_duration_seconds",
        "Empty: pages are not rebalanced when they are written.",
        0.001,
        14,
    ),
    (
        "etcd_debugging_disk_backend_commit_spill_duration_seconds",
        "Empty: pages are not spilled when they are written.",
        0.001,
        14,
    ),
    (
        "etcd_debugging_mvcc_db_compaction_pause_duration_milliseconds",
        "Empty: nobody pauses for a compaction.",
        1.0,
        13,
    ),
    (
        "etcd_debugging_mvcc_index_compaction_pause_duration_milliseconds",
        "Empty: there is no index beside the store.",
        0.5,
        14,
    ),
    (
        "etcd_debugging_snap_save_marshalling_duration_seconds",
        "Empty: there are no snapshot files.",
        0.001,
        14,
    ),
    (
        "etcd_debugging_snap_save_total_duration_seconds",
        "Empty: there are no snapshot files.",
        0.001,
        14,
    ),
    ("etcd_snap_fsync_duration_seconds", "Empty: there are no snapshot files.", 0.001, 14),
];

/// Something that is counted here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Count {
    HealthSuccess,
    HealthFailure,
    LeaseRenewed,
    Range,
    ReadIndexFailed,
    ReadIndexSlow,
    ApplySlow,
    ReceivedBytes,
    SentBytes,
    LearnerPromoted,
}

const COUNTS: [(&str, &str); 10] = [
    ("etcd_server_health_success", "Health checks that went well."),
    ("etcd_server_health_failures", "Health checks that failed."),
    ("etcd_debugging_lease_renewed_total", "Leases renewed for clients of this member."),
    ("etcd_mvcc_range_total", "Ranges read for clients of this member."),
    ("etcd_server_read_indexes_failed_total", "Reads that found no leader in time."),
    (
        "etcd_server_slow_read_indexes_total",
        "Questions for a read index that had to be asked again.",
    ),
    ("etcd_server_slow_apply_total", "Requests that took longer than --warning-apply-duration."),
    ("etcd_network_client_grpc_received_bytes_total", "Bytes received from clients."),
    ("etcd_network_client_grpc_sent_bytes_total", "Bytes sent to clients."),
    ("etcd_server_learner_promote_successes", "Learners promoted by calls at this member."),
];

/// What is known of the calls of one method.
struct OfMethod {
    started: IntCounter,
    handled_ok: IntCounter,
    received: IntCounter,
    sent: IntCounter,
    /// Of requests that failed and went well, once there were some.
    request_seconds: [Option<Histogram>; 2],
    apply_seconds: [Option<Histogram>; 2],
}

pub struct Metrics {
    registry: Registry,
    methods: Vec<OfMethod>,
    handled: IntCounterVec,
    request_seconds: HistogramVec,
    apply_seconds: HistogramVec,
    /// Of ranges that failed and went well.
    range_seconds: [Histogram; 2],
    /// Of states that came from other members, and of those that went there.
    transfer_seconds: [HistogramVec; 2],
    /// With `--metrics=extensive` only.
    handling_seconds: Option<HistogramVec>,
    client_requests: IntCounterVec,
    /// What clients said of the version of their interface, unary and stream.
    client_versions: Vec<(Vec<u8>, [IntCounter; 2])>,
    timings: Vec<Histogram>,
    counts: Vec<IntCounter>,
    scrapes: IntCounter,
    compaction_last: Gauge,
    wal_bytes: Gauge,
    open_connections: Gauge,
    /// Time that the loop was busy with one turn, in seconds.
    turn_seconds: Histogram,
    longest_turn_seconds: Gauge,
    /// Metrics of the process, as Prometheus text.
    process: Box<dyn Fn() -> String>,
    /// Seconds since some moment.
    clock: Box<dyn Fn() -> f64>,
}

/// Seconds. A turn of more than 10 ms is a stall; the usual ones are far below 1 ms.
const TURN_BUCKETS: [f64; 9] = [0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.1, 1.0];

/// Versions of clients that are told apart; etcd keeps all.
const CLIENT_VERSIONS_MAX: usize = 16;

impl Metrics {
    /// `process` gives the metrics of the process whenever they are asked for; `clock` the time in seconds.
    pub fn new(
        member_id: u64,
        process: Box<dyn Fn() -> String>,
        clock: Box<dyn Fn() -> f64>,
    ) -> Metrics {
        Metrics::build(member_id, process, clock)
            .expect("names and labels are constants, and differ")
    }

    fn build(
        member_id: u64,
        process: Box<dyn Fn() -> String>,
        clock: Box<dyn Fn() -> f64>,
    ) -> prometheus::Result<Metrics> {
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
        let histograms = |name: &str, help: &str, buckets, labels: &[&str]| {
            let options = HistogramOpts::new(name, help).buckets(buckets);
            let histograms = HistogramVec::new(options, labels)?;
            registry.register(Box::new(histograms.clone()))?;
            Ok::<_, prometheus::Error>(histograms)
        };
        let doubling = |(name, help, start, count): &Buckets| {
            histogram(name, help, exponential_buckets(*start, 2.0, *count)?)
        };

        let labels = ["grpc_method", "grpc_service", "grpc_type"];
        let started = counters("grpc_server_started_total", "RPCs begun.", &labels)?;
        let received = counters("grpc_server_msg_received_total", "Messages of clients.", &labels)?;
        let sent = counters("grpc_server_msg_sent_total", "Messages to clients.", &labels)?;
        let labels = ["grpc_code", "grpc_method", "grpc_service", "grpc_type"];
        let handled = counters("grpc_server_handled_total", "RPCs ended.", &labels)?;
        let info = |name: &str, help: &str, label: &str, value: &str| {
            let info = prometheus::GaugeVec::new(Opts::new(name, help), &[label])?;
            registry.register(Box::new(info.clone()))?;
            info.with_label_values(&[value]).set(1.0);
            Ok::<_, prometheus::Error>(())
        };
        let version = version::VERSION;
        info("etcd_server_version", "The version that is claimed.", "server_version", version)?;
        let go = "There is no Go in it.";
        info("etcd_server_go_version", go, "server_go_version", "none")?;
        let id = format!("{member_id:x}");
        info("etcd_server_id", "The member's id.", "server_id", &id)?;
        let of_methods = METHODS.iter().map(|known| {
            let labels = [known.name, known.service, known.kind.label()];
            OfMethod {
                started: started.with_label_values(&labels),
                handled_ok: handled.with_label_values(&[
                    "OK",
                    known.name,
                    known.service,
                    known.kind.label(),
                ]),
                received: received.with_label_values(&labels),
                sent: sent.with_label_values(&labels),
                request_seconds: [None, None],
                apply_seconds: [None, None],
            }
        });
        for empty in EMPTY {
            doubling(empty)?;
        }
        let ranges = histograms(
            "etcd_server_range_duration_seconds",
            "Time that the loop spent on one range.",
            exponential_buckets(0.0001, 2.0, 20)?,
            &["success"],
        )?;
        let scrapes = counters(
            "promhttp_metric_handler_requests_total",
            "Scrapes by status code.",
            &["code"],
        )?;
        let transfers = |name: &str, help: &str, label: &str| {
            histograms(name, help, exponential_buckets(0.1, 2.0, 10)?, &[label])
        };
        scrapes.with_label_values(&["500"]);
        scrapes.with_label_values(&["503"]);
        Ok(Metrics {
            methods: of_methods.collect(),
            handled,
            request_seconds: histograms(
                "etcd_server_request_duration_seconds",
                "Time from a request to its answer, in whole milliseconds.",
                exponential_buckets(0.001, 2.0, 14)?,
                &["type", "success"],
            )?,
            apply_seconds: histograms(
                "etcd_server_apply_duration_seconds",
                "Time of applying an entry: the mean of all that were applied in its turn.",
                exponential_buckets(0.0001, 2.0, 20)?,
                &["version", "op", "success"],
            )?,
            range_seconds: ["false", "true"].map(|success| ranges.with_label_values(&[success])),
            transfer_seconds: [
                transfers(
                    "etcd_network_snapshot_receive_total_duration_seconds",
                    "Time from the offer of another member's state until it was this member's.",
                    "From",
                )?,
                transfers(
                    "etcd_network_snapshot_send_total_duration_seconds",
                    "Time from the offer of the state to another member until it had all of it.",
                    "To",
                )?,
            ],
            handling_seconds: None,
            client_requests: counters(
                "etcd_server_client_requests_total",
                "Requests by the version of the client's interface.",
                &["type", "client_api_version"],
            )?,
            client_versions: Vec::new(),
            timings: TIMINGS.iter().map(doubling).collect::<prometheus::Result<_>>()?,
            counts: COUNTS
                .iter()
                .map(|(name, help)| counter(name, help))
                .collect::<prometheus::Result<_>>()?,
            scrapes: scrapes.with_label_values(&["200"]),
            compaction_last: gauge(
                "etcd_debugging_mvcc_db_compaction_last",
                "When the last compaction came to its end, in seconds since 1970.",
            )?,
            wal_bytes: gauge("etcd_disk_wal_write_bytes_total", "Bytes written to the log.")?,
            open_connections: gauge("ringd_connections", "Open connections.")?,
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
            clock,
        })
    }

    /// `--metrics=extensive`: how long calls took, by method.
    pub fn measure_handling(&mut self) {
        let options = HistogramOpts::new(
            "grpc_server_handling_seconds",
            "Time from a call's message to its end, in whole milliseconds.",
        );
        let labels = ["grpc_method", "grpc_service", "grpc_type"];
        let histograms = HistogramVec::new(options, &labels).expect("labels are constants");
        let registered = self.registry.register(Box::new(histograms.clone()));
        registered.expect("it is measured from the start, or never");
        self.handling_seconds = Some(histograms);
    }

    /// Seconds since some moment, for measuring.
    pub(super) fn clock(&self) -> f64 {
        (self.clock)()
    }

    /// The loop was busy for so long with one turn.
    pub fn turned(&self, seconds: f64) {
        self.turn_seconds.observe(seconds);
        if seconds > self.longest_turn_seconds.get() {
            self.longest_turn_seconds.set(seconds);
        }
    }

    pub fn observe(&self, timing: Timing, value: f64) {
        self.timings[timing as usize].observe(value);
    }

    /// The same for the time that has passed.
    pub(super) fn observe_since(&self, timing: Timing, began: f64) {
        self.observe(timing, self.clock() - began);
    }

    pub(super) fn count(&self, what: Count, by: u64) {
        self.counts[what as usize].inc_by(by);
    }

    /// Bytes that went into the log.
    pub fn wal_written(&self, bytes: usize) {
        self.wal_bytes.add(bytes as f64);
    }

    pub(super) fn started(&mut self, method: Method, client_version: Option<&[u8]>) {
        self.methods[method as usize].started.inc();
        let version = client_version.unwrap_or(b"unknown");
        let is_stream = usize::from(method.describe().kind != Kind::Unary);
        if let Some((_, counters)) = self.client_versions.iter().find(|(known, _)| known == version)
        {
            return counters[is_stream].inc();
        }
        let has_room = self.client_versions.len() < CLIENT_VERSIONS_MAX;
        let shown = if has_room { String::from_utf8_lossy(version) } else { "other".into() };
        let counters = ["unary", "stream"]
            .map(|kind| self.client_requests.with_label_values(&[kind, &*shown]));
        counters[is_stream].inc();
        if has_room {
            self.client_versions.push((version.to_vec(), counters));
        }
    }

    pub(super) fn received(&self, method: Method) {
        self.methods[method as usize].received.inc();
    }

    pub(super) fn sent(&self, method: Method, messages: u64) {
        self.methods[method as usize].sent.inc_by(messages);
    }

    pub(super) fn handled(&mut self, method: Method, code: Code) {
        if code == Code::Ok {
            return self.methods[method as usize].handled_ok.inc();
        }
        let known = method.describe();
        let labels = [code.name(), known.name, known.service, known.kind.label()];
        self.handled.with_label_values(&labels).inc();
    }

    /// A call was answered after so long.
    pub(super) fn answered(&mut self, method: Method, is_ok: bool, took_ms: u64) {
        let seconds = took_ms as f64 / 1e3;
        let place = &mut self.methods[method as usize].request_seconds[usize::from(is_ok)];
        let histogram = place.get_or_insert_with(|| {
            let success = if is_ok { "true" } else { "false" };
            self.request_seconds.with_label_values(&[operation(method), success])
        });
        histogram.observe(seconds);
        if let Some(handling) = &self.handling_seconds {
            let known = method.describe();
            let labels = [known.name, known.service, known.kind.label()];
            handling.with_label_values(&labels).observe(seconds);
        }
    }

    pub(super) fn applied(&mut self, method: Method, is_ok: bool, seconds: f64) {
        let place = &mut self.methods[method as usize].apply_seconds[usize::from(is_ok)];
        let histogram = place.get_or_insert_with(|| {
            let success = if is_ok { "true" } else { "false" };
            self.apply_seconds.with_label_values(&["v3", operation(method), success])
        });
        histogram.observe(seconds);
    }

    pub(super) fn ranged(&self, is_ok: bool, seconds: f64) {
        self.count(Count::Range, 1);
        self.range_seconds[usize::from(is_ok)].observe(seconds);
    }

    pub(super) fn transferred(&self, transferred: Transferred) {
        let Transferred { other, is_sent, took_ms } = transferred;
        let seconds = took_ms as f64 / 1e3;
        let label = format!("{:x}", other.0);
        self.transfer_seconds[usize::from(is_sent)].with_label_values(&[&label]).observe(seconds);
        if !is_sent {
            self.observe(Timing::StateSave, seconds);
        }
    }

    pub(super) fn compacted(&self, took_ms: u64, unix_ms: u64) {
        self.observe(Timing::CompactionTotal, took_ms as f64);
        self.compaction_last.set((unix_ms / 1000) as f64);
    }
}

/// What etcd calls the entry of a method.
fn operation(method: Method) -> &'static str {
    match method {
        Method::Compact => "Compaction",
        Method::Downgrade => "DowngradeInfoSet",
        method => method.describe().name,
    }
}

impl Core {
    pub(super) fn render_metrics(&self, connections: usize) -> String {
        self.metrics.open_connections.set(connections as f64);
        self.metrics.scrapes.inc();
        let mut text = Vec::new();
        TextEncoder::new()
            .encode(&self.metrics.registry.gather(), &mut text)
            .expect("a vector grows, and every metric has a value");
        let text = String::from_utf8(text).expect("names, labels and numbers are UTF-8");
        text + &values::render(self) + &(self.metrics.process)()
    }
}
