//! Protobuf to JSON, as Go's `protojson` writes it with the names of the schema and without what is zero.

use std::fmt::Write;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use prost::bytes::Buf;
use prost::encoding::{WireType, decode_key, decode_varint};

use crate::proto::schema::{ENUMS, Field, Kind, MESSAGES};

/// Bytes that are no message of their type. They come from this process, so it is an error of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

/// How strings are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Escape {
    Plain,
    /// So that a browser takes none of them for markup: what Go's `encoding/json` does to messages of a stream.
    Html,
}

/// Appends the JSON of a message.
pub fn message(of: usize, bytes: &[u8], escape: Escape, out: &mut String) -> Result<(), Malformed> {
    let message = MESSAGES.get(of).ok_or(Malformed)?;
    // In the order of the schema; stable, so that lists keep theirs.
    let mut found = fields(message.fields, bytes)?;
    found.sort_by_key(|(place, _)| *place);
    out.push('{');
    let mut first = true;
    let mut rest = found.as_slice();
    while let Some((place, _)) = rest.first() {
        let same = rest.iter().take_while(|(other, _)| other == place).count();
        let (values, others) = rest.split_at(same);
        rest = others;
        let field = &message.fields[*place];
        let shown = if field.repeated { values } else { &values[values.len() - 1..] };
        if !field.repeated && field.oneof.is_none() && shown[0].1.is_zero() {
            continue;
        }
        if !std::mem::take(&mut first) {
            out.push(',');
        }
        let _ = write!(out, "\"{}\":", field.name);
        if field.repeated {
            out.push('[');
        }
        for (at, (_, value)) in shown.iter().enumerate() {
            if at > 0 {
                out.push(',');
            }
            self::value(field, value, escape, out)?;
        }
        if field.repeated {
            out.push(']');
        }
    }
    out.push('}');
    Ok(())
}

#[derive(Clone, Copy, Debug)]
enum Value<'a> {
    Varint(u64),
    Bytes(&'a [u8]),
    Message(&'a [u8]),
}

impl Value<'_> {
    /// Messages are there or not; what else is zero is not shown.
    fn is_zero(&self) -> bool {
        match self {
            Value::Varint(value) => *value == 0,
            Value::Bytes(value) => value.is_empty(),
            Value::Message(_) => false,
        }
    }
}

/// The fields that the schema knows, by their places in it.
fn fields<'a>(known: &[Field], mut bytes: &'a [u8]) -> Result<Vec<(usize, Value<'a>)>, Malformed> {
    let mut found = Vec::new();
    while bytes.has_remaining() {
        let (number, wire) = decode_key(&mut bytes).map_err(|_| Malformed)?;
        let place = known.iter().position(|field| field.number == number);
        match wire {
            WireType::Varint => {
                let value = decode_varint(&mut bytes).map_err(|_| Malformed)?;
                found.extend(place.map(|place| (place, Value::Varint(value))));
            }
            WireType::LengthDelimited => {
                let len = decode_varint(&mut bytes).map_err(|_| Malformed)?;
                let len = usize::try_from(len).map_err(|_| Malformed)?;
                let (value, rest) = bytes.split_at_checked(len).ok_or(Malformed)?;
                bytes = rest;
                let Some(place) = place else { continue };
                match known[place].kind {
                    Kind::Message(_) => found.push((place, Value::Message(value))),
                    Kind::String | Kind::Bytes => found.push((place, Value::Bytes(value))),
                    _ => packed(place, value, &mut found)?,
                }
            }
            WireType::ThirtyTwoBit => {
                bytes = bytes.get(4..).ok_or(Malformed)?;
            }
            WireType::SixtyFourBit => {
                bytes = bytes.get(8..).ok_or(Malformed)?;
            }
            WireType::StartGroup | WireType::EndGroup => return Err(Malformed),
        }
    }
    Ok(found)
}

/// Numbers of a list in one field.
fn packed<'a>(
    place: usize,
    mut bytes: &'a [u8],
    found: &mut Vec<(usize, Value<'a>)>,
) -> Result<(), Malformed> {
    while bytes.has_remaining() {
        let value = decode_varint(&mut bytes).map_err(|_| Malformed)?;
        found.push((place, Value::Varint(value)));
    }
    Ok(())
}

fn value(
    field: &Field,
    value: &Value<'_>,
    escape: Escape,
    out: &mut String,
) -> Result<(), Malformed> {
    let _ = match (field.kind, *value) {
        (Kind::Bool, Value::Varint(value)) => write!(out, "{}", value != 0),
        (Kind::Int32, Value::Varint(value)) => write!(out, "{}", value as i32),
        (Kind::Uint32, Value::Varint(value)) => write!(out, "{}", value as u32),
        (Kind::Int64, Value::Varint(value)) => write!(out, "\"{}\"", value as i64),
        (Kind::Uint64, Value::Varint(value)) => write!(out, "\"{value}\""),
        (Kind::Enum(of), Value::Varint(value)) => {
            let value = value as i32;
            let values = ENUMS.get(of).ok_or(Malformed)?.values;
            match values.iter().find(|(known, _)| *known == value) {
                Some((_, name)) => write!(out, "\"{name}\""),
                None => write!(out, "{value}"),
            }
        }
        (Kind::String, Value::Bytes(value)) => {
            let text = std::str::from_utf8(value).map_err(|_| Malformed)?;
            string(text, escape, out);
            Ok(())
        }
        (Kind::Bytes, Value::Bytes(value)) => {
            out.push('"');
            STANDARD.encode_string(value, out);
            out.push('"');
            Ok(())
        }
        (Kind::Message(of), Value::Message(value)) => {
            return message(of, value, escape, out);
        }
        _ => return Err(Malformed),
    };
    Ok(())
}

/// Appends a string in quotes.
pub fn string(text: &str, escape: Escape, out: &mut String) {
    out.push('"');
    for c in text.chars() {
        let _ = match c {
            '"' | '\\' => write!(out, "\\{c}"),
            '\u{8}' => write!(out, "\\b"),
            '\u{c}' => write!(out, "\\f"),
            '\n' => write!(out, "\\n"),
            '\r' => write!(out, "\\r"),
            '\t' => write!(out, "\\t"),
            '\0'..' ' => write!(out, "\\u{:04x}", c as u32),
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' if escape == Escape::Html => {
                write!(out, "\\u{:04x}", c as u32)
            }
            _ => write!(out, "{c}"),
        };
    }
    out.push('"');
}
