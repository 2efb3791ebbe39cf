//! The file in the address space: read-only, one reservation, never remapped.
//!
//! The map is longer than the file. Bytes beyond the file's end must not be read (SIGBUS), and the
//! store does not: it reads no page at or above its `file_len`, which grows only after the file has
//! been extended and shrinks before the file is cut.
//!
//! The kernel shows in the map what is written to the file. That a page does not change under a
//! slice of it is the store's reuse rule: no page that anybody can reach is written.

use super::limits::PAGE_SIZE;
use super::page::Page;
use memmap2::{MmapOptions, MmapRaw};
use std::fs::File;
use std::io;
use std::ops::Range;
use std::rc::Rc;

pub struct Map {
    base: *const u8,
    reserved_bytes: usize,
    /// Keeps what `base` points to.
    _owner: Owner,
}

enum Owner {
    File { _map: MmapRaw },
    Memory { _memory: Rc<Memory> },
}

impl Map {
    /// Maps `file`, reserving addresses for it to grow to `reserve_bytes`. Sync the file before:
    /// what is read through the map is then what the disk holds.
    pub fn open(file: &File, reserve_bytes: u64) -> io::Result<Map> {
        let length = usize::try_from(reserve_bytes)
            .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "reservation too large"))?;
        let map = MmapOptions::new().len(length).map_raw_read_only(file)?;
        Ok(Map { base: map.as_ptr(), reserved_bytes: length, _owner: Owner::File { _map: map } })
    }

    /// A map of plain memory, for tests and simulated disks, which write to it through the
    /// [`Memory`].
    pub fn memory(reserve_bytes: u64) -> (Map, Rc<Memory>) {
        let memory = Rc::new(Memory::new(reserve_bytes as usize));
        (Map::of_memory(&memory), memory)
    }

    /// Another map of a memory.
    pub fn of_memory(memory: &Rc<Memory>) -> Map {
        Map {
            base: memory.map.as_ptr(),
            reserved_bytes: memory.map.len(),
            _owner: Owner::Memory { _memory: memory.clone() },
        }
    }

    /// What another thread needs to bring parts of the file into memory.
    pub fn warmer(&self) -> Warmer {
        Warmer { base: self.base as usize, reserved_bytes: self.reserved_bytes }
    }

    pub fn reserved_bytes(&self) -> usize {
        self.reserved_bytes
    }

    /// The pages `first..first + count`. The caller has checked that they lie inside the file.
    #[inline]
    pub fn pages(&self, first: u32, count: usize) -> &[Page] {
        let at = first as usize * PAGE_SIZE;
        assert!(
            count <= self.reserved_bytes / PAGE_SIZE
                && at <= self.reserved_bytes - count * PAGE_SIZE,
            "a page beyond the reservation"
        );
        // SAFETY: the range lies inside the mapping, which lives as long as self. `Page` is an
        // array of bytes, for which every content is valid, and mappings are aligned to 4096.
        // Nobody writes to these pages while they can be reached by a reader (module head), so the
        // slice does not change while it is borrowed.
        unsafe { std::slice::from_raw_parts(self.base.add(at).cast::<Page>(), count) }
    }
}

/// Brings parts of the map into memory, from any thread, so that the thread that reads them does not
/// wait for the disk. It is advice: it may be given for addresses that are not mapped any more.
#[derive(Clone, Copy, Debug)]
pub struct Warmer {
    base: usize,
    reserved_bytes: usize,
}

impl Warmer {
    /// First address and length of the map.
    pub fn addresses(&self) -> (usize, usize) {
        (self.base, self.reserved_bytes)
    }

    /// Reads these bytes of the file and maps them, and returns when that is done. False if it cannot
    /// be done: the kernel has no such call, or they lie beyond the end of the file.
    pub fn warm(&self, range: Range<u64>) -> bool {
        let start = range.start / PAGE_SIZE as u64 * PAGE_SIZE as u64;
        let (Ok(start), Ok(end)) = (usize::try_from(start), usize::try_from(range.end)) else {
            return false;
        };
        if start >= end || end > self.reserved_bytes {
            return false;
        }
        let at = (self.base + start) as *mut libc::c_void;
        // SAFETY: the call changes no memory, whatever is mapped at the addresses; it only makes the
        // kernel read what is.
        unsafe { libc::madvise(at, end - start, libc::MADV_POPULATE_READ) == 0 }
    }
}

/// Memory that stands in for a file.
pub struct Memory {
    map: MmapRaw,
}

impl Memory {
    fn new(bytes: usize) -> Memory {
        let length = bytes.next_multiple_of(PAGE_SIZE).max(PAGE_SIZE);
        let map = MmapOptions::new().len(length).map_anon().expect("memory for a simulated disk");
        Memory { map: map.into() }
    }

    /// Writes as a write to the file would show in its map.
    pub fn write(&self, offset: u64, data: &[u8]) {
        let at = usize::try_from(offset).expect("an offset in memory");
        assert!(
            data.len() <= self.map.len() && at <= self.map.len() - data.len(),
            "a write beyond the reservation"
        );
        // SAFETY: the target lies inside the mapping, which is writable and not a file's. `data`
        // cannot overlap it, as slices of it come from `Map::pages` alone, and of these pages there
        // are none by the reuse rule (module head).
        unsafe {
            std::ptr::copy_nonoverlapping(data.as_ptr(), self.map.as_mut_ptr().add(at), data.len());
        }
    }

    /// A copy of the first `bytes`.
    pub fn read(&self, bytes: u64) -> Vec<u8> {
        let length = usize::try_from(bytes).expect("a length in memory");
        assert!(length <= self.map.len(), "a read beyond the reservation");
        // SAFETY: inside the mapping; the slice lives for this copy only, and nothing writes
        // meanwhile: `Memory` is used behind an `Rc`, on one thread.
        unsafe { std::slice::from_raw_parts(self.map.as_ptr(), length) }.to_vec()
    }
}
