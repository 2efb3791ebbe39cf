//! A snapshot of ringd is a file of etcd: etcd's tools take it, and a real etcd that starts on it serves what ringd had.

use std::path::Path;
use std::process::Command;

use prost::Message;
use ringd::proto::etcdserverpb::{
    CompactionRequest, DeleteRangeRequest, HashKvRequest, HashKvResponse, LeaseGrantRequest,
    LeaseLeasesRequest, LeaseLeasesResponse, LeaseTimeToLiveRequest, LeaseTimeToLiveResponse,
    PutRequest, RangeRequest, RangeResponse, RequestOp, SnapshotRequest, SnapshotResponse,
    TxnRequest, request_op,
};
use sha2::{Digest, Sha256};
use tempfile::TempDir;

use crate::block_on;
use crate::client::Client;
use crate::server::{Kind, Server, etcd_or_skip, skip, tool};

async fn call<A: Message + Default>(client: &Client, path: &str, request: &impl Message) -> A {
    let reply = client.call(path, request).await;
    assert_eq!(reply.code(), 0, "{path}: {}", reply.text());
    reply.message()
}

async fn done(client: &Client, path: &str, request: &impl Message) {
    let reply = client.call(path, request).await;
    assert_eq!(reply.code(), 0, "{path}: {}", reply.text());
}

async fn put(client: &Client, key: &str, value: Vec<u8>, lease: i64) {
    let request =
        PutRequest { key: key.to_owned().into(), value: value.into(), lease, ..Default::default() };
    done(client, "/etcdserverpb.KV/Put", &request).await;
}

/// Keys with histories, large values, deletions, leases, and transactions of several changes.
async fn fill(client: &Client) {
    for (id, ttl) in [(7, 3_600), (i64::MAX, 500_000), (1 << 40, 86_400)] {
        let request = LeaseGrantRequest { id, ttl };
        done(client, "/etcdserverpb.Lease/LeaseGrant", &request).await;
    }
    for round in 0..30 {
        let puts = |n: usize| RequestOp {
            request: Some(request_op::Request::RequestPut(PutRequest {
                key: format!("key/{round:02}/{n:03}").into(),
                value: vec![n as u8; n * 37 % 2_000].into(),
                lease: if n.is_multiple_of(9) { 7 } else { 0 },
                ..Default::default()
            })),
        };
        let txn = TxnRequest { success: (0..128).map(puts).collect(), ..Default::default() };
        done(client, "/etcdserverpb.KV/Txn", &txn).await;
    }
    for n in 0..50 {
        put(client, "often", vec![n; 100], 0).await;
    }
    put(client, "large", vec![7; 1 << 20], i64::MAX).await;
    let delete = DeleteRangeRequest {
        key: "key/01/".into(),
        range_end: "key/02/".into(),
        ..Default::default()
    };
    done(client, "/etcdserverpb.KV/DeleteRange", &delete).await;
    put(client, "key/01/again", b"back".to_vec(), 0).await;
}

/// All that a client can see of keys and leases.
async fn seen(client: &Client) -> (RangeResponse, Vec<LeaseTimeToLiveResponse>, HashKvResponse) {
    let everything =
        RangeRequest { key: "\0".into(), range_end: "\0".into(), ..Default::default() };
    let mut keys: RangeResponse = call(client, "/etcdserverpb.KV/Range", &everything).await;
    let revision = keys.header.take().expect("a header").revision;
    let request = HashKvRequest { revision };
    let mut hash: HashKvResponse = call(client, "/etcdserverpb.Maintenance/HashKV", &request).await;
    hash.header = None;
    let path = "/etcdserverpb.Lease/LeaseLeases";
    let leases: LeaseLeasesResponse = call(client, path, &LeaseLeasesRequest {}).await;
    let mut details = Vec::new();
    for id in leases.leases.iter().map(|lease| lease.id) {
        let request = LeaseTimeToLiveRequest { id, keys: true };
        let path = "/etcdserverpb.Lease/LeaseTimeToLive";
        let mut detail: LeaseTimeToLiveResponse = call(client, path, &request).await;
        detail.header = None;
        detail.ttl = 0;
        detail.keys.sort_unstable();
        details.push(detail);
    }
    details.sort_unstable_by_key(|detail| detail.id);
    (keys, details, hash)
}

fn run(program: &Path, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output().expect("the program runs");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{args:?}: {}", text(&output.stderr));
    text(&output.stdout)
}

#[test]
fn a_real_etcd_serves_what_a_snapshot_holds() {
    let test = "a_real_etcd_serves_what_a_snapshot_holds";
    let (Some(etcdctl), Some(etcdutl)) = (tool("etcdctl"), tool("etcdutl")) else {
        return skip(test, "no etcdctl or etcdutl (tests/tools/build makes them, and needs Go)");
    };
    if etcd_or_skip(test).is_none() {
        return;
    }
    for compacted in [false, true] {
        let ringd = Server::start(Kind::Ringd, &["--unsafe-no-fsync"]);
        let before = block_on(async {
            let client = Client::connect(ringd.client).await;
            fill(&client).await;
            if compacted {
                let request = CompactionRequest { revision: 40, physical: true };
                done(&client, "/etcdserverpb.KV/Compact", &request).await;
            }
            seen(&client).await
        });
        assert!(before.0.count > 3_700 && before.1.len() == 3);

        let home = TempDir::new().expect("a temporary directory");
        let path = |name: &str| home.path().join(name).to_string_lossy().into_owned();
        let file = path("snapshot.db");
        let endpoint = format!("--endpoints={}", ringd.endpoint());
        run(&etcdctl, &[&endpoint, "snapshot", "save", &file]);
        let status = run(&etcdutl, &["snapshot", "status", &file, "-w", "json"]);
        let status: serde_json::Value = serde_json::from_str(&status).expect("JSON");
        let newest = before.0.kvs.iter().map(|kv| kv.mod_revision).max();
        assert_eq!(status["revision"].as_i64(), newest);
        assert_eq!(status["version"], "3.7.0");

        let data = path("data.etcd");
        run(&etcdutl, &["snapshot", "restore", &file, "--data-dir", &data]);
        let etcd = Server::start_at(Kind::Etcd, &["--unsafe-no-fsync"], Path::new(&data));
        let after = block_on(async { seen(&Client::connect(etcd.client).await).await });
        assert_eq!(before.0.kvs.len(), after.0.kvs.len());
        assert!(before.0 == after.0, "keys differ");
        assert_eq!(before.1, after.1, "leases differ");
        assert_eq!(before.2, after.2, "hashes differ");
    }
}

#[test]
fn the_messages_of_a_snapshot_have_etcds_sizes_and_end_with_the_hash() {
    let server = Server::start(Kind::Ringd, &["--unsafe-no-fsync"]);
    block_on(async {
        let client = Client::connect(server.client).await;
        fill(&client).await;
        let mut stream = client.open("/etcdserverpb.Maintenance/Snapshot").await;
        stream.send(&SnapshotRequest {});
        stream.finish();
        let mut messages = Vec::new();
        while let Some(message) = stream.next().await {
            messages.push(SnapshotResponse::decode(message).expect("a SnapshotResponse"));
            // What is written meanwhile is not in it, and holds nothing up.
            put(&client, "meanwhile", vec![1; 1_000], 0).await;
        }
        assert_eq!(stream.reply().code(), 0);
        let (hash, blobs) = messages.split_last().expect("messages");
        let total: u64 = blobs.iter().map(|blob| blob.blob.len() as u64).sum();
        let mut digest = Sha256::new();
        let mut sent = 0;
        for message in blobs {
            digest.update(&message.blob);
            sent += message.blob.len() as u64;
            let is_last = sent == total;
            assert!(message.blob.len() == 32 << 10 || is_last);
            assert_eq!(message.remaining_bytes, total - sent);
            assert_eq!((&*message.version, &message.header), ("3.7.0", &None));
        }
        assert!(blobs.len() > 10);
        assert_eq!(hash.blob[..], digest.finalize()[..]);
        assert_eq!(hash.remaining_bytes, 0);
    });
}

#[test]
fn a_real_etcd_has_the_users_and_roles_that_a_snapshot_holds() {
    let test = "a_real_etcd_has_the_users_and_roles_that_a_snapshot_holds";
    let (Some(etcdctl), Some(etcdutl)) = (tool("etcdctl"), tool("etcdutl")) else {
        return skip(test, "no etcdctl or etcdutl (tests/tools/build makes them, and needs Go)");
    };
    if etcd_or_skip(test).is_none() {
        return;
    }
    let args = ["--unsafe-no-fsync", "--bcrypt-cost=4"];
    let ringd = Server::start(Kind::Ringd, &args);
    let ctl = |server: &Server, line: &str| {
        let endpoint = format!("--endpoints={}", server.endpoint());
        let mut words = vec![endpoint.as_str()];
        words.extend(line.split(' '));
        run(&etcdctl, &words)
    };
    for line in [
        "user add root:secret",
        "user add alice:hers",
        "user add bob --no-password",
        "role add reader",
        "role add empty",
        "role grant-permission reader readwrite a c",
        "role grant-permission reader read k --from-key",
        "user grant-role alice reader",
        "user grant-role alice empty",
        "user grant-role root root",
        "put a 1",
        "auth enable",
    ] {
        ctl(&ringd, line);
    }
    let home = TempDir::new().expect("a temporary directory");
    let path = |name: &str| home.path().join(name).to_string_lossy().into_owned();
    let (file, data) = (path("snapshot.db"), path("data.etcd"));
    ctl(&ringd, &format!("--user root:secret snapshot save {file}"));
    run(&etcdutl, &["snapshot", "restore", &file, "--data-dir", &data]);
    let etcd = Server::start_at(Kind::Etcd, &args, Path::new(&data));
    for line in [
        "--user root:secret auth status",
        "--user root:secret user list",
        "--user root:secret role list",
        "--user root:secret user get root",
        "--user root:secret user get bob",
        "--user alice:hers user get alice",
        "--user alice:hers role get reader",
        "--user alice:hers role get empty",
        "--user alice:hers get a",
        "--user alice:hers put b 2",
    ] {
        assert_eq!(ctl(&etcd, line), ctl(&ringd, line), "{line}");
    }
}
