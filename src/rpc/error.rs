//! The errors that a client sees: etcd's codes and texts, to the letter.

use std::borrow::Cow;

use crate::auth::AuthError;
use crate::grpc::{Code, Status};

/// A failed call, as it goes on the wire.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RpcError {
    pub code: Code,
    pub message: Cow<'static, str>,
}

impl RpcError {
    pub const fn new(code: Code, message: &'static str) -> RpcError {
        RpcError { code, message: Cow::Borrowed(message) }
    }

    pub fn with(code: Code, message: String) -> RpcError {
        RpcError { code, message: Cow::Owned(message) }
    }
}

impl From<Status> for RpcError {
    fn from(status: Status) -> RpcError {
        RpcError { code: status.code, message: status.message }
    }
}

macro_rules! errors {
    ($($name:ident, $code:ident, $text:literal;)*) => {
        $(pub const $name: RpcError = RpcError::new(Code::$code, $text);)*
    };
}

errors! {
    EMPTY_KEY, InvalidArgument, "etcdserver: key is not provided";
    KEY_NOT_FOUND, InvalidArgument, "etcdserver: key not found";
    VALUE_PROVIDED, InvalidArgument, "etcdserver: value is provided";
    LEASE_PROVIDED, InvalidArgument, "etcdserver: lease is provided";
    TOO_MANY_OPS, InvalidArgument, "etcdserver: too many operations in txn request";
    DUPLICATE_KEY, InvalidArgument, "etcdserver: duplicate key given in txn request";
    INVALID_CLIENT_API_VERSION, InvalidArgument, "etcdserver: invalid client api version";
    INVALID_SORT_OPTION, InvalidArgument, "etcdserver: invalid sort option";
    REQUEST_TOO_LARGE, InvalidArgument, "etcdserver: request is too large";
    NO_SPACE, ResourceExhausted, "etcdserver: mvcc: database space exceeded";
    // The code is Unknown on etcd's wire, whatever its own table says.
    TOO_MANY_REQUESTS, Unknown, "etcdserver: too many requests";
    COMPACTED, OutOfRange, "etcdserver: mvcc: required revision has been compacted";
    FUTURE_REVISION, OutOfRange, "etcdserver: mvcc: required revision is a future revision";
    LEASE_NOT_FOUND, NotFound, "etcdserver: requested lease not found";
    LEASE_EXISTS, FailedPrecondition, "etcdserver: lease already exists";
    LEASE_TTL_TOO_LARGE, OutOfRange, "etcdserver: too large lease TTL";
    NO_LEADER, Unavailable, "etcdserver: no leader";
    LEADER_CHANGED, Unavailable, "etcdserver: leader changed";
    NOT_LEADER, FailedPrecondition, "etcdserver: not leader";
    BAD_TRANSFEREE, FailedPrecondition, "etcdserver: bad leader transferee";
    TRANSFER_TIMEOUT, Unknown, "etcdserver: request timed out, leader transfer took too long";
    NOT_FOR_LEARNER, FailedPrecondition, "etcdserver: rpc not supported for learner";
    MEMBER_NOT_FOUND, NotFound, "etcdserver: member not found";
    MEMBER_EXISTS, FailedPrecondition, "etcdserver: member ID already exist";
    PEER_URL_EXISTS, FailedPrecondition, "etcdserver: Peer URLs already exists";
    BAD_MEMBER_URLS, InvalidArgument, "etcdserver: given member URLs are invalid";
    NOT_LEARNER, FailedPrecondition, "etcdserver: can only promote a learner member";
    LEARNER_NOT_READY, FailedPrecondition, "etcdserver: can only promote a learner member which is in sync with leader";
    TOO_MANY_LEARNERS, FailedPrecondition, "etcdserver: too many learner members in cluster";
    // Of this too the code is Unknown on etcd's wire.
    NOT_ENOUGH_STARTED, Unknown, "etcdserver: re-configuration failed due to not enough started members";
    UNHEALTHY, Unavailable, "etcdserver: unhealthy cluster";
    TIMEOUT_LEADER_FAILURE, Unavailable, "etcdserver: request timed out, possibly due to previous leader failure";
    TIMEOUT_CONNECTION_LOST, Unavailable, "etcdserver: request timed out, possibly due to connection lost";
    STOPPED, Unavailable, "etcdserver: server stopped";
    TIMEOUT, Unavailable, "etcdserver: request timed out";
    CORRUPT, DataLoss, "etcdserver: corrupt cluster";
    // etcd's has an ordinary or a no-break space behind the colon, as the build has drawn it.
    MALFORMED_MESSAGE, Internal, "grpc: error unmarshalling request: proto: cannot parse invalid wire-format data";
    DEADLINE_EXCEEDED, DeadlineExceeded, "context deadline exceeded";
    BAD_DOWNGRADE_FORMAT, InvalidArgument, "etcdserver: wrong downgrade target version format";
    BAD_DOWNGRADE_TARGET, InvalidArgument, "etcdserver: invalid downgrade target version";
    DOWNGRADE_IN_PROGRESS, FailedPrecondition, "etcdserver: cluster has a downgrade job in progress";
    STREAM_SORT, Unimplemented, "RangeStream does not support custom sort orders";
    ROOT_USER_NOT_EXIST, FailedPrecondition, "etcdserver: root user does not exist";
    ROOT_ROLE_NOT_EXIST, FailedPrecondition, "etcdserver: root user does not have root role";
    USER_EXISTS, FailedPrecondition, "etcdserver: user name already exists";
    USER_EMPTY, InvalidArgument, "etcdserver: user name is empty";
    USER_NOT_FOUND, FailedPrecondition, "etcdserver: user name not found";
    ROLE_EXISTS, FailedPrecondition, "etcdserver: role name already exists";
    ROLE_NOT_FOUND, FailedPrecondition, "etcdserver: role name not found";
    ROLE_EMPTY, InvalidArgument, "etcdserver: role name is empty";
    AUTH_FAILED, InvalidArgument, "etcdserver: authentication failed, invalid user ID or password";
    PERMISSION_NOT_GIVEN, InvalidArgument, "etcdserver: permission not given";
    PERMISSION_DENIED, PermissionDenied, "etcdserver: permission denied";
    ROLE_NOT_GRANTED, FailedPrecondition, "etcdserver: role is not granted to the user";
    PERMISSION_NOT_GRANTED, FailedPrecondition, "etcdserver: permission is not granted to the role";
    AUTH_NOT_ENABLED, FailedPrecondition, "etcdserver: authentication is not enabled";
    INVALID_AUTH_TOKEN, Unauthenticated, "etcdserver: invalid auth token";
    INVALID_AUTH_MANAGEMENT, InvalidArgument, "etcdserver: invalid auth management";
    AUTH_OLD_REVISION, InvalidArgument, "etcdserver: revision of auth store is old";
    // etcd has no entry for these in its table of errors.
    NO_PASSWORD_USER, Unknown, "auth: authentication failed, password was given for no password user";
    VERIFY_ONLY, Unknown, "auth: token signing attempted with verify-only key";
    PASSWORD_TOO_LONG, Unknown, "bcrypt: password length exceeds 72 bytes";
    STREAM_FILTER, Unimplemented, "RangeStream does not support revision filters";
}

/// etcd's code and text for what permissions or the state of users forbid.
pub fn of_auth(error: AuthError) -> RpcError {
    match error {
        AuthError::RootUserNotExist => ROOT_USER_NOT_EXIST,
        AuthError::RootRoleNotExist => ROOT_ROLE_NOT_EXIST,
        AuthError::UserExists => USER_EXISTS,
        AuthError::UserEmpty => USER_EMPTY,
        AuthError::UserNotFound => USER_NOT_FOUND,
        AuthError::RoleExists => ROLE_EXISTS,
        AuthError::RoleNotFound => ROLE_NOT_FOUND,
        AuthError::RoleEmpty => ROLE_EMPTY,
        AuthError::PermissionNotGiven => PERMISSION_NOT_GIVEN,
        AuthError::Failed => AUTH_FAILED,
        AuthError::NoPasswordUser => NO_PASSWORD_USER,
        AuthError::PermissionDenied => PERMISSION_DENIED,
        AuthError::RoleNotGranted => ROLE_NOT_GRANTED,
        AuthError::PermissionNotGranted => PERMISSION_NOT_GRANTED,
        AuthError::NotEnabled => AUTH_NOT_ENABLED,
        AuthError::OldRevision => AUTH_OLD_REVISION,
        AuthError::InvalidToken => INVALID_AUTH_TOKEN,
        AuthError::InvalidManagement => INVALID_AUTH_MANAGEMENT,
        AuthError::VerifyOnly => VERIFY_ONLY,
        AuthError::NameTooLong => REQUEST_TOO_LARGE,
    }
}
