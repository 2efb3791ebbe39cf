//! The Huffman code of RFC 7541, appendix B.
//!
//! The code is canonical: ordered by (length, symbol), each code is its predecessor plus one,
//! shifted to its own length. So the 257 lengths are the whole definition, and every table here is
//! computed from them at compile time.
//!
//! Decoding looks at nine bits at once, which covers the printable characters in practice; longer
//! codes are found by comparing with the upper bound of each length.

/// Number of bits of the code of each symbol; 256 is EOS.
const LENGTHS: [u8; 257] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 30, 28,
    28, 28, 28, 28, 28, 28, 28, 28, 6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6, 5, 5,
    5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10, 13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7,
    7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6, 15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6,
    6, 5, 6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28, 20, 22, 20, 20, 22, 22, 22, 23, 22,
    23, 23, 23, 23, 23, 24, 23, 24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24, 22,
    21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23, 21, 21, 22, 21, 23, 22, 23, 23, 20,
    22, 22, 22, 23, 22, 22, 23, 26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25, 19,
    21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27, 20, 24, 20, 21, 22, 21, 21, 23, 22,
    22, 25, 25, 24, 24, 26, 23, 26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26, 30,
];

const EOS: u16 = 256;
const LONGEST: u32 = 30;
/// Codes up to this length are decoded by one look into `SHORT`.
const SHORT_BITS: u32 = 9;

struct Tables {
    /// Code of each symbol, aligned to the least significant bit.
    codes: [u32; 257],
    /// Symbols ordered by (length, symbol).
    sorted: [u16; 257],
    /// Place in `sorted` of the first symbol of each length.
    offset: [u16; 31],
    /// First code of each length, aligned to the least significant bit.
    first: [u32; 31],
    /// One above the last code of each length, aligned to 30 bits. Lengths without codes repeat
    /// the bound of the length before.
    bound: [u32; 31],
    /// `symbol << 8 | length` by the next nine bits; 0 where the code is longer.
    short: [u16; 1 << SHORT_BITS],
}

const fn build() -> Tables {
    let mut tables = Tables {
        codes: [0; 257],
        sorted: [0; 257],
        offset: [0; 31],
        first: [0; 31],
        bound: [0; 31],
        short: [0; 1 << SHORT_BITS],
    };
    let mut code = 0u32;
    let mut placed = 0usize;
    let mut length = 1u32;
    while length <= LONGEST {
        code <<= 1;
        tables.first[length as usize] = code;
        tables.offset[length as usize] = placed as u16;
        let mut symbol = 0usize;
        while symbol < LENGTHS.len() {
            if LENGTHS[symbol] as u32 == length {
                tables.codes[symbol] = code;
                tables.sorted[placed] = symbol as u16;
                if length <= SHORT_BITS {
                    let spread = 1 << (SHORT_BITS - length);
                    let mut i = 0;
                    while i < spread {
                        tables.short[(code as usize) * spread + i] =
                            ((symbol as u16) << 8) | length as u16;
                        i += 1;
                    }
                }
                placed += 1;
                code += 1;
            }
            symbol += 1;
        }
        tables.bound[length as usize] = code << (LONGEST - length);
        length += 1;
    }
    tables
}

static TABLES: Tables = build();

/// The string holds EOS, or does not end with up to seven ones (RFC 7541, 5.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InvalidHuffman;

/// Appends the decoded string to `out`.
pub fn decode(mut source: &[u8], out: &mut Vec<u8>) -> Result<(), InvalidHuffman> {
    out.reserve(source.len() * 8 / 5 + 1);
    // The bits not yet decoded, aligned to the most significant bit, zeroes after them.
    let mut bits = 0u64;
    let mut count = 0u32;
    loop {
        while count <= 56 {
            let Some((&byte, rest)) = source.split_first() else { break };
            bits |= u64::from(byte) << (56 - count);
            count += 8;
            source = rest;
        }
        let (symbol, length) = next_symbol(bits);
        if length > count {
            // Only at the end of the source: what is left is a part of EOS, or wrong.
            let padding_is_ones = count < 8 && (bits | (u64::MAX >> count)) == u64::MAX;
            return if padding_is_ones { Ok(()) } else { Err(InvalidHuffman) };
        }
        if symbol == EOS {
            return Err(InvalidHuffman);
        }
        out.push(symbol as u8);
        bits <<= length;
        count -= length;
    }
}

#[inline]
fn next_symbol(bits: u64) -> (u16, u32) {
    let short = TABLES.short[(bits >> (64 - SHORT_BITS)) as usize];
    if short != 0 {
        return (short >> 8, u32::from(short & 0xff));
    }
    let window = (bits >> (64 - LONGEST)) as u32;
    let mut length = SHORT_BITS + 1;
    // The code is complete: the bound of the longest codes is 2^30, above any window.
    while length < LONGEST && window >= TABLES.bound[length as usize] {
        length += 1;
    }
    let code = window >> (LONGEST - length);
    let place = TABLES.offset[length as usize] as u32 + (code - TABLES.first[length as usize]);
    (TABLES.sorted.get(place as usize).copied().unwrap_or(EOS), length)
}

/// Length in bytes of the encoded string.
pub fn encoded_len(source: &[u8]) -> usize {
    let bits: usize = source.iter().map(|&byte| usize::from(LENGTHS[usize::from(byte)])).sum();
    bits.div_ceil(8)
}

/// Appends the encoded string to `out`.
pub fn encode(source: &[u8], out: &mut Vec<u8>) {
    let mut bits = 0u64;
    let mut count = 0u32;
    for &byte in source {
        let length = u32::from(LENGTHS[usize::from(byte)]);
        bits = (bits << length) | u64::from(TABLES.codes[usize::from(byte)]);
        count += length;
        while count >= 8 {
            count -= 8;
            out.push((bits >> count) as u8);
        }
    }
    if count > 0 {
        out.push(((bits << (8 - count)) | (0xff >> count)) as u8);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn some_codes_are_those_of_the_appendix() {
        let cases = [
            (0usize, 0x1ff8),
            (1, 0x7fffd8),
            (10, 0x3ffffffc),
            (usize::from(b' '), 0x14),
            (usize::from(b'/'), 0x18),
            (usize::from(b'0'), 0x0),
            (usize::from(b'a'), 0x3),
            (usize::from(b'z'), 0x7b),
            (127, 0xffffffc),
            (254, 0x7fffff0),
            (255, 0x3ffffee),
            (256, 0x3fffffff),
        ];
        for (symbol, code) in cases {
            assert_eq!(TABLES.codes[symbol], code, "symbol {symbol}");
        }
    }

    #[test]
    fn every_byte_survives_a_round_trip_at_every_alignment() {
        for before in 0..8usize {
            for byte in 0..=255u8 {
                let mut plain = vec![b'0'; before];
                plain.extend([byte, b'&', byte]);
                let mut coded = Vec::new();
                encode(&plain, &mut coded);
                assert_eq!(coded.len(), encoded_len(&plain));
                let mut decoded = Vec::new();
                decode(&coded, &mut decoded).unwrap();
                assert_eq!(decoded, plain);
            }
        }
    }

    #[test]
    fn padding_must_be_less_than_a_byte_of_ones() {
        let cases: [(&[u8], Option<&[u8]>); 7] = [
            (&[], Some(b"")),
            (&[0x07], Some(b"0")),
            (&[0x06], None),
            (&[0x00], None),
            (&[0xff], None),
            (&[0x07, 0xff], None),
            (&[0xff, 0xff, 0xff, 0xff], None),
        ];
        for (coded, expected) in cases {
            let mut decoded = Vec::new();
            let outcome = decode(coded, &mut decoded).ok().map(|()| decoded.as_slice());
            assert_eq!(outcome, expected, "{coded:02x?}");
        }
    }
}
