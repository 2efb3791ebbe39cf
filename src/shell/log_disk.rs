//! Carries out the operations of the log: creates, writes and removes segments.
//!
//! Invariants: at most one write is in flight, which the log promises and this file asserts. A
//! write is reported done only when it is durable: one `O_DIRECT | O_DSYNC` write, or a buffered
//! write and an fdatasync where the file system refuses O_DIRECT. A file becomes another segment only
//! when its removal as the former one is durable. What fails ends the process, except a full disk at
//! creation.
//!
//! glommio 0.9 and O_DIRECT files: it would send writes through a polled ring (a busy loop while one
//! is in flight) if the device seemed to support that, and finds out by a read of the first file it
//! opens. The segments are therefore opened for writing only: that read fails, and the polled ring
//! stays out of use. It also panics on block devices that sysfs describes in a way it does not know;
//! `describable` looks before it does.

use super::glommio_files::{self, blocking, plain, short};
use super::limits::{DIRECT_ALIGN, LOG_SPARES_MAX};
use super::segments::{self, Created, Spare};
use super::{fatal, files};
use glommio::io::{BufferedFile, DmaFile, OpenOptions};
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use wal::{SEGMENT_BYTES_DEFAULT, SegmentId};

/// How writes into the log become durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// One O_DIRECT | O_DSYNC write.
    Direct,
    /// A buffered write, then fdatasync.
    Synced,
    /// `--unsafe-no-fsync`: a buffered write.
    None,
}

/// Finds out which way the directory allows, with a file of its own that is gone afterwards.
pub fn probe(dir: &Path, no_fsync: bool) -> io::Result<Durability> {
    if no_fsync {
        return Ok(Durability::None);
    }
    let tried = match segments::write_probe(dir, &[0; DIRECT_ALIGN]) {
        Ok(path) => {
            let tried = try_direct(&path);
            std::fs::remove_file(&path)?;
            tried
        }
        // A member starts on a full disk, too. Then the log is asked, of which nothing is changed.
        Err(error) if files::is_no_space(&error) => match segments::list(dir)?.first() {
            Some((segment, _)) => try_direct_read(&dir.join(segment.file_name())),
            None => Err(error),
        },
        Err(error) => Err(error),
    };
    match tried {
        Ok(()) if describable(std::fs::metadata(dir)?.dev()) => Ok(Durability::Direct),
        Ok(()) => {
            warn_buffered(dir, "sysfs does not describe the block device");
            Ok(Durability::Synced)
        }
        Err(error) if refuses_direct(&error) => {
            warn_buffered(dir, "the file system refuses O_DIRECT");
            Ok(Durability::Synced)
        }
        Err(error) => Err(error),
    }
}

fn warn_buffered(dir: &Path, reason: &str) {
    tracing::warn!(
        path = %dir.display(),
        reason,
        "log writes go through the page cache with fdatasync, which is slower than O_DIRECT"
    );
}

fn refuses_direct(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EINVAL | libc::EOPNOTSUPP))
}

fn try_direct(path: &Path) -> io::Result<()> {
    let mut options = std::fs::OpenOptions::new();
    let file = options.write(true).custom_flags(libc::O_DIRECT | libc::O_DSYNC).open(path)?;
    with_block(|block| file.write_all_at(block, 0))
}

fn try_direct_read(path: &Path) -> io::Result<()> {
    let mut options = std::fs::OpenOptions::new();
    let file = options.read(true).custom_flags(libc::O_DIRECT).open(path)?;
    with_block(|block| file.read_exact_at(block, 0))
}

/// Memory as O_DIRECT wants it.
fn with_block(work: impl FnOnce(&mut [u8]) -> io::Result<()>) -> io::Result<()> {
    let mut memory = [0; 2 * DIRECT_ALIGN];
    let skip = memory.as_ptr().align_offset(DIRECT_ALIGN);
    work(memory.get_mut(skip..skip + DIRECT_ALIGN).ok_or(io::ErrorKind::InvalidInput)?)
}

/// The spares that are as long as the next segments will be. Others are removed: they had no use, and would
/// be in the way of those that have.
fn usable_spares(dir: &Path) -> io::Result<Vec<Spare>> {
    let (usable, other): (Vec<_>, Vec<_>) =
        segments::spares(dir)?.into_iter().partition(|spare| spare.bytes == SEGMENT_BYTES_DEFAULT);
    other.iter().try_for_each(|spare| std::fs::remove_file(&spare.path))?;
    Ok(usable)
}

/// Whether glommio can read the device's properties from sysfs. A file system without a block
/// device (tmpfs, overlay, nfs) has none to read, which it knows.
fn describable(device: u64) -> bool {
    let of_disk = PathBuf::from(format!("/sys/dev/block/{}:0", libc::major(device)));
    if !of_disk.exists() {
        return true;
    }
    let numbers = [
        "rotational",
        "minimum_io_size",
        "optimal_io_size",
        "logical_block_size",
        "physical_block_size",
        "max_sectors_kb",
        "max_segment_size",
    ];
    let queue = of_disk.join("queue");
    let text = |name| std::fs::read_to_string(queue.join(name)).unwrap_or_default();
    numbers.into_iter().all(|name| text(name).trim_matches('\n').parse::<isize>().is_ok())
        && matches!(text("write_cache").trim_matches('\n'), "write back" | "write through")
        && of_disk.join("slaves").is_dir()
}

/// An open segment.
#[derive(Clone)]
enum Segment {
    Direct(Rc<DmaFile>),
    Buffered(Rc<BufferedFile>),
}

/// The log's directory and its open segments.
pub struct LogDisk {
    dir: PathBuf,
    durability: Durability,
    open: RefCell<HashMap<SegmentId, Segment>>,
    /// Files of segments that have gone, durably, for those to come.
    spares: RefCell<Vec<Spare>>,
    write_in_flight: Cell<bool>,
    /// A full disk has been met and told of.
    full: Cell<bool>,
    /// `/dev/null`, for `fence`.
    null: BufferedFile,
}

impl LogDisk {
    pub async fn open(dir: &Path, durability: Durability) -> io::Result<LogDisk> {
        let null =
            OpenOptions::new().write(true).buffered_open("/dev/null").await.map_err(plain)?;
        Ok(LogDisk {
            dir: dir.to_owned(),
            durability,
            open: RefCell::default(),
            spares: RefCell::new(usable_spares(dir)?),
            write_in_flight: Cell::new(false),
            full: Cell::new(false),
            null,
        })
    }

    /// Returns when everything that was started before has been handed to the kernel.
    ///
    /// glommio submits when no task can run any more, so a log write that is started before a
    /// hundred sockets are sent to would begin a hundred system calls later. A write of nothing
    /// goes through the same queue behind it, and the kernel completes it on the spot.
    pub async fn fence(&self) {
        // Whatever it answers, it has been submitted.
        let _ = self.null.write_at(Vec::new(), 0).await;
    }

    pub fn write_in_flight(&self) -> bool {
        self.write_in_flight.get()
    }

    /// Creates a segment on the blocking thread, out of a spare if there is one of this length, and opens
    /// it for the writes to come.
    pub async fn create(&self, segment: SegmentId, len: u64) -> Created {
        let dir = self.dir.clone();
        let direct = self.durability == Durability::Direct;
        let spare = self.take_spare(len);
        let made = blocking(move || match spare {
            Some(spare) => segments::reuse(&dir, &spare.path, segment),
            None => segments::create(&dir, segment, len, direct),
        })
        .await;
        let mut created = segments::judge(&self.dir, segment, made);
        if created == Created::NoSpace && self.drop_spares(0).await {
            let dir = self.dir.clone();
            let made = blocking(move || segments::create(&dir, segment, len, direct)).await;
            created = segments::judge(&self.dir, segment, made);
        }
        match created {
            Created::Done => {
                self.full.set(false);
                self.segment(segment).await;
            }
            Created::NoSpace if !self.full.replace(true) => tracing::warn!(
                path = %self.dir.display(),
                bytes = len,
                "no space for another segment of the log; writes are refused when this one is full"
            ),
            Created::NoSpace => {}
        }
        created
    }

    /// Writes `data` and returns when it is durable.
    pub async fn write(&self, segment: SegmentId, offset: u64, data: &[u8]) {
        assert!(!self.write_in_flight.replace(true), "two log writes at once");
        let opened = self.open.borrow().get(&segment).cloned();
        let file = match opened {
            Some(file) => file,
            None => self.segment(segment).await,
        };
        let done = match &file {
            Segment::Direct(file) => write_direct(file, offset, data).await,
            Segment::Buffered(file) => {
                let written = glommio_files::write(file, offset, data.to_vec()).await;
                match (written, self.durability) {
                    (Ok(()), Durability::Synced) => file.fdatasync().await.map_err(plain),
                    (other, _) => other,
                }
            }
        };
        if let Err(error) = done {
            fatal::disk("write log", &self.path(segment), Some(offset), &error);
        }
        self.write_in_flight.set(false);
    }

    /// Removes a segment that nothing needs any more.
    pub async fn remove(&self, segment: SegmentId) {
        let opened = self.open.borrow_mut().remove(&segment);
        if let Some(file) = opened {
            close(file).await;
        }
        let dir = self.dir.clone();
        let keep = self.spares.borrow().len() < LOG_SPARES_MAX;
        let removed = blocking(move || {
            let bytes = std::fs::metadata(dir.join(segment.file_name()))?.len();
            if keep && bytes == SEGMENT_BYTES_DEFAULT {
                return segments::retire(&dir, segment).map(Some);
            }
            segments::remove(&dir, segment).map(|()| None)
        })
        .await;
        match removed {
            Ok(spare) => self.spares.borrow_mut().extend(spare),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => fatal::disk("remove log segment", &self.path(segment), None, &error),
        }
    }

    /// Gives the space of all spares but so many back: somebody needs it more. False if there are no more.
    pub async fn drop_spares(&self, kept: usize) -> bool {
        let mut spares = self.spares.take();
        let stay = spares.split_off(spares.len().saturating_sub(kept));
        self.spares.replace(stay);
        if spares.is_empty() {
            return false;
        }
        let removed =
            blocking(move || spares.iter().try_for_each(|spare| std::fs::remove_file(&spare.path)));
        // What is still there is found by the next start.
        if let Err(error) = removed.await {
            tracing::warn!(path = %self.dir.display(), %error, "cannot remove a spare segment");
        }
        true
    }

    /// A spare of this length, the one that was a segment longest ago.
    fn take_spare(&self, len: u64) -> Option<Spare> {
        let mut spares = self.spares.borrow_mut();
        let at = spares.iter().position(|spare| spare.bytes == len)?;
        Some(spares.remove(at))
    }

    async fn segment(&self, segment: SegmentId) -> Segment {
        let path = self.path(segment);
        let mut options = OpenOptions::new();
        options.write(true);
        let opened = match self.durability {
            Durability::Direct => options
                .custom_flags(libc::O_DSYNC)
                .dma_open(&path)
                .await
                .map(|file| Segment::Direct(Rc::new(file))),
            Durability::Synced | Durability::None => {
                options.buffered_open(&path).await.map(|file| Segment::Buffered(Rc::new(file)))
            }
        };
        let held = opened.map_err(plain).and_then(|file| {
            match &file {
                Segment::Direct(file) => files::hold(&**file)?,
                Segment::Buffered(file) => files::hold(&**file)?,
            }
            Ok(file)
        });
        match held {
            Ok(file) => {
                self.open.borrow_mut().insert(segment, file.clone());
                file
            }
            Err(error) => fatal::disk("open log segment", &path, None, &error),
        }
    }

    fn path(&self, segment: SegmentId) -> PathBuf {
        self.dir.join(segment.file_name())
    }
}

/// A short write goes on where it ended; the blocks before are durable by then.
async fn write_direct(file: &DmaFile, mut offset: u64, mut data: &[u8]) -> io::Result<()> {
    while !data.is_empty() {
        let mut buffer = file.alloc_dma_buffer(data.len());
        buffer.as_bytes_mut().copy_from_slice(data);
        let written = file.write_at(buffer, offset).await.map_err(plain)?;
        if written == 0 || written % DIRECT_ALIGN != 0 {
            return Err(short(written, data.len()));
        }
        offset += written as u64;
        data = data.get(written..).unwrap_or_default();
    }
    Ok(())
}

async fn close(file: Segment) {
    // Nothing was left to be written back, so an error here has nothing to tell.
    match file {
        Segment::Direct(file) => drop(file.close_rc().await),
        Segment::Buffered(file) => {
            if let Ok(file) = Rc::try_unwrap(file) {
                drop(file.close().await);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spare_of_another_length_is_in_nobodys_way() {
        let temp = tempfile::tempdir().unwrap();
        for (segment, bytes) in
            [(1, 8192), (2, SEGMENT_BYTES_DEFAULT), (3, 2 * SEGMENT_BYTES_DEFAULT)]
        {
            let path = temp.path().join(SegmentId(segment).file_name());
            std::fs::File::create(path).unwrap().set_len(bytes).unwrap();
            segments::retire(temp.path(), SegmentId(segment)).unwrap();
        }
        let usable = usable_spares(temp.path()).unwrap();
        assert_eq!(
            usable.iter().map(|spare| spare.bytes).collect::<Vec<_>>(),
            [SEGMENT_BYTES_DEFAULT]
        );
        assert_eq!(segments::spares(temp.path()).unwrap(), usable);
    }

    #[test]
    fn a_block_is_read_and_written_past_the_cache_where_the_file_system_lets_it() {
        let temp = tempfile::tempdir().unwrap();
        let path = segments::write_probe(temp.path(), &[7; DIRECT_ALIGN]).unwrap();
        for tried in [try_direct_read(&path), try_direct(&path)] {
            assert!(tried.err().is_none_or(|error| refuses_direct(&error)));
        }
    }
}
