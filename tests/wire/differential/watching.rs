//! The watch half of a sequence: streams with many watchers, on each of the two sides.
//!
//! How events are cut into responses is a server's own business; what is compared is each watcher's events in their
//! order. Checked on each side alone: responses come in the order of revisions, hold whole revisions, and carry a
//! header that is not older than their events.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use prost::Message;
use ringd::proto::etcdserverpb as pb;
use ringd::proto::mvccpb;

use crate::client::{Client, Stream};
use crate::server::PATIENCE;

/// A progress request that finds a watcher not caught up gets no answer: it is asked again after this time.
const PROGRESS_AGAIN: Duration = Duration::from_millis(150);

/// One stream of one side.
pub struct Watching {
    pub stream: Stream,
    pub watchers: BTreeMap<i64, Watcher>,
    /// Responses to what was asked: created, canceled, progress.
    pub answers: Vec<pb::WatchResponse>,
}

pub struct Watcher {
    pub request: pb::WatchCreateRequest,
    /// The first revision that is to be delivered.
    from: i64,
    /// Events that have not been compared yet, and how many came since it was created.
    pub events: Vec<mvccpb::Event>,
    pub received: usize,
    pub last_revision: i64,
    last_was_fragment: bool,
    /// How many events the history holds for it, of the history's first `counted` ones.
    pub expected: usize,
    counted: usize,
}

impl Watching {
    pub async fn open(client: &Client) -> Watching {
        let stream = client.open("/etcdserverpb.Watch/Watch").await;
        Watching { stream, watchers: BTreeMap::new(), answers: Vec::new() }
    }

    pub fn create(&mut self, request: &pb::WatchCreateRequest) {
        self.ask(pb::watch_request::RequestUnion::CreateRequest(request.clone()));
    }

    pub fn cancel(&mut self, watch_id: i64) {
        self.ask(pb::watch_request::RequestUnion::CancelRequest(pb::WatchCancelRequest {
            watch_id,
        }));
    }

    pub fn progress(&mut self) {
        self.ask(pb::watch_request::RequestUnion::ProgressRequest(pb::WatchProgressRequest {}));
    }

    fn ask(&mut self, union: pb::watch_request::RequestUnion) {
        self.stream.send(&pb::WatchRequest { request_union: Some(union) });
    }

    pub fn add(&mut self, watch_id: i64, request: &pb::WatchCreateRequest, current: i64) {
        let from = match request.start_revision {
            0 => current + 1,
            start => start,
        };
        self.watchers.insert(
            watch_id,
            Watcher {
                request: request.clone(),
                from,
                events: Vec::new(),
                received: 0,
                // Nothing older is to come, nor anything of this one.
                last_revision: from - 1,
                last_was_fragment: false,
                expected: 0,
                counted: 0,
            },
        );
    }

    /// The server has canceled it, because what it wanted is compacted. Its id stays taken until the client cancels it,
    /// too, and so long progress requests get no answer.
    pub fn end(&mut self, watch_id: i64) {
        let watcher = self.watchers.get_mut(&watch_id).expect("it was created");
        watcher.request.start_revision = i64::MAX;
        watcher.from = i64::MAX;
    }

    /// A watcher that waits for a revision that is not there yet keeps progress requests from being answered.
    pub fn waits_for_future(&self, current: i64) -> bool {
        self.watchers.values().any(|watcher| watcher.request.start_revision > current)
    }

    /// Takes one response, waiting for it.
    pub async fn receive(&mut self) -> Result<(), String> {
        match self.stream.next().await {
            Some(bytes) => self.absorb(&bytes),
            None => Err(format!("the stream ended: {:?}", self.stream.reply().status())),
        }
    }

    /// Takes what is there.
    pub fn receive_ready(&mut self) -> Result<(), String> {
        while let Some(bytes) = self.stream.try_next() {
            self.absorb(&bytes)?;
        }
        Ok(())
    }

    /// The next answer, which has to be the one that is asked for. Answers to progress requests that were asked more
    /// than once may come at any time.
    pub async fn answer(
        &mut self,
        fits: impl Fn(&pb::WatchResponse) -> bool,
    ) -> Result<pb::WatchResponse, String> {
        loop {
            self.answers.retain(|answer| answer.created || answer.canceled);
            if self.answers.is_empty() {
                self.receive().await?;
                continue;
            }
            let answer = self.answers.remove(0);
            return if fits(&answer) { Ok(answer) } else { Err(format!("answered {answer:?}")) };
        }
    }

    /// Asks for progress until there is an answer.
    pub async fn until_progress(&mut self, current: i64) -> Result<(), String> {
        self.answers.retain(|answer| answer.created || answer.canceled);
        let asked = tokio::time::timeout(PATIENCE, async {
            loop {
                self.progress();
                let answer = tokio::time::timeout(PROGRESS_AGAIN, async {
                    while !self.answers.iter().any(is_progress) {
                        self.receive().await?;
                    }
                    Ok::<_, String>(())
                });
                if let Ok(outcome) = answer.await {
                    break outcome;
                }
            }
        });
        match asked.await {
            Err(_) => Err("a progress request is not answered".to_owned()),
            Ok(outcome) => outcome.and_then(|()| self.check_progress(current)),
        }
    }

    /// Creates a watcher that starts in the past, waits until it has caught up, and cancels it.
    pub async fn settle(&mut self, current: i64) -> Result<(), String> {
        let request = pb::WatchCreateRequest {
            key: Bytes::from_static(b"\0nobody writes this"),
            start_revision: current,
            ..Default::default()
        };
        self.create(&request);
        let id = self.answer(|answer| answer.created && !answer.canceled).await?.watch_id;
        self.add(id, &request, current);
        self.until_progress(current).await?;
        self.cancel(id);
        self.answer(|answer| answer.canceled && answer.watch_id == id).await?;
        self.watchers.remove(&id);
        Ok(())
    }

    /// The answer to a progress request says no more and no less than how far everything is delivered.
    pub fn check_progress(&self, current: i64) -> Result<(), String> {
        let expected = pb::WatchResponse { watch_id: -1, ..Default::default() };
        for answer in self.answers.iter().filter(|answer| is_progress(answer)) {
            let revision = answer.header.as_ref().map_or(0, |header| header.revision);
            let bare = pb::WatchResponse { header: None, ..answer.clone() };
            if revision != current || bare != expected {
                return Err(format!("expected progress to {current}: {answer:?}"));
            }
        }
        Ok(())
    }

    fn absorb(&mut self, bytes: &[u8]) -> Result<(), String> {
        let mut response =
            pb::WatchResponse::decode(bytes).map_err(|err| format!("undecodable: {err}"))?;
        if response.encode_to_vec() != bytes {
            return Err(format!("not encoded as the schema says: {bytes:?}"));
        }
        let header = response.header.get_or_insert_default();
        header.raft_term = 0;
        let at = header.revision;
        if response.created || response.canceled || response.watch_id == -1 {
            if !response.events.is_empty() {
                return Err(format!("an answer with events: {response:?}"));
            }
            self.answers.push(response);
            return Ok(());
        }
        let Some(watcher) = self.watchers.get_mut(&response.watch_id) else {
            return Err(format!("nobody watches with this id: {response:?}"));
        };
        for (index, event) in response.events.iter().enumerate() {
            let revision = event.kv.as_ref().map_or(0, |kv| kv.mod_revision);
            let continues = index > 0 || watcher.last_was_fragment;
            if revision < watcher.last_revision
                || (!continues && revision == watcher.last_revision)
                || revision > at
                || revision < watcher.from
            {
                return Err(format!(
                    "event {index} is out of order: after {}, from {}: {response:?}",
                    watcher.last_revision, watcher.from
                ));
            }
            watcher.last_revision = revision;
        }
        if response.events.is_empty() && !watcher.request.progress_notify {
            return Err(format!("nothing was asked for: {response:?}"));
        }
        watcher.last_was_fragment = response.fragment;
        watcher.received += response.events.len();
        watcher.events.append(&mut response.events);
        Ok(())
    }

    pub fn lacks_events(&self) -> bool {
        self.watchers.values().any(|watcher| watcher.received < watcher.expected)
    }
}

fn is_progress(answer: &pb::WatchResponse) -> bool {
    answer.watch_id == -1 && !answer.created
}

impl Watcher {
    /// Counts the events that the history, grown since, holds for it.
    pub fn count(&mut self, history: &[mvccpb::Event]) {
        let new = history.get(self.counted..).unwrap_or_default();
        self.expected += new.iter().filter(|event| self.wants(event)).count();
        self.counted = history.len();
    }

    fn wants(&self, event: &mvccpb::Event) -> bool {
        let Some(kv) = &event.kv else { return false };
        let key: &[u8] = if self.request.key.is_empty() { b"\0" } else { &self.request.key };
        let end = self.request.range_end.as_ref();
        let within = match end {
            b"" => kv.key == key,
            b"\0" => *kv.key >= *key,
            _ => *kv.key >= *key && *kv.key < *end,
        };
        within && kv.mod_revision >= self.from && !self.request.filters.contains(&event.r#type)
    }
}
