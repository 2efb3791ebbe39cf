//! The header blocks of requests: as a gRPC client that indexes what repeats, so that a server decodes
//! from this client neither more nor less than from its usual ones.
//!
//! The first request of a method enters its path into the dynamic table, the first of all enters the
//! other fields; from then on a block is seven octets. Nothing is ever evicted: all entries together
//! are smaller than the table.

use crate::h2::hpack::{self, CAPACITY_MAX, ENTRY_OVERHEAD};

/// The RPCs that are called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Method {
    Put,
    Range,
    RangeStream,
    Txn,
    Watch,
    LeaseGrant,
    LeaseRevoke,
    LeaseKeepAlive,
    Authenticate,
}

const PATHS: [&str; 9] = [
    "/etcdserverpb.KV/Put",
    "/etcdserverpb.KV/Range",
    "/etcdserverpb.KV/RangeStream",
    "/etcdserverpb.KV/Txn",
    "/etcdserverpb.Watch/Watch",
    "/etcdserverpb.Lease/LeaseGrant",
    "/etcdserverpb.Lease/LeaseRevoke",
    "/etcdserverpb.Lease/LeaseKeepAlive",
    "/etcdserverpb.Auth/Authenticate",
];

impl Method {
    pub fn path(self) -> &'static str {
        PATHS[self as usize]
    }
}

/// Octets of an indexed field: static entries 3 and 6 (RFC 7541, appendix A).
const METHOD_POST: u8 = 0x83;
const SCHEME_HTTP: u8 = 0x86;
/// "Literal with incremental indexing", its name at this index of the static table.
const LITERAL_AUTHORITY: u8 = 0x41;
const LITERAL_PATH: u8 = 0x44;
const LITERAL_CONTENT_TYPE: u8 = 0x5f;
const LITERAL_USER_AGENT: u8 = 0x7a;
const LITERAL_NEW_NAME: u8 = 0x40;
const FIRST_DYNAMIC_INDEX: usize = 62;
/// Fields that all requests have beside method, scheme and path.
const COMMON: usize = 4;

const USER_AGENT: &str = concat!("ringd/", env!("CARGO_PKG_VERSION"));

#[derive(Debug)]
pub struct RequestHeads {
    authority: String,
    /// Of a user who has authenticated.
    token: Option<String>,
    /// Entries so far; the common ones are 0 to 3.
    entries: usize,
    /// Which entry the path of a method is.
    paths: [Option<usize>; PATHS.len()],
    /// False when the server has a table of less than the default size: then nothing is indexed.
    indexes: bool,
    owes_table_update: bool,
}

impl RequestHeads {
    pub fn new(authority: &str) -> RequestHeads {
        let size: usize = PATHS.iter().map(|path| path.len() + 5 + ENTRY_OVERHEAD).sum();
        let common = authority.len() + USER_AGENT.len() + 64 + COMMON * ENTRY_OVERHEAD;
        RequestHeads {
            authority: authority.to_owned(),
            token: None,
            entries: 0,
            paths: [None; PATHS.len()],
            indexes: size + common <= CAPACITY_MAX,
            owes_table_update: false,
        }
    }

    /// The server has said how large its table is.
    pub fn set_table_bytes(&mut self, bytes: usize) {
        if bytes < CAPACITY_MAX && self.indexes {
            self.indexes = false;
            self.owes_table_update = true;
        }
    }

    /// From now on requests are those of a user.
    pub fn set_token(&mut self, token: String) {
        self.token = Some(token);
    }

    pub fn write(&mut self, method: Method, block: &mut Vec<u8>) {
        self.write_common(method, block);
        if let Some(token) = &self.token {
            hpack::encode_field(b"token", token.as_bytes(), block);
        }
    }

    fn write_common(&mut self, method: Method, block: &mut Vec<u8>) {
        if !self.indexes {
            if std::mem::take(&mut self.owes_table_update) {
                block.push(hpack::NO_DYNAMIC_TABLE);
            }
            block.extend([METHOD_POST, SCHEME_HTTP]);
            hpack::encode_field(b":path", method.path().as_bytes(), block);
            hpack::encode_field(b":authority", self.authority.as_bytes(), block);
            hpack::encode_field(b"content-type", b"application/grpc", block);
            hpack::encode_field(b"te", b"trailers", block);
            hpack::encode_field(b"user-agent", USER_AGENT.as_bytes(), block);
            return;
        }
        block.extend([METHOD_POST, SCHEME_HTTP]);
        // Pseudo-header fields come first, so on the first request the path is the second entry.
        let is_first = self.entries == 0;
        if is_first {
            self.literal(LITERAL_AUTHORITY, &self.authority.clone(), block);
        } else {
            self.indexed(0, block);
        }
        match self.paths[method as usize] {
            Some(entry) => self.indexed(entry, block),
            None => {
                self.paths[method as usize] = Some(self.entries);
                self.literal(LITERAL_PATH, method.path(), block);
            }
        }
        if is_first {
            self.literal(LITERAL_CONTENT_TYPE, "application/grpc", block);
            block.push(LITERAL_NEW_NAME);
            block.extend([2, b't', b'e']);
            text("trailers", block);
            self.entries += 1;
            self.literal(LITERAL_USER_AGENT, USER_AGENT, block);
        } else {
            for entry in 2..=COMMON {
                self.indexed(entry, block);
            }
        }
    }

    fn literal(&mut self, pattern: u8, value: &str, block: &mut Vec<u8>) {
        block.push(pattern);
        text(value, block);
        self.entries += 1;
    }

    fn indexed(&self, entry: usize, block: &mut Vec<u8>) {
        // Fewer than 20 entries: the index fits into the seven bits.
        block.push(0x80 | (FIRST_DYNAMIC_INDEX + self.entries - 1 - entry) as u8);
    }
}

/// A string without Huffman coding. Lengths up to 126 take one octet.
fn text(value: &str, block: &mut Vec<u8>) {
    if value.len() < 127 {
        block.push(value.len() as u8);
    } else {
        block.push(127);
        super::super::wire::varint((value.len() - 127) as u64, block);
    }
    block.extend_from_slice(value.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::h2::hpack::Decoder;

    fn decode(decoder: &mut Decoder, block: &[u8]) -> Vec<(String, String)> {
        let mut fields = Vec::new();
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        decoder
            .decode(block, usize::MAX, &mut |decoded| {
                let field = decoded.field();
                fields.push((text(&field.name), text(&field.value)));
            })
            .unwrap();
        fields
    }

    fn expected(method: Method, authority: &str) -> Vec<(String, String)> {
        let fields = [
            (":authority", authority),
            (":method", "POST"),
            (":path", method.path()),
            (":scheme", "http"),
            ("content-type", "application/grpc"),
            ("te", "trailers"),
            ("user-agent", USER_AGENT),
        ];
        fields.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec()
    }

    const METHODS: [Method; 9] = [
        Method::Put,
        Method::Range,
        Method::RangeStream,
        Method::Txn,
        Method::Watch,
        Method::LeaseGrant,
        Method::LeaseRevoke,
        Method::LeaseKeepAlive,
        Method::Authenticate,
    ];

    #[test]
    fn every_block_means_its_method_in_whatever_order_they_come() {
        for (authority, table_bytes) in
            [("127.0.0.1:2379", 4096), ("127.0.0.1:2379", 0), (&"a".repeat(200), 4096)]
        {
            let mut heads = RequestHeads::new(authority);
            heads.set_table_bytes(table_bytes);
            let mut decoder = Decoder::default();
            let mut random = crate::bench::random::Random::new(3);
            for _ in 0..200 {
                let method = METHODS[random.below(9) as usize];
                let mut block = Vec::new();
                heads.write(method, &mut block);
                let mut fields = decode(&mut decoder, &block);
                assert!(fields.iter().take(4).all(|(name, _)| name.starts_with(':')));
                fields.sort();
                assert_eq!(fields, expected(method, authority));
            }
        }
    }

    #[test]
    fn a_users_token_is_in_every_block() {
        let mut heads = RequestHeads::new("localhost:2379");
        let mut decoder = Decoder::default();
        for token in [None, Some("abc.7"), Some("abc.7")] {
            token.into_iter().for_each(|token| heads.set_token(token.to_owned()));
            let mut block = Vec::new();
            heads.write(Method::Put, &mut block);
            let fields = decode(&mut decoder, &block);
            let found = fields.iter().find(|(name, _)| name == "token");
            assert_eq!(found.map(|(_, value)| value.as_str()), token);
        }
    }

    #[test]
    fn a_block_that_repeats_is_seven_octets() {
        let mut heads = RequestHeads::new("localhost:2379");
        let mut first = Vec::new();
        heads.write(Method::Txn, &mut first);
        let mut second = Vec::new();
        heads.write(Method::Txn, &mut second);
        assert_eq!(second.len(), 7);
        assert!(first.len() > 60);
    }
}
