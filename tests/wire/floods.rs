//! The known floods against the real server: each ends its connection or is left waiting, memory stays
//! bounded, and another client is served all the while.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use prost::Message;
use ringd::proto::etcdserverpb as pb;

use crate::block_on;
use crate::client::{Client, frame as message};
use crate::frames::{
    CONTINUATION, DATA, END_HEADERS, END_STREAM, HEADERS, PING, PREFACE, SETTINGS, WINDOW_UPDATE,
    call, frame, goaway, head,
};
use crate::heap::anonymous_bytes;
use crate::server::{Kind, Server};

const RST_STREAM: u8 = 3;
const ENHANCE_YOUR_CALM: u32 = 11;
const RANGE: &str = "/etcdserverpb.KV/Range";
/// What a flood may add to the heap. As many calls as a connection may have streams, whose answers all wait for
/// windows, take most: 65,536 times 600 bytes.
const GROWTH_BYTES_MAX: u64 = 64 << 20;
/// A flood that nobody stops ends here.
const FLOOD_BYTES_MAX: usize = 64 << 20;

/// How a flood came to its end.
#[derive(Debug, PartialEq, Eq)]
enum End {
    /// The server closed the connection, with this code in its GOAWAY if that could still be read.
    Closed(Option<u32>),
    /// The server stopped reading: TCP pushes back.
    LeftWaiting,
    /// The flood was allowed to finish.
    Served,
}

/// Sends `first`, then pieces until the server has had enough, reading what it says or not.
fn flood(
    addr: SocketAddr,
    reads: bool,
    first: &[u8],
    mut piece: impl FnMut(usize) -> Vec<u8>,
) -> End {
    let mut tcp = TcpStream::connect(addr).expect("a connection");
    tcp.set_write_timeout(Some(Duration::from_millis(500))).expect("a timeout");
    tcp.write_all(&[PREFACE, &frame(SETTINGS, 0, 0, &[]), first].concat()).expect("a beginning");
    let reader = reads.then(|| {
        let mut tcp = tcp.try_clone().expect("another handle");
        std::thread::spawn(move || {
            let mut answer = Vec::new();
            let _ = tcp.read_to_end(&mut answer);
            goaway(&answer)
        })
    });
    let mut sent = 0;
    let mut end = End::Served;
    for n in 0.. {
        let bytes = piece(n);
        if bytes.is_empty() || sent > FLOOD_BYTES_MAX {
            break;
        }
        sent += bytes.len();
        match tcp.write_all(&bytes) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                end = End::LeftWaiting;
                break;
            }
            Err(_) => {
                end = End::Closed(None);
                break;
            }
        }
    }
    let _ = tcp.shutdown(std::net::Shutdown::Write);
    if !reads && end == End::Served {
        // A server that has said GOAWAY goes on throwing away what comes, for a moment.
        tcp.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout");
        let mut answer = Vec::new();
        let _ = tcp.read_to_end(&mut answer);
        return goaway(&answer).map_or(end, |code| End::Closed(Some(code)));
    }
    match reader.map(|reader| reader.join().expect("no panic")) {
        Some(code @ Some(_)) => End::Closed(code),
        _ => end,
    }
}

/// Runs a flood while another client is served; the heap must not grow.
fn held<T>(server: &Server, flood: impl FnOnce(SocketAddr) -> T + Send) -> T
where
    T: Send,
{
    let before = anonymous_bytes(server.pid());
    let (end, grown) = std::thread::scope(|scope| {
        let addr = server.client;
        let flooding = scope.spawn(move || flood(addr));
        let mut most = before;
        block_on(async {
            let client = Client::connect(server.client).await;
            let mut served = 0;
            while !flooding.is_finished() || served < 50 {
                let put =
                    pb::PutRequest { key: "k".into(), value: "v".into(), ..Default::default() };
                let _: pb::PutResponse = client.call("/etcdserverpb.KV/Put", &put).await.message();
                served += 1;
                most = most.max(anonymous_bytes(server.pid()));
            }
        });
        (flooding.join().expect("no panic"), most - before)
    });
    assert!(grown < GROWTH_BYTES_MAX, "{grown} bytes more on the heap");
    end
}

fn request(n: usize) -> u32 {
    2 * n as u32 + 1
}

fn headers(flags: u8, stream: u32) -> Vec<u8> {
    frame(HEADERS, END_HEADERS | flags, stream, &head(&call(RANGE)))
}

/// A call whose answer is a few bytes.
fn get(stream: u32) -> Vec<u8> {
    let range = pb::RangeRequest { key: "a".into(), ..Default::default() };
    let body = frame(DATA, END_STREAM, stream, &message(&range.encode_to_vec()));
    [headers(0, stream), body].concat()
}

fn calmed(end: &End) -> bool {
    *end == End::Closed(Some(ENHANCE_YOUR_CALM))
}

#[test]
fn floods_of_frames_end_their_connection() {
    let server = Server::start(Kind::Ringd, &[]);
    let reset = |stream| frame(RST_STREAM, 0, stream, &8u32.to_be_bytes());
    let rapid_reset = |n: usize| [headers(0, request(n)), reset(request(n))].concat();
    // The server resets each of these itself: a request ends, and more of it comes.
    let provoked = |n: usize| {
        let stream = request(n);
        [headers(0, stream), frame(WINDOW_UPDATE, 0, stream, &[0; 4])].concat()
    };
    let settings = |_| frame(SETTINGS, 0, 0, &[]).repeat(20);
    let pings = |_| frame(PING, 0, 0, &[0; 8]).repeat(20);
    let empty = |_| frame(DATA, 0, 1, &[]).repeat(20);
    let continuation = |_| frame(CONTINUATION, 0, 1, &[0; 64]);

    let end = held(&server, |addr| flood(addr, true, &[], rapid_reset));
    assert!(calmed(&end), "rapid reset: {end:?}");
    let end = held(&server, |addr| flood(addr, true, &[], provoked));
    assert!(calmed(&end), "provoked resets: {end:?}");
    let end = held(&server, |addr| flood(addr, true, &[], settings));
    assert!(calmed(&end), "SETTINGS: {end:?}");
    let end = held(&server, |addr| flood(addr, true, &[], pings));
    assert!(calmed(&end), "PING: {end:?}");
    let end = held(&server, |addr| flood(addr, true, &headers(0, 1), empty));
    assert!(calmed(&end), "empty DATA: {end:?}");
    let block = frame(HEADERS, 0, 1, &head(&call(RANGE)));
    let end = held(&server, |addr| flood(addr, true, &block, continuation));
    assert!(calmed(&end), "CONTINUATION: {end:?}");
}

#[test]
fn who_does_not_read_is_left_waiting() {
    let server = Server::start(Kind::Ringd, &[]);
    // The first answers fill the windows, those of further calls wait in their streams, and when there are
    // as many as a connection may have, the refusals fill the socket.
    let calls = |n: usize| get(request(n));
    let end = held(&server, |addr| flood(addr, false, &[], calls));
    assert!(matches!(end, End::LeftWaiting | End::Closed(_)), "answers: {end:?}");
    // Windows of zero: answers wait in their streams, and there is a largest number of these.
    let no_window = frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 0]);
    let many = |n: usize| if n < 15_000 { get(request(n)) } else { Vec::new() };
    let end = held(&server, |addr| flood(addr, true, &no_window, many));
    assert!(matches!(end, End::Served | End::LeftWaiting), "window 0: {end:?}");
}

#[test]
fn idle_connections_cost_little_and_nobody_waits_for_them() {
    // The server inherits the limit that this raises.
    let count = connections_max();
    let server = Server::start(Kind::Ringd, &[]);
    let before = anonymous_bytes(server.pid());
    let idle: Vec<TcpStream> = (0..count)
        .map(|_| {
            let mut tcp = TcpStream::connect(server.client).expect("a connection");
            let hello = [PREFACE, &frame(SETTINGS, 0, 0, &[]), &frame(SETTINGS, 1, 0, &[])];
            tcp.write_all(&hello.concat()).expect("a preface is sent");
            tcp
        })
        .collect();
    held(&server, |_| ());
    let each = (anonymous_bytes(server.pid()) - before) / count as u64;
    eprintln!("{count} idle connections: {each} bytes of heap each");
    assert!(each < 16_384, "{each} bytes for an idle connection");
    drop(idle);
}

#[test]
fn sockets_whose_connections_are_over_leave_descriptors_for_files() {
    const LIMIT: usize = 500;
    let limited = |command: &mut Command| {
        let limit = || {
            let limit = libc::rlimit { rlim_cur: LIMIT as u64, rlim_max: LIMIT as u64 };
            // SAFETY: the kernel reads `limit`, which lives through the call.
            match unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) } {
                0 => Ok(()),
                _ => Err(std::io::Error::last_os_error()),
            }
        };
        // SAFETY: between fork and exec there is one system call.
        unsafe { command.pre_exec(limit) };
    };
    let server = Server::start_prepared("http", &[], Arc::new(limited));
    let descriptors = || {
        let listed = std::fs::read_dir(format!("/proc/{}/fd", server.pid()));
        listed.expect("a process of ours").count()
    };
    // Each is refused and ended by the server, which waits a while for the other end to do so as well.
    let mut refused = Vec::new();
    let mut most = 0;
    for n in 0..LIMIT + 200 {
        let mut tcp = TcpStream::connect(server.client).expect("a connection");
        tcp.write_all(b"nonsense\r\n\r\n").expect("the socket takes it");
        refused.push(tcp);
        if n % 10 == 0 {
            most = most.max(descriptors());
        }
    }
    // The kernel's queue takes them all at once, so most of them may still be ahead of the server.
    let until = Instant::now() + Duration::from_secs(30);
    while most <= LIMIT / 2 && Instant::now() < until {
        most = most.max(descriptors());
        std::thread::sleep(Duration::from_millis(1));
    }
    held(&server, |_| ());
    assert!(most > LIMIT / 2, "only {most} descriptors: they do not linger");
    assert!(most < LIMIT - 50, "{most} descriptors of {LIMIT}");
    let log = server.log();
    assert!(!log.iter().any(|line| line.contains("failed to accept")), "{log:#?}");
}

/// Ten thousand, or what the limit on file descriptors of this process allows.
fn connections_max() -> usize {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: plain system calls on a structure of this function.
    unsafe {
        libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit);
        limit.rlim_cur = limit.rlim_max.min(65_536);
        libc::setrlimit(libc::RLIMIT_NOFILE, &limit);
        libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit);
    }
    usize::try_from(limit.rlim_cur).map_or(10_000, |fds| fds.saturating_sub(500).min(10_000))
}
