//! Each bound of the request layer is reached, and what lies beyond it is refused or waits, while other
//! connections are served.

use super::fixture::{Bed, Peer, REQUEST_TIMEOUT_MS, frame};
use crate::h2::{ErrorCode, encode_block};
use crate::proto::etcdserverpb::{
    AlarmRequest, AuthenticateRequest, DowngradeRequest, LeaseGrantRequest, LeaseKeepAliveRequest,
    LeaseKeepAliveResponse, LeaseTimeToLiveRequest, MemberListRequest, PutRequest, PutResponse,
    RangeRequest, RangeResponse, RequestOp, SnapshotRequest, TxnRequest, WatchCreateRequest,
    WatchRequest, request_op, watch_request::RequestUnion,
};
use crate::proto::v3electionpb::LeaderRequest;
use crate::rpc::{ConnId, ListenerKind, limits};
use bytes::Bytes;
use prost::Message;

const PUT: &str = "/etcdserverpb.KV/Put";
const RANGE: &str = "/etcdserverpb.KV/Range";
const SNAPSHOT: &str = "/etcdserverpb.Maintenance/Snapshot";
const WATCH: &str = "/etcdserverpb.Watch/Watch";
const KEEP_ALIVE: &str = "/etcdserverpb.Lease/LeaseKeepAlive";
const TOO_MANY: (Option<&str>, &str) = (Some("2"), "etcdserver: too many requests");

fn put(key: &str, value_bytes: usize) -> PutRequest {
    let value = vec![b'v'; value_bytes].into();
    PutRequest { key: key.to_owned().into(), value, ..Default::default() }
}

fn all() -> RangeRequest {
    RangeRequest { key: "\0".into(), range_end: "\0".into(), ..Default::default() }
}

/// Another client is served.
fn assert_serves(bed: &mut Bed) {
    let mut peer = bed.connect();
    let key = RangeRequest { key: "nothing".into(), ..Default::default() };
    let stream = peer.call(bed, RANGE, &key);
    bed.settle();
    peer.take(bed);
    assert_eq!(peer.answers[&stream].message::<RangeResponse>().count, 0);
}

fn read_of(key: &str) -> RequestOp {
    let range = RangeRequest { key: key.to_owned().into(), ..Default::default() };
    RequestOp { request: Some(request_op::Request::RequestRange(range)) }
}

/// A server that holds `count` keys of 1,000 bytes.
fn filled(count: usize) -> Bed {
    let mut bed = Bed::ready();
    let mut peer = bed.connect();
    for n in 0..count {
        peer.call(&mut bed, PUT, &put(&format!("key-{n:06}"), 1_000));
        if n % 1_000 == 999 {
            bed.settle();
            peer.take(&mut bed);
        }
    }
    bed.settle();
    bed
}

#[test]
fn who_gives_up_first_decides_what_a_late_call_is_told() {
    let mut bed = Bed::ready();
    let mut peer = bed.connect();
    let hasty = peer.open(&mut bed, PUT, &[(b"grpc-timeout", b"500m")]);
    peer.message(&mut bed, hasty, &put("a", 1), true);
    let patient = peer.open(&mut bed, PUT, &[(b"grpc-timeout", b"1H")]);
    peer.message(&mut bed, patient, &put("b", 1), true);
    bed.turn();
    bed.now_ms += 600;
    bed.turn();
    peer.take(&mut bed);
    assert_eq!(peer.answers[&hasty].reset, Some(ErrorCode::CANCEL.0));
    assert_eq!(peer.answer(patient), (None, ""));
    bed.now_ms += REQUEST_TIMEOUT_MS;
    bed.turn();
    peer.take(&mut bed);
    assert_eq!(peer.answer(patient), (Some("14"), "etcdserver: request timed out"));
}

#[test]
fn a_call_whose_message_never_comes_ends_at_its_clients_deadline() {
    let mut bed = Bed::ready();
    let mut peer = bed.connect();
    let timed: &[(&[u8], &[u8])] = &[(b"grpc-timeout", b"1S")];
    let silent = peer.open(&mut bed, PUT, timed);
    let halting = peer.open(&mut bed, PUT, timed);
    peer.send(&mut bed, &frame(0, 0, halting, &[0, 0, 0, 0, 9, 1]));
    let patient = peer.open(&mut bed, PUT, &[]);
    let in_time = peer.open(&mut bed, PUT, timed);
    peer.message(&mut bed, in_time, &put("a", 1), true);
    for (wait_ms, expected) in [(900, None), (200, Some(ErrorCode::CANCEL.0))] {
        bed.now_ms += wait_ms;
        bed.settle();
        peer.take(&mut bed);
        let reset = |stream| peer.answers.get(&stream).and_then(|answer| answer.reset);
        assert_eq!([reset(silent), reset(halting)], [expected; 2]);
        assert_eq!([reset(patient), reset(in_time)], [None; 2]);
    }
    // What comes after that changes nothing; and whoever has no deadline may still come.
    peer.message(&mut bed, silent, &put("late", 1), true);
    peer.message(&mut bed, patient, &put("b", 1), true);
    bed.settle();
    peer.take(&mut bed);
    assert_eq!(peer.answer(silent), (None, ""));
    for (stream, revision) in [(in_time, 2), (patient, 3)] {
        let put: PutResponse = peer.answers[&stream].message();
        assert_eq!(put.header.unwrap().revision, revision);
    }
}

#[test]
fn a_stream_ends_at_its_clients_deadline() {
    let mut bed = Bed::ready();
    let mut peer = bed.connect();
    let create = WatchCreateRequest { key: "a".into(), ..Default::default() };
    let request_union = Some(RequestUnion::CreateRequest(create));
    let watch = WatchRequest { request_union };
    let timed = peer.open(&mut bed, WATCH, &[(b"grpc-timeout", b"1S")]);
    peer.message(&mut bed, timed, &watch, false);
    let endless = peer.open(&mut bed, WATCH, &[]);
    peer.message(&mut bed, endless, &watch, false);
    let renewal = LeaseKeepAliveRequest { id: 7 };
    let renewed = peer.open(&mut bed, KEEP_ALIVE, &[(b"grpc-timeout", b"1S")]);
    peer.message(&mut bed, renewed, &renewal, false);
    for (wait_ms, expected) in [(900, None), (200, Some(ErrorCode::CANCEL.0))] {
        bed.now_ms += wait_ms;
        bed.settle();
        peer.take(&mut bed);
        assert_eq!(peer.answers[&timed].reset, expected);
        assert_eq!(peer.answers[&renewed].reset, expected);
        assert_eq!(peer.answers[&endless].reset, None);
    }
    // The watcher of the stream that has ended is gone, the other one is told.
    peer.call(&mut bed, PUT, &put("a", 1));
    bed.settle();
    let told = peer.answers[&endless].data.len();
    peer.take(&mut bed);
    assert!(peer.answers[&endless].data.len() > told);
}

#[test]
fn proposals_beyond_the_bound_are_refused() {
    let mut bed = Bed::ready();
    let mut peer = bed.connect();
    // The answers together are more than the first window of a connection.
    peer.send(&mut bed, &frame(8, 0, 0, &(16u32 << 20).to_be_bytes()));
    bed.turn();
    // The write of this one does not end, so all others wait.
    let calls = limits::PENDING_PROPOSALS_MAX + 10;
    let streams: Vec<u32> = (0..calls).map(|_| peer.call(&mut bed, PUT, &put("a", 1))).collect();
    bed.turn();
    assert!(!bed.server.wants_read(peer.id), "a connection with so many calls is not read");
    peer.take(&mut bed);
    let refused = streams.iter().filter(|stream| peer.answer(**stream) == TOO_MANY).count();
    assert_eq!(refused, 10);
    assert_serves(&mut bed);
    for _ in 0..20 {
        bed.settle();
    }
    peer.take(&mut bed);
    let done = streams.iter().filter(|stream| peer.answer(**stream).0 == Some("0")).count();
    assert_eq!(done, limits::PENDING_PROPOSALS_MAX);
}

#[test]
fn reads_beyond_the_bound_are_refused() {
    let mut bed = Bed::unready();
    let per_connection = 10_000;
    let mut peers: Vec<Peer> = Vec::new();
    for _ in 0..limits::PENDING_READS_MAX / per_connection {
        let mut peer = bed.connect();
        for _ in 0..per_connection {
            peer.call(&mut bed, RANGE, &all());
        }
        peers.push(peer);
    }
    let mut late = bed.connect();
    let stream = late.call(&mut bed, RANGE, &all());
    late.take(&mut bed);
    assert_eq!(late.answer(stream), TOO_MANY);
    let txn = TxnRequest { success: vec![read_of("a")], ..Default::default() };
    let others = [
        late.call(&mut bed, "/etcdserverpb.KV/Txn", &txn),
        late.call(&mut bed, "/etcdserverpb.KV/RangeStream", &all()),
        late.call(
            &mut bed,
            "/etcdserverpb.Lease/LeaseTimeToLive",
            &LeaseTimeToLiveRequest { id: 1, keys: true },
        ),
        late.call(
            &mut bed,
            "/etcdserverpb.Cluster/MemberList",
            &MemberListRequest { linearizable: true },
        ),
        late.call(&mut bed, "/etcdserverpb.Maintenance/Alarm", &AlarmRequest::default()),
        late.call(
            &mut bed,
            "/etcdserverpb.Maintenance/Downgrade",
            &DowngradeRequest { version: "3.6.0".to_owned(), ..Default::default() },
        ),
        late.call(
            &mut bed,
            "/etcdserverpb.Auth/Authenticate",
            &AuthenticateRequest { name: "root".to_owned(), ..Default::default() },
        ),
        late.call(&mut bed, "/v3electionpb.Election/Leader", &LeaderRequest { name: "e".into() }),
        late.call(&mut bed, "/v3electionpb.Election/Observe", &LeaderRequest { name: "e".into() }),
    ];
    late.take(&mut bed);
    for stream in others {
        assert_eq!(late.answer(stream), TOO_MANY, "{stream}");
    }
    assert_eq!(bed.server.core.recipes, 0);
    let mut serializable = all();
    serializable.serializable = true;
    let stream = late.call(&mut bed, RANGE, &serializable);
    late.take(&mut bed);
    assert_eq!(late.answer(stream).0, Some("0"), "what need not wait is answered");
    for _ in 0..4 {
        bed.settle();
    }
    peers[0].take(&mut bed);
    assert_eq!(peers[0].answer(1).0, Some("0"));
}

#[test]
fn parts_of_messages_beyond_the_bound_end_their_call() {
    let mut bed = Bed::ready();
    let mut peer = bed.connect();
    let part = vec![0; 16_000];
    let mut refused = None;
    // Each stream promises 1 MiB and sends 800 kB of it.
    'streams: for _ in 0..200 {
        let stream = peer.open(&mut bed, PUT, &[]);
        peer.send(&mut bed, &frame(0, 0, stream, &[0, 0, 16, 0, 0]));
        for _ in 0..50 {
            peer.send(&mut bed, &frame(0, 0, stream, &part));
        }
        peer.take(&mut bed);
        if peer.answer(stream) == TOO_MANY {
            refused = Some(stream);
            break 'streams;
        }
    }
    let last = refused.expect("the bound is reached");
    let refused = last as usize / 2;
    let expected = limits::CONNECTION_GATHERED_MAX_BYTES / 800_000;
    assert!(refused.abs_diff(expected) < 60, "{refused} streams, about {expected} expected");
    assert_serves(&mut bed);
    // What those streams held is given back with them.
    for stream in (1..=last).step_by(2) {
        peer.send(&mut bed, &frame(3, 0, stream, &8u32.to_be_bytes()));
    }
    let stream = peer.call(&mut bed, PUT, &put("a", 500_000));
    bed.settle();
    peer.take(&mut bed);
    assert_eq!(peer.answer(stream).0, Some("0"));
}

/// The token of an entry that will never be applied.
const NEVER_MADE: &[(&[u8], &[u8])] = &[(b"token", b"x.18446744073709551615")];
const INVALID_TOKEN: (Option<&str>, &str) = (Some("16"), "etcdserver: invalid auth token");

/// A client with a token is served.
fn assert_serves_with(bed: &mut Bed, token: &str) {
    let mut peer = bed.connect();
    let stream = peer.open(bed, PUT, &[(b"token", token.as_bytes())]);
    peer.message(bed, stream, &put("a", 500_000), true);
    bed.settle();
    peer.take(bed);
    assert_eq!(peer.answer(stream).0, Some("0"));
}

#[test]
fn calls_that_wait_for_their_token_are_given_no_more_window() {
    let mut bed = Bed::ready();
    let token = bed.secure();
    let mut peer = bed.connect();
    let part = vec![0; 16_000];
    let stream = peer.open(&mut bed, PUT, NEVER_MADE);
    peer.send(&mut bed, &frame(0, 0, stream, &[0, 0, 16, 0, 0]));
    peer.take(&mut bed);
    let before = peer.answers[&0].given;
    // As much as its window allows.
    for _ in 0..65 {
        peer.send(&mut bed, &frame(0, 0, stream, &part));
    }
    peer.take(&mut bed);
    assert_eq!(peer.answers.get(&stream).map_or(0, |answer| answer.given), 0);
    assert_eq!(peer.answers[&0].given, before);
    assert_eq!(peer.answer(stream), (None, ""), "it waits");
    assert_serves_with(&mut bed, &token);
    bed.now_ms += REQUEST_TIMEOUT_MS;
    bed.settle();
    // With eight more such calls it is more than half of the connection's window.
    for _ in 0..8 {
        let next = peer.open(&mut bed, PUT, NEVER_MADE);
        for _ in 0..65 {
            peer.send(&mut bed, &frame(0, 0, next, &part));
        }
    }
    bed.now_ms += REQUEST_TIMEOUT_MS;
    bed.settle();
    peer.take(&mut bed);
    assert!(peer.answers[&0].given > before, "what was held is given back");
}

#[test]
fn what_comes_with_calls_that_wait_for_their_token_is_counted() {
    let mut bed = Bed::ready();
    let token = bed.secure();
    let mut peer = bed.connect();
    let message = put("a", 15_000);
    let expected = limits::CONNECTION_GATHERED_MAX_BYTES / message.encoded_len();
    // Each stream is new, so no window stops the client.
    for _ in 0..2 {
        let mut waiting = Vec::new();
        loop {
            let stream = peer.open(&mut bed, PUT, NEVER_MADE);
            peer.message(&mut bed, stream, &message, true);
            peer.take(&mut bed);
            if peer.answer(stream) == TOO_MANY {
                break;
            }
            waiting.push(stream);
            assert!(waiting.len() < 2 * expected, "the bound is not reached");
        }
        assert!(waiting.len().abs_diff(expected) < 5, "{} of {expected}", waiting.len());
        assert_serves_with(&mut bed, &token);
        // Nothing is counted any more when they have been answered.
        bed.now_ms += REQUEST_TIMEOUT_MS;
        bed.settle();
        peer.take(&mut bed);
        let told = waiting.iter().all(|stream| peer.answer(*stream) == INVALID_TOKEN);
        assert!(told, "the calls are over");
    }
}

#[test]
fn a_call_that_goes_away_does_not_wait_for_its_token() {
    let mut bed = Bed::ready();
    bed.secure();
    let (mut peer, mut gone) = (bed.connect(), bed.connect());
    let parked = |bed: &mut Bed, peer: &mut Peer| {
        let stream = peer.open(bed, RANGE, NEVER_MADE);
        peer.message(bed, stream, &all(), true);
        stream
    };
    let reset = parked(&mut bed, &mut peer);
    parked(&mut bed, &mut gone);
    parked(&mut bed, &mut peer);
    assert_eq!(bed.server.core.parked.len(), 3);
    peer.send(&mut bed, &frame(3, 0, reset, &8u32.to_be_bytes()));
    bed.server.disconnect(gone.id);
    assert_eq!(bed.server.core.parked.len(), 1);
}

#[test]
fn keep_alives_whose_leases_have_many_keys_take_turns() {
    let mut bed = Bed::ready();
    let mut peer = bed.connect();
    bed.add_writer("writer", "key-", "key.");
    let root = bed.secure();
    let token = bed.log_in("writer", "writer");
    let fields: &[(&[u8], &[u8])] = &[(b"token", token.as_bytes())];
    const KEYS: usize = 1_000;
    for id in [8, 9] {
        let stream = peer.open(&mut bed, "/etcdserverpb.Lease/LeaseGrant", fields);
        peer.message(&mut bed, stream, &LeaseGrantRequest { id, ttl: 1_000 }, true);
    }
    bed.settle();
    for n in 0..KEYS {
        let stream = peer.open(&mut bed, PUT, fields);
        let attached = PutRequest { lease: 9, ..put(&format!("key-{n:06}"), 1) };
        peer.message(&mut bed, stream, &attached, true);
    }
    bed.settle();
    peer.take(&mut bed);
    let renewal = |id| {
        let message = LeaseKeepAliveRequest { id }.encode_to_vec();
        [&[0, 0, 0, 0, message.len() as u8][..], &message].concat()
    };
    let greedy = peer.open(&mut bed, KEEP_ALIVE, fields);
    let count = 200;
    peer.send(&mut bed, &frame(0, 1, greedy, &renewal(9).repeat(count)));
    let mut other = bed.connect();
    let modest = other.open(&mut bed, KEEP_ALIVE, fields);
    other.send(&mut bed, &frame(0, 1, modest, &renewal(8)));
    // Those that were looked at before the turn began are answered in it, too.
    let per_turn = limits::KEEP_ALIVE_KEYS_PER_TURN as usize / KEYS + 1;
    let mut answered = Vec::new();
    while answered.last() != Some(&count) {
        assert!(answered.len() < count, "{answered:?}");
        bed.turn();
        bed.finish_log_write();
        peer.take(&mut bed);
        other.take(&mut bed);
        let heard = peer.answers[&greedy].messages::<LeaseKeepAliveResponse>();
        assert!(heard.iter().all(|heard| (heard.id, heard.ttl) == (9, 1_000)));
        answered.push(heard.len());
        assert!(answered.len() < 4 || other.answer(modest).0 == Some("0"), "all have their turns");
        let goes_on = bed.server.next_deadline(bed.now_ms) <= bed.now_ms;
        assert!(goes_on || heard.len() == count, "{answered:?}");
    }
    let most = answered.windows(2).map(|pair| pair[1] - pair[0]).max();
    assert!(most <= Some(per_turn) && answered[0] <= 2 * per_turn, "{answered:?}");
    bed.turn();
    peer.take(&mut bed);
    assert_eq!(peer.answer(greedy).0, Some("0"), "the stream ends when all are answered");
    // Of root nothing is asked, so nothing is spent.
    let stream = peer.open(&mut bed, KEEP_ALIVE, &[(b"token", root.as_bytes())]);
    peer.send(&mut bed, &frame(0, 1, stream, &renewal(9).repeat(count)));
    bed.turn();
    bed.finish_log_write();
    bed.turn();
    peer.take(&mut bed);
    let heard = peer.answers[&stream].messages::<LeaseKeepAliveResponse>();
    assert_eq!(heard.len(), count);
    assert_serves_with(&mut bed, &root);
}

#[test]
fn keep_alives_beyond_the_bound_wait_and_none_is_lost() {
    let mut bed = Bed::with_ended_lease(9);
    let mut peer = bed.connect();
    let stream = peer.open(&mut bed, KEEP_ALIVE, &[]);
    let count = 3 * limits::KEEP_ALIVE_QUEUE_MAX;
    let message = LeaseKeepAliveRequest { id: 9 }.encode_to_vec();
    let framed = [&[0, 0, 0, 0, message.len() as u8][..], &message].concat();
    peer.grant(&mut bed, stream, 1 << 20);
    // Cut anywhere, so that the bound is reached within a message.
    for piece in framed.repeat(count).chunks(1_000) {
        peer.send(&mut bed, &frame(0, 0, stream, piece));
    }
    peer.send(&mut bed, &frame(0, 1, stream, &[]));
    bed.turn();
    peer.take(&mut bed);
    assert!(peer.answers.get(&stream).is_none_or(|answer| answer.data.is_empty()));
    for _ in 0..4 {
        bed.settle();
    }
    peer.take(&mut bed);
    assert_eq!(peer.answer(stream).0, Some("0"), "the stream ends when all are answered");
    let answered = peer.answers[&stream].messages::<LeaseKeepAliveResponse>();
    assert!(answered.iter().all(|response| (response.id, response.ttl) == (9, 0)));
    assert_eq!(answered.len(), count);
}

#[test]
fn answers_that_wait_for_windows_are_bounded_for_each_connection() {
    let mut bed = filled(2_000);
    let mut peer = bed.connect();
    // INITIAL_WINDOW_SIZE 0: nothing of an answer goes out.
    peer.send(&mut bed, &frame(4, 0, 0, &[0, 4, 0, 0, 0, 0]));
    let mut page = all();
    page.limit = 900;
    let mut ask = |bed: &mut Bed, peer: &mut Peer, limit, count| -> usize {
        page.limit = limit;
        let mut streams = Vec::new();
        for n in 1..=count {
            streams.push(peer.call(bed, RANGE, &page));
            if n % 50 == 0 {
                bed.settle();
                peer.take(bed);
            }
        }
        streams.iter().filter(|stream| peer.answer(**stream) == TOO_MANY).count()
    };
    // About 17 answers of 900 kB are whole; of the others a frame each waits, and a pinned state.
    assert_eq!(ask(&mut bed, &mut peer, 900, 400), 0);
    assert!(bed.server.node().applier.store.reader_count() > 0);
    let refused = ask(&mut bed, &mut peer, 10, 6_000);
    assert!(refused > 0, "what is beyond the bound is refused");
    assert_serves(&mut bed);
    // A client that opens its windows gets what was made for it.
    peer.grant(&mut bed, 1, 10 << 20);
    bed.settle();
    peer.take(&mut bed);
    assert_eq!(peer.answers[&1].message::<RangeResponse>().kvs.len(), 900);
}

#[test]
fn a_large_range_goes_on_as_it_is_taken_and_is_given_up_when_it_is_not() {
    let mut bed = filled(3_000);
    let mut peer = bed.connect();
    let taken = peer.call(&mut bed, RANGE, &all());
    let stalled = peer.call(&mut bed, RANGE, &all());
    let mut hasty = bed.connect();
    let timed = hasty.open(&mut bed, RANGE, &[(b"grpc-timeout", b"5S")]);
    hasty.message(&mut bed, timed, &all(), true);
    for _ in 0..20 {
        bed.settle();
    }
    assert_eq!(bed.server.node().applier.store.reader_count(), 1, "the state is pinned once");
    // It shows the state that was current when it began.
    let mut writer = bed.connect();
    writer.call(&mut bed, PUT, &put("key-000000", 3));
    bed.settle();
    for _ in 0..70 {
        peer.grant(&mut bed, taken, 100_000);
        bed.settle();
        peer.take(&mut bed);
        bed.now_ms += 500;
    }
    let response: RangeResponse = peer.answers[&taken].message();
    assert_eq!((response.kvs.len(), response.count), (3_000, 3_000));
    assert!(response.kvs.iter().all(|kv| kv.value.len() == 1_000));
    bed.settle();
    let (calm, cancel) = (ErrorCode::ENHANCE_YOUR_CALM, ErrorCode::CANCEL);
    for (peer, stream, code) in [(&mut peer, stalled, calm), (&mut hasty, timed, cancel)] {
        peer.take(&mut bed);
        assert_eq!(peer.answers[&stream].reset, Some(code.0), "{stream}");
    }
    // The store notices at its next commit.
    writer.call(&mut bed, PUT, &put("key-000000", 3));
    bed.settle();
    assert_eq!(bed.server.node().applier.store.reader_count(), 0, "nothing is pinned any more");
    assert_serves(&mut bed);
}

#[test]
fn a_snapshot_goes_on_as_it_is_taken_and_is_given_up_when_it_is_not() {
    let mut bed = filled(3_000);
    let mut peer = bed.connect();
    let taken = peer.call(&mut bed, SNAPSHOT, &SnapshotRequest {});
    let stalled = peer.call(&mut bed, SNAPSHOT, &SnapshotRequest {});
    let mut hasty = bed.connect();
    let timed = hasty.open(&mut bed, SNAPSHOT, &[(b"grpc-timeout", b"5S")]);
    hasty.message(&mut bed, timed, &SnapshotRequest {}, true);
    let mut steady = bed.connect();
    let slow = steady.call(&mut bed, SNAPSHOT, &SnapshotRequest {});
    for _ in 0..20 {
        bed.settle();
    }
    // Each step is half a second: one client takes 200 kB of it, another one 10 kB.
    for _ in 0..90 {
        peer.grant(&mut bed, taken, 100_000);
        peer.grant(&mut bed, taken, 100_000);
        steady.grant(&mut bed, slow, 10_000);
        bed.settle();
        peer.take(&mut bed);
        steady.take(&mut bed);
        bed.now_ms += 500;
    }
    assert_eq!(peer.answer(taken), (Some("0"), ""));
    assert!(peer.answers[&taken].data.len() > 3_000_000);
    bed.settle();
    let (calm, cancel) = (ErrorCode::ENHANCE_YOUR_CALM, ErrorCode::CANCEL);
    let ends = [(&mut peer, stalled, calm), (&mut hasty, timed, cancel), (&mut steady, slow, calm)];
    for (peer, stream, code) in ends {
        peer.take(&mut bed);
        assert_eq!(peer.answers[&stream].reset, Some(code.0), "{stream}");
    }
    let mut writer = bed.connect();
    writer.call(&mut bed, PUT, &put("key-000000", 3));
    bed.settle();
    assert_eq!(bed.server.node().applier.store.reader_count(), 0, "nothing is pinned any more");
    assert_serves(&mut bed);
}

/// The head of a call of the gateway, by HTTP/2.
fn json_head(bed: &mut Bed, peer: &mut Peer, stream: u32, path: &str) {
    let fields: [(&[u8], &[u8]); 4] = [
        (b":method", b"POST"),
        (b":scheme", b"http"),
        (b":path", path.as_bytes()),
        (b":authority", b"test"),
    ];
    peer.send(bed, &frame(1, 4, stream, &encode_block(&fields)));
}

/// A connection that speaks HTTP/1.1, with a request.
fn http1(bed: &mut Bed, request: &str) -> ConnId {
    let id = bed.server.connect(ListenerKind::Client, bed.now_ms).unwrap();
    bed.server.receive(id, Bytes::copy_from_slice(request.as_bytes()), bed.now_ms);
    id
}

fn post(path: &str, body: &str) -> String {
    let length = body.len();
    format!("POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n{body}")
}

fn taken(bed: &mut Bed, id: ConnId) -> String {
    let mut out = Vec::new();
    bed.server.take_output(id, usize::MAX, &mut out);
    String::from_utf8_lossy(&out).into_owned()
}

const FULL: &str = r#"{"code":8,"message":"etcdserver: too many requests"}"#;

#[test]
fn parts_of_json_beyond_the_bound_end_their_call() {
    let mut bed = Bed::ready();
    let mut peer = bed.connect();
    let fits = limits::CONNECTION_GATHERED_MAX_BYTES / 800_000;
    let part = [b'A'; 16_000];
    let send = |bed: &mut Bed, peer: &mut Peer, stream: u32, path: &str, begin: &str| {
        json_head(bed, peer, stream, path);
        peer.send(bed, &frame(0, 0, stream, begin.as_bytes()));
        for _ in 0..50 {
            peer.send(bed, &frame(0, 0, stream, &part));
        }
    };
    let streams: Vec<u32> = (0..fits as u32 + 10).map(|n| 2 * n + 1).collect();
    for stream in &streams {
        send(&mut bed, &mut peer, *stream, "/v3/kv/put", "{\"key\":\"");
    }
    let text = |peer: &Peer, stream: u32| {
        let data = peer.answers.get(&stream).map_or(&[][..], |answer| &answer.data);
        String::from_utf8_lossy(data).into_owned()
    };
    // A stream is told at once.
    let watch = streams.len() as u32 * 2 + 1;
    send(&mut bed, &mut peer, watch, "/v3/watch", "{\"create_request\":{\"key\":\"");
    peer.take(&mut bed);
    assert_eq!(text(&peer, watch), format!("{{\"error\":{FULL}}}\n"));
    assert_serves(&mut bed);
    for stream in &streams {
        peer.send(&mut bed, &frame(0, 1, *stream, &[]));
    }
    bed.settle();
    peer.take(&mut bed);
    let refused = streams.iter().filter(|stream| text(&peer, **stream) == FULL).count();
    assert_eq!(refused, 10);
    // What those calls held is given back with them, and what a call that goes on has no more.
    let last = watch + 2;
    for n in 0..fits as u32 + 10 {
        json_head(&mut bed, &mut peer, last + 2 * n, "/v3/kv/range");
        let body = format!("{{\"key\":\"{}\"}}", "A".repeat(800_000));
        for piece in body.as_bytes().chunks(16_000) {
            peer.send(&mut bed, &frame(0, 0, last + 2 * n, piece));
        }
        peer.send(&mut bed, &frame(0, 1, last + 2 * n, &[]));
    }
    bed.settle();
    peer.take(&mut bed);
    for n in 0..fits as u32 + 10 {
        let answer = text(&peer, last + 2 * n);
        assert!(answer.starts_with("{\"header\":"), "{n}: {answer}");
    }
}

#[test]
fn keep_alives_over_http_1_beyond_the_bound_wait_and_none_is_lost() {
    let mut bed = Bed::with_ended_lease(9);
    let count = 8 * limits::KEEP_ALIVE_QUEUE_MAX;
    let request = post("/v3/lease/keepalive", &"{\"ID\":\"9\"}\n".repeat(count));
    let mut pieces = request.as_bytes().chunks(1_000);
    let id = http1(&mut bed, std::str::from_utf8(pieces.next().unwrap()).unwrap());
    while bed.server.wants_read(id)
        && let Some(piece) = pieces.next()
    {
        bed.server.receive(id, Bytes::copy_from_slice(piece), bed.now_ms);
    }
    assert!(pieces.len() > 0, "a connection whose stream is held is not read");
    assert_serves(&mut bed);
    let mut answers = String::new();
    for _ in 0..400 {
        bed.settle();
        answers += &taken(&mut bed, id);
        while bed.server.wants_read(id)
            && let Some(piece) = pieces.next()
        {
            bed.server.receive(id, Bytes::copy_from_slice(piece), bed.now_ms);
        }
    }
    assert_eq!(answers.matches("\"ID\":\"9\"").count(), count);
    assert!(answers.ends_with("0\r\n\r\n"), "the stream ends when all are answered");
}

#[test]
fn answers_that_the_gateway_gathers_are_bounded_in_all() {
    let mut bed = Bed::ready();
    let mut peer = bed.connect();
    for key in ["a", "b", "c"] {
        peer.call(&mut bed, PUT, &put(key, 1_000_000));
        bed.settle();
    }
    let range = post("/v3/kv/range", r#"{"key":"AA==","range_end":"AA=="}"#);
    // Each gets one value after the other, so when all have two there is too much.
    let count = limits::GATEWAY_ANSWERS_MAX_BYTES / 2_000_000 + 8;
    let ids: Vec<ConnId> = (0..count).map(|_| http1(&mut bed, &range)).collect();
    let mut refused = Vec::new();
    for _ in 0..1_000 {
        bed.settle();
        for id in &ids {
            let answer = taken(&mut bed, *id);
            if answer.starts_with("HTTP/1.1 429 ") {
                assert!(answer.ends_with(FULL), "{answer}");
                refused.push(*id);
            }
        }
        if !refused.is_empty() {
            break;
        }
    }
    assert!(!refused.is_empty() && refused.len() < count / 2, "{} of {count}", refused.len());
    // What those gathered who go away is given back.
    for id in ids {
        bed.server.disconnect(id);
    }
    for _ in 0..2 {
        let ids: Vec<ConnId> = (0..8).map(|_| http1(&mut bed, &range)).collect();
        for _ in 0..40 {
            bed.settle();
        }
        for id in ids {
            let answer = taken(&mut bed, id);
            assert!(answer.starts_with("HTTP/1.1 200 "), "{}", &answer[..answer.len().min(300)]);
        }
    }
    // One alone may be too large.
    for n in 0..limits::GATEWAY_ANSWER_MAX_BYTES / 1_000_000 {
        peer.call(&mut bed, PUT, &put(&format!("key-{n}"), 1_000_000));
        bed.settle();
    }
    let id = http1(&mut bed, &range);
    for _ in 0..40 {
        bed.settle();
    }
    let answer = taken(&mut bed, id);
    assert!(answer.starts_with("HTTP/1.1 429 "), "{}", &answer[..answer.len().min(300)]);
    assert!(answer.ends_with("too large for the gateway: use a limit\"}"), "{answer}");
    // The store notices at its next commit.
    peer.call(&mut bed, PUT, &put("a", 1));
    bed.settle();
    assert_eq!(bed.server.node().applier.store.reader_count(), 0, "nothing is pinned any more");
}
