//! Operations that fail, and disks that are full: at every operation of a scripted run.

use simdisk::Fault;

use crate::{
    crash::{OPTIONS, go_on, step},
    disk::{Loss, Rng},
    driver::Driver,
};

/// Operations of the run.
const OPS: u64 = 200;
/// What must be enough for them.
const STEPS: usize = 2000;

/// A failed operation ends the process; it is never tried again by the same one. The next process
/// finds what was acknowledged, whether the power went too or not, and whether the disk is sound
/// again or fails for some time more.
#[test]
pub fn an_error_at_every_operation_ends_the_process_and_loses_nothing_that_was_acknowledged() {
    let mut hits = 0;
    for at in 1..=OPS {
        for (for_ever, power_goes) in [(false, false), (false, true), (true, false), (true, true)] {
            let mut rng = Rng(at);
            let mut driver = Driver::new(OPTIONS);
            driver.disk.inner.fail(Some(Fault { at, for_ever }));
            for _process in 0..3 {
                for _ in 0..STEPS {
                    step(&mut driver, &mut rng);
                    if driver.failed || driver.ops >= OPS {
                        break;
                    }
                }
                hits += u64::from(driver.failed);
                if power_goes {
                    driver.crash(Loss::Sectors, &mut rng);
                } else {
                    driver.restart(&mut rng);
                }
            }
            driver.disk.inner.fail(None);
            go_on(&mut driver, &mut rng);
        }
    }
    println!("{hits} failed operations");
    assert!(hits > 4 * (OPS - 10), "{hits} operations failed");
}

/// The disk is full at every operation, once or until somebody makes room: nothing is lost, and all
/// goes on with space; also when the power goes meanwhile.
#[test]
pub fn a_full_disk_at_every_operation_delays_and_loses_nothing() {
    let mut shortages = 0;
    for at in 1..=OPS {
        for (for_ever, power_goes) in [(false, false), (false, true), (true, false), (true, true)] {
            let mut rng = Rng(at);
            let mut driver = Driver::new(OPTIONS);
            driver.disk.inner.fill(Some(Fault { at, for_ever }));
            for _ in 0..STEPS {
                step(&mut driver, &mut rng);
                if driver.ops >= OPS {
                    break;
                }
            }
            if power_goes {
                driver.crash(Loss::Sectors, &mut rng);
                (0..20).for_each(|_| step(&mut driver, &mut rng));
            }
            shortages += driver.disk.inner.faults().1;
            driver.disk.inner.fill(None);
            driver.writer.retry_space();
            driver.append(100);
            driver.settle();
            assert_eq!(driver.writer.pending_bytes(), 0, "all is durable once there is room");
            let appended = driver.appended.len();
            driver.reopen();
            assert_eq!(driver.appended.len(), appended);
        }
    }
    println!("{shortages} full disks");
    assert!(shortages > OPS, "the disk was full {shortages} times");
}
