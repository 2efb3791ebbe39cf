//! Answers of `KV/Range` that are not made in one piece.
//!
//! A range above [`limits::RANGE_AT_ONCE_BYTES`] pins the state that it reads, finds the length of its
//! answer, and then makes it as fast as the connection takes it, a slice in each turn. What it costs
//! in memory does not depend on the number of keys.
//!
//! A pinned state keeps pages of the store's file from being used again, so a client that does not
//! read has its stream reset: see [`limits::LARGE_RANGE_STALL_MS`].

use prost::encoding::{bool, int64};

use super::connection::{Call, Caller, Connections, StreamKey};
use super::encode::Header;
use super::error::{self, RpcError};
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
    /// Bytes of the answer that were given to the connection, and how many it had taken when that
    /// was last looked at.
    made: u64,
    taken: u64,
    taken_ms: u64,
    /// The client gives up at this time, or is given up.
    deadline_ms: u64,
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
            made: 0,
            taken: 0,
            taken_ms: self.now_ms,
            deadline_ms: if caller.is_clients_deadline { caller.deadline_ms } else { u64::MAX },
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

    /// One slice of an answer. Tells whether it has more to do; `budget` is what all may do in a turn.
    pub(super) fn feed_large_range(
        &mut self,
        connections: &mut Connections,
        key: StreamKey,
        budget: &mut usize,
    ) -> bool {
        let Some((connection, stream)) = connections.stream(key) else { return false };
        let room = connection.room(stream);
        let queued = connection.queued(stream) as u64;
        let Some(Call::LargeRange(call)) = connection.calls.get_mut(&stream) else { return false };
        if call.is_overdue(queued, self.now_ms) {
            let caller = call.caller;
            connection.forget(stream);
            if let Some((connection, stream)) = connections.touch_stream(key)
                && let Some(h2) = connection.h2()
            {
                h2.reset(stream, ErrorCode::ENHANCE_YOUR_CALM);
            }
            self.metrics.handled(caller.method, Code::ResourceExhausted);
            return false;
        }
        if call.measured.is_some() && room == 0 {
            return true;
        }
        let caller = call.caller;
        let mut out = Vec::new();
        match self.step_large_range(call, room, &mut out, budget) {
            Ok(step) => {
                let starts = call.made == 0 && !out.is_empty();
                call.made += out.len() as u64;
                let Some((connection, stream)) = connections.touch_stream(key) else {
                    return false;
                };
                if starts {
                    connection.start_stream(stream);
                }
                connection.send_bytes(stream, out);
                match step {
                    Step::Waits => true,
                    Step::More => {
                        self.behind_streams = true;
                        true
                    }
                    Step::Done => {
                        connection.forget(stream);
                        connection.finish_stream(stream, Ok(()));
                        self.metrics.handled(caller.method, Code::Ok);
                        false
                    }
                }
            }
            // What is damaged is not served, however much of the answer has gone out already.
            Err(error) => {
                self.metrics.handled(caller.method, error.code);
                self.end_large_range(connections, key, error);
                false
            }
        }
    }

    fn end_large_range(&self, connections: &mut Connections, key: StreamKey, error: RpcError) {
        let Some((connection, stream)) = connections.touch_stream(key) else { return };
        let Some(Call::LargeRange(call)) = connection.forget(stream) else { return };
        if call.made == 0 {
            connections.refuse(call.caller.connection, stream, error);
        } else if let Some(h2) = connection.h2() {
            h2.reset(stream, ErrorCode::INTERNAL_ERROR);
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
                call.begin(measured, out)?;
            }
            return Ok(Step::More);
        };
        let bytes_max = room.min(*budget).min(limits::WRITTEN_SLICE_BYTES);
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
    /// Whether the client has taken too long, or has no use for the answer any more. As long as nothing waits
    /// for it, it is not the client that is slow.
    fn is_overdue(&mut self, queued: u64, now_ms: u64) -> bool {
        let taken = self.made.saturating_sub(queued);
        if taken > self.taken || queued == 0 {
            self.taken = taken;
            self.taken_ms = now_ms;
        }
        now_ms >= self.deadline_ms || now_ms - self.taken_ms >= limits::LARGE_RANGE_STALL_MS
    }

    /// The length is known: the message begins.
    fn begin(&mut self, measured: Measured, out: &mut Vec<u8>) -> Result<(), RpcError> {
        self.measured = Some(measured);
        let mut tail = Vec::new();
        write_tail(&measured, &mut tail);
        let len = self.header.field_len() as u64 + measured.kvs_len + tail.len() as u64;
        if u32::try_from(len).is_err() {
            let text = format!("grpc: message too large ({len} bytes)");
            return Err(RpcError::with(Code::ResourceExhausted, text));
        }
        let slow_ms = len / limits::LARGE_RANGE_BYTES_PER_MS_MIN;
        let last_ms = self.taken_ms + limits::LARGE_RANGE_STALL_MS + slow_ms;
        self.deadline_ms = self.deadline_ms.min(last_ms);
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
