//! The streams of a connection: found by identifier, and those with something to send in the order
//! in which they take their turns.
//!
//! Invariants: a stream is in the list of the ready at most once; a stream leaves the list when it
//! leaves the connection, so neither outgrows the number of open streams.

use rustc_hash::FxHashMap;
use slab::Slab;

use super::StreamId;
use super::stream::{Links, Stream};

const NONE: u32 = u32::MAX;

#[derive(Debug)]
pub(super) struct Streams {
    slab: Slab<Stream>,
    keys: FxHashMap<StreamId, u32>,
    first_ready: u32,
    last_ready: u32,
}

impl Default for Streams {
    fn default() -> Streams {
        Streams {
            slab: Slab::new(),
            keys: FxHashMap::default(),
            first_ready: NONE,
            last_ready: NONE,
        }
    }
}

impl Streams {
    pub fn len(&self) -> usize {
        self.slab.len()
    }

    pub fn is_empty(&self) -> bool {
        self.slab.is_empty()
    }

    pub fn insert(&mut self, stream: Stream) {
        let id = stream.id;
        let key = self.slab.insert(stream) as u32;
        self.keys.insert(id, key);
    }

    #[inline]
    pub fn key(&self, id: StreamId) -> Option<u32> {
        self.keys.get(&id).copied()
    }

    #[inline]
    pub fn get(&self, id: StreamId) -> Option<&Stream> {
        self.slab.get(self.key(id)? as usize)
    }

    #[inline]
    pub fn get_mut(&mut self, id: StreamId) -> Option<&mut Stream> {
        self.slab.get_mut(*self.keys.get(&id)? as usize)
    }

    pub fn remove(&mut self, id: StreamId) -> Option<Stream> {
        let key = self.keys.remove(&id)?;
        self.unready(key);
        let stream = self.slab.try_remove(key as usize);
        if self.slab.is_empty() && self.slab.capacity() > 1_024 {
            *self = Streams::default();
        }
        stream
    }

    pub fn clear(&mut self) {
        *self = Streams::default();
    }

    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut Stream> {
        self.slab.iter_mut().map(|(_, stream)| stream)
    }

    /// The stream whose turn it is.
    pub fn front_ready(&mut self) -> Option<&mut Stream> {
        self.slab.get_mut(self.first_ready as usize)
    }

    pub fn has_ready(&self) -> bool {
        self.first_ready != NONE
    }

    /// Puts a stream at the end of the list, unless it is in it.
    pub fn make_ready(&mut self, id: StreamId) {
        let Some(key) = self.key(id) else { return };
        let last = self.last_ready;
        let Some(stream) = self.slab.get_mut(key as usize) else { return };
        if stream.links.is_some() {
            return;
        }
        stream.links = Some(Links { previous: last, next: NONE });
        match self.links(last) {
            Some(links) => links.next = key,
            None => self.first_ready = key,
        }
        self.last_ready = key;
    }

    /// Takes the front stream off the list.
    pub fn pop_ready(&mut self) {
        self.unready(self.first_ready);
    }

    /// The front stream has had its turn and goes to the end.
    pub fn rotate_ready(&mut self) {
        if self.first_ready == self.last_ready {
            return;
        }
        if let Some(stream) = self.slab.get(self.first_ready as usize) {
            let id = stream.id;
            self.pop_ready();
            self.make_ready(id);
        }
    }

    fn unready(&mut self, key: u32) {
        let Some(stream) = self.slab.get_mut(key as usize) else { return };
        let Some(Links { previous, next }) = stream.links.take() else { return };
        match self.links(previous) {
            Some(links) => links.next = next,
            None => self.first_ready = next,
        }
        match self.links(next) {
            Some(links) => links.previous = previous,
            None => self.last_ready = previous,
        }
    }

    fn links(&mut self, key: u32) -> Option<&mut Links> {
        self.slab.get_mut(key as usize)?.links.as_mut()
    }
}
