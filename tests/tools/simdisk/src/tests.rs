use super::*;

const A: FileId = FileId(1);
const B: FileId = FileId(2);

/// SplitMix64.
struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % n
    }
}

struct Bed {
    disk: Disk,
    random: Random,
    tokens: u64,
}

impl Bed {
    fn new() -> Bed {
        let mut disk = Disk::default();
        disk.insert(A, vec![0; 4 * SECTOR]);
        Bed { disk, random: Random(1), tokens: 0 }
    }

    fn start(&mut self, op: Op) {
        self.tokens += 1;
        let Bed { disk, random, tokens } = self;
        disk.start(Token(*tokens), op, &mut |n| random.below(n));
    }

    fn complete(&mut self, nth: usize) -> Outcome {
        let Bed { disk, random, .. } = self;
        disk.complete(nth, &mut |n| random.below(n)).2
    }

    fn run(&mut self, op: Op) -> Outcome {
        self.start(op);
        self.complete(0)
    }

    fn crash(&mut self, loss: Loss) {
        let Bed { disk, random, .. } = self;
        disk.crash(loss, &mut |n| random.below(n));
    }

    fn sectors(&self) -> Vec<u8> {
        self.disk.read(A).iter().step_by(SECTOR).copied().collect()
    }
}

fn write(sector: u64, content: &[u8], durable: bool) -> Op {
    let data = content.iter().flat_map(|byte| [*byte; SECTOR]).collect();
    Op::Write { file: A, offset: sector * SECTOR as u64, data, durable }
}

#[test]
fn what_was_synced_survives_and_what_was_not_is_as_the_loss_says() {
    for (loss, expected) in [
        (Loss::All, [1, 0, 0, 0]),
        (Loss::None, [1, 2, 3, 4]),
        (Loss::Exactly(0b101), [1, 2, 0, 4]),
    ] {
        let mut bed = Bed::new();
        assert_eq!(bed.run(write(0, &[1], false)), Outcome::Done);
        assert_eq!(bed.run(Op::Sync { file: A }), Outcome::Done);
        bed.run(write(1, &[2, 3, 4], false));
        assert_eq!(bed.sectors(), [1, 2, 3, 4], "the process sees what it wrote");
        bed.crash(loss);
        assert_eq!(bed.sectors(), expected, "{loss:?}");
    }
}

#[test]
fn every_subset_of_sectors_and_every_order_comes_up() {
    let mut seen = std::collections::BTreeSet::new();
    for seed in 0..200 {
        let mut bed = Bed::new();
        bed.random = Random(seed);
        bed.run(write(0, &[1, 1], false));
        bed.run(write(0, &[2, 2], false));
        bed.start(write(2, &[3], true));
        bed.crash(Loss::Sectors);
        seen.insert(bed.sectors()[..3].to_vec());
    }
    assert_eq!(seen.len(), 3 * 3 * 2);
}

#[test]
fn a_durable_write_is_durable_when_it_is_done_and_not_before() {
    let mut bed = Bed::new();
    bed.start(write(0, &[7], true));
    assert_eq!(bed.disk.durable(A)[0], 0);
    bed.complete(0);
    bed.crash(Loss::All);
    assert_eq!(bed.sectors()[0], 7);
}

#[test]
fn files_come_and_go_and_have_room_or_not() {
    let mut bed = Bed::new();
    bed.disk.space = Some(10 * SECTOR as u64);
    let grow = |sectors: u64| Op::Grow { file: A, bytes: sectors * SECTOR as u64 };
    assert_eq!(bed.run(grow(8)), Outcome::Done);
    let create = Op::Create { file: B, bytes: 4 * SECTOR as u64 };
    assert_eq!(bed.run(create.clone()), Outcome::NoSpace);
    assert_eq!(bed.run(Op::Truncate { file: A, bytes: SECTOR as u64 }), Outcome::Done);
    assert_eq!(bed.run(create), Outcome::Done);
    bed.crash(Loss::All);
    assert_eq!((bed.disk.read(A).len(), bed.disk.has(B)), (8 * SECTOR, true), "not synced");
    bed.disk.space = None;
    bed.start(Op::Remove { file: B });
    bed.crash(Loss::None);
    assert!(!bed.disk.has(B));
}

#[test]
fn a_file_that_was_removed_comes_back_with_what_was_in_it() {
    let mut bed = Bed::new();
    bed.disk.spares_max = 1;
    bed.run(write(1, &[7], true));
    let len = bed.disk.read(A).len() as u64;
    bed.disk.space = Some(len);
    bed.run(Op::Remove { file: A });
    assert_eq!(bed.run(Op::Create { file: B, bytes: 2 * len }), Outcome::NoSpace);
    assert_eq!(bed.run(Op::Create { file: B, bytes: len }), Outcome::Done);
    assert_eq!((bed.disk.recycled(), bed.disk.read(B)[SECTOR]), (1, 7));
    assert_eq!(bed.run(Op::Create { file: A, bytes: len }), Outcome::NoSpace);
}

#[test]
fn the_nth_operation_fails_once_or_for_ever() {
    for for_ever in [false, true] {
        let mut bed = Bed::new();
        bed.disk.fail(Some(Fault { at: 2, for_ever }));
        let outcomes: Vec<_> = (0..4).map(|_| bed.run(write(0, &[1], true))).collect();
        let later = if for_ever { Outcome::Failed } else { Outcome::Done };
        assert_eq!(outcomes, [Outcome::Done, Outcome::Failed, later, later]);

        bed.disk.fail(None);
        bed.disk.fill(Some(Fault { at: 1, for_ever }));
        assert_eq!(bed.run(write(0, &[1], true)), Outcome::Done, "it needs no space");
        let grow = |sectors: u64| Op::Grow { file: A, bytes: sectors * SECTOR as u64 };
        assert_eq!(bed.run(grow(8)), Outcome::NoSpace);
        assert_eq!(bed.run(grow(8)) == Outcome::NoSpace, for_ever);
    }
}

/// fsyncgate: the cache shows what is not on the disk, and a second sync says that all is well.
#[test]
fn what_a_failed_sync_has_lost_shows_until_the_process_ends() {
    let mut lost = 0;
    for seed in 0..50 {
        let mut bed = Bed::new();
        bed.random = Random(seed);
        bed.run(write(0, &[1], false));
        bed.disk.fail(Some(Fault { at: 2, for_ever: false }));
        assert_eq!(bed.run(Op::Sync { file: A }), Outcome::Failed);
        assert_eq!(bed.run(Op::Sync { file: A }), Outcome::Done);
        assert_eq!(bed.sectors()[0], 1);
        let Bed { disk, random, .. } = &mut bed;
        disk.restart(&mut |n| random.below(n));
        lost += u64::from(bed.sectors()[0] == 0);
    }
    assert!(lost > 10, "{lost}");
}

#[test]
fn a_mirror_sees_what_the_process_would_read() {
    let mirror = Rc::new(std::cell::RefCell::new(vec![0xff; 8 * SECTOR]));
    let mut bed = Bed::new();
    let target = mirror.clone();
    bed.disk.mirror(
        A,
        Rc::new(move |offset, bytes| {
            target.borrow_mut()[offset as usize..][..bytes.len()].copy_from_slice(bytes);
        }),
    );
    bed.run(write(1, &[5, 6], false));
    bed.run(Op::Grow { file: A, bytes: 6 * SECTOR as u64 });
    bed.disk.flip(A, 0);
    assert_eq!(mirror.borrow()[..6 * SECTOR], *bed.disk.read(A));
    assert_eq!(bed.sectors(), [1, 5, 6, 0, 0, 0]);
}

#[test]
fn what_counts_on_an_order_that_is_not_promised_is_a_panic() {
    let bad: [(Op, Op); 3] = [
        (write(0, &[1, 1], true), write(1, &[2], true)),
        (write(0, &[1], false), Op::Sync { file: A }),
        (Op::Sync { file: A }, write(4, &[1], false)),
    ];
    for (first, second) in bad {
        let outcome = std::panic::catch_unwind(|| {
            let mut bed = Bed::new();
            bed.start(first);
            bed.start(second.clone());
        });
        assert!(outcome.is_err(), "{second:?}");
    }
}
