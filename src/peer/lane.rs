//! One connection to a member, again and again: back-off, greeting, pings, and what waits for it.
//!
//! ```text
//! Idle --retry--> Connecting --connected--> Greeting --welcome--> Up
//!   ^                 |                        |                   |
//!   +---- failed -----+------------------------+-------------------+
//! ```

use bytes::Bytes;

use super::frame::Frames;
use super::hello::{self, Hello};
use super::limits::{
    GREETING_TIMEOUT_MS, PING_INTERVAL_MS, PING_TIMEOUT_MS, RETRY_MAX_MS, RETRY_MIN_MS,
};
use super::queue::Queue;
use super::{PeerError, codec};
use crate::node::PeerMessage;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// To be dialled at this time.
    Idle {
        retry_us: u64,
    },
    Connecting {
        since_us: u64,
    },
    Greeting {
        since_us: u64,
    },
    Up {
        since_us: u64,
    },
}

/// What a lane has done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    pub sent_bytes: u64,
    /// Messages that were dropped: the queue was full, or there was no connection.
    pub dropped: u64,
}

#[derive(Debug)]
pub struct Lane {
    hello: Hello,
    state: State,
    /// Pause before the next attempt.
    retry_ms: u64,
    frames: Frames,
    queue: Queue,
    /// Greeting and pings, which come before what is in the queue.
    control: Vec<u8>,
    heard_us: u64,
    ping_due_us: u64,
    pub counters: Counters,
}

impl Lane {
    pub fn new(hello: Hello, now_us: u64) -> Lane {
        Lane {
            hello,
            state: State::Idle { retry_us: now_us },
            retry_ms: RETRY_MIN_MS,
            frames: Frames::of_dialled(),
            queue: Queue::new(hello.lane),
            control: Vec::new(),
            heard_us: now_us,
            ping_due_us: now_us,
            counters: Counters::default(),
        }
    }

    pub fn state(&self) -> State {
        self.state
    }

    /// Whether the other end may be dialled now; the lane then waits for `connected` or `failed`.
    pub fn dial(&mut self, now_us: u64) -> bool {
        let due = matches!(self.state, State::Idle { retry_us } if retry_us <= now_us);
        if due {
            self.state = State::Connecting { since_us: now_us };
        }
        due
    }

    /// Tries at once what would be tried later.
    pub fn hasten(&mut self, now_us: u64) {
        self.retry_ms = RETRY_MIN_MS;
        if let State::Idle { retry_us } = &mut self.state {
            *retry_us = now_us;
        }
    }

    pub fn connected(&mut self, now_us: u64) {
        self.state = State::Greeting { since_us: now_us };
        self.frames = Frames::of_dialled();
        self.control.clear();
        self.hello.encode(&mut self.control);
    }

    /// The connection could not be made, or is over. What waited is lost, and whoever needs it says
    /// it again.
    pub fn failed(&mut self, now_us: u64) {
        if matches!(self.state, State::Up { .. }) {
            self.retry_ms = RETRY_MIN_MS;
        }
        self.state = State::Idle { retry_us: now_us + self.retry_ms * 1000 };
        self.retry_ms = (self.retry_ms * 2).min(RETRY_MAX_MS);
        self.counters.dropped += self.queue.clear();
        self.control.clear();
    }

    /// Bytes of the other end. Gives the time that a ping took, in microseconds.
    pub fn receive(&mut self, piece: Bytes, now_us: u64) -> Result<Option<u64>, PeerError> {
        self.heard_us = now_us;
        self.frames.feed(piece);
        let mut round_trip_us = None;
        loop {
            let greeting = matches!(self.state, State::Greeting { .. });
            // Whoever cannot answer a greeting is something else.
            let next = self.frames.next();
            let next = if greeting { next.map_err(|_| PeerError::NotRingd)? } else { next? };
            let Some(frame) = next else { return Ok(round_trip_us) };
            if greeting {
                hello::read_answer(frame)?;
                self.state = State::Up { since_us: now_us };
                self.ping_due_us = now_us;
            } else if frame.kind == hello::PONG {
                round_trip_us = Some(now_us.saturating_sub(hello::read_word(frame)?));
            } else {
                return Err(PeerError::OutOfPlace { kind: frame.kind });
            }
        }
    }

    /// The other end takes what the socket did not take at first. That is a sign of life: a ping waits behind a long
    /// frame, and so does the answer to it.
    pub fn progressed(&mut self, now_us: u64) {
        self.heard_us = now_us;
    }

    pub fn send(&mut self, message: PeerMessage) {
        if matches!(self.state, State::Idle { .. }) {
            self.counters.dropped += 1;
        } else {
            self.counters.dropped += self.queue.push(message);
        }
    }

    pub fn has_output(&self) -> bool {
        let is_up = matches!(self.state, State::Up { .. });
        !self.control.is_empty() || (is_up && !self.queue.is_empty())
    }

    /// Appends frames, until they are more than `max` bytes. A frame is never cut.
    pub fn take_output(&mut self, max: usize, out: &mut Vec<u8>) {
        let before = out.len();
        out.append(&mut self.control);
        if matches!(self.state, State::Up { .. }) {
            while out.len() - before < max
                && let Some(message) = self.queue.pop()
            {
                codec::encode(&message, out);
            }
        }
        self.counters.sent_bytes += (out.len() - before) as u64;
    }

    /// Pings when it is time. An error ends the connection.
    pub fn tick(&mut self, now_us: u64) -> Result<(), PeerError> {
        let silent = |since_us: u64, max_ms: u64| {
            let silent_ms = now_us.saturating_sub(since_us) / 1000;
            if silent_ms >= max_ms { Err(PeerError::Silent(silent_ms)) } else { Ok(()) }
        };
        match self.state {
            State::Idle { .. } => {}
            State::Connecting { since_us } | State::Greeting { since_us } => {
                silent(since_us, GREETING_TIMEOUT_MS)?;
            }
            State::Up { .. } => {
                silent(self.heard_us, PING_TIMEOUT_MS)?;
                if self.ping_due_us <= now_us {
                    self.ping_due_us = now_us + PING_INTERVAL_MS * 1000;
                    hello::put_word(hello::PING, now_us, &mut self.control);
                }
            }
        }
        Ok(())
    }

    /// When `dial` or `tick` has something to do.
    pub fn next_deadline_us(&self) -> u64 {
        match self.state {
            State::Idle { retry_us } => retry_us,
            State::Connecting { since_us } | State::Greeting { since_us } => {
                since_us + GREETING_TIMEOUT_MS * 1000
            }
            State::Up { .. } => self.ping_due_us.min(self.heard_us + PING_TIMEOUT_MS * 1000),
        }
    }
}
