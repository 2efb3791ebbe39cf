//! The format, byte for byte. If this test has to change, so has the version, and the format's document.

use std::fmt::Write;

use wal::{Op, Options, Recovered, Writer};

const EXPECTED: &str = "\
0000  72 69 6e 67 64 57 41 4c 01 00 00 00 02 00 00 00
0010  01 00 00 00 00 00 00 00 01 00 00 00 00 00 00 00
0020  00 00 00 00 00 00 00 00 2e 02 00 00 03 00 00 00
0030  01 00 00 00 6d 89 50 fa 00 00 00 00 61 5b 0f f1
0040  05 00 00 00 02 00 00 00 00 00 00 00 00 00 00 00
0050  73 74 61 74 65 05 00 00 00 01 00 00 00 07 00 00
0060  00 00 00 00 00 66 69 72 73 74 f4 01 00 00 01 00
0070  00 00 08 00 00 00 00 00 00 00 ab ab ab ab ab ab
0080  ab ab ab ab ab ab ab ab ab ab ab ab ab ab ab ab
*
01f0  ab ab ab ab ab ab ab ab 01 00 00 00 00 00 4f 9f
0200  ab ab ab ab ab ab ab ab ab ab ab ab ab ab ab ab
*
0270  ab ab ab ab ab ab 00 00 00 00 00 00 00 00 00 00
0280  00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00
*
03f0  00 00 00 00 00 00 00 00 01 00 00 00 00 00 4f 9f
0400  00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00
*
05f0  00 00 00 00 00 00 00 00 01 00 00 00 00 00 4f 9f
0600  00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00
*
07f0  00 00 00 00 00 00 00 00 01 00 00 00 00 00 4f 9f
0800  00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00
*
09f0  00 00 00 00 00 00 00 00 01 00 00 00 00 00 4f 9f
0a00  00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00
*
0bf0  00 00 00 00 00 00 00 00 01 00 00 00 00 00 4f 9f
0c00  00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00
*
0df0  00 00 00 00 00 00 00 00 01 00 00 00 00 00 4f 9f
0e00  00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00
*
0ff0  00 00 00 00 00 00 00 00 01 00 00 00 00 00 4f 9f
";

#[test]
fn a_batch_is_these_bytes() {
    let mut writer =
        Writer::new(Options { segment_bytes: 8192, batch_bytes: 4096 }, Recovered::default());
    writer.set_preamble(2, 0, b"state");
    writer.append(1, 7, &[b"first"]);
    writer.append(1, 8, &[&[0xAB; 500]]);
    let mut written = None;
    while let Some((id, op)) = writer.next_op() {
        if let Op::Write { data, .. } = op {
            written = Some(data);
        }
        writer.op_done(id);
    }
    assert_eq!(dump(&written.expect("a write")), EXPECTED);
}

#[test]
fn padding_is_zero_in_memory_that_held_another_batch() {
    let mut writer = Writer::new(Options::default(), Recovered::default());
    for round in 0..8 {
        writer.append(1, 1, &[&vec![0xAB; if round % 2 == 0 { 3000 } else { 10 }]]);
        while let Some((id, op)) = writer.next_op() {
            if let Op::Write { data, .. } = op
                && round % 2 == 1
            {
                let left = data.iter().filter(|&&byte| byte == 0xAB).count();
                assert_eq!(left, 10, "bytes of an earlier batch are not written");
            }
            writer.op_done(id);
        }
    }
}

/// Sixteen bytes a line, with runs of equal lines said once.
fn dump(bytes: &[u8]) -> String {
    let mut out = String::new();
    let mut former: Option<&[u8]> = None;
    let mut skipping = false;
    for (nth, line) in bytes.chunks(16).enumerate() {
        if former == Some(line) {
            skipping = true;
            continue;
        }
        if skipping {
            out.push_str("*\n");
            skipping = false;
        }
        let _ = write!(out, "{:04x} ", nth * 16);
        for byte in line {
            let _ = write!(out, " {byte:02x}");
        }
        out.push('\n');
        former = Some(line);
    }
    out
}
