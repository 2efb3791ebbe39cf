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

mod background;
mod checkpoint;
mod compactor;
mod defrag;
mod gather;
mod hash_check;
mod leases;
mod limits;
mod members;
mod message;
mod peers;
mod proposals;
mod record;
mod recovery;
mod scrub;
mod snapshot;
#[cfg(test)]
mod tests;
mod versions;

use std::collections::{BTreeSet, VecDeque};
use std::ops::Range;

use prost::Message;

pub use compactor::Retention;
pub use defrag::DefragCounts;
pub use leases::LeaseAnswer;
pub use limits::{FORWARDED_BYTES_MAX, REPLAY_DIRTY_BYTES, SNAPSHOT_DIRTY_BYTES};
pub use message::{Class, PeerMessage, Refusal, SnapshotMessage};
pub use peers::Late;
pub use proposals::ProposeError;
pub use record::{ENTRY, HARD_STATE, METADATA, Metadata, SNAPSHOT};
pub use recovery::{OpenError, Recovered};
pub use scrub::ScrubCounts;
pub use snapshot::{SnapshotCounts, SnapshotOp, Transferred};

use crate::apply::envelope::{self, Kind};
use crate::apply::{Applier, FOUNDING_INDEX, Notice, Outcome};
use crate::lease::LeaseId;
use crate::mutants::{self, Mutant};
use crate::mvcc::MvccError;
use crate::proto::etcdserverpb::{
    AlarmRequest, AlarmType, CompactionRequest, LeaseRevokeRequest, alarm_request::AlarmAction,
};
use crate::proto::membershippb::{Attributes, ClusterMemberAttrSetRequest};
use crate::raft::{
    self, Entry, EntryKind, HardState, LogIndex, NodeId, Persist, Raft, Role, SoftState, StepError,
    Term, Token,
};
use crate::store::{self, Corruption};
use background::Background;
use compactor::Compactor;
use gather::Gather;
use hash_check::HashCheck;
use leases::LeaseQuestions;
use limits::{
    APPLY_BYTES_MAX, APPLY_ENTRIES_MAX, LEASE_REVOKES_PER_TURN, LOG_KEPT_BYTES_MAX, LOG_RETRY_MS,
};
use peers::Heard;
use proposals::{Proposals, Taken};
use snapshot::{Incoming, Outgoing};
use versions::VersionCheck;

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
    /// After so long without an outcome nothing is known of a proposal any more.
    pub patience_ms: u64,
    pub retention: Retention,
    /// Idle share of the store's file that starts a defragmentation; 0 for none.
    pub defrag_threshold_percent: u32,
    /// Applied entries between two cuts of the log in memory, and how many stay behind one for
    /// followers that are slow (`--snapshot-count`, `--snapshot-catchup-entries`).
    pub snapshot_count: u64,
    pub catch_up_entries: u64,
    /// Dirty pages that replay of the log after a start leaves unwritten ([`REPLAY_DIRTY_BYTES`], but in
    /// tests of small stores), and half as many more while some are being written.
    pub replay_dirty_bytes: u64,
    /// Dirty bytes of a store that arrives from another member, at which it is checkpointed; at twice as many the
    /// sender has to wait.
    pub snapshot_dirty_bytes: u64,
    /// How often the members compare hashes of their history.
    pub corrupt_check_ms: Option<u64>,
    /// Refuse changes of the members that put the quorum at risk.
    pub strict_reconfig_check: bool,
    /// Start of the ids of proposals and leases: differs from one start of a process to the next,
    /// and from one member to the other.
    pub first_id: u64,
    /// Messages with entries on their way to one follower.
    pub inflight_appends_max: usize,
    /// Seed of the randomized election timeouts.
    pub seed: u64,
}

impl Options {
    /// What `Recovered::new` is to keep of the log for followers that are behind: entries, bytes. Who is the
    /// only one of `members` has none.
    pub fn kept_log(&self, members: usize) -> (usize, usize) {
        let entries = if members == 1 { 1 } else { self.catch_up_entries };
        (usize::try_from(entries).unwrap_or(usize::MAX), LOG_KEPT_BYTES_MAX / 2)
    }
}

/// Why a member must end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StopReason {
    #[error("this member has been permanently removed from the cluster")]
    Removed,
    /// What members hold contradicts what they have acknowledged.
    #[error("{0}")]
    Contradiction(StepError),
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
    /// Answers to questions about leases, by their numbers.
    pub lease_answers: Vec<(u64, LeaseAnswer)>,
    /// Proposals that will never become entries.
    pub refusals: Vec<(u64, Refusal)>,
    /// States that have arrived at their other end, or here.
    pub transferred: Vec<Transferred>,
    /// To be sent at once. Each may be lost; those to one member should keep their order.
    pub messages: Vec<(NodeId, PeerMessage)>,
    /// Bytes of the store's file to be read on another thread, before `Node::scrub` is called.
    pub scrub_window: Option<Range<u64>>,
}

pub struct Node {
    pub applier: Applier,
    raft: Raft,
    log: wal::Writer,
    options: Options,
    /// When the log's next write begins, and since when the one in flight is.
    gather: Gather,
    log_write: Option<(wal::OpId, u64)>,
    /// Batches of the log that Raft waits for, oldest first.
    in_log: VecDeque<InLog>,
    /// The commit index that was written into the log last, and the one that is durable.
    written_commit: LogIndex,
    durable_commit: LogIndex,
    /// The entry that removed a member last, of those applied since the start.
    last_removal: LogIndex,
    /// The last entry that `--force-new-cluster` has committed without a quorum. No checkpoint is written before the
    /// log has it: after a crash, the store would tell of an entry that was never anywhere else.
    forced_to: LogIndex,
    /// Entries that cannot be applied have come, and that was said.
    met_unreadable: bool,
    /// Not before that time is leadership left again for a disk that stands still.
    next_handover_ms: u64,
    /// Committed entries that were not applied yet.
    committed: VecDeque<Entry>,
    /// The last entry that the log held at the start, while not all of these are applied.
    replays_to: Option<u64>,
    /// Reads that wait for an applied index.
    reads: VecDeque<(u64, LogIndex)>,
    lost_reads: Vec<u64>,
    last_read: u64,
    proposals: Proposals,
    taken: Taken,
    refusals: Vec<(u64, Refusal)>,
    messages: Vec<(NodeId, PeerMessage)>,
    /// The other members, as they were heard.
    heard: Vec<Heard>,
    next_id: u64,
    now_ms: u64,
    next_tick_ms: u64,
    leadership: Leadership,
    /// States on their way to other members, and one on its way here.
    lease_questions: LeaseQuestions,
    hash_check: HashCheck,
    version_check: VersionCheck,
    outgoing: Outgoing,
    incoming: Option<Incoming>,
    transferred: Vec<Transferred>,
    /// Operations of the store that are not done.
    store_ops_out: usize,
    /// Another member said that this one was removed.
    is_gone: bool,
    stop_reason: Option<StopReason>,
    compactor: Compactor,
    background: Background,
    /// Not to be proposed again before.
    nospace_retry_ms: u64,
    publish_retry_ms: u64,
    /// When to try again to make a segment, after the disk had no room for one.
    log_retry_ms: Option<u64>,
    /// Leases whose revocation this leader has proposed, for metrics.
    expired_leases: u64,
}

struct InLog {
    batch: wal::BatchSeq,
    token: Token,
    since_ms: u64,
    /// The commit index that is durable with it.
    commit: LogIndex,
}

/// Who led when, for operators and for the errors of requests that took too long.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Leadership {
    pub leader: Option<NodeId>,
    /// Since when it is so.
    pub since_ms: u64,
    /// When a leader was last elected.
    pub elected_ms: u64,
    /// Leaders seen.
    pub changes: u64,
    /// The last term in which this member led and knew it.
    pub led_term: Term,
}

impl Node {
    pub fn new(
        applier: Applier,
        mut log: wal::Writer,
        recovered: Recovered,
        options: Options,
        now_ms: u64,
    ) -> Result<Node, OpenError> {
        if let Some(found) = recovered.metadata
            && found != options.metadata
        {
            return Err(OpenError::Foreign { log: found, configured: options.metadata });
        }
        let is_sole_voter =
            applier.cluster.voters().all(|member| member.id == options.metadata.member_id);
        let forces_new_cluster = recovered.forces_new_cluster;
        if is_sole_voter && !forces_new_cluster {
            recovered.expect_end()?;
        }
        let mut hard_state = recovered.hard_state();
        let is_given_up = recovered.is_given_up();
        let (start, entries) = recovered.into_log()?;
        let applied = applier.applied_index();
        let replays_to = entries.last().map(|last| last.index.0).filter(|last| *last > applied);
        // A commit index may be behind what a checkpoint has made durable: it is written lazily.
        hard_state.commit = LogIndex(hard_state.commit.0.max(applied));
        if applied == FOUNDING_INDEX {
            hard_state.term = Term(hard_state.term.0.max(applier.applied_term()));
        }

        log.set_preamble(METADATA, 0, &record::encode_metadata(options.metadata));
        log.set_preamble(HARD_STATE, 0, &record::encode_hard_state(&hard_state));
        if is_given_up {
            log.append(SNAPSHOT, 0, &[&record::encode_snapshot(start)]);
        }

        let config = raft::Config {
            election_ticks: (options.election_ms / options.heartbeat_ms).max(2) as u32,
            seed: options.seed,
            incarnation: options.first_id,
            apply_unpersisted: true,
            inflight_appends_max: options.inflight_appends_max,
            ..raft::Config::new(NodeId(options.metadata.member_id))
        };
        let configuration = members::configuration(&applier)?;
        let is_alone = configuration.is_sole_voter(config.id);
        let mut raft = Raft::new(
            config,
            hard_state,
            configuration,
            (start.index, start.term),
            entries,
            LogIndex(applied),
        )?;
        if is_alone && !forces_new_cluster {
            raft.campaign();
        }
        let mut background = Background::new(options.defrag_threshold_percent, now_ms);
        if applier.store.durable_mark() == 0 {
            // Who this member is should not depend on the command line any longer.
            background.checkpoint.demand();
        }
        // Where a new cluster is forced, all is applied before anybody could carry out what a checkpoint wants.
        let replays_to = replays_to.filter(|_| !forces_new_cluster);
        if replays_to.is_some() {
            background.checkpoint.replay(options.replay_dirty_bytes);
        }
        let lease_questions = LeaseQuestions::new(options.first_id);
        let hash_check = HashCheck::new(options.corrupt_check_ms, now_ms, options.first_id);
        let mut node = Node {
            compactor: Compactor::new(options.retention, now_ms),
            background,
            next_id: options.first_id,
            next_tick_ms: now_ms + options.heartbeat_ms,
            applier,
            raft,
            log,
            options,
            gather: Gather::default(),
            log_write: None,
            in_log: VecDeque::new(),
            written_commit: hard_state.commit,
            durable_commit: hard_state.commit,
            last_removal: LogIndex(0),
            forced_to: LogIndex(0),
            met_unreadable: false,
            next_handover_ms: now_ms,
            committed: VecDeque::new(),
            replays_to,
            reads: VecDeque::new(),
            lost_reads: Vec::new(),
            last_read: 0,
            proposals: Proposals::default(),
            taken: Taken::default(),
            refusals: Vec::new(),
            messages: Vec::new(),
            heard: Vec::new(),
            now_ms,
            leadership: Leadership { since_ms: now_ms, ..Leadership::default() },
            lease_questions,
            hash_check,
            version_check: VersionCheck::default(),
            outgoing: Outgoing::default(),
            incoming: None,
            transferred: Vec::new(),
            store_ops_out: 0,
            is_gone: false,
            stop_reason: None,
            nospace_retry_ms: 0,
            publish_retry_ms: 0,
            log_retry_ms: None,
            expired_leases: 0,
        };
        if forces_new_cluster {
            node.force_new_cluster()
                .map_err(|corruption| OpenError::State(MvccError::Corruption(corruption)))?;
        }
        Ok(node)
    }

    pub fn raft(&self) -> &Raft {
        &self.raft
    }

    pub fn metadata(&self) -> Metadata {
        self.options.metadata
    }

    /// The time of the last turn or message.
    pub fn now_ms(&self) -> u64 {
        self.now_ms
    }

    /// Who led when.
    pub fn leadership(&self) -> Leadership {
        self.leadership
    }

    /// Why this member has to end, if it has.
    pub fn stop_reason(&self) -> Option<StopReason> {
        self.stop_reason.or_else(|| self.is_gone.then_some(StopReason::Removed))
    }

    /// Hands leadership to another voter, who is brought up to date first. Proposals that come
    /// meanwhile wait for the next leader.
    pub fn transfer_leadership(&mut self, to: NodeId) -> Result<(), raft::TransferError> {
        self.raft.transfer_leadership(to)
    }

    /// The voter to whom leadership can be handed soonest.
    pub fn successor(&self) -> Option<NodeId> {
        let voters = self.peers().map(|(id, _)| id);
        let voters = voters.filter(|id| self.raft.configuration().is_voter(*id));
        voters.filter(|id| self.is_heard(*id)).max_by_key(|id| self.raft.matched(*id))
    }

    /// An id that no other proposal and no lease of this start has.
    pub fn fresh_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    /// Asks for a linearizable read. What is returned names it: it comes back in `Output::reads`,
    /// or in `Output::lost_reads` when it has to be asked for again.
    pub fn read(&mut self) -> u64 {
        self.last_read += 1;
        if self.raft.read_index(self.last_read).is_err() {
            self.lost_reads.push(self.last_read);
        }
        self.last_read
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
        // A member that joins begins with nothing.
        let is_founded = self.applier.applied_index() > 0;
        is_founded
            && self.raft.leader().is_some()
            && (!self.raft.is_leader() || knows())
            && self.applier.applied_index() >= commit.0
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

    pub fn expired_leases(&self) -> u64 {
        self.expired_leases
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
        if raised || self.now_ms < self.nospace_retry_ms {
            return;
        }
        let request = AlarmRequest {
            action: AlarmAction::Activate as i32,
            member_id,
            alarm: AlarmType::Nospace as i32,
        };
        if self.propose(Kind::Alarm, &request.encode_to_vec()).is_ok() {
            self.nospace_retry_ms = self.now_ms + self.options.patience_ms;
        }
    }

    /// The part of a turn that others wait for: what is new for the disk and for other members.
    /// Nothing is applied. Whoever drives may see to both before it calls `turn`.
    pub fn begin_turn(&mut self, now_ms: u64, messages: &mut Vec<(NodeId, PeerMessage)>) {
        self.now_ms = self.now_ms.max(now_ms);
        self.tick(now_ms);
        self.advance_raft();
        messages.append(&mut self.messages);
    }

    /// Moves everything forward as far as it goes without the disk.
    pub fn turn(&mut self, now_ms: u64, output: &mut Output) -> Result<(), Corruption> {
        self.begin_turn(now_ms, &mut output.messages);
        if self.log_retry_ms.take_if(|at_ms| *at_ms <= now_ms).is_some() {
            self.log.retry_space();
        }
        self.leave_a_stalled_disk();
        self.publish();
        self.check_versions();
        self.expire_leases(now_ms);
        self.auto_compact(now_ms);
        self.retry_proposals();
        self.confirm_lease_questions();
        self.advance_raft();
        // What is behind a change of the members is handed out when that is applied.
        while self.apply_committed(now_ms, output)? {
            self.advance_raft();
        }
        self.receive_snapshot();
        self.send_snapshots()?;
        self.serve_reads(output);
        output.notices.append(&mut self.applier.notices);
        self.conclude_leases(output);
        output.refusals.append(&mut self.refusals);
        output.messages.append(&mut self.messages);
        output.transferred.append(&mut self.transferred);
        output.scrub_window = output.scrub_window.take().or_else(|| self.scrub_window(now_ms));
        if output.notices.contains(&Notice::AlarmsChanged) {
            self.nospace_retry_ms = 0;
        }
        Ok(())
    }

    /// When `turn` has to be called at the latest.
    pub fn next_deadline(&self, now_ms: u64) -> u64 {
        let applies = !self.committed.is_empty() && !self.holds_replay();
        if applies || self.hash_check.is_busy() || self.is_sending() {
            return now_ms;
        }
        let mut deadline = self.next_tick_ms.min(self.background_deadline(now_ms));
        // Others only watch their leases: they would look for ever at one that has expired.
        let leases = self.applier.lessor.next_deadline().filter(|_| self.may_expire_leases());
        for other in [self.compactor.next_deadline(), leases, self.log_retry_ms] {
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
        let (configuration, id) = (self.raft.configuration(), self.raft.id());
        // Who is alone has committed all that is in its log, and will know so at its next start.
        let knows_alone = configuration.is_sole_voter(id) && self.settled_removal().is_some();
        if self.in_log.is_empty() && !knows_alone {
            self.raft.save_commit();
        }
        self.ask_whether_removed();
    }

    /// While the others are a majority, a leader needs no disk of its own to commit. But what it has
    /// not written piles up, and one more member that fails would stop the cluster: after an election
    /// timeout it gives way to a member whose disk works.
    fn leave_a_stalled_disk(&mut self) {
        let now_ms = self.now_ms;
        let stalls = self
            .in_log
            .front()
            .is_some_and(|first| first.since_ms + self.options.election_ms <= now_ms);
        if !stalls || now_ms < self.next_handover_ms || !self.raft.is_accepting() {
            return;
        }
        let Some(to) = self.successor() else { return };
        if self.raft.matched(to) > Some(self.raft.persisted_index())
            && self.raft.transfer_leadership(to).is_ok()
        {
            self.next_handover_ms = now_ms + 2 * self.options.election_ms;
            tracing::warn!(
                to = format!("{:x}", to.0),
                "the disk of the log stands still; leadership goes to another member"
            );
        }
    }

    /// A new leader gives leases more time before it looks at any. And what another leader would append
    /// for this one could end a lease that it has renewed.
    fn may_expire_leases(&self) -> bool {
        self.raft.is_accepting() && self.leadership.led_term == self.raft.term()
    }

    fn expire_leases(&mut self, now_ms: u64) {
        if !self.may_expire_leases() {
            return;
        }
        let expired = self.applier.lessor.expired(now_ms, LEASE_REVOKES_PER_TURN);
        if expired.is_empty() {
            return;
        }
        // Who ends a lease, or has ended it, can grant its id anew before that is applied here. To
        // revoke the id behind that would end another lease.
        let unapplied = self.raft.unapplied();
        let granted: BTreeSet<i64> =
            unapplied.filter_map(|entry| envelope::granted_lease(&entry.data)).collect();
        self.expired_leases += expired.len() as u64;
        for LeaseId(id) in expired.into_iter().filter(|lease| !granted.contains(&lease.0)) {
            let request = LeaseRevokeRequest { id }.encode_to_vec();
            let root = self.applier.auth.root();
            // A refused proposal is made again: the lessor hands the lease out once more.
            let _ = self.propose_for(root.as_ref(), Kind::LeaseRevoke as u32, &request);
        }
    }

    /// Tells the cluster this member's name and addresses, if it knows others.
    fn publish(&mut self) {
        if self.now_ms < self.publish_retry_ms || !self.is_caught_up() || self.is_published() {
            return;
        }
        let Options { metadata, name, client_urls, .. } = &self.options;
        let attributes = Attributes { name: name.clone(), client_urls: client_urls.clone() };
        let request = ClusterMemberAttrSetRequest {
            member_id: metadata.member_id,
            member_attributes: Some(attributes),
        };
        if self.propose(Kind::MemberAttributes, &request.encode_to_vec()).is_ok() {
            self.publish_retry_ms = self.now_ms + self.options.election_ms;
        }
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
                match &mut self.incoming {
                    Some(incoming) if incoming.is_installing() => {
                        incoming.deferred.push_back(persist);
                    }
                    _ => self.write_persist(persist),
                }
            }
            if let Some(state) = ready.soft_state {
                self.note_leadership(state);
            }
            for message in ready.messages {
                match message.body {
                    raft::Body::Snapshot { .. } => self.want_snapshot(message.to),
                    _ => self.messages.push((message.to, PeerMessage::Raft(message))),
                }
            }
            self.committed.extend(ready.committed);
            self.lost_reads.extend(ready.lost_reads);
            self.reads.extend(ready.read_states.iter().map(|read| (read.ctx, read.index)));
        }
    }

    /// Writes into the log what Raft wants persisted, and tells it when that is durable.
    fn write_persist(&mut self, persist: Persist) {
        let mut batch = None;
        if let Some(snapshot) = &persist.snapshot {
            let bytes = record::encode_snapshot(snapshot.position);
            batch = Some(self.log.append(SNAPSHOT, 0, &[&bytes]));
        }
        // The state goes first: what follows may end up in a later batch, or be torn off by a crash, and an
        // entry must not be durable without its term.
        if let Some(state) = &persist.hard_state {
            batch = Some(self.write_hard_state(state));
        }
        for entry in &persist.entries {
            let head = record::entry_head(entry);
            batch = Some(self.log.append(ENTRY, entry.index.0, &[&head, &entry.data]));
        }
        if let Some(state) = &persist.hard_state_behind {
            batch = Some(self.write_hard_state(state));
        }
        match batch {
            Some(_) if mutants::is_on(Mutant::DurableBeforeWritten) => {
                self.raft.persisted(persist.token);
            }
            Some(batch) => self.in_log.push_back(InLog {
                batch,
                token: persist.token,
                since_ms: self.now_ms,
                commit: self.written_commit,
            }),
            None => self.raft.persisted(persist.token),
        }
    }

    fn write_hard_state(&mut self, state: &HardState) -> wal::BatchSeq {
        let bytes = record::encode_hard_state(state);
        let batch = self.log.append(HARD_STATE, 0, &[&bytes]);
        self.log.set_preamble(HARD_STATE, 0, &bytes);
        self.written_commit = state.commit;
        batch
    }

    fn note_leadership(&mut self, state: SoftState) {
        let now_ms = self.now_ms;
        if state.role == Role::Leader && self.leadership.led_term != state.term {
            // It does not know when leases were last renewed. A former leader that has not noticed
            // may renew some for another election timeout.
            self.leadership.led_term = state.term;
            self.applier.lessor.extend_all(now_ms, self.options.election_ms);
        }
        if state.leader == self.leadership.leader {
            return;
        }
        self.leadership.leader = state.leader;
        self.leadership.since_ms = now_ms;
        if state.leader.is_some() {
            self.leadership.elected_ms = now_ms;
            self.leadership.changes += 1;
        }
    }

    /// Returns whether a change of the configuration was applied, which ends what is applied at
    /// once.
    fn apply_committed(&mut self, now_ms: u64, output: &mut Output) -> Result<bool, Corruption> {
        let (mut applied, mut bytes) = (0, 0);
        let mut is_changed = false;
        while !is_changed
            && !self.holds_replay()
            && let Some(entry) = self.committed.pop_front()
        {
            // Watchers are offered what came before a compaction before it is applied.
            let is_enough = applied == APPLY_ENTRIES_MAX || bytes >= APPLY_BYTES_MAX;
            if is_enough || (applied > 0 && envelope::is_compaction(&entry.data)) {
                self.committed.push_front(entry);
                break;
            }
            applied += 1;
            bytes += entry.data.len();
            let outcome = match entry.kind {
                EntryKind::Normal => {
                    self.applier.apply(entry.index.0, entry.term.0, &entry.data, now_ms)?
                }
                EntryKind::ConfChange => {
                    is_changed = true;
                    self.apply_change(&entry)?
                }
            };
            self.conclude(outcome, output);
        }
        if applied > 0 {
            self.background.loaded(now_ms);
            self.applier.commit()?;
            let index = self.applier.applied_index();
            self.raft.applied(LogIndex(index));
            self.compact_log();
            if self.replays_to.take_if(|last| *last <= index).is_some() {
                self.background.checkpoint.replayed();
            }
        }
        Ok(is_changed)
    }

    /// Whether what the log held at the start makes pages dirty faster than the disk takes them.
    fn holds_replay(&self) -> bool {
        self.background.checkpoint.holds_replay(&self.applier.store)
    }

    /// Forgets applied entries that no follower is likely to want. One that does gets a snapshot.
    fn compact_log(&mut self) {
        let applied = self.applier.applied_index();
        let start = self.raft.start_index().0;
        let catch_up = self.options.catch_up_entries;
        let until = if self.raft.configuration().is_sole_voter(self.raft.id())
            && self.applier.cluster.members().len() == 1
        {
            applied
        } else if self.raft.log_bytes() > LOG_KEPT_BYTES_MAX {
            start + (applied - start).div_ceil(2)
        } else if applied - start > self.options.snapshot_count + catch_up {
            applied - catch_up
        } else {
            return;
        };
        self.raft.compact(LogIndex(until));
    }

    fn serve_reads(&mut self, output: &mut Output) {
        for read in std::mem::take(&mut self.lost_reads) {
            if !self.lease_read_done(read, false) {
                output.lost_reads.push(read);
            }
        }
        let applied = LogIndex(self.applier.applied_index());
        while let Some((read, _)) = self.reads.pop_front_if(|(_, index)| *index <= applied) {
            if !self.lease_read_done(read, true) {
                output.reads.push(read);
            }
        }
    }

    /// Entries that `turn` will apply.
    pub fn unapplied(&self) -> usize {
        self.committed.len()
    }

    /// The next operation of the log. None while a write is held back for more to be part of it:
    /// `answers_sent` says for how long. At `u64::MAX` nothing is held back.
    pub fn next_log_op(&mut self, now_us: u64) -> Option<(wal::OpId, wal::Op)> {
        if self.log_write.is_none() && !self.gather.may_begin(self.unanswered(), now_us) {
            return None;
        }
        let (id, op) = self.log.next_op()?;
        if matches!(op, wal::Op::Write { .. }) {
            self.log_write = Some((id, now_us));
        }
        Some((id, op))
    }

    /// The proposals that stay open in this turn. In a cluster the answers of a turn are those of an
    /// earlier write than the one that is just done, so that they do not count.
    fn unanswered(&self) -> usize {
        let is_alone = self.raft.configuration().is_sole_voter(self.raft.id());
        let answered = if is_alone { self.committed.len() } else { 0 };
        self.proposals.len().saturating_sub(answered)
    }

    /// What was answered is on its way to who asked. Returns in how many microseconds the next write of
    /// the log begins at the latest, if it is held back.
    pub fn answers_sent(&mut self, now_us: u64) -> Option<u64> {
        self.gather.answered(now_us)
    }

    pub fn log_op_done(&mut self, op: wal::OpId, now_us: u64) {
        if let Some((_, began_us)) = self.log_write.take_if(|(id, _)| *id == op) {
            let took_us = now_us.saturating_sub(began_us);
            self.gather.written(took_us, self.proposals.len(), now_us);
        }
        let Some(durable) = self.log.op_done(op) else { return };
        while let Some(written) = self.in_log.pop_front_if(|first| first.batch <= durable) {
            self.durable_commit = written.commit;
            self.raft.persisted(written.token);
        }
    }

    /// The disk has no room for another segment of the log.
    pub fn log_no_space(&mut self, op: wal::OpId) {
        self.log.no_space(op);
        self.log_retry_ms = Some(self.now_ms + LOG_RETRY_MS);
        self.raise_nospace();
    }

    pub fn next_store_op(&mut self) -> Option<(store::OpId, store::Op)> {
        let installing = self.incoming.as_ref().is_some_and(Incoming::is_installing);
        let is_forced = self.raft.persisted_index() < self.forced_to;
        if installing || is_forced || !self.background.checkpoint.permits(&self.applier.store) {
            return None;
        }
        let next = self.applier.store.next_op()?;
        self.store_ops_out += 1;
        Some(next)
    }

    pub fn store_op_done(&mut self, op: store::OpId, now_ms: u64) {
        self.store_ops_out -= 1;
        let before = self.applier.store.durable_mark();
        self.applier.store.op_done(op);
        let durable = self.applier.store.durable_mark();
        if durable != before {
            // What followers may want after a restart stays as well.
            let kept = durable.min(self.raft.start_index().0);
            let behind_memory = mutants::is_on(Mutant::LogCutBehindMemory);
            let cut = if behind_memory { self.applier.applied_index() } else { kept };
            // The newest entry stays: without it the log would look like one whose end was lost.
            let newest = self.raft.persisted_index().0;
            self.log.release((cut + 1).min(newest));
            self.log.retry_space();
        }
        if !self.applier.store.checkpoint_running() {
            self.background.checkpoint.finished(now_ms);
        }
    }

    /// The disk has no room for the store to grow.
    pub fn store_no_space(&mut self, op: store::OpId, now_ms: u64) {
        self.store_ops_out -= 1;
        self.applier.store.no_space(op);
        if !self.applier.store.checkpoint_running() {
            self.background.checkpoint.postponed(now_ms);
        }
        self.raise_nospace();
    }
}
