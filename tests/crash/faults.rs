//! What happens to members while clients go on: the leader is killed again and again; links are cut and slowed down,
//! processes are paused and killed, at random.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::Bytes;
use ringd::proto::etcdserverpb as pb;

use crate::client::Client;
use crate::cluster::Cluster;
use crate::proxy::Condition;
use crate::rng::Rng;
use crate::traffic::Traffic;
use crate::{block_on, rounds};

/// Of the members' flags below, for the figures.
const ELECTION_MS: u64 = 1_000;
const ARGS: &[&str] = &["--heartbeat-interval=100", "--election-timeout=1000"];

/// Until a write is accepted again by one of the members, tried often. The key is none of the traffic's, which alone
/// makes revisions: so the probe compares with a version that no key has, and writes nothing.
async fn until_writable(cluster: &Cluster) -> Duration {
    let started = Instant::now();
    loop {
        for at in (0..cluster.members.len()).filter(|at| cluster.runs(*at)) {
            let probe = async {
                let client = Client::try_connect(cluster.members[at].client).await.ok()?;
                let compare = pb::Compare {
                    key: Bytes::from_static(b"key/0"),
                    target: pb::compare::CompareTarget::Version as i32,
                    target_union: Some(pb::compare::TargetUnion::Version(-1)),
                    ..Default::default()
                };
                let put = pb::PutRequest { key: "key/0".into(), ..Default::default() };
                let op = pb::request_op::Request::RequestPut(put);
                let request = pb::TxnRequest {
                    compare: vec![compare],
                    success: vec![pb::RequestOp { request: Some(op) }],
                    ..Default::default()
                };
                let reply = client.call("/etcdserverpb.KV/Txn", &request).await;
                (reply.code() == 0).then_some(())
            };
            let probe = tokio::time::timeout(Duration::from_millis(300), probe).await;
            if matches!(probe, Ok(Some(()))) {
                return started.elapsed();
            }
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[test]
fn killing_the_leader_under_load_loses_nothing_that_was_acknowledged() {
    let rounds = rounds("RINGD_CLUSTER_KILLS", 3);
    let mut cluster = Cluster::start(3, ARGS);
    block_on(async {
        let traffic = Traffic::start(cluster.endpoints(), 1);
        let mut pauses_ms = Vec::new();
        for _ in 0..rounds {
            traffic.progress(200).await;
            let leader = cluster.leader().await;
            cluster.kill(leader);
            pauses_ms.push(until_writable(&cluster).await.as_millis() as u64);
            traffic.progress(100).await;
            cluster.run(leader);
        }
        let shared = traffic.shared();
        let figures = (
            shared.acknowledged.load(Ordering::Relaxed),
            shared.reads.load(Ordering::Relaxed),
            shared.failed.load(Ordering::Relaxed),
        );
        let history = traffic.finish();
        pauses_ms.sort_unstable();
        let (median, worst) = (pauses_ms[pauses_ms.len() / 2], pauses_ms[pauses_ms.len() - 1]);
        println!(
            "{rounds} leaders killed: {} writes acknowledged, {} reads, {} calls failed, {} revisions watched; \
             writable again after {median} ms (median), {worst} ms (worst); election timeout {ELECTION_MS} ms",
            figures.0,
            figures.1,
            figures.2,
            history.watched.len(),
        );
    });
}

#[test]
fn links_are_cut_and_slowed_and_members_paused_and_no_history_is_wrong() {
    let rounds = rounds("RINGD_CLUSTER_FAULTS", 8);
    let mut cluster = Cluster::start(3, ARGS);
    let count = cluster.members.len();
    block_on(async {
        let mut ids = Vec::new();
        for at in 0..count {
            ids.push(cluster.id(at).await);
        }
        let traffic = Traffic::start(cluster.endpoints(), 2);
        let mut rng = Rng::new(3);
        let mut done = [0; 7];
        for round in 0..rounds {
            // Each kind once, then as it comes.
            let kind = if round < done.len() { round } else { rng.below(done.len()) };
            done[kind] += 1;
            let leader = cluster.leader().await;
            let victim = if rng.chance(50) { leader } else { rng.below(count) };
            let other = (victim + 1) % count;
            let length = Duration::from_millis(500 + rng.below(2_500) as u64);
            let cut = Condition { cut: true, ..Condition::default() };
            match kind {
                0 => cluster.net.isolate(ids[victim], &ids, cut),
                1 => cluster.net.set(ids[victim], ids[other], cut),
                2 => {
                    cluster.net.set(ids[victim], ids[other], cut);
                    cluster.net.set(ids[other], ids[victim], cut);
                }
                3 => {
                    let delay_ms = 20 + rng.below(80) as u64;
                    let slow = Condition { delay_ms, ..Condition::default() };
                    cluster.net.isolate(ids[victim], &ids, slow);
                }
                4 => {
                    let slow = Condition { bytes_per_s: 20_000, ..Condition::default() };
                    cluster.net.isolate(ids[victim], &ids, slow);
                }
                5 => cluster.signal(victim, libc::SIGSTOP),
                _ => cluster.kill(victim),
            }
            tokio::time::sleep(length).await;
            match kind {
                5 => cluster.signal(victim, libc::SIGCONT),
                6 => cluster.launch(victim),
                _ => cluster.net.heal(),
            }
            traffic.progress(20).await;
        }
        let failed = traffic.shared().failed.load(Ordering::Relaxed);
        let history = traffic.finish();
        println!(
            "{rounds} faults {done:?}: {} answers, {failed} calls failed, {} revisions watched, nothing wrong",
            history.ops.len(),
            history.watched.len()
        );
    });
}

/// The others may elect another leader meanwhile for a reason of their own, when the machine or its disk stands still:
/// then it says nothing, and is tried again.
const CUT_OFF_TRIES: usize = 5;

#[test]
fn a_member_that_was_cut_off_comes_back_without_a_new_term() {
    // Each on a cluster of its own: the history of a try knows nothing of the one before.
    let is_unnoticed = |_| {
        let cluster = Cluster::start(3, ARGS);
        block_on(is_cut_off_unnoticed(&cluster))
    };
    let went_well = (0..CUT_OFF_TRIES).any(is_unnoticed);
    assert!(went_well, "the leader did not stay one while a follower was away");
}

async fn is_cut_off_unnoticed(cluster: &Cluster) -> bool {
    let mut ids = Vec::new();
    for at in 0..3 {
        ids.push(cluster.id(at).await);
    }
    let leader = cluster.leader().await;
    let away = (leader + 1) % 3;
    let before = cluster.status(leader).await.expect("it answers").raft_term;
    let traffic = Traffic::start(vec![cluster.members[leader].client], 4);
    traffic.progress(10).await;
    cluster.net.isolate(ids[away], &ids, Condition { cut: true, ..Condition::default() });
    tokio::time::sleep(Duration::from_millis(4 * ELECTION_MS)).await;
    let leads = cluster.status(leader).await.expect("it answers");
    let cut_off = cluster.status(away).await.expect("it answers");
    cluster.net.heal();
    if (leads.leader, leads.raft_term) != (ids[leader], before) {
        traffic.finish();
        return false;
    }
    assert_eq!((cut_off.leader, cut_off.raft_term), (0, before), "it has no leader");
    for _ in 0..3_000 {
        if cluster.status(away).await.is_some_and(|status| status.leader != 0) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let after = cluster.status(away).await.expect("it answers");
    assert_eq!((after.leader, after.raft_term), (ids[leader], before));
    assert_eq!(traffic.shared().failed.load(Ordering::Relaxed), 0, "nobody noticed");
    traffic.finish();
    true
}
