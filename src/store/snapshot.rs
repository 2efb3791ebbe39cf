//! A committed state, and a reader's hold on it.

use super::meta::Roots;
use super::page::TxnId;
use std::rc::Rc;

/// What a transaction left behind.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Committed {
    pub txn: TxnId,
    pub mark: u64,
    pub roots: Roots,
}

/// Pins the state of one commit: its pages are not written to while this (or a clone) lives.
/// Reading goes through [`Store::view_at`](super::Store::view_at).
#[derive(Clone)]
pub struct Snapshot {
    pub(super) root: Rc<Committed>,
    /// The store it is of.
    pub(super) store: Rc<()>,
}

impl Snapshot {
    /// The caller's number of the commit.
    pub fn mark(&self) -> u64 {
        self.root.mark
    }

    pub fn txn(&self) -> TxnId {
        self.root.txn
    }
}
