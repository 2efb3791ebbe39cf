//! One stream: the state machine of RFC 9113, 5.1, and what hangs on a stream.
//!
//! ```text
//!                              +--------+
//!                      send PP |        | recv PP
//!                     ,--------+  idle  +--------.
//!                    /         |        |         \
//!                   v          +--------+          v
//!            +----------+          |           +----------+
//!            |          |          | send H /  |          |
//!     ,------+ reserved |          | recv H    | reserved +------.
//!     |      | (local)  |          |           | (remote) |      |
//!     |      +---+------+          v           +------+---+      |
//!     |          |             +--------+             |          |
//!     |          |     recv ES |        | send ES     |          |
//!     |   send H |     ,-------+  open  +-------.     | recv H   |
//!     |          |    /        |        |        \    |          |
//!     |          v   v         +---+----+         v   v          |
//!     |      +----------+          |           +----------+      |
//!     |      |   half-  |          |           |   half-  |      |
//!     |      |  closed  |          | send R /  |  closed  |      |
//!     |      | (remote) |          | recv R    | (local)  |      |
//!     |      +----+-----+          |           +-----+----+      |
//!     |           |                |                 |           |
//!     |           | send ES /      |       recv ES / |           |
//!     |           |  send R /      v        send R / |           |
//!     |           |  recv R    +--------+   recv R   |           |
//!     | send R /  `----------->|        |<-----------'  send R / |
//!     | recv R                 | closed |               recv R   |
//!     `----------------------->|        |<-----------------------'
//!                              +--------+
//! ```
//!
//! A server that does not push never sees the reserved states; they are here so that the drawing
//! and the enum agree.

use std::collections::VecDeque;

use bytes::Bytes;

use super::StreamId;
use super::flow::{ReceiveWindow, SendWindow};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    Idle,
    ReservedLocal,
    ReservedRemote,
    Open,
    HalfClosedLocal,
    HalfClosedRemote,
    Closed,
}

/// The edge labels of the drawing. `Headers` and `Data` become ES when they carry END_STREAM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    Headers,
    Data,
    PushPromise,
    Reset,
}

/// The drawing has no such edge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NoEdge;

impl State {
    #[inline]
    pub fn receive(self, signal: Signal, end_stream: bool) -> Result<State, NoEdge> {
        use State::*;
        match (self, signal) {
            (Idle, Signal::Headers) if end_stream => Ok(HalfClosedRemote),
            (Idle, Signal::Headers) => Ok(Open),
            (Idle, Signal::PushPromise) => Ok(ReservedRemote),
            (ReservedRemote, Signal::Headers) if end_stream => Ok(Closed),
            (ReservedRemote, Signal::Headers) => Ok(HalfClosedLocal),
            (Open, Signal::Headers | Signal::Data) if end_stream => Ok(HalfClosedRemote),
            (HalfClosedLocal, Signal::Headers | Signal::Data) if end_stream => Ok(Closed),
            (Open | HalfClosedLocal, Signal::Headers | Signal::Data) => Ok(self),
            (Idle, Signal::Reset) => Err(NoEdge),
            (_, Signal::Reset) => Ok(Closed),
            _ => Err(NoEdge),
        }
    }

    #[inline]
    pub fn send(self, signal: Signal, end_stream: bool) -> Result<State, NoEdge> {
        self.mirrored().receive(signal, end_stream).map(State::mirrored)
    }

    /// The state as the other end sees it.
    #[inline]
    fn mirrored(self) -> State {
        match self {
            State::ReservedLocal => State::ReservedRemote,
            State::ReservedRemote => State::ReservedLocal,
            State::HalfClosedLocal => State::HalfClosedRemote,
            State::HalfClosedRemote => State::HalfClosedLocal,
            same => same,
        }
    }
}

/// How a stream will end once its queue is empty.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Ending {
    /// More will be sent.
    Open,
    /// The last DATA frame carries END_STREAM.
    WithData,
    /// This encoded block follows the data.
    WithTrailers(Box<[u8]>),
}

#[derive(Debug)]
pub(super) struct Stream {
    pub id: StreamId,
    pub state: State,
    /// HEADERS have been sent.
    pub has_replied: bool,
    /// The application does not want more at the moment.
    pub is_held: bool,
    pub ending: Ending,
    /// What content-length still promises.
    pub content_left: Option<u64>,
    pub send_window: SendWindow,
    pub receive_window: ReceiveWindow,
    /// Received while held, not yet given back to either window.
    pub held_bytes: u32,
    /// DATA not yet sent; `queued_bytes` is the sum.
    pub queue: VecDeque<Bytes>,
    pub queued_bytes: usize,
    /// Links of the list of streams with something to send, see `streams`.
    pub links: Option<Links>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Links {
    pub previous: u32,
    pub next: u32,
}

impl Stream {
    pub fn new(id: StreamId, state: State, send_window: u32, receive_window: u32) -> Stream {
        Stream {
            id,
            state,
            has_replied: false,
            is_held: false,
            ending: Ending::Open,
            content_left: None,
            send_window: SendWindow::new(send_window),
            receive_window: ReceiveWindow::new(receive_window),
            held_bytes: 0,
            queue: VecDeque::new(),
            queued_bytes: 0,
            links: None,
        }
    }

    /// Nothing more may be given to it for sending.
    pub fn has_ended(&self) -> bool {
        self.ending != Ending::Open
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATES: [State; 7] = [
        State::Idle,
        State::ReservedLocal,
        State::ReservedRemote,
        State::Open,
        State::HalfClosedLocal,
        State::HalfClosedRemote,
        State::Closed,
    ];

    /// The edges of the drawing, one letter for each state: i, l, r, o, L, R, c; `-` is no edge.
    const EDGES: &str = "
        signal        i l r o L R c
        recv-headers  o - L o L - -
        recv-headers! R - c R c - -
        recv-data     - - - o L - -
        recv-data!    - - - R c - -
        recv-pp       r - - - - - -
        recv-reset    - c c c c c c
        send-headers  o R - o - R -
        send-headers! L c - L - c -
        send-data     - - - o - R -
        send-data!    - - - L - c -
        send-pp       l - - - - - -
        send-reset    - c c c c c c
    ";

    #[test]
    fn the_state_machine_has_exactly_the_edges_of_the_drawing() {
        for line in EDGES.trim().lines().skip(1) {
            let mut words = line.split_whitespace();
            let label = words.next().unwrap();
            let (direction, rest) = label.split_once('-').unwrap();
            let end_stream = rest.ends_with('!');
            let signal = match rest.trim_end_matches('!') {
                "headers" => Signal::Headers,
                "data" => Signal::Data,
                "pp" => Signal::PushPromise,
                _ => Signal::Reset,
            };
            for (from, expected) in STATES.into_iter().zip(words) {
                let to = match direction {
                    "recv" => from.receive(signal, end_stream),
                    _ => from.send(signal, end_stream),
                };
                let letter = match to {
                    Err(NoEdge) => "-",
                    Ok(State::Idle) => "i",
                    Ok(State::ReservedLocal) => "l",
                    Ok(State::ReservedRemote) => "r",
                    Ok(State::Open) => "o",
                    Ok(State::HalfClosedLocal) => "L",
                    Ok(State::HalfClosedRemote) => "R",
                    Ok(State::Closed) => "c",
                };
                assert_eq!(letter, expected, "{label} from {from:?}");
            }
        }
    }
}
