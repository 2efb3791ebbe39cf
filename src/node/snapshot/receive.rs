//! Receiving: from the offer of a state to the moment at which it is this member's.

use std::collections::VecDeque;

use bytes::Bytes;

use super::super::limits::{SNAPSHOT_SILENCE_MS, SNAPSHOT_WINDOW_BYTES};
use super::super::message::{PeerMessage, SnapshotMessage};
use super::super::{Node, OpenError, members};
use super::format::Writer;
use super::{SnapshotOp, Transferred};
use crate::apply::{self, Applier, Notice};
use crate::raft::{Body, Message, NodeId, Persist, SnapshotMeta, Term};
use crate::store::{self, Store};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    /// The file is asked for, or being made.
    Creating {
        asked: bool,
    },
    Receiving,
    /// All is there, and becomes durable.
    Finishing,
    /// It is durable, and waits for a leader to say what it is worth.
    Whole,
    /// Raft wants it. The file is to get its name, or is getting it.
    Installing {
        asked: bool,
    },
    /// It is of no use.
    Discarding {
        asked: bool,
    },
}

/// A state on its way to this member.
pub struct Incoming {
    from: NodeId,
    number: u64,
    meta: SnapshotMeta,
    writer: Writer,
    /// How much of what is taken the sender may know of, and send as much more.
    acknowledged: u64,
    /// While it arrives.
    store: Option<Store>,
    /// From when it is whole.
    applier: Option<Applier>,
    stage: Stage,
    /// Operations on its file that are not done.
    ops_out: usize,
    begun_ms: u64,
    heard_ms: u64,
    say_ms: u64,
    /// What Raft wants persisted since, the snapshot first: not before it is installed.
    pub(in super::super) deferred: VecDeque<Persist>,
}

impl Incoming {
    pub(super) fn from(&self) -> NodeId {
        self.from
    }

    pub(in super::super) fn is_installing(&self) -> bool {
        matches!(self.stage, Stage::Installing { .. })
    }

    fn is(&self, from: NodeId, number: u64) -> bool {
        self.from == from && self.number == number
    }

    fn discard(&mut self) {
        self.stage = Stage::Discarding { asked: false };
    }
}

impl Node {
    /// A leader offers its state.
    pub(in super::super) fn handle_offer(
        &mut self,
        from: NodeId,
        number: u64,
        meta: SnapshotMeta,
        length: u64,
    ) {
        if meta.position.index <= self.raft.commit_index() {
            return self.say_snapshot(from, SnapshotMessage::Complete { transfer: number });
        }
        let leads = self.raft.leader() == Some(from);
        if let Some(incoming) = &mut self.incoming {
            if incoming.is(from, number) {
                incoming.heard_ms = self.now_ms;
                if incoming.stage == Stage::Receiving {
                    self.say_received();
                }
                return;
            }
            // Another one is on its way. It has its chance, unless it has fallen silent, its sender has
            // begun anew, or it is not the leader's: who leads no more sends no more.
            let is_silent = incoming.heard_ms + SNAPSHOT_SILENCE_MS < self.now_ms;
            let is_open = matches!(incoming.stage, Stage::Creating { .. } | Stage::Receiving);
            if is_open && (is_silent || leads || incoming.from == from) {
                incoming.discard();
            }
            return;
        }
        self.incoming = Some(Incoming {
            from,
            number,
            meta,
            writer: Writer::new(length),
            acknowledged: 0,
            store: None,
            applier: None,
            stage: Stage::Creating { asked: false },
            ops_out: 0,
            begun_ms: self.now_ms,
            heard_ms: self.now_ms,
            say_ms: self.now_ms,
            deferred: VecDeque::new(),
        });
    }

    pub(in super::super) fn handle_piece(
        &mut self,
        from: NodeId,
        number: u64,
        offset: u64,
        data: &Bytes,
    ) {
        let (now_ms, dirty_bytes) = (self.now_ms, self.options.snapshot_dirty_bytes);
        let Some(incoming) = self.incoming.as_mut().filter(|incoming| incoming.is(from, number))
        else {
            return self.say_snapshot(from, SnapshotMessage::Over { transfer: number });
        };
        incoming.heard_ms = now_ms;
        let Some(store) = incoming.store.as_mut().filter(|_| incoming.stage == Stage::Receiving)
        else {
            return;
        };
        let window_end = incoming.acknowledged + SNAPSHOT_WINDOW_BYTES as u64;
        if offset == incoming.writer.taken() && offset < window_end {
            if incoming.writer.take(store, data).is_err() {
                return self.reject_snapshot();
            }
            if incoming.writer.is_complete() {
                return self.finish_receiving();
            }
        }
        if has_room(store, dirty_bytes) {
            incoming.acknowledged = incoming.writer.taken();
            self.say_received();
        }
    }

    /// All entries are there. What is this member's alone is put in place of the sender's.
    fn finish_receiving(&mut self) {
        let own = self.options.metadata;
        let Some(incoming) = &mut self.incoming else { return };
        let Some(store) = &mut incoming.store else { return };
        let position = incoming.meta.position;
        if apply::adopt(store, own.cluster_id, own.member_id, (position.index.0, position.term.0)) {
            store.commit(position.index.0);
            store.begin_checkpoint();
            incoming.stage = Stage::Finishing;
            incoming.acknowledged = incoming.writer.taken();
            self.say_received();
        } else {
            self.reject_snapshot();
        }
    }

    /// What arrived is not what was sent.
    fn reject_snapshot(&mut self) {
        let Some(incoming) = &mut self.incoming else { return };
        incoming.discard();
        let (from, transfer) = (incoming.from, incoming.number);
        self.count_snapshot(from).receive_failed += 1;
        self.say_snapshot(from, SnapshotMessage::Over { transfer });
    }

    /// One turn of what arrives.
    pub(in super::super) fn receive_snapshot(&mut self) {
        let (now_ms, heartbeat_ms) = (self.now_ms, self.options.heartbeat_ms);
        let dirty_bytes = self.options.snapshot_dirty_bytes;
        let Some(incoming) = &mut self.incoming else { return };
        let waits = now_ms < incoming.say_ms;
        match incoming.stage {
            Stage::Receiving if incoming.acknowledged < incoming.writer.taken() => {
                let Some(store) = &mut incoming.store else { return };
                let has_room = has_room(store, dirty_bytes);
                if has_room {
                    incoming.acknowledged = incoming.writer.taken();
                    // Until now it was told to wait.
                    incoming.heard_ms = now_ms;
                }
                if has_room || !waits {
                    incoming.say_ms = now_ms + heartbeat_ms;
                    self.say_received();
                }
            }
            Stage::Creating { .. } | Stage::Receiving
                if incoming.heard_ms + SNAPSHOT_SILENCE_MS < now_ms =>
            {
                incoming.discard();
                let from = incoming.from;
                self.count_snapshot(from).receive_failed += 1;
            }
            Stage::Finishing => {
                let Some(store) = &mut incoming.store else { return };
                let is_durable = store.durable_mark() == incoming.meta.position.index.0;
                if is_durable && !store.checkpoint_running() {
                    self.open_received();
                } else if !store.checkpoint_running() {
                    // One was running that held less.
                    store.begin_checkpoint();
                } else if !waits {
                    incoming.say_ms = now_ms + heartbeat_ms;
                    self.say_received();
                }
            }
            _ => {}
        }
        self.judge_snapshot();
    }

    /// All is durable. It has to be a state that this member can live with before it takes the place of
    /// one that is.
    fn open_received(&mut self) {
        let (now_ms, member_id) = (self.now_ms, self.options.metadata.member_id);
        let options = self.applier.options().clone();
        let Some(incoming) = &mut self.incoming else { return };
        let Some(store) = incoming.store.take() else { return };
        match open_member(store, member_id, options, now_ms) {
            Ok(applier) => {
                incoming.applier = Some(applier);
                incoming.stage = Stage::Whole;
            }
            Err(error) => {
                let from = incoming.from;
                tracing::error!(
                    member = %format_args!("{:x}", from.0),
                    %error,
                    "the state that a member has sent is damaged and is not taken"
                );
                self.reject_snapshot();
            }
        }
    }

    /// Hands a state that is whole to Raft. What is committed is so for every leader, whoever sent
    /// it.
    fn judge_snapshot(&mut self) {
        let Some(incoming) = self.incoming.as_mut().filter(|i| i.stage == Stage::Whole) else {
            return;
        };
        let Some(leader) = self.raft.leader() else { return };
        if leader == self.raft.id() {
            return incoming.discard();
        }
        let (from, transfer, meta) = (incoming.from, incoming.number, incoming.meta.clone());
        let position = meta.position;
        let before = self.raft.start_index();
        let (to, term) = (self.raft.id(), self.raft.term().max(Term(1)));
        self.step(Message { from: leader, to, term, body: Body::Snapshot { snapshot: meta } });
        self.say_snapshot(from, SnapshotMessage::Complete { transfer });
        let is_wanted = self.raft.start_index() == position.index && before != position.index;
        if let Some(incoming) = &mut self.incoming {
            if is_wanted {
                // What was handed out before is part of it.
                self.committed.clear();
                incoming.stage = Stage::Installing { asked: false };
            } else {
                incoming.discard();
            }
        }
    }

    /// The next thing to do to the file of a state that arrives.
    pub fn next_snapshot_op(&mut self) -> Option<SnapshotOp> {
        let store_ops_out = self.store_ops_out;
        let incoming = self.incoming.as_mut()?;
        let is_idle = incoming.ops_out == 0;
        match &mut incoming.stage {
            Stage::Creating { asked: asked @ false } => {
                *asked = true;
                incoming.ops_out += 1;
                Some(SnapshotOp::Create)
            }
            Stage::Receiving | Stage::Finishing => {
                let (id, op) = incoming.store.as_mut()?.next_op()?;
                incoming.ops_out += 1;
                Some(SnapshotOp::Store(id, op))
            }
            Stage::Installing { asked: asked @ false } if is_idle && store_ops_out == 0 => {
                *asked = true;
                Some(SnapshotOp::Install)
            }
            Stage::Discarding { asked: asked @ false } if is_idle => {
                *asked = true;
                (incoming.store, incoming.applier) = (None, None);
                Some(SnapshotOp::Discard)
            }
            _ => None,
        }
    }

    /// The file was made, and this is the store in it.
    pub fn snapshot_created(&mut self, store: Store) {
        let Some(incoming) = &mut self.incoming else { return };
        incoming.ops_out -= 1;
        if let Stage::Creating { asked: true } = incoming.stage {
            incoming.stage = Stage::Receiving;
            incoming.store = Some(store);
            self.say_received();
        }
    }

    pub fn snapshot_store_op_done(&mut self, op: store::OpId) {
        let Some(incoming) = &mut self.incoming else { return };
        incoming.ops_out -= 1;
        if let Some(store) = &mut incoming.store {
            store.op_done(op);
        }
    }

    /// The disk has no room for the file, or for it to grow (`op`). The transfer ends; the sender
    /// tries again later.
    pub fn snapshot_no_space(&mut self, op: Option<store::OpId>) {
        let Some(incoming) = &mut self.incoming else { return };
        incoming.ops_out -= 1;
        if let (Some(op), Some(store)) = (op, &mut incoming.store) {
            store.no_space(op);
        }
        self.reject_snapshot();
        self.raise_nospace();
    }

    pub fn snapshot_discarded(&mut self) {
        self.incoming = None;
    }

    /// The new store has the old one's name, durably: it is this member's state from here on.
    pub fn snapshot_installed(&mut self, now_ms: u64) {
        let incoming = self.incoming.take().expect("a snapshot is being installed");
        let Incoming { applier, deferred, from, begun_ms, .. } = incoming;
        let former = std::mem::replace(&mut self.applier, applier.expect("it is whole"));
        self.applier.auth.take_tokens(former.auth);
        self.applier.notices.extend([Notice::StateReplaced, Notice::MembersChanged]);
        self.background.store_replaced(now_ms);
        self.count_snapshot(from).received += 1;
        let took_ms = now_ms.saturating_sub(begun_ms);
        self.transferred.push(Transferred { other: from, is_sent: false, took_ms });
        self.forget_strangers();
        for persist in deferred {
            self.write_persist(persist);
        }
    }

    fn say_received(&mut self) {
        let Some(incoming) = &self.incoming else { return };
        let (from, transfer, offset) = (incoming.from, incoming.number, incoming.acknowledged);
        self.say_snapshot(from, SnapshotMessage::Received { transfer, offset });
    }

    fn say_snapshot(&mut self, to: NodeId, message: SnapshotMessage) {
        self.messages.push((to, PeerMessage::Snapshot(message)));
    }
}

/// Reads what a member needs of a received state.
fn open_member(
    store: Store,
    member_id: u64,
    options: apply::Options,
    now_ms: u64,
) -> Result<Applier, OpenError> {
    let (cluster, _) = apply::identity(&store)?.expect("it was put into it");
    let applier = Applier::open(store, cluster, member_id, options, now_ms)?;
    members::configuration(&applier)?;
    Ok(applier)
}

/// Whether more may arrive. From `dirty_bytes` on, what has arrived is made durable.
fn has_room(store: &mut Store, dirty_bytes: u64) -> bool {
    if store.dirty_bytes() > dirty_bytes && !store.checkpoint_running() {
        store.commit(0);
        store.begin_checkpoint();
    }
    store.dirty_bytes() <= 2 * dirty_bytes
}
