//! A disk that loses power: operations are started, and done later or never.

use std::{collections::BTreeMap, io};

use wal::{Op, OpId, SegmentId, SegmentSource};

pub const SECTOR: usize = 512;

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

/// What becomes of the operations in flight when the power goes.
#[derive(Clone, Copy, Debug)]
pub enum Loss {
    /// None of them happened.
    All,
    /// All of them happened, and nobody heard of it.
    None,
    /// Files are there or not, each sector of a write is there or not.
    Random,
    /// As `Random`, but the first sector of each write is lost.
    Head,
    /// As `Random`, but exactly one sector of each write is lost.
    OneSector,
    /// The sectors whose bits are set are there.
    Exactly(u64),
}

#[derive(Clone, Default)]
pub struct Disk {
    pub files: BTreeMap<SegmentId, Vec<u8>>,
    in_flight: Vec<(OpId, Op)>,
    /// Bytes for files, if they are limited.
    pub space: Option<u64>,
}

impl Disk {
    pub fn start(&mut self, id: OpId, op: Op) {
        if let Op::Write { segment, offset, data } = &op {
            let writes = self.in_flight.iter().filter(|(_, op)| matches!(op, Op::Write { .. }));
            assert_eq!(writes.count(), 0, "one write at a time");
            let file = &self.files[segment];
            assert!(
                offset + data.len() as u64 <= file.len() as u64,
                "a write stays in its segment"
            );
            assert!(
                offset.is_multiple_of(4096) && data.len().is_multiple_of(4096) && !data.is_empty()
            );
            assert!(data.as_ptr().addr().is_multiple_of(4096));
        }
        self.in_flight.push((id, op));
    }

    pub fn in_flight(&self) -> &[(OpId, Op)] {
        &self.in_flight
    }

    /// Carries out one of the operations in flight. False if the disk is full.
    pub fn complete(&mut self, nth: usize) -> (OpId, bool) {
        let (id, op) = self.in_flight.remove(nth);
        let used: u64 = self.files.values().map(|file| file.len() as u64).sum();
        if let Op::Create { bytes, .. } = &op
            && self.space.is_some_and(|space| used + bytes > space)
        {
            return (id, false);
        }
        self.apply(op, |_| true);
        (id, true)
    }

    pub fn crash(&mut self, loss: Loss, rng: &mut Rng) {
        for (_, op) in std::mem::take(&mut self.in_flight) {
            let sectors = match &op {
                Op::Write { data, .. } => (data.len() / SECTOR) as u64,
                _ => 1,
            };
            let one = rng.below(sectors);
            match loss {
                Loss::All => {}
                Loss::None => self.apply(op, |_| true),
                Loss::Random => self.apply(op, |_| rng.one_in(2)),
                Loss::Head => self.apply(op, |sector| sector > 0 && rng.one_in(2)),
                Loss::OneSector => self.apply(op, |sector| sector != one),
                Loss::Exactly(bits) => self.apply(op, |sector| bits >> sector & 1 == 1),
            }
        }
    }

    /// `happens` is asked for each sector of a write, once for any other operation.
    fn apply(&mut self, op: Op, mut happens: impl FnMut(u64) -> bool) {
        match op {
            Op::Create { segment, bytes } if happens(0) => {
                let former = self.files.insert(segment, vec![0; bytes as usize]);
                assert!(former.is_none(), "{segment} was there");
            }
            Op::Remove { segment } if happens(0) => {
                assert!(self.files.remove(&segment).is_some(), "{segment} was not there");
            }
            Op::Write { segment, offset, data } => {
                let file = self.files.get_mut(&segment).expect("written while it is there");
                let place = &mut file[offset as usize..offset as usize + data.len()];
                let sectors = place.chunks_mut(SECTOR).zip(data.chunks(SECTOR));
                for (nth, (place, sector)) in sectors.enumerate() {
                    if happens(nth as u64) {
                        place.copy_from_slice(sector);
                    }
                }
            }
            _ => {}
        }
    }
}

impl SegmentSource for Disk {
    fn list(&mut self) -> io::Result<Vec<(SegmentId, u64)>> {
        Ok(self.files.iter().map(|(&segment, file)| (segment, file.len() as u64)).collect())
    }

    fn read(&mut self, segment: SegmentId) -> io::Result<Vec<u8>> {
        self.files.get(&segment).cloned().ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}
