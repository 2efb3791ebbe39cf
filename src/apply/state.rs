//! What the applier keeps in the store beside keys: one place for each kind of record.
//!
//! ```text
//! META tree   "apply/index"            applied index, u64 BE ++ its term, u64 BE
//!             "cluster"                cluster id, u64 BE ++ this member's id, u64 BE
//!             "member/" ++ member id, lower-case hexadecimal    JSON, as in etcd's members bucket
//!             "alarm/" ++ member BE ++ alarm BE    empty
//! LEASE tree  lease id, 8 bytes BE     leasepb.Lease
//! ```

use prost::Message;

use crate::membership::{Cluster, Member};
use crate::mvcc::MvccError;
use crate::proto::leasepb;
use crate::store::{Corruption, Store, Tree, View};

pub const META: Tree = Tree(2);
pub const LEASE: Tree = Tree(3);

const APPLIED: &[u8] = b"apply/index";
const CLUSTER: &[u8] = b"cluster";
const MEMBER: &[u8] = b"member/";

/// The index and term of the last applied entry; zeros in a new store.
pub fn applied(store: &Store) -> Result<(u64, u64), MvccError> {
    let Some(record) = store.view().get(META, APPLIED)? else { return Ok((0, 0)) };
    words(record).ok_or_else(|| MvccError::damaged("apply/index"))
}

pub fn set_applied(store: &mut Store, index: u64, term: u64) -> Result<(), Corruption> {
    store.put(META, APPLIED, &two_words(index, term), false)
}

fn two_words(first: u64, second: u64) -> [u8; 16] {
    (u128::from(first) << 64 | u128::from(second)).to_be_bytes()
}

fn words(record: &[u8]) -> Option<(u64, u64)> {
    let both = u128::from_be_bytes(record.try_into().ok()?);
    Some(((both >> 64) as u64, both as u64))
}

/// The membership and this member's id; none in a new store.
pub fn identity(store: &Store) -> Result<Option<(Cluster, u64)>, MvccError> {
    let Some(record) = store.view().get(META, CLUSTER)? else { return Ok(None) };
    let (id, own) = words(record).ok_or_else(|| MvccError::damaged("the cluster's id"))?;
    Ok(Some((Cluster::restore(id, members(store.view())?), own)))
}

/// The members that a state of the store has.
pub fn members(view: View<'_>) -> Result<Vec<Member>, MvccError> {
    let mut members = Vec::new();
    let mut cursor = view.cursor(META);
    let mut more = cursor.seek(MEMBER)?;
    while more && let Some(key) = cursor.key().strip_prefix(MEMBER) {
        let member = Member::decode(key, cursor.value()?);
        members.push(member.map_err(|_| MvccError::damaged("a member's record"))?);
        more = cursor.next()?;
    }
    Ok(members)
}

pub fn set_identity(store: &mut Store, cluster: &Cluster, own: u64) -> Result<(), Corruption> {
    store.put(META, CLUSTER, &two_words(cluster.id, own), false)?;
    cluster.members().try_for_each(|member| put_member(store, member))
}

pub fn put_member(store: &mut Store, member: &Member) -> Result<(), Corruption> {
    let key = [MEMBER, Member::key(member.id).as_bytes()].concat();
    store.put(META, &key, &member.encode(), false)
}

pub fn put_lease(store: &mut Store, lease: &leasepb::Lease) -> Result<(), Corruption> {
    store.put(LEASE, &lease.id.to_be_bytes(), &lease.encode_to_vec(), false)
}

pub fn delete_lease(store: &mut Store, id: i64) -> Result<(), Corruption> {
    store.delete(LEASE, &id.to_be_bytes()).map(drop)
}

/// Hands every persisted lease to `visit`, as id and time to live in seconds.
pub fn leases(store: &Store, visit: &mut dyn FnMut(i64, i64)) -> Result<(), MvccError> {
    let mut cursor = store.view().cursor(LEASE);
    let mut more = cursor.first()?;
    while more {
        let lease = leasepb::Lease::decode(cursor.value()?)
            .map_err(|_| MvccError::damaged("a lease record"))?;
        visit(lease.id, lease.ttl);
        more = cursor.next()?;
    }
    Ok(())
}
