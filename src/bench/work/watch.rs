//! Fan-out: watchers of one prefix, puts below it, and how long each event is on its way.
//!
//! A value begins with the moment at which its put was to begin, by the clock of the run; so whoever
//! gets the event knows how old it is.

use super::super::client::{Method, Want};
use super::super::options::Options;
use super::super::stats::Stats;
use super::super::wire::{self, Fields, Malformed, Value};
use super::simple::Space;
use super::{DELIVERY, Draw, LongStream, Reaction, Request, SlotId, Via, Work};

/// Octets of a value that hold when its put began.
pub const STAMP_BYTES: usize = 8;

const PUT: usize = 0;
const DELIVERED: usize = 1;

pub struct Watch {
    space: Space,
    streams: Vec<LongStream>,
    progress: Vec<Progress>,
    has_prev_kv: bool,
    is_idle: bool,
    value: Vec<u8>,
    watchers: u64,
    puts: u64,
    delivered: u64,
}

/// The watchers of one stream, which are created one after the other.
#[derive(Clone, Copy, Debug, Default)]
struct Progress {
    wanted: u64,
    created: u64,
}

impl Watch {
    pub fn new(options: &Options) -> Watch {
        let watchers = options.watchers();
        let streams = options.watch_streams() as u64;
        let share = |stream: u64| watchers / streams + u64::from(stream < watchers % streams);
        Watch {
            space: Space::new(options),
            streams: (0..streams as usize)
                .map(|stream| LongStream {
                    method: Method::Watch,
                    connection: stream % options.connections,
                })
                .collect(),
            progress: (0..streams)
                .map(|stream| Progress { wanted: share(stream), created: 0 })
                .collect(),
            has_prev_kv: options.prev_kv,
            is_idle: options.idle,
            value: Vec::new(),
            watchers,
            puts: 0,
            delivered: 0,
        }
    }

    fn create(&self, message: &mut Vec<u8>) {
        let range = (self.space.keys.prefix(), &self.space.keys.end()[..]);
        create_request(range, self.has_prev_kv, false, message);
    }
}

/// `WatchRequest.create_request` 1: key 1, range_end 2, progress_notify 4, prev_kv 6.
pub fn create_request(
    (key, range_end): (&[u8], &[u8]),
    has_prev_kv: bool,
    has_progress: bool,
    message: &mut Vec<u8>,
) {
    wire::nested(1, message, |out| {
        wire::bytes(1, key, out);
        wire::bytes(2, range_end, out);
        wire::flag(4, has_progress, out);
        wire::flag(6, has_prev_kv, out);
    });
}

/// A value with its stamp in front.
#[inline]
pub fn stamp(value: &mut Vec<u8>, start_ns: u64, random: &[u8]) {
    value.clear();
    value.extend_from_slice(random);
    if let Some(head) = value.first_chunk_mut::<STAMP_BYTES>() {
        *head = start_ns.to_le_bytes();
    }
}

/// What a `WatchResponse` says.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Told {
    pub is_created: bool,
    pub cancelled: Option<String>,
    pub events: u64,
}

/// Reads a response, and records each event that carries a stamp of what is measured.
///
/// `WatchResponse`: created 3, canceled 4, cancel_reason 6, events 11; `Event`: kv 2; `KeyValue`:
/// value 5.
pub fn read_response(
    message: &[u8],
    operation: usize,
    now_ns: u64,
    stats: &mut Stats,
) -> Result<Told, Malformed> {
    let mut told = Told::default();
    let mut is_cancelled = false;
    let mut reason: &[u8] = &[];
    let mut fields = Fields(message);
    while let Some(field) = fields.next()? {
        match field {
            (3, Value::Number(created)) => told.is_created = created != 0,
            (4, Value::Number(cancelled)) => is_cancelled = cancelled != 0,
            (6, Value::Bytes(text)) => reason = text,
            (11, Value::Bytes(event)) => {
                told.events += 1;
                let value = Fields(Fields(event).bytes(2)?).bytes(5)?;
                if let Some(stamp) = value.first_chunk::<STAMP_BYTES>() {
                    let start_ns = u64::from_le_bytes(*stamp);
                    if start_ns >= stats.start_ns && start_ns <= now_ns {
                        stats.done(operation, start_ns, now_ns);
                    }
                }
            }
            _ => {}
        }
    }
    if is_cancelled {
        told.cancelled = Some(String::from_utf8_lossy(reason).into_owned());
    }
    Ok(told)
}

impl Work for Watch {
    fn operations(&self) -> &'static [&'static str] {
        &["put", DELIVERY]
    }

    fn prepare(&mut self, draw: Draw<'_>) -> Option<Request> {
        self.space.prepare(draw)
    }

    fn next(&mut self, _: SlotId, mut draw: Draw<'_>) -> Request {
        self.space.draw_key(&mut draw);
        stamp(&mut self.value, draw.start_ns, self.space.values.draw(draw.random));
        super::keys::put(&self.space.key, &self.value, draw.message);
        Request { via: Via::Unary(Method::Put), operation: PUT, want: Want::Nothing, tag: 0 }
    }

    fn finished(&mut self, _: SlotId, _: u64, is_ok: bool) {
        self.puts += u64::from(is_ok && self.is_set_up());
    }

    fn streams(&self) -> &[LongStream] {
        &self.streams
    }

    fn open_stream(&mut self, stream: usize, message: &mut Vec<u8>) -> bool {
        self.progress[stream].created = 0;
        self.create(message);
        true
    }

    fn stream_message(
        &mut self,
        stream: usize,
        message: &[u8],
        now_ns: u64,
        stats: &mut Stats,
    ) -> Result<Reaction, Malformed> {
        let told = read_response(message, DELIVERED, now_ns, stats)?;
        self.delivered += told.events;
        if let Some(reason) = told.cancelled {
            stats.failed(now_ns, "watch canceled", &reason);
        } else if told.is_created {
            let progress = &mut self.progress[stream];
            progress.created += 1;
            if progress.created < progress.wanted {
                let mut message = Vec::new();
                self.create(&mut message);
                return Ok(Reaction::Send(message));
            }
        }
        Ok(Reaction::Nothing)
    }

    fn is_set_up(&self) -> bool {
        self.progress.iter().all(|progress| progress.created >= progress.wanted)
    }

    fn is_passive(&self) -> bool {
        self.is_idle
    }

    fn missing(&self) -> u64 {
        (self.puts * self.watchers).saturating_sub(self.delivered)
    }
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::*;
    use crate::proto::{etcdserverpb as pb, mvccpb};

    fn event(value: &[u8]) -> mvccpb::Event {
        let kv = mvccpb::KeyValue {
            key: "k".into(),
            value: value.to_vec().into(),
            ..Default::default()
        };
        mvccpb::Event { kv: Some(kv), ..Default::default() }
    }

    #[test]
    fn events_are_counted_and_those_of_the_measured_time_recorded() {
        let mut stats = Stats::new(&["put", DELIVERY]);
        stats.start_ns = 1_000;
        let stamped = |start_ns| {
            let mut value = Vec::new();
            stamp(&mut value, start_ns, &[7; 20]);
            assert_eq!(value.len(), 20);
            value
        };
        let response = pb::WatchResponse {
            events: vec![event(&stamped(999)), event(&stamped(1_500)), event(b""), event(b"short")],
            ..Default::default()
        };
        let told = read_response(&response.encode_to_vec(), 1, 2_000, &mut stats).unwrap();
        assert_eq!(told, Told { events: 4, ..Told::default() });
        let latency_ns = &stats.operations[1].latency_ns;
        assert_eq!((latency_ns.len(), latency_ns.max()), (1, 500));
    }

    #[test]
    fn a_cancelled_watch_says_why() {
        let mut stats = Stats::new(&["put", DELIVERY]);
        let response = pb::WatchResponse {
            canceled: true,
            cancel_reason: "compacted".to_owned(),
            ..Default::default()
        };
        let told = read_response(&response.encode_to_vec(), 1, 0, &mut stats).unwrap();
        assert_eq!(told.cancelled.as_deref(), Some("compacted"));
    }

    #[test]
    fn a_watch_is_created_as_etcd_reads_it() {
        let mut message = Vec::new();
        create_request((b"a", b"b"), true, true, &mut message);
        let request = pb::WatchRequest::decode(&message[..]).unwrap();
        let Some(pb::watch_request::RequestUnion::CreateRequest(create)) = request.request_union
        else {
            panic!("not a create")
        };
        assert_eq!((&create.key[..], &create.range_end[..]), (&b"a"[..], &b"b"[..]));
        assert!(create.prev_kv && create.progress_notify);
    }
}
