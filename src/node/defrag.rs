//! Defragmentation: leaves that deletions have left half empty are filled up, pages move from the end
//! of the store's file to free places nearer its start, and checkpoints make the file shorter. A
//! slice at a time; nobody waits for it but who asked.
//!
//! It runs when it is asked for, and by itself when more of the file lies idle than the threshold
//! says. A run that has got stuck is not begun again before things have changed, or some time has
//! passed: what it left, no further run would find to do.

use crate::apply::Applier;
use crate::store::{Corruption, DefragState, PackPosition, Store};

use super::checkpoint::{CheckpointPolicy, has_room_for_background};

/// Leaves that a slice looks at or fills, and pages that it moves: about 200 microseconds.
const LEAVES_PER_SLICE: u32 = 24;
const PAGES_PER_SLICE: u32 = 16;
/// Checkpoints that one run may take. A page that was moved frees its former place two checkpoints
/// later, which lets others move; after some of that the rest is not worth it.
const ROUNDS_MAX: u32 = 12;
/// The first frees the places of the pages that moved last, the second has a shorter file.
const CHECKPOINTS_TO_SHRINK: u32 = 2;
/// A run waits for readers that hold pages for so long.
const PINNED_MAX_MS: u64 = 10_000;
/// Less than this that lies idle is not worth a run.
const IDLE_BYTES_MIN: u64 = 4 << 20;
/// How often it is looked whether a run is due; the node's ticks bring it here.
const LOOK_MS: u64 = 500;
/// Time after which a run is tried again although nothing seems to have changed.
const AGAIN_MS: u64 = 60_000;
/// Leaves are filled up while there is a load only if this much more of them is empty than the
/// threshold says: what is full now is soon split again.
const PACK_UNDER_LOAD: u64 = 3;

enum Stage {
    Idle,
    Packing(PackPosition),
    Moving,
    /// Until the checkpoint with this ticket is durable.
    Settling {
        ticket: u64,
        done: bool,
    },
}

/// What defragmentation has done since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DefragCounts {
    pub moved_pages: u64,
    pub packed_pages: u64,
    pub returned_bytes: u64,
    /// Runs that ended because there was nothing more to do, because they had taken as many
    /// checkpoints as a run may, and because readers held pages.
    pub done: u64,
    pub exhausted: u64,
    pub pinned: u64,
    /// For how long readers have kept the present run from going on.
    pub pinned_ms: u64,
}

#[derive(Clone, Copy, Debug)]
enum Reason {
    Done,
    Exhausted,
    Pinned,
}

/// How much of the store lies idle, as a run left it.
#[derive(Clone, Copy)]
struct Left {
    holes_bytes: u64,
    ended_ms: u64,
}

pub struct Defrag {
    threshold_percent: u64,
    stage: Stage,
    rounds: u32,
    wanted: u64,
    /// Demands up to this one are met.
    met: u64,
    running_for: u64,
    /// Checkpoints since there was nothing more to move.
    settled: u32,
    file_before: u64,
    /// Since when readers have been all that is waited for.
    pinned_since_ms: Option<u64>,
    next_look_ms: u64,
    left: Option<Left>,
    /// Bytes of entries in a million bytes of pages, after leaves were filled up.
    packed_fill: Option<u64>,
    pub counts: DefragCounts,
}

impl Defrag {
    pub fn new(threshold_percent: u32, now_ms: u64) -> Defrag {
        Defrag {
            threshold_percent: threshold_percent.into(),
            stage: Stage::Idle,
            rounds: 0,
            wanted: 0,
            met: 0,
            running_for: 0,
            settled: 0,
            file_before: 0,
            pinned_since_ms: None,
            next_look_ms: now_ms + LOOK_MS,
            left: None,
            packed_fill: None,
            counts: DefragCounts::default(),
        }
    }

    /// Asks for a run that begins from now on; the ticket is for `is_past`.
    pub fn demand(&mut self) -> u64 {
        self.wanted += 1;
        self.wanted
    }

    pub fn is_past(&self, ticket: u64) -> bool {
        self.met >= ticket
    }

    /// Whether a slice would do something, without waiting for a checkpoint.
    pub fn is_moving(&self) -> bool {
        match self.stage {
            Stage::Packing(_) | Stage::Moving => true,
            Stage::Idle => self.wanted > self.met,
            Stage::Settling { .. } => false,
        }
    }

    /// One slice. `idle`: there is no load.
    pub fn run(
        &mut self,
        applier: &mut Applier,
        checkpoints: &mut CheckpointPolicy,
        now_ms: u64,
        idle: bool,
    ) -> Result<(), Corruption> {
        match &mut self.stage {
            Stage::Idle => {
                let demanded = self.wanted > self.met;
                if demanded {
                    self.begin(&applier.store, true);
                } else if self.threshold_percent > 0 && now_ms >= self.next_look_ms {
                    self.next_look_ms = now_ms + LOOK_MS;
                    let pack = self.wants_packing(&applier.store, idle);
                    if pack || self.wants_moving(&applier.store, now_ms, idle) {
                        self.begin(&applier.store, pack);
                    }
                }
            }
            Stage::Settling { ticket, done } => {
                let done = *done;
                if checkpoints.is_past(*ticket) {
                    self.settle(&applier.store, done, now_ms);
                }
            }
            _ if !has_room_for_background(&applier.store) => {}
            Stage::Packing(at) => {
                let progress = applier.store.pack_step(at, LEAVES_PER_SLICE)?;
                self.counts.packed_pages += u64::from(progress.saved_pages);
                if progress.wrapped {
                    self.packed_fill = Some(fill(&applier.store));
                    self.stage = Stage::Moving;
                }
            }
            Stage::Moving => {
                let progress = applier.store.defrag_step(PAGES_PER_SLICE)?;
                self.counts.moved_pages += u64::from(progress.moved_pages);
                let done = match progress.state {
                    DefragState::More => return Ok(()),
                    DefragState::Done => true,
                    DefragState::Waiting { .. } => false,
                };
                let pinned = matches!(progress.state, DefragState::Waiting { readers: 1.. });
                let since_ms = pinned.then(|| self.pinned_since_ms.unwrap_or(now_ms));
                self.pinned_since_ms = since_ms;
                self.counts.pinned_ms = since_ms.map_or(0, |since_ms| now_ms - since_ms);
                if self.counts.pinned_ms >= PINNED_MAX_MS {
                    self.end(&applier.store, Reason::Pinned, now_ms);
                    return Ok(());
                }
                // Without a change there is no checkpoint, and without one nothing shrinks.
                applier.commit()?;
                self.stage = Stage::Settling { ticket: checkpoints.demand(), done };
            }
        }
        Ok(())
    }

    fn begin(&mut self, store: &Store, pack: bool) {
        self.running_for = self.wanted;
        self.rounds = 0;
        self.settled = 0;
        self.file_before = store.file_len();
        self.pinned_since_ms = None;
        self.stage = if pack { Stage::Packing(PackPosition::default()) } else { Stage::Moving };
    }

    fn settle(&mut self, store: &Store, done: bool, now_ms: u64) {
        if self.pinned_since_ms.is_none() {
            self.rounds += 1;
        }
        self.settled = if done { self.settled + 1 } else { 0 };
        if self.settled == CHECKPOINTS_TO_SHRINK {
            self.end(store, Reason::Done, now_ms);
        } else if self.rounds >= ROUNDS_MAX {
            self.end(store, Reason::Exhausted, now_ms);
        } else {
            self.stage = Stage::Moving;
        }
    }

    fn end(&mut self, store: &Store, reason: Reason, now_ms: u64) {
        match reason {
            Reason::Done => self.counts.done += 1,
            Reason::Exhausted => self.counts.exhausted += 1,
            Reason::Pinned => self.counts.pinned += 1,
        }
        self.counts.returned_bytes += self.file_before.saturating_sub(store.file_len());
        self.met = self.running_for;
        self.counts.pinned_ms = 0;
        self.left = Some(Left { holes_bytes: holes_bytes(store), ended_ms: now_ms });
        self.next_look_ms = now_ms + LOOK_MS;
        self.stage = Stage::Idle;
    }

    fn wants_moving(&self, store: &Store, now_ms: u64, idle: bool) -> bool {
        let holes = holes_bytes(store);
        let extent = store.extent_bytes();
        let threshold = if idle { self.threshold_percent } else { self.threshold_percent * 2 };
        if holes < IDLE_BYTES_MIN || holes * 100 < extent * threshold {
            return false;
        }
        self.left.is_none_or(|left| {
            let more = left.holes_bytes + extent * self.threshold_percent / 200;
            holes > more || now_ms >= left.ended_ms + AGAIN_MS
        })
    }

    fn wants_packing(&self, store: &Store, idle: bool) -> bool {
        if store.in_use_bytes() < IDLE_BYTES_MIN {
            return false;
        }
        let factor = if idle { 1 } else { PACK_UNDER_LOAD };
        let usual = self.packed_fill.unwrap_or(FILL_UNKNOWN);
        fill(store) * 100 < usual * (100_u64).saturating_sub(self.threshold_percent * factor)
    }
}

/// How full leaves are taken to have been when it is not known how full they can be.
const FILL_UNKNOWN: u64 = 850_000;

/// Bytes of entries in a million bytes of pages in use.
fn fill(store: &Store) -> u64 {
    store.entry_bytes().saturating_mul(1_000_000) / store.in_use_bytes().max(1)
}

/// Bytes of the pages up to the last one in use that are not in use themselves.
fn holes_bytes(store: &Store) -> u64 {
    store.extent_bytes().saturating_sub(store.in_use_bytes())
}
