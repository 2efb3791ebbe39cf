//! Watches, bare: what the protocol says about order, progress, fragments, compaction, and what a client that does not
//! read may cost the others. Expectations are checked against a real etcd, too.

use bytes::Bytes;
use prost::Message;
use ringd::proto::etcdserverpb as pb;
use ringd::proto::etcdserverpb::watch_request::RequestUnion;

use crate::block_on;
use crate::client::{Client, Stream};
use crate::server::{Kind, Server, kinds};

const PUT: &str = "/etcdserverpb.KV/Put";
const DELETE: &str = "/etcdserverpb.KV/DeleteRange";
const COMPACT: &str = "/etcdserverpb.KV/Compact";

async fn open(client: &Client) -> Stream {
    client.open("/etcdserverpb.Watch/Watch").await
}

fn send(stream: &mut Stream, union: RequestUnion) {
    stream.send(&pb::WatchRequest { request_union: Some(union) });
}

fn create(key: &str, start_revision: i64) -> pb::WatchCreateRequest {
    pb::WatchCreateRequest { key: key.to_owned().into(), start_revision, ..Default::default() }
}

async fn created(stream: &mut Stream, request: pb::WatchCreateRequest) -> i64 {
    send(stream, RequestUnion::CreateRequest(request));
    let answer: pb::WatchResponse = stream.message().await;
    assert!(answer.created && !answer.canceled, "{answer:?}");
    answer.watch_id
}

async fn put(client: &Client, key: &str, value: impl Into<Bytes>) -> i64 {
    let (key, value) = (key.to_owned().into(), value.into());
    let put = pb::PutRequest { key, value, ..Default::default() };
    let put: pb::PutResponse = client.call(PUT, &put).await.message();
    put.header.expect("a header").revision
}

async fn delete(client: &Client, key: &str) -> i64 {
    let delete = pb::DeleteRangeRequest { key: key.to_owned().into(), ..Default::default() };
    let delete: pb::DeleteRangeResponse = client.call(DELETE, &delete).await.message();
    delete.header.expect("a header").revision
}

fn revision(response: &pb::WatchResponse) -> i64 {
    response.header.as_ref().expect("a header").revision
}

#[test]
fn ids_are_given_out_and_refused_as_etcd_does() {
    for kind in kinds() {
        let server = Server::start(kind, &[]);
        block_on(async {
            let client = Client::connect(server.client).await;
            let mut stream = open(&client).await;
            let with_id = |watch_id| pb::WatchCreateRequest { watch_id, ..create("a", 0) };
            assert_eq!(created(&mut stream, with_id(1)).await, 1, "{kind}");
            let mut given = Vec::new();
            for _ in 0..3 {
                given.push(created(&mut stream, with_id(0)).await);
            }
            assert_eq!(given, [0, 2, 3], "{kind}: 1 is in use");
            let refused = [
                (with_id(2), "mvcc: duplicate watch ID provided on the WatchStream"),
                (
                    pb::WatchCreateRequest { range_end: "Z".into(), ..create("a", 0) },
                    "mvcc: watcher range is empty",
                ),
                (create("a", -1), "etcdserver: mvcc: required revision has been compacted"),
            ];
            for (request, reason) in refused {
                send(&mut stream, RequestUnion::CreateRequest(request));
                let answer: pb::WatchResponse = stream.message().await;
                assert!(answer.created && answer.canceled, "{kind}: {answer:?}");
                assert_eq!(
                    (answer.watch_id, answer.cancel_reason.as_str()),
                    (-1, reason),
                    "{kind}"
                );
            }
            // An unknown id is not answered; so the next answer is about the known one.
            send(&mut stream, RequestUnion::CancelRequest(pb::WatchCancelRequest { watch_id: 77 }));
            send(&mut stream, RequestUnion::CancelRequest(pb::WatchCancelRequest { watch_id: 2 }));
            let answer: pb::WatchResponse = stream.message().await;
            assert!(answer.canceled && answer.watch_id == 2, "{kind}: {answer:?}");
            put(&client, "a", "x").await;
            let mut ids = Vec::new();
            for _ in 0..3 {
                let response: pb::WatchResponse = stream.message().await;
                assert_eq!(response.events.len(), 1, "{kind}");
                ids.push(response.watch_id);
            }
            ids.sort_unstable();
            assert_eq!(ids, [0, 1, 3], "{kind}: not the one that was canceled");
        });
    }
}

#[test]
fn progress_is_told_on_request_and_by_itself() {
    for kind in kinds() {
        let server = Server::start(kind, &["--watch-progress-notify-interval=100ms"]);
        block_on(async {
            let client = Client::connect(server.client).await;
            // Without a watcher there is nobody to tell: the next answer is another one's.
            let mut stream = open(&client).await;
            send(&mut stream, RequestUnion::ProgressRequest(pb::WatchProgressRequest {}));
            created(&mut stream, create("a", 0)).await;
            let current = put(&client, "elsewhere", "x").await;
            send(&mut stream, RequestUnion::ProgressRequest(pb::WatchProgressRequest {}));
            let told: pb::WatchResponse = stream.message().await;
            assert_eq!((told.watch_id, revision(&told)), (-1, current), "{kind}: {told:?}");

            let mut quiet = open(&client).await;
            let notify = pb::WatchCreateRequest { progress_notify: true, ..create("b", 0) };
            let id = created(&mut quiet, notify).await;
            let current = put(&client, "elsewhere", "y").await;
            loop {
                let told: pb::WatchResponse = quiet.message().await;
                assert!(told.watch_id == id && told.events.is_empty(), "{kind}: {told:?}");
                if revision(&told) == current {
                    break;
                }
            }
            // A watcher of the future is not told of a past that it did not ask for.
            let mut future = open(&client).await;
            let notify =
                pb::WatchCreateRequest { progress_notify: true, ..create("b", current + 2) };
            created(&mut future, notify).await;
            for _ in 0..2 {
                let told: pb::WatchResponse = quiet.message().await;
                assert_eq!(revision(&told), current, "{kind}");
            }
            let next = put(&client, "b", "before its time").await;
            let event: pb::WatchResponse = quiet.message().await;
            assert_eq!((event.events.len(), revision(&event)), (1, next), "{kind}: {event:?}");
            put(&client, "b", "in time").await;
            let event: pb::WatchResponse = future.message().await;
            assert_eq!((event.events.len(), revision(&event)), (1, next + 1), "{kind}: {event:?}");
        });
    }
}

#[test]
fn a_large_revision_comes_in_fragments_where_that_is_asked_for() {
    const VALUE_BYTES: usize = 200_000;
    const KEYS: usize = 20;
    for kind in kinds() {
        let server = Server::start(kind, &["--max-request-bytes=5000000"]);
        let limit = 5_000_000 + (512 << 10);
        block_on(async {
            let client = Client::connect(server.client).await;
            for round in 0..3_u8 {
                let success = (0..KEYS).map(|key| {
                    let put = pb::PutRequest {
                        key: format!("k/{key:02}").into(),
                        value: vec![b'0' + round; VALUE_BYTES].into(),
                        ..Default::default()
                    };
                    let request = Some(pb::request_op::Request::RequestPut(put));
                    pb::RequestOp { request }
                });
                let txn = pb::TxnRequest { success: success.collect(), ..Default::default() };
                let _: pb::TxnResponse = client.call("/etcdserverpb.KV/Txn", &txn).await.message();
            }
            // 12 MB of events: whole for the one, in parts below gRPC's limit for the other.
            for fragment in [false, true] {
                let mut stream = open(&client).await;
                let watch = pb::WatchCreateRequest {
                    range_end: "l".into(),
                    fragment,
                    prev_kv: true,
                    ..create("k", 2)
                };
                created(&mut stream, watch).await;
                let mut seen = Vec::new();
                let mut parts = 0;
                let mut last_was_fragment = false;
                while seen.len() < 3 * KEYS || last_was_fragment {
                    let bytes = stream.next().await.expect("the stream stays open");
                    let part = pb::WatchResponse::decode(bytes.clone()).expect("a response");
                    assert!(fragment || !part.fragment, "{kind}: nobody asked for fragments");
                    assert!(!fragment || bytes.len() <= limit, "{kind}: {} bytes", bytes.len());
                    last_was_fragment = part.fragment;
                    parts += 1;
                    for event in part.events {
                        let kv = event.kv.expect("a key");
                        let before = event.prev_kv.map(|kv| kv.mod_revision);
                        seen.push((kv.mod_revision, kv.key, before));
                    }
                }
                let expected = (2..5).flat_map(|revision| {
                    let before = (revision > 2).then_some(revision - 1);
                    (0..KEYS).map(move |key| (revision, format!("k/{key:02}").into(), before))
                });
                assert!(seen.iter().cloned().eq(expected), "{kind}");
                assert!(parts > 1 || !fragment, "{kind}");
            }
        });
    }
}

/// All histories of one key that make so many revisions, watched from each revision after each compaction.
#[test]
fn no_compaction_takes_an_event_from_a_watcher_that_may_see_it() {
    for kind in kinds() {
        // Etcd looks into the past every 100 ms only.
        let length = if kind == Kind::Ringd { 6 } else { 3 };
        let server = Server::start(kind, &["--unsafe-no-fsync"]);
        block_on(async {
            let client = Client::connect(server.client).await;
            for history in 0..1_u32 << length {
                compacted_history(kind, &client, length, history).await;
            }
        });
    }
}

/// A set bit deletes the key if it is there. Anything else puts it.
async fn compacted_history(kind: Kind, client: &Client, length: u32, history: u32) {
    let key = format!("history/{length}/{history}");
    // Revision, value after it, value before it.
    let mut changes: Vec<(i64, Option<String>, Option<String>)> = Vec::new();
    for step in 0..length {
        let before = changes.last().and_then(|(_, value, _)| value.clone());
        if history >> step & 1 == 1 && before.is_some() {
            changes.push((delete(client, &key).await, None, before));
        } else {
            let value = format!("value {step}");
            changes.push((put(client, &key, value.clone()).await, Some(value), before));
        }
    }
    let (first, last) = (changes[0].0, changes[changes.len() - 1].0);
    for compacted in first..=last {
        let compact = pb::CompactionRequest { revision: compacted, physical: true };
        let _: pb::CompactionResponse = client.call(COMPACT, &compact).await.message();
        let mut stream = open(client).await;
        for start in compacted - 1..=last {
            let watch =
                pb::WatchCreateRequest { prev_kv: true, watch_id: start, ..create(&key, start) };
            send(&mut stream, RequestUnion::CreateRequest(watch));
        }
        let total: usize = (compacted..=last).map(|start| (last - start + 1) as usize).sum();
        let mut seen: Vec<(i64, i64, Option<String>, Option<String>)> = Vec::new();
        let mut canceled = false;
        while seen.len() < total || !canceled {
            let response: pb::WatchResponse = stream.message().await;
            if response.canceled {
                let about = (response.watch_id, response.compact_revision);
                assert_eq!(about, (compacted - 1, compacted), "{kind}: {response:?}");
                canceled = true;
            }
            for event in response.events {
                let text = |value: Bytes| String::from_utf8(value.to_vec()).expect("text");
                let kv = event.kv.expect("a key");
                let value = (event.r#type == 0).then(|| text(kv.value));
                let before = event.prev_kv.map(|kv| text(kv.value));
                seen.push((response.watch_id, kv.mod_revision, value, before));
            }
        }
        seen.sort();
        let expected = (compacted..=last).flat_map(|start| {
            let changes = changes.iter().filter(move |change| change.0 >= start);
            changes.map(move |(revision, value, before)| {
                // What was there before is not known any more at the revision of the compaction.
                let before = before.clone().filter(|_| *revision > compacted);
                (start, *revision, value.clone(), before)
            })
        });
        let expected: Vec<_> = expected.collect();
        assert_eq!(
            seen, expected,
            "{kind}: history {history:b}, compacted at {compacted} of {first}..{last}"
        );
    }
}

#[test]
fn a_watcher_that_does_not_read_keeps_nobody_waiting() {
    const PUTS: usize = 400;
    const VALUE_BYTES: usize = 100_000;
    for kind in kinds() {
        let server = Server::start(kind, &["--unsafe-no-fsync"]);
        block_on(async {
            let client = Client::connect(server.client).await;
            // Its connection has a window of 64 KiB, which nobody opens again.
            let lazy = crate::frames::lazy_watcher(server.client, b"k");
            let mut keen = open(&client).await;
            created(&mut keen, create("k", 0)).await;
            let mut last = 0;
            for _ in 0..PUTS {
                last = put(&client, "k", vec![b'x'; VALUE_BYTES]).await;
            }
            let mut seen = 1;
            while seen < last {
                let response: pb::WatchResponse = keen.message().await;
                for event in response.events {
                    let revision = event.kv.expect("a key").mod_revision;
                    assert_eq!(revision, seen + 1, "{kind}");
                    seen = revision;
                }
            }
            drop(lazy);
        });
        let resident = crate::proc::resident_bytes(server.pid());
        println!(
            "{kind}: {} MiB resident with 40 MB written past a watcher that does not read",
            resident >> 20
        );
    }
}
