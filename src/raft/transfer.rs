//! Leadership transfer (thesis, section 3.10): stop taking proposals, bring the target up to date,
//! tell it to campaign. If no other leader appears within an election timeout, everything goes on
//! as before.

use super::Raft;
use super::error::TransferError;
use super::message::Body;
use super::status::Mark;
use super::types::{NodeId, Role};

pub(super) struct Transfer {
    pub(super) to: NodeId,
    ticks: u32,
}

impl Raft {
    /// Hands leadership to the voter `to`. To name the leader itself gives up a transfer under way.
    pub fn transfer_leadership(&mut self, to: NodeId) -> Result<(), TransferError> {
        if self.role != Role::Leader {
            return Err(TransferError::NotLeader);
        }
        if to == self.config.id {
            self.transfer = None;
            return Ok(());
        }
        if !self.configuration.is_voter(to) {
            return Err(TransferError::NotVoter { to });
        }
        if self.transfer.as_ref().is_some_and(|transfer| transfer.to == to) {
            return Ok(());
        }
        self.transfer = Some(Transfer { to, ticks: 0 });
        self.maybe_finish_transfer(to);
        Ok(())
    }

    /// To whom leadership is being handed.
    pub fn transfer_target(&self) -> Option<NodeId> {
        self.transfer.as_ref().map(|transfer| transfer.to)
    }

    pub(super) fn maybe_finish_transfer(&mut self, up_to_date: NodeId) {
        let last = self.log.last().index;
        if self.transfer_target() == Some(up_to_date)
            && self.progress_of(up_to_date).is_some_and(|progress| progress.matched == last)
        {
            self.send(up_to_date, Body::TimeoutNow);
        }
    }

    pub(super) fn tick_transfer(&mut self) {
        let Some(transfer) = &mut self.transfer else { return };
        transfer.ticks += 1;
        if transfer.ticks >= self.config.election_ticks {
            self.transfer = None;
            self.mark(Mark::TransferAborted);
        }
    }

    pub(super) fn handle_timeout_now(&mut self, from: NodeId) {
        if self.leader == Some(from) && self.role == Role::Follower {
            self.campaign_for_transfer();
        }
    }
}
