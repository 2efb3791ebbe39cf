//! The only voter of a cluster, and the contract with the caller that every member shares.

use bytes::Bytes;

use super::*;

fn sole_voter() -> Raft {
    let configuration = Configuration::of_voters([NodeId(1)]);
    Raft::new(
        Config::new(NodeId(1)),
        HardState::default(),
        configuration,
        (LogIndex(0), Term(0)),
        Vec::new(),
        LogIndex(0),
    )
    .unwrap()
}

/// Takes everything there is to do; the disk is fast, and applying does nothing.
fn settle(raft: &mut Raft) -> Vec<Ready> {
    let mut all = Vec::new();
    while let Some(ready) = raft.ready() {
        if let Some(persist) = &ready.persist {
            raft.persisted(persist.token);
        }
        for entry in &ready.committed {
            match entry.kind {
                EntryKind::Normal => raft.applied(entry.index),
                EntryKind::ConfChange => {
                    let change = ConfChange::decode(&entry.data).unwrap();
                    raft.apply_conf_change(entry.index, &change).unwrap();
                }
            }
        }
        assert_eq!(raft.complaint(), None);
        all.push(ready);
    }
    all
}

fn leader() -> Raft {
    let mut raft = sole_voter();
    raft.campaign();
    settle(&mut raft);
    assert!(raft.is_leader());
    raft
}

#[test]
fn a_sole_voter_leads_after_its_vote_is_durable_and_commits_after_its_entry_is() {
    let mut raft = sole_voter();
    assert_eq!(raft.ready(), None);
    raft.campaign();

    let ready = raft.ready().unwrap();
    let vote = ready.persist.unwrap();
    let expected = HardState { term: Term(1), vote: Some(NodeId(1)), commit: LogIndex(0) };
    assert_eq!(vote.hard_state, Some(expected));
    assert!(!raft.is_leader());
    assert_eq!(raft.ready(), None);

    raft.persisted(vote.token);
    assert!(raft.is_leader());
    let ready = raft.ready().unwrap();
    let entry = ready.persist.unwrap();
    assert_eq!(entry.entries.len(), 1);
    assert!(entry.entries[0].data.is_empty());
    assert_eq!(raft.commit_index(), LogIndex(0));
    assert_eq!(ready.soft_state.unwrap().leader, Some(NodeId(1)));

    raft.persisted(entry.token);
    let ready = raft.ready().unwrap();
    assert_eq!(ready.committed.len(), 1);
    assert_eq!(ready.persist, None);
    raft.applied(LogIndex(1));
    assert_eq!(raft.ready(), None);
}

#[test]
fn a_sole_voter_that_is_not_asked_to_campaigns_after_its_timeout() {
    let mut raft = sole_voter();
    for _ in 0..20 {
        raft.tick();
    }
    settle(&mut raft);
    assert!(raft.is_leader());
}

#[test]
fn entries_proposed_between_two_readys_are_one_persist_and_their_bytes_are_not_copied() {
    let mut raft = leader();
    let data: Vec<Bytes> = (0..100u8).map(|i| vec![i; 100].into()).collect();
    for piece in &data {
        raft.propose(piece.clone()).unwrap();
    }
    let persist = raft.ready().unwrap().persist.unwrap();
    assert_eq!(persist.entries.len(), 100);
    for (entry, piece) in persist.entries.iter().zip(&data) {
        assert_eq!(entry.data.as_ptr(), piece.as_ptr());
    }
    raft.persisted(persist.token);
    assert_eq!(raft.ready().unwrap().committed.len(), 100);
}

#[test]
fn a_read_is_answered_in_the_next_ready_while_the_disk_is_busy() {
    let mut raft = leader();
    raft.propose(Bytes::from_static(b"not durable")).unwrap();
    let persist = raft.ready().unwrap().persist.unwrap();
    raft.read_index(1).unwrap();
    raft.read_index(2).unwrap();
    let index = LogIndex(1);
    let states = [ReadState { ctx: 1, index }, ReadState { ctx: 2, index }];
    assert_eq!(raft.ready().unwrap().read_states, states);
    raft.persisted(persist.token);
    raft.read_index(3).unwrap();
    assert_eq!(raft.ready().unwrap().read_states, [ReadState { ctx: 3, index: LogIndex(2) }]);
}

#[test]
fn a_read_before_the_first_commit_of_the_term_waits_for_it() {
    let mut raft = sole_voter();
    assert_eq!(raft.read_index(1), Err(ReadError::NoLeader));
    raft.campaign();
    let vote = raft.ready().unwrap().persist.unwrap();
    raft.persisted(vote.token);
    raft.read_index(1).unwrap();
    let entry = raft.ready().unwrap();
    assert_eq!(entry.read_states, []);
    raft.persisted(entry.persist.unwrap().token);
    let index = LogIndex(1);
    assert_eq!(raft.ready().unwrap().read_states, [ReadState { ctx: 1, index }]);
}

#[test]
fn a_read_context_is_not_taken_twice() {
    let mut raft = leader();
    raft.read_index(7).unwrap();
    assert_eq!(raft.read_index(7), Err(ReadError::ContextReused { context: 7 }));
    assert_eq!(raft.read_index(6), Err(ReadError::ContextReused { context: 6 }));
}

#[test]
fn a_commit_index_alone_causes_no_write_and_goes_with_the_next() {
    let mut raft = leader();
    raft.propose(Bytes::from_static(b"a")).unwrap();
    let first = raft.ready().unwrap().persist.unwrap();
    raft.persisted(first.token);
    let ready = raft.ready().unwrap();
    assert_eq!((ready.committed.len(), ready.persist), (1, None));
    raft.propose(Bytes::from_static(b"b")).unwrap();
    let second = raft.ready().unwrap().persist.unwrap();
    assert_eq!(second.hard_state.unwrap().commit, LogIndex(2));
}

#[test]
fn several_persists_may_be_under_way_and_one_token_ends_all_before_it() {
    let mut raft = leader();
    let mut tokens = Vec::new();
    for piece in ["a", "b", "c"] {
        raft.propose(Bytes::from_static(piece.as_bytes())).unwrap();
        tokens.push(raft.ready().unwrap().persist.unwrap().token);
    }
    raft.persisted(tokens[1]);
    assert_eq!(raft.ready().unwrap().committed.len(), 2);
    raft.persisted(tokens[0]);
    assert_eq!(raft.ready(), None);
    raft.persisted(tokens[2]);
    assert_eq!(raft.ready().unwrap().committed.len(), 1);
}

#[test]
fn a_leader_refuses_proposals_while_too_much_is_uncommitted() {
    let mut config = Config::new(NodeId(1));
    config.uncommitted_bytes_max = 1000;
    let configuration = Configuration::of_voters([NodeId(1)]);
    let zero = (LogIndex(0), Term(0));
    let mut raft =
        Raft::new(config, HardState::default(), configuration, zero, Vec::new(), LogIndex(0))
            .unwrap();
    assert_eq!(raft.propose(Bytes::new()), Err(ProposeError::NoLeader));
    raft.campaign();
    settle(&mut raft);
    // Larger than the limit, but nothing else is waiting.
    raft.propose(vec![0; 2000].into()).unwrap();
    let bytes = 2000 + Entry::OVERHEAD_BYTES;
    assert_eq!(raft.propose(Bytes::new()), Err(ProposeError::TooManyUncommitted { bytes }));
    settle(&mut raft);
    raft.propose(Bytes::new()).unwrap();
}

#[test]
fn committed_entries_come_in_pages_of_bounded_size() {
    let mut config = Config::new(NodeId(1));
    config.committed_bytes_max = 10 * (100 + Entry::OVERHEAD_BYTES);
    let configuration = Configuration::of_voters([NodeId(1)]);
    let zero = (LogIndex(0), Term(0));
    let mut raft =
        Raft::new(config, HardState::default(), configuration, zero, Vec::new(), LogIndex(0))
            .unwrap();
    raft.campaign();
    settle(&mut raft);
    for _ in 0..25 {
        raft.propose(vec![0; 100].into()).unwrap();
    }
    let pages: Vec<usize> = settle(&mut raft).iter().map(|ready| ready.committed.len()).collect();
    assert_eq!(pages, [0, 10, 10, 5]);
}

#[test]
fn compaction_drops_what_is_applied_and_only_that() {
    let mut raft = leader();
    for _ in 0..10 {
        raft.propose(vec![0; 100].into()).unwrap();
    }
    let persist = raft.ready().unwrap().persist.unwrap();
    assert_eq!(raft.compact(LogIndex(11)), LogIndex(1));
    raft.persisted(persist.token);
    settle(&mut raft);
    assert_eq!(raft.compact(LogIndex(6)), LogIndex(6));
    assert_eq!(raft.log_bytes(), 5 * (100 + Entry::OVERHEAD_BYTES));
    assert_eq!(raft.term_at(LogIndex(6)), Some(Term(1)));
    assert_eq!(raft.term_at(LogIndex(5)), None);
    assert_eq!(raft.compact(LogIndex(3)), LogIndex(6));
    assert_eq!(raft.compact(LogIndex(99)), LogIndex(11));
    assert_eq!(raft.log_bytes(), 0);
    raft.propose(Bytes::from_static(b"goes on")).unwrap();
    assert_eq!(settle(&mut raft).iter().map(|ready| ready.committed.len()).sum::<usize>(), 1);
}

#[test]
fn a_restart_applies_what_was_committed_and_goes_on_in_the_next_term() {
    let entry = |index, term| Entry {
        term: Term(term),
        index: LogIndex(index),
        kind: EntryKind::Normal,
        data: Bytes::new(),
    };
    let hard_state = HardState { term: Term(3), vote: Some(NodeId(1)), commit: LogIndex(6) };
    let mut raft = Raft::new(
        Config::new(NodeId(1)),
        hard_state,
        Configuration::of_voters([NodeId(1)]),
        (LogIndex(4), Term(2)),
        vec![entry(5, 2), entry(6, 3), entry(7, 3)],
        LogIndex(5),
    )
    .unwrap();
    let ready = raft.ready().unwrap();
    assert_eq!(ready.committed, [entry(6, 3)]);
    assert_eq!(ready.persist, None);
    raft.campaign();
    raft.applied(LogIndex(6));
    let committed: Vec<Entry> =
        settle(&mut raft).into_iter().flat_map(|ready| ready.committed).collect();
    assert_eq!(committed, [entry(7, 3), entry(8, 4)]);
    assert_eq!(raft.term(), Term(4));
}

#[test]
fn a_campaign_asked_for_too_early_waits_for_a_configuration_change_to_be_applied() {
    let change = ConfChange::of(ChangeStep::AddLearner(NodeId(2)));
    let entry = Entry {
        term: Term(1),
        index: LogIndex(1),
        kind: EntryKind::ConfChange,
        data: change.encode(),
    };
    let hard_state = HardState { term: Term(1), vote: None, commit: LogIndex(1) };
    let configuration = Configuration::of_voters([NodeId(1)]);
    let zero = (LogIndex(0), Term(0));
    let mut raft = Raft::new(
        Config::new(NodeId(1)),
        hard_state,
        configuration,
        zero,
        vec![entry],
        LogIndex(0),
    )
    .unwrap();
    raft.campaign();
    assert_eq!(raft.role(), Role::Follower);
    let ready = raft.ready().unwrap();
    assert_eq!(ready.committed.len(), 1);
    raft.apply_conf_change(LogIndex(1), &change).unwrap();
    assert_eq!(raft.role(), Role::Candidate);
    assert!(raft.configuration().is_learner(NodeId(2)));
}

#[test]
fn a_log_that_cannot_be_is_refused_with_the_reason() {
    let entry = |index, term| Entry {
        term: Term(term),
        index: LogIndex(index),
        kind: EntryKind::Normal,
        data: Bytes::new(),
    };
    let start = |hard_state: HardState, entries: Vec<Entry>, applied: u64| {
        let configuration = Configuration::of_voters([NodeId(1)]);
        let log_start = (LogIndex(4), Term(2));
        Raft::new(
            Config::new(NodeId(1)),
            hard_state,
            configuration,
            log_start,
            entries,
            LogIndex(applied),
        )
        .err()
    };
    let hard_state = HardState { term: Term(3), vote: None, commit: LogIndex(5) };
    assert_eq!(start(hard_state, vec![entry(5, 2)], 4), None);
    assert_eq!(
        start(hard_state, vec![entry(6, 2)], 4),
        Some(RestoreError::Gap { expected: LogIndex(5), found: LogIndex(6) })
    );
    for term in [1, 4] {
        assert_eq!(
            start(hard_state, vec![entry(5, term)], 4),
            Some(RestoreError::TermOrder { index: LogIndex(5), term: Term(term) })
        );
    }
    assert_eq!(
        start(hard_state, vec![], 4),
        Some(RestoreError::CommitBeyondLog { commit: LogIndex(5), last: LogIndex(4) })
    );
    for applied in [3, 6] {
        let error = start(hard_state, vec![entry(5, 2)], applied);
        assert!(matches!(error, Some(RestoreError::AppliedOutsideLog { .. })), "{error:?}");
    }
}

#[test]
fn a_term_beyond_all_counting_is_refused() {
    let mut raft = leader();
    let term = raft.term();
    let committed = LogPosition::default();
    let body = Body::VoteResponse { granted: false, committed };
    for far in [(1 << 62) + 1, u64::MAX] {
        let message =
            Message { from: NodeId(2), to: raft.id(), term: Term(far), body: body.clone() };
        assert!(matches!(raft.step(message), Err(StepError::Malformed { .. })));
        assert_eq!(raft.term(), term);
    }
}
