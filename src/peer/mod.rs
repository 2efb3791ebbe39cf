//! How members talk: the bytes of what they say, and one link to each other member.
//!
//! A member dials every other and sends on the connections it dialled; what comes back on them is
//! only the greeting's answer and pongs. There are three connections to each member, one for each
//! [`Class`](crate::node::Class): a *lane*. So an urgent message waits for nothing: not for entries
//! in the same queue, not for a megabyte that a socket's buffer already holds, and not for the
//! retransmission of a packet of another lane. One connection with frames cut into pieces would
//! keep the order of what has not been given to the kernel, and nothing else. The price is four
//! more sockets to each member.
//!
//! ```text
//! limits.rs  every bound
//! frame.rs   frames: head, checksums, and finding them again in what arrives
//! codec.rs   what members say, in bytes
//! hello.rs   who is there: greeting, its answers, the list of members
//! queue.rs   what waits to be sent
//! lane.rs    one connection to a member: back-off, greeting, pings
//! inbound.rs one connection from a member
//! links.rs   all lanes to all members
//! ```
//!
//! Invariants: bytes from the network never panic, and cost no more memory than has arrived; a
//! message reaches the node only from a connection that was greeted by a member of this cluster.
//! Messages of one class arrive in the order in which they were sent, or not at all.
//!
//! Knows no sockets, names or clocks: what is to be dialled is handed out, the time is an argument.

mod codec;
mod frame;
mod hello;
mod inbound;
mod lane;
pub mod limits;
mod links;
mod queue;
#[cfg(test)]
mod tests;

pub use hello::{Hello, Identity, Listing, Query, Refusal, Roster};
pub use inbound::{Arrived, Inbound};
pub use lane::{Counters, Lane, State};
pub use links::{Dial, Event, LaneId, Links};

/// What makes a connection useless. One line each, to be logged.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PeerError {
    #[error("the other end does not speak ringd's peer protocol")]
    NotRingd,
    #[error("a frame is damaged: {0}")]
    Frame(&'static str),
    #[error("a message of kind {kind} is malformed")]
    Malformed { kind: u8 },
    #[error("a frame of kind {kind} is out of place")]
    OutOfPlace { kind: u8 },
    #[error("refused: {0}")]
    Refused(Refusal),
    #[error("nothing was heard for {0} ms")]
    Silent(u64),
}
