//! A server process of the test: ringd, or a real etcd to compare it with.
//!
//! Invariants: a server has its own data directory and its own loopback ports; it is ended through its own child
//! handle and by nothing else, at the latest when it is dropped; a server that panicked fails its test.
//! What it writes to stdout and stderr is kept, and waiting for it to be ready is waiting for its log line.

use std::fmt;
use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use tempfile::TempDir;

use crate::ports::free_ports;

/// Guards against a hang; a server that is well needs a fraction of it.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// Stands in arguments for the address that clients come to.
pub const CLIENT: &str = "{client}";
const READY: &str = "ready to serve client requests";
/// Something that is no test may take a port between its choice and its use.
const STARTS_MAX: usize = 5;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    Ringd,
    Etcd,
}

impl Kind {
    /// The binary, or `None` when it is not there (only a real etcd can be missing).
    pub fn binary(self) -> Option<PathBuf> {
        match self {
            Kind::Ringd => Some(
                std::env::var_os("RINGD_BIN")
                    .map_or_else(|| PathBuf::from(env!("CARGO_BIN_EXE_ringd")), PathBuf::from),
            ),
            Kind::Etcd => tool("etcd"),
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::Ringd => "ringd",
            Kind::Etcd => "etcd",
        })
    }
}

/// A program that `tests/tools/build` has made.
pub fn tool(name: &str) -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tools/bin").join(name);
    path.is_file().then_some(path)
}

/// Says once per test, in one line, why it did not run.
pub fn skip(test: &str, why: &str) {
    eprintln!("skipped {test}: {why}");
}

/// Etcd's path, or the line that says that the test is skipped.
pub fn etcd_or_skip(test: &str) -> Option<PathBuf> {
    let found = Kind::Etcd.binary();
    if found.is_none() {
        skip(test, "no etcd to compare with (tests/tools/build makes it, and needs Go)");
    }
    found
}

/// ringd, and a real etcd beside it where there is one: for tests whose expectations are etcd's own answers.
pub fn kinds() -> Vec<Kind> {
    [Kind::Ringd, Kind::Etcd].into_iter().filter(|kind| kind.binary().is_some()).collect()
}

enum Home {
    Own(TempDir),
    Given(PathBuf),
}

/// What else is to be done to the command of a server before it is run.
pub type Prepare = Arc<dyn Fn(&mut Command) + Send + Sync>;

pub struct Server {
    pub kind: Kind,
    pub client: SocketAddr,
    peer: SocketAddr,
    home: Home,
    args: Vec<String>,
    scheme: &'static str,
    prepare: Option<Prepare>,
    running: Option<Running>,
}

struct Running {
    child: Child,
    log: Arc<Mutex<Vec<String>>>,
    /// They end when the outputs do.
    readers: Vec<JoinHandle<()>>,
}

/// Why a server did not start: how it ended, and what it wrote.
#[derive(Debug)]
pub struct Ended {
    pub status: ExitStatus,
    pub log: Vec<String>,
}

impl Server {
    pub fn start(kind: Kind, args: &[&str]) -> Server {
        Self::start_in(kind, "http", args, None, None)
    }

    /// ringd, from a command that is not an ordinary one.
    pub fn start_prepared(scheme: &'static str, args: &[&str], prepare: Prepare) -> Server {
        Self::start_in(Kind::Ringd, scheme, args, None, Some(prepare))
    }

    /// Clients need TLS; `args` say which.
    pub fn start_tls(kind: Kind, args: &[&str]) -> Server {
        Self::start_in(kind, "https", args, None, None)
    }

    pub fn start_tls_at(kind: Kind, args: &[&str], data_dir: &Path) -> Server {
        Self::start_in(kind, "https", args, Some(data_dir), None)
    }

    /// With a data directory that outlives the server.
    pub fn start_at(kind: Kind, args: &[&str], data_dir: &Path) -> Server {
        Self::start_in(kind, "http", args, Some(data_dir), None)
    }

    fn start_in(
        kind: Kind,
        scheme: &'static str,
        args: &[&str],
        data_dir: Option<&Path>,
        prepare: Option<Prepare>,
    ) -> Server {
        let mut endings = Vec::new();
        for _ in 0..STARTS_MAX {
            let home = match data_dir {
                Some(dir) => Home::Given(dir.to_path_buf()),
                None => Home::Own(TempDir::new().expect("a temporary directory")),
            };
            let [client, peer] = free_ports();
            let args = args.iter().map(|arg| (*arg).to_owned()).collect();
            let prepare = prepare.clone();
            let mut server =
                Server { kind, client, peer, home, args, scheme, prepare, running: None };
            match server.run() {
                Ok(()) => return server,
                Err(ended) if ended.log.iter().any(|line| line.contains("in use")) => {
                    endings.push(ended);
                }
                Err(ended) => panic!("{kind} did not start: {ended:#?}"),
            }
        }
        panic!("{kind} found no free ports: {endings:#?}")
    }

    /// Starts the process on the same directory and ports, and returns when it serves.
    pub fn run(&mut self) -> Result<(), Ended> {
        self.run_watched(|_| {})
    }

    /// The same, and says its process id as soon as there is one.
    pub fn run_watched(&mut self, begun: impl FnOnce(u32)) -> Result<(), Ended> {
        assert!(self.running.is_none(), "the server runs already");
        let (mut running, ready) = launch(&mut self.command());
        begun(running.child.id());
        match ready.recv_timeout(PATIENCE) {
            Ok(()) => {
                self.running = Some(running);
                Ok(())
            }
            Err(RecvTimeoutError::Disconnected) => {
                let status = running.child.wait().expect("waiting for a child");
                Err(Ended { status, log: take_log(&running.log) })
            }
            Err(RecvTimeoutError::Timeout) => {
                let _ = running.child.kill();
                let status = running.child.wait().expect("waiting for a child");
                Err(Ended { status, log: take_log(&running.log) })
            }
        }
    }

    /// The command line of this server. Both kinds advertise the same addresses, so that their member and cluster ids
    /// are equal, too; nobody dials them in a cluster of one.
    pub fn command(&self) -> Command {
        let binary = self.kind.binary().expect("the binary is there");
        let mut command = Command::new(binary);
        command
            .args(["--name", "default"])
            .arg("--data-dir")
            .arg(self.data_dir())
            .arg(format!("--listen-client-urls={}://{}", self.scheme, self.client))
            .arg(format!("--advertise-client-urls={}://127.0.0.1:2379", self.scheme))
            .arg(format!("--listen-peer-urls=http://{}", self.peer))
            .arg("--initial-advertise-peer-urls=http://127.0.0.1:2380")
            .arg("--initial-cluster=default=http://127.0.0.1:2380")
            .args(self.args.iter().map(|arg| arg.replace(CLIENT, &self.endpoint())));
        if let Some(prepare) = &self.prepare {
            prepare(&mut command);
        }
        command
    }

    pub fn data_dir(&self) -> PathBuf {
        match &self.home {
            Home::Own(dir) => dir.path().join("data.etcd"),
            Home::Given(dir) => dir.clone(),
        }
    }

    pub fn endpoint(&self) -> String {
        self.client.to_string()
    }

    pub fn pid(&self) -> u32 {
        self.running.as_ref().expect("the server runs").child.id()
    }

    /// What it has written so far.
    pub fn log(&self) -> Vec<String> {
        let running = self.running.as_ref().expect("the server runs");
        running.log.lock().expect("no poison").clone()
    }

    /// The end of a process that ends by itself.
    pub fn wait(&mut self) -> Ended {
        let mut running = self.running.take().expect("the server runs");
        let status = running.child.wait().expect("waiting for a child");
        for reader in running.readers {
            reader.join().expect("a reader");
        }
        Ended { status, log: take_log(&running.log) }
    }

    /// SIGKILL: nothing of the process gets a last word.
    pub fn kill(&mut self) {
        let mut running = self.running.take().expect("the server runs");
        running.child.kill().expect("killing a child");
        running.child.wait().expect("waiting for a child");
        complain_of_panic(self.kind, &running.log);
    }

    /// SIGTERM, and the end of the process.
    pub fn stop(&mut self) -> ExitStatus {
        let mut running = self.running.take().expect("the server runs");
        let pid = libc::pid_t::try_from(running.child.id()).expect("a process id");
        // SAFETY: plain system call; the child has not been waited for, so the id is still its own.
        let sent = unsafe { libc::kill(pid, libc::SIGTERM) };
        assert_eq!(sent, 0, "SIGTERM to a child");
        let status = running.child.wait().expect("waiting for a child");
        complain_of_panic(self.kind, &running.log);
        status
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let Some(mut running) = self.running.take() else { return };
        let _ = running.child.kill();
        let _ = running.child.wait();
        if std::thread::panicking() {
            let log = running.log.lock().expect("no poison");
            for line in log.iter().skip(log.len().saturating_sub(10)) {
                eprintln!("{} wrote: {line}", self.kind);
            }
        } else {
            complain_of_panic(self.kind, &running.log);
        }
    }
}

fn complain_of_panic(kind: Kind, log: &Mutex<Vec<String>>) {
    let log = log.lock().expect("no poison");
    if let Some(at) = log.iter().position(|line| line.contains("panicked at")) {
        panic!("{kind} panicked: {:#?}", &log[at..log.len().min(at + 20)]);
    }
}

fn take_log(log: &Mutex<Vec<String>>) -> Vec<String> {
    std::mem::take(&mut *log.lock().expect("no poison"))
}

/// Starts a process and reads both of its outputs line by line. The receiver gets one message at the ready line, and
/// is disconnected when both outputs have ended without it.
fn launch(command: &mut Command) -> (Running, mpsc::Receiver<()>) {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|err| panic!("{:?} does not start: {err}", command.get_program()));
    let log = Arc::new(Mutex::new(Vec::new()));
    let (sender, receiver) = mpsc::channel();
    let outputs: [Box<dyn Read + Send>; 2] = [
        Box::new(child.stdout.take().expect("piped")),
        Box::new(child.stderr.take().expect("piped")),
    ];
    let mut readers = Vec::new();
    for output in outputs {
        let log = Arc::clone(&log);
        let sender = sender.clone();
        readers.push(std::thread::spawn(move || {
            for line in BufReader::new(output).split(b'\n') {
                let Ok(line) = line else { break };
                let line = String::from_utf8_lossy(&line).into_owned();
                let ready = line.contains(READY);
                log.lock().expect("no poison").push(line);
                if ready {
                    let _ = sender.send(());
                }
            }
        }));
    }
    (Running { child, log, readers }, receiver)
}

/// Runs a process that is expected to end by itself.
pub fn run_to_end(command: &mut Command) -> Ended {
    let (mut running, ready) = launch(command);
    match ready.recv_timeout(PATIENCE) {
        Ok(()) | Err(RecvTimeoutError::Timeout) => {
            let _ = running.child.kill();
            let _ = running.child.wait();
            panic!("{command:?} was expected to end: {:#?}", take_log(&running.log));
        }
        Err(RecvTimeoutError::Disconnected) => {
            let status = running.child.wait().expect("waiting for a child");
            Ended { status, log: take_log(&running.log) }
        }
    }
}
