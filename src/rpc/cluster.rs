//! `etcdserverpb.Cluster`: the members; and `MoveLeader` of the maintenance service.

use bytes::Bytes;

use super::connection::{Caller, Connections};
use super::dispatch::{attempt, decode};
use super::encode::Message;
use super::error::{self, RpcError};
use super::kv::Then;
use super::{Answer, Core, Proposal, Read};
use crate::membership::{self, Change};
use crate::node::ProposeError;
use crate::proto::etcdserverpb::{
    Member, MemberAddRequest, MemberAddResponse, MemberListRequest, MemberListResponse,
    MemberPromoteRequest, MemberRemoveRequest, MemberUpdateRequest, MoveLeaderRequest,
    MoveLeaderResponse,
};
use crate::raft::NodeId;

impl Core {
    pub(super) fn member_list(&mut self, caller: Caller, message: Bytes) -> Answer {
        let request: MemberListRequest = attempt!(decode(message));
        if !request.linearizable {
            return Answer::Now(self.member_list_now());
        }
        self.read_later(Read::MemberList(caller))
    }

    /// The header of this answer has no revision. The answers to changes of the members have the
    /// same form, that to an addition aside.
    pub(super) fn member_list_now(&mut self) -> Result<Message, RpcError> {
        let response = MemberListResponse { header: None, members: self.members() };
        Ok(Message::new(&self.header(0), &prost::Message::encode_to_vec(&response)))
    }

    fn members(&self) -> Vec<Member> {
        let members = self.node.applier.cluster.members().map(|member| Member {
            id: member.id,
            name: member.name.clone(),
            peer_urls: member.peer_urls.clone(),
            client_urls: member.client_urls.clone(),
            is_learner: member.is_learner,
        });
        members.collect()
    }

    pub(super) fn member_add(&mut self, caller: Caller, message: Bytes) -> Answer {
        let request: MemberAddRequest = attempt!(decode(message));
        let peer_urls = attempt!(peer_urls(&request.peer_urls));
        let unix_s = self.unix_ms() / 1000;
        // etcd leaves the token out here.
        let id = membership::member_id(&peer_urls, "", Some(unix_s));
        let is_learner = request.is_learner;
        let member = membership::Member { id, peer_urls, is_learner, ..Default::default() };
        let change = Change::Add(member);
        let cluster = &self.node.applier.cluster;
        let learners = cluster.members().filter(|member| member.is_learner).count();
        // What is wrong with the member itself is told first.
        if is_learner && learners >= self.options.max_learners && cluster.check(&change).is_ok() {
            return error::TOO_MANY_LEARNERS.into();
        }
        self.propose_change(caller, change, Then::MemberAdded(id))
    }

    pub(super) fn member_remove(&mut self, caller: Caller, message: Bytes) -> Answer {
        let request: MemberRemoveRequest = attempt!(decode(message));
        self.propose_change(caller, Change::Remove(request.id), Then::Members)
    }

    pub(super) fn member_update(&mut self, caller: Caller, message: Bytes) -> Answer {
        let request: MemberUpdateRequest = attempt!(decode(message));
        let peer_urls = attempt!(peer_urls(&request.peer_urls));
        let change = Change::UpdatePeerUrls { id: request.id, peer_urls };
        self.propose_change(caller, change, Then::Members)
    }

    pub(super) fn member_promote(&mut self, caller: Caller, message: Bytes) -> Answer {
        let request: MemberPromoteRequest = attempt!(decode(message));
        self.propose_change(caller, Change::Promote(request.id), Then::Members)
    }

    fn propose_change(&mut self, caller: Caller, change: Change, then: Then) -> Answer {
        match self.node.propose_change(change) {
            Ok(id) => {
                let since_ms = self.node.now_ms();
                self.proposals.insert(id, Proposal { caller, then, since_ms });
                Answer::Later
            }
            Err(ProposeError::TooManyRequests) => error::TOO_MANY_REQUESTS.into(),
            Err(ProposeError::TooLarge) => error::REQUEST_TOO_LARGE.into(),
        }
    }

    pub(super) fn member_added(&mut self, id: u64) -> Result<Message, RpcError> {
        let members = self.members();
        let member = members.iter().find(|member| member.id == id).cloned();
        let response = MemberAddResponse { header: None, member, members };
        Ok(Message::new(&self.header(0), &prost::Message::encode_to_vec(&response)))
    }

    /// Hands leadership over; answers when the other leads.
    pub(super) fn move_leader(&mut self, caller: Caller, message: Bytes) -> Answer {
        let request: MoveLeaderRequest = attempt!(decode(message));
        if !self.node.raft().is_leader() {
            return error::NOT_LEADER.into();
        }
        let to = NodeId(request.target_id);
        if self.node.transfer_leadership(to).is_err() {
            return error::BAD_TRANSFEREE.into();
        }
        self.transfers.push((caller, to));
        Answer::Later
    }

    pub(super) fn finish_transfers(&mut self, connections: &mut Connections) {
        let leader = self.node.raft().leader();
        let done = self.transfers.extract_if(.., |(_, to)| Some(*to) == leader);
        for (caller, _) in done.collect::<Vec<_>>() {
            // This answer has no header.
            self.reply(connections, caller, Ok(Message::of(&MoveLeaderResponse::default())));
        }
    }
}

/// Where a member listens to others, as etcd takes it: at least one URL, each a scheme and an
/// address, in order.
pub(super) fn peer_urls(urls: &[String]) -> Result<Vec<String>, RpcError> {
    let mut urls: Vec<String> = urls.iter().map(|url| url.trim().to_owned()).collect();
    if urls.is_empty() || !urls.iter().all(|url| is_peer_url(url)) {
        return Err(error::BAD_MEMBER_URLS);
    }
    urls.sort_unstable();
    Ok(urls)
}

fn is_peer_url(url: &str) -> bool {
    match url.split_once("://") {
        Some(("http" | "https", address)) => address
            .rsplit_once(':')
            .is_some_and(|(host, port)| !host.contains('/') && port.parse::<u16>().is_ok()),
        Some(("unix" | "unixs", path)) => !path.is_empty(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_of_members_are_a_scheme_and_an_address_and_come_sorted() {
        let of = |urls: &[&str]| {
            let urls: Vec<String> = urls.iter().map(|url| (*url).to_owned()).collect();
            peer_urls(&urls).ok()
        };
        assert_eq!(
            of(&["http://b:2380", " http://a:2380"]),
            Some(vec!["http://a:2380".to_owned(), "http://b:2380".to_owned()])
        );
        assert_eq!(of(&["https://[::1]:2380"]), Some(vec!["https://[::1]:2380".to_owned()]));
        assert!(of(&["unix://socket:1"]).is_some());
        for bad in [&[][..], &["a:2380"], &["ftp://a:1"], &["http://a"], &["http://a:1/path"]] {
            assert_eq!(of(bad), None, "{bad:?}");
        }
    }
}
