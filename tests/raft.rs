//! Conversations between members of a Raft cluster, as text. Each file of `raft/testdata` opens
//! with prose that says what it shows; then come commands (`> ...`, see `raft/script.rs`) and under
//! each what happens. `UPDATE=1` rewrites what happens; a change of it is then to be read like a
//! change of code.

#[path = "raft/cluster.rs"]
mod cluster;
#[path = "raft/script.rs"]
mod script;
#[path = "raft/show.rs"]
mod show;

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

use ringd::raft::Mark;

fn testdata() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/raft/testdata");
    let entries = fs::read_dir(&folder).expect("the folder of the test data");
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.expect("a file").path()).collect();
    files.retain(|file| file.extension().is_some_and(|extension| extension == "txt"));
    files.sort();
    files
}

#[test]
fn members_talk_as_the_texts_say() {
    let update = std::env::var_os("UPDATE").is_some();
    let files = testdata();
    assert!(files.len() > 20, "the test data is missing");
    let mut differing = Vec::new();
    let mut marks = HashSet::new();
    for file in files {
        let name = file.file_name().expect("a name").to_string_lossy().into_owned();
        let expected = fs::read_to_string(&file).expect("a text");
        assert!(expected.starts_with("# "), "{name} does not open with prose");
        let (found, taken) = script::run(&name, &expected);
        marks.extend(taken);
        if found != expected {
            if update {
                fs::write(&file, &found).expect("a file to write");
            } else {
                differing.push(difference(&name, &expected, &found));
            }
        }
    }
    assert!(differing.is_empty(), "{}\nUPDATE=1 rewrites", differing.join("\n"));
    let never: Vec<&Mark> = Mark::ALL.iter().filter(|mark| !marks.contains(mark)).collect();
    assert!(never.is_empty(), "turns that no text takes: {never:?}");
}

/// The first line that differs, with what stands before it.
fn difference(name: &str, expected: &str, found: &str) -> String {
    let mut expected = expected.lines();
    let mut before = Vec::new();
    for (number, line) in found.lines().enumerate() {
        let wanted = expected.next().unwrap_or("(the end)");
        if wanted != line {
            let context = before.split_off(before.len().saturating_sub(5)).join("\n  ");
            let number = number + 1;
            return format!("{name}:{number}\n  {context}\n- {wanted}\n+ {line}");
        }
        before.push(line);
    }
    format!("{name}: the end is missing")
}
