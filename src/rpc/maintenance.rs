//! `etcdserverpb.Maintenance`: status, alarms, hashes, defragmentation.

use bytes::Bytes;

use super::connection::{Caller, Connections};
use super::dispatch::{attempt, decode};
use super::encode::Message;
use super::error::{self, RpcError};
use super::kv::Then;
use super::metrics::Timing;
use super::{Answer, Core, Read};
use crate::apply::envelope::Kind;
use crate::grpc::Code;
use crate::mvcc::{HashBucket, HashKv};
use crate::proto::etcdserverpb::alarm_request::AlarmAction;
use crate::proto::etcdserverpb::downgrade_request::DowngradeAction;
use crate::proto::etcdserverpb::{
    AlarmMember, AlarmRequest, AlarmType, DefragmentRequest, DefragmentResponse, DowngradeInfo,
    DowngradeRequest, DowngradeResponse, HashKvRequest, HashKvResponse, HashRequest, HashResponse,
    StatusRequest, StatusResponse,
};
use crate::proto::membershippb::DowngradeInfoSetRequest;
use crate::version;

/// Changes that one slice of a hash takes in, so that a slice stays far under a millisecond.
const HASH_SLICE: usize = 512;
/// Hashes at once; each reads the whole history.
const HASHES_MAX: usize = 16;

/// `major.minor` of a version.
fn minor_of(version: &'static str) -> &'static str {
    version.rsplit_once('.').map_or(version, |(minor, _)| minor)
}

/// A hash in the making.
pub struct HashTask {
    caller: Caller,
    /// For the header of the answer.
    revision: i64,
    work: Work,
}

enum Work {
    Kv(HashKv),
    Bucket(HashBucket),
}

/// An alarm as Go prints its message. Between the fields etcd has one space or two, as its build has drawn it.
fn alarm_text(raised: &AlarmMember) -> String {
    let member = (raised.member_id != 0).then(|| format!("memberID:{}", raised.member_id));
    let alarm = match AlarmType::try_from(raised.alarm) {
        Ok(AlarmType::None) => None,
        Ok(alarm) => Some(format!("alarm:{}", alarm.as_str_name())),
        Err(_) => Some(format!("alarm:{}", raised.alarm)),
    };
    [member, alarm].into_iter().flatten().collect::<Vec<_>>().join(" ")
}

impl Core {
    pub(super) fn status(&mut self, message: Bytes) -> Answer {
        let _: StatusRequest = attempt!(decode(message));
        let raft = self.node.raft();
        let applier = &self.node.applier;
        let mut errors = Vec::new();
        if raft.leader().is_none() {
            errors.push("etcdserver: no leader".to_owned());
        }
        errors.extend(applier.alarms.all().iter().map(alarm_text));
        let response = StatusResponse {
            header: None,
            version: version::VERSION.to_owned(),
            db_size: applier.size_bytes() as i64,
            leader: raft.leader().map_or(0, |leader| leader.0),
            raft_index: raft.commit_index().0,
            raft_term: raft.term().0,
            raft_applied_index: applier.applied_index(),
            errors,
            db_size_in_use: applier.store.in_use_bytes() as i64,
            is_learner: self.node.is_learner(),
            storage_version: self.storage_version().to_owned(),
            db_size_quota: self.node.quota_bytes().map_or(-1, |quota| quota as i64),
            downgrade_info: Some(DowngradeInfo {
                enabled: applier.downgrade.is_some(),
                target_version: applier.downgrade.clone().unwrap_or_default(),
            }),
        };
        let body = prost::Message::encode_to_vec(&response);
        Answer::Now(Ok(Message::new(&self.current_header(), &body)))
    }

    /// What the cluster as a whole speaks: less than it could while it is on its way down.
    pub(super) fn cluster_version(&self) -> &'static str {
        match self.node.applier.downgrade {
            None => version::CLUSTER_VERSION,
            Some(_) => version::DOWNGRADE_VERSION,
        }
    }

    pub(super) fn storage_version(&self) -> &'static str {
        match self.node.applier.downgrade {
            None => version::STORAGE_VERSION,
            Some(_) => version::DOWNGRADE_VERSION,
        }
    }

    /// A downgrade that is enabled changes what members say of their versions, and nothing else: there is no older
    /// ringd, and an older etcd takes the state by a snapshot.
    pub(super) fn downgrade(&mut self, caller: Caller, message: Bytes) -> Answer {
        let request: DowngradeRequest = attempt!(decode(message));
        let minor = minor_of(self.cluster_version());
        match DowngradeAction::try_from(request.action) {
            Ok(DowngradeAction::Validate) => {
                self.reads_new.push(Read::Downgrade(caller, request.version));
                Answer::Later
            }
            Ok(DowngradeAction::Enable) => {
                let target = attempt!(self.check_downgrade(&request.version));
                let set = DowngradeInfoSetRequest { enabled: true, ver: target.to_owned() };
                let set = prost::Message::encode_to_vec(&set);
                self.propose(caller, Kind::Downgrade, &set, Then::Downgraded(minor))
            }
            // etcd complains of a cancelled downgrade that there is not in its log only.
            Ok(DowngradeAction::Cancel) if self.node.applier.downgrade.is_none() => {
                Answer::Now(Ok(self.downgraded(minor)))
            }
            Ok(DowngradeAction::Cancel) => {
                let set = prost::Message::encode_to_vec(&DowngradeInfoSetRequest::default());
                self.propose(caller, Kind::Downgrade, &set, Then::Downgraded(minor))
            }
            Err(_) => RpcError::new(Code::Unknown, "etcdserver: unknown method").into(),
        }
    }

    pub(super) fn downgrade_validated(&self, version: &str) -> Result<Message, RpcError> {
        self.check_downgrade(version)?;
        Ok(self.downgraded(minor_of(self.cluster_version())))
    }

    pub(super) fn downgraded(&self, minor: &'static str) -> Message {
        let response = DowngradeResponse { header: None, version: minor.to_owned() };
        Message::new(&self.current_header(), &prost::Message::encode_to_vec(&response))
    }

    /// The version that a client wants to go down to, if it can be.
    fn check_downgrade(&self, version: &str) -> Result<&'static str, RpcError> {
        let numbers: Vec<&str> = version.split('.').collect();
        let is_number = |text: &&str| !text.is_empty() && text.bytes().all(|c| c.is_ascii_digit());
        if !(2..=3).contains(&numbers.len()) || !numbers.iter().all(is_number) {
            return Err(error::BAD_DOWNGRADE_FORMAT);
        }
        let allowed = minor_of(version::DOWNGRADE_VERSION);
        let wanted = format!("{}.{}", numbers[0], numbers[1]);
        if self.node.applier.downgrade.is_some() || wanted != allowed {
            return Err(error::BAD_DOWNGRADE_TARGET);
        }
        Ok(version::DOWNGRADE_VERSION)
    }

    pub(super) fn alarm(&mut self, caller: Caller, message: Bytes) -> Answer {
        let request: AlarmRequest = attempt!(decode(message.clone()));
        if request.action != AlarmAction::Get as i32 {
            return self.propose(caller, Kind::Alarm, &message, Then::Reply);
        }
        self.reads_new.push(Read::Alarms(caller, request.alarm));
        Answer::Later
    }

    pub(super) fn alarms_now(&mut self, alarm: i32) -> Result<Message, RpcError> {
        let response = self.node.applier.alarms.get(alarm);
        Ok(Message::new(&self.current_header(), &prost::Message::encode_to_vec(&response)))
    }

    pub(super) fn hash(&mut self, caller: Caller, message: Bytes) -> Answer {
        let _: HashRequest = attempt!(decode(message));
        self.start_hash(caller, Work::Bucket(HashBucket::begin(0)))
    }

    pub(super) fn hash_kv(&mut self, caller: Caller, message: Bytes) -> Answer {
        let request: HashKvRequest = attempt!(decode(message));
        let applier = &self.node.applier;
        let reader = applier.mvcc.reader(applier.store.view());
        let hash = HashKv::begin(&reader, request.revision);
        let hash = attempt!(hash.map_err(|error| self.read_error(error)));
        self.start_hash(caller, Work::Kv(hash))
    }

    fn start_hash(&mut self, caller: Caller, work: Work) -> Answer {
        if self.hashes.len() >= HASHES_MAX {
            return super::error::TOO_MANY_REQUESTS.into();
        }
        let revision = self.node.applier.mvcc.current_revision();
        self.hashes.push_back(HashTask { caller, revision, work });
        Answer::Later
    }

    fn seconds_since(&self, caller: &Caller) -> f64 {
        self.now_ms.saturating_sub(caller.since_ms) as f64 / 1e3
    }

    /// One slice of the hash that waited longest.
    pub(super) fn step_hashes(&mut self, connections: &mut Connections) {
        let Some(mut task) = self.hashes.pop_front() else { return };
        let applier = &self.node.applier;
        let reader = applier.mvcc.reader(applier.store.view());
        let step = match &mut task.work {
            Work::Kv(hash) => hash.step(&reader, HASH_SLICE).map(|done| {
                done.map(|value| {
                    prost::Message::encode_to_vec(&HashKvResponse {
                        header: None,
                        hash: value.hash,
                        compact_revision: value.compact_revision,
                        hash_revision: value.hash_revision,
                    })
                })
            }),
            Work::Bucket(hash) => hash.step(&reader, HASH_SLICE).map(|done| {
                let body =
                    |hash| prost::Message::encode_to_vec(&HashResponse { header: None, hash });
                done.map(body)
            }),
        };
        let result = match step {
            Ok(None) => {
                return self.hashes.push_back(task);
            }
            Ok(Some(body)) => {
                let timing = match task.work {
                    Work::Kv(_) => Timing::HashRev,
                    Work::Bucket(_) => Timing::Hash,
                };
                self.metrics.observe(timing, self.seconds_since(&task.caller));
                Ok(Message::new(&self.header(task.revision), &body))
            }
            Err(error) => Err(self.read_error(error)),
        };
        self.reply(connections, task.caller, result);
    }

    /// Answers when the store has given back what it can.
    pub(super) fn defragment(&mut self, caller: Caller, message: Bytes) -> Answer {
        let _: DefragmentRequest = attempt!(decode(message));
        tracing::info!("starting defragment");
        let ticket = self.node.start_defragment();
        self.defragments.push((caller, ticket));
        Answer::Later
    }

    pub(super) fn finish_defragments(&mut self, connections: &mut Connections) {
        let node = &self.node;
        let done = self.defragments.extract_if(.., |(_, ticket)| node.defragmented(*ticket));
        for (caller, _) in done.collect::<Vec<_>>() {
            tracing::info!("finished defragment");
            self.metrics.observe(Timing::Defrag, self.seconds_since(&caller));
            // This answer has no header.
            self.reply(connections, caller, Ok(Message::of(&DefragmentResponse::default())));
        }
    }
}
