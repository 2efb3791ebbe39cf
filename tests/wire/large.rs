//! Answers that are larger than the memory they may take, and clients that do not read them.
//!
//! `RINGD_LARGE_KEYS` sets the number of keys (a million is what docs/GUARANTEES.md speaks of).

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use prost::Message;
use ringd::proto::etcdserverpb as pb;
use ringd::proto::etcdserverpb::request_op::Request;

use crate::block_on;
use crate::client::{Client, frame as message};
use crate::frames::{
    DATA, END_HEADERS, END_STREAM, HEADERS, PREFACE, SETTINGS, WINDOW_UPDATE, call, frame, frames,
    head,
};
use crate::heap::anonymous_bytes;
use crate::server::{Kind, PATIENCE, Server};

const RANGE: &str = "/etcdserverpb.KV/Range";
const KEYS_PER_TXN: usize = 1_000;
const VALUE_BYTES: usize = 256;
/// What lists may add to the heap, whatever the number of keys.
const GROWTH_BYTES_MAX: u64 = 64 << 20;
const LAZY_CLIENTS: usize = 6;

fn keys() -> usize {
    std::env::var("RINGD_LARGE_KEYS").map_or(150_000, |keys| keys.parse().expect("a number"))
}

fn all() -> pb::RangeRequest {
    pb::RangeRequest { key: "\0".into(), range_end: "\0".into(), ..Default::default() }
}

/// A server with as many keys as [`keys`] says.
fn filled() -> Server {
    let server = Server::start(Kind::Ringd, &["--max-txn-ops=1000"]);
    block_on(async {
        let client = Client::connect(server.client).await;
        for first in (0..keys()).step_by(KEYS_PER_TXN) {
            let success = (first..(first + KEYS_PER_TXN).min(keys())).map(|n| {
                let value = vec![b'v'; VALUE_BYTES].into();
                let key = format!("key-{n:08}").into();
                let put = pb::PutRequest { key, value, ..Default::default() };
                pb::RequestOp { request: Some(Request::RequestPut(put)) }
            });
            let txn = pb::TxnRequest { success: success.collect(), ..Default::default() };
            let _: pb::TxnResponse = client.call("/etcdserverpb.KV/Txn", &txn).await.message();
        }
    });
    server
}

/// The most that the heap of a process had while `work` ran, above what it had before.
fn growth(pid: u32, work: impl FnOnce()) -> u64 {
    let before = anonymous_bytes(pid);
    let most = AtomicU64::new(before);
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                most.fetch_max(anonymous_bytes(pid), Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(2));
            }
        });
        work();
        done.store(true, Ordering::Relaxed);
    });
    most.into_inner() - before
}

/// A list of all keys is asked for, and not read. With `opened`, the windows would let all of it through.
fn ask_for_all(addr: SocketAddr, opened: bool) -> TcpStream {
    let window = if opened { 0x7fff_ffffu32 } else { 65_535 };
    let setting = [&[0, 4][..], &window.to_be_bytes()].concat();
    let bytes = [
        PREFACE,
        &frame(SETTINGS, 0, 0, &setting),
        &frame(WINDOW_UPDATE, 0, 0, &(window - 65_535).max(1).to_be_bytes()),
        &frame(HEADERS, END_HEADERS, 1, &head(&call(RANGE))),
        &frame(DATA, END_STREAM, 1, &message(&all().encode_to_vec())),
    ]
    .concat();
    let mut tcp = TcpStream::connect(addr).expect("a connection");
    tcp.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    tcp.write_all(&bytes).expect("a request is sent");
    tcp
}

/// Reads until a stream has ended: the DATA of it.
fn read_data(tcp: &mut TcpStream) -> Vec<u8> {
    let (mut data, mut input) = (Vec::new(), Vec::new());
    let mut buffer = vec![0; 1 << 20];
    let mut header_frames = 0;
    while header_frames < 2 {
        let length = tcp.read(&mut buffer).expect("an answer");
        assert!(length > 0, "the connection is closed");
        input.extend_from_slice(&buffer[..length]);
        let mut taken = 0;
        for (kind, payload) in frames(&input) {
            taken += 9 + payload.len();
            match kind {
                DATA => data.extend_from_slice(payload),
                HEADERS => header_frames += 1,
                _ => {}
            }
        }
        input.drain(..taken);
    }
    data
}

fn check_all(data: &[u8]) {
    let response = pb::RangeResponse::decode(&data[5..]).expect("a RangeResponse");
    assert_eq!((response.kvs.len(), response.count), (keys(), keys() as i64));
    for (n, kv) in response.kvs.iter().enumerate() {
        assert_eq!(kv.key, format!("key-{n:08}"));
        assert_eq!((kv.value.len(), kv.version), (VALUE_BYTES, 1));
    }
}

#[test]
fn a_list_of_all_keys_is_made_as_it_is_read() {
    let server = filled();
    let grown =
        growth(server.pid(), || check_all(&read_data(&mut ask_for_all(server.client, true))));
    eprintln!("a list of {} keys: {} KiB more on the heap", keys(), grown >> 10);
    assert!(grown < GROWTH_BYTES_MAX / 4, "{grown} bytes more on the heap");
}

#[test]
fn lists_that_are_not_read_cost_a_bounded_part_and_others_are_served() {
    let server = filled();
    let answered = keys() as u64 * VALUE_BYTES as u64 * LAZY_CLIENTS as u64;
    let mut lazy = Vec::new();
    let grown = growth(server.pid(), || {
        for n in 0..LAZY_CLIENTS {
            lazy.push(ask_for_all(server.client, n % 2 == 0));
        }
        block_on(async {
            let client = Client::connect(server.client).await;
            // Each sees what it has written, while the lists still show the state in which they began.
            for n in 0..500 {
                let key = format!("key-{n:08}").into();
                let put = pb::PutRequest { key, value: "new".into(), ..Default::default() };
                let _: pb::PutResponse = client.call("/etcdserverpb.KV/Put", &put).await.message();
                let get = pb::RangeRequest { key: put.key, ..Default::default() };
                let got: pb::RangeResponse = client.call(RANGE, &get).await.message();
                assert_eq!(got.kvs[0].value, "new");
            }
        });
    });
    eprintln!("{LAZY_CLIENTS} lists, not read: {} KiB more on the heap", grown >> 10);
    assert!(grown < GROWTH_BYTES_MAX && grown < answered, "{grown} bytes more on the heap");
    // The first has its windows open: it gets the rest once it reads, of the state that was pinned.
    check_all(&read_data(&mut lazy[0]));
}
