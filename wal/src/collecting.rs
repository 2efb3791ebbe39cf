//! A batch while it is being filled: records are laid into sectors as they come, and blocks that are full are
//! stamped and summed up. So handing the batch out, for which the disk waits, costs next to nothing.

use crate::{
    batch::{BATCH_HEADER_BYTES, BatchHeader, record_bytes},
    buffer::{AlignedBuf, Blocks},
    limits::BLOCK_BYTES,
    record::encode_header,
    sector::{
        SECTOR_BYTES, SECTOR_DATA_BYTES, STAMP_BYTES, disk_offset, extent_bytes, gather, stamp_of,
    },
    segment::{BatchSeq, SegmentId},
};

/// Where and after what a batch is written.
#[derive(Clone, Copy)]
pub(crate) struct Seal {
    pub segment: SegmentId,
    pub segment_blocks: u32,
    pub durable: BatchSeq,
    pub link: u32,
}

pub(crate) struct Collecting {
    pub sequence: BatchSeq,
    /// Largest index of its records.
    pub index_max: u64,
    /// What was set while it collected: holds from this batch on.
    pub preambles: Preambles,
    blocks: Blocks,
    /// Length of its data so far, the header included.
    logical: usize,
    record_count: u32,
    preamble_count: u32,
    /// Checksum of what is stamped: from behind the header to this offset on the disk.
    sum: crc32fast::Hasher,
    stamped: usize,
}

impl Collecting {
    pub(crate) fn new(sequence: BatchSeq, blocks: Blocks) -> Collecting {
        Collecting {
            sequence,
            index_max: 0,
            preambles: Preambles::default(),
            blocks,
            logical: BATCH_HEADER_BYTES,
            record_count: 0,
            preamble_count: 0,
            sum: crc32fast::Hasher::new(),
            stamped: BATCH_HEADER_BYTES,
        }
    }

    pub(crate) fn body_bytes(&self) -> usize {
        self.logical - BATCH_HEADER_BYTES
    }

    pub(crate) fn extent_bytes(&self) -> usize {
        extent_bytes(self.logical)
    }

    /// Its extent if it opens a segment with these preambles.
    pub(crate) fn extent_bytes_with(&self, preambles: &Preambles) -> usize {
        extent_bytes(self.logical + preambles.body_bytes())
    }

    pub(crate) fn push_record(&mut self, kind: u8, index: u64, parts: &[&[u8]], data_bytes: u32) {
        self.blocks.grow_to(extent_bytes(self.logical + record_bytes(data_bytes as usize)));
        self.push(&encode_header(kind, index, data_bytes));
        for part in parts {
            self.push(part);
        }
        self.record_count += 1;
        self.index_max = self.index_max.max(index);
    }

    /// The same batch, opened by the preambles.
    pub(crate) fn behind(self, preambles: &Preambles, blocks: Blocks) -> (Collecting, Blocks) {
        let mut whole = Collecting::new(self.sequence, blocks);
        for preamble in &preambles.0 {
            whole.push_record(
                preamble.kind,
                preamble.index,
                &[&preamble.data],
                preamble.data.len() as u32,
            );
        }
        whole.preamble_count = whole.record_count;
        whole.record_count += self.record_count;
        whole.index_max = self.index_max;
        let body = gather(self.blocks.as_slice(), BATCH_HEADER_BYTES, self.body_bytes())
            .expect("a batch holds what was pushed into it");
        whole.blocks.grow_to(extent_bytes(whole.logical + body.len()));
        whole.push(&body);
        (whole, self.blocks)
    }

    /// Bytes to write, and the link of the batch behind.
    pub(crate) fn seal(mut self, seal: Seal) -> (AlignedBuf, u32) {
        let bytes = self.extent_bytes();
        let body_bytes = self.body_bytes();
        self.blocks.grow_to(bytes);
        let end = disk_offset(self.logical);
        self.blocks.as_mut_slice()[end..bytes].fill(0);
        self.stamp_to(bytes);
        let extent = &mut self.blocks.as_mut_slice()[..bytes];
        let (header, link) = BatchHeader {
            segment_blocks: seal.segment_blocks,
            segment: seal.segment,
            sequence: self.sequence,
            durable: seal.durable,
            body_bytes: body_bytes as u32,
            record_count: self.record_count,
            preamble_count: self.preamble_count,
            body_crc: self.sum.finalize(),
            link: seal.link,
        }
        .encode();
        extent[..BATCH_HEADER_BYTES].copy_from_slice(&header);
        (AlignedBuf::new(self.blocks, bytes), link)
    }

    /// Lays bytes into the sectors, around the places of their stamps. The blocks are large enough.
    fn push(&mut self, mut bytes: &[u8]) {
        let mut at = disk_offset(self.logical);
        self.logical += bytes.len();
        let disk = self.blocks.as_mut_slice();
        while !bytes.is_empty() {
            let room = SECTOR_DATA_BYTES - at % SECTOR_BYTES;
            let (here, rest) = bytes.split_at(room.min(bytes.len()));
            disk[at..at + here.len()].copy_from_slice(here);
            at += here.len() + STAMP_BYTES;
            bytes = rest;
        }
        let full = disk_offset(self.logical) / BLOCK_BYTES * BLOCK_BYTES;
        if full > self.stamped {
            self.stamp_to(full);
        }
    }

    /// Stamps and sums up the sectors up to this offset on the disk, in which all data is.
    fn stamp_to(&mut self, end: usize) {
        let stamp = stamp_of(self.sequence);
        let first = self.stamped / SECTOR_BYTES * SECTOR_BYTES;
        let disk = self.blocks.as_mut_slice();
        for sector in disk[first..end].chunks_exact_mut(SECTOR_BYTES) {
            sector[SECTOR_DATA_BYTES..].copy_from_slice(&stamp);
        }
        self.sum.update(&disk[self.stamped..end]);
        self.stamped = end;
    }
}

/// Records repeated at the head of every segment, one of each kind.
#[derive(Default)]
pub(crate) struct Preambles(Vec<Preamble>);

struct Preamble {
    kind: u8,
    index: u64,
    data: Vec<u8>,
}

impl Preambles {
    pub(crate) fn set(&mut self, kind: u8, index: u64, data: &[u8]) {
        match self.0.iter_mut().find(|preamble| preamble.kind == kind) {
            Some(preamble) => {
                preamble.index = index;
                preamble.data.clear();
                preamble.data.extend_from_slice(data);
            }
            None => self.0.push(Preamble { kind, index, data: data.to_vec() }),
        }
    }

    /// Takes over what `newer` has, and leaves it empty.
    pub(crate) fn absorb(&mut self, newer: &mut Preambles) {
        for preamble in newer.0.drain(..) {
            self.set(preamble.kind, preamble.index, &preamble.data);
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    fn body_bytes(&self) -> usize {
        self.0.iter().map(|preamble| record_bytes(preamble.data.len())).sum()
    }
}
