//! `ringd check`, on directories that a real process has written, and on what becomes of them.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use ringd::proto::etcdserverpb as pb;
use tempfile::TempDir;

use crate::block_on;
use crate::client::Client;
use crate::server::{Kind, Server};

const PAGE: usize = 8192;

fn check(dir: &Path, more: &[&str]) -> Output {
    let binary = Kind::Ringd.binary().expect("the binary under test");
    Command::new(binary).arg("check").args(more).arg(dir).output().expect("it runs")
}

/// Exit code and what it printed.
fn outcome(dir: &Path) -> (Option<i32>, String) {
    let output = check(dir, &[]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    (output.status.code(), text + &String::from_utf8_lossy(&output.stderr))
}

fn assert_damaged(dir: &Path, says: &[&str]) {
    let (code, text) = outcome(dir);
    assert_eq!(code, Some(1), "{text}");
    for part in says {
        assert!(text.contains(part), "{part:?} is missing: {text}");
    }
    assert!(text.lines().any(|line| line.starts_with("DAMAGED ")), "{text}");
}

/// What a member has written that had 300 keys, a checkpoint, some more keys, and SIGTERM.
fn written(server: &mut Server) -> PathBuf {
    block_on(async {
        let client = Client::connect(server.client).await;
        for number in 0..330 {
            let key = format!("key-{number:03}").into();
            let put = pb::PutRequest { key, value: vec![7; 200].into(), ..Default::default() };
            client.call("/etcdserverpb.KV/Put", &put).await;
            if number == 299 {
                let defragment = pb::DefragmentRequest {};
                client.call("/etcdserverpb.Maintenance/Defragment", &defragment).await;
            }
        }
    });
    server.stop();
    server.data_dir()
}

/// Names, contents and times of change of all files.
fn everything(dir: &Path) -> BTreeMap<PathBuf, (Vec<u8>, std::time::SystemTime)> {
    let mut all = BTreeMap::new();
    let mut left = vec![dir.to_owned()];
    while let Some(dir) = left.pop() {
        for entry in fs::read_dir(dir).expect("a directory") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                left.push(path);
            } else {
                let modified = fs::metadata(&path).and_then(|meta| meta.modified());
                let content = fs::read(&path).expect("a file");
                all.insert(path, (content, modified.expect("a time")));
            }
        }
    }
    all
}

/// Changes a file, looks, and puts it back.
fn with_change(path: &Path, change: impl FnOnce(&mut Vec<u8>), look: impl FnOnce()) {
    let before = fs::read(path).expect("a file");
    let mut content = before.clone();
    change(&mut content);
    fs::write(path, content).expect("written");
    look();
    fs::write(path, before).expect("written");
}

#[test]
fn a_data_directory_is_checked_and_damage_is_named_with_file_and_offset() {
    let mut server = Server::start(Kind::Ringd, &[]);
    let (code, text) = outcome(&server.data_dir());
    assert_eq!(code, Some(2), "{text}");
    assert!(text.contains("in use by another process"), "{text}");

    let dir = written(&mut server);
    let before = everything(&dir);
    let (code, text) = outcome(&dir);
    assert_eq!(code, Some(0), "{text}");
    assert!(text.ends_with("\nlog and store fit together\nsound\n"), "{text}");
    let json = check(&dir, &["--json"]);
    let json: serde_json::Value = serde_json::from_slice(&json.stdout).expect("JSON");
    assert_eq!((&json["sound"], &json["clean_stop"]), (&true.into(), &true.into()));
    let entry = |part: &str, name: &str| json[part][name].as_u64().expect("a number");
    assert!(entry("store", "entry") >= 300 && entry("log", "last_entry") >= 330, "{json}");
    assert!(everything(&dir) == before, "a check changes nothing");

    let store = dir.join("member/ringd/store");
    let log = dir.join("member/ringd/wal");
    let first = log.join("0000000000000001.log");
    let first_name = first.display().to_string();
    let store_name = store.display().to_string();

    with_change(
        &first,
        |bytes| bytes[100] ^= 4,
        || {
            assert_damaged(&dir, &[&format!("{first_name} at offset 0: rot")]);
        },
    );
    with_change(
        &first,
        |bytes| bytes.truncate(5000),
        || {
            assert_damaged(&dir, &[&format!("{first_name} at offset 5000"), "multiple of 4096"]);
        },
    );
    with_change(
        &store,
        |bytes| bytes.truncate(4 * PAGE),
        || {
            assert_damaged(&dir, &[&store_name, "and the file has 32768"]);
        },
    );

    // Pages that no meta reaches any more may hold anything; all others are found.
    let content = fs::read(&store).expect("a file");
    let nodes = (2..content.len() / PAGE).filter(|page| matches!(content[page * PAGE + 16], 2..=5));
    let (mut found, mut free) = (0, 0);
    for page in nodes {
        with_change(
            &store,
            |bytes| bytes[page * PAGE + 500] ^= 1,
            || {
                let (code, text) = outcome(&dir);
                let place = format!("page {page} at offset {}", page * PAGE);
                let named = text.contains(&place)
                    || text.contains(&format!("at offset {}: page {page}:", page * PAGE));
                assert_eq!(code == Some(1), named, "{text}");
                found += usize::from(named);
                free += usize::from(code == Some(0));
            },
        );
    }
    assert!(found > 5, "{found} of the pages were in use, {free} were not");

    // A segment in the middle is gone, then the oldest one, then all of the log.
    let (moved, third) = (dir.join("moved"), log.join("0000000000000003.log"));
    fs::write(&third, [0_u8; PAGE]).expect("written");
    assert_damaged(&dir, &["0000000000000002.log: the segment is missing"]);
    fs::rename(&first, &moved).expect("moved");
    assert_damaged(&dir, &["0000000000000003.log at offset 0: no beginning"]);
    fs::remove_file(&third).expect("removed");
    assert_damaged(&dir, &["the end of the log has been lost"]);
    fs::rename(&moved, &first).expect("moved");
    assert_eq!(outcome(&dir).0, Some(0));
    server.run().expect("it starts again");
}

#[test]
fn what_cannot_be_checked_is_one_line() {
    let home = TempDir::new().expect("a temporary directory");
    let etcd = home.path().join("etcd");
    fs::create_dir_all(etcd.join("member/snap")).expect("a directory");
    fs::write(etcd.join("member/snap/db"), b"").expect("a file");
    let nothing = home.path().join("nothing");
    for (dir, says) in
        [(&etcd, "holds the data of an etcd member"), (&nothing, "holds no data of a member")]
    {
        let output = check(dir, &[]);
        let line = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{line}");
        assert!(line.lines().count() == 1 && line.contains(says), "{line}");
        assert!(output.stdout.is_empty());
    }
    assert!(!nothing.exists());
    assert_eq!(everything(&etcd).len(), 1, "nothing is left in it");
    let output = check(home.path(), &["--nope"]);
    assert_eq!(output.status.code(), Some(2));
    let output = check(home.path(), &["--help"]);
    assert!(String::from_utf8_lossy(&output.stdout).contains("Exit code 0: sound"));
}
