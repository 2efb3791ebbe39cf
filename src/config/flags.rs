//! The table of all flags: those that ringd obeys, and those of etcd 3.7 that it knows.

use super::value::Kind;

/// One flag. The environment variable and the help text follow from it.
pub struct Flag {
    pub name: &'static str,
    pub kind: Kind,
    /// etcd's default, as it would be written on the command line.
    pub default: &'static str,
    pub effect: Effect,
}

/// What giving the flag does.
pub enum Effect {
    /// Obeyed; shown by `--help` in this group, with this text.
    Obeyed(Group, &'static str),
    /// Taken and, unless it has its default, answered with a warning. Nothing that the flag asks
    /// for could be missed: the reason says why.
    None(&'static str),
    /// Known to etcd and without effect there as well.
    Legacy,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Group {
    Member,
    Listening,
    Tls,
    Cluster,
    Discovery,
    Timing,
    Limits,
    Compaction,
    Auth,
    Logging,
    Unsafe,
    Other,
}

impl Group {
    pub const ALL: [(Group, &'static str); 12] = [
        (Group::Member, "This member"),
        (Group::Listening, "Where it listens, and where others find it"),
        (Group::Tls, "TLS"),
        (Group::Cluster, "The cluster, when it starts for the first time"),
        (Group::Discovery, "The discovery service, when the cluster starts for the first time"),
        (Group::Timing, "Timing"),
        (Group::Limits, "Limits"),
        (Group::Compaction, "Compaction of old revisions"),
        (Group::Auth, "Authentication of users"),
        (Group::Logging, "Logging"),
        (Group::Unsafe, "Unsafe"),
        (Group::Other, "Other"),
    ];
}

const fn obeyed(
    name: &'static str,
    kind: Kind,
    default: &'static str,
    group: Group,
    help: &'static str,
) -> Flag {
    Flag { name, kind, default, effect: Effect::Obeyed(group, help) }
}

const fn without(name: &'static str, kind: Kind, default: &'static str, why: &'static str) -> Flag {
    Flag { name, kind, default, effect: Effect::None(why) }
}

const fn legacy(name: &'static str) -> Flag {
    Flag { name, kind: Kind::Text, default: "", effect: Effect::Legacy }
}

/// Spellings that etcd up to 3.6 took, for flags whose name today is not the same without
/// `experimental-` in front.
pub const OLD_NAMES: &[(&str, &str)] = &[
    ("experimental-initial-corrupt-check", "feature-gates"),
    ("experimental-compact-hash-check-enabled", "feature-gates"),
    ("experimental-enable-lease-checkpoint", "feature-gates"),
    ("experimental-enable-lease-checkpoint-persist", "feature-gates"),
    ("experimental-txn-mode-write-with-shared-buffer", "feature-gates"),
    ("experimental-stop-grpc-service-on-defrag", "feature-gates"),
];

/// The feature gates of etcd 3.7 and their defaults. None of them changes anything here.
pub const FEATURE_GATES: &[(&str, bool)] = &[
    ("AllAlpha", false),
    ("AllBeta", false),
    ("CompactHashCheck", false),
    ("FastLeaseKeepAlive", true),
    ("InitialCorruptCheck", false),
    ("LeaseCheckpoint", false),
    ("LeaseCheckpointPersist", false),
    ("PriorityRequest", false),
    ("SetMemberLocalAddr", false),
    ("StopGRPCServiceOnDefrag", false),
    ("TxnModeWriteWithSharedBuffer", true),
];

const OWN_LINKS: &str = "links between members notice by themselves when they are dead";
const OWN_STORE: &str = "it tunes etcd's storage engine, and ringd has its own";
const NO_TRACING: &str = "traces are not exported";

pub const FLAGS: &[Flag] = {
    use Group::*;
    use Kind::*;
    &[
        obeyed("name", Text, "default", Member, "Name of this member, for people."),
        obeyed("data-dir", Text, "", Member, "Directory of the data; \"<name>.etcd\" if empty."),
        obeyed(
            "wal-dir",
            Text,
            "",
            Member,
            "Directory of the log alone; in the data directory if empty.",
        ),
        obeyed(
            "listen-client-urls",
            Urls,
            "http://localhost:2379",
            Listening,
            "Where clients are served, by gRPC and HTTP; commas between URLs. An IP or localhost with a port, or unix:/path.",
        ),
        obeyed(
            "advertise-client-urls",
            Urls,
            "http://localhost:2379",
            Listening,
            "Where clients are told to go. To be given whenever --listen-client-urls is.",
        ),
        obeyed(
            "listen-client-http-urls",
            Urls,
            "",
            Listening,
            "Where clients are served by HTTP alone; those of --listen-client-urls then get gRPC alone.",
        ),
        obeyed(
            "listen-metrics-urls",
            Urls,
            "",
            Listening,
            "Further places that answer /metrics, /health, /livez and /readyz.",
        ),
        obeyed(
            "listen-peer-urls",
            Urls,
            "http://localhost:2380",
            Listening,
            "Where other members are heard. An IP or localhost with a port, or unix:/path.",
        ),
        obeyed(
            "cert-file",
            Text,
            "",
            Tls,
            "Certificate for clients, in PEM, with those that vouch for it.",
        ),
        obeyed("key-file", Text, "", Tls, "Its key, in PEM."),
        obeyed(
            "trusted-ca-file",
            Text,
            "",
            Tls,
            "By whom clients' certificates are issued; given, they need one.",
        ),
        obeyed(
            "client-cert-auth",
            Bool,
            "false",
            Tls,
            "Clients need a certificate; its common name is a user.",
        ),
        obeyed(
            "client-crl-file",
            Text,
            "",
            Tls,
            "Revocation list: certificates that clients may no longer use.",
        ),
        obeyed(
            "client-cert-allowed-hostname",
            Text,
            "",
            Tls,
            "Names with commas between them, of which a client's certificate must have one.",
        ),
        obeyed(
            "ringd-client-cert-allowed-cn",
            Text,
            "",
            Tls,
            "Common names with commas between them, of which a client's certificate must have one.",
        ),
        obeyed(
            "client-cert-file",
            Text,
            "",
            Tls,
            "Certificate for requests to the own client URLs; none are made.",
        ),
        obeyed("client-key-file", Text, "", Tls, "Its key."),
        obeyed(
            "auto-tls",
            Bool,
            "false",
            Tls,
            "Make a certificate for clients in the data directory.",
        ),
        obeyed(
            "peer-cert-file",
            Text,
            "",
            Tls,
            "Certificate for other members, for both directions.",
        ),
        obeyed("peer-key-file", Text, "", Tls, "Its key."),
        obeyed(
            "peer-trusted-ca-file",
            Text,
            "",
            Tls,
            "By whom members' certificates are issued; given, they need one.",
        ),
        obeyed("peer-client-cert-auth", Bool, "false", Tls, "Other members need a certificate."),
        obeyed(
            "peer-crl-file",
            Text,
            "",
            Tls,
            "Revocation list for members' certificates, in both directions.",
        ),
        obeyed(
            "peer-cert-allowed-cn",
            Text,
            "",
            Tls,
            "Common names with commas between them, of which a member's certificate must have one.",
        ),
        obeyed(
            "peer-cert-allowed-hostname",
            Text,
            "",
            Tls,
            "Names with commas between them, of which a member's certificate must have one.",
        ),
        obeyed(
            "peer-client-cert-file",
            Text,
            "",
            Tls,
            "Certificate for dialling other members, if not --peer-cert-file.",
        ),
        obeyed("peer-client-key-file", Text, "", Tls, "Its key."),
        obeyed(
            "peer-skip-client-san-verification",
            Bool,
            "false",
            Tls,
            "Members may dial from addresses that their certificates do not name.",
        ),
        obeyed(
            "peer-auto-tls",
            Bool,
            "false",
            Tls,
            "Make a certificate for members in the data directory.",
        ),
        obeyed(
            "self-signed-cert-validity",
            Uint,
            "1",
            Tls,
            "Years for which certificates hold that are made with --auto-tls and --peer-auto-tls.",
        ),
        obeyed(
            "ringd-tls-handshake-timeout",
            Duration,
            "10s",
            Tls,
            "How long the handshake of a new connection may take.",
        ),
        obeyed("tls-min-version", Text, "TLS1.2", Tls, "TLS1.2 or TLS1.3."),
        obeyed("tls-max-version", Text, "", Tls, "TLS1.2 or TLS1.3, the newest if empty."),
        obeyed(
            "cipher-suites",
            Text,
            "",
            Tls,
            "Suites of TLS 1.2, by Go's names with commas between them; all that are safe if empty.",
        ),
        obeyed(
            "initial-advertise-peer-urls",
            Urls,
            "http://localhost:2380",
            Cluster,
            "Where other members find this one. The member's ID is made of it.",
        ),
        obeyed(
            "initial-cluster",
            Text,
            "default=http://localhost:2380",
            Cluster,
            "All members as name=URL with commas between them; <name>=<initial-advertise-peer-urls> if only --name is given.",
        ),
        obeyed(
            "initial-cluster-state",
            OneOf(&["new", "existing"]),
            "new",
            Cluster,
            "Whether the cluster is made now or joined.",
        ),
        obeyed(
            "initial-cluster-token",
            Text,
            "etcd-cluster",
            Cluster,
            "Keeps clusters apart that have the same URLs.",
        ),
        obeyed(
            "force-new-cluster",
            Bool,
            "false",
            Unsafe,
            "Start from the data directory as the only member of the cluster: for when the others are lost.",
        ),
        obeyed(
            "discovery-srv",
            Text,
            "",
            Cluster,
            "A domain whose SRV records name all members, in the place of --initial-cluster.",
        ),
        obeyed(
            "discovery-srv-name",
            Text,
            "",
            Cluster,
            "Suffix of the service that these records are for: _etcd-server-<name>.",
        ),
        obeyed(
            "discovery-token",
            Text,
            "",
            Discovery,
            "Name of the cluster to found at the discovery service; no other cluster may have had it.",
        ),
        obeyed(
            "discovery-endpoints",
            Text,
            "",
            Discovery,
            "An etcd where the members find each other, in the place of --initial-cluster.",
        ),
        obeyed(
            "discovery-dial-timeout",
            Duration,
            "2s",
            Discovery,
            "How long connecting to the discovery service may take.",
        ),
        obeyed(
            "discovery-request-timeout",
            Duration,
            "5s",
            Discovery,
            "How long a request to it may take.",
        ),
        obeyed(
            "discovery-keepalive-time",
            Duration,
            "2s",
            Discovery,
            "After how long without a word from it a ping is sent, 10s at the least.",
        ),
        obeyed(
            "discovery-keepalive-timeout",
            Duration,
            "6s",
            Discovery,
            "How long the answer may take before the connection is given up.",
        ),
        obeyed(
            "discovery-insecure-transport",
            Bool,
            "true",
            Discovery,
            "No TLS with endpoints that do not say http:// or https://.",
        ),
        obeyed(
            "discovery-insecure-skip-tls-verify",
            Bool,
            "false",
            Discovery,
            "Take any certificate of the discovery service.",
        ),
        obeyed("discovery-cert", Text, "", Discovery, "File of the certificate to show it."),
        obeyed("discovery-key", Text, "", Discovery, "File of its private key."),
        obeyed(
            "discovery-cacert",
            Text,
            "",
            Discovery,
            "File of the authorities that its certificate must come from.",
        ),
        obeyed("discovery-user", Text, "", Discovery, "Name of a user there, or name:password."),
        obeyed("discovery-password", Text, "", Discovery, "The user's password."),
        obeyed(
            "discovery-fallback",
            OneOf(&["exit", "proxy"]),
            "exit",
            Discovery,
            "What to do when discovery fails: exit.",
        ),
        obeyed(
            "strict-reconfig-check",
            Bool,
            "true",
            Cluster,
            "Refuse changes of the members that could cost the cluster its quorum.",
        ),
        obeyed("max-learners", Int, "1", Cluster, "Learners that the cluster may have at a time."),
        obeyed(
            "heartbeat-interval",
            Uint,
            "100",
            Timing,
            "Milliseconds between two heartbeats of the leader.",
        ),
        obeyed(
            "election-timeout",
            Uint,
            "1000",
            Timing,
            "Milliseconds without a leader before an election; at least five heartbeats, at most 50000.",
        ),
        obeyed(
            "snapshot-count",
            Uint,
            "10000",
            Timing,
            "Log entries kept for members that lag behind, before they are sent the whole state.",
        ),
        obeyed(
            "snapshot-catchup-entries",
            Uint,
            "5000",
            Timing,
            "Log entries that stay in any case for members that lag behind a little.",
        ),
        obeyed(
            "corrupt-check-time",
            Duration,
            "0",
            Timing,
            "How often members compare their histories; every hour if 0.",
        ),
        obeyed(
            "watch-progress-notify-interval",
            Duration,
            "10m",
            Timing,
            "How often quiet watchers that asked for it are told the revision; at least 100ms.",
        ),
        obeyed(
            "grpc-keepalive-min-time",
            Duration,
            "5s",
            Timing,
            "Shortest time between two pings of a client.",
        ),
        obeyed(
            "grpc-keepalive-interval",
            Duration,
            "2h",
            Timing,
            "Silence after which a client is pinged; 0 for never.",
        ),
        obeyed(
            "grpc-keepalive-timeout",
            Duration,
            "20s",
            Timing,
            "How long a ping may stay unanswered before the connection is closed.",
        ),
        obeyed(
            "quota-backend-bytes",
            Int,
            "0",
            Limits,
            "Bytes in use above which writes are refused; 0 for 2 GiB, negative for no limit.",
        ),
        obeyed(
            "socket-reuse-port",
            Bool,
            "false",
            Listening,
            "Let other processes listen at the same addresses (SO_REUSEPORT).",
        ),
        obeyed(
            "cors",
            Text,
            "*",
            Listening,
            "Origins of web pages that may use answers of plain HTTP and of the JSON gateway.",
        ),
        obeyed(
            "host-whitelist",
            Text,
            "*",
            Listening,
            "Names by which plain HTTP without TLS may be asked, against DNS rebinding.",
        ),
        obeyed(
            "metrics",
            OneOf(&["basic", "extensive"]),
            "basic",
            Other,
            "Whether /metrics has the distributions of how long calls take.",
        ),
        obeyed(
            "auth-token",
            Text,
            "simple",
            Auth,
            "Kind of tokens for users who have shown their password: simple, or jwt with sign-method=, priv-key=, pub-key=, ttl= behind it, separated by commas.",
        ),
        obeyed(
            "auth-token-ttl",
            Uint,
            "300",
            Auth,
            "Seconds after which a simple token that is not used is no longer good.",
        ),
        obeyed("bcrypt-cost", Uint, "10", Auth, "What a hash of a password costs; 4 to 31."),
        obeyed("max-txn-ops", Uint, "128", Limits, "Operations in one transaction."),
        obeyed(
            "max-request-bytes",
            Uint,
            "1572864",
            Limits,
            "Size of one request; at most 512 MiB, better not above 10 MiB.",
        ),
        obeyed(
            "max-concurrent-streams",
            Uint32,
            "4294967295",
            Limits,
            "Requests that one connection may have open at a time.",
        ),
        obeyed(
            "auto-compaction-mode",
            OneOf(&["periodic", "revision"]),
            "periodic",
            Compaction,
            "Whether the retention is a time or a number of revisions.",
        ),
        obeyed(
            "auto-compaction-retention",
            Text,
            "0",
            Compaction,
            "How much history stays: a duration (a plain number is in hours), or a number of revisions; 0 for all.",
        ),
        obeyed(
            "ringd-defrag-threshold-percent",
            Uint,
            "10",
            Compaction,
            "Share of the store's file that may lie idle before pages move and the file is cut; 0 for only on demand.",
        ),
        obeyed("log-level", Text, "info", Logging, "debug, info, warn, error, panic or fatal."),
        obeyed("log-format", OneOf(&["json", "console"]), "json", Logging, "How a line looks."),
        obeyed(
            "log-outputs",
            Text,
            "default",
            Logging,
            "stderr, stdout or paths of files, with commas between them; default is stderr.",
        ),
        obeyed("logger", Text, "zap", Logging, "Only zap, which is the shape of the lines."),
        obeyed(
            "enable-log-rotation",
            Bool,
            "false",
            Logging,
            "Put a log file aside when it is large, as --log-rotation-config-json says.",
        ),
        obeyed(
            "log-rotation-config-json",
            Text,
            "{\"maxsize\": 100, \"maxage\": 0, \"maxbackups\": 0, \"localtime\": false, \"compress\": false}",
            Logging,
            "Megabytes of a log file, days and number of those kept, and whether these are compressed.",
        ),
        obeyed(
            "warning-apply-duration",
            Duration,
            "100ms",
            Logging,
            "Entries that take longer to apply are logged.",
        ),
        obeyed(
            "warning-unary-request-duration",
            Duration,
            "300ms",
            Logging,
            "Requests that take longer are logged.",
        ),
        obeyed(
            "unsafe-no-fsync",
            Bool,
            "false",
            Unsafe,
            "Acknowledge writes that are not on the disk: a power cut loses them.",
        ),
        obeyed(
            "config-file",
            Text,
            "",
            Other,
            "A YAML file with all of the configuration; other flags and the environment are then ignored.",
        ),
        obeyed("version", Bool, "false", Other, "Print the version and exit."),
        obeyed("enable-grpc-gateway", Bool, "true", Other, "Answer JSON below /v3/."),
        obeyed(
            "enable-pprof",
            Bool,
            "false",
            Other,
            "Answer /debug/pprof/: how it was started, and what to profile it with.",
        ),
        obeyed(
            "feature-gates",
            Text,
            "",
            Other,
            "etcd's feature gates; known, and without effect.",
        ),
        // Without effect here.
        without("backend-batch-interval", Duration, "0", OWN_STORE),
        without("backend-batch-limit", Int, "0", OWN_STORE),
        without("backend-bbolt-freelist-type", Text, "", OWN_STORE),
        without(
            "bootstrap-defrag-threshold-megabytes",
            Uint,
            "0",
            "the store defragments itself while it runs",
        ),
        without(
            "compact-hash-check-time",
            Duration,
            "1m",
            "members compare their histories every --corrupt-check-time",
        ),
        without("compaction-batch-limit", Int, "0", "compaction runs in slices bounded by time"),
        without(
            "compaction-sleep-interval",
            Duration,
            "0",
            "compaction runs in slices bounded by time",
        ),
        without("distributed-tracing-address", Text, "localhost:4317", NO_TRACING),
        without("distributed-tracing-instance-id", Text, "", NO_TRACING),
        without("distributed-tracing-sampling-rate", Int, "0", NO_TRACING),
        without("distributed-tracing-service-name", Text, "etcd", NO_TRACING),
        without(
            "downgrade-check-time",
            Duration,
            "5s",
            "no member is ever of the lower version, so a downgrade stays until it is cancelled",
        ),
        without("enable-distributed-tracing", Bool, "false", NO_TRACING),
        without(
            "initial-election-tick-advance",
            Bool,
            "true",
            "a member that starts waits for a leader as long as any other",
        ),
        without("max-snapshots", Uint, "5", OWN_STORE),
        without("max-wals", Uint, "5", "segments of the log go as soon as nothing needs them"),
        without(
            "memory-mlock",
            Bool,
            "false",
            "the store's pages stay under the control of the kernel",
        ),
        without("pre-vote", Bool, "true", "members always ask before they hold an election"),
        without("raft-read-timeout", Duration, "5s", OWN_LINKS),
        without("raft-write-timeout", Duration, "5s", OWN_LINKS),
        without("socket-reuse-address", Bool, "false", "addresses are always reused"),
        // Without effect anywhere.
        legacy("cluster-active-size"),
        legacy("cluster-remove-delay"),
        legacy("cluster-sync-interval"),
        legacy("config"),
        legacy("force"),
        legacy("max-result-buffer"),
        legacy("max-retry-attempts"),
        legacy("peer-election-timeout"),
        legacy("peer-heartbeat-interval"),
        legacy("retry-interval"),
        legacy("snapshot"),
        legacy("v"),
        legacy("v2-deprecation"),
        legacy("vv"),
    ]
};

/// The flag of that name, and whether the name is an old spelling of it.
pub fn find(name: &str) -> Option<(usize, Spelling)> {
    let position = |name: &str| FLAGS.iter().position(|f| f.name == name);
    if let Some(at) = position(name) {
        return Some((at, Spelling::Today));
    }
    if let Some((_, new)) = OLD_NAMES.iter().find(|(old, _)| *old == name) {
        return position(new).map(|at| (at, Spelling::Gate));
    }
    position(name.strip_prefix("experimental-")?).map(|at| (at, Spelling::Experimental))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spelling {
    Today,
    /// `experimental-` in front of today's name.
    Experimental,
    /// A switch of its own once, a feature gate today; none of the gates has an effect here.
    Gate,
}

/// `ETCD_` and the flag in capitals with underscores.
pub fn env_name(flag: &str) -> String {
    format!("ETCD_{}", flag.to_ascii_uppercase().replace('-', "_"))
}
