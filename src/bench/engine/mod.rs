//! The whole run as one state machine: connections, phases, slots, and what is recorded.
//!
//! ```text
//! connect -> prepare -> set up -> load -> drain -> done
//! ```
//!
//! *Connect* waits for all connections; *prepare* fills the key space; *set up* opens the streams that
//! stay open; *load* sends what the schedule says; *drain* waits for what is in flight.
//!
//! A slot is one request in flight on one connection. Slots without one wait in a queue, the longest
//! waiting first, so that an open loop spreads over all connections.
//!
//! Errors before the load end the run; errors of the load are counted, and a connection that was
//! lost is made again.

#[cfg(test)]
mod tests;

use std::collections::VecDeque;

use super::client::{Connection, Event, Outcome, Want};

use super::limits::{CONNECT_PATIENCE_NS, DRAIN_PATIENCE_NS, RECONNECT_PAUSE_NS};
use super::options::{Options, address};
use super::random::Random;
use super::report::{Latency, Report};
use super::schedule::Schedule;
use super::stats::{Stats, describe};
use super::work::{self, Draw, Reaction, Request, Via, Work};

/// Place of a connection.
pub type LinkId = usize;

/// gRPC's code.
const NOT_FOUND: u32 = 5;
/// Tokens from here on are those of long streams, below those of slots.
const LONG_STREAMS: u32 = 1 << 31;

#[derive(Debug)]
enum Link {
    /// To be dialled, not before this time.
    Down {
        retry_at_ns: u64,
    },
    Dialling,
    Up(Box<Connection>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd)]
enum Phase {
    Connect,
    Prepare,
    SetUp,
    Load,
    Drain,
    Done,
}

#[derive(Clone, Copy, Debug)]
struct InFlight {
    start_ns: u64,
    request: Request,
    is_measured: bool,
    is_malformed: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum LongStreamState {
    Closed,
    /// By its name in its connection.
    Open(usize),
}

/// Everything but the connections, which hand their events to it.
struct Core {
    options: Options,
    work: Box<dyn Work>,
    stats: Stats,
    phase: Phase,
    slots: Vec<Option<InFlight>>,
    in_flight: usize,
    free: VecDeque<usize>,
    long: Vec<LongStreamState>,
    /// Messages for long streams.
    outbox: Vec<(usize, Vec<u8>)>,
    failure: Option<String>,
}

pub struct Engine {
    core: Core,
    links: Vec<Link>,
    /// When each was dialled last.
    dialled_ns: Vec<u64>,
    schedule: Schedule,
    random: Random,
    message: Vec<u8>,
    /// Connections that have something to send.
    dirty: Vec<LinkId>,
    started_ns: u64,
    drain_until_ns: u64,
    is_stopped: bool,
    unsent: u64,
    bytes_received: u64,
    bytes_sent: u64,
    lost: u64,
}

impl Engine {
    pub fn new(options: Options, now_ns: u64) -> Engine {
        let work = work::of(&options);
        let dialled_ns = vec![now_ns; options.connections];
        let links = (0..options.connections).map(|_| Link::Down { retry_at_ns: now_ns }).collect();
        let schedule = Schedule::new(None, now_ns, 0, options.until());
        let core = Core {
            stats: Stats::new(work.operations()),
            phase: Phase::Connect,
            slots: vec![None; options.slots()],
            in_flight: 0,
            free: VecDeque::with_capacity(options.slots()),
            long: vec![LongStreamState::Closed; work.streams().len()],
            outbox: Vec::new(),
            failure: None,
            work,
            options,
        };
        Engine {
            random: Random::new(core.options.seed),
            core,
            links,
            dialled_ns,
            schedule,
            message: Vec::new(),
            dirty: Vec::new(),
            started_ns: now_ns,
            drain_until_ns: u64::MAX,
            is_stopped: false,
            unsent: 0,
            bytes_received: 0,
            bytes_sent: 0,
            lost: 0,
        }
    }

    /// The address that a connection is to be made to.
    pub fn address(&self, link: LinkId) -> &str {
        let endpoints = &self.core.options.endpoints;
        address(&endpoints[link % endpoints.len()])
    }

    /// A connection to be dialled now; [`Engine::connected`] or [`Engine::lost`] is to follow.
    pub fn wants_connection(&mut self, now_ns: u64) -> Option<LinkId> {
        if matches!(self.core.phase, Phase::Drain | Phase::Done) {
            return None;
        }
        let is_due =
            |link: &Link| matches!(link, Link::Down { retry_at_ns } if *retry_at_ns <= now_ns);
        let link = self.links.iter().position(is_due)?;
        self.links[link] = Link::Dialling;
        self.dialled_ns[link] = now_ns;
        Some(link)
    }

    pub fn connected(&mut self, link: LinkId) {
        let connection = Connection::new(self.address(link));
        self.links[link] = Link::Up(Box::new(connection));
        self.dirty.push(link);
    }

    /// The connection could not be made, or has ended. The socket is to be closed.
    pub fn lost(&mut self, link: LinkId, why: &str, now_ns: u64) {
        if let Link::Up(connection) = &self.links[link] {
            self.bytes_received += connection.bytes_received();
        }
        self.links[link] = Link::Down { retry_at_ns: now_ns + RECONNECT_PAUSE_NS };
        let core = &mut self.core;
        match core.phase {
            // At the start a server may still be about to listen.
            Phase::Connect if now_ns < self.started_ns + CONNECT_PATIENCE_NS => {}
            Phase::Connect | Phase::Prepare | Phase::SetUp => {
                let address = address(&core.options.endpoints[link % core.options.endpoints.len()]);
                core.fail(format!("no connection to {address}: {why}"));
            }
            Phase::Load => self.lost += 1,
            Phase::Drain | Phase::Done => {}
        }
        core.release_link(link, why, now_ns);
    }

    /// Takes what was read. The error says why the connection is to be closed; what [`Engine::lost`] does
    /// has happened by then.
    pub fn receive(&mut self, link: LinkId, input: &[u8], now_ns: u64) -> Result<(), String> {
        let Link::Up(connection) = &mut self.links[link] else { return Ok(()) };
        let was_ready = connection.is_ready();
        let core = &mut self.core;
        // Its one request, of a connection that is for one.
        let only = core.options.reconnect.then(|| core.slots[link].is_some());
        let received = connection.receive(input, &mut |event| core.event(event, now_ns));
        if let Err(broken) = received {
            self.lost(link, broken.0, now_ns);
            return Err(broken.to_string());
        }
        if !was_ready && connection.is_ready() {
            let streams = core.options.streams;
            let used = core.work.streams().iter().filter(|long| long.connection == link).count();
            let room = connection.concurrent_max().saturating_sub(used).max(1);
            core.free.extend(link * streams..link * streams + streams.min(room));
        }
        if only == Some(true) && core.slots[link].is_none() && core.phase == Phase::Load {
            self.bytes_received += connection.bytes_received();
            self.links[link] = Link::Down { retry_at_ns: now_ns };
            self.core.free.retain(|free| *free != link);
            return Err("its request is answered".to_owned());
        }
        if connection.is_ending() && connection.is_idle() {
            self.lost(link, "the server is going away", now_ns);
            return Err("the server is going away".to_owned());
        }
        self.flush_outbox();
        self.fill(now_ns);
        self.dirty.push(link);
        Ok(())
    }

    /// Carries out what is due by the clock, and enters the next phase if this one is over.
    pub fn turn(&mut self, now_ns: u64) {
        loop {
            let before = self.core.phase;
            self.advance(now_ns);
            self.fill(now_ns);
            if self.core.phase == before {
                break;
            }
        }
        if matches!(self.core.phase, Phase::Load | Phase::Drain) {
            self.message.clear();
            while let Some(stream) = self.core.work.timer(now_ns, &mut self.message) {
                self.core.outbox.push((stream, std::mem::take(&mut self.message)));
            }
            self.open_streams();
        }
        self.flush_outbox();
    }

    /// When [`Engine::turn`] is to be called, even if nothing arrives.
    pub fn next_deadline_ns(&self) -> Option<u64> {
        let core = &self.core;
        let is_loading = matches!(core.phase, Phase::Load | Phase::Drain);
        let mut next = core.work.next_timer_ns().filter(|_| is_loading);
        let mut at = |ns: Option<u64>| next = next.into_iter().chain(ns).min();
        match core.phase {
            Phase::Load => {
                if !core.free.is_empty() && !core.work.is_passive() {
                    at(self.schedule.next_due_ns());
                }
                at(self.schedule.end_ns());
                at(Some(self.drain_until_ns));
            }
            Phase::Drain => at(Some(self.drain_until_ns)),
            _ => {}
        }
        for link in &self.links {
            if let Link::Down { retry_at_ns } = link
                && !matches!(core.phase, Phase::Drain | Phase::Done)
            {
                at(Some(*retry_at_ns));
            }
        }
        next
    }

    pub fn take_dirty(&mut self, into: &mut Vec<LinkId>) {
        into.append(&mut self.dirty);
    }

    pub fn output(&self, link: LinkId) -> &[u8] {
        match &self.links[link] {
            Link::Up(connection) => connection.output(),
            _ => &[],
        }
    }

    pub fn sent(&mut self, link: LinkId, bytes: usize) {
        self.bytes_sent += bytes as u64;
        if let Link::Up(connection) = &mut self.links[link] {
            connection.sent(bytes);
        }
    }

    /// Ends the load early; what is in flight is still waited for.
    pub fn stop(&mut self) {
        self.is_stopped = true;
        if matches!(self.core.phase, Phase::Connect | Phase::Prepare | Phase::SetUp) {
            self.core.fail("stopped before the load began".to_owned());
        }
    }

    /// The run is over. An error is why it never came to its load.
    pub fn outcome(&self) -> Option<Result<(), &str>> {
        match (&self.core.failure, self.core.phase) {
            (Some(failure), _) => Some(Err(failure)),
            (None, Phase::Done) => Some(Ok(())),
            (None, _) => None,
        }
    }

    pub fn report(&self) -> Report {
        let received = self.links.iter().map(|link| match link {
            Link::Up(connection) => connection.bytes_received(),
            _ => 0,
        });
        let bytes = (self.bytes_sent, self.bytes_received + received.sum::<u64>());
        Report::new(&self.core.options, &self.core.stats, self.unsent, self.lost, bytes)
    }

    /// For the line of progress: what the run is at, requests that are done, failed, and the latency of
    /// all so far.
    pub fn progress(&self) -> (&'static str, u64, u64, Latency) {
        let stats = &self.core.stats;
        let phase = match self.core.phase {
            Phase::Connect => "connecting",
            Phase::Prepare => "filling",
            Phase::SetUp => "setting up",
            Phase::Load => "loading",
            Phase::Drain | Phase::Done => "ending",
        };
        (phase, stats.done_count(), stats.failed_count(), Latency::of(&stats.merged(None)))
    }

    fn advance(&mut self, now_ns: u64) {
        let core = &mut self.core;
        let is_ready = |link: &Link| matches!(link, Link::Up(c) if c.is_ready());
        match core.phase {
            Phase::Connect if self.links.iter().all(is_ready) => core.phase = Phase::Prepare,
            // `fill` goes on to the set-up when there is nothing left to prepare.
            Phase::Connect | Phase::Prepare => {}
            Phase::SetUp => {
                self.open_streams();
                if self.core.work.is_set_up() {
                    self.begin_load(now_ns);
                }
            }
            Phase::Load => {
                let is_over = self.is_stopped || self.schedule.is_over(now_ns);
                if is_over || now_ns >= self.drain_until_ns {
                    let is_passive = core.work.is_passive();
                    self.unsent = if is_passive { 0 } else { self.schedule.late(now_ns) };
                    core.phase = Phase::Drain;
                    self.drain_until_ns = self.drain_until_ns.min(now_ns + DRAIN_PATIENCE_NS);
                }
            }
            Phase::Drain => {
                let is_drained = core.in_flight == 0 && core.work.missing() == 0;
                if is_drained || now_ns >= self.drain_until_ns {
                    core.give_up(now_ns);
                    core.phase = Phase::Done;
                }
            }
            Phase::Done => {}
        }
    }

    fn begin_load(&mut self, now_ns: u64) {
        let options = &self.core.options;
        self.schedule = Schedule::new(options.rate(), now_ns, options.warmup, options.until());
        self.core.stats.start_ns = self.schedule.measured_from_ns();
        self.core.phase = Phase::Load;
        // An open loop that lags behind at its end is given the time to catch up, and no more.
        if let Some(end_ns) = self.schedule.end_ns() {
            self.drain_until_ns = end_ns + DRAIN_PATIENCE_NS;
        }
    }

    /// Gives the free slots what is to be asked now.
    fn fill(&mut self, now_ns: u64) {
        let core = &mut self.core;
        while let Some(&slot) = core.free.front() {
            let link = slot / core.options.streams;
            let connection = match &mut self.links[link] {
                Link::Up(connection) if !connection.is_ending() => connection,
                // The slot comes back with the next connection.
                _ => {
                    core.free.pop_front();
                    continue;
                }
            };
            let (start_ns, is_measured) = match core.phase {
                Phase::Prepare => (now_ns, false),
                Phase::Load if self.is_stopped || core.work.is_passive() => return,
                Phase::Load => match self.schedule.take(now_ns) {
                    Some(due) if core.options.reconnect && core.options.rate().is_none() => {
                        (self.dialled_ns[link], due.is_measured)
                    }
                    Some(due) => (due.start_ns, due.is_measured),
                    None => return,
                },
                _ => return,
            };
            self.message.clear();
            let draw = Draw { random: &mut self.random, start_ns, message: &mut self.message };
            let request = match core.phase {
                Phase::Prepare => match core.work.prepare(draw) {
                    Some(request) => request,
                    None => {
                        if core.in_flight == 0 {
                            core.phase = Phase::SetUp;
                        }
                        return;
                    }
                },
                _ => core.work.next(slot, draw),
            };
            core.free.pop_front();
            core.in_flight += 1;
            core.slots[slot] =
                Some(InFlight { start_ns, request, is_measured, is_malformed: false });
            match request.via {
                Via::Unary(method) => {
                    connection.open(method, &self.message, request.want, slot as u32);
                }
                Via::Stream(stream) => core.outbox.push((stream, self.message.clone())),
            }
            self.dirty.push(link);
        }
    }

    fn open_streams(&mut self) {
        for stream in 0..self.core.long.len() {
            if self.core.long[stream] != LongStreamState::Closed {
                continue;
            }
            let long = self.core.work.streams()[stream];
            let Link::Up(connection) = &mut self.links[long.connection] else { continue };
            if !connection.is_ready() || connection.is_ending() {
                continue;
            }
            self.message.clear();
            let has_message = self.core.work.open_stream(stream, &mut self.message);
            let token = LONG_STREAMS | stream as u32;
            let key = connection.open_stream(long.method, Want::Message, token);
            if has_message {
                connection.send(key, &self.message, false);
            }
            self.core.long[stream] = LongStreamState::Open(key);
            self.dirty.push(long.connection);
        }
    }

    fn flush_outbox(&mut self) {
        for (stream, message) in std::mem::take(&mut self.core.outbox) {
            let link = self.core.work.streams()[stream].connection;
            if let (LongStreamState::Open(key), Link::Up(connection)) =
                (self.core.long[stream], &mut self.links[link])
            {
                connection.send(key, &message, false);
                self.dirty.push(link);
            }
        }
    }
}

impl Core {
    fn fail(&mut self, why: String) {
        self.failure.get_or_insert(why);
    }

    fn event(&mut self, event: Event<'_>, now_ns: u64) {
        match event {
            Event::Message { token, message } if token < LONG_STREAMS => {
                let slot = token as usize;
                let Some(in_flight) = &mut self.slots[slot] else { return };
                let answered = self.work.answer(slot, in_flight.request.tag, message);
                in_flight.is_malformed |= answered.is_err();
            }
            Event::Message { token, message } => {
                let stream = (token & !LONG_STREAMS) as usize;
                let Core { work, stats, .. } = self;
                match work.stream_message(stream, message, now_ns, stats) {
                    Ok(Reaction::Nothing) => {}
                    Ok(Reaction::Answers(slot)) => self.finish(slot, Outcome::Ok, now_ns),
                    Ok(Reaction::Fails(slot)) => {
                        let text = "the server says that it is not there".to_owned();
                        self.finish(slot, Outcome::Status(NOT_FOUND, text), now_ns);
                    }
                    Ok(Reaction::Send(message)) => self.outbox.push((stream, message)),
                    Err(_) => stats.failed_with(now_ns, &Outcome::Malformed),
                }
            }
            Event::End { token, outcome } if token < LONG_STREAMS => {
                self.finish(token as usize, outcome, now_ns);
            }
            Event::End { token, outcome } => {
                self.long[(token & !LONG_STREAMS) as usize] = LongStreamState::Closed;
                let (code, text) = describe(&outcome);
                if self.phase < Phase::Load {
                    self.fail(format!("a stream has ended before the load: {code}: {text}"));
                } else if self.phase == Phase::Load {
                    self.stats.failed(now_ns, &code, &format!("a stream has ended: {text}"));
                }
            }
        }
    }

    fn finish(&mut self, slot: usize, mut outcome: Outcome, now_ns: u64) {
        let Some(in_flight) = self.slots[slot].take() else { return };
        if in_flight.is_malformed && outcome == Outcome::Ok {
            outcome = Outcome::Malformed;
        }
        let InFlight { start_ns, request, is_measured, .. } = in_flight;
        let is_ok = outcome == Outcome::Ok;
        self.in_flight -= 1;
        self.free.push_back(slot);
        self.work.finished(slot, request.tag, is_ok);
        if is_measured && is_ok {
            self.stats.done(request.operation, start_ns, now_ns);
        } else if is_measured {
            self.stats.failed_with(now_ns, &outcome);
        } else if !is_ok && self.phase < Phase::Load {
            let (code, text) = describe(&outcome);
            self.fail(format!("the key space cannot be filled: {code}: {text}"));
        }
    }

    /// The slots of a connection that is no more: what they waited for has failed.
    fn release_link(&mut self, link: LinkId, why: &str, now_ns: u64) {
        let streams = self.options.streams;
        let slots = link * streams..(link + 1) * streams;
        for slot in slots.clone() {
            let Some(InFlight { request, is_measured, .. }) = self.slots[slot].take() else {
                continue;
            };
            self.in_flight -= 1;
            self.work.finished(slot, request.tag, false);
            if is_measured {
                self.stats.failed(now_ns, "connection lost", why);
            }
        }
        self.free.retain(|free| !slots.contains(free));
        for (stream, state) in self.long.iter_mut().enumerate() {
            if self.work.streams()[stream].connection == link {
                *state = LongStreamState::Closed;
            }
        }
    }

    /// What has not been answered when patience ends.
    fn give_up(&mut self, now_ns: u64) {
        let waiting = self.slots.iter().flatten().filter(|in_flight| in_flight.is_measured);
        let count = waiting.count() as u64;
        if count > 0 {
            self.stats.count_error("no answer", count, "not answered when the run ended");
            self.stats.last_ns = self.stats.last_ns.max(now_ns);
        }
        let missing = self.work.missing();
        if missing > 0 {
            self.stats.count_error("not delivered", missing, "events that no watcher has got");
        }
    }
}
