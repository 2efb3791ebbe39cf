//! Messages there and back. The texts of errors are those that a real etcd 3.7.1 gave.

use prost::Message;

use super::*;
use crate::proto::etcdserverpb::{
    Compare, HashKvResponse, MemberListResponse, PutRequest, RangeRequest, RangeResponse,
    ResponseHeader, TxnRequest, WatchResponse, compare, request_op,
};
use crate::proto::mvccpb::{Event, KeyValue, event::EventType};
use crate::proto::schema::{Kind, MESSAGES};

fn method(path: &str) -> &'static Method {
    match route(path) {
        Route::Method(method) => method,
        other => panic!("{path}: {other:?}"),
    }
}

fn request(path: &str, json: &str) -> Result<Vec<u8>, String> {
    let mut requests = Requests::new(method(path));
    requests.push(json.as_bytes());
    requests.end();
    requests.next_message().map(|message| message.expect("a message"))
}

#[test]
fn requests_are_read_whatever_the_spelling() {
    let expected = PutRequest {
        key: "foo".into(),
        value: "\u{3ff}\u{3ff}".into(),
        lease: -5,
        prev_kv: true,
        ..PutRequest::default()
    };
    for json in [
        r#"{"key":"Zm9v","value":"z7/Pvw==","lease":-5,"prev_kv":true}"#,
        r#"{"prevKv":true,"lease":"-5","value":"z7_Pvw","key":"Zm9v","ignoreValue":false}"#,
        r#" {"lease":-50e-1 , "key":"Zm\u0039v","nope":{"a":[{}]},"value":"z7/Pvw","prev_kv":true,"ignore_lease":null}"#,
    ] {
        let message = request("/v3/kv/put", json).unwrap();
        assert_eq!(PutRequest::decode(&message[..]).unwrap(), expected, "{json}");
    }
    assert_eq!(request("/v3/kv/put", "").unwrap(), b"");
    assert_eq!(request("/v3/kv/put", "{} nonsense").unwrap(), b"");
    let range = request("/v3/kv/range", r#"{"sort_order":"DESCEND","sort_target":4}"#).unwrap();
    let range = RangeRequest::decode(&range[..]).unwrap();
    assert_eq!((range.sort_order, range.sort_target), (2, 4));
    let range = request("/v3/kv/range", r#"{"sort_order":"NOPE"}"#).unwrap();
    assert_eq!(RangeRequest::decode(&range[..]).unwrap(), RangeRequest::default());
}

#[test]
fn what_is_one_of_several_is_sent_even_if_it_is_zero() {
    let json = r#"{"compare":[{"key":"YQ==","version":"0","target":"VERSION"}],
        "success":[{"request_range":{"key":"YQ=="}},{}]}"#;
    let message = request("/v3/kv/txn", json).unwrap();
    let txn = TxnRequest::decode(&message[..]).unwrap();
    let expected = Compare {
        key: "a".into(),
        target_union: Some(compare::TargetUnion::Version(0)),
        ..Compare::default()
    };
    assert_eq!(txn.compare, [expected]);
    assert!(matches!(txn.success[0].request, Some(request_op::Request::RequestRange(_))));
    assert_eq!(txn.success[1].request, None);
}

#[test]
fn what_is_wrong_with_a_request_is_said_as_protojson_says_it() {
    let cases = [
        (r#"{"key":"%%%"}"#, r#"proto: (line 1:8): invalid value for bytes field key: "%%%""#),
        (r#"{"key":"a"}"#, r#"proto: (line 1:8): invalid value for bytes field key: "a""#),
        (r#"{"key":5}"#, "proto: (line 1:8): invalid value for bytes field key: 5"),
        (
            r#"{"key":"Zm9v","lease":"x"}"#,
            r#"proto: (line 1:23): invalid value for int64 field lease: "x""#,
        ),
        (r#"{"lease":1.5}"#, "proto: (line 1:10): invalid value for int64 field lease: 1.5"),
        ("{\n\"prev_kv\":1}", "proto: (line 2:11): invalid value for bool field prevKv: 1"),
        (r#"{"key":"YQ","key":"YQ"}"#, r#"proto: (line 1:13): duplicate field "key""#),
        ("null", "proto: syntax error (line 1:1): unexpected token null"),
        ("[]", "proto: syntax error (line 1:1): unexpected token ["),
        ("{", "unexpected EOF"),
        ("x", "invalid character 'x' looking for beginning of value"),
    ];
    for (json, error) in cases {
        assert_eq!(request("/v3/kv/put", json).unwrap_err(), error, "{json}");
    }
    let twice = r#"{"compare":[{"version":1,"lease":2}]}"#;
    assert_eq!(
        request("/v3/kv/txn", twice).unwrap_err(),
        r#"proto: (line 1:26): error parsing "lease", oneof etcdserverpb.Compare.target_union is already set"#
    );
    let list = r#"{"compare":{}}"#;
    assert_eq!(
        request("/v3/kv/txn", list).unwrap_err(),
        "proto: syntax error (line 1:12): unexpected token {"
    );
    let deep = r#"{"success":[{"request_txn":"#.repeat(60) + &"}]}".repeat(60);
    assert!(request("/v3/kv/txn", &deep).is_err());
}

#[test]
fn a_stream_of_requests_is_one_message_a_value() {
    let mut requests = Requests::new(method("/v3/lease/keepalive"));
    requests.push(br#"{"ID":1}{"I"#);
    assert_eq!(requests.next_message().unwrap(), Some(vec![8, 1]));
    assert_eq!(requests.next_message().unwrap(), None);
    requests.push(br#"D":"2"}"#);
    assert_eq!(requests.next_message().unwrap(), Some(vec![8, 2]));
    requests.end();
    assert_eq!(requests.next_message().unwrap(), None);
}

#[test]
fn answers_have_the_names_of_the_schema_in_its_order_and_no_zeros() {
    let header =
        Some(ResponseHeader { cluster_id: 1, member_id: u64::MAX, revision: 2, raft_term: 0 });
    let kv = KeyValue {
        key: "foo".into(),
        create_revision: 2,
        mod_revision: 3,
        version: 2,
        value: "<a>".into(),
        lease: -1,
    };
    let range = RangeResponse { header, kvs: vec![kv.clone()], more: true, count: 1 };
    assert_eq!(
        answer(method("/v3/kv/range"), &range.encode_to_vec()).unwrap(),
        r#"{"header":{"cluster_id":"1","member_id":"18446744073709551615","revision":"2"},"kvs":[{"key":"Zm9v","create_revision":"2","mod_revision":"3","version":"2","value":"PGE+","lease":"-1"}],"more":true,"count":"1"}"#
    );
    let hash = HashKvResponse { hash: u32::MAX, compact_revision: -1, ..Default::default() };
    assert_eq!(
        answer(method("/v3/maintenance/hashkv"), &hash.encode_to_vec()).unwrap(),
        r#"{"hash":4294967295,"compact_revision":"-1"}"#
    );
    let events = vec![
        Event { r#type: EventType::Delete as i32, kv: Some(kv), prev_kv: None },
        Event { r#type: 7, kv: None, prev_kv: None },
        Event::default(),
    ];
    let watch = WatchResponse {
        cancel_reason: "<&>\u{2028}\"\n\u{1}".into(),
        events,
        ..Default::default()
    };
    assert_eq!(
        streamed(method("/v3/watch"), &watch.encode_to_vec()).unwrap(),
        concat!(
            r#"{"result":{"cancel_reason":"\u003c\u0026\u003e\u2028\"\n\u0001","#,
            r#""events":[{"type":"DELETE","kv":{"key":"Zm9v","create_revision":"2","mod_revision":"3","version":"2","value":"PGE+","lease":"-1"}},{"type":7},{}]}}"#,
            "\n"
        )
    );
    assert_eq!(answer(method("/v3/kv/put"), b"").unwrap(), "{}");
    assert_eq!(failure(3, "a <\"b\">"), r#"{"code":3,"message":"a <\"b\">"}"#);
    assert_eq!(
        streamed_failure(11, "a <b>"),
        "{\"error\":{\"code\":11,\"message\":\"a \\u003cb\\u003e\"}}\n"
    );
}

#[test]
fn members_keep_the_capitals_of_their_urls() {
    let member = crate::proto::etcdserverpb::Member {
        id: 1,
        peer_urls: vec!["http://a:1".into(), "http://b:2".into()],
        is_learner: true,
        ..Default::default()
    };
    let list = MemberListResponse { header: None, members: vec![member] };
    assert_eq!(
        answer(method("/v3/cluster/member/list"), &list.encode_to_vec()).unwrap(),
        r#"{"members":[{"ID":"1","peerURLs":["http://a:1","http://b:2"],"isLearner":true}]}"#
    );
}

/// What was written is read back as it was: for every type of message, with every field set.
#[test]
fn every_message_of_the_schemas_goes_there_and_back() {
    for (place, described) in MESSAGES.iter().enumerate() {
        for seed in 0..4 {
            let bytes = sample(place, seed, 0);
            let mut json = String::new();
            encode::message(place, &bytes, Escape::Plain, &mut json).unwrap();
            let back = decode::message(place, json.as_bytes());
            let back = back.unwrap_or_else(|error| panic!("{}: {error}: {json}", described.name));
            let mut again = String::new();
            encode::message(place, &back, Escape::Plain, &mut again).unwrap();
            assert_eq!(json, again, "{}", described.name);
            assert_eq!(back, bytes, "{}: {json}", described.name);
        }
    }
}

/// A message with all fields that can be set together.
fn sample(place: usize, seed: u64, depth: u32) -> Vec<u8> {
    use prost::encoding::{WireType, encode_key, encode_varint};
    let mut out = Vec::new();
    let mut groups = Vec::new();
    for field in MESSAGES[place].fields {
        if field.oneof.is_some_and(|group| groups.contains(&group)) {
            continue;
        }
        groups.extend(field.oneof);
        let times = if field.repeated { 2 } else { 1 };
        for time in 0..times {
            let number =
                seed.wrapping_mul(0x9e37_79b9).wrapping_add(u64::from(field.number) + time);
            let bytes = match field.kind {
                Kind::Message(of) if depth < 3 => sample(of, seed + time, depth + 1),
                Kind::Message(_) => Vec::new(),
                Kind::String => format!("\"text\\ {number}\u{e9}\n").into_bytes(),
                Kind::Bytes => number.to_le_bytes().to_vec(),
                _ => {
                    let value = match field.kind {
                        Kind::Bool => 1,
                        Kind::Enum(_) => 1,
                        Kind::Int32 | Kind::Uint32 => number & 0x7fff_ffff,
                        _ => number << 20 | 1,
                    };
                    encode_key(field.number, WireType::Varint, &mut out);
                    encode_varint(value, &mut out);
                    continue;
                }
            };
            encode_key(field.number, WireType::LengthDelimited, &mut out);
            encode_varint(bytes.len() as u64, &mut out);
            out.extend_from_slice(&bytes);
        }
    }
    out
}

/// Neither direction panics, whatever it is given.
#[test]
fn no_bytes_make_it_panic() {
    let mut state = 0x1234_5678_9abc_def0_u64;
    let mut random = move |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % below as u64) as usize
    };
    const PIECES: &[&str] = &[
        "{",
        "}",
        "[",
        "]",
        ",",
        ":",
        "\"",
        "\\",
        "\\u",
        "d83d",
        "\"key\"",
        "\"success\"",
        "\"request_txn\"",
        "\"compare\"",
        "\"lease\"",
        "1",
        "-",
        "0",
        ".5",
        "e9",
        "null",
        "true",
        " ",
        "\n",
        "\u{e9}",
        "\u{1f600}",
        "YQ==",
        "\"YQ==\"",
        "\\ud83d\\ude00",
        "\"target\"",
    ];
    for _ in 0..20_000 {
        let mut text: Vec<u8> = Vec::new();
        for _ in 0..random(24) {
            match random(12) {
                0 => text.push(random(256) as u8),
                _ => text.extend_from_slice(PIECES[random(PIECES.len())].as_bytes()),
            }
        }
        let mut requests = Requests::new(method("/v3/watch"));
        let mut unary = Requests::new(method("/v3/kv/txn"));
        for requests in [&mut requests, &mut unary] {
            let cut = random(text.len() + 1);
            requests.push(&text[..cut]);
            let _ = requests.next_message();
            requests.push(&text[cut..]);
            requests.end();
            while let Ok(Some(_)) = requests.next_message() {}
        }
        let place = random(MESSAGES.len());
        let mut bytes = sample(place, 1, 2);
        for _ in 0..random(4) {
            if !bytes.is_empty() {
                let at = random(bytes.len());
                bytes[at] = random(256) as u8;
            }
        }
        let _ = encode::message(place, &bytes, Escape::Html, &mut String::new());
    }
}
