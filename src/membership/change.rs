//! Changes of the membership as the log carries them, and what is wrong with one.
//!
//! Invariant: whether a change is possible depends on the members alone, so that all members that
//! apply it agree.

use serde::{Deserialize, Serialize};

use super::{Cluster, Member};

/// One change. At most one voter comes or goes with it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Change {
    /// As a voter, or as a learner if the record says so.
    Add(Member),
    /// A learner becomes a voter.
    Promote(u64),
    Remove(u64),
    UpdatePeerUrls {
        id: u64,
        peer_urls: Vec<String>,
    },
}

/// A change with the number by which its proposer knows it again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProposedChange {
    pub proposal: u64,
    pub change: Change,
}

/// Why a change cannot be. The texts are etcd's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChangeError {
    #[error("member not found")]
    NotFound,
    #[error("member ID already exist")]
    IdExists,
    #[error("the member has been permanently removed from the cluster")]
    IdRemoved,
    #[error("Peer URLs already exists")]
    PeerUrlExists,
    #[error("can only promote a learner member")]
    NotLearner,
    /// Nobody would be left to vote, or there are more members than a cluster can have.
    #[error("re-configuration failed due to not enough started members")]
    Impossible,
}

const VERSION: u8 = 1;

impl ProposedChange {
    /// `version 1 | proposal u64 LE | JSON of the change`
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![VERSION];
        out.extend_from_slice(&self.proposal.to_le_bytes());
        // As of a member: there is nothing in it that JSON cannot say.
        out.extend(serde_json::to_vec(&self.change).unwrap_or_default());
        out
    }

    pub fn decode(bytes: &[u8]) -> Option<ProposedChange> {
        let (&version, rest) = bytes.split_first()?;
        let (proposal, change) = rest.split_first_chunk()?;
        let change = serde_json::from_slice(change).ok()?;
        let proposal = u64::from_le_bytes(*proposal);
        (version == VERSION).then_some(ProposedChange { proposal, change })
    }
}

impl Cluster {
    /// Whether a change is possible.
    pub fn check(&self, change: &Change) -> Result<(), ChangeError> {
        let (id, urls) = match change {
            Change::Add(member) => (member.id, member.peer_urls.as_slice()),
            Change::Promote(id) | Change::Remove(id) => (*id, [].as_slice()),
            Change::UpdatePeerUrls { id, peer_urls } => (*id, peer_urls.as_slice()),
        };
        if self.is_removed(id) {
            return Err(ChangeError::IdRemoved);
        }
        match (change, self.member(id)) {
            (Change::Add(_), None) if id == 0 => return Err(ChangeError::NotFound),
            (Change::Add(_), None) => {}
            (Change::Add(_), Some(_)) => return Err(ChangeError::IdExists),
            (_, None) => return Err(ChangeError::NotFound),
            (Change::Promote(_), Some(member)) if !member.is_learner => {
                return Err(ChangeError::NotLearner);
            }
            (_, Some(_)) => {}
        }
        let others = self.members().filter(|member| member.id != id);
        let mut taken = others.flat_map(|member| &member.peer_urls);
        if taken.any(|url| urls.contains(url)) {
            return Err(ChangeError::PeerUrlExists);
        }
        Ok(())
    }

    /// Makes a change that was found possible. Gives the member that has changed or come.
    pub fn change(&mut self, change: &Change) -> Option<&Member> {
        let id = match change {
            Change::Add(member) => {
                self.insert(member.clone());
                member.id
            }
            Change::Promote(id) => {
                self.member_mut(*id)?.is_learner = false;
                *id
            }
            Change::Remove(id) => {
                self.remove(*id);
                return None;
            }
            Change::UpdatePeerUrls { id, peer_urls } => {
                self.member_mut(*id)?.peer_urls.clone_from(peer_urls);
                *id
            }
        };
        self.member(id)
    }
}
