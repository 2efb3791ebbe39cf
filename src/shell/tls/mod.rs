//! TLS of the sockets: whose files, which handshakes are under way, what is logged of those that fail.
//!
//! ```text
//! files.rs      the files of one kind of connection, read again when they change, by a thread of its own
//! handshake.rs  from a socket to a session
//! stream.rs     what arrives on a socket that has a session
//! resolver.rs   names of addresses, and back
//! ```
//!
//! A handshake costs the core about a millisecond. So there is one step of one handshake between two passes of the
//! event loop, whoever else waits for one, and heartbeats wait for no more than that.

mod files;
mod handshake;
mod resolver;
mod stream;

use super::limits::{REJECTIONS_LOGGED_BURST, REJECTIONS_LOGGED_PER_SECOND};
use super::reactor::Core;
use super::socket::Socket;
use crate::config::Config;
use crate::rpc::ListenerKind;
use crate::tls::{Certificate, Session, describe};
use files::{Kind, Transport};
use glommio::net::TcpStream;
use handshake::Handshakes;
pub use resolver::off_the_loop;
use std::cell::{Cell, RefCell};
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
pub use stream::{Arrival, read};

/// What connections of both kinds are made with.
pub struct Tls {
    clients: Arc<Transport>,
    peers: Arc<Transport>,
    handshakes: Handshakes,
    /// What a socket with a session has read, before it is opened; one buffer for all.
    pub sealed: RefCell<Vec<u8>>,
    rejections: Rejections,
}

impl Tls {
    /// Reads all files; certificates that are still to be made are not there yet. The error is one line that names
    /// the file.
    pub fn open(config: &Config) -> Result<Tls, String> {
        Ok(Tls {
            clients: Arc::new(Transport::open(Kind::Client, config)?),
            peers: Arc::new(Transport::open(Kind::Peer, config)?),
            handshakes: Handshakes::new(Duration::from_millis(config.tls_handshake_timeout_ms)),
            sealed: RefCell::default(),
            rejections: Rejections::default(),
        })
    }

    /// Makes the certificates that are to be made, in the data directory, which is there by now, and begins to look
    /// after the files.
    pub fn start(&mut self, config: &Config, data_dir: &Path) -> Result<(), String> {
        for (kind, transport) in [(Kind::Client, &mut self.clients), (Kind::Peer, &mut self.peers)]
        {
            if transport.is_to_make_certificate() {
                let opened = Transport::open(kind, config)?;
                *transport = Arc::new(opened.with_own_certificate(config, data_dir)?);
            }
            if transport.current().server.is_some() {
                let info = transport.describe();
                tracing::info!("tls-info" = info, "starting with {} TLS", transport.name());
            }
            transport.watch()?;
        }
        Ok(())
    }

    /// What gives the lines of metrics.
    pub fn metrics(&self) -> impl Fn() -> String + use<> {
        let (clients, peers) = (self.clients.clone(), self.peers.clone());
        move || files::render(&[&clients, &peers])
    }

    /// For dialling other members.
    pub fn dialling(&self) -> Arc<rustls::ClientConfig> {
        self.peers.current().client.clone()
    }

    /// Greets whoever has dialled; None if there is no session with it, and the log says why.
    async fn greet(&self, core: &Core, socket: &Socket, kind: Kind) -> Option<Session> {
        let transport = match kind {
            Kind::Client => &self.clients,
            Kind::Peer => &self.peers,
        };
        let session = transport.current().server.clone().map(Session::accept)?;
        let session = match session {
            Ok(session) => self.handshakes.run(socket, session, transport.checks_addresses()).await,
            Err(error) => Err(describe(&error).into()),
        };
        transport.count(session.is_ok());
        match session {
            Ok(session) => Some(session),
            Err(failed) if failed.is_silent => {
                tracing::debug!(
                    error = failed.reason,
                    "rejected connection on {} endpoint",
                    kind.name()
                );
                None
            }
            Err(failed) => {
                self.reject(core, socket, kind, &failed);
                None
            }
        }
    }

    fn reject(&self, core: &Core, socket: &Socket, kind: Kind, failed: &handshake::Failed) {
        let Some(unlogged) = self.rejections.admit(core.clock().now_ms()) else { return };
        let remote = socket.remote().map_or_else(String::new, |address| address.to_string());
        let (ips, names) = failed.certificate.as_ref().map(shown_names).unwrap_or_default();
        tracing::warn!(
            "remote-addr" = remote,
            "server-name" = failed.server_name,
            "ip-addresses" = ips,
            "dns-names" = names,
            error = failed.reason,
            unlogged,
            "rejected connection on {} endpoint",
            kind.name()
        );
    }

    /// Somebody has spoken TLS where plaintext is spoken.
    pub fn reject_plain(&self, core: &Core, socket: &Socket) {
        let Some(unlogged) = self.rejections.admit(core.clock().now_ms()) else { return };
        let remote = socket.remote().map_or_else(String::new, |address| address.to_string());
        tracing::warn!(
            "remote-addr" = remote,
            error = SPEAKS_TLS,
            unlogged,
            "rejected connection on client endpoint"
        );
    }
}

/// What is said of who dials the wrong port, or by the wrong scheme.
pub const SPEAKS_TLS: &str =
    "the other end speaks TLS, and this URL is without (http or unix, not https or unixs)";

/// Whether these are the first bytes of somebody who speaks TLS.
pub fn looks_like_tls(data: &[u8]) -> bool {
    data.starts_with(&[0x16, 0x03])
}

fn shown_names(certificate: &Certificate) -> (String, String) {
    let ips: Vec<_> = certificate.ip_addresses.iter().map(ToString::to_string).collect();
    (ips.join(","), certificate.dns_names.join(","))
}

/// A client has dialled a URL with TLS.
pub fn accept_client(core: &Rc<Core>, stream: TcpStream, kind: ListenerKind) {
    let core = core.clone();
    let greet = async move {
        let socket = Socket::new(stream);
        let tls = core.tls();
        let Some(session) = tls.greet(&core, &socket, Kind::Client).await else { return };
        let common_name = match tls.clients.names_users() {
            true => session.certificate().map(|certificate| certificate.common_name),
            false => None,
        };
        core.secured(socket, session, kind, common_name.filter(|name| !name.is_empty()));
    };
    glommio::spawn_local(greet).detach();
}

/// A member, or one who says so, has dialled a URL with TLS.
pub fn accept_peer(core: &Rc<Core>, stream: TcpStream) {
    let core = core.clone();
    let greet = async move {
        let socket = Socket::new(stream);
        if let Some(session) = core.tls().greet(&core, &socket, Kind::Peer).await {
            core.peers().accept(&core, socket, Some(session));
        }
    };
    glommio::spawn_local(greet).detach();
}

/// Makes a session with the member at `host`, whose socket is connected.
pub async fn dial(core: &Core, socket: &Socket, host: &str) -> Result<Session, String> {
    let tls = core.tls();
    let session = Session::dial(tls.dialling(), host).map_err(|error| describe(&error))?;
    tls.handshakes.run(socket, session, false).await.map_err(|failed| failed.reason)
}

/// How many lines about rejected connections are logged.
#[derive(Default)]
struct Rejections {
    /// Lines that may be logged at once, and up to when they were counted.
    left: Cell<u64>,
    counted_ms: Cell<Option<u64>>,
    unlogged: Cell<u64>,
}

impl Rejections {
    /// How many were not logged before this one, if this one is.
    fn admit(&self, now_ms: u64) -> Option<u64> {
        let left = match self.counted_ms.get() {
            None => REJECTIONS_LOGGED_BURST,
            Some(before_ms) => {
                let gained = (now_ms - before_ms) / 1000 * REJECTIONS_LOGGED_PER_SECOND;
                (self.left.get() + gained).min(REJECTIONS_LOGGED_BURST)
            }
        };
        if left > self.left.get() {
            self.counted_ms.set(Some(now_ms));
        }
        self.left.set(left.saturating_sub(1));
        if left == 0 {
            self.unlogged.set(self.unlogged.get() + 1);
            return None;
        }
        Some(self.unlogged.take())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rejections_are_logged_up_to_a_rate_and_the_rest_is_counted() {
        let rejections = Rejections::default();
        for _ in 0..REJECTIONS_LOGGED_BURST {
            assert_eq!(rejections.admit(5), Some(0));
        }
        for now_ms in [5, 6, 1004] {
            assert_eq!(rejections.admit(now_ms), None);
        }
        assert_eq!(rejections.admit(1005), Some(3), "a second later there is one more");
        assert_eq!(rejections.admit(1006), None);
        assert_eq!(rejections.admit(1_000_000), Some(1));
    }
}
