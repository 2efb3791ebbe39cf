//! Random input, from noise to frames that are almost right, into a server that answers at random.
//!
//! Whatever comes in: no panic, bounded memory, and output a strict client would accept.

use std::collections::HashMap;

use super::*;

/// Checks the output as a strict client would: whole frames, nothing after the end of a stream, no
/// stream the client has not opened.
#[derive(Default)]
struct Strict {
    rest: Vec<u8>,
    ended: HashMap<u32, bool>,
    is_over: bool,
}

impl Strict {
    fn take(&mut self, octets: &[u8], seed: u64) {
        self.rest.extend(octets);
        while let Some(header) = FrameHeader::parse(&self.rest) {
            let end = HEADER_LEN + header.length;
            if end > self.rest.len() {
                break;
            }
            assert!(!self.is_over, "seed {seed}: {header:?} after GOAWAY");
            assert!(header.length <= 16_384, "seed {seed}");
            let stream = header.stream.0;
            match header.kind {
                Kind::Data | Kind::Headers => {
                    let is_ended = self.ended.entry(stream).or_insert(false);
                    assert!(!*is_ended, "seed {seed}: {header:?} after the end");
                    *is_ended = header.has(ES);
                }
                Kind::RstStream => {
                    self.ended.insert(stream, true);
                }
                Kind::WindowUpdate | Kind::Settings | Kind::Ping => {}
                Kind::GoAway => self.is_over = true,
                kind => panic!("seed {seed}: {kind:?}"),
            }
            self.rest.drain(..end);
        }
    }
}

fn noise(numbers: &mut Numbers, len: u64) -> Vec<u8> {
    let len = numbers.below(len);
    (0..len).map(|_| numbers.next() as u8).collect()
}

/// A frame that may be anything, as far as its kind allows.
fn wild_frame(numbers: &mut Numbers, newest: u32) -> Vec<u8> {
    let stream = *numbers.pick(&[0, 1, 2, newest, newest + 1, newest + 2, u32::MAX >> 1]);
    let flags = *numbers.pick(&[0, ES, EH, ES | EH, flags::PADDED, flags::PRIORITY | EH, 0xff]);
    let len = *numbers.pick(&[4, 8, 5, 6, 64]);
    let payload = noise(numbers, len + 1);
    match numbers.below(4) {
        0 => frame(Kind::Headers, flags, stream, &request_block()),
        1 => window_update(stream, numbers.next() as u32),
        2 => settings(&[(numbers.below(8) as u16, numbers.next() as u32)]),
        _ => frame(Kind::Unknown(numbers.below(11) as u8), flags, stream, &payload),
    }
}

/// A frame that is right, but for one in 150.
fn any_frame(numbers: &mut Numbers, newest: &mut u32) -> Vec<u8> {
    if numbers.below(150) == 0 {
        return wild_frame(numbers, *newest);
    }
    let back = 2 * numbers.below(8) as u32;
    let stream = newest.saturating_sub(back).max(1);
    let end = if numbers.below(4) == 0 { ES } else { 0 };
    match numbers.below(20) {
        0..=5 => {
            *newest += 2;
            let block = match numbers.below(4) {
                0 => [&[0x83, 0x86, 0x84, 0x40][..], b"\x01a\x01", &[numbers.next() as u8 | 0x20]]
                    .concat(),
                1 => [&request_block()[..], &[0x00], b"\x01a\x01b"].concat(),
                _ => request_block(),
            };
            let (first, rest) = block.split_at(numbers.below(block.len() as u64) as usize);
            match numbers.below(4) {
                0 => {
                    let first = frame(Kind::Headers, end, *newest, first);
                    [first, frame(Kind::Continuation, EH, *newest, rest)].concat()
                }
                _ => frame(Kind::Headers, EH | end, *newest, &block),
            }
        }
        6..=10 => frame(Kind::Data, end, stream, &noise(numbers, 600)),
        11 => {
            let padded = [&[9][..], &noise(numbers, 60), &[0; 9]].concat();
            frame(Kind::Data, flags::PADDED | end, stream, &padded)
        }
        12 => frame(Kind::RstStream, 0, stream, &[0, 0, 0, 8]),
        13 => settings(&[(0x4, numbers.below(100_000) as u32)]),
        14 => frame(Kind::Ping, ACK, 0, &numbers.next().to_be_bytes()),
        15 => window_update(0, 1 + numbers.below(1 << 20) as u32),
        16 | 17 => window_update(stream, 1 + numbers.below(1 << 16) as u32),
        18 => frame(Kind::Priority, 0, stream, &[0, 0, 0, 0, 1]),
        _ => frame(Kind::Unknown(numbers.next() as u8 | 0x10), end, stream, &noise(numbers, 90)),
    }
}

/// Answers events at random, like a server that has gone mad but keeps to the interface.
fn answer(connection: &mut Connection, numbers: &mut Numbers, open: &mut Vec<StreamId>) {
    let block = encode_block(&[(b":status", b"200"), (b"x", &[b'x'; 50])]);
    while let Some(event) = connection.poll_event() {
        if let Event::Headers { stream, .. } = event {
            open.push(stream);
        }
    }
    for _ in 0..numbers.below(4) {
        if open.is_empty() {
            return;
        }
        let place = numbers.below(open.len() as u64) as usize;
        let stream = open[place];
        let data = vec![7; *numbers.pick(&[0, 3, 5_000, 70_000])];
        let is_last = match numbers.below(9) {
            0 | 1 => {
                connection.send_headers(stream, &block, false);
                false
            }
            2 => {
                connection.send_data(stream, &data[..], false);
                false
            }
            3 => {
                connection.send_data(stream, data, true);
                true
            }
            4 => {
                connection.send_headers(stream, &block, true);
                true
            }
            5 => {
                connection.reset(stream, ErrorCode::CANCEL);
                true
            }
            6 => {
                connection.hold(stream);
                false
            }
            7 => {
                connection.release(stream);
                false
            }
            _ => {
                connection.respond(stream, &block, data, &block);
                true
            }
        };
        if is_last {
            open.swap_remove(place);
        }
    }
}

fn run(seed: u64, mut input: impl FnMut(&mut Numbers, &mut u32) -> Vec<u8>) -> usize {
    let mut numbers = Numbers(seed);
    let mut connection = started(Limits::default(), &[]);
    let mut strict = Strict::default();
    let mut open = Vec::new();
    let mut newest = 1;
    connection.receive(Bytes::from(request(1, 0)), 0).unwrap();
    let mut now_ms = 0;
    for step in 0..400 {
        let mut octets = input(&mut numbers, &mut newest);
        if numbers.below(200) == 0 && !octets.is_empty() {
            let at = numbers.below(octets.len() as u64) as usize;
            octets[at] ^= 1 << numbers.below(8);
        }
        now_ms += numbers.below(3_000);
        let cut = numbers.below(octets.len() as u64 + 1) as usize;
        let tail = octets.split_off(cut);
        let outcome = connection
            .receive(Bytes::from(octets), now_ms)
            .and_then(|()| connection.receive(Bytes::from(tail), now_ms));
        answer(&mut connection, &mut numbers, &mut open);
        if connection.next_timeout().is_some_and(|at_ms| at_ms <= now_ms) {
            connection.timeout(now_ms);
        }
        let mut out = Vec::new();
        connection.take_output(numbers.below(20_000) as usize, &mut out);
        strict.take(&out, seed);
        assert!(connection.partial.len() <= 16_393, "seed {seed}");
        assert!(connection.output.control_bytes() <= 17_000, "seed {seed}");
        if outcome.is_err() {
            out.clear();
            connection.take_output(usize::MAX, &mut out);
            strict.take(&out, seed);
            assert!(strict.is_over && strict.rest.is_empty(), "seed {seed}");
            assert!(connection.is_closed(), "seed {seed}");
            return step;
        }
    }
    400
}

#[test]
fn noise_does_no_harm() {
    for seed in 0..500 {
        run(seed, |numbers, _| noise(numbers, 200));
    }
}

#[test]
fn frames_of_noise_do_no_harm() {
    for seed in 0..500 {
        run(seed, |numbers, _| {
            let kind = Kind::Unknown(numbers.below(11) as u8);
            let stream = numbers.below(8) as u32;
            frame(kind, numbers.next() as u8, stream, &noise(numbers, 64))
        });
    }
}

#[test]
fn frames_that_are_almost_right_do_no_harm_and_go_far() {
    let steps: usize = (0..300).map(|seed| run(seed, any_frame)).sum();
    assert!(steps > 300 * 20, "connections end after {} steps", steps / 300);
}

#[test]
fn any_preface_does_no_harm() {
    for seed in 0..500 {
        let mut numbers = Numbers(seed);
        let mut octets = client_preface(&[(0x4, 7)]);
        let at = numbers.below(octets.len() as u64) as usize;
        octets[at] ^= 1 << numbers.below(8);
        let mut connection = Connection::new(Limits::default());
        let _ = connection.receive(Bytes::from(octets), 0);
        output(&mut connection);
    }
}
