//! `etcdserverpb.Watch`: the stream between a client and the watch hub.

use std::borrow::Cow;

use bytes::Bytes;
use prost::encoding::{bool, encoded_len_varint, int64, string};
use rustc_hash::FxHashMap;

use super::access::watch_reason;
use super::connection::{Call, Caller, Connections, StreamKey};
use super::dispatch::decode;
use super::encode::{Header, Message};
use super::error::RpcError;
use super::method::Method;
use super::metrics::Timing;
use super::recipes::{self, Woken};
use super::{Core, limits};
use crate::grpc;
use crate::mvcc::MvccError;
use crate::mvcc::watch::{KeyRange, NewWatcher, Sink, WatcherSlot, watch_key};
use crate::proto::etcdserverpb::watch_create_request::FilterType;
use crate::proto::etcdserverpb::watch_request::RequestUnion;
use crate::proto::etcdserverpb::{WatchCreateRequest, WatchRequest};
use crate::store::Corruption;

/// The id in answers that speak of no watcher, or of all.
const NO_WATCHER: i64 = -1;

const DUPLICATE_ID: &str = "mvcc: duplicate watch ID provided on the WatchStream";
const EMPTY_RANGE: &str = "mvcc: watcher range is empty";
const COMPACTED: &str = "etcdserver: mvcc: required revision has been compacted";
const TOO_MANY: &str = "etcdserver: too many requests";

pub struct WatchCall {
    pub decoder: grpc::Decoder,
    watchers: FxHashMap<i64, Watching>,
    next_id: i64,
    /// When the progress of this stream's watchers is looked at next.
    due_ms: u64,
}

struct Watching {
    /// None once its revision was compacted; the id stays taken until the client cancels it.
    slot: Option<WatcherSlot>,
    progress_notify: bool,
}

impl WatchCall {
    pub fn new(decoder: grpc::Decoder, due_ms: u64) -> WatchCall {
        WatchCall { decoder, watchers: FxHashMap::default(), next_id: 0, due_ms }
    }

    /// The id that a watcher gets, or why it gets none.
    fn choose_id(&mut self, wanted: i64) -> Result<i64, &'static str> {
        if wanted != 0 {
            let taken = self.watchers.contains_key(&wanted) || wanted == recipes::WATCHER;
            return if taken { Err(DUPLICATE_ID) } else { Ok(wanted) };
        }
        while self.watchers.contains_key(&self.next_id) {
            self.next_id += 1;
        }
        self.next_id += 1;
        Ok(self.next_id - 1)
    }
}

/// A `WatchResponse` without events.
#[derive(Default)]
struct Control {
    watch_id: i64,
    created: bool,
    canceled: bool,
    compact_revision: i64,
    cancel_reason: Cow<'static, str>,
}

impl Control {
    fn message(&self, header: &Header) -> Message {
        let mut message = Message::new(header, b"");
        let out = message.out();
        if self.watch_id != 0 {
            int64::encode(2, &self.watch_id, out);
        }
        for (tag, flag) in [(3, self.created), (4, self.canceled)] {
            if flag {
                bool::encode(tag, &true, out);
            }
        }
        if self.compact_revision != 0 {
            int64::encode(5, &self.compact_revision, out);
        }
        if !self.cancel_reason.is_empty() {
            string::encode(6, &self.cancel_reason.clone().into_owned(), out);
        }
        message
    }
}

/// The answer to a watch that was not made.
fn refusal(cancel_reason: Cow<'static, str>) -> Control {
    Control {
        watch_id: NO_WATCHER,
        created: true,
        canceled: true,
        cancel_reason,
        ..Control::default()
    }
}

impl Core {
    pub(super) fn watch_request(
        &mut self,
        connections: &mut Connections,
        caller: Caller,
        message: Bytes,
    ) -> Result<(), RpcError> {
        let request: WatchRequest = decode(message)?;
        let key = StreamKey::new(caller.connection, caller.stream);
        let header = self.current_header();
        let Some((connection, stream)) = connections.touch_stream(key) else { return Ok(()) };
        let Some(Call::Watch(call)) = connection.calls.get_mut(&stream) else { return Ok(()) };
        let answer = match request.request_union {
            Some(RequestUnion::CreateRequest(create)) => Some(self.create_watch(call, key, create)),
            Some(RequestUnion::CancelRequest(cancel)) => {
                call.watchers.remove(&cancel.watch_id).map(|watching| {
                    if let Some(slot) = watching.slot {
                        self.hub.cancel(slot);
                    }
                    Control { watch_id: cancel.watch_id, canceled: true, ..Control::default() }
                })
            }
            Some(RequestUnion::ProgressRequest(_)) => {
                let slots = call.watchers.values().map(|watching| watching.slot);
                let synced = !call.watchers.is_empty()
                    && slots.clone().all(|slot| slot.is_some())
                    && self.hub.all_synced(slots.flatten());
                let revision = self.hub.notified();
                if synced {
                    let control = Control { watch_id: NO_WATCHER, ..Control::default() };
                    let message = control.message(&Header { revision, ..header });
                    connection.send_message(stream, message);
                }
                return Ok(());
            }
            None => None,
        };
        if let Some(control) = answer {
            self.metrics.sent(Method::Watch, 1);
            connection.send_message(stream, control.message(&header));
        }
        Ok(())
    }

    fn create_watch(
        &mut self,
        call: &mut WatchCall,
        stream: StreamKey,
        create: WatchCreateRequest,
    ) -> Control {
        let refused = |cancel_reason: &'static str| refusal(cancel_reason.into());
        if create.start_revision < 0 {
            return refused(COMPACTED);
        }
        let key = watch_key(create.key);
        if let Err(denied) = self.permit_watch(&key, &create.range_end) {
            return refusal(watch_reason(&denied).into());
        }
        if self.hub.len() >= limits::WATCHERS_MAX {
            return refused(TOO_MANY);
        }
        let range = KeyRange::new(key, create.range_end);
        if matches!(&range, KeyRange::Between(start, end) if start >= end) {
            return refused(EMPTY_RANGE);
        }
        let id = match call.choose_id(create.watch_id) {
            Ok(id) => id,
            Err(reason) => return refused(reason),
        };
        let slot = self.hub.create(
            NewWatcher {
                stream: stream.short(),
                id,
                range,
                start_revision: create.start_revision,
                no_put: create.filters.contains(&(FilterType::Noput as i32)),
                no_delete: create.filters.contains(&(FilterType::Nodelete as i32)),
                prev_kv: create.prev_kv,
                fragment: create.fragment,
            },
            self.node.applier.mvcc.current_revision(),
        );
        let watching = Watching { slot: Some(slot), progress_notify: create.progress_notify };
        call.watchers.insert(id, watching);
        self.behind_watchers |= self.hub.unsynced() > 0;
        Control { watch_id: id, created: true, ..Control::default() }
    }

    /// New revisions go to the watchers that have seen all before; others catch up a bit.
    pub(super) fn feed_watchers(
        &mut self,
        connections: &mut Connections,
    ) -> Result<(), Corruption> {
        let (began, events_before) = (self.metrics.clock(), self.hub.events_total);
        let mut sink = StreamSink {
            connections,
            header: self.current_header(),
            woken: Vec::new(),
            sent: 0,
            fragment_bytes: self.message_bytes_max(),
        };
        let applier = &self.node.applier;
        let reader = applier.mvcc.reader(applier.store.view());
        self.hub.notify(reader, &mut sink).map_err(MvccError::into_corruption)?;
        self.behind_watchers =
            self.hub.catch_up(reader, &mut sink).map_err(MvccError::into_corruption)?;
        let woken = sink.woken;
        self.metrics.sent(Method::Watch, sink.sent);
        self.wake_recipes(connections, woken);
        let events = self.hub.events_total - events_before;
        if events > 0 {
            let took_s = self.metrics.clock() - began;
            self.metrics.observe(Timing::WatchEvents, took_s);
            self.metrics.observe(Timing::WatchEach, took_s / events as f64);
        }
        Ok(())
    }

    /// Tells quiet watchers how far the history is, where they asked for it.
    pub(super) fn notify_progress(&mut self, connections: &mut Connections, now_ms: u64) {
        if self.progress.first_key_value().is_none_or(|((due_ms, _), ())| *due_ms > now_ms) {
            return;
        }
        let began = self.metrics.clock();
        let header = self.header(self.hub.notified());
        while let Some(entry) = self.progress.first_entry()
            && entry.key().0 <= now_ms
        {
            let (due_ms, key) = *entry.key();
            entry.remove();
            let Some((connection, stream)) = connections.touch_stream(key) else { continue };
            let Some(Call::Watch(call)) = connection.calls.get_mut(&stream) else { continue };
            if call.due_ms != due_ms {
                continue;
            }
            let interval = self.options.progress_interval_ms;
            // Streams that began together do not stay together.
            call.due_ms = now_ms + interval + key.short() % (interval / 10).max(1);
            self.progress.insert((call.due_ms, key), ());
            let mut quiet = Vec::new();
            for (id, watching) in &call.watchers {
                let Some(slot) = watching.slot.filter(|_| watching.progress_notify) else {
                    continue;
                };
                if self.hub.was_quiet(slot) && self.hub.all_synced([slot]) {
                    quiet.push(*id);
                }
            }
            for watch_id in quiet {
                let control = Control { watch_id, ..Control::default() };
                connection.send_message(stream, control.message(&header));
            }
        }
        self.metrics.observe_since(Timing::WatchProgress, began);
    }

    /// A watch stream is over: so are its watchers.
    pub(super) fn end_watches(&mut self, key: StreamKey, call: WatchCall) {
        for slot in call.watchers.into_values().filter_map(|watching| watching.slot) {
            self.hub.cancel(slot);
        }
        self.progress.remove(&(call.due_ms, key));
    }
}

/// Brings events to their streams.
struct StreamSink<'a> {
    connections: &'a mut Connections,
    header: Header,
    /// What those who wait for a lock, or watch an election, have been waiting for.
    woken: Vec<Woken>,
    /// Messages so far.
    sent: u64,
    fragment_bytes: usize,
}

impl StreamSink<'_> {
    /// Sends some events; `more` marks a fragment that others follow.
    fn send(&mut self, stream: u64, id: i64, revision: i64, events: &[&[u8]], more: bool) {
        let Some(key) = self.connections.named(stream) else { return };
        let Some((connection, stream)) = self.connections.touch_stream(key) else { return };
        let header = Header { revision, ..self.header };
        let len: usize = events.iter().map(|event| event.len()).sum();
        let mut message = Message::with_capacity(header.field_len() + 16 + len);
        header.encode(message.out());
        if id != 0 {
            int64::encode(2, &id, message.out());
        }
        if more {
            bool::encode(7, &true, message.out());
        }
        for event in events {
            message.out().extend_from_slice(event);
        }
        self.sent += 1;
        connection.send_message(stream, message);
    }
}

impl Sink for StreamSink<'_> {
    fn ready(&mut self, stream: u64) -> bool {
        let key = self.connections.named(stream);
        key.and_then(|key| self.connections.stream(key))
            .is_some_and(|(connection, stream)| connection.room(stream) > 0)
    }

    fn events(&mut self, stream: u64, id: i64, fragment: bool, revision: i64, events: &[&[u8]]) {
        if id == recipes::WATCHER {
            let Some(key) = self.connections.named(stream) else { return };
            return self.woken.push(Woken::new(key, revision, events));
        }
        let header = Header { revision, ..self.header };
        let fixed =
            header.field_len() + if id == 0 { 0 } else { 1 + encoded_len_varint(id as u64) };
        let whole = fixed + events.iter().map(|event| event.len()).sum::<usize>();
        if !fragment || whole < self.fragment_bytes || events.len() < 2 {
            return self.send(stream, id, revision, events, false);
        }
        // A fragment carries its flag, two bytes more.
        let fixed = fixed + 2;
        let mut rest = events;
        while !rest.is_empty() {
            let mut size = fixed + rest[0].len();
            let mut count = 1;
            while count < rest.len() && size + rest[count].len() < self.fragment_bytes {
                size += rest[count].len();
                count += 1;
            }
            let (now, later) = rest.split_at(count);
            self.send(stream, id, revision, now, !later.is_empty());
            rest = later;
        }
    }

    fn compacted(&mut self, stream: u64, id: i64, compact_revision: i64) {
        let Some(key) = self.connections.named(stream) else { return };
        if id == recipes::WATCHER {
            return self.woken.push(Woken::new(key, compact_revision, &[]));
        }
        let Some((connection, stream)) = self.connections.touch_stream(key) else { return };
        if let Some(Call::Watch(call)) = connection.calls.get_mut(&stream)
            && let Some(watching) = call.watchers.get_mut(&id)
        {
            watching.slot = None;
        }
        let control =
            Control { watch_id: id, canceled: true, compact_revision, ..Control::default() };
        let header = Header { revision: 0, ..self.header };
        connection.send_message(stream, control.message(&header));
    }
}
