//! Bytes that are no HTTP/2: the connection ends with the error that RFC 9113 names, and nobody else notices.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};

use prost::Message;
use ringd::proto::etcdserverpb as pb;

use crate::block_on;
use crate::client::Client;
use crate::rng::Rng;
use crate::server::{Kind, PATIENCE, Server};

pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const SETTINGS: u8 = 4;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;
pub const END_STREAM: u8 = 1;
pub const END_HEADERS: u8 = 4;

const PROTOCOL_ERROR: u32 = 1;
const FLOW_CONTROL_ERROR: u32 = 3;
const FRAME_SIZE_ERROR: u32 = 6;
const COMPRESSION_ERROR: u32 = 9;

const DAMAGED_SESSIONS: u64 = 300;

pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u32).to_be_bytes();
    let mut frame = vec![length[1], length[2], length[3], kind, flags];
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// Literal fields, never indexed: what a head says must not depend on what came before.
pub fn head(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        for text in [name, value] {
            block.push(text.len() as u8);
            block.extend(text.as_bytes());
        }
    }
    block
}

pub fn call(path: &str) -> [(&str, &str); 6] {
    [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", path),
        (":authority", "localhost"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    ]
}

/// A connection with one whole Range call.
fn session() -> Vec<u8> {
    let block = head(&call("/etcdserverpb.KV/Range"));
    [
        PREFACE,
        &frame(SETTINGS, 0, 0, &[]),
        &frame(HEADERS, END_HEADERS, 1, &block),
        &frame(DATA, END_STREAM, 1, b"\0\0\0\0\x03\x0a\x01a"),
        &frame(PING, 0, 0, b"12345678"),
    ]
    .concat()
}

/// Everything that the server says to these bytes, after which nothing more comes.
fn exchange(addr: SocketAddr, bytes: &[u8]) -> Vec<u8> {
    let mut tcp = TcpStream::connect(addr).expect("a connection");
    tcp.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    // The server may have closed before all is sent.
    let _ = tcp.write_all(bytes);
    let _ = tcp.shutdown(Shutdown::Write);
    let mut answer = Vec::new();
    match tcp.read_to_end(&mut answer) {
        Ok(_) => {}
        Err(err) if err.kind() == std::io::ErrorKind::ConnectionReset => {}
        Err(err) => panic!("the connection stays open: {err}"),
    }
    answer
}

/// The error code of the GOAWAY in an answer.
pub fn goaway(answer: &[u8]) -> Option<u32> {
    let (_, payload) = frames(answer).find(|(kind, _)| *kind == GOAWAY)?;
    payload.get(4..8)?.try_into().ok().map(u32::from_be_bytes)
}

/// A client that watches a key from now on, and after the created response reads nothing any more.
pub fn lazy_watcher(addr: SocketAddr, key: &[u8]) -> TcpStream {
    let create = pb::WatchCreateRequest { key: key.to_vec().into(), ..Default::default() };
    let union = pb::watch_request::RequestUnion::CreateRequest(create);
    let message = pb::WatchRequest { request_union: Some(union) };
    let body = crate::client::frame(&message.encode_to_vec());
    let bytes = [
        PREFACE,
        &frame(SETTINGS, 0, 0, &[]),
        &frame(HEADERS, END_HEADERS, 1, &head(&call("/etcdserverpb.Watch/Watch"))),
        &frame(DATA, 0, 1, &body),
    ]
    .concat();
    let mut tcp = TcpStream::connect(addr).expect("a connection");
    tcp.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    tcp.write_all(&bytes).expect("a request is sent");
    let mut answer = Vec::new();
    while !has_data(&answer) {
        let mut buffer = [0; 1024];
        let length = tcp.read(&mut buffer).expect("an answer");
        assert!(length > 0, "the connection is closed");
        answer.extend(&buffer[..length]);
    }
    tcp
}

fn has_data(answer: &[u8]) -> bool {
    frames(answer).any(|(kind, _)| kind == DATA)
}

/// The whole frames of an answer: kind and payload.
pub fn frames(answer: &[u8]) -> impl Iterator<Item = (u8, &[u8])> {
    let mut rest = answer;
    std::iter::from_fn(move || {
        let (head, tail) = rest.split_first_chunk::<9>()?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let payload = tail.get(..length)?;
        rest = &tail[length..];
        Some((head[3], payload))
    })
}

fn assert_serves(server: &Server) {
    block_on(async {
        let client = Client::connect(server.client).await;
        let range = pb::RangeRequest { key: "a".into(), ..Default::default() };
        let _: pb::RangeResponse = client.call("/etcdserverpb.KV/Range", &range).await.message();
    });
}

#[test]
fn malformed_frames_end_their_connection_with_the_error_of_the_rfc() {
    let server = Server::start(Kind::Ringd, &[]);
    let empty = frame(SETTINGS, 0, 0, &[]);
    let big_update = frame(WINDOW_UPDATE, 0, 0, &0x7fff_ffff_u32.to_be_bytes());
    let headers = |stream, block: &[u8]| frame(HEADERS, END_HEADERS, stream, block);
    let cases: Vec<(&str, Vec<u8>, u32)> = vec![
        ("no SETTINGS first", frame(PING, 0, 0, &[0; 8]), PROTOCOL_ERROR),
        ("DATA on stream 0", [&empty[..], &frame(DATA, 0, 0, b"x")].concat(), PROTOCOL_ERROR),
        ("DATA on an idle stream", [&empty[..], &frame(DATA, 0, 5, b"x")].concat(), PROTOCOL_ERROR),
        ("HEADERS on an even stream", [&empty[..], &headers(2, b"\x82")].concat(), PROTOCOL_ERROR),
        ("HPACK index 0", [&empty[..], &headers(1, b"\x80")].concat(), COMPRESSION_ERROR),
        (
            "HPACK index far out",
            [&empty[..], &headers(1, b"\xff\xff\xff\xff\xff\x7f")].concat(),
            COMPRESSION_ERROR,
        ),
        ("HPACK string cut", [&empty[..], &headers(1, b"\x00\x7fab")].concat(), COMPRESSION_ERROR),
        ("half a SETTINGS", frame(SETTINGS, 0, 0, &[0; 5]), FRAME_SIZE_ERROR),
        ("short PING", [&empty[..], &frame(PING, 0, 0, &[0; 7])].concat(), FRAME_SIZE_ERROR),
        ("large frame", [&empty[..], &frame(DATA, 0, 1, &[0; 20_000])].concat(), FRAME_SIZE_ERROR),
        (
            "CONTINUATION alone",
            [&empty[..], &frame(CONTINUATION, 0, 1, b"")].concat(),
            PROTOCOL_ERROR,
        ),
        (
            "PING amid HEADERS",
            [&empty[..], &frame(HEADERS, 0, 1, b"\x82"), &frame(PING, 0, 0, &[0; 8])].concat(),
            PROTOCOL_ERROR,
        ),
        (
            "window of 0",
            [&empty[..], &frame(WINDOW_UPDATE, 0, 0, &[0; 4])].concat(),
            PROTOCOL_ERROR,
        ),
        ("window too large", [&empty[..], &big_update, &big_update].concat(), FLOW_CONTROL_ERROR),
        ("server push", frame(SETTINGS, 0, 0, &[0, 2, 0, 0, 0, 7]), PROTOCOL_ERROR),
    ];
    for (what, frames, code) in cases {
        let answer = exchange(server.client, &[PREFACE, &frames].concat());
        assert_eq!(goaway(&answer), Some(code), "{what}: {answer:?}");
    }
    assert_serves(&server);
}

#[test]
fn damaged_sessions_harm_nobody_else() {
    let server = Server::start(Kind::Ringd, &[]);
    let whole = session();
    assert_eq!(goaway(&exchange(server.client, &whole)), None, "the session itself is well");
    for seed in 0..DAMAGED_SESSIONS {
        let mut rng = Rng::new(seed);
        let mut bytes = whole.clone();
        for _ in 0..1 + rng.below(6) {
            let at = rng.below(bytes.len());
            match rng.below(4) {
                0 => bytes[at] ^= 1 << rng.below(8),
                1 => bytes[at] = rng.next() as u8,
                2 => bytes.truncate(at + 1),
                _ => bytes.extend((0..rng.below(40)).map(|_| 0xff)),
            }
        }
        // Whatever it says: the connection ends, since nothing more comes.
        exchange(server.client, &bytes);
    }
    assert_serves(&server);
}
