//! Protobuf by hand, as far as the messages of a load need it: written into a buffer that is there
//! already, read without building what is not looked at.
//!
//! A generated type would cost an allocation for each key, value and event of each request; the
//! generator must be cheaper than what it loads.

const VARINT: u8 = 0;
const FIXED64: u8 = 1;
const LENGTH_DELIMITED: u8 = 2;
const FIXED32: u8 = 5;

#[inline]
pub fn varint(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// A field of fewer than 16, as all are here but one, takes one octet for its tag.
#[inline]
fn tag(field: u32, kind: u8, out: &mut Vec<u8>) {
    varint(u64::from(field << 3 | u32::from(kind)), out);
}

/// Nothing for the default value, as proto3 has it.
#[inline]
pub fn number(field: u32, value: i64, out: &mut Vec<u8>) {
    if value != 0 {
        tag(field, VARINT, out);
        varint(value as u64, out);
    }
}

/// Present even when it is the default, as the members of a `oneof` are.
#[inline]
pub fn member(field: u32, value: i64, out: &mut Vec<u8>) {
    tag(field, VARINT, out);
    varint(value as u64, out);
}

#[inline]
pub fn flag(field: u32, value: bool, out: &mut Vec<u8>) {
    number(field, i64::from(value), out);
}

/// Nothing for empty bytes.
#[inline]
pub fn bytes(field: u32, value: &[u8], out: &mut Vec<u8>) {
    if !value.is_empty() {
        tag(field, LENGTH_DELIMITED, out);
        varint(value.len() as u64, out);
        out.extend_from_slice(value);
    }
}

/// A field whose content `write` appends; present even when that is nothing.
#[inline]
pub fn nested(field: u32, out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    tag(field, LENGTH_DELIMITED, out);
    let start = out.len();
    out.push(0);
    write(out);
    let mut length = (out.len() - start - 1) as u64;
    // The room for a length below 128 is there; a longer one moves what has been written.
    let mut at = start;
    while length >= 0x80 {
        out[at] = length as u8 | 0x80;
        length >>= 7;
        at += 1;
        out.insert(at, 0);
    }
    out[at] = length as u8;
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value<'a> {
    Number(u64),
    Bytes(&'a [u8]),
    /// Fixed 32 and 64 bits, which none of the messages has.
    Other,
}

/// Not a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

/// The fields of a message, in their order.
#[derive(Clone, Copy, Debug)]
pub struct Fields<'a>(pub &'a [u8]);

impl<'a> Fields<'a> {
    /// `None` at the end of the message.
    #[inline]
    pub fn next(&mut self) -> Result<Option<(u32, Value<'a>)>, Malformed> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let tag = self.varint()?;
        let value = match (tag & 7) as u8 {
            VARINT => Value::Number(self.varint()?),
            LENGTH_DELIMITED => {
                let length = usize::try_from(self.varint()?).map_err(|_| Malformed)?;
                Value::Bytes(self.take(length)?)
            }
            FIXED64 => self.take(8).map(|_| Value::Other)?,
            FIXED32 => self.take(4).map(|_| Value::Other)?,
            _ => return Err(Malformed),
        };
        Ok(Some(((tag >> 3) as u32, value)))
    }

    /// The last value of a number, 0 without one.
    pub fn number(mut self, field: u32) -> Result<i64, Malformed> {
        let mut found = 0;
        while let Some((number, value)) = self.next()? {
            if let (true, Value::Number(value)) = (number == field, value) {
                found = value as i64;
            }
        }
        Ok(found)
    }

    /// The last value of a field of bytes, empty without one.
    pub fn bytes(mut self, field: u32) -> Result<&'a [u8], Malformed> {
        let mut found: &[u8] = &[];
        while let Some((number, value)) = self.next()? {
            if let (true, Value::Bytes(value)) = (number == field, value) {
                found = value;
            }
        }
        Ok(found)
    }

    #[inline]
    fn varint(&mut self) -> Result<u64, Malformed> {
        let mut value = 0u64;
        for shift in (0..70).step_by(7) {
            let (&octet, rest) = self.0.split_first().ok_or(Malformed)?;
            self.0 = rest;
            value |= u64::from(octet & 0x7f) << shift.min(63);
            if octet < 0x80 {
                return Ok(value);
            }
        }
        Err(Malformed)
    }

    #[inline]
    fn take(&mut self, length: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or(Malformed)?;
        self.0 = rest;
        Ok(taken)
    }
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::*;
    use crate::proto::etcdserverpb as pb;

    #[test]
    fn what_is_written_by_hand_is_what_prost_reads() {
        for length in [0usize, 1, 119, 120, 127, 128, 16_383, 16_384, 70_000] {
            let value = vec![7u8; length];
            let mut out = Vec::new();
            nested(1, &mut out, |out| {
                nested(2, out, |out| {
                    bytes(1, b"key", out);
                    bytes(2, &value, out);
                    number(3, -5, out);
                    flag(4, true, out);
                });
            });
            // RequestOp { request_put } lies within TxnRequest.success, which is field 2; field 1
            // is a comparison, so only the inner message is looked at here.
            let inner = Fields(&out).bytes(1).unwrap();
            let op = pb::RequestOp::decode(inner).unwrap();
            let Some(pb::request_op::Request::RequestPut(put)) = op.request else { panic!() };
            assert_eq!((&put.key[..], put.value.len(), put.lease), (&b"key"[..], length, -5));
            assert!(put.prev_kv);
        }
    }

    #[test]
    fn what_prost_writes_is_read_field_by_field() {
        let response = pb::WatchResponse {
            watch_id: 300,
            created: true,
            cancel_reason: "x".repeat(200),
            ..Default::default()
        };
        let wire = response.encode_to_vec();
        assert_eq!(Fields(&wire).number(2), Ok(300));
        assert_eq!(Fields(&wire).number(3), Ok(1));
        assert_eq!(Fields(&wire).number(4), Ok(0));
        assert_eq!(Fields(&wire).bytes(6), Ok("x".repeat(200).as_bytes()));
        assert_eq!(Fields(&wire).bytes(11), Ok(&[][..]));
    }

    #[test]
    fn no_message_that_is_cut_or_changed_panics() {
        let whole = pb::PutResponse {
            header: Some(pb::ResponseHeader { revision: 1 << 40, ..Default::default() }),
            prev_kv: Some(crate::proto::mvccpb::KeyValue {
                key: vec![1; 200].into(),
                ..Default::default()
            }),
        }
        .encode_to_vec();
        let walk = |wire: &[u8]| {
            let mut fields = Fields(wire);
            while let Ok(Some((_, value))) = fields.next() {
                if let Value::Bytes(inner) = value {
                    let mut inner = Fields(inner);
                    while let Ok(Some(_)) = inner.next() {}
                }
            }
        };
        for end in 0..whole.len() {
            walk(&whole[..end]);
            for octet in [0x00, 0x7f, 0x80, 0xff] {
                let mut changed = whole.clone();
                changed[end] = octet;
                walk(&changed);
            }
        }
        assert_eq!(Fields(&[0x0a, 0x05, 1]).next(), Err(Malformed));
        assert_eq!(Fields(&[0x80; 11]).next(), Err(Malformed));
        assert_eq!(Fields(&[0x0b]).next(), Err(Malformed));
    }
}
