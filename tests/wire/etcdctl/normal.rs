//! What etcdctl wrote, without what two servers may differ in.

use std::collections::BTreeMap;

/// What stands before a value that is masked.
const MASKED_AFTER: &[&str] = &[
    "\"raft_term\":",
    "\"raftTerm\":",
    "\"raftIndex\":",
    "\"raftAppliedIndex\":",
    "\"dbSize\":",
    "\"dbSizeInUse\":",
    "\"RaftTerm\" : ",
    "\"RaftIndex\" : ",
    "\"RaftAppliedIndex\" : ",
    "\"DBSize\" : ",
    "\"DBSizeInUse\" : ",
    "\"ttl\":",
    "\"TTL\" : ",
    "\"took\":\"",
    "\"Took\" : ",
    "took = ",
    "took ",
    "remaining(",
];

/// What locks and elections of the script are called; their keys end with the id of a lease.
const LEASE_KEYS: [&str; 2] = ["lock/", "election/"];

pub fn normal(
    written: &str,
    command: &str,
    endpoint: &str,
    variables: &BTreeMap<String, String>,
) -> String {
    let mut text = written.replace(endpoint, "ENDPOINT");
    for (name, value) in variables.iter().filter(|(name, _)| name.starts_with('L')) {
        // Ids of members are padded in some places.
        text = text.replace(&format!("Member {value:>16}"), &format!("Member {name}"));
        text = text.replace(value, name);
        if let Ok(id) = u64::from_str_radix(value, 16) {
            text = text.replace(&id.to_string(), name);
        }
    }
    if let Some(dir) = variables.get("DIR") {
        text = text.replace(dir, "DIR");
    }
    for before in MASKED_AFTER {
        text = mask_after(&text, before);
    }
    let lines = text.lines().map(|line| {
        let (columns, table) = (command.contains("endpoint status"), command.contains("table"));
        if line.starts_with("{\"level\":") {
            log_line(line)
        } else if (columns || command.contains("endpoint health")) && !line.starts_with(['[', '"'])
        {
            mask_columns(line)
        } else if LEASE_KEYS.iter().any(|name| line.starts_with(name)) {
            "a key of a lease".to_owned()
        } else if table {
            single_spaces(line)
        } else {
            line.to_owned()
        }
    });
    lines.collect::<Vec<_>>().join("\n")
}

fn mask_after(text: &str, before: &str) -> String {
    let mut masked = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(before) {
        let value = at + before.len();
        masked.push_str(&rest[..value]);
        masked.push('*');
        let end = rest[value..].find([',', '}', '"', ')', '\n', ';', ' ']);
        rest = &rest[end.map_or(rest.len(), |end| value + end)..];
    }
    masked.push_str(rest);
    masked
}

/// A warning of the client itself: only what it says, not when and where.
fn log_line(line: &str) -> String {
    match (line.find("\"msg\":"), line.find("\"error\":")) {
        (Some(message), Some(error)) => {
            let message = line[message..].split("\",\"").next().unwrap_or_default();
            format!("{message} {}", &line[error..])
        }
        _ => line.to_owned(),
    }
}

/// Sizes, terms, indices and durations of `endpoint status` and `endpoint health`, whose columns are separated by commas or by bars.
fn mask_columns(line: &str) -> String {
    let bar = if line.contains('|') {
        '|'
    } else if line.contains('│') {
        '│'
    } else {
        ','
    };
    let columns = line.split(bar).map(|column| {
        let column = column.trim();
        let number = column.split_once(' ').map_or(column, |(number, _)| number);
        let counts = number.trim_end_matches(['%', 'm', 's', 'µ']).parse::<f64>().is_ok();
        if counts { "*".to_owned() } else { single_spaces(column) }
    });
    columns.collect::<Vec<_>>().join(&bar.to_string())
}

/// Tables are as wide as their widest cells.
fn single_spaces(line: &str) -> String {
    let mut kept = String::new();
    for char in line.chars() {
        let repeats = matches!(char, ' ' | '-' | '─') && kept.ends_with(char);
        if !repeats {
            kept.push(char);
        }
    }
    kept
}
