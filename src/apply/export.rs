//! The applied state of one moment as the buckets of an etcd backend (`server/storage/schema` of
//! 3.7.1), for a snapshot that etcd's tools read.
//!
//! The state is pinned: the member goes on meanwhile. It is walked in slices, and as often as the
//! caller likes; each walk gives the same.

use super::state::{LEASE, META};
use super::{Applier, state};
use crate::auth;
use crate::membership::Member;
use crate::mvcc::{MvccError, Revision, Revisions, export};
use crate::proto::etcdserverpb::AlarmMember;
use crate::store::{Snapshot, Store, View};
use prost::Message;

/// In the order of a backend: by name.
const BUCKETS: [&str; 10] = [
    "alarm",
    "auth",
    "authRoles",
    "authUsers",
    "cluster",
    "key",
    "lease",
    "members",
    "members_removed",
    "meta",
];

/// The revision of an auth store in which nothing was ever changed.
const AUTH_REVISION: u64 = 1;

/// Keys and values of a bucket.
type Entries = Vec<(Vec<u8>, Vec<u8>)>;

/// What a walk meets.
pub enum Item<'a> {
    /// The entries that follow are in this bucket.
    Bucket(&'static str),
    Entry(&'a [u8], &'a [u8]),
}

/// A pinned state, and how far it is walked.
pub struct Export {
    pinned: Snapshot,
    revisions: Revisions,
    applied: (u64, u64),
    versions: Versions,
    at: Place,
}

/// What the backend says of versions.
#[derive(Clone)]
pub struct Versions {
    pub cluster: String,
    /// What the cluster is on its way down to.
    pub downgrade: Option<String>,
}

enum Place {
    Before(usize),
    Changes(usize, Revision),
    Leases(usize, Vec<u8>),
    End,
}

impl Export {
    /// Pins the present state, which must be committed.
    pub fn begin(applier: &mut Applier, versions: Versions) -> Export {
        Export {
            pinned: applier.store.snapshot(),
            revisions: applier.mvcc.revisions(),
            applied: (applier.applied_index, applier.applied_term),
            versions,
            at: Place::Before(0),
        }
    }

    fn cluster(&self) -> Entries {
        let mut entries = vec![("clusterVersion".into(), self.versions.cluster.clone().into())];
        if let Some(target) = &self.versions.downgrade {
            let info = format!(r#"{{"target-version":"{target}","enabled":true}}"#);
            entries.push(("downgrade".into(), info.into()));
        }
        entries
    }

    /// The next walk begins at the start.
    pub fn rewind(&mut self) {
        self.at = Place::Before(0);
    }

    /// Goes on for about `budget` bytes. False at the end.
    pub fn step(
        &mut self,
        store: &Store,
        budget: usize,
        visit: &mut dyn FnMut(Item<'_>),
    ) -> Result<bool, MvccError> {
        let view = store.view_at(&self.pinned);
        let mut left = budget;
        let mut entry = |key: &[u8], value: &[u8]| {
            left = left.saturating_sub(key.len() + value.len());
            visit(Item::Entry(key, value));
        };
        self.at = match &self.at {
            Place::End => return Ok(false),
            Place::Before(index) if *index == BUCKETS.len() => Place::End,
            Place::Before(index) => {
                let (index, name) = (*index, BUCKETS[*index]);
                visit(Item::Bucket(name));
                match name {
                    "key" => Place::Changes(index, Revision::default()),
                    "lease" => Place::Leases(index, Vec::new()),
                    _ => {
                        for (key, value) in self.small(view, name)? {
                            visit(Item::Entry(&key, &value));
                        }
                        Place::Before(index + 1)
                    }
                }
            }
            Place::Changes(index, from) => match export::walk(view, *from, budget, &mut entry)? {
                Some(next) => Place::Changes(*index, next),
                None => Place::Before(index + 1),
            },
            Place::Leases(index, from) => {
                let mut cursor = view.cursor(LEASE);
                let mut more = cursor.seek(from)?;
                let mut seen = 0;
                while more && seen < budget {
                    let value = cursor.value()?;
                    seen += cursor.key().len() + value.len();
                    entry(cursor.key(), value);
                    more = cursor.next()?;
                }
                match more {
                    true => Place::Leases(*index, cursor.key().to_vec()),
                    false => Place::Before(index + 1),
                }
            }
        };
        Ok(!matches!(self.at, Place::End))
    }

    /// The entries of a bucket that is always small, in the order of their keys.
    fn small(&self, view: View<'_>, bucket: &str) -> Result<Entries, MvccError> {
        let mut entries: Entries = match bucket {
            "alarm" => alarms(view)?,
            "auth" => auth_state(view)?,
            "authRoles" => named(view, auth::ROLE)?,
            "authUsers" => named(view, auth::USER)?,
            "cluster" => self.cluster(),
            "members" => state::members(view)?
                .into_iter()
                .map(|member| (Member::key(member.id).into_bytes(), member.encode()))
                .collect(),
            "members_removed" => state::removed(view)?
                .into_iter()
                .map(|id| (Member::key(id).into_bytes(), b"removed".to_vec()))
                .collect(),
            "meta" => self.meta(view)?,
            _ => Vec::new(),
        };
        entries.sort_unstable();
        Ok(entries)
    }

    fn meta(&self, view: View<'_>) -> Result<Entries, MvccError> {
        let (index, term) = self.applied;
        let members = state::members(view)?;
        let ids = |is_learner| -> Vec<u64> {
            members.iter().filter(|m| m.is_learner == is_learner).map(|m| m.id).collect()
        };
        let mut conf_state = serde_json::json!({ "voters": ids(false), "auto_leave": false });
        if let learners = ids(true)
            && !learners.is_empty()
        {
            conf_state["learners"] = learners.into();
        }
        let mut entries = vec![
            (b"confState".to_vec(), conf_state.to_string().into_bytes()),
            (b"consistent_index".to_vec(), index.to_be_bytes().to_vec()),
            (b"storageVersion".to_vec(), self.versions.cluster.clone().into()),
            (b"term".to_vec(), term.to_be_bytes().to_vec()),
        ];
        let bounds = [
            (&b"finishedCompactRev"[..], self.revisions.removed),
            (&b"scheduledCompactRev"[..], self.revisions.compact),
        ];
        for (name, revision) in bounds {
            if revision >= 0 {
                let mut buffer = [0; 18];
                let value = Revision::new(revision, 0).write_bucket_key(false, &mut buffer);
                entries.push((name.to_vec(), value.to_vec()));
            }
        }
        Ok(entries)
    }
}

/// Whether auth is enabled, once it was, and its revision.
fn auth_state(view: View<'_>) -> Result<Entries, MvccError> {
    let record = |name: &[u8]| view.get(META, &[state::AUTH, name].concat());
    let revision = record(auth::REVISION)?.map(<[u8]>::to_vec);
    let revision = revision.unwrap_or_else(|| AUTH_REVISION.to_be_bytes().to_vec());
    let mut entries = vec![(b"authRevision".to_vec(), revision)];
    if let Some(enabled) = record(auth::ENABLED)? {
        entries.push((b"authEnabled".to_vec(), enabled.to_vec()));
    }
    Ok(entries)
}

/// Users or roles: the records are etcd's, byte by byte.
fn named(view: View<'_>, kind: &[u8]) -> Result<Entries, MvccError> {
    let prefix = [state::AUTH, kind].concat();
    let mut entries = Vec::new();
    let mut cursor = view.cursor(META);
    let mut more = cursor.seek(&prefix)?;
    while more && let Some(name) = cursor.key().strip_prefix(prefix.as_slice()) {
        entries.push((name.to_vec(), cursor.value()?.to_vec()));
        more = cursor.next()?;
    }
    Ok(entries)
}

/// In etcd's bucket the message is the key, and there is no value.
fn alarms(view: View<'_>) -> Result<Entries, MvccError> {
    let mut entries = Vec::new();
    let mut cursor = view.cursor(META);
    let mut more = cursor.seek(super::alarm::PREFIX)?;
    while more && let Some(key) = cursor.key().strip_prefix(super::alarm::PREFIX) {
        let alarm: AlarmMember = super::alarm::decode(key)?;
        entries.push((alarm.encode_to_vec(), Vec::new()));
        more = cursor.next()?;
    }
    Ok(entries)
}
