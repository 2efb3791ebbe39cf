//! The conformance suite of others: h2spec, every case of it, the strict ones included.

use std::process::Command;

use crate::server::{Kind, Server, skip, tool};

#[test]
fn h2spec_passes_without_a_waiver() {
    let Some(h2spec) = tool("h2spec") else {
        return skip("h2spec", "no h2spec (tests/tools/build makes it, and needs Go)");
    };
    let server = Server::start(Kind::Ringd, &[]);
    let output = Command::new(h2spec)
        .args(["--strict", "--timeout", "10", "--path", "/version"])
        .args(["--host", "127.0.0.1", "--port", &server.client.port().to_string()])
        .output()
        .expect("h2spec starts");
    let text = String::from_utf8_lossy(&output.stdout);
    let summary = text.lines().rev().find(|line| line.contains("tests, ")).unwrap_or("no summary");
    assert!(output.status.success(), "{}", text.split_once("Failures:").map_or("", |(_, why)| why));
    assert!(summary.contains(" 0 skipped, 0 failed"), "{summary}");
    assert!(summary.starts_with("146 tests, 146 passed"), "{summary}");
}
