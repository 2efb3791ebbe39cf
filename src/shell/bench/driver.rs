//! The loop that moves bytes between the engine and its sockets, on one thread.
//!
//! epoll by way of `mio`, not the reactor of the server: a load generator wants readiness of many
//! sockets, one read and one write for each, and nothing else. Timeouts of epoll are whole
//! milliseconds, too coarse for an open loop, so the next deadline is a timerfd.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, ToSocketAddrs};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use mio::net::TcpStream;
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use rustls::ClientConfig;

use super::tls;
use crate::bench::{Engine, LinkId, Options, READ_BYTES, Report};
use crate::shell::uring::raise_limit;
use crate::tls::{Session, describe};

const EVENTS: usize = 1_024;
const TIMER: Token = Token(usize::MAX);
/// Reads of one socket before the others have their turn.
const READ_ROUNDS_MAX: usize = 4;
const PROGRESS_NS: u64 = 1_000_000_000;
/// However little is due, signals are looked for this often.
const IDLE: Duration = Duration::from_millis(200);

struct Socket {
    stream: TcpStream,
    is_connected: bool,
    secure: Option<Secure>,
}

/// What a socket with TLS has besides.
struct Secure {
    session: Session,
    /// Sealed, and not taken by the socket yet.
    sealed: Vec<u8>,
}

impl Socket {
    /// Requests may be sent.
    fn is_open(&self) -> bool {
        let is_greeted = self.secure.as_ref().is_none_or(|tls| !tls.session.is_handshaking());
        self.is_connected && is_greeted
    }
}

struct Driver {
    engine: Engine,
    started: Instant,
    poll: Poll,
    sockets: Vec<Option<Socket>>,
    endpoints: Vec<Endpoint>,
    tls: Option<Arc<ClientConfig>>,
    timer: Timer,
    buffer: Vec<u8>,
    /// What a session has opened of it.
    plain: Vec<u8>,
    /// Sockets that had more to give when their turn was over.
    again: Vec<LinkId>,
    dirty: Vec<LinkId>,
}

pub fn drive(options: Options, shows_progress: bool) -> Result<Report, String> {
    let endpoints = options.endpoints.iter().map(|e| resolve(e)).collect::<Result<_, _>>()?;
    let tls = tls::config(&options)?;
    let stop = Arc::new(AtomicBool::new(false));
    listen_to_signals(&stop).map_err(|error| format!("signals: {error}"))?;
    // If they do not suffice, connecting says so.
    raise_limit(libc::RLIMIT_NOFILE);
    let connections = options.connections;
    let timer = Timer::new().map_err(|error| format!("timerfd: {error}"))?;
    let poll = Poll::new().map_err(|error| format!("epoll: {error}"))?;
    poll.registry()
        .register(&mut SourceFd(&timer.fd.as_raw_fd()), TIMER, Interest::READABLE)
        .map_err(|error| format!("epoll: {error}"))?;
    let mut driver = Driver {
        engine: Engine::new(options, 0),
        started: Instant::now(),
        poll,
        sockets: (0..connections).map(|_| None).collect(),
        endpoints,
        tls,
        timer,
        buffer: vec![0; READ_BYTES],
        plain: vec![0; READ_BYTES],
        again: Vec::new(),
        dirty: Vec::new(),
    };
    let cpu_before = cpu_seconds();
    driver.run(&stop, shows_progress)?;
    let mut report = driver.engine.report();
    report.generator_cpu_seconds = cpu_seconds() - cpu_before;
    report.generator_seconds = driver.started.elapsed().as_secs_f64();
    Ok(report)
}

impl Driver {
    fn now_ns(&self) -> u64 {
        self.started.elapsed().as_nanos() as u64
    }

    fn run(&mut self, stop: &AtomicBool, shows_progress: bool) -> Result<(), String> {
        let mut events = Events::with_capacity(EVENTS);
        let mut progress = Progress::default();
        loop {
            if stop.load(Ordering::Relaxed) {
                self.engine.stop();
            }
            while let Some(link) = self.engine.wants_connection(self.now_ns()) {
                self.dial(link);
            }
            self.engine.turn(self.now_ns());
            self.flush_dirty();
            if let Some(outcome) = self.engine.outcome() {
                progress.clear();
                return outcome.map_err(str::to_owned);
            }
            let now_ns = self.now_ns();
            if shows_progress && now_ns >= progress.next_ns {
                progress.show(&self.engine, now_ns);
            }
            let timeout = self.timeout(now_ns).map_err(|error| format!("timerfd: {error}"))?;
            match self.poll.poll(&mut events, Some(timeout)) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(format!("epoll: {error}")),
            }
            for link in std::mem::take(&mut self.again) {
                self.read(link);
            }
            for event in &events {
                if event.token() == TIMER {
                    self.timer.has_fired();
                    continue;
                }
                let link = event.token().0;
                if event.is_writable() {
                    self.writable(link);
                }
                if event.is_readable() || event.is_error() {
                    self.read(link);
                }
            }
        }
    }

    fn timeout(&mut self, now_ns: u64) -> io::Result<Duration> {
        if !self.again.is_empty() {
            return Ok(Duration::ZERO);
        }
        match self.engine.next_deadline_ns() {
            Some(at_ns) if at_ns <= now_ns => return Ok(Duration::ZERO),
            Some(at_ns) => self.timer.arm(at_ns, at_ns - now_ns)?,
            None => {}
        }
        Ok(IDLE)
    }

    fn dial(&mut self, link: LinkId) {
        match self.try_dial(link) {
            Ok(socket) => self.sockets[link] = Some(socket),
            Err(error) => self.engine.lost(link, &error, self.now_ns()),
        }
    }

    fn try_dial(&mut self, link: LinkId) -> Result<Socket, String> {
        let endpoint = &self.endpoints[link % self.endpoints.len()];
        let text = |error: io::Error| error.to_string();
        let mut stream = TcpStream::connect(endpoint.address).map_err(text)?;
        stream.set_nodelay(true).map_err(text)?;
        let interest = Interest::READABLE | Interest::WRITABLE;
        self.poll.registry().register(&mut stream, Token(link), interest).map_err(text)?;
        let secure = match (&endpoint.tls_host, &self.tls) {
            (Some(host), Some(config)) => {
                let session = Session::dial(config.clone(), host).map_err(|e| describe(&e))?;
                Some(Secure { session, sealed: Vec::new() })
            }
            _ => None,
        };
        Ok(Socket { stream, is_connected: false, secure })
    }

    fn writable(&mut self, link: LinkId) {
        let Some(socket) = &mut self.sockets[link] else { return };
        if !socket.is_connected {
            match (socket.stream.take_error(), socket.stream.peer_addr()) {
                (Ok(None), Ok(_)) => {
                    socket.is_connected = true;
                    if socket.is_open() {
                        self.engine.connected(link);
                    }
                }
                // Not yet.
                (Ok(None), Err(error)) if error.kind() == io::ErrorKind::NotConnected => return,
                (Ok(Some(error)), _) | (Ok(None), Err(error)) | (Err(error), _) => {
                    return self.lose(link, &error.to_string());
                }
            }
        }
        self.flush(link);
    }

    fn read(&mut self, link: LinkId) {
        for _ in 0..READ_ROUNDS_MAX {
            let Some(socket) = self.sockets[link].as_mut().filter(|s| s.is_connected) else {
                return;
            };
            let read = match socket.stream.read(&mut self.buffer) {
                Ok(0) => return self.lose(link, "closed by the server"),
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return self.lose(link, &error.to_string()),
            };
            let is_secure = socket.secure.is_some();
            let taken = if is_secure { self.open(link, read) } else { self.take(link, read) };
            if !taken {
                return;
            }
            self.flush_dirty();
            if read < self.buffer.len() {
                return;
            }
        }
        self.again.push(link);
    }

    /// Hands on what was read. False if the connection is over.
    fn take(&mut self, link: LinkId, read: usize) -> bool {
        let now_ns = self.now_ns();
        let taken = self.engine.receive(link, &self.buffer[..read], now_ns).is_ok();
        if !taken {
            self.sockets[link] = None;
        }
        taken
    }

    /// The same with TLS.
    fn open(&mut self, link: LinkId, read: usize) -> bool {
        let now_ns = self.now_ns();
        let mut rest = &self.buffer[..read];
        while !rest.is_empty() {
            let Some(socket) = self.sockets[link].as_mut() else { return false };
            let was_open = socket.is_open();
            let Some(Secure { session, .. }) = &mut socket.secure else { return false };
            if let Err(error) = session.feed(&mut rest) {
                self.lose(link, &describe(&error));
                return false;
            }
            loop {
                let len = session.read(&mut self.plain);
                if len == 0 {
                    break;
                }
                if self.engine.receive(link, &self.plain[..len], now_ns).is_err() {
                    self.sockets[link] = None;
                    return false;
                }
            }
            if !was_open && socket.is_open() {
                self.engine.connected(link);
            }
        }
        // What the session itself has to say, the end of the handshake above all.
        self.flush(link);
        true
    }

    fn flush_dirty(&mut self) {
        let mut dirty = std::mem::take(&mut self.dirty);
        self.engine.take_dirty(&mut dirty);
        for &link in &dirty {
            self.flush(link);
        }
        dirty.clear();
        self.dirty = dirty;
    }

    fn flush(&mut self, link: LinkId) {
        loop {
            let Some(socket) = self.sockets[link].as_mut().filter(|s| s.is_connected) else {
                return;
            };
            let is_open = socket.is_open();
            let output = match &mut socket.secure {
                None => self.engine.output(link),
                Some(Secure { session, sealed }) => {
                    if sealed.is_empty() && is_open {
                        sealed.extend_from_slice(self.engine.output(link));
                        let taken = sealed.len();
                        if taken > 0 && session.seal(sealed).is_err() {
                            return self.lose(link, "the session is over");
                        }
                        self.engine.sent(link, taken);
                    }
                    session.take_output(sealed);
                    sealed
                }
            };
            if output.is_empty() {
                return;
            }
            match (socket.stream.write(output), &mut socket.secure) {
                (Ok(written), Some(tls)) => drop(tls.sealed.drain(..written)),
                (Ok(written), None) => self.engine.sent(link, written),
                (Err(error), _) if error.kind() == io::ErrorKind::WouldBlock => return,
                (Err(error), _) if error.kind() == io::ErrorKind::Interrupted => {}
                (Err(error), _) => return self.lose(link, &error.to_string()),
            }
        }
    }

    fn lose(&mut self, link: LinkId, why: &str) {
        self.sockets[link] = None;
        self.engine.lost(link, why, self.now_ns());
    }
}

/// One line on the terminal, written over and over.
#[derive(Default)]
struct Progress {
    next_ns: u64,
    done_before: u64,
    is_shown: bool,
}

impl Progress {
    fn show(&mut self, engine: &Engine, now_ns: u64) {
        let (phase, done, failed, latency) = engine.progress();
        self.next_ns = now_ns + PROGRESS_NS;
        eprint!(
            "\r\x1b[K{phase:10} {:4} s  {done} done, {}/s  p50 {:.2} ms  p99 {:.2} ms  max {:.2} ms  {failed} failed",
            now_ns / PROGRESS_NS,
            done - self.done_before,
            latency.p50 / 1e3,
            latency.p99 / 1e3,
            latency.max / 1e3,
        );
        self.done_before = done;
        self.is_shown = true;
    }

    fn clear(&self) {
        if self.is_shown {
            eprint!("\r\x1b[K");
        }
    }
}

/// A timerfd: fires once, at what it was armed for last.
struct Timer {
    fd: OwnedFd,
    armed_for_ns: Option<u64>,
}

impl Timer {
    fn new() -> io::Result<Timer> {
        // SAFETY: plain call; the result is checked before it is owned.
        let fd = unsafe {
            libc::timerfd_create(libc::CLOCK_MONOTONIC, libc::TFD_NONBLOCK | libc::TFD_CLOEXEC)
        };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor is new and nobody else's.
        Ok(Timer { fd: unsafe { OwnedFd::from_raw_fd(fd) }, armed_for_ns: None })
    }

    /// `at_ns` by the clock of the run, which is `after_ns` from now.
    fn arm(&mut self, at_ns: u64, after_ns: u64) -> io::Result<()> {
        if self.armed_for_ns == Some(at_ns) {
            return Ok(());
        }
        let value = libc::timespec {
            tv_sec: (after_ns / 1_000_000_000) as libc::time_t,
            tv_nsec: (after_ns % 1_000_000_000).max(1) as libc::c_long,
        };
        let interval = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        let spec = libc::itimerspec { it_interval: interval, it_value: value };
        let none = std::ptr::null_mut();
        // SAFETY: the descriptor is open, `spec` lives through the call, no old value is asked for.
        if unsafe { libc::timerfd_settime(self.fd.as_raw_fd(), 0, &spec, none) } < 0 {
            return Err(io::Error::last_os_error());
        }
        self.armed_for_ns = Some(at_ns);
        Ok(())
    }

    fn has_fired(&mut self) {
        let mut count = [0u8; 8];
        // SAFETY: the buffer is as long as said. What is read does not matter: it ends readiness.
        unsafe { libc::read(self.fd.as_raw_fd(), count.as_mut_ptr().cast(), count.len()) };
        self.armed_for_ns = None;
    }
}

struct Endpoint {
    address: SocketAddr,
    /// Whom the certificate has to be for; none without TLS.
    tls_host: Option<String>,
}

fn resolve(endpoint: &str) -> Result<Endpoint, String> {
    let address = crate::bench::address(endpoint);
    let mut found =
        address.to_socket_addrs().map_err(|error| format!("--endpoints {endpoint}: {error}"))?;
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
    Ok(Endpoint {
        address: found.next().ok_or_else(|| format!("--endpoints {endpoint}: has no address"))?,
        tls_host: endpoint.starts_with("https://").then_some(host),
    })
}

/// The first signal ends the load, a second one the program.
fn listen_to_signals(stop: &Arc<AtomicBool>) -> io::Result<()> {
    const EXIT_ASKED_TWICE: i32 = 130;
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        signal_hook::flag::register_conditional_shutdown(
            signal,
            EXIT_ASKED_TWICE,
            Arc::clone(stop),
        )?;
        signal_hook::flag::register(signal, Arc::clone(stop))?;
    }
    Ok(())
}

fn cpu_seconds() -> f64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: plain call on a structure that lives through it.
    unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &mut time) };
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}
