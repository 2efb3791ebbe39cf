//! Answers of `KV/Range` that are not made in one piece.
//!
//! A range above [`limits::RANGE_AT_ONCE_BYTES`] pins the state that it reads, finds the length of its
//! answer, and then makes it as fast as the connection takes it, a slice in each turn. What it costs
//! in memory does not depend on the number of keys.
//!
//! A pinned state keeps pages of the store's file from being used again, so a client that does not
//! read has its stream reset: see [`Patience`].

use prost::encoding::{bool, int64};

use super::connection::{Call, Caller, Connections, StreamKey};
use super::encode::Header;
use super::error::{self, RpcError};
use super::patience::Patience;
use super::range_stream::Fed;
use super::{Core, limits};
use crate::grpc::{self, Code};
use crate::h2::ErrorCode;
use crate::mvcc::{LargeRange, Measured, MvccError, Revisions};
use crate::proto::etcdserverpb::RangeRequest;
use crate::store::Snapshot;

pub struct LargeRangeCall {
    range: LargeRange,
    snapshot: Snapshot,
    revisions: Revisions,
    header: Header,
    caller: Caller,
    /// None until the first walk is through.
    measured: Option<Measured>,
    patience: Patience,
}

/// What a slice of work has come to.
enum Step {
    /// The connection takes no more at the moment.
    Waits,
    More,
    Done,
}

impl Core {
    /// Begins an answer that is too large for one piece. The state that is pinned is the current one.
    pub(super) fn start_large_range(
        &mut self,
        connections: &mut Connections,
        caller: Caller,
        request: &RangeRequest,
    ) {
        if self.streaming.len() >= limits::LARGE_RANGES_MAX {
            return self.reply(connections, caller, Err(error::TOO_MANY_REQUESTS));
        }
        let header = self.current_header();
        let applier = &mut self.node.applier;
        let snapshot = applier.store.snapshot();
        let revisions = applier.mvcc.revisions();
        let reader = applier.mvcc.reader_at(applier.store.view_at(&snapshot), revisions);
        let range = match LargeRange::new(request, &reader) {
            Ok(range) => range,
            Err(error) => {
                let error = self.read_error(error);
                return self.reply(connections, caller, Err(error));
            }
        };
        let Some(connection) = connections.get(caller.connection) else { return };
        if connection.forget(caller.stream).is_none() {
            return;
        }
        let call = LargeRangeCall {
            range,
            snapshot,
            revisions,
            header,
            caller,
            measured: None,
            patience: Patience::new(caller, self.now_ms),
        };
        connection.put(caller.stream, Call::LargeRange(Box::new(call)));
        self.streaming.push_back(StreamKey::new(caller.connection, caller.stream));
        self.behind_streams = true;
    }

    /// The store has been replaced, and with it what was pinned.
    pub(super) fn end_large_ranges(&mut self, connections: &mut Connections) {
        for key in std::mem::take(&mut self.streaming) {
            let is_large_range = connections.stream(key).is_some_and(|(connection, stream)| {
                matches!(connection.calls.get(&stream), Some(Call::LargeRange(_)))
            });
            if is_large_range {
                self.end_large_range(connections, key, error::LEADER_CHANGED);
            } else {
                self.streaming.push_back(key);
            }
        }
    }

    /// One slice of an answer. `budget` is what all may do in a turn.
    pub(super) fn feed_large_range(
        &mut self,
        connections: &mut Connections,
        key: StreamKey,
        budget: &mut usize,
    ) -> Fed {
        let Some((connection, stream)) = connections.stream(key) else { return Fed::IsOver };
        let room = connection.room(stream);
        let queued = connection.queued(stream);
        let Some(Call::LargeRange(call)) = connection.calls.get_mut(&stream) else {
            return Fed::IsOver;
        };
        if let Some(code) = call.patience.verdict(queued, self.now_ms) {
            let caller = call.caller;
            connection.forget(stream);
            if let Some((connection, stream)) = connections.touch_stream(key) {
                connection.reset(stream, code);
            }
            let code = match code {
                ErrorCode::CANCEL => Code::DeadlineExceeded,
                _ => Code::ResourceExhausted,
            };
            self.metrics.handled(caller.method, code);
            return Fed::IsOver;
        }
        if call.measured.is_some() && room == 0 {
            return Fed::Waits;
        }
        let caller = call.caller;
        let mut out = Vec::new();
        match self.step_large_range(call, room, &mut out, budget) {
            Ok(step) => {
                let starts = !call.patience.has_made_some() && !out.is_empty();
                call.patience.made(out.len());
                let Some((connection, stream)) = connections.touch_stream(key) else {
                    return Fed::IsOver;
                };
                if starts {
                    connection.start_stream(stream);
                }
                if let Err(error) = connection.send_bytes(stream, out) {
                    connection.forget(stream);
                    self.metrics.handled(caller.method, error.code);
                    connection.finish_stream(stream, Err(error));
                    return Fed::IsOver;
                }
                match step {
                    Step::Waits => Fed::Waits,
                    Step::More => Fed::More,
                    Step::Done => {
                        connection.forget(stream);
                        connection.finish_stream(stream, Ok(()));
                        self.metrics.handled(caller.method, Code::Ok);
                        Fed::IsOver
                    }
                }
            }
            // What is damaged is not served, however much of the answer has gone out already.
            Err(error) => {
                self.metrics.handled(caller.method, error.code);
                self.end_large_range(connections, key, error);
                Fed::IsOver
            }
        }
    }

    fn end_large_range(&self, connections: &mut Connections, key: StreamKey, error: RpcError) {
        let Some((connection, stream)) = connections.touch_stream(key) else { return };
        let Some(Call::LargeRange(call)) = connection.forget(stream) else { return };
        if !call.patience.has_made_some() {
            connections.refuse(call.caller.connection, stream, error);
        } else {
            connection.reset(stream, ErrorCode::INTERNAL_ERROR);
        }
    }

    fn step_large_range(
        &self,
        call: &mut LargeRangeCall,
        room: usize,
        out: &mut Vec<u8>,
        budget: &mut usize,
    ) -> Result<Step, RpcError> {
        let applier = &self.node.applier;
        let view = applier.store.view_at(&call.snapshot);
        let reader = applier.mvcc.reader_at(view, call.revisions);
        let failed = |error: MvccError| self.read_error(error);
        let Some(measured) = call.measured else {
            *budget = budget.saturating_sub(limits::MEASURED_SLICE_COST_BYTES);
            let slice = call.range.measure(&reader, limits::MEASURED_SLICE_KEYS).map_err(failed)?;
            if let Some(measured) = slice {
                call.begin(measured, self.now_ms, out)?;
            }
            return Ok(Step::More);
        };
        let bytes_max = room.min(*budget).min(limits::WRITTEN_SLICE_BYTES);
        // The last key goes beyond it, mostly by less than this.
        out.reserve_exact(bytes_max + limits::WRITTEN_SLICE_BYTES / 16);
        let done = call.range.write(&reader, bytes_max, out).map_err(failed)?;
        *budget = budget.saturating_sub(out.len().max(limits::WRITTEN_SLICE_BYTES / 8));
        if !done {
            return Ok(if out.len() < room { Step::More } else { Step::Waits });
        }
        write_tail(&measured, out);
        Ok(Step::Done)
    }
}

impl LargeRangeCall {
    /// The length is known: the message begins.
    fn begin(
        &mut self,
        measured: Measured,
        now_ms: u64,
        out: &mut Vec<u8>,
    ) -> Result<(), RpcError> {
        self.measured = Some(measured);
        let mut tail = Vec::new();
        write_tail(&measured, &mut tail);
        let len = self.header.field_len() as u64 + measured.kvs_len + tail.len() as u64;
        if u32::try_from(len).is_err() {
            let text = format!("grpc: message too large ({len} bytes)");
            return Err(RpcError::with(Code::ResourceExhausted, text));
        }
        self.patience.begin(len, now_ms);
        out.extend_from_slice(&grpc::encode_prefix(len as usize));
        self.header.encode(out);
        Ok(())
    }
}

fn write_tail(measured: &Measured, out: &mut Vec<u8>) {
    if measured.outcome.more {
        bool::encode(3, &true, out);
    }
    if measured.outcome.count != 0 {
        int64::encode(4, &measured.outcome.count, out);
    }
}
