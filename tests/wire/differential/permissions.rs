//! The same with auth on: several users, each request by one of them or by nobody, and now and then a change of users,
//! roles or permissions.
//!
//! `RINGD_DIFFERENTIAL_AUTH_REQUESTS` sets how many requests are sent (8,000 by default); `RINGD_DIFFERENTIAL_SEED`
//! runs one seed alone. Left out is one thing: ranges whose end is not behind their beginning. Whether etcd permits them
//! hangs on the order in which a balanced tree was filled.

use std::collections::BTreeMap;

use bytes::Bytes;
use ringd::auth::access::{self, Need};
use ringd::proto::authpb;
use ringd::proto::etcdserverpb as pb;

use super::generate::{Generator, Limits, Step, World};
use super::request::{Answer, Content, Request, same};
use super::run::{SIDES, shorten};
use crate::block_on;
use crate::client::Client;
use crate::rng::Rng;
use crate::server::{Kind, Server, etcd_or_skip};

const SEQUENCE_REQUESTS: usize = 2_000;
const DEFAULT_REQUESTS: u64 = 8_000;

const USERS: &[&str] = &["root", "alice", "bob", "carol", "dave"];
const ROLES: &[&str] = &["root", "r1", "r2", "r3"];
const RANGES: &[(&[u8], &[u8])] = &[
    (b"a", b""),
    (b"a", b"b"),
    (b"a", b"k/2"),
    (b"b", b"k0"),
    (b"k/", b"k0"),
    (b"k/1", b""),
    (b"k/2", b"z"),
    (b"k/3", b"k/3\0"),
    (b"z", b"\0"),
    (b"\0", b"\0"),
    (b"\0", b"a"),
    (b"\xff", b"\0"),
    (b"b", b"a"),
    (b"", b""),
];

struct Side {
    kind: Kind,
    client: Client,
    tokens: BTreeMap<String, String>,
    _server: Server,
}

struct Pair {
    sides: Vec<Side>,
    world: World,
    /// As far as the reference has agreed.
    passwords: BTreeMap<String, String>,
    asked: usize,
    codes: BTreeMap<(&'static str, i32), usize>,
    /// What was asked last, for the report.
    last: Vec<String>,
}

#[test]
fn with_auth_on_generated_requests_get_the_answers_of_a_real_etcd() {
    if etcd_or_skip("differential with auth").is_none() {
        return;
    }
    let number = |name| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let requests = number("RINGD_DIFFERENTIAL_AUTH_REQUESTS").unwrap_or(DEFAULT_REQUESTS);
    let seeds = match number("RINGD_DIFFERENTIAL_SEED") {
        Some(seed) => seed..=seed,
        None => 1..=requests.div_ceil(SEQUENCE_REQUESTS as u64),
    };
    let mut codes: BTreeMap<(&str, i32), usize> = BTreeMap::new();
    for seed in seeds {
        let pair = block_on(sequence(seed)).unwrap_or_else(|report| {
            panic!("seed {seed} (replay: RINGD_DIFFERENTIAL_SEED={seed}):\n{report}")
        });
        for (answer, count) in pair.codes {
            *codes.entry(answer).or_default() += count;
        }
    }
    println!("{codes:?}");
    if requests < DEFAULT_REQUESTS || number("RINGD_DIFFERENTIAL_SEED").is_some() {
        return;
    }
    for denied in
        ["Range", "Put", "Txn", "DeleteRange", "LeaseLeases", "Compact", "RoleGrantPermission"]
    {
        assert!(codes.contains_key(&(denied, 7)), "no {denied} was denied");
        assert!(codes.contains_key(&(denied, 0)), "no {denied} was permitted");
    }
}

async fn sequence(seed: u64) -> Result<Pair, String> {
    let mut rng = Rng::new(seed ^ 0xa074);
    let limits = Limits::of_seed(seed);
    let mut generator = Generator::new(seed);
    let mut pair = Pair::start(limits).await;
    pair.found().await?;
    while pair.asked < SEQUENCE_REQUESTS {
        if rng.chance(6) {
            let request = administration(&mut rng);
            let user = if rng.chance(80) { Some("root") } else { user(&mut rng) };
            pair.ask(user, request).await?;
            continue;
        }
        if rng.chance(4) {
            pair.log_in_somebody(&mut rng).await?;
            continue;
        }
        // What belongs together is by one user: an alarm is to be withdrawn by who has raised it.
        let user = user(&mut rng);
        for step in generator.next(&pair.world) {
            match step {
                Step::Calls(requests) => {
                    for request in requests {
                        pair.ask(user, request).await?;
                    }
                }
                Step::WatchCreate { request, .. } => pair.watch(user, request).await?,
                _ => {}
            }
        }
    }
    Ok(pair)
}

fn user(rng: &mut Rng) -> Option<&'static str> {
    match rng.below(12) {
        0 => None,
        1..=2 => Some("root"),
        _ => Some(rng.pick(USERS)),
    }
}

fn text(rng: &mut Rng, from: &[&str]) -> String {
    if rng.below(20) == 0 { String::new() } else { rng.pick(from).to_owned() }
}

/// A change of users, roles or permissions, or a question about them.
fn administration(rng: &mut Rng) -> Request {
    let (name, role) = (text(rng, USERS), text(rng, ROLES));
    let (key, range_end) = rng.pick(RANGES);
    let (key, range_end) = (Bytes::from_static(key), Bytes::from_static(range_end));
    match rng.weighted(&[6, 2, 4, 10, 4, 4, 10, 3, 4, 4, 2, 20, 5, 4, 4]) {
        0 => Request::UserAdd(pb::AuthUserAddRequest {
            name,
            password: "first".to_owned(),
            options: rng.chance(20).then(|| authpb::UserAddOptions { no_password: rng.chance(60) }),
            ..Default::default()
        }),
        1 => Request::UserDelete(pb::AuthUserDeleteRequest { name }),
        2 => Request::UserChangePassword(pb::AuthUserChangePasswordRequest {
            name,
            password: rng.pick(&["first", "second"]).to_owned(),
            ..Default::default()
        }),
        3 => Request::UserGrantRole(pb::AuthUserGrantRoleRequest {
            user: name,
            // Few become administrators.
            role: if rng.chance(80) && role == "root" { "r1".to_owned() } else { role },
        }),
        4 => Request::UserRevokeRole(pb::AuthUserRevokeRoleRequest { name, role }),
        5 => Request::UserGet(pb::AuthUserGetRequest { name }),
        6 => Request::RoleAdd(pb::AuthRoleAddRequest { name: role }),
        7 => Request::RoleDelete(pb::AuthRoleDeleteRequest { role }),
        8 => Request::RoleGet(pb::AuthRoleGetRequest { role }),
        9 => Request::UserList(pb::AuthUserListRequest {}),
        10 => Request::RoleList(pb::AuthRoleListRequest {}),
        11 => Request::RoleGrantPermission(pb::AuthRoleGrantPermissionRequest {
            name: role,
            perm: (rng.below(30) > 0).then(|| authpb::Permission {
                perm_type: rng.below(3) as i32,
                key,
                range_end,
            }),
        }),
        12 => Request::RoleRevokePermission(pb::AuthRoleRevokePermissionRequest {
            role,
            key,
            range_end,
        }),
        13 => Request::AuthStatus(pb::AuthStatusRequest {}),
        _ => Request::AuthEnable(pb::AuthEnableRequest {}),
    }
}

impl Pair {
    async fn start(limits: Limits) -> Pair {
        let args = [
            format!("--max-txn-ops={}", limits.max_txn_ops),
            format!("--max-request-bytes={}", limits.max_request_bytes),
            "--unsafe-no-fsync".to_owned(),
            "--bcrypt-cost=4".to_owned(),
        ];
        let mut sides = Vec::new();
        for kind in SIDES {
            let server = Server::start(kind, &args.each_ref().map(String::as_str));
            let client = Client::connect(server.client).await;
            sides.push(Side { kind, client, tokens: BTreeMap::new(), _server: server });
        }
        let (compactions, codes, last) = (Vec::new(), BTreeMap::new(), Vec::new());
        let world = World { revision: 1, compacted: -1, compactions, member: 0, limits };
        Pair { sides, world, passwords: BTreeMap::new(), asked: 0, codes, last }
    }

    /// Users to begin with, each asked for before and after auth is on.
    async fn found(&mut self) -> Result<(), String> {
        let user = |name: &str| {
            Request::UserAdd(pb::AuthUserAddRequest {
                name: name.to_owned(),
                password: "first".to_owned(),
                ..Default::default()
            })
        };
        let role = |name: &str| Request::RoleAdd(pb::AuthRoleAddRequest { name: name.to_owned() });
        let grant = |user: &str, role: &str| {
            let (user, role) = (user.to_owned(), role.to_owned());
            Request::UserGrantRole(pb::AuthUserGrantRoleRequest { user, role })
        };
        let permission = |role: &str, perm_type, key: &'static str, range_end: &'static str| {
            let perm =
                authpb::Permission { perm_type, key: key.into(), range_end: range_end.into() };
            let (name, perm) = (role.to_owned(), Some(perm));
            Request::RoleGrantPermission(pb::AuthRoleGrantPermissionRequest { name, perm })
        };
        for request in [
            user("root"),
            user("alice"),
            user("bob"),
            user("carol"),
            role("r1"),
            role("r2"),
            permission("r1", 2, "a", "k/2"),
            permission("r1", 0, "k/2", "\0"),
            permission("r2", 1, "k/", "k0"),
            grant("alice", "r1"),
            grant("bob", "r1"),
            grant("bob", "r2"),
            grant("carol", "r2"),
            Request::AuthEnable(pb::AuthEnableRequest {}),
            grant("root", "root"),
            Request::AuthEnable(pb::AuthEnableRequest {}),
        ] {
            self.ask(None, request).await?;
        }
        for name in USERS {
            self.log_in(name, "first").await?;
        }
        Ok(())
    }

    async fn log_in_somebody(&mut self, rng: &mut Rng) -> Result<(), String> {
        let name = text(rng, USERS);
        let known = self.passwords.get(&name).cloned();
        let password = match known {
            Some(password) if rng.chance(90) => password,
            _ => "wrong".to_owned(),
        };
        self.log_in(&name, &password).await
    }

    async fn log_in(&mut self, name: &str, password: &str) -> Result<(), String> {
        let (name, password) = (name.to_owned(), password.to_owned());
        let request =
            Request::Authenticate(pb::AuthenticateRequest { name: name.clone(), password });
        let mut tokens = Vec::new();
        let mut answers = Vec::new();
        for side in &self.sides {
            let mut answer = Answer::of(&request, request.send(&side.client).await);
            for message in &mut answer.messages {
                if let Content::Authenticate(response) = message {
                    let token = std::mem::take(&mut response.token);
                    let (letters, index) = token.split_once('.').unwrap_or_default();
                    if letters.len() != 16 || index.parse::<u64>().is_err() {
                        return Err(format!("{}: the token {token:?}", side.kind));
                    }
                    tokens.push(token);
                }
            }
            answers.push(answer);
        }
        if tokens.len() == self.sides.len() {
            for (side, token) in self.sides.iter_mut().zip(tokens) {
                side.tokens.insert(name.clone(), token);
            }
        }
        self.compare(Some(&name), &request, answers)
    }

    async fn ask(&mut self, user: Option<&str>, request: Request) -> Result<(), String> {
        let from_memory = matches!(&request, Request::HashKv(hash) if self.world.compactions.contains(&hash.revision));
        if from_memory || has_empty_range(&request) {
            return Ok(());
        }
        let mut answers = Vec::new();
        for side in &self.sides {
            let token = user.and_then(|user| side.tokens.get(user));
            let metadata: Vec<(&str, &str)> =
                token.iter().map(|token| ("token", token.as_str())).collect();
            answers.push(Answer::of(&request, request.send_as(&side.client, &metadata).await));
        }
        let is_ok = answers[1].code() == 0;
        if is_ok && let Some(revision) = answers[1].revision() {
            self.world.revision = self.world.revision.max(revision);
        }
        match &request {
            Request::Compact(request) if is_ok => {
                self.world.compacted = request.revision;
                self.world.compactions.push(request.revision);
            }
            Request::UserAdd(request) if is_ok => {
                self.passwords.insert(request.name.clone(), request.password.clone());
            }
            Request::UserChangePassword(request) if is_ok => {
                self.passwords.insert(request.name.clone(), request.password.clone());
            }
            _ => {}
        }
        self.compare(user, &request, answers)
    }

    async fn watch(
        &mut self,
        user: Option<&str>,
        create: pb::WatchCreateRequest,
    ) -> Result<(), String> {
        if is_empty(&create.key, &create.range_end) {
            return Ok(());
        }
        let union = pb::watch_request::RequestUnion::CreateRequest(create);
        let request = pb::WatchRequest { request_union: Some(union) };
        let mut answers = Vec::new();
        for side in &self.sides {
            let token = user.and_then(|user| side.tokens.get(user));
            let metadata: Vec<(&str, &str)> =
                token.iter().map(|token| ("token", token.as_str())).collect();
            let mut stream = side.client.open_with("/etcdserverpb.Watch/Watch", &metadata).await;
            stream.send(&request);
            let mut response: pb::WatchResponse = stream.message().await;
            if let Some(header) = &mut response.header {
                header.raft_term = 0;
            }
            stream.finish();
            answers.push(response);
        }
        self.asked += 1;
        if answers[0] == answers[1] {
            return Ok(());
        }
        Err(format!("{user:?}: {request:?}\n  ringd: {:?}\n  etcd: {:?}", answers[0], answers[1]))
    }

    fn compare(
        &mut self,
        user: Option<&str>,
        request: &Request,
        answers: Vec<Answer>,
    ) -> Result<(), String> {
        self.asked += 1;
        let [left, right] = answers.as_slice() else { unreachable!("two sides") };
        *self.codes.entry((request.name(), right.code())).or_default() += 1;
        let shown = format!("{user:?}: {}", shorten(request));
        // etcd sends the head of a stream with its first message, ringd at once.
        let both_refused = matches!(request, Request::KeepAlive(_))
            && left.messages.is_empty()
            && right.messages.is_empty();
        let is_same = match both_refused {
            true => left.code() == right.code() && text_of(left) == text_of(right),
            false => same(request, left, right),
        };
        if is_same {
            if !matches!(request, Request::Range(_)) {
                self.last.push(shown);
            }
            return Ok(());
        }
        let before = self.last.iter().rev().take(12).rev().cloned().collect::<Vec<_>>();
        Err(format!(
            "{}\n{shown}\n  ringd: {}\n  etcd: {}",
            before.join("\n"),
            shorten(left),
            shorten(right)
        ))
    }
}

fn text_of(answer: &Answer) -> Option<&str> {
    let mut fields = answer.tail.iter().chain(&answer.head);
    fields.find(|(name, _)| name == "grpc-message").map(|(_, text)| text.as_str())
}

fn is_empty(key: &[u8], range_end: &[u8]) -> bool {
    !range_end.is_empty() && range_end != b"\0" && range_end <= key
}

fn has_empty_range(request: &Request) -> bool {
    let check = &mut |need: Need<'_>| match need {
        Need::Keys { key, range_end, .. } if is_empty(key, range_end) => Err(()),
        _ => Ok(()),
    };
    let result = match request {
        Request::Range(request) | Request::RangeStream(request) => access::range(request, check),
        Request::DeleteRange(request) => access::delete_range(request, check),
        Request::Txn(request) => access::txn(request, check),
        _ => Ok(()),
    };
    result.is_err()
}
