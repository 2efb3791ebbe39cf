//! What criterion does not print: how the ones compare, by the medians of the samples that it took.

use std::cell::RefCell;
use std::time::Duration;

use criterion::{Criterion, SamplingMode, Throughput};

pub const SAMPLES: usize = 10;

/// One kind of work, done by one engine.
struct Row {
    work: String,
    engine: &'static str,
    /// Seconds of each round.
    samples: Vec<f64>,
}

#[derive(Default)]
pub struct Summary {
    rows: RefCell<Vec<Row>>,
}

impl Summary {
    /// Lets criterion measure `rounds`, which does that many rounds of a work and says how long they took.
    pub fn measure(
        &self,
        criterion: &mut Criterion,
        work: &str,
        engine: &'static str,
        elements: u64,
        mut rounds: impl FnMut(u64) -> Duration,
    ) {
        let mut group = criterion.benchmark_group(work);
        group.sampling_mode(SamplingMode::Flat).throughput(Throughput::Elements(elements));
        let mut samples = Vec::new();
        group.bench_function(engine, |bencher| {
            bencher.iter_custom(|count| {
                let took = rounds(count);
                samples.push(took.as_secs_f64() / count as f64);
                took
            });
        });
        group.finish();
        // Those before were for warming up.
        let samples = samples.split_off(samples.len().saturating_sub(SAMPLES));
        if !samples.is_empty() {
            self.rows.borrow_mut().push(Row { work: work.to_owned(), engine, samples });
        }
    }

    /// Prints every work with the median of each engine, and how many times as long as the first one the others took.
    pub fn print(&self) {
        let rows = self.rows.borrow();
        if rows.is_empty() {
            return;
        }
        println!("\nmedians, and how many times as long as the first one it took:");
        let mut first = 0;
        while let Some(row) = rows.get(first) {
            let same: Vec<_> = rows[first..].iter().take_while(|r| r.work == row.work).collect();
            let base = median(&row.samples);
            print!("{:<28}", row.work);
            for row in &same {
                let median = median(&row.samples);
                print!("  {} {} ({:.2}x)", row.engine, seconds(median), median / base);
            }
            println!();
            first += same.len();
        }
    }
}

pub fn median(samples: &[f64]) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}

pub fn seconds(value: f64) -> String {
    match value {
        v if v >= 1.0 => format!("{v:.2} s"),
        v if v >= 1e-3 => format!("{:.2} ms", v * 1e3),
        v if v >= 1e-6 => format!("{:.2} us", v * 1e6),
        v => format!("{:.0} ns", v * 1e9),
    }
}
