//! The part of `protoc` that `prost-build` calls: compiles `.proto` files into one file descriptor set.
//!
//! The crate `etcd-client` runs `protoc` in its build script and finds it by `PROTOC`, which `.cargo/config.toml`
//! points at `run` beside this crate. Knows no other output than a descriptor set, and refuses what it does not know.

use std::path::PathBuf;
use std::process::ExitCode;

#[derive(Default)]
struct Args {
    includes: Vec<PathBuf>,
    files: Vec<PathBuf>,
    output: Option<PathBuf>,
    include_imports: bool,
    include_source_info: bool,
}

fn main() -> ExitCode {
    let outcome = parse(std::env::args().skip(1)).and_then(|args| match args {
        Some(args) => compile(args),
        None => {
            println!("libprotoc 33.0");
            Ok(())
        }
    });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("protoc: {message}");
            ExitCode::FAILURE
        }
    }
}

/// `None` when only the version is asked for.
fn parse(mut args: impl Iterator<Item = String>) -> Result<Option<Args>, String> {
    let mut parsed = Args::default();
    while let Some(arg) = args.next() {
        let mut value = || args.next().ok_or_else(|| format!("{arg} needs a value"));
        match arg.as_str() {
            "--version" => return Ok(None),
            "--include_imports" => parsed.include_imports = true,
            "--include_source_info" => parsed.include_source_info = true,
            "-I" | "--proto_path" => parsed.includes.push(value()?.into()),
            "-o" | "--descriptor_set_out" => parsed.output = Some(value()?.into()),
            _ => match arg.split_once('=') {
                Some(("--proto_path", path)) => parsed.includes.push(path.into()),
                Some(("--descriptor_set_out", path)) => parsed.output = Some(path.into()),
                _ if arg.starts_with('-') => return Err(format!("{arg} is not known")),
                _ => parsed.files.push(arg.into()),
            },
        }
    }
    Ok(Some(parsed))
}

fn compile(args: Args) -> Result<(), String> {
    let output = args.output.ok_or("-o is missing")?;
    let mut compiler = protox::Compiler::new(args.includes).map_err(|err| err.to_string())?;
    compiler.include_imports(args.include_imports);
    compiler.include_source_info(args.include_source_info);
    for file in args.files {
        compiler.open_file(&file).map_err(|err| format!("{}: {err}", file.display()))?;
    }
    std::fs::write(&output, compiler.encode_file_descriptor_set())
        .map_err(|err| format!("{}: {err}", output.display()))
}
