//! The bytes of a state on its way.
//!
//! ```text
//! entry   tree u8 | weight u8 (0 or 1) | key length u32 LE | value length u32 LE | key | value
//! end     crc32c of all before, u32 LE
//! ```
//!
//! Entries stand in the order of the trees' numbers, and in a tree in the order of the keys. So the
//! length is known before: it is that of all keys and values, and a fixed part for each entry.

use bytes::{Buf, BytesMut};

use crate::store::{Corruption, Snapshot, Store, TREES, Tree, View};

pub const ENTRY_HEAD_BYTES: usize = 10;
pub const END_BYTES: usize = 4;
/// A value longer than this was never put: it bounds what a receiver collects for one entry.
const FIELD_BYTES_MAX: usize = crate::store::VALUE_BYTES_MAX;

/// Length of what `Reader` gives.
pub fn length(view: View<'_>) -> u64 {
    let of_tree = |tree: u8| {
        let tree = Tree(tree);
        view.bytes(tree) + view.entries(tree) * ENTRY_HEAD_BYTES as u64
    };
    (0..TREES as u8).map(of_tree).sum::<u64>() + END_BYTES as u64
}

/// Reads a pinned state, some at a time.
pub struct Reader {
    snapshot: Snapshot,
    /// The last entry read: its tree, and its key if there was one in it.
    tree: u8,
    key: Option<Vec<u8>>,
    crc: u32,
    is_done: bool,
}

impl Reader {
    pub fn new(snapshot: Snapshot) -> Reader {
        Reader { snapshot, tree: 0, key: None, crc: 0, is_done: false }
    }

    pub fn is_done(&self) -> bool {
        self.is_done
    }

    /// Appends entries to `out` until there are `bytes` more or nothing is left.
    pub fn read(
        &mut self,
        store: &Store,
        bytes: usize,
        out: &mut BytesMut,
    ) -> Result<(), Corruption> {
        let snapshot = self.snapshot.clone();
        let view = store.view_at(&snapshot);
        let (begin, end) = (out.len(), out.len() + bytes);
        while !self.is_done && out.len() < end {
            if usize::from(self.tree) == TREES {
                self.crc = crc32c::crc32c_append(self.crc, &out[begin..]);
                out.extend_from_slice(&self.crc.to_le_bytes());
                self.is_done = true;
                return Ok(());
            }
            self.read_tree(view, end, out)?;
        }
        self.crc = crc32c::crc32c_append(self.crc, &out[begin..]);
        Ok(())
    }

    fn read_tree(
        &mut self,
        view: View<'_>,
        end: usize,
        out: &mut BytesMut,
    ) -> Result<(), Corruption> {
        let mut cursor = view.cursor(Tree(self.tree));
        let mut found = match &self.key {
            None => cursor.first()?,
            Some(last) => {
                cursor.seek(last)? && (cursor.key() != last.as_slice() || cursor.next()?)
            }
        };
        while found && out.len() < end {
            let (key, value) = (cursor.key(), cursor.value()?);
            out.extend_from_slice(&[self.tree, cursor.weight().into()]);
            out.extend_from_slice(&(key.len() as u32).to_le_bytes());
            out.extend_from_slice(&(value.len() as u32).to_le_bytes());
            out.extend_from_slice(key);
            out.extend_from_slice(value);
            if out.len() >= end {
                self.key = Some(key.to_vec());
                return Ok(());
            }
            found = cursor.next()?;
        }
        if !found {
            self.tree += 1;
            self.key = None;
        }
        Ok(())
    }
}

/// Puts what a `Reader` gave into a store.
#[derive(Default)]
pub struct Writer {
    /// An entry that has not arrived as a whole.
    rest: BytesMut,
    crc: u32,
    /// The length of all, and of what came.
    length: u64,
    taken: u64,
}

/// Bytes that no `Reader` gives.
#[derive(Debug, PartialEq, Eq)]
pub struct Malformed;

impl Writer {
    pub fn new(length: u64) -> Writer {
        Writer { length, ..Writer::default() }
    }

    pub fn taken(&self) -> u64 {
        self.taken
    }

    pub fn is_complete(&self) -> bool {
        self.taken == self.length
    }

    /// Takes the next bytes. After an error, nothing of it can be used.
    pub fn take(&mut self, store: &mut Store, data: &[u8]) -> Result<(), Malformed> {
        if data.len() as u64 > self.length - self.taken {
            return Err(Malformed);
        }
        let summed = self.length.saturating_sub(END_BYTES as u64);
        let of_entries = summed.saturating_sub(self.taken).min(data.len() as u64) as usize;
        self.crc = crc32c::crc32c_append(self.crc, &data[..of_entries]);
        self.taken += data.len() as u64;
        self.rest.extend_from_slice(data);
        let end = if self.is_complete() { END_BYTES } else { 0 };
        while self.rest.len() > end && self.put_one(store)? {}
        if self.is_complete() {
            let is_right = self.rest[..] == self.crc.to_le_bytes();
            self.rest.clear();
            return if is_right { Ok(()) } else { Err(Malformed) };
        }
        Ok(())
    }

    /// Whether there was a whole entry.
    fn put_one(&mut self, store: &mut Store) -> Result<bool, Malformed> {
        let mut head = &self.rest[..];
        if head.len() < ENTRY_HEAD_BYTES {
            return Ok(false);
        }
        let (tree, weight) = (head.get_u8(), head.get_u8());
        let (key, value) = (head.get_u32_le() as usize, head.get_u32_le() as usize);
        if usize::from(tree) >= TREES
            || weight > 1
            || key > crate::store::KEY_BYTES_MAX
            || value > FIELD_BYTES_MAX
        {
            return Err(Malformed);
        }
        if head.len() < key + value {
            return Ok(false);
        }
        let (key_bytes, rest) = head.split_at(key);
        let value_bytes = &rest[..value];
        store.put(Tree(tree), key_bytes, value_bytes, weight == 1).map_err(|_| Malformed)?;
        self.rest.advance(ENTRY_HEAD_BYTES + key + value);
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{MemoryDisk, Options};

    fn state(entries: u32) -> (MemoryDisk, Store) {
        let disk = MemoryDisk::new(64 << 20, &Options { store_id: 1 });
        let mut store = disk.open().unwrap();
        for number in 0..entries {
            let value = vec![number as u8; (number as usize * 37) % 9000];
            let tree = Tree((number % 3) as u8);
            store.put(tree, &number.to_be_bytes(), &value, number % 2 == 0).unwrap();
        }
        store.commit(7);
        (disk, store)
    }

    fn all(store: &Store, view: View<'_>) -> Vec<(u8, Vec<u8>, Vec<u8>, bool)> {
        let _ = store;
        let mut entries = Vec::new();
        for tree in 0..TREES as u8 {
            let mut cursor = view.cursor(Tree(tree));
            let mut found = cursor.first().unwrap();
            while found {
                let value = cursor.value().unwrap().to_vec();
                entries.push((tree, cursor.key().to_vec(), value, cursor.weight()));
                found = cursor.next().unwrap();
            }
        }
        entries
    }

    #[test]
    fn a_state_arrives_as_it_was_pinned_in_whatever_pieces() {
        for (read_bytes, piece_bytes) in [(1, 1), (100, 7), (5000, 4096), (1 << 20, 1 << 20)] {
            let (_disk, mut store) = state(60);
            let snapshot = store.snapshot();
            let expected = all(&store, store.view());
            let mut reader = Reader::new(snapshot);
            let mut bytes = BytesMut::new();
            let total = length(store.view());
            while !reader.is_done() {
                reader.read(&store, read_bytes, &mut bytes).unwrap();
                // The state goes on meanwhile.
                store.put(Tree(1), &(bytes.len() as u32).to_le_bytes(), b"later", false).unwrap();
                store.commit(8);
            }
            assert_eq!(bytes.len() as u64, total);
            let disk = MemoryDisk::new(64 << 20, &Options { store_id: 2 });
            let mut copy = disk.open().unwrap();
            let mut writer = Writer::new(total);
            for piece in bytes.chunks(piece_bytes) {
                assert!(!writer.is_complete());
                writer.take(&mut copy, piece).unwrap();
            }
            assert!(writer.is_complete());
            assert_eq!(all(&copy, copy.view()), expected);
        }
    }

    #[test]
    fn a_bit_that_was_flipped_on_the_way_is_found() {
        let (_disk, mut store) = state(9);
        let mut reader = Reader::new(store.snapshot());
        let mut bytes = BytesMut::new();
        while !reader.is_done() {
            reader.read(&store, 1 << 20, &mut bytes).unwrap();
        }
        for bit in (0..bytes.len() * 8).step_by(11) {
            let mut damaged = bytes.to_vec();
            damaged[bit / 8] ^= 1 << (bit % 8);
            let disk = MemoryDisk::new(64 << 20, &Options { store_id: 2 });
            let mut copy = disk.open().unwrap();
            let mut writer = Writer::new(damaged.len() as u64);
            assert_eq!(writer.take(&mut copy, &damaged), Err(Malformed), "bit {bit}");
        }
    }
}
