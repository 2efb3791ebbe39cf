//! The examples of the RFC, blocks that must be refused, and a model encoder that uses everything
//! the format has.

use std::collections::VecDeque;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::TestRunner;

use super::huffman;
use super::static_table;
use super::*;

type Pair = (Vec<u8>, Vec<u8>);

fn decode(decoder: &mut Decoder, block: &[u8]) -> Result<Vec<Pair>, DecodeError> {
    let mut fields = Vec::new();
    decoder.decode(block, 1 << 20, &mut |decoded| {
        let field = decoded.field();
        fields.push((field.name.to_vec(), field.value.to_vec()));
    })?;
    Ok(fields)
}

fn unhex(digits: &str) -> Vec<u8> {
    (0..digits.len() / 2)
        .map(|i| u8::from_str_radix(&digits[2 * i..2 * i + 2], 16).unwrap())
        .collect()
}

/// A table size update.
fn size_update(capacity_bytes: usize) -> Vec<u8> {
    let mut block = Vec::new();
    prefixed(capacity_bytes, 5, 0x20, &mut block);
    block
}

#[test]
fn the_examples_of_appendix_c_decode_as_printed() {
    let mut decoder = Decoder::default();
    let mut fields = VecDeque::new();
    let mut checked = 0;
    for line in include_str!("appendix_c.txt").lines() {
        let Some((word, rest)) = line.split_once(' ') else { continue };
        match word {
            "decoder" => {
                decoder = Decoder::default();
                decode(&mut decoder, &size_update(rest.parse().unwrap())).unwrap();
            }
            "block" => {
                assert!(fields.is_empty(), "fields not printed: {fields:?}");
                fields = decode(&mut decoder, &unhex(rest)).unwrap().into();
            }
            "field" => {
                let at = 1 + rest[1..].find(": ").unwrap();
                let printed = (rest[..at].into(), rest[at + 2..].into());
                assert_eq!(fields.pop_front(), Some(printed));
                checked += 1;
            }
            "size" => assert_eq!(decoder.table().size_bytes(), rest.parse::<usize>().unwrap()),
            _ => {}
        }
    }
    assert_eq!((checked, fields.len()), (60, 0));
}

#[test]
fn malformed_blocks_are_refused_with_their_reason() {
    use DecodeError::*;
    let long_zero = [0xff, 0x80, 0x80, 0x80, 0x80, 0x80, 0x00];
    let above_u32 = [0xff, 0xff, 0xff, 0xff, 0xff, 0x7f];
    let just_above_u32 = [0xff, 0x81, 0xff, 0xff, 0xff, 0x0f];
    let cases: [(&[u8], DecodeError); 17] = [
        (&[0x80], InvalidIndex),
        (&[0xbe], InvalidIndex),
        (&[0x7e, 0x00], InvalidIndex),
        (&[0xff], Truncated),
        (&[0xff, 0x80], Truncated),
        (&long_zero, IntegerOverflow),
        (&above_u32, IntegerOverflow),
        (&just_above_u32, IntegerOverflow),
        (&[0x40], Truncated),
        (&[0x40, 0x01], Truncated),
        (&[0x40, 0x01, b'a'], Truncated),
        (&[0x40, 0x01, b'a', 0x7f, 0xff, 0xff, 0xff, 0xff, 0x0f], IntegerOverflow),
        (&[0x00, 0x01, b'a', 0x81, 0x00], InvalidHuffman),
        (&[0x00, 0x01, b'a', 0x84, 0xff, 0xff, 0xff, 0xff], InvalidHuffman),
        (&[0x82, 0x20], MisplacedSizeUpdate),
        (&[0x3f, 0xe2, 0x1f], SizeUpdateTooLarge),
        (&[0x20, 0x3f, 0xe2, 0x1f], SizeUpdateTooLarge),
    ];
    for (block, error) in cases {
        assert_eq!(decode(&mut Decoder::default(), block), Err(error), "{block:02x?}");
    }
    assert_eq!(decode(&mut Decoder::default(), &[0x20, 0x3f, 0xe1, 0x1f]), Ok(vec![]));
}

#[test]
fn a_list_that_is_too_long_is_cut_and_one_far_too_long_is_refused() {
    let mut block = Vec::new();
    for _ in 0..10 {
        encode_field(b"name", b"value", &mut block);
    }
    let per_field = 4 + 5 + ENTRY_OVERHEAD;
    let mut emitted = 0;
    let mut decoder = Decoder::default();
    let summary = decoder.decode(&block, 3 * per_field, &mut |_| emitted += 1).unwrap();
    assert_eq!((emitted, summary.list_bytes), (3, 10 * per_field));
    let outcome = decoder.decode(&block, 2 * per_field, &mut |_| {});
    assert_eq!(outcome, Err(DecodeError::ListTooLong));
}

#[test]
fn the_encoder_leaves_the_dynamic_table_alone() {
    let block = encode_block(&[
        (b":status", b"200"),
        (b":status", b"418"),
        (b"content-type", b"application/grpc"),
        (b"grpc-status", b"0"),
        (b"x", &[0xff; 300]),
    ]);
    let mut decoder = Decoder::default();
    let fields = decode(&mut decoder, &block).unwrap();
    assert_eq!(fields[4], (b"x".to_vec(), vec![0xff; 300]));
    assert_eq!(fields.len(), 5);
    assert_eq!((decoder.generation(), decoder.table().size_bytes()), (0, 0));
    assert_eq!(block[0], 0x88);
}

/// How the model encoder writes a field.
#[derive(Debug, Clone)]
struct Choice {
    pair: Pair,
    /// 0: an index if the table has the field; else 0x40, 0x00 or 0x10 as a literal.
    form: u8,
    with_name_index: bool,
    with_huffman: bool,
}

/// Dynamic entries, newest first, and their bound.
struct Model {
    entries: Vec<Pair>,
    capacity_bytes: usize,
}

impl Model {
    fn find(&self, matches: impl Fn(&[u8], &[u8]) -> bool) -> Option<usize> {
        let fixed = static_table::ENTRIES.iter().map(|(name, value)| (*name, *value));
        let dynamic = self.entries.iter().map(|(name, value)| (&name[..], &value[..]));
        fixed.chain(dynamic).position(|(name, value)| matches(name, value)).map(|place| place + 1)
    }

    fn evict(&mut self) {
        let size = |(name, value): &Pair| name.len() + value.len() + ENTRY_OVERHEAD;
        while self.entries.iter().map(size).sum::<usize>() > self.capacity_bytes {
            self.entries.pop();
        }
    }

    fn encode(&mut self, choice: &Choice, block: &mut Vec<u8>) {
        let (name, value) = &choice.pair;
        let same = self.find(|n, v| n == name && v == value);
        if let (0, Some(index)) = (choice.form, same) {
            return prefixed(index, 7, 0x80, block);
        }
        let (pattern, prefix_bits) = match choice.form {
            0 | 1 => (0x40, 6),
            2 => (0x00, 4),
            _ => (0x10, 4),
        };
        let name_index = self.find(|n, _| n == name).filter(|_| choice.with_name_index);
        prefixed(name_index.unwrap_or(0), prefix_bits, pattern, block);
        if name_index.is_none() {
            text(name, choice.with_huffman, block);
        }
        text(value, choice.with_huffman, block);
        if pattern == 0x40 {
            self.entries.insert(0, choice.pair.clone());
            self.evict();
        }
    }
}

fn prefixed(value: usize, prefix_bits: u32, pattern: u8, block: &mut Vec<u8>) {
    let mask = (1 << prefix_bits) - 1;
    if value < mask {
        return block.push(pattern | value as u8);
    }
    block.push(pattern | mask as u8);
    let mut rest = value - mask;
    while rest > 127 {
        block.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    block.push(rest as u8);
}

fn text(text: &[u8], with_huffman: bool, block: &mut Vec<u8>) {
    if with_huffman {
        prefixed(huffman::encoded_len(text), 7, 0x80, block);
        huffman::encode(text, block);
    } else {
        prefixed(text.len(), 7, 0x00, block);
        block.extend_from_slice(text);
    }
}

fn any_choice() -> impl Strategy<Value = Choice> {
    let name = prop_oneof![
        select(vec![&b":path"[..], b":authority", b"content-type", b"te", b"user-agent"])
            .prop_map(<[u8]>::to_vec),
        vec(any::<u8>(), 0..40),
        Just(vec![b'n'; 1_500]),
    ];
    let value = prop_oneof![
        select(vec![&b""[..], b"/", b"trailers", b"1S"]).prop_map(<[u8]>::to_vec),
        vec(any::<u8>(), 0..200),
        Just(vec![b'v'; 3_000]),
    ];
    let flags = (0..4u8, any::<bool>(), any::<bool>());
    ((name, value), flags).prop_map(|(pair, (form, with_name_index, with_huffman))| Choice {
        pair,
        form,
        with_name_index,
        with_huffman,
    })
}

#[test]
fn what_a_model_encoder_writes_is_what_the_decoder_reads() {
    let block = (proptest::option::of(0..=CAPACITY_MAX), vec(any_choice(), 0..12));
    let connection = vec(block, 1..8);
    TestRunner::deterministic()
        .run(&connection, |blocks| {
            let mut model = Model { entries: Vec::new(), capacity_bytes: CAPACITY_MAX };
            let mut decoder = Decoder::default();
            for (new_capacity_bytes, choices) in blocks {
                let mut block = Vec::new();
                if let Some(capacity_bytes) = new_capacity_bytes {
                    block = size_update(capacity_bytes);
                    model.capacity_bytes = capacity_bytes;
                    model.evict();
                }
                for choice in &choices {
                    model.encode(choice, &mut block);
                }
                let generation = decoder.generation();
                let fields = decode(&mut decoder, &block).unwrap();
                let expected: Vec<_> = choices.into_iter().map(|choice| choice.pair).collect();
                prop_assert_eq!(fields, expected);
                let size: usize =
                    model.entries.iter().map(|(n, v)| n.len() + v.len() + ENTRY_OVERHEAD).sum();
                prop_assert_eq!(decoder.table().size_bytes(), size);
                if block.iter().all(|&octet| octet & 0x80 != 0 && octet != 0xff) {
                    prop_assert_eq!(decoder.generation(), generation);
                }
            }
            Ok(())
        })
        .unwrap();
}

#[test]
fn what_the_encoder_writes_is_what_the_decoder_reads() {
    let pair = (vec(any::<u8>(), 0..60), vec(any::<u8>(), 0..300));
    TestRunner::deterministic()
        .run(&vec(pair, 0..20), |pairs| {
            let fields: Vec<_> =
                pairs.iter().map(|(name, value)| (&name[..], &value[..])).collect();
            let block = encode_block(&fields);
            prop_assert_eq!(decode(&mut Decoder::default(), &block), Ok(pairs));
            Ok(())
        })
        .unwrap();
}

#[test]
fn huffman_strings_survive_a_round_trip_and_random_ones_do_no_harm() {
    TestRunner::deterministic()
        .run(&vec(any::<u8>(), 0..300), |octets| {
            let mut coded = Vec::new();
            huffman::encode(&octets, &mut coded);
            let mut plain = Vec::new();
            prop_assert_eq!(huffman::decode(&coded, &mut plain), Ok(()));
            prop_assert_eq!(&plain, &octets);
            // Whatever decodes at all encodes to itself.
            let mut decoded = Vec::new();
            if huffman::decode(&octets, &mut decoded).is_ok() {
                let mut again = Vec::new();
                huffman::encode(&decoded, &mut again);
                prop_assert_eq!(again, octets);
            }
            Ok(())
        })
        .unwrap();
}

#[test]
fn random_blocks_never_panic_and_never_outgrow_the_table() {
    TestRunner::deterministic()
        .run(&vec(vec(any::<u8>(), 0..200), 1..20), |blocks| {
            let mut decoder = Decoder::default();
            for block in blocks {
                let _ = decode(&mut decoder, &block);
                let table = decoder.table();
                prop_assert!(table.size_bytes() <= table.capacity_bytes());
                prop_assert!(table.capacity_bytes() <= CAPACITY_MAX);
            }
            Ok(())
        })
        .unwrap();
}
