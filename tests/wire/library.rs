//! Ordinary use with an ordinary client: the crate `etcd-client`. Every test runs against ringd, and against a real etcd
//! where there is one, so that it says what etcd does and not what we believe.

use std::time::Duration;

use etcd_client::{
    Client, CompactionOptions, Compare, CompareOp, DeleteOptions, Error, Event, EventType,
    GetOptions, KeyValue, LeaseGrantOptions, LeaseTimeToLiveOptions, PutOptions, SortOrder,
    SortTarget, Txn, TxnOp, TxnOpResponse, WatchFilterType, WatchOptions, WatchStream,
};

use crate::block_on;
use crate::server::{Kind, Server, kinds};

/// Runs a test on a fresh server of each kind.
fn on_each<F: Future<Output = Result<(), Error>>>(test: impl Fn(Kind, Client) -> F) {
    for kind in kinds() {
        let server = Server::start(kind, &[]);
        let done = block_on(async { test(kind, connect(&server).await?).await });
        done.unwrap_or_else(|err| panic!("{kind}: {err}"));
    }
}

async fn connect(server: &Server) -> Result<Client, Error> {
    Client::connect([server.endpoint()], None).await
}

fn pairs(kvs: &[KeyValue]) -> Vec<(&str, &str)> {
    let text = |bytes| std::str::from_utf8(bytes).expect("text");
    kvs.iter().map(|kv| (text(kv.key()), text(kv.value()))).collect()
}

fn shown(event: &Event) -> String {
    let kv = event.kv().expect("a key");
    let before = event.prev_kv().map_or("-", |kv| kv.value_str().expect("text"));
    let what = match event.event_type() {
        EventType::Put => format!("= {}", kv.value_str().expect("text")),
        EventType::Delete => "deleted".to_owned(),
    };
    format!("{}: {} {what}, was {before}", kv.mod_revision(), kv.key_str().expect("text"))
}

/// So many events of a watch stream.
async fn events(stream: &mut WatchStream, count: usize) -> Result<Vec<String>, Error> {
    let mut events = Vec::new();
    while events.len() < count {
        let response = stream.message().await?.expect("the stream stays open");
        assert!(!response.canceled(), "{response:?}");
        events.extend(response.events().iter().map(shown));
    }
    Ok(events)
}

#[test]
fn keys_are_put_read_and_deleted() {
    on_each(|kind, mut client| async move {
        for (key, value) in [("a/1", "x"), ("a/2", "z"), ("a/3", "y"), ("b", "w")] {
            client.put(key, value, None).await?;
        }
        let put = client.put("a/1", "xx", Some(PutOptions::new().with_prev_key())).await?;
        assert_eq!(put.header().expect("a header").revision(), 6, "{kind}");
        let before = put.prev_key().expect("a value before");
        assert_eq!((before.value(), before.version(), before.mod_revision()), (&b"x"[..], 1, 2));

        let all = client.get("a/", Some(GetOptions::new().with_prefix())).await?;
        assert_eq!(pairs(all.kvs()), [("a/1", "xx"), ("a/2", "z"), ("a/3", "y")]);
        let by_value = GetOptions::new().with_prefix();
        let by_value = by_value.with_sort(SortTarget::Value, SortOrder::Descend).with_limit(2);
        let two = client.get("a/", Some(by_value)).await?;
        assert_eq!(
            (pairs(two.kvs()), two.more(), two.count()),
            (vec![("a/2", "z"), ("a/3", "y")], true, 3)
        );
        let counted = GetOptions::new().with_from_key().with_count_only();
        assert_eq!(client.get("a/2", Some(counted)).await?.count(), 3);
        let old = client.get("a/1", Some(GetOptions::new().with_revision(2))).await?;
        assert_eq!(pairs(old.kvs()), [("a/1", "x")]);
        let keys = GetOptions::new().with_all_keys().with_keys_only().with_serializable();
        let keys = client.get("", Some(keys)).await?;
        assert_eq!(pairs(keys.kvs()), [("a/1", ""), ("a/2", ""), ("a/3", ""), ("b", "")]);
        let new = GetOptions::new().with_all_keys().with_min_mod_revision(5);
        assert_eq!(pairs(client.get("", Some(new)).await?.kvs()), [("a/1", "xx"), ("b", "w")]);

        let gone = DeleteOptions::new().with_range("a/3").with_prev_key();
        let gone = client.delete("a/1", Some(gone)).await?;
        assert_eq!(
            (gone.deleted(), pairs(gone.prev_kvs())),
            (2, vec![("a/1", "xx"), ("a/2", "z")])
        );
        assert_eq!(client.delete("a/1", None).await?.deleted(), 0);
        assert_eq!(client.get("a/1", None).await?.header().expect("a header").revision(), 7);
        Ok(())
    });
}

#[test]
fn a_range_can_be_streamed() {
    on_each(|kind, client| async move {
        let mut kv = client.kv_client();
        for number in 0..100 {
            kv.put(format!("k/{number:03}"), vec![b'x'; 10_000], None).await?;
        }
        let mut stream = kv.get_stream("k/", Some(GetOptions::new().with_prefix())).await?;
        let mut keys = Vec::new();
        let mut count = 0;
        while let Some(part) = stream.message().await? {
            keys.extend(part.kvs().iter().map(|kv| kv.key().to_vec()));
            count = part.count();
        }
        assert_eq!((keys.len(), count), (100, 100), "{kind}");
        assert!(keys.is_sorted(), "{kind}");
        Ok(())
    });
}

#[test]
fn a_transaction_does_one_thing_or_the_other() {
    on_each(|kind, mut client| async move {
        // A lock as everybody writes it: create the key if it is not there.
        let lock = |owner: &str| {
            Txn::new()
                .when([Compare::create_revision("lock", CompareOp::Equal, 0)])
                .and_then([TxnOp::put("lock", owner, None)])
                .or_else([TxnOp::get("lock", None)])
        };
        let first = client.txn(lock("first")).await?;
        assert!(first.succeeded(), "{kind}");
        let second = client.txn(lock("second")).await?;
        assert!(!second.succeeded(), "{kind}");
        match &second.op_responses()[..] {
            [TxnOpResponse::Get(got)] => assert_eq!(pairs(got.kvs()), [("lock", "first")]),
            other => panic!("{kind}: {other:?}"),
        }
        // Everything in one revision, and later operations see earlier ones.
        let several = Txn::new()
            .when([
                Compare::value("lock", CompareOp::Equal, "first"),
                Compare::version("lock", CompareOp::Less, 2),
                Compare::mod_revision("nothing", CompareOp::Equal, 0),
            ])
            .and_then([
                TxnOp::put("a", "1", None),
                TxnOp::get("a", None),
                TxnOp::delete("lock", None),
                TxnOp::txn(
                    Txn::new()
                        .when([Compare::version("a", CompareOp::Equal, 0)])
                        .and_then([TxnOp::put("b", "compared before anything was written", None)]),
                ),
            ]);
        let several = client.txn(several).await?;
        assert!(several.succeeded());
        assert_eq!(several.header().expect("a header").revision(), 3, "{kind}");
        let all = client.get("", Some(GetOptions::new().with_all_keys())).await?;
        let revisions: Vec<_> = all.kvs().iter().map(|kv| (kv.key(), kv.mod_revision())).collect();
        assert_eq!(revisions, [(&b"a"[..], 3), (b"b", 3)], "{kind}");
        Ok(())
    });
}

#[test]
fn compaction_ends_the_past() {
    on_each(|kind, mut client| async move {
        for value in ["1", "2", "3"] {
            client.put("a", value, None).await?;
        }
        client.compact(3, Some(CompactionOptions::new().with_physical())).await?;
        let at = |revision| Some(GetOptions::new().with_revision(revision));
        assert_eq!(pairs(client.get("a", at(3)).await?.kvs()), [("a", "2")], "{kind}");
        let refused = client.get("a", at(2)).await.expect_err("compacted").to_string();
        assert!(refused.contains("required revision has been compacted"), "{kind}: {refused}");
        let refused = client.compact(3, None).await.expect_err("compacted").to_string();
        assert!(refused.contains("required revision has been compacted"), "{kind}: {refused}");
        Ok(())
    });
}

#[test]
fn watchers_see_what_they_asked_for_in_order() {
    on_each(|kind, mut client| async move {
        client.put("a/1", "old", None).await?;
        let options = WatchOptions::new().with_prefix().with_prev_key();
        let mut live = client.watch("a/", Some(options.clone())).await?;
        let options = options.with_start_revision(2).with_filters([WatchFilterType::NoDelete]);
        let mut past = client.watch("a/", Some(options)).await?;
        client.put("a/1", "new", None).await?;
        client.put("b", "elsewhere", None).await?;
        client.delete("a/1", None).await?;
        client.put("a/2", "last", None).await?;
        let live = events(&mut live, 3).await?;
        assert_eq!(
            live,
            ["3: a/1 = new, was old", "5: a/1 deleted, was new", "6: a/2 = last, was -"],
            "{kind}"
        );
        let past = events(&mut past, 3).await?;
        assert_eq!(
            past,
            ["2: a/1 = old, was -", "3: a/1 = new, was old", "6: a/2 = last, was -"],
            "{kind}"
        );
        Ok(())
    });
}

#[test]
fn a_watch_is_canceled_and_says_so() {
    on_each(|kind, mut client| async move {
        let mut stream = client.watch("a", None).await?;
        let first = stream.message().await?.expect("an answer");
        assert!(first.created(), "{kind}: {first:?}");
        stream.cancel(first.watch_id()).await?;
        let last = stream.message().await?.expect("an answer");
        assert!(last.canceled() && last.compact_revision() == 0, "{kind}: {last:?}");

        for value in ["1", "2", "3"] {
            client.put("a", value, None).await?;
        }
        client.compact(3, None).await?;
        let mut late = client.watch("a", Some(WatchOptions::new().with_start_revision(2))).await?;
        let mut last = late.message().await?.expect("an answer");
        if last.created() {
            last = late.message().await?.expect("another answer");
        }
        assert!(last.canceled(), "{kind}: {last:?}");
        assert_eq!(last.compact_revision(), 3, "{kind}");
        Ok(())
    });
}

#[test]
fn a_lease_that_nobody_renews_takes_its_keys_along() {
    on_each(|kind, mut client| async move {
        let granted = client.lease_grant(1, Some(LeaseGrantOptions::new().with_id(7))).await?;
        assert_eq!(
            (granted.id(), granted.ttl()),
            (7, 2),
            "{kind}: shorter than an election allows"
        );
        let with_lease = || Some(PutOptions::new().with_lease(7));
        let mut watch = client.watch("l/", Some(WatchOptions::new().with_prefix())).await?;
        client.put("l/1", "x", with_lease()).await?;
        client.put("l/2", "x", with_lease()).await?;
        client.put("l/3", "x", with_lease()).await?;
        // Another lease, or none, takes a key away from it.
        client.put("l/3", "stays", None).await?;
        let seen = events(&mut watch, 6).await?;
        assert_eq!(seen[4..], ["6: l/1 deleted, was -", "6: l/2 deleted, was -"], "{kind}");
        let left = client.lease_time_to_live(7, None).await?;
        assert_eq!((left.ttl(), left.granted_ttl()), (-1, 0), "{kind}");
        let refused = client.put("l/4", "x", with_lease()).await.expect_err("no lease").to_string();
        assert!(refused.contains("requested lease not found"), "{kind}: {refused}");
        Ok(())
    });
}

#[test]
fn a_lease_that_is_renewed_stays() {
    on_each(|kind, mut client| async move {
        client.lease_grant(2, Some(LeaseGrantOptions::new().with_id(1))).await?;
        client.lease_grant(2, Some(LeaseGrantOptions::new().with_id(2))).await?;
        let watch_end = Some(WatchOptions::new().with_filters([WatchFilterType::NoPut]));
        let mut end = client.watch("ends", watch_end).await?;
        client.put("stays", "x", Some(PutOptions::new().with_lease(1))).await?;
        client.put("ends", "x", Some(PutOptions::new().with_lease(2))).await?;
        // The other one is renewed until this one has ended, several times its own length if need be.
        let (mut keeper, mut answers) = client.lease_keep_alive(1).await?;
        loop {
            keeper.keep_alive().await?;
            let answer = answers.message().await?.expect("an answer");
            assert_eq!((answer.id(), answer.ttl()), (1, 2), "{kind}");
            let event = tokio::time::timeout(Duration::from_millis(200), events(&mut end, 1));
            if event.await.is_ok() {
                break;
            }
        }
        let keys = LeaseTimeToLiveOptions::new().with_keys();
        let left = client.lease_time_to_live(1, Some(keys)).await?;
        assert_eq!(left.keys(), [b"stays"], "{kind}");
        assert_eq!(client.leases().await?.leases().len(), 1, "{kind}");
        client.lease_revoke(1).await?;
        assert_eq!(client.get("stays", None).await?.count(), 0, "{kind}");
        let refused = client.lease_revoke(1).await.expect_err("no lease").to_string();
        assert!(refused.contains("requested lease not found"), "{kind}: {refused}");
        Ok(())
    });
}

#[test]
fn leases_are_listed_in_the_order_in_which_they_expire() {
    on_each(|kind, mut client| async move {
        for (id, ttl) in [(1, 3_000), (2, 1_000), (3, 2_000), (4, 4_000)] {
            client.lease_grant(ttl, Some(LeaseGrantOptions::new().with_id(id))).await?;
        }
        let leases = client.leases().await?;
        let ids: Vec<i64> = leases.leases().iter().map(|lease| lease.id()).collect();
        assert_eq!(ids, [2, 3, 1, 4], "{kind}");
        Ok(())
    });
}

#[test]
fn leases_and_their_keys_outlive_a_restart() {
    for kind in kinds() {
        let mut server = Server::start(kind, &[]);
        let before = block_on(attach(kind, &server));
        before.unwrap_or_else(|err| panic!("{kind}: {err}"));
        server.kill();
        server.run().expect("it starts again");
        let after = block_on(find_attached(kind, &server));
        after.unwrap_or_else(|err| panic!("{kind}: {err}"));
    }
}

async fn attach(kind: Kind, server: &Server) -> Result<(), Error> {
    let mut client = connect(server).await?;
    let id = client.lease_grant(3, None).await?.id();
    assert!(id > 0, "{kind}: the server chooses {id}");
    client.lease_grant(1_000, Some(LeaseGrantOptions::new().with_id(8))).await?;
    for (key, lease) in [("a", id), ("b", id), ("c", 8), ("a", 8)] {
        client.put(key, "x", Some(PutOptions::new().with_lease(lease))).await?;
    }
    Ok(())
}

async fn find_attached(kind: Kind, server: &Server) -> Result<(), Error> {
    let mut client = connect(server).await?;
    let keys = Some(LeaseTimeToLiveOptions::new().with_keys());
    let mut attached = client.lease_time_to_live(8, keys).await?.keys().to_vec();
    attached.sort();
    assert_eq!(attached, [b"a", b"c"], "{kind}");
    let watched = WatchOptions::new().with_start_revision(6).with_all_keys();
    let mut watch = client.watch("", Some(watched)).await?;
    assert_eq!(events(&mut watch, 1).await?, ["6: b deleted, was -"], "{kind}");
    Ok(())
}

#[test]
fn the_member_tells_about_itself() {
    on_each(|kind, mut client| async move {
        let status = client.status().await?;
        let id = status.header().expect("a header").member_id();
        assert_eq!(status.leader(), id, "{kind}");
        assert!(status.version().starts_with("3.7."), "{kind}: {}", status.version());
        assert!(status.raft_applied_index() <= status.raft_index(), "{kind}");
        assert_eq!(status.db_size_quota(), 2 << 30, "{kind}");
        assert!(status.errors().is_empty(), "{kind}");
        let members = client.member_list().await?;
        let [member] = members.members() else { panic!("{kind}: {members:?}") };
        assert_eq!((member.id(), member.name(), member.is_learner()), (id, "default", false));
        assert_eq!(member.client_urls(), ["http://127.0.0.1:2379"], "{kind}");
        client.defragment().await?;
        let hash = client.hash_kv(0).await?;
        assert_eq!((hash.compact_version(), hash.hash_revision()), (-1, 1), "{kind}");
        Ok(())
    });
}
