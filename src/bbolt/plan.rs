//! The first pass: which pages there will be, and the bytes of all that are not leaves.

use super::{
    ELEMENT, Entry, FLAG_BRANCH, FLAG_LEAF, FLAG_META, Kind, PAGE_HEADER, PAGE_SIZE, Size, put_node,
};

const MAGIC: u32 = 0xed0c_daed;
const VERSION: u32 = 2;
/// In the place of a page number: there is no stored free list.
const NO_FREE_LIST: u64 = u64::MAX;
/// Pages 0 and 1.
const METAS: u64 = 2;
/// Of the newer meta. It is even, since bbolt writes the meta of transaction n to page n % 2.
const TRANSACTION: u64 = 2;

/// One node, as its parent sees it.
struct Node {
    /// Its first key, in `Planner::keys`.
    key: std::ops::Range<usize>,
    pages: u64,
}

struct Bucket {
    name: &'static str,
    leaves: Vec<Node>,
}

/// Is told the sizes of all entries, bucket by bucket and in the order of their keys.
#[derive(Default)]
pub struct Planner {
    buckets: Vec<Bucket>,
    /// The first keys of all leaves.
    keys: Vec<u8>,
    open: Option<(Size, std::ops::Range<usize>)>,
}

/// What a file begins with, and how long it is.
pub struct Plan {
    pub head: Vec<u8>,
    pub first_leaf_page: u64,
    /// Of the whole file.
    pub bytes: u64,
}

impl Planner {
    /// Begins the bucket `name`, which must be greater than the one before.
    pub fn bucket(&mut self, name: &'static str) {
        self.end_leaf();
        assert!(self.buckets.last().is_none_or(|last| last.name < name), "buckets have an order");
        self.buckets.push(Bucket { name, leaves: Vec::new() });
        self.open = Some((Size::EMPTY, self.keys.len()..self.keys.len()));
    }

    pub fn entry(&mut self, key: &[u8], value_len: usize) {
        let content = key.len() + value_len;
        if self.open.as_ref().is_some_and(|(size, _)| !size.takes(content)) {
            self.end_leaf();
            self.open = Some((Size::EMPTY, 0..0));
        }
        let (size, first) = self.open.as_mut().expect("an entry belongs to a bucket");
        if size.count == 0 {
            let start = self.keys.len();
            self.keys.extend_from_slice(key);
            *first = start..self.keys.len();
        }
        size.add(content);
    }

    /// An empty bucket has one empty leaf.
    fn end_leaf(&mut self) {
        if let Some((size, key)) = self.open.take() {
            let bucket = self.buckets.last_mut().expect("a leaf belongs to a bucket");
            bucket.leaves.push(Node { key, pages: size.pages() });
        }
    }

    pub fn finish(mut self) -> Plan {
        self.end_leaf();
        let levels: Vec<Vec<Vec<Branch>>> =
            self.buckets.iter().map(|bucket| branches(&bucket.leaves)).collect();
        let mut root_size = Size::EMPTY;
        self.buckets.iter().for_each(|bucket| root_size.add(bucket.name.len() + 16));
        let branch_pages: u64 = levels.iter().flatten().flatten().map(|b| b.node.pages).sum();
        let first_leaf_page = METAS + root_size.pages() + branch_pages;

        // Numbers are given from the start of the file on; a bucket's branches lie top down.
        let mut next_branch = METAS + root_size.pages();
        let mut next_leaf = first_leaf_page;
        let mut roots: Vec<[u8; 16]> = Vec::new();
        let mut body = Vec::new();
        for (bucket, levels) in self.buckets.iter().zip(&levels) {
            let mut below = numbered(&mut next_leaf, &bucket.leaves);
            let mut numbers: Vec<Vec<u64>> = Vec::new();
            for level in levels.iter().rev() {
                numbers.push(numbered(&mut next_branch, level.iter().map(|b| &b.node)));
            }
            // `levels` runs from the leaves up, the numbers from the top down.
            let mut nodes: Vec<(u64, Vec<u8>)> = Vec::new();
            let mut children: Vec<&Node> = bucket.leaves.iter().collect();
            for (level, numbers) in levels.iter().zip(numbers.iter().rev()) {
                for (branch, &page) in level.iter().zip(numbers) {
                    let entries = branch.children.clone().map(|child| Entry {
                        key: &self.keys[children[child].key.clone()],
                        value: &[],
                        kind: Kind::Branch { child: below[child] },
                    });
                    let mut bytes = Vec::new();
                    put_node(&mut bytes, page, FLAG_BRANCH, entries);
                    nodes.push((page, bytes));
                }
                children = level.iter().map(|branch| &branch.node).collect();
                below.clone_from(numbers);
            }
            nodes.sort_unstable_by_key(|(page, _)| *page);
            nodes.into_iter().for_each(|(_, bytes)| body.extend_from_slice(&bytes));
            assert_eq!(below.len(), 1, "a tree has one root");
            let mut root = [0; 16];
            root[..8].copy_from_slice(&below[0].to_le_bytes());
            roots.push(root);
        }

        let mut head = Vec::new();
        for (page, transaction) in [(0, TRANSACTION), (1, TRANSACTION - 1)] {
            put_meta(&mut head, page, transaction, next_leaf);
        }
        let names = self.buckets.iter().zip(&roots).map(|(bucket, root)| Entry {
            key: bucket.name.as_bytes(),
            value: root,
            kind: Kind::Leaf { is_bucket: true },
        });
        put_node(&mut head, METAS, FLAG_LEAF, names);
        head.extend_from_slice(&body);
        assert_eq!(head.len() as u64, first_leaf_page * PAGE_SIZE as u64);
        Plan { head, first_leaf_page, bytes: next_leaf * PAGE_SIZE as u64 }
    }
}

fn numbered<'a>(next: &mut u64, nodes: impl IntoIterator<Item = &'a Node>) -> Vec<u64> {
    let number = |node: &Node| {
        *next += node.pages;
        *next - node.pages
    };
    nodes.into_iter().map(number).collect()
}

struct Branch {
    node: Node,
    /// In the level below.
    children: std::ops::Range<usize>,
}

/// The levels above the leaves, from below; the last has one node. None above a single leaf.
fn branches(leaves: &[Node]) -> Vec<Vec<Branch>> {
    let mut levels: Vec<Vec<Branch>> = Vec::new();
    let mut keys: Vec<std::ops::Range<usize>> =
        leaves.iter().map(|leaf| leaf.key.clone()).collect();
    while keys.len() > 1 {
        let mut level: Vec<Branch> = Vec::new();
        let mut size = Size::EMPTY;
        for (child, key) in keys.iter().enumerate() {
            // Two children at least, or large keys would make a tower.
            if level.is_empty() || (size.count > 1 && !size.takes(key.len())) {
                size = Size::EMPTY;
                let node = Node { key: key.clone(), pages: 0 };
                level.push(Branch { node, children: child..child });
            }
            size.add(key.len());
            let branch = level.last_mut().expect("there is one");
            branch.children.end = child + 1;
            branch.node.pages = size.pages();
        }
        keys = level.iter().map(|branch| branch.node.key.clone()).collect();
        levels.push(level);
    }
    levels
}

/// The root bucket's leaf is the page behind the metas.
fn put_meta(out: &mut Vec<u8>, page: u64, transaction: u64, end: u64) {
    let start = out.len();
    out.extend_from_slice(&page.to_le_bytes());
    out.extend_from_slice(&FLAG_META.to_le_bytes());
    out.extend_from_slice(&[0; 6]);
    let meta = out.len();
    assert_eq!(meta - start, PAGE_HEADER);
    for word in [MAGIC, VERSION, PAGE_SIZE as u32, 0] {
        out.extend_from_slice(&word.to_le_bytes());
    }
    let sequence = 0;
    for word in [METAS, sequence, NO_FREE_LIST, end, transaction] {
        out.extend_from_slice(&word.to_le_bytes());
    }
    let checksum = fnv_1a(&out[meta..]);
    out.extend_from_slice(&checksum.to_le_bytes());
    out.resize(start + PAGE_SIZE, 0);
}

fn fnv_1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

const _: () = assert!(ELEMENT == 16 && PAGE_HEADER == 16);
