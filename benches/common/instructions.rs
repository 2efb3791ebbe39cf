//! Instructions of this thread in user mode, where the kernel counts them (`perf_event_open(2)`).
//!
//! On a machine that is shared, time says little and the number of instructions much.

use std::fs::File;
use std::io::Read;
use std::os::fd::FromRawFd;

const TYPE_HARDWARE: u32 = 0;
const COUNT_INSTRUCTIONS: u64 = 1;
/// `exclude_kernel` and `exclude_hv`, which an unprivileged process must set.
const EXCLUDE_KERNEL_AND_HYPERVISOR: u64 = 1 << 5 | 1 << 6;

/// The first version of `struct perf_event_attr`, 64 bytes.
#[repr(C)]
#[derive(Default)]
struct Attributes {
    kind: u32,
    size: u32,
    config: u64,
    sample_period: u64,
    sample_type: u64,
    read_format: u64,
    flags: u64,
    wakeup_events: u32,
    breakpoint_type: u32,
    config1: u64,
}

pub struct Instructions(File);

impl Instructions {
    /// None where the kernel or the machine does not count.
    pub fn open() -> Option<Instructions> {
        let attributes = Attributes {
            kind: TYPE_HARDWARE,
            size: size_of::<Attributes>() as u32,
            config: COUNT_INSTRUCTIONS,
            flags: EXCLUDE_KERNEL_AND_HYPERVISOR,
            ..Attributes::default()
        };
        // SAFETY: the structure outlives the call and tells its own size; the other arguments are numbers: this
        // thread, any CPU, no group, no flags.
        let fd = unsafe { libc::syscall(libc::SYS_perf_event_open, &attributes, 0, -1, -1, 0) };
        let fd = i32::try_from(fd).ok().filter(|fd| *fd >= 0)?;
        // SAFETY: the kernel has just given out this descriptor, and nobody else has it.
        Some(Instructions(unsafe { File::from_raw_fd(fd) }))
    }

    fn read(&mut self) -> Option<u64> {
        let mut count = [0; 8];
        self.0.read_exact(&mut count).ok()?;
        Some(u64::from_ne_bytes(count))
    }
}

/// Prints how many instructions `work` takes for each of the `operations` that one call of it does: the least of some
/// runs, since nothing makes it less.
pub fn report(name: &str, operations: u64, mut work: impl FnMut()) {
    let mut counter = Instructions::open();
    let mut least = None;
    for _ in 0..5 {
        let before = counter.as_mut().and_then(Instructions::read);
        work();
        let after = counter.as_mut().and_then(Instructions::read);
        if let (Some(before), Some(after)) = (before, after) {
            let each = (after - before) / operations;
            least = Some(least.map_or(each, |least: u64| least.min(each)));
        }
    }
    match least {
        Some(each) => println!("{name:<40} instructions: {each} each"),
        None => println!("{name:<40} instructions: not counted on this machine"),
    }
}
