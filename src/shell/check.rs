//! `ringd check DATA-DIR`: is what the disk holds what was written to it?
//!
//! All of the log and of the store is read and verified, and the two are put together as at a start.
//! Nothing is written, and no member can start meanwhile. The page cache is given back first where
//! the system lets it, so that what is verified is what the disk holds.
//!
//! This file reads and counts; what is sound is decided by `wal::verify`, the store's scrub and
//! check, and `Node::new`. What it has found is printed by `report.rs`.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, IsTerminal};
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use wal::{SegmentId, SegmentSource};

use super::data_dir::DataDir;
use super::limits::ZERO_PIECE_BYTES;
use super::{open, segments};
use crate::apply::{self, Applier};
use crate::config::{Command, Config};
use crate::node::{self, Metadata, Node};
use crate::store::{self, Map, PAGE_SIZE, PageId, Store};
use report::{Finding, Report};

mod report;

/// Nothing has been checked: the command line or the directory does not allow it.
const EXIT_USAGE: u8 = 2;
const EXIT_DAMAGED: u8 = 1;

const USAGE: &str = "\
Usage:
  ringd check [--wal-dir DIR] [--json] DATA-DIR

Verifies every byte of a member's log and store, and that the two fit together. The member must not
be running; nothing is written. Exit code 0: sound; 1: damaged, with file and offset of each finding;
2: nothing was checked.
";

/// Pages verified between two looks at the progress bar.
const PAGES_PER_STEP: u32 = 1024;

struct Arguments {
    data_dir: PathBuf,
    wal_dir: Option<PathBuf>,
    json: bool,
}

/// Checks, prints, and says how it went. `args`: what follows `check`.
pub fn run(args: impl Iterator<Item = OsString>) -> ExitCode {
    let arguments = match parse(args) {
        Ok(Some(arguments)) => arguments,
        Ok(None) => {
            print!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        Err(line) => {
            eprintln!("{line}");
            return ExitCode::from(EXIT_USAGE);
        }
    };
    match check(&arguments) {
        Ok(report) => {
            let text = if arguments.json { report.json() } else { report.text() };
            print!("{text}");
            ExitCode::from(if report.is_sound() { 0 } else { EXIT_DAMAGED })
        }
        Err(line) => {
            eprintln!("{line}");
            ExitCode::from(EXIT_USAGE)
        }
    }
}

/// None if help was asked for.
fn parse(args: impl Iterator<Item = OsString>) -> Result<Option<Arguments>, String> {
    let (mut data_dir, mut wal_dir, mut json) = (None, None, false);
    let mut args = args;
    while let Some(arg) = args.next() {
        match arg.to_str() {
            Some("--help" | "-h") => return Ok(None),
            Some("--json") => json = true,
            Some("--wal-dir") => {
                let dir = args.next().ok_or("flag needs an argument: --wal-dir")?;
                wal_dir = Some(PathBuf::from(dir));
            }
            Some(flag) if flag.starts_with('-') => {
                return Err(format!("flag provided but not defined: {flag} (ringd check --help)"));
            }
            _ if data_dir.is_none() => data_dir = Some(PathBuf::from(arg)),
            _ => return Err(format!("{arg:?} is one directory too many (ringd check --help)")),
        }
    }
    let data_dir = data_dir.ok_or("which data directory? ringd check DATA-DIR")?;
    Ok(Some(Arguments { data_dir, wal_dir, json }))
}

/// The error is one line: nothing has been checked.
fn check(arguments: &Arguments) -> Result<Report, String> {
    let data_dir = DataDir::inspect(&arguments.data_dir, arguments.wal_dir.as_deref())
        .map_err(|error| error.to_string())?;
    let mut report = Report::new(&data_dir);
    let store_path = data_dir.store_path();
    let in_store = |error: &dyn std::fmt::Display| format!("{}: {error}", store_path.display());
    let store_file = File::open(&store_path).map_err(|error| in_store(&error))?;
    let store_bytes = store_file.metadata().map_err(|error| in_store(&error))?.len();
    let mut log = Log { dir: data_dir.wal_path().to_owned(), bar: ProgressBar::hidden() };
    let log_bytes: u64 = log
        .list()
        .map_err(|error| format!("{}: {error}", log.dir.display()))?
        .iter()
        .map(|&(_, bytes)| bytes)
        .sum();
    let bar = progress(log_bytes + 2 * store_bytes);
    log.bar = bar.clone();

    let store = check_store(&store_path, &store_file, store_bytes, &bar, &mut report);
    let start = store.map(|store| Start::new(&data_dir, store)).transpose()?.flatten();
    let mut recovered = match &start {
        Some(start) => start.recovered(),
        None => node::Recovered::new((0, 0), 0, 0),
    };
    let verified = wal::verify(&mut log, &mut |record| {
        recovered.visit(record.kind, record.index, record.bytes());
    });
    bar.finish_and_clear();
    let verified = verified.map_err(|error| format!("{}: {error}", log.dir.display()))?;
    report.log(&verified, &recovered);
    if let Some(start) = start
        && report.is_sound()
    {
        report.together(start.put_together(verified.recovered, recovered));
    }
    Ok(report)
}

fn progress(bytes: u64) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(bytes), ProgressDrawTarget::stderr());
    if !io::stderr().is_terminal() {
        bar.set_draw_target(ProgressDrawTarget::hidden());
    }
    let style = ProgressStyle::with_template("{bar:40} {bytes} of {total_bytes}, {eta} to go");
    if let Ok(style) = style {
        bar.set_style(style);
    }
    bar
}

/// The store, if it is sound.
fn check_store(
    path: &Path,
    file: &File,
    bytes: u64,
    bar: &ProgressBar,
    report: &mut Report,
) -> Option<Store> {
    forget_cached(file);
    // Read before it is mapped: an error of the medium is then a line, and not a signal.
    if let Err((offset, error)) = read_through(file, bytes, bar) {
        report.finding(Finding::at(path, Some(offset), format!("cannot be read: {error}")));
        return None;
    }
    let opened = Map::open(file, bytes.max(PAGE_SIZE as u64))
        .map_err(|error| format!("cannot be mapped: {error}"))
        .and_then(|map| {
            Store::open(map, bytes, store::Options::default()).map_err(|error| error.to_string())
        });
    let store = match opened {
        Ok(store) => store,
        Err(what) => {
            report.finding(Finding::at(path, None, what));
            return None;
        }
    };
    let before = report.findings();
    let mut from = PageId::NONE;
    loop {
        match store.scrub_step(from, PAGES_PER_STEP) {
            Ok(progress) => {
                bar.inc(u64::from(progress.verified_pages) * PAGE_SIZE as u64);
                match progress.next {
                    Some(next) => from = next,
                    None => break,
                }
            }
            Err(damage) => {
                report.finding(Finding::of_page(path, &damage));
                from = PageId(damage.page.0.max(from.0) + 1);
            }
        }
    }
    if report.findings() > before {
        return None;
    }
    match store.check() {
        Ok(pages) => {
            report.store(&store, &pages);
            Some(store)
        }
        Err(damage) => {
            report.finding(Finding::of_page(path, &damage));
            None
        }
    }
}

/// A member as it would start from the store.
struct Start {
    applier: Applier,
    options: node::Options,
}

impl Start {
    /// None if the store does not say who the member is, as before its first checkpoint; only the
    /// command line knows then.
    fn new(data_dir: &DataDir, store: Store) -> Result<Option<Start>, String> {
        let in_store =
            |error: &dyn std::fmt::Display| format!("{}: {error}", data_dir.store_path().display());
        let identity = apply::identity(&store).map_err(|error| in_store(&error))?;
        let Some((cluster, member_id)) = identity else { return Ok(None) };
        let config = match Config::parse(Vec::<OsString>::new(), [("", ""); 0]) {
            Ok(Command::Run(config)) => config,
            Ok(_) | Err(_) => return Err("the defaults of the flags cannot be used".to_owned()),
        };
        let metadata = Metadata { cluster_id: cluster.id, member_id };
        let options =
            apply::Options { lease_ttl_min_s: open::lease_ttl_min_s(&config), joins: false };
        let applier = Applier::open(store, cluster, member_id, options, 0)
            .map_err(|error| in_store(&error))?;
        Ok(Some(Start { applier, options: open::node_options(&config, metadata, 0) }))
    }

    fn recovered(&self) -> node::Recovered {
        let applied = (self.applier.applied_index(), self.applier.applied_term());
        let (entries, bytes) = self.options.kept_log(self.applier.cluster.members().len());
        node::Recovered::new(applied, entries, bytes)
    }

    /// A member made of both, which then does nothing.
    fn put_together(self, log: wal::Recovered, recovered: node::Recovered) -> Result<(), String> {
        let log = wal::Writer::new(wal::Options::default(), log);
        Node::new(self.applier, log, recovered, self.options, 0)
            .map(drop)
            .map_err(|error| error.to_string())
    }
}

/// Has the kernel drop what it holds of a file, if nothing is to be written back.
fn forget_cached(file: &File) {
    // SAFETY: only the descriptor is handed over, and it is open. The answer is not needed: it is
    // advice.
    unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED) };
}

fn read_through(file: &File, bytes: u64, bar: &ProgressBar) -> Result<(), (u64, io::Error)> {
    let mut piece = vec![0; ZERO_PIECE_BYTES];
    let mut offset = 0;
    while offset < bytes {
        let wanted = usize::try_from(bytes - offset).unwrap_or(usize::MAX).min(piece.len());
        let place = piece.get_mut(..wanted).unwrap_or_default();
        file.read_exact_at(place, offset).map_err(|error| (offset, error))?;
        offset += wanted as u64;
        bar.inc(wanted as u64);
    }
    Ok(())
}

/// The segments, read and not touched.
struct Log {
    dir: PathBuf,
    bar: ProgressBar,
}

impl SegmentSource for Log {
    fn list(&mut self) -> io::Result<Vec<(SegmentId, u64)>> {
        segments::list(&self.dir)
    }

    fn read(&mut self, segment: SegmentId) -> io::Result<wal::Content> {
        let path = self.dir.join(segment.file_name());
        forget_cached(&File::open(&path)?);
        let bytes = std::fs::read(&path)?;
        self.bar.inc(bytes.len() as u64);
        Ok(Box::new(bytes))
    }
}
