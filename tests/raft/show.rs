//! How things are written in the texts: positions as `index/term`, entries as `index/term "data"`.

use ringd::raft::{
    Body, ChangeStep, ConfChange, Configuration, Entry, EntryKind, HardState, LogPosition, Message,
    NodeId, NodeSet, Raft, Replication, Role, SnapshotMeta, SoftState, Transition,
};

pub fn position(position: LogPosition) -> String {
    format!("{}/{}", position.index, position.term)
}

pub fn node(id: Option<NodeId>) -> String {
    id.map_or("-".into(), |id| id.to_string())
}

pub fn role(role: Role) -> &'static str {
    match role {
        Role::Follower => "follower",
        Role::PreCandidate => "pre-candidate",
        Role::Candidate => "candidate",
        Role::Leader => "leader",
    }
}

pub fn soft_state(state: SoftState) -> String {
    format!("is {} in term {}, led by {}", role(state.role), state.term, node(state.leader))
}

pub fn hard_state(state: HardState) -> String {
    format!("term={} vote={} commit={}", state.term, node(state.vote), state.commit)
}

pub fn entry(entry: &Entry) -> String {
    let at = position(entry.position());
    match entry.kind {
        EntryKind::Normal => format!("{at} \"{}\"", String::from_utf8_lossy(&entry.data)),
        EntryKind::ConfChange => {
            let change = ConfChange::decode(&entry.data).expect("a change that we encoded");
            format!("{at} change({})", conf_change(&change))
        }
    }
}

pub fn entries(entries: &[Entry]) -> String {
    if entries.is_empty() {
        return "nothing".into();
    }
    entries.iter().map(entry).collect::<Vec<_>>().join(", ")
}

pub fn conf_change(change: &ConfChange) -> String {
    let mut words: Vec<String> = change
        .steps
        .iter()
        .map(|step| match step {
            ChangeStep::AddVoter(id) => format!("+{id}"),
            ChangeStep::AddLearner(id) => format!("~{id}"),
            ChangeStep::Remove(id) => format!("-{id}"),
        })
        .collect();
    if change.is_leave() {
        words.push("leave".into());
    }
    match change.transition {
        Transition::Auto => {}
        Transition::JointImplicit => words.push("joint".into()),
        Transition::JointExplicit => words.push("explicit".into()),
    }
    words.join(" ")
}

fn set(set: &NodeSet) -> String {
    set.iter().map(|id| id.to_string()).collect::<Vec<_>>().join(" ")
}

pub fn configuration(configuration: &Configuration) -> String {
    let mut text = format!("voters({})", set(&configuration.voters));
    let parts = [
        ("outgoing", &configuration.outgoing),
        ("learners", &configuration.learners),
        ("learners next", &configuration.learners_next),
    ];
    for (name, part) in parts.into_iter().filter(|(_, part)| !part.is_empty()) {
        text += &format!(" {name}({})", set(part));
    }
    if configuration.auto_leave {
        text += " leaves by itself";
    }
    text
}

pub fn snapshot(snapshot: &SnapshotMeta) -> String {
    format!("{} {}", position(snapshot.position), configuration(&snapshot.configuration))
}

pub fn message(message: &Message) -> String {
    let Message { from, to, term, body } = message;
    let granted = |granted: &bool| if *granted { "granted" } else { "refused" };
    let what = match body {
        Body::PreVoteRequest { last, committed } => {
            format!("PreVoteRequest last={} committed={}", position(*last), position(*committed))
        }
        Body::PreVoteResponse { granted: yes, committed } => {
            format!("PreVoteResponse {} committed={}", granted(yes), position(*committed))
        }
        Body::VoteRequest { last, committed, transfer } => {
            let transfer = if *transfer { " for a transfer" } else { "" };
            let (last, committed) = (position(*last), position(*committed));
            format!("VoteRequest last={last} committed={committed}{transfer}")
        }
        Body::VoteResponse { granted: yes, committed } => {
            format!("VoteResponse {} committed={}", granted(yes), position(*committed))
        }
        Body::Append { prev, commit, entries: list } => {
            format!("Append after {} commit={commit}: {}", position(*prev), entries(list))
        }
        Body::AppendAccepted { matched } => format!("AppendAccepted matched={matched}"),
        Body::AppendRejected { prev, hint } => {
            format!("AppendRejected prev={prev} hint={}", position(*hint))
        }
        Body::Heartbeat { commit, round } => format!("Heartbeat commit={commit} round={round}"),
        Body::HeartbeatResponse { round } => format!("HeartbeatResponse round={round}"),
        Body::Snapshot { snapshot: meta } => format!("Snapshot {}", snapshot(meta)),
        Body::TimeoutNow => "TimeoutNow".into(),
        Body::ReadIndex { incarnation, context } => {
            format!("ReadIndex {context} of life {incarnation}")
        }
        Body::ReadIndexResponse { incarnation, context, index } => {
            format!("ReadIndexResponse {context} of life {incarnation}: index {index}")
        }
    };
    format!("{from} -> {to}: {what} (term {term})")
}

pub fn status(raft: &Raft) -> Vec<String> {
    let status = raft.status();
    let mut lines = vec![format!(
        "{} {} term={} vote={} leader={} commit={} applied={} persisted={} log={}..{} {}",
        status.id,
        role(status.role),
        status.term,
        node(status.vote),
        node(status.leader),
        status.commit,
        status.applied,
        status.persisted,
        status.first,
        status.last,
        configuration(&status.configuration)
    )];
    for member in &status.members {
        let replication = match member.replication {
            Replication::Probe => "probe",
            Replication::Replicate => "replicate",
            Replication::Snapshot => "snapshot",
        };
        let mut line = format!(
            "  {}: {replication} matched={} next={} inflight={}",
            member.id, member.matched, member.next, member.inflight
        );
        if member.is_learner {
            line += " learner";
        }
        if !member.is_recently_active {
            line += " silent";
        }
        lines.push(line);
    }
    lines
}
