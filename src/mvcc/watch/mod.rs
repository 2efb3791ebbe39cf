//! The watch hub: every watcher is a cursor into the one revision-ordered history.
//!
//! Nothing is queued for a watcher. One that has seen everything (`synced`) is handed the events of
//! each new batch of revisions; one that has not, because it began in the past or because its stream
//! does not take more, has a revision to go on from and catches up in slices. Watchers that catch
//! up share the walk over the history.
//!
//! Invariants:
//! - A synced watcher has been offered every event up to `notified`; one that is not, every event
//!   below its `next`. So each event is sent once, in order, and whole revisions at a time.
//! - A progress revision is never ahead of the events: it is `notified`, and only told to synced
//!   watchers.
//!
//! Knows nothing of gRPC: a `Sink` takes events and tells which streams take more.

mod groups;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;

use bytes::Bytes;
use rustc_hash::FxHashMap;
use slab::Slab;

use super::changes::Change;
use super::error::MvccError;
use super::reader::Reader;
use super::revision::Revision;
use crate::mutants::{self, Mutant};
use groups::{GroupId, Groups};

pub use groups::KeyRange;

/// Watchers that catch up in one slice (etcd: `maxWatchersPerSync`).
const CATCH_UP_WATCHERS: usize = 512;
/// Changes that one slice of catching up reads (etcd: `watchBatchMaxRevs` revisions).
const CATCH_UP_CHANGES: usize = 1_000;
/// Bytes of events after which a slice ends, at the end of a revision.
const CATCH_UP_BYTES: usize = 1 << 20;

/// The field of `WatchResponse` that holds events.
const EVENTS_FIELD: u8 = 11;

/// What a watcher asks for.
#[derive(Clone, Debug)]
pub struct NewWatcher {
    /// The sink's name for the stream.
    pub stream: u64,
    pub id: i64,
    pub range: KeyRange,
    /// The first revision wanted; 0 means from now on.
    pub start_revision: i64,
    pub no_put: bool,
    pub no_delete: bool,
    pub prev_kv: bool,
    pub fragment: bool,
}

/// Where events go.
pub trait Sink {
    /// Whether the stream takes more.
    fn ready(&mut self, stream: u64) -> bool;
    /// Events of a watcher, each a whole field `events` of a `WatchResponse`, tag and length
    /// included. Whole revisions, in order.
    fn events(&mut self, stream: u64, id: i64, fragment: bool, revision: i64, events: &[&[u8]]);
    /// The watcher wanted what is compacted; it is gone.
    fn compacted(&mut self, stream: u64, id: i64, compact_revision: i64);
}

/// Names a watcher in the hub.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct WatcherSlot(u32);

struct Watcher {
    stream: u64,
    id: i64,
    start_revision: i64,
    /// The first revision that it was not offered; for a synced one, the first that it wants.
    next: i64,
    group: GroupId,
    place: u32,
    synced: bool,
    no_put: bool,
    no_delete: bool,
    prev_kv: bool,
    fragment: bool,
    /// Something was sent since the last look at its progress.
    active: bool,
    /// Tells a place in the queue from that of a former watcher in this slot.
    generation: u32,
}

#[derive(Default)]
pub struct WatchHub {
    watchers: Slab<Watcher>,
    groups: Groups,
    /// Watchers that catch up, with their generation; those of cancelled ones stay until they
    /// reach the front.
    queue: VecDeque<(u32, u32)>,
    unsynced: usize,
    generation: u32,
    notified: i64,
    batch: Batch,
    /// Events sent, for the metric.
    pub events_total: u64,
}

/// Events of some revisions and who gets them. Kept between uses for its buffers.
#[derive(Default)]
struct Batch {
    /// Encoded events, without and with the value before.
    bytes: Vec<u8>,
    events: Vec<Encoded>,
    /// Watcher and event, to be sorted.
    pairs: Vec<(u32, u32)>,
    found: Vec<GroupId>,
    chosen: FxHashMap<GroupId, Vec<u32>>,
    /// Where the present change stands in `events`, if somebody gets it.
    event: Option<u32>,
}

struct Encoded {
    revision: i64,
    plain: std::ops::Range<usize>,
    with_prev: Option<std::ops::Range<usize>>,
}

impl WatchHub {
    /// A hub that takes up where the history stands.
    pub fn new(current_revision: i64) -> WatchHub {
        WatchHub { notified: current_revision, ..WatchHub::default() }
    }

    pub fn len(&self) -> usize {
        self.watchers.len()
    }

    pub fn is_empty(&self) -> bool {
        self.watchers.is_empty()
    }

    pub fn unsynced(&self) -> usize {
        self.unsynced
    }

    /// The revision up to which synced watchers have been offered everything.
    pub fn notified(&self) -> i64 {
        self.notified
    }

    /// `current`: the revision that the watcher's client is told. It can be ahead of `notified`, since the
    /// state of another member is there before the hub hears of it.
    pub fn create(&mut self, new: NewWatcher, current: i64) -> WatcherSlot {
        let slot = self.watchers.vacant_key() as u32;
        let (group, place) = self.groups.join(new.range, slot);
        let synced = new.start_revision == 0 || new.start_revision > self.notified;
        let gets_all = synced && mutants::is_on(Mutant::FutureWatchGetsAll);
        let start_revision = if gets_all { 0 } else { new.start_revision };
        let next = match (synced, start_revision) {
            (true, 0) => current.max(self.notified) + 1,
            (true, _) => start_revision.max(self.notified + 1),
            (false, _) => start_revision,
        };
        self.generation = self.generation.wrapping_add(1);
        self.watchers.insert(Watcher {
            stream: new.stream,
            id: new.id,
            start_revision: new.start_revision,
            next,
            group,
            place,
            synced,
            no_put: new.no_put,
            no_delete: new.no_delete,
            prev_kv: new.prev_kv,
            fragment: new.fragment,
            active: false,
            generation: self.generation,
        });
        if !synced {
            self.fall_behind(slot);
        }
        WatcherSlot(slot)
    }

    pub fn cancel(&mut self, slot: WatcherSlot) {
        let watcher = self.watchers.remove(slot.0 as usize);
        if let Some(moved) = self.groups.leave(watcher.group, watcher.place) {
            self.watchers[moved as usize].place = watcher.place;
        }
        if !watcher.synced {
            self.unsynced -= 1;
        }
    }

    fn fall_behind(&mut self, slot: u32) {
        self.unsynced += 1;
        self.queue.push_back((slot, self.watchers[slot as usize].generation));
    }

    /// Whether a progress revision may be told for these watchers: all of them have seen it.
    pub fn all_synced(&self, slots: impl IntoIterator<Item = WatcherSlot>) -> bool {
        slots.into_iter().all(|slot| {
            let watcher = &self.watchers[slot.0 as usize];
            let told_early = mutants::is_on(Mutant::ProgressBeforeEvents);
            told_early || (watcher.synced && self.notified >= watcher.start_revision)
        })
    }

    /// For a periodic progress notification: whether nothing was sent since the last call.
    pub fn was_quiet(&mut self, slot: WatcherSlot) -> bool {
        !std::mem::take(&mut self.watchers[slot.0 as usize].active)
    }

    /// Offers the revisions since the last call to the synced watchers.
    pub fn notify(&mut self, reader: Reader<'_>, sink: &mut dyn Sink) -> Result<(), MvccError> {
        let current = reader.revisions().current;
        if self.notified >= current {
            return Ok(());
        }
        let from = std::mem::replace(&mut self.notified, current) + 1;
        if self.watchers.len() == self.unsynced {
            return Ok(());
        }
        let mut batch = std::mem::take(&mut self.batch);
        batch.clear();
        let result = self.collect_synced(reader, from, &mut batch);
        if result.is_ok() {
            self.deliver(&mut batch, None, sink);
        }
        self.batch = batch;
        result
    }

    fn collect_synced(
        &mut self,
        reader: Reader<'_>,
        from: i64,
        batch: &mut Batch,
    ) -> Result<(), MvccError> {
        let mut changes = reader.changes(Revision::new(from, 0));
        while let Some(change) = changes.next()? {
            batch.begin(&mut self.groups, &change);
            for group in std::mem::take(&mut batch.found) {
                for slot in &self.groups.get(group).members {
                    let watcher = &self.watchers[*slot as usize];
                    if watcher.synced && watcher.wants(&change) {
                        batch.add(reader, &change, *slot, watcher.prev_kv)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// The state was replaced by a later one, at revision `current`: watchers catch up with it, and
    /// those who have missed what is compacted there hear so.
    pub fn replaced(&mut self, current: i64) {
        if current <= self.notified {
            return;
        }
        let notified = std::mem::replace(&mut self.notified, current);
        let mut behind = Vec::new();
        for (slot, watcher) in &mut self.watchers {
            if watcher.synced {
                watcher.next = watcher.next.max(notified + 1);
                watcher.synced = watcher.next > current;
                if !watcher.synced {
                    behind.push(slot as u32);
                }
            }
        }
        for slot in behind {
            self.fall_behind(slot);
        }
    }

    /// One slice of catching up. Tells whether more could be done at once; watchers whose stream
    /// takes no more are not counted.
    pub fn catch_up(&mut self, reader: Reader<'_>, sink: &mut dyn Sink) -> Result<bool, MvccError> {
        if self.unsynced == 0 {
            self.queue.clear();
            return Ok(false);
        }
        let mut batch = std::mem::take(&mut self.batch);
        batch.clear();
        let result = self.catch_up_slice(reader, &mut batch, sink);
        self.batch = batch;
        result
    }

    fn catch_up_slice(
        &mut self,
        reader: Reader<'_>,
        batch: &mut Batch,
        sink: &mut dyn Sink,
    ) -> Result<bool, MvccError> {
        let compact = reader.revisions().compact;
        let chosen = self.choose(compact, sink);
        let Some(from) = chosen.iter().map(|slot| self.watchers[*slot as usize].next).min() else {
            return Ok(false);
        };
        for slot in &chosen {
            batch.chosen.entry(self.watchers[*slot as usize].group).or_default().push(*slot);
        }
        let up_to = self.collect_chosen(reader, from, batch)?;
        self.deliver(batch, Some(up_to), sink);
        let mut more = chosen.len() == CATCH_UP_WATCHERS;
        for slot in chosen {
            let watcher = &mut self.watchers[slot as usize];
            watcher.next = watcher.next.max(up_to + 1);
            watcher.synced = watcher.next > self.notified;
            if watcher.synced {
                self.unsynced -= 1;
            } else {
                self.queue.push_back((slot, watcher.generation));
                more = true;
            }
        }
        Ok(more)
    }

    /// Takes watchers for one slice out of the queue, those that waited longest first. Those whose
    /// revision is compacted are told so and removed.
    fn choose(&mut self, compact: i64, sink: &mut dyn Sink) -> Vec<u32> {
        let mut chosen = Vec::new();
        for _ in 0..self.queue.len() {
            if chosen.len() == CATCH_UP_WATCHERS {
                break;
            }
            let Some((slot, generation)) = self.queue.pop_front() else { break };
            let Some(watcher) = self.watchers.get(slot as usize) else { continue };
            if watcher.generation != generation {
                continue;
            }
            let (stream, id, next) = (watcher.stream, watcher.id, watcher.next);
            if !sink.ready(stream) {
                self.queue.push_back((slot, generation));
            } else if next < compact {
                self.cancel(WatcherSlot(slot));
                sink.compacted(stream, id, compact);
            } else {
                chosen.push(slot);
            }
        }
        chosen
    }

    /// Collects the events of the chosen watchers from `from` on, until the slice is full. Returns
    /// the last revision that was read as a whole.
    fn collect_chosen(
        &mut self,
        reader: Reader<'_>,
        from: i64,
        batch: &mut Batch,
    ) -> Result<i64, MvccError> {
        let chosen = std::mem::take(&mut batch.chosen);
        let mut changes = reader.changes(Revision::new(from.max(0), 0));
        let mut read = 0;
        let mut last = from - 1;
        while let Some(change) = changes.next()? {
            let main = change.revision.main;
            if main > self.notified {
                break;
            }
            let full = read >= CATCH_UP_CHANGES || batch.bytes.len() >= CATCH_UP_BYTES;
            if full && main > last {
                return Ok(last);
            }
            read += 1;
            last = main;
            batch.begin(&mut self.groups, &change);
            for group in std::mem::take(&mut batch.found) {
                for slot in chosen.get(&group).into_iter().flatten() {
                    let watcher = &self.watchers[*slot as usize];
                    if watcher.wants(&change) {
                        batch.add(reader, &change, *slot, watcher.prev_kv)?;
                    }
                }
            }
        }
        Ok(self.notified)
    }

    /// Sends what a batch holds. `revision` is told with catching up; without it each watcher is
    /// told the revision of its last event, and one whose stream takes no more falls behind.
    fn deliver(&mut self, batch: &mut Batch, revision: Option<i64>, sink: &mut dyn Sink) {
        batch.pairs.sort_unstable();
        let mut slices: Vec<&[u8]> = Vec::new();
        for run in batch.pairs.chunk_by(|a, b| a.0 == b.0) {
            let slot = run[0].0;
            let watcher = &mut self.watchers[slot as usize];
            if revision.is_none() && !sink.ready(watcher.stream) {
                watcher.synced = false;
                watcher.next = batch.events[run[0].1 as usize].revision;
                self.fall_behind(slot);
                continue;
            }
            slices.clear();
            for (_, event) in run {
                let event = &batch.events[*event as usize];
                let with_prev = event.with_prev.clone().filter(|_| watcher.prev_kv);
                slices.push(&batch.bytes[with_prev.unwrap_or(event.plain.clone())]);
            }
            let last = batch.events[run[run.len() - 1].1 as usize].revision;
            watcher.active = true;
            self.events_total += run.len() as u64;
            let told = revision.unwrap_or(last);
            sink.events(watcher.stream, watcher.id, watcher.fragment, told, &slices);
        }
    }
}

impl Watcher {
    fn wants(&self, change: &Change<'_>) -> bool {
        let filtered = if change.delete { self.no_delete } else { self.no_put };
        change.revision.main >= self.next && !filtered
    }
}

impl Batch {
    fn clear(&mut self) {
        self.bytes.clear();
        self.events.clear();
        self.pairs.clear();
        self.chosen.clear();
        self.event = None;
    }

    /// Finds the groups that watch the key of `change`.
    fn begin(&mut self, groups: &mut Groups, change: &Change<'_>) {
        self.event = None;
        self.found.clear();
        groups.matching(change.key, &mut self.found);
    }

    /// Notes that a watcher gets `change`, which is encoded for the first that does, and once more
    /// for the first that wants the value before.
    fn add(
        &mut self,
        reader: Reader<'_>,
        change: &Change<'_>,
        slot: u32,
        prev_kv: bool,
    ) -> Result<(), MvccError> {
        let index = match self.event {
            Some(index) => index,
            None => {
                let plain = self.encode(change, None);
                let revision = change.revision.main;
                self.events.push(Encoded { revision, plain, with_prev: None });
                *self.event.insert(self.events.len() as u32 - 1)
            }
        };
        if prev_kv
            && self.events[index as usize].with_prev.is_none()
            && let Some(kv) = reader.prev_kv(change)?
        {
            let with_prev = self.encode(change, Some(kv));
            self.events[index as usize].with_prev = Some(with_prev);
        }
        self.pairs.push((slot, index));
        Ok(())
    }

    fn encode(&mut self, change: &Change<'_>, prev_kv: Option<&[u8]>) -> std::ops::Range<usize> {
        let start = self.bytes.len();
        change.put_event(&mut self.bytes, EVENTS_FIELD, prev_kv);
        start..self.bytes.len()
    }
}

/// Keys of watch requests: an empty key stands for the smallest.
pub fn watch_key(key: Bytes) -> Bytes {
    if key.is_empty() { Bytes::from_static(b"\0") } else { key }
}
