//! How long an answer that pins a state is made for a client that does not take it.
//!
//! Pages of a pinned state cannot be used again, so a client that takes nothing for
//! [`limits::PINNED_STALL_MS`], or less than [`limits::PINNED_BYTES_PER_MS_MIN`] on the whole, has its
//! stream reset with ENHANCE_YOUR_CALM, which its library calls ResourceExhausted. As long as nothing
//! waits for it, it is not the client that is slow. At its own deadline it is reset with CANCEL.

use super::connection::Caller;
use super::limits;
use crate::h2::ErrorCode;

pub struct Patience {
    /// Bytes of the answer that were given to the connection, and how many it had taken when that
    /// was last looked at.
    made: u64,
    taken: u64,
    taken_ms: u64,
    /// The client gives up at this time; or it is given up.
    deadline_ms: u64,
    last_ms: u64,
}

impl Patience {
    pub fn new(caller: Caller, now_ms: u64) -> Patience {
        let deadline_ms = if caller.is_clients_deadline { caller.deadline_ms } else { u64::MAX };
        Patience { made: 0, taken: 0, taken_ms: now_ms, deadline_ms, last_ms: u64::MAX }
    }

    /// The answer begins, and will be so long.
    pub fn begin(&mut self, len: u64, now_ms: u64) {
        self.taken_ms = now_ms;
        let slow_ms = len / limits::PINNED_BYTES_PER_MS_MIN;
        self.last_ms = now_ms + limits::PINNED_STALL_MS + slow_ms;
    }

    /// So many more bytes were given to the connection.
    pub fn made(&mut self, bytes: usize) {
        self.made += bytes as u64;
    }

    pub fn has_made_some(&self) -> bool {
        self.made > 0
    }

    /// Why the stream is to be reset, if it is: the client has taken too long, or has no use for the answer
    /// any more. `queued`: what of the answer waits in the connection.
    pub fn verdict(&mut self, queued: usize, now_ms: u64) -> Option<ErrorCode> {
        let taken = self.made.saturating_sub(queued as u64);
        if taken > self.taken || queued == 0 {
            self.taken = taken;
            self.taken_ms = now_ms;
        }
        if now_ms >= self.deadline_ms {
            return Some(ErrorCode::CANCEL);
        }
        let stalls = now_ms - self.taken_ms >= limits::PINNED_STALL_MS;
        (stalls || now_ms >= self.last_ms).then_some(ErrorCode::ENHANCE_YOUR_CALM)
    }
}
