//! The little of the protobuf encoding that this layer writes and reads by hand: it stores
//! messages as they go on the wire, and answers by copying them.

/// Tags (field number and wire type) of the fields written here. All field numbers are below 16,
/// so a tag is one byte.
pub const fn tag_varint(field: u8) -> u8 {
    field << 3
}

pub const fn tag_bytes(field: u8) -> u8 {
    field << 3 | 2
}

pub const fn varint_len(value: u64) -> usize {
    let bits = 64 - (value | 1).leading_zeros() as usize;
    bits.div_ceil(7)
}

pub fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// An integer field; proto3 leaves out a zero.
pub fn put_int(out: &mut Vec<u8>, field: u8, value: i64) {
    if value != 0 {
        out.push(tag_varint(field));
        put_varint(out, value as u64);
    }
}

/// A field of bytes or of an encoded message, written even if it is empty.
pub fn put_bytes(out: &mut Vec<u8>, field: u8, bytes: &[u8]) {
    out.push(tag_bytes(field));
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// A field whose bytes `write` appends. The length goes in front afterwards: room is left for one
/// byte, and what is longer than 127 bytes is moved up.
pub fn put_delimited<R>(out: &mut Vec<u8>, field: u8, write: impl FnOnce(&mut Vec<u8>) -> R) -> R {
    out.push(tag_bytes(field));
    let start = out.len() + 1;
    out.push(0);
    let result = write(out);
    let len = out.len() - start;
    let more = varint_len(len as u64) - 1;
    if more > 0 {
        out.resize(start + len + more, 0);
        out.copy_within(start..start + len, start + more);
    }
    let mut value = len;
    for byte in &mut out[start - 1..start + more] {
        *byte = value as u8 | 0x80;
        value >>= 7;
    }
    out[start + more - 1] &= 0x7f;
    result
}

/// Writes into a slice whose length was computed beforehand. Writing past its end, or leaving a
/// rest, is an error of this program; the asserts keep it from becoming a damaged record.
pub struct SliceWriter<'a> {
    rest: &'a mut [u8],
}

impl<'a> SliceWriter<'a> {
    pub fn new(slice: &'a mut [u8]) -> SliceWriter<'a> {
        SliceWriter { rest: slice }
    }

    pub fn byte(&mut self, byte: u8) {
        self.slice(&[byte]);
    }

    pub fn slice(&mut self, bytes: &[u8]) {
        let (head, rest) = std::mem::take(&mut self.rest).split_at_mut(bytes.len());
        head.copy_from_slice(bytes);
        self.rest = rest;
    }

    pub fn varint(&mut self, mut value: u64) {
        let mut buffer = [0; 10];
        let mut len = 0;
        while value >= 0x80 {
            buffer[len] = value as u8 | 0x80;
            value >>= 7;
            len += 1;
        }
        buffer[len] = value as u8;
        self.slice(&buffer[..len + 1]);
    }

    pub fn finish(self) {
        assert!(self.rest.is_empty(), "an encoded length was computed too large");
    }
}

/// Takes a varint off the front of `bytes`.
pub fn take_varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}

/// Takes a length-delimited value off the front of `bytes`.
pub fn take_bytes<'a>(bytes: &mut &'a [u8]) -> Option<&'a [u8]> {
    let len = usize::try_from(take_varint(bytes)?).ok()?;
    let (value, rest) = bytes.split_at_checked(len)?;
    *bytes = rest;
    Some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn varints_have_the_computed_length_and_come_back() {
        let powers = (0..64).flat_map(|bit| [(1u64 << bit) - 1, 1 << bit]);
        for value in powers.chain([u64::MAX]) {
            let mut out = Vec::new();
            put_varint(&mut out, value);
            assert_eq!(out.len(), varint_len(value), "{value}");
            let mut fixed = vec![0; out.len()];
            let mut writer = SliceWriter::new(&mut fixed);
            writer.varint(value);
            writer.finish();
            assert_eq!(out, fixed);
            let mut rest = &out[..];
            assert_eq!(take_varint(&mut rest), Some(value));
            assert!(rest.is_empty());
        }
    }

    #[test]
    fn a_truncated_or_endless_varint_is_none() {
        assert_eq!(take_varint(&mut &[][..]), None);
        assert_eq!(take_varint(&mut &[0x80, 0x80][..]), None);
        assert_eq!(take_varint(&mut &[0x80; 11][..]), None);
        assert_eq!(take_bytes(&mut &[3, 1, 2][..]), None);
    }

    #[test]
    fn a_length_written_afterwards_is_minimal_at_any_size() {
        for len in [0, 1, 127, 128, 129, 16_383, 16_384, 70_000] {
            let content: Vec<u8> = (0..len).map(|i| i as u8).collect();
            let mut expected = vec![9];
            put_bytes(&mut expected, 3, &content);
            let mut out = vec![9];
            put_delimited(&mut out, 3, |out| out.extend_from_slice(&content));
            assert_eq!(out, expected);
        }
    }
}
