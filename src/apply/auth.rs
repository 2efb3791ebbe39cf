//! Permissions of entries, and the requests that change them.
//!
//! An entry is checked when it is applied, as of then: whoever proposed it has only said on whose behalf. What was
//! permitted when it was proposed and is not any more does not happen.

use super::envelope::Request;
use super::{Applier, ApplyError, Reply, state};
use crate::auth::access::{self, Need, Visit};
use crate::auth::{self, Auth, Identity};
use crate::lease::LeaseId;
use crate::mvcc::MvccError;
use crate::store::Store;

pub(super) fn load(store: &Store) -> Result<Auth, MvccError> {
    let mut auth = Auth::default();
    let mut cursor = store.view().cursor(state::META);
    let mut more = cursor.seek(state::AUTH)?;
    while more && let Some(key) = cursor.key().strip_prefix(state::AUTH) {
        let taken = auth.load(key, cursor.value()?);
        taken.map_err(|_| MvccError::damaged("a record of users or roles"))?;
        more = cursor.next()?;
    }
    auth.loaded();
    Ok(auth)
}

impl Applier {
    /// Whether somebody may have all that a request needs, which `walk` tells.
    pub fn permits<'r>(
        &self,
        who: &Identity,
        walk: impl FnOnce(Visit<'r, '_, ApplyError>) -> Result<(), ApplyError>,
    ) -> Result<(), ApplyError> {
        walk(&mut access::once_per_lease(|need| self.permits_one(who, need)))
    }

    fn permits_one(&self, who: &Identity, need: Need<'_>) -> Result<(), ApplyError> {
        match need {
            Need::Keys { right, key, range_end } => {
                Ok(self.auth.permits(who, right, key, range_end)?)
            }
            Need::Lease { right, lease } => {
                // etcd asks an administrator nothing here, not even for a new token.
                if !self.lessor.contains(LeaseId(lease)) || self.auth.require_admin(who).is_ok() {
                    return Ok(());
                }
                let mut keys = self.mvcc.reader(self.store.view()).keys_of_lease(lease);
                while let Some(key) = keys.next()? {
                    self.lease_keys_checked.update(|count| count + 1);
                    self.auth.permits(who, right, key, b"")?;
                }
                Ok(())
            }
        }
    }

    /// Whether an entry may take effect.
    pub(super) fn authorize(&self, who: &Identity, request: &Request) -> Result<(), ApplyError> {
        match request {
            Request::Put(request) => self.permits(who, |visit| access::put(request, visit)),
            Request::DeleteRange(request) => {
                self.permits(who, |visit| access::delete_range(request, visit))
            }
            Request::Txn(request) => self.permits(who, |visit| access::txn(request, visit)),
            Request::LeaseRevoke(request) => {
                self.permits(who, |visit| access::lease_revoke(request.id, visit))
            }
            Request::Auth(request) => Ok(self.auth.admit(who, request)?),
            // The member that was asked has seen to it, before these were proposed; and members themselves
            // propose them.
            Request::Compaction(_) | Request::LeaseGrant(_) | Request::Alarm(_) => Ok(()),
            Request::MemberAttributes(_)
            | Request::Downgrade(_)
            | Request::ClusterVersion(_)
            | Request::Other => Ok(()),
        }
    }

    pub(super) fn apply_auth(
        &mut self,
        request: &auth::Request,
        now_ms: u64,
    ) -> Result<Reply, ApplyError> {
        let result = self.auth.apply(request, self.applied_index, now_ms);
        for record in self.auth.take_records() {
            assert!(result.is_ok(), "a request that fails changes nothing");
            let key = [state::AUTH, &record.key].concat();
            match record.value {
                Some(value) => {
                    self.store.put(state::META, &key, &value, false).map_err(MvccError::from)?;
                }
                None => {
                    self.store.delete(state::META, &key).map_err(MvccError::from)?;
                }
            }
        }
        Ok(self.reply(result?))
    }
}
