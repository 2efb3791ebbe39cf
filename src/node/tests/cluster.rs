//! Several members, a network that can be cut, and disks that do at once what they are told.

use std::collections::{BTreeSet, VecDeque};

use super::super::limits::VERSION_CHECK_MS;
use super::*;
use crate::membership::{Change, Member};
use crate::proto::etcdserverpb::LeaseGrantRequest;
use crate::proto::membershippb::DowngradeInfoSetRequest;
use crate::raft::NodeId;

pub(super) struct Net {
    pub members: Vec<Bed>,
    wires: VecDeque<(NodeId, NodeId, PeerMessage)>,
    /// Directions in which nothing arrives.
    cut: BTreeSet<(u64, u64)>,
    /// Members whose log is written to a disk that does not answer.
    pub stalled: BTreeSet<u64>,
    /// The offsets of all pieces of states that were sent.
    pieces: Vec<u64>,
    now_ms: u64,
}

fn member(id: u64) -> Member {
    Member { id, peer_urls: vec![format!("http://m{id}")], ..Member::default() }
}

impl Net {
    /// A cluster of the members 1 to `count`, which have all just been started.
    pub fn of(count: u64) -> Net {
        let cluster = Cluster::restore(1, (1..=count).map(member));
        let members = (1..=count).map(|id| Bed::stopped(id, cluster.clone(), false)).collect();
        let (wires, cut, stalled) = (VecDeque::new(), BTreeSet::new(), BTreeSet::new());
        let mut net = Net { members, wires, cut, stalled, pieces: Vec::new(), now_ms: 0 };
        net.members.iter_mut().for_each(Bed::start);
        net
    }

    pub fn bed(&mut self, id: u64) -> &mut Bed {
        self.members.iter_mut().find(|bed| bed.id == id).expect("there is such a member")
    }

    pub fn node(&mut self, id: u64) -> &mut Node {
        self.bed(id).node()
    }

    /// Adds a machine that has not been started.
    pub fn join(&mut self, id: u64) {
        let leader = self.leader();
        let known = self.node(leader).applier.cluster.clone();
        let mut bed = Bed::stopped(id, known, true);
        bed.now_ms = self.now_ms;
        bed.start();
        self.members.push(bed);
    }

    pub fn isolate(&mut self, id: u64) {
        let others: Vec<u64> = self.members.iter().map(|bed| bed.id).collect();
        self.cut.extend(others.iter().flat_map(|other| [(id, *other), (*other, id)]));
    }

    pub fn heal(&mut self) {
        self.cut.clear();
    }

    /// Ends a member's process.
    pub fn stop(&mut self, id: u64) {
        self.bed(id).node = None;
        self.wires.retain(|(from, to, _)| from.0 != id && to.0 != id);
    }

    pub fn start(&mut self, id: u64) {
        let now_ms = self.now_ms;
        let bed = self.bed(id);
        bed.now_ms = now_ms;
        bed.start();
    }

    /// One turn of all, and all disk operations, and everything that is on the wires.
    pub fn step(&mut self) {
        self.now_ms += 10;
        for bed in &mut self.members {
            if bed.node.is_some() {
                bed.now_ms = self.now_ms - 10;
                bed.turn();
                bed.start_log_ops();
                if !self.stalled.contains(&bed.id) {
                    bed.finish_log_write();
                }
                bed.store_op();
                bed.snapshot_op();
                let from = NodeId(bed.id);
                let messages = bed.output.messages.drain(..);
                self.wires.extend(messages.map(|(to, message)| (from, to, message)));
            }
        }
        for (from, to, message) in std::mem::take(&mut self.wires) {
            if let PeerMessage::Snapshot(message::SnapshotMessage::Piece { offset, .. }) = &message
            {
                self.pieces.push(*offset);
            }
            if self.cut.contains(&(from.0, to.0)) {
                continue;
            }
            let now_ms = self.now_ms;
            if let Some(bed) = self.members.iter_mut().find(|bed| bed.id == to.0)
                && let Some(node) = &mut bed.node
            {
                node.receive(from, message, now_ms);
            }
        }
    }

    pub fn run(&mut self, ms: u64) {
        (0..ms / 10).for_each(|_| self.step());
    }

    /// Runs until something is so, for at most 20 seconds.
    pub fn until(&mut self, what: &str, mut is_so: impl FnMut(&mut Net) -> bool) {
        for _ in 0..2000 {
            if is_so(self) {
                return;
            }
            self.step();
        }
        panic!("{what}: it never came to that");
    }

    /// The member that leads the newest term.
    pub fn leader(&mut self) -> u64 {
        self.until("a leader", |net| net.find_leader().is_some());
        self.find_leader().expect("found before")
    }

    pub fn find_leader(&self) -> Option<u64> {
        let running = self.members.iter().filter_map(|bed| Some((bed.id, bed.node.as_ref()?)));
        let newest = running.clone().map(|(_, node)| node.raft().term()).max()?;
        let mut leaders = running
            .filter(|(_, node)| node.raft().is_leader() && node.raft().term() == newest)
            .filter(|(_, node)| node.is_ready());
        leaders.next().map(|(id, _)| id)
    }

    pub fn follower(&mut self) -> u64 {
        let leader = self.leader();
        self.members.iter().map(|bed| bed.id).find(|id| *id != leader).expect("not alone")
    }

    pub fn put(&mut self, at: u64, key: &str, value: &str) -> u64 {
        self.bed(at).put(key, value)
    }

    /// Puts, and waits for the outcome.
    pub fn put_now(&mut self, at: u64, key: &str, value: &str) {
        let id = self.put(at, key, value);
        self.until("the outcome of a put", |net| net.outcome(at, id).is_some_and(|r| r.is_ok()));
    }

    pub fn outcome(
        &mut self,
        at: u64,
        id: u64,
    ) -> Option<Result<crate::apply::Reply, crate::apply::ApplyError>> {
        let outcomes = &mut self.bed(at).output.outcomes;
        let place = outcomes.iter().position(|outcome| outcome.id == id)?;
        Some(outcomes.remove(place).result)
    }

    pub fn change(&mut self, at: u64, change: Change) -> Result<(), String> {
        let id = self.node(at).propose_change(change).map_err(|error| format!("{error:?}"))?;
        let mut result = None;
        self.until("the outcome of a change", |net| {
            if let Some((_, refusal)) = net.bed(at).output.refusals.iter().find(|r| r.0 == id) {
                result = Some(Err(format!("{refusal:?}")));
            } else if let Some(outcome) = net.outcome(at, id) {
                result = Some(outcome.map(drop).map_err(|error| error.to_string()));
            }
            result.is_some()
        });
        result.expect("it ended so")
    }

    /// All running members have applied the same.
    pub fn settle(&mut self) {
        self.until("all members are equal", |net| {
            let mut applied = Vec::new();
            for bed in net.members.iter_mut().filter(|bed| bed.node.is_some()) {
                let node = bed.node();
                if node.stop_reason().is_none() {
                    applied.push((node.raft().commit_index().0, node.applier.applied_index()));
                }
            }
            applied.iter().all(|pair| pair.0 == pair.1 && *pair == applied[0])
        });
    }
}

#[test]
fn any_member_takes_a_put_and_all_apply_it() {
    let mut net = Net::of(3);
    let leader = net.leader();
    let follower = net.follower();
    net.put_now(leader, "a", "1");
    net.put_now(follower, "b", "2");
    net.settle();
    for id in 1..=3 {
        assert_eq!(net.bed(id).get("a", 0).as_deref(), Some("1"));
        assert_eq!(net.bed(id).get("b", 0).as_deref(), Some("2"));
        assert_eq!(net.node(id).pending_proposals(), 0);
    }
}

#[test]
fn a_linearizable_read_at_a_follower_sees_what_the_leader_has_acknowledged() {
    let mut net = Net::of(3);
    let leader = net.leader();
    let follower = net.follower();
    for round in 0..20 {
        let value = format!("{round}");
        net.put_now(leader, "k", &value);
        let read = net.node(follower).read();
        net.until("a read", |net| net.bed(follower).output.reads.contains(&read));
        assert_eq!(net.bed(follower).get("k", 0), Some(value));
    }
}

#[test]
fn without_a_leader_a_put_waits_for_the_next_one() {
    let mut net = Net::of(3);
    let leader = net.leader();
    net.put_now(leader, "k", "old");
    net.stop(leader);
    let survivor = net.members.iter().map(|bed| bed.id).find(|id| *id != leader).unwrap();
    net.until("the loss is noticed", |net| net.node(survivor).raft().leader().is_none());
    let id = net.put(survivor, "k", "new");
    net.until("the outcome", |net| net.outcome(survivor, id).is_some());
    assert_eq!(net.bed(survivor).get("k", 0).as_deref(), Some("new"));
    net.start(leader);
    net.settle();
    assert_eq!(net.bed(leader).get("k", 0).as_deref(), Some("new"));
}

#[test]
fn a_doubled_proposal_is_not_refused_by_a_leader_of_before_that_took_it() {
    let mut net = Net::of(3);
    let leader = net.leader();
    let follower = net.follower();
    net.put(follower, "a", "1");
    // It is taken, its copy is still on its way, and no answer gets back.
    net.cut.extend([(leader, 1), (leader, 2), (leader, 3)]);
    net.bed(follower).turn();
    let sent = &net.bed(follower).output.messages;
    let proposals = sent.iter().find(|(_, m)| matches!(m, PeerMessage::Propose { .. }));
    let (to, copy) = proposals.cloned().expect("a proposal on its way");
    assert_eq!(to.0, leader);
    net.step();
    net.until("it has stepped down", |net| !net.node(leader).raft().is_leader());
    let now_ms = net.now_ms;
    net.node(leader).receive(NodeId(follower), copy, now_ms);
    net.bed(leader).turn();
    let messages = &net.bed(leader).output.messages;
    let refused = messages.iter().any(|(_, m)| matches!(m, PeerMessage::Refused { .. }));
    assert!(!refused, "it may be in the log of the one who refuses it");
}

#[test]
fn a_proposal_that_was_lost_with_its_leader_does_not_stay_for_ever() {
    let mut net = Net::of(3);
    let leader = net.leader();
    let follower = net.follower();
    net.isolate(leader);
    net.put(follower, "k", "lost");
    net.put(leader, "k", "lost as well");
    assert_eq!(net.node(follower).pending_proposals(), 1);
    net.run(8_000);
    for id in 1..=3 {
        assert_eq!(net.node(id).pending_proposals(), 0, "member {id}");
    }
    net.heal();
    net.settle();
    assert_eq!(net.bed(leader).get("k", 0), None);
}

#[test]
fn a_member_that_was_cut_off_comes_back_without_a_new_term() {
    let mut net = Net::of(3);
    let leader = net.leader();
    let follower = net.follower();
    let term = net.node(leader).raft().term();
    net.isolate(follower);
    for round in 0..60 {
        net.put_now(leader, &format!("k{round}"), "v");
        net.run(200);
    }
    net.heal();
    net.settle();
    assert_eq!(net.node(leader).raft().term(), term);
    assert!(net.bed(follower).get("k59", 0).is_some());
}

#[test]
fn a_restarted_cluster_has_what_was_acknowledged() {
    let mut net = Net::of(3);
    for round in 0..5 {
        let follower = net.follower();
        net.put_now(follower, &format!("k{round}"), "v");
        for id in 1..=3 {
            net.stop(id);
        }
        (1..=3).for_each(|id| net.start(id));
        let follower = net.follower();
        net.settle();
        assert!(net.bed(follower).get(&format!("k{round}"), 0).is_some());
    }
}

#[test]
fn what_others_wait_for_goes_out_before_anything_is_applied() {
    let mut net = Net::of(3);
    let leader = net.leader();
    net.settle();
    let put = net.put(leader, "a", "v");
    net.until("a commit", |net| {
        let node = net.node(leader);
        node.raft().commit_index().0 > node.applier.applied_index()
    });
    let now_ms = net.now_ms;
    let node = net.node(leader);
    let (commit, applied) = (node.raft().commit_index(), node.applier.applied_index());
    let mut messages = Vec::new();
    node.begin_turn(now_ms, &mut messages);
    assert!(node.unapplied() > 0 && node.applier.applied_index() == applied);
    let tells = |message: &PeerMessage| match message {
        PeerMessage::Raft(raft::Message {
            body: raft::Body::Append { commit: told, .. }, ..
        }) => *told == commit,
        _ => false,
    };
    assert_eq!(messages.iter().filter(|(_, message)| tells(message)).count(), 2);
    net.until("its outcome", |net| net.outcome(leader, put).is_some());
}

#[test]
fn a_member_that_lags_behind_the_log_gets_the_state_and_goes_on_with_the_log() {
    let mut net = Net::of(3);
    let leader = net.leader();
    let follower = net.follower();
    net.put_now(leader, "before", "v");
    net.stop(follower);
    for round in 0..400 {
        net.put(leader, &format!("k{}", round % 90), &"x".repeat(2000));
        if round % 50 == 0 {
            net.run(30);
        }
    }
    net.run(500);
    assert!(net.node(leader).raft().start_index().0 > 200, "the log was cut");
    net.start(follower);
    net.until("a snapshot", |net| net.node(follower).snapshot_counts().received == 1);
    net.settle();
    assert_eq!(net.node(follower).metadata().member_id, follower);
    let text = net.bed(leader).get("k7", 0);
    assert!(text.is_some() && net.bed(follower).get("k7", 0) == text);
    // It is this member's own from here on: after a start as well, and with what came since.
    net.put_now(follower, "after", "v");
    net.settle();
    net.stop(follower);
    net.start(follower);
    net.settle();
    assert_eq!(net.node(follower).snapshot_counts().received, 0, "it needs no other");
    assert_eq!(net.bed(follower).get("after", 0).as_deref(), Some("v"));
    assert_eq!(net.node(leader).snapshot_counts().sent, 1);
    let by_member = net.node(leader).snapshot_counts_by_member();
    assert_eq!(by_member[&NodeId(follower)].sent, 1);
}

#[test]
fn a_state_arrives_although_its_values_are_more_than_may_be_dirty() {
    // Whether a value arrives while there is a checkpoint, and how far that is, depends on how much may be dirty.
    (1..40).for_each(|n| arrives_with(n * (8 << 10)));
}

fn arrives_with(snapshot_dirty_bytes: u64) {
    let mut net = Net::of(3);
    let leader = net.leader();
    let follower = net.follower();
    net.put_now(leader, "before", "v");
    net.isolate(follower);
    for round in 0..200 {
        let bytes = if round % 40 == 0 { 400_000 } else { 3_000 };
        net.put_now(leader, &format!("k{}", round % 50), &"x".repeat(bytes));
    }
    net.stop(follower);
    net.bed(follower).snapshot_dirty_bytes = snapshot_dirty_bytes;
    net.start(follower);
    // Damage of the state that is replaced is none of the new one's.
    let page = crate::store::PageId(5);
    let damage = Corruption::new(page, "a test says so");
    net.node(follower).report_damage(damage);
    assert!(net.node(follower).background.is_damaged());
    net.heal();
    net.until("a snapshot", |net| net.node(follower).snapshot_counts().received == 1);
    assert!(!net.node(follower).background.is_damaged());
    // It waits for the disk, and nothing is sent again meanwhile.
    let once: BTreeSet<u64> = net.pieces.iter().copied().collect();
    assert!(once.len() > 16, "more than a window");
    assert_eq!(once.len(), net.pieces.len(), "{:?}", net.pieces);
}

#[test]
fn entries_that_cannot_be_applied_do_not_get_into_the_log() {
    let mut net = Net::of(3);
    let leader = net.leader();
    let follower = net.follower();
    net.put_now(leader, "before", "v");
    net.settle();
    let now_ms = net.bed(follower).now_ms;
    let node = net.node(follower);
    let (prev, term) = (node.raft().last_index(), node.raft().term());
    let prev = raft::LogPosition { index: prev, term: node.raft().term_at(prev).unwrap() };
    for kind in [raft::EntryKind::ConfChange, raft::EntryKind::Normal] {
        let index = prev.index.next();
        let entry = raft::Entry { index, term, kind, data: "x".into() };
        let body = raft::Body::Append { prev, commit: index, entries: vec![entry] };
        let message = raft::Message { from: NodeId(leader), to: NodeId(follower), term, body };
        net.node(follower).receive(NodeId(leader), PeerMessage::Raft(message), now_ms);
        assert_eq!(net.node(follower).raft().last_index(), prev.index, "{kind:?}");
    }
    net.put_now(follower, "after", "v");
}

#[test]
fn the_state_of_a_new_leader_does_not_wait_for_that_of_one_that_is_gone() {
    let mut net = Net::of(3);
    let leader = net.leader();
    let follower = net.follower();
    net.put_now(leader, "before", "v");
    net.stop(follower);
    for round in 0..400 {
        net.put(leader, &format!("k{}", round % 90), &"x".repeat(20_000));
        if round % 50 == 0 {
            net.run(30);
        }
    }
    net.run(500);
    net.start(follower);
    net.until("a part of a snapshot", |net| net.node(follower).snapshot_counts().receiving == 1);
    // Writes need the one who lags: there is no other majority.
    net.isolate(leader);
    let gone_ms = net.now_ms;
    net.until("another leader", |net| net.find_leader().is_some_and(|found| found != leader));
    net.until("a snapshot", |net| net.node(follower).snapshot_counts().received == 1);
    let took_ms = net.now_ms - gone_ms;
    assert!(took_ms < super::super::limits::SNAPSHOT_SILENCE_MS / 2, "{took_ms} ms");
}

#[test]
fn a_crash_at_any_step_of_receiving_a_state_leaves_the_old_or_the_new() {
    let mut crashes = 0;
    for step in 0.. {
        let mut net = Net::of(3);
        let leader = net.leader();
        let follower = net.follower();
        net.put_now(leader, "before", "v");
        net.settle();
        net.stop(follower);
        for round in 0..300 {
            net.put(leader, &format!("k{}", round % 50), "v");
        }
        net.run(500);
        net.start(follower);
        let mut steps = 0;
        let is_done = loop {
            net.step();
            let node = net.node(follower);
            if node.snapshot_counts().receiving > 0 {
                steps += 1;
                if steps > step {
                    break false;
                }
            } else if steps > 0 {
                break true;
            }
        };
        if is_done {
            break;
        }
        crashes += 1;
        net.stop(follower);
        net.start(follower);
        let applied = net.node(follower).applier.applied_index();
        let is_between = (50..=200).contains(&applied);
        assert!(!is_between, "step {step}: neither the old nor the new state");
        net.settle();
        assert!(net.bed(follower).get("before", 0).is_some(), "step {step}");
        assert!(net.bed(follower).get("k49", 0).is_some(), "step {step}");
    }
    assert!(crashes > 5, "only {crashes} steps");
}

#[test]
fn a_learner_joins_with_nothing_catches_up_and_is_promoted() {
    let mut net = Net::of(3);
    let leader = net.leader();
    net.put_now(leader, "k", "v");
    net.settle();
    let mut learner = member(9);
    learner.is_learner = true;
    assert_eq!(net.change(leader, Change::Promote(9)), Err("member not found".to_owned()));
    assert_eq!(net.change(leader, Change::Add(learner.clone())), Ok(()));
    assert_eq!(net.change(leader, Change::Add(learner)), Err("member ID already exist".to_owned()));
    assert_eq!(net.change(leader, Change::Promote(9)), Err("LearnerNotReady".to_owned()));
    net.join(9);
    net.settle();
    assert_eq!(net.bed(9).get("k", 0).as_deref(), Some("v"));
    assert!(net.node(9).is_learner());
    // The leader has heard of it.
    net.run(300);
    let follower = net.follower();
    assert_eq!(net.change(follower, Change::Promote(9)), Ok(()));
    net.settle();
    assert!(!net.node(9).is_learner());
    for id in [1, 2, 3, 9] {
        assert!(net.node(id).raft().configuration().is_voter(NodeId(9)), "at {id}");
    }
}

#[test]
fn after_each_change_of_the_members_a_restart_finds_the_same() {
    let mut net = Net::of(3);
    let leader = net.leader();
    let (mut four, mut five) = (member(4), member(5));
    five.is_learner = true;
    four.name = "four".to_owned();
    let moved = Change::UpdatePeerUrls { id: 2, peer_urls: vec!["http://elsewhere".to_owned()] };
    let changes =
        [Change::Add(five), Change::Add(four), moved, Change::Promote(5), Change::Remove(4)];
    net.settle();
    for change in changes {
        let leader = net.leader();
        if net.change(leader, change.clone()).is_err() {
            // The one that was not started can be counted on by nobody.
            assert!(matches!(change, Change::Promote(5)));
        }
        if matches!(change, Change::Add(_)) {
            let id = if net.members.len() == 3 { 5 } else { 4 };
            net.join(id);
        }
        net.settle();
        let running: Vec<u64> = net.members.iter().map(|bed| bed.id).collect();
        for id in running {
            if net.node(id).stop_reason().is_some() {
                continue;
            }
            let configuration = net.node(id).raft().configuration().clone();
            let cluster = net.node(id).applier.cluster.clone();
            net.stop(id);
            net.start(id);
            net.settle();
            assert_eq!(*net.node(id).raft().configuration(), configuration, "{change:?} at {id}");
            assert_eq!(net.node(id).applier.cluster, cluster, "{change:?} at {id}");
        }
    }
    assert!(net.node(leader).applier.cluster.is_removed(4));
}

#[test]
fn a_removed_leader_hands_over_and_hears_that_it_is_out() {
    let mut net = Net::of(3);
    let leader = net.leader();
    net.settle();
    assert_eq!(net.change(leader, Change::Remove(leader)), Ok(()));
    net.until("the end", |net| net.node(leader).stop_reason() == Some(StopReason::Removed));
    net.stop(leader);
    net.members.retain(|bed| bed.id != leader);
    let next = net.leader();
    net.put_now(next, "k", "v");
}

/// Of two members one removes itself or the other. After so many steps the disk of who remains stands
/// still; then who remains crashes, or both, or who is removed. Those that end stay away.
fn one_of_two_is_removed(is_leader: bool, steps: usize, crashes: [bool; 2]) {
    let mut net = Net::of(2);
    let leader = net.leader();
    net.put_now(leader, "k", "old");
    net.settle();
    let removed = if is_leader { leader } else { 3 - leader };
    let remains = 3 - removed;
    let both = [(remains, crashes[0]), (removed, crashes[1])];
    let crashed: Vec<u64> =
        both.iter().filter(|(_, crashes)| *crashes).map(|(id, _)| *id).collect();
    net.node(leader).propose_change(Change::Remove(removed)).unwrap();
    let step = |net: &mut Net| {
        net.step();
        let bed = net.bed(removed);
        if bed.node.as_ref().is_some_and(|node| node.stop_reason() == Some(StopReason::Removed)) {
            net.stop(removed);
            return true;
        }
        false
    };
    let mut has_ended = false;
    for _ in 0..steps {
        has_ended |= step(&mut net);
    }
    // What it does from here on is lost with the crash.
    net.stalled.insert(remains);
    for _ in 0..30 {
        has_ended |= step(&mut net);
    }
    for id in crashed.iter().copied() {
        net.stop(id);
        net.bed(id).log.in_flight = None;
    }
    net.stalled.clear();
    for _ in 0..30 {
        has_ended |= step(&mut net);
    }
    for id in crashed.iter().copied() {
        if id == remains || !has_ended {
            net.start(id);
        }
    }
    net.until("somebody leads", |net| {
        has_ended |= step(net);
        net.find_leader().is_some()
    });
    if has_ended || net.node(remains).applier.cluster.is_removed(removed) {
        net.until("who was removed is told", |net| {
            has_ended |= step(net);
            has_ended
        });
    }
    net.put_now(remains, "k", "new");
}

#[test]
fn a_removed_member_stays_until_those_who_remain_can_do_without_it() {
    for is_leader in [false, true] {
        for crashes in [[true, false], [false, true], [true, true]] {
            (0..25).for_each(|steps| one_of_two_is_removed(is_leader, steps, crashes));
        }
    }
}

#[test]
fn a_member_that_was_removed_while_it_was_away_is_told() {
    let mut net = Net::of(3);
    let leader = net.leader();
    let follower = net.follower();
    net.settle();
    net.isolate(follower);
    assert_eq!(net.change(leader, Change::Remove(follower)), Ok(()));
    net.heal();
    net.until("it hears", |net| net.node(follower).stop_reason() == Some(StopReason::Removed));
    let term = net.node(leader).raft().term();
    net.put_now(leader, "k", "v");
    assert_eq!(net.node(leader).raft().term(), term);
}

#[test]
fn a_change_that_could_cost_the_quorum_is_refused() {
    let mut net = Net::of(3);
    let leader = net.leader();
    let follower = net.follower();
    net.settle();
    net.stop(follower);
    net.run(1_500);
    let other = (1..=3).find(|id| *id != leader && *id != follower).unwrap();
    assert_eq!(net.change(leader, Change::Add(member(4))), Err("Unhealthy".to_owned()));
    assert_eq!(net.change(leader, Change::Remove(other)), Err("Unhealthy".to_owned()));
    assert_eq!(net.change(leader, Change::Remove(follower)), Ok(()));
}

#[test]
fn leadership_is_handed_over_without_losing_a_put() {
    let mut net = Net::of(3);
    let leader = net.leader();
    net.settle();
    let to = net.node(leader).successor().expect("two are heard from");
    net.node(leader).transfer_leadership(to).unwrap();
    let id = net.put(leader, "k", "v");
    net.until("the outcome", |net| net.outcome(leader, id).is_some());
    assert_eq!(net.node(leader).raft().leader(), Some(to));
}

fn grant(net: &mut Net, at: u64, lease: i64, ttl: i64) {
    let request = LeaseGrantRequest { id: lease, ttl };
    let id = net.node(at).propose(Kind::LeaseGrant, &request.encode_to_vec()).unwrap();
    net.until("a lease", |net| net.outcome(at, id).is_some_and(|result| result.is_ok()));
}

fn answer(net: &mut Net, at: u64, number: u64) -> LeaseAnswer {
    let mut found = None;
    net.until("an answer about a lease", |net| {
        let answers = &net.bed(at).output.lease_answers;
        found = answers.iter().find(|(asked, _)| *asked == number).map(|(_, answer)| *answer);
        found.is_some()
    });
    found.expect("found before")
}

#[test]
fn a_lease_outlives_its_leader_and_then_expires() {
    let mut net = Net::of(3);
    let leader = net.leader();
    let follower = net.follower();
    grant(&mut net, follower, 77, 5);
    net.run(4_000);
    net.stop(leader);
    // The next one does not know when it was renewed: the whole time counts from its election.
    let next = net.leader();
    net.run(4_500);
    let asked = net.node(next).lease_time_to_live(LeaseId(77));
    let LeaseAnswer::TimeToLive { granted_s, remaining_s } = answer(&mut net, next, asked) else {
        panic!("another answer")
    };
    assert!(granted_s == 5 && remaining_s <= 1, "{granted_s} {remaining_s}");
    net.run(2_500);
    assert!(!net.node(next).applier.lessor.contains(LeaseId(77)));
}

#[test]
fn keep_alives_and_questions_about_leases_are_answered_by_the_leader_wherever_they_come() {
    let mut net = Net::of(3);
    net.leader();
    let follower = net.follower();
    grant(&mut net, follower, 77, 5);
    for _ in 0..10 {
        net.run(2_000);
        let asked = net.node(follower).renew_lease(LeaseId(77));
        assert_eq!(answer(&mut net, follower, asked), LeaseAnswer::Renewed { ttl_s: 5 });
        let asked = net.node(follower).lease_time_to_live(LeaseId(77));
        let LeaseAnswer::TimeToLive { granted_s: 5, remaining_s } =
            answer(&mut net, follower, asked)
        else {
            panic!("another answer")
        };
        assert!(remaining_s >= 4);
    }
    net.run(6_000);
    let asked = net.node(follower).renew_lease(LeaseId(77));
    assert_eq!(answer(&mut net, follower, asked), LeaseAnswer::Renewed { ttl_s: 0 });
    let asked = net.node(follower).lease_time_to_live(LeaseId(77));
    let none = LeaseAnswer::TimeToLive { granted_s: -1, remaining_s: -1 };
    assert_eq!(answer(&mut net, follower, asked), none);
}

#[test]
fn a_leader_that_was_replaced_renews_no_lease() {
    let mut net = Net::of(3);
    let leader = net.leader();
    grant(&mut net, leader, 77, 5);
    net.isolate(leader);
    let asked = net.node(leader).renew_lease(LeaseId(77));
    assert_eq!(answer(&mut net, leader, asked), LeaseAnswer::Lost);
}

#[test]
fn an_alarm_is_the_whole_clusters() {
    let mut net = Net::of(3);
    let leader = net.leader();
    let follower = net.follower();
    net.node(follower).raise_nospace();
    net.until("the alarm everywhere", |net| {
        (1..=3).all(|id| net.node(id).applier.alarms.active(AlarmType::Nospace))
    });
    let id = net.put(leader, "k", "v");
    let mut result = None;
    net.until("a refusal", |net| {
        result = net.outcome(leader, id);
        result.is_some()
    });
    assert!(matches!(result, Some(Err(crate::apply::ApplyError::NoSpace))));
}

#[test]
fn a_member_that_differs_is_found_and_raises_an_alarm() {
    let mut net = Net::of(3);
    let leader = net.leader();
    let follower = net.follower();
    net.put_now(leader, "k", "right");
    net.settle();
    net.run(61_000);
    assert!(!net.node(leader).applier.alarms.active(AlarmType::Corrupt), "all are equal");
    let wrong = PutRequest { key: "k".into(), value: "wrong".into(), ..Default::default() };
    let Node { applier, .. } = net.node(follower);
    applier.mvcc.put(&mut applier.store, &wrong).unwrap();
    applier.commit().unwrap();
    net.put_now(leader, "k", "more");
    net.run(61_000);
    assert!(net.node(leader).applier.alarms.raised_by(follower, AlarmType::Corrupt));
    assert!(!net.node(leader).applier.alarms.raised_by(leader, AlarmType::Corrupt));
}

#[test]
fn members_have_one_digest_whatever_the_way_they_came_by_their_state() {
    let mut net = Net::of(3);
    let leader = net.leader();
    let follower = net.follower();
    net.isolate(follower);
    for round in 0..300 {
        net.put(leader, &format!("k{}", round % 20), "v");
    }
    grant(&mut net, leader, 5, 100);
    let request = CompactionRequest { revision: 250, physical: false };
    net.node(leader).propose(Kind::Compaction, &request.encode_to_vec()).unwrap();
    net.run(500);
    net.heal();
    net.settle();
    assert!(net.node(follower).snapshot_counts().received > 0, "it got the state");
    let digests: Vec<u64> = (1..=3).map(|id| net.node(id).applier.digest().unwrap()).collect();
    assert!(digests.iter().all(|digest| *digest == digests[0]), "{digests:x?}");
    net.put_now(follower, "k", "v");
    net.settle();
    assert_ne!(net.node(leader).applier.digest().unwrap(), digests[0]);
}

impl Net {
    /// One step in which messages are lost, doubled and late, and disks are slow.
    fn rough_step(&mut self, random: &mut Random) {
        self.now_ms += 10;
        for bed in &mut self.members {
            bed.now_ms = self.now_ms - 10;
            if bed.node.is_none() {
                continue;
            }
            bed.turn();
            bed.start_log_ops();
            if random.below(3) > 0 {
                bed.finish_log_write();
            }
            (0..random.below(3)).for_each(|_| bed.store_op());
            bed.snapshot_op();
            let from = NodeId(bed.id);
            let messages = bed.output.messages.drain(..);
            self.wires.extend(messages.map(|(to, message)| (from, to, message)));
        }
        for (from, to, message) in std::mem::take(&mut self.wires) {
            match random.below(20) {
                _ if self.cut.contains(&(from.0, to.0)) => continue,
                0 => continue,
                1 => self.wires.push_back((from, to, message.clone())),
                2 => {
                    self.wires.push_front((from, to, message));
                    continue;
                }
                _ => {}
            }
            let now_ms = self.now_ms;
            if let Some(bed) = self.members.iter_mut().find(|bed| bed.id == to.0)
                && let Some(node) = &mut bed.node
            {
                node.receive(from, message, now_ms);
            }
        }
    }

    fn crash(&mut self, id: u64, random: &mut Random) {
        self.wires.retain(|(from, to, _)| from.0 != id && to.0 != id);
        let now_ms = self.now_ms;
        let bed = self.bed(id);
        bed.now_ms = now_ms;
        bed.crash(random);
    }
}

#[test]
fn whatever_happens_to_members_and_messages_what_was_acknowledged_stays() {
    let (mut snapshots, mut leaders, mut done) = (0, 0, 0);
    for seed in 0..12 {
        let mut random = Random(seed * 77 + 5);
        let mut net = Net::of(3);
        net.members.iter_mut().for_each(|bed| bed.log_kept = (20, 10));
        net.leader();
        let mut open: Vec<(u64, u64, String, String)> = Vec::new();
        let mut acknowledged: Vec<(String, String, i64)> = Vec::new();
        for step in 0..3000 {
            net.rough_step(&mut random);
            match random.below(200) {
                0..=60 => {
                    let at = 1 + random.below(3);
                    let (key, value) = (format!("k{}", random.below(9)), format!("{seed} {step}"));
                    if net.bed(at).node.is_some() && net.node(at).pending_proposals() < 50 {
                        let id = net.put(at, &key, &value);
                        open.push((at, id, key, value));
                    }
                }
                61 => net.isolate(1 + random.below(3)),
                62 | 63 => net.heal(),
                64 => {
                    let id = 1 + random.below(3);
                    net.crash(id, &mut random);
                    open.retain(|(at, ..)| *at != id);
                }
                65 if net.find_leader().is_some() => {
                    let leader = net.leader();
                    let to = NodeId(1 + random.below(3));
                    let _ = net.node(leader).transfer_leadership(to);
                }
                66 => {
                    let at = 1 + random.below(3);
                    net.node(at).start_defragment();
                }
                _ => {}
            }
            for at in 1..=3 {
                for outcome in std::mem::take(&mut net.bed(at).output.outcomes) {
                    let place = open.iter().position(|(a, id, ..)| (*a, *id) == (at, outcome.id));
                    if let Some(place) = place {
                        let (_, _, key, value) = open.swap_remove(place);
                        acknowledged.push((key, value, outcome.result.unwrap().revision));
                    }
                }
                if let Some(reason) = net.node(at).stop_reason() {
                    panic!("seed {seed}, step {step}: member {at}: {reason}");
                }
            }
        }
        net.heal();
        net.settle();
        for at in 1..=3 {
            net.crash(at, &mut random);
        }
        net.leader();
        net.settle();
        net.run(1_000);
        let digests: Vec<u64> = (1..=3).map(|id| net.node(id).applier.digest().unwrap()).collect();
        assert!(digests.iter().all(|digest| *digest == digests[0]), "seed {seed}: {digests:x?}");
        // No put has taken effect twice, whether it was acknowledged or not.
        let values = net.bed(2).history();
        let distinct: BTreeSet<&String> = values.iter().collect();
        assert_eq!(distinct.len(), values.len(), "seed {seed}");
        for (key, value, revision) in &acknowledged {
            let found = net.bed(2).get(key, *revision);
            assert_eq!(found.as_ref(), Some(value), "seed {seed}, revision {revision}");
        }
        done += acknowledged.len();
        for id in 1..=3 {
            net.node(id).applier.store.check().unwrap();
            snapshots += net.node(id).snapshot_counts().received;
            leaders += net.node(id).leadership().changes;
        }
    }
    assert!(done > 1000 && leaders > 20, "{done} puts, {leaders} leaders, {snapshots} snapshots");
}

fn set_downgrade(net: &mut Net, target: Option<&str>) {
    let (enabled, ver) = (target.is_some(), target.unwrap_or_default().to_owned());
    let request = DowngradeInfoSetRequest { enabled, ver }.encode_to_vec();
    let at = net.leader();
    let id = net.node(at).propose(Kind::Downgrade, &request).unwrap();
    net.until("the outcome", |net| net.outcome(at, id).is_some());
}

fn all_speak(net: &Net, version: &str) -> bool {
    let nodes = net.members.iter().filter_map(|bed| bed.node.as_ref());
    nodes.into_iter().all(|node| node.applier.cluster_version == version)
}

#[test]
fn the_leader_lowers_the_cluster_version_when_it_hears_all_members_and_raises_it_again() {
    let mut net = Net::of(3);
    let leader = net.leader();
    let follower = net.follower();
    net.isolate(follower);
    net.until("silence", |net| !net.node(leader).is_heard(NodeId(follower)));
    set_downgrade(&mut net, Some("3.6.0"));
    net.run(3 * VERSION_CHECK_MS);
    assert!(all_speak(&net, "3.7.0"), "a version was lowered that a silent member may speak");

    net.heal();
    net.until("the lower version", |net| all_speak(net, "3.6.0"));
    // It is part of the state, and a member that starts anew knows it.
    net.stop(follower);
    net.start(follower);
    net.until("the same after a start", |net| all_speak(net, "3.6.0"));
    let digests: Vec<u64> = (1..=3).map(|id| net.node(id).applier.digest().unwrap()).collect();
    assert!(digests.iter().all(|digest| *digest == digests[0]), "{digests:x?}");

    // Another leader goes on with it.
    let leader = net.leader();
    net.node(leader).transfer_leadership(NodeId(follower)).unwrap();
    net.until("the other leader", |net| net.find_leader() == Some(follower));
    set_downgrade(&mut net, None);
    net.until("the version it had", |net| all_speak(net, "3.7.0"));
}
