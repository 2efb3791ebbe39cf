//! What the process tells the init daemon that started it: a line on a datagram socket (`sd_notify(3)`).

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// Where to: set by systemd for services of `Type=notify`.
const VARIABLE: &str = "NOTIFY_SOCKET";

pub fn ready() {
    tell("READY=1\nSTATUS=serving clients\n");
}

pub fn stopping() {
    tell("STOPPING=1\n");
}

/// Nobody listens when the process was started by something else.
fn tell(text: &str) {
    let Some(socket) = std::env::var_os(VARIABLE).filter(|socket| !socket.is_empty()) else {
        return;
    };
    tracing::info!("notifying init daemon");
    match send(&socket, text) {
        Ok(()) => tracing::info!("successfully notified init daemon"),
        Err(error) => tracing::error!(error = %error, "failed to notify systemd for readiness"),
    }
}

fn send(socket: &OsString, text: &str) -> io::Result<()> {
    let address = match socket.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(OsStr::new(socket))?,
    };
    UnixDatagram::unbound()?.send_to_addr(text.as_bytes(), &address).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(listener: &UnixDatagram) -> String {
        let mut bytes = [0; 64];
        let len = listener.recv(&mut bytes).unwrap();
        String::from_utf8_lossy(&bytes[..len]).into_owned()
    }

    #[test]
    fn the_socket_is_a_path_or_an_abstract_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let listener = UnixDatagram::bind(&path).unwrap();
        send(&path.into_os_string(), "READY=1\n").unwrap();
        assert_eq!(heard(&listener), "READY=1\n");

        let name = format!("ringd-test-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        let listener = UnixDatagram::bind_addr(&address).unwrap();
        send(&format!("@{name}").into(), "STOPPING=1\n").unwrap();
        assert_eq!(heard(&listener), "STOPPING=1\n");
        assert!(send(&"/no/such/socket".into(), "x").is_err());
    }
}
