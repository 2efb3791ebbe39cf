//! The first start of a member: which cluster it belongs to, and under which id.
//!
//! With `--initial-cluster-state=new` the command line says it all; but if a member of the cluster
//! already knows this one as started, its data has been lost, and it must not come back under the
//! same id: it could acknowledge again what it has forgotten. With `existing`, a running member is
//! asked. This happens before the event loop is there, with sockets that wait.

use super::limits::{ASK_EXISTING_TIMEOUT, ASK_NEW_TIMEOUT};
use super::{discovery, srv};
use crate::config::{Address, ClusterState, Config, Url};
use crate::membership::{Cluster, Member};
use crate::peer::{Listing, Query};
use crate::tls::dial;
use rustls::ClientConfig;
use socket2::{Domain, SockAddr, Socket, Type};
use std::io::{self, Read, Write};
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What a member starts with.
#[derive(Debug)]
pub struct Founding {
    pub cluster: Cluster,
    pub member_id: u64,
    /// The cluster is there already, and will send its state.
    pub joins: bool,
}

/// `is_first_start`: nothing was ever written under this member's id here.
pub fn found(
    config: &Config,
    tls: &Arc<ClientConfig>,
    is_first_start: bool,
) -> Result<Founding, String> {
    let discovered;
    let config = match (&config.discovery_srv, &config.discovery) {
        (Some(domain), _) => {
            let initial_cluster = srv::initial_cluster(config, domain)?;
            discovered = Config { initial_cluster, ..config.clone() };
            &discovered
        }
        (None, Some(_)) if config.initial_cluster_state == ClusterState::Existing => {
            let what = "discovery URL should not be set when joining existing initial cluster";
            return Err(what.to_owned());
        }
        (None, Some(discovery)) => {
            let initial_cluster = discovery::initial_cluster(config, discovery)?;
            let initial_cluster_token = discovery.token.clone();
            discovered = Config { initial_cluster, initial_cluster_token, ..config.clone() };
            &discovered
        }
        (None, None) => config,
    };
    let members = config.bootstrap_members().map_err(|error| error.to_string())?;
    let (own, others): (Vec<_>, Vec<_>) =
        members.iter().partition(|(name, _)| *name == config.name);
    let others: Vec<&str> = others.iter().flat_map(|(_, urls)| urls).map(String::as_str).collect();
    let founding = match config.initial_cluster_state {
        ClusterState::New => {
            let cluster = Cluster::bootstrap(&members, &config.initial_cluster_token)
                .map_err(|error| error.to_string())?;
            let member_id = cluster.by_name(&config.name).map_or(0, |member| member.id);
            let founding = Founding { cluster, member_id, joins: false };
            if is_first_start && let Some(listing) = ask(&others, tls, ASK_NEW_TIMEOUT) {
                refuse_second_life(&listing, founding.member_id)?;
            }
            founding
        }
        ClusterState::Existing => {
            let listing = ask(&others, tls, ASK_EXISTING_TIMEOUT).ok_or_else(|| {
                format!(
                    "cannot fetch cluster info from peer urls: could not retrieve cluster \
                     information from the given URLs ({})",
                    others.join(",")
                )
            })?;
            let own: Vec<String> = own.iter().flat_map(|(_, urls)| urls).cloned().collect();
            let founding = join(&listing, &members, &own)?;
            if is_first_start {
                refuse_second_life(&listing, founding.member_id)?;
            }
            founding
        }
    };
    Ok(founding)
}

/// A member that has told the cluster its client URLs has run, and has voted and acknowledged.
fn refuse_second_life(listing: &Listing, id: u64) -> Result<(), String> {
    let known = listing.members.iter().find(|member| member.id == id);
    match known {
        Some(member) if !member.client_urls.is_empty() => Err(format!(
            "member {id:x} has already been bootstrapped: the cluster knows it as {:?}, and its data \
             directory is empty; remove it from the cluster, add it again, and start it with \
             --initial-cluster-state=existing",
            member.name
        )),
        _ => Ok(()),
    }
}

/// The command line's members and the cluster's must be the same, told apart by their peer URLs.
fn join(
    listing: &Listing,
    members: &[(String, Vec<String>)],
    own: &[String],
) -> Result<Founding, String> {
    let invalid = |what: &str| {
        let there: Vec<_> =
            listing.members.iter().map(|member| member.peer_urls.join(",")).collect();
        format!(
            "error validating peerURLs: {what}; the members of cluster {:x} are {}",
            listing.cluster,
            there.join("; ")
        )
    };
    if listing.members.len() != members.len() {
        return Err(invalid("member count is unequal"));
    }
    let same = |member: &Member, urls: &[String]| {
        let sorted = |urls: &[String]| {
            let resolve = |url: &String| match Url::parse(url) {
                Ok(url) => url.resolved().to_string(),
                Err(_) => url.clone(),
            };
            let mut urls: Vec<String> = urls.iter().map(resolve).collect();
            urls.sort();
            urls
        };
        sorted(&member.peer_urls) == sorted(urls)
    };
    for (name, urls) in members {
        if !listing.members.iter().any(|member| same(member, urls)) {
            return Err(invalid(&format!("{name}={} is none of them", urls.join(","))));
        }
    }
    let found = listing.members.iter().find(|member| same(member, own));
    let member_id =
        found.map(|member| member.id).ok_or_else(|| invalid("this one is not there"))?;
    let cluster = Cluster::restore(listing.cluster, listing.members.iter().cloned());
    Ok(Founding { cluster, member_id, joins: true })
}

/// The answer of the first of `urls` that gives one. All are asked at once.
fn ask(urls: &[&str], tls: &Arc<ClientConfig>, timeout: Duration) -> Option<Listing> {
    let (sender, answers) = std::sync::mpsc::channel();
    for url in urls {
        let (url, tls, sender) = ((*url).to_owned(), tls.clone(), sender.clone());
        std::thread::spawn(move || match ask_one(&url, tls, timeout) {
            Ok(listing) => drop(sender.send(listing)),
            Err(error) => tracing::debug!(url, error = %error, "a peer was not reached"),
        });
    }
    drop(sender);
    answers.recv_timeout(timeout).ok()
}

fn ask_one(url: &str, tls: Arc<ClientConfig>, timeout: Duration) -> Result<Listing, String> {
    let deadline = Instant::now() + timeout;
    let url = Url::parse(url)?;
    let socket = connect(&url, timeout).map_err(|error| error.to_string())?;
    let (mut query, request) = Query::new();
    let wait = || -> io::Result<()> {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        socket.set_read_timeout(Some(left))
    };
    let mut exchange = |wire: &mut dyn Wire| -> Result<Listing, String> {
        let text = |error: io::Error| error.to_string();
        wait().map_err(text)?;
        wire.write_all(&request).map_err(text)?;
        loop {
            let mut piece = vec![0; 16 << 10];
            wait().map_err(text)?;
            let got = wire.read(&mut piece).map_err(text)?;
            piece.truncate(got);
            if piece.is_empty() {
                return Err("the other end has closed the connection".to_owned());
            }
            if let Some(listing) = query.receive(piece.into()).map_err(|error| error.to_string())? {
                return Ok(listing);
            }
        }
    };
    match url.is_tls() {
        true => exchange(&mut dial(tls, url.host(), &socket)?),
        false => exchange(&mut &socket),
    }
}

/// A socket, or what makes one of it.
pub(super) trait Wire: Read + Write {}

impl<T: Read + Write> Wire for T {}

pub(super) fn connect(url: &Url, timeout: Duration) -> io::Result<Socket> {
    match &url.address {
        Address::Tcp { host, port } => {
            let address: SocketAddr = (host.as_str(), *port)
                .to_socket_addrs()?
                .next()
                .ok_or_else(|| io::Error::other("the name has no address"))?;
            let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
            socket.connect_timeout(&address.into(), timeout)?;
            Ok(socket)
        }
        Address::Unix { path } => {
            let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
            socket.connect(&SockAddr::unix(path)?)?;
            Ok(socket)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft::NodeId;
    use crate::tls::{Contents, Material, Policy, Rules};

    fn listing() -> Listing {
        let member = |id: u64, started: bool| Member {
            id,
            peer_urls: vec![format!("http://10.0.0.{id}:2380")],
            name: if started { format!("m{id}") } else { String::new() },
            client_urls: started.then(|| "http://c:2379".to_owned()).into_iter().collect(),
            ..Member::default()
        };
        let members = vec![member(1, true), member(2, true), member(3, false)];
        Listing { cluster: 9, member: NodeId(1), members }
    }

    fn given(ids: &[u64]) -> Vec<(String, Vec<String>)> {
        ids.iter().map(|id| (format!("m{id}"), vec![format!("http://10.0.0.{id}:2380")])).collect()
    }

    #[test]
    fn a_joining_member_finds_its_id_by_its_peer_urls() {
        let members = given(&[3, 1, 2]);
        let founding = join(&listing(), &members, &members[0].1).unwrap();
        assert_eq!((founding.cluster.id, founding.member_id, founding.joins), (9, 3, true));
        assert_eq!(founding.cluster.members().len(), 3);
    }

    #[test]
    fn members_that_are_not_the_clusters_are_refused() {
        let unequal = join(&listing(), &given(&[1, 2]), &[]).unwrap_err();
        assert!(unequal.contains("member count is unequal"), "{unequal}");
        let members = given(&[1, 2, 4]);
        let unmatched = join(&listing(), &members, &members[2].1).unwrap_err();
        assert!(unmatched.contains("m4=http://10.0.0.4:2380 is none of them"), "{unmatched}");
    }

    #[test]
    fn only_a_member_that_has_run_may_not_start_anew() {
        let refused = refuse_second_life(&listing(), 2).unwrap_err();
        assert!(refused.starts_with("member 2 has already been bootstrapped"), "{refused}");
        assert_eq!(refuse_second_life(&listing(), 3), Ok(()));
        assert_eq!(refuse_second_life(&listing(), 4), Ok(()));
    }

    #[test]
    fn nobody_there_is_no_answer() {
        let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", nobody.local_addr().unwrap());
        drop(nobody);
        let tls =
            Material::new(&Contents::default(), &Rules::default(), &Policy::default()).unwrap();
        let urls = [&url, "https://127.0.0.1:1", "nonsense"];
        assert_eq!(ask(&urls, &tls.client, Duration::from_secs(5)), None);
    }
}
