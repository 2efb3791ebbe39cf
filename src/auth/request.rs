//! The requests that are replicated, as they stand in etcd's `InternalRaftRequest`.

use bytes::Bytes;
use prost::{DecodeError, Message};

use crate::proto::etcdserverpb::*;

macro_rules! requests {
    ($($name:ident = $field:literal, $message:ident;)*) => {
        /// The kinds of requests, with their field numbers.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u32)]
        pub enum Kind { $($name = $field),* }

        /// A request.
        #[derive(Clone, Debug, PartialEq)]
        pub enum Request { $($name($message)),* }

        impl Kind {
            pub const ALL: &[Kind] = &[$(Kind::$name),*];
        }

        impl Request {
            /// The request in a field; none if the field is none of these.
            pub fn decode(field: u32, bytes: Bytes) -> Result<Option<Request>, DecodeError> {
                Ok(Some(match field {
                    $($field => Request::$name($message::decode(bytes)?),)*
                    _ => return Ok(None),
                }))
            }

            pub fn kind(&self) -> Kind {
                match self { $(Request::$name(_) => Kind::$name),* }
            }
        }
    };
}

requests! {
    Enable = 1000, AuthEnableRequest;
    Disable = 1011, AuthDisableRequest;
    Authenticate = 1012, InternalAuthenticateRequest;
    Status = 1013, AuthStatusRequest;
    UserAdd = 1100, AuthUserAddRequest;
    UserDelete = 1101, AuthUserDeleteRequest;
    UserGet = 1102, AuthUserGetRequest;
    UserChangePassword = 1103, AuthUserChangePasswordRequest;
    UserGrantRole = 1104, AuthUserGrantRoleRequest;
    UserRevokeRole = 1105, AuthUserRevokeRoleRequest;
    UserList = 1106, AuthUserListRequest;
    RoleList = 1107, AuthRoleListRequest;
    RoleAdd = 1200, AuthRoleAddRequest;
    RoleDelete = 1201, AuthRoleDeleteRequest;
    RoleGet = 1202, AuthRoleGetRequest;
    RoleGrantPermission = 1203, AuthRoleGrantPermissionRequest;
    RoleRevokePermission = 1204, AuthRoleRevokePermissionRequest;
}
