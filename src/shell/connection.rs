//! One socket: its reader, its writes, its end.
//!
//! Reading: one `recv` into a chunk that all connections share, handed on as a slice of it. While the
//! server does not want to read a connection, nobody reads it, and TCP pushes back on the peer.
//!
//! Writing: the core sends what a turn produced with one system call, without a task of the
//! connection being involved. Only what the socket does not take at once is left to a task of its
//! own (`write_rest`), and until that is through the server is not asked for more.
//!
//! End: the server's last bytes, a FIN, then the peer's bytes are thrown away for a moment, since
//! closing a socket with unread bytes resets it and may take the last bytes with it.
//!
//! This file knows nothing of what the bytes mean.

use super::limits::{LINGER, READ_CHUNK_BYTES, READ_WINDOW_MIN_BYTES};
use super::notify::Notify;
use super::reactor::Core;
use crate::rpc::ConnId;
use bytes::{Bytes, BytesMut};
use futures_lite::io::{AsyncRead, AsyncWrite};
use glommio::net::TcpStream;
use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io;
use std::net::Shutdown;
use std::os::fd::{AsRawFd, RawFd};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

/// A socket and the server's number for it.
#[derive(Debug)]
pub struct Connection {
    id: ConnId,
    stream: RefCell<TcpStream>,
    fd: RawFd,
    /// The server still knows this connection.
    open: Cell<bool>,
    /// A task is writing what the socket did not take.
    stalled: Cell<bool>,
    /// The server wants to read again.
    resumed: Notify,
}

/// What a connection's socket made of a send.
pub enum Sent {
    All,
    /// This much, and the socket is full.
    Part(usize),
    Failed,
}

impl Connection {
    pub fn new(id: ConnId, stream: TcpStream) -> Connection {
        Connection {
            id,
            fd: stream.as_raw_fd(),
            stream: RefCell::new(stream),
            open: Cell::new(true),
            stalled: Cell::new(false),
            resumed: Notify::default(),
        }
    }

    pub fn id(&self) -> ConnId {
        self.id
    }

    pub fn is_open(&self) -> bool {
        self.open.get()
    }

    pub fn is_stalled(&self) -> bool {
        self.stalled.get()
    }

    pub fn resume(&self) {
        self.resumed.notify();
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

    /// Leaves `rest` to a task; the core is told when it is written.
    pub fn stall(self: &Rc<Self>, core: &Rc<Core>, rest: Vec<u8>) {
        self.stalled.set(true);
        glommio::spawn_local(write_rest(core.clone(), self.clone(), rest)).detach();
    }

    /// The server has given this connection up, and all its bytes are sent.
    pub fn finish(self: &Rc<Self>) {
        self.open.set(false);
        self.resumed.notify();
        shutdown(self.fd, Shutdown::Write);
        let connection = Rc::downgrade(self);
        glommio::spawn_local(async move {
            glommio::timer::sleep(LINGER).await;
            if let Some(connection) = connection.upgrade() {
                connection.abort();
            }
        })
        .detach();
    }

    /// Ends both directions now; tasks that wait for the socket see its end.
    pub fn abort(&self) {
        self.open.set(false);
        self.resumed.notify();
        shutdown(self.fd, Shutdown::Both);
    }

    fn poll_read(&self, context: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.stream.borrow_mut()).poll_read(context, buffer)
    }

    fn poll_write(&self, context: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.stream.borrow_mut()).poll_write(context, data)
    }
}

fn shutdown(fd: RawFd, how: Shutdown) {
    let how = match how {
        Shutdown::Read => libc::SHUT_RD,
        Shutdown::Write => libc::SHUT_WR,
        Shutdown::Both => libc::SHUT_RDWR,
    };
    // SAFETY: only numbers are handed over; every caller's `Connection` keeps `fd` open. A socket
    // that is already down answers with an error that changes nothing.
    unsafe { libc::shutdown(fd, how) };
}

/// Reads until the peer or the server ends the connection.
pub async fn read_all(core: Rc<Core>, connection: Rc<Connection>) {
    loop {
        if connection.is_open() && !core.wants_read(&connection) {
            core.pause(&connection);
            connection.resumed.wait().await;
            continue;
        }
        let read = poll_fn(|context| {
            core.input.borrow_mut().poll_fill(|window| connection.poll_read(context, window))
        });
        match read.await {
            Ok(data) if data.is_empty() => return core.half_closed(&connection),
            Ok(data) => {
                let filled = data.len() >= READ_WINDOW_MIN_BYTES;
                if connection.is_open() {
                    core.received(&connection, data);
                }
                if filled {
                    // There may be more at once. The others, and the core, come first.
                    futures_lite::future::yield_now().await;
                }
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return core.lost(&connection),
        }
    }
}

async fn write_rest(core: Rc<Core>, connection: Rc<Connection>, rest: Vec<u8>) {
    let mut done = 0;
    while let Some(data) = rest.get(done..).filter(|data| !data.is_empty()) {
        match poll_fn(|context| connection.poll_write(context, data)).await {
            Ok(written) => done += written,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => break,
        }
    }
    connection.stalled.set(false);
    if done < rest.len() {
        core.lost(&connection);
    } else {
        core.written(&connection);
    }
}

/// The chunk that all connections read into. Filled from the front; what was read is split off and
/// shared, and when little is left a new chunk takes its place.
#[derive(Debug, Default)]
pub struct Input {
    chunk: BytesMut,
}

impl Input {
    fn poll_fill(
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
