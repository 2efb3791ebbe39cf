//! The one table of what each RPC asks of whoever calls it, and who that is.
//!
//! While auth is disabled all of it is one branch. While it is enabled, every call passes [`Core::authorize`], where
//! its method's rule is looked up; what the rule leaves to later (the keys of a read, of an entry, of a message of
//! a stream) is asked where they are known. The match has no other case: a method without a rule does
//! not compile.

use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;

use super::cluster;
use super::connection::{Caller, ConnId, Connection, Connections, StreamKey};
use super::dispatch::decode;
use super::error::{self, RpcError};
use super::method::Method;
use super::{Core, Server, limits};
use crate::apply::ApplyError;
use crate::auth::access::{self, Need, Visit};
use crate::auth::jwt::Jwt;
use crate::auth::{self, AuthError, Identity, Request};
use crate::h2::StreamId;
use crate::proto::etcdserverpb::alarm_request::AlarmAction;
use crate::proto::etcdserverpb::{AlarmRequest, MemberAddRequest, RangeRequest, TxnRequest};

/// What an RPC asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// Nothing: it comes before there is a user, or tells nothing.
    Anybody,
    /// To be a user, whoever it is.
    User,
    /// To have role root.
    Admin,
    /// To look at alarms, to be a user; to change them, to have role root.
    Alarm,
    /// Rights on the keys that are read, as of the moment when they are read.
    Read,
    /// What the entry asks when it is applied ([`crate::auth::access`], [`crate::auth::Auth::admit`]).
    Entry,
    /// The same, and to be a user before it becomes one.
    UserAndEntry,
    /// Rights that each message of the stream asks for itself.
    EachMessage,
}

pub fn rule(method: Method) -> Rule {
    match method {
        Method::Range | Method::RangeStream | Method::LeaseLeases => Rule::Read,
        // One that only reads is a read.
        Method::Put | Method::DeleteRange | Method::Txn => Rule::Entry,
        Method::Watch | Method::LeaseKeepAlive => Rule::EachMessage,
        Method::LeaseGrant | Method::LeaseRevoke => Rule::UserAndEntry,
        // With keys, rights on them: when they are known.
        Method::LeaseTimeToLive | Method::MemberList | Method::Status => Rule::User,
        Method::Compact
        | Method::MemberAdd
        | Method::MemberRemove
        | Method::MemberUpdate
        | Method::MemberPromote
        | Method::Hash
        | Method::HashKv
        | Method::Defragment
        | Method::Snapshot
        | Method::Downgrade
        | Method::MoveLeader => Rule::Admin,
        // Their steps are entries and reads, each of which asks for itself.
        Method::Lock | Method::Unlock | Method::Campaign | Method::Proclaim | Method::Resign => {
            Rule::Entry
        }
        Method::Leader | Method::Observe => Rule::Read,
        Method::Alarm => Rule::Alarm,
        Method::HealthCheck
        | Method::HealthList
        | Method::HealthWatch
        | Method::Reflection
        | Method::ReflectionAlpha
        | Method::Authenticate => Rule::Anybody,
        Method::AuthEnable
        | Method::AuthDisable
        | Method::AuthStatus
        | Method::UserAdd
        | Method::UserGet
        | Method::UserList
        | Method::UserDelete
        | Method::UserChangePassword
        | Method::UserGrantRole
        | Method::UserRevokeRole
        | Method::RoleAdd
        | Method::RoleGet
        | Method::RoleList
        | Method::RoleDelete
        | Method::RoleGrantPermission
        | Method::RoleRevokePermission => Rule::Entry,
    }
}

/// What tokens are.
#[derive(Clone, Debug)]
pub enum TokenKind {
    Simple,
    Jwt(Arc<Jwt>),
    /// None are made, and none are taken.
    None,
}

/// The settings of authentication.
#[derive(Clone, Debug)]
pub struct Options {
    pub tokens: TokenKind,
    pub bcrypt_cost: u32,
    /// Whether the common name of a client's certificate is a user (`--client-cert-auth`).
    pub client_cert_auth: bool,
}

impl Default for Options {
    fn default() -> Options {
        let bcrypt_cost = auth::password::COST_DEFAULT;
        Options { tokens: TokenKind::Simple, bcrypt_cost, client_cert_auth: false }
    }
}

/// What a call has shown to say who makes it.
#[derive(Clone, Debug, Default)]
pub struct Presented {
    pub token: Option<Rc<str>>,
    /// It came through the JSON gateway: the certificate of its connection says nothing about it.
    pub by_gateway: bool,
    /// The common name of the connection's certificate.
    common_name: Option<Rc<str>>,
}

impl Presented {
    /// `token` and `authorization` are fields of a request's head; the first goes before the other.
    pub fn new(token: Option<&[u8]>, authorization: Option<&[u8]>, by_gateway: bool) -> Presented {
        let token = token.or(authorization).map(|token| {
            let token = token.strip_prefix(b"Bearer ").unwrap_or(token);
            Rc::from(String::from_utf8_lossy(token).as_ref())
        });
        Presented { token, by_gateway, common_name: None }
    }

    pub fn is_nothing(&self) -> bool {
        self.token.is_none() && !self.by_gateway
    }
}

impl Connection {
    /// Notes what a call presents, for as long as it lasts.
    pub fn present(&mut self, stream: StreamId, presented: Presented) {
        if !presented.is_nothing() {
            self.presented.insert(stream, presented);
        }
    }

    fn presented(&self, stream: StreamId) -> Presented {
        let mut presented = self.presented.get(&stream).cloned().unwrap_or_default();
        presented.common_name = self.common_name.clone().filter(|_| !presented.by_gateway);
        presented
    }
}

/// A call that waits until this member has learnt of its token.
pub struct Parked {
    index: u64,
    until_ms: u64,
    pub has_ended: bool,
}

impl Server {
    #[cfg(test)]
    pub fn auth_options_mut(&mut self) -> &mut Options {
        &mut self.core.options.auth
    }

    /// There is a TLS session with the client. `common_name` is what the subject of its certificate is called, where
    /// it has shown one and that stands for a user.
    pub fn secured(&mut self, id: ConnId, common_name: Option<&str>) {
        if let Some(connection) = self.connections.get(id) {
            connection.is_secure = true;
            connection.common_name = common_name.map(Rc::from);
        }
    }

    /// Whether a call has to wait: its token was made by an entry that is not applied here yet. It waits no
    /// longer than any request does.
    pub(super) fn waits_for_token(&mut self, id: ConnId, stream: StreamId) -> bool {
        let core = &mut self.core;
        let Some(connection) = self.connections.get(id) else { return false };
        let token = connection.presented.get(&stream).and_then(|shown| shown.token.as_deref());
        let Some(index) = token.and_then(auth::applied_at) else { return false };
        let is_known = index <= core.node.applier.applied_index();
        if is_known || !matches!(core.options.auth.tokens, TokenKind::Simple) {
            return false;
        }
        let key = StreamKey::new(id, stream);
        if core.parked.contains_key(&key) {
            return true;
        }
        if core.parked.len() >= limits::PENDING_READS_MAX {
            return false;
        }
        let until_ms = core.now_ms + core.options.request_timeout_ms;
        core.parked.insert(key, Parked { index, until_ms, has_ended: false });
        true
    }

    /// Goes on with calls whose tokens are known now, or have turned out never to be.
    pub(super) fn resume_parked(&mut self) {
        let core = &mut self.core;
        if core.parked.is_empty() {
            return;
        }
        let (applied, now_ms) = (core.node.applier.applied_index(), core.now_ms);
        let due = core
            .parked
            .extract_if(.., |_, parked| parked.index <= applied || parked.until_ms <= now_ms);
        for (key, parked) in due.collect::<Vec<_>>() {
            let Some((connection, stream)) = self.connections.touch_stream(key) else { continue };
            if let Some(shown) = connection.presented.get_mut(&stream)
                && parked.index > applied
            {
                shown.token = Some(Rc::from(""));
            }
            connection.release(stream);
            let id = connection.id;
            self.data(id, stream, Bytes::new());
            if parked.has_ended {
                self.end_of_request(id, stream);
            }
        }
    }
}

impl Core {
    pub(super) fn is_auth_enabled(&self) -> bool {
        self.node.applier.auth.is_enabled()
    }

    /// As of which revision something is permitted now; 0 while nothing has to be.
    pub(super) fn auth_revision(&self) -> u64 {
        if self.is_auth_enabled() { self.node.applier.auth.revision() } else { 0 }
    }

    /// From now on, what is asked is asked by this caller.
    pub(super) fn ask_for(&mut self, connection: &Connection, stream: StreamId) {
        if self.is_auth_enabled() {
            self.presented = connection.presented(stream);
        }
    }

    pub(super) fn ask_for_caller(&mut self, connections: &mut Connections, caller: Caller) {
        if self.is_auth_enabled() {
            let connection = connections.get(caller.connection);
            self.presented = connection
                .map(|connection| connection.presented(caller.stream))
                .unwrap_or_default();
        }
    }

    /// What is asked from now on is asked by nobody: a call that is forgotten here has no rights, not those of the
    /// one before it.
    pub(super) fn ask_for_nobody(&mut self) {
        if self.is_auth_enabled() {
            self.presented = Presented::default();
        }
    }

    /// Who asks; nobody if nothing was presented, or if nobody has to be somebody.
    pub(super) fn identity(&mut self) -> Result<Option<Identity>, RpcError> {
        let now_ms = self.now_ms;
        let unix_ms = self.unix_ms();
        let auth = &mut self.node.applier.auth;
        if !auth.is_enabled() {
            return Ok(None);
        }
        let revision = auth.revision();
        if let Some(token) = &self.presented.token {
            let who = match &self.options.auth.tokens {
                TokenKind::Simple => {
                    let user = auth.tokens.user_of(token, now_ms);
                    user.map(|user| Identity { user: user.to_owned(), revision })
                }
                TokenKind::Jwt(jwt) => self.verified.identify(jwt, token, unix_ms),
                TokenKind::None => None,
            };
            return who.map(Some).ok_or(error::INVALID_AUTH_TOKEN);
        }
        let by_certificate =
            self.presented.common_name.as_ref().filter(|_| self.options.auth.client_cert_auth);
        Ok(by_certificate.map(|name| Identity { user: name.to_string(), revision }))
    }

    /// What can be asked of a call before its request is looked at.
    pub(super) fn authorize(&mut self, method: Method, message: &Bytes) -> Result<(), RpcError> {
        if !self.is_auth_enabled() {
            return Ok(());
        }
        match rule(method) {
            Rule::Anybody | Rule::Read | Rule::Entry | Rule::EachMessage => Ok(()),
            Rule::User | Rule::UserAndEntry => self.require_user(),
            Rule::Admin => {
                if method == Method::MemberAdd {
                    // The one request whose form etcd looks at first.
                    let request: MemberAddRequest = decode(message.clone())?;
                    cluster::peer_urls(&request.peer_urls)?;
                }
                self.require_admin()
            }
            Rule::Alarm => {
                let request: AlarmRequest = decode(message.clone())?;
                match request.action == AlarmAction::Get as i32 {
                    true => self.require_user(),
                    false => self.require_admin(),
                }
            }
        }
    }

    fn require_user(&mut self) -> Result<(), RpcError> {
        self.identity()?.map(drop).ok_or(error::USER_EMPTY)
    }

    pub(super) fn require_admin(&mut self) -> Result<(), RpcError> {
        let who = self.identity()?.unwrap_or_default();
        self.node.applier.auth.require_admin(&who).map_err(error::of_auth)
    }

    /// Whether whoever asks may have all that `walk` tells.
    fn permit<'r>(
        &mut self,
        walk: impl FnOnce(Visit<'r, '_, ApplyError>) -> Result<(), ApplyError>,
    ) -> Result<(), RpcError> {
        if !self.is_auth_enabled() {
            return Ok(());
        }
        let who = self.identity()?.unwrap_or_default();
        self.node.applier.permits(&who, walk).map_err(|error| match error {
            ApplyError::Mvcc(error) => self.read_error(error),
            ApplyError::Auth(error) => error::of_auth(error),
            // Nothing else is said of permissions.
            _ => error::PERMISSION_DENIED,
        })
    }

    pub(super) fn permit_range(&mut self, request: &RangeRequest) -> Result<(), RpcError> {
        self.permit(|visit| access::range(request, visit))
    }

    pub(super) fn permit_txn(&mut self, request: &TxnRequest) -> Result<(), RpcError> {
        self.permit(|visit| access::txn(request, visit))
    }

    /// A watch reads what it watches.
    pub(super) fn permit_watch(&mut self, key: &[u8], range_end: &[u8]) -> Result<(), RpcError> {
        let right = auth::Right::Read;
        self.permit(|visit| visit(Need::Keys { right, key, range_end }))
    }

    pub(super) fn permit_keep_alive(&mut self, lease: i64) -> Result<(), RpcError> {
        if !self.is_auth_enabled() {
            return Ok(());
        }
        // Whoever is nobody takes nothing of what the others have.
        self.require_user()?;
        let before = self.node.applier.lease_keys_checked.get();
        let permitted = self.permit(|visit| access::lease_keep_alive(lease, visit));
        self.spend_on_keys(self.node.applier.lease_keys_checked.get() - before);
        permitted
    }

    pub(super) fn permit_lease_keys(&mut self, lease: i64) -> Result<(), RpcError> {
        self.require_user_if_enabled()?;
        self.permit(|visit| access::lease_time_to_live(lease, true, visit))
    }

    pub(super) fn permit_leases(&mut self, leases: &[i64]) -> Result<(), RpcError> {
        self.require_user_if_enabled()?;
        let leases = leases.iter().copied();
        self.permit(|visit| access::lease_leases(leases, visit))
    }

    pub(super) fn require_user_if_enabled(&mut self) -> Result<(), RpcError> {
        if self.is_auth_enabled() { self.require_user() } else { Ok(()) }
    }

    /// Whether whoever asks may make a request that goes through the log; asked early where work comes before the
    /// entry.
    pub(super) fn admit_request(&mut self, request: &Request) -> Result<(), RpcError> {
        let who = self.identity()?.unwrap_or_default();
        self.node.applier.auth.admit(&who, request).map_err(error::of_auth)
    }
}

/// The reason in an answer to a watch that was not permitted, as Go prints the error.
pub fn watch_reason(denied: &RpcError) -> String {
    let known = [error::INVALID_AUTH_TOKEN, error::AUTH_OLD_REVISION, error::USER_EMPTY];
    let shown = if known.contains(denied) { denied } else { &error::PERMISSION_DENIED };
    format!("rpc error: code = {} desc = {}", shown.code.name(), shown.message)
}

impl From<AuthError> for RpcError {
    fn from(error: AuthError) -> RpcError {
        error::of_auth(error)
    }
}
