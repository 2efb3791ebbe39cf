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

/// A version without its patch.
type Minor = (i64, i64);

/// What a caller wants of a downgrade.
pub enum Downgrade {
    Validate(Minor),
    Enable(Minor),
    Cancel,
}

fn text_of((major, minor): Minor) -> String {
    format!("{major}.{minor}.0")
}

/// A version as etcd's reader of semantic versions takes it; the patch may be missing.
fn target_of(text: &str) -> Option<Minor> {
    let (numbers, build) = text.split_once('+').unwrap_or((text, ""));
    let (numbers, stage) = numbers.split_once('-').unwrap_or((numbers, ""));
    let is_label = |part: &str| {
        !part.is_empty() && part.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'-')
    };
    let is_tail = |tail: &str| tail.is_empty() || tail.split('.').all(is_label);
    let numbers: Option<Vec<i64>> = numbers.split('.').map(|part| part.parse().ok()).collect();
    match numbers?[..] {
        [major, minor, _] if is_tail(stage) && is_tail(build) => Some((major, minor)),
        [major, minor] if !text.contains(['+', '-']) => Some((major, minor)),
        _ => None,
    }
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
            storage_version: self.cluster_version().to_owned(),
            db_size_quota: self.node.quota_bytes().map_or(-1, |quota| quota as i64),
            downgrade_info: Some(DowngradeInfo {
                enabled: applier.downgrade.is_some(),
                target_version: applier.downgrade.clone().unwrap_or_default(),
            }),
        };
        let body = prost::Message::encode_to_vec(&response);
        Answer::Now(Ok(Message::new(&self.current_header(), &body)))
    }

    /// What the members speak with each other, and in what version their data is said to be.
    pub(super) fn cluster_version(&self) -> &str {
        &self.node.applier.cluster_version
    }

    /// A downgrade that is enabled changes what members say of their versions, and nothing else: there is no older
    /// ringd, and an older etcd takes the state by a snapshot.
    pub(super) fn downgrade(&mut self, caller: Caller, message: Bytes) -> Answer {
        let request: DowngradeRequest = attempt!(decode(message));
        let target = || target_of(&request.version).ok_or(error::BAD_DOWNGRADE_FORMAT);
        let asked = match DowngradeAction::try_from(request.action) {
            Ok(DowngradeAction::Validate) => Downgrade::Validate(attempt!(target())),
            Ok(DowngradeAction::Enable) => Downgrade::Enable(attempt!(target())),
            Ok(DowngradeAction::Cancel) => Downgrade::Cancel,
            Err(_) => return RpcError::new(Code::Unknown, "etcdserver: unknown method").into(),
        };
        self.read_later(Read::Downgrade(caller, asked))
    }

    /// Answers when what the members have agreed upon is known.
    pub(super) fn downgrade_now(
        &mut self,
        connections: &mut Connections,
        caller: Caller,
        asked: Downgrade,
    ) {
        let set = match asked {
            Downgrade::Validate(target) => {
                let result = self.check_downgrade(target).map(|()| self.downgraded());
                return self.reply(connections, caller, result);
            }
            Downgrade::Enable(target) => match self.check_downgrade(target) {
                Ok(()) => DowngradeInfoSetRequest { enabled: true, ver: text_of(target) },
                Err(error) => return self.reply(connections, caller, Err(error)),
            },
            // etcd complains of a cancelled downgrade that there is not in its log only.
            Downgrade::Cancel if self.node.applier.downgrade.is_none() => {
                let message = self.downgraded();
                return self.reply(connections, caller, Ok(message));
            }
            Downgrade::Cancel => DowngradeInfoSetRequest::default(),
        };
        let set = prost::Message::encode_to_vec(&set);
        if let Answer::Now(result) = self.propose(caller, Kind::Downgrade, &set, Then::Downgraded) {
            self.reply(connections, caller, result);
        }
    }

    pub(super) fn downgraded(&self) -> Message {
        let cluster = self.cluster_version();
        let minor = cluster.rsplit_once('.').map_or(cluster, |(minor, _)| minor);
        let response = DowngradeResponse { header: None, version: minor.to_owned() };
        Message::new(&self.current_header(), &prost::Message::encode_to_vec(&response))
    }

    /// One minor version down, and one downgrade at a time.
    fn check_downgrade(&self, (major, minor): Minor) -> Result<(), RpcError> {
        if target_of(self.cluster_version()) != minor.checked_add(1).map(|from| (major, from)) {
            return Err(error::BAD_DOWNGRADE_TARGET);
        }
        match self.node.applier.downgrade {
            Some(_) => Err(error::DOWNGRADE_IN_PROGRESS),
            None => Ok(()),
        }
    }

    /// The lines that operators of etcd wait for.
    pub(super) fn cluster_version_changed(&self, from: &str) {
        let to = self.cluster_version();
        tracing::info!(from, to, "updated cluster version");
        if let Some(target) = &self.node.applier.downgrade {
            tracing::info!(
                "target-version" = target,
                "server-version" = version::VERSION,
                "The server is ready to downgrade"
            );
        }
    }

    pub(super) fn alarm(&mut self, caller: Caller, message: Bytes) -> Answer {
        let request: AlarmRequest = attempt!(decode(message.clone()));
        if request.action != AlarmAction::Get as i32 {
            return self.propose(caller, Kind::Alarm, &message, Then::Reply);
        }
        self.read_later(Read::Alarms(caller, request.alarm))
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
