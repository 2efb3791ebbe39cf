//! Discovery of a new cluster's members by DNS (`--discovery-srv`): SRV records of `_etcd-server-ssl._tcp` and
//! `_etcd-server._tcp` name where each member is heard.
//!
//! The standard library asks the system for addresses only, so the question is put to the name servers here, in the
//! form of RFC 1035 and RFC 2782: by UDP, and by TCP when an answer does not fit. It happens before the event loop is
//! there, with sockets that wait. What a server answers is never trusted to be well-formed.

use std::fs;
use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream, ToSocketAddrs, UdpSocket};
use std::time::Duration;

use super::files;
use crate::config::{Address, Config, Url};

const RESOLV_CONF: &str = "/etc/resolv.conf";
/// resolv.conf(5): no more are looked at.
const SERVERS_MAX: usize = 3;
const TRIES: usize = 2;
const PATIENCE: Duration = Duration::from_secs(3);

const TYPE_SRV: u16 = 33;
const CLASS_IN: u16 = 1;
const TRUNCATED: u16 = 0x0200;
const RCODE: u16 = 0x000f;
/// Pointers that one name may follow.
const JUMPS_MAX: usize = 64;

/// Where a member is heard.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Record {
    priority: u16,
    port: u16,
    target: String,
}

/// The text of an `--initial-cluster` with the members that DNS knows. Who is this member is known by its address;
/// the others have numbers for names.
pub fn initial_cluster(config: &Config, domain: &str) -> Result<String, String> {
    let servers = name_servers(&fs::read_to_string(RESOLV_CONF).unwrap_or_default());
    let look_up = |name: &str| look_up(&servers, name);
    let suffix = match config.discovery_srv_name.as_str() {
        "" => String::new(),
        name => format!("-{name}"),
    };
    let mut pairs = Vec::new();
    let mut errors = Vec::new();
    for (scheme, service) in [("https", "etcd-server-ssl"), ("http", "etcd-server")] {
        match look_up(&format!("_{service}{suffix}._tcp.{domain}")) {
            Ok(records) => pairs.extend(members(config, scheme, &records)?),
            Err(error) => errors.push(format!("_{service}{suffix}: {error}")),
        }
    }
    for pair in &pairs {
        tracing::info!(node = pair, "got bootstrap from DNS for etcd-server");
    }
    if pairs.is_empty() {
        let errors = errors.join("; ");
        return Err(format!("error querying DNS SRV records of {domain}: {errors}"));
    }
    if !pairs.iter().any(|pair| pair.split_once('=').is_some_and(|(name, _)| name == config.name)) {
        return Err(format!("cannot find local etcd member {:?} in SRV records", config.name));
    }
    Ok(pairs.join(","))
}

fn members(config: &Config, scheme: &str, records: &[Record]) -> Result<Vec<String>, String> {
    let own: Vec<(SocketAddr, &Url)> = config
        .initial_advertise_peer_urls
        .iter()
        .filter_map(|url| match &url.address {
            Address::Tcp { host, port } => Some((resolve(host, *port)?, url)),
            Address::Unix { .. } => None,
        })
        .collect();
    let mut pairs = Vec::new();
    let mut others = 0;
    for Record { port, target, .. } in records {
        let Some(address) = resolve(target, *port) else { continue };
        let url = format!("{scheme}://{target}:{port}");
        let is_own = own.iter().find(|(own, _)| *own == address);
        match is_own {
            Some((_, own)) if !own.as_str().starts_with(&format!("{scheme}://")) => {
                return Err(format!(
                    "bootstrap at {url} from DNS has scheme mismatch with expected peer {own}"
                ));
            }
            Some(_) => pairs.push(format!("{}={url}", config.name)),
            None => {
                pairs.push(format!("{others}={url}"));
                others += 1;
            }
        }
    }
    Ok(pairs)
}

fn resolve(host: &str, port: u16) -> Option<SocketAddr> {
    (host, port).to_socket_addrs().ok()?.next()
}

fn name_servers(conf: &str) -> Vec<SocketAddr> {
    let named = conf.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        let address = (words.next()? == "nameserver").then(|| words.next())??;
        Some(SocketAddr::new(address.parse::<IpAddr>().ok()?, 53))
    });
    let servers: Vec<_> = named.take(SERVERS_MAX).collect();
    if servers.is_empty() { vec![SocketAddr::from(([127, 0, 0, 1], 53))] } else { servers }
}

fn look_up(servers: &[SocketAddr], name: &str) -> Result<Vec<Record>, String> {
    let mut last = "no name server was asked".to_owned();
    for server in servers.iter().cycle().take(servers.len() * TRIES) {
        match ask(*server, name) {
            Ok(Ok(records)) if !records.is_empty() => return Ok(records),
            Ok(Ok(_)) => return Err("there are no such records".to_owned()),
            Ok(Err(code)) => {
                return Err(format!("the name server {server} answers with code {code}"));
            }
            Err(error) => last = format!("the name server {server}: {error}"),
        }
    }
    Err(last)
}

/// The records, or the code with which the server refuses.
fn ask(server: SocketAddr, name: &str) -> io::Result<Result<Vec<Record>, u16>> {
    let id = u16::from_be_bytes(files::random()?);
    let query = query(id, name).ok_or_else(|| io::Error::other("no name for DNS"))?;
    let any: SocketAddr =
        if server.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0_u16; 8], 0).into() };
    let socket = UdpSocket::bind(any)?;
    socket.connect(server)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.send(&query)?;
    let mut answer = vec![0; 4096];
    let malformed = || io::Error::other("a malformed answer");
    loop {
        let len = socket.recv(&mut answer)?;
        let answer = &answer[..len];
        // Somebody else's answer, or one to an older question.
        if word(answer, 0) != Some(id) {
            continue;
        }
        if word(answer, 2).is_some_and(|flags| flags & TRUNCATED != 0) {
            break;
        }
        return parse(answer).ok_or_else(malformed);
    }
    let mut stream = TcpStream::connect_timeout(&server, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(&[&(query.len() as u16).to_be_bytes()[..], &query].concat())?;
    let mut len = [0; 2];
    stream.read_exact(&mut len)?;
    let mut answer = vec![0; usize::from(u16::from_be_bytes(len))];
    stream.read_exact(&mut answer)?;
    parse(&answer).ok_or_else(malformed)
}

/// The question for the SRV records of a name.
fn query(id: u16, name: &str) -> Option<Vec<u8>> {
    let mut out = id.to_be_bytes().to_vec();
    // Recursion desired; one question, no records.
    out.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    for label in name.trim_end_matches('.').split('.') {
        let len = u8::try_from(label.len()).ok().filter(|len| (1..=63).contains(len))?;
        out.push(len);
        out.extend_from_slice(label.as_bytes());
    }
    out.push(0);
    out.extend(TYPE_SRV.to_be_bytes());
    out.extend(CLASS_IN.to_be_bytes());
    Some(out)
}

fn word(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk().map(|word| u16::from_be_bytes(*word))
}

/// The SRV records of an answer in the order of their priority, or its code; none if it is malformed.
fn parse(answer: &[u8]) -> Option<Result<Vec<Record>, u16>> {
    let code = word(answer, 2)? & RCODE;
    if code != 0 {
        return Some(Err(code));
    }
    let (questions, count) = (word(answer, 4)?, word(answer, 6)?);
    let mut at = 12;
    for _ in 0..questions {
        (_, at) = name(answer, at)?;
        at += 4;
    }
    let mut records = Vec::new();
    for _ in 0..count {
        (_, at) = name(answer, at)?;
        let (kind, len) = (word(answer, at)?, word(answer, at + 8)?);
        let data = at + 10;
        at = data + usize::from(len);
        if kind == TYPE_SRV && len > 6 {
            let (target, _) = name(answer, data + 6)?;
            records.push(Record {
                priority: word(answer, data)?,
                port: word(answer, data + 4)?,
                target,
            });
        }
    }
    records.sort();
    Some(Ok(records))
}

/// The name at a place, and the place behind it.
fn name(answer: &[u8], mut at: usize) -> Option<(String, usize)> {
    let mut labels: Vec<String> = Vec::new();
    let mut behind = None;
    let mut jumps = 0;
    loop {
        let len = *answer.get(at)?;
        match len {
            0 => return Some((labels.join("."), behind.unwrap_or(at + 1))),
            1..=63 => {
                let end = at + 1 + usize::from(len);
                labels.push(String::from_utf8_lossy(answer.get(at + 1..end)?).into_owned());
                at = end;
            }
            192.. => {
                jumps += 1;
                if jumps > JUMPS_MAX {
                    return None;
                }
                behind.get_or_insert(at + 2);
                at = usize::from(word(answer, at)? & 0x3fff);
            }
            _ => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Command;

    /// An answer with compressed names, as name servers give it.
    fn answer(query: &[u8], records: &[(u16, u16, &str)]) -> Vec<u8> {
        let mut out = query.to_vec();
        out[2] = 0x81;
        out[7] = records.len() as u8;
        for (priority, port, target) in records {
            let mut data = [priority.to_be_bytes(), [0, 0], port.to_be_bytes()].concat();
            for label in target.split('.') {
                data.push(label.len() as u8);
                data.extend_from_slice(label.as_bytes());
            }
            data.push(0);
            out.extend([0xc0, 12]);
            out.extend(TYPE_SRV.to_be_bytes());
            out.extend(CLASS_IN.to_be_bytes());
            out.extend([0, 0, 0, 9]);
            out.extend((data.len() as u16).to_be_bytes());
            out.extend(data);
        }
        out
    }

    #[test]
    fn a_name_server_is_asked_and_understood() {
        let server = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = server.local_addr().unwrap();
        let serving = std::thread::spawn(move || {
            let mut bytes = [0; 512];
            let (len, from) = server.recv_from(&mut bytes).unwrap();
            let records = [(2, 2380, "b.example"), (1, 2381, "a.example")];
            // An answer to another question comes first.
            let mut other = answer(&bytes[..len], &[]);
            other[0] ^= 1;
            server.send_to(&other, from).unwrap();
            server.send_to(&answer(&bytes[..len], &records), from).unwrap();
        });
        let records = look_up(&[address], "_etcd-server._tcp.example").unwrap();
        let found: Vec<_> =
            records.iter().map(|record| (record.target.as_str(), record.port)).collect();
        assert_eq!(found, [("a.example", 2381), ("b.example", 2380)]);
        serving.join().unwrap();
    }

    #[test]
    fn this_member_is_known_by_its_address_and_others_are_numbered() {
        let args = [
            "--name=me",
            "--initial-advertise-peer-urls=http://127.0.0.1:2380",
            "--discovery-srv=example",
        ];
        let env = std::iter::empty::<(&str, &str)>();
        let Ok(Command::Run(config)) = Config::parse(args, env) else { panic!("not taken") };
        let record = |port, target: &str| Record { priority: 0, port, target: target.to_owned() };
        let records =
            [record(2381, "127.0.0.1"), record(2380, "127.0.0.1"), record(1, "127.0.0.2")];
        assert_eq!(
            members(&config, "http", &records).unwrap(),
            ["0=http://127.0.0.1:2381", "me=http://127.0.0.1:2380", "1=http://127.0.0.2:1"]
        );
        let mismatch = members(&config, "https", &records).unwrap_err();
        assert!(mismatch.contains("scheme mismatch"), "{mismatch}");
    }

    #[test]
    fn no_answer_makes_it_panic_or_run_for_ever() {
        let query = query(7, "_etcd-server._tcp.example").unwrap();
        let whole = answer(&query, &[(1, 2380, "a.example"), (1, 2380, "b.example")]);
        assert_eq!(parse(&whole).unwrap().unwrap().len(), 2);
        for len in 0..whole.len() {
            assert!(parse(&whole[..len]).is_none_or(|records| records.is_ok()));
        }
        for at in 0..whole.len() {
            for value in [0, 1, 63, 64, 0x81, 0xc0, 0xff] {
                let mut bytes = whole.clone();
                bytes[at] = value;
                let _ = parse(&bytes);
            }
        }
        // A name that points at itself.
        let mut looped = whole;
        let at = query.len();
        looped[at..at + 2].copy_from_slice(&(0xc000 | at as u16).to_be_bytes());
        assert_eq!(parse(&looped), None);
        let refused = [&[0, 7, 0x81, 3][..], &[0; 8]].concat();
        assert_eq!(parse(&refused), Some(Err(3)));
    }

    #[test]
    fn name_servers_are_those_of_the_system() {
        let conf =
            "# a comment\nsearch example\nnameserver 10.0.0.1\nnameserver ::1\nnameserver x\n";
        let servers: Vec<_> = name_servers(conf).iter().map(SocketAddr::to_string).collect();
        assert_eq!(servers, ["10.0.0.1:53", "[::1]:53"]);
        assert_eq!(name_servers("")[0].to_string(), "127.0.0.1:53");
    }
}
