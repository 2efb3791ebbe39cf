//! One connection from a member: greeting, messages, pongs; or from one who asks for the members.

use bytes::Bytes;

use super::frame::{Frame, Frames};
use super::hello::{self, Hello, Listing, Refusal, Roster};
use super::limits::{GREETING_TIMEOUT_MS, INBOUND_TIMEOUT_MS, PONGS_BYTES_MAX};
use super::{PeerError, codec};
use crate::node::PeerMessage;

#[derive(Debug)]
pub struct Inbound {
    frames: Frames,
    stage: Stage,
    output: Vec<u8>,
    heard_us: u64,
}

#[derive(Clone, Copy, Debug)]
enum Stage {
    /// Nothing has been said yet.
    Silent,
    Greeted(Hello),
    /// The last word is in `output`.
    Over,
}

/// What came of some bytes.
#[derive(Debug, PartialEq, Eq)]
pub enum Arrived {
    Greeting(Hello),
    /// A greeting that was answered with a refusal; the connection ends after that.
    Refused(Hello, Refusal),
    Message(PeerMessage),
}

impl Inbound {
    pub fn new(now_us: u64) -> Inbound {
        Inbound {
            frames: Frames::of_dialler(),
            stage: Stage::Silent,
            output: Vec::new(),
            heard_us: now_us,
        }
    }

    /// Who greeted.
    pub fn greeting(&self) -> Option<Hello> {
        match self.stage {
            Stage::Greeted(hello) => Some(hello),
            Stage::Silent | Stage::Over => None,
        }
    }

    /// Takes bytes and appends what came of them to `into`. An error ends the connection.
    pub fn receive(
        &mut self,
        piece: Bytes,
        roster: Roster<'_>,
        now_us: u64,
        into: &mut Vec<Arrived>,
    ) -> Result<(), PeerError> {
        match self.stage {
            Stage::Over => return Ok(()),
            // A greeting has a moment in all, however it comes.
            Stage::Silent => {}
            Stage::Greeted(_) => self.heard_us = now_us,
        }
        self.frames.feed(piece);
        while let Some(frame) = self.frames.next()? {
            match self.stage {
                Stage::Silent => {
                    self.first(frame, roster, into)?;
                    self.heard_us = now_us;
                }
                Stage::Greeted(hello) => match frame.kind {
                    // Who does not read gets no more answers.
                    hello::PING if self.output.len() > PONGS_BYTES_MAX => {}
                    hello::PING => {
                        hello::put_word(hello::PONG, hello::read_word(frame)?, &mut self.output);
                    }
                    _ => {
                        let message = codec::decode(hello.from, hello.to, frame)?;
                        into.push(Arrived::Message(message));
                    }
                },
                Stage::Over => return Err(PeerError::OutOfPlace { kind: frame.kind }),
            }
        }
        Ok(())
    }

    fn first(
        &mut self,
        frame: Frame,
        roster: Roster<'_>,
        into: &mut Vec<Arrived>,
    ) -> Result<(), PeerError> {
        match frame.kind {
            hello::HELLO => match Hello::decode(frame)? {
                Ok(greeting) => match greeting.judge(roster) {
                    Ok(()) => {
                        hello::put_welcome(&mut self.output);
                        self.frames.trust();
                        self.stage = Stage::Greeted(greeting);
                        into.push(Arrived::Greeting(greeting));
                    }
                    Err(refusal) => {
                        self.refuse(refusal);
                        into.push(Arrived::Refused(greeting, refusal));
                    }
                },
                Err(refusal) => self.refuse(refusal),
            },
            hello::QUERY => match hello::read_query(frame) {
                Ok(()) => {
                    Listing::encode(roster, &mut self.output);
                    self.stage = Stage::Over;
                }
                Err(refusal) => self.refuse(refusal),
            },
            kind => return Err(PeerError::OutOfPlace { kind }),
        }
        Ok(())
    }

    fn refuse(&mut self, refusal: Refusal) {
        hello::put_refused(refusal, &mut self.output);
        self.stage = Stage::Over;
    }

    pub fn take_output(&mut self, out: &mut Vec<u8>) {
        out.append(&mut self.output);
    }

    /// Whether the connection is to be closed when its output is sent.
    pub fn is_over(&self) -> bool {
        matches!(self.stage, Stage::Over)
    }

    /// An error ends the connection: who greeted pings.
    pub fn tick(&self, now_us: u64) -> Result<(), PeerError> {
        let max_ms = match self.stage {
            Stage::Silent | Stage::Over => GREETING_TIMEOUT_MS,
            Stage::Greeted(_) => INBOUND_TIMEOUT_MS,
        };
        let silent_ms = now_us.saturating_sub(self.heard_us) / 1000;
        if silent_ms >= max_ms { Err(PeerError::Silent(silent_ms)) } else { Ok(()) }
    }
}
