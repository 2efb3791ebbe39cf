//! Every row of the table that a disk can show, from real bytes.

use std::io;

use wal::{Decision, Options, RECOVERY_CASES, RecoverError, SegmentId, SegmentSource, recover};

use crate::{
    disk::{Disk, Loss, Rng, SECTOR},
    driver::{Driver, ENTRY, read},
};

const OPTIONS: Options = Options { segment_bytes: 12 << 10, batch_bytes: 3 << 10 };
const ONE: SegmentId = SegmentId(1);
const TWO: SegmentId = SegmentId(2);
const BLOCK: usize = 4096;

/// Segment 1: batches of two blocks and of one. Segment 2: the same. Segment 3: blank.
fn two_segments() -> Disk {
    let mut driver = Driver::new(OPTIONS);
    for len in [4300, 30, 4300, 30] {
        driver.append(len);
        driver.settle();
    }
    assert_eq!(driver.disk.segments().len(), 3);
    driver.disk
}

/// Segment 1: a batch of one block and room that the second did not fit into. Segment 2: two blocks.
fn with_room_left() -> Disk {
    let mut driver = Driver::new(OPTIONS);
    for len in [30, 30, 4300] {
        driver.append(len);
        driver.settle();
    }
    assert!(driver.disk.segment(ONE)[2 * BLOCK..].iter().all(|&byte| byte == 0));
    driver.disk
}

fn spoil(mut disk: Disk, segment: SegmentId, spoil: impl FnOnce(&mut Vec<u8>)) -> Disk {
    disk.spoil(segment, spoil);
    disk
}

/// The same disk with a last write of two blocks cut short.
fn torn(sectors: u64) -> Disk {
    let mut driver = Driver::new(OPTIONS);
    driver.append(30);
    driver.settle();
    driver.append(4300);
    driver.start_ops();
    driver.disk.crash(Loss::Exactly(sectors), &mut Rng(0));
    driver.disk
}

/// Rewrites a header with a sound checksum.
fn forge(file: &mut [u8], at: usize, field: usize, bytes: &[u8]) {
    file[at + field..at + field + bytes.len()].copy_from_slice(bytes);
    let crc = crc32fast::hash(&file[at..at + 60]);
    file[at + 60..at + 64].copy_from_slice(&crc.to_le_bytes());
}

fn without(mut disk: Disk, segment: SegmentId) -> Disk {
    disk.take(segment);
    disk
}

#[test]
fn every_row_that_a_disk_can_show_is_reached_by_real_bytes() {
    let rot = |file: &mut Vec<u8>| file[100] ^= 0x10;
    let stops: Vec<(&str, Disk, SegmentId, usize)> = vec![
        (
            "rot in the last batch",
            spoil(two_segments(), TWO, |file| file[2 * BLOCK + 70] ^= 1),
            TWO,
            2 * BLOCK,
        ),
        ("rot before the end", spoil(two_segments(), ONE, rot), ONE, 0),
        (
            "rot before the end",
            spoil(two_segments(), ONE, |file| file[2 * BLOCK + 70] ^= 1),
            ONE,
            2 * BLOCK,
        ),
        (
            "hole before the end",
            spoil(two_segments(), ONE, |file| file[BLOCK..BLOCK + SECTOR].fill(0)),
            ONE,
            0,
        ),
        (
            "hole before the end",
            spoil(two_segments(), ONE, |file| file[2 * BLOCK + SECTOR..].fill(0)),
            ONE,
            2 * BLOCK,
        ),
        (
            "hole in the first batch",
            spoil(without(two_segments(), ONE), TWO, |file| file[SECTOR..].fill(0)),
            TWO,
            0,
        ),
        (
            "wrong sector in a batch",
            spoil(two_segments(), TWO, |file| {
                file.copy_within(2 * BLOCK..2 * BLOCK + SECTOR, SECTOR)
            }),
            TWO,
            0,
        ),
        ("rotten header", spoil(two_segments(), TWO, |file| file[2 * BLOCK] ^= 1), TWO, 2 * BLOCK),
        ("debris at the end", spoil(torn(0), ONE, |file| file[2 * BLOCK + 9] = 1), ONE, BLOCK),
        ("missing header", spoil(two_segments(), ONE, |file| file[..SECTOR].fill(0)), ONE, 0),
        ("no beginning", spoil(without(two_segments(), ONE), TWO, |file| file[0] ^= 1), TWO, 0),
        ("no beginning", without(without(two_segments(), ONE), TWO), SegmentId(3), 0),
        ("another version", spoil(two_segments(), TWO, |file| forge(file, 0, 8, &[2, 0])), TWO, 0),
        (
            "misplaced batch",
            spoil(two_segments(), TWO, |file| forge(file, 0, 16, &9u64.to_le_bytes())),
            TWO,
            0,
        ),
        ("misplaced batch", spoil(two_segments(), TWO, |file| file.truncate(2 * BLOCK)), TWO, 0),
        (
            "broken chain",
            spoil(two_segments(), TWO, |file| forge(file, 0, 56, &7u32.to_le_bytes())),
            TWO,
            0,
        ),
        ("broken chain", spoil(two_segments(), ONE, |file| file[2 * BLOCK..].fill(0)), TWO, 0),
    ];
    let passes: Vec<(&str, Disk, u64)> = vec![
        ("batch", two_segments(), 4),
        ("end of log", two_segments(), 4),
        ("end of segment", with_room_left(), 3),
        (
            "debris behind a finished segment",
            spoil(with_room_left(), ONE, |file| file[2 * BLOCK + 600] = 1),
            3,
        ),
        (
            "debris behind a finished segment",
            spoil(with_room_left(), ONE, |file| file[2 * BLOCK] = 1),
            3,
        ),
        ("torn batch", torn(0b1000_0000_0000_0001), 1),
        ("torn batch without its header", torn(0b0000_0100_0000_0010), 1),
    ];
    let mut reached = Vec::new();
    for (name, mut disk, segment, offset) in stops {
        let error = read(&mut disk).expect_err(name);
        let RecoverError::Damaged { segment: at, offset: place, case } = &error else {
            panic!("{name}: {error}");
        };
        assert_eq!((case.name, *at, *place), (name, segment, offset as u64));
        assert_eq!(case.decision, Decision::Stop);
        assert!(
            error.to_string().contains(&segment.file_name()) && error.to_string().contains(name)
        );
        reached.push(name);
    }
    for (name, mut disk, batches) in passes {
        let (recovered, _) = read(&mut disk).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(recovered.last.0, batches, "{name}");
        assert_eq!(
            recovered.torn.is_some_and(|torn| torn.bytes > 0),
            name.starts_with("torn"),
            "{name}"
        );
        reached.push(name);
    }
    for case in RECOVERY_CASES.iter().filter(|case| !case.name.starts_with("never")) {
        assert!(reached.contains(&case.name), "{} is not reached", case.name);
    }
}

/// What a former life of a file left is never taken for a batch of this one, nor the other way round.
#[test]
pub fn stale_sectors_count_as_nothing_in_every_row() {
    let kept = 2;
    let mut driver = Driver::recycled(OPTIONS, kept);
    // Two blocks of the last segment are left, and behind it a segment that nothing was written to.
    while driver.writer.segments().last().map(|last| last.segment)
        == driver.disk.segments().last().map(|last| last.0)
    {
        driver.append(0);
        driver.settle();
    }
    let (recovered, _) = read(&mut driver.disk).expect("sound");
    let last = recovered.segments.last().expect("a segment").segment;
    let (spare, file) = *driver.disk.segments().last().expect("a segment");
    assert!(spare > last && recovered.blank == [(spare, OPTIONS.segment_bytes)]);
    let stale = file[..SECTOR].to_vec();
    assert!(stale.starts_with(b"ringdWAL"), "an old header");
    let (tail, first) = (recovered.tail as usize, recovered.segments[0].segment);
    assert!(tail > 0 && tail < OPTIONS.segment_bytes as usize);
    let put = |at: usize, sector: &[u8]| {
        let sector = sector.to_vec();
        move |file: &mut Vec<u8>| file[at..at + SECTOR].copy_from_slice(&sector)
    };
    let batch_before = tail - BLOCK;
    let of_this_life = driver.disk.segment(first)[SECTOR..2 * SECTOR].to_vec();
    let sound = driver.disk.clone();
    let damaged = |segment, at, sector: &[u8]| spoil(sound.clone(), segment, put(at, sector));
    let stops = [
        ("hole before the end", damaged(first, SECTOR, &stale), first, 0),
        ("no beginning", damaged(first, 0, &stale), first, 0),
        // A batch that is older than the one in whose place it lies, but not older than the log.
        (
            "wrong sector in a batch",
            damaged(last, batch_before + SECTOR, &of_this_life),
            last,
            batch_before,
        ),
        ("debris at the end", damaged(last, tail + SECTOR, &of_this_life), last, tail),
        ("rotten header", damaged(last, tail, &of_this_life), last, tail),
        ("rotten header", damaged(spare, 0, &of_this_life), spare, 0),
    ];
    for (name, mut disk, segment, offset) in stops {
        let error = read(&mut disk).expect_err(name);
        let RecoverError::Damaged { segment: at, offset: place, case } = &error else {
            panic!("{name}: {error}");
        };
        assert_eq!((case.name, *at, *place), (name, segment, offset as u64));
    }
    // Anything that a former life could have left.
    for sector in [&stale[..], &[0; SECTOR]] {
        for (segment, at) in [(last, tail), (last, tail + 7 * SECTOR), (spare, 0), (spare, SECTOR)]
        {
            let mut disk = damaged(segment, at, sector);
            let (again, _) = read(&mut disk).expect("it is the end of the log");
            assert_eq!((again.last, again.tail), (recovered.last, recovered.tail));
            assert!(again.torn.is_none_or(|torn| torn.bytes == 0));
        }
    }
    // A write that was interrupted, with or without its header.
    for sectors in [0b1000_0001, 0b0100_0010] {
        let mut driver = Driver::recycled(OPTIONS, kept);
        let before = driver.acknowledged;
        driver.append(10);
        driver.start_ops();
        driver.disk.crash(Loss::Exactly(sectors), &mut Rng(0));
        let (recovered, _) = read(&mut driver.disk).expect("torn");
        assert_eq!(recovered.last, before);
        assert_eq!(recovered.torn.map(|torn| torn.bytes), Some(BLOCK as u64), "{sectors:b}");
    }
}

#[test]
fn a_missing_segment_and_a_file_of_odd_length_are_named() {
    let error = read(&mut without(two_segments(), TWO)).expect_err("a gap");
    assert!(
        matches!(error, RecoverError::Missing { missing: TWO, found: SegmentId(3) }),
        "{error}"
    );

    let error =
        read(&mut spoil(two_segments(), TWO, |file| file.truncate(12_000))).expect_err("cut");
    assert!(matches!(error, RecoverError::Size { segment: TWO, bytes: 12_000 }), "{error}");
    let error = read(&mut spoil(two_segments(), TWO, Vec::clear)).expect_err("empty");
    assert!(matches!(error, RecoverError::Size { segment: TWO, bytes: 0 }), "{error}");
}

#[test]
fn segments_of_another_log_do_not_continue_this_one() {
    let mut other = Driver::new(OPTIONS);
    for len in [4301, 30, 4300, 30] {
        other.append(len);
        other.settle();
    }
    let mut disk = two_segments();
    let foreign = other.disk.take(TWO);
    disk.insert(TWO, foreign);
    let error = read(&mut disk).expect_err("foreign");
    assert!(
        matches!(&error, RecoverError::Damaged { segment: TWO, offset: 0, case } if case.name == "broken chain"),
        "{error}"
    );
}

/// A value may hold the image of a log. It is never taken for batches, not even when the header in front
/// of it is lost: stamps lie outside of what a record controls.
#[test]
fn a_record_that_looks_like_a_log_is_a_record() {
    let image = two_segments().segment(ONE).to_vec();
    let options = Options { segment_bytes: 64 << 10, batch_bytes: 16 << 10 };
    for shift in 0..SECTOR {
        let mut data = vec![0; shift];
        data.extend_from_slice(&image);
        let mut driver = Driver::new(options);
        driver.append(30);
        driver.settle();
        driver.writer.append(ENTRY, 2, &[&data]);
        driver.start_ops();
        let mut torn = driver.disk.clone();
        torn.crash(Loss::Exactly(!1), &mut Rng(0));
        driver.settle();

        let (recovered, records) = read(&mut driver.disk).expect("sound");
        assert_eq!((recovered.last.0, records.last().map(|record| &record.data)), (2, Some(&data)));
        let (recovered, records) = read(&mut torn).expect("torn");
        assert!(recovered.torn.is_some() && records.len() == 1, "shift {shift}");
    }
}

#[test]
fn an_unreadable_segment_is_named() {
    struct Unreadable(Disk);
    impl SegmentSource for Unreadable {
        fn list(&mut self) -> io::Result<Vec<(SegmentId, u64)>> {
            self.0.list()
        }

        fn read(&mut self, segment: SegmentId) -> io::Result<wal::Content> {
            match segment {
                TWO => Err(io::Error::other("medium error")),
                _ => self.0.read(segment),
            }
        }
    }
    let error = recover(&mut Unreadable(two_segments()), &mut |_| {}).expect_err("unreadable");
    assert!(matches!(error, RecoverError::Read { segment: TWO, .. }), "{error}");
    assert!(error.to_string().contains("medium error"));
}
