//! When the store is made durable: often enough that little of the log is replayed at the next
//! start and that dirty pages stay bounded, and seldom enough that a page that changes all the time
//! is written once for many changes.

use crate::store::Store;

/// Dirty pages that start a checkpoint.
const DIRTY_BYTES: u64 = 64 << 20;
/// Time after which a changed store is checkpointed in any case.
const INTERVAL_MS: u64 = 10_000;
/// Time until a checkpoint that found no room on the disk is tried again.
const RETRY_MS: u64 = 1_000;

pub struct CheckpointPolicy {
    not_before_ms: u64,
    due_ms: u64,
    demanded: bool,
    /// Checkpoints begun, and those of them that are durable.
    begun: u64,
    ended: u64,
}

impl CheckpointPolicy {
    pub fn new(now_ms: u64) -> CheckpointPolicy {
        CheckpointPolicy {
            not_before_ms: now_ms,
            due_ms: now_ms + INTERVAL_MS,
            demanded: false,
            begun: 0,
            ended: 0,
        }
    }

    /// Asks for a checkpoint that begins from now on; the ticket is for `is_past`.
    pub fn demand(&mut self) -> u64 {
        self.demanded = true;
        self.begun + 1
    }

    /// Whether a checkpoint that was asked for is durable.
    pub fn is_past(&self, ticket: u64) -> bool {
        self.ended >= ticket
    }

    /// Begins a checkpoint if one is due.
    pub fn run(&mut self, store: &mut Store, now_ms: u64) {
        if store.checkpoint_running() || now_ms < self.not_before_ms {
            return;
        }
        let changed = store.committed_mark() != store.durable_mark();
        let due = store.dirty_bytes() > DIRTY_BYTES || (changed && now_ms >= self.due_ms);
        if !(due || self.demanded) {
            return;
        }
        self.demanded = false;
        self.due_ms = now_ms + INTERVAL_MS;
        self.begun += 1;
        if !store.begin_checkpoint() {
            // Nothing has changed since the last one.
            self.ended = self.begun;
        }
    }

    pub fn finished(&mut self, now_ms: u64) {
        self.ended = self.begun;
        self.due_ms = now_ms + INTERVAL_MS;
    }

    pub fn postponed(&mut self, now_ms: u64) {
        self.begun -= 1;
        self.not_before_ms = now_ms + RETRY_MS;
        self.demanded = true;
    }

    pub fn next_deadline(&self, store: &Store) -> u64 {
        if store.checkpoint_running() {
            return u64::MAX;
        }
        let changed = store.committed_mark() != store.durable_mark();
        let due = if self.demanded {
            0
        } else if changed {
            self.due_ms
        } else {
            u64::MAX
        };
        due.max(self.not_before_ms)
    }
}
