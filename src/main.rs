//! Arguments in, exit code out. Everything else is in the library.

use ringd::config::{self, Command, Config, UsageError};
use ringd::{shell, version};
use std::process::ExitCode;

/// A command line that cannot be understood.
const EXIT_USAGE: u8 = 2;

fn main() -> ExitCode {
    let mut args = std::env::args_os().skip(1).peekable();
    if args.next_if(|arg| arg == "check").is_some() {
        return shell::check::run(args);
    }
    if args.next_if(|arg| arg == "bench").is_some() {
        return shell::bench::run(args);
    }
    if args.next_if(|arg| arg == "completion").is_some() {
        let shell = args.next().unwrap_or_default();
        return print(config::completion(&shell.to_string_lossy()));
    }
    if args.next_if(|arg| arg == "man").is_some() {
        return print(Ok(config::man()));
    }
    let command = match Config::parse(args, std::env::vars_os()) {
        Ok(Command::ReadFile(path)) => match shell::read_config(&path) {
            Ok(text) => Config::from_file(&path, &text).map(|read| Command::Run(Box::new(read))),
            Err(line) => {
                eprintln!("{line}");
                return ExitCode::from(EXIT_USAGE);
            }
        },
        command => command,
    };
    match command {
        Ok(Command::Run(config)) => shell::run(&config),
        Ok(Command::ReadFile(_)) => unreachable!("a file names no other file"),
        Ok(Command::Version) => print(Ok(version::text())),
        Ok(Command::Help) => print(Ok(config::help())),
        Err(error) => print(Err(error)),
    }
}

fn print(text: Result<String, UsageError>) -> ExitCode {
    match text {
        Ok(text) => {
            print!("{text}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::from(EXIT_USAGE)
        }
    }
}
