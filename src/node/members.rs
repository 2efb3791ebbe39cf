//! Changes of the members: proposed at any of them, appended by the leader if that does not put the
//! quorum at risk, applied by all in the same way.
//!
//! Two opinions are asked of each change: that of the membership (does the member exist, is its
//! address free) and that of Raft (does anybody remain to vote). Both are functions of the state at
//! the entry, so all members come to the same result.

use bytes::Bytes;
use smallvec::smallvec;

use super::message::Refusal;
use super::proposals::{ProposeError, refusal_of};
use super::{Node, OpenError, Output};
use crate::apply::{Applier, Outcome, envelope};
use crate::membership::{Change, ChangeError, ProposedChange};
use crate::raft::{
    ChangeStep, ConfChange, Configuration, Entry, EntryKind, LogIndex, NodeId,
    ProposeConfChangeError,
};
use crate::store::Corruption;

/// etcd: a learner that has this share of the leader's log can be promoted.
const READY_PERCENT: u64 = 90;

/// The configuration in effect at the applied index.
pub(super) fn configuration(applier: &Applier) -> Result<Configuration, OpenError> {
    let cluster = &applier.cluster;
    if applier.applied_index() == 0 {
        // A member that joins knows nothing before it gets the state.
        return Ok(Configuration::default());
    }
    let Some(encoded) = applier.configuration()? else {
        return Ok(Configuration::of_voters(cluster.voters().map(|member| NodeId(member.id))));
    };
    let configuration = Configuration::decode(encoded).map_err(|_| OpenError::Configuration)?;
    let members = cluster.members().map(|member| NodeId(member.id));
    let learners = |id| configuration.is_learner(id) || configuration.learners_next.contains(id);
    let agree = members.eq(configuration.members().iter())
        && cluster.members().all(|member| member.is_learner == learners(NodeId(member.id)));
    if agree { Ok(configuration) } else { Err(OpenError::Configuration) }
}

/// What a change is to Raft.
fn step_of(applier: &Applier, change: &Change) -> ChangeStep {
    match change {
        Change::Add(member) if member.is_learner => ChangeStep::AddLearner(NodeId(member.id)),
        Change::Add(member) => ChangeStep::AddVoter(NodeId(member.id)),
        Change::Promote(id) => ChangeStep::AddVoter(NodeId(*id)),
        Change::Remove(id) => ChangeStep::Remove(NodeId(*id)),
        Change::UpdatePeerUrls { id, .. } => {
            // It stays what it is.
            let is_learner = applier.cluster.member(*id).is_some_and(|member| member.is_learner);
            let step = if is_learner { ChangeStep::AddLearner } else { ChangeStep::AddVoter };
            step(NodeId(*id))
        }
    }
}

/// Whether an entry says what can be applied. Of what clients ask for, a refusal can come of it.
pub(super) fn is_readable(entry: &Entry) -> bool {
    match entry.kind {
        EntryKind::Normal => entry.data.is_empty() || envelope::unwrap(entry.data.clone()).is_ok(),
        EntryKind::ConfChange => ConfChange::decode(&entry.data).is_ok_and(|change| {
            change.is_leave() || ProposedChange::decode(&change.context).is_some()
        }),
    }
}

impl Node {
    /// Proposes a change of the members. The outcome carries the id that is returned; a refusal by
    /// the leader comes in `Output::refusals`.
    pub fn propose_change(&mut self, change: Change) -> Result<u64, ProposeError> {
        self.check_room()?;
        let id = self.fresh_id();
        let step = step_of(&self.applier, &change);
        let context = ProposedChange { proposal: id, change }.encode().into();
        let entry = ConfChange { steps: smallvec![step], context, ..ConfChange::default() };
        self.submit(id, EntryKind::ConfChange, entry.encode())?;
        Ok(id)
    }

    /// Appends a change if this member leads, and the cluster can afford it.
    pub(super) fn append_change(&mut self, entry: &Bytes) -> Result<(), Refusal> {
        let change = ConfChange::decode(entry).map_err(|_| Refusal::Invalid)?;
        let proposed = ProposedChange::decode(&change.context).ok_or(Refusal::Invalid)?;
        if !self.raft.is_leader() {
            return Err(Refusal::NotLeader);
        }
        if change.steps.as_slice() != [step_of(&self.applier, &proposed.change)] {
            // Its proposer knows less than we do, or more.
            return Err(Refusal::Later);
        }
        if self.applier.cluster.check(&proposed.change).is_ok() {
            self.check_quorum_after(&proposed.change)?;
        }
        match self.raft.propose_conf_change(&change) {
            Ok(_) => Ok(()),
            Err(ProposeConfChangeError::Propose(error)) => Err(refusal_of(error)),
            Err(
                ProposeConfChangeError::Pending { .. }
                | ProposeConfChangeError::NoOwnTermCommit { .. },
            ) => Err(Refusal::Later),
            Err(ProposeConfChangeError::Invalid(_)) => Err(Refusal::NotEnoughStarted),
        }
    }

    /// etcd's rules, by default on, which keep an operator from changing a cluster to death. A
    /// member counts as started when its name is known.
    fn check_quorum_after(&self, change: &Change) -> Result<(), Refusal> {
        let cluster = &self.applier.cluster;
        let is_learner = |id: u64| cluster.member(id).is_some_and(|member| member.is_learner);
        if let Change::Promote(id) = change {
            self.check_learner_ready(NodeId(*id))?;
        }
        if !self.options.strict_reconfig_check {
            return Ok(());
        }
        let started = cluster.voters().filter(|member| !member.name.is_empty());
        let (voters, started) = (cluster.voters().count(), started.count());
        let enough = |voters: usize, started: usize| {
            if started > voters / 2 { Ok(()) } else { Err(Refusal::NotEnoughStarted) }
        };
        match change {
            Change::Add(member) => {
                // From one to two: the second cannot have been started before it is added.
                if !member.is_learner && (voters, started) != (1, 1) {
                    enough(voters + 1, started)?;
                }
                if self.voters_heard() < voters {
                    return Err(Refusal::Unhealthy);
                }
            }
            Change::Promote(_) => enough(voters + 1, started + 1)?,
            Change::Remove(id) if is_learner(*id) => {}
            Change::Remove(id) => {
                let named = cluster.member(*id).is_some_and(|member| !member.name.is_empty());
                enough(voters - 1, started - usize::from(named))?;
                let is_heard = self.is_heard(NodeId(*id));
                if is_heard && self.voters_heard() - 1 < voters.div_ceil(2) {
                    return Err(Refusal::Unhealthy);
                }
            }
            Change::UpdatePeerUrls { .. } => {}
        }
        Ok(())
    }

    fn check_learner_ready(&self, id: NodeId) -> Result<(), Refusal> {
        let own = self.raft.persisted_index().0;
        let matched = self.raft.matched(id).map_or(0, |matched| matched.0);
        let is_ready = matched * 100 >= own * READY_PERCENT;
        if is_ready { Ok(()) } else { Err(Refusal::LearnerNotReady) }
    }

    /// Voters that are heard from, this member among them.
    fn voters_heard(&self) -> usize {
        self.applier.cluster.voters().filter(|member| self.is_heard(NodeId(member.id))).count()
    }

    /// Applies a committed change of the configuration.
    pub(super) fn apply_change(&mut self, entry: &Entry) -> Result<Outcome, Corruption> {
        let (index, term) = (entry.index.0, entry.term.0);
        let change = ConfChange::decode(&entry.data).expect("an entry was decoded before");
        if change.is_leave() {
            return match self.raft.apply_conf_change(entry.index, &change) {
                Ok(configuration) => {
                    let encoded = configuration.encode();
                    self.applier.apply_configuration(index, term, &encoded)
                }
                Err(_) => Ok(self.applier.refuse_change(index, term, 0, ChangeError::Impossible)),
            };
        }
        let proposed =
            ProposedChange::decode(&change.context).expect("an entry was decoded before");
        let ProposedChange { proposal, change: of_members } = &proposed;
        let possible = self.applier.cluster.check(of_members).and_then(|()| {
            let fits = change.steps.as_slice() == [step_of(&self.applier, of_members)];
            if fits { Ok(()) } else { Err(ChangeError::Impossible) }
        });
        if let Err(error) = possible {
            self.raft.skip_conf_change(entry.index);
            return Ok(self.applier.refuse_change(index, term, *proposal, error));
        }
        let Ok(configuration) = self.raft.apply_conf_change(entry.index, &change) else {
            let error = ChangeError::Impossible;
            return Ok(self.applier.refuse_change(index, term, *proposal, error));
        };
        let encoded = configuration.encode();
        if let Change::Remove(_) = of_members {
            self.last_removal = entry.index;
            self.raft.save_commit();
        }
        self.forget_strangers();
        self.applier.apply_change(index, term, &proposed, &encoded)
    }

    /// Makes this member the only one of its cluster, for when the others are lost for ever. As etcd
    /// does it: what is known to be committed is applied, what follows in the log is dropped, and
    /// changes that remove the others are taken for committed. Those of them that come back are told
    /// that they were removed.
    pub(super) fn force_new_cluster(&mut self) -> Result<(), Corruption> {
        let id = self.raft.id();
        if self.applier.applied_index() == 0 {
            // It has not joined any cluster yet.
            return Ok(());
        }
        self.apply_all()?;
        if self.raft.configuration().is_sole_voter(id) {
            // Nobody else was asked for anything in this log: all of it is committed.
            self.raft.commit_all();
            self.apply_all()?;
        }
        let discarded = self.raft.discard_uncommitted();
        self.raft.enter_next_term();
        if self.raft.configuration().is_joint() {
            self.raft.force_conf_change(&ConfChange::leave());
            self.apply_all()?;
        }
        let own = self.applier.cluster.member(id.0).filter(|member| member.is_learner);
        let promoted = own.map(|own| Change::Promote(own.id));
        let others: Vec<u64> = self.peers().map(|(id, _)| id.0).collect();
        tracing::warn!(
            commit_index = self.raft.commit_index().0,
            discarded_entries = discarded,
            removed_members = others.len(),
            "forcing a new cluster of this member alone"
        );
        for change in promoted.into_iter().chain(others.into_iter().map(Change::Remove)) {
            let step = step_of(&self.applier, &change);
            let context = ProposedChange { proposal: 0, change }.encode().into();
            let forced = ConfChange { steps: smallvec![step], context, ..ConfChange::default() };
            self.raft.force_conf_change(&forced);
            self.apply_all()?;
        }
        self.forced_to = self.raft.commit_index();
        self.raft.campaign();
        Ok(())
    }

    /// Applies what is committed, at a start at which nobody waits for anything.
    fn apply_all(&mut self) -> Result<(), Corruption> {
        let mut output = Output::default();
        loop {
            self.advance_raft();
            if self.committed.is_empty() {
                return Ok(());
            }
            self.apply_committed(self.now_ms, &mut output)?;
        }
    }

    /// The entry that removed a member last, if it will be known after a crash as well that it is
    /// committed. Before that no member is told that it was removed: it may be the only other one that
    /// knows, and its vote the one that is missing to find out again.
    pub fn settled_removal(&self) -> Option<LogIndex> {
        (self.durable_commit >= self.last_removal).then_some(self.last_removal)
    }

    /// A member that finds itself removed stays, for those who need to hear it from this one, until it
    /// is told so. It asks as if for votes, which carries along what is committed.
    pub(super) fn ask_whether_removed(&mut self) {
        let id = self.options.metadata.member_id;
        if self.applier.cluster.is_removed(id) && !self.raft.is_leader() {
            self.raft.ask_in_vain();
        }
    }

    /// The members beside this one, with the URLs where they listen to members.
    pub fn peers(&self) -> impl Iterator<Item = (NodeId, &[String])> {
        let own = self.options.metadata.member_id;
        let others = self.applier.cluster.members().filter(move |member| member.id != own);
        others.map(|member| (NodeId(member.id), member.peer_urls.as_slice()))
    }

    /// How far a member's log is known to equal this leader's.
    pub fn matched(&self, id: NodeId) -> Option<LogIndex> {
        self.raft.matched(id)
    }
}
