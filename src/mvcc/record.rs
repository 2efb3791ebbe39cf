//! The records of the KEY and REV trees, byte by byte.
//!
//! ```text
//! KEY value   flags (1)                                  a deletion ends here
//!             create main, version, lease, value length  varints
//! REV value   flags (1)
//!             main and sub of the key's change before    varints, both 0 if there is none
//!             mvccpb.KeyValue                            the rest
//! flags       1 deletion; 2 the put begins a life of the key
//! ```
//!
//! The message has etcd's bytes exactly: fields in ascending order, zeros left out, and of a
//! deletion only the key. Replies, events and hashes copy it as it is.
//!
//! The change before may have been compacted since; its record is then gone, or on its way.

use super::revision::Revision;
use super::wire::{
    SliceWriter, put_bytes, put_varint, tag_bytes, tag_varint, take_bytes, take_varint, varint_len,
};

const TOMBSTONE: u8 = 1;
const CREATE: u8 = 2;

/// Field numbers of `mvccpb.KeyValue`.
const KEY: u8 = 1;
const CREATE_REVISION: u8 = 2;
const MOD_REVISION: u8 = 3;
const VERSION: u8 = 4;
const VALUE: u8 = 5;
const LEASE: u8 = 6;

/// What the KEY tree says of one version of a key, beside its revision.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KeyMeta {
    pub tombstone: bool,
    pub create: i64,
    pub version: i64,
    pub lease: i64,
    pub value_len: u64,
}

/// Flags and four varints of up to ten bytes.
const KEY_META_MAX: usize = 41;

impl KeyMeta {
    pub const TOMBSTONE: KeyMeta =
        KeyMeta { tombstone: true, create: 0, version: 0, lease: 0, value_len: 0 };

    pub fn encode(self, buffer: &mut [u8; KEY_META_MAX]) -> &[u8] {
        if self.tombstone {
            buffer[0] = TOMBSTONE;
            return &buffer[..1];
        }
        let fields = [self.create as u64, self.version as u64, self.lease as u64, self.value_len];
        let len = 1 + fields.iter().map(|&field| varint_len(field)).sum::<usize>();
        let mut writer = SliceWriter::new(&mut buffer[..len]);
        writer.byte(0);
        fields.into_iter().for_each(|field| writer.varint(field));
        writer.finish();
        &buffer[..len]
    }

    pub fn buffer() -> [u8; KEY_META_MAX] {
        [0; KEY_META_MAX]
    }

    pub fn decode(bytes: &[u8]) -> Option<KeyMeta> {
        let (&flags, mut rest) = bytes.split_first()?;
        if flags & TOMBSTONE != 0 {
            return rest.is_empty().then_some(KeyMeta::TOMBSTONE);
        }
        let meta = KeyMeta {
            tombstone: false,
            create: take_varint(&mut rest)? as i64,
            version: take_varint(&mut rest)? as i64,
            lease: take_varint(&mut rest)? as i64,
            value_len: take_varint(&mut rest)?,
        };
        rest.is_empty().then_some(meta)
    }
}

/// One change as the REV tree keeps it, beside its revision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    pub tombstone: bool,
    /// The key did not exist before this put.
    pub create: bool,
    /// The key's change before this one.
    pub prev: Option<Revision>,
    /// The encoded `mvccpb.KeyValue`.
    pub kv: &'a [u8],
}

impl<'a> Record<'a> {
    pub fn decode(bytes: &'a [u8]) -> Option<Record<'a>> {
        let (&flags, mut rest) = bytes.split_first()?;
        let main = i64::try_from(take_varint(&mut rest)?).ok()?;
        let sub = u32::try_from(take_varint(&mut rest)?).ok()?;
        let prev = (main != 0).then_some(Revision { main, sub });
        let (tombstone, create) = (flags & TOMBSTONE != 0, flags & CREATE != 0);
        Some(Record { tombstone, create, prev, kv: rest })
    }

    /// The user key: the first field of the message.
    pub fn key(&self) -> Option<&'a [u8]> {
        key_of(self.kv)
    }
}

/// The user key in an encoded `mvccpb.KeyValue`.
pub fn key_of(kv: &[u8]) -> Option<&[u8]> {
    let (&tag, mut rest) = kv.split_first()?;
    (tag == tag_bytes(KEY)).then(|| take_bytes(&mut rest))?
}

/// The value in an encoded `mvccpb.KeyValue`; empty if the field is left out.
pub fn value_of(kv: &[u8]) -> Option<&[u8]> {
    let mut rest = kv;
    while let Some((&tag, after)) = rest.split_first() {
        rest = after;
        match tag {
            _ if tag == tag_bytes(VALUE) => return take_bytes(&mut rest),
            _ if tag == tag_bytes(KEY) => drop(take_bytes(&mut rest)?),
            _ => drop(take_varint(&mut rest)?),
        }
    }
    Some(&[])
}

/// A change that is about to be written.
#[derive(Clone, Copy, Debug)]
pub struct NewRecord<'a> {
    pub prev: Option<Revision>,
    pub kv: KeyValue<'a>,
}

impl NewRecord<'_> {
    fn prev(&self) -> [u64; 2] {
        let prev = self.prev.unwrap_or_default();
        [prev.main as u64, u64::from(prev.sub)]
    }

    pub fn encoded_len(&self) -> usize {
        1 + self.prev().into_iter().map(varint_len).sum::<usize>() + self.kv.encoded_len()
    }

    /// Writes to a slice of [`NewRecord::encoded_len`] bytes.
    pub fn encode(&self, slice: &mut [u8]) {
        let mut writer = SliceWriter::new(slice);
        writer.byte(match self.kv {
            KeyValue { version: 0, .. } => TOMBSTONE,
            KeyValue { version: 1, .. } => CREATE,
            _ => 0,
        });
        self.prev().into_iter().for_each(|part| writer.varint(part));
        self.kv.encode(&mut writer);
        writer.finish();
    }
}

/// An `mvccpb.KeyValue` by its fields. Version 0 is a deletion.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KeyValue<'a> {
    pub key: &'a [u8],
    pub create: i64,
    pub modified: i64,
    pub version: i64,
    pub value: &'a [u8],
    pub lease: i64,
}

impl KeyValue<'_> {
    fn ints(&self) -> [(u8, i64); 3] {
        [(CREATE_REVISION, self.create), (MOD_REVISION, self.modified), (VERSION, self.version)]
    }

    pub fn encoded_len(&self) -> usize {
        let bytes = |bytes: &[u8]| match bytes.len() {
            0 => 0,
            len => 1 + varint_len(len as u64) + len,
        };
        bytes(self.key)
            + self.ints().into_iter().map(|(_, value)| int_len(value)).sum::<usize>()
            + bytes(self.value)
            + int_len(self.lease)
    }

    fn encode(&self, writer: &mut SliceWriter<'_>) {
        let bytes = |writer: &mut SliceWriter<'_>, field, bytes: &[u8]| {
            if !bytes.is_empty() {
                writer.byte(tag_bytes(field));
                writer.varint(bytes.len() as u64);
                writer.slice(bytes);
            }
        };
        let int = |writer: &mut SliceWriter<'_>, field, value| {
            if value != 0 {
                writer.byte(tag_varint(field));
                writer.varint(value as u64);
            }
        };
        bytes(writer, KEY, self.key);
        self.ints().into_iter().for_each(|(field, value)| int(writer, field, value));
        bytes(writer, VALUE, self.value);
        int(writer, LEASE, self.lease);
    }
}

fn int_len(value: i64) -> usize {
    if value == 0 { 0 } else { 1 + varint_len(value as u64) }
}

/// The length of an `mvccpb.KeyValue` as a message field, from what the KEY tree knows: with a value of
/// `value_len` bytes and `lease`, either 0 where it is left out.
pub fn field_len(
    prefix: &[u8],
    modified: i64,
    meta: &KeyMeta,
    value_len: u64,
    lease: i64,
) -> usize {
    let bytes_len = |len: usize| 1 + varint_len(len as u64) + len;
    let ints = [meta.create, modified, meta.version, lease];
    let value_len = if value_len == 0 { 0 } else { bytes_len(value_len as usize) };
    let key_len = bytes_len(super::keys::unescaped_len(prefix));
    bytes_len(key_len + value_len + ints.into_iter().map(int_len).sum::<usize>())
}

/// Appends the `mvccpb.KeyValue` of a key without its value, as message field `field`.
/// `prefix` is the escaped key, `lease` is 0 where etcd leaves it out.
pub fn put_key_only(
    out: &mut Vec<u8>,
    field: u8,
    prefix: &[u8],
    modified: i64,
    meta: &KeyMeta,
    lease: i64,
) {
    let key_len = super::keys::unescaped_len(prefix);
    let ints = [
        (CREATE_REVISION, meta.create),
        (MOD_REVISION, modified),
        (VERSION, meta.version),
        (LEASE, lease),
    ];
    let key_field_len = 1 + varint_len(key_len as u64) + key_len;
    let len = key_field_len + ints.into_iter().map(|(_, value)| int_len(value)).sum::<usize>();
    out.push(tag_bytes(field));
    put_varint(out, len as u64);
    out.push(tag_bytes(KEY));
    put_varint(out, key_len as u64);
    super::keys::unescape(prefix, |piece| out.extend_from_slice(piece));
    ints.into_iter().for_each(|(field, value)| super::wire::put_int(out, field, value));
}

/// Appends the `mvccpb.KeyValue` that an event of a deletion carries, as message field `field`:
/// the stored message has no revision, the event's has.
pub fn put_deleted(out: &mut Vec<u8>, field: u8, kv: &[u8], modified: i64) {
    let len = kv.len() + int_len(modified);
    out.push(tag_bytes(field));
    put_varint(out, len as u64);
    out.extend_from_slice(kv);
    super::wire::put_int(out, MOD_REVISION, modified);
}

/// Appends an `mvccpb.KeyValue` as message field `field`.
pub fn put_message(out: &mut Vec<u8>, field: u8, kv: &KeyValue<'_>) {
    let len = kv.encoded_len();
    out.push(tag_bytes(field));
    put_varint(out, len as u64);
    let start = out.len();
    out.resize(start + len, 0);
    let mut writer = SliceWriter::new(&mut out[start..]);
    kv.encode(&mut writer);
    writer.finish();
}

/// Appends a stored `mvccpb.KeyValue` as message field `field`.
pub fn put_stored(out: &mut Vec<u8>, field: u8, kv: &[u8]) {
    put_bytes(out, field, kv);
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use prost::Message;

    use super::*;
    use crate::mvcc::keys::KeyBuf;
    use crate::proto::mvccpb;

    fn kv<'a>(key: &'a [u8], value: &'a [u8], ints: [i64; 4]) -> KeyValue<'a> {
        let [create, modified, version, lease] = ints;
        KeyValue { key, create, modified, version, value, lease }
    }

    fn message(kv: &KeyValue<'_>) -> mvccpb::KeyValue {
        mvccpb::KeyValue {
            key: Bytes::copy_from_slice(kv.key),
            create_revision: kv.create,
            mod_revision: kv.modified,
            version: kv.version,
            value: Bytes::copy_from_slice(kv.value),
            lease: kv.lease,
        }
    }

    const SAMPLES: [(&[u8], &[u8], [i64; 4]); 6] = [
        (b"k", b"v", [2, 3, 2, 0]),
        (b"k\0", b"", [2, 2, 1, 7]),
        (b"\0", &[0xff; 300], [1 << 20, 1 << 40, 9, -5]),
        (b"deleted", b"", [0, 0, 0, 0]),
        (&[b'x'; 200], b"long key", [128, 16384, 127, i64::MAX]),
        (b"a", b"b", [i64::MAX - 1, i64::MAX, i64::MAX, i64::MIN]),
    ];

    #[test]
    fn a_stored_message_is_byte_for_byte_what_a_protobuf_library_writes() {
        for (key, value, ints) in SAMPLES {
            let kv = kv(key, value, ints);
            for prev in [None, Some(Revision::new(5, 0)), Some(Revision::new(1 << 50, u32::MAX))] {
                let record = NewRecord { prev, kv };
                let mut bytes = vec![0; record.encoded_len()];
                record.encode(&mut bytes);
                let read = Record::decode(&bytes).unwrap();
                assert_eq!(read.prev, prev);
                assert_eq!(read.tombstone, kv.version == 0);
                assert_eq!(read.create, kv.version == 1);
                assert_eq!(read.kv, message(&kv).encode_to_vec());
                assert_eq!(read.key(), Some(key));
                assert_eq!(value_of(read.kv), Some(value));
            }
        }
    }

    #[test]
    fn a_key_without_its_value_is_the_message_without_it() {
        for (key, value, ints) in SAMPLES {
            let kv = kv(key, value, ints);
            let meta = KeyMeta {
                tombstone: false,
                create: kv.create,
                version: kv.version,
                lease: kv.lease,
                value_len: value.len() as u64,
            };
            for lease in [0, kv.lease] {
                let mut out = Vec::new();
                put_key_only(&mut out, 2, KeyBuf::of(key).prefix(), kv.modified, &meta, lease);
                let expected = message(&KeyValue { value: b"", lease, ..kv });
                let mut wrapped = Vec::new();
                put_bytes(&mut wrapped, 2, &expected.encode_to_vec());
                assert_eq!(out, wrapped);
            }
        }
    }

    #[test]
    fn a_deletions_event_has_the_key_and_the_revision() {
        let kv = mvccpb::KeyValue { key: Bytes::from_static(b"gone"), ..Default::default() };
        let mut out = Vec::new();
        put_deleted(&mut out, 2, &kv.encode_to_vec(), 300);
        let mut expected = Vec::new();
        let event_kv = mvccpb::KeyValue { mod_revision: 300, ..kv };
        put_bytes(&mut expected, 2, &event_kv.encode_to_vec());
        assert_eq!(out, expected);
    }

    #[test]
    fn what_a_key_entry_says_comes_back() {
        let mut buffer = KeyMeta::buffer();
        let bytes = KeyMeta::TOMBSTONE.encode(&mut buffer);
        assert_eq!(KeyMeta::decode(bytes), Some(KeyMeta::TOMBSTONE));
        for (_, value, [create, _, version, lease]) in SAMPLES {
            let value_len = value.len() as u64;
            let meta = KeyMeta { tombstone: false, create, version, lease, value_len };
            let mut buffer = KeyMeta::buffer();
            let bytes = meta.encode(&mut buffer);
            assert_eq!(KeyMeta::decode(bytes), Some(meta));
            assert_eq!(KeyMeta::decode(&bytes[..bytes.len() - 1]), None);
        }
        assert_eq!(KeyMeta::decode(&[]), None);
        assert_eq!(KeyMeta::decode(&[1, 0]), None);
    }

    #[test]
    fn arbitrary_bytes_are_read_without_harm() {
        let mut state = 1u32;
        for round in 0..20_000 {
            let bytes: Vec<u8> = (0..round % 24)
                .map(|_| {
                    state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    // Mostly what occurs in records.
                    if state >> 30 == 0 { (state >> 16) as u8 } else { (state >> 16) as u8 & 0x3b }
                })
                .collect();
            KeyMeta::decode(&bytes);
            if let Some(record) = Record::decode(&bytes) {
                record.key();
                value_of(record.kv);
            }
        }
    }
}
