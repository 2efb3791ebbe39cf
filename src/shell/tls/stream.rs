//! What arrives on a socket that has a session.

use crate::shell::limits::READ_CHUNK_BYTES;
use crate::shell::socket::{Input, Socket};
use crate::tls::{Session, describe};
use bytes::Bytes;
use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::task::{Poll, ready};

/// What a read has come to.
pub enum Arrival {
    /// There may be more at once, if the buffer was filled.
    Some {
        filled: bool,
    },
    /// The other end has said everything.
    End,
    Failed(String),
}

/// Reads once, and hands on what it was in plaintext, as slices of `input`.
pub async fn read(
    socket: &Socket,
    session: &RefCell<Session>,
    sealed: &RefCell<Vec<u8>>,
    input: &RefCell<Input>,
    mut take: impl FnMut(Bytes),
) -> Arrival {
    // What came with the end of the handshake.
    open(session, input, &mut take);
    poll_fn(|context| {
        let mut sealed = sealed.borrow_mut();
        sealed.resize(READ_CHUNK_BYTES, 0);
        let read = match ready!(socket.poll_read(context, &mut sealed)) {
            Ok(0) => return Poll::Ready(Arrival::End),
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => 0,
            Err(error) => return Poll::Ready(Arrival::Failed(error.to_string())),
        };
        let mut rest = sealed.get(..read).unwrap_or_default();
        while !rest.is_empty() {
            let fed = session.borrow_mut().feed(&mut rest);
            open(session, input, &mut take);
            if let Err(error) = fed {
                return Poll::Ready(Arrival::Failed(describe(&error)));
            }
        }
        let has_ended = session.borrow().has_ended();
        let filled = read == sealed.len();
        Poll::Ready(if has_ended { Arrival::End } else { Arrival::Some { filled } })
    })
    .await
}

fn open(session: &RefCell<Session>, input: &RefCell<Input>, take: &mut impl FnMut(Bytes)) {
    loop {
        let read = |window: &mut [u8]| Poll::Ready(Ok(session.borrow_mut().read(window)));
        let data = input.borrow_mut().poll_fill(read);
        match data {
            Poll::Ready(Ok(data)) if !data.is_empty() => take(data),
            _ => return,
        }
    }
}
