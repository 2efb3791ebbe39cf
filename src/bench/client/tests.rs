//! The client against the server side of the repository, and against frames by hand.

use bytes::Bytes;

use super::*;
use crate::h2::{self, Limits};

/// A server that answers every whole request with what `answer` makes of its data.
struct Echo {
    connection: h2::Connection,
    bodies: FxHashMap<u32, Vec<u8>>,
}

impl Echo {
    fn new(limits: Limits) -> Echo {
        Echo { connection: h2::Connection::new(limits), bodies: FxHashMap::default() }
    }

    fn turn(&mut self, input: &[u8]) -> Vec<u8> {
        self.connection.receive(Bytes::copy_from_slice(input), 1).unwrap();
        while let Some(event) = self.connection.poll_event() {
            match event {
                h2::Event::Data { stream, data, end_stream } => {
                    let body = self.bodies.entry(stream.0).or_default();
                    body.extend_from_slice(&data);
                    if end_stream {
                        let body = std::mem::take(body);
                        let head = h2::encode_block(&[
                            (b":status", b"200"),
                            (b"content-type", b"application/grpc"),
                        ]);
                        let tail = h2::encode_block(&[(b"grpc-status", b"0")]);
                        self.connection.send_headers(stream, &head, false);
                        self.connection.send_data(stream, Bytes::from(body), false);
                        self.connection.send_headers(stream, &tail, true);
                    }
                }
                h2::Event::Headers { end_stream, .. } => assert!(!end_stream),
                other => panic!("{other:?}"),
            }
        }
        let mut out = Vec::new();
        self.connection.take_output(usize::MAX, &mut out);
        out
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Seen {
    Message(u32, usize),
    End(u32, Outcome),
}

/// Bytes go to and fro until nobody has any; those for the client come in pieces of `step`.
fn exchange(client: &mut Connection, server: &mut Echo, step: usize) -> Vec<Seen> {
    let mut seen = Vec::new();
    loop {
        let out = client.output().to_vec();
        client.sent(out.len());
        let answer = server.turn(&out);
        if out.is_empty() && answer.is_empty() {
            return seen;
        }
        for part in answer.chunks(step) {
            client
                .receive(part, &mut |event| {
                    seen.push(match event {
                        Event::Message { token, message } => Seen::Message(token, message.len()),
                        Event::End { token, outcome } => Seen::End(token, outcome),
                    });
                })
                .unwrap();
        }
    }
}

#[test]
fn calls_of_all_sizes_come_back_through_windows_of_all_sizes() {
    for (window, step) in [(65_535u32, 100_000), (65_535, 1), (1 << 20, 7), (100, 1_000)] {
        let limits = Limits { stream_window_bytes: window, ..Limits::default() };
        let (mut client, mut server) = (Connection::new("localhost"), Echo::new(limits));
        assert!(!client.is_ready());
        assert_eq!(exchange(&mut client, &mut server, step), []);
        assert!(client.is_ready());
        let sizes = [0usize, 1, 100, 16_000, 16_384, 70_000, 200_000, 5];
        for (token, &size) in sizes.iter().enumerate() {
            client.open(Method::Put, &vec![9; size], Want::Message, token as u32);
        }
        let seen = exchange(&mut client, &mut server, step);
        for (token, &size) in sizes.iter().enumerate() {
            let token = token as u32;
            let message = seen.iter().position(|s| *s == Seen::Message(token, size));
            let end = seen.iter().position(|s| *s == Seen::End(token, Outcome::Ok));
            assert!(message.is_some() && message < end, "{size} octets, window {window}: {seen:?}");
        }
        assert_eq!(seen.len(), 2 * sizes.len());
        assert!(client.is_idle() && !client.is_ending());
    }
}

#[test]
fn windows_that_the_client_opened_are_opened_again() {
    let (mut client, mut server) = (Connection::new("a"), Echo::new(Limits::default()));
    exchange(&mut client, &mut server, 1 << 20);
    let size = 1 << 20;
    for round in 0..=CONNECTION_WINDOW_BYTES / size {
        client.open(Method::Put, &vec![1; size as usize], Want::Nothing, round);
        let seen = exchange(&mut client, &mut server, 1 << 20);
        assert_eq!(seen, [Seen::Message(round, 0), Seen::End(round, Outcome::Ok)]);
    }
}

fn frame_of(kind: Kind, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    FrameHeader { length: payload.len(), kind, flags, stream: StreamId(stream) }.write(&mut out);
    out.extend_from_slice(payload);
    out
}

/// Ready, and with one call on stream 1.
fn started() -> Connection {
    let mut client = Connection::new("localhost");
    receive(&mut client, &frame_of(Kind::Settings, 0, 0, &[])).unwrap();
    client.open(Method::Range, b"x", Want::Message, 42);
    let length = client.output().len();
    client.sent(length);
    client
}

fn receive(client: &mut Connection, input: &[u8]) -> Result<Vec<Seen>, Broken> {
    let mut seen = Vec::new();
    client.receive(input, &mut |event| {
        seen.push(match event {
            Event::Message { token, message } => Seen::Message(token, message.len()),
            Event::End { token, outcome } => Seen::End(token, outcome),
        });
    })?;
    Ok(seen)
}

fn headers(fields: &[(&[u8], &[u8])], flags: u8) -> Vec<u8> {
    frame_of(Kind::Headers, flags | flags::END_HEADERS, 1, &h2::encode_block(fields))
}

#[test]
fn every_way_in_which_a_call_can_end_is_told_apart() {
    let ok: &[(&[u8], &[u8])] = &[(b":status", b"200")];
    let status = |code: u32, text: &str| Outcome::Status(code, text.to_owned());
    let only = |fields: &[(&[u8], &[u8])]| headers(fields, flags::END_STREAM);
    let reset = frame_of(Kind::RstStream, 0, 1, &7u32.to_be_bytes());
    let cases = [
        (
            only(&[(b":status", b"200"), (b"grpc-status", b"8"), (b"grpc-message", b"too%20many")]),
            status(8, "too many"),
        ),
        (only(&[(b":status", b"503")]), Outcome::Http(503)),
        (only(&[(b"grpc-status", b"0")]), Outcome::Http(0)),
        (only(ok), Outcome::Malformed),
        ([headers(ok, 0), only(&[(b"grpc-status", b"0")])].concat(), Outcome::Ok),
        (
            [headers(ok, 0), frame_of(Kind::Data, flags::END_STREAM, 1, &[])].concat(),
            Outcome::Malformed,
        ),
        (
            [
                headers(ok, 0),
                frame_of(Kind::Data, 0, 1, &[0, 0, 0, 0, 9, 1]),
                only(&[(b"grpc-status", b"0")]),
            ]
            .concat(),
            Outcome::Malformed,
        ),
        (
            [
                headers(ok, 0),
                frame_of(Kind::Data, 0, 1, &[1, 0, 0, 0, 0]),
                only(&[(b"grpc-status", b"0")]),
            ]
            .concat(),
            Outcome::Malformed,
        ),
        (reset.clone(), Outcome::Reset(ErrorCode::REFUSED_STREAM)),
        ([headers(ok, 0), reset].concat(), Outcome::Reset(ErrorCode::REFUSED_STREAM)),
        (frame_of(Kind::GoAway, 0, 0, &[0; 8]), Outcome::Refused),
    ];
    for (input, outcome) in cases {
        let mut client = started();
        let seen = receive(&mut client, &input).unwrap();
        assert_eq!(seen, [Seen::End(42, outcome)]);
        assert!(client.is_idle());
    }
}

#[test]
fn a_server_that_goes_away_finishes_what_it_has_begun() {
    let mut client = started();
    let mut last = vec![0, 0, 0, 1];
    last.extend([0; 4]);
    assert_eq!(receive(&mut client, &frame_of(Kind::GoAway, 0, 0, &last)), Ok(vec![]));
    assert!(client.is_ending() && !client.is_idle());
    let answer = headers(&[(b":status", b"200"), (b"grpc-status", b"0")], flags::END_STREAM);
    assert_eq!(receive(&mut client, &answer), Ok(vec![Seen::End(42, Outcome::Ok)]));
    assert!(client.is_idle());
}

#[test]
fn pings_and_settings_are_acknowledged_and_acknowledgements_are_not() {
    let mut client = started();
    receive(&mut client, &frame_of(Kind::Ping, 0, 0, b"12345678")).unwrap();
    assert_eq!(client.output(), frame_of(Kind::Ping, flags::ACK, 0, b"12345678"));
    let length = client.output().len();
    client.sent(length);
    receive(&mut client, &frame_of(Kind::Settings, 0, 0, &[0, 3, 0, 0, 0, 9])).unwrap();
    assert_eq!(client.output(), frame_of(Kind::Settings, flags::ACK, 0, &[]));
    assert_eq!(client.concurrent_max(), 9);
    let length = client.output().len();
    client.sent(length);
    receive(&mut client, &frame_of(Kind::Ping, flags::ACK, 0, b"12345678")).unwrap();
    receive(&mut client, &frame_of(Kind::Settings, flags::ACK, 0, &[])).unwrap();
    receive(&mut client, &frame_of(Kind::Unknown(77), 0xff, 5, b"anything")).unwrap();
    assert!(client.output().is_empty());
}

#[test]
fn a_ping_goes_out_and_is_answered() {
    let mut client = Connection::new("localhost");
    let mut server = Echo::new(Limits::default());
    exchange(&mut client, &mut server, 100_000);
    client.ping();
    assert_eq!(client.output(), frame_of(Kind::Ping, 0, 0, &[0; 8]));
    let out = client.output().to_vec();
    client.sent(out.len());
    assert_eq!(server.turn(&out), frame_of(Kind::Ping, flags::ACK, 0, &[0; 8]));
}

#[test]
fn a_header_block_in_pieces_is_one_block() {
    let fields: &[(&[u8], &[u8])] = &[(b":status", b"200"), (b"grpc-status", b"5")];
    let block = h2::encode_block(fields);
    let (first, second) = block.split_at(3);
    let mut client = started();
    let input = [
        frame_of(Kind::Headers, flags::END_STREAM, 1, first),
        frame_of(Kind::Continuation, flags::END_HEADERS, 1, second),
    ];
    let seen = receive(&mut client, &input.concat()).unwrap();
    assert_eq!(seen, [Seen::End(42, Outcome::Status(5, String::new()))]);
    let mut client = started();
    let input = [frame_of(Kind::Headers, 0, 1, first), frame_of(Kind::Ping, 0, 0, &[0; 8])];
    assert!(receive(&mut client, &input.concat()).is_err());
}

#[test]
fn what_is_no_http2_is_said_so() {
    for input in [&b"HTTP/1.1 400 Bad Request\r\n\r\n"[..], b"\x15\x03\x01\x00\x02\x02\x46 alert"] {
        let mut client = Connection::new("localhost");
        assert!(receive(&mut client, input).is_err(), "{input:?}");
    }
    let mut client = Connection::new("localhost");
    assert!(receive(&mut client, &frame_of(Kind::Ping, 0, 0, &[0; 8])).is_err());
}

#[test]
fn noise_never_panics() {
    let mut random = crate::bench::random::Random::new(11);
    let sample = [
        headers(&[(b":status", b"200")], 0),
        frame_of(Kind::Data, 0, 1, &[0, 0, 0, 0, 3, 1, 2, 3, 0]),
        frame_of(Kind::Settings, 0, 0, &[0, 4, 0, 0, 0, 9]),
        frame_of(Kind::WindowUpdate, 0, 1, &[0, 0, 0, 9]),
        frame_of(Kind::GoAway, 0, 0, &[0, 0, 0, 1, 0, 0, 0, 0]),
        headers(&[(b"grpc-status", b"0")], flags::END_STREAM),
    ]
    .concat();
    for _ in 0..20_000 {
        let mut input = sample.clone();
        for _ in 0..=random.below(3) {
            let at = random.below(input.len() as u64) as usize;
            input[at] = random.next() as u8;
        }
        let mut client = started();
        let step = 1 + random.below(40) as usize;
        for part in input.chunks(step) {
            if receive(&mut client, part).is_err() {
                break;
            }
        }
    }
}
