//! The hub against the history: what each watcher was sent is what the history says it should be.

use std::collections::{BTreeMap, HashSet};

use prost::Message;

use super::*;
use crate::mvcc::tests::fixture::Bed;
use crate::proto::etcdserverpb::WatchResponse;
use crate::proto::mvccpb::event::EventType;
use crate::proto::mvccpb::{Event, KeyValue};

/// Responses of one watcher, each with the revision told.
type Sent = Vec<(i64, Vec<Event>)>;

/// Streams that take what they are sent, or do not.
#[derive(Default)]
struct Recorder {
    blocked: HashSet<u64>,
    /// By stream and id.
    sent: BTreeMap<(u64, i64), Sent>,
    compacted: BTreeMap<(u64, i64), i64>,
}

impl Sink for Recorder {
    fn ready(&mut self, stream: u64) -> bool {
        !self.blocked.contains(&stream)
    }

    fn events(&mut self, stream: u64, id: i64, _: bool, revision: i64, events: &[&[u8]]) {
        assert!(!self.blocked.contains(&stream), "a blocked stream was sent something");
        let response = WatchResponse::decode(&events.concat()[..]).unwrap();
        assert_eq!(response.events.len(), events.len());
        self.sent.entry((stream, id)).or_default().push((revision, response.events));
    }

    fn compacted(&mut self, stream: u64, id: i64, compact_revision: i64) {
        self.compacted.insert((stream, id), compact_revision);
    }
}

struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) % bound
    }

    fn one_in(&mut self, chances: u64) -> bool {
        self.below(chances) == 0
    }
}

/// A change as the test noted it when it was made.
struct Noted {
    revision: i64,
    event: Event,
}

fn wanted(new: &NewWatcher, first: i64, noted: &Noted) -> bool {
    let kv = noted.event.kv.as_ref().unwrap();
    let delete = noted.event.r#type() == EventType::Delete;
    let filtered = if delete { new.no_delete } else { new.no_put };
    noted.revision >= first && !filtered && new.range.contains(&kv.key)
}

struct Bench {
    bed: Bed,
    hub: WatchHub,
    sink: Recorder,
    random: Random,
    history: Vec<Noted>,
    /// Each watcher with the first revision that it wants.
    watchers: BTreeMap<(u64, i64), (WatcherSlot, NewWatcher, i64)>,
    next_id: i64,
}

const KEYS: [&str; 6] = ["a", "a\0", "ab", "b", "ba", "c"];

impl Bench {
    fn new(seed: u64) -> Bench {
        let bed = Bed::new();
        let hub = WatchHub::new(bed.mvcc.current_revision());
        Bench {
            bed,
            hub,
            sink: Recorder::default(),
            random: Random(seed),
            history: Vec::new(),
            watchers: BTreeMap::new(),
            next_id: 0,
        }
    }

    fn write(&mut self) {
        let key = KEYS[self.random.below(6) as usize];
        let before = self.bed.get(key);
        if self.random.one_in(4) {
            if before.is_none() {
                return;
            }
            let revision = self.bed.delete(key, "");
            let kv = KeyValue {
                key: key.as_bytes().to_vec().into(),
                mod_revision: revision,
                ..Default::default()
            };
            self.note(revision, EventType::Delete, kv, before);
        } else {
            let revision = self.bed.put(key, &format!("v{}", self.history.len()));
            let kv = self.bed.get(key).unwrap();
            self.note(revision, EventType::Put, kv, before);
        }
    }

    fn note(&mut self, revision: i64, kind: EventType, kv: KeyValue, prev_kv: Option<KeyValue>) {
        let event = Event { r#type: kind as i32, kv: Some(kv), prev_kv };
        self.history.push(Noted { revision, event });
    }

    fn watch(&mut self) {
        let current = self.bed.mvcc.current_revision();
        let (key, end) =
            [("a", ""), ("a", "b"), ("a", "\0"), ("a\0", "bb"), ("b", "c"), ("\0", "\0")]
                [self.random.below(6) as usize];
        let start_revision = match self.random.below(4) {
            0 => 0,
            1 => current + 1 + self.random.below(4) as i64,
            _ => 1 + self.random.below(current as u64) as i64,
        };
        let new = NewWatcher {
            stream: self.random.below(3),
            id: self.next_id,
            range: KeyRange::new(key.as_bytes().into(), end.as_bytes().into()),
            start_revision,
            no_put: self.random.one_in(6),
            no_delete: self.random.one_in(6),
            prev_kv: self.random.one_in(2),
            fragment: false,
        };
        self.next_id += 1;
        let first = if start_revision == 0 { current + 1 } else { start_revision };
        let slot = self.hub.create(new.clone(), current);
        self.watchers.insert((new.stream, new.id), (slot, new, first));
    }

    fn feed(&mut self) {
        let reader = self.bed.mvcc.reader(self.bed.store.view());
        self.hub.notify(reader, &mut self.sink).unwrap();
        self.hub.catch_up(reader, &mut self.sink).unwrap();
        let gone = std::mem::take(&mut self.sink.compacted);
        for (name, compact_revision) in gone {
            let (_, _, first) = self.watchers.remove(&name).expect("it was there");
            assert!(compact_revision > first, "compacted at {compact_revision}, wanted {first}");
            self.sink.sent.remove(&name);
        }
    }

    fn check_sent(&self, finished: bool) {
        for (name, (slot, new, first)) in &self.watchers {
            let sent = self.sink.sent.get(name).map_or(&[][..], |sent| sent);
            let mut expected = self.history.iter().filter(|noted| wanted(new, *first, noted));
            let mut told_before = 0;
            for (told, events) in sent {
                assert!(!events.is_empty() && *told > told_before, "{name:?}");
                told_before = *told;
                for event in events {
                    let noted = expected.next().expect("no event is made up");
                    assert_eq!(event.kv, noted.event.kv, "{name:?}");
                    assert_eq!(event.r#type, noted.event.r#type, "{name:?}");
                    if new.prev_kv && event.prev_kv.is_some() {
                        assert_eq!(event.prev_kv, noted.event.prev_kv, "{name:?}");
                    }
                    assert!(new.prev_kv || event.prev_kv.is_none(), "{name:?}");
                    assert!(noted.revision <= *told, "an event is ahead of what is told");
                }
                // A bookmark: nothing at or below what was told is still to come.
                let next = expected.clone().next();
                assert!(next.is_none_or(|noted| noted.revision > *told), "{name:?}");
            }
            if self.hub.all_synced([*slot]) || finished {
                let missed = expected.find(|noted| noted.revision <= self.hub.notified());
                assert!(missed.is_none(), "{name:?} missed something");
            }
        }
    }
}

#[test]
fn each_watcher_gets_each_event_once_and_in_order_whatever_its_stream_takes() {
    for seed in 0..60 {
        let mut bench = Bench::new(seed);
        for _ in 0..400 {
            match bench.random.below(12) {
                0 => bench.watch(),
                1 if bench.random.one_in(3) => {
                    let names: Vec<_> = bench.watchers.keys().copied().collect();
                    if let Some(name) = names.get(bench.random.below(16) as usize) {
                        let (slot, ..) = bench.watchers.remove(name).unwrap();
                        bench.hub.cancel(slot);
                        bench.sink.sent.remove(name);
                    }
                }
                2 => {
                    let stream = bench.random.below(3);
                    if !bench.sink.blocked.remove(&stream) {
                        bench.sink.blocked.insert(stream);
                    }
                }
                3 if bench.random.one_in(8) => {
                    let current = bench.bed.mvcc.current_revision();
                    let revision = 1 + bench.random.below(current as u64) as i64;
                    if bench.bed.mvcc.compact_revision() < revision {
                        // As the server does: what is compacted was offered before.
                        bench.feed();
                        bench.bed.compact_wholly(revision);
                    }
                }
                4 | 5 => {
                    bench.feed();
                    bench.check_sent(false);
                }
                _ => bench.write(),
            }
        }
        bench.sink.blocked.clear();
        bench.feed();
        while bench.hub.unsynced() > 0 {
            bench.feed();
        }
        bench.check_sent(true);
    }
}

#[test]
fn a_watch_from_the_compacted_revision_sees_the_deletion_at_it() {
    let mut bench = Bench::new(1);
    bench.bed.put("a", "x");
    let deleted = bench.bed.delete("a", "");
    bench.bed.compact_wholly(deleted);
    let new = NewWatcher {
        stream: 0,
        id: 7,
        range: KeyRange::new("a".into(), "".into()),
        start_revision: deleted,
        no_put: false,
        no_delete: false,
        prev_kv: true,
        fragment: false,
    };
    bench.hub = WatchHub::new(deleted);
    bench.hub.create(new, deleted);
    bench.hub.catch_up(bench.bed.reader(), &mut bench.sink).unwrap();
    let sent = &bench.sink.sent[&(0, 7)];
    assert_eq!(sent.len(), 1);
    let (told, events) = &sent[0];
    assert_eq!((*told, events.len()), (deleted, 1));
    assert_eq!(events[0].r#type(), EventType::Delete);
    assert_eq!(events[0].kv.as_ref().unwrap().mod_revision, deleted);
    assert_eq!(events[0].prev_kv, None, "the value before is compacted");
}

#[test]
fn from_now_on_is_from_what_the_client_is_told_even_if_the_hub_has_not_heard_of_it() {
    for is_replaced in [false, true] {
        let mut bench = Bench::new(3);
        bench.bed.put("a", "before");
        let current = bench.bed.mvcc.current_revision();
        assert!(bench.hub.notified() < current);
        let new = NewWatcher {
            stream: 0,
            id: 1,
            range: KeyRange::new("a".into(), "".into()),
            start_revision: 0,
            no_put: false,
            no_delete: false,
            prev_kv: false,
            fragment: false,
        };
        bench.hub.create(new, current);
        if is_replaced {
            bench.hub.replaced(current);
        }
        bench.feed();
        assert!(bench.sink.sent.is_empty(), "{:?}", bench.sink.sent);
        bench.bed.put("a", "after");
        bench.feed();
        let sent = &bench.sink.sent[&(0, 1)];
        assert_eq!(sent[0].1[0].kv.as_ref().unwrap().value, "after");
    }
}

#[test]
fn a_slice_of_catching_up_ends_between_revisions() {
    let mut bench = Bench::new(2);
    for _ in 0..3 * CATCH_UP_CHANGES {
        bench.write();
    }
    let reader = bench.bed.mvcc.reader(bench.bed.store.view());
    bench.hub.notify(reader, &mut bench.sink).unwrap();
    let new = NewWatcher {
        stream: 0,
        id: 1,
        range: KeyRange::new("\0".into(), "\0".into()),
        start_revision: 1,
        no_put: false,
        no_delete: false,
        prev_kv: false,
        fragment: false,
    };
    let current = bench.bed.mvcc.current_revision();
    let slot = bench.hub.create(new.clone(), current);
    bench.watchers.insert((0, 1), (slot, new, 1));
    let mut slices = 0;
    while bench.hub.unsynced() > 0 {
        bench.feed();
        bench.check_sent(false);
        slices += 1;
    }
    assert!(slices > 1, "{slices}");
    bench.check_sent(true);
}

/// `cargo test --lib --features mutants mutants`
#[cfg(feature = "mutants")]
#[test]
fn mutants_of_compaction_are_found() {
    use crate::mutants::{Mutant, set};
    set(Some(Mutant::CompactionTakesTombstone));
    let outcome =
        std::panic::catch_unwind(a_watch_from_the_compacted_revision_sees_the_deletion_at_it);
    set(None);
    assert!(outcome.is_err(), "the deletion is gone, and nobody notices");
}
