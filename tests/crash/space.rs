//! One member of three has a disk of its own, and that is full.

use std::path::Path;

use bytes::Bytes;
use ringd::proto::etcdserverpb as pb;

use crate::block_on;
use crate::client::{Client, Reply};
use crate::cluster::Cluster;
use crate::disk::{DISK_MIB, Disk};
use crate::server::{PATIENCE, skip};

const NOSPACE: i32 = 1;
const EXCEEDED: &str = "etcdserver: mvcc: database space exceeded";
const VALUE_BYTES: usize = 1 << 20;
/// What the member writes before somebody else takes the rest of its disk.
const BEFORE: usize = 30;

/// Tried until it is answered by a member that has a leader: leadership may be on its way.
async fn call(cluster: &Cluster, at: usize, path: &str, request: &impl prost::Message) -> Reply {
    let trying = async {
        loop {
            let client = Client::try_connect(cluster.members[at].client).await;
            if let Ok(client) = client {
                let reply = client.call(path, request).await;
                if reply.code() == 0 || reply.text() == EXCEEDED {
                    return reply;
                }
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, trying).await.expect("an answer")
}

async fn put(cluster: &Cluster, at: usize, key: String) -> Reply {
    let value = vec![b'x'; VALUE_BYTES].into();
    let request = pb::PutRequest { key: key.into(), value, ..Default::default() };
    call(cluster, at, "/etcdserverpb.KV/Put", &request).await
}

async fn count(cluster: &Cluster, at: usize) -> i64 {
    let request = pb::RangeRequest {
        key: Bytes::from_static(b"fill/"),
        range_end: Bytes::from_static(b"fill0"),
        count_only: true,
        ..Default::default()
    };
    let reply = call(cluster, at, "/etcdserverpb.KV/Range", &request).await;
    reply.message::<pb::RangeResponse>().count
}

async fn alarm(cluster: &Cluster, at: usize, action: i32, member_id: u64) -> Vec<u64> {
    let request = pb::AlarmRequest { action, member_id, alarm: NOSPACE };
    let reply = call(cluster, at, "/etcdserverpb.Maintenance/Alarm", &request).await;
    let alarms = reply.message::<pb::AlarmResponse>().alarms;
    alarms.iter().map(|alarm| alarm.member_id).collect()
}

async fn lead_with(cluster: &Cluster, at: usize) {
    let id = cluster.id(at).await;
    for _ in 0..PATIENCE.as_millis() / 20 {
        let leader = cluster.leader().await;
        if leader == at {
            return;
        }
        let client = Client::connect(cluster.members[leader].client).await;
        let request = pb::MoveLeaderRequest { target_id: id };
        client.call("/etcdserverpb.Maintenance/MoveLeader", &request).await;
    }
    panic!("leadership does not move");
}

/// Number and hash of all that a member has at a revision.
async fn hash(cluster: &Cluster, at: usize, revision: i64) -> (i64, u32) {
    let request = pb::HashKvRequest { revision };
    let reply = call(cluster, at, "/etcdserverpb.Maintenance/HashKV", &request).await;
    let hash = reply.message::<pb::HashKvResponse>();
    (hash.hash_revision, hash.hash)
}

/// The member 0 has the disk. Its part is another one, so that both are tried.
fn a_full_disk(leads: bool) {
    let Some(disk) = Disk::mount() else {
        return skip("a full disk in a cluster", "this user may not mount a small file system");
    };
    let mut cluster = Cluster::stopped(3, &[]);
    cluster.members[0].own_data_dir = Some(disk.data_dir());
    (0..3).for_each(|at| cluster.launch(at));
    (0..3).for_each(|at| cluster.wait_ready(at));
    block_on(async {
        lead_with(&cluster, if leads { 0 } else { 1 }).await;
        let mut written = 0;
        while written < BEFORE {
            let reply = put(&cluster, written % 3, format!("fill/{written}")).await;
            assert_eq!(reply.code(), 0, "{reply:?}");
            written += 1;
        }
        drop(disk.fill_up());
        loop {
            let reply = put(&cluster, written % 3, format!("fill/{written}")).await;
            if reply.text() == EXCEEDED {
                break;
            }
            written += 1;
            assert!(written < 2 * DISK_MIB, "nobody minds the full disk");
        }
        // It is the cluster's alarm, and names who raised it.
        let full = cluster.id(0).await;
        for at in 0..3 {
            assert_eq!(alarm(&cluster, at, 0, 0).await, [full], "at {at}");
            assert_eq!(put(&cluster, at, "one more".to_owned()).await.text(), EXCEEDED);
            assert_eq!(count(&cluster, at).await as usize, written, "at {at}");
        }
        // The full one may come back, too.
        cluster.kill(0);
        cluster.run(0);
        assert_eq!(count(&cluster, 0).await as usize, written);
        // What frees space goes on, wherever it is asked for.
        for at in 0..3 {
            let key = format!("fill/{at}").into();
            let request = pb::DeleteRangeRequest { key, ..Default::default() };
            let reply = call(&cluster, at, "/etcdserverpb.KV/DeleteRange", &request).await;
            assert_eq!(reply.message::<pb::DeleteRangeResponse>().deleted, 1);
        }
        make_room(&disk);
        let mut revision = 0;
        for at in 0..3 {
            let taken = put_again(&cluster, at, full).await;
            revision = taken.header.expect("a header").revision;
            assert_eq!(count(&cluster, at).await as usize, written - 3);
        }
        let first = hash(&cluster, 0, revision).await;
        for at in 1..3 {
            assert_eq!(hash(&cluster, at, revision).await, first, "at {at}");
        }
    });
}

/// Until the member has found that there is room it may raise the alarm again, and one that it has raised before may
/// still be on its way.
async fn put_again(cluster: &Cluster, at: usize, full: u64) -> pb::PutResponse {
    let trying = async {
        loop {
            let reply = put(cluster, at, format!("after/{at}")).await;
            if reply.code() == 0 {
                return reply.message();
            }
            alarm(cluster, at, 2, full).await;
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(PATIENCE, trying).await.expect("writes are taken again")
}

fn make_room(disk: &Disk) {
    let ballast: &Path = &disk.path().join("ballast");
    std::fs::remove_file(ballast).expect("the ballast goes");
    disk.grow();
}

#[test]
fn a_follower_whose_disk_is_full_stops_the_writes_of_all_and_recovers() {
    a_full_disk(false);
}

#[test]
fn a_leader_whose_disk_is_full_stops_the_writes_of_all_and_recovers() {
    a_full_disk(true);
}
