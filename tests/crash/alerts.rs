//! What the alerts and dashboards of etcd's mixin ask for is there to be found in a cluster of ringd.
//!
//! The operands of their expressions are evaluated by Prometheus' own promtool on two scrapes of three members under
//! load: each must give a number for each member, or for the cluster where the members are summed up.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::process::Command;
use std::time::Duration;

use ringd::proto::etcdserverpb as pb;
use tempfile::TempDir;

use crate::block_on;
use crate::client::{Client, Stream};
use crate::cluster::Cluster;
use crate::server::{PATIENCE, skip, tool};

const MEMBERS: usize = 3;
const JOB: &str = "etcd";

/// The codes that count as failures of the server.
const FAILED: &str =
    "Unknown|FailedPrecondition|ResourceExhausted|Internal|Unavailable|DataLoss|DeadlineExceeded";

/// Metrics, and the labels by which they are selected or summed up. Histograms by the name of their buckets.
const SERIES: &[(&str, &[(&str, &str)])] = &[
    ("etcd_server_has_leader", &[]),
    ("etcd_server_leader_changes_seen_total", &[]),
    ("etcd_server_proposals_failed_total", &[]),
    ("etcd_server_proposals_pending", &[]),
    ("etcd_server_proposals_committed_total", &[]),
    ("etcd_server_proposals_applied_total", &[]),
    ("etcd_server_quota_backend_bytes", &[]),
    ("etcd_mvcc_db_total_size_in_bytes", &[]),
    ("etcd_mvcc_db_total_size_in_use_in_bytes", &[]),
    ("etcd_disk_wal_fsync_duration_seconds_bucket", &[("le", "+Inf")]),
    ("etcd_disk_backend_commit_duration_seconds_bucket", &[("le", "+Inf")]),
    ("etcd_network_peer_round_trip_time_seconds_bucket", &[("To", ""), ("le", "+Inf")]),
    ("etcd_network_peer_sent_bytes_total", &[("To", "")]),
    ("etcd_network_peer_received_bytes_total", &[("From", "")]),
    ("etcd_network_client_grpc_sent_bytes_total", &[]),
    ("etcd_network_client_grpc_received_bytes_total", &[]),
    ("grpc_server_started_total", &[("grpc_type", "unary")]),
    ("grpc_server_started_total", &[("grpc_type", "bidi_stream"), ("grpc_service", WATCH)]),
    ("grpc_server_started_total", &[("grpc_type", "bidi_stream"), ("grpc_service", LEASE)]),
    ("grpc_server_handled_total", &[("grpc_type", "bidi_stream"), ("grpc_service", WATCH)]),
    ("grpc_server_handled_total", &[("grpc_type", "bidi_stream"), ("grpc_service", LEASE)]),
    ("grpc_server_handled_total", &[("grpc_type", "unary"), ("grpc_code", "FailedPrecondition")]),
    ("grpc_server_handling_seconds_bucket", &[("grpc_type", "unary"), ("le", "+Inf")]),
    ("process_resident_memory_bytes", &[]),
];
const WATCH: &str = "etcdserverpb.Watch";
const LEASE: &str = "etcdserverpb.Lease";
const SENT_FAILURES: &str = "etcd_network_peer_sent_failures_total";

/// What has to happen between the two scrapes at each member, so that rates and quantiles are numbers.
const GROWING: &[&str] = &[
    "etcd_disk_wal_fsync_duration_seconds_count",
    "etcd_disk_backend_commit_duration_seconds_count",
    "etcd_network_peer_round_trip_time_seconds_count",
    "etcd_server_proposals_committed_total",
];

/// What is watched, with `{of}` for the choice of the cluster and `{failed}` for the codes above; and whether there is
/// a value for each member, or one for all of them.
const EXPRESSIONS: &[(&str, Answers)] = &[
    // Alerts: who is down, who leads, what fails, what is slow, what fills up.
    ("sum without (instance) (up{of} == bool 0)", Answers::Cluster),
    (
        "count without (To) (sum without (instance) (rate(etcd_network_peer_sent_failures_total{of}[2m])) > 0.01)",
        Answers::Cluster,
    ),
    ("sum without (instance) (up{of} == bool 1)", Answers::Cluster),
    ("(count without (instance) (up{of}) + 1) / 2", Answers::Cluster),
    ("etcd_server_has_leader{of}", Answers::Members),
    (
        "increase((max without (instance) (etcd_server_leader_changes_seen_total{of}))[15m:1m])",
        Answers::Cluster,
    ),
    (
        "100 * sum without (grpc_type, grpc_code) (rate(grpc_server_handled_total{of:grpc_code=~\"{failed}\"}[5m])) \
         / sum without (grpc_type, grpc_code) (rate(grpc_server_handled_total{of}[5m]))",
        Answers::Members,
    ),
    (
        "histogram_quantile(0.99, sum without (grpc_type) \
         (rate(grpc_server_handling_seconds_bucket{of:grpc_method!=\"Defragment\",grpc_type=\"unary\"}[5m])))",
        Answers::Members,
    ),
    (
        "histogram_quantile(0.99, rate(etcd_network_peer_round_trip_time_seconds_bucket{of}[5m]))",
        Answers::Members,
    ),
    ("rate(etcd_server_proposals_failed_total{of}[15m])", Answers::Members),
    (
        "histogram_quantile(0.99, rate(etcd_disk_wal_fsync_duration_seconds_bucket{of}[5m]))",
        Answers::Members,
    ),
    (
        "histogram_quantile(0.99, rate(etcd_disk_backend_commit_duration_seconds_bucket{of}[5m]))",
        Answers::Members,
    ),
    (
        "last_over_time(etcd_mvcc_db_total_size_in_bytes{of}[5m]) \
         / last_over_time(etcd_server_quota_backend_bytes{of}[5m])",
        Answers::Members,
    ),
    (
        "predict_linear(etcd_mvcc_db_total_size_in_bytes{of}[4h], 4 * 60 * 60) \
         - etcd_server_quota_backend_bytes{of}",
        Answers::Members,
    ),
    (
        "last_over_time(etcd_mvcc_db_total_size_in_use_in_bytes{of}[5m]) \
         / last_over_time(etcd_mvcc_db_total_size_in_bytes{of}[5m])",
        Answers::Members,
    ),
    // Dashboards.
    ("sum(etcd_server_has_leader{of})", Answers::Cluster),
    ("sum(rate(grpc_server_started_total{of:grpc_type=\"unary\"}[5m]))", Answers::Cluster),
    (
        "sum(rate(grpc_server_handled_total{of:grpc_type=\"unary\",grpc_code=~\"{failed}\"}[5m]))",
        Answers::Cluster,
    ),
    (
        "sum(grpc_server_started_total{of:grpc_service=\"etcdserverpb.Watch\",grpc_type=\"bidi_stream\"}) \
         - sum(grpc_server_handled_total{of:grpc_service=\"etcdserverpb.Watch\",grpc_type=\"bidi_stream\"})",
        Answers::Cluster,
    ),
    (
        "sum(grpc_server_started_total{of:grpc_service=\"etcdserverpb.Lease\",grpc_type=\"bidi_stream\"}) \
         - sum(grpc_server_handled_total{of:grpc_service=\"etcdserverpb.Lease\",grpc_type=\"bidi_stream\"})",
        Answers::Cluster,
    ),
    ("process_resident_memory_bytes{of}", Answers::Members),
    ("rate(etcd_network_client_grpc_received_bytes_total{of}[5m])", Answers::Members),
    ("rate(etcd_network_client_grpc_sent_bytes_total{of}[5m])", Answers::Members),
    ("sum by (instance) (rate(etcd_network_peer_received_bytes_total{of}[5m]))", Answers::Members),
    ("sum by (instance) (rate(etcd_network_peer_sent_bytes_total{of}[5m]))", Answers::Members),
    ("sum(etcd_server_proposals_pending{of})", Answers::Cluster),
    ("sum(rate(etcd_server_proposals_committed_total{of}[5m]))", Answers::Cluster),
    ("sum(rate(etcd_server_proposals_applied_total{of}[5m]))", Answers::Cluster),
    ("changes(etcd_server_leader_changes_seen_total{of}[1d])", Answers::Members),
];

#[derive(Clone, Copy)]
enum Answers {
    Members,
    Cluster,
}

/// The series of one member: name with labels as they stand there, and the value.
type Scrape = BTreeMap<String, f64>;

fn scrape(cluster: &Cluster, at: usize) -> Scrape {
    let answer = cluster.metrics(at);
    let lines = answer.lines().filter(|line| line.starts_with(|c: char| c.is_ascii_lowercase()));
    lines
        .filter_map(|line| {
            let (series, value) = line.rsplit_once(' ')?;
            Some((series.to_owned(), value.parse().ok()?))
        })
        .collect()
}

fn scrape_all(cluster: &Cluster) -> Vec<Scrape> {
    (0..MEMBERS).map(|at| scrape(cluster, at)).collect()
}

/// An empty text stands for any.
fn has(series: &str, name: &str, labels: &[(&str, &str)]) -> bool {
    let (found, rest) = series.split_once('{').unwrap_or((series, ""));
    found == name
        && labels.iter().all(|(label, value)| match *value {
            "" => rest.contains(&format!("{label}=\"")),
            value => rest.contains(&format!("{label}=\"{value}\"")),
        })
}

fn sum(scrape: &Scrape, name: &str) -> f64 {
    scrape.iter().filter(|(series, _)| has(series, name, &[])).map(|(_, value)| value).sum()
}

/// Clients of one member, whose streams stay open.
struct Clients {
    client: Client,
    _streams: [Stream; 2],
}

impl Clients {
    async fn of(cluster: &Cluster, at: usize) -> Clients {
        let client = Client::connect(cluster.members[at].client).await;
        let mut watch = client.open("/etcdserverpb.Watch/Watch").await;
        let create = pb::WatchCreateRequest { key: "alerts".into(), ..Default::default() };
        let union = pb::watch_request::RequestUnion::CreateRequest(create);
        watch.send(&pb::WatchRequest { request_union: Some(union) });
        assert!(watch.message::<pb::WatchResponse>().await.created);
        let mut lease = client.open("/etcdserverpb.Lease/LeaseKeepAlive").await;
        lease.send(&pb::LeaseKeepAliveRequest { id: 1 });
        lease.message::<pb::LeaseKeepAliveResponse>().await;
        Clients { client, _streams: [watch, lease] }
    }

    async fn load(&self) {
        for _ in 0..10 {
            let put =
                pb::PutRequest { key: "alerts".into(), value: "x".into(), ..Default::default() };
            self.client.call("/etcdserverpb.KV/Put", &put).await;
            let range = pb::RangeRequest { key: "alerts".into(), ..Default::default() };
            self.client.call("/etcdserverpb.KV/Range", &range).await;
        }
        // There is no root: this fails with FailedPrecondition.
        self.client.call("/etcdserverpb.Auth/AuthEnable", &pb::AuthEnableRequest {}).await;
    }
}

/// Loads all members until `is_met`, and gives the scrapes that met it.
async fn load_until(
    cluster: &Cluster,
    clients: &[Clients],
    what: &str,
    is_met: impl Fn(&[Scrape]) -> Result<(), String>,
) -> Vec<Scrape> {
    let mut missing = String::new();
    let trying = async {
        loop {
            for of_member in clients {
                of_member.load().await;
            }
            let scrapes = scrape_all(cluster);
            match is_met(&scrapes) {
                Ok(()) => return scrapes,
                Err(why) => missing = why,
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    let met = tokio::time::timeout(PATIENCE, trying).await;
    met.unwrap_or_else(|_| panic!("{what}: {missing}"))
}

fn all_series_are_there(scrapes: &[Scrape]) -> Result<(), String> {
    for (at, scrape) in scrapes.iter().enumerate() {
        for (name, labels) in SERIES {
            if !scrape.keys().any(|series| has(series, name, labels)) {
                return Err(format!("member {at} has no {name} {labels:?}"));
            }
        }
    }
    Ok(())
}

/// What the members could not send to one of them.
fn failures(cluster: &Cluster, alive: [usize; 2], down: &str) -> f64 {
    let failed = |series: &str| has(series, SENT_FAILURES, &[("To", down)]);
    alive
        .iter()
        .flat_map(|at| scrape(cluster, *at))
        .filter_map(|(series, value)| failed(&series).then_some(value))
        .sum()
}

/// Kills a member, and starts it again when others have counted more messages that they could not send to it.
async fn go_down_for_a_while(cluster: &mut Cluster, down: usize, alive: [usize; 2], id: &str) {
    let before = failures(cluster, alive, id);
    cluster.kill(down);
    let counted = async {
        while failures(cluster, alive, id) <= before {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, counted).await.expect("what cannot be sent is counted");
    cluster.run(down);
}

/// A file for `promtool test rules`: two scrapes, a minute apart, and what each expression is to give at the second.
fn rules(scrapes: [&[Scrape]; 2]) -> String {
    let quoted = |text: &str| serde_json::to_string(text).expect("a text");
    let mut text = "evaluation_interval: 1m\ntests:\n- interval: 1m\n  input_series:\n".to_owned();
    for (at, (befores, afters)) in scrapes[0].iter().zip(scrapes[1]).enumerate() {
        let own = format!("job=\"{JOB}\",instance=\"m{at}\"");
        let mut series = |series: &str, before: f64, after: f64| {
            let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
            let comma = if labels == "}" { "" } else { "," };
            let series = quoted(&format!("{name}{{{own}{comma}{labels}"));
            writeln!(text, "  - series: {series}\n    values: '{before} {after}'").expect("room");
        };
        series("up", 1.0, 1.0);
        for (name, before) in befores {
            if let Some(after) = afters.get(name)
                && before.is_finite()
                && after.is_finite()
            {
                series(name, *before, *after);
            }
        }
    }
    text.push_str("  promql_expr_test:\n");
    let choice = format!("job=~\".*{JOB}.*\"");
    for (operand, answers) in EXPRESSIONS {
        let operand = operand
            .replace("{of}", &format!("{{{choice}}}"))
            .replace("{of:", &format!("{{{choice},"))
            .replace("{failed}", FAILED);
        // Neither nothing nor "not a number", which is not above anything.
        let (expression, count) = match answers {
            Answers::Members => {
                (format!("count(count by (instance) (({operand}) > -Inf))"), MEMBERS)
            }
            Answers::Cluster => (format!("count(({operand}) > -Inf)"), 1),
        };
        let expression = quoted(&expression);
        writeln!(text, "  - expr: {expression}\n    eval_time: 1m").expect("room");
        writeln!(text, "    exp_samples: [{{ labels: '{{}}', value: {count} }}]").expect("room");
    }
    text
}

#[test]
fn the_alerts_of_etcds_mixin_find_their_series() {
    let mut cluster = Cluster::start(MEMBERS, &["--metrics=extensive"]);
    let (before, after) = block_on(async {
        let leader = cluster.leader().await;
        let [down, other] = [(leader + 1) % MEMBERS, (leader + 2) % MEMBERS];
        let alive = [leader, other];
        let id = format!("{:x}", cluster.id(down).await);
        go_down_for_a_while(&mut cluster, down, alive, &id).await;
        let mut clients = Vec::new();
        for at in [leader, other, down] {
            clients.push(Clients::of(&cluster, at).await);
        }
        let there = all_series_are_there;
        let before = load_until(&cluster, &clients, "what is asked for", there).await;
        // Once more, between the scrapes.
        clients.pop();
        go_down_for_a_while(&mut cluster, down, alive, &id).await;
        clients.push(Clients::of(&cluster, down).await);
        let after = load_until(&cluster, &clients, "what is to grow", |scrapes| {
            all_series_are_there(scrapes)?;
            for (at, (before, after)) in before.iter().zip(scrapes).enumerate() {
                for name in GROWING {
                    let from = if at == down { 0.0 } else { sum(before, name) };
                    if sum(after, name) <= from {
                        return Err(format!("{name} of member {at} does not grow"));
                    }
                }
            }
            Ok(())
        })
        .await;
        (before, after)
    });

    let Some(promtool) = tool("promtool") else {
        return skip("alerts", "no promtool (tests/tools/install-debian gets it)");
    };
    let dir = TempDir::new().expect("a temporary directory");
    let file = dir.path().join("alerts.yaml");
    std::fs::write(&file, rules([&before, &after])).expect("a file");
    let output =
        Command::new(promtool).args(["test", "rules"]).arg(&file).output().expect("promtool runs");
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
}
