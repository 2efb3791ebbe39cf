//! Arguments in, exit code out. Everything else is in the library.

use ringd::config::{self, Command, Config};
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
    match Config::parse(args, std::env::vars_os()) {
        Ok(Command::Run(config)) => shell::run(&config),
        Ok(Command::Version) => {
            print!("{}", version::text());
            ExitCode::SUCCESS
        }
        Ok(Command::Help) => {
            print!("{}", config::help());
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::from(EXIT_USAGE)
        }
    }
}
