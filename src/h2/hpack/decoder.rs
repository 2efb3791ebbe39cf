//! Header blocks into fields (RFC 7541, 3 and 6).
//!
//! Any error here leaves the two tables of a connection different for ever, so all of them end the
//! connection.

use std::ops::Range;

use super::huffman;
use super::table::{ENTRY_OVERHEAD, FieldId, Table};
use crate::h2::field::Field;

/// A scratch buffer that has grown beyond this is given back after the block.
const SCRATCH_BYTES_KEPT: usize = 4_096;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DecodeError {
    /// The block ends inside a field.
    Truncated,
    /// An integer above 2^32 - 1, or one drawn out with needless zero octets.
    IntegerOverflow,
    /// Index 0, or one beyond the dynamic table.
    InvalidIndex,
    InvalidHuffman,
    /// A table size update after the first field of the block.
    MisplacedSizeUpdate,
    /// A table size above the one allowed.
    SizeUpdateTooLarge,
    /// The list is so much longer than allowed that decoding it to the end is not worth it.
    ListTooLong,
}

/// A field as the block has it.
#[derive(Debug)]
pub enum Decoded<'t> {
    /// An entry of the table.
    Indexed(FieldId, &'t Field),
    Literal(Field),
}

/// What a block amounted to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Summary {
    /// Size of the list by RFC 9113, 6.5.2: names, values, and 32 octets for each field.
    pub list_bytes: usize,
}

#[derive(Debug, Default)]
pub struct Decoder {
    table: Table,
    /// Where Huffman strings of one literal are decoded to; name first.
    scratch: Vec<u8>,
}

/// A string of the block: plain octets of it, or a part of the scratch buffer.
enum Text<'a> {
    Plain(&'a [u8]),
    Scratch(Range<usize>),
}

impl Decoder {
    /// See [`Table::generation`].
    pub fn generation(&self) -> u64 {
        self.table.generation()
    }

    pub fn table(&self) -> &Table {
        &self.table
    }

    /// Decodes a whole block. Fields are emitted until their list size passes `list_bytes_max`;
    /// the rest is decoded for the sake of the table, and the summary tells the excess. From four
    /// times that size on it is an error.
    pub fn decode(
        &mut self,
        mut block: &[u8],
        list_bytes_max: usize,
        emit: &mut impl FnMut(Decoded<'_>),
    ) -> Result<Summary, DecodeError> {
        let mut list_bytes = 0usize;
        let mut size_update_allowed = true;
        while let Some(&first) = block.first() {
            let literal = if first & 0x80 != 0 {
                None
            } else if first & 0xc0 == 0x40 {
                let field = self.literal(&mut block, 6)?;
                self.table.insert(field.clone());
                Some(field)
            } else if first & 0xe0 == 0x20 {
                if !size_update_allowed {
                    return Err(DecodeError::MisplacedSizeUpdate);
                }
                let capacity_bytes = integer(&mut block, 5)?;
                if !self.table.set_capacity(capacity_bytes) {
                    return Err(DecodeError::SizeUpdateTooLarge);
                }
                continue;
            } else {
                // 0000: without indexing, 0001: never indexed. This end forwards nothing, so the
                // two mean the same.
                Some(self.literal(&mut block, 4)?)
            };
            size_update_allowed = false;
            let (decoded, field_bytes) = match literal {
                Some(field) => {
                    let field_bytes = field.size_bytes();
                    (Decoded::Literal(field), field_bytes)
                }
                None => {
                    let index = integer(&mut block, 7)?;
                    let (id, field) = self.table.get(index).ok_or(DecodeError::InvalidIndex)?;
                    (Decoded::Indexed(id, field), field.size_bytes())
                }
            };
            list_bytes = list_bytes.saturating_add(field_bytes);
            if list_bytes <= list_bytes_max {
                emit(decoded);
            } else if list_bytes / 4 > list_bytes_max {
                return Err(DecodeError::ListTooLong);
            }
        }
        if self.scratch.capacity() > SCRATCH_BYTES_KEPT {
            self.scratch = Vec::new();
        }
        Ok(Summary { list_bytes })
    }

    fn literal(&mut self, block: &mut &[u8], prefix_bits: u32) -> Result<Field, DecodeError> {
        self.scratch.clear();
        let name_index = integer(block, prefix_bits)?;
        if name_index != 0 {
            let (_, entry) = self.table.get(name_index).ok_or(DecodeError::InvalidIndex)?;
            let name = entry.name.clone();
            let value = string(block, &mut self.scratch)?;
            return Ok(Field::with_name(name, value.as_slice(&self.scratch)));
        }
        let name = string(block, &mut self.scratch)?;
        let value = string(block, &mut self.scratch)?;
        Ok(Field::new(name.as_slice(&self.scratch), value.as_slice(&self.scratch)))
    }
}

impl Text<'_> {
    fn as_slice<'s>(&'s self, scratch: &'s [u8]) -> &'s [u8] {
        match self {
            Text::Plain(text) => text,
            Text::Scratch(range) => scratch.get(range.clone()).unwrap_or_default(),
        }
    }
}

/// RFC 7541, 5.1. The caller has seen that the block is not empty.
#[inline]
fn integer(block: &mut &[u8], prefix_bits: u32) -> Result<usize, DecodeError> {
    let (&first, mut rest) = block.split_first().ok_or(DecodeError::Truncated)?;
    let mask = (1u32 << prefix_bits) - 1;
    let mut value = u64::from(u32::from(first) & mask);
    if value == u64::from(mask) {
        let mut shift = 0;
        loop {
            let (&byte, tail) = rest.split_first().ok_or(DecodeError::Truncated)?;
            rest = tail;
            // Five octets carry 35 bits: all of a u32, and no way to spin on zeroes.
            if shift > 28 {
                return Err(DecodeError::IntegerOverflow);
            }
            value += u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                break;
            }
            shift += 7;
        }
    }
    *block = rest;
    u32::try_from(value).map(|value| value as usize).map_err(|_| DecodeError::IntegerOverflow)
}

/// RFC 7541, 5.2.
fn string<'a>(block: &mut &'a [u8], scratch: &mut Vec<u8>) -> Result<Text<'a>, DecodeError> {
    let is_huffman = block.first().is_some_and(|first| first & 0x80 != 0);
    let length = integer(block, 7)?;
    let (text, rest) = block.split_at_checked(length).ok_or(DecodeError::Truncated)?;
    *block = rest;
    if !is_huffman {
        return Ok(Text::Plain(text));
    }
    let start = scratch.len();
    huffman::decode(text, scratch).map_err(|_| DecodeError::InvalidHuffman)?;
    Ok(Text::Scratch(start..scratch.len()))
}

impl Decoded<'_> {
    pub fn field(&self) -> &Field {
        match self {
            Decoded::Indexed(_, field) => field,
            Decoded::Literal(field) => field,
        }
    }
}

impl Field {
    /// Size in a table and in a header list (RFC 7541, 4.1).
    pub fn size_bytes(&self) -> usize {
        self.name.len() + self.value.len() + ENTRY_OVERHEAD
    }
}
