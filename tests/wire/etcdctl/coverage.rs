//! Every command and every option that etcdctl's help names stands in one of the scripts.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use super::{SCRIPT, TLS_SCRIPT, assignment};
use crate::server::{skip, tool};

/// What no script has, and why.
const LEFT_OUT: &[(&str, &str)] = &[
    (
        "options --discovery-srv",
        "asks the resolver of the machine, and is an error beside --endpoints",
    ),
    ("options --discovery-srv-name", "the same"),
    ("check perf", "runs for a minute, on a server of its own: `check_perf`"),
    ("check perf --auto-compact", "the same"),
    ("check perf --auto-defrag", "the same"),
    ("check perf --load", "the same"),
    ("check perf --prefix", "the same"),
];

/// What the variables of the scripts stand for, as far as options go.
const VARIABLES: [(&str, &str); 4] = [
    ("$ROOT", "$TLS --user root --password"),
    ("$ALICE", "$TLS --user alice --password"),
    (
        "$MIRROR",
        "--dest-insecure-transport --dest-cacert --dest-cert --dest-key --dest-user --dest-password",
    ),
    ("$TLS", "--cacert --cert --key"),
];

#[test]
fn every_command_and_option_of_etcdctls_help_is_in_a_script() {
    let Some(etcdctl) = tool("etcdctl") else {
        return skip("etcdctl's help", "no etcdctl (tests/tools/build makes it, and needs Go)");
    };
    let calls = calls();
    let mut missing = BTreeSet::new();
    let mut looked_at = 0;
    let mut check = |name: String, is_there: bool| {
        looked_at += 1;
        if !is_there {
            missing.insert(name);
        }
    };
    for (long, short) in options(&help(&etcdctl, &["options"])) {
        check(format!("options --{long}"), calls.iter().any(|call| has(call, &long, short)));
    }
    let mut commands: Vec<Vec<String>> = children(&help(&etcdctl, &["help"]), &[]);
    while let Some(command) = commands.pop() {
        let words: Vec<&str> = command.iter().map(String::as_str).collect();
        let help = help(&etcdctl, &[&["help"], &words[..]].concat());
        let children = children(&help, &command);
        let name = command.join(" ");
        let mine: Vec<_> =
            calls.iter().filter(|call| call.windows(words.len()).any(|of| of == words)).collect();
        if children.is_empty() {
            check(name.clone(), !mine.is_empty());
        }
        for (long, short) in options(&help).into_iter().filter(|(long, _)| long != "help") {
            check(format!("{name} --{long}"), mine.iter().any(|call| has(call, &long, short)));
        }
        commands.extend(children);
    }
    assert!(looked_at > 120, "the help was not understood: {looked_at} commands and options");
    let left_out: BTreeSet<String> = LEFT_OUT.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(missing, left_out, "commands and options that no script has, and those left out");
}

fn help(etcdctl: &Path, args: &[&str]) -> String {
    let output = Command::new(etcdctl).args(args).output().expect("etcdctl starts");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// The commands below one, with all their words: what stands before the flags in lines that are indented by two.
fn children(help: &str, above: &[String]) -> Vec<Vec<String>> {
    let before_flags = help.lines().take_while(|line| !line.starts_with("Flags:"));
    let lines = before_flags.filter_map(|line| line.strip_prefix("  "));
    let named = lines.filter_map(|line| {
        let (name, what) = line.split_once(' ')?;
        let is_name = name.chars().all(|char| char.is_ascii_lowercase() || char == '-');
        (is_name && !name.is_empty() && name != "etcdctl" && !what.is_empty()).then_some(name)
    });
    named.map(|name| above.iter().cloned().chain([name.to_owned()]).collect()).collect()
}

/// Long names and short ones.
fn options(help: &str) -> Vec<(String, Option<char>)> {
    let option = |line: &str| {
        let line = line.trim_start();
        let (short, line) = match line.strip_prefix('-').and_then(|rest| rest.split_once(", ")) {
            Some((short, rest)) if short.len() == 1 => (short.chars().next(), rest),
            _ => (None, line),
        };
        let name = line.strip_prefix("--")?;
        let end = name.find(|char: char| !char.is_ascii_lowercase() && char != '-');
        let name = &name[..end.unwrap_or(name.len())];
        name.starts_with(|first: char| first.is_ascii_lowercase()).then(|| (name.to_owned(), short))
    };
    help.lines().filter_map(option).collect()
}

fn has(call: &[String], long: &str, short: Option<char>) -> bool {
    call.iter().any(|word| {
        let word = word.split('=').next().unwrap_or_default();
        word.strip_prefix("--") == Some(long)
            || short.is_some_and(|short| {
                word.strip_prefix('-').is_some_and(|of| of.chars().eq([short]))
            })
    })
}

/// The words of every call of etcdctl in the scripts, variables replaced.
fn calls() -> Vec<Vec<String>> {
    let mut calls = Vec::new();
    for line in SCRIPT.lines().chain(TLS_SCRIPT.lines()) {
        if line.starts_with('#') {
            continue;
        }
        let line = line.strip_prefix('!').unwrap_or(line);
        let mut line = match assignment(line) {
            Some((_, command)) => format!("etcdctl {command}"),
            // In several formats.
            None if line.starts_with(['*', '+']) => line.replacen("etcdctl", "etcdctl -w json", 1),
            None => line.to_owned(),
        };
        for (name, options) in VARIABLES {
            line = line.replace(name, options);
        }
        for command in line.split(['|', ';', '&', '(', ')']) {
            if let Some((_, words)) = command.split_once("etcdctl ") {
                calls.push(words.split_whitespace().map(str::to_owned).collect());
            }
        }
    }
    calls
}
