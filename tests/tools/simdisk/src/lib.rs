//! The simulated disk of all tests: of the log, of the store, of a member with both, of clusters.
//!
//! It knows files of bytes, by number. What it is told to do is *started*, and *completed* when the
//! test says so, in any order; a write shows in what the process reads from its start on, in parts.
//! At a [`Disk::crash`] the power goes: what was not synced is lost, kept, torn or reordered, as
//! [`Loss`] says. At a [`Disk::restart`] only the process ends. The N-th operation can be made to
//! [fail](Disk::fail), or to meet a [full disk](Disk::fill), once or for ever; bits can be
//! [flipped](Disk::flip).
//!
//! What it takes for granted is the list "What is assumed of the medium" in `docs/FORMAT.md`. It
//! deliberately does not know what the bytes mean, and holds no random numbers of its own: `below`,
//! which gives a number below its argument, is the test's.
//!
//! It has teeth: a write beyond the end of its file, two unfinished writes to the same bytes, and a
//! sync, growth or cut beside an unfinished operation on the same file are panics, since a program
//! that does any of these counts on an order that no disk promises.

use std::collections::BTreeMap;
use std::rc::Rc;

mod happen;

pub use happen::Loss;

pub const SECTOR: usize = 512;

/// The caller's number of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileId(pub u64);

/// The caller's name of an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Token(pub u64);

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// A file of zeros, or one of [`Disk::spares_max`] that was removed before and has this length.
    /// There as a whole and durably when it is done; before, there or not.
    Create { file: FileId, bytes: u64 },
    /// Durable when it is done; before, done or not.
    Remove { file: FileId },
    /// `durable`: as with O_DSYNC, when it is done; else after the next sync.
    Write { file: FileId, offset: u64, data: Vec<u8>, durable: bool },
    /// Makes the writes and cuts that are done durable.
    Sync { file: FileId },
    /// Zeros at the end; durable when it is done.
    Grow { file: FileId, bytes: u64 },
    /// Durable after the next sync.
    Truncate { file: FileId, bytes: u64 },
}

impl Op {
    pub fn file(&self) -> FileId {
        match *self {
            Op::Create { file, .. }
            | Op::Remove { file }
            | Op::Write { file, .. }
            | Op::Sync { file }
            | Op::Grow { file, .. }
            | Op::Truncate { file, .. } => file,
        }
    }

    fn needs_space(&self) -> bool {
        matches!(self, Op::Create { .. } | Op::Grow { .. })
    }
}

/// How an operation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Done,
    /// A `Create` or `Grow` found the disk full; nothing has changed.
    NoSpace,
    /// Something else was wrong; it happened in part, or not at all, or as a whole. After a sync
    /// that failed, what it should have made durable may show and never be.
    Failed,
}

/// Which operations a fault hits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Operations are counted from 1 as they are started.
    pub at: u64,
    pub for_ever: bool,
}

impl Fault {
    /// `already`: it has hit before.
    fn hits(&self, nth: u64, already: bool) -> bool {
        nth >= self.at && (self.for_ever || !already)
    }
}

/// Sees each change of what the process reads of a file: offset, bytes.
pub type Mirror = Rc<dyn Fn(u64, &[u8])>;

#[derive(Clone, Default)]
struct File {
    /// What the process reads.
    seen: Vec<u8>,
    /// What a crash certainly leaves.
    durable: Vec<u8>,
    /// Writes done and not synced, oldest first.
    unsynced: Vec<(u64, Vec<u8>)>,
    /// A cut done and not synced.
    cut: Option<u64>,
    mirror: Option<Mirror>,
}

impl File {
    fn of(content: Vec<u8>) -> File {
        File { seen: content.clone(), durable: content, ..File::default() }
    }

    fn show(&mut self, offset: u64, data: &[u8]) {
        let at = offset as usize;
        self.seen[at..at + data.len()].copy_from_slice(data);
        if let Some(mirror) = &self.mirror {
            mirror(offset, data);
        }
    }

    fn settle(&mut self) {
        for (offset, data) in self.unsynced.drain(..) {
            let at = offset as usize;
            self.durable[at..at + data.len()].copy_from_slice(&data);
        }
        if let Some(bytes) = self.cut.take() {
            self.durable.truncate(bytes as usize);
        }
    }
}

struct Outstanding {
    token: Token,
    nth: u64,
    op: Op,
}

impl Clone for Outstanding {
    fn clone(&self) -> Outstanding {
        Outstanding { token: self.token, nth: self.nth, op: self.op.clone() }
    }
}

/// Cloning it gives the same disk once more; a mirror then sees the changes of both.
#[derive(Clone, Default)]
pub struct Disk {
    files: BTreeMap<FileId, File>,
    outstanding: Vec<Outstanding>,
    started: u64,
    completed: u64,
    /// Bytes for all files together, if they are limited.
    pub space: Option<u64>,
    /// So many files that are removed are kept, with what is in them, for files to be created.
    pub spares_max: usize,
    spares: Vec<Vec<u8>>,
    recycled: u64,
    failure: Option<Fault>,
    failures: u64,
    shortage: Option<Fault>,
    shortages: u64,
}

impl Disk {
    /// A file that is there, durably, with this content.
    pub fn insert(&mut self, file: FileId, content: Vec<u8>) {
        self.files.insert(file, File::of(content));
    }

    /// Takes a file away, durably.
    pub fn take(&mut self, file: FileId) -> Option<Vec<u8>> {
        self.files.remove(&file).map(|file| file.durable)
    }

    /// From now on `mirror` is told what the process would read from the file; first all of it.
    pub fn mirror(&mut self, file: FileId, mirror: Mirror) {
        let file = self.files.get_mut(&file).expect("the file is there");
        mirror(0, &file.seen);
        file.mirror = Some(mirror);
    }

    pub fn files(&self) -> impl Iterator<Item = FileId> {
        self.files.keys().copied()
    }

    pub fn has(&self, file: FileId) -> bool {
        self.files.contains_key(&file)
    }

    /// What the process reads.
    pub fn read(&self, file: FileId) -> &[u8] {
        &self.files[&file].seen
    }

    /// What a crash now would certainly leave.
    pub fn durable(&self, file: FileId) -> &[u8] {
        &self.files[&file].durable
    }

    /// Changes a file behind everybody's back.
    pub fn spoil(&mut self, file: FileId, spoil: impl FnOnce(&mut Vec<u8>)) {
        let file = self.files.get_mut(&file).expect("the file is there");
        spoil(&mut file.durable);
        file.seen.clone_from(&file.durable);
        if let Some(mirror) = &file.mirror {
            mirror(0, &file.seen);
        }
    }

    /// Flips one bit, counted from the start of the file.
    pub fn flip(&mut self, file: FileId, bit: u64) {
        let file = self.files.get_mut(&file).expect("the file is there");
        let (byte, mask) = ((bit / 8) as usize, 1 << (bit % 8));
        file.durable[byte] ^= mask;
        let seen = file.seen[byte] ^ mask;
        file.show(bit / 8, &[seen]);
    }

    /// Files that were created out of ones that had been removed.
    pub fn recycled(&self) -> u64 {
        self.recycled
    }

    /// Operations of all kinds started so far.
    pub fn started(&self) -> u64 {
        self.started
    }

    /// Operations started plus operations completed: after each of them a crash finds something
    /// else.
    pub fn events(&self) -> u64 {
        self.started + self.completed
    }

    /// The operations `fault` says fail.
    pub fn fail(&mut self, fault: Option<Fault>) {
        (self.failure, self.failures) = (fault, 0);
    }

    /// The creations and growths `fault` says meet a full disk.
    pub fn fill(&mut self, fault: Option<Fault>) {
        (self.shortage, self.shortages) = (fault, 0);
    }

    /// Operations that have failed since [`Disk::fail`], and that met a full disk since
    /// [`Disk::fill`].
    pub fn faults(&self) -> (u64, u64) {
        (self.failures, self.shortages)
    }

    /// The operations started and not completed, oldest first.
    pub fn outstanding(&self) -> impl ExactSizeIterator<Item = (Token, &Op)> {
        self.outstanding.iter().map(|outstanding| (outstanding.token, &outstanding.op))
    }

    pub fn is_idle(&self) -> bool {
        self.outstanding.is_empty()
    }

    /// Begins an operation.
    pub fn start(&mut self, token: Token, op: Op, below: &mut dyn FnMut(u64) -> u64) {
        self.started += 1;
        let beside = self.outstanding.iter().filter(|other| other.op.file() == op.file());
        match &op {
            Op::Write { file, offset, data, .. } => {
                for other in beside {
                    let Op::Write { offset: at, data: bytes, .. } = &other.op else {
                        panic!("{op:?} beside {:?}", other.op);
                    };
                    let (end, other_end) = (offset + data.len() as u64, at + bytes.len() as u64);
                    assert!(other_end <= *offset || end <= *at, "two writes to the same bytes");
                }
                let file = self.files.get_mut(file).expect("a write to a file that is there");
                let end = offset + data.len() as u64;
                assert!(end <= file.seen.len() as u64, "a write beyond the end of its file");
                let shown = below((data.len() / SECTOR) as u64 + 1) as usize * SECTOR;
                file.show(*offset, &data[..shown]);
            }
            Op::Truncate { file, bytes } => {
                assert_eq!(beside.count(), 0, "{op:?} beside another operation");
                let file = self.files.get_mut(file).expect("the file is there");
                let len = file.seen.len() as u64;
                assert!(*bytes < len, "a cut that makes the file longer");
                // What is read there from here on is not what was there.
                file.show(*bytes, &vec![0xee; (len - bytes) as usize]);
            }
            Op::Create { .. } | Op::Remove { .. } | Op::Sync { .. } | Op::Grow { .. } => {
                assert_eq!(beside.count(), 0, "{op:?} beside another operation");
            }
        }
        self.outstanding.push(Outstanding { token, nth: self.started, op });
    }

    /// Ends one of the outstanding operations.
    pub fn complete(
        &mut self,
        nth: usize,
        below: &mut dyn FnMut(u64) -> u64,
    ) -> (Token, Op, Outcome) {
        self.completed += 1;
        let Outstanding { token, nth, op } = self.outstanding.remove(nth);
        let outcome = if op.needs_space() && self.is_full_for(nth, &op) {
            self.shortages += 1;
            Outcome::NoSpace
        } else if self.failure.is_some_and(|fault| fault.hits(nth, self.failures > 0)) {
            self.failures += 1;
            self.happen_in_part(&op, below);
            Outcome::Failed
        } else {
            self.happen(&op);
            Outcome::Done
        };
        (token, op, outcome)
    }

    fn spare(&self, bytes: u64) -> Option<usize> {
        self.spares.iter().position(|spare| spare.len() as u64 == bytes)
    }

    fn is_full_for(&self, nth: u64, op: &Op) -> bool {
        let spare: u64 = self.spares.iter().map(|spare| spare.len() as u64).sum();
        let used = spare + self.files.values().map(|file| file.seen.len() as u64).sum::<u64>();
        let more = match op {
            Op::Create { bytes, .. } if self.spare(*bytes).is_none() => *bytes,
            Op::Grow { file, bytes } => bytes.saturating_sub(self.read(*file).len() as u64),
            _ => 0,
        };
        self.space.is_some_and(|space| used + more > space)
            || self.shortage.is_some_and(|fault| fault.hits(nth, self.shortages > 0))
    }
}

#[cfg(test)]
mod tests;
