//! Memory that starts at a multiple of a block, as direct I/O wants it.

use std::{ops::Deref, sync::Arc};

use crate::limits::BLOCK_BYTES;

#[repr(C, align(4096))]
#[derive(Clone, Copy)]
struct Block([u8; BLOCK_BYTES]);

const _: () = assert!(align_of::<Block>() == BLOCK_BYTES && size_of::<Block>() == BLOCK_BYTES);

/// Whole blocks, growable, always initialised.
pub(crate) struct Blocks(Vec<Block>);

impl Blocks {
    pub(crate) fn new(bytes: usize) -> Blocks {
        Blocks(vec![Block([0; BLOCK_BYTES]); bytes.div_ceil(BLOCK_BYTES)])
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len() * BLOCK_BYTES
    }

    /// At least `bytes` long afterwards; doubles, so that growing stays linear.
    pub(crate) fn grow_to(&mut self, bytes: usize) {
        if bytes > self.len() {
            let blocks = bytes.div_ceil(BLOCK_BYTES).max(self.0.len() * 2);
            self.0.resize(blocks, Block([0; BLOCK_BYTES]));
        }
    }

    pub(crate) fn as_slice(&self) -> &[u8] {
        // SAFETY: a `Block` is `BLOCK_BYTES` initialised bytes without padding (asserted above), and the
        // vector's blocks are contiguous.
        unsafe { std::slice::from_raw_parts(self.0.as_ptr().cast::<u8>(), self.len()) }
    }

    pub(crate) fn as_mut_slice(&mut self) -> &mut [u8] {
        // SAFETY: as in `as_slice`; every bit pattern is a valid `Block`, and `self` is borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(self.0.as_mut_ptr().cast::<u8>(), self.len()) }
    }
}

/// What a write writes: starts at a multiple of 4096 in memory, and is a multiple of 4096 long.
/// Cloning shares the bytes. Dropped before [`crate::Writer::op_done`], its memory is used again.
#[derive(Clone)]
pub struct AlignedBuf {
    blocks: Arc<Blocks>,
    bytes: usize,
}

impl AlignedBuf {
    pub(crate) fn new(blocks: Blocks, bytes: usize) -> AlignedBuf {
        assert!(bytes <= blocks.len() && bytes.is_multiple_of(BLOCK_BYTES));
        AlignedBuf { blocks: Arc::new(blocks), bytes }
    }

    pub fn as_slice(&self) -> &[u8] {
        self.blocks.as_slice().get(..self.bytes).unwrap_or_default()
    }

    /// The memory, unless somebody still holds a clone.
    pub(crate) fn reclaim(self) -> Option<Blocks> {
        Arc::into_inner(self.blocks)
    }
}

impl Deref for AlignedBuf {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.as_slice()
    }
}

impl std::fmt::Debug for AlignedBuf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AlignedBuf").field("bytes", &self.bytes).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_aligned_however_it_grows() {
        let mut blocks = Blocks::new(1);
        for bytes in [1, 4096, 4097, 100_000] {
            blocks.grow_to(bytes);
            assert!(blocks.len() >= bytes);
            assert!(blocks.as_slice().as_ptr().addr().is_multiple_of(BLOCK_BYTES));
        }
        blocks.as_mut_slice()[99_999] = 7;
        let buf = AlignedBuf::new(blocks, 102_400);
        assert_eq!((buf.len(), buf[99_999]), (102_400, 7));
        let clone = buf.clone();
        assert!(buf.reclaim().is_none(), "somebody still reads it");
        assert!(clone.reclaim().is_some());
    }
}
