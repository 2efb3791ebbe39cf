//! A socket of the core thread: sends that do not wait, polls for what does, and the chunk that
//! sockets read into.

use super::limits::{READ_CHUNK_BYTES, READ_WINDOW_MIN_BYTES};
use crate::h2::Gathered;
use bytes::{Bytes, BytesMut};
use futures_lite::io::{AsyncRead, AsyncWrite};
use glommio::net::TcpStream;
use smallvec::SmallVec;
use socket2::SockRef;
use std::cell::{Cell, RefCell};
use std::io::{self, IoSlice};
use std::net::{Shutdown, SocketAddr};
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::pin::Pin;
use std::task::{Context, Poll};

/// Pieces in one system call: what a round of a flush has of full frames and their headers. The kernel takes
/// 1,024.
const SLICES: usize = 96;

#[derive(Debug)]
pub struct Socket {
    stream: RefCell<TcpStream>,
    fd: RawFd,
}

thread_local! {
    /// Sockets that there are, those included whose connection is over and that only linger.
    static OPEN: Cell<usize> = const { Cell::new(0) };
}

/// What a socket made of a send.
pub enum Sent {
    All,
    /// This much, and the socket is full.
    Part(usize),
    Failed,
}

impl Socket {
    pub fn new(stream: TcpStream) -> Socket {
        OPEN.set(OPEN.get() + 1);
        Socket { fd: stream.as_raw_fd(), stream: RefCell::new(stream) }
    }

    /// How many there are of this thread: each has a descriptor.
    pub fn open() -> usize {
        OPEN.get()
    }

    /// The address of the other end; none on a Unix socket.
    pub fn remote(&self) -> Option<SocketAddr> {
        // SAFETY: `stream` keeps the descriptor open as long as `self` lives, which the borrow does not outlive.
        let fd = unsafe { BorrowedFd::borrow_raw(self.fd) };
        SockRef::from(&fd).peer_addr().ok()?.as_socket()
    }

    /// Sends what the socket takes now.
    pub fn send(&self, data: &[u8]) -> Sent {
        let mut done = 0;
        while let Some(rest) = data.get(done..).filter(|rest| !rest.is_empty()) {
            // SAFETY: `rest` is valid for its length, and the descriptor is open as long as
            // `stream` lives, which is as long as `self`.
            let sent = unsafe {
                libc::send(
                    self.fd,
                    rest.as_ptr().cast(),
                    rest.len(),
                    libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL,
                )
            };
            match usize::try_from(sent) {
                Ok(sent) => done += sent,
                Err(_) => match io::Error::last_os_error().kind() {
                    io::ErrorKind::WouldBlock => return Sent::Part(done),
                    io::ErrorKind::Interrupted => {}
                    _ => return Sent::Failed,
                },
            }
        }
        Sent::All
    }

    /// The same without copying it together first.
    pub fn send_gathered(&self, data: &Gathered) -> Sent {
        // SAFETY: `stream` keeps the descriptor open as long as `self` lives, which the borrow does not outlive.
        let fd = unsafe { BorrowedFd::borrow_raw(self.fd) };
        let mut done = 0;
        loop {
            let mut slices: SmallVec<[IoSlice<'_>; SLICES]> = SmallVec::new();
            data.io_slices(done, &mut slices);
            let Some(part) = slices.get(..slices.len().min(SLICES)).filter(|part| !part.is_empty())
            else {
                return Sent::All;
            };
            let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
            match SockRef::from(&fd).send_vectored_with_flags(part, flags) {
                Ok(sent) => done += sent,
                Err(error) => match error.kind() {
                    io::ErrorKind::WouldBlock => return Sent::Part(done),
                    io::ErrorKind::Interrupted => {}
                    _ => return Sent::Failed,
                },
            }
        }
    }

    /// A socket that is already down answers with an error that changes nothing.
    pub fn shutdown(&self, how: Shutdown) {
        let how = match how {
            Shutdown::Read => libc::SHUT_RD,
            Shutdown::Write => libc::SHUT_WR,
            Shutdown::Both => libc::SHUT_RDWR,
        };
        // SAFETY: only numbers are handed over; `stream` keeps the descriptor open.
        unsafe { libc::shutdown(self.fd, how) };
    }

    pub fn poll_read(
        &self,
        context: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.stream.borrow_mut()).poll_read(context, buffer)
    }

    pub fn poll_write(&self, context: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.stream.borrow_mut()).poll_write(context, data)
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        OPEN.set(OPEN.get() - 1);
    }
}

/// A chunk that connections read into. Filled from the front; what was read is split off and
/// shared, and when little is left a new chunk takes its place.
#[derive(Debug, Default)]
pub struct Input {
    chunk: BytesMut,
}

impl Input {
    pub fn poll_fill(
        &mut self,
        read: impl FnOnce(&mut [u8]) -> Poll<io::Result<usize>>,
    ) -> Poll<io::Result<Bytes>> {
        if self.chunk.len() < READ_WINDOW_MIN_BYTES {
            self.renew();
        }
        read(&mut self.chunk).map_ok(|len| self.chunk.split_to(len.min(self.chunk.len())).freeze())
    }

    fn renew(&mut self) {
        self.chunk.clear();
        // When nobody holds a slice of the old chunk any more, its memory is used again.
        if !self.chunk.try_reclaim(READ_CHUNK_BYTES) {
            self.chunk = BytesMut::with_capacity(READ_CHUNK_BYTES);
        }
        self.chunk.resize(READ_CHUNK_BYTES, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fill(input: &mut Input, content: &[u8]) -> Bytes {
        let filled = input.poll_fill(|window| {
            window[..content.len()].copy_from_slice(content);
            Poll::Ready(Ok(content.len()))
        });
        match filled {
            Poll::Ready(Ok(data)) => data,
            _ => unreachable!("the reader above is always ready"),
        }
    }

    #[test]
    fn what_was_read_stays_as_it_was_while_more_is_read() {
        let mut input = Input::default();
        let kept: Vec<(usize, Bytes)> =
            (0..1000).map(|n| (n, fill(&mut input, &[n as u8; 700][..n % 700]))).collect();
        for (n, data) in kept {
            assert_eq!(data, vec![n as u8; n % 700]);
        }
    }

    #[test]
    fn the_window_never_becomes_small() {
        let mut input = Input::default();
        for _ in 0..100 {
            let mut seen = 0;
            let _ = input.poll_fill(|window| {
                seen = window.len();
                Poll::Ready(Ok(window.len() / 3))
            });
            assert!((READ_WINDOW_MIN_BYTES..=READ_CHUNK_BYTES).contains(&seen), "{seen}");
        }
    }

    #[test]
    fn a_chunk_that_nobody_holds_is_used_again() {
        let mut input = Input::default();
        let mut places = std::collections::BTreeSet::new();
        for _ in 0..1000 {
            let data = fill(&mut input, &[1; 1000]);
            places.insert(data.as_ptr() as usize / READ_CHUNK_BYTES);
        }
        assert!(places.len() <= 2, "{places:?}");
    }

    #[test]
    fn waiting_and_failing_take_nothing_from_the_chunk() {
        let mut input = Input::default();
        assert!(input.poll_fill(|_| Poll::Pending).is_pending());
        let failed = input.poll_fill(|_| Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())));
        assert!(matches!(failed, Poll::Ready(Err(_))));
        assert_eq!(input.chunk.len(), READ_CHUNK_BYTES);
    }
}
