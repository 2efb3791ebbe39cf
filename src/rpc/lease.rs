//! `etcdserverpb.Lease`, but for the keep-alive stream.

use bytes::Bytes;

use super::connection::Caller;
use super::dispatch::{attempt, decode};
use super::encode::Message;
use super::error::{self, RpcError};
use super::kv::Then;
use super::validate::cost;
use super::{Answer, Core};
use crate::apply::envelope::Kind;
use crate::lease::LeaseId;
use crate::mvcc::MvccError;
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

    pub(super) fn lease_time_to_live(&mut self, message: Bytes, now_ms: u64) -> Answer {
        let request: LeaseTimeToLiveRequest = attempt!(decode(message));
        let applier = &self.node.applier;
        let id = LeaseId(request.id);
        let mut response =
            LeaseTimeToLiveResponse { id: request.id, ttl: -1, ..Default::default() };
        if let Some(granted) = applier.lessor.ttl(id) {
            response.ttl = applier.lessor.remaining_s(id, now_ms).unwrap_or(0);
            response.granted_ttl = granted;
            if request.keys {
                response.keys = attempt!(
                    self.keys_of_lease(request.id).map_err(|error| self.read_error(error))
                );
            }
        }
        let body = prost::Message::encode_to_vec(&response);
        Answer::Now(Ok(Message::new(&self.current_header(), &body)))
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
        let leases = leases.into_iter().map(|LeaseId(id)| LeaseStatus { id }).collect();
        let body = prost::Message::encode_to_vec(&LeaseLeasesResponse { header: None, leases });
        Answer::Now(Ok(Message::new(&self.current_header(), &body)))
    }
}

/// What a keep-alive of a lease says that is not there.
pub const TTL_OF_NO_LEASE: i64 = 0;

/// Leases can only be renewed where they expire.
pub const NOT_PRIMARY: RpcError = RpcError::new(crate::grpc::Code::Unknown, "not a primary lessor");
