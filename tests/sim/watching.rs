//! etcd's guarantees for watches, each held against the history of committed changes:
//!
//! - *Ordered, Unique, Reliable*: the events are exactly the next changes of the watched keys.
//! - *Atomic*: a response ends between revisions.
//! - *Bookmarkable*: no revision that is told is ahead of an event that was not.
//! - *Resumable*: a watch from any revision that is not compacted sees all from there on.
//! - Filters leave out what they name and nothing else; `prev_kv` is the value one revision
//!   earlier; an event says rightly whether it creates its key.

use bytes::Bytes;
use ringd::proto::mvccpb::{Event, KeyValue, event::EventType};

use crate::model::{Change, Model, in_interval};
use crate::truth::Check;

/// What a client asks for.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Wanted {
    pub key: Bytes,
    pub range_end: Bytes,
    pub no_put: bool,
    pub no_delete: bool,
    pub prev_kv: bool,
}

impl Wanted {
    fn wants(&self, change: &Change) -> bool {
        let filtered = if change.delete { self.no_delete } else { self.no_put };
        !filtered && in_interval(&change.kv.key, &self.key, &self.range_end)
    }
}

/// One watch as its client sees it, over all members that it was resumed on.
#[derive(Clone, Debug)]
pub struct Watch {
    pub wanted: Wanted,
    /// The first revision that was not delivered; 0 until the watch is created.
    pub next: i64,
    pub events: u64,
}

impl Watch {
    pub fn new(wanted: Wanted, start: i64) -> Watch {
        Watch { wanted, next: start, events: 0 }
    }

    /// The watch is there, as of `revision`.
    pub fn created(&mut self, revision: i64) {
        if self.next == 0 {
            self.next = revision + 1;
        }
    }

    /// Events arrive, and with them `told`, up to which they are all.
    pub fn events(&mut self, events: &[Event], told: i64, model: &Model) -> Check {
        let mut expected =
            model.changes_from(self.next).iter().filter(|change| self.wanted.wants(change));
        let mut last = self.next - 1;
        for event in events {
            let change = expected.next().ok_or_else(|| {
                format!(
                    "an event of nothing that is committed, or a repeated one: {event:?}; {self:?}"
                )
            })?;
            self.is_event_of(event, change, model)?;
            last = change.main;
        }
        if let Some(change) = expected.next().filter(|change| change.main == last) {
            return Err(format!("not Atomic: {change:?} is left out at the end of its revision"));
        }
        self.events += events.len() as u64;
        self.next = last + 1;
        self.progress(told, model)
    }

    fn is_event_of(&self, event: &Event, change: &Change, model: &Model) -> Check {
        let wrong = |what: &str| {
            Err(format!("{what}: {event:?} in the place of {change:?}; {:?}", self.wanted))
        };
        let kind = if change.delete { EventType::Delete } else { EventType::Put };
        let kv = match change.delete {
            true => KeyValue { mod_revision: change.main, ..change.kv.clone() },
            false => change.kv.clone(),
        };
        if event.r#type != kind as i32 || event.kv.as_ref() != Some(&kv) {
            return wrong("another event than the next one (Ordered, Unique, Reliable)");
        }
        let before = model.key_at(&change.kv.key, change.main - 1);
        if !change.delete && before.is_none() != (kv.create_revision == kv.mod_revision) {
            return wrong("a creation that is none, or the other way round");
        }
        match &event.prev_kv {
            Some(_) if !self.wanted.prev_kv => wrong("prev_kv that nobody asked for"),
            Some(prev) if before != Some(prev) => wrong("a wrong prev_kv"),
            None if self.wanted.prev_kv
                && before.is_some()
                && change.main > model.compact.max(0) =>
            {
                wrong("prev_kv is missing")
            }
            _ => Ok(()),
        }
    }

    /// The client is told that it has everything up to `revision`.
    pub fn progress(&mut self, revision: i64, model: &Model) -> Check {
        if revision > model.current {
            return Err(format!("progress up to {revision}, which is not committed; {self:?}"));
        }
        let missed = model
            .changes_from(self.next)
            .iter()
            .take_while(|change| change.main <= revision)
            .find(|change| self.wanted.wants(change));
        if let Some(change) = missed {
            return Err(format!(
                "not Bookmarkable, or not Reliable: told that it has all up to {revision}, {self:?} never got \
                 {change:?}"
            ));
        }
        if self.next > 0 {
            self.next = self.next.max(revision + 1);
        }
        Ok(())
    }

    /// The watch ended, since what it wanted next is compacted.
    pub fn compacted(&mut self, compact: i64, model: &Model) -> Check {
        if self.next >= compact {
            return Err(format!(
                "ended by the compaction at {compact}, and it needs {}",
                self.next
            ));
        }
        if compact > model.compact {
            return Err(format!("ended by a compaction at {compact} that is not committed"));
        }
        // The client begins again at the bound, as it should.
        self.next = compact;
        Ok(())
    }

    /// Nothing more will come.
    pub fn is_complete(&self, model: &Model) -> Check {
        let mut rest = model.changes_from(self.next).iter();
        match rest.find(|change| self.next > 0 && self.wanted.wants(change)) {
            Some(change) => Err(format!("not Reliable: {self:?} never got {change:?}")),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ringd::proto::etcdserverpb::{DeleteRangeRequest, PutRequest, TxnRequest};
    use ringd::proto::etcdserverpb::{RequestOp, request_op::Request};

    fn put_op(key: &'static str, value: &'static str) -> PutRequest {
        PutRequest { key: key.into(), value: value.into(), ..Default::default() }
    }

    /// Revision 2 puts `a`, 3 puts `a` and `b`, 4 deletes `a`, 5 puts `c`.
    fn model() -> Model {
        let mut model = Model::new(1, 2);
        model.put(&put_op("a", "1")).unwrap();
        let puts = [put_op("a", "2"), put_op("b", "1")];
        let success =
            puts.map(|put| RequestOp { request: Some(Request::RequestPut(put)) }).to_vec();
        model.txn(&TxnRequest { success, ..Default::default() }).unwrap();
        model.delete_range(&DeleteRangeRequest { key: "a".into(), ..Default::default() });
        model.put(&put_op("c", "1")).unwrap();
        model
    }

    fn event(model: &Model, nth: usize, prev_kv: bool) -> Event {
        let change = &model.changes_from(0)[nth];
        let kind = if change.delete { EventType::Delete } else { EventType::Put };
        let mut kv = change.kv.clone();
        kv.mod_revision = change.main;
        let prev_kv = model.prev_kv(change, model.compact).filter(|_| prev_kv).cloned();
        Event { r#type: kind as i32, kv: Some(kv), prev_kv }
    }

    fn all(prev_kv: bool) -> Wanted {
        Wanted { key: "a".into(), range_end: "\0".into(), prev_kv, ..Default::default() }
    }

    fn events(model: &Model, which: &[usize]) -> Vec<Event> {
        which.iter().map(|nth| event(model, *nth, false)).collect()
    }

    #[test]
    fn everything_in_order_passes() {
        let model = model();
        for prev_kv in [false, true] {
            let mut watch = Watch::new(all(prev_kv), 2);
            let all: Vec<_> = (0..5).map(|nth| event(&model, nth, prev_kv)).collect();
            watch.events(&all[..1], 2, &model).unwrap();
            watch.events(&all[1..4], 4, &model).unwrap();
            watch.events(&all[4..], 5, &model).unwrap();
            watch.is_complete(&model).unwrap();
            assert_eq!((watch.next, watch.events), (6, 5));
        }
    }

    #[test]
    fn what_is_left_out_repeated_or_out_of_order_is_found() {
        let model = model();
        for which in [&[1, 2][..], &[0, 3], &[0, 0], &[0, 2, 1], &[0, 1, 2, 4]] {
            let mut watch = Watch::new(all(false), 2);
            assert!(watch.events(&events(&model, which), 2, &model).is_err(), "{which:?}");
        }
        let mut watch = Watch::new(all(false), 4);
        assert!(watch.events(&events(&model, &[0]), 4, &model).is_err(), "before its start");
        let mut watch = Watch::new(all(false), 6);
        assert!(watch.events(&events(&model, &[4]), 5, &model).is_err(), "of the past");
    }

    #[test]
    fn half_a_revision_is_found() {
        let model = model();
        let mut watch = Watch::new(all(false), 2);
        let half = watch.events(&events(&model, &[0, 1]), 3, &model);
        assert!(half.unwrap_err().contains("not Atomic"));
    }

    #[test]
    fn a_revision_told_ahead_of_its_events_is_found() {
        let model = model();
        let mut watch = Watch::new(all(false), 2);
        assert!(watch.progress(2, &model).unwrap_err().contains("Bookmarkable"));
        assert!(watch.events(&events(&model, &[0]), 3, &model).is_err());
        let mut watch = Watch::new(all(false), 5);
        watch.progress(4, &model).unwrap();
        assert!(watch.progress(6, &model).unwrap_err().contains("not committed"));
    }

    #[test]
    fn filters_that_let_through_or_swallow_are_found() {
        let model = model();
        let wanted = Wanted { no_delete: true, ..all(false) };
        let mut watch = Watch::new(wanted.clone(), 4);
        assert!(watch.events(&events(&model, &[3]), 4, &model).is_err());
        let mut watch = Watch::new(wanted, 4);
        watch.events(&events(&model, &[4]), 5, &model).unwrap();
        let wanted = Wanted { no_put: true, ..all(false) };
        let mut watch = Watch::new(wanted, 2);
        watch.events(&events(&model, &[3]), 4, &model).unwrap();
        watch.is_complete(&model).unwrap();
        let mut watch = Watch::new(Wanted { key: "b".into(), ..Default::default() }, 2);
        assert!(watch.is_complete(&model).is_err());
        watch.events(&events(&model, &[2]), 3, &model).unwrap();
        watch.is_complete(&model).unwrap();
    }

    #[test]
    fn a_wrong_or_missing_value_before_is_found() {
        let model = model();
        let mut watch = Watch::new(all(true), 4);
        assert!(watch.events(&events(&model, &[3]), 4, &model).unwrap_err().contains("missing"));
        let mut wrong = event(&model, 3, true);
        wrong.prev_kv.as_mut().unwrap().value = "1".into();
        assert!(watch.events(&[wrong], 4, &model).unwrap_err().contains("wrong prev_kv"));
        let mut watch = Watch::new(all(false), 4);
        let unasked = event(&model, 3, true);
        assert!(watch.events(&[unasked], 4, &model).unwrap_err().contains("nobody asked"));
    }

    #[test]
    fn a_value_before_that_is_compacted_may_be_missing() {
        let mut model = model();
        model.compact(4).unwrap();
        let mut watch = Watch::new(all(true), 4);
        watch.events(&events(&model, &[3]), 4, &model).unwrap();
    }

    #[test]
    fn a_creation_that_says_it_is_none_is_found() {
        let model = model();
        let mut watch = Watch::new(all(false), 5);
        let mut wrong = event(&model, 4, false);
        wrong.kv.as_mut().unwrap().create_revision = 4;
        assert!(watch.events(&[wrong], 5, &model).is_err());
    }

    #[test]
    fn an_end_by_compaction_that_was_not_needed_is_found() {
        let mut model = model();
        assert!(Watch::new(all(false), 2).compacted(4, &model).is_err());
        model.compact(4).unwrap();
        assert!(Watch::new(all(false), 4).compacted(4, &model).is_err());
        Watch::new(all(false), 3).compacted(4, &model).unwrap();
    }
}
