//! From a socket to a session: who is at the other end is known before anything is said.

use super::resolver::{self, System};
use crate::shell::limits::{HANDSHAKE_READ_BYTES, HANDSHAKES_MAX};
use crate::shell::notify::Notify;
use crate::shell::socket::{Sent, Socket};
use crate::tls::{Certificate, Session, describe, fits_address};
use futures_lite::future;
use glommio::sync::Semaphore;
use glommio::timer::Timer;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::poll_fn;
use std::io;
use std::rc::Rc;
use std::time::Duration;

/// Those under way. When there are too many, the one that has taken longest is given up: whoever means it is through
/// in milliseconds.
pub struct Handshakes {
    open: RefCell<BTreeMap<u64, Rc<Notify>>>,
    next: Cell<u64>,
    /// Held for a step of a handshake, and until the loop has gone round after it.
    step: Semaphore,
    timeout: Duration,
}

/// Why there is no session.
#[derive(Debug)]
pub struct Failed {
    /// One line.
    pub reason: String,
    /// The other end has gone without a word, as port scanners and health checks do.
    pub is_silent: bool,
    pub server_name: String,
    /// That the other end has shown.
    pub certificate: Option<Certificate>,
}

impl From<String> for Failed {
    fn from(reason: String) -> Failed {
        Failed { reason, is_silent: false, server_name: String::new(), certificate: None }
    }
}

impl Handshakes {
    pub fn new(timeout: Duration) -> Handshakes {
        Handshakes {
            open: RefCell::default(),
            next: Cell::new(0),
            step: Semaphore::new(1),
            timeout,
        }
    }

    /// `checks_address`: the certificate has to fit the address of the other end.
    pub async fn run(
        &self,
        socket: &Socket,
        mut session: Session,
        checks_address: bool,
    ) -> Result<Session, Failed> {
        let number = self.next.replace(self.next.get() + 1);
        let given_up = Rc::new(Notify::default());
        let crowded_out = {
            let mut open = self.open.borrow_mut();
            open.insert(number, given_up.clone());
            if open.len() > HANDSHAKES_MAX { open.pop_first() } else { None }
        };
        if let Some((_, oldest)) = crowded_out {
            oldest.notify();
        }
        let shaking = async {
            self.shake(socket, &mut session).await?;
            match checks_address {
                true => check_address(socket, &session).await,
                false => Ok(()),
            }
        };
        let timeout = async {
            Timer::new(self.timeout).await;
            Err(format!("tls: handshake timeout: it took longer than {:?}", self.timeout))
        };
        let crowded = async {
            given_up.wait().await;
            Err(format!("tls: given up for newer handshakes: {HANDSHAKES_MAX} are under way"))
        };
        let outcome = future::or(shaking, future::or(timeout, crowded)).await;
        self.open.borrow_mut().remove(&number);
        match outcome {
            Ok(()) => Ok(session),
            Err(reason) => Err(Failed {
                is_silent: reason == EOF,
                reason,
                server_name: session.server_name().to_owned(),
                certificate: session.certificate(),
            }),
        }
    }

    async fn shake(&self, socket: &Socket, session: &mut Session) -> Result<(), String> {
        let mut buffer = vec![0; HANDSHAKE_READ_BYTES];
        let mut out = Vec::new();
        loop {
            session.take_output(&mut out);
            write_all(socket, &out).await.map_err(|error| error.to_string())?;
            out.clear();
            if !session.is_handshaking() {
                return Ok(());
            }
            let read = poll_fn(|context| socket.poll_read(context, &mut buffer)).await;
            let read = match read {
                Ok(0) => return Err(EOF.to_owned()),
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error.to_string()),
            };
            let step = self.step.acquire_permit(1).await.map_err(|error| error.to_string())?;
            let mut rest = buffer.get(..read).unwrap_or_default();
            while !rest.is_empty() {
                if let Err(error) = session.feed(&mut rest) {
                    // The other end is told why, if its socket takes it at once.
                    session.take_output(&mut out);
                    if let Sent::Failed | Sent::Part(_) = socket.send(&out) {
                        tracing::debug!("the other end was not told why");
                    }
                    return Err(describe(&error));
                }
            }
            future::yield_now().await;
            drop(step);
        }
    }
}

/// As Go calls it, and etcd does not log it.
const EOF: &str = "EOF";

async fn write_all(socket: &Socket, data: &[u8]) -> io::Result<()> {
    let mut done = 0;
    while let Some(rest) = data.get(done..).filter(|rest| !rest.is_empty()) {
        match poll_fn(|context| socket.poll_write(context, rest)).await {
            Ok(written) => done += written,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

async fn check_address(socket: &Socket, session: &Session) -> Result<(), String> {
    let (Some(certificate), Some(address)) = (session.certificate(), socket.remote()) else {
        return Ok(());
    };
    let address = address.ip().to_canonical();
    if certificate.dns_names.is_empty() || certificate.ip_addresses.contains(&address) {
        return fits_address(&certificate, address, &mut System);
    }
    let work = move || match fits_address(&certificate, address, &mut System) {
        Ok(()) => String::new(),
        Err(error) => error,
    };
    let error = resolver::off_the_loop(work).await?;
    if error.is_empty() { Ok(()) } else { Err(error) }
}
