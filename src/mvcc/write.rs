//! Changing keys: one transaction, whose changes share a main revision.
//!
//! The caller's store transaction is open all the while and takes the changes in; there is no way
//! back. So whatever a client can do wrong is found out before the first change, and an error
//! here means a store that cannot be trusted.
//!
//! Each change writes one entry to KEY and one to REV, and moves the weight of the key from the
//! former version to the new one. LEASE_KEYS always holds exactly the leases of the versions that
//! have weight.

use super::Mvcc;
use super::error::MvccError;
use super::keys::{Interval, KEY, KeyBuf, LEASE_KEYS, REV, key_of_lease, lease_key, unescape};
use super::reader::{Reader, Version, entry, version_behind};
use super::record::{KeyMeta, KeyValue, NewRecord, put_stored, value_of};
use super::revision::Revision;
use super::wire::put_int;
use crate::proto::etcdserverpb::{DeleteRangeRequest, PutRequest};
use crate::store::Store;

/// Field numbers of `etcdserverpb.PutResponse` and `DeleteRangeResponse`.
const PUT_PREV_KV: u8 = 2;
const DELETED: u8 = 2;
const DELETED_PREV_KVS: u8 = 3;

/// A transaction that may change keys. The revision moves on only if it did ([`WriteTxn::finish`]).
pub(super) struct WriteTxn<'m> {
    mvcc: &'m mut Mvcc,
    store: &'m mut Store,
    changes: u32,
}

impl<'m> WriteTxn<'m> {
    pub fn begin(mvcc: &'m mut Mvcc, store: &'m mut Store) -> WriteTxn<'m> {
        WriteTxn { mvcc, store, changes: 0 }
    }

    /// The revision that the changes get.
    pub fn main(&self) -> i64 {
        self.mvcc.current + 1
    }

    /// The revision that shows what was changed so far.
    pub fn revision(&self) -> i64 {
        if self.changes > 0 { self.main() } else { self.mvcc.current }
    }

    /// Sees the changes made so far.
    pub fn reader(&self) -> Reader<'_> {
        let mut revisions = self.mvcc.revisions();
        revisions.current = self.revision();
        Reader::new(self.store.view(), revisions)
    }

    /// Makes the changes the newest revision, and returns the newest revision.
    pub fn finish(self) -> i64 {
        self.mvcc.current = self.revision();
        self.mvcc.current
    }

    fn next_revision(&mut self) -> Revision {
        let revision = Revision::new(self.main(), self.changes);
        self.changes += 1;
        revision
    }

    /// Whether [`WriteTxn::put`] can do what `request` wants.
    pub fn check_put(reader: &Reader<'_>, request: &PutRequest) -> Result<(), MvccError> {
        if !request.ignore_value && !request.ignore_lease {
            return Ok(());
        }
        match reader.newest(&KeyBuf::of(&request.key))? {
            Some(version) if !version.meta.tombstone => Ok(()),
            _ => Err(MvccError::KeyNotFound),
        }
    }

    /// Puts a key. Appends to `out`, if given, what a `PutResponse` has behind its header.
    ///
    /// A value or lease that is to be kept, of a key that does not exist any more (a deletion from
    /// a key on, earlier in the same transaction, is not seen by the validation), is empty.
    pub fn put(
        &mut self,
        request: &PutRequest,
        out: Option<&mut Vec<u8>>,
    ) -> Result<(), MvccError> {
        self.mvcc.counts.puts += 1;
        self.mvcc.counts.put_bytes += (request.key.len() + request.value.len()) as u64;
        let revision = self.next_revision();
        let mut key = KeyBuf::of(&request.key);
        key.version(revision);
        let wants_former = request.ignore_value || (request.prev_kv && out.is_some());
        let opening = match wants_former {
            true => None,
            false => self.store.opening(KEY, key.full())?,
        };
        let (newest, kept_value, opening) = match opening {
            Some(opening) => (version_behind(&opening, &key)?, Vec::new(), Some(opening)),
            None => {
                let reader = self.reader();
                let newest = reader.newest(&key)?;
                let kept_value = match live(newest) {
                    Some(live) if wants_former => former_value(&reader, request, live, out)?,
                    _ => Vec::new(),
                };
                (newest, kept_value, None)
            }
        };
        let live = live(newest);
        let value = if request.ignore_value { &kept_value[..] } else { &request.value[..] };
        let lease = match live {
            Some(live) if request.ignore_lease => live.meta.lease,
            _ => request.lease,
        };
        let (create, version) = match live {
            Some(live) => (live.meta.create, live.meta.version + 1),
            None => (revision.main, 1),
        };
        let meta =
            KeyMeta { tombstone: false, create, version, lease, value_len: value.len() as u64 };
        match opening {
            Some(opening) => {
                opening.put(meta.encode(&mut KeyMeta::buffer()), true, live.is_some());
            }
            None => self.write_version(&mut key, live, revision, meta)?,
        }
        let modified = revision.main;
        let kv = KeyValue { key: &request.key, create, modified, version, value, lease };
        self.write_record(newest, revision, kv)?;

        let old_lease = live.map_or(0, |live| live.meta.lease);
        if old_lease != lease {
            self.detach(old_lease, &request.key)?;
            if lease != 0 {
                self.store.put(LEASE_KEYS, &lease_key(lease, &request.key), &[], false)?;
            }
        }
        Ok(())
    }

    /// Deletes what is in the interval. Appends to `out`, if given, what a `DeleteRangeResponse`
    /// has behind its header, and returns the number of deleted keys.
    pub fn delete_range(
        &mut self,
        request: &DeleteRangeRequest,
        out: Option<&mut Vec<u8>>,
    ) -> Result<u64, MvccError> {
        self.mvcc.counts.deletes += 1;
        let interval = Interval::new(&request.key, &request.range_end);
        if let Some(out) = out {
            let reader = self.reader();
            put_int(out, DELETED, reader.count(interval, 0)? as i64);
            if request.prev_kv {
                reader.write_all(interval, DELETED_PREV_KVS, out)?;
            }
        }
        self.delete_interval(interval)
    }

    fn delete_interval(&mut self, interval: Interval<'_>) -> Result<u64, MvccError> {
        let (mut key, end) = interval.bounds();
        let mut user_key = Vec::new();
        let mut deleted = 0;
        loop {
            // A deleted key has no weight, so the same search finds the one behind it.
            let mut cursor = self.store.view().cursor(KEY);
            let found = cursor.seek_weighted(key.prefix())?;
            if !found || end.as_ref().is_some_and(|end| cursor.key() >= end.prefix()) {
                return Ok(deleted);
            }
            let entry = entry(&cursor)?;
            key.set_prefix(entry.prefix);
            user_key.clear();
            unescape(entry.prefix, |piece| user_key.extend_from_slice(piece));
            let live = Version { revision: entry.revision, meta: entry.meta };
            drop(cursor);
            self.write_delete(&user_key, &mut key, live)?;
            deleted += 1;
        }
    }

    /// Deletes the keys attached to a lease, and returns their number.
    pub fn delete_keys_of_lease(&mut self, lease: i64) -> Result<u64, MvccError> {
        let first = lease_key(lease, b"");
        let mut user_key = Vec::new();
        let mut deleted = 0;
        loop {
            // A deletion detaches the key, so the same search finds the next one.
            let mut cursor = self.store.view().cursor(LEASE_KEYS);
            if !cursor.seek(&first)? {
                return Ok(deleted);
            }
            let Some(attached) = key_of_lease(cursor.key(), lease) else { return Ok(deleted) };
            user_key.clear();
            user_key.extend_from_slice(attached);
            drop(cursor);
            let mut key = KeyBuf::of(&user_key);
            match self.reader().newest(&key)? {
                Some(live) if live.meta.lease == lease && !live.meta.tombstone => {
                    self.write_delete(&user_key, &mut key, live)?;
                }
                _ => return Err(MvccError::damaged("a key is attached to a lease it has not")),
            }
            deleted += 1;
        }
    }

    fn write_delete(
        &mut self,
        user_key: &[u8],
        key: &mut KeyBuf,
        live: Version,
    ) -> Result<(), MvccError> {
        let revision = self.next_revision();
        self.write_version(key, Some(live), revision, KeyMeta::TOMBSTONE)?;
        let kv = KeyValue { key: user_key, ..KeyValue::default() };
        self.write_record(Some(live), revision, kv)?;
        self.detach(live.meta.lease, user_key)
    }

    /// A change's entry of KEY. `live`: the version from which the weight moves on.
    fn write_version(
        &mut self,
        key: &mut KeyBuf,
        live: Option<Version>,
        revision: Revision,
        meta: KeyMeta,
    ) -> Result<(), MvccError> {
        let mut buffer = KeyMeta::buffer();
        let (value, weight) = (meta.encode(&mut buffer), !meta.tombstone);
        match live {
            None => self.store.put(KEY, key.version(revision), value, weight)?,
            Some(live) => {
                let mut former = KeyBuf::empty();
                former.set_prefix(key.prefix());
                let (key, former) = (key.version(revision), former.version(live.revision));
                if !self.store.put_before(KEY, key, value, weight, former)? {
                    return Err(MvccError::damaged("a version of a key vanished"));
                }
            }
        }
        Ok(())
    }

    /// A change's entry of REV.
    fn write_record(
        &mut self,
        former: Option<Version>,
        revision: Revision,
        kv: KeyValue<'_>,
    ) -> Result<(), MvccError> {
        let record = NewRecord { prev: former.map(|version| version.revision), kv };
        let len = record.encoded_len();
        self.store.put_with(REV, &revision.to_bytes(), len, false, |slice| record.encode(slice))?;
        Ok(())
    }

    fn detach(&mut self, lease: i64, user_key: &[u8]) -> Result<(), MvccError> {
        if lease != 0 {
            self.store.delete(LEASE_KEYS, &lease_key(lease, user_key))?;
        }
        Ok(())
    }
}

/// The newest version of a key, if the key exists.
fn live(newest: Option<Version>) -> Option<Version> {
    newest.filter(|version| !version.meta.tombstone)
}

/// Appends what a put's answer says of the value before, and returns that value if it is to be kept.
fn former_value(
    reader: &Reader<'_>,
    request: &PutRequest,
    live: Version,
    out: Option<&mut Vec<u8>>,
) -> Result<Vec<u8>, MvccError> {
    let stored = reader.stored(live.revision)?;
    if let Some(out) = out.filter(|_| request.prev_kv) {
        put_stored(out, PUT_PREV_KV, stored);
    }
    if !request.ignore_value {
        return Ok(Vec::new());
    }
    let value = value_of(stored).ok_or_else(|| MvccError::damaged("a stored message is malformed"));
    value.map(<[u8]>::to_vec)
}

impl Mvcc {
    /// Puts a key. Whether the lease exists is the caller's to find out. The body of the reply is
    /// what a `PutResponse` has behind its header.
    ///
    /// Errors: [`MvccError::KeyNotFound`] if a value or lease is to be kept that is not there.
    pub fn put(&mut self, store: &mut Store, request: &PutRequest) -> Result<Reply, MvccError> {
        WriteTxn::check_put(&self.reader(store.view()), request)?;
        let mut body = Vec::new();
        let mut txn = WriteTxn::begin(self, store);
        txn.put(request, Some(&mut body))?;
        Ok(Reply { revision: txn.finish(), body })
    }

    /// Deletes the keys of an interval. The body of the reply is what a `DeleteRangeResponse` has
    /// behind its header. Nothing deleted, no new revision.
    pub fn delete_range(
        &mut self,
        store: &mut Store,
        request: &DeleteRangeRequest,
    ) -> Result<Reply, MvccError> {
        let mut body = Vec::new();
        let mut txn = WriteTxn::begin(self, store);
        txn.delete_range(request, Some(&mut body))?;
        Ok(Reply { revision: txn.finish(), body })
    }

    /// Deletes the keys attached to a lease, all in one revision and in ascending order, and
    /// returns their number.
    pub fn delete_lease_keys(&mut self, store: &mut Store, lease: i64) -> Result<u64, MvccError> {
        let mut txn = WriteTxn::begin(self, store);
        let deleted = txn.delete_keys_of_lease(lease)?;
        txn.finish();
        Ok(deleted)
    }
}

/// The answer to a write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// For the header of the response.
    pub revision: i64,
    /// The encoded fields of the response behind its header.
    pub body: Vec<u8>,
}
