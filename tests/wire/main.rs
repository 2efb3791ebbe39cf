//! ringd seen from outside: processes, sockets, real clients, and a real etcd to compare it with.
//!
//! `RINGD_BIN` names another server binary to test. Tests that need programs which are not there (`tests/tools/build`
//! makes them from Go sources, `tests/tools/install-debian` gets the old etcdctl) say so in one line.

mod backup;
mod check;
mod client;
mod damage;
mod differential;
mod discovery;
mod disk;
mod downgrade;
mod etcdctl;
mod floods;
mod frames;
mod gateway;
mod h2spec;
mod heap;
mod http;
mod kill;
mod large;
mod library;
mod metrics;
mod ports;
mod proc;
mod process;
mod rng;
#[cfg(target_arch = "x86_64")]
mod seccomp;
mod server;
mod space;
mod statuses;
mod systemd;
mod tls;
mod tls_http;
mod tokens;
mod watch;
mod watchers;

/// Each test has a runtime of its own, with one thread.
pub fn block_on<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime")
        .block_on(future)
}
