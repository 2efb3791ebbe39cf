//! The requests of a sequence and the answers to them, typed, and how two answers are compared.

use bytes::Bytes;
use prost::Message;
use ringd::proto::etcdserverpb as pb;

use super::ties;
use crate::client::{Client, Fields, Reply, frame};

/// One line per method: its variant, its path, its messages.
macro_rules! methods {
    ($($name:ident $path:literal $request:ident $response:ident;)*) => {
        #[derive(Clone, Debug, PartialEq)]
        pub enum Request { $($name(pb::$request),)* }

        #[derive(Clone, Debug, PartialEq)]
        pub enum Content { $($name(pb::$response),)* }

        impl Request {
            pub fn path(&self) -> &'static str {
                match self { $(Request::$name(_) => concat!("/etcdserverpb.", $path),)* }
            }

            pub fn name(&self) -> &'static str {
                match self { $(Request::$name(_) => stringify!($name),)* }
            }

            pub async fn send(&self, client: &Client) -> Reply {
                match self { $(Request::$name(message) => client.call(self.path(), message).await,)* }
            }

            /// With further fields in the head.
            pub async fn send_as(&self, client: &Client, metadata: &[(&str, &str)]) -> Reply {
                let body = match self {
                    $(Request::$name(message) => frame(&message.encode_to_vec()),)*
                };
                client.call_with(self.path(), metadata, body).await
            }

            fn decode(&self, bytes: Bytes) -> Result<Content, prost::DecodeError> {
                match self {
                    $(Request::$name(_) => pb::$response::decode(bytes).map(Content::$name),)*
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
    (RangeStream, $message:ident) => {
        $message.range_response.as_mut().and_then(|part| part.header.as_mut())
    };
    ($name:ident, $message:ident) => {
        $message.header.as_mut()
    };
}

methods! {
    Range "KV/Range" RangeRequest RangeResponse;
    RangeStream "KV/RangeStream" RangeRequest RangeStreamResponse;
    Put "KV/Put" PutRequest PutResponse;
    DeleteRange "KV/DeleteRange" DeleteRangeRequest DeleteRangeResponse;
    Txn "KV/Txn" TxnRequest TxnResponse;
    Compact "KV/Compact" CompactionRequest CompactionResponse;
    LeaseGrant "Lease/LeaseGrant" LeaseGrantRequest LeaseGrantResponse;
    LeaseRevoke "Lease/LeaseRevoke" LeaseRevokeRequest LeaseRevokeResponse;
    LeaseTimeToLive "Lease/LeaseTimeToLive" LeaseTimeToLiveRequest LeaseTimeToLiveResponse;
    LeaseLeases "Lease/LeaseLeases" LeaseLeasesRequest LeaseLeasesResponse;
    Alarm "Maintenance/Alarm" AlarmRequest AlarmResponse;
    HashKv "Maintenance/HashKV" HashKvRequest HashKvResponse;
    Status "Maintenance/Status" StatusRequest StatusResponse;
    Defragment "Maintenance/Defragment" DefragmentRequest DefragmentResponse;
    MemberList "Cluster/MemberList" MemberListRequest MemberListResponse;
    KeepAlive "Lease/LeaseKeepAlive" LeaseKeepAliveRequest LeaseKeepAliveResponse;
    Authenticate "Auth/Authenticate" AuthenticateRequest AuthenticateResponse;
    AuthEnable "Auth/AuthEnable" AuthEnableRequest AuthEnableResponse;
    AuthStatus "Auth/AuthStatus" AuthStatusRequest AuthStatusResponse;
    UserAdd "Auth/UserAdd" AuthUserAddRequest AuthUserAddResponse;
    UserDelete "Auth/UserDelete" AuthUserDeleteRequest AuthUserDeleteResponse;
    UserGet "Auth/UserGet" AuthUserGetRequest AuthUserGetResponse;
    UserList "Auth/UserList" AuthUserListRequest AuthUserListResponse;
    UserChangePassword "Auth/UserChangePassword" AuthUserChangePasswordRequest AuthUserChangePasswordResponse;
    UserGrantRole "Auth/UserGrantRole" AuthUserGrantRoleRequest AuthUserGrantRoleResponse;
    UserRevokeRole "Auth/UserRevokeRole" AuthUserRevokeRoleRequest AuthUserRevokeRoleResponse;
    RoleAdd "Auth/RoleAdd" AuthRoleAddRequest AuthRoleAddResponse;
    RoleDelete "Auth/RoleDelete" AuthRoleDeleteRequest AuthRoleDeleteResponse;
    RoleGet "Auth/RoleGet" AuthRoleGetRequest AuthRoleGetResponse;
    RoleList "Auth/RoleList" AuthRoleListRequest AuthRoleListResponse;
    RoleGrantPermission "Auth/RoleGrantPermission" AuthRoleGrantPermissionRequest AuthRoleGrantPermissionResponse;
    RoleRevokePermission "Auth/RoleRevokePermission" AuthRoleRevokePermissionRequest AuthRoleRevokePermissionResponse;
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

impl Answer {
    pub fn of(request: &Request, reply: Reply) -> Answer {
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
                    mask(&mut message);
                    answer.messages.push(message);
                }
                Err(_) => answer.foreign_bytes = Some(bytes),
            }
        }
        answer
    }

    pub fn revision(&mut self) -> Option<i64> {
        Some(self.messages.last_mut()?.header_mut()?.revision)
    }

    pub fn code(&self) -> i32 {
        let fields = self.tail.iter().chain(&self.head);
        let status = fields.clone().find(|(name, _)| name == "grpc-status");
        status.and_then(|(_, code)| code.parse().ok()).unwrap_or(-1)
    }
}

/// Takes out what two servers with the same history may differ in: terms, sizes, indices, orders that etcd leaves open.
fn mask(message: &mut Content) {
    if let Some(header) = message.header_mut() {
        header.raft_term = 0;
    }
    if let Content::LeaseTimeToLive(lease) = message {
        // In the order of a Go map, that is in none.
        lease.keys.sort();
    }
    if let Content::LeaseLeases(list) = message {
        // In the order of expiry, in which leases that were granted or renewed within a moment, or before a restart,
        // are equal or not depending on the clock.
        list.leases.sort_by_key(|lease| lease.id);
    }
    if let Content::Status(status) = message {
        status.db_size = 0;
        status.db_size_in_use = 0;
        status.raft_index = 0;
        status.raft_applied_index = 0;
        status.raft_term = 0;
        // Etcd finds out some seconds after its start.
        status.storage_version.clear();
        // One space or two, as the build of protobuf's Go library has drawn it.
        for error in &mut status.errors {
            *error = error.replace("  ", " ");
        }
    }
}

/// A lease's remaining time is compared with this tolerance: the servers are not asked in the same instant.
const TTL_TOLERANCE_SECONDS: i64 = 5;

/// Equal field by field, apart from what is nobody's promise.
pub fn same(request: &Request, left: &Answer, right: &Answer) -> bool {
    if left == right {
        return true;
    }
    let (mut left, mut right) = (left.clone(), right.clone());
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
