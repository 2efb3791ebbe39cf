//! What stands between a node and its clients: which proposal, read, renewal or watcher belongs to
//! whom. In production that is `rpc`; here it is the same without HTTP/2, and in the same order of
//! steps.

use std::collections::{BTreeMap, HashMap, VecDeque};

use prost::Message;
use ringd::apply::envelope::Kind;
use ringd::apply::{ApplyError, Notice, Outcome};
use ringd::lease::LeaseId;
use ringd::membership::ChangeError;
use ringd::mvcc::MvccError;
use ringd::mvcc::watch::{KeyRange, NewWatcher, Sink, WatchHub, WatcherSlot};
use ringd::node::{LeaseAnswer, Node, Output};
use ringd::proto::etcdserverpb::RangeResponse;

use crate::history::{OpId, Read, Told};
use crate::model::Refused;
use crate::watching::Wanted;

/// A connection of a client to a member.
pub type Conn = u64;

/// What a client asks of a member.
#[derive(Clone, Debug)]
pub enum Ask {
    Propose(OpId, Kind, Vec<u8>),
    Read(OpId, Read, bool),
    Renew(OpId, i64),
    Watch { id: i64, wanted: Wanted, start: i64 },
    Unwatch { id: i64 },
    Progress,
    Close,
}

/// What a member tells a client.
#[derive(Clone, Debug)]
pub enum Say {
    Told(OpId, Told),
    /// Nothing was done, and nothing will be.
    Refused(OpId),
    Renewed(OpId, i64),
    Created {
        id: i64,
        revision: i64,
    },
    /// `events` is an encoded `WatchResponse` with nothing else in it.
    Events {
        id: i64,
        revision: i64,
        events: Vec<u8>,
    },
    Progress {
        revision: i64,
    },
    Unwatched {
        id: i64,
    },
    Compacted {
        id: i64,
        compact: i64,
    },
    /// The connection is gone.
    Closed,
}

impl Say {
    pub fn kind(&self) -> &'static str {
        match self {
            Say::Told(..) => "Told",
            Say::Refused(_) => "Refused",
            Say::Renewed(..) => "Renewed",
            Say::Created { .. } => "Created",
            Say::Events { .. } => "Events",
            Say::Progress { .. } => "Progress",
            Say::Unwatched { .. } => "Unwatched",
            Say::Compacted { .. } => "Compacted",
            Say::Closed => "Closed",
        }
    }
}

/// Messages of a stream on their way to a client that reads slowly.
const STREAM_MAX: usize = 2;

#[derive(Default)]
struct Stream {
    watchers: BTreeMap<i64, Option<WatcherSlot>>,
    on_the_way: usize,
}

/// A read that waits, and who asked.
type Asked = (Conn, OpId, Read);

pub struct Front {
    hub: WatchHub,
    streams: BTreeMap<Conn, Stream>,
    proposals: HashMap<u64, (Conn, OpId)>,
    reads_new: Vec<Asked>,
    reads_asked: VecDeque<(u64, Vec<Asked>)>,
    reads_lost: Vec<Asked>,
    renewals: HashMap<u64, (Conn, OpId)>,
    behind: bool,
    /// The member was ready once; before that nobody can connect.
    is_open: bool,
    pub out: Vec<(Conn, Say)>,
    pub reads_repeated: u64,
    /// Ids of clients' proposals since somebody looked.
    pub proposed: Vec<u64>,
    /// Ids of those that will never become entries, as the node said.
    pub refused: Vec<u64>,
    /// The state came from another member, all at once.
    pub is_state_replaced: bool,
}

impl Front {
    pub fn new(node: &Node) -> Front {
        Front {
            hub: WatchHub::new(node.applier.mvcc.current_revision()),
            streams: BTreeMap::new(),
            proposals: HashMap::new(),
            reads_new: Vec::new(),
            reads_asked: VecDeque::new(),
            reads_lost: Vec::new(),
            renewals: HashMap::new(),
            behind: false,
            is_open: false,
            out: Vec::new(),
            reads_repeated: 0,
            proposed: Vec::new(),
            refused: Vec::new(),
            is_state_replaced: false,
        }
    }

    /// Whether another turn would do something at once.
    pub fn is_busy(&self) -> bool {
        self.behind || !self.reads_new.is_empty()
    }

    /// Whether reads wait for a turn that nothing else brings about.
    pub fn has_lost_reads(&self) -> bool {
        !self.reads_lost.is_empty()
    }

    pub fn hear(&mut self, node: &mut Node, conn: Conn, ask: Ask) {
        if !self.is_open && !matches!(ask, Ask::Close) {
            self.out.push((conn, Say::Closed));
            return;
        }
        match ask {
            Ask::Propose(op, kind, request) => match node.propose(kind, &request) {
                Ok(id) => {
                    self.proposed.push(id);
                    self.proposals.insert(id, (conn, op));
                }
                Err(_) => self.out.push((conn, Say::Refused(op))),
            },
            Ask::Read(op, read, true) => self.answer_read(node, conn, op, &read),
            Ask::Read(op, read, false) => self.reads_new.push((conn, op, read)),
            Ask::Renew(op, lease) => {
                self.renewals.insert(node.renew_lease(LeaseId(lease)), (conn, op));
            }
            Ask::Watch { id, wanted, start } => {
                let revision = node.applier.mvcc.current_revision();
                let slot = self.hub.create(
                    NewWatcher {
                        stream: conn,
                        id,
                        range: KeyRange::new(wanted.key, wanted.range_end),
                        start_revision: start,
                        no_put: wanted.no_put,
                        no_delete: wanted.no_delete,
                        prev_kv: wanted.prev_kv,
                        fragment: false,
                    },
                    revision,
                );
                self.streams.entry(conn).or_default().watchers.insert(id, Some(slot));
                self.behind |= self.hub.unsynced() > 0;
                self.out.push((conn, Say::Created { id, revision }));
            }
            Ask::Unwatch { id } => {
                if let Some(stream) = self.streams.get_mut(&conn)
                    && let Some(slot) = stream.watchers.remove(&id)
                {
                    slot.into_iter().for_each(|slot| self.hub.cancel(slot));
                    self.out.push((conn, Say::Unwatched { id }));
                }
            }
            Ask::Progress => {
                let Some(stream) = self.streams.get(&conn) else { return };
                let slots = stream.watchers.values();
                let synced = !stream.watchers.is_empty()
                    && slots.clone().all(Option::is_some)
                    && self.hub.all_synced(slots.flatten().copied());
                if synced {
                    self.out.push((conn, Say::Progress { revision: self.hub.notified() }));
                }
            }
            Ask::Close => {
                let stream = self.streams.remove(&conn).unwrap_or_default();
                for slot in stream.watchers.into_values().flatten() {
                    self.hub.cancel(slot);
                }
            }
        }
    }

    /// A message of a stream has reached its client.
    pub fn arrived(&mut self, conn: Conn) {
        if let Some(stream) = self.streams.get_mut(&conn) {
            stream.on_the_way = stream.on_the_way.saturating_sub(1);
            self.behind |= self.hub.unsynced() > 0;
        }
    }

    /// Before the node's turn: one question for all reads since the last.
    pub fn before_turn(&mut self, node: &mut Node) {
        self.reads_new.append(&mut self.reads_lost);
        if !self.reads_new.is_empty() {
            let read = node.read();
            self.reads_asked.push_back((read, std::mem::take(&mut self.reads_new)));
        }
    }

    pub fn after_turn(&mut self, node: &mut Node, output: &mut Output) {
        self.is_open |= node.is_ready();
        for outcome in output.outcomes.drain(..) {
            self.finish(node, outcome);
        }
        for (id, _) in output.refusals.drain(..) {
            if let Some((conn, op)) = self.proposals.remove(&id) {
                self.refused.push(id);
                self.out.push((conn, Say::Refused(op)));
            }
        }
        output.transferred.clear();
        for notice in output.notices.drain(..) {
            if notice == Notice::StateReplaced {
                self.hub.replaced(node.applier.mvcc.current_revision());
                self.is_state_replaced = true;
            }
        }
        for (number, answer) in output.lease_answers.drain(..) {
            let Some((conn, op)) = self.renewals.remove(&number) else { continue };
            match answer {
                LeaseAnswer::Renewed { ttl_s } => self.out.push((conn, Say::Renewed(op, ttl_s))),
                LeaseAnswer::TimeToLive { .. } => panic!("nobody asked for a time to live"),
                LeaseAnswer::Lost => self.out.push((conn, Say::Refused(op))),
            }
        }
        for context in output.lost_reads.drain(..) {
            self.reads_repeated += 1;
            let reads = self.take_asked(context);
            self.reads_lost.extend(reads);
        }
        for context in output.reads.drain(..) {
            for (conn, op, read) in self.take_asked(context) {
                self.answer_read(node, conn, op, &read);
            }
        }
        self.feed_watchers(node);
    }

    fn take_asked(&mut self, context: u64) -> Vec<(Conn, OpId, Read)> {
        let at = self.reads_asked.iter().position(|(asked, _)| *asked == context);
        at.and_then(|at| self.reads_asked.remove(at)).map(|(_, reads)| reads).unwrap_or_default()
    }

    fn finish(&mut self, node: &Node, outcome: Outcome) {
        let Some((conn, op)) = self.proposals.remove(&outcome.id) else { return };
        let result = match outcome.result {
            Ok(reply) => Ok((reply.revision, reply.body)),
            Err(error) => match refused(&error) {
                Some(refused) => Err(refused),
                None => panic!("an answer that no client of this simulator can get: {error}"),
            },
        };
        let index = node.applier.applied_index();
        self.out.push((conn, Say::Told(op, Told::Applied { id: outcome.id, index, result })));
    }

    fn answer_read(&mut self, node: &Node, conn: Conn, op: OpId, read: &Read) {
        let (applier, mut body) = (&node.applier, Vec::new());
        let result = match read {
            Read::Range(request) => {
                applier.mvcc.range(applier.store.view(), request, &mut body).map(|outcome| {
                    let rest = RangeResponse {
                        more: outcome.more,
                        count: outcome.count,
                        ..RangeResponse::default()
                    };
                    rest.encode(&mut body).expect("a vector grows");
                    (outcome.revision, body)
                })
            }
            Read::Txn(request) => applier
                .mvcc
                .reader(applier.store.view())
                .read_txn(request)
                .map(|reply| (reply.revision, reply.body)),
        };
        let result = result
            .map_err(|error| refused(&ApplyError::Mvcc(error)).expect("a read of a sound store"));
        let index = applier.applied_index();
        self.out.push((conn, Say::Told(op, Told::Read { index, result })));
    }

    fn feed_watchers(&mut self, node: &Node) {
        let applier = &node.applier;
        let reader = applier.mvcc.reader(applier.store.view());
        let mut sink = Streams { streams: &mut self.streams, out: &mut self.out };
        self.hub.notify(reader, &mut sink).expect("a sound store");
        self.behind = self.hub.catch_up(reader, &mut sink).expect("a sound store");
    }
}

struct Streams<'a> {
    streams: &'a mut BTreeMap<Conn, Stream>,
    out: &'a mut Vec<(Conn, Say)>,
}

impl Sink for Streams<'_> {
    fn ready(&mut self, conn: Conn) -> bool {
        self.streams.get(&conn).is_some_and(|stream| stream.on_the_way < STREAM_MAX)
    }

    fn events(&mut self, conn: Conn, id: i64, _: bool, revision: i64, events: &[&[u8]]) {
        if let Some(stream) = self.streams.get_mut(&conn) {
            stream.on_the_way += 1;
        }
        self.out.push((conn, Say::Events { id, revision, events: events.concat() }));
    }

    fn compacted(&mut self, conn: Conn, id: i64, compact: i64) {
        if let Some(stream) = self.streams.get_mut(&conn) {
            stream.watchers.insert(id, None);
        }
        self.out.push((conn, Say::Compacted { id, compact }));
    }
}

/// What a client is told of an error; none where it hears of damage.
fn refused(error: &ApplyError) -> Option<Refused> {
    Some(match error {
        ApplyError::LeaseNotFound | ApplyError::Mvcc(MvccError::LeaseNotFound) => {
            Refused::LeaseNotFound
        }
        ApplyError::LeaseExists => Refused::LeaseExists,
        ApplyError::LeaseTtlTooLarge => Refused::LeaseTtlTooLarge,
        ApplyError::NoSpace => Refused::NoSpace,
        ApplyError::Corrupt => Refused::Corrupt,
        ApplyError::Mvcc(MvccError::Compacted) => Refused::Compacted,
        ApplyError::Mvcc(MvccError::FutureRevision) => Refused::FutureRevision,
        ApplyError::Mvcc(MvccError::KeyNotFound) => Refused::KeyNotFound,
        ApplyError::Change(error) => match error {
            ChangeError::NotFound => Refused::MemberNotFound,
            ChangeError::IdExists => Refused::MemberExists,
            ChangeError::IdRemoved => Refused::MemberRemoved,
            ChangeError::NotLearner => Refused::NotLearner,
            ChangeError::Impossible => Refused::NoVoterLeft,
            ChangeError::PeerUrlExists => return None,
        },
        ApplyError::Mvcc(_) | ApplyError::Auth(_) => return None,
    })
}
