//! What is shown: a table for each shape, ratios pair by pair, and whether the targets are met.

use std::fmt::Write;

use ringd::bench::Curve;

use crate::options::Options;
use crate::run::Measured;
use crate::shapes::{Metric, Shape, Target};

/// Above this share of a core the generator may be what limits a run.
const GENERATOR_BUSY: f64 = 0.9;

pub struct Comparison<'a> {
    pub shape: &'a Shape,
    /// Of ringd, and of etcd if it takes part; pair by pair.
    pub runs: Vec<Vec<Measured>>,
}

impl Comparison<'_> {
    fn median(&self, subject: usize, metric: Metric) -> f64 {
        median(self.runs[subject].iter().map(|run| run.figure(metric)).collect())
    }

    /// ringd's figure by etcd's, pair by pair.
    fn ratios(&self, metric: Metric) -> Vec<f64> {
        let [ringd, etcd] = &self.runs[..] else { return Vec::new() };
        ringd.iter().zip(etcd).map(|(a, b)| a.figure(metric) / b.figure(metric)).collect()
    }

    fn is_generator_busy(&self) -> bool {
        let busy = |run: &Measured| {
            run.report.generator_cpu_seconds / run.report.generator_seconds.max(1e-9)
        };
        median(self.runs[0].iter().map(busy).collect()) > GENERATOR_BUSY
    }
}

fn median(mut figures: Vec<f64>) -> f64 {
    figures.retain(|figure| !figure.is_nan());
    figures.sort_by(f64::total_cmp);
    match figures.len() {
        0 => f64::NAN,
        count if count % 2 == 1 => figures[count / 2],
        count => figures[count / 2 - 1].midpoint(figures[count / 2]),
    }
}

const NAMES: [&str; 2] = ["ringd", "etcd"];
const COLUMNS: [(Metric, &str); 7] = [
    (Metric::Throughput, "per second"),
    (Metric::P50, "p50"),
    (Metric::P99, "p99"),
    (Metric::P999, "p99.9"),
    (Metric::Cpu, "CPU us each"),
    (Metric::Heap, "peak heap MiB"),
    (Metric::Disk, "disk MiB"),
];

/// In Markdown, which reads well on a terminal.
pub fn text(comparison: &Comparison<'_>) -> String {
    let shape = comparison.shape;
    let mut out = format!("### {}\n\n{}", shape.name, shape.what);
    if let Some(of) = shape.of {
        let _ = write!(out, "; figures are those of each {of}");
    }
    let _ = write!(out, ".\n\n| {:8} |", "median");
    for (_, head) in COLUMNS {
        let _ = write!(out, " {head:>13} |");
    }
    out.push_str("\n|---|");
    out.push_str(&"---|".repeat(COLUMNS.len()));
    for (subject, name) in NAMES.iter().take(comparison.runs.len()).enumerate() {
        let _ = write!(out, "\n| {name:8} |");
        for (metric, _) in COLUMNS {
            let figure = show(metric, comparison.median(subject, metric));
            let _ = write!(out, " {figure:>13} |");
        }
    }
    if comparison.runs.len() == 2 {
        let _ = write!(out, "\n| {:8} |", "ratio");
        for (metric, _) in COLUMNS {
            let ratio = format!("{}x", digits(median(comparison.ratios(metric))));
            let _ = write!(out, " {ratio:>13} |");
        }
        out.push_str("\n\nPair by pair:");
        for metric in [Metric::Throughput, Metric::P99, Metric::Cpu] {
            let ratios: Vec<_> = comparison.ratios(metric).into_iter().map(digits).collect();
            let name = COLUMNS.iter().find(|(column, _)| *column == metric).map_or("", |c| c.1);
            let _ = write!(out, " {name} {};", ratios.join(" "));
        }
        out.pop();
        out.push('.');
    }
    out.push_str("\n\n");
    for target in &shape.targets {
        let (wanted, got, is_met) = judge(comparison, *target);
        let verdict = if is_met { "met" } else { "NOT MET" };
        let _ = writeln!(out, "- target {wanted}: {got}, {verdict}");
    }
    out
}

/// What is wanted, what there is, and whether that is enough.
fn judge(comparison: &Comparison<'_>, target: Target) -> (String, String, bool) {
    let ratio = |metric| median(comparison.ratios(metric));
    let name = |metric: Metric| match metric {
        Metric::HeapPerWatcher => "heap of each watcher",
        metric => COLUMNS.iter().find(|(column, _)| *column == metric).map_or("", |c| c.1),
    };
    match target {
        Target::AtLeastTimes(metric, least) => {
            let got = ratio(metric);
            let wanted = format!("{} at least {least}x", name(metric));
            (wanted, format!("{}x", digits(got)), got >= least)
        }
        Target::AtMostTimes(metric, most) => {
            let got = ratio(metric);
            let wanted = format!("{} at most {most}x", name(metric));
            (wanted, format!("{}x", digits(got)), got <= most)
        }
        Target::ThroughputOrCpu { at_least, cpu_at_most } => {
            let (throughput, cpu) = (ratio(Metric::Throughput), ratio(Metric::Cpu));
            let is_busy = comparison.is_generator_busy();
            let wanted = format!(
                "per second at least {at_least}x, or the generator is the limit and CPU at most \
                 {cpu_at_most}x"
            );
            let limit = if is_busy { "is" } else { "is not" };
            let got = format!(
                "{}x and {}x, the generator {limit} the limit",
                digits(throughput),
                digits(cpu)
            );
            (wanted, got, throughput >= at_least || (is_busy && cpu <= cpu_at_most))
        }
        Target::AtLeast(metric, least) => {
            let got = comparison.median(0, metric);
            (format!("{} at least {least}", name(metric)), show(metric, got), got >= least)
        }
        Target::AtMost(metric, most) => {
            let got = comparison.median(0, metric);
            (format!("{} at most {most}", name(metric)), show(metric, got), got <= most)
        }
    }
}

fn show(metric: Metric, figure: f64) -> String {
    match metric {
        Metric::Throughput if figure < 100.0 => format!("{figure:.2}"),
        Metric::Throughput => format!("{figure:.0}"),
        Metric::P50 | Metric::P99 | Metric::P999 if figure < 1_000.0 => format!("{figure:.0} us"),
        Metric::P50 | Metric::P99 | Metric::P999 => format!("{:.2} ms", figure / 1e3),
        Metric::Cpu => format!("{figure:.1}"),
        Metric::Heap | Metric::Disk => format!("{:.1}", figure / f64::from(1 << 20)),
        Metric::HeapPerWatcher => format!("{figure:.0} B"),
    }
}

/// Three of them.
fn digits(figure: f64) -> String {
    let decimals = if figure >= 100.0 {
        0
    } else if figure >= 10.0 {
        1
    } else if figure >= 1.0 {
        2
    } else {
        3
    };
    format!("{figure:.decimals$}")
}

/// The distributions of both, from the pair with the median throughput of ringd.
pub fn plot(comparison: &Comparison<'_>) -> Option<String> {
    let throughput = comparison.median(0, Metric::Throughput);
    let by_distance = |run: &&Measured| (run.throughput - throughput).abs().to_bits();
    let mut curves = Vec::new();
    for (runs, name) in comparison.runs.iter().zip(NAMES) {
        let run = runs.iter().min_by_key(by_distance)?;
        let counted = comparison.shape.of;
        for operation in &run.operations {
            if operation.count > 0 && counted.is_none_or(|of| of == operation.name) {
                let name = format!("{name}: {}", operation.name);
                curves.push(Curve { name, points: operation.distribution.clone() });
            }
        }
    }
    (!curves.is_empty()).then(|| ringd::bench::plot(comparison.shape.what, &curves).ok())?
}

pub fn index(options: &Options, pairs: usize, done: &[Comparison<'_>]) -> String {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let mut out = format!(
        "# ringd beside etcd\n\n{} per cluster. {pairs} pairs of runs for each shape, one after the other: ringd, etcd, \
         ringd, etcd. Each run begins with an empty data directory on the same disk and the default \
         flags of the server (durability included), if the shape names no other. The generator is `ringd \
         bench` of the same build for both; it runs on the same machine and takes its share of the \
         same {cores} cores. Nobody is bound to a core, but where a shape says that the server has one \
         alone. A ratio is ringd's figure by etcd's within a pair; what is shown is the median of \
         these. CPU is user and system time of the server's process by all that it was asked (and \
         delivered to watchers). Heap is the highest anonymous resident memory (RssAnon). Disk includes \
         what the logs have preallocated.\n\nLinux {}, {cores} cores; ringd: `{}`; etcd: `{}`.\n\n",
        match options.members {
            1 => "One member".to_owned(),
            members => format!("{members} members"),
        },
        kernel.trim(),
        options.ringd.display(),
        options.etcd.display(),
    );
    if options.tls {
        out.push_str("All connections have TLS, and certificates on both sides.\n\n");
    }
    if options.quick {
        out.push_str("**A quick run: these are no figures.**\n\n");
    }
    for comparison in done {
        out.push_str(&text(comparison));
        let shape = comparison.shape;
        let _ = write!(
            out,
            "\n`ringd bench {}`, after `ringd bench {}`\n\n![{}]({}.svg)\n\n",
            shape.load.join(" "),
            shape.prepare.join(" "),
            shape.what,
            shape.name,
        );
    }
    out
}
