//! The compiled schemas, file by file, with etcd's spelling of every name. `build.rs` fills the table.

#[derive(Debug)]
pub struct File {
    pub name: &'static str,
    /// Names of files.
    pub imports: &'static [&'static str],
    /// Everything in it that has a name, with its package.
    pub symbols: &'static [&'static str],
    /// The message that is extended, and the number of the field.
    pub extensions: &'static [(&'static str, i32)],
    /// A `google.protobuf.FileDescriptorProto`.
    pub encoded: &'static [u8],
}

include!(concat!(env!("OUT_DIR"), "/files.rs"));
