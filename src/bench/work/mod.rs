//! What is asked of the server: one file for each family of shapes.
//!
//! A work writes requests and learns from answers; it knows neither connections nor when its requests
//! are sent.

mod keys;
mod kubernetes;
mod lease;
mod simple;
mod watch;

use super::client::{Method, Want};
use super::options::{Options, Shape};
use super::random::Random;
use super::stats::Stats;
use super::wire::Malformed;
pub use watch::STAMP_BYTES;

/// The operation that is no request: an event on its way from a put to a watcher.
pub const DELIVERY: &str = "delivery";

/// A slot asks, and then waits for the answer. Its number also says on which connection it is.
pub type SlotId = usize;

/// What a work has to write a request.
pub struct Draw<'a> {
    pub random: &'a mut Random,
    /// From when the latency of the request counts.
    pub start_ns: u64,
    /// Empty; becomes the message.
    pub message: &'a mut Vec<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    pub via: Via,
    /// Place in [`Work::operations`].
    pub operation: usize,
    pub want: Want,
    /// Comes back with the answer.
    pub tag: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Via {
    /// A call of its own.
    Unary(Method),
    /// The next message of a stream that is open: its place in [`Work::streams`].
    Stream(usize),
}

/// A call that stays open for the whole run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LongStream {
    pub method: Method,
    pub connection: usize,
}

/// What a message on a long stream leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reaction {
    Nothing,
    /// It is the answer that this slot waits for.
    Answers(SlotId),
    /// It is, and says that what was asked could not be done.
    Fails(SlotId),
    /// This is sent on the same stream.
    Send(Vec<u8>),
}

pub trait Work {
    /// Names of what is measured.
    fn operations(&self) -> &'static [&'static str];

    /// The next request before the load, none when there is no more to prepare. All of them must
    /// succeed.
    fn prepare(&mut self, draw: Draw<'_>) -> Option<Request>;

    /// The next request of this slot.
    fn next(&mut self, slot: SlotId, draw: Draw<'_>) -> Request;

    /// A message of the answer, if the request wanted it.
    fn answer(&mut self, _slot: SlotId, _tag: u64, _message: &[u8]) -> Result<(), Malformed> {
        Ok(())
    }

    /// The request has ended; nothing is in flight for it any more.
    fn finished(&mut self, _slot: SlotId, _tag: u64, _is_ok: bool) {}

    /// To be opened when everything is prepared, and again when they were lost.
    fn streams(&self) -> &[LongStream] {
        &[]
    }

    /// The first message of such a stream, if it has one to begin with.
    fn open_stream(&mut self, _stream: usize, _message: &mut Vec<u8>) -> bool {
        false
    }

    fn stream_message(
        &mut self,
        _stream: usize,
        _message: &[u8],
        _now_ns: u64,
        _stats: &mut Stats,
    ) -> Result<Reaction, Malformed> {
        Ok(Reaction::Nothing)
    }

    /// All streams stand, and the load can begin.
    fn is_set_up(&self) -> bool {
        true
    }

    /// A message for a stream that is due by the clock, and the stream's place.
    fn timer(&mut self, _now_ns: u64, _message: &mut Vec<u8>) -> Option<usize> {
        None
    }

    fn next_timer_ns(&self) -> Option<u64> {
        None
    }

    /// Nothing is requested: what was set up is only held.
    fn is_passive(&self) -> bool {
        false
    }

    /// Events that are still to arrive.
    fn missing(&self) -> u64 {
        0
    }
}

pub fn of(options: &Options) -> Box<dyn Work> {
    match options.shape {
        Shape::Put => Box::new(simple::Put::new(options)),
        Shape::Range => Box::new(simple::Range::new(options)),
        Shape::Txn => Box::new(simple::Txn::new(options)),
        Shape::Mixed => Box::new(simple::Mixed::new(options)),
        Shape::Watch => Box::new(watch::Watch::new(options)),
        Shape::Lease => Box::new(lease::Leases::new(options)),
        Shape::Kubernetes => Box::new(kubernetes::Kubernetes::new(options)),
    }
}
