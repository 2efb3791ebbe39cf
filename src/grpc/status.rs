//! Status codes, and `grpc-message` as it stands in trailers.

use std::borrow::Cow;
use std::fmt;

/// The codes of gRPC, named as grpc-go prints them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Code {
    Ok = 0,
    Canceled = 1,
    Unknown = 2,
    InvalidArgument = 3,
    DeadlineExceeded = 4,
    NotFound = 5,
    AlreadyExists = 6,
    PermissionDenied = 7,
    ResourceExhausted = 8,
    FailedPrecondition = 9,
    Aborted = 10,
    OutOfRange = 11,
    Unimplemented = 12,
    Internal = 13,
    Unavailable = 14,
    DataLoss = 15,
    Unauthenticated = 16,
}

impl Code {
    pub const ALL: [Code; 17] = [
        Code::Ok,
        Code::Canceled,
        Code::Unknown,
        Code::InvalidArgument,
        Code::DeadlineExceeded,
        Code::NotFound,
        Code::AlreadyExists,
        Code::PermissionDenied,
        Code::ResourceExhausted,
        Code::FailedPrecondition,
        Code::Aborted,
        Code::OutOfRange,
        Code::Unimplemented,
        Code::Internal,
        Code::Unavailable,
        Code::DataLoss,
        Code::Unauthenticated,
    ];

    /// The name used in metrics and logs.
    pub const fn name(self) -> &'static str {
        match self {
            Code::Ok => "OK",
            Code::Canceled => "Canceled",
            Code::Unknown => "Unknown",
            Code::InvalidArgument => "InvalidArgument",
            Code::DeadlineExceeded => "DeadlineExceeded",
            Code::NotFound => "NotFound",
            Code::AlreadyExists => "AlreadyExists",
            Code::PermissionDenied => "PermissionDenied",
            Code::ResourceExhausted => "ResourceExhausted",
            Code::FailedPrecondition => "FailedPrecondition",
            Code::Aborted => "Aborted",
            Code::OutOfRange => "OutOfRange",
            Code::Unimplemented => "Unimplemented",
            Code::Internal => "Internal",
            Code::Unavailable => "Unavailable",
            Code::DataLoss => "DataLoss",
            Code::Unauthenticated => "Unauthenticated",
        }
    }

    /// The value of `grpc-status`.
    pub const fn digits(self) -> &'static str {
        const DIGITS: [&str; 17] = [
            "0", "1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "11", "12", "13", "14", "15",
            "16",
        ];
        DIGITS[self as usize]
    }

    pub fn from_number(number: u32) -> Option<Code> {
        Code::ALL.get(number as usize).copied()
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    pub code: Code,
    pub message: Cow<'static, str>,
}

impl Status {
    pub const OK: Status = Status { code: Code::Ok, message: Cow::Borrowed("") };

    pub fn new(code: Code, message: impl Into<Cow<'static, str>>) -> Status {
        Status { code, message: message.into() }
    }

    /// For a call that ends without a message, or in the middle of one (`cut`).
    pub fn end_of_request(cut: bool) -> Status {
        Status::new(Code::Unknown, if cut { "unexpected EOF" } else { "EOF" })
    }

    /// For a value of `grpc-encoding` other than `identity` and `gzip`.
    pub fn unknown_encoding(encoding: &[u8]) -> Status {
        let encoding = quote(encoding);
        Status::new(
            Code::Unimplemented,
            format!("grpc: Decompressor is not installed for grpc-encoding {encoding}"),
        )
    }

    /// A request whose content type is not gRPC's; grpc-go answers it with HTTP status 415, too.
    pub fn unknown_content_type(kind: &[u8]) -> Status {
        let kind = quote(kind);
        Status::new(Code::InvalidArgument, format!("invalid gRPC request content-type {kind}"))
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code, self.message)
    }
}

impl std::error::Error for Status {}

fn is_plain(octet: u8) -> bool {
    matches!(octet, b' '..=b'~') && octet != b'%'
}

/// Percent-encodes a message for `grpc-message`.
pub fn encode_message(message: &str) -> Cow<'_, str> {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    if message.bytes().all(is_plain) {
        return Cow::Borrowed(message);
    }
    let mut encoded = String::with_capacity(message.len() + 16);
    for octet in message.bytes() {
        if is_plain(octet) {
            encoded.push(char::from(octet));
        } else {
            encoded.push('%');
            encoded.push(char::from(HEX[usize::from(octet >> 4)]));
            encoded.push(char::from(HEX[usize::from(octet & 0xf)]));
        }
    }
    Cow::Owned(encoded)
}

/// The reverse; what is not an encoding stands for itself, as the specification demands.
pub fn decode_message(encoded: &[u8]) -> String {
    let mut message = Vec::with_capacity(encoded.len());
    let mut rest = encoded;
    while let Some((&first, after)) = rest.split_first() {
        rest = after;
        let digits = after.first_chunk::<2>().filter(|_| first == b'%');
        let octet = digits.and_then(|&[high, low]| Some(hex(high)? << 4 | hex(low)?));
        match octet {
            Some(octet) => {
                message.push(octet);
                rest = &after[2..];
            }
            None => message.push(first),
        }
    }
    String::from_utf8(message)
        .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).map(|value| value as u8)
}

/// A string as Go's `%q` prints it.
pub(super) fn quote(text: &[u8]) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for chunk in text.utf8_chunks() {
        for letter in chunk.valid().chars() {
            match letter {
                '"' => quoted.push_str("\\\""),
                '\\' => quoted.push_str("\\\\"),
                '\x07' => quoted.push_str("\\a"),
                '\x08' => quoted.push_str("\\b"),
                '\x0c' => quoted.push_str("\\f"),
                '\n' => quoted.push_str("\\n"),
                '\r' => quoted.push_str("\\r"),
                '\t' => quoted.push_str("\\t"),
                '\x0b' => quoted.push_str("\\v"),
                '\0'..='\x1f' | '\x7f' => quoted.push_str(&format!("\\x{:02x}", letter as u32)),
                '\u{80}'..='\u{a0}' => quoted.push_str(&format!("\\u{:04x}", letter as u32)),
                _ => quoted.push(letter),
            }
        }
        for octet in chunk.invalid() {
            quoted.push_str(&format!("\\x{octet:02x}"));
        }
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_have_the_numbers_of_grpc() {
        for (number, code) in Code::ALL.into_iter().enumerate() {
            assert_eq!(code as usize, number);
            assert_eq!(code.digits(), number.to_string());
            assert_eq!(Code::from_number(number as u32), Some(code));
        }
        assert_eq!(Code::from_number(17), None);
    }

    #[test]
    fn messages_are_percent_encoded_as_grpc_go_does() {
        let cases = [
            ("", ""),
            ("etcdserver: key is not provided", "etcdserver: key is not provided"),
            ("100%", "100%25"),
            ("a\nb", "a%0Ab"),
            ("Hello, 世界", "Hello, %E4%B8%96%E7%95%8C"),
            ("~ \u{7f}", "~ %7F"),
        ];
        for (plain, encoded) in cases {
            assert_eq!(encode_message(plain), encoded);
            assert_eq!(decode_message(encoded.as_bytes()), plain);
        }
    }

    #[test]
    fn what_is_not_an_encoding_is_left_alone() {
        let cases = [("%", "%"), ("%4", "%4"), ("%zz", "%zz"), ("%+1", "%+1"), ("%41%4", "A%4")];
        for (encoded, plain) in cases {
            assert_eq!(decode_message(encoded.as_bytes()), plain);
        }
        assert_eq!(decode_message(b"%FF"), "\u{fffd}");
    }

    #[test]
    fn an_unknown_encoding_is_quoted_like_go() {
        let cases: [(&[u8], &str); 3] = [
            (b"gzip", "\"gzip\""),
            (b"a\"b\\c\td\x01", "\"a\\\"b\\\\c\\td\\x01\""),
            (b"caf\xc3\xa9 \xff", "\"caf\u{e9} \\xff\""),
        ];
        for (encoding, quoted) in cases {
            let text = format!("grpc: Decompressor is not installed for grpc-encoding {quoted}");
            assert_eq!(Status::unknown_encoding(encoding), Status::new(Code::Unimplemented, text));
        }
    }
}
