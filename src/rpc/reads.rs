//! Reads that wait for their linearization point: one for all that have come since the last turn.

use std::collections::VecDeque;

use super::auth::Login;
use super::connection::{Caller, ConnId};
use super::error::{self, RpcError};
use super::maintenance::Downgrade;
use super::{http, limits};
use crate::h2::StreamId;
use crate::proto::etcdserverpb::{LeaseTimeToLiveRequest, RangeRequest, TxnRequest};

/// A read that waits for its linearization point.
pub enum Read {
    Range(Caller, RangeRequest),
    Txn(Caller, TxnRequest),
    RangeStream(Caller),
    MemberList(Caller),
    LeaseTimeToLive(Caller, LeaseTimeToLiveRequest),
    Alarms(Caller, i32),
    Login(Caller, Box<Login>),
    Recipe(Caller),
    Downgrade(Caller, Downgrade),
    Http(ConnId, StreamId, http::Request),
}

impl Read {
    pub fn caller(&self) -> Option<Caller> {
        match self {
            Read::Range(caller, _)
            | Read::Txn(caller, _)
            | Read::MemberList(caller)
            | Read::LeaseTimeToLive(caller, _)
            | Read::Alarms(caller, _)
            | Read::Downgrade(caller, _)
            | Read::Recipe(caller)
            | Read::RangeStream(caller)
            | Read::Login(caller, _) => Some(*caller),
            Read::Http(..) => None,
        }
    }
}

/// The one queue of them, so that none gets past its bound.
#[derive(Default)]
pub struct Reads {
    /// Since the last turn.
    new: Vec<Read>,
    /// Those whose point has been asked for, by context.
    asked: VecDeque<(u64, Vec<Read>)>,
    /// Those that are asked for again in the next turn, which nothing hastens.
    lost: Vec<Read>,
}

impl Reads {
    pub fn push(&mut self, read: Read) -> Result<(), RpcError> {
        if self.len() >= limits::PENDING_READS_MAX {
            return Err(error::TOO_MANY_REQUESTS);
        }
        self.new.push(read);
        Ok(())
    }

    fn len(&self) -> usize {
        let asked: usize = self.asked.iter().map(|(_, reads)| reads.len()).sum();
        self.new.len() + asked + self.lost.len()
    }

    pub fn is_empty(&self) -> bool {
        self.new.is_empty() && self.waits_for_nothing()
    }

    /// The next turn has something to ask for.
    pub fn has_new(&self) -> bool {
        !self.new.is_empty()
    }

    /// What is there is new.
    pub fn waits_for_nothing(&self) -> bool {
        self.asked.is_empty() && self.lost.is_empty()
    }

    /// Asks for one point for all that have none, if there are any; `ask` answers with its context.
    pub fn ask(&mut self, ask: impl FnOnce() -> u64) {
        self.new.append(&mut self.lost);
        if !self.new.is_empty() {
            self.asked.push_back((ask(), std::mem::take(&mut self.new)));
        }
    }

    /// The question was lost: it is asked again with the next turn's.
    pub fn ask_again(&mut self, context: u64) {
        let reads = self.reached(context);
        self.lost.extend(reads);
    }

    /// The reads whose point has been reached.
    pub fn reached(&mut self, context: u64) -> Vec<Read> {
        let at = self.asked.iter().position(|(asked, _)| *asked == context);
        at.and_then(|at| self.asked.remove(at)).map_or_else(Vec::new, |(_, reads)| reads)
    }

    /// Forgets those that have waited too long, and says whose they were.
    pub fn give_up(&mut self, now_ms: u64) -> Vec<Caller> {
        let mut late = Vec::new();
        for reads in self.asked.iter_mut().map(|(_, reads)| reads).chain([&mut self.lost]) {
            reads.retain(|read| {
                let caller = read.caller().filter(|caller| caller.deadline_ms <= now_ms);
                late.extend(caller);
                caller.is_none()
            });
        }
        late
    }
}
