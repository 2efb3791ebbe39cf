//! gRPC over HTTP/2, without the HTTP/2: message framing, status, deadlines.
//!
//! Texts and codes are those of grpc-go, which etcd's clients see. It deliberately does not know
//! streams, header encoding, or services.

mod framing;
mod status;
mod timeout;

pub use framing::{Counted, Decoder, PREFIX_LEN, encode_prefix};
pub use status::{Code, Status, decode_message, encode_message};
pub use timeout::{InvalidTimeout, parse_timeout};
