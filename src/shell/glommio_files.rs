//! What the log's and the store's files have in common on glommio.

use glommio::GlommioError;
use glommio::io::BufferedFile;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// The kernel's own error. glommio's conversion keeps only its kind, and a full disk must be told
/// from a broken one.
pub fn plain(error: GlommioError<()>) -> io::Error {
    match error.raw_os_error() {
        Some(errno) => io::Error::from_raw_os_error(errno),
        None => io::Error::from(error),
    }
}

pub fn short(written: usize, len: usize) -> io::Error {
    io::Error::new(io::ErrorKind::WriteZero, format!("{written} of {len} bytes were written"))
}

/// Writes all of `data`. The kernel goes on after a partial write of a regular file by itself, so a
/// short one is a failure.
pub async fn write(file: &BufferedFile, offset: u64, data: Vec<u8>) -> io::Result<()> {
    let len = data.len();
    let written = file.write_at(data, offset).await.map_err(plain)?;
    if written == len { Ok(()) } else { Err(short(written, len)) }
}

/// Runs `work` on glommio's blocking thread. A panic there would leave the future waiting for ever,
/// so it becomes an error.
pub async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    glommio::executor()
        .spawn_blocking(move || {
            catch_unwind(AssertUnwindSafe(work))
                .unwrap_or_else(|_| Err(io::Error::other("the blocking thread panicked")))
        })
        .await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shell::files::is_no_space;

    #[test]
    fn the_errno_of_a_full_disk_survives_glommio() {
        let enhanced = GlommioError::<()>::EnhancedIoError {
            source: io::Error::from_raw_os_error(libc::ENOSPC),
            op: "Pre-allocate space",
            path: None,
            fd: None,
        };
        assert!(is_no_space(&plain(enhanced)));
        assert!(is_no_space(&plain(GlommioError::IoError(io::Error::from_raw_os_error(
            libc::ENOSPC
        )))));
    }
}
