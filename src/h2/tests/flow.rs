//! Flow control from both sides, against the simplest possible model of it.

use std::collections::{HashMap, VecDeque};

use super::*;

/// What a client knows of its windows and of the replies. Settings count from their acknowledgement
/// on, since data sent before it may still be under way.
struct Client {
    pending: VecDeque<i64>,
    initial: i64,
    connection: i64,
    streams: HashMap<u32, i64>,
    received: HashMap<u32, Vec<u8>>,
    ended: Vec<u32>,
}

impl Client {
    fn take(&mut self, frame: &Frame, seed: u64) {
        match frame.kind {
            Kind::Data => {
                let len = frame.payload.len() as i64;
                self.connection -= len;
                let window = self.streams.get_mut(&frame.stream).unwrap();
                *window -= len;
                assert!(len <= 16_384);
                assert!(
                    len == 0 || (*window >= 0 && self.connection >= 0),
                    "seed {seed}: {frame:?}"
                );
                self.received.entry(frame.stream).or_default().extend(&frame.payload);
            }
            Kind::Settings => {
                let initial = self.pending.pop_front().unwrap();
                let difference = initial - self.initial;
                self.initial = initial;
                self.streams.values_mut().for_each(|window| *window += difference);
            }
            Kind::Headers => {}
            kind => panic!("seed {seed}: {kind:?}"),
        }
        if frame.flags & ES != 0 && frame.kind != Kind::Settings {
            assert!(!self.ended.contains(&frame.stream), "seed {seed}");
            self.ended.push(frame.stream);
        }
    }
}

fn run(seed: u64) {
    let mut numbers = Numbers(seed);
    let limits = Limits { settings: Rate { burst: u32::MAX, per_second: 0 }, ..Limits::default() };
    let mut connection = started(limits, &[]);
    let mut client = Client {
        pending: VecDeque::new(),
        initial: 65_535,
        connection: 65_535,
        streams: HashMap::new(),
        received: HashMap::new(),
        ended: Vec::new(),
    };
    let mut sent: HashMap<u32, Vec<u8>> = HashMap::new();
    let mut open: Vec<u32> = Vec::new();
    let block = encode_block(&[(b":status", b"200")]);
    let steps = 300;
    for step in 0..steps + 1 {
        let is_last = step == steps;
        match numbers.below(8) {
            _ if is_last => {
                // Everything is let through and every reply ended.
                client.connection += 1 << 26;
                let mut input = window_update(0, 1 << 26);
                for (&stream, window) in &mut client.streams {
                    *window += 1 << 24;
                    input.extend(window_update(stream, 1 << 24));
                }
                connection.receive(Bytes::from(input), 0).unwrap();
                for stream in open.drain(..) {
                    connection.send_headers(StreamId(stream), &block, true);
                }
            }
            0 => {
                let stream = 2 * step + 1;
                client.streams.insert(stream, client.initial);
                connection.receive(Bytes::from(request(stream, ES)), 0).unwrap();
                if numbers.below(3) == 0 {
                    let len = *numbers.pick(&[0, 1, 10, 4_096, 4_097, 30_000]);
                    let data = vec![stream as u8; len];
                    sent.insert(stream, data.clone());
                    connection.respond(StreamId(stream), &block, data, &block);
                } else {
                    connection.send_headers(StreamId(stream), &block, false);
                    open.push(stream);
                }
            }
            1 => {
                let increment = numbers.below(50_000) as u32 + 1;
                client.connection += i64::from(increment);
                connection.receive(Bytes::from(window_update(0, increment)), 0).unwrap();
            }
            2 if !client.streams.is_empty() => {
                let known: Vec<u32> = client.streams.keys().copied().collect();
                let stream = *numbers.pick(&known);
                let increment = numbers.below(50_000) as u32 + 1;
                *client.streams.get_mut(&stream).unwrap() += i64::from(increment);
                connection.receive(Bytes::from(window_update(stream, increment)), 0).unwrap();
            }
            3 => {
                let initial = numbers.below(80_000) as i64 * numbers.below(2) as i64;
                client.pending.push_back(initial);
                let input = settings(&[(0x4, initial as u32)]);
                connection.receive(Bytes::from(input), 0).unwrap();
            }
            4..=6 if !open.is_empty() => {
                let place = numbers.below(open.len() as u64) as usize;
                let stream = open[place];
                let len = *numbers.pick(&[0, 1, 10, 4_096, 4_097, 30_000]);
                let data: Vec<u8> = (0..len).map(|_| numbers.next() as u8).collect();
                sent.entry(stream).or_default().extend(&data);
                let end_stream = numbers.below(10) == 0;
                match numbers.below(3) {
                    0 => connection.send_data(StreamId(stream), &data[..], end_stream),
                    1 => connection.send_data(StreamId(stream), Bytes::from(data), end_stream),
                    _ => connection.send_data(StreamId(stream), data, end_stream),
                }
                if end_stream {
                    open.remove(place);
                }
            }
            _ => {}
        }
        events(&mut connection);
        if is_last || numbers.below(3) == 0 {
            for frame in output(&mut connection) {
                client.take(&frame, seed);
            }
            assert!(!connection.wants_output(), "seed {seed}");
            let stuck = |stream: &u32| {
                let is_open = client.streams[stream] > 0 && client.connection > 0;
                is_open && connection.queued(StreamId(*stream)) > 0
            };
            assert_eq!(client.streams.keys().find(|stream| stuck(stream)), None, "seed {seed}");
        }
        let queued: usize =
            client.streams.keys().map(|&stream| connection.queued(StreamId(stream))).sum();
        assert!(queued <= connection.queued_total(), "seed {seed}");
    }
    assert_eq!(connection.queued_total(), 0, "seed {seed}");
    assert_eq!(connection.stream_count(), 0, "seed {seed}");
    assert_eq!(client.ended.len(), client.streams.len(), "seed {seed}");
    sent.retain(|_, data| !data.is_empty());
    client.received.retain(|_, data| !data.is_empty());
    assert!(client.received == sent, "seed {seed}: data lost or out of order");
}

#[test]
fn never_more_goes_out_than_the_windows_allow_and_all_of_it_in_the_end() {
    for seed in 0..200 {
        run(seed);
    }
}

#[test]
fn a_client_that_keeps_to_its_windows_is_never_stopped() {
    let mut connection = started(Limits::default(), &[]);
    connection.receive(Bytes::from([request(1, 0), request(3, 0)].concat()), 0).unwrap();
    let mut windows = HashMap::from([(0, 16i64 << 20), (1, 1 << 20), (3, 1 << 20)]);
    let mut numbers = Numbers(1);
    let mut updates = 0;
    let total = 64 << 20;
    let mut sent = 0;
    while sent < total {
        let stream = *numbers.pick(&[1, 3]);
        let len = numbers.below(16_385) as i64;
        let padding = numbers.below(200);
        let flow = (len - 256).max(0) + 1 + padding as i64;
        assert!(windows[&0] >= flow && windows[&stream] >= flow, "stopped after {sent}");
        let payload = [&[padding as u8][..], &vec![0; (flow - 1) as usize]].concat();
        connection
            .receive(Bytes::from(frame(Kind::Data, flags::PADDED, stream, &payload)), sent as u64)
            .unwrap();
        *windows.get_mut(&0).unwrap() -= flow;
        *windows.get_mut(&stream).unwrap() -= flow;
        sent += flow;
        events(&mut connection);
        for frame in output(&mut connection) {
            assert_eq!(frame.kind, Kind::WindowUpdate);
            let increment = u32::from_be_bytes(frame.payload.try_into().unwrap());
            *windows.get_mut(&frame.stream).unwrap() += i64::from(increment);
            updates += 1;
        }
    }
    assert!(windows[&0] <= 16 << 20 && windows[&1] <= 1 << 20);
    assert!(updates <= total / (512 << 10) + total / (8 << 20), "{updates} updates");
}

#[test]
fn a_stream_that_has_ended_gets_no_more_window() {
    let limits = Limits { stream_window_bytes: 100, ..Limits::default() };
    let mut connection = started(limits, &[]);
    let input = [request(1, 0), frame(Kind::Data, ES, 1, &[0; 100])].concat();
    connection.receive(Bytes::from(input), 0).unwrap();
    assert_eq!(output(&mut connection), []);
}

#[test]
fn data_beyond_the_window_of_a_stream_is_an_error_of_the_stream() {
    let limits = Limits { stream_window_bytes: 10, ..Limits::default() };
    let mut connection = started(limits, &[]);
    let input = [request(1, 0), frame(Kind::Data, 0, 1, &[0; 11])].concat();
    connection.receive(Bytes::from(input), 0).unwrap();
    assert!(matches!(
        events(&mut connection)[..],
        [Event::Headers { .. }, Event::Reset { code: ErrorCode::FLOW_CONTROL_ERROR, .. }]
    ));
}

#[test]
fn data_beyond_the_window_of_the_connection_ends_it() {
    let limits = Limits { connection_window_bytes: 0, ..Limits::default() };
    let mut connection = started(limits, &[]);
    connection.receive(Bytes::from(request(1, 0)), 0).unwrap();
    connection.hold(StreamId(1));
    let data = frame(Kind::Data, 0, 1, &[0; 16_384]);
    for _ in 0..3 {
        connection.receive(Bytes::from(data.clone()), 0).unwrap();
    }
    let fatal = connection.receive(Bytes::from(data), 0).unwrap_err();
    assert_eq!(fatal.code, ErrorCode::FLOW_CONTROL_ERROR);
}

/// Fills a held stream until its window is shut; the updates sent meanwhile.
fn fill_held(connection: &mut Connection, stream: u32) -> Vec<Frame> {
    connection.receive(Bytes::from(request(stream, 0)), 0).unwrap();
    connection.hold(StreamId(stream));
    for _ in 0..64 {
        let data = frame(Kind::Data, 0, stream, &[0; 16_384]);
        connection.receive(Bytes::from(data), 0).unwrap();
    }
    events(connection);
    output(connection)
}

#[test]
fn a_held_stream_is_not_given_window_until_it_is_released() {
    let mut connection = started(Limits::default(), &[]);
    assert_eq!(fill_held(&mut connection, 1), []);
    connection.release(StreamId(1));
    let increment = (1u32 << 20).to_be_bytes().to_vec();
    let update = Frame { kind: Kind::WindowUpdate, flags: 0, stream: 1, payload: increment };
    assert_eq!(output(&mut connection), [update]);
}

#[test]
fn what_a_held_stream_had_goes_back_to_the_connection_when_it_ends() {
    let mut connection = started(Limits::default(), &[]);
    for stream in [1, 3, 5, 7, 9, 11, 13, 15] {
        assert_eq!(fill_held(&mut connection, stream), []);
    }
    for stream in [1, 3, 5, 7] {
        connection.reset(StreamId(stream), ErrorCode::CANCEL);
    }
    for stream in [9, 11, 13] {
        let reset = frame(Kind::RstStream, 0, stream, &8u32.to_be_bytes());
        connection.receive(Bytes::from(reset), 0).unwrap();
    }
    connection.send_headers(StreamId(15), &encode_block(&[(b":status", b"200")]), true);
    let updates: Vec<_> = output(&mut connection)
        .into_iter()
        .filter(|frame| frame.kind == Kind::WindowUpdate)
        .map(|frame| (frame.stream, frame.payload))
        .collect();
    assert_eq!(updates, [(0, (8u32 << 20).to_be_bytes().to_vec())]);
}
