//! What matters of a block of response headers or trailers, from a cache where the block repeats.

use std::rc::Rc;

use crate::bench::limits::{HEADER_BYTES_MAX, HEADS_CACHED};
use crate::grpc;
use crate::h2::hpack::{DecodeError, Decoder};

#[derive(Debug, Default, PartialEq, Eq)]
pub struct ResponseHead {
    /// `:status`; 0 in trailers.
    pub http_status: u16,
    pub grpc_status: Option<u32>,
    /// `grpc-message`, decoded.
    pub message: String,
}

#[derive(Debug, Default)]
pub struct ResponseHeads {
    decoder: Decoder,
    cached: Vec<Cached>,
    next: usize,
}

#[derive(Debug)]
struct Cached {
    /// Of the decoder's table, when the block was decoded: the same octets mean the same for as long as
    /// it stays.
    generation: u64,
    block: Box<[u8]>,
    head: Rc<ResponseHead>,
}

impl ResponseHeads {
    pub fn decode(&mut self, block: &[u8]) -> Result<Rc<ResponseHead>, DecodeError> {
        let generation = self.decoder.generation();
        let known = self
            .cached
            .iter()
            .find(|cached| cached.generation == generation && *cached.block == *block);
        if let Some(cached) = known {
            return Ok(Rc::clone(&cached.head));
        }
        let mut head = ResponseHead::default();
        self.decoder.decode(block, HEADER_BYTES_MAX, &mut |decoded| {
            let field = decoded.field();
            match &field.name[..] {
                b":status" => head.http_status = number(&field.value).unwrap_or(0) as u16,
                b"grpc-status" => {
                    head.grpc_status = Some(number(&field.value).unwrap_or(u32::MAX));
                }
                b"grpc-message" => head.message = grpc::decode_message(&field.value),
                _ => {}
            }
        })?;
        let head = Rc::new(head);
        if self.decoder.generation() == generation && head.message.is_empty() {
            let cached = Cached { generation, block: block.into(), head: Rc::clone(&head) };
            let stale = self.cached.iter().position(|old| old.generation != generation);
            match stale {
                Some(place) => self.cached[place] = cached,
                None if self.cached.len() < HEADS_CACHED => self.cached.push(cached),
                None => {
                    self.cached[self.next % HEADS_CACHED] = cached;
                    self.next += 1;
                }
            }
        }
        Ok(head)
    }
}

fn number(digits: &[u8]) -> Option<u32> {
    std::str::from_utf8(digits).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::h2::encode_block;

    #[test]
    fn status_and_message_are_found_with_and_without_the_cache() {
        let mut heads = ResponseHeads::default();
        let first = encode_block(&[(b":status", b"200"), (b"content-type", b"application/grpc")]);
        let fine = encode_block(&[(b"grpc-status", b"0"), (b"grpc-message", b"")]);
        let wrong = encode_block(&[(b"grpc-status", b"11"), (b"grpc-message", b"a%20b")]);
        for _ in 0..3 {
            let head = heads.decode(&first).unwrap();
            assert_eq!((head.http_status, head.grpc_status), (200, None));
            assert_eq!(heads.decode(&fine).unwrap().grpc_status, Some(0));
            let head = heads.decode(&wrong).unwrap();
            assert_eq!((head.grpc_status, &head.message[..]), (Some(11), "a b"));
        }
        assert_eq!(heads.cached.len(), 2);
    }

    #[test]
    fn a_block_is_not_taken_from_the_cache_when_its_indices_mean_something_else() {
        let mut heads = ResponseHeads::default();
        // Literals that enter the table: grpc-status 0, then 14; 0xbe is the newest entry.
        let enter = |digits: &[u8]| {
            let mut block = vec![0x40, 11];
            block.extend(b"grpc-status");
            block.push(digits.len() as u8);
            block.extend(digits);
            block
        };
        assert_eq!(heads.decode(&enter(b"0")).unwrap().grpc_status, Some(0));
        assert_eq!(heads.decode(&[0xbe]).unwrap().grpc_status, Some(0));
        assert_eq!(heads.decode(&[0xbe]).unwrap().grpc_status, Some(0));
        assert_eq!(heads.decode(&enter(b"14")).unwrap().grpc_status, Some(14));
        assert_eq!(heads.decode(&[0xbe]).unwrap().grpc_status, Some(14));
        assert_eq!(heads.decode(&[0xbf]).unwrap().grpc_status, Some(0));
    }

    #[test]
    fn more_blocks_than_the_cache_holds_stay_right() {
        let mut heads = ResponseHeads::default();
        for round in 0..3 {
            for status in 0..20u32 {
                let digits = status.to_string();
                let block = encode_block(&[(b"grpc-status", digits.as_bytes())]);
                let head = heads.decode(&block).unwrap();
                assert_eq!(head.grpc_status, Some(status), "round {round}");
            }
        }
        assert_eq!(heads.cached.len(), HEADS_CACHED);
    }
}
