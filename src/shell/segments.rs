//! The log's segment files: names, creation, removal, and reading at start-up. All of it blocking.
//!
//! Creation protocol. A segment gets its name only when it is whole:
//!
//! 1. A file under a temporary name, its space reserved (`fallocate`): a full disk shows here.
//! 2. Zeros over all of it. The blocks become written blocks, so that a later `O_DSYNC` write into
//!    them changes no metadata and needs no journal commit.
//! 3. Sync of the file, rename, sync of the directory. Torn before: a temporary file, removed at
//!    the next start. Torn between rename and the last sync: either name may be found; both are fine,
//!    since nothing has been written into the segment yet.
//!
//! The zeros are as many bytes as the log itself, so they are written for the first few segments only.
//! A segment that nothing needs any more is kept, as a *spare* under another name, and becomes a later
//! one. What is in it stays there: the log knows it by its stamps. The order:
//!
//! 1. Rename to the spare's name, sync of the directory. Torn: the segment is still the oldest, or
//!    it is gone.
//! 2. Only then it can be taken: rename to the new segment's name, sync of the directory. Torn: it is
//!    a spare or a segment that nothing was written to.
//! 3. Only then it is written to. Sooner, a crash could leave the new content under an old name.

use super::limits::{DIRECT_ALIGN, ZERO_PAUSE_MAX, ZERO_PAUSES, ZERO_PIECE_BYTES};
use super::{fatal, files};
use memmap2::Mmap;
use std::ffi::OsStr;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Instant;
use wal::{Content, SegmentId, SegmentSource};

const SUFFIX: &str = ".log";
/// What is not a segment yet; removed at start.
const TEMP_SUFFIX: &str = ".log.tmp";
/// What was a segment and will be one again.
const SPARE_SUFFIX: &str = ".log.spare";

/// Segment of a file name; `None` for whatever else lies in the directory.
pub fn parse(name: &OsStr) -> Option<SegmentId> {
    let digits = name.to_str()?.strip_suffix(SUFFIX)?;
    let lower_hex = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    if digits.len() != 16 || !digits.bytes().all(lower_hex) {
        return None;
    }
    u64::from_str_radix(digits, 16).ok().map(SegmentId)
}

fn temp_name(segment: SegmentId) -> String {
    format!("{:016x}{TEMP_SUFFIX}", segment.0)
}

/// A file of `content` under a temporary name, for trying something out.
pub fn write_probe(dir: &Path, content: &[u8]) -> io::Result<PathBuf> {
    let path = dir.join(format!("probe{TEMP_SUFFIX}"));
    files::write_synced(&path, content)?;
    Ok(path)
}

/// Makes a segment of `len` zero bytes, durably. On any error the temporary file is gone again.
pub fn create(dir: &Path, segment: SegmentId, len: u64, direct: bool) -> io::Result<()> {
    let temp = dir.join(temp_name(segment));
    // Somebody waits for the first one only.
    let paced = segment != SegmentId::FIRST;
    let made = fill(&temp, len, direct, paced)
        .and_then(|()| std::fs::rename(&temp, dir.join(segment.file_name())))
        .and_then(|()| files::sync_dir(dir));
    if made.is_err() {
        // Best effort: the next start removes what stays.
        let _ = std::fs::remove_file(&temp);
    }
    made
}

fn fill(temp: &Path, len: u64, direct: bool, paced: bool) -> io::Result<()> {
    let file = files::create(temp)?;
    files::preallocate(&file, len)?;
    let zeroed = if direct {
        let direct = OpenOptions::new().write(true).custom_flags(libc::O_DIRECT).open(temp)?;
        write_zeros(&direct, len, paced)
    } else {
        write_zeros(&file, len, paced)
    };
    zeroed?;
    file.sync_all()
}

fn write_zeros(file: &File, len: u64, paced: bool) -> io::Result<()> {
    // O_DIRECT wants an aligned address, which a vector has somewhere in its first few KiB.
    let memory = vec![0; ZERO_PIECE_BYTES + DIRECT_ALIGN];
    let skip = memory.as_ptr().align_offset(DIRECT_ALIGN);
    let mut offset = 0;
    while offset < len {
        let piece = usize::try_from(len - offset).unwrap_or(usize::MAX).min(ZERO_PIECE_BYTES);
        let zeros = memory.get(skip..skip + piece).ok_or(io::ErrorKind::InvalidInput)?;
        let started = Instant::now();
        file.write_all_at(zeros, offset)?;
        offset += piece as u64;
        if paced {
            std::thread::sleep((started.elapsed() * ZERO_PAUSES).min(ZERO_PAUSE_MAX));
        }
    }
    Ok(())
}

/// Makes a segment out of a spare.
pub fn reuse(dir: &Path, spare: &Path, segment: SegmentId) -> io::Result<()> {
    std::fs::rename(spare, dir.join(segment.file_name()))?;
    files::sync_dir(dir)
}

/// Makes a spare out of a segment that is not needed any more, durably.
pub fn retire(dir: &Path, segment: SegmentId) -> io::Result<Spare> {
    let path = dir.join(format!("{:016x}{SPARE_SUFFIX}", segment.0));
    std::fs::rename(dir.join(segment.file_name()), &path)?;
    files::sync_dir(dir)?;
    let bytes = std::fs::metadata(&path)?.len();
    Ok(Spare { path, bytes })
}

/// A file that was a segment and can be one again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spare {
    pub path: PathBuf,
    pub bytes: u64,
}

/// The spares in a directory, those of the oldest segments first.
pub fn spares(dir: &Path) -> io::Result<Vec<Spare>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        if of_spare(&entry.file_name()).is_some() {
            found.push(Spare { path: entry.path(), bytes: entry.metadata()?.len() });
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(found)
}

/// The segment that a spare was, by its name.
fn of_spare(name: &OsStr) -> Option<SegmentId> {
    parse(OsStr::new(&format!("{}{SUFFIX}", name.to_str()?.strip_suffix(SPARE_SUFFIX)?)))
}

/// Whether a file of this name belongs to a log.
pub fn is_of_log(name: &OsStr) -> bool {
    parse(name).or_else(|| of_spare(name)).is_some()
}

/// Removes a segment durably. The log has no gaps: were two removals to reach the disk in another
/// order than they were made in, there would be one.
pub fn remove(dir: &Path, segment: SegmentId) -> io::Result<()> {
    std::fs::remove_file(dir.join(segment.file_name()))?;
    files::sync_dir(dir)
}

/// Removes what a crash left of unfinished creations, and spares that are not older than the log, as
/// where somebody has put an older log in the place of a newer one: what is in them would not be known
/// for what it is.
pub fn remove_leftovers(dir: &Path) -> io::Result<()> {
    let oldest = list(dir)?.into_iter().map(|(segment, _)| segment).min();
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        let unfinished = name.to_str().is_some_and(|name| name.ends_with(TEMP_SUFFIX));
        let foreign =
            of_spare(&name).is_some_and(|spare| oldest.is_none_or(|oldest| spare >= oldest));
        if unfinished || foreign {
            std::fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// The segments in a directory, with their lengths.
pub fn list(dir: &Path) -> io::Result<Vec<(SegmentId, u64)>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        if let Some(segment) = parse(&entry.file_name()) {
            found.push((segment, entry.metadata()?.len()));
        }
    }
    Ok(found)
}

/// The segments as recovery reads them: settled first.
#[derive(Debug)]
pub struct Segments {
    dir: PathBuf,
    unclean: bool,
}

impl Segments {
    /// Clears leftovers, so that nothing but segments is there when recovery looks.
    pub fn open(dir: &Path, unclean: bool) -> io::Result<Segments> {
        remove_leftovers(dir)?;
        files::sync_dir(dir)?;
        Ok(Segments { dir: dir.to_owned(), unclean })
    }
}

/// The content of a file, of which nothing is copied to the heap. It is read once before, so that what the disk
/// cannot deliver is an error, and not the end of the process where it is looked at.
fn content(file: &File) -> io::Result<Mmap> {
    let mut piece = vec![0; ZERO_PIECE_BYTES];
    let mut offset = 0;
    loop {
        match file.read_at(&mut piece, offset)? {
            0 => break,
            read => offset += read as u64,
        }
    }
    // SAFETY: the file stays as it is while it is mapped. The directory is this process's alone, and segments
    // are written to when recovery is over, which lets go of what it has read.
    unsafe { Mmap::map(file) }
}

impl SegmentSource for Segments {
    fn list(&mut self) -> io::Result<Vec<(SegmentId, u64)>> {
        list(&self.dir)
    }

    /// The whole of one segment, after what an earlier process wrote into it has been made durable.
    fn read(&mut self, segment: SegmentId) -> io::Result<Content> {
        let path = self.dir.join(segment.file_name());
        let file = File::open(&path)?;
        files::settle(&file, self.unclean)?;
        Ok(Box::new(content(&file)?))
    }
}

/// What became of a creation on the blocking thread: a full disk is the caller's to survive, any
/// other failure ends the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Created {
    Done,
    NoSpace,
}

/// The outcome of a creation, or the end.
pub fn judge(dir: &Path, segment: SegmentId, made: io::Result<()>) -> Created {
    match made {
        Ok(()) => Created::Done,
        Err(error) if files::is_no_space(&error) => Created::NoSpace,
        Err(error) => {
            fatal::disk("create log segment", &dir.join(segment.file_name()), None, &error)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEN: u64 = 3 * ZERO_PIECE_BYTES as u64 / 2;

    fn names(dir: &Path) -> Vec<String> {
        let name = |entry: io::Result<std::fs::DirEntry>| {
            entry.unwrap().file_name().into_string().unwrap()
        };
        let mut names: Vec<_> = std::fs::read_dir(dir).unwrap().map(name).collect();
        names.sort();
        names
    }

    #[test]
    fn names_read_back_and_nothing_else_is_a_segment() {
        for segment in [0, 1, 0xdead_beef, u64::MAX].map(SegmentId) {
            assert_eq!(parse(OsStr::new(&segment.file_name())), Some(segment));
            assert_eq!(parse(OsStr::new(&temp_name(segment))), None);
            assert!(!is_of_log(OsStr::new(&temp_name(segment))));
            let spare = format!("{}{SPARE_SUFFIX}", &segment.file_name()[..16]);
            assert_eq!(
                (parse(OsStr::new(&spare)), of_spare(OsStr::new(&spare))),
                (None, Some(segment))
            );
        }
        for other in [
            "format",
            ".log",
            "1.log",
            "000000000000000g.log",
            "000000000000000A.log",
            "+000000000000001.log",
            "0000000000000001.wal",
            "00000000000000001.log",
        ] {
            assert_eq!(parse(OsStr::new(other)), None, "{other}");
        }
    }

    #[test]
    fn a_created_segment_is_whole_and_zero_and_has_its_blocks() {
        use std::os::unix::fs::MetadataExt;
        let temp = tempfile::tempdir().unwrap();
        create(temp.path(), SegmentId(5), LEN, false).unwrap();
        let mut segments = Segments::open(temp.path(), true).unwrap();
        assert_eq!(segments.list().unwrap(), [(SegmentId(5), LEN)]);
        assert!(segments.read(SegmentId(5)).unwrap().iter().all(|byte| *byte == 0));
        let blocks =
            std::fs::metadata(temp.path().join(SegmentId(5).file_name())).unwrap().blocks();
        assert!(blocks * 512 >= LEN, "{blocks} blocks");
    }

    #[test]
    fn leftovers_of_a_crashed_creation_are_removed_and_all_else_is_kept() {
        let temp = tempfile::tempdir().unwrap();
        create(temp.path(), SegmentId(1), 4096, false).unwrap();
        std::fs::write(temp.path().join(temp_name(SegmentId(2))), b"half").unwrap();
        write_probe(temp.path(), b"").unwrap();
        std::fs::write(temp.path().join("format"), b"").unwrap();
        let mut segments = Segments::open(temp.path(), false).unwrap();
        assert_eq!(segments.list().unwrap(), [(SegmentId(1), 4096)]);
        assert_eq!(names(temp.path()), [SegmentId(1).file_name().as_str(), "format"]);
    }

    #[test]
    fn a_leftover_under_the_name_that_is_wanted_is_overwritten() {
        let temp = tempfile::tempdir().unwrap();
        std::fs::write(temp.path().join(temp_name(SegmentId(1))), [0xff; 9000]).unwrap();
        create(temp.path(), SegmentId(1), 4096, false).unwrap();
        let mut segments = Segments::open(temp.path(), false).unwrap();
        assert_eq!(segments.read(SegmentId(1)).unwrap()[..], [0; 4096]);
    }

    #[test]
    fn a_file_is_read_as_it_is_and_to_its_end() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("segment");
        let len = 2 * ZERO_PIECE_BYTES + 4096;
        for at in [None, Some(0), Some(ZERO_PIECE_BYTES + 77), Some(len - 1)] {
            let mut content = vec![0; len];
            if let Some(at) = at {
                content[at] = 1;
            }
            std::fs::write(&path, &content).unwrap();
            assert!(super::content(&File::open(&path).unwrap()).unwrap()[..] == content, "{at:?}");
        }
    }

    #[test]
    fn a_removed_segment_is_gone() {
        let temp = tempfile::tempdir().unwrap();
        for segment in [1, 2, 3].map(SegmentId) {
            create(temp.path(), segment, 4096, false).unwrap();
        }
        remove(temp.path(), SegmentId(1)).unwrap();
        assert_eq!(names(temp.path()), [SegmentId(2).file_name(), SegmentId(3).file_name()]);
    }

    #[test]
    fn a_segment_becomes_a_spare_and_a_later_segment_with_what_is_in_it() {
        let temp = tempfile::tempdir().unwrap();
        for segment in [1, 2, 3].map(SegmentId) {
            create(temp.path(), segment, 4096, false).unwrap();
        }
        std::fs::write(temp.path().join(SegmentId(1).file_name()), [7; 4096]).unwrap();
        let first = retire(temp.path(), SegmentId(1)).unwrap();
        let second = retire(temp.path(), SegmentId(2)).unwrap();
        let mut segments = Segments::open(temp.path(), true).unwrap();
        assert_eq!(segments.list().unwrap(), [(SegmentId(3), 4096)], "a spare is no segment");
        assert_eq!(spares(temp.path()).unwrap(), [first.clone(), second.clone()]);
        reuse(temp.path(), &first.path, SegmentId(4)).unwrap();
        assert_eq!(spares(temp.path()).unwrap(), [second]);
        assert_eq!(segments.read(SegmentId(4)).unwrap()[..], [7; 4096]);
    }

    #[test]
    fn a_spare_that_is_not_older_than_the_log_is_removed() {
        let temp = tempfile::tempdir().unwrap();
        for segment in [4, 5, 6].map(SegmentId) {
            create(temp.path(), segment, 4096, false).unwrap();
            retire(temp.path(), segment).unwrap();
        }
        create(temp.path(), SegmentId(5), 4096, false).unwrap();
        Segments::open(temp.path(), false).unwrap();
        let left: Vec<_> =
            spares(temp.path()).unwrap().into_iter().map(|spare| spare.path).collect();
        assert_eq!(left, [temp.path().join("0000000000000004.log.spare")]);
        retire(temp.path(), SegmentId(5)).unwrap();
        Segments::open(temp.path(), false).unwrap();
        assert_eq!(spares(temp.path()).unwrap(), [], "there is no log that it could be of");
    }

    #[test]
    fn a_creation_that_finds_no_space_leaves_nothing_and_is_survived() {
        let temp = tempfile::tempdir().unwrap();
        // No file system has this much space, whatever errno it has for that.
        create(temp.path(), SegmentId(1), 1 << 62, false).unwrap_err();
        assert_eq!(std::fs::read_dir(temp.path()).unwrap().count(), 0);
        let full = Err(io::Error::from_raw_os_error(libc::ENOSPC));
        assert_eq!(judge(temp.path(), SegmentId(1), full), Created::NoSpace);
        assert_eq!(judge(temp.path(), SegmentId(1), Ok(())), Created::Done);
    }
}
