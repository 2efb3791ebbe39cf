//! Log lines in the shape of etcd's, which is zap's: programs and people read them.
//!
//! `{"level":"info","ts":"2026-01-02T15:04:05.000000Z","caller":"shell/log.rs:12","msg":"…",…}`, or
//! for `--log-format=console` the same with tabs between the parts. One line is one write.
//!
//! The rest of the program logs with `tracing`'s macros and knows nothing of this file. Two things
//! that zap has and `tracing` has not are said with conventions: the levels above error are an
//! `error!` with the target [`FATAL`] or [`PANIC`], and a field whose name ends in `[]` holds text
//! that is JSON already ([`strings`]).

mod rotate;

use std::fmt::{self, Write as _};
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

use crate::config::{Log, LogFormat, LogLevel, LogOutput, LogRotation};
use rotate::RotatingFile;

/// Target of an `error!` after which the process ends.
pub const FATAL: &str = "fatal";
/// Target of an `error!` that tells of a panic.
pub const PANIC: &str = "panic";

/// A log file that cannot be opened.
#[derive(Debug, thiserror::Error)]
#[error("cannot open {path:?} of --log-outputs: {error}")]
pub struct OpenError {
    path: PathBuf,
    error: io::Error,
}

/// From here on, every event and every panic of the process is logged as `config` says. To be
/// called once.
pub fn install(config: &Log) -> Result<(), OpenError> {
    let opened = config.outputs.iter().map(|output| open(output, config.rotation));
    let outputs = opened.collect::<Result<Vec<_>, _>>()?;
    let logger = Logger::new(config.level, config.format, outputs, micros_since_1970);
    if tracing::subscriber::set_global_default(logger).is_ok() {
        let stderr = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            tracing::error!(target: PANIC, panic = %panic, "panic");
            stderr(panic);
        }));
    }
    Ok(())
}

/// A list of strings as zap writes it, for a field whose name ends in `[]`.
pub fn strings<T: AsRef<str>>(list: impl IntoIterator<Item = T>) -> String {
    let mut out = String::from("[");
    for (at, text) in list.into_iter().enumerate() {
        if at > 0 {
            out.push(',');
        }
        quote(&mut out, text.as_ref());
    }
    out.push(']');
    out
}

fn open(
    output: &LogOutput,
    rotation: Option<LogRotation>,
) -> Result<Box<dyn Write + Send>, OpenError> {
    match output {
        LogOutput::Stderr => Ok(Box::new(io::stderr())),
        LogOutput::Stdout => Ok(Box::new(io::stdout())),
        LogOutput::File(path) if rotation.is_some() => {
            let rules = rotation.unwrap_or_default();
            match RotatingFile::open(path, rules, micros_since_1970) {
                Ok(file) => Ok(Box::new(file)),
                Err(error) => Err(OpenError { path: path.clone(), error }),
            }
        }
        LogOutput::File(path) => {
            let opened = OpenOptions::new().create(true).append(true).open(path);
            match opened {
                Ok(file) => Ok(Box::new(file)),
                Err(error) => Err(OpenError { path: path.clone(), error }),
            }
        }
    }
}

fn micros_since_1970() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| u64::try_from(since.as_micros()).unwrap_or(0))
}

/// Takes events, not spans: nothing here uses them.
struct Logger {
    level: LogLevel,
    format: LogFormat,
    outputs: Mutex<Vec<Box<dyn Write + Send>>>,
    now_us: fn() -> u64,
}

impl Logger {
    fn new(
        level: LogLevel,
        format: LogFormat,
        outputs: Vec<Box<dyn Write + Send>>,
        now_us: fn() -> u64,
    ) -> Self {
        Self { level, format, outputs: Mutex::new(outputs), now_us }
    }

    fn line(&self, event: &Event<'_>) -> String {
        let mut fields =
            Fields { message: String::new(), json: String::new(), format: self.format };
        event.record(&mut fields);
        let metadata = event.metadata();
        let level = name(severity(metadata));
        let time = timestamp((self.now_us)());
        let caller = caller(metadata);
        let mut line = String::with_capacity(128 + fields.message.len() + fields.json.len());
        match self.format {
            LogFormat::Json => {
                let _ = write!(line, r#"{{"level":"{level}","ts":"{time}","caller":"#);
                quote(&mut line, &caller);
                line.push_str(r#","msg":"#);
                quote(&mut line, &fields.message);
                if !fields.json.is_empty() {
                    line.push(',');
                    line.push_str(&fields.json);
                }
                line.push('}');
            }
            LogFormat::Console => {
                let _ = write!(line, "{time}\t{level}\t{caller}\t{}", fields.message);
                if !fields.json.is_empty() {
                    let _ = write!(line, "\t{{{}}}", fields.json);
                }
            }
        }
        line.push('\n');
        line
    }
}

impl Subscriber for Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_event() && severity(metadata) >= self.level
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(match self.level {
            LogLevel::Debug => LevelFilter::TRACE,
            LogLevel::Info => LevelFilter::INFO,
            LogLevel::Warn => LevelFilter::WARN,
            LogLevel::Error | LogLevel::Panic | LogLevel::Fatal => LevelFilter::ERROR,
        })
    }

    fn event(&self, event: &Event<'_>) {
        let line = self.line(event);
        // Whoever panicked while writing a line has left at worst half a line.
        let mut outputs = self.outputs.lock().unwrap_or_else(PoisonError::into_inner);
        for output in outputs.iter_mut() {
            // There is nowhere left to complain to.
            let _ = output.write_all(line.as_bytes());
            let _ = output.flush();
        }
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

fn severity(metadata: &Metadata<'_>) -> LogLevel {
    match *metadata.level() {
        Level::ERROR if metadata.target() == FATAL => LogLevel::Fatal,
        Level::ERROR if metadata.target() == PANIC => LogLevel::Panic,
        Level::ERROR => LogLevel::Error,
        Level::WARN => LogLevel::Warn,
        Level::INFO => LogLevel::Info,
        _ => LogLevel::Debug,
    }
}

fn name(level: LogLevel) -> &'static str {
    match level {
        LogLevel::Debug => "debug",
        LogLevel::Info => "info",
        LogLevel::Warn => "warn",
        LogLevel::Error => "error",
        LogLevel::Panic => "panic",
        LogLevel::Fatal => "fatal",
    }
}

/// Folder, file and line; for a file at the top of a crate, the crate takes the folder's place.
fn caller(metadata: &Metadata<'_>) -> String {
    let mut parts = metadata.file().unwrap_or("").rsplit('/');
    let file = parts.next().unwrap_or("");
    let folder = match parts.next() {
        Some("src") | None => {
            metadata.module_path().and_then(|path| path.split("::").next()).unwrap_or("ringd")
        }
        Some(folder) => folder,
    };
    format!("{folder}/{file}:{}", metadata.line().unwrap_or(0))
}

/// The fields of an event, as the inside of a JSON object.
struct Fields {
    message: String,
    json: String,
    format: LogFormat,
}

impl Fields {
    /// The name and the colon; false if the value is not JSON yet.
    fn key(&mut self, field: &Field) -> bool {
        // zap's console encoder puts a space after commas and colons, its JSON encoder does not.
        let (comma, colon) = match self.format {
            LogFormat::Json => (",", ":"),
            LogFormat::Console => (", ", ": "),
        };
        if !self.json.is_empty() {
            self.json.push_str(comma);
        }
        let (name, is_json) = match field.name().strip_suffix("[]") {
            Some(name) => (name, true),
            None => (field.name(), false),
        };
        quote(&mut self.json, name);
        self.json.push_str(colon);
        is_json
    }

    fn text(&mut self, field: &Field, text: fmt::Arguments<'_>) {
        if field.name() == "message" {
            let _ = self.message.write_fmt(text);
        } else if self.key(field) {
            let _ = self.json.write_fmt(text);
        } else {
            quote(&mut self.json, &text.to_string());
        }
    }

    fn number(&mut self, field: &Field, number: fmt::Arguments<'_>) {
        self.key(field);
        let _ = self.json.write_fmt(number);
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.text(field, format_args!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.text(field, format_args!("{value}"));
    }

    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        self.text(field, format_args!("{value}"));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.number(field, format_args!("{value}"));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.number(field, format_args!("{value}"));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.number(field, format_args!("{value}"));
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        if value.is_finite() {
            self.number(field, format_args!("{value}"));
        } else {
            self.text(field, format_args!("{value}"));
        }
    }
}

fn quote(out: &mut String, text: &str) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c.is_control() => {
                let _ = write!(out, "\\u{:04x}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push('"');
}

/// `2026-01-02T15:04:05.000000Z`, always in UTC.
fn timestamp(us: u64) -> String {
    let (seconds, micros) = (us / 1_000_000, us % 1_000_000);
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = date(days);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{micros:06}Z")
}

/// The Gregorian date of a day since 1970-01-01. Years are counted from March, so that the leap day
/// is the last of its year, in eras of 400 years, which all have the same number of days.
fn date(days_since_1970: u64) -> (u64, u64, u64) {
    const ERA_DAYS: u64 = 146_097;
    const DAYS_FROM_0000_03_01: u64 = 719_468;
    let days = days_since_1970 + DAYS_FROM_0000_03_01;
    let (era, day) = (days / ERA_DAYS, days % ERA_DAYS);
    let leaps = day / 1_460 + day / (ERA_DAYS - 1) - day / 36_524;
    let year = (day - leaps) / 365;
    let day_of_year = day - (365 * year + year / 4 - year / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day_of_month = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    (era * 400 + year + u64::from(month <= 2), month, day_of_month)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    /// 2026-01-02T15:04:05.000006Z
    const THEN_US: u64 = 1_767_366_245_000_006;

    #[derive(Clone, Default)]
    struct Memory(Arc<Mutex<Vec<u8>>>);

    impl Write for Memory {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn logged(level: LogLevel, format: LogFormat, log: impl FnOnce()) -> Vec<String> {
        let memory = Memory::default();
        let logger = Logger::new(level, format, vec![Box::new(memory.clone())], || THEN_US);
        tracing::subscriber::with_default(logger, log);
        let text = String::from_utf8(memory.0.lock().unwrap().clone()).unwrap();
        assert!(text.is_empty() || text.ends_with('\n'));
        text.lines().map(str::to_owned).collect()
    }

    /// The line's number in this file is not part of the shape.
    fn without_line_number(line: &str) -> String {
        let (head, tail) = line.split_once("log.rs:").unwrap();
        format!("{head}log.rs:N{}", tail.trim_start_matches(|c: char| c.is_ascii_digit()))
    }

    #[test]
    fn a_line_has_the_shape_of_zaps_json() {
        let lines = logged(LogLevel::Info, LogFormat::Json, || {
            let error = io::Error::other("no \"luck\"");
            tracing::info!(
                "data-dir" = "default.etcd",
                count = 3,
                at = -4_i64,
                on = true,
                share = 0.5,
                error = &error as &dyn std::error::Error,
                shown = %LevelFilter::INFO,
                "urls[]" = strings(["http://a:1", "b\n"]),
                "hello {}",
                "world"
            );
        });
        assert_eq!(lines.len(), 1);
        assert_eq!(
            without_line_number(&lines[0]),
            concat!(
                r#"{"level":"info","ts":"2026-01-02T15:04:05.000006Z","caller":"shell/log.rs:N","#,
                r#""msg":"hello world","data-dir":"default.etcd","count":3,"at":-4,"on":true,"#,
                r#""share":0.5,"error":"no \"luck\"","shown":"info","urls":["http://a:1","b\n"]}"#
            )
        );
    }

    #[test]
    fn the_console_shape_has_tabs_and_fields_only_where_there_are_some() {
        let lines = logged(LogLevel::Info, LogFormat::Console, || {
            tracing::warn!(a = 1, b = "c", "careful");
            tracing::info!("bare");
        });
        let lines: Vec<_> = lines.iter().map(|line| without_line_number(line)).collect();
        assert_eq!(
            lines,
            [
                "2026-01-02T15:04:05.000006Z\twarn\tshell/log.rs:N\tcareful\t{\"a\": 1, \"b\": \"c\"}",
                "2026-01-02T15:04:05.000006Z\tinfo\tshell/log.rs:N\tbare",
            ]
        );
    }

    #[test]
    fn each_level_shows_itself_and_what_is_graver() {
        let all = [
            (LogLevel::Debug, "debug"),
            (LogLevel::Info, "info"),
            (LogLevel::Warn, "warn"),
            (LogLevel::Error, "error"),
            (LogLevel::Panic, "panic"),
            (LogLevel::Fatal, "fatal"),
        ];
        for (at, (level, _)) in all.iter().enumerate() {
            let lines = logged(*level, LogFormat::Json, || {
                tracing::debug!("x");
                tracing::info!("x");
                tracing::warn!("x");
                tracing::error!("x");
                tracing::error!(target: PANIC, "x");
                tracing::error!(target: FATAL, "x");
            });
            let heads: Vec<_> = lines.iter().map(|l| l.split('"').nth(3).unwrap()).collect();
            let expected: Vec<_> = all[at..].iter().map(|(_, name)| *name).collect();
            assert_eq!(heads, expected);
        }
    }

    #[test]
    fn what_would_break_a_line_is_escaped() {
        let mut out = String::new();
        quote(&mut out, "a\"b\\c\nd\re\tf\u{1}g\u{7f}\u{85}h\u{fc}");
        assert_eq!(out, r#""a\"b\\c\nd\re\tf\u0001g\u007f\u0085hü""#);
        let lines = logged(LogLevel::Info, LogFormat::Json, || {
            tracing::info!(name = "a\nb", nan = f64::NAN, "c\nd");
        });
        assert_eq!(lines.len(), 1);
        assert!(lines[0].ends_with(r#""msg":"c\nd","name":"a\nb","nan":"NaN"}"#), "{lines:?}");
    }

    #[test]
    fn dates_are_right_around_leap_days() {
        for (days, expected) in [
            (0, (1970, 1, 1)),
            (58, (1970, 2, 28)),
            (59, (1970, 3, 1)),
            (789, (1972, 2, 29)),
            (10_957, (2000, 1, 1)),
            (11_016, (2000, 2, 29)),
            (11_017, (2000, 3, 1)),
            (20_454, (2026, 1, 1)),
            (47_540, (2100, 2, 28)),
            (47_541, (2100, 3, 1)),
            (47_847, (2101, 1, 1)),
        ] {
            assert_eq!(date(days), expected, "day {days}");
        }
        // Each day follows the one before, for 400 years.
        let mut last = date(0);
        for days in 1..=146_097 {
            let next = date(days);
            let (year, month, day) = last;
            let follows = next == (year, month, day + 1)
                || next == (year, month + 1, 1)
                || (next == (year + 1, 1, 1) && month == 12);
            assert!(follows, "{last:?} then {next:?}");
            last = next;
        }
        assert_eq!(last, (2370, 1, 1));
    }

    #[test]
    fn files_are_appended_to_and_a_file_that_cannot_be_opened_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.log");
        for _ in 0..2 {
            let mut file = open(&LogOutput::File(path.clone()), None).unwrap();
            file.write_all(b"line\n").unwrap();
        }
        assert_eq!(std::fs::read(&path).unwrap(), b"line\nline\n");
        let missing = dir.path().join("no/such/dir.log");
        let Err(error) = open(&LogOutput::File(missing), None) else { panic!("opened") };
        let error = error.to_string();
        assert!(error.contains("no/such/dir.log\" of --log-outputs: "), "{error}");
    }
}
