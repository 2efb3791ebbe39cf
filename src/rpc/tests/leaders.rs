//! What a member answers that knows no leader, or is a learner; and what becomes of changes of the
//! members.

use super::fixture::{Bed, MEMBER, Peer};
use crate::membership::Member;
use crate::node::PeerMessage;
use crate::proto::etcdserverpb::{
    LeaseGrantRequest, LeaseGrantResponse, LeaseKeepAliveRequest, LeaseKeepAliveResponse,
    MemberAddRequest, MemberAddResponse, MemberListRequest, MemberListResponse,
    MemberPromoteRequest, MemberRemoveRequest, MemberUpdateRequest, PutRequest, RangeRequest,
    RangeResponse, SnapshotRequest, StatusRequest, StatusResponse, WatchCreateRequest,
    WatchRequest, watch_request,
};
use crate::raft::{Body, LogIndex, Message, NodeId, Term};
use crate::rpc::method::{Kind, METHODS, Method};

const OTHER: u64 = 8;
const THIRD: u64 = 9;
const ELECTION_MS: u64 = 1_000;
const NO_LEADER: (Option<&str>, &str) = (Some("14"), "etcdserver: no leader");
const NOT_FOR_LEARNER: (Option<&str>, &str) =
    (Some("9"), "etcdserver: rpc not supported for learner");
const HAS_LEADER: &[(&[u8], &[u8])] = &[(b"hasleader", b"true")];

fn member(id: u64, is_learner: bool) -> Member {
    let peer_urls = vec![format!("http://127.0.0.{id}:2380")];
    Member { id, peer_urls, is_learner, ..Default::default() }
}

/// A member of three, which has heard of no other.
fn one_of_three() -> Bed {
    Bed::of([member(MEMBER, false), member(OTHER, false), member(THIRD, false)])
}

/// The other member leads.
fn hear_the_leader(bed: &mut Bed, commit: u64) {
    let (from, to) = (NodeId(OTHER), NodeId(MEMBER));
    let body = Body::Heartbeat { commit: LogIndex(commit), round: 0 };
    let message = Message { from, to, term: Term(2), body };
    bed.server.receive_peer(from, PeerMessage::Raft(message), bed.now_ms);
    bed.settle();
    assert_eq!(bed.server.node().raft().leader(), Some(from));
}

/// Time passes, and nobody is heard.
fn pass(bed: &mut Bed, ms: u64) {
    for _ in 0..ms / 50 {
        bed.now_ms += 49;
        bed.turn();
        bed.finish_log_write();
    }
}

fn watch() -> WatchRequest {
    let create = WatchCreateRequest { key: "k".into(), ..Default::default() };
    WatchRequest { request_union: Some(watch_request::RequestUnion::CreateRequest(create)) }
}

fn serializable() -> RangeRequest {
    RangeRequest { key: "k".into(), serializable: true, ..Default::default() }
}

fn path(method: Method) -> &'static str {
    method.describe().path
}

#[test]
fn who_asks_for_a_leader_is_refused_where_none_is_known() {
    let mut bed = one_of_three();
    let mut peer = bed.connect();
    for known in METHODS {
        let stream = peer.open(&mut bed, known.path, HAS_LEADER);
        peer.take(&mut bed);
        assert_eq!(peer.answer(stream), NO_LEADER, "{}", known.path);
    }
    // Any other word in its place asks for nothing.
    for fields in [&[][..], &[(&b"hasleader"[..], &b"false"[..])]] {
        let stream = peer.open(&mut bed, path(Method::Range), fields);
        peer.message(&mut bed, stream, &serializable(), true);
        bed.settle();
        peer.take(&mut bed);
        assert_eq!(peer.answers[&stream].message::<RangeResponse>().count, 0);
    }
    hear_the_leader(&mut bed, 1);
    let stream = peer.open(&mut bed, path(Method::Range), HAS_LEADER);
    peer.message(&mut bed, stream, &serializable(), true);
    bed.settle();
    peer.take(&mut bed);
    assert_eq!(peer.answer(stream).0, Some("0"));
}

#[test]
fn streams_that_asked_for_a_leader_end_when_it_is_missing_for_three_election_timeouts() {
    let mut bed = one_of_three();
    hear_the_leader(&mut bed, 1);
    let mut peer = bed.connect();
    let open = |peer: &mut Peer, bed: &mut Bed, fields| {
        let watching = peer.open(bed, path(Method::Watch), fields);
        peer.message(bed, watching, &watch(), false);
        let keeping = peer.open(bed, path(Method::LeaseKeepAlive), fields);
        [watching, keeping]
    };
    let strict = open(&mut peer, &mut bed, HAS_LEADER);
    let patient = open(&mut peer, &mut bed, &[]);
    let mut leaderless_ms = 0;
    while leaderless_ms < 3 * ELECTION_MS - 200 {
        pass(&mut bed, 50);
        let is_known = bed.server.node().raft().leader().is_some();
        leaderless_ms = if is_known { 0 } else { leaderless_ms + 50 };
        peer.take(&mut bed);
        for stream in strict.into_iter().chain(patient) {
            assert_eq!(peer.answer(stream), (None, ""), "after {leaderless_ms} ms");
        }
    }
    pass(&mut bed, 500);
    peer.take(&mut bed);
    for stream in strict {
        assert_eq!(peer.answer(stream), NO_LEADER);
    }
    for stream in patient {
        assert_eq!(peer.answer(stream), (None, ""), "who did not ask stays");
    }
}

#[test]
fn a_leader_that_is_missed_for_a_moment_ends_no_stream() {
    let mut bed = one_of_three();
    hear_the_leader(&mut bed, 1);
    let mut peer = bed.connect();
    let stream = peer.open(&mut bed, path(Method::Watch), HAS_LEADER);
    peer.message(&mut bed, stream, &watch(), false);
    for _ in 0..4 {
        while bed.server.node().raft().leader().is_some() {
            pass(&mut bed, 50);
        }
        pass(&mut bed, 2 * ELECTION_MS);
        hear_the_leader(&mut bed, 1);
    }
    peer.take(&mut bed);
    assert_eq!(peer.answer(stream), (None, ""));
}

#[test]
fn a_learner_serves_its_status_serializable_ranges_and_snapshots_and_nothing_else() {
    let mut bed = Bed::of([member(MEMBER, true), member(OTHER, false)]);
    hear_the_leader(&mut bed, 1);
    let mut peer = bed.connect();
    for known in METHODS {
        let stream = peer.open(&mut bed, known.path, &[]);
        if known.kind == Kind::Unary {
            // An empty message is one of each kind.
            peer.message(&mut bed, stream, &StatusRequest::default(), true);
        }
        bed.settle();
        peer.take(&mut bed);
        let answer = peer.answer(stream);
        match known.method {
            Method::Status => assert_eq!(answer, (Some("0"), "")),
            Method::Snapshot => assert_eq!(answer, (None, "")),
            _ => assert_eq!(answer, NOT_FOR_LEARNER, "{}", known.path),
        }
    }
    let stream = peer.call(&mut bed, path(Method::Range), &serializable());
    let status = peer.call(&mut bed, path(Method::Status), &StatusRequest::default());
    let snapshot = peer.call(&mut bed, path(Method::Snapshot), &SnapshotRequest::default());
    for _ in 0..20 {
        bed.settle();
    }
    peer.take(&mut bed);
    assert_eq!(peer.answers[&stream].message::<RangeResponse>().count, 0);
    assert!(peer.answers[&status].message::<StatusResponse>().is_learner);
    assert!(!peer.answers[&snapshot].data.is_empty());
    assert_ne!(peer.answer(snapshot), NOT_FOR_LEARNER);
}

/// Calls, and takes the answer.
fn call(bed: &mut Bed, peer: &mut Peer, method: Method, request: &impl prost::Message) -> u32 {
    let stream = peer.call(bed, path(method), request);
    bed.settle();
    peer.take(bed);
    stream
}

#[test]
fn changes_of_the_members_are_answered_as_etcd_answers_them() {
    let mut bed = Bed::of([member(MEMBER, false)]);
    while !bed.server.is_ready() {
        bed.settle();
    }
    let mut peer = bed.connect();
    let own_url = || vec![format!("http://127.0.0.{MEMBER}:2380")];
    let add = |peer_urls: Vec<String>| MemberAddRequest { peer_urls, is_learner: true };
    let update = |id, peer_urls| MemberUpdateRequest { id, peer_urls };

    let stream = call(&mut bed, &mut peer, Method::MemberAdd, &add(vec!["http://a:1".into()]));
    let added = peer.answers[&stream].message::<MemberAddResponse>();
    let learner = added.member.expect("the new member");
    assert!(learner.is_learner && learner.peer_urls == ["http://a:1"] && learner.name.is_empty());
    assert_eq!(added.members.len(), 2);

    type Expected = (Option<&'static str>, &'static str);
    let bad_urls: Expected = (Some("3"), "etcdserver: given member URLs are invalid");
    let not_found: Expected = (Some("5"), "etcdserver: member not found");
    let url_exists: Expected = (Some("9"), "etcdserver: Peer URLs already exists");
    let too_many: Expected = (Some("9"), "etcdserver: too many learner members in cluster");
    let not_learner: Expected = (Some("9"), "etcdserver: can only promote a learner member");
    let not_ready: Expected =
        (Some("9"), "etcdserver: can only promote a learner member which is in sync with leader");
    let quorum: Expected =
        (Some("2"), "etcdserver: re-configuration failed due to not enough started members");
    let voter = MemberAddRequest { peer_urls: own_url(), is_learner: false };
    for (expected, stream) in [
        (bad_urls, call(&mut bed, &mut peer, Method::MemberAdd, &add(vec![]))),
        (bad_urls, call(&mut bed, &mut peer, Method::MemberAdd, &add(vec!["a:1".into()]))),
        (too_many, call(&mut bed, &mut peer, Method::MemberAdd, &add(vec!["http://b:1".into()]))),
        (bad_urls, call(&mut bed, &mut peer, Method::MemberUpdate, &update(learner.id, vec![]))),
        (not_found, call(&mut bed, &mut peer, Method::MemberUpdate, &update(1, own_url()))),
        (
            url_exists,
            call(&mut bed, &mut peer, Method::MemberUpdate, &update(learner.id, own_url())),
        ),
        (
            not_found,
            call(&mut bed, &mut peer, Method::MemberRemove, &MemberRemoveRequest { id: 1 }),
        ),
        (
            not_found,
            call(&mut bed, &mut peer, Method::MemberPromote, &MemberPromoteRequest { id: 1 }),
        ),
        (
            not_learner,
            call(&mut bed, &mut peer, Method::MemberPromote, &MemberPromoteRequest { id: MEMBER }),
        ),
        (
            not_ready,
            call(
                &mut bed,
                &mut peer,
                Method::MemberPromote,
                &MemberPromoteRequest { id: learner.id },
            ),
        ),
        (
            quorum,
            call(&mut bed, &mut peer, Method::MemberRemove, &MemberRemoveRequest { id: MEMBER }),
        ),
    ] {
        assert_eq!(peer.answer(stream), expected);
    }
    // A voter with the address of another.
    let refused = call(&mut bed, &mut peer, Method::MemberAdd, &voter);
    assert_eq!(peer.answer(refused), url_exists);

    let there = update(learner.id, vec!["http://c:2".into(), "http://b:2".into()]);
    let stream = call(&mut bed, &mut peer, Method::MemberUpdate, &there);
    let updated = peer.answers[&stream].message::<MemberListResponse>();
    let found = updated.members.iter().find(|found| found.id == learner.id).expect("it is there");
    assert_eq!(found.peer_urls, ["http://b:2", "http://c:2"]);

    let remove = MemberRemoveRequest { id: learner.id };
    let stream = call(&mut bed, &mut peer, Method::MemberRemove, &remove);
    assert_eq!(peer.answers[&stream].message::<MemberListResponse>().members.len(), 1);
    let stream = call(&mut bed, &mut peer, Method::MemberRemove, &remove);
    assert_eq!(peer.answer(stream), not_found);
    let list = MemberListRequest { linearizable: true };
    let stream = call(&mut bed, &mut peer, Method::MemberList, &list);
    let members = peer.answers[&stream].message::<MemberListResponse>().members;
    assert_eq!(members.iter().map(|member| member.id).collect::<Vec<_>>(), [MEMBER]);
}

#[test]
fn leases_and_writes_wait_for_a_leader_and_say_so_when_they_give_up() {
    let mut bed = one_of_three();
    let mut peer = bed.connect();
    let put = PutRequest { key: "k".into(), ..Default::default() };
    let put = peer.call(&mut bed, path(Method::Put), &put);
    let grant = LeaseGrantRequest { id: 5, ttl: 60 };
    let grant = peer.call(&mut bed, path(Method::LeaseGrant), &grant);
    pass(&mut bed, 8_000);
    peer.take(&mut bed);
    for stream in [put, grant] {
        assert_eq!(peer.answer(stream), (Some("14"), "etcdserver: request timed out"));
    }
    // A member of one leads by itself, and the same calls are answered.
    let mut bed = Bed::ready();
    let mut peer = bed.connect();
    let grant = LeaseGrantRequest { id: 5, ttl: 60 };
    let grant = call(&mut bed, &mut peer, Method::LeaseGrant, &grant);
    assert_eq!(peer.answers[&grant].message::<LeaseGrantResponse>().id, 5);
    let keeping = peer.open(&mut bed, path(Method::LeaseKeepAlive), HAS_LEADER);
    peer.message(&mut bed, keeping, &LeaseKeepAliveRequest { id: 5 }, true);
    bed.settle();
    peer.take(&mut bed);
    assert_eq!(peer.answers[&keeping].message::<LeaseKeepAliveResponse>().ttl, 60);
}
