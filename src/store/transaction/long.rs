//! Giving long keys their stand-ins.

use super::super::Store;
use super::super::cursor::Cursor;
use super::super::edit::{NewEntry, NewKind};
use super::super::limits::KEY_INLINE_MAX;
use super::super::long::{find, is_long, spread, stand_in};
use super::super::node::{FLAG_WEIGHT, RUN_REF_BYTES};
use super::super::page::{Corruption, Tree};
use std::borrow::Cow;

/// An entry of a long key as its leaf has it.
struct Entry {
    stored: Vec<u8>,
    flags: u8,
    run: [u8; RUN_REF_BYTES],
}

impl Store {
    /// What nodes have for a key that is put: the key itself, the stand-in it has, or a new one.
    pub(super) fn stored_for_put<'k>(
        &mut self,
        tree: Tree,
        key: &'k [u8],
    ) -> Result<Cow<'k, [u8]>, Corruption> {
        if !is_long(key) {
            return Ok(Cow::Borrowed(key));
        }
        loop {
            let found = find(&self.pages, &self.roots[usize::from(tree.0)], key)?;
            if found.is_there {
                return Ok(Cow::Owned(found.bound(key)));
            }
            if let Some(label) = found.new_label() {
                return Ok(Cow::Owned(stand_in(key, &label)));
            }
            self.relabel(tree, key)?;
        }
    }

    /// What nodes have for a key. `None` if it is long and not there; a short one may not be there, too.
    pub(super) fn stored_if_there<'k>(
        &mut self,
        tree: Tree,
        key: &'k [u8],
    ) -> Result<Option<Cow<'k, [u8]>>, Corruption> {
        if !is_long(key) {
            return Ok(Some(Cow::Borrowed(key)));
        }
        let found = find(&self.pages, &self.roots[usize::from(tree.0)], key)?;
        Ok(found.is_there.then(|| Cow::Owned(found.bound(key))))
    }

    /// Gives all keys that begin as a long one does new labels, as far apart as can be. Their runs stay.
    fn relabel(&mut self, tree: Tree, key: &[u8]) -> Result<(), Corruption> {
        let entries = self.alike(tree, key)?;
        let before = *self.root_mut(tree);
        self.uncommitted = true;
        for entry in &entries {
            let path = self.path_for_write(tree, &entry.stored)?;
            let (index, found) = self.dirty(path.leaf).search(&entry.stored);
            assert!(found, "an entry has gone");
            self.dirty_mut(path.leaf).remove(index);
            self.add_weight(tree, &path, -i64::from(entry.flags & FLAG_WEIGHT));
            self.shrink_path(tree, &path)?;
        }
        for (entry, label) in entries.iter().zip(spread(entries.len())) {
            let stored = stand_in(key, &[label]);
            let path = self.path_for_put(tree, &stored, 0)?;
            let (index, found) = self.dirty(path.leaf).search(&stored);
            assert!(!found, "a label is used twice");
            self.add_weight(tree, &path, i64::from(entry.flags & FLAG_WEIGHT));
            let kind = NewKind::Leaf { payload_len: RUN_REF_BYTES };
            let new = NewEntry { key: &stored, kind, flags: entry.flags };
            let (leaf, place) = self.insert(tree, &path, path.steps.len(), index, &new);
            self.pages.dirty_mut(leaf).0[place].copy_from_slice(&entry.run);
        }
        let root = self.root_mut(tree);
        (root.entries, root.bytes) = (before.entries, before.bytes);
        Ok(())
    }

    fn alike(&self, tree: Tree, key: &[u8]) -> Result<Vec<Entry>, Corruption> {
        let mut cursor = Cursor::over(&self.pages, &self.roots[usize::from(tree.0)]);
        let beginning = &key[..KEY_INLINE_MAX];
        let mut entries = Vec::new();
        cursor.seek_stored(beginning)?;
        while let (Some(stored), Some((flags, payload))) = (cursor.stored(), cursor.stored_entry())
        {
            let stored: Vec<u8> = stored.bytes().collect();
            if !stored.starts_with(beginning) {
                break;
            }
            if is_long(&stored) {
                let run = *payload.first_chunk().expect("the reference of a run");
                entries.push(Entry { stored, flags, run });
            }
            cursor.next()?;
        }
        Ok(entries)
    }
}

const _: () = assert!(FLAG_WEIGHT == 1);
