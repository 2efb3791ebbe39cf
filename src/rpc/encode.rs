//! How answers become bytes: header blocks that are made once, and messages whose parts are already
//! encoded.

use std::borrow::Cow;
use std::sync::LazyLock;

use prost::encoding::{
    WireType, encode_key, encode_varint, encoded_len_varint, int64, key_len, uint64,
};

use super::error::RpcError;
use crate::grpc;
use crate::h2::encode_block;

/// Response headers of every gRPC answer that has a message.
pub static HEADERS: LazyLock<Vec<u8>> =
    LazyLock::new(|| encode_block(&[(b":status", b"200"), (b"content-type", b"application/grpc")]));

/// Trailers of a call that went well.
pub static TRAILERS_OK: LazyLock<Vec<u8>> =
    LazyLock::new(|| encode_block(&[(b"grpc-status", b"0"), (b"grpc-message", b"")]));

/// The one header block of a call that failed before its first message.
pub fn trailers_only(error: &RpcError) -> Vec<u8> {
    let (code, message) = status_fields(error);
    encode_block(&[
        (b":status", b"200"),
        (b"content-type", b"application/grpc"),
        (b"grpc-status", code.as_bytes()),
        (b"grpc-message", message.as_bytes()),
    ])
}

/// The trailers of a stream that ends with an error after it has sent headers.
pub fn trailers(error: &RpcError) -> Vec<u8> {
    let (code, message) = status_fields(error);
    encode_block(&[(b"grpc-status", code.as_bytes()), (b"grpc-message", message.as_bytes())])
}

fn status_fields(error: &RpcError) -> (&'static str, Cow<'_, str>) {
    (error.code.digits(), grpc::encode_message(&error.message))
}

/// The cluster's part of each answer's header.
#[derive(Clone, Copy, Debug, Default)]
pub struct Header {
    pub cluster_id: u64,
    pub member_id: u64,
    pub revision: i64,
    pub raft_term: u64,
}

impl Header {
    fn encoded_len(&self) -> usize {
        let unsigned = |tag, value: u64| match value {
            0 => 0,
            value => uint64::encoded_len(tag, &value),
        };
        unsigned(1, self.cluster_id)
            + unsigned(2, self.member_id)
            + unsigned(3, self.revision as u64)
            + unsigned(4, self.raft_term)
    }

    /// Appends the header as field 1 of a message.
    pub fn encode(&self, out: &mut Vec<u8>) {
        encode_key(1, WireType::LengthDelimited, out);
        encode_varint(self.encoded_len() as u64, out);
        for (tag, value) in [(1, self.cluster_id), (2, self.member_id)] {
            if value != 0 {
                uint64::encode(tag, &value, out);
            }
        }
        if self.revision != 0 {
            int64::encode(3, &self.revision, out);
        }
        if self.raft_term != 0 {
            uint64::encode(4, &self.raft_term, out);
        }
    }

    /// Length of what `encode` appends.
    pub fn field_len(&self) -> usize {
        let len = self.encoded_len();
        key_len(1) + encoded_len_varint(len as u64) + len
    }
}

/// A gRPC message under construction: the prefix is filled in when it is finished.
pub struct Message {
    bytes: Vec<u8>,
}

const PREFIX_LEN: usize = 5;

impl Message {
    pub fn with_capacity(capacity: usize) -> Message {
        let mut bytes = Vec::with_capacity(PREFIX_LEN + capacity);
        bytes.extend_from_slice(&[0; PREFIX_LEN]);
        Message { bytes }
    }

    /// A message of a header and the encoded fields behind it.
    pub fn new(header: &Header, body: &[u8]) -> Message {
        let mut message = Message::with_capacity(header.field_len() + body.len());
        header.encode(message.out());
        message.out().extend_from_slice(body);
        message
    }

    pub fn of(message: &impl prost::Message) -> Message {
        let mut out = Message::with_capacity(message.encoded_len());
        message.encode(out.out()).expect("a vector grows");
        out
    }

    /// Where fields are appended.
    pub fn out(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }

    pub fn body(&self) -> &[u8] {
        &self.bytes[PREFIX_LEN..]
    }

    pub fn body_len(&self) -> usize {
        self.bytes.len() - PREFIX_LEN
    }

    pub fn finish(mut self) -> Vec<u8> {
        let len = u32::try_from(self.body_len()).expect("a message is smaller than 4 GiB");
        self.bytes[1..PREFIX_LEN].copy_from_slice(&len.to_be_bytes());
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::etcdserverpb::{PutResponse, ResponseHeader};

    #[test]
    fn a_header_is_encoded_as_its_message_is() {
        for (revision, raft_term) in [(0, 0), (1, 2), (300, 1 << 40)] {
            let header = Header { cluster_id: u64::MAX, member_id: 7, revision, raft_term };
            let message = PutResponse {
                header: Some(ResponseHeader {
                    cluster_id: u64::MAX,
                    member_id: 7,
                    revision,
                    raft_term,
                }),
                prev_kv: None,
            };
            let encoded = Message::new(&header, b"").finish();
            assert_eq!(encoded[PREFIX_LEN..], prost::Message::encode_to_vec(&message));
            assert_eq!(encoded.len() - PREFIX_LEN, header.field_len());
            assert_eq!(Message::of(&message).finish(), encoded);
        }
    }
}
