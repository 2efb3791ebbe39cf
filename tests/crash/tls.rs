//! TLS between members.

use std::path::PathBuf;
use std::time::Duration;

use ringd::proto::etcdserverpb as pb;
use ringd::tls::authority::{Authority, Order};
use tempfile::TempDir;

use crate::block_on;
use crate::client::Client;
use crate::cluster::Cluster;
use crate::server::PATIENCE;

pub const HERE: &[&str] = &["127.0.0.1", "localhost"];

pub struct Pki {
    dir: TempDir,
    authority: Authority,
}

impl Pki {
    pub fn new() -> Pki {
        let pki = Pki { dir: TempDir::new().unwrap(), authority: Authority::new("members") };
        std::fs::write(pki.path("ca.pem"), pki.authority.certificate()).unwrap();
        pki
    }

    pub fn path(&self, file: &str) -> PathBuf {
        self.dir.path().join(file)
    }

    pub fn issue(&mut self, file: &str, order: &Order<'_>) {
        let issued = self.authority.issue(order);
        std::fs::write(self.path(&format!("{file}.pem")), issued.certificate).unwrap();
        std::fs::write(self.path(&format!("{file}-key.pem")), issued.key).unwrap();
    }

    pub fn flag(&self, flag: &str, file: &str) -> String {
        format!("--{flag}={}", self.path(file).display())
    }

    /// A certificate is shown and asked for.
    pub fn mutual(&self, file: &str) -> Vec<String> {
        vec![
            self.flag("peer-cert-file", &format!("{file}.pem")),
            self.flag("peer-key-file", &format!("{file}-key.pem")),
            self.flag("peer-trusted-ca-file", "ca.pem"),
            "--peer-client-cert-auth".to_owned(),
        ]
    }

    /// The same with another certificate for dialling.
    fn dialling_as(&self, file: &str, client: &str) -> Vec<String> {
        let mut args = self.mutual(file);
        args.push(self.flag("peer-client-cert-file", &format!("{client}.pem")));
        args.push(self.flag("peer-client-key-file", &format!("{client}-key.pem")));
        args
    }
}

pub fn launch(cluster: &mut Cluster, at: usize, args: &[String]) {
    let mut command = cluster.command(at);
    command.args(args);
    cluster.launch_as(at, command);
}

/// Tried until it succeeds: whoever led may just have been killed.
async fn put(cluster: &Cluster, at: usize, key: &str) {
    let client = Client::connect(cluster.members[at].client).await;
    let request =
        pb::PutRequest { key: key.to_owned().into(), value: "x".into(), ..Default::default() };
    let trying = async {
        while client.call("/etcdserverpb.KV/Put", &request).await.code() != 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, trying).await.expect("a majority accepts writes");
}

/// How many keys a member has, by its own account.
async fn count(cluster: &Cluster, at: usize) -> i64 {
    let client = Client::connect(cluster.members[at].client).await;
    let request = pb::RangeRequest {
        key: vec![0].into(),
        range_end: vec![0].into(),
        count_only: true,
        ..Default::default()
    };
    client.call("/etcdserverpb.KV/Range", &request).await.message::<pb::RangeResponse>().count
}

#[test]
fn members_with_certificates_form_a_cluster_that_another_one_joins() {
    let mut pki = Pki::new();
    pki.issue("member", &Order::new("member", HERE));
    let args = pki.mutual("member");
    let mut cluster = Cluster::stopped_secure(3, &["--peer-cert-allowed-cn=member,other"]);
    (0..3).for_each(|at| launch(&mut cluster, at, &args));
    (0..3).for_each(|at| cluster.wait_ready(at));
    block_on(async {
        put(&cluster, 0, "a").await;
        put(&cluster, 1, "b").await;
    });
    // One comes back.
    cluster.kill(2);
    block_on(put(&cluster, 0, "c"));
    launch(&mut cluster, 2, &args);
    cluster.wait_ready(2);
    assert_eq!(block_on(count(&cluster, 2)), 3);
    // And one is new. It asks the others who belongs to the cluster, over TLS.
    let at = cluster.prepare_joining("m3");
    block_on(async {
        let client = Client::connect(cluster.members[0].client).await;
        let request = pb::MemberAddRequest {
            peer_urls: vec![cluster.members[at].peer_url()],
            is_learner: false,
        };
        // Not before all have been heard for some seconds.
        for _ in 0..1000 {
            let reply = client.call("/etcdserverpb.Cluster/MemberAdd", &request).await;
            if reply.code() == 0 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("the member is never added");
    });
    launch(&mut cluster, at, &args);
    cluster.wait_ready(at);
    assert_eq!(block_on(count(&cluster, at)), 3);
}

#[test]
fn members_that_dial_with_the_wrong_certificate_are_refused_and_named() {
    let mut pki = Pki::new();
    pki.issue("member", &Order::new("member", HERE));
    pki.issue("elsewhere", &Order::new("member", &["10.9.9.9"]));
    // An address in disguise: the resolver knows it without asking anybody.
    pki.issue("named", &Order::new("member", &["0x0a090909"]));
    let good = pki.mutual("member");
    let mut cluster = Cluster::stopped_secure(3, &["--peer-cert-allowed-cn=member"]);
    (0..2).for_each(|at| launch(&mut cluster, at, &good));
    (0..2).for_each(|at| cluster.wait_ready(at));
    for (certificate, reasons) in [
        ("elsewhere", ["certificate is valid for 10.9.9.9, not 127.0.0.1", "10.9.9.9"]),
        ("named", ["does not match any of DNSNames [\\\"0x0a090909\\\"]", "127.0.0.1"]),
    ] {
        launch(&mut cluster, 2, &pki.dialling_as("member", certificate));
        // The one that answers for the leader's election, whoever of the two that is.
        for at in 0..2 {
            cluster.wait_for_line(at, reasons[0]);
            let log = cluster.log(at);
            let line = log.iter().find(|line| line.contains(reasons[0])).unwrap();
            assert!(line.contains("rejected connection on peer endpoint"), "{line}");
            assert!(line.contains("127.0.0.1:") && line.contains(reasons[1]), "{line}");
        }
        cluster.kill(2);
    }
    // One by one, they are told to take it from anywhere.
    for at in 0..2 {
        let mut lenient = good.clone();
        lenient.push("--peer-skip-client-san-verification".to_owned());
        cluster.kill(at);
        launch(&mut cluster, at, &lenient);
    }
    launch(&mut cluster, 2, &pki.dialling_as("member", "elsewhere"));
    (0..3).for_each(|at| cluster.wait_ready(at));
    block_on(put(&cluster, 2, "a"));
}

#[test]
fn members_that_are_nobody_here_are_refused_and_named() {
    let mut pki = Pki::new();
    pki.issue("member", &Order::new("member", HERE));
    pki.issue("other", &Order::new("stranger", HERE));
    let good = pki.mutual("member");
    let mut cluster = Cluster::stopped_secure(3, &[]);
    let mut strict = good.clone();
    strict.push("--peer-cert-allowed-cn=member".to_owned());
    (0..2).for_each(|at| launch(&mut cluster, at, &strict));
    (0..2).for_each(|at| cluster.wait_ready(at));
    launch(&mut cluster, 2, &pki.mutual("other"));
    // In both directions: who dials it finds out as well.
    for at in 0..2 {
        cluster.wait_for_line(
            at,
            "its common name \\\"stranger\\\" is not among the allowed ones (member)",
        );
        cluster.wait_for_line(at, "rejected connection on peer endpoint");
        cluster.wait_for_line(at, "cannot reach a peer; trying on");
    }
    cluster.kill(2);
    launch(&mut cluster, 2, &strict);
    cluster.wait_ready(2);
}

#[test]
fn members_make_certificates_for_themselves() {
    let mut cluster = Cluster::stopped_secure(3, &["--peer-auto-tls"]);
    (0..3).for_each(|at| cluster.launch(at));
    (0..3).for_each(|at| cluster.wait_ready(at));
    block_on(put(&cluster, 0, "a"));
    for at in 0..3 {
        let made = cluster.data_dir(at).join("fixtures/peer");
        assert!(made.join("cert.pem").is_file() && made.join("key.pem").is_file());
    }
    // Who speaks plaintext there is told of.
    use std::io::Write;
    let listen = cluster.members[0].peer_url().replace("https://", "");
    std::net::TcpStream::connect(listen).unwrap().write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    cluster.wait_for_line(0, "plaintext was sent to a TLS port");
}
