//! The members that are loaded, one or a cluster. Each has its own data directory, ports and log, is ended
//! through its own child handle and by nothing else, and leaves nothing behind.

use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::ports::free_ports;
use crate::{process, tls};

const READY: &str = "ready to serve client requests";
const START_PATIENCE: Duration = Duration::from_secs(30);
const STOP_PATIENCE: Duration = Duration::from_secs(20);
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// What a deployment is made of.
pub struct Plan<'a> {
    pub binary: &'a Path,
    pub args: &'a [&'a str],
    pub members: usize,
    /// With TLS.
    pub tls: Option<&'a tls::Files>,
    /// The only CPU that the server may use.
    pub cpu: Option<usize>,
    /// On a real disk: everything is below it.
    pub folder: &'a Path,
}

pub struct Deployment {
    members: Vec<Member>,
}

struct Member {
    child: Child,
    client: String,
    home: TempDir,
}

impl Deployment {
    /// Returns when every member serves.
    pub fn start(plan: &Plan<'_>) -> Result<Deployment, String> {
        let ports: Vec<_> = (0..plan.members).map(|_| free_ports()).collect();
        let named =
            |(number, [_, peer]): (usize, &[SocketAddr; 2])| format!("m{number}=http://{peer}");
        let cluster: Vec<_> = ports.iter().enumerate().map(named).collect();
        let cluster = cluster.join(",");
        let members = ports
            .iter()
            .enumerate()
            .map(|(number, ports)| Member::start(plan, &format!("m{number}"), *ports, &cluster));
        let mut members = members.collect::<Result<Vec<_>, _>>()?;
        members.iter_mut().try_for_each(Member::wait)?;
        Ok(Deployment { members })
    }

    /// For `--endpoints`.
    pub fn endpoints(&self) -> String {
        let addresses: Vec<_> = self.members.iter().map(|m| m.client.clone()).collect();
        addresses.join(",")
    }

    pub fn cpu_seconds(&self) -> f64 {
        self.members.iter().map(|member| process::cpu_seconds(member.child.id())).sum()
    }

    pub fn heap_bytes(&self) -> u64 {
        self.members.iter().map(|member| process::heap_bytes(member.child.id())).sum()
    }

    /// Of the first member.
    pub fn watch_heap(&self) -> process::HeapWatch {
        process::HeapWatch::start(self.members[0].child.id())
    }

    pub fn disk_bytes(&self) -> u64 {
        self.members.iter().map(|member| process::disk_bytes(&member.data_dir())).sum()
    }
}

impl Member {
    /// Returns at once.
    fn start(
        plan: &Plan<'_>,
        name: &str,
        [client, peer]: [SocketAddr; 2],
        cluster: &str,
    ) -> Result<Member, String> {
        let home = tempfile::Builder::new()
            .prefix("data-")
            .tempdir_in(plan.folder)
            .map_err(|error| format!("{}: {error}", plan.folder.display()))?;
        let scheme = if plan.tls.is_some() { "https" } else { "http" };
        let client = format!("{scheme}://{client}");
        let log = File::create(home.path().join("log"))
            .map_err(|error| format!("the server's log: {error}"))?;
        let also = log.try_clone().map_err(|error| format!("the server's log: {error}"))?;
        let mut command = match plan.cpu {
            Some(cpu) => {
                let mut command = Command::new("taskset");
                command.arg("-c").arg(cpu.to_string()).arg(plan.binary);
                command
            }
            None => Command::new(plan.binary),
        };
        command
            .args(["--name", name, "--data-dir"])
            .arg(home.path().join("data"))
            .arg(format!("--listen-client-urls={client}"))
            .arg(format!("--advertise-client-urls={client}"))
            .arg(format!("--listen-peer-urls=http://{peer}"))
            .arg(format!("--initial-advertise-peer-urls=http://{peer}"))
            .arg(format!("--initial-cluster={cluster}"))
            .args(plan.args)
            .args(plan.tls.map(tls::Files::server_args).unwrap_or_default())
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(also);
        let child =
            command.spawn().map_err(|error| format!("{}: {error}", plan.binary.display()))?;
        Ok(Member { child, client, home })
    }

    /// Until it serves.
    fn wait(&mut self) -> Result<(), String> {
        let started = Instant::now();
        loop {
            let said = fs::read_to_string(self.home.path().join("log")).unwrap_or_default();
            if said.contains(READY) {
                return Ok(());
            }
            let has_ended = !matches!(self.child.try_wait(), Ok(None));
            if has_ended || started.elapsed() > START_PATIENCE {
                let last: Vec<_> = said.lines().rev().take(3).collect();
                return Err(format!("a member does not start: {}", last.join(" / ")));
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }

    fn data_dir(&self) -> PathBuf {
        self.home.path().join("data")
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        if !matches!(self.child.try_wait(), Ok(None)) {
            return;
        }
        // SAFETY: plain call; the child has not been waited for, so the pid is its own.
        unsafe { libc::kill(self.child.id() as libc::pid_t, libc::SIGTERM) };
        let asked = Instant::now();
        while asked.elapsed() < STOP_PATIENCE {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(LOOK_EVERY);
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
