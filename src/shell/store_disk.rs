//! Carries out the operations of the store's checkpoints on its file.
//!
//! The file is read through a memory map elsewhere, so it is written through the page cache and
//! never with O_DIRECT. The order of writes and syncs is the store's: it hands out a sync only when
//! every write before it was reported done. What fails ends the process, except a full disk when the
//! file grows.

use super::glommio_files::{self, blocking, plain};
use super::limits::ZERO_PIECE_BYTES;
use super::{fatal, files};
use crate::store;
use glommio::io::{BufferedFile, OpenOptions};
use std::cell::{Cell, RefCell};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

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
    no_fsync: bool,
    in_flight: Cell<usize>,
    /// A full disk has been met and told of.
    full: Cell<bool>,
}

impl StoreDisk {
    pub async fn open(path: &Path, no_fsync: bool) -> io::Result<StoreDisk> {
        let file = OpenOptions::new().write(true).buffered_open(path).await.map_err(plain)?;
        files::hold(&file)?;
        Ok(StoreDisk {
            path: RefCell::new(path.to_owned()),
            file,
            no_fsync,
            in_flight: Cell::new(0),
            full: Cell::new(false),
        })
    }

    /// The file has another name now.
    pub fn renamed(&self, path: &Path) {
        self.path.replace(path.to_owned());
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
            store::Op::Write { offset, data } => self.write(offset, data).await,
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

    pub async fn write(&self, offset: u64, data: Vec<u8>) {
        if let Err(error) = glommio_files::write(&self.file, offset, data).await {
            fatal::disk("write store", &self.path.borrow(), Some(offset), &error);
        }
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
