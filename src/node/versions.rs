//! What the members speak with each other, kept by the leader as etcd's keeps it: a downgrade that was
//! enabled, or cancelled, changes it with the leader's next look, some seconds later, and only while
//! every member is heard from. All members of ringd are of one version; members of another one, for
//! which etcd waits in order to end a downgrade by itself, do not exist.

use prost::Message;

use super::Node;
use super::limits::VERSION_CHECK_MS;
use crate::apply::envelope::Kind;
use crate::proto::membershippb::ClusterVersionSetRequest;
use crate::raft::{NodeId, Term};
use crate::version::CLUSTER_VERSION;

#[derive(Default)]
pub(super) struct VersionCheck {
    next_ms: u64,
    /// The last term in which this member has looked.
    term: Term,
}

impl Node {
    pub(super) fn check_versions(&mut self) {
        let term = self.raft.term();
        let is_due = self.version_check.next_ms <= self.now_ms || self.version_check.term != term;
        if !is_due || !self.raft.is_leader() || !self.is_caught_up() {
            return;
        }
        self.version_check = VersionCheck { next_ms: self.now_ms + VERSION_CHECK_MS, term };
        let applier = &self.applier;
        let wanted = applier.downgrade.as_deref().unwrap_or(CLUSTER_VERSION);
        let all_heard = applier.cluster.members().all(|member| self.is_heard(NodeId(member.id)));
        if applier.cluster_version == wanted || !all_heard {
            return;
        }
        let request = ClusterVersionSetRequest { ver: wanted.to_owned() };
        tracing::info!(
            from = applier.cluster_version,
            to = wanted,
            "updating cluster version using v3 API"
        );
        // If it is refused, the next look finds it again.
        let _ = self.propose(Kind::ClusterVersion, &request.encode_to_vec());
    }
}
