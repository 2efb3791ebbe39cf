//! Leases: never revoked by the cluster before their time is over, and at last revoked.
//!
//! "Before their time" is judged as a client must judge it: from the moment at which it sent the
//! last renewal that was granted, on a clock that runs as fast as any member's may.

use std::collections::HashMap;

use crate::truth::Check;

/// Members' clocks show whole milliseconds.
const CLOCK_STEP_US: u64 = 1_100;

struct Lease {
    ttl_s: i64,
    /// When its client heard that it was granted. An id may be granted again after its lease has
    /// ended: what was asked before this may be about the former one.
    granted_us: u64,
    /// Until then, at least, it has to be there.
    alive_until_us: u64,
    revoked_us: Option<u64>,
}

pub struct Leases {
    leases: HashMap<i64, Lease>,
    /// By how many millionths a member's clock may run fast.
    skew_ppm: u64,
    pub expired: u64,
    pub renewed: u64,
}

impl Leases {
    pub fn new(skew_ppm: u64) -> Leases {
        Leases { leases: HashMap::new(), skew_ppm, expired: 0, renewed: 0 }
    }

    /// The shortest that a member's clock may take for so many seconds.
    fn least_us(&self, ttl_s: i64) -> u64 {
        let least_us = ttl_s as u64 * 1_000_000 * 1_000_000 / (1_000_000 + self.skew_ppm);
        least_us - CLOCK_STEP_US
    }

    /// A client asked at `sent_us`, and hears now that `ttl_s` seconds were granted.
    pub fn granted(&mut self, id: i64, ttl_s: i64, sent_us: u64, now_us: u64) -> Check {
        let alive_until_us = sent_us + self.least_us(ttl_s);
        let is_there = |lease: &Lease| lease.revoked_us.is_none();
        // The answer of a former life, if it comes that late.
        if !self.leases.get(&id).is_some_and(is_there) {
            let lease = Lease { ttl_s, granted_us: now_us, alive_until_us, revoked_us: None };
            self.leases.insert(id, lease);
        }
        Ok(())
    }

    /// A client asked at `sent_us`, and was told that the lease has `ttl_s` seconds again.
    pub fn renewed(&mut self, id: i64, ttl_s: i64, sent_us: u64) -> Check {
        let alive_until_us = sent_us + self.least_us(ttl_s);
        // Granted by a request that was given up.
        let Some(lease) = self.leases.get_mut(&id) else { return Ok(()) };
        if sent_us < lease.granted_us {
            return Ok(());
        }
        if ttl_s != lease.ttl_s {
            return Err(format!("lease {id:x} of {} s was renewed for {ttl_s} s", lease.ttl_s));
        }
        self.renewed += 1;
        if let Some(revoked_us) = lease.revoked_us
            && revoked_us < alive_until_us
        {
            return Err(format!(
                "lease {id:x} of {ttl_s} s was renewed at {sent_us} us or later, and expired at {revoked_us} us"
            ));
        }
        lease.alive_until_us = lease.alive_until_us.max(alive_until_us);
        Ok(())
    }

    /// The cluster itself has revoked a lease: that is committed at `now_us`.
    pub fn expired(&mut self, id: i64, now_us: u64) -> Check {
        let Some(lease) = self.leases.get_mut(&id) else { return Ok(()) };
        self.expired += 1;
        lease.revoked_us.get_or_insert(now_us);
        if now_us < lease.alive_until_us {
            return Err(format!(
                "lease {id:x} of {} s expired at {now_us} us, {} us too early",
                lease.ttl_s,
                lease.alive_until_us - now_us
            ));
        }
        Ok(())
    }

    /// A client has revoked it.
    pub fn revoked(&mut self, id: i64) {
        self.leases.remove(&id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: u64 = 1_000_000;

    #[test]
    fn an_expiry_in_time_passes_and_an_early_one_is_found() {
        let mut leases = Leases::new(0);
        leases.granted(1, 5, 10 * S, 10 * S).unwrap();
        let early = leases.expired(1, 15 * S - CLOCK_STEP_US - 1);
        assert!(early.unwrap_err().contains("1 us too early"));
        leases.expired(1, 15 * S).unwrap();
        leases.granted(2, 5, 10 * S, 10 * S).unwrap();
        leases.renewed(2, 5, 14 * S).unwrap();
        assert!(leases.expired(2, 15 * S).is_err());
        leases.expired(2, 19 * S).unwrap();
    }

    #[test]
    fn a_renewal_that_was_answered_although_the_lease_is_gone_is_found() {
        let mut leases = Leases::new(0);
        leases.granted(1, 5, 0, 0).unwrap();
        leases.expired(1, 6 * S).unwrap();
        assert!(leases.renewed(1, 5, 4 * S).is_err());
        leases.renewed(1, 5, S).unwrap();
    }

    #[test]
    fn a_clock_that_runs_fast_may_take_less() {
        let mut leases = Leases::new(100_000);
        leases.granted(1, 11, 0, 0).unwrap();
        assert!(leases.expired(1, 10 * S - CLOCK_STEP_US - 1).is_err());
        leases.expired(1, 10 * S).unwrap();
    }

    #[test]
    fn a_renewal_for_another_time_is_found() {
        let mut leases = Leases::new(0);
        leases.granted(1, 5, 0, 0).unwrap();
        assert!(leases.renewed(1, 4, 0).is_err());
    }

    #[test]
    fn an_id_that_is_granted_again_is_another_lease() {
        let mut leases = Leases::new(0);
        leases.granted(1, 5, 0, S).unwrap();
        leases.expired(1, 6 * S).unwrap();
        leases.granted(1, 2, 7 * S, 8 * S).unwrap();
        leases.renewed(1, 5, 3 * S).unwrap();
        leases.renewed(1, 2, 8 * S).unwrap();
        assert!(leases.renewed(1, 5, 8 * S).is_err());
        assert!(leases.expired(1, 9 * S).is_err());
    }
}
