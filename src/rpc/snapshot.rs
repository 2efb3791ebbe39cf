//! `Maintenance/Snapshot`: the state of one moment as a bbolt file, which etcd's tools take.
//!
//! The state is pinned and walked twice, in slices: once to lay out the file, once to send it. The
//! file never exists as a whole; what waits for the client is bounded like any stream. Messages
//! have etcd's sizes, and the last one is the SHA-256 of all bytes before. A client that does not take
//! them in time is given up: see [`Patience`].

use bytes::Bytes;
use sha2::{Digest, Sha256};

use super::Core;
use super::connection::{Call, Caller, Connections, StreamKey};
use super::dispatch::decode;
use super::encode::Message;
use super::error::{self, RpcError};
use super::limits;
use super::method::Method;
use super::metrics::Timing;
use super::patience::Patience;
use crate::apply::export::{Export, Item, Versions};
use crate::bbolt::{Leaves, Plan, Planner};
use crate::grpc::Code;
use crate::mvcc::MvccError;
use crate::proto::etcdserverpb::{SnapshotRequest, SnapshotResponse};

/// etcd's `snapshotSendBufferSize`.
const BLOB_BYTES: usize = 32 << 10;

pub struct SnapshotCall {
    export: Export,
    stage: Stage,
    patience: Patience,
    hash: Sha256,
    since_ms: u64,
    /// Of the storage, which each message tells.
    version: String,
    /// Bytes of the file that were not sent yet, and how many will still be made.
    ready: Vec<u8>,
    remaining: u64,
    /// The file's last byte is in `ready`.
    is_made: bool,
}

enum Stage {
    Planning(Box<Planner>),
    Sending(Leaves),
    Sent,
}

impl Core {
    pub(super) fn snapshot(
        &mut self,
        connections: &mut Connections,
        caller: Caller,
        message: Bytes,
    ) -> Result<(), RpcError> {
        self.authorize(caller.method, &message)?;
        let _: SnapshotRequest = decode(message)?;
        let Some(connection) = connections.get(caller.connection) else { return Ok(()) };
        if self.snapshots.len() >= limits::SNAPSHOTS_MAX {
            return Err(error::TOO_MANY_REQUESTS);
        }
        let versions = Versions {
            cluster: self.cluster_version().to_owned(),
            downgrade: self.node.applier.downgrade.clone(),
        };
        let call = SnapshotCall {
            export: Export::begin(&mut self.node.applier, versions),
            stage: Stage::Planning(Box::default()),
            patience: Patience::new(caller, self.now_ms),
            hash: Sha256::new(),
            since_ms: caller.since_ms,
            version: self.cluster_version().to_owned(),
            ready: Vec::new(),
            remaining: 0,
            is_made: false,
        };
        tracing::info!("sending database snapshot to client");
        connection.put(caller.stream, Call::Snapshot(Box::new(call)));
        self.snapshots.push_back(StreamKey::new(caller.connection, caller.stream));
        Ok(())
    }

    /// One slice of each snapshot whose client takes more.
    pub(super) fn feed_snapshots(&mut self, connections: &mut Connections) {
        self.behind_snapshots = false;
        for _ in 0..self.snapshots.len() {
            let Some(key) = self.snapshots.pop_front() else { break };
            if self.feed_snapshot(connections, key) {
                self.snapshots.push_back(key);
            }
        }
    }

    /// The state that these calls have pinned is no more: another member's has taken its place.
    pub(super) fn end_snapshots(&mut self, connections: &mut Connections) {
        for key in std::mem::take(&mut self.snapshots) {
            let Some((connection, stream)) = connections.touch_stream(key) else { continue };
            let Some(Call::Snapshot(call)) = connection.forget(stream) else { continue };
            if matches!(call.stage, Stage::Planning(_)) {
                let id = connection.id;
                connections.refuse(id, stream, error::LEADER_CHANGED);
            } else {
                connection.finish_stream(stream, Err(error::LEADER_CHANGED));
            }
        }
    }

    /// Tells whether the snapshot goes on.
    fn feed_snapshot(&mut self, connections: &mut Connections, key: StreamKey) -> bool {
        let Some((connection, stream)) = connections.stream(key) else { return false };
        let (room, queued) = (connection.room(stream), connection.queued(stream));
        let Some(Call::Snapshot(call)) = connection.calls.get_mut(&stream) else { return false };
        if let Some(code) = call.patience.verdict(queued, self.now_ms) {
            tracing::warn!("the client of a database snapshot takes too long; giving it up");
            connection.forget(stream);
            if let Some((connection, stream)) = connections.touch_stream(key) {
                connection.reset(stream, code);
            }
            return false;
        }
        if room == 0 {
            return true;
        }
        let Some((connection, stream)) = connections.touch_stream(key) else { return false };
        let Some(Call::Snapshot(call)) = connection.calls.get_mut(&stream) else { return false };
        let was_planning = matches!(call.stage, Stage::Planning(_));
        match call.step(&self.node.applier.store, self.now_ms) {
            Ok(messages) => {
                let done = matches!(call.stage, Stage::Sent);
                let since_ms = call.since_ms;
                self.metrics.sent(Method::Snapshot, messages.len() as u64);
                if was_planning && !matches!(call.stage, Stage::Planning(_)) {
                    connection.start_stream(stream);
                }
                for message in messages {
                    connection.send_message(stream, message);
                }
                if done {
                    tracing::info!("successfully sent database snapshot to client");
                    connection.forget(stream);
                    connection.finish_stream(stream, Ok(()));
                    self.metrics.handled(Method::Snapshot, Code::Ok);
                    let took_ms = self.now_ms.saturating_sub(since_ms);
                    self.metrics.observe(Timing::Snapshot, took_ms as f64 / 1e3);
                    return false;
                }
                self.behind_snapshots = true;
                true
            }
            Err(error) => {
                let error = self.read_error(error);
                self.metrics.handled(Method::Snapshot, error.code);
                connection.forget(stream);
                if was_planning {
                    let id = connection.id;
                    connections.refuse(id, stream, error);
                } else {
                    connection.finish_stream(stream, Err(error));
                }
                false
            }
        }
    }
}

impl SnapshotCall {
    /// Goes on for one slice; gives the messages that have become ready.
    fn step(
        &mut self,
        store: &crate::store::Store,
        now_ms: u64,
    ) -> Result<Vec<Message>, MvccError> {
        match &mut self.stage {
            Stage::Planning(planner) => {
                let more =
                    self.export.step(
                        store,
                        limits::SNAPSHOT_SLICE_BYTES,
                        &mut |item| match item {
                            Item::Bucket(name) => planner.bucket(name),
                            Item::Entry(key, value) => planner.entry(key, value.len()),
                        },
                    )?;
                if !more {
                    let plan = std::mem::take(planner).finish();
                    self.begin_sending(plan, now_ms);
                }
                Ok(Vec::new())
            }
            Stage::Sending(leaves) => {
                if !self.is_made && self.ready.len() < BLOB_BYTES {
                    let ready = &mut self.ready;
                    self.is_made =
                        !self.export.step(store, limits::SNAPSHOT_SLICE_BYTES, &mut |item| {
                            match item {
                                Item::Bucket(_) => leaves.bucket(ready),
                                Item::Entry(key, value) => leaves.entry(key, value, ready),
                            }
                        })?;
                    if self.is_made {
                        leaves.finish(ready);
                    }
                }
                let mut messages = self.blobs();
                if self.is_made && self.ready.is_empty() {
                    let hash = std::mem::take(&mut self.hash).finalize();
                    messages.push(self.message(Bytes::copy_from_slice(&hash)));
                    self.stage = Stage::Sent;
                }
                Ok(messages)
            }
            Stage::Sent => Ok(Vec::new()),
        }
    }

    fn begin_sending(&mut self, plan: Plan, now_ms: u64) {
        self.patience.begin(plan.bytes, now_ms);
        self.export.rewind();
        self.remaining = plan.bytes;
        self.stage = Stage::Sending(Leaves::new(&plan));
        self.ready = plan.head;
    }

    /// What is ready, in messages of one size; at the end also the last, smaller one.
    fn blobs(&mut self) -> Vec<Message> {
        let mut len = self.ready.len().min(limits::SNAPSHOT_SLICE_BYTES);
        if !self.is_made || len < self.ready.len() {
            len -= len % BLOB_BYTES;
        }
        let ready: Vec<u8> = self.ready.drain(..len).collect();
        self.hash.update(&ready);
        let ready = Bytes::from(ready);
        let mut messages = Vec::with_capacity(len.div_ceil(BLOB_BYTES));
        for start in (0..len).step_by(BLOB_BYTES) {
            let blob = ready.slice(start..len.min(start + BLOB_BYTES));
            self.remaining -= blob.len() as u64;
            messages.push(self.message(blob));
        }
        messages
    }

    fn message(&mut self, blob: Bytes) -> Message {
        let message = Message::of(&SnapshotResponse {
            header: None,
            remaining_bytes: self.remaining,
            blob,
            version: self.version.clone(),
        });
        self.patience.made(message.body_len());
        message
    }
}
