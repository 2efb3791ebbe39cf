//! docs/deploy/seccomp.json is enough: a member lives under it, whatever it does, and a call that is not in it would
//! have ended it.
//!
//! A runtime answers other calls with EPERM. Here they end the process with SIGSYS, so that none goes unnoticed.

use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::Command;
use std::sync::Arc;

use prost::Message;
use ringd::proto::etcdserverpb as pb;
use ringd::tls::authority::Order;

use crate::block_on;
use crate::client::Client;
use crate::ports::free_ports;
use crate::server::{Kind, Prepare, Server, run_to_end};
use crate::systemd::Member;
use crate::tls::Pki;

const PROFILE: &str = include_str!("../../docs/deploy/seccomp.json");
/// In the kernel's `linux/audit.h`: x86-64, little-endian, 64 bits.
const AUDIT_ARCH_X86_64: u32 = 0xc000_003e;
/// Where the filter finds the number of a call and the architecture that it is of.
const NUMBER_AT: u32 = 0;
const ARCH_AT: u32 = 4;

macro_rules! numbers {
    ($($name:ident)*) => { &[$((stringify!($name), libc::$name)),*] };
}

/// The numbers of the calls in the profile.
#[rustfmt::skip]
const NUMBERS: &[(&str, libc::c_long)] = numbers![
    SYS_accept SYS_accept4 SYS_access SYS_arch_prctl SYS_bind SYS_brk SYS_clock_gettime
    SYS_clock_nanosleep SYS_clone SYS_clone3 SYS_close SYS_connect SYS_dup SYS_dup2 SYS_dup3
    SYS_epoll_create1 SYS_epoll_ctl SYS_epoll_pwait SYS_epoll_wait SYS_eventfd2 SYS_execve
    SYS_exit SYS_exit_group SYS_fadvise64 SYS_fallocate SYS_fcntl SYS_fdatasync SYS_flock
    SYS_fstat SYS_fsync SYS_ftruncate SYS_futex SYS_getcpu SYS_getcwd SYS_getdents64 SYS_getegid
    SYS_geteuid SYS_getgid SYS_getpeername SYS_getpid SYS_getppid SYS_getrandom SYS_getrlimit
    SYS_getrusage SYS_getsockname SYS_getsockopt SYS_gettid SYS_getuid SYS_io_uring_enter
    SYS_io_uring_register SYS_io_uring_setup SYS_ioctl SYS_kill SYS_listen SYS_lseek SYS_lstat
    SYS_madvise SYS_membarrier SYS_mincore SYS_mkdir SYS_mkdirat SYS_mlock SYS_mmap SYS_mprotect
    SYS_mremap SYS_msync SYS_munmap SYS_nanosleep SYS_newfstatat SYS_open SYS_openat SYS_openat2
    SYS_pipe2 SYS_poll SYS_ppoll SYS_prctl SYS_pread64 SYS_preadv SYS_prlimit64 SYS_pwrite64
    SYS_pwritev SYS_read SYS_readlink SYS_readlinkat SYS_readv SYS_recvfrom SYS_recvmsg
    SYS_rename SYS_renameat SYS_renameat2 SYS_restart_syscall SYS_rseq SYS_rt_sigaction
    SYS_rt_sigprocmask SYS_rt_sigreturn SYS_sched_getaffinity SYS_sched_setaffinity
    SYS_sched_yield SYS_sendmmsg SYS_sendmsg SYS_sendto SYS_set_robust_list SYS_set_tid_address
    SYS_setsockopt SYS_shutdown SYS_sigaltstack SYS_socket SYS_socketpair SYS_stat SYS_statfs
    SYS_statx SYS_sync_file_range SYS_sysinfo SYS_tgkill SYS_timerfd_create SYS_timerfd_gettime
    SYS_timerfd_settime SYS_uname SYS_unlink SYS_unlinkat SYS_wait4 SYS_write SYS_writev
];

/// The numbers that the profile allows, but for those of some names.
fn allowed(without: &[&str]) -> Vec<u32> {
    let profile: serde_json::Value = serde_json::from_str(PROFILE).unwrap();
    assert_eq!(profile["defaultAction"], "SCMP_ACT_ERRNO");
    let rules = profile["syscalls"].as_array().unwrap();
    assert!(rules.iter().all(|rule| rule["action"] == "SCMP_ACT_ALLOW"));
    let names = rules.iter().flat_map(|rule| rule["names"].as_array().unwrap());
    let names: Vec<&str> = names.map(|name| name.as_str().unwrap()).collect();
    assert!(without.iter().all(|name| names.contains(name)));
    let number = |name: &&str| {
        let known = NUMBERS.iter().find(|(known, _)| known.strip_prefix("SYS_") == Some(name));
        known.unwrap_or_else(|| panic!("{name} has no number here")).1 as u32
    };
    names.iter().filter(|name| !without.contains(name)).map(number).collect()
}

fn filter(allowed: &[u32]) -> Vec<libc::sock_filter> {
    let op = |code: u32, k: u32, jt, jf| libc::sock_filter { code: code as u16, jt, jf, k };
    let load = |at| op(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, at, 0, 0);
    let skip_unless = |value| op(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, value, 0, 1);
    let end = |action| op(libc::BPF_RET | libc::BPF_K, action, 0, 0);
    let other_arch = op(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, AUDIT_ARCH_X86_64, 1, 0);
    let mut program =
        vec![load(ARCH_AT), other_arch, end(libc::SECCOMP_RET_KILL_PROCESS), load(NUMBER_AT)];
    for number in allowed {
        program.extend([skip_unless(*number), end(libc::SECCOMP_RET_ALLOW)]);
    }
    program.push(end(libc::SECCOMP_RET_KILL_PROCESS));
    program
}

/// Puts the process that a command starts under the profile.
fn confined(without: &[&str]) -> Prepare {
    let filter = Arc::new(filter(&allowed(without)));
    Arc::new(move |command: &mut Command| {
        let filter = Arc::clone(&filter);
        // SAFETY: between fork and exec only system calls are made, and nothing is allocated.
        unsafe { command.pre_exec(move || install(&filter)) };
    })
}

fn install(filter: &[libc::sock_filter]) -> std::io::Result<()> {
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_ptr().cast_mut() };
    // SAFETY: plain system calls; the program and its filter outlive them.
    let set = unsafe {
        libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
            && libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program) == 0
    };
    if set { Ok(()) } else { Err(std::io::Error::last_os_error()) }
}

async fn ask<A: Message + Default>(client: &Client, path: &str, request: &impl Message) -> A {
    let reply = client.call(path, request).await;
    assert_eq!(reply.code(), 0, "{path}: {}", reply.text());
    reply.message()
}

/// What needs the kernel in ways of its own: large values, a snapshot, defragmentation, checkpoints, passwords.
async fn work(server: &Server) {
    let client = Client::connect(server.client).await;
    for n in 0..200_usize {
        let key = format!("key/{n}").into();
        let value = vec![7; if n.is_multiple_of(20) { 1 << 20 } else { 200 }].into();
        let put = pb::PutRequest { key, value, ..Default::default() };
        let _: pb::PutResponse = ask(&client, "/etcdserverpb.KV/Put", &put).await;
    }
    let all = pb::RangeRequest { key: "\0".into(), range_end: "\0".into(), ..Default::default() };
    let found: pb::RangeResponse = ask(&client, "/etcdserverpb.KV/Range", &all).await;
    assert_eq!(found.count, 200);
    let path = "/etcdserverpb.Maintenance/Snapshot";
    let snapshot = client.call(path, &pb::SnapshotRequest {}).await;
    assert_eq!(snapshot.code(), 0, "{}", snapshot.text());
    let compact = pb::CompactionRequest { revision: 150, physical: true };
    let _: pb::CompactionResponse = ask(&client, "/etcdserverpb.KV/Compact", &compact).await;
    let path = "/etcdserverpb.Maintenance/Defragment";
    let _: pb::DefragmentResponse = ask(&client, path, &pb::DefragmentRequest {}).await;
    let (name, password) = ("somebody".to_owned(), "secret".to_owned());
    let user = pb::AuthUserAddRequest { name, password, ..Default::default() };
    let _: pb::AuthUserAddResponse = ask(&client, "/etcdserverpb.Auth/UserAdd", &user).await;
}

async fn count(server: &Server) -> i64 {
    let client = Client::connect(server.client).await;
    let all = pb::RangeRequest { key: "\0".into(), range_end: "\0".into(), ..Default::default() };
    ask::<pb::RangeResponse>(&client, "/etcdserverpb.KV/Range", &all).await.count
}

#[test]
fn a_member_lives_under_the_profile_that_is_shipped() {
    let mut server = Server::start_prepared("http", &["--bcrypt-cost=4"], confined(&[]));
    block_on(work(&server));
    // A stop writes a last checkpoint; after a kill the log is replayed.
    let status = server.stop();
    assert!(status.success(), "{status}");
    server.run().expect("it starts again");
    assert_eq!(block_on(count(&server)), 200);
    block_on(async {
        let client = Client::connect(server.client).await;
        let put = pb::PutRequest { key: "late".into(), ..Default::default() };
        let _: pb::PutResponse = ask(&client, "/etcdserverpb.KV/Put", &put).await;
    });
    server.kill();
    server.run().expect("it starts again");
    assert_eq!(block_on(count(&server)), 201);
    let status = server.stop();
    assert!(status.success(), "{status}");
}

#[test]
fn under_the_profile_there_is_tls() {
    let mut pki = Pki::new();
    pki.issue("server", &Order::new("server", &["127.0.0.1"]));
    let own = pki.issue("client", &Order::new("client", &[]));
    let args = pki.mutual();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let mut server = Server::start_prepared("https", &args, confined(&[]));
    assert!(pki.client(Some(&own)).is_served(server.client));
    let status = server.stop();
    assert!(status.success(), "{status}");
}

/// They find each other by a name, and send each other what they are given.
#[test]
fn under_the_profile_members_make_a_cluster() {
    let prepare = confined(&[]);
    let [a, b] = free_ports().map(|address| address.port());
    let cluster = format!("--initial-cluster=a=http://localhost:{a},b=http://localhost:{b}");
    let members = [("a", a), ("b", b)].map(|(name, port)| {
        let args = [
            format!("--name={name}"),
            format!("--listen-peer-urls=http://127.0.0.1:{port}"),
            format!("--initial-advertise-peer-urls=http://localhost:{port}"),
            cluster.clone(),
        ];
        Member::spawn(&args, &*prepare)
    });
    members.iter().for_each(Member::wait_until_ready);
    for member in members {
        let status = member.stop();
        assert!(status.success(), "{status}");
    }
}

#[test]
fn without_io_uring_in_the_profile_nothing_lives() {
    for call in ["io_uring_setup", "io_uring_enter"] {
        let home = tempfile::TempDir::new().expect("a temporary directory");
        let mut command = Command::new(Kind::Ringd.binary().expect("the binary under test"));
        let [client, peer] = free_ports();
        command
            .arg("--data-dir")
            .arg(home.path().join("data"))
            .arg(format!("--listen-client-urls=http://{client}"))
            .arg(format!("--advertise-client-urls=http://{client}"))
            .arg(format!("--listen-peer-urls=http://{peer}"))
            .arg(format!("--initial-advertise-peer-urls=http://{peer}"))
            .arg(format!("--initial-cluster=default=http://{peer}"));
        confined(&[call])(&mut command);
        let ended = run_to_end(&mut command);
        assert_eq!(ended.status.signal(), Some(libc::SIGSYS), "{call}: {ended:#?}");
    }
}
