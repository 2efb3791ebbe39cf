//! Plain HTTP on the client and metrics ports: health, version, metrics.
//!
//! Requests of an HTTP/1.1 connection are answered one by one, in their order. On an HTTP/2 connection a GET
//! or HEAD that names no content type is such a request, too.

use std::fmt::Write;

use bytes::{Buf, BytesMut};

use super::connection::{ConnId, Connections, Protocol};
use super::error::{self, RpcError};
use super::{Core, Read, limits};
use crate::h2::{RequestHead, StreamId, encode_block};
use crate::proto::etcdserverpb::{AlarmType, RangeRequest};
use crate::version;

/// What a client asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Request {
    method: String,
    path: String,
    /// Names and values of the query, in their order; escapes are not resolved.
    query: Vec<(String, String)>,
    close: bool,
}

impl Request {
    fn values<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        let named = self.query.iter().filter(move |(key, _)| key == name);
        named.map(|(_, value)| value.as_str()).filter(|value| !value.is_empty())
    }

    fn has(&self, name: &str) -> bool {
        self.query.iter().any(|(key, _)| key == name)
    }
}

struct Response {
    status: u16,
    content_type: &'static str,
    allow: Option<&'static str>,
    /// Whether browsers are told not to guess another type: what Go's `http.Error` adds.
    nosniff: bool,
    body: String,
}

impl Response {
    fn text(status: u16, body: impl Into<String>) -> Response {
        let content_type = "text/plain; charset=utf-8";
        Response { status, content_type, allow: None, nosniff: true, body: body.into() }
    }

    fn plain(content_type: &'static str, body: impl Into<String>) -> Response {
        Response { content_type, nosniff: false, ..Response::text(200, body) }
    }

    fn not_found() -> Response {
        Response::text(404, "404 page not found\n")
    }

    fn header_block(&self) -> Vec<u8> {
        let status = self.status.to_string();
        let length = self.body.len().to_string();
        let mut fields: Vec<(&[u8], &[u8])> = vec![
            (b":status", status.as_bytes()),
            (b"content-type", self.content_type.as_bytes()),
            (b"content-length", length.as_bytes()),
        ];
        fields.extend(self.allow.map(|allow| (&b"allow"[..], allow.as_bytes())));
        if self.nosniff {
            fields.push((b"x-content-type-options", b"nosniff"));
        }
        encode_block(&fields)
    }

    fn only_get() -> Response {
        Response { allow: Some("GET"), ..Response::text(405, "Method Not Allowed\n") }
    }
}

/// Who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asker {
    Http1(ConnId),
    Http2(ConnId, StreamId),
}

/// What etcd's `--cors '*'`, its default, adds to every answer on a client port.
const CORS: &str = "Access-Control-Allow-Headers: accept, content-type, authorization\r\n\
    Access-Control-Allow-Methods: POST, GET, OPTIONS, PUT, DELETE\r\n\
    Access-Control-Allow-Origin: *\r\n";

#[derive(Default)]
pub struct Connection {
    input: BytesMut,
    output: Vec<u8>,
    /// A request is being answered.
    busy: bool,
    /// Browsers may use the answers on pages of any origin.
    cors: bool,
    closed: bool,
}

impl Connection {
    pub fn new(cors: bool) -> Connection {
        Connection { cors, ..Connection::default() }
    }

    pub fn receive(&mut self, input: &[u8]) {
        self.input.extend_from_slice(input);
    }

    pub fn output_len(&self) -> usize {
        self.output.len()
    }

    pub fn take_output(&mut self, max: usize, out: &mut Vec<u8>) {
        let taken = self.output.len().min(max);
        out.extend(self.output.drain(..taken));
    }

    pub fn is_closed(&self) -> bool {
        self.closed
    }

    /// The next whole request. A malformed one is answered and ends the connection.
    fn next_request(&mut self) -> Option<Request> {
        if self.busy || self.closed || self.input.is_empty() {
            return None;
        }
        let mut headers = [httparse::EMPTY_HEADER; limits::HTTP1_HEADERS_MAX];
        let mut parsed = httparse::Request::new(&mut headers);
        let head_len = match parsed.parse(&self.input) {
            Ok(httparse::Status::Complete(len)) => len,
            Ok(httparse::Status::Partial) if self.input.len() <= limits::HTTP1_HEAD_MAX_BYTES => {
                return None;
            }
            Ok(httparse::Status::Partial) => {
                return self.refuse(431, "Request Header Fields Too Large");
            }
            Err(_) => return self.refuse(400, "400 Bad Request"),
        };
        let header = |name: &str| {
            let found = parsed.headers.iter().find(|header| header.name.eq_ignore_ascii_case(name));
            found.map(|header| String::from_utf8_lossy(header.value).to_ascii_lowercase())
        };
        // A body is of no interest to any path here; it is not read, so it ends the connection.
        let has_body = header("content-length").is_some_and(|len| len != "0")
            || header("transfer-encoding").is_some();
        let connection = header("connection").unwrap_or_default();
        let persistent = if parsed.version == Some(1) {
            !connection.contains("close")
        } else {
            connection.contains("keep-alive")
        };
        let (path, query) = split_target(parsed.path.unwrap_or("/"));
        let request = Request {
            method: parsed.method.unwrap_or_default().to_owned(),
            path,
            query,
            close: has_body || !persistent,
        };
        self.input.advance(head_len);
        self.busy = true;
        Some(request)
    }

    fn refuse(&mut self, status: u16, text: &str) -> Option<Request> {
        let request = Request { close: true, ..Request::default() };
        self.answer(&request, Response::text(status, text));
        None
    }

    fn answer(&mut self, request: &Request, response: Response) {
        let reason = match response.status {
            200 => "OK",
            400 => "Bad Request",
            404 => "Not Found",
            405 => "Method Not Allowed",
            431 => "Request Header Fields Too Large",
            _ => "Service Unavailable",
        };
        let mut head = format!("HTTP/1.1 {} {reason}\r\n", response.status);
        if let Some(allow) = response.allow {
            let _ = write!(head, "Allow: {allow}\r\n");
        }
        if self.cors {
            head.push_str(CORS);
        }
        if !response.content_type.is_empty() {
            let _ = write!(head, "Content-Type: {}\r\n", response.content_type);
        }
        if response.nosniff {
            head.push_str("X-Content-Type-Options: nosniff\r\n");
        }
        let _ = write!(head, "Content-Length: {}\r\n", response.body.len());
        if request.close {
            head.push_str("Connection: close\r\n");
        }
        head.push_str("\r\n");
        self.output.extend_from_slice(head.as_bytes());
        if request.method != "HEAD" {
            self.output.extend_from_slice(response.body.as_bytes());
        }
        self.busy = false;
        self.closed |= request.close;
    }
}

fn split_target(target: &str) -> (String, Vec<(String, String)>) {
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let pairs = query.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        (name.to_owned(), value.to_owned())
    });
    (path.to_owned(), pairs.collect())
}

const HEALTHY: &str = r#"{"health":"true","reason":""}"#;

/// Checks behind `/livez` and `/readyz`, in the order in which they are shown.
const LIVEZ: &[&str] = &["serializable_read"];
const READYZ: &[&str] =
    &["data_corruption", "serializable_read", "linearizable_read", "non_learner"];

impl Core {
    pub(super) fn serve_http1(&mut self, connections: &mut Connections, id: ConnId) {
        while let Some(connection) = connections.touch(id)
            && let Protocol::Http1(http1) = &mut connection.protocol
            && let Some(request) = http1.next_request()
        {
            self.serve_http(connections, Asker::Http1(id), request);
        }
    }

    /// A request that came as a stream of an HTTP/2 connection.
    pub(super) fn serve_http2(
        &mut self,
        connections: &mut Connections,
        id: ConnId,
        stream: StreamId,
        head: &RequestHead,
    ) {
        let (path, query) = split_target(&String::from_utf8_lossy(&head.path));
        let method = String::from_utf8_lossy(&head.method).into_owned();
        let request = Request { method, path, query, close: false };
        self.serve_http(connections, Asker::Http2(id, stream), request);
    }

    fn serve_http(&mut self, connections: &mut Connections, asker: Asker, request: Request) {
        let serializable = request.values("serializable").any(|value| value == "true");
        let agrees = match request.path.as_str() {
            "/health" => !serializable,
            path => path.starts_with("/readyz"),
        };
        let has_room = self.reads_waiting() < limits::PENDING_READS_MAX;
        if agrees && has_room && self.node.raft().leader().is_some() {
            self.reads_new.push(Read::Http(asker, request));
        } else {
            self.answer_http(connections, asker, request, !agrees);
        }
    }

    /// Answers a request. `agreed`: the state is as fresh as the request wants it.
    pub(super) fn answer_http(
        &mut self,
        connections: &mut Connections,
        asker: Asker,
        request: Request,
        agreed: bool,
    ) {
        let count = connections.len();
        let (Asker::Http1(id) | Asker::Http2(id, _)) = asker;
        let Some(connection) = connections.touch(id) else { return };
        match (&mut connection.protocol, asker) {
            (Protocol::Http1(http1), Asker::Http1(_)) => {
                let asks_cors = http1.cors && request.method == "OPTIONS";
                let response = if asks_cors {
                    Response::plain("", "")
                } else {
                    self.route(&request, agreed, count)
                };
                http1.answer(&request, response);
            }
            (Protocol::Http2(h2), Asker::Http2(_, stream)) => {
                let response = self.route(&request, agreed, count);
                let is_head = request.method == "HEAD";
                h2.send_headers(stream, &response.header_block(), is_head);
                if !is_head {
                    h2.send_data(stream, response.body.into_bytes(), true);
                }
            }
            _ => {}
        }
    }

    fn route(&mut self, request: &Request, agreed: bool, connections: usize) -> Response {
        let (root, check) = match request.path.strip_prefix('/') {
            Some(path) => path.split_once('/').unwrap_or((path, "")),
            None => return Response::not_found(),
        };
        match (root, check) {
            ("metrics", "") => {
                let content_type = "text/plain; version=0.0.4; charset=utf-8; escaping=underscores";
                Response::plain(content_type, self.render_metrics(connections))
            }
            ("health" | "version", "") | ("livez" | "readyz", _) if request.method != "GET" => {
                Response::only_get()
            }
            ("health", "") => self.health(request, agreed),
            ("version", "") => Response::plain(
                "application/json",
                format!(
                    r#"{{"etcdserver":"{}","etcdcluster":"{}","storage":"{}"}}"#,
                    version::VERSION,
                    version::CLUSTER_VERSION,
                    version::STORAGE_VERSION
                ),
            ),
            ("livez", check) => self.checks(request, LIVEZ, check, agreed),
            ("readyz", check) => self.checks(request, READYZ, check, agreed),
            _ => Response::not_found(),
        }
    }

    fn health(&mut self, request: &Request, agreed: bool) -> Response {
        let excluded = |name: &str| request.values("exclude").any(|value| value == name);
        let alarm = self.node.applier.alarms.all().iter().find_map(|raised| {
            match AlarmType::try_from(raised.alarm) {
                Ok(AlarmType::Nospace) => (!excluded("NOSPACE")).then_some("ALARM NOSPACE"),
                Ok(AlarmType::Corrupt) => (!excluded("CORRUPT")).then_some("ALARM CORRUPT"),
                _ => Some("ALARM UNKNOWN"),
            }
        });
        let reason = match alarm {
            Some(alarm) => alarm.to_owned(),
            None if !agreed => "RAFT NO LEADER".to_owned(),
            None => match self.probe() {
                Ok(()) => String::new(),
                Err(error) => format!("RANGE ERROR:{}", error.message),
            },
        };
        self.metrics.health_checked(reason.is_empty());
        if reason.is_empty() {
            return Response { nosniff: false, ..Response::text(200, HEALTHY) };
        }
        let reason = reason.replace('\\', r"\\").replace('"', "\\\"");
        Response::text(503, format!("{{\"health\":\"false\",\"reason\":\"{reason}\"}}\n"))
    }

    /// Whether the state can be read.
    fn probe(&mut self) -> Result<(), RpcError> {
        let request =
            RangeRequest { key: "\0".into(), limit: 1, keys_only: true, ..Default::default() };
        self.range_up_to(&request, limits::RANGE_AT_ONCE_BYTES).map(drop)
    }

    fn checks(&mut self, request: &Request, all: &[&str], only: &str, agreed: bool) -> Response {
        if !only.is_empty() && !all.contains(&only) {
            return Response::not_found();
        }
        let excluded = |name: &str| request.values("exclude").any(|value| value == name);
        let mut report = String::new();
        let mut healthy = true;
        for name in all {
            if (!only.is_empty() && *name != only) || (only.is_empty() && excluded(name)) {
                continue;
            }
            let result = match *name {
                "data_corruption" if self.node.applier.alarms.active(AlarmType::Corrupt) => {
                    Err("alarm activated: CORRUPT".to_owned())
                }
                "linearizable_read" if !agreed => Err(error::NO_LEADER.message.into_owned()),
                "serializable_read" | "linearizable_read" => {
                    self.probe().map_err(|error| error.message.into_owned())
                }
                _ => Ok(()),
            };
            let _ = match &result {
                Ok(()) => writeln!(report, "[+]{name} ok"),
                Err(error) => writeln!(report, "[-]{name} failed: {error}"),
            };
            healthy &= result.is_ok();
        }
        if !healthy {
            return Response::text(503, report + "\n");
        }
        let shown = if request.has("verbose") { report } else { String::new() };
        Response::text(200, shown + "ok\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_taken_once_it_is_whole() {
        let mut connection = Connection::default();
        connection
            .receive(b"GET /health?exclude=NOSPACE&serializable=true HTTP/1.1\r\nHost: x\r\n");
        assert_eq!(connection.next_request(), None);
        connection.receive(b"\r\nGET /version HTTP/1.0\r\n\r\n");
        let request = connection.next_request().unwrap();
        assert_eq!((request.path.as_str(), request.close), ("/health", false));
        assert_eq!(request.values("exclude").collect::<Vec<_>>(), ["NOSPACE"]);
        assert_eq!(connection.next_request(), None, "the first is not answered yet");
        connection.answer(&request, Response::text(200, "x"));
        let request = connection.next_request().unwrap();
        assert_eq!((request.path.as_str(), request.close), ("/version", true));
    }

    #[test]
    fn malformed_and_endless_heads_end_the_connection() {
        let mut connection = Connection::default();
        connection.receive(b"\x16\x03\x01 nonsense\r\n\r\n");
        assert_eq!(connection.next_request(), None);
        assert!(connection.is_closed() && connection.output.starts_with(b"HTTP/1.1 400"));

        let mut connection = Connection::default();
        connection.receive(b"GET / HTTP/1.1\r\nA: ");
        connection.receive(&vec![b'a'; limits::HTTP1_HEAD_MAX_BYTES]);
        assert_eq!(connection.next_request(), None);
        assert!(connection.is_closed() && connection.output.starts_with(b"HTTP/1.1 431"));
    }
}
