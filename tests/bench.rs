//! `ringd bench` as its users run it: every shape, briefly, against a ringd and, where it is there, a
//! real etcd; and what it says when something is wrong.

#[path = "wire/ports.rs"]
mod ports;
#[allow(dead_code)]
#[path = "wire/server.rs"]
mod server;

use std::process::{Command, Output};

use ringd::bench::Report;
use ringd::tls::authority::{Authority, Order};
use server::{Kind, Server, kinds};

fn bench(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_ringd"))
        .arg("bench")
        .args(args)
        .output()
        .expect("the program starts")
}

fn loaded(server: &Server, shape: &str, args: &[&str]) -> Report {
    let endpoint = server.endpoint();
    let fixed = [shape, "--endpoints", &endpoint, "--json", "-", "-c", "3", "-s", "4"];
    let output = bench(&[&fixed[..], args].concat());
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{shape} {args:?}: {errors}{text}");
    let report: Report = serde_json::from_str(&text).expect("a report");
    let context = format!("{} {shape} {args:?}: {report:#?}", server.kind);
    assert_eq!((report.failed, report.unsent), (0, 0), "{context}");
    assert_eq!(report.connections_lost, 0, "{context}");
    report
}

fn count(report: &Report, operation: &str) -> u64 {
    report.operation(operation).unwrap_or_else(|| panic!("no {operation}: {report:#?}")).count
}

#[test]
fn every_shape_is_answered_without_an_error() {
    for kind in kinds() {
        let server = Server::start(kind, &[]);
        let report = loaded(&server, "put", &["--total", "500", "--value-size", "20000"]);
        assert_eq!((report.requests, count(&report, "put")), (500, 500));
        assert!(report.throughput > 0.0 && report.latency.p50 > 0.0);
        let report = loaded(&server, "range", &["-n", "500", "--prefill", "1000"]);
        assert_eq!(count(&report, "get"), 500);
        assert!(report.bytes_received > 500 * 256, "the values are there: {report:#?}");
        let report = loaded(&server, "range", &["-n", "20", "--prefill", "1000", "--limit", "100"]);
        assert_eq!(count(&report, "list"), 20);
        let report = loaded(&server, "range", &["-n", "20", "--keys", "1000", "--limit", "0"]);
        assert!(report.bytes_received > 20 * 1_000 * 256, "whole lists: {report:#?}");
        let list = ["-n", "9", "--keys", "1000", "--limit", "0", "--range-stream"];
        let report = loaded(&server, "range", &list);
        assert!(report.bytes_received > 9 * 1_000 * 256, "whole streams: {report:#?}");
        let report = loaded(&server, "range", &["-n", "50", "--keys", "1000", "--count-only"]);
        assert_eq!(count(&report, "count"), 50);
        let report = loaded(&server, "txn", &["-n", "200", "--ops", "7"]);
        assert_eq!(count(&report, "txn"), 200);
        let report = loaded(&server, "mixed", &["-n", "500", "--rate", "5000"]);
        assert_eq!(count(&report, "get") + count(&report, "put"), 500);
        let watch = ["-n", "50", "--rate", "500", "--watchers", "20", "--watch-streams", "7"];
        let report = loaded(&server, "watch", &[&watch[..], &["--prev-kv"]].concat());
        assert_eq!((count(&report, "put"), count(&report, "delivery")), (50, 1_000));
        let report = loaded(&server, "watch", &["--idle", "--watchers", "500", "-d", "1ms"]);
        assert_eq!(report.requests, 0);
        let report = loaded(&server, "lease", &["-n", "300", "--keep-alives", "3"]);
        assert!(["grant", "keepalive", "revoke"].iter().all(|&op| count(&report, op) > 20));
        let report = loaded(
            &server,
            "kubernetes",
            &["-n", "3000", "--nodes", "50", "--keys", "300", "--page-limit", "70"],
        );
        assert_eq!(report.requests, 3_000);
        for operation in &report.operations {
            assert!(operation.count > 0, "no {}: {report:#?}", operation.name);
        }
        let changes = ["lease update", "pod update", "pod create", "pod delete"];
        let changes: u64 = changes.iter().map(|&operation| count(&report, operation)).sum();
        // Deletions carry no value, and so no stamp that a latency could be told by.
        let stamped = changes - count(&report, "pod delete");
        assert_eq!(count(&report, "delivery"), 3 * stamped, "{report:#?}");
    }
}

#[test]
fn a_connection_for_each_request_is_made_and_counts() {
    let folder = tempfile::TempDir::new().unwrap();
    let mut authority = Authority::new("bench");
    let issued = authority.issue(&Order::new("server", &["127.0.0.1"]));
    let texts = [authority.certificate(), issued.certificate, issued.key];
    let files = ["ca.pem", "server.pem", "key.pem"].map(|name| folder.path().join(name));
    for (path, text) in files.iter().zip(texts) {
        std::fs::write(path, text).unwrap();
    }
    let [ca, certificate, key] = files.map(|path| path.display().to_string());
    for kind in kinds() {
        let flags = [format!("--cert-file={certificate}"), format!("--key-file={key}")];
        let server = Server::start_tls(kind, &flags.each_ref().map(String::as_str));
        let endpoint = format!("https://{}", server.endpoint());
        let args = ["range", "--serializable", "--reconnect", "-c", "5", "-s", "1", "-n", "300"];
        let rest = ["--json", "-", "--cacert", &ca, "--endpoints", &endpoint];
        let output = bench(&[&args[..], &rest].concat());
        let errors = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(0), "{kind}: {errors}");
        let report: Report = serde_json::from_slice(&output.stdout).expect("a report");
        let seen = (report.requests, report.failed, report.connections_lost);
        assert_eq!(seen, (300, 0, 0), "{kind}: {report:#?}");
    }
}

#[test]
fn the_same_seed_asks_the_same() {
    let server = Server::start(Kind::Ringd, &[]);
    let run = || {
        let report = loaded(&server, "mixed", &["-n", "400", "--seed", "9"]);
        report.operations.iter().map(|operation| operation.count).collect::<Vec<_>>()
    };
    assert_eq!(run(), run());
}

#[test]
fn results_are_written_where_they_are_wanted() {
    let server = Server::start(Kind::Ringd, &[]);
    let folder = tempfile::TempDir::new().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (json, svg) = (path("r.json"), path("r.svg"));
    let endpoint = format!("http://{}", server.endpoint());
    let output =
        bench(&["put", "--endpoints", &endpoint, "-n", "50", "--json", &json, "--svg", &svg]);
    let table = String::from_utf8(output.stdout).unwrap();
    assert!(table.contains("put") && table.contains("p99.9"), "{table}");
    assert!(output.stderr.is_empty(), "no line of progress without a terminal");
    let report: Report = serde_json::from_slice(&std::fs::read(&json).unwrap()).unwrap();
    assert_eq!(report.requests, 50);
    assert!(std::fs::read_to_string(&svg).unwrap().contains("<svg"));
}

#[test]
fn what_cannot_be_done_is_one_line_and_an_exit_code() {
    let cases: [(&[&str], i32, &str); 3] = [
        (&["put", "--rat", "5"], 2, "--rat"),
        (&["nothing"], 2, "nothing"),
        (&["put", "--endpoints", "no-such-host.invalid:1"], 1, "no-such-host.invalid"),
    ];
    for (args, code, named) in cases {
        let output = bench(args);
        let line = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{args:?}: {line}");
        assert!(line.contains(named) && line.trim_end().lines().count() == 1, "{args:?}: {line}");
        assert!(output.stdout.is_empty());
    }
}

#[test]
fn a_load_of_which_nothing_succeeds_shows_its_errors_and_fails() {
    let server = Server::start(Kind::Ringd, &["--max-request-bytes=1000"]);
    let endpoint = server.endpoint();
    let output = bench(&["put", "--endpoints", &endpoint, "-n", "20", "--value-size", "5000"]);
    let table = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1), "{table}");
    assert!(
        table.contains("failed 20x InvalidArgument: etcdserver: request is too large"),
        "{table}"
    );
}
