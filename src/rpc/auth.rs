//! `etcdserverpb.Auth`: users, roles, permissions, and tokens.
//!
//! All of it goes through the log, questions too. What has to be computed of passwords is handed out to be done on
//! another thread, a few at a time; the calls wait for it here.

use std::collections::VecDeque;

use bytes::Bytes;
use prost::Message as _;
use rustc_hash::FxHashMap;

use super::access::TokenKind;
use super::connection::{Caller, Connections};
use super::dispatch::{attempt, decode};
use super::encode::Message;
use super::error::{self, RpcError};
use super::kv::Then;
use super::{Answer, Core, Read, Server, limits};
use crate::apply::Reply;
use crate::auth::password::{Done, Op, PASSWORD_BYTES_MAX, Secret};
use crate::auth::{self, Kind, encode_hash};
use crate::proto::etcdserverpb::{
    AuthUserAddRequest, AuthUserChangePasswordRequest, AuthenticateRequest, AuthenticateResponse,
    InternalAuthenticateRequest,
};

/// Somebody who says who he is.
pub struct Login {
    name: String,
    password: Secret,
    /// As of which revision the password was found to be the right one.
    revision: u64,
}

/// What an operation is for.
enum Wanted {
    Login(Box<Login>),
    UserAdd(Box<AuthUserAddRequest>),
    ChangePassword(Box<AuthUserChangePasswordRequest>),
    /// A token, in an answer whose header has this revision.
    Token(i64),
}

/// Operations on passwords, and the calls that wait for them.
#[derive(Default)]
pub struct Passwords {
    queue: VecDeque<(u64, Op)>,
    waiting: FxHashMap<u64, (Caller, Wanted)>,
    last_number: u64,
    in_flight: usize,
}

impl Passwords {
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    fn push(&mut self, caller: Caller, op: Op, wanted: Wanted) -> Result<(), RpcError> {
        if self.queue.len() >= limits::PASSWORDS_WAITING_MAX {
            return Err(error::TOO_MANY_REQUESTS);
        }
        self.last_number += 1;
        self.queue.push_back((self.last_number, op));
        self.waiting.insert(self.last_number, (caller, wanted));
        Ok(())
    }

    /// Forgets calls whose time is over, and says whose they were.
    pub fn give_up(&mut self, now_ms: u64) -> Vec<Caller> {
        let late = self.waiting.extract_if(|_, (caller, _)| caller.deadline_ms <= now_ms);
        late.map(|(_, (caller, _))| caller).collect()
    }
}

impl Server {
    /// The next thing to be computed of a password. `password_op_done` has to follow.
    pub fn next_password_op(&mut self) -> Option<(u64, Op)> {
        let passwords = &mut self.core.passwords;
        while passwords.in_flight < limits::PASSWORDS_IN_FLIGHT_MAX {
            let (number, op) = passwords.queue.pop_front()?;
            if passwords.waiting.contains_key(&number) {
                passwords.in_flight += 1;
                return Some((number, op));
            }
        }
        None
    }

    /// What an operation has come to.
    pub fn password_op_done(&mut self, number: u64, done: Done) {
        let core = &mut self.core;
        core.passwords.in_flight -= 1;
        let Some((caller, wanted)) = core.passwords.waiting.remove(&number) else { return };
        core.ask_for_caller(&mut self.connections, caller);
        let answer = match (wanted, done) {
            (Wanted::Login(login), Done::Matches(prefix)) => core.log_in(caller, login, prefix),
            (Wanted::Login(login), _) => {
                tracing::info!(user_name = login.name, "invalid password");
                error::AUTH_FAILED.into()
            }
            (Wanted::UserAdd(mut request), Done::Hashed(hash)) => {
                request.hashed_password = encode_hash(&hash);
                core.propose_auth(caller, Kind::UserAdd, &request.encode_to_vec())
            }
            (Wanted::ChangePassword(mut request), Done::Hashed(hash)) => {
                request.hashed_password = encode_hash(&hash);
                core.propose_auth(caller, Kind::UserChangePassword, &request.encode_to_vec())
            }
            (Wanted::Token(revision), Done::Signed(token)) => Answer::Now(match token {
                Some(token) => {
                    let response = AuthenticateResponse { header: None, token };
                    Ok(Message::new(&core.header(revision), &response.encode_to_vec()))
                }
                None => Err(error::VERIFY_ONLY),
            }),
            (Wanted::Token(_), _) => unreachable!("a signature was asked for"),
            (Wanted::UserAdd(_) | Wanted::ChangePassword(_), _) => {
                unreachable!("a hash was asked for")
            }
        };
        core.ask_for_nobody();
        if let Answer::Now(result) = answer {
            core.reply(&mut self.connections, caller, result);
        }
    }
}

impl Core {
    /// A request of the service that is replicated as it is.
    pub(super) fn auth_request(&mut self, caller: Caller, kind: Kind, message: Bytes) -> Answer {
        if auth::Request::decode(kind as u32, message.clone()).is_err() {
            return error::MALFORMED_MESSAGE.into();
        }
        self.propose_auth(caller, kind, &message)
    }

    fn propose_auth(&mut self, caller: Caller, kind: Kind, message: &[u8]) -> Answer {
        self.propose_field(caller, kind as u32, message, Then::Reply)
    }

    pub(super) fn user_add(&mut self, caller: Caller, message: Bytes) -> Answer {
        let mut request: AuthUserAddRequest = attempt!(decode(message));
        let password = Secret::new(std::mem::take(&mut request.password));
        request.hashed_password.clear();
        if request.options.is_some_and(|options| options.no_password) {
            return self.propose_auth(caller, Kind::UserAdd, &request.encode_to_vec());
        }
        attempt!(check_len(&password));
        // A hash is dear: nobody gets one for nothing.
        let asked = auth::Request::UserAdd(request);
        attempt!(self.admit_request(&asked));
        let auth::Request::UserAdd(request) = asked else { unreachable!("it was one") };
        self.hash_password(caller, password, Wanted::UserAdd(Box::new(request)))
    }

    pub(super) fn user_change_password(&mut self, caller: Caller, message: Bytes) -> Answer {
        let mut request: AuthUserChangePasswordRequest = attempt!(decode(message));
        let password = Secret::new(std::mem::take(&mut request.password));
        if password.is_empty() {
            let request = request.encode_to_vec();
            return self.propose_auth(caller, Kind::UserChangePassword, &request);
        }
        attempt!(check_len(&password));
        let asked = auth::Request::UserChangePassword(request);
        attempt!(self.admit_request(&asked));
        let auth::Request::UserChangePassword(request) = asked else { unreachable!("it was one") };
        self.hash_password(caller, password, Wanted::ChangePassword(Box::new(request)))
    }

    fn hash_password(&mut self, caller: Caller, password: Secret, wanted: Wanted) -> Answer {
        let op = Op::Hash { password, cost: self.options.auth.bcrypt_cost };
        match self.passwords.push(caller, op, wanted) {
            Ok(()) => Answer::Later,
            Err(error) => error.into(),
        }
    }

    /// Behind a linearization point, so that a user who was just added is known.
    pub(super) fn authenticate(&mut self, caller: Caller, message: Bytes) -> Answer {
        let request: AuthenticateRequest = attempt!(decode(message));
        let AuthenticateRequest { name, password } = request;
        let login = Login { name, password: Secret::new(password), revision: 0 };
        self.read_later(Read::Login(caller, Box::new(login)))
    }

    /// Asks whether the password is the right one.
    pub(super) fn check_password(
        &mut self,
        connections: &mut Connections,
        caller: Caller,
        mut login: Box<Login>,
    ) {
        let result = match self.node.applier.auth.password_of(&login.name) {
            Ok((hash, revision)) => {
                login.revision = revision;
                let op = Op::Compare { password: login.password.clone(), hash };
                self.passwords.push(caller, op, Wanted::Login(login))
            }
            Err(error) => Err(error::of_auth(error)),
        };
        if let Err(error) = result {
            self.reply(connections, caller, Err(error));
        }
    }

    /// The password is the right one: all members are to learn of a token. The entry has no password.
    fn log_in(&mut self, caller: Caller, login: Box<Login>, prefix: String) -> Answer {
        let simple_token = match &self.options.auth.tokens {
            TokenKind::Simple => prefix,
            TokenKind::Jwt(_) => String::new(),
            TokenKind::None => return error::AUTH_FAILED.into(),
        };
        let request = InternalAuthenticateRequest {
            name: login.name.clone(),
            password: String::new(),
            simple_token,
        };
        // Whoever asks for a token is nobody yet.
        self.presented = Default::default();
        let then = Then::LoggedIn(login);
        self.propose_field(caller, Kind::Authenticate as u32, &request.encode_to_vec(), then)
    }

    /// The entry of a login was applied. Simple tokens are in the answer; others are made here.
    pub(super) fn logged_in(
        &mut self,
        connections: &mut Connections,
        caller: Caller,
        login: Login,
        reply: &Reply,
    ) {
        let made = match &self.options.auth.tokens {
            TokenKind::Jwt(jwt) => {
                let revision = self.node.applier.auth.revision();
                let who = auth::Identity { user: login.name, revision };
                let unix_s = self.unix_ms() / 1000;
                let op = Op::Sign { jwt: jwt.clone(), who, unix_s };
                self.passwords.push(caller, op, Wanted::Token(reply.revision)).err().map(Err)
            }
            TokenKind::Simple | TokenKind::None => {
                Some(Ok(Message::new(&self.header(reply.revision), &reply.body)))
            }
        };
        if let Some(result) = made {
            self.reply(connections, caller, result);
        }
    }

    /// Whether what was found of a password is still so, now that there is a token.
    pub(super) fn is_current(&self, login: &Login) -> bool {
        login.revision == self.node.applier.auth.revision()
    }
}

fn check_len(password: &Secret) -> Result<(), RpcError> {
    if password.len() > PASSWORD_BYTES_MAX { Err(error::PASSWORD_TOO_LONG) } else { Ok(()) }
}
