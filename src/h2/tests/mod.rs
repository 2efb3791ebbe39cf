//! A client to drive the server side with, and the tests of whole connections.

mod exchange;
mod floods;
mod flow;
mod fuzz;
mod script;
mod timeouts;

use bytes::Bytes;

use super::frame::{FrameHeader, HEADER_LEN, Kind, PREFACE, flags};
use super::*;

const ES: u8 = flags::END_STREAM;
const EH: u8 = flags::END_HEADERS;
const ACK: u8 = flags::ACK;

#[derive(Debug, Clone, PartialEq, Eq)]
struct Frame {
    kind: Kind,
    flags: u8,
    stream: u32,
    payload: Vec<u8>,
}

fn frame(kind: Kind, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    FrameHeader { length: payload.len(), kind, flags, stream: StreamId(stream) }.write(&mut out);
    out.extend_from_slice(payload);
    out
}

fn settings(entries: &[(u16, u32)]) -> Vec<u8> {
    let payload: Vec<u8> = entries
        .iter()
        .flat_map(|(id, value)| [&id.to_be_bytes()[..], &value.to_be_bytes()].concat())
        .collect();
    frame(Kind::Settings, 0, 0, &payload)
}

fn window_update(stream: u32, increment: u32) -> Vec<u8> {
    frame(Kind::WindowUpdate, 0, stream, &increment.to_be_bytes())
}

fn request_block() -> Vec<u8> {
    encode_block(&[
        (b":method", b"POST"),
        (b":scheme", b"http"),
        (b":path", b"/etcdserverpb.KV/Put"),
        (b":authority", b"localhost:2379"),
        (b"content-type", b"application/grpc"),
        (b"te", b"trailers"),
    ])
}

fn request(stream: u32, flags: u8) -> Vec<u8> {
    frame(Kind::Headers, EH | flags, stream, &request_block())
}

/// Preface, SETTINGS, and the acknowledgement of the server's.
fn client_preface(entries: &[(u16, u32)]) -> Vec<u8> {
    [&PREFACE[..], &settings(entries), &frame(Kind::Settings, ACK, 0, &[])].concat()
}

fn parse(mut octets: &[u8]) -> Vec<Frame> {
    let mut frames = Vec::new();
    while let Some(header) = FrameHeader::parse(octets) {
        let end = HEADER_LEN + header.length;
        let payload = octets[HEADER_LEN..end].to_vec();
        let FrameHeader { kind, flags, stream: StreamId(stream), .. } = header;
        frames.push(Frame { kind, flags, stream, payload });
        octets = &octets[end..];
    }
    assert!(octets.is_empty(), "output ends inside a frame header");
    frames
}

fn events(connection: &mut Connection) -> Vec<Event> {
    std::iter::from_fn(|| connection.poll_event()).collect()
}

fn output(connection: &mut Connection) -> Vec<Frame> {
    let mut out = Vec::new();
    connection.take_output(usize::MAX, &mut out);
    parse(&out)
}

/// A connection whose prefaces have been exchanged, with nothing left in its output.
fn started(limits: Limits, entries: &[(u16, u32)]) -> Connection {
    let mut connection = Connection::new(limits);
    connection.receive(Bytes::from(client_preface(entries)), 0).unwrap();
    assert!(events(&mut connection).is_empty());
    output(&mut connection);
    connection
}

/// Encodes like the clients do: everything goes into the dynamic table.
#[derive(Default)]
struct ModelEncoder {
    dynamic: Vec<(String, String)>,
}

impl ModelEncoder {
    fn encode(&mut self, fields: &[(&str, &str)]) -> Vec<u8> {
        self.encode_with(fields, |_| 0)
    }

    fn encode_at_random(&mut self, fields: &[(&str, &str)], numbers: &mut Numbers) -> Vec<u8> {
        self.encode_with(fields, |choices| numbers.below(choices))
    }

    /// 0: by index if there is one; 1: as a literal for the table; 2: as a literal.
    fn encode_with(
        &mut self,
        fields: &[(&str, &str)],
        mut choose: impl FnMut(u64) -> u64,
    ) -> Vec<u8> {
        let mut block = Vec::new();
        for &(name, value) in fields {
            let known = self.dynamic.iter().position(|entry| *entry == (name.into(), value.into()));
            let choice = choose(3);
            if let Some(place) = known.filter(|&place| place < 64 && choice == 0) {
                block.push(0x80 | (62 + place) as u8);
                continue;
            }
            block.push(if choice == 2 { 0x00 } else { 0x40 });
            for text in [name, value] {
                block.push(text.len() as u8);
                block.extend(text.as_bytes());
            }
            if choice == 2 {
                continue;
            }
            self.dynamic.insert(0, (name.into(), value.into()));
            let size = |entry: &(String, String)| entry.0.len() + entry.1.len() + 32;
            while self.dynamic.iter().map(size).sum::<usize>() > 4_096 {
                self.dynamic.pop();
            }
        }
        block
    }
}

/// Numbers for tests that need many: SplitMix64.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    fn pick<'a, T>(&mut self, choices: &'a [T]) -> &'a T {
        &choices[self.below(choices.len() as u64) as usize]
    }
}
