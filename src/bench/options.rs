//! The command line of `ringd bench`.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::error::ErrorKind;
use clap::{Parser, ValueEnum};

use super::limits::{
    CONNECTIONS_MAX, KEYS_MAX, SLOTS_MAX, STREAMS_MAX, VALUE_BYTES_MAX, WATCHERS_MAX,
};
use super::schedule::Until;
use super::work::STAMP_BYTES;
use crate::config::read_duration;

const DURATION_DEFAULT_NS: u64 = 10_000_000_000;
const WATCHES: &str = "Watches, leases, kubernetes";
/// Of the shape `watch`, whose closed loop would only show how much is queued.
const WATCH_RATE_DEFAULT: f64 = 100.0;

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Shape {
    Put,
    Range,
    Txn,
    Mixed,
    Watch,
    Lease,
    Kubernetes,
}

impl Shape {
    pub fn name(self) -> &'static str {
        match self {
            Shape::Put => "put",
            Shape::Range => "range",
            Shape::Txn => "txn",
            Shape::Mixed => "mixed",
            Shape::Watch => "watch",
            Shape::Lease => "lease",
            Shape::Kubernetes => "kubernetes",
        }
    }
}

/// What was asked for.
#[derive(Debug)]
pub enum Asked {
    Run(Box<Options>),
    /// Print this and end well.
    Help(String),
}

const ABOUT: &str = "Loads an etcd v3 server and measures how it answers.

Shapes:
  put         put a value under a key
  range       read one key; with --limit or --count-only, a list or a count
  txn         put several keys in one transaction
  mixed       reads and puts of single keys
  watch       watchers of all keys, and puts: how long events are on their way
  lease       leases are granted, kept alive, revoked
  kubernetes  what Kubernetes API servers ask: guarded updates, lists in pages, watches";

const EPILOGUE: &str = "\
Without --rate every stream asks again as soon as it has its answer (closed loop). With --rate
requests are due at that rate, and latencies count from when a request was due (open loop): a stall
of the server shows in full.

Examples:
  ringd bench put --value-size 256 --duration 30s
  ringd bench range --prefill 100000 --rate 20000 --json result.json --svg latency.svg
  ringd bench range --count-only --prefill 1000000 --total 100 -c 1 -s 1";

#[derive(Clone, Debug, Parser)]
#[command(
    name = "ringd bench",
    override_usage = "ringd bench SHAPE [options]",
    disable_version_flag = true,
    disable_help_flag = true,
    about = ABOUT,
    after_help = EPILOGUE
)]
pub struct Options {
    /// What to ask of the server, see above
    #[arg(value_enum, value_name = "SHAPE", hide_possible_values = true)]
    pub shape: Shape,

    /// Servers, with commas between them
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "127.0.0.1:2379",
        value_name = "HOST:PORT",
        help_heading = "Server"
    )]
    pub endpoints: Vec<String>,
    /// Whom to trust [default: as the system does]
    #[arg(long, value_name = "FILE", help_heading = "Server")]
    pub cacert: Option<PathBuf>,
    /// Certificate to show
    #[arg(long, value_name = "FILE", requires = "key", help_heading = "Server")]
    pub cert: Option<PathBuf>,
    /// Its key
    #[arg(long, value_name = "FILE", requires = "cert", help_heading = "Server")]
    pub key: Option<PathBuf>,
    /// Take any server's certificate
    #[arg(long, alias = "insecure-skip-tls-verify", help_heading = "Server")]
    pub insecure: bool,
    /// Connections
    #[arg(
        long,
        short,
        alias = "conns",
        default_value_t = 10,
        value_name = "N",
        help_heading = "Server"
    )]
    pub connections: usize,
    /// Requests in flight on each connection
    #[arg(long, short, default_value_t = 20, value_name = "N", help_heading = "Server")]
    pub streams: usize,
    /// A new connection for each request; to make it counts
    #[arg(long, help_heading = "Server")]
    pub reconnect: bool,

    /// Requests per second, answered or not [default: closed loop]
    #[arg(long, short, value_name = "PER_SECOND", help_heading = "Load")]
    rate: Option<f64>,
    /// End after this many requests [default: --duration]
    #[arg(long, short = 'n', value_name = "N", conflicts_with = "duration", help_heading = "Load")]
    pub total: Option<u64>,
    /// How long to measure [default: 10s]
    #[arg(long, short, value_parser = nanoseconds, value_name = "TIME", help_heading = "Load")]
    duration: Option<u64>,
    /// How long to load before measuring
    #[arg(
        long,
        short,
        value_parser = nanoseconds,
        default_value = "0s",
        value_name = "TIME",
        help_heading = "Load"
    )]
    pub warmup: u64,
    /// Same seed, same requests
    #[arg(long, default_value_t = 1, value_name = "N", help_heading = "Load")]
    pub seed: u64,

    /// Put this many keys, in order, before anything is measured
    #[arg(long, default_value_t = 0, value_name = "N", help_heading = "Keys")]
    pub prefill: u64,
    /// Different keys [default: the prefill, or 10000]
    #[arg(long, alias = "key-space-size", value_name = "N", help_heading = "Keys")]
    keys: Option<u64>,
    /// Octets of a key: the prefix, and a number
    #[arg(long, default_value_t = 16, value_name = "BYTES", help_heading = "Keys")]
    pub key_size: usize,
    /// Octets of a value
    #[arg(
        long,
        alias = "val-size",
        default_value_t = 256,
        value_name = "BYTES",
        help_heading = "Keys"
    )]
    pub value_size: usize,
    /// What all keys begin with
    #[arg(long, default_value = "bench/", value_name = "TEXT", help_heading = "Keys")]
    pub prefix: String,
    /// Keys one after the other, not at random
    #[arg(long, alias = "sequential-keys", help_heading = "Keys")]
    pub sequential: bool,

    /// Read without asking the other members
    #[arg(long, help_heading = "Reads (range, mixed)")]
    pub serializable: bool,
    /// Lists of up to this many keys, from a key on; 0 is all keys (range)
    #[arg(long, value_name = "N", help_heading = "Reads (range, mixed)")]
    pub limit: Option<u64>,
    /// Count all keys (range)
    #[arg(long, conflicts_with = "limit", help_heading = "Reads (range, mixed)")]
    pub count_only: bool,
    /// Lists without values (range)
    #[arg(long, requires = "limit", help_heading = "Reads (range, mixed)")]
    pub keys_only: bool,
    /// Lists by RangeStream, which etcd has from 3.7 on (range)
    #[arg(long, requires = "limit", help_heading = "Reads (range, mixed)")]
    pub range_stream: bool,
    /// How many requests of a hundred are reads (mixed)
    #[arg(long, default_value_t = 80, value_name = "N", help_heading = "Reads (range, mixed)")]
    pub read_percent: u64,

    /// Puts of a transaction (txn)
    #[arg(long, default_value_t = 4, value_name = "N", help_heading = "Transactions (txn)")]
    pub ops: u64,

    /// Watchers [default: 1000; of each resource of kubernetes: 3]
    #[arg(long, value_name = "N", help_heading = WATCHES)]
    watchers: Option<u64>,
    /// Streams that the watchers share (watch) [default: the connections]
    #[arg(long, value_name = "N", help_heading = WATCHES)]
    watch_streams: Option<usize>,
    /// Events with the value before (watch)
    #[arg(long, help_heading = WATCHES)]
    pub prev_kv: bool,
    /// Hold the watchers and put nothing (watch)
    #[arg(long, help_heading = WATCHES)]
    pub idle: bool,
    /// Keep-alives of a lease before it is revoked (lease)
    #[arg(long, default_value_t = 10, value_name = "N", help_heading = WATCHES)]
    pub keep_alives: u64,
    /// Nodes, with a lease each; --keys are pods (kubernetes)
    #[arg(long, default_value_t = 1_000, value_name = "N", help_heading = WATCHES)]
    pub nodes: u64,
    /// Objects of a page of a list (kubernetes)
    #[arg(long, default_value_t = 500, value_name = "N", help_heading = WATCHES)]
    pub page_limit: u64,

    /// Write the result as JSON; - is the standard output, instead of the table
    #[arg(long, value_name = "FILE", help_heading = "Result")]
    pub json: Option<PathBuf>,
    /// Draw the distribution of the latencies
    #[arg(long, value_name = "FILE", help_heading = "Result")]
    pub svg: Option<PathBuf>,
    /// No line of progress
    #[arg(long, short, help_heading = "Result")]
    pub quiet: bool,
    /// Show this
    #[arg(long, short, action = clap::ArgAction::HelpShort, help_heading = "Result")]
    help: Option<bool>,
}

impl Options {
    pub fn until(&self) -> Until {
        match (self.total, self.duration) {
            (Some(total), _) => Until::Total(total),
            (None, duration) => Until::Duration(duration.unwrap_or(DURATION_DEFAULT_NS)),
        }
    }

    pub fn keys(&self) -> u64 {
        const KEYS_DEFAULT: u64 = 10_000;
        self.keys.unwrap_or(if self.prefill > 0 { self.prefill } else { KEYS_DEFAULT })
    }

    pub fn rate(&self) -> Option<f64> {
        self.rate.or_else(|| (self.shape == Shape::Watch).then_some(WATCH_RATE_DEFAULT))
    }

    pub fn watchers(&self) -> u64 {
        self.watchers.unwrap_or(if self.shape == Shape::Watch { 1_000 } else { 3 })
    }

    pub fn watch_streams(&self) -> usize {
        let watchers = usize::try_from(self.watchers()).unwrap_or(usize::MAX);
        self.watch_streams.unwrap_or(self.connections).min(watchers)
    }

    pub fn slots(&self) -> usize {
        self.connections * self.streams
    }

    fn check(&self) -> Result<(), String> {
        fn within<T: PartialOrd + std::fmt::Display>(
            flag: &str,
            value: T,
            min: T,
            max: T,
        ) -> Result<(), String> {
            if value < min || value > max {
                return Err(format!("--{flag} {value}: must be from {min} to {max}"));
            }
            Ok(())
        }
        within("connections", self.connections, 1, CONNECTIONS_MAX)?;
        within("streams", self.streams, 1, STREAMS_MAX)?;
        if self.slots() > SLOTS_MAX {
            return Err(format!("--connections times --streams: must be at most {SLOTS_MAX}"));
        }
        within("keys", self.keys(), 1, KEYS_MAX)?;
        within("prefill", self.prefill, 0, KEYS_MAX)?;
        within("value-size", self.value_size, 0, VALUE_BYTES_MAX)?;
        within("read-percent", self.read_percent, 0, 100)?;
        within("ops", self.ops, 1, self.keys().min(10_000))?;
        within("watchers", self.watchers(), 1, WATCHERS_MAX)?;
        within("watch-streams", self.watch_streams(), 1, SLOTS_MAX)?;
        within("nodes", self.nodes, 1, KEYS_MAX)?;
        within("page-limit", self.page_limit, 1, 1_000_000)?;
        let is_stamped = matches!(self.shape, Shape::Watch | Shape::Kubernetes);
        if is_stamped && self.value_size < STAMP_BYTES {
            return Err(format!(
                "--value-size {}: at least {STAMP_BYTES}, which tell when the put began",
                self.value_size
            ));
        }
        if self.shape == Shape::Kubernetes && self.watchers() > 1_000 {
            return Err(format!("--watchers {}: at most 1000 of kubernetes", self.watchers()));
        }
        if let Some(rate) = self.rate
            && !(rate > 0.0 && rate <= 1e9)
        {
            return Err(format!("--rate {rate}: must be above 0, and at most 1000000000"));
        }
        if self.total == Some(0) {
            return Err("--total 0: must be at least 1".to_owned());
        }
        if self.duration == Some(0) {
            return Err("--duration 0: must be above 0".to_owned());
        }
        let digits = (self.keys().max(self.prefill) - 1).to_string().len();
        let least = self.prefix.len() + digits;
        if self.key_size < least {
            return Err(format!(
                "--key-size {}: the prefix {:?} and a number of {digits} digits need {least}",
                self.key_size, self.prefix
            ));
        }
        within("key-size", self.key_size, 1, 1 << 20)?;
        for endpoint in &self.endpoints {
            if address(endpoint)
                .rsplit_once(':')
                .is_none_or(|(_, port)| port.parse::<u16>().is_err())
            {
                return Err(format!("--endpoints {endpoint}: must be HOST:PORT"));
            }
        }
        if self.reconnect {
            let has_streams = matches!(self.shape, Shape::Watch | Shape::Lease | Shape::Kubernetes);
            if has_streams || self.streams != 1 {
                let shape = self.shape.name();
                return Err(format!(
                    "--reconnect: needs --streams 1, and a shape without long streams, not {shape}"
                ));
            }
        }
        let is_list = self.limit.is_some() || self.count_only;
        if is_list && self.shape != Shape::Range {
            return Err(format!("--limit and --count-only: not for {}", self.shape.name()));
        }
        Ok(())
    }
}

/// Host and port of an endpoint, which may be a URL.
pub fn address(endpoint: &str) -> &str {
    let of = |scheme| endpoint.strip_prefix(scheme);
    of("http://").or_else(|| of("https://")).unwrap_or(endpoint).trim_end_matches('/')
}

fn nanoseconds(text: &str) -> Result<u64, String> {
    let ns = read_duration(text)?;
    u64::try_from(ns).map_err(|_| "must not be negative".to_owned())
}

/// `args` are those behind `bench`. The error is one line.
pub fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Asked, String> {
    let args = [OsString::from("ringd bench")].into_iter().chain(args);
    let options = match Options::try_parse_from(args) {
        Ok(options) => options,
        Err(error) if error.kind() == ErrorKind::DisplayHelp => {
            return Ok(Asked::Help(error.to_string()));
        }
        Err(error) => return Err(one_line(&error.to_string())),
    };
    options.check().map_err(|rule| format!("ringd bench: {rule}"))?;
    Ok(Asked::Run(Box::new(options)))
}

/// The complaint without the usage that follows it.
fn one_line(text: &str) -> String {
    let complaint = text.split("\n\nUsage").next().unwrap_or(text);
    let complaint = complaint.split("\n\nFor more information").next().unwrap_or(complaint);
    let words: Vec<_> = complaint.split_whitespace().collect();
    format!("ringd bench: {}", words.join(" ").trim_start_matches("error: "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(line: &str) -> Result<Asked, String> {
        parse(line.split_whitespace().map(OsString::from))
    }

    fn options(line: &str) -> Options {
        match asked(line) {
            Ok(Asked::Run(options)) => *options,
            other => panic!("{line}: {other:?}"),
        }
    }

    #[test]
    fn defaults_are_a_load_that_can_be_run_as_it_is() {
        let put = options("put");
        assert_eq!((put.shape, put.connections, put.streams), (Shape::Put, 10, 20));
        assert_eq!((put.until(), put.warmup), (Until::Duration(DURATION_DEFAULT_NS), 0));
        assert_eq!((put.keys(), put.rate), (10_000, None));
        assert_eq!(options("range --prefill 77").keys(), 77);
        assert_eq!(options("put -n 5 -w 1m30s").until(), Until::Total(5));
        assert_eq!(options("put -n 5 -w 1m30s").warmup, 90_000_000_000);
    }

    #[test]
    fn every_mistake_is_one_line() {
        let lines = [
            ("", "SHAPE"),
            ("pat", "pat"),
            ("put --rat 5", "--rat"),
            ("put --rate x", "--rate"),
            ("put --rate 0", "--rate 0"),
            ("put --duration 5", "unit"),
            ("put --duration 1s --total 5", "--total"),
            ("put --total 0", "--total"),
            ("put -c 0", "--connections 0"),
            ("put --key-size 7", "--key-size 7"),
            ("put --endpoints nowhere", "nowhere"),
            ("put --endpoints https://a", "https://a"),
            ("put --cert a", "--key"),
            ("put --limit 5", "--limit"),
            ("put --reconnect", "--streams 1"),
            ("watch --reconnect -s 1", "watch"),
            ("range --keys-only", "--limit"),
            ("mixed --read-percent 101", "101"),
            ("txn --ops 0", "--ops"),
            ("watch --value-size 7", "--value-size 7"),
            ("watch --watchers 0", "--watchers 0"),
        ];
        for (line, named) in lines {
            let complaint = asked(line).unwrap_err();
            assert!(complaint.starts_with("ringd bench: "), "{line}: {complaint}");
            assert!(!complaint.contains('\n') && complaint.contains(named), "{line}: {complaint}");
            assert!(!complaint.contains("Usage"), "{line}: {complaint}");
        }
    }

    #[test]
    fn help_names_every_shape_in_its_groups() {
        let Ok(Asked::Help(help)) = asked("--help") else { panic!() };
        let shapes = ["put", "range", "txn", "mixed", "watch", "lease", "kubernetes"];
        for word in shapes.into_iter().chain(["Server:", "Load:", "Keys:", "Result:"]) {
            assert!(help.contains(word), "{word} is missing:\n{help}");
        }
        assert!(help.lines().all(|line| line.len() <= 100), "{help}");
    }
}
