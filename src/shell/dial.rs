//! Connections out: from the URL of a member to a socket.
//!
//! Names are looked up by a thread of their own, since the lookup of the C library waits as long as
//! it likes, and glommio's one blocking thread makes the log's segments.

use super::glommio_files::plain;
use super::limits::NAME_KEPT;
use super::reactor::Core;
use super::socket::Socket;
use super::tls;
use crate::config::{Address, Url};
use crate::tls::Session;
use glommio::net::TcpStream;
use socket2::{Domain, SockAddr, Type};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::os::fd::{FromRawFd, IntoRawFd};
use std::time::{Duration, Instant};

#[derive(Debug, Default)]
pub struct Dialler {
    names: RefCell<Names>,
}

/// What is known of names, and which are being looked up: a second thread for one would not be faster. What was
/// found is kept for a while, since a lookup may take longer than the attempt that began it: the next one has it.
#[derive(Debug, Default)]
struct Names {
    by_name: BTreeMap<(String, u16), Lookup>,
}

#[derive(Debug)]
enum Lookup {
    UnderWay,
    Found { addresses: Vec<SocketAddr>, at: Instant },
}

#[derive(Debug, PartialEq, Eq)]
enum Asked {
    Known(Vec<SocketAddr>),
    UnderWay,
    /// To be looked up by who asked, who says by `found` how that went.
    Unknown,
}

impl Names {
    fn ask(&mut self, host: &str, port: u16, now: Instant) -> Asked {
        // Members come and go; of names that nobody asks for any more nothing stays.
        self.by_name.retain(|_, lookup| match lookup {
            Lookup::UnderWay => true,
            Lookup::Found { at, .. } => now.duration_since(*at) < NAME_KEPT,
        });
        match self.by_name.entry((host.to_owned(), port)) {
            Entry::Vacant(vacant) => {
                vacant.insert(Lookup::UnderWay);
                Asked::Unknown
            }
            Entry::Occupied(known) => match known.get() {
                Lookup::UnderWay => Asked::UnderWay,
                Lookup::Found { addresses, .. } => Asked::Known(addresses.clone()),
            },
        }
    }

    fn found(&mut self, host: &str, port: u16, addresses: Option<Vec<SocketAddr>>, at: Instant) {
        let name = (host.to_owned(), port);
        match addresses {
            Some(addresses) => self.by_name.insert(name, Lookup::Found { addresses, at }),
            None => self.by_name.remove(&name),
        };
    }
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
        match self.names.borrow_mut().ask(host, port, Instant::now()) {
            Asked::Known(addresses) => return Ok(addresses),
            Asked::UnderWay => return Err(format!("the lookup of {host} is still under way")),
            Asked::Unknown => {}
        }
        let found = look_up(host.to_owned(), port).await;
        self.names.borrow_mut().found(host, port, found.clone().ok(), Instant::now());
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lookup_that_takes_longer_than_its_attempt_serves_the_next_one() {
        let (mut names, begin) = (Names::default(), Instant::now());
        let ask = |names: &mut Names, ms| {
            names.ask("m1.example", 2380, begin + Duration::from_millis(ms))
        };
        assert_eq!(ask(&mut names, 0), Asked::Unknown);
        assert_eq!(ask(&mut names, 1_100), Asked::UnderWay);
        let addresses = vec![SocketAddr::from(([127, 0, 0, 1], 2380))];
        let at = begin + Duration::from_millis(1_500);
        names.found("m1.example", 2380, Some(addresses.clone()), at);
        assert_eq!(ask(&mut names, 2_200), Asked::Known(addresses));
        // What it means may change.
        assert_eq!(ask(&mut names, 1_500 + NAME_KEPT.as_millis() as u64), Asked::Unknown);
        names.found("m1.example", 2380, None, at);
        assert_eq!(ask(&mut names, 9_000), Asked::Unknown, "a failure is not kept");
    }
}
