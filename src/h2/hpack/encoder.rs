//! Fields into header blocks that leave the dynamic table alone.
//!
//! Such a block means the same on every connection and at any time, so replies are encoded once and
//! copied. What it costs on the wire is little: the blocks of gRPC replies are a few dozen octets.

use super::{huffman, static_table};

/// A table size update to 0: says that the dynamic table will not be used (RFC 7541, 6.3).
pub const NO_DYNAMIC_TABLE: u8 = 0x20;

/// Encodes a whole block. Names must be lower case, pseudo-header fields first.
pub fn encode_block(fields: &[(&[u8], &[u8])]) -> Vec<u8> {
    let mut block = Vec::with_capacity(fields.iter().map(|(n, v)| n.len() + v.len() + 4).sum());
    for (name, value) in fields {
        encode_field(name, value, &mut block);
    }
    block
}

/// Appends one field to a block.
pub fn encode_field(name: &[u8], value: &[u8], block: &mut Vec<u8>) {
    match static_table::find(name, value) {
        (_, Some(place)) => integer(place + 1, 7, 0x80, block),
        (Some(place), None) => {
            integer(place + 1, 4, 0x00, block);
            string(value, block);
        }
        (None, None) => {
            block.push(0x00);
            string(name, block);
            string(value, block);
        }
    }
}

fn integer(value: usize, prefix_bits: u32, pattern: u8, block: &mut Vec<u8>) {
    let mask = (1usize << prefix_bits) - 1;
    if value < mask {
        block.push(pattern | value as u8);
        return;
    }
    block.push(pattern | mask as u8);
    let mut rest = value - mask;
    while rest >= 0x80 {
        block.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    block.push(rest as u8);
}

fn string(text: &[u8], block: &mut Vec<u8>) {
    let coded_len = huffman::encoded_len(text);
    if coded_len < text.len() {
        integer(coded_len, 7, 0x80, block);
        huffman::encode(text, block);
    } else {
        integer(text.len(), 7, 0x00, block);
        block.extend_from_slice(text);
    }
}
