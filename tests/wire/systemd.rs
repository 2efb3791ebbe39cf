//! The part of systemd: what a process of `Type=notify` says to the socket that it is given, and when.

use std::os::unix::net::UnixDatagram;
use std::process::{Child, Command, ExitStatus, Stdio};

use tempfile::TempDir;

use crate::http;
use crate::ports::free_ports;
use crate::server::{Kind, PATIENCE};

/// A process that tells this test what it would tell systemd.
pub struct Member {
    child: Child,
    socket: UnixDatagram,
    client: std::net::SocketAddr,
    _home: TempDir,
}

impl Member {
    pub fn spawn(args: &[String], prepare: impl Fn(&mut Command)) -> Member {
        let home = TempDir::new().expect("a temporary directory");
        let path = home.path().join("notify");
        let socket = UnixDatagram::bind(&path).expect("a socket");
        socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        let [client, _] = free_ports();
        let mut command = Command::new(Kind::Ringd.binary().expect("the binary under test"));
        command
            .env("NOTIFY_SOCKET", &path)
            .arg("--data-dir")
            .arg(home.path().join("data"))
            .arg(format!("--listen-client-urls=http://{client}"))
            .arg(format!("--advertise-client-urls=http://{client}"))
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        prepare(&mut command);
        let child = command.spawn().expect("ringd starts");
        Member { child, socket, client, _home: home }
    }

    fn hear(&self) -> String {
        let mut bytes = [0; 256];
        let len = self.socket.recv(&mut bytes).expect("a datagram in time");
        String::from_utf8_lossy(&bytes[..len]).into_owned()
    }

    pub fn wait_until_ready(&self) {
        let said = self.hear();
        assert!(said.lines().any(|line| line == "READY=1"), "{said:?}");
    }

    /// SIGTERM, and the end of the process.
    pub fn stop(mut self) -> ExitStatus {
        let pid = libc::pid_t::try_from(self.child.id()).expect("a process id");
        // SAFETY: plain system call; the child has not been waited for, so the id is still its own.
        assert_eq!(unsafe { libc::kill(pid, libc::SIGTERM) }, 0, "SIGTERM to a child");
        self.child.wait().expect("waiting for a child")
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        // Without effect on one that has been waited for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn systemd_hears_that_clients_are_served_and_that_the_end_has_begun() {
    let [_, peer] = free_ports();
    let args = [
        format!("--listen-peer-urls=http://{peer}"),
        format!("--initial-advertise-peer-urls=http://{peer}"),
        format!("--initial-cluster=default=http://{peer}"),
    ];
    let member = Member::spawn(&args, |_| {});
    member.wait_until_ready();
    // It is so at once: units that are ordered behind it may come.
    assert_eq!(http::get(member.client, "/health").body, r#"{"health":"true","reason":""}"#);
    let socket = member.socket.try_clone().expect("a descriptor");
    let status = member.stop();
    assert!(status.success(), "{status}");
    let mut bytes = [0; 256];
    let len = socket.recv(&mut bytes).expect("a datagram in time");
    assert_eq!(&bytes[..len], b"STOPPING=1\n");
}
