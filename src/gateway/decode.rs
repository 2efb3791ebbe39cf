//! JSON to protobuf, as Go's `protojson` reads it with `DiscardUnknown`, and with its words for what is wrong.

use base64::Engine;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use prost::encoding::{WireType, encode_key, encode_varint};

use super::token::{Kind as TokenKind, Token, Tokens, integer, number_len};
use crate::proto::schema::{ENUMS, Field, Kind, MESSAGES};

/// Messages within messages: as deep as those are read that come in protobuf (prost's bound).
const DEPTH_MAX: usize = 100;

/// The message of a type that a well-formed JSON value stands for.
pub fn message(of: usize, json: &[u8]) -> Result<Vec<u8>, String> {
    let mut out = Vec::with_capacity(json.len());
    let mut decoder = Decoder { tokens: Tokens::new(json), depth: 0 };
    decoder.message(of, &mut out)?;
    Ok(out)
}

struct Decoder<'a> {
    tokens: Tokens<'a>,
    depth: usize,
}

impl Decoder<'_> {
    fn message(&mut self, of: usize, out: &mut Vec<u8>) -> Result<(), String> {
        if self.depth >= DEPTH_MAX {
            return Err("proto: exceeded max recursion depth".to_owned());
        }
        self.depth += 1;
        let open = self.tokens.next()?;
        if open.kind != TokenKind::ObjectOpen {
            return Err(self.tokens.unexpected(&open));
        }
        let message = MESSAGES.get(of).ok_or("proto: no such message")?;
        let mut seen: Vec<u32> = Vec::new();
        let mut groups: Vec<&str> = Vec::new();
        loop {
            let token = self.tokens.next()?;
            let name = match &token.kind {
                TokenKind::ObjectClose => break,
                TokenKind::String(name) => name,
                _ => return Err(self.tokens.unexpected(&token)),
            };
            let mut fields = message.fields.iter();
            let Some(field) = fields.find(|field| field.json_name == name || field.name == name)
            else {
                self.tokens.skip()?;
                continue;
            };
            if seen.contains(&field.number) {
                let what = format!("duplicate field {}", token.raw());
                return Err(self.tokens.error(token.at, &what));
            }
            seen.push(field.number);
            if self.tokens.peek()?.kind == TokenKind::Null {
                self.tokens.next()?;
                continue;
            }
            if field.repeated {
                self.list(field, out)?;
                continue;
            }
            if let Some(group) = field.oneof {
                if groups.contains(&group) {
                    let name = message.name;
                    let what = format!(
                        "error parsing {}, oneof {name}.{group} is already set",
                        token.raw()
                    );
                    return Err(self.tokens.error(token.at, &what));
                }
                groups.push(group);
            }
            self.value(field, out)?;
        }
        self.depth -= 1;
        Ok(())
    }

    fn list(&mut self, field: &Field, out: &mut Vec<u8>) -> Result<(), String> {
        let open = self.tokens.next()?;
        if open.kind != TokenKind::ArrayOpen {
            return Err(self.tokens.unexpected(&open));
        }
        while self.tokens.peek()?.kind != TokenKind::ArrayClose {
            self.value(field, out)?;
        }
        self.tokens.next()?;
        Ok(())
    }

    fn value(&mut self, field: &Field, out: &mut Vec<u8>) -> Result<(), String> {
        if let Kind::Message(of) = field.kind {
            let mut inner = Vec::new();
            self.message(of, &mut inner)?;
            put_bytes(field.number, &inner, out);
            return Ok(());
        }
        let token = self.tokens.next()?;
        match scalar(field.kind, &token) {
            Some(Scalar::Varint(value)) => {
                if value != 0 || field.repeated || field.oneof.is_some() {
                    encode_key(field.number, WireType::Varint, out);
                    encode_varint(value, out);
                }
            }
            Some(Scalar::Bytes(value)) => {
                if !value.is_empty() || field.repeated || field.oneof.is_some() {
                    put_bytes(field.number, &value, out);
                }
            }
            Some(Scalar::Unknown) => {}
            None => {
                let what = format!(
                    "invalid value for {} field {}: {}",
                    kind_name(field.kind),
                    field.json_name,
                    token.raw()
                );
                return Err(self.tokens.error(token.at, &what));
            }
        }
        Ok(())
    }
}

enum Scalar {
    Varint(u64),
    Bytes(Vec<u8>),
    /// The name of no value of an enum: dropped, as a field of no name is.
    Unknown,
}

fn scalar(kind: Kind, token: &Token<'_>) -> Option<Scalar> {
    let within = |min: i128, max: i128| {
        let value = number(token).filter(|value| (min..=max).contains(value))?;
        // Negative numbers are sign-extended to 64 bits.
        Some(Scalar::Varint(value as u64))
    };
    match (kind, &token.kind) {
        (Kind::Bool, TokenKind::Bool(value)) => Some(Scalar::Varint(u64::from(*value))),
        (Kind::Int32, _) => within(i32::MIN.into(), i32::MAX.into()),
        (Kind::Int64, _) => within(i64::MIN.into(), i64::MAX.into()),
        (Kind::Uint32, _) => within(0, u32::MAX.into()),
        (Kind::Uint64, _) => within(0, u64::MAX.into()),
        (Kind::String, TokenKind::String(text)) => Some(Scalar::Bytes(text.as_bytes().to_vec())),
        (Kind::Bytes, TokenKind::String(text)) => base64(text).map(Scalar::Bytes),
        (Kind::Enum(of), TokenKind::String(name)) => {
            let values = ENUMS.get(of)?.values;
            let known = values.iter().find(|(_, known)| known == name);
            Some(known.map_or(Scalar::Unknown, |(value, _)| Scalar::Varint(*value as u64)))
        }
        (Kind::Enum(_), TokenKind::Number) => within(i32::MIN.into(), i32::MAX.into()),
        _ => None,
    }
}

/// A number, or a string that holds one.
fn number(token: &Token<'_>) -> Option<i128> {
    match &token.kind {
        TokenKind::Number => integer(token.raw),
        TokenKind::String(text) if text.trim().len() == text.len() => {
            let len = number_len(text.as_bytes());
            integer(text.as_bytes().get(..len).filter(|number| !number.is_empty())?)
        }
        _ => None,
    }
}

/// Either alphabet, with padding or without; what is no alphabet's is refused.
fn base64(text: &str) -> Option<Vec<u8>> {
    let alphabet = if text.contains(['-', '_']) { alphabet::URL_SAFE } else { alphabet::STANDARD };
    let padding = match text.len() % 4 {
        0 => DecodePaddingMode::RequireCanonical,
        _ => DecodePaddingMode::RequireNone,
    };
    let config = GeneralPurposeConfig::new()
        .with_decode_allow_trailing_bits(true)
        .with_decode_padding_mode(padding);
    GeneralPurpose::new(&alphabet, config).decode(text.replace(['\r', '\n'], "")).ok()
}

fn put_bytes(number: u32, bytes: &[u8], out: &mut Vec<u8>) {
    encode_key(number, WireType::LengthDelimited, out);
    encode_varint(bytes.len() as u64, out);
    out.extend_from_slice(bytes);
}

fn kind_name(kind: Kind) -> &'static str {
    match kind {
        Kind::Bool => "bool",
        Kind::Int32 => "int32",
        Kind::Int64 => "int64",
        Kind::Uint32 => "uint32",
        Kind::Uint64 => "uint64",
        Kind::String => "string",
        Kind::Bytes => "bytes",
        Kind::Enum(_) => "enum",
        Kind::Message(_) => "message",
    }
}
