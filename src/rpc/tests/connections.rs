//! What a connection has left behind when it went away is not taken for its successor's, which has its place.

use super::fixture::{Bed, Peer};
use crate::proto::etcdserverpb::{PutRequest, RangeRequest, RangeStreamResponse, SnapshotRequest};
use crate::rpc::limits;

fn filled(keys: usize, value_bytes: usize) -> Bed {
    let mut bed = Bed::ready();
    let mut peer = bed.connect();
    for n in 0..keys {
        let (key, value) = (format!("key-{n}").into(), vec![b'v'; value_bytes].into());
        peer.call(
            &mut bed,
            "/etcdserverpb.KV/Put",
            &PutRequest { key, value, ..Default::default() },
        );
    }
    bed.settle();
    bed.server.disconnect(peer.id);
    bed
}

fn range_stream(bed: &mut Bed, peer: &mut Peer) -> u32 {
    let all = RangeRequest { key: "\0".into(), range_end: "\0".into(), ..Default::default() };
    peer.call(bed, "/etcdserverpb.KV/RangeStream", &all)
}

/// Keys that a stream has told, and how often it has told that it has told all.
fn told(peer: &Peer, stream: u32) -> (usize, usize) {
    let chunks = peer.answers[&stream].messages::<RangeStreamResponse>();
    let ranges = chunks.iter().filter_map(|chunk| chunk.range_response.as_ref());
    let ends = ranges.clone().filter(|range| range.header.is_some()).count();
    (ranges.map(|range| range.kvs.len()).sum(), ends)
}

#[test]
fn a_range_stream_is_not_begun_by_the_read_of_another_connection() {
    let mut bed = filled(10, 10);
    let mut first = bed.connect();
    range_stream(&mut bed, &mut first);
    // Nothing has been read yet.
    bed.server.disconnect(first.id);
    let mut second = bed.connect();
    let stream = range_stream(&mut bed, &mut second);
    bed.settle();
    second.take(&mut bed);
    assert_eq!(second.answer(stream), (Some("0"), ""));
    assert_eq!(told(&second, stream), (10, 1));
}

#[test]
fn snapshots_of_connections_that_are_gone_do_not_count() {
    let mut bed = filled(100, 1_000);
    for _ in 0..3 * limits::SNAPSHOTS_MAX {
        let mut peer = bed.connect();
        peer.call(&mut bed, "/etcdserverpb.Maintenance/Snapshot", &SnapshotRequest {});
        bed.server.disconnect(peer.id);
    }
    let mut peer = bed.connect();
    let stream = peer.call(&mut bed, "/etcdserverpb.Maintenance/Snapshot", &SnapshotRequest {});
    peer.grant(&mut bed, stream, 1 << 20);
    for _ in 0..20 {
        bed.settle();
        peer.take(&mut bed);
    }
    assert_eq!(peer.answer(stream), (Some("0"), ""));
}
