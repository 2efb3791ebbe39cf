//! One committed entry in, one outcome out.
//!
//! The applier owns the replicated state: the store with its revisions, the leases, the alarms and
//! the membership. An entry's data is etcd's `InternalRaftRequest`. Applying is deterministic: the
//! same entries in the same order give the same state on every member; the only inputs beside the
//! entry are the time (for the local deadlines of leases, which are not part of the state) and the
//! alarms, which are.
//!
//! Invariant: the applied index and term are written in the same store transaction as the changes
//! of the entries up to it (`commit`). Nothing here knows Raft, the log or the network.

mod alarm;
mod auth;
pub mod envelope;
pub mod export;
mod members;
mod state;

use prost::Message;

pub use alarm::Alarms;
pub use state::{adopt, identity};

use std::cell::Cell;

use crate::auth::{Auth, AuthError, Identity};
use crate::lease::{LeaseId, Lessor, TTL_MAX_S};
use crate::membership::{ChangeError, Cluster};
use crate::mutants::{self, Mutant};
use crate::mvcc::{HashKv, Interval, Mvcc, MvccError};
use crate::proto::etcdserverpb::{
    AlarmRequest, AlarmType, CompactionRequest, LeaseGrantRequest, LeaseGrantResponse,
    LeaseRevokeRequest, PutRequest, TxnRequest, alarm_request::AlarmAction, request_op,
};
use crate::proto::leasepb;
use crate::proto::membershippb::ClusterMemberAttrSetRequest;
use crate::store::{Corruption, Store};
use crate::version::CLUSTER_VERSION;
use envelope::{Request, Unwrapped};

/// Where the log of a new cluster begins.
pub const FOUNDING_INDEX: u64 = 1;
const FOUNDING_TERM: u64 = 1;

/// What the proposer of an entry is told.
#[derive(Debug)]
pub struct Reply {
    /// For the header of the answer.
    pub revision: i64,
    /// The fields of the answer behind its header, encoded.
    pub body: Vec<u8>,
}

/// Why an entry changed nothing.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    #[error(transparent)]
    Mvcc(#[from] MvccError),
    #[error("requested lease not found")]
    LeaseNotFound,
    #[error("lease already exists")]
    LeaseExists,
    #[error("too large lease TTL")]
    LeaseTtlTooLarge,
    #[error("mvcc: database space exceeded")]
    NoSpace,
    #[error("corrupt cluster")]
    Corrupt,
    #[error(transparent)]
    Change(#[from] ChangeError),
    #[error(transparent)]
    Auth(#[from] AuthError),
}

/// The outcome of one entry. `id` is the proposer's, 0 for an entry that nobody waits for.
#[derive(Debug)]
pub struct Outcome {
    pub id: u64,
    pub result: Result<Reply, ApplyError>,
}

/// What an applied entry changed beside keys, for whoever keeps waiters.
#[derive(Debug, PartialEq, Eq)]
pub enum Notice {
    LeaseGranted {
        ttl_s: i64,
    },
    LeaseRevoked(LeaseId),
    AlarmsChanged,
    /// Members have come or gone, or are reached elsewhere.
    MembersChanged,
    /// What the members speak with each other, as a downgrade or its end has it.
    ClusterVersionChanged {
        from: String,
    },
    /// All state is another member's now: much may have happened at once.
    StateReplaced,
}

#[derive(Clone, Debug)]
pub struct Options {
    /// The least time to live that a lease is given, in seconds (etcd: a function of the election timeout).
    pub lease_ttl_min_s: i64,
    /// A new store is that of a member which joins a cluster that is there already: it begins with
    /// nothing and gets the state from the others. The members it is given are hints where to find
    /// them. Without effect on a store that has an identity.
    pub joins: bool,
}

/// All users and roles, as a hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UsersValue {
    /// The auth revision, which each change of a user or a role raises.
    pub revision: u64,
    pub hash: u32,
}

/// What was applied since the start, for metrics.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    pub txns: u64,
    pub leases_granted: u64,
    pub leases_revoked: u64,
}

pub struct Applier {
    pub store: Store,
    pub mvcc: Mvcc,
    pub lessor: Lessor,
    pub alarms: Alarms,
    pub cluster: Cluster,
    pub auth: Auth,
    /// The version that the cluster is on its way down to.
    pub downgrade: Option<String>,
    /// What the members have agreed to speak.
    pub cluster_version: String,
    pub notices: Vec<Notice>,
    pub counts: Counts,
    /// Keys of leases that a permission was looked up for.
    pub lease_keys_checked: Cell<u64>,
    options: Options,
    applied_index: u64,
    applied_term: u64,
}

impl Applier {
    /// Takes up the state that the store holds. Leases start anew with their full time to live.
    ///
    /// `cluster` and `member_id` are what `identity` says, or in a new store those of a new member.
    pub fn open(
        mut store: Store,
        cluster: Cluster,
        member_id: u64,
        options: Options,
        now_ms: u64,
    ) -> Result<Applier, MvccError> {
        let mvcc = Mvcc::open(&store)?;
        let mut lessor = Lessor::new(now_ms);
        state::leases(&store, &mut |id, ttl_s| lessor.grant(LeaseId(id), ttl_s, now_ms))?;
        let alarms = Alarms::load(&store)?;
        let auth = auth::load(&store)?;
        let downgrade = state::downgrade(&store)?;
        let cluster_version = state::cluster_version(&store)?;
        let cluster_version = cluster_version.unwrap_or_else(|| CLUSTER_VERSION.to_owned());
        if state::identity(&store)?.is_none() {
            state::set_identity(&mut store, &cluster, member_id)?;
            // The founding members are a first entry that no log holds.
            let (index, term) =
                if options.joins { (0, 0) } else { (FOUNDING_INDEX, FOUNDING_TERM) };
            state::set_applied(&mut store, index, term)?;
            store.commit(index);
        }
        let (applied_index, applied_term) = state::applied(&store)?;
        Ok(Applier {
            store,
            mvcc,
            lessor,
            alarms,
            cluster,
            auth,
            downgrade,
            cluster_version,
            notices: Vec::new(),
            counts: Counts::default(),
            lease_keys_checked: Cell::new(0),
            options,
            applied_index,
            applied_term,
        })
    }

    pub fn applied_index(&self) -> u64 {
        self.applied_index
    }

    pub fn options(&self) -> &Options {
        &self.options
    }

    pub fn applied_term(&self) -> u64 {
        self.applied_term
    }

    /// Applies one entry. `Err` means that the store is damaged: the member must stop.
    pub fn apply(
        &mut self,
        index: u64,
        term: u64,
        data: &bytes::Bytes,
        now_ms: u64,
    ) -> Result<Outcome, Corruption> {
        self.advance(index, term);
        if data.is_empty() {
            // The entry by which a new leader learns what is committed.
            return Ok(Outcome { id: 0, result: Ok(self.reply(Vec::new())) });
        }
        // A request that does not decode never becomes an entry, and the log's checksums hold.
        let Unwrapped { id, who, request } =
            envelope::unwrap(data.clone()).expect("an entry was decoded before it was proposed");
        match self.dispatch(&who, &request, now_ms) {
            Err(ApplyError::Mvcc(MvccError::Corruption(corruption))) => Err(corruption),
            result => Ok(Outcome { id, result }),
        }
    }

    fn advance(&mut self, index: u64, term: u64) {
        assert_eq!(index, self.applied_index + 1, "entries are applied one by one, in their order");
        self.applied_index = index;
        self.applied_term = term;
    }

    /// Ends the store transaction: everything applied so far becomes one state with its index.
    pub fn commit(&mut self) -> Result<(), Corruption> {
        if !mutants::is_on(Mutant::IndexInItsOwnCommit) || self.applied_index.is_multiple_of(2) {
            state::set_applied(&mut self.store, self.applied_index, self.applied_term)?;
        }
        self.store.commit(self.applied_index);
        Ok(())
    }

    /// The number of keys at the current revision.
    pub fn key_count(&self) -> Result<u64, MvccError> {
        self.mvcc.reader(self.store.view()).count(Interval::new(b"\0", b"\0"), 0)
    }

    /// A hash of all that members must agree on at the same applied index. Reads the whole state;
    /// for the tests of several members. How far a compaction has come is left out: each removes
    /// what was given up in its own time.
    pub fn digest(&self) -> Result<u64, MvccError> {
        let view = self.store.view();
        let reader = self.mvcc.reader(view);
        let mut history = HashKv::begin(&reader, 0)?;
        let value = loop {
            if let Some(value) = history.step(&reader, usize::MAX)? {
                break value;
            }
        };
        let mut state = crc32c::crc32c(&self.cluster.id.to_be_bytes());
        for tree in [state::META, state::LEASE] {
            let mut cursor = view.cursor(tree);
            let mut found = cursor.first()?;
            while found {
                if state::is_replicated(tree, cursor.key()) {
                    state = crc32c::crc32c_append(state, cursor.key());
                    state = crc32c::crc32c_append(state, cursor.value()?);
                }
                found = cursor.next()?;
            }
        }
        let bounds = value.hash_revision.to_be_bytes();
        state = crc32c::crc32c_append(state, &bounds);
        state = crc32c::crc32c_append(state, &value.compact_revision.to_be_bytes());
        Ok(u64::from(value.hash) << 32 | u64::from(state))
    }

    /// What members of one auth revision must agree on.
    pub fn users(&self) -> Result<UsersValue, Corruption> {
        let hash = state::hash_of_users(self.store.view())?;
        Ok(UsersValue { revision: self.auth.revision(), hash })
    }

    /// Bytes that the store takes: its file, or what the next checkpoint makes of it.
    pub fn size_bytes(&self) -> u64 {
        self.store.file_len().max(self.store.extent_bytes())
    }

    /// One slice of removing what compactions gave up.
    pub fn compact_step(&mut self, budget: usize) -> Result<(), Corruption> {
        let step = self.mvcc.compact_step(&mut self.store, budget);
        step.map(drop).map_err(MvccError::into_corruption)
    }

    fn dispatch(
        &mut self,
        who: &Identity,
        request: &Request,
        now_ms: u64,
    ) -> Result<Reply, ApplyError> {
        self.admit(request)?;
        if self.auth.is_enabled() {
            self.authorize(who, request)?;
        }
        match request {
            Request::Put(request) => self.put(request),
            Request::Txn(request) => self.txn(request),
            Request::DeleteRange(request) => {
                let reply = self.mvcc.delete_range(&mut self.store, request)?;
                Ok(Reply { revision: reply.revision, body: reply.body })
            }
            Request::Compaction(request) => self.compact(request),
            Request::LeaseGrant(request) => self.lease_grant(request, now_ms),
            Request::LeaseRevoke(request) => self.lease_revoke(request),
            Request::Alarm(request) => self.alarm(request),
            Request::MemberAttributes(request) => self.set_member_attributes(request),
            Request::Auth(request) => self.apply_auth(request, now_ms),
            Request::Downgrade(request) => {
                self.downgrade = request.enabled.then(|| request.ver.clone());
                state::set_downgrade(&mut self.store, self.downgrade.as_deref())
                    .map_err(MvccError::from)?;
                Ok(self.reply(Vec::new()))
            }
            Request::ClusterVersion(request) => self.set_cluster_version(&request.ver),
            Request::Other => Ok(self.reply(Vec::new())),
        }
    }

    /// What the alarms forbid.
    fn admit(&self, request: &Request) -> Result<(), ApplyError> {
        let writes = !matches!(
            request,
            Request::Alarm(_)
                | Request::MemberAttributes(_)
                | Request::Downgrade(_)
                | Request::ClusterVersion(_)
                | Request::Auth(_)
                | Request::Other
        );
        if writes && self.alarms.active(AlarmType::Corrupt) {
            return Err(ApplyError::Corrupt);
        }
        let grows = match request {
            Request::Put(_) | Request::LeaseGrant(_) => true,
            Request::Txn(request) => puts(request),
            _ => false,
        };
        if grows && self.alarms.active(AlarmType::Nospace) {
            return Err(ApplyError::NoSpace);
        }
        Ok(())
    }

    fn set_cluster_version(&mut self, to: &str) -> Result<Reply, ApplyError> {
        if to != self.cluster_version {
            state::set_cluster_version(&mut self.store, to).map_err(MvccError::from)?;
            let from = std::mem::replace(&mut self.cluster_version, to.to_owned());
            self.notices.push(Notice::ClusterVersionChanged { from });
        }
        Ok(self.reply(Vec::new()))
    }

    fn reply(&self, body: Vec<u8>) -> Reply {
        Reply { revision: self.mvcc.current_revision(), body }
    }

    fn put(&mut self, request: &PutRequest) -> Result<Reply, ApplyError> {
        if request.lease != 0 && !self.lessor.contains(LeaseId(request.lease)) {
            return Err(ApplyError::LeaseNotFound);
        }
        let reply = self.mvcc.put(&mut self.store, request)?;
        Ok(Reply { revision: reply.revision, body: reply.body })
    }

    fn txn(&mut self, request: &TxnRequest) -> Result<Reply, ApplyError> {
        self.counts.txns += 1;
        let lessor = &self.lessor;
        let lease_exists = |id| lessor.contains(LeaseId(id));
        let reply = self.mvcc.txn(&mut self.store, request, &lease_exists)?;
        Ok(Reply { revision: reply.revision, body: reply.body })
    }

    fn compact(&mut self, request: &CompactionRequest) -> Result<Reply, ApplyError> {
        self.mvcc.compact(&mut self.store, request.revision)?;
        Ok(self.reply(Vec::new()))
    }

    fn lease_grant(
        &mut self,
        request: &LeaseGrantRequest,
        now_ms: u64,
    ) -> Result<Reply, ApplyError> {
        if request.id == 0 {
            return Err(ApplyError::LeaseNotFound);
        }
        if request.ttl > TTL_MAX_S {
            return Err(ApplyError::LeaseTtlTooLarge);
        }
        if self.lessor.contains(LeaseId(request.id)) {
            return Err(ApplyError::LeaseExists);
        }
        let ttl = request.ttl.max(self.options.lease_ttl_min_s);
        let record = leasepb::Lease { id: request.id, ttl, remaining_ttl: 0 };
        state::put_lease(&mut self.store, &record).map_err(MvccError::from)?;
        self.lessor.grant(LeaseId(request.id), ttl, now_ms);
        self.counts.leases_granted += 1;
        self.notices.push(Notice::LeaseGranted { ttl_s: ttl });
        let response =
            LeaseGrantResponse { header: None, id: request.id, ttl, error: String::new() };
        Ok(self.reply(response.encode_to_vec()))
    }

    fn lease_revoke(&mut self, request: &LeaseRevokeRequest) -> Result<Reply, ApplyError> {
        let id = LeaseId(request.id);
        if !self.lessor.contains(id) {
            return Err(ApplyError::LeaseNotFound);
        }
        self.mvcc.delete_lease_keys(&mut self.store, request.id)?;
        state::delete_lease(&mut self.store, request.id).map_err(MvccError::from)?;
        self.lessor.revoke(id);
        self.counts.leases_revoked += 1;
        self.notices.push(Notice::LeaseRevoked(id));
        Ok(self.reply(Vec::new()))
    }

    /// A member tells its name and where clients find it.
    fn set_member_attributes(
        &mut self,
        request: &ClusterMemberAttrSetRequest,
    ) -> Result<Reply, ApplyError> {
        if let (Some(member), Some(attributes)) =
            (self.cluster.member_mut(request.member_id), &request.member_attributes)
        {
            member.name.clone_from(&attributes.name);
            member.client_urls.clone_from(&attributes.client_urls);
            state::put_member(&mut self.store, member).map_err(MvccError::from)?;
        }
        Ok(self.reply(Vec::new()))
    }

    fn alarm(&mut self, request: &AlarmRequest) -> Result<Reply, ApplyError> {
        let action = AlarmAction::try_from(request.action).unwrap_or(AlarmAction::Get);
        let response = match action {
            AlarmAction::Get => Ok(self.alarms.get(request.alarm)),
            AlarmAction::Activate => {
                self.alarms.activate(&mut self.store, request.member_id, request.alarm)
            }
            AlarmAction::Deactivate => {
                self.alarms.deactivate(&mut self.store, request.member_id, request.alarm)
            }
        }
        .map_err(MvccError::from)?;
        if action != AlarmAction::Get {
            self.notices.push(Notice::AlarmsChanged);
        }
        Ok(self.reply(response.encode_to_vec()))
    }
}

/// Whether a transaction may add a key in one of its branches.
fn puts(request: &TxnRequest) -> bool {
    request.success.iter().chain(&request.failure).any(|op| match &op.request {
        Some(request_op::Request::RequestPut(_)) => true,
        Some(request_op::Request::RequestTxn(nested)) => puts(nested),
        _ => false,
    })
}
