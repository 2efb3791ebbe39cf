//! One member: Raft, the log, the applied state and the reads, composed into one state machine.
//!
//! What drives it (`shell` in production, the simulator in tests) hands in the time, requests and
//! the completions of disk operations, and carries out the operations that it hands out. It knows
//! no files, sockets or clocks.
//!
//! Order of things, on which durability rests:
//! 1. `propose` wraps a request into an entry and gives it to Raft.
//! 2. `turn` writes what Raft wants persisted into the log's collecting batch.
//! 3. When the log says that the batch is durable (`log_op_done`), Raft is told (`persisted`), and
//!    only that can move the commit index.
//! 4. Committed entries are applied in one store transaction with the applied index.
//! 5. Outcomes and readable reads are collected for `rpc`.
//! 6. A checkpoint makes the store durable; only then the log lets go of what it covers.

mod checkpoint;
mod compactor;
mod defrag;
mod message;
mod record;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;

use bytes::Bytes;
use prost::Message;

pub use compactor::Retention;
pub use message::{Class, PeerMessage, Refusal, SnapshotMessage};
pub use record::{ENTRY, HARD_STATE, METADATA, Metadata};

use crate::apply::envelope::{self, Kind};
use crate::apply::{Applier, Notice, Outcome};
use crate::lease::LeaseId;
use crate::mvcc::MvccError;
use crate::proto::etcdserverpb::{
    AlarmRequest, AlarmType, CompactionRequest, LeaseRevokeRequest, alarm_request::AlarmAction,
};
use crate::proto::membershippb::{Attributes, ClusterMemberAttrSetRequest};
use crate::raft::{
    self, Configuration, Entry, EntryKind, HardState, LogIndex, NodeId, Raft, RestoreError, Term,
    Token,
};
use crate::store::{self, Corruption};
use checkpoint::CheckpointPolicy;
use compactor::Compactor;
use defrag::Defrag;

/// Leases that are revoked in one turn; etcd: 500 each half second.
const LEASE_REVOKES_PER_TURN: usize = 500;
/// Changes that one slice of a physical compaction looks at, so that a slice stays far under a
/// millisecond.
const COMPACTION_SLICE: usize = 128;
/// Entries that are applied before the loop may do something else.
const APPLY_ENTRIES_MAX: usize = 4_096;
/// Dirty pages of the store beyond which no proposal is taken until a checkpoint has caught up.
const DIRTY_BYTES_MAX: u64 = 512 << 20;

#[derive(Clone, Debug)]
pub struct Options {
    pub metadata: Metadata,
    /// What this member tells the others of itself.
    pub name: String,
    pub client_urls: Vec<String>,
    pub heartbeat_ms: u64,
    pub election_ms: u64,
    pub quota_bytes: Option<u64>,
    pub request_bytes_max: usize,
    pub pending_max: usize,
    pub retention: Retention,
    /// Start of the ids of proposals and leases: differs from one start of a process to the next.
    pub first_id: u64,
    /// Seed of the randomized election timeouts.
    pub seed: u64,
}

/// Why a request did not become an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProposeError {
    NoLeader,
    TooManyRequests,
    TooLarge,
}

/// Why a member cannot start from what its disk holds.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("{0}")]
    State(#[from] MvccError),
    #[error("the log belongs to member {log:x?}, the command line names member {configured:x?}")]
    Foreign { log: Metadata, configured: Metadata },
    #[error("the log has a gap: entry {found} follows entry {expected_after}")]
    Gap { expected_after: u64, found: u64 },
    #[error("the log has an unreadable record of kind {kind}")]
    Record { kind: u8 },
    #[error("the log and the store do not fit together: {0}")]
    Restore(#[from] RestoreError),
}

/// What was read from the log, collected record by record while it is recovered.
#[derive(Default)]
pub struct Recovered {
    metadata: Option<Metadata>,
    hard_state: HardState,
    entries: VecDeque<Entry>,
    error: Option<OpenError>,
}

impl Recovered {
    /// Takes one record. `applied` is the index up to which the store needs no entries.
    pub fn visit(&mut self, applied: u64, kind: u8, index: u64, data: Bytes) {
        if self.error.is_some() {
            return;
        }
        let understood = match kind {
            METADATA => {
                record::decode_metadata(&data).map(|metadata| self.metadata = Some(metadata))
            }
            HARD_STATE => record::decode_hard_state(&data).map(|state| self.hard_state = state),
            ENTRY => record::decode_entry(index, data).map(|entry| self.entry(applied, entry)),
            _ => None,
        };
        if understood.is_none() {
            self.error = Some(OpenError::Record { kind });
        }
    }

    /// A later entry with an index that is already there replaces it and what follows it.
    fn entry(&mut self, applied: u64, entry: Entry) {
        if entry.index.0 <= applied {
            self.entries.clear();
            return;
        }
        while self.entries.back().is_some_and(|last| last.index >= entry.index) {
            self.entries.pop_back();
        }
        let before = self.entries.back().map_or(applied, |last| last.index.0);
        if entry.index.0 != before + 1 {
            self.error = Some(OpenError::Gap { expected_after: before, found: entry.index.0 });
            return;
        }
        self.entries.push_back(entry);
    }
}

/// What the node wants the outside to know after a turn.
#[derive(Default)]
pub struct Output {
    pub outcomes: Vec<Outcome>,
    /// Contexts of reads that may be answered from the applied state now.
    pub reads: Vec<u64>,
    /// Contexts of reads that have to be asked for again.
    pub lost_reads: Vec<u64>,
    pub notices: Vec<Notice>,
}

pub struct Node {
    pub applier: Applier,
    raft: Raft,
    log: wal::Writer,
    options: Options,
    /// Batches of the log that Raft waits for, oldest first.
    in_log: VecDeque<(wal::BatchSeq, Token)>,
    /// Committed entries that were not applied yet.
    committed: VecDeque<Entry>,
    /// Reads that wait for an applied index.
    reads: VecDeque<(u64, LogIndex)>,
    lost_reads: Vec<u64>,
    pending: usize,
    next_id: u64,
    next_tick_ms: u64,
    compactor: Compactor,
    checkpoint: CheckpointPolicy,
    defrag: Defrag,
    nospace_proposed: bool,
    published: bool,
}

impl Node {
    pub fn new(
        applier: Applier,
        mut log: wal::Writer,
        recovered: Recovered,
        options: Options,
        now_ms: u64,
    ) -> Result<Node, OpenError> {
        if let Some(error) = recovered.error {
            return Err(error);
        }
        if let Some(found) = recovered.metadata
            && found != options.metadata
        {
            return Err(OpenError::Foreign { log: found, configured: options.metadata });
        }
        let mut hard_state = recovered.hard_state;
        let applied = applier.applied_index();
        // A commit index may be behind what a checkpoint has made durable: it is written lazily.
        hard_state.commit = LogIndex(hard_state.commit.0.max(applied));
        hard_state.term = Term(hard_state.term.0.max(applier.applied_term()));

        log.set_preamble(METADATA, 0, &record::encode_metadata(options.metadata));
        log.set_preamble(HARD_STATE, 0, &record::encode_hard_state(&hard_state));

        let voters = applier.cluster.voters().map(|member| NodeId(member.id));
        let config = raft::Config {
            election_ticks: (options.election_ms / options.heartbeat_ms).max(2) as u32,
            seed: options.seed,
            incarnation: options.first_id,
            ..raft::Config::new(NodeId(options.metadata.member_id))
        };
        let mut raft = Raft::new(
            config,
            hard_state,
            Configuration::of_voters(voters),
            (LogIndex(applied), Term(applier.applied_term())),
            recovered.entries.into(),
            LogIndex(applied),
        )?;
        if applier.cluster.voters().count() == 1 {
            raft.campaign();
        }
        let mut checkpoint = CheckpointPolicy::new(now_ms);
        if applier.store.durable_mark() == 0 {
            // Who this member is should not depend on the command line any longer.
            checkpoint.demand();
        }
        Ok(Node {
            compactor: Compactor::new(options.retention, now_ms),
            checkpoint,
            defrag: Defrag::new(),
            next_id: options.first_id,
            next_tick_ms: now_ms + options.heartbeat_ms,
            applier,
            raft,
            log,
            options,
            in_log: VecDeque::new(),
            committed: VecDeque::new(),
            reads: VecDeque::new(),
            lost_reads: Vec::new(),
            pending: 0,
            nospace_proposed: false,
            published: false,
        })
    }

    pub fn raft(&self) -> &Raft {
        &self.raft
    }

    pub fn metadata(&self) -> Metadata {
        self.options.metadata
    }

    pub fn pending_proposals(&self) -> usize {
        self.pending
    }

    /// An id that no other proposal and no lease of this start has.
    pub fn fresh_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    /// Proposes an encoded message of `kind`. The outcome carries the id that is returned.
    pub fn propose(&mut self, kind: Kind, request: &[u8]) -> Result<u64, ProposeError> {
        if self.pending >= self.options.pending_max || self.is_choked() {
            return Err(ProposeError::TooManyRequests);
        }
        let id = self.fresh_id();
        let entry = envelope::wrap(id, kind, request);
        if entry.len() > self.options.request_bytes_max {
            return Err(ProposeError::TooLarge);
        }
        match self.raft.propose(entry.into()) {
            Ok(_) => {
                self.pending += 1;
                Ok(id)
            }
            Err(raft::ProposeError::NoLeader) => Err(ProposeError::NoLeader),
            Err(_) => Err(ProposeError::TooManyRequests),
        }
    }

    /// Asks for a linearizable read. `context` comes back in `Output::reads`, or in
    /// `Output::lost_reads` when it has to be asked for again.
    pub fn read(&mut self, context: u64) {
        if self.raft.read_index(context).is_err() {
            self.lost_reads.push(context);
        }
    }

    /// Whether requests can be served: a leader is known, if it is this member, it knows what is
    /// committed, and all of that is applied. Otherwise a serializable read right after a start
    /// would go back behind what was read before it.
    pub fn is_ready(&self) -> bool {
        self.is_caught_up() && self.is_published()
    }

    /// Whether the members know this one's name and addresses, so that clients are told them.
    fn is_published(&self) -> bool {
        let Options { metadata, name, client_urls, .. } = &self.options;
        let known = self.applier.cluster.member(metadata.member_id);
        known.is_some_and(|own| own.name == *name && own.client_urls == *client_urls)
    }

    fn is_caught_up(&self) -> bool {
        let commit = self.raft.commit_index();
        let knows = || self.raft.term_at(commit) == Some(self.raft.term());
        self.raft.leader().is_some()
            && (!self.raft.is_leader() || knows())
            && self.applier.applied_index() >= commit.0
    }

    /// Whether dirty pages pile up faster than checkpoints take them away.
    pub fn is_choked(&self) -> bool {
        self.applier.store.dirty_bytes() > DIRTY_BYTES_MAX
    }

    /// Whether the quota leaves room for `cost` more bytes. The first refusal raises the alarm.
    pub fn admit(&mut self, cost: u64) -> bool {
        let Some(quota) = self.options.quota_bytes else { return true };
        if cost == 0 || self.applier.store.in_use_bytes() + cost < quota {
            return true;
        }
        self.raise_nospace();
        false
    }

    pub fn is_learner(&self) -> bool {
        let member = self.applier.cluster.member(self.options.metadata.member_id);
        member.is_some_and(|member| member.is_learner)
    }

    pub fn quota_bytes(&self) -> Option<u64> {
        self.options.quota_bytes
    }

    fn raise_nospace(&mut self) {
        let member_id = self.options.metadata.member_id;
        let raised = self.applier.alarms.raised_by(member_id, AlarmType::Nospace);
        if raised || self.nospace_proposed {
            return;
        }
        let request = AlarmRequest {
            action: AlarmAction::Activate as i32,
            member_id,
            alarm: AlarmType::Nospace as i32,
        };
        self.nospace_proposed = self.propose(Kind::Alarm, &request.encode_to_vec()).is_ok();
    }

    /// Moves everything forward as far as it goes without the disk.
    pub fn turn(&mut self, now_ms: u64, output: &mut Output) -> Result<(), Corruption> {
        self.tick(now_ms);
        self.publish();
        self.expire_leases(now_ms);
        self.auto_compact(now_ms);
        self.advance_raft();
        self.apply_committed(now_ms, output)?;
        self.serve_reads(output);
        output.notices.append(&mut self.applier.notices);
        if output.notices.contains(&Notice::AlarmsChanged) {
            self.nospace_proposed = false;
        }
        Ok(())
    }

    /// One slice of the work that nobody waits for. To be called after the watchers were offered
    /// what `turn` has applied: a compaction takes away what they have not seen.
    pub fn background(&mut self, now_ms: u64) -> Result<(), Corruption> {
        if self.applier.mvcc.compaction_pending() {
            self.applier.compact_step(COMPACTION_SLICE)?;
            self.applier.commit()?;
        }
        self.defrag.run(&mut self.applier, &mut self.checkpoint)?;
        self.checkpoint.run(&mut self.applier.store, now_ms);
        Ok(())
    }

    /// When `turn` has to be called at the latest.
    pub fn next_deadline(&self, now_ms: u64) -> u64 {
        let busy = !self.committed.is_empty() || self.applier.mvcc.compaction_pending();
        if busy || self.defrag.is_moving() {
            return now_ms;
        }
        let mut deadline =
            self.next_tick_ms.min(self.checkpoint.next_deadline(&self.applier.store));
        for other in [self.compactor.next_deadline(), self.applier.lessor.next_deadline()] {
            deadline = deadline.min(other.unwrap_or(u64::MAX));
        }
        deadline
    }

    fn tick(&mut self, now_ms: u64) {
        if now_ms < self.next_tick_ms {
            return;
        }
        // A late turn counts as one tick: a burst of them would look like a lost leader.
        self.next_tick_ms = now_ms + self.options.heartbeat_ms;
        self.raft.tick();
    }

    fn expire_leases(&mut self, now_ms: u64) {
        if !self.raft.is_leader() {
            return;
        }
        for LeaseId(id) in self.applier.lessor.expired(now_ms, LEASE_REVOKES_PER_TURN) {
            // A refused proposal is made again: the lessor hands the lease out once more.
            let _ = self.propose(Kind::LeaseRevoke, &LeaseRevokeRequest { id }.encode_to_vec());
        }
    }

    /// Tells the cluster this member's name and addresses, if it knows others.
    fn publish(&mut self) {
        if self.published || !self.is_caught_up() {
            return;
        }
        if self.is_published() {
            self.published = true;
            return;
        }
        let Options { metadata, name, client_urls, .. } = &self.options;
        let attributes = Attributes { name: name.clone(), client_urls: client_urls.clone() };
        let request = ClusterMemberAttrSetRequest {
            member_id: metadata.member_id,
            member_attributes: Some(attributes),
        };
        let proposed = self.propose(Kind::MemberAttributes, &request.encode_to_vec());
        self.published = proposed.is_ok();
    }

    fn auto_compact(&mut self, now_ms: u64) {
        let mvcc = &self.applier.mvcc;
        let (current, compacted) = (mvcc.current_revision(), mvcc.compact_revision());
        let leads = self.raft.is_leader();
        if let Some(revision) = self.compactor.due(now_ms, current, compacted, leads) {
            let request = CompactionRequest { revision, physical: false };
            let _ = self.propose(Kind::Compaction, &request.encode_to_vec());
        }
    }

    fn advance_raft(&mut self) {
        while let Some(ready) = self.raft.ready() {
            if let Some(persist) = ready.persist {
                let mut batch = None;
                // The state goes first: what follows may end up in a later batch, and an entry must
                // not be durable without its term.
                if let Some(state) = &persist.hard_state {
                    let bytes = record::encode_hard_state(state);
                    batch = Some(self.log.append(HARD_STATE, 0, &[&bytes]));
                    self.log.set_preamble(HARD_STATE, 0, &bytes);
                }
                for entry in &persist.entries {
                    let head = record::entry_head(entry);
                    batch = Some(self.log.append(ENTRY, entry.index.0, &[&head, &entry.data]));
                }
                match batch {
                    Some(batch) => self.in_log.push_back((batch, persist.token)),
                    None => self.raft.persisted(persist.token),
                }
            }
            self.committed.extend(ready.committed);
            self.lost_reads.extend(ready.lost_reads);
            self.reads.extend(ready.read_states.iter().map(|read| (read.ctx, read.index)));
        }
    }

    fn apply_committed(&mut self, now_ms: u64, output: &mut Output) -> Result<(), Corruption> {
        let mut applied = 0;
        while let Some(entry) = self.committed.pop_front() {
            // Watchers are offered what came before a compaction before it is applied.
            if applied == APPLY_ENTRIES_MAX || (applied > 0 && envelope::is_compaction(&entry.data))
            {
                self.committed.push_front(entry);
                break;
            }
            applied += 1;
            let data = match entry.kind {
                EntryKind::Normal => entry.data,
                EntryKind::ConfChange => Bytes::new(),
            };
            let outcome = self.applier.apply(entry.index.0, entry.term.0, &data, now_ms)?;
            if self.is_own(outcome.id) {
                self.pending = self.pending.saturating_sub(1);
                output.outcomes.push(outcome);
            }
        }
        if applied > 0 {
            self.applier.commit()?;
            let applied = LogIndex(self.applier.applied_index());
            self.raft.applied(applied);
            self.raft.compact(applied);
        }
        Ok(())
    }

    /// Whether a proposal was made by this start of this process.
    fn is_own(&self, id: u64) -> bool {
        id > self.options.first_id && id <= self.next_id
    }

    fn serve_reads(&mut self, output: &mut Output) {
        output.lost_reads.append(&mut self.lost_reads);
        let applied = LogIndex(self.applier.applied_index());
        while let Some(&(context, index)) = self.reads.front() {
            if index > applied {
                break;
            }
            output.reads.push(context);
            self.reads.pop_front();
        }
    }

    pub fn next_log_op(&mut self) -> Option<(wal::OpId, wal::Op)> {
        self.log.next_op()
    }

    pub fn log_op_done(&mut self, op: wal::OpId) {
        let Some(durable) = self.log.op_done(op) else { return };
        while let Some(&(batch, token)) = self.in_log.front() {
            if batch > durable {
                break;
            }
            self.raft.persisted(token);
            self.in_log.pop_front();
        }
    }

    /// The disk has no room for another segment of the log.
    pub fn log_no_space(&mut self, op: wal::OpId) {
        self.log.no_space(op);
        self.raise_nospace();
    }

    pub fn next_store_op(&mut self) -> Option<(store::OpId, store::Op)> {
        self.applier.store.next_op()
    }

    pub fn store_op_done(&mut self, op: store::OpId, now_ms: u64) {
        let before = self.applier.store.durable_mark();
        self.applier.store.op_done(op);
        let durable = self.applier.store.durable_mark();
        if durable != before {
            self.log.release(durable + 1);
            self.log.retry_space();
        }
        if !self.applier.store.checkpoint_running() {
            self.checkpoint.finished(now_ms);
        }
    }

    /// The disk has no room for the store to grow.
    pub fn store_no_space(&mut self, op: store::OpId, now_ms: u64) {
        self.applier.store.no_space(op);
        self.checkpoint.postponed(now_ms);
        self.raise_nospace();
    }

    /// Asks the store to give back what it can. The ticket is for `defragmented`.
    pub fn start_defragment(&mut self) -> u64 {
        self.defrag.demand()
    }

    pub fn defragmented(&self, ticket: u64) -> bool {
        self.defrag.is_past(ticket)
    }
}
