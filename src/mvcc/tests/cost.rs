//! What reading costs, in pages looked at and not in time: a count is the same few pages however many keys it counts.

use crate::mvcc::{Interval, Mvcc};
use crate::proto::etcdserverpb::{DeleteRangeRequest, PutRequest};
use crate::store::{MemoryDisk, Options, Store};
use prost::Message;

const KEYS: u64 = 60_000;
/// Levels of the trees of so many keys, and more than that.
const HEIGHT_MAX: u64 = 4;

fn key(number: u64) -> Vec<u8> {
    format!("/registry/pods/team-{:02}/pod-{number:06}", number % 50).into_bytes()
}

fn filled() -> (Store, Mvcc) {
    let disk = MemoryDisk::new(256 << 20, &Options::default());
    let mut store = disk.open().unwrap();
    let mut mvcc = Mvcc::open(&store).unwrap();
    for number in 0..KEYS {
        put(&mut store, &mut mvcc, key(number * 7919 % KEYS));
    }
    (store, mvcc)
}

fn put(store: &mut Store, mvcc: &mut Mvcc, key: Vec<u8>) {
    let request =
        PutRequest { key: key.into(), value: vec![b'v'; 20].into(), ..Default::default() };
    mvcc.put(store, &request).unwrap();
}

/// The number of keys in an interval at a revision, and how many pages it took to know it.
fn count(store: &Store, mvcc: &Mvcc, interval: (&[u8], &[u8]), revision: i64) -> (u64, u64) {
    let before = store.page_lookups();
    let reader = mvcc.reader(store.view());
    let count = reader.count(Interval::new(interval.0, interval.1), revision).unwrap();
    (count, store.page_lookups() - before)
}

const INTERVALS: [(&[u8], &[u8], u64); 5] = [
    (b"\0", b"\0", KEYS),
    (b"/", b"0", KEYS),
    (b"/registry/pods/team-07/", b"/registry/pods/team-070", KEYS / 50),
    (b"/registry/pods/team-07/", b"\0", KEYS / 50 * 43),
    (b"/registry/pods/team-07/pod-000007", b"/registry/pods/team-07/pod-000058", 2),
];

#[test]
fn a_count_of_now_looks_at_two_paths_however_many_keys_it_counts() {
    let (store, mvcc) = filled();
    for (from, to, expected) in INTERVALS {
        let (count, pages) = count(&store, &mvcc, (from, to), 0);
        assert_eq!(count, expected, "{}", String::from_utf8_lossy(from));
        assert!(pages <= 2 * HEIGHT_MAX, "{pages} pages for {count} keys");
    }
}

#[test]
fn a_count_of_a_little_while_ago_costs_the_changes_since_and_not_the_keys() {
    let (mut store, mut mvcc) = filled();
    for changes in [1, 30, 1_000] {
        let revision = mvcc.current_revision();
        for number in 0..changes / 3 {
            put(&mut store, &mut mvcc, key(KEYS + number));
            put(&mut store, &mut mvcc, key(number));
            let request =
                DeleteRangeRequest { key: key(KEYS + number).into(), ..Default::default() };
            mvcc.delete_range(&mut store, &request).unwrap();
        }
        put(&mut store, &mut mvcc, key(2 * KEYS));
        // Records of about 80 bytes, of which a page holds 60 at the least.
        let pages_max = 3 * HEIGHT_MAX + (changes + 1) / 60 + 1;
        for (from, to, expected) in INTERVALS {
            let (count, pages) = count(&store, &mvcc, (from, to), revision);
            assert_eq!(count, expected, "{}", String::from_utf8_lossy(from));
            assert!(pages <= pages_max, "{pages} pages for {changes} changes");
        }
        let request = DeleteRangeRequest { key: key(2 * KEYS).into(), ..Default::default() };
        mvcc.delete_range(&mut store, &request).unwrap();
    }
}

#[test]
fn a_read_of_one_key_looks_at_one_path_of_each_tree() {
    let (store, mvcc) = filled();
    for number in (0..KEYS).step_by(997) {
        let before = store.page_lookups();
        let request = crate::proto::etcdserverpb::RangeRequest {
            key: key(number).into(),
            ..Default::default()
        };
        let mut out = Vec::new();
        assert_eq!(mvcc.range(store.view(), &request, &mut out).unwrap().count, 1);
        assert!(store.page_lookups() - before <= 2 * HEIGHT_MAX + 1);
    }
}

/// A list in pages while others change keys: how many keys are left is known from the page before.
#[test]
fn a_page_of_a_list_costs_its_keys_whatever_has_happened_since_its_first_page() {
    const LIMIT: u64 = 500;
    let (mut store, mut mvcc) = filled();
    let revision = mvcc.current_revision();
    let mut from = b"/registry/pods/team-07/".to_vec();
    let mut request = crate::proto::etcdserverpb::RangeRequest {
        range_end: "/registry/pods/team-12/".into(),
        limit: LIMIT as i64,
        ..Default::default()
    };
    let mut left = KEYS / 50 * 5;
    while left > 0 {
        request.key = from.clone().into();
        let before = store.page_lookups();
        let mut bytes = Vec::new();
        let outcome = mvcc.range_up_to(store.view(), &request, usize::MAX, &mut bytes).unwrap();
        let pages = store.page_lookups() - before;
        let outcome = outcome.expect("a page of this size is made in one piece");
        assert_eq!((outcome.count as u64, outcome.more), (left, left > LIMIT));
        // A path for the value of each key.
        assert!(pages <= (LIMIT + 10) * HEIGHT_MAX, "{pages} pages");
        let answer = crate::proto::etcdserverpb::RangeResponse::decode(&bytes[..]).unwrap();
        left -= answer.kvs.len() as u64;
        from = [&answer.kvs.last().unwrap().key[..], b"\0"].concat();
        if request.revision == 0 {
            request.revision = revision;
            // More changes than a count undoes, most of them elsewhere.
            for number in 0..15_000 {
                put(&mut store, &mut mvcc, key(20 + number % 1_000 * 50));
            }
            for number in 0..30 {
                put(&mut store, &mut mvcc, key(KEYS + 8 + number * 50));
                let gone = key(9 + number * 50);
                let gone = DeleteRangeRequest { key: gone.into(), ..Default::default() };
                mvcc.delete_range(&mut store, &gone).unwrap();
            }
        }
    }
}
