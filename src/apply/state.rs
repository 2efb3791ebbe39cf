//! What the applier keeps in the store beside keys: one place for each kind of record.
//!
//! ```text
//! META tree   "apply/index"            applied index, u64 BE ++ its term, u64 BE
//!             "cluster"                cluster id, u64 BE ++ this member's id, u64 BE
//!             "member/" ++ member id, lower-case hexadecimal    JSON, as in etcd's members bucket
//!             "removed/" ++ id, as above           empty: it was a member once
//!             "raft/configuration"     who votes and who learns, as encoded by raft; not there
//!                                      before the first change: then the members above
//!             "downgrade"              the version that a downgrade goes to; not there without one
//!             "cluster-version"        what members speak with each other; not there before a
//!                                      downgrade first changed it: then this server's own
//!             "alarm/" ++ member BE ++ alarm BE    empty
//!             "auth/enabled"           1 or 0, one byte; not there before auth was first enabled
//!             "auth/revision"          u64 BE; not there before the first change: then 1
//!             "auth/user/" ++ name     authpb.User
//!             "auth/role/" ++ name     authpb.Role
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
const REMOVED: &[u8] = b"removed/";
pub(super) const AUTH: &[u8] = b"auth/";
const DOWNGRADE: &[u8] = b"downgrade";
const CLUSTER_VERSION: &[u8] = b"cluster-version";
const CONFIGURATION: &[u8] = b"raft/configuration";

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
    let view = store.view();
    Ok(Some((Cluster::restore(id, members(view)?).with_removed(removed(view)?), own)))
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

/// The ids that were members once.
pub fn removed(view: View<'_>) -> Result<Vec<u64>, MvccError> {
    let mut removed = Vec::new();
    let mut cursor = view.cursor(META);
    let mut more = cursor.seek(REMOVED)?;
    while more && let Some(key) = cursor.key().strip_prefix(REMOVED) {
        let id = std::str::from_utf8(key).ok().and_then(|hex| u64::from_str_radix(hex, 16).ok());
        removed.push(id.ok_or_else(|| MvccError::damaged("a removed member's record"))?);
        more = cursor.next()?;
    }
    Ok(removed)
}

/// Makes the state of another member, which stands at `applied`, that of member `own`: only the id
/// differs. False if it is not a state of this cluster, or another one.
pub fn adopt(store: &mut Store, cluster: u64, own: u64, at: (u64, u64)) -> bool {
    let fits = matches!(identity(store), Ok(Some((found, _))) if found.id == cluster)
        && matches!(applied(store), Ok(found) if found == at);
    fits && store.put(META, CLUSTER, &two_words(cluster, own), false).is_ok()
}

/// Whether a record is the same on all members at the same applied index: not the own id, and not
/// how far this member has come with removing what a compaction gave up.
pub fn is_replicated(tree: Tree, key: &[u8]) -> bool {
    tree != META || (key != CLUSTER && !key.starts_with(b"mvcc/"))
}

/// The version that the cluster is on its way down to.
pub fn downgrade(store: &Store) -> Result<Option<String>, MvccError> {
    let record = store.view().get(META, DOWNGRADE)?;
    Ok(record.map(|version| String::from_utf8_lossy(version).into_owned()))
}

pub fn set_downgrade(store: &mut Store, to: Option<&str>) -> Result<(), Corruption> {
    match to {
        Some(version) => store.put(META, DOWNGRADE, version.as_bytes(), false),
        None => store.delete(META, DOWNGRADE).map(drop),
    }
}

/// A hash of all users and roles. That there are few of them is why it is not made in slices: all are
/// in memory, too.
pub fn hash_of_users(view: View<'_>) -> Result<u32, Corruption> {
    let mut hash = 0;
    for kind in [&b"auth/user/"[..], b"auth/role/"] {
        let mut cursor = view.cursor(META);
        let mut more = cursor.seek(kind)?;
        while more && cursor.key().starts_with(kind) {
            for part in [cursor.key(), cursor.value()?] {
                hash = crc32c::crc32c_append(hash, &(part.len() as u64).to_be_bytes());
                hash = crc32c::crc32c_append(hash, part);
            }
            more = cursor.next()?;
        }
    }
    Ok(hash)
}

/// What the members have agreed to speak, if that was ever another version than their own.
pub fn cluster_version(store: &Store) -> Result<Option<String>, MvccError> {
    let record = store.view().get(META, CLUSTER_VERSION)?;
    Ok(record.map(|version| String::from_utf8_lossy(version).into_owned()))
}

pub fn set_cluster_version(store: &mut Store, version: &str) -> Result<(), Corruption> {
    store.put(META, CLUSTER_VERSION, version.as_bytes(), false)
}

/// The configuration in effect at the applied index, as raft encodes it; none before the first
/// change.
pub fn configuration(store: &Store) -> Result<Option<&[u8]>, Corruption> {
    store.view().get(META, CONFIGURATION)
}

pub fn set_configuration(store: &mut Store, encoded: &[u8]) -> Result<(), Corruption> {
    store.put(META, CONFIGURATION, encoded, false)
}

pub fn remove_member(store: &mut Store, id: u64) -> Result<(), Corruption> {
    let key = Member::key(id);
    store.delete(META, &[MEMBER, key.as_bytes()].concat())?;
    store.put(META, &[REMOVED, key.as_bytes()].concat(), b"", false)
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
