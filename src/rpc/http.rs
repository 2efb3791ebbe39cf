//! Plain HTTP on the client and metrics ports: health, version, metrics. Whichever version of HTTP a request
//! comes by, it is a [`Request`] here, and its answer a [`Response`].

use std::borrow::Cow;
use std::fmt::Write;

use bytes::Bytes;

use super::connection::{ConnId, Connection, Connections};
use super::error::{self, RpcError};
use super::metrics::Count;
use super::{Core, ListenerKind, Read, limits};
use crate::h2::{RequestHead, StreamId, encode_block};
use crate::proto::etcdserverpb::{AlarmType, RangeRequest};
use crate::raft::Role;
use crate::version;

/// What a client asks for, without its body.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Request {
    pub method: String,
    pub path: String,
    /// Names and values of the query, in their order; escapes are not resolved.
    query: Vec<(String, String)>,
    /// Names in lower case.
    pub fields: Vec<(String, Bytes)>,
    pub host: String,
}

impl Request {
    pub fn new(method: &str, target: &str, host: &str, fields: Vec<(String, Bytes)>) -> Request {
        let (path, query) = split_target(target);
        Request { method: method.to_owned(), path, query, fields, host: host.to_owned() }
    }

    pub fn of_http2(head: &RequestHead) -> Request {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let fields = head.fields().map(|(name, value)| (text(name), value.clone())).collect();
        Request::new(&text(&head.method), &text(&head.path), &text(&head.authority), fields)
    }

    fn values<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        let named = self.query.iter().filter(move |(key, _)| key == name);
        named.map(|(_, value)| value.as_str()).filter(|value| !value.is_empty())
    }

    fn has(&self, name: &str) -> bool {
        self.query.iter().any(|(key, _)| key == name)
    }

    /// The first field of a name in lower case.
    pub fn field(&self, name: &str) -> Option<&Bytes> {
        self.fields.iter().find(|(known, _)| known == name).map(|(_, value)| value)
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

/// Field names as HTTP/1.1 shows them; HTTP/2 has them in lower case.
pub type Fields = Vec<(&'static str, Cow<'static, str>)>;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Response {
    pub status: u16,
    pub fields: Fields,
    pub body: Vec<u8>,
    /// The request was a HEAD: the length is told, the body is not.
    pub is_head: bool,
}

impl Response {
    /// As Go's `http.Error` has it: browsers are told not to guess another type.
    pub fn text(status: u16, body: impl Into<String>) -> Response {
        let mut response = Response::of("text/plain; charset=utf-8", body);
        response.fields.push(("X-Content-Type-Options", "nosniff".into()));
        Response { status, ..response }
    }

    pub fn of(content_type: &'static str, body: impl Into<String>) -> Response {
        Response {
            status: 200,
            fields: vec![("Content-Type", content_type.into())],
            body: body.into().into_bytes(),
            is_head: false,
        }
    }

    /// A page whose certificate would be a user elsewhere is told that here it is none.
    pub fn common_name_ignored() -> Response {
        Response::text(
            400,
            "CommonName of client sending a request against gateway will be ignored and not used as expected\n",
        )
    }

    fn not_found() -> Response {
        Response::text(404, "404 page not found\n")
    }

    fn only_get() -> Response {
        let mut response = Response::text(405, "Method Not Allowed\n");
        response.fields.push(("Allow", "GET".into()));
        response
    }
}

/// The header block of an answer over HTTP/2.
pub fn header_block(status: u16, fields: &Fields, len: Option<usize>) -> Vec<u8> {
    let status = status.to_string();
    let len = len.map(|len| len.to_string());
    let names: Vec<_> = fields.iter().map(|(name, _)| name.to_ascii_lowercase()).collect();
    let mut all: Vec<(&[u8], &[u8])> = vec![(b":status", status.as_bytes())];
    let fields = names.iter().zip(fields);
    all.extend(fields.map(|(name, (_, value))| (name.as_bytes(), value.as_bytes())));
    if let Some(len) = &len {
        all.push((b"content-length", len.as_bytes()));
    }
    encode_block(&all)
}

/// Who may ask, and from where: `--cors` and `--host-whitelist`. An empty list is everybody.
#[derive(Clone, Debug, Default)]
pub struct Access {
    pub origins: Vec<String>,
    pub hosts: Vec<String>,
}

impl Access {
    fn allows(list: &[String], one: &str) -> bool {
        list.is_empty() || list.iter().any(|allowed| allowed == "*" || allowed == one)
    }

    /// What tells a browser that a page of the request's origin may use the answer.
    fn cors(&self, request: &Request) -> Fields {
        let origin = request.field("origin").map(|origin| String::from_utf8_lossy(origin));
        let origin = match origin {
            _ if Access::allows(&self.origins, "*") => Cow::Borrowed("*"),
            Some(origin) if Access::allows(&self.origins, &origin) => {
                Cow::Owned(origin.into_owned())
            }
            _ => return Fields::new(),
        };
        vec![
            ("Access-Control-Allow-Headers", "accept, content-type, authorization".into()),
            ("Access-Control-Allow-Methods", "POST, GET, OPTIONS, PUT, DELETE".into()),
            ("Access-Control-Allow-Origin", origin),
        ]
    }

    /// A page whose name was bound to this server's address is not to reach it (CVE-2018-5702).
    fn refusal(&self, request: &Request) -> Option<Response> {
        let host = match request.host.rsplit_once(':') {
            Some((host, port)) if port.bytes().all(|c| c.is_ascii_digit()) => host,
            _ => &request.host,
        };
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let text = || {
            format!(
                "\netcd received your request, but the Host header was unrecognized.\n\n\
                 To fix this, choose one of the following options:\n\
                 - Enable TLS, then any HTTPS request will be allowed.\n\
                 - Add the hostname you want to use to the whitelist in settings.\n  \
                 - e.g. etcd --host-whitelist {host:?}\n\n\
                 This requirement has been added to help prevent \"DNS Rebinding\" attacks \
                 (CVE-2018-5702).\n\n"
            )
        };
        (!Access::allows(&self.hosts, host)).then(|| Response::text(421, text()))
    }
}

const HEALTHY: &str = r#"{"health":"true","reason":""}"#;

/// Checks behind `/livez` and `/readyz`, in the order in which they are shown.
const LIVEZ: &[&str] = &["serializable_read"];
const READYZ: &[&str] =
    &["data_corruption", "serializable_read", "linearizable_read", "non_learner"];

/// What the doors of a client port say to a request.
pub enum Door {
    /// It may come in; its answer has these fields as well.
    Open(Fields),
    Answered(Response),
}

impl Core {
    /// What etcd's access controller does before anything else, on client ports.
    pub(super) fn door(&self, request: &Request, connection: &Connection) -> Door {
        if connection.kind == ListenerKind::Metrics {
            return Door::Open(Fields::new());
        }
        // No page can make a browser take this server's certificate for another name's.
        let refusal = self.options.access.refusal(request).filter(|_| !connection.is_secure);
        if let Some(refusal) = refusal {
            tracing::warn!(
                host = request.host,
                "rejecting HTTP request to prevent DNS rebinding attacks"
            );
            return Door::Answered(refusal);
        }
        let cors = self.options.access.cors(request);
        if request.method == "OPTIONS" {
            return Door::Answered(Response { status: 200, fields: cors, ..Response::default() });
        }
        Door::Open(cors)
    }

    /// Answers a request that has come whole, at once or when the members have agreed.
    pub(super) fn serve_http(
        &mut self,
        connections: &mut Connections,
        id: ConnId,
        stream: StreamId,
        request: Request,
    ) {
        let serializable = request.values("serializable").any(|value| value == "true");
        let agrees = match request.path.as_str() {
            "/health" => !serializable,
            path => path.starts_with("/readyz"),
        };
        let waits = agrees
            && self.node.raft().leader().is_some()
            && self.reads.push(Read::Http(id, stream, request.clone())).is_ok();
        if !waits {
            self.answer_http(connections, id, stream, request, !agrees);
        }
    }

    /// Answers a request. `agreed`: the state is as fresh as the request wants it.
    pub(super) fn answer_http(
        &mut self,
        connections: &mut Connections,
        id: ConnId,
        stream: StreamId,
        request: Request,
        agreed: bool,
    ) {
        let count = connections.len();
        let Some(connection) = connections.touch(id) else { return };
        let is_clients = connection.kind != ListenerKind::Metrics;
        let mut response = match self.door(&request, connection) {
            Door::Answered(response) => response,
            Door::Open(fields) => {
                let page = is_clients.then(|| self.debug_page(&request)).flatten();
                let mut response = page.unwrap_or_else(|| self.route(&request, agreed, count));
                response.fields.extend(fields);
                response
            }
        };
        response.is_head = request.method == "HEAD";
        connection.answer(stream, response);
    }

    fn route(&mut self, request: &Request, agreed: bool, connections: usize) -> Response {
        let (root, check) = match request.path.strip_prefix('/') {
            Some(path) => path.split_once('/').unwrap_or((path, "")),
            None => return Response::not_found(),
        };
        match (root, check) {
            ("metrics", "") => {
                let content_type = "text/plain; version=0.0.4; charset=utf-8; escaping=underscores";
                Response::of(content_type, self.render_metrics(connections))
            }
            ("health" | "version", "") | ("livez" | "readyz", _) if request.method != "GET" => {
                Response::only_get()
            }
            ("health", "") => self.health(request, agreed),
            ("version", "") => Response::of(
                "application/json",
                format!(
                    r#"{{"etcdserver":"{}","etcdcluster":"{}","storage":"{}"}}"#,
                    version::VERSION,
                    self.cluster_version(),
                    self.cluster_version()
                ),
            ),
            ("debug", "vars") => Response::of("application/json; charset=utf-8", self.debug_vars()),
            ("livez", check) => self.checks(request, LIVEZ, check, agreed),
            ("readyz", check) => self.checks(request, READYZ, check, agreed),
            _ => Response::not_found(),
        }
    }

    /// etcd's expvar page, without what only Go has.
    fn debug_vars(&self) -> String {
        let raft = self.node.raft();
        let state = match raft.role() {
            Role::Follower => "StateFollower",
            Role::PreCandidate => "StatePreCandidate",
            Role::Candidate => "StateCandidate",
            Role::Leader => "StateLeader",
        };
        let hex = |id: Option<u64>| format!("{:x}", id.unwrap_or(0));
        let status = serde_json::json!({
            "id": hex(Some(raft.id().0)),
            "term": raft.term().0,
            "commit": raft.commit_index().0,
            "lead": hex(raft.leader().map(|leader| leader.0)),
            "raftState": state,
            "applied": self.node.applier.applied_index(),
            "leadtransferee": hex(raft.transfer_target().map(|target| target.0)),
        });
        let command_line = serde_json::json!(self.options.command_line);
        let fds_max = self.options.fds_max;
        format!(
            "{{\n\"cmdline\": {command_line},\n\"file_descriptor_limit\": {fds_max},\n\"raft.status\": {status}\n}}\n"
        )
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
        let is_well = reason.is_empty();
        let counted = if is_well { Count::HealthSuccess } else { Count::HealthFailure };
        self.metrics.count(counted, 1);
        if reason.is_empty() {
            return Response::of("text/plain; charset=utf-8", HEALTHY);
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
