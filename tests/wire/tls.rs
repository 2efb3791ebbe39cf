//! TLS of the client port, with real sockets, a real etcdctl, and a real etcd to compare with.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;
use std::time::Instant;

use ringd::tls::authority::{Authority, Issued, Order};
use ringd::tls::{Content, Contents, Material, Pair, Policy, Rules, Version, dial};
use rustls::ClientConfig;
use tempfile::TempDir;

use crate::ports::free_ports;
use crate::server::{Kind, PATIENCE, Server, kinds, run_to_end, skip, tool};

/// Files of an authority and of those that it vouches for.
pub struct Pki {
    dir: TempDir,
    authority: Authority,
}

impl Pki {
    pub fn new() -> Pki {
        let pki = Pki { dir: TempDir::new().unwrap(), authority: Authority::new("test ca") };
        std::fs::write(pki.path("ca.pem"), pki.authority.certificate()).unwrap();
        pki
    }

    pub fn path(&self, file: &str) -> PathBuf {
        self.dir.path().join(file)
    }

    /// Writes `<file>.pem` and `<file>-key.pem`.
    pub fn issue(&mut self, file: &str, order: &Order<'_>) -> Issued {
        let issued = self.authority.issue(order);
        self.write(file, &issued);
        issued
    }

    fn write(&self, file: &str, issued: &Issued) {
        std::fs::write(self.path(&format!("{file}.pem")), &issued.certificate).unwrap();
        std::fs::write(self.path(&format!("{file}-key.pem")), &issued.key).unwrap();
    }

    /// A flag whose value is a file.
    pub fn flag(&self, flag: &str, file: &str) -> String {
        format!("--{flag}={}", self.path(file).display())
    }

    /// What a server with the certificate `server` needs that asks clients for one.
    pub fn mutual(&self) -> Vec<String> {
        vec![
            self.flag("cert-file", "server.pem"),
            self.flag("key-file", "server-key.pem"),
            self.flag("trusted-ca-file", "ca.pem"),
            "--client-cert-auth".to_owned(),
        ]
    }

    pub fn client(&self, own: Option<&Issued>) -> Dialler {
        Dialler::new(own, Some(self.authority.certificate()), Policy::default())
    }
}

pub fn start(kind: Kind, args: &[String]) -> Server {
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    Server::start_tls(kind, &args)
}

/// Connections as a client makes them, from bytes up.
pub struct Dialler(Material);

impl Dialler {
    fn new(own: Option<&Issued>, trusted: Option<String>, policy: Policy) -> Dialler {
        let content = |text: &str| Content { path: "of the test".to_owned(), bytes: text.into() };
        let contents = Contents {
            client_certificate: own
                .map(|own| Pair { certificate: content(&own.certificate), key: content(&own.key) }),
            trusted: trusted.as_deref().map(content),
            ..Contents::default()
        };
        let rules = Rules {
            is_self_signed: trusted.is_none(),
            protocols: vec![b"http/1.1"],
            ..Rules::default()
        };
        Dialler(Material::new(&contents, &rules, &policy).unwrap())
    }

    pub fn config(&self) -> Arc<ClientConfig> {
        self.0.client.clone()
    }

    /// The answer to a plain GET, or why there is none.
    fn get(&self, at: SocketAddr, path: &str) -> Result<String, String> {
        let socket = TcpStream::connect(at).map_err(|error| error.to_string())?;
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut stream = dial(self.0.client.clone(), "127.0.0.1", socket)?;
        let request = format!("GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
        let mut answer = Vec::new();
        let done = stream
            .write_all(request.as_bytes())
            .and_then(|()| stream.read_to_end(&mut answer).map(drop));
        done.map_err(|error| error.to_string())?;
        let answer = String::from_utf8(answer).unwrap();
        if answer.is_empty() { Err("closed without an answer".to_owned()) } else { Ok(answer) }
    }

    pub fn is_served(&self, at: SocketAddr) -> bool {
        self.get(at, "/version").is_ok_and(|answer| answer.starts_with("HTTP/1.1 200"))
    }
}

/// Waits until something that was begun has shown itself.
fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(started.elapsed() < PATIENCE, "in vain: {what}");
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
}

fn wait_for_line(server: &Server, parts: &[&str]) -> String {
    let has = |line: &String| parts.iter().all(|part| line.contains(part));
    wait_for(&format!("a line with {parts:?}"), || server.log().into_iter().find(has))
}

fn etcdctl(server: &Server, options: &[String], command: &[&str]) -> Option<Output> {
    let mut etcdctl = Command::new(tool("etcdctl")?);
    // What comes later wins: a command may be given less time.
    etcdctl.arg(format!("--endpoints=https://{}", server.client)).arg("--command-timeout=20s");
    Some(etcdctl.args(options).args(command).output().expect("etcdctl runs"))
}

fn text(output: &[u8]) -> String {
    String::from_utf8_lossy(output).into_owned()
}

#[test]
fn etcdctl_speaks_tls_with_a_certificate_of_its_own() {
    let mut pki = Pki::new();
    pki.issue("server", &Order::new("server", &["localhost", "127.0.0.1"]));
    pki.issue("alice", &Order::new("alice", &[]));
    let trusting = pki.flag("cacert", "ca.pem");
    let own = [trusting.clone(), pki.flag("cert", "alice.pem"), pki.flag("key", "alice-key.pem")];
    for kind in kinds() {
        let server = start(kind, &pki.mutual());
        let run = |options: &[String], command: &[&str]| etcdctl(&server, options, command);
        let Some(put) = run(&own, &["put", "greeting", "hello"]) else {
            return skip(
                "etcdctl over TLS",
                "no etcdctl (tests/tools/build makes it, and needs Go)",
            );
        };
        assert_eq!(text(&put.stdout), "OK\n", "{kind}: {}", text(&put.stderr));
        let get = run(&own, &["get", "greeting"]).unwrap();
        assert_eq!(text(&get.stdout), "greeting\nhello\n", "{kind}");
        let large = "x".repeat(1_000_000);
        let put = run(&own, &["put", "large", &large[..100_000]]).unwrap();
        assert!(put.status.success(), "{kind}: {}", text(&put.stderr));
        let get = run(&own, &["get", "large", "--print-value-only"]).unwrap();
        assert_eq!(text(&get.stdout).trim(), &large[..100_000], "{kind}");
        let health = run(&own, &["endpoint", "health"]).unwrap();
        assert!(text(&health.stdout).contains("is healthy"), "{kind}");
        let options = [trusting.clone(), "--dial-timeout=1s".to_owned()];
        let without = run(&options, &["--command-timeout=1s", "get", "greeting"]).unwrap();
        assert!(!without.status.success(), "{kind} takes a client without a certificate");
    }
}

#[test]
fn the_common_name_of_a_certificate_is_a_user() {
    let mut pki = Pki::new();
    pki.issue("server", &Order::new("server", &["127.0.0.1"]));
    for name in ["root", "alice", "nobody"] {
        pki.issue(name, &Order::new(name, &[]));
    }
    let as_user = |name: &str| {
        [
            pki.flag("cacert", "ca.pem"),
            pki.flag("cert", &format!("{name}.pem")),
            pki.flag("key", &format!("{name}-key.pem")),
        ]
    };
    for kind in kinds() {
        let server = start(kind, &pki.mutual());
        for line in [
            "user add root --no-password",
            "user add alice --no-password",
            "role add root",
            "role add reader",
            "role grant-permission reader readwrite a",
            "user grant-role root root",
            "user grant-role alice reader",
            "auth enable",
        ] {
            let command: Vec<&str> = line.split(' ').collect();
            let Some(done) = etcdctl(&server, &as_user("root"), &command) else {
                return skip(
                    "common names",
                    "no etcdctl (tests/tools/build makes it, and needs Go)",
                );
            };
            assert!(done.status.success(), "{kind}: {line}: {}", text(&done.stderr));
        }
        let put = |user: &str, key: &str| {
            let put = etcdctl(&server, &as_user(user), &["put", key, "x"]).unwrap();
            text(&put.stdout) + &text(&put.stderr)
        };
        assert_eq!(put("alice", "a"), "OK\n", "{kind}");
        assert!(put("alice", "b").contains("permission denied"), "{kind}");
        assert!(!put("nobody", "a").contains("OK"), "{kind}");
        assert_eq!(put("root", "b"), "OK\n", "{kind}");
    }
}

#[test]
fn whose_certificate_is_taken_is_what_etcd_takes() {
    let mut pki = Pki::new();
    pki.issue("server", &Order::new("server", &["127.0.0.1"]));
    let alice = pki.issue("alice", &Order::new("alice", &["alice.example"]));
    let bob = pki.issue("bob", &Order::new("bob", &["bob.example"]));
    let revoked = pki.issue("eve", &Order::new("eve", &["alice.example"]));
    let old = pki.issue("old", &Order { has_expired: true, ..Order::new("o", &["alice.example"]) });
    let foreign = Authority::new("other").issue(&Order::new("alice", &["alice.example"]));
    let (der, _) = pki.authority.revoke(&[revoked.serial]);
    std::fs::write(pki.path("crl.der"), der).unwrap();
    let mut args = pki.mutual();
    args.push(pki.flag("client-crl-file", "crl.der"));
    args.push("--client-cert-allowed-hostname=x.example,alice.example".to_owned());
    for kind in kinds() {
        let server = start(kind, &args);
        let is_served = |own| pki.client(own).is_served(server.client);
        assert!(is_served(Some(&alice)), "{kind}");
        for (who, own, reason) in [
            ("without a certificate", None, "didn't provide a certificate"),
            ("another name", Some(&bob), "bob.example"),
            ("revoked", Some(&revoked), "certificate serial 04 revoked"),
            ("expired", Some(&old), "expired"),
            ("of another authority", Some(&foreign), "signed by unknown authority"),
        ] {
            assert!(!is_served(own), "{kind} serves a client {who}");
            if kind == Kind::Ringd {
                let parts = ["rejected connection on client endpoint", "127.0.0.1:", reason];
                wait_for_line(&server, &parts);
            }
        }
        assert!(is_served(Some(&alice)), "{kind}");
    }
}

/// For etcd it can be said in a file alone.
#[test]
fn only_clients_with_an_allowed_common_name_are_served() {
    let mut pki = Pki::new();
    pki.issue("server", &Order::new("server", &["127.0.0.1"]));
    let alice = pki.issue("alice", &Order::new("alice", &["127.0.0.1"]));
    let bob = pki.issue("bob", &Order::new("bob", &["127.0.0.1"]));
    let mut args = pki.mutual();
    args.push("--ringd-client-cert-allowed-cn=carol,alice".to_owned());
    let server = start(Kind::Ringd, &args);
    let is_served = |own| pki.client(Some(own)).is_served(server.client);
    assert!(is_served(&alice));
    assert!(!is_served(&bob));
    let reason = "is not among the allowed ones (carol, alice)";
    wait_for_line(&server, &["rejected connection on client endpoint", "127.0.0.1:", reason]);
    assert!(is_served(&alice));
}

#[test]
fn ghsa_3wh4_j44w_pg92_revoked_certificates_are_refused_on_every_listener() {
    let mut pki = Pki::new();
    pki.issue("server", &Order::new("server", &["127.0.0.1"]));
    let good = pki.issue("good", &Order::new("good", &["127.0.0.1"]));
    let bad = pki.issue("bad", &Order::new("bad", &["127.0.0.1"]));
    let (_, pem) = pki.authority.revoke(&[bad.serial]);
    std::fs::write(pki.path("crl.pem"), pem).unwrap();
    let [metrics, peer] = free_ports();
    let mut args = pki.mutual();
    args.extend([
        pki.flag("client-crl-file", "crl.pem"),
        format!("--listen-metrics-urls=https://{metrics}"),
        format!("--listen-peer-urls=https://{peer}"),
        pki.flag("peer-cert-file", "server.pem"),
        pki.flag("peer-key-file", "server-key.pem"),
        pki.flag("peer-trusted-ca-file", "ca.pem"),
        pki.flag("peer-crl-file", "crl.pem"),
    ]);
    let server = start(Kind::Ringd, &args);
    let get = |own, at| pki.client(Some(own)).get(at, "/metrics");
    for at in [server.client, metrics] {
        assert!(get(&good, at).unwrap().starts_with("HTTP/1.1 200"));
        get(&bad, at).unwrap_err();
        wait_for_line(&server, &["rejected connection on client endpoint", "serial 03 revoked"]);
    }
    // Members speak a protocol of their own; that they may speak at all is what is seen.
    get(&bad, peer).unwrap_err();
    wait_for_line(&server, &["rejected connection on peer endpoint", "serial 03 revoked"]);
    get(&good, peer).unwrap_err();
    wait_for_line(&server, &["closed a connection from a peer"]);
}

#[test]
fn ghsa_6vch_q96h_7gc3_a_handshake_that_stalls_ends_and_holds_nobody_up() {
    let mut pki = Pki::new();
    pki.issue("server", &Order::new("server", &["127.0.0.1"]));
    let own = pki.issue("own", &Order::new("own", &[]));
    let mut args = pki.mutual();
    args.push("--ringd-tls-handshake-timeout=300ms".to_owned());
    let server = start(Kind::Ringd, &args);
    let mut stalled: Vec<TcpStream> =
        (0..50).map(|_| TcpStream::connect(server.client).unwrap()).collect();
    // Some begin, and never go on: a record is announced that does not come.
    for socket in stalled.iter_mut().step_by(2) {
        socket.write_all(&[0x16, 3, 1, 2, 0, 1]).unwrap();
    }
    assert!(pki.client(Some(&own)).is_served(server.client));
    for socket in &mut stalled {
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut rest = Vec::new();
        // The server's end, whether it is a FIN or a reset.
        drop(socket.read_to_end(&mut rest));
        assert!(rest.is_empty());
    }
    wait_for_line(&server, &["rejected connection on client endpoint", "handshake timeout"]);
}

#[test]
fn who_speaks_the_wrong_protocol_is_told_of_in_one_line() {
    let mut pki = Pki::new();
    pki.issue("server", &Order::new("server", &["127.0.0.1"]));
    let secure = start(Kind::Ringd, &pki.mutual());
    let mut plain = TcpStream::connect(secure.client).unwrap();
    plain.write_all(b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    plain.set_read_timeout(Some(PATIENCE)).unwrap();
    drop(plain.read_to_end(&mut Vec::new()));
    wait_for_line(
        &secure,
        &["rejected connection on client endpoint", "plaintext was sent to a TLS port"],
    );
    let insecure = Server::start(Kind::Ringd, &[]);
    pki.client(None).get(insecure.client, "/version").unwrap_err();
    wait_for_line(
        &insecure,
        &["rejected connection on client endpoint", "the other end speaks TLS", "127.0.0.1:"],
    );
}

#[test]
fn old_versions_are_refused_where_they_are_not_wanted() {
    let mut pki = Pki::new();
    pki.issue("server", &Order::new("server", &["127.0.0.1"]));
    let args = [
        pki.flag("cert-file", "server.pem"),
        pki.flag("key-file", "server-key.pem"),
        "--tls-min-version=TLS1.3".to_owned(),
    ];
    let of = |min, max| {
        let policy = Policy::new(min, max, Vec::new()).unwrap();
        Dialler::new(None, Some(pki.authority.certificate()), policy)
    };
    for kind in kinds() {
        let server = start(kind, &args);
        assert!(of(Version::Tls13, Version::Tls13).is_served(server.client), "{kind}");
        assert!(!of(Version::Tls12, Version::Tls12).is_served(server.client), "{kind}");
    }
    let suite = [
        args[0].clone(),
        args[1].clone(),
        "--tls-max-version=TLS1.2".to_owned(),
        "--cipher-suites=TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256".to_owned(),
    ];
    for kind in kinds() {
        let server = start(kind, &suite);
        assert!(of(Version::Tls12, Version::Tls12).is_served(server.client), "{kind}");
        assert!(!of(Version::Tls13, Version::Tls13).is_served(server.client), "{kind}");
    }
}

#[test]
fn a_certificate_that_the_server_makes_for_itself_stays() {
    let data = TempDir::new().unwrap();
    for kind in kinds() {
        let data_dir = data.path().join(kind.to_string());
        let mut server = Server::start_tls_at(kind, &["--auto-tls"], &data_dir);
        let options =
            ["--insecure-skip-tls-verify", "--insecure-transport=false"].map(str::to_owned);
        if let Some(put) = etcdctl(&server, &options, &["put", "k", "v"]) {
            assert_eq!(text(&put.stdout), "OK\n", "{kind}: {}", text(&put.stderr));
        }
        let made = data_dir.join("fixtures/client");
        let read = |file: &str| std::fs::read(made.join(file)).unwrap();
        let certificate = read("cert.pem");
        let key = read("key.pem");
        // It can be trusted by who has it.
        let trusted = String::from_utf8(certificate.clone()).unwrap();
        if kind == Kind::Ringd {
            let dialler = Dialler::new(None, Some(trusted), Policy::default());
            assert!(dialler.is_served(server.client));
        }
        server.stop();
        server.run().unwrap();
        assert_eq!((read("cert.pem"), read("key.pem")), (certificate, key), "{kind}");
    }
}

#[test]
fn files_that_change_are_taken_together_or_not_at_all() {
    let mut pki = Pki::new();
    pki.issue("server", &Order::new("server", &["127.0.0.1"]));
    let old_client = pki.issue("client", &Order::new("client", &[]));
    let mut args = pki.mutual();
    pki.authority.revoke(&[]);
    std::fs::write(pki.path("crl.pem"), pki.authority.revoke(&[]).1).unwrap();
    args.push(pki.flag("client-crl-file", "crl.pem"));
    let server = start(Kind::Ringd, &args);
    assert!(pki.client(Some(&old_client)).is_served(server.client));
    let expiry = |dialler: &Dialler| {
        let metrics = dialler.get(server.client, "/metrics").unwrap();
        let name = "ringd_tls_certificate_expiry_seconds{file=\"cert-file\"} ";
        let line = metrics.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap().parse::<i64>().unwrap()
    };
    assert!(expiry(&pki.client(Some(&old_client))) > 365 * 86_400);

    // Half a set: a certificate without its key.
    let other = Authority::new("next").issue(&Order::new("server", &["127.0.0.1"]));
    std::fs::write(pki.path("server.pem"), &other.certificate).unwrap();
    let refused = "certificates have changed and cannot be used; the old ones stay in use";
    let line = wait_for_line(&server, &[refused, "the private key is not that of the certificate"]);
    assert!(line.contains("server.pem"), "{line}");
    assert!(pki.client(Some(&old_client)).is_served(server.client));

    // All of another authority, which etcd would not take.
    let old = std::mem::replace(&mut pki, Pki::new());
    let next_server = pki.issue("server", &Order::new("server", &["127.0.0.1"]));
    let next_client = pki.issue("client", &Order::new("client", &[]));
    old.write("server", &next_server);
    std::fs::write(old.path("ca.pem"), pki.authority.certificate()).unwrap();
    wait_for_line(&server, &["certificates have changed; new connections use the new ones"]);
    wait_for("the new certificates", || {
        pki.client(Some(&next_client)).is_served(server.client).then_some(())
    });
    assert!(!old.client(Some(&old_client)).is_served(server.client));
    assert!(!pki.client(Some(&old_client)).is_served(server.client));

    // Who is revoked now is refused from now on.
    let (_, pem) = pki.authority.revoke(&[next_client.serial]);
    std::fs::write(old.path("crl.pem"), pem).unwrap();
    wait_for("the revocation", || {
        (!pki.client(Some(&next_client)).is_served(server.client)).then_some(())
    });
}

#[test]
fn files_that_cannot_be_used_are_one_line_and_no_server() {
    let mut pki = Pki::new();
    pki.issue("a", &Order::new("a", &["127.0.0.1"]));
    pki.issue("b", &Order::new("b", &["127.0.0.1"]));
    std::fs::write(pki.path("empty.pem"), "").unwrap();
    let of = |certificate: &str, key: &str, more: &[String]| -> (Vec<String>, PathBuf) {
        let mut args = vec![pki.flag("cert-file", certificate), pki.flag("key-file", key)];
        args.extend_from_slice(more);
        (args, pki.path(certificate))
    };
    let trusted = |file: &str| [pki.flag("trusted-ca-file", file)];
    for ((args, path), reason) in [
        (of("none.pem", "a-key.pem", &[]), "No such file"),
        (of("a.pem", "b-key.pem", &[]), "the private key is not that of the certificate"),
        (of("empty.pem", "a-key.pem", &[]), "has no certificate in it"),
        (of("a.pem", "a-key.pem", &trusted("empty.pem")), "empty.pem: has no certificate in it"),
    ] {
        let home = TempDir::new().unwrap();
        let ended = run_to_end(&mut command(home.path(), &args));
        assert_eq!(ended.status.code(), Some(1), "{ended:?}");
        let last = ended.log.last().unwrap();
        assert!(last.contains(reason), "{last}");
        assert!(last.contains(path.to_str().unwrap()) || reason.contains("empty.pem"), "{last}");
        assert!(!home.path().join("data").exists(), "nothing has been made yet");
    }
}

fn command(home: &Path, args: &[String]) -> Command {
    let [client, peer] = free_ports();
    let mut command = Command::new(Kind::Ringd.binary().unwrap());
    command
        .arg(format!("--data-dir={}", home.join("data").display()))
        .arg(format!("--listen-client-urls=https://{client}"))
        .arg(format!("--advertise-client-urls=https://{client}"))
        .arg(format!("--listen-peer-urls=http://{peer}"))
        .args(args);
    command
}
