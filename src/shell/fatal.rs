//! The end of the process after a failure that must not be survived.
//!
//! After a failed write or sync the page cache may claim what the disk does not hold, and a second
//! sync may succeed without having written anything. So nothing is retried and nothing is answered
//! any more: one line, and the process is gone.

use super::log::FATAL;
use std::fmt::Display;
use std::path::Path;

/// etcd's exit code after a fatal error.
pub const EXIT_FATAL: u8 = 1;

/// A disk operation that failed: what, where, why.
pub fn disk(operation: &str, path: &Path, offset: Option<u64>, error: &dyn Display) -> ! {
    match offset {
        Some(offset) => tracing::error!(
            target: FATAL,
            operation,
            path = %path.display(),
            offset,
            error = %error,
            "disk operation failed; the member stops, because what the disk holds is unknown now"
        ),
        None => tracing::error!(
            target: FATAL,
            operation,
            path = %path.display(),
            error = %error,
            "disk operation failed; the member stops, because what the disk holds is unknown now"
        ),
    }
    std::process::exit(EXIT_FATAL.into())
}

/// Committed data that fails its checksum: it must not be served, and cannot be repaired here.
pub fn corruption(what: &dyn Display) -> ! {
    tracing::error!(
        target: FATAL,
        error = %what,
        "the store is damaged; the member stops, restore it from a backup or from the other members"
    );
    std::process::exit(EXIT_FATAL.into())
}
