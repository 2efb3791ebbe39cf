//! Quorum arithmetic: majorities, and for joint consensus (thesis, section 4.3) majorities of both
//! halves.
//!
//! Invariant: any two quorums of one configuration share a voter. An empty half is no obstacle: it
//! agrees to everything. Deliberately knows no roles and no logs, so that it can be compared with a
//! simpler implementation over all small cases.

use smallvec::SmallVec;

use super::configuration::NodeSet;
use super::types::NodeId;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum VoteResult {
    Pending,
    Won,
    Lost,
}

/// Votes needed of `voters`.
pub(super) fn majority(voters: usize) -> usize {
    voters / 2 + 1
}

/// The largest value that a majority of `voters` has reached; everything when there are no voters.
pub(super) fn reached(voters: &NodeSet, value: impl Fn(NodeId) -> u64) -> u64 {
    if voters.is_empty() {
        return u64::MAX;
    }
    let mut values: SmallVec<[u64; 8]> = voters.iter().map(value).collect();
    values.sort_unstable();
    values[values.len() - majority(values.len())]
}

pub(super) fn vote_result(voters: &NodeSet, vote: impl Fn(NodeId) -> Option<bool>) -> VoteResult {
    let needed = if voters.is_empty() { 0 } else { majority(voters.len()) };
    let granted = voters.iter().filter(|&id| vote(id) == Some(true)).count();
    let refused = voters.iter().filter(|&id| vote(id) == Some(false)).count();
    if granted >= needed {
        VoteResult::Won
    } else if voters.len() - refused < needed {
        VoteResult::Lost
    } else {
        VoteResult::Pending
    }
}

/// [`reached`] by both halves of a configuration.
pub(super) fn joint_reached(halves: [&NodeSet; 2], value: impl Fn(NodeId) -> u64) -> u64 {
    reached(halves[0], &value).min(reached(halves[1], &value))
}

/// [`vote_result`] of both halves: won when both are won, lost when either is.
pub(super) fn joint_vote_result(
    halves: [&NodeSet; 2],
    vote: impl Fn(NodeId) -> Option<bool>,
) -> VoteResult {
    match (vote_result(halves[0], &vote), vote_result(halves[1], &vote)) {
        (VoteResult::Lost, _) | (_, VoteResult::Lost) => VoteResult::Lost,
        (VoteResult::Won, VoteResult::Won) => VoteResult::Won,
        _ => VoteResult::Pending,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The simple second implementation: a quorum is any subset larger than the rest of its set.
    /// Looks at all subsets.
    fn quorums(voters: &[u64]) -> Vec<Vec<u64>> {
        (0..1u32 << voters.len())
            .map(|mask| {
                let picked = voters.iter().enumerate().filter(|(i, _)| mask & 1 << i != 0);
                picked.map(|(_, &id)| id).collect::<Vec<_>>()
            })
            .filter(|picked| voters.is_empty() || picked.len() > voters.len() - picked.len())
            .collect()
    }

    fn simple_reached(halves: [&[u64]; 2], values: &[u64]) -> u64 {
        let holds = |bar: u64| {
            halves.iter().all(|half| {
                quorums(half).iter().any(|q| q.iter().all(|&id| values[id as usize - 1] >= bar))
            })
        };
        if halves.iter().all(|half| half.is_empty()) {
            return u64::MAX;
        }
        (0..=values.iter().copied().max().unwrap_or(0)).rev().find(|&bar| holds(bar)).unwrap_or(0)
    }

    fn simple_votes(halves: [&[u64]; 2], votes: &[Option<bool>]) -> VoteResult {
        let all = |half: &[u64], wanted: &dyn Fn(Option<bool>) -> bool| {
            quorums(half).iter().any(|q| q.iter().all(|&id| wanted(votes[id as usize - 1])))
        };
        if halves.iter().all(|half| all(half, &|vote| vote == Some(true))) {
            VoteResult::Won
        } else if halves.iter().all(|half| all(half, &|vote| vote != Some(false))) {
            VoteResult::Pending
        } else {
            VoteResult::Lost
        }
    }

    fn subsets(members: u64) -> Vec<Vec<u64>> {
        (0..1u32 << members)
            .map(|mask| (1..=members).filter(|id| mask & 1 << (id - 1) != 0).collect())
            .collect()
    }

    fn set(ids: &[u64]) -> NodeSet {
        ids.iter().map(|&id| NodeId(id)).collect()
    }

    /// Counts through all `length`-digit numbers of the given base.
    fn all_digits(length: u32, base: u64, mut visit: impl FnMut(&[u64])) {
        let mut digits = vec![0; length as usize];
        for number in 0..base.pow(length) {
            let mut rest = number;
            for digit in &mut digits {
                *digit = rest % base;
                rest /= base;
            }
            visit(&digits);
        }
    }

    #[test]
    fn a_reached_index_is_that_of_the_simple_implementation_for_five_members_and_indexes_to_four() {
        let all = subsets(5);
        // 1,024 joint configurations, 3,125 logs each: the same 3.2 million cases at every run.
        for incoming in &all {
            for outgoing in &all {
                let halves = [set(incoming), set(outgoing)];
                let lists = [incoming.as_slice(), outgoing.as_slice()];
                // Values of members outside the configuration cannot matter; they are left at 0.
                let inside: Vec<u64> =
                    (1..=5).filter(|id| incoming.contains(id) || outgoing.contains(id)).collect();
                let quorums = lists.map(quorums);
                all_digits(inside.len() as u32, 5, |digits| {
                    let mut values = [0; 5];
                    for (&id, &digit) in inside.iter().zip(digits) {
                        values[id as usize - 1] = digit;
                    }
                    let got =
                        joint_reached([&halves[0], &halves[1]], |id| values[id.0 as usize - 1]);
                    let expected = if inside.is_empty() {
                        u64::MAX
                    } else {
                        let holds = |bar: u64| {
                            quorums.iter().all(|half| {
                                half.iter()
                                    .any(|q| q.iter().all(|&id| values[id as usize - 1] >= bar))
                            })
                        };
                        (0..5).rev().find(|&bar| holds(bar)).unwrap_or(0)
                    };
                    assert_eq!(got, expected, "{incoming:?} {outgoing:?} {values:?}");
                });
            }
        }
    }

    #[test]
    fn a_vote_ends_as_in_the_simple_implementation_for_all_ballots_of_five_members() {
        let all = subsets(5);
        for incoming in &all {
            for outgoing in &all {
                let halves = [set(incoming), set(outgoing)];
                all_digits(5, 3, |digits| {
                    let votes: Vec<Option<bool>> = digits
                        .iter()
                        .map(|&d| [None, Some(false), Some(true)][d as usize])
                        .collect();
                    let got =
                        joint_vote_result([&halves[0], &halves[1]], |id| votes[id.0 as usize - 1]);
                    assert_eq!(
                        got,
                        simple_votes([incoming, outgoing], &votes),
                        "{incoming:?} {outgoing:?} {votes:?}"
                    );
                });
            }
        }
    }

    #[test]
    fn a_million_random_joint_configurations_of_nine_members_agree_with_the_simple_implementation()
    {
        let mut random = crate::raft::random::Random::new(6);
        let mut cases = 0;
        while cases < 1_000_000 {
            let pick = |random: &mut crate::raft::random::Random| -> Vec<u64> {
                let mask = random.below(1 << 9);
                (1..=9).filter(|id| mask & 1 << (id - 1) != 0).take(5).collect()
            };
            let (incoming, outgoing) = (pick(&mut random), pick(&mut random));
            let halves = [set(&incoming), set(&outgoing)];
            // Many logs for each configuration: making the subsets is the slow part.
            for _ in 0..1000 {
                let values: Vec<u64> = (0..9).map(|_| random.below(12)).collect();
                let got = joint_reached([&halves[0], &halves[1]], |id| values[id.0 as usize - 1]);
                if cases % 50 == 0 {
                    assert_eq!(got, simple_reached([&incoming, &outgoing], &values));
                } else if got != u64::MAX {
                    let at_least = |half: &[u64], bar| {
                        half.iter().filter(|&&id| values[id as usize - 1] >= bar).count() * 2
                            > half.len()
                            || half.is_empty()
                    };
                    assert!(at_least(&incoming, got) && at_least(&outgoing, got));
                    assert!(!(at_least(&incoming, got + 1) && at_least(&outgoing, got + 1)));
                }
                cases += 1;
            }
        }
    }

    #[test]
    fn two_quorums_of_one_set_always_share_a_member() {
        for voters in subsets(7).iter().filter(|voters| !voters.is_empty()) {
            let all = quorums(voters);
            for a in &all {
                assert!(a.len() >= majority(voters.len()));
                assert!(all.iter().all(|b| a.iter().any(|id| b.contains(id))), "{voters:?}");
            }
        }
    }
}
