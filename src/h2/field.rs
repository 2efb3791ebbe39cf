//! One header field and what it may be in a request (RFC 9113, 8.2 and 8.3).
//!
//! A field is judged once, when it is made; fields of the dynamic table carry the verdict along.

use bytes::Bytes;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Field {
    pub name: Bytes,
    pub value: Bytes,
    pub class: Class,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    Method,
    Scheme,
    Authority,
    Path,
    ContentLength,
    Host,
    Regular,
    /// Makes any request malformed: characters that are not allowed, fields of HTTP/1.1
    /// connections, pseudo-header fields that requests do not have.
    Malformed,
}

impl Field {
    /// Copies both into one allocation.
    pub fn new(name: &[u8], value: &[u8]) -> Field {
        let mut both = Vec::with_capacity(name.len() + value.len());
        both.extend_from_slice(name);
        both.extend_from_slice(value);
        let mut name_bytes = Bytes::from(both);
        let value_bytes = name_bytes.split_off(name.len());
        Field { class: Class::of(name, value), name: name_bytes, value: value_bytes }
    }

    pub fn with_name(name: Bytes, value: &[u8]) -> Field {
        Field { class: Class::of(&name, value), name, value: Bytes::copy_from_slice(value) }
    }
}

impl Class {
    pub const fn of(name: &[u8], value: &[u8]) -> Class {
        if !is_valid_value(value) {
            return Class::Malformed;
        }
        match name {
            b":method" => Class::Method,
            b":scheme" => Class::Scheme,
            b":authority" => Class::Authority,
            b":path" => Class::Path,
            b"content-length" => Class::ContentLength,
            b"host" => Class::Host,
            b"connection" | b"proxy-connection" | b"keep-alive" | b"transfer-encoding"
            | b"upgrade" => Class::Malformed,
            b"te" if !matches!(value, b"trailers") => Class::Malformed,
            _ if is_valid_name(name) => Class::Regular,
            _ => Class::Malformed,
        }
    }

    pub const fn is_pseudo(self) -> bool {
        matches!(self, Class::Method | Class::Scheme | Class::Authority | Class::Path)
    }
}

/// RFC 9113, 8.2.1: visible ASCII without upper case; no colon, since those pseudo-header fields
/// that exist have been recognised before.
const fn is_valid_name(name: &[u8]) -> bool {
    let mut i = 0;
    while i < name.len() {
        match name[i] {
            0x00..=0x20 | b'A'..=b'Z' | b':' | 0x7f..=0xff => return false,
            _ => i += 1,
        }
    }
    !name.is_empty()
}

/// RFC 9113, 8.2.1: no NUL, CR, LF; no white space around.
const fn is_valid_value(value: &[u8]) -> bool {
    let mut i = 0;
    while i < value.len() {
        if matches!(value[i], 0 | b'\r' | b'\n') {
            return false;
        }
        i += 1;
    }
    !matches!(value, [b' ' | b'\t', ..] | [.., b' ' | b'\t'])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_classed_as_the_rfc_demands() {
        let cases: [(&[u8], &[u8], Class); 22] = [
            (b":method", b"POST", Class::Method),
            (b":scheme", b"http", Class::Scheme),
            (b":path", b"/a/b", Class::Path),
            (b":authority", b"", Class::Authority),
            (b":status", b"200", Class::Malformed),
            (b":unknown", b"x", Class::Malformed),
            (b"", b"x", Class::Malformed),
            (b"content-length", b"1", Class::ContentLength),
            (b"host", b"a", Class::Host),
            (b"te", b"trailers", Class::Regular),
            (b"te", b"gzip", Class::Malformed),
            (b"connection", b"close", Class::Malformed),
            (b"upgrade", b"h2c", Class::Malformed),
            (b"grpc-timeout", b"1S", Class::Regular),
            (b"Grpc-Timeout", b"1S", Class::Malformed),
            (b"a b", b"", Class::Malformed),
            (b"a:b", b"", Class::Malformed),
            (b"caf\xc3\xa9", b"", Class::Malformed),
            (b"a", b"x\ny", Class::Malformed),
            (b"a", b" x", Class::Malformed),
            (b"a", b"x\t", Class::Malformed),
            (b"a", b"\xff x", Class::Regular),
        ];
        for (name, value, class) in cases {
            let field = Field::new(name, value);
            assert_eq!(field.class, class, "{name:?} {value:?}");
            assert_eq!((&field.name[..], &field.value[..]), (name, value));
        }
    }
}
