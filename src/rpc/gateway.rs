//! Calls of the JSON gateway: ordinary calls, whose requests are made of JSON and whose answers are written in it.
//!
//! What arrives of a body becomes messages, and these take the way that the data of a gRPC stream takes; so all
//! that is said about calls elsewhere holds for these. Only where bytes for the client are made
//! ([`Connection::finish_unary`] and its like) it is asked whether a stream is the gateway's.

use std::cell::Cell;
use std::rc::Rc;

use bytes::Bytes;

use super::Server;
use super::connection::{ConnId, Connection, Protocol};
use super::encode::Message;
use super::error::{self, RpcError};
use super::http::{Fields, Request, Response, header_block};
use super::method::{self, Method};
use super::{ListenerKind, dispatch, limits};
use crate::gateway::{self, Requests, Route};
use crate::grpc::{self, Code, Counted};
use crate::h2::{ErrorCode, StreamId};
use crate::proto::schema;

/// One call, beside what the call itself is doing.
pub struct GatewayCall {
    method: &'static schema::Method,
    requests: Requests,
    request: Request,
    /// Fields of every answer: what browsers want to know.
    cors: Fields,
    /// What a call that takes one message takes, until its request has ended.
    message: Option<Vec<u8>>,
    /// Why there will be no call, until the request has ended.
    refused: Option<RpcError>,
    /// No more messages are taken of a stream: it has ended, or what has come is malformed.
    is_deaf: bool,
    /// Messages are frames, and the answer's lines are.
    is_websocket: bool,
    /// The head of the answer has been sent.
    started: bool,
    parts: Parts,
    /// What `count_kept` found last.
    counted: usize,
}

/// Octets of all answers that are being gathered.
#[derive(Clone, Default)]
pub struct GatewayAnswers(Rc<Cell<usize>>);

/// Parts of an answer that is not made in one piece. What they take of the common bound is given back when they go.
struct Parts {
    bytes: Vec<u8>,
    all: GatewayAnswers,
}

impl Parts {
    fn push(&mut self, bytes: &[u8]) -> Result<(), RpcError> {
        if self.bytes.len() + bytes.len() > limits::GATEWAY_ANSWER_MAX_BYTES {
            return Err(TOO_LARGE);
        }
        let all = self.all.0.get() + bytes.len();
        if all > limits::GATEWAY_ANSWERS_MAX_BYTES {
            return Err(FULL);
        }
        self.all.0.set(all);
        self.bytes.extend_from_slice(bytes);
        Ok(())
    }
}

impl Drop for Parts {
    fn drop(&mut self) {
        self.all.0.set(self.all.0.get() - self.bytes.len());
    }
}

const METHOD_NOT_ALLOWED: RpcError = RpcError::new(Code::Unimplemented, "Method Not Allowed");
const NOT_FOUND: RpcError = RpcError::new(Code::NotFound, "Not Found");
const MALFORMED: RpcError = RpcError::new(Code::Internal, "failed to marshal a message");
const TOO_LARGE: RpcError =
    RpcError::new(Code::ResourceExhausted, "the answer is too large for the gateway: use a limit");
/// For what etcd does not bound: with a code that says to HTTP, too, that there are too many.
const FULL: RpcError = RpcError::new(Code::ResourceExhausted, "etcdserver: too many requests");
const JSON: (&str, &str) = ("Content-Type", "application/json");

fn metadata_name(name: &str) -> &'static str {
    match name {
        "Access-Control-Allow-Headers" => "Grpc-Metadata-Access-Control-Allow-Headers",
        "Access-Control-Allow-Methods" => "Grpc-Metadata-Access-Control-Allow-Methods",
        _ => "Grpc-Metadata-Access-Control-Allow-Origin",
    }
}

impl Server {
    /// The head of a request. False if it is not the gateway's.
    pub(super) fn open_gateway(
        &mut self,
        id: ConnId,
        stream: StreamId,
        request: &Request,
        now_ms: u64,
    ) -> bool {
        let route = gateway::route(&request.path);
        let Some(connection) = self.connections.touch(id) else { return false };
        let kind = connection.kind;
        let serves = matches!(kind, ListenerKind::Client | ListenerKind::Http);
        let is_off = !serves || !self.core.options.gateway;
        if is_off || matches!(route, Route::Elsewhere) {
            return false;
        }
        let ignores_name =
            connection.common_name.is_some() && self.core.options.auth.client_cert_auth;
        if ignores_name && self.core.is_auth_enabled() {
            connection.answer(stream, Response::common_name_ignored());
            return true;
        }
        // A request that is turned away at the door is answered where others are.
        let super::http::Door::Open(cors) = self.core.door(request, connection) else {
            return false;
        };
        let is_websocket = connection.upgrade(request, &route);
        let (method, refused) = match route {
            Route::Method(method) if request.method == "POST" || is_websocket => (method, None),
            Route::Method(method) => (method, Some(METHOD_NOT_ALLOWED)),
            _ => (&schema::METHODS[0], Some(NOT_FOUND)),
        };
        let refused = refused.or_else(|| bad_timeout(request));
        let is_refused = refused.is_some();
        let mut request = request.clone();
        let protocol = request.field("sec-websocket-protocol").cloned();
        if let Some(token) = protocol
            .as_deref()
            .and_then(|protocol| protocol.strip_prefix(BEARER.as_bytes())?.strip_prefix(b","))
            && is_websocket
        {
            let token = [b"Bearer ", token.trim_ascii()].concat();
            request.fields.push(("authorization".to_owned(), token.into()));
        }
        let call = GatewayCall {
            method,
            requests: Requests::new(method),
            request,
            cors,
            message: None,
            refused,
            is_deaf: false,
            is_websocket,
            started: false,
            parts: Parts { bytes: Vec::new(), all: self.core.gateway_answers.clone() },
            counted: 0,
        };
        connection.gateway.insert(stream, Box::new(call));
        if is_refused && is_websocket {
            // A WebSocket has no end of the request before the end of all.
            self.end_gateway(id, stream, now_ms);
        } else if method.client_streams && !is_refused {
            self.begin_gateway_call(id, stream, now_ms);
        }
        true
    }

    /// Begins the call that a request stands for. False if it has ended already.
    fn begin_gateway_call(&mut self, id: ConnId, stream: StreamId, now_ms: u64) -> bool {
        let Some(connection) = self.connections.touch(id) else { return false };
        let Some(call) = connection.gateway.get(&stream) else { return false };
        let request = call.request.clone();
        let Some(known) = Method::from_path(call.method.path.as_bytes()) else {
            let text = method::unknown(call.method.path.as_bytes());
            self.connections.refuse(id, stream, RpcError::with(Code::Unimplemented, text));
            return false;
        };
        let fields = dispatch::CallFields::of_gateway(&request);
        self.begin(id, stream, known, &fields, now_ms)
    }

    /// A part of a body.
    pub(super) fn gateway_data(&mut self, id: ConnId, stream: StreamId, data: &[u8], now_ms: u64) {
        let bytes_max = self.core.message_bytes_max() * limits::JSON_BYTES_PER_BYTE;
        let Some(connection) = self.connections.touch(id) else { return };
        let Some(call) = connection.gateway.get_mut(&stream) else { return };
        if call.refused.is_some() || call.is_deaf {
            return;
        }
        call.requests.push(data);
        if call.method.client_streams {
            self.gateway_messages(id, stream);
            if let Some(connection) = self.connections.get(id)
                && !connection.count_gateway(stream)
            {
                self.fail(id, stream, FULL);
            }
            return;
        }
        if call.message.is_none() {
            match call.requests.next_message() {
                Ok(message) => call.message = message,
                Err(text) => call.refuse(RpcError::with(Code::InvalidArgument, text)),
            }
        }
        if call.requests.buffered_bytes() > bytes_max {
            let text = format!(
                "grpc: received message larger than max ({} vs. {bytes_max})",
                call.requests.buffered_bytes()
            );
            call.refuse(RpcError::with(Code::ResourceExhausted, text));
        }
        if !connection.count_gateway(stream)
            && let Some(call) = connection.gateway.get_mut(&stream)
        {
            call.refuse(FULL);
            connection.count_gateway(stream);
        }
        // A WebSocket has no end of the request before the end of all.
        let ends = |call: &GatewayCall| {
            call.is_websocket && (call.message.is_some() || call.refused.is_some())
        };
        if connection.gateway.get(&stream).is_some_and(|call| ends(call)) {
            self.end_gateway(id, stream, now_ms);
        }
    }

    /// The messages of a stream that have come, each as the data of a gRPC stream. What is malformed ends it.
    fn gateway_messages(&mut self, id: ConnId, stream: StreamId) {
        let bytes_max = self.core.message_bytes_max() * limits::JSON_BYTES_PER_BYTE;
        while let Some(connection) = self.connections.get(id)
            && let Some(call) = connection.gateway.get_mut(&stream)
        {
            let is_large = call.requests.buffered_bytes() > bytes_max;
            match call.requests.next_message() {
                Ok(Some(message)) => self.data(id, stream, framed(&message)),
                Ok(None) if is_large => return self.fail(id, stream, error::TOO_MANY_REQUESTS),
                Ok(None) => return,
                Err(_) => return self.end_gateway_stream(id, stream),
            }
        }
    }

    /// The end of a request: now it is answered, or the call begins that answers it.
    pub(super) fn end_gateway(&mut self, id: ConnId, stream: StreamId, now_ms: u64) {
        let Some(connection) = self.connections.touch(id) else { return };
        let Some(call) = connection.gateway.get_mut(&stream) else { return };
        call.requests.end();
        if let Some(error) = call.refused.take() {
            return connection.gateway_answer(stream, Err(error));
        }
        if call.method.client_streams {
            if !call.is_deaf {
                self.gateway_messages(id, stream);
            }
            return self.end_gateway_stream(id, stream);
        }
        let message = match call.message.take() {
            Some(message) => Ok(Some(message)),
            None => call.requests.next_message(),
        };
        connection.count_gateway(stream);
        match message {
            Ok(message) => {
                let framed = framed(&message.unwrap_or_default());
                if self.begin_gateway_call(id, stream, now_ms) {
                    self.data(id, stream, framed);
                }
            }
            Err(text) => {
                let error = RpcError::with(Code::InvalidArgument, text);
                connection.gateway_answer(stream, Err(error));
            }
        }
    }

    /// No more messages will come.
    fn end_gateway_stream(&mut self, id: ConnId, stream: StreamId) {
        let Some(connection) = self.connections.touch(id) else { return };
        let Some(call) = connection.gateway.get_mut(&stream) else { return };
        if std::mem::replace(&mut call.is_deaf, true) {
            return;
        }
        self.end_of_request(id, stream);
    }
}

impl GatewayCall {
    /// There will be no call.
    fn refuse(&mut self, error: RpcError) {
        self.requests = Requests::new(self.method);
        self.message = None;
        self.refused = Some(error);
    }

    /// Counts the octets that are kept of the request, for whoever keeps the sum over many calls.
    pub fn count_kept(&mut self) -> Counted {
        let now = self.requests.buffered_bytes() + self.message.as_ref().map_or(0, Vec::len);
        Counted { before: std::mem::replace(&mut self.counted, now), now }
    }

    pub fn counted(&self) -> usize {
        self.counted
    }
}

/// A timeout that cannot be read has a text of its own.
fn bad_timeout(request: &Request) -> Option<RpcError> {
    let timeout = request.field("grpc-timeout")?;
    grpc::parse_timeout(timeout).err().map(|_| {
        let text = format!("invalid grpc-timeout: {}", String::from_utf8_lossy(timeout));
        RpcError::with(Code::InvalidArgument, text)
    })
}

fn framed(message: &[u8]) -> Bytes {
    [&grpc::encode_prefix(message.len())[..], message].concat().into()
}

/// What a page sends in the place of an `Authorization` field, which it cannot set: this, a comma, and the token.
const BEARER: &str = "Bearer";

impl Connection {
    /// Answers a page that wants to go on with WebSocket frames. False if it is none, or its method is no stream.
    fn upgrade(&mut self, request: &Request, route: &Route) -> bool {
        let Protocol::Http1(http1) = &mut self.protocol else { return false };
        let Route::Method(method) = route else { return false };
        let field = |name| request.field(name).map(|value| String::from_utf8_lossy(value));
        let wants = field("upgrade").is_some_and(|to| to.eq_ignore_ascii_case("websocket"));
        let Some(key) = field("sec-websocket-key").filter(|_| wants && method.server_streams)
        else {
            return false;
        };
        let protocol = field("sec-websocket-protocol");
        let has_token = protocol.is_some_and(|protocol| protocol.starts_with(BEARER));
        http1.upgrade(&key, has_token.then_some(BEARER));
        true
    }
}

/// Answers of gateway calls. Each takes over from the method of [`Connection`] of a similar name.
impl Connection {
    pub fn is_gateway(&self, stream: StreamId) -> bool {
        !self.gateway.is_empty() && self.gateway.contains_key(&stream)
    }

    pub fn gateway_finish_unary(&mut self, stream: StreamId, result: Result<Message, RpcError>) {
        let Some(call) = self.gateway.get(&stream) else { return };
        let result = result.and_then(|message| {
            gateway::answer(call.method, message.body()).map_err(|_| MALFORMED)
        });
        match result {
            Err(error) if call.method.server_streams => {
                self.gateway_finish_stream(stream, Err(error));
            }
            result => self.gateway_answer(stream, result),
        }
    }

    fn gateway_answer(&mut self, stream: StreamId, result: Result<String, RpcError>) {
        let Some(call) = self.forget_gateway(stream) else { return };
        let metadata = self.gateway_metadata(&call.cors);
        let mut fields: Fields = vec![(JSON.0, JSON.1.into())];
        fields.extend(call.cors);
        let (status, body) = match result {
            Ok(body) => {
                fields.extend(metadata);
                (200, body)
            }
            Err(error) => {
                if error.code == Code::Unauthenticated {
                    fields.push(("WWW-Authenticate", error.message.clone()));
                }
                let code = error.code as u8;
                (gateway::http_status(code), gateway::failure(code, &error.message))
            }
        };
        let is_head = call.request.method == "HEAD";
        self.answer(stream, Response { status, fields, body: body.into_bytes(), is_head });
    }

    pub fn gateway_message(&mut self, stream: StreamId, message: &Message) {
        let Some(call) = self.gateway.get(&stream) else { return };
        match gateway::streamed(call.method, message.body()) {
            Ok(line) => {
                self.gateway_begin(stream, 200, true);
                self.answer_piece(stream, line.into_bytes());
            }
            Err(_) => self.gateway_finish_stream(stream, Err(MALFORMED)),
        }
    }

    /// What the answer of a call said beside its messages. With TLS, etcd's gateway makes its calls through the
    /// HTTP server that answers everybody, and shows what that has added.
    fn gateway_metadata(&self, cors: &Fields) -> Fields {
        let mut fields: Fields = vec![("Grpc-Metadata-Content-Type", "application/grpc".into())];
        if self.is_secure {
            for trailer in ["Grpc-Status", "Grpc-Message", "Grpc-Status-Details-Bin"] {
                fields.push(("Grpc-Metadata-Trailer", trailer.into()));
            }
            // Those calls come from no page: an answer for the pages of some origins is not for them.
            if cors.iter().any(|field| *field == ("Access-Control-Allow-Origin", "*".into())) {
                fields
                    .extend(cors.iter().map(|(name, value)| (metadata_name(name), value.clone())));
            }
        }
        fields
    }

    /// What a call said beside its messages comes with the first of them. A stream without any says nothing beside how it
    /// ended, except through that HTTP server.
    fn gateway_begin(&mut self, stream: StreamId, status: u16, has_body: bool) {
        let Some(call) = self.gateway.get(&stream) else { return };
        let has_message = status == 200 && has_body;
        let metadata = match has_message || self.is_secure {
            true => self.gateway_metadata(&call.cors),
            false => Fields::new(),
        };
        let Some(call) = self.gateway.get_mut(&stream) else { return };
        if std::mem::replace(&mut call.started, true) {
            return;
        }
        let mut fields = Fields::new();
        if has_body {
            fields.push((JSON.0, JSON.1.into()));
        }
        fields.extend(metadata);
        fields.append(&mut call.cors);
        self.begin_answer(stream, status, &fields);
    }

    /// A part of the message of a unary call.
    pub fn gateway_part(&mut self, stream: StreamId, bytes: &[u8]) -> Result<(), RpcError> {
        self.gateway.get_mut(&stream).map_or(Ok(()), |call| call.parts.push(bytes))
    }

    pub fn gateway_finish_stream(&mut self, stream: StreamId, result: Result<(), RpcError>) {
        let Some(call) = self.gateway.get(&stream) else { return };
        if !call.method.server_streams {
            let message = call.parts.bytes.get(grpc::PREFIX_LEN..).unwrap_or_default();
            let answer = || gateway::answer(call.method, message).map_err(|_| MALFORMED);
            let result = result.and_then(|()| answer());
            return self.gateway_answer(stream, result);
        }
        if let Err(error) = &result {
            let code = error.code as u8;
            let line = gateway::streamed_failure(code, &error.message);
            self.gateway_begin(stream, gateway::http_status(code), true);
            self.answer_piece(stream, line.into_bytes());
        }
        self.gateway_begin(stream, 200, false);
        self.forget_gateway(stream);
        self.end_answer(stream);
    }

    // Answers of plain HTTP, by either version.

    pub fn answer(&mut self, stream: StreamId, response: Response) {
        match &mut self.protocol {
            Protocol::Http1(http1) => http1.answer(&response),
            Protocol::Http2(h2) => {
                let Response { status, fields, body, is_head } = response;
                let block = header_block(status, &fields, Some(body.len()));
                let is_bare = is_head || body.is_empty();
                h2.send_headers(stream, &block, is_bare);
                if !is_bare {
                    h2.send_data(stream, body, true);
                }
            }
            Protocol::Unknown(_) => {}
        }
    }

    fn begin_answer(&mut self, stream: StreamId, status: u16, fields: &Fields) {
        match &mut self.protocol {
            Protocol::Http1(http1) => http1.begin(status, fields),
            Protocol::Http2(h2) => {
                h2.send_headers(stream, &header_block(status, fields, None), false);
            }
            Protocol::Unknown(_) => {}
        }
    }

    fn answer_piece(&mut self, stream: StreamId, bytes: Vec<u8>) {
        match &mut self.protocol {
            Protocol::Http1(http1) => http1.piece(&bytes),
            Protocol::Http2(h2) => h2.send_data(stream, bytes, false),
            Protocol::Unknown(_) => {}
        }
    }

    fn end_answer(&mut self, stream: StreamId) {
        match &mut self.protocol {
            Protocol::Http1(http1) => http1.end(),
            Protocol::Http2(h2) => h2.send_data(stream, Vec::new(), true),
            Protocol::Unknown(_) => {}
        }
    }

    /// Breaks off an answer.
    pub fn reset(&mut self, stream: StreamId, code: ErrorCode) {
        self.forget_gateway(stream);
        match &mut self.protocol {
            Protocol::Http1(http1) => http1.abort(),
            Protocol::Http2(h2) => h2.reset(stream, code),
            Protocol::Unknown(_) => {}
        }
    }
}
