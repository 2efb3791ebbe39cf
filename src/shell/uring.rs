//! Asks the kernel whether io_uring is there and may be used, before glommio starts; and how the kernel
//! tells glommio what is done.
//!
//! glommio leaves the process or panics when an opcode is missing; an operator gets one line
//! instead that says which of the known reasons it is and what to do. The texts are a pure
//! function of what the kernel said, so that each can be tested without such a kernel.

use super::limits::MEMLOCK_MIN_BYTES;
use std::ffi::{c_int, c_uint};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

const IORING_SETUP_IOPOLL: u32 = 1;
/// Linux 5.19. What is done waits until the thread enters the kernel anyway; otherwise another CPU interrupts the
/// thread for each packet.
const IORING_SETUP_COOP_TASKRUN: u32 = 1 << 8;
const IORING_REGISTER_PROBE: libc::c_uint = 8;
const IO_URING_OP_SUPPORTED: u16 = 1;
const PROBE_OPS: usize = 256;

/// What glommio needs, by number and name of `enum io_uring_op`. `OP_SEND` and `OP_RECV`, of
/// Linux 5.6, are the youngest; glommio itself asks for 5.8.
const NEEDED: [(usize, &str); 23] = [
    (0, "NOP"),
    (1, "READV"),
    (2, "WRITEV"),
    (3, "FSYNC"),
    (4, "READ_FIXED"),
    (5, "WRITE_FIXED"),
    (6, "POLL_ADD"),
    (7, "POLL_REMOVE"),
    (9, "SENDMSG"),
    (10, "RECVMSG"),
    (11, "TIMEOUT"),
    (12, "TIMEOUT_REMOVE"),
    (13, "ACCEPT"),
    (15, "LINK_TIMEOUT"),
    (16, "CONNECT"),
    (17, "FALLOCATE"),
    (18, "OPENAT"),
    (19, "CLOSE"),
    (21, "STATX"),
    (22, "READ"),
    (23, "WRITE"),
    (26, "SEND"),
    (27, "RECV"),
];

/// What was found out beside the error number.
#[derive(Clone, Copy, Debug, Default)]
pub struct Surroundings<'a> {
    /// `/proc/sys/kernel/io_uring_disabled`, where the kernel has it (6.6 and later).
    pub sysctl_disabled: Option<u32>,
    /// `uname -r`.
    pub kernel: &'a str,
    /// Soft limit of RLIMIT_MEMLOCK in bytes, after it was raised as far as allowed.
    pub memlock_bytes: u64,
}

/// `struct io_uring_params`: only flags go in, and the size is what matters.
#[repr(C)]
struct Params {
    sq_entries: u32,
    cq_entries: u32,
    flags: u32,
    rest: [u32; 27],
}
const _: () = assert!(size_of::<Params>() == 120);

/// `struct io_uring_probe_op`
#[repr(C)]
#[derive(Clone, Copy)]
struct ProbeOp {
    op: u8,
    reserved: u8,
    flags: u16,
    reserved2: u32,
}

/// `struct io_uring_probe`
#[repr(C)]
struct Probe {
    last_op: u8,
    ops_len: u8,
    reserved: u16,
    reserved2: [u32; 3],
    ops: [ProbeOp; PROBE_OPS],
}
const _: () = assert!(size_of::<Probe>() == 16 + 8 * PROBE_OPS);

/// Raises what may be raised, then tries the rings glommio will make. The error is one line.
pub fn check() -> Result<(), String> {
    raise_limit(libc::RLIMIT_NOFILE);
    raise_limit(libc::RLIMIT_MEMLOCK);
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let surroundings = Surroundings {
        sysctl_disabled: std::fs::read_to_string("/proc/sys/kernel/io_uring_disabled")
            .ok()
            .and_then(|text| text.trim().parse().ok()),
        kernel: kernel.trim(),
        memlock_bytes: soft_limit(libc::RLIMIT_MEMLOCK),
    };
    if surroundings.memlock_bytes < MEMLOCK_MIN_BYTES {
        return Err(explain_setup(libc::ENOMEM, &surroundings));
    }
    let ring = setup(0).map_err(|error| explain_error(&error, &surroundings))?;
    let missing =
        missing_operations(&ring).map_err(|error| explain_error(&error, &surroundings))?;
    if !missing.is_empty() {
        return Err(explain_missing(&missing, &surroundings));
    }
    // glommio makes a polled ring as well, whether or not a device can use it.
    setup(IORING_SETUP_IOPOLL).map_err(|error| explain_error(&error, &surroundings))?;
    Ok(())
}

fn explain_error(error: &io::Error, surroundings: &Surroundings<'_>) -> String {
    explain_setup(error.raw_os_error().unwrap_or(0), surroundings)
}

/// The line for an errno of `io_uring_setup` or of the probe.
pub fn explain_setup(errno: i32, found: &Surroundings<'_>) -> String {
    let reason = match (errno, found.sysctl_disabled) {
        (libc::EPERM, Some(2)) => {
            "the sysctl kernel.io_uring_disabled is 2 (off for everyone); set it to 0: \
             sysctl -w kernel.io_uring_disabled=0"
                .to_owned()
        }
        (libc::EPERM, Some(1)) => {
            "the sysctl kernel.io_uring_disabled is 1 (privileged processes only); set it to 0, or \
             put this user into the group of kernel.io_uring_group"
                .to_owned()
        }
        (libc::EPERM | libc::EACCES, _) => {
            "a seccomp profile or security module forbids it, as the default profile of Docker and \
             containerd does; run the container with a profile that allows io_uring_setup, \
             io_uring_enter and io_uring_register"
                .to_owned()
        }
        (libc::ENOSYS, _) => format!(
            "this kernel ({}) has no io_uring; Linux 5.8 or later with CONFIG_IO_URING is needed \
             (some sandboxes answer the same)",
            found.kernel
        ),
        (libc::EINVAL, _) => {
            format!("this kernel ({}) is too old; Linux 5.8 or later is needed", found.kernel)
        }
        (libc::ENOMEM, _) => format!(
            "the limit of locked memory (RLIMIT_MEMLOCK) is {} KiB and cannot be raised; allow at \
             least {} KiB: ulimit -l, LimitMEMLOCK= of systemd, or --ulimit memlock= of Docker",
            found.memlock_bytes >> 10,
            MEMLOCK_MIN_BYTES >> 10
        ),
        (libc::EMFILE | libc::ENFILE, _) => {
            "no file descriptors are left; raise the limit: ulimit -n".to_owned()
        }
        (other, _) => format!("the kernel answers: {}", io::Error::from_raw_os_error(other)),
    };
    format!("io_uring cannot be used: {reason}")
}

/// The line for a kernel that has io_uring but lacks operations.
pub fn explain_missing(missing: &[&str], found: &Surroundings<'_>) -> String {
    format!(
        "io_uring cannot be used: this kernel ({}) is too old, it lacks {}; Linux 5.8 or later is \
         needed",
        found.kernel,
        missing.join(", ")
    )
}

fn setup(flags: u32) -> io::Result<OwnedFd> {
    let mut params = Params { sq_entries: 0, cq_entries: 0, flags, rest: [0; 27] };
    // SAFETY: the kernel reads and writes `params` only, which is the size it expects and lives
    // through the call; the descriptor it returns is new and ours.
    unsafe {
        let fd = libc::syscall(libc::SYS_io_uring_setup, 4u32, &raw mut params);
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(OwnedFd::from_raw_fd(fd as i32))
    }
}

/// Makes a ring with the flags that it is called with; once more without ours if the kernel does not know it.
fn set_up_cooperatively(flags: u32, mut set_up: impl FnMut(u32) -> c_int) -> c_int {
    let made = set_up(flags | IORING_SETUP_COOP_TASKRUN);
    let is_refused = made < 0 && io::Error::last_os_error().raw_os_error() == Some(libc::EINVAL);
    if is_refused { set_up(flags) } else { made }
}

// SAFETY: the signature is that of liburing, which glommio is built with.
unsafe extern "C" {
    /// liburing's `__sys_io_uring_setup`.
    fn __real___sys_io_uring_setup(entries: c_uint, params: *mut Params) -> c_int;
}

/// What liburing calls instead of its own `__sys_io_uring_setup`: glommio takes no flags for its rings, so the linker is
/// told (`build.rs`).
// SAFETY: nothing else has a name that begins so.
#[unsafe(no_mangle)]
// SAFETY: only liburing calls it, as it would call its own.
unsafe extern "C" fn __wrap___sys_io_uring_setup(entries: c_uint, params: *mut Params) -> c_int {
    // SAFETY: liburing hands in parameters that live through the call and that nobody else uses.
    unsafe {
        set_up_cooperatively((*params).flags, |flags| {
            (*params).flags = flags;
            __real___sys_io_uring_setup(entries, params)
        })
    }
}

fn missing_operations(ring: &OwnedFd) -> io::Result<Vec<&'static str>> {
    let none = ProbeOp { op: 0, reserved: 0, flags: 0, reserved2: 0 };
    let mut probe =
        Probe { last_op: 0, ops_len: 0, reserved: 0, reserved2: [0; 3], ops: [none; PROBE_OPS] };
    // SAFETY: `probe` has room for the `PROBE_OPS` entries that are announced, is zeroed as the
    // kernel demands, and lives through the call.
    let answer = unsafe {
        libc::syscall(
            libc::SYS_io_uring_register,
            ring.as_raw_fd(),
            IORING_REGISTER_PROBE,
            &raw mut probe,
            PROBE_OPS as libc::c_uint,
        )
    };
    if answer < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(NEEDED
        .iter()
        .filter(|(number, _)| {
            *number >= usize::from(probe.ops_len)
                || probe.ops.get(*number).is_none_or(|op| op.flags & IO_URING_OP_SUPPORTED == 0)
        })
        .map(|(_, name)| *name)
        .collect())
}

fn limits_of(resource: libc::__rlimit_resource_t) -> Option<libc::rlimit> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the kernel writes `limit`, which lives through the call.
    (unsafe { libc::getrlimit(resource, &raw mut limit) } == 0).then_some(limit)
}

/// The soft limit in force; what cannot be asked is taken as unlimited.
pub fn soft_limit(resource: libc::__rlimit_resource_t) -> u64 {
    limits_of(resource).map_or(u64::MAX, |limit| limit.rlim_cur)
}

/// Soft limit up to the hard limit, as Go's runtime does for descriptors. Failing is no harm: what
/// needs the limit looks at it.
pub fn raise_limit(resource: libc::__rlimit_resource_t) {
    if let Some(mut limit) = limits_of(resource)
        && limit.rlim_cur < limit.rlim_max
    {
        limit.rlim_cur = limit.rlim_max;
        // SAFETY: the kernel reads `limit`, which lives through the call.
        unsafe { libc::setrlimit(resource, &raw const limit) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_has_its_own_line_with_a_remedy() {
        let plain = Surroundings { sysctl_disabled: None, kernel: "5.4.0", memlock_bytes: 65536 };
        let sysctl = |value| Surroundings { sysctl_disabled: Some(value), ..plain };
        let table = [
            (libc::EPERM, sysctl(2), "sysctl -w kernel.io_uring_disabled=0"),
            (libc::EPERM, sysctl(1), "kernel.io_uring_group"),
            (libc::EPERM, sysctl(0), "seccomp"),
            (libc::EPERM, plain, "seccomp"),
            (libc::EACCES, plain, "security module"),
            (libc::ENOSYS, plain, "(5.4.0) has no io_uring"),
            (libc::EINVAL, plain, "(5.4.0) is too old"),
            (libc::ENOMEM, plain, "RLIMIT_MEMLOCK) is 64 KiB"),
            (libc::EMFILE, plain, "ulimit -n"),
            (libc::EIO, plain, "the kernel answers: Input/output error"),
        ];
        for (errno, surroundings, expected) in table {
            let line = explain_setup(errno, &surroundings);
            assert!(line.contains(expected), "errno {errno}: {line}");
            assert!(line.starts_with("io_uring cannot be used: "), "{line}");
            assert!(!line.contains('\n'), "{line}");
        }
    }

    #[test]
    fn a_kernel_without_an_operation_is_told_which() {
        let found = Surroundings { kernel: "5.5.1", ..Surroundings::default() };
        let line = explain_missing(&["SEND", "RECV"], &found);
        assert!(line.contains("(5.5.1) is too old, it lacks SEND, RECV;"), "{line}");
    }

    #[test]
    fn a_kernel_that_does_not_know_cooperation_is_asked_without() {
        let asked = |refused: u32| {
            let mut all = Vec::new();
            let made = set_up_cooperatively(IORING_SETUP_IOPOLL, |flags| {
                all.push(flags);
                if flags & refused == 0 {
                    return 7;
                }
                // SAFETY: the error number is this thread's.
                unsafe { *libc::__errno_location() = libc::EINVAL };
                -1
            });
            (made, all)
        };
        assert_eq!(asked(0), (7, vec![0x101]));
        assert_eq!(asked(IORING_SETUP_COOP_TASKRUN), (7, vec![0x101, 1]));
        assert_eq!(asked(IORING_SETUP_IOPOLL), (-1, vec![0x101, 1]));
    }

    #[test]
    fn the_check_answers_with_one_line_or_none() {
        if let Err(line) = check() {
            assert!(line.starts_with("io_uring cannot be used: "), "{line}");
            assert!(!line.contains('\n'), "{line}");
        }
    }
}
