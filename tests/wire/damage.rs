//! A store whose file has rotten while the member was down, or is cut while it runs: what is damaged is never served.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::time::Duration;

use ringd::proto::etcdserverpb as pb;

use crate::block_on;
use crate::client::{Client, Reply};
use crate::http;
use crate::server::{Kind, PATIENCE, Server};

const KEYS: usize = 4_000;
const VALUE_BYTES: usize = 500;
const CORRUPT: (i32, &str) = (15, "etcdserver: corrupt cluster");

async fn fill(client: &Client) {
    for first in (0..KEYS).step_by(100) {
        let puts = (first..first + 100).map(|key| {
            let put = pb::PutRequest {
                key: format!("k{key:05}").into(),
                value: vec![b'x'; VALUE_BYTES].into(),
                ..Default::default()
            };
            pb::RequestOp { request: Some(pb::request_op::Request::RequestPut(put)) }
        });
        let txn = pb::TxnRequest { success: puts.collect(), ..Default::default() };
        let _: pb::TxnResponse = client.call("/etcdserverpb.KV/Txn", &txn).await.message();
    }
}

async fn get(client: &Client, key: usize) -> Reply {
    let range = pb::RangeRequest { key: format!("k{key:05}").into(), ..Default::default() };
    client.call("/etcdserverpb.KV/Range", &range).await
}

/// A store that holds the keys, and no log to replay.
fn filled() -> Server {
    let mut server = Server::start(Kind::Ringd, &[]);
    block_on(async { fill(&Client::connect(server.client).await).await });
    assert!(server.stop().success());
    server
}

#[test]
fn a_byte_that_rots_while_the_member_is_down_raises_corrupt_and_is_not_served() {
    let mut server = filled();
    let path = server.data_dir().join("member/ringd/store");
    let image = std::fs::read(&path).expect("the store");
    let value = [b'x'; VALUE_BYTES];
    // In the middle: what is at the end is read at the start.
    let mut values = (0..image.len() - VALUE_BYTES).filter(|at| image[*at..].starts_with(&value));
    let at = values.nth(KEYS / 2).expect("a value") + 99;
    let file = OpenOptions::new().write(true).open(&path).expect("the store");
    file.write_all_at(&[image[at] ^ 1], at as u64).expect("a byte rots");
    server.run().expect("it starts");
    block_on(async {
        let client = Client::connect(server.client).await;
        // Nobody has asked for it when it is found.
        let list = pb::AlarmRequest::default();
        let found = tokio::time::timeout(PATIENCE, async {
            loop {
                let alarms: pb::AlarmResponse =
                    client.call("/etcdserverpb.Maintenance/Alarm", &list).await.message();
                if let Some(raised) = alarms.alarms.first() {
                    return raised.alarm;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
        assert_eq!(found.await.expect("an alarm"), pb::AlarmType::Corrupt as i32);
        let page = format!("\"page\":{}", at / 8192);
        assert!(server.log().iter().any(|line| line.contains(&page)), "{page} is named");
        let metrics = http::get(server.client, "/metrics").body;
        assert!(metrics.contains("ringd_scrub_damaged_pages_total 1\n"), "{metrics}");
        let mut refused = 0;
        for key in 0..KEYS {
            let reply = get(&client, key).await;
            if reply.code() == 0 {
                let range: pb::RangeResponse = reply.message();
                assert_eq!(range.kvs[0].value, value.as_slice());
            } else {
                assert_eq!(reply.status(), (CORRUPT.0, CORRUPT.1.to_owned()));
                refused += 1;
            }
        }
        assert!((1..30).contains(&refused), "{refused} keys are refused");
        let put = pb::PutRequest { key: "new".into(), ..Default::default() };
        let reply = client.call("/etcdserverpb.KV/Put", &put).await;
        assert_eq!(reply.status(), (CORRUPT.0, CORRUPT.1.to_owned()));
    });
}

#[test]
fn a_store_that_is_cut_under_the_member_ends_it_with_the_offset() {
    let mut server = filled();
    server.run().expect("it starts");
    let path = server.data_dir().join("member/ringd/store");
    let file = OpenOptions::new().write(true).open(&path).expect("the store");
    file.set_len(3 * 8192).expect("the store is cut");
    block_on(async {
        let client = Client::connect(server.client).await;
        let range =
            pb::RangeRequest { key: "k00000".into(), range_end: "l".into(), ..Default::default() };
        let reply = client.call("/etcdserverpb.KV/Range", &range).await;
        assert!(reply.broken.is_some(), "{reply:?}");
    });
    let ended = server.wait();
    assert!(!ended.status.success());
    let told = "ringd: the store's file cannot be read at offset ";
    assert!(ended.log.iter().any(|line| line.contains(told)), "{:?}", ended.log);
}
