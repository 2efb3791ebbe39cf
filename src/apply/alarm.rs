//! The alarms of the cluster: which member raised which, kept in memory and in the store.

use crate::mvcc::MvccError;
use crate::proto::etcdserverpb::{AlarmMember, AlarmResponse, AlarmType};
use crate::store::{Corruption, Store};

use super::state::META;

pub(super) const PREFIX: &[u8] = b"alarm/";

#[derive(Default)]
pub struct Alarms {
    /// In the order of member id and alarm.
    raised: Vec<AlarmMember>,
}

fn record_key(member_id: u64, alarm: i32) -> Vec<u8> {
    [PREFIX, &member_id.to_be_bytes(), &alarm.to_be_bytes()].concat()
}

/// Reads what stands behind the prefix of a record's key.
pub(super) fn decode(key: &[u8]) -> Result<AlarmMember, MvccError> {
    let damaged = || MvccError::damaged("an alarm record");
    let (member, alarm) = key.split_first_chunk::<8>().ok_or_else(damaged)?;
    Ok(AlarmMember {
        member_id: u64::from_be_bytes(*member),
        alarm: i32::from_be_bytes(alarm.try_into().map_err(|_| damaged())?),
    })
}

impl Alarms {
    pub fn load(store: &Store) -> Result<Alarms, MvccError> {
        let mut raised = Vec::new();
        let mut cursor = store.view().cursor(META);
        let mut more = cursor.seek(PREFIX)?;
        while more && let Some(key) = cursor.key().strip_prefix(PREFIX) {
            raised.push(decode(key)?);
            more = cursor.next()?;
        }
        Ok(Alarms { raised })
    }

    pub fn all(&self) -> &[AlarmMember] {
        &self.raised
    }

    pub fn active(&self, alarm: AlarmType) -> bool {
        self.raised.iter().any(|raised| raised.alarm == alarm as i32)
    }

    pub fn raised_by(&self, member_id: u64, alarm: AlarmType) -> bool {
        self.raised
            .iter()
            .any(|raised| raised.member_id == member_id && raised.alarm == alarm as i32)
    }

    /// The alarms of one kind; all of them for `NONE`.
    pub fn get(&self, alarm: i32) -> AlarmResponse {
        let wanted =
            |raised: &&AlarmMember| alarm == AlarmType::None as i32 || raised.alarm == alarm;
        let alarms = self.raised.iter().filter(wanted).copied().collect();
        AlarmResponse { header: None, alarms }
    }

    /// Raising an alarm that is raised already answers with it, as etcd does.
    pub fn activate(
        &mut self,
        store: &mut Store,
        member_id: u64,
        alarm: i32,
    ) -> Result<AlarmResponse, Corruption> {
        if alarm == AlarmType::None as i32 {
            return Ok(AlarmResponse::default());
        }
        let member = AlarmMember { member_id, alarm };
        if !self.raised.contains(&member) {
            store.put(META, &record_key(member_id, alarm), b"", false)?;
            self.raised.push(member);
            self.raised.sort_by_key(|raised| (raised.member_id, raised.alarm));
        }
        Ok(AlarmResponse { header: None, alarms: vec![member] })
    }

    pub fn deactivate(
        &mut self,
        store: &mut Store,
        member_id: u64,
        alarm: i32,
    ) -> Result<AlarmResponse, Corruption> {
        let member = AlarmMember { member_id, alarm };
        let Some(at) = self.raised.iter().position(|raised| *raised == member) else {
            return Ok(AlarmResponse::default());
        };
        store.delete(META, &record_key(member_id, alarm))?;
        self.raised.remove(at);
        Ok(AlarmResponse { header: None, alarms: vec![member] })
    }
}
