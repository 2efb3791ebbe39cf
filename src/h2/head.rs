//! The head of a request, made from the fields of one block (RFC 9113, 8.3), and the cache of heads
//! whose blocks repeat.

use std::cell::Cell;
use std::collections::VecDeque;
use std::hash::BuildHasher;
use std::rc::Rc;

use bytes::Bytes;
use rustc_hash::FxBuildHasher;

use super::field::{Class, Field};
use super::limits::{HEAD_BLOCK_BYTES_CACHED_MAX, HEADS_CACHED};

/// Method, path and fields of a request. Requests with the same block share one.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct RequestHead {
    pub method: Bytes,
    /// Empty for CONNECT only.
    pub path: Bytes,
    pub scheme: Bytes,
    /// `:authority`, or else `host`; may be empty.
    pub authority: Bytes,
    /// All fields that are not pseudo-header fields, in their order, names in lower case.
    pub headers: Vec<(Bytes, Bytes)>,
    pub content_length: Option<u64>,
    /// For the layer above: what it found out about this head, to find it again with the next
    /// request that shares it. 0 at first.
    pub memo: Cell<u64>,
}

impl RequestHead {
    /// The first value of this name.
    pub fn get(&self, name: &[u8]) -> Option<&Bytes> {
        self.headers.iter().find(|field| field.0 == name).map(|field| &field.1)
    }

    /// All values of this name.
    pub fn get_all<'a>(&'a self, name: &'a [u8]) -> impl Iterator<Item = &'a Bytes> {
        self.headers.iter().filter(move |field| field.0 == name).map(|field| &field.1)
    }
}

/// RFC 9113, 8.1.1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Malformed;

/// Takes the fields of a block in their order.
#[derive(Debug, Default)]
pub(super) struct HeadBuilder {
    method: Option<Bytes>,
    scheme: Option<Bytes>,
    authority: Option<Bytes>,
    path: Option<Bytes>,
    host: Option<Bytes>,
    content_length: Option<u64>,
    headers: Vec<(Bytes, Bytes)>,
    is_malformed: bool,
    has_pseudo: bool,
}

impl HeadBuilder {
    #[inline]
    pub fn push(&mut self, field: Field) {
        let Field { name, value, class } = field;
        match class {
            Class::Method => self.pseudo(value, |head| &mut head.method),
            Class::Scheme => self.pseudo(value, |head| &mut head.scheme),
            Class::Authority => self.pseudo(value, |head| &mut head.authority),
            Class::Path => self.pseudo(value, |head| &mut head.path),
            Class::Malformed => self.is_malformed = true,
            Class::ContentLength => {
                let length = parse_content_length(&value);
                let contradicts = self.content_length.is_some() && self.content_length != length;
                self.is_malformed |= length.is_none() || contradicts;
                self.content_length = length;
                self.headers.push((name, value));
            }
            Class::Host => {
                self.host.get_or_insert_with(|| value.clone());
                self.headers.push((name, value));
            }
            Class::Regular => {
                if self.headers.capacity() == 0 {
                    self.headers.reserve(8);
                }
                self.headers.push((name, value));
            }
        }
    }

    #[inline]
    fn pseudo(&mut self, value: Bytes, slot: fn(&mut HeadBuilder) -> &mut Option<Bytes>) {
        let is_late = !self.headers.is_empty();
        let is_second = slot(self).replace(value).is_some();
        self.is_malformed |= is_late || is_second;
        self.has_pseudo = true;
    }

    pub fn into_request(self) -> Result<RequestHead, Malformed> {
        let method = self.method.ok_or(Malformed)?;
        let (scheme, path) = match (&method[..], self.scheme, self.path) {
            (b"CONNECT", None, None) if self.authority.is_some() => (Bytes::new(), Bytes::new()),
            (b"CONNECT", ..) => return Err(Malformed),
            (_, Some(scheme), Some(path)) if !path.is_empty() => (scheme, path),
            _ => return Err(Malformed),
        };
        if self.is_malformed {
            return Err(Malformed);
        }
        Ok(RequestHead {
            method,
            path,
            scheme,
            authority: self.authority.or(self.host).unwrap_or_default(),
            headers: self.headers,
            content_length: self.content_length,
            memo: Cell::new(0),
        })
    }

    /// Trailers must be well formed; nothing in them is used.
    pub fn check_trailers(self) -> Result<(), Malformed> {
        if self.is_malformed || self.has_pseudo { Err(Malformed) } else { Ok(()) }
    }
}

fn parse_content_length(value: &[u8]) -> Option<u64> {
    if value.is_empty() || value.len() > 18 {
        return None;
    }
    value.iter().try_fold(0u64, |length, &digit| {
        digit.is_ascii_digit().then(|| length * 10 + u64::from(digit - b'0'))
    })
}

/// Heads by their encoded block. An entry is good while the dynamic table is as it was when the
/// block was decoded, which for clients that index their fields is the case from the second or
/// third request of a kind on.
#[derive(Debug, Default)]
pub(super) struct HeadCache {
    entries: Vec<CachedHead>,
    next_victim: usize,
    /// Hashes of blocks met once: a block is kept when it comes again, so that blocks that never
    /// repeat cost no allocation and drive nothing out.
    met_once: VecDeque<u64>,
}

#[derive(Debug)]
struct CachedHead {
    generation: u64,
    block: Box<[u8]>,
    head: Rc<RequestHead>,
}

impl HeadCache {
    #[inline]
    pub fn find(&self, generation: u64, block: &[u8]) -> Option<Rc<RequestHead>> {
        self.entries
            .iter()
            .find(|entry| entry.generation == generation && *entry.block == *block)
            .map(|entry| Rc::clone(&entry.head))
    }

    /// Offers a head whose block was decoded without change of the table.
    pub fn offer(&mut self, generation: u64, block: &[u8], head: &Rc<RequestHead>) {
        if block.len() > HEAD_BLOCK_BYTES_CACHED_MAX {
            return;
        }
        let hash = FxBuildHasher.hash_one((generation, block));
        if !self.met_once.contains(&hash) {
            self.met_once.truncate(HEADS_CACHED - 1);
            self.met_once.push_front(hash);
            return;
        }
        let entry = CachedHead { generation, block: block.into(), head: Rc::clone(head) };
        let stale = self.entries.iter().position(|entry| entry.generation != generation);
        let place = stale.unwrap_or(self.next_victim);
        let is_full = self.entries.len() == HEADS_CACHED;
        match self.entries.get_mut(place) {
            Some(old) if stale.is_some() || is_full => {
                *old = entry;
                self.next_victim = (place + 1) % HEADS_CACHED;
            }
            _ => self.entries.push(entry),
        }
    }
}
