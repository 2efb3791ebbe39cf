//! The life of leases: granted, kept alive a number of times, revoked; a lease for each slot.
//!
//! Keep-alives go over a stream of the slot's own, as messages of it; the other two are calls.

use super::super::client::{Method, Want};
use super::super::options::Options;
use super::super::stats::Stats;
use super::super::wire::{self, Fields, Malformed};
use super::{Draw, LongStream, Reaction, Request, SlotId, Via, Work};

/// Long enough never to end within a run, short enough for what an interrupted run leaves behind.
const TTL_SECONDS: i64 = 300;

const GRANT: usize = 0;
const KEEP_ALIVE: usize = 1;
const REVOKE: usize = 2;

#[derive(Clone, Copy, Debug, Default)]
struct Lease {
    /// 0 without one.
    id: i64,
    kept_alive: u64,
}

pub struct Leases {
    leases: Vec<Lease>,
    streams: Vec<LongStream>,
    keep_alives: u64,
}

impl Leases {
    pub fn new(options: &Options) -> Leases {
        let stream = |slot: usize| LongStream {
            method: Method::LeaseKeepAlive,
            connection: slot / options.streams,
        };
        Leases {
            leases: vec![Lease::default(); options.slots()],
            streams: (0..options.slots()).map(stream).collect(),
            keep_alives: options.keep_alives,
        }
    }
}

impl Work for Leases {
    fn operations(&self) -> &'static [&'static str] {
        &["grant", "keepalive", "revoke"]
    }

    fn prepare(&mut self, _: Draw<'_>) -> Option<Request> {
        None
    }

    /// `LeaseGrantRequest`: TTL 1; `LeaseKeepAliveRequest` and `LeaseRevokeRequest`: ID 1.
    fn next(&mut self, slot: SlotId, draw: Draw<'_>) -> Request {
        let lease = &mut self.leases[slot];
        let (via, operation, number) = match lease.id {
            0 => (Via::Unary(Method::LeaseGrant), GRANT, TTL_SECONDS),
            id if lease.kept_alive < self.keep_alives => (Via::Stream(slot), KEEP_ALIVE, id),
            id => (Via::Unary(Method::LeaseRevoke), REVOKE, id),
        };
        wire::number(1, number, draw.message);
        let want = if operation == REVOKE { Want::Nothing } else { Want::Message };
        Request { via, operation, want, tag: operation as u64 }
    }

    /// `LeaseGrantResponse`: ID 2.
    fn answer(&mut self, slot: SlotId, tag: u64, message: &[u8]) -> Result<(), Malformed> {
        if tag == GRANT as u64 {
            let id = Fields(message).number(2)?;
            self.leases[slot] = Lease { id, kept_alive: 0 };
            if id == 0 {
                return Err(Malformed);
            }
        }
        Ok(())
    }

    fn finished(&mut self, slot: SlotId, tag: u64, is_ok: bool) {
        if !is_ok || tag == REVOKE as u64 {
            self.leases[slot] = Lease::default();
        } else if tag == KEEP_ALIVE as u64 {
            self.leases[slot].kept_alive += 1;
        }
    }

    fn streams(&self) -> &[LongStream] {
        &self.streams
    }

    /// `LeaseKeepAliveResponse`: ID 2, TTL 3, which is 0 for a lease that is no more.
    fn stream_message(
        &mut self,
        stream: usize,
        message: &[u8],
        _: u64,
        _: &mut Stats,
    ) -> Result<Reaction, Malformed> {
        let is_alive =
            Fields(message).number(2)? == self.leases[stream].id && Fields(message).number(3)? > 0;
        if is_alive { Ok(Reaction::Answers(stream)) } else { Ok(Reaction::Fails(stream)) }
    }
}
