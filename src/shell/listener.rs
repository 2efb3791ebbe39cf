//! Listening sockets: bound before anything else is done, accepted from when the server is ready.
//!
//! Binding early turns a port in use into an error at once. Until the server is ready, clients'
//! connections wait in the backlog, which to them looks like a server that is slow to answer. Members
//! are refused until the loop runs: two that start at once and ask each other must not both wait.

use super::limits::{ACCEPT_RETRY, BIND_RETRY, LISTEN_BACKLOG, TCP_KEEPALIVE_SECONDS};
use super::reactor::Core;
use super::socket::Socket as Accepted;
use super::tls;
use crate::config::{Address, Url};
use crate::rpc::ListenerKind;
use glommio::net::TcpListener;
use socket2::{Domain, SockAddr, Socket, Type};
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

/// Who is expected to connect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Serves {
    Rpc(ListenerKind),
    Peers,
}

/// A bound socket that nobody accepts from yet.
#[derive(Debug)]
pub struct Bound {
    pub serves: Serves,
    /// As etcd shows it in its log: `host:port`, or the path.
    pub name: String,
    pub is_tls: bool,
    socket: OwnedFd,
}

/// Binds where `url` says. The error is one line that names the address.
///
/// An address in use is tried again for `patience`: after a process was killed, the kernel takes
/// down its io_uring in the background, and the accept that was pending there holds the socket.
pub fn bind(
    serves: Serves,
    url: &Url,
    reuse_port: bool,
    patience: Duration,
) -> Result<Bound, String> {
    let mut tries_left = patience.as_millis() / BIND_RETRY.as_millis();
    loop {
        let (name, bound) = try_bind(url, reuse_port);
        let bound = bound.and_then(|socket| {
            if serves != Serves::Peers {
                listen(socket.as_raw_fd())?;
            }
            Ok(socket)
        });
        match bound {
            Ok(socket) => return Ok(Bound { serves, name, is_tls: url.is_tls(), socket }),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && tries_left > 0 => {
                tries_left -= 1;
                std::thread::sleep(BIND_RETRY);
            }
            Err(error) => return Err(format!("cannot listen on {name}: {error}")),
        }
    }
}

/// The name of the address, and the socket.
fn try_bind(url: &Url, reuse_port: bool) -> (String, io::Result<OwnedFd>) {
    match &url.address {
        Address::Tcp { host, port } => (
            if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") },
            bind_tcp(host, *port, reuse_port),
        ),
        Address::Unix { path } => (path.clone(), bind_unix(Path::new(path))),
    }
}

/// On the loopback there is no congestion. Where the system's default is BBR, which paces, each send would
/// set a timer, and a list would spend a part of its time on that. Reno does not, and is in every kernel.
const LOOPBACK_CONGESTION: &[u8] = b"reno";

fn bind_tcp(host: &str, port: u16, reuse_port: bool) -> io::Result<OwnedFd> {
    let address = resolve(host, port)?;
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    if reuse_port {
        let on: libc::c_int = 1;
        let fd = socket.as_raw_fd();
        set_option(fd, libc::SOL_SOCKET, libc::SO_REUSEPORT, &on.to_ne_bytes())?;
    }
    socket.bind(&address.into())?;
    prepare(socket.as_raw_fd())?;
    if address.ip().is_loopback() {
        // Where it is not to be had, the usual one does.
        let _ = set_option(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_CONGESTION,
            LOOPBACK_CONGESTION,
        );
    }
    Ok(socket.into())
}

/// A socket file that is there already is taken for one that was left behind, as etcd does.
fn bind_unix(path: &Path) -> io::Result<OwnedFd> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.bind(&SockAddr::unix(path)?)?;
    Ok(socket.into())
}

/// The address a Go server would listen on: IPv4 when a name has both, all of IPv6 and IPv4 without
/// a name.
fn resolve(host: &str, port: u16) -> io::Result<SocketAddr> {
    let host = if host.is_empty() { "::" } else { host };
    let addresses: Vec<SocketAddr> = (host, port).to_socket_addrs()?.collect();
    let first = addresses.iter().find(|address| address.is_ipv4()).or(addresses.first());
    first.copied().ok_or_else(|| io::Error::other("the name has no address"))
}

/// Options that accepted sockets inherit.
fn prepare(fd: RawFd) -> io::Result<()> {
    let options = [
        (libc::IPPROTO_TCP, libc::TCP_NODELAY, 1),
        (libc::SOL_SOCKET, libc::SO_KEEPALIVE, 1),
        (libc::IPPROTO_TCP, libc::TCP_KEEPIDLE, TCP_KEEPALIVE_SECONDS),
        (libc::IPPROTO_TCP, libc::TCP_KEEPINTVL, TCP_KEEPALIVE_SECONDS),
    ];
    options.into_iter().try_for_each(|(level, option, value): (i32, i32, libc::c_int)| {
        set_option(fd, level, option, &value.to_ne_bytes())
    })
}

fn set_option(fd: RawFd, level: i32, option: i32, value: &[u8]) -> io::Result<()> {
    // SAFETY: the kernel reads `value`, whose size is given; the caller keeps `fd` open.
    let answer = unsafe {
        libc::setsockopt(fd, level, option, value.as_ptr().cast(), value.len() as libc::socklen_t)
    };
    if answer != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Two that are bound to one address are found out here, if they were not before.
fn listen(fd: RawFd) -> io::Result<()> {
    // SAFETY: only numbers are handed over. Listening again only changes the backlog.
    match unsafe { libc::listen(fd, LISTEN_BACKLOG) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

impl Bound {
    /// What is served here, as etcd says it.
    pub fn traffic(&self) -> &'static str {
        match self.serves {
            Serves::Rpc(ListenerKind::Client) => "grpc+http",
            Serves::Rpc(ListenerKind::Grpc) => "grpc",
            Serves::Rpc(ListenerKind::Http | ListenerKind::Metrics) => "http",
            Serves::Peers => "peers",
        }
    }

    /// Lets others connect. Before, they are refused; who serves clients listens from the start.
    pub fn listen(&self) -> Result<(), String> {
        listen(self.socket.as_raw_fd())
            .map_err(|error| format!("cannot listen on {}: {error}", self.name))
    }

    /// Accepts for ever. Dropping the future closes the socket.
    pub async fn accept_all(self, core: Rc<Core>) {
        let Bound { serves, name, is_tls, socket } = self;
        // SAFETY: the descriptor is open and given away by `into_raw_fd`. glommio's type does
        // nothing with it that a Unix socket would not understand.
        let listener = unsafe { TcpListener::from_raw_fd(socket.into_raw_fd()) };
        let mut complained = false;
        loop {
            while serves != Serves::Peers && !core.has_room() {
                if !complained {
                    tracing::warn!(
                        address = name,
                        connections_max = core.connections_max(),
                        "as many connections as allowed are open; others wait until one ends"
                    );
                    complained = true;
                }
                glommio::timer::sleep(ACCEPT_RETRY).await;
            }
            match listener.accept().await {
                Ok(stream) => {
                    complained = false;
                    match serves {
                        Serves::Rpc(kind) if is_tls => tls::accept_client(&core, stream, kind),
                        Serves::Rpc(kind) => core.connected(stream, kind),
                        Serves::Peers if is_tls => tls::accept_peer(&core, stream),
                        Serves::Peers => core.peers().accept(&core, Accepted::new(stream), None),
                    }
                    // A long backlog must not keep the connections that are there waiting.
                    futures_lite::future::yield_now().await;
                }
                Err(error) => {
                    if !complained {
                        tracing::warn!(address = name, error = %error, "failed to accept");
                        complained = true;
                    }
                    glommio::timer::sleep(ACCEPT_RETRY).await;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bind(url: &str) -> Result<Bound, String> {
        super::bind(
            Serves::Rpc(ListenerKind::Client),
            &Url::parse(url).unwrap(),
            false,
            Duration::ZERO,
        )
    }

    #[test]
    fn a_port_in_use_is_refused_with_its_address() {
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap();
        let error = bind(&format!("http://{address}")).map(drop).unwrap_err();
        assert!(error.starts_with(&format!("cannot listen on {address}: ")), "{error}");
        assert!(!error.contains('\n'), "{error}");
    }

    #[test]
    fn clients_on_the_loopback_are_sent_to_without_pacing() {
        let bound = bind("http://127.0.0.1:0").unwrap();
        let address = socket2::SockRef::from(&bound.socket).local_addr().unwrap();
        let _client = std::net::TcpStream::connect(address.as_socket().unwrap()).unwrap();
        let accepted = Socket::from(bound.socket).accept().unwrap().0;
        let mut name = [0_u8; 16];
        let mut len = name.len() as libc::socklen_t;
        // SAFETY: the kernel writes to `name`, whose size is given; `accepted` is open.
        let answer = unsafe {
            libc::getsockopt(
                accepted.as_raw_fd(),
                libc::IPPROTO_TCP,
                libc::TCP_CONGESTION,
                name.as_mut_ptr().cast(),
                &raw mut len,
            )
        };
        assert_eq!(
            (answer, name.split(|octet| *octet == 0).next()),
            (0, Some(LOOPBACK_CONGESTION))
        );
    }

    #[test]
    fn members_are_refused_until_they_are_listened_to_and_the_port_is_ours_meanwhile() {
        let url = Url::parse("http://127.0.0.1:0").unwrap();
        let bound = super::bind(Serves::Peers, &url, false, Duration::ZERO).unwrap();
        let socket = socket2::SockRef::from(&bound.socket);
        let address = socket.local_addr().unwrap().as_socket().unwrap();
        let refused = std::net::TcpStream::connect(address).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
        bound.listen().unwrap();
        std::net::TcpStream::connect(address).unwrap();
        assert!(
            super::bind(
                Serves::Peers,
                &Url::parse(&format!("http://{address}")).unwrap(),
                false,
                Duration::ZERO
            )
            .is_err()
        );
    }

    #[test]
    fn names_are_looked_up_and_ipv4_is_preferred() {
        assert_eq!(resolve("localhost", 1).unwrap(), "127.0.0.1:1".parse().unwrap());
        assert_eq!(resolve("::1", 1).unwrap(), "[::1]:1".parse().unwrap());
        assert_eq!(resolve("", 1).unwrap(), "[::]:1".parse().unwrap());
        let error = bind("http://[2001:db8::1]:80").map(drop).unwrap_err();
        assert!(error.starts_with("cannot listen on [2001:db8::1]:80: "), "{error}");
    }

    #[test]
    fn a_socket_file_left_behind_is_replaced() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("socket");
        let url = format!("unix:{}", path.display());
        drop(bind(&url).unwrap());
        assert!(path.exists(), "closing does not unlink");
        assert_eq!(bind(&url).unwrap().name, path.to_str().unwrap());
    }
}
