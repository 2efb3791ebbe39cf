//! Which watchers watch a key: watchers of the same range form a group, and the groups are found
//! by the key of an event.
//!
//! Three kinds of ranges, because of how clients watch: a single key (a hash look-up), a prefix (a
//! hash look-up for each length of prefix that somebody watches), and any other range (a sorted
//! array with the greatest end so far, rebuilt when it has changed).

use std::collections::BTreeMap;

use bytes::Bytes;
use rustc_hash::FxHashMap;
use slab::Slab;

/// The keys that a watcher wants.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum KeyRange {
    Single(Bytes),
    /// From the first key up to, and without, the second.
    Between(Bytes, Bytes),
    From(Bytes),
}

impl KeyRange {
    /// The range of a request: no end means one key, the end `"\0"` means all keys from the first.
    pub fn new(key: Bytes, end: Bytes) -> KeyRange {
        if end.is_empty() {
            KeyRange::Single(key)
        } else if end.as_ref() == b"\0" {
            KeyRange::From(key)
        } else {
            KeyRange::Between(key, end)
        }
    }

    pub fn contains(&self, key: &[u8]) -> bool {
        match self {
            KeyRange::Single(single) => single == key,
            KeyRange::Between(start, end) => start <= key && key < end.as_ref(),
            KeyRange::From(start) => start <= key,
        }
    }

    fn is_prefix(&self) -> bool {
        match self {
            KeyRange::Between(start, end) => prefix_end(start).is_some_and(|own| own == *end),
            _ => false,
        }
    }

    fn start(&self) -> &Bytes {
        match self {
            KeyRange::Single(start) | KeyRange::Between(start, _) | KeyRange::From(start) => start,
        }
    }
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
    pub members: Vec<u32>,
}

/// Ranges that are neither single keys nor prefixes, sorted by start. `reach[i]` is the greatest
/// end among the first `i + 1`; none stands for no end.
#[derive(Default)]
struct Ordered {
    stale: bool,
    entries: Vec<(Bytes, Option<Bytes>, GroupId)>,
    reach: Vec<Option<Bytes>>,
}

#[derive(Default)]
pub struct Groups {
    groups: Slab<Group>,
    by_range: FxHashMap<KeyRange, GroupId>,
    /// How many groups watch a prefix of so many bytes.
    prefix_lengths: BTreeMap<usize, usize>,
    prefixes: FxHashMap<Bytes, GroupId>,
    singles: FxHashMap<Bytes, GroupId>,
    ordered: Ordered,
}

impl Groups {
    pub fn get(&self, id: GroupId) -> &Group {
        &self.groups[id.0 as usize]
    }

    /// Adds a member; answers with its group and its place there.
    pub fn join(&mut self, range: KeyRange, member: u32) -> (GroupId, u32) {
        let id = match self.by_range.get(&range) {
            Some(id) => *id,
            None => self.insert(range),
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

    fn insert(&mut self, range: KeyRange) -> GroupId {
        let id =
            GroupId(self.groups.insert(Group { range: range.clone(), members: vec![] }) as u32);
        if let KeyRange::Single(key) = &range {
            self.singles.insert(key.clone(), id);
        } else if range.is_prefix() {
            *self.prefix_lengths.entry(range.start().len()).or_default() += 1;
            self.prefixes.insert(range.start().clone(), id);
        } else {
            self.ordered.stale = true;
        }
        self.by_range.insert(range, id);
        id
    }

    fn remove(&mut self, id: GroupId) {
        let range = self.groups.remove(id.0 as usize).range;
        self.by_range.remove(&range);
        if let KeyRange::Single(key) = &range {
            self.singles.remove(key);
        } else if range.is_prefix() {
            self.prefixes.remove(range.start());
            let len = range.start().len();
            let count = self.prefix_lengths.get_mut(&len).expect("counted when it was inserted");
            *count -= 1;
            if *count == 0 {
                self.prefix_lengths.remove(&len);
            }
        } else {
            self.ordered.stale = true;
        }
    }

    /// Appends the groups whose range holds `key`.
    pub fn matching(&mut self, key: &[u8], found: &mut Vec<GroupId>) {
        found.extend(self.singles.get(key));
        for len in self.prefix_lengths.range(..=key.len()).map(|(len, _)| *len) {
            found.extend(self.prefixes.get(&key[..len]));
        }
        if self.ordered.stale {
            self.rebuild();
        }
        self.ordered.stab(key, found);
    }

    fn rebuild(&mut self) {
        let entries = self.groups.iter().filter_map(|(slot, group)| {
            let id = GroupId(slot as u32);
            match &group.range {
                KeyRange::Single(_) => None,
                range if range.is_prefix() => None,
                KeyRange::Between(start, end) => Some((start.clone(), Some(end.clone()), id)),
                KeyRange::From(start) => Some((start.clone(), None, id)),
            }
        });
        self.ordered = Ordered::new(entries.collect());
    }
}

impl Ordered {
    fn new(mut entries: Vec<(Bytes, Option<Bytes>, GroupId)>) -> Ordered {
        entries.sort_unstable();
        let mut reach: Vec<Option<Bytes>> = Vec::with_capacity(entries.len());
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
        let behind = |end: &Option<Bytes>| end.as_ref().is_none_or(|end| key < end.as_ref());
        let started = self.entries.partition_point(|(start, _, _)| start <= key);
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
                let range = if valid { KeyRange::new(key, end) } else { KeyRange::From(key) };
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
