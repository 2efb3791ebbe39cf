//! The JSON gateway over HTTP/2 and HTTP/1.1, as far as it is about streams and connections.

use bytes::Bytes;

use super::fixture::{Bed, Peer, frame};
use crate::grpc;
use crate::h2::encode_block;
use crate::proto::etcdserverpb::{PutRequest, WatchCreateRequest, WatchRequest, watch_request};
use crate::rpc::{ConnId, ListenerKind};

fn post(bed: &mut Bed, peer: &mut Peer, stream: u32, path: &str, pieces: &[&str], end: bool) {
    let fields: [(&[u8], &[u8]); 5] = [
        (b":method", b"POST"),
        (b":scheme", b"http"),
        (b":path", path.as_bytes()),
        (b":authority", b"test"),
        (b"content-type", b"application/json"),
    ];
    peer.send(bed, &frame(1, 4, stream, &encode_block(&fields)));
    for (at, piece) in pieces.iter().enumerate() {
        let flags = u8::from(end && at + 1 == pieces.len());
        peer.send(bed, &frame(0, flags, stream, piece.as_bytes()));
    }
    bed.settle();
    peer.take(bed);
}

fn text(peer: &Peer, stream: u32) -> String {
    peer.answers
        .get(&stream)
        .map(|answer| String::from_utf8_lossy(&answer.data).into_owned())
        .unwrap_or_default()
}

#[test]
fn calls_come_by_http2_in_any_pieces() {
    let mut bed = Bed::ready();
    let mut peer = bed.connect();
    let put = [r#"{"key":"#, r#""YQ==","val"#, r#"ue":"Yg=="}"#];
    post(&mut bed, &mut peer, 1, "/v3/kv/put", &put, true);
    assert!(text(&peer, 1).starts_with(r#"{"header":{"#), "{}", text(&peer, 1));
    post(&mut bed, &mut peer, 3, "/v3/kv/range", &[r#"{"key":"YQ=="}"#], true);
    assert!(text(&peer, 3).ends_with(r#""value":"Yg=="}],"count":"1"}"#), "{}", text(&peer, 3));
    post(&mut bed, &mut peer, 5, "/v3/kv/range", &["{"], true);
    assert_eq!(text(&peer, 5), r#"{"code":3,"message":"unexpected EOF"}"#);
    post(&mut bed, &mut peer, 7, "/v3/nowhere", &["{}"], true);
    assert_eq!(text(&peer, 7), r#"{"code":5,"message":"Not Found"}"#);
}

#[test]
fn a_watch_is_a_stream_both_ways_and_ends_with_its_client() {
    let mut bed = Bed::ready();
    let mut peer = bed.connect();
    let create = r#"{"create_request":{"key":"YQ==","watch_id":"5"}}"#;
    post(&mut bed, &mut peer, 1, "/v3/watch", &[create], false);
    assert!(text(&peer, 1).contains(r#""watch_id":"5","created":true"#), "{}", text(&peer, 1));
    post(&mut bed, &mut peer, 3, "/v3/kv/put", &[r#"{"key":"YQ=="}"#], true);
    // More messages while it goes on, and events after the last.
    peer.send(&mut bed, &frame(0, 1, 1, br#"{"progress_request":{}}"#));
    bed.settle();
    post(&mut bed, &mut peer, 5, "/v3/kv/put", &[r#"{"key":"YQ=="}"#], true);
    let lines: Vec<String> = text(&peer, 1).lines().map(str::to_owned).collect();
    assert_eq!(lines.len(), 4, "{lines:#?}");
    assert!(lines[1].contains(r#""events":[{"kv":{"key":"YQ==""#), "{}", lines[1]);
    assert!(lines[2].contains(r#""watch_id":"-1""#), "{}", lines[2]);
    assert!(lines[3].contains(r#""version":"2""#), "{}", lines[3]);
    assert_eq!(bed.server.core.hub.len(), 1);
    // RST_STREAM: nothing of it is left.
    peer.send(&mut bed, &frame(3, 0, 1, &8_u32.to_be_bytes()));
    bed.settle();
    assert_eq!(bed.server.core.hub.len(), 0);
}

#[test]
fn a_watch_whose_client_sends_no_more_goes_on() {
    let mut bed = Bed::ready();
    let mut peer = bed.connect();
    let stream = peer.open(&mut bed, "/etcdserverpb.Watch/Watch", &[]);
    let create = WatchCreateRequest { key: "a".into(), ..Default::default() };
    let create = watch_request::RequestUnion::CreateRequest(create);
    peer.message(&mut bed, stream, &WatchRequest { request_union: Some(create) }, true);
    bed.settle();
    let put = PutRequest { key: "a".into(), ..Default::default() };
    peer.call(&mut bed, "/etcdserverpb.KV/Put", &put);
    bed.settle();
    peer.take(&mut bed);
    assert_eq!(peer.answers[&stream].status, None);
    let mut decoder = grpc::Decoder::new(1 << 20);
    decoder.push(peer.answers[&stream].data.clone().into());
    let mut messages = 0;
    while decoder.next_message().unwrap().is_some() {
        messages += 1;
    }
    assert_eq!(messages, 2, "created, and an event");
}

/// What an HTTP/1.1 connection answers.
fn http1(bed: &mut Bed, pieces: &[&str]) -> (ConnId, String) {
    let id = bed.server.connect(ListenerKind::Client, bed.now_ms).unwrap();
    for piece in pieces {
        bed.server.receive(id, Bytes::copy_from_slice(piece.as_bytes()), bed.now_ms);
        bed.settle();
    }
    (id, output(bed, id))
}

fn output(bed: &mut Bed, id: ConnId) -> String {
    let mut out = Vec::new();
    let mut before = usize::MAX;
    while out.len() != before {
        before = out.len();
        bed.server.take_output(id, 1 << 20, &mut out);
        bed.settle();
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[test]
fn requests_of_a_connection_are_answered_in_their_order() {
    let mut bed = Bed::ready();
    let two = "POST /v3/kv/put HTTP/1.1\r\nHost: x\r\nContent-Length: 14\r\n\r\n{\"key\":\"YQ==\"}\
               GET /nonsense HTTP/1.1\r\nHost: x\r\n\r\n\
               POST /v3/kv/range HTTP/1.1\r\nHost: x\r\nContent-Length: 14\r\n\r\n{\"key\":\"YQ==\"}";
    let (_, answers) = http1(&mut bed, &[two]);
    let at = |part: &str| answers.find(part).unwrap_or_else(|| panic!("no {part} in {answers}"));
    assert!(at("\"revision\":\"2\"") < at("404 page not found"), "{answers}");
    assert!(at("404 page not found") < at("\"kvs\":["), "{answers}");
}

#[test]
fn a_connection_that_goes_away_leaves_no_watcher() {
    let mut bed = Bed::ready();
    let body = r#"{"create_request":{"key":"YQ=="}}"#;
    let head =
        format!("POST /v3/watch HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n", body.len());
    let (id, answer) = http1(&mut bed, &[&head, body]);
    assert!(
        answer.contains("Transfer-Encoding: chunked") && answer.contains("created"),
        "{answer}"
    );
    assert_eq!(bed.server.core.hub.len(), 1);
    bed.server.disconnect(id);
    assert_eq!(bed.server.core.hub.len(), 0);
}

#[test]
fn a_timeout_of_the_client_is_told() {
    let mut bed = Bed::ready();
    let lock = |fields: &str| {
        format!(
            "POST /v3/lock/lock HTTP/1.1\r\nHost: x\r\nContent-Length: 19\r\n{fields}\r\n{{\"name\":\"bG9jaw==\"}}"
        )
    };
    let (_, answer) = http1(&mut bed, &[&lock("")]);
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    let (id, answer) = http1(&mut bed, &[&lock("Grpc-Timeout: 500m\r\n")]);
    assert_eq!(answer, "");
    bed.now_ms += 1_000;
    bed.settle();
    let answer = output(&mut bed, id);
    assert!(answer.starts_with("HTTP/1.1 504 "), "{answer}");
    assert!(answer.ends_with(r#"{"code":4,"message":"context deadline exceeded"}"#), "{answer}");
}

#[test]
fn a_request_that_grows_without_end_is_refused() {
    let mut bed = Bed::ready();
    let piece = "A".repeat(1 << 20);
    let mut pieces =
        vec!["POST /v3/kv/put HTTP/1.1\r\nHost: x\r\nContent-Length: 9000000\r\n\r\n{\"key\":\""];
    pieces.extend([piece.as_str(); 8]);
    let rest = "A".repeat(9_000_000 - 8 - (8 << 20));
    pieces.push(&rest);
    let (_, answer) = http1(&mut bed, &pieces);
    assert!(answer.starts_with("HTTP/1.1 429 "), "{}", &answer[..answer.len().min(200)]);
    assert!(answer.contains("received message larger than max"), "{answer}");
}

#[test]
fn a_page_whose_timeout_cannot_be_read_is_told_and_its_socket_closed() {
    let mut bed = Bed::ready();
    for path in ["/v3/watch", "/v3/maintenance/snapshot"] {
        let head = format!(
            "GET {path} HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nGrpc-Timeout: soon\r\n\r\n"
        );
        let (id, answer) = http1(&mut bed, &[&head]);
        assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
        let told = r#"{"code":3,"message":"invalid grpc-timeout: soon"}"#;
        assert!(answer.contains(told), "{path}: {answer}");
        // A frame that closes, with the status of an ordinary end.
        assert!(answer.ends_with("\u{fffd}\u{2}\u{3}\u{fffd}"), "{path}: {answer:?}");
        assert!(bed.server.should_close(id), "{path}");
    }
}
