//! The log's segments on the simulated disk.

use std::io;

use simdisk::{FileId, Token};
use wal::{Op, OpId, SegmentId, SegmentSource};

pub use simdisk::{Loss, Outcome, SECTOR};

/// SplitMix64: small, and the same everywhere.
#[derive(Clone)]
pub struct Rng(pub u64);

impl Rng {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    pub fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

#[derive(Clone)]
pub struct Disk {
    pub inner: simdisk::Disk,
}

/// Files kept of segments that have gone.
const SPARES_MAX: usize = 2;

impl Default for Disk {
    fn default() -> Disk {
        let mut inner = simdisk::Disk::default();
        inner.spares_max = SPARES_MAX;
        Disk { inner }
    }
}

fn file_of(segment: SegmentId) -> FileId {
    FileId(segment.0)
}

impl Disk {
    pub fn start(&mut self, id: OpId, op: Op) {
        let op = match op {
            Op::Create { segment, bytes } => simdisk::Op::Create { file: file_of(segment), bytes },
            Op::Remove { segment } => simdisk::Op::Remove { file: file_of(segment) },
            Op::Write { segment, offset, data } => {
                assert!(!self.is_writing(), "one write at a time");
                assert!(offset.is_multiple_of(4096) && data.len().is_multiple_of(4096));
                assert!(!data.is_empty() && data.as_ptr().addr().is_multiple_of(4096));
                let (file, data) = (file_of(segment), data.to_vec());
                simdisk::Op::Write { file, offset, data, durable: true }
            }
        };
        self.inner.start(Token(id.0), op, &mut |_| 0);
    }

    pub fn in_flight(&self) -> Vec<&simdisk::Op> {
        self.inner.outstanding().map(|(_, op)| op).collect()
    }

    pub fn is_writing(&self) -> bool {
        self.in_flight().iter().any(|op| matches!(op, simdisk::Op::Write { .. }))
    }

    /// Ends one of the operations in flight.
    pub fn complete(&mut self, nth: usize) -> (OpId, Outcome) {
        let mut rng = Rng(self.inner.events());
        let (token, _, outcome) = self.inner.complete(nth, &mut |n| rng.below(n));
        (OpId(token.0), outcome)
    }

    pub fn crash(&mut self, loss: Loss, rng: &mut Rng) {
        self.inner.crash(loss, &mut |n| rng.below(n));
    }

    pub fn segments(&self) -> Vec<(SegmentId, &[u8])> {
        self.inner.files().map(|file| (SegmentId(file.0), self.inner.read(file))).collect()
    }

    pub fn segment(&self, segment: SegmentId) -> &[u8] {
        self.inner.read(file_of(segment))
    }

    pub fn spoil(&mut self, segment: SegmentId, spoil: impl FnOnce(&mut Vec<u8>)) {
        self.inner.spoil(file_of(segment), spoil);
    }

    pub fn flip(&mut self, segment: SegmentId, bit: usize) {
        self.inner.flip(file_of(segment), bit as u64);
    }

    pub fn take(&mut self, segment: SegmentId) -> Vec<u8> {
        self.inner.take(file_of(segment)).expect("it is there")
    }

    pub fn insert(&mut self, segment: SegmentId, content: Vec<u8>) {
        self.inner.insert(file_of(segment), content);
    }
}

impl SegmentSource for Disk {
    fn list(&mut self) -> io::Result<Vec<(SegmentId, u64)>> {
        Ok(self.segments().into_iter().map(|(id, bytes)| (id, bytes.len() as u64)).collect())
    }

    fn read(&mut self, segment: SegmentId) -> io::Result<wal::Content> {
        if !self.inner.has(file_of(segment)) {
            return Err(io::ErrorKind::NotFound.into());
        }
        Ok(Box::new(self.segment(segment).to_vec()))
    }
}
