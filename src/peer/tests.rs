use bytes::{Buf, Bytes};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, RngAlgorithm, RngSeed, TestRunner};

use super::frame::{self, Frames};
use super::lane::State;
use super::limits::*;
use super::*;
use crate::membership::{Cluster, Member};
use crate::node::{Class, PeerMessage, Refusal as Refused, SnapshotMessage};
use crate::raft::{
    Body, Configuration, Entry, EntryKind, LogIndex, LogPosition, Message, NodeId, SnapshotMeta,
    Term,
};

const FROM: NodeId = NodeId(1);
const TO: NodeId = NodeId(2);
const MS: u64 = 1000;

fn runner(cases: u32) -> TestRunner {
    TestRunner::new(Config {
        cases,
        rng_algorithm: RngAlgorithm::ChaCha,
        rng_seed: RngSeed::Fixed(7),
        failure_persistence: None,
        ..Config::default()
    })
}

fn position() -> impl Strategy<Value = LogPosition> {
    (any::<u64>(), any::<u64>())
        .prop_map(|(index, term)| LogPosition { index: LogIndex(index), term: Term(term) })
}

fn kind() -> impl Strategy<Value = EntryKind> {
    prop_oneof![Just(EntryKind::Normal), Just(EntryKind::ConfChange)]
}

fn data() -> impl Strategy<Value = Bytes> {
    vec(any::<u8>(), 0..200).prop_map(Bytes::from)
}

fn snapshot() -> impl Strategy<Value = SnapshotMeta> {
    (position(), 1..8u64).prop_map(|(position, members)| SnapshotMeta {
        position,
        configuration: Configuration::of_voters((1..=members).map(NodeId)),
    })
}

fn append() -> impl Strategy<Value = Body> {
    let prev = (0..u64::MAX / 2, any::<u64>())
        .prop_map(|(index, term)| LogPosition { index: LogIndex(index), term: Term(term) });
    (prev, any::<u64>(), vec((any::<u64>(), kind(), data()), 0..8)).prop_map(
        |(prev, commit, entries)| {
            let entries = entries.into_iter().zip(prev.index.0 + 1..);
            let entries = entries.map(|((term, kind, data), index)| Entry {
                term: Term(term),
                index: LogIndex(index),
                kind,
                data,
            });
            Body::Append { prev, commit: LogIndex(commit), entries: entries.collect() }
        },
    )
}

fn raft() -> impl Strategy<Value = PeerMessage> {
    let two = || (any::<u64>(), any::<u64>());
    let body = prop_oneof![
        (position(), position())
            .prop_map(|(last, committed)| Body::PreVoteRequest { last, committed }),
        (any::<bool>(), position())
            .prop_map(|(granted, committed)| Body::PreVoteResponse { granted, committed }),
        (position(), position(), any::<bool>()).prop_map(|(last, committed, transfer)| {
            Body::VoteRequest { last, committed, transfer }
        }),
        (any::<bool>(), position())
            .prop_map(|(granted, committed)| Body::VoteResponse { granted, committed }),
        append(),
        any::<u64>().prop_map(|index| Body::AppendAccepted { matched: LogIndex(index) }),
        (any::<u64>(), position())
            .prop_map(|(prev, hint)| Body::AppendRejected { prev: LogIndex(prev), hint }),
        two().prop_map(|(commit, round)| Body::Heartbeat { commit: LogIndex(commit), round }),
        any::<u64>().prop_map(|round| Body::HeartbeatResponse { round }),
        snapshot().prop_map(|snapshot| Body::Snapshot { snapshot }),
        Just(Body::TimeoutNow),
        two().prop_map(|(incarnation, context)| Body::ReadIndex { incarnation, context }),
        (two(), any::<u64>()).prop_map(|((incarnation, context), index)| {
            Body::ReadIndexResponse { incarnation, context, index: LogIndex(index) }
        }),
    ];
    (any::<u64>(), body).prop_map(|(term, body)| {
        PeerMessage::Raft(Message { from: FROM, to: TO, term: Term(term), body })
    })
}

fn message() -> impl Strategy<Value = PeerMessage> {
    let word = || any::<u64>();
    let lease = || any::<i64>();
    let snapshots = prop_oneof![
        (word(), word(), snapshot(), word()).prop_map(|(transfer, term, meta, length)| {
            SnapshotMessage::Offer { transfer, term: Term(term), meta, length }
        }),
        (word(), word(), data()).prop_map(|(transfer, offset, data)| {
            SnapshotMessage::Piece { transfer, offset, data }
        }),
        (word(), word())
            .prop_map(|(transfer, offset)| SnapshotMessage::Received { transfer, offset }),
        word().prop_map(|transfer| SnapshotMessage::Complete { transfer }),
        word().prop_map(|transfer| SnapshotMessage::Over { transfer }),
    ];
    let refusal = proptest::sample::select(vec![
        Refused::NotLeader,
        Refused::Later,
        Refused::TooManyRequests,
        Refused::Invalid,
        Refused::Unhealthy,
        Refused::NotEnoughStarted,
        Refused::LearnerNotReady,
    ]);
    prop_oneof![
        6 => raft(),
        1 => (word(), word(), word(), kind(), data()).prop_map(
            |(id, attempt, term, kind, entry)| {
                PeerMessage::Propose { id, attempt, term: Term(term), kind, entry }
            }
        ),
        1 => (word(), word(), refusal).prop_map(|(id, attempt, refusal)| {
            PeerMessage::Refused { id, attempt, refusal }
        }),
        1 => (word(), lease())
            .prop_map(|(context, lease)| PeerMessage::LeaseRenew { context, lease }),
        1 => (word(), lease(), lease()).prop_map(|(context, lease, ttl_s)| {
            PeerMessage::LeaseRenewed { context, lease, ttl_s }
        }),
        1 => (word(), lease())
            .prop_map(|(context, lease)| PeerMessage::LeaseTimeToLive { context, lease }),
        1 => (word(), lease(), lease(), lease()).prop_map(
            |(context, lease, granted_s, remaining_s)| PeerMessage::LeaseTimeToLiveIs {
                context, lease, granted_s, remaining_s,
            }
        ),
        3 => snapshots.prop_map(PeerMessage::Snapshot),
        1 => (word(), lease()).prop_map(|(context, revision)| PeerMessage::HashKv {
            context, revision
        }),
        1 => (word(), lease(), lease(), any::<u32>(), word(), any::<u32>()).prop_map(
            |(context, revision, compact_revision, hash, auth_revision, users_hash)| {
                PeerMessage::HashKvIs {
                    context, revision, compact_revision, hash, auth_revision, users_hash,
                }
            }
        ),
        1 => Just(PeerMessage::Gone),
    ]
}

fn cluster() -> Cluster {
    let member = |id: u64| Member {
        id,
        peer_urls: vec![format!("http://10.0.0.{id}:2380")],
        name: format!("m{id}"),
        ..Member::default()
    };
    let mut cluster = Cluster::restore(77, [member(1), member(2), member(3), member(4)]);
    cluster.remove(4);
    cluster
}

fn hello(lane: Class) -> Hello {
    Hello { cluster: 77, from: FROM, to: TO, lane }
}

/// Hands `stream` over in pieces of `piece` bytes; all that came of it, or the first error.
fn receive_all(stream: &[u8], piece: usize) -> Result<Vec<Arrived>, PeerError> {
    let cluster = cluster();
    let roster = Roster { own: TO, cluster: &cluster, is_removal_settled: true };
    let mut inbound = Inbound::new(0);
    let mut arrived = Vec::new();
    for part in stream.chunks(piece.max(1)) {
        inbound.receive(Bytes::copy_from_slice(part), roster, 0, &mut arrived)?;
    }
    Ok(arrived)
}

fn stream_of(messages: &[PeerMessage]) -> Vec<u8> {
    let mut stream = Vec::new();
    hello(Class::Data).encode(&mut stream);
    messages.iter().for_each(|message| codec::encode(message, &mut stream));
    stream
}

#[test]
fn every_message_arrives_as_it_was_sent_however_the_stream_is_cut() {
    let cases = (vec(message(), 1..6), 1..400usize);
    let run = runner(2_000).run(&cases, |(messages, piece)| {
        let mut arrived = receive_all(&stream_of(&messages), piece).unwrap().into_iter();
        prop_assert_eq!(arrived.next(), Some(Arrived::Greeting(hello(Class::Data))));
        let expected: Vec<_> = messages.into_iter().map(Arrived::Message).collect();
        prop_assert_eq!(arrived.collect::<Vec<_>>(), expected);
        Ok(())
    });
    run.unwrap();
}

/// One message of each form, so that none is missed by chance.
fn one_of_each() -> Vec<PeerMessage> {
    let mut runner = runner(1);
    let mut kinds = std::collections::BTreeMap::new();
    for _ in 0..5_000 {
        let message = message().new_tree(&mut runner).unwrap().current();
        let mut bytes = Vec::new();
        codec::encode(&message, &mut bytes);
        // The kind, and the form of a message of Raft, which stands behind the term.
        let form = if bytes[4] == 16 { bytes[frame::HEAD_BYTES + 8] } else { 0 };
        kinds.insert((bytes[4], form), message);
    }
    assert_eq!(kinds.len(), 13 + 14, "{:?}", kinds.keys());
    kinds.into_values().collect()
}

#[test]
fn a_cut_stream_is_waited_for_and_a_cut_body_is_refused() {
    for message in one_of_each() {
        let stream = stream_of(std::slice::from_ref(&message));
        for cut in 0..stream.len() {
            let arrived = receive_all(&stream[..cut], 64).unwrap();
            assert!(!arrived.contains(&Arrived::Message(message.clone())), "{message:?}");
        }
        // With lengths and checksums that fit, only the fields themselves can tell.
        let mut whole = Vec::new();
        codec::encode(&message, &mut whole);
        let body = &whole[frame::HEAD_BYTES..];
        let free_end = matches!(
            message,
            PeerMessage::Propose { .. } | PeerMessage::Snapshot(SnapshotMessage::Piece { .. })
        );
        for cut in 0..body.len() {
            let frame = frame::Frame { kind: whole[4], body: Bytes::copy_from_slice(&body[..cut]) };
            let decoded = codec::decode(FROM, TO, frame);
            assert!(free_end || decoded.is_err(), "{message:?} cut to {cut}: {decoded:?}");
        }
        let longer = Bytes::from([body, &[0]].concat());
        let decoded = codec::decode(FROM, TO, frame::Frame { kind: whole[4], body: longer });
        assert!(free_end || decoded.is_err(), "{message:?} and a byte: {decoded:?}");
    }
}

#[test]
fn every_flipped_bit_of_a_stream_is_found() {
    let stream = stream_of(&one_of_each());
    let before = receive_all(&stream, stream.len()).unwrap();
    for (place, bit) in (0..stream.len()).flat_map(|place| (0..8).map(move |bit| (place, bit))) {
        let mut damaged = stream.clone();
        damaged[place] ^= 1 << bit;
        let received = receive_all(&damaged, stream.len());
        assert!(received.is_err(), "bit {bit} of byte {place}: {received:?}");
    }
    assert_eq!(before.len(), 28);
}

/// What a checksum lets through: bytes that somebody made on purpose.
#[test]
fn bodies_of_any_bytes_never_panic_and_what_they_mean_survives_another_trip() {
    let kinds = prop_oneof![3 => 16..31u8, 1 => any::<u8>()];
    let raft = (0..16u8, vec(any::<u8>(), 0..120))
        .prop_map(|(form, rest)| [&[0; 8][..], &[form], &rest].concat());
    let bodies = prop_oneof![vec(any::<u8>(), 0..120), raft];
    let run = runner(20_000).run(&(kinds, bodies), |(kind, body)| {
        let frame = frame::Frame { kind, body: body.into() };
        if let Ok(message) = codec::decode(FROM, TO, frame) {
            let mut out = Vec::new();
            codec::encode(&message, &mut out);
            out.drain(..frame::HEAD_BYTES);
            let again = frame::Frame { kind, body: out.into() };
            prop_assert_eq!(codec::decode(FROM, TO, again), Ok(message));
        }
        Ok(())
    });
    run.unwrap();
}

#[test]
fn noise_never_panics() {
    let noise = (vec(any::<u8>(), 0..300), any::<bool>(), 1..50usize);
    let run = runner(5_000).run(&noise, |(noise, greeted, piece)| {
        let mut stream = if greeted { stream_of(&[]) } else { frame::MAGIC.to_vec() };
        stream.extend_from_slice(&noise);
        let _ = receive_all(&stream, piece);
        let _ = receive_all(&noise, piece);
        let mut lane = Lane::new(hello(Class::Urgent), 0);
        lane.dial(0);
        lane.connected(0);
        let _ = lane.receive(noise.clone().into(), 0);
        let _ = Query::new().0.receive(noise.into());
        Ok(())
    });
    run.unwrap();
}

#[test]
fn data_of_entries_is_a_slice_of_what_was_received() {
    let entry = Entry {
        term: Term(1),
        index: LogIndex(6),
        kind: EntryKind::Normal,
        data: Bytes::from(vec![7; 1000]),
    };
    let prev = LogPosition { index: LogIndex(5), term: Term(1) };
    let body = Body::Append { prev, commit: LogIndex(5), entries: vec![entry] };
    let sent = PeerMessage::Raft(Message { from: FROM, to: TO, term: Term(1), body });
    let stream = Bytes::from(stream_of(&[sent]));
    let cluster = cluster();
    let mut arrived = Vec::new();
    let roster = Roster { own: TO, cluster: &cluster, is_removal_settled: true };
    Inbound::new(0).receive(stream.clone(), roster, 0, &mut arrived).unwrap();
    let Some(Arrived::Message(PeerMessage::Raft(Message {
        body: Body::Append { entries, .. },
        ..
    }))) = arrived.pop()
    else {
        panic!("no entries")
    };
    let place = entries[0].data.as_ptr() as usize;
    let whole = stream.as_ptr() as usize..stream.as_ptr() as usize + stream.len();
    assert!(whole.contains(&place));
}

#[test]
fn an_announced_length_takes_no_memory_and_before_the_greeting_it_is_short() {
    let mut head = Vec::new();
    frame::put(&mut head, 16, |out| out.extend_from_slice(&vec![0; GREETING_BYTES_MAX + 1]));
    let mut stranger = Frames::of_dialled();
    stranger.feed(Bytes::copy_from_slice(&head[..frame::HEAD_BYTES]));
    assert_eq!(stranger.next(), Err(PeerError::Frame("it is too long")));
    let mut member = Frames::of_dialled();
    member.trust();
    member.feed(Bytes::from(head));
    assert!(member.next().unwrap().is_some());
}

#[test]
fn whoever_does_not_belong_here_is_told_why() {
    let cases = [
        (Hello { cluster: 78, ..hello(Class::Urgent) }, Refusal::Cluster(77)),
        (Hello { to: NodeId(3), ..hello(Class::Urgent) }, Refusal::Member(TO)),
        (Hello { from: NodeId(4), ..hello(Class::Urgent) }, Refusal::Removed),
    ];
    let cluster = cluster();
    let roster = Roster { own: TO, cluster: &cluster, is_removal_settled: true };
    for (greeting, refusal) in cases {
        let mut lane = Lane::new(greeting, 0);
        assert!(lane.dial(0));
        lane.connected(0);
        let mut stream = Vec::new();
        lane.take_output(1 << 20, &mut stream);
        let (mut inbound, mut arrived) = (Inbound::new(0), Vec::new());
        inbound.receive(stream.into(), roster, 0, &mut arrived).unwrap();
        assert_eq!(arrived, [Arrived::Refused(greeting, refusal)]);
        assert!(inbound.is_over() && inbound.greeting().is_none());
        let mut answer = Vec::new();
        inbound.take_output(&mut answer);
        assert_eq!(lane.receive(answer.into(), 0), Err(PeerError::Refused(refusal)));
        // Nothing more is heard from it.
        let mut more = Vec::new();
        codec::encode(&PeerMessage::Snapshot(SnapshotMessage::Over { transfer: 1 }), &mut more);
        inbound.receive(more.into(), roster, 0, &mut arrived).unwrap();
        assert_eq!(arrived.len(), 1);
    }
}

#[test]
fn another_version_is_answered_with_ours_whatever_it_says_behind_it() {
    let cluster = cluster();
    let roster = Roster { own: TO, cluster: &cluster, is_removal_settled: true };
    for kind in [1, 6] {
        let mut stream = frame::MAGIC.to_vec();
        frame::put(&mut stream, kind, |out| out.extend_from_slice(&[9, 0, 1, 2, 3]));
        let mut inbound = Inbound::new(0);
        inbound.receive(stream.into(), roster, 0, &mut Vec::new()).unwrap();
        assert!(inbound.is_over());
        let mut answer = Vec::new();
        inbound.take_output(&mut answer);
        let mut lane = Lane::new(hello(Class::Urgent), 0);
        lane.dial(0);
        lane.connected(0);
        let refused = PeerError::Refused(Refusal::Version(1));
        assert_eq!(lane.receive(answer.clone().into(), 0), Err(refused.clone()));
        assert_eq!(Query::new().0.receive(answer.into()), Err(refused));
    }
}

#[test]
fn an_http_server_or_client_is_told_apart_from_a_member() {
    let mut lane = Lane::new(hello(Class::Urgent), 0);
    lane.dial(0);
    lane.connected(0);
    let answer = Bytes::from_static(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n");
    assert_eq!(lane.receive(answer.clone(), 0), Err(PeerError::NotRingd));
    assert_eq!(Query::new().0.receive(answer), Err(PeerError::NotRingd));
    assert_eq!(receive_all(b"GET /raft/stream HTTP/1.1\r\n", 3), Err(PeerError::NotRingd));
}

#[test]
fn who_asks_is_told_the_members() {
    let cluster = cluster();
    let roster = Roster { own: TO, cluster: &cluster, is_removal_settled: true };
    let (mut query, stream) = Query::new();
    let mut inbound = Inbound::new(0);
    inbound.receive(stream.into(), roster, 0, &mut Vec::new()).unwrap();
    let mut answer = Vec::new();
    inbound.take_output(&mut answer);
    assert!(inbound.is_over());
    let half = answer.split_off(answer.len() / 2);
    assert_eq!(query.receive(answer.into()), Ok(None));
    let listing = query.receive(half.into()).unwrap().unwrap();
    assert_eq!((listing.cluster, listing.member), (77, TO));
    assert_eq!(listing.members, cluster.members().cloned().collect::<Vec<_>>());
}

fn heartbeat(round: u64) -> PeerMessage {
    let body = Body::Heartbeat { commit: LogIndex(1), round };
    PeerMessage::Raft(Message { from: FROM, to: TO, term: Term(1), body })
}

fn piece(offset: u64, length: usize) -> PeerMessage {
    let data = vec![1; length].into();
    PeerMessage::Snapshot(SnapshotMessage::Piece { transfer: 1, offset, data })
}

fn proposal(id: u64, length: usize) -> PeerMessage {
    let (kind, entry) = (EntryKind::Normal, vec![1; length].into());
    PeerMessage::Propose { id, attempt: 0, term: Term(1), kind, entry }
}

/// Links of member 1 to member 2, with all lanes up.
fn connected(now_us: u64) -> (Links, Vec<LaneId>) {
    let mut links = Links::new(Identity { cluster: 77, member: FROM });
    let urls = ["http://a:1".to_owned(), "http://b:1".to_owned()];
    links.set_members([(FROM, &urls[..]), (TO, &urls[..])], now_us);
    let mut dials = Vec::new();
    links.tick(now_us, &mut dials);
    let ids: Vec<_> = dials.into_iter().map(|dial| dial.id).collect();
    for id in &ids {
        assert!(links.connected(*id, now_us));
        links.take_output(*id, 1 << 20, &mut Vec::new());
        let mut welcome = Vec::new();
        super::hello::put_welcome(&mut welcome);
        assert_eq!(links.receive(*id, welcome.into(), now_us), Ok(None));
    }
    assert_eq!(links.drain_events().count(), 3);
    (links, ids)
}

fn frames(out: Vec<u8>) -> Vec<PeerMessage> {
    let mut frames = Frames::of_dialled();
    frames.trust();
    frames.feed(out.into());
    let mut messages = Vec::new();
    while let Some(frame) = frames.next().unwrap() {
        if frame.kind >= 16 {
            messages.push(codec::decode(FROM, TO, frame).unwrap());
        }
    }
    messages
}

#[test]
fn an_urgent_message_never_waits_for_data_and_data_never_for_a_snapshot() {
    let (mut links, ids) = connected(0);
    for round in 0..50 {
        links.send(TO, piece(round, 100_000));
        links.send(TO, proposal(round, 50_000));
        links.send(TO, heartbeat(round));
    }
    let mut ready = Vec::new();
    links.with_output(&mut ready);
    assert_eq!(ready, ids, "urgent, data, bulk");
    let mut sent = Vec::new();
    for id in &ready {
        let mut out = Vec::new();
        links.take_output(*id, usize::MAX, &mut out);
        sent.push(frames(out));
    }
    assert_eq!(sent[0], (0..50).map(heartbeat).collect::<Vec<_>>());
    assert_eq!(sent[1], (0..50).map(|id| proposal(id, 50_000)).collect::<Vec<_>>());
    assert_eq!(sent[2], (0..50).map(|at| piece(at, 100_000)).collect::<Vec<_>>());
}

#[test]
fn a_full_queue_keeps_the_newest_urgent_and_the_oldest_of_the_rest_and_counts() {
    let (mut links, ids) = connected(0);
    let max = QUEUE_MESSAGES_MAX as u64;
    (0..max + 10).for_each(|round| links.send(TO, heartbeat(round)));
    let mut out = Vec::new();
    links.take_output(ids[0], usize::MAX, &mut out);
    assert_eq!(frames(out), (10..max + 10).map(heartbeat).collect::<Vec<_>>());
    let fits = QUEUE_BYTES_MAX / 1_000_000;
    (0..fits as u64 + 20).for_each(|id| links.send(TO, proposal(id, 1_000_000)));
    let mut out = Vec::new();
    links.take_output(ids[1], usize::MAX, &mut out);
    assert_eq!(frames(out).len(), fits);
    assert_eq!(links.members().next().unwrap().2.dropped, 10 + 20);
    // One message is always taken.
    links.send(TO, proposal(1, QUEUE_BYTES_MAX + 1));
    let mut out = Vec::new();
    links.take_output(ids[1], 1, &mut out);
    assert_eq!(frames(out).len(), 1);
}

#[test]
fn a_lane_that_cannot_be_made_is_tried_again_ever_more_slowly_at_the_next_address() {
    let mut links = Links::new(Identity { cluster: 77, member: FROM });
    let urls = ["http://a:1".to_owned(), "http://b:1".to_owned()];
    links.set_members([(TO, &urls[..])], 0);
    let (mut now, mut pauses, mut tried) = (0, Vec::new(), std::collections::BTreeSet::new());
    for _ in 0..8 {
        let mut dials = Vec::new();
        links.tick(now, &mut dials);
        assert_eq!(dials.len(), 3);
        let mut again = Vec::new();
        links.tick(now, &mut again);
        assert_eq!(again, [], "one attempt at a time");
        for dial in dials {
            tried.insert(dial.url.clone());
            links.failed(dial.id, "connection refused", now);
            // Nothing is kept for who is away.
            links.send(TO, heartbeat(1));
        }
        pauses.push((links.next_deadline_us() - now) / MS);
        now = links.next_deadline_us();
    }
    assert_eq!(pauses, [50, 100, 200, 400, 800, 800, 800, 800]);
    assert_eq!(tried.len(), 2);
    let complaints = links.drain_events().count();
    assert_eq!(complaints, 1, "in {now} us");
    assert!(links.members().next().unwrap().2.dropped > 0);
}

#[test]
fn a_frame_that_takes_longer_than_the_silence_allowed_is_waited_for_while_it_gets_on() {
    let (mut links, ids) = connected(0);
    let silent = PING_TIMEOUT_MS * MS;
    for step in 1..10 {
        links.progressed(ids[1], step * silent / 2);
        links.tick(step * silent / 2 + 1, &mut Vec::new());
        assert!(!links.drain_closing().any(|id| id == ids[1]));
    }
    links.tick(9 * silent / 2 + silent, &mut Vec::new());
    assert!(links.drain_closing().any(|id| id == ids[1]));
}

#[test]
fn who_pings_and_does_not_read_is_not_answered_for_ever() {
    let cluster = cluster();
    let roster = Roster { own: TO, cluster: &cluster, is_removal_settled: true };
    let mut inbound = Inbound::new(0);
    let mut stream = Vec::new();
    hello(Class::Urgent).encode(&mut stream);
    for _ in 0..100_000 {
        hello::put_word(hello::PING, 7, &mut stream);
    }
    inbound.receive(stream.into(), roster, 0, &mut Vec::new()).unwrap();
    let mut answer = Vec::new();
    inbound.take_output(&mut answer);
    assert!(answer.len() < PONGS_BYTES_MAX + 200, "{} bytes wait", answer.len());
}

#[test]
fn a_greeting_has_a_moment_in_all() {
    let cluster = cluster();
    let roster = Roster { own: TO, cluster: &cluster, is_removal_settled: true };
    let mut stream = Vec::new();
    hello(Class::Urgent).encode(&mut stream);
    let mut inbound = Inbound::new(0);
    let mut ended = None;
    for (at, byte) in (1..).zip(stream.iter().take(5)) {
        let now_us = at * 400 * MS;
        let byte = Bytes::copy_from_slice(&[*byte]);
        inbound.receive(byte, roster, now_us, &mut Vec::new()).unwrap();
        ended = ended.or(inbound.tick(now_us).err().map(|_| at));
    }
    assert_eq!(ended, Some(3), "it is given {GREETING_TIMEOUT_MS} ms");
}

#[test]
fn pings_measure_and_silence_ends_a_connection() {
    let (mut links, ids) = connected(0);
    let mut dials = Vec::new();
    links.tick(0, &mut dials);
    let mut out = Vec::new();
    links.take_output(ids[0], usize::MAX, &mut out);
    let cluster = cluster();
    let roster = Roster { own: TO, cluster: &cluster, is_removal_settled: true };
    let mut inbound = Inbound::new(0);
    let mut stream = Vec::new();
    hello(Class::Urgent).encode(&mut stream);
    stream.extend_from_slice(&out);
    inbound.receive(stream.into(), roster, 0, &mut Vec::new()).unwrap();
    let mut answer = Vec::new();
    inbound.take_output(&mut answer);
    // The welcome has been heard already.
    let mut pong = Bytes::from(answer);
    pong.advance(frame::HEAD_BYTES + 2);
    assert_eq!(links.receive(ids[0], pong, 1_234), Ok(Some(1_234)));

    let silent = PING_TIMEOUT_MS * MS;
    links.tick(silent + 1_233, &mut dials);
    let closed: Vec<_> = links.drain_closing().collect();
    assert_eq!(closed, ids[1..], "the lane that was heard lives on");
    links.tick(silent + 1_234, &mut dials);
    assert_eq!(links.drain_closing().collect::<Vec<_>>(), ids[..1]);
    assert_eq!(links.members().next().unwrap().1, None);
    assert!(matches!(links.drain_events().last(), Some(Event::Inactive { .. })));
    // What still happens to the old sockets is nobody's business.
    links.tick(silent + 100 * MS, &mut dials);
    assert_eq!(dials.len(), 3);
    links.failed(ids[0], "reset", silent + 100 * MS);
    assert!(links.connected(dials[0].id, silent + 100 * MS));

    assert!(inbound.tick(INBOUND_TIMEOUT_MS * MS - 1).is_ok());
    assert!(inbound.tick(INBOUND_TIMEOUT_MS * MS).is_err());
}

#[test]
fn a_member_that_is_gone_or_moved_is_left_or_dialled_again() {
    let (mut links, ids) = connected(0);
    links.set_members([], 0);
    assert_eq!(links.drain_closing().collect::<Vec<_>>(), ids);
    assert_eq!(links.next_deadline_us(), u64::MAX);
    links.send(TO, heartbeat(1));
    assert!(!links.connected(ids[0], 0));

    let urls = ["http://c:1".to_owned()];
    links.set_members([(TO, &urls[..])], 5);
    let mut dials = Vec::new();
    links.tick(5, &mut dials);
    links.failed(dials[0].id, "refused", 5);
    let moved = ["http://d:1".to_owned()];
    links.set_members([(TO, &moved[..])], 6);
    let mut dials = Vec::new();
    links.tick(6, &mut dials);
    assert_eq!(dials.len(), 1, "at once");
    assert_eq!(dials[0].url, "http://d:1");
}

#[test]
fn a_lane_goes_through_its_states() {
    let mut lane = Lane::new(hello(Class::Urgent), 0);
    assert_eq!(lane.state(), State::Idle { retry_us: 0 });
    assert!(lane.dial(0) && !lane.dial(0));
    lane.send(heartbeat(1));
    assert!(!lane.has_output(), "not before it is greeted");
    lane.connected(1);
    let mut out = Vec::new();
    lane.take_output(usize::MAX, &mut out);
    let mut expected = Vec::new();
    hello(Class::Urgent).encode(&mut expected);
    assert_eq!(out, expected);
    assert!(lane.tick(GREETING_TIMEOUT_MS * MS).is_ok());
    assert!(lane.tick(GREETING_TIMEOUT_MS * MS + 1).is_err());
    let mut welcome = Vec::new();
    super::hello::put_welcome(&mut welcome);
    lane.receive(welcome.into(), 2).unwrap();
    assert_eq!(lane.state(), State::Up { since_us: 2 });
    assert!(lane.has_output(), "what was said meanwhile");
    lane.failed(3);
    assert_eq!(lane.state(), State::Idle { retry_us: 3 + RETRY_MIN_MS * MS });
    assert_eq!(lane.counters.dropped, 1);
}
