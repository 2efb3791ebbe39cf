//! The trees of the store and the keys in them: the one place that knows their encoding.
//!
//! ```text
//! KEY    escaped user key, terminator, !main (8), !sub (4)    -> what is known of the version
//! REV    main (8), sub (4)                                    -> the change
//! META   a name                                               -> see there
//! LEASE_KEYS  lease id (8), user key                          -> empty
//! ```
//!
//! Integers are big-endian. In an escaped user key a zero byte is followed by `0xff`, and the
//! terminator is two zero bytes: so escaped keys sort as the keys do, none is a prefix of another,
//! and the versions of one key lie together, newest first.
//!
//! Invariant: an entry of KEY has weight exactly if it is the newest of its key and no tombstone.
//! Hence the weights of a range sum up to the number of keys in it.

use smallvec::SmallVec;

use super::revision::{REVISION_LEN, Revision};
use crate::store::Tree;

pub const KEY: Tree = Tree(0);
pub const REV: Tree = Tree(1);
pub const META: Tree = Tree(2);
pub const LEASE_KEYS: Tree = Tree(4);

/// Names in META that belong to this layer; all begin with `mvcc/`. Values are big-endian.
pub mod meta {
    /// The revision up to which history was given up (8 bytes): what clients are told.
    pub const COMPACT_SCHEDULED: &[u8] = b"mvcc/compact/scheduled";
    /// The revision up to which history was also removed (8 bytes).
    pub const COMPACT_FINISHED: &[u8] = b"mvcc/compact/finished";
    /// Everything below this revision (main and sub, 12 bytes) was looked at by the compaction.
    pub const COMPACT_CURSOR: &[u8] = b"mvcc/compact/cursor";
}

/// Keys of the store up to this length are built without allocating. Kubernetes' keys have 40 to
/// 130 bytes.
const INLINE: usize = 256;

const TERMINATOR: [u8; 2] = [0, 0];
/// Above the terminator, below an escaped zero: ends the versions of a key.
const AFTER: u8 = 1;

/// A key of the KEY tree: the escaped and terminated user key, to which a revision can be added
/// and taken off again.
pub struct KeyBuf {
    bytes: SmallVec<[u8; INLINE]>,
    prefix_len: usize,
}

impl KeyBuf {
    pub fn of(user_key: &[u8]) -> KeyBuf {
        let mut bytes = SmallVec::new();
        if user_key.contains(&0) {
            for &byte in user_key {
                bytes.push(byte);
                if byte == 0 {
                    bytes.push(0xff);
                }
            }
        } else {
            bytes.extend_from_slice(user_key);
        }
        bytes.extend_from_slice(&TERMINATOR);
        let prefix_len = bytes.len();
        KeyBuf { bytes, prefix_len }
    }

    pub fn empty() -> KeyBuf {
        KeyBuf { bytes: SmallVec::new(), prefix_len: 0 }
    }

    /// Takes over a prefix as [`split`] returns it.
    pub fn set_prefix(&mut self, prefix: &[u8]) {
        self.bytes.clear();
        self.bytes.extend_from_slice(prefix);
        self.prefix_len = prefix.len();
    }

    /// Below all versions of the key, above all of lesser keys.
    pub fn prefix(&self) -> &[u8] {
        &self.bytes[..self.prefix_len]
    }

    /// Takes over a whole key of the tree, which is in two pieces.
    pub fn set_full(&mut self, (first, second): (&[u8], &[u8])) {
        self.set_prefix(first);
        self.bytes.extend_from_slice(second);
    }

    /// The prefix, and the revision that was added last.
    pub fn full(&self) -> &[u8] {
        &self.bytes
    }

    /// The version of the key that `revision` made.
    pub fn version(&mut self, revision: Revision) -> &[u8] {
        self.bytes.truncate(self.prefix_len);
        self.bytes.extend_from_slice(&revision.to_bytes_newest_first());
        &self.bytes
    }

    /// Where the versions of the key begin that were made by transactions up to `main`.
    pub fn versions_up_to(&mut self, main: i64) -> &[u8] {
        self.version(Revision::new(main, u32::MAX))
    }

    /// Above all versions of the key, below all of greater keys.
    pub fn after(&mut self) -> &[u8] {
        self.bytes.truncate(self.prefix_len);
        if let Some(last) = self.bytes.last_mut() {
            *last = AFTER;
        }
        self.prefix_len = self.bytes.len();
        &self.bytes
    }
}

/// Splits a key of the KEY tree into the escaped and terminated user key and the revision.
pub fn split(key: &[u8]) -> Option<(&[u8], Revision)> {
    let (prefix, revision) = key.split_at_checked(key.len().checked_sub(REVISION_LEN)?)?;
    prefix.ends_with(&TERMINATOR).then_some(())?;
    Some((prefix, Revision::from_bytes_newest_first(revision)?))
}

/// The length of the user key in an escaped and terminated one.
pub fn unescaped_len(prefix: &[u8]) -> usize {
    let body = prefix.len().saturating_sub(TERMINATOR.len());
    body - prefix[..body].iter().filter(|&&byte| byte == 0).count()
}

/// Hands the user key in an escaped and terminated one to `write`, piece by piece.
pub fn unescape(prefix: &[u8], mut write: impl FnMut(&[u8])) {
    let mut rest = &prefix[..prefix.len().saturating_sub(TERMINATOR.len())];
    while let Some(zero) = rest.iter().position(|&byte| byte == 0) {
        write(&rest[..=zero]);
        rest = rest.get(zero + 2..).unwrap_or_default();
    }
    write(rest);
}

/// A key of the LEASE_KEYS tree.
pub fn lease_key(lease: i64, user_key: &[u8]) -> SmallVec<[u8; INLINE]> {
    let mut key = SmallVec::new();
    key.extend_from_slice(&lease.to_be_bytes());
    key.extend_from_slice(user_key);
    key
}

/// The user key in a key of the LEASE_KEYS tree, if it belongs to `lease`.
pub fn key_of_lease(key: &[u8], lease: i64) -> Option<&[u8]> {
    key.strip_prefix(&lease.to_be_bytes())
}

/// Which user keys a request is about: one, those in `[start, end)`, or all from `start` on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interval<'r> {
    pub start: &'r [u8],
    pub end: End<'r>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End<'r> {
    Single,
    Before(&'r [u8]),
    Open,
}

impl<'r> Interval<'r> {
    /// As requests say it: no `range_end` is a single key, a zero byte is an open end.
    pub fn new(key: &'r [u8], range_end: &'r [u8]) -> Interval<'r> {
        let end = match range_end {
            [] => End::Single,
            [0] => End::Open,
            end => End::Before(end),
        };
        Interval { start: key, end }
    }

    /// Where the entries of the interval's keys begin in the KEY tree, and below which key they
    /// end, if anywhere. Both are bounds to be taken as prefixes.
    pub fn bounds(&self) -> (KeyBuf, Option<KeyBuf>) {
        let end = match self.end {
            End::Open => None,
            End::Before(end) => Some(KeyBuf::of(end)),
            End::Single => {
                let mut end = KeyBuf::of(self.start);
                end.after();
                Some(end)
            }
        };
        (KeyBuf::of(self.start), end)
    }

    pub fn contains(&self, key: &[u8]) -> bool {
        match self.end {
            End::Single => key == self.start,
            End::Before(end) => self.start <= key && key < end,
            End::Open => self.start <= key,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn awkward_keys() -> Vec<Vec<u8>> {
        let alphabet = [0x00, 0x01, b'a', 0xfe, 0xff];
        let mut keys = vec![vec![]];
        for len in 1..=3usize {
            for n in 0..alphabet.len().pow(len as u32) {
                let digit = |i| alphabet[n / alphabet.len().pow(i as u32) % alphabet.len()];
                keys.push((0..len).map(digit).collect());
            }
        }
        keys.sort();
        keys
    }

    #[test]
    fn escaped_keys_come_back() {
        for key in awkward_keys() {
            let revision = Revision::new(77, 3);
            let mut buffer = KeyBuf::of(&key);
            let (prefix, found) = split(buffer.version(revision)).unwrap();
            assert_eq!(found, revision);
            assert_eq!(unescaped_len(prefix), key.len());
            let mut back = Vec::new();
            unescape(prefix, |piece| back.extend_from_slice(piece));
            assert_eq!(back, key);
        }
    }

    #[test]
    fn versions_sort_by_key_and_then_newest_first() {
        let revisions = [Revision::new(900, 1), Revision::new(900, 0), Revision::new(3, 255)];
        let mut last: Vec<u8> = Vec::new();
        for key in awkward_keys() {
            let mut buffer = KeyBuf::of(&key);
            assert!(&last[..] <= buffer.prefix());
            for revision in revisions {
                let version = buffer.version(revision).to_vec();
                assert!(last < version);
                last = version;
            }
            assert!(&last[..] < buffer.versions_up_to(2));
            last = buffer.after().to_vec();
        }
    }

    #[test]
    fn versions_up_to_a_transaction_begin_with_its_last_change() {
        let mut buffer = KeyBuf::of(b"k");
        let from = buffer.versions_up_to(10).to_vec();
        assert!(buffer.version(Revision::new(11, 0)) < &from[..]);
        assert!(buffer.version(Revision::new(10, 5)) >= &from[..]);
    }

    #[test]
    fn foreign_bytes_are_no_version() {
        assert_eq!(split(b""), None);
        assert_eq!(split(&[0; 13]), None);
        assert_eq!(split(b"a\0\x01\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"), None);
        assert!(split(b"a\0\0\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff").is_some());
    }

    #[test]
    fn an_interval_is_what_its_range_end_says() {
        assert_eq!(Interval::new(b"a", b"").end, End::Single);
        assert_eq!(Interval::new(b"a", b"\0").end, End::Open);
        let backwards = Interval::new(b"b", b"a");
        assert!(!backwards.contains(b"b") && !backwards.contains(b"a"));
        assert!(Interval::new(b"\0", b"\0").contains(b"\0"));
    }
}
