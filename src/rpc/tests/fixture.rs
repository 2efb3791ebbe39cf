//! A server of one member, and clients that speak HTTP/2 to it.

use std::collections::BTreeMap;
use std::io;

use bytes::Bytes;
use prost::Message;

use crate::apply::Applier;
use crate::grpc;
use crate::h2::hpack::Decoder;
use crate::h2::{self, PREFACE, encode_block};
use crate::membership::{Cluster, Member};
use crate::node::{self, Metadata, Node, Recovered, Retention};
use crate::proto::authpb::{Permission, permission::Type};
use crate::proto::etcdserverpb::{
    AuthEnableRequest, AuthRoleAddRequest, AuthRoleGrantPermissionRequest, AuthUserAddRequest,
    AuthUserGrantRoleRequest, AuthenticateRequest, AuthenticateResponse, LeaseGrantRequest,
};
use crate::rpc::{Access, ConnId, ListenerKind, Metrics, Options, PENDING_PROPOSALS_MAX, Server};
use crate::store::{self, MemoryDisk};
use wal::{SegmentId, SegmentSource};

pub const MEMBER: u64 = 7;
/// etcd's 5 s and two election timeouts.
pub const REQUEST_TIMEOUT_MS: u64 = 7_000;

struct NoSegments;

impl SegmentSource for NoSegments {
    fn list(&mut self) -> io::Result<Vec<(SegmentId, u64)>> {
        Ok(Vec::new())
    }

    fn read(&mut self, _: SegmentId) -> io::Result<wal::Content> {
        unreachable!("there are no segments")
    }
}

pub struct Bed {
    pub server: Server,
    disk: MemoryDisk,
    pub now_ms: u64,
    /// A write of the log that is not durable yet.
    in_flight: Option<wal::OpId>,
    /// What the log was given, where a test wants to look at it.
    pub log_written: Option<Vec<u8>>,
}

impl Bed {
    /// A server that has not led yet.
    pub fn new() -> Bed {
        Bed::of([Member { id: MEMBER, ..Default::default() }])
    }

    /// The same in a cluster of more members, whose part the test plays.
    pub fn of(members: impl IntoIterator<Item = Member>) -> Bed {
        let disk = MemoryDisk::new(256 << 20, &store::Options::default());
        let cluster = Cluster::restore(1, members);
        let options = crate::apply::Options { lease_ttl_min_s: 2, joins: false };
        let applier = Applier::open(disk.open().unwrap(), cluster, MEMBER, options, 0).unwrap();
        let log = wal::recover(&mut NoSegments, &mut |_| {}).unwrap();
        let options = node::Options {
            metadata: Metadata { cluster_id: 1, member_id: MEMBER },
            name: String::new(),
            client_urls: Vec::new(),
            heartbeat_ms: 100,
            election_ms: 1000,
            quota_bytes: None,
            request_bytes_max: 1 << 20,
            pending_max: PENDING_PROPOSALS_MAX,
            patience_ms: REQUEST_TIMEOUT_MS,
            retention: Retention::Off,
            defrag_threshold_percent: 0,
            snapshot_count: 10_000,
            catch_up_entries: 5_000,
            replay_dirty_bytes: node::REPLAY_DIRTY_BYTES,
            snapshot_dirty_bytes: node::SNAPSHOT_DIRTY_BYTES,
            corrupt_check_ms: None,
            strict_reconfig_check: true,
            first_id: 1 << 32,
            inflight_appends_max: 256,
            seed: 1,
        };
        let log = wal::Writer::new(wal::Options::default(), log);
        let applied = (applier.applied_index(), applier.applied_term());
        let recovered = Recovered::new(applied, 5_000, 1 << 20);
        let node = Node::new(applier, log, recovered, options, 0).unwrap();
        let options = Options {
            max_txn_ops: 1_000,
            max_request_bytes: 1 << 20,
            request_timeout_ms: REQUEST_TIMEOUT_MS,
            progress_interval_ms: 600_000,
            max_learners: 1,
            auth: crate::rpc::AuthOptions { bcrypt_cost: 4, ..Default::default() },
            gateway: true,
            warning_request_ms: 300,
            warning_apply_ms: 100,
            access: Access::default(),
            pprof: false,
            traces: false,
            command_line: Vec::new(),
            fds_max: 0,
            h2: h2::Limits::default(),
        };
        let metrics = Metrics::new(MEMBER, Box::new(String::new), Box::new(|| 0.0));
        let server = Server::new(node, options, metrics, 0);
        Bed { server, disk, now_ms: 0, in_flight: None, log_written: None }
    }

    /// A server that serves.
    pub fn ready() -> Bed {
        let mut bed = Bed::new();
        while !bed.server.is_ready() {
            bed.settle();
        }
        bed
    }

    /// A server that leads, and whose first entry is not durable: it answers no linearizable read.
    pub fn unready() -> Bed {
        let mut bed = Bed::new();
        loop {
            bed.now_ms += 100;
            bed.turn();
            if bed.server.node().raft().leader().is_some() {
                return bed;
            }
            bed.finish_log_write();
        }
    }

    /// A server with a lease that is over, and whose revocation is not durable.
    pub fn with_ended_lease(id: i64) -> Bed {
        let mut bed = Bed::ready();
        let grant = LeaseGrantRequest { id, ttl: 2 };
        bed.connect().call(&mut bed, "/etcdserverpb.Lease/LeaseGrant", &grant);
        bed.settle();
        bed.now_ms += 3_000;
        bed.turn();
        bed
    }

    /// One turn; what it writes to the log is not durable yet.
    pub fn turn(&mut self) {
        self.now_ms += 1;
        self.server.turn(self.now_ms).unwrap();
        while let Some((id, op)) = self.server.next_log_op(u64::MAX) {
            match op {
                wal::Op::Write { data, .. } => {
                    if let Some(written) = &mut self.log_written {
                        written.extend_from_slice(&data);
                    }
                    self.in_flight = Some(id);
                }
                _ => self.server.log_op_done(id, u64::MAX),
            }
        }
        while let Some((number, op)) = self.server.next_password_op() {
            let done = op.run(&[number as u8; 80]);
            self.server.password_op_done(number, done);
        }
        while let Some((id, op)) = self.server.next_store_op() {
            self.disk.apply(&op);
            self.server.store_op_done(id, self.now_ms);
        }
    }

    pub fn finish_log_write(&mut self) {
        if let Some(id) = self.in_flight.take() {
            self.server.log_op_done(id, u64::MAX);
        }
    }

    /// Turns with a log that is durable at once.
    pub fn settle(&mut self) {
        for _ in 0..8 {
            self.turn();
            self.finish_log_write();
        }
    }

    /// Enables auth, with root as the only user; the token that root gets.
    pub fn secure(&mut self) -> String {
        let mut peer = self.connect();
        let (name, password) = ("root".to_owned(), "secret".to_owned());
        let add = AuthUserAddRequest { name, password, ..Default::default() };
        let grant = AuthUserGrantRoleRequest { user: add.name.clone(), role: add.name.clone() };
        peer.auth(self, "UserAdd", &add);
        peer.auth(self, "UserGrantRole", &grant);
        peer.auth(self, "AuthEnable", &AuthEnableRequest {});
        self.log_in(&add.name, &add.password)
    }

    /// Adds a user who may write a range, with the name as password.
    pub fn add_writer(&mut self, name: &'static str, key: &'static str, range_end: &'static str) {
        let mut peer = self.connect();
        let name = name.to_owned();
        let (perm_type, key, range_end) = (Type::Write as i32, key.into(), range_end.into());
        let perm = Some(Permission { perm_type, key, range_end });
        let password = name.clone();
        let user = AuthUserAddRequest { name: name.clone(), password, ..Default::default() };
        peer.auth(self, "UserAdd", &user);
        peer.auth(self, "RoleAdd", &AuthRoleAddRequest { name: name.clone() });
        let grant = AuthRoleGrantPermissionRequest { name: name.clone(), perm };
        peer.auth(self, "RoleGrantPermission", &grant);
        let grant = AuthUserGrantRoleRequest { user: name.clone(), role: name };
        peer.auth(self, "UserGrantRole", &grant);
    }

    /// The token of a user.
    pub fn log_in(&mut self, name: &str, password: &str) -> String {
        let (name, password) = (name.to_owned(), password.to_owned());
        self.connect().auth(self, "Authenticate", &AuthenticateRequest { name, password })
    }

    pub fn connect(&mut self) -> Peer {
        let id = self.server.connect(ListenerKind::Client, self.now_ms).unwrap();
        let mut peer = Peer {
            id,
            next_stream: 1,
            decoder: Decoder::default(),
            input: Vec::new(),
            answers: BTreeMap::new(),
        };
        let settings = frame(4, 0, 0, &[]);
        peer.send(self, &[&PREFACE[..], &settings, &frame(4, 1, 0, &[])].concat());
        peer
    }
}

pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut frame = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// What a stream has answered so far.
#[derive(Default, Debug)]
pub struct Answer {
    pub data: Vec<u8>,
    /// `grpc-status`, once it has come.
    pub status: Option<String>,
    pub text: String,
    /// The code of an RST_STREAM.
    pub reset: Option<u32>,
    /// What WINDOW_UPDATE frames have given this client so far.
    pub given: u64,
}

impl Answer {
    pub fn message<M: Message + Default>(&self) -> M {
        assert_eq!(self.status.as_deref(), Some("0"), "{}", self.text);
        M::decode(&self.data[grpc::PREFIX_LEN..]).unwrap()
    }

    /// All whole messages so far.
    pub fn messages<M: Message + Default>(&self) -> Vec<M> {
        let mut decoder = grpc::Decoder::new(usize::MAX);
        decoder.push(Bytes::copy_from_slice(&self.data));
        let mut messages = Vec::new();
        while let Some(message) = decoder.next_message().unwrap() {
            messages.push(M::decode(message).unwrap());
        }
        messages
    }
}

/// A client. It hears only what it takes.
pub struct Peer {
    pub id: ConnId,
    next_stream: u32,
    decoder: Decoder,
    input: Vec<u8>,
    pub answers: BTreeMap<u32, Answer>,
}

impl Peer {
    pub fn send(&mut self, bed: &mut Bed, bytes: &[u8]) {
        bed.server.receive(self.id, Bytes::copy_from_slice(bytes), bed.now_ms);
    }

    /// Opens a stream; the request's messages are still to come.
    pub fn open(&mut self, bed: &mut Bed, path: &str, more: &[(&[u8], &[u8])]) -> u32 {
        let stream = self.next_stream;
        self.next_stream += 2;
        let mut fields: Vec<(&[u8], &[u8])> = vec![
            (b":method", b"POST"),
            (b":scheme", b"http"),
            (b":path", path.as_bytes()),
            (b":authority", b"test"),
            (b"content-type", b"application/grpc"),
        ];
        fields.extend(more);
        self.send(bed, &frame(1, 4, stream, &encode_block(&fields)));
        stream
    }

    pub fn message(&mut self, bed: &mut Bed, stream: u32, message: &impl Message, end: bool) {
        let message = message.encode_to_vec();
        let bytes = [&grpc::encode_prefix(message.len())[..], &message].concat();
        let pieces = bytes.chunks(16_384).collect::<Vec<_>>();
        for (index, piece) in pieces.iter().enumerate() {
            let flags = u8::from(end && index + 1 == pieces.len());
            self.send(bed, &frame(0, flags, stream, piece));
        }
    }

    pub fn call(&mut self, bed: &mut Bed, path: &str, message: &impl Message) -> u32 {
        let stream = self.open(bed, path, &[]);
        self.message(bed, stream, message, true);
        stream
    }

    /// The token in the answer, if that has one.
    fn auth(&mut self, bed: &mut Bed, name: &str, message: &impl Message) -> String {
        let stream = self.call(bed, &format!("/etcdserverpb.Auth/{name}"), message);
        for _ in 0..4 {
            bed.settle();
        }
        self.take(bed);
        self.answers[&stream].message::<AuthenticateResponse>().token
    }

    /// Takes all that the server has for this client; the windows stay as they are.
    pub fn take(&mut self, bed: &mut Bed) {
        loop {
            let before = self.input.len();
            bed.server.take_output(self.id, 1 << 20, &mut self.input);
            if self.input.len() == before {
                break;
            }
        }
        let input = std::mem::take(&mut self.input);
        let mut rest = &input[..];
        while let Some((header, after)) = rest.split_first_chunk::<9>() {
            let length = u32::from_be_bytes([0, header[0], header[1], header[2]]) as usize;
            let payload = &after[..length];
            rest = &after[length..];
            let stream = u32::from_be_bytes([header[5], header[6], header[7], header[8]]);
            let answer = self.answers.entry(stream).or_default();
            match header[3] {
                0 => answer.data.extend_from_slice(payload),
                1 => {
                    self.decoder
                        .decode(payload, 1 << 20, &mut |decoded| {
                            let field = decoded.field();
                            let value = String::from_utf8_lossy(&field.value).into_owned();
                            match field.name.as_ref() {
                                b"grpc-status" => answer.status = Some(value),
                                b"grpc-message" => answer.text = value,
                                _ => {}
                            }
                        })
                        .unwrap();
                }
                3 => answer.reset = Some(u32::from_be_bytes(payload.try_into().unwrap())),
                8 => answer.given += u64::from(u32::from_be_bytes(payload.try_into().unwrap())),
                _ => {}
            }
        }
        assert!(rest.is_empty(), "frames are taken whole");
    }

    /// Opens the windows of a stream and of the connection.
    pub fn grant(&mut self, bed: &mut Bed, stream: u32, bytes: u32) {
        let update = |stream| frame(8, 0, stream, &bytes.to_be_bytes());
        self.send(bed, &[update(stream), update(0)].concat());
    }

    pub fn answer(&self, stream: u32) -> (Option<&str>, &str) {
        self.answers
            .get(&stream)
            .map_or((None, ""), |answer| (answer.status.as_deref(), &answer.text))
    }
}
