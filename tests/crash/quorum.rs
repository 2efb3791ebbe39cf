//! How many members may be away, and what a member says when there are too few.

use std::time::Duration;

use ringd::proto::etcdserverpb as pb;

use crate::block_on;
use crate::client::{Client, Reply};
use crate::cluster::Cluster;
use crate::server::PATIENCE;

async fn put(cluster: &Cluster, at: usize) -> Reply {
    let client = Client::connect(cluster.members[at].client).await;
    let request = pb::PutRequest { key: "key".into(), value: "value".into(), ..Default::default() };
    client.call("/etcdserverpb.KV/Put", &request).await
}

/// Tried until it succeeds: whoever led may be among those that are away.
async fn put_until_accepted(cluster: &Cluster, at: usize) {
    let trying = async {
        while put(cluster, at).await.code() != 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, trying).await.expect("a majority accepts writes");
}

fn members_survive(count: usize, tolerated: usize) {
    let mut cluster = Cluster::start(count, &["--heartbeat-interval=50", "--election-timeout=500"]);
    block_on(async {
        put_until_accepted(&cluster, count - 1).await;
        for at in 0..tolerated {
            cluster.kill(at);
            put_until_accepted(&cluster, count - 1).await;
        }
        cluster.kill(tolerated);
        let refused = put(&cluster, count - 1).await;
        assert_ne!(refused.code(), 0, "no majority, and a write was accepted: {refused:?}");
        let text = refused.text();
        let says_why = ["no leader", "timed out", "leader changed"];
        let says_why = says_why.iter().any(|why| text.contains(why));
        assert!(text.starts_with("etcdserver: ") && says_why, "{refused:?}");
        // One comes back, and the rest happens by itself.
        cluster.launch(tolerated);
        put_until_accepted(&cluster, count - 1).await;
        for at in 0..tolerated {
            cluster.launch(at);
        }
        for at in 0..=tolerated {
            cluster.wait_ready(at);
            put_until_accepted(&cluster, at).await;
        }
    });
}

#[test]
fn five_members_survive_two_and_recover_from_three() {
    members_survive(5, 2);
}

#[test]
fn seven_members_survive_three_and_recover_from_four() {
    members_survive(7, 3);
}
