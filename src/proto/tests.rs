//! The wire, pinned: the whole schema against a table, and some messages byte by byte.

use bytes::Bytes;
use prost::Message;

use super::{TXN_DEPTH_MAX, decode_txn, etcdserverpb as pb, mvccpb};

const WIRE: &str = include_str!("wire.txt");

/// The part of `google/protobuf/descriptor.proto` that the comparison needs.
mod descriptor {
    #[derive(Clone, PartialEq, prost::Message)]
    pub struct File {
        #[prost(string, tag = "2")]
        pub package: String,
        #[prost(message, repeated, tag = "4")]
        pub messages: Vec<Type>,
        #[prost(message, repeated, tag = "5")]
        pub enums: Vec<Enum>,
        #[prost(message, repeated, tag = "6")]
        pub services: Vec<Service>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Type {
        #[prost(string, tag = "1")]
        pub name: String,
        #[prost(message, repeated, tag = "2")]
        pub fields: Vec<Field>,
        #[prost(message, repeated, tag = "3")]
        pub nested: Vec<Type>,
        #[prost(message, repeated, tag = "4")]
        pub enums: Vec<Enum>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Field {
        #[prost(string, tag = "1")]
        pub name: String,
        #[prost(int32, tag = "3")]
        pub number: i32,
        #[prost(int32, tag = "4")]
        pub label: i32,
        #[prost(int32, tag = "5")]
        pub kind: i32,
        #[prost(string, tag = "6")]
        pub type_name: String,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Enum {
        #[prost(string, tag = "1")]
        pub name: String,
        #[prost(message, repeated, tag = "2")]
        pub values: Vec<EnumValue>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct EnumValue {
        #[prost(string, tag = "1")]
        pub name: String,
        #[prost(int32, tag = "2")]
        pub number: i32,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Service {
        #[prost(string, tag = "1")]
        pub name: String,
        #[prost(message, repeated, tag = "2")]
        pub methods: Vec<Method>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Method {
        #[prost(string, tag = "1")]
        pub name: String,
        #[prost(string, tag = "2")]
        pub input: String,
        #[prost(string, tag = "3")]
        pub output: String,
        #[prost(bool, tag = "5")]
        pub client_streaming: bool,
        #[prost(bool, tag = "6")]
        pub server_streaming: bool,
    }
}

fn last_part(name: &str) -> &str {
    name.rsplit('.').next().unwrap_or(name)
}

fn field_type(field: &descriptor::Field) -> String {
    let plain = match field.kind {
        3 => "int64",
        4 => "uint64",
        5 => "int32",
        8 => "bool",
        9 => "string",
        11 | 14 => last_part(&field.type_name),
        12 => "bytes",
        13 => "uint32",
        other => panic!("a field type that no schema uses: {other}"),
    };
    if field.label == 3 { format!("repeated {plain}") } else { plain.to_owned() }
}

fn line(name: &str, mut rows: Vec<(i32, String)>) -> String {
    rows.sort();
    let rows: Vec<_> = rows.into_iter().map(|(number, rest)| format!(" {number} {rest}")).collect();
    format!("{name}:{}", rows.join(";"))
}

fn enum_line(prefix: &str, e: &descriptor::Enum) -> String {
    let rows = e.values.iter().map(|v| (v.number, v.name.clone())).collect();
    line(&format!("{prefix}.{}", e.name), rows)
}

fn type_lines(prefix: &str, ty: &descriptor::Type, out: &mut Vec<String>) {
    let name = format!("{prefix}.{}", ty.name);
    let rows = ty.fields.iter().map(|f| (f.number, format!("{} {}", f.name, field_type(f))));
    out.push(line(&name, rows.collect()));
    out.extend(ty.enums.iter().map(|e| enum_line(&name, e)));
    ty.nested.iter().for_each(|nested| type_lines(&name, nested, out));
}

fn service_lines(package: &str, service: &descriptor::Service, out: &mut Vec<String>) {
    let stream = |on: bool| if on { "stream " } else { "" };
    out.extend(service.methods.iter().map(|m| {
        format!(
            "/{package}.{}/{} {}{} -> {}{}",
            service.name,
            m.name,
            stream(m.client_streaming),
            last_part(&m.input),
            stream(m.server_streaming),
            last_part(&m.output)
        )
    }));
}

fn schemas() -> impl Iterator<Item = descriptor::File> {
    super::files::FILES.iter().map(|file| descriptor::File::decode(file.encoded).unwrap())
}

#[test]
fn every_message_enum_and_method_has_the_names_and_numbers_of_etcd() {
    let mut ours = Vec::new();
    for file in schemas() {
        if file.package.starts_with("google.") || file.package.starts_with("grpc.") {
            continue;
        }
        file.messages.iter().for_each(|ty| type_lines(&file.package, ty, &mut ours));
        ours.extend(file.enums.iter().map(|e| enum_line(&file.package, e)));
        file.services.iter().for_each(|s| service_lines(&file.package, s, &mut ours));
    }
    let mut etcd: Vec<&str> = WIRE.lines().filter(|l| !l.starts_with('#')).collect();
    ours.sort();
    etcd.sort();
    let missing: Vec<_> = etcd.iter().filter(|l| !ours.iter().any(|o| o == *l)).collect();
    let added: Vec<_> = ours.iter().filter(|o| !etcd.contains(&o.as_str())).collect();
    assert!(missing.is_empty() && added.is_empty(), "missing {missing:#?}, added {added:#?}");
    assert_eq!(ours.len(), etcd.len());
}

#[test]
fn both_names_of_reflection_are_one_service() {
    let lines = |package: &str| {
        let file = schemas().find(|file| file.package == package).unwrap();
        let mut lines = Vec::new();
        file.messages.iter().for_each(|ty| type_lines("", ty, &mut lines));
        file.services.iter().for_each(|s| service_lines("", s, &mut lines));
        lines
    };
    assert_eq!(lines("grpc.reflection.v1"), lines("grpc.reflection.v1alpha"));
}

#[test]
fn the_health_service_is_the_standard_one() {
    let file = schemas().find(|file| file.package == "grpc.health.v1").unwrap();
    let mut methods = Vec::new();
    file.services.iter().for_each(|s| service_lines(&file.package, s, &mut methods));
    assert_eq!(
        methods,
        [
            "/grpc.health.v1.Health/Check HealthCheckRequest -> HealthCheckResponse",
            "/grpc.health.v1.Health/List HealthListRequest -> HealthListResponse",
            "/grpc.health.v1.Health/Watch HealthCheckRequest -> stream HealthCheckResponse",
        ]
    );
    let serving = super::health::HealthCheckResponse {
        status: super::health::health_check_response::ServingStatus::Serving.into(),
    };
    assert_eq!(serving.encode_to_vec(), [0x08, 0x01]);
}

#[test]
fn a_put_decodes_from_hand_made_bytes_and_encodes_to_them() {
    let bytes: &[u8] = b"\x0a\x03foo\x12\x03bar\x18\x87\x01\x20\x01\x30\x01";
    let put = pb::PutRequest::decode(bytes).unwrap();
    let expected = pb::PutRequest {
        key: Bytes::from_static(b"foo"),
        value: Bytes::from_static(b"bar"),
        lease: 135,
        prev_kv: true,
        ignore_value: false,
        ignore_lease: true,
    };
    assert_eq!(put, expected);
    assert_eq!(put.encode_to_vec(), bytes);
}

#[test]
fn keys_and_values_are_slices_of_the_buffer_they_came_in() {
    let buffer = Bytes::from_static(b"\x0a\x03foo\x12\x03bar");
    let put = pb::PutRequest::decode(buffer.clone()).unwrap();
    assert!(buffer.as_ptr_range().contains(&put.key.as_ptr()));
    assert!(buffer.as_ptr_range().contains(&put.value.as_ptr()));
}

#[test]
fn a_negative_number_takes_ten_bytes_as_in_every_int64() {
    let request = pb::CompactionRequest { revision: -1, physical: false };
    let expected: &[u8] = b"\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01";
    assert_eq!(request.encode_to_vec(), expected);
    assert_eq!(pb::CompactionRequest::decode(expected).unwrap(), request);
}

#[test]
fn a_log_entry_holds_the_clients_bytes_under_the_tag_of_the_request() {
    // ID 5; put (4) { key "k" }; header (100) { ID 9 }.
    let bytes: &[u8] = b"\x08\x05\x22\x03\x0a\x01k\xa2\x06\x02\x08\x09";
    let entry = pb::InternalRaftRequest::decode(bytes).unwrap();
    assert_eq!(entry.id, 5);
    assert_eq!(entry.put.as_ref().unwrap().key, "k");
    assert_eq!(entry.header.as_ref().unwrap().id, 9);
    assert_eq!(entry.encode_to_vec(), bytes);
}

#[test]
fn the_high_numbers_of_a_log_entry_are_etcds() {
    // downgrade_version_test = 9900 { ver "3" }; authenticate = 1012 {}.
    let bytes: &[u8] = b"\xa2\x3f\x00\xe2\xea\x04\x03\x0a\x013";
    let entry = pb::InternalRaftRequest::decode(bytes).unwrap();
    assert_eq!(entry.authenticate, Some(pb::InternalAuthenticateRequest::default()));
    assert_eq!(entry.downgrade_version_test.as_ref().unwrap().ver, "3");
    assert_eq!(entry.encode_to_vec(), bytes);
}

#[test]
fn a_comparison_keeps_a_target_that_is_zero() {
    // A oneof is written even with its default: "version == 0" differs from "no version given".
    let compare = pb::Compare {
        key: Bytes::from_static(b"k"),
        target_union: Some(pb::compare::TargetUnion::Version(0)),
        range_end: Bytes::from_static(b"l"),
        ..Default::default()
    };
    let expected: &[u8] = b"\x1a\x01k\x20\x00\x82\x04\x01l";
    assert_eq!(compare.encode_to_vec(), expected);
    assert_eq!(pb::Compare::decode(expected).unwrap(), compare);
}

#[test]
fn a_nested_transaction_survives_a_round_trip() {
    let put = pb::request_op::Request::RequestPut(pb::PutRequest {
        key: Bytes::from_static(b"a"),
        ..Default::default()
    });
    let inner = pb::TxnRequest {
        success: vec![pb::RequestOp { request: Some(put) }],
        ..Default::default()
    };
    let nested = pb::request_op::Request::RequestTxn(inner);
    let outer = pb::TxnRequest {
        failure: vec![pb::RequestOp { request: Some(nested) }, pb::RequestOp { request: None }],
        ..Default::default()
    };
    assert_eq!(pb::TxnRequest::decode(outer.encode_to_vec().as_slice()).unwrap(), outer);
}

#[test]
fn a_watch_response_writes_its_events_under_eleven() {
    let event = mvccpb::Event {
        r#type: mvccpb::event::EventType::Delete.into(),
        kv: Some(mvccpb::KeyValue {
            key: Bytes::from_static(b"k"),
            mod_revision: 7,
            ..Default::default()
        }),
        prev_kv: None,
    };
    let response = pb::WatchResponse { watch_id: 1, events: vec![event], ..Default::default() };
    assert_eq!(response.encode_to_vec(), b"\x10\x01\x5a\x09\x08\x01\x12\x05\x0a\x01k\x18\x07");
}

#[test]
fn members_write_their_urls_under_three_and_four() {
    let member = pb::Member {
        id: 1,
        name: "n".into(),
        peer_urls: vec!["p".into()],
        client_urls: vec!["c".into()],
        is_learner: true,
    };
    assert_eq!(member.encode_to_vec(), b"\x08\x01\x12\x01n\x1a\x01p\x22\x01c\x28\x01");
}

#[test]
fn truncated_and_unknown_input_is_an_error_or_skipped_but_never_a_panic() {
    assert!(pb::PutRequest::decode(&b"\x0a\x05ab"[..]).is_err());
    assert!(pb::PutRequest::decode(&b"\x0b"[..]).is_err());
    let unknown: &[u8] = b"\xf8\x3f\x01\x0a\x01k";
    assert_eq!(pb::PutRequest::decode(unknown).unwrap().key, "k");
    // prost stops at its limit instead of overflowing the stack.
    assert!(pb::TxnRequest::decode(nested(200)).is_err());
}

/// Transactions within each other.
fn nested(depth: usize) -> Bytes {
    let mut bytes = Vec::new();
    for _ in 1..depth {
        let op = [&b"\x22"[..], &varint(bytes.len()), &bytes].concat();
        bytes = [&b"\x12"[..], &varint(op.len()), &op].concat();
    }
    bytes.into()
}

#[test]
fn transactions_are_decoded_as_deep_as_etcds_bound_lets_them_be_and_no_deeper() {
    for (depth, expected) in
        [(1, true), (128, true), (TXN_DEPTH_MAX, true), (TXN_DEPTH_MAX + 1, false)]
    {
        let decoded = decode_txn(nested(depth));
        assert_eq!(decoded.is_ok(), expected, "{depth}");
        if let Ok(txn) = decoded {
            assert_eq!(txn.encode_to_vec(), nested(depth), "{depth}");
        }
    }
    assert!(decode_txn(nested(5_000)).is_err());
}

#[test]
fn transactions_are_decoded_as_prost_decodes_them() {
    let mut seed = 7;
    let mut random = |below: u64| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed % below
    };
    let mut decoded = [0; 2];
    for _ in 0..20_000 {
        // Fields that are almost right, some within others.
        let mut bytes: Vec<u8> = Vec::new();
        for _ in 0..random(9) {
            let field = match random(12) {
                0 => vec![random(256) as u8],
                1 => [&b"\x60"[..], &varint(random(300) as usize)].concat(),
                tag => {
                    let from = random(bytes.len() as u64 + 1) as usize;
                    let inner = bytes.split_off(from);
                    let tag = (tag as u8 % 5 + 1) << 3 | 2;
                    [&[tag][..], &varint(inner.len()), &inner].concat()
                }
            };
            bytes.extend(field);
        }
        let ours = decode_txn(bytes.clone().into()).ok();
        assert_eq!(ours, pb::TxnRequest::decode(&bytes[..]).ok(), "{bytes:x?}");
        decoded[usize::from(ours.is_some())] += 1;
    }
    assert!(decoded.into_iter().all(|count| count > 1_000), "{decoded:?}");
}

fn varint(n: usize) -> Vec<u8> {
    let mut out = Vec::new();
    prost::encoding::encode_varint(n as u64, &mut out);
    out
}
