//! What requests do, and who may make them.

use prost::Message;

use super::*;
use crate::proto::authpb::UserAddOptions;
use crate::proto::authpb::permission::Type;
use crate::proto::etcdserverpb as pb;

/// State of users as a member has it: it persists what is to be persisted.
#[derive(Default)]
struct Bed {
    auth: Auth,
    records: BTreeMap<Vec<u8>, Vec<u8>>,
    index: u64,
}

impl Bed {
    fn apply(&mut self, request: Request) -> Result<Vec<u8>, AuthError> {
        self.index += 1;
        let result = self.auth.apply(&request, self.index, self.index);
        for record in self.auth.take_records() {
            assert!(result.is_ok());
            match record.value {
                Some(value) => self.records.insert(record.key, value),
                None => self.records.remove(&record.key),
            };
        }
        result
    }

    fn do_all(&mut self, requests: impl IntoIterator<Item = Request>) {
        for request in requests {
            let shown = format!("{request:?}");
            self.apply(request).unwrap_or_else(|error| panic!("{shown}: {error}"));
        }
    }

    /// The state as a restart finds it.
    fn reopened(&self) -> Auth {
        let mut auth = Auth::default();
        for (key, value) in &self.records {
            auth.load(key, value).unwrap();
        }
        auth.loaded();
        auth
    }

    fn who(&self, user: &str) -> Identity {
        Identity { user: user.to_owned(), revision: self.auth.revision() }
    }

    /// Root, alice with read and write on [a, c) by way of role r; enabled.
    fn enabled() -> Bed {
        let mut bed = Bed::default();
        bed.do_all([
            add_user("root", false),
            grant_role("root", "root"),
            add_user("alice", false),
            add_role("r"),
            grant_permission("r", Type::Readwrite, "a", "c"),
            grant_role("alice", "r"),
            enable(),
        ]);
        bed
    }
}

fn enable() -> Request {
    Request::Enable(pb::AuthEnableRequest {})
}

fn disable() -> Request {
    Request::Disable(pb::AuthDisableRequest {})
}

fn add_user(name: &str, no_password: bool) -> Request {
    Request::UserAdd(pb::AuthUserAddRequest {
        name: name.to_owned(),
        hashed_password: if no_password { String::new() } else { encode_hash("hash") },
        options: no_password.then_some(UserAddOptions { no_password }),
        ..Default::default()
    })
}

fn delete_user(name: &str) -> Request {
    Request::UserDelete(pb::AuthUserDeleteRequest { name: name.to_owned() })
}

fn change_password(name: &str, hash: &str) -> Request {
    Request::UserChangePassword(pb::AuthUserChangePasswordRequest {
        name: name.to_owned(),
        hashed_password: hash.to_owned(),
        ..Default::default()
    })
}

fn grant_role(user: &str, role: &str) -> Request {
    let (user, role) = (user.to_owned(), role.to_owned());
    Request::UserGrantRole(pb::AuthUserGrantRoleRequest { user, role })
}

fn revoke_role(name: &str, role: &str) -> Request {
    let (name, role) = (name.to_owned(), role.to_owned());
    Request::UserRevokeRole(pb::AuthUserRevokeRoleRequest { name, role })
}

fn add_role(name: &str) -> Request {
    Request::RoleAdd(pb::AuthRoleAddRequest { name: name.to_owned() })
}

fn delete_role(role: &str) -> Request {
    Request::RoleDelete(pb::AuthRoleDeleteRequest { role: role.to_owned() })
}

fn grant_permission(role: &str, kind: Type, key: &str, range_end: &str) -> Request {
    Request::RoleGrantPermission(pb::AuthRoleGrantPermissionRequest {
        name: role.to_owned(),
        perm: Some(authpb::Permission {
            perm_type: kind as i32,
            key: key.to_owned().into(),
            range_end: range_end.to_owned().into(),
        }),
    })
}

fn revoke_permission(role: &str, key: &str, range_end: &str) -> Request {
    Request::RoleRevokePermission(pb::AuthRoleRevokePermissionRequest {
        role: role.to_owned(),
        key: key.to_owned().into(),
        range_end: range_end.to_owned().into(),
    })
}

fn authenticate(name: &str, prefix: &str) -> Request {
    Request::Authenticate(pb::InternalAuthenticateRequest {
        name: name.to_owned(),
        simple_token: prefix.to_owned(),
        ..Default::default()
    })
}

#[test]
fn each_change_moves_the_revision_by_one_and_a_failure_not_at_all() {
    let mut bed = Bed::default();
    assert_eq!(bed.auth.revision(), 1);
    let steps = [
        (enable(), Err(AuthError::RootUserNotExist)),
        (add_user("", true), Err(AuthError::UserEmpty)),
        (add_user("root", false), Ok(1)),
        (add_user("root", true), Err(AuthError::UserExists)),
        (enable(), Err(AuthError::RootRoleNotExist)),
        (grant_role("root", "r"), Err(AuthError::RoleNotFound)),
        (grant_role("nobody", "root"), Err(AuthError::UserNotFound)),
        // The role need not be there.
        (grant_role("root", "root"), Ok(1)),
        (grant_role("root", "root"), Ok(0)),
        (enable(), Ok(0)),
        (enable(), Ok(0)),
        (add_role(""), Err(AuthError::RoleEmpty)),
        (add_role("r"), Ok(1)),
        (add_role("r"), Err(AuthError::RoleExists)),
        (grant_permission("r", Type::Read, "a", ""), Ok(1)),
        (grant_permission("r", Type::Write, "a", ""), Ok(1)),
        (grant_permission("r", Type::Read, "b", "a"), Err(AuthError::InvalidManagement)),
        (grant_permission("s", Type::Read, "a", "b"), Err(AuthError::RoleNotFound)),
        (revoke_permission("r", "a", "b"), Err(AuthError::PermissionNotGranted)),
        (revoke_permission("r", "a", ""), Ok(1)),
        (revoke_permission("s", "a", ""), Err(AuthError::RoleNotFound)),
        (add_user("alice", true), Ok(1)),
        (grant_role("alice", "r"), Ok(1)),
        (revoke_role("alice", "root"), Err(AuthError::RoleNotGranted)),
        (revoke_role("root", "root"), Err(AuthError::InvalidManagement)),
        (delete_user("root"), Err(AuthError::InvalidManagement)),
        (delete_role("root"), Err(AuthError::InvalidManagement)),
        (delete_role("r"), Ok(1)),
        (delete_role("r"), Err(AuthError::RoleNotFound)),
        (change_password("nobody", ""), Err(AuthError::UserNotFound)),
        (change_password("root", "no base64"), Err(AuthError::NoPasswordUser)),
        (change_password("alice", "no base64"), Ok(1)),
        (change_password("root", "aGFzaA=="), Ok(1)),
        (delete_user("alice"), Ok(1)),
        (delete_user("alice"), Err(AuthError::UserNotFound)),
        (add_user(&"n".repeat(NAME_BYTES_MAX + 1), true), Err(AuthError::NameTooLong)),
        (add_role(&"n".repeat(NAME_BYTES_MAX + 1)), Err(AuthError::NameTooLong)),
        (disable(), Ok(1)),
        (disable(), Ok(0)),
        (delete_user("root"), Ok(1)),
    ];
    for (request, expected) in steps {
        let (before, shown) = (bed.auth.revision(), format!("{request:?}"));
        let result = bed.apply(request).map(|_| bed.auth.revision() - before);
        assert_eq!(result, expected, "{shown}");
        if expected.is_err() {
            assert_eq!(bed.auth.revision(), before, "{shown}");
        }
        let reopened = bed.reopened();
        assert_eq!(reopened.revision(), bed.auth.revision(), "{shown}");
        assert_eq!(reopened.is_enabled(), bed.auth.is_enabled(), "{shown}");
        let (users, roles) = (bed.auth.users.values(), bed.auth.roles.values());
        assert!(reopened.users.values().map(|user| &user.stored).eq(users.map(|u| &u.stored)));
        assert!(reopened.roles.values().eq(roles), "{shown}");
    }
}

#[test]
fn rights_follow_the_roles_at_once_and_after_a_restart() {
    let mut bed = Bed::enabled();
    let may = |bed: &Bed, right, key: &str| {
        let who = bed.who("alice");
        let result = bed.auth.permits(&who, right, key.as_bytes(), b"");
        assert_eq!(bed.reopened().permits(&who, right, key.as_bytes(), b""), result);
        result.is_ok()
    };
    assert!(may(&bed, Right::Read, "b") && may(&bed, Right::Write, "b"));
    bed.do_all([revoke_permission("r", "a", "c")]);
    assert!(!may(&bed, Right::Read, "b"));
    bed.do_all([grant_permission("r", Type::Read, "b", "")]);
    assert!(may(&bed, Right::Read, "b") && !may(&bed, Right::Write, "b"));
    bed.do_all([grant_permission("r", Type::Write, "b", "")]);
    assert!(!may(&bed, Right::Read, "b") && may(&bed, Right::Write, "b"), "it was changed");
    bed.do_all([revoke_role("alice", "r")]);
    assert!(!may(&bed, Right::Write, "b"));
    bed.do_all([grant_role("alice", "r")]);
    assert!(may(&bed, Right::Write, "b"));
    bed.do_all([delete_role("r"), add_role("r")]);
    assert!(!may(&bed, Right::Write, "b"), "a role of the same name is another one");
    bed.do_all([grant_role("alice", "root")]);
    assert!(may(&bed, Right::Write, "anything"));
    assert_eq!(bed.auth.require_admin(&bed.who("alice")), Ok(()));
}

#[test]
fn nobody_strangers_and_old_revisions_are_refused_each_in_its_way() {
    let mut bed = Bed::enabled();
    let read = |bed: &Bed, who: &Identity| bed.auth.permits(who, Right::Read, b"a", b"");
    assert_eq!(read(&bed, &Identity::default()), Err(AuthError::UserEmpty));
    assert_eq!(read(&bed, &bed.who("stranger")), Err(AuthError::PermissionDenied));
    assert_eq!(read(&bed, &bed.who("")), Err(AuthError::PermissionDenied));
    assert_eq!(read(&bed, &bed.who("alice")), Ok(()));
    let (alice, root) = (bed.who("alice"), bed.who("root"));
    bed.do_all([add_role("another")]);
    assert_eq!(read(&bed, &alice), Err(AuthError::OldRevision));
    assert_eq!(read(&bed, &root), Err(AuthError::OldRevision));
    // etcd asks administrators for no revision.
    assert_eq!(bed.auth.require_admin(&root), Ok(()));
    let admin = |who: &Identity| bed.auth.require_admin(who);
    assert_eq!(admin(&Identity::default()), Err(AuthError::UserEmpty));
    assert_eq!(admin(&bed.who("stranger")), Err(AuthError::UserNotFound));
    assert_eq!(admin(&alice), Err(AuthError::PermissionDenied));
    bed.do_all([disable()]);
    assert_eq!(read(&bed, &Identity::default()), Ok(()));
    assert_eq!(bed.auth.require_admin(&Identity::default()), Ok(()));
}

#[test]
fn a_user_may_look_at_himself_and_at_his_roles() {
    let bed = Bed::enabled();
    let get_user = |name: &str| Request::UserGet(pb::AuthUserGetRequest { name: name.to_owned() });
    let get_role = |role: &str| Request::RoleGet(pb::AuthRoleGetRequest { role: role.to_owned() });
    let alice = bed.who("alice");
    let admit = |request| bed.auth.admit(&alice, &request);
    assert_eq!(admit(get_user("alice")), Ok(()));
    assert_eq!(admit(get_user("root")), Err(AuthError::PermissionDenied));
    assert_eq!(admit(get_role("r")), Ok(()));
    assert_eq!(admit(get_role("root")), Err(AuthError::PermissionDenied));
    for kind in Kind::ALL {
        let request = Request::decode(*kind as u32, Bytes::new()).unwrap().unwrap();
        let open = matches!(kind, Kind::Authenticate | Kind::Status);
        assert_eq!(bed.auth.admit(&alice, &request).is_ok(), open, "{kind:?}");
        assert_eq!(bed.auth.admit(&bed.who("root"), &request), Ok(()), "{kind:?}");
        assert_eq!(request.kind(), *kind);
    }
}

#[test]
fn role_root_has_everything_even_where_it_was_never_made() {
    let mut bed = Bed::enabled();
    let get = || Request::RoleGet(pb::AuthRoleGetRequest { role: ROOT.to_owned() });
    assert_eq!(bed.apply(get()), Err(AuthError::RoleNotFound));
    bed.do_all([add_role(ROOT)]);
    let role = pb::AuthRoleGetResponse::decode(bed.apply(get()).unwrap().as_slice()).unwrap();
    let everything = authpb::Permission {
        perm_type: Type::Readwrite as i32,
        key: Bytes::new(),
        range_end: Bytes::from_static(b"\0"),
    };
    assert_eq!(role.perm, [everything]);
}

#[test]
fn tokens_are_made_of_their_entry_and_go_with_the_password() {
    let mut bed = Bed::enabled();
    let log_in = |bed: &mut Bed, name: &str| {
        let body = bed.apply(authenticate(name, "prefix")).unwrap();
        pb::AuthenticateResponse::decode(body.as_slice()).unwrap().token
    };
    let token = log_in(&mut bed, "alice");
    assert_eq!(token, format!("prefix.{}", bed.index));
    assert_eq!(bed.auth.tokens.user_of(&token, 1), Some("alice"));
    // Changes of roles leave tokens alone, as in etcd.
    bed.do_all([revoke_role("alice", "r")]);
    assert_eq!(bed.auth.tokens.user_of(&token, 1), Some("alice"));
    bed.do_all([change_password("alice", "")]);
    assert_eq!(bed.auth.tokens.user_of(&token, 1), None);
    let (token, roots) = (log_in(&mut bed, "alice"), log_in(&mut bed, "root"));
    bed.do_all([delete_user("alice")]);
    assert_eq!(bed.auth.tokens.user_of(&token, 1), None);
    assert_eq!(bed.auth.tokens.user_of(&roots, 1), Some("root"));
    bed.do_all([disable()]);
    assert_eq!(bed.auth.tokens.user_of(&roots, 1), None);
    assert_eq!(bed.apply(authenticate("root", "prefix")), Err(AuthError::NotEnabled));
}

#[test]
fn tokens_go_on_in_another_state_with_their_user_and_password() {
    let others = vec![add_user("bob", false), change_password("root", "")];
    let changes = [others, vec![change_password("alice", "")], vec![delete_user("alice")]];
    for (stays, changes) in [true, false, false].into_iter().zip(changes) {
        let mut bed = Bed::enabled();
        bed.apply(authenticate("alice", "prefix")).unwrap();
        let token = format!("prefix.{}", bed.index);
        let reopened = bed.reopened();
        let former = std::mem::replace(&mut bed.auth, reopened);
        bed.do_all(changes);
        let mut arrived = bed.reopened();
        arrived.take_tokens(former);
        let expected = stays.then_some("alice");
        assert_eq!(arrived.tokens.user_of(&token, 1), expected);
        bed.auth = arrived;
        bed.apply(authenticate("root", "new")).unwrap();
        let token = format!("new.{}", bed.index);
        assert_eq!(bed.auth.tokens.user_of(&token, 1), Some("root"), "new ones are taken");
    }
}

#[test]
fn only_users_with_a_password_can_show_one() {
    let mut bed = Bed::enabled();
    bed.do_all([add_user("silent", true)]);
    assert_eq!(bed.auth.password_of("silent"), Err(AuthError::NoPasswordUser));
    assert_eq!(bed.auth.password_of("nobody"), Err(AuthError::Failed));
    let expected = (Bytes::from_static(b"hash"), bed.auth.revision());
    assert_eq!(bed.auth.password_of("alice"), Ok(expected));
    assert_eq!(bed.apply(authenticate("silent", "prefix")), Err(AuthError::Failed));
    bed.do_all([disable()]);
    assert_eq!(bed.auth.password_of("alice"), Err(AuthError::NotEnabled));
}

#[test]
fn records_that_make_no_sense_are_damage() {
    for (key, value) in [
        (&b"revision"[..], &b"short"[..]),
        (b"user/a", b"\xff"),
        (b"role/a", b"\xff"),
        (b"user/\xff", b""),
        (b"something", b""),
    ] {
        assert_eq!(Auth::default().load(key, value), Err(Damaged), "{key:?}");
    }
}
