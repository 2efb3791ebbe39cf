//! One test for each rule of etcd that is easily got wrong.

use prost::Message;

use super::fixture::{
    Bed, delete, op_delete, op_put, op_range, op_txn, put, put_with_lease, range, range_bytes,
};
use crate::mvcc::keys::{META, meta};
use crate::mvcc::{
    Chunk, HashKv, MvccError, Progress, RangeStream, Revision, is_read_only, is_serializable,
};
use crate::proto::etcdserverpb::compare::TargetUnion;
use crate::proto::etcdserverpb::response_op::Response;
use crate::proto::etcdserverpb::{
    Compare, PutRequest, RangeRequest, RangeResponse, RequestOp, TxnRequest, TxnResponse,
};

const EQUAL: i32 = 0;
const GREATER: i32 = 1;
const NOT_EQUAL: i32 = 3;

const BY_VERSION: i32 = 1;
const BY_MOD: i32 = 3;
const BY_VALUE: i32 = 4;
const ASCENDING: i32 = 1;
const DESCENDING: i32 = 2;

fn compare(key: &str, result: i32, union: TargetUnion) -> Compare {
    let target = match union {
        TargetUnion::Version(_) => 0,
        TargetUnion::CreateRevision(_) => 1,
        TargetUnion::ModRevision(_) => 2,
        TargetUnion::Value(_) => 3,
        TargetUnion::Lease(_) => 4,
    };
    let key = key.to_owned().into();
    Compare { result, target, key, target_union: Some(union), ..Default::default() }
}

fn then(ops: Vec<RequestOp>) -> TxnRequest {
    TxnRequest { success: ops, ..Default::default() }
}

fn branching(
    compare: Vec<Compare>,
    success: Vec<RequestOp>,
    failure: Vec<RequestOp>,
) -> TxnRequest {
    TxnRequest { compare, success, failure }
}

fn revision_of(response: &Response) -> i64 {
    let header = match response {
        Response::ResponseRange(response) => &response.header,
        Response::ResponsePut(response) => &response.header,
        Response::ResponseDeleteRange(response) => &response.header,
        Response::ResponseTxn(response) => &response.header,
    };
    header.as_ref().unwrap().revision
}

fn revisions(response: &TxnResponse) -> Vec<i64> {
    let responses = response.responses.iter();
    responses.map(|op| revision_of(op.response.as_ref().unwrap())).collect()
}

fn keys(response: &RangeResponse) -> Vec<String> {
    response.kvs.iter().map(|kv| String::from_utf8(kv.key.to_vec()).unwrap()).collect()
}

#[test]
fn an_empty_store_is_at_revision_one_and_was_never_compacted() {
    let mut bed = Bed::new();
    assert_eq!(bed.mvcc.current_revision(), 1);
    assert_eq!(bed.mvcc.compact_revision(), -1);
    assert_eq!(bed.put("a", "1"), 2);
}

#[test]
fn only_what_changes_something_makes_a_revision() {
    let mut bed = Bed::new();
    bed.put("a", "1");
    assert_eq!(bed.put("a", "1"), 3, "the same value is a change");
    assert_eq!(bed.delete("missing", ""), 3);
    assert_eq!(bed.delete("b", "a"), 3, "an interval that ends before it begins");
    let read_only = then(vec![op_range(range("a", "")), op_delete(delete("missing", ""))]);
    assert_eq!(bed.txn(&read_only).unwrap().header.unwrap().revision, 3);
    assert_eq!(bed.mvcc.current_revision(), 3);
    assert_eq!(bed.mvcc.delete_lease_keys(&mut bed.store, 7).unwrap(), 0);
    assert_eq!(bed.mvcc.current_revision(), 3);
}

#[test]
fn changes_of_one_transaction_share_the_revision_and_are_counted() {
    let mut bed = Bed::new();
    bed.put("old", "");
    let ops = vec![
        op_put(put("a", "1")),
        op_range(range("a", "")),
        op_delete(delete("old", "")),
        op_put(put("b", "2")),
    ];
    bed.txn(&then(ops)).unwrap();
    let made: Vec<_> =
        bed.history().into_iter().skip(1).map(|(r, delete, _)| (r, delete)).collect();
    let expected = [(0, false), (1, true), (2, false)];
    assert_eq!(made, expected.map(|(sub, delete)| (Revision::new(3, sub), delete)));
    for key in ["a", "b"] {
        let kv = bed.get(key).unwrap();
        assert_eq!((kv.create_revision, kv.mod_revision, kv.version), (3, 3, 1));
    }
}

#[test]
fn headers_inside_a_transaction_say_what_had_happened_by_then() {
    let mut bed = Bed::new();
    bed.put("a", "1");
    let nested = then(vec![op_range(range("a", ""))]);
    let ops = vec![
        op_range(range("a", "")),
        op_delete(delete("missing", "")),
        op_put(put("a", "2")),
        op_delete(delete("missing", "")),
        op_range(range("a", "")),
        op_txn(nested),
    ];
    let response = bed.txn(&then(ops)).unwrap();
    assert_eq!(response.header.as_ref().unwrap().revision, 3);
    assert_eq!(revisions(&response), [2, 2, 3, 3, 3, 0]);
    let Some(Response::ResponseTxn(nested)) = &response.responses[5].response else { panic!() };
    assert_eq!(revisions(nested), [3]);
    let Some(Response::ResponseRange(seen)) = &response.responses[4].response else { panic!() };
    assert_eq!(seen.kvs[0].value, "2", "a range sees the puts before it");
}

#[test]
fn a_key_that_was_deleted_begins_a_new_life() {
    let mut bed = Bed::new();
    bed.put("a", "1");
    bed.put("a", "2");
    assert_eq!(bed.get("a").unwrap().version, 2);
    assert_eq!(bed.get("a").unwrap().create_revision, 2);
    bed.delete("a", "");
    bed.put("a", "3");
    let kv = bed.get("a").unwrap();
    assert_eq!((kv.create_revision, kv.mod_revision, kv.version), (5, 5, 1));
}

#[test]
fn conditions_are_decided_on_the_state_before_also_in_nested_transactions() {
    let mut bed = Bed::new();
    let exists = || vec![compare("a", GREATER, TargetUnion::Version(0))];
    let nested = branching(exists(), vec![op_put(put("b", "yes"))], vec![op_put(put("b", "no"))]);
    bed.txn(&then(vec![op_put(put("a", "1")), op_txn(nested)])).unwrap();
    assert_eq!(bed.get("b").unwrap().value, "no");
}

#[test]
fn a_condition_on_an_interval_holds_for_every_key_or_not_at_all() {
    let mut bed = Bed::new();
    bed.put("a1", "x");
    bed.put("a2", "x");
    bed.put("a3", "y");
    let on = |key: &str, end: &str, result, union| Compare {
        range_end: end.to_owned().into(),
        ..compare(key, result, union)
    };
    let value = |text: &'static str| TargetUnion::Value(text.into());
    let cases = [
        (on("a1", "a3", EQUAL, value("x")), true),
        (on("a1", "a4", EQUAL, value("x")), false),
        (on("a1", "\0", GREATER, TargetUnion::Version(0)), true),
        (on("b", "c", EQUAL, TargetUnion::Version(0)), true),
        (on("b", "c", EQUAL, TargetUnion::ModRevision(0)), true),
        (on("b", "c", GREATER, TargetUnion::CreateRevision(0)), false),
        (on("b", "c", EQUAL, value("")), false),
        (on("b", "c", NOT_EQUAL, value("x")), false),
        (Compare { target_union: None, ..compare("b", EQUAL, TargetUnion::Lease(0)) }, true),
        (Compare { target_union: None, ..compare("a1", EQUAL, TargetUnion::Lease(9)) }, true),
        (Compare { target_union: None, ..compare("a1", EQUAL, value("x")) }, false),
    ];
    for (compare, expected) in cases {
        let response = bed.txn(&branching(vec![compare.clone()], vec![], vec![])).unwrap();
        assert_eq!(response.succeeded, expected, "{compare:?}");
    }
}

#[test]
fn a_transaction_that_cannot_run_to_its_end_does_not_begin() {
    let mut bed = Bed::new();
    bed.put("a", "1");
    bed.put("a", "2");
    bed.put("a", "3");
    bed.compact_wholly(3);
    let at = |revision| op_range(RangeRequest { revision, ..range("a", "") });
    let keep_value = PutRequest { ignore_value: true, ..put("missing", "") };
    let keep_lease = PutRequest { ignore_lease: true, ..put("missing", "v") };
    let nested = |op| op_txn(then(vec![op]));
    let cases = [
        (at(5), "OutOfRange etcdserver: mvcc: required revision is a future revision"),
        (at(2), "OutOfRange etcdserver: mvcc: required revision has been compacted"),
        (at(-1), "OutOfRange etcdserver: mvcc: required revision has been compacted"),
        (op_put(put_with_lease("a", "4", 100)), "NotFound etcdserver: requested lease not found"),
        (op_put(keep_value.clone()), "InvalidArgument etcdserver: key not found"),
        (op_put(keep_lease), "InvalidArgument etcdserver: key not found"),
        (nested(op_put(keep_value.clone())), "InvalidArgument etcdserver: key not found"),
    ];
    for (op, expected) in cases {
        let error = bed.txn(&then(vec![op_put(put("other", "1")), op])).unwrap_err();
        assert_eq!(format!("{} {error}", error.code().1), expected);
        assert_eq!(bed.mvcc.current_revision(), 4);
        assert_eq!(bed.get("other"), None);
    }
    // What will not run is not checked.
    let skipped = branching(vec![], vec![], vec![op_put(keep_value)]);
    assert!(bed.txn(&skipped).unwrap().succeeded);
}

#[test]
fn a_negative_revision_in_a_transaction_is_compacted_only_after_a_compaction() {
    let mut bed = Bed::new();
    bed.put("a", "1");
    let at = |revision| then(vec![op_range(RangeRequest { revision, ..range("a", "") })]);
    assert_eq!(bed.txn(&at(-1)).unwrap().responses.len(), 1);
    assert!(matches!(bed.txn(&at(-2)), Err(MvccError::Compacted)));
    bed.compact(0).unwrap();
    assert!(matches!(bed.txn(&at(-1)), Err(MvccError::Compacted)));
    let alone = RangeRequest { revision: -5, ..range("a", "") };
    assert_eq!(bed.range(&alone).unwrap().count, 1, "by itself it means the current revision");
}

#[test]
fn a_deletion_from_a_key_on_may_meet_a_put_in_the_same_transaction() {
    let mut bed = Bed::new();
    bed.put("a", "1");
    let ops = vec![op_delete(delete("a", "\0")), op_put(put("a", "2"))];
    bed.txn(&then(ops)).unwrap();
    let kv = bed.get("a").unwrap();
    assert_eq!((kv.create_revision, kv.version, &kv.value[..]), (3, 1, &b"2"[..]));

    // The key outlives a compaction at this revision, which has a deletion and a put of it.
    bed.compact_wholly(3);
    assert_eq!(bed.get("a").unwrap().value, "2");
    assert_eq!(bed.history().len(), 1);
    assert_eq!(bed.hash_kv(3, 100).unwrap().compact_revision, 3);

    let keep_value = PutRequest { ignore_value: true, ..put("a", "") };
    bed.txn(&then(vec![op_delete(delete("a", "\0")), op_put(keep_value)])).unwrap();
    assert_eq!(bed.get("a").unwrap().value, "");

    let ops = vec![op_put(put("b", "3")), op_delete(delete("a", "\0"))];
    bed.txn(&then(ops)).unwrap();
    assert_eq!(bed.get("a"), None);
    assert_eq!(bed.get("b"), None);
    assert_eq!(bed.range(&range("\0", "\0")).unwrap().count, 0);
    let before = RangeRequest { revision: 3, ..range("a", "\0") };
    assert_eq!(bed.range(&before).unwrap().kvs[0].value, "2");

    bed.compact_wholly(5);
    assert_eq!(bed.hash_kv(5, 100).unwrap().compact_revision, 5);
    bed.put("c", "");
    bed.compact_wholly(6);
    assert_eq!(bed.history().len(), 1);
}

#[test]
fn what_is_read_only_and_what_is_serializable() {
    let serializable = || op_range(RangeRequest { serializable: true, ..range("a", "") });
    let linearizable = || op_range(range("a", ""));
    let cases = [
        (then(vec![]), true, true),
        (branching(vec![], vec![serializable()], vec![serializable()]), true, true),
        (branching(vec![], vec![serializable()], vec![linearizable()]), true, false),
        (then(vec![op_txn(then(vec![serializable()]))]), false, false),
        (branching(vec![], vec![], vec![op_put(put("a", ""))]), false, false),
    ];
    for (request, read_only, local) in cases {
        assert_eq!(is_read_only(&request), read_only, "{request:?}");
        assert_eq!(is_serializable(&request), local, "{request:?}");
    }
}

#[test]
fn the_end_of_an_interval_can_be_open() {
    let mut bed = Bed::new();
    for key in ["\0", "a", "a\0", "b", "c"] {
        bed.put(key, "");
    }
    let found = |key, end| keys(&bed.range(&range(key, end)).unwrap());
    assert_eq!(found("a", ""), ["a"]);
    assert_eq!(found("a", "b"), ["a", "a\0"]);
    assert_eq!(found("a\0", "\0"), ["a\0", "b", "c"]);
    assert_eq!(found("\0", "\0"), ["\0", "a", "a\0", "b", "c"]);
    assert_eq!(found("b", "a"), [""; 0]);
    assert_eq!(found("b", "b"), [""; 0]);
}

#[test]
fn a_limit_changes_more_but_not_the_count() {
    let mut bed = Bed::new();
    for key in ["a", "b", "c"] {
        bed.put(key, "");
    }
    for (limit, expected, more) in [(0, 3, false), (2, 2, true), (3, 3, false), (-1, 3, false)] {
        for revision in [0, 4] {
            let request = RangeRequest { limit, revision, ..range("a", "\0") };
            let response = bed.range(&request).unwrap();
            assert_eq!((response.kvs.len(), response.more, response.count), (expected, more, 3));
        }
    }
}

#[test]
fn a_limit_counts_after_sorting_unless_only_a_target_is_given() {
    let mut bed = Bed::new();
    for (key, value) in [("a", "3"), ("b", "2"), ("c", "1"), ("d", "0")] {
        bed.put(key, value);
    }
    let sorted = |order| RangeRequest {
        sort_target: BY_VALUE,
        sort_order: order,
        limit: 2,
        ..range("a", "\0")
    };
    assert_eq!(keys(&bed.range(&sorted(ASCENDING)).unwrap()), ["d", "c"]);
    assert_eq!(keys(&bed.range(&sorted(DESCENDING)).unwrap()), ["a", "b"]);
    let response = bed.range(&sorted(0)).unwrap();
    assert_eq!(keys(&response), ["c", "b"], "the least two of the first three keys");
    assert!(response.more);
    assert_eq!(response.count, 4);
}

#[test]
fn keys_that_compare_equal_stay_in_order() {
    let mut bed = Bed::new();
    for key in ["a", "b", "c"] {
        bed.put(key, "");
    }
    bed.put("b", "");
    for (sort_order, expected) in [(ASCENDING, ["a", "c", "b"]), (DESCENDING, ["b", "a", "c"])] {
        let request = RangeRequest { sort_target: BY_VERSION, sort_order, ..range("a", "\0") };
        assert_eq!(keys(&bed.range(&request).unwrap()), expected);
    }
}

#[test]
fn filters_come_before_the_limit_and_do_not_touch_the_count() {
    let mut bed = Bed::new();
    for key in ["a", "b", "c", "d"] {
        bed.put(key, "");
    }
    let filtered = RangeRequest { min_mod_revision: 3, limit: 2, ..range("a", "\0") };
    let response = bed.range(&filtered).unwrap();
    assert_eq!(keys(&response), ["b", "c"]);
    assert_eq!((response.more, response.count), (true, 4));
    let filtered = RangeRequest { max_create_revision: 3, limit: 2, ..range("a", "\0") };
    let response = bed.range(&filtered).unwrap();
    assert_eq!(keys(&response), ["a", "b"]);
    assert_eq!((response.more, response.count), (false, 4));
    let counted = RangeRequest { count_only: true, ..filtered };
    let response = bed.range(&counted).unwrap();
    assert_eq!((response.kvs.len(), response.more, response.count), (0, false, 4));
}

#[test]
fn old_revisions_are_readable_down_to_the_bound_and_the_header_stays_current() {
    let mut bed = Bed::new();
    for value in ["1", "2", "3", "4"] {
        bed.put("a", value);
    }
    bed.compact(3).unwrap();
    let at = |revision| bed.range(&RangeRequest { revision, ..range("a", "") });
    assert!(matches!(at(2), Err(MvccError::Compacted)));
    assert!(matches!(at(6), Err(MvccError::FutureRevision)));
    for (revision, value) in [(3, "2"), (4, "3"), (5, "4"), (0, "4"), (-1, "4")] {
        let response = at(revision).unwrap();
        assert_eq!(response.kvs[0].value, value);
        assert_eq!(response.header.unwrap().revision, 5);
    }
}

#[test]
fn the_past_is_the_same_however_much_was_changed_since() {
    let mut bed = Bed::new();
    for key in ["a", "b", "c", "gone"] {
        bed.put(key, "first");
    }
    bed.delete("gone", "");
    bed.put("d", "first");
    let past = bed.mvcc.current_revision();
    let at_past = RangeRequest { revision: past, ..range("a", "\0") };
    let expected = bed.range(&at_past).unwrap().kvs;
    assert_eq!(keys(&bed.range(&at_past).unwrap()), ["a", "b", "c", "d"]);
    bed.delete("c", "");
    for i in 0..3_000 {
        let key = ["a", "b", "new", "gone"][i % 4];
        if i % 100 == 2 {
            bed.delete(key, "");
        } else {
            bed.put(key, "later");
        }
        // Far changes, near ones, and more of them than are undone one by one.
        if [10, 500, 1_100, 2_999].contains(&i) {
            let response = bed.range(&at_past).unwrap();
            assert_eq!(response.kvs, expected);
            assert_eq!(response.count, 4);
            let limited = RangeRequest { limit: 2, ..at_past.clone() };
            assert_eq!(bed.range(&limited).unwrap().count, 4);
            assert_eq!(bed.range(&range("a", "b\0")).unwrap().count, 2);
        }
    }
}

#[test]
fn without_values_the_lease_is_missing_too_unless_sorted_by_value() {
    let mut bed = Bed::new();
    bed.put_request(&put_with_lease("a", "v", 7)).unwrap();
    for (key, range_end) in [("a", ""), ("a", "\0")] {
        let keys_only = RangeRequest { keys_only: true, ..range(key, range_end) };
        let kv = bed.range(&keys_only).unwrap().kvs.remove(0);
        assert_eq!((&kv.value[..], kv.lease, kv.version), (&b""[..], 0, 1));
        let by_mod = RangeRequest { sort_target: BY_MOD, ..keys_only.clone() };
        assert_eq!(bed.range(&by_mod).unwrap().kvs[0].lease, 0);
        let by_value = RangeRequest { sort_target: BY_VALUE, ..keys_only };
        let kv = bed.range(&by_value).unwrap().kvs.remove(0);
        assert_eq!((&kv.value[..], kv.lease), (&b""[..], 7));
    }
}

#[test]
fn a_lease_belongs_to_the_newest_version_only() {
    let mut bed = Bed::new();
    bed.put_request(&put_with_lease("a", "v", 7)).unwrap();
    bed.put_request(&put_with_lease("b", "v", 7)).unwrap();
    bed.put_request(&put_with_lease("b", "v", 8)).unwrap();
    bed.put_request(&put_with_lease("c", "v", -1)).unwrap();
    assert_eq!(
        (bed.keys_of_lease(7), bed.keys_of_lease(8)),
        (vec![b"a".into()], vec![b"b".into()])
    );
    assert_eq!(bed.keys_of_lease(-1), [b"c"]);
    bed.put_request(&PutRequest { ignore_lease: true, ..put("a", "w") }).unwrap();
    assert_eq!(bed.keys_of_lease(7), [b"a"]);
    bed.put("a", "x");
    bed.delete("b", "");
    assert_eq!(bed.keys_of_lease(7).len() + bed.keys_of_lease(8).len(), 0);
}

#[test]
fn the_keys_of_a_lease_go_in_one_revision_and_in_order() {
    let mut bed = Bed::new();
    for key in ["b", "a\0", "a", "c"] {
        bed.put_request(&put_with_lease(key, "v", 7)).unwrap();
    }
    bed.put("c", "kept");
    assert_eq!(bed.mvcc.delete_lease_keys(&mut bed.store, 7).unwrap(), 3);
    let deleted: Vec<_> = bed.history().into_iter().skip(5).collect();
    let expected = ["a", "a\0", "b"];
    for (sub, (revision, delete, kv)) in deleted.iter().enumerate() {
        assert_eq!((*revision, *delete), (Revision::new(7, sub as u32), true));
        assert_eq!(kv.key, expected[sub]);
    }
    assert_eq!(bed.mvcc.current_revision(), 7);
    assert_eq!(bed.keys_of_lease(7).len(), 0);
}

#[test]
fn a_stream_begins_with_ten_keys_and_doubles() {
    let mut bed = Bed::new();
    for i in 0..100 {
        bed.put(&format!("k{i:03}"), "value");
    }
    let all = range("k", "l");
    let mut stream = RangeStream::new(all.clone(), 1 << 20);
    let mut chunks = Vec::new();
    let mut bytes = Vec::new();
    let last = loop {
        let from = bytes.len();
        let chunk = stream.next_chunk(&bed.reader(), &mut bytes).unwrap();
        chunks.push(RangeResponse::decode(&bytes[from..]).unwrap().kvs.len());
        if chunk != Chunk::More {
            break chunk;
        }
    };
    assert_eq!(chunks, [10, 20, 40, 30]);
    assert_eq!(last, Chunk::Last { revision: 101, more: false, count: 100 });
    let whole = range_bytes(&bed.reader(), &all).unwrap();
    assert!(whole.windows(bytes.len()).any(|window| window == bytes));
}

#[test]
fn a_stream_of_large_values_halves_its_chunks_but_never_to_nothing() {
    let mut bed = Bed::new();
    for i in 0..20 {
        bed.put(&format!("k{i:03}"), &"x".repeat(1000));
    }
    let mut stream = RangeStream::new(range("k", "l"), 400);
    let mut chunks = Vec::new();
    loop {
        let mut bytes = Vec::new();
        let chunk = stream.next_chunk(&bed.reader(), &mut bytes).unwrap();
        chunks.push(RangeResponse::decode(&bytes[..]).unwrap().kvs.len());
        if chunk != Chunk::More {
            break;
        }
    }
    assert_eq!(chunks, [10, 5, 2, 1, 1, 1]);
}

#[test]
fn a_stream_counts_what_its_limit_cut_off() {
    let mut bed = Bed::new();
    for i in 0..50 {
        bed.put(&format!("k{i:03}"), "");
    }
    for (limit, messages) in [(5, 1), (10, 1), (12, 2)] {
        let request = RangeRequest { limit, ..range("k", "l") };
        let mut stream = RangeStream::new(request, 1 << 20);
        let mut bytes = Vec::new();
        let mut count = 1;
        let last = loop {
            match stream.next_chunk(&bed.reader(), &mut bytes).unwrap() {
                Chunk::More => count += 1,
                last => break last,
            }
        };
        assert_eq!(last, Chunk::Last { revision: 51, more: true, count: 50 });
        assert_eq!(count, messages);
        assert_eq!(RangeResponse::decode(&bytes[..]).unwrap().kvs.len() as i64, limit);
    }
    let counting = RangeRequest { count_only: true, limit: 3, ..range("k", "l") };
    let mut bytes = Vec::new();
    let only = RangeStream::new(counting, 100).next_chunk(&bed.reader(), &mut bytes).unwrap();
    assert_eq!(only, Chunk::Last { revision: 51, more: false, count: 50 });
    assert!(bytes.is_empty());
}

#[test]
fn a_stream_stays_at_its_revision_and_ends_when_that_is_compacted() {
    let mut bed = Bed::new();
    for i in 0..40 {
        bed.put(&format!("k{i:03}"), "old");
    }
    let mut stream = RangeStream::new(range("k", "l"), 1 << 20);
    let mut doomed = stream.clone();
    let mut bytes = Vec::new();
    assert_eq!(stream.next_chunk(&bed.reader(), &mut bytes).unwrap(), Chunk::More);
    doomed.next_chunk(&bed.reader(), &mut Vec::new()).unwrap();
    bed.put("k000", "new");
    bed.put("k039", "new");
    bed.put("k039a", "new");
    bed.delete("k020", "");
    stream.next_chunk(&bed.reader(), &mut bytes).unwrap();
    let last = stream.next_chunk(&bed.reader(), &mut bytes).unwrap();
    assert_eq!(last, Chunk::Last { revision: 41, more: false, count: 40 });
    let kvs = RangeResponse::decode(&bytes[..]).unwrap().kvs;
    assert!(kvs.len() == 40 && kvs.iter().all(|kv| kv.value == "old"));
    bed.compact(42).unwrap();
    let error = doomed.next_chunk(&bed.reader(), &mut Vec::new()).unwrap_err();
    assert!(matches!(error, MvccError::Compacted));
}

#[test]
fn the_bound_of_compaction_only_rises_and_never_passes_the_present() {
    let mut bed = Bed::new();
    assert!(matches!(bed.compact(-1), Err(MvccError::Compacted)));
    assert!(bed.compact(0).is_ok(), "a fresh store can be compacted to 0, once");
    assert!(matches!(bed.compact(0), Err(MvccError::Compacted)));
    assert!(matches!(bed.compact(2), Err(MvccError::FutureRevision)));
    bed.put("a", "1");
    assert!(bed.compact(2).is_ok(), "the current revision is allowed");
    assert!(matches!(bed.compact(1), Err(MvccError::Compacted)));
    bed.reopen();
    assert_eq!(bed.mvcc.compact_revision(), 2);
}

#[test]
fn a_deletion_at_the_bound_stays_until_the_next_one_and_is_not_hashed() {
    let mut bed = Bed::new();
    bed.put("a", "1");
    bed.put("b", "1");
    bed.delete("a", "");
    let before = bed.hash_kv(4, 10).unwrap();
    bed.compact_wholly(4);
    let left: Vec<_> = bed.history().into_iter().map(|(r, delete, _)| (r.main, delete)).collect();
    assert_eq!(left, [(3, false), (4, true)]);
    let after = bed.hash_kv(4, 10).unwrap();
    assert_ne!(before.hash, after.hash);
    let mut only_b = b"key\0\0\0\0\0\0\0\x03_\0\0\0\0\0\0\0\0".to_vec();
    only_b.extend(bed.get("b").unwrap().encode_to_vec());
    assert_eq!(after.hash, crc32c::crc32c(&only_b));
    bed.put("c", "1");
    bed.compact_wholly(5);
    let left: Vec<_> = bed.history().into_iter().map(|(r, delete, _)| (r.main, delete)).collect();
    assert_eq!(left, [(3, false), (5, false)]);
}

#[test]
fn the_revision_does_not_go_back_when_everything_is_deleted_and_compacted() {
    let mut bed = Bed::new();
    bed.put("a", "1");
    bed.delete("a", "");
    bed.compact_wholly(3);
    bed.reopen();
    assert_eq!(bed.mvcc.current_revision(), 3);
    assert_eq!(bed.put("a", "1"), 4);
    assert_eq!(bed.get("a").unwrap().version, 1);
}

#[test]
fn the_revision_is_not_below_the_bound_even_if_no_change_is_left() {
    let mut bed = Bed::new();
    bed.store.put(META, meta::COMPACT_SCHEDULED, &10i64.to_be_bytes(), false).unwrap();
    bed.reopen();
    assert_eq!(bed.mvcc.current_revision(), 10);
    assert_eq!(bed.mvcc.compact_step(&mut bed.store, 1).unwrap(), Progress::Done);
    assert_eq!(bed.put("a", ""), 11);
}

#[test]
fn reads_and_hashes_do_not_show_how_far_the_removal_has_come() {
    let mut bed = Bed::new();
    for round in 0..4 {
        for key in ["a", "b", "c", "d"] {
            bed.put(key, &round.to_string());
        }
        bed.delete("b", "");
    }
    bed.compact(17).unwrap();
    let all = RangeRequest { revision: 17, ..range("\0", "\0") };
    let expected = bed.range(&all).unwrap();
    let hashes: Vec<_> = [17, 19, 0].map(|revision| bed.hash_kv(revision, 3).unwrap()).into();
    loop {
        let progress = bed.mvcc.compact_step(&mut bed.store, 1).unwrap();
        // A crash here comes back with the state of some step.
        bed.reopen();
        assert_eq!(bed.range(&all).unwrap(), expected);
        let now: Vec<_> = [17, 19, 0].map(|revision| bed.hash_kv(revision, 2).unwrap()).into();
        assert_eq!(now, hashes);
        if progress == Progress::Done {
            break;
        }
    }
    let kept: Vec<_> = bed.history().iter().map(|(revision, ..)| revision.main).collect();
    assert_eq!(kept, [14, 15, 17, 18, 19, 20, 21]);
}

#[test]
fn a_new_bound_during_the_removal_takes_over_what_the_old_one_left() {
    let mut bed = Bed::new();
    bed.put("a", "1");
    bed.put("b", "1");
    bed.delete("\0", "\0");
    bed.put("c", "1");
    bed.put("c", "2");
    bed.compact(4).unwrap();
    // Looks at both puts and at the first of the two deletions at the bound.
    assert_eq!(bed.mvcc.compact_step(&mut bed.store, 3).unwrap(), Progress::More);
    bed.compact_wholly(6);
    let left: Vec<_> = bed.history().into_iter().map(|(revision, ..)| revision.main).collect();
    assert_eq!(left, [6]);
}

/// The figures are what etcd 3.7.1 answered to the same requests. (Asked after a restart, as it
/// answers from memory at a revision that it was compacted to.)
#[test]
fn hashes_are_those_of_a_real_etcd() {
    let mut bed = Bed::new();
    let check = |bed: &Bed, compact_revision, hashes: &[(i64, u32)]| {
        for &(revision, hash) in hashes {
            for budget in [1, 3, 100] {
                let value = bed.hash_kv(revision, budget).unwrap();
                assert_eq!(value.hash, hash, "at {revision}");
                assert_eq!(value.compact_revision, compact_revision);
                assert_eq!(value.hash_revision, if revision == 0 { 1 } else { revision });
            }
        }
    };
    check(&bed, -1, &[(0, 0x40a4756d)]);
    bed.put("a", "1");
    bed.put_request(&put_with_lease("b", "2", 7)).unwrap();
    bed.put("a", "3");
    bed.delete("a", "");
    bed.put("c", "4");
    bed.delete("\0", "\0");
    bed.put("a", "5");
    let hashes = [
        (2, 0x9a396dd7),
        (4, 0xa212cb7d),
        (5, 0xea730960),
        (6, 0xf056908f),
        (7, 0x2523bade),
        (8, 0xd3748e1e),
    ];
    check(&bed, -1, &hashes);
    bed.compact_wholly(5);
    check(&bed, 5, &[(5, 0x7bee3824), (6, 0x705aaa5d), (7, 0x7a7089fd), (8, 0x5c0962b2)]);
    bed.compact_wholly(7);
    check(&bed, 7, &[(7, 0x40a4756d), (8, 0x6536f9aa)]);
}

#[test]
fn a_hash_in_progress_survives_writes_and_compactions() {
    let mut bed = Bed::new();
    for i in 0..20 {
        bed.put(&format!("k{}", i % 5), &i.to_string());
    }
    let expected = bed.hash_kv(15, 100).unwrap();
    let mut hash = HashKv::begin(&bed.reader(), 15).unwrap();
    let mut doomed = hash.clone();
    assert_eq!(hash.step(&bed.reader(), 8).unwrap(), None);
    bed.put("k0", "later");
    assert_eq!(hash.step(&bed.reader(), 100).unwrap(), Some(expected));

    let mut hash = HashKv::begin(&bed.reader(), 15).unwrap();
    assert_eq!(hash.step(&bed.reader(), 8).unwrap(), None);
    bed.compact_wholly(15);
    let value = hash.step(&bed.reader(), 100).unwrap().unwrap();
    assert_eq!(value, bed.hash_kv(15, 100).unwrap());
    assert_eq!((value.compact_revision, value.hash_revision), (15, 15));
    bed.compact(16).unwrap();
    assert!(matches!(doomed.step(&bed.reader(), 8), Err(MvccError::Compacted)));
    assert!(matches!(bed.hash_kv(99, 8), Err(MvccError::FutureRevision)));
}

#[test]
fn an_event_shows_the_value_before_only_if_that_revision_can_be_read() {
    let mut bed = Bed::new();
    bed.put("a", "1");
    bed.put("a", "2");
    bed.delete("a", "");
    bed.put("a", "3");
    let prev_values = |bed: &Bed| {
        let reader = bed.reader();
        let mut changes = reader.changes(Revision::new(3, 0));
        let mut values = Vec::new();
        while let Some(change) = changes.next().unwrap() {
            let prev = reader.prev_kv(&change).unwrap();
            values.push(prev.map(|kv| crate::proto::mvccpb::KeyValue::decode(kv).unwrap().value));
        }
        values
    };
    assert_eq!(prev_values(&bed), [Some("1".into()), Some("2".into()), None]);
    bed.compact(3).unwrap();
    assert_eq!(prev_values(&bed), [None, Some("2".into()), None]);
}

#[test]
fn a_key_may_be_as_long_as_a_request() {
    let mut bed = Bed::new();
    let (long, longer, zeros) = ("x".repeat(4000), "x".repeat(500_000), "\0".repeat(100_000));
    for (nth, key) in [&long, &longer, &zeros].into_iter().enumerate() {
        assert_eq!(bed.put(key, "1"), 2 + 2 * nth as i64);
        assert_eq!(bed.put(key, "2"), 3 + 2 * nth as i64);
        assert_eq!(bed.get(key).unwrap().value, "2");
    }
    let longest = "x".repeat(500_001);
    assert_eq!(bed.get(&longest), None);
    assert_eq!(bed.range(&range("a", &longest)).unwrap().count, 2);
    assert_eq!(bed.range(&range(&longer, "\0")).unwrap().count, 1);
    assert_eq!(bed.range(&range(&longest, "\0")).unwrap().count, 0);
    let before = RangeRequest { revision: 4, ..range("a", &longest) };
    let kvs = bed.range(&before).unwrap().kvs;
    assert_eq!(kvs.iter().map(|kv| kv.key.len()).collect::<Vec<_>>(), [4000, 500_000]);
    assert!(kvs[0].value == "2" && kvs[1].value == "1");
    assert_eq!(bed.delete(&longest, "\0"), 7);
    assert_eq!(bed.delete("a", &longest), 8);
    assert_eq!(bed.get(&longer), None);
    bed.compact_wholly(8);
    assert_eq!(bed.history().len(), 3);
}
