//! The program as it meets an operator: what it prints, and with what code it ends.

use std::process::{Command, Output};

fn ringd(args: &[&str], env: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ringd"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("ETCD_") {
            command.env_remove(name);
        }
    }
    command.args(args).envs(env.iter().copied()).output().expect("the program starts")
}

/// Arguments, environment, and the line that they get.
type Case<'a> = (&'a [&'a str], &'a [(&'a str, &'a str)], &'a str);

#[test]
fn bad_flags_are_one_line_and_exit_code_two() {
    let cases: &[Case<'_>] = &[
        (&["--nope"], &[], "flag provided but not defined: -nope\n"),
        (
            &["--listen-client-urls=http://127.0.0.1:1"],
            &[],
            "--advertise-client-urls is required when --listen-client-urls is set explicitly\n",
        ),
        (
            &[],
            &[("ETCD_UNSAFE_NO_FSYNC", "maybe")],
            "invalid value \"maybe\" for ETCD_UNSAFE_NO_FSYNC: must be true or false\n",
        ),
        (
            &["--config-file", "/no/such/file"],
            &[],
            "cannot read the configuration file /no/such/file: No such file or directory (os error 2)\n",
        ),
        (&["completion", "tcsh"], &[], "completion for \"tcsh\": must be one of bash, zsh, fish\n"),
        (
            &["--cert-file", "server.crt"],
            &[],
            "--cert-file and --key-file must both be present or both absent (cert: \"server.crt\", key: \"\")\n",
        ),
    ];
    for (args, env, line) in cases {
        let output = ringd(args, env);
        assert_eq!(output.status.code(), Some(2), "{args:?} {env:?}");
        assert_eq!(String::from_utf8_lossy(&output.stderr), *line, "{args:?} {env:?}");
        assert!(output.stdout.is_empty(), "{args:?} {env:?}");
    }
}

#[test]
fn the_version_is_four_lines_as_etcds() {
    let output = ringd(&["--version"], &[("ETCD_NAME", "not looked at")]);
    assert_eq!(output.status.code(), Some(0));
    let text = String::from_utf8(output.stdout).unwrap();
    let heads: Vec<_> = text.lines().map(|line| line.split(": ").next().unwrap()).collect();
    assert_eq!(heads, ["etcd Version", "Git SHA", "Go Version", "Go OS/Arch"]);
    assert!(output.stderr.is_empty());
}

#[test]
fn help_goes_to_stdout() {
    for flag in ["--help", "-h"] {
        let output = ringd(&[flag], &[]);
        assert_eq!(output.status.code(), Some(0));
        assert!(String::from_utf8_lossy(&output.stdout).contains("--listen-client-urls"));
        assert!(output.stderr.is_empty());
    }
}

#[test]
fn completions_are_taken_by_their_shells_where_these_are() {
    for (shell, args) in [("bash", &["-n"][..]), ("zsh", &["-n"]), ("fish", &["--no-execute"])] {
        let output = ringd(&["completion", shell], &[]);
        assert_eq!(output.status.code(), Some(0));
        let folder = tempfile::tempdir().unwrap();
        let script = folder.path().join("script");
        std::fs::write(&script, output.stdout).unwrap();
        // A shell that is not there checks nothing.
        if let Ok(checked) = Command::new(shell).args(args).arg(&script).output() {
            assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
        }
    }
    let man = ringd(&["man"], &[]);
    assert_eq!(man.status.code(), Some(0));
    assert!(man.stdout.starts_with(b".TH RINGD 8\n"));
}
