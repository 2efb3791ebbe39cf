//! TLS as etcd 3.7 has it, without files and sockets: which versions and cipher suites, whose certificate is
//! taken, when files that have changed are taken, and the session that turns bytes into bytes.
//!
//! ```text
//! policy.rs       versions and cipher suites, by the names that the flags have
//! certificate.rs  what a certificate says: names, common name, serial number, until when
//! revoked.rs      the serial numbers of a revocation list
//! verify.rs       is this certificate taken? chain, revocation, allowed names
//! address.rs      does a member's certificate fit the address that it comes from?
//! material.rs     contents of files in, configurations of both directions out
//! reload.rs       files have changed: read them now, or are they still being written?
//! self_signed.rs  certificates for --auto-tls and --peer-auto-tls
//! authority.rs    issues certificates, for tests and benches
//! session.rs      one connection: bytes of the socket in, plaintext out, and back
//! ```
//!
//! Invariants: what a configuration was made of was whole: one unreadable, torn or unmatched file, and there is none.
//! Nothing is resumed: each connection is verified by the rules that hold when it is made. Bytes of the other end end
//! a session, never the process.
//!
//! rustls reads the wall clock by itself, for the validity of certificates alone, and ring draws its own randomness.

mod address;
#[doc(hidden)]
pub mod authority;
mod certificate;
mod material;
mod policy;
mod reload;
mod revoked;
mod self_signed;
mod session;
#[cfg(test)]
mod tests;
mod verify;

pub use address::{Resolver, fits_address};
pub use certificate::Certificate;
pub use material::{Content, Contents, Material, Pair, Role, Rules};
pub use policy::{Policy, PolicyError, Version, read_suites, read_version};
pub use reload::{Reload, Stamp, Step};
pub use self_signed::{SelfSigned, self_signed};
pub use session::{Session, describe, dial};
