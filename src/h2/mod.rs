//! The server side of HTTP/2 (RFC 9113) as a state machine: bytes and the time go in, events and
//! bytes come out.
//!
//! A folder is a layer, a file a frame or a concept of the RFC. `connection` is what the outside
//! sees; `receive` takes frames apart and judges them, `send` puts them together under flow control.
//!
//! Invariants:
//! - No bytes from a peer make it panic or grow without bound: every queue and every rate has its
//!   figure in [`Limits`].
//! - After a [`Fatal`] error nothing changes any more but the output, which ends with a GOAWAY.
//! - Never more DATA leaves than the windows of stream and connection allow.
//!
//! It deliberately does not know sockets, clocks, TLS, gRPC, or the meaning of any header field.

mod connection;
mod error;
mod field;
mod floods;
mod flow;
pub mod frame;
mod gathered;
mod head;
mod head_cache;
mod keepalive;
mod limits;
mod receive;
mod send;
mod settings;
mod streams;
#[cfg(test)]
mod tests;

pub mod hpack;
pub mod stream;

pub use connection::{Connection, Event};
pub use error::{ErrorCode, Fatal};
pub use frame::PREFACE;
pub use gathered::{Gathered, Sink};
pub use head::{CommonHead, RequestHead};
pub use hpack::{encode_block, encode_field};
pub use limits::{Limits, Rate};
pub use send::Payload;

/// Odd for the streams of a client; 0 is the connection itself. Never used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StreamId(pub u32);
