//! ringd's store as the server drives it: a batch is durable in the log, then applied, and checkpoints go on beside.

use std::path::Path;

use ringd::store::Tree;

use crate::disk::Disk;
use crate::engines::{Engine, Pair, touch};
use crate::log::Log;

const TREE: Tree = Tree(0);

pub struct Ringd {
    disk: Disk,
    log: Log,
    index: u64,
}

impl Engine for Ringd {
    const NAME: &'static str = "ringd";

    fn create(dir: &Path) -> Ringd {
        std::fs::create_dir(dir).expect("a directory of its own");
        let mut log = Log::create(dir);
        log.append(0, &[]);
        log.write();
        Ringd { disk: Disk::create(&dir.join("store")), log, index: 0 }
    }

    fn put(&mut self, pairs: &[Pair]) {
        for (key, value) in pairs {
            self.index += 1;
            self.log.append(self.index, &[key, value]);
        }
        self.log.write();
        for (key, value) in pairs {
            self.disk.store.put(TREE, key, value, true).expect("a put");
        }
        self.disk.store.commit(self.index);
        self.disk.turn();
        self.log.release(self.disk.store.durable_mark() + 1);
    }

    fn load(&mut self, pairs: &mut dyn Iterator<Item = Pair>) {
        for (key, value) in pairs {
            self.index += 1;
            self.disk.store.put(TREE, &key, &value, true).expect("a put");
            self.disk.store.commit(self.index);
            self.disk.turn();
        }
        self.disk.settle();
    }

    fn settle(&mut self) {
        self.disk.settle();
    }

    fn get(&self, keys: &[Vec<u8>]) -> u64 {
        let view = self.disk.store.view();
        let get = |key: &[u8]| view.get(TREE, key).expect("a read").expect("a key");
        keys.iter().map(|key| touch(key, get(key))).sum()
    }

    fn scan(&self, from: &[u8], limit: usize) -> u64 {
        let mut cursor = self.disk.store.view().cursor(TREE);
        let mut found = cursor.seek(from).expect("a read");
        let mut sum = 0;
        for _ in 0..limit {
            if !found {
                break;
            }
            sum += touch(cursor.key(), cursor.value().expect("a read"));
            found = cursor.next().expect("a read");
        }
        sum
    }

    fn count(&self, from: &[u8], to: &[u8]) -> u64 {
        let view = self.disk.store.view();
        view.rank(TREE, to).expect("a read") - view.rank(TREE, from).expect("a read")
    }
}
