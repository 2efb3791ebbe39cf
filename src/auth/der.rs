//! As much of PEM and DER as it takes to find the keys in the files that openssl writes: RFC 7468, RFC 5208 (PKCS#8),
//! RFC 5915 (EC keys), RFC 5280 (public keys, and certificates around them).

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// One block of a PEM file: its label, and what it holds.
pub struct Block {
    pub label: String,
    pub bytes: Vec<u8>,
}

/// The first block of a PEM file.
pub fn pem(text: &[u8]) -> Option<Block> {
    let text = std::str::from_utf8(text).ok()?;
    let (_, rest) = text.split_once("-----BEGIN ")?;
    let (label, rest) = rest.split_once("-----")?;
    let (body, _) = rest.split_once(&format!("-----END {label}-----"))?;
    // Old files say on lines before an empty one how they are encrypted; these are not taken.
    let packed: String = body.chars().filter(|c| !c.is_ascii_whitespace()).collect();
    Some(Block { label: label.to_owned(), bytes: STANDARD.decode(packed).ok()? })
}

pub const SEQUENCE: u8 = 0x30;
pub const INTEGER: u8 = 0x02;
pub const BIT_STRING: u8 = 0x03;
pub const OCTET_STRING: u8 = 0x04;
const CONTEXT_0: u8 = 0xa0;
const CONTEXT_1: u8 = 0xa1;

/// Values that stand one behind the other.
#[derive(Clone, Copy)]
pub struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub fn new(bytes: &'a [u8]) -> Reader<'a> {
        Reader(bytes)
    }

    fn next(&mut self) -> Option<(u8, &'a [u8])> {
        let (tag, rest) = self.0.split_first()?;
        let (first, mut rest) = rest.split_first()?;
        let mut len = usize::from(*first);
        if len >= 0x80 {
            let octets = len & 0x7f;
            if octets == 0 || octets > 4 {
                return None;
            }
            len = 0;
            for octet in rest.get(..octets)? {
                len = len << 8 | usize::from(*octet);
            }
            rest = rest.get(octets..)?;
        }
        let value = rest.get(..len)?;
        self.0 = rest.get(len..)?;
        Some((*tag, value))
    }

    /// The next value, if it has the tag.
    pub fn value(&mut self, tag: u8) -> Option<&'a [u8]> {
        let mut ahead = *self;
        let (found, value) = ahead.next()?;
        if found != tag {
            return None;
        }
        *self = ahead;
        Some(value)
    }

    pub fn sequence(&mut self) -> Option<Reader<'a>> {
        self.value(SEQUENCE).map(Reader)
    }

    fn bits(&mut self) -> Option<&'a [u8]> {
        self.value(BIT_STRING)?.strip_prefix(&[0])
    }
}

/// The key in a `SubjectPublicKeyInfo`: an RSA public key, a point, or 32 bytes.
pub fn public_key(der: &[u8]) -> Option<&[u8]> {
    let mut info = Reader::new(der).sequence()?;
    info.sequence()?;
    info.bits()
}

/// The key of a certificate, in the same form.
pub fn key_of_certificate(der: &[u8]) -> Option<&[u8]> {
    let mut signed = Reader::new(der).sequence()?.sequence()?;
    signed.value(CONTEXT_0);
    signed.value(INTEGER)?;
    // Signature, issuer, validity, subject.
    for _ in 0..4 {
        signed.sequence()?;
    }
    let mut info = signed.sequence()?;
    info.sequence()?;
    info.bits()
}

/// What PKCS#8 holds: the key in the form of its kind.
pub fn pkcs8_key(der: &[u8]) -> Option<&[u8]> {
    let mut info = Reader::new(der).sequence()?;
    info.value(INTEGER)?;
    info.sequence()?;
    info.value(OCTET_STRING)
}

/// The private number of an EC key, and its point if it is there.
pub fn ec_key(der: &[u8]) -> Option<(&[u8], Option<&[u8]>)> {
    let mut key = Reader::new(der).sequence()?;
    key.value(INTEGER)?;
    let private = key.value(OCTET_STRING)?;
    key.value(CONTEXT_0);
    let point = key.value(CONTEXT_1).and_then(|inner| Reader(inner).bits());
    Some((private, point))
}
