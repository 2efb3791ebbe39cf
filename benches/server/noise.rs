//! What the machine itself does to latencies, measured beside a server: how late a thread is that wanted to sleep for a
//! millisecond, and how long a synced write of a block into a file of its own takes.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

const SLEEP: Duration = Duration::from_millis(1);
const WRITE_PERIOD: Duration = Duration::from_millis(20);

pub struct Noise {
    stop: Arc<AtomicBool>,
    sleeper: JoinHandle<Vec<f64>>,
    writer: JoinHandle<Vec<f64>>,
}

impl Noise {
    /// Begins to listen; the file lies in `dir`.
    pub fn begin(dir: &Path) -> Noise {
        let stop = Arc::new(AtomicBool::new(false));
        let file = File::create(dir.join("noise")).expect("a file");
        let (end, ends) = (Arc::clone(&stop), Arc::clone(&stop));
        let sleeper = std::thread::spawn(move || {
            sample(&end, || {
                let begun = Instant::now();
                std::thread::sleep(SLEEP);
                begun.elapsed().saturating_sub(SLEEP)
            })
        });
        let writer = std::thread::spawn(move || {
            sample(&ends, || {
                std::thread::sleep(WRITE_PERIOD);
                let begun = Instant::now();
                file.write_all_at(&[7; 4096], 0).and_then(|()| file.sync_data()).expect("a write");
                begun.elapsed()
            })
        });
        Noise { stop, sleeper, writer }
    }

    /// The 99th percentiles of sleeps and of writes, in milliseconds.
    pub fn end(self) -> [f64; 2] {
        self.stop.store(true, Ordering::Relaxed);
        [self.sleeper, self.writer].map(|thread| {
            let samples = thread.join().expect("a thread");
            samples[(samples.len() - 1) * 99 / 100]
        })
    }
}

fn sample(stop: &AtomicBool, mut measure: impl FnMut() -> Duration) -> Vec<f64> {
    let mut samples = Vec::new();
    while samples.is_empty() || !stop.load(Ordering::Relaxed) {
        samples.push(measure().as_secs_f64() * 1e3);
    }
    samples.sort_by(f64::total_cmp);
    samples
}
