//! Members that find each other by the v3 discovery service: an etcd, or a ringd, under a token.

use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use bytes::Bytes;
use prost::Message;
use ringd::proto::etcdserverpb as pb;
use tempfile::TempDir;

use crate::block_on;
use crate::client::Client;
use crate::ports::free_ports;
use crate::server::{Kind, PATIENCE, Server, etcd_or_skip, kinds, run_to_end};

/// A member that is to be founded by discovery.
struct Member {
    name: String,
    client: SocketAddr,
    peer: SocketAddr,
    dir: TempDir,
    child: Option<Child>,
}

impl Member {
    fn new(name: &str) -> Member {
        let [client, peer] = free_ports();
        let dir = TempDir::new().expect("a temporary directory");
        Member { name: name.to_owned(), client, peer, dir, child: None }
    }

    fn command(&self, kind: Kind, service: &Server, token: &str, args: &[&str]) -> Command {
        let mut command = Command::new(kind.binary().expect("the binary is there"));
        command
            .args(["--name", &self.name])
            .arg("--data-dir")
            .arg(self.dir.path().join("data.etcd"))
            .arg(format!("--listen-client-urls=http://{}", self.client))
            .arg(format!("--advertise-client-urls=http://{}", self.client))
            .arg(format!("--listen-peer-urls=http://{}", self.peer))
            .arg(format!("--initial-advertise-peer-urls=http://{}", self.peer))
            .arg(format!("--discovery-token={token}"))
            .arg(format!("--discovery-endpoints={}", service.endpoint()))
            .args(args);
        command
    }

    fn start(&mut self, mut command: Command) {
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        self.child = Some(command.spawn().expect("a process"));
    }

    fn stop(&mut self) {
        let Some(mut child) = self.child.take() else { return };
        child.kill().expect("killing a child");
        child.wait().expect("waiting for a child");
    }

    /// A client, once the member serves.
    async fn connect(&self) -> Client {
        let connected = async {
            loop {
                if let Ok(client) = Client::try_connect(self.client).await {
                    // The sockets of a killed process may outlive it for a moment.
                    let range = pb::RangeRequest { key: "k".into(), ..Default::default() };
                    if client.call("/etcdserverpb.KV/Range", &range).await.code() == 0 {
                        return client;
                    }
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        let connected = tokio::time::timeout(PATIENCE, connected).await;
        connected.unwrap_or_else(|_| panic!("{} does not serve", self.name))
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.stop();
    }
}

async fn put(client: &Client, key: &str, value: &str) {
    let (key, value) = (Bytes::from(key.to_owned()), Bytes::from(value.to_owned()));
    let put = pb::PutRequest { key, value, ..Default::default() };
    let (code, text) = client.call("/etcdserverpb.KV/Put", &put).await.status();
    assert_eq!(code, 0, "{text}");
}

async fn set_size(client: &Client, token: &str, size: &str) {
    put(client, &format!("/_etcd/registry/{token}/_config/size"), size).await;
}

/// What members have reported under a token.
async fn reported(client: &Client, token: &str) -> Vec<(Bytes, Bytes)> {
    let key = format!("/_etcd/registry/{token}/members/");
    let mut end = key.clone().into_bytes();
    *end.last_mut().expect("a key") += 1;
    let range = pb::RangeRequest { key: key.into(), range_end: end.into(), ..Default::default() };
    let found: pb::RangeResponse = client.call("/etcdserverpb.KV/Range", &range).await.message();
    found.kvs.into_iter().map(|kv| (kv.key, kv.value)).collect()
}

/// Waits until so many have.
async fn wait_for_reports(client: &Client, token: &str, count: usize) -> Vec<(Bytes, Bytes)> {
    let waited = async {
        loop {
            let found = reported(client, token).await;
            if found.len() >= count {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, waited).await.expect("members report")
}

#[test]
fn members_find_each_other_at_a_discovery_service() {
    for kind in kinds() {
        let service = Server::start(kind, &[]);
        block_on(async {
            let registry = Client::connect(service.client).await;
            set_size(&registry, "t", "3").await;
            let mut members = ["a", "b", "c"].map(Member::new);
            for (count, member) in members.iter_mut().enumerate() {
                let command = member.command(Kind::Ringd, &service, "t", &[]);
                member.start(command);
                wait_for_reports(&registry, "t", count + 1).await;
            }
            let clients = [members[0].connect().await, members[2].connect().await];
            put(&clients[0], "k", "v").await;
            let range = pb::RangeRequest { key: "k".into(), ..Default::default() };
            let got = clients[1].call("/etcdserverpb.KV/Range", &range).await;
            let got = got.message::<pb::RangeResponse>();
            assert_eq!(got.kvs[0].value, "v");
            let list = clients[1]
                .call("/etcdserverpb.Cluster/MemberList", &pb::MemberListRequest::default())
                .await
                .message::<pb::MemberListResponse>();
            let mut names: Vec<_> = list.members.iter().map(|m| m.name.as_str()).collect();
            names.sort_unstable();
            assert_eq!(names, ["a", "b", "c"]);
            // The keys are named after the members.
            for member in &list.members {
                let found = reported(&registry, "t").await;
                let end = format!("/members/{:x}", member.id);
                assert!(found.iter().any(|(key, _)| key.ends_with(end.as_bytes())), "{end}");
            }

            // Started again, a member needs nobody who tells it where it belongs.
            members[1].stop();
            drop(registry);
            let nowhere = members[1].command(Kind::Ringd, &service, "other", &[]);
            members[1].start(nowhere);
            put(&members[1].connect().await, "k", "w").await;
        });

        for (token, size, text) in [
            ("t", None, "discovery: cluster is full"),
            ("unknown", None, "discovery: size key not found"),
            ("none", Some("0"), "discovery: size key is bad"),
        ] {
            block_on(async {
                let registry = Client::connect(service.client).await;
                if let Some(size) = size {
                    set_size(&registry, token, size).await;
                }
            });
            let late = Member::new("late");
            let ended = run_to_end(&mut late.command(Kind::Ringd, &service, token, &[]));
            assert_eq!(ended.status.code(), Some(1));
            let said = format!("failed to join discovery cluster ({text})");
            assert!(ended.log.iter().any(|line| line.contains(&said)), "{:#?}", ended.log);
        }
    }
}

#[test]
fn a_discovery_service_that_cannot_be_reached_is_waited_for() {
    for kind in kinds() {
        let mut service = Server::start(kind, &[]);
        block_on(async {
            set_size(&Client::connect(service.client).await, "t", "2").await;
        });
        service.kill();
        let mut members = ["a", "b"].map(Member::new);
        let said = members[0].dir.path().join("log");
        let mut command = members[0].command(Kind::Ringd, &service, "t", &[]);
        command.stdin(Stdio::null()).stdout(Stdio::null());
        command.stderr(File::create(&said).expect("a file"));
        members[0].child = Some(command.spawn().expect("a process"));
        // Before there is a connection, and again while it waits for the other.
        wait_for_retries(&said, 1);
        service.run().expect("it ran before");
        block_on(async {
            wait_for_reports(&Client::connect(service.client).await, "t", 1).await;
        });
        let retried = count_retries(&said);
        service.kill();
        wait_for_retries(&said, retried + 1);
        service.run().expect("it ran before");

        // The first of its endpoints is none.
        let [nobody, _] = free_ports();
        let endpoints = format!("--discovery-endpoints={nobody},{}", service.endpoint());
        let command = members[1].command(Kind::Ringd, &service, "t", &[&endpoints]);
        members[1].start(command);
        block_on(async {
            for member in &members {
                put(&member.connect().await, "k", &member.name).await;
            }
        });
    }
}

fn count_retries(log: &Path) -> usize {
    let log = fs::read_to_string(log).expect("a log");
    log.matches("retry connecting to discovery service").count()
}

fn wait_for_retries(log: &Path, count: usize) {
    let deadline = Instant::now() + PATIENCE;
    while count_retries(log) < count {
        assert!(Instant::now() < deadline, "it does not try again");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_member_reports_to_the_discovery_service_what_a_real_etcd_reports() {
    if etcd_or_skip("what is reported to the discovery service").is_none() {
        return;
    }
    let service = Server::start(Kind::Etcd, &[]);
    block_on(async {
        let registry = Client::connect(service.client).await;
        for urls in 1..=2 {
            // The same name and addresses, one after the other, under one token.
            let mut member = Member::new("m1");
            let token = format!("t{urls}");
            set_size(&registry, &token, "5").await;
            let more =
                format!("--initial-advertise-peer-urls=http://127.0.0.1:9,http://{}", member.peer);
            let args = if urls == 2 { vec![more.as_str()] } else { Vec::new() };
            let mut reports = Vec::new();
            for kind in [Kind::Etcd, Kind::Ringd] {
                let command = member.command(kind, &service, &token, &args);
                member.start(command);
                reports.push(wait_for_reports(&registry, &token, 1).await);
                member.stop();
                let key = reports[reports.len() - 1][0].0.clone();
                let delete = pb::DeleteRangeRequest { key, ..Default::default() };
                registry.call("/etcdserverpb.KV/DeleteRange", &delete).await;
            }
            assert_eq!(reports[0], reports[1]);
        }
    });
}

#[test]
fn a_discovery_service_may_ask_who_the_user_is() {
    for kind in kinds() {
        let service = Server::start(kind, &[]);
        block_on(async {
            let root = Client::connect(service.client).await;
            set_size(&root, "t", "1").await;
            let (name, password) = ("root".to_owned(), "secret".to_owned());
            let user =
                pb::AuthUserAddRequest { name: name.clone(), password, ..Default::default() };
            let grant = pb::AuthUserGrantRoleRequest { user: name.clone(), role: name.clone() };
            let calls: [(&str, Bytes); 4] = [
                ("RoleAdd", pb::AuthRoleAddRequest { name }.encode_to_vec().into()),
                ("UserAdd", user.encode_to_vec().into()),
                ("UserGrantRole", grant.encode_to_vec().into()),
                ("AuthEnable", Bytes::new()),
            ];
            for (rpc, body) in calls {
                let path = format!("/etcdserverpb.Auth/{rpc}");
                let frame = crate::client::frame(&body);
                let (code, text) = root.call_raw(&path, frame).await.status();
                assert_eq!(code, 0, "{rpc}: {text}");
            }
            let mut member = Member::new("alone");
            let user = ["--discovery-user=root:secret"];
            let command = member.command(Kind::Ringd, &service, "t", &user);
            member.start(command);
            put(&member.connect().await, "k", "v").await;
        });
    }
}
