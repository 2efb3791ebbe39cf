//! A log, its disk, and a plain list of what was appended to it.

use wal::{BatchSeq, Options, RecoverError, Recovered, Writer, recover};

use crate::disk::{Disk, Loss, Outcome, Rng};

pub const ENTRY: u8 = 1;
/// Repeated at the head of each segment, index 0.
pub const STATE: u8 = 2;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    pub kind: u8,
    pub index: u64,
    pub data: Vec<u8>,
    pub preamble: bool,
}

pub fn read(disk: &mut Disk) -> Result<(Recovered, Vec<Record>), RecoverError> {
    let mut records = Vec::new();
    let recovered = recover(disk, &mut |record| {
        assert_eq!(record.bytes(), record.data);
        records.push(Record {
            kind: record.kind,
            index: record.index,
            data: record.data.to_vec(),
            preamble: record.preamble,
        });
    })?;
    Ok((recovered, records))
}

pub struct Driver {
    pub options: Options,
    pub writer: Writer,
    pub disk: Disk,
    /// All that was appended and not lost, with its batch.
    pub appended: Vec<(Record, BatchSeq)>,
    pub acknowledged: BatchSeq,
    pub released: u64,
    pub next_index: u64,
    serial: u64,
    /// Operations handed out.
    pub ops: u64,
    /// An operation has failed: the process has ended.
    pub failed: bool,
}

impl Driver {
    pub fn new(options: Options) -> Driver {
        Driver {
            options,
            writer: Writer::new(options, Recovered::default()),
            disk: Disk::default(),
            appended: Vec::new(),
            acknowledged: BatchSeq(0),
            released: 0,
            next_index: 1,
            serial: 0,
            ops: 0,
            failed: false,
        }
    }

    /// With a log from which so many segments have gone, and whose files are all those of such ones.
    pub fn recycled(options: Options, kept: usize) -> Driver {
        let mut driver = Driver::new(options);
        let mut lens = [40, 0, 4300, 700].into_iter().cycle();
        driver.append_state();
        while driver.disk.inner.recycled() < 2 * kept as u64 + 2 {
            driver.append(lens.next().unwrap_or(0).min(options.batch_bytes + 1300));
            driver.settle();
            if driver.writer.segments().count() > kept {
                let oldest = driver.writer.segments().next().map_or(0, |info| info.index_max);
                driver.release(oldest + 1);
                driver.settle();
            }
        }
        driver
    }

    /// An entry whose data is like no other's, in one to three parts.
    pub fn append(&mut self, len: usize) -> BatchSeq {
        self.serial += 1;
        let data: Vec<u8> =
            (0..len as u64).map(|at| (self.serial * 31 + at / 3) as u8 & 0x0F).collect();
        let (front, back) = data.split_at(len / 3);
        let batch = self.writer.append(ENTRY, self.next_index, &[front, &[], back]);
        let record = Record { kind: ENTRY, index: self.next_index, data, preamble: false };
        self.appended.push((record, batch));
        self.next_index += 1;
        batch
    }

    pub fn append_state(&mut self) -> BatchSeq {
        self.serial += 1;
        let data = self.serial.to_le_bytes();
        let batch = self.writer.append(STATE, 0, &[&data]);
        self.writer.set_preamble(STATE, 0, &data);
        let record = Record { kind: STATE, index: 0, data: data.to_vec(), preamble: false };
        self.appended.push((record, batch));
        batch
    }

    /// What was appended last and is durable decides how much may go.
    pub fn release(&mut self, index: u64) {
        self.released = self.released.max(index);
        self.writer.release(index);
    }

    /// Starts all that the writer wants done.
    pub fn start_ops(&mut self) {
        while let Some((id, op)) = self.writer.next_op() {
            self.ops += 1;
            self.disk.start(id, op);
        }
    }

    pub fn complete(&mut self, nth: usize) {
        let (id, outcome) = self.disk.complete(nth);
        match outcome {
            Outcome::Done => {
                if let Some(durable) = self.writer.op_done(id) {
                    assert!(durable > self.acknowledged);
                    self.acknowledged = durable;
                }
            }
            Outcome::NoSpace => self.writer.no_space(id),
            Outcome::Failed => self.failed = true,
        }
    }

    /// Until nothing is left to do.
    pub fn settle(&mut self) {
        self.start_ops();
        while !self.failed && !self.disk.in_flight().is_empty() {
            self.complete(0);
            self.start_ops();
        }
    }

    pub fn is_writing(&self) -> bool {
        self.disk.is_writing()
    }

    /// The power goes, the log is read back and checked, and goes on.
    pub fn crash(&mut self, loss: Loss, rng: &mut Rng) {
        self.disk.crash(loss, rng);
        self.reopen();
    }

    /// The process has ended, the system goes on; the next one reads the log back.
    pub fn restart(&mut self, rng: &mut Rng) {
        self.disk.inner.restart(&mut |n| rng.below(n));
        self.reopen();
    }

    pub fn reopen(&mut self) {
        self.failed = false;
        let (recovered, records) =
            read(&mut self.disk).unwrap_or_else(|error| panic!("must open after a crash: {error}"));
        assert!(recovered.last >= self.acknowledged, "{:?} was acknowledged", self.acknowledged);
        self.appended.retain(|&(_, batch)| batch <= recovered.last);
        self.acknowledged = recovered.last;
        self.check(&recovered, &records);
        self.writer = Writer::new(self.options, recovered);
        self.writer.release(self.released);
        let state = records.iter().rfind(|record| record.kind == STATE);
        if let Some(state) = state {
            self.writer.set_preamble(STATE, 0, &state.data);
        }
        self.next_index = self
            .appended
            .iter()
            .rfind(|(record, _)| record.kind == ENTRY)
            .map_or(1, |(record, _)| record.index + 1);
    }

    /// The records read are the last ones appended, none missing that is still needed.
    fn check(&self, recovered: &Recovered, records: &[Record]) {
        let state = records.iter().rfind(|record| record.kind == STATE).map(|record| &record.data);
        let newest = self.appended.iter().rfind(|(record, _)| record.kind == STATE);
        assert_eq!(state, newest.map(|(record, _)| &record.data), "the newest state is kept");

        let read: Vec<&Record> = records.iter().filter(|record| !record.preamble).collect();
        assert_eq!(recovered.records, read.len() as u64);
        let first = self.appended.len().checked_sub(read.len()).expect("nothing is read twice");
        let expected: Vec<&Record> =
            self.appended[first..].iter().map(|(record, _)| record).collect();
        assert_eq!(read, expected);
        for (record, batch) in &self.appended[..first] {
            assert!(record.index < self.released, "{batch:?}: index {} is gone", record.index);
        }
        let index_max = recovered.segments.iter().map(|info| info.index_max).max().unwrap_or(0);
        assert_eq!(index_max, read.iter().map(|record| record.index).max().unwrap_or(0));
    }
}
