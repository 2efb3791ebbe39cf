//! A small file system of a test's own, to be filled up.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

/// Small enough to be filled in a moment, large enough for a member's first files.
pub const DISK_MIB: usize = 300;

/// Unmounted when dropped.
pub struct Disk {
    home: TempDir,
}

impl Disk {
    pub fn mount() -> Option<Disk> {
        let home = TempDir::new().expect("a temporary directory");
        let disk = Disk { home };
        let size = format!("size={DISK_MIB}m,mode=0700");
        mount(&["-t", "tmpfs", "-o", &size, "tmpfs"], disk.path()).then_some(disk)
    }

    pub fn path(&self) -> &Path {
        self.home.path()
    }

    pub fn data_dir(&self) -> PathBuf {
        self.path().join("data.etcd")
    }

    /// Somebody else's file takes all the space that is left.
    pub fn fill_up(&self) -> File {
        let mut file = File::create(self.path().join("ballast")).expect("a file");
        let piece = vec![1; 64 << 10];
        while file.write_all(&piece).is_ok() {}
        file
    }

    pub fn grow(&self) {
        let size = format!("remount,size={}m", DISK_MIB * 4);
        assert!(mount(&["-o", &size], self.path()), "the disk grows");
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Nothing is mounted when mounting was refused, and then this is refused as well.
        let _ = Command::new("umount").arg(self.path()).output();
    }
}

fn mount(options: &[&str], at: &Path) -> bool {
    let output = Command::new("mount").args(options).arg(at).output();
    output.is_ok_and(|output| output.status.success())
}
