//! The second pass: the leaves, from the entries that were planned.

use super::{Entry, FLAG_LEAF, Kind, PAGE_SIZE, Plan, Size, put_node};

/// Makes the leaves. It is given what the planner was told, in the same order.
pub struct Leaves {
    next_page: u64,
    end_page: u64,
    size: Size,
    is_open: bool,
    /// Keys and values of the leaf that is being filled, and their lengths.
    content: Vec<u8>,
    lengths: Vec<(usize, usize)>,
}

impl Leaves {
    pub fn new(plan: &Plan) -> Leaves {
        Leaves {
            next_page: plan.first_leaf_page,
            end_page: plan.bytes / PAGE_SIZE as u64,
            size: Size::EMPTY,
            is_open: false,
            content: Vec::new(),
            lengths: Vec::new(),
        }
    }

    /// Begins the next bucket.
    pub fn bucket(&mut self, out: &mut Vec<u8>) {
        self.end_leaf(out);
        self.is_open = true;
    }

    pub fn entry(&mut self, key: &[u8], value: &[u8], out: &mut Vec<u8>) {
        if !self.size.takes(key.len() + value.len()) {
            self.end_leaf(out);
            self.is_open = true;
        }
        self.size.add(key.len() + value.len());
        self.content.extend_from_slice(key);
        self.content.extend_from_slice(value);
        self.lengths.push((key.len(), value.len()));
    }

    /// Ends the file.
    ///
    /// # Panics
    /// If it has become another one than was planned.
    pub fn finish(&mut self, out: &mut Vec<u8>) {
        self.end_leaf(out);
        assert_eq!(self.next_page, self.end_page, "the entries are not those that were planned");
    }

    fn end_leaf(&mut self, out: &mut Vec<u8>) {
        if !self.is_open {
            return;
        }
        let mut rest = &self.content[..];
        let mut take = |len| {
            let (taken, after) = rest.split_at(len);
            rest = after;
            taken
        };
        let entries: Vec<Entry<'_>> = self
            .lengths
            .iter()
            .map(|&(key, value)| Entry {
                key: take(key),
                value: take(value),
                kind: Kind::Leaf { is_bucket: false },
            })
            .collect();
        put_node(out, self.next_page, FLAG_LEAF, entries.iter().copied());
        self.next_page += self.size.pages();
        self.size = Size::EMPTY;
        self.is_open = false;
        self.content.clear();
        self.lengths.clear();
    }
}
