//! A drop-in etcd v3 server. The map of the modules is in `docs/ARCHITECTURE.md`.

pub mod apply;
pub mod auth;
pub mod bbolt;
pub mod bench;
pub mod config;
pub mod gateway;
pub mod grpc;
pub mod h2;
pub mod lease;
pub mod membership;
#[doc(hidden)]
pub mod mutants;
pub mod mvcc;
pub mod node;
pub mod peer;
pub mod proto;
pub mod raft;
pub mod rpc;
pub mod shell;
pub mod store;
pub mod tls;
pub mod version;
