//! Whether the members still hold the same: the leader hashes its history from time to time, asks
//! the others for their hash of the same revision, and raises CORRUPT for those that differ from the
//! majority. Reading the history costs time, so it goes in slices. With it goes a hash of users and
//! roles, of which there is no history: members that are at another auth revision are not compared.
//! Leases are not compared: none of their revisions says which of them a member should have.
//!
//! Hashes are compared only if they were made with the same bound of compaction; a member that
//! cannot make one — it is behind, or has compacted more — does not answer, and is asked next time.

use std::collections::{BTreeMap, VecDeque};

use prost::Message;

use super::Node;
use super::limits::{HASH_REQUESTS_MAX, HASH_SLICE};
use super::message::PeerMessage;
use crate::apply::UsersValue;
use crate::apply::envelope::Kind;
use crate::mvcc::{HashKv, HashKvValue, MvccError};
use crate::proto::etcdserverpb::{AlarmRequest, AlarmType, alarm_request::AlarmAction};
use crate::raft::NodeId;
use crate::store::Corruption;

struct Work {
    /// Who wants it, and under which number.
    from: NodeId,
    context: u64,
    revision: i64,
    /// Begun when the revision is there.
    hash: Option<HashKv>,
    until_ms: u64,
}

/// One comparison at the leader.
struct Round {
    context: u64,
    own: HashKvValue,
    own_users: UsersValue,
    /// The hashes of the others.
    answers: BTreeMap<u64, u32>,
    users: BTreeMap<u64, u32>,
    ends_ms: u64,
}

pub(super) struct HashCheck {
    interval_ms: Option<u64>,
    next_ms: u64,
    last_context: u64,
    work: VecDeque<Work>,
    round: Option<Round>,
}

impl HashCheck {
    pub(super) fn new(interval_ms: Option<u64>, now_ms: u64, first_id: u64) -> HashCheck {
        HashCheck {
            interval_ms,
            next_ms: now_ms.saturating_add(interval_ms.unwrap_or(u64::MAX)),
            last_context: first_id,
            work: VecDeque::new(),
            round: None,
        }
    }

    pub(super) fn is_busy(&self) -> bool {
        self.work.iter().any(|work| work.hash.is_some())
    }
}

impl Node {
    /// One slice of hashing, and what is due in a comparison.
    pub(super) fn check_hashes(&mut self) -> Result<(), Corruption> {
        let now_ms = self.now_ms;
        if let Some(interval_ms) = self.hash_check.interval_ms
            && now_ms >= self.hash_check.next_ms
        {
            self.hash_check.next_ms = now_ms + interval_ms;
            if self.raft.is_leader() && self.applier.cluster.members().len() > 1 {
                self.hash_check.last_context += 1;
                let context = self.hash_check.last_context;
                let revision = self.applier.mvcc.current_revision();
                self.take_hash_request(self.raft.id(), context, revision);
            }
        }
        self.hash_slice()?;
        if self.hash_check.round.as_ref().is_some_and(|round| {
            round.ends_ms <= now_ms
                || round.answers.len() + 1 >= self.applier.cluster.members().len()
        }) && let Some(round) = self.hash_check.round.take()
        {
            self.judge_hashes(&round);
        }
        Ok(())
    }

    pub(super) fn take_hash_request(&mut self, from: NodeId, context: u64, revision: i64) {
        if self.hash_check.work.len() < HASH_REQUESTS_MAX {
            let until_ms = self.now_ms + self.options.patience_ms;
            let hash = None;
            self.hash_check.work.push_back(Work { from, context, revision, hash, until_ms });
        }
    }

    fn hash_slice(&mut self) -> Result<(), Corruption> {
        let Some(mut work) = self.hash_check.work.pop_front() else { return Ok(()) };
        let reader = self.applier.mvcc.reader(self.applier.store.view());
        let step = match &mut work.hash {
            Some(hash) => hash.step(&reader, HASH_SLICE),
            None if reader.revisions().current < work.revision => {
                if self.now_ms < work.until_ms {
                    self.hash_check.work.push_back(work);
                }
                return Ok(());
            }
            None => HashKv::begin(&reader, work.revision).map(|hash| {
                work.hash = Some(hash);
                None
            }),
        };
        match step {
            Ok(None) => self.hash_check.work.push_back(work),
            Ok(Some(value)) => self.hash_is(&work, value)?,
            Err(MvccError::Corruption(corruption)) => return Err(corruption),
            // Compacted meanwhile.
            Err(_) => {}
        }
        Ok(())
    }

    fn hash_is(&mut self, work: &Work, value: HashKvValue) -> Result<(), Corruption> {
        let users = self.applier.users()?;
        let context = work.context;
        if work.from != self.raft.id() {
            let (revision, compact_revision) = (value.hash_revision, value.compact_revision);
            let hash = value.hash;
            let answer = PeerMessage::HashKvIs {
                context,
                revision,
                compact_revision,
                hash,
                auth_revision: users.revision,
                users_hash: users.hash,
            };
            self.messages.push((work.from, answer));
            return Ok(());
        }
        let ends_ms = self.now_ms + self.options.patience_ms;
        let revision = value.hash_revision;
        self.hash_check.round = Some(Round {
            context,
            own: value,
            own_users: users,
            answers: BTreeMap::new(),
            users: BTreeMap::new(),
            ends_ms,
        });
        let peers: Vec<NodeId> = self.peers().map(|(id, _)| id).collect();
        let question = |id| (id, PeerMessage::HashKv { context, revision });
        self.messages.extend(peers.into_iter().map(question));
        Ok(())
    }

    pub(super) fn handle_hash(
        &mut self,
        from: NodeId,
        context: u64,
        value: HashKvValue,
        users: UsersValue,
    ) {
        let Some(round) = &mut self.hash_check.round else { return };
        if round.context != context || self.applier.cluster.member(from.0).is_none() {
            return;
        }
        if round.own.hash_revision == value.hash_revision
            && round.own.compact_revision == value.compact_revision
        {
            round.answers.insert(from.0, value.hash);
        }
        if round.own_users.revision == users.revision {
            round.users.insert(from.0, users.hash);
        }
    }

    /// Who is not with the majority; if there is none, who is not with the leader.
    fn judge_hashes(&mut self, round: &Round) {
        for (own, answers) in
            [(round.own.hash, &round.answers), (round.own_users.hash, &round.users)]
        {
            self.judge(own, answers);
        }
    }

    fn judge(&mut self, own: u32, answers: &BTreeMap<u64, u32>) {
        let own = (self.raft.id().0, own);
        let all: Vec<(u64, u32)> =
            answers.iter().map(|(id, hash)| (*id, *hash)).chain([own]).collect();
        let share = |hash: u32| all.iter().filter(|(_, other)| *other == hash).count();
        let is_majority = |hash: u32| share(hash) > self.applier.cluster.members().len() / 2;
        let right = all.iter().map(|(_, hash)| *hash).find(|hash| is_majority(*hash));
        let right = right.unwrap_or(own.1);
        for (member_id, _) in all.into_iter().filter(|(_, hash)| *hash != right) {
            if self.applier.alarms.raised_by(member_id, AlarmType::Corrupt) {
                continue;
            }
            let (action, alarm) = (AlarmAction::Activate as i32, AlarmType::Corrupt as i32);
            let request = AlarmRequest { action, member_id, alarm };
            // If it is refused, the next round finds it again.
            let _ = self.propose(Kind::Alarm, &request.encode_to_vec());
        }
    }
}
