//! RangeStream: a range in chunks, all at the revision that was current when it began.
//!
//! etcd's rules (`server/etcdserver/v3_server.go` of 3.7.1): the first chunk has up to ten keys; a
//! chunk far below the wanted size doubles that number for the next, one far above it halves it.
//! Only the last message has a header, `more` and the count, which also counts what the limit cut
//! off. Sort orders and filters by revision are refused before (see [`super::range`]).

use bytes::BytesMut;

use super::error::MvccError;
use super::keys::Interval;
use super::range::{Counting, RangeOutcome};
use super::reader::Reader;
use super::record::key_of;
use super::wire::{take_bytes, varint_len};
use crate::proto::etcdserverpb::RangeRequest;

/// etcd's `initialStreamChunkLimit`.
const FIRST_CHUNK_KEYS: i64 = 10;

/// A stream between its messages: a request that begins where the last chunk ended.
#[derive(Clone, Debug)]
pub struct RangeStream {
    request: RangeRequest,
    /// The number of keys wanted in all.
    limit: i64,
    written: i64,
    chunk_size_bytes: usize,
    header_revision: Option<i64>,
}

/// One message of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Chunk {
    More,
    /// The last message, with what stands in its header and behind its keys.
    Last {
        revision: i64,
        more: bool,
        count: i64,
    },
}

impl RangeStream {
    /// `chunk_size_bytes` is the size that chunks approach; etcd takes its limit of requests.
    pub fn new(mut request: RangeRequest, chunk_size_bytes: usize) -> RangeStream {
        let limit = if request.limit == 0 { i64::MAX } else { request.limit };
        request.limit = FIRST_CHUNK_KEYS.min(limit);
        RangeStream { request, limit, written: 0, chunk_size_bytes, header_revision: None }
    }

    /// Appends the next message's keys to `out`, as the `kvs` of a `RangeResponse`. The store may
    /// have moved on since the last one; [`MvccError::Compacted`] if it moved too far.
    pub fn next_chunk(
        &mut self,
        reader: &Reader<'_>,
        out: &mut Vec<u8>,
    ) -> Result<Chunk, MvccError> {
        let start = out.len();
        let (outcome, last_kv) = reader.range_counting(&self.request, Counting::Seen, out)?;
        let revision = *self.header_revision.get_or_insert(outcome.revision);
        if self.request.count_only {
            return Ok(Chunk::Last { revision, more: false, count: outcome.count });
        }
        if self.request.revision <= 0 {
            self.request.revision = revision;
        }
        self.written += outcome.written;
        if !outcome.more {
            return Ok(Chunk::Last { revision, more: false, count: self.written });
        }
        self.continue_behind(&out[last_kv..])?;
        if self.written == self.limit {
            let rest = Interval::new(&self.request.key, &self.request.range_end);
            let rest = reader.count(rest, self.request.revision)? as i64;
            return Ok(Chunk::Last { revision, more: true, count: self.written + rest });
        }
        self.adjust(response_len(&outcome, out.len() - start));
        Ok(Chunk::More)
    }
}

impl RangeStream {
    fn continue_behind(&mut self, last_kv: &[u8]) -> Result<(), MvccError> {
        let key = field_of(last_kv)
            .and_then(key_of)
            .ok_or_else(|| MvccError::damaged("a stored message has no key"))?;
        let mut next_key = BytesMut::with_capacity(key.len() + 1);
        next_key.extend_from_slice(key);
        next_key.extend_from_slice(&[0]);
        self.request.key = next_key.freeze();
        Ok(())
    }

    fn adjust(&mut self, size_bytes: usize) {
        let keys = self.request.limit;
        let keys = if size_bytes < self.chunk_size_bytes / 2 {
            keys.saturating_mul(2)
        } else if size_bytes > self.chunk_size_bytes.saturating_mul(2) {
            keys / 2
        } else {
            keys
        };
        self.request.limit = keys.max(1).min(self.limit - self.written);
    }
}

/// The content of the message field at the front of `bytes`.
fn field_of(bytes: &[u8]) -> Option<&[u8]> {
    let mut rest = bytes.get(1..)?;
    take_bytes(&mut rest)
}

/// The length of the `RangeResponse` that etcd would have made of a chunk, by which it sets the
/// next one: its keys, `more`, a header with the revision, and the count of what it looked at.
fn response_len(outcome: &RangeOutcome, kvs_len: usize) -> usize {
    let int_len = |value: i64| 1 + varint_len(value as u64);
    2 + int_len(outcome.revision) + kvs_len + 2 * usize::from(outcome.more) + int_len(outcome.count)
}
