//! What happens when nothing happens.

use super::*;

/// Runs the clock from deadline to deadline; what came out at which time, until it is closed.
fn run_out(connection: &mut Connection, until_ms: u64) -> Vec<(u64, Vec<Kind>)> {
    let mut trace = Vec::new();
    while let Some(at_ms) = connection.next_timeout().filter(|&at_ms| at_ms <= until_ms) {
        connection.timeout(at_ms);
        let kinds: Vec<_> = output(connection).into_iter().map(|frame| frame.kind).collect();
        trace.push((at_ms, kinds));
        if connection.is_closed() {
            break;
        }
    }
    trace
}

#[test]
fn a_client_that_says_nothing_is_let_go() {
    let mut connection = Connection::new(Limits::default());
    let trace = run_out(&mut connection, u64::MAX);
    let expected = [(0, vec![Kind::Settings, Kind::WindowUpdate]), (10_000, vec![Kind::GoAway])];
    assert_eq!(trace, expected);
    assert!(connection.is_closed());
}

#[test]
fn a_client_that_does_not_finish_its_preface_is_let_go() {
    let mut connection = Connection::new(Limits::default());
    for (at_ms, octet) in PREFACE.iter().enumerate() {
        connection.receive(Bytes::copy_from_slice(&[*octet]), at_ms as u64).unwrap();
    }
    let trace = run_out(&mut connection, u64::MAX);
    assert_eq!(trace, [(10_000, vec![Kind::Settings, Kind::WindowUpdate, Kind::GoAway])]);
}

#[test]
fn a_client_that_does_not_acknowledge_the_settings_is_let_go() {
    let mut connection = Connection::new(Limits::default());
    connection.receive(Bytes::from([&PREFACE[..], &settings(&[])].concat()), 5).unwrap();
    output(&mut connection);
    assert_eq!(run_out(&mut connection, u64::MAX), [(60_005, vec![Kind::GoAway])]);
}

#[test]
fn a_field_block_must_be_finished_in_time() {
    let mut connection = started(Limits::default(), &[]);
    connection.receive(Bytes::from(frame(Kind::Headers, ES, 1, &[0x83])), 700).unwrap();
    connection.receive(Bytes::from(frame(Kind::Continuation, 0, 1, &[0x86])), 9_000).unwrap();
    assert_eq!(run_out(&mut connection, u64::MAX), [(10_700, vec![Kind::GoAway])]);
}

#[test]
fn an_idle_client_is_pinged_and_one_that_answers_stays() {
    let two_hours_ms = 2 * 60 * 60 * 1_000;
    let mut connection = started(Limits::default(), &[]);
    assert_eq!(connection.next_timeout(), Some(two_hours_ms));
    assert_eq!(run_out(&mut connection, two_hours_ms), [(two_hours_ms, vec![Kind::Ping])]);
    let ack = frame(Kind::Ping, ACK, 0, &[0; 8]);
    connection.receive(Bytes::from(ack), two_hours_ms + 19_999).unwrap();
    let next_ms = 2 * two_hours_ms + 19_999;
    let trace = run_out(&mut connection, u64::MAX);
    assert_eq!(trace, [(next_ms, vec![Kind::Ping]), (next_ms + 20_000, vec![])]);
    assert!(connection.is_closed());
}

#[test]
fn a_timeout_before_its_time_does_nothing() {
    let mut connection = started(Limits::default(), &[]);
    connection.timeout(1);
    connection.timeout(7_199_999);
    assert_eq!(output(&mut connection), []);
    assert!(!connection.is_closed());
}

#[test]
fn last_words_nobody_reads_are_dropped_in_the_end() {
    let mut connection = started(Limits::default(), &[]);
    connection.receive(Bytes::from(request(1, ES)), 50).unwrap();
    connection.send_headers(StreamId(1), &encode_block(&[(b":status", b"200")]), false);
    connection.receive(Bytes::from(frame(Kind::Settings, 0, 1, &[])), 100).unwrap_err();
    assert_eq!(connection.next_timeout(), Some(5_100));
    assert!(!connection.is_closed());
    connection.timeout(5_099);
    assert!(connection.wants_output());
    connection.timeout(5_100);
    assert!(connection.is_closed());
    assert_eq!((connection.next_timeout(), output(&mut connection)), (None, vec![]));
}

#[test]
fn after_an_error_nothing_counts_any_more() {
    let mut connection = started(Limits::default(), &[]);
    connection.receive(Bytes::from(request(1, 0)), 0).unwrap();
    connection.go_away(ErrorCode::INTERNAL_ERROR, b"going down");
    assert!(connection.receive(Bytes::from(vec![0xff; 100]), 1).is_ok());
    connection.send_data(StreamId(1), vec![0; 100_000], false);
    connection.go_away(ErrorCode::NO_ERROR, b"again");
    events(&mut connection);
    let frames = output(&mut connection);
    assert_eq!(frames.iter().map(|frame| frame.kind).collect::<Vec<_>>(), [Kind::GoAway]);
    assert_eq!(frames[0].payload, [&[0, 0, 0, 1, 0, 0, 0, 2][..], b"going down"].concat());
    assert!(connection.is_closed());
}
