//! The history in its order: what watches follow.

use super::error::MvccError;
use super::keys::REV;
use super::reader::Reader;
use super::record::{Record, put_deleted, put_stored};
use super::revision::Revision;
use super::wire::{put_delimited, put_int};
use crate::store::Cursor;

/// Field numbers of `mvccpb.Event`, and its type of a deletion.
const EVENT_TYPE: u8 = 1;
const EVENT_KV: u8 = 2;
const EVENT_PREV_KV: u8 = 3;
const EVENT_DELETE: i64 = 1;

/// One change of the history, as the store has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change<'a> {
    pub revision: Revision,
    pub delete: bool,
    /// A put of a key that did not exist.
    pub create: bool,
    pub key: &'a [u8],
    /// The encoded `mvccpb.KeyValue`; of a deletion, only the key is in it.
    pub kv: &'a [u8],
    /// The key's change before, be it a deletion. It may be compacted.
    pub prev: Option<Revision>,
}

impl Change<'_> {
    /// Appends the `mvccpb.Event` of this change, as message field `field`. `prev_kv` is an
    /// encoded `mvccpb.KeyValue`.
    pub fn put_event(&self, out: &mut Vec<u8>, field: u8, prev_kv: Option<&[u8]>) {
        put_delimited(out, field, |out| {
            put_int(out, EVENT_TYPE, if self.delete { EVENT_DELETE } else { 0 });
            if self.delete {
                put_deleted(out, EVENT_KV, self.kv, self.revision.main);
            } else {
                put_stored(out, EVENT_KV, self.kv);
            }
            if let Some(prev_kv) = prev_kv {
                put_stored(out, EVENT_PREV_KV, prev_kv);
            }
        });
    }
}

impl<'a> Reader<'a> {
    /// The changes from `from` on, up to the newest there is. Below the bound of compaction only
    /// what is left is given.
    pub fn changes(&self, from: Revision) -> Changes<'a> {
        Changes { cursor: self.view.cursor(REV), from: Some(from) }
    }

    /// The encoded `mvccpb.KeyValue` that the change `revision` put; `None` if it was a deletion,
    /// or is not there any more.
    pub fn kv_at(&self, revision: Revision) -> Result<Option<&'a [u8]>, MvccError> {
        Ok(self.record(revision)?.filter(|record| !record.tombstone).map(|record| record.kv))
    }

    /// What an event of `change` shows as the key's value before: that of the revision before, if
    /// the key existed then and the revision can be read. A creation shows nothing.
    pub fn prev_kv(&self, change: &Change<'_>) -> Result<Option<&'a [u8]>, MvccError> {
        if change.create || change.revision.main - 1 < self.revisions.compact {
            return Ok(None);
        }
        let mut prev = change.prev;
        while let Some(revision) = prev {
            let Some(record) = self.record(revision)? else { return Ok(None) };
            if revision.main < change.revision.main {
                return Ok((!record.tombstone).then_some(record.kv));
            }
            // Another change of the key in the same transaction.
            prev = record.prev;
        }
        Ok(None)
    }
}

/// A walk over the changes. It can be resumed at the revision behind the last one.
pub struct Changes<'a> {
    cursor: Cursor<'a>,
    /// Where to begin, before the first step.
    from: Option<Revision>,
}

impl<'a> Changes<'a> {
    #[expect(clippy::should_implement_trait, reason = "a step can fail")]
    pub fn next(&mut self) -> Result<Option<Change<'a>>, MvccError> {
        let found = match self.from.take() {
            Some(from) => self.cursor.seek(&from.to_bytes())?,
            None => self.cursor.next()?,
        };
        if !found {
            return Ok(None);
        }
        let malformed = || MvccError::damaged("a record of a change is malformed");
        let revision = Revision::from_bytes(self.cursor.key()).ok_or_else(malformed)?;
        let record = Record::decode(self.cursor.value()?).ok_or_else(malformed)?;
        Ok(Some(Change {
            revision,
            delete: record.tombstone,
            create: record.create,
            key: record.key().ok_or_else(malformed)?,
            kv: record.kv,
            prev: record.prev,
        }))
    }
}
