//! The conditions of a transaction.
//!
//! A condition on an interval holds if it holds for every key in it. Where there is no key it is
//! put to a key of zeros, save that a value which does not exist equals nothing, not even nothing.

use std::cmp::Ordering;

use super::error::MvccError;
use super::keys::{End, Interval, KeyBuf};
use super::reader::{Entry, Reader};
use super::record::{KeyMeta, value_of};
use super::revision::Revision;
use crate::proto::etcdserverpb::Compare;
use crate::proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};

impl Reader<'_> {
    /// Whether all conditions hold now. None at all hold.
    pub(super) fn all_hold(&self, compares: &[Compare]) -> Result<bool, MvccError> {
        for compare in compares {
            if !self.holds(compare)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn holds(&self, compare: &Compare) -> Result<bool, MvccError> {
        let interval = Interval::new(&compare.key, &compare.range_end);
        let current = self.revisions.current;
        if interval.end == End::Single {
            let mut key = KeyBuf::of(interval.start);
            return match self.visible(&mut key, current)? {
                None => Ok(holds_without_key(compare)),
                Some(version) => {
                    let (revision, meta) = (version.revision, version.meta);
                    self.holds_for(compare, &Entry { prefix: key.prefix(), revision, meta })
                }
            };
        }
        let mut scan = self.scan(interval, current);
        if !scan.next()? {
            return Ok(holds_without_key(compare));
        }
        loop {
            if !self.holds_for(compare, &scan.entry()?)? {
                return Ok(false);
            }
            if !scan.next()? {
                return Ok(true);
            }
        }
    }

    fn holds_for(&self, compare: &Compare, entry: &Entry<'_>) -> Result<bool, MvccError> {
        let ordering = if compare.target == CompareTarget::Value as i32 {
            let wanted: &[u8] = match &compare.target_union {
                Some(TargetUnion::Value(value)) => value,
                _ => b"",
            };
            value_of(self.stored(entry.revision)?)
                .ok_or_else(|| MvccError::damaged("a stored message is malformed"))?
                .cmp(wanted)
        } else {
            integer_ordering(compare, entry.revision, &entry.meta)
        };
        Ok(satisfies(compare, ordering))
    }
}

fn holds_without_key(compare: &Compare) -> bool {
    compare.target != CompareTarget::Value as i32
        && satisfies(compare, integer_ordering(compare, Revision::default(), &KeyMeta::default()))
}

/// What is stored, compared with what the condition names. A condition that names nothing, or
/// something other than its target, means 0; a target that nobody knows is equal to anything.
fn integer_ordering(compare: &Compare, modified: Revision, meta: &KeyMeta) -> Ordering {
    let Ok(target) = CompareTarget::try_from(compare.target) else { return Ordering::Equal };
    let (stored, wanted) = match (target, &compare.target_union) {
        (CompareTarget::Version, Some(TargetUnion::Version(wanted))) => (meta.version, *wanted),
        (CompareTarget::Version, _) => (meta.version, 0),
        (CompareTarget::Create, Some(TargetUnion::CreateRevision(wanted))) => {
            (meta.create, *wanted)
        }
        (CompareTarget::Create, _) => (meta.create, 0),
        (CompareTarget::Mod, Some(TargetUnion::ModRevision(wanted))) => (modified.main, *wanted),
        (CompareTarget::Mod, _) => (modified.main, 0),
        (CompareTarget::Lease, Some(TargetUnion::Lease(wanted))) => (meta.lease, *wanted),
        (CompareTarget::Lease, _) => (meta.lease, 0),
        (CompareTarget::Value, _) => return Ordering::Equal,
    };
    stored.cmp(&wanted)
}

fn satisfies(compare: &Compare, ordering: Ordering) -> bool {
    match CompareResult::try_from(compare.result) {
        Ok(CompareResult::Equal) => ordering.is_eq(),
        Ok(CompareResult::NotEqual) => ordering.is_ne(),
        Ok(CompareResult::Greater) => ordering.is_gt(),
        Ok(CompareResult::Less) => ordering.is_lt(),
        // As in etcd, which lets what it does not know hold.
        Err(_) => true,
    }
}
