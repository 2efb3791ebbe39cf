//! Carries out what the node wants done to the file of a state that arrives from another member.
//!
//! The file lies beside the store's and takes its name at the end, by one rename. One that is found
//! at a start is what a crash has left, and goes.

use super::glommio_files::blocking;
use super::store_disk::{Grown, StoreDisk};
use super::{fatal, files, open};
use crate::node::SnapshotOp;
use crate::store::{self, Store};
use std::cell::{Cell, RefCell};
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;

/// What became of an operation, for the server.
pub enum Done {
    Created(Box<Store>),
    Store(store::OpId),
    /// The former file is replaced by this one.
    Installed(Rc<StoreDisk>),
    Discarded,
    /// The disk is full; the file could not be made, or not grow.
    NoSpace(Option<store::OpId>),
}

pub struct SnapshotDisk {
    store: PathBuf,
    incoming: PathBuf,
    disk: RefCell<Option<Rc<StoreDisk>>>,
    no_fsync: bool,
    /// An operation is under way.
    busy: Cell<bool>,
}

impl SnapshotDisk {
    pub fn new(store: &Path, no_fsync: bool) -> SnapshotDisk {
        let incoming = store.with_extension("incoming");
        let (disk, busy) = (RefCell::default(), Cell::new(false));
        SnapshotDisk { store: store.to_owned(), incoming, disk, no_fsync, busy }
    }

    pub fn is_busy(&self) -> bool {
        self.busy.get()
    }

    pub fn set_busy(&self, busy: bool) {
        self.busy.set(busy);
    }

    /// Removes what a crash has left beside the store.
    pub fn clean(store: &Path) -> io::Result<()> {
        match std::fs::remove_file(store.with_extension("incoming")) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        }
    }

    pub async fn run(&self, op: SnapshotOp) -> Done {
        match op {
            SnapshotOp::Create => self.create().await,
            SnapshotOp::Store(id, op) => self.store_op(id, op).await,
            SnapshotOp::Install => self.install().await,
            SnapshotOp::Discard => {
                self.disk.take();
                let path = self.store.clone();
                if let Err(error) = blocking(move || SnapshotDisk::clean(&path)).await {
                    fatal::disk("remove snapshot", &self.incoming, None, &error);
                }
                Done::Discarded
            }
        }
    }

    async fn create(&self) -> Done {
        let path = self.incoming.clone();
        let made = blocking(move || {
            let image = open::initial_store(u64::from_be_bytes(files::random()?));
            files::write_synced(&path, &image)
        });
        match made.await {
            Ok(()) => {}
            Err(error) if files::is_no_space(&error) => return Done::NoSpace(None),
            Err(error) => fatal::disk("create snapshot", &self.incoming, None, &error),
        }
        // First read, then held: whoever opens a store waits for those who hold its file.
        let store = match open::open_store(&self.incoming, false) {
            Ok(store) => store,
            Err(line) => fatal::disk("open snapshot", &self.incoming, None, &line),
        };
        match StoreDisk::open(&self.incoming, self.no_fsync).await {
            Ok(disk) => drop(self.disk.replace(Some(Rc::new(disk)))),
            Err(error) => fatal::disk("open snapshot", &self.incoming, None, &error),
        }
        Done::Created(Box::new(store))
    }

    async fn store_op(&self, id: store::OpId, op: store::Op) -> Done {
        let disk = self.disk.borrow().clone();
        let Some(disk) = disk else { return Done::Store(id) };
        match disk.run(op).await {
            Grown::Done => Done::Store(id),
            Grown::NoSpace => Done::NoSpace(Some(id)),
        }
    }

    /// All of the file is durable already; what becomes so here is its name.
    async fn install(&self) -> Done {
        let disk = self.disk.take().expect("a state is installed after its file was made");
        let (from, to) = (self.incoming.clone(), self.store.clone());
        let renamed = blocking(move || {
            std::fs::rename(&from, &to)?;
            files::sync_dir(to.parent().unwrap_or(Path::new(".")))
        });
        if let Err(error) = renamed.await {
            fatal::disk("install snapshot", &self.store, None, &error);
        }
        disk.renamed(&self.store);
        Done::Installed(disk)
    }
}
