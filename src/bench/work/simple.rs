//! Requests of one kind over a key space: puts, reads, transactions, and reads mixed with puts.

use super::super::client::{Method, Want};
use super::super::options::Options;
use super::super::wire;
use super::keys::{self, KeySpace, Prefill, Values};
use super::{Draw, Request, SlotId, Via, Work};

/// What all of them have.
pub struct Space {
    pub keys: KeySpace,
    pub values: Values,
    prefill: Prefill,
    /// The key that was drawn last.
    pub key: Vec<u8>,
}

impl Space {
    pub fn new(options: &Options) -> Space {
        Space {
            keys: KeySpace::new(options),
            values: Values::new(options.value_size, options.seed),
            prefill: Prefill::new(options.prefill, options.key_size, options.value_size),
            key: Vec::new(),
        }
    }

    pub fn prepare(&mut self, draw: Draw<'_>) -> Option<Request> {
        let keys = &self.keys;
        self.prefill.next(draw, &self.values, |number, out| keys.write(number, out))
    }

    #[inline]
    pub fn draw_key(&mut self, draw: &mut Draw<'_>) -> u64 {
        let number = self.keys.draw(draw.random);
        self.set_key(number);
        number
    }

    fn set_key(&mut self, number: u64) {
        self.key.clear();
        self.keys.write(number, &mut self.key);
    }
}

fn unary(method: Method, operation: usize) -> Request {
    Request { via: Via::Unary(method), operation, want: Want::Nothing, tag: 0 }
}

pub struct Put(Space);

impl Put {
    pub fn new(options: &Options) -> Put {
        Put(Space::new(options))
    }
}

impl Work for Put {
    fn operations(&self) -> &'static [&'static str] {
        &["put"]
    }

    fn prepare(&mut self, draw: Draw<'_>) -> Option<Request> {
        self.0.prepare(draw)
    }

    fn next(&mut self, _: SlotId, mut draw: Draw<'_>) -> Request {
        let Put(space) = self;
        space.draw_key(&mut draw);
        keys::put(&space.key, space.values.draw(draw.random), draw.message);
        unary(Method::Put, 0)
    }
}

/// What a read reads.
#[derive(Clone, Copy)]
enum Extent {
    Key,
    /// From a key on; 0 for all keys.
    List(u64),
    Count,
}

pub struct Range {
    space: Space,
    extent: Extent,
    is_serializable: bool,
    is_keys_only: bool,
    is_stream: bool,
}

impl Range {
    pub fn new(options: &Options) -> Range {
        let extent = match options.limit {
            _ if options.count_only => Extent::Count,
            Some(limit) => Extent::List(limit),
            None => Extent::Key,
        };
        Range {
            space: Space::new(options),
            extent,
            is_serializable: options.serializable,
            is_keys_only: options.keys_only,
            is_stream: options.range_stream,
        }
    }
}

impl Work for Range {
    fn operations(&self) -> &'static [&'static str] {
        match self.extent {
            Extent::Key => &["get"],
            Extent::List(_) => &["list"],
            Extent::Count => &["count"],
        }
    }

    fn prepare(&mut self, draw: Draw<'_>) -> Option<Request> {
        self.space.prepare(draw)
    }

    /// `RangeRequest`: key 1, range_end 2, limit 3, serializable 7, keys_only 8, count_only 9.
    fn next(&mut self, _: SlotId, mut draw: Draw<'_>) -> Request {
        match self.extent {
            Extent::List(0) | Extent::Count => self.space.set_key(0),
            Extent::Key | Extent::List(_) => {
                self.space.draw_key(&mut draw);
            }
        }
        let out = draw.message;
        wire::bytes(1, &self.space.key, out);
        if !matches!(self.extent, Extent::Key) {
            wire::bytes(2, &self.space.keys.end(), out);
        }
        if let Extent::List(limit) = self.extent {
            wire::number(3, limit as i64, out);
        }
        wire::flag(7, self.is_serializable, out);
        wire::flag(8, self.is_keys_only, out);
        wire::flag(9, matches!(self.extent, Extent::Count), out);
        unary(if self.is_stream { Method::RangeStream } else { Method::Range }, 0)
    }
}

pub struct Txn {
    space: Space,
    ops: u64,
}

impl Txn {
    pub fn new(options: &Options) -> Txn {
        Txn { space: Space::new(options), ops: options.ops }
    }
}

impl Work for Txn {
    fn operations(&self) -> &'static [&'static str] {
        &["txn"]
    }

    fn prepare(&mut self, draw: Draw<'_>) -> Option<Request> {
        self.space.prepare(draw)
    }

    /// Keys that follow one another, since a transaction may put none twice.
    fn next(&mut self, _: SlotId, mut draw: Draw<'_>) -> Request {
        let mut number = self.space.draw_key(&mut draw);
        for _ in 0..self.ops {
            self.space.set_key(number);
            keys::put_op(&self.space.key, self.space.values.draw(draw.random), draw.message);
            number = self.space.keys.after(number);
        }
        unary(Method::Txn, 0)
    }
}

pub struct Mixed {
    space: Space,
    read_percent: u64,
    is_serializable: bool,
}

impl Mixed {
    pub fn new(options: &Options) -> Mixed {
        Mixed {
            space: Space::new(options),
            read_percent: options.read_percent,
            is_serializable: options.serializable,
        }
    }
}

impl Work for Mixed {
    fn operations(&self) -> &'static [&'static str] {
        &["get", "put"]
    }

    fn prepare(&mut self, draw: Draw<'_>) -> Option<Request> {
        self.space.prepare(draw)
    }

    fn next(&mut self, _: SlotId, mut draw: Draw<'_>) -> Request {
        let is_read = draw.random.below(100) < self.read_percent;
        self.space.draw_key(&mut draw);
        if is_read {
            wire::bytes(1, &self.space.key, draw.message);
            wire::flag(7, self.is_serializable, draw.message);
            return unary(Method::Range, 0);
        }
        keys::put(&self.space.key, self.space.values.draw(draw.random), draw.message);
        unary(Method::Put, 1)
    }
}
