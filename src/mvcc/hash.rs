//! Hashes by which members are compared: with each other and with a real etcd.
//!
//! HashKV, as etcd computes it (`server/storage/mvcc/hash.go` of 3.7.1), over the history up to a
//! revision R, with C the bound of compaction: CRC-32C of the bytes `key`, then of each change's
//! bucket key and message, in order. Left out are
//!
//! - changes above R;
//! - changes up to C that are not the newest of their key up to R, or are deletions. But if no key
//!   exists at R, then the newest of their key up to C are in: what is left of a compaction.
//!
//! The second rule is that of a finished compaction; so the value does not show how far the removal
//! has come. etcd's does, for the short time that it takes, if no key exists at R. And for ten
//! revisions that were compacted to, etcd answers from memory what it computed while compacting,
//! with the bound before; this layer always computes.

use super::error::MvccError;
use super::keys::{Interval, KeyBuf, REV};
use super::reader::Reader;
use super::record::Record;
use super::revision::Revision;

const BUCKET: &[u8] = b"key";

/// A HashKV in progress. It holds nothing of the store between its steps: changes that are added
/// lie above its revision, and changes that a compaction removes are left out anyway.
#[derive(Clone, Debug)]
pub struct HashKv {
    crc: u32,
    revision: i64,
    compact: i64,
    /// Whether any key exists at the revision.
    keeps: bool,
    next: Revision,
}

/// What a HashKV request answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HashKvValue {
    pub hash: u32,
    /// The bound of compaction that the hash was made with; -1 if there is none.
    pub compact_revision: i64,
    pub hash_revision: i64,
}

impl HashKv {
    /// Begins at `revision`; 0 means the current one. Below a negative one lies nothing, and etcd says just that.
    pub fn begin(reader: &Reader<'_>, revision: i64) -> Result<HashKv, MvccError> {
        let revision = if revision < 0 { revision } else { reader.resolve(revision)? };
        let everything = Interval::new(b"\0", b"\0");
        let compact = reader.revisions.compact;
        Ok(HashKv {
            crc: crc32c::crc32c(BUCKET),
            revision,
            compact,
            keeps: compact > 0 && revision > 0 && reader.count_at(everything, revision)? > 0,
            next: Revision::default(),
        })
    }

    /// Takes in up to `budget` changes. Gives the value when it is done.
    ///
    /// The state may have moved on since the last step. If it was compacted meanwhile, the work
    /// begins anew, or fails with [`MvccError::Compacted`].
    pub fn step(
        &mut self,
        reader: &Reader<'_>,
        budget: usize,
    ) -> Result<Option<HashKvValue>, MvccError> {
        if reader.revisions.compact != self.compact {
            *self = HashKv::begin(reader, self.revision)?;
        }
        let mut cursor = reader.view.cursor(REV);
        let mut found = cursor.seek(&self.next.to_bytes())?;
        for _ in 0..budget {
            let malformed = || MvccError::damaged("a record of a change is malformed");
            let revision = if found {
                Revision::from_bytes(cursor.key()).ok_or_else(malformed)?
            } else {
                Revision::new(i64::MAX, 0)
            };
            if revision.main > self.revision {
                return Ok(Some(self.value()));
            }
            let record = Record::decode(cursor.value()?).ok_or_else(malformed)?;
            if self.takes(reader, revision, &record)? {
                add_change(&mut self.crc, revision, &record);
            }
            self.next = revision.next();
            found = cursor.next()?;
        }
        Ok(None)
    }

    fn takes(
        &self,
        reader: &Reader<'_>,
        revision: Revision,
        record: &Record<'_>,
    ) -> Result<bool, MvccError> {
        if revision.main > self.compact {
            return Ok(true);
        }
        if record.tombstone {
            return Ok(false);
        }
        let newest_up_to = if self.keeps { self.revision } else { self.compact };
        if newest_up_to == reader.revisions.removed {
            return Ok(true);
        }
        let key = record.key().ok_or_else(|| MvccError::damaged("a stored message has no key"))?;
        let visible = reader.visible(&mut KeyBuf::of(key), newest_up_to)?;
        Ok(visible.is_some_and(|version| version.revision == revision))
    }

    fn value(&self) -> HashKvValue {
        HashKvValue { hash: self.crc, compact_revision: self.compact, hash_revision: self.revision }
    }
}

/// The share of the `key` bucket in the hash of the whole store: every change that is there.
/// Removal by compaction changes it, in etcd as here.
#[derive(Clone, Debug)]
pub struct HashBucket {
    crc: u32,
    next: Revision,
}

impl HashBucket {
    /// Continues a CRC-32C over the buckets before, in the order of their names.
    pub fn begin(crc: u32) -> HashBucket {
        HashBucket { crc: crc32c::crc32c_append(crc, BUCKET), next: Revision::default() }
    }

    /// Takes in up to `budget` changes. Gives the CRC when it is done.
    pub fn step(&mut self, reader: &Reader<'_>, budget: usize) -> Result<Option<u32>, MvccError> {
        let mut cursor = reader.view.cursor(REV);
        let mut found = cursor.seek(&self.next.to_bytes())?;
        for _ in 0..budget {
            if !found {
                return Ok(Some(self.crc));
            }
            let malformed = || MvccError::damaged("a record of a change is malformed");
            let revision = Revision::from_bytes(cursor.key()).ok_or_else(malformed)?;
            let record = Record::decode(cursor.value()?).ok_or_else(malformed)?;
            add_change(&mut self.crc, revision, &record);
            self.next = revision.next();
            found = cursor.next()?;
        }
        Ok(None)
    }
}

fn add_change(crc: &mut u32, revision: Revision, record: &Record<'_>) {
    let mut buffer = [0; 18];
    let key = revision.write_bucket_key(record.tombstone, &mut buffer);
    *crc = crc32c::crc32c_append(crc32c::crc32c_append(*crc, key), record.kv);
}
