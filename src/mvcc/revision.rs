//! Revisions: which transaction changed a key, and as its how manyeth change.

/// The place of one change in the history: the transaction (`main`), and within it the change
/// (`sub`), counted from 0. Later changes are greater.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revision {
    pub main: i64,
    pub sub: u32,
}

/// Length of a revision in a key of the store: main (8 bytes) and sub (4 bytes).
pub const REVISION_LEN: usize = 12;

impl Revision {
    pub const fn new(main: i64, sub: u32) -> Revision {
        Revision { main, sub }
    }

    /// Big-endian, so that bytes sort as revisions do. Revisions are never negative.
    pub fn to_bytes(self) -> [u8; REVISION_LEN] {
        let mut bytes = [0; REVISION_LEN];
        bytes[..8].copy_from_slice(&self.main.to_be_bytes());
        bytes[8..].copy_from_slice(&self.sub.to_be_bytes());
        bytes
    }

    pub fn from_bytes(bytes: &[u8]) -> Option<Revision> {
        let (main, sub) = bytes.split_first_chunk::<8>()?;
        let main = i64::from_be_bytes(*main);
        let sub = u32::from_be_bytes(sub.try_into().ok()?);
        (main >= 0).then_some(Revision { main, sub })
    }

    /// The complement of [`Revision::to_bytes`]: bytes sort newest first.
    pub fn to_bytes_newest_first(self) -> [u8; REVISION_LEN] {
        self.to_bytes().map(|byte| !byte)
    }

    pub fn from_bytes_newest_first(bytes: &[u8]) -> Option<Revision> {
        let bytes: [u8; REVISION_LEN] = bytes.try_into().ok()?;
        Revision::from_bytes(&bytes.map(|byte| !byte))
    }

    /// The key under which etcd keeps the change in its `key` bucket: main, `_`, sub (both eight
    /// bytes, big-endian), and a trailing `t` if the change is a deletion.
    pub fn write_bucket_key(self, tombstone: bool, out: &mut [u8; 18]) -> &[u8] {
        out[..8].copy_from_slice(&self.main.to_be_bytes());
        out[8] = b'_';
        out[9..17].copy_from_slice(&u64::from(self.sub).to_be_bytes());
        out[17] = b't';
        &out[..if tombstone { 18 } else { 17 }]
    }

    /// The least revision above this one.
    pub fn next(self) -> Revision {
        match self.sub.checked_add(1) {
            Some(sub) => Revision { main: self.main, sub },
            None => Revision { main: self.main + 1, sub: 0 },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAMPLES: [Revision; 7] = [
        Revision::new(0, 0),
        Revision::new(0, u32::MAX),
        Revision::new(1, 0),
        Revision::new(255, 7),
        Revision::new(256, 0),
        Revision::new(1 << 40, 1),
        Revision::new(i64::MAX - 1, u32::MAX),
    ];

    #[test]
    fn bytes_go_there_and_back_and_sort_as_revisions_do() {
        for (i, a) in SAMPLES.into_iter().enumerate() {
            assert_eq!(Revision::from_bytes(&a.to_bytes()), Some(a));
            assert_eq!(Revision::from_bytes_newest_first(&a.to_bytes_newest_first()), Some(a));
            for b in SAMPLES.into_iter().skip(i + 1) {
                assert!(a < b && a.to_bytes() < b.to_bytes());
                assert!(a.to_bytes_newest_first() > b.to_bytes_newest_first());
                assert!(a.next() <= b);
            }
        }
    }

    #[test]
    fn bytes_of_another_length_or_sign_are_no_revision() {
        for len in [0, 7, 8, 11, 13] {
            assert_eq!(Revision::from_bytes(&vec![0; len]), None);
            assert_eq!(Revision::from_bytes_newest_first(&vec![0xff; len]), None);
        }
        assert_eq!(Revision::from_bytes(&[0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]), None);
    }

    #[test]
    fn a_bucket_key_is_etcds() {
        let mut buffer = [0; 18];
        let key = Revision::new(0x102, 3).write_bucket_key(false, &mut buffer);
        assert_eq!(key, b"\0\0\0\0\0\0\x01\x02_\0\0\0\0\0\0\0\x03");
        let key = Revision::new(1, 0).write_bucket_key(true, &mut buffer);
        assert_eq!(key, b"\0\0\0\0\0\0\0\x01_\0\0\0\0\0\0\0\0t");
    }
}
