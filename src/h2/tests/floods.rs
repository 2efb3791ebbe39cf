//! What costs a client little must not cost the server much: each flood ends with a GOAWAY
//! ENHANCE_YOUR_CALM, in bounded memory, and honest use of the same frames does not.

use super::*;

/// Rounds of input until the connection ends; the error, the rounds, the most octets kept.
fn flood(
    connection: &mut Connection,
    rounds: u32,
    mut input: impl FnMut(u32) -> Vec<u8>,
) -> (Option<Fatal>, u32, usize) {
    let mut kept_max = 0;
    for round in 0..rounds {
        if let Err(fatal) = connection.receive(Bytes::from(input(round)), 0) {
            return (Some(fatal), round, kept_max);
        }
        events(connection);
        kept_max = kept_max.max(kept_bytes(connection));
    }
    (None, rounds, kept_max)
}

/// What a peer makes the connection keep.
fn kept_bytes(connection: &Connection) -> usize {
    connection.queued_total() + connection.partial.capacity() + connection.stream_count() * 512
}

fn assert_calmed(outcome: (Option<Fatal>, u32, usize), rounds: u32, kept_max: usize) {
    let (fatal, ended_after, kept) = outcome;
    assert_eq!(fatal.map(|fatal| fatal.code), Some(ErrorCode::ENHANCE_YOUR_CALM), "{fatal:?}");
    assert_eq!(ended_after, rounds);
    assert!(kept <= kept_max, "{kept} octets kept");
}

fn cancel(stream: u32) -> Vec<u8> {
    frame(Kind::RstStream, 0, stream, &8u32.to_be_bytes())
}

#[test]
fn rapid_reset_ends_the_connection() {
    let mut connection = started(Limits::default(), &[]);
    let outcome = flood(&mut connection, 10_000, |round| {
        [request(2 * round + 1, ES), cancel(2 * round + 1)].concat()
    });
    assert_calmed(outcome, 4_096, 1_000);
}

#[test]
fn resets_of_streams_that_have_been_replied_to_are_no_flood() {
    let mut connection = started(Limits::default(), &[]);
    let block = encode_block(&[(b":status", b"200")]);
    for round in 0..10_000 {
        let stream = 2 * round + 1;
        connection.receive(Bytes::from(request(stream, 0)), 0).unwrap();
        connection.send_headers(StreamId(stream), &block, false);
        connection.receive(Bytes::from(cancel(stream)), 0).unwrap();
        output(&mut connection);
        events(&mut connection);
    }
}

#[test]
fn resets_at_a_moderate_rate_are_no_flood() {
    let mut connection = started(Limits::default(), &[]);
    for round in 0..10_000 {
        let input = [request(2 * round + 1, ES), cancel(2 * round + 1)].concat();
        connection.receive(Bytes::from(input), u64::from(round)).unwrap();
        events(&mut connection);
    }
}

#[test]
fn provoked_resets_of_every_kind_end_the_connection() {
    let provocations: [fn(u32) -> Vec<u8>; 6] = [
        |stream| [request(stream, 0), window_update(stream, 0)].concat(),
        |stream| [request(stream, 0), window_update(stream, u32::MAX >> 1)].concat(),
        |stream| [request(stream, ES), frame(Kind::Data, 0, stream, b"late")].concat(),
        |stream| [request(stream, ES), request(stream, ES)].concat(),
        |stream| [request(stream, 0), frame(Kind::Priority, 0, stream, b"four")].concat(),
        |stream| frame(Kind::Headers, EH | ES, stream, &[0x83]),
    ];
    for provocation in provocations {
        let mut connection = started(Limits::default(), &[]);
        let outcome = flood(&mut connection, 10_000, |round| provocation(2 * round + 1));
        assert_calmed(outcome, 1_024, 14_400);
    }
}

#[test]
fn streams_beyond_the_limit_are_refused_and_then_it_ends() {
    let limits = Limits { concurrent_streams_max: 10, ..Limits::default() };
    let mut connection = started(limits, &[]);
    let outcome = flood(&mut connection, 10_000, |round| request(2 * round + 1, ES));
    assert_calmed(outcome, 1_034, 20_000);
    let frames = output(&mut connection);
    let refused = ErrorCode::REFUSED_STREAM.0.to_be_bytes();
    assert!(frames[..1_024].iter().all(|frame| frame.payload == refused));
}

#[test]
fn continuations_without_end_are_cut_off() {
    let mut connection = started(Limits::default(), &[]);
    connection.receive(Bytes::from(frame(Kind::Headers, ES, 1, &[])), 0).unwrap();
    let outcome = flood(&mut connection, 100, |_| frame(Kind::Continuation, 0, 1, &[]));
    assert_calmed(outcome, 8, 100);
}

#[test]
fn a_field_block_without_end_is_cut_off() {
    let mut connection = started(Limits::default(), &[]);
    let part = [0x82; 16_384];
    connection.receive(Bytes::from(frame(Kind::Headers, ES, 1, &part)), 0).unwrap();
    let outcome = flood(&mut connection, 100, |_| frame(Kind::Continuation, 0, 1, &part));
    assert_calmed(outcome, 3, 100_000);
}

#[test]
fn a_small_block_with_a_huge_list_is_cut_off() {
    let mut connection = started(Limits::default(), &[]);
    let insert = [&[0x40][..], b"\x01a\x7f\x81\x1e", &[b'v'; 4_064 - 96]].concat();
    let bomb = [&insert[..], &[0xbe; 20]].concat();
    let fatal = connection.receive(Bytes::from(frame(Kind::Headers, EH | ES, 1, &bomb)), 0);
    assert_eq!(fatal.unwrap_err().code, ErrorCode::ENHANCE_YOUR_CALM);
}

#[test]
fn a_list_above_what_is_tolerated_is_an_error_of_the_stream() {
    let mut connection = started(Limits::default(), &[]);
    let list_of = |value_len: usize| {
        let value = vec![b'v'; value_len];
        [request_block(), encode_block(&[(b"a", &value)])].concat()
    };
    for (stream, value_len, is_served) in [(1, 15_900, true), (3, 16_400, false)] {
        let block = list_of(value_len);
        let (first, rest) = block.split_at(8_000);
        let input =
            [frame(Kind::Headers, ES, stream, first), frame(Kind::Continuation, EH, stream, rest)];
        connection.receive(Bytes::from(input.concat()), 0).unwrap();
        assert_eq!(events(&mut connection).len(), usize::from(is_served));
    }
    let frames = output(&mut connection);
    assert_eq!(frames[0].payload, ErrorCode::FRAME_SIZE_ERROR.0.to_be_bytes());
}

#[test]
fn pings_without_pause_end_the_connection() {
    let mut connection = started(Limits::default(), &[]);
    let outcome = flood(&mut connection, 10_000, |_| frame(Kind::Ping, 0, 0, &[0; 8]));
    assert_eq!(outcome.0.unwrap().reason, "too_many_pings");
    assert_calmed(outcome, 3, 100);
}

#[test]
fn pings_that_measure_bandwidth_are_no_flood() {
    let mut connection = started(Limits::default(), &[]);
    connection.receive(Bytes::from(request(1, ES)), 0).unwrap();
    connection.send_headers(StreamId(1), &encode_block(&[(b":status", b"200")]), false);
    for round in 0..10_000 {
        connection.send_data(StreamId(1), &[0; 5][..], false);
        let input = [frame(Kind::Ping, 0, 0, &[2; 8]), window_update(0, 5), window_update(1, 5)];
        connection.receive(Bytes::from(input.concat()), round / 100).unwrap();
        output(&mut connection);
    }
}

#[test]
fn settings_without_pause_end_the_connection() {
    let mut connection = started(Limits::default(), &[]);
    let outcome = flood(&mut connection, 10_000, |round| settings(&[(0x4, round)]));
    assert_calmed(outcome, 99, 1_000);
}

#[test]
fn empty_data_without_pause_ends_the_connection() {
    let mut connection = started(Limits::default(), &[]);
    connection.receive(Bytes::from(request(1, 0)), 0).unwrap();
    let outcome = flood(&mut connection, 10_000, |_| frame(Kind::Data, 0, 1, &[]));
    assert_calmed(outcome, 100, 1_000);
}

#[test]
fn padding_alone_is_empty_data() {
    let mut connection = started(Limits::default(), &[]);
    connection.receive(Bytes::from(request(1, 0)), 0).unwrap();
    let padding = [&[255][..], &[0; 255]].concat();
    let outcome = flood(&mut connection, 10_000, |_| frame(Kind::Data, flags::PADDED, 1, &padding));
    assert_calmed(outcome, 100, 1_000);
}

#[test]
fn replies_to_control_frames_that_nobody_reads_are_bounded() {
    let limits = Limits { settings: Rate { burst: u32::MAX, per_second: 0 }, ..Limits::default() };
    let mut connection = started(limits, &[]);
    let outcome = flood(&mut connection, 10_000, |_| settings(&[]));
    assert_calmed(outcome, 16_384 / 9, 16_400);
    assert!(!connection.wants_input());
}

#[test]
fn replies_to_control_frames_that_are_read_are_no_flood() {
    let limits = Limits { settings: Rate { burst: u32::MAX, per_second: 0 }, ..Limits::default() };
    let mut connection = started(limits, &[]);
    for _ in 0..10_000 {
        connection.receive(Bytes::from(settings(&[])), 0).unwrap();
        let mut out = Vec::new();
        connection.take_output(10, &mut out);
        assert!(connection.wants_input());
    }
}

#[test]
fn a_client_that_does_not_read_is_left_waiting() {
    let mut connection = started(Limits::default(), &[]);
    let block = encode_block(&[(b":status", b"200"), (b"x", &[b'x'; 1_000])]);
    let mut stream = 1;
    while connection.wants_input() {
        connection.receive(Bytes::from(request(stream, ES)), 0).unwrap();
        connection.send_headers(StreamId(stream), &block, true);
        stream += 2;
        assert!(stream < 2_000);
    }
    assert!(connection.queued_total() < 300 << 10);
    output(&mut connection);
    assert!(connection.wants_input());
}

#[test]
fn a_window_of_zero_keeps_the_data_countable_and_the_connection_open_for_the_window() {
    let mut connection = started(Limits::default(), &[(0x4, 0)]);
    let reply = Bytes::from(vec![0; 100_000]);
    for stream in [1, 3, 5] {
        connection.receive(Bytes::from(request(stream, ES)), 0).unwrap();
        connection.send_data(StreamId(stream), reply.clone(), true);
        assert_eq!(connection.queued(StreamId(stream)), 100_000);
    }
    assert_eq!(connection.queued_total(), 300_000);
    assert!(!connection.wants_output() && connection.wants_input());
    connection.receive(Bytes::from(cancel(3)), 0).unwrap();
    assert_eq!(connection.queued_total(), 200_000);
    connection.receive(Bytes::from(window_update(1, 100_000)), 0).unwrap();
    let sent: usize = output(&mut connection).iter().map(|frame| frame.payload.len()).sum();
    assert_eq!((sent, connection.queued_total()), (65_535, 134_465));
    connection.go_away(ErrorCode::INTERNAL_ERROR, b"");
    assert_eq!(connection.stream_count(), 0);
    output(&mut connection);
    assert_eq!(connection.queued_total(), 0);
}

#[test]
fn buffers_that_have_grown_are_given_back() {
    let mut connection = started(Limits::default(), &[(0x4, 1 << 30)]);
    let count = 5_000;
    let requests: Vec<u8> = (0..count).flat_map(|i| request(2 * i + 1, ES)).collect();
    connection.receive(Bytes::from(requests), 0).unwrap();
    let block = encode_block(&[(b":status", b"200")]);
    for event in events(&mut connection) {
        let Event::Headers { stream, .. } = event else { panic!("{event:?}") };
        connection.respond(stream, &block, vec![0; 10], &block);
    }
    output(&mut connection);
    assert!(connection.events.capacity() <= 1_024);
    assert_eq!(connection.stream_count(), 0);
}

#[test]
fn an_idle_connection_is_small() {
    let mut connection = started(Limits::default(), &[]);
    connection.receive(Bytes::from(request(1, ES)), 0).unwrap();
    let block = encode_block(&[(b":status", b"200")]);
    connection.respond(StreamId(1), &block, vec![0; 10], &block);
    events(&mut connection);
    output(&mut connection);
    assert!(size_of::<Connection>() <= 1_024, "{}", size_of::<Connection>());
    assert!(size_of::<stream::Stream>() <= 192, "{}", size_of::<stream::Stream>());
}
