//! Starting a cluster, and changing who belongs to it, with the real `etcdctl` where it is there.

use std::process::Command;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use ringd::proto::etcdserverpb as pb;

use crate::client::Client;
use crate::cluster::Cluster;
use crate::server::{PATIENCE, run_to_end, skip, tool};
use crate::traffic::Traffic;
use crate::{block_on, rounds};

/// Runs `etcdctl` against all members and gives what it printed.
fn etcdctl(cluster: &Cluster, args: &[&str]) -> Result<String, String> {
    let endpoints: Vec<_> = cluster.endpoints().iter().map(ToString::to_string).collect();
    etcdctl_at(&endpoints.join(","), args)
}

fn etcdctl_at(endpoints: &str, args: &[&str]) -> Result<String, String> {
    let mut command = Command::new(tool("etcdctl").expect("it was asked for"));
    command.args(["--endpoints", endpoints, "--command-timeout=20s"]).args(args);
    let output = command.output().expect("etcdctl runs");
    let (out, err) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    if output.status.success() { Ok(out.into_owned()) } else { Err(format!("{out}{err}")) }
}

#[test]
fn etcdctl_sees_and_changes_the_members() {
    if tool("etcdctl").is_none() {
        return skip(
            "etcdctl_sees_and_changes_the_members",
            "no etcdctl (tests/tools/build makes it)",
        );
    }
    let cluster = Cluster::start(3, &[]);
    let run =
        |args: &[&str]| etcdctl(&cluster, args).unwrap_or_else(|err| panic!("{args:?}: {err}"));
    run(&["put", "a", "1"]);
    let list = run(&["member", "list"]);
    assert_eq!(list.lines().count(), 3, "{list}");
    for (member, line) in cluster.members.iter().zip(sorted_by_name(&list)) {
        let client = format!("http://{}", member.client);
        let there = [", started, ", &member.name, &member.peer_url(), &client];
        assert!(there.iter().all(|part| line.contains(part)), "{line}");
    }
    let health = run(&["endpoint", "health", "--cluster"]);
    assert_eq!(health.matches("is healthy").count(), 3, "{health}");
    let status = run(&["endpoint", "status", "--cluster", "-w", "fields"]);
    assert_eq!(status.matches("\"MemberID\"").count(), 3, "{status}");
    // All of them name the same leader.
    let mut leaders: Vec<_> =
        status.lines().filter(|line| line.starts_with("\"Leader\"")).collect();
    leaders.dedup();
    assert_eq!(leaders.len(), 1, "{status}");

    let (leader, other) = block_on(async {
        let leader = cluster.leader().await;
        (leader, format!("{:x}", cluster.id((leader + 1) % 3).await))
    });
    let at = cluster.members[leader].client.to_string();
    let moved = etcdctl_at(&at, &["move-leader", &other]).expect("leadership is moved");
    assert!(moved.contains("Leadership transferred from"), "{moved}");
    assert_eq!(block_on(cluster.leader()), (leader + 1) % 3);

    let url = format!("--peer-urls={}", cluster.members[(leader + 1) % 3].peer_url());
    let updated = run(&["member", "update", &other, &url]);
    assert!(updated.contains("updated in cluster"), "{updated}");
}

fn sorted_by_name(list: &str) -> Vec<&str> {
    let mut lines: Vec<_> = list.lines().collect();
    lines.sort_by_key(|line| line.split(", ").nth(2).map(str::to_owned));
    lines
}

#[test]
fn a_member_joins_while_puts_go_on_and_another_is_removed() {
    let name = "a_member_joins_while_puts_go_on_and_another_is_removed";
    if tool("etcdctl").is_none() {
        return skip(name, "no etcdctl (tests/tools/build makes it)");
    }
    let mut cluster = Cluster::start(3, &["--snapshot-count=500"]);
    let old = cluster.endpoints().iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
    block_on(async {
        let traffic = Traffic::start(cluster.endpoints(), 5);
        traffic.progress(1_000).await;
        let at = cluster.prepare_joining("m3");
        let url = format!("--peer-urls={}", cluster.members[at].peer_url());
        let added = etcdctl_at(&old, &["member", "add", "m3", "--learner", &url]);
        let added = added.unwrap_or_else(|err| panic!("{err}"));
        assert!(added.contains("added as learner to cluster"), "{added}");
        cluster.run(at);
        let id = format!("{:x}", cluster.id(at).await);
        // A learner that is behind is not promoted; it catches up by itself.
        let mut tries = 0;
        while let Err(err) = etcdctl_at(&old, &["member", "promote", &id]) {
            tries += 1;
            assert!(err.contains("in sync with leader") && tries < 300, "{err}");
            traffic.progress(1).await;
        }
        traffic.add_endpoint(cluster.members[at].client);
        traffic.progress(300).await;

        let removed_at = cluster.leader().await;
        let removed = format!("{:x}", cluster.id(removed_at).await);
        let endpoint = cluster.members[(removed_at + 1) % 3].client.to_string();
        let answer = etcdctl_at(&endpoint, &["member", "remove", &removed]);
        assert!(answer.is_ok(), "{answer:?}");
        cluster.wait_for_line(removed_at, "permanently removed from the cluster");
        let ended = cluster.wait_end(removed_at);
        assert!(ended.success(), "etcd ends with 0 as well: {ended}");
        traffic.progress(300).await;
        // Started again, it has nothing to say.
        let again = run_to_end(&mut cluster.command(removed_at));
        let told = again.log.iter().any(|line| line.contains("permanently removed"));
        assert!(told && again.status.code() == Some(1), "{again:?}");
        let acknowledged = traffic.shared().acknowledged.load(Ordering::Relaxed);
        let history = traffic.finish();
        println!("{acknowledged} writes acknowledged, {} watched", history.watched.len());
    });
}

#[test]
fn a_member_that_lost_its_disk_is_refused_under_its_old_id() {
    let mut cluster = Cluster::start(3, &[]);
    cluster.kill(0);
    std::fs::remove_dir_all(cluster.data_dir(0)).expect("its data");
    let ended = run_to_end(&mut cluster.command(0));
    let told = ended.log.iter().any(|line| line.contains("has already been bootstrapped"));
    assert!(told && !ended.status.success(), "{ended:?}");
    assert!(!cluster.data_dir(0).join("member/ringd").exists(), "nothing was made");
}

/// Values of which a large state is made.
const FILL_BYTES: usize = 256 << 10;

/// Small puts, one after the other, until something is so; how long each took.
async fn latencies(client: &Client, mut is_over: impl FnMut(usize) -> bool) -> Vec<Duration> {
    let mut latencies = Vec::new();
    while !is_over(latencies.len()) {
        let started = Instant::now();
        assert!(put(client, "small", PATIENCE).await, "puts go on");
        latencies.push(started.elapsed());
    }
    latencies.sort_unstable();
    latencies
}

/// Of sorted times, in milliseconds.
fn p99_ms(sorted: &[Duration]) -> f64 {
    sorted[(sorted.len() * 99 / 100).min(sorted.len() - 1)].as_secs_f64() * 1e3
}

#[test]
fn a_member_gets_a_large_state_while_puts_go_on() {
    let mib = rounds("RINGD_JOIN_MIB", 16);
    let pieces = mib * (1 << 20) / FILL_BYTES;
    let mut cluster =
        Cluster::start(3, &["--snapshot-count=100", "--snapshot-catchup-entries=100"]);
    block_on(async {
        let leader = cluster.leader().await;
        let client = Client::try_connect(cluster.members[leader].client).await.expect("it serves");
        for number in 0..pieces {
            let value = vec![number as u8; FILL_BYTES].into();
            let key = format!("large/{number:06}").into();
            let request = pb::PutRequest { key, value, ..Default::default() };
            assert_eq!(client.call("/etcdserverpb.KV/Put", &request).await.code(), 0);
        }
        let before = latencies(&client, |count| count >= 10 * mib.min(100)).await;
        let at = cluster.prepare_joining("m3");
        let url = cluster.members[at].peer_url();
        let request = pb::MemberAddRequest { peer_urls: vec![url], is_learner: true };
        let added = client.call("/etcdserverpb.Cluster/MemberAdd", &request).await;
        assert_eq!(added.code(), 0, "{added:?}");
        let started = Instant::now();
        cluster.launch(at);
        let says = |text: &str| cluster.log(at).iter().any(|line| line.contains(text));
        let meanwhile = latencies(&client, |count| {
            assert!(started.elapsed() < Duration::from_secs(600), "it never joins");
            count >= 100 && says("ready to serve client requests")
        })
        .await;
        let took = started.elapsed();
        let joined = Client::try_connect(cluster.members[at].client).await.expect("it serves");
        let all = pb::RangeRequest {
            key: "large/".into(),
            range_end: "large0".into(),
            count_only: true,
            serializable: true,
            ..Default::default()
        };
        let reply = joined.call("/etcdserverpb.KV/Range", &all).await;
        assert_eq!(reply.message::<pb::RangeResponse>().count, pieces as i64);
        // Who led may have changed, and a transfer may have been made again.
        let receiver = cluster.id(at).await;
        let counted = |at: usize, series: &str| {
            let text = cluster.metrics(at);
            let found = text.lines().find_map(|line| line.strip_prefix(series)?.rsplit_once(' '));
            found.is_some_and(|(_, value)| value != "0")
        };
        for name in ["send_success", "send_total_duration_seconds_count"] {
            let series = format!("etcd_network_snapshot_{name}{{To=\"{receiver:x}\"}}");
            assert!((0..3).any(|at| counted(at, &series)), "nobody has {series}");
        }
        for series in [
            "etcd_network_snapshot_receive_success{",
            "etcd_network_snapshot_receive_total_duration_seconds_count{",
            "etcd_snap_db_save_total_duration_seconds_count",
        ] {
            assert!(counted(at, series), "{series} is missing");
        }
        println!(
            "a state of {mib} MiB joined in {:.1} s; p99 of {} puts before {:.2} ms, of {} meanwhile {:.2} ms",
            took.as_secs_f64(),
            before.len(),
            p99_ms(&before),
            meanwhile.len(),
            p99_ms(&meanwhile),
        );
    });
}

async fn put(at: &Client, key: &str, patience: Duration) -> bool {
    let request = pb::PutRequest { key: key.to_owned().into(), ..Default::default() };
    let call = at.call("/etcdserverpb.KV/Put", &request);
    tokio::time::timeout(patience, call).await.is_ok_and(|reply| reply.code() == 0)
}

async fn count(at: &Client, key: &str) -> i64 {
    let request = pb::RangeRequest { key: key.to_owned().into(), ..Default::default() };
    let reply = at.call("/etcdserverpb.KV/Range", &request).await;
    reply.message::<pb::RangeResponse>().count
}

#[test]
fn a_member_whose_fellows_are_lost_goes_on_alone_when_it_is_told_to() {
    let mut cluster = Cluster::start(3, &[]);
    block_on(async {
        let survivor = cluster.leader().await;
        let others = [(survivor + 1) % 3, (survivor + 2) % 3];
        let at = cluster.members[survivor].client;
        let client = Client::try_connect(at).await.expect("it serves");
        assert!(put(&client, "acknowledged", PATIENCE).await);
        others.iter().for_each(|other| cluster.kill(*other));
        assert!(!put(&client, "never acknowledged", Duration::from_secs(1)).await);
        cluster.signal(survivor, libc::SIGTERM);
        cluster.wait_end(survivor);

        let mut command = cluster.command(survivor);
        command.arg("--force-new-cluster");
        cluster.launch_as(survivor, command);
        cluster.wait_ready(survivor);
        let client = Client::try_connect(at).await.expect("it serves");
        assert_eq!(count(&client, "acknowledged").await, 1);
        assert_eq!(count(&client, "never acknowledged").await, 0);
        assert!(put(&client, "alone", PATIENCE).await);
        let request = pb::MemberListRequest::default();
        let list = client.call("/etcdserverpb.Cluster/MemberList", &request).await;
        let members = list.message::<pb::MemberListResponse>().members;
        assert_eq!(members.len(), 1, "{members:?}");
        assert_eq!(members[0].id, cluster.id(survivor).await);

        // From now on without the flag. Who was lost is told so.
        cluster.kill(survivor);
        cluster.run(survivor);
        let client = Client::try_connect(at).await.expect("it serves");
        assert_eq!(count(&client, "alone").await, 1);
        let lost = run_to_end(&mut cluster.command(others[0]));
        let told = lost.log.iter().any(|line| line.contains("permanently removed"));
        assert!(told && !lost.status.success(), "{lost:?}");
    });
}

#[test]
fn members_of_two_clusters_do_not_mix() {
    let mut cluster = Cluster::stopped(2, &[]);
    cluster.launch(0);
    // The same addresses, another token: another cluster.
    let mut command = cluster.command(1);
    command.arg("--initial-cluster-token=other");
    cluster.launch_as(1, command);
    cluster.wait_for_line(0, "cluster ID mismatch");
    cluster.wait_for_line(1, "cluster ID mismatch");
}

#[test]
fn what_does_not_fit_together_is_one_line() {
    let cluster = Cluster::stopped(2, &[]);
    let other = cluster.members[1].peer_url();
    for (args, expected) in [
        (vec!["--initial-cluster=m1=http://127.0.0.1:1".to_owned()], "couldn't find local name"),
        (
            vec![format!("--initial-cluster=m0={other},m1={other}")],
            "missing from --initial-advertise-peer-urls",
        ),
        (
            vec!["--initial-cluster-state=existing".to_owned()],
            "could not retrieve cluster information from the given URLs",
        ),
    ] {
        let ended = run_to_end(cluster.command(0).args(args));
        let told = ended.log.iter().any(|line| line.contains(expected));
        assert!(told && !ended.status.success(), "{expected}: {ended:?}");
    }
}
