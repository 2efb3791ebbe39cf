//! Who may do what: users, roles, permissions on ranges of keys, and the tokens that stand for users.
//!
//! All of it but the tokens is replicated state. It changes by [`Auth::apply`] alone, one request at a time, and
//! what changed comes out as records ([`Auth::take_records`]), which the caller persists in the transaction of
//! the entry. Tokens live in memory: each member learns of a new one from the same entry, and a restart
//! forgets them, as in etcd.
//!
//! Invariants
//! * The revision grows by one with each change of users, roles or permissions, and with disabling; it is the
//!   same on all members at the same applied index.
//! * What is not permitted is denied: while enabled, no user, an unknown one or an old revision permits nothing.
//! * While enabled, user `root` exists and has role `root`.
//! * A request that fails changes nothing.
//!
//! It deliberately does not know how records are stored, how passwords are hashed ([`password`] says what is to be
//! computed, elsewhere), nor the clock: time is an argument.

pub mod access;
mod change;
mod der;
mod error;
pub mod jwt;
mod limits;
pub mod password;
mod permissions;
mod request;
mod tokens;

use std::collections::BTreeMap;

use bytes::Bytes;
use prost::Message;

pub use change::encode_hash;
pub use error::AuthError;
pub use limits::NAME_BYTES_MAX;
pub use permissions::Right;
pub use request::{Kind, Request};
pub use tokens::{TOKEN_TTL_MS, Tokens, applied_at};

use crate::proto::authpb;
use permissions::Permissions;

/// The user and the role that may do everything.
pub const ROOT: &str = "root";

/// The revision of a state in which nothing was ever changed.
const FIRST_REVISION: u64 = 1;

/// Who asks, as of which revision. The default is nobody.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    pub user: String,
    pub revision: u64,
}

/// A record that was written, or removed. The names are those under which `Auth::load` takes them.
#[derive(Debug, PartialEq, Eq)]
pub struct Record {
    pub key: Vec<u8>,
    pub value: Option<Vec<u8>>,
}

pub const ENABLED: &[u8] = b"enabled";
pub const REVISION: &[u8] = b"revision";
pub const USER: &[u8] = b"user/";
pub const ROLE: &[u8] = b"role/";

/// A record that makes no sense.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Damaged;

struct User {
    stored: authpb::User,
    permissions: Permissions,
}

impl User {
    fn has_role(&self, role: &str) -> bool {
        self.stored.roles.iter().any(|name| name == role)
    }

    fn has_no_password(&self) -> bool {
        self.stored.options.is_some_and(|options| options.no_password)
    }
}

pub struct Auth {
    is_enabled: bool,
    revision: u64,
    users: BTreeMap<String, User>,
    roles: BTreeMap<String, authpb::Role>,
    pub tokens: Tokens,
    records: Vec<Record>,
}

impl Default for Auth {
    fn default() -> Auth {
        Auth {
            is_enabled: false,
            revision: FIRST_REVISION,
            users: BTreeMap::new(),
            roles: BTreeMap::new(),
            tokens: Tokens::default(),
            records: Vec::new(),
        }
    }
}

impl Auth {
    /// Takes a record as it was written. To be followed by [`Auth::loaded`].
    pub fn load(&mut self, key: &[u8], value: &[u8]) -> Result<(), Damaged> {
        if key == ENABLED {
            self.is_enabled = value == [1];
        } else if key == REVISION {
            self.revision = u64::from_be_bytes(value.try_into().map_err(|_| Damaged)?);
        } else if let Some(name) = key.strip_prefix(USER) {
            let stored = authpb::User::decode(value).map_err(|_| Damaged)?;
            let user = User { stored, permissions: Permissions::default() };
            self.users.insert(text(name)?, user);
        } else if let Some(name) = key.strip_prefix(ROLE) {
            let role = authpb::Role::decode(value).map_err(|_| Damaged)?;
            self.roles.insert(text(name)?, role);
        } else {
            return Err(Damaged);
        }
        Ok(())
    }

    pub fn loaded(&mut self) {
        self.tokens.set_enabled(self.is_enabled);
        let names: Vec<String> = self.users.keys().cloned().collect();
        names.iter().for_each(|name| self.refresh(name));
    }

    /// Goes on with the tokens of the state that this one takes the place of, but for those of users who have gone
    /// in between, or have another password.
    pub fn take_tokens(&mut self, former: Auth) {
        self.tokens = former.tokens;
        for (name, then) in &former.users {
            let now = self.users.get(name);
            if now.is_none_or(|now| now.stored.password != then.stored.password) {
                self.tokens.drop_user(name);
            }
        }
        self.tokens.set_enabled(self.is_enabled);
    }

    pub fn is_enabled(&self) -> bool {
        self.is_enabled
    }

    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// Records that were written since this was last asked.
    pub fn take_records(&mut self) -> Vec<Record> {
        std::mem::take(&mut self.records)
    }

    /// On whose behalf the cluster acts by itself; none while disabled.
    pub fn root(&self) -> Option<Identity> {
        self.is_enabled.then(|| Identity { user: ROOT.to_owned(), revision: self.revision })
    }

    /// Whether somebody may do everything.
    pub fn require_admin(&self, who: &Identity) -> Result<(), AuthError> {
        if !self.is_enabled {
            return Ok(());
        }
        if who.user.is_empty() {
            return Err(AuthError::UserEmpty);
        }
        match self.users.get(&who.user) {
            None => Err(AuthError::UserNotFound),
            Some(user) if user.has_role(ROOT) => Ok(()),
            Some(_) => Err(AuthError::PermissionDenied),
        }
    }

    /// Whether somebody has a right on the keys of a range, which is written as requests write it: no end is
    /// one key, an end of one zero byte is none.
    pub fn permits(
        &self,
        who: &Identity,
        right: Right,
        key: &[u8],
        range_end: &[u8],
    ) -> Result<(), AuthError> {
        if !self.is_enabled {
            return Ok(());
        }
        if who.revision == 0 {
            return Err(AuthError::UserEmpty);
        }
        if who.revision < self.revision {
            return Err(AuthError::OldRevision);
        }
        match self.users.get(&who.user) {
            Some(user) if user.has_role(ROOT) => Ok(()),
            Some(user) if user.permissions.permit(right, key, range_end) => Ok(()),
            _ => Err(AuthError::PermissionDenied),
        }
    }

    /// What has to be known to tell whether a password is a user's: the hash, and the revision as of which it
    /// is that.
    pub fn password_of(&self, name: &str) -> Result<(Bytes, u64), AuthError> {
        if !self.is_enabled {
            return Err(AuthError::NotEnabled);
        }
        match self.users.get(name) {
            None => Err(AuthError::Failed),
            Some(user) if user.has_no_password() => Err(AuthError::NoPasswordUser),
            Some(user) => Ok((user.stored.password.clone(), self.revision)),
        }
    }

    fn has_role(&self, user: &str, role: &str) -> bool {
        self.users.get(user).is_some_and(|user| user.has_role(role))
    }

    /// Brings what a user may do up to date with the roles.
    fn refresh(&mut self, name: &str) {
        let Some(user) = self.users.get_mut(name) else { return };
        let roles = user.stored.roles.iter().filter_map(|role| self.roles.get(role));
        user.permissions = Permissions::of(roles.flat_map(|role| &role.key_permission));
    }
}

fn text(name: &[u8]) -> Result<String, Damaged> {
    String::from_utf8(name.to_vec()).map_err(|_| Damaged)
}

#[cfg(test)]
mod tests;
