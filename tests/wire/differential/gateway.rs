//! One connection of HTTP/1.1 to a server's gateway, kept open from request to request.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::client::Fields;
use crate::gateway::normal;
use crate::server::PATIENCE;

pub struct Gateway {
    addr: SocketAddr,
    tcp: Option<TcpStream>,
}

/// What is compared: all bytes, but for those that differ between any two servers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Text {
    pub status: u16,
    pub headers: Fields,
    pub body: String,
}

impl Gateway {
    pub fn new(addr: SocketAddr) -> Gateway {
        Gateway { addr, tcp: None }
    }

    /// A connection that has ended meanwhile is made again.
    pub async fn post(&mut self, path: &str, token: Option<&str>, body: &str) -> Text {
        let token = token.map(|token| format!("Authorization: {token}\r\n")).unwrap_or_default();
        let length = body.len();
        let request = format!(
            "POST {path} HTTP/1.1\r\nHost: x\r\n{token}Content-Length: {length}\r\n\r\n{body}"
        );
        let asked = async {
            for _ in 0..2 {
                if self.tcp.is_none() {
                    let tcp = TcpStream::connect(self.addr).await.expect("a connection");
                    tcp.set_nodelay(true).expect("an option of a socket");
                    self.tcp = Some(tcp);
                }
                if let Some(text) = self.ask(request.as_bytes()).await {
                    return text;
                }
                self.tcp = None;
            }
            panic!("{} closes its connections: {path}: {body}", self.addr);
        };
        tokio::time::timeout(PATIENCE, asked).await.expect("an answer before patience ends")
    }

    async fn ask(&mut self, request: &[u8]) -> Option<Text> {
        let tcp = self.tcp.as_mut()?;
        tcp.write_all(request).await.ok()?;
        let mut seen = Vec::new();
        let end = loop {
            if let Some(at) = seen.windows(4).position(|four| four == b"\r\n\r\n") {
                break at + 4;
            }
            more(tcp, &mut seen).await?;
        };
        let head = String::from_utf8_lossy(&seen[..end]).into_owned();
        let mut rest = seen.split_off(end);
        let mut lines = head.lines();
        let status = lines.next()?.split(' ').nth(1)?.parse().ok()?;
        let headers = lines.filter_map(|line| line.split_once(": "));
        let mut headers: Fields =
            headers.map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned())).collect();
        let field = |name: &str| headers.iter().find(|(known, _)| known == name);
        let length = field("content-length").and_then(|(_, text)| text.parse::<usize>().ok());
        let ends = field("connection").is_some_and(|(_, how)| how == "close");
        let body = match length {
            Some(length) => {
                while rest.len() < length {
                    more(tcp, &mut rest).await?;
                }
                rest
            }
            // In chunks, as Go sends what is long or a stream.
            None => {
                let mut body = Vec::new();
                loop {
                    let line = loop {
                        if let Some(at) = rest.windows(2).position(|two| two == b"\r\n") {
                            break at;
                        }
                        more(tcp, &mut rest).await?;
                    };
                    let length = std::str::from_utf8(&rest[..line]).ok()?;
                    let length = usize::from_str_radix(length, 16).ok()?;
                    while rest.len() < line + 2 + length + 2 {
                        more(tcp, &mut rest).await?;
                    }
                    body.extend_from_slice(&rest[line + 2..line + 2 + length]);
                    rest.drain(..line + 2 + length + 2);
                    if length == 0 {
                        break body;
                    }
                }
            }
        };
        if ends {
            self.tcp = None;
        }
        let volatile = ["date", "content-length", "transfer-encoding"];
        headers.retain(|(name, _)| !volatile.contains(&name.as_str()));
        headers.sort();
        Some(Text { status, headers, body: normal(&String::from_utf8_lossy(&body)) })
    }
}

impl Text {
    /// The revision of an answer that has a header.
    pub fn revision(&self) -> Option<i64> {
        let (_, after) = self.body.split_once("\"header\":{")?;
        let (header, _) = after.split_once('}')?;
        let (_, after) = header.split_once("\"revision\":\"")?;
        after.split_once('"')?.0.parse().ok()
    }
}

async fn more(tcp: &mut TcpStream, seen: &mut Vec<u8>) -> Option<()> {
    match tcp.read_buf(seen).await {
        Ok(read) if read > 0 => Some(()),
        _ => None,
    }
}
