//! Turns the schemas of `src/proto` into Rust types and into tables of messages, enums and methods (`schema.rs`,
//! for the JSON gateway), and keeps the compiled schemas themselves, file by file (`files.rs`, for reflection), so that
//! nothing but Rust is needed to build.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::{env, error::Error, fs, path::PathBuf};

use prost::Message;
use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{
    DescriptorProto, EnumDescriptorProto, FieldDescriptorProto, FileDescriptorProto,
    FileDescriptorSet,
};

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
    "grpc/health/v1/health.proto",
    "grpc/reflection/v1/reflection.proto",
    "grpc/reflection/v1alpha/reflection.proto",
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
    // `src/shell/uring.rs` stands between glommio and the kernel where rings are made.
    println!("cargo::rustc-link-arg=-Wl,--wrap=__sys_io_uring_setup");

    let mut compiler = protox::Compiler::new([ROOT])?;
    compiler.include_imports(true).open_files(SCHEMAS)?;
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("OUT_DIR is not set")?);
    let encoded = EncodedFiles::decode(&compiler.encode_file_descriptor_set()[..])?;
    fs::write(out.join("files.rs"), files(&encoded)?)?;

    let mut for_rust = compiler.file_descriptor_set();
    fs::write(out.join("schema.rs"), Schema::of(&for_rust).tables()?)?;
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

/// A `FileDescriptorSet` whose files stay as they are: decoded and encoded again they would lose what this program
/// does not know of them.
#[derive(Clone, PartialEq, prost::Message)]
struct EncodedFiles {
    #[prost(bytes = "vec", repeated, tag = "1")]
    file: Vec<Vec<u8>>,
}

/// The source of the table that `src/proto/files.rs` includes.
fn files(encoded: &EncodedFiles) -> Result<String, Box<dyn Error>> {
    let mut out = String::from("pub static FILES: &[File] = &[\n");
    for bytes in &encoded.file {
        let file = FileDescriptorProto::decode(&bytes[..])?;
        let mut symbols = Vec::new();
        let within = |name: &str| match file.package() {
            "" => name.to_owned(),
            package => format!("{package}.{name}"),
        };
        file.message_type
            .iter()
            .for_each(|one| add_symbols(&mut symbols, &within(one.name()), one));
        file.enum_type
            .iter()
            .for_each(|one| add_enum_symbols(&mut symbols, &within(one.name()), one));
        symbols.extend(file.extension.iter().map(|one| within(one.name())));
        for service in &file.service {
            let name = within(service.name());
            symbols.extend(service.method.iter().map(|one| format!("{name}.{}", one.name())));
            symbols.push(name);
        }
        let extensions: Vec<_> = file
            .extension
            .iter()
            .map(|one| (one.extendee().trim_start_matches('.'), one.number()))
            .collect();
        writeln!(
            out,
            "File {{ name: {:?}, imports: &{:?}, symbols: &{symbols:?}, extensions: &{extensions:?}, encoded: b\"{}\" }},",
            file.name(),
            file.dependency,
            bytes.escape_ascii(),
        )?;
    }
    out.push_str("];\n");
    Ok(out)
}

fn add_symbols(symbols: &mut Vec<String>, name: &str, message: &DescriptorProto) {
    let mut add = |one: &str| symbols.push(format!("{name}.{one}"));
    message.field.iter().for_each(|one| add(one.name()));
    message.oneof_decl.iter().for_each(|one| add(one.name()));
    for one in &message.nested_type {
        add_symbols(symbols, &format!("{name}.{}", one.name()), one);
    }
    for one in &message.enum_type {
        add_enum_symbols(symbols, &format!("{name}.{}", one.name()), one);
    }
    symbols.push(name.to_owned());
}

/// The values of an enum are named beside it and not within it.
fn add_enum_symbols(symbols: &mut Vec<String>, name: &str, one: &EnumDescriptorProto) {
    let beside = name.rsplit_once('.').map_or(String::new(), |(before, _)| format!("{before}."));
    symbols.extend(one.value.iter().map(|value| format!("{beside}{}", value.name())));
    symbols.push(name.to_owned());
}

/// All messages and enums with their full names, in the order of the files.
#[derive(Default)]
struct Schema<'a> {
    messages: Vec<(String, &'a DescriptorProto)>,
    enums: Vec<(String, &'a EnumDescriptorProto)>,
    /// Full names with the dot in front, as types are named; places in the lists above.
    places: BTreeMap<String, usize>,
    methods: Vec<(String, &'a prost_types::MethodDescriptorProto)>,
}

impl<'a> Schema<'a> {
    fn of(files: &'a FileDescriptorSet) -> Self {
        let mut schema = Self::default();
        for file in &files.file {
            // The imports of descriptors describe schemas, not messages.
            if file.package().starts_with("google.") {
                continue;
            }
            let package = file.package();
            file.enum_type.iter().for_each(|one| schema.add_enum(package, one));
            file.message_type.iter().for_each(|one| schema.add_message(package, one));
            for service in &file.service {
                let path = |name: &str| format!("/{package}.{}/{name}", service.name());
                schema.methods.extend(service.method.iter().map(|one| (path(one.name()), one)));
            }
        }
        schema
    }

    fn add_message(&mut self, within: &str, message: &'a DescriptorProto) {
        let name = format!("{within}.{}", message.name());
        message.enum_type.iter().for_each(|one| self.add_enum(&name, one));
        message.nested_type.iter().for_each(|one| self.add_message(&name, one));
        self.places.insert(format!(".{name}"), self.messages.len());
        self.messages.push((name, message));
    }

    fn add_enum(&mut self, within: &str, one: &'a EnumDescriptorProto) {
        let name = format!("{within}.{}", one.name());
        self.places.insert(format!(".{name}"), self.enums.len());
        self.enums.push((name, one));
    }

    fn place(&self, name: &str) -> Result<usize, Box<dyn Error>> {
        Ok(*self.places.get(name).ok_or_else(|| format!("{name} is in no schema"))?)
    }

    /// The source of the tables that `src/proto/schema.rs` includes.
    fn tables(&self) -> Result<String, Box<dyn Error>> {
        let mut out = String::from("pub static MESSAGES: &[Message] = &[\n");
        for (name, message) in &self.messages {
            writeln!(out, "Message {{ name: {name:?}, fields: &[")?;
            for field in &message.field {
                out.push_str(&self.field(message, field)?);
            }
            out.push_str("] },\n");
        }
        out.push_str("];\npub static ENUMS: &[Enum] = &[\n");
        for (name, one) in &self.enums {
            write!(out, "Enum {{ name: {name:?}, values: &[")?;
            for value in &one.value {
                write!(out, "({}, {:?}), ", value.number(), value.name())?;
            }
            out.push_str("] },\n");
        }
        out.push_str("];\npub static METHODS: &[Method] = &[\n");
        for (path, method) in &self.methods {
            writeln!(
                out,
                "Method {{ path: {path:?}, request: {}, response: {}, client_streams: {}, server_streams: {} }},",
                self.place(method.input_type())?,
                self.place(method.output_type())?,
                method.client_streaming(),
                method.server_streaming(),
            )?;
        }
        out.push_str("];\n");
        Ok(out)
    }

    fn field(
        &self,
        message: &DescriptorProto,
        field: &FieldDescriptorProto,
    ) -> Result<String, Box<dyn Error>> {
        let kind = match field.r#type() {
            Type::Bool => "Bool".to_owned(),
            Type::Int32 => "Int32".to_owned(),
            Type::Int64 => "Int64".to_owned(),
            Type::Uint32 => "Uint32".to_owned(),
            Type::Uint64 => "Uint64".to_owned(),
            Type::String => "String".to_owned(),
            Type::Bytes => "Bytes".to_owned(),
            Type::Enum => format!("Enum({})", self.place(field.type_name())?),
            Type::Message => format!("Message({})", self.place(field.type_name())?),
            other => return Err(format!("{}: fields cannot be {other:?}", field.name()).into()),
        };
        let oneof = match field.oneof_index {
            Some(index) => format!("Some({:?})", message.oneof_decl[index as usize].name()),
            None => "None".to_owned(),
        };
        Ok(format!(
            "Field {{ number: {}, name: {:?}, json_name: {:?}, kind: Kind::{kind}, repeated: {}, oneof: {oneof} }},\n",
            field.number(),
            field.name(),
            field.json_name(),
            field.label() == Label::Repeated,
        ))
    }
}
