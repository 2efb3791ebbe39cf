//! The end of a run: everything heals, and then everything has to be in order. A leader and a
//! write within ten election timeouts; all members in one state; watchers with all events; leases
//! expired; and after a crash of everybody at once nothing that was acknowledged is lost.

use crate::client::Client;
use crate::member::ELECTION_MS;
use crate::random::{Concern, Random};
use crate::truth::Check;
use crate::world::{Event, World};

/// What "soon" means once everything works: 10 election timeouts.
const SOON_US: u64 = 10 * ELECTION_MS * 1_000;

/// For how long nothing may reach a watcher that has not got everything: far longer than one that reads slowly takes
/// for a batch.
const READS_US: u64 = 10_000_000;

/// The longest time to live that clients ask for, and as long again for a new leader.
const LEASES_END_US: u64 = 2 * 6_000_000;

impl World {
    /// A whole run. Returns the simulated time.
    pub fn run(&mut self) -> u64 {
        self.run_until(self.odds.faulty_us);
        self.heal();
        // The others may be about anything, and wait for what was lost.
        let number = self.clients.len() as u64 + 1;
        let random = Random::of(self.seed, Concern::Clients, number);
        self.clients.push(Client::probe(number, random, &self.odds));
        self.expect_progress("after healing");
        // Longer than any client waits, so that what was begun before ends.
        self.run_until(self.now_us + 2_000_000);
        // A learner that has not heard of its removal is told so when it dials, and nobody dials here. Who is no member
        // yet may become one, as long as anything is on its way.
        for id in self.member_ids() {
            if self.truth.model.removed.contains(&id) {
                self.retire(id);
            }
        }
        self.clients_stop = true;
        self.run_until(self.now_us + self.odds.patience_us + LEASES_END_US);
        self.expect_rest();
        self.crash_everybody();
        self.clients_stop = false;
        self.expect_progress("after a crash of all members");
        self.clients_stop = true;
        self.run_until(self.now_us + self.odds.patience_us + LEASES_END_US);
        self.expect_rest();
        for id in self.member_ids() {
            self.collect_marks(id);
        }
        self.now_us
    }

    fn heal(&mut self) {
        self.is_healed = true;
        self.cut.clear();
        for id in self.member_ids() {
            let now_us = self.now_us;
            let member = self.members.get_mut(&id).expect("a member");
            member.log_disk.is_full = false;
            member.store_disk.is_full = false;
            member.stalled_until_us = 0;
            member.fails_next = false;
            if let Some(process) = &mut member.process {
                process.paused_until_us = 0;
                process.turn_at_us = None;
                self.wake_member(id);
            }
            self.plan(now_us, id, Event::Start);
        }
        // A disk at rest is an ordinary one, and so is a network: it is TCP, which keeps the order. Out of order a
        // large state gets on by a few pieces per resend, which is progress and not rest.
        self.odds.keeps_order = true;
        // No connection lasts through what was: what is late on one of them holds back nothing that is sent from now on.
        self.reconnect_members();
        self.odds.log_write_us.1 = self.odds.log_write_us.1.min(20_000);
        self.odds.log_write_us.0 = self.odds.log_write_us.0.min(self.odds.log_write_us.1);
        self.odds.delay_us = (self.odds.delay_us.0, self.odds.delay_us.1.min(20_000));
    }

    fn expect_progress(&mut self, when: &str) {
        self.wrote_since_us = Some(self.now_us);
        self.new_writes = 0;
        for number in 1..=self.clients.len() as u64 {
            self.plan(self.now_us, number, Event::Wake);
        }
        let deadline_us = self.now_us + SOON_US;
        while self.new_writes == 0 && self.now_us < deadline_us {
            self.run_until(self.now_us + 10_000);
        }
        assert!(
            self.new_writes > 0,
            "seed {}: no write within 10 election timeouts {when}: {}",
            self.seed,
            self.describe()
        );
    }

    /// Who is no member, or never became one, is not waited for. By now nobody is on the way to
    /// become one.
    fn retire_strangers(&mut self) {
        for id in self.member_ids() {
            if !self.truth.model.members.contains_key(&id) {
                self.retire(id);
            }
        }
    }

    /// Who reads slowly may still be reading. As long as it gets on, that is no fault of a member.
    fn wait_for_readers(&mut self) {
        let watched = |world: &World| world.counts.get("events watched").copied();
        let mut before = None;
        while self.find_waiting_watcher().is_err() && watched(self) != before {
            before = watched(self);
            self.run_until(self.now_us + READS_US);
        }
    }

    /// Some watcher that has not got everything.
    fn find_waiting_watcher(&self) -> Check {
        for client in &self.clients {
            for watching in client.watches.iter().filter(|watching| watching.is_wanted) {
                watching.watch.is_complete(&self.truth.model).map_err(|error| {
                    format!("client {} on {:?}: {error}", client.number, client.conn)
                })?;
            }
        }
        Ok(())
    }

    /// Nothing is going on any more: all is as it must be.
    fn expect_rest(&mut self) {
        self.wait_for_readers();
        self.retire_strangers();
        self.expect_no_ghosts();
        let wanted: Vec<u64> = self.truth.model.members.keys().copied().collect();
        assert_eq!(self.member_ids(), wanted, "seed {}: who is a member", self.seed);
        let committed = self.truth.committed();
        for (id, member) in &mut self.members {
            let process = member.process.as_mut().expect("everybody runs");
            let applied = process.node.applier.applied_index();
            let whole = process.compare_all(&self.truth);
            let sound = process.node.applier.store.check().map(drop);
            let seed = self.seed;
            assert_eq!(applied, committed, "seed {seed}: member {id} stays behind");
            whole.unwrap_or_else(|error| panic!("seed {seed}: member {id}: {error}"));
            sound.unwrap_or_else(|error| panic!("seed {seed}: member {id}: {error}"));
        }
        let leases = &self.truth.model.leases;
        assert!(leases.is_empty(), "seed {}: leases that never expire: {leases:?}", self.seed);
        self.demand(self.find_waiting_watcher());
    }

    fn crash_everybody(&mut self) {
        for id in self.member_ids() {
            self.stop(id);
        }
        for id in self.member_ids() {
            self.plan(self.now_us + 1, id, Event::Start);
        }
    }

    pub fn describe(&self) -> String {
        let members = self.members.values().map(|member| match &member.process {
            Some(process) => format!("\n{:?}", process.node.raft().status()),
            None => format!("\nmember {} is down", member.id),
        });
        members.collect()
    }
}
