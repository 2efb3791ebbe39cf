use super::*;

fn urls(urls: &[&str]) -> Vec<String> {
    urls.iter().map(|url| (*url).to_owned()).collect()
}

#[test]
fn a_lone_default_member_has_the_ids_that_etcd_gives_it() {
    let members = [("default".to_owned(), urls(&["http://localhost:2380"]))];
    let cluster = Cluster::bootstrap(&members, "etcd-cluster").unwrap();
    assert_eq!(cluster.id, 0xcdf8_1819_4e3a_8c32);
    let ids: Vec<_> = cluster.members().map(|m| m.id).collect();
    assert_eq!(ids, [0x8e9e_05c5_2164_694d]);
}

#[test]
fn ids_depend_on_urls_and_token_and_time_but_not_on_the_order_of_urls() {
    let id = |list: &[&str], token, at| member_id(&urls(list), token, at);
    let one = id(&["http://a:1", "http://b:2"], "t", None);
    assert_eq!(one, id(&["http://b:2", "http://a:1"], "t", None));
    assert_ne!(one, id(&["http://a:1"], "t", None));
    assert_ne!(one, id(&["http://a:1", "http://b:2"], "u", None));
    let later = id(&["http://a:1", "http://b:2"], "t", Some(1_700_000_000));
    assert_ne!(one, later);
    // The parts are strung together, so this is what the time means.
    assert_eq!(later, id(&["http://a:1", "http://b:2"], "t1700000000", None));
    assert_eq!(cluster_id([2, 1]), cluster_id([1, 2]));
    assert_ne!(cluster_id([1]), cluster_id([1, 2]));
}

#[test]
fn members_with_the_same_urls_cannot_be_told_apart() {
    let members =
        [("a".to_owned(), urls(&["http://x:1"])), ("b".to_owned(), urls(&["http://x:1"]))];
    let error = Cluster::bootstrap(&members, "t").unwrap_err();
    assert_eq!((error.first.as_str(), error.second.as_str()), ("a", "b"));
}

#[test]
fn a_record_is_the_json_that_etcd_writes() {
    let full = Member {
        id: 0x8e9e_05c5_2164_694d,
        name: "m".into(),
        peer_urls: urls(&["http://a:1"]),
        client_urls: urls(&["http://a:2", "http://a:3"]),
        is_learner: true,
    };
    let json = r#"{"id":10276657743932975437,"peerURLs":["http://a:1"],"isLearner":true,"name":"m","clientURLs":["http://a:2","http://a:3"]}"#;
    assert_eq!(String::from_utf8(full.encode()).unwrap(), json);
    assert_eq!(Member::decode(b"8e9e05c52164694d", json.as_bytes()).unwrap(), full);

    let bare = Member { id: 1, peer_urls: urls(&["http://a:1"]), ..Member::default() };
    let json = r#"{"id":1,"peerURLs":["http://a:1"]}"#;
    assert_eq!(String::from_utf8(bare.encode()).unwrap(), json);
    assert_eq!(Member::decode(b"1", json.as_bytes()).unwrap(), bare);
    let null = br#"{"id":1,"peerURLs":null,"clientURLs":null}"#;
    assert_eq!(Member::decode(b"1", null).unwrap().peer_urls, Vec::<String>::new());
}

#[test]
fn a_record_that_is_damaged_or_in_the_wrong_place_is_an_error() {
    for bad in
        [&b""[..], b"{", b"[]", b"{\"id\":-1,\"peerURLs\":[]}", b"{\"peerURLs\":[]}", b"\xff"]
    {
        assert!(matches!(Member::decode(b"1", bad), Err(DecodeError::Json(_))), "{bad:?}");
    }
    let error = Member::decode(b"2", br#"{"id":1,"peerURLs":[]}"#).unwrap_err();
    assert_eq!(error.to_string(), "member record 2 holds the member 1");
}

#[test]
fn members_come_in_the_order_of_their_ids() {
    let member =
        |id, is_learner| Member { id, is_learner, name: id.to_string(), ..Member::default() };
    let mut cluster = Cluster::restore(7, [member(3, false), member(1, true), member(2, false)]);
    let ids = |cluster: &Cluster| cluster.members().map(|m| m.id).collect::<Vec<_>>();
    assert_eq!(ids(&cluster), [1, 2, 3]);
    assert_eq!(cluster.voters().map(|m| m.id).collect::<Vec<_>>(), [2, 3]);
    assert_eq!(cluster.by_name("3").map(|m| m.id), Some(3));
    assert_eq!(cluster.remove(2).map(|m| m.id), Some(2));
    cluster.member_mut(1).unwrap().is_learner = false;
    assert_eq!(cluster.insert(member(1, false)).map(|m| m.is_learner), Some(false));
    assert_eq!((ids(&cluster), cluster.id), (vec![1, 3], 7));
}
