//! The JSON gateway: the same answers as a real etcd's, byte for byte, but for the spaces that Go's encoder draws.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use crate::http::request;
use crate::server::{Kind, PATIENCE, Server, etcd_or_skip};

fn post(addr: SocketAddr, path: &str, body: &str) -> String {
    let head = format!("POST {path} HTTP/1.1\r\nHost: {addr}\r\nConnection: close\r\n");
    let response = request(addr, &format!("{head}Content-Length: {}\r\n\r\n{body}", body.len()));
    let mut headers = response.headers;
    // A length is told, or the body comes in chunks: Go does the first up to 2 KiB.
    let is_chunked = headers.contains(&("transfer-encoding".into(), "chunked".into()));
    let volatile = ["date", "content-length", "transfer-encoding"];
    headers.retain(|(name, _)| !volatile.contains(&name.as_str()));
    headers.sort();
    let body = if is_chunked { dechunk(&response.body) } else { response.body };
    format!("{} {headers:?}\n{}", response.status, normal(&body))
}

pub fn dechunk(mut rest: &str) -> String {
    let mut body = String::new();
    while let Some((len, after)) = rest.split_once("\r\n") {
        let len = usize::from_str_radix(len, 16).expect("the length of a chunk");
        body.push_str(&after[..len]);
        rest = after[len..].strip_prefix("\r\n").expect("the end of a chunk");
    }
    body
}

/// Without the spaces that Go puts behind commas or does not, and without what differs between any two servers.
pub fn normal(body: &str) -> String {
    // The key of a session that the server has made.
    if body.contains("\"key\":\"Lz") {
        return "a key below a slash".to_owned();
    }
    let mut out = String::new();
    let (mut in_string, mut escaped, mut after_comma) = (false, false, false);
    for c in body.chars() {
        if c == ' ' && after_comma && !in_string {
            continue;
        }
        after_comma = c == ',';
        if c == '"' && !escaped {
            in_string = !in_string;
        }
        escaped = c == '\\' && !escaped;
        out.push(c);
    }
    // The build of etcd has drawn which space it puts here.
    out = out.replace("proto:\u{a0}", "proto: ");
    for name in ["raft_term", "raftTerm", "raftIndex", "raftAppliedIndex", "dbSize", "dbSizeInUse"]
    {
        let mark = format!("\"{name}\":\"");
        let mut parts = out.split(&mark);
        let mut cleaned = parts.next().unwrap_or_default().to_owned();
        for part in parts {
            let rest = part.split_once('"').map_or("", |(_, rest)| rest);
            cleaned.push_str(&format!("{mark}-\"{rest}"));
        }
        out = cleaned;
    }
    out
}

/// The lines of a stream, as many as asked for, while it goes on.
struct Stream {
    tcp: TcpStream,
    seen: Vec<u8>,
}

impl Stream {
    fn open(addr: SocketAddr, path: &str, body: &str) -> Stream {
        let mut tcp = TcpStream::connect(addr).expect("a connection");
        tcp.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        let len = body.len();
        let head =
            format!("POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len}\r\n\r\n{body}");
        tcp.write_all(head.as_bytes()).expect("a request is sent");
        Stream { tcp, seen: Vec::new() }
    }

    fn lines(&mut self, count: usize) -> Vec<String> {
        loop {
            let text = String::from_utf8_lossy(&self.seen);
            let lines: Vec<_> = text.lines().filter(|line| line.starts_with('{')).collect();
            if lines.len() >= count {
                return lines[..count].iter().map(|line| normal(line)).collect();
            }
            let mut piece = [0; 4096];
            let got = self.tcp.read(&mut piece).expect("more of the stream");
            assert!(got > 0, "the stream ended: {text}");
            self.seen.extend_from_slice(&piece[..got]);
        }
    }
}

/// In this order: each finds what those before have left.
const REQUESTS: &[(&str, &str)] = &[
    ("/v3/kv/put", r#"{"key":"Zm9v","value":"YmFy","prev_kv":true}"#),
    ("/v3/kv/put", r#"{"key":"Zm9v","value":"PGE+Jg==","prevKv":true}"#),
    ("/v3/kv/put", r#"{"key":"Zm9vMg","value":"_-8"}"#),
    ("/v3beta/kv/put", r#"{"key":"Zm9vMw==","value":"","nonsense":[1,{"a":[]}]}"#),
    ("/v3/kv/range", r#"{"key":"Zm9v"}"#),
    ("/v3/kv/range", r#"{"key":"Zm9v","range_end":"Zm9w","limit":2}"#),
    (
        "/v3/kv/range",
        r#"{"key":"Zm9v","range_end":"Zm9w","sort_order":"DESCEND","sort_target":"VERSION"}"#,
    ),
    ("/v3/kv/range", r#"{"key":"Zm9v","range_end":"Zm9w","count_only":true}"#),
    ("/v3/kv/range", r#"{"key":"Zm9v","range_end":"Zm9w","keys_only":true,"serializable":true}"#),
    ("/v3/kv/range", r#"{"key":"Zm9v","revision":"2"}"#),
    ("/v3/kv/range", r#"{"key":"Zm9v","revision":99}"#),
    ("/v3/kv/range", r#"{"key":"Zm9v","sort_order":"NOPE"}"#),
    ("/v3/kv/range", r#"{"key":"Zm9v","sort_order":9}"#),
    ("/v3/kv/range", ""),
    ("/v3/kv/range", "{}"),
    ("/v3/kv/range", "null"),
    ("/v3/kv/range", "[]"),
    ("/v3/kv/range", "x"),
    ("/v3/kv/range", r#"{"key":"#),
    ("/v3/kv/range", r#"{"key":"Zm9v"} trailing"#),
    ("/v3/kv/range", r#"{"key":"%%%"}"#),
    ("/v3/kv/range", r#"{"key":5}"#),
    ("/v3/kv/range", r#"{"key":"Zm9v","limit":"x"}"#),
    ("/v3/kv/range", r#"{"key":"Zm9v","limit":1.5}"#),
    ("/v3/kv/range", r#"{"key":"Zm9v","limit":1e0}"#),
    ("/v3/kv/range", r#"{"key":"Zm9v","key":"Zm9v"}"#),
    ("/v3/kv/range", r#"{"key":"Zm9v","serializable":"true"}"#),
    ("/v3/kv/put", r#"{"key":"Zm9v","lease":55}"#),
    ("/v3/kv/put", r#"{"key":"Zm9v","ignore_value":true,"value":"YQ=="}"#),
    (
        "/v3/kv/txn",
        r#"{"compare":[{"target":"VERSION","key":"Zm9v","version":"2","result":"EQUAL"}],
            "success":[{"request_put":{"key":"YQ==","value":"Yg=="}},{"request_range":{"key":"YQ=="}}],
            "failure":[{"request_range":{"key":"Zm9v"}}]}"#,
    ),
    (
        "/v3/kv/txn",
        r#"{"success":[{"requestTxn":{"success":[{"requestDeleteRange":{"key":"YQ==","prev_kv":true}}]}}]}"#,
    ),
    ("/v3/kv/txn", r#"{"compare":[{"version":1,"lease":2}]}"#),
    ("/v3/kv/txn", r#"{"success":[{}]}"#),
    ("/v3/kv/deleterange", r#"{"key":"Zm9vMg==","prev_kv":true}"#),
    ("/v3/kv/deleterange", r#"{"key":"bm9uZQ=="}"#),
    ("/v3/kv/compaction", r#"{"revision":3,"physical":true}"#),
    ("/v3/kv/compaction", r#"{"revision":2}"#),
    ("/v3/kv/range", r#"{"key":"Zm9v","revision":1}"#),
    ("/v3/maintenance/hashkv", r#"{"revision":5}"#),
    ("/v3/lease/grant", r#"{"TTL":1000,"ID":7}"#),
    ("/v3/lease/grant", r#"{"TTL":1000,"ID":7}"#),
    ("/v3/kv/put", r#"{"key":"bA==","lease":"7"}"#),
    ("/v3/kv/range", r#"{"key":"bA=="}"#),
    ("/v3/lease/leases", "{}"),
    ("/v3/kv/lease/leases", "{}"),
    ("/v3/lease/timetolive", r#"{"ID":8}"#),
    ("/v3/kv/lease/timetolive", r#"{"ID":9,"keys":true}"#),
    ("/v3/lease/keepalive", r#"{"ID":7}"#),
    ("/v3/lease/keepalive", r#"{"ID":7}{"ID":"8"} x"#),
    // No message ever comes, and so none is answered.
    ("/v3/lease/keepalive", r#"{"ID":7-8}"#),
    ("/v3/lease/keepalive", ""),
    ("/v3/lease/revoke", r#"{"ID":7}"#),
    ("/v3/kv/lease/revoke", r#"{"ID":7}"#),
    ("/v3/cluster/member/list", "{}"),
    ("/v3/cluster/member/remove", r#"{"ID":"1"}"#),
    ("/v3/cluster/member/promote", r#"{"ID":"1"}"#),
    ("/v3/cluster/member/update", r#"{"ID":"1","peerURLs":["http://a:1"]}"#),
    ("/v3/maintenance/status", "{}"),
    ("/v3/maintenance/alarm", r#"{"action":"GET"}"#),
    ("/v3/maintenance/alarm", r#"{"action":"ACTIVATE","alarm":"NOSPACE","memberID":"5"}"#),
    ("/v3/maintenance/alarm", r#"{"action":"DEACTIVATE","alarm":"NOSPACE","memberID":"5"}"#),
    ("/v3/maintenance/transfer-leadership", r#"{"targetID":"1"}"#),
    ("/v3/maintenance/defragment", "{}"),
    ("/v3/lock/lock", "{}"),
    ("/v3/lease/grant", r#"{"TTL":1000,"ID":17}"#),
    ("/v3/lock/lock", r#"{"name":"bQ==","lease":17}"#),
    ("/v3/lock/lock", r#"{"name":"bQ==","lease":17}"#),
    ("/v3/lock/lock", r#"{"name":"bQ==","lease":99}"#),
    ("/v3/lock/unlock", r#"{"key":"bS8xMQ=="}"#),
    ("/v3/lock/unlock", r#"{"key":"bS8xMQ=="}"#),
    ("/v3/lock/unlock", "{}"),
    ("/v3/election/leader", r#"{"name":"ZQ=="}"#),
    ("/v3/election/campaign", r#"{"name":"ZQ==","lease":17,"value":"dg=="}"#),
    ("/v3/election/campaign", r#"{"name":"ZQ==","lease":17,"value":"dg=="}"#),
    ("/v3/election/campaign", r#"{"name":"ZQ==","lease":17,"value":"dw=="}"#),
    ("/v3/election/campaign", r#"{"name":"ZQ==","lease":98,"value":"dw=="}"#),
    ("/v3/election/leader", r#"{"name":"ZQ=="}"#),
    ("/v3/election/proclaim", "{}"),
    ("/v3/election/proclaim", r#"{"leader":{}}"#),
    (
        "/v3/election/proclaim",
        r#"{"leader":{"name":"ZQ==","key":"ZS8xMQ==","rev":"1","lease":17},"value":"eA=="}"#,
    ),
    (
        "/v3/election/proclaim",
        r#"{"leader":{"name":"ZQ==","key":"ZS8xMQ==","rev":"1","lease":97},"value":"eA=="}"#,
    ),
    ("/v3/election/resign", r#"{"leader":{"name":"ZQ==","key":"ZS8xMQ==","rev":"1","lease":17}}"#),
    ("/v3/election/resign", "{}"),
    ("/v3/maintenance/downgrade", r#"{"action":"VALIDATE","version":"3.6.0"}"#),
    ("/v3/maintenance/downgrade", r#"{"action":"VALIDATE","version":"3.5.0"}"#),
    ("/v3/maintenance/downgrade", r#"{"action":"VALIDATE","version":"x"}"#),
    ("/v3/maintenance/downgrade", r#"{"action":"VALIDATE"}"#),
    ("/v3/maintenance/downgrade", r#"{"action":"CANCEL"}"#),
    ("/v3/maintenance/downgrade", r#"{"action":7}"#),
    ("/v3/kv/nonsense", "{}"),
    ("/v3/kv/range/", "{}"),
    ("/v3/", "{}"),
];

#[test]
fn gateway_answers_are_those_of_a_real_etcd() {
    if etcd_or_skip("gateway").is_none() {
        return;
    }
    let [ringd, etcd] = [Kind::Ringd, Kind::Etcd].map(|kind| Server::start(kind, &[]));
    for (path, body) in REQUESTS {
        let [ours, theirs] = [&ringd, &etcd].map(|server| post(server.client, path, body));
        assert_eq!(ours, theirs, "{path} {body}");
    }
    for head in [
        "GET /v3/kv/range HTTP/1.1\r\nHost: x\r\n",
        "PUT /v3/watch HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n",
        "OPTIONS /v3/kv/range HTTP/1.1\r\nHost: x\r\n",
        "POST /v3/kv/range HTTP/1.1\r\nHost: x\r\nGrpc-Timeout: 1x\r\nContent-Length: 0\r\n",
        "POST /v3/kv/range HTTP/1.1\r\nHost: x\r\nOrigin: http://page\r\nContent-Length: 0\r\n",
    ] {
        let [ours, theirs] = [&ringd, &etcd].map(|server| {
            let mut response = request(server.client, &format!("{head}Connection: close\r\n\r\n"));
            response.headers.retain(|(name, _)| name != "date" && name != "content-length");
            response.headers.sort();
            response.body = normal(&response.body);
            response
        });
        assert_eq!(ours, theirs, "{head}");
    }
}

#[test]
fn a_watch_by_the_gateway_goes_on() {
    if etcd_or_skip("gateway").is_none() {
        return;
    }
    let streams = [Kind::Ringd, Kind::Etcd].map(|kind| {
        let server = Server::start(kind, &[]);
        post(server.client, "/v3/kv/put", r#"{"key":"Zm9v","value":"PGE+Jg=="}"#);
        let create = r#"{"create_request":{"key":"Zm9v","start_revision":"1","prev_kv":true}}"#;
        let mut stream = Stream::open(server.client, "/v3/watch", create);
        let mut seen = stream.lines(2);
        post(server.client, "/v3/kv/put", r#"{"key":"Zm9v","value":"Yg=="}"#);
        post(server.client, "/v3/kv/deleterange", r#"{"key":"Zm9v"}"#);
        seen.extend(stream.lines(4).split_off(2));
        seen
    });
    assert_eq!(streams[0], streams[1]);
    assert_eq!(streams[0].len(), 4);
}

#[test]
fn a_snapshot_by_the_gateway_is_a_stream_of_blobs() {
    let server = Server::start(Kind::Ringd, &[]);
    let answer = post(server.client, "/v3/maintenance/snapshot", "{}");
    let lines: Vec<_> = answer.lines().filter(|line| line.starts_with("{\"result\"")).collect();
    assert!(lines.len() >= 2 && lines[0].contains("\"blob\":\""), "{answer}");
    assert!(!lines[lines.len() - 1].contains("remaining_bytes"), "{answer}");
}

#[test]
fn what_is_off_or_not_for_everybody_is_not_answered() {
    let server = Server::start(Kind::Ringd, &["--enable-grpc-gateway=false"]);
    assert!(post(server.client, "/v3/kv/range", "{}").starts_with("404 "));
    let args = ["--host-whitelist=localhost,good.example", "--cors=http://page:80"];
    for kind in crate::server::kinds() {
        let server = Server::start(kind, &args);
        let ask = |fields: &str| {
            let text = format!("GET /health HTTP/1.1\r\n{fields}Connection: close\r\n\r\n");
            let mut response = request(server.client, &text);
            response.headers.retain(|(name, _)| name.starts_with("access-control-allow-o"));
            (response.status, response.headers, response.body)
        };
        let (status, _, body) = ask("Host: evil.example:2379\r\n");
        assert_eq!(status, 421, "{kind}");
        assert!(body.contains("etcd --host-whitelist \"evil.example\""), "{kind}: {body}");
        let origin = ("access-control-allow-origin".to_owned(), "http://page:80".to_owned());
        assert_eq!(ask("Host: good.example:1\r\nOrigin: http://page:80\r\n").1, [origin], "{kind}");
        assert_eq!(ask("Host: localhost\r\nOrigin: http://page:81\r\n").1, [], "{kind}");
    }
}

#[test]
fn large_answers_and_small_pieces_come_whole() {
    let server = Server::start(Kind::Ringd, &[]);
    let value = "A".repeat(700 << 10);
    for key in ["YQ==", "Yg==", "Yw=="] {
        let body = format!(r#"{{"key":"{key}","value":"{value}"}}"#);
        assert!(post(server.client, "/v3/kv/put", &body).starts_with("200 "));
    }
    let all = post(server.client, "/v3/kv/range", r#"{"key":"AA==","range_end":"AA=="}"#);
    assert!(all.starts_with("200 ") && all.len() > 3 * value.len(), "{} bytes", all.len());
    // More than etcd takes for one request.
    let large = format!(r#"{{"key":"YQ==","value":"{}"}}"#, "A".repeat(4 << 20));
    assert!(post(server.client, "/v3/kv/put", &large).starts_with("429 "));

    let chunks = "POST /v3/kv/range HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\
                  Transfer-Encoding: chunked\r\n\r\n7\r\n{\"key\":\r\n7\r\n\"bm9u\"}\r\n0\r\n\r\n";
    let response = request(server.client, chunks);
    assert!(response.status == 200 && response.body.contains("revision"), "{response:?}");
    // Two requests in one piece, answered in their order.
    let two = "POST /v3/kv/range HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n\
               GET /version HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    let answers = request(server.client, two).body;
    let (first, second) = (answers.find("key is not provided"), answers.find("etcdserver\":"));
    assert!(first.is_some() && first < second, "{answers}");
}

/// A frame of a client, whose mask changes nothing.
fn masked(payload: &str) -> Vec<u8> {
    let len = u8::try_from(payload.len()).expect("a short message");
    assert!(len < 126);
    [&[0x81, 0x80 | len, 0, 0, 0, 0], payload.as_bytes()].concat()
}

#[test]
fn pages_watch_by_websocket() {
    if etcd_or_skip("websocket").is_none() {
        return;
    }
    let seen = [Kind::Ringd, Kind::Etcd].map(|kind| {
        let server = Server::start(kind, &[]);
        let mut tcp = TcpStream::connect(server.client).expect("a connection");
        tcp.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        let addr = server.client;
        let head = format!(
            "GET /v3/watch HTTP/1.1\r\nHost: {addr}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        );
        tcp.write_all(head.as_bytes()).expect("a request is sent");
        let mut head = Vec::new();
        let mut byte = [0];
        while !head.ends_with(b"\r\n\r\n") {
            tcp.read_exact(&mut byte).expect("an answer");
            head.push(byte[0]);
        }
        let head = String::from_utf8_lossy(&head).to_ascii_lowercase();
        assert!(head.starts_with("http/1.1 101 "), "{kind}: {head}");
        assert!(head.contains("sec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo="), "{kind}: {head}");
        tcp.write_all(&masked(r#"{"create_request":{"key":"Zm9v"}}"#)).expect("a message is sent");
        let mut message = || {
            let mut start = [0; 2];
            tcp.read_exact(&mut start).expect("a frame");
            assert_eq!(start[0], 0x81, "{kind}: a whole message of text");
            let len = match start[1] {
                126 => {
                    let mut len = [0; 2];
                    tcp.read_exact(&mut len).expect("a length");
                    usize::from(u16::from_be_bytes(len))
                }
                len => usize::from(len),
            };
            let mut text = vec![0; len];
            tcp.read_exact(&mut text).expect("a message");
            normal(&String::from_utf8_lossy(&text))
        };
        let created = message();
        post(server.client, "/v3/kv/put", r#"{"key":"Zm9v","value":"YmFy"}"#);
        [created, message()]
    });
    assert_eq!(seen[0], seen[1]);
    assert!(seen[0][1].contains("\"value\":\"YmFy\""), "{:?}", seen[0]);
}

#[test]
fn users_come_by_the_gateway_with_their_tokens() {
    if etcd_or_skip("gateway").is_none() {
        return;
    }
    let seen = [Kind::Ringd, Kind::Etcd].map(|kind| {
        let server = Server::start(kind, &[]);
        let addr = server.client;
        let mut seen = Vec::new();
        for (path, body) in [
            ("/v3/auth/user/add", r#"{"name":"root","password":"pw"}"#),
            ("/v3/auth/role/add", r#"{"name":"root"}"#),
            ("/v3/auth/user/grant", r#"{"user":"root","role":"root"}"#),
            ("/v3/auth/user/get", r#"{"name":"root"}"#),
            ("/v3/auth/user/get", r#"{"name":"nobody"}"#),
            ("/v3/auth/enable", "{}"),
            ("/v3/kv/put", r#"{"key":"YQ==","value":"Yg=="}"#),
            ("/v3/auth/authenticate", r#"{"name":"root","password":"wrong"}"#),
        ] {
            seen.push(post(addr, path, body));
        }
        let answer = post(addr, "/v3/auth/authenticate", r#"{"name":"root","password":"pw"}"#);
        let token = answer.split("\"token\":\"").nth(1).and_then(|rest| rest.split('"').next());
        let token = token.unwrap_or_else(|| panic!("{kind}: no token in {answer}"));
        let body = r#"{"key":"YQ==","value":"Yg=="}"#;
        for authorization in [token.to_owned(), format!("Bearer {token}"), "nonsense".to_owned()] {
            let put = format!(
                "POST /v3/kv/put HTTP/1.1\r\nHost: {addr}\r\nConnection: close\r\n\
                 Authorization: {authorization}\r\nContent-Length: {}\r\n\r\n{body}",
                body.len()
            );
            let mut response = request(addr, &put);
            response.headers.retain(|(name, _)| name == "www-authenticate");
            seen.push(format!(
                "{} {:?} {}",
                response.status,
                response.headers,
                normal(&response.body)
            ));
        }
        seen
    });
    assert_eq!(seen[0], seen[1]);
    assert!(seen[0][8].starts_with("200 ") && seen[0][10].starts_with("401 "), "{:#?}", seen[0]);
}
