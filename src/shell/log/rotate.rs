//! A log file that is put aside when it has become large, under the names of Go's `lumberjack`: of `ringd.log` it
//! makes `ringd-2026-01-02T15-04-05.000.log`, or the same with `.gz`.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use flate2::Compression;
use flate2::write::GzEncoder;

use super::timestamp;
use crate::config::LogRotation;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

pub struct RotatingFile {
    path: PathBuf,
    file: File,
    len: u64,
    rules: LogRotation,
    now_us: fn() -> u64,
}

impl RotatingFile {
    pub fn open(path: &Path, rules: LogRotation, now_us: fn() -> u64) -> io::Result<RotatingFile> {
        let file = append_to(path)?;
        let len = file.metadata()?.len();
        Ok(RotatingFile { path: path.to_owned(), file, len, rules, now_us })
    }

    fn rotate(&mut self) -> io::Result<()> {
        let stamp = timestamp((self.now_us)()).replace(':', "-");
        // Milliseconds are enough.
        let stamp = stamp.get(..23).unwrap_or(&stamp).to_owned();
        let (stem, extension) = parts(&self.path);
        let aside = self.path.with_file_name(format!("{stem}-{stamp}{extension}"));
        fs::rename(&self.path, &aside)?;
        self.file = append_to(&self.path)?;
        self.len = 0;
        // Compressing a hundred megabytes is nothing that a line should wait for.
        let (path, rules) = (self.path.clone(), self.rules);
        std::thread::Builder::new().name("ringd-log".to_owned()).spawn(move || {
            if rules.compress {
                let _ = compress(&aside);
            }
            let _ = prune(&path, &rules, SystemTime::now());
        })?;
        Ok(())
    }
}

impl Write for RotatingFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let max_bytes = self.rules.maxsize.saturating_mul(1 << 20);
        if self.len > 0 && self.len + bytes.len() as u64 > max_bytes {
            // A file that cannot be put aside goes on growing: that is better than no log.
            let _ = self.rotate();
        }
        let written = self.file.write(bytes)?;
        self.len += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

fn append_to(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).open(path)
}

/// The name without its extension, and the extension with its dot.
fn parts(path: &Path) -> (String, String) {
    let text = |part: Option<&std::ffi::OsStr>| {
        part.map(|part| part.to_string_lossy().into_owned()).unwrap_or_default()
    };
    let extension = path.extension().map(|_| format!(".{}", text(path.extension())));
    (text(path.file_stem()), extension.unwrap_or_default())
}

fn compress(aside: &Path) -> io::Result<()> {
    let mut name = aside.as_os_str().to_owned();
    name.push(".gz");
    let mut encoder = GzEncoder::new(File::create(&name)?, Compression::default());
    io::copy(&mut File::open(aside)?, &mut encoder)?;
    encoder.finish()?.sync_all()?;
    fs::remove_file(aside)
}

/// Removes what is too old, or too much.
fn prune(path: &Path, rules: &LogRotation, now: SystemTime) -> io::Result<()> {
    let (stem, extension) = parts(path);
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let mut aside = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let stamp = name
            .strip_prefix(&format!("{stem}-"))
            .and_then(|rest| rest.strip_suffix(".gz").unwrap_or(rest).strip_suffix(&extension));
        let is_stamp = |stamp: &str| stamp.len() == 23 && stamp.as_bytes()[10] == b'T';
        if stamp.is_some_and(is_stamp) {
            aside.push(entry.path());
        }
    }
    // Names are in the order of time.
    aside.sort();
    aside.reverse();
    for (at, path) in aside.iter().enumerate() {
        let age = fs::metadata(path)?.modified().map(|at| now.duration_since(at));
        let is_old = rules.maxage > 0
            && matches!(age, Ok(Ok(age)) if age > DAY * u32::try_from(rules.maxage).unwrap_or(u32::MAX));
        if is_old || (rules.maxbackups > 0 && at >= rules.maxbackups) {
            fs::remove_file(path)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU64, Ordering};

    /// A second later whenever it is asked.
    fn clock() -> u64 {
        static SECONDS: AtomicU64 = AtomicU64::new(1_767_366_245);
        SECONDS.fetch_add(1, Ordering::Relaxed) * 1_000_000
    }

    fn names(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_large_file_is_put_aside_and_a_new_one_begun() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.log");
        let rules = LogRotation { maxsize: 1, ..LogRotation::default() };
        let mut file = RotatingFile::open(&path, rules, clock).unwrap();
        let line = vec![b'x'; 600 << 10];
        for _ in 0..3 {
            file.write_all(&line).unwrap();
        }
        let names = names(folder.path());
        assert_eq!(names.len(), 3, "{names:?}");
        assert!(
            names[0].starts_with("a-2026-01-02T") && names[0].ends_with(".000.log"),
            "{names:?}"
        );
        assert_eq!(names[2], "a.log");
        assert_eq!(fs::metadata(&path).unwrap().len(), line.len() as u64);
        // What was there before counts.
        let reopened = RotatingFile::open(&path, rules, clock).unwrap();
        assert_eq!(reopened.len, line.len() as u64);
    }

    #[test]
    fn what_was_put_aside_is_compressed_and_the_oldest_go() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.log");
        for second in 1..=4 {
            let name = format!("a-2026-01-02T15-04-0{second}.000.log");
            fs::write(folder.path().join(name), b"line\n").unwrap();
        }
        fs::write(folder.path().join("a-b.log"), b"another's").unwrap();
        compress(&folder.path().join("a-2026-01-02T15-04-04.000.log")).unwrap();
        let rules = LogRotation { maxbackups: 2, ..LogRotation::default() };
        prune(&path, &rules, SystemTime::now()).unwrap();
        assert_eq!(
            names(folder.path()),
            ["a-2026-01-02T15-04-03.000.log", "a-2026-01-02T15-04-04.000.log.gz", "a-b.log"]
        );
        let rules = LogRotation { maxage: 1, ..LogRotation::default() };
        prune(&path, &rules, SystemTime::now() + 2 * DAY).unwrap();
        assert_eq!(names(folder.path()), ["a-b.log"]);
    }
}
