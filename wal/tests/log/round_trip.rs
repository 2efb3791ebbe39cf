//! What is appended is read back, whatever it is.

use proptest::prelude::*;
use wal::{BatchSeq, Op, Options, Position, SegmentSource, Step, Writer, read_batch};

use crate::{
    disk::Disk,
    driver::{Record, read},
};

fn settle(writer: &mut Writer, disk: &mut Disk) {
    while let Some((id, op)) = writer.next_op() {
        disk.start(id, op);
        disk.complete(0);
        writer.op_done(id);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn records_are_read_back_as_they_were_appended(
        segment_blocks in 2u64..12,
        batch_bytes in 1usize..20_000,
        batches in prop::collection::vec(
            prop::collection::vec(
                (any::<u8>(), any::<u64>(), prop::collection::vec(
                    prop::collection::vec(any::<u8>(), 0..1500), 0..4)),
                0..6),
            0..12),
        preamble in prop::collection::vec(any::<u8>(), 0..600),
    ) {
        let options = Options { segment_bytes: segment_blocks * 4096, batch_bytes };
        let mut disk = Disk::default();
        let mut writer = Writer::new(options, read(&mut disk).expect("empty").0);
        writer.set_preamble(200, 5, &preamble);
        let mut appended = Vec::new();
        for (nth, batch) in batches.into_iter().enumerate() {
            for (kind, index, parts) in batch {
                let parts: Vec<&[u8]> = parts.iter().map(Vec::as_slice).collect();
                writer.append(kind, index, &parts);
                appended.push(Record { kind, index, data: parts.concat(), preamble: false });
            }
            settle(&mut writer, &mut disk);
            if nth % 4 == 3 {
                writer = Writer::new(options, read(&mut disk).expect("sound").0);
                writer.set_preamble(200, 5, &preamble);
            }
        }
        let (recovered, records) = read(&mut disk).expect("sound");
        let (preambles, records): (Vec<_>, Vec<_>) = records.into_iter().partition(|r| r.preamble);
        prop_assert_eq!(&records, &appended);
        prop_assert_eq!(preambles.len(), recovered.segments.len());
        prop_assert!(preambles.iter().all(|r| r.kind == 200 && r.index == 5 && r.data == preamble));

        // The same batch by batch, with no more bytes than asked for, and records where they say they are.
        let mut read_again = Vec::new();
        for (segment, len) in disk.list().expect("a list") {
            let file = disk.read(segment).expect("a file");
            let (mut offset, mut at_hand) = (0, 0);
            while offset < len as usize {
                let at = Position { segment, offset: offset as u64 };
                match read_batch(at, BatchSeq::NONE, &file[offset..offset + at_hand]).expect("sound") {
                    Step::NeedBytes(bytes) => at_hand = bytes,
                    Step::End => break,
                    Step::Batch(batch) => {
                        for record in batch.records().filter(|record| !record.preamble) {
                            prop_assert_eq!(file[record.at.offset as usize], record.data.len() as u8);
                            read_again.push(record.data.to_vec());
                        }
                        offset = batch.end().offset as usize;
                        at_hand = 0;
                    }
                }
            }
        }
        prop_assert_eq!(read_again, appended.into_iter().map(|r| r.data).collect::<Vec<_>>());
    }
}

#[test]
fn a_write_is_the_bytes_that_recovery_reads() {
    let mut disk = Disk::default();
    let mut writer = Writer::new(Options::default(), read(&mut disk).expect("empty").0);
    writer.append(1, 1, &[b"hello"]);
    let Some((id, op @ Op::Create { .. })) = writer.next_op() else { panic!("a segment first") };
    disk.start(id, op);
    disk.complete(0);
    writer.op_done(id);
    let Some((_, Op::Write { segment, offset, data })) = writer.next_op() else {
        panic!("a write")
    };
    let at = Position { segment, offset };
    let Ok(Step::Batch(batch)) = read_batch(at, BatchSeq::NONE, &data) else { panic!("a batch") };
    let record = batch.records().next().expect("a record");
    assert_eq!((record.kind, record.index, record.data), (1, 1, &b"hello"[..]));
    assert_eq!((record.batch, record.at), (batch.sequence(), Position { segment, offset: 64 }));
}
