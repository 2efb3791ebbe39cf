//! Defragmentation on demand: pages move from the end of the store's file to its start, some in
//! each turn, and checkpoints make it shorter. Nobody waits for it but who asked.

use crate::apply::Applier;
use crate::store::{Corruption, DefragState};

use super::checkpoint::CheckpointPolicy;

/// Pages that one turn moves: about 100 microseconds.
const PAGES_PER_TURN: u32 = 32;
/// Checkpoints that one run may take. A page that was moved frees its former place two checkpoints
/// later, which lets others move; after some of that the rest is not worth it.
const ROUNDS_MAX: u32 = 8;

/// The first frees the places of the pages that moved last, the second has a shorter file.
const CHECKPOINTS_TO_SHRINK: u32 = 2;

enum Stage {
    Idle,
    Moving,
    /// Until the checkpoint with this ticket is durable.
    Settling {
        ticket: u64,
        done: bool,
    },
}

pub struct Defrag {
    stage: Stage,
    rounds: u32,
    wanted: u64,
    /// Demands up to this one are met.
    met: u64,
    running_for: u64,
    /// Checkpoints since there was nothing more to move.
    settled: u32,
}

impl Defrag {
    pub fn new() -> Defrag {
        Defrag { stage: Stage::Idle, rounds: 0, wanted: 0, met: 0, running_for: 0, settled: 0 }
    }

    /// Asks for a run that begins from now on; the ticket is for `is_past`.
    pub fn demand(&mut self) -> u64 {
        self.wanted += 1;
        self.wanted
    }

    pub fn is_past(&self, ticket: u64) -> bool {
        self.met >= ticket
    }

    /// Whether a turn would do something, without waiting for a checkpoint.
    pub fn is_moving(&self) -> bool {
        matches!(self.stage, Stage::Moving)
            || (self.wanted > self.met && matches!(self.stage, Stage::Idle))
    }

    /// One slice.
    pub fn run(
        &mut self,
        applier: &mut Applier,
        checkpoints: &mut CheckpointPolicy,
    ) -> Result<(), Corruption> {
        match self.stage {
            Stage::Idle if self.wanted > self.met => {
                self.running_for = self.wanted;
                self.rounds = 0;
                self.settled = 0;
                self.stage = Stage::Moving;
            }
            Stage::Idle => {}
            Stage::Moving => {
                let progress = applier.store.defrag_step(PAGES_PER_TURN)?;
                if progress.state != DefragState::More {
                    let done = progress.state == DefragState::Done;
                    // Without a change there is no checkpoint, and without one nothing shrinks.
                    applier.commit()?;
                    self.stage = Stage::Settling { ticket: checkpoints.demand(), done };
                }
            }
            Stage::Settling { ticket, done } if checkpoints.is_past(ticket) => {
                self.rounds += 1;
                self.settled = if done { self.settled + 1 } else { 0 };
                let settled = self.settled == CHECKPOINTS_TO_SHRINK;
                if settled || self.rounds == ROUNDS_MAX {
                    self.met = self.running_for;
                    self.stage = Stage::Idle;
                } else {
                    self.stage = Stage::Moving;
                }
            }
            Stage::Settling { .. } => {}
        }
        Ok(())
    }
}
