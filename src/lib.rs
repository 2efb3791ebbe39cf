//! A drop-in etcd v3 server. The map of the modules is in `docs/ARCHITECTURE.md`.

pub mod proto;
