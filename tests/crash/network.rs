//! Members on network interfaces of their own, which go down.
//!
//! What is on its way is lost then, and the kernel sends it again later and later; a proxy can only hold it back.
//! The test starts itself again in a network and a mount namespace, in which it makes everything else: so nothing of
//! it is left, however it ends, and no packet leaves the machine.

use std::net::IpAddr;
use std::process::Command;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::cluster::Cluster;
use crate::rng::Rng;
use crate::server::{PATIENCE, skip};
use crate::traffic::Traffic;
use crate::{block_on, rounds};

const MEMBERS: usize = 3;
/// Set in the process that runs in the namespaces.
const INSIDE: &str = "RINGD_TEST_INSIDE_NAMESPACES";
const TEST: &str = "network::interfaces_go_down_and_no_history_is_wrong";

fn succeeds(program: &str, line: &str) -> bool {
    let output = Command::new(program).args(line.split_whitespace()).output();
    output.is_ok_and(|output| output.status.success())
}

fn ip(line: &str) {
    assert!(succeeds("ip", line), "ip {line}");
}

/// The end of the member's link that is not the member's.
fn link(at: usize) -> String {
    format!("link{at}")
}

/// A namespace for each member, connected with this one, which passes on what they say to each other.
fn connect() -> Vec<(String, IpAddr)> {
    assert!(succeeds("mount", "-t tmpfs tmpfs /run"), "a place for the names of namespaces");
    ip("link set lo up");
    std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").expect("packets are passed on");
    let mut members = Vec::new();
    for at in 0..MEMBERS {
        let (name, link) = (format!("m{at}"), link(at));
        ip(&format!("netns add {name}"));
        ip(&format!("link add {link} type veth peer name eth0 netns {name}"));
        ip(&format!("address add 10.77.{at}.1/24 dev {link}"));
        ip(&format!("link set {link} up"));
        ip(&format!("-n {name} address add 10.77.{at}.2/24 dev eth0"));
        ip(&format!("-n {name} link set lo up"));
        ip(&format!("-n {name} link set eth0 up"));
        ip(&format!("-n {name} route add default via 10.77.{at}.1"));
        members.push((name, format!("10.77.{at}.2").parse().expect("an address")));
    }
    members
}

#[test]
fn interfaces_go_down_and_no_history_is_wrong() {
    if std::env::var_os(INSIDE).is_some() {
        return inside();
    }
    let probe = "--net --mount sh -c";
    let mut words: Vec<_> = probe.split(' ').collect();
    words
        .push("mount -t tmpfs tmpfs /run && ip netns add m0 && ip link add link0 type veth peer name eth0 netns m0");
    let may = Command::new("unshare").args(words).output();
    if !may.is_ok_and(|output| output.status.success()) {
        return skip(TEST, "this user may not make network namespaces");
    }
    let this = std::env::current_exe().expect("this program");
    let mut again = Command::new("unshare");
    again.args(["--net", "--mount"]).arg(this).args(["--exact", TEST, "--nocapture"]);
    let output = again.env(INSIDE, "1").output().expect("unshare runs");
    let said = String::from_utf8_lossy(&output.stdout);
    let complained = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}\n{complained}");
    assert!(said.contains("1 passed"), "it was not run: {said}");
    print!("{said}");
}

fn inside() {
    let rounds = rounds("RINGD_CLUSTER_FAULTS", 4);
    let args = ["--heartbeat-interval=100", "--election-timeout=1000"];
    let mut cluster = Cluster::stopped_in(&connect(), &args);
    (0..MEMBERS).for_each(|at| cluster.launch(at));
    (0..MEMBERS).for_each(|at| cluster.wait_ready(at));
    block_on(async {
        let traffic = Traffic::start(cluster.endpoints(), 6);
        let mut rng = Rng::new(7);
        for round in 0..rounds {
            traffic.progress(50).await;
            let leader = cluster.leader().await;
            let victim = (leader + round % MEMBERS) % MEMBERS;
            ip(&format!("link set {} down", link(victim)));
            // Short ones are over before the kernel has sent anything again, long ones after links were given up.
            let length_ms = if round % 2 == 0 { 4_000 } else { 300 } + rng.below(2_000) as u64;
            tokio::time::sleep(Duration::from_millis(length_ms)).await;
            ip(&format!("link set {} up", link(victim)));
            let back = async {
                while cluster.status(victim).await.is_none_or(|status| status.leader == 0) {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            };
            tokio::time::timeout(PATIENCE, back).await.expect("it is back");
        }
        traffic.progress(50).await;
        let failed = traffic.shared().failed.load(Ordering::Relaxed);
        let history = traffic.finish();
        println!(
            "{rounds} links down: {} answers, {failed} calls failed, {} revisions watched, nothing wrong",
            history.ops.len(),
            history.watched.len()
        );
    });
}
