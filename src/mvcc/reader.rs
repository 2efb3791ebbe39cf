//! Reading at one state of the store: the revisions that can be asked for, single versions, and
//! the walk over the keys that exist in an interval at a revision.
//!
//! A reader is a few words and a view. It neither locks nor remembers anything: all that a resumable
//! read keeps between its slices are a key and a revision.

use super::error::MvccError;
use super::keys::{Interval, KEY, KeyBuf, LEASE_KEYS, REV, key_of_lease, lease_key, split};
use super::pages::PageCounts;
use super::record::{KeyMeta, Record};
use super::revision::Revision;
use crate::store::{Cursor, Lookup, Opening, View};

/// How many versions of a key a walk steps over one by one before it searches for the end of
/// them: a step is far cheaper than a search, and most keys have few versions.
const STEPS_MAX: u32 = 6;

/// The bounds of the history at some state of the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Revisions {
    /// The newest revision; 1 in an empty store.
    pub current: i64,
    /// Revisions below this one cannot be read any more; -1 if nothing was ever compacted.
    pub compact: i64,
    /// What compactions up to this revision made superfluous has also been removed.
    pub removed: i64,
}

/// The store as of `revisions`, which must be those of `view`'s state.
#[derive(Clone, Copy)]
pub struct Reader<'a> {
    pub(super) view: View<'a>,
    pub(super) revisions: Revisions,
    /// Where the counts of pages are kept, if the state is a committed one.
    pub(super) pages: Option<&'a PageCounts>,
}

/// One version of a key, as the KEY tree has it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Version {
    pub revision: Revision,
    pub meta: KeyMeta,
}

impl<'a> Reader<'a> {
    pub fn new(view: View<'a>, revisions: Revisions) -> Reader<'a> {
        Reader { view, revisions, pages: None }
    }

    pub fn revisions(&self) -> Revisions {
        self.revisions
    }

    /// The revision to read at when `revision` was asked for: 0 and below mean the current one.
    pub fn resolve(&self, revision: i64) -> Result<i64, MvccError> {
        if revision > self.revisions.current {
            return Err(MvccError::FutureRevision);
        }
        let revision = if revision <= 0 { self.revisions.current } else { revision };
        if revision < self.revisions.compact {
            return Err(MvccError::Compacted);
        }
        Ok(revision)
    }

    /// The record of the change `revision`; `None` if there is none, or none any more.
    pub(super) fn record(&self, revision: Revision) -> Result<Option<Record<'a>>, MvccError> {
        self.view.get(REV, &revision.to_bytes())?.map(decode_record).transpose()
    }

    /// The stored message of a version that the KEY tree names.
    pub(super) fn stored(&self, revision: Revision) -> Result<&'a [u8], MvccError> {
        self.messages().stored(revision)
    }

    /// For the stored messages of many versions.
    pub(super) fn messages(&self) -> Messages<'a> {
        Messages(self.view.lookup(REV))
    }

    /// The newest version of a key, be it a deletion.
    pub(super) fn newest(&self, key: &KeyBuf) -> Result<Option<Version>, MvccError> {
        let mut cursor = self.view.cursor(KEY);
        let found = cursor.seek(key.prefix())?;
        version_under(&cursor, found, key)
    }

    /// The version of a key that is visible at `revision`, if the key exists there.
    pub(super) fn visible(
        &self,
        key: &mut KeyBuf,
        revision: i64,
    ) -> Result<Option<Version>, MvccError> {
        let mut cursor = self.view.cursor(KEY);
        let found = if revision >= self.revisions.current {
            cursor.seek(key.prefix())?
        } else {
            cursor.seek(key.versions_up_to(revision))?
        };
        Ok(version_under(&cursor, found, key)?.filter(|version| !version.meta.tombstone))
    }

    /// Walks the keys that exist in `interval` at `revision`, which must be readable.
    pub(super) fn scan(&self, interval: Interval<'_>, revision: i64) -> Scan<'a> {
        let at = (revision < self.revisions.current).then_some(revision);
        Scan::new(self.view, interval, at)
    }

    /// The keys attached to `lease`, in ascending order.
    pub fn keys_of_lease(&self, lease: i64) -> LeaseKeys<'a> {
        LeaseKeys { cursor: self.view.cursor(LEASE_KEYS), lease, started: false }
    }
}

fn decode_record(bytes: &[u8]) -> Result<Record<'_>, MvccError> {
    Record::decode(bytes).ok_or_else(|| MvccError::damaged("a record of a change is malformed"))
}

/// Stored messages by their revisions: those that were written one after the other are found quickly.
pub(super) struct Messages<'a>(Lookup<'a>);

impl<'a> Messages<'a> {
    /// The stored message of a version that the KEY tree names.
    pub fn stored(&self, revision: Revision) -> Result<&'a [u8], MvccError> {
        match self.0.get(&revision.to_bytes())? {
            Some(bytes) => Ok(decode_record(bytes)?.kv),
            None => Err(MvccError::damaged("a version of a key has no record of its change")),
        }
    }
}

/// The version that `cursor` stands on, if it is one of `key`.
fn version_under(
    cursor: &Cursor<'_>,
    found: bool,
    key: &KeyBuf,
) -> Result<Option<Version>, MvccError> {
    if !found || !cursor.key().starts_with(key.prefix()) {
        return Ok(None);
    }
    let entry = entry(cursor)?;
    Ok(Some(Version { revision: entry.revision, meta: entry.meta }))
}

/// The newest version of `key`, of which the next one is to be put into `opening`.
pub(super) fn version_behind(
    opening: &Opening<'_, '_>,
    key: &KeyBuf,
) -> Result<Option<Version>, MvccError> {
    let mut found = KeyBuf::empty();
    found.set_full(opening.next_key());
    if !found.full().starts_with(key.prefix()) {
        return Ok(None);
    }
    let (_, revision) = split(found.full()).ok_or_else(malformed_key)?;
    let meta = KeyMeta::decode(opening.next_value()?).ok_or_else(malformed_entry)?;
    Ok(Some(Version { revision, meta }))
}

fn malformed_key() -> MvccError {
    MvccError::damaged("a key of the key tree is malformed")
}

fn malformed_entry() -> MvccError {
    MvccError::damaged("an entry of the key tree is malformed")
}

/// A version of a key where a walk stands.
pub(super) struct Entry<'c> {
    /// The escaped and terminated user key.
    pub prefix: &'c [u8],
    pub revision: Revision,
    pub meta: KeyMeta,
}

pub(super) fn entry<'c>(cursor: &'c Cursor<'_>) -> Result<Entry<'c>, MvccError> {
    let (prefix, revision) = split_key(cursor)?;
    let meta = KeyMeta::decode(cursor.value()?).ok_or_else(malformed_entry)?;
    Ok(Entry { prefix, revision, meta })
}

fn split_key<'c>(cursor: &'c Cursor<'_>) -> Result<(&'c [u8], Revision), MvccError> {
    split(cursor.key()).ok_or_else(malformed_key)
}

/// A walk over the keys that exist in an interval, in ascending order, each at its visible version.
pub(super) struct Scan<'a> {
    cursor: Cursor<'a>,
    /// The revision, if it is not the current one.
    at: Option<i64>,
    start: KeyBuf,
    end: Option<KeyBuf>,
    started: bool,
    /// The key whose versions are being stepped over.
    group: KeyBuf,
}

impl<'a> Scan<'a> {
    fn new(view: View<'a>, interval: Interval<'_>, at: Option<i64>) -> Scan<'a> {
        let (start, end) = interval.bounds();
        let cursor = view.cursor(KEY);
        Scan { cursor, at, start, end, started: false, group: KeyBuf::empty() }
    }

    /// Moves to the next key; false after the last.
    pub fn next(&mut self) -> Result<bool, MvccError> {
        match self.at {
            None => self.next_current(),
            Some(at) => self.next_at(at),
        }
    }

    pub fn entry(&self) -> Result<Entry<'_>, MvccError> {
        entry(&self.cursor)
    }

    fn within(&self) -> bool {
        self.end.as_ref().is_none_or(|end| self.cursor.key() < end.prefix())
    }

    /// At the current revision exactly the entries with weight exist: neither older versions nor
    /// deletions are touched.
    fn next_current(&mut self) -> Result<bool, MvccError> {
        let found = if self.started {
            self.cursor.next_weighted()?
        } else {
            self.started = true;
            self.cursor.seek_weighted(self.start.prefix())?
        };
        Ok(found && self.within())
    }

    fn next_at(&mut self, at: i64) -> Result<bool, MvccError> {
        let mut found = if self.started {
            self.leave_key()?
        } else {
            self.started = true;
            self.cursor.seek(self.start.prefix())?
        };
        let mut newer = 0;
        while found && self.within() {
            let (prefix, revision) = split_key(&self.cursor)?;
            if revision.main > at {
                newer += 1;
                found = if newer <= STEPS_MAX {
                    self.cursor.next()?
                } else {
                    newer = 0;
                    self.group.set_prefix(prefix);
                    self.cursor.seek(self.group.versions_up_to(at))?
                };
            } else if self.entry()?.meta.tombstone {
                newer = 0;
                found = self.leave_key()?;
            } else {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Moves past all versions of the key that the cursor stands on.
    fn leave_key(&mut self) -> Result<bool, MvccError> {
        let (prefix, _) = split_key(&self.cursor)?;
        self.group.set_prefix(prefix);
        for _ in 0..STEPS_MAX {
            if !self.cursor.next()? {
                return Ok(false);
            }
            if !self.cursor.key().starts_with(self.group.prefix()) {
                return Ok(true);
            }
        }
        Ok(self.cursor.seek(self.group.after())?)
    }
}

/// The keys attached to a lease.
pub struct LeaseKeys<'a> {
    cursor: Cursor<'a>,
    lease: i64,
    started: bool,
}

impl LeaseKeys<'_> {
    /// The next user key.
    #[expect(clippy::should_implement_trait, reason = "the key is borrowed from the cursor")]
    pub fn next(&mut self) -> Result<Option<&[u8]>, MvccError> {
        let found = if self.started {
            self.cursor.next()?
        } else {
            self.started = true;
            self.cursor.seek(&lease_key(self.lease, b""))?
        };
        Ok(if found { key_of_lease(self.cursor.key(), self.lease) } else { None })
    }
}
