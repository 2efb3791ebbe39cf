//! A proxy in front of one member's peer port, and the network that all proxies together are.
//!
//! Which member dials is read from the greeting (docs/FORMAT.md): its id stands at a fixed place of the first bytes.
//! A direction that is cut forwards nothing and closes nothing, as a network does; what was sent meanwhile arrives
//! when it is whole again.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

/// Magic, head of the frame, version, lane and cluster stand before the id of the one who dials.
const FROM_AT: usize = 8 + 16 + 2 + 1 + 8;
const GREETING: usize = FROM_AT + 8 + 8;
/// How long a pump waits before it looks at the state of its direction again.
const STEP: Duration = Duration::from_millis(10);

/// What one direction of one pair does to bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Condition {
    pub cut: bool,
    pub delay_ms: u64,
    /// 0 is no limit.
    pub bytes_per_s: u64,
}

/// Conditions by the ids of sender and receiver.
#[derive(Clone, Default)]
pub struct Net {
    conditions: Arc<Mutex<BTreeMap<(u64, u64), Condition>>>,
}

impl Net {
    pub fn set(&self, from: u64, to: u64, condition: Condition) {
        self.conditions.lock().expect("no poison").insert((from, to), condition);
    }

    /// Both directions between one and all of the others.
    pub fn isolate(&self, one: u64, others: &[u64], condition: Condition) {
        for other in others.iter().filter(|other| **other != one) {
            self.set(one, *other, condition);
            self.set(*other, one, condition);
        }
    }

    pub fn heal(&self) {
        self.conditions.lock().expect("no poison").clear();
    }

    fn get(&self, from: u64, to: u64) -> Condition {
        self.conditions.lock().expect("no poison").get(&(from, to)).copied().unwrap_or_default()
    }
}

/// Listens on a port of its own for ever and forwards to `target`.
pub fn start(net: &Net, target: SocketAddr) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free loopback port");
    let address = listener.local_addr().expect("its address");
    let net = net.clone();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(stream) = stream else { continue };
            let net = net.clone();
            thread::spawn(move || forward(&net, stream, target));
        }
    });
    address
}

fn forward(net: &Net, mut dialler: TcpStream, target: SocketAddr) {
    let Ok(mut member) = TcpStream::connect(target) else { return };
    let _ = dialler.set_nodelay(true);
    let _ = member.set_nodelay(true);
    let mut first = [0; GREETING];
    let _ = dialler.set_read_timeout(Some(Duration::from_secs(5)));
    // One who asks for the members says less; it is let through as it is.
    let mut got = 0;
    while got < first.len() {
        match dialler.read(&mut first[got..]) {
            Ok(0) | Err(_) => return,
            Ok(more) => got += more,
        }
        if got > 12 && first[12] != 1 {
            break;
        }
    }
    let id = |at: usize| u64::from_le_bytes(first[at..at + 8].try_into().expect("eight bytes"));
    let pair = (got == GREETING).then(|| (id(FROM_AT), id(FROM_AT + 8)));
    let (from, to) = pair.unwrap_or((0, 0));
    wait_while_cut(net, from, to);
    if member.write_all(&first[..got]).is_err() {
        return;
    }
    let (Ok(back_from), Ok(back_to)) = (member.try_clone(), dialler.try_clone()) else { return };
    let back_net = net.clone();
    thread::spawn(move || pump(&back_net, (to, from), back_from, back_to));
    pump(net, (from, to), dialler, member);
}

fn wait_while_cut(net: &Net, from: u64, to: u64) {
    while net.get(from, to).cut {
        thread::sleep(STEP);
    }
}

fn pump(net: &Net, (from, to): (u64, u64), mut source: TcpStream, mut sink: TcpStream) {
    let _ = source.set_read_timeout(None);
    let mut buffer = vec![0; 64 << 10];
    loop {
        let limit = match net.get(from, to).bytes_per_s {
            0 => buffer.len(),
            rate => (rate as usize / 50).clamp(1, buffer.len()),
        };
        let got = match source.read(&mut buffer[..limit]) {
            Ok(0) | Err(_) => break,
            Ok(got) => got,
        };
        wait_while_cut(net, from, to);
        let condition = net.get(from, to);
        if condition.delay_ms > 0 {
            thread::sleep(Duration::from_millis(condition.delay_ms));
        }
        // No rate: no limit.
        if let Some(micros) = (got as u64 * 1_000_000).checked_div(condition.bytes_per_s) {
            thread::sleep(Duration::from_micros(micros));
        }
        if sink.write_all(&buffer[..got]).is_err() {
            break;
        }
    }
    let _ = sink.shutdown(Shutdown::Both);
    let _ = source.shutdown(Shutdown::Both);
}
