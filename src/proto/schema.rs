//! The schemas as tables, for whoever handles messages of all types alike. `build.rs` fills them.

#[derive(Debug)]
pub struct Message {
    /// With its package.
    pub name: &'static str,
    /// In the order of the schema.
    pub fields: &'static [Field],
}

#[derive(Debug)]
pub struct Field {
    pub number: u32,
    pub name: &'static str,
    /// In lower camel case, but for names that the schema has in capitals.
    pub json_name: &'static str,
    pub kind: Kind,
    pub repeated: bool,
    /// The group of which one field at most is set, and is sent even if it is zero.
    pub oneof: Option<&'static str>,
}

/// What a field holds. Enums and messages are named by their places in the tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Bool,
    Int32,
    Int64,
    Uint32,
    Uint64,
    String,
    Bytes,
    Enum(usize),
    Message(usize),
}

#[derive(Debug)]
pub struct Enum {
    pub name: &'static str,
    pub values: &'static [(i32, &'static str)],
}

#[derive(Debug)]
pub struct Method {
    /// As in gRPC: `/package.Service/Name`.
    pub path: &'static str,
    /// Places in [`MESSAGES`].
    pub request: usize,
    pub response: usize,
    pub client_streams: bool,
    pub server_streams: bool,
}

include!(concat!(env!("OUT_DIR"), "/schema.rs"));
