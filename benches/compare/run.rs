//! Runs the pairs and measures.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use ringd::bench::{Latency, Operation, Report};

use crate::deployment::{Deployment, Plan};
use crate::options::Options;
use crate::report::{self, Comparison};
use crate::shapes::{Metric, QUICK, Shape, Subjects};
use crate::tls;

/// No single run of the generator takes longer, the filling of a million keys included.
const RUN_PATIENCE: Duration = Duration::from_secs(180);
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// After which the heap before the load is looked at, and the disk after it.
const SETTLE: Duration = Duration::from_millis(500);

/// One run of one server.
pub struct Measured {
    pub report: Report,
    pub throughput: f64,
    pub latency: Latency,
    pub cpu_us_per_request: f64,
    pub heap_bytes: u64,
    pub heap_per_watcher: Option<f64>,
    pub disk_bytes: u64,
    pub operations: Vec<Operation>,
}

impl Measured {
    pub fn figure(&self, metric: Metric) -> f64 {
        match metric {
            Metric::Throughput => self.throughput,
            Metric::P50 => self.latency.p50,
            Metric::P99 => self.latency.p99,
            Metric::P999 => self.latency.p999,
            Metric::Cpu => self.cpu_us_per_request,
            Metric::Heap => self.heap_bytes as f64,
            Metric::HeapPerWatcher => self.heap_per_watcher.unwrap_or(f64::NAN),
            Metric::Disk => self.disk_bytes as f64,
        }
    }
}

pub fn compare(options: &Options, shapes: &[Shape]) -> Result<(), String> {
    let out = &options.out;
    fs::create_dir_all(out).map_err(|error| format!("{}: {error}", out.display()))?;
    for (name, binary) in options.subjects() {
        if !binary.is_file() {
            let hint =
                if name == "etcd" { " (tests/tools/build makes it, and needs Go)" } else { "" };
            return Err(format!("no {name} at {}{hint}", binary.display()));
        }
    }
    let tls = if options.tls { Some(tls::Files::make(out)?) } else { None };
    let tls = tls.as_ref();
    let pairs = if options.quick { 1 } else { options.pairs.max(1) };
    let mut done: Vec<Comparison<'_>> = Vec::new();
    for shape in shapes {
        let subjects = options.subjects();
        let subjects = match shape.subjects {
            Subjects::Both => &subjects[..],
            Subjects::RingdAlone => &subjects[..1],
        };
        let mut runs: Vec<Vec<Measured>> = subjects.iter().map(|_| Vec::new()).collect();
        for pair in 1..=pairs {
            for (runs, (name, binary)) in runs.iter_mut().zip(subjects) {
                let measured = measure(options, shape, binary, tls)
                    .map_err(|error| format!("{} with {name}: {error}", shape.name))?;
                let path = out.join(format!("{}-{name}-{pair}.json", shape.name));
                let json = serde_json::to_string_pretty(&measured.report).unwrap_or_default();
                fs::write(&path, json).map_err(|error| format!("{}: {error}", path.display()))?;
                eprintln!("{} {pair}/{pairs} {name}: {:.0}/s", shape.name, measured.throughput);
                runs.push(measured);
            }
        }
        let comparison = Comparison { shape, runs };
        println!("{}", report::text(&comparison));
        if let Some(svg) = report::plot(&comparison) {
            let path = out.join(format!("{}.svg", shape.name));
            fs::write(&path, svg).map_err(|error| format!("{}: {error}", path.display()))?;
        }
        done.push(comparison);
        let index = report::index(options, pairs, &done);
        let path = out.join("index.md");
        fs::write(&path, index).map_err(|error| format!("{}: {error}", path.display()))?;
    }
    println!("The report is {}", out.join("index.md").display());
    Ok(())
}

fn measure(
    options: &Options,
    shape: &Shape,
    binary: &Path,
    tls: Option<&tls::Files>,
) -> Result<Measured, String> {
    let plan = Plan {
        binary,
        args: shape.server_args,
        members: options.members.into(),
        tls,
        cpu: shape.is_pinned.then_some(0),
        folder: &options.out,
    };
    let deployment = Deployment::start(&plan)?;
    let heap = deployment.watch_heap();
    bench(options, shape, &shape.prepare, &deployment, tls)?;
    std::thread::sleep(SETTLE);
    let (heap_before, cpu_before) = (deployment.heap_bytes(), deployment.cpu_seconds());
    let report = bench(options, shape, &shape.load, &deployment, tls)?;
    let cpu_seconds = deployment.cpu_seconds() - cpu_before;
    let heap_bytes = heap.peak_bytes();
    std::thread::sleep(SETTLE);
    let counted = shape.of.and_then(|name| report.operation(name));
    let requests: u64 = report.operations.iter().map(|operation| operation.count).sum();
    // The warm-up costs CPU time, too: requests of the whole run are not known, but its share is.
    let seconds = report.elapsed_seconds;
    let share = seconds / (seconds + warmup_seconds(&shape.load, options.quick));
    if report.failed > 0 {
        let error = report.errors.first().map_or("", |error| &error.code);
        eprintln!("{}: {} failed requests ({error})", shape.name, report.failed);
    }
    Ok(Measured {
        throughput: counted.map_or(report.throughput, |operation| operation.throughput),
        latency: counted.map_or(report.latency, |operation| operation.latency),
        cpu_us_per_request: cpu_seconds * share * 1e6 / requests.max(1) as f64,
        heap_bytes,
        heap_per_watcher: shape.watchers.map(|watchers| {
            let watchers = if options.quick { 5_000 } else { watchers };
            heap_bytes.saturating_sub(heap_before) as f64 / watchers as f64
        }),
        disk_bytes: deployment.disk_bytes(),
        operations: report.operations.clone(),
        report,
    })
}

fn warmup_seconds(load: &[&str], is_quick: bool) -> f64 {
    match load.contains(&"-w") {
        false => 0.0,
        true if is_quick => 0.1,
        true => 1.0,
    }
}

/// One run of the generator, which is always that of the built ringd.
fn bench(
    options: &Options,
    shape: &Shape,
    words: &[&str],
    deployment: &Deployment,
    tls: Option<&tls::Files>,
) -> Result<Report, String> {
    let quick = |word: &&str| {
        let other = QUICK.iter().find(|(long, _)| options.quick && long == word);
        other.map_or(*word, |(_, short)| *short).to_owned()
    };
    let json = options.out.join("run.json");
    let generator = env!("CARGO_BIN_EXE_ringd");
    let mut command = if shape.is_pinned {
        let mut command = Command::new("taskset");
        command.arg("-c").arg(other_cpus()).arg(generator);
        command
    } else {
        Command::new(generator)
    };
    command
        .arg("bench")
        .args(words.iter().map(quick))
        .args(["--quiet", "--endpoints", &deployment.endpoints(), "--json"])
        .arg(&json)
        .args(tls.map(tls::Files::client_args).unwrap_or_default())
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    let child = command.spawn().map_err(|error| format!("ringd bench: {error}"))?;
    if !ends_well(child)? {
        return Err(format!("ringd bench {} failed", words.join(" ")));
    }
    let text = fs::read_to_string(&json).map_err(|error| format!("{}: {error}", json.display()))?;
    let _ = fs::remove_file(&json);
    serde_json::from_str(&text).map_err(|error| format!("the generator's result: {error}"))
}

fn ends_well(mut child: Child) -> Result<bool, String> {
    let started = Instant::now();
    loop {
        match child.try_wait() {
            Ok(Some(status)) => return Ok(status.success()),
            Ok(None) if started.elapsed() < RUN_PATIENCE => std::thread::sleep(LOOK_EVERY),
            _ => {
                let _ = child.kill();
                let _ = child.wait();
                return Err(format!("ringd bench has not ended in {} s", RUN_PATIENCE.as_secs()));
            }
        }
    }
}

/// All but the first; the first if there is no other.
fn other_cpus() -> String {
    let count = std::thread::available_parallelism().map_or(1, usize::from);
    if count < 2 { "0".to_owned() } else { format!("1-{}", count - 1) }
}
