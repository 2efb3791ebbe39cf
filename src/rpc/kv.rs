//! `etcdserverpb.KV`, but for RangeStream.

use bytes::Bytes;
use prost::encoding::{bool, int64};

use super::auth::Login;
use super::connection::{Caller, Connections};
use super::dispatch::{attempt, decode};
use super::encode::Message;
use super::error::{self, RpcError};
use super::method::Method;
use super::metrics::Count;
use super::validate::{self, cost};
use super::{Answer, Core, Proposal, Read};
use crate::apply::envelope::Kind;
use crate::apply::{ApplyError, Outcome};
use crate::membership::ChangeError;
use crate::mvcc::{MvccError, is_read_only, is_serializable};
use crate::node::{ProposeError, Refusal};
use crate::proto::decode_txn;
use crate::proto::etcdserverpb::{
    CompactionRequest, DeleteRangeRequest, PutRequest, RangeRequest, TxnRequest,
};

/// What follows when a proposal was applied.
pub enum Then {
    Reply,
    /// The answer waits until the compaction has removed what it gave up.
    ReplyWhenCompacted,
    /// The members as they are then.
    Members,
    /// The same, and the one that has come.
    MemberAdded(u64),
    /// A token, if what was found of the password still holds.
    LoggedIn(Box<Login>),
    /// The version that the cluster has then.
    Downgraded,
    /// A step of a lock or an election.
    Recipe(super::recipes::Step),
}

impl Core {
    pub(super) fn put(&mut self, caller: Caller, message: Bytes) -> Answer {
        let request: PutRequest = attempt!(decode(message.clone()));
        if !self.node.admit(cost::put(&request)) {
            return error::NO_SPACE.into();
        }
        attempt!(validate::put(&request));
        self.propose(caller, Kind::Put, &message, Then::Reply)
    }

    pub(super) fn delete_range(&mut self, caller: Caller, message: Bytes) -> Answer {
        let request: DeleteRangeRequest = attempt!(decode(message.clone()));
        attempt!(validate::delete_range(&request));
        self.propose(caller, Kind::DeleteRange, &message, Then::Reply)
    }

    pub(super) fn txn(&mut self, caller: Caller, message: Bytes) -> Answer {
        let request = decode_txn(message.clone()).map_err(|_| error::MALFORMED_MESSAGE);
        let request = attempt!(request);
        if !self.node.admit(cost::txn(&request)) {
            return error::NO_SPACE.into();
        }
        attempt!(validate::txn(&request, self.options.max_txn_ops));
        if !is_read_only(&request) {
            return self.propose(caller, Kind::Txn, &message, Then::Reply);
        }
        if is_serializable(&request) {
            return Answer::Now(self.txn_now(&request));
        }
        self.read_later(Read::Txn(caller, request))
    }

    pub(super) fn compact(&mut self, caller: Caller, message: Bytes) -> Answer {
        let request: CompactionRequest = attempt!(decode(message.clone()));
        let then = if request.physical { Then::ReplyWhenCompacted } else { Then::Reply };
        self.propose(caller, Kind::Compaction, &message, then)
    }

    pub(super) fn range(&mut self, caller: Caller, message: Bytes) -> Answer {
        let request: RangeRequest = attempt!(decode(message));
        attempt!(validate::range(&request));
        if request.serializable {
            return Answer::Range(request);
        }
        self.read_later(Read::Range(caller, request))
    }

    /// Answers a range from the applied state: at once if it is not large.
    pub(super) fn answer_range(
        &mut self,
        connections: &mut Connections,
        caller: Caller,
        request: &RangeRequest,
    ) {
        if let Err(error) = self.permit_range(request) {
            return self.reply(connections, caller, Err(error));
        }
        let Some(connection) = connections.get(caller.connection) else { return };
        let began = self.metrics.clock();
        let result = match connection.at_once() {
            Some(bytes_max) => self.range_up_to(request, bytes_max),
            None => Err(error::TOO_MANY_REQUESTS),
        };
        self.metrics.ranged(result.is_ok(), self.metrics.clock() - began);
        match result {
            Ok(Some(message)) => self.reply(connections, caller, Ok(message)),
            Ok(None) => self.start_large_range(connections, caller, request),
            Err(error) => self.reply(connections, caller, Err(error)),
        }
    }

    /// A range of about `bytes_max` bytes at most. Keys and values are copied once, from the store's
    /// pages into the answer.
    pub(super) fn range_up_to(
        &self,
        request: &RangeRequest,
        bytes_max: usize,
    ) -> Result<Option<Message>, RpcError> {
        let applier = &self.node.applier;
        let mut message = Message::with_capacity(256);
        self.current_header().encode(message.out());
        let outcome = applier
            .mvcc
            .range_up_to(applier.store.view(), request, bytes_max, message.out())
            .map_err(|error| self.read_error(error))?;
        let Some(outcome) = outcome else { return Ok(None) };
        if outcome.more {
            bool::encode(3, &true, message.out());
        }
        if outcome.count != 0 {
            int64::encode(4, &outcome.count, message.out());
        }
        Ok(Some(message))
    }

    pub(super) fn txn_now(&mut self, request: &TxnRequest) -> Result<Message, RpcError> {
        self.permit_txn(request)?;
        let applier = &self.node.applier;
        let reply = applier
            .mvcc
            .reader(applier.store.view())
            .read_txn(request)
            .map_err(|error| self.read_error(error))?;
        Ok(Message::new(&self.header(reply.revision), &reply.body))
    }

    /// The error of a read. A damaged page is never served; the next turn raises the alarm for it.
    pub(super) fn read_error(&self, error: MvccError) -> RpcError {
        if let MvccError::Corruption(corruption) = &error {
            self.damage.set(Some(*corruption));
        }
        apply_error(&ApplyError::Mvcc(error))
    }

    /// Proposes a request as its client sent it. The answer comes when it is applied.
    pub(super) fn propose(
        &mut self,
        caller: Caller,
        kind: Kind,
        message: &[u8],
        then: Then,
    ) -> Answer {
        self.propose_field(caller, kind as u32, message, then)
    }

    /// The same for a request in the field `field` of an entry.
    pub(super) fn propose_field(
        &mut self,
        caller: Caller,
        field: u32,
        message: &[u8],
        then: Then,
    ) -> Answer {
        let who = attempt!(self.identity());
        match self.node.propose_for(who.as_ref(), field, message) {
            Ok(id) => {
                let since_ms = self.node.now_ms();
                self.proposals.insert(id, Proposal { caller, then, since_ms });
                Answer::Later
            }
            Err(ProposeError::TooManyRequests) => error::TOO_MANY_REQUESTS.into(),
            Err(ProposeError::TooLarge) => error::REQUEST_TOO_LARGE.into(),
        }
    }

    /// The leader has not appended a proposal, and never will.
    pub(super) fn refuse_proposal(
        &mut self,
        connections: &mut Connections,
        id: u64,
        refusal: Refusal,
    ) {
        let Some(Proposal { caller, .. }) = self.proposals.remove(&id) else { return };
        let error = match refusal {
            Refusal::NotLeader | Refusal::Later => error::TIMEOUT,
            Refusal::TooManyRequests => error::TOO_MANY_REQUESTS,
            Refusal::Invalid => error::REQUEST_TOO_LARGE,
            Refusal::Unhealthy => error::UNHEALTHY,
            Refusal::NotEnoughStarted => error::NOT_ENOUGH_STARTED,
            Refusal::LearnerNotReady => error::LEARNER_NOT_READY,
        };
        self.reply(connections, caller, Err(error));
    }

    /// What an applied entry cost, if it is a call's of this member.
    pub(super) fn note_applied(&mut self, outcome: &Outcome, seconds: f64) {
        if let Some(proposal) = self.proposals.get(&outcome.id) {
            let method = proposal.caller.method;
            self.metrics.applied(method, outcome.result.is_ok(), seconds);
            if method == Method::MemberPromote && outcome.result.is_ok() {
                self.metrics.count(Count::LearnerPromoted, 1);
            }
            if seconds * 1e3 > self.options.warning_apply_ms as f64 {
                self.metrics.count(Count::ApplySlow, 1);
                tracing::warn!(
                    took = format!("{:.3}ms", seconds * 1e3),
                    "expected-duration" = format!("{}ms", self.options.warning_apply_ms),
                    request = method.describe().path,
                    "apply request took too long"
                );
            }
        }
    }

    pub(super) fn finish_proposal(&mut self, connections: &mut Connections, outcome: Outcome) {
        let Some(Proposal { caller, then, .. }) = self.proposals.remove(&outcome.id) else {
            return;
        };
        let result = match outcome.result {
            result if let Then::Recipe(step) = then => {
                return self.recipe_applied(connections, caller, step, result);
            }
            Ok(reply) => match then {
                Then::ReplyWhenCompacted => {
                    return self.physical.push((caller, reply.revision));
                }
                Then::Members => self.member_list_now(),
                Then::MemberAdded(id) => self.member_added(id),
                Then::Downgraded => Ok(self.downgraded()),
                Then::LoggedIn(login) if !self.is_current(&login) => {
                    tracing::info!("revision when password checked became stale; retrying");
                    return self.check_password(connections, caller, login);
                }
                Then::LoggedIn(login) => {
                    return self.logged_in(connections, caller, *login, &reply);
                }
                Then::Reply | Then::Recipe(_) => {
                    Ok(Message::new(&self.header(reply.revision), &reply.body))
                }
            },
            Err(error) => Err(apply_error(&error)),
        };
        self.reply(connections, caller, result);
    }
}

/// etcd's code and text for an entry that changed nothing.
pub(super) fn apply_error(error: &ApplyError) -> RpcError {
    match error {
        ApplyError::LeaseNotFound => error::LEASE_NOT_FOUND,
        ApplyError::LeaseExists => error::LEASE_EXISTS,
        ApplyError::LeaseTtlTooLarge => error::LEASE_TTL_TOO_LARGE,
        ApplyError::NoSpace => error::NO_SPACE,
        ApplyError::Corrupt => error::CORRUPT,
        ApplyError::Auth(error) => error::of_auth(*error),
        ApplyError::Change(error) => match error {
            ChangeError::NotFound | ChangeError::IdRemoved => error::MEMBER_NOT_FOUND,
            ChangeError::IdExists => error::MEMBER_EXISTS,
            ChangeError::PeerUrlExists => error::PEER_URL_EXISTS,
            ChangeError::NotLearner => error::NOT_LEARNER,
            ChangeError::Impossible => error::NOT_ENOUGH_STARTED,
        },
        ApplyError::Mvcc(MvccError::Compacted) => error::COMPACTED,
        ApplyError::Mvcc(MvccError::FutureRevision) => error::FUTURE_REVISION,
        ApplyError::Mvcc(MvccError::LeaseNotFound) => error::LEASE_NOT_FOUND,
        ApplyError::Mvcc(MvccError::KeyNotFound) => error::KEY_NOT_FOUND,
        // The page is named in the log.
        ApplyError::Mvcc(MvccError::Corruption(_)) => error::CORRUPT,
    }
}
