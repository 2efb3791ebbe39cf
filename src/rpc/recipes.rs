//! Locks and elections (`v3lockpb.Lock`, `v3electionpb.Election`): recipes of several steps that the server carries
//! out for simple clients.
//!
//! Who wants a lock puts a key `name/LEASE` and has it when no key below `name/` is older. A call is a small state
//! machine over the operations that everybody has: proposals, reads, and watchers of one key. While it waits it costs
//! a watcher of the key before its own, so a release wakes one waiter.
//!
//! The errors are those of etcd's client, which etcd's server uses for this: their code is Unknown.

use bytes::Bytes;

use super::connection::{Call, Caller, Connections, StreamKey};
use super::dispatch::decode;
use super::encode::{Header, Message};
use super::error::{self, RpcError};
use super::kv::{Then, apply_error};
use super::method::Method;
use super::validate::{self, cost};
use super::{Answer, Core, Read, limits};
use crate::apply::envelope::Kind;
use crate::apply::{ApplyError, Reply};
use crate::grpc::Code;
use crate::mvcc::watch::{KeyRange, NewWatcher, WatcherSlot};
use crate::proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use crate::proto::etcdserverpb::range_request::{SortOrder, SortTarget};
use crate::proto::etcdserverpb::response_op::Response;
use crate::proto::etcdserverpb::{
    Compare, DeleteRangeRequest, LeaseGrantRequest, PutRequest, RangeRequest, RangeResponse,
    RequestOp, TxnRequest, TxnResponse, request_op,
};
use crate::proto::mvccpb::{Event, KeyValue, event::EventType};
use crate::proto::v3electionpb::{
    CampaignRequest, CampaignResponse, LeaderKey, LeaderRequest, LeaderResponse, ProclaimRequest,
    ResignRequest,
};
use crate::proto::v3lockpb::{LockRequest, LockResponse, UnlockRequest};

/// etcd's `defaultSessionTTL`: the lease of who brings none.
const SESSION_TTL_S: i64 = 60;

/// The watcher's id that marks it as one of a recipe; clients' ids are never that.
pub const WATCHER: i64 = i64::MIN;

const NO_LEADER_KEY: RpcError = RpcError::new(Code::Unknown, "\"leader\" field must be provided");
const NO_ELECTION_LEADER: RpcError = RpcError::new(Code::Unknown, "election: no leader");
const NOT_ELECTION_LEADER: RpcError = RpcError::new(Code::Unknown, "election: not leader");
const SESSION_EXPIRED: RpcError = RpcError::new(Code::Unknown, "mutex: session is expired");

/// What a call is for.
enum Goal {
    Lock,
    Unlock,
    Campaign { name: Bytes, value: Bytes },
    Proclaim { value: Bytes },
    Resign,
    Leader,
    Observe { announced: Bytes },
}

/// A proposal of a recipe that has been applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    Granted,
    Acquired,
    Proclaimed,
    Left,
}

pub struct Recipe {
    caller: Caller,
    goal: Goal,
    /// The name with a slash: the beginning of all keys of this lock or election.
    prefix: Bytes,
    lease: i64,
    /// The caller's own key, and the revision at which it was made; 0 before.
    key: Bytes,
    revision: i64,
    /// Of the answer.
    header: Header,
    watcher: Option<WatcherSlot>,
    has_waited: bool,
}

impl Recipe {
    /// Puts the call's own key.
    fn put(&self, value: Bytes) -> RequestOp {
        let (key, lease) = (self.key.clone(), self.lease);
        let put = PutRequest { key, value, lease, ..PutRequest::default() };
        RequestOp { request: Some(request_op::Request::RequestPut(put)) }
    }

    /// A new value of a key that is still the one that was put.
    fn proclamation(&self, value: Bytes) -> TxnRequest {
        let compare = vec![made_at(&self.key, self.revision)];
        TxnRequest { compare, success: vec![self.put(value)], failure: vec![] }
    }

    pub fn method(&self) -> Method {
        self.caller.method
    }

    /// It has begun its answer.
    pub fn is_stream(&self) -> bool {
        matches!(self.goal, Goal::Observe { .. })
    }
}

impl Method {
    pub fn is_recipe(self) -> bool {
        use Method::{Campaign, Leader, Lock, Observe, Proclaim, Resign, Unlock};
        matches!(self, Lock | Unlock | Campaign | Proclaim | Leader | Observe | Resign)
    }
}

impl Core {
    /// The one message of such a call.
    pub(super) fn recipe(
        &mut self,
        connections: &mut Connections,
        caller: Caller,
        message: Bytes,
    ) -> Result<(), RpcError> {
        if self.node.is_learner() {
            return Err(error::NOT_FOR_LEARNER);
        }
        let recipe = |goal, prefix: Bytes, lease, key| Recipe {
            caller,
            goal,
            prefix,
            lease,
            key,
            revision: 0,
            header: Header::default(),
            watcher: None,
            has_waited: false,
        };
        let below = |name: &Bytes| Bytes::from([name, &b"/"[..]].concat());
        let begin = match caller.method {
            Method::Lock => {
                let request: LockRequest = decode(message)?;
                recipe(Goal::Lock, below(&request.name), request.lease, Bytes::new())
            }
            Method::Campaign => {
                let CampaignRequest { name, lease, value } = decode(message)?;
                let prefix = below(&name);
                recipe(Goal::Campaign { name, value }, prefix, lease, Bytes::new())
            }
            Method::Unlock => {
                let request: UnlockRequest = decode(message)?;
                recipe(Goal::Unlock, Bytes::new(), -1, request.key)
            }
            Method::Proclaim => {
                let request: ProclaimRequest = decode(message)?;
                let leader = request.leader.ok_or(NO_LEADER_KEY)?;
                let goal = Goal::Proclaim { value: request.value };
                Recipe {
                    revision: leader.rev,
                    ..recipe(goal, leader.name, leader.lease, leader.key)
                }
            }
            Method::Resign => {
                let request: ResignRequest = decode(message)?;
                let leader = request.leader.ok_or(NO_LEADER_KEY)?;
                Recipe {
                    revision: leader.rev,
                    ..recipe(Goal::Resign, leader.name, leader.lease, leader.key)
                }
            }
            _ => {
                let request: LeaderRequest = decode(message)?;
                let goal = match caller.method {
                    Method::Observe => Goal::Observe { announced: Bytes::new() },
                    _ => Goal::Leader,
                };
                recipe(goal, below(&request.name), -1, Bytes::new())
            }
        };
        if self.recipes >= limits::RECIPES_MAX {
            return Err(error::TOO_MANY_REQUESTS);
        }
        let Some(connection) = connections.touch(caller.connection) else { return Ok(()) };
        self.recipes += 1;
        let (is_stream, lease) = (begin.is_stream(), begin.lease);
        connection.put(caller.stream, Call::Recipe(Box::new(begin)));
        if is_stream {
            connection.start_stream(caller.stream);
        }
        if matches!(caller.method, Method::Leader | Method::Observe) {
            self.reads.push(Read::Recipe(caller))?;
        } else if lease == 0 {
            let id = (self.node.fresh_id() & i64::MAX as u64) as i64;
            let grant = LeaseGrantRequest { id, ttl: SESSION_TTL_S };
            with_recipe(connections, caller, |recipe| recipe.lease = id);
            let result = match self.node.admit(cost::LEASE) {
                true => self.require_user_if_enabled(),
                false => Err(error::NO_SPACE),
            };
            self.recipe_proposes(
                connections,
                caller,
                result,
                Step::Granted,
                Kind::LeaseGrant,
                &grant,
            );
        } else {
            self.recipe_acts(connections, caller);
        }
        Ok(())
    }

    /// The session is there: what the call wants to change is proposed.
    fn recipe_acts(&mut self, connections: &mut Connections, caller: Caller) {
        let request = with_recipe(connections, caller, |recipe| {
            let (value, owner) = match &recipe.goal {
                Goal::Lock => (Bytes::new(), Some(range(oldest(&recipe.prefix)))),
                Goal::Campaign { value, .. } => (value.clone(), None),
                Goal::Proclaim { value } => {
                    return Some((Step::Proclaimed, recipe.proclamation(value.clone())));
                }
                Goal::Resign => {
                    return Some((Step::Left, resignation(&recipe.key, recipe.revision)));
                }
                Goal::Unlock | Goal::Leader | Goal::Observe { .. } => return None,
            };
            recipe.key = Bytes::from([&recipe.prefix, hex(recipe.lease).as_bytes()].concat());
            let get = range(RangeRequest { key: recipe.key.clone(), ..RangeRequest::default() });
            let txn = TxnRequest {
                compare: vec![made_at(&recipe.key, 0)],
                success: [recipe.put(value)].into_iter().chain(owner.clone()).collect(),
                failure: [get].into_iter().chain(owner).collect(),
            };
            Some((Step::Acquired, txn))
        });
        match request {
            Some(Some((step, txn))) => {
                let result = self.check_recipe_txn(&txn);
                self.recipe_proposes(connections, caller, result, step, Kind::Txn, &txn);
            }
            Some(None) => {
                let key = with_recipe(connections, caller, |recipe| recipe.key.clone());
                let request =
                    DeleteRangeRequest { key: key.unwrap_or_default(), ..Default::default() };
                let result = validate::delete_range(&request);
                let kind = Kind::DeleteRange;
                self.recipe_proposes(connections, caller, result, Step::Left, kind, &request);
            }
            None => {}
        }
    }

    fn check_recipe_txn(&mut self, txn: &TxnRequest) -> Result<(), RpcError> {
        if !self.node.admit(cost::txn(txn)) {
            return Err(error::NO_SPACE);
        }
        validate::txn(txn, self.options.max_txn_ops)
    }

    fn recipe_proposes(
        &mut self,
        connections: &mut Connections,
        caller: Caller,
        checked: Result<(), RpcError>,
        step: Step,
        kind: Kind,
        request: &impl prost::Message,
    ) {
        // The call may wait as long as its client does, each of its steps may not.
        let deadline_ms = self.now_ms + self.options.request_timeout_ms;
        let asking = Caller { deadline_ms, is_clients_deadline: false, ..caller };
        self.ask_for_caller(connections, caller);
        let answer = match checked {
            Ok(()) => self.propose(asking, kind, &request.encode_to_vec(), Then::Recipe(step)),
            Err(error) => error.into(),
        };
        self.ask_for_nobody();
        if let Answer::Now(result) = answer {
            self.reply(connections, caller, result);
        }
    }

    /// A proposal has been applied, and maybe changed nothing.
    pub(super) fn recipe_applied(
        &mut self,
        connections: &mut Connections,
        caller: Caller,
        step: Step,
        result: Result<Reply, ApplyError>,
    ) {
        let reply = match result {
            Ok(reply) => reply,
            Err(error) => return self.reply(connections, caller, Err(apply_error(&error))),
        };
        let header = self.header(reply.revision);
        let txn = || <TxnResponse as prost::Message>::decode(&reply.body[..]).unwrap_or_default();
        match step {
            Step::Granted => self.recipe_acts(connections, caller),
            Step::Left => self.reply(connections, caller, Ok(Message::new(&header, b""))),
            Step::Proclaimed => {
                let is_campaign = with_recipe(connections, caller, |recipe| {
                    matches!(recipe.goal, Goal::Campaign { .. })
                });
                if !txn().succeeded {
                    self.reply(connections, caller, Err(NOT_ELECTION_LEADER));
                } else if is_campaign == Some(true) {
                    self.recipe_waits(connections, caller);
                } else {
                    self.reply(connections, caller, Ok(Message::new(&header, b"")));
                }
            }
            Step::Acquired => self.recipe_acquired(connections, caller, header, &txn()),
        }
    }

    /// The call's own key is there, since now or since earlier.
    fn recipe_acquired(
        &mut self,
        connections: &mut Connections,
        caller: Caller,
        header: Header,
        txn: &TxnResponse,
    ) {
        let own = first_kv(txn, 0).filter(|_| !txn.succeeded);
        let proclaims = with_recipe(connections, caller, |recipe| {
            recipe.header = header;
            recipe.revision = own.map_or(header.revision, |own| own.create_revision);
            match &recipe.goal {
                Goal::Campaign { value, .. } => {
                    own.filter(|own| own.value != value).map(|_| recipe.proclamation(value.clone()))
                }
                _ => None,
            }
        });
        match proclaims {
            Some(Some(txn)) => {
                let checked = self.check_recipe_txn(&txn);
                let step = Step::Proclaimed;
                self.recipe_proposes(connections, caller, checked, step, Kind::Txn, &txn);
            }
            Some(None) => self.recipe_waits(connections, caller),
            None => {}
        }
    }

    /// Who has no older one before it has reached its goal; others watch the one before.
    ///
    /// What has been applied here is new enough to tell: keys that are older than the own one can only go.
    fn recipe_waits(&mut self, connections: &mut Connections, caller: Caller) {
        let before = with_recipe(connections, caller, |recipe| {
            let before = RangeRequest {
                max_create_revision: recipe.revision - 1,
                sort_order: SortOrder::Descend as i32,
                ..oldest(&recipe.prefix)
            };
            // A lock that had to be waited for is worth nothing if its session has ended meanwhile.
            (before, recipe.has_waited && matches!(recipe.goal, Goal::Lock))
        });
        let Some((before, is_checked)) = before else { return };
        match self.range_now(connections, caller, &before).map(|found| found.kvs.into_iter().next())
        {
            Ok(Some(kv)) => {
                let watcher = self.recipe_watcher(caller, KeyRange::new(kv.key, Bytes::new()), 0);
                let current = self.node.applier.mvcc.current_revision();
                let slot = self.hub.create(NewWatcher { no_put: true, ..watcher }, current);
                self.keep_watcher(connections, caller, slot);
                with_recipe(connections, caller, |recipe| recipe.has_waited = true);
            }
            Ok(None) if is_checked => self.recipe_asks(connections, caller),
            Ok(None) => self.recipe_done(connections, caller),
            Err(error) => self.reply(connections, caller, Err(error)),
        }
    }

    /// The call goes on when a linearization point is reached.
    fn recipe_asks(&mut self, connections: &mut Connections, caller: Caller) {
        match self.reads.push(Read::Recipe(caller)) {
            Ok(()) => {}
            Err(error) if caller.method == Method::Observe => {
                self.end_observing(connections, caller, Err(error));
            }
            Err(error) => self.reply(connections, caller, Err(error)),
        }
    }

    fn recipe_watcher(&self, caller: Caller, range: KeyRange, start_revision: i64) -> NewWatcher {
        NewWatcher {
            stream: StreamKey::new(caller.connection, caller.stream).short(),
            id: WATCHER,
            range,
            start_revision,
            no_put: false,
            no_delete: false,
            prev_kv: false,
            fragment: false,
        }
    }

    fn keep_watcher(&mut self, connections: &mut Connections, caller: Caller, slot: WatcherSlot) {
        let before = with_recipe(connections, caller, |recipe| recipe.watcher.replace(slot));
        match before {
            Some(Some(before)) => self.hub.cancel(before),
            Some(None) => {}
            None => self.hub.cancel(slot),
        }
    }

    /// The goal of a lock or a campaign has been reached.
    fn recipe_done(&mut self, connections: &mut Connections, caller: Caller) {
        let message = with_recipe(connections, caller, |recipe| {
            let body = match &recipe.goal {
                Goal::Campaign { name, .. } => {
                    let leader = LeaderKey {
                        name: name.clone(),
                        key: recipe.key.clone(),
                        rev: recipe.revision,
                        lease: recipe.lease,
                    };
                    let response = CampaignResponse { header: None, leader: Some(leader) };
                    prost::Message::encode_to_vec(&response)
                }
                _ => prost::Message::encode_to_vec(&LockResponse {
                    header: None,
                    key: recipe.key.clone(),
                }),
            };
            // What it has it keeps.
            recipe.revision = 0;
            Message::new(&recipe.header, &body)
        });
        if let Some(message) = message {
            self.reply(connections, caller, Ok(message));
        }
    }

    /// A linearization point has been reached.
    pub(super) fn recipe_reads(&mut self, connections: &mut Connections, caller: Caller) {
        let range = with_recipe(connections, caller, |recipe| match recipe.goal {
            Goal::Lock => RangeRequest { key: recipe.key.clone(), ..RangeRequest::default() },
            _ => oldest(&recipe.prefix),
        });
        let Some(range) = range else { return };
        let found = match self.range_now(connections, caller, &range) {
            Ok(found) => found.kvs.into_iter().next(),
            Err(_) if caller.method == Method::Observe => {
                // etcd gives no reason.
                return self.end_observing(connections, caller, Ok(()));
            }
            Err(error) => return self.reply(connections, caller, Err(error)),
        };
        let header = self.current_header();
        match (caller.method, found) {
            (Method::Lock, None) => self.reply(connections, caller, Err(SESSION_EXPIRED)),
            (Method::Lock, Some(_)) => {
                with_recipe(connections, caller, |recipe| recipe.header = header);
                self.recipe_done(connections, caller);
            }
            (Method::Leader, None) => self.reply(connections, caller, Err(NO_ELECTION_LEADER)),
            (Method::Leader, Some(kv)) => {
                self.reply(connections, caller, Ok(leader(&header, kv)));
            }
            (_, found) => self.observe(connections, caller, &header, found),
        }
    }

    /// Tells who leads, and watches the leader's key; without a leader, all keys of the election.
    fn observe(
        &mut self,
        connections: &mut Connections,
        caller: Caller,
        header: &Header,
        found: Option<KeyValue>,
    ) {
        let next = header.revision + 1;
        let watcher = match &found {
            Some(kv) => {
                self.recipe_watcher(caller, KeyRange::new(kv.key.clone(), Bytes::new()), next)
            }
            None => {
                let prefix = with_recipe(connections, caller, |recipe| recipe.prefix.clone());
                let Some(prefix) = prefix else { return };
                let end = range_end(&prefix);
                let watcher = self.recipe_watcher(caller, KeyRange::new(prefix, end), next);
                NewWatcher { no_delete: true, ..watcher }
            }
        };
        let slot = self.hub.create(watcher, header.revision);
        self.behind_watchers |= self.hub.unsynced() > 0;
        self.keep_watcher(connections, caller, slot);
        with_recipe(connections, caller, |recipe| {
            if let Goal::Observe { announced } = &mut recipe.goal {
                *announced = found.as_ref().map_or_else(Bytes::new, |kv| kv.key.clone());
            }
        });
        if let Some(kv) = found
            && let Some(connection) = connections.touch(caller.connection)
        {
            self.metrics.sent(caller.method, 1);
            connection.send_message(caller.stream, leader(header, kv));
        }
    }

    /// Whoever cannot see the election any more hears no more of it.
    fn end_observing(
        &mut self,
        connections: &mut Connections,
        caller: Caller,
        result: Result<(), RpcError>,
    ) {
        if let Some(connection) = connections.touch(caller.connection)
            && let Some(Call::Recipe(recipe)) = connection.forget(caller.stream)
        {
            let code = result.as_ref().err().map_or(Code::Ok, |error| error.code);
            connection.finish_stream(caller.stream, result);
            self.metrics.handled(caller.method, code);
            self.abandon_recipe(*recipe);
        }
    }

    /// Events of watchers of recipes.
    pub(super) fn wake_recipes(&mut self, connections: &mut Connections, woken: Vec<Woken>) {
        for Woken { key, revision, events } in woken {
            let Some((connection, stream)) = connections.stream(key) else { continue };
            let Some(Call::Recipe(recipe)) = connection.calls.get_mut(&stream) else { continue };
            let caller = recipe.caller;
            let Goal::Observe { announced } = &recipe.goal else {
                if let Some(slot) = recipe.watcher.take() {
                    self.hub.cancel(slot);
                }
                self.recipe_waits(connections, caller);
                continue;
            };
            let mut leads = announced.clone();
            if events.is_empty() {
                // What it wanted to see is compacted.
                self.recipe_asks(connections, caller);
            }
            for event in events {
                let is_put = event.r#type == EventType::Put as i32;
                let Some(kv) = event.kv else { continue };
                if !leads.is_empty() && kv.key != leads {
                    continue;
                }
                if !is_put {
                    // The leader has gone; who has come after it is looked up.
                    self.recipe_asks(connections, caller);
                    break;
                }
                if leads.is_empty() {
                    leads = kv.key.clone();
                    let header = self.header(kv.mod_revision);
                    self.observe(connections, caller, &header, Some(kv));
                    break;
                }
                let header = self.header(revision);
                if let Some(connection) = connections.touch(caller.connection) {
                    self.metrics.sent(caller.method, 1);
                    connection.send_message(caller.stream, leader(&header, kv));
                }
            }
        }
    }

    /// A call ends: with an answer, or with an error, which is then the client's of etcd.
    pub(super) fn end_recipe(
        &mut self,
        connections: &mut Connections,
        caller: Caller,
        result: Result<Message, RpcError>,
    ) -> Result<Message, RpcError> {
        if let Some(connection) = connections.get(caller.connection)
            && matches!(connection.calls.get(&caller.stream), Some(Call::Recipe(_)))
            && let Some(Call::Recipe(recipe)) = connection.forget(caller.stream)
        {
            connection.put(caller.stream, Call::Waiting);
            self.abandon_recipe(*recipe);
        }
        result.map_err(|error| match error.code {
            Code::Canceled | Code::DeadlineExceeded => error,
            _ => RpcError { code: Code::Unknown, ..error },
        })
    }

    /// Nobody waits any more: what was put on the way to the goal is taken away.
    pub(super) fn abandon_recipe(&mut self, recipe: Recipe) {
        self.recipes -= 1;
        if let Some(slot) = recipe.watcher {
            self.hub.cancel(slot);
        }
        if recipe.revision == 0 {
            return;
        }
        if !matches!(recipe.goal, Goal::Lock | Goal::Campaign { .. }) {
            return;
        }
        // It was this server that put the key, whoever may do what now. An error means that the lease will
        // have to do it.
        let root = self.node.applier.auth.root();
        let txn = resignation(&recipe.key, recipe.revision);
        let txn = prost::Message::encode_to_vec(&txn);
        let _ = self.node.propose_for(root.as_ref(), Kind::Txn as u32, &txn);
    }

    /// A small range of the applied state.
    fn range_now(
        &mut self,
        connections: &mut Connections,
        caller: Caller,
        request: &RangeRequest,
    ) -> Result<RangeResponse, RpcError> {
        self.ask_for_caller(connections, caller);
        let permitted = self.permit_range(request);
        self.ask_for_nobody();
        permitted?;
        let message = self.range_up_to(request, limits::RANGE_AT_ONCE_BYTES)?;
        let message = message.ok_or(error::REQUEST_TOO_LARGE)?;
        prost::Message::decode(message.body()).map_err(|_| error::MALFORMED_MESSAGE)
    }
}

/// What a watcher of a recipe has seen.
pub struct Woken {
    pub key: StreamKey,
    pub revision: i64,
    pub events: Vec<Event>,
}

impl Woken {
    /// `fields`: each a whole field `events` of a `WatchResponse`.
    pub fn new(key: StreamKey, revision: i64, fields: &[&[u8]]) -> Woken {
        use crate::proto::etcdserverpb::WatchResponse;
        let response: WatchResponse =
            prost::Message::decode(fields.concat().as_slice()).unwrap_or_default();
        Woken { key, revision, events: response.events }
    }
}

/// Changes the recipe of a caller, if it is still there.
fn with_recipe<T>(
    connections: &mut Connections,
    caller: Caller,
    change: impl FnOnce(&mut Recipe) -> T,
) -> Option<T> {
    let connection = connections.touch(caller.connection)?;
    match connection.calls.get_mut(&caller.stream) {
        Some(Call::Recipe(recipe)) => Some(change(recipe)),
        _ => None,
    }
}

/// As Go prints a signed number in base 16.
fn hex(lease: i64) -> String {
    let sign = if lease < 0 { "-" } else { "" };
    format!("{sign}{:x}", lease.unsigned_abs())
}

/// The end of the range of all keys that begin like this; a slash is never the last of all bytes.
fn range_end(prefix: &[u8]) -> Bytes {
    let mut end = prefix.to_vec();
    if let Some(last) = end.last_mut() {
        *last += 1;
    }
    end.into()
}

/// The oldest key below a prefix.
fn oldest(prefix: &Bytes) -> RangeRequest {
    RangeRequest {
        key: prefix.clone(),
        range_end: range_end(prefix),
        limit: 1,
        sort_order: SortOrder::Ascend as i32,
        sort_target: SortTarget::Create as i32,
        ..RangeRequest::default()
    }
}

/// The comparison that a key was made at a revision; 0 is never.
fn made_at(key: &Bytes, revision: i64) -> Compare {
    Compare {
        result: CompareResult::Equal as i32,
        target: CompareTarget::Create as i32,
        key: key.clone(),
        target_union: Some(TargetUnion::CreateRevision(revision)),
        ..Compare::default()
    }
}

fn resignation(key: &Bytes, revision: i64) -> TxnRequest {
    let delete = DeleteRangeRequest { key: key.clone(), ..Default::default() };
    let delete = RequestOp { request: Some(request_op::Request::RequestDeleteRange(delete)) };
    TxnRequest { compare: vec![made_at(key, revision)], success: vec![delete], failure: vec![] }
}

fn range(request: RangeRequest) -> RequestOp {
    RequestOp { request: Some(request_op::Request::RequestRange(request)) }
}

/// The first key of the range that stands at a place of a transaction's answer.
fn first_kv(txn: &TxnResponse, at: usize) -> Option<&KeyValue> {
    match txn.responses.get(at)?.response.as_ref()? {
        Response::ResponseRange(range) => range.kvs.first(),
        _ => None,
    }
}

fn leader(header: &Header, kv: KeyValue) -> Message {
    let response = LeaderResponse { header: None, kv: Some(kv) };
    Message::new(header, &prost::Message::encode_to_vec(&response))
}
