//! etcd's messages (3.7.1) as Rust types.
//!
//! The schemas beside this file are compiled by `build.rs`. Names, numbers and packages are
//! etcd's, `bytes` fields are [`bytes::Bytes`], so that decoding from a `Bytes` copies no key and
//! no value. Only two names differ on the Rust side: `peer_urls` and `client_urls`.
//!
//! Invariant: what these types encode, etcd decodes, and the other way round; the field numbers of
//! the messages that go to disk or over the wire are pinned by the tests of this module.
//!
//! Knows nothing of gRPC, of validation, or of what a request means.

mod txn;

pub use txn::{Malformed, TXN_DEPTH_MAX, decode_txn};

/// Keys, transactions, watches, leases, members, maintenance, auth, and the log entry's data
/// ([`InternalRaftRequest`](etcdserverpb::InternalRaftRequest)).
#[allow(clippy::all)]
pub mod etcdserverpb {
    include!(concat!(env!("OUT_DIR"), "/etcdserverpb.rs"));
}

/// Stored keys and events.
#[allow(clippy::all)]
pub mod mvccpb {
    include!(concat!(env!("OUT_DIR"), "/mvccpb.rs"));
}

/// Users, roles, permissions.
#[allow(clippy::all)]
pub mod authpb {
    include!(concat!(env!("OUT_DIR"), "/authpb.rs"));
}

/// Membership changes as log entries carry them.
#[allow(clippy::all)]
pub mod membershippb {
    include!(concat!(env!("OUT_DIR"), "/membershippb.rs"));
}

/// Stored leases.
#[allow(clippy::all)]
pub mod leasepb {
    include!(concat!(env!("OUT_DIR"), "/leasepb.rs"));
}

/// Locks.
#[allow(clippy::all)]
pub mod v3lockpb {
    include!(concat!(env!("OUT_DIR"), "/v3lockpb.rs"));
}

/// Elections among clients.
#[allow(clippy::all)]
pub mod v3electionpb {
    include!(concat!(env!("OUT_DIR"), "/v3electionpb.rs"));
}

/// `grpc.health.v1`.
#[allow(clippy::all)]
pub mod health {
    include!(concat!(env!("OUT_DIR"), "/grpc.health.v1.rs"));
}

/// `grpc.reflection.v1`; `v1alpha` is the same on the wire.
#[allow(clippy::all)]
pub mod reflection {
    include!(concat!(env!("OUT_DIR"), "/grpc.reflection.v1.rs"));
}

pub mod files;
pub mod schema;

#[cfg(test)]
mod tests;
