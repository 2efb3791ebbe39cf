//! Changes of users, roles and permissions, and questions about them.

use bytes::Bytes;
use ringd::proto::authpb;
use ringd::proto::etcdserverpb as pb;

use super::request::Request;
use crate::rng::Rng;

pub const USERS: &[&str] = &["root", "alice", "bob", "carol", "dave"];
const ROLES: &[&str] = &["root", "r1", "r2", "r3"];
const RANGES: &[(&[u8], &[u8])] = &[
    (b"a", b""),
    (b"a", b"b"),
    (b"a", b"k/2"),
    (b"b", b"k0"),
    (b"k/", b"k0"),
    (b"k/1", b""),
    (b"k/2", b"z"),
    (b"k/3", b"k/3\0"),
    (b"z", b"\0"),
    (b"\0", b"\0"),
    (b"\0", b"a"),
    (b"\xff", b"\0"),
    (b"b", b"a"),
    (b"", b""),
];

/// One of these, or nothing.
pub fn text(rng: &mut Rng, from: &[&str]) -> String {
    if rng.below(20) == 0 { String::new() } else { rng.pick(from).to_owned() }
}

pub fn administration(rng: &mut Rng) -> Request {
    let (name, role) = (text(rng, USERS), text(rng, ROLES));
    let (key, range_end) = rng.pick(RANGES);
    let (key, range_end) = (Bytes::from_static(key), Bytes::from_static(range_end));
    match rng.weighted(&[6, 2, 4, 10, 4, 4, 10, 3, 4, 4, 2, 20, 5, 4, 4, 2]) {
        0 => Request::UserAdd(pb::AuthUserAddRequest {
            name,
            password: "first".to_owned(),
            options: rng.chance(20).then(|| authpb::UserAddOptions { no_password: rng.chance(60) }),
            ..Default::default()
        }),
        1 => Request::UserDelete(pb::AuthUserDeleteRequest { name }),
        2 => Request::UserChangePassword(pb::AuthUserChangePasswordRequest {
            name,
            password: rng.pick(&["first", "second"]).to_owned(),
            ..Default::default()
        }),
        3 => Request::UserGrantRole(pb::AuthUserGrantRoleRequest {
            user: name,
            // Few become administrators.
            role: if rng.chance(80) && role == "root" { "r1".to_owned() } else { role },
        }),
        4 => Request::UserRevokeRole(pb::AuthUserRevokeRoleRequest { name, role }),
        5 => Request::UserGet(pb::AuthUserGetRequest { name }),
        6 => Request::RoleAdd(pb::AuthRoleAddRequest { name: role }),
        7 => Request::RoleDelete(pb::AuthRoleDeleteRequest { role }),
        8 => Request::RoleGet(pb::AuthRoleGetRequest { role }),
        9 => Request::UserList(pb::AuthUserListRequest {}),
        10 => Request::RoleList(pb::AuthRoleListRequest {}),
        11 => Request::RoleGrantPermission(pb::AuthRoleGrantPermissionRequest {
            name: role,
            perm: (rng.below(30) > 0).then(|| authpb::Permission {
                perm_type: rng.below(3) as i32,
                key,
                range_end,
            }),
        }),
        12 => Request::RoleRevokePermission(pb::AuthRoleRevokePermissionRequest {
            role,
            key,
            range_end,
        }),
        13 => Request::AuthStatus(pb::AuthStatusRequest {}),
        14 => Request::AuthEnable(pb::AuthEnableRequest {}),
        _ => Request::Authenticate(pb::AuthenticateRequest { name, password: "wrong".to_owned() }),
    }
}
