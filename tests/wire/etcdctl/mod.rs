//! etcdctl, the newest and Debian's 3.4: the same commands against ringd and against a real etcd write the same.
//!
//! The commands are data, in `script.txt`, and in `tls.txt` for TLS with users. Each server gets its own run, and afterwards the two are compared command by
//! command; with `RINGD_SHOW` in the environment all of it is printed. Masked is what two servers may differ in: addresses, lease ids, terms, indices, sizes, durations.

mod coverage;
mod normal;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use ringd::tls::authority::Order;
use tempfile::TempDir;

use crate::server::{CLIENT, Kind, PATIENCE, Server, etcd_or_skip, skip, tool};
use crate::tls::Pki;

const SCRIPT: &str = include_str!("script.txt");
const TLS_SCRIPT: &str = include_str!("tls.txt");
const SERVER: [&str; 2] = ["--unsafe-no-fsync", "--bcrypt-cost=4"];
const NO_LINE: &str = "no further line";
const FORMATS: [&str; 3] = ["simple", "json", "fields"];

#[test]
fn the_newest_etcdctl_writes_the_same_as_against_etcd() {
    match tool("etcdctl") {
        Some(etcdctl) => compare("etcdctl", SCRIPT, |kind| Session::plain(kind, &etcdctl, true)),
        None => skip("etcdctl", "no etcdctl (tests/tools/build makes it, and needs Go)"),
    }
}

#[test]
fn etcdctl_3_4_writes_the_same_as_against_etcd() {
    let etcdctl = Path::new("/usr/bin/etcdctl");
    if etcdctl.is_file() {
        compare("etcdctl 3.4", SCRIPT, |kind| Session::plain(kind, etcdctl, false));
    } else {
        skip("etcdctl 3.4", "no /usr/bin/etcdctl (tests/tools/install-debian installs it)");
    }
}

#[test]
fn etcdctl_writes_the_same_as_against_etcd_over_tls_as_a_user() {
    let Some(etcdctl) = tool("etcdctl") else {
        return skip("etcdctl as a user", "no etcdctl (tests/tools/build makes it, and needs Go)");
    };
    let mut pki = Pki::new();
    pki.issue("server", &Order::new("server", &["localhost", "127.0.0.1"]));
    pki.issue("alice", &Order::new("alice", &[]));
    let pki = pki;
    std::thread::scope(|scope| {
        scope.spawn(|| check_perf(&etcdctl));
        compare("etcdctl as a user", TLS_SCRIPT, |kind| Session::secure(kind, &etcdctl, &pki));
    });
}

/// Takes a minute, whatever the server. How fast it is found to be, is left open.
fn check_perf(etcdctl: &Path) {
    let server = Server::start(Kind::Ringd, &SERVER);
    let args = "check perf --load=s --prefix=perf/ --auto-compact --auto-defrag";
    let output = Command::new(etcdctl)
        .env("ETCDCTL_ENDPOINTS", server.endpoint())
        .args(args.split(' '))
        .output()
        .expect("etcdctl starts");
    let written = String::from_utf8_lossy(&output.stdout);
    for part in ["Compacted with", "Defragmented", "Throughput", "Slowest request", "Stddev"] {
        assert!(written.contains(part), "no {part}: {output:?}");
    }
    assert!(!written.contains("too many errors"), "{output:?}");
}

fn compare(test: &str, script: &str, start: impl Fn(Kind) -> Session + Sync) {
    let start = &start;
    if etcd_or_skip(test).is_none() {
        return;
    }
    let [ringd, etcd] = std::thread::scope(|scope| {
        [Kind::Ringd, Kind::Etcd]
            .map(|kind| scope.spawn(move || start(kind).run(script)))
            .map(|run| run.join().expect("a run of the script"))
    });
    let mut report = String::new();
    for (ringd, etcd) in ringd.iter().zip(&etcd) {
        if ringd != etcd {
            let _ = writeln!(report, "{}\n--- ringd\n{}\n--- etcd\n{}\n", etcd.0, ringd.1, etcd.1);
        }
    }
    if std::env::var_os("RINGD_SHOW").is_some() {
        for (command, written) in &etcd {
            println!("$ {command}\n{written}\n");
        }
    }
    assert_eq!(ringd.len(), etcd.len(), "one run is shorter");
    assert!(etcd.len() > 100, "the script is hardly run");
    for (command, written) in &etcd {
        assert!(
            !written.contains(NO_LINE),
            "the script expects too many lines of {command}: {written}"
        );
    }
    assert!(report.is_empty(), "{test} writes something else:\n\n{report}");
}

/// A command as the script has it, and what came of it.
type Outcome = (String, String);

struct Session {
    server: Server,
    dir: TempDir,
    bin: PathBuf,
    newest: bool,
    /// Names of the script and their values.
    variables: BTreeMap<String, String>,
    background: Option<(Child, usize, String)>,
    outcomes: Vec<Outcome>,
}

impl Session {
    fn plain(kind: Kind, etcdctl: &Path, newest: bool) -> Session {
        let session = Session::new(Server::start(kind, &SERVER), etcdctl, newest);
        session.settle();
        session
    }

    fn secure(kind: Kind, etcdctl: &Path, pki: &Pki) -> Session {
        let mut args = pki.mutual();
        args.push("--watch-progress-notify-interval=200ms".to_owned());
        args.push(format!("--advertise-client-urls=https://{CLIENT}"));
        let args: Vec<&str> = SERVER.into_iter().chain(args.iter().map(String::as_str)).collect();
        let mut session = Session::new(Server::start_tls(kind, &args), etcdctl, true);
        let files = [("cacert", "ca.pem"), ("cert", "alice.pem"), ("key", "alice-key.pem")];
        let flags = |prefix: &str| {
            let flags = files.map(|(flag, file)| pki.flag(&format!("{prefix}{flag}"), file));
            flags.join(" ")
        };
        let at = format!("https://{}", session.server.endpoint());
        let tls = flags("");
        let mirror = format!(
            "--dest-insecure-transport=false {} --dest-user root --dest-password rootpw {at}",
            flags("dest-")
        );
        let dir = session.dir.path().display().to_string();
        for (name, value) in [
            ("ROOT", format!("{tls} --user root --password rootpw")),
            ("ALICE", format!("{tls} --user alice --password alicepw")),
            ("TLS", tls),
            ("MIRROR", mirror),
            ("DIR", dir),
            ("ETCDCTL_ENDPOINTS", at),
        ] {
            session.variables.insert(name.to_owned(), value);
        }
        session.settle();
        session
    }

    fn new(server: Server, etcdctl: &Path, newest: bool) -> Session {
        let bin = etcdctl.parent().expect("a folder").to_path_buf();
        let dir = TempDir::new().expect("a temporary directory");
        let (variables, outcomes) = (BTreeMap::new(), Vec::new());
        Session { server, dir, bin, newest, variables, background: None, outcomes }
    }

    /// Etcd finds out which version its storage has some seconds after its start.
    fn settle(&self) {
        let started = Instant::now();
        while self.newest
            && !self.write_of("etcdctl $TLS -w json endpoint status").contains("3.7.0")
        {
            assert!(started.elapsed() < PATIENCE, "{} has no storage version", self.server.kind);
        }
    }

    fn run(mut self, script: &str) -> Vec<Outcome> {
        for line in script.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
            let line = match line.strip_prefix('!') {
                Some(_) if !self.newest => continue,
                Some(line) => line,
                None => line,
            };
            let in_format =
                |line: &str, format| line.replacen("etcdctl", &format!("etcdctl -w {format}"), 1);
            if let Some(line) = line.strip_prefix('*') {
                for format in FORMATS {
                    self.step(&in_format(line, format));
                }
            } else if let Some(line) = line.strip_prefix('+') {
                self.step(&in_format(line, "table"));
            } else {
                self.step(line);
            }
        }
        self.outcomes
    }

    fn step(&mut self, line: &str) {
        let written = if line == "wait" {
            let (child, lines, _) =
                self.background.take().expect("something runs in the background");
            first_lines(child, lines)
        } else if let Some((lines, command)) = counted(line, '&') {
            let child = self.shell(command).stdout(Stdio::piped()).spawn().expect("a shell");
            self.background = Some((child, lines, command.to_owned()));
            return;
        } else if let Some((lines, command)) = counted(line, '~') {
            let child = self.shell(command).stdout(Stdio::piped()).spawn().expect("a shell");
            first_lines(child, lines)
        } else if let Some((name, command)) = assignment(line) {
            if command == "revision" {
                let written = self.write_of("etcdctl $ROOT -w json get nothing");
                let after = written.split_once("\"revision\":").expect("a revision").1;
                let digits = after.split(|char: char| !char.is_ascii_digit()).next();
                self.variables.insert(name.to_owned(), digits.unwrap_or_default().to_owned());
                return;
            }
            let written = self.write_of(&format!("etcdctl {command}"));
            let id = written.split_whitespace().nth(1).expect("lease ID granted").to_owned();
            self.variables.insert(name.to_owned(), id);
            written
        } else {
            self.write_of(line)
        };
        let normal = normal::normal(&written, line, &self.server.endpoint(), &self.variables);
        self.outcomes.push((line.to_owned(), normal));
    }

    fn shell(&self, command: &str) -> Command {
        let mut shell = Command::new("/bin/sh");
        shell
            .arg("-c")
            // A process that is to be ended must be the child itself.
            .arg(if command.starts_with("etcdctl") {
                format!("exec {command}")
            } else {
                command.to_owned()
            })
            .env_clear()
            .env("PATH", format!("{}:/usr/bin:/bin", self.bin.display()))
            .env("ETCDCTL_ENDPOINTS", self.server.endpoint())
            .envs((!self.newest).then_some(("ETCDCTL_API", "3")))
            .envs(&self.variables)
            .stdin(Stdio::null())
            .stderr(Stdio::inherit());
        shell
    }

    /// Everything that a command writes, and how it ends.
    fn write_of(&self, command: &str) -> String {
        let output = self
            .shell(command)
            .stderr(Stdio::piped())
            .output()
            .unwrap_or_else(|err| panic!("{command}: {err}"));
        let mut written = String::from_utf8_lossy(&output.stdout).into_owned();
        if !output.stderr.is_empty() {
            let _ = write!(written, "stderr:\n{}", String::from_utf8_lossy(&output.stderr));
        }
        if !output.status.success() {
            let _ = write!(written, "{}", output.status);
        }
        written
    }
}

fn counted(line: &str, mark: char) -> Option<(usize, &str)> {
    let (lines, command) = line.strip_prefix(mark)?.split_once(' ')?;
    Some((lines.parse().expect("a number of lines"), command))
}

fn assignment(line: &str) -> Option<(&str, &str)> {
    let (name, command) = line.split_once(" = ")?;
    let is_name = |char: char| char.is_ascii_uppercase() || char.is_ascii_digit();
    name.chars().all(is_name).then_some((name, command))
}

/// Ends the process when it has written so many lines, or when patience ends.
fn first_lines(mut child: Child, lines: usize) -> String {
    let output = child.stdout.take().expect("piped");
    let (sender, receiver) = std::sync::mpsc::channel();
    std::thread::spawn(move || read_lines(output, &sender));
    let mut written = String::new();
    for _ in 0..lines {
        match receiver.recv_timeout(PATIENCE) {
            Ok(line) => written.push_str(&line),
            Err(err) => {
                let _ = writeln!(written, "{NO_LINE}: {err}");
                break;
            }
        }
    }
    let _ = child.kill();
    let _ = child.wait();
    written
}

fn read_lines(output: impl Read, sender: &std::sync::mpsc::Sender<String>) {
    let mut output = BufReader::new(output);
    loop {
        let mut line = Vec::new();
        match output.read_until(b'\n', &mut line) {
            Ok(length) if length > 0 => {}
            _ => break,
        }
        if sender.send(String::from_utf8_lossy(&line).into_owned()).is_err() {
            break;
        }
    }
}
