//! What the kernel says about a process.

/// Resident memory that is no file: heap and stacks.
pub fn anonymous_bytes(pid: u32) -> u64 {
    field(pid, "RssAnon:")
}

/// Resident memory.
pub fn resident_bytes(pid: u32) -> u64 {
    field(pid, "VmRSS:")
}

fn field(pid: u32, name: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("a process of ours");
    let line = status.lines().find(|line| line.starts_with(name)).expect("a field of status");
    let kib = line.split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok());
    kib.expect("a number") << 10
}
