//! Sends one sequence to two servers and compares what comes back.

use std::collections::BTreeMap;
use std::fmt::{self, Debug};

use bytes::Bytes;
use ringd::proto::etcdserverpb as pb;
use ringd::proto::mvccpb;
use ringd::proto::schema::METHODS;

use super::gateway::Gateway;
use super::generate::{Limits, STREAMS, Step, World};
use super::json;
use super::request::{Answer, Request, Told, same};
use super::watching::Watching;
use crate::client::{Client, Reply, Stream};
use crate::server::{Kind, PATIENCE, Server};

/// What is printed of a request or an answer.
const SHOWN_CHARS: usize = 3_000;
const SHOWN_RUN_CHARS: usize = 20;

pub const WATCH: &str = "/etcdserverpb.Watch/Watch";

/// The two sides, the reference second.
pub const SIDES: [Kind; 2] = [Kind::Ringd, Kind::Etcd];

struct Side {
    kind: Kind,
    client: Client,
    gateway: Gateway,
    told: Told,
    streams: Vec<Watching>,
    /// Watches everything from the beginning: from it is known what the other watchers are to get.
    auditor: Watching,
    history: Vec<mvccpb::Event>,
    server: Server,
}

/// What was done, to show that the run was about something.
#[derive(Default)]
pub struct Tally {
    pub requests: usize,
    pub events: usize,
    /// By the method's path and the code; those of the gateway by its path and the HTTP status.
    pub answers: BTreeMap<(&'static str, i32), usize>,
}

pub struct Difference {
    pub step: usize,
    what: String,
    sides: [String; 2],
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "step {}: {}", self.step, self.what)?;
        for (kind, side) in SIDES.iter().zip(&self.sides) {
            writeln!(f, "  {kind}: {side}")?;
        }
        Ok(())
    }
}

/// As Rust shows it, without the fields that say nothing and without the middle of long values.
pub fn shorten(shown: impl Debug) -> String {
    let mut shown = format!("{shown:?}");
    for nothing in [": 0,", ": false,", ": b\"\",", ": None,"] {
        let mut kept = String::with_capacity(shown.len());
        let mut rest = shown.as_str();
        while let Some(at) = rest.find(nothing) {
            let name = rest[..at].rfind([' ', '{', '(']).map_or(0, |space| space + 1);
            kept.push_str(&rest[..name]);
            rest = rest[at + nothing.len()..].trim_start();
        }
        kept.push_str(rest);
        shown = kept;
    }
    let mut runs = String::with_capacity(shown.len());
    let mut last = ('\0', 0);
    for char in shown.chars() {
        last = if char == last.0 { (char, last.1 + 1) } else { (char, 1) };
        match last.1 {
            ..=SHOWN_RUN_CHARS => runs.push(char),
            length if length == SHOWN_RUN_CHARS + 1 => runs.push('~'),
            _ => {}
        }
    }
    match runs.char_indices().nth(SHOWN_CHARS) {
        Some((at, _)) => format!("{} ... ({} characters)", &runs[..at], runs.len()),
        None => runs,
    }
}

/// Runs a sequence on fresh servers. `source` gives the next steps, until `None`; `done` collects them.
pub async fn run(
    limits: Limits,
    source: &mut dyn FnMut(&World, usize) -> Option<Vec<Step>>,
    done: &mut Vec<Step>,
    tally: &mut Tally,
) -> Result<(), Difference> {
    let mut pair = Pair::start(limits).await;
    while let Some(steps) = source(&pair.world, tally.requests) {
        for step in steps {
            done.push(step.clone());
            pair.step = done.len() - 1;
            pair.take(step, tally).await?;
        }
    }
    pair.step = done.len();
    pair.drain(tally).await
}

/// Both, side by side.
pub fn start(args: &[String]) -> Vec<Server> {
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    std::thread::scope(|scope| {
        let args = &args;
        let starts = SIDES.map(|kind| scope.spawn(move || Server::start(kind, args)));
        starts.into_iter().map(|start| start.join().expect("a server starts")).collect()
    })
}

struct Pair {
    sides: [Side; 2],
    world: World,
    step: usize,
    /// A watcher was created that starts in the past.
    unsettled: bool,
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
        for server in start(&args) {
            sides.push(Side::connect(server.kind, server).await);
        }
        let member = own_member(&sides[1].client).await;
        let Ok(sides) = <[Side; 2]>::try_from(sides) else { unreachable!("two sides") };
        let world = World { revision: 1, compacted: -1, compactions: Vec::new(), member, limits };
        Pair { sides, world, step: 0, unsettled: false }
    }

    async fn take(&mut self, step: Step, tally: &mut Tally) -> Result<(), Difference> {
        match step {
            Step::Calls(requests) => self.calls(requests, tally).await,
            Step::Gateway { request, body, .. } => self.gateway(&request, &body, tally).await,
            Step::Waiting { request, prefix, keys, then } => {
                self.waiting(request, prefix, keys, then, tally).await
            }
            Step::Observing { request, then } => self.observing(request, then, tally).await,
            Step::WatchCreate { stream, request } => {
                tally.requests += 1;
                *tally.answers.entry((WATCH, 0)).or_default() += 1;
                self.watch_create(stream, &request).await
            }
            Step::WatchCancel { stream, watch_id } => {
                tally.requests += 1;
                self.watch_cancel(stream, watch_id).await
            }
            Step::WatchProgress { stream } => {
                tally.requests += 1;
                self.watch_progress(stream).await
            }
            Step::WatchReopen { stream } => {
                for side in &mut self.sides {
                    let mut old = std::mem::replace(
                        &mut side.streams[stream],
                        Watching::open(&side.client).await,
                    );
                    old.stream.finish();
                }
                Ok(())
            }
            Step::Restart { kill } => {
                self.restart(kill).await;
                Ok(())
            }
            Step::Drain => self.drain(tally).await,
            Step::Settle => self.settle().await,
        }
    }

    async fn restart(&mut self, kill: bool) {
        let [left, right] = &mut self.sides;
        for side in [&mut *left, &mut *right] {
            if kill {
                side.server.kill();
            } else {
                side.server.stop();
            }
        }
        // They start side by side.
        std::thread::scope(|scope| {
            for side in [&mut *left, &mut *right] {
                scope.spawn(|| {
                    side.server.run().unwrap_or_else(|err| panic!("{}: {err:#?}", side.kind))
                });
            }
        });
        for side in [left, right] {
            side.reconnect(self.world.revision).await;
        }
        self.unsettled = false;
    }

    async fn calls(&mut self, requests: Vec<Request>, tally: &mut Tally) -> Result<(), Difference> {
        let [left, right] = &self.sides;
        let (left, right) = tokio::join!(
            replies(&left.client, left.told, &requests),
            replies(&right.client, right.told, &requests)
        );
        for ((request, left), right) in requests.iter().zip(left).zip(right) {
            self.compare(request, [left, right], tally)?;
        }
        Ok(())
    }

    fn compare(
        &mut self,
        request: &Request,
        replies: [Reply; 2],
        tally: &mut Tally,
    ) -> Result<(), Difference> {
        let [left, right] = replies;
        let left = Answer::of(request, left, &mut self.sides[0].told);
        let mut right = Answer::of(request, right, &mut self.sides[1].told);
        tally.requests += 1;
        *tally.answers.entry((request.path(), right.code())).or_default() += 1;
        if self.is_from_memory(request) {
            return Ok(());
        }
        if !same(request, &left, &right) {
            return Err(Difference {
                step: self.step,
                what: shorten(request),
                sides: [shorten(&left), shorten(&right)],
            });
        }
        if let Some(revision) = right.revision() {
            self.world.revision = self.world.revision.max(revision);
        }
        if let (Request::Compact(request), true) = (request, right.code() == 0) {
            self.world.compacted = request.revision;
            self.world.compactions.push(request.revision);
        }
        Ok(())
    }

    async fn gateway(
        &mut self,
        request: &Request,
        body: &str,
        tally: &mut Tally,
    ) -> Result<(), Difference> {
        let path = json::path(request).expect("it was made for the gateway");
        let [left, right] = &mut self.sides;
        let (left, right) =
            tokio::join!(left.gateway.post(path, None, body), right.gateway.post(path, None, body));
        tally.requests += 1;
        *tally.answers.entry((path, right.status.into())).or_default() += 1;
        if left != right {
            return Err(Difference {
                step: self.step,
                what: format!("{path}: {}", shorten(body)),
                sides: [shorten(&left), shorten(&right)],
            });
        }
        self.world.revision = self.world.revision.max(right.revision().unwrap_or_default());
        Ok(())
    }

    async fn waiting(
        &mut self,
        request: Request,
        prefix: &'static str,
        keys: i64,
        then: Vec<Request>,
        tally: &mut Tally,
    ) -> Result<(), Difference> {
        let mut calls = Vec::new();
        for side in &self.sides {
            let (client, request) = (side.client.clone(), request.to(side.told));
            let call = tokio::spawn(async move { request.send(&client).await });
            has_put_its_key(&side.client, prefix, keys, &call).await;
            calls.push(call);
        }
        for request in then {
            self.calls(vec![request], tally).await?;
        }
        let mut replies = Vec::new();
        for call in calls {
            replies.push(call.await.expect("a call does not panic"));
        }
        let replies = replies.try_into().expect("two sides");
        self.compare(&request, replies, tally)
    }

    async fn observing(
        &mut self,
        request: Request,
        then: Vec<Vec<Request>>,
        tally: &mut Tally,
    ) -> Result<(), Difference> {
        let mut streams = Vec::new();
        for side in &self.sides {
            streams.push(request.open_as(&side.client, &[]).await);
        }
        self.next_message(&request, &mut streams, tally).await?;
        for requests in then {
            for request in requests {
                self.calls(vec![request], tally).await?;
            }
            self.next_message(&request, &mut streams, tally).await?;
        }
        Ok(())
    }

    /// Of both streams, or the end of both.
    async fn next_message(
        &mut self,
        request: &Request,
        streams: &mut [Stream],
        tally: &mut Tally,
    ) -> Result<(), Difference> {
        let mut replies = Vec::new();
        for stream in streams {
            replies.push(stream.next_or_end().await);
        }
        self.compare(request, replies.try_into().expect("two sides"), tally)
    }

    /// Etcd keeps the hashes that its compactions compute on their way, and answers with them from the moment on at
    /// which the compaction is done. ringd always hashes what there is.
    fn is_from_memory(&self, request: &Request) -> bool {
        matches!(request, Request::HashKv(hash) if self.world.compactions.contains(&hash.revision))
    }

    async fn watch_create(
        &mut self,
        at: usize,
        request: &pb::WatchCreateRequest,
    ) -> Result<(), Difference> {
        for side in &mut self.sides {
            side.streams[at].create(request);
        }
        let created = self.answer_on(at, request, |answer| answer.created).await?;
        if created.canceled {
            return Ok(());
        }
        let current = self.world.revision;
        for side in &mut self.sides {
            side.streams[at].add(created.watch_id, request, current);
        }
        let start = request.start_revision;
        self.unsettled |= (1..=current).contains(&start);
        if start != 0 && start < self.world.compacted {
            let id = created.watch_id;
            self.answer_on(at, request, |answer| answer.canceled && answer.watch_id == id).await?;
            for side in &mut self.sides {
                side.streams[at].end(id);
            }
        }
        Ok(())
    }

    async fn watch_cancel(&mut self, at: usize, watch_id: i64) -> Result<(), Difference> {
        for side in &mut self.sides {
            side.streams[at].cancel(watch_id);
        }
        if !self.sides[1].streams[at].watchers.contains_key(&watch_id) {
            return Ok(());
        }
        let what = format!("cancel of {watch_id}");
        self.answer_on(at, &what, |answer| answer.canceled && answer.watch_id == watch_id).await?;
        for side in &mut self.sides {
            side.streams[at].watchers.remove(&watch_id);
        }
        Ok(())
    }

    async fn watch_progress(&mut self, at: usize) -> Result<(), Difference> {
        let current = self.world.revision;
        let watching = &self.sides[1].streams[at];
        if watching.watchers.is_empty() || watching.waits_for_future(current) {
            return Ok(());
        }
        for index in 0..2 {
            let kind = self.sides[index].kind;
            let progress = self.sides[index].streams[at].until_progress(current).await;
            progress.map_err(|err| self.misbehaves(kind, err))?;
        }
        Ok(())
    }

    /// Etcd looks into the past for all watchers that need it at once, now and then. So when one that is created now is
    /// done with it, all are. Etcd says by an answer to a progress request that it is done.
    async fn settle(&mut self) -> Result<(), Difference> {
        if !std::mem::take(&mut self.unsettled) {
            return Ok(());
        }
        let current = self.world.revision;
        for index in 0..2 {
            let kind = self.sides[index].kind;
            let settled = self.sides[index].auditor.settle(current).await;
            settled.map_err(|err| self.misbehaves(kind, err))?;
        }
        Ok(())
    }

    /// Waits on both sides for the next answer that fits, and compares the two.
    async fn answer_on(
        &mut self,
        at: usize,
        what: &dyn Debug,
        fits: impl Fn(&pb::WatchResponse) -> bool,
    ) -> Result<pb::WatchResponse, Difference> {
        let mut found = Vec::new();
        for index in 0..2 {
            let side = &mut self.sides[index];
            let kind = side.kind;
            let answer = side.streams[at].answer(&fits).await;
            found.push(answer.map_err(|err| self.misbehaves(kind, format!("{what:?}: {err}")))?);
        }
        if found[0] != found[1] {
            return Err(Difference {
                step: self.step,
                what: shorten(what),
                sides: [shorten(&found[0]), shorten(&found[1])],
            });
        }
        Ok(found.remove(0))
    }

    fn misbehaves(&self, kind: Kind, what: String) -> Difference {
        let mut sides = [String::from("-"), String::from("-")];
        sides[usize::from(kind == SIDES[1])] = what;
        Difference { step: self.step, what: "a watch stream".to_owned(), sides }
    }

    /// Waits until every watcher has what the history holds for it, and compares the events.
    async fn drain(&mut self, tally: &mut Tally) -> Result<(), Difference> {
        let current = self.world.revision;
        for index in 0..2 {
            let kind = self.sides[index].kind;
            let outcome = self.sides[index].catch_up(current).await;
            outcome.map_err(|err| self.misbehaves(kind, err))?;
        }
        tally.events += self.compare_events()?;
        Ok(())
    }

    fn compare_events(&mut self) -> Result<usize, Difference> {
        let step = self.step;
        let [left, right] = &mut self.sides;
        let mut compared = 0;
        let pairs = std::iter::once((&mut left.auditor, &mut right.auditor))
            .chain(left.streams.iter_mut().zip(&mut right.streams));
        for (left, right) in pairs {
            for (id, right) in &mut right.watchers {
                let left = left.watchers.get_mut(id).expect("the same watchers on both sides");
                if left.events != right.events {
                    return Err(Difference {
                        step,
                        what: format!("events of watcher {id}: {:?}", right.request),
                        sides: differing(&left.events, &right.events),
                    });
                }
                compared += left.events.len();
                left.events.clear();
                right.events.clear();
            }
        }
        Ok(compared)
    }
}

impl Side {
    async fn connect(kind: Kind, server: Server) -> Side {
        let client = Client::connect(server.client).await;
        let gateway = Gateway::new(server.client);
        let (auditor, streams) = open_watches(&client, 1).await;
        let (told, history) = (Told::default(), Vec::new());
        Side { kind, client, gateway, told, streams, auditor, history, server }
    }

    async fn reconnect(&mut self, revision: i64) {
        self.client = Client::connect(self.server.client).await;
        self.gateway = Gateway::new(self.server.client);
        (self.auditor, self.streams) = open_watches(&self.client, revision).await;
    }

    async fn catch_up(&mut self, current: i64) -> Result<(), String> {
        let auditor = &mut self.auditor;
        let caught_up = tokio::time::timeout(PATIENCE, async {
            while auditor.watchers[&0].last_revision < current {
                auditor.receive().await?;
            }
            Ok::<_, String>(())
        });
        let caught_up = caught_up.await;
        let everything = &self.auditor.watchers[&0];
        match caught_up {
            Ok(outcome) => outcome?,
            Err(_) => {
                let last = everything.last_revision;
                return Err(format!("a watch of everything stops at {last}, not at {current}"));
            }
        }
        // Both sides' events are compared, and forgotten, right after this.
        self.history.extend(everything.events.iter().cloned());
        for watching in &mut self.streams {
            for watcher in watching.watchers.values_mut() {
                watcher.count(&self.history);
            }
            watching.receive_ready()?;
            let arrived = tokio::time::timeout(PATIENCE, async {
                while watching.lacks_events() {
                    watching.receive().await?;
                }
                Ok::<_, String>(())
            });
            if let Ok(outcome) = arrived.await {
                outcome?;
            }
            if let Some((id, watcher)) =
                watching.watchers.iter().find(|(_, watcher)| watcher.received != watcher.expected)
            {
                return Err(format!(
                    "watcher {id} got {} events of {}",
                    watcher.received, watcher.expected
                ));
            }
        }
        Ok(())
    }
}

async fn open_watches(client: &Client, revision: i64) -> (Watching, Vec<Watching>) {
    let mut auditor = Watching::open(client).await;
    auditor.create(&everything());
    auditor.answer(|answer| answer.created).await.expect("a created response");
    auditor.add(0, &everything(), revision);
    let mut streams = Vec::new();
    for _ in 0..STREAMS {
        streams.push(Watching::open(client).await);
    }
    (auditor, streams)
}

fn everything() -> pb::WatchCreateRequest {
    pb::WatchCreateRequest {
        key: Bytes::from_static(b"\0"),
        range_end: Bytes::from_static(b"\0"),
        prev_kv: true,
        ..Default::default()
    }
}

/// Waits until a call has put its key, or has ended without one.
pub async fn has_put_its_key(
    client: &Client,
    prefix: &'static str,
    keys: i64,
    call: &tokio::task::JoinHandle<Reply>,
) {
    let mut end = prefix.as_bytes().to_vec();
    *end.last_mut().expect("a prefix") += 1;
    let range = pb::RangeRequest {
        key: Bytes::from_static(prefix.as_bytes()),
        range_end: end.into(),
        count_only: true,
        ..Default::default()
    };
    let counted = tokio::time::timeout(PATIENCE, async {
        while !call.is_finished() {
            let response: pb::RangeResponse =
                client.call("/etcdserverpb.KV/Range", &range).await.message();
            if response.count >= keys {
                break;
            }
        }
    });
    counted.await.expect("a call puts its key before patience ends");
}

/// The same on both sides.
pub async fn own_member(client: &Client) -> u64 {
    let path = "/etcdserverpb.Maintenance/Status";
    let status: pb::StatusResponse = client.call(path, &pb::StatusRequest {}).await.message();
    status.header.map_or(0, |header| header.member_id)
}

/// The replies to calls that are all under way at the same time.
async fn replies(client: &Client, told: Told, requests: &[Request]) -> Vec<Reply> {
    if let [request] = requests {
        return vec![request.to(told).send(client).await];
    }
    let calls: Vec<_> = requests
        .iter()
        .map(|request| {
            let (client, request) = (client.clone(), request.to(told));
            tokio::spawn(async move { request.send(&client).await })
        })
        .collect();
    let mut replies = Vec::new();
    for call in calls {
        replies.push(call.await.expect("a call does not panic"));
    }
    replies
}

/// The first event that is not the same on both sides, with its neighbour before.
fn differing(left: &[mvccpb::Event], right: &[mvccpb::Event]) -> [String; 2] {
    let equal = left.iter().zip(right).take_while(|(left, right)| left == right).count();
    let show = |events: &[mvccpb::Event]| {
        let from = equal.saturating_sub(1).min(events.len());
        let to = (equal + 2).min(events.len());
        format!("events {from}.. of {}: {}", events.len(), shorten(&events[from..to]))
    };
    [show(left), show(right)]
}

impl Tally {
    pub fn add(&mut self, other: Tally) {
        self.requests += other.requests;
        self.events += other.events;
        for (answer, count) in other.answers {
            *self.answers.entry(answer).or_default() += count;
        }
    }

    /// A comparison of nothing is equal, too: every method has succeeded, and been refused where it can be.
    pub fn assert_alive(&self, unasked: &[&str]) {
        let methods = METHODS.iter().filter(|method| !method.path.starts_with("/grpc.reflection."));
        for path in methods.map(|method| method.path).filter(|path| !unasked.contains(path)) {
            assert!(self.answers.contains_key(&(path, 0)), "no {path} succeeded: {self}");
        }
        for method in ["Range", "RangeStream", "Put", "Txn", "Compact"] {
            let path = format!("/etcdserverpb.KV/{method}");
            let is_refusal = |(name, code): &(&str, i32)| *name == path && *code != 0;
            assert!(self.answers.keys().any(is_refusal), "no {path} was refused: {self}");
        }
        let by_gateway = self.answers.keys().filter(|(path, _)| path.starts_with("/v3/"));
        assert!(by_gateway.count() > 30, "hardly any request went through the gateway: {self}");
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} requests, {} events compared; answers by code:",
            self.requests, self.events
        )?;
        for ((path, code), count) in &self.answers {
            let name = path.strip_prefix("/etcdserverpb.").unwrap_or(path);
            write!(f, " {name}/{code}={count}")?;
        }
        Ok(())
    }
}
