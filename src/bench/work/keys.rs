//! Keys and values of a load, and the puts that fill the key space before it.

use super::super::client::{Method, Want};
use super::super::limits::{PREFILL_BYTES_PER_TXN, PREFILL_KEYS_PER_TXN};
use super::super::options::Options;
use super::super::random::Random;
use super::super::wire;
use super::{Draw, Request, Via};

/// Values are cut out of a pool at a random place: as hard to compress as random octets, and as cheap
/// as a copy.
const POOL_EXTRA_BYTES: usize = 64 << 10;

/// Keys are a prefix and a number of fixed width.
#[derive(Clone, Debug)]
pub struct KeySpace {
    prefix: Vec<u8>,
    digits: usize,
    count: u64,
    is_sequential: bool,
    next: u64,
}

impl KeySpace {
    pub fn new(options: &Options) -> KeySpace {
        KeySpace {
            prefix: options.prefix.as_bytes().to_vec(),
            digits: options.key_size - options.prefix.len(),
            count: options.keys(),
            is_sequential: options.sequential,
            next: 0,
        }
    }

    /// The number of the next key to be used.
    #[inline]
    pub fn draw(&mut self, random: &mut Random) -> u64 {
        if !self.is_sequential {
            return random.below(self.count);
        }
        let number = self.next;
        self.next = (number + 1) % self.count;
        number
    }

    pub fn after(&self, number: u64) -> u64 {
        (number + 1) % self.count
    }

    #[inline]
    pub fn write(&self, number: u64, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.prefix);
        decimal(number, self.digits, out);
    }

    pub fn prefix(&self) -> &[u8] {
        &self.prefix
    }

    /// The first key behind all of them (etcd's range end of a prefix).
    pub fn end(&self) -> Vec<u8> {
        prefix_end(&self.prefix)
    }
}

/// `0`, which is all keys, for a prefix that nothing follows.
pub fn prefix_end(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < 0xff {
            end.push(last + 1);
            return end;
        }
    }
    vec![0]
}

/// With leading zeros.
#[inline]
pub fn decimal(mut number: u64, digits: usize, out: &mut Vec<u8>) {
    let start = out.len();
    out.resize(start + digits, b'0');
    for digit in out[start..].iter_mut().rev() {
        if number == 0 {
            break;
        }
        *digit = b'0' + (number % 10) as u8;
        number /= 10;
    }
}

#[derive(Clone, Debug)]
pub struct Values {
    pool: Vec<u8>,
    size: usize,
}

impl Values {
    pub fn new(size: usize, seed: u64) -> Values {
        let mut random = Random::new(!seed);
        let mut pool = Vec::with_capacity(size + POOL_EXTRA_BYTES + 8);
        while pool.len() < size + POOL_EXTRA_BYTES {
            pool.extend_from_slice(&random.next().to_le_bytes());
        }
        Values { pool, size }
    }

    #[inline]
    pub fn draw(&self, random: &mut Random) -> &[u8] {
        let at = random.below(POOL_EXTRA_BYTES as u64) as usize;
        &self.pool[at..at + self.size]
    }
}

/// A `PutRequest`: key 1, value 2.
#[inline]
pub fn put(key: &[u8], value: &[u8], out: &mut Vec<u8>) {
    wire::bytes(1, key, out);
    wire::bytes(2, value, out);
}

/// Puts all keys of a range of numbers, in order, many in a transaction.
#[derive(Clone, Debug)]
pub struct Prefill {
    next: u64,
    end: u64,
    per_txn: u64,
}

impl Prefill {
    pub fn new(count: u64, key_bytes: usize, value_bytes: usize) -> Prefill {
        let fit = PREFILL_BYTES_PER_TXN / (key_bytes + value_bytes + 16);
        Prefill { next: 0, end: count, per_txn: (fit as u64).clamp(1, PREFILL_KEYS_PER_TXN) }
    }

    /// The tag is the number of the first key.
    pub fn next(
        &mut self,
        draw: Draw<'_>,
        values: &Values,
        write_key: impl Fn(u64, &mut Vec<u8>),
    ) -> Option<Request> {
        let first = self.next;
        self.next = self.end.min(first + self.per_txn);
        if first == self.next {
            return None;
        }
        let mut key = Vec::new();
        for number in first..self.next {
            key.clear();
            write_key(number, &mut key);
            put_op(&key, values.draw(draw.random), draw.message);
        }
        let via = Via::Unary(Method::Txn);
        Some(Request { via, operation: 0, want: Want::Nothing, tag: first })
    }

    pub fn per_txn(&self) -> u64 {
        self.per_txn
    }
}

/// `TxnRequest.success` 2 of `RequestOp.request_put` 2.
pub fn put_op(key: &[u8], value: &[u8], out: &mut Vec<u8>) {
    wire::nested(2, out, |out| wire::nested(2, out, |out| put(key, value, out)));
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::*;
    use crate::proto::etcdserverpb as pb;

    #[test]
    fn numbers_have_leading_zeros() {
        let shown = |number, digits| {
            let mut out = b"k".to_vec();
            decimal(number, digits, &mut out);
            String::from_utf8(out).unwrap()
        };
        assert_eq!(shown(0, 3), "k000");
        assert_eq!(shown(42, 5), "k00042");
        assert_eq!(shown(u64::MAX, 20), "k18446744073709551615");
    }

    #[test]
    fn the_end_of_a_prefix_is_behind_all_that_begin_with_it() {
        assert_eq!(prefix_end(b"bench/"), b"bench0");
        assert_eq!(prefix_end(b"a\xff\xff"), b"b");
        assert_eq!(prefix_end(b"\xff"), [0]);
        assert_eq!(prefix_end(b""), [0]);
    }

    #[test]
    fn a_prefill_puts_every_key_once_in_requests_that_etcd_takes() {
        for (count, value_bytes, txns) in [(0u64, 10, 0), (1, 10, 1), (250, 10, 3), (7, 1 << 20, 7)]
        {
            let values = Values::new(value_bytes, 1);
            let mut prefill = Prefill::new(count, 16, value_bytes);
            let mut keys = Vec::new();
            for nth in 0.. {
                let mut message = Vec::new();
                let mut random = Random::new(nth);
                let draw = Draw { random: &mut random, start_ns: 0, message: &mut message };
                if prefill.next(draw, &values, |number, out| decimal(number, 4, out)).is_none() {
                    assert_eq!(nth, txns);
                    break;
                }
                for op in pb::TxnRequest::decode(&message[..]).unwrap().success {
                    let Some(pb::request_op::Request::RequestPut(put)) = op.request else {
                        panic!("not a put")
                    };
                    assert_eq!(put.value.len(), value_bytes);
                    keys.push(String::from_utf8(put.key.to_vec()).unwrap());
                }
            }
            let expected: Vec<_> = (0..count).map(|number| format!("{number:04}")).collect();
            assert_eq!(keys, expected);
        }
    }
}
