//! Bits that flip and sectors that vanish: found, with their place, or harmless.

use std::{cell::RefCell, collections::BTreeMap, ops::Range};

use wal::{BatchSeq, Options, Position, RecoverError, SegmentId, Step, read_batch};

use crate::{
    disk::{Disk, Rng, SECTOR},
    driver::{Driver, Record, read},
};

const SEGMENTS: u64 = 8;

/// Eight small segments with batches of one and two blocks, and a blank one behind them.
pub fn small_log() -> Disk {
    let mut driver = Driver::new(Options { segment_bytes: 12 << 10, batch_bytes: 3 << 10 });
    let mut lens = [40, 0, 4300, 700].into_iter().cycle();
    driver.append_state();
    while driver.writer.segments().count() < SEGMENTS as usize {
        driver.append(lens.next().unwrap_or(0));
        driver.settle();
    }
    if driver.disk.segments().len() == SEGMENTS as usize {
        driver.disk.insert(SegmentId(SEGMENTS + 1), vec![0; 12 << 10]);
    }
    driver.disk
}

/// The same kind of log, in files that were segments of it before.
pub fn recycled_log() -> Disk {
    let options = Options { segment_bytes: 12 << 10, batch_bytes: 3 << 10 };
    let mut driver = Driver::recycled(options, 3);
    // The end of the log in the middle of a segment, and a segment behind it that nothing was written to.
    while driver.disk.segments().len() == driver.writer.segments().count() {
        driver.append(0);
        driver.settle();
    }
    driver.disk
}

/// Where each batch lies.
pub fn extents(disk: &Disk) -> BTreeMap<SegmentId, Vec<Range<usize>>> {
    let mut extents = BTreeMap::new();
    let oldest = oldest(disk);
    for (segment, file) in disk.segments() {
        let mut batches: Vec<Range<usize>> = Vec::new();
        let mut offset = 0;
        while offset < file.len() {
            let at = Position { segment, offset: offset as u64 };
            let Ok(Step::Batch(batch)) = read_batch(at, oldest, &file[offset..]) else { break };
            let end = batch.end().offset as usize;
            batches.push(offset..end);
            offset = end;
        }
        extents.insert(segment, batches);
    }
    extents
}

fn oldest(disk: &Disk) -> BatchSeq {
    let segments = disk.segments();
    let &(segment, file) = segments.first().expect("a segment");
    match read_batch(Position { segment, offset: 0 }, BatchSeq::NONE, file) {
        Ok(Step::Batch(batch)) => batch.sequence(),
        other => panic!("{other:?}"),
    }
}

fn outcome(disk: &mut Disk) -> Result<Vec<Record>, Position> {
    match read(disk) {
        Ok((_, records)) => Ok(records),
        Err(RecoverError::Damaged { segment, offset, .. }) => Err(Position { segment, offset }),
        Err(error) => panic!("{error}"),
    }
}

/// Each bit of stamps and headers, and of the rest one in `stride`.
fn flip_every_bit(mut disk: Disk, stride: usize) {
    let whole = outcome(&mut disk).expect("sound");
    let extents = extents(&disk);
    let last_used = *extents.iter().rfind(|(_, batches)| !batches.is_empty()).expect("batches").0;
    let files: Vec<_> = disk.segments().into_iter().map(|(id, file)| (id, file.len())).collect();
    let mut found = 0;
    for (segment, len) in files {
        let batches = &extents[&segment];
        let tail = batches.last().map_or(0, |last| last.end);
        for bit in 0..len * 8 {
            let byte = bit / 8;
            if byte % SECTOR < SECTOR - 8 && byte % 4096 >= 64 && bit % stride != 0 {
                continue;
            }
            disk.flip(segment, bit);
            let outcome = outcome(&mut disk);
            disk.flip(segment, bit);

            // What a former life left has a stamp, and that is all that is looked at.
            let of_stale = byte % SECTOR < SECTOR - 8
                && disk.segment(segment)[byte / SECTOR * SECTOR..][SECTOR - 8..SECTOR] != [0; 8];
            if byte >= tail && (segment < last_used || of_stale) {
                assert_eq!(
                    outcome.as_ref(),
                    Ok(&whole),
                    "{segment}, byte {byte}: nothing is there"
                );
                continue;
            }
            let start = batches
                .iter()
                .find(|batch| batch.contains(&byte))
                .map_or(tail, |batch| batch.start);
            let expected = Position { segment, offset: start as u64 };
            assert_eq!(outcome, Err(expected), "{segment}, byte {byte}, bit {}", bit % 8);
            found += 1;
        }
    }
    println!("{found} flips were found");
    assert!(found > 20_000, "{found} flips were found");
}

#[test]
pub fn every_flipped_bit_is_found_at_its_batch_or_harmless() {
    flip_every_bit(small_log(), 1);
}

#[test]
fn every_flipped_bit_is_found_when_the_oldest_segments_have_gone() {
    let mut disk = small_log();
    for segment in 1..=5 {
        disk.take(SegmentId(segment));
    }
    flip_every_bit(disk, 1);
}

#[test]
fn every_flipped_bit_is_found_in_files_that_were_segments_before() {
    flip_every_bit(recycled_log(), 11);
}

/// The last batch may be taken for torn when a sector of it is lost. No other may.
#[test]
fn a_lost_sector_is_found_in_every_batch_but_the_last() {
    let stale = |disk: &Disk| disk.segments().last().map(|(_, file)| file[..SECTOR].to_vec());
    let recycled = recycled_log();
    let left = stale(&recycled).expect("a segment that nothing was written to");
    assert_ne!(left, [0; SECTOR]);
    lose_every_sector(small_log(), &[0; SECTOR]);
    lose_every_sector(recycled.clone(), &[0; SECTOR]);
    lose_every_sector(recycled, &left);
}

/// What is lost shows what was there before.
fn lose_every_sector(mut disk: Disk, before: &[u8]) {
    let whole = outcome(&mut disk).expect("sound");
    let extents = extents(&disk);
    let (&last_segment, batches) = extents.iter().rfind(|(_, b)| !b.is_empty()).expect("batches");
    let last = batches.last().expect("a batch").clone();
    for (&segment, batches) in &extents {
        for batch in batches {
            for sector in batch.clone().step_by(SECTOR) {
                let mut damaged = disk.clone();
                damaged.spoil(segment, |file| {
                    file[sector..sector + SECTOR].copy_from_slice(before);
                });
                match outcome(&mut damaged) {
                    Err(at) => {
                        assert_eq!(at, Position { segment, offset: batch.start as u64 });
                    }
                    Ok(records) => {
                        assert!(segment == last_segment && *batch == last, "{segment} at {sector}");
                        assert_eq!(records, whole[..records.len()]);
                    }
                }
            }
        }
    }
}

#[test]
fn no_damage_makes_recovery_panic_or_invent_a_record() {
    damage(small_log());
    damage(recycled_log());
}

fn damage(sound: Disk) {
    let (first, segments) = (sound.segments()[0].0.0, sound.segments().len());
    let whole = outcome(&mut sound.clone()).expect("sound");
    let rng = RefCell::new(Rng(3));
    let below = |n: usize| rng.borrow_mut().below(n as u64) as usize;
    let (mut stopped, mut opened) = (0, 0);
    for _ in 0..3000 {
        let mut disk = sound.clone();
        for _ in 0..1 + below(3) {
            let from = SegmentId(first + below(segments) as u64);
            let onto = SegmentId(first + below(segments) as u64);
            let copied = sound.segment(from).to_vec();
            let file_len = disk.segment(onto).len();
            if file_len < copied.len() {
                continue;
            }
            let (start, source) = (below(file_len), below(copied.len()));
            let len = below(2000).min(file_len - start).min(copied.len() - source);
            let block = start / 4096 * 4096;
            disk.spoil(onto, |file| match below(6) {
                0 => file[start..start + len].fill_with(|| below(256) as u8),
                1 => file[start..start + len].fill(0),
                2 => file[start..start + len].copy_from_slice(&copied[source..source + len]),
                // A misdirected write.
                3 => file[block..block + 4096].copy_from_slice(&copied[..4096]),
                4 => file[block..].fill(0),
                _ => file.truncate(start),
            });
        }
        let sound = crate::verify::run(&mut disk).findings.is_empty();
        assert_eq!(sound, read(&mut disk).is_ok(), "recovery and check disagree");
        match read(&mut disk) {
            Err(_) => stopped += 1,
            Ok((_, records)) => {
                assert_eq!(records, whole[..records.len()]);
                opened += 1;
            }
        }
    }
    assert!(stopped > 1000 && opened > 100, "{stopped} stopped, {opened} opened");
}
