//! Who belongs to the cluster: members, their IDs, and how both are stored.
//!
//! IDs are computed as etcd computes them, so that a cluster made with the same flags has the same
//! IDs, and data can be moved in either direction. A record is the JSON of etcd's `members` bucket.
//!
//! Invariants: no two members have the same ID; the ID of a member that was removed is never one
//! again; the cluster's ID is made once, of the members it starts with, and never changes afterwards.
//!
//! Knows nothing of Raft's view of the members, of the store's trees, or of the network.

mod change;
mod registry;

use std::collections::{BTreeMap, BTreeSet};

pub use change::{Change, ChangeError, ProposedChange};
pub use registry::{Registry, RegistryError, registered_size};
use serde::{Deserialize, Serialize};
use sha1::{Digest, Sha1};

#[cfg(test)]
mod tests;

/// One member as it is stored. The order of the fields and what is left out are etcd's.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    pub id: u64,
    #[serde(rename = "peerURLs", deserialize_with = "list")]
    pub peer_urls: Vec<String>,
    #[serde(rename = "isLearner", default, skip_serializing_if = "is_false")]
    pub is_learner: bool,
    /// Empty until the member has started once and told its attributes.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    #[serde(
        rename = "clientURLs",
        default,
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "list"
    )]
    pub client_urls: Vec<String>,
}

fn is_false(b: &bool) -> bool {
    !b
}

/// Go writes an empty list as `null`.
fn list<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Vec<String>, D::Error> {
    Option::<Vec<String>>::deserialize(from).map(Option::unwrap_or_default)
}

/// A record of a member that cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    #[error("member record is not etcd's JSON: {0}")]
    Json(#[from] serde_json::Error),
    #[error("member record {key} holds the member {id:x}")]
    WrongKey { key: String, id: u64 },
}

impl Member {
    /// The record's key: the ID in lower-case hexadecimal, without leading zeros.
    pub fn key(id: u64) -> String {
        format!("{id:x}")
    }

    pub fn encode(&self) -> Vec<u8> {
        // Strings, numbers and lists of strings: there is nothing in it that JSON cannot say.
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// A record without its key, as members send it to each other.
    pub fn read(record: &[u8]) -> Result<Self, DecodeError> {
        Ok(serde_json::from_slice(record)?)
    }

    /// `key` is the record's key, which must agree with what the record says.
    pub fn decode(key: &[u8], record: &[u8]) -> Result<Self, DecodeError> {
        let member = Self::read(record)?;
        if Self::key(member.id).as_bytes() != key {
            let key = String::from_utf8_lossy(key).into_owned();
            return Err(DecodeError::WrongKey { key, id: member.id });
        }
        Ok(member)
    }
}

/// The members, by ID.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cluster {
    pub id: u64,
    members: BTreeMap<u64, Member>,
    removed: BTreeSet<u64>,
}

/// Two members whose IDs are the same, which takes the same peer URLs.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("members {first:?} and {second:?} have the same ID {id:x}")]
pub struct SameId {
    pub id: u64,
    pub first: String,
    pub second: String,
}

impl Cluster {
    /// A cluster that starts for the first time: name and peer URLs of each member.
    pub fn bootstrap(members: &[(String, Vec<String>)], token: &str) -> Result<Self, SameId> {
        let mut cluster = Self::default();
        for (name, peer_urls) in members {
            let id = member_id(peer_urls, token, None);
            let member = Member {
                id,
                peer_urls: peer_urls.clone(),
                name: name.clone(),
                ..Member::default()
            };
            if let Some(other) = cluster.members.insert(id, member) {
                return Err(SameId { id, first: other.name, second: name.clone() });
            }
        }
        cluster.id = cluster_id(cluster.members.keys().copied());
        Ok(cluster)
    }

    /// A cluster that was stored: its ID, and its members in any order.
    pub fn restore(id: u64, members: impl IntoIterator<Item = Member>) -> Self {
        let members = members.into_iter().map(|m| (m.id, m)).collect();
        Self { id, members, removed: BTreeSet::new() }
    }

    /// The same with the IDs that were members once.
    pub fn with_removed(self, removed: impl IntoIterator<Item = u64>) -> Self {
        Self { removed: removed.into_iter().collect(), ..self }
    }

    /// Whether the ID was that of a member. It never is one again.
    pub fn is_removed(&self, id: u64) -> bool {
        self.removed.contains(&id)
    }

    /// The IDs that were members once, in ascending order.
    pub fn removed(&self) -> impl Iterator<Item = u64> {
        self.removed.iter().copied()
    }

    /// In ascending order of the IDs, which is the order of etcd's member list.
    pub fn members(&self) -> impl ExactSizeIterator<Item = &Member> {
        self.members.values()
    }

    pub fn member(&self, id: u64) -> Option<&Member> {
        self.members.get(&id)
    }

    pub fn member_mut(&mut self, id: u64) -> Option<&mut Member> {
        self.members.get_mut(&id)
    }

    /// Replaces the member of that ID, if there is one.
    pub fn insert(&mut self, member: Member) -> Option<Member> {
        self.members.insert(member.id, member)
    }

    /// Removes a member for ever.
    pub fn remove(&mut self, id: u64) -> Option<Member> {
        let member = self.members.remove(&id)?;
        self.removed.insert(id);
        Some(member)
    }

    pub fn voters(&self) -> impl Iterator<Item = &Member> {
        self.members.values().filter(|member| !member.is_learner)
    }

    pub fn by_name(&self, name: &str) -> Option<&Member> {
        self.members.values().find(|member| member.name == name)
    }
}

/// The ID of a member: of its peer URLs and the cluster's token, and for a member that joins
/// later also of the time, in seconds since 1970.
pub fn member_id(peer_urls: &[String], token: &str, joined_at_s: Option<u64>) -> u64 {
    let mut urls: Vec<_> = peer_urls.iter().map(String::as_str).collect();
    urls.sort_unstable();
    let mut sha = Sha1::new();
    urls.iter().for_each(|url| sha.update(url));
    sha.update(token);
    if let Some(seconds) = joined_at_s {
        sha.update(seconds.to_string());
    }
    first_eight_bytes(sha)
}

/// The ID of a cluster: of the IDs of the members it starts with.
pub fn cluster_id(members: impl IntoIterator<Item = u64>) -> u64 {
    let mut ids: Vec<_> = members.into_iter().collect();
    ids.sort_unstable();
    let mut sha = Sha1::new();
    ids.iter().for_each(|id| sha.update(id.to_be_bytes()));
    first_eight_bytes(sha)
}

fn first_eight_bytes(sha: Sha1) -> u64 {
    sha.finalize().iter().take(8).fold(0, |id, byte| id << 8 | u64::from(*byte))
}
