//! Requests that are refused: the code and the text are etcd's own. The table is checked against a real etcd, too, where
//! there is one.

use bytes::Bytes;
use prost::Message;
use ringd::proto::etcdserverpb as pb;

use crate::block_on;
use crate::client::{Client, frame};
use crate::server::{Kind, Server, kinds};

const MAX_REQUEST_BYTES: usize = 20_000;
/// What gRPC lets through beyond that.
const OVERHEAD_BYTES: usize = 512 << 10;
const MAX_TXN_OPS: usize = 4;

const OK: i32 = 0;
const UNKNOWN: i32 = 2;
const INVALID_ARGUMENT: i32 = 3;
const DEADLINE_EXCEEDED: i32 = 4;
const NOT_FOUND: i32 = 5;
const RESOURCE_EXHAUSTED: i32 = 8;
const FAILED_PRECONDITION: i32 = 9;
const OUT_OF_RANGE: i32 = 11;
const UNIMPLEMENTED: i32 = 12;
const INTERNAL: i32 = 13;

struct Case {
    what: &'static str,
    path: &'static str,
    message: Vec<u8>,
    code: i32,
    text: String,
}

fn case(
    what: &'static str,
    path: &'static str,
    message: impl Message,
    code: i32,
    text: &str,
) -> Case {
    let whole = text.is_empty() || text.starts_with("grpc: ") || text.starts_with("RangeStream ");
    let text = if whole { text.to_owned() } else { format!("etcdserver: {text}") };
    Case { what, path, message: message.encode_to_vec(), code, text }
}

const RANGE: &str = "/etcdserverpb.KV/Range";
const RANGE_STREAM: &str = "/etcdserverpb.KV/RangeStream";
const PUT: &str = "/etcdserverpb.KV/Put";
const DELETE: &str = "/etcdserverpb.KV/DeleteRange";
const TXN: &str = "/etcdserverpb.KV/Txn";
const COMPACT: &str = "/etcdserverpb.KV/Compact";
const GRANT: &str = "/etcdserverpb.Lease/LeaseGrant";
const REVOKE: &str = "/etcdserverpb.Lease/LeaseRevoke";
const MEMBER_ADD: &str = "/etcdserverpb.Cluster/MemberAdd";
const MEMBER_REMOVE: &str = "/etcdserverpb.Cluster/MemberRemove";
const MEMBER_UPDATE: &str = "/etcdserverpb.Cluster/MemberUpdate";
const MEMBER_PROMOTE: &str = "/etcdserverpb.Cluster/MemberPromote";
const MOVE_LEADER: &str = "/etcdserverpb.Maintenance/MoveLeader";
const HASH_KV: &str = "/etcdserverpb.Maintenance/HashKV";

const COMPACTED: &str = "mvcc: required revision has been compacted";
const FUTURE: &str = "mvcc: required revision is a future revision";
const NO_KEY: &str = "key is not provided";
const NOT_THERE: &str = "key not found";
const DUPLICATE: &str = "duplicate key given in txn request";
const NO_MEMBER: &str = "member not found";
const BAD_URLS: &str = "given member URLs are invalid";
const NO_LEASE: &str = "requested lease not found";

fn range(key: &str) -> pb::RangeRequest {
    pb::RangeRequest { key: Bytes::copy_from_slice(key.as_bytes()), ..Default::default() }
}

fn put(key: &str) -> pb::PutRequest {
    pb::PutRequest {
        key: Bytes::copy_from_slice(key.as_bytes()),
        value: Bytes::from_static(b"value"),
        ..Default::default()
    }
}

fn delete(key: &str, range_end: &str) -> pb::DeleteRangeRequest {
    let [key, range_end] = [key, range_end].map(|text| Bytes::copy_from_slice(text.as_bytes()));
    pb::DeleteRangeRequest { key, range_end, prev_kv: false }
}

fn op(request: pb::request_op::Request) -> pb::RequestOp {
    pb::RequestOp { request: Some(request) }
}

fn txn(success: Vec<pb::RequestOp>) -> pb::TxnRequest {
    pb::TxnRequest { success, ..Default::default() }
}

/// The store holds `a`, was written to five times, and is compacted at 4.
fn cases() -> Vec<Case> {
    use pb::request_op::Request::{RequestDeleteRange, RequestPut, RequestRange, RequestTxn};
    let at = |revision| pb::RangeRequest { revision, ..range("a") };
    let large = |length| pb::PutRequest { value: vec![b'x'; length].into(), ..put("large") };
    let too_large = large(MAX_REQUEST_BYTES + OVERHEAD_BYTES);
    let larger_text = format!(
        "grpc: received message larger than max ({} vs. {})",
        too_large.encoded_len(),
        MAX_REQUEST_BYTES + OVERHEAD_BYTES
    );
    let many = |count| vec![op(RequestRange(range("a"))); count];
    let compare = pb::Compare { key: Bytes::from_static(b"a"), ..Default::default() };
    let nested = |inner| op(RequestTxn(txn(inner)));
    vec![
        case(
            "a new member without URLs",
            MEMBER_ADD,
            pb::MemberAddRequest::default(),
            INVALID_ARGUMENT,
            BAD_URLS,
        ),
        case(
            "a new member with a URL that is none",
            MEMBER_ADD,
            pb::MemberAddRequest { peer_urls: vec!["http://a".into()], is_learner: true },
            INVALID_ARGUMENT,
            BAD_URLS,
        ),
        case(
            "removing a member that is not there",
            MEMBER_REMOVE,
            pb::MemberRemoveRequest { id: 1 },
            NOT_FOUND,
            NO_MEMBER,
        ),
        case(
            "new URLs for a member that is not there",
            MEMBER_UPDATE,
            pb::MemberUpdateRequest { id: 1, peer_urls: vec!["http://a:1".into()] },
            NOT_FOUND,
            NO_MEMBER,
        ),
        case(
            "promoting a member that is not there",
            MEMBER_PROMOTE,
            pb::MemberPromoteRequest { id: 1 },
            NOT_FOUND,
            NO_MEMBER,
        ),
        case(
            "leadership for a member that is not there",
            MOVE_LEADER,
            pb::MoveLeaderRequest { target_id: 1 },
            FAILED_PRECONDITION,
            "bad leader transferee",
        ),
        case("range without a key", RANGE, range(""), INVALID_ARGUMENT, NO_KEY),
        case("streamed range without a key", RANGE_STREAM, range(""), INVALID_ARGUMENT, NO_KEY),
        case("put without a key", PUT, put(""), INVALID_ARGUMENT, NO_KEY),
        case("delete without a key", DELETE, delete("", "b"), INVALID_ARGUMENT, NO_KEY),
        case(
            "unknown sort order",
            RANGE,
            pb::RangeRequest { sort_order: 3, ..range("a") },
            INVALID_ARGUMENT,
            "invalid sort option",
        ),
        case(
            "unknown sort target",
            RANGE,
            pb::RangeRequest { sort_target: -1, ..range("a") },
            INVALID_ARGUMENT,
            "invalid sort option",
        ),
        case("compacted revision", RANGE, at(3), OUT_OF_RANGE, COMPACTED),
        case("the revision of the compaction", RANGE, at(4), OK, ""),
        case("future revision", RANGE, at(1_000), OUT_OF_RANGE, FUTURE),
        case("compacted revision, streamed", RANGE_STREAM, at(3), OUT_OF_RANGE, COMPACTED),
        case("future revision, streamed", RANGE_STREAM, at(1_000), OUT_OF_RANGE, FUTURE),
        case(
            "streamed with an order",
            RANGE_STREAM,
            pb::RangeRequest { sort_order: 2, ..range("a") },
            UNIMPLEMENTED,
            "RangeStream does not support custom sort orders",
        ),
        case(
            "streamed with a filter",
            RANGE_STREAM,
            pb::RangeRequest { min_mod_revision: 2, ..range("a") },
            UNIMPLEMENTED,
            "RangeStream does not support revision filters",
        ),
        case(
            "ignored value that is given",
            PUT,
            pb::PutRequest { ignore_value: true, ..put("a") },
            INVALID_ARGUMENT,
            "value is provided",
        ),
        case(
            "ignored lease that is given",
            PUT,
            pb::PutRequest { ignore_lease: true, lease: 1, ..put("a") },
            INVALID_ARGUMENT,
            "lease is provided",
        ),
        case(
            "ignored value of a missing key",
            PUT,
            pb::PutRequest { ignore_value: true, value: Bytes::new(), ..put("missing") },
            INVALID_ARGUMENT,
            NOT_THERE,
        ),
        case(
            "ignored lease of a missing key",
            PUT,
            pb::PutRequest { ignore_lease: true, ..put("missing") },
            INVALID_ARGUMENT,
            NOT_THERE,
        ),
        case(
            "put with an unknown lease",
            PUT,
            pb::PutRequest { lease: 77, ..put("a") },
            NOT_FOUND,
            NO_LEASE,
        ),
        case(
            "large for the log",
            PUT,
            large(MAX_REQUEST_BYTES),
            INVALID_ARGUMENT,
            "request is too large",
        ),
        case("large for gRPC", PUT, too_large, RESOURCE_EXHAUSTED, &larger_text),
        case(
            "too many operations",
            TXN,
            txn(many(MAX_TXN_OPS + 1)),
            INVALID_ARGUMENT,
            "too many operations in txn request",
        ),
        case("as many operations as allowed", TXN, txn(many(MAX_TXN_OPS)), OK, ""),
        case(
            "too many comparisons",
            TXN,
            pb::TxnRequest { compare: vec![compare.clone(); MAX_TXN_OPS + 1], ..txn(vec![]) },
            INVALID_ARGUMENT,
            "too many operations in txn request",
        ),
        case(
            "too many nested operations",
            TXN,
            txn(vec![nested(many(MAX_TXN_OPS))]),
            INVALID_ARGUMENT,
            "too many operations in txn request",
        ),
        case(
            "comparison without a key",
            TXN,
            pb::TxnRequest { compare: vec![pb::Compare::default()], ..txn(vec![]) },
            INVALID_ARGUMENT,
            NO_KEY,
        ),
        case(
            "operation that is none",
            TXN,
            txn(vec![pb::RequestOp::default()]),
            INVALID_ARGUMENT,
            NOT_THERE,
        ),
        case(
            "a key put twice",
            TXN,
            txn(vec![op(RequestPut(put("a"))), op(RequestPut(put("a")))]),
            INVALID_ARGUMENT,
            DUPLICATE,
        ),
        case(
            "a key put and deleted",
            TXN,
            txn(vec![op(RequestPut(put("b"))), op(RequestDeleteRange(delete("a", "c")))]),
            INVALID_ARGUMENT,
            DUPLICATE,
        ),
        case(
            "a key put twice, once in a nested transaction",
            TXN,
            txn(vec![op(RequestPut(put("a"))), nested(vec![op(RequestPut(put("a")))])]),
            INVALID_ARGUMENT,
            DUPLICATE,
        ),
        case(
            "a key deleted twice",
            TXN,
            txn(vec![
                op(RequestDeleteRange(delete("none", "nonf"))),
                op(RequestDeleteRange(delete("none", ""))),
            ]),
            OK,
            "",
        ),
        case(
            "an empty key in a branch that is not taken",
            TXN,
            pb::TxnRequest { failure: vec![op(RequestRange(range("")))], ..txn(vec![]) },
            INVALID_ARGUMENT,
            NO_KEY,
        ),
        case(
            "a compacted revision in a transaction",
            TXN,
            txn(vec![op(RequestPut(put("b"))), op(RequestRange(at(2)))]),
            OUT_OF_RANGE,
            COMPACTED,
        ),
        case(
            "a future revision in a transaction",
            TXN,
            txn(vec![op(RequestRange(at(1_000)))]),
            OUT_OF_RANGE,
            FUTURE,
        ),
        case(
            "an unknown lease in a transaction",
            TXN,
            txn(vec![op(RequestPut(pb::PutRequest { lease: 77, ..put("b") }))]),
            NOT_FOUND,
            NO_LEASE,
        ),
        case(
            "compaction at a compacted revision",
            COMPACT,
            pb::CompactionRequest { revision: 4, physical: false },
            OUT_OF_RANGE,
            COMPACTED,
        ),
        case(
            "compaction in the future",
            COMPACT,
            pb::CompactionRequest { revision: 1_000, physical: true },
            OUT_OF_RANGE,
            FUTURE,
        ),
        case(
            "lease for too long",
            GRANT,
            pb::LeaseGrantRequest { ttl: 9_000_000_001, id: 1 },
            OUT_OF_RANGE,
            "too large lease TTL",
        ),
        case(
            "lease that exists",
            GRANT,
            pb::LeaseGrantRequest { ttl: 1_000, id: 4_711 },
            FAILED_PRECONDITION,
            "lease already exists",
        ),
        case(
            "end of an unknown lease",
            REVOKE,
            pb::LeaseRevokeRequest { id: 77 },
            NOT_FOUND,
            NO_LEASE,
        ),
        case(
            "hash at a compacted revision",
            HASH_KV,
            pb::HashKvRequest { revision: 3 },
            OUT_OF_RANGE,
            COMPACTED,
        ),
        case(
            "hash at a future revision",
            HASH_KV,
            pb::HashKvRequest { revision: 1_000 },
            OUT_OF_RANGE,
            FUTURE,
        ),
    ]
}

async fn prepared(kind: Kind) -> (Server, Client) {
    let limits = [
        format!("--max-request-bytes={MAX_REQUEST_BYTES}"),
        format!("--max-txn-ops={MAX_TXN_OPS}"),
    ];
    let server = Server::start(kind, &limits.each_ref().map(String::as_str));
    let client = Client::connect(server.client).await;
    for _ in 0..5 {
        let _: pb::PutResponse = client.call(PUT, &put("a")).await.message();
    }
    let compact = pb::CompactionRequest { revision: 4, physical: true };
    let _: pb::CompactionResponse = client.call(COMPACT, &compact).await.message();
    let grant = pb::LeaseGrantRequest { ttl: 1_000, id: 4_711 };
    let _: pb::LeaseGrantResponse = client.call(GRANT, &grant).await.message();
    (server, client)
}

#[test]
fn refused_requests_get_etcds_code_and_text() {
    for kind in kinds() {
        block_on(async {
            let (_server, client) = prepared(kind).await;
            for case in cases() {
                let reply = client.call_raw(case.path, frame(&case.message)).await;
                let expected = (case.code, case.text);
                assert_eq!(reply.status(), expected, "{kind}: {}: {reply:?}", case.what);
            }
            // None of them has left anything behind.
            let a: pb::RangeResponse = client.call(RANGE, &range("a")).await.message();
            assert_eq!(a.header.map(|header| header.revision), Some(6), "{kind}");
        });
    }
}

/// What is no request at all. Etcd's text about bytes that are no message has a space that is an ordinary one or not, as
/// its build has drawn it.
#[test]
fn calls_that_are_none_get_the_codes_and_texts_of_grpc_go() {
    let good = frame(&range("a").encode_to_vec());
    let raw = Bytes::from_static;
    let twice: Bytes = [&good[..], &good[..]].concat().into();
    let too_large = "grpc: received message larger than max (4294967295 vs. 544288)";
    let no_message =
        "grpc: error unmarshalling request: proto: cannot parse invalid wire-format data";
    let compressed = "grpc: compressed flag set with identity or empty encoding";
    let no_service = "unknown service nope.Nope";
    let no_method = "unknown method Nope for service etcdserverpb.KV";
    let soon = "malformed grpc-timeout: strconv.ParseUint: parsing \"soo\": invalid syntax";
    let encoding = "grpc: Decompressor is not installed for grpc-encoding \"snappy\"";
    let content = "invalid gRPC request content-type \"text/plain\"";
    let bodies = [
        ("unknown method", "/etcdserverpb.KV/Nope", good.clone(), UNIMPLEMENTED, no_method),
        ("unknown service", "/nope.Nope/Nope", good.clone(), UNIMPLEMENTED, no_service),
        ("no method", "/nope", good.clone(), UNIMPLEMENTED, "malformed method name: \"/nope\""),
        ("half a field", RANGE, frame(b"\x0a\x05ab"), INTERNAL, no_message),
        ("wrong wire type", RANGE, frame(b"\x0b\x00"), INTERNAL, no_message),
        ("compressed", RANGE, raw(b"\x01\0\0\0\0"), INTERNAL, compressed),
        (
            "flag",
            RANGE,
            raw(b"\x07\0\0\0\0"),
            INTERNAL,
            "grpc: received unexpected payload format 7",
        ),
        ("nothing", RANGE, raw(b""), UNKNOWN, "EOF"),
        ("half a prefix", RANGE, raw(b"\0\0\0"), UNKNOWN, "EOF"),
        ("half a message", RANGE, raw(b"\0\0\0\0\x09abc"), UNKNOWN, "unexpected EOF"),
        ("two messages", RANGE, twice, OK, ""),
        ("huge length", RANGE, raw(b"\0\xff\xff\xff\xff"), RESOURCE_EXHAUSTED, too_large),
    ];
    let fields = [
        ("grpc-timeout", "soon", INTERNAL, soon),
        ("grpc-timeout", "0n", DEADLINE_EXCEEDED, "context deadline exceeded"),
        ("grpc-timeout", "100S", OK, ""),
        ("grpc-encoding", "snappy", UNIMPLEMENTED, encoding),
        ("grpc-encoding", "identity", OK, ""),
        ("content-type", "text/plain", INVALID_ARGUMENT, content),
        ("content-type", "application/grpc+proto", OK, ""),
        ("client-api-version", "x", OK, ""),
        ("hasleader", "true", OK, ""),
        ("token", "of nobody", OK, ""),
    ];
    for kind in kinds() {
        block_on(async {
            let (_server, client) = prepared(kind).await;
            for (what, path, body, code, text) in &bodies {
                let reply = client.call_raw(path, body.clone()).await;
                let (got, said) = (reply.code(), reply.text().replace('\u{a0}', " "));
                assert_eq!((got, said.as_str()), (*code, *text), "{kind}: {what}: {reply:?}");
            }
            for (name, value, code, text) in &fields {
                let reply = client.call_with(RANGE, &[(name, value)], good.clone()).await;
                let (got, said) = reply.status();
                assert_eq!(
                    (got, said.as_str()),
                    (*code, *text),
                    "{kind}: {name}: {value}: {reply:?}"
                );
            }
        });
    }
}
