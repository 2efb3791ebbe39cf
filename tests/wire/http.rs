//! HTTP/1.1 on the client port: the same answers as a real etcd's.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};

use crate::server::{Kind, PATIENCE, Server, etcd_or_skip, kinds};

#[derive(Debug, PartialEq, Eq)]
pub struct Response {
    pub status: u16,
    /// Name in lower case, value.
    pub headers: Vec<(String, String)>,
    pub body: String,
}

pub fn get(addr: SocketAddr, path: &str) -> Response {
    request(addr, &format!("GET {path} HTTP/1.1\r\nHost: {addr}\r\nConnection: close\r\n\r\n"))
}

/// Sends bytes, and reads until the server closes the connection.
pub fn request(addr: SocketAddr, request: &str) -> Response {
    let mut tcp = TcpStream::connect(addr).expect("a connection");
    tcp.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    tcp.write_all(request.as_bytes()).expect("a request is sent");
    let mut answer = Vec::new();
    tcp.read_to_end(&mut answer).expect("an answer");
    let answer = String::from_utf8_lossy(&answer);
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
    let mut lines = head.lines();
    let status = lines.next().and_then(|line| line.split(' ').nth(1)?.parse().ok());
    let headers = lines.filter_map(|line| line.split_once(": "));
    let headers = headers.map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()));
    Response {
        status: status.expect("a status"),
        headers: headers.collect(),
        body: body.to_owned(),
    }
}

impl Response {
    /// Without the date; and the checks are in the order of a Go map, that is in none.
    fn normal(mut self) -> Response {
        self.headers.retain(|(name, _)| name != "date");
        self.headers.sort();
        let mut lines: Vec<&str> = self.body.split_inclusive('\n').collect();
        lines.sort_unstable();
        self.body = lines.concat();
        self
    }
}

#[test]
fn http_answers_are_those_of_a_real_etcd() {
    if etcd_or_skip("http").is_none() {
        return;
    }
    let [ringd, etcd] = [Kind::Ringd, Kind::Etcd].map(|kind| Server::start(kind, &[]));
    let requests = [
        ("GET", "/health"),
        ("GET", "/health?serializable=true"),
        ("GET", "/health?serializable=false"),
        ("GET", "/health?exclude=NOSPACE"),
        ("GET", "/health?exclude=CORRUPT&exclude=NOSPACE"),
        ("POST", "/health"),
        ("GET", "/livez"),
        ("GET", "/livez?verbose"),
        ("GET", "/livez/serializable_read"),
        ("GET", "/livez/nonsense"),
        ("GET", "/livez?exclude=serializable_read&verbose"),
        ("GET", "/livez?exclude=nonsense"),
        ("GET", "/readyz"),
        ("GET", "/readyz?verbose"),
        ("GET", "/readyz/data_corruption"),
        ("GET", "/readyz/linearizable_read"),
        ("GET", "/readyz?exclude=linearizable_read&verbose"),
        ("POST", "/readyz"),
        ("GET", "/nonsense"),
        ("GET", "/"),
        ("POST", "/version"),
        ("HEAD", "/version"),
        ("POST", "/nonsense"),
        ("OPTIONS", "/health"),
        ("OPTIONS", "/nonsense"),
    ];
    for (method, path) in requests {
        let send = |server: &Server| {
            let addr = server.client;
            let head = format!("{method} {path} HTTP/1.1\r\nHost: {addr}\r\nConnection: close\r\n");
            request(addr, &format!("{head}Content-Length: 0\r\n\r\n")).normal()
        };
        assert_eq!(send(&ringd), send(&etcd), "{method} {path}");
    }
    // Etcd learns some of its versions after its start.
    let version = get(ringd.client, "/version");
    assert_eq!(version.body, r#"{"etcdserver":"3.7.1","etcdcluster":"3.7.0","storage":"3.7.0"}"#);
}

#[test]
fn odd_heads_harm_nobody() {
    let server = Server::start(Kind::Ringd, &[]);
    let heads: &[&[u8]] = &[
        b"GET ?x HTTP/1.1\r\n\r\n",
        b"GET * HTTP/1.1\r\n\r\n",
        b"OPTIONS * HTTP/1.1\r\n\r\n",
        b"GET // HTTP/1.1\r\n\r\n",
        b"GET \xc3\xa9 HTTP/1.1\r\n\r\n",
        b"GET /\xff?\xff=\xff HTTP/1.1\r\n\r\n",
        b"GET /livez/ HTTP/1.1\r\n\r\n",
        b"GET /livez/\xc3\xa9/x HTTP/1.1\r\n\r\n",
        b"GET /health?exclude HTTP/1.1\r\n\r\n",
        b"GET /health?=&&=x&exclude==== HTTP/1.1\r\n\r\n",
        b"GET http://other/health HTTP/1.1\r\n\r\n",
        b"GET /health HTTP/9.9\r\n\r\n",
        b"GET /health\r\n\r\n",
        b" \r\n\r\n",
        b"\r\n\r\n\r\n",
        b"\0\0\0\0",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc",
        b"PRI * HTTP/1.1\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n",
        b"PRI",
    ];
    for head in heads {
        let mut tcp = TcpStream::connect(server.client).expect("a connection");
        tcp.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        let _ = tcp.write_all(head);
        let _ = tcp.shutdown(Shutdown::Write);
        // Answered or not, the connection ends.
        let _ = tcp.read_to_end(&mut Vec::new());
        assert_eq!(get(server.client, "/health").status, 200, "{head:?}");
    }
}

#[test]
fn metrics_have_the_names_that_others_read() {
    for kind in kinds() {
        let server = Server::start(kind, &[]);
        let metrics = get(server.client, "/metrics").body;
        for name in [
            "etcd_server_has_leader 1",
            "etcd_server_is_leader 1",
            "etcd_server_version{server_version=\"3.7.1\"} 1",
            "etcd_disk_wal_fsync_duration_seconds_count",
            "etcd_disk_backend_commit_duration_seconds_count",
            "etcd_mvcc_db_total_size_in_bytes",
            "process_resident_memory_bytes",
        ] {
            assert!(metrics.contains(name), "{kind}: {name} is missing");
        }
    }
}

#[test]
fn http_and_grpc_may_have_places_of_their_own() {
    let [_, http] = crate::ports::free_ports();
    for kind in kinds() {
        let urls = format!("--listen-client-http-urls=http://{http}");
        let server = Server::start(kind, &[&urls]);
        assert_eq!(get(http, "/health").status, 200, "{kind}");
        let version = get(http, "/version");
        assert_eq!(version.status, 200, "{kind}");
        // Where gRPC is alone, HTTP/1.1 is not answered.
        let mut tcp = TcpStream::connect(server.client).expect("a connection");
        tcp.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        tcp.write_all(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n").expect("a request is sent");
        let mut answer = Vec::new();
        let _ = tcp.read_to_end(&mut answer);
        assert!(!answer.starts_with(b"HTTP/1.1 200"), "{kind}: {answer:?}");
        assert!(server.log().iter().any(|line| line.contains("\"traffic\":\"grpc\"")), "{kind}");
    }
}

#[test]
fn clients_may_come_by_a_unix_socket() {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let path = folder.path().join("client");
    // The last of a flag counts.
    let url = format!("--listen-client-urls=unix://{}", path.display());
    let mut server = Server::start(Kind::Ringd, &[&url]);
    let mut socket = std::os::unix::net::UnixStream::connect(&path).expect("a connection");
    socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    socket
        .write_all(b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        .expect("a request is sent");
    let mut answer = String::new();
    socket.read_to_string(&mut answer).expect("an answer");
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    server.stop();
}

#[test]
fn debug_vars_are_json_with_what_etcd_has_in_it() {
    let server = Server::start(Kind::Ringd, &[]);
    let response = get(server.client, "/debug/vars");
    assert_eq!(response.status, 200);
    let vars: serde_json::Value = serde_json::from_str(&response.body).expect("JSON");
    assert!(vars["cmdline"][0].as_str().is_some_and(|program| program.ends_with("ringd")));
    assert!(vars["file_descriptor_limit"].as_u64() > Some(0));
    assert_eq!(vars["raft.status"]["raftState"], "StateLeader");
    assert_eq!(vars["raft.status"]["id"], vars["raft.status"]["lead"]);
}

/// Which doors a flag opens, and the kind of what is behind them, are etcd's; where only Go has a profile, it is said.
#[test]
fn pages_for_debugging_are_where_etcd_has_them() {
    const OPEN: [&str; 5] = [
        "/debug/pprof",
        "/debug/pprof/",
        "/debug/pprof/cmdline",
        "/debug/pprof/nonsense",
        "/debug/nonsense",
    ];
    const TRACES: [&str; 2] = ["/debug/requests", "/debug/events"];
    let kind_of = |server: &Server, path: &str| {
        let Response { status, headers, .. } = get(server.client, path);
        let named = |wanted: &str| headers.iter().find(|(name, _)| name == wanted).cloned();
        (status, ["content-type", "location", "x-go-pprof"].map(named))
    };
    for args in [&[][..], &["--enable-pprof"], &["--log-level=debug"]] {
        let servers: Vec<Server> = kinds().into_iter().map(|k| Server::start(k, args)).collect();
        for path in OPEN.iter().chain(&TRACES) {
            let found: Vec<_> = servers.iter().map(|server| kind_of(server, path)).collect();
            assert!(found.iter().all(|one| *one == found[0]), "{args:?} {path}: {found:?}");
        }
        let [profile, heap] = ["/debug/pprof/profile?seconds=1", "/debug/pprof/heap"]
            .map(|path| get(servers[0].client, path));
        assert_eq!(profile.status, if args.is_empty() { 404 } else { 501 });
        assert_eq!(profile.body.contains("perf record"), !args.is_empty());
        assert_eq!(heap.body.contains("process_resident_memory_bytes"), !args.is_empty());
    }
    let server = Server::start(Kind::Ringd, &["--log-level=debug"]);
    crate::block_on(async {
        let client = crate::client::Client::connect(server.client).await;
        let put = ringd::proto::etcdserverpb::PutRequest {
            key: "name".into(),
            value: "secret".into(),
            ..Default::default()
        };
        assert_eq!(client.call("/etcdserverpb.KV/Put", &put).await.code(), 0);
    });
    let page = get(server.client, "/debug/requests").body;
    assert!(page.contains("/etcdserverpb.KV/Put"), "{page}");
    assert!(!page.contains("secret"), "{page}");
    let command_line = get(server.client, "/debug/pprof/cmdline").body;
    assert!(command_line.split('\0').any(|arg| arg == "--log-level=debug"), "{command_line:?}");
}
