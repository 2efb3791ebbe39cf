//! The Raft state machine of one member, in the words of the paper (Ongaro, Ousterhout 2014) and of
//! Ongaro's thesis.
//!
//! It is driven: calls and messages go in, and [`Raft::ready`] says what is to be done. One turn of
//! a caller is
//!
//! ```text
//! tick / step / propose / read_index / ...   any number of them
//! while let Some(ready) = raft.ready() {
//!     give ready.persist to the disk         do not wait: persisted(token) when it is durable
//!     send ready.messages                    at once, in this order
//!     apply ready.committed, applied(index)  a configuration change, which is always the last:
//!                                            apply_conf_change or skip_conf_change instead
//!     answer ready.read_states               when applied >= their index
//! }
//! ```
//!
//! **The durability contract.** Some messages promise that something is on this member's disk:
//! votes, requests for votes (they speak of our log and our term), acknowledgements of entries.
//! These, and the leader's own share in a commit, come out of a later `ready` only after
//! [`Raft::persisted`] was told of the [`Persist`] that holds what they promise. All else —
//! heartbeats, entries for followers, confirmations of leadership for reads — never waits for the
//! disk. The caller sends what it is given when it is given it; it cannot get the order wrong.
//!
//! Invariants, each asserted or checked by the tests after every step: the five of figure 3 of the
//! paper; terms never fall; a member votes once in a term; nothing is committed that is not durable
//! on a quorum; a committed entry is never cut from the log.
//!
//! PreVote and CheckQuorum are always on. There are no lease reads: every read is confirmed by a
//! round of heartbeats. What stays: where links are broken so that the only member that reaches a
//! quorum has an older log than the others, nobody can be elected.
//!
//! Deliberately knows no files, sockets, clocks or threads; not what entries mean; not how
//! snapshots travel; and nothing else of this crate.

mod check;
mod codec;
mod config;
mod configuration;
mod election;
mod error;
mod log;
mod message;
mod progress;
mod quorum;
mod random;
mod read_index;
mod ready;
mod reconfigure;
mod replication;
#[cfg(test)]
mod sim;
mod snapshot;
mod status;
mod step;
#[cfg(test)]
mod tests;
mod transfer;
mod types;

use bytes::Bytes;
use smallvec::SmallVec;

pub use config::{Config, limits};
pub use configuration::{ChangeStep, ConfChange, Configuration, MEMBERS_MAX, NodeSet, Transition};
pub use error::{
    ConfChangeError, ProposeConfChangeError, ProposeError, ReadError, RestoreError, StepError,
    TransferError,
};
pub use message::{Body, Message, SnapshotMeta};
pub use ready::{Persist, ReadState, Ready};
pub use status::{Mark, MemberStatus, Replication, Status};
pub use types::{
    Entry, EntryKind, HardState, LogIndex, LogPosition, NodeId, Role, SoftState, Term, Token,
};

use log::Log;
use progress::Progress;
use random::Random;
use read_index::Reads;
use ready::Durability;
use status::Marks;
use transfer::Transfer;

pub struct Raft {
    config: Config,
    random: Random,
    marks: Marks,

    // Figure 2 of the paper, and who we believe leads.
    term: Term,
    vote: Option<NodeId>,
    log: Log,
    role: Role,
    leader: Option<NodeId>,
    /// In effect from when it is applied, not from when it is appended; `reconfigure.rs` says why
    /// that is safe.
    configuration: Configuration,

    // Time, in ticks.
    ticks: u64,
    /// Since the leader was heard from; at a leader, since the quorum was last checked.
    election_elapsed: u32,
    election_timeout: u32,
    heartbeat_elapsed: u32,

    // Elections.
    votes: SmallVec<[(NodeId, bool); 8]>,
    is_campaign_wanted: bool,

    // Of a leader.
    /// The other members.
    progress: Vec<Progress>,
    /// The entry with which this leader began its term. Nothing is known about commits before it is
    /// committed.
    term_start: LogIndex,
    /// No further change may be proposed before this index is applied.
    pending_conf_index: LogIndex,
    uncommitted_bytes: usize,
    transfer: Option<Transfer>,
    /// Leads without being a voter until this is committed.
    steps_down_after: Option<LogIndex>,
    is_heartbeat_due: bool,

    // Of a follower.
    /// How far the log is known to equal the leader's.
    matched: LogIndex,
    /// How far that was acknowledged.
    acknowledged: LogIndex,
    is_ack_due: bool,

    reads: Reads,
    durability: Durability,

    // What the next `ready` gives out.
    messages: Vec<Message>,
    last_soft_state: SoftState,
    /// A configuration change that was given out, and not yet applied or skipped.
    open_conf_change: Option<LogIndex>,
    /// A snapshot to install, not yet given out.
    unhanded_snapshot: Option<SnapshotMeta>,
}

impl Raft {
    /// A member as its disk has it: `log_start` is the last position that `entries` no longer hold,
    /// and `configuration` the one in effect at `applied`. A new cluster starts all members with
    /// the same configuration, a member that joins one starts with an empty one,
    /// `HardState::default()` and an empty log.
    ///
    /// A cluster that begins with a configuration should begin at a `log_start` above 0, so that a
    /// member that joins later gets a snapshot and with it the configuration, which the log does
    /// not tell.
    pub fn new(
        config: Config,
        hard_state: HardState,
        configuration: Configuration,
        log_start: (LogIndex, Term),
        entries: Vec<Entry>,
        applied: LogIndex,
    ) -> Result<Raft, RestoreError> {
        if let Some(what) = config.complaint() {
            return Err(RestoreError::Config { what });
        }
        if let Some(what) = configuration.complaint() {
            return Err(RestoreError::Configuration { what });
        }
        let start = LogPosition { index: log_start.0, term: log_start.1 };
        let HardState { term, vote, commit } = hard_state;
        // A cluster that begins at a start position begins in its term, and who has given a vote has
        // given it in an earlier one.
        let (term, vote) = if start.term > term { (start.term, None) } else { (term, vote) };
        let log = Log::restore(start, entries, commit, applied, term)?;

        let mut random = Random::of(config.seed, [config.id.0, config.incarnation]);
        let election_timeout = election::random_timeout(&mut random, config.election_ticks);
        Ok(Raft {
            random,
            marks: Marks::default(),
            term,
            vote,
            role: Role::Follower,
            leader: None,
            configuration,
            ticks: 0,
            election_elapsed: 0,
            election_timeout,
            heartbeat_elapsed: 0,
            votes: SmallVec::new(),
            is_campaign_wanted: false,
            progress: Vec::new(),
            term_start: LogIndex(0),
            pending_conf_index: LogIndex(0),
            uncommitted_bytes: 0,
            transfer: None,
            steps_down_after: None,
            is_heartbeat_due: false,
            matched: log.commit(),
            acknowledged: log.commit(),
            is_ack_due: false,
            reads: Reads::default(),
            durability: Durability::new(hard_state),
            messages: Vec::new(),
            last_soft_state: SoftState { role: Role::Follower, term, leader: None },
            open_conf_change: None,
            unhanded_snapshot: None,
            log,
            config,
        })
    }

    /// One tick of time. A caller that was held up calls it for the time that really passed, but
    /// never more than `election_ticks` times in one turn without stepping the messages that came
    /// meanwhile.
    pub fn tick(&mut self) {
        self.ticks += 1;
        self.expire_forwarded_reads();
        if self.role == Role::Leader { self.tick_leader() } else { self.tick_election() }
    }

    fn tick_leader(&mut self) {
        self.heartbeat_elapsed += 1;
        if self.heartbeat_elapsed >= self.config.heartbeat_ticks {
            self.heartbeat_elapsed = 0;
            self.is_heartbeat_due = true;
        }
        self.tick_transfer();
        self.maybe_leave_joint();
        self.election_elapsed += 1;
        if self.election_elapsed >= self.config.election_ticks {
            self.election_elapsed = 0;
            self.check_quorum();
        }
    }

    /// Appends an entry at the leader. It is committed when it comes out of `ready`, unless the
    /// leader changes before.
    pub fn propose(&mut self, data: Bytes) -> Result<LogIndex, ProposeError> {
        self.check_can_propose(data.len())?;
        Ok(self.append_entry(EntryKind::Normal, data))
    }

    /// All committed entries up to `index` are applied.
    pub fn applied(&mut self, index: LogIndex) {
        if let Some(open) = self.open_conf_change {
            assert!(
                index < open,
                "the configuration change at {open} was neither applied nor skipped"
            );
        }
        self.log.apply_to(index);
        self.after_applying();
    }

    fn after_applying(&mut self) {
        self.maybe_leave_joint();
        self.campaign_if_wanted();
    }

    /// Drops entries up to `index` from memory, as far as they are applied and durable, and as far
    /// as no follower needs them next after the snapshot it is being sent (until the log exceeds
    /// `log_bytes_max`). Returns the index up to which the disk may forget them as well, once the
    /// state is durable there.
    pub fn compact(&mut self, index: LogIndex) -> LogIndex {
        let mut index = index;
        if self.log.bytes() <= self.config.log_bytes_max {
            index = self
                .progress
                .iter()
                .filter_map(Progress::pending_snapshot)
                .fold(index, LogIndex::min);
        }
        self.log.compact(index);
        self.log.start().index.min(self.log.persisted())
    }

    pub fn id(&self) -> NodeId {
        self.config.id
    }

    pub fn term(&self) -> Term {
        self.term
    }

    pub fn role(&self) -> Role {
        self.role
    }

    pub fn is_leader(&self) -> bool {
        self.role == Role::Leader
    }

    pub fn leader(&self) -> Option<NodeId> {
        self.leader
    }

    pub fn commit_index(&self) -> LogIndex {
        self.log.commit()
    }

    pub fn applied_index(&self) -> LogIndex {
        self.log.applied()
    }

    /// Entries up to here are compacted.
    pub fn start_index(&self) -> LogIndex {
        self.log.start().index
    }

    pub fn last_index(&self) -> LogIndex {
        self.log.last().index
    }

    /// Entries up to here are durable on this member.
    pub fn persisted_index(&self) -> LogIndex {
        self.log.persisted()
    }

    /// The configuration in effect here.
    pub fn configuration(&self) -> &Configuration {
        &self.configuration
    }

    /// The term of the entry at `index`; `None` when it is compacted or not there.
    pub fn term_at(&self, index: LogIndex) -> Option<Term> {
        self.log.term(index)
    }

    /// Bytes of entries in memory; see `compact`.
    pub fn log_bytes(&self) -> usize {
        self.log.bytes()
    }

    fn send(&mut self, to: NodeId, body: Body) {
        self.messages.push(Message { from: self.config.id, to, term: self.term, body });
    }

    fn mark(&mut self, mark: Mark) {
        self.marks.count(mark);
    }

    fn progress_of(&mut self, id: NodeId) -> Option<&mut Progress> {
        self.progress.iter_mut().find(|progress| progress.id == id)
    }
}
