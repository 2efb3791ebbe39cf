//! No space left: by the quota, and on the disk itself. Writes are refused with etcd's NOSPACE, everything that frees
//! space goes on, and nothing that was there is lost.

use bytes::Bytes;
use ringd::proto::etcdserverpb as pb;

use crate::block_on;
use crate::client::{Client, Reply};
use crate::disk::{DISK_MIB, Disk};
use crate::http;
use crate::server::{Kind, Server, kinds, skip};

const NOSPACE: i32 = 1;
const EXCEEDED: (i32, &str) = (8, "etcdserver: mvcc: database space exceeded");
const QUOTA_BYTES: usize = 8 << 20;
const VALUE_BYTES: usize = 256 << 10;

const LARGE_VALUE_BYTES: usize = 1 << 20;

async fn put(client: &Client, key: String, length: usize) -> Reply {
    let put =
        pb::PutRequest { key: key.into(), value: vec![b'x'; length].into(), ..Default::default() };
    client.call("/etcdserverpb.KV/Put", &put).await
}

fn assert_exceeded(kind: Kind, reply: &Reply) {
    assert_eq!(reply.status(), (EXCEEDED.0, EXCEEDED.1.to_owned()), "{kind}: {reply:?}");
}

fn all() -> pb::RangeRequest {
    pb::RangeRequest {
        key: Bytes::from_static(b"\0"),
        range_end: Bytes::from_static(b"\0"),
        count_only: true,
        ..Default::default()
    }
}

async fn count(client: &Client) -> (i64, i64) {
    let range: pb::RangeResponse = client.call("/etcdserverpb.KV/Range", &all()).await.message();
    (range.count, range.header.expect("a header").revision)
}

async fn alarms(client: &Client, action: i32) -> Vec<pb::AlarmMember> {
    let request = pb::AlarmRequest { action, member_id: 0, alarm: NOSPACE };
    let list: pb::AlarmResponse =
        client.call("/etcdserverpb.Maintenance/Alarm", &request).await.message();
    list.alarms
}

async fn disarm(client: &Client) {
    for armed in alarms(client, 0).await {
        let request =
            pb::AlarmRequest { action: 2, member_id: armed.member_id, alarm: armed.alarm };
        let _: pb::AlarmResponse =
            client.call("/etcdserverpb.Maintenance/Alarm", &request).await.message();
    }
    assert!(alarms(client, 0).await.is_empty(), "the alarm is gone");
}

/// What NOSPACE refuses, and what it does not.
async fn refused_while_full(kind: Kind, client: &Client) {
    use pb::request_op::Request::{RequestPut, RequestRange};
    assert_exceeded(kind, &put(client, "one more".to_owned(), 1).await);
    let one = pb::PutRequest { key: Bytes::from_static(b"one more"), ..Default::default() };
    let txn = |request| pb::TxnRequest {
        success: vec![pb::RequestOp { request: Some(request) }],
        ..Default::default()
    };
    let writes = txn(RequestPut(one));
    assert_exceeded(kind, &client.call("/etcdserverpb.KV/Txn", &writes).await);
    let grant = pb::LeaseGrantRequest { ttl: 1_000, id: 1 };
    assert_exceeded(kind, &client.call("/etcdserverpb.Lease/LeaseGrant", &grant).await);
    let reads = txn(RequestRange(all()));
    let _: pb::TxnResponse = client.call("/etcdserverpb.KV/Txn", &reads).await.message();
    assert_eq!(alarms(client, 0).await.len(), 1, "{kind}: the alarm of the only member");
    let status: pb::StatusResponse =
        client.call("/etcdserverpb.Maintenance/Status", &pb::StatusRequest {}).await.message();
    assert!(status.errors.iter().any(|error| error.contains("NOSPACE")), "{kind}: {status:?}");
}

async fn free(client: &Client) {
    let delete = pb::DeleteRangeRequest {
        key: Bytes::from_static(b"fill/"),
        range_end: Bytes::from_static(b"fill0"),
        prev_kv: false,
    };
    let deleted: pb::DeleteRangeResponse =
        client.call("/etcdserverpb.KV/DeleteRange", &delete).await.message();
    assert!(deleted.deleted > 1);
    let revision = deleted.header.expect("a header").revision;
    let compact = pb::CompactionRequest { revision, physical: true };
    let _: pb::CompactionResponse =
        client.call("/etcdserverpb.KV/Compact", &compact).await.message();
    let _: pb::DefragmentResponse = client
        .call("/etcdserverpb.Maintenance/Defragment", &pb::DefragmentRequest {})
        .await
        .message();
}

#[test]
fn a_full_quota_raises_nospace_until_space_is_freed_and_the_alarm_disarmed() {
    for kind in kinds() {
        let quota = format!("--quota-backend-bytes={QUOTA_BYTES}");
        let mut server = Server::start(kind, &[&quota]);
        block_on(async {
            let client = Client::connect(server.client).await;
            let mut written = 0;
            let refusal = loop {
                let reply = put(&client, format!("fill/{written}"), VALUE_BYTES).await;
                if reply.code() != 0 {
                    break reply;
                }
                written += 1;
                assert!(written < 4 * QUOTA_BYTES / VALUE_BYTES, "{kind}: the quota holds nobody");
            };
            assert_exceeded(kind, &refusal);
            assert!(written > QUOTA_BYTES / VALUE_BYTES / 4, "{kind}: refused at {written}");
            refused_while_full(kind, &client).await;
            let health = http::get(server.client, "/health");
            assert_eq!(health.status, 503, "{kind}: {health:?}");
            let nospace = "{\"health\":\"false\",\"reason\":\"ALARM NOSPACE\"}\n";
            assert_eq!(health.body, nospace, "{kind}");
            let excluded = http::get(server.client, "/health?exclude=NOSPACE");
            assert_eq!(excluded.status, 200, "{kind}: {excluded:?}");
            assert_eq!(count(&client).await.0 as usize, written, "{kind}");

            // The alarm is part of the state.
            server.kill();
            server.run().expect("it starts again");
            let client = Client::connect(server.client).await;
            refused_while_full(kind, &client).await;

            free(&client).await;
            assert_exceeded(kind, &put(&client, "not yet".to_owned(), 1).await);
            disarm(&client).await;
            let reply = put(&client, "again".to_owned(), 1).await;
            assert_eq!(reply.code(), 0, "{kind}: {reply:?}");
        });
    }
}

#[test]
fn a_full_disk_raises_nospace_and_loses_nothing() {
    let Some(disk) = Disk::mount() else {
        return skip("a full disk", "this user may not mount a small file system");
    };
    let kind = Kind::Ringd;
    let mut server = Server::start_at(kind, &[], &disk.data_dir());
    block_on(async {
        let client = Client::connect(server.client).await;
        let mut written = 0;
        let refusal = loop {
            let reply = put(&client, format!("fill/{written}"), LARGE_VALUE_BYTES).await;
            if reply.code() != 0 {
                break reply;
            }
            written += 1;
            assert!(written < 2 * DISK_MIB, "more is written than there is room for");
        };
        assert_exceeded(kind, &refusal);
        refused_while_full(kind, &client).await;
        assert_eq!(count(&client).await.0 as usize, written);

        server.kill();
        server.run().expect("it starts on a full disk");
        let client = Client::connect(server.client).await;
        refused_while_full(kind, &client).await;
        assert_eq!(count(&client).await.0 as usize, written);

        disk.grow();
        free(&client).await;
        disarm(&client).await;
        let reply = put(&client, "again".to_owned(), LARGE_VALUE_BYTES).await;
        assert_eq!(reply.code(), 0, "{reply:?}");
        assert_eq!(count(&client).await.0, 1);
    });
    drop(server);
}

/// Everything that frees space needs some: pages are never changed where a crash could need them. The member keeps it.
#[test]
fn on_a_full_disk_deletions_and_compactions_make_room_for_writes() {
    let Some(disk) = Disk::mount() else {
        return skip("a full disk", "this user may not mount a small file system");
    };
    let kind = Kind::Ringd;
    let mut server = Server::start_at(kind, &[], &disk.data_dir());
    block_on(async {
        let client = Client::connect(server.client).await;
        // What is left of the disk goes to somebody else, but for a part that the store fills.
        let mut written = 0;
        while written < 40 {
            let reply = put(&client, format!("fill/{written}"), LARGE_VALUE_BYTES).await;
            assert_eq!(reply.code(), 0, "{reply:?}");
            written += 1;
        }
        let ballast = disk.fill_up();
        let refusal = loop {
            let reply = put(&client, format!("fill/{written}"), LARGE_VALUE_BYTES).await;
            if reply.code() != 0 {
                break reply;
            }
            written += 1;
            assert!(written < DISK_MIB, "more is written than there is room for");
        };
        assert_exceeded(kind, &refusal);
        refused_while_full(kind, &client).await;
        assert_eq!(count(&client).await.0 as usize, written);

        free(&client).await;
        disarm(&client).await;
        assert_eq!(count(&client).await.0, 0);
        let reply = put(&client, "again".to_owned(), LARGE_VALUE_BYTES).await;
        assert_eq!(reply.code(), 0, "{reply:?}");
        assert!(
            ballast.metadata().expect("the ballast").len() > 0,
            "the disk was full all the time"
        );

        server.kill();
        server.run().expect("it starts on a full disk");
        let client = Client::connect(server.client).await;
        assert_eq!(count(&client).await.0, 1);
    });
    drop(server);
}
