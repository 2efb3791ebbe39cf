//! The state of a member on its way to another.
//!
//! The leader pins a committed root and reads it entry by entry, in the order of its trees; the
//! receiver puts the entries into a new store of its own. So no page travels: the receiver's
//! checksums are seeded by its own number, its file has no holes, and what is this member's alone
//! (its id) is never overwritten by another's.
//!
//! Steps at the receiver, each of which may be the last before a crash:
//! 1. A new file, beside the store's. A start removes one that it finds.
//! 2. Entries arrive and are put; checkpoints bound what is dirty, and while the disk is behind with
//!    these, pieces are taken and not acknowledged, so that the sender waits at the end of its
//!    window. The rule of credit: what is acknowledged may not be durable, since a crash begins anew.
//! 3. All has arrived, its checksum is right, the own id is put in place of the sender's, and a last
//!    checkpoint makes it durable. It is opened: what cannot be read is discarded here.
//! 4. Raft says whether it is still wanted.
//! 5. The file gets the store's name, by one rename that is made durable. From here on the new state
//!    is the one.
//! 6. The log gets a record which says so; only then Raft is told that it is persisted.
//!
//! Between 5 and 6 the log knows nothing of the snapshot; `recovery` finds that out.

mod format;
mod receive;
mod send;

pub(super) use receive::Incoming;
pub(super) use send::{Answer, Outgoing};

use crate::raft::NodeId;
use crate::store;

/// What is to be done to the file of a store that arrives.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum SnapshotOp {
    /// Make the file of an empty store beside the store in use, replacing any of that name, and hand
    /// in the opened store: `Node::snapshot_created`.
    Create,
    /// As `store::Op`, on that file.
    Store(store::OpId, store::Op),
    /// Give the file the name of the store in use, and sync the directory:
    /// `Node::snapshot_installed`. Nothing is under way on either.
    Install,
    /// Remove the file: `Node::snapshot_discarded`.
    Discard,
}

/// The state of one member has become that of another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transferred {
    /// The member at the other end.
    pub other: NodeId,
    /// From here to there.
    pub is_sent: bool,
    /// From the offer on.
    pub took_ms: u64,
}

/// What the transfers of this start of the process came to.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub struct SnapshotCounts {
    pub sent: u64,
    pub send_failed: u64,
    pub received: u64,
    pub receive_failed: u64,
    pub sending: u64,
    pub receiving: u64,
}
