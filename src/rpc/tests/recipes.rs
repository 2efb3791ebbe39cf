//! Locks and elections as their clients see them.

use super::fixture::{Bed, Peer};
use crate::grpc;
use crate::h2::{ErrorCode, StreamId};
use crate::proto::etcdserverpb::{
    DeleteRangeRequest, LeaseGrantRequest, LeaseRevokeRequest, RangeRequest, RangeResponse,
};
use crate::proto::v3electionpb::{
    CampaignRequest, CampaignResponse, LeaderRequest, LeaderResponse, ProclaimRequest,
    ResignRequest,
};
use crate::proto::v3lockpb::{LockRequest, LockResponse, UnlockRequest};
use crate::rpc::ListenerKind;
use crate::rpc::http::Request;
use crate::rpc::reads::Read;

struct Clients {
    bed: Bed,
    peer: Peer,
}

impl Clients {
    /// With the leases 1 to 3.
    fn new() -> Clients {
        let mut bed = Bed::ready();
        let peer = bed.connect();
        let mut clients = Clients { bed, peer };
        for id in 1..=3 {
            let grant = LeaseGrantRequest { id, ttl: 1_000_000 };
            let stream = clients.call("/etcdserverpb.Lease/LeaseGrant", &grant);
            assert_eq!(clients.status(stream), Some("0"));
        }
        clients
    }

    fn settle(&mut self) {
        self.bed.settle();
        self.peer.take(&mut self.bed);
    }

    fn call(&mut self, path: &str, message: &impl prost::Message) -> u32 {
        let stream = self.peer.call(&mut self.bed, path, message);
        self.settle();
        stream
    }

    fn status(&self, stream: u32) -> Option<&str> {
        self.peer.answer(stream).0
    }

    fn lock(&mut self, lease: i64) -> u32 {
        self.call("/v3lockpb.Lock/Lock", &LockRequest { name: "l".into(), lease })
    }

    fn key(&self, stream: u32) -> Vec<u8> {
        self.peer.answers[&stream].message::<LockResponse>().key.to_vec()
    }

    fn unlock(&mut self, key: &[u8]) {
        let request = UnlockRequest { key: key.to_vec().into() };
        let stream = self.call("/v3lockpb.Lock/Unlock", &request);
        assert_eq!(self.status(stream), Some("0"));
    }

    /// Keys from `a` to `z`.
    fn keys(&mut self) -> Vec<String> {
        let all = RangeRequest { key: "a".into(), range_end: "{".into(), ..Default::default() };
        let stream = self.call("/etcdserverpb.KV/Range", &all);
        let found: RangeResponse = self.peer.answers[&stream].message();
        found.kvs.iter().map(|kv| String::from_utf8_lossy(&kv.key).into_owned()).collect()
    }

    fn campaign(&mut self, lease: i64, value: &str) -> u32 {
        let (name, value) = ("e".into(), value.to_owned().into());
        let request = CampaignRequest { name, lease, value };
        self.call("/v3electionpb.Election/Campaign", &request)
    }
}

#[test]
fn a_lock_goes_to_one_after_the_other_in_their_order() {
    let mut clients = Clients::new();
    let locks = [1, 2, 3].map(|lease| clients.lock(lease));
    assert_eq!(clients.key(locks[0]), b"l/1");
    assert_eq!(clients.status(locks[1]), None);
    let again = clients.lock(1);
    assert_eq!(clients.key(again), b"l/1", "who has it gets it again");
    clients.unlock(b"l/1");
    assert_eq!(clients.key(locks[1]), b"l/2");
    assert_eq!(clients.status(locks[2]), None);
    // A session that ends gives up what it has.
    let revoke = LeaseRevokeRequest { id: 2 };
    clients.call("/etcdserverpb.Lease/LeaseRevoke", &revoke);
    assert_eq!(clients.key(locks[2]), b"l/3");
}

#[test]
fn who_stops_waiting_is_passed_over() {
    let mut clients = Clients::new();
    let first = clients.lock(1);
    let request = LockRequest { name: "l".into(), lease: 2 };
    let bed = &mut clients.bed;
    let gone = clients.peer.open(bed, "/v3lockpb.Lock/Lock", &[(b"grpc-timeout", b"500m")]);
    clients.peer.message(bed, gone, &request, true);
    clients.settle();
    let last = clients.lock(3);
    assert_eq!(clients.keys(), ["l/1", "l/2", "l/3"]);
    clients.bed.now_ms += 1_000;
    clients.settle();
    assert_eq!(clients.peer.answers[&gone].reset, Some(ErrorCode::CANCEL.0));
    assert_eq!(clients.keys(), ["l/1", "l/3"]);
    let key = clients.key(first);
    clients.unlock(&key);
    assert_eq!(clients.key(last), b"l/3");
    // A connection that goes away waits for nothing, either.
    let mut other = clients.bed.connect();
    other.call(
        &mut clients.bed,
        "/v3lockpb.Lock/Lock",
        &LockRequest { name: "l".into(), lease: 1 },
    );
    clients.settle();
    assert_eq!(clients.keys(), ["l/1", "l/3"]);
    clients.bed.server.disconnect(other.id);
    clients.settle();
    assert_eq!(clients.keys(), ["l/3"]);
}

#[test]
fn a_lock_whose_key_was_taken_away_is_none() {
    let mut clients = Clients::new();
    clients.lock(1);
    let waits = clients.lock(2);
    let delete = DeleteRangeRequest { key: "l/2".into(), ..Default::default() };
    clients.call("/etcdserverpb.KV/DeleteRange", &delete);
    clients.unlock(b"l/1");
    assert_eq!(clients.peer.answer(waits), (Some("2"), "mutex: session is expired"));
}

#[test]
fn who_brings_no_lease_gets_one() {
    let mut clients = Clients::new();
    let lock = clients.lock(0);
    let key = clients.key(lock);
    assert!(key.starts_with(b"l/") && key.len() > 4, "{key:?}");
    let missing = clients.lock(77);
    assert_eq!(clients.peer.answer(missing), (Some("2"), "etcdserver: requested lease not found"));
}

#[test]
fn who_asked_last_is_forgotten_when_a_step_is_done() {
    let mut bed = Bed::ready();
    let token = bed.secure();
    let mut peer = bed.connect();
    for lease in [0, 0] {
        let stream = peer.open(&mut bed, "/v3lockpb.Lock/Lock", &[(b"token", token.as_bytes())]);
        peer.message(&mut bed, stream, &LockRequest { name: "l".into(), lease }, true);
        for _ in 0..8 {
            bed.turn();
            assert!(bed.server.core.presented.is_nothing());
            bed.finish_log_write();
        }
    }
    peer.take(&mut bed);
    assert_eq!(peer.answer(1).0, Some("0"));
}

#[test]
fn a_read_that_is_one_too_many_ends_its_call() {
    let mut clients = Clients::new();
    clients.lock(1);
    let waits = clients.lock(2);
    let observe = clients.peer.open(&mut clients.bed, "/v3electionpb.Election/Observe", &[]);
    let request = LeaderRequest { name: "e".into() };
    clients.peer.message(&mut clients.bed, observe, &request, true);
    let campaign = clients.campaign(3, "one");
    let leader = clients.peer.answers[&campaign].message::<CampaignResponse>().leader;
    // Reads under a context that nobody answers.
    let connection = clients.bed.server.connect(ListenerKind::Http, 0).unwrap();
    let reads = &mut clients.bed.server.core.reads;
    while reads.push(Read::Http(connection, StreamId(1), Request::default())).is_ok() {}
    reads.ask(|| u64::MAX);
    clients.unlock(b"l/1");
    let resign = clients.call("/v3electionpb.Election/Resign", &ResignRequest { leader });
    assert_eq!(clients.status(resign), Some("0"));
    for stream in [waits, observe] {
        let told = clients.peer.answer(stream);
        assert_eq!(told, (Some("2"), "etcdserver: too many requests"));
    }
    assert_eq!(clients.bed.server.core.recipes, 0);
    clients.bed.server.core.reads.reached(u64::MAX);
    assert!(clients.keys().is_empty(), "who does not wait any more leaves no key");
}

#[test]
fn a_call_that_is_given_up_while_it_reads_is_over() {
    let mut bed = Bed::unready();
    let mut peer = bed.connect();
    let path = "/v3electionpb.Election/Leader";
    let stream = peer.open(&mut bed, path, &[(b"grpc-timeout", b"500m")]);
    peer.message(&mut bed, stream, &LeaderRequest { name: "e".into() }, true);
    bed.turn();
    assert_eq!(bed.server.core.recipes, 1);
    bed.now_ms += 600;
    bed.turn();
    peer.take(&mut bed);
    assert_eq!(peer.answers[&stream].reset, Some(ErrorCode::CANCEL.0));
    assert_eq!(bed.server.core.recipes, 0);
}

#[test]
fn an_election_is_observed_from_leader_to_leader() {
    let mut clients = Clients::new();
    let observe = clients.peer.open(&mut clients.bed, "/v3electionpb.Election/Observe", &[]);
    let request = LeaderRequest { name: "e".into() };
    clients.peer.message(&mut clients.bed, observe, &request, true);
    clients.settle();
    assert!(clients.peer.answers[&observe].data.is_empty(), "there is no leader");

    let first = clients.campaign(1, "one");
    let second = clients.campaign(2, "two");
    assert_eq!(clients.status(second), None);
    let leader: CampaignResponse = clients.peer.answers[&first].message();
    let leader = leader.leader.unwrap();
    assert_eq!((&leader.key[..], leader.lease), (&b"e/1"[..], 1));

    let proclaim = ProclaimRequest { leader: Some(leader.clone()), value: "uno".into() };
    let stream = clients.call("/v3electionpb.Election/Proclaim", &proclaim);
    assert_eq!(clients.status(stream), Some("0"));
    let stream = clients.call("/v3electionpb.Election/Leader", &request);
    let found: LeaderResponse = clients.peer.answers[&stream].message();
    assert_eq!(&found.kv.unwrap().value[..], b"uno");

    let resign = ResignRequest { leader: Some(leader) };
    clients.call("/v3electionpb.Election/Resign", &resign);
    assert_eq!(clients.status(second), Some("0"));
    let stream = clients.call("/v3electionpb.Election/Proclaim", &proclaim);
    assert_eq!(clients.peer.answer(stream), (Some("2"), "election: not leader"));
    clients.settle();

    let mut decoder = grpc::Decoder::new(1 << 20);
    decoder.push(clients.peer.answers[&observe].data.clone().into());
    let mut seen = Vec::new();
    while let Some(message) = decoder.next_message().unwrap() {
        let response: LeaderResponse = prost::Message::decode(message).unwrap();
        seen.push(String::from_utf8_lossy(&response.kv.unwrap().value).into_owned());
    }
    assert_eq!(seen, ["one", "uno", "two"]);
    let stream = clients.call("/v3electionpb.Election/Leader", &LeaderRequest { name: "x".into() });
    assert_eq!(clients.peer.answer(stream), (Some("2"), "election: no leader"));
}
