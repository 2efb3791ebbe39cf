//! What the cluster has agreed upon: the committed entries in their order, and the model's answer
//! to each of them. Everything that clients, watchers and members say is held against this.
//!
//! Entries are learned from what members write into their logs, commits from Raft's commit index.
//! So nothing has to be told by the code under test but what it tells everybody.

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;
use ringd::apply::envelope::{self, Request};
use ringd::membership::{Change, ProposedChange};
use ringd::proto::etcdserverpb::alarm_request::AlarmAction;
use ringd::proto::etcdserverpb::{
    AlarmType, DeleteRangeResponse, PutResponse, TxnRequest, TxnResponse, request_op,
};
use ringd::raft::ConfChange;

use crate::model::{MemberChange, Model, Refused, Summary};
use crate::random::Digest;

/// A complaint of a check.
pub type Check = Result<(), String>;

pub const NORMAL: u8 = 0;

/// An entry as a member wrote it.
#[derive(Clone, Debug, PartialEq)]
pub struct Logged {
    pub kind: u8,
    pub data: Bytes,
    /// The term of the entry before it.
    pub prev_term: u64,
}

/// The answer of the model to an entry.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    Put(PutResponse),
    DeleteRange(DeleteRangeResponse),
    Txn(TxnResponse),
    LeaseGrant { id: i64, ttl: i64 },
    Nothing,
}

#[derive(Clone, Debug)]
pub struct Applied {
    pub term: u64,
    pub summary: Summary,
    pub result: Result<Answer, Refused>,
}

pub struct Truth {
    pub model: Model,
    founded: Summary,
    entries: HashMap<(u64, u64), Logged>,
    /// Of the entries from the second on: the founding of the cluster is the first.
    applied: Vec<Applied>,
    by_id: HashMap<u64, u64>,
    /// Committed, but nobody was seen to write it yet.
    waiting: BTreeMap<u64, u64>,
    /// Leases that were revoked, in their order: lease and proposal.
    pub revoked: Vec<(i64, u64)>,
    /// How often each id was granted.
    grants: HashMap<i64, u64>,
}

/// The index of the entry that no log holds.
pub const FOUNDING: u64 = 1;

impl Truth {
    pub fn new(voters: u64, lease_ttl_min_s: i64) -> Truth {
        let model = Model::new(voters, lease_ttl_min_s);
        Truth {
            founded: model.summary(),
            model,
            entries: HashMap::new(),
            applied: Vec::new(),
            by_id: HashMap::new(),
            waiting: BTreeMap::new(),
            revoked: Vec::new(),
            grants: HashMap::new(),
        }
    }

    /// The last index whose entry the model has applied.
    pub fn committed(&self) -> u64 {
        FOUNDING + self.applied.len() as u64
    }

    pub fn applied(&self, index: u64) -> Option<&Applied> {
        self.applied.get(index.checked_sub(FOUNDING + 1)? as usize)
    }

    pub fn term_of(&self, index: u64) -> Option<u64> {
        match index {
            FOUNDING => Some(1),
            index => self.applied(index).map(|applied| applied.term),
        }
    }

    /// What every member has after it has applied `index`.
    pub fn summary(&self, index: u64) -> Option<Summary> {
        match index {
            FOUNDING => Some(self.founded.clone()),
            index => self.applied(index).map(|applied| applied.summary.clone()),
        }
    }

    /// Whether a lease that was revoked has been granted again.
    pub fn is_granted_again(&self, lease: i64) -> bool {
        self.grants.get(&lease).is_some_and(|grants| *grants > 1)
    }

    pub fn index_of(&self, id: u64) -> Option<u64> {
        self.by_id.get(&id).copied()
    }

    /// A member writes an entry into its log. Log Matching: index and term decide the content, and
    /// the term of the entry before.
    pub fn logged(&mut self, index: u64, term: u64, entry: Logged) -> Check {
        match self.entries.get(&(index, term)) {
            Some(known) if *known == entry => Ok(()),
            Some(known) => Err(format!(
                "Log Matching: two entries at index {index} of term {term}: {known:?} and {entry:?}"
            )),
            None => {
                self.entries.insert((index, term), entry);
                self.apply_waiting()
            }
        }
    }

    /// A member says that the entry at `index` is committed, and is that of `term`.
    pub fn commit(&mut self, index: u64, term: u64) -> Check {
        let known = self.term_of(index).or_else(|| self.waiting.get(&index).copied());
        match known {
            Some(known) if known == term => Ok(()),
            Some(known) => Err(format!(
                "State Machine Safety: at index {index} the entries of terms {known} and {term} are both \
                 committed"
            )),
            None => {
                self.wait_for(index, term);
                self.apply_waiting()
            }
        }
    }

    /// What is before a committed entry is committed with it. Who has become the only voter forgets its
    /// log in the turn in which it commits, and says no more than where that ends.
    fn wait_for(&mut self, mut index: u64, mut term: u64) {
        while index > self.committed() && self.waiting.insert(index, term).is_none() {
            let Some(logged) = self.entries.get(&(index, term)) else { break };
            (index, term) = (index - 1, logged.prev_term);
        }
    }

    fn apply_waiting(&mut self) -> Check {
        while let Some((&index, &term)) = self.waiting.first_key_value() {
            let Some(logged) = self.entries.get(&(index, term)).cloned() else { break };
            if index != self.committed() + 1 {
                break;
            }
            let before = self.term_of(index - 1).expect("in their order");
            if logged.prev_term != before {
                return Err(format!(
                    "the entry at {index} of term {term} follows one of term {}, committed is term {before}",
                    logged.prev_term
                ));
            }
            self.waiting.remove(&index);
            self.apply(index, term, &logged)?;
        }
        Ok(())
    }

    fn apply(&mut self, index: u64, term: u64, entry: &Logged) -> Check {
        let result = if entry.data.is_empty() {
            Ok(Answer::Nothing)
        } else if entry.kind == NORMAL {
            let unwrapped = envelope::unwrap(entry.data.clone())
                .map_err(|_| format!("the entry at {index} cannot be decoded"))?;
            self.note_id(unwrapped.id, index)?;
            self.request(unwrapped.id, unwrapped.request)
        } else {
            self.change(index, &entry.data)?
        };
        self.applied.push(Applied { term, summary: self.model.summary(), result });
        Ok(())
    }

    fn note_id(&mut self, id: u64, index: u64) -> Check {
        if id != 0 && self.by_id.insert(id, index).is_some() {
            return Err(format!("the proposal {id:x} is committed twice, the second at {index}"));
        }
        Ok(())
    }

    fn change(&mut self, index: u64, data: &Bytes) -> Result<Result<Answer, Refused>, String> {
        let change = ConfChange::decode(data).map_err(|error| format!("at {index}: {error}"))?;
        if change.is_leave() {
            return Ok(Ok(Answer::Nothing));
        }
        let proposed = ProposedChange::decode(&change.context)
            .ok_or_else(|| format!("the change at {index} cannot be decoded"))?;
        self.note_id(proposed.proposal, index)?;
        let change = match proposed.change {
            Change::Add(member) => {
                MemberChange::Add { id: member.id, is_learner: member.is_learner }
            }
            Change::Promote(id) => MemberChange::Promote(id),
            Change::Remove(id) => MemberChange::Remove(id),
            other => return Err(format!("nobody asked for {other:?}")),
        };
        Ok(self.model.change_members(&change).map(|()| Answer::Nothing))
    }

    fn request(&mut self, id: u64, request: Request) -> Result<Answer, Refused> {
        self.admit(&request)?;
        let model = &mut self.model;
        match request {
            Request::Put(request) => Ok(Answer::Put(model.put(&request)?.0)),
            Request::DeleteRange(request) => {
                Ok(Answer::DeleteRange(model.delete_range(&request).0))
            }
            Request::Txn(request) => Ok(Answer::Txn(model.txn(&request)?.0)),
            Request::Compaction(request) => {
                model.compact(request.revision).map(|()| Answer::Nothing)
            }
            Request::LeaseGrant(request) => {
                let ttl = model.lease_grant(request.id, request.ttl)?;
                *self.grants.entry(request.id).or_default() += 1;
                Ok(Answer::LeaseGrant { id: request.id, ttl })
            }
            Request::LeaseRevoke(request) => {
                model.lease_revoke(request.id)?;
                self.revoked.push((request.id, id));
                Ok(Answer::Nothing)
            }
            Request::Alarm(request) => {
                let alarm = (request.member_id, request.alarm);
                let is_one = request.alarm != AlarmType::None as i32;
                match AlarmAction::try_from(request.action) {
                    Ok(AlarmAction::Activate) if is_one => drop(model.alarms.insert(alarm)),
                    Ok(AlarmAction::Deactivate) => drop(model.alarms.remove(&alarm)),
                    _ => {}
                }
                Ok(Answer::Nothing)
            }
            _ => Ok(Answer::Nothing),
        }
    }

    /// What raised alarms forbid.
    fn admit(&self, request: &Request) -> Result<(), Refused> {
        let raised =
            |kind: AlarmType| self.model.alarms.iter().any(|(_, alarm)| *alarm == kind as i32);
        let (changes, grows) = match request {
            Request::Put(_) | Request::LeaseGrant(_) => (true, true),
            Request::Txn(request) => (true, puts(request)),
            Request::DeleteRange(_) | Request::Compaction(_) | Request::LeaseRevoke(_) => {
                (true, false)
            }
            _ => (false, false),
        };
        if changes && raised(AlarmType::Corrupt) {
            return Err(Refused::Corrupt);
        }
        if grows && raised(AlarmType::Nospace) {
            return Err(Refused::NoSpace);
        }
        Ok(())
    }

    /// A digest of the whole of it.
    pub fn digest(&self) -> Digest {
        let revision = self.model.current;
        self.model.digest_at(revision).word(self.committed()).word(self.entries.len() as u64)
    }
}

fn puts(request: &TxnRequest) -> bool {
    request.success.iter().chain(&request.failure).any(|op| match &op.request {
        Some(request_op::Request::RequestPut(_)) => true,
        Some(request_op::Request::RequestTxn(nested)) => puts(nested),
        _ => false,
    })
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use prost::Message;
    use ringd::apply::envelope::Kind;
    use ringd::proto::etcdserverpb::PutRequest;

    pub fn put(id: u64, key: &str, value: &str) -> Bytes {
        let (key, value) = (key.to_owned().into(), value.to_owned().into());
        let request = PutRequest { key, value, ..Default::default() };
        envelope::wrap(id, Kind::Put, &request.encode_to_vec()).into()
    }

    pub fn normal(data: Bytes, prev_term: u64) -> Logged {
        Logged { kind: NORMAL, data, prev_term }
    }

    #[test]
    fn two_contents_of_one_position_are_found() {
        let mut truth = Truth::new(1, 2);
        truth.logged(2, 1, normal(put(1, "k", "a"), 1)).unwrap();
        truth.logged(2, 1, normal(put(1, "k", "a"), 1)).unwrap();
        assert!(truth.logged(2, 1, normal(put(1, "k", "b"), 1)).unwrap_err().contains("Matching"));
        assert!(truth.logged(2, 1, normal(put(1, "k", "a"), 0)).unwrap_err().contains("Matching"));
    }

    #[test]
    fn two_commits_of_one_index_are_found() {
        let mut truth = Truth::new(1, 2);
        truth.commit(2, 3).unwrap();
        assert!(truth.commit(2, 4).unwrap_err().contains("State Machine Safety"));
        truth.logged(2, 3, normal(Bytes::new(), 1)).unwrap();
        assert_eq!(truth.committed(), 2);
        assert!(truth.commit(2, 4).unwrap_err().contains("State Machine Safety"));
    }

    #[test]
    fn what_is_before_a_committed_entry_is_committed() {
        let mut truth = Truth::new(1, 2);
        for index in 2..=4 {
            truth.logged(index, 1, normal(put(index, "k", "a"), 1)).unwrap();
        }
        truth.commit(4, 1).unwrap();
        assert_eq!(truth.committed(), 4);
    }

    #[test]
    fn an_entry_that_does_not_follow_what_is_committed_is_found() {
        let mut truth = Truth::new(1, 2);
        truth.logged(2, 3, normal(Bytes::new(), 1)).unwrap();
        truth.commit(2, 3).unwrap();
        truth.logged(3, 4, normal(Bytes::new(), 2)).unwrap();
        assert!(truth.commit(3, 4).unwrap_err().contains("follows one of term 2"));
    }

    #[test]
    fn a_proposal_that_is_committed_twice_is_found() {
        let mut truth = Truth::new(1, 2);
        truth.logged(2, 1, normal(put(9, "k", "a"), 1)).unwrap();
        truth.logged(3, 1, normal(put(9, "k", "a"), 1)).unwrap();
        truth.commit(2, 1).unwrap();
        assert!(truth.commit(3, 1).unwrap_err().contains("twice"));
    }

    #[test]
    fn entries_are_applied_in_their_order_whenever_they_become_known() {
        let mut truth = Truth::new(1, 2);
        truth.commit(3, 1).unwrap();
        truth.logged(3, 1, normal(put(2, "k", "b"), 1)).unwrap();
        truth.commit(2, 1).unwrap();
        assert_eq!((truth.committed(), truth.model.current), (1, 1));
        truth.logged(2, 1, normal(put(1, "k", "a"), 1)).unwrap();
        assert_eq!((truth.committed(), truth.model.current), (3, 3));
        assert_eq!(truth.model.key_at(b"k", 3).unwrap().value, "b");
        assert_eq!(truth.index_of(1), Some(2));
    }
}
