//! HPACK: header compression for HTTP/2 (RFC 7541).
//!
//! The decoder keeps the dynamic table the RFC demands. The encoder uses none, so that an encoded
//! block is a constant.

mod decoder;
mod encoder;
mod huffman;
mod static_table;
mod table;
#[cfg(test)]
mod tests;

pub use decoder::{DecodeError, Decoded, Decoder, Summary};
pub use encoder::{NO_DYNAMIC_TABLE, encode_block, encode_field};
pub use table::{CAPACITY_MAX, ENTRY_OVERHEAD, FieldId, Table};
