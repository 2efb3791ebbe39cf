//! JSON Web Tokens: what ringd signs a real etcd takes, and the other way round.

use ringd::proto::etcdserverpb as pb;

use crate::block_on;
use crate::client::{Client, frame};
use crate::server::{Ended, Kind, Server, etcd_or_skip, run_to_end};
use prost::Message;

fn key(name: &str) -> String {
    format!("{}/tests/wire/keys/{name}", env!("CARGO_MANIFEST_DIR"))
}

/// A server with user root, on which auth is enabled.
async fn start(kind: Kind, token: &str) -> (Server, Client) {
    let token = format!("--auth-token={token}");
    let server = Server::start(kind, &["--unsafe-no-fsync", "--bcrypt-cost=4", &token]);
    let client = Client::connect(server.client).await;
    let name = "root".to_owned();
    let user = pb::AuthUserAddRequest { name, password: "secret".to_owned(), ..Default::default() };
    let role = pb::AuthUserGrantRoleRequest { user: "root".to_owned(), role: "root".to_owned() };
    let done = client.call("/etcdserverpb.Auth/UserAdd", &user).await;
    assert_eq!(done.code(), 0, "{}", done.text());
    client.call("/etcdserverpb.Auth/UserGrantRole", &role).await;
    let done = client.call("/etcdserverpb.Auth/AuthEnable", &pb::AuthEnableRequest {}).await;
    assert_eq!(done.code(), 0, "{}", done.text());
    (server, client)
}

async fn log_in(client: &Client) -> Result<String, (i32, String)> {
    let (name, password) = ("root".to_owned(), "secret".to_owned());
    let request = pb::AuthenticateRequest { name, password };
    let reply = client.call("/etcdserverpb.Auth/Authenticate", &request).await;
    match reply.code() {
        0 => Ok(reply.message::<pb::AuthenticateResponse>().token),
        _ => Err(reply.status()),
    }
}

async fn read(client: &Client, name: &str, token: &str) -> (i32, String) {
    let request = pb::RangeRequest { key: "a".into(), ..Default::default() };
    let body = frame(&request.encode_to_vec());
    client.call_with("/etcdserverpb.KV/Range", &[(name, token)], body).await.status()
}

#[test]
fn tokens_of_each_kind_of_key_are_good_on_both_servers() {
    if etcd_or_skip("tokens").is_none() {
        return;
    }
    std::thread::scope(|scope| {
        for (method, private, public) in [
            ("HS384", "p256.pem", None),
            ("RS256", "rsa.pem", Some("rsa-public.pem")),
            ("PS512", "rsa-pkcs1.pem", Some("rsa-certificate.pem")),
            ("ES512", "p521.pem", Some("p521-public.pem")),
            ("EdDSA", "ed25519.pem", Some("ed25519-public.pem")),
        ] {
            scope.spawn(move || block_on(exchange(method, private, public)));
        }
    });
}

async fn exchange(method: &str, private: &str, public: Option<&str>) {
    let mut token = format!("jwt,sign-method={method},priv-key={},ttl=10m", key(private));
    if let Some(public) = public {
        token += &format!(",pub-key={}", key(public));
    }
    let (_ringd, ringd) = start(Kind::Ringd, &token).await;
    let (_etcd, etcd) = start(Kind::Etcd, &token).await;
    let of_ringd = log_in(&ringd).await.expect("a token");
    let of_etcd = log_in(&etcd).await.expect("a token");
    for client in [&ringd, &etcd] {
        for token in [&of_ringd, &of_etcd] {
            assert_eq!(read(client, "token", token).await, (0, String::new()), "{method}");
            let bearer = format!("Bearer {token}");
            assert_eq!(read(client, "authorization", &bearer).await, (0, String::new()));
        }
        let forged = of_etcd.replacen('.', ".A", 1);
        let refused = (16, "etcdserver: invalid auth token".to_owned());
        assert_eq!(read(client, "token", &forged).await, refused, "{method}");
    }
    // A change of roles makes tokens old.
    for client in [&ringd, &etcd] {
        let role = pb::AuthRoleAddRequest { name: "r".to_owned() };
        let body = frame(&role.encode_to_vec());
        let path = "/etcdserverpb.Auth/RoleAdd";
        assert_eq!(client.call_with(path, &[("token", &of_ringd)], body).await.code(), 0);
        let old = (3, "etcdserver: revision of auth store is old".to_owned());
        assert_eq!(read(client, "token", &of_ringd).await, old);
    }
}

#[test]
fn users_outlive_a_restart_however_the_server_ended() {
    let (mut server, _) = block_on(start(Kind::Ringd, "simple"));
    let refused = (3, "etcdserver: user name is empty".to_owned());
    block_on(async {
        let client = Client::connect(server.client).await;
        let token = log_in(&client).await.expect("a token");
        assert_eq!(read(&client, "token", &token).await.0, 0);
    });
    for kill in [true, false] {
        if kill {
            server.kill();
        } else {
            assert!(server.stop().success());
        }
        server.run().expect("it starts again");
        block_on(async {
            let client = Client::connect(server.client).await;
            assert_eq!(read(&client, "x", "").await, refused);
            let token = log_in(&client).await.expect("a token");
            assert_eq!(read(&client, "token", &token).await, (0, String::new()));
        });
    }
}

#[test]
fn a_server_with_the_public_key_alone_makes_no_tokens() {
    let token = format!("jwt,sign-method=ES256,pub-key={}", key("p256-public.pem"));
    for kind in crate::server::kinds() {
        block_on(async {
            let (_server, client) = start(kind, &token).await;
            let text = "auth: token signing attempted with verify-only key".to_owned();
            assert_eq!(log_in(&client).await, Err((2, text)), "{kind}");
        });
    }
}

#[test]
fn options_and_keys_that_make_no_sense_end_the_start_with_one_line() {
    let rsa = key("rsa.pem");
    for (token, what) in [
        ("nonsense".to_owned(), "must be simple, or jwt with its options"),
        ("jwt,ttl".to_owned(), "has an option that is not name=value: ttl"),
        ("jwt,ttl=1m,ttl=2m".to_owned(), "has the option ttl twice"),
        ("jwt,ttl=soon".to_owned(), "ttl"),
        (format!("jwt,priv-key={rsa}"), "invalid auth signature method"),
        ("jwt,sign-method=RS256".to_owned(), "missing key data"),
        (format!("jwt,sign-method=ES256,priv-key={rsa}"), "the private key cannot be read"),
        ("jwt,sign-method=RS256,priv-key=/nowhere".to_owned(), "/nowhere"),
    ] {
        let home = tempfile::TempDir::new().expect("a temporary directory");
        let binary = Kind::Ringd.binary().expect("the binary is there");
        let mut command = std::process::Command::new(binary);
        command
            .arg("--data-dir")
            .arg(home.path().join("data"))
            .arg("--listen-client-urls=http://127.0.0.1:0")
            .arg("--advertise-client-urls=http://127.0.0.1:0")
            .arg("--listen-peer-urls=http://127.0.0.1:0")
            .arg(format!("--auth-token={token}"));
        let Ended { status, log } = run_to_end(&mut command);
        assert!(!status.success(), "{token}");
        assert!(log.iter().any(|line| line.contains(what)), "{token}: {log:?}");
        assert!(!log.iter().any(|line| line.contains("panicked")), "{token}: {log:?}");
    }
}
