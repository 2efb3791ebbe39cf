//! The world of one seed: virtual time, members, network, clients, in one thread.
//!
//! A queue of events by time. An input wakes the member that it is for; the member's turn, a
//! little later, takes all inputs that have come, as the reactor's does. After each step of a
//! member the laws are checked, after each batch that it applies its state.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap, HashSet};

use prost::Message;
use ringd::mutants::{self, Mutant};
use ringd::node::{PeerMessage, SnapshotOp, StopReason};
use ringd::proto::etcdserverpb::WatchResponse;
use ringd::raft::NodeId;
use ringd::store::{self, Store};

use crate::client::{Client, InFlight};
use crate::disk::{Done, StoreDisk};
use crate::front::{Ask, Conn, Say};
use crate::history::{History, OpId, Told};
use crate::laws::Laws;
use crate::leases::Leases;
use crate::member::{Input, LEASE_TTL_MIN_S, Member};
use crate::odds::{Fault, Odds};
use crate::random::{Concern, Random};
use crate::shadow::Record;
use crate::trace::{self, Trace, What};
use crate::truth::{Check, Truth};

/// How often an operation of a disk that stalls looks whether it may end.
const STALL_LOOK_US: u64 = 100_000;

pub enum Event {
    Turn,
    LogDone(u64, wal::OpId),
    StoreDone(u64, store::OpId),
    SnapshotDone(u64, SnapshotOp),
    /// From whom, and to which start of the receiver's process.
    Deliver(u64, u64, PeerMessage),
    Ask(Conn, Ask),
    Arrived(Conn),
    Start,
    /// Of the client, not of a member.
    Say(Conn, Say),
    Wake,
    Patience(OpId),
    Fault,
    /// Whoever leads crashes.
    Strike,
    /// The learner that was added becomes a voter.
    Promote,
    /// A candidate that nobody knows asks the member for its vote.
    Outsider,
    Heal(Vec<(u64, u64)>),
    DiskHasRoom,
}

struct Planned {
    at_us: u64,
    number: u64,
    whose: u64,
    /// Apart, since the plan is moved about in its heap.
    event: Box<Event>,
}

impl PartialEq for Planned {
    fn eq(&self, other: &Planned) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Planned {}

impl PartialOrd for Planned {
    fn partial_cmp(&self, other: &Planned) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Planned {
    fn cmp(&self, other: &Planned) -> std::cmp::Ordering {
        (self.at_us, self.number).cmp(&(other.at_us, other.number))
    }
}

pub struct World {
    pub seed: u64,
    pub odds: Odds,
    pub now_us: u64,
    plan: BinaryHeap<Reverse<Planned>>,
    planned: u64,
    pub members: BTreeMap<u64, Member>,
    pub clients: Vec<Client>,
    conns: HashMap<Conn, (u64, u64)>,
    next_conn: Conn,
    /// When the last message of each link arrives, where order is kept.
    arrivals: HashMap<(u64, u64), u64>,
    pub cut: HashSet<(u64, u64)>,
    /// To whom no client connects.
    pub shunned: Option<u64>,
    pub truth: Truth,
    pub history: History,
    pub laws: Laws,
    pub leases: Leases,
    /// Proposals of clients, so that those of members are told apart.
    client_proposals: HashSet<u64>,
    pub trace: Trace,
    pub counts: BTreeMap<&'static str, u64>,
    pub faults: BTreeMap<Fault, u64>,
    /// How often Raft took each of its rare turns.
    pub marks: Vec<u64>,
    network: Random,
    pub nemesis: Random,
    pub crashes: Random,
    turns: Random,
    revoked_seen: usize,
    /// Faults have ended.
    pub is_healed: bool,
    pub clients_stop: bool,
    /// Writes that were sent after this moment and answered.
    pub wrote_since_us: Option<u64>,
    pub new_writes: u64,
    refused_proposals: Vec<u64>,
    pub next_member: u64,
}

impl World {
    pub fn new(seed: u64, odds: Odds) -> World {
        let members =
            (1..=odds.members).map(|id| (id, Member::new(id, seed, &odds, false))).collect();
        let clients = (1..=odds.clients)
            .map(|number| Client::new(number, Random::of(seed, Concern::Clients, number), &odds))
            .collect();
        let mut world = World {
            seed,
            now_us: 0,
            plan: BinaryHeap::new(),
            planned: 0,
            members,
            clients,
            conns: HashMap::new(),
            next_conn: 1,
            arrivals: HashMap::new(),
            cut: HashSet::new(),
            shunned: None,
            truth: Truth::new(odds.members, LEASE_TTL_MIN_S),
            history: History::default(),
            laws: Laws::default(),
            leases: Leases::new(2 * odds.skew_ppm),
            client_proposals: HashSet::new(),
            trace: Trace::new(),
            counts: BTreeMap::new(),
            faults: BTreeMap::new(),
            marks: vec![0; ringd::raft::Mark::ALL.len()],
            network: Random::of(seed, Concern::Network, 0),
            nemesis: Random::of(seed, Concern::Faults, 0),
            crashes: Random::of(seed, Concern::Crashes, 0),
            turns: Random::of(seed, Concern::Turns, 0),
            revoked_seen: 0,
            is_healed: false,
            clients_stop: false,
            wrote_since_us: None,
            new_writes: 0,
            refused_proposals: Vec::new(),
            next_member: odds.members + 1,
            odds,
        };
        for id in world.member_ids() {
            let at_us = world.crashes.below(200_000);
            world.plan(at_us, id, Event::Start);
        }
        for number in 1..=world.odds.clients {
            let at_us = world.crashes.below(500_000);
            world.plan(at_us, number, Event::Wake);
        }
        let first = world.nemesis.around(world.odds.fault_every_us);
        world.plan(first, 0, Event::Fault);
        world
    }

    pub fn member_ids(&self) -> Vec<u64> {
        self.members.keys().copied().collect()
    }

    pub fn count(&mut self, what: &'static str) {
        *self.counts.entry(what).or_default() += 1;
    }

    pub fn plan(&mut self, at_us: u64, whose: u64, event: Event) {
        self.planned += 1;
        let number = self.planned;
        self.plan.push(Reverse(Planned { at_us, number, whose, event: Box::new(event) }));
    }

    /// A check has failed.
    pub fn demand(&self, check: Check) {
        if let Err(complaint) = check {
            panic!("seed {}, at {:.3} s: {complaint}", self.seed, self.now_us as f64 / 1e6);
        }
    }

    pub fn run_until(&mut self, end_us: u64) {
        while self.plan.peek().is_some_and(|Reverse(next)| next.at_us <= end_us) {
            let Some(Reverse(next)) = self.plan.pop() else { break };
            self.now_us = next.at_us;
            self.happen(next.whose, *next.event);
        }
        self.now_us = end_us;
    }

    fn happen(&mut self, whose: u64, event: Event) {
        match event {
            Event::Turn => self.turn_if_due(whose),
            Event::LogDone(incarnation, op) => self.disk_done(whose, incarnation, DiskOp::Log(op)),
            Event::StoreDone(incarnation, op) => {
                self.disk_done(whose, incarnation, DiskOp::Store(op));
            }
            Event::SnapshotDone(incarnation, op) => self.snapshot_done(whose, incarnation, op),
            Event::Deliver(from, start, message) => self.deliver(whose, from, start, message),
            Event::Ask(conn, ask) => self.be_asked(whose, conn, ask),
            Event::Arrived(conn) => self.input(whose, Input::Arrived(conn)),
            Event::Start => self.start(whose),
            Event::Say(conn, say) => self.hear(whose, conn, say),
            Event::Wake => self.wake(whose),
            Event::Patience(op) => self.lose_patience(whose, op),
            Event::Fault => self.next_fault(),
            Event::Strike => self.strike(),
            Event::Promote => self.inflict(Fault::Promote),
            Event::Outsider => self.ask_as_outsider(whose),
            Event::Heal(links) => {
                self.trace.note(self.now_us, 0, What::Heal);
                for link in links {
                    self.cut.remove(&link);
                }
            }
            Event::DiskHasRoom => {
                if let Some(member) = self.members.get_mut(&whose) {
                    member.log_disk.is_full = false;
                    member.store_disk.is_full = false;
                }
            }
        }
    }

    // Members.

    pub fn start(&mut self, id: u64) {
        let World { members, truth, now_us, .. } = self;
        let Some(member) = members.get_mut(&id) else { return };
        if member.process.is_some() {
            return;
        }
        let check = member.start(*now_us, truth);
        let incarnation = member.incarnation;
        let applied =
            member.process.as_ref().map_or(0, |process| process.node.applier.applied_index());
        self.trace.note(self.now_us, id, What::Start { incarnation, applied });
        self.demand(check);
        self.count("starts");
        self.check_laws(id);
        self.plan_turn(id, self.now_us);
    }

    pub fn stop(&mut self, id: u64) {
        self.collect_marks(id);
        let Some(member) = self.members.get_mut(&id) else { return };
        if member.process.is_none() {
            return;
        }
        member.stop(&mut self.crashes);
        self.laws.stopped(id);
        self.trace.note(self.now_us, id, What::Stop);
        let mut broken: Vec<(Conn, u64)> = self
            .conns
            .iter()
            .filter(|(_, (_, member))| *member == id)
            .map(|(conn, (client, _))| (*conn, *client))
            .collect();
        broken.sort_unstable();
        for (conn, client) in broken {
            self.say(conn, client, id, Say::Closed);
        }
    }

    pub fn collect_marks(&mut self, id: u64) {
        if let Some(process) = self.members.get(&id).and_then(|member| member.process.as_ref()) {
            for (mark, count) in process.node.raft().marks() {
                self.marks[mark as usize] += count;
            }
            *self.counts.entry("reads asked again").or_default() += process.front.reads_repeated;
        }
    }

    /// Something has changed for a member that it cannot know of.
    pub fn wake_member(&mut self, id: u64) {
        self.plan_turn(id, self.now_us);
    }

    fn plan_turn(&mut self, id: u64, at_us: u64) {
        let Some(process) = self.members.get_mut(&id).and_then(|m| m.process.as_mut()) else {
            return;
        };
        let at_us = at_us.max(process.paused_until_us);
        if process.turn_at_us.is_none_or(|planned| at_us < planned) {
            process.turn_at_us = Some(at_us);
            self.plan(at_us, id, Event::Turn);
        }
    }

    /// Something has come for a member.
    pub fn input(&mut self, id: u64, input: Input) {
        let busy_us = match self.odds.turn_us {
            0 => 0,
            turn_us => self.turns.below(turn_us),
        };
        let Some(process) = self.members.get_mut(&id).and_then(|m| m.process.as_mut()) else {
            return;
        };
        process.inbox.push_back(input);
        self.plan_turn(id, self.now_us + busy_us);
    }

    fn turn_if_due(&mut self, id: u64) {
        let Some(process) = self.members.get_mut(&id).and_then(|m| m.process.as_mut()) else {
            return;
        };
        if process.turn_at_us != Some(self.now_us) {
            return;
        }
        process.turn_at_us = None;
        if process.paused_until_us > self.now_us {
            let until_us = process.paused_until_us;
            self.plan_turn(id, until_us);
            return;
        }
        self.turn(id);
    }

    fn turn(&mut self, id: u64) {
        let now_us = self.now_us;
        let Some(member) = self.members.get_mut(&id) else { return };
        let now_ms = member.clock.ms(now_us);
        let Some(process) = member.process.as_mut() else { return };
        let inbox = std::mem::take(&mut process.inbox);
        for input in inbox {
            let Some(process) =
                self.members.get_mut(&id).and_then(|member| member.process.as_mut())
            else {
                return;
            };
            match input {
                Input::Message(from, message) => {
                    process.node.receive(NodeId(from), message, now_ms);
                    self.check_laws(id);
                }
                Input::Client(conn, ask) => {
                    process.front.hear(&mut process.node, conn, ask);
                    self.client_proposals.extend(process.front.proposed.drain(..));
                }
                Input::Arrived(conn) => process.front.arrived(conn),
                Input::LogDone(op) => {
                    let log_us = if self.odds.holds_writes { now_us } else { u64::MAX };
                    process.node.log_op_done(op, log_us);
                    self.check_laws(id);
                }
                Input::LogFull(op) => process.node.log_no_space(op),
                Input::StoreDone(op) => process.node.store_op_done(op, now_ms),
                Input::StoreFull(op) => process.node.store_no_space(op, now_ms),
                Input::Snapshot(op, full) => self.snapshot_answer(id, op, full),
            }
        }
        let Some(member) = self.members.get_mut(&id) else { return };
        let Some(process) = member.process.as_mut() else { return };
        process.front.before_turn(&mut process.node);
        process.node.turn(now_ms, &mut process.output).expect("a sound store");
        process.front.after_turn(&mut process.node, &mut process.output);
        self.refused_proposals.append(&mut process.front.refused);
        let raft = process.node.raft();
        let what = What::Turn {
            term: raft.term().0,
            commit: raft.commit_index().0,
            applied: process.node.applier.applied_index(),
            leads: raft.is_leader(),
        };
        self.trace.note(now_us, id, what);
        self.check_laws(id);
        self.send_messages(id);
        self.start_disk_ops(id);
        self.check_state(id);
        let Some(process) = self.members.get_mut(&id).and_then(|m| m.process.as_mut()) else {
            return;
        };
        process.node.background(now_ms).expect("a sound store");
        // Reading a window takes no time here.
        if process.output.scrub_window.take().is_some() {
            process.node.scrub(now_ms);
        }
        self.start_disk_ops(id);
        self.speak(id);
        self.hold_write(id);
        self.plan_next_turn(id);
        self.end_if_asked(id);
    }

    /// What was answered is on its way; the next write of the log may wait for those who ask again.
    fn hold_write(&mut self, id: u64) {
        if !self.odds.holds_writes {
            return;
        }
        let now_us = self.now_us;
        let process = self.members.get_mut(&id).and_then(|member| member.process.as_mut());
        let wait_us = process.and_then(|process| process.node.answers_sent(now_us));
        if let Some(wait_us) = wait_us {
            self.count("writes of the log that were held back");
            self.plan_turn(id, now_us + wait_us.max(1));
        }
    }

    /// A member that was removed ends, and does not come back.
    fn end_if_asked(&mut self, id: u64) {
        let Some(process) = self.members.get(&id).and_then(|m| m.process.as_ref()) else { return };
        match process.node.stop_reason() {
            None => {}
            Some(StopReason::Removed) => {
                self.count("members that ended as they were removed");
                assert!(
                    self.truth.model.removed.contains(&id),
                    "seed {}: member {id} ends, and was not removed",
                    self.seed
                );
                self.retire(id);
            }
            Some(StopReason::Contradiction(error)) => {
                self.demand(Err(format!("member {id}: {error}")));
            }
        }
    }

    pub fn retire(&mut self, id: u64) {
        self.stop(id);
        self.members.remove(&id);
    }

    /// No proposal that was refused is in the log.
    pub fn expect_no_ghosts(&self) {
        for id in &self.refused_proposals {
            let found = self.truth.index_of(*id);
            assert_eq!(found, None, "seed {}: {id:x} was refused, and is committed", self.seed);
        }
    }

    fn plan_next_turn(&mut self, id: u64) {
        let now_us = self.now_us;
        let Some(member) = self.members.get_mut(&id) else { return };
        let now_ms = member.clock.ms(now_us);
        let Some(process) = member.process.as_ref() else { return };
        let deadline_ms = process.node.next_deadline(now_ms);
        let mut at_us = member.clock.when(deadline_ms).max(now_us + 50);
        if process.front.is_busy() {
            at_us = now_us + 50;
        } else if process.front.has_lost_reads() {
            // Nothing hastens them; the server looks every so often.
            at_us = at_us.min(now_us + 20_000);
        }
        self.plan_turn(id, at_us);
    }

    fn check_laws(&mut self, id: u64) {
        let World { members, laws, truth, .. } = self;
        let Some(member) = members.get(&id) else { return };
        let Some(process) = member.process.as_ref() else { return };
        let check = laws.after_step(id, process.node.raft(), truth);
        self.demand(check);
        self.check_revoked();
    }

    /// Leases that the cluster has ended since the last look.
    fn check_revoked(&mut self) {
        while let Some(&(lease, proposal)) = self.truth.revoked.get(self.revoked_seen) {
            self.revoked_seen += 1;
            if self.client_proposals.contains(&proposal) {
                self.leases.revoked(lease);
            } else {
                let check = self.leases.expired(lease, self.now_us);
                self.demand(check);
            }
        }
    }

    fn check_state(&mut self, id: u64) {
        let World { members, truth, .. } = self;
        let Some(process) = members.get_mut(&id).and_then(|m| m.process.as_mut()) else { return };
        let check = process.compare(truth).map_err(|error| format!("member {id}: {error}"));
        self.demand(check);
    }

    // Disks.

    fn start_disk_ops(&mut self, id: u64) {
        let now_us = self.now_us;
        let mut events = Vec::new();
        let Some(member) = self.members.get_mut(&id) else { return };
        let Some(process) = member.process.as_mut() else { return };
        let mut logged = Vec::new();
        let log_us = if self.odds.holds_writes { now_us } else { u64::MAX };
        while let Some((op_id, op)) = process.node.next_log_op(log_us) {
            if let wal::Op::Write { segment, offset, data } = &op {
                let records = Record::of_write(*segment, *offset, data);
                logged.extend(member.shadow.write(op_id, records));
            }
            member.log_disk.start(op_id, op);
            let (least, most) = self.odds.log_write_us;
            let took_us = member.random.between(least, most);
            events.push((now_us + took_us, Event::LogDone(member.incarnation, op_id)));
        }
        while let Some((op_id, op)) = process.node.next_store_op() {
            member.store_disk.start(op_id, op, &mut member.random);
            let (least, most) = self.odds.store_op_us;
            let took_us = member.random.between(least, most);
            events.push((now_us + took_us, Event::StoreDone(member.incarnation, op_id)));
        }
        while let Some(op) = process.node.next_snapshot_op() {
            if let (SnapshotOp::Store(op_id, op), Some(disk)) = (&op, &mut member.incoming) {
                disk.start(*op_id, op.clone(), &mut member.random);
            }
            let (least, most) = self.odds.store_op_us;
            let took_us = member.random.between(least, most);
            events.push((now_us + took_us, Event::SnapshotDone(member.incarnation, op)));
        }
        for (at_us, event) in events {
            self.plan(at_us, id, event);
        }
        for (index, term, entry) in logged {
            let check = self.truth.logged(index, term, entry);
            self.demand(check);
        }
        self.check_revoked();
    }

    fn disk_done(&mut self, id: u64, incarnation: u64, op: DiskOp) {
        let now_us = self.now_us;
        let Some(member) = self.members.get_mut(&id) else { return };
        if member.incarnation != incarnation || member.process.is_none() {
            return;
        }
        if member.stalled_until_us > now_us {
            let again = match op {
                DiskOp::Log(op) => Event::LogDone(incarnation, op),
                DiskOp::Store(op) => Event::StoreDone(incarnation, op),
            };
            // Looked at again from time to time: healing ends a stall early.
            let at_us = member.stalled_until_us.min(now_us + STALL_LOOK_US);
            self.plan(at_us, id, again);
            return;
        }
        if std::mem::take(&mut member.fails_next) {
            if mutants::is_on(Mutant::FailedIsDone) {
                let input = match op {
                    DiskOp::Log(op) => {
                        member.log_disk.lose(op);
                        Input::LogDone(op)
                    }
                    DiskOp::Store(op) => {
                        member.store_disk.lose(op);
                        Input::StoreDone(op)
                    }
                };
                self.input(id, input);
                return;
            }
            // A failed operation ends the process, and nothing else may happen.
            self.count("failed operations of a disk");
            self.stop(id);
            let down_us = self.crashes.around(self.odds.down_us);
            self.plan(now_us + down_us, id, Event::Start);
            return;
        }
        let input = match op {
            DiskOp::Log(op) => {
                self.trace.note(now_us, id, What::LogDone);
                match member.log_disk.complete(op) {
                    Done::Done => {
                        member.shadow.write_done(op);
                        Input::LogDone(op)
                    }
                    Done::NoSpace => Input::LogFull(op),
                }
            }
            DiskOp::Store(op) => {
                self.trace.note(now_us, id, What::StoreDone);
                match member.store_disk.complete(op) {
                    Done::Done => Input::StoreDone(op),
                    Done::NoSpace => Input::StoreFull(op),
                }
            }
        };
        if matches!(input, Input::LogFull(_) | Input::StoreFull(_)) {
            self.count("operations without room on the disk");
        }
        self.input(id, input);
    }

    fn snapshot_done(&mut self, id: u64, incarnation: u64, op: SnapshotOp) {
        let seed = self.seed;
        let Some(member) = self.members.get_mut(&id) else { return };
        if member.incarnation != incarnation || member.process.is_none() {
            return;
        }
        if member.stalled_until_us > self.now_us {
            let at_us = member.stalled_until_us.min(self.now_us + STALL_LOOK_US);
            self.plan(at_us, id, Event::SnapshotDone(incarnation, op));
            return;
        }
        let mut full = false;
        match &op {
            SnapshotOp::Create if member.store_disk.is_full => full = true,
            SnapshotOp::Create => {
                let store_id = member.random.next() ^ seed;
                let image = store::initial_image(&store::Options { store_id });
                member.incoming = Some(StoreDisk::new(image));
            }
            SnapshotOp::Store(op, _) => {
                let is_full = member.store_disk.is_full;
                let disk = member.incoming.as_mut().expect("created before");
                disk.is_full = is_full;
                full = disk.complete(*op) == Done::NoSpace;
            }
            SnapshotOp::Install => {
                member.store_disk = member.incoming.take().expect("created before");
            }
            SnapshotOp::Discard => member.incoming = None,
        }
        self.input(id, Input::Snapshot(op, full));
    }

    /// The process hears that an operation on the file of an arriving state is done.
    fn snapshot_answer(&mut self, id: u64, op: SnapshotOp, full: bool) {
        let now_us = self.now_us;
        let Some(member) = self.members.get_mut(&id) else { return };
        let now_ms = member.clock.ms(now_us);
        let Some(process) = member.process.as_mut() else { return };
        let node = &mut process.node;
        let is_install = op == SnapshotOp::Install;
        match op {
            SnapshotOp::Create if full => node.snapshot_no_space(None),
            SnapshotOp::Create => {
                let (map, len) = member.incoming.as_mut().expect("created").map();
                let store = Store::open(map, len, store::Options::default()).expect("a new store");
                node.snapshot_created(store);
            }
            SnapshotOp::Store(op, _) if full => node.snapshot_no_space(Some(op)),
            SnapshotOp::Store(op, _) => node.snapshot_store_op_done(op),
            SnapshotOp::Install => node.snapshot_installed(now_ms),
            SnapshotOp::Discard => node.snapshot_discarded(),
        }
        if is_install {
            self.count("snapshots installed");
        }
    }

    // The network between members.

    fn send_messages(&mut self, id: u64) {
        let World { members, laws, .. } = self;
        let Some(member) = members.get_mut(&id) else { return };
        let Some(process) = member.process.as_mut() else { return };
        let messages = process.take_messages();
        let mut check = Ok(());
        for (_, message) in &messages {
            check = check.and_then(|()| laws.sent(message, &member.shadow, process.node.raft()));
        }
        self.demand(check);
        for (to, message) in messages {
            self.send(id, to, message);
        }
    }

    fn send(&mut self, from: u64, to: u64, message: PeerMessage) {
        let Some(receiver) = self.members.get(&to) else { return };
        let incarnation = receiver.incarnation;
        if self.cut.contains(&(from, to)) {
            return;
        }
        let Odds { loss, repeat, keeps_order, delay_us: (least, most), late, .. } = self.odds;
        let (loss, repeat, late) = if self.is_healed { (0, 0, 0) } else { (loss, repeat, late) };
        if self.network.permille(loss) {
            self.count("messages lost");
            let kind = trace::kind(&message);
            self.trace.note(self.now_us, to, What::Lost { from, kind });
            return;
        }
        let times = if self.network.permille(repeat) { 2 } else { 1 };
        if times == 2 {
            self.count("messages repeated");
        }
        for _ in 0..times {
            let mut at_us = self.now_us + self.network.between(least, most);
            if self.network.permille(late) {
                self.count("messages late");
                at_us += self.network.around(2_000_000);
            }
            // Each class of messages has a connection of its own.
            let link = (from << 8 | message.class() as u64, to);
            let last = self.arrivals.entry(link).or_default();
            if keeps_order {
                at_us = at_us.max(*last);
            } else if at_us < *last {
                *self.counts.entry("messages out of order").or_default() += 1;
            }
            *last = (*last).max(at_us);
            self.plan(at_us, to, Event::Deliver(from, incarnation, message.clone()));
        }
    }

    fn deliver(&mut self, to: u64, from: u64, start: u64, message: PeerMessage) {
        if self.cut.contains(&(from, to)) {
            return;
        }
        // Raft bears what is sent to a former start of the process. A proposal is one of a connection, which ended
        // with that: a process does not remember what a former one has taken.
        let is_late = self.members.get(&to).is_some_and(|member| member.incarnation != start);
        if is_late && matches!(message, PeerMessage::Propose { .. }) {
            self.count("proposals lost with their connection");
            return;
        }
        self.count("messages delivered");
        let kind = trace::kind(&message);
        let term = match &message {
            PeerMessage::Raft(message) => message.term.0,
            _ => 0,
        };
        self.trace.note(self.now_us, to, What::Deliver { from, kind, term });
        self.input(to, Input::Message(from, message));
    }

    // Clients.

    fn client(&mut self, number: u64) -> &mut Client {
        &mut self.clients[number as usize - 1]
    }

    fn link_us(&mut self) -> u64 {
        let (least, most) = self.odds.delay_us;
        self.network.between(least / 2, most / 2 + 1)
    }

    /// Members' connections are made anew: what is sent from now on waits for nothing that was sent before.
    pub fn reconnect_members(&mut self) {
        let members = &self.members;
        self.arrivals.retain(|(_, to), _| !members.contains_key(to));
    }

    fn in_order(&mut self, link: (u64, u64), at_us: u64) -> u64 {
        let last = self.arrivals.entry(link).or_default();
        *last = (*last).max(at_us);
        *last
    }

    fn ask(&mut self, conn: Conn, member: u64, ask: Ask) {
        let at_us = self.now_us + self.link_us();
        let at_us = self.in_order((1 << 32 | conn, 0), at_us);
        self.plan(at_us, member, Event::Ask(conn, ask));
    }

    fn be_asked(&mut self, id: u64, conn: Conn, ask: Ask) {
        let is_running = self.members.get(&id).is_some_and(|member| member.process.is_some());
        match self.conns.get(&conn) {
            // Nobody listens there.
            Some(&(client, _)) if !is_running => self.say(conn, client, id, Say::Closed),
            _ => self.input(id, Input::Client(conn, ask)),
        }
    }

    /// What a member has to say goes on its way.
    fn speak(&mut self, id: u64) {
        let Some(process) = self.members.get_mut(&id).and_then(|m| m.process.as_mut()) else {
            return;
        };
        for (conn, say) in std::mem::take(&mut process.front.out) {
            if let Some(&(client, _)) = self.conns.get(&conn) {
                self.say(conn, client, id, say);
            }
        }
    }

    fn say(&mut self, conn: Conn, client: u64, member: u64, say: Say) {
        let mut at_us = self.now_us + self.link_us();
        if let Say::Events { .. } = say {
            at_us += self.client(client).reading_us();
            at_us = self.in_order((2 << 32 | conn, 0), at_us);
            self.plan(at_us, member, Event::Arrived(conn));
        }
        let at_us = self.in_order((2 << 32 | conn, 0), at_us);
        self.plan(at_us, client, Event::Say(conn, say));
    }

    fn connect(&mut self, number: u64) {
        let mut ids = self.member_ids();
        ids.retain(|id| Some(*id) != self.shunned);
        let client = &mut self.clients[number as usize - 1];
        let member = ids[client.random.index(ids.len())];
        let conn = self.next_conn;
        self.next_conn += 1;
        client.conn = Some((conn, member));
        let asks = client.resume();
        self.conns.insert(conn, (number, member));
        if !asks.is_empty() {
            self.count("watches resumed");
        }
        for ask in asks {
            self.ask(conn, member, ask);
        }
    }

    pub fn disconnect(&mut self, number: u64) {
        if let Some((conn, member)) = self.client(number).conn.take() {
            self.conns.remove(&conn);
            self.ask(conn, member, Ask::Close);
        }
        if let Some(in_flight) = self.client(number).in_flight.take() {
            self.history.gave_up(in_flight.op);
        }
    }

    fn wake(&mut self, number: u64) {
        if self.client(number).in_flight.is_some() {
            return;
        }
        if self.client(number).conn.is_none() {
            self.connect(number);
        }
        if self.clients_stop {
            return;
        }
        let World { clients, odds, truth, now_us, .. } = self;
        let client = &mut clients[number as usize - 1];
        let ask = client.next(odds, truth, *now_us);
        let (conn, member) = client.conn.expect("connected");
        match &ask {
            Ask::Propose(op, ..) => self.history.wrote(*op),
            Ask::Read(op, read, serializable) => {
                self.history.asked(*op, read.clone(), *serializable);
            }
            _ => {}
        }
        match self.client(number).in_flight.as_ref().map(|in_flight| in_flight.op) {
            Some(op) => {
                let patience_us = self.client(number).patience_us;
                self.plan(self.now_us + patience_us, number, Event::Patience(op));
                self.trace.note(self.now_us, member, What::Asked { client: number, op: op.0 });
            }
            None => self.think(number),
        }
        self.ask(conn, member, ask);
    }

    fn think(&mut self, number: u64) {
        let client = self.client(number);
        let think_us = client.random.around(client.think_us);
        self.plan(self.now_us + think_us + 1, number, Event::Wake);
    }

    /// Takes the request that `op` was, if the client still waits for it.
    fn take_in_flight(&mut self, number: u64, op: OpId) -> Option<InFlight> {
        self.client(number).in_flight.take_if(|in_flight| in_flight.op == op)
    }

    fn lose_patience(&mut self, number: u64, op: OpId) {
        if self.client(number).in_flight.as_ref().is_some_and(|in_flight| in_flight.op == op) {
            self.count("requests given up");
            self.disconnect(number);
            self.think(number);
        }
    }

    /// Something reaches a client.
    fn hear(&mut self, number: u64, conn: Conn, say: Say) {
        if self.client(number).conn.is_none_or(|(present, _)| present != conn) {
            return;
        }
        let what = What::Said { client: number, kind: say.kind() };
        self.trace.note(self.now_us, 0, what);
        match say {
            Say::Told(op, told) => self.told(number, op, &told),
            Say::Renewed(op, ttl_s) => {
                let Some(in_flight) = self.take_in_flight(number, op) else { return };
                // Which of two leases it was that had the id, nobody can tell.
                let is_one = |lease: &i64| ttl_s > 0 && !self.truth.is_granted_again(*lease);
                if let Some(lease) = in_flight.renews.filter(is_one) {
                    let check = self.leases.renewed(lease, ttl_s, in_flight.sent_us);
                    self.demand(check);
                }
                self.think(number);
            }
            Say::Refused(op) => {
                let Some(in_flight) = self.take_in_flight(number, op) else { return };
                self.history.refused(in_flight.op);
                self.count("requests refused");
                if self.client(number).random.one_in(2) {
                    self.disconnect(number);
                }
                let at_us = self.now_us + 100_000;
                self.plan(at_us, number, Event::Wake);
            }
            Say::Closed => {
                self.count("connections broken");
                self.disconnect(number);
                self.think(number);
            }
            say => self.hear_of_watch(number, say),
        }
    }

    fn told(&mut self, number: u64, op: OpId, told: &Told) {
        let Some(in_flight) = self.take_in_flight(number, op) else { return };
        let check = self.history.told(op, told, &self.truth);
        self.demand(check);
        if let Told::Applied { result: Ok(_), .. } = told {
            if self.wrote_since_us.is_some_and(|since_us| in_flight.sent_us >= since_us) {
                self.new_writes += 1;
            }
            if let Some((lease, ttl_s)) = in_flight.grants {
                let ttl_s = ttl_s.max(LEASE_TTL_MIN_S);
                let check = self.leases.granted(lease, ttl_s, in_flight.sent_us, self.now_us);
                self.demand(check);
            }
            if let Some(lease) = in_flight.revokes {
                self.leases.revoked(lease);
            }
        }
        self.think(number);
    }

    fn hear_of_watch(&mut self, number: u64, say: Say) {
        let World { clients, truth, .. } = self;
        let client = &mut clients[number as usize - 1];
        let model = &truth.model;
        let mut check = Ok(());
        let mut events = 0;
        match say {
            Say::Created { id, revision } => {
                if let Some(watching) = client.watching(id) {
                    watching.is_created = true;
                    watching.watch.created(revision);
                }
            }
            Say::Events { id, revision, events: body } => {
                let response = WatchResponse::decode(&body[..]).expect("events");
                events = response.events.len() as u64;
                check = match client.watching(id) {
                    Some(watching) => watching.watch.events(&response.events, revision, model),
                    None => Err(format!("events of a watch that has ended: {response:?}")),
                };
            }
            Say::Progress { revision } => {
                for watching in client.watches.iter_mut().filter(|w| w.is_created) {
                    if watching.start > revision {
                        let start = watching.start;
                        check =
                            Err(format!("progress up to {revision} of a watch from {start} on"));
                    }
                    check = check.and_then(|()| watching.watch.progress(revision, model));
                }
                *self.counts.entry("progress told").or_default() += 1;
            }
            Say::Unwatched { id } => client.watches.retain(|watching| watching.id != id),
            Say::Compacted { id, compact } => {
                if let Some(watching) = client.watching(id) {
                    check = watching.watch.compacted(compact, model);
                }
                *self.counts.entry("watches compacted").or_default() += 1;
                // It begins again at the bound, on a new connection.
                self.demand(check);
                self.disconnect(number);
                let at_us = self.now_us + 1_000;
                self.plan(at_us, number, Event::Wake);
                return;
            }
            _ => {}
        }
        *self.counts.entry("events watched").or_default() += events;
        self.demand(check.map_err(|error| format!("client {number}: {error}")));
    }
}

#[derive(Clone, Copy)]
enum DiskOp {
    Log(wal::OpId),
    Store(store::OpId),
}
