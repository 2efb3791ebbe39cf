//! A store in memory with keys in it, and short ways to say requests.

use bytes::Bytes;
use prost::Message;

use crate::mvcc::{HashKv, HashKvValue, Mvcc, MvccError, Progress, Reader, Reply, Revision};
use crate::proto::etcdserverpb::request_op::Request;
use crate::proto::etcdserverpb::{
    DeleteRangeRequest, PutRequest, RangeRequest, RangeResponse, RequestOp, ResponseHeader,
    TxnRequest, TxnResponse,
};
use crate::proto::mvccpb;
use crate::store::{MemoryDisk, Options, Store};

const RESERVE_BYTES: u64 = 8 << 20;

pub struct Bed {
    disk: MemoryDisk,
    pub store: Store,
    pub mvcc: Mvcc,
}

impl Bed {
    pub fn new() -> Bed {
        let disk = MemoryDisk::new(RESERVE_BYTES, &Options::default());
        let store = disk.open().unwrap();
        let mvcc = Mvcc::open(&store).unwrap();
        Bed { disk, store, mvcc }
    }

    pub fn checkpoint(&mut self) {
        self.store.commit(self.store.committed_mark() + 1);
        self.disk.checkpoint(&mut self.store);
    }

    /// Comes back with the state of the last checkpoint.
    pub fn crash(&mut self) {
        self.store = self.disk.open().unwrap();
        self.mvcc = Mvcc::open(&self.store).unwrap();
    }

    pub fn reopen(&mut self) {
        self.checkpoint();
        self.crash();
    }

    pub fn reader(&self) -> Reader<'_> {
        self.mvcc.reader(self.store.view())
    }

    pub fn put(&mut self, key: &str, value: &str) -> i64 {
        self.put_request(&put(key, value)).unwrap().revision
    }

    pub fn put_request(&mut self, request: &PutRequest) -> Result<Reply, MvccError> {
        self.mvcc.put(&mut self.store, request)
    }

    pub fn delete(&mut self, key: &str, range_end: &str) -> i64 {
        self.delete_request(&delete(key, range_end)).unwrap().revision
    }

    pub fn delete_request(&mut self, request: &DeleteRangeRequest) -> Result<Reply, MvccError> {
        self.mvcc.delete_range(&mut self.store, request)
    }

    pub fn txn(&mut self, request: &TxnRequest) -> Result<TxnResponse, MvccError> {
        let reply = self.mvcc.txn(&mut self.store, request, &|lease| lease < 100)?;
        Ok(TxnResponse::decode(&with_header(&reply)[..]).unwrap())
    }

    pub fn compact(&mut self, revision: i64) -> Result<(), MvccError> {
        self.mvcc.compact(&mut self.store, revision)
    }

    /// Compacts and removes all that is superfluous.
    pub fn compact_wholly(&mut self, revision: i64) {
        self.compact(revision).unwrap();
        while self.mvcc.compact_step(&mut self.store, 3).unwrap() == Progress::More {}
    }

    pub fn range(&self, request: &RangeRequest) -> Result<RangeResponse, MvccError> {
        let bytes = range_bytes(&self.reader(), request)?;
        Ok(RangeResponse::decode(&bytes[..]).unwrap())
    }

    pub fn get(&self, key: &str) -> Option<mvccpb::KeyValue> {
        self.range(&range(key, "")).unwrap().kvs.pop()
    }

    pub fn hash_kv(&self, revision: i64, budget: usize) -> Result<HashKvValue, MvccError> {
        let reader = self.reader();
        let mut hash = HashKv::begin(&reader, revision)?;
        loop {
            if let Some(value) = hash.step(&reader, budget)? {
                return Ok(value);
            }
        }
    }

    /// All that the history has: revision, whether it is a deletion, key and value.
    pub fn history(&self) -> Vec<(Revision, bool, mvccpb::KeyValue)> {
        let mut changes = self.reader().changes(Revision::default());
        let mut history = Vec::new();
        while let Some(change) = changes.next().unwrap() {
            let kv = mvccpb::KeyValue::decode(change.kv).unwrap();
            assert_eq!(kv.key, change.key);
            history.push((change.revision, change.delete, kv));
        }
        history
    }

    pub fn keys_of_lease(&self, lease: i64) -> Vec<Vec<u8>> {
        let reader = self.reader();
        let mut keys = reader.keys_of_lease(lease);
        let mut all = Vec::new();
        while let Some(key) = keys.next().unwrap() {
            all.push(key.to_vec());
        }
        all
    }
}

/// The whole `RangeResponse`, its header having only the revision.
pub fn range_bytes(reader: &Reader<'_>, request: &RangeRequest) -> Result<Vec<u8>, MvccError> {
    let mut kvs = Vec::new();
    let outcome = reader.range(request, &mut kvs)?;
    let mut bytes = header_bytes(outcome.revision);
    bytes.extend(kvs);
    let rest = RangeResponse { more: outcome.more, count: outcome.count, ..Default::default() };
    bytes.extend(rest.encode_to_vec());
    Ok(bytes)
}

/// A whole response, its header having only the revision.
pub fn with_header(reply: &Reply) -> Vec<u8> {
    let mut bytes = header_bytes(reply.revision);
    bytes.extend_from_slice(&reply.body);
    bytes
}

fn header_bytes(revision: i64) -> Vec<u8> {
    RangeResponse { header: header(revision), ..Default::default() }.encode_to_vec()
}

pub fn header(revision: i64) -> Option<ResponseHeader> {
    Some(ResponseHeader { revision, ..Default::default() })
}

fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

pub fn put(key: &str, value: &str) -> PutRequest {
    PutRequest { key: bytes(key), value: bytes(value), ..Default::default() }
}

pub fn put_with_lease(key: &str, value: &str, lease: i64) -> PutRequest {
    PutRequest { lease, ..put(key, value) }
}

pub fn delete(key: &str, range_end: &str) -> DeleteRangeRequest {
    DeleteRangeRequest { key: bytes(key), range_end: bytes(range_end), prev_kv: false }
}

pub fn range(key: &str, range_end: &str) -> RangeRequest {
    RangeRequest { key: bytes(key), range_end: bytes(range_end), ..Default::default() }
}

pub fn op_put(request: PutRequest) -> RequestOp {
    RequestOp { request: Some(Request::RequestPut(request)) }
}

pub fn op_delete(request: DeleteRangeRequest) -> RequestOp {
    RequestOp { request: Some(Request::RequestDeleteRange(request)) }
}

pub fn op_range(request: RangeRequest) -> RequestOp {
    RequestOp { request: Some(Request::RequestRange(request)) }
}

pub fn op_txn(request: TxnRequest) -> RequestOp {
    RequestOp { request: Some(Request::RequestTxn(request)) }
}
