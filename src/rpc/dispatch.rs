//! From the events of a connection to calls: which method, whole messages, and what to do with them.

use std::rc::Rc;

use bytes::Bytes;

use super::access::Presented;
use super::connection::{Call, Caller, ConnId, OpenCall, Plain, Protocol, StreamKey};
use super::error::{self, RpcError};
use super::http::Request;
use super::http1;
use super::keepalive::KeepAliveCall;
use super::method::{self, Description, Kind, Method};
use super::metrics::Timing;
use super::reflection::ReflectionCall;
use super::watch::WatchCall;
use super::{Answer, Core, ListenerKind, Server};
use crate::auth::Kind as AuthKind;
use crate::grpc::{self, Code};
use crate::h2::{Event, RequestHead, StreamId, encode_block};
use crate::proto::etcdserverpb::RangeRequest;

/// Longer than any process runs.
const NEVER_MS: u64 = u64::MAX / 2;

impl Server {
    pub(super) fn drain_events(&mut self, id: ConnId, now_ms: u64) {
        while let Some(connection) = self.connections.get(id)
            && let Some(event) = connection.h2().and_then(|h2| h2.poll_event())
        {
            match event {
                Event::Headers { stream, head, end_stream } => {
                    self.open(id, stream, head, now_ms);
                    if end_stream {
                        self.end_of_stream(id, stream, now_ms);
                    }
                }
                Event::Data { stream, data, end_stream } => {
                    if connection.is_gateway(stream) {
                        self.gateway_data(id, stream, &data, now_ms);
                    } else {
                        self.data(id, stream, data);
                    }
                    if end_stream {
                        self.end_of_stream(id, stream, now_ms);
                    }
                }
                Event::Trailers { stream } => self.end_of_stream(id, stream, now_ms),
                Event::Reset { stream, .. } => {
                    connection.forget_gateway(stream);
                    if let Some(call) = connection.forget(stream) {
                        if let Some(method) = call.method() {
                            self.core.metrics.handled(method, Code::Canceled);
                        }
                        self.core.abandon(StreamKey::new(id, stream), call);
                    }
                }
            }
        }
    }

    /// What has arrived on an HTTP/1.1 connection, until a request is to be answered first.
    pub(super) fn drain_http1(&mut self, id: ConnId, now_ms: u64) {
        while let Some(connection) = self.connections.touch(id)
            && let Protocol::Http1(http1) = &mut connection.protocol
            && let Some(event) = http1.poll_event()
        {
            match event {
                http1::Event::Head(stream, request) => {
                    if !self.open_gateway(id, stream, &request, now_ms)
                        && let Some(connection) = self.connections.get(id)
                    {
                        connection.put(stream, Call::Plain(Plain::Http1(Box::new(request))));
                    }
                }
                http1::Event::Data(stream, data) => self.gateway_data(id, stream, &data, now_ms),
                http1::Event::End(stream) => self.end_of_stream(id, stream, now_ms),
                http1::Event::Gone(stream) => {
                    connection.forget_gateway(stream);
                    if let Some(call) = connection.forget(stream) {
                        self.core.abandon(StreamKey::new(id, stream), call);
                    }
                }
            }
        }
    }

    fn end_of_stream(&mut self, id: ConnId, stream: StreamId, now_ms: u64) {
        if self.connections.get(id).is_some_and(|connection| connection.is_gateway(stream)) {
            self.end_gateway(id, stream, now_ms);
        } else {
            self.end_of_request(id, stream);
        }
    }

    /// The head of a request begins a call, or ends at once.
    fn open(&mut self, id: ConnId, stream: StreamId, head: Rc<RequestHead>, now_ms: u64) {
        let fields = CallFields::of(&head);
        if !fields.is_grpc() || head.method.as_ref() != b"POST" {
            let request = Request::of_http2(&head);
            if !self.open_gateway(id, stream, &request, now_ms)
                && let Some(connection) = self.connections.get(id)
            {
                connection.put(stream, Call::Plain(Plain::Http2(head)));
            }
            return;
        }
        match known_method(&head) {
            Some(known) => _ = self.begin(id, stream, known, &fields, now_ms),
            None => {
                let error = RpcError::with(Code::Unimplemented, method::unknown(&head.path));
                self.connections.refuse(id, stream, error);
            }
        }
    }

    /// Begins a call. False if it has ended already.
    pub(super) fn begin(
        &mut self,
        id: ConnId,
        stream: StreamId,
        known: &'static Description,
        fields: &CallFields<'_>,
        now_ms: u64,
    ) -> bool {
        let Some(connection) = self.connections.get(id) else { return false };
        match self.core.admit(known, fields, now_ms) {
            Ok((call, needs_leader)) => {
                self.core.metrics.started(known.method, fields.client_api_version);
                let deadline = call.is_clients_deadline.then_some(call.deadline_ms);
                let call = match known.method {
                    Method::Watch => {
                        connection.start_stream(stream);
                        let due_ms = now_ms + self.core.options.progress_interval_ms;
                        let key = StreamKey::new(id, stream);
                        self.core.progress.insert((due_ms, key), ());
                        Call::Watch(WatchCall::new(call.decoder, due_ms))
                    }
                    Method::LeaseKeepAlive => {
                        connection.start_stream(stream);
                        Call::KeepAlive(KeepAliveCall::new(call.decoder))
                    }
                    Method::Reflection | Method::ReflectionAlpha => {
                        connection.start_stream(stream);
                        Call::Reflection(Box::new(ReflectionCall::new(known.method, call.decoder)))
                    }
                    _ => Call::Open(call),
                };
                connection.put(stream, call);
                connection.present(stream, fields.presented());
                if needs_leader && known.kind != Kind::Unary {
                    connection.needs_leader.insert(stream);
                }
                if let Some(at_ms) = deadline {
                    connection.deadlines.insert(stream, (at_ms, known.method));
                }
                true
            }
            Err(error) => {
                self.connections.refuse(id, stream, error);
                false
            }
        }
    }

    pub(super) fn data(&mut self, id: ConnId, stream: StreamId, data: Bytes) {
        let Some(connection) = self.connections.get(id) else { return };
        if !connection.gather(stream, data) {
            return self.fail(id, stream, error::TOO_MANY_REQUESTS);
        }
        if self.core.is_auth_enabled() && self.waits_for_token(id, stream) {
            if self.connections.get(id).is_some_and(|connection| !connection.hold(stream)) {
                self.fail(id, stream, error::TOO_MANY_REQUESTS);
            }
            return;
        }
        let Some(connection) = self.connections.get(id) else { return };
        if let Some(Call::KeepAlive(_)) = connection.calls.get(&stream) {
            let key = StreamKey::new(id, stream);
            if let Err(error) = self.core.keep_alive(&mut self.connections, key) {
                self.fail(id, stream, error);
            }
            return;
        }
        while let Some(connection) = self.connections.get(id) {
            match connection.next_message(stream) {
                Ok(Some(message)) => self.message(id, stream, message),
                Ok(None) => return,
                Err(status) => return self.fail(id, stream, status.into()),
            }
        }
    }

    /// One whole message of a client.
    fn message(&mut self, id: ConnId, stream: StreamId, message: Bytes) {
        self.handle(id, stream, message);
        self.core.ask_for_nobody();
    }

    fn handle(&mut self, id: ConnId, stream: StreamId, message: Bytes) {
        let Some(connection) = self.connections.get(id) else { return };
        let (method, deadline_ms, is_clients_deadline) = match connection.calls.get(&stream) {
            Some(Call::Open(call)) => (call.method, call.deadline_ms, call.is_clients_deadline),
            Some(Call::Watch(_)) => (Method::Watch, NEVER_MS, false),
            Some(Call::Reflection(call)) => (call.method, NEVER_MS, false),
            _ => return,
        };
        let since_ms = self.core.now_ms;
        self.core.metrics.received(method);
        let caller =
            Caller { connection: id, stream, method, deadline_ms, is_clients_deadline, since_ms };
        self.core.ask_for(connection, stream);
        let result = match method {
            Method::Watch => {
                let began = self.core.metrics.clock();
                let handled = self.core.watch_request(&mut self.connections, caller, message);
                self.core.metrics.observe_since(Timing::WatchControl, began);
                handled
            }
            Method::RangeStream => self.core.range_stream(&mut self.connections, caller, message),
            Method::Snapshot => self.core.snapshot(&mut self.connections, caller, message),
            Method::HealthWatch => self.core.health_watch(&mut self.connections, caller, message),
            Method::Reflection | Method::ReflectionAlpha => {
                self.core.reflect(&mut self.connections, caller, message)
            }
            method if method.is_recipe() => {
                self.core.recipe(&mut self.connections, caller, message)
            }
            _ => {
                connection.wait(stream);
                let answer = match connection.at_once() {
                    Some(_) => self.core.unary(caller, message),
                    None => error::TOO_MANY_REQUESTS.into(),
                };
                let connections = &mut self.connections;
                return match answer {
                    Answer::Now(result) => self.core.reply(connections, caller, result),
                    Answer::Range(range) => self.core.answer_range(connections, caller, &range),
                    Answer::Later => {}
                };
            }
        };
        if let Err(error) = result {
            self.fail(id, stream, error);
        }
    }

    /// The client sends no more. What is still open then never got its message.
    pub(super) fn end_of_request(&mut self, id: ConnId, stream: StreamId) {
        if let Some(parked) = self.core.parked.get_mut(&StreamKey::new(id, stream)) {
            parked.has_ended = true;
            return;
        }
        let Some(connection) = self.connections.get(id) else { return };
        match connection.calls.get_mut(&stream) {
            Some(Call::Open(call)) => {
                let status = grpc::Status::end_of_request(call.decoder.is_within_message());
                self.fail(id, stream, status.into());
            }
            Some(Call::KeepAlive(call)) => {
                if call.end() {
                    self.finish_stream(id, stream);
                }
            }
            Some(Call::Reflection(call)) => {
                if call.decoder.is_within_message() {
                    let status = grpc::Status::end_of_request(true);
                    return self.fail(id, stream, status.into());
                }
                self.finish_stream(id, stream);
            }
            Some(Call::Plain(request)) => {
                let request = request.clone();
                self.plain(id, stream, request);
            }
            // A watch goes on, as etcd's: most that its client wants to say is said at the beginning.
            Some(
                Call::Watch(_)
                | Call::Waiting
                | Call::RangeStream(_)
                | Call::LargeRange(_)
                | Call::Snapshot(_)
                | Call::HealthWatch
                | Call::Recipe(_),
            )
            | None => {}
        }
    }

    /// Answers a request that is no gRPC call.
    fn plain(&mut self, id: ConnId, stream: StreamId, request: Plain) {
        let Some(connection) = self.connections.touch(id) else { return };
        connection.forget(stream);
        let head = match request {
            Plain::Http1(request) => {
                return self.core.serve_http(&mut self.connections, id, stream, *request);
            }
            Plain::Http2(head) => head,
        };
        let fields = CallFields::of(&head);
        let is_read = matches!(head.method.as_ref(), b"GET" | b"HEAD");
        let is_http = connection.kind == ListenerKind::Client;
        // Where there is TLS, all that is no gRPC call is HTTP to etcd.
        let is_plain = is_read && fields.content_type.is_none();
        if is_http && (is_plain || (connection.is_secure && !fields.is_grpc())) {
            let request = Request::of_http2(&head);
            self.core.serve_http(&mut self.connections, id, stream, request);
        } else if let Some(h2) = connection.h2() {
            h2.send_headers(stream, &not_a_call(&head, fields.is_grpc()), true);
        }
    }

    fn finish_stream(&mut self, id: ConnId, stream: StreamId) {
        let Some(connection) = self.connections.touch(id) else { return };
        let Some(call) = connection.forget(stream) else { return };
        connection.finish_stream(stream, Ok(()));
        if let Some(method) = call.method() {
            self.core.metrics.handled(method, Code::Ok);
        }
        self.core.abandon(StreamKey::new(id, stream), call);
    }

    /// Ends a call with an error, whether it has begun its answer or not.
    pub(super) fn fail(&mut self, id: ConnId, stream: StreamId, error: RpcError) {
        let Some(connection) = self.connections.touch(id) else { return };
        let Some(call) = connection.forget(stream) else { return };
        if let Some(method) = call.method() {
            self.core.metrics.handled(method, error.code);
        }
        if call.is_unanswered() {
            self.connections.refuse(id, stream, error);
        } else {
            connection.finish_stream(stream, Err(error));
        }
        self.core.abandon(StreamKey::new(id, stream), call);
    }
}

impl Core {
    /// What the head of a request must satisfy, in the order of etcd's interceptors.
    fn admit(
        &self,
        known: &'static Description,
        fields: &CallFields<'_>,
        now_ms: u64,
    ) -> Result<(OpenCall, bool), RpcError> {
        // Of the streams, a learner serves the one that needs nothing but its own state.
        let is_open_to_learners = known.kind == Kind::Unary || known.method == Method::Snapshot;
        if !is_open_to_learners && self.node.is_learner() {
            return Err(error::NOT_FOR_LEARNER);
        }
        let version = fields.client_api_version;
        if version.is_some_and(|version| std::str::from_utf8(version).is_err()) {
            return Err(error::INVALID_CLIENT_API_VERSION);
        }
        let wants_leader = fields.has_leader == Some(&b"true"[..]);
        if wants_leader && self.node.raft().leader().is_none() {
            return Err(error::NO_LEADER);
        }
        let wait_ms = match known.kind {
            // They wait for others, as long as it takes.
            Kind::Unary if matches!(known.method, Method::Lock | Method::Campaign) => NEVER_MS,
            Kind::Unary => self.options.request_timeout_ms,
            Kind::ServerStream | Kind::BidiStream => NEVER_MS,
        };
        let decoder = match fields.encoding {
            None | Some(b"identity") => grpc::Decoder::new(self.message_bytes_max()),
            Some(b"gzip") => grpc::Decoder::with_gzip(self.message_bytes_max()),
            Some(encoding) => return Err(grpc::Status::unknown_encoding(encoding).into()),
        };
        let asked_ms = match fields.timeout.map(grpc::parse_timeout) {
            Some(Ok(timeout)) if timeout.is_zero() => return Err(error::DEADLINE_EXCEEDED),
            Some(Ok(timeout)) => {
                let rounded_up = timeout.as_nanos().div_ceil(1_000_000);
                u64::try_from(rounded_up).unwrap_or(NEVER_MS)
            }
            Some(Err(error)) => return Err(grpc::Status::from(error).into()),
            None => NEVER_MS,
        };
        let deadline_ms = now_ms + wait_ms.min(asked_ms);
        let is_clients_deadline = asked_ms < wait_ms;
        let call = OpenCall { method: known.method, decoder, deadline_ms, is_clients_deadline };
        Ok((call, wants_leader))
    }

    fn unary(&mut self, caller: Caller, message: Bytes) -> Answer {
        if self.node.is_learner() && !is_for_learner(caller.method, &message) {
            return error::NOT_FOR_LEARNER.into();
        }
        attempt!(self.authorize(caller.method, &message));
        match caller.method {
            Method::Put => self.put(caller, message),
            Method::Range => self.range(caller, message),
            Method::Txn => self.txn(caller, message),
            Method::DeleteRange => self.delete_range(caller, message),
            Method::Compact => self.compact(caller, message),
            Method::LeaseGrant => self.lease_grant(caller, message),
            Method::LeaseRevoke => self.lease_revoke(caller, message),
            Method::LeaseTimeToLive => self.lease_time_to_live(caller, message),
            Method::LeaseLeases => self.lease_leases(message),
            Method::MemberList => self.member_list(caller, message),
            Method::MemberAdd => self.member_add(caller, message),
            Method::MemberRemove => self.member_remove(caller, message),
            Method::MemberUpdate => self.member_update(caller, message),
            Method::MemberPromote => self.member_promote(caller, message),
            Method::MoveLeader => self.move_leader(caller, message),
            Method::Status => self.status(message),
            Method::Alarm => self.alarm(caller, message),
            Method::Hash => self.hash(caller, message),
            Method::HashKv => self.hash_kv(caller, message),
            Method::Defragment => self.defragment(caller, message),
            Method::HealthCheck => self.health_check(message),
            Method::HealthList => self.health_list(message),
            Method::Authenticate => self.authenticate(caller, message),
            Method::UserAdd => self.user_add(caller, message),
            Method::UserChangePassword => self.user_change_password(caller, message),
            Method::AuthEnable => self.auth_request(caller, AuthKind::Enable, message),
            Method::AuthDisable => self.auth_request(caller, AuthKind::Disable, message),
            Method::AuthStatus => self.auth_request(caller, AuthKind::Status, message),
            Method::UserGet => self.auth_request(caller, AuthKind::UserGet, message),
            Method::UserList => self.auth_request(caller, AuthKind::UserList, message),
            Method::UserDelete => self.auth_request(caller, AuthKind::UserDelete, message),
            Method::UserGrantRole => self.auth_request(caller, AuthKind::UserGrantRole, message),
            Method::UserRevokeRole => self.auth_request(caller, AuthKind::UserRevokeRole, message),
            Method::RoleAdd => self.auth_request(caller, AuthKind::RoleAdd, message),
            Method::RoleGet => self.auth_request(caller, AuthKind::RoleGet, message),
            Method::RoleList => self.auth_request(caller, AuthKind::RoleList, message),
            Method::RoleDelete => self.auth_request(caller, AuthKind::RoleDelete, message),
            Method::RoleGrantPermission => {
                self.auth_request(caller, AuthKind::RoleGrantPermission, message)
            }
            Method::RoleRevokePermission => {
                self.auth_request(caller, AuthKind::RoleRevokePermission, message)
            }
            Method::Downgrade => self.downgrade(caller, message),
            Method::Watch
            | Method::LeaseKeepAlive
            | Method::RangeStream
            | Method::Snapshot
            | Method::Lock
            | Method::Unlock
            | Method::Campaign
            | Method::Proclaim
            | Method::Leader
            | Method::Observe
            | Method::Resign
            | Method::HealthWatch
            | Method::Reflection
            | Method::ReflectionAlpha => Answer::Now(Err(RpcError::new(
                Code::Internal,
                "a streaming method was called as a unary one",
            ))),
        }
    }
}

/// What a learner answers: questions that its own state is good enough for.
fn is_for_learner(method: Method, message: &Bytes) -> bool {
    match method {
        Method::Status => true,
        Method::Range => {
            decode::<RangeRequest>(message.clone()).is_ok_and(|request| request.serializable)
        }
        _ => false,
    }
}

/// The fields of a head that a call is about: the first of each name, found in one pass.
#[derive(Default)]
pub(super) struct CallFields<'h> {
    content_type: Option<&'h [u8]>,
    client_api_version: Option<&'h [u8]>,
    has_leader: Option<&'h [u8]>,
    encoding: Option<&'h [u8]>,
    timeout: Option<&'h [u8]>,
    token: Option<&'h [u8]>,
    authorization: Option<&'h [u8]>,
    gateway: Option<&'h [u8]>,
}

impl<'h> CallFields<'h> {
    fn of(head: &'h RequestHead) -> CallFields<'h> {
        let mut found = CallFields::default();
        for (name, value) in head.fields() {
            let place = match name.as_ref() {
                b"content-type" => &mut found.content_type,
                b"client-api-version" => &mut found.client_api_version,
                b"hasleader" => &mut found.has_leader,
                b"grpc-encoding" => &mut found.encoding,
                b"grpc-timeout" => &mut found.timeout,
                b"token" => &mut found.token,
                b"authorization" => &mut found.authorization,
                b"grpcgateway-accept" => &mut found.gateway,
                _ => continue,
            };
            place.get_or_insert(&value[..]);
        }
        found
    }

    /// What the call says of who makes it.
    fn presented(&self) -> Presented {
        Presented::new(self.token, self.authorization, self.gateway.is_some())
    }

    /// What the gateway hands on of a request's fields: metadata is marked as such, and a timeout is one.
    pub(super) fn of_gateway(request: &'h Request) -> CallFields<'h> {
        let mut found = CallFields { gateway: Some(b"json"), ..CallFields::default() };
        for (name, value) in &request.fields {
            let place = match name.as_str() {
                "authorization" => &mut found.authorization,
                "grpc-metadata-token" => &mut found.token,
                "grpc-metadata-client-api-version" => &mut found.client_api_version,
                "grpc-metadata-hasleader" => &mut found.has_leader,
                "grpc-timeout" => &mut found.timeout,
                _ => continue,
            };
            place.get_or_insert(&value[..]);
        }
        found
    }

    fn is_grpc(&self) -> bool {
        self.content_type.is_some_and(|kind| kind.starts_with(b"application/grpc"))
    }
}

/// The method of a path. The part of the head that many requests share remembers it: its number and one.
fn known_method(head: &RequestHead) -> Option<&'static Description> {
    if let Some(place) = head.memo.get().checked_sub(1) {
        return method::METHODS.get(place as usize);
    }
    let known = Method::from_path(&head.path)?;
    head.memo.set(known.method as u64 + 1);
    Some(known)
}

/// The answer to what is HTTP/2 but no gRPC, as grpc-go gives it.
fn not_a_call(head: &RequestHead, is_grpc: bool) -> Vec<u8> {
    if is_grpc {
        return encode_block(&[(b":status", b"405")]);
    }
    let kind = head.get(b"content-type").map_or(&b""[..], |kind| kind);
    let status = grpc::Status::unknown_content_type(kind);
    encode_block(&[
        (b":status", b"415"),
        (b"content-type", b"application/grpc"),
        (b"grpc-status", status.code.digits().as_bytes()),
        (b"grpc-message", grpc::encode_message(&status.message).as_bytes()),
    ])
}

/// Decodes a request. Byte strings of the request are slices of `message`.
pub fn decode<M: prost::Message + Default>(message: Bytes) -> Result<M, RpcError> {
    M::decode(message).map_err(|_| error::MALFORMED_MESSAGE)
}

/// Lets `?` be used where an answer is returned.
macro_rules! attempt {
    ($result:expr) => {
        match $result {
            Ok(value) => value,
            Err(error) => return $crate::rpc::Answer::Now(Err(error)),
        }
    };
}
pub(super) use attempt;
