//! `/metrics` beside a real etcd's: names, types and labels.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::process::{Command, Stdio};
use std::time::Duration;

use bytes::Bytes;
use prost::Message;
use ringd::proto::etcdserverpb as pb;

use crate::block_on;
use crate::client::Client;
use crate::gateway::dechunk;
use crate::http::{get, request};
use crate::server::{Kind, PATIENCE, Server, etcd_or_skip, skip, tool};

/// Name of a metric: its type, and the sets of labels that its series have.
type Metrics = BTreeMap<String, (String, BTreeSet<Vec<String>>)>;

/// What etcd exports of things that there are not here: a Go runtime, a v2 store.
const ABSENT: &[&str] =
    &["go_", "etcd_debugging_store_reads_total", "etcd_debugging_store_writes_total"];

fn metrics(text: &str) -> Metrics {
    let mut found = Metrics::new();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').expect("a name and a type");
            found.insert(name.to_owned(), (kind.to_owned(), BTreeSet::new()));
        } else if !line.starts_with('#') {
            let (series, _) = line.rsplit_once(' ').expect("a series and a value");
            let (name, labels) = series.split_once('{').unwrap_or((series, ""));
            let suffixes = ["_bucket", "_sum", "_count"];
            let base = suffixes.iter().find_map(|suffix| {
                name.strip_suffix(suffix).filter(|base| found.contains_key(*base))
            });
            let Some((_, sets)) = found.get_mut(base.unwrap_or(name)) else { continue };
            let labels = labels.trim_end_matches('}').split(',').filter_map(|label| {
                let name = label.split_once('=')?.0;
                (name != "le").then(|| name.to_owned())
            });
            sets.insert(labels.collect::<BTreeSet<_>>().into_iter().collect());
        }
    }
    found
}

/// A bit of everything, so that what is shown only once it has happened is shown.
fn exercise(server: &Server) {
    let post = |path: &str, body: &str| {
        let head = format!("POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n");
        let response =
            request(server.client, &format!("{head}Content-Length: {}\r\n\r\n{body}", body.len()));
        assert_eq!(response.status, 200, "{path} {body}: {response:?}");
    };
    post("/v3/kv/put", r#"{"key":"YQ==","value":"Yg=="}"#);
    post("/v3/kv/range", r#"{"key":"YQ=="}"#);
    post("/v3/kv/txn", r#"{"success":[{"request_put":{"key":"YQ==","value":"Yw=="}}]}"#);
    post("/v3/kv/deleterange", r#"{"key":"YQ=="}"#);
    post("/v3/lease/grant", r#"{"TTL":100,"ID":7}"#);
    post("/v3/lease/keepalive", r#"{"ID":7}"#);
    post("/v3/lease/revoke", r#"{"ID":7}"#);
    post("/v3/kv/compaction", r#"{"revision":2,"physical":true}"#);
    post("/v3/maintenance/hashkv", "{}");
    get(server.client, "/health");
}

#[test]
fn every_metric_of_a_real_etcd_is_there_with_its_type_and_labels() {
    if etcd_or_skip("metrics").is_none() {
        return;
    }
    let [ours, theirs] = [Kind::Ringd, Kind::Etcd].map(|kind| {
        let server = Server::start(kind, &["--metrics=extensive"]);
        exercise(&server);
        let answer = get(server.client, "/metrics");
        let is_chunked = answer.headers.iter().any(|(name, _)| name == "transfer-encoding");
        metrics(&if is_chunked { dechunk(&answer.body) } else { answer.body })
    });
    let mut faults = Vec::new();
    for (name, (kind, labels)) in &theirs {
        if ABSENT.iter().any(|absent| name.starts_with(absent)) {
            continue;
        }
        match ours.get(name) {
            None => faults.push(format!("{name} is missing")),
            Some((our_kind, _)) if our_kind != kind => {
                faults.push(format!("{name} is a {our_kind}, and should be a {kind}"));
            }
            Some((_, our_labels)) if our_labels != labels => {
                faults.push(format!("{name} has {our_labels:?}, and should have {labels:?}"));
            }
            Some(_) => {}
        }
    }
    assert!(faults.is_empty(), "{faults:#?}");
}

#[test]
fn what_was_done_is_counted() {
    let server = Server::start(Kind::Ringd, &["--metrics=extensive"]);
    exercise(&server);
    let text = get(server.client, "/metrics").body;
    for line in [
        "etcd_mvcc_put_total 2",
        "etcd_mvcc_delete_total 1",
        "etcd_mvcc_txn_total 1",
        "etcd_debugging_lease_granted_total 1",
        "etcd_debugging_lease_renewed_total 1",
        "etcd_debugging_lease_revoked_total 1",
        "etcd_debugging_lease_ttl_total_sum 100",
        "etcd_server_health_success 1",
        "etcd_server_apply_duration_seconds_count{op=\"Put\",success=\"true\",version=\"v3\"} 1",
        "etcd_server_request_duration_seconds_count{success=\"true\",type=\"Range\"} 1",
        "grpc_server_handled_total{grpc_code=\"OK\",grpc_method=\"Put\",grpc_service=\"etcdserverpb.KV\",grpc_type=\"unary\"} 1",
        "grpc_server_msg_received_total{grpc_method=\"LeaseKeepAlive\",grpc_service=\"etcdserverpb.Lease\",grpc_type=\"bidi_stream\"} 1",
        "grpc_server_handling_seconds_count{grpc_method=\"Put\",grpc_service=\"etcdserverpb.KV\",grpc_type=\"unary\"} 1",
        "etcd_server_client_requests_total{client_api_version=\"unknown\",type=\"stream\"} 1",
    ] {
        assert!(text.lines().any(|found| found == line), "{line} is missing from {text}");
    }
}

/// Waits for a line: what is sent is counted after it was sent.
fn wait_for_metric(server: &Server, line: &str) {
    for _ in 0..PATIENCE.as_millis() / 20 {
        let text = get(server.client, "/metrics").body;
        if text.lines().any(|found| found == line) {
            return;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    panic!("{line} never comes");
}

#[test]
fn what_watchers_cost_is_measured() {
    let server = Server::start(Kind::Ringd, &["--watch-progress-notify-interval=100ms"]);
    block_on(async {
        let client = Client::connect(server.client).await;
        let mut stream = client.open("/etcdserverpb.Watch/Watch").await;
        let create = pb::WatchCreateRequest {
            key: Bytes::from_static(b"key"),
            progress_notify: true,
            ..Default::default()
        };
        let union = pb::watch_request::RequestUnion::CreateRequest(create);
        stream.send(&pb::WatchRequest { request_union: Some(union) });
        stream.next().await.expect("it is created");
        let put = pb::PutRequest { key: Bytes::from_static(b"key"), ..Default::default() };
        assert_eq!(client.call("/etcdserverpb.KV/Put", &put).await.code(), 0);
        stream.next().await.expect("an event");
        let progress = stream.next().await.expect("progress");
        assert!(pb::WatchResponse::decode(progress).expect("a message").events.is_empty());
    });
    let of_loop = "etcd_debugging_server_watch_send_loop";
    for counted in [
        "control_stream_duration_seconds",
        "watch_stream_duration_seconds",
        "watch_stream_duration_per_event_seconds",
    ] {
        wait_for_metric(&server, &format!("{of_loop}_{counted}_count 1"));
    }
    let text = get(server.client, "/metrics").body;
    let of_progress = format!("{of_loop}_progress_duration_seconds_count ");
    let count = text.lines().find_map(|line| line.strip_prefix(&of_progress));
    assert!(count.is_some_and(|count| count != "0"), "{text}");
}

#[test]
fn promtool_finds_no_error() {
    let Some(promtool) = tool("promtool") else {
        return skip("promtool", "no promtool (tests/tools/install-debian gets it)");
    };
    let server = Server::start(Kind::Ringd, &["--metrics=extensive"]);
    exercise(&server);
    let text = get(server.client, "/metrics").body;
    let mut promtool = Command::new(promtool)
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool starts");
    promtool.stdin.take().expect("piped").write_all(text.as_bytes()).expect("promtool reads");
    let output = promtool.wait_with_output().expect("promtool ends");
    // Exit code 3 stands for remarks on names, which are etcd's.
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(matches!(output.status.code(), Some(0 | 3)), "{said}");
    assert!(!said.lines().any(|line| line.contains("error while linting")), "{said}");
    let ours: Vec<_> = said.lines().filter(|line| line.starts_with("ringd_")).collect();
    assert!(ours.is_empty(), "{ours:#?}");
}
