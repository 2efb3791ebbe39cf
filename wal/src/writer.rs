//! Group commit as a state machine: records in, operations out.
//!
//! Records collect in a batch. When no write is in flight, [`Writer::next_op`] hands out the oldest batch
//! as one write; what arrives meanwhile becomes the next batch. The order that makes it safe:
//!
//! 1. What a torn batch left is zeroed.       Skipped: its sectors would mix with those of a later batch,
//!    and that batch, torn, would look rotten.
//! 2. A segment is created, durable under its name: zero all over, or the file of a segment that has gone,
//!    durably, before.   Skipped: what was there could not be told from what is written, and a batch could be
//!    durable in a file that is not.
//! 3. One batch is written and synced.        Two at once: the later one could survive without the earlier.
//! 4. Its records are durable: `op_done` says so.
//! 5. Segments whose records are all released go, the oldest first, once the newest segment holds a
//!    durable batch, and with it the preamble.    Earlier: the preamble could be lost.

use std::collections::VecDeque;

use crate::{
    batch::record_bytes,
    buffer::{AlignedBuf, Blocks},
    collecting::{Collecting, Preambles, Seal},
    limits::{
        BLOCK_BYTES, Options, POOLED_BUFFERS_MAX, PREAMBLE_BYTES_MAX, PREAMBLES_MAX,
        RECORD_BYTES_MAX, SEQUENCE_MAX, WIPE_BYTES,
    },
    mutants::{self, Mutant},
    recovery::{Recovered, Torn},
    segment::{BatchSeq, SegmentId, SegmentInfo},
};

/// Names an operation until it is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OpId(pub u64);

/// What the caller carries out. Any that fails ends the process, a [`Op::Create`] for want of space aside.
#[derive(Clone, Debug)]
pub enum Op {
    /// Make a file of so many zeros under another name, all of them written and not only reserved; sync
    /// it; rename it; sync the directory. Or, in place of zeros, take a file of this length that was a
    /// segment of this log and whose [`Op::Remove`] is done.
    Create { segment: SegmentId, bytes: u64 },
    /// Write, durably. `offset` and length are multiples of 4096.
    Write { segment: SegmentId, offset: u64, data: AlignedBuf },
    /// Remove the file, or keep it under a name that is not a segment's; sync the directory.
    Remove { segment: SegmentId },
}

pub struct Writer {
    options: Options,

    /// Batches not handed out yet, oldest first. The last one may take more records.
    queue: VecDeque<Collecting>,
    /// As of the newest batch handed out, or as set before the first in the queue.
    preambles: Preambles,
    /// Of the newest batch there is.
    newest: BatchSeq,
    /// `durable <= handed_out <= newest`, and `handed_out <= durable + 1`.
    handed_out: BatchSeq,
    durable: BatchSeq,
    /// Of the newest batch handed out.
    link: u32,

    /// Segments that hold batches, oldest first. The last one is written to, at `tail`.
    segments: VecDeque<SegmentInfo>,
    tail: u64,
    /// The last segment holds a durable batch.
    tail_is_durable: bool,
    /// Blank segments behind them: id and length.
    blank: VecDeque<(SegmentId, u64)>,
    /// What is left to be zeroed.
    torn: Option<Torn>,
    /// Records below this index are not needed.
    released: u64,

    last_op: OpId,
    write: Option<(OpId, InFlight)>,
    create: Option<(OpId, SegmentId, u64)>,
    remove: Option<(OpId, SegmentId)>,
    /// The last creation met a full disk.
    short_of_space: bool,
    /// No creation is tried until something has changed.
    creation_rests: bool,
    pool: Vec<Blocks>,
}

enum InFlight {
    Batch(AlignedBuf),
    Wipe(u64),
}

/// Where the oldest batch of the queue can go.
enum Place {
    Tail,
    Blank,
    /// Nowhere yet: it needs a segment of so many bytes.
    Wait(u64),
}

impl Writer {
    pub fn new(options: Options, recovered: Recovered) -> Writer {
        Writer {
            options,
            queue: VecDeque::new(),
            preambles: Preambles::default(),
            newest: recovered.last,
            handed_out: recovered.last,
            durable: recovered.last,
            link: recovered.link,
            tail_is_durable: !recovered.segments.is_empty(),
            segments: recovered.segments.into(),
            tail: recovered.tail,
            blank: recovered.blank.into(),
            torn: recovered
                .torn
                .filter(|torn| torn.bytes > 0 && !mutants::is_on(Mutant::TornStays)),
            released: 0,
            last_op: OpId(0),
            write: None,
            create: None,
            remove: None,
            short_of_space: false,
            creation_rests: false,
            pool: Vec::new(),
        }
    }

    /// Adds a record, whose data is the concatenation of `parts`, and returns the batch it is part of.
    /// A record of index 0 never keeps a segment from being removed.
    ///
    /// # Panics
    /// If the data is longer than [`RECORD_BYTES_MAX`].
    pub fn append(&mut self, kind: u8, index: u64, parts: &[&[u8]]) -> BatchSeq {
        let data_bytes: usize = parts.iter().map(|part| part.len()).sum();
        assert!(data_bytes <= RECORD_BYTES_MAX, "a record of {data_bytes} bytes");
        let body_bytes_max = self.batch_bytes();
        let is_open = self
            .queue
            .back()
            .is_some_and(|batch| batch.body_bytes() + record_bytes(data_bytes) <= body_bytes_max);
        if !is_open {
            assert!(self.newest.0 < SEQUENCE_MAX);
            self.newest = self.newest.next();
            let blocks = self.take_blocks();
            self.queue.push_back(Collecting::new(self.newest, blocks));
        }
        if let Some(batch) = self.queue.back_mut() {
            batch.push_record(kind, index, parts, data_bytes as u32);
        }
        self.newest
    }

    /// Sets the record of this kind that opens every new segment, from the batch that collects now on.
    /// To be called after [`Writer::append`] for the same state, so that both are of one batch, and after
    /// a start for everything that the log shall go on to repeat.
    ///
    /// # Panics
    /// If the data is longer than [`PREAMBLE_BYTES_MAX`], or for more than [`PREAMBLES_MAX`] kinds.
    pub fn set_preamble(&mut self, kind: u8, index: u64, data: &[u8]) {
        assert!(data.len() <= PREAMBLE_BYTES_MAX, "a preamble of {} bytes", data.len());
        let preambles = match self.queue.back_mut() {
            Some(batch) => &mut batch.preambles,
            None => &mut self.preambles,
        };
        preambles.set(kind, index, data);
        assert!(preambles.len() <= PREAMBLES_MAX);
    }

    /// Records with a lower index are no longer needed. Never goes back.
    pub fn release(&mut self, index: u64) {
        self.released = self.released.max(index);
    }

    /// The next thing to do. At most one write, one creation and one removal are out at the same time.
    pub fn next_op(&mut self) -> Option<(OpId, Op)> {
        self.next_write().or_else(|| self.next_remove()).or_else(|| self.next_create())
    }

    /// An operation is done, and durable. After the write of a batch: the newest durable batch.
    pub fn op_done(&mut self, op: OpId) -> Option<BatchSeq> {
        if let Some((_, write)) = self.write.take_if(|(id, _)| *id == op) {
            return self.write_done(write);
        }
        if let Some((_, segment, bytes)) = self.create.take_if(|(id, ..)| *id == op) {
            assert!(segment == self.next_segment());
            self.blank.push_back((segment, bytes));
            self.short_of_space = false;
        } else {
            let removed = self.remove.take_if(|(id, _)| *id == op);
            assert!(removed.is_some(), "{op:?} is not out");
            self.creation_rests = false;
        }
        None
    }

    /// A creation met a full disk, and nothing is left of it. It is tried again after
    /// [`Writer::retry_space`], and when a segment has been removed.
    pub fn no_space(&mut self, op: OpId) {
        let created = self.create.take_if(|(id, ..)| *id == op);
        assert!(created.is_some(), "{op:?} is not a creation");
        self.short_of_space = true;
        self.creation_rests = true;
    }

    /// There may be space again.
    pub fn retry_space(&mut self) {
        self.creation_rests = false;
    }

    /// The last creation met a full disk. Batches are written as long as they fit: [`Writer::room_bytes`].
    pub fn is_short_of_space(&self) -> bool {
        self.short_of_space
    }

    /// Bytes that can be written without another segment.
    pub fn room_bytes(&self) -> u64 {
        let tail = self.segments.back().map_or(0, |last| last.bytes - self.tail);
        tail + self.blank.iter().map(|&(_, bytes)| bytes).sum::<u64>()
    }

    /// Bytes of records that are not durable yet.
    pub fn pending_bytes(&self) -> usize {
        let queued: usize = self.queue.iter().map(Collecting::body_bytes).sum();
        let written = match &self.write {
            Some((_, InFlight::Batch(data))) => data.len(),
            _ => 0,
        };
        queued + written
    }

    /// The newest durable batch.
    pub fn durable(&self) -> BatchSeq {
        self.durable
    }

    /// The segments that hold batches, oldest first.
    pub fn segments(&self) -> impl Iterator<Item = &SegmentInfo> {
        self.segments.iter()
    }

    fn next_write(&mut self) -> Option<(OpId, Op)> {
        if self.write.is_some() {
            return None;
        }
        if let Some(torn) = self.torn {
            let bytes = torn.bytes.min(WIPE_BYTES);
            let data = AlignedBuf::new(Blocks::new(bytes as usize), bytes as usize);
            let id = self.new_op();
            self.write = Some((id, InFlight::Wipe(bytes)));
            return Some((id, Op::Write { segment: torn.segment, offset: torn.offset, data }));
        }
        // It is the next to be handed out, so what it sets holds from now on.
        self.preambles.absorb(&mut self.queue.front_mut()?.preambles);
        let place = self.place_of_front()?;
        if let Place::Wait(_) = place {
            return None;
        }
        let mut batch = self.queue.pop_front()?;
        if let Place::Blank = place {
            let (segment, bytes) = self.blank.pop_front()?;
            self.segments.push_back(SegmentInfo { segment, bytes, index_max: 0 });
            self.tail = 0;
            self.tail_is_durable = false;
            let blocks = self.take_blocks();
            let (whole, left) = batch.behind(&self.preambles, blocks);
            self.give_back(left);
            batch = whole;
        }
        let sequence = batch.sequence;
        assert!(self.handed_out == self.durable && sequence == self.durable.next());
        let last = self.segments.back_mut()?;
        last.index_max = last.index_max.max(batch.index_max);
        let segment_blocks = last.bytes / BLOCK_BYTES as u64;
        let (data, link) = batch.seal(Seal {
            segment: last.segment,
            segment_blocks: u32::try_from(segment_blocks).expect("a segment is below 16 TiB"),
            durable: self.durable,
            link: self.link,
        });
        let (segment, offset) = (last.segment, self.tail);
        self.tail += data.len() as u64;
        assert!(self.tail <= last.bytes, "a batch never spans segments");
        self.link = link;
        self.handed_out = sequence;
        let id = self.new_op();
        self.write = Some((id, InFlight::Batch(data.clone())));
        Some((id, Op::Write { segment, offset, data }))
    }

    fn write_done(&mut self, write: InFlight) -> Option<BatchSeq> {
        match write {
            InFlight::Wipe(bytes) => {
                self.torn = self.torn.and_then(|torn| {
                    let left = torn.bytes - bytes;
                    (left > 0).then_some(Torn { offset: torn.offset + bytes, bytes: left, ..torn })
                });
                None
            }
            InFlight::Batch(data) => {
                self.durable = self.handed_out;
                self.tail_is_durable = true;
                if let Some(blocks) = data.reclaim() {
                    self.give_back(blocks);
                }
                Some(self.durable)
            }
        }
    }

    fn next_remove(&mut self) -> Option<(OpId, Op)> {
        if self.remove.is_some() {
            return None;
        }
        let segment = if self.has_useless_blank() {
            self.blank.pop_back()?.0
        } else {
            let oldest = self.segments.front()?;
            let is_past = self.segments.len() > 1 && self.tail_is_durable;
            let too_many = u64::from(mutants::is_on(Mutant::RemoveOneTooMany));
            if !is_past || oldest.index_max >= self.released + too_many {
                return None;
            }
            self.segments.pop_front()?.segment
        };
        let id = self.new_op();
        self.remove = Some((id, segment));
        Some((id, Op::Remove { segment }))
    }

    fn next_create(&mut self) -> Option<(OpId, Op)> {
        if self.create.is_some() || self.creation_rests || !self.blank.is_empty() {
            return None;
        }
        let waiting_bytes = match self.place_of_front() {
            Some(Place::Wait(bytes)) => bytes,
            _ => 0,
        };
        let is_half_full = self.segments.back().is_none_or(|last| self.tail >= last.bytes / 2);
        let segment = self.next_segment();
        let is_still_there = self.remove.is_some_and(|(_, removed)| removed >= segment);
        if (waiting_bytes == 0 && !is_half_full) || is_still_there {
            return None;
        }
        let bytes = self.options.segment_bytes().max(waiting_bytes);
        let id = self.new_op();
        self.create = Some((id, segment, bytes));
        Some((id, Op::Create { segment, bytes }))
    }

    /// Where the oldest batch can go. `None` if there is none.
    fn place_of_front(&self) -> Option<Place> {
        let batch = self.queue.front()?;
        let fits_tail = self
            .segments
            .back()
            .is_some_and(|last| self.tail + batch.extent_bytes() as u64 <= last.bytes);
        if fits_tail {
            return Some(Place::Tail);
        }
        let bytes = batch.extent_bytes_with(&self.preambles) as u64;
        match self.blank.front() {
            Some(&(_, blank)) if bytes <= blank => Some(Place::Blank),
            _ => Some(Place::Wait(bytes)),
        }
    }

    /// A blank segment is too small for the batch that waits for one. Those behind it are in the way, too:
    /// the newest goes first, and a larger one takes its number.
    fn has_useless_blank(&self) -> bool {
        self.torn.is_none()
            && self.write.is_none()
            && !self.blank.is_empty()
            && matches!(self.place_of_front(), Some(Place::Wait(_)))
    }

    fn next_segment(&self) -> SegmentId {
        let last_used = self.segments.back().map(|last| last.segment);
        let last = self.blank.back().map(|&(segment, _)| segment).or(last_used);
        last.map_or(SegmentId::FIRST, SegmentId::next)
    }

    /// Batches stay small beside a segment, so that little of it is lost at its end.
    fn batch_bytes(&self) -> usize {
        self.options.batch_bytes.min(self.options.segment_bytes() as usize / 4)
    }

    fn take_blocks(&mut self) -> Blocks {
        self.pool.pop().unwrap_or_else(|| Blocks::new(BLOCK_BYTES))
    }

    /// Keeps memory for later batches, but not that of an uncommonly large one.
    fn give_back(&mut self, blocks: Blocks) {
        if self.pool.len() < POOLED_BUFFERS_MAX && blocks.len() <= 4 * self.batch_bytes() {
            self.pool.push(blocks);
        }
    }

    fn new_op(&mut self) -> OpId {
        self.last_op.0 += 1;
        self.last_op
    }
}
