//! The `process_*` metrics every Prometheus client library exposes, read from /proc when asked.

use super::uring::soft_limit;
use std::fmt::Write;
use std::fs;

/// What /proc said; `None` for what could not be read, which is then left out.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Process {
    cpu_seconds: Option<f64>,
    resident_bytes: Option<u64>,
    virtual_bytes: Option<u64>,
    start_unix_seconds: Option<f64>,
    open_fds: Option<u64>,
    max_fds: Option<u64>,
    major_faults: Option<u64>,
    virtual_max_bytes: Option<u64>,
    received_bytes: Option<u64>,
    sent_bytes: Option<u64>,
}

/// Prometheus text of this process.
pub fn render() -> String {
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let boot = fs::read_to_string("/proc/stat").unwrap_or_default();
    // SAFETY: no memory is handed over; these only return numbers.
    let (ticks, page) =
        unsafe { (libc::sysconf(libc::_SC_CLK_TCK), libc::sysconf(libc::_SC_PAGESIZE)) };
    let mut process = parse(&stat, &boot, ticks.max(1) as f64, page.max(0) as u64);
    process.open_fds = fs::read_dir("/proc/self/fd").ok().map(|entries| entries.count() as u64);
    process.max_fds = Some(soft_limit(libc::RLIMIT_NOFILE));
    process.major_faults = major_faults();
    process.virtual_max_bytes = Some(soft_limit(libc::RLIMIT_AS));
    let net = fs::read_to_string("/proc/self/net/netstat").unwrap_or_default();
    process.received_bytes = octets(&net, "InOctets");
    process.sent_bytes = octets(&net, "OutOctets");
    text(&process)
}

/// A counter of the network namespace: names stand in one line, numbers in the next.
fn octets(net: &str, name: &str) -> Option<u64> {
    let mut lines = net.lines().filter(|line| line.starts_with("IpExt: "));
    let (names, numbers) = (lines.next()?, lines.next()?);
    let place = names.split(' ').position(|known| known == name)?;
    numbers.split(' ').nth(place)?.parse().ok()
}

/// Of the thread that asks, which is the loop's: others may wait for the disk.
fn major_faults() -> Option<u64> {
    // SAFETY: the structure may be all zeros, and is the caller's to be filled.
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        (libc::getrusage(libc::RUSAGE_THREAD, &mut usage) == 0).then_some(usage)
    };
    u64::try_from(usage?.ru_majflt).ok()
}

fn parse(stat: &str, boot: &str, ticks_per_second: f64, page_bytes: u64) -> Process {
    // The second field is the program's name in parentheses, which may hold anything.
    let fields: Vec<&str> =
        stat.rsplit_once(") ").map_or("", |(_, rest)| rest).split_whitespace().collect();
    // `proc_pid_stat(5)` counts from 1, and the third field is the first here.
    let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
    let boot_seconds = boot
        .lines()
        .find_map(|line| line.strip_prefix("btime "))
        .and_then(|text| text.trim().parse::<f64>().ok());
    let seconds = |ticks: u64| ticks as f64 / ticks_per_second;
    Process {
        cpu_seconds: field(14).zip(field(15)).map(|(user, system)| seconds(user + system)),
        resident_bytes: field(24).map(|pages| pages * page_bytes),
        virtual_bytes: field(23),
        start_unix_seconds: field(22).zip(boot_seconds).map(|(at, boot)| boot + seconds(at)),
        ..Process::default()
    }
}

fn text(process: &Process) -> String {
    let count = |value: Option<u64>| value.map(|value| value as f64);
    let metrics = [
        (
            "process_cpu_seconds_total",
            "counter",
            "Total user and system CPU time spent in seconds.",
            process.cpu_seconds,
        ),
        (
            "process_max_fds",
            "gauge",
            "Maximum number of open file descriptors.",
            count(process.max_fds),
        ),
        ("process_open_fds", "gauge", "Number of open file descriptors.", count(process.open_fds)),
        (
            "process_resident_memory_bytes",
            "gauge",
            "Resident memory size in bytes.",
            count(process.resident_bytes),
        ),
        (
            "process_start_time_seconds",
            "gauge",
            "Start time of the process since unix epoch in seconds.",
            process.start_unix_seconds,
        ),
        (
            "process_virtual_memory_bytes",
            "gauge",
            "Virtual memory size in bytes.",
            count(process.virtual_bytes),
        ),
        (
            "process_virtual_memory_max_bytes",
            "gauge",
            "Maximum amount of virtual memory available in bytes.",
            count(process.virtual_max_bytes),
        ),
        (
            "process_network_receive_bytes_total",
            "counter",
            "Number of bytes received by the network namespace of the process.",
            count(process.received_bytes),
        ),
        (
            "process_network_transmit_bytes_total",
            "counter",
            "Number of bytes sent by the network namespace of the process.",
            count(process.sent_bytes),
        ),
        ("os_fd_limit", "gauge", "The file descriptor limit.", count(process.max_fds)),
        ("os_fd_used", "gauge", "The number of used file descriptors.", count(process.open_fds)),
        (
            "ringd_major_faults_total",
            "counter",
            "Accesses to memory for which the event loop had to wait for the disk.",
            count(process.major_faults),
        ),
    ];
    let mut out = String::new();
    for (name, kind, help, value) in metrics {
        if let Some(value) = value {
            // Writing into a string cannot fail.
            let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAT: &str = "42 (a name) R 7) S 1 42 42 0 -1 4194560 1 2 3 4 150 50 0 0 20 0 4 0 \
                        1000 104857600 2560 18446744073709551615 1 1 0";

    #[test]
    fn fields_are_found_behind_a_name_that_looks_like_fields() {
        let process = parse(STAT, "cpu 1 2\nbtime 1700000000\n", 100.0, 4096);
        assert_eq!(
            process,
            Process {
                cpu_seconds: Some(2.0),
                resident_bytes: Some(2560 * 4096),
                virtual_bytes: Some(104_857_600),
                start_unix_seconds: Some(1_700_000_010.0),
                ..Process::default()
            }
        );
    }

    #[test]
    fn what_cannot_be_read_is_left_out() {
        assert_eq!(parse("", "", 100.0, 4096), Process::default());
        assert_eq!(text(&Process::default()), "");
    }

    #[test]
    fn this_process_has_all_of_them() {
        let out = render();
        for name in [
            "process_cpu_seconds_total ",
            "process_max_fds ",
            "process_open_fds ",
            "process_resident_memory_bytes ",
            "process_start_time_seconds ",
            "process_virtual_memory_bytes ",
            "ringd_major_faults_total ",
        ] {
            assert!(out.lines().any(|line| line.starts_with(name)), "{name} in {out}");
        }
    }
}
