//! Ranges whose answer is too large, or takes too long, to be made in one piece.
//!
//! A gRPC message says its length before its first byte. So the answer is made in two walks over one
//! pinned state of the store: the first adds up lengths, which the KEY tree knows without touching a
//! value, and the second writes. Both go in slices. What is kept between them is a request, a key, and
//! some numbers, however many keys the range has.
//!
//! A sort order needs more: 32 bytes for each key that may be answered, in a heap, from which the
//! second walk takes one after the other. Only a sort by values is done in one piece.
//!
//! Invariant: the reader of every call shows the same state, and what is written in all is exactly
//! as long as was measured.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use bytes::Bytes;

use super::error::MvccError;
use super::keys::{End, Interval, KeyBuf, unescape};
use super::range::{Filter, KEYS_AT_ONCE_MAX, KVS, Query, RangeOutcome, Sort, Values};
use super::reader::{Entry, Reader};
use super::record::{KeyMeta, put_key_only, put_stored, value_of};
use super::revision::Revision;
use crate::proto::etcdserverpb::RangeRequest;
use crate::proto::etcdserverpb::range_request::SortTarget;

/// A range between two slices of its work.
#[derive(Debug)]
pub struct LargeRange {
    request: RangeRequest,
    revision: i64,
    /// The user key from which the present walk goes on.
    next: Bytes,
    /// Keys met, keys that are answered, and the length of what is answered.
    seen: u64,
    chosen: u64,
    len: u64,
    more: bool,
    /// What follows the last key that is answered, where the limit has ended the walk in the order of keys.
    behind: Bytes,
    /// The rest of the walk is only for the count.
    only_counts: bool,
    order: Order,
    /// Keys written by the second walk.
    written: u64,
}

/// How the keys are to be ordered, and what is known of those that were met.
#[derive(Debug)]
enum Order {
    Keys,
    /// The first walk collects. With a limit the least wanted is on top, to be dropped.
    Collecting(BinaryHeap<Row>),
    /// The second walk takes the next from the top.
    Sorted(BinaryHeap<Reverse<Row>>),
}

/// A key that waits to be written. Ordered by `rank`, then as the keys are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Row {
    rank: i64,
    ordinal: u32,
    main: i64,
    sub: u32,
    len: u32,
}

/// What the first walk found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Measured {
    /// The length of all `kvs` of the answer.
    pub kvs_len: u64,
    pub outcome: RangeOutcome,
}

impl LargeRange {
    /// `request` must be answerable by the state of `reader`. Keeps copies of its keys: a slice would keep
    /// the whole buffer alive that the request was read into.
    pub fn new(request: &RangeRequest, reader: &Reader<'_>) -> Result<LargeRange, MvccError> {
        let revision = reader.resolve(request.revision)?;
        let key = Bytes::copy_from_slice(&request.key);
        let range_end = Bytes::copy_from_slice(&request.range_end);
        let request = RangeRequest { key: key.clone(), range_end, ..request.clone() };
        let order = match Sort::of(&request) {
            Some(_) if !request.count_only => Order::Collecting(BinaryHeap::new()),
            _ => Order::Keys,
        };
        Ok(LargeRange {
            only_counts: request.count_only,
            request,
            revision,
            next: key,
            seen: 0,
            chosen: 0,
            len: 0,
            more: false,
            behind: Bytes::new(),
            order,
            written: 0,
        })
    }

    /// One slice of the first walk, which looks at about `keys_max` keys; the result once it is at its end.
    pub fn measure(
        &mut self,
        reader: &Reader<'_>,
        keys_max: u64,
    ) -> Result<Option<Measured>, MvccError> {
        let request = self.request.clone();
        let query = Query::of(&request, self.revision);
        let mut scan = reader.scan(rest_of(&request, &self.next), self.revision);
        let fetch_max = match Sort::of(&request) {
            Some(sort) if sort.implied && query.filter == Filter::default() => {
                query.limit.saturating_add(1)
            }
            _ => u64::MAX,
        };
        let mut looked_at = 0;
        let at_end = loop {
            if !scan.next()? {
                break true;
            }
            self.seen += 1;
            looked_at += 1;
            let entry = scan.entry()?;
            let stops = !self.only_counts
                && query.filter.admits(&entry)
                && !self.choose(reader, &query, &entry)?;
            if (stops || self.seen == fetch_max) && !self.only_counts {
                match reader.count_within(query.interval, self.revision, keys_max)? {
                    Some(count) => {
                        self.seen = count;
                        break true;
                    }
                    None => self.only_counts = true,
                }
            }
            if query.interval.end == End::Single {
                break true;
            }
            if looked_at >= keys_max {
                self.next = key_behind(entry.prefix);
                break false;
            }
        };
        if !at_end {
            return Ok(None);
        }
        self.sort(reader)?;
        self.next = self.request.key.clone();
        if self.more && matches!(self.order, Order::Keys) {
            reader.note_page(&request, &query, &self.behind, self.seen - self.chosen);
        }
        let outcome = reader.outcome(self.seen, self.more, self.chosen);
        Ok(Some(Measured { kvs_len: self.len, outcome }))
    }

    /// Notes a key that passes the filter. False when, in the order of keys, the limit was reached.
    fn choose(
        &mut self,
        reader: &Reader<'_>,
        query: &Query<'_>,
        entry: &Entry<'_>,
    ) -> Result<bool, MvccError> {
        let len = query.written_len(entry) as u64;
        let ordinal = self.seen as u32;
        match &mut self.order {
            Order::Sorted(_) => return Err(MvccError::damaged("a range is measured once")),
            Order::Keys => {
                if self.chosen == query.limit {
                    self.more = true;
                    return Ok(false);
                }
                self.chosen += 1;
                self.len += len;
                if self.chosen == query.limit {
                    self.behind = key_behind(entry.prefix);
                }
            }
            Order::Collecting(heap) => {
                let sort = Sort::of(&self.request);
                let by_value = sort.is_some_and(|sort| sort.target == SortTarget::Value);
                let rank = sort.map_or(0, |sort| rank(sort, entry, ordinal));
                let Revision { main, sub } = entry.revision;
                if heap.is_empty() {
                    let keys = reader.count_within(query.interval, self.revision, 0)?;
                    heap.reserve(keys.unwrap_or(0).min(query.limit.saturating_add(1)) as usize);
                }
                heap.push(Row { rank, ordinal, main, sub, len: len as u32 });
                self.chosen += 1;
                self.len += len;
                // By value, all have to be there before the first can be chosen.
                if self.chosen > query.limit && !by_value {
                    self.more = true;
                    self.drop_last();
                }
            }
        }
        Ok(true)
    }

    fn drop_last(&mut self) {
        if let Order::Collecting(heap) = &mut self.order
            && let Some(row) = heap.pop()
        {
            self.chosen -= 1;
            self.len -= u64::from(row.len);
        }
    }

    fn sort(&mut self, reader: &Reader<'_>) -> Result<(), MvccError> {
        let Order::Collecting(heap) = &mut self.order else { return Ok(()) };
        let mut rows = std::mem::take(heap).into_vec();
        if let Some(sort) = Sort::of(&self.request)
            && sort.target == SortTarget::Value
        {
            rank_by_value(reader, &mut rows, sort.descending)?;
            let limit = Query::of(&self.request, self.revision).limit;
            self.more = rows.len() as u64 > limit;
            rows.sort_unstable();
            rows.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
            self.chosen = rows.len() as u64;
            self.len = rows.iter().map(|row| u64::from(row.len)).sum();
        }
        self.order = Order::Sorted(rows.into_iter().map(Reverse).collect());
        Ok(())
    }

    /// Appends about `bytes_max` bytes of the `kvs` of the answer to `out`, whole ones; true when there are
    /// no more. Follows the last slice of [`LargeRange::measure`].
    pub fn write(
        &mut self,
        reader: &Reader<'_>,
        bytes_max: usize,
        out: &mut Vec<u8>,
    ) -> Result<bool, MvccError> {
        let end = out.len().saturating_add(bytes_max);
        match self.order {
            Order::Keys => self.write_in_key_order(reader, end, out)?,
            _ => self.write_sorted(reader, end, out)?,
        }
        Ok(self.written == self.chosen)
    }

    fn write_in_key_order(
        &mut self,
        reader: &Reader<'_>,
        end: usize,
        out: &mut Vec<u8>,
    ) -> Result<(), MvccError> {
        let query = Query::of(&self.request, self.revision);
        let mut scan = reader.scan(rest_of(&self.request, &self.next), self.revision);
        let messages = reader.messages();
        let mut looked_at = 0;
        while self.written < self.chosen {
            if !scan.next()? {
                return Err(MvccError::damaged("a pinned range has become shorter"));
            }
            let entry = scan.entry()?;
            looked_at += 1;
            if query.filter.admits(&entry) {
                let before = out.len();
                query.write(&messages, &entry, out)?;
                if out.len() - before != query.written_len(&entry) {
                    return Err(MvccError::damaged("a key's entry disagrees with its record"));
                }
                self.written += 1;
            }
            if out.len() >= end || looked_at >= KEYS_AT_ONCE_MAX {
                self.next = key_behind(entry.prefix);
                return Ok(());
            }
        }
        Ok(())
    }

    fn write_sorted(
        &mut self,
        reader: &Reader<'_>,
        end: usize,
        out: &mut Vec<u8>,
    ) -> Result<(), MvccError> {
        let values = Query::of(&self.request, self.revision).values;
        let mut looked_at = 0;
        loop {
            let Order::Sorted(heap) = &mut self.order else { return Ok(()) };
            let Some(Reverse(row)) = heap.pop() else { return Ok(()) };
            looked_at += 1;
            self.written += 1;
            let before = out.len();
            let revision = Revision { main: row.main, sub: row.sub };
            let stored = reader.stored(revision)?;
            match values {
                Values::Whole => put_stored(out, KVS, stored),
                Values::None { leases } => write_key_only(reader, stored, revision, leases, out)?,
            }
            if out.len() - before != row.len as usize {
                return Err(MvccError::damaged("a key's entry disagrees with its record"));
            }
            if out.len() >= end || looked_at >= KEYS_AT_ONCE_MAX {
                return Ok(());
            }
        }
    }
}

fn write_key_only(
    reader: &Reader<'_>,
    stored: &[u8],
    revision: Revision,
    leases: bool,
    out: &mut Vec<u8>,
) -> Result<(), MvccError> {
    let key = super::record::key_of(stored)
        .ok_or_else(|| MvccError::damaged("a stored message has no key"))?;
    let mut key = KeyBuf::of(key);
    let meta: KeyMeta = match reader.visible(&mut key, revision.main)? {
        Some(version) if version.revision == revision => version.meta,
        _ => return Err(MvccError::damaged("a record has no entry of its key")),
    };
    let lease = if leases { meta.lease } else { 0 };
    put_key_only(out, KVS, key.prefix(), revision.main, &meta, lease);
    Ok(())
}

/// The interval of a request from `next` on.
fn rest_of<'r>(request: &'r RangeRequest, next: &'r [u8]) -> Interval<'r> {
    let whole = Interval::new(&request.key, &request.range_end);
    match whole.end {
        End::Single => whole,
        end => Interval { start: next, end },
    }
}

/// The smallest user key above the one that is escaped in `prefix`.
fn key_behind(prefix: &[u8]) -> Bytes {
    let mut key = Vec::with_capacity(prefix.len());
    unescape(prefix, |piece| key.extend_from_slice(piece));
    key.push(0);
    key.into()
}

fn rank(sort: Sort, entry: &Entry<'_>, ordinal: u32) -> i64 {
    let value = match sort.target {
        SortTarget::Key => i64::from(ordinal),
        SortTarget::Version => entry.meta.version,
        SortTarget::Create => entry.meta.create,
        SortTarget::Mod => entry.revision.main,
        SortTarget::Value => 0,
    };
    if sort.descending { -value } else { value }
}

/// Ranks rows by their values, which lie in the pinned state.
fn rank_by_value(reader: &Reader<'_>, rows: &mut [Row], descending: bool) -> Result<(), MvccError> {
    let mut values: Vec<(&[u8], u32)> = Vec::with_capacity(rows.len());
    for (place, row) in rows.iter().enumerate() {
        let stored = reader.stored(Revision { main: row.main, sub: row.sub })?;
        let value =
            value_of(stored).ok_or_else(|| MvccError::damaged("a stored message is malformed"))?;
        values.push((value, place as u32));
    }
    values.sort_unstable();
    let mut rank = 0;
    for (at, (value, place)) in values.iter().enumerate() {
        if at > 0 && values[at - 1].0 != *value {
            rank += 1;
        }
        rows[*place as usize].rank = if descending { -rank } else { rank };
    }
    Ok(())
}
