//! Connections out: from the URL of a member to a socket.
//!
//! Names are looked up by a thread of their own, since the lookup of the C library waits as long as
//! it likes, and glommio's one blocking thread makes the log's segments.

use super::glommio_files::plain;
use super::reactor::Core;
use super::socket::Socket;
use super::tls;
use crate::config::{Address, Url};
use crate::tls::Session;
use glommio::net::TcpStream;
use socket2::{Domain, SockAddr, Type};
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::os::fd::{FromRawFd, IntoRawFd};
use std::time::Duration;

/// Names that are being looked up; a second thread for one would not be faster.
#[derive(Debug, Default)]
pub struct Dialler {
    lookups: RefCell<BTreeSet<String>>,
}

impl Dialler {
    /// Connects to one of the addresses of `url`: to another one with each `attempt`.
    pub async fn connect(
        &self,
        core: &Core,
        url: &str,
        attempt: u64,
        timeout: Duration,
    ) -> Result<(Socket, Option<Session>), String> {
        let url = Url::parse(url)?;
        let socket = Socket::new(self.connect_plain(&url, attempt, timeout).await?);
        let session = match url.is_tls() {
            true => Some(tls::dial(core, &socket, url.host()).await?),
            false => None,
        };
        Ok((socket, session))
    }

    async fn connect_plain(
        &self,
        url: &Url,
        attempt: u64,
        timeout: Duration,
    ) -> Result<TcpStream, String> {
        match &url.address {
            Address::Tcp { host, port } => {
                let addresses = match host.parse::<IpAddr>() {
                    Ok(ip) => vec![SocketAddr::new(ip, *port)],
                    Err(_) => self.look_up(host, *port).await?,
                };
                let at = attempt as usize % addresses.len().max(1);
                let address = addresses.get(at).ok_or("the name has no address")?;
                let stream = TcpStream::connect_timeout(address, timeout).await;
                let stream = stream.map_err(|error| plain(error).to_string())?;
                stream.set_nodelay(true).map_err(|error| plain(error).to_string())?;
                Ok(stream)
            }
            Address::Unix { path } => {
                let socket = connect_unix(path).map_err(|error| error.to_string())?;
                // SAFETY: the descriptor is open and given away by `into_raw_fd`. glommio's type
                // does nothing with it that a Unix socket would not understand.
                Ok(unsafe { TcpStream::from_raw_fd(socket.into_raw_fd()) })
            }
        }
    }

    async fn look_up(&self, host: &str, port: u16) -> Result<Vec<SocketAddr>, String> {
        if !self.lookups.borrow_mut().insert(host.to_owned()) {
            return Err(format!("the lookup of {host} is still under way"));
        }
        let found = look_up(host.to_owned(), port).await;
        self.lookups.borrow_mut().remove(host);
        found.map_err(|error| format!("{host}: {error}"))
    }
}

/// Between processes of one machine there is nothing to wait for but a full backlog, which is an
/// error here.
fn connect_unix(path: &str) -> io::Result<socket2::Socket> {
    let socket = socket2::Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    socket.connect(&SockAddr::unix(path)?)?;
    socket.set_nonblocking(false)?;
    Ok(socket)
}

/// As text, since that goes through a pipe.
async fn look_up(host: String, port: u16) -> Result<Vec<SocketAddr>, String> {
    let work = move || match (host.as_str(), port).to_socket_addrs() {
        Ok(found) => {
            let mut found: Vec<_> = found.collect();
            // As the listener does: IPv4 when a name has both.
            found.sort_by_key(SocketAddr::is_ipv6);
            found.iter().map(|address| format!("{address}\n")).collect()
        }
        Err(error) => format!("{error}"),
    };
    let text = tls::off_the_loop(work).await?;
    let addresses: Result<Vec<SocketAddr>, _> = text.lines().map(str::parse).collect();
    addresses.map_err(|_| text)
}
