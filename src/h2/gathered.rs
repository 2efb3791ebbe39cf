//! What is to be sent, without a copy of what is large: octets of a buffer, and between them octets that
//! stay where they are.

use bytes::{Buf, Bytes};
use std::io::IoSlice;

/// Where output goes.
pub trait Sink {
    fn len(&self) -> usize;
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// What is appended here comes behind all there is.
    fn buffer(&mut self) -> &mut Vec<u8>;
    /// Appends octets that may be kept and need not be copied.
    fn share(&mut self, octets: Bytes);
}

impl Sink for Vec<u8> {
    fn len(&self) -> usize {
        self.len()
    }

    fn buffer(&mut self) -> &mut Vec<u8> {
        self
    }

    fn share(&mut self, octets: Bytes) {
        self.extend_from_slice(&octets);
    }
}

#[derive(Debug, Default)]
pub struct Gathered {
    buffer: Vec<u8>,
    /// Shared octets, each with where in `buffer` it is to stand.
    shared: Vec<(usize, Bytes)>,
    shared_bytes: usize,
}

impl Sink for Gathered {
    fn len(&self) -> usize {
        self.buffer.len() + self.shared_bytes
    }

    fn buffer(&mut self) -> &mut Vec<u8> {
        &mut self.buffer
    }

    fn share(&mut self, octets: Bytes) {
        self.shared_bytes += octets.len();
        self.shared.push((self.buffer.len(), octets));
    }
}

impl Gathered {
    /// Keeps its memory.
    pub fn clear(&mut self) {
        self.buffer.clear();
        self.shared.clear();
        self.shared_bytes = 0;
    }

    /// All in one piece, if nothing is shared.
    pub fn as_slice(&self) -> Option<&[u8]> {
        self.shared.is_empty().then_some(&self.buffer)
    }

    /// All in one piece, to be changed.
    pub fn flatten(&mut self) -> &mut Vec<u8> {
        if !self.shared.is_empty() {
            self.buffer = self.rest(0);
            self.shared.clear();
            self.shared_bytes = 0;
        }
        &mut self.buffer
    }

    /// A copy of all behind the first `from` octets.
    pub fn rest(&self, from: usize) -> Vec<u8> {
        let mut rest = Vec::with_capacity(self.len().saturating_sub(from));
        self.slices(from).for_each(|slice| rest.extend_from_slice(slice));
        rest
    }

    /// All behind the first `from` octets, in order, to be sent with one call.
    pub fn io_slices<'a>(&'a self, from: usize, out: &mut impl Extend<IoSlice<'a>>) {
        out.extend(self.slices(from).map(IoSlice::new));
    }

    fn slices(&self, mut from: usize) -> impl Iterator<Item = &[u8]> {
        let mut at = 0;
        let ends = self.shared.iter().map(|(end, octets)| (*end, octets.chunk()));
        let ends = ends.chain(std::iter::once((self.buffer.len(), &[][..])));
        let pieces = ends.flat_map(move |(end, octets)| {
            let own = &self.buffer[at..end];
            at = end;
            [own, octets]
        });
        pieces.filter_map(move |piece| {
            let skipped = from.min(piece.len());
            from -= skipped;
            Some(&piece[skipped..]).filter(|piece| !piece.is_empty())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shared_stands_where_it_was_put() {
        let mut gathered = Gathered::default();
        let mut flat: Vec<u8> = Vec::new();
        for piece in [&b"a"[..], b"", b"bcd", b"ef"] {
            for sink in [&mut gathered as &mut dyn Sink, &mut flat] {
                sink.share(Bytes::copy_from_slice(piece));
                sink.buffer().extend_from_slice(b"-");
                sink.share(Bytes::copy_from_slice(piece));
            }
            assert_eq!(gathered.len(), flat.len());
        }
        gathered.buffer().extend_from_slice(b"end");
        flat.extend_from_slice(b"end");
        assert_eq!(gathered.as_slice(), None);
        for from in 0..=flat.len() {
            let mut slices: Vec<IoSlice<'_>> = Vec::new();
            gathered.io_slices(from, &mut slices);
            assert!(slices.iter().all(|slice| !slice.is_empty()));
            let joined: Vec<u8> = slices.iter().flat_map(|slice| slice.to_vec()).collect();
            assert_eq!(joined, flat[from..]);
            assert_eq!(gathered.rest(from), flat[from..]);
        }
        assert_eq!(gathered.flatten(), &flat);
        assert_eq!(gathered.as_slice(), Some(&flat[..]));
        gathered.clear();
        assert!(gathered.is_empty());
    }
}
