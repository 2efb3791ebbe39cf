//! Discovery of a new cluster's members by an etcd that they all know (`--discovery-endpoints`): who belongs to it is
//! decided in [`Registry`], the requests are made here, before the event loop is there, with sockets that wait.
//!
//! What cannot be reached is tried again for ever, the pauses twice as long each time up to a few minutes: a member
//! that is started before the service waits for it. Only what the service says ends it: no size, or no place.

use super::bench::tls;
use super::join::{Wire, connect};
use super::limits::{DISCOVERY_BACKOFFS, DISCOVERY_SILENCE_MIN};
use crate::bench::{Connection, Event, Method, Outcome, Want};
use crate::config::{Config, Discovery, Url};
use crate::membership::{Cluster, Registry, RegistryError, registered_size};
use crate::proto::etcdserverpb as pb;
use crate::proto::mvccpb::event::EventType;
use crate::tls::dial;
use prost::Message;
use prost::bytes::Bytes;
use socket2::Socket;
use std::io::{self, Read, Write};
use std::time::{Duration, Instant};

/// The text of an `--initial-cluster` of the members that found the cluster, this one among them.
pub fn initial_cluster(config: &Config, discovery: &Discovery) -> Result<String, String> {
    let failed = |error: &dyn std::fmt::Display| {
        tracing::warn!(
            discovery_token = discovery.token,
            discovery_endpoints = discovery.endpoints.join(","),
            error = %error,
            "failed to bootstrap; discovery token was already used"
        );
        tracing::warn!("do not reuse discovery token; generate a new one to bootstrap a cluster");
        format!("failed to join discovery cluster ({error})")
    };
    let mut urls: Vec<String> =
        config.initial_advertise_peer_urls.iter().map(|url| url.as_str().to_owned()).collect();
    urls.sort();
    let alone = [(config.name.clone(), urls.clone())];
    let alone = Cluster::bootstrap(&alone, &discovery.token).map_err(|error| failed(&error))?;
    let id = alone.by_name(&config.name).map_or(0, |member| member.id);
    let pairs: Vec<String> = urls.iter().map(|url| format!("{}={url}", config.name)).collect();

    let mut service = Service { discovery, next: 0, link: None, retries: 0 };
    service.join(id, &pairs.join(",")).map_err(|error| failed(&error))
}

/// The discovery service, and what this member has to do there.
struct Service<'a> {
    discovery: &'a Discovery,
    /// Which endpoint is connected to next.
    next: usize,
    link: Option<Link>,
    /// Since something has succeeded.
    retries: u32,
}

/// What the service has answered.
struct Seen {
    size: usize,
    registry: Registry,
    revision: i64,
}

impl Service<'_> {
    fn join(&mut self, id: u64, own: &str) -> Result<String, RegistryError> {
        self.look(id)?;
        self.register(id, own);
        let mut seen = self.look(id)?;
        while seen.registry.count() < seen.size {
            tracing::info!(
                cluster_size = seen.size,
                found_peers = seen.registry.count(),
                "waiting for peers from discovery service"
            );
            if let Err(error) = self.watch(&mut seen) {
                self.rest("waiting for peers", &error);
                // What happened meanwhile may be too old to be told.
                seen = self.look(id)?;
            }
        }
        let text = seen.registry.initial_cluster(seen.size);
        tracing::info!(cluster = text, "discovery joined cluster successfully");
        Ok(text)
    }

    /// Size and members, and that this one has a place among them, or can have one.
    fn look(&mut self, id: u64) -> Result<Seen, RegistryError> {
        loop {
            match self.try_look() {
                Ok((size, registry, revision)) => {
                    self.retries = 0;
                    let size = registered_size(size.as_deref())?;
                    registry.expect_place(id, size)?;
                    return Ok(Seen { size, registry, revision });
                }
                Err(error) => self.rest("cluster status check", &error),
            }
        }
    }

    fn try_look(&mut self) -> Result<(Option<Bytes>, Registry, i64), String> {
        let token = &self.discovery.token;
        let key = Registry::size_key(token).into();
        let size: pb::RangeResponse =
            self.call(Method::Range, &pb::RangeRequest { key, ..Default::default() })?;
        let size = size.kvs.into_iter().next().map(|kv| kv.value);
        let mut registry = Registry::new(token);
        let (key, range_end) = prefix(&registry);
        let members: pb::RangeResponse =
            self.call(Method::Range, &pb::RangeRequest { key, range_end, ..Default::default() })?;
        for kv in &members.kvs {
            add(&mut registry, &kv.key, &kv.value, kv.create_revision);
        }
        let revision = members.header.map_or(0, |header| header.revision);
        Ok((size, registry, revision))
    }

    fn register(&mut self, id: u64, own: &str) {
        let key = Registry::new(&self.discovery.token).key_of(id);
        loop {
            let (key, value) = (Bytes::from(key.clone()), Bytes::from(own.to_owned()));
            let put = pb::PutRequest { key, value, ..Default::default() };
            match self.call::<pb::PutResponse>(Method::Put, &put) {
                Ok(_) => break,
                Err(error) => self.rest("register member itself", &error),
            }
        }
        self.retries = 0;
        tracing::info!(member_key = key, member_info = own, "register member itself successfully");
    }

    /// Waits for the members that are missing.
    fn watch(&mut self, seen: &mut Seen) -> Result<(), String> {
        let (key, range_end) = prefix(&seen.registry);
        let start_revision = seen.revision + 1;
        let create =
            pb::WatchCreateRequest { key, range_end, start_revision, ..Default::default() };
        let union = pb::watch_request::RequestUnion::CreateRequest(create);
        let request = pb::WatchRequest { request_union: Some(union) };
        let silence =
            Duration::from_millis(self.discovery.keepalive_time_ms).max(DISCOVERY_SILENCE_MIN);
        let patience = Duration::from_millis(self.discovery.keepalive_timeout_ms);
        let mut link = self.link()?;
        let stream = link.connection.open_stream(Method::Watch, Want::Message, 0);
        link.connection.send(stream, &request.encode_to_vec(), false);
        let mut pinged = false;
        while seen.registry.count() < seen.size {
            let wait = if pinged { patience } else { silence };
            let mut failure = None;
            let heard = link.exchange(Instant::now() + wait, &mut |event| {
                let response = match event {
                    Event::Message { message, .. } => pb::WatchResponse::decode(message),
                    Event::End { outcome, .. } => {
                        failure = Some(format!("the watch has ended: {outcome:?}"));
                        return;
                    }
                };
                match response {
                    Ok(response) if response.canceled => failure = Some(response.cancel_reason),
                    Ok(response) => take(&mut seen.registry, &response),
                    Err(error) => failure = Some(error.to_string()),
                }
            });
            match heard {
                Ok(()) => pinged = false,
                Err(error) if error.kind() == io::ErrorKind::TimedOut && !pinged => {
                    link.connection.ping();
                    pinged = true;
                }
                Err(error) => return Err(error.to_string()),
            }
            if let Some(failure) = failure {
                return Err(failure);
            }
        }
        // The connection is dropped, and the watch with it.
        Ok(())
    }

    /// One request and its answer.
    fn call<R: Message + Default>(
        &mut self,
        method: Method,
        request: &impl Message,
    ) -> Result<R, String> {
        let deadline =
            Instant::now() + Duration::from_millis(self.discovery.request_timeout_ms.max(1));
        let mut link = self.link()?;
        let answer = link.call(method, &request.encode_to_vec(), deadline)?;
        let answer = R::decode(&answer[..]).map_err(|error| error.to_string())?;
        self.link = Some(link);
        Ok(answer)
    }

    /// A connection to the service: the one that there is, or a new one to the next endpoint.
    fn link(&mut self) -> Result<Link, String> {
        if let Some(link) = self.link.take() {
            return Ok(link);
        }
        let mut errors = Vec::new();
        for _ in 0..self.discovery.endpoints.len() {
            let endpoint = &self.discovery.endpoints[self.next % self.discovery.endpoints.len()];
            self.next += 1;
            match Link::open(self.discovery, endpoint) {
                Ok(link) => return Ok(link),
                Err(error) => errors.push(format!("{endpoint}: {error}")),
            }
        }
        Err(errors.join("; "))
    }

    fn rest(&mut self, step: &str, error: &str) {
        self.retries += 1;
        let backoff = Duration::from_secs(1 << self.retries.min(DISCOVERY_BACKOFFS));
        tracing::warn!(
            reason = step,
            error,
            backoff = ?backoff,
            "retry connecting to discovery service"
        );
        std::thread::sleep(backoff);
    }
}

fn prefix(registry: &Registry) -> (Bytes, Bytes) {
    let mut end = registry.prefix().as_bytes().to_vec();
    // It ends with a letter.
    if let Some(last) = end.last_mut() {
        *last += 1;
    }
    (registry.prefix().to_owned().into(), end.into())
}

fn take(registry: &mut Registry, response: &pb::WatchResponse) {
    for event in response.events.iter().filter(|event| event.r#type() == EventType::Put) {
        if let Some(kv) = &event.kv {
            add(registry, &kv.key, &kv.value, kv.create_revision);
        }
    }
}

fn add(registry: &mut Registry, key: &[u8], value: &[u8], created: i64) {
    let (member_key, member_info) = (String::from_utf8_lossy(key), String::from_utf8_lossy(value));
    let (member_key, member_info) = (&*member_key, &*member_info);
    match registry.add(key, value, created) {
        Ok(()) => {
            tracing::info!(member_key, member_info, "found peer from discovery service");
        }
        Err(why) => tracing::warn!(member_key, member_info, "{why}"),
    }
}

/// A connection to one of the endpoints.
struct Link {
    socket: Socket,
    wire: Box<dyn Wire>,
    connection: Connection,
}

impl Link {
    fn open(discovery: &Discovery, endpoint: &str) -> Result<Link, String> {
        let Discovery { cert, key, cacert, insecure_skip_verify: insecure, .. } = discovery;
        let has_files = cert.is_some() || key.is_some() || cacert.is_some();
        let url = match endpoint.contains("://") {
            true => Url::parse(endpoint)?,
            false if has_files || *insecure || !discovery.insecure_transport => {
                Url::parse(&format!("https://{endpoint}"))?
            }
            false => Url::parse(&format!("http://{endpoint}"))?,
        };
        let timeout = Duration::from_millis(discovery.dial_timeout_ms.max(1));
        let deadline = Instant::now() + timeout;
        let text = |error: io::Error| error.to_string();
        let socket = connect(&url, timeout).map_err(text)?;
        let other = socket.try_clone().map_err(text)?;
        let wire: Box<dyn Wire> = match url.is_tls() {
            true => {
                let tls =
                    tls::client(cert.as_deref(), key.as_deref(), cacert.as_deref(), *insecure)?;
                Box::new(dial(tls, url.host(), other)?)
            }
            false => Box::new(other),
        };
        let authority = url.as_str().split_once("://").map_or(url.as_str(), |(_, rest)| rest);
        let mut link = Link { socket, wire, connection: Connection::new(authority) };
        while !link.connection.is_ready() {
            link.exchange(deadline, &mut |_| {}).map_err(text)?;
        }
        if !discovery.user.is_empty() {
            let (name, password) = (discovery.user.clone(), discovery.password.clone());
            let request = pb::AuthenticateRequest { name, password };
            let answer = link.call(Method::Authenticate, &request.encode_to_vec(), deadline)?;
            let answer = pb::AuthenticateResponse::decode(&answer[..]);
            link.connection.set_token(answer.map_err(|error| error.to_string())?.token);
        }
        Ok(link)
    }

    fn call(
        &mut self,
        method: Method,
        request: &[u8],
        deadline: Instant,
    ) -> Result<Vec<u8>, String> {
        self.connection.open(method, request, Want::Message, 0);
        let (mut answer, mut ended) = (Vec::new(), None);
        while ended.is_none() {
            self.exchange(deadline, &mut |event| match event {
                Event::Message { message, .. } => answer = message.to_vec(),
                Event::End { outcome, .. } => ended = Some(outcome),
            })
            .map_err(|error| error.to_string())?;
        }
        match ended {
            Some(Outcome::Ok) => Ok(answer),
            Some(Outcome::Status(code, text)) => Err(format!("{text} (code {code})")),
            other => Err(format!("{other:?}")),
        }
    }

    /// Sends what there is to be sent, and takes one read.
    fn exchange(
        &mut self,
        deadline: Instant,
        on_event: &mut impl FnMut(Event<'_>),
    ) -> io::Result<()> {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        self.socket.set_read_timeout(Some(left))?;
        self.socket.set_write_timeout(Some(left))?;
        let timed_out = |error: io::Error| match error.kind() {
            io::ErrorKind::WouldBlock => io::ErrorKind::TimedOut.into(),
            _ => error,
        };
        let output = self.connection.output().to_vec();
        self.wire.write_all(&output).map_err(timed_out)?;
        self.wire.flush().map_err(timed_out)?;
        self.connection.sent(output.len());
        let mut piece = [0; 16 << 10];
        let got = self.wire.read(&mut piece).map_err(timed_out)?;
        if got == 0 {
            return Err(io::Error::other("the other end has closed the connection"));
        }
        let broken = |broken: crate::bench::Broken| io::Error::other(broken.to_string());
        self.connection.receive(&piece[..got], on_event).map_err(broken)
    }
}
