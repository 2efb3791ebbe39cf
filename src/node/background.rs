//! The work that nobody waits for: removing history, defragmentation, checkpoints, looking for
//! damage.
//!
//! Under a load it gets one slice in a millisecond, each far shorter than that; without one it
//! takes what there is. It stops where it would make more pages dirty than a checkpoint can write
//! beside the load.

use std::ops::Range;

use prost::Message;

use super::Node;
use super::checkpoint::{self, CheckpointPolicy};
use super::defrag::{Defrag, DefragCounts};
use super::limits::COMPACTION_SLICE;
use super::scrub::{Scrub, ScrubCounts};
use crate::apply::envelope::Kind;
use crate::proto::etcdserverpb::{AlarmRequest, AlarmType, alarm_request::AlarmAction};
use crate::store::{Corruption, PageId};

/// There is no load if nothing has been applied for so long.
const IDLE_AFTER_MS: u64 = 50;
/// The alarm for damage is proposed so often until it is raised.
const ALARM_RETRY_MS: u64 = 1_000;
/// Damaged pages that are remembered.
const DAMAGED_PAGES_MAX: usize = 64;

pub(super) struct Background {
    pub checkpoint: CheckpointPolicy,
    pub defrag: Defrag,
    scrub: Scrub,
    last_slice_ms: u64,
    last_load_ms: u64,
    /// Damage that was found, while the alarm for it is not raised.
    damage: Option<Corruption>,
    /// Pages that were found damaged, in the order in which they were.
    damaged_pages: Vec<PageId>,
    propose_alarm_ms: u64,
}

impl Background {
    pub fn new(defrag_threshold_percent: u32, now_ms: u64) -> Background {
        Background {
            checkpoint: CheckpointPolicy::new(now_ms),
            defrag: Defrag::new(defrag_threshold_percent, now_ms),
            scrub: Scrub::new(now_ms),
            last_slice_ms: now_ms,
            last_load_ms: now_ms,
            damage: None,
            damaged_pages: Vec::new(),
            propose_alarm_ms: now_ms,
        }
    }

    /// Something has been applied.
    pub fn loaded(&mut self, now_ms: u64) {
        self.last_load_ms = now_ms;
    }

    /// The store is another one, with pages of its own.
    pub fn store_replaced(&mut self, now_ms: u64) {
        // A checkpoint of the former store ends with it.
        self.checkpoint.finished(now_ms);
        self.damage = None;
        self.damaged_pages.clear();
    }

    pub(super) fn is_damaged(&self) -> bool {
        !self.damaged_pages.is_empty()
    }

    fn is_idle(&self, now_ms: u64) -> bool {
        now_ms >= self.last_load_ms + IDLE_AFTER_MS
    }
}

impl Node {
    /// One slice. To be called after the watchers were offered what `turn` has applied: a compaction
    /// takes away what they have not seen.
    pub fn background(&mut self, now_ms: u64) -> Result<(), Corruption> {
        self.applier.store.let_go();
        self.raise_corrupt(now_ms);
        self.check_hashes()?;
        let idle = self.proposals.len() == 0 && self.background.is_idle(now_ms);
        let background = &mut self.background;
        // What changes the store reads it first, and damage met there ends the process.
        if (idle || now_ms > background.last_slice_ms) && !background.is_damaged() {
            background.last_slice_ms = now_ms;
            if self.applier.mvcc.compaction_pending() {
                if checkpoint::has_room_for_background(&self.applier.store) {
                    self.applier.compact_step(COMPACTION_SLICE)?;
                    self.applier.commit()?;
                }
            } else {
                let Background { defrag, checkpoint, .. } = background;
                defrag.run(&mut self.applier, checkpoint, now_ms, idle)?;
            }
        }
        self.background.checkpoint.run(&mut self.applier.store, now_ms, idle);
        Ok(())
    }

    pub(super) fn background_deadline(&self, now_ms: u64) -> u64 {
        let background = &self.background;
        let store = &self.applier.store;
        let compacts = self.applier.mvcc.compaction_pending();
        let mut deadline = background.checkpoint.next_deadline(store, now_ms);
        deadline = deadline.min(background.scrub.next_deadline());
        if store.is_letting_go() {
            return now_ms;
        }
        if !background.is_damaged() {
            let works = compacts || background.defrag.is_moving();
            if works && checkpoint::has_room_for_background(store) {
                let idle = self.proposals.len() == 0 && background.is_idle(now_ms);
                let slice_ms = if idle { now_ms } else { background.last_slice_ms + 1 };
                deadline = deadline.min(slice_ms);
            }
        }
        if background.damage.is_some() {
            deadline = deadline.min(background.propose_alarm_ms);
        }
        deadline
    }

    /// Whether pages get dirty faster than the disk takes them: then nothing should be read from
    /// clients until it has caught up.
    pub fn is_choked(&self) -> bool {
        self.background.checkpoint.is_choked(&self.applier.store)
    }

    /// Whether it is so far behind that what other members forward is refused, too.
    pub(super) fn is_overrun(&self) -> bool {
        self.background.checkpoint.is_overrun(&self.applier.store)
    }

    /// Asks the store to give back what it can. The ticket is for `defragmented`.
    pub fn start_defragment(&mut self) -> u64 {
        self.background.defrag.demand()
    }

    pub fn defragmented(&self, ticket: u64) -> bool {
        // On damage there will be none; nobody should wait for it.
        self.background.defrag.is_past(ticket) || self.background.is_damaged()
    }

    pub fn defrag_counts(&self) -> DefragCounts {
        self.background.defrag.counts
    }

    pub fn scrub_counts(&self) -> ScrubCounts {
        self.background.scrub.counts
    }

    /// The end has come: a last checkpoint spares the next start the replaying of the log.
    pub fn stop(&mut self) {
        self.background.checkpoint.hurry();
    }

    /// Whether the last checkpoint is durable, or there cannot be one.
    pub fn is_stopped(&self) -> bool {
        let settled = self.background.checkpoint.is_settled(&self.applier.store);
        settled || self.background.is_damaged()
    }

    /// Bytes of the store's file to be read on another thread, before `scrub` is called for them.
    pub(super) fn scrub_window(&mut self, now_ms: u64) -> Option<Range<u64>> {
        self.background.scrub.window(&self.applier.store, now_ms)
    }

    /// Looks at a window that has been read.
    pub fn scrub(&mut self, now_ms: u64) {
        if let Err(corruption) = self.background.scrub.verify(&self.applier.store, now_ms) {
            self.report_damage(corruption);
        }
    }

    /// A damaged page was met by a read, which is refused. The alarm is raised, and no write comes
    /// near the page any more.
    pub fn report_damage(&mut self, corruption: Corruption) {
        tracing::error!(
            page = corruption.page.0,
            offset = corruption.offset,
            error = %corruption,
            "a page of the store is damaged and is not served; raising the alarm CORRUPT"
        );
        let background = &mut self.background;
        if !background.is_damaged() {
            background.damage = Some(corruption);
            background.propose_alarm_ms = 0;
        }
        let known = background.damaged_pages.contains(&corruption.page);
        if !known && background.damaged_pages.len() < DAMAGED_PAGES_MAX {
            background.damaged_pages.push(corruption.page);
        }
    }

    /// The alarm was taken back: who did so may have mended the page, or not have known. What is still
    /// damaged raises it again; else the work in the background goes on.
    fn look_again_at_damage(&mut self) {
        for page in std::mem::take(&mut self.background.damaged_pages) {
            if let Err(corruption) = self.applier.store.scrub_step(page, 1) {
                self.report_damage(corruption);
            }
        }
    }

    fn raise_corrupt(&mut self, now_ms: u64) {
        if !self.background.is_damaged() {
            return;
        }
        let member_id = self.options.metadata.member_id;
        if self.applier.alarms.raised_by(member_id, AlarmType::Corrupt) {
            self.background.damage = None;
            return;
        }
        if self.background.damage.is_none() {
            self.look_again_at_damage();
        }
        if self.background.damage.is_none() || now_ms < self.background.propose_alarm_ms {
            return;
        }
        let request = AlarmRequest {
            action: AlarmAction::Activate as i32,
            member_id,
            alarm: AlarmType::Corrupt as i32,
        };
        // Proposed again as long as it is not raised: it may find no leader.
        let _ = self.propose(Kind::Alarm, &request.encode_to_vec());
        self.background.propose_alarm_ms = now_ms + ALARM_RETRY_MS;
    }
}
