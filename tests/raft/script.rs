//! The commands of the texts. `M` is a member, `A..` several, separated by blanks (all when left
//! out).
//!
//! ```text
//! cluster voters=1,2 [learners=3] [new=4] [option=value ...]     members; `new` know of nothing
//! campaign M | tick M [count] | propose M text | read M context
//! change M +4 ~5 -3 [joint | explicit] | leave M                 + voter, ~ learner, - remove
//! transfer M to | compact M index | unreachable M id
//! snapshot-done M to | snapshot-failed M to                      what becomes of a stream
//! crash M | restart M | lose-disk M
//! ready M                     does what is to be done, only the disk stays busy
//! persist M [count]           the disk completes its oldest writes (all)
//! deliver M [from]            messages to M arrive, in order
//! deliver-last M              only the newest message to M arrives, the others wait
//! repeat M [from]             the messages to M arrive, and stay on the network as well
//! drop M [from]               they are lost
//! settle A..                  everything happens until nothing is left to do
//! quiet A..                   the same, and only the end is told
//! lead M A..                  M campaigns among A.. until it leads, and everything settles
//! tick-all-but M [count]      the others' clocks; 10 is the patience of voters with a leader
//! forge from to term append index/term commit [index/term ...]   a message nobody sent
//! forge from to term heartbeat commit | forge from to term timeout-now
//! forge from to term snapshot index/term voters                  voters as 1,2,3
//! status A.. | log M | network
//! ```

use std::collections::{HashSet, VecDeque};

use bytes::Bytes;
use ringd::raft::{
    Body, ChangeStep, ConfChange, Config, Configuration, Entry, EntryKind, LogIndex, LogPosition,
    Mark, Message, NodeId, SnapshotMeta, Term, Transition,
};

use super::cluster::{Cluster, Member};
use super::show;

/// The text as it should be, prose and commands as they are, what happens as it happened; and the
/// rare turns taken.
pub fn run(name: &str, text: &str) -> (String, HashSet<Mark>) {
    let mut cluster = Cluster::default();
    let mut out = String::new();
    let mut is_result = false;
    for line in text.lines() {
        if let Some(command) = line.strip_prefix("> ") {
            out += &format!("> {command}\n");
            for result in obey(&mut cluster, command).unwrap_or_else(|error| vec![error]) {
                out += &format!("{result}\n");
            }
            is_result = true;
        } else if line.is_empty() || line.starts_with('#') {
            is_result = false;
            out += &format!("{line}\n");
        } else {
            assert!(is_result, "{name}: neither prose nor a command: {line}");
        }
    }
    (out, cluster.into_marks())
}

type Outcome = Result<Vec<String>, String>;

struct Words<'a>(VecDeque<&'a str>);

impl<'a> Words<'a> {
    fn next(&mut self) -> Result<&'a str, String> {
        self.0.pop_front().ok_or_else(|| "a word is missing".into())
    }

    fn number(&mut self) -> Result<u64, String> {
        number(self.next()?)
    }

    fn optional_number(&mut self) -> Result<Option<u64>, String> {
        if self.0.is_empty() { Ok(None) } else { self.number().map(Some) }
    }

    fn node(&mut self) -> Result<NodeId, String> {
        self.number().map(NodeId)
    }

    fn position(&mut self) -> Result<LogPosition, String> {
        let word = self.next()?;
        let (index, term) = word.split_once('/').ok_or(format!("not a position: {word}"))?;
        Ok(LogPosition { index: LogIndex(number(index)?), term: Term(number(term)?) })
    }

    fn nodes(&mut self, all: Vec<NodeId>) -> Result<Vec<NodeId>, String> {
        if self.0.is_empty() {
            return Ok(all);
        }
        std::mem::take(&mut self.0).into_iter().map(|word| number(word).map(NodeId)).collect()
    }
}

fn number(word: &str) -> Result<u64, String> {
    word.parse().map_err(|_| format!("not a number: {word}"))
}

fn node_list(words: &str) -> Result<Vec<NodeId>, String> {
    words.split(',').map(|word| number(word).map(NodeId)).collect()
}

fn obey(cluster: &mut Cluster, command: &str) -> Outcome {
    let mut words = Words(command.split_whitespace().collect());
    let name = words.next()?;
    let all = cluster.ids();
    match name {
        "cluster" => return make_cluster(cluster, words),
        "settle" => return Ok(cluster.settle(&words.nodes(all)?)),
        "quiet" => {
            let among = words.nodes(all)?;
            cluster.settle(&among);
            return status(cluster, &among);
        }
        "lead" => {
            let leader = words.node()?;
            let among = words.nodes(all)?;
            cluster.raft(leader)?.campaign();
            cluster.settle(&among);
            let raft = cluster.raft(leader)?;
            let (is_leader, term) = (raft.is_leader(), raft.term());
            let does = if is_leader { "leads" } else { "does not lead" };
            return Ok(vec![format!("{leader} {does} in term {term}")]);
        }
        "status" => return status(cluster, &words.nodes(all)?),
        "network" => return Ok(cluster.network.iter().map(show::message).collect()),
        "forge" => return forge(cluster, words),
        _ => {}
    }

    let id = words.node()?;
    match name {
        "campaign" => cluster.raft(id)?.campaign(),
        "tick" => {
            for _ in 0..words.optional_number()?.unwrap_or(1) {
                cluster.raft(id)?.tick();
            }
        }
        "tick-all-but" => {
            let count = words.optional_number()?.unwrap_or(1);
            for other in all.into_iter().filter(|&other| other != id) {
                let raft = cluster.raft(other);
                raft.into_iter().for_each(|raft| (0..count).for_each(|_| raft.tick()));
            }
        }
        "propose" => {
            let data = Bytes::copy_from_slice(words.next()?.as_bytes());
            cluster.raft(id)?.propose(data).map_err(|error| error.to_string())?;
        }
        "read" => {
            let context = words.number()?;
            cluster.raft(id)?.read_index(context).map_err(|error| error.to_string())?;
        }
        "change" => {
            let change = parse_change(words)?;
            cluster.raft(id)?.propose_conf_change(&change).map_err(|error| error.to_string())?;
        }
        "leave" => {
            let change = ConfChange::leave();
            cluster.raft(id)?.propose_conf_change(&change).map_err(|error| error.to_string())?;
        }
        "transfer" => {
            let to = words.node()?;
            cluster.raft(id)?.transfer_leadership(to).map_err(|error| error.to_string())?;
        }
        "compact" => {
            let index = LogIndex(words.number()?);
            return Ok(cluster.member(id)?.compact(index).into_iter().collect());
        }
        "unreachable" => cluster.raft(id)?.unreachable(words.node()?),
        "snapshot-done" => cluster.raft(id)?.snapshot_finished(words.node()?, true),
        "snapshot-failed" => cluster.raft(id)?.snapshot_finished(words.node()?, false),
        "crash" => cluster.crash(id)?,
        "restart" => {
            cluster.crash(id)?;
            cluster.member(id)?.start()?;
        }
        "lose-disk" => {
            cluster.lose_disk(id)?;
            cluster.member(id)?.start()?;
        }
        "ready" => {
            let lines = cluster.ready(id)?;
            return Ok(if lines.is_empty() { vec!["nothing to do".into()] } else { lines });
        }
        "persist" => {
            let count = words.optional_number()?.map_or(usize::MAX, |count| count as usize);
            return cluster.persist(id, count);
        }
        "deliver" | "repeat" | "drop" => {
            let from = words.optional_number()?.map(NodeId);
            let messages = cluster.take(id, from);
            if messages.is_empty() {
                return Err("no such message".into());
            }
            return Ok(move_messages(cluster, name, messages));
        }
        "deliver-last" => {
            let last = cluster.network.iter().rposition(|message| message.to == id);
            let message = cluster.network.remove(last.ok_or("no such message")?);
            return Ok(move_messages(cluster, "deliver", vec![message]));
        }
        "log" => {
            let raft = cluster.raft(id)?;
            let indexes = raft.start_index().0..=raft.last_index().0;
            let terms = indexes.map(|index| {
                let term = raft.term_at(LogIndex(index)).expect("what lies between start and last");
                format!("{index}/{term}")
            });
            return Ok(vec![terms.collect::<Vec<_>>().join(" ")]);
        }
        _ => return Err(format!("no such command: {name}")),
    }
    Ok(Vec::new())
}

fn move_messages(cluster: &mut Cluster, how: &str, messages: Vec<Message>) -> Vec<String> {
    let mut lines = Vec::new();
    for message in messages {
        if how == "drop" {
            lines.push(format!("lost: {}", show::message(&message)));
            continue;
        }
        if how == "repeat" {
            cluster.network.push(message.clone());
        }
        lines.extend(cluster.step(message));
    }
    lines
}

fn status(cluster: &mut Cluster, among: &[NodeId]) -> Outcome {
    let mut lines = Vec::new();
    for &id in among {
        match cluster.raft(id) {
            Ok(raft) => lines.extend(show::status(raft)),
            Err(down) => lines.push(down),
        }
    }
    Ok(lines)
}

fn parse_change(words: Words) -> Result<ConfChange, String> {
    let mut change = ConfChange::default();
    for word in words.0 {
        match word {
            "joint" => change.transition = Transition::JointImplicit,
            "explicit" => change.transition = Transition::JointExplicit,
            _ => {
                let (sign, id) = word.split_at(1);
                let id = NodeId(number(id)?);
                change.steps.push(match sign {
                    "+" => ChangeStep::AddVoter(id),
                    "~" => ChangeStep::AddLearner(id),
                    "-" => ChangeStep::Remove(id),
                    _ => return Err(format!("no such step: {word}")),
                });
            }
        }
    }
    Ok(change)
}

/// Members begin at index 1 of term 1, as if a snapshot had brought them the configuration.
fn make_cluster(cluster: &mut Cluster, words: Words) -> Outcome {
    cluster.clear();
    let mut configuration = Configuration::default();
    let mut new = Vec::new();
    let mut options = Config::new(NodeId(1));
    for word in words.0 {
        let (name, value) = word.split_once('=').ok_or(format!("not an option: {word}"))?;
        match name {
            "voters" => configuration.voters = node_list(value)?.into_iter().collect(),
            "learners" => configuration.learners = node_list(value)?.into_iter().collect(),
            "new" => new = node_list(value)?,
            "election" => options.election_ticks = number(value)? as u32,
            "apply-unpersisted" => options.apply_unpersisted = value == "yes",
            "append-bytes" => options.append_bytes_max = number(value)? as usize,
            "inflight" => options.inflight_appends_max = number(value)? as usize,
            "inflight-bytes" => options.inflight_bytes_max = number(value)? as usize,
            "uncommitted-bytes" => options.uncommitted_bytes_max = number(value)? as usize,
            "log-bytes" => options.log_bytes_max = number(value)? as usize,
            "reads" => options.reads_max = number(value)? as usize,
            _ => return Err(format!("no such option: {name}")),
        }
    }
    let begin = LogPosition { index: LogIndex(1), term: Term(1) };
    for id in configuration.members().iter().chain(new.iter().copied()) {
        let mut config = options.clone();
        config.id = id;
        let member = if new.contains(&id) {
            Member::new(config, Configuration::default(), LogPosition::default())
        } else {
            Member::new(config, configuration.clone(), begin)
        };
        cluster.members.insert(id, member);
    }
    // The term of the beginning reaches the disks before the story starts.
    let ids = cluster.ids();
    cluster.settle(&ids);
    Ok(Vec::new())
}

fn forge(cluster: &mut Cluster, mut words: Words) -> Outcome {
    let (from, to, term) = (words.node()?, words.node()?, Term(words.number()?));
    let body = match words.next()? {
        "append" => {
            let (prev, commit) = (words.position()?, LogIndex(words.number()?));
            let mut entries = Vec::new();
            while !words.0.is_empty() {
                let LogPosition { index, term } = words.position()?;
                let data = Bytes::from_static(b"forged");
                entries.push(Entry { term, index, kind: EntryKind::Normal, data });
            }
            Body::Append { prev, commit, entries }
        }
        "heartbeat" => Body::Heartbeat { commit: LogIndex(words.number()?), round: 0 },
        "timeout-now" => Body::TimeoutNow,
        "snapshot" => {
            let position = words.position()?;
            let configuration = Configuration::of_voters(node_list(words.next()?)?);
            Body::Snapshot { snapshot: SnapshotMeta { position, configuration } }
        }
        other => return Err(format!("no such message: {other}")),
    };
    Ok(cluster.step(Message { from, to, term, body }).into_iter().collect())
}
