//! The stores that are compared, behind one face. Each does the work in the way that suits it best.

use std::ops::Bound::{Excluded, Included, Unbounded};
use std::path::Path;

use heed::CommitOrAbort;
use heed::types::Bytes;
use redb::{ReadableDatabase, TableDefinition};

pub type Pair = (Vec<u8>, Vec<u8>);

pub trait Engine {
    const NAME: &'static str;

    fn create(dir: &Path) -> Self;
    /// Puts; returns when they are durable.
    fn put(&mut self, pairs: &[Pair]);
    /// Puts of any number, durable together.
    fn load(&mut self, pairs: &mut dyn Iterator<Item = Pair>);
    /// Ends what goes on beside.
    fn settle(&mut self) {}
    /// Reads values, all of one state; returns something that depends on each.
    fn get(&self, keys: &[Vec<u8>]) -> u64;
    /// Reads `limit` keys and values from `from` on.
    fn scan(&self, from: &[u8], limit: usize) -> u64;
    /// Number of keys in `[from, to)`.
    fn count(&self, from: &[u8], to: &[u8]) -> u64;
}

/// A few bytes of an entry: enough for it to be fetched from memory.
#[inline]
pub fn touch(key: &[u8], value: &[u8]) -> u64 {
    key.len() as u64 + u64::from(value[0]) + u64::from(value[value.len() - 1])
}

const MAP_BYTES: usize = 16 << 30;

pub struct Lmdb {
    env: &'static heed::Env,
    tree: heed::Database<'static, Bytes, Bytes>,
}

impl Engine for Lmdb {
    const NAME: &'static str = "lmdb";

    fn create(dir: &Path) -> Lmdb {
        std::fs::create_dir(dir).expect("a directory of its own");
        // SAFETY: the directory is new, and no other process opens it.
        let env = unsafe { heed::EnvOpenOptions::new().map_size(MAP_BYTES).open(dir) };
        // A tree borrows its environment: that lives on, and the few of a run are let be.
        let env: &heed::Env = Box::leak(Box::new(env.expect("an environment")));
        let txn = env.write_txn().expect("a transaction");
        let tree = env.create_databases_and_commit(txn, |opener, txn| {
            opener.create_database(txn, None).map(CommitOrAbort::<_, ()>::Commit)
        });
        let tree = tree.expect("a tree").unwrap_commit();
        Lmdb { env, tree }
    }

    fn put(&mut self, pairs: &[Pair]) {
        let mut txn = self.env.write_txn().expect("a transaction");
        for (key, value) in pairs {
            self.tree.put(&mut txn, key, value).expect("a put");
        }
        txn.commit().expect("a commit");
    }

    fn load(&mut self, pairs: &mut dyn Iterator<Item = Pair>) {
        let mut txn = self.env.write_txn().expect("a transaction");
        for (key, value) in pairs {
            self.tree.put(&mut txn, &key, &value).expect("a put");
        }
        txn.commit().expect("a commit");
    }

    fn get(&self, keys: &[Vec<u8>]) -> u64 {
        let txn = self.env.read_txn().expect("a transaction");
        let get = |key| self.tree.get(&txn, key).expect("a read").expect("a key");
        keys.iter().map(|key| touch(key, get(key))).sum()
    }

    fn scan(&self, from: &[u8], limit: usize) -> u64 {
        let txn = self.env.read_txn().expect("a transaction");
        let entries = self.tree.range(&txn, &(Included(from), Unbounded)).expect("a cursor");
        entries.take(limit).map(|entry| entry.expect("a read")).map(|(k, v)| touch(k, v)).sum()
    }

    fn count(&self, from: &[u8], to: &[u8]) -> u64 {
        let txn = self.env.read_txn().expect("a transaction");
        self.tree.range(&txn, &(Included(from), Excluded(to))).expect("a cursor").count() as u64
    }
}

const TABLE: TableDefinition<&[u8], &[u8]> = TableDefinition::new("bench");

pub struct Redb {
    db: redb::Database,
}

impl Engine for Redb {
    const NAME: &'static str = "redb";

    fn create(dir: &Path) -> Redb {
        std::fs::create_dir(dir).expect("a directory of its own");
        let db = redb::Database::create(dir.join("redb")).expect("a database");
        Redb { db }
    }

    fn put(&mut self, pairs: &[Pair]) {
        let txn = self.db.begin_write().expect("a transaction");
        {
            let mut table = txn.open_table(TABLE).expect("a table");
            for (key, value) in pairs {
                table.insert(&key[..], &value[..]).expect("a put");
            }
        }
        txn.commit().expect("a commit");
    }

    fn load(&mut self, pairs: &mut dyn Iterator<Item = Pair>) {
        let txn = self.db.begin_write().expect("a transaction");
        {
            let mut table = txn.open_table(TABLE).expect("a table");
            for (key, value) in pairs {
                table.insert(&key[..], &value[..]).expect("a put");
            }
        }
        txn.commit().expect("a commit");
    }

    fn get(&self, keys: &[Vec<u8>]) -> u64 {
        let txn = self.db.begin_read().expect("a transaction");
        let table = txn.open_table(TABLE).expect("a table");
        let get = |key: &[u8]| touch(key, table.get(key).expect("a read").expect("a key").value());
        keys.iter().map(|key| get(key)).sum()
    }

    fn scan(&self, from: &[u8], limit: usize) -> u64 {
        let txn = self.db.begin_read().expect("a transaction");
        let table = txn.open_table(TABLE).expect("a table");
        let entries = table.range(from..).expect("a cursor").take(limit);
        entries.map(|entry| entry.expect("a read")).map(|(k, v)| touch(k.value(), v.value())).sum()
    }

    fn count(&self, from: &[u8], to: &[u8]) -> u64 {
        let txn = self.db.begin_read().expect("a transaction");
        let table = txn.open_table(TABLE).expect("a table");
        table.range(from..to).expect("a cursor").count() as u64
    }
}
