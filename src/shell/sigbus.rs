//! A part of the store's file that cannot be read through the map: the disk has failed, or somebody
//! has cut the file. The kernel then sends SIGBUS, and all that is left to do is to say where, and to
//! end: what was asked for cannot be had, and whoever asked has no way to be told.

use super::log::FATAL;
use crate::store::Warmer;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};

static BASE: AtomicUsize = AtomicUsize::new(0);
static LEN: AtomicUsize = AtomicUsize::new(0);

/// From here on a SIGBUS is told of with the offset in the store's file.
pub fn install(map: Warmer) {
    let (base, len) = map.addresses();
    BASE.store(base, Ordering::SeqCst);
    LEN.store(len, Ordering::SeqCst);
    // SAFETY: the structure may be all zeros; the handler does only what is allowed in one: reading
    // atomics, writing to a descriptor, and ending the process.
    let installed = unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = handle as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO;
        libc::sigaction(libc::SIGBUS, &action, std::ptr::null_mut())
    };
    if installed != 0 {
        let error = io::Error::last_os_error();
        tracing::warn!(target: FATAL, error = %error, "no handler for unreadable pages");
    }
}

extern "C" fn handle(_: libc::c_int, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    // SAFETY: the kernel hands over a valid structure, and SIGBUS has an address in it.
    let address = unsafe { (*info).si_addr() } as usize;
    let offset = address.wrapping_sub(BASE.load(Ordering::SeqCst));
    let mut line = Line { bytes: [0; 128], len: 0 };
    if offset < LEN.load(Ordering::SeqCst) {
        line.push(b"ringd: the store's file cannot be read at offset ");
        line.number(offset);
        line.push(b": the disk has failed, or the file was cut; the member stops\n");
    } else {
        line.push(b"ringd: SIGBUS outside of the store's file\n");
    }
    // SAFETY: a buffer of our own; the process ends whatever becomes of it.
    unsafe {
        libc::write(libc::STDERR_FILENO, line.bytes.as_ptr().cast(), line.len);
        libc::abort();
    }
}

/// Text without the allocator, which a handler may not use.
struct Line {
    bytes: [u8; 128],
    len: usize,
}

impl Line {
    fn push(&mut self, text: &[u8]) {
        for byte in text {
            if let Some(place) = self.bytes.get_mut(self.len) {
                *place = *byte;
                self.len += 1;
            }
        }
    }

    fn number(&mut self, number: usize) {
        let mut unit = 1;
        while number / unit >= 10 {
            unit *= 10;
        }
        while unit > 0 {
            self.push(&[b'0' + (number / unit % 10) as u8]);
            unit /= 10;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Map;

    #[test]
    fn the_map_that_was_installed_last_is_the_one_that_is_told_of() {
        for bytes in [1 << 20, 1 << 21] {
            let (map, _memory) = Map::memory(bytes);
            install(map.warmer());
            let told = (BASE.load(Ordering::SeqCst), LEN.load(Ordering::SeqCst));
            assert_eq!(told, map.warmer().addresses());
        }
    }

    #[test]
    fn numbers_are_written_without_an_allocator() {
        for number in [0, 7, 10, 99, 100, 1_234_567, usize::MAX] {
            let mut line = Line { bytes: [0; 128], len: 0 };
            line.number(number);
            assert_eq!(&line.bytes[..line.len], number.to_string().as_bytes());
        }
    }
}
