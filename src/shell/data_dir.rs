//! The data directory: who may open it, and how it comes to be.
//!
//! ```text
//! <data-dir>/member/lock              locked while a process uses the directory
//! <data-dir>/member/ringd.tmp/        first initialisation, before its rename
//! <data-dir>/member/ringd/format      version of the layout, identity of the directory
//! <data-dir>/member/ringd/running     there while a process runs: its absence at start says that
//!                                     the last one met no failed write
//! <data-dir>/member/ringd/store       the tree
//! <data-dir>/member/ringd/wal/        the log, or --wal-dir
//! <wal>/format                        the same identity, so that a log and a store that do not
//!                                     belong together are never opened together
//! ```
//!
//! Invariants: `member/ringd` exists only whole, since it gets its name by one rename after
//! everything in it is durable. Nothing is written into a directory that is refused, apart from the
//! lock file.
//!
//! This file knows names, not contents: the first image of the store is handed in, the log's
//! segments are `segments.rs`.

use super::files;
use std::fs::{File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

/// Version of the layout and of the formats in it. Any change of either raises it. 1 was whatever was written
/// before the first release, in more than one layout.
pub const FORMAT: u32 = 2;

const FORMAT_HEAD: &str = "ringd data directory";

/// Why a data directory cannot be used. Each is one line that says which and what to do.
#[derive(Debug, thiserror::Error)]
pub enum DataDirError {
    #[error(
        "data directory {dir} holds the data of an etcd member (found {found}), which ringd does \
         not open; give --data-dir a directory of its own"
    )]
    Etcd { dir: PathBuf, found: PathBuf },
    #[error(
        "log directory {dir} holds the log of an etcd member (found {found}), which ringd does \
         not open; give --wal-dir a directory of its own"
    )]
    EtcdLog { dir: PathBuf, found: PathBuf },
    #[error(
        "data directory {dir} has format {found}, this version of ringd reads format {FORMAT}; use \
         the version that wrote it, or another --data-dir"
    )]
    OtherFormat { dir: PathBuf, found: u32 },
    #[error(
        "data directory {dir} is in use by another process; stop it, or choose another --data-dir"
    )]
    Locked { dir: PathBuf },
    #[error("data directory {dir} holds no data of a member; give the one that --data-dir names")]
    Missing { dir: PathBuf },
    #[error(
        "data directory {dir} cannot be used: {path}: {error}; make it a directory this user may write to"
    )]
    Unusable { dir: PathBuf, path: PathBuf, error: io::Error },
    #[error(
        "data directory {dir} is damaged: {path}: {what}; restore it from a backup, or remove it and \
         let the member join anew"
    )]
    Damaged { dir: PathBuf, path: PathBuf, what: String },
    #[error(
        "log directory {wal} does not belong to data directory {dir}: {what}; start with the \
         --data-dir and --wal-dir of the first start"
    )]
    Mismatch { dir: PathBuf, wal: PathBuf, what: String },
}

/// An open data directory. The lock is held until this is dropped or the process ends.
#[derive(Debug)]
pub struct DataDir {
    root: PathBuf,
    wal: PathBuf,
    unclean: bool,
    _lock: File,
}

impl DataDir {
    /// Opens the directory, or makes it when there is none. `initial_store` gives the content of
    /// the store file of a new member, and is given a random number to be told from others by.
    pub fn open(
        data_dir: &Path,
        wal_dir: Option<&Path>,
        initial_store: impl FnOnce(u64) -> Vec<u8>,
    ) -> Result<DataDir, DataDirError> {
        let names = Names::new(data_dir, wal_dir);
        names.refuse_etcd()?;
        let unusable = |path: &Path| {
            let (dir, path) = (data_dir.to_owned(), path.to_owned());
            move |error| DataDirError::Unusable { dir, path, error }
        };
        files::create_dir_durably(&names.member).map_err(unusable(&names.member))?;
        let lock = files::open_or_create(&names.lock).map_err(unusable(&names.lock))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(DataDirError::Locked { dir: data_dir.to_owned() });
            }
            Err(TryLockError::Error(error)) => return Err(unusable(&names.lock)(error)),
        }
        if !names.root.exists() {
            names.refuse_foreign_log()?;
            let identity: Identity =
                files::random().map_err(unusable(Path::new("/dev/urandom")))?;
            let image = initial_store(u128::from_be_bytes(identity) as u64);
            for step in STEPS {
                names.initialise(step, identity, &image)?;
            }
        }
        names.check()?;
        let running = names.root.join("running");
        let unclean = running.exists();
        files::write_synced(&running, b"").map_err(unusable(&running))?;
        files::sync_dir(&names.root).map_err(unusable(&names.root))?;
        files::sync_dir(&names.wal).map_err(unusable(&names.wal))?;
        Ok(DataDir { root: names.root, wal: names.wal, unclean, _lock: lock })
    }

    /// Opens a directory that is there for reading alone: nothing is written, and no member can open
    /// it meanwhile.
    pub fn inspect(data_dir: &Path, wal_dir: Option<&Path>) -> Result<DataDir, DataDirError> {
        let names = Names::new(data_dir, wal_dir);
        names.refuse_etcd()?;
        let unusable = |path: &Path, error| {
            let (dir, path) = (data_dir.to_owned(), path.to_owned());
            DataDirError::Unusable { dir, path, error }
        };
        if !names.root.exists() {
            return Err(DataDirError::Missing { dir: data_dir.to_owned() });
        }
        let lock = File::open(&names.lock).map_err(|error| unusable(&names.lock, error))?;
        match lock.try_lock_shared() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(DataDirError::Locked { dir: data_dir.to_owned() });
            }
            Err(TryLockError::Error(error)) => return Err(unusable(&names.lock, error)),
        }
        names.check()?;
        let unclean = names.root.join("running").exists();
        Ok(DataDir { root: names.root, wal: names.wal, unclean, _lock: lock })
    }

    /// Whether a member has begun in this directory. Where none has, `open` makes it.
    pub fn is_there(data_dir: &Path) -> bool {
        Names::new(data_dir, None).root.exists()
    }

    pub fn store_path(&self) -> PathBuf {
        self.root.join("store")
    }

    pub fn wal_path(&self) -> &Path {
        &self.wal
    }

    /// Whether the last process ended without saying that it met no failed write.
    pub fn was_unclean(&self) -> bool {
        self.unclean
    }

    /// Says that this process ends without having met a failed write.
    pub fn mark_stopped(&self) -> io::Result<()> {
        std::fs::remove_file(self.root.join("running"))?;
        files::sync_dir(&self.root)
    }
}

/// The steps of the first initialisation. A crash after any of them leaves a directory that the
/// next start initialises again from the first step, up to `Publish`, after which it is whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// Leftovers of an attempt that did not get to its end.
    Clear,
    MakeRoot,
    WriteStore,
    MakeLog,
    /// The log's identity; with --wal-dir this is outside of what is renamed, so it comes before.
    WriteLogFormat,
    WriteFormat,
    SyncRoot,
    /// The rename that makes all of it exist at once.
    Publish,
}

const STEPS: [Step; 8] = [
    Step::Clear,
    Step::MakeRoot,
    Step::WriteStore,
    Step::MakeLog,
    Step::WriteLogFormat,
    Step::WriteFormat,
    Step::SyncRoot,
    Step::Publish,
];

type Identity = [u8; 16];

struct Names {
    data_dir: PathBuf,
    member: PathBuf,
    lock: PathBuf,
    temp: PathBuf,
    root: PathBuf,
    /// Where the log is once initialised.
    wal: PathBuf,
    wal_is_separate: bool,
}

impl Names {
    fn new(data_dir: &Path, wal_dir: Option<&Path>) -> Names {
        let member = data_dir.join("member");
        let root = member.join("ringd");
        Names {
            data_dir: data_dir.to_owned(),
            lock: member.join("lock"),
            temp: member.join("ringd.tmp"),
            wal: wal_dir.map_or_else(|| root.join("wal"), Path::to_owned),
            wal_is_separate: wal_dir.is_some(),
            root,
            member,
        }
    }

    fn refuse_etcd(&self) -> Result<(), DataDirError> {
        let dir = || self.data_dir.clone();
        let db = self.member.join("snap/db");
        if db.exists() {
            return Err(DataDirError::Etcd { dir: dir(), found: db });
        }
        if let Some(found) = first_etcd_log(&self.member.join("wal")) {
            return Err(DataDirError::Etcd { dir: dir(), found });
        }
        match first_etcd_log(&self.wal) {
            Some(found) => Err(DataDirError::EtcdLog { dir: self.wal.clone(), found }),
            None => Ok(()),
        }
    }

    /// A new member needs a log directory without a log in it.
    fn refuse_foreign_log(&self) -> Result<(), DataDirError> {
        let used = self.wal_is_separate
            && std::fs::read_dir(&self.wal).is_ok_and(|mut entries| {
                entries.any(|entry| {
                    entry.is_ok_and(|entry| super::segments::is_of_log(&entry.file_name()))
                })
            });
        if used { Err(self.mismatch("it holds the log of another member")) } else { Ok(()) }
    }

    fn initialise(
        &self,
        step: Step,
        identity: Identity,
        store_image: &[u8],
    ) -> Result<(), DataDirError> {
        let wal = if self.wal_is_separate { self.wal.clone() } else { self.temp.join("wal") };
        let format = format_text(identity);
        let (path, done) = match step {
            Step::Clear => (&self.temp, remove_tree(&self.temp)),
            Step::MakeRoot => (&self.temp, files::create_dir_durably(&self.temp)),
            Step::WriteStore => {
                (&self.temp, files::write_synced(&self.temp.join("store"), store_image))
            }
            Step::MakeLog => (&wal, files::create_dir_durably(&wal)),
            Step::WriteLogFormat => {
                (&wal, files::replace_durably(&wal.join("format"), format.as_bytes()))
            }
            Step::WriteFormat => {
                (&self.temp, files::write_synced(&self.temp.join("format"), format.as_bytes()))
            }
            Step::SyncRoot => (&self.temp, files::sync_dir(&self.temp)),
            Step::Publish => (
                &self.root,
                files::rename(&self.temp, &self.root).and_then(|()| files::sync_dir(&self.member)),
            ),
        };
        done.map_err(|error| DataDirError::Unusable {
            dir: self.data_dir.clone(),
            path: path.clone(),
            error,
        })
    }

    /// An initialised directory: format, files, and a log that belongs to it.
    fn check(&self) -> Result<(), DataDirError> {
        let path = self.root.join("format");
        let text = read_text(&path).map_err(|what| self.damaged(&path, what))?;
        let (format, identity) = parse_format(&text)
            .ok_or_else(|| self.damaged(&path, "it cannot be read".to_owned()))?;
        if format != FORMAT {
            return Err(DataDirError::OtherFormat { dir: self.data_dir.clone(), found: format });
        }
        let store = self.root.join("store");
        if !store.is_file() {
            return Err(self.damaged(&store, "the file is missing".to_owned()));
        }
        let log_format = self.wal.join("format");
        match std::fs::read_to_string(&log_format) {
            Ok(text) => match parse_format(&text) {
                Some((FORMAT, of_log)) if of_log == identity => Ok(()),
                Some((_, of_log)) if of_log == identity => {
                    Err(self.mismatch("its format is another"))
                }
                Some(_) => Err(self.mismatch("its identity is another")),
                None => Err(self.damaged(&log_format, "it cannot be read".to_owned())),
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Err(self.mismatch("it holds no log of this member"))
            }
            Err(error) => Err(self.damaged(&log_format, error.to_string())),
        }
    }

    fn damaged(&self, path: &Path, what: String) -> DataDirError {
        DataDirError::Damaged { dir: self.data_dir.clone(), path: path.to_owned(), what }
    }

    fn mismatch(&self, what: &str) -> DataDirError {
        DataDirError::Mismatch {
            dir: self.data_dir.clone(),
            wal: self.wal.clone(),
            what: what.to_owned(),
        }
    }
}

fn first_etcd_log(dir: &Path) -> Option<PathBuf> {
    std::fs::read_dir(dir)
        .ok()?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| path.extension().is_some_and(|extension| extension == "wal"))
}

fn remove_tree(path: &Path) -> io::Result<()> {
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

fn read_text(path: &Path) -> Result<String, String> {
    std::fs::read_to_string(path).map_err(|error| error.to_string())
}

fn format_text(identity: Identity) -> String {
    format!("{FORMAT_HEAD}\nformat {FORMAT}\nidentity {:032x}\n", u128::from_be_bytes(identity))
}

/// Version and identity. Later versions may add lines; these three stay.
fn parse_format(text: &str) -> Option<(u32, Identity)> {
    let mut lines = text.lines();
    if lines.next()? != FORMAT_HEAD {
        return None;
    }
    let format = lines.next()?.strip_prefix("format ")?.parse().ok()?;
    let identity = lines.next()?.strip_prefix("identity ")?;
    if identity.len() != 32 {
        return None;
    }
    Some((format, u128::from_str_radix(identity, 16).ok()?.to_be_bytes()))
}

#[cfg(test)]
#[path = "data_dir_tests.rs"]
mod tests;
