//! Questions about leases, which only the leader can answer: its clock alone counts.
//!
//! Any member takes one. It travels to the leader; and the leader confirms that it still leads,
//! after the question has come, before it answers: a leader that was replaced while it was paused
//! would renew what the next one lets expire. The confirmation is that of a read, one for all
//! questions of a turn. A question may be asked twice, so a lost one is asked again.
//!
//! Who asks to renew a lease that has expired hears of it when it is revoked, and never that it was
//! renewed.

use std::collections::{BTreeMap, VecDeque};

use super::limits::{LEASE_QUESTIONS_MAX, LEASE_RETRY_MS};
use super::message::PeerMessage;
use super::{Node, Output};
use crate::apply::Notice;
use crate::lease::LeaseId;
use crate::raft::NodeId;

/// What is asked of a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    Renew,
    TimeToLive,
}

/// The answer to a question that was asked under a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeaseAnswer {
    /// The time that the lease was given anew; 0: there is no such lease.
    Renewed { ttl_s: i64 },
    /// -1: there is no such lease.
    TimeToLive { granted_s: i64, remaining_s: i64 },
    /// The leader could not be asked in time.
    Lost,
}

#[derive(Clone, Copy)]
struct Question {
    /// The member that asked, and its number of the question.
    from: NodeId,
    number: u64,
    what: What,
    lease: LeaseId,
}

/// A question of this member that is not answered.
struct Asked {
    question: Question,
    since_ms: u64,
    /// When to ask again.
    again_ms: u64,
}

#[derive(Default)]
pub(super) struct LeaseQuestions {
    /// Begins where those of no other start do: an answer to an earlier life finds nobody.
    last_number: u64,
    /// By their numbers, so in the order in which they were asked.
    asked: BTreeMap<u64, Asked>,
    /// At the leader: since the last turn, and under which read they wait for confirmation.
    new: Vec<Question>,
    confirming: VecDeque<(u64, Vec<Question>)>,
    /// Waiting for a revocation.
    expiring: BTreeMap<LeaseId, Vec<Question>>,
    next_scan_ms: u64,
    answers: Vec<(u64, LeaseAnswer)>,
}

impl LeaseQuestions {
    pub(super) fn new(first_number: u64) -> LeaseQuestions {
        LeaseQuestions { last_number: first_number, ..LeaseQuestions::default() }
    }
}

impl Node {
    /// Gives a lease its full time again. What is returned names the answer in
    /// `Output::lease_answers`.
    pub fn renew_lease(&mut self, lease: LeaseId) -> u64 {
        self.ask_lease(What::Renew, lease)
    }

    /// Asks for the time that a lease has.
    pub fn lease_time_to_live(&mut self, lease: LeaseId) -> u64 {
        self.ask_lease(What::TimeToLive, lease)
    }

    fn ask_lease(&mut self, what: What, lease: LeaseId) -> u64 {
        let (from, now_ms) = (self.raft.id(), self.now_ms);
        let leases = &mut self.lease_questions;
        leases.last_number += 1;
        let number = leases.last_number;
        if leases.asked.len() >= LEASE_QUESTIONS_MAX {
            leases.answers.push((number, LeaseAnswer::Lost));
            return number;
        }
        let question = Question { from, number, what, lease };
        let asked = Asked { question, since_ms: now_ms, again_ms: now_ms };
        leases.asked.insert(number, asked);
        self.pass_question(number);
        number
    }

    /// To the leader, if there is one.
    fn pass_question(&mut self, number: u64) {
        let Some(asked) = self.lease_questions.asked.get_mut(&number) else { return };
        asked.again_ms = self.now_ms + LEASE_RETRY_MS;
        let question = asked.question;
        let LeaseId(lease) = question.lease;
        match self.raft.leader() {
            Some(leader) if leader == self.raft.id() => self.lease_questions.new.push(question),
            Some(leader) => {
                let message = match question.what {
                    What::Renew => PeerMessage::LeaseRenew { context: number, lease },
                    What::TimeToLive => PeerMessage::LeaseTimeToLive { context: number, lease },
                };
                self.messages.push((leader, message));
            }
            None => {}
        }
    }

    pub(super) fn handle_lease_renew(&mut self, from: NodeId, number: u64, lease: i64) {
        let lease = LeaseId(lease);
        self.take_question(Question { from, number, what: What::Renew, lease });
    }

    pub(super) fn handle_lease_time_to_live(&mut self, from: NodeId, number: u64, lease: i64) {
        let lease = LeaseId(lease);
        self.take_question(Question { from, number, what: What::TimeToLive, lease });
    }

    fn take_question(&mut self, question: Question) {
        if self.raft.is_leader() && self.lease_questions.new.len() < LEASE_QUESTIONS_MAX {
            self.lease_questions.new.push(question);
        }
    }

    /// One confirmation for all questions since the last turn.
    pub(super) fn confirm_lease_questions(&mut self) {
        self.ask_leases_again();
        if self.lease_questions.new.is_empty() {
            return;
        }
        let questions = std::mem::take(&mut self.lease_questions.new);
        let read = self.read();
        self.lease_questions.confirming.push_back((read, questions));
    }

    fn ask_leases_again(&mut self) {
        let now_ms = self.now_ms;
        if self.lease_questions.asked.is_empty() || now_ms < self.lease_questions.next_scan_ms {
            return;
        }
        self.lease_questions.next_scan_ms = now_ms + self.options.heartbeat_ms;
        let patience_ms = self.options.patience_ms;
        let over: Vec<u64> = self
            .lease_questions
            .asked
            .iter()
            .take_while(|(_, asked)| asked.since_ms + patience_ms <= now_ms)
            .map(|(number, _)| *number)
            .collect();
        for number in over {
            self.conclude_question(number, LeaseAnswer::Lost);
        }
        let due = self.lease_questions.asked.iter().filter(|(_, asked)| asked.again_ms <= now_ms);
        // Those that wait for a revocation here need not ask again.
        let expiring = &self.lease_questions.expiring;
        let due: Vec<u64> = due
            .filter(|(_, asked)| !expiring.contains_key(&asked.question.lease))
            .map(|(number, _)| *number)
            .collect();
        for number in due {
            self.pass_question(number);
        }
    }

    /// A read was confirmed, or lost. Tells whether it was for questions about leases.
    pub(super) fn lease_read_done(&mut self, read: u64, is_confirmed: bool) -> bool {
        let confirming = &mut self.lease_questions.confirming;
        let Some(place) = confirming.iter().position(|(asked, _)| *asked == read) else {
            return false;
        };
        let Some((_, questions)) = confirming.remove(place) else { return false };
        // Otherwise they are asked again.
        if is_confirmed && self.raft.is_leader() {
            questions.into_iter().for_each(|question| self.answer_question(question));
        }
        true
    }

    fn answer_question(&mut self, question: Question) {
        let now_ms = self.now_ms;
        let lessor = &mut self.applier.lessor;
        let lease = question.lease;
        let answer = match question.what {
            What::Renew if lessor.is_expired(lease, now_ms) => {
                let waiting = self.lease_questions.expiring.entry(lease).or_default();
                if !waiting.iter().any(|w| (w.from, w.number) == (question.from, question.number))
                    && waiting.len() < LEASE_QUESTIONS_MAX
                {
                    waiting.push(question);
                }
                return;
            }
            What::Renew => LeaseAnswer::Renewed { ttl_s: lessor.renew(lease, now_ms).unwrap_or(0) },
            What::TimeToLive => LeaseAnswer::TimeToLive {
                granted_s: lessor.ttl(lease).unwrap_or(-1),
                remaining_s: lessor.remaining_s(lease, now_ms).unwrap_or(-1),
            },
        };
        self.give_answer(question, answer);
    }

    fn give_answer(&mut self, question: Question, answer: LeaseAnswer) {
        if question.from == self.raft.id() {
            return self.conclude_question(question.number, answer);
        }
        let (context, LeaseId(lease)) = (question.number, question.lease);
        let message = match answer {
            LeaseAnswer::Renewed { ttl_s } => PeerMessage::LeaseRenewed { context, lease, ttl_s },
            LeaseAnswer::TimeToLive { granted_s, remaining_s } => {
                PeerMessage::LeaseTimeToLiveIs { context, lease, granted_s, remaining_s }
            }
            LeaseAnswer::Lost => return,
        };
        self.messages.push((question.from, message));
    }

    /// A question of this member has its answer.
    pub(super) fn conclude_question(&mut self, number: u64, answer: LeaseAnswer) {
        if self.lease_questions.asked.remove(&number).is_some() {
            self.lease_questions.answers.push((number, answer));
        }
    }

    /// Whoever waited for the end of a lease hears of it.
    pub(super) fn conclude_leases(&mut self, output: &mut Output) {
        if !self.raft.is_leader() {
            self.lease_questions.expiring.clear();
        }
        if !self.lease_questions.expiring.is_empty() {
            for notice in &output.notices {
                let Notice::LeaseRevoked(lease) = notice else { continue };
                for question in self.lease_questions.expiring.remove(lease).unwrap_or_default() {
                    self.give_answer(question, LeaseAnswer::Renewed { ttl_s: 0 });
                }
            }
        }
        output.lease_answers.append(&mut self.lease_questions.answers);
    }
}
