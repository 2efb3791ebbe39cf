//! Range requests: which keys, in which order, how many, and how they are written.
//!
//! etcd's rules (`server/etcdserver/txn/range.go`, `mvcc/index.go` of 3.7.1), as they show:
//!
//! - `count` is the number of keys in the interval at the revision, whatever limit and filters say.
//! - `more` says that the limit cut something off that would have been answered otherwise.
//! - A sort order (other than none, and than ascending keys) or any filter by revision makes the
//!   limit count after filtering and sorting. A sort target without an order sorts ascending, but
//!   what it sorts is what the limit and one more let through in the order of keys.
//! - Without values, the index answers, which knows no leases; only if sorted by value they show.
//!
//! Keys that compare equal keep the order of keys. etcd's sort leaves their order open, and agrees
//! up to twelve of them.

use std::cmp::Reverse;

use super::error::MvccError;
use super::keys::{End, Interval, KeyBuf};
use super::reader::{Entry, Messages, Reader};
use super::record::{KeyValue, field_len, key_of, put_key_only, put_message, put_stored, value_of};
use super::wire::take_bytes;
use crate::proto::etcdserverpb::RangeRequest;
use crate::proto::etcdserverpb::range_request::{SortOrder, SortTarget};

/// Field numbers of `etcdserverpb.RangeResponse`.
pub const KVS: u8 = 2;
pub const MORE: u8 = 3;
pub const COUNT: u8 = 4;

/// What a range answers beside its keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RangeOutcome {
    pub count: i64,
    pub more: bool,
    /// The current revision, also where an old one was read.
    pub revision: i64,
    /// The number of keys that were written.
    pub written: i64,
}

/// Whether the keys come in their own order, so that a limit can end the walk.
pub fn is_default_order(request: &RangeRequest) -> bool {
    request.sort_order == SortOrder::None as i32
        || (request.sort_target == SortTarget::Key as i32
            && request.sort_order == SortOrder::Ascend as i32)
}

pub fn has_revision_filters(request: &RangeRequest) -> bool {
    Filter::of(request) != Filter::default()
}

/// How far the count must be right.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Counting {
    Exact,
    /// Nobody asks: the number of keys that were looked at.
    Seen,
}

impl<'a> Reader<'a> {
    /// Answers `request`: appends the keys to `out`, as the `kvs` of a `RangeResponse`.
    pub fn range(
        &self,
        request: &RangeRequest,
        out: &mut Vec<u8>,
    ) -> Result<RangeOutcome, MvccError> {
        Ok(self.range_counting(request, Counting::Exact, out)?.0)
    }

    /// Answers `request` if that takes neither more than about `bytes_max` bytes nor a long walk. `None`
    /// otherwise, with `out` as it was: the answer is then to be made by a [`super::LargeRange`].
    pub fn range_up_to(
        &self,
        request: &RangeRequest,
        bytes_max: usize,
        out: &mut Vec<u8>,
    ) -> Result<Option<RangeOutcome>, MvccError> {
        let start = out.len();
        let revision = self.resolve(request.revision)?;
        let bounds = Bounds { bytes: bytes_max, keys: KEYS_AT_ONCE_MAX };
        let query = Query { bounds, ..Query::of(request, revision) };
        if request.count_only {
            let count = self.count_within(query.interval, revision, KEYS_AT_ONCE_MAX)?;
            return Ok(count.map(|count| self.outcome(count, false, 0)));
        }
        let found = self.find(request, &query, out)?;
        let count = match found.seen {
            _ if found.cut => None,
            Seen::All(count) => Some(count),
            Seen::AtLeast(_) => self.count_within(query.interval, revision, KEYS_AT_ONCE_MAX)?,
        };
        match count {
            None => out.truncate(start),
            Some(count) if found.more => {
                if let Some(last) = written_key(out.get(found.last..).unwrap_or_default()) {
                    let next = [last, b"\0"].concat();
                    self.note_page(request, &query, &next, count - found.written);
                }
            }
            Some(_) => {}
        }
        Ok(count.map(|count| self.outcome(count, found.more, found.written)))
    }

    /// A page of a list has ended: the list goes on with the key `next`, and so many keys are left of it.
    pub(super) fn note_page(
        &self,
        request: &RangeRequest,
        query: &Query<'_>,
        next: &[u8],
        left: u64,
    ) {
        let is_plain = Sort::of(request).is_none() && query.filter == Filter::default();
        if let Some(pages) = self.pages.filter(|_| is_plain) {
            let rest = Interval { start: next, end: query.interval.end };
            pages.note(rest, query.revision, left);
        }
    }

    pub(super) fn outcome(&self, count: u64, more: bool, written: u64) -> RangeOutcome {
        RangeOutcome {
            count: count as i64,
            more,
            revision: self.revisions.current,
            written: written as i64,
        }
    }

    fn find(
        &self,
        request: &RangeRequest,
        query: &Query<'_>,
        out: &mut Vec<u8>,
    ) -> Result<Found, MvccError> {
        match Sort::of(request) {
            _ if query.interval.end == End::Single => self.single(query, out),
            None => self.in_key_order(query, out),
            Some(sort) => self.sorted(query, sort, out),
        }
    }

    /// Also tells where in `out` the last key begins.
    pub(super) fn range_counting(
        &self,
        request: &RangeRequest,
        counting: Counting,
        out: &mut Vec<u8>,
    ) -> Result<(RangeOutcome, usize), MvccError> {
        let revision = self.resolve(request.revision)?;
        let query = Query::of(request, revision);
        if request.count_only {
            let count = self.count_at(query.interval, revision)?;
            return Ok((self.outcome(count, false, 0), out.len()));
        }
        let found = self.find(request, &query, out)?;
        let count = match found.seen {
            Seen::All(count) => count,
            Seen::AtLeast(count) if counting == Counting::Seen => count,
            Seen::AtLeast(_) => self.count_at(query.interval, revision)?,
        };
        Ok((self.outcome(count, found.more, found.written), found.last))
    }

    /// Appends all keys of `interval` that exist now, as message fields `field`.
    pub(super) fn write_all(
        &self,
        interval: Interval<'_>,
        field: u8,
        out: &mut Vec<u8>,
    ) -> Result<(), MvccError> {
        let mut scan = self.scan(interval, self.revisions.current);
        let messages = self.messages();
        while scan.next()? {
            put_stored(out, field, messages.stored(scan.entry()?.revision)?);
        }
        Ok(())
    }

    /// One key; neither limit nor order can matter.
    fn single(&self, query: &Query<'_>, out: &mut Vec<u8>) -> Result<Found, MvccError> {
        let mut key = KeyBuf::of(query.interval.start);
        let Some(version) = self.visible(&mut key, query.revision)? else {
            return Ok(Found::none(out.len()));
        };
        let entry = Entry { prefix: key.prefix(), revision: version.revision, meta: version.meta };
        let (mut written, last) = (0, out.len());
        if query.filter.admits(&entry) {
            query.write(&self.messages(), &entry, out)?;
            written = 1;
        }
        Ok(Found { seen: Seen::All(1), more: false, written, last, cut: false })
    }

    fn in_key_order(&self, query: &Query<'_>, out: &mut Vec<u8>) -> Result<Found, MvccError> {
        let mut scan = self.scan(query.interval, query.revision);
        let messages = self.messages();
        let start = out.len();
        let (mut seen, mut written, mut last) = (0, 0, out.len());
        while scan.next()? {
            seen += 1;
            let entry = scan.entry()?;
            if !query.filter.admits(&entry) {
                if seen > query.bounds.keys {
                    return Ok(Found::cut());
                }
                continue;
            }
            if written == query.limit {
                let seen = Seen::AtLeast(seen);
                return Ok(Found { seen, more: true, written, last, cut: false });
            }
            last = out.len();
            query.write(&messages, &entry, out)?;
            written += 1;
            if out.len() - start > query.bounds.bytes || seen > query.bounds.keys {
                return Ok(Found::cut());
            }
        }
        Ok(Found { seen: Seen::All(seen), more: false, written, last, cut: false })
    }

    fn sorted(&self, query: &Query<'_>, sort: Sort, out: &mut Vec<u8>) -> Result<Found, MvccError> {
        // etcd limits what it fetches before it sorts, if only a target was given.
        let fetch_max = if sort.implied && query.filter == Filter::default() {
            query.limit.saturating_add(1)
        } else {
            u64::MAX
        };
        let mut rows = Vec::new();
        let mut scan = self.scan(query.interval, query.revision);
        let messages = self.messages();
        let mut seen = Seen::All(0);
        let mut fetched = 0;
        while scan.next()? {
            fetched += 1;
            let entry = scan.entry()?;
            if query.filter.admits(&entry) {
                rows.push(Row::new(&messages, &entry)?);
            }
            if fetched > query.bounds.keys {
                return Ok(Found::cut());
            }
            if fetched == fetch_max {
                seen = Seen::AtLeast(fetched);
                break;
            }
            seen = Seen::All(fetched);
        }
        sort.apply(&mut rows);
        let more = rows.len() as u64 > query.limit;
        rows.truncate(usize::try_from(query.limit).unwrap_or(usize::MAX));
        let (start, mut last) = (out.len(), out.len());
        for row in &rows {
            last = out.len();
            row.write(query.values, out);
            if out.len() - start > query.bounds.bytes {
                return Ok(Found::cut());
            }
        }
        Ok(Found { seen, more, written: rows.len() as u64, last, cut: false })
    }
}

/// The key of a key-value pair that was written as a field of a message.
fn written_key(mut field: &[u8]) -> Option<&[u8]> {
    field.split_off_first()?;
    key_of(take_bytes(&mut field)?)
}

/// A range request, made ready.
pub(super) struct Query<'r> {
    pub interval: Interval<'r>,
    pub revision: i64,
    /// The greatest number of keys to answer.
    pub limit: u64,
    pub filter: Filter,
    pub values: Values,
    bounds: Bounds,
}

/// Beyond these an answer is given up and nothing is written.
#[derive(Clone, Copy)]
struct Bounds {
    bytes: usize,
    /// Keys looked at.
    keys: u64,
}

const UNBOUNDED: Bounds = Bounds { bytes: usize::MAX, keys: u64::MAX };

/// Keys that one call looks at, where it can be asked for the rest later: some milliseconds.
pub(super) const KEYS_AT_ONCE_MAX: u64 = 10_000;

impl<'r> Query<'r> {
    pub fn of(request: &'r RangeRequest, revision: i64) -> Query<'r> {
        let by_value = request.sort_target == SortTarget::Value as i32;
        Query {
            interval: Interval::new(&request.key, &request.range_end),
            revision,
            limit: if request.limit > 0 { request.limit as u64 } else { u64::MAX },
            filter: Filter::of(request),
            values: if request.keys_only {
                Values::None { leases: by_value }
            } else {
                Values::Whole
            },
            bounds: UNBOUNDED,
        }
    }

    /// Appends a key.
    pub fn write(
        &self,
        messages: &Messages<'_>,
        entry: &Entry<'_>,
        out: &mut Vec<u8>,
    ) -> Result<(), MvccError> {
        match self.values {
            Values::Whole => put_stored(out, KVS, messages.stored(entry.revision)?),
            Values::None { leases } => {
                let lease = if leases { entry.meta.lease } else { 0 };
                put_key_only(out, KVS, entry.prefix, entry.revision.main, &entry.meta, lease);
            }
        }
        Ok(())
    }

    /// The length of what [`Query::write`] appends for a key.
    pub fn written_len(&self, entry: &Entry<'_>) -> usize {
        let (value_len, lease) = match self.values {
            Values::Whole => (entry.meta.value_len, entry.meta.lease),
            Values::None { leases } => (0, if leases { entry.meta.lease } else { 0 }),
        };
        field_len(entry.prefix, entry.revision.main, &entry.meta, value_len, lease)
    }
}

#[derive(Clone, Copy)]
pub(super) enum Values {
    Whole,
    None { leases: bool },
}

/// Bounds of revisions; 0 is no bound.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Filter {
    min_mod: i64,
    max_mod: i64,
    min_create: i64,
    max_create: i64,
}

impl Filter {
    fn of(request: &RangeRequest) -> Filter {
        Filter {
            min_mod: request.min_mod_revision,
            max_mod: request.max_mod_revision,
            min_create: request.min_create_revision,
            max_create: request.max_create_revision,
        }
    }

    pub fn admits(&self, entry: &Entry<'_>) -> bool {
        let within = |value: i64, min: i64, max: i64| {
            (min == 0 || value >= min) && (max == 0 || value <= max)
        };
        within(entry.revision.main, self.min_mod, self.max_mod)
            && within(entry.meta.create, self.min_create, self.max_create)
    }
}

struct Found {
    seen: Seen,
    more: bool,
    written: u64,
    /// Where the last key begins in what was written.
    last: usize,
    /// It was given up because of its bounds.
    cut: bool,
}

impl Found {
    fn none(at: usize) -> Found {
        Found { seen: Seen::All(0), more: false, written: 0, last: at, cut: false }
    }

    fn cut() -> Found {
        Found { cut: true, ..Found::none(0) }
    }
}

/// The number of keys that a walk met before filtering.
enum Seen {
    All(u64),
    AtLeast(u64),
}

#[derive(Clone, Copy)]
pub(super) struct Sort {
    pub target: SortTarget,
    pub descending: bool,
    /// Only a target was given.
    pub implied: bool,
}

impl Sort {
    /// `None` if the order of keys is what is wanted.
    pub fn of(request: &RangeRequest) -> Option<Sort> {
        let target = SortTarget::try_from(request.sort_target).ok()?;
        let order = SortOrder::try_from(request.sort_order).ok()?;
        if target == SortTarget::Key && order != SortOrder::Descend {
            return None;
        }
        let descending = order == SortOrder::Descend;
        Some(Sort { target, descending, implied: order == SortOrder::None })
    }

    fn apply(self, rows: &mut [Row<'_>]) {
        match (self.target, self.descending) {
            (SortTarget::Key, _) => rows.reverse(),
            (SortTarget::Version, false) => rows.sort_by_key(|row| row.message.version),
            (SortTarget::Version, true) => rows.sort_by_key(|row| Reverse(row.message.version)),
            (SortTarget::Create, false) => rows.sort_by_key(|row| row.message.create),
            (SortTarget::Create, true) => rows.sort_by_key(|row| Reverse(row.message.create)),
            (SortTarget::Mod, false) => rows.sort_by_key(|row| row.message.modified),
            (SortTarget::Mod, true) => rows.sort_by_key(|row| Reverse(row.message.modified)),
            (SortTarget::Value, false) => rows.sort_by_key(|row| row.message.value),
            (SortTarget::Value, true) => rows.sort_by_key(|row| Reverse(row.message.value)),
        }
    }
}

/// A key that waits to be sorted.
struct Row<'a> {
    message: KeyValue<'a>,
    stored: &'a [u8],
}

impl<'a> Row<'a> {
    fn new(messages: &Messages<'a>, entry: &Entry<'_>) -> Result<Row<'a>, MvccError> {
        let kv = messages.stored(entry.revision)?;
        let malformed = || MvccError::damaged("a stored message is malformed");
        let message = KeyValue {
            key: key_of(kv).ok_or_else(malformed)?,
            create: entry.meta.create,
            modified: entry.revision.main,
            version: entry.meta.version,
            value: value_of(kv).ok_or_else(malformed)?,
            lease: entry.meta.lease,
        };
        Ok(Row { message, stored: kv })
    }

    fn write(&self, values: Values, out: &mut Vec<u8>) {
        match values {
            Values::Whole => put_stored(out, KVS, self.stored),
            Values::None { leases } => {
                let lease = if leases { self.message.lease } else { 0 };
                put_message(out, KVS, &KeyValue { value: b"", lease, ..self.message });
            }
        }
    }
}
