//! A cluster of processes, each behind a proxy of its own.
//!
//! Invariants: every process is ended through its own child handle, at the latest when the cluster is dropped; one that
//! panicked fails its test.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ringd::proto::etcdserverpb as pb;
use tempfile::TempDir;

use crate::client::Client;
use crate::ports::free_ports;
use crate::proxy::{self, Net};
use crate::server::{Kind, PATIENCE};

const READY: &str = "ready to serve client requests";

pub struct Cluster {
    pub net: Net,
    pub members: Vec<Member>,
    dir: TempDir,
    args: Vec<String>,
    token: String,
    peer_scheme: &'static str,
}

pub struct Member {
    pub name: String,
    pub client: SocketAddr,
    listen: SocketAddr,
    /// Where the others find it: its proxy, or itself with TLS, which no proxy sees through.
    advertised: SocketAddr,
    peer_scheme: &'static str,
    initial_cluster: String,
    state: &'static str,
    /// In place of the one in the cluster's own directory.
    pub own_data_dir: Option<PathBuf>,
    /// A network namespace that its process runs in.
    namespace: Option<String>,
    running: Option<Running>,
}

struct Running {
    child: Child,
    log: Arc<Mutex<Vec<String>>>,
}

impl Cluster {
    /// Starts `count` members at once and waits until all of them serve.
    pub fn start(count: usize, args: &[&str]) -> Cluster {
        let mut cluster = Cluster::stopped(count, args);
        for at in 0..count {
            cluster.launch(at);
        }
        (0..count).for_each(|at| cluster.wait_ready(at));
        cluster
    }

    /// The same, with nothing started yet.
    pub fn stopped(count: usize, args: &[&str]) -> Cluster {
        Cluster::stopped_as("http", count, args)
    }

    /// With TLS between the members, for which `args` and those of each member say the rest.
    pub fn stopped_secure(count: usize, args: &[&str]) -> Cluster {
        Cluster::stopped_as("https", count, args)
    }

    /// Each member in a network namespace at an address of its own, and without a proxy.
    pub fn stopped_in(namespaces: &[(String, IpAddr)], args: &[&str]) -> Cluster {
        let mut cluster = Cluster::stopped_as("http", namespaces.len(), args);
        for (member, (namespace, address)) in cluster.members.iter_mut().zip(namespaces) {
            member.namespace = Some(namespace.clone());
            member.client = SocketAddr::new(*address, 2379);
            member.listen = SocketAddr::new(*address, 2380);
            member.advertised = member.listen;
        }
        cluster.introduce();
        cluster
    }

    fn stopped_as(peer_scheme: &'static str, count: usize, args: &[&str]) -> Cluster {
        let mut cluster = Cluster {
            net: Net::default(),
            members: Vec::new(),
            dir: TempDir::new().expect("a temporary directory"),
            args: args.iter().map(|arg| (*arg).to_owned()).collect(),
            token: format!("crash-{}", std::process::id()),
            peer_scheme,
        };
        for number in 0..count {
            cluster.prepare(&format!("m{number}"));
        }
        cluster.introduce();
        cluster
    }

    /// Tells all members of each other.
    fn introduce(&mut self) {
        let all: Vec<_> = self.members.iter().map(Member::in_cluster).collect();
        for member in &mut self.members {
            member.initial_cluster = all.join(",");
        }
    }

    fn prepare(&mut self, name: &str) {
        let [client, listen] = free_ports();
        let is_plain = self.peer_scheme == "http";
        self.members.push(Member {
            name: name.to_owned(),
            client,
            listen,
            advertised: if is_plain { proxy::start(&self.net, listen) } else { listen },
            peer_scheme: self.peer_scheme,
            initial_cluster: String::new(),
            state: "new",
            own_data_dir: None,
            namespace: None,
            running: None,
        });
    }

    /// A further member, which others are yet to be told of. Gives its place.
    pub fn prepare_joining(&mut self, name: &str) -> usize {
        self.prepare(name);
        let all: Vec<_> = self.members.iter().map(Member::in_cluster).collect();
        let at = self.members.len() - 1;
        self.members[at].initial_cluster = all.join(",");
        self.members[at].state = "existing";
        at
    }

    pub fn data_dir(&self, at: usize) -> PathBuf {
        let member = &self.members[at];
        member.own_data_dir.clone().unwrap_or_else(|| self.dir.path().join(&member.name))
    }

    pub fn command(&self, at: usize) -> Command {
        let member = &self.members[at];
        let binary = Kind::Ringd.binary().expect("the binary is there");
        let mut command = match &member.namespace {
            // It becomes the member's process.
            Some(namespace) => {
                let mut command = Command::new("ip");
                command.args(["netns", "exec", namespace]).arg(binary);
                command
            }
            None => Command::new(binary),
        };
        command
            .args(["--name", &member.name])
            .arg("--data-dir")
            .arg(self.data_dir(at))
            .arg(format!("--listen-client-urls=http://{}", member.client))
            .arg(format!("--advertise-client-urls=http://{}", member.client))
            .arg(format!("--listen-peer-urls={}://{}", member.peer_scheme, member.listen))
            .arg(format!("--initial-advertise-peer-urls={}", member.peer_url()))
            .arg(format!("--initial-cluster={}", member.initial_cluster))
            .arg(format!("--initial-cluster-token={}", self.token))
            .arg(format!("--initial-cluster-state={}", member.state))
            .args(&self.args);
        command
    }

    /// Starts a process and does not wait for it.
    pub fn launch(&mut self, at: usize) {
        let command = self.command(at);
        self.launch_as(at, command);
    }

    /// With another command line.
    pub fn launch_as(&mut self, at: usize, mut command: Command) {
        let member = &mut self.members[at];
        assert!(member.running.is_none(), "{} runs already", member.name);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("a process");
        let log = Arc::new(Mutex::new(Vec::new()));
        let lines = Arc::clone(&log);
        let output = child.stderr.take().expect("piped");
        std::thread::spawn(move || {
            use std::io::{BufRead, BufReader};
            for line in BufReader::new(output).split(b'\n') {
                let Ok(line) = line else { break };
                let line = String::from_utf8_lossy(&line).into_owned();
                lines.lock().expect("no poison").push(line);
            }
        });
        member.running = Some(Running { child, log });
    }

    pub fn run(&mut self, at: usize) {
        self.launch(at);
        self.wait_ready(at);
    }

    /// Waits until a member has said that it serves.
    pub fn wait_ready(&self, at: usize) {
        self.wait_for_line(at, READY);
    }

    pub fn wait_for_line(&self, at: usize, text: &str) {
        let tries = PATIENCE.as_millis() / 10;
        for _ in 0..tries {
            if self.log(at).iter().any(|line| line.contains(text)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("{} never said {text:?}: {:#?}", self.members[at].name, self.log(at));
    }

    pub fn log(&self, at: usize) -> Vec<String> {
        let running = self.members[at].running.as_ref().expect("the member runs");
        running.log.lock().expect("no poison").clone()
    }

    pub fn runs(&self, at: usize) -> bool {
        self.members[at].running.is_some()
    }

    /// SIGKILL.
    pub fn kill(&mut self, at: usize) {
        let mut running = self.members[at].running.take().expect("the member runs");
        running.child.kill().expect("killing a child");
        running.child.wait().expect("waiting for a child");
        complain_of_panic(&running.log);
    }

    /// Waits for a process that ends by itself.
    pub fn wait_end(&mut self, at: usize) -> ExitStatus {
        let mut running = self.members[at].running.take().expect("the member runs");
        let tries = PATIENCE.as_millis() / 10;
        for _ in 0..tries {
            if let Some(status) = running.child.try_wait().expect("waiting for a child") {
                complain_of_panic(&running.log);
                return status;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        let _ = running.child.kill();
        let _ = running.child.wait();
        panic!("{} did not end: {:#?}", self.members[at].name, running.log.lock());
    }

    pub fn signal(&self, at: usize, signal: libc::c_int) {
        let running = self.members[at].running.as_ref().expect("the member runs");
        let pid = libc::pid_t::try_from(running.child.id()).expect("a process id");
        // SAFETY: plain system call; the child has not been waited for, so the id is still its own.
        assert_eq!(unsafe { libc::kill(pid, signal) }, 0, "a signal to a child");
    }

    pub fn endpoints(&self) -> Vec<SocketAddr> {
        self.members.iter().map(|member| member.client).collect()
    }

    /// What a member says of itself, if it answers.
    pub async fn status(&self, at: usize) -> Option<pb::StatusResponse> {
        if !self.runs(at) {
            return None;
        }
        let answer = async {
            let client = Client::try_connect(self.members[at].client).await.ok()?;
            let path = "/etcdserverpb.Maintenance/Status";
            let reply = client.call(path, &pb::StatusRequest::default()).await;
            (reply.code() == 0).then(|| reply.message())
        };
        tokio::time::timeout(Duration::from_secs(2), answer).await.ok().flatten()
    }

    /// A member's `/metrics`.
    pub fn metrics(&self, at: usize) -> String {
        use std::io::{Read, Write};
        let addr = self.members[at].client;
        let mut tcp = std::net::TcpStream::connect(addr).expect("a connection");
        tcp.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        write!(tcp, "GET /metrics HTTP/1.1\r\nHost: {addr}\r\nConnection: close\r\n\r\n")
            .expect("a request is sent");
        let mut answer = String::new();
        tcp.read_to_string(&mut answer).expect("an answer");
        answer
    }

    pub async fn id(&self, at: usize) -> u64 {
        let status = self.status(at).await.expect("a member that answers");
        status.header.expect("a header").member_id
    }

    /// The place of the member that leads, when a majority of those that answer says so.
    pub async fn leader(&self) -> usize {
        for _ in 0..PATIENCE.as_millis() / 20 {
            let mut votes = std::collections::BTreeMap::<u64, usize>::new();
            let mut ids = Vec::new();
            for at in 0..self.members.len() {
                if let Some(status) = self.status(at).await {
                    ids.push((status.header.expect("a header").member_id, at));
                    *votes.entry(status.leader).or_default() += 1;
                }
            }
            let leader = votes.iter().find(|(_, count)| **count * 2 > ids.len()).map(|(id, _)| *id);
            if let Some((_, at)) = ids.iter().find(|(id, _)| Some(*id) == leader) {
                return *at;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("no leader");
    }
}

impl Member {
    pub fn peer_url(&self) -> String {
        format!("{}://{}", self.peer_scheme, self.advertised)
    }

    fn in_cluster(&self) -> String {
        format!("{}={}", self.name, self.peer_url())
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for member in &mut self.members {
            let Some(mut running) = member.running.take() else { continue };
            let _ = running.child.kill();
            let _ = running.child.wait();
            if std::thread::panicking() {
                let log = running.log.lock().expect("no poison");
                for line in log.iter().skip(log.len().saturating_sub(12)) {
                    eprintln!("{} wrote: {line}", member.name);
                }
            } else {
                complain_of_panic(&running.log);
            }
        }
    }
}

fn complain_of_panic(log: &Mutex<Vec<String>>) {
    let log = log.lock().expect("no poison");
    if let Some(at) = log.iter().position(|line| line.contains("panicked at")) {
        panic!("a member panicked: {:#?}", &log[at..log.len().min(at + 20)]);
    }
}
