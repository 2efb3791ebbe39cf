//! Requests over HTTP/2 that are no gRPC calls: a client may be sending when the answer is already known.

use super::fixture::{Bed, Peer, frame};
use crate::h2::{ErrorCode, encode_block};

/// HEADERS without END_STREAM of a request that names no content type.
fn begin(bed: &mut Bed, peer: &mut Peer, method: &[u8], stream: u32) {
    let fields: [(&[u8], &[u8]); 4] = [
        (b":method", method),
        (b":scheme", b"http"),
        (b":path", b"/version"),
        (b":authority", b"test"),
    ];
    peer.send(bed, &frame(1, 4, stream, &encode_block(&fields)));
    bed.settle();
    peer.take(bed);
    assert!(!peer.answers.contains_key(&stream), "an answer to half a request");
}

#[test]
fn an_answer_does_not_overtake_malformed_trailers() {
    let mut bed = Bed::ready();
    let mut peer = bed.connect();
    for (stream, method) in [(1, &b"POST"[..]), (3, b"GET")] {
        begin(&mut bed, &mut peer, method, stream);
        let trailers = encode_block(&[(b":method", b"POST")]);
        peer.send(&mut bed, &frame(1, 5, stream, &trailers));
        bed.settle();
        peer.take(&mut bed);
        let answer = &peer.answers[&stream];
        assert_eq!(answer.reset, Some(ErrorCode::PROTOCOL_ERROR.0));
        assert!(answer.data.is_empty() && answer.status.is_none());
    }
}

#[test]
fn an_answer_follows_the_end_of_its_request_and_no_reset_follows_it() {
    let mut bed = Bed::ready();
    let mut peer = bed.connect();
    begin(&mut bed, &mut peer, b"POST", 1);
    begin(&mut bed, &mut peer, b"GET", 3);
    for stream in [1, 3] {
        peer.send(&mut bed, &frame(0, 0, stream, b"a body"));
        peer.send(&mut bed, &frame(0, 1, stream, b" and its end"));
    }
    bed.settle();
    peer.take(&mut bed);
    let (refused, served) = (&peer.answers[&1], &peer.answers[&3]);
    assert_eq!((refused.status.as_deref(), refused.reset), (Some("3"), None));
    assert!(served.data.starts_with(b"{\"etcdserver\""), "{served:?}");
    assert_eq!(served.reset, None);
}
