//! A downgrade from its order to its end: what clients are told at each step is what a real etcd tells. How long a step
//! takes is not compared: both lower the version when the leader looks next.

use std::time::{Duration, Instant};

use ringd::proto::etcdserverpb as pb;
use ringd::proto::etcdserverpb::downgrade_request::DowngradeAction::{
    self, Cancel, Enable, Validate,
};

use crate::block_on;
use crate::client::Client;
use crate::http;
use crate::server::{Kind, PATIENCE, Server, etcd_or_skip};

async fn order(client: &Client, action: DowngradeAction, version: &str) -> String {
    let request = pb::DowngradeRequest { action: action as i32, version: version.to_owned() };
    let reply = client.call("/etcdserverpb.Maintenance/Downgrade", &request).await;
    match reply.code() {
        0 => format!("{action:?} {version}: {}", reply.message::<pb::DowngradeResponse>().version),
        code => format!("{action:?} {version}: {code} {}", reply.text()),
    }
}

async fn status(client: &Client) -> String {
    let path = "/etcdserverpb.Maintenance/Status";
    let status: pb::StatusResponse = client.call(path, &pb::StatusRequest {}).await.message();
    let info = status.downgrade_info.expect("it is always there");
    format!("{} {} {:?}", status.storage_version, info.enabled, info.target_version)
}

/// Waits until clients and the version page are told this version; what the status then says.
async fn until_version(server: &Server, client: &Client, version: &str) -> String {
    let started = Instant::now();
    let page = format!(r#""etcdcluster":"{version}","storage":"{version}""#);
    loop {
        let found = status(client).await;
        if found.starts_with(version) && http::get(server.client, "/version").body.contains(&page) {
            return found;
        }
        assert!(started.elapsed() < PATIENCE, "{}: never {version}, still {found}", server.kind);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn until_line(server: &Server, text: &str) -> String {
    let started = Instant::now();
    loop {
        if let Some(line) = server.log().into_iter().find(|line| line.contains(text)) {
            return line;
        }
        assert!(started.elapsed() < PATIENCE, "{}: no line with {text:?}", server.kind);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn story(kind: Kind) -> Vec<String> {
    let mut server = Server::start(kind, &["--unsafe-no-fsync"]);
    let client = Client::connect(server.client).await;
    let mut told = vec![until_version(&server, &client, "3.7.0").await];
    told.push(order(&client, Enable, "3.6").await);
    told.push(until_version(&server, &client, "3.6.0").await);
    for (action, version) in
        [(Validate, "3.5"), (Validate, "3.6"), (Validate, "3.7"), (Enable, "3.6"), (Enable, "x")]
    {
        told.push(order(&client, action, version).await);
    }
    let metrics = http::get(server.client, "/metrics").body;
    assert!(metrics.contains("etcd_cluster_version{cluster_version=\"3.6\"} 1"), "{kind}");
    for line in ["updating cluster version using v3 API", "updated cluster version"] {
        until_line(&server, line).await;
    }
    let ready = until_line(&server, "The server is ready to downgrade").await;
    for part in [r#""target-version":"3.6.0""#, r#""server-version":"3.7.1""#] {
        assert!(ready.contains(part), "{kind}: {ready}");
    }

    // It is no matter of the process.
    server.stop();
    server.run().expect("it starts again");
    let client = Client::connect(server.client).await;
    told.push(until_version(&server, &client, "3.6.0").await);
    told.push(order(&client, Cancel, "").await);
    told.push(until_version(&server, &client, "3.7.0").await);
    told.push(order(&client, Cancel, "").await);
    told.push(order(&client, Validate, "3.6.2").await);
    told
}

#[test]
fn a_downgrade_goes_as_in_a_real_etcd() {
    if etcd_or_skip("a downgrade").is_none() {
        return;
    }
    let [ringd, etcd] = std::thread::scope(|scope| {
        [Kind::Ringd, Kind::Etcd]
            .map(|kind| scope.spawn(move || block_on(story(kind))))
            .map(|story| story.join().expect("a story"))
    });
    assert_eq!(ringd, etcd);
}
