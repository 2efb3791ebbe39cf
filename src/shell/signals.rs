//! SIGTERM and SIGINT as a future: the first asks for an orderly stop, a second one ends at once.

use glommio::net::UnixStream;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::low_level::{pipe, register};
use std::io;
use std::os::fd::{FromRawFd, IntoRawFd};
use std::sync::atomic::{AtomicBool, Ordering};

/// A process that was asked twice ends as one that was killed: 128 + SIGINT.
const EXIT_ASKED_TWICE: i32 = 130;

/// Ends with the name of the first signal.
pub struct Stop {
    pipe: UnixStream,
}

/// Set by the first signal that arrives.
static ASKED: AtomicBool = AtomicBool::new(false);

impl Stop {
    pub fn listen() -> io::Result<Stop> {
        let (read, write) = std::os::unix::net::UnixStream::pair()?;
        for signal in [SIGTERM, SIGINT] {
            pipe::register(signal, write.try_clone()?)?;
            let again = || {
                if ASKED.swap(true, Ordering::SeqCst) {
                    signal_hook::low_level::exit(EXIT_ASKED_TWICE);
                }
            };
            // SAFETY: the handler touches one atomic and calls `_exit`; both are allowed in a
            // signal handler.
            unsafe { register(signal, again) }?;
        }
        // SAFETY: the descriptor is open and given away by `into_raw_fd`.
        let pipe = unsafe { UnixStream::from_raw_fd(read.into_raw_fd()) };
        Ok(Stop { pipe })
    }

    pub async fn wait(mut self) {
        use futures_lite::AsyncReadExt;
        let mut byte = [0];
        // An error means that signals can no more be told apart from silence; stopping is safe.
        let _ = self.pipe.read(&mut byte).await;
    }
}
