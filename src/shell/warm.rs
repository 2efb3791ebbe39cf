//! Brings the store's file into memory after a start, on a thread of its own, so that the loop does not
//! wait for the disk page by page. As much as a share of the memory that is free; the rest comes
//! when it is needed.

use super::limits::{WARM_PIECE_BYTES, WARM_SHARE};
use crate::store::Warmer;
use std::fs;

/// Begins to read `file_len` bytes. The thread ends by itself, at the latest with the process.
pub fn begin(warmer: Warmer, file_len: u64) {
    let end = file_len.min(free_bytes() / WARM_SHARE);
    let work = move || {
        let mut start = 0;
        while start < end {
            let piece = start..end.min(start + WARM_PIECE_BYTES);
            if !warmer.warm(piece.clone()) {
                return;
            }
            start = piece.end;
        }
    };
    // Without the thread it is only slower.
    let _ = std::thread::Builder::new().name("ringd-warm".to_owned()).spawn(work);
}

/// What may be used without taking it from others: of the machine, or of the control group.
fn free_bytes() -> u64 {
    let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let machine = available(&meminfo).unwrap_or(0);
    let group = |name: &str| -> Option<u64> {
        fs::read_to_string(format!("/sys/fs/cgroup/{name}")).ok()?.trim().parse().ok()
    };
    match (group("memory.max"), group("memory.current")) {
        (Some(most), Some(used)) => machine.min(most.saturating_sub(used)),
        _ => machine,
    }
}

fn available(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib << 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn available_memory_is_found_among_the_others() {
        let text = "MemTotal:  24 kB\nMemFree:  1 kB\nMemAvailable:   123 kB\nBuffers: 2 kB\n";
        assert_eq!(available(text), Some(123 << 10));
        assert_eq!(available("MemTotal: 24 kB\n"), None);
        assert!(free_bytes() > 0, "of this machine");
    }
}
