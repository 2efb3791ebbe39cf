//! The heap of a server: what is resident and of no file, and the most that it ever was.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// Often enough for what lives for some milliseconds.
const PERIOD: Duration = Duration::from_millis(1);

pub fn mib(pid: u32) -> u64 {
    kib(pid).expect("the server's status") >> 10
}

fn kib(pid: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find(|line| line.starts_with("RssAnon:"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

/// Looks at a process until it is asked, or the process is gone.
pub struct Peak {
    most_kib: Arc<AtomicU64>,
    asked: Arc<AtomicBool>,
    watcher: JoinHandle<()>,
}

impl Peak {
    pub fn watch(pid: u32) -> Peak {
        let most_kib = Arc::new(AtomicU64::new(0));
        let asked = Arc::new(AtomicBool::new(false));
        let (most, ended) = (most_kib.clone(), asked.clone());
        let watcher = std::thread::spawn(move || {
            while let (false, Some(kib)) = (ended.load(Ordering::Relaxed), kib(pid)) {
                most.fetch_max(kib, Ordering::Relaxed);
                std::thread::sleep(PERIOD);
            }
        });
        Peak { most_kib, asked, watcher }
    }

    pub fn mib(self) -> u64 {
        self.asked.store(true, Ordering::Relaxed);
        self.watcher.join().expect("the watching thread");
        self.most_kib.load(Ordering::Relaxed) >> 10
    }
}
