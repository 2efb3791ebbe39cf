//! Requests that are almost right, through the whole path: frames, HPACK, gRPC framing, the messages of every
//! method, the log and the state. Nothing panics, every call that is whole gets a status, and what was
//! accepted can be applied.
//!
//! `RINGD_FUZZ_ROUNDS` makes it longer; a failure names its seed.

use prost::Message;

use super::fixture::{Bed, frame};
use crate::grpc;
use crate::proto::etcdserverpb::{
    AlarmRequest, CompactionRequest, Compare, DeleteRangeRequest, HashKvRequest, LeaseGrantRequest,
    LeaseKeepAliveRequest, LeaseTimeToLiveRequest, PutRequest, RangeRequest, RequestOp, TxnRequest,
    WatchCancelRequest, WatchCreateRequest, WatchProgressRequest, WatchRequest, compare,
    request_op, watch_request,
};
use crate::rpc::method::METHODS;

/// SplitMix64 (Steele et al. 2014).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound.max(1) as u64) as usize
    }
}

fn rounds() -> u64 {
    std::env::var("RINGD_FUZZ_ROUNDS").map_or(40, |rounds| rounds.parse().expect("a number"))
}

/// Messages with every field set, of all kinds.
fn samples() -> Vec<Vec<u8>> {
    let key = || b"key".to_vec().into();
    let end = || b"kez".to_vec().into();
    let range = RangeRequest {
        key: key(),
        range_end: end(),
        limit: 3,
        revision: 2,
        sort_order: 2,
        sort_target: 4,
        serializable: true,
        keys_only: true,
        count_only: true,
        min_mod_revision: 1,
        max_mod_revision: 9,
        min_create_revision: 1,
        max_create_revision: 9,
    };
    let put = PutRequest {
        key: key(),
        value: b"value".to_vec().into(),
        lease: 5,
        prev_kv: true,
        ignore_value: false,
        ignore_lease: false,
    };
    let delete = DeleteRangeRequest { key: key(), range_end: end(), prev_kv: true };
    let op = |request| RequestOp { request: Some(request) };
    let compare = Compare {
        result: 1,
        target: 3,
        key: key(),
        range_end: end(),
        target_union: Some(compare::TargetUnion::Value(b"v".to_vec().into())),
    };
    let inner = TxnRequest {
        compare: vec![compare.clone()],
        success: vec![op(request_op::Request::RequestPut(put.clone()))],
        failure: vec![op(request_op::Request::RequestRange(range.clone()))],
    };
    let txn = TxnRequest {
        compare: vec![compare],
        success: vec![
            op(request_op::Request::RequestDeleteRange(delete.clone())),
            op(request_op::Request::RequestTxn(inner)),
        ],
        failure: vec![op(request_op::Request::RequestPut(put.clone()))],
    };
    let watch = |union| WatchRequest { request_union: Some(union) }.encode_to_vec();
    let create = WatchCreateRequest {
        key: key(),
        range_end: end(),
        start_revision: 1,
        progress_notify: true,
        filters: vec![0, 1],
        prev_kv: true,
        watch_id: 3,
        fragment: true,
    };
    vec![
        Vec::new(),
        RangeRequest { sort_order: 0, count_only: false, ..range.clone() }.encode_to_vec(),
        range.encode_to_vec(),
        put.encode_to_vec(),
        PutRequest { lease: 0, ..put }.encode_to_vec(),
        delete.encode_to_vec(),
        txn.encode_to_vec(),
        CompactionRequest { revision: 3, physical: true }.encode_to_vec(),
        watch(watch_request::RequestUnion::CreateRequest(create)),
        watch(watch_request::RequestUnion::CancelRequest(WatchCancelRequest { watch_id: 3 })),
        watch(watch_request::RequestUnion::ProgressRequest(WatchProgressRequest {})),
        LeaseGrantRequest { ttl: 60, id: 5 }.encode_to_vec(),
        LeaseKeepAliveRequest { id: 5 }.encode_to_vec(),
        LeaseTimeToLiveRequest { id: 5, keys: true }.encode_to_vec(),
        AlarmRequest { action: 1, member_id: 7, alarm: 1 }.encode_to_vec(),
        HashKvRequest { revision: 2 }.encode_to_vec(),
    ]
}

fn damage(random: &mut Random, bytes: &mut Vec<u8>, samples: &[Vec<u8>]) {
    const EXTREMES: [&[u8]; 6] = [
        b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
        b"\x80\x80\x80\x80\x80\x80\x80\x80\x80\x01",
        b"\xff\xff\xff\xff\x0f",
        b"\x00",
        b"\x7f",
        b"\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80",
    ];
    for _ in 0..random.below(4) {
        let at = random.below(bytes.len() + 1);
        match random.below(7) {
            0 if at < bytes.len() => bytes[at] ^= 1 << random.below(8),
            1 if at < bytes.len() => bytes[at] = random.next() as u8,
            2 => bytes.truncate(at),
            3 => drop(bytes.splice(at..at, EXTREMES[random.below(EXTREMES.len())].iter().copied())),
            4 if at < bytes.len() => drop(bytes.remove(at)),
            5 => {
                // A part of another message, as a field of this one.
                let other = &samples[random.below(samples.len())];
                let from = random.below(other.len() + 1);
                drop(bytes.splice(at..at, other[from..].iter().copied()));
            }
            _ => {
                // Wrapped into a field, which makes messages nest.
                let len = bytes.len();
                if len < 120 {
                    let tag = (1 + random.below(5)) << 3 | 2;
                    drop(bytes.splice(0..0, [tag as u8, len as u8]));
                }
            }
        }
    }
}

fn run(seed: u64) {
    let mut random = Random(seed);
    let samples = samples();
    let mut bed = Bed::ready();
    let mut peer = bed.connect();
    peer.send(&mut bed, &frame(8, 0, 0, &0x7000_0000u32.to_be_bytes()));
    let mut whole = Vec::new();
    for _ in 0..400 {
        let method = &METHODS[random.below(METHODS.len())];
        let mut message = samples[random.below(samples.len())].clone();
        damage(&mut random, &mut message, &samples);
        let mut framed = [&grpc::encode_prefix(message.len())[..], &message].concat();
        let is_framed = random.below(8) != 0;
        if !is_framed {
            damage(&mut random, &mut framed, &samples);
        }
        let encoding: &[(&[u8], &[u8])] = match random.below(8) {
            0 => &[(b"grpc-encoding", b"gzip")],
            1 => &[(b"grpc-timeout", b"10m")],
            _ => &[],
        };
        let stream = peer.open(&mut bed, method.path, encoding);
        let mut rest = &framed[..];
        while !rest.is_empty() {
            let (now, later) = rest.split_at(1 + random.below(rest.len()));
            rest = later;
            peer.send(&mut bed, &frame(0, 0, stream, now));
        }
        peer.send(&mut bed, &frame(0, 1, stream, &[]));
        // Some wait for others, or go on for ever.
        let never_ends =
            ["Watch", "Snapshot", "Lock", "Campaign", "Observe"].contains(&method.name);
        if is_framed && !never_ends {
            whole.push((stream, method.path, message));
        }
        if random.below(6) == 0 {
            bed.settle();
        }
        if random.below(40) == 0 {
            peer.take(&mut bed);
        }
    }
    // The server may have had enough of a client whose requests are all wrong; it never says nothing.
    for _ in 0..4 {
        bed.settle();
        bed.now_ms += 10_000;
    }
    peer.take(&mut bed);
    for (stream, path, message) in whole {
        let answer = peer.answers.get(&stream);
        let is_answered =
            answer.is_some_and(|answer| answer.status.is_some() || answer.reset.is_some());
        assert!(is_answered, "{path} was not answered: {message:?}");
    }
}

#[test]
fn requests_that_are_almost_right_do_no_harm() {
    for seed in 0..rounds() {
        let outcome = std::panic::catch_unwind(|| run(seed));
        assert!(outcome.is_ok(), "seed {seed}: replay with run({seed})");
    }
}
