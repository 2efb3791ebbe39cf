//! Every RPC x user x shape of range x nesting, on three keys, against an oracle that knows no ranges: it asks for each
//! key by itself. Then the advisories about etcd's permissions, each by its name.
//!
//! The keys are `a`, `b` and `c`. A range is what it holds of them, and of the gaps around them (`A` before `a`, `a!`
//! between `a` and `b`, and so on), so that a right on each key of a range is not yet one on the range.

use bytes::Bytes;
use prost::Message;

use super::fixture::{Bed, Peer};
use crate::auth::jwt::Jwt;
use crate::proto::authpb::permission::Type;
use crate::proto::authpb::{Permission, UserAddOptions};
use crate::proto::etcdserverpb as pb;
use crate::proto::etcdserverpb::compare::CompareTarget;
use crate::proto::etcdserverpb::request_op::Request as Op;
use crate::proto::v3electionpb::LeaderRequest;
use crate::proto::v3lockpb::LockRequest;
use crate::rpc::TokenKind;
use crate::rpc::access::{Rule, rule};
use crate::rpc::method::{METHODS, Method};
use std::sync::Arc;

/// Keys, and what lies between and around them, in their order.
const POINTS: [&str; 8] = ["A", "a", "a!", "b", "b!", "c", "c!", "d"];
const KEYS: [&str; 3] = ["a", "b", "c"];

/// Ranges as requests write them.
const RANGES: [(&str, &str); 12] = [
    ("a", ""),
    ("b", ""),
    ("c", ""),
    ("a", "b"),
    ("a", "c"),
    ("a", "d"),
    ("b", "c"),
    ("b", "d"),
    ("a", "\0"),
    ("c", "\0"),
    ("\0", "\0"),
    ("a", "a\0"),
];

/// What a role is given: kind, and range.
type Grant = (Type, &'static str, &'static str);

/// Users, and the grants of their roles, a role for each list.
const USERS: [(&str, &[&[Grant]]); 9] = [
    ("nothing", &[]),
    ("reads-a", &[&[(Type::Read, "a", "")]]),
    ("writes-a", &[&[(Type::Write, "a", "")]]),
    ("both-a", &[&[(Type::Readwrite, "a", "")]]),
    ("reads-a-to-c", &[&[(Type::Read, "a", "c")]]),
    (
        "in-parts",
        &[&[(Type::Readwrite, "a", "b")], &[(Type::Readwrite, "b", "c"), (Type::Read, "c", "\0")]],
    ),
    // Each key, and not what lies between.
    (
        "each-key",
        &[&[(Type::Readwrite, "a", ""), (Type::Readwrite, "b", "")], &[(Type::Readwrite, "c", "")]],
    ),
    ("reads-writes-apart", &[&[(Type::Read, "\0", "\0")], &[(Type::Write, "b", "")]]),
    ("from-b", &[&[(Type::Readwrite, "b", "\0")]]),
];

fn holds(key: &str, end: &str, point: &str) -> bool {
    match end {
        "" => point == key,
        "\0" => key <= point,
        end => key <= point && point < end,
    }
}

/// Whether the keys before the first point, or behind the last, belong to a range.
fn is_open(end: &str) -> bool {
    end == "\0"
}

/// The dumb answer: is each point of the range in some grant, and its open end, too?
fn may(user: &str, write: bool, key: &str, end: &str) -> bool {
    let Some((_, roles)) = USERS.iter().find(|(name, _)| *name == user) else {
        return user == "root";
    };
    let gives = |kind: Type| {
        kind == Type::Readwrite || kind == if write { Type::Write } else { Type::Read }
    };
    let grants = || roles.iter().flat_map(|role| role.iter()).filter(|(kind, ..)| gives(*kind));
    let each = POINTS.iter().filter(|point| holds(key, end, point));
    let mut each = each.map(|point| grants().any(|(_, from, to)| holds(from, to, point)));
    let end_is_given = !is_open(end) || grants().any(|(_, _, to)| is_open(to));
    // A range of two bytes' width, `a` to `a\0`, holds a key and nothing else.
    each.all(|given| given) && end_is_given
}

struct World {
    bed: Bed,
    peer: Peer,
    /// Users and their tokens.
    tokens: Vec<(String, String)>,
}

const PASSWORD: &str = "correct horse";

impl World {
    fn new() -> World {
        World::of(Bed::ready())
    }

    fn of(mut bed: Bed) -> World {
        let peer = bed.connect();
        let mut world = World { bed, peer, tokens: Vec::new() };
        world.add_user("root", &[]);
        world.auth(
            "UserGrantRole",
            &pb::AuthUserGrantRoleRequest { user: "root".to_owned(), role: "root".to_owned() },
        );
        for (user, roles) in USERS {
            world.add_user(user, roles);
        }
        for key in KEYS {
            world.ok::<pb::PutResponse>("", "KV/Put", &put(key, 0, false));
        }
        world.auth("AuthEnable", &pb::AuthEnableRequest {});
        world.log_in_all();
        world
    }

    fn log_in_all(&mut self) {
        for user in USERS.map(|(user, _)| user).into_iter().chain(["root"]) {
            let request =
                pb::AuthenticateRequest { name: user.to_owned(), password: PASSWORD.to_owned() };
            let response: pb::AuthenticateResponse = self.ok("", "Auth/Authenticate", &request);
            self.tokens.retain(|(name, _)| name != user);
            self.tokens.push((user.to_owned(), response.token));
        }
    }

    fn add_user(&mut self, user: &str, roles: &[&[Grant]]) {
        self.auth(
            "UserAdd",
            &pb::AuthUserAddRequest {
                name: user.to_owned(),
                password: PASSWORD.to_owned(),
                ..Default::default()
            },
        );
        for (number, grants) in roles.iter().enumerate() {
            let role = format!("{user}-{number}");
            self.auth("RoleAdd", &pb::AuthRoleAddRequest { name: role.clone() });
            for (kind, key, end) in *grants {
                self.auth(
                    "RoleGrantPermission",
                    &pb::AuthRoleGrantPermissionRequest {
                        name: role.clone(),
                        perm: Some(Permission {
                            perm_type: *kind as i32,
                            key: (*key).into(),
                            range_end: (*end).into(),
                        }),
                    },
                );
            }
            let user = user.to_owned();
            self.auth("UserGrantRole", &pb::AuthUserGrantRoleRequest { user, role });
        }
    }

    fn auth(&mut self, name: &str, request: &impl Message) {
        let stream = self.call("", &format!("Auth/{name}"), request);
        assert_eq!(self.peer.answer(stream).0, Some("0"), "{name}: {}", self.peer.answer(stream).1);
    }

    /// Calls as a user; "" is nobody.
    fn call(&mut self, user: &str, path: &str, request: &impl Message) -> u32 {
        let token = self.tokens.iter().find(|(name, _)| name == user);
        let token = token.map(|(_, token)| token.clone());
        let fields: Vec<(&[u8], &[u8])> =
            token.iter().map(|token| (&b"token"[..], token.as_bytes())).collect();
        let path = match path.starts_with('/') {
            true => path.to_owned(),
            false => format!("/etcdserverpb.{path}"),
        };
        let stream = self.peer.open(&mut self.bed, &path, &fields);
        self.peer.message(&mut self.bed, stream, request, true);
        self.settle(stream);
        stream
    }

    fn settle(&mut self, stream: u32) {
        for _ in 0..40 {
            self.bed.settle();
            self.peer.take(&mut self.bed);
            let answer = self.peer.answers.get(&stream);
            if answer.is_some_and(|answer| answer.status.is_some() || !answer.data.is_empty()) {
                break;
            }
        }
        let taken = self.peer.answers.get(&stream).map_or(0, |answer| answer.data.len());
        self.peer.grant(&mut self.bed, 0, taken as u32 + 1);
    }

    fn ok<M: Message + Default>(&mut self, user: &str, path: &str, request: &impl Message) -> M {
        let stream = self.call(user, path, request);
        self.peer.answers.remove(&stream).expect("an answer").message()
    }

    /// The code and text of the answer.
    fn told(&mut self, user: &str, path: &str, request: &impl Message) -> (String, String) {
        let stream = self.call(user, path, request);
        let answer = self.peer.answers.remove(&stream).unwrap_or_default();
        (answer.status.unwrap_or_default(), answer.text)
    }

    /// Whether a call was let through, whatever came of it then.
    fn permitted(&mut self, user: &str, path: &str, request: &impl Message) -> bool {
        let (code, text) = self.told(user, path, request);
        let denied = match text.as_str() {
            "etcdserver: permission denied" => code == "7",
            "etcdserver: user name is empty" => code == "3",
            _ => return true,
        };
        assert!(denied, "{path}: code {code} does not go with {text}");
        false
    }

    /// Whether a watch was made.
    fn may_watch(&mut self, user: &str, key: &str, end: &str) -> bool {
        let create = pb::WatchCreateRequest {
            key: key.to_owned().into(),
            range_end: end.to_owned().into(),
            ..Default::default()
        };
        let union = pb::watch_request::RequestUnion::CreateRequest(create);
        let request = pb::WatchRequest { request_union: Some(union) };
        let stream = self.call(user, "Watch/Watch", &request);
        let answer = self.peer.answers.remove(&stream).unwrap();
        let response = pb::WatchResponse::decode(&answer.data[5..]).unwrap();
        assert!(response.created);
        if response.canceled {
            assert_eq!(response.watch_id, -1);
            let (code, text) = match user {
                "" => ("InvalidArgument", "etcdserver: user name is empty"),
                _ => ("PermissionDenied", "etcdserver: permission denied"),
            };
            let reason = format!("rpc error: code = {code} desc = {text}");
            assert_eq!(response.cancel_reason, reason);
        }
        !response.canceled
    }
}

fn users() -> Vec<&'static str> {
    USERS.iter().map(|(user, _)| *user).chain(["root", ""]).collect()
}

fn put(key: &str, lease: i64, prev_kv: bool) -> pb::PutRequest {
    let (key, value) = (key.to_owned().into(), "v".into());
    pb::PutRequest { key, value, lease, prev_kv, ..Default::default() }
}

fn range(key: &str, end: &str) -> pb::RangeRequest {
    let (key, range_end) = (key.to_owned().into(), end.to_owned().into());
    pb::RangeRequest { key, range_end, ..Default::default() }
}

fn delete(key: &str, end: &str, prev_kv: bool) -> pb::DeleteRangeRequest {
    let (key, range_end) = (key.to_owned().into(), end.to_owned().into());
    pb::DeleteRangeRequest { key, range_end, prev_kv }
}

fn compare(key: &str, end: &str) -> pb::Compare {
    pb::Compare {
        target: CompareTarget::Version as i32,
        key: key.to_owned().into(),
        range_end: end.to_owned().into(),
        ..Default::default()
    }
}

fn op(request: Op) -> pb::RequestOp {
    pb::RequestOp { request: Some(request) }
}

/// Where in a transaction something stands.
const PLACES: [&str; 5] =
    ["success", "failure", "nested success", "nested failure", "twice nested"];

fn at(place: &str, inner: Op) -> pb::TxnRequest {
    let in_branch = |success: bool, inner| {
        let ops = vec![op(inner)];
        match success {
            true => pb::TxnRequest { success: ops, ..Default::default() },
            false => pb::TxnRequest { failure: ops, ..Default::default() },
        }
    };
    let nested = |success, txn| in_branch(success, Op::RequestTxn(txn));
    match place {
        "success" => in_branch(true, inner),
        "failure" => in_branch(false, inner),
        "nested success" => nested(true, in_branch(true, inner)),
        "nested failure" => nested(false, in_branch(false, inner)),
        _ => nested(true, nested(false, in_branch(true, inner))),
    }
}

#[test]
fn reads_and_writes_of_every_shape_are_permitted_as_key_by_key() {
    let mut world = World::new();
    let mut checked = 0;
    for user in users() {
        for (key, end) in RANGES {
            let reads = may(user, false, key, end);
            let writes = may(user, true, key, end);
            let mut check = |what: &str, permitted: bool, expected: bool| {
                assert_eq!(permitted, expected, "{user:?}: {what} of {key:?} to {end:?}");
                checked += 1;
            };
            for serializable in [false, true] {
                let request = pb::RangeRequest { serializable, ..range(key, end) };
                check("range", world.permitted(user, "KV/Range", &request), reads);
                check("stream", world.permitted(user, "KV/RangeStream", &request), reads);
            }
            check("watch", world.may_watch(user, key, end), reads);
            for prev_kv in [false, true] {
                let expected = writes && (!prev_kv || reads);
                let request = delete(key, end, prev_kv);
                check("delete", world.permitted(user, "KV/DeleteRange", &request), expected);
                if end.is_empty() {
                    let request = put(key, 0, prev_kv);
                    check("put", world.permitted(user, "KV/Put", &request), expected);
                }
            }
            for place in PLACES {
                let compares = pb::TxnRequest {
                    compare: vec![compare(key, end)],
                    ..at(place, Op::RequestTxn(pb::TxnRequest::default()))
                };
                check("compare", world.permitted(user, "KV/Txn", &compares), reads);
                let inner =
                    pb::TxnRequest { compare: vec![compare(key, end)], ..Default::default() };
                let nested = at(place, Op::RequestTxn(inner));
                check("nested compare", world.permitted(user, "KV/Txn", &nested), reads);
                let txn = at(place, Op::RequestRange(range(key, end)));
                check(place, world.permitted(user, "KV/Txn", &txn), reads);
                for prev_kv in [false, true] {
                    let expected = writes && (!prev_kv || reads);
                    let txn = at(place, Op::RequestDeleteRange(delete(key, end, prev_kv)));
                    check(place, world.permitted(user, "KV/Txn", &txn), expected);
                    if end.is_empty() {
                        let txn = at(place, Op::RequestPut(put(key, 0, prev_kv)));
                        check(place, world.permitted(user, "KV/Txn", &txn), expected);
                    }
                }
            }
        }
    }
    assert!(checked > 4_000, "only {checked} questions");
}

#[test]
fn what_is_done_with_a_lease_takes_rights_on_all_its_keys() {
    // Which of the keys are attached.
    for attached in [&[][..], &["a"], &["b"], &["a", "b"], &["a", "b", "c"]] {
        let mut world = World::new();
        let lease = 77;
        world.ok::<pb::LeaseGrantResponse>(
            "root",
            "Lease/LeaseGrant",
            &pb::LeaseGrantRequest { id: lease, ttl: 1_000 },
        );
        for key in attached {
            world.ok::<pb::PutResponse>("root", "KV/Put", &put(key, lease, false));
        }
        for user in users() {
            let all = |write| attached.iter().all(|key| may(user, write, key, ""));
            let is_user = !user.is_empty();
            let case = format!("{user:?} with {attached:?}");
            let mut ask = |path: &str, request: &dyn Fn(&mut World) -> bool, expected: bool| {
                assert_eq!(request(&mut world), expected, "{case}: {path}");
            };
            let time_to_live = |keys| pb::LeaseTimeToLiveRequest { id: lease, keys };
            ask(
                "time to live",
                &|w| w.permitted(user, "Lease/LeaseTimeToLive", &time_to_live(false)),
                is_user,
            );
            ask(
                "keys",
                &|w| w.permitted(user, "Lease/LeaseTimeToLive", &time_to_live(true)),
                is_user && all(false),
            );
            ask(
                "leases",
                &|w| w.permitted(user, "Lease/LeaseLeases", &pb::LeaseLeasesRequest {}),
                is_user && all(false),
            );
            let keep_alive = pb::LeaseKeepAliveRequest { id: lease };
            ask(
                "keep alive",
                &|w| w.permitted(user, "Lease/LeaseKeepAlive", &keep_alive),
                is_user && all(true),
            );
            // Attaching a key to it, anywhere in a transaction, puts the others into this user's hands.
            let attach = may(user, true, "a", "") && all(true);
            let txn = at("twice nested", Op::RequestPut(put("a", lease, false)));
            // Of those that would change what is attached, only what is refused is tried.
            if !attach {
                ask("put", &|w| w.permitted(user, "KV/Put", &put("a", lease, false)), false);
                ask("nested put", &|w| w.permitted(user, "KV/Txn", &txn), false);
            } else if attached.contains(&"a") {
                ask("put", &|w| w.permitted(user, "KV/Put", &put("a", lease, false)), true);
                ask("nested put", &|w| w.permitted(user, "KV/Txn", &txn), true);
            }
            let revoke = pb::LeaseRevokeRequest { id: lease };
            if !(is_user && all(true)) {
                ask("revoke", &|w| w.permitted(user, "Lease/LeaseRevoke", &revoke), false);
            }
        }
        let revoke = pb::LeaseRevokeRequest { id: lease };
        let mut owners = USERS.iter().map(|(user, _)| *user);
        let owner = owners.find(|user| attached.iter().all(|key| may(user, true, key, "")));
        let owner = owner.unwrap_or("root");
        assert!(world.permitted(owner, "Lease/LeaseRevoke", &revoke), "{owner} owns {attached:?}");
    }
}

#[test]
fn every_rpc_asks_what_its_rule_says() {
    let mut world = World::new();
    for known in METHODS {
        let path = known.path;
        let expected = |user: &str| match rule(known.method) {
            Rule::Anybody => true,
            Rule::User | Rule::UserAndEntry => !user.is_empty(),
            Rule::Admin => false,
            // An empty request looks at alarms.
            Rule::Alarm => !user.is_empty(),
            Rule::Read | Rule::Entry | Rule::EachMessage => false,
        };
        let by_keys = [
            Method::Range,
            Method::RangeStream,
            Method::Put,
            Method::DeleteRange,
            Method::Txn,
            Method::Watch,
        ];
        // Its leases have no keys.
        let of_leases = [Method::LeaseKeepAlive, Method::LeaseLeases];
        if by_keys.contains(&known.method) || known.method.is_recipe() {
            continue;
        }
        // Root's calls would change what the others are asked about.
        for user in ["", "nothing"] {
            let expected = match known.method {
                Method::AuthStatus => true,
                method if of_leases.contains(&method) => !user.is_empty(),
                _ => expected(user),
            };
            let empty = match known.method {
                // An id that is not there.
                Method::MemberAdd => pb::MemberAddRequest {
                    peer_urls: vec!["http://127.0.0.1:1".to_owned()],
                    ..Default::default()
                }
                .encode_to_vec(),
                _ => Vec::new(),
            };
            let stream = world.call(user, path, &Raw(empty.into()));
            let answer = world.peer.answers.remove(&stream).unwrap_or_default();
            let denied = ["etcdserver: permission denied", "etcdserver: user name is empty"];
            let is_denied = denied.contains(&answer.text.as_str());
            // What is about a user of no name is refused for that, too.
            let is_about_nobody = known.method == Method::UserGet && user.is_empty();
            if !is_about_nobody {
                assert_eq!(!is_denied, expected, "{user:?}: {path}: {answer:?}");
            }
        }
    }
}

#[test]
fn locks_and_elections_take_rights_on_their_keys() {
    let mut world = World::new();
    let lock = LockRequest { name: "b".into(), lease: 0 };
    let leader = LeaderRequest { name: "b".into() };
    let (nobody, denied) = ("etcdserver: user name is empty", "etcdserver: permission denied");
    for (user, text) in [("", nobody), ("each-key", denied), ("from-b", "")] {
        let code = if text.is_empty() { "0" } else { "2" };
        let told = world.told(user, "/v3lockpb.Lock/Lock", &lock);
        assert_eq!((told.0.as_str(), told.1.as_str()), (code, text), "Lock by {user:?}");
        let told = world.told(user, "/v3electionpb.Election/Leader", &leader);
        assert_eq!((told.0.as_str(), told.1.as_str()), (code, text), "Leader by {user:?}");
    }
    // What cannot be observed ends without a word.
    let told = world.told("each-key", "/v3electionpb.Election/Observe", &leader);
    assert_eq!((told.0.as_str(), told.1.as_str()), ("0", ""));
}

/// A message that is given as bytes.
#[derive(Debug, Default)]
struct Raw(Bytes);

impl Message for Raw {
    fn encode_raw(&self, buf: &mut impl bytes::BufMut) {
        buf.put_slice(&self.0);
    }

    fn merge_field(
        &mut self,
        _: u32,
        _: prost::encoding::WireType,
        _: &mut impl bytes::Buf,
        _: prost::encoding::DecodeContext,
    ) -> Result<(), prost::DecodeError> {
        Ok(())
    }

    fn encoded_len(&self) -> usize {
        self.0.len()
    }

    fn clear(&mut self) {
        self.0 = Bytes::new();
    }
}

/// GHSA-528j-9r78-wffx: a password stayed in memory, and the debug endpoint showed it.
#[test]
fn cve_2021_28235_a_password_is_in_no_entry_and_is_not_shown() {
    let secret = crate::auth::password::Secret::new(PASSWORD.to_owned());
    assert!(!format!("{secret:?}").contains(PASSWORD));
    let op = crate::auth::password::Op::Hash { password: secret, cost: 4 };
    assert!(!format!("{op:?}").contains(PASSWORD));

    let mut bed = Bed::ready();
    bed.log_written = Some(Vec::new());
    let peer = bed.connect();
    let mut world = World { bed, peer, tokens: Vec::new() };
    world.add_user("root", &[]);
    let change = pb::AuthUserChangePasswordRequest {
        name: "root".to_owned(),
        password: PASSWORD.to_owned(),
        ..Default::default()
    };
    world.auth("UserChangePassword", &change);
    let options = Some(UserAddOptions { no_password: true });
    world.auth(
        "UserAdd",
        &pb::AuthUserAddRequest {
            name: "silent".to_owned(),
            password: PASSWORD.to_owned(),
            options,
            ..Default::default()
        },
    );
    world.auth(
        "UserGrantRole",
        &pb::AuthUserGrantRoleRequest { user: "root".to_owned(), role: "root".to_owned() },
    );
    world.auth("AuthEnable", &pb::AuthEnableRequest {});
    let request =
        pb::AuthenticateRequest { name: "root".to_owned(), password: PASSWORD.to_owned() };
    world.ok::<pb::AuthenticateResponse>("", "Auth/Authenticate", &request);
    let log = world.bed.log_written.take().unwrap();
    let has = |text: &str| log.windows(text.len()).any(|bytes| bytes == text.as_bytes());
    assert!(has("silent"), "the log was looked at");
    assert!(!has(PASSWORD));
}

/// etcd issue 14571: whether auth is enabled was not the same on all members after a snapshot.
#[test]
fn issue_14571_that_auth_is_enabled_is_part_of_the_state() {
    let mut world = World::new();
    let applier = &world.bed.server.node().applier;
    let (before, revision) = (applier.digest().unwrap(), applier.auth.revision());
    let disable = pb::AuthDisableRequest {};
    world.ok::<pb::AuthDisableResponse>("root", "Auth/AuthDisable", &disable);
    let applier = &world.bed.server.node().applier;
    assert_ne!(applier.digest().unwrap(), before);
    assert_eq!(applier.auth.revision(), revision + 1);
}

/// etcd issue 15815: LeaseTimeToLive told the keys of a lease to anybody.
#[test]
fn issue_15815_the_keys_of_a_lease_are_told_only_to_who_may_read_them() {
    let mut world = World::new();
    let grant = pb::LeaseGrantRequest { id: 5, ttl: 100 };
    world.ok::<pb::LeaseGrantResponse>("root", "Lease/LeaseGrant", &grant);
    world.ok::<pb::PutResponse>("root", "KV/Put", &put("b", 5, false));
    let request = pb::LeaseTimeToLiveRequest { id: 5, keys: true };
    assert!(!world.permitted("reads-a", "Lease/LeaseTimeToLive", &request));
    let told: pb::LeaseTimeToLiveResponse =
        world.ok("reads-a-to-c", "Lease/LeaseTimeToLive", &request);
    assert_eq!(told.keys, ["b"]);
    let request = pb::LeaseTimeToLiveRequest { id: 5, keys: false };
    let told: pb::LeaseTimeToLiveResponse = world.ok("reads-a", "Lease/LeaseTimeToLive", &request);
    assert!(told.keys.is_empty() && told.granted_ttl == 100);
}

/// etcd issue 15619: a range that holds no key was permitted to anybody.
#[test]
fn issue_15619_a_range_that_holds_no_key_is_not_free() {
    let mut world = World::new();
    for (key, end) in [("b", "a"), ("b", "b"), ("d", "c")] {
        for user in ["nothing", "reads-a"] {
            assert!(!world.permitted(user, "KV/Range", &range(key, end)), "{user} {key} {end}");
            assert!(!world.permitted(user, "KV/DeleteRange", &delete(key, end, false)));
            assert!(!world.may_watch(user, key, end));
        }
    }
}

/// GHSA-q8m4-xhhv-38mg: calls that anybody could make without a token.
#[test]
fn cve_2026_33413_calls_without_a_user_are_refused() {
    let mut world = World::new();
    let told = |world: &mut World, path: &str, request: &dyn Fn() -> Raw| {
        let (code, text) = world.told("", path, &request());
        assert_eq!(
            (code.as_str(), text.as_str()),
            ("3", "etcdserver: user name is empty"),
            "{path}"
        );
    };
    let raw = |bytes: Vec<u8>| move || Raw(bytes.clone().into());
    for path in [
        "Maintenance/Status",
        "Maintenance/Alarm",
        "Maintenance/Hash",
        "Maintenance/HashKV",
        "Maintenance/Defragment",
        "Maintenance/Snapshot",
        "Maintenance/MoveLeader",
        "Cluster/MemberList",
        "Cluster/MemberRemove",
        "Cluster/MemberPromote",
        "KV/Compact",
        "Lease/LeaseGrant",
        "Lease/LeaseRevoke",
        "Lease/LeaseLeases",
        "Lease/LeaseTimeToLive",
        "Lease/LeaseKeepAlive",
    ] {
        told(&mut world, path, &raw(Vec::new()));
    }
    let alarm = pb::AlarmRequest { action: 1, alarm: 1, member_id: 1 };
    told(&mut world, "Maintenance/Alarm", &raw(alarm.encode_to_vec()));
}

/// GHSA-rfx7-8w68-q57q: a transaction in a transaction was not looked at.
#[test]
fn cve_2026_33343_nested_transactions_are_looked_into() {
    let mut world = World::new();
    for place in PLACES {
        let reads = at(place, Op::RequestRange(range("b", "")));
        assert!(!world.permitted("reads-a", "KV/Txn", &reads), "{place}");
        assert!(world.permitted("reads-a-to-c", "KV/Txn", &reads), "{place}");
        let writes = at(place, Op::RequestPut(put("b", 0, false)));
        assert!(!world.permitted("both-a", "KV/Txn", &writes), "{place}");
        let deletes = at(place, Op::RequestDeleteRange(delete("a", "\0", false)));
        assert!(!world.permitted("both-a", "KV/Txn", &deletes), "{place}");
    }
    let kept: pb::RangeResponse = world.ok("root", "KV/Range", &range("a", "\0"));
    assert_eq!(kept.count, 3, "nothing was deleted");
    assert!(kept.kvs.iter().all(|kv| kv.version == 1), "nothing was written");
}

/// GHSA-x35m-3gp4-4fh5: previous values and leases of puts in nested transactions were not looked at.
#[test]
fn cve_2026_44283_previous_values_and_leases_in_nested_puts_are_looked_at() {
    let mut world = World::new();
    let grant = pb::LeaseGrantRequest { id: 5, ttl: 100 };
    world.ok::<pb::LeaseGrantResponse>("root", "Lease/LeaseGrant", &grant);
    world.ok::<pb::PutResponse>("root", "KV/Put", &put("c", 5, false));
    for place in PLACES {
        let plain = at(place, Op::RequestPut(put("a", 0, false)));
        assert!(world.permitted("writes-a", "KV/Txn", &plain), "{place}");
        let previous = at(place, Op::RequestPut(put("a", 0, true)));
        assert!(!world.permitted("writes-a", "KV/Txn", &previous), "{place}");
        let leased = at(place, Op::RequestPut(put("a", 5, false)));
        assert!(!world.permitted("writes-a", "KV/Txn", &leased), "{place}");
        let deleted = at(place, Op::RequestDeleteRange(delete("a", "", true)));
        assert!(!world.permitted("writes-a", "KV/Txn", &deleted), "{place}");
    }
}

/// A right to read one key was a right to watch all keys from there on.
#[test]
fn ghsa_xg4h_6gfc_h4m8_a_watch_from_a_key_on_takes_more_than_the_key() {
    let mut world = World::new();
    assert!(world.may_watch("reads-a", "a", ""));
    assert!(!world.may_watch("reads-a", "a", "\0"));
    assert!(!world.may_watch("reads-a", "", ""), "all keys but for the smallest");
    assert!(!world.may_watch("reads-a", "", "\0"));
    assert!(world.may_watch("from-b", "b", "\0"));
}

#[test]
fn tokens_are_asked_for_in_etcds_words() {
    let mut world = World::new();
    world.tokens.push(("stale".to_owned(), "aaaaaaaaaaaaaaaa.1".to_owned()));
    world.tokens.push(("nonsense".to_owned(), "nonsense".to_owned()));
    for user in ["stale", "nonsense"] {
        let told = world.told(user, "KV/Range", &range("a", ""));
        assert_eq!(told, ("16".to_owned(), "etcdserver: invalid auth token".to_owned()));
        // The form of a request is looked at first.
        let told = world.told(user, "KV/Range", &range("", ""));
        assert_eq!(told.1, "etcdserver: key is not provided");
    }
    let told = world.told("", "KV/Put", &put("a", 0, false));
    assert_eq!(told, ("3".to_owned(), "etcdserver: user name is empty".to_owned()));
    let bad = pb::AuthenticateRequest { name: "root".to_owned(), password: "bad".to_owned() };
    let told = world.told("", "Auth/Authenticate", &bad);
    let text = "etcdserver: authentication failed, invalid user ID or password";
    assert_eq!(told, ("3".to_owned(), text.to_owned()));
    let long = pb::AuthUserAddRequest {
        name: "x".to_owned(),
        password: "x".repeat(73),
        ..Default::default()
    };
    let told = world.told("root", "Auth/UserAdd", &long);
    assert_eq!(told, ("2".to_owned(), "bcrypt: password length exceeds 72 bytes".to_owned()));
}

#[test]
fn a_call_whose_token_is_not_known_yet_waits_for_it_and_not_for_ever() {
    let mut world = World::new();
    let (_, known) = world.tokens.pop().expect("root's");
    let applied = world.bed.server.node().applier.applied_index();
    // Made by an entry that will never be applied.
    let token = format!("{}.{}", &known[..16], applied + 1_000);
    world.tokens.push(("early".to_owned(), token.clone()));
    let fields: &[(&[u8], &[u8])] = &[(b"token", token.as_bytes())];
    let stream = world.peer.open(&mut world.bed, "/etcdserverpb.KV/Range", fields);
    world.peer.message(&mut world.bed, stream, &range("a", ""), true);
    world.settle(stream);
    assert_eq!(world.peer.answer(stream), (None, ""), "it waits");
    world.bed.now_ms += super::fixture::REQUEST_TIMEOUT_MS;
    world.settle(stream);
    assert_eq!(world.peer.answer(stream), (Some("16"), "etcdserver: invalid auth token"));
    // What comes with the entry that makes it is answered.
    let applied = world.bed.server.node().applier.applied_index();
    let log_in = pb::AuthenticateRequest { name: "root".to_owned(), password: PASSWORD.to_owned() };
    let response: pb::AuthenticateResponse = world.ok("", "Auth/Authenticate", &log_in);
    let index = response.token.split_once('.').unwrap().1.parse::<u64>().unwrap();
    assert!(index > applied);
}

#[test]
fn the_name_of_a_certificate_is_a_user_unless_the_gateway_brings_it() {
    let mut world = World::new();
    world.bed.server.auth_options_mut().client_cert_auth = true;
    world.bed.server.secured(world.peer.id, Some("reads-a"));
    assert!(world.permitted("", "KV/Range", &range("a", "")));
    assert!(!world.permitted("", "KV/Range", &range("b", "")));
    // A token goes before it.
    assert!(world.permitted("reads-a-to-c", "KV/Range", &range("b", "")));
    let fields: &[(&[u8], &[u8])] = &[(b"grpcgateway-accept", b"*/*")];
    let stream = world.peer.open(&mut world.bed, "/etcdserverpb.KV/Range", fields);
    world.peer.message(&mut world.bed, stream, &range("a", ""), true);
    world.settle(stream);
    assert_eq!(world.peer.answer(stream), (Some("3"), "etcdserver: user name is empty"));
    world.bed.server.auth_options_mut().client_cert_auth = false;
    assert!(!world.permitted("", "KV/Range", &range("a", "")));
}

/// It may be set, and goes on while a machine sleeps, when the time of a process stands still.
#[test]
fn web_tokens_end_by_the_clock_of_the_machine() {
    const UNIX_MS: u64 = 1_700_000_000_000;
    let mut bed = Bed::ready();
    let jwt = Jwt::new("HS256", None, Some(b"a secret"), 300).unwrap();
    bed.server.auth_options_mut().tokens = TokenKind::Jwt(Arc::new(jwt));
    bed.server.set_wall_clock(UNIX_MS, bed.now_ms);
    let mut world = World::of(bed);
    let good = || ("0".to_owned(), String::new());
    let invalid = || ("16".to_owned(), "etcdserver: invalid auth token".to_owned());
    for (unix_ms, is_good) in
        [(UNIX_MS, true), (UNIX_MS + 400_000, false), (UNIX_MS + 200_000, true)]
    {
        world.bed.server.set_wall_clock(unix_ms, world.bed.now_ms);
        let told = world.told("root", "KV/Range", &range("a", ""));
        assert_eq!(told, if is_good { good() } else { invalid() }, "{unix_ms}");
    }
    // New ones begin by it as well.
    world.bed.server.set_wall_clock(UNIX_MS + 400_000, world.bed.now_ms);
    world.log_in_all();
    world.bed.server.set_wall_clock(UNIX_MS + 600_000, world.bed.now_ms);
    assert_eq!(world.told("root", "KV/Range", &range("a", "")), good());
}
