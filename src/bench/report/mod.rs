//! The result of a run: one structure, which is written as JSON, as a table and as a plot.
//!
//! Latencies are microseconds, throughput is per second, sizes are octets.

mod plot;
mod table;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use super::options::Options;
use super::stats::Stats;
use super::work::DELIVERY;
pub use plot::{Curve, plot};
pub use table::table;

/// Points of a distribution between two powers of ten of what lies above: enough for a smooth curve.
const QUANTILES_PER_HALVING: u32 = 4;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    pub shape: String,
    pub endpoints: Vec<String>,
    pub connections: usize,
    pub streams: usize,
    /// Requests per second that were asked for; none in the closed loop.
    pub rate: Option<f64>,
    pub keys: u64,
    pub key_bytes: usize,
    pub value_bytes: usize,
    pub prefill: u64,
    pub seed: u64,
    /// From the end of the warm-up to the last answer.
    pub elapsed_seconds: f64,
    /// Requests that were answered as they should be.
    pub requests: u64,
    pub failed: u64,
    /// Requests of the open loop for which no slot came free in time.
    pub unsent: u64,
    pub connections_lost: u64,
    pub throughput: f64,
    /// Of all requests.
    pub latency: Latency,
    pub operations: Vec<Operation>,
    pub errors: Vec<ErrorReport>,
    pub timeline: Vec<SecondReport>,
    pub bytes_sent: u64,
    pub bytes_received: u64,
    /// CPU time of the generator itself, from its start to its end.
    pub generator_cpu_seconds: f64,
    pub generator_seconds: f64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Operation {
    pub name: String,
    pub count: u64,
    pub throughput: f64,
    pub latency: Latency,
    /// Quantile, and the latency that it does not exceed.
    pub distribution: Vec<(f64, f64)>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Latency {
    pub mean: f64,
    pub min: f64,
    pub p50: f64,
    pub p90: f64,
    pub p99: f64,
    #[serde(rename = "p99.9")]
    pub p999: f64,
    #[serde(rename = "p99.99")]
    pub p9999: f64,
    pub max: f64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ErrorReport {
    pub code: String,
    pub count: u64,
    pub example: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct SecondReport {
    pub done: u64,
    pub failed: u64,
    pub max: f64,
}

impl Latency {
    pub fn of(histogram_ns: &Histogram<u64>) -> Latency {
        if histogram_ns.is_empty() {
            return Latency::default();
        }
        let at = |quantile| us(histogram_ns.value_at_quantile(quantile));
        Latency {
            mean: histogram_ns.mean() / 1e3,
            min: us(histogram_ns.min()),
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p999: at(0.999),
            p9999: at(0.9999),
            max: us(histogram_ns.max()),
        }
    }
}

fn us(ns: u64) -> f64 {
    ns as f64 / 1e3
}

impl Report {
    pub(super) fn new(
        options: &Options,
        stats: &Stats,
        unsent: u64,
        connections_lost: u64,
        (bytes_sent, bytes_received): (u64, u64),
    ) -> Report {
        let elapsed_seconds = stats.last_ns.saturating_sub(stats.start_ns) as f64 / 1e9;
        let per_second =
            |count: u64| if elapsed_seconds > 0.0 { count as f64 / elapsed_seconds } else { 0.0 };
        let operations: Vec<Operation> = stats
            .operations
            .iter()
            .map(|tally| Operation {
                name: tally.name.to_owned(),
                count: tally.latency_ns.len(),
                throughput: per_second(tally.latency_ns.len()),
                latency: Latency::of(&tally.latency_ns),
                distribution: distribution(&tally.latency_ns),
            })
            .collect();
        let all = stats.merged(Some(DELIVERY));
        Report {
            shape: options.shape.name().to_owned(),
            endpoints: options.endpoints.clone(),
            connections: options.connections,
            streams: options.streams,
            rate: options.rate(),
            keys: options.keys(),
            key_bytes: options.key_size,
            value_bytes: options.value_size,
            prefill: options.prefill,
            seed: options.seed,
            elapsed_seconds,
            requests: all.len(),
            failed: stats.failed_count(),
            unsent,
            connections_lost,
            throughput: per_second(all.len()),
            latency: Latency::of(&all),
            operations,
            errors: stats
                .errors
                .iter()
                .map(|error| ErrorReport {
                    code: error.code.clone(),
                    count: error.count,
                    example: error.example.clone(),
                })
                .collect(),
            timeline: stats
                .timeline
                .iter()
                .map(|second| SecondReport {
                    done: second.done,
                    failed: second.failed,
                    max: us(second.latency_ns_max),
                })
                .collect(),
            bytes_sent,
            bytes_received,
            generator_cpu_seconds: 0.0,
            generator_seconds: 0.0,
        }
    }

    pub fn operation(&self, name: &str) -> Option<&Operation> {
        self.operations.iter().find(|operation| operation.name == name)
    }

    /// For [`plot`].
    pub fn curves(&self) -> Vec<Curve> {
        let curve = |operation: &Operation| Curve {
            name: operation.name.clone(),
            points: operation.distribution.clone(),
        };
        self.operations.iter().filter(|operation| operation.count > 0).map(curve).collect()
    }
}

fn distribution(histogram_ns: &Histogram<u64>) -> Vec<(f64, f64)> {
    let steps = histogram_ns.iter_quantiles(QUANTILES_PER_HALVING);
    let mut points: Vec<(f64, f64)> = Vec::new();
    for step in steps {
        let point = (step.quantile_iterated_to(), us(step.value_iterated_to()));
        if point.0 < 1.0 {
            points.push(point);
        }
    }
    points
}
