//! The server as a state machine: requests in, proposals and reads, answers out.
//!
//! The shell hands in the bytes of connections, the time and the completions of disk operations,
//! and takes out bytes and disk operations; it decides nothing. One file for each service; one
//! table (`method`) of what is answered at all.
//!
//! The life of a call: `receive` parses, validates and proposes (or notes a read); `turn` moves the
//! node and hands its outcomes back to the callers; connections with something to send are listed
//! once a turn (`drain_dirty`), so that each sends once.
//!
//! Every queue has its bound in `limits`.

mod access;
mod auth;
mod cluster;
mod connection;
mod debug;
mod dispatch;
mod encode;
mod error;
mod gateway;
mod health;
mod http;
mod http1;
mod keepalive;
mod kv;
mod large_range;
mod lease;
mod limits;
mod maintenance;
mod method;
mod metrics;
mod patience;
mod range_stream;
mod reads;
mod recipes;
mod reflection;
mod snapshot;
#[cfg(test)]
mod tests;
mod validate;
mod watch;
mod websocket;

use std::cell::Cell;
use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use rustc_hash::FxHashMap;

pub use access::{Options as AuthOptions, TokenKind};
pub use connection::ConnId;
pub use http::Access;
pub use limits::{PASSWORDS_IN_FLIGHT_MAX, PENDING_PROPOSALS_MAX};
pub use metrics::{Metrics, Timing};

use crate::apply::Notice;
use crate::auth::jwt::Verified;
use crate::grpc::Code;
use crate::h2::{self, ErrorCode, Sink};
use crate::mvcc::watch::WatchHub;
use crate::node::{Late, Node, Output, PeerMessage, SnapshotOp, StopReason};
use crate::proto::etcdserverpb::LeaseTimeToLiveRequest;
use crate::raft::NodeId;
use crate::store::{self, Corruption, Store};
use access::{Parked, Presented};
use auth::Passwords;
use connection::{Call, Caller, Connections, Protocol, StreamKey};
use debug::Traces;
use encode::{Header, Message};
use error::RpcError;
use gateway::GatewayAnswers;
use maintenance::HashTask;
use metrics::Count;
use reads::{Read, Reads};

/// What a listener serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListenerKind {
    Client,
    /// gRPC alone, with `--listen-client-http-urls`.
    Grpc,
    /// `--listen-client-http-urls`: HTTP/1.1 alone.
    Http,
    /// `--listen-metrics-urls`: HTTP/1.1 only.
    Metrics,
}

/// The settings of the request layer.
#[derive(Clone, Debug)]
pub struct Options {
    pub max_txn_ops: usize,
    pub max_request_bytes: usize,
    /// A request without an answer after so long is given up (etcd: 5 s + 2 election timeouts).
    pub request_timeout_ms: u64,
    pub progress_interval_ms: u64,
    /// Learners that the cluster may have (`--max-learners`).
    pub max_learners: usize,
    pub auth: AuthOptions,
    /// Whether `/v3/` is answered, and whom plain HTTP answers.
    pub gateway: bool,
    /// What takes longer is logged.
    pub warning_request_ms: u64,
    pub warning_apply_ms: u64,
    pub access: Access,
    /// Whether `/debug/pprof/` is answered, and whether calls are kept for `/debug/requests`.
    pub pprof: bool,
    pub traces: bool,
    /// For `/debug/vars`.
    pub command_line: Vec<String>,
    pub fds_max: u64,
    /// Bounds of each HTTP/2 connection.
    pub h2: h2::Limits,
}

/// An answer: now, or when the node has got that far.
enum Answer {
    Now(Result<Message, RpcError>),
    /// A range that can be answered now, however large.
    Range(crate::proto::etcdserverpb::RangeRequest),
    Later,
}

impl From<RpcError> for Answer {
    fn from(error: RpcError) -> Answer {
        Answer::Now(Err(error))
    }
}

/// A proposal that somebody waits for.
struct Proposal {
    caller: Caller,
    then: kv::Then,
    since_ms: u64,
}

pub struct Server {
    core: Core,
    connections: Connections,
}

/// Everything but the connections.
struct Core {
    node: Node,
    hub: WatchHub,
    options: Options,
    metrics: Metrics,
    traces: Traces,
    proposals: FxHashMap<u64, Proposal>,
    reads: Reads,
    /// Compact calls with `physical`, until the compaction is done.
    physical: Vec<(Caller, i64)>,
    defragments: Vec<(Caller, u64)>,
    transfers: Vec<(Caller, NodeId)>,
    hashes: VecDeque<HashTask>,
    passwords: Passwords,
    verified: Verified,
    /// What whoever makes the call that is being handled has presented; looked at while auth is enabled.
    presented: Presented,
    /// Calls that wait until their tokens are known here.
    parked: BTreeMap<StreamKey, Parked>,
    stopping: bool,
    /// RangeStream calls that wait for their connection to take more.
    streaming: VecDeque<StreamKey>,
    /// Snapshot calls.
    snapshots: VecDeque<StreamKey>,
    /// Questions about leases that the leader has not answered, by their numbers.
    keep_alives: FxHashMap<u64, StreamKey>,
    keep_alive_turns: keepalive::Turns,
    lease_queries: FxHashMap<u64, (Caller, LeaseTimeToLiveRequest)>,
    /// Locks and elections under way.
    recipes: usize,
    gateway_answers: GatewayAnswers,
    /// When watch streams look at the progress of their watchers.
    progress: BTreeMap<(u64, StreamKey), ()>,
    output: Output,
    /// For other members, until the shell takes them.
    messages: Vec<(NodeId, PeerMessage)>,
    /// The shell has not been told yet who the other members are.
    peers_changed: bool,
    /// A compaction has been removing since then.
    compacting_since_ms: Option<u64>,
    /// A page that a read has met and refused since the last turn.
    damage: Cell<Option<Corruption>>,
    next_scan_ms: u64,
    /// The time as of the last call that named it.
    now_ms: u64,
    /// Milliseconds since 1970 when that time was 0, if the clock had always gone as it does now.
    unix_ms_at_zero: u64,
    /// A connection has taken output that something waited for.
    drained: bool,
    /// Watchers, or range streams, have more to send at once.
    behind_watchers: bool,
    behind_streams: bool,
    behind_snapshots: bool,
}

impl Server {
    pub fn new(node: Node, options: Options, metrics: Metrics, now_ms: u64) -> Server {
        let revision = node.applier.mvcc.current_revision();
        Server {
            core: Core {
                node,
                hub: WatchHub::new(revision),
                options,
                metrics,
                traces: Traces::default(),
                proposals: FxHashMap::default(),
                reads: Reads::default(),
                physical: Vec::new(),
                defragments: Vec::new(),
                transfers: Vec::new(),
                hashes: VecDeque::new(),
                passwords: Passwords::default(),
                verified: Verified::default(),
                presented: Presented::default(),
                parked: BTreeMap::new(),
                stopping: false,
                streaming: VecDeque::new(),
                snapshots: VecDeque::new(),
                keep_alives: FxHashMap::default(),
                keep_alive_turns: keepalive::Turns::default(),
                lease_queries: FxHashMap::default(),
                recipes: 0,
                gateway_answers: GatewayAnswers::default(),
                progress: BTreeMap::new(),
                output: Output::default(),
                messages: Vec::new(),
                peers_changed: true,
                compacting_since_ms: None,
                damage: Cell::new(None),
                next_scan_ms: now_ms,
                now_ms,
                unix_ms_at_zero: 0,
                drained: false,
                behind_watchers: false,
                behind_streams: false,
                behind_snapshots: false,
            },
            connections: Connections::default(),
        }
    }

    /// Whether requests can be served: a leader is known and has committed in its term.
    pub fn is_ready(&self) -> bool {
        self.core.node.is_ready()
    }

    pub fn node(&self) -> &Node {
        &self.core.node
    }

    pub fn metrics(&mut self) -> &mut Metrics {
        &mut self.core.metrics
    }

    /// A new connection, unless there are too many.
    pub fn connect(&mut self, kind: ListenerKind, now_ms: u64) -> Option<ConnId> {
        if self.core.stopping {
            return None;
        }
        self.connections.insert(kind, now_ms)
    }

    /// What the clock of the machine shows when the time that is handed in is `now_ms`. It may be set, and goes on
    /// while the machine sleeps, so this is to be told again and again; only what others read by such a clock
    /// is judged by it.
    pub fn set_wall_clock(&mut self, unix_ms: u64, now_ms: u64) {
        self.core.unix_ms_at_zero = unix_ms.saturating_sub(now_ms);
    }

    /// Whether a connection is to be closed because its client spoke TLS where none is spoken.
    pub fn spoke_tls(&mut self, id: ConnId) -> bool {
        self.connections.get(id).is_some_and(|connection| connection.spoke_tls)
    }

    /// The peer has closed, or the connection broke.
    pub fn disconnect(&mut self, id: ConnId) {
        let Some(mut connection) = self.connections.remove(id) else { return };
        for (stream, call) in connection.calls.drain() {
            if let Some(method) = call.method() {
                self.core.metrics.handled(method, Code::Canceled);
            }
            self.core.abandon(StreamKey::new(id, stream), call);
        }
    }

    pub fn drain_dirty(&mut self, into: &mut Vec<ConnId>) {
        self.connections.drain_dirty(into);
    }

    pub fn take_output(&mut self, id: ConnId, max: usize, out: &mut impl Sink) {
        let before = out.len();
        self.connections.take_output(id, max, out);
        self.core.metrics.count(Count::SentBytes, (out.len() - before) as u64);
        let core = &self.core;
        let waiting =
            !core.streaming.is_empty() || !core.snapshots.is_empty() || core.hub.unsynced() > 0;
        self.core.drained |= waiting && !out.is_empty();
        if let Some(connection) = self.connections.get(id)
            && let Protocol::Http1(http1) = &connection.protocol
            && http1.has_more()
        {
            // Requests that have come behind the one that is answered now.
            let now_ms = self.core.now_ms;
            self.drain_http1(id, now_ms);
        }
    }

    pub fn should_close(&mut self, id: ConnId) -> bool {
        self.connections.should_close(id)
    }

    pub fn wants_read(&mut self, id: ConnId) -> bool {
        !self.core.node.is_choked()
            && self.connections.get(id).is_some_and(|connection| connection.wants_read())
    }

    /// Bytes that arrived on a connection.
    pub fn receive(&mut self, id: ConnId, input: Bytes, now_ms: u64) {
        self.core.now_ms = now_ms;
        self.core.metrics.count(Count::ReceivedBytes, input.len() as u64);
        let Some(connection) = self.connections.touch(id) else { return };
        let Some(input) = connection.sniff(input, &self.core.options.h2) else { return };
        match &mut connection.protocol {
            Protocol::Unknown(_) => {}
            Protocol::Http2(h2) => {
                let fatal = h2.receive(input, now_ms).is_err();
                self.drain_events(id, now_ms);
                if fatal && let Some(connection) = self.connections.touch(id) {
                    connection.close_after_flush();
                }
            }
            Protocol::Http1(http1) => {
                http1.receive(&input);
                self.drain_http1(id, now_ms);
            }
        }
    }

    /// The part of a turn that others wait for: what is new for the log and for other members, before
    /// anything is applied. Returns how many entries there are to apply, which takes its time.
    pub fn begin_turn(&mut self, now_ms: u64) -> usize {
        let core = &mut self.core;
        core.now_ms = now_ms;
        core.ask_reads();
        core.node.begin_turn(now_ms, &mut core.messages);
        core.node.unapplied()
    }

    /// Moves everything forward. `Err` means that the store is damaged: the member must stop.
    pub fn turn(&mut self, now_ms: u64) -> Result<(), Corruption> {
        let core = &mut self.core;
        core.now_ms = now_ms;
        core.drained = false;
        core.resume_keep_alives(&mut self.connections);
        core.ask_reads();
        let mut output = std::mem::take(&mut core.output);
        let began = core.metrics.clock();
        let result = core.node.turn(now_ms, &mut output);
        if !output.outcomes.is_empty() {
            let mean_s = (core.metrics.clock() - began) / output.outcomes.len() as f64;
            for outcome in output.outcomes.drain(..) {
                core.note_applied(&outcome, mean_s);
                core.finish_proposal(&mut self.connections, outcome);
            }
        }
        for (id, refusal) in output.refusals.drain(..) {
            core.refuse_proposal(&mut self.connections, id, refusal);
        }
        core.messages.append(&mut output.messages);
        for transferred in output.transferred.drain(..) {
            core.metrics.transferred(transferred);
        }
        for notice in output.notices.drain(..) {
            core.notice(&mut self.connections, &notice);
        }
        for (number, answer) in output.lease_answers.drain(..) {
            core.finish_lease(&mut self.connections, number, answer);
        }
        for context in output.lost_reads.drain(..) {
            core.metrics.count(Count::ReadIndexSlow, 1);
            core.reads.ask_again(context);
        }
        for context in output.reads.drain(..) {
            core.finish_reads(&mut self.connections, context);
        }
        core.output = output;
        result?;
        self.resume_parked();
        let core = &mut self.core;
        core.feed_watchers(&mut self.connections)?;
        core.node.background(now_ms)?;
        core.feed_streams(&mut self.connections);
        core.feed_snapshots(&mut self.connections);
        core.step_hashes(&mut self.connections);
        core.finish_waiting(&mut self.connections);
        core.notify_progress(&mut self.connections, now_ms);
        core.give_up(&mut self.connections, now_ms);
        if core.node.is_leaderless() {
            self.end_streams_without_leader();
        }
        self.connections.timeout(now_ms);
        if let Some(corruption) = self.core.damage.take() {
            self.core.node.report_damage(corruption);
        }
        Ok(())
    }

    /// Streams that asked for a leader end when there has been none for long.
    fn end_streams_without_leader(&mut self) {
        if !self.connections.any_needs_leader() {
            return;
        }
        for id in self.connections.ids() {
            let Some(connection) = self.connections.get(id) else { continue };
            for stream in std::mem::take(&mut connection.needs_leader) {
                self.fail(id, stream, error::NO_LEADER);
            }
        }
    }

    /// Begins the end: clients are told to go elsewhere, streams end, calls in progress are finished.
    ///
    /// A leader hands leadership over first, so that the others need not miss it. That takes an
    /// election timeout at most.
    pub fn stop(&mut self, _now_ms: u64) {
        self.core.stopping = true;
        if self.core.node.raft().is_leader()
            && let Some(to) = self.core.node.successor()
        {
            // It fails only for who is no voter.
            let _ = self.core.node.transfer_leadership(to);
        }
        self.core.node.stop();
        for id in self.connections.ids() {
            let Some(connection) = self.connections.touch(id) else { continue };
            let streams: Vec<_> =
                connection.calls.iter().map(|(stream, call)| (*stream, call.is_stream())).collect();
            for (stream, _) in streams.into_iter().filter(|(_, endless)| *endless) {
                self.fail(id, stream, error::STOPPED);
            }
            let Some(connection) = self.connections.touch(id) else { continue };
            match connection.h2() {
                Some(h2) => h2.go_away(ErrorCode::NO_ERROR, b""),
                None => connection.close_after_flush(),
            }
        }
    }

    /// Whether, after `stop`, no call waits for an answer.
    pub fn is_drained(&self) -> bool {
        let core = &self.core;
        core.proposals.is_empty()
            && core.reads.is_empty()
            && core.passwords.is_empty()
            && core.node.raft().transfer_target().is_none()
    }

    /// Whether the store holds everything that was applied, or cannot be made to.
    pub fn is_stopped(&self) -> bool {
        self.core.node.is_stopped()
    }

    /// When `turn` has to be called at the latest.
    pub fn next_deadline(&self, now_ms: u64) -> u64 {
        let core = &self.core;
        let behind = core.behind_watchers || core.behind_streams || core.behind_snapshots;
        let busy = core.drained || behind || core.keep_alive_turns.is_awaited();
        if busy || core.reads.has_new() || !core.hashes.is_empty() {
            return now_ms;
        }
        let mut deadline = core.node.next_deadline(now_ms).min(self.connections.next_timeout());
        let waits = !core.proposals.is_empty()
            || !core.transfers.is_empty()
            || !core.passwords.is_empty()
            || !core.parked.is_empty();
        if waits || !core.reads.waits_for_nothing() {
            deadline = deadline.min(core.next_scan_ms);
        }
        if let Some(((due, _), ())) = core.progress.first_key_value() {
            deadline = deadline.min(*due);
        }
        deadline
    }

    /// A message of another member, which the transport has seen to come from there.
    pub fn receive_peer(&mut self, from: NodeId, message: PeerMessage, now_ms: u64) {
        self.core.node.receive(from, message, now_ms);
    }

    /// What the last turns have for other members, to be sent at once.
    pub fn take_messages(&mut self) -> Vec<(NodeId, PeerMessage)> {
        std::mem::take(&mut self.core.messages)
    }

    /// The other members and the URLs where they listen to members, when this has changed since it
    /// was last asked.
    pub fn take_peers(&mut self) -> Option<Vec<(NodeId, Vec<String>)>> {
        let changed = std::mem::take(&mut self.core.peers_changed);
        let peers = || self.core.node.peers().map(|(id, urls)| (id, urls.to_vec())).collect();
        changed.then(peers)
    }

    /// The link to a member has broken: what was sent there may be lost.
    pub fn unreachable(&mut self, id: NodeId) {
        self.core.node.unreachable(id);
    }

    /// Why this member has to end, if it has. To be asked after each turn.
    pub fn stop_reason(&self) -> Option<StopReason> {
        self.core.node.stop_reason()
    }

    pub fn next_log_op(&mut self, now_us: u64) -> Option<(wal::OpId, wal::Op)> {
        self.core.node.next_log_op(now_us)
    }

    pub fn log_op_done(&mut self, op: wal::OpId, now_us: u64) {
        self.core.node.log_op_done(op, now_us);
    }

    /// The answers of a turn are sent. In how many microseconds the log is to be asked again.
    pub fn answers_sent(&mut self, now_us: u64) -> Option<u64> {
        self.core.node.answers_sent(now_us)
    }

    pub fn log_no_space(&mut self, op: wal::OpId) {
        self.core.node.log_no_space(op);
    }

    pub fn next_store_op(&mut self) -> Option<(store::OpId, store::Op)> {
        self.core.node.next_store_op()
    }

    pub fn store_op_done(&mut self, op: store::OpId, now_ms: u64) {
        self.core.node.store_op_done(op, now_ms);
    }

    /// Bytes of the store's file to be read on another thread before `scrub` is called.
    pub fn take_scrub_window(&mut self) -> Option<std::ops::Range<u64>> {
        self.core.output.scrub_window.take()
    }

    pub fn scrub(&mut self, now_ms: u64) {
        self.core.node.scrub(now_ms);
    }

    /// Memory for the store's dirty pages, made ready by another thread.
    pub fn give_store_memory(&mut self, memory: store::FrameMemory) {
        self.core.node.applier.store.give_memory(memory);
    }

    pub fn store_no_space(&mut self, op: store::OpId, now_ms: u64) {
        self.core.node.store_no_space(op, now_ms);
    }

    /// The next thing to do to the file of a state that arrives from another member.
    pub fn next_snapshot_op(&mut self) -> Option<SnapshotOp> {
        self.core.node.next_snapshot_op()
    }

    pub fn snapshot_created(&mut self, store: Store) {
        self.core.node.snapshot_created(store);
    }

    pub fn snapshot_store_op_done(&mut self, op: store::OpId) {
        self.core.node.snapshot_store_op_done(op);
    }

    pub fn snapshot_no_space(&mut self, op: Option<store::OpId>) {
        self.core.node.snapshot_no_space(op);
    }

    pub fn snapshot_discarded(&mut self) {
        self.core.node.snapshot_discarded();
    }

    pub fn snapshot_installed(&mut self, now_ms: u64) {
        self.core.node.snapshot_installed(now_ms);
    }
}

impl Core {
    fn header(&self, revision: i64) -> Header {
        let metadata = self.node.metadata();
        Header {
            cluster_id: metadata.cluster_id,
            member_id: metadata.member_id,
            revision,
            raft_term: self.node.raft().term().0,
        }
    }

    fn current_header(&self) -> Header {
        self.header(self.node.applier.mvcc.current_revision())
    }

    /// Milliseconds since 1970, by the clock that the machine shows to others.
    fn unix_ms(&self) -> u64 {
        self.unix_ms_at_zero.saturating_add(self.now_ms)
    }

    /// The bound on one message of a client.
    fn message_bytes_max(&self) -> usize {
        self.options.max_request_bytes + limits::GRPC_OVERHEAD_BYTES
    }

    /// Answers when a linearization point is reached, unless too many wait for one.
    fn read_later(&mut self, read: Read) -> Answer {
        match self.reads.push(read) {
            Ok(()) => Answer::Later,
            Err(error) => error.into(),
        }
    }

    /// One linearization point for all reads since the last turn.
    fn ask_reads(&mut self) {
        self.reads.ask(|| self.node.read());
    }

    fn finish_reads(&mut self, connections: &mut Connections, context: u64) {
        for read in self.reads.reached(context) {
            self.finish_read(connections, read);
        }
    }

    fn finish_read(&mut self, connections: &mut Connections, read: Read) {
        if let Some(caller) = read.caller() {
            self.ask_for_caller(connections, caller);
        }
        self.answer_read(connections, read);
        self.ask_for_nobody();
    }

    fn answer_read(&mut self, connections: &mut Connections, read: Read) {
        let (caller, result) = match read {
            Read::Range(caller, request) => {
                return self.answer_range(connections, caller, &request);
            }
            Read::Txn(caller, request) => (caller, self.txn_now(&request)),
            Read::MemberList(caller) => (caller, self.member_list_now()),
            Read::LeaseTimeToLive(caller, request) => {
                return self.ask_time_to_live(caller, request);
            }
            Read::Alarms(caller, alarm) => (caller, self.alarms_now(alarm)),
            Read::Login(caller, login) => return self.check_password(connections, caller, login),
            Read::Downgrade(caller, asked) => {
                return self.downgrade_now(connections, caller, asked);
            }
            Read::Recipe(caller) => return self.recipe_reads(connections, caller),
            Read::RangeStream(caller) => {
                return self.start_range_stream(connections, caller);
            }
            Read::Http(id, stream, request) => {
                return self.answer_http(connections, id, stream, request, true);
            }
        };
        self.reply(connections, caller, result);
    }

    fn reply(
        &mut self,
        connections: &mut Connections,
        caller: Caller,
        result: Result<Message, RpcError>,
    ) {
        let result = match caller.method.is_recipe() {
            true => self.end_recipe(connections, caller, result),
            false => result,
        };
        let code = result.as_ref().err().map_or(Code::Ok, |error| error.code);
        self.metrics.handled(caller.method, code);
        let is_ok = code == Code::Ok;
        let took_ms = self.now_ms.saturating_sub(caller.since_ms);
        self.metrics.answered(caller.method, is_ok, took_ms);
        if self.options.traces {
            let bytes = result.as_ref().map_or(0, Message::body_len);
            self.traces.add(caller.method, caller.since_ms, took_ms, code, bytes);
        }
        // Locks and campaigns wait for others: that they take long says nothing.
        if took_ms > self.options.warning_request_ms && !caller.method.is_recipe() {
            tracing::warn!(
                "time spent" = format!("{took_ms}ms"),
                "response type" = caller.method.describe().path,
                code = code.name(),
                "response size" = result.as_ref().map_or(0, Message::body_len),
                "request stats"
            );
        }
        self.metrics.sent(caller.method, u64::from(is_ok));
        connections.reply(caller, result);
    }

    fn notice(&mut self, connections: &mut Connections, notice: &Notice) {
        match notice {
            Notice::LeaseRevoked(_) | Notice::AlarmsChanged => {}
            Notice::LeaseGranted { ttl_s } => {
                self.metrics.observe(Timing::LeaseTtl, *ttl_s as f64);
            }
            Notice::MembersChanged => self.peers_changed = true,
            Notice::ClusterVersionChanged { from } => self.cluster_version_changed(from),
            Notice::StateReplaced => {
                self.hub.replaced(self.node.applier.mvcc.current_revision());
                self.end_snapshots(connections);
                self.end_large_ranges(connections);
            }
        }
    }

    /// Calls that wait for work in the background to be done.
    fn finish_waiting(&mut self, connections: &mut Connections) {
        let is_compacting = self.node.applier.mvcc.compaction_pending();
        match self.compacting_since_ms {
            None if is_compacting => self.compacting_since_ms = Some(self.now_ms),
            Some(since_ms) if !is_compacting => {
                self.metrics.compacted(self.now_ms - since_ms, self.unix_ms());
                self.compacting_since_ms = None;
            }
            _ => {}
        }
        if !self.physical.is_empty() && !self.node.applier.mvcc.compaction_pending() {
            for (caller, revision) in std::mem::take(&mut self.physical) {
                let message = Message::new(&self.header(revision), b"");
                self.reply(connections, caller, Ok(message));
            }
        }
        self.finish_defragments(connections);
        self.finish_transfers(connections);
    }

    /// Gives up calls whose time is over. Their proposals may still be applied.
    fn give_up(&mut self, connections: &mut Connections, now_ms: u64) {
        if now_ms < self.next_scan_ms {
            return;
        }
        self.next_scan_ms = now_ms + limits::DEADLINE_SCAN_MS;
        let mut late: Vec<(Caller, RpcError)> = Vec::new();
        let node = &self.node;
        self.proposals.retain(|_, proposal| {
            let over = proposal.caller.deadline_ms <= now_ms;
            if over {
                let error = match node.why_late(proposal.since_ms) {
                    Late::Unknown => error::TIMEOUT,
                    Late::LeaderFailure => error::TIMEOUT_LEADER_FAILURE,
                    Late::ConnectionLost => error::TIMEOUT_CONNECTION_LOST,
                };
                late.push((proposal.caller, error));
            }
            !over
        });
        self.transfers.retain(|(caller, _)| {
            let over = caller.deadline_ms <= now_ms;
            if over {
                late.push((*caller, error::TRANSFER_TIMEOUT));
            }
            !over
        });
        let given_up = self.passwords.give_up(now_ms);
        late.extend(given_up.into_iter().map(|caller| (caller, error::TIMEOUT)));
        for caller in self.reads.give_up(now_ms) {
            self.metrics.count(Count::ReadIndexFailed, 1);
            late.push((caller, error::TIMEOUT));
        }
        for (caller, why) in late {
            if caller.is_clients_deadline {
                self.metrics.handled(caller.method, Code::DeadlineExceeded);
                if let Some(call) = connections.cancel(caller.connection, caller.stream) {
                    self.abandon(StreamKey::new(caller.connection, caller.stream), call);
                }
            } else {
                self.reply(connections, caller, Err(why));
            }
        }
        for (id, stream, method) in connections.overdue(now_ms) {
            if let Some(call) = connections.cancel(id, stream) {
                self.metrics.handled(method, Code::DeadlineExceeded);
                self.abandon(StreamKey::new(id, stream), call);
            }
        }
    }

    /// A stream has gone away.
    fn abandon(&mut self, key: StreamKey, call: Call) {
        if !self.parked.is_empty() {
            self.parked.remove(&key);
        }
        match call {
            Call::Watch(call) => self.end_watches(key, call),
            Call::Recipe(recipe) => self.abandon_recipe(*recipe),
            Call::KeepAlive(call) => self.abandon_keep_alive(&call),
            // They are few, and those that are counted here keep others out.
            Call::Snapshot(_) => self.snapshots.retain(|other| *other != key),
            Call::Open(_)
            | Call::Waiting
            | Call::RangeStream(_)
            | Call::LargeRange(_)
            | Call::HealthWatch
            | Call::Reflection(_)
            | Call::Plain(_) => {}
        }
    }
}
