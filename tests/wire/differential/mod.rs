//! The same generated requests to ringd and to a real etcd: every answer is the same, field by field.
//!
//! `RINGD_DIFFERENTIAL_REQUESTS` sets how many requests are sent (30,000 by default; `.ci/run` sends 100,000), four of five without auth and the
//! fifth with it (`permissions.rs`), in sequences of [`SEQUENCE_REQUESTS`] with the seeds 1, 2, 3 and so on, each on
//! fresh servers. `RINGD_DIFFERENTIAL_SEED` is the first seed, and the only one if no number of requests is given. A
//! difference is printed with its seed, step, request and both answers, and with the shortest sequence that could be
//! found in [`SHRINK_RUNS_MAX`] runs.

mod administration;
mod gateway;
mod generate;
mod json;
mod permissions;
mod request;
mod run;
mod ties;
mod watching;

use std::fmt::Write;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use generate::{Generator, Limits, Step, World};
use run::{Difference, Tally};

use crate::block_on;
use crate::server::{Kind, etcd_or_skip};

const SEQUENCE_REQUESTS: usize = 5_000;
const DEFAULT_REQUESTS: usize = 30_000;
/// Each takes two starts of a server.
const SHRINK_RUNS_MAX: usize = 60;
/// The last ones of a sequence that could not be made shorter.
const SHOWN_STEPS_MAX: usize = 40;
/// A sequence is mostly one request at a time, and waits for a restart now and then.
const THREADS: usize = 4;

#[test]
fn generated_requests_get_the_answers_of_a_real_etcd() {
    // Auth is never enabled in this run.
    let unasked = [PROMOTE, "/etcdserverpb.Auth/AuthEnable", "/etcdserverpb.Auth/Authenticate"];
    run_seeds("differential", 4, sequence, &unasked);
}

#[test]
fn with_auth_on_generated_requests_get_the_answers_of_a_real_etcd() {
    run_seeds("differential with auth", 1, permissions::sequence, &[PROMOTE]);
}

/// A learner that nobody has started cannot be promoted; `tests/crash/members.rs` promotes one that is.
const PROMOTE: &str = "/etcdserverpb.Cluster/MemberPromote";

/// `fifths` of all requests, seed by seed, each on a thread of its own. `unasked` are methods that cannot succeed here.
fn run_seeds(
    test: &str,
    fifths: usize,
    sequence: impl Fn(u64, &mut Tally) -> Result<(), String> + Sync,
    unasked: &[&str],
) {
    let Some(etcd) = etcd_or_skip(test) else { return };
    let number = |name| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let (first, requests) =
        (number("RINGD_DIFFERENTIAL_SEED"), number("RINGD_DIFFERENTIAL_REQUESTS"));
    let count = match (first, requests) {
        (Some(_), None) => 1,
        (_, requests) => {
            let requests = requests.unwrap_or(DEFAULT_REQUESTS as u64) * fifths as u64 / 5;
            requests.div_ceil(SEQUENCE_REQUESTS as u64)
        }
    };
    let first = first.unwrap_or(1);

    let next = AtomicU64::new(first);
    let stop = AtomicBool::new(false);
    let total = Mutex::new(Tally::default());
    let failures = Mutex::new(String::new());
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= first + count {
                        break;
                    }
                    let mut tally = Tally::default();
                    if let Err(report) = sequence(seed, &mut tally) {
                        stop.store(true, Ordering::Relaxed);
                        failures.lock().expect("no poison").push_str(&report);
                    }
                    total.lock().expect("no poison").add(tally);
                }
            });
        }
    });

    let total = total.into_inner().expect("no poison");
    println!("{:?} beside {etcd:?}", Kind::Ringd.binary().expect("the binary under test"));
    println!("{total}");
    let failures = failures.into_inner().expect("no poison");
    assert!(failures.is_empty(), "{failures}");
    if count as usize * SEQUENCE_REQUESTS >= DEFAULT_REQUESTS * fifths / 5 {
        total.assert_alive(unasked);
    }
}

/// How a seed is run again.
fn replay(seed: u64) -> String {
    format!("RINGD_DIFFERENTIAL_SEED={seed} cargo test --test wire differential")
}

/// One seed on fresh servers; the report of a difference is the error.
fn sequence(seed: u64, tally: &mut Tally) -> Result<(), String> {
    let limits = Limits::of_seed(seed);
    let mut generator = Generator::new(seed);
    let mut done = Vec::new();
    let mut has_ended = false;
    let mut source = |world: &World, requests| {
        let is_over = requests >= SEQUENCE_REQUESTS;
        match is_over {
            _ if has_ended => None,
            true => {
                has_ended = true;
                Some(generator.last(world))
            }
            false => Some(generator.next(world)),
        }
    };
    let outcome = block_on(run::run(limits, &mut source, &mut done, tally));
    let Err(difference) = outcome else { return Ok(()) };

    let mut report =
        format!("\nseed {seed} differs ({limits:?}, replay: {})\n{difference}", replay(seed));
    // To make it shorter may take minutes.
    eprintln!("{report}");
    let (shortest, difference) = shrink(limits, done, difference);
    let _ = writeln!(report, "shrunk to {} steps:", shortest.len());
    for step in shortest.iter().rev().take(SHOWN_STEPS_MAX).rev() {
        let _ = writeln!(report, "  {}", run::shorten(step));
    }
    let _ = writeln!(report, "{difference}");
    Err(report)
}

/// Leaves out steps, as long as some difference remains: whole kinds of them first, then ever smaller parts.
fn shrink(limits: Limits, steps: Vec<Step>, last: Difference) -> (Vec<Step>, Difference) {
    let steps: Vec<Step> = steps.into_iter().flat_map(one_by_one).collect();
    let mut best = Shrinking { limits, steps, last, runs: 0 };
    for kind in [Step::only_reads, Step::is_watch, Step::is_lease] {
        let end = best.steps.len().saturating_sub(1);
        best.try_without(|at, step| at < end && kind(step));
    }
    let mut part = best.steps.len() / 2;
    while part > 0 && best.runs < SHRINK_RUNS_MAX {
        let mut at = 0;
        while at < best.steps.len() && best.runs < SHRINK_RUNS_MAX {
            if !best.try_without(|index, _| (at..at + part).contains(&index)) {
                at += part;
            }
        }
        part /= 2;
    }
    (best.steps, best.last)
}

struct Shrinking {
    limits: Limits,
    steps: Vec<Step>,
    last: Difference,
    runs: usize,
}

impl Shrinking {
    fn try_without(&mut self, leave_out: impl Fn(usize, &Step) -> bool) -> bool {
        let kept = self.steps.iter().enumerate().filter(|(at, step)| !leave_out(*at, step));
        let mut fewer: Vec<Step> = kept.map(|(_, step)| step.clone()).collect();
        if fewer.len() == self.steps.len() {
            return false;
        }
        let mut script = Some(fewer.clone());
        let mut source = |_: &World, _| script.take();
        let mut done = Vec::new();
        let mut tally = Tally::default();
        self.runs += 1;
        let run = run::run(self.limits, &mut source, &mut done, &mut tally);
        let Err(difference) = block_on(run) else { return false };
        fewer.truncate(difference.step + 1);
        self.steps = fewer;
        self.last = difference;
        true
    }
}

fn one_by_one(step: Step) -> Vec<Step> {
    match step {
        Step::Calls(requests) => requests.into_iter().map(|one| Step::Calls(vec![one])).collect(),
        step => vec![step],
    }
}
