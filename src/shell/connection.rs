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

use super::limits::{LINGER, READ_WINDOW_MIN_BYTES};
use super::notify::Notify;
use super::reactor::Core;
use super::socket::{Sent, Socket};
use super::tls::{self, Arrival};
use crate::h2::Gathered;
use crate::rpc::ConnId;
use crate::tls::Session;
use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io;
use std::net::Shutdown;
use std::rc::Rc;

/// A socket and the server's number for it.
#[derive(Debug)]
pub struct Connection {
    id: ConnId,
    socket: Socket,
    /// With TLS.
    session: Option<RefCell<Session>>,
    /// The server still knows this connection.
    open: Cell<bool>,
    /// A task is writing what the socket did not take.
    stalled: Cell<bool>,
    /// The server wants to read again.
    resumed: Notify,
}

impl Connection {
    pub fn new(id: ConnId, socket: Socket, session: Option<Session>) -> Connection {
        Connection {
            id,
            socket,
            session: session.map(RefCell::new),
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

    pub fn socket(&self) -> &Socket {
        &self.socket
    }

    /// Sends what the socket takes now. With TLS, `data` is what goes over the wire afterwards, and so is
    /// [`Sent::Part`] of it.
    pub fn send(&self, data: &mut Gathered) -> Sent {
        if let Some(session) = &self.session
            && session.borrow_mut().seal(data.flatten()).is_err()
        {
            return Sent::Failed;
        }
        match data.as_slice() {
            Some(data) => self.socket.send(data),
            None => self.socket.send_gathered(data),
        }
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
        if let Some(session) = &self.session {
            let mut last = Vec::new();
            session.borrow_mut().close();
            session.borrow_mut().take_output(&mut last);
            // If the socket does not take it, the other end sees the FIN alone.
            self.socket.send(&last);
        }
        self.socket.shutdown(Shutdown::Write);
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
        self.socket.shutdown(Shutdown::Both);
    }
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
            core.input.borrow_mut().poll_fill(|window| connection.socket.poll_read(context, window))
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

/// The same with TLS.
pub async fn read_sealed(core: Rc<Core>, connection: Rc<Connection>) {
    let Some(session) = &connection.session else { return };
    loop {
        if connection.is_open() && !core.wants_read(&connection) {
            core.pause(&connection);
            connection.resumed.wait().await;
            continue;
        }
        let take = |data| {
            if connection.is_open() {
                core.received(&connection, data);
            }
        };
        let sealed = &core.tls().sealed;
        match tls::read(&connection.socket, session, sealed, &core.input, take).await {
            Arrival::Some { filled: true } => futures_lite::future::yield_now().await,
            Arrival::Some { filled: false } => {}
            Arrival::End => return core.half_closed(&connection),
            Arrival::Failed(error) => {
                tracing::debug!(error, "a connection of a client broke");
                return core.lost(&connection);
            }
        }
    }
}

async fn write_rest(core: Rc<Core>, connection: Rc<Connection>, rest: Vec<u8>) {
    let mut done = 0;
    while let Some(data) = rest.get(done..).filter(|data| !data.is_empty()) {
        match poll_fn(|context| connection.socket.poll_write(context, data)).await {
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
