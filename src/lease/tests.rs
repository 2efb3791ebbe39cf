use std::collections::BTreeMap;

use super::*;

const A: LeaseId = LeaseId(7);
const B: LeaseId = LeaseId(-3);

#[test]
fn a_lease_expires_when_its_time_is_over_and_is_handed_out_once() {
    let mut lessor = Lessor::new(500);
    lessor.grant(A, 10, 1000);
    assert_eq!(lessor.expired(10_999, 100), []);
    assert!(!lessor.is_expired(A, 10_999));
    assert!(lessor.is_expired(A, 11_000));
    assert_eq!(lessor.expired(11_000, 100), [A]);
    assert_eq!(lessor.expired(11_001, 100), []);
    assert!(lessor.contains(A), "until its revocation is applied");
    assert!(lessor.revoke(A));
    assert!(!lessor.revoke(A));
    assert_eq!((lessor.expired(1 << 40, 100), lessor.next_deadline()), (vec![], None));
}

#[test]
fn a_lease_that_is_not_revoked_is_handed_out_again() {
    let mut lessor = Lessor::new(0);
    lessor.grant(A, 2, 0);
    assert_eq!(lessor.expired(2000, 100), [A]);
    assert_eq!(lessor.expired(4999, 100), []);
    assert_eq!(lessor.expired(5000, 100), [A]);
    assert_eq!(lessor.expired(9000, 100), [A]);
}

#[test]
fn a_renewed_lease_lives_on() {
    let mut lessor = Lessor::new(0);
    lessor.grant(A, 5, 0);
    assert_eq!(lessor.renew(A, 4000), Some(5));
    assert_eq!(lessor.expired(8999, 100), []);
    assert_eq!(lessor.renew(A, 8999), Some(5));
    assert_eq!(lessor.expired(13_998, 100), []);
    assert_eq!(lessor.expired(13_999, 100), [A]);
    assert_eq!(lessor.renew(B, 0), None);
}

#[test]
fn an_expired_lease_is_not_renewed() {
    let mut lessor = Lessor::new(0);
    lessor.grant(A, 5, 0);
    assert_eq!(lessor.renew(A, 5000), None, "although nobody has asked for expired ones yet");
    assert_eq!(lessor.expired(5000, 100), [A]);
    assert_eq!(lessor.renew(A, 5001), None);
}

#[test]
fn remaining_time_is_told_in_whole_seconds() {
    let mut lessor = Lessor::new(0);
    lessor.grant(A, 5, 100);
    for (now_ms, remaining_s) in [(100, 5), (101, 4), (4101, 0), (5100, 0), (6099, 0), (6100, -1)] {
        assert_eq!(lessor.remaining_s(A, now_ms), Some(remaining_s), "at {now_ms}");
    }
    assert_eq!((lessor.ttl(A), lessor.ttl(B), lessor.remaining_s(B, 0)), (Some(5), None, None));
}

#[test]
fn at_most_so_many_are_handed_out_at_once_and_none_is_forgotten() {
    let mut lessor = Lessor::new(0);
    for id in 1..=1000 {
        lessor.grant(LeaseId(id), 10, 0);
    }
    let mut handed_out = Vec::new();
    for _ in 0..4 {
        let expired = lessor.expired(10_000, 300);
        assert!(expired.len() <= 300);
        handed_out.extend(expired);
    }
    assert_eq!(handed_out, (1..=1000).map(LeaseId).collect::<Vec<_>>());
}

#[test]
fn a_crowd_of_leases_is_looked_at_in_steps() {
    let count = 5 * i64::from(MOVES_PER_CALL_MAX);
    let mut lessor = Lessor::new(0);
    for id in 1..=count {
        lessor.grant(LeaseId(id), 60, 0);
    }
    let (mut handed_out, mut calls) = (0, 0);
    while handed_out < count as usize {
        assert!(lessor.next_deadline().is_some_and(|at| at <= 60_000));
        handed_out += lessor.expired(60_000, usize::MAX).len();
        calls += 1;
    }
    assert!(calls > 5, "{calls} calls");
}

#[test]
fn a_new_leader_gives_all_leases_their_full_time() {
    let mut lessor = Lessor::new(0);
    lessor.grant(A, 5, 0);
    lessor.grant(B, 100, 0);
    assert_eq!(lessor.expired(6000, 100), [A], "its revocation was never committed");
    lessor.extend_all(7000, 1000);
    assert!(!lessor.is_expired(A, 12_999) && lessor.is_expired(A, 13_000));
    assert_eq!(lessor.expired(7400, 100), []);
    assert_eq!(lessor.remaining_s(B, 7000), Some(101));
    // A renewal takes the extra time away again, and the wheel must not look too late.
    assert_eq!(lessor.renew(A, 7500), Some(5));
    assert_eq!(lessor.expired(12_499, 100), []);
    assert_eq!(lessor.expired(12_500, 100), [A]);
    assert_eq!(lessor.expired(108_000, 100), [A, B]);
}

#[test]
fn the_list_is_ordered_by_expiry() {
    let mut lessor = Lessor::new(0);
    for (id, ttl_s) in [(1, 30), (2, 10), (3, 20), (5, 20), (4, 20)] {
        lessor.grant(LeaseId(id), ttl_s, 0);
    }
    lessor.renew(LeaseId(2), 5000);
    lessor.renew(LeaseId(3), 7000);
    assert_eq!(lessor.list(), [2, 4, 5, 3, 1].map(LeaseId));
}

#[test]
fn the_longest_lease_fits() {
    let mut lessor = Lessor::new(0);
    lessor.grant(A, TTL_MAX_S, 1 << 40);
    assert_eq!(lessor.remaining_s(A, 1 << 40), Some(TTL_MAX_S));
    assert_eq!(lessor.expired((1 << 40) + 8_999_999_999_999, 1), []);
    assert_eq!(lessor.expired((1 << 40) + 9_000_000_000_000, 1), [A]);
}

/// The same in the plainest way: every lease is looked at every time.
#[derive(Default)]
struct Model(BTreeMap<LeaseId, (i64, u64, u64)>);

impl Model {
    fn expired(&mut self, now_ms: u64) -> Vec<LeaseId> {
        let due = |&(_, expiry_ms, retry_ms): &(i64, u64, u64)| expiry_ms.max(retry_ms);
        let mut expired: Vec<_> = self
            .0
            .iter_mut()
            .filter(|(_, lease)| due(lease) <= now_ms)
            .map(|(&id, lease)| {
                lease.2 = now_ms + EXPIRED_RETRY_MS;
                id
            })
            .collect();
        expired.sort_unstable();
        expired
    }
}

#[test]
fn the_lessor_agrees_with_a_list_of_all_leases() {
    for seed in 0..20u64 {
        let mut state = seed;
        let mut below = |n: u64| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % n
        };
        let mut now_ms = below(1 << 30);
        let mut lessor = Lessor::new(now_ms);
        let mut model = Model::default();
        for _ in 0..5000 {
            let id = LeaseId(below(60) as i64 + 1);
            match below(20) {
                0..5 => {
                    let ttl_s = [2, 5, 60, 3600, 100_000][below(5) as usize];
                    if !lessor.contains(id) {
                        lessor.grant(id, ttl_s, now_ms);
                        model.0.insert(id, (ttl_s, now_ms + ttl_s as u64 * 1000, 0));
                    }
                }
                5..12 => {
                    let expected =
                        model.0.get_mut(&id).filter(|lease| lease.1 > now_ms).map(|lease| {
                            lease.1 = now_ms + lease.0 as u64 * 1000;
                            lease.0
                        });
                    assert_eq!(lessor.renew(id, now_ms), expected);
                }
                12 => assert_eq!(lessor.revoke(id), model.0.remove(&id).is_some()),
                13 if below(20) == 0 => {
                    let extra_ms = below(3000);
                    lessor.extend_all(now_ms, extra_ms);
                    for lease in model.0.values_mut() {
                        *lease = (lease.0, now_ms + lease.0 as u64 * 1000 + extra_ms, 0);
                    }
                }
                _ => {
                    let span_ms = [20, 2000, 100_000][below(3) as usize];
                    now_ms += below(span_ms);
                    let next_ms = model.0.values().map(|lease| lease.1.max(lease.2)).min();
                    assert_eq!(lessor.next_deadline().is_some(), next_ms.is_some());
                    assert!(lessor.next_deadline() <= next_ms);
                    let mut expired = lessor.expired(now_ms, usize::MAX);
                    expired.sort_unstable();
                    assert_eq!(expired, model.expired(now_ms), "seed {seed}, at {now_ms}");
                }
            }
            assert_eq!(lessor.len(), model.0.len());
            let lease = model.0.get(&id);
            assert_eq!(lessor.ttl(id), lease.map(|lease| lease.0));
            assert_eq!(lessor.is_expired(id, now_ms), lease.is_some_and(|lease| lease.1 <= now_ms));
        }
        let mut by_expiry: Vec<_> = model.0.iter().map(|(&id, lease)| (lease.1, id)).collect();
        by_expiry.sort_unstable();
        assert_eq!(lessor.list(), by_expiry.into_iter().map(|(_, id)| id).collect::<Vec<_>>());
    }
}
