//! The cluster and its fate.

use std::collections::HashSet;

use bytes::Bytes;

use crate::raft::random::Random;
use crate::raft::{
    Body, ChangeStep, ConfChange, Config, Configuration, LogIndex, LogPosition, Mark, Message,
    NodeId, Raft, Term, Transition,
};

use super::checks::Checks;
use super::member::Member;

/// Short, so that a run sees many elections.
const ELECTION_TICKS: u32 = 4;
/// The longest that a member waits for a leader.
const ELECTION_TIMEOUT_MAX: u32 = 2 * ELECTION_TICKS;

/// Drawn anew for each seed, so that a seed may have none of a kind, or little else.
struct Odds {
    loss: u64,
    repeat: u64,
    reorder: u64,
    late_ready: u64,
    burst: u64,
    /// Messages on their way; beyond, some are lost.
    network_max: usize,
    /// A cut stops what is sent from now on; otherwise also what is on its way.
    cut_spares_old: bool,
    weights: [u64; Action::ALL.len()],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Action {
    Tick,
    Deliver,
    Disk,
    Propose,
    Read,
    Crash,
    Restart,
    Checkpoint,
    Transfer,
    Change,
    Cut,
    Heal,
    SnapshotEnd,
    Unreachable,
    Campaign,
}

impl Action {
    const ALL: [Action; 15] = [
        Action::Tick,
        Action::Deliver,
        Action::Disk,
        Action::Propose,
        Action::Read,
        Action::Crash,
        Action::Restart,
        Action::Checkpoint,
        Action::Transfer,
        Action::Change,
        Action::Cut,
        Action::Heal,
        Action::SnapshotEnd,
        Action::Unreachable,
        Action::Campaign,
    ];

    /// The greatest weight it is drawn with.
    fn weight_max(self) -> u64 {
        match self {
            Action::Tick => 600,
            Action::Deliver => 1000,
            Action::Disk => 1500,
            Action::Propose => 200,
            Action::Read => 100,
            Action::Restart => 30,
            Action::Checkpoint | Action::SnapshotEnd => 30,
            Action::Change => 30,
            Action::Heal => 12,
            Action::Crash | Action::Transfer | Action::Campaign => 25,
            Action::Unreachable => 8,
            Action::Cut => 6,
        }
    }

    /// Without these there is no run at all.
    fn weight_min(self) -> u64 {
        match self {
            Action::Tick => 60,
            Action::Deliver => 400,
            Action::Disk => 100,
            Action::Propose => 50,
            Action::Restart | Action::SnapshotEnd | Action::Heal => 4,
            _ => 0,
        }
    }
}

pub(super) struct World {
    random: Random,
    odds: Odds,
    members: Vec<Member>,
    network: Vec<Message>,
    cut: HashSet<(NodeId, NodeId)>,
    pub(super) checks: Checks,
    pub(super) trace: Vec<u64>,
    pub(super) marks: Vec<u64>,
    pub(super) reads_answered: u64,
    pub(super) crashes: u64,
    proposals: u64,
}

impl World {
    pub(super) fn new(seed: u64) -> World {
        let mut random = Random::new(seed.wrapping_mul(0x5851_f42d_4c95_7f2d));
        let percent = |random: &mut Random, max| match random.below(3) {
            0 => 0,
            _ => random.below(max),
        };
        let odds = Odds {
            loss: percent(&mut random, 30),
            repeat: percent(&mut random, 30),
            reorder: percent(&mut random, 100),
            late_ready: percent(&mut random, 70),
            burst: 1 + random.below(12),
            network_max: 10 + random.below(100) as usize,
            cut_spares_old: random.below(2) == 0,
            weights: Action::ALL.map(|action| {
                let spread = action.weight_max() - action.weight_min();
                action.weight_min()
                    + match random.below(6) {
                        0 | 1 => 0,
                        2..=4 => random.below(spread),
                        _ => random.below(5 * spread),
                    }
            }),
        };

        let voters = [3, 3, 5, 1][random.below(4) as usize];
        let configuration = Configuration::of_voters((1..=voters).map(NodeId));
        let begin = LogPosition { index: LogIndex(1), term: Term(1) };
        let apply_unpersisted = random.below(2) == 0;
        let members = (1..=voters + 2)
            .map(|id| {
                let mut config = Config::new(NodeId(id));
                config.election_ticks = ELECTION_TICKS;
                config.seed = seed;
                config.apply_unpersisted = apply_unpersisted;
                config.append_bytes_max = 1 + random.below(600) as usize;
                config.inflight_appends_max = 1 + random.below(6) as usize;
                config.inflight_bytes_max = 1 + random.below(3000) as usize;
                config.uncommitted_bytes_max = 500 + random.below(4000) as usize;
                config.committed_bytes_max = 1 + random.below(1000) as usize;
                config.log_bytes_max = random.below(4000) as usize;
                config.reads_max = 1 + random.below(20) as usize;
                if id <= voters {
                    Member::new(config, configuration.clone(), begin)
                } else {
                    Member::new(config, Configuration::default(), LogPosition::default())
                }
            })
            .collect();
        World {
            random,
            odds,
            members,
            network: Vec::new(),
            cut: HashSet::new(),
            checks: Checks::default(),
            trace: Vec::new(),
            marks: vec![0; Mark::ALL.len()],
            reads_answered: 0,
            crashes: 0,
            proposals: 0,
        }
    }

    fn chance(&mut self, percent: u64) -> bool {
        self.random.below(100) < percent
    }

    fn pick_action(&mut self) -> Action {
        let mut ticket = self.random.below(self.odds.weights.iter().sum());
        for (action, &weight) in Action::ALL.iter().zip(&self.odds.weights) {
            if ticket < weight {
                return *action;
            }
            ticket -= weight;
        }
        Action::Tick
    }

    pub(super) fn step(&mut self) {
        let action = self.pick_action();
        let place = self.random.below(self.members.len() as u64) as usize;
        let place = match action {
            Action::Deliver => {
                for _ in 0..self.random.below(self.odds.burst) {
                    if let Some(place) = self.deliver_any() {
                        self.turn_in_time(place);
                    }
                }
                match self.deliver_any() {
                    Some(place) => place,
                    None => return,
                }
            }
            // Most of these go where they have a chance, and some where somebody was deposed
            // and does not know.
            Action::Propose
            | Action::Read
            | Action::Change
            | Action::Transfer
            | Action::SnapshotEnd => match self.random.below(8) {
                0 | 1 => place,
                2 | 3 => self.deposed().unwrap_or(place),
                _ => self.leader().unwrap_or(place),
            },
            _ => place,
        };
        self.act(action, place);
        self.trace.push((action as u64) << 8 | place as u64);

        self.turn_in_time(place);
    }

    /// A caller that is busy does not ask for work after each input.
    fn turn_in_time(&mut self, place: usize) {
        let late = self.odds.late_ready;
        if !self.chance(late) {
            self.turn(place);
        }
        self.checks.after_step(&self.members[place], &self.members);
    }

    fn leader(&self) -> Option<usize> {
        (0..self.members.len()).max_by_key(|&place| self.members[place].leads_in())
    }

    /// Who thinks to lead, and is the last of those.
    fn deposed(&self) -> Option<usize> {
        let leads = |&place: &usize| self.members[place].leads_in().is_some();
        (0..self.members.len()).filter(leads).min_by_key(|&place| self.members[place].leads_in())
    }

    fn turn(&mut self, place: usize) {
        let (messages, answered) = self.members[place].turn(&mut self.checks);
        self.reads_answered += answered as u64;
        let (cut, spares_old) = (&self.cut, self.odds.cut_spares_old);
        let gone = |message: &Message| spares_old && cut.contains(&(message.from, message.to));
        self.network.extend(messages.into_iter().filter(|message| !gone(message)));
    }

    fn act(&mut self, action: Action, place: usize) {
        let other = NodeId(self.random.below(self.members.len() as u64) + 1);
        let floor = self.members.iter().map(Member::commit).max().unwrap_or_default();
        let member = &mut self.members[place];
        match action {
            Action::Deliver => {}
            Action::Tick => member.raft.iter_mut().for_each(Raft::tick),
            Action::Disk => member.disk_completes(&self.checks),
            Action::Read => member.read(floor),
            Action::Checkpoint => member.checkpoint(self.random.below(12)),
            Action::Campaign => member.raft.iter_mut().for_each(Raft::campaign),
            Action::Restart if member.raft.is_none() => member.start(),
            Action::Restart => {}
            Action::Crash => self.crash(place),
            Action::Propose => {
                self.proposals += 1;
                let length = 8 + self.random.below(80) as usize;
                let mut data = self.proposals.to_le_bytes().to_vec();
                data.resize(length, 7);
                if let Some(raft) = &mut member.raft {
                    let _ = raft.propose(data.into());
                }
            }
            Action::Change => self.change(place),
            Action::Transfer => {
                if let Some(raft) = &mut member.raft {
                    let _ = raft.transfer_leadership(other);
                }
            }
            Action::Unreachable => {
                if let Some(raft) = &mut member.raft {
                    raft.unreachable(other);
                }
            }
            Action::SnapshotEnd => {
                let arrived = self.random.below(2) == 0;
                if let Some(raft) = &mut member.raft {
                    raft.snapshot_finished(other, arrived);
                }
            }
            Action::Cut => self.cut_somewhere(place, other),
            Action::Heal => self.cut.clear(),
        }
    }

    fn crash(&mut self, place: usize) {
        let member = &mut self.members[place];
        let kept = self.random.below(member.disk.pending.len() as u64 + 1) as usize;
        let parts = self.random.below(member.disk.parts_after(kept) as u64 + 1) as usize;
        if let Some(raft) = member.crash(kept, parts, &self.checks) {
            self.crashes += 1;
            self.collect_marks(&raft);
        }
    }

    fn collect_marks(&mut self, raft: &Raft) {
        for (mark, count) in raft.marks() {
            self.marks[mark as usize] += count;
        }
    }

    /// One direction of a link, a link, or a member from all others.
    fn cut_somewhere(&mut self, place: usize, other: NodeId) {
        let id = self.members[place].id;
        match self.random.below(3) {
            0 => {
                self.cut.insert((id, other));
            }
            1 => self.cut.extend([(id, other), (other, id)]),
            _ => {
                for peer in &self.members {
                    self.cut.extend([(id, peer.id), (peer.id, id)]);
                }
            }
        }
    }

    fn change(&mut self, place: usize) {
        let mut change = ConfChange {
            transition: [
                Transition::Auto,
                Transition::Auto,
                Transition::JointImplicit,
                Transition::JointExplicit,
            ][self.random.below(4) as usize],
            // 0 is a change that the application refuses.
            context: vec![self.random.below(8) as u8].into(),
            ..ConfChange::default()
        };
        let steps = [1, 1, 2, 3, 0][self.random.below(5) as usize];
        for _ in 0..steps {
            let id = NodeId(self.random.below(self.members.len() as u64) + 1);
            change.steps.push(match self.random.below(5) {
                0 => ChangeStep::Remove(id),
                1 => ChangeStep::AddLearner(id),
                _ => ChangeStep::AddVoter(id),
            });
        }
        if let Some(raft) = &mut self.members[place].raft {
            let _ = raft.propose_conf_change(&change);
        }
    }

    /// Takes a message off the network, and returns who got it.
    fn deliver_any(&mut self) -> Option<usize> {
        if self.network.is_empty() {
            return None;
        }
        while self.network.len() > self.odds.network_max {
            let place = self.random.below(self.network.len() as u64) as usize;
            self.network.remove(place);
        }
        let reorder = self.odds.reorder;
        let place = match self.chance(reorder) {
            true => self.random.below(self.network.len() as u64) as usize,
            false => 0,
        };
        let (loss, repeat) = (self.odds.loss, self.odds.repeat);
        let message = match self.chance(repeat) {
            true => self.network[place].clone(),
            false => self.network.remove(place),
        };
        let is_cut = self.cut.contains(&(message.from, message.to));
        if self.chance(loss) || (is_cut && !self.odds.cut_spares_old) {
            return None;
        }
        Some(self.deliver(message))
    }

    fn deliver(&mut self, message: Message) -> usize {
        let place = message.to.0 as usize - 1;
        self.trace.push(message.from.0 << 32 | message.term.0);
        if let Some(raft) = &mut self.members[place].raft
            && let Err(error) = raft.step(message)
        {
            panic!("member {}: {error}", self.members[place].id);
        }
        place
    }

    /// Everything works from now on. Within 10 election timeouts there is a leader that commits,
    /// and soon all that belong to the cluster are in the same state.
    pub(super) fn heal_and_settle(&mut self) {
        self.cut.clear();
        for member in &mut self.members {
            if member.raft.is_none() {
                member.start();
            }
        }
        let goal = self.members.iter().map(Member::commit).max().unwrap_or_default();
        let mut patience = 10 * ELECTION_TIMEOUT_MAX;
        while !self.is_led_beyond(goal) {
            assert!(patience > 0, "no progress within 10 election timeouts: {}", self.describe());
            patience -= 1;
            for raft in self.members.iter_mut().filter_map(|member| member.raft.as_mut()) {
                let _ = raft.propose(Bytes::from_static(b"anything"));
            }
            self.round();
        }
        // A stream that broke before is only missed at the next answer.
        for _ in 0..10 * ELECTION_TIMEOUT_MAX {
            self.round();
        }

        let leader = self.leader().expect("there are members");
        let led = &self.members[leader];
        let configuration = &led.state.configuration;
        for member in self.members.iter().filter(|member| configuration.contains(member.id)) {
            assert_eq!(member.state, led.state, "{}", self.describe());
        }
        assert!(!configuration.is_joint() || !configuration.auto_leave, "{}", self.describe());
        let rafts: Vec<Raft> = self.members.iter_mut().filter_map(|m| m.raft.take()).collect();
        for raft in &rafts {
            self.collect_marks(raft);
        }
    }

    fn is_led_beyond(&self, goal: LogIndex) -> bool {
        self.members.iter().any(|member| {
            let Some(raft) = &member.raft else { return false };
            raft.is_leader()
                && raft.commit_index() > goal
                && raft.term_at(raft.commit_index()) == Some(raft.term())
        })
    }

    /// One tick for all; every disk and every message is fast.
    fn round(&mut self) {
        for place in 0..self.members.len() {
            self.members[place].raft.iter_mut().for_each(Raft::tick);
            self.turn(place);
        }
        for _ in 0..50 {
            for place in 0..self.members.len() {
                while !self.members[place].disk.pending.is_empty() {
                    self.members[place].disk_completes(&self.checks);
                }
                self.turn(place);
                self.checks.after_step(&self.members[place], &self.members);
            }
            for message in std::mem::take(&mut self.network) {
                let (from, to) = (message.from, message.to);
                let is_snapshot = matches!(message.body, Body::Snapshot { .. });
                let place = self.deliver(message);
                self.turn(place);
                self.checks.after_step(&self.members[place], &self.members);
                if is_snapshot && let Some(raft) = &mut self.members[from.0 as usize - 1].raft {
                    raft.snapshot_finished(to, true);
                }
            }
        }
        // Streams of before that nobody carries any more.
        for place in 0..self.members.len() {
            if let Some(raft) = &mut self.members[place].raft {
                for other in raft.status().members {
                    raft.snapshot_finished(other.id, false);
                }
            }
        }
    }

    fn describe(&self) -> String {
        let rafts = self.members.iter().filter_map(|member| member.raft.as_ref());
        rafts.map(|raft| format!("\n{:?}", raft.status())).collect()
    }
}
