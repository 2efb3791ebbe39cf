//! What waits to be sent in one lane: first in, first out, bounded in number and bytes.

use std::collections::VecDeque;

use super::codec;
use super::limits::{QUEUE_BYTES_MAX, QUEUE_MESSAGES_MAX};
use crate::node::{Class, PeerMessage};

#[derive(Debug)]
pub struct Queue {
    class: Class,
    messages: VecDeque<(PeerMessage, usize)>,
    bytes: usize,
}

impl Queue {
    pub fn new(class: Class) -> Queue {
        Queue { class, messages: VecDeque::new(), bytes: 0 }
    }

    /// Returns how many messages were dropped to stay within the bounds: of urgent ones the
    /// oldest, which are the least worth; of others the new one, since what stands before it makes
    /// sense without it, and not the other way round.
    pub fn push(&mut self, message: PeerMessage) -> u64 {
        let size = codec::size_bytes(&message);
        let mut dropped = 0;
        while !self.has_room(size) {
            dropped += 1;
            if self.class != Class::Urgent {
                return dropped;
            }
            self.pop();
        }
        self.bytes += size;
        self.messages.push_back((message, size));
        dropped
    }

    fn has_room(&self, size: usize) -> bool {
        let fits = self.messages.len() < QUEUE_MESSAGES_MAX && self.bytes + size <= QUEUE_BYTES_MAX;
        self.messages.is_empty() || fits
    }

    pub fn pop(&mut self) -> Option<PeerMessage> {
        let (message, size) = self.messages.pop_front()?;
        self.bytes -= size;
        Some(message)
    }

    pub fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    /// Drops everything, and says how much it was.
    pub fn clear(&mut self) -> u64 {
        self.bytes = 0;
        std::mem::take(&mut self.messages).len() as u64
    }
}
