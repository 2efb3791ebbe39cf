//! What the member writes into its log, and how it reads it back.
//!
//! ```text
//! kind 1  ENTRY       record index = the entry's index
//!                     term u64 LE | entry kind u8 (0 normal, 1 configuration change) | data
//! kind 2  HARD STATE  record index = 0; also repeated at the head of each segment
//!                     term u64 LE | vote u64 LE (0: none) | commit u64 LE
//! kind 3  METADATA    record index = 0; at the head of each segment
//!                     cluster id u64 LE | member id u64 LE
//! kind 4  SNAPSHOT    record index = 0; all entries before it are void: the store holds what it
//!                     stands for, the log goes on behind its position
//!                     index u64 LE | term u64 LE
//! ```

use bytes::Bytes;

use crate::raft::{Entry, EntryKind, HardState, LogIndex, LogPosition, NodeId, Term};

pub const ENTRY: u8 = 1;
pub const HARD_STATE: u8 = 2;
pub const METADATA: u8 = 3;
pub const SNAPSHOT: u8 = 4;

const ENTRY_HEAD: usize = 9;

/// The bytes in front of an entry's data.
pub fn entry_head(entry: &Entry) -> [u8; ENTRY_HEAD] {
    let mut head = [0; ENTRY_HEAD];
    head[..8].copy_from_slice(&entry.term.0.to_le_bytes());
    head[8] = match entry.kind {
        EntryKind::Normal => 0,
        EntryKind::ConfChange => 1,
    };
    head
}

pub fn decode_entry(index: u64, record: Bytes) -> Option<Entry> {
    let (head, _) = record.split_at_checked(ENTRY_HEAD)?;
    let term = Term(u64::from_le_bytes(head[..8].try_into().ok()?));
    let kind = match head[8] {
        0 => EntryKind::Normal,
        1 => EntryKind::ConfChange,
        _ => return None,
    };
    Some(Entry { term, index: LogIndex(index), kind, data: record.slice(ENTRY_HEAD..) })
}

pub fn encode_hard_state(state: &HardState) -> [u8; 24] {
    let vote = state.vote.map_or(0, |node| node.0);
    words([state.term.0, vote, state.commit.0])
}

pub fn decode_hard_state(record: &[u8]) -> Option<HardState> {
    let [term, vote, commit] = parse_words(record)?;
    let vote = (vote != 0).then_some(NodeId(vote));
    Some(HardState { term: Term(term), vote, commit: LogIndex(commit) })
}

/// Which cluster and member a log belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Metadata {
    pub cluster_id: u64,
    pub member_id: u64,
}

pub fn encode_metadata(metadata: Metadata) -> [u8; 16] {
    words([metadata.cluster_id, metadata.member_id])
}

pub fn decode_metadata(record: &[u8]) -> Option<Metadata> {
    let [cluster_id, member_id] = parse_words(record)?;
    Some(Metadata { cluster_id, member_id })
}

pub fn encode_snapshot(position: LogPosition) -> [u8; 16] {
    words([position.index.0, position.term.0])
}

pub fn decode_snapshot(record: &[u8]) -> Option<LogPosition> {
    let [index, term] = parse_words(record)?;
    Some(LogPosition { index: LogIndex(index), term: Term(term) })
}

fn words<const N: usize, const BYTES: usize>(values: [u64; N]) -> [u8; BYTES] {
    const { assert!(N * 8 == BYTES) };
    let mut out = [0; BYTES];
    for (slot, value) in out.chunks_exact_mut(8).zip(values) {
        slot.copy_from_slice(&value.to_le_bytes());
    }
    out
}

fn parse_words<const N: usize>(record: &[u8]) -> Option<[u64; N]> {
    if record.len() != N * 8 {
        return None;
    }
    let mut out = [0; N];
    for (value, word) in out.iter_mut().zip(record.chunks_exact(8)) {
        *value = u64::from_le_bytes(word.try_into().ok()?);
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_of_record_comes_back_as_it_went_in() {
        let entry = Entry {
            term: Term(7),
            index: LogIndex(9),
            kind: EntryKind::ConfChange,
            data: Bytes::from_static(b"data"),
        };
        let bytes = [&entry_head(&entry)[..], &entry.data].concat();
        assert_eq!(decode_entry(9, bytes.into()), Some(entry));

        for vote in [None, Some(NodeId(3))] {
            let state = HardState { term: Term(2), vote, commit: LogIndex(5) };
            assert_eq!(decode_hard_state(&encode_hard_state(&state)), Some(state));
        }
        let metadata = Metadata { cluster_id: 1, member_id: 2 };
        assert_eq!(decode_metadata(&encode_metadata(metadata)), Some(metadata));
        let position = LogPosition { index: LogIndex(8), term: Term(3) };
        assert_eq!(decode_snapshot(&encode_snapshot(position)), Some(position));
    }

    #[test]
    fn records_of_a_wrong_shape_are_refused() {
        assert_eq!(decode_entry(1, Bytes::from_static(b"short")), None);
        assert_eq!(decode_entry(1, Bytes::from_static(b"12345678\x02")), None);
        assert_eq!(decode_hard_state(b"short"), None);
        assert_eq!(decode_metadata(&[0; 24]), None);
    }
}
