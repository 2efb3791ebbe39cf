//! Carries out the operations of the store's checkpoints on its file.
//!
//! The file is read through a memory map elsewhere, so it is written through the page cache and
//! never with O_DIRECT. The order of writes and syncs is the store's: it hands out a sync only when
//! every write before it was reported done. What fails ends the process, except a full disk when the
//! file grows.
//!
//! The disk is shared with the log, whose next sync waits for everything that the disk was given
//! before. So pages are not left in the cache for the sync at the end: a blocking thread writes some
//! of them, begins their write-back at once, and waits for that of the ones before. The sync then
//! finds next to nothing to do, and what is on its way to the disk at any time is small.

use super::glommio_files::{blocking, plain};
use super::limits::ZERO_PIECE_BYTES;
use super::{fatal, files};
use crate::store::{self, Warmer};
use glommio::io::{BufferedFile, OpenOptions};
use std::cell::{Cell, RefCell};
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What became of a growth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Grown {
    Done,
    NoSpace,
}

/// The store's file.
pub struct StoreDisk {
    path: RefCell<PathBuf>,
    file: BufferedFile,
    /// The same open file, for the blocking thread.
    shared: Arc<File>,
    /// Of the map through which the file is read, if it is.
    warmer: Cell<Option<Warmer>>,
    no_fsync: bool,
    /// What was written last, and may be on its way to the disk.
    written_last: RefCell<Vec<Range<u64>>>,
    in_flight: Cell<usize>,
    /// A full disk has been met and told of.
    full: Cell<bool>,
}

impl StoreDisk {
    pub async fn open(path: &Path, no_fsync: bool) -> io::Result<StoreDisk> {
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).buffered_open(path).await.map_err(plain)?;
        files::hold(&file)?;
        // SAFETY: the descriptor is open, and stays so beyond the call.
        let borrowed = unsafe { BorrowedFd::borrow_raw(file.as_raw_fd()) };
        let shared = Arc::new(File::from(borrowed.try_clone_to_owned()?));
        Ok(StoreDisk {
            path: RefCell::new(path.to_owned()),
            file,
            shared,
            warmer: Cell::new(None),
            no_fsync,
            written_last: RefCell::default(),
            in_flight: Cell::new(0),
            full: Cell::new(false),
        })
    }

    /// The file has another name now.
    pub fn renamed(&self, path: &Path) {
        self.path.replace(path.to_owned());
    }

    /// The file is read through this map from now on.
    pub fn read_through(&self, map: Warmer) {
        self.warmer.set(Some(map));
    }

    /// Operations started and not finished.
    pub fn in_flight(&self) -> usize {
        self.in_flight.get()
    }

    pub fn started(&self) {
        self.in_flight.set(self.in_flight.get() + 1);
    }

    pub fn finished(&self) {
        self.in_flight.set(self.in_flight.get() - 1);
    }

    /// Carries out one operation. Only growing can come to nothing.
    pub async fn run(&self, op: store::Op) -> Grown {
        match op {
            store::Op::Grow { len } => return self.grow(len).await,
            store::Op::Write { offset, data } => self.write(vec![(offset, data)]).await,
            store::Op::Sync => self.sync().await,
            store::Op::Truncate { len } => self.truncate(len).await,
        }
        Grown::Done
    }

    /// Makes the file `len` bytes long with all blocks reserved, durably.
    ///
    /// A hole would be filled by the page fault or write-back that first needs it, and on a full
    /// disk that is a SIGBUS instead of an error.
    pub async fn grow(&self, len: u64) -> Grown {
        let reserved = match self.file.pre_allocate(len, false).await.map_err(plain) {
            Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => {
                let path = self.path.borrow().clone();
                blocking(move || append_zeros(&path, len)).await
            }
            other => other,
        };
        match reserved {
            Ok(()) => self.full.set(false),
            Err(error) if files::is_no_space(&error) => {
                if !self.full.replace(true) {
                    tracing::warn!(
                        path = %self.path.borrow().display(),
                        bytes = len,
                        "no space for the store to grow; the checkpoint is put off"
                    );
                }
                return Grown::NoSpace;
            }
            Err(error) => fatal::disk("grow store", &self.path.borrow(), Some(len), &error),
        }
        self.sync().await;
        Grown::Done
    }

    /// Writes pages that lie apart from each other, and begins to send them to the disk.
    pub async fn write(&self, pieces: Vec<(u64, Vec<u8>)>) {
        let first = pieces.first().map(|(offset, _)| *offset);
        let range = |(offset, data): &(u64, Vec<u8>)| *offset..*offset + data.len() as u64;
        let ranges: Vec<Range<u64>> = pieces.iter().map(range).collect();
        let before = self.written_last.replace(ranges.clone());
        let (file, warmer, no_fsync) = (self.shared.clone(), self.warmer.get(), self.no_fsync);
        let written = blocking(move || {
            for (offset, data) in &pieces {
                file.write_all_at(data, *offset)?;
            }
            for range in ranges {
                // While they are being written back, an access that is the first one could wait.
                if let Some(map) = warmer {
                    map.warm(range.clone());
                }
                if !no_fsync {
                    write_back(&file, &range, libc::SYNC_FILE_RANGE_WRITE)?;
                }
            }
            for range in before.iter().filter(|_| !no_fsync) {
                write_back(&file, range, libc::SYNC_FILE_RANGE_WAIT_BEFORE)?;
            }
            Ok(())
        })
        .await;
        if let Err(error) = written {
            fatal::disk("write store", &self.path.borrow(), first, &error);
        }
    }

    /// Reads a part of the file into the page cache. What cannot be read is found by who needs it.
    pub async fn read_ahead(&self, range: Range<u64>) {
        let (file, warmer) = (self.shared.clone(), self.warmer.get());
        let read = blocking(move || {
            let mut piece = vec![0; ZERO_PIECE_BYTES];
            let mut offset = range.start;
            while offset < range.end {
                let wanted = usize::try_from(range.end - offset).unwrap_or(usize::MAX);
                let len = wanted.min(piece.len());
                let read = file.read_at(piece.get_mut(..len).unwrap_or_default(), offset)?;
                if read == 0 {
                    break;
                }
                offset += read as u64;
            }
            if let Some(map) = warmer {
                map.warm(range);
            }
            Ok(())
        });
        let _ = read.await;
    }

    pub async fn sync(&self) {
        if self.no_fsync {
            return;
        }
        if let Err(error) = self.file.fdatasync().await {
            fatal::disk("sync store", &self.path.borrow(), None, &plain(error));
        }
    }

    pub async fn truncate(&self, len: u64) {
        if let Err(error) = self.file.truncate(len).await {
            fatal::disk("truncate store", &self.path.borrow(), Some(len), &plain(error));
        }
    }
}

/// Begins the write-back of a range, or waits for it. It promises nothing about what a crash leaves;
/// the sync does.
fn write_back(file: &File, range: &Range<u64>, flags: libc::c_uint) -> io::Result<()> {
    let offset = libc::off64_t::try_from(range.start).map_err(io::Error::other)?;
    let len = libc::off64_t::try_from(range.end - range.start).map_err(io::Error::other)?;
    // SAFETY: only numbers are handed over, and the file is open.
    if unsafe { libc::sync_file_range(file.as_raw_fd(), offset, len, flags) } == 0 {
        return Ok(());
    }
    let error = io::Error::last_os_error();
    // Without the call the sync does it all.
    if lacks_call(&error) { Ok(()) } else { Err(error) }
}

/// Whether `sync_file_range` is not there, or forbidden, or not for this kind of file. All else is what became of
/// the pages, in whatever word the device has for it: told once, so that no sync after it could be believed.
fn lacks_call(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::ENOSYS | libc::EPERM | libc::EACCES | libc::EINVAL | libc::ESPIPE)
    )
}

/// For file systems without fallocate: zeros from the end of the file on.
fn append_zeros(path: &Path, len: u64) -> io::Result<()> {
    let file = File::options().write(true).open(path)?;
    let zeros = vec![0; ZERO_PIECE_BYTES];
    let mut offset = file.metadata()?.len();
    while offset < len {
        let piece = usize::try_from(len - offset).unwrap_or(usize::MAX).min(zeros.len());
        file.write_all_at(zeros.get(..piece).unwrap_or_default(), offset)?;
        offset += piece as u64;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_a_device_says_of_a_page_that_it_did_not_write_is_an_error() {
        let of_devices = [
            libc::EIO,
            libc::ENOSPC,
            libc::EDQUOT,
            libc::ENODATA,
            libc::ENOLINK,
            libc::EREMOTEIO,
            libc::ETIMEDOUT,
            libc::EILSEQ,
            libc::EOPNOTSUPP,
            libc::ENOMEM,
            libc::EROFS,
            libc::EUCLEAN,
        ];
        for errno in of_devices {
            assert!(!lacks_call(&io::Error::from_raw_os_error(errno)), "{errno}");
        }
        // What a pipe answers, and a kernel without the call.
        let (pipe, _other) = io::pipe().unwrap();
        let pipe = File::from(std::os::fd::OwnedFd::from(pipe));
        write_back(&pipe, &(0..4096), libc::SYNC_FILE_RANGE_WRITE).unwrap();
        assert!(lacks_call(&io::Error::from_raw_os_error(libc::ENOSYS)));
    }

    #[test]
    fn a_file_without_fallocate_grows_by_zeros_and_keeps_what_it_has() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("store");
        std::fs::write(&path, [7; 10]).unwrap();
        append_zeros(&path, 1000).unwrap();
        let content = std::fs::read(&path).unwrap();
        assert_eq!(content.len(), 1000);
        assert_eq!(content[..10], [7; 10]);
        assert!(content[10..].iter().all(|byte| *byte == 0));
    }
}
