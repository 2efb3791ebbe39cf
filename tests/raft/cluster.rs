//! The members of a text, their disks, and the network between them. Nothing moves unless a command
//! moves it.

use std::collections::{BTreeMap, HashSet, VecDeque};

use ringd::raft::{
    ConfChange, Config, Configuration, Entry, EntryKind, HardState, LogIndex, LogPosition, Mark,
    Message, NodeId, Persist, Raft, Ready,
};

use super::show;

/// What survives a crash.
struct Disk {
    hard_state: HardState,
    start: LogPosition,
    entries: Vec<Entry>,
    applied: LogIndex,
    configuration: Configuration,
}

pub struct Member {
    config: Config,
    raft: Option<Raft>,
    disk: Disk,
    pending: VecDeque<Persist>,
}

impl Member {
    pub fn new(config: Config, configuration: Configuration, start: LogPosition) -> Member {
        let disk = Disk {
            hard_state: HardState::default(),
            start,
            entries: Vec::new(),
            applied: start.index,
            configuration,
        };
        let mut member = Member { config, raft: None, disk, pending: VecDeque::new() };
        member.start().expect("a member without a past starts");
        member
    }

    pub fn start(&mut self) -> Result<(), String> {
        self.config.incarnation += 1;
        let disk = &self.disk;
        let raft = Raft::new(
            self.config.clone(),
            disk.hard_state,
            disk.configuration.clone(),
            (disk.start.index, disk.start.term),
            disk.entries.clone(),
            disk.applied,
        );
        self.raft = Some(raft.map_err(|error| error.to_string())?);
        Ok(())
    }

    /// What was not durable is lost.
    fn crash(&mut self) -> Vec<Mark> {
        self.pending.clear();
        let raft = self.raft.take();
        let marks = raft.iter().flat_map(Raft::marks).filter(|(_, count)| *count > 0);
        marks.map(|(mark, _)| mark).collect()
    }

    /// Completes the oldest write.
    fn complete(&mut self) -> Option<String> {
        let persist = self.pending.pop_front()?;
        if let Some(snapshot) = &persist.snapshot {
            self.disk.start = snapshot.position;
            self.disk.entries.clear();
            self.disk.applied = snapshot.position.index;
            self.disk.configuration = snapshot.configuration.clone();
        }
        if let Some(hard_state) = persist.hard_state {
            self.disk.hard_state = hard_state;
        }
        if let Some(first) = persist.entries.first() {
            self.disk.entries.retain(|entry| entry.index < first.index);
            self.disk.entries.extend(persist.entries.iter().cloned());
        }
        if let Some(hard_state) = persist.hard_state_behind {
            self.disk.hard_state = hard_state;
        }
        self.raft.as_mut()?.persisted(persist.token);
        Some(format!("{} has #{} on disk", self.config.id, persist.token))
    }

    /// Makes the state durable and drops the log up to `index`.
    pub fn compact(&mut self, index: LogIndex) -> Option<String> {
        let raft = self.raft.as_mut()?;
        self.disk.applied = raft.applied_index();
        self.disk.configuration = raft.configuration().clone();
        let until = raft.compact(index);
        let start = LogPosition { index: until, term: raft.term_at(until)? };
        self.disk.start = start;
        self.disk.entries.retain(|entry| entry.index > until);
        Some(format!("{} begins after {}", self.config.id, show::position(start)))
    }
}

#[derive(Default)]
pub struct Cluster {
    pub members: BTreeMap<NodeId, Member>,
    pub network: Vec<Message>,
    /// The rare turns that members took which are gone.
    marks: HashSet<Mark>,
}

impl Cluster {
    pub fn member(&mut self, id: NodeId) -> Result<&mut Member, String> {
        self.members.get_mut(&id).ok_or_else(|| format!("there is no member {id}"))
    }

    pub fn raft(&mut self, id: NodeId) -> Result<&mut Raft, String> {
        self.member(id)?.raft.as_mut().ok_or_else(|| format!("member {id} is down"))
    }

    pub fn crash(&mut self, id: NodeId) -> Result<(), String> {
        let taken = self.member(id)?.crash();
        self.marks.extend(taken);
        Ok(())
    }

    /// Not a crash: somebody emptied the disk.
    pub fn lose_disk(&mut self, id: NodeId) -> Result<(), String> {
        self.crash(id)?;
        let disk = &mut self.member(id)?.disk;
        disk.hard_state = HardState::default();
        disk.start = LogPosition::default();
        disk.entries.clear();
        disk.applied = LogIndex(0);
        Ok(())
    }

    /// All members are gone, and a new story begins.
    pub fn clear(&mut self) {
        for id in self.ids() {
            self.crash(id).expect("a member");
        }
        self.members.clear();
        self.network.clear();
    }

    /// The rare turns that were taken.
    pub fn into_marks(mut self) -> HashSet<Mark> {
        self.clear();
        self.marks
    }

    pub fn ids(&self) -> Vec<NodeId> {
        self.members.keys().copied().collect()
    }

    /// Does all that is to be done at one member, except that the disk stays busy.
    pub fn ready(&mut self, id: NodeId) -> Result<Vec<String>, String> {
        let mut lines = Vec::new();
        while let Some(ready) = self.raft(id)?.ready() {
            self.carry_out(id, ready, &mut lines)?;
            if let Some(complaint) = self.raft(id)?.complaint() {
                panic!("member {id}: {complaint}");
            }
        }
        Ok(lines)
    }

    fn carry_out(
        &mut self,
        id: NodeId,
        ready: Ready,
        lines: &mut Vec<String>,
    ) -> Result<(), String> {
        lines.extend(ready.soft_state.map(|state| format!("{id} {}", show::soft_state(state))));
        if let Some(persist) = ready.persist {
            let mut parts = Vec::new();
            parts.extend(
                persist.snapshot.as_ref().map(|s| format!("snapshot {}", show::snapshot(s))),
            );
            parts.extend(persist.hard_state.map(show::hard_state));
            parts.extend(persist.entries.iter().map(show::entry));
            parts.extend(persist.hard_state_behind.map(show::hard_state));
            lines.push(format!("{id} writes #{}: {}", persist.token, parts.join(", ")));
            self.member(id)?.pending.push_back(persist);
        }
        lines.extend(ready.messages.iter().map(show::message));
        self.network.extend(ready.messages);
        for entry in ready.committed {
            lines.push(format!("{id} applies {}", show::entry(&entry)));
            let raft = self.raft(id)?;
            if entry.kind == EntryKind::Normal {
                raft.applied(entry.index);
                continue;
            }
            let change = ConfChange::decode(&entry.data).expect("a change that we encoded");
            lines.push(match raft.apply_conf_change(entry.index, &change) {
                Ok(configuration) => {
                    format!("{id} is configured {}", show::configuration(configuration))
                }
                Err(error) => format!("{id} cannot apply this: {error}"),
            });
        }
        let reads = ready.read_states.iter();
        lines.extend(reads.map(|state| format!("{id} may read {} at {}", state.ctx, state.index)));
        lines.extend(ready.lost_reads.iter().map(|context| format!("{id} lost read {context}")));
        Ok(())
    }

    /// Completes up to `count` writes.
    pub fn persist(&mut self, id: NodeId, count: usize) -> Result<Vec<String>, String> {
        let member = self.member(id)?;
        let done: Vec<String> = (0..count).map_while(|_| member.complete()).collect();
        if done.is_empty() { Err(format!("{id} has nothing to write")) } else { Ok(done) }
    }

    /// Takes the messages to `to` (of `from` only) off the network.
    pub fn take(&mut self, to: NodeId, from: Option<NodeId>) -> Vec<Message> {
        let wanted = |message: &mut Message| {
            message.to == to && from.is_none_or(|from| message.from == from)
        };
        self.network.extract_if(.., wanted).collect()
    }

    pub fn step(&mut self, message: Message) -> Option<String> {
        let to = message.to;
        match self.raft(to) {
            Err(down) => Some(down),
            Ok(raft) => raft.step(message).err().map(|error| {
                let kind = if error.is_fatal() { "must stop" } else { "refuses" };
                format!("{to} {kind}: {error}")
            }),
        }
    }

    /// Lets `among` do everything, with fast disks, until they have no more to say to each other.
    /// Messages to others stay on the network.
    pub fn settle(&mut self, among: &[NodeId]) -> Vec<String> {
        let mut lines = Vec::new();
        loop {
            let before = lines.len();
            for &id in among.iter() {
                if self.raft(id).is_err() {
                    continue;
                }
                lines.extend(self.ready(id).unwrap_or_default());
                lines.extend(self.persist(id, usize::MAX).unwrap_or_default());
            }
            let mut arriving = self
                .network
                .extract_if(.., |m| among.contains(&m.from) && among.contains(&m.to))
                .collect::<Vec<_>>();
            let nothing_arrives = arriving.is_empty();
            for message in arriving.drain(..) {
                lines.extend(self.step(message));
            }
            if lines.len() == before && nothing_arrives {
                return lines;
            }
        }
    }
}
