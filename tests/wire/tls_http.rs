//! HTTP on a client port with TLS: the same answers as a real etcd's, over HTTP/1.1 and over HTTP/2.

use std::io::{Read, Write};
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, Method, Request};
use ringd::tls::authority::{Issued, Order};
use ringd::tls::dial;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::block_on;
use crate::gateway::{dechunk, normal};
use crate::server::{Kind, PATIENCE, Server, etcd_or_skip, kinds};
use crate::tls::{Pki, start};

/// What is asked of both; the answers' fields are compared but for the date and how the length is told.
const REQUESTS: &[(&str, &str, &str)] = &[
    ("GET", "/health", ""),
    ("GET", "/health?serializable=true", ""),
    ("POST", "/health", ""),
    ("GET", "/livez?verbose", ""),
    ("GET", "/readyz", ""),
    ("GET", "/readyz/linearizable_read", ""),
    ("GET", "/version", ""),
    ("POST", "/version", "{}"),
    ("GET", "/nonsense", ""),
    ("OPTIONS", "/health", ""),
    ("POST", "/v3/kv/put", r#"{"key":"Zm9v","value":"YmFy"}"#),
    ("POST", "/v3/kv/range", r#"{"key":"Zm9v"}"#),
    ("POST", "/v3/kv/range", "nonsense"),
    ("GET", "/v3/kv/range", ""),
    ("POST", "/v3/nonsense", "{}"),
];
const WATCH: &str = r#"{"create_request":{"key":"Zm9v","start_revision":"1"}}"#;

#[derive(Debug, PartialEq, Eq)]
struct Answer {
    status: u16,
    fields: Vec<(String, String)>,
    body: String,
}

impl Answer {
    fn new(status: u16, mut fields: Vec<(String, String)>, body: &str) -> Answer {
        let is_chunked = fields.contains(&("transfer-encoding".into(), "chunked".into()));
        let body = if is_chunked { dechunk(body) } else { body.to_owned() };
        let volatile = ["date", "content-length", "transfer-encoding", "connection"];
        fields.retain(|(name, _)| !volatile.contains(&name.as_str()));
        fields.sort();
        // The checks are in the order of a Go map, that is in none.
        let mut lines: Vec<&str> = body.split_inclusive('\n').collect();
        lines.sort_unstable();
        Answer { status, fields, body: normal(&lines.concat()) }
    }
}

struct Client<'a> {
    pki: &'a Pki,
    own: &'a Issued,
    server: &'a Server,
}

impl Client<'_> {
    /// One request by HTTP/1.1, and what is answered until there are so many lines or the connection ends.
    fn http1(&self, method: &str, path: &str, host: &str, body: &str, lines: usize) -> Answer {
        let socket = std::net::TcpStream::connect(self.server.client).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        let config = self.pki.client(Some(self.own)).config();
        let mut stream = dial(config, "127.0.0.1", socket).unwrap();
        let length = body.len();
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\
             Content-Length: {length}\r\n\r\n{body}"
        );
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = Vec::new();
        let mut piece = [0; 4096];
        let json_lines = |answer: &[u8]| {
            answer.split(|byte| *byte == b'\n').filter(|line| line.starts_with(b"{")).count()
        };
        while lines == 0 || json_lines(&answer) < lines || !answer.ends_with(b"\n\r\n") {
            match stream.read(&mut piece).unwrap() {
                0 => break,
                got => answer.extend_from_slice(&piece[..got]),
            }
        }
        let answer = String::from_utf8(answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        let fields = head.lines().filter_map(|line| line.split_once(": "));
        let fields = fields.map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()));
        Answer::new(status, fields.collect(), body)
    }

    /// The same by HTTP/2.
    fn http2(&self, method: &str, path: &str, host: &str, body: &str, lines: usize) -> Answer {
        let exchange = async {
            let tcp = TcpStream::connect(self.server.client).await.unwrap();
            let mut config = Arc::unwrap_or_clone(self.pki.client(Some(self.own)).config());
            config.alpn_protocols = vec![b"h2".to_vec()];
            let name = ServerName::try_from("127.0.0.1").unwrap();
            let tls = TlsConnector::from(Arc::new(config)).connect(name, tcp).await.unwrap();
            assert_eq!(tls.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
            let (h2, connection) = h2::client::handshake(tls).await.unwrap();
            tokio::spawn(connection);
            let mut request = Request::builder()
                .method(Method::from_bytes(method.as_bytes()).unwrap())
                .uri(format!("https://{host}{path}"));
            if !body.is_empty() {
                request = request.header("content-type", "application/json");
            }
            let request = request.body(()).unwrap();
            let mut h2 = h2.ready().await.unwrap();
            let (response, mut send) = h2.send_request(request, body.is_empty()).unwrap();
            if !body.is_empty() {
                send.send_data(Bytes::copy_from_slice(body.as_bytes()), true).unwrap();
            }
            let (head, mut stream) = response.await.unwrap().into_parts();
            let mut received = Vec::new();
            let newlines = |bytes: &[u8]| bytes.iter().filter(|byte| **byte == b'\n').count();
            while lines == 0 || newlines(&received) < lines {
                let Some(piece) = stream.data().await else { break };
                let piece = piece.unwrap();
                stream.flow_control().release_capacity(piece.len()).unwrap();
                received.extend_from_slice(&piece);
            }
            let body = String::from_utf8(received).unwrap();
            Answer::new(head.status.as_u16(), fields(&head.headers), &body)
        };
        block_on(async {
            tokio::time::timeout(PATIENCE, exchange).await.expect("an answer in time")
        })
    }
}

fn fields(map: &HeaderMap) -> Vec<(String, String)> {
    let pair = |(name, value): (&http::HeaderName, &http::HeaderValue)| {
        (name.to_string(), value.to_str().unwrap().to_owned())
    };
    map.iter().map(pair).collect()
}

fn pki() -> (Pki, Issued) {
    let mut pki = Pki::new();
    pki.issue("server", &Order::new("server", &["127.0.0.1"]));
    let own = pki.issue("own", &Order::new("own", &[]));
    (pki, own)
}

#[test]
fn https_answers_are_those_of_a_real_etcd() {
    if etcd_or_skip("https").is_none() {
        return;
    }
    let (pki, own) = pki();
    let servers = [Kind::Ringd, Kind::Etcd].map(|kind| start(kind, &pki.mutual()));
    let [ringd, etcd] =
        [0, 1].map(|index| Client { pki: &pki, own: &own, server: &servers[index] });
    // Etcd learns some of its versions after its start.
    while !etcd.http1("GET", "/version", "x", "", 0).body.contains("\"storage\":\"3.7.0\"") {}
    for (method, path, body) in REQUESTS {
        let by_http1 = |client: &Client<'_>| client.http1(method, path, "any", body, 0);
        assert_eq!(by_http1(&ringd), by_http1(&etcd), "{method} {path}");
        let by_http2 = |client: &Client<'_>| client.http2(method, path, "any", body, 0);
        assert_eq!(by_http2(&ringd), by_http2(&etcd), "{method} {path} by HTTP/2");
    }
    let watches = [&ringd, &etcd].map(|client| {
        let by_http1 = client.http1("POST", "/v3/watch", "any", WATCH, 2);
        let by_http2 = client.http2("POST", "/v3/watch", "any", WATCH, 2);
        assert_eq!(by_http2.body.lines().count(), 2, "{by_http2:?}");
        (by_http1, by_http2)
    });
    assert_eq!(watches[0], watches[1]);
    for client in [&ringd, &etcd] {
        for metrics in [
            client.http1("GET", "/metrics", "any", "", 0),
            client.http2("GET", "/metrics", "any", "", 0),
        ] {
            assert_eq!(metrics.status, 200);
            assert!(metrics.body.contains("etcd_server_has_leader 1"));
        }
    }
}

#[test]
fn a_host_that_is_not_named_is_served_where_there_is_tls() {
    let (pki, own) = pki();
    let mut args = pki.mutual();
    args.push("--host-whitelist=good.example".to_owned());
    for kind in kinds() {
        let server = start(kind, &args);
        let client = Client { pki: &pki, own: &own, server: &server };
        for host in ["good.example", "evil.example"] {
            assert_eq!(client.http1("GET", "/health", host, "", 0).status, 200, "{kind}");
            assert_eq!(client.http2("GET", "/health", host, "", 0).status, 200, "{kind}");
            let range = client.http1("POST", "/v3/kv/range", host, r#"{"key":"YQ=="}"#, 0);
            assert_eq!(range.status, 200, "{kind}: {range:?}");
        }
    }
}
