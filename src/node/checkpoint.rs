//! When the store is made durable, and how fast.
//!
//! When: often enough that little of the log is replayed at the next start and that dirty pages stay
//! bounded, and seldom enough that a page that changes all the time is written once for many
//! changes. So it depends on what there is to write. Where keys are added, pages are written once
//! whenever that happens, and few of them are left dirty. Where the same pages change again and again,
//! a checkpoint later is a page not written, and that is worth the memory.
//!
//! How fast: the disk is the log's first. What a checkpoint writes is in the way of the log's next
//! write, so it is spread over seconds: in proportion to the time, or faster if pages get dirty
//! faster. Whoever writes waits for none of it, unless the disk cannot keep up. Then no more is
//! taken in than the checkpoint has written: intake slows down to what the disk bears, in steps of
//! a write, in place of stopping at a bound.
//!
//! Replay of the log after a start has nobody to spare and no intake to slow down: it is as fast as the
//! thread, and the memory for its pages would be as large as what they come to. So it begins checkpoints
//! sooner, writes them as fast as the disk can, and waits for them where it is ahead.

use crate::store::Store;

/// Where few of the dirty pages were written before: one in this many.
const REWRITTEN_SHARE: u64 = 16;
const NEW: Bounds = Bounds { begin: 40 << 20, at_once: 32 << 20, total: 72 << 20 };
const CHANGED: Bounds = Bounds { begin: 104 << 20, at_once: 40 << 20, total: 144 << 20 };
/// What has been read and not proposed yet, and what other members forward, comes on top.
const OVERRUN_BYTES: u64 = 24 << 20;
/// Time after which a changed store is checkpointed in any case.
const INTERVAL_MS: u64 = 10_000;
/// Time until a checkpoint that found no room on the disk is tried again.
const RETRY_MS: u64 = 1_000;
/// Time over which the writes of a checkpoint are spread; when there is no load, or somebody waits.
const SPREAD_MS: u64 = 8_000;
const SPREAD_IDLE_MS: u64 = 500;
/// A checkpoint of no more than this is in nobody's way.
const SMALL_BYTES: u64 = 1 << 20;
/// A paced checkpoint is looked at so often.
const PACE_MS: u64 = 2;
/// All of them, with the pages that are on the heap for readers only.
const HEAP_BYTES_MAX: u64 = 384 << 20;
/// Dirty pages of the work in the background, which must not slow down anybody.
const BACKGROUND_DIRTY_BYTES: u64 = 64 << 20;

/// Dirty pages, in bytes. So many are enough to have the next checkpoint begin when one ends; more would be
/// memory for nothing.
#[derive(Clone, Copy)]
struct Bounds {
    /// They start a checkpoint.
    begin: u64,
    /// By the time that so many more have got dirty, all of it is handed out for writing.
    at_once: u64,
    /// With so many, what it has not written yet among them, whoever writes waits for the disk.
    total: u64,
}

pub struct CheckpointPolicy {
    not_before_ms: u64,
    due_ms: u64,
    demanded: bool,
    /// Demands up to this one are part of the checkpoint that is running, or of the last one.
    begun: u64,
    /// Demands up to this one are durable, or had nothing to make durable.
    ended: u64,
    wanted: u64,
    started_ms: u64,
    /// Bytes of the running checkpoint that may have been handed out by now.
    allowed_bytes: u64,
    hurry: bool,
    /// The pages of the running checkpoint are mostly new.
    of_new: bool,
    /// Dirty pages that start a checkpoint in any case, as long as the log is replayed.
    replay_bytes: Option<u64>,
}

impl CheckpointPolicy {
    pub fn new(now_ms: u64) -> CheckpointPolicy {
        CheckpointPolicy {
            not_before_ms: now_ms,
            due_ms: now_ms + INTERVAL_MS,
            demanded: false,
            begun: 0,
            ended: 0,
            wanted: 0,
            started_ms: now_ms,
            allowed_bytes: 0,
            hurry: false,
            of_new: true,
            replay_bytes: None,
        }
    }

    /// The log is replayed until `replayed`: a checkpoint begins at so many dirty pages.
    pub fn replay(&mut self, dirty_bytes: u64) {
        self.replay_bytes = Some(dirty_bytes);
    }

    pub fn replayed(&mut self) {
        self.replay_bytes = None;
    }

    /// Whether replay has to wait for the disk. On a full one it does not: what it applies had room
    /// before the start as well, and a member that waited would never serve the deletions that free some.
    pub fn holds_replay(&self, store: &Store) -> bool {
        let is_ahead =
            self.replay_bytes.is_some_and(|bytes| store.dirty_bytes() >= bytes + bytes / 2);
        is_ahead && !store.is_short_of_space()
    }

    /// Whether pages get dirty faster than the disk takes them, so that nothing more should be read from
    /// clients for the moment.
    pub fn is_choked(&self, store: &Store) -> bool {
        self.is_beyond(store, 0)
    }

    /// Whether so many are dirty that what has been read has to be refused.
    pub fn is_overrun(&self, store: &Store) -> bool {
        self.is_beyond(store, OVERRUN_BYTES)
    }

    fn is_beyond(&self, store: &Store, more: u64) -> bool {
        let dirty = store.dirty_bytes();
        // A checkpoint that is not running begins at once, or there is no room on the disk.
        let total =
            if store.checkpoint_running() { self.bounds(store).total } else { HEAP_BYTES_MAX };
        dirty > total + more || dirty + store.kept_bytes() > HEAP_BYTES_MAX + more
    }

    /// While a checkpoint is running, what it writes counts as well.
    fn bounds(&self, store: &Store) -> Bounds {
        let of_changed = store.checkpoint_running() && !self.of_new;
        if !of_changed && is_mostly_new(store) { NEW } else { CHANGED }
    }

    /// Asks for a checkpoint that begins from now on; the ticket is for `is_past`.
    pub fn demand(&mut self) -> u64 {
        self.demanded = true;
        self.wanted += 1;
        self.wanted
    }

    /// The end has come: whatever is written from now on is not spread.
    pub fn hurry(&mut self) {
        self.hurry = true;
        self.demand();
    }

    /// Whether a checkpoint that was asked for is durable.
    pub fn is_past(&self, ticket: u64) -> bool {
        self.ended >= ticket
    }

    /// Whether everything that was asked for is durable, or cannot be made so.
    pub fn is_settled(&self, store: &Store) -> bool {
        self.ended >= self.wanted || store.is_short_of_space()
    }

    /// Begins a checkpoint if one is due, and lets a running one go on. `idle`: nobody else has
    /// anything to write.
    pub fn run(&mut self, store: &mut Store, now_ms: u64, idle: bool) {
        if store.checkpoint_running() {
            return self.pace(store, now_ms, idle);
        }
        if now_ms < self.not_before_ms || store.has_uncommitted() || !self.is_due(store, now_ms) {
            return;
        }
        self.demanded = false;
        self.due_ms = now_ms + INTERVAL_MS;
        self.started_ms = now_ms;
        self.allowed_bytes = 0;
        self.begun = self.wanted;
        self.of_new = is_mostly_new(store);
        if store.begin_checkpoint() {
            self.pace(store, now_ms, idle);
        } else {
            // Nothing has changed since the last one.
            self.ended = self.begun;
        }
    }

    fn is_due(&self, store: &Store, now_ms: u64) -> bool {
        let changed = !store.is_durable();
        // On a full disk the pages that a checkpoint frees are all there is to write to.
        let cramped = store.is_short_of_space() && store.dirty_bytes() > store.reserve_bytes() / 2;
        let dirty = store.dirty_bytes();
        let begin = self.bounds(store).begin;
        let many = dirty >= self.replay_bytes.map_or(begin, |bytes| bytes.min(begin));
        self.demanded || (changed && (many || cramped || now_ms >= self.due_ms))
    }

    fn pace(&mut self, store: &Store, now_ms: u64, idle: bool) {
        let Some(progress) = store.checkpoint_progress() else { return };
        let hurry = self.hurry || self.replay_bytes.is_some() || store.is_short_of_space();
        if hurry || progress.total_bytes <= SMALL_BYTES {
            self.allowed_bytes = u64::MAX;
            return;
        }
        let spread_ms = if idle { SPREAD_IDLE_MS } else { SPREAD_MS };
        let total = progress.total_bytes;
        let by_time = total * (now_ms - self.started_ms).min(spread_ms) / spread_ms;
        let Bounds { at_once, total: bound, .. } = self.bounds(store);
        let at_once = at_once.min(bound.saturating_sub(total)).max(SMALL_BYTES);
        let new = new_dirty_bytes(store).min(at_once);
        let by_load = (u128::from(total) * u128::from(new) / u128::from(at_once)) as u64;
        self.allowed_bytes = self.allowed_bytes.max(by_time).max(by_load);
        if self.allowed_bytes >= total || self.is_choked(store) {
            // The total is an estimate.
            self.allowed_bytes = u64::MAX;
        }
    }

    /// Whether the store's next operation may be started.
    pub fn permits(&self, store: &Store) -> bool {
        let progress = store.checkpoint_progress();
        progress.is_none_or(|progress| {
            !progress.writing || progress.handed_out_bytes < self.allowed_bytes
        })
    }

    pub fn finished(&mut self, now_ms: u64) {
        self.ended = self.begun;
        self.due_ms = now_ms + INTERVAL_MS;
    }

    /// The checkpoint was given up. What it was asked for is asked for again.
    pub fn postponed(&mut self, now_ms: u64) {
        self.begun = self.ended;
        self.not_before_ms = now_ms + RETRY_MS;
        self.demanded = true;
    }

    pub fn next_deadline(&self, store: &Store, now_ms: u64) -> u64 {
        if store.checkpoint_running() {
            return if self.permits(store) { u64::MAX } else { now_ms + PACE_MS };
        }
        let changed = !store.is_durable();
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

/// Bytes that got dirty since the running checkpoint began; all of them if there is none.
fn new_dirty_bytes(store: &Store) -> u64 {
    let pinned = store.checkpoint_progress().map_or(0, |progress| {
        if progress.writing {
            progress.total_bytes.saturating_sub(progress.handed_out_bytes)
        } else {
            0
        }
    });
    store.dirty_bytes().saturating_sub(pinned)
}

/// Whether few of the dirty pages are pages that a checkpoint has written before.
fn is_mostly_new(store: &Store) -> bool {
    store.rewritten_bytes() <= new_dirty_bytes(store) / REWRITTEN_SHARE
}

/// Whether work in the background may make more pages dirty.
pub fn has_room_for_background(store: &Store) -> bool {
    let cramped = store.is_short_of_space() && store.extent_bytes() + PAGES_LEFT > store.file_len();
    if cramped && store.checkpoint_running() {
        return false;
    }
    let bound = if store.checkpoint_running() { BACKGROUND_DIRTY_BYTES } else { CHANGED.begin };
    new_dirty_bytes(store) < bound
}

/// Bytes that one slice of the work in the background may need on top.
const PAGES_LEFT: u64 = 1 << 20;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{MemoryDisk, Op, Options, Tree};
    use std::ops::Range;

    const MIB: usize = 1 << 20;

    struct Bed {
        disk: MemoryDisk,
        store: Store,
        policy: CheckpointPolicy,
        mark: u64,
        now_ms: u64,
    }

    impl Bed {
        fn new() -> Bed {
            let disk = MemoryDisk::new(1 << 30, &Options::default());
            let store = disk.open().unwrap();
            Bed { disk, store, policy: CheckpointPolicy::new(0), mark: 0, now_ms: 0 }
        }

        fn write(&mut self, mib: usize) {
            for _ in 0..mib {
                self.mark += 1;
                let key = self.mark.to_be_bytes();
                self.store.put(Tree(0), &key, &vec![7; MIB], false).unwrap();
            }
            self.store.commit(self.mark);
        }

        /// Puts small values that fill these MiB of leaves.
        fn put(&mut self, mib: Range<u64>) {
            const PER_MIB: u64 = 128 * 4;
            for key in mib.start * PER_MIB..mib.end * PER_MIB {
                self.store.put(Tree(1), &key.to_be_bytes(), &[7; 2000], false).unwrap();
            }
            self.mark += 1;
            self.store.commit(self.mark);
        }

        fn is_choked(&self) -> bool {
            self.policy.is_choked(&self.store)
        }

        /// Carries out what is permitted; the MiB of pages written.
        fn run(&mut self, idle: bool) -> usize {
            self.policy.run(&mut self.store, self.now_ms, idle);
            let mut bytes = 0;
            while self.policy.permits(&self.store) {
                let Some((id, op)) = self.store.next_op() else { break };
                if let Op::Write { data, .. } = &op {
                    bytes += data.len();
                }
                self.disk.apply(&op);
                self.store.op_done(id);
                if !self.store.checkpoint_running() {
                    self.policy.finished(self.now_ms);
                }
            }
            bytes / MIB
        }
    }

    #[test]
    fn the_writes_of_a_checkpoint_are_spread_over_time() {
        let mut bed = Bed::new();
        bed.write(32);
        let ticket = bed.policy.demand();
        let mut written = bed.run(false);
        assert_eq!(written, 0);
        for tenth in 1..10 {
            bed.now_ms = SPREAD_MS / 10 * tenth;
            written += bed.run(false);
            let due = 32 * tenth as usize / 10;
            assert!(due.abs_diff(written) < 3, "{written} MiB at {tenth} tenths");
            assert!(!bed.policy.is_past(ticket));
        }
        bed.now_ms = SPREAD_MS;
        bed.run(false);
        assert!(bed.policy.is_past(ticket));
    }

    #[test]
    fn a_checkpoint_keeps_up_with_the_pages_that_get_dirty_beside_it() {
        let mut bed = Bed::new();
        bed.write(32);
        bed.policy.demand();
        bed.run(false);
        bed.write(16);
        let written = bed.run(false);
        assert!((15..18).contains(&written), "{written} MiB for half of what may get dirty");
        bed.write(17);
        bed.run(false);
        assert!(!bed.store.checkpoint_running());
    }

    #[test]
    fn new_pages_are_written_soon_and_pages_that_change_again_later() {
        let mut bed = Bed::new();
        let mib = |bed: &Bed| bed.store.dirty_bytes() / MIB as u64;
        bed.put(0..20);
        bed.policy.hurry();
        bed.run(true);
        let mut bed = Bed { policy: CheckpointPolicy::new(0), ..bed };
        bed.put(20..58);
        bed.policy.run(&mut bed.store, 0, false);
        assert!(!bed.store.checkpoint_running() && mib(&bed) < 40);
        bed.put(58..62);
        bed.policy.run(&mut bed.store, 0, false);
        assert!(bed.store.checkpoint_running() && mib(&bed) >= 40);
        bed.now_ms = SPREAD_MS;
        bed.run(false);
        assert_eq!((mib(&bed), bed.store.rewritten_bytes()), (0, 0));

        // The first four are changed again, and sixteen times as many have to come for it.
        bed.put(0..4);
        let changed = bed.store.rewritten_bytes();
        bed.put(0..4);
        assert_eq!(bed.store.rewritten_bytes(), changed, "they were dirty already");
        bed.put(62..116);
        bed.policy.run(&mut bed.store, bed.now_ms, false);
        assert!(!bed.store.checkpoint_running() && (54..64).contains(&mib(&bed)));
        bed.put(116..142);
        bed.policy.run(&mut bed.store, bed.now_ms, false);
        assert!(bed.store.checkpoint_running());
        bed.now_ms += SPREAD_MS;
        bed.run(false);

        // Where more than one in sixteen is, they may become many.
        bed.put(0..10);
        bed.put(142..230);
        bed.policy.run(&mut bed.store, bed.now_ms, false);
        assert!(!bed.store.checkpoint_running() && (92..104).contains(&mib(&bed)));
        bed.put(230..242);
        bed.policy.run(&mut bed.store, bed.now_ms, false);
        assert!(bed.store.checkpoint_running());
    }

    #[test]
    fn a_large_checkpoint_keeps_nobody_waiting_who_adds_less_than_it_has_written() {
        let mut bed = Bed::new();
        bed.write(128);
        bed.policy.run(&mut bed.store, 0, false);
        for _ in 0..120 {
            bed.write(1);
            bed.run(false);
            assert!(!bed.is_choked());
        }
    }

    #[test]
    fn pages_that_only_readers_hold_do_not_call_for_checkpoints() {
        let mut bed = Bed::new();
        bed.put(0..10);
        let reader = bed.store.snapshot();
        bed.put(0..10);
        let (dirty, kept) = (bed.store.dirty_bytes(), bed.store.kept_bytes());
        assert!(dirty.abs_diff(10 << 20) < 1 << 20, "{dirty}");
        assert!(kept.abs_diff(10 << 20) < 1 << 20, "{kept}");
        bed.policy.hurry();
        bed.run(true);
        assert_eq!((bed.store.dirty_bytes(), bed.store.kept_bytes()), (0, kept));
        drop(reader);
        while bed.store.kept_bytes() > 0 {
            bed.store.let_go();
        }
    }

    /// Compaction and defragmentation change the store when nothing has been applied: under the mark of the
    /// commit before. They stop when too many pages are dirty, so a checkpoint must come for them, too.
    #[test]
    fn what_was_changed_under_an_old_mark_is_checkpointed_as_well() {
        for (mib, after_ms) in [(1, INTERVAL_MS), (130, 0)] {
            let mut bed = Bed::new();
            bed.write(1);
            bed.policy.demand();
            bed.run(true);
            bed.now_ms += SPREAD_MS;
            bed.run(true);
            assert!(bed.store.is_durable());
            assert_eq!(bed.policy.next_deadline(&bed.store, bed.now_ms), u64::MAX);
            let value = vec![7; mib * MIB];
            bed.store.put(Tree(1), b"in the background", &value, false).unwrap();
            bed.store.commit(bed.mark);
            assert_eq!(bed.store.committed_mark(), bed.store.durable_mark());
            assert_eq!(has_room_for_background(&bed.store), mib == 1);
            bed.now_ms += after_ms;
            assert!(bed.policy.next_deadline(&bed.store, bed.now_ms) < u64::MAX);
            bed.run(true);
            bed.now_ms += SPREAD_MS;
            bed.run(true);
            assert!(bed.store.is_durable() && has_room_for_background(&bed.store), "{mib} MiB");
        }
    }

    #[test]
    fn intake_slows_down_to_what_the_disk_bears() {
        let mut bed = Bed::new();
        bed.write(40);
        bed.policy.run(&mut bed.store, 0, false);
        bed.write(30);
        assert!(bed.store.checkpoint_running() && !bed.is_choked());
        bed.write(3);
        assert!(bed.is_choked(), "nothing has been written");
        // A MiB that is written lets some in, not all and not none.
        bed.policy.run(&mut bed.store, 0, false);
        let mut let_in = 0;
        for _ in 0..16 {
            for _ in 0..16 {
                let (id, op) = bed.store.next_op().unwrap();
                bed.disk.apply(&op);
                bed.store.op_done(id);
            }
            while !bed.is_choked() {
                bed.write(1);
                let_in += 1;
            }
        }
        assert!((8..32).contains(&let_in), "{let_in} MiB for about 16");
    }

    /// The most that is dirty, MiB, when a MiB is put again and again and the disk is slower.
    fn most_dirty(bed: &mut Bed, mut place: impl FnMut(u64) -> u64) -> u64 {
        let (mut puts, mut most, mut idle) = (0, 0, 0);
        while puts < 400 {
            if !bed.is_choked() {
                let at = place(puts);
                bed.put(at..at + 1);
                puts += 1;
                idle = 0;
            }
            most = most.max(bed.store.dirty_bytes() / MIB as u64);
            bed.policy.run(&mut bed.store, bed.now_ms, false);
            // An eighth as fast: two writes of 64 KiB for a MiB.
            for _ in 0..2 {
                let next = bed.policy.permits(&bed.store).then(|| bed.store.next_op());
                let Some((id, op)) = next.flatten() else { break };
                bed.disk.apply(&op);
                bed.store.op_done(id);
            }
            idle += 1;
            assert!(idle < 1000, "nothing goes on at {most} MiB");
        }
        most
    }

    #[test]
    fn dirty_pages_do_not_pile_up_when_the_disk_is_slower_than_who_writes() {
        let mut bed = Bed::new();
        let most = most_dirty(&mut bed, |puts| puts);
        assert!((64..76).contains(&most), "{most} MiB of new pages");
        bed.policy.demand();
        bed.now_ms += SPREAD_MS;
        bed.run(true);
        let most = most_dirty(&mut bed, |puts| puts * 7 % 400);
        assert!((136..148).contains(&most), "{most} MiB of pages that were written before");
    }

    #[test]
    fn what_is_read_already_is_taken_until_far_more_is_dirty() {
        let mut bed = Bed::new();
        let is_overrun = |bed: &Bed| bed.policy.is_overrun(&bed.store);
        bed.put(0..60);
        bed.policy.run(&mut bed.store, bed.now_ms, false);
        assert!(bed.store.checkpoint_running() && !bed.is_choked() && !is_overrun(&bed));
        bed.put(60..80);
        assert!(bed.is_choked() && !is_overrun(&bed));
        bed.put(80..104);
        assert!(bed.is_choked() && is_overrun(&bed));
        bed.policy.demand();
        bed.now_ms += SPREAD_MS;
        bed.run(true);
        bed.run(true);
        assert!(!bed.is_choked() && !is_overrun(&bed));
    }

    #[test]
    fn work_in_the_background_leaves_room_for_others() {
        let mut bed = Bed::new();
        bed.write(32);
        bed.policy.demand();
        bed.policy.run(&mut bed.store, 0, false);
        bed.write(62);
        assert!(has_room_for_background(&bed.store));
        bed.write(3);
        assert!(!has_room_for_background(&bed.store));
    }

    #[test]
    fn what_is_asked_for_during_a_checkpoint_that_finds_no_space_is_done_later() {
        let mut bed = Bed::new();
        bed.write(8);
        let first = bed.policy.demand();
        bed.policy.run(&mut bed.store, 0, true);
        let (id, op) = bed.store.next_op().unwrap();
        assert!(matches!(op, Op::Grow { .. }));
        let second = bed.policy.demand();
        bed.store.no_space(id);
        bed.policy.postponed(0);
        assert_eq!(bed.run(true), 0, "not at once again");
        bed.now_ms = RETRY_MS;
        bed.policy.hurry();
        bed.run(true);
        assert!(bed.policy.is_past(first) && bed.policy.is_past(second));
        assert_eq!(bed.store.durable_mark(), bed.mark);
    }

    #[test]
    fn a_checkpoint_for_which_the_file_is_long_enough_does_not_need_the_disk_to_have_more() {
        let mut bed = Bed::new();
        bed.write(8);
        bed.policy.hurry();
        bed.run(true);
        let file = bed.store.file_len();
        // Less than the reserve is left now, so more is asked for, and refused.
        let reserve = bed.store.reserve_bytes();
        while bed.store.extent_bytes() + reserve / 2 < file {
            bed.mark += 1;
            bed.store.put(Tree(0), &bed.mark.to_be_bytes(), &[7; 9000], false).unwrap();
        }
        bed.store.commit(bed.mark);
        bed.policy.demand();
        bed.policy.run(&mut bed.store, 0, true);
        let (id, op) = bed.store.next_op().unwrap();
        assert!(matches!(op, Op::Grow { .. }));
        bed.store.no_space(id);
        assert!(bed.store.is_short_of_space() && bed.store.checkpoint_running());
        bed.run(true);
        assert_eq!(bed.store.durable_mark(), bed.mark);
        assert_eq!(bed.store.file_len(), file);
    }
}
