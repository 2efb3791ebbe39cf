//! What each request does to users, roles and permissions.

use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::{GeneralPurpose, GeneralPurposeConfig};
use bytes::Bytes;
use prost::Message;

use super::permissions::{Permissions, is_valid};
use super::{
    Auth, AuthError, ENABLED, Identity, NAME_BYTES_MAX, REVISION, ROLE, ROOT, Record, Request,
    USER, User,
};
use crate::proto::authpb;
use crate::proto::authpb::permission::Type;
use crate::proto::etcdserverpb::*;

/// Go's decoder does not look at the bits behind the end.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_allow_trailing_bits(true),
);

impl Auth {
    /// Whether somebody may make a request. [`Auth::apply`] does not ask.
    pub fn admit(&self, who: &Identity, request: &Request) -> Result<(), AuthError> {
        match request {
            Request::Enable(_)
            | Request::Disable(_)
            | Request::UserAdd(_)
            | Request::UserDelete(_)
            | Request::UserChangePassword(_)
            | Request::UserGrantRole(_)
            | Request::UserRevokeRole(_)
            | Request::RoleAdd(_)
            | Request::RoleGrantPermission(_)
            | Request::RoleRevokePermission(_)
            | Request::RoleDelete(_)
            | Request::UserList(_)
            | Request::RoleList(_) => self.require_admin(who),
            Request::UserGet(request) => match self.require_admin(who) {
                Err(_) if request.name == who.user => Ok(()),
                result => result,
            },
            Request::RoleGet(request) => match self.require_admin(who) {
                Err(_) if self.has_role(&who.user, &request.role) => Ok(()),
                result => result,
            },
            // Who asks for these has no token yet, or gives nothing away.
            Request::Authenticate(_) | Request::Status(_) => Ok(()),
        }
    }

    /// Carries out a request of the entry at `index`. The answer's fields behind its header, encoded.
    pub fn apply(
        &mut self,
        request: &Request,
        index: u64,
        now_ms: u64,
    ) -> Result<Vec<u8>, AuthError> {
        match request {
            Request::Enable(_) => self.enable()?,
            Request::Disable(_) => self.disable(),
            Request::Authenticate(request) => return self.authenticate(request, index, now_ms),
            Request::Status(_) => {
                let (enabled, auth_revision) = (self.is_enabled, self.revision);
                let response = AuthStatusResponse { header: None, enabled, auth_revision };
                return Ok(response.encode_to_vec());
            }
            Request::UserAdd(request) => self.add_user(request)?,
            Request::UserDelete(request) => self.delete_user(request)?,
            Request::UserGet(request) => {
                let user = self.users.get(&request.name).ok_or(AuthError::UserNotFound)?;
                let roles = user.stored.roles.clone();
                return Ok(AuthUserGetResponse { header: None, roles }.encode_to_vec());
            }
            Request::UserChangePassword(request) => self.change_password(request)?,
            Request::UserGrantRole(request) => self.grant_role(request)?,
            Request::UserRevokeRole(request) => self.revoke_role(request)?,
            Request::UserList(_) => {
                let users = self.users.keys().cloned().collect();
                return Ok(AuthUserListResponse { header: None, users }.encode_to_vec());
            }
            Request::RoleList(_) => {
                let roles = self.roles.keys().cloned().collect();
                return Ok(AuthRoleListResponse { header: None, roles }.encode_to_vec());
            }
            Request::RoleAdd(request) => self.add_role(request)?,
            Request::RoleDelete(request) => self.delete_role(request)?,
            Request::RoleGet(request) => return self.role(request),
            Request::RoleGrantPermission(request) => self.grant_permission(request)?,
            Request::RoleRevokePermission(request) => self.revoke_permission(request)?,
        }
        Ok(Vec::new())
    }

    fn enable(&mut self) -> Result<(), AuthError> {
        if self.is_enabled {
            tracing::info!("authentication is already enabled; ignored auth enable request");
            return Ok(());
        }
        let root = self.users.get(ROOT).ok_or(AuthError::RootUserNotExist)?;
        if !root.has_role(ROOT) {
            return Err(AuthError::RootRoleNotExist);
        }
        self.set_enabled(true);
        tracing::info!("enabled authentication");
        Ok(())
    }

    fn disable(&mut self) {
        if !self.is_enabled {
            return;
        }
        self.set_enabled(false);
        self.commit();
        tracing::info!("disabled authentication");
    }

    fn set_enabled(&mut self, is_enabled: bool) {
        self.is_enabled = is_enabled;
        self.tokens.set_enabled(is_enabled);
        let value = Some(vec![u8::from(is_enabled)]);
        self.records.push(Record { key: ENABLED.to_vec(), value });
    }

    fn authenticate(
        &mut self,
        request: &InternalAuthenticateRequest,
        index: u64,
        now_ms: u64,
    ) -> Result<Vec<u8>, AuthError> {
        // Whoever proposed it has seen the password, which is why it is not here.
        match self.password_of(&request.name) {
            Ok(_) => {}
            Err(AuthError::NoPasswordUser) => return Err(AuthError::Failed),
            Err(error) => return Err(error),
        }
        if request.simple_token.is_empty() {
            // Tokens of another kind are made by the member that was asked.
            return Ok(Vec::new());
        }
        let token = format!("{}.{index}", request.simple_token);
        self.tokens.assign(&request.name, &token, now_ms);
        Ok(AuthenticateResponse { header: None, token }.encode_to_vec())
    }

    fn add_user(&mut self, request: &AuthUserAddRequest) -> Result<(), AuthError> {
        if request.name.is_empty() {
            return Err(AuthError::UserEmpty);
        }
        if self.users.contains_key(&request.name) {
            return Err(AuthError::UserExists);
        }
        check_name(&request.name)?;
        let options = request.options.unwrap_or_default();
        let password = match options.no_password {
            true => Bytes::new(),
            false => hashed(&request.hashed_password)?,
        };
        let name = request.name.clone();
        let stored = authpb::User {
            name: name.clone().into(),
            password,
            roles: Vec::new(),
            options: Some(options),
        };
        self.users.insert(name.clone(), User { stored, permissions: Permissions::default() });
        self.save_user(&name);
        self.commit();
        tracing::info!(user_name = name, "added a user");
        Ok(())
    }

    fn delete_user(&mut self, request: &AuthUserDeleteRequest) -> Result<(), AuthError> {
        if self.is_enabled && request.name == ROOT {
            tracing::error!(user_name = request.name, "cannot delete 'root' user");
            return Err(AuthError::InvalidManagement);
        }
        self.users.remove(&request.name).ok_or(AuthError::UserNotFound)?;
        let key = [USER, request.name.as_bytes()].concat();
        self.records.push(Record { key, value: None });
        self.tokens.drop_user(&request.name);
        self.commit();
        tracing::info!(user_name = request.name, "deleted a user");
        Ok(())
    }

    fn change_password(
        &mut self,
        request: &AuthUserChangePasswordRequest,
    ) -> Result<(), AuthError> {
        let user = self.users.get_mut(&request.name).ok_or(AuthError::UserNotFound)?;
        user.stored.password = match user.has_no_password() {
            true => Bytes::new(),
            false => hashed(&request.hashed_password)?,
        };
        self.save_user(&request.name);
        self.tokens.drop_user(&request.name);
        self.commit();
        tracing::info!(user_name = request.name, "changed a password of a user");
        Ok(())
    }

    fn grant_role(&mut self, request: &AuthUserGrantRoleRequest) -> Result<(), AuthError> {
        let user = self.users.get_mut(&request.user).ok_or(AuthError::UserNotFound)?;
        if request.role != ROOT && !self.roles.contains_key(&request.role) {
            return Err(AuthError::RoleNotFound);
        }
        if user.has_role(&request.role) {
            tracing::warn!(
                user_name = request.user,
                duplicate_role_name = request.role,
                "ignored grant role request to a user"
            );
            return Ok(());
        }
        user.stored.roles.push(request.role.clone());
        user.stored.roles.sort_unstable();
        self.save_user(&request.user);
        self.commit();
        tracing::info!(
            user_name = request.user,
            added_role_name = request.role,
            "granted a role to a user"
        );
        Ok(())
    }

    fn revoke_role(&mut self, request: &AuthUserRevokeRoleRequest) -> Result<(), AuthError> {
        let (name, role) = (&request.name, &request.role);
        if self.is_enabled && name == ROOT && role == ROOT {
            tracing::error!("'root' user cannot revoke 'root' role");
            return Err(AuthError::InvalidManagement);
        }
        let user = self.users.get_mut(name).ok_or(AuthError::UserNotFound)?;
        if !user.has_role(role) {
            return Err(AuthError::RoleNotGranted);
        }
        user.stored.roles.retain(|granted| granted != role);
        self.save_user(name);
        self.commit();
        tracing::info!(user_name = name, revoked_role_name = role, "revoked a role from a user");
        Ok(())
    }

    fn role(&self, request: &AuthRoleGetRequest) -> Result<Vec<u8>, AuthError> {
        let role = self.roles.get(&request.role).ok_or(AuthError::RoleNotFound)?;
        let everything = || authpb::Permission {
            perm_type: Type::Readwrite as i32,
            key: Bytes::new(),
            range_end: Bytes::from_static(b"\0"),
        };
        let perm = match request.role.as_str() {
            ROOT => vec![everything()],
            _ => role.key_permission.clone(),
        };
        Ok(AuthRoleGetResponse { header: None, perm }.encode_to_vec())
    }

    fn add_role(&mut self, request: &AuthRoleAddRequest) -> Result<(), AuthError> {
        if request.name.is_empty() {
            return Err(AuthError::RoleEmpty);
        }
        if self.roles.contains_key(&request.name) {
            return Err(AuthError::RoleExists);
        }
        check_name(&request.name)?;
        let name = request.name.clone();
        let role = authpb::Role { name: name.clone().into(), key_permission: Vec::new() };
        self.roles.insert(name.clone(), role);
        self.save_role(&name);
        self.commit();
        tracing::info!(role_name = name, "created a role");
        Ok(())
    }

    fn delete_role(&mut self, request: &AuthRoleDeleteRequest) -> Result<(), AuthError> {
        let name = &request.role;
        if self.is_enabled && name == ROOT {
            tracing::error!(role_name = name, "cannot delete 'root' role");
            return Err(AuthError::InvalidManagement);
        }
        self.roles.remove(name).ok_or(AuthError::RoleNotFound)?;
        let key = [ROLE, name.as_bytes()].concat();
        self.records.push(Record { key, value: None });
        for user in self.holders(name) {
            if let Some(user) = self.users.get_mut(&user) {
                user.stored.roles.retain(|granted| granted != name);
            }
            self.save_user(&user);
        }
        self.commit();
        tracing::info!(role_name = name, "deleted a role");
        Ok(())
    }

    fn grant_permission(
        &mut self,
        request: &AuthRoleGrantPermissionRequest,
    ) -> Result<(), AuthError> {
        let given = request.perm.as_ref().ok_or(AuthError::PermissionNotGiven)?;
        if !is_valid(&given.key, &given.range_end) {
            return Err(AuthError::InvalidManagement);
        }
        let role = self.roles.get_mut(&request.name).ok_or(AuthError::RoleNotFound)?;
        let granted = &mut role.key_permission;
        // As in etcd: only the first of those that begin with this key is looked at, so that one range may stand
        // here twice.
        let at = granted.partition_point(|permission| permission.key < given.key);
        match granted.get_mut(at) {
            Some(same) if same.key == given.key && same.range_end == given.range_end => {
                same.perm_type = given.perm_type;
            }
            _ => {
                granted.push(given.clone());
                granted.sort_by(|one, other| one.key.cmp(&other.key));
            }
        }
        self.save_role(&request.name);
        self.commit();
        tracing::info!(role_name = request.name, "granted/updated a permission to a role");
        Ok(())
    }

    fn revoke_permission(
        &mut self,
        request: &AuthRoleRevokePermissionRequest,
    ) -> Result<(), AuthError> {
        let role = self.roles.get_mut(&request.role).ok_or(AuthError::RoleNotFound)?;
        let before = role.key_permission.len();
        role.key_permission.retain(|permission| {
            permission.key != request.key || permission.range_end != request.range_end
        });
        if role.key_permission.len() == before {
            return Err(AuthError::PermissionNotGranted);
        }
        self.save_role(&request.role);
        self.commit();
        tracing::info!(role_name = request.role, "revoked a permission on range");
        Ok(())
    }

    /// Users who have a role.
    fn holders(&self, role: &str) -> Vec<String> {
        let holders = self.users.iter().filter(|(_, user)| user.has_role(role));
        holders.map(|(name, _)| name.clone()).collect()
    }

    fn save_user(&mut self, name: &str) {
        self.refresh(name);
        let Some(user) = self.users.get(name) else { return };
        let key = [USER, name.as_bytes()].concat();
        self.records.push(Record { key, value: Some(user.stored.encode_to_vec()) });
    }

    fn save_role(&mut self, name: &str) {
        let Some(role) = self.roles.get(name) else { return };
        let key = [ROLE, name.as_bytes()].concat();
        self.records.push(Record { key, value: Some(role.encode_to_vec()) });
        self.holders(name).iter().for_each(|user| self.refresh(user));
    }

    /// A change is whole.
    fn commit(&mut self) {
        self.revision += 1;
        let value = Some(self.revision.to_be_bytes().to_vec());
        self.records.push(Record { key: REVISION.to_vec(), value });
    }
}

fn check_name(name: &str) -> Result<(), AuthError> {
    if name.len() > NAME_BYTES_MAX { Err(AuthError::NameTooLong) } else { Ok(()) }
}

/// What a member that was asked has made of a password. Line breaks count for nothing, as in Go.
fn hashed(text: &str) -> Result<Bytes, AuthError> {
    let text: String = text.chars().filter(|c| !matches!(c, '\r' | '\n')).collect();
    BASE64.decode(text).map(Bytes::from).map_err(|_| AuthError::NoPasswordUser)
}

/// The form in which the hash of a password stands in a request.
pub fn encode_hash(hash: &str) -> String {
    BASE64.encode(hash)
}
