use super::*;
use files::journal;
use std::os::unix::fs::PermissionsExt;

const IMAGE: &[u8] = b"an empty store";

fn open(data_dir: &Path, wal_dir: Option<&Path>) -> Result<DataDir, DataDirError> {
    DataDir::open(data_dir, wal_dir, |_| IMAGE.to_vec())
}

fn write(path: PathBuf, content: &[u8]) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, content).unwrap();
}

/// One way a directory is unusable: what is done to it before it is opened, and what the line says.
struct Case {
    name: &'static str,
    prepare: fn(data: &Path, wal: &Path),
    separate_wal: bool,
    says: &'static [&'static str],
}

const CASES: &[Case] = &[
    Case {
        name: "an etcd data directory by its database",
        prepare: |data, _| write(data.join("member/snap/db"), b"bbolt"),
        separate_wal: false,
        says: &["holds the data of an etcd member", "member/snap/db", "--data-dir"],
    },
    Case {
        name: "an etcd data directory by its log",
        prepare: |data, _| {
            write(data.join("member/wal/0000000000000000-0000000000000000.wal"), b"")
        },
        separate_wal: false,
        says: &["holds the data of an etcd member", ".wal)", "--data-dir"],
    },
    Case {
        name: "an etcd log directory",
        prepare: |_, wal| write(wal.join("0000000000000000-0000000000000000.wal"), b""),
        separate_wal: true,
        says: &["holds the log of an etcd member", "--wal-dir"],
    },
    Case {
        name: "a file where the directory should be",
        prepare: |data, _| write(data.to_owned(), b""),
        separate_wal: false,
        says: &["cannot be used", "make it a directory"],
    },
    Case {
        name: "a newer format",
        prepare: |data, _| {
            drop(open(data, None).unwrap());
            let text = format_text([7; 16]).replace("format 2", "format 3");
            write(data.join("member/ringd/format"), text.as_bytes());
        },
        separate_wal: false,
        says: &["has format 3", "reads format 2", "use the version that wrote it"],
    },
    Case {
        name: "a format from before the first release",
        prepare: |data, _| {
            drop(open(data, None).unwrap());
            let text = format_text([7; 16]).replace("format 2", "format 1");
            write(data.join("member/ringd/format"), text.as_bytes());
        },
        separate_wal: false,
        says: &["has format 1", "reads format 2", "use the version that wrote it"],
    },
    Case {
        name: "a log of another format",
        prepare: |data, _| {
            drop(open(data, None).unwrap());
            let log = data.join("member/ringd/wal/format");
            let text = std::fs::read_to_string(&log).unwrap().replace("format 2", "format 3");
            write(log, text.as_bytes());
        },
        separate_wal: false,
        says: &["does not belong to data directory", "its format is another"],
    },
    Case {
        name: "a format file of garbage",
        prepare: |data, _| {
            drop(open(data, None).unwrap());
            write(data.join("member/ringd/format"), b"\xff\x00");
        },
        separate_wal: false,
        says: &["is damaged", "member/ringd/format"],
    },
    Case {
        name: "no store",
        prepare: |data, _| {
            drop(open(data, None).unwrap());
            std::fs::remove_file(data.join("member/ringd/store")).unwrap();
        },
        separate_wal: false,
        says: &["is damaged", "member/ringd/store", "missing"],
    },
    Case {
        name: "started with --wal-dir first and without it now",
        prepare: |data, wal| drop(open(data, Some(wal)).unwrap()),
        separate_wal: false,
        says: &["does not belong to data directory", "holds no log of this member"],
    },
    Case {
        name: "started without --wal-dir first and with it now",
        prepare: |data, _| drop(open(data, None).unwrap()),
        separate_wal: true,
        says: &["does not belong to data directory", "holds no log of this member"],
    },
    Case {
        name: "the log directory of another member",
        prepare: |data, wal| {
            drop(open(data, None).unwrap());
            drop(open(&data.with_extension("other"), Some(wal)).unwrap());
        },
        separate_wal: true,
        says: &["does not belong to data directory", "its identity is another"],
    },
    Case {
        name: "a new member on the log of another",
        prepare: |data, wal| {
            drop(open(&data.with_extension("other"), Some(wal)).unwrap());
            write(wal.join(wal::SegmentId(1).file_name()), b"");
        },
        separate_wal: true,
        says: &["does not belong to data directory", "the log of another member"],
    },
];

#[test]
fn every_unusable_directory_is_refused_with_one_line_that_says_which_and_what_to_do() {
    for case in CASES {
        let temp = tempfile::tempdir().unwrap();
        let (data, wal) = (temp.path().join("data"), temp.path().join("wal"));
        (case.prepare)(&data, &wal);
        let error = open(&data, case.separate_wal.then_some(wal.as_path()))
            .map(drop)
            .expect_err(case.name)
            .to_string();
        for part in case.says {
            assert!(error.contains(part), "{}: {error}", case.name);
        }
        assert!(!error.contains('\n'), "{}: {error}", case.name);
        assert!(error.contains(temp.path().to_str().unwrap()), "{}: {error}", case.name);
    }
}

#[test]
fn a_directory_in_use_is_refused_until_it_is_let_go() {
    let temp = tempfile::tempdir().unwrap();
    let held = open(temp.path(), None).unwrap();
    let error = open(temp.path(), None).map(drop).unwrap_err().to_string();
    assert!(error.contains("is in use by another process"), "{error}");
    drop(held);
    open(temp.path(), None).unwrap();
}

#[test]
fn a_directory_that_may_not_be_written_is_refused() {
    // SAFETY: no arguments, no memory; it only asks who we are.
    if unsafe { libc::geteuid() } == 0 {
        // Permissions do not bind root; a path below a file fails in the same place for anyone.
        let error = open(Path::new("/dev/null/data"), None).map(drop).unwrap_err().to_string();
        assert!(error.contains("cannot be used"), "{error}");
        return;
    }
    let temp = tempfile::tempdir().unwrap();
    std::fs::set_permissions(temp.path(), std::fs::Permissions::from_mode(0o500)).unwrap();
    let error = open(&temp.path().join("data"), None).map(drop).unwrap_err().to_string();
    assert!(error.contains("Permission denied"), "{error}");
}

#[test]
fn nothing_is_written_into_the_directory_of_an_etcd_member() {
    let temp = tempfile::tempdir().unwrap();
    write(temp.path().join("member/snap/db"), b"bbolt");
    open(temp.path(), None).map(drop).unwrap_err();
    assert_eq!(std::fs::read_dir(temp.path().join("member")).unwrap().count(), 1);
}

#[test]
fn a_crash_after_any_step_of_the_first_initialisation_is_made_good_by_the_next_start() {
    for separate in [false, true] {
        for steps in 0..=STEPS.len() {
            let temp = tempfile::tempdir().unwrap();
            let (data, wal) = (temp.path().join("data"), temp.path().join("wal"));
            let wal_dir = separate.then_some(wal.as_path());
            let names = Names::new(&data, wal_dir);
            files::create_dir_durably(&names.member).unwrap();
            for step in &STEPS[..steps] {
                names.initialise(*step, [1; 16], b"the image of the first attempt").unwrap();
            }
            let opened = open(&data, wal_dir).unwrap();
            let published = steps == STEPS.len();
            let expected: &[u8] = if published { b"the image of the first attempt" } else { IMAGE };
            assert_eq!(
                std::fs::read(opened.store_path()).unwrap(),
                expected,
                "after {steps} steps"
            );
            assert!(opened.wal_path().is_dir());
            assert!(!names.temp.exists());
        }
    }
}

#[test]
fn only_a_stop_that_was_announced_counts_as_clean() {
    let temp = tempfile::tempdir().unwrap();
    let first = open(temp.path(), None).unwrap();
    assert!(!first.was_unclean(), "a new directory has no past");
    drop(first);
    let second = open(temp.path(), None).unwrap();
    assert!(second.was_unclean());
    second.mark_stopped().unwrap();
    drop(second);
    assert!(!open(temp.path(), None).unwrap().was_unclean());
}

#[test]
fn the_format_file_reads_back_and_damage_is_noticed() {
    let text = format_text([0xab; 16]);
    assert_eq!(parse_format(&text), Some((FORMAT, [0xab; 16])));
    assert_eq!(parse_format(&format!("{text}later line\n")), Some((FORMAT, [0xab; 16])));
    for cut in 0..text.len() - 1 {
        assert_eq!(parse_format(&text[..cut]), None, "cut at {cut}");
    }
}

/// The power goes after any single operation of the first start, and of what was not synced any part is
/// lost: the next start makes a whole directory of it, and finds the first one again if that start had
/// come to its end.
#[test]
fn a_crash_at_any_operation_of_the_first_initialisation_is_made_good_by_the_next_start() {
    let mut crashes = 0;
    for separate in [false, true] {
        let temp = tempfile::tempdir().unwrap();
        let dirs = |home: &Path| (home.join("data"), home.join("wal"));
        let first_home = temp.path().join("first");
        std::fs::create_dir(&first_home).unwrap();
        let (data, wal) = dirs(&first_home);
        let (opened, steps) = journal::record(|| open(&data, separate.then_some(wal.as_path())));
        let opened = opened.unwrap();
        let format = std::fs::read(opened.root.join("format")).unwrap();
        assert!(steps.len() > 20, "{steps:#?}");
        let published = steps
            .iter()
            .position(|step| matches!(step, journal::Step::Rename(_, to) if *to == opened.root))
            .unwrap();
        for crash_at in 0..=steps.len() {
            for pattern in 0..48u64 {
                let home = temp.path().join(format!("{separate}-{crash_at}-{pattern}"));
                std::fs::create_dir(&home).unwrap();
                // All kept, all lost, and mixtures.
                let mut bits = match pattern {
                    0 => 0,
                    1 => u64::MAX,
                    _ => pattern.wrapping_mul(0x9E37_79B9_7F4A_7C15),
                };
                let mut kept = || {
                    bits = bits.rotate_right(1);
                    bits & 1 == 1
                };
                journal::leave(&steps[..crash_at], &first_home, &home, &mut kept);
                let (data, wal) = dirs(&home);
                let again = open(&data, separate.then_some(wal.as_path()))
                    .unwrap_or_else(|error| panic!("{crash_at}, {pattern}: {error}"));
                assert_eq!(std::fs::read(again.store_path()).unwrap(), IMAGE);
                let found = std::fs::read(again.root.join("format")).unwrap();
                // Behind the sync of the rename.
                if crash_at >= published + 2 {
                    assert_eq!(found, format, "{crash_at}, {pattern}: another member");
                }
                crashes += 1;
                drop(again);
                std::fs::remove_dir_all(&home).unwrap();
            }
        }
    }
    println!("{crashes} crashes");
}
