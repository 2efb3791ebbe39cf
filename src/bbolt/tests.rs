//! A small reader of bbolt files, written from the format alone, reads back what was written.

use std::collections::BTreeMap;

use super::{Leaves, PAGE_SIZE, Planner};

type Content = BTreeMap<&'static str, BTreeMap<Vec<u8>, Vec<u8>>>;

fn write(content: &Content) -> Vec<u8> {
    let mut planner = Planner::default();
    for (name, entries) in content {
        planner.bucket(name);
        entries.iter().for_each(|(key, value)| planner.entry(key, value.len()));
    }
    let plan = planner.finish();
    let mut out = plan.head.clone();
    let mut leaves = Leaves::new(&plan);
    for entries in content.values() {
        leaves.bucket(&mut out);
        entries.iter().for_each(|(key, value)| leaves.entry(key, value, &mut out));
    }
    leaves.finish(&mut out);
    assert_eq!(out.len() as u64, plan.bytes);
    out
}

/// Given the flags, the key and the value of an entry.
type Visit<'a> = dyn FnMut(usize, &[u8], &[u8]) + 'a;

struct File<'a> {
    bytes: &'a [u8],
    /// How often each page was reached.
    reached: Vec<u32>,
}

impl<'a> File<'a> {
    fn u16(&self, at: usize) -> usize {
        usize::from(u16::from_le_bytes(self.bytes[at..at + 2].try_into().unwrap()))
    }

    fn u32(&self, at: usize) -> usize {
        u32::from_le_bytes(self.bytes[at..at + 4].try_into().unwrap()) as usize
    }

    fn u64(&self, at: usize) -> usize {
        u64::from_le_bytes(self.bytes[at..at + 8].try_into().unwrap()) as usize
    }

    fn read(bytes: &'a [u8]) -> BTreeMap<String, BTreeMap<Vec<u8>, Vec<u8>>> {
        assert_eq!(bytes.len() % PAGE_SIZE, 0);
        let mut file = File { bytes, reached: vec![0; bytes.len() / PAGE_SIZE] };
        for (page, transaction) in [(0, 2), (1, 1)] {
            let meta = page * PAGE_SIZE + 16;
            assert_eq!((file.u64(meta - 16), file.u16(meta - 8)), (page, 4));
            assert_eq!((file.u32(meta), file.u32(meta + 4)), (0xed0c_daed, 2));
            assert_eq!(file.u32(meta + 8), PAGE_SIZE);
            assert_eq!(file.u64(meta + 32), usize::MAX);
            assert_eq!(file.u64(meta + 40), file.reached.len());
            assert_eq!(file.u64(meta + 48), transaction);
            file.reached[page] += 1;
        }
        let mut buckets = Vec::new();
        file.walk(file.u64(16 + 16), &mut |flags, key, value| {
            assert_eq!(flags, 1);
            let root = u64::from_le_bytes(value[..8].try_into().unwrap()) as usize;
            buckets.push((String::from_utf8(key.to_vec()).unwrap(), root));
        });
        let mut content = BTreeMap::new();
        for (name, root) in buckets {
            let mut entries = BTreeMap::new();
            let mut last: Option<Vec<u8>> = None;
            file.walk(root, &mut |flags, key, value| {
                assert_eq!(flags, 0);
                assert!(last.as_deref().is_none_or(|last| last < key), "keys have an order");
                last = Some(key.to_vec());
                entries.insert(key.to_vec(), value.to_vec());
            });
            content.insert(name, entries);
        }
        assert!(file.reached.iter().all(|count| *count == 1), "each page is in one node");
        content
    }

    fn walk(&mut self, page: usize, visit: &mut Visit<'_>) {
        let at = page * PAGE_SIZE;
        assert_eq!(self.u64(at), page);
        for overflow in 0..=self.u32(at + 12) {
            self.reached[page + overflow] += 1;
        }
        for element in (0..self.u16(at + 10)).map(|index| at + 16 + 16 * index) {
            match self.u16(at + 8) {
                1 => {
                    let key = element + self.u32(element);
                    let key = self.bytes[key..key + self.u32(element + 4)].to_vec();
                    let child = self.u64(element + 8);
                    let mut first = true;
                    self.walk(child, &mut |flags, found, value| {
                        assert!(!first || found == key, "a branch has its child's first key");
                        first = false;
                        visit(flags, found, value);
                    });
                }
                2 => {
                    let key = element + self.u32(element + 4);
                    let (key_len, value_len) = (self.u32(element + 8), self.u32(element + 12));
                    let (key, value) = self.bytes[key..key + key_len + value_len].split_at(key_len);
                    visit(self.u32(element), key, value);
                }
                flags => panic!("a page with flags {flags}"),
            }
        }
    }
}

fn check(content: Content) {
    let file = write(&content);
    let read = File::read(&file);
    let wanted: BTreeMap<String, _> =
        content.into_iter().map(|(name, entries)| (name.to_owned(), entries)).collect();
    assert!(read == wanted);
}

#[test]
fn empty_buckets_are_there() {
    check(Content::from([("a", BTreeMap::new()), ("b", BTreeMap::new())]));
}

#[test]
fn what_is_written_is_read_back_at_every_number_of_levels() {
    for count in [1_u64, 2, 400, 2_000, 40_000, 1_500_000] {
        let entry = |n: u64| (n.to_be_bytes().to_vec(), vec![n as u8; (n % 7) as usize]);
        let many: BTreeMap<_, _> = (0..count).map(entry).collect();
        let few = BTreeMap::from([(b"key".to_vec(), b"value".to_vec())]);
        check(Content::from([("few", few), ("many", many), ("none", BTreeMap::new())]));
    }
}

#[test]
fn keys_and_values_of_any_size_have_room() {
    let entries: BTreeMap<_, _> = (0..300_usize)
        .map(|n| (vec![n as u8, (n / 256) as u8, 1], vec![n as u8; n * n % 100_000 + n]))
        .chain([(b"large".to_vec(), vec![7; 3 << 20])])
        .chain((10..20).map(|n| (vec![n; 30_000], Vec::new())))
        .collect();
    check(Content::from([("key", entries)]));
}
