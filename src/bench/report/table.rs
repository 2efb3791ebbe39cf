//! The result for a terminal.

use std::fmt::Write;

use super::{DELIVERY, Latency, Operation, Report};

pub fn table(report: &Report) -> String {
    let mut out = String::new();
    let load = match report.rate {
        Some(rate) => format!("open loop, {rate}/s"),
        None => "closed loop".to_owned(),
    };
    let _ = writeln!(
        out,
        "{} on {}: {} connections x {} streams, {load}",
        report.shape,
        report.endpoints.join(","),
        report.connections,
        report.streams,
    );
    let _ = writeln!(
        out,
        "{} requests in {:.2} s: {:.0}/s, {} failed{}\n",
        report.requests,
        report.elapsed_seconds,
        report.throughput,
        report.failed,
        match report.unsent {
            0 => String::new(),
            unsent => format!(", {unsent} not sent in time"),
        }
    );
    let name_width = report.operations.iter().map(|o| o.name.len()).max().unwrap_or(0).max(9);
    let heads = ["per second", "mean", "p50", "p90", "p99", "p99.9", "p99.99", "max"];
    let _ = write!(out, "{:name_width$} {:>10}", "", "count");
    for head in heads {
        let _ = write!(out, " {head:>10}");
    }
    out.push('\n');
    for operation in report.operations.iter().filter(|operation| operation.count > 0) {
        row(
            &mut out,
            name_width,
            &operation.name,
            operation.count,
            operation.throughput,
            &operation.latency,
        );
    }
    let is_request = |operation: &&Operation| operation.count > 0 && operation.name != DELIVERY;
    if report.operations.iter().filter(is_request).count() > 1 {
        row(&mut out, name_width, "requests", report.requests, report.throughput, &report.latency);
    }
    for error in &report.errors {
        let _ = writeln!(out, "\nfailed {}x {}: {}", error.count, error.code, error.example);
    }
    if report.connections_lost > 0 {
        let _ = writeln!(out, "\n{} connections were lost and made again", report.connections_lost);
    }
    let busy = 100.0 * report.generator_cpu_seconds / report.generator_seconds.max(1e-9);
    let _ = writeln!(
        out,
        "\nThe generator used {busy:.0} % of one core; it sent {} and received {}.",
        size(report.bytes_sent),
        size(report.bytes_received),
    );
    out
}

fn row(out: &mut String, width: usize, name: &str, count: u64, throughput: f64, l: &Latency) {
    let _ = write!(out, "{name:width$} {count:>10} {throughput:>10.0}");
    for value in [l.mean, l.p50, l.p90, l.p99, l.p999, l.p9999, l.max] {
        let _ = write!(out, " {:>10}", time(value));
    }
    out.push('\n');
}

/// Microseconds with a unit that suits them.
pub fn time(us: f64) -> String {
    match us {
        _ if us < 1_000.0 => format!("{us:.1} us"),
        _ if us < 1_000_000.0 => format!("{:.2} ms", us / 1e3),
        _ => format!("{:.2} s", us / 1e6),
    }
}

fn size(bytes: u64) -> String {
    match bytes {
        0..1_024 => format!("{bytes} B"),
        1_024..1_048_576 => format!("{:.1} KiB", bytes as f64 / 1_024.0),
        1_048_576..1_073_741_824 => format!("{:.1} MiB", bytes as f64 / 1_048_576.0),
        _ => format!("{:.1} GiB", bytes as f64 / 1_073_741_824.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_sizes_have_the_unit_that_suits_them() {
        let times = [(0.4, "0.4 us"), (999.0, "999.0 us"), (1_500.0, "1.50 ms"), (2e6, "2.00 s")];
        for (us, shown) in times {
            assert_eq!(time(us), shown);
        }
        for (bytes, shown) in [(5, "5 B"), (2_048, "2.0 KiB"), (3 << 20, "3.0 MiB")] {
            assert_eq!(size(bytes), shown);
        }
    }
}
