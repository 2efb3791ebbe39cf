//! Small durable steps on files and directories, blocking: for start-up and for glommio's blocking
//! thread, never for the loop.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

#[cfg(test)]
pub mod journal;

/// etcd's modes: the data of a cluster is nobody else's to read.
const DIR_MODE: u32 = 0o700;
const FILE_MODE: u32 = 0o600;

/// Makes the names in `dir` durable.
pub fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()?;
    #[cfg(test)]
    journal::note(journal::Step::SyncDir(dir.to_owned()));
    Ok(())
}

/// Gives a file or directory another name; durable after [`sync_dir`].
pub fn rename(from: &Path, to: &Path) -> io::Result<()> {
    std::fs::rename(from, to)?;
    #[cfg(test)]
    journal::note(journal::Step::Rename(from.to_owned(), to.to_owned()));
    Ok(())
}

/// Creates `dir` and what is missing above it; every new name is durable when this returns.
pub fn create_dir_durably(dir: &Path) -> io::Result<()> {
    if dir.is_dir() {
        return Ok(());
    }
    let parent = match dir.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    create_dir_durably(parent)?;
    match DirBuilder::new().mode(DIR_MODE).create(dir) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && dir.is_dir() => {}
        other => other?,
    }
    #[cfg(test)]
    journal::note(journal::Step::MakeDir(dir.to_owned()));
    sync_dir(parent)
}

/// Writes a whole new file and syncs it; its name is durable only after [`sync_dir`].
pub fn write_synced(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut file = create(path)?;
    file.write_all(content)?;
    #[cfg(test)]
    journal::note(journal::Step::Write(path.to_owned(), content.to_vec()));
    file.sync_all()?;
    #[cfg(test)]
    journal::note(journal::Step::SyncFile(path.to_owned()));
    Ok(())
}

/// Replaces the content of a file in one step: readers and crashes see the old or the new.
pub fn replace_durably(path: &Path, content: &[u8]) -> io::Result<()> {
    let temp = path.with_extension("tmp");
    write_synced(&temp, content)?;
    rename(&temp, path)?;
    sync_dir(path.parent().unwrap_or(Path::new(".")))
}

/// An empty file for writing, whatever was there.
pub fn create(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create(true).truncate(true).mode(FILE_MODE).open(path)
}

/// A file for reading and writing that stays as it is if it exists.
pub fn open_or_create(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(FILE_MODE)
        .open(path)
}

/// Before the first read of a file: what an earlier process wrote and did not sync may be in the
/// page cache only, and a power cut later would take it back.
///
/// First it waits until no write of that process is under way. One that was killed may be gone, its
/// lock on the data directory with it, while the kernel still carries out a write that io_uring had
/// taken: it would land on top of what we write after looking. Such a write keeps its open file
/// alive, and with it the lock of [`hold`].
///
/// After an unclean stop the cache is not believed at all. A page whose write-back failed looks
/// clean and newer than the disk, and the process that was told of it is gone.
pub fn settle(file: &File, unclean: bool) -> io::Result<()> {
    match file.lock() {
        Ok(()) => file.unlock()?,
        // No locks here, as on some network file systems; then there is no way to know.
        Err(error) if no_locks(&error) => {}
        Err(error) => return Err(error),
    }
    file.sync_all()?;
    if unclean {
        // SAFETY: only the descriptor is handed over, and it is open. The answer is not needed:
        // it is advice.
        unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED) };
    }
    Ok(())
}

/// Marks an open file as one that writes are made through, for as long as it or a write is there.
pub fn hold(file: &impl AsRawFd) -> io::Result<()> {
    // SAFETY: only numbers are handed over, and the caller's file is open.
    if unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) } == 0 {
        return Ok(());
    }
    let error = io::Error::last_os_error();
    if no_locks(&error) { Ok(()) } else { Err(error) }
}

fn no_locks(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOLCK | libc::EOPNOTSUPP | libc::ENOSYS))
}

/// Reserves space for `len` bytes. `Ok(false)` where the file system has no such call.
pub fn preallocate(file: &File, len: u64) -> io::Result<bool> {
    let len = libc::off_t::try_from(len).map_err(|_| io::ErrorKind::FileTooLarge)?;
    loop {
        // SAFETY: only the descriptor is handed over, and it is open.
        if unsafe { libc::fallocate(file.as_raw_fd(), 0, 0, len) } == 0 {
            return Ok(true);
        }
        let error = io::Error::last_os_error();
        match error.raw_os_error() {
            Some(libc::EOPNOTSUPP | libc::ENOSYS) => return Ok(false),
            Some(libc::EINTR) => {}
            _ => return Err(error),
        }
    }
}

/// Bytes nobody can guess, for identities and seeds.
pub fn random<const LEN: usize>() -> io::Result<[u8; LEN]> {
    let mut bytes = [0; LEN];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// The errors that mean a full disk, not a broken one: no space, or no quota.
pub fn is_no_space(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOSPC | libc::EDQUOT))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nested_directories_are_made_and_made_again_without_complaint() {
        let temp = tempfile::tempdir().unwrap();
        let deep = temp.path().join("a/b/c");
        create_dir_durably(&deep).unwrap();
        create_dir_durably(&deep).unwrap();
        assert!(deep.is_dir());
    }

    #[test]
    fn a_file_in_the_way_of_a_directory_is_an_error() {
        let temp = tempfile::tempdir().unwrap();
        std::fs::write(temp.path().join("a"), b"").unwrap();
        assert!(create_dir_durably(&temp.path().join("a")).is_err());
        assert!(create_dir_durably(&temp.path().join("a/b")).is_err());
    }

    #[test]
    fn a_replaced_file_leaves_no_temporary_name() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("format");
        replace_durably(&path, b"one").unwrap();
        replace_durably(&path, b"two").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"two");
        assert_eq!(std::fs::read_dir(temp.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_file_is_not_read_while_writes_are_made_through_it() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("segment");
        let writer = create(&path).unwrap();
        hold(&writer).unwrap();
        let (told, tell) = std::sync::mpsc::channel();
        let reader = std::thread::spawn(move || {
            settle(&File::open(path).unwrap(), true).unwrap();
            tell.try_recv().is_ok()
        });
        told.send(()).unwrap();
        drop(writer);
        assert!(reader.join().unwrap(), "it settled while the writer was there");
    }

    #[test]
    fn only_missing_space_counts_as_a_full_disk() {
        for (errno, full) in [
            (libc::ENOSPC, true),
            (libc::EDQUOT, true),
            (libc::EIO, false),
            (libc::EROFS, false),
            (libc::EFBIG, false),
        ] {
            assert_eq!(is_no_space(&io::Error::from_raw_os_error(errno)), full, "errno {errno}");
        }
        assert!(!is_no_space(&io::Error::other("no errno at all")));
    }
}
