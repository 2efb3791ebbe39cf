//! A crash at every operation of a scripted run, with every kind of loss.

use wal::Options;

use crate::{
    disk::{Loss, Rng},
    driver::Driver,
};

pub const OPTIONS: Options = Options { segment_bytes: 24 << 10, batch_bytes: 6 << 10 };

/// One random step: append, change the state, rewrite the log's end, release, or let the disk work.
pub fn step(driver: &mut Driver, rng: &mut Rng) {
    match rng.below(16) {
        0..6 => {
            driver.append(rng.below(700) as usize);
        }
        6 => {
            driver.append(rng.below(7000) as usize);
        }
        7 => {
            driver.append_state();
        }
        // A follower whose entries are overwritten appends lower indexes again.
        8 if rng.one_in(4) => {
            driver.next_index -= rng.below(4).min(driver.next_index - 1);
            driver.append(9);
        }
        8 => {
            let durable = driver.acknowledged;
            let newest = driver
                .appended
                .iter()
                .filter(|&&(_, batch)| batch <= durable)
                .map(|(record, _)| record.index)
                .max();
            driver.release((newest.unwrap_or(0) + 1).saturating_sub(rng.below(6)));
        }
        9..13 => driver.start_ops(),
        _ => {
            driver.start_ops();
            if !driver.disk.in_flight().is_empty() {
                let nth = rng.below(driver.disk.in_flight().len() as u64) as usize;
                driver.complete(nth);
            }
        }
    }
}

/// The state of the run when `ops` operations have been handed out.
fn run_until(ops: u64, seed: u64) -> (Driver, Rng) {
    let mut rng = Rng(seed);
    let mut driver = Driver::new(OPTIONS);
    while driver.ops < ops {
        step(&mut driver, &mut rng);
    }
    (driver, rng)
}

/// Goes on for a while after a crash, is hit by another one, goes on, and ends in peace.
pub fn go_on(driver: &mut Driver, rng: &mut Rng) {
    for _ in 0..2 {
        for _ in 0..rng.below(40) {
            step(driver, rng);
        }
        driver.crash(Loss::Sectors, rng);
    }
    driver.append(100);
    driver.settle();
    let appended = driver.appended.len();
    driver.reopen();
    assert_eq!(driver.appended.len(), appended, "all is durable once the writer rests");
}

#[test]
pub fn a_crash_at_any_operation_of_a_run_loses_nothing_that_was_acknowledged() {
    let (mut torn, mut crashes, mut recycled) = (0, 0, 0);
    for ops in 0..200 {
        for loss in [Loss::All, Loss::None, Loss::Sectors, Loss::Whole, Loss::Head, Loss::OneSector]
        {
            let (mut driver, mut rng) = run_until(ops, 1);
            crashes += 1;
            torn += u64::from(driver.is_writing());
            driver.crash(loss, &mut rng);
            go_on(&mut driver, &mut rng);
            recycled += u64::from(driver.disk.inner.recycled() > 0);
        }
    }
    println!(
        "{crashes} crashes, {torn} of them during a write, {recycled} in logs with used files"
    );
    assert!(torn > 300, "writes are interrupted: {torn}");
    assert!(recycled > 300, "files are used again: {recycled}");
}

#[test]
pub fn random_runs_with_many_crashes_lose_nothing_that_was_acknowledged() {
    for seed in 0..60 {
        let mut rng = Rng(seed);
        let mut driver = Driver::new(OPTIONS);
        for _ in 0..12 {
            for _ in 0..rng.below(200) {
                step(&mut driver, &mut rng);
            }
            let loss = [Loss::All, Loss::None, Loss::Sectors, Loss::Head, Loss::OneSector];
            driver.crash(loss[rng.below(5) as usize], &mut rng);
        }
    }
}

/// The batch is complete with all of its sectors, never existed with none, and is torn with any other
/// subset: wherever it begins, and although an earlier torn batch lay in the same place.
#[test]
fn every_subset_of_the_sectors_of_a_write_is_complete_torn_or_nothing() {
    let settled = |appends: usize, released: bool| {
        let mut driver = Driver::new(OPTIONS);
        for _ in 0..appends {
            driver.append(2000);
            driver.settle();
            if released {
                driver.release(driver.next_index);
                driver.settle();
            }
        }
        assert_eq!(driver.disk.inner.recycled() > 1, released);
        driver
    };
    // A fresh log; the middle of a segment; a new segment. The same in files that were segments before.
    let places = [(0, false), (2, false), (6, false), (24, true), (26, true), (30, true)];
    for (appends, released) in places {
        for subset in 0..256 {
            let mut driver = settled(appends, released);
            let before = driver.acknowledged;
            for write in [0xA5, subset] {
                driver.append(300);
                driver.start_ops();
                while !driver.is_writing() || driver.disk.in_flight().len() > 1 {
                    let creation = driver
                        .disk
                        .in_flight()
                        .iter()
                        .position(|op| !matches!(op, simdisk::Op::Write { .. }));
                    driver.complete(creation.expect("something is in flight"));
                    driver.start_ops();
                }
                if write == 0xA5 || driver.acknowledged > before {
                    assert_eq!(driver.acknowledged, before);
                }
                driver.crash(Loss::Exactly(write), &mut Rng(subset));
                // The writer zeroes what the first one left before it writes the second.
                driver.settle();
            }
            let whole = driver.acknowledged > before;
            assert_eq!(whole, subset == 255, "{appends} appends, subset {subset:08b}");
        }
    }
}

#[test]
fn zeroing_what_a_torn_batch_left_can_be_interrupted_anywhere() {
    for subset in (0..1 << 16).step_by(97) {
        let mut driver = match subset % 2 {
            0 => Driver::new(OPTIONS),
            _ => Driver::recycled(OPTIONS, 1),
        };
        driver.append(300);
        driver.settle();
        let acknowledged = driver.acknowledged;
        driver.append(5000);
        driver.start_ops();
        driver.crash(Loss::Exactly(0xB6D3), &mut Rng(subset));
        assert_eq!(driver.acknowledged, acknowledged);

        driver.append(10);
        driver.start_ops();
        assert!(driver.is_writing());
        driver.crash(Loss::Exactly(subset), &mut Rng(subset));
        assert_eq!(driver.acknowledged, acknowledged);
        driver.append(20);
        driver.settle();
        let appended = driver.appended.len();
        driver.reopen();
        assert_eq!(driver.appended.len(), appended);
    }
}
