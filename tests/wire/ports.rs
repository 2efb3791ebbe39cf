//! Loopback ports for the servers of a test: a port stays the test's own while its server is down.
//!
//! A port that the system gives out for the asking is not: once its server is killed, any connection that anybody
//! makes may leave from it, and the server cannot listen there again. So ports are taken from below those that
//! the system gives out, in blocks; the UDP port at the head of a block, bound for as long as the process lives,
//! tells other tests that the block is taken.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::sync::Mutex;

const LOWEST: u16 = 10_000;
/// From here on the system chooses, where nobody set `net.ipv4.ip_local_port_range`.
const GIVEN_OUT_FROM: u16 = 32_768;
const BLOCK: u16 = 50;

/// The block that ports come from now.
static BLOCKS: Mutex<Option<Block>> = Mutex::new(None);

struct Block {
    next: u16,
    end: u16,
}

/// For clients and for members.
pub fn free_ports() -> [SocketAddr; 2] {
    let mut block = BLOCKS.lock().expect("no poison");
    [free_port(&mut block), free_port(&mut block)]
}

fn free_port(block: &mut Option<Block>) -> SocketAddr {
    loop {
        let current = block.get_or_insert_with(claim);
        if current.next == current.end {
            *block = None;
            continue;
        }
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, current.next));
        current.next += 1;
        // Something that is no test may listen there.
        if TcpListener::bind(address).is_ok() {
            return address;
        }
    }
}

fn claim() -> Block {
    let mut heads = (LOWEST..GIVEN_OUT_FROM - BLOCK).step_by(usize::from(BLOCK));
    let mine =
        heads.find_map(|head| Some((UdpSocket::bind((Ipv4Addr::LOCALHOST, head)).ok()?, head)));
    let (claim, head) = mine.expect("a block of ports that no other test has");
    std::mem::forget(claim);
    Block { next: head, end: head + BLOCK }
}
