//! Programs that use the client libraries of other languages (`tests/clients`), each against a cluster of three.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::cluster::Cluster;
use crate::server::skip;

fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients").join(name)
}

/// Runs a program of `tests/clients` if what it needs has been made ready: the `stamp` says so.
fn drive(cluster: &Cluster, stamp: &str, mut program: Command) {
    if !file("bin").join(format!("{stamp}.stamp")).is_file() {
        return skip(stamp, "its client is not there (tests/clients/build makes it ready)");
    }
    let urls: Vec<_> = cluster.endpoints().iter().map(|addr| format!("http://{addr}")).collect();
    let output = program.env("ENDPOINTS", urls.join(",")).output().expect("a program that runs");
    let (said, complained) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{stamp}: {said}\n{complained}");
    assert!(said.lines().filter(|line| line.starts_with("ok ")).count() >= 5, "{stamp}: {said}");
}

#[test]
fn client_libraries_of_other_languages_find_an_etcd() {
    let cluster = Cluster::start(3, &[]);
    drive(&cluster, "go", Command::new(file("bin/go")));
    let mut python = Command::new(file("bin/venv/bin/python"));
    python.arg(file("python/main.py"));
    drive(&cluster, "python", python);
    let mut node = Command::new("node");
    node.arg(file("node/main.js"));
    drive(&cluster, "node", node);
}
