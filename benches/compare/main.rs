//! Two servers beside each other: `cargo bench --bench compare`, or `-- --only put-10x20 --pairs 3`.
//! With `--tls` all connections have TLS, and certificates on both sides.
//!
//! For each shape both are started in turn, each on fresh data with its defaults, and loaded by the same
//! `ringd bench`; A B A B, so that what else the machine does meets both. What counts is the median of
//! the ratios of the pairs. Everything goes to `target/compare/`: `index.md`, plots, and each run's JSON.
//!
//! `--members 3` makes each a cluster of three on this machine, with targets of its own.
//!
//! Nothing here fails when a target is not met: it says so.

mod deployment;
mod options;
#[path = "../../tests/wire/ports.rs"]
mod ports;
mod process;
mod report;
mod run;
mod shapes;
mod tls;

use std::process::ExitCode;

use clap::Parser;
use options::Options;

fn main() -> ExitCode {
    // Cargo adds its own `--bench`.
    let args = std::env::args_os().filter(|arg| arg != "--bench");
    let options = Options::parse_from(args);
    let all = match options.members {
        1 => shapes::all(options.tls),
        _ => shapes::of_clusters(options.tls),
    };
    let shapes: Vec<_> = all.into_iter().filter(|shape| options.wants(shape.name)).collect();
    if shapes.is_empty() {
        let names: Vec<_> = shapes::all(options.tls).iter().map(|shape| shape.name).collect();
        eprintln!("compare: --only must be one of {}", names.join(", "));
        return ExitCode::from(2);
    }
    match run::compare(&options, &shapes) {
        Ok(()) => ExitCode::SUCCESS,
        Err(line) => {
            eprintln!("compare: {line}");
            ExitCode::FAILURE
        }
    }
}
