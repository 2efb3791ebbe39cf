//! The life of segments: creation ahead of need, rotation, preambles, removal, full disks.

use wal::{BatchSeq, Op, OpId, Options, Recovered, SegmentId, Writer};

use crate::driver::{Driver, ENTRY, STATE, read};

const OPTIONS: Options = Options { segment_bytes: 16 << 10, batch_bytes: 4 << 10 };

fn writer() -> Writer {
    Writer::new(OPTIONS, Recovered::default())
}

fn expect_create(writer: &mut Writer) -> (OpId, SegmentId, u64) {
    match writer.next_op() {
        Some((id, Op::Create { segment, bytes })) => (id, segment, bytes),
        other => panic!("{other:?}"),
    }
}

fn expect_write(writer: &mut Writer) -> (OpId, SegmentId, u64, usize) {
    match writer.next_op() {
        Some((id, Op::Write { segment, offset, data })) => (id, segment, offset, data.len()),
        other => panic!("{other:?}"),
    }
}

fn has_nothing_to_do(writer: &mut Writer) -> bool {
    writer.next_op().is_none()
}

/// With its first segment, which takes a quarter for each batch of one block.
fn with_first_segment() -> Writer {
    let mut writer = writer();
    let (id, segment, bytes) = expect_create(&mut writer);
    assert_eq!((segment, bytes), (SegmentId(1), 16 << 10));
    assert_eq!(writer.op_done(id), None);
    writer
}

fn write_one(writer: &mut Writer, index: u64) -> (SegmentId, u64) {
    writer.append(ENTRY, index, &[b"x"]);
    let (id, segment, offset, _) = expect_write(writer);
    assert!(writer.op_done(id).is_some());
    (segment, offset)
}

#[test]
fn records_that_arrive_during_a_write_are_the_next_batch() {
    let mut writer = with_first_segment();
    assert_eq!(writer.append(ENTRY, 1, &[b"a"]), BatchSeq(1));
    assert_eq!(writer.append(ENTRY, 2, &[b"b", b"c"]), BatchSeq(1));
    let (first, _, offset, len) = expect_write(&mut writer);
    assert_eq!((offset, len), (0, 4096));
    assert_eq!(writer.append(ENTRY, 3, &[b"d"]), BatchSeq(2));
    assert!(has_nothing_to_do(&mut writer), "one write at a time");
    assert!(writer.pending_bytes() > 4096);
    assert_eq!(writer.op_done(first), Some(BatchSeq(1)));
    let (second, _, offset, _) = expect_write(&mut writer);
    assert_eq!(offset, 4096);
    assert_eq!(writer.durable(), BatchSeq(1));
    assert_eq!(writer.op_done(second), Some(BatchSeq(2)));
    assert_eq!((writer.durable(), writer.pending_bytes()), (BatchSeq(2), 0));
}

#[test]
fn a_full_batch_takes_no_more_records() {
    let mut writer = with_first_segment();
    assert_eq!(writer.append(ENTRY, 1, &[&[7; 3000]]), BatchSeq(1));
    assert_eq!(writer.append(ENTRY, 2, &[&[7; 3000]]), BatchSeq(2));
    assert_eq!(writer.append(ENTRY, 3, &[&[7; 100]]), BatchSeq(2));
}

#[test]
fn the_next_segment_is_created_when_the_last_is_half_full() {
    let mut writer = with_first_segment();
    write_one(&mut writer, 1);
    assert!(has_nothing_to_do(&mut writer));
    write_one(&mut writer, 2);
    let (id, segment, _) = expect_create(&mut writer);
    assert_eq!(segment, SegmentId(2));
    assert_eq!(write_one(&mut writer, 3), (SegmentId(1), 8192), "writes go on meanwhile");
    writer.op_done(id);
    assert!(has_nothing_to_do(&mut writer), "one ahead is enough");
    assert_eq!(write_one(&mut writer, 4), (SegmentId(1), 12288));
    assert_eq!(write_one(&mut writer, 5), (SegmentId(2), 0));
}

#[test]
fn a_batch_that_does_not_fit_waits_for_the_next_segment() {
    let mut writer = with_first_segment();
    for index in 1..=4 {
        writer.append(ENTRY, index, &[b"x"]);
        match writer.next_op() {
            Some((id, Op::Write { .. })) => writer.op_done(id),
            other => panic!("{other:?}"),
        };
    }
    writer.append(ENTRY, 5, &[b"x"]);
    let (id, segment, _) = expect_create(&mut writer);
    assert_eq!(segment, SegmentId(2));
    assert!(has_nothing_to_do(&mut writer));
    assert_eq!(writer.room_bytes(), 0);
    writer.op_done(id);
    let (_, segment, offset, _) = expect_write(&mut writer);
    assert_eq!((segment, offset), (SegmentId(2), 0));
}

#[test]
fn a_record_larger_than_a_segment_gets_a_segment_of_its_own_size() {
    let mut driver = Driver::new(OPTIONS);
    for len in [100, 9000, 9000, 100_000, 10, 300_000, 12_000] {
        driver.append(len);
        driver.settle();
    }
    let sizes: Vec<u64> = driver.writer.segments().map(|info| info.bytes).collect();
    assert!(sizes.contains(&(16 << 10)) && sizes.iter().any(|&bytes| bytes > 300_000), "{sizes:?}");
    driver.reopen();
    assert_eq!(driver.appended.len(), 7);
}

#[test]
fn every_segment_opens_with_the_preambles_of_its_moment() {
    let mut driver = Driver::new(OPTIONS);
    driver.writer.set_preamble(9, 77, b"for ever");
    for round in 0..40 {
        if round % 3 == 0 {
            driver.append_state();
        }
        driver.append(900);
        driver.settle();
    }
    assert!(driver.writer.segments().count() > 3);
    let whole = read(&mut driver.disk).expect("sound").1;
    let mut state = None;
    let mut preambles = 0;
    for record in &whole {
        match (record.kind, record.preamble) {
            (STATE, false) => state = Some(&record.data),
            (STATE, true) => {
                preambles += 1;
                let newest_before = state.is_none_or(|state| state <= &record.data);
                assert!(newest_before, "a preamble is never older than what came before");
            }
            (9, preamble) => assert!(preamble && record.index == 77 && record.data == b"for ever"),
            _ => {}
        }
    }
    assert_eq!(preambles, driver.writer.segments().count());
}

#[test]
fn a_preamble_does_not_keep_a_segment_from_going() {
    let mut writer = with_first_segment();
    writer.set_preamble(STATE, 1_000_000, b"state");
    for index in 1..=4 {
        writer.append(ENTRY, index, &[&[1; 2500]]);
        loop {
            match writer.next_op() {
                Some((id, Op::Remove { .. })) => panic!("{id:?}"),
                Some((id, _)) => writer.op_done(id),
                None => break,
            };
        }
    }
    assert_eq!(writer.segments().next().map(|info| info.index_max), Some(4));
}

#[test]
fn segments_go_oldest_first_when_all_their_records_are_released() {
    let mut driver = Driver::new(OPTIONS);
    for _ in 0..20 {
        driver.append(2500);
        driver.settle();
    }
    let infos: Vec<_> = driver.writer.segments().copied().collect();
    assert_eq!(infos.len(), 5);
    driver.release(infos[1].index_max);
    driver.settle();
    assert_eq!(driver.writer.segments().count(), 4, "the second still holds the released index");
    driver.release(infos[1].index_max + 1);
    driver.settle();
    assert_eq!(driver.writer.segments().count(), 3);
    driver.release(u64::MAX);
    driver.settle();
    assert_eq!(driver.writer.segments().count(), 1, "the one that is written to stays");
    driver.reopen();
    assert_eq!(driver.writer.segments().count(), 1);
    driver.append(1);
    driver.settle();
    driver.reopen();
}

#[test]
fn no_segment_goes_before_a_later_one_holds_a_durable_batch() {
    let mut writer = with_first_segment();
    for index in 1..=4 {
        write_one_and_create(&mut writer, index);
    }
    writer.release(5);
    assert!(has_nothing_to_do(&mut writer), "it is the only one");
    writer.append(ENTRY, 5, &[b"x"]);
    let (write, segment, _, _) = expect_write(&mut writer);
    assert_eq!(segment, SegmentId(2));
    assert!(has_nothing_to_do(&mut writer), "the batch is in flight");
    writer.op_done(write);
    let op = writer.next_op();
    assert!(matches!(op, Some((_, Op::Remove { segment: SegmentId(1) }))), "{op:?}");
}

fn write_one_and_create(writer: &mut Writer, index: u64) {
    writer.append(ENTRY, index, &[b"x"]);
    while let Some((id, op)) = writer.next_op() {
        assert!(!matches!(op, Op::Remove { .. }));
        writer.op_done(id);
    }
}

#[test]
fn a_full_disk_is_survived_and_told() {
    let mut writer = with_first_segment();
    write_one(&mut writer, 1);
    write_one(&mut writer, 2);
    let (id, _, _) = expect_create(&mut writer);
    writer.no_space(id);
    assert!(writer.is_short_of_space());
    assert_eq!(writer.room_bytes(), 8192);
    write_one(&mut writer, 3);
    write_one(&mut writer, 4);
    writer.append(ENTRY, 5, &[b"x"]);
    assert!(has_nothing_to_do(&mut writer), "nothing is tried again by itself");
    writer.retry_space();
    let (id, segment, _) = expect_create(&mut writer);
    writer.no_space(id);
    assert!(writer.is_short_of_space() && has_nothing_to_do(&mut writer));
    writer.retry_space();
    let (id, again, _) = expect_create(&mut writer);
    assert_eq!(segment, again);
    writer.op_done(id);
    assert!(!writer.is_short_of_space());
    let (id, _, _, _) = expect_write(&mut writer);
    assert_eq!(writer.op_done(id), Some(BatchSeq(5)));
}

/// ENOSPC at the first creation, at the second, and so on: nothing is lost and all goes on with space.
#[test]
fn a_full_disk_at_any_creation_only_delays() {
    for segments in 0..8 {
        let mut driver = Driver::new(OPTIONS);
        driver.disk.inner.space = Some(segments * OPTIONS.segment_bytes);
        for _ in 0..20 {
            driver.append(2500);
            driver.settle();
        }
        assert_eq!(driver.writer.is_short_of_space(), segments < 6, "{segments}");
        let pending = driver.writer.pending_bytes();
        assert_eq!(pending > 0, segments < 5, "{segments}");
        driver.disk.inner.space = None;
        driver.writer.retry_space();
        driver.settle();
        assert_eq!(driver.writer.pending_bytes(), 0);
        driver.reopen();
        assert_eq!(driver.appended.len(), 20);
    }
}

#[test]
fn a_removal_makes_the_writer_try_again() {
    let mut driver = Driver::new(OPTIONS);
    driver.disk.inner.space = Some(3 * OPTIONS.segment_bytes);
    for _ in 0..12 {
        driver.append(2500);
        driver.settle();
    }
    driver.append(2500);
    driver.settle();
    assert!(driver.writer.is_short_of_space() && driver.writer.pending_bytes() > 0);
    driver.release(5);
    driver.settle();
    assert_eq!(driver.writer.pending_bytes(), 0);
    driver.reopen();
}

#[test]
fn blank_segments_are_used_after_a_restart_and_too_small_ones_replaced() {
    let mut driver = Driver::new(OPTIONS);
    for _ in 0..3 {
        driver.append(2500);
        driver.settle();
    }
    assert_eq!(driver.disk.segments().len(), 2);
    driver.reopen();
    driver.append(2500);
    driver.append(2500);
    driver.settle();
    assert_eq!(driver.writer.segments().count(), 2);

    driver.options = Options { segment_bytes: 32 << 10, ..OPTIONS };
    for _ in 0..2 {
        driver.append(2500);
        driver.settle();
    }
    driver.reopen();
    driver.append(30_000);
    driver.settle();
    driver.reopen();
    let sizes: Vec<u64> = driver.writer.segments().map(|info| info.bytes).collect();
    assert_eq!(sizes, [16 << 10, 16 << 10, 32 << 10]);
}

#[test]
fn memory_is_used_again_on_the_steady_path() {
    let mut writer = with_first_segment();
    let mut places = Vec::new();
    for index in 1..200 {
        writer.append(ENTRY, index, &[b"some data"]);
        writer.release(index);
        while let Some((id, op)) = writer.next_op() {
            if let Op::Write { data, .. } = &op {
                places.push(data.as_ptr().addr());
            }
            drop(op);
            writer.op_done(id);
        }
    }
    places.sort_unstable();
    places.dedup();
    assert!(places.len() <= 4, "{} buffers", places.len());
}
