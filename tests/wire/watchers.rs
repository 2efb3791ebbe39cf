//! Many watchers: what each costs, and that a gzip-speaking client is understood like any other.

use std::io::Write;

use bytes::Bytes;
use prost::Message;
use ringd::proto::etcdserverpb as pb;
use ringd::proto::etcdserverpb::watch_request::RequestUnion;

use crate::block_on;
use crate::client::{Client, Stream, frame};
use crate::heap::anonymous_bytes;
use crate::server::{Kind, Server, kinds};

const STREAMS: usize = 10;
const WATCHERS: usize = 100_000;
/// The target of a watcher that waits, with a key of its own.
const HEAP_BYTES_MAX: u64 = 350;

async fn watch(streams: &mut [Stream], from: usize, count: usize) {
    for n in from..from + count {
        let key = format!("/registry/configmaps/namespace/{n:08}").into();
        let create = pb::WatchCreateRequest { key, ..Default::default() };
        let union = RequestUnion::CreateRequest(create);
        streams[n % STREAMS].send(&pb::WatchRequest { request_union: Some(union) });
        // Answers are taken along the way, so that none waits in the server when it is weighed.
        if n % 1_000 == 999 {
            for stream in &mut *streams {
                for _ in 0..1_000 / STREAMS {
                    let answer: pb::WatchResponse = stream.message().await;
                    assert!(answer.created && !answer.canceled, "{answer:?}");
                }
            }
        }
    }
}

#[test]
fn a_watcher_that_waits_costs_less_than_350_bytes() {
    let server = Server::start(Kind::Ringd, &[]);
    block_on(async {
        let client = Client::connect(server.client).await;
        let mut streams = Vec::new();
        for _ in 0..STREAMS {
            streams.push(client.open("/etcdserverpb.Watch/Watch").await);
        }
        watch(&mut streams, 0, 1_000).await;
        let before = anonymous_bytes(server.pid());
        watch(&mut streams, 1_000, WATCHERS).await;
        let each = (anonymous_bytes(server.pid()) - before) / WATCHERS as u64;
        eprintln!("an idle watcher with a key of its own: {each} bytes of heap");
        assert!(each < HEAP_BYTES_MAX, "{each} bytes");
        // They wait, and they are there.
        let key = "/registry/configmaps/namespace/00050003".into();
        let put = pb::PutRequest { key, value: "v".into(), ..Default::default() };
        let _: pb::PutResponse = client.call("/etcdserverpb.KV/Put", &put).await.message();
        let event: pb::WatchResponse = streams[50_003 % STREAMS].message().await;
        assert_eq!(event.events.len(), 1);
    });
}

fn gzip(message: &[u8]) -> Bytes {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(message).expect("a vector grows");
    let packed = encoder.finish().expect("a vector grows");
    let mut framed = frame(&packed).to_vec();
    framed[0] = 1;
    framed.into()
}

#[test]
fn compressed_requests_are_answered_as_etcd_answers_them() {
    const MAX: usize = 20_000;
    const OVERHEAD: usize = 512 << 10;
    let max = format!("--max-request-bytes={MAX}");
    for kind in kinds() {
        let server = Server::start(kind, &[&max]);
        block_on(async {
            let client = Client::connect(server.client).await;
            let with = |encoding, body| {
                let client = client.clone();
                async move {
                    let metadata = [("grpc-encoding", encoding)];
                    client.call_with("/etcdserverpb.KV/Put", &metadata, body).await.status()
                }
            };
            let put = |length: usize| {
                let value = vec![b'v'; length].into();
                pb::PutRequest { key: "k".into(), value, ..Default::default() }.encode_to_vec()
            };
            let ok = (0, String::new());
            assert_eq!(with("gzip", gzip(&put(9_000))).await, ok, "{kind}");
            assert_eq!(with("gzip", frame(&put(100))).await, ok, "{kind}: a plain one in between");
            let large = MAX + OVERHEAD;
            let text =
                format!("grpc: received message after decompression larger than max {large}");
            assert_eq!(with("gzip", gzip(&put(50_000_000))).await, (8, text), "{kind}: a bomb");
            let text = "grpc: compressed flag set with identity or empty encoding".to_owned();
            assert_eq!(with("identity", gzip(&put(1))).await, (13, text), "{kind}");
            let text =
                "grpc: Decompressor is not installed for grpc-encoding \"snappy\"".to_owned();
            assert_eq!(with("snappy", gzip(&put(1))).await, (12, text), "{kind}");
            let mut broken = frame(b"no gzip").to_vec();
            broken[0] = 1;
            let (code, text) = with("gzip", broken.into()).await;
            let is_expected = text.starts_with("grpc: failed to ");
            assert!(code == 13 && is_expected, "{kind}: {code} {text}");
        });
    }
}
