//! The log on a real disk, as the server drives it: batches by `O_DIRECT | O_DSYNC` while others collect, segments made
//! ahead of their use by a thread beside, out of those that have gone if there are any.

use std::fs::{File, OpenOptions};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};

use wal::{AlignedBuf, Op, OpId, Options, SegmentId, Writer};

/// Zeros written at once.
const ZEROS: usize = 256 << 10;

pub struct Log {
    writer: Writer,
    dir: PathBuf,
    open: Option<(SegmentId, File)>,
    beside: Sender<(OpId, Op)>,
    done: Receiver<OpId>,
    aio: Aio,
    in_flight: Option<(OpId, AlignedBuf)>,
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
        let (dir, aio) = (dir.to_owned(), Aio::new());
        Log { writer, dir, open: None, beside, done, aio, in_flight: None }
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
        let bytes = self.begin_write();
        self.finish_write();
        bytes
    }

    /// Begins to write what was appended; how many bytes that are.
    pub fn begin_write(&mut self) -> usize {
        assert!(self.in_flight.is_none(), "one write at a time");
        loop {
            while let Ok(id) = self.done.try_recv() {
                self.writer.op_done(id);
            }
            match self.writer.next_op() {
                Some((id, Op::Write { segment, offset, data })) => {
                    let file = self.file(segment).as_raw_fd();
                    self.aio.write(file, offset, &data);
                    let bytes = data.len();
                    self.in_flight = Some((id, data));
                    // While it is written, segments are made and let go.
                    while let Some(op) = self.writer.next_op() {
                        self.beside.send(op).expect("the thread beside");
                    }
                    return bytes;
                }
                Some(op) => self.beside.send(op).expect("the thread beside"),
                None => {
                    let id = self.done.recv().expect("the thread beside");
                    self.writer.op_done(id);
                }
            }
        }
    }

    /// Returns when the write that was begun is durable.
    pub fn finish_write(&mut self) {
        let Some((id, data)) = self.in_flight.take() else { return };
        assert_eq!(self.aio.wait(), data.len() as i64, "a write of the log");
        drop(data);
        self.writer.op_done(id);
    }

    fn file(&mut self, segment: SegmentId) -> &File {
        if self.open.as_ref().is_none_or(|(open, _)| *open != segment) {
            self.open = Some((segment, direct(&self.dir.join(segment.file_name()))));
        }
        &self.open.as_ref().expect("just opened").1
    }
}

/// A write that the kernel carries out while we go on.
pub struct Aio {
    context: u64,
}

#[repr(C)]
#[derive(Default)]
struct Iocb {
    data: u64,
    key: u32,
    rw_flags: i32,
    opcode: u16,
    priority: i16,
    file: u32,
    buffer: u64,
    bytes: u64,
    offset: i64,
    reserved: u64,
    flags: u32,
    event_file: u32,
}

const _: () = assert!(size_of::<Iocb>() == 64);

#[repr(C)]
#[derive(Default)]
struct Event {
    data: u64,
    iocb: u64,
    result: i64,
    result_2: i64,
}

impl Aio {
    const PWRITE: u16 = 1;

    pub fn new() -> Aio {
        let mut context = 0u64;
        // SAFETY: the call writes a number to where it is told.
        let failed = unsafe { libc::syscall(libc::SYS_io_setup, 1, &raw mut context) };
        assert!(failed == 0, "no asynchronous I/O: {}", std::io::Error::last_os_error());
        Aio { context }
    }

    /// `data` stays as it is until `wait` has returned.
    pub fn write(&mut self, file: i32, offset: u64, data: &[u8]) {
        let mut iocb = Iocb {
            opcode: Aio::PWRITE,
            file: file as u32,
            buffer: data.as_ptr() as u64,
            bytes: data.len() as u64,
            offset: offset as i64,
            ..Default::default()
        };
        let list = [&raw mut iocb];
        // SAFETY: the kernel copies the block; its buffer lives until `wait`, as is asked for.
        let begun = unsafe { libc::syscall(libc::SYS_io_submit, self.context, 1, list.as_ptr()) };
        assert!(begun == 1, "a write of the log: {}", std::io::Error::last_os_error());
    }

    /// Bytes written, or an error.
    pub fn wait(&mut self) -> i64 {
        let mut event = Event::default();
        let none: *mut libc::timespec = std::ptr::null_mut();
        // SAFETY: the kernel writes one event to where it is told.
        let done = unsafe {
            libc::syscall(libc::SYS_io_getevents, self.context, 1, 1, &raw mut event, none)
        };
        assert!(done == 1, "a write of the log: {}", std::io::Error::last_os_error());
        event.result
    }
}

impl Drop for Aio {
    fn drop(&mut self) {
        // SAFETY: the context is ours; the call waits for what is in flight.
        unsafe { libc::syscall(libc::SYS_io_destroy, self.context) };
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
