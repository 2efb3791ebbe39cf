//! What becomes of operations: when they are done, when they fail, when the power goes.

use super::{Disk, File, Op, SECTOR};

/// What becomes of what was not durable when the power goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// None of it happened.
    All,
    /// All of it happened, what nobody has heard of included.
    None,
    /// Each operation happened as a whole or not at all.
    Whole,
    /// Each sector of each write is there or not.
    Sectors,
    /// As `Sectors`, and some are half old: more than what is assumed of a disk.
    Torn,
    /// As `Sectors`, but the first sector of each write is lost.
    Head,
    /// All but exactly one sector of each write.
    OneSector,
    /// The sectors of each write whose bits are set.
    Exactly(u64),
}

impl Loss {
    /// What is tried where nothing is said about it.
    pub const USUAL: [Loss; 5] = [Loss::All, Loss::None, Loss::Whole, Loss::Sectors, Loss::Torn];

    /// Whether an operation that is no write has happened.
    fn happens(self, below: &mut dyn FnMut(u64) -> u64) -> bool {
        match self {
            Loss::All => false,
            Loss::None => true,
            _ => below(2) == 0,
        }
    }

    /// Writes what has arrived of `data`.
    fn write(self, place: &mut [u8], data: &[u8], below: &mut dyn FnMut(u64) -> u64) {
        let one = below(data.len().div_ceil(SECTOR) as u64) as usize;
        let whole = self == Loss::None || (self == Loss::Whole && below(2) == 0);
        for (nth, (place, sector)) in place.chunks_mut(SECTOR).zip(data.chunks(SECTOR)).enumerate()
        {
            let arrived = match self {
                Loss::All => false,
                Loss::None | Loss::Whole => whole,
                Loss::Sectors => below(2) == 0,
                Loss::Head => nth > 0 && below(2) == 0,
                Loss::OneSector => nth != one,
                Loss::Exactly(bits) => bits >> nth & 1 == 1,
                Loss::Torn => {
                    let kept = match below(8) {
                        0..4 => sector.len(),
                        4 => below(sector.len() as u64) as usize,
                        _ => 0,
                    };
                    place[..kept].copy_from_slice(&sector[..kept]);
                    false
                }
            };
            if arrived {
                place.copy_from_slice(sector);
            }
        }
    }
}

impl Disk {
    /// An operation is done, as it should be.
    pub(super) fn happen(&mut self, op: &Op) {
        if let Op::Create { file, bytes } = op {
            let content = match self.spare(*bytes) {
                Some(spare) => {
                    self.recycled += 1;
                    self.spares.remove(spare)
                }
                None => vec![0; *bytes as usize],
            };
            let former = self.files.insert(*file, File::of(content));
            assert!(former.is_none(), "{file:?} was there when it was created");
            return;
        }
        if let Op::Remove { file } = op {
            let removed = self.files.remove(file);
            let removed = removed.unwrap_or_else(|| panic!("{file:?} was not there to be removed"));
            if self.spares.len() < self.spares_max {
                self.spares.push(removed.durable);
            }
            return;
        }
        let file = self.files.get_mut(&op.file()).expect("the file is there");
        match op {
            Op::Write { offset, data, durable, .. } => {
                file.show(*offset, data);
                if *durable {
                    let at = *offset as usize;
                    file.durable[at..at + data.len()].copy_from_slice(data);
                } else {
                    file.unsynced.push((*offset, data.clone()));
                }
            }
            Op::Sync { .. } => file.settle(),
            Op::Grow { bytes, .. } => {
                file.settle();
                let len = file.seen.len();
                assert!(*bytes > len as u64, "a growth that makes the file shorter");
                file.durable.resize(*bytes as usize, 0);
                file.seen.resize(*bytes as usize, 0);
                file.show(len as u64, &vec![0; *bytes as usize - len]);
            }
            Op::Truncate { bytes, .. } => {
                file.seen.truncate(*bytes as usize);
                file.cut = Some(*bytes);
            }
            Op::Create { .. } | Op::Remove { .. } => {}
        }
    }

    /// An operation has failed: what of it has happened nobody knows.
    pub(super) fn happen_in_part(&mut self, op: &Op, below: &mut dyn FnMut(u64) -> u64) {
        match op {
            Op::Write { file, offset, data, .. } => {
                let file = self.files.get_mut(file).expect("the file is there");
                let at = *offset as usize;
                Loss::Sectors.write(&mut file.durable[at..at + data.len()], data, below);
                // The cache may show all of it, whatever is on the disk.
                file.show(*offset, data);
            }
            Op::Sync { file } => {
                let file = self.files.get_mut(file).expect("the file is there");
                // The kernel takes the pages for clean: no later sync writes what this one has not.
                for (offset, data) in std::mem::take(&mut file.unsynced) {
                    let at = offset as usize;
                    Loss::Sectors.write(&mut file.durable[at..at + data.len()], &data, below);
                }
            }
            other if below(2) == 0 => self.happen(other),
            _ => {}
        }
    }

    /// The power goes, and comes back.
    pub fn crash(&mut self, loss: Loss, below: &mut dyn FnMut(u64) -> u64) {
        for outstanding in std::mem::take(&mut self.outstanding) {
            match outstanding.op {
                Op::Write { file, offset, data, .. } => {
                    let file = self.files.get_mut(&file).expect("the file is there");
                    file.unsynced.push((offset, data));
                }
                Op::Sync { .. } => {}
                Op::Truncate { file, bytes } => {
                    self.files.get_mut(&file).expect("the file is there").cut = Some(bytes);
                }
                op if op.needs_space() && self.is_full_for(0, &op) => {}
                Op::Grow { file, bytes } if loss.happens(below) => {
                    let file = self.files.get_mut(&file).expect("the file is there");
                    let len = file.durable.len().max(bytes as usize);
                    file.durable.resize(len, 0);
                }
                op if matches!(op, Op::Create { .. } | Op::Remove { .. })
                    && loss.happens(below) =>
                {
                    self.happen(&op);
                }
                _ => {}
            }
        }
        for file in self.files.values_mut() {
            let mut writes = std::mem::take(&mut file.unsynced);
            // Without a sync between them no order is promised.
            for index in (1..writes.len()).rev() {
                writes.swap(index, below(index as u64 + 1) as usize);
            }
            for (offset, data) in writes {
                let at = offset as usize;
                loss.write(&mut file.durable[at..at + data.len()], &data, below);
            }
            if let Some(bytes) = file.cut.take().filter(|_| loss.happens(below)) {
                file.durable.truncate(bytes as usize);
            }
            file.seen.clone_from(&file.durable);
            file.mirror = None;
        }
    }

    /// The process ends, the system goes on: what it had started happens or not, what was done is
    /// synced by the one that comes after it and reads past the cache, so that what a failed sync
    /// has lost is gone.
    pub fn restart(&mut self, below: &mut dyn FnMut(u64) -> u64) {
        for outstanding in std::mem::take(&mut self.outstanding) {
            self.happen_in_part(&outstanding.op, below);
        }
        for file in self.files.values_mut() {
            file.settle();
            file.seen.clone_from(&file.durable);
            file.mirror = None;
        }
    }
}
