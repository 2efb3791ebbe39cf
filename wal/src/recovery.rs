//! Reading the log back after a start.
//!
//! The walk goes from batch to batch and from segment to segment, and at every place does what
//! [`RECOVERY_CASES`](crate::RECOVERY_CASES) says. It ends with the log's tail, or with the first damage.

use std::{io, rc::Rc};

use crate::{
    batch::{BatchHeader, FirstSector},
    cases::{After, Case, Decision, Head, Sectors, Sight, case_of},
    limits::BLOCK_BYTES,
    mutants::{self, Mutant},
    reader::Batch,
    record::RecordRef,
    sector::{
        SECTOR_BYTES, STAMP_BYTES, bears_stamp, is_blank, is_stale, is_unwritten, stamp_of,
        until_unwritten,
    },
    segment::{BatchSeq, Content, Position, SegmentId, SegmentInfo, SegmentSource},
};

/// The log as it was found. The default is an empty directory.
#[derive(Debug, Default)]
pub struct Recovered {
    /// Those that hold batches, oldest first.
    pub segments: Vec<SegmentInfo>,
    /// Where the next batch belongs in the last of them.
    pub tail: u64,
    /// Segments behind them that nothing was written to, with their lengths.
    pub blank: Vec<(SegmentId, u64)>,
    /// What an interrupted write left. Zeroed by the writer before it writes anything else.
    pub torn: Option<Torn>,
    /// The newest batch.
    pub last: BatchSeq,
    /// Records read, those of preambles aside.
    pub records: u64,
    pub(crate) link: u32,
}

/// What an interrupted write left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Torn {
    pub segment: SegmentId,
    pub offset: u64,
    /// Up to the end of the last block that is not unwritten.
    pub bytes: u64,
}

#[derive(Debug, thiserror::Error)]
pub enum RecoverError {
    #[error("cannot list the log's segments: {0}")]
    List(#[source] io::Error),
    #[error("{segment}: cannot read: {source}")]
    Read { segment: SegmentId, source: io::Error },
    #[error(
        "{segment}: damaged at offset {bytes}: the file ends there, which is not a multiple of 4096"
    )]
    Size { segment: SegmentId, bytes: u64 },
    #[error("{missing}: the segment is missing, but {found} is there")]
    Missing { missing: SegmentId, found: SegmentId },
    #[error("{segment}: damaged at offset {offset}: {}: {}", case.name, case.meaning)]
    Damaged { segment: SegmentId, offset: u64, case: &'static Case },
}

/// Reads all records, oldest first, and hands each to `visit`. After an error, what was visited is void.
pub fn recover(
    source: &mut dyn SegmentSource,
    visit: &mut dyn FnMut(RecordRef<'_>),
) -> Result<Recovered, RecoverError> {
    let mut walk = Walk::new(Shelf::list(source)?);
    let mut index = 0;
    let mut ended = None;
    while ended.is_none() && index < walk.shelf.segments.len() {
        ended = walk.segment(index, 0, visit)?;
        index += 1;
    }
    Ok(walk.finish(ended))
}

pub(crate) struct Walk<'a> {
    pub(crate) shelf: Shelf<'a>,
    /// What each segment so far holds, and up to where.
    passed: Vec<(SegmentInfo, u64)>,
    pub(crate) batches: u64,
    /// Where the log ends, and by which row of the table.
    pub(crate) end: Option<(Position, &'static Case)>,
    last: BatchSeq,
    link: u32,
    /// `last` and `link` are those of the batch before, or of the beginning of the log.
    anchored: bool,
    /// The oldest batch: what bears the stamp of an older one is stale. 0 as long as it is not known; and
    /// where nothing has gone yet, nothing is stale.
    oldest: BatchSeq,
    records: u64,
}

/// A sight, and the batch if there is a sound one.
type Look = (Sight, Option<(Batch, u32)>);

impl<'a> Walk<'a> {
    pub(crate) fn new(shelf: Shelf<'a>) -> Walk<'a> {
        let anchored = shelf.segments.first().is_none_or(|&(first, _)| first == SegmentId::FIRST);
        Walk {
            shelf,
            passed: Vec::new(),
            batches: 0,
            end: None,
            last: BatchSeq::NONE,
            link: 0,
            anchored,
            oldest: if anchored { BatchSeq::NONE.next() } else { BatchSeq::NONE },
            records: 0,
        }
    }

    pub(crate) fn oldest(&self) -> BatchSeq {
        self.oldest
    }

    /// What comes next cannot be said to continue what was read.
    pub(crate) fn lose_track(&mut self) {
        self.anchored = false;
    }

    pub(crate) fn is_anchored(&self) -> bool {
        self.anchored
    }

    /// Walks through one segment from `offset` on. `Some` ends the walk: with what is torn, if
    /// anything is.
    pub(crate) fn segment(
        &mut self,
        index: usize,
        mut offset: usize,
        visit: &mut dyn FnMut(RecordRef<'_>),
    ) -> Result<Option<Option<Torn>>, RecoverError> {
        let bytes = self.shelf.take(index)?;
        let segment = self.shelf.segments[index].0;
        if self.oldest == BatchSeq::NONE
            && let Some((_, header)) = next_header(&bytes, offset, segment)
        {
            self.oldest = header.sequence;
        }
        let mut info = SegmentInfo { segment, bytes: bytes.len() as u64, index_max: 0 };
        let ended = loop {
            let (sight, batch) = self.look(index, &bytes, offset)?;
            let case = case_of(&sight);
            if matches!(case.decision, Decision::End | Decision::Cut) {
                self.end = Some((Position { segment, offset: offset as u64 }, case));
            }
            match (case.decision, batch) {
                (Decision::Accept, Some((batch, link))) => {
                    for record in batch.records() {
                        if !record.preamble {
                            info.index_max = info.index_max.max(record.index);
                            self.records += 1;
                        }
                        visit(record);
                    }
                    self.last = batch.sequence();
                    self.link = link;
                    self.anchored = true;
                    self.batches += 1;
                    offset = batch.end().offset as usize;
                }
                (Decision::NextSegment, _) => break None,
                (Decision::End, _) => break Some(None),
                (Decision::Cut, _) => break Some(Some(torn(segment, &bytes, offset, self.oldest))),
                _ if mutants::is_on(Mutant::EndAtFirstDamage) => {
                    break Some(Some(torn(segment, &bytes, offset, self.oldest)));
                }
                (Decision::Stop | Decision::Accept, _) => {
                    return Err(RecoverError::Damaged { segment, offset: offset as u64, case });
                }
            }
        };
        self.passed.push((info, offset as u64));
        Ok(ended)
    }

    fn look(&mut self, index: usize, bytes: &[u8], offset: usize) -> Result<Look, RecoverError> {
        let rest = bytes.get(offset..).unwrap_or_default();
        let due = self.last.next();
        let oldest = match self.oldest {
            _ if mutants::is_on(Mutant::StaleIsWritten) => BatchSeq::NONE,
            _ if mutants::is_on(Mutant::AnyOlderIsStale) => due,
            oldest => oldest,
        };
        let first = if rest.is_empty() { FirstSector::Blank } else { BatchHeader::examine(rest) };
        let head = match &first {
            FirstSector::Blank => Head::Blank,
            _ if is_stale(&rest[..SECTOR_BYTES], oldest) => Head::Stale,
            FirstSector::Rotten => Head::Rotten,
            FirstSector::OtherVersion => Head::OtherVersion,
            FirstSector::Sound(header, _) => {
                let (segment, len) = self.shelf.segments[index];
                if header.segment != segment
                    || header.segment_bytes() != len
                    || header.extent_bytes() > rest.len()
                {
                    Head::Misplaced
                } else if self.anchored && (header.sequence != due || header.link != self.link) {
                    Head::Stranger
                } else {
                    Head::Next
                }
            }
        };
        let mut sight = Sight {
            anchored: self.anchored,
            head,
            sectors: Sectors::Mixed,
            body_sound: false,
            after: After::Nothing,
        };
        match (head, first) {
            (Head::Next, FirstSector::Sound(header, link)) => {
                let (extent, behind) = rest.split_at(header.extent_bytes());
                sight.sectors = sectors_of(extent, &stamp_of(header.sequence), oldest);
                if let (Sectors::Whole, Some(body)) = (sight.sectors, header.body(extent)) {
                    sight.body_sound = true;
                    return Ok((sight, Some((Batch::new(header, body, offset as u64), link))));
                }
                sight.after = match is_unwritten(behind, oldest) {
                    false => After::Same,
                    true if self.shelf.later(index, oldest)?.is_some() => After::Later,
                    true => After::Nothing,
                };
            }
            (Head::Blank | Head::Stale | Head::Rotten, _) => {
                let written = until_unwritten(rest, oldest);
                sight.sectors = sectors_of(written, &stamp_of(due), oldest);
                sight.after = match self.shelf.later(index, oldest)? {
                    None => After::Nothing,
                    Some(later) if later == index + 1 && self.is_continued_by(later)? => {
                        After::NextContinues
                    }
                    Some(_) => After::Later,
                };
            }
            _ => {}
        }
        Ok((sight, None))
    }

    /// Whether a segment begins with the batch that is due.
    fn is_continued_by(&mut self, index: usize) -> Result<bool, RecoverError> {
        let FirstSector::Sound(header, _) = BatchHeader::examine(&self.shelf.get(index)?) else {
            return Ok(false);
        };
        Ok(self.anchored && header.sequence == self.last.next() && header.link == self.link)
    }

    pub(crate) fn finish(self, ended: Option<Option<Torn>>) -> Recovered {
        let used = self.passed.iter().rposition(|&(_, tail)| tail > 0).map_or(0, |last| last + 1);
        Recovered {
            segments: self.passed.iter().take(used).map(|&(info, _)| info).collect(),
            tail: self.passed.iter().take(used).next_back().map_or(0, |&(_, tail)| tail),
            blank: self.shelf.segments.into_iter().skip(used).collect(),
            torn: ended.flatten(),
            last: self.last,
            records: self.records,
            link: self.link,
        }
    }
}

fn sectors_of(sectors: &[u8], stamp: &[u8; STAMP_BYTES], oldest: BatchSeq) -> Sectors {
    let (mut stamped, mut missing) = (false, false);
    for sector in sectors.chunks(SECTOR_BYTES) {
        if bears_stamp(sector, stamp) {
            stamped = true;
        } else if is_blank(sector) || is_stale(sector, oldest) {
            missing = true;
        } else {
            return Sectors::Mixed;
        }
    }
    match (stamped, missing) {
        (true, false) => Sectors::Whole,
        (true, true) => Sectors::Holes,
        (false, _) => Sectors::Unwritten,
    }
}

fn torn(segment: SegmentId, bytes: &[u8], offset: usize, oldest: BatchSeq) -> Torn {
    let left = until_unwritten(bytes.get(offset..).unwrap_or_default(), oldest);
    let bytes = left.len().next_multiple_of(BLOCK_BYTES) as u64;
    Torn { segment, offset: offset as u64, bytes }
}

/// The next place from `offset` on that holds a header of this segment. Neither a record nor what is
/// stale can pretend to be one: the stamp lies outside of what a record controls, and a header names
/// its segment.
pub(crate) fn next_header(
    bytes: &[u8],
    offset: usize,
    id: SegmentId,
) -> Option<(usize, BatchHeader)> {
    (offset..bytes.len()).step_by(BLOCK_BYTES).find_map(|at| {
        match BatchHeader::examine(bytes.get(at..).unwrap_or_default()) {
            FirstSector::Sound(header, _) if header.segment == id => Some((at, header)),
            _ => None,
        }
    })
}

/// Whether a segment can be of this length.
pub(crate) fn is_length(bytes: u64) -> bool {
    bytes > 0 && bytes.is_multiple_of(BLOCK_BYTES as u64)
}

/// The segments in order, read when they are looked at and dropped when they have been walked.
pub(crate) struct Shelf<'a> {
    source: &'a mut dyn SegmentSource,
    pub(crate) segments: Vec<(SegmentId, u64)>,
    /// Those looked at ahead of the walk.
    ahead: Vec<(usize, Rc<Content>)>,
}

impl<'a> Shelf<'a> {
    /// The segments as they are, whether they fit each other or not.
    pub(crate) fn unchecked(source: &'a mut dyn SegmentSource) -> Result<Shelf<'a>, RecoverError> {
        let mut segments = source.list().map_err(RecoverError::List)?;
        segments.sort_unstable();
        Ok(Shelf { source, segments, ahead: Vec::new() })
    }

    fn list(source: &'a mut dyn SegmentSource) -> Result<Shelf<'a>, RecoverError> {
        let shelf = Shelf::unchecked(source)?;
        let segments = &shelf.segments;
        for pair in segments.windows(2) {
            let &[(before, _), (found, _)] = pair else { continue };
            if found != before.next() {
                return Err(RecoverError::Missing { missing: before.next(), found });
            }
        }
        for &(segment, bytes) in segments {
            if !is_length(bytes) {
                return Err(RecoverError::Size { segment, bytes });
            }
        }
        Ok(shelf)
    }

    fn take(&mut self, index: usize) -> Result<Rc<Content>, RecoverError> {
        let bytes = self.get(index)?;
        self.ahead.retain(|&(ahead, _)| ahead > index);
        Ok(bytes)
    }

    pub(crate) fn get(&mut self, index: usize) -> Result<Rc<Content>, RecoverError> {
        if let Some((_, bytes)) = self.ahead.iter().find(|&&(ahead, _)| ahead == index) {
            return Ok(Rc::clone(bytes));
        }
        let (segment, len) = self.segments[index];
        let bytes =
            self.source.read(segment).map_err(|source| RecoverError::Read { segment, source })?;
        if bytes.len() as u64 != len {
            return Err(RecoverError::Size { segment, bytes: bytes.len() as u64 });
        }
        let bytes = Rc::new(bytes);
        self.ahead.push((index, Rc::clone(&bytes)));
        Ok(bytes)
    }

    /// The first segment behind `index` that was written to.
    fn later(&mut self, index: usize, oldest: BatchSeq) -> Result<Option<usize>, RecoverError> {
        for later in index + 1..self.segments.len() {
            if !is_unwritten(&self.get(later)?, oldest) {
                return Ok(Some(later));
            }
        }
        Ok(None)
    }
}
