//! The log on a real disk, as the server drives it, but with blocking calls: batches by `O_DIRECT | O_DSYNC`, segments
//! made ahead of their use by a thread beside, out of those that have gone if there are any.

use std::fs::{File, OpenOptions};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};

use wal::{Op, OpId, Options, SegmentId, Writer};

/// Zeros written at once.
const ZEROS: usize = 256 << 10;

pub struct Log {
    writer: Writer,
    dir: PathBuf,
    open: Option<(SegmentId, File)>,
    beside: Sender<(OpId, Op)>,
    done: Receiver<OpId>,
}

impl Log {
    pub fn create(dir: &Path) -> Log {
        let (beside, ops) = channel::<(OpId, Op)>();
        let (report, done) = channel();
        let folder = dir.to_owned();
        std::thread::spawn(move || {
            for (id, op) in ops {
                carry_out(&folder, &op);
                if report.send(id).is_err() {
                    break;
                }
            }
        });
        let writer = Writer::new(Options::default(), wal::Recovered::default());
        Log { writer, dir: dir.to_owned(), open: None, beside, done }
    }

    #[inline]
    pub fn append(&mut self, index: u64, parts: &[&[u8]]) {
        self.writer.append(1, index, parts);
    }

    /// Records below are not needed any more.
    pub fn release(&mut self, index: u64) {
        self.writer.release(index);
    }

    /// Writes what was appended; returns when it is durable, and how many bytes that were.
    pub fn write(&mut self) -> usize {
        let mut bytes = 0;
        loop {
            while let Ok(id) = self.done.try_recv() {
                self.writer.op_done(id);
            }
            match self.writer.next_op() {
                Some((id, Op::Write { segment, offset, data })) => {
                    self.file(segment).write_all_at(&data, offset).expect("a write of the log");
                    bytes += data.len();
                    drop(data);
                    self.writer.op_done(id);
                }
                Some(op) => self.beside.send(op).expect("the thread beside"),
                None if self.writer.pending_bytes() == 0 => return bytes,
                None => {
                    let id = self.done.recv().expect("the thread beside");
                    self.writer.op_done(id);
                }
            }
        }
    }

    fn file(&mut self, segment: SegmentId) -> &File {
        if self.open.as_ref().is_none_or(|(open, _)| *open != segment) {
            self.open = Some((segment, direct(&self.dir.join(segment.file_name()))));
        }
        &self.open.as_ref().expect("just opened").1
    }
}

/// A file whose writes go past the page cache and are durable when they return.
pub fn direct(path: &Path) -> File {
    OpenOptions::new()
        .write(true)
        .custom_flags(libc::O_DIRECT | libc::O_DSYNC)
        .open(path)
        .expect("a file system that takes O_DIRECT")
}

/// A file of zeros that are on the disk, so that writes into it change no metadata; made as `src/shell/segments.rs` makes
/// a segment.
pub fn zeroed(path: &Path, bytes: u64) {
    let file = File::create(path).expect("a new file");
    // SAFETY: a call on an open file; nothing is handed over but numbers.
    let failed = unsafe { libc::fallocate(file.as_raw_fd(), 0, 0, bytes as i64) };
    assert!(failed == 0, "no space for {bytes} bytes");
    let past_the_cache =
        OpenOptions::new().write(true).custom_flags(libc::O_DIRECT).open(path).expect("the file");
    let memory = vec![0; ZEROS + 4096];
    let skip = memory.as_ptr().align_offset(4096);
    let mut offset = 0;
    while offset < bytes {
        let piece = (bytes - offset).min(ZEROS as u64);
        let zeros = &memory[skip..skip + piece as usize];
        past_the_cache.write_all_at(zeros, offset).expect("zeros");
        offset += piece;
    }
    file.sync_all().expect("a sync");
}

fn carry_out(dir: &Path, op: &Op) {
    match op {
        Op::Create { segment, bytes } => {
            let made = dir.join("segment.tmp");
            let spare = dir.join("segment.spare");
            let has_spare = std::fs::metadata(&spare).is_ok_and(|spare| spare.len() == *bytes);
            if !has_spare {
                zeroed(&made, *bytes);
            }
            let from = if has_spare { spare } else { made };
            std::fs::rename(from, dir.join(segment.file_name())).expect("a rename");
        }
        Op::Remove { segment } => {
            // One is enough: what is written is released at once.
            let spare = dir.join("segment.spare");
            std::fs::rename(dir.join(segment.file_name()), spare).expect("a segment that has gone");
        }
        Op::Write { .. } => unreachable!("written by the one who appends"),
    }
    File::open(dir).and_then(|dir| dir.sync_all()).expect("a sync of the directory");
}
