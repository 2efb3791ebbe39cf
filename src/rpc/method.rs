//! The RPCs that the server knows by name, and what each does to its stream.

/// How messages flow in a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Unary,
    ServerStream,
    BidiStream,
}

impl Kind {
    /// The value of the label `grpc_type`.
    pub fn label(self) -> &'static str {
        match self {
            Kind::Unary => "unary",
            Kind::ServerStream => "server_stream",
            Kind::BidiStream => "bidi_stream",
        }
    }
}

pub struct Description {
    pub method: Method,
    pub path: &'static str,
    pub service: &'static str,
    pub name: &'static str,
    pub kind: Kind,
}

macro_rules! methods {
    ($($method:ident, $service:literal, $name:literal, $kind:ident;)*) => {
        /// An RPC that this server answers.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Method { $($method),* }

        /// Ordered by how often clients call them: the look-up is linear.
        pub const METHODS: &[Description] = &[$(Description {
            method: Method::$method,
            path: concat!("/", $service, "/", $name),
            service: $service,
            name: $name,
            kind: Kind::$kind,
        }),*];
    };
}

methods! {
    Put, "etcdserverpb.KV", "Put", Unary;
    Range, "etcdserverpb.KV", "Range", Unary;
    Txn, "etcdserverpb.KV", "Txn", Unary;
    DeleteRange, "etcdserverpb.KV", "DeleteRange", Unary;
    Compact, "etcdserverpb.KV", "Compact", Unary;
    RangeStream, "etcdserverpb.KV", "RangeStream", ServerStream;
    Watch, "etcdserverpb.Watch", "Watch", BidiStream;
    LeaseKeepAlive, "etcdserverpb.Lease", "LeaseKeepAlive", BidiStream;
    LeaseGrant, "etcdserverpb.Lease", "LeaseGrant", Unary;
    LeaseRevoke, "etcdserverpb.Lease", "LeaseRevoke", Unary;
    LeaseTimeToLive, "etcdserverpb.Lease", "LeaseTimeToLive", Unary;
    LeaseLeases, "etcdserverpb.Lease", "LeaseLeases", Unary;
    MemberList, "etcdserverpb.Cluster", "MemberList", Unary;
    MemberAdd, "etcdserverpb.Cluster", "MemberAdd", Unary;
    MemberRemove, "etcdserverpb.Cluster", "MemberRemove", Unary;
    MemberUpdate, "etcdserverpb.Cluster", "MemberUpdate", Unary;
    MemberPromote, "etcdserverpb.Cluster", "MemberPromote", Unary;
    Status, "etcdserverpb.Maintenance", "Status", Unary;
    Alarm, "etcdserverpb.Maintenance", "Alarm", Unary;
    Hash, "etcdserverpb.Maintenance", "Hash", Unary;
    HashKv, "etcdserverpb.Maintenance", "HashKV", Unary;
    Defragment, "etcdserverpb.Maintenance", "Defragment", Unary;
    Snapshot, "etcdserverpb.Maintenance", "Snapshot", ServerStream;
    MoveLeader, "etcdserverpb.Maintenance", "MoveLeader", Unary;
    Authenticate, "etcdserverpb.Auth", "Authenticate", Unary;
    AuthEnable, "etcdserverpb.Auth", "AuthEnable", Unary;
    AuthDisable, "etcdserverpb.Auth", "AuthDisable", Unary;
    AuthStatus, "etcdserverpb.Auth", "AuthStatus", Unary;
    UserAdd, "etcdserverpb.Auth", "UserAdd", Unary;
    UserGet, "etcdserverpb.Auth", "UserGet", Unary;
    UserList, "etcdserverpb.Auth", "UserList", Unary;
    UserDelete, "etcdserverpb.Auth", "UserDelete", Unary;
    UserChangePassword, "etcdserverpb.Auth", "UserChangePassword", Unary;
    UserGrantRole, "etcdserverpb.Auth", "UserGrantRole", Unary;
    UserRevokeRole, "etcdserverpb.Auth", "UserRevokeRole", Unary;
    RoleAdd, "etcdserverpb.Auth", "RoleAdd", Unary;
    RoleGet, "etcdserverpb.Auth", "RoleGet", Unary;
    RoleList, "etcdserverpb.Auth", "RoleList", Unary;
    RoleDelete, "etcdserverpb.Auth", "RoleDelete", Unary;
    RoleGrantPermission, "etcdserverpb.Auth", "RoleGrantPermission", Unary;
    RoleRevokePermission, "etcdserverpb.Auth", "RoleRevokePermission", Unary;
    Downgrade, "etcdserverpb.Maintenance", "Downgrade", Unary;
    Lock, "v3lockpb.Lock", "Lock", Unary;
    Unlock, "v3lockpb.Lock", "Unlock", Unary;
    Campaign, "v3electionpb.Election", "Campaign", Unary;
    Proclaim, "v3electionpb.Election", "Proclaim", Unary;
    Leader, "v3electionpb.Election", "Leader", Unary;
    Observe, "v3electionpb.Election", "Observe", ServerStream;
    Resign, "v3electionpb.Election", "Resign", Unary;
    HealthCheck, "grpc.health.v1.Health", "Check", Unary;
    HealthList, "grpc.health.v1.Health", "List", Unary;
    HealthWatch, "grpc.health.v1.Health", "Watch", ServerStream;
    Reflection, "grpc.reflection.v1.ServerReflection", "ServerReflectionInfo", BidiStream;
    ReflectionAlpha, "grpc.reflection.v1alpha.ServerReflection", "ServerReflectionInfo", BidiStream;
}

impl Method {
    pub fn from_path(path: &[u8]) -> Option<&'static Description> {
        METHODS.iter().find(|known| known.path.as_bytes() == path)
    }

    pub fn describe(self) -> &'static Description {
        &METHODS[self as usize]
    }
}

/// The text that goes with `Unimplemented` for a path that is not in the table.
pub fn unknown(path: &[u8]) -> String {
    let text = String::from_utf8_lossy(path);
    let Some((service, name)) = text.strip_prefix('/').and_then(|rest| rest.rsplit_once('/'))
    else {
        return format!("malformed method name: {text:?}");
    };
    if METHODS.iter().any(|known| known.service == service) {
        format!("unknown method {name} for service {service}")
    } else {
        format!("unknown service {service}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_method_stands_at_the_place_of_its_number() {
        for (index, known) in METHODS.iter().enumerate() {
            assert_eq!(known.method as usize, index);
            assert_eq!(Method::from_path(known.path.as_bytes()).unwrap().method, known.method);
        }
    }

    #[test]
    fn unknown_paths_are_worded_as_grpc_go_words_them() {
        assert_eq!(unknown(b"/a.B/C"), "unknown service a.B");
        assert_eq!(unknown(b"/etcdserverpb.KV/C"), "unknown method C for service etcdserverpb.KV");
        assert_eq!(unknown(b"C"), "malformed method name: \"C\"");
    }
}
