//! Linearizability of what clients saw. Every answer names the state that it speaks of, by the
//! index up to which the answering member had applied the log; the model says what the answer has
//! to be there, and real time says between which indexes it has to lie: not before any state that
//! somebody had seen when the request was sent, and not after what is committed by now. Requests
//! without an answer may have been carried out, once, or not.
//!
//! That is all of it, transactions over many keys included: the indexes are one order of all
//! operations, in which each has the effect and the answer that it has when alone.

use std::collections::HashMap;

use prost::Message;
use ringd::proto::etcdserverpb::{
    DeleteRangeResponse, LeaseGrantResponse, PutResponse, RangeRequest, RangeResponse, TxnRequest,
    TxnResponse,
};

use crate::model::Refused;
use crate::truth::{Answer, Check, Truth};

/// Names a request of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OpId(pub u64);

#[derive(Clone, Debug)]
pub enum Read {
    Range(RangeRequest),
    Txn(TxnRequest),
}

/// What a client is told of a request.
#[derive(Clone, Debug)]
pub enum Told {
    /// The outcome of proposal `id`, from a member that had applied the log up to `index`.
    Applied { id: u64, index: u64, result: Result<(i64, Vec<u8>), Refused> },
    /// What a member read, with the message it answers with.
    Read { index: u64, result: Result<(i64, Vec<u8>), Refused> },
}

struct Pending {
    /// The greatest index that anybody had seen when this was sent.
    floor: u64,
    read: Option<(Read, bool)>,
}

#[derive(Default)]
pub struct History {
    /// The greatest index that an answer spoke of.
    floor: u64,
    pending: HashMap<OpId, Pending>,
    pub writes: u64,
    pub reads: u64,
    pub refused: u64,
    pub unknown: u64,
}

impl History {
    pub fn wrote(&mut self, op: OpId) {
        self.pending.insert(op, Pending { floor: self.floor, read: None });
    }

    pub fn asked(&mut self, op: OpId, read: Read, serializable: bool) {
        self.pending.insert(op, Pending { floor: self.floor, read: Some((read, serializable)) });
    }

    /// The client does not know and will not learn what has become of it.
    pub fn gave_up(&mut self, op: OpId) {
        self.unknown += u64::from(self.pending.remove(&op).is_some());
    }

    /// The server says that it has done nothing, and will not.
    pub fn refused(&mut self, op: OpId) {
        self.pending.remove(&op);
    }

    pub fn told(&mut self, op: OpId, told: &Told, truth: &Truth) -> Check {
        let Some(Pending { floor, read }) = self.pending.remove(&op) else { return Ok(()) };
        match (told, read) {
            (Told::Applied { id, index, result }, None) => {
                let applied = truth.index_of(*id).ok_or_else(|| {
                    format!("proposal {id:x} was answered, and is not committed: {result:?}")
                })?;
                if applied > *index {
                    return Err(format!(
                        "proposal {id:x} was answered before {applied} was applied"
                    ));
                }
                if applied <= floor {
                    return Err(format!(
                        "not linearizable: proposal {id:x} has index {applied}, but {floor} had been seen when \
                         it was sent"
                    ));
                }
                self.writes += 1;
                self.refused += u64::from(result.is_err());
                self.floor = self.floor.max(applied);
                answers_alike(applied, result, truth)
            }
            (Told::Read { index, result }, Some((read, serializable))) => {
                if *index < floor && !serializable {
                    return Err(format!(
                        "not linearizable: a read of the state at {index}, but {floor} had been seen when it was \
                         sent: {read:?} gave {result:?}"
                    ));
                }
                if *index > truth.committed() {
                    return Err(format!("a read of the state at {index}, which is not committed"));
                }
                self.reads += 1;
                self.refused += u64::from(result.is_err());
                if !serializable {
                    self.floor = self.floor.max(*index);
                }
                reads_alike(*index, &read, result, truth)
            }
            (told, read) => Err(format!("{told:?} is no answer to {read:?}")),
        }
    }
}

fn answers_alike(index: u64, got: &Result<(i64, Vec<u8>), Refused>, truth: &Truth) -> Check {
    let applied = truth.applied(index).expect("it has an index");
    let revision = applied.summary.at.current;
    let same = match (got, &applied.result) {
        (Err(got), Err(wanted)) => got == wanted,
        (Ok((got_revision, body)), Ok(wanted)) => {
            let body = &body[..];
            let bodies = match wanted {
                Answer::Put(wanted) => {
                    PutResponse::decode(body).is_ok_and(|got| got == bare_put(wanted))
                }
                Answer::DeleteRange(wanted) => DeleteRangeResponse::decode(body)
                    .is_ok_and(|got| got == DeleteRangeResponse { header: None, ..wanted.clone() }),
                Answer::Txn(wanted) => TxnResponse::decode(body).is_ok_and(|got| got == *wanted),
                Answer::LeaseGrant { id, ttl } => LeaseGrantResponse::decode(body)
                    .is_ok_and(|got| (got.id, got.ttl) == (*id, *ttl)),
                Answer::Nothing => true,
            };
            bodies && *got_revision == revision
        }
        _ => false,
    };
    if same {
        return Ok(());
    }
    Err(format!(
        "the entry at {index} was answered with {}, which should be {:?} at revision {revision}",
        show(got, &applied.result),
        applied.result
    ))
}

fn bare_put(wanted: &PutResponse) -> PutResponse {
    PutResponse { header: None, prev_kv: wanted.prev_kv.clone() }
}

fn show(got: &Result<(i64, Vec<u8>), Refused>, wanted: &Result<Answer, Refused>) -> String {
    match got {
        Ok((revision, body)) => match wanted {
            Ok(Answer::Txn(_)) => {
                format!("{:?} at revision {revision}", TxnResponse::decode(&body[..]))
            }
            Ok(Answer::DeleteRange(_)) => {
                format!("{:?} at revision {revision}", DeleteRangeResponse::decode(&body[..]))
            }
            _ => format!("{:?} at revision {revision}", PutResponse::decode(&body[..])),
        },
        Err(refused) => format!("{refused:?}"),
    }
}

fn reads_alike(
    index: u64,
    read: &Read,
    got: &Result<(i64, Vec<u8>), Refused>,
    truth: &Truth,
) -> Check {
    let at = truth.summary(index).expect("it is committed").at;
    let (wanted, same) = match read {
        Read::Range(request) => {
            let wanted = truth.model.range(request, at);
            let same = match (got, &wanted) {
                (Ok((revision, body)), Ok(wanted)) => {
                    let got = RangeResponse::decode(&body[..]);
                    let wanted = RangeResponse { header: None, ..wanted.clone() };
                    *revision == at.current && got.is_ok_and(|got| got == wanted)
                }
                (Err(got), Err(wanted)) => got == wanted,
                _ => false,
            };
            (format!("{wanted:?}"), same)
        }
        Read::Txn(request) => {
            let wanted = truth.model.read_txn(request, at);
            let same = match (got, &wanted) {
                (Ok((revision, body)), Ok(wanted)) => {
                    let got = TxnResponse::decode(&body[..]);
                    *revision == at.current && got.is_ok_and(|got| got == *wanted)
                }
                (Err(got), Err(wanted)) => got == wanted,
                _ => false,
            };
            (format!("{wanted:?}"), same)
        }
    };
    if same {
        return Ok(());
    }
    let got = match got {
        Ok((revision, body)) => match read {
            Read::Range(_) => {
                format!("{:?} at revision {revision}", RangeResponse::decode(&body[..]))
            }
            Read::Txn(_) => format!("{:?} at revision {revision}", TxnResponse::decode(&body[..])),
        },
        Err(refused) => format!("{refused:?}"),
    };
    Err(format!("{read:?} as of index {index} ({at:?}) gave {got}, which should be {wanted}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::truth::tests::{normal, put};
    use ringd::proto::mvccpb::KeyValue;

    /// `k` is `a` at index 2 and revision 2, and `b` at index 3 and revision 3.
    fn truth() -> Truth {
        let mut truth = Truth::new(1, 2);
        for (index, id, value) in [(2, 1, "a"), (3, 2, "b")] {
            truth.logged(index, 1, normal(put(id, "k", value), 1)).unwrap();
            truth.commit(index, 1).unwrap();
        }
        truth
    }

    fn get(value: &'static str, mod_revision: i64) -> Vec<u8> {
        let kv = KeyValue {
            key: "k".into(),
            value: value.into(),
            create_revision: 2,
            mod_revision,
            version: mod_revision - 1,
            lease: 0,
        };
        RangeResponse { kvs: vec![kv], count: 1, ..Default::default() }.encode_to_vec()
    }

    fn ask(revision: i64) -> Read {
        Read::Range(RangeRequest { key: "k".into(), revision, ..Default::default() })
    }

    fn applied(id: u64, index: u64, revision: i64) -> Told {
        Told::Applied { id, index, result: Ok((revision, Vec::new())) }
    }

    fn read(index: u64, revision: i64, body: Vec<u8>) -> Told {
        Told::Read { index, result: Ok((revision, body)) }
    }

    #[test]
    fn a_history_in_order_passes() {
        let (truth, mut history) = (truth(), History::default());
        history.wrote(OpId(1));
        history.wrote(OpId(2));
        history.told(OpId(2), &applied(2, 3, 3), &truth).unwrap();
        history.told(OpId(1), &applied(1, 3, 2), &truth).unwrap();
        history.asked(OpId(3), ask(0), false);
        history.told(OpId(3), &read(3, 3, get("b", 3)), &truth).unwrap();
        history.asked(OpId(4), ask(2), false);
        history.told(OpId(4), &read(3, 3, get("a", 2)), &truth).unwrap();
        history.asked(OpId(5), ask(0), true);
        history.told(OpId(5), &read(2, 2, get("a", 2)), &truth).unwrap();
        assert_eq!((history.writes, history.reads), (2, 3));
    }

    #[test]
    fn a_read_of_what_was_true_before_it_was_sent_is_found() {
        let (truth, mut history) = (truth(), History::default());
        history.wrote(OpId(1));
        history.told(OpId(1), &applied(2, 3, 3), &truth).unwrap();
        history.asked(OpId(2), ask(0), false);
        let stale = history.told(OpId(2), &read(2, 2, get("a", 2)), &truth);
        assert!(stale.unwrap_err().contains("not linearizable"));
    }

    #[test]
    fn a_read_that_began_before_a_write_ended_may_see_either_state() {
        let (truth, mut history) = (truth(), History::default());
        history.asked(OpId(2), ask(0), false);
        history.asked(OpId(3), ask(0), false);
        history.wrote(OpId(1));
        history.told(OpId(1), &applied(2, 3, 3), &truth).unwrap();
        history.told(OpId(2), &read(2, 2, get("a", 2)), &truth).unwrap();
        history.told(OpId(3), &read(3, 3, get("b", 3)), &truth).unwrap();
    }

    #[test]
    fn two_reads_that_go_back_in_time_are_found() {
        let (truth, mut history) = (truth(), History::default());
        history.asked(OpId(1), ask(0), false);
        history.told(OpId(1), &read(3, 3, get("b", 3)), &truth).unwrap();
        history.asked(OpId(2), ask(0), false);
        let back = history.told(OpId(2), &read(2, 2, get("a", 2)), &truth);
        assert!(back.unwrap_err().contains("not linearizable"));
    }

    #[test]
    fn wrong_content_at_the_right_place_is_found() {
        let (truth, mut history) = (truth(), History::default());
        for (told, what) in [
            (read(3, 3, get("a", 2)), "an old value"),
            (read(3, 2, get("b", 3)), "a wrong revision"),
            (read(3, 3, Vec::new()), "nothing"),
            (read(4, 4, get("b", 3)), "a state that is not committed"),
            (Told::Read { index: 3, result: Err(Refused::Compacted) }, "an error"),
        ] {
            history.asked(OpId(1), ask(0), false);
            assert!(history.told(OpId(1), &told, &truth).is_err(), "{what}");
        }
    }

    #[test]
    fn an_answer_to_what_is_not_committed_is_found() {
        let (truth, mut history) = (truth(), History::default());
        history.wrote(OpId(1));
        let lost = history.told(OpId(1), &applied(7, 3, 3), &truth);
        assert!(lost.unwrap_err().contains("not committed"));
    }

    #[test]
    fn a_write_that_was_overtaken_by_an_earlier_answer_is_found() {
        let (truth, mut history) = (truth(), History::default());
        history.wrote(OpId(1));
        history.told(OpId(1), &applied(2, 3, 3), &truth).unwrap();
        history.wrote(OpId(2));
        let early = history.told(OpId(2), &applied(1, 3, 2), &truth);
        assert!(early.unwrap_err().contains("not linearizable"));
    }

    #[test]
    fn a_wrong_answer_to_a_write_is_found() {
        let (truth, mut history) = (truth(), History::default());
        let with_prev = PutResponse { header: None, prev_kv: Some(KeyValue::default()) };
        for result in
            [Ok((2, Vec::new())), Ok((3, with_prev.encode_to_vec())), Err(Refused::LeaseNotFound)]
        {
            history.wrote(OpId(1));
            let told = Told::Applied { id: 2, index: 3, result };
            assert!(history.told(OpId(1), &told, &truth).is_err(), "{told:?}");
            history = History::default();
        }
    }
}
