//! `ringd bench` as a program: arguments in, the result out. What a load is and what it measures is
//! `crate::bench`; here are its sockets, its clock and its files.

mod driver;
pub(super) mod tls;

use std::ffi::OsString;
use std::io::IsTerminal;
use std::path::Path;
use std::process::ExitCode;

use crate::bench::{self, Asked, Options, Report};

/// A command line that cannot be understood.
const EXIT_USAGE: u8 = 2;

/// `args` are those behind `bench`. Ends with 1 when the load could not begin, or when no request
/// succeeded.
pub fn run(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let options = match bench::parse(args) {
        Ok(Asked::Run(options)) => *options,
        Ok(Asked::Help(text)) => {
            print!("{text}");
            return ExitCode::SUCCESS;
        }
        Err(line) => {
            eprintln!("{line}");
            return ExitCode::from(EXIT_USAGE);
        }
    };
    match load(&options) {
        Ok(report) if report.requests == 0 && report.failed + report.unsent > 0 => {
            ExitCode::FAILURE
        }
        Ok(_) => ExitCode::SUCCESS,
        Err(line) => {
            eprintln!("ringd bench: {line}");
            ExitCode::FAILURE
        }
    }
}

fn load(options: &Options) -> Result<Report, String> {
    let shows_progress = !options.quiet && std::io::stderr().is_terminal();
    let report = driver::drive(options.clone(), shows_progress)?;
    if options.json.as_deref() != Some(Path::new("-")) {
        print!("{}", bench::table(&report));
    }
    if let Some(path) = &options.json {
        let json = serde_json::to_string_pretty(&report).map_err(|error| error.to_string())?;
        write(path, &(json + "\n"))?;
    }
    if let Some(path) = &options.svg {
        let title = format!(
            "{}: {} connections x {} streams",
            report.shape, report.connections, report.streams
        );
        write(path, &bench::plot(&title, &report.curves())?)?;
    }
    Ok(report)
}

fn write(path: &Path, text: &str) -> Result<(), String> {
    if path == Path::new("-") {
        print!("{text}");
        return Ok(());
    }
    std::fs::write(path, text).map_err(|error| format!("cannot write {}: {error}", path.display()))
}
