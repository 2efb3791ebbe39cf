//! Making a commit durable.
//!
//! # The order of writes
//!
//! 0. Grow: the file is extended, and the extension synced. Left out: a meta could name pages that
//!    the file does not have, and reading them through the map would end the process. More than is
//!    needed is asked for, so that on a disk that gets full there is room left for what frees space.
//! 1. Dirty pages of the commit go to pages that no durable meta reaches (`Space`). Lost, torn,
//!    reordered: unreachable, harmless.
//! 2. Sync. Swapped with 3: a meta could name pages that never arrived.
//! 3. Meta, to slot `checkpoint_no % 2`, that of the checkpoint before the last. Torn: its checksum
//!    fails, and the last one stands.
//! 4. Sync. Until here the checkpoint may vanish as a whole; from here it may not. Now, and not
//!    before, it counts as durable: the pages that only the last one reached become free, and the
//!    log may be cut.
//! 5. Truncate, if the end of the file is free. Before 4: the last checkpoint might need what is
//!    cut off.
//!
//! The checkpoint does not stop the writer, which copies what the checkpoint has pinned. Pages of
//! it stay on the heap until their write is done, as the map shows old bytes before. No page has
//! two writes outstanding: a page is handed out for writing once per checkpoint, and cannot be
//! reused before the checkpoint is durable.

use super::Store;
use super::frames::FrameId;
use super::limits::{
    GROW_BYTES_MAX, GROW_BYTES_MIN, GROW_SHARE, PAGE_SIZE, WRITE_BYTES_IN_FLIGHT_MAX,
    WRITE_BYTES_MAX, WRITES_IN_FLIGHT_MAX,
};
use super::meta::Meta;
use super::node::Node;
use super::page::{KIND_INNER, KIND_LEAF, Page, PageId, TxnId, seal};
use super::run;
use crate::mutants::{self, Mutant};
use smallvec::SmallVec;
use std::ops::Range;

/// Names an operation handed out.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct OpId(pub u64);

/// What is to be done to the file. A failure of any ends the process, but for a `Grow` that meets a
/// full disk.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Op {
    /// Extend the file to `len` bytes with space of its own (fallocate), and sync it.
    Grow { len: u64 },
    /// Write. Several may be outstanding, to different pages.
    Write { offset: u64, data: Vec<u8> },
    /// Make all writes that are done durable.
    Sync,
    /// Cut the file to `len` bytes.
    Truncate { len: u64 },
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    Grow,
    Pages,
    SyncPages,
    Meta,
    SyncMeta,
    Truncate,
}

/// A checkpoint being made.
struct Running {
    checkpoint_no: u64,
    txn: TxnId,
    mark: u64,
    meta: Box<Page>,
    phase: Phase,
    /// Bytes that the file must have before the meta is written.
    needs_bytes: u64,
    /// Dirty pages below have been handed out.
    next_page: u32,
    /// The disk had no room for more than is needed, so no more is asked for.
    grown: bool,
    /// Dirty bytes at the beginning, and those of them handed out since.
    total_bytes: u64,
    handed_out_bytes: u64,
}

/// How far a checkpoint has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CheckpointProgress {
    /// Bytes of pages that have been handed out for writing, of about so many.
    pub handed_out_bytes: u64,
    pub total_bytes: u64,
    /// Its pages are being written, or will be. What follows, syncs and the meta, is not spread.
    pub writing: bool,
}

struct InFlight {
    id: OpId,
    kind: Kind,
    bytes: usize,
}

enum Kind {
    Grow {
        len: u64,
    },
    /// Frames, and how many pages of each.
    Pages(Vec<(FrameId, u32)>),
    SyncPages,
    Meta,
    SyncMeta,
    Truncate,
}

pub(super) struct Checkpoints {
    /// Of the last durable checkpoint.
    durable_no: u64,
    durable_mark: u64,
    running: Option<Running>,
    in_flight: SmallVec<[InFlight; WRITES_IN_FLIGHT_MAX]>,
    in_flight_bytes: usize,
    last_op: u64,
    /// The last growth met a full disk: the next one asks for no more than it needs.
    short_of_space: bool,
    /// [`GROW_BYTES_MIN`], but in tests of small stores.
    pub growth_bytes_min: u64,
}

impl Checkpoints {
    pub fn new(durable_no: u64, durable_mark: u64) -> Checkpoints {
        Checkpoints {
            durable_no,
            durable_mark,
            running: None,
            in_flight: SmallVec::new(),
            in_flight_bytes: 0,
            last_op: 0,
            short_of_space: false,
            growth_bytes_min: GROW_BYTES_MIN,
        }
    }

    /// Space beyond what is needed: growing and cutting in steps costs fewer syncs.
    fn slack(&self, needs_bytes: u64) -> u64 {
        let page = PAGE_SIZE as u64;
        (needs_bytes / GROW_SHARE).clamp(self.growth_bytes_min, GROW_BYTES_MAX) / page * page
    }

    /// The part of the slack that a checkpoint leaves, if the disk has it: what deletions and
    /// compactions write to when the disk is full, until a checkpoint has freed what they give up.
    fn reserve(&self, needs_bytes: u64) -> u64 {
        let page = PAGE_SIZE as u64;
        self.slack(needs_bytes) / 2 / page * page
    }

    pub fn durable_no(&self) -> u64 {
        self.durable_no
    }

    fn hand_out(&mut self, kind: Kind, op: Op) -> Option<(OpId, Op)> {
        self.last_op += 1;
        let id = OpId(self.last_op);
        let bytes = if let Op::Write { data, .. } = &op { data.len() } else { 0 };
        self.in_flight_bytes += bytes;
        self.in_flight.push(InFlight { id, kind, bytes });
        Some((id, op))
    }
}

impl Store {
    /// Mark of the last durable checkpoint: what a crash goes back to.
    pub fn durable_mark(&self) -> u64 {
        self.checkpoints.durable_mark
    }

    /// Whether all that was committed is durable. The mark does not tell: work in the background
    /// commits under the mark of the commit before.
    pub fn is_durable(&self) -> bool {
        self.committed.txn <= self.space.durable_txn()
    }

    pub fn checkpoint_running(&self) -> bool {
        self.checkpoints.running.is_some()
    }

    pub fn checkpoint_progress(&self) -> Option<CheckpointProgress> {
        self.checkpoints.running.as_ref().map(|running| CheckpointProgress {
            handed_out_bytes: running.handed_out_bytes,
            total_bytes: running.total_bytes,
            writing: matches!(running.phase, Phase::Grow | Phase::Pages),
        })
    }

    /// Bytes that a checkpoint leaves behind the last page in use, if the disk has them.
    pub fn reserve_bytes(&self) -> u64 {
        self.checkpoints.reserve(self.extent_bytes())
    }

    /// The last attempt to let the file grow met a full disk, and the reserve has not come back since.
    pub fn is_short_of_space(&self) -> bool {
        self.checkpoints.short_of_space
    }

    /// Begins to make the last commit durable. False if there is nothing to do: a checkpoint is
    /// running, a transaction has changes that are not committed, or nothing has been committed
    /// since the last one.
    pub fn begin_checkpoint(&mut self) -> bool {
        if self.checkpoint_running() || self.uncommitted || self.is_durable() {
            return false;
        }
        self.space.drop_readers(&mut self.pages);
        self.space.shrink();
        self.space.pin_checkpoint();
        self.rewritten_pages = 0;
        self.pages.expect_dirty(self.pages.dirty_pages());
        let (space_pages, space_checksum) = self.space.make_space_pages(&mut self.pages);
        let meta = Meta {
            checkpoint_no: self.checkpoints.durable_no + 1,
            txn: self.committed.txn,
            store_id: self.store_id,
            mark: self.committed.mark,
            page_count: self.space.page_count(),
            space_checksum,
            roots: self.committed.roots,
            space_pages,
        };
        self.checkpoints.running = Some(Running {
            checkpoint_no: meta.checkpoint_no,
            txn: meta.txn,
            mark: meta.mark,
            meta: Box::new(meta.encode()),
            phase: Phase::Grow,
            needs_bytes: bytes_of(meta.page_count),
            next_page: 0,
            grown: false,
            total_bytes: self.dirty_bytes(),
            handed_out_bytes: 0,
        });
        true
    }

    /// The next thing to do to the file; none while there is nothing, or before something
    /// outstanding is done.
    pub fn next_op(&mut self) -> Option<(OpId, Op)> {
        loop {
            let file_len = self.file_len();
            let running = self.checkpoints.running.as_mut()?;
            let idle = self.checkpoints.in_flight.is_empty();
            match running.phase {
                Phase::Grow
                    if (running.grown && running.needs_bytes <= file_len)
                        || mutants::is_on(Mutant::WriteWithoutGrowth) =>
                {
                    running.phase = Phase::Pages;
                }
                Phase::Pages => {
                    if self.checkpoints.in_flight.len() >= WRITES_IN_FLIGHT_MAX
                        || self.checkpoints.in_flight_bytes >= WRITE_BYTES_IN_FLIGHT_MAX
                    {
                        return None;
                    }
                    if let Some(op) = self.next_write() {
                        return Some(op);
                    }
                    if !idle {
                        return None;
                    }
                    let unsynced = mutants::is_on(Mutant::MetaBeforePages);
                    self.set_phase(if unsynced { Phase::Meta } else { Phase::SyncPages });
                }
                _ if !idle => return None,
                Phase::Grow => {
                    let needs = running.needs_bytes;
                    let checkpoints = &self.checkpoints;
                    let short = checkpoints.short_of_space;
                    let slack = if short && needs > file_len {
                        0
                    } else if short {
                        checkpoints.reserve(needs)
                    } else {
                        checkpoints.slack(needs)
                    };
                    let enough = needs + slack.min(checkpoints.reserve(needs));
                    let most = self.reserved_bytes();
                    if enough.min(most) <= file_len {
                        // The reserve is there, however it came about.
                        self.checkpoints.short_of_space = false;
                        self.set_grown();
                        continue;
                    }
                    let len = (needs + slack).min(most).max(needs);
                    return self.checkpoints.hand_out(Kind::Grow { len }, Op::Grow { len });
                }
                Phase::SyncPages => return self.checkpoints.hand_out(Kind::SyncPages, Op::Sync),
                Phase::Meta => {
                    let offset = PageId((running.checkpoint_no % 2) as u32).offset();
                    let data = running.meta.0.to_vec();
                    return self.checkpoints.hand_out(Kind::Meta, Op::Write { offset, data });
                }
                Phase::SyncMeta => return self.checkpoints.hand_out(Kind::SyncMeta, Op::Sync),
                Phase::Truncate => match self.length_to_cut_to() {
                    Some(len) => {
                        // From here on nothing is read beyond.
                        self.pages.set_file_pages((len / PAGE_SIZE as u64) as u32);
                        return self.checkpoints.hand_out(Kind::Truncate, Op::Truncate { len });
                    }
                    None => {
                        self.checkpoints.running = None;
                        return None;
                    }
                },
            }
        }
    }

    /// An operation has been done.
    ///
    /// # Panics
    /// If it is not outstanding.
    pub fn op_done(&mut self, id: OpId) {
        match self.take_in_flight(id) {
            Kind::Grow { len } => {
                self.pages.set_file_pages((len / PAGE_SIZE as u64) as u32);
                self.checkpoints.short_of_space = false;
                self.set_grown();
            }
            Kind::Pages(frames) => {
                for (id, count) in frames {
                    let frame = self.pages.frame_mut(id);
                    frame.in_flight -= count;
                    if frame.in_flight == 0 && frame.unwritten == 0 {
                        self.pages.drop_frame(id, true);
                    }
                }
            }
            Kind::SyncPages => self.set_phase(Phase::Meta),
            Kind::Meta => self.set_phase(Phase::SyncMeta),
            Kind::SyncMeta => {
                let running = self.checkpoints.running.as_mut().expect("a checkpoint is running");
                running.phase = Phase::Truncate;
                self.checkpoints.durable_no = running.checkpoint_no;
                self.checkpoints.durable_mark = running.mark;
                self.checkpoints.short_of_space = false;
                self.space.checkpoint_durable(&mut self.pages);
                if self.pages.dirty_pages() == 0 {
                    self.pages.expect_dirty(0);
                }
                if self.length_to_cut_to().is_none() {
                    self.checkpoints.running = None;
                }
            }
            Kind::Truncate => self.checkpoints.running = None,
        }
    }

    /// A `Grow` has met a full disk. The checkpoint goes on if the file is long enough for it, else
    /// it is given up; the next one tries again.
    ///
    /// # Panics
    /// If the operation is not outstanding, or not a `Grow`.
    pub fn no_space(&mut self, id: OpId) {
        let kind = self.take_in_flight(id);
        assert!(matches!(kind, Kind::Grow { .. }), "only growing may meet a full disk");
        self.checkpoints.short_of_space = true;
        let file_len = self.file_len();
        if self.checkpoints.running.as_ref().is_some_and(|run| run.needs_bytes <= file_len) {
            return self.set_grown();
        }
        self.checkpoints.running = None;
        self.space.checkpoint_abandoned(&mut self.pages);
    }

    fn take_in_flight(&mut self, id: OpId) -> Kind {
        let in_flight = &mut self.checkpoints.in_flight;
        let index =
            in_flight.iter().position(|op| op.id == id).expect("an operation not handed out");
        let done = in_flight.swap_remove(index);
        self.checkpoints.in_flight_bytes -= done.bytes;
        done.kind
    }

    fn set_grown(&mut self) {
        if let Some(running) = &mut self.checkpoints.running {
            running.grown = true;
        }
    }

    fn set_phase(&mut self, phase: Phase) {
        if let Some(running) = &mut self.checkpoints.running {
            running.phase = phase;
        }
    }

    fn reserved_bytes(&self) -> u64 {
        self.pages.reserved_pages() as u64 * PAGE_SIZE as u64
    }

    /// The next pages of the checkpoint, as many neighbours in one write as there are.
    fn next_write(&mut self) -> Option<(OpId, Op)> {
        let running = self.checkpoints.running.as_mut()?;
        let seed = self.pages.seed();
        let mut frames = Vec::new();
        let mut data: Vec<u8> = Vec::new();
        let mut offset = 0;
        while data.len() < WRITE_BYTES_MAX {
            let Some(first) = self.pages.next_dirty(running.next_page) else { break };
            let Some(id) = self.pages.frame_of(first) else { break };
            let frame = self.pages.frame(id);
            let all = frame.pages;
            if frame.allocated > running.txn || frame.freed <= running.txn {
                // Not of this checkpoint: younger, or freed before it and kept for a reader.
                running.next_page = first.0 + 1;
                continue;
            }
            let begun = all - frame.unwritten;
            let start = PageId(first.0 + begun).offset();
            if data.is_empty() {
                offset = start;
            } else if start != offset + data.len() as u64 {
                break;
            }
            let room = (WRITE_BYTES_MAX - data.len()) / PAGE_SIZE;
            let count = frame.unwritten.min(room as u32);
            let pages = &self.pages.dirty_run(id)[begun as usize..(begun + count) as usize];
            data.extend_from_slice(run::bytes(pages));
            if all == 1 {
                // What has not been written to is zero in the file, not what was in that memory before.
                let gap = gap_of(self.pages.dirty(id));
                let at = data.len() - PAGE_SIZE;
                data[at + gap.start..at + gap.end].fill(0);
                seal(seed, &mut data[at..]);
            }
            let frame = self.pages.frame_mut(id);
            frame.unwritten -= count;
            frame.in_flight += count;
            if frame.unwritten == 0 {
                running.next_page = first.0 + all;
            }
            frames.push((id, count));
        }
        if data.is_empty() {
            return None;
        }
        running.handed_out_bytes += data.len() as u64;
        self.checkpoints.hand_out(Kind::Pages(frames), Op::Write { offset, data })
    }

    /// The length that the file should be cut to, if it is worth it. All that the durable
    /// checkpoint and the current state need stays.
    fn length_to_cut_to(&self) -> Option<u64> {
        let needs = self.extent_bytes();
        let slack = self.checkpoints.slack(needs);
        (self.file_len() > needs + 2 * slack).then_some(needs + slack)
    }
}

/// The bytes of a node between its slots and its cells.
fn gap_of(page: &Page) -> Range<usize> {
    match page.kind() {
        KIND_LEAF | KIND_INNER => {
            let node = Node(page);
            node.heap() - node.gap()..node.heap()
        }
        _ => 0..0,
    }
}

fn bytes_of(pages: u32) -> u64 {
    PageId(pages).offset()
}
