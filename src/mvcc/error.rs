//! What can go wrong in this layer, with etcd's texts and codes.

use crate::store::{Corruption, PageId};

/// A request that cannot be served, or a store that cannot be trusted.
///
/// All variants but [`MvccError::Corruption`] are the client's: nothing was written. After
/// `Corruption` the member must stop, whatever was in progress may be half done.
#[derive(Debug, thiserror::Error)]
pub enum MvccError {
    #[error("etcdserver: mvcc: required revision has been compacted")]
    Compacted,
    #[error("etcdserver: mvcc: required revision is a future revision")]
    FutureRevision,
    #[error("etcdserver: requested lease not found")]
    LeaseNotFound,
    #[error("etcdserver: key not found")]
    KeyNotFound,
    #[error(transparent)]
    Corruption(#[from] Corruption),
}

impl MvccError {
    /// A record whose bytes passed the store's checksums and still make no sense.
    pub fn damaged(what: &'static str) -> MvccError {
        MvccError::Corruption(Corruption::new(PageId::NONE, what))
    }

    /// The gRPC status code that etcd answers with: its number and its name.
    pub fn code(&self) -> (u8, &'static str) {
        match self {
            MvccError::KeyNotFound => (3, "InvalidArgument"),
            MvccError::LeaseNotFound => (5, "NotFound"),
            MvccError::Compacted | MvccError::FutureRevision => (11, "OutOfRange"),
            MvccError::Corruption(_) => (15, "DataLoss"),
        }
    }

    /// For work that no request asked for, where nothing else can go wrong.
    pub fn into_corruption(self) -> Corruption {
        match self {
            MvccError::Corruption(corruption) => corruption,
            error => unreachable!("no request, and yet: {error}"),
        }
    }

    pub fn is_fatal(&self) -> bool {
        matches!(self, MvccError::Corruption(_))
    }
}
