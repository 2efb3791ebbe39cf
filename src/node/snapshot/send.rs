//! Sending: a window of pieces that are not acknowledged, from a root that stays pinned.
//!
//! A pin keeps pages from being used again, so a transfer that does not get on is given up, and
//! none lasts for ever. After that Raft finds the member still behind, and a younger one begins.

use std::collections::{BTreeMap, VecDeque};

use bytes::{Bytes, BytesMut};

use super::super::Node;
use super::super::limits::{
    SNAPSHOT_PIECE_BYTES, SNAPSHOT_PIN_MS, SNAPSHOT_SILENCE_MS, SNAPSHOT_WINDOW_BYTES,
    SNAPSHOTS_SENT_MAX,
};
use super::super::message::{PeerMessage, SnapshotMessage};
use super::format::{self, Reader};
use super::{SnapshotCounts, Transferred};
use crate::raft::{LogIndex, LogPosition, NodeId, SnapshotMeta};
use crate::store::Corruption;

struct Transfer {
    to: NodeId,
    number: u64,
    meta: SnapshotMeta,
    length: u64,
    reader: Reader,
    /// Read from the state, and not cut into pieces yet.
    uncut: BytesMut,
    /// Not acknowledged; the first `sent` of them are on their way.
    pieces: VecDeque<(u64, Bytes)>,
    sent: usize,
    /// All before has arrived.
    acknowledged: u64,
    /// The offset of the next piece to be cut.
    cut: u64,
    /// The receiver has said that it takes it.
    is_taken: bool,
    begun_ms: u64,
    /// When something was last acknowledged, and when to send again what was not.
    progress_ms: u64,
    resend_ms: u64,
}

/// The transfers to members that are behind.
#[derive(Default)]
pub struct Outgoing {
    transfers: Vec<Transfer>,
    /// Members that wait for their turn.
    waiting: VecDeque<NodeId>,
    last_number: u64,
    /// By the other end.
    counts: BTreeMap<NodeId, SnapshotCounts>,
}

impl Outgoing {
    fn in_window(&self) -> bool {
        self.transfers.iter().any(|transfer| transfer.is_taken && transfer.has_work())
    }
}

impl Transfer {
    fn window_bytes(&self) -> u64 {
        self.cut - self.acknowledged
    }

    fn has_work(&self) -> bool {
        let may_cut = !self.reader.is_done() || !self.uncut.is_empty();
        self.sent < self.pieces.len()
            || (may_cut && self.window_bytes() < SNAPSHOT_WINDOW_BYTES as u64)
    }
}

impl Node {
    /// Raft wants the state sent to a member.
    pub(in super::super) fn want_snapshot(&mut self, to: NodeId) {
        let outgoing = &mut self.outgoing;
        outgoing.transfers.retain(|transfer| transfer.to != to);
        if !outgoing.waiting.contains(&to) {
            outgoing.waiting.push_back(to);
        }
    }

    /// One slice of sending.
    pub(in super::super) fn send_snapshots(&mut self) -> Result<(), Corruption> {
        self.end_snapshots();
        while self.outgoing.transfers.len() < SNAPSHOTS_SENT_MAX
            && let Some(to) = self.outgoing.waiting.pop_front()
        {
            self.begin_snapshot(to);
        }
        let now_ms = self.now_ms;
        let patience_ms = 2 * self.options.heartbeat_ms;
        let term = self.raft.term();
        for transfer in &mut self.outgoing.transfers {
            let to = transfer.to;
            let mut say = |message| self.messages.push((to, PeerMessage::Snapshot(message)));
            let number = transfer.number;
            if now_ms >= transfer.resend_ms {
                transfer.resend_ms = now_ms + patience_ms;
                transfer.sent = 0;
                if !transfer.is_taken {
                    let (meta, length) = (transfer.meta.clone(), transfer.length);
                    say(SnapshotMessage::Offer { transfer: number, term, meta, length });
                }
            }
            if !transfer.is_taken || !transfer.has_work() {
                continue;
            }
            if transfer.sent == transfer.pieces.len() {
                let missing = SNAPSHOT_PIECE_BYTES.saturating_sub(transfer.uncut.len());
                transfer.reader.read(&self.applier.store, missing, &mut transfer.uncut)?;
                let piece = transfer.uncut.len().min(SNAPSHOT_PIECE_BYTES);
                let piece = transfer.uncut.split_to(piece).freeze();
                let offset = transfer.cut;
                transfer.cut += piece.len() as u64;
                transfer.pieces.push_back((offset, piece));
            }
            let (offset, data) = transfer.pieces[transfer.sent].clone();
            transfer.sent += 1;
            say(SnapshotMessage::Piece { transfer: number, offset, data });
        }
        Ok(())
    }

    /// Gives up what is of no use any more, or does not get on.
    fn end_snapshots(&mut self) {
        let now_ms = self.now_ms;
        let raft = &self.raft;
        let wants = |to: NodeId| raft.pending_snapshot(to).is_some();
        self.outgoing.waiting.retain(|to| wants(*to));
        self.outgoing.transfers.retain(|transfer| wants(transfer.to));
        let is_over = |transfer: &Transfer| {
            transfer.progress_ms + SNAPSHOT_SILENCE_MS < now_ms
                || transfer.begun_ms + SNAPSHOT_PIN_MS < now_ms
        };
        let over: Vec<NodeId> =
            self.outgoing.transfers.iter().filter(|t| is_over(t)).map(|t| t.to).collect();
        for to in over {
            self.end_snapshot(to, false);
        }
    }

    fn end_snapshot(&mut self, to: NodeId, arrived: bool) {
        let mut ended = None;
        self.outgoing.transfers.retain(|transfer| {
            if transfer.to == to {
                ended = Some(transfer.begun_ms);
            }
            transfer.to != to
        });
        self.raft.snapshot_finished(to, arrived);
        if let Some(begun_ms) = ended.filter(|_| arrived) {
            let took_ms = self.now_ms.saturating_sub(begun_ms);
            self.transferred.push(Transferred { other: to, is_sent: true, took_ms });
        }
        let counts = self.count_snapshot(to);
        *(if arrived { &mut counts.sent } else { &mut counts.send_failed }) += 1;
    }

    /// Pins the state as it is now. It may be younger than what Raft asked for.
    fn begin_snapshot(&mut self, to: NodeId) {
        let index = LogIndex(self.applier.applied_index());
        let position = LogPosition { index, term: crate::raft::Term(self.applier.applied_term()) };
        let configuration = self.raft.configuration().clone();
        let snapshot = self.applier.store.snapshot();
        let length = format::length(self.applier.store.view_at(&snapshot));
        self.outgoing.last_number += 1;
        self.outgoing.transfers.push(Transfer {
            to,
            number: self.options.first_id + self.outgoing.last_number,
            meta: SnapshotMeta { position, configuration },
            length,
            reader: Reader::new(snapshot),
            uncut: BytesMut::new(),
            pieces: VecDeque::new(),
            sent: 0,
            acknowledged: 0,
            cut: 0,
            is_taken: false,
            begun_ms: self.now_ms,
            progress_ms: self.now_ms,
            resend_ms: self.now_ms,
        });
    }

    /// What a receiver says of a transfer from here.
    pub(in super::super) fn handle_snapshot_answer(
        &mut self,
        from: NodeId,
        number: u64,
        answer: Answer,
    ) {
        let now_ms = self.now_ms;
        let resend_ms = now_ms + 2 * self.options.heartbeat_ms;
        let mut transfers = self.outgoing.transfers.iter_mut();
        let Some(transfer) = transfers.find(|t| t.to == from && t.number == number) else {
            return;
        };
        match answer {
            Answer::Received(offset) => {
                // Said again, it means that the receiver waits for its disk.
                if offset > transfer.cut || offset < transfer.acknowledged {
                    return;
                }
                transfer.is_taken = true;
                transfer.acknowledged = offset;
                while transfer
                    .pieces
                    .pop_front_if(|(at, piece)| *at + piece.len() as u64 <= offset)
                    .is_some()
                {
                    transfer.sent = transfer.sent.saturating_sub(1);
                }
                transfer.progress_ms = now_ms;
                transfer.resend_ms = resend_ms;
            }
            Answer::Complete => self.end_snapshot(from, true),
            Answer::Over => self.end_snapshot(from, false),
        }
    }

    pub(in super::super) fn is_sending(&self) -> bool {
        self.outgoing.in_window()
    }

    /// To be added to.
    pub(super) fn count_snapshot(&mut self, other: NodeId) -> &mut SnapshotCounts {
        self.outgoing.counts.entry(other).or_default()
    }

    /// What the transfers of this start came to, by the member at the other end.
    pub fn snapshot_counts_by_member(&self) -> BTreeMap<NodeId, SnapshotCounts> {
        let mut counts = self.outgoing.counts.clone();
        for transfer in &self.outgoing.transfers {
            counts.entry(transfer.to).or_default().sending += 1;
        }
        if let Some(incoming) = &self.incoming {
            counts.entry(incoming.from()).or_default().receiving += 1;
        }
        counts
    }

    /// What they came to together.
    pub fn snapshot_counts(&self) -> SnapshotCounts {
        let mut all = SnapshotCounts::default();
        for counts in self.snapshot_counts_by_member().values() {
            all.sent += counts.sent;
            all.send_failed += counts.send_failed;
            all.received += counts.received;
            all.receive_failed += counts.receive_failed;
            all.sending += counts.sending;
            all.receiving += counts.receiving;
        }
        all
    }
}

/// What a receiver says.
pub enum Answer {
    Received(u64),
    Complete,
    Over,
}
