//! `etcdserverpb.Lease`, but for the keep-alive stream.

use bytes::Bytes;

use super::connection::{Caller, Connections};
use super::dispatch::{attempt, decode};
use super::encode::Message;
use super::error::{self, RpcError};
use super::kv::Then;
use super::validate::cost;
use super::{Answer, Core, Read};
use crate::apply::envelope::Kind;
use crate::lease::LeaseId;
use crate::mvcc::MvccError;
use crate::node::LeaseAnswer;
use crate::proto::etcdserverpb::{
    LeaseGrantRequest, LeaseLeasesRequest, LeaseLeasesResponse, LeaseRevokeRequest, LeaseStatus,
    LeaseTimeToLiveRequest, LeaseTimeToLiveResponse,
};

impl Core {
    pub(super) fn lease_grant(&mut self, caller: Caller, message: Bytes) -> Answer {
        let mut request: LeaseGrantRequest = attempt!(decode(message));
        if !self.node.admit(cost::LEASE) {
            return error::NO_SPACE.into();
        }
        while request.id == 0 {
            // Positive, as etcd's.
            request.id = (self.node.fresh_id() & i64::MAX as u64) as i64;
        }
        let message = prost::Message::encode_to_vec(&request);
        self.propose(caller, Kind::LeaseGrant, &message, Then::Reply)
    }

    pub(super) fn lease_revoke(&mut self, caller: Caller, message: Bytes) -> Answer {
        let _: LeaseRevokeRequest = attempt!(decode(message.clone()));
        self.propose(caller, Kind::LeaseRevoke, &message, Then::Reply)
    }

    /// Asked of the leader, behind a linearization point here, so that the keys are not older than
    /// the question.
    pub(super) fn lease_time_to_live(&mut self, caller: Caller, message: Bytes) -> Answer {
        let request: LeaseTimeToLiveRequest = attempt!(decode(message));
        self.read_later(Read::LeaseTimeToLive(caller, request))
    }

    pub(super) fn ask_time_to_live(&mut self, caller: Caller, request: LeaseTimeToLiveRequest) {
        let number = self.node.lease_time_to_live(LeaseId(request.id));
        self.lease_queries.insert(number, (caller, request));
    }

    /// The leader's answer to a question about a lease.
    pub(super) fn finish_lease(
        &mut self,
        connections: &mut Connections,
        number: u64,
        answer: LeaseAnswer,
    ) {
        let result = match answer {
            LeaseAnswer::Renewed { ttl_s } => Ok(ttl_s),
            LeaseAnswer::TimeToLive { granted_s, remaining_s } => {
                if let Some((caller, request)) = self.lease_queries.remove(&number) {
                    self.ask_for_caller(connections, caller);
                    let result = self.time_to_live_is(&request, granted_s, remaining_s);
                    self.ask_for_nobody();
                    self.reply(connections, caller, result);
                }
                return;
            }
            LeaseAnswer::Lost => Err(match self.node.raft().leader() {
                Some(_) => error::TIMEOUT,
                None => error::NO_LEADER,
            }),
        };
        if let (Err(error), Some((caller, _))) = (&result, self.lease_queries.remove(&number)) {
            return self.reply(connections, caller, Err(error.clone()));
        }
        self.finish_renewal(connections, number, result);
    }

    fn time_to_live_is(
        &mut self,
        request: &LeaseTimeToLiveRequest,
        granted_s: i64,
        remaining_s: i64,
    ) -> Result<Message, RpcError> {
        let mut response =
            LeaseTimeToLiveResponse { id: request.id, ttl: -1, ..Default::default() };
        if request.keys {
            self.permit_lease_keys(request.id)?;
        }
        if granted_s >= 0 {
            response.ttl = remaining_s;
            response.granted_ttl = granted_s;
            if request.keys {
                let keys = self.keys_of_lease(request.id);
                response.keys = keys.map_err(|error| self.read_error(error))?;
            }
        }
        let body = prost::Message::encode_to_vec(&response);
        Ok(Message::new(&self.current_header(), &body))
    }

    fn keys_of_lease(&self, id: i64) -> Result<Vec<Bytes>, MvccError> {
        let applier = &self.node.applier;
        let mut attached = applier.mvcc.reader(applier.store.view()).keys_of_lease(id);
        let mut keys = Vec::new();
        while let Some(key) = attached.next()? {
            keys.push(Bytes::copy_from_slice(key));
        }
        Ok(keys)
    }

    pub(super) fn lease_leases(&mut self, message: Bytes) -> Answer {
        let _: LeaseLeasesRequest = attempt!(decode(message));
        let leases = self.node.applier.lessor.list();
        let leases: Vec<i64> = leases.into_iter().map(|LeaseId(id)| id).collect();
        attempt!(self.permit_leases(&leases));
        let leases = leases.into_iter().map(|id| LeaseStatus { id }).collect();
        let body = prost::Message::encode_to_vec(&LeaseLeasesResponse { header: None, leases });
        Answer::Now(Ok(Message::new(&self.current_header(), &body)))
    }
}
