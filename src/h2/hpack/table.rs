//! The table of header fields of one direction: the static entries, then the dynamic ones, newest
//! first (RFC 7541, 2.3).
//!
//! Invariants: `size_bytes <= capacity_bytes <= 4096`; `generation` changes whenever an index may
//! mean something else than before, so a decoded block that only read the table stays true for as
//! long as the generation does.

use std::collections::VecDeque;
use std::sync::LazyLock;

use bytes::Bytes;

use super::static_table;
use crate::h2::field::{Class, Field};

/// What an entry costs beside its name and value (RFC 7541, 4.1).
pub const ENTRY_OVERHEAD: usize = 32;
/// The table size both sides start with, and the only one this server ever allows.
pub const CAPACITY_MAX: usize = 4096;

const STATIC_LEN: usize = static_table::ENTRIES.len();

static STATIC_FIELDS: LazyLock<[Field; STATIC_LEN]> = LazyLock::new(|| {
    static_table::ENTRIES.map(|(name, value)| Field {
        name: Bytes::from_static(name),
        value: Bytes::from_static(value),
        class: Class::of(name, value),
    })
});

/// Names an entry for the life of the connection: unlike its index it never changes, and it is never
/// given to another. Not 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FieldId(pub u64);

#[derive(Debug)]
pub struct Table {
    dynamic: VecDeque<Field>,
    size_bytes: usize,
    capacity_bytes: usize,
    generation: u64,
    /// Dynamic entries there have ever been.
    inserted: u64,
}

impl Default for Table {
    fn default() -> Table {
        Table {
            dynamic: VecDeque::new(),
            size_bytes: 0,
            capacity_bytes: CAPACITY_MAX,
            generation: 0,
            inserted: 0,
        }
    }
}

impl Table {
    pub fn generation(&self) -> u64 {
        self.generation
    }

    pub fn size_bytes(&self) -> usize {
        self.size_bytes
    }

    pub fn capacity_bytes(&self) -> usize {
        self.capacity_bytes
    }

    /// The field at an index of the RFC: 1 to 61 static, from 62 on dynamic.
    #[inline]
    pub fn get(&self, index: usize) -> Option<(FieldId, &Field)> {
        let place = index.checked_sub(1)?;
        if let Some(field) = STATIC_FIELDS.get(place) {
            return Some((FieldId(index as u64), field));
        }
        let age = place - STATIC_LEN;
        let field = self.dynamic.get(age)?;
        Some((FieldId(STATIC_LEN as u64 + self.inserted - age as u64), field))
    }

    /// Adds an entry; one larger than the table empties it and is not kept (RFC 7541, 4.4).
    pub fn insert(&mut self, field: Field) {
        self.generation += 1;
        let entry_bytes = field.size_bytes();
        self.evict_to(self.capacity_bytes.saturating_sub(entry_bytes));
        if entry_bytes <= self.capacity_bytes {
            self.size_bytes += entry_bytes;
            self.inserted += 1;
            self.dynamic.push_front(field);
        }
    }

    /// False when the peer asks for more than was allowed.
    pub fn set_capacity(&mut self, capacity_bytes: usize) -> bool {
        if capacity_bytes > CAPACITY_MAX {
            return false;
        }
        self.generation += 1;
        self.capacity_bytes = capacity_bytes;
        self.evict_to(capacity_bytes);
        true
    }

    fn evict_to(&mut self, size_bytes: usize) {
        while self.size_bytes > size_bytes {
            let Some(oldest) = self.dynamic.pop_back() else { break };
            self.size_bytes -= oldest.size_bytes();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn field(name: &str, value: &str) -> Field {
        Field::new(name.as_bytes(), value.as_bytes())
    }

    #[test]
    fn static_entries_have_the_indices_of_the_appendix() {
        let cases = [
            (1, ":authority", ""),
            (2, ":method", "GET"),
            (8, ":status", "200"),
            (15, "accept-charset", ""),
            (61, "www-authenticate", ""),
        ];
        let table = Table::default();
        for (index, name, value) in cases {
            let (id, found) = table.get(index).unwrap();
            assert_eq!((&found.name[..], &found.value[..]), (name.as_bytes(), value.as_bytes()));
            assert_eq!(id, FieldId(index as u64));
        }
        assert_eq!(table.get(0), None);
        assert_eq!(table.get(62), None);
        assert_eq!(table.get(usize::MAX), None);
    }

    #[test]
    fn the_oldest_entries_leave_first_and_the_newest_has_index_62() {
        let mut table = Table::default();
        assert!(table.set_capacity(3 * (ENTRY_OVERHEAD + 2)));
        for name in ["a", "b", "c", "d"] {
            table.insert(field(name, "1"));
        }
        let names: Vec<_> = (62..65).map(|index| &table.get(index).unwrap().1.name).collect();
        assert_eq!(names, ["d", "c", "b"]);
        assert_eq!(table.get(65), None);
        assert_eq!(table.size_bytes(), 3 * (ENTRY_OVERHEAD + 2));
    }

    #[test]
    fn an_entry_keeps_its_id_while_its_index_moves() {
        let mut table = Table::default();
        table.insert(field("a", "1"));
        let (first, _) = table.get(62).unwrap();
        table.insert(field("b", "1"));
        assert_eq!(table.get(63).unwrap().0, first);
        assert_ne!(table.get(62).unwrap().0, first);
        assert!(table.set_capacity(0) && table.set_capacity(CAPACITY_MAX));
        table.insert(field("a", "1"));
        assert_eq!(table.get(62).unwrap().0, FieldId(first.0 + 2));
    }

    #[test]
    fn an_entry_larger_than_the_table_empties_it() {
        let mut table = Table::default();
        table.insert(field("a", "1"));
        table.insert(field("b", &"x".repeat(CAPACITY_MAX)));
        assert_eq!((table.size_bytes(), table.get(62)), (0, None));
    }

    #[test]
    fn a_capacity_above_the_allowed_one_is_refused() {
        let mut table = Table::default();
        assert!(!table.set_capacity(CAPACITY_MAX + 1));
        assert!(table.set_capacity(0));
        assert!(table.set_capacity(CAPACITY_MAX));
    }
}
