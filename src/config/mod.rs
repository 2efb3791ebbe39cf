//! What a process is told: arguments and environment in, a [`Command`] or one line of complaint out.
//!
//! Spelling, defaults and rules are etcd 3.7's, so that its command lines, charts and unit files
//! work as they are: `--flag value`, `--flag=value`, `-flag value`, `-flag=value`, `ETCD_FLAG`; the
//! command line wins. The flags that etcd has and ringd has not are either without effect, which is
//! said in a warning, or refused ([`flags`] has the table).
//!
//! Invariant: a `Config` has been checked; whoever gets one does not check again. What only matters
//! when a member starts for the first time is checked by [`Config::bootstrap_members`], because
//! etcd ignores these flags on every later start.
//!
//! Knows nothing of files, sockets, clocks or names that would have to be looked up.

mod args;
mod complete;
mod file;
mod flags;
mod help;
mod security;
#[cfg(test)]
mod tests;
mod url;
mod value;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};

use crate::tls;
use args::{Asked, Settings};
pub use security::Security;
pub use url::{Address, Scheme, Url};
pub use value::read_duration;

/// etcd: `maxElectionMs`.
const ELECTION_TIMEOUT_MAX_MS: u64 = 50_000;
/// etcd: an election timeout below five heartbeats elects for no reason.
const HEARTBEATS_IN_ELECTION_TIMEOUT_MIN: u64 = 5;
/// etcd: `DefaultQuotaBytes`, what 0 stands for.
const QUOTA_DEFAULT_BYTES: i64 = 2 * 1024 * 1024 * 1024;
/// etcd: `minWatchProgressInterval`; smaller ones are raised to it.
const WATCH_PROGRESS_NOTIFY_MIN_MS: u64 = 100;
/// etcd: `DefaultSnapshotCount`, what 0 stands for.
const SNAPSHOT_COUNT_DEFAULT: u64 = 10_000;
/// Ours: half of what a record of the log can hold, so that what surrounds a request has room.
/// etcd has no limit here.
const REQUEST_MAX_BYTES: u64 = 512 * 1024 * 1024;
/// etcd: `recommendedMaxRequestBytes`; larger requests hold everybody else up.
const REQUEST_RECOMMENDED_BYTES: u64 = 10 * 1024 * 1024;

/// Ours: a file that is idle to nine tenths is the most that anybody can want.
const DEFRAG_THRESHOLD_MAX_PERCENT: u64 = 90;
/// etcd's.
const JWT_TTL_DEFAULT: &str = "5m";
/// What bcrypt can take, and etcd's default.
const BCRYPT_COST_MIN: u32 = 4;
const BCRYPT_COST_MAX: u32 = 31;
const BCRYPT_COST_DEFAULT: u32 = 10;

/// What the process was asked to do.
#[derive(Debug)]
pub enum Command {
    Run(Box<Config>),
    /// The configuration is in a file, which has to be read: see [`Config::from_file`].
    ReadFile(PathBuf),
    /// Print [`version::text`](crate::version::text) and exit with 0.
    Version,
    /// Print [`help`] and exit with 0.
    Help,
}

/// One line that names the flag, the value and the rule. The process ends with exit code 2.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UsageError(String);

impl fmt::Display for UsageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for UsageError {}

fn err(line: String) -> UsageError {
    UsageError(line)
}

/// A checked configuration.
#[derive(Clone, Debug)]
pub struct Config {
    pub name: String,
    pub data_dir: PathBuf,
    /// The directory of the log, if it is not in the data directory.
    pub wal_dir: Option<PathBuf>,

    /// At least one, each with an address that can be listened on.
    pub listen_client_urls: Vec<Url>,
    pub advertise_client_urls: Vec<Url>,
    /// With any of these, the client URLs are for gRPC alone.
    pub listen_client_http_urls: Vec<Url>,
    pub listen_metrics_urls: Vec<Url>,
    pub listen_peer_urls: Vec<Url>,
    pub socket_reuse_port: bool,
    pub initial_advertise_peer_urls: Vec<Url>,
    /// `name=url,name=url,…`, read by [`Config::bootstrap_members`].
    pub initial_cluster: String,
    /// The domain whose SRV records are to be read for `initial_cluster`.
    pub discovery: Option<Discovery>,
    pub discovery_srv: Option<String>,
    pub discovery_srv_name: String,
    pub initial_cluster_state: ClusterState,
    pub initial_cluster_token: String,

    pub client_security: Security,
    pub peer_security: Security,
    /// Of all connections with TLS.
    pub tls: tls::Policy,
    pub self_signed_cert_years: u32,
    pub tls_handshake_timeout_ms: u64,

    pub heartbeat_interval_ms: u64,
    pub election_timeout_ms: u64,
    pub snapshot_count: u64,
    pub snapshot_catchup_entries: u64,
    pub strict_reconfig_check: bool,
    /// The other members are lost for ever: this one is to go on without them.
    pub force_new_cluster: bool,
    pub max_learners: usize,
    /// How often members compare their histories, if it was said.
    pub corrupt_check_ms: Option<u64>,
    pub watch_progress_notify_interval_ms: u64,
    pub keepalive: Keepalive,
    pub enable_grpc_gateway: bool,
    pub enable_pprof: bool,
    /// Distributions of how long calls take, by method.
    pub extensive_metrics: bool,
    /// Requests, and entries, that take longer are logged.
    pub warning_request_ms: u64,
    pub warning_apply_ms: u64,
    /// Origins of pages that may use answers, and names by which plain HTTP may be asked; none are all.
    pub cors: Vec<String>,
    pub host_whitelist: Vec<String>,

    /// As `Status` shows it: never 0, negative for no limit. See [`Config::quota_bytes`].
    pub quota_backend_bytes: i64,
    pub max_txn_ops: usize,
    /// Size of one encoded request; gRPC messages may be 512 KiB larger.
    pub max_request_bytes: usize,
    pub max_concurrent_streams: u32,
    pub auto_compaction: AutoCompaction,
    /// Idle share of the store's file that starts a defragmentation; 0 for none.
    pub defrag_threshold_percent: u32,

    pub auth_token: AuthToken,
    pub auth_token_ttl_s: u64,
    pub bcrypt_cost: u32,

    pub log: Log,
    pub unsafe_no_fsync: bool,

    /// What was given and has no effect, one line each, to be logged.
    pub warnings: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClusterState {
    New,
    Existing,
}

/// What tokens are (`--auth-token`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AuthToken {
    /// None are made, and none are taken.
    None,
    Simple,
    Jwt {
        method: String,
        /// Files in PEM.
        public_key: Option<PathBuf>,
        private_key: Option<PathBuf>,
        ttl_s: u64,
    },
}

/// The etcd at which the members of a new cluster find each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Discovery {
    /// With or without `http://` or `https://`.
    pub endpoints: Vec<String>,
    pub token: String,
    pub dial_timeout_ms: u64,
    pub request_timeout_ms: u64,
    pub keepalive_time_ms: u64,
    pub keepalive_timeout_ms: u64,
    pub insecure_transport: bool,
    pub insecure_skip_verify: bool,
    pub cert: Option<PathBuf>,
    pub key: Option<PathBuf>,
    pub cacert: Option<PathBuf>,
    /// Empty if there is none.
    pub user: String,
    pub password: String,
}

/// HTTP/2 pings, as gRPC servers do them. 0 is never.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keepalive {
    /// Clients that ping more often are sent away.
    pub min_time_ms: u64,
    pub interval_ms: u64,
    pub timeout_ms: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AutoCompaction {
    Off,
    /// Revisions older than this go.
    Periodic {
        retention_ms: u64,
    },
    /// This many revisions stay.
    Revision {
        retention: i64,
    },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    pub level: LogLevel,
    pub format: LogFormat,
    pub rotation: Option<LogRotation>,
    /// At least one.
    pub outputs: Vec<LogOutput>,
}

/// When a log file is put aside and a new one begun, and what becomes of the old ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(default)]
pub struct LogRotation {
    /// Megabytes.
    pub maxsize: u64,
    /// Days; 0 for ever.
    pub maxage: u64,
    /// How many are kept; 0 for all.
    pub maxbackups: usize,
    /// Names are always in UTC here.
    pub localtime: bool,
    pub compress: bool,
}

impl Default for LogRotation {
    fn default() -> Self {
        Self { maxsize: 100, maxage: 0, maxbackups: 0, localtime: false, compress: false }
    }
}

/// In rising severity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LogLevel {
    Debug,
    Info,
    Warn,
    Error,
    Panic,
    Fatal,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    Json,
    Console,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LogOutput {
    Stderr,
    Stdout,
    File(PathBuf),
}

/// Completions for a shell: bash, zsh or fish.
pub fn completion(shell: &str) -> Result<String, UsageError> {
    complete::completion(shell)
}

/// The manual page, in roff.
pub fn man() -> String {
    complete::man()
}

/// The text of `--help`.
pub fn help() -> String {
    help::text()
}

impl Config {
    /// `args` without the program's name; `env` may hold variables of all kinds.
    pub fn parse(
        args: impl IntoIterator<Item = impl Into<OsString>>,
        env: impl IntoIterator<Item = (impl Into<OsString>, impl Into<OsString>)>,
    ) -> Result<Command, UsageError> {
        let args = args.into_iter().map(Into::into);
        let env = env.into_iter().map(|(name, value)| (name.into(), value.into()));
        match args::read(args, env)? {
            Asked::Help => Ok(Command::Help),
            Asked::Version => Ok(Command::Version),
            Asked::File(path) => Ok(Command::ReadFile(path.into())),
            Asked::Run(settings) => Self::build(settings).map(|c| Command::Run(Box::new(c))),
        }
    }

    /// The configuration in a file: its path, which messages name, and its text.
    pub fn from_file(path: &Path, text: &str) -> Result<Config, UsageError> {
        file::read(&path.to_string_lossy(), text).and_then(Self::build)
    }

    fn build(s: Settings) -> Result<Self, UsageError> {
        let log = log(&s)?;
        let mut warnings = s.warnings.clone();
        feature_gates(&s, &mut warnings)?;
        let name = s.text("name").to_owned();
        let path = |flag: &str| Some(s.text(flag)).filter(|p| !p.is_empty()).map(PathBuf::from);
        let data_dir = path("data-dir").unwrap_or_else(|| PathBuf::from(format!("{name}.etcd")));

        let listen_client_urls = bind_urls(&s, "listen-client-urls")?;
        if listen_client_urls.is_empty() {
            return Err(s.invalid("listen-client-urls", "must name at least one URL"));
        }
        let is_silent = s.is_set("listen-client-urls") && !s.is_set("advertise-client-urls");
        if is_silent && !s.is_file {
            return Err(err(
                "--advertise-client-urls is required when --listen-client-urls is set \
                            explicitly"
                    .to_owned(),
            ));
        }
        let initial_advertise_peer_urls = host_urls(&s, "initial-advertise-peer-urls")?;

        let (heartbeat_interval_ms, election_timeout_ms) = timing(&s)?;
        let watch_progress_ms = value::ns_to_ms(s.duration_ns("watch-progress-notify-interval"));
        let watch_progress_notify_interval_ms = watch_progress_ms.max(WATCH_PROGRESS_NOTIFY_MIN_MS);
        if watch_progress_ms < WATCH_PROGRESS_NOTIFY_MIN_MS {
            warnings.push(format!(
                "--watch-progress-notify-interval {} is raised to the least, {}",
                s.text("watch-progress-notify-interval"),
                value::show_ms(WATCH_PROGRESS_NOTIFY_MIN_MS)
            ));
        }
        let max_request_bytes = s.uint("max-request-bytes");
        if max_request_bytes > REQUEST_MAX_BYTES {
            return Err(s.invalid(
                "max-request-bytes",
                &format!("must be at most {REQUEST_MAX_BYTES} (512 MiB), to fit into the log"),
            ));
        }
        if max_request_bytes > REQUEST_RECOMMENDED_BYTES {
            warnings.push(format!(
                "--max-request-bytes {max_request_bytes} is above the recommended \
                 {REQUEST_RECOMMENDED_BYTES}: large requests hold up all others"
            ));
        }

        let defrag_threshold = s.uint("ringd-defrag-threshold-percent");
        if defrag_threshold > DEFRAG_THRESHOLD_MAX_PERCENT {
            return Err(s.invalid(
                "ringd-defrag-threshold-percent",
                &format!("must be at most {DEFRAG_THRESHOLD_MAX_PERCENT}"),
            ));
        }

        let listen_metrics_urls = bind_urls(&s, "listen-metrics-urls")?;
        let listen_peer_urls = bind_urls(&s, "listen-peer-urls")?;
        let listen_client_http_urls = bind_urls(&s, "listen-client-http-urls")?;
        let clients: [&[Url]; 3] =
            [&listen_client_urls, &listen_client_http_urls, &listen_metrics_urls];

        Ok(Self {
            client_security: security::client(&s, &clients, &mut warnings)?,
            peer_security: security::peer(&s, &[&listen_peer_urls], &mut warnings)?,
            tls: security::policy(&s, &mut warnings)?,
            self_signed_cert_years: u32::try_from(s.uint("self-signed-cert-validity"))
                .unwrap_or(u32::MAX),
            tls_handshake_timeout_ms: match duration_ms(&s, "ringd-tls-handshake-timeout")? {
                0 => return Err(s.invalid("ringd-tls-handshake-timeout", "must be above 0")),
                ms => ms,
            },
            data_dir,
            wal_dir: path("wal-dir"),
            listen_client_urls,
            advertise_client_urls: host_urls(&s, "advertise-client-urls")?,
            listen_client_http_urls,
            listen_metrics_urls,
            listen_peer_urls,
            socket_reuse_port: s.bool("socket-reuse-port"),
            initial_cluster: initial_cluster(&s, &name, &initial_advertise_peer_urls),
            initial_advertise_peer_urls,
            discovery: discovery(&s)?,
            discovery_srv: discovery_srv(&s)?,
            discovery_srv_name: s.text("discovery-srv-name").to_owned(),
            initial_cluster_state: match s.text("initial-cluster-state") {
                "existing" => ClusterState::Existing,
                _ => ClusterState::New,
            },
            initial_cluster_token: s.text("initial-cluster-token").to_owned(),
            heartbeat_interval_ms,
            election_timeout_ms,
            snapshot_count: match s.uint("snapshot-count") {
                0 => SNAPSHOT_COUNT_DEFAULT,
                count => count,
            },
            snapshot_catchup_entries: s.uint("snapshot-catchup-entries"),
            strict_reconfig_check: s.bool("strict-reconfig-check"),
            force_new_cluster: s.bool("force-new-cluster"),
            warning_request_ms: duration_ms(&s, "warning-unary-request-duration")?,
            warning_apply_ms: duration_ms(&s, "warning-apply-duration")?,
            extensive_metrics: s.text("metrics") == "extensive",
            enable_grpc_gateway: s.bool("enable-grpc-gateway"),
            enable_pprof: s.bool("enable-pprof"),
            cors: origins(&s)?,
            host_whitelist: list(s.text("host-whitelist")),
            max_learners: usize::try_from(s.int("max-learners")).unwrap_or(0),
            corrupt_check_ms: Some(duration_ms(&s, "corrupt-check-time")?).filter(|ms| *ms > 0),
            watch_progress_notify_interval_ms,
            keepalive: Keepalive {
                min_time_ms: duration_ms(&s, "grpc-keepalive-min-time")?,
                interval_ms: duration_ms(&s, "grpc-keepalive-interval")?,
                timeout_ms: duration_ms(&s, "grpc-keepalive-timeout")?,
            },
            quota_backend_bytes: match s.int("quota-backend-bytes") {
                0 => QUOTA_DEFAULT_BYTES,
                bytes => bytes,
            },
            max_txn_ops: usize::try_from(s.uint("max-txn-ops")).unwrap_or(usize::MAX),
            max_request_bytes: usize::try_from(max_request_bytes).unwrap_or(usize::MAX),
            max_concurrent_streams: u32::try_from(s.uint("max-concurrent-streams"))
                .unwrap_or(u32::MAX),
            auto_compaction: auto_compaction(&s)?,
            defrag_threshold_percent: defrag_threshold as u32,
            auth_token: auth_token(&s, &mut warnings)?,
            auth_token_ttl_s: s.uint("auth-token-ttl"),
            bcrypt_cost: bcrypt_cost(&s, &mut warnings),
            log,
            unsafe_no_fsync: s.bool("unsafe-no-fsync"),
            name,
            warnings,
        })
    }

    /// Above this many bytes in use, writes are refused.
    pub fn quota_bytes(&self) -> Option<u64> {
        u64::try_from(self.quota_backend_bytes).ok()
    }

    /// The members of a cluster that starts for the first time: name and sorted peer URLs of each,
    /// this member among them. To be called only when there is no data yet.
    pub fn bootstrap_members(&self) -> Result<Vec<(String, Vec<String>)>, UsageError> {
        let cluster = read_initial_cluster(&self.initial_cluster)?;
        let Some((_, ours)) = cluster.iter().find(|(name, _)| *name == self.name) else {
            return Err(err(format!(
                "couldn't find local name {:?} in the initial cluster configuration",
                self.name
            )));
        };
        if self.initial_cluster_state == ClusterState::New {
            // A member that joins was announced with the URLs by which it is to be found.
            self.check_advertised(ours)?;
        }
        let mut all: Vec<_> = cluster.iter().flat_map(|(_, urls)| urls).collect();
        let total = all.len();
        all.sort();
        all.dedup();
        if all.len() < total {
            return Err(err(format!("initial cluster {} has duplicate url", self.initial_cluster)));
        }
        let texts = |urls: Vec<Url>| urls.iter().map(|url| url.as_str().to_owned()).collect();
        Ok(cluster.into_iter().map(|(name, urls)| (name, texts(urls))).collect())
    }

    /// What the cluster is told about this member and what this member tells others must agree.
    fn check_advertised(&self, in_cluster: &[Url]) -> Result<(), UsageError> {
        let advertised = &self.initial_advertise_peer_urls;
        let missing = |from: &[Url], of: &[Url]| -> Vec<String> {
            let there: Vec<_> = from.iter().map(Url::resolved).collect();
            of.iter().filter(|u| !there.contains(&u.resolved())).map(Url::to_string).collect()
        };
        let named = |urls: &[String]| -> String {
            let pairs: Vec<_> = urls.iter().map(|url| format!("{}={url}", self.name)).collect();
            pairs.join(",")
        };
        let texts: Vec<_> = advertised.iter().map(Url::to_string).collect();
        let only_in_cluster = missing(advertised, in_cluster);
        if !only_in_cluster.is_empty() {
            return Err(err(format!(
                "--initial-cluster has {} but missing from --initial-advertise-peer-urls={}",
                named(&only_in_cluster),
                texts.join(",")
            )));
        }
        let only_advertised = missing(in_cluster, advertised);
        if !only_advertised.is_empty() {
            return Err(err(format!(
                "--initial-advertise-peer-urls has {} but missing from --initial-cluster={}",
                only_advertised.join(","),
                self.initial_cluster
            )));
        }
        Ok(())
    }
}

/// What stands between commas.
fn list(text: &str) -> Vec<String> {
    let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
    items.map(str::to_owned).collect()
}

/// Origins are URLs with a port; a star is all.
fn origins(s: &Settings) -> Result<Vec<String>, UsageError> {
    let origins = list(s.text("cors"));
    for origin in origins.iter().filter(|origin| *origin != "*") {
        Url::parse(origin).map_err(|rule| s.invalid("cors", &rule))?;
    }
    Ok(origins)
}

fn bind_urls(s: &Settings, flag: &str) -> Result<Vec<Url>, UsageError> {
    let urls = s.urls(flag);
    for url in &urls {
        url.check_bind().map_err(|rule| s.invalid(flag, &rule))?;
    }
    Ok(urls)
}

fn host_urls(s: &Settings, flag: &str) -> Result<Vec<Url>, UsageError> {
    let urls = s.urls(flag);
    for url in &urls {
        url.check_host().map_err(|rule| s.invalid(flag, &rule))?;
    }
    Ok(urls)
}

fn timing(s: &Settings) -> Result<(u64, u64), UsageError> {
    let heartbeat_ms = s.uint("heartbeat-interval");
    let election_ms = s.uint("election-timeout");
    for (flag, ms) in [("heartbeat-interval", heartbeat_ms), ("election-timeout", election_ms)] {
        if ms == 0 {
            return Err(err(format!("--{flag} must be >0 (set to 0ms)")));
        }
    }
    if heartbeat_ms.saturating_mul(HEARTBEATS_IN_ELECTION_TIMEOUT_MIN) > election_ms {
        return Err(err(format!(
            "--election-timeout[{election_ms}ms] should be at least as 5 times as \
             --heartbeat-interval[{heartbeat_ms}ms]"
        )));
    }
    if election_ms > ELECTION_TIMEOUT_MAX_MS {
        return Err(err(format!(
            "--election-timeout[{election_ms}ms] is too long, and should be set less than \
             {ELECTION_TIMEOUT_MAX_MS}ms"
        )));
    }
    Ok((heartbeat_ms, election_ms))
}

fn duration_ms(s: &Settings, flag: &str) -> Result<u64, UsageError> {
    let ns = s.duration_ns(flag);
    if ns < 0 {
        return Err(s.invalid(flag, "must not be negative"));
    }
    Ok(value::ns_to_ms(ns))
}

fn auto_compaction(s: &Settings) -> Result<AutoCompaction, UsageError> {
    const FLAG: &str = "auto-compaction-retention";
    const HOUR_NS: i64 = 3_600_000_000_000;
    let text = s.text(FLAG);
    let number = text.parse::<i64>().ok().filter(|n| *n >= 0);
    if s.text("auto-compaction-mode") == "revision" {
        let rule = "must be a number of revisions, as --auto-compaction-mode is revision";
        return match number.ok_or_else(|| s.invalid(FLAG, rule))? {
            0 => Ok(AutoCompaction::Off),
            retention => Ok(AutoCompaction::Revision { retention }),
        };
    }
    let ns = match number {
        Some(hours) => hours.checked_mul(HOUR_NS).ok_or_else(|| "is too long".to_owned()),
        None => value::read_duration(text),
    };
    match ns.map_err(|rule| s.invalid(FLAG, &rule))? {
        0 => Ok(AutoCompaction::Off),
        ns if ns < 0 => Err(s.invalid(FLAG, "must not be negative")),
        ns => Ok(AutoCompaction::Periodic { retention_ms: value::ns_to_ms(ns) }),
    }
}

fn log(s: &Settings) -> Result<Log, UsageError> {
    if s.text("logger") != "zap" {
        return Err(err(format!("unknown logger option {:?} for --logger", s.text("logger"))));
    }
    let level = match s.text("log-level").to_ascii_lowercase().as_str() {
        "debug" => LogLevel::Debug,
        "info" => LogLevel::Info,
        "warn" | "warning" => LogLevel::Warn,
        "error" => LogLevel::Error,
        "dpanic" | "panic" => LogLevel::Panic,
        "fatal" => LogLevel::Fatal,
        _ => {
            return Err(
                s.invalid("log-level", "must be one of debug, info, warn, error, panic, fatal")
            );
        }
    };
    let format =
        if s.text("log-format") == "console" { LogFormat::Console } else { LogFormat::Json };
    let outputs = log_outputs(s)?;
    let rotation = log_rotation(s, &outputs)?;
    Ok(Log { level, format, rotation, outputs })
}

fn log_rotation(s: &Settings, outputs: &[LogOutput]) -> Result<Option<LogRotation>, UsageError> {
    const FLAG: &str = "log-rotation-config-json";
    if !s.bool("enable-log-rotation") {
        return Ok(None);
    }
    let files = outputs.iter().filter(|output| matches!(output, LogOutput::File(_))).count();
    if files != 1 || outputs.len() != 1 {
        return Err(s.invalid(
            "enable-log-rotation",
            "needs --log-outputs to name one file, and nothing else",
        ));
    }
    let rotation: LogRotation = serde_json::from_str(s.text(FLAG))
        .map_err(|error| s.invalid(FLAG, &format!("is no configuration of rotation: {error}")))?;
    match rotation.maxsize {
        // As zap's writer has it.
        0 => Ok(Some(LogRotation { maxsize: LogRotation::default().maxsize, ..rotation })),
        _ => Ok(Some(rotation)),
    }
}

fn log_outputs(s: &Settings) -> Result<Vec<LogOutput>, UsageError> {
    let mut names: Vec<_> = s.text("log-outputs").split(',').filter(|n| !n.is_empty()).collect();
    if names.is_empty() {
        names.push("default");
    }
    if names.contains(&"/dev/null") {
        // As in etcd: with this among them, the others are silent, too.
        return Ok(vec![LogOutput::File(PathBuf::from("/dev/null"))]);
    }
    if names.len() > 1 && names.contains(&"default") {
        return Err(s.invalid("log-outputs", "default cannot be one of several outputs"));
    }
    let mut outputs: Vec<_> = names
        .into_iter()
        .map(|name| match name {
            // Under systemd, stderr is the journal.
            "default" | "stderr" | "systemd/journal" => LogOutput::Stderr,
            "stdout" => LogOutput::Stdout,
            path => LogOutput::File(PathBuf::from(path)),
        })
        .collect();
    outputs.sort();
    outputs.dedup();
    Ok(outputs)
}

/// `simple`, or `jwt` and its options, as etcd takes them.
fn auth_token(s: &Settings, warnings: &mut Vec<String>) -> Result<AuthToken, UsageError> {
    const FLAG: &str = "auth-token";
    const KNOWN: [&str; 4] = ["sign-method", "pub-key", "priv-key", "ttl"];
    let mut parts = s.text(FLAG).split(',');
    let kind = parts.next().unwrap_or_default();
    let mut options: BTreeMap<&str, &str> = BTreeMap::new();
    for part in parts {
        let pair: Vec<&str> = part.split('=').collect();
        let [name, value] = pair[..] else {
            return Err(s.invalid(FLAG, &format!("has an option that is not name=value: {part}")));
        };
        if options.insert(name, value).is_some() {
            return Err(s.invalid(FLAG, &format!("has the option {name} twice")));
        }
    }
    match kind {
        "" => return Ok(AuthToken::None),
        "simple" => return Ok(AuthToken::Simple),
        "jwt" => {}
        _ => return Err(s.invalid(FLAG, "must be simple, or jwt with its options")),
    }
    for name in options.keys().filter(|name| !KNOWN.contains(name)) {
        warnings.push(format!("--auth-token: {name} is no option of jwt"));
    }
    let given = |name: &str| options.get(name).copied().filter(|value| !value.is_empty());
    let ttl = given("ttl").unwrap_or(JWT_TTL_DEFAULT);
    let ttl_ns =
        value::read_duration(ttl).map_err(|rule| s.invalid(FLAG, &format!("ttl {rule}")))?;
    Ok(AuthToken::Jwt {
        method: given("sign-method").unwrap_or_default().to_owned(),
        public_key: given("pub-key").map(PathBuf::from),
        private_key: given("priv-key").map(PathBuf::from),
        ttl_s: value::ns_to_ms(ttl_ns.max(0)) / 1000,
    })
}

/// etcd's rule: a cost that cannot be is that of the default.
fn bcrypt_cost(s: &Settings, warnings: &mut Vec<String>) -> u32 {
    match u32::try_from(s.uint("bcrypt-cost")) {
        Ok(cost) if (BCRYPT_COST_MIN..=BCRYPT_COST_MAX).contains(&cost) => cost,
        _ => {
            warnings.push(format!(
                "--bcrypt-cost {} is not between {BCRYPT_COST_MIN} and {BCRYPT_COST_MAX}; it is \
                 {BCRYPT_COST_DEFAULT} instead",
                s.text("bcrypt-cost")
            ));
            BCRYPT_COST_DEFAULT
        }
    }
}

fn feature_gates(s: &Settings, warnings: &mut Vec<String>) -> Result<(), UsageError> {
    const FLAG: &str = "feature-gates";
    for pair in s.text(FLAG).split(',').map(str::trim).filter(|pair| !pair.is_empty()) {
        let (gate, on) = pair
            .split_once('=')
            .ok_or_else(|| s.invalid(FLAG, &format!("missing bool value for {pair}")))?;
        let Some((_, default)) = flags::FEATURE_GATES.iter().find(|(name, _)| *name == gate) else {
            return Err(s.invalid(FLAG, &format!("unrecognized feature gate: {gate}")));
        };
        let value = value::Kind::Bool
            .read(on.trim())
            .map_err(|rule| s.invalid(FLAG, &format!("{rule} ({gate})")))?;
        if value != value::Value::Bool(*default) {
            warnings.push(format!("--feature-gates {gate}={} has no effect", on.trim()));
        }
    }
    Ok(())
}

/// Of these at most one says who the members are.
fn discovery_srv(s: &Settings) -> Result<Option<String>, UsageError> {
    let flags = ["initial-cluster", "discovery-srv", "discovery-endpoints"];
    let given = |flag: &&str| s.is_set(flag) && !s.text(flag).is_empty();
    if flags.iter().filter(|flag| given(flag)).count() > 1 {
        return Err(err(
            "multiple discovery or bootstrap flags are set. Choose one of \"initial-cluster\", \
             \"discovery-endpoints\", or \"discovery-srv\""
                .to_owned(),
        ));
    }
    let domain = s.text("discovery-srv");
    Ok(Some(domain.to_owned()).filter(|domain| !domain.is_empty()))
}

fn discovery(s: &Settings) -> Result<Option<Discovery>, UsageError> {
    if s.text("discovery-fallback") == "proxy" {
        return Err(err(
            "v2 proxy is deprecated, and --discovery-fallback can't be configured as \"proxy\""
                .to_owned(),
        ));
    }
    let token = s.text("discovery-token");
    let endpoints = s.text("discovery-endpoints");
    if token.is_empty() != endpoints.is_empty() {
        return Err(err("both --discovery-token and --discovery-endpoints must be set".to_owned()));
    }
    if token.is_empty() {
        return Ok(None);
    }
    let mut endpoints: Vec<String> =
        endpoints.split(',').map(|endpoint| endpoint.trim().to_owned()).collect();
    if endpoints.iter().any(String::is_empty) {
        return Err(err("--discovery-endpoints must not contain empty endpoints".to_owned()));
    }
    endpoints.sort();
    endpoints.dedup();
    let path = |flag| Some(PathBuf::from(s.text(flag))).filter(|path| !path.as_os_str().is_empty());
    let (user, password) = match (s.text("discovery-user"), s.text("discovery-password")) {
        (user, "") => user.split_once(':').unwrap_or((user, "")),
        both => both,
    };
    Ok(Some(Discovery {
        endpoints,
        token: token.to_owned(),
        dial_timeout_ms: duration_ms(s, "discovery-dial-timeout")?,
        request_timeout_ms: duration_ms(s, "discovery-request-timeout")?,
        keepalive_time_ms: duration_ms(s, "discovery-keepalive-time")?,
        keepalive_timeout_ms: duration_ms(s, "discovery-keepalive-timeout")?,
        insecure_transport: s.bool("discovery-insecure-transport"),
        insecure_skip_verify: s.bool("discovery-insecure-skip-tls-verify"),
        cert: path("discovery-cert"),
        key: path("discovery-key"),
        cacert: path("discovery-cacert"),
        user: user.to_owned(),
        password: password.to_owned(),
    }))
}

/// etcd's rule: a name given alone makes a cluster of its own; without a name, or with another
/// peer URL, nothing is guessed.
fn initial_cluster(s: &Settings, name: &str, advertised: &[Url]) -> String {
    const FLAG: &str = "initial-cluster";
    if s.is_set(FLAG) || name == "default" {
        return s.text(FLAG).to_owned();
    }
    let name = if name.is_empty() { "default" } else { name };
    let pairs: Vec<_> = advertised.iter().map(|url| format!("{name}={url}")).collect();
    pairs.join(",")
}

/// Names in the order of their first mention, URLs sorted.
fn read_initial_cluster(text: &str) -> Result<Vec<(String, Vec<Url>)>, UsageError> {
    let mut cluster: Vec<(String, Vec<Url>)> = Vec::new();
    for pair in text.split(',').filter(|pair| !pair.is_empty()) {
        let (name, url) = pair.split_once('=').unwrap_or((pair, ""));
        let url = Url::parse(url).map_err(|rule| {
            err(format!("invalid value {text:?} for flag -initial-cluster: {rule}"))
        })?;
        match cluster.iter_mut().find(|(known, _)| known == name) {
            Some((_, urls)) => urls.push(url),
            None => cluster.push((name.to_owned(), vec![url])),
        }
    }
    cluster.iter_mut().for_each(|(_, urls)| urls.sort());
    Ok(cluster)
}
