//! Users, roles and tokens in a cluster: the same on all members, however each came by them.

use super::cluster::Net;
use super::*;
use crate::apply::ApplyError;
use crate::auth::{self, AuthError, Identity};
use crate::proto::etcdserverpb as pb;

/// Proposes a request in a field of an entry at a member, and waits for its outcome.
fn ask(
    net: &mut Net,
    at: u64,
    who: Option<&Identity>,
    field: u32,
    request: &impl Message,
) -> Result<Vec<u8>, ApplyError> {
    let id = net.node(at).propose_for(who, field, &request.encode_to_vec()).unwrap();
    let mut result = None;
    net.until("an outcome", |net| {
        result = net.outcome(at, id);
        result.is_some()
    });
    result.expect("found before").map(|reply| reply.body)
}

fn change(net: &mut Net, at: u64, kind: auth::Kind, request: &impl Message) {
    let root = net.node(at).applier.auth.root();
    ask(net, at, root.as_ref(), kind as u32, request).unwrap();
}

fn add_user(net: &mut Net, at: u64, name: &str, role: &str) {
    let (name, role) = (name.to_owned(), role.to_owned());
    let hashed_password = auth::encode_hash("hash");
    let user = pb::AuthUserAddRequest { name: name.clone(), hashed_password, ..Default::default() };
    change(net, at, auth::Kind::UserAdd, &user);
    let grant = pb::AuthUserGrantRoleRequest { user: name, role };
    change(net, at, auth::Kind::UserGrantRole, &grant);
}

/// A token, made at a member.
fn log_in(net: &mut Net, at: u64, name: &str) -> String {
    let request = pb::InternalAuthenticateRequest {
        name: name.to_owned(),
        simple_token: "abcdefghijklmnop".to_owned(),
        ..Default::default()
    };
    let body = ask(net, at, None, auth::Kind::Authenticate as u32, &request).unwrap();
    pb::AuthenticateResponse::decode(body.as_slice()).unwrap().token
}

fn put(net: &mut Net, at: u64, who: Option<&Identity>, lease: i64) -> Result<(), ApplyError> {
    let request = PutRequest { key: "k".into(), value: "v".into(), lease, ..Default::default() };
    ask(net, at, who, Kind::Put as u32, &request).map(drop)
}

/// Root, who has made himself one, with auth enabled.
fn enabled(net: &mut Net) -> (u64, u64) {
    let (leader, follower) = (net.leader(), net.follower());
    add_user(net, follower, "root", "root");
    change(net, follower, auth::Kind::Enable, &pb::AuthEnableRequest {});
    (leader, follower)
}

fn assert_equal(net: &mut Net) {
    net.settle();
    let of = |net: &mut Net, id| {
        let applier = &net.node(id).applier;
        let auth = &applier.auth;
        (applier.digest().unwrap(), auth.revision(), auth.is_enabled())
    };
    let first = of(net, 1);
    assert!(first.2);
    for id in 2..=3 {
        assert_eq!(of(net, id), first);
    }
}

#[test]
fn users_are_the_same_on_all_members_and_outlive_restarts() {
    let mut net = Net::of(3);
    let (leader, follower) = enabled(&mut net);
    assert_equal(&mut net);
    let token = log_in(&mut net, follower, "root");
    net.settle();
    for id in 1..=3 {
        let now_ms = net.node(id).now_ms();
        assert_eq!(net.node(id).applier.auth.tokens.user_of(&token, now_ms), Some("root"));
    }
    let nobody = put(&mut net, follower, None, 0);
    assert!(matches!(nobody, Err(ApplyError::Auth(AuthError::UserEmpty))), "{nobody:?}");
    let root = net.node(leader).applier.auth.root();
    put(&mut net, leader, root.as_ref(), 0).unwrap();
    for id in 1..=3 {
        net.stop(id);
    }
    (1..=3).for_each(|id| net.start(id));
    net.leader();
    assert_equal(&mut net);
    let nobody = put(&mut net, follower, None, 0);
    assert!(matches!(nobody, Err(ApplyError::Auth(AuthError::UserEmpty))), "{nobody:?}");
}

#[test]
fn what_was_permitted_when_it_was_proposed_and_is_not_any_more_does_not_happen() {
    let mut net = Net::of(3);
    let (leader, follower) = enabled(&mut net);
    let before = net.node(follower).applier.auth.root().unwrap();
    add_user(&mut net, leader, "alice", "root");
    let alice = Identity { user: "alice".to_owned(), ..before.clone() };
    for late in [before, alice] {
        let result = put(&mut net, follower, Some(&late), 0);
        assert!(matches!(result, Err(ApplyError::Auth(AuthError::OldRevision))), "{result:?}");
    }
}

#[test]
fn a_member_that_gets_the_state_gets_the_users_and_keeps_its_tokens() {
    let mut net = Net::of(3);
    let (leader, follower) = enabled(&mut net);
    let token = log_in(&mut net, leader, "root");
    net.settle();
    net.isolate(follower);
    add_user(&mut net, leader, "alice", "root");
    for _ in 0..300 {
        let root = net.node(leader).applier.auth.root();
        let request = PutRequest { key: "k".into(), ..Default::default() };
        let request = request.encode_to_vec();
        net.node(leader).propose_for(root.as_ref(), Kind::Put as u32, &request).unwrap();
    }
    net.run(500);
    net.heal();
    assert_equal(&mut net);
    assert!(net.node(follower).snapshot_counts().received > 0, "it got the state");
    let now_ms = net.node(follower).now_ms();
    let auth = &mut net.node(follower).applier.auth;
    assert_eq!(auth.tokens.user_of(&token, now_ms), Some("root"));
    let revision = auth.revision();
    let alice = Identity { user: "alice".to_owned(), revision };
    put(&mut net, follower, Some(&alice), 0).unwrap();
}

#[test]
fn a_lease_expires_while_auth_is_enabled() {
    let mut net = Net::of(3);
    let (leader, _) = enabled(&mut net);
    let lease = pb::LeaseGrantRequest { id: 5, ttl: 2 };
    ask(&mut net, leader, None, Kind::LeaseGrant as u32, &lease).unwrap();
    let root = net.node(leader).applier.auth.root();
    put(&mut net, leader, root.as_ref(), 5).unwrap();
    assert!(net.bed(leader).get("k", 0).is_some());
    net.until("the end of the lease", |net| net.bed(leader).get("k", 0).is_none());
}

#[test]
fn a_member_that_differs_in_a_user_is_found_and_raises_an_alarm() {
    let mut net = Net::of(3);
    let (leader, follower) = enabled(&mut net);
    add_user(&mut net, leader, "clerk", "root");
    net.settle();
    net.run(61_000);
    assert!(!net.node(leader).applier.alarms.active(pb::AlarmType::Corrupt), "all are equal");
    let Node { applier, .. } = net.node(follower);
    let user = crate::proto::authpb::User { name: "clerk".into(), ..Default::default() };
    let meta = crate::store::Tree(2);
    applier.store.put(meta, b"auth/user/clerk", &user.encode_to_vec(), false).unwrap();
    applier.commit().unwrap();
    // Who is at another revision may be behind, or ahead.
    let revision = applier.auth.revision();
    applier.auth.load(b"revision", &(revision + 1).to_be_bytes()).unwrap();
    net.run(61_000);
    assert!(!net.node(leader).applier.alarms.active(pb::AlarmType::Corrupt), "not comparable");
    net.node(follower).applier.auth.load(b"revision", &revision.to_be_bytes()).unwrap();
    net.run(61_000);
    assert!(net.node(leader).applier.alarms.raised_by(follower, pb::AlarmType::Corrupt));
    assert!(!net.node(leader).applier.alarms.raised_by(leader, pb::AlarmType::Corrupt));
}
