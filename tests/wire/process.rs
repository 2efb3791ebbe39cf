//! ringd as a process: what it refuses to start on, and how it ends.

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use ringd::proto::etcdserverpb as pb;
use tempfile::TempDir;

use crate::block_on;
use crate::client::Client;
use crate::ports::free_ports;
use crate::server::{Ended, Kind, Server, run_to_end};

/// What it ends with when it cannot serve; 2 is for a command line that it does not understand.
const EXIT_FATAL: i32 = 1;

fn ringd(data_dir: &Path) -> Command {
    let [client, peer] = free_ports();
    let mut command = Command::new(Kind::Ringd.binary().expect("the binary under test"));
    command
        .arg("--data-dir")
        .arg(data_dir)
        .arg(format!("--listen-client-urls=http://{client}"))
        .arg(format!("--advertise-client-urls=http://{client}"))
        .arg(format!("--listen-peer-urls=http://{peer}"));
    command
}

/// One line, which says all this.
fn assert_refused(ended: &Ended, says: &[&str]) {
    assert_eq!(ended.status.code(), Some(EXIT_FATAL), "{ended:#?}");
    assert_eq!(ended.log.len(), 1, "one line: {ended:#?}");
    for part in says {
        assert!(ended.log[0].contains(part), "{part:?} is missing: {ended:#?}");
    }
}

fn put(server: &Server, key: &'static str) -> i64 {
    block_on(async {
        let client = Client::connect(server.client).await;
        let put = pb::PutRequest { key: key.into(), ..Default::default() };
        let put: pb::PutResponse = client.call("/etcdserverpb.KV/Put", &put).await.message();
        put.header.expect("a header").revision
    })
}

#[test]
fn a_data_directory_in_use_is_refused_and_left_alone() {
    let server = Server::start(Kind::Ringd, &[]);
    put(&server, "before");
    let ended = run_to_end(&mut ringd(&server.data_dir()));
    let dir = server.data_dir().display().to_string();
    assert_refused(&ended, &["in use by another process", &dir, "--data-dir"]);
    assert_eq!(put(&server, "after"), 3);
}

#[test]
fn an_etcd_data_directory_is_refused_and_left_alone() {
    let home = TempDir::new().expect("a temporary directory");
    let dir = home.path().join("default.etcd");
    let is_etcds = |dir: &Path| {
        let ended = run_to_end(&mut ringd(dir));
        assert_refused(&ended, &["holds the data of an etcd member", &dir.display().to_string()]);
    };
    if Kind::Etcd.binary().is_some() {
        let mut etcd = Server::start_at(Kind::Etcd, &[], &dir);
        put(&etcd, "before");
        // While it runs, and when it has ended.
        is_etcds(&dir);
        etcd.stop();
        is_etcds(&dir);
        etcd.run().expect("etcd finds its data");
        assert_eq!(put(&etcd, "after"), 3);
    } else {
        std::fs::create_dir_all(dir.join("member/snap")).expect("a directory");
        std::fs::write(dir.join("member/snap/db"), b"").expect("a file");
        is_etcds(&dir);
    }
}

#[test]
fn an_address_in_use_is_one_line() {
    let server = Server::start(Kind::Ringd, &[]);
    let home = TempDir::new().expect("a temporary directory");
    let mut command = ringd(home.path());
    command.arg(format!("--listen-client-urls=http://{}", server.client));
    assert_refused(&run_to_end(&mut command), &["cannot listen on", &server.endpoint()]);
}

#[test]
fn an_unusable_data_directory_is_one_line() {
    let home = TempDir::new().expect("a temporary directory");
    let file = home.path().join("file");
    std::fs::write(&file, b"").expect("a file");
    let ended = run_to_end(&mut ringd(&file.join("data")));
    assert_refused(&ended, &["cannot be used", &file.display().to_string()]);
}

/// As the seccomp profiles of container runtimes do it.
#[test]
fn a_process_that_may_not_use_io_uring_says_so_in_one_line() {
    let home = TempDir::new().expect("a temporary directory");
    let mut command = ringd(&home.path().join("data"));
    // SAFETY: between fork and exec only system calls are made, and nothing is allocated.
    unsafe { command.pre_exec(forbid_io_uring) };
    assert_refused(&run_to_end(&mut command), &["io_uring", "seccomp"]);
}

fn forbid_io_uring() -> std::io::Result<()> {
    let op = |code: u32, k: u32, jump_true, jump_false| libc::sock_filter {
        code: code as u16,
        jt: jump_true,
        jf: jump_false,
        k,
    };
    let refuse = libc::SECCOMP_RET_ERRNO | libc::EPERM as u32;
    let mut filter = [
        // The number of the system call, which is the first field of what the filter sees.
        op(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0),
        op(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, libc::SYS_io_uring_setup as u32, 0, 1),
        op(libc::BPF_RET | libc::BPF_K, refuse, 0, 0),
        op(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ALLOW, 0, 0),
    ];
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
    // SAFETY: plain system calls; the program and its filter outlive them.
    let set = unsafe {
        libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
            && libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program) == 0
    };
    if set { Ok(()) } else { Err(std::io::Error::last_os_error()) }
}

#[test]
fn sigterm_ends_streams_and_the_process_and_keeps_everything() {
    let mut server = Server::start(Kind::Ringd, &[]);
    put(&server, "kept");
    let addr = server.client;
    block_on(async {
        let client = Client::connect(addr).await;
        let mut watch = client.open("/etcdserverpb.Watch/Watch").await;
        let create = pb::WatchCreateRequest { key: "kept".into(), ..Default::default() };
        let union = pb::watch_request::RequestUnion::CreateRequest(create);
        watch.send(&pb::WatchRequest { request_union: Some(union) });
        assert!(watch.message::<pb::WatchResponse>().await.created);
        let status = server.stop();
        assert!(status.success(), "{status}");
        let end = watch.end().await;
        assert_eq!(end.code(), 14, "{end:?}");
    });
    server.run().expect("it starts again");
    assert_eq!(put(&server, "kept"), 3);
}
