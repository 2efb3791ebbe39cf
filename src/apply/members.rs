//! Changes of the members: entries that Raft understands as well. What it makes of them, the
//! configuration, is written in the same transaction as the members and the applied index, so that
//! a start finds one truth.

use super::{Applier, ApplyError, Notice, Outcome, state};
use crate::membership::{ChangeError, ProposedChange};
use crate::mvcc::MvccError;
use crate::store::Corruption;

impl Applier {
    /// The configuration in effect, as Raft encodes it; none before the first change.
    pub fn configuration(&self) -> Result<Option<&[u8]>, MvccError> {
        Ok(state::configuration(&self.store)?)
    }

    /// Applies a change that was found possible by the members (`Cluster::check`) and by Raft,
    /// whose configuration after it is `configuration`.
    pub fn apply_change(
        &mut self,
        index: u64,
        term: u64,
        proposed: &ProposedChange,
        configuration: &[u8],
    ) -> Result<Outcome, Corruption> {
        self.advance(index, term);
        let before: Vec<u64> = self.cluster.removed().collect();
        if let Some(member) = self.cluster.change(&proposed.change) {
            state::put_member(&mut self.store, member)?;
        }
        for id in self.cluster.removed().filter(|id| !before.contains(id)) {
            state::remove_member(&mut self.store, id)?;
        }
        state::set_configuration(&mut self.store, configuration)?;
        self.notices.push(Notice::MembersChanged);
        Ok(Outcome { id: proposed.proposal, result: Ok(self.reply(Vec::new())) })
    }

    /// Applies an entry that changes the configuration only: the end of a joint one.
    pub fn apply_configuration(
        &mut self,
        index: u64,
        term: u64,
        configuration: &[u8],
    ) -> Result<Outcome, Corruption> {
        self.advance(index, term);
        state::set_configuration(&mut self.store, configuration)?;
        Ok(Outcome { id: 0, result: Ok(self.reply(Vec::new())) })
    }

    /// Takes note of a change that is not possible.
    pub fn refuse_change(
        &mut self,
        index: u64,
        term: u64,
        proposal: u64,
        error: ChangeError,
    ) -> Outcome {
        self.advance(index, term);
        Outcome { id: proposal, result: Err(ApplyError::Change(error)) }
    }
}
