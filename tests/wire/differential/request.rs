//! The requests of a sequence and the answers to them, typed, and how two answers are compared.

use bytes::Bytes;
use prost::Message;
use ringd::proto::etcdserverpb as pb;
use ringd::proto::health::{HealthCheckRequest, HealthCheckResponse};
use ringd::proto::health::{HealthListRequest, HealthListResponse};
use ringd::proto::{v3electionpb as election, v3lockpb as lock};

use super::ties;
use crate::client::{Client, Fields, Reply, Stream, frame};

/// One line per method: its variant, its path, its messages.
macro_rules! methods {
    ($($name:ident $path:literal $request:ty, $response:ty;)*) => {
        #[derive(Clone, Debug, PartialEq)]
        pub enum Request { $($name($request),)* }

        #[derive(Clone, Debug, PartialEq)]
        pub enum Content { $($name($response),)* }

        impl Request {
            /// As gRPC has it: `/package.Service/Method`.
            pub fn path(&self) -> &'static str {
                match self { $(Request::$name(_) => concat!("/", $path),)* }
            }

            pub fn encode(&self) -> Vec<u8> {
                match self { $(Request::$name(message) => message.encode_to_vec(),)* }
            }

            pub async fn send(&self, client: &Client) -> Reply {
                match self { $(Request::$name(message) => client.call(self.path(), message).await,)* }
            }

            /// A stream of answers to this one message, which goes on.
            pub async fn open_as(&self, client: &Client, metadata: &[(&str, &str)]) -> Stream {
                let mut stream = client.open_with(self.path(), metadata).await;
                match self { $(Request::$name(message) => stream.send(message),)* }
                stream.finish();
                stream
            }

            /// With further fields in the head.
            pub async fn send_as(&self, client: &Client, metadata: &[(&str, &str)]) -> Reply {
                client.call_with(self.path(), metadata, frame(&self.encode())).await
            }

            fn decode(&self, bytes: Bytes) -> Result<Content, prost::DecodeError> {
                match self {
                    $(Request::$name(_) => <$response>::decode(bytes).map(Content::$name),)*
                }
            }
        }

        impl Content {
            fn encode(&self) -> Vec<u8> {
                match self { $(Content::$name(message) => message.encode_to_vec(),)* }
            }

            pub fn header_mut(&mut self) -> Option<&mut pb::ResponseHeader> {
                match self { $(Content::$name(message) => header_of!($name, message),)* }
            }
        }
    };
}

macro_rules! header_of {
    (HealthCheck, $message:ident) => {
        no_header($message)
    };
    (HealthList, $message:ident) => {
        no_header($message)
    };
    (HealthWatch, $message:ident) => {
        no_header($message)
    };
    (RangeStream, $message:ident) => {
        $message.range_response.as_mut().and_then(|part| part.header.as_mut())
    };
    ($name:ident, $message:ident) => {
        $message.header.as_mut()
    };
}

fn no_header(_: &mut impl Message) -> Option<&mut pb::ResponseHeader> {
    None
}

methods! {
    Range "etcdserverpb.KV/Range" pb::RangeRequest, pb::RangeResponse;
    RangeStream "etcdserverpb.KV/RangeStream" pb::RangeRequest, pb::RangeStreamResponse;
    Put "etcdserverpb.KV/Put" pb::PutRequest, pb::PutResponse;
    DeleteRange "etcdserverpb.KV/DeleteRange" pb::DeleteRangeRequest, pb::DeleteRangeResponse;
    Txn "etcdserverpb.KV/Txn" pb::TxnRequest, pb::TxnResponse;
    Compact "etcdserverpb.KV/Compact" pb::CompactionRequest, pb::CompactionResponse;
    LeaseGrant "etcdserverpb.Lease/LeaseGrant" pb::LeaseGrantRequest, pb::LeaseGrantResponse;
    LeaseRevoke "etcdserverpb.Lease/LeaseRevoke" pb::LeaseRevokeRequest, pb::LeaseRevokeResponse;
    LeaseTimeToLive "etcdserverpb.Lease/LeaseTimeToLive" pb::LeaseTimeToLiveRequest, pb::LeaseTimeToLiveResponse;
    LeaseLeases "etcdserverpb.Lease/LeaseLeases" pb::LeaseLeasesRequest, pb::LeaseLeasesResponse;
    Alarm "etcdserverpb.Maintenance/Alarm" pb::AlarmRequest, pb::AlarmResponse;
    HashKv "etcdserverpb.Maintenance/HashKV" pb::HashKvRequest, pb::HashKvResponse;
    Status "etcdserverpb.Maintenance/Status" pb::StatusRequest, pb::StatusResponse;
    Defragment "etcdserverpb.Maintenance/Defragment" pb::DefragmentRequest, pb::DefragmentResponse;
    MemberList "etcdserverpb.Cluster/MemberList" pb::MemberListRequest, pb::MemberListResponse;
    KeepAlive "etcdserverpb.Lease/LeaseKeepAlive" pb::LeaseKeepAliveRequest, pb::LeaseKeepAliveResponse;
    Authenticate "etcdserverpb.Auth/Authenticate" pb::AuthenticateRequest, pb::AuthenticateResponse;
    AuthEnable "etcdserverpb.Auth/AuthEnable" pb::AuthEnableRequest, pb::AuthEnableResponse;
    AuthStatus "etcdserverpb.Auth/AuthStatus" pb::AuthStatusRequest, pb::AuthStatusResponse;
    UserAdd "etcdserverpb.Auth/UserAdd" pb::AuthUserAddRequest, pb::AuthUserAddResponse;
    UserDelete "etcdserverpb.Auth/UserDelete" pb::AuthUserDeleteRequest, pb::AuthUserDeleteResponse;
    UserGet "etcdserverpb.Auth/UserGet" pb::AuthUserGetRequest, pb::AuthUserGetResponse;
    UserList "etcdserverpb.Auth/UserList" pb::AuthUserListRequest, pb::AuthUserListResponse;
    UserChangePassword "etcdserverpb.Auth/UserChangePassword" pb::AuthUserChangePasswordRequest, pb::AuthUserChangePasswordResponse;
    UserGrantRole "etcdserverpb.Auth/UserGrantRole" pb::AuthUserGrantRoleRequest, pb::AuthUserGrantRoleResponse;
    UserRevokeRole "etcdserverpb.Auth/UserRevokeRole" pb::AuthUserRevokeRoleRequest, pb::AuthUserRevokeRoleResponse;
    RoleAdd "etcdserverpb.Auth/RoleAdd" pb::AuthRoleAddRequest, pb::AuthRoleAddResponse;
    RoleDelete "etcdserverpb.Auth/RoleDelete" pb::AuthRoleDeleteRequest, pb::AuthRoleDeleteResponse;
    RoleGet "etcdserverpb.Auth/RoleGet" pb::AuthRoleGetRequest, pb::AuthRoleGetResponse;
    RoleList "etcdserverpb.Auth/RoleList" pb::AuthRoleListRequest, pb::AuthRoleListResponse;
    RoleGrantPermission "etcdserverpb.Auth/RoleGrantPermission" pb::AuthRoleGrantPermissionRequest, pb::AuthRoleGrantPermissionResponse;
    RoleRevokePermission "etcdserverpb.Auth/RoleRevokePermission" pb::AuthRoleRevokePermissionRequest, pb::AuthRoleRevokePermissionResponse;
    Hash "etcdserverpb.Maintenance/Hash" pb::HashRequest, pb::HashResponse;
    Snapshot "etcdserverpb.Maintenance/Snapshot" pb::SnapshotRequest, pb::SnapshotResponse;
    MoveLeader "etcdserverpb.Maintenance/MoveLeader" pb::MoveLeaderRequest, pb::MoveLeaderResponse;
    Downgrade "etcdserverpb.Maintenance/Downgrade" pb::DowngradeRequest, pb::DowngradeResponse;
    MemberAdd "etcdserverpb.Cluster/MemberAdd" pb::MemberAddRequest, pb::MemberAddResponse;
    MemberRemove "etcdserverpb.Cluster/MemberRemove" pb::MemberRemoveRequest, pb::MemberRemoveResponse;
    MemberUpdate "etcdserverpb.Cluster/MemberUpdate" pb::MemberUpdateRequest, pb::MemberUpdateResponse;
    MemberPromote "etcdserverpb.Cluster/MemberPromote" pb::MemberPromoteRequest, pb::MemberPromoteResponse;
    AuthDisable "etcdserverpb.Auth/AuthDisable" pb::AuthDisableRequest, pb::AuthDisableResponse;
    Lock "v3lockpb.Lock/Lock" lock::LockRequest, lock::LockResponse;
    Unlock "v3lockpb.Lock/Unlock" lock::UnlockRequest, lock::UnlockResponse;
    Campaign "v3electionpb.Election/Campaign" election::CampaignRequest, election::CampaignResponse;
    Proclaim "v3electionpb.Election/Proclaim" election::ProclaimRequest, election::ProclaimResponse;
    Leader "v3electionpb.Election/Leader" election::LeaderRequest, election::LeaderResponse;
    Observe "v3electionpb.Election/Observe" election::LeaderRequest, election::LeaderResponse;
    Resign "v3electionpb.Election/Resign" election::ResignRequest, election::ResignResponse;
    HealthCheck "grpc.health.v1.Health/Check" HealthCheckRequest, HealthCheckResponse;
    HealthList "grpc.health.v1.Health/List" HealthListRequest, HealthListResponse;
    HealthWatch "grpc.health.v1.Health/Watch" HealthCheckRequest, HealthCheckResponse;
}

/// An answer in the form in which it is compared.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    pub head: Fields,
    pub messages: Vec<Content>,
    pub tail: Fields,
    pub broken: Option<String>,
    /// Set when a message has fields that the schema does not know, or is not encoded as etcd encodes it.
    pub foreign_bytes: Option<Bytes>,
}

/// Stands in requests and answers for the id of the member that was added last: each server makes its own.
pub const ADDED: u64 = 7_000_000_000;

/// Stands in requests for the revision of who was elected last.
pub const ELECTED: i64 = -7_000_000_000;

/// What a server has said, and later requests need.
#[derive(Clone, Copy, Default)]
pub struct Told {
    added: u64,
    elected: i64,
}

impl Request {
    /// With what this server has said in the place of [`ADDED`] and [`ELECTED`].
    pub fn to(&self, told: Told) -> Request {
        let mut request = self.clone();
        let member = match &mut request {
            Request::MemberRemove(request) => Some(&mut request.id),
            Request::MemberUpdate(request) => Some(&mut request.id),
            Request::MemberPromote(request) => Some(&mut request.id),
            Request::MoveLeader(request) => Some(&mut request.target_id),
            _ => None,
        };
        if let Some(id) = member.filter(|id| **id == ADDED) {
            *id = told.added;
        }
        let leader = match &mut request {
            Request::Proclaim(request) => request.leader.as_mut(),
            Request::Resign(request) => request.leader.as_mut(),
            _ => None,
        };
        if let Some(leader) = leader.filter(|leader| leader.rev == ELECTED) {
            leader.rev = told.elected;
        }
        request
    }
}

impl Request {
    fn is_stream(&self) -> bool {
        use Request::*;
        matches!(self, KeepAlive(_) | Observe(_) | HealthWatch(_) | Snapshot(_))
    }
}

impl Content {
    /// Notes what later requests need, and puts [`ADDED`] in the place of the id of who was added.
    fn note(&mut self, told: &mut Told) {
        let members = match self {
            Content::MemberAdd(response) => {
                if let Some(member) = &mut response.member {
                    told.added = std::mem::replace(&mut member.id, ADDED);
                }
                &mut response.members
            }
            Content::Campaign(response) => {
                told.elected = response.leader.as_ref().map_or(0, |leader| leader.rev);
                return;
            }
            Content::MemberRemove(response) => &mut response.members,
            Content::MemberUpdate(response) => &mut response.members,
            Content::MemberPromote(response) => &mut response.members,
            Content::MemberList(response) => &mut response.members,
            _ => return,
        };
        for member in members.iter_mut().filter(|member| member.id == told.added) {
            member.id = ADDED;
        }
        // They come in the order of their ids.
        members.sort_by_key(|member| member.id);
    }
}

impl Answer {
    pub fn of(request: &Request, reply: Reply, told: &mut Told) -> Answer {
        let mut answer = Answer {
            head: reply.head,
            messages: Vec::new(),
            tail: reply.tail,
            broken: reply.broken,
            foreign_bytes: None,
        };
        for bytes in reply.messages {
            match request.decode(bytes.clone()) {
                Ok(mut message) => {
                    if message.encode() != bytes {
                        answer.foreign_bytes = Some(bytes);
                    }
                    message.note(told);
                    mask(&mut message);
                    answer.messages.push(message);
                }
                Err(_) => answer.foreign_bytes = Some(bytes),
            }
        }
        // How many there are depends on the size of the file, which is a server's own.
        if matches!(request, Request::Snapshot(_)) {
            answer.messages.dedup();
        }
        answer
    }

    pub fn revision(&mut self) -> Option<i64> {
        Some(self.messages.last_mut()?.header_mut()?.revision)
    }

    /// A stream that goes on has none yet: what it has said so far is no error.
    pub fn code(&self) -> i32 {
        let mut fields = self.tail.iter().chain(&self.head);
        match fields.find(|(name, _)| name == "grpc-status") {
            Some((_, code)) => code.parse().unwrap_or(-1),
            None if self.broken.is_none() && !self.messages.is_empty() => 0,
            None => -1,
        }
    }
}

/// Takes out what two servers with the same history may differ in: terms, sizes, indices, orders that etcd leaves open.
/// Of a number that is a server's own it remains whether it is there.
fn mask(message: &mut Content) {
    if let Some(header) = message.header_mut() {
        header.raft_term = header.raft_term.min(1);
    }
    match message {
        // In the order of a Go map, that is in none.
        Content::LeaseTimeToLive(lease) => lease.keys.sort(),
        // In the order of expiry, in which leases that were granted or renewed within a moment, or before a restart,
        // are equal or not depending on the clock.
        Content::LeaseLeases(list) => list.leases.sort_by_key(|lease| lease.id),
        Content::Status(status) => {
            status.db_size_in_use =
                i64::from((1..=status.db_size).contains(&status.db_size_in_use));
            status.db_size = status.db_size.min(1);
            status.raft_applied_index =
                u64::from((1..=status.raft_index).contains(&status.raft_applied_index));
            status.raft_index = status.raft_index.min(1);
            status.raft_term = status.raft_term.min(1);
            // Etcd gets there in steps, some seconds after its start and after a downgrade has been enabled.
            if ["", "3.5.0", "3.6.0"].contains(&status.storage_version.as_str()) {
                status.storage_version = "3.7.0".to_owned();
            }
            // One space or two, as the build of protobuf's Go library has drawn it.
            for error in &mut status.errors {
                *error = error.replace("  ", " ");
            }
        }
        // Over the pages of a bbolt file.
        Content::Hash(hash) => hash.hash = hash.hash.min(1),
        Content::Snapshot(part) => {
            part.blob.clear();
            part.remaining_bytes = 0;
        }
        _ => {}
    }
}

/// A lease's remaining time is compared with this tolerance: the servers are not asked in the same instant.
const TTL_TOLERANCE_SECONDS: i64 = 5;

/// Equal field by field, apart from what is nobody's promise.
pub fn same(request: &Request, left: &Answer, right: &Answer) -> bool {
    if left == right {
        return true;
    }
    if matches!(request, Request::MemberAdd(_)) && left.code() != 0 && right.code() != 0 {
        // An id has the second in it. Of two members with one address the second one has the id of the first if it
        // is added within the same second, which is the case on one side and not on the other now and then.
        let says = |answer: &Answer, texts: &[&str]| {
            let mut fields = answer.tail.iter().chain(&answer.head);
            fields.any(|(_, value)| texts.contains(&&**value))
        };
        let same_id = ["etcdserver: member ID already exist"];
        let others = [
            "etcdserver: Peer URLs already exists",
            "etcdserver: too many learner members in cluster",
        ];
        if (says(left, &same_id) && says(right, &others))
            || (says(left, &others) && says(right, &same_id))
        {
            return true;
        }
    }
    let (mut left, mut right) = (left.clone(), right.clone());
    if request.is_stream() && left.messages.is_empty() && right.messages.is_empty() {
        // Etcd sends the head of a stream with its first message, ringd at once.
        for answer in [&mut left, &mut right] {
            let mut fields = std::mem::take(&mut answer.head);
            fields.append(&mut answer.tail);
            fields.retain(|(name, _)| name.starts_with("grpc-"));
            answer.tail = fields;
        }
    }
    for (left, right) in left.messages.iter_mut().zip(&mut right.messages) {
        match (request, &mut *left, &mut *right) {
            (Request::Range(range), Content::Range(left), Content::Range(right)) => {
                ties::level(range, left);
                ties::level(range, right);
            }
            (Request::Txn(txn), Content::Txn(left), Content::Txn(right)) => {
                ties::level_all(txn, left);
                ties::level_all(txn, right);
            }
            // How far down it has come meanwhile.
            (Request::Downgrade(asked), Content::Downgrade(left), Content::Downgrade(right))
                if asked.action == pb::downgrade_request::DowngradeAction::Cancel as i32 =>
            {
                for response in [left, right] {
                    if ["3.6", "3.7"].contains(&response.version.as_str()) {
                        response.version.clear();
                    }
                }
            }
            _ => {}
        }
        if let (Content::LeaseTimeToLive(left), Content::LeaseTimeToLive(right)) = (left, right)
            && (left.ttl - right.ttl).abs() <= TTL_TOLERANCE_SECONDS
        {
            left.ttl = right.ttl;
        }
    }
    left == right
}
