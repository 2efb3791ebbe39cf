//! HTTP/2 and gRPC without sockets: header blocks, frames, and whole unary calls through the state machine.
//! `cargo bench --bench h2`.

#[path = "../common/instructions.rs"]
mod instructions;

use std::hint::black_box;
use std::time::Duration;

use bytes::Bytes;
use criterion::{Criterion, Throughput};

use instructions::report;
use ringd::grpc;
use ringd::h2::hpack::Decoder;
use ringd::h2::{Connection, Event, Limits, PREFACE, encode_block};

/// Calls in one read of a socket, as of a client with so many in flight.
const CALLS: usize = 32;
const REQUEST_BYTES: usize = 270;
const REPLY_BYTES: usize = 30;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut frame = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// The fields of a Go client, each put into the dynamic table.
fn first_block() -> Vec<u8> {
    let mut block = vec![0x83, 0x86];
    let fields: [(&[u8], &[u8]); 5] = [
        (b":path", b"/etcdserverpb.KV/Put"),
        (b":authority", b"127.0.0.1:2379"),
        (b"content-type", b"application/grpc"),
        (b"user-agent", b"grpc-go/1.82.1"),
        (b"te", b"trailers"),
    ];
    for (name, value) in fields {
        block.push(0x40);
        for text in [name, value] {
            block.push(text.len() as u8);
            block.extend(text);
        }
    }
    block
}

/// The same from the table.
const NEXT_BLOCK: [u8; 7] = [0x83, 0x86, 0xc2, 0xc1, 0xc0, 0xbf, 0xbe];

/// A client's side of a connection, which sends the same calls again and again.
struct Exchange {
    connection: Connection,
    input: Vec<u8>,
    /// Where in `input` the stream identifiers stand.
    places: Vec<usize>,
    next_stream: u32,
    headers: Vec<u8>,
    trailers: Vec<u8>,
    output: Vec<u8>,
}

impl Exchange {
    fn new() -> Exchange {
        let mut connection = Connection::new(Limits::default());
        let settings = frame(4, 0, 0, &[0, 4, 0x7f, 0xff, 0xff, 0xff]);
        let first =
            [&PREFACE[..], &settings, &frame(4, 1, 0, &[]), &frame(1, 5, 1, &first_block())]
                .concat();
        connection.receive(first.into(), 0).expect("a preface");
        while connection.poll_event().is_some() {}
        let message = [&grpc::encode_prefix(REQUEST_BYTES)[..], &[b'x'; REQUEST_BYTES]].concat();
        let mut input = frame(8, 0, 0, &((CALLS * (REPLY_BYTES + 5)) as u32).to_be_bytes());
        let mut places = Vec::new();
        for _ in 0..CALLS {
            for (kind, flags, payload) in [(1, 4, &NEXT_BLOCK[..]), (0, 1, &message[..])] {
                places.push(input.len() + 5);
                input.extend(frame(kind, flags, 0, payload));
            }
        }
        Exchange {
            connection,
            input,
            places,
            next_stream: 3,
            headers: encode_block(&[(b":status", b"200"), (b"content-type", b"application/grpc")]),
            trailers: encode_block(&[(b"grpc-status", b"0"), (b"grpc-message", b"")]),
            output: Vec::new(),
        }
    }

    fn is_used_up(&self) -> bool {
        self.next_stream > 1 << 30
    }

    /// [`CALLS`] calls: in, answered, out.
    fn run(&mut self) -> usize {
        for pair in self.places.chunks(2) {
            for place in pair {
                self.input[*place..place + 4].copy_from_slice(&self.next_stream.to_be_bytes());
            }
            self.next_stream += 2;
        }
        let input = Bytes::copy_from_slice(&self.input);
        self.connection.receive(input, 1).expect("a client that behaves");
        let reply = [&grpc::encode_prefix(REPLY_BYTES)[..], &[b'y'; REPLY_BYTES]].concat();
        let mut decoder = grpc::Decoder::new(1 << 20);
        while let Some(event) = self.connection.poll_event() {
            if let Event::Data { stream, data, end_stream: true } = event {
                decoder.push(data);
                black_box(decoder.next_message().expect("a message"));
                self.connection.respond(stream, &self.headers, &reply[..], &self.trailers);
            }
        }
        self.output.clear();
        self.connection.take_output(1 << 20, &mut self.output);
        self.output.len()
    }
}

fn main() {
    let mut criterion = Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1))
        .without_plots()
        .configure_from_args();

    let (first, next) = (first_block(), NEXT_BLOCK);
    let mut decode = criterion.benchmark_group("hpack");
    decode.throughput(Throughput::Elements(1));
    decode.bench_function("decode a block of the table", |bencher| {
        let mut decoder = Decoder::default();
        decoder.decode(&first, 16_384, &mut |field| drop(black_box(field))).expect("a block");
        bencher.iter(|| decoder.decode(&next, 16_384, &mut |field| drop(black_box(field))));
    });
    decode.bench_function("decode a block of literals", |bencher| {
        bencher.iter(|| {
            Decoder::default().decode(&first, 16_384, &mut |field| drop(black_box(field)))
        });
    });
    decode.finish();

    let mut frames = criterion.benchmark_group("frames");
    frames.throughput(Throughput::Elements(1_000));
    let windows = frame(8, 0, 0, &[0, 0, 0, 1]).repeat(1_000);
    frames.bench_function("1,000 WINDOW_UPDATE", |bencher| {
        let mut connection = Exchange::new().connection;
        let mut left = 1 << 20;
        bencher.iter(|| {
            left -= 1;
            if left % 1_000_000 == 0 {
                connection = Exchange::new().connection;
            }
            connection.receive(Bytes::copy_from_slice(&windows), 1).is_ok()
        });
    });
    frames.finish();

    let mut unary = criterion.benchmark_group("unary");
    unary.throughput(Throughput::Elements(CALLS as u64));
    unary.bench_function("calls in one read", |bencher| {
        let mut exchange = Exchange::new();
        bencher.iter(|| {
            if exchange.is_used_up() {
                exchange = Exchange::new();
            }
            exchange.run()
        });
    });
    unary.finish();
    criterion.final_summary();

    let mut exchange = Exchange::new();
    assert!(exchange.run() > CALLS * (REPLY_BYTES + 5), "all calls are answered");
    report("unary/calls in one read", 1_000 * CALLS as u64, || {
        (0..1_000).for_each(|_| assert!(exchange.run() > 0));
    });
    let mut decoder = Decoder::default();
    decoder.decode(&first, 16_384, &mut |field| drop(black_box(field))).expect("a block");
    report("hpack/decode a block of the table", 10_000, || {
        for _ in 0..10_000 {
            let _ = decoder.decode(&next, 16_384, &mut |field| drop(black_box(field)));
        }
    });
}
