//! The core's turn: the one place where inputs, time, disks and sockets meet the server.
//!
//! ```text
//! readers ──receive──▶            ┌─ server.begin_turn(now), the log's write, other members
//!                                 │  server.turn(now)
//! disks ───op_done───▶  one wake ─┤  start log and store operations
//! timer ─────────────▶            └─ flush dirty connections, resume paused ones
//! ```
//!
//! Why a turn is a batch: glommio wakes the tasks of all completions it harvested in their order,
//! and the core's task queues up behind those that woke it. So every request that has arrived when
//! the turn begins is part of it, and while a log write is in flight, what arrives becomes the next
//! one. When the log is idle the write of a lone request starts in the same turn.
//!
//! Invariants: `server` is borrowed for one call at a time and never across an await. `disconnect`
//! is called exactly once for every `connect`. Nothing here decides anything about the bytes.

use super::clock::{Clock, unix_ms};
use super::connection::{self, Connection};
use super::glommio_files::blocking;
use super::limits::{
    CONNECTIONS_MAX, FDS_RESERVED, FENCE_CONNECTIONS_MIN, FENCE_ENTRIES_MIN, FLUSH_BYTES_MAX,
    FLUSH_ROUNDS_MAX, STORE_OPS_IN_FLIGHT_MAX,
};
use super::log_disk::LogDisk;
use super::notify::Notify;
use super::peers::Peers;
use super::segments::Created;
use super::snapshot_disk::{Done, SnapshotDisk};
use super::socket::{Input, Sent, Socket};
use super::store_disk::{Grown, StoreDisk};
use super::tls::Tls;
use super::{fatal, files, sigbus, uring, warm};
use crate::h2::{Gathered, Sink};
use crate::node::{SnapshotOp, StopReason};
use crate::rpc::{ConnId, ListenerKind, Server, Timing};
use crate::store::{self, FrameMemory};
use crate::tls::Session;
use bytes::Bytes;
use glommio::net::TcpStream;
use glommio::timer::Timer;
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::future::{Future, poll_fn};
use std::path::Path;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

/// Everything the tasks of the core thread share.
pub struct Core {
    server: RefCell<Server>,
    clock: Clock,
    log_disk: LogDisk,
    store_disk: RefCell<Rc<StoreDisk>>,
    snapshot_disk: SnapshotDisk,
    peers: Peers,
    tls: Tls,
    wake: Notify,
    connections: RefCell<HashMap<ConnId, Rc<Connection>>>,
    connections_max: usize,
    pub input: RefCell<Input>,
    /// Connections with output, gathered for the flush of this turn.
    dirty: RefCell<Vec<ConnId>>,
    /// What one connection sends; one buffer for all, since a flush is one connection at a time.
    output: RefCell<Gathered>,
    paused: RefCell<Vec<Rc<Connection>>>,
    /// Peers that have said their last word and may still wait for ours.
    half_closed: RefCell<Vec<Rc<Connection>>>,
    stopping: Cell<bool>,
    /// A thread makes memory ready for the store.
    preparing: Cell<bool>,
}

impl Core {
    pub fn new(
        server: Server,
        clock: Clock,
        log_disk: LogDisk,
        store_disk: StoreDisk,
        snapshot_disk: SnapshotDisk,
        peers: Peers,
        tls: Tls,
    ) -> Rc<Core> {
        let fds = uring::soft_limit(libc::RLIMIT_NOFILE).saturating_sub(FDS_RESERVED);
        store_disk.read_through(server.node().applier.store.warmer());
        Rc::new(Core {
            server: RefCell::new(server),
            clock,
            log_disk,
            store_disk: RefCell::new(Rc::new(store_disk)),
            snapshot_disk,
            peers,
            tls,
            wake: Notify::default(),
            connections: RefCell::default(),
            connections_max: usize::try_from(fds).unwrap_or(usize::MAX).clamp(1, CONNECTIONS_MAX),
            input: RefCell::default(),
            dirty: RefCell::default(),
            output: RefCell::default(),
            paused: RefCell::default(),
            half_closed: RefCell::default(),
            stopping: Cell::new(false),
            preparing: Cell::new(false),
        })
    }

    pub fn clock(&self) -> Clock {
        self.clock
    }

    pub fn server(&self) -> &RefCell<Server> {
        &self.server
    }

    pub fn peers(&self) -> &Peers {
        &self.peers
    }

    pub fn tls(&self) -> &Tls {
        &self.tls
    }

    /// Asks for another turn.
    pub fn wake(&self) {
        self.wake.notify();
    }

    pub fn connections_max(&self) -> usize {
        self.connections_max
    }

    /// Whether another connection may be accepted: a descriptor is left for it. Files of the log need theirs.
    pub fn has_room(&self) -> bool {
        Socket::open() < self.connections_max
    }

    pub fn is_ready(&self) -> bool {
        self.server.borrow().is_ready()
    }

    /// Why the member has to end, if it has.
    pub fn stop_reason(&self) -> Option<StopReason> {
        self.server.borrow().stop_reason()
    }

    pub fn is_stopping(&self) -> bool {
        self.stopping.get()
    }

    /// Asks the server to come to an end. `is_drained` tells when it has.
    pub fn stop(&self) {
        if !self.stopping.replace(true) {
            self.server.borrow_mut().stop(self.clock.now_ms());
            self.wake.notify();
        }
    }

    /// Nothing is left that a client or the disk still waits for.
    pub fn is_drained(&self) -> bool {
        self.server.borrow().is_drained()
            && self.server.borrow().is_stopped()
            && !self.log_disk.write_in_flight()
            && !self.connections.borrow().values().any(|connection| connection.is_stalled())
    }

    /// Runs turns until `ended` says so, which is asked after each. A turn comes after every wake and
    /// every deadline; between them the thread sleeps.
    pub async fn run(self: &Rc<Self>, mut ended: impl FnMut(&Rc<Self>) -> Ended) {
        let mut alarm = Alarm::default();
        loop {
            self.turn().await;
            let at = match ended(self) {
                Ended::Yes => return,
                Ended::AskAgainAt(at_ms) => Some(at_ms),
                Ended::No => None,
            };
            let deadline = self.server.borrow().next_deadline(self.clock.now_ms());
            let deadline = deadline.min(self.peers.next_deadline_ms());
            let deadline = at.map_or(deadline, |at_ms| at_ms.min(deadline));
            if deadline <= self.clock.now_ms() {
                // More work at once: sockets and disks get their turn by a pass through the kernel.
                self.log_disk.fence().await;
                continue;
            }
            poll_fn(|context| match self.wake.poll(context.waker()) {
                Poll::Ready(()) => Poll::Ready(()),
                Poll::Pending => alarm.poll(context, &self.clock, deadline),
            })
            .await;
        }
    }

    async fn turn(self: &Rc<Self>) {
        let started = Instant::now();
        let now_ms = self.clock.now_ms();
        self.server.borrow_mut().set_wall_clock(unix_ms(), now_ms);
        let committed = self.server.borrow_mut().begin_turn(now_ms);
        let mut writes_log = false;
        if committed > 0 {
            // The disk and other members work while this one applies.
            writes_log = self.start_log_operations();
            self.peers.send(self);
            if writes_log && committed >= FENCE_ENTRIES_MIN {
                self.log_disk.fence().await;
                writes_log = false;
            }
        }
        let turned = self.server.borrow_mut().turn(self.clock.now_ms());
        if let Err(corruption) = turned {
            fatal::corruption(&corruption);
        }
        writes_log |= self.start_log_operations();
        self.peers.turn(self);
        self.start_store_operations();
        self.prepare_store_memory();
        self.start_snapshot_operations();
        self.start_password_operations();
        let mut dirty = self.dirty.take();
        self.server.borrow_mut().drain_dirty(&mut dirty);
        let mut busy = started.elapsed();
        if writes_log && dirty.len() >= FENCE_CONNECTIONS_MIN {
            self.log_disk.fence().await;
        }
        let started = Instant::now();
        self.flush_all(dirty);
        self.resume_paused();
        self.end_half_closed();
        self.answers_sent();
        busy += started.elapsed();
        self.server.borrow_mut().metrics().turned(busy.as_secs_f64());
    }

    // What the tasks report.

    /// Takes an accepted socket in and starts to read it.
    pub fn connected(self: &Rc<Self>, stream: TcpStream, kind: ListenerKind) {
        let connected = self.server.borrow_mut().connect(kind, self.clock.now_ms());
        // Without a number the socket is closed by being dropped.
        let Some(id) = connected else { return };
        let connection = Rc::new(Connection::new(id, Socket::new(stream), None));
        self.connections.borrow_mut().insert(id, connection.clone());
        self.wake.notify();
        glommio::spawn_local(connection::read_all(self.clone(), connection)).detach();
    }

    /// Takes a socket in with which there is a TLS session. `common_name`: of the client's certificate, where it
    /// stands for a user.
    pub fn secured(
        self: &Rc<Self>,
        socket: Socket,
        session: Session,
        kind: ListenerKind,
        common_name: Option<String>,
    ) {
        let now_ms = self.clock.now_ms();
        let connected = self.server.borrow_mut().connect(kind, now_ms);
        let Some(id) = connected else { return };
        self.server.borrow_mut().secured(id, common_name.as_deref());
        let connection = Rc::new(Connection::new(id, socket, Some(session)));
        self.connections.borrow_mut().insert(id, connection.clone());
        self.wake.notify();
        glommio::spawn_local(connection::read_sealed(self.clone(), connection)).detach();
    }

    pub fn wants_read(&self, connection: &Connection) -> bool {
        self.server.borrow_mut().wants_read(connection.id())
    }

    pub fn received(&self, connection: &Connection, data: Bytes) {
        self.server.borrow_mut().receive(connection.id(), data, self.clock.now_ms());
        self.wake.notify();
    }

    pub fn pause(&self, connection: &Rc<Connection>) {
        self.paused.borrow_mut().push(connection.clone());
    }

    /// The peer has closed its side. What is ready for it is still sent, in the next turn.
    pub fn half_closed(&self, connection: &Rc<Connection>) {
        if connection.is_open() {
            self.half_closed.borrow_mut().push(connection.clone());
            self.wake.notify();
        }
    }

    /// The socket has failed, or was aborted.
    pub fn lost(&self, connection: &Connection) {
        if connection.is_open() {
            self.forget(connection);
            connection.abort();
            self.wake.notify();
        }
    }

    /// The socket has taken what it did not take at first.
    pub fn written(&self, connection: &Connection) {
        if connection.is_open() {
            self.dirty.borrow_mut().push(connection.id());
            self.wake.notify();
        }
    }

    fn forget(&self, connection: &Connection) {
        self.connections.borrow_mut().remove(&connection.id());
        self.server.borrow_mut().disconnect(connection.id());
    }

    // Disks.

    /// Whether a write of the log was among them.
    fn start_log_operations(self: &Rc<Self>) -> bool {
        let mut writes = false;
        loop {
            let next = self.server.borrow_mut().next_log_op(self.clock.now_us());
            let Some((id, op)) = next else { return writes };
            writes |= matches!(op, wal::Op::Write { .. });
            let core = self.clone();
            glommio::spawn_local(async move { core.log_operation(id, op).await }).detach();
        }
    }

    async fn log_operation(&self, id: wal::OpId, op: wal::Op) {
        let disk = &self.log_disk;
        match op {
            wal::Op::Create { segment, bytes } => match disk.create(segment, bytes).await {
                Created::Done => self.log_op_done(id),
                Created::NoSpace => self.server.borrow_mut().log_no_space(id),
            },
            wal::Op::Write { segment, offset, data } => {
                let started = Instant::now();
                disk.write(segment, offset, &data).await;
                let took = started.elapsed();
                {
                    let mut server = self.server.borrow_mut();
                    let metrics = server.metrics();
                    metrics.observe(Timing::WalFsync, took.as_secs_f64());
                    metrics.observe(Timing::WalWrite, took.as_secs_f64());
                    metrics.wal_written(data.len());
                }
                // The log uses the buffer again if nobody else holds it by then.
                drop(data);
                self.log_op_done(id);
            }
            wal::Op::Remove { segment } => {
                disk.remove(segment).await;
                self.log_op_done(id);
            }
        }
        self.wake.notify();
    }

    fn log_op_done(&self, id: wal::OpId) {
        self.server.borrow_mut().log_op_done(id, self.clock.now_us());
    }

    /// The next write of the log may be held back for a while, after which there is another turn.
    fn answers_sent(self: &Rc<Self>) {
        let wait_us = self.server.borrow_mut().answers_sent(self.clock.now_us());
        let Some(wait_us) = wait_us else { return };
        if wait_us == 0 {
            return self.wake.notify();
        }
        let core = self.clone();
        let wait = async move {
            Timer::new(Duration::from_micros(wait_us)).await;
            core.wake.notify();
        };
        glommio::spawn_local(wait).detach();
    }

    fn start_store_operations(self: &Rc<Self>) {
        let mut writes = Vec::new();
        while self.store_disk.borrow().in_flight() < STORE_OPS_IN_FLIGHT_MAX {
            let next = self.server.borrow_mut().next_store_op();
            let Some((id, op)) = next else { break };
            self.store_disk.borrow().started();
            if let store::Op::Write { offset, data } = op {
                writes.push((id, (offset, data)));
                continue;
            }
            let core = self.clone();
            glommio::spawn_local(async move { core.store_operation(id, op).await }).detach();
        }
        if !writes.is_empty() {
            // One pass through the other thread for all of them.
            let core = self.clone();
            glommio::spawn_local(async move { core.write_store(writes).await }).detach();
        }
        let window = self.server.borrow_mut().take_scrub_window();
        if let Some(range) = window {
            let core = self.clone();
            let look = async move {
                let disk = core.store_disk.borrow().clone();
                disk.read_ahead(range).await;
                core.server.borrow_mut().scrub(core.clock.now_ms());
                core.wake.notify();
            };
            glommio::spawn_local(look).detach();
        }
    }

    /// The kernel takes its time to hand out memory in large pieces.
    fn prepare_store_memory(self: &Rc<Self>) {
        let wanted = self.server.borrow().node().applier.store.wants_memory();
        if !wanted || self.preparing.replace(true) {
            return;
        }
        let core = self.clone();
        let prepare = async move {
            // What cannot be made ready is asked of the kernel when it is needed.
            let memory = blocking(|| Ok(FrameMemory::prepare())).await;
            if let Ok(Some(memory)) = memory {
                core.server.borrow_mut().give_store_memory(memory);
            }
            core.preparing.set(false);
        };
        glommio::spawn_local(prepare).detach();
    }

    async fn write_store(&self, writes: Vec<(store::OpId, (u64, Vec<u8>))>) {
        let (ids, pieces): (Vec<_>, Vec<_>) = writes.into_iter().unzip();
        let disk = self.store_disk.borrow().clone();
        let started = Instant::now();
        disk.write(pieces).await;
        let took_s = started.elapsed().as_secs_f64();
        self.server.borrow_mut().metrics().observe(Timing::CommitWrite, took_s);
        let now_ms = self.clock.now_ms();
        for id in ids {
            disk.finished();
            self.server.borrow_mut().store_op_done(id, now_ms);
        }
        self.wake.notify();
    }

    async fn store_operation(&self, id: store::OpId, op: store::Op) {
        let disk = self.store_disk.borrow().clone();
        let len = match op {
            store::Op::Grow { len } => len,
            _ => 0,
        };
        let started = Instant::now();
        let is_sync = matches!(op, store::Op::Sync);
        let mut grown = disk.run(op).await;
        if is_sync {
            let took_s = started.elapsed().as_secs_f64();
            self.server.borrow_mut().metrics().observe(Timing::BackendCommit, took_s);
        }
        // One stays: on a full disk it is the only file that the log can go on in.
        if grown == Grown::NoSpace && self.log_disk.drop_spares(1).await {
            grown = disk.grow(len).await;
        }
        disk.finished();
        let now_ms = self.clock.now_ms();
        match grown {
            Grown::Done => self.server.borrow_mut().store_op_done(id, now_ms),
            Grown::NoSpace => self.server.borrow_mut().store_no_space(id, now_ms),
        }
        self.wake.notify();
    }

    /// One after the other: nobody waits for an arriving state, and members may share their machine.
    fn start_snapshot_operations(self: &Rc<Self>) {
        if self.snapshot_disk.is_busy() {
            return;
        }
        let next = self.server.borrow_mut().next_snapshot_op();
        let Some(op) = next else { return };
        self.snapshot_disk.set_busy(true);
        let core = self.clone();
        glommio::spawn_local(async move { core.snapshot_operation(op).await }).detach();
    }

    async fn snapshot_operation(&self, op: SnapshotOp) {
        let is_sync = matches!(op, SnapshotOp::Store(_, store::Op::Sync));
        let started = Instant::now();
        let done = self.snapshot_disk.run(op).await;
        self.snapshot_disk.set_busy(false);
        let mut server = self.server.borrow_mut();
        if is_sync {
            server.metrics().observe(Timing::StateSync, started.elapsed().as_secs_f64());
        }
        match done {
            Done::Created(store) => server.snapshot_created(*store),
            Done::Store(id) => server.snapshot_store_op_done(id),
            Done::Installed(disk) => {
                server.snapshot_installed(self.clock.now_ms());
                let map = server.node().applier.store.warmer();
                sigbus::install(map);
                disk.read_through(map);
                warm::begin(map, server.node().applier.store.file_len());
                self.store_disk.replace(disk);
                tracing::info!("the state of another member was installed");
            }
            Done::Discarded => server.snapshot_discarded(),
            Done::NoSpace(id) => server.snapshot_no_space(id),
        }
        self.wake.notify();
    }

    // Passwords.

    fn start_password_operations(self: &Rc<Self>) {
        loop {
            let next = self.server.borrow_mut().next_password_op();
            let Some((number, op)) = next else { return };
            let core = self.clone();
            let compute = async move {
                let computed = blocking(move || Ok(op.run(&files::random()?))).await;
                match computed {
                    Ok(done) => core.server.borrow_mut().password_op_done(number, done),
                    Err(error) => {
                        fatal::disk("read random bytes", Path::new("/dev/urandom"), None, &error)
                    }
                }
                core.wake.notify();
            };
            glommio::spawn_local(compute).detach();
        }
    }

    // Sockets.

    fn flush_all(self: &Rc<Self>, mut dirty: Vec<ConnId>) {
        for id in dirty.drain(..) {
            let connection = self.connections.borrow().get(&id).cloned();
            if let Some(connection) = connection {
                self.flush(&connection);
            }
        }
        // What was found too much for this turn has been put into `self.dirty` meanwhile; its
        // memory and this vector's are both kept.
        let mut later = self.dirty.borrow_mut();
        dirty.append(&mut later);
        *later = dirty;
    }

    fn flush(self: &Rc<Self>, connection: &Rc<Connection>) {
        if connection.is_stalled() {
            return;
        }
        let id = connection.id();
        let mut output = self.output.borrow_mut();
        for _ in 0..FLUSH_ROUNDS_MAX {
            output.clear();
            self.server.borrow_mut().take_output(id, FLUSH_BYTES_MAX, &mut *output);
            if output.is_empty() {
                if self.server.borrow_mut().should_close(id) {
                    if self.server.borrow_mut().spoke_tls(id) {
                        self.tls.reject_plain(self, connection.socket());
                    }
                    self.forget(connection);
                    connection.finish();
                }
                return;
            }
            match connection.send(&mut output) {
                Sent::All => {}
                Sent::Part(len) => {
                    return connection.stall(self, output.rest(len));
                }
                Sent::Failed => return self.lost(connection),
            }
        }
        self.written(connection);
    }

    fn resume_paused(&self) {
        let mut server = self.server.borrow_mut();
        self.paused.borrow_mut().retain(|connection| {
            let stays = connection.is_open() && !server.wants_read(connection.id());
            if !stays {
                connection.resume();
            }
            stays
        });
    }

    fn end_half_closed(&self) {
        let waiting = self.half_closed.take();
        for connection in waiting {
            if connection.is_open() && connection.is_stalled() {
                self.half_closed.borrow_mut().push(connection);
            } else {
                self.lost(&connection);
            }
        }
    }
}

/// Whether [`Core::run`] is to return.
pub enum Ended {
    No,
    /// Not yet, and it may become so at this time without anything else happening.
    AskAgainAt(u64),
    Yes,
}

/// One timer for the nearest deadline. It is armed anew only when a deadline comes nearer; one that
/// moved away is noticed when the timer fires, which costs an idle turn and not a timer per turn.
#[derive(Default)]
struct Alarm {
    armed: Option<(u64, Timer)>,
}

impl Alarm {
    fn poll(&mut self, context: &mut Context<'_>, clock: &Clock, deadline: u64) -> Poll<()> {
        if self.armed.as_ref().is_none_or(|(at_ms, _)| deadline < *at_ms) {
            self.armed = Some((deadline, Timer::new(clock.until(deadline))));
        } else if self.armed.as_ref().is_some_and(|(at_ms, _)| clock.now_ms() < *at_ms) {
            return Poll::Pending;
        }
        let Some((_, timer)) = &mut self.armed else { return Poll::Pending };
        if Pin::new(timer).poll(context).is_ready() {
            self.armed = None;
            return Poll::Ready(());
        }
        Poll::Pending
    }
}
