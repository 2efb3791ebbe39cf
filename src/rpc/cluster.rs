//! `etcdserverpb.Cluster`: the members.

use bytes::Bytes;

use super::connection::Caller;
use super::dispatch::{attempt, decode};
use super::encode::Message;
use super::error::RpcError;
use super::{Answer, Core, Read};
use crate::proto::etcdserverpb::{Member, MemberListRequest, MemberListResponse};

impl Core {
    pub(super) fn member_list(&mut self, caller: Caller, message: Bytes) -> Answer {
        let request: MemberListRequest = attempt!(decode(message));
        if !request.linearizable {
            return Answer::Now(self.member_list_now());
        }
        self.reads_new.push(Read::MemberList(caller));
        Answer::Later
    }

    /// The header of this answer has no revision.
    pub(super) fn member_list_now(&mut self) -> Result<Message, RpcError> {
        let members = self.node.applier.cluster.members().map(|member| Member {
            id: member.id,
            name: member.name.clone(),
            peer_urls: member.peer_urls.clone(),
            client_urls: member.client_urls.clone(),
            is_learner: member.is_learner,
        });
        let response = MemberListResponse { header: None, members: members.collect() };
        Ok(Message::new(&self.header(0), &prost::Message::encode_to_vec(&response)))
    }
}
