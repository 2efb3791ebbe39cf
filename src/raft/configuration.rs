//! Configurations and the changes between them (thesis, chapter 4).
//!
//! Invariants of a [`Configuration`]: `learners` shares nothing with either half of the voters;
//! `learners_next` lies inside `outgoing` and outside `voters`; without an `outgoing` half there
//! are no `learners_next` and there is nothing to leave. Deliberately pure: a configuration and a
//! change give a configuration or an error, the same on every member.

use smallvec::SmallVec;

use bytes::Bytes;

use super::error::ConfChangeError;
use super::types::NodeId;

/// Members of a configuration at most: bounds what an encoded one can make us allocate. etcd
/// recommends 7 voters.
pub const MEMBERS_MAX: usize = 64;

/// Member ids in rising order, none twice.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct NodeSet(SmallVec<[NodeId; 4]>);

impl NodeSet {
    pub fn new() -> NodeSet {
        NodeSet::default()
    }

    pub fn contains(&self, id: NodeId) -> bool {
        self.0.binary_search(&id).is_ok()
    }

    pub fn insert(&mut self, id: NodeId) {
        if let Err(place) = self.0.binary_search(&id) {
            self.0.insert(place, id);
        }
    }

    pub fn remove(&mut self, id: NodeId) {
        if let Ok(place) = self.0.binary_search(&id) {
            self.0.remove(place);
        }
    }

    pub fn iter(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.0.iter().copied()
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn is_disjoint(&self, other: &NodeSet) -> bool {
        self.iter().all(|id| !other.contains(id))
    }
}

impl FromIterator<NodeId> for NodeSet {
    fn from_iter<I: IntoIterator<Item = NodeId>>(ids: I) -> NodeSet {
        let mut ids: SmallVec<[NodeId; 4]> = ids.into_iter().collect();
        ids.sort_unstable();
        ids.dedup();
        NodeSet(ids)
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Configuration {
    /// Those who vote. In a joint configuration this is the new half.
    pub voters: NodeSet,
    /// The old half of a joint configuration; empty otherwise.
    pub outgoing: NodeSet,
    /// Those who get the log and have no vote.
    pub learners: NodeSet,
    /// Voters of the old half that become learners when the joint configuration is left.
    pub learners_next: NodeSet,
    /// The leader leaves the joint configuration by itself.
    pub auto_leave: bool,
}

impl Configuration {
    pub fn of_voters(voters: impl IntoIterator<Item = NodeId>) -> Configuration {
        Configuration { voters: voters.into_iter().collect(), ..Configuration::default() }
    }

    pub fn is_joint(&self) -> bool {
        !self.outgoing.is_empty()
    }

    /// In a joint configuration the voters of both halves count.
    pub fn is_voter(&self, id: NodeId) -> bool {
        self.voters.contains(id) || self.outgoing.contains(id)
    }

    /// Learners of now, not those to come.
    pub fn is_learner(&self, id: NodeId) -> bool {
        self.learners.contains(id)
    }

    pub fn contains(&self, id: NodeId) -> bool {
        self.is_voter(id) || self.is_learner(id)
    }

    /// All members, each once.
    pub fn members(&self) -> NodeSet {
        self.voters.iter().chain(self.outgoing.iter()).chain(self.learners.iter()).collect()
    }

    /// The voters of both halves, each once.
    pub fn all_voters(&self) -> NodeSet {
        self.voters.iter().chain(self.outgoing.iter()).collect()
    }

    /// Whether `id` is a quorum by itself.
    pub fn is_sole_voter(&self, id: NodeId) -> bool {
        !self.is_joint() && self.voters.len() == 1 && self.voters.contains(id)
    }

    pub(super) fn halves(&self) -> [&NodeSet; 2] {
        [&self.voters, &self.outgoing]
    }

    /// Which invariant is broken, if any.
    pub fn complaint(&self) -> Option<&'static str> {
        let zero = NodeId(0);
        if [&self.voters, &self.outgoing, &self.learners].iter().any(|set| set.contains(zero)) {
            Some("a member has id 0")
        } else if self.members().len() > MEMBERS_MAX {
            Some("too many members")
        } else if !self.learners.is_disjoint(&self.voters)
            || !self.learners.is_disjoint(&self.outgoing)
        {
            Some("a learner is a voter as well")
        } else if self.learners_next.iter().any(|id| !self.outgoing.contains(id))
            || !self.learners_next.is_disjoint(&self.voters)
        {
            Some("a learner to come is not only in the outgoing half")
        } else if !self.is_joint() && self.auto_leave {
            Some("there is nothing to leave")
        } else if self.voters.is_empty() && (self.is_joint() || !self.learners.is_empty()) {
            Some("there are members but no voters")
        } else {
            None
        }
    }

    /// The configuration after `change`. Members that a change removes need not be there.
    pub fn changed(&self, change: &ConfChange) -> Result<Configuration, ConfChangeError> {
        if self.is_joint() {
            return if change.is_leave() {
                Ok(self.left())
            } else {
                Err(ConfChangeError::AlreadyJoint)
            };
        }
        if change.is_leave() {
            return Err(ConfChangeError::NotJoint);
        }
        if change.steps.len() > MEMBERS_MAX {
            return Err(ConfChangeError::TooManyMembers { max: MEMBERS_MAX });
        }

        let mut after = self.clone();
        for (place, step) in change.steps.iter().enumerate() {
            let id = step.id();
            if id == NodeId(0) {
                return Err(ConfChangeError::ZeroId);
            }
            if change.steps[..place].iter().any(|earlier| earlier.id() == id) {
                return Err(ConfChangeError::Duplicate { id });
            }
            match step {
                ChangeStep::AddVoter(_) => {
                    after.learners.remove(id);
                    after.voters.insert(id);
                }
                ChangeStep::AddLearner(_) => {
                    after.voters.remove(id);
                    after.learners.insert(id);
                }
                ChangeStep::Remove(_) => {
                    after.voters.remove(id);
                    after.learners.remove(id);
                }
            }
        }
        if after.voters.is_empty() {
            return Err(ConfChangeError::NoVoters);
        }

        let moved = after.voters.iter().filter(|&id| !self.voters.contains(id)).count()
            + self.voters.iter().filter(|&id| !after.voters.contains(id)).count();
        if moved > 1 || change.transition != Transition::Auto {
            after.outgoing = self.voters.clone();
            // A voter on its way to learner keeps its vote in the old half until that half is gone.
            after.learners_next =
                after.learners.iter().filter(|&id| self.voters.contains(id)).collect();
            after.learners =
                after.learners.iter().filter(|&id| !self.voters.contains(id)).collect();
            after.auto_leave = change.transition != Transition::JointExplicit;
        }
        if after.members().len() > MEMBERS_MAX {
            return Err(ConfChangeError::TooManyMembers { max: MEMBERS_MAX });
        }
        assert_eq!(after.complaint(), None, "{self:?} and {change:?} make {after:?}");
        Ok(after)
    }

    fn left(&self) -> Configuration {
        let learners = self.learners.iter().chain(self.learners_next.iter()).collect();
        Configuration { voters: self.voters.clone(), learners, ..Configuration::default() }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChangeStep {
    /// A new voter, or a learner promoted.
    AddVoter(NodeId),
    /// A new learner, or a voter demoted.
    AddLearner(NodeId),
    Remove(NodeId),
}

impl ChangeStep {
    pub fn id(self) -> NodeId {
        match self {
            ChangeStep::AddVoter(id) | ChangeStep::AddLearner(id) | ChangeStep::Remove(id) => id,
        }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Transition {
    /// Directly when at most one voter comes or goes (thesis, section 4.1), by a joint
    /// configuration that the leader leaves by itself otherwise.
    #[default]
    Auto,
    /// By a joint configuration that the leader leaves by itself.
    JointImplicit,
    /// By a joint configuration that stays until a [`ConfChange::leave`] is proposed.
    JointExplicit,
}

/// A change as it stands in the log. `context` belongs to the application.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConfChange {
    pub steps: SmallVec<[ChangeStep; 2]>,
    pub transition: Transition,
    pub context: Bytes,
}

impl ConfChange {
    pub fn of(step: ChangeStep) -> ConfChange {
        ConfChange { steps: SmallVec::from_slice(&[step]), ..ConfChange::default() }
    }

    /// Ends a joint configuration.
    pub fn leave() -> ConfChange {
        ConfChange::default()
    }

    pub fn is_leave(&self) -> bool {
        self.steps.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft::quorum::{VoteResult, joint_vote_result};

    const MEMBERS: u64 = 4;

    fn set(mask: u32) -> NodeSet {
        (1..=MEMBERS).filter(|id| mask & 1 << (id - 1) != 0).map(NodeId).collect()
    }

    fn is_quorum(configuration: &Configuration, mask: u32) -> bool {
        let members = set(mask);
        let vote = |id| Some(members.contains(id));
        joint_vote_result(configuration.halves(), vote) == VoteResult::Won
    }

    /// Whether any quorum of one and any quorum of the other have a member in common.
    fn overlap(one: &Configuration, other: &Configuration) -> bool {
        let all = (1 << MEMBERS) - 1;
        (0..=all).all(|mask| !is_quorum(one, mask) || !is_quorum(other, all & !mask))
    }

    fn all_steps() -> Vec<ChangeStep> {
        let kinds = [ChangeStep::AddVoter, ChangeStep::AddLearner, ChangeStep::Remove];
        (1..=MEMBERS).flat_map(|id| kinds.map(|kind| kind(NodeId(id)))).collect()
    }

    fn all_changes() -> Vec<ConfChange> {
        let steps = all_steps();
        let mut lists: Vec<SmallVec<[ChangeStep; 2]>> = vec![SmallVec::new()];
        let mut longest = lists.clone();
        for _ in 0..3 {
            let with_one_more = |list: &SmallVec<[ChangeStep; 2]>| {
                let list = list.clone();
                steps.clone().into_iter().map(move |step| {
                    let mut longer = list.clone();
                    longer.push(step);
                    longer
                })
            };
            longest = longest.iter().flat_map(with_one_more).collect();
            lists.extend(longest.iter().cloned());
        }
        let transitions = [Transition::Auto, Transition::JointImplicit, Transition::JointExplicit];
        let with = |steps: &SmallVec<[ChangeStep; 2]>| {
            transitions.map(|transition| ConfChange {
                steps: steps.clone(),
                transition,
                context: Bytes::new(),
            })
        };
        lists.iter().flat_map(with).collect()
    }

    #[test]
    fn every_change_gives_a_sound_configuration_that_shares_a_member_with_the_one_before() {
        let changes = all_changes();
        let (mut simple, mut joint, mut refused) = (0, 0, 0);
        for voters in 1..1u32 << MEMBERS {
            for learners in (0..1u32 << MEMBERS).filter(|learners| learners & voters == 0) {
                let before = Configuration {
                    voters: set(voters),
                    learners: set(learners),
                    ..Configuration::default()
                };
                for change in &changes {
                    let Ok(after) = before.changed(change) else {
                        refused += 1;
                        continue;
                    };
                    assert_eq!(after.complaint(), None);
                    assert!(overlap(&before, &after), "{before:?} {change:?} {after:?}");
                    if !after.is_joint() {
                        simple += 1;
                        continue;
                    }
                    joint += 1;
                    assert_eq!(after.changed(&changes[3]), Err(ConfChangeError::AlreadyJoint));
                    let left = after.changed(&ConfChange::leave()).unwrap();
                    assert_eq!(left.complaint(), None);
                    assert!(!left.is_joint() && overlap(&after, &left), "{after:?} {left:?}");
                    check_effect(change, &left);
                }
            }
        }
        assert!(simple > 1000 && joint > 1000 && refused > 1000);
    }

    /// In the end every member that was named is what it was to become.
    fn check_effect(change: &ConfChange, after: &Configuration) {
        for step in &change.steps {
            let is = (after.is_voter(step.id()), after.is_learner(step.id()));
            let expected = match step {
                ChangeStep::AddVoter(_) => (true, false),
                ChangeStep::AddLearner(_) => (false, true),
                ChangeStep::Remove(_) => (false, false),
            };
            assert_eq!(is, expected, "{change:?} {after:?}");
        }
    }

    #[test]
    fn changes_that_cannot_be_are_refused_by_name() {
        let three = Configuration::of_voters([1, 2, 3].map(NodeId));
        let change = |steps: &[ChangeStep]| ConfChange {
            steps: steps.iter().copied().collect(),
            ..ConfChange::default()
        };
        let (one, zero) = (NodeId(1), NodeId(0));
        let twice = change(&[ChangeStep::Remove(one), ChangeStep::AddVoter(one)]);
        let all = change(&[1, 2, 3].map(|id| ChangeStep::Remove(NodeId(id))));
        let many: Vec<ChangeStep> = (10..80).map(|id| ChangeStep::AddLearner(NodeId(id))).collect();
        for (change, error) in [
            (change(&[ChangeStep::AddVoter(zero)]), ConfChangeError::ZeroId),
            (twice, ConfChangeError::Duplicate { id: one }),
            (all, ConfChangeError::NoVoters),
            (ConfChange::leave(), ConfChangeError::NotJoint),
            (change(&many), ConfChangeError::TooManyMembers { max: MEMBERS_MAX }),
            (change(&many[..62]), ConfChangeError::TooManyMembers { max: MEMBERS_MAX }),
        ] {
            assert_eq!(three.changed(&change), Err(error));
        }
        assert!(three.changed(&change(&many[..61])).is_ok());
    }
}
