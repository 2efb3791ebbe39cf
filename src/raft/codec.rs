//! The byte form of what this module puts into entries and what its caller keeps of it:
//! configuration changes and configurations. Entries with them are on disks and on the wire, so the
//! first byte is a version.
//!
//! ```text
//! ConfChange     version 1 | transition u8 | steps u8 | steps x (kind u8, id u64 LE) |
//!                context: the rest
//! Configuration  version 1 | auto_leave u8 |
//!                4 x (count u8, count x id u64 LE): voters, outgoing, learners, learners_next
//! ```

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::configuration::{
    ChangeStep, ConfChange, Configuration, MEMBERS_MAX, NodeSet, Transition,
};
use super::error::ConfChangeError;
use super::types::NodeId;

const VERSION: u8 = 1;

impl ConfChange {
    pub fn encode(&self) -> Bytes {
        let steps = u8::try_from(self.steps.len()).expect("fewer steps than members");
        let mut out = BytesMut::with_capacity(3 + 9 * self.steps.len() + self.context.len());
        out.put_u8(VERSION);
        out.put_u8(match self.transition {
            Transition::Auto => 0,
            Transition::JointImplicit => 1,
            Transition::JointExplicit => 2,
        });
        out.put_u8(steps);
        for step in &self.steps {
            out.put_u8(match step {
                ChangeStep::AddVoter(_) => 0,
                ChangeStep::AddLearner(_) => 1,
                ChangeStep::Remove(_) => 2,
            });
            out.put_u64_le(step.id().0);
        }
        out.put_slice(&self.context);
        out.freeze()
    }

    pub fn decode(data: &Bytes) -> Result<ConfChange, ConfChangeError> {
        decode_change(data.clone()).ok_or(ConfChangeError::Damaged)
    }
}

fn decode_change(mut data: Bytes) -> Option<ConfChange> {
    if data.try_get_u8().ok()? != VERSION {
        return None;
    }
    let transition = match data.try_get_u8().ok()? {
        0 => Transition::Auto,
        1 => Transition::JointImplicit,
        2 => Transition::JointExplicit,
        _ => return None,
    };
    let steps = (0..data.try_get_u8().ok()?)
        .map(|_| {
            let kind = data.try_get_u8().ok()?;
            let id = NodeId(data.try_get_u64_le().ok()?);
            match kind {
                0 => Some(ChangeStep::AddVoter(id)),
                1 => Some(ChangeStep::AddLearner(id)),
                2 => Some(ChangeStep::Remove(id)),
                _ => None,
            }
        })
        .collect::<Option<_>>()?;
    Some(ConfChange { steps, transition, context: data })
}

impl Configuration {
    pub fn encode(&self) -> Bytes {
        let sets = [&self.voters, &self.outgoing, &self.learners, &self.learners_next];
        let ids: usize = sets.iter().map(|set| set.len()).sum();
        let mut out = BytesMut::with_capacity(2 + sets.len() + 8 * ids);
        out.put_u8(VERSION);
        out.put_u8(self.auto_leave.into());
        for set in sets {
            out.put_u8(u8::try_from(set.len()).expect("no more members than MEMBERS_MAX"));
            for id in set.iter() {
                out.put_u64_le(id.0);
            }
        }
        out.freeze()
    }

    pub fn decode(data: &[u8]) -> Result<Configuration, ConfChangeError> {
        decode_configuration(data).ok_or(ConfChangeError::Damaged)
    }
}

fn decode_configuration(mut data: &[u8]) -> Option<Configuration> {
    if data.try_get_u8().ok()? != VERSION {
        return None;
    }
    let auto_leave = match data.try_get_u8().ok()? {
        0 => false,
        1 => true,
        _ => return None,
    };
    let mut set = || -> Option<NodeSet> {
        let count = usize::from(data.try_get_u8().ok()?);
        if count > MEMBERS_MAX {
            return None;
        }
        let set = (0..count)
            .map(|_| data.try_get_u64_le().ok().map(NodeId))
            .collect::<Option<NodeSet>>()?;
        (set.len() == count).then_some(set)
    };
    let (voters, outgoing, learners, learners_next) = (set()?, set()?, set()?, set()?);
    let decoded = Configuration { voters, outgoing, learners, learners_next, auto_leave };
    (data.is_empty() && decoded.complaint().is_none()).then_some(decoded)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change() -> ConfChange {
        ConfChange {
            steps: [
                ChangeStep::AddVoter(NodeId(1)),
                ChangeStep::AddLearner(NodeId(2)),
                ChangeStep::Remove(NodeId(u64::MAX)),
            ]
            .into_iter()
            .collect(),
            transition: Transition::JointExplicit,
            context: Bytes::from_static(b"of the application"),
        }
    }

    fn configuration() -> Configuration {
        Configuration::of_voters([1, 2, 3].map(NodeId))
            .changed(&ConfChange {
                steps: [
                    ChangeStep::AddLearner(NodeId(1)),
                    ChangeStep::Remove(NodeId(2)),
                    ChangeStep::AddLearner(NodeId(9)),
                ]
                .into_iter()
                .collect(),
                ..ConfChange::default()
            })
            .unwrap()
    }

    #[test]
    fn what_is_encoded_is_decoded_again() {
        for change in [change(), ConfChange::leave(), ConfChange::of(ChangeStep::Remove(NodeId(3)))]
        {
            assert_eq!(ConfChange::decode(&change.encode()), Ok(change));
        }
        for configuration in [configuration(), Configuration::default()] {
            assert_eq!(Configuration::decode(&configuration.encode()), Ok(configuration));
        }
    }

    #[test]
    fn the_bytes_are_those_of_the_drawing() {
        let change = ConfChange::of(ChangeStep::AddLearner(NodeId(0x0102)));
        assert_eq!(&change.encode()[..], [1, 0, 1, 1, 2, 1, 0, 0, 0, 0, 0, 0]);
        let configuration = Configuration::of_voters([NodeId(5)]);
        assert_eq!(&configuration.encode()[..], [1, 0, 1, 5, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    }

    #[test]
    fn a_cut_or_changed_byte_never_panics_and_a_cut_is_noticed() {
        let bytes = configuration().encode();
        for cut in 0..bytes.len() {
            assert_eq!(Configuration::decode(&bytes[..cut]), Err(ConfChangeError::Damaged));
        }
        let head = change().encode().len() - change().context.len();
        for cut in 0..head {
            let cut = change().encode().slice(..cut);
            assert_eq!(ConfChange::decode(&cut), Err(ConfChangeError::Damaged));
        }
        for (place, bit) in (0..bytes.len()).flat_map(|place| (0..8).map(move |bit| (place, bit))) {
            let mut damaged = bytes.to_vec();
            damaged[place] ^= 1 << bit;
            if let Ok(decoded) = Configuration::decode(&damaged) {
                assert_eq!(decoded.complaint(), None);
            }
            let mut damaged = change().encode().to_vec();
            if let Some(byte) = damaged.get_mut(place) {
                *byte ^= 1 << bit;
            }
            let _ = ConfChange::decode(&damaged.into());
        }
    }
}
