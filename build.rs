//! Turns the schemas of `src/proto` into Rust types, and keeps the compiled schemas themselves
//! (`ringd.fds`, a `FileDescriptorSet`), so that nothing but Rust is needed to build.

use std::{env, error::Error, fs, path::PathBuf};

const ROOT: &str = "src/proto";

/// Every schema of the folder; the imports between them are followed anyway, and naming all of
/// them keeps a schema that nobody imports from being left out.
const SCHEMAS: &[&str] = &[
    "authpb.proto",
    "etcdserverpb/auth.proto",
    "etcdserverpb/cluster.proto",
    "etcdserverpb/header.proto",
    "etcdserverpb/kv.proto",
    "etcdserverpb/lease.proto",
    "etcdserverpb/maintenance.proto",
    "etcdserverpb/raft_internal.proto",
    "etcdserverpb/watch.proto",
    "health.proto",
    "leasepb.proto",
    "membershippb.proto",
    "mvccpb.proto",
    "v3electionpb.proto",
    "v3lockpb.proto",
    "versionpb.proto",
];

/// Names that the usual snake_case rule would mangle (`peer_ur_ls`): schema name, Rust name.
/// Only the Rust side sees the second one; the embedded descriptors keep etcd's.
const RUST_NAMES: &[(&str, &str)] = &[("peerURLs", "peer_urls"), ("clientURLs", "client_urls")];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed={ROOT}");

    let mut compiler = protox::Compiler::new([ROOT])?;
    compiler.include_imports(true).open_files(SCHEMAS)?;
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("OUT_DIR is not set")?);
    fs::write(out.join("ringd.fds"), compiler.encode_file_descriptor_set())?;

    let mut for_rust = compiler.file_descriptor_set();
    for field in for_rust
        .file
        .iter_mut()
        .flat_map(|file| &mut file.message_type)
        .flat_map(|message| &mut message.field)
    {
        if let Some((_, rust)) = RUST_NAMES.iter().find(|(schema, _)| *schema == field.name()) {
            field.name = Some((*rust).to_owned());
        }
    }
    prost_build::Config::new().bytes(["."]).compile_fds(for_rust)?;
    Ok(())
}
