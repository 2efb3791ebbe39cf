//! Checking a whole log: where recovery stops at the first damage, this names it and goes on.
//!
//! Behind damage the walk is taken up at the next sound header of the same segment, or at the next
//! segment. What lies behind it is verified by itself; that it continues what lies before cannot be
//! known. A log is sound, by [`verify`] and by [`recover`](crate::recover), or by neither.

use crate::{
    cases::Case,
    limits::BLOCK_BYTES,
    record::RecordRef,
    recovery::{RecoverError, Recovered, Shelf, Walk, is_length, next_header},
    sector::is_unwritten,
    segment::{Position, SegmentId, SegmentSource},
};

/// What [`verify`] has found.
#[derive(Debug)]
pub struct Verified {
    /// All damage, in the order of the log.
    pub findings: Vec<RecoverError>,
    /// Segments, those that nothing was written to included.
    pub segments: u64,
    pub bytes: u64,
    /// Sound batches.
    pub batches: u64,
    /// Where the log ends, and why there, if it was read up to its end.
    pub end: Option<(Position, &'static Case)>,
    /// As from recovery; of a log with damage not to be used for anything.
    pub recovered: Recovered,
}

/// Reads all of the log, and hands each sound record to `visit`. The error is one of listing.
pub fn verify(
    source: &mut dyn SegmentSource,
    visit: &mut dyn FnMut(RecordRef<'_>),
) -> Result<Verified, RecoverError> {
    let mut walk = Walk::new(Shelf::unchecked(source)?);
    let segments = walk.shelf.segments.clone();
    let mut findings = Vec::new();
    let mut ended = None;
    let mut before: Option<SegmentId> = None;
    for (index, &(found, bytes)) in segments.iter().enumerate() {
        if let Some(missing) = before.map(SegmentId::next).filter(|missing| *missing != found) {
            findings.push(RecoverError::Missing { missing, found });
            walk.lose_track();
        }
        before = Some(found);
        if !is_length(bytes) {
            findings.push(RecoverError::Size { segment: found, bytes });
            walk.lose_track();
        } else if ended.is_none() {
            ended = segment(&mut walk, index, &mut findings, visit);
        }
    }
    Ok(Verified {
        findings,
        segments: segments.len() as u64,
        bytes: segments.iter().map(|&(_, bytes)| bytes).sum(),
        batches: walk.batches,
        end: walk.end,
        recovered: walk.finish(ended),
    })
}

/// Walks through one segment, over whatever damage is in it.
fn segment(
    walk: &mut Walk<'_>,
    index: usize,
    findings: &mut Vec<RecoverError>,
    visit: &mut dyn FnMut(RecordRef<'_>),
) -> Option<Option<crate::Torn>> {
    let bytes = match walk.shelf.get(index) {
        Ok(bytes) => bytes,
        Err(error) => {
            findings.push(error);
            walk.lose_track();
            return None;
        }
    };
    // Segments behind damage that nothing was written to are as they should be. The oldest one of a log is not.
    if !findings.is_empty() && !walk.is_anchored() && is_unwritten(&bytes, walk.oldest()) {
        return None;
    }
    let id = walk.shelf.segments[index].0;
    let mut offset = 0;
    loop {
        match walk.segment(index, offset, visit) {
            Ok(ended) => return ended,
            Err(error) => {
                let place = match error {
                    RecoverError::Damaged { segment, offset, .. } if segment == id => Some(offset),
                    _ => None,
                };
                findings.push(error);
                walk.lose_track();
                (offset, _) = next_header(&bytes, place? as usize + BLOCK_BYTES, id)?;
            }
        }
    }
}
