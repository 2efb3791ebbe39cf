//! The engine against servers of the test's making, in a time of the test's making.

use bytes::Bytes;

use super::*;
use crate::bench::options::{Asked, parse};
use crate::h2::{self, Limits, StreamId};

const MS: u64 = 1_000_000;

/// One connection's end at the server: it holds requests until it is told to answer.
struct Peer {
    connection: h2::Connection,
    held: Vec<StreamId>,
}

impl Peer {
    fn new() -> Peer {
        Peer { connection: h2::Connection::new(Limits::default()), held: Vec::new() }
    }

    fn take(&mut self, input: &[u8]) {
        self.connection.receive(Bytes::copy_from_slice(input), 1).unwrap();
        while let Some(event) = self.connection.poll_event() {
            if let h2::Event::Data { stream, end_stream: true, .. } = event {
                self.held.push(stream);
            }
        }
    }

    fn answer(&mut self, status: &[u8]) {
        for stream in self.held.drain(..) {
            let head = h2::encode_block(&[(b":status", b"200")]);
            let tail = h2::encode_block(&[(b"grpc-status", status), (b"grpc-message", b"why")]);
            self.connection.respond(stream, &head, Bytes::from_static(&[0; 5]), &tail);
        }
    }
}

struct World {
    engine: Engine,
    peers: Vec<Option<Peer>>,
    now_ns: u64,
}

impl World {
    fn new(line: &str) -> World {
        let Ok(Asked::Run(options)) = parse(line.split_whitespace().map(Into::into)) else {
            panic!("{line}")
        };
        let peers = (0..options.connections).map(|_| None).collect();
        World { engine: Engine::new(*options, 0), peers, now_ns: 0 }
    }

    /// Dials, and moves bytes until nobody has any.
    fn turn(&mut self) {
        while let Some(link) = self.engine.wants_connection(self.now_ns) {
            self.peers[link] = Some(Peer::new());
            self.engine.connected(link);
        }
        loop {
            self.engine.turn(self.now_ns);
            let mut moved = false;
            for (link, peer) in self.peers.iter_mut().enumerate() {
                let Some(peer) = peer else { continue };
                let out = self.engine.output(link).to_vec();
                self.engine.sent(link, out.len());
                peer.take(&out);
                let mut back = Vec::new();
                peer.connection.take_output(usize::MAX, &mut back);
                moved |= !out.is_empty() || !back.is_empty();
                if !back.is_empty() {
                    let _ = self.engine.receive(link, &back, self.now_ns);
                }
            }
            if !moved {
                return;
            }
        }
    }

    fn held(&self) -> usize {
        self.peers.iter().flatten().map(|peer| peer.held.len()).sum()
    }

    fn answer(&mut self, status: &[u8]) {
        for peer in self.peers.iter_mut().flatten() {
            peer.answer(status);
        }
    }

    /// Milliseconds in which the server answers each request a millisecond after it came, or not.
    fn run(&mut self, ms: u64, answers: bool) {
        for _ in 0..ms {
            self.turn();
            self.now_ns += MS;
            if answers {
                self.answer(b"0");
            }
        }
        self.turn();
    }

    fn report(&self) -> Report {
        assert_eq!(self.engine.outcome(), Some(Ok(())));
        self.engine.report()
    }
}

#[test]
fn a_stall_of_the_server_is_charged_to_every_request_that_was_due() {
    let mut open = World::new("put -c 2 -s 4 --rate 1000 -d 1s");
    let mut closed = World::new("put -c 2 -s 4 -d 1s");
    for world in [&mut open, &mut closed] {
        world.run(500, true);
        world.run(200, false);
        world.run(800, true);
    }
    let (open, closed) = (open.report(), closed.report());
    assert_eq!((open.requests, open.failed, open.unsent), (1_000, 0, 0));
    // 200 of 1,000 were due in the stall, and about as many more until the backlog was gone.
    let slow = |report: &Report| {
        let points = &report.operations[0].distribution;
        points.iter().find(|point| point.1 > 100_000.0).map_or(1.0, |point| point.0)
    };
    assert!(slow(&open) < 0.95, "{:?}", open.latency);
    assert!((190_000.0..=202_000.0).contains(&open.latency.max), "{:?}", open.latency);
    assert!(open.latency.p99 > 150_000.0, "{:?}", open.latency);
    // The closed loop hides it: only what was in flight saw the stall.
    assert!(closed.latency.p99 < 2_000.0, "{:?}", closed.latency);
    assert!(closed.latency.max >= 200_000.0, "{:?}", closed.latency);
}

#[test]
fn a_closed_loop_keeps_every_slot_busy_and_counts_after_the_warm_up() {
    let mut world = World::new("range -c 3 -s 5 -d 100ms -w 50ms");
    world.turn();
    assert_eq!(world.held(), 15);
    world.run(60, true);
    assert_eq!(world.held(), 15);
    world.run(100, true);
    let report = world.report();
    assert_eq!(report.requests, 15 * 100);
    assert!((report.elapsed_seconds - 0.1).abs() < 0.002, "{}", report.elapsed_seconds);
    let is_1_ms = |us: f64| (us - 1_000.0).abs() < 1.0;
    assert!(is_1_ms(report.latency.min) && is_1_ms(report.latency.max), "{:?}", report.latency);
}

#[test]
fn a_total_is_neither_more_nor_less() {
    for line in ["put -n 37 -c 2 -s 5", "put -n 37 -c 2 -s 5 --rate 2000 -w 3ms"] {
        let mut world = World::new(line);
        world.run(60, true);
        assert_eq!(world.report().requests, 37, "{line}");
    }
}

#[test]
fn the_key_space_is_filled_before_anything_is_measured() {
    let mut world = World::new("range -n 10 -c 1 -s 2 --prefill 350");
    world.turn();
    // Two of the four transactions of up to 100 keys.
    assert_eq!(world.held(), 2);
    world.run(30, true);
    let report = world.report();
    assert_eq!((report.requests, report.operations.len()), (10, 1));
}

#[test]
fn a_prefill_that_fails_ends_the_run_and_says_why() {
    let mut world = World::new("range --prefill 10");
    world.turn();
    world.answer(b"8");
    world.turn();
    let outcome = world.engine.outcome();
    let expected = "the key space cannot be filled: ResourceExhausted: why";
    assert_eq!(outcome, Some(Err(expected)));
}

#[test]
fn errors_are_counted_and_do_not_enter_the_latencies() {
    let mut world = World::new("put -n 6 -c 1 -s 2");
    world.turn();
    world.answer(b"14");
    world.run(5, true);
    let report = world.report();
    assert_eq!((report.requests, report.failed), (4, 2));
    assert_eq!(report.errors[0].code, "Unavailable");
    assert_eq!(report.errors[0].example, "why");
}

#[test]
fn a_lost_connection_fails_what_it_held_and_is_made_again() {
    let mut world = World::new("put -d 400ms -c 2 -s 3");
    world.turn();
    world.engine.lost(1, "reset by peer", world.now_ns);
    world.peers[1] = None;
    world.run(50, true);
    assert_eq!(world.held(), 3);
    world.run(60, true);
    assert_eq!(world.held(), 6, "the second connection is back after its pause");
    world.run(400, true);
    let report = world.report();
    assert_eq!((report.failed, report.connections_lost), (3, 1));
    assert_eq!((&report.errors[0].code[..], report.errors[0].count), ("connection lost", 3));
}

#[test]
fn a_server_that_goes_away_is_left_when_it_has_answered() {
    let mut world = World::new("put -d 400ms -c 1 -s 3");
    world.turn();
    let peer = world.peers[0].as_mut().unwrap();
    peer.connection.go_away(h2::ErrorCode::NO_ERROR, b"");
    world.turn();
    world.answer(b"0");
    world.turn();
    assert!(world.engine.output(0).is_empty());
    world.peers[0] = None;
    world.run(600, true);
    let report = world.report();
    assert_eq!((report.failed, report.connections_lost), (0, 1));
    assert!(report.requests > 700, "{}", report.requests);
}

#[test]
fn what_is_never_answered_is_an_error_when_patience_ends() {
    let mut world = World::new("put -d 10ms -c 1 -s 2");
    world.run(20, false);
    assert_eq!(world.engine.outcome(), None);
    world.now_ns += DRAIN_PATIENCE_NS;
    world.turn();
    let report = world.report();
    assert_eq!((report.requests, report.failed), (0, 2));
    assert_eq!(report.errors[0].code, "no answer");
}

#[test]
fn an_open_loop_that_cannot_keep_up_says_how_much_it_did_not_send() {
    let mut world = World::new("put --rate 1000 -d 100ms -c 1 -s 2");
    world.run(150, false);
    world.now_ns += 2 * DRAIN_PATIENCE_NS;
    world.turn();
    world.now_ns += 2 * DRAIN_PATIENCE_NS;
    world.turn();
    let report = world.report();
    assert_eq!((report.requests, report.failed, report.unsent), (0, 2, 98));
}

#[test]
fn a_run_that_is_stopped_shows_what_it_has() {
    let mut world = World::new("put -c 1 -s 2");
    world.run(10, true);
    world.engine.stop();
    world.run(2, true);
    let report = world.report();
    assert!((18..=22).contains(&report.requests), "{}", report.requests);
    let mut world = World::new("put -c 1 -s 2");
    world.engine.stop();
    assert!(matches!(world.engine.outcome(), Some(Err(_))));
}

#[test]
fn with_reconnect_each_request_has_a_connection_of_its_own_which_counts() {
    let mut world = World::new("put -c 3 -s 1 -n 30 --reconnect");
    let mut dialled = 0;
    for _ in 0..200 {
        while let Some(link) = world.engine.wants_connection(world.now_ns) {
            dialled += 1;
            // To make it takes a while.
            world.now_ns += 5 * MS;
            world.peers[link] = Some(Peer::new());
            world.engine.connected(link);
        }
        world.turn();
        world.now_ns += MS;
        world.answer(b"0");
    }
    let report = world.report();
    assert_eq!((report.requests, report.failed, report.connections_lost), (30, 0, 0));
    assert!(dialled >= 30, "{dialled} connections");
    // But for the first of each, which were made before the load.
    assert!(report.latency.p50 >= 5_000.0, "{:?}", report.latency);
}
