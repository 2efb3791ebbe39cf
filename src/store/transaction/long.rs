//! Giving long keys their stand-ins.

use super::super::Store;
use super::super::cursor::Cursor;
use super::super::edit::{NewEntry, NewKind};
use super::super::limits::{KEY_INLINE_MAX, RELABEL_REACH};
use super::super::long::{Label, find, is_long, label_of, spread, stand_in};
use super::super::node::{FLAG_WEIGHT, Parts, RUN_REF_BYTES};
use super::super::page::{Corruption, Tree};
use std::borrow::Cow;

/// An entry of a long key as its leaf has it.
struct Entry {
    stored: Vec<u8>,
    flags: u8,
    run: [u8; RUN_REF_BYTES],
}

/// Entries that begin alike, one behind the other, and the labels of their neighbours if these do so, too.
struct Window {
    low: Option<Label>,
    high: Option<Label>,
    entries: Vec<Entry>,
}

impl Entry {
    /// The entry that a cursor is on, if it is one of a long key of this beginning.
    fn of(cursor: &Cursor<'_>, beginning: &[u8]) -> Option<Entry> {
        let (stored, (flags, payload)) = (cursor.stored()?, cursor.stored_entry()?);
        if stored.len() <= KEY_INLINE_MAX {
            return None;
        }
        let stored: Vec<u8> = stored.bytes().collect();
        let run = *payload.first_chunk().expect("the reference of a run");
        stored.starts_with(beginning).then_some(Entry { stored, flags, run })
    }
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
            self.relabel(tree, key, &found.bound(key))?;
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

    /// Gives neighbours of a long key that is to be put new labels, as far apart as can be: as many as it takes
    /// for these to be short, and no more than that. Their runs stay.
    fn relabel(&mut self, tree: Tree, key: &[u8], place: &[u8]) -> Result<(), Corruption> {
        let mut reach = RELABEL_REACH;
        let (entries, labels) = loop {
            let window = self.window(tree, key, place, reach)?;
            match spread(window.low.as_deref(), window.high.as_deref(), window.entries.len()) {
                Some(labels) => break (window.entries, labels),
                None => reach *= 2,
            }
        };
        let before = *self.root_mut(tree);
        self.uncommitted = true;
        #[cfg(test)]
        {
            self.relabelled += entries.len() as u64;
        }
        for entry in &entries {
            let path = self.path_for_write(tree, &entry.stored)?;
            let (index, found) = self.dirty(path.leaf).search(&entry.stored);
            assert!(found, "an entry has gone");
            self.dirty_mut(path.leaf).remove(index);
            self.add_weight(tree, &path, -i64::from(entry.flags & FLAG_WEIGHT));
            self.shrink_path(tree, &path)?;
        }
        for (entry, label) in entries.iter().zip(labels) {
            let stored = stand_in(key, &label);
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

    /// The entries that begin as a long key does, so many on either side of its place.
    fn window(
        &self,
        tree: Tree,
        key: &[u8],
        place: &[u8],
        reach: usize,
    ) -> Result<Window, Corruption> {
        let beginning = &key[..KEY_INLINE_MAX];
        let mut cursor = Cursor::over(&self.pages, &self.roots[usize::from(tree.0)]);
        let mut entries = Vec::new();
        let mut is_on = cursor.seek_before_stored(place)?;
        while is_on && entries.len() <= reach {
            let Some(entry) = Entry::of(&cursor, beginning) else { break };
            entries.push(entry);
            is_on = cursor.prev()?;
        }
        let low = (entries.len() > reach).then(|| entries.pop()).flatten();
        entries.reverse();
        let below = entries.len();
        is_on = cursor.seek_stored(place)?;
        while is_on && entries.len() <= below + reach {
            let Some(entry) = Entry::of(&cursor, beginning) else { break };
            entries.push(entry);
            is_on = cursor.next()?;
        }
        let high = (entries.len() > below + reach).then(|| entries.pop()).flatten();
        let label = |entry: Entry| label_of(Parts(&entry.stored, &[]));
        Ok(Window { low: low.map(label), high: high.map(label), entries })
    }
}

const _: () = assert!(FLAG_WEIGHT == 1);
