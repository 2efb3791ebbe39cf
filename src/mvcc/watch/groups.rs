//! Which watchers watch a key: watchers of the same range form a group, and the groups are found
//! by the key of an event.
//!
//! Three kinds of ranges, because of how clients watch: a single key (a hash look-up), a prefix (a
//! hash look-up for each length of prefix that somebody watches), and any other range (a sorted
//! array with the greatest end so far, rebuilt when it has changed).

use std::collections::BTreeMap;
use std::hash::{BuildHasher, BuildHasherDefault};

use bytes::Bytes;
use hashbrown::HashTable;
use rustc_hash::FxHasher;
use slab::Slab;
use smallvec::SmallVec;

/// A key that owns exactly its bytes.
type Key = Box<[u8]>;

/// The keys that a watcher wants. Owns exactly the bytes of its keys: there may be millions.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum KeyRange {
    Single(Key),
    /// From the first key up to, and without, the second.
    Between(Key, Key),
    From(Key),
}

impl KeyRange {
    /// The range of a request: no end means one key, the end `"\0"` means all keys from the first.
    pub fn new(key: Bytes, end: Bytes) -> KeyRange {
        let own = |bytes: Bytes| Key::from(&bytes[..]);
        if end.is_empty() {
            KeyRange::Single(own(key))
        } else if end.as_ref() == b"\0" {
            KeyRange::From(own(key))
        } else {
            KeyRange::Between(own(key), own(end))
        }
    }

    pub fn contains(&self, key: &[u8]) -> bool {
        match self {
            KeyRange::Single(single) => single.as_ref() == key,
            KeyRange::Between(start, end) => start.as_ref() <= key && key < end.as_ref(),
            KeyRange::From(start) => start.as_ref() <= key,
        }
    }

    fn kind(&self) -> Kind {
        match self {
            KeyRange::Single(_) => Kind::Single,
            KeyRange::Between(start, end)
                if prefix_end(start).is_some_and(|own| own[..] == end[..]) =>
            {
                Kind::Prefix
            }
            KeyRange::Between(..) | KeyRange::From(_) => Kind::Other,
        }
    }

    fn start(&self) -> &[u8] {
        match self {
            KeyRange::Single(start) | KeyRange::Between(start, _) | KeyRange::From(start) => start,
        }
    }
}

/// How the groups of a range are found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Kind {
    Single,
    Prefix,
    Other,
}

/// The first key behind all keys that begin with `prefix`; none if that prefix is all 0xff.
fn prefix_end(prefix: &[u8]) -> Option<Vec<u8>> {
    let last = prefix.iter().rposition(|byte| *byte != 0xff)?;
    let mut end = prefix[..=last].to_vec();
    end[last] += 1;
    Some(end)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GroupId(u32);

pub struct Group {
    pub range: KeyRange,
    kind: Kind,
    pub members: SmallVec<[u32; 4]>,
}

/// Ranges that are neither single keys nor prefixes, sorted by start. `reach[i]` is the greatest
/// end among the first `i + 1`; none stands for no end.
#[derive(Default)]
struct Ordered {
    stale: bool,
    entries: Vec<(Key, Option<Key>, GroupId)>,
    reach: Vec<Option<Key>>,
}

#[derive(Default)]
pub struct Groups {
    groups: Slab<Group>,
    /// All groups by kind and start of their range. The keys are those in `groups`, so that an entry costs
    /// a few bytes.
    table: HashTable<GroupId>,
    /// How many groups watch a prefix of so many bytes.
    prefix_lengths: BTreeMap<usize, usize>,
    ordered: Ordered,
}

fn hash(kind: Kind, start: &[u8]) -> u64 {
    BuildHasherDefault::<FxHasher>::default().hash_one((kind, start))
}

impl Groups {
    pub fn get(&self, id: GroupId) -> &Group {
        &self.groups[id.0 as usize]
    }

    /// Adds a member; answers with its group and its place there.
    pub fn join(&mut self, range: KeyRange, member: u32) -> (GroupId, u32) {
        let kind = range.kind();
        let groups = &self.groups;
        let found = self.table.find(hash(kind, range.start()), |id| {
            let group = &groups[id.0 as usize];
            group.kind == kind && group.range == range
        });
        let id = match found {
            Some(id) => *id,
            None => self.insert(range, kind),
        };
        let members = &mut self.groups[id.0 as usize].members;
        members.push(member);
        (id, members.len() as u32 - 1)
    }

    /// Removes the member at `place`. The member that takes that place is returned, so that its
    /// owner can note it.
    pub fn leave(&mut self, id: GroupId, place: u32) -> Option<u32> {
        let group = &mut self.groups[id.0 as usize];
        group.members.swap_remove(place as usize);
        if group.members.is_empty() {
            self.remove(id);
            return None;
        }
        group.members.get(place as usize).copied()
    }

    fn insert(&mut self, range: KeyRange, kind: Kind) -> GroupId {
        let hashed = hash(kind, range.start());
        match kind {
            Kind::Single => {}
            Kind::Prefix => *self.prefix_lengths.entry(range.start().len()).or_default() += 1,
            Kind::Other => self.ordered.stale = true,
        }
        let group = Group { range, kind, members: SmallVec::new() };
        let id = GroupId(self.groups.insert(group) as u32);
        let groups = &self.groups;
        self.table.insert_unique(hashed, id, |id| {
            let group = &groups[id.0 as usize];
            hash(group.kind, group.range.start())
        });
        id
    }

    fn remove(&mut self, id: GroupId) {
        let Group { range, kind, .. } = self.groups.remove(id.0 as usize);
        let entry = self.table.find_entry(hash(kind, range.start()), |other| *other == id);
        entry.expect("every group is in the table").remove();
        match kind {
            Kind::Single => {}
            Kind::Prefix => {
                let len = range.start().len();
                let count =
                    self.prefix_lengths.get_mut(&len).expect("counted when it was inserted");
                *count -= 1;
                if *count == 0 {
                    self.prefix_lengths.remove(&len);
                }
            }
            Kind::Other => self.ordered.stale = true,
        }
    }

    /// Appends the groups whose range holds `key`.
    pub fn matching(&mut self, key: &[u8], found: &mut Vec<GroupId>) {
        found.extend(self.find(Kind::Single, key));
        for len in self.prefix_lengths.range(..=key.len()).map(|(len, _)| *len) {
            found.extend(self.find(Kind::Prefix, &key[..len]));
        }
        if self.ordered.stale {
            self.rebuild();
        }
        self.ordered.stab(key, found);
    }

    /// The group of a single key or of a prefix.
    fn find(&self, kind: Kind, start: &[u8]) -> Option<GroupId> {
        let is_it = |id: &GroupId| {
            let group = &self.groups[id.0 as usize];
            group.kind == kind && group.range.start() == start
        };
        self.table.find(hash(kind, start), is_it).copied()
    }

    fn rebuild(&mut self) {
        let others = self.groups.iter().filter(|(_, group)| group.kind == Kind::Other);
        let entries = others.map(|(slot, group)| {
            let end = match &group.range {
                KeyRange::Between(_, end) => Some(end.clone()),
                KeyRange::Single(_) | KeyRange::From(_) => None,
            };
            (group.range.start().into(), end, GroupId(slot as u32))
        });
        self.ordered = Ordered::new(entries.collect());
    }
}

impl Ordered {
    fn new(mut entries: Vec<(Key, Option<Key>, GroupId)>) -> Ordered {
        entries.sort_unstable();
        let mut reach: Vec<Option<Key>> = Vec::with_capacity(entries.len());
        for (_, end, _) in &entries {
            let farthest = match (reach.last(), end) {
                (None, end) => end.clone(),
                (Some(None), _) | (_, None) => None,
                (Some(Some(before)), Some(end)) => Some(before.max(end).clone()),
            };
            reach.push(farthest);
        }
        Ordered { stale: false, entries, reach }
    }

    fn stab(&self, key: &[u8], found: &mut Vec<GroupId>) {
        let behind = |end: &Option<Key>| end.as_ref().is_none_or(|end| key < end.as_ref());
        let started = self.entries.partition_point(|(start, _, _)| start.as_ref() <= key);
        for index in (0..started).rev() {
            if !behind(&self.reach[index]) {
                break;
            }
            let (_, end, id) = &self.entries[index];
            if behind(end) {
                found.push(*id);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn random(seed: &mut u64) -> u64 {
        *seed ^= *seed << 13;
        *seed ^= *seed >> 7;
        *seed ^= *seed << 17;
        *seed
    }

    fn random_key(seed: &mut u64) -> Bytes {
        let alphabet = [0, b'a', b'b', 0xff];
        let len = random(seed) % 4;
        (0..len).map(|_| alphabet[random(seed) as usize % 4]).collect::<Vec<u8>>().into()
    }

    #[test]
    fn the_groups_found_are_those_whose_range_holds_the_key() {
        let mut seed = 0x5eed;
        let mut groups = Groups::default();
        let mut places: Vec<Option<(GroupId, u32)>> = Vec::new();
        let mut ranges: Vec<KeyRange> = Vec::new();
        for round in 0..4000 {
            if random(&mut seed).is_multiple_of(3) && !places.is_empty() {
                let member = random(&mut seed) as usize % places.len();
                if let Some((group, place)) = places[member].take()
                    && let Some(moved) = groups.leave(group, place)
                {
                    places[moved as usize] = Some((group, place));
                }
            } else {
                let (key, end) = (random_key(&mut seed), random_key(&mut seed));
                let valid = end.is_empty() || end.as_ref() == b"\0" || key < end;
                let range =
                    if valid { KeyRange::new(key, end) } else { KeyRange::From(key[..].into()) };
                places.push(Some(groups.join(range.clone(), ranges.len() as u32)));
                ranges.push(range);
            }
            let key = random_key(&mut seed);
            let mut found = Vec::new();
            groups.matching(&key, &mut found);
            let mut members: Vec<u32> =
                found.iter().flat_map(|id| groups.get(*id).members.clone()).collect();
            members.sort_unstable();
            let expected: Vec<u32> = (0..ranges.len())
                .filter(|member| places[*member].is_some() && ranges[*member].contains(&key))
                .map(|member| member as u32)
                .collect();
            assert_eq!(members, expected, "round {round}, key {key:?}");
        }
    }

    #[test]
    fn the_end_of_a_prefix_skips_bytes_that_cannot_grow() {
        assert_eq!(prefix_end(b"ab"), Some(b"ac".to_vec()));
        assert_eq!(prefix_end(b"a\xff"), Some(b"b".to_vec()));
        assert_eq!(prefix_end(b"\xff\xff"), None);
        assert_eq!(prefix_end(b""), None);
    }
}
