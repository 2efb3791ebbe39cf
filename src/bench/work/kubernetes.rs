//! What a Kubernetes API server asks of its etcd (`storage/etcd3` of k8s.io/apiserver).
//!
//! It never puts and never deletes by themselves. An update is a transaction: if the key still has the
//! revision that was read, put, else read it; so is a deletion, and a creation if there is no such
//! key. Lists come in pages, all at the revision of the first. Watches of a whole resource have
//! `prev_kv` and `progress_notify`, and ask for the progress ten times a second, as they do while a
//! consistent read is served from the watch cache.
//!
//! Invariant: no object is changed by two requests at a time, so a guard that does not hold means that
//! the outcome of an earlier change was not heard of. Then the answer says what the object is.

use super::super::client::{Method, Want};
use super::super::options::Options;
use super::super::random::Random;
use super::super::stats::Stats;
use super::super::wire::{self, Fields, Malformed, Value};
use super::keys::{Prefill, Values, decimal, prefix_end, put};
use super::watch::{create_request, read_response, stamp};
use super::{DELIVERY, Draw, LongStream, Reaction, Request, SlotId, Via, Work};

/// Per hundred requests: renewals of node leases are most of what a cluster at rest writes; of the
/// changes of pods nine of ten are updates, as in etcd's own robustness tests.
const MIX: [(Kind, u64); 7] = [
    (Kind::LeaseUpdate, 40),
    (Kind::PodUpdate, 25),
    (Kind::PodCreate, 4),
    (Kind::PodDelete, 4),
    (Kind::Get, 25),
    (Kind::List, 1),
    (Kind::Count, 1),
];
const OPERATIONS: [&str; 8] = [
    "lease update",
    "pod update",
    "pod create",
    "pod delete",
    "get",
    "list page",
    "count",
    DELIVERY,
];
const DELIVERED: usize = 7;

/// A `coordination/v1.Lease` in protobuf, with its metadata.
const LEASE_BYTES: usize = 400;
/// No more than one of this many pods is missing at a time.
const PODS_PER_MISSING: usize = 10;
/// Objects in use that are passed over before something else is asked.
const TRIES: usize = 8;
const PROGRESS_INTERVAL_NS: u64 = 100_000_000;
/// `WatchRequest.progress_request` 3, which is empty.
const PROGRESS_REQUEST: [u8; 2] = [0x1a, 0];
const NUMBER_DIGITS: usize = 8;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    LeaseUpdate,
    PodUpdate,
    PodCreate,
    PodDelete,
    Get,
    List,
    Count,
}

#[derive(Clone, Copy, Debug, Default)]
struct Object {
    /// Of its last change; 0 when it is not there.
    revision: i64,
    is_busy: bool,
}

/// All objects of a type, below one prefix.
struct Resource {
    prefix: Vec<u8>,
    objects: Vec<Object>,
    prefill: Prefill,
    values: Values,
    /// Changes that were answered, each of which is an event for every watcher.
    changes: u64,
}

/// Where the list of a slot goes on.
#[derive(Clone, Debug, Default)]
struct Page {
    revision: i64,
    /// Empty for the first page.
    from: Vec<u8>,
}

/// What is in flight in a slot.
#[derive(Clone, Copy, Debug, Default)]
struct Change {
    resource: usize,
    object: usize,
    /// Set by the answer: what the object's revision is now.
    revision: Option<i64>,
    is_done: bool,
}

const LEASES: usize = 0;
const PODS: usize = 1;

pub struct Kubernetes {
    resources: [Resource; 2],
    missing_pods: Vec<usize>,
    pages: Vec<Page>,
    changes: Vec<Change>,
    page_limit: u64,
    streams: Vec<LongStream>,
    created: Vec<bool>,
    delivered: u64,
    next_progress: (u64, usize),
    key: Vec<u8>,
    value: Vec<u8>,
}

impl Resource {
    fn new(options: &Options, path: &str, count: u64, value_bytes: usize) -> Resource {
        let prefix = format!("{}registry/{path}/", options.prefix).into_bytes();
        Resource {
            objects: vec![Object::default(); count as usize],
            prefill: Prefill::new(count, prefix.len() + NUMBER_DIGITS, value_bytes),
            values: Values::new(value_bytes, options.seed),
            changes: 0,
            prefix,
        }
    }

    fn write_key(&self, number: usize, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.prefix);
        decimal(number as u64, NUMBER_DIGITS, out);
    }

    /// One that is there and not in use.
    fn draw(&self, random: &mut Random) -> Option<usize> {
        (0..TRIES).map(|_| random.below(self.objects.len() as u64) as usize).find(|&object| {
            let Object { revision, is_busy } = self.objects[object];
            revision > 0 && !is_busy
        })
    }
}

impl Kubernetes {
    pub fn new(options: &Options) -> Kubernetes {
        let watchers = options.watchers() as usize;
        let streams = (0..2 * watchers).map(|stream| LongStream {
            method: Method::Watch,
            connection: stream % options.connections,
        });
        Kubernetes {
            resources: [
                Resource::new(options, "leases/kube-node-lease", options.nodes, LEASE_BYTES),
                Resource::new(options, "pods/default", options.keys(), options.value_size),
            ],
            missing_pods: Vec::new(),
            pages: vec![Page::default(); options.slots()],
            changes: vec![Change::default(); options.slots()],
            page_limit: options.page_limit,
            created: vec![false; 2 * watchers],
            streams: streams.collect(),
            delivered: 0,
            next_progress: (0, 0),
            key: Vec::new(),
            value: Vec::new(),
        }
    }

    fn draw_kind(random: &mut Random) -> Kind {
        let mut rest = random.below(100);
        for (kind, share) in MIX {
            if rest < share {
                return kind;
            }
            rest -= share;
        }
        Kind::Get
    }

    /// What is to be changed, if there is something that can be.
    fn draw_change(&mut self, kind: Kind, random: &mut Random) -> Option<(Kind, usize, usize)> {
        let pods = self.resources[PODS].objects.len();
        let kind = match kind {
            Kind::PodDelete if self.missing_pods.len() > pods / PODS_PER_MISSING => Kind::PodCreate,
            kind => kind,
        };
        if kind == Kind::PodCreate
            && let Some(pod) = self.missing_pods.pop()
        {
            return Some((kind, PODS, pod));
        }
        let (kind, resource) = match kind {
            Kind::LeaseUpdate => (kind, LEASES),
            Kind::PodCreate => (Kind::PodUpdate, PODS),
            kind => (kind, PODS),
        };
        Some((kind, resource, self.resources[resource].draw(random)?))
    }

    /// `TxnRequest`: compare 1, success 2, failure 3. `Compare`: target 2 (MOD is 2), key 3,
    /// mod_revision 6. `RequestOp`: range 1, put 2, delete_range 3.
    fn change(
        &mut self,
        slot: SlotId,
        kind: Kind,
        resource: usize,
        object: usize,
        draw: Draw<'_>,
    ) -> Request {
        self.changes[slot] = Change { resource, object, revision: None, is_done: false };
        let of = &mut self.resources[resource];
        of.objects[object].is_busy = true;
        self.key.clear();
        of.write_key(object, &mut self.key);
        let (key, out) = (&self.key, draw.message);
        wire::nested(1, out, |out| {
            wire::number(2, 2, out);
            wire::bytes(3, key, out);
            wire::member(6, of.objects[object].revision, out);
        });
        stamp(&mut self.value, draw.start_ns, of.values.draw(draw.random));
        let value = &self.value;
        wire::nested(2, out, |out| match kind {
            Kind::PodDelete => wire::nested(3, out, |out| wire::bytes(1, key, out)),
            _ => wire::nested(2, out, |out| put(key, value, out)),
        });
        if kind != Kind::PodCreate {
            wire::nested(3, out, |out| wire::nested(1, out, |out| wire::bytes(1, key, out)));
        }
        request(Method::Txn, kind, Want::Message)
    }

    /// `RangeRequest`: key 1, range_end 2, limit 3, revision 4, count_only 9.
    fn read(&mut self, slot: SlotId, kind: Kind, draw: Draw<'_>) -> Request {
        let (pods, out) = (&self.resources[PODS], draw.message);
        match kind {
            Kind::List => {
                let page = &self.pages[slot];
                let from = if page.from.is_empty() { &pods.prefix } else { &page.from };
                wire::bytes(1, from, out);
                wire::bytes(2, &prefix_end(&pods.prefix), out);
                wire::number(3, self.page_limit as i64, out);
                wire::number(4, page.revision, out);
                request(Method::Range, kind, Want::Message)
            }
            Kind::Count => {
                wire::bytes(1, &pods.prefix, out);
                wire::bytes(2, &prefix_end(&pods.prefix), out);
                wire::flag(9, true, out);
                request(Method::Range, kind, Want::Nothing)
            }
            _ => {
                self.key.clear();
                let pod = draw.random.below(pods.objects.len() as u64) as usize;
                pods.write_key(pod, &mut self.key);
                wire::bytes(1, &self.key, out);
                wire::number(3, 1, out);
                request(Method::Range, Kind::Get, Want::Nothing)
            }
        }
    }

    /// `TxnResponse`: header 1, succeeded 2, responses 3; `ResponseHeader`: revision 3;
    /// `ResponseOp`: response_range 1; `RangeResponse`: kvs 2; `KeyValue`: mod_revision 3.
    fn changed(&mut self, slot: SlotId, kind: Kind, message: &[u8]) -> Result<(), Malformed> {
        let revision = Fields(Fields(message).bytes(1)?).number(3)?;
        let change = &mut self.changes[slot];
        if Fields(message).number(2)? != 0 {
            change.is_done = true;
            change.revision = Some(if kind == Kind::PodDelete { 0 } else { revision });
        } else if kind != Kind::PodCreate {
            let range = Fields(Fields(message).bytes(3)?).bytes(1)?;
            change.revision = Some(Fields(Fields(range).bytes(2)?).number(3)?);
        }
        Ok(())
    }

    /// `RangeResponse`: header 1, kvs 2, count 4. There is more when more were counted than came.
    fn listed(&mut self, slot: SlotId, message: &[u8]) -> Result<(), Malformed> {
        let mut fields = Fields(message);
        let (mut revision, mut count, mut came) = (0, 0, 0);
        let mut last: &[u8] = &[];
        while let Some(field) = fields.next()? {
            match field {
                (1, Value::Bytes(header)) => revision = Fields(header).number(3)?,
                (2, Value::Bytes(kv)) => {
                    came += 1;
                    last = kv;
                }
                (4, Value::Number(number)) => count = number,
                _ => {}
            }
        }
        let page = &mut self.pages[slot];
        if came == 0 || came >= count {
            *page = Page::default();
            return Ok(());
        }
        if page.from.is_empty() {
            page.revision = revision;
        }
        page.from.clear();
        page.from.extend_from_slice(Fields(last).bytes(1)?);
        page.from.push(0);
        Ok(())
    }
}

fn request(method: Method, kind: Kind, want: Want) -> Request {
    Request { via: Via::Unary(method), operation: kind as usize, want, tag: kind as u64 }
}

/// Tags above those of kinds are those of the prefill: this, the resource, and the first number.
const PREFILL: u64 = 1 << 62;
const PREFILL_PODS: u64 = 1 << 61;

impl Work for Kubernetes {
    fn operations(&self) -> &'static [&'static str] {
        &OPERATIONS
    }

    fn prepare(&mut self, draw: Draw<'_>) -> Option<Request> {
        for (resource, mark) in self.resources.iter_mut().zip([0, PREFILL_PODS]) {
            let prefix = resource.prefix.clone();
            let draw =
                Draw { random: draw.random, start_ns: draw.start_ns, message: &mut *draw.message };
            let request = resource.prefill.next(draw, &resource.values, |number, out| {
                out.extend_from_slice(&prefix);
                decimal(number, NUMBER_DIGITS, out);
            });
            if let Some(request) = request {
                let tag = PREFILL | mark | request.tag;
                return Some(Request { want: Want::Message, tag, ..request });
            }
        }
        None
    }

    fn next(&mut self, slot: SlotId, draw: Draw<'_>) -> Request {
        let kind = Self::draw_kind(draw.random);
        if matches!(kind, Kind::Get | Kind::List | Kind::Count) {
            return self.read(slot, kind, draw);
        }
        match self.draw_change(kind, draw.random) {
            Some((kind, resource, object)) => self.change(slot, kind, resource, object, draw),
            None => self.read(slot, Kind::Get, draw),
        }
    }

    fn answer(&mut self, slot: SlotId, tag: u64, message: &[u8]) -> Result<(), Malformed> {
        if tag & PREFILL != 0 {
            let revision = Fields(Fields(message).bytes(1)?).number(3)?;
            let resource = &mut self.resources[usize::from(tag & PREFILL_PODS != 0)];
            let first = (tag & !(PREFILL | PREFILL_PODS)) as usize;
            let batch = resource.objects.iter_mut().skip(first);
            for object in batch.take(resource.prefill.per_txn() as usize) {
                object.revision = revision;
            }
            return Ok(());
        }
        match MIX.iter().find(|(kind, _)| *kind as u64 == tag) {
            Some((Kind::List, _)) => self.listed(slot, message),
            Some((kind, _)) => self.changed(slot, *kind, message),
            None => Ok(()),
        }
    }

    fn finished(&mut self, slot: SlotId, tag: u64, is_ok: bool) {
        if tag == Kind::List as u64 && !is_ok {
            self.pages[slot] = Page::default();
        }
        if tag > Kind::PodDelete as u64 {
            return;
        }
        let Change { resource, object, revision, is_done } = self.changes[slot];
        let of = &mut self.resources[resource];
        of.changes += u64::from(is_ok && is_done);
        let object_now = &mut of.objects[object];
        object_now.is_busy = false;
        if let Some(revision) = revision {
            object_now.revision = revision;
        }
        if resource == PODS && object_now.revision == 0 {
            self.missing_pods.push(object);
        }
    }

    fn streams(&self) -> &[LongStream] {
        &self.streams
    }

    fn open_stream(&mut self, stream: usize, message: &mut Vec<u8>) -> bool {
        self.created[stream] = false;
        let prefix = &self.resources[stream % 2].prefix;
        create_request((prefix, &prefix_end(prefix)), true, true, message);
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
        self.created[stream] |= told.is_created;
        if let Some(reason) = told.cancelled {
            stats.failed(now_ns, "watch canceled", &reason);
        }
        Ok(Reaction::Nothing)
    }

    fn is_set_up(&self) -> bool {
        self.created.iter().all(|&is_created| is_created)
    }

    fn timer(&mut self, now_ns: u64, message: &mut Vec<u8>) -> Option<usize> {
        let (due_ns, stream) = self.next_progress;
        if now_ns < due_ns || self.streams.is_empty() {
            return None;
        }
        self.next_progress = match stream + 1 {
            next if next < self.streams.len() => (due_ns, next),
            _ => (now_ns + PROGRESS_INTERVAL_NS, 0),
        };
        message.extend_from_slice(&PROGRESS_REQUEST);
        Some(stream)
    }

    fn next_timer_ns(&self) -> Option<u64> {
        (!self.streams.is_empty()).then_some(self.next_progress.0)
    }

    fn missing(&self) -> u64 {
        let watchers = self.streams.len() as u64 / 2;
        let changes: u64 = self.resources.iter().map(|resource| resource.changes).sum();
        (changes * watchers).saturating_sub(self.delivered)
    }
}
