//! Leases: which there are, how long they live, and which have expired.
//!
//! A lease's record is persisted by `apply`, and its keys are found in the store: nothing here grows with
//! the number of keys. Expiry is decided by the leader's clock alone. Every member keeps the wheel, only
//! the leader asks it, and a new leader first gives all leases their full time again
//! ([`Lessor::extend_all`]), since it does not know when they were last renewed.
//!
//! Invariants
//! * Each lease is in the wheel exactly once, at a time not after the one at which it has to be looked at:
//!   its expiry, or the retry once it was handed out. A renewal moves the expiry only; the wheel finds out
//!   when it gets there. So renewing costs one look-up.
//! * An expired lease is never renewed. It ends when its revocation is applied, or with a new leader.
//!
//! It does not know who leads, how a revocation is proposed, nor the clock: time is an argument, in
//! milliseconds, and never goes back.

mod wheel;

use std::{collections::HashMap, collections::hash_map::Entry};

use slab::Slab;

use self::wheel::Wheel;

/// An expired lease that has not been revoked by then is handed out again: the proposal may have been
/// lost. etcd's interval.
pub const EXPIRED_RETRY_MS: u64 = 3000;

/// Largest time to live, in seconds. etcd's limit; callers refuse more.
pub const TTL_MAX_S: i64 = 9_000_000_000;

/// Leases looked at in one call of [`Lessor::expired`] that turn out not to be due, or have to move
/// in the wheel. At some 20 ns each well under a millisecond.
const MOVES_PER_CALL_MAX: u32 = 4096;

/// Chosen by the client, or by the server and then positive. Never 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaseId(pub i64);

struct Lease {
    id: LeaseId,
    ttl_s: i64,
    expiry_ms: u64,
    /// Not to be handed out before. 0 until it is handed out.
    retry_ms: u64,
}

pub struct Lessor {
    /// A lease's key here is its token in the wheel.
    leases: Slab<Lease>,
    /// Clients choose ids, so the hash is keyed. Its order is never looked at.
    by_id: HashMap<LeaseId, usize>,
    wheel: Wheel,
}

impl Lessor {
    pub fn new(now_ms: u64) -> Lessor {
        Lessor { leases: Slab::new(), by_id: HashMap::new(), wheel: Wheel::new(now_ms) }
    }

    pub fn len(&self) -> usize {
        self.leases.len()
    }

    pub fn is_empty(&self) -> bool {
        self.leases.is_empty()
    }

    /// Adds a lease that is granted now, or read back from its record. The caller has checked that the id
    /// is new, and brought the time to live within its limits.
    pub fn grant(&mut self, id: LeaseId, ttl_s: i64, now_ms: u64) {
        let Entry::Vacant(place) = self.by_id.entry(id) else { panic!("lease {} exists", id.0) };
        let expiry_ms = expiry_ms(ttl_s, now_ms);
        let token = self.leases.insert(Lease { id, ttl_s, expiry_ms, retry_ms: 0 });
        place.insert(token);
        self.wheel.insert(as_token(token), expiry_ms);
    }

    /// Ends a lease. False if there is none.
    pub fn revoke(&mut self, id: LeaseId) -> bool {
        let Some(token) = self.by_id.remove(&id) else { return false };
        self.leases.remove(token);
        assert!(self.wheel.remove(as_token(token)), "each lease is in the wheel");
        true
    }

    /// Gives a lease its full time again and returns its time to live in seconds. `None` if there is no
    /// such lease, or if it has expired: then its revocation is on its way, and the caller who asked
    /// [`Lessor::is_expired`] first waits for that.
    pub fn renew(&mut self, id: LeaseId, now_ms: u64) -> Option<i64> {
        let token = *self.by_id.get(&id)?;
        let lease = self.leases.get(token)?;
        if lease.expiry_ms <= now_ms {
            return None;
        }
        let ttl_s = lease.ttl_s;
        self.set_expiry(token, expiry_ms(ttl_s, now_ms));
        Some(ttl_s)
    }

    pub fn contains(&self, id: LeaseId) -> bool {
        self.by_id.contains_key(&id)
    }

    /// Granted time to live in seconds.
    pub fn ttl(&self, id: LeaseId) -> Option<i64> {
        self.lease(id).map(|lease| lease.ttl_s)
    }

    /// Seconds left, without fractions; below 0 for a lease that expired a second ago or earlier.
    pub fn remaining_s(&self, id: LeaseId, now_ms: u64) -> Option<i64> {
        let left_ms = self.lease(id)?.expiry_ms as i64 - now_ms as i64;
        Some(left_ms / 1000)
    }

    /// Whether the lease is there and its time is over.
    pub fn is_expired(&self, id: LeaseId, now_ms: u64) -> bool {
        self.lease(id).is_some_and(|lease| lease.expiry_ms <= now_ms)
    }

    /// At most `max` leases whose time is over, in the order of their expiry. Each is handed out once, and
    /// again whenever [`EXPIRED_RETRY_MS`] have passed and it is still there.
    pub fn expired(&mut self, now_ms: u64, max: usize) -> Vec<LeaseId> {
        let mut expired = Vec::new();
        let mut moves = MOVES_PER_CALL_MAX;
        while expired.len() < max && moves > 0 {
            let Some(token) = self.wheel.pop(now_ms, &mut moves) else { break };
            let Some(lease) = self.leases.get_mut(token as usize) else { continue };
            let mut look_ms = lease.expiry_ms.max(lease.retry_ms);
            if look_ms <= now_ms {
                expired.push(lease.id);
                look_ms = now_ms + EXPIRED_RETRY_MS;
                lease.retry_ms = look_ms;
            } else {
                moves -= 1;
            }
            self.wheel.insert(token, look_ms);
        }
        expired
    }

    /// A new leader's first act: all leases, expired ones too, get their full time and `extra_ms` more.
    pub fn extend_all(&mut self, now_ms: u64, extra_ms: u64) {
        for token in 0..self.leases.capacity() {
            let Some(lease) = self.leases.get_mut(token) else { continue };
            lease.retry_ms = 0;
            let expiry_ms = expiry_ms(lease.ttl_s, now_ms) + extra_ms;
            self.set_expiry(token, expiry_ms);
        }
    }

    /// All leases, those that expire first coming first.
    pub fn list(&self) -> Vec<LeaseId> {
        let mut leases: Vec<_> =
            self.leases.iter().map(|(_, lease)| (lease.expiry_ms, lease.id)).collect();
        leases.sort_unstable();
        leases.into_iter().map(|(_, id)| id).collect()
    }

    /// When [`Lessor::expired`] has something to do next. It may turn out that nothing has expired then.
    pub fn next_deadline(&self) -> Option<u64> {
        self.wheel.next_deadline()
    }

    fn lease(&self, id: LeaseId) -> Option<&Lease> {
        self.leases.get(*self.by_id.get(&id)?)
    }

    /// The wheel is only touched if it would look too late.
    fn set_expiry(&mut self, token: usize, expiry_ms: u64) {
        let Some(lease) = self.leases.get_mut(token) else { return };
        lease.expiry_ms = expiry_ms;
        let look_ms = expiry_ms.max(lease.retry_ms);
        let token = as_token(token);
        if self.wheel.when_ms(token).is_some_and(|when_ms| when_ms > look_ms) {
            self.wheel.remove(token);
            self.wheel.insert(token, look_ms);
        }
    }
}

fn expiry_ms(ttl_s: i64, now_ms: u64) -> u64 {
    now_ms + ttl_s.clamp(0, TTL_MAX_S) as u64 * 1000
}

fn as_token(key: usize) -> u32 {
    u32::try_from(key).expect("fewer than 2^32 leases")
}

#[cfg(test)]
mod tests;
