//! The faults of a run: each kind that the seed gives a weight, at times that it draws.

use ringd::membership::{self, Change};
use ringd::node::PeerMessage;
use ringd::raft::{Body, LogPosition, Message, NodeId, Term};

use crate::member::{ELECTION_MS, Input, Member};
use crate::odds::Fault;
use crate::trace::What;
use crate::world::{Event, World};

impl World {
    pub fn next_fault(&mut self) {
        if self.is_healed {
            return;
        }
        let weights = std::mem::take(&mut self.odds.fault_weights);
        let fault = Fault::ALL[self.nemesis.weighted(&weights)];
        self.odds.fault_weights = weights;
        self.inflict(fault);
        let next_us = self.now_us + 1 + self.nemesis.around(self.odds.fault_every_us);
        self.plan(next_us, 0, Event::Fault);
    }

    fn any_member(&mut self) -> u64 {
        let ids = self.member_ids();
        ids[self.nemesis.index(ids.len())]
    }

    /// The leader half of the time, since that is where most hangs on it.
    fn victim(&mut self) -> u64 {
        match self.laws.last_leader() {
            Some((_, leader)) if self.nemesis.one_in(2) => leader,
            _ => self.any_member(),
        }
    }

    pub fn inflict(&mut self, fault: Fault) {
        if self.is_healed {
            return;
        }
        let ids = self.member_ids();
        let alone = ids.len() == 1;
        let id = self.victim();
        let done = match fault {
            Fault::Crash => self.crash(id),
            Fault::CrashAll => {
                let crashed: Vec<bool> = ids.iter().map(|id| self.crash(*id)).collect();
                crashed.contains(&true)
            }
            Fault::Pause => self.pause(id),
            Fault::Split if !alone => {
                let half: Vec<u64> =
                    ids.iter().copied().filter(|_| self.nemesis.one_in(2)).collect();
                let across = |from: &u64, to: &u64| half.contains(from) != half.contains(to);
                self.cut_where(across)
            }
            Fault::Isolate if !alone => self.cut_off(id),
            Fault::Link | Fault::OneWay if !alone => {
                let other = self.any_member();
                let both = fault == Fault::Link;
                let is_it = |from: &u64, to: &u64| {
                    (*from, *to) == (id, other) || (both && (*from, *to) == (other, id))
                };
                self.cut_where(is_it)
            }
            Fault::Outsider if !alone => {
                // When it no longer holds to its leader.
                self.plan(self.now_us + OUTSIDER_US, id, Event::Outsider);
                self.cut_off(id)
            }
            Fault::Split | Fault::Isolate | Fault::Link | Fault::OneWay | Fault::Outsider => false,
            Fault::DiskStall => {
                let until_us = self.now_us + self.nemesis.around(self.odds.pause_us);
                let Some(member) = self.members.get_mut(&id) else { return };
                member.stalled_until_us = until_us;
                member.process.is_some()
            }
            Fault::DiskError => {
                let Some(member) = self.members.get_mut(&id) else { return };
                member.fails_next = member.process.is_some();
                member.fails_next
            }
            Fault::DiskFull => {
                let until_us = self.now_us + self.nemesis.around(self.odds.down_us);
                let Some(member) = self.members.get_mut(&id) else { return };
                member.log_disk.is_full = true;
                member.store_disk.is_full = true;
                self.plan(until_us, id, Event::DiskHasRoom);
                true
            }
            Fault::Transfer => self.transfer(),
            Fault::Add => self.add(),
            Fault::Promote => self.promote(),
            Fault::Remove => self.remove(id),
            Fault::Defragment => {
                let Some(member) = self.members.get_mut(&id) else { return };
                member.process.as_mut().is_some_and(|process| {
                    process.node.start_defragment();
                    true
                })
            }
        };
        let is_change = matches!(fault, Fault::Add | Fault::Promote | Fault::Remove);
        if done && is_change && self.nemesis.one_in(2) {
            // Some members have applied the change by then, and others have not heard of it.
            let at_us = self.now_us + self.nemesis.around(STRIKE_US);
            self.plan(at_us, 0, Event::Strike);
        }
        if done {
            self.trace.note(self.now_us, id, What::Fault(fault));
            *self.faults.entry(fault).or_default() += 1;
        }
    }

    pub fn strike(&mut self) {
        if let Some((_, leader)) = self.laws.last_leader().filter(|_| !self.is_healed) {
            self.crash(leader);
        }
    }

    fn crash(&mut self, id: u64) -> bool {
        if self.members.get(&id).is_none_or(|member| member.process.is_none()) {
            return false;
        }
        self.stop(id);
        let down_us = self.nemesis.around(self.odds.down_us);
        self.plan(self.now_us + down_us, id, Event::Start);
        true
    }

    fn pause(&mut self, id: u64) -> bool {
        let until_us = self.now_us + self.nemesis.around(self.odds.pause_us);
        let process = self.members.get_mut(&id).and_then(|member| member.process.as_mut());
        let Some(process) = process else { return false };
        process.paused_until_us = process.paused_until_us.max(until_us);
        true
    }

    fn cut_off(&mut self, id: u64) -> bool {
        self.cut_where(|from, to| (*from == id) != (*to == id))
    }

    fn cut_where(&mut self, is_cut: impl Fn(&u64, &u64) -> bool) -> bool {
        let ids = self.member_ids();
        let mut links = Vec::new();
        for from in &ids {
            for to in ids.iter().filter(|to| *to != from && is_cut(from, to)) {
                links.push((*from, *to));
            }
        }
        self.cut.extend(links.iter().copied());
        let done = !links.is_empty();
        let until_us = self.now_us + self.nemesis.around(self.odds.cut_us);
        self.plan(until_us, 0, Event::Heal(links));
        done
    }

    /// What a cluster does about candidates that do not ask first, as members of other versions would not.
    pub fn ask_as_outsider(&mut self, id: u64) {
        let process = self.members.get(&id).and_then(|member| member.process.as_ref());
        let Some(process) = process.filter(|_| !self.is_healed) else { return };
        let (last, committed) = (LogPosition::default(), LogPosition::default());
        let message = Message {
            from: OUTSIDER,
            to: NodeId(id),
            term: Term(process.node.raft().term().0 + 2),
            body: Body::VoteRequest { last, committed, transfer: false },
        };
        self.input(id, Input::Message(OUTSIDER.0, PeerMessage::Raft(message)));
    }

    fn transfer(&mut self) -> bool {
        let to = NodeId(self.any_member());
        let leads = |member: &&mut Member| {
            member.process.as_ref().is_some_and(|process| process.node.raft().is_leader())
        };
        let Some(leader) = self.members.values_mut().find(leads) else { return false };
        let id = leader.id;
        let process = leader.process.as_mut().expect("it runs");
        let done = process.node.transfer_leadership(to).is_ok();
        self.wake_member(id);
        done
    }

    /// A running member that takes a change of the members.
    fn propose_change(&mut self, change: Change) -> bool {
        let at = self.victim();
        let Some(process) = self.members.get_mut(&at).and_then(|m| m.process.as_mut()) else {
            return false;
        };
        let done = process.node.propose_change(change).is_ok();
        self.wake_member(at);
        done
    }

    fn add(&mut self) -> bool {
        if self.members.len() > MEMBERS_MAX {
            return false;
        }
        let id = self.next_member;
        let member = membership::Member {
            id,
            peer_urls: vec![format!("http://m{id}")],
            is_learner: !self.nemesis.one_in(4),
            ..membership::Member::default()
        };
        if !self.propose_change(Change::Add(member)) {
            return false;
        }
        self.next_member += 1;
        self.members.insert(id, Member::new(id, self.seed, &self.odds, true));
        let at_us = self.now_us + self.nemesis.around(1_000_000);
        self.plan(at_us, id, Event::Start);
        if self.nemesis.one_in(2) {
            let at_us = at_us + self.nemesis.around(2_000_000);
            self.plan(at_us, 0, Event::Promote);
        }
        true
    }

    fn promote(&mut self) -> bool {
        let mut members = self.truth.model.members.iter();
        let Some((&id, _)) = members.find(|(_, is_learner)| **is_learner) else { return false };
        let done = self.propose_change(Change::Promote(id));
        if done && self.nemesis.one_in(2) {
            // It does not hear that it is a voter before it is asked for its vote.
            let mut links = Vec::new();
            for other in self.member_ids().into_iter().filter(|other| *other != id) {
                links.extend([(id, other), (other, id)]);
            }
            self.cut.extend(links.iter().copied());
            let at_us = self.now_us + self.nemesis.around(2 * STRIKE_US);
            self.plan(at_us, 0, Event::Strike);
            self.plan(at_us + 1, 0, Event::Heal(links));
        }
        done
    }

    fn remove(&mut self, id: u64) -> bool {
        self.truth.model.members.len() > 1 && self.propose_change(Change::Remove(id))
    }
}

/// How long after a change of the members the leader crashes, if it does.
const STRIKE_US: u64 = 40_000;

/// A candidate that is no member, and how long after a member was cut off it comes there.
const OUTSIDER: NodeId = NodeId(u64::MAX);
const OUTSIDER_US: u64 = 2 * ELECTION_MS * 1_000;

/// Members at the same time, at most.
const MEMBERS_MAX: usize = 8;
