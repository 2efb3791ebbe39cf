//! The JSON gateway as far as it is about text: paths, and JSON in the place of protobuf, as grpc-gateway and
//! Go's `protojson` have it with etcd's options. What a request does is not known here: a request of the
//! gateway becomes an ordinary call (`src/rpc/gateway.rs`).

mod decode;
mod encode;
mod paths;
mod scan;
#[cfg(test)]
mod tests;
mod token;

use crate::proto::schema::Method;

use encode::Escape;
pub use encode::Malformed;
pub use paths::{Route, route};
use scan::Values;

/// The body of a request on its way to messages.
#[derive(Debug)]
pub struct Requests {
    method: &'static Method,
    values: Values,
    /// A method that takes one message takes the first and ignores what follows.
    is_done: bool,
    ended: bool,
}

impl Requests {
    pub fn new(method: &'static Method) -> Requests {
        Requests { method, values: Values::default(), is_done: false, ended: false }
    }

    pub fn push(&mut self, body: &[u8]) {
        if !self.is_done {
            self.values.push(body);
        }
    }

    pub fn end(&mut self) {
        self.values.end();
        self.ended = true;
    }

    /// Bytes that wait for the end of their message.
    pub fn buffered_bytes(&self) -> usize {
        self.values.len()
    }

    /// The next message, encoded in protobuf. No body at all is the empty message, unless it is a stream's.
    pub fn next_message(&mut self) -> Result<Option<Vec<u8>>, String> {
        if self.is_done {
            return Ok(None);
        }
        let takes_one = !self.method.client_streams;
        let Some(value) = self.values.next_value()? else {
            let is_empty = takes_one && self.ended;
            self.is_done |= is_empty;
            return Ok(is_empty.then(Vec::new));
        };
        if takes_one {
            self.is_done = true;
            self.values = Values::default();
        }
        decode::message(self.method.request, &value).map(Some)
    }
}

/// The body of the answer of a unary call.
pub fn answer(method: &Method, message: &[u8]) -> Result<String, Malformed> {
    let mut out = String::with_capacity(message.len() * 2);
    encode::message(method.response, message, Escape::Plain, &mut out)?;
    Ok(out)
}

/// The body of the answer of a call that failed.
pub fn failure(code: u8, message: &str) -> String {
    let mut out = String::new();
    status(code, message, Escape::Plain, &mut out);
    out
}

/// One line of a stream.
pub fn streamed(method: &Method, message: &[u8]) -> Result<String, Malformed> {
    let mut out = String::with_capacity(message.len() * 2);
    out.push_str("{\"result\":");
    encode::message(method.response, message, Escape::Html, &mut out)?;
    out.push_str("}\n");
    Ok(out)
}

/// The last line of a stream that failed.
pub fn streamed_failure(code: u8, message: &str) -> String {
    let mut out = String::from("{\"error\":");
    status(code, message, Escape::Html, &mut out);
    out.push_str("}\n");
    out
}

fn status(code: u8, message: &str, escape: Escape, out: &mut String) {
    out.push('{');
    if code != 0 {
        out.push_str("\"code\":");
        out.push_str(&code.to_string());
    }
    if !message.is_empty() {
        out.push_str(if code == 0 { "\"message\":" } else { ",\"message\":" });
        encode::string(message, escape, out);
    }
    out.push('}');
}

/// The HTTP status of a gRPC code.
pub fn http_status(code: u8) -> u16 {
    match code {
        0 => 200,
        1 => 499,
        3 | 9 | 11 => 400,
        4 => 504,
        5 => 404,
        6 | 10 => 409,
        7 => 403,
        8 => 429,
        12 => 501,
        14 => 503,
        16 => 401,
        _ => 500,
    }
}
