//! Sockets between members: what `peer` wants dialled is dialled, what it has to say is sent once a
//! turn, and what arrives is handed to the server.
//!
//! Sending: before the server applies what is committed, and again after its turn, while the log's own
//! write is on its way and before clients are answered; urgent lanes first. What a socket does not take at once is left to a task.
//! Receiving: each connection of a member reads into a chunk of its own. Entries stay in memory as
//! slices of it, and so hold little besides entries.
//!
//! This file decides nothing about the bytes.

use super::dial::Dialler;
use super::limits::{FLUSH_BYTES_MAX, FLUSH_ROUNDS_MAX, LINGER, READ_WINDOW_MIN_BYTES};
use super::peer_metrics::PeerMetrics;
use super::reactor::Core;
use super::socket::{Input, Sent, Socket};
use super::tls::{self, Arrival, SPEAKS_TLS, looks_like_tls};
use crate::node::{Class, PeerMessage};
use crate::peer::limits::{COMPLAINT_INTERVAL_MS, GREETING_TIMEOUT_MS, INBOUND_MAX};
use crate::peer::{Arrived, Dial, Event, Identity, Inbound, LaneId, Links, Roster};
use crate::raft::{LogIndex, NodeId};
use crate::tls::Session;
use bytes::Bytes;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::poll_fn;
use std::io;
use std::net::Shutdown;
use std::rc::Rc;
use std::time::Duration;

pub struct Peers {
    own: NodeId,
    links: RefCell<Links>,
    dialler: Dialler,
    dialled: RefCell<BTreeMap<LaneId, Rc<Peer>>>,
    accepted: RefCell<BTreeMap<u64, Rc<Peer>>>,
    numbers: Cell<u64>,
    /// Accepted connections with something to send.
    answering: RefCell<Vec<Rc<Peer>>>,
    /// What one connection sends; one buffer for all.
    output: RefCell<Vec<u8>>,
    /// No line about strangers before.
    complain_us: Cell<u64>,
    /// The removal after which connections of those who are none of us were ended.
    ended_after: Cell<LogIndex>,
    metrics: Rc<PeerMetrics>,
}

/// One connection.
struct Peer {
    socket: Socket,
    /// With TLS.
    session: Option<RefCell<Session>>,
    end: End,
    open: Cell<bool>,
    /// A task is writing what the socket did not take.
    stalled: Cell<bool>,
}

enum End {
    Dialled(LaneId),
    Accepted { number: u64, inbound: RefCell<Inbound>, input: RefCell<Input> },
}

impl Peers {
    pub fn new(own: Identity, metrics: Rc<PeerMetrics>) -> Peers {
        Peers {
            own: own.member,
            links: RefCell::new(Links::new(own)),
            dialler: Dialler::default(),
            dialled: RefCell::default(),
            accepted: RefCell::default(),
            numbers: Cell::new(0),
            answering: RefCell::default(),
            output: RefCell::default(),
            complain_us: Cell::new(0),
            ended_after: Cell::default(),
            metrics,
        }
    }

    /// Sends what the server has for other members, the urgent lanes first.
    pub fn send(&self, core: &Rc<Core>) {
        let mut links = self.links.borrow_mut();
        for (to, message) in core.server().borrow_mut().take_messages() {
            links.send(to, message);
        }
        let mut ready = Vec::new();
        links.with_output(&mut ready);
        drop(links);
        for id in ready {
            let peer = self.dialled.borrow().get(&id).cloned();
            if let Some(peer) = peer {
                self.flush(core, &peer);
            }
        }
    }

    /// Sends what the server's turn has made, and keeps the links going.
    pub fn turn(&self, core: &Rc<Core>) {
        let now_us = core.clock().now_us();
        let mut links = self.links.borrow_mut();
        let members = core.server().borrow_mut().take_peers();
        if let Some(members) = members {
            links.set_members(members.iter().map(|(id, urls)| (*id, &urls[..])), now_us);
        }
        let mut dials = Vec::new();
        links.tick(now_us, &mut dials);
        let closing: Vec<LaneId> = links.drain_closing().collect();
        drop(links);
        for dial in dials {
            glommio::spawn_local(connect(core.clone(), dial)).detach();
        }
        for id in closing {
            if let Some(peer) = self.dialled.borrow_mut().remove(&id) {
                peer.abort();
            }
        }
        self.send(core);
        for peer in self.answering.take() {
            self.flush(core, &peer);
        }
        self.end_silent(core, now_us);
        self.end_removed(core);
        self.report(core);
    }

    /// When `turn` has to be called at the latest, in milliseconds.
    pub fn next_deadline_ms(&self) -> u64 {
        let deadline_us = self.links.borrow().next_deadline_us();
        if deadline_us == u64::MAX { u64::MAX } else { deadline_us.div_ceil(1000) }
    }

    /// Another member, or one who asks, has dialled.
    pub fn accept(&self, core: &Rc<Core>, socket: Socket, session: Option<Session>) {
        if self.accepted.borrow().len() >= INBOUND_MAX {
            // It is closed by being dropped.
            return;
        }
        let number = self.numbers.replace(self.numbers.get() + 1);
        let inbound = RefCell::new(Inbound::new(core.clock().now_us()));
        let end = End::Accepted { number, inbound, input: RefCell::default() };
        let peer = Rc::new(Peer::new(socket, session, end));
        self.accepted.borrow_mut().insert(number, peer.clone());
        glommio::spawn_local(read_all(core.clone(), peer)).detach();
    }

    fn received(&self, core: &Rc<Core>, peer: &Rc<Peer>, data: Bytes) {
        let now_us = core.clock().now_us();
        match &peer.end {
            End::Dialled(id) => {
                let received = self.links.borrow_mut().receive(*id, data, now_us);
                match received {
                    Ok(Some(round_trip_us)) if id.lane == Class::Urgent => {
                        self.metrics.round_trip(id.member.0, round_trip_us as f64 / 1e6);
                    }
                    Ok(_) => {}
                    Err(_) => self.lost(core, peer, "refused"),
                }
            }
            End::Accepted { number, inbound, .. } => {
                let length = data.len();
                let speaks_tls = looks_like_tls(&data);
                let mut arrived = Vec::new();
                let received = {
                    let server = core.server().borrow();
                    let cluster = &server.node().applier.cluster;
                    let is_removal_settled = server.node().settled_removal().is_some();
                    let roster = Roster { own: self.own, cluster, is_removal_settled };
                    inbound.borrow_mut().receive(data, roster, now_us, &mut arrived)
                };
                let from = inbound.borrow().greeting().map(|greeting| greeting.from);
                if let Some(from) = from {
                    self.metrics.received(from.0, length);
                }
                for arrived in arrived {
                    self.arrived(core, *number, from, arrived);
                }
                if let Err(error) = received {
                    let hint = speaks_tls && from.is_none() && peer.session.is_none();
                    let error = if hint { SPEAKS_TLS.to_owned() } else { error.to_string() };
                    self.complain(core, from, &error);
                    return self.lost(core, peer, "");
                }
                self.answering.borrow_mut().push(peer.clone());
            }
        }
        core.wake();
    }

    fn arrived(&self, core: &Rc<Core>, number: u64, from: Option<NodeId>, arrived: Arrived) {
        match arrived {
            Arrived::Message(message) => {
                let Some(from) = from else { return };
                let now_ms = core.clock().now_ms();
                core.server().borrow_mut().receive_peer(from, message, now_ms);
            }
            Arrived::Greeting(greeting) => {
                // What a member dialled before is over, even if its end was not heard.
                let is_older = |peer: &Peer| match &peer.end {
                    End::Accepted { number: other, inbound, .. } => {
                        *other != number
                            && inbound.borrow().greeting().is_some_and(|other| {
                                (other.from, other.lane) == (greeting.from, greeting.lane)
                            })
                    }
                    End::Dialled(_) => false,
                };
                self.accepted.borrow_mut().retain(|_, peer| {
                    let older = is_older(peer);
                    if older {
                        peer.abort();
                    }
                    !older
                });
            }
            Arrived::Refused(greeting, refusal) => {
                self.complain(core, Some(greeting.from), &format!("refused: {refusal}"));
            }
        }
    }

    /// Whether it is a member: strangers can name any id, and there is a metric for each.
    fn knows(&self, core: &Core, id: NodeId) -> bool {
        core.server().borrow().node().applier.cluster.member(id.0).is_some()
    }

    /// One line about who does not belong here, and no more for a while.
    fn complain(&self, core: &Core, from: Option<NodeId>, error: &str) {
        let now_us = core.clock().now_us();
        if let Some(from) = from.filter(|from| self.knows(core, *from)) {
            self.metrics.receive_failed(from.0);
        }
        if self.complain_us.get() <= now_us {
            self.complain_us.set(now_us + COMPLAINT_INTERVAL_MS * 1000);
            tracing::warn!(
                local_member_id = format!("{:x}", self.own.0),
                remote_peer_id = from.map_or_else(String::new, |from| format!("{:x}", from.0)),
                error,
                "closed a connection from a peer"
            );
        }
    }

    /// The socket has failed, or must be given up.
    fn lost(&self, core: &Rc<Core>, peer: &Rc<Peer>, reason: &str) {
        if !peer.open.get() {
            return;
        }
        peer.abort();
        match &peer.end {
            End::Dialled(id) => {
                self.dialled.borrow_mut().remove(id);
                self.links.borrow_mut().failed(*id, reason, core.clock().now_us());
            }
            End::Accepted { number, .. } => {
                self.accepted.borrow_mut().remove(number);
            }
        }
        core.wake();
    }

    fn flush(&self, core: &Rc<Core>, peer: &Rc<Peer>) {
        if peer.stalled.get() || !peer.open.get() {
            return;
        }
        for _ in 0..FLUSH_ROUNDS_MAX {
            let mut output = self.output.borrow_mut();
            output.clear();
            match &peer.end {
                End::Dialled(id) => {
                    self.links.borrow_mut().take_output(*id, FLUSH_BYTES_MAX, &mut output);
                    if !output.is_empty() {
                        self.metrics.sent(id.member.0, output.len());
                    }
                }
                End::Accepted { inbound, .. } => inbound.borrow_mut().take_output(&mut output),
            }
            if output.is_empty() {
                drop(output);
                return self.finish_if_over(peer);
            }
            match peer.send(&mut output) {
                Sent::All => {}
                Sent::Part(len) => {
                    peer.stalled.set(true);
                    let rest = output.split_off(len);
                    glommio::spawn_local(write_rest(core.clone(), peer.clone(), rest)).detach();
                    return;
                }
                Sent::Failed => {
                    drop(output);
                    return self.lost(core, peer, "the connection broke while sending");
                }
            }
        }
        core.wake();
    }

    /// Ends a connection whose last word has been sent.
    fn finish_if_over(&self, peer: &Rc<Peer>) {
        let End::Accepted { number, inbound, .. } = &peer.end else { return };
        if !inbound.borrow().is_over() {
            return;
        }
        self.accepted.borrow_mut().remove(number);
        peer.open.set(false);
        peer.socket.shutdown(Shutdown::Write);
        let peer = Rc::downgrade(peer);
        glommio::spawn_local(async move {
            glommio::timer::sleep(LINGER).await;
            if let Some(peer) = peer.upgrade() {
                peer.abort();
            }
        })
        .detach();
    }

    fn end_silent(&self, core: &Rc<Core>, now_us: u64) {
        let is_silent = |peer: &&Rc<Peer>| match &peer.end {
            End::Accepted { inbound, .. } => inbound.borrow().tick(now_us).is_err(),
            End::Dialled(_) => false,
        };
        let silent: Vec<_> = self.accepted.borrow().values().filter(is_silent).cloned().collect();
        for peer in silent {
            self.lost(core, &peer, "");
        }
    }

    /// Who was removed dials again when its connection has ended, and is told then.
    fn end_removed(&self, core: &Rc<Core>) {
        let settled = core.server().borrow().node().settled_removal();
        if settled.is_none_or(|index| self.ended_after.replace(index) == index) {
            return;
        }
        let is_removed = |peer: &&Rc<Peer>| match &peer.end {
            End::Accepted { inbound, .. } => inbound.borrow().greeting().is_some_and(|greeting| {
                let server = core.server().borrow();
                server.node().applier.cluster.is_removed(greeting.from.0)
            }),
            End::Dialled(_) => false,
        };
        let removed: Vec<_> = self.accepted.borrow().values().filter(is_removed).cloned().collect();
        for peer in removed {
            self.lost(core, &peer, "");
        }
    }

    /// Tells the log and the node what became of the links.
    fn report(&self, core: &Rc<Core>) {
        let events: Vec<Event> = self.links.borrow_mut().drain_events().collect();
        if events.is_empty() {
            return;
        }
        let hex = |id: NodeId| format!("{:x}", id.0);
        for event in events {
            match event {
                Event::Active { member, lane: Class::Urgent } => {
                    self.metrics.connected(member.0);
                    tracing::info!(peer_id = hex(member), "peer became active");
                }
                Event::Active { .. } => {}
                Event::Inactive { member, lane, reason } => {
                    if lane == Class::Urgent {
                        self.metrics.disconnected(member.0);
                        tracing::warn!(
                            peer_id = hex(member),
                            error = reason,
                            "peer became inactive (message send to peer failed)"
                        );
                    }
                    core.server().borrow_mut().unreachable(member);
                }
                Event::Unreachable { member, url, reason } => {
                    tracing::warn!(
                        remote_peer_id = hex(member),
                        remote_peer_urls = url,
                        error = reason,
                        "cannot reach a peer; trying on"
                    );
                }
                Event::Removed { by } => {
                    let now_ms = core.clock().now_ms();
                    core.server().borrow_mut().receive_peer(by, PeerMessage::Gone, now_ms);
                }
            }
        }
        for (member, _, counters) in self.links.borrow().members() {
            self.metrics.dropped(member.0, counters.dropped);
        }
        core.wake();
    }
}

impl Peer {
    fn new(socket: Socket, session: Option<Session>, end: End) -> Peer {
        let session = session.map(RefCell::new);
        Peer { socket, session, end, open: Cell::new(true), stalled: Cell::new(false) }
    }

    /// Sends what the socket takes now. With TLS, `data` is what goes over the wire afterwards.
    fn send(&self, data: &mut Vec<u8>) -> Sent {
        if let Some(session) = &self.session
            && session.borrow_mut().seal(data).is_err()
        {
            return Sent::Failed;
        }
        self.socket.send(data)
    }

    /// Ends both directions now; tasks that wait for the socket see its end.
    fn abort(&self) {
        self.open.set(false);
        self.socket.shutdown(Shutdown::Both);
    }
}

async fn connect(core: Rc<Core>, dial: Dial) {
    let timeout = Duration::from_millis(GREETING_TIMEOUT_MS);
    let peers = core.peers();
    let Dial { id, url } = dial;
    let made = peers.dialler.connect(&core, &url, id.attempt, timeout).await;
    let now_us = core.clock().now_us();
    match made {
        Ok((socket, session)) => {
            if peers.links.borrow_mut().connected(id, now_us) {
                let peer = Rc::new(Peer::new(socket, session, End::Dialled(id)));
                peers.dialled.borrow_mut().insert(id, peer.clone());
                glommio::spawn_local(read_all(core.clone(), peer)).detach();
            }
        }
        Err(error) => peers.links.borrow_mut().failed(id, &error, now_us),
    }
    core.wake();
}

async fn read_all(core: Rc<Core>, peer: Rc<Peer>) {
    if let Some(session) = &peer.session {
        return read_sealed(&core, &peer, session).await;
    }
    loop {
        let read = poll_fn(|context| {
            let fill = |window: &mut [u8]| peer.socket.poll_read(context, window);
            match &peer.end {
                End::Accepted { input, .. } => input.borrow_mut().poll_fill(fill),
                End::Dialled(_) => core.input.borrow_mut().poll_fill(fill),
            }
        });
        match read.await {
            Ok(data) if data.is_empty() => {
                return core.peers().lost(&core, &peer, "the other end has closed the connection");
            }
            Ok(data) => {
                let filled = data.len() >= READ_WINDOW_MIN_BYTES;
                if peer.open.get() {
                    core.peers().received(&core, &peer, data);
                }
                if filled {
                    futures_lite::future::yield_now().await;
                }
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return core.peers().lost(&core, &peer, &error.to_string()),
        }
    }
}

async fn read_sealed(core: &Rc<Core>, peer: &Rc<Peer>, session: &RefCell<Session>) {
    let input = match &peer.end {
        End::Accepted { input, .. } => input,
        End::Dialled(_) => &core.input,
    };
    loop {
        let take = |data| {
            if peer.open.get() {
                core.peers().received(core, peer, data);
            }
        };
        match tls::read(&peer.socket, session, &core.tls().sealed, input, take).await {
            Arrival::Some { filled: true } => futures_lite::future::yield_now().await,
            Arrival::Some { filled: false } => {}
            Arrival::End => {
                return core.peers().lost(core, peer, "the other end has closed the connection");
            }
            Arrival::Failed(error) => return core.peers().lost(core, peer, &error),
        }
    }
}

async fn write_rest(core: Rc<Core>, peer: Rc<Peer>, rest: Vec<u8>) {
    let mut done = 0;
    while let Some(data) = rest.get(done..).filter(|data| !data.is_empty()) {
        match poll_fn(|context| peer.socket.poll_write(context, data)).await {
            Ok(written) => {
                done += written;
                if let End::Dialled(id) = peer.end {
                    core.peers().links.borrow_mut().progressed(id, core.clock().now_us());
                }
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => {
                peer.stalled.set(false);
                return core.peers().lost(&core, &peer, &error.to_string());
            }
        }
    }
    peer.stalled.set(false);
    if matches!(peer.end, End::Accepted { .. }) {
        core.peers().answering.borrow_mut().push(peer);
    }
    core.wake();
}
