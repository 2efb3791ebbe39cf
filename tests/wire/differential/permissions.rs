//! The same with auth on: several users, each request by one of them or by nobody, and now and then a change of users,
//! roles or permissions.
//!
//! Left out is one thing: ranges whose end is not behind their beginning. Whether etcd permits them hangs on the order
//! in which a balanced tree was filled.

use std::collections::BTreeMap;

use ringd::auth::access::{self, Need};
use ringd::proto::authpb;
use ringd::proto::etcdserverpb as pb;

use super::administration::{USERS, administration, text};
use super::gateway::Gateway;
use super::generate::{Generator, Limits, Step, World};
use super::request::{Answer, Content, Request, Told, same};
use super::run::{Tally, WATCH, own_member, shorten, start};
use super::{SEQUENCE_REQUESTS, json, replay};
use crate::block_on;
use crate::client::Client;
use crate::rng::Rng;
use crate::server::{Kind, Server};

/// Requests before the one that is answered in two ways.
const SHOWN_MAX: usize = 12;

struct Side {
    kind: Kind,
    client: Client,
    gateway: Gateway,
    told: Told,
    tokens: BTreeMap<String, String>,
    _server: Server,
}

struct Pair<'a> {
    sides: Vec<Side>,
    world: World,
    /// As far as the reference has agreed.
    passwords: BTreeMap<String, String>,
    tally: &'a mut Tally,
    /// What was asked last, for the report.
    last: Vec<String>,
}

/// One seed on fresh servers; the report of a difference is the error.
pub fn sequence(seed: u64, tally: &mut Tally) -> Result<(), String> {
    block_on(run(seed, tally))
        .map_err(|report| format!("\nseed {seed} differs (replay: {}):\n{report}", replay(seed)))
}

async fn run(seed: u64, tally: &mut Tally) -> Result<(), String> {
    let mut rng = Rng::new(seed ^ 0xa074);
    let limits = Limits::of_seed(seed);
    let mut generator = Generator::new(seed);
    let mut pair = Pair::start(limits, tally).await;
    pair.found().await?;
    while pair.tally.requests < SEQUENCE_REQUESTS {
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
        if rng.below(400) == 0 {
            pair.without_auth(&mut rng).await?;
            continue;
        }
        // What belongs together is by one user: an alarm is to be withdrawn by who has raised it.
        let user = user(&mut rng);
        for step in generator.next(&pair.world) {
            pair.take(user, step).await?;
        }
    }
    for step in generator.last(&pair.world) {
        pair.take(Some("root"), step).await?;
    }
    Ok(())
}

fn user(rng: &mut Rng) -> Option<&'static str> {
    match rng.below(12) {
        0 => None,
        1..=2 => Some("root"),
        _ => Some(rng.pick(USERS)),
    }
}

impl Pair<'_> {
    async fn start(limits: Limits, tally: &mut Tally) -> Pair<'_> {
        let args = [
            format!("--max-txn-ops={}", limits.max_txn_ops),
            format!("--max-request-bytes={}", limits.max_request_bytes),
            "--unsafe-no-fsync".to_owned(),
            "--bcrypt-cost=4".to_owned(),
        ];
        let mut sides = Vec::new();
        for server in start(&args) {
            let client = Client::connect(server.client).await;
            let gateway = Gateway::new(server.client);
            let (kind, told, tokens) = (server.kind, Told::default(), BTreeMap::new());
            sides.push(Side { kind, client, gateway, told, tokens, _server: server });
        }
        let member = own_member(&sides[0].client).await;
        let world = World { revision: 1, compacted: -1, compactions: Vec::new(), member, limits };
        Pair { sides, world, passwords: BTreeMap::new(), tally, last: Vec::new() }
    }

    async fn take(&mut self, user: Option<&str>, step: Step) -> Result<(), String> {
        match step {
            Step::Calls(requests) => {
                for request in requests {
                    self.ask(user, request).await?;
                }
            }
            // What a damaged one is about is not known.
            Step::Gateway { request, body, is_damaged: false } => {
                self.gateway(user, &request, &body).await?;
            }
            Step::WatchCreate { request, .. } => self.watch(user, request).await?,
            // The first message of it, or the end: whether there is one hangs on what was permitted before.
            Step::Observing { request, .. } if self.has_leader(&request).await => {
                self.first_message(user, request).await?;
            }
            // Who waits for a lock may wait for ever here.
            _ => {}
        }
        Ok(())
    }

    /// Auth is off for a while, by whoever may do that; tokens end with it.
    async fn without_auth(&mut self, rng: &mut Rng) -> Result<(), String> {
        let user = if rng.chance(80) { Some("root") } else { user(rng) };
        self.ask(user, Request::AuthDisable(pb::AuthDisableRequest {})).await?;
        for _ in 0..rng.below(5) {
            let request = match rng.below(3) {
                0 => Request::AuthStatus(pb::AuthStatusRequest {}),
                1 => Request::UserList(pb::AuthUserListRequest {}),
                _ => administration(rng),
            };
            self.ask(user, request).await?;
        }
        self.ask(None, Request::AuthEnable(pb::AuthEnableRequest {})).await?;
        for name in USERS {
            let password = self.passwords.get(*name).cloned();
            self.log_in(name, &password.unwrap_or_default()).await?;
        }
        Ok(())
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
        for side in &mut self.sides {
            let reply = request.send(&side.client).await;
            let mut answer = Answer::of(&request, reply, &mut side.told);
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
        for side in &mut self.sides {
            let metadata = side.metadata(user);
            let reply = request.to(side.told).send_as(&side.client, &metadata).await;
            answers.push(Answer::of(&request, reply, &mut side.told));
        }
        if answers[1].code() == 0 {
            let revision = answers[1].revision();
            self.learn(&request, revision);
        }
        self.compare(user, &request, answers)
    }

    /// What the reference has done.
    fn learn(&mut self, request: &Request, revision: Option<i64>) {
        self.world.revision = self.world.revision.max(revision.unwrap_or_default());
        match request {
            Request::Compact(request) => {
                self.world.compacted = request.revision;
                self.world.compactions.push(request.revision);
            }
            Request::UserAdd(request) => {
                self.passwords.insert(request.name.clone(), request.password.clone());
            }
            Request::UserChangePassword(request) => {
                self.passwords.insert(request.name.clone(), request.password.clone());
            }
            _ => {}
        }
    }

    async fn gateway(
        &mut self,
        user: Option<&str>,
        request: &Request,
        body: &str,
    ) -> Result<(), String> {
        if has_empty_range(request) {
            return Ok(());
        }
        let path = json::path(request).expect("it was made for the gateway");
        let mut texts = Vec::new();
        for side in &mut self.sides {
            let token = user.and_then(|user| side.tokens.get(user));
            let token = token.map(String::as_str);
            texts.push(side.gateway.post(path, token, body).await);
        }
        self.tally.requests += 1;
        *self.tally.answers.entry((path, texts[1].status.into())).or_default() += 1;
        if texts[1].status == 200 {
            self.learn(request, texts[1].revision());
        }
        self.agree(
            texts[0] == texts[1],
            format!("{user:?}: {path}: {}", shorten(body)),
            [shorten(&texts[0]), shorten(&texts[1])],
        )
    }

    async fn has_leader(&self, request: &Request) -> bool {
        let Request::Observe(asked) = request else { return true };
        let side = &self.sides[1];
        let leader = Request::Leader(asked.clone());
        leader.send_as(&side.client, &side.metadata(Some("root"))).await.code() == 0
    }

    /// Of a stream that goes on then.
    async fn first_message(&mut self, user: Option<&str>, request: Request) -> Result<(), String> {
        let mut answers = Vec::new();
        for side in &mut self.sides {
            let mut stream = request.open_as(&side.client, &side.metadata(user)).await;
            answers.push(Answer::of(&request, stream.next_or_end().await, &mut side.told));
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
            let mut stream = side.client.open_with(WATCH, &side.metadata(user)).await;
            stream.send(&request);
            let mut response: pb::WatchResponse = stream.message().await;
            if let Some(header) = &mut response.header {
                header.raft_term = header.raft_term.min(1);
            }
            stream.finish();
            answers.push(response);
        }
        self.tally.requests += 1;
        *self.tally.answers.entry((WATCH, 0)).or_default() += 1;
        self.agree(
            answers[0] == answers[1],
            format!("{user:?}: {}", shorten(&request)),
            [shorten(&answers[0]), shorten(&answers[1])],
        )
    }

    fn compare(
        &mut self,
        user: Option<&str>,
        request: &Request,
        answers: Vec<Answer>,
    ) -> Result<(), String> {
        let [left, right] = answers.as_slice() else { unreachable!("two sides") };
        self.tally.requests += 1;
        *self.tally.answers.entry((request.path(), right.code())).or_default() += 1;
        self.agree(
            same(request, left, right),
            format!("{user:?}: {}", shorten(request)),
            [shorten(left), shorten(right)],
        )
    }

    /// Keeps what was asked; if the answers were not the same, the report is the error.
    fn agree(&mut self, is_same: bool, asked: String, sides: [String; 2]) -> Result<(), String> {
        if is_same {
            self.last.push(asked);
            if self.last.len() > SHOWN_MAX {
                self.last.remove(0);
            }
            return Ok(());
        }
        let [ringd, etcd] = sides;
        Err(format!("{}\n{asked}\n  ringd: {ringd}\n  etcd: {etcd}", self.last.join("\n")))
    }
}

impl Side {
    fn metadata(&self, user: Option<&str>) -> Vec<(&'static str, &str)> {
        let token = user.and_then(|user| self.tokens.get(user));
        token.map(|token| ("token", token.as_str())).into_iter().collect()
    }
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
