//! Whole exchanges: however the input is cut, the same comes of it; what is sent arrives.

use std::rc::Rc;

use super::*;

/// One of everything a client may do.
fn conversation() -> Vec<u8> {
    let block = request_block();
    let (first, rest) = block.split_at(10);
    let (second, third) = rest.split_at(1);
    [
        client_preface(&[(0x4, 70_000), (0x1, 0)]),
        request(1, 0),
        frame(Kind::Data, 0, 1, b"hello"),
        frame(Kind::Data, flags::PADDED | ES, 1, &[&[3][..], b"world", &[0; 3]].concat()),
        frame(Kind::Headers, ES, 3, first),
        frame(Kind::Continuation, 0, 3, second),
        frame(Kind::Continuation, EH, 3, third),
        frame(Kind::Ping, 0, 0, &[7; 8]),
        frame(Kind::Unknown(0xbe), 0xff, 9, &[1; 40]),
        request(5, 0),
        frame(Kind::Data, 0, 5, &[9; 300]),
        frame(Kind::Headers, EH | ES, 5, &encode_block(&[(b"checksum", b"1")])),
        request(7, 0),
        frame(Kind::RstStream, 0, 7, &8u32.to_be_bytes()),
        request(9, 0),
        frame(Kind::Headers, EH, 9, &encode_block(&[(b"not", b"the end")])),
        window_update(0, 1_000),
        frame(Kind::Priority, 0, 11, &[0, 0, 0, 1, 9]),
        request(11, ES),
        frame(Kind::GoAway, 0, 0, &[0; 8]),
    ]
    .concat()
}

/// Events of a server that answers each request with its data, and its output stream by stream:
/// between streams the order depends on what came in together.
fn outcome<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> (Vec<String>, Vec<Frame>) {
    let mut connection = Connection::new(Limits::default());
    let mut trace = Vec::new();
    let mut out = Vec::new();
    let head = encode_block(&[(b":status", b"200")]);
    let trailers = encode_block(&[(b"grpc-status", b"0")]);
    for part in parts {
        connection.receive(Bytes::copy_from_slice(part), 0).unwrap();
        for event in events(&mut connection) {
            trace.push(format!("{event:?}"));
            match event {
                Event::Headers { stream, end_stream: true, .. } | Event::Trailers { stream } => {
                    connection.respond(stream, &head, &b"none"[..], &trailers);
                }
                Event::Data { stream, data, end_stream: true } => {
                    connection.respond(stream, &head, data, &trailers);
                }
                _ => {}
            }
        }
        connection.take_output(usize::MAX, &mut out);
    }
    let mut frames = parse(&out);
    frames.sort_by_key(|frame| frame.stream);
    (trace, frames)
}

#[test]
fn however_the_input_is_cut_the_same_comes_of_it() {
    let octets = conversation();
    let whole = outcome([&octets[..]]);
    assert_eq!((whole.0.len(), whole.1.len()), (12, 17), "{whole:#?}");
    for at in 0..=octets.len() {
        let (left, right) = octets.split_at(at);
        assert!(outcome([left, right]) == whole, "cut at {at}");
    }
    for len in [1, 2, 3, 5, 8, 9, 10, 64] {
        assert!(outcome(octets.chunks(len)) == whole, "in pieces of {len}");
    }
}

#[test]
fn data_that_is_whole_in_the_input_is_not_copied() {
    let mut connection = started(Limits::default(), &[]);
    let head = request(1, 0);
    let data_at = head.len() + HEADER_LEN;
    let input = Bytes::from([head, frame(Kind::Data, ES, 1, &[5; 1_000])].concat());
    connection.receive(input.clone(), 0).unwrap();
    let Some(Event::Data { data, .. }) = events(&mut connection).pop() else { panic!("no data") };
    assert_eq!(data.as_ptr(), input[data_at..].as_ptr());
}

fn head_of(connection: &mut Connection, stream: u32, block: &[u8]) -> Rc<RequestHead> {
    let headers = frame(Kind::Headers, EH | ES, stream, block);
    connection.receive(Bytes::from(headers), 0).unwrap();
    match events(connection).pop() {
        Some(Event::Headers { head, .. }) => head,
        other => panic!("no head but {other:?}"),
    }
}

#[test]
fn heads_whose_blocks_repeat_are_shared() {
    let mut connection = started(Limits::default(), &[]);
    // As clients do: indexed by the first request, referred to by the others.
    let first = [&[0x83, 0x86, 0x84, 0x40][..], b"\x01a\x01b", &[0x40], b"\x01c\x01d"].concat();
    let repeated = [0x83, 0x86, 0x84, 0xbf, 0xbe];
    let heads = [
        head_of(&mut connection, 1, &first),
        head_of(&mut connection, 3, &repeated),
        head_of(&mut connection, 5, &repeated),
        head_of(&mut connection, 7, &repeated),
    ];
    for head in &heads {
        assert_eq!((head.get(b"a").unwrap(), head.get(b"c").unwrap()), (&"b".into(), &"d".into()));
        assert_eq!((&head.path[..], head.fields().count()), (&b"/"[..], 2));
    }
    assert!(Rc::ptr_eq(&heads[2], &heads[3]));
    heads[2].memo.set(42);
    assert_eq!(head_of(&mut connection, 9, &repeated).memo.get(), 42);
}

#[test]
fn heads_that_differ_in_a_deadline_share_the_rest() {
    let mut connection = started(Limits::default(), &[]);
    let mut encoder = ModelEncoder::default();
    let mut heads = Vec::new();
    for round in 0..500u32 {
        let deadline = format!("{}u", 1_000_000 + round);
        let block = encoder.encode(&[
            (":method", "POST"),
            (":scheme", "http"),
            (":path", "/etcdserverpb.KV/Put"),
            (":authority", "localhost:2379"),
            ("content-type", "application/grpc"),
            ("grpc-timeout", &deadline),
            ("token", "secret"),
        ]);
        let head = head_of(&mut connection, 2 * round + 1, &block);
        assert_eq!(head.get(b"grpc-timeout").unwrap(), deadline.as_str());
        assert_eq!(head.get(b"token").unwrap(), "secret");
        assert_eq!(head.path, "/etcdserverpb.KV/Put");
        assert_eq!(head.fields().count(), 3);
        heads.push(head);
        connection.reset(StreamId(2 * round + 1), ErrorCode::CANCEL);
        output(&mut connection);
    }
    let is_shared = |pair: &[Rc<RequestHead>]| std::ptr::eq::<CommonHead>(&**pair[0], &**pair[1]);
    let shared = heads.windows(2).filter(|pair| is_shared(pair)).count();
    // Only where entries have been driven out and come anew is there something new.
    assert!(shared > 450, "{shared} of 500 shared");
}

#[test]
fn patterns_never_mix_up_heads() {
    let names = [":authority", "a", "b", "c", "d", "host", "content-length", "te"];
    for seed in 0..100 {
        let mut numbers = Numbers(seed);
        let mut connection = started(Limits::default(), &[]);
        let mut encoder = ModelEncoder::default();
        for round in 0..200u32 {
            let mut fields = vec![(":method", "POST"), (":scheme", "http")];
            fields.push((":path", *numbers.pick(&["/x", "/y", "/zz"])));
            for _ in 0..numbers.below(6) {
                let value = match *numbers.pick(&names) {
                    "te" => ("te", "trailers"),
                    "content-length" => ("content-length", "0"),
                    name => (name, *numbers.pick(&["1", "2", "3", "4", "5"])),
                };
                fields.push(value);
            }
            let mut authorities = fields.iter().filter(|field| field.0 == ":authority");
            let is_late = |fields: &[(&str, &str)]| {
                let first_other = fields.iter().position(|field| !field.0.starts_with(':'));
                fields.iter().rposition(|field| field.0.starts_with(':')) > first_other
                    && first_other.is_some()
            };
            let is_malformed = authorities.clone().count() > 1 || is_late(&fields);
            let block = encoder.encode_at_random(&fields, &mut numbers);
            let headers = frame(Kind::Headers, EH | ES, 2 * round + 1, &block);
            connection.receive(Bytes::from(headers), u64::from(round) * 100).unwrap();
            let event = events(&mut connection).pop();
            connection.reset(StreamId(2 * round + 1), ErrorCode::CANCEL);
            output(&mut connection);
            let Some(Event::Headers { head, .. }) = event else {
                assert!(is_malformed, "seed {seed} round {round}: {fields:?}");
                continue;
            };
            assert!(!is_malformed, "seed {seed} round {round}: {fields:?}");
            assert_eq!(head.path, fields[2].1);
            let host = fields.iter().find(|field| field.0 == "host");
            let authority = authorities.next().or(host).map_or("", |field| field.1);
            assert_eq!(head.authority, authority, "seed {seed} round {round}");
            let text = |octets: &Bytes| String::from_utf8(octets.to_vec()).unwrap();
            let mut found: Vec<_> =
                head.fields().map(|(name, value)| (text(name), text(value))).collect();
            let mut sent: Vec<_> = fields
                .iter()
                .filter(|field| !field.0.starts_with(':'))
                .map(|(name, value)| (name.to_string(), value.to_string()))
                .collect();
            found.sort();
            sent.sort();
            assert_eq!(found, sent, "seed {seed} round {round}");
        }
    }
}

/// A literal without indexing.
fn literal(name: &str, value: &str) -> Vec<u8> {
    ModelEncoder::default().encode_with(&[(name, value)], |_| 2)
}

#[test]
fn a_gap_in_a_pattern_is_for_regular_fields_only() {
    let begin = [0x83, 0x86, 0x84];
    let refused = |connection: &mut Connection, stream, block: Vec<u8>| {
        let headers = frame(Kind::Headers, EH | ES, stream, &block);
        connection.receive(Bytes::from(headers), 0).unwrap();
        let reset = output(connection).pop().map(|frame| (frame.kind, frame.stream));
        assert_eq!((events(connection).len(), reset), (0, Some((Kind::RstStream, stream))));
    };
    let mut connection = started(Limits::default(), &[]);
    for (stream, value) in [(1, "1"), (3, "2"), (5, "3")] {
        let block = [&begin[..], &literal("a", value)].concat();
        assert_eq!(head_of(&mut connection, stream, &block).get(b"a").unwrap(), value);
    }
    refused(&mut connection, 7, [&begin[..], &literal("A", "1")].concat());
    refused(&mut connection, 9, [&begin[..], &literal("connection", "close")].concat());
    refused(&mut connection, 11, [&begin[..], &literal(":method", "POST")].concat());
    refused(&mut connection, 13, [&begin[..], &literal("content-length", "1")].concat());
    let head =
        head_of(&mut connection, 15, &[&begin[..], &literal("content-length", "0")].concat());
    assert_eq!(head.content_length, Some(0));
    let head = head_of(&mut connection, 17, &[&begin[..], &literal("host", "h")].concat());
    assert_eq!(head.authority, "h");
    // A literal that matters makes no pattern.
    let begin = [0x83, 0x86];
    for (stream, path) in [(19, "/1"), (21, "/2"), (23, "/3")] {
        let block = [&begin[..], &literal(":path", path)].concat();
        assert_eq!(head_of(&mut connection, stream, &block).path, path);
    }
    refused(&mut connection, 25, [&begin[..], &literal("a", "1")].concat());
}

#[test]
fn the_same_octets_are_another_head_when_the_table_has_changed() {
    let mut connection = started(Limits::default(), &[]);
    let insert = |value| [&[0x83, 0x86, 0x84, 0x40][..], b"\x01a\x01", &[value]].concat();
    let repeated = [0x83, 0x86, 0x84, 0xbe];
    head_of(&mut connection, 1, &insert(b'1'));
    for stream in [3, 5, 7] {
        let head = head_of(&mut connection, stream, &repeated);
        assert_eq!(head.get(b"a").unwrap(), "1");
    }
    head_of(&mut connection, 9, &insert(b'2'));
    for stream in [11, 13, 15] {
        let head = head_of(&mut connection, stream, &repeated);
        assert_eq!(head.get(b"a").unwrap(), "2");
    }
}

#[test]
fn many_kinds_of_heads_drive_each_other_out_and_stay_right() {
    let mut connection = started(Limits::default(), &[]);
    let mut numbers = Numbers(4);
    for round in 0..2_000 {
        let path = format!("/{}", numbers.below(40));
        let block = encode_block(&[
            (b":method", b"POST"),
            (b":scheme", b"http"),
            (b":path", path.as_bytes()),
        ]);
        let head = head_of(&mut connection, 2 * round + 1, &block);
        assert_eq!(head.path, path);
        connection.reset(StreamId(2 * round + 1), ErrorCode::CANCEL);
        output(&mut connection);
    }
}

#[test]
fn a_head_has_its_fields_in_order_and_host_stands_in_for_authority() {
    let mut connection = started(Limits::default(), &[]);
    let block = encode_block(&[
        (b":method", b"POST"),
        (b":scheme", b"https"),
        (b":path", b"/p"),
        (b"host", b"example:2379"),
        (b"token", b"one"),
        (b"token", b"two"),
    ]);
    let head = head_of(&mut connection, 1, &block);
    assert_eq!(
        (&head.method[..], &head.scheme[..], &head.path[..]),
        (&b"POST"[..], &b"https"[..], &b"/p"[..])
    );
    assert_eq!(head.authority, "example:2379");
    assert_eq!(head.get(b"token").unwrap(), "one");
    assert_eq!(head.get_all(b"token").collect::<Vec<_>>(), ["one", "two"]);
    assert_eq!(head.get(b"nothing"), None);
    assert_eq!(head.fields().count(), 3);
}

#[test]
fn output_taken_in_any_pieces_is_the_same_stream() {
    let reply: Vec<u8> = (0..100_000u32).map(|i| (i % 251) as u8).collect();
    let block = encode_block(&[(b":status", b"200")]);
    let run = |max: usize| {
        let mut connection = started(Limits::default(), &[(0x4, 1 << 20)]);
        let input = [window_update(0, 1 << 20), request(1, ES), request(3, ES)].concat();
        connection.receive(Bytes::from(input), 0).unwrap();
        for stream in [1, 3] {
            connection.respond(StreamId(stream), &block, Bytes::from(reply.clone()), &block);
        }
        let mut out = Vec::new();
        while connection.wants_output() {
            let before = out.len();
            connection.take_output(max, &mut out);
            assert!(out.len() - before <= max.max(HEADER_LEN + 1));
            assert!(out.len() > before);
        }
        assert_eq!(connection.queued_total(), 0);
        let mut received = [Vec::new(), Vec::new()];
        let mut ended = 0;
        for frame in parse(&out) {
            match frame.kind {
                Kind::Data => received[(frame.stream / 2) as usize].extend(frame.payload),
                Kind::Headers => ended += u32::from(frame.flags & ES != 0),
                kind => panic!("{kind:?}"),
            }
        }
        assert!(received == [reply.clone(), reply.clone()] && ended == 2, "taken by {max}");
    };
    for max in [1, 10, 11, 100, 1_033, 1_034, 16_393, 100_000, usize::MAX] {
        run(max);
    }
}

#[test]
fn streams_take_turns() {
    let mut connection = started(Limits::default(), &[(0x4, 1 << 20)]);
    let input = [window_update(0, 1 << 20), request(1, ES), request(3, ES), request(5, ES)];
    connection.receive(Bytes::from(input.concat()), 0).unwrap();
    for (stream, len) in [(1, 50_000), (3, 20_000), (5, 40_000)] {
        connection.send_data(StreamId(stream), vec![0; len], true);
    }
    assert_eq!(connection.queued(StreamId(3)), 20_000);
    let turns: Vec<_> =
        output(&mut connection).iter().map(|frame| (frame.stream, frame.payload.len())).collect();
    let expected = [
        (1, 16_384),
        (3, 16_384),
        (5, 16_384),
        (1, 16_384),
        (3, 3_616),
        (5, 16_384),
        (1, 16_384),
        (5, 7_232),
        (1, 848),
    ];
    assert_eq!(turns, expected);
}

#[test]
fn a_long_block_is_sent_with_continuations() {
    let mut connection = started(Limits::default(), &[(0x1, 0)]);
    connection.receive(Bytes::from(request(1, ES)), 0).unwrap();
    let block = encode_block(&[(b":status", b"200"), (b"x", &[0xff; 40_000])]);
    connection.send_headers(StreamId(1), &block, true);
    let frames = output(&mut connection);
    let kinds: Vec<_> = frames.iter().map(|frame| (frame.kind, frame.flags)).collect();
    let expected = [(Kind::Headers, ES), (Kind::Continuation, 0), (Kind::Continuation, EH)];
    assert_eq!(kinds, expected);
    assert!(frames.iter().all(|frame| frame.payload.len() <= 16_384));
    let sent: Vec<u8> = frames.into_iter().flat_map(|frame| frame.payload).collect();
    assert_eq!(sent, [&[0x20], &block[..]].concat());
}
