//! Connections out: from the URL of a member to a socket.
//!
//! Names are looked up by a thread of their own, since the lookup of the C library waits as long as
//! it likes, and glommio's one blocking thread makes the log's segments.

use super::glommio_files::plain;
use crate::config::{Address, Url};
use glommio::net::{TcpStream, UnixStream};
use socket2::{Domain, SockAddr, Socket, Type};
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::io::{self, Write};
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
        url: &str,
        attempt: u64,
        timeout: Duration,
    ) -> Result<TcpStream, String> {
        let url = Url::parse(url)?;
        if url.is_tls() {
            return Err("TLS is not supported yet".to_owned());
        }
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
fn connect_unix(path: &str) -> io::Result<Socket> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    socket.connect(&SockAddr::unix(path)?)?;
    socket.set_nonblocking(false)?;
    Ok(socket)
}

/// The thread writes what it has found into a pipe, as text, and the loop reads it there.
async fn look_up(host: String, port: u16) -> Result<Vec<SocketAddr>, String> {
    use futures_lite::AsyncReadExt;
    let (mut write, read) =
        std::os::unix::net::UnixStream::pair().map_err(|error| error.to_string())?;
    let work = move || {
        let line = match (host.as_str(), port).to_socket_addrs() {
            Ok(found) => {
                let mut found: Vec<_> = found.collect();
                // As the listener does: IPv4 when a name has both.
                found.sort_by_key(SocketAddr::is_ipv6);
                found.iter().map(|address| format!("{address}\n")).collect()
            }
            Err(error) => format!("{error}"),
        };
        // Nobody reads any more: nobody needs it.
        let _ = write.write_all(line.as_bytes());
    };
    let thread = std::thread::Builder::new().name("lookup".to_owned()).spawn(work);
    thread.map_err(|error| error.to_string())?;
    // SAFETY: the descriptor is open and given away by `into_raw_fd`.
    let mut read = unsafe { UnixStream::from_raw_fd(read.into_raw_fd()) };
    let mut text = String::new();
    read.read_to_string(&mut text).await.map_err(|error| error.to_string())?;
    let addresses: Result<Vec<SocketAddr>, _> = text.lines().map(str::parse).collect();
    addresses.map_err(|_| text)
}
