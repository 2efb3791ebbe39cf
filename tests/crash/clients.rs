//! Client libraries of Rust, Go, Python and Node, each against a cluster of three that speaks TLS and asks for
//! certificates. What those of other languages do is in `tests/clients`.

use std::path::{Path, PathBuf};
use std::process::Command;

use etcd_client::{
    Certificate, Client, Compare, CompareOp, ConnectOptions, GetOptions, Identity, PutOptions,
    TlsOptions, Txn, TxnOp, WatchOptions,
};
use ringd::tls::authority::Order;

use crate::block_on;
use crate::cluster::Cluster;
use crate::server::skip;
use crate::tls::{HERE, Pki, launch};

fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients").join(name)
}

/// A cluster that serves, and what a client needs to be served by it.
fn secure_cluster() -> (Cluster, Pki) {
    let mut pki = Pki::new();
    pki.issue("member", &Order::new("member", HERE));
    pki.issue("client", &Order::new("client", &[]));
    let mut cluster = Cluster::stopped_secure(3, &["--client-cert-auth"]);
    for at in 0..3 {
        let client = cluster.members[at].client;
        let mut args = pki.mutual("member");
        args.push(pki.flag("cert-file", "member.pem"));
        args.push(pki.flag("key-file", "member-key.pem"));
        args.push(pki.flag("trusted-ca-file", "ca.pem"));
        args.push(format!("--listen-client-urls=https://{client}"));
        args.push(format!("--advertise-client-urls=https://{client}"));
        launch(&mut cluster, at, &args);
    }
    (0..3).for_each(|at| cluster.wait_ready(at));
    (cluster, pki)
}

fn endpoints(cluster: &Cluster) -> Vec<String> {
    cluster.endpoints().iter().map(|addr| format!("https://{addr}")).collect()
}

/// Runs a program of `tests/clients` if what it needs has been made ready: the `stamp` says so.
fn drive(cluster: &Cluster, pki: &Pki, stamp: &str, mut program: Command) {
    if !file("bin").join(format!("{stamp}.stamp")).is_file() {
        return skip(stamp, "its client is not there (tests/clients/build makes it ready)");
    }
    let output = program
        .env("ENDPOINTS", endpoints(cluster).join(","))
        .env("CACERT", pki.path("ca.pem"))
        .env("CERT", pki.path("client.pem"))
        .env("KEY", pki.path("client-key.pem"))
        .output()
        .expect("a program that runs");
    let (said, complained) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{stamp}: {said}\n{complained}");
    assert!(said.lines().filter(|line| line.starts_with("ok ")).count() >= 5, "{stamp}: {said}");
}

#[test]
fn client_libraries_of_other_languages_find_an_etcd() {
    let (cluster, pki) = secure_cluster();
    drive(&cluster, &pki, "go", Command::new(file("bin/go")));
    let mut python = Command::new(file("bin/venv/bin/python"));
    python.arg(file("python/main.py"));
    drive(&cluster, &pki, "python", python);
    let mut node = Command::new("node");
    node.arg(file("node/main.js"));
    drive(&cluster, &pki, "node", node);
}

#[test]
fn the_client_library_of_rust_finds_an_etcd() {
    let (cluster, pki) = secure_cluster();
    let read = |file: &str| std::fs::read(pki.path(file)).expect("a file of the authority");
    let tls = TlsOptions::new()
        .ca_certificate(Certificate::from_pem(read("ca.pem")))
        .identity(Identity::from_pem(read("client.pem"), read("client-key.pem")));
    let options = ConnectOptions::new().with_tls(tls);
    block_on(async {
        let mut client =
            Client::connect(endpoints(&cluster), Some(options)).await.expect("a connection");
        use_it(&mut client).await.expect("what etcd would do");
    });
}

async fn use_it(client: &mut Client) -> Result<(), etcd_client::Error> {
    let first = client.put("rust/a", "1", None).await?;
    let from = first.header().expect("a header").revision();
    let options = WatchOptions::new().with_prefix().with_prev_key().with_start_revision(from);
    let mut events = client.watch("rust/", Some(options)).await?;

    let txn = Txn::new()
        .when([Compare::value("rust/a", CompareOp::Equal, "1")])
        .and_then([TxnOp::put("rust/a", "2", None), TxnOp::put("rust/b", "1", None)])
        .or_else([TxnOp::get("rust/a", None)]);
    assert!(client.txn(txn).await?.succeeded());
    let all = client.get("rust/", Some(GetOptions::new().with_prefix())).await?;
    assert_eq!(all.count(), 2);

    let mut seen = Vec::new();
    while seen.len() < 3 {
        let response = events.message().await?.expect("the watch goes on");
        for event in response.events() {
            let value = |kv: &etcd_client::KeyValue| kv.value_str().unwrap_or("?").to_owned();
            seen.push((event.kv().map(value), event.prev_kv().map(value)));
        }
    }
    let text = |text: &str| Some(text.to_owned());
    assert_eq!(seen, [(text("1"), None), (text("2"), text("1")), (text("1"), None)]);

    let lease = client.lease_grant(60, None).await?.id();
    client.put("rust/leased", "", Some(PutOptions::new().with_lease(lease))).await?;
    let (mut keeper, mut kept) = client.lease_keep_alive(lease).await?;
    keeper.keep_alive().await?;
    assert_eq!(kept.message().await?.expect("an answer").ttl(), 60);

    let lock = client.lock("rust/lock", None).await?;
    client.unlock(lock.key()).await?;
    let campaign = client.campaign("rust/election", "the leader", lease).await?;
    let leader = client.leader("rust/election").await?;
    assert_eq!(leader.kv().expect("a leader").value(), b"the leader");
    let key = campaign.leader().expect("a leader's key").clone();
    client.resign(Some(etcd_client::ResignOptions::new().with_leader(key))).await?;
    assert!(client.leader("rust/election").await.is_err(), "nobody leads");

    client.lease_revoke(lease).await?;
    assert_eq!(client.get("rust/leased", None).await?.count(), 0);
    assert_eq!(client.member_list().await?.members().len(), 3);
    Ok(())
}
