//! The log against the disk it is on: `cargo bench --bench wal`.
//!
//! First, by criterion, what the log costs without a disk. Then batches of 1 to 1,000 records, in turns with bare writes
//! of the same size, `O_DIRECT | O_DSYNC` and by the same calls as the log's, into a file of zeros: what this disk can do at
//! all. Segments are made, let go and used again meanwhile, as in a server.
//!
//! The files lie below `target/`, or in the directory that `RINGD_BENCH_DIR` names: it should be on a disk.

#[allow(dead_code)]
#[path = "../common/log.rs"]
mod log;
#[path = "../common/summary.rs"]
mod summary;

use std::fs::File;
use std::hint::black_box;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use criterion::Criterion;
use wal::{Op, Options, Recovered, Writer};

use log::Log;
use summary::{SAMPLES, Summary, median, seconds};

/// A put of 256 bytes under a key of 60, in its envelope.
const RECORD: [u8; 340] = [b'r'; 340];
const BATCHES: [usize; 4] = [1, 10, 100, 1_000];

/// How long log and disk are measured in one turn, and how many turns.
const SLICE: Duration = Duration::from_millis(250);
const SLICES: usize = 15;
const DISK_FILE_BYTES: u64 = 64 << 20;

fn main() {
    let mut criterion = Criterion::default()
        .sample_size(SAMPLES)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1))
        .without_plots()
        .configure_from_args();
    let summary = Summary::default();
    for records in BATCHES {
        without_disk(&mut criterion, &summary, records);
    }
    summary.print();
    let dir = std::env::var_os("RINGD_BENCH_DIR")
        .map_or_else(|| PathBuf::from(env!("CARGO_TARGET_TMPDIR")), PathBuf::from);
    let dir = tempfile::tempdir_in(dir).expect("a directory for the log");
    println!("\n{SLICES} turns of {SLICE:?} each; medians");
    println!(
        "| records | bytes | log batches/s | disk writes/s | log/disk | records/s | CPU/record | of that user |"
    );
    println!("|---|---|---|---|---|---|---|---|");
    for records in BATCHES {
        with_disk(dir.path(), records);
    }
}

/// Records into a batch, the batch sealed, its write reported as done.
fn without_disk(criterion: &mut Criterion, summary: &Summary, records: usize) {
    let mut writer = Writer::new(Options::default(), Recovered::default());
    let mut index = 0;
    let work = format!("batch of {records}");
    summary.measure(criterion, &work, "log", records as u64, |rounds| {
        let begun = Instant::now();
        for _ in 0..rounds {
            for _ in 0..records {
                index += 1;
                writer.append(1, index, &[black_box(&RECORD)]);
            }
            writer.release(index);
            while let Some((id, op)) = writer.next_op() {
                if let Op::Write { data, .. } = op {
                    black_box(&data[..]);
                }
                writer.op_done(id);
            }
        }
        begun.elapsed()
    });
}

struct Slice {
    per_second: f64,
    /// Of all threads: user and system.
    cpu: [f64; 2],
}

fn slice(mut work: impl FnMut()) -> Slice {
    let before = cpu();
    let begun = Instant::now();
    let mut count = 0;
    while begun.elapsed() < SLICE {
        work();
        count += 1;
    }
    let count = f64::from(count);
    let per_second = count / begun.elapsed().as_secs_f64();
    let after = cpu();
    Slice { per_second, cpu: [0, 1].map(|i| (after[i] - before[i]) / count) }
}

fn with_disk(dir: &Path, records: usize) {
    let dir = dir.join(records.to_string());
    std::fs::create_dir(&dir).expect("a directory of its own");
    let mut log = Log::create(&dir);
    let mut index = 0;
    // As in the server: records collect while the batch before is written.
    let mut batch = |log: &mut Log| {
        for _ in 0..records {
            index += 1;
            log.append(index, &[&RECORD]);
        }
        log.finish_write();
        log.release(index);
        log.begin_write()
    };
    let bytes = batch(&mut log);
    let mut disk = BareDisk::create(&dir.join("bare"), bytes);
    let (mut of_log, mut of_disk) = (Vec::new(), Vec::new());
    for _ in 0..SLICES {
        of_log.push(slice(|| _ = batch(&mut log)));
        log.finish_write();
        of_disk.push(slice(|| disk.write()));
    }
    let medians = |slices: &[Slice], of: fn(&Slice) -> f64| {
        median(&slices.iter().map(of).collect::<Vec<_>>())
    };
    let ratios: Vec<_> =
        of_log.iter().zip(&of_disk).map(|(log, disk)| log.per_second / disk.per_second).collect();
    let (log, disk) = (medians(&of_log, |s| s.per_second), medians(&of_disk, |s| s.per_second));
    let per_record = |of: fn(&Slice) -> f64| seconds(medians(&of_log, of) / records as f64);
    println!(
        "| {records} | {bytes} | {log:.0} | {disk:.0} | {:.2} | {:.0} | {} | {} |",
        median(&ratios),
        log * records as f64,
        per_record(|s| s.cpu[0] + s.cpu[1]),
        per_record(|s| s.cpu[0]),
    );
    std::fs::remove_dir_all(dir).expect("the directory");
}

/// Writes of one size, one behind the other, and again from the start.
struct BareDisk {
    file: File,
    memory: Vec<u8>,
    skip: usize,
    bytes: usize,
    offset: u64,
    aio: log::Aio,
}

impl BareDisk {
    fn create(path: &Path, bytes: usize) -> BareDisk {
        log::zeroed(path, DISK_FILE_BYTES);
        let memory = vec![7; bytes + 4096];
        let skip = memory.as_ptr().align_offset(4096);
        BareDisk { file: log::direct(path), memory, skip, bytes, offset: 0, aio: log::Aio::new() }
    }

    fn write(&mut self) {
        if self.offset + self.bytes as u64 > DISK_FILE_BYTES {
            self.offset = 0;
        }
        let data = &self.memory[self.skip..self.skip + self.bytes];
        self.aio.write(self.file.as_raw_fd(), self.offset, data);
        assert_eq!(self.aio.wait(), self.bytes as i64, "a write");
        self.offset += self.bytes as u64;
    }
}

/// Seconds that this process has spent: user and system.
fn cpu() -> [f64; 2] {
    // SAFETY: `rusage` is plain data, for which zeros are valid; the call fills it in.
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        libc::getrusage(libc::RUSAGE_SELF, &mut usage);
        usage
    };
    [usage.ru_utime, usage.ru_stime].map(|time| time.tv_sec as f64 + time.tv_usec as f64 * 1e-6)
}
