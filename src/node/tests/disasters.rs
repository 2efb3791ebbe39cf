//! Disks that stand still, and members that are lost for ever.

use super::cluster::Net;
use super::*;
use crate::membership::{Change, Member};
use crate::proto::etcdserverpb::LeaseGrantRequest;

/// The power goes at a member; what was on its way to the disk of the log is lost.
fn lose_power(net: &mut Net, id: u64) {
    net.stop(id);
    net.bed(id).log.in_flight = None;
    net.stalled.remove(&id);
}

/// Has a member's store made durable as it is.
fn checkpoint(net: &mut Net, id: u64) {
    net.node(id).background.checkpoint.demand();
    let applied = net.node(id).applier.applied_index();
    net.until("a checkpoint", |net| net.node(id).applier.store.durable_mark() >= applied);
}

#[test]
fn a_leader_whose_disk_stands_still_goes_on_and_then_gives_way() {
    let mut net = Net::of(3);
    let leader = net.leader();
    let term = net.node(leader).raft().term();
    net.put_now(leader, "k", "before");
    net.stalled.insert(leader);
    // The others are a majority, and the leader answers before its own write is done.
    for round in 0..10 {
        net.put_now(leader, "k", &format!("{round}"));
        let read = net.node(leader).read();
        net.until("a read", |net| net.bed(leader).output.reads.contains(&read));
    }
    let raft = net.node(leader).raft();
    assert!(raft.is_leader() && raft.term() == term);
    assert!(raft.persisted_index() < raft.applied_index());
    net.until("another leader", |net| net.find_leader().is_some_and(|id| id != leader));
    let next = net.leader();
    net.put_now(next, "k", "after");
    net.stalled.clear();
    net.settle();
    for id in 1..=3 {
        assert_eq!(net.bed(id).get("k", 0).as_deref(), Some("after"), "member {id}");
    }
}

#[test]
fn a_state_that_is_durable_ahead_of_its_log_is_where_the_log_goes_on() {
    // The disk of the log of one member does nothing, that of its store all; then the power goes, and once
    // more after the log has gone on.
    for by_leader in [true, false] {
        let mut net = Net::of(3);
        let leader = net.leader();
        let victim = if by_leader { leader } else { net.follower() };
        net.put_now(leader, "k", "before");
        net.settle();
        net.stalled.insert(victim);
        for round in 0..20 {
            net.put_now(leader, &format!("k{round}"), "v");
        }
        net.until("all is applied", |net| net.bed(victim).get("k19", 0).is_some());
        checkpoint(&mut net, victim);
        let raft = net.node(victim).raft();
        let (applied, persisted) = (raft.applied_index(), raft.persisted_index());
        assert!(applied > persisted);
        lose_power(&mut net, victim);
        net.start(victim);
        assert_eq!(net.node(victim).raft().start_index(), applied);
        net.settle();
        let leader = net.leader();
        net.put_now(leader, "k", "later");
        net.settle();
        let position = net.node(victim).raft().last_index();
        lose_power(&mut net, victim);
        net.start(victim);
        let raft = net.node(victim).raft();
        assert!(raft.last_index() >= position, "what was acknowledged is there");
        net.settle();
        for round in 0..20 {
            assert!(net.bed(victim).get(&format!("k{round}"), 0).is_some());
        }
        assert_eq!(net.bed(victim).get("k", 0).as_deref(), Some("later"));
    }
}

#[test]
fn the_commit_index_is_durable_soon_after_the_last_write() {
    let mut net = Net::of(3);
    let leader = net.leader();
    net.put_now(leader, "k", "v");
    net.run(500);
    let commit = net.node(leader).raft().commit_index();
    for id in 1..=3 {
        lose_power(&mut net, id);
    }
    net.start(leader);
    assert_eq!(net.node(leader).raft().commit_index(), commit);
}

#[test]
fn a_file_that_is_being_made_for_a_state_is_not_removed_before_it_is_there() {
    let mut net = Net::of(3);
    let leader = net.leader();
    let follower = net.follower();
    net.stop(follower);
    for round in 0..400 {
        net.put(leader, &format!("k{}", round % 90), "v");
        net.run(if round % 50 == 0 { 30 } else { 0 });
    }
    net.run(500);
    net.start(follower);
    net.until("an offer", |net| net.node(follower).snapshot_counts().receiving == 1);
    assert_eq!(net.node(follower).next_snapshot_op(), Some(SnapshotOp::Create));
    // The disk takes its time, and meanwhile the transfer is given up.
    net.isolate(follower);
    net.run(15_000);
    assert_eq!(net.node(follower).snapshot_counts().receive_failed, 1);
    assert_eq!(net.node(follower).next_snapshot_op(), None);
    let disk = MemoryDisk::new(64 << 20, &store::Options { store_id: 77 });
    let store = disk.open().unwrap();
    net.bed(follower).incoming = Some(disk);
    net.node(follower).snapshot_created(store);
    net.run(50);
    assert!(net.bed(follower).incoming.is_none(), "it is removed now");
    net.heal();
    net.until("the state", |net| net.node(follower).snapshot_counts().received == 1);
    net.settle();
}

#[test]
fn a_damaged_state_does_not_replace_one_that_is_sound() {
    const META: store::Tree = store::Tree(2);
    const DAMAGE: &[u8] = b"alarm/with half a key";
    let mut net = Net::of(3);
    let leader = net.leader();
    let follower = net.follower();
    net.put_now(leader, "before", "v");
    net.settle();
    checkpoint(&mut net, follower);
    net.stop(follower);
    for round in 0..400 {
        net.put(leader, &format!("k{}", round % 90), "v");
        net.run(if round % 50 == 0 { 30 } else { 0 });
    }
    net.run(500);
    let store = &mut net.node(leader).applier.store;
    store.put(META, DAMAGE, b"", false).unwrap();
    store.commit(store.committed_mark());
    net.start(follower);
    net.until("a refusal", |net| net.node(follower).snapshot_counts().receive_failed > 0);
    // It has what it had, and a start finds that.
    net.isolate(follower);
    net.stop(follower);
    net.start(follower);
    assert_eq!(net.bed(follower).get("before", 0).as_deref(), Some("v"));
    assert!(net.bed(follower).get("k7", 0).is_none());
    let store = &mut net.node(leader).applier.store;
    store.delete(META, DAMAGE).unwrap();
    store.commit(store.committed_mark());
    net.heal();
    net.until("the state", |net| net.node(follower).snapshot_counts().received == 1);
    net.settle();
    assert!(net.bed(follower).get("k7", 0).is_some());
}

#[test]
fn a_lease_is_not_ended_with_the_former_one_of_its_id() {
    let mut net = Net::of(3);
    let leader = net.leader();
    let grant = |net: &mut Net, ttl| {
        let request = LeaseGrantRequest { id: 5, ttl }.encode_to_vec();
        net.node(leader).propose(Kind::LeaseGrant, &request).unwrap()
    };
    let id = grant(&mut net, 2);
    net.until("the lease", |net| net.outcome(leader, id).is_some_and(|result| result.is_ok()));
    // Nothing is committed for long enough that the lease expires, is granted again, and would be looked at
    // once more.
    net.stalled.extend([1, 2, 3]);
    net.until("its end", |net| {
        let now_ms = net.node(leader).now_ms();
        net.node(leader).applier.lessor.is_expired(LeaseId(5), now_ms)
    });
    net.run(200);
    let id = grant(&mut net, 600);
    net.run(4_000);
    net.stalled.clear();
    net.until("the new lease", |net| net.outcome(leader, id).is_some_and(|result| result.is_ok()));
    net.settle();
    net.run(4_000);
    assert_eq!(net.node(leader).applier.lessor.ttl(LeaseId(5)), Some(600));
}

/// Two of three are lost, and `survivor` starts alone.
fn force(net: &mut Net, survivor: u64) {
    for id in net.members.iter().map(|bed| bed.id).collect::<Vec<_>>() {
        lose_power(net, id);
    }
    net.bed(survivor).forces_new_cluster = true;
    net.start(survivor);
    net.bed(survivor).forces_new_cluster = false;
    net.until("the survivor leads", |net| net.node(survivor).is_ready());
}

#[test]
fn one_member_goes_on_alone_when_it_is_told_to() {
    for survivor in 1..=3 {
        let mut net = Net::of(3);
        let leader = net.leader();
        net.put_now(leader, "k", "acknowledged");
        net.settle();
        net.run(500);
        // What no majority has is not part of it.
        for other in (1..=3).filter(|id| *id != survivor) {
            net.isolate(other);
        }
        net.put(survivor, "k", "never acknowledged");
        net.run(300);
        force(&mut net, survivor);
        assert_eq!(net.bed(survivor).get("k", 0).as_deref(), Some("acknowledged"));
        let cluster = &net.node(survivor).applier.cluster;
        assert_eq!(cluster.members().map(|member| member.id).collect::<Vec<_>>(), [survivor]);
        net.put_now(survivor, "k", "alone");

        // An ordinary start finds the same, before and after a checkpoint.
        for _ in 0..2 {
            lose_power(&mut net, survivor);
            net.start(survivor);
            net.until("it leads again", |net| net.node(survivor).is_ready());
            assert_eq!(net.bed(survivor).get("k", 0).as_deref(), Some("alone"));
            checkpoint(&mut net, survivor);
        }
        // Who was lost and comes back is told that it was removed.
        net.heal();
        let lost = (1..=3).find(|id| *id != survivor).unwrap();
        net.start(lost);
        net.until("it is told", |net| net.node(lost).stop_reason() == Some(StopReason::Removed));
        net.stop(lost);
        // And the cluster grows again.
        let member = Member { id: 9, peer_urls: vec!["http://m9".into()], ..Default::default() };
        net.change(survivor, Change::Add(member)).unwrap();
        net.join(9);
        net.until("it joins", |net| net.node(9).is_ready());
        assert_eq!(net.bed(9).get("k", 0).as_deref(), Some("alone"));
    }
}

#[test]
fn a_learner_that_is_left_alone_becomes_a_voter() {
    let mut net = Net::of(3);
    let leader = net.leader();
    let member = Member { id: 9, is_learner: true, ..Member::default() };
    net.change(leader, Change::Add(member)).unwrap();
    net.join(9);
    net.put_now(leader, "k", "v");
    net.until("the learner is ready", |net| net.node(9).is_ready());
    net.settle();
    net.run(500);
    force(&mut net, 9);
    assert!(!net.node(9).is_learner());
    assert_eq!(net.node(9).applier.cluster.members().len(), 1);
    net.put_now(9, "k", "alone");
}

#[test]
fn a_crash_at_any_moment_of_forcing_leaves_a_member_that_can_be_forced_again() {
    for steps in 0..12 {
        let mut net = Net::of(3);
        let leader = net.leader();
        net.put_now(leader, "k", "v");
        net.settle();
        net.run(500);
        for id in 1..=3 {
            lose_power(&mut net, id);
        }
        net.bed(leader).forces_new_cluster = true;
        net.start(leader);
        net.bed(leader).forces_new_cluster = false;
        net.stalled.insert(leader);
        net.node(leader).background.checkpoint.demand();
        for _ in 0..steps {
            net.step();
        }
        // Whoever starts it without the flag finds the old cluster, or the new one.
        lose_power(&mut net, leader);
        net.start(leader);
        force(&mut net, leader);
        assert_eq!(net.bed(leader).get("k", 0).as_deref(), Some("v"));
        net.put_now(leader, "k", "alone");
    }
}
