//! Checking a whole log: all damage is named, and what is not damaged is read.

use wal::{RecoverError, SegmentId, Verified, verify};

use crate::{
    disk::{Disk, SECTOR},
    driver::read,
    flips::{extents, recycled_log, small_log},
};

pub fn run(disk: &mut Disk) -> Verified {
    verify(disk, &mut |_| {}).expect("it can be listed")
}

fn places(verified: &Verified) -> Vec<(u64, u64)> {
    let place = |error: &RecoverError| match error {
        RecoverError::Damaged { segment, offset, .. } => (segment.0, *offset),
        other => panic!("{other}"),
    };
    verified.findings.iter().map(place).collect()
}

#[test]
fn a_sound_log_is_counted() {
    let mut disk = small_log();
    let (recovered, _) = read(&mut disk).expect("sound");
    let verified = run(&mut disk);
    assert!(verified.findings.is_empty());
    assert_eq!(verified.batches, recovered.last.0);
    assert_eq!(verified.segments, disk.segments().len() as u64);
    let (end, case) = verified.end.expect("it was read up to its end");
    assert_eq!((end.segment, end.offset), (recovered.segments[7].segment, recovered.tail));
    assert_eq!(case.name, "end of log");
    assert_eq!(verified.recovered.last, recovered.last);
}

#[test]
fn every_damaged_batch_is_named_and_all_others_are_read() {
    every_pair_is_named(small_log());
    every_pair_is_named(recycled_log());
}

fn every_pair_is_named(disk: Disk) {
    let all: Vec<(SegmentId, usize)> = extents(&disk)
        .into_iter()
        .flat_map(|(id, batches)| batches.into_iter().map(move |batch| (id, batch.start)))
        .collect();
    for (nth, &(id, start)) in all.iter().enumerate() {
        for (other, &(other_id, other_start)) in all.iter().enumerate().skip(nth) {
            for at in [5, 100] {
                let mut damaged = disk.clone();
                damaged.spoil(id, |file| file[start + at] ^= 1);
                if other != nth {
                    damaged.spoil(other_id, |file| file[other_start + at] ^= 1);
                }
                let verified = run(&mut damaged);
                let mut expected = vec![(id.0, start as u64)];
                expected.extend((other != nth).then_some((other_id.0, other_start as u64)));
                let found = places(&verified);
                // Two damaged batches side by side, neither with a header, are one place.
                let side_by_side = at == 5 && found == expected[..1] && other == nth + 1;
                assert!(found == expected || side_by_side, "{found:?}, not {expected:?}");
                assert_eq!(verified.batches, (all.len() - expected.len()) as u64);
            }
        }
    }
}

#[test]
fn missing_and_short_segments_are_named_beside_damage() {
    let mut disk = small_log();
    disk.take(SegmentId(3));
    disk.spoil(SegmentId(5), |file| file.truncate(5000));
    disk.spoil(SegmentId(7), |file| file[SECTOR..2 * SECTOR].fill(0x77));
    let findings = run(&mut disk).findings;
    let [missing, short, damaged] = &findings[..] else { panic!("{findings:?}") };
    assert!(matches!(
        missing,
        RecoverError::Missing { missing: SegmentId(3), found: SegmentId(4) }
    ));
    assert!(matches!(short, RecoverError::Size { segment: SegmentId(5), bytes: 5000 }));
    let RecoverError::Damaged { segment, offset: 0, .. } = damaged else { panic!("{damaged}") };
    assert_eq!(*segment, SegmentId(7));
}
