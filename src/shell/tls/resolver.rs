//! The system's resolver, which waits as long as it likes: a thread asks it.

use crate::tls::Resolver;
use glommio::net::UnixStream;
use socket2::SockAddr;
use std::io::Write;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::os::fd::{FromRawFd, IntoRawFd};

pub struct System;

impl Resolver for System {
    fn names_of(&mut self, address: IpAddr) -> Result<Vec<String>, String> {
        let socket = SockAddr::from(SocketAddr::new(address, 0));
        let mut name = [0u8; libc::NI_MAXHOST as usize];
        // SAFETY: both buffers live through the call, and their lengths are theirs.
        let failed = unsafe {
            libc::getnameinfo(
                socket.as_ptr().cast(),
                socket.len(),
                name.as_mut_ptr().cast(),
                libc::NI_MAXHOST,
                std::ptr::null_mut(),
                0,
                libc::NI_NAMEREQD,
            )
        };
        if failed != 0 {
            return Err(format!("lookup {address}: it has no name"));
        }
        let end = name.iter().position(|byte| *byte == 0).unwrap_or(name.len());
        Ok(vec![String::from_utf8_lossy(name.get(..end).unwrap_or_default()).into_owned()])
    }

    fn addresses_of(&mut self, name: &str) -> Result<Vec<IpAddr>, String> {
        let found =
            (name, 0).to_socket_addrs().map_err(|error| format!("lookup {name}: {error}"))?;
        Ok(found.map(|address| address.ip().to_canonical()).collect())
    }
}

/// Does `work` in a thread of its own. The thread writes what it has found into a pipe, as text, and the loop reads it
/// there.
pub async fn off_the_loop(
    work: impl FnOnce() -> String + Send + 'static,
) -> Result<String, String> {
    use futures_lite::AsyncReadExt;
    let (mut write, read) =
        std::os::unix::net::UnixStream::pair().map_err(|error| error.to_string())?;
    let work = move || {
        // Nobody reads any more: nobody needs it.
        let _ = write.write_all(work().as_bytes());
    };
    let thread = std::thread::Builder::new().name("lookup".to_owned()).spawn(work);
    thread.map_err(|error| error.to_string())?;
    // SAFETY: the descriptor is open and given away by `into_raw_fd`.
    let mut read = unsafe { UnixStream::from_raw_fd(read.into_raw_fd()) };
    let mut text = String::new();
    read.read_to_string(&mut text).await.map_err(|error| error.to_string())?;
    Ok(text)
}
