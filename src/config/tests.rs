//! Every rule of the command line, as tables: what is given, and what comes of it.

use super::*;

fn parse(args: &[&str]) -> Result<Command, UsageError> {
    Config::parse(args.iter().copied(), std::iter::empty::<(&str, &str)>())
}

fn parse_env(args: &[&str], env: &[(&str, &str)]) -> Result<Command, UsageError> {
    Config::parse(args.iter().copied(), env.iter().copied())
}

fn run(result: Result<Command, UsageError>) -> Config {
    match result {
        Ok(Command::Run(config)) => *config,
        other => panic!("expected a configuration, got {other:?}"),
    }
}

fn config(args: &[&str]) -> Config {
    run(parse(args))
}

fn complaint(args: &[&str]) -> String {
    match parse(args) {
        Err(error) => error.to_string(),
        Ok(command) => panic!("{args:?} was taken: {command:?}"),
    }
}

fn texts(urls: &[Url]) -> Vec<&str> {
    urls.iter().map(Url::as_str).collect()
}

#[test]
fn without_flags_everything_has_etcds_default() {
    let c = config(&[]);
    assert_eq!(c.name, "default");
    assert_eq!(c.data_dir, PathBuf::from("default.etcd"));
    assert_eq!(c.wal_dir, None);
    assert_eq!(texts(&c.listen_client_urls), ["http://localhost:2379"]);
    assert_eq!(texts(&c.advertise_client_urls), ["http://localhost:2379"]);
    assert_eq!(texts(&c.listen_peer_urls), ["http://localhost:2380"]);
    assert_eq!(texts(&c.initial_advertise_peer_urls), ["http://localhost:2380"]);
    assert!(c.listen_metrics_urls.is_empty());
    assert_eq!(c.initial_cluster, "default=http://localhost:2380");
    assert_eq!(c.initial_cluster_state, ClusterState::New);
    assert_eq!(c.initial_cluster_token, "etcd-cluster");
    assert_eq!((c.heartbeat_interval_ms, c.election_timeout_ms), (100, 1000));
    assert_eq!(c.snapshot_count, 10_000);
    assert_eq!(c.watch_progress_notify_interval_ms, 600_000);
    let keepalive = Keepalive { min_time_ms: 5_000, interval_ms: 7_200_000, timeout_ms: 20_000 };
    assert_eq!(c.keepalive, keepalive);
    assert_eq!(c.quota_backend_bytes, 2_147_483_648);
    assert_eq!((c.max_txn_ops, c.max_request_bytes), (128, 1_572_864));
    assert_eq!(c.max_concurrent_streams, u32::MAX);
    assert_eq!(c.auto_compaction, AutoCompaction::Off);
    let log = Log {
        level: LogLevel::Info,
        format: LogFormat::Json,
        rotation: None,
        outputs: vec![LogOutput::Stderr],
    };
    assert_eq!(c.log, log);
    assert!(!c.unsafe_no_fsync);
    assert_eq!(c.warnings, Vec::<String>::new());
}

#[test]
fn a_flag_may_be_spelled_in_four_ways() {
    for args in [
        &["--name", "m1"][..],
        &["--name=m1"],
        &["-name", "m1"],
        &["-name=m1"],
        &["--name=other", "-name", "m1"],
    ] {
        assert_eq!(config(args).name, "m1", "{args:?}");
    }
    assert_eq!(config(&["--name", "-x"]).name, "-x");
    assert_eq!(config(&["--name=a=b"]).name, "a=b");
    assert_eq!(config(&["--name="]).name, "");
}

#[test]
fn a_boolean_never_takes_the_next_argument() {
    for (args, on) in [
        (&["--unsafe-no-fsync"][..], true),
        (&["-unsafe-no-fsync=true"], true),
        (&["--unsafe-no-fsync=1"], true),
        (&["--unsafe-no-fsync=F"], false),
        (&["--unsafe-no-fsync", "--name", "x"], true),
    ] {
        assert_eq!(config(args).unsafe_no_fsync, on, "{args:?}");
    }
    assert_eq!(complaint(&["--unsafe-no-fsync", "false"]), "\"false\" is not a valid flag");
}

#[test]
fn what_is_no_flag_is_named_in_one_line() {
    let cases: &[(&[&str], &str)] = &[
        (&["--nope"], "flag provided but not defined: -nope"),
        (&["-nope=1"], "flag provided but not defined: -nope"),
        (&["--experimental-nope"], "flag provided but not defined: -experimental-nope"),
        (&["start"], "\"start\" is not a valid flag"),
        (&["-"], "\"-\" is not a valid flag"),
        (&[""], "\"\" is not a valid flag"),
        (&["--", "x"], "\"x\" is not a valid flag"),
        (&["---name"], "bad flag syntax: ---name"),
        (&["--=x"], "bad flag syntax: --=x"),
        (&["--name"], "flag needs an argument: -name"),
        (
            &["--heartbeat-interval", "fast"],
            "invalid value \"fast\" for flag -heartbeat-interval: must be a whole number from 0 to 18446744073709551615",
        ),
        (
            &["--unsafe-no-fsync=maybe"],
            "invalid value \"maybe\" for flag -unsafe-no-fsync: must be true or false",
        ),
        (
            &["--watch-progress-notify-interval=5"],
            "invalid value \"5\" for flag -watch-progress-notify-interval: must be a duration such as 100ms, 10s or 1h30m (missing unit)",
        ),
        (
            &["--initial-cluster-state=old"],
            "invalid value \"old\" for flag -initial-cluster-state: must be one of new, existing",
        ),
        (
            &["--grpc-keepalive-timeout=-1s"],
            "invalid value \"-1s\" for flag -grpc-keepalive-timeout: must not be negative",
        ),
    ];
    for (args, expected) in cases {
        assert_eq!(complaint(args), *expected, "{args:?}");
    }
    assert_eq!(config(&["--"]).name, "default");
}

#[test]
fn version_and_help_are_commands_of_their_own() {
    for args in [&["--version"][..], &["-version"], &["--version=true", "--name", "x"]] {
        assert!(matches!(parse(args), Ok(Command::Version)), "{args:?}");
    }
    for args in [&["--help"][..], &["-h"], &["-help"], &["--name", "x", "--help", "--nope"]] {
        assert!(matches!(parse(args), Ok(Command::Help)), "{args:?}");
    }
    // As in etcd, where the arguments are read first.
    assert_eq!(complaint(&["--version", "--nope"]), "flag provided but not defined: -nope");
    // The environment cannot ask for the version, and is not looked at when it is asked for.
    let env = [("ETCD_VERSION", "true"), ("ETCD_HEARTBEAT_INTERVAL", "x")];
    assert!(matches!(parse_env(&["--version"], &env), Ok(Command::Version)));
    assert!(matches!(parse_env(&[], &env[..1]), Ok(Command::Run(_))));
}

#[test]
fn help_names_every_flag_once() {
    let help = help();
    let (entries, lists) = help.split_once("\nFlags of etcd that").unwrap();
    for flag in flags::FLAGS {
        let entry = format!("  --{} ", flag.name);
        let entries = entries.lines().filter(|line| line.starts_with(&entry)).count();
        let listed = lists.split_whitespace().filter(|word| *word == flag.name).count();
        assert_eq!(entries + listed, 1, "--{}", flag.name);
        let obeyed = matches!(flag.effect, flags::Effect::Obeyed(..));
        assert_eq!(entries == 1, obeyed, "--{}", flag.name);
    }
    assert!(help.lines().all(|line| line.len() <= 160));
}

#[test]
fn the_environment_gives_what_the_command_line_does_not() {
    let env = [("ETCD_NAME", "from-env"), ("ETCD_ELECTION_TIMEOUT", "2000"), ("HOME", "/")];
    let c = run(parse_env(&["--name=from-flag"], &env));
    assert_eq!((c.name.as_str(), c.election_timeout_ms), ("from-flag", 2000));
    assert_eq!(c.warnings, ["--name on the command line wins over ETCD_NAME"]);

    let c = run(parse_env(&[], &[("ETCD_UNSAFE_NO_FSYNC", "true"), ("ETCD_NAME", "")]));
    assert_eq!((c.name.as_str(), c.unsafe_no_fsync), ("default", true));
    assert_eq!(c.warnings, Vec::<String>::new());
}

#[test]
fn a_bad_variable_is_named_as_a_variable() {
    let error = parse_env(&[], &[("ETCD_ELECTION_TIMEOUT", "x")]).unwrap_err().to_string();
    assert!(error.starts_with("invalid value \"x\" for ETCD_ELECTION_TIMEOUT: "), "{error}");
}

#[test]
fn unknown_variables_are_warned_of_if_they_look_like_etcds() {
    let env = [
        ("ETCD_NOPE", "1"),
        ("ETCD_name", "1"),
        ("ETCDCTL_API", "3"),
        ("ETCD_UNSUPPORTED_ARCH", "arm64"),
    ];
    let warnings = run(parse_env(&[], &env)).warnings;
    let nope = "unrecognized environment variable ETCD_NOPE";
    assert_eq!(warnings, [nope, "unrecognized environment variable ETCD_name"]);
}

#[cfg(unix)]
#[test]
fn text_that_is_not_utf8_is_refused() {
    use std::os::unix::ffi::OsStringExt;
    let bad = OsString::from_vec(b"--name=\xff".to_vec());
    let error = Config::parse([bad], std::iter::empty::<(&str, &str)>()).unwrap_err();
    assert!(error.to_string().ends_with("is not UTF-8"), "{error}");
}

#[test]
fn where_to_listen_must_be_an_address() {
    let with = |flag: &str, url: &str| {
        complaint(&[&format!("--{flag}={url}"), "--advertise-client-urls=http://a:1"])
    };
    for flag in ["listen-client-urls", "listen-peer-urls", "listen-metrics-urls"] {
        for (url, rule) in [
            ("http://example.com:1", "expected IP in URL for binding (http://example.com:1)"),
            ("http://1.2.3.4", "URL address does not have the form \"host:port\": http://1.2.3.4"),
            ("http://1.2.3.4:1/x", "URL must not contain a path: http://1.2.3.4:1/x"),
            ("tcp://1.2.3.4:1", "URL scheme must be http, https, unix, or unixs: tcp://1.2.3.4:1"),
        ] {
            assert_eq!(with(flag, url), format!("invalid value {url:?} for flag -{flag}: {rule}"));
        }
    }
    assert_eq!(
        with("listen-client-urls", ""),
        "invalid value \"\" for flag -listen-client-urls: must name at least one URL"
    );
}

#[test]
fn urls_with_tls_need_a_certificate_or_one_that_is_made() {
    let advertised = "--advertise-client-urls=https://a:1";
    for url in ["https://1.2.3.4:1", "unixs:/a"] {
        for (flag, kind, names) in [
            ("listen-client-urls", "client", "--cert-file, --key-file"),
            ("listen-metrics-urls", "client", "--cert-file, --key-file"),
            ("listen-peer-urls", "peer", "--peer-cert-file, --peer-key-file"),
        ] {
            let line = complaint(&[&format!("--{flag}={url}"), advertised]);
            let rule = format!(
                "TLS key/cert ({names}) must be provided for {kind} url {url} with HTTPS scheme"
            );
            assert_eq!(line, rule);
        }
        let listen = format!("--listen-client-urls={url}");
        let made = config(&[&listen, advertised, "--auto-tls"]);
        assert!(made.client_security.auto && made.client_security.certificate.is_none());
        let given = config(&[&listen, advertised, "--cert-file=c", "--key-file=k", "--auto-tls"]);
        assert_eq!(given.client_security.certificate, Some(("c".into(), "k".into())));
        assert!(!given.client_security.auto);
        assert_eq!(given.warnings, ["ignoring client auto TLS since certs given"]);
    }
}

#[test]
fn flags_of_tls_are_read_with_etcds_rules() {
    let c = config(&[
        "--peer-cert-file=c",
        "--peer-key-file=k",
        "--peer-client-cert-file=cc",
        "--peer-client-key-file=ck",
        "--peer-trusted-ca-file=ca",
        "--peer-crl-file=crl",
        "--peer-client-cert-auth",
        "--peer-cert-allowed-cn=a, b",
        "--peer-skip-client-san-verification",
        "--listen-peer-urls=https://127.0.0.1:1",
        "--tls-min-version=TLS1.3",
        "--ringd-tls-handshake-timeout=1s",
    ]);
    let expected = Security {
        certificate: Some(("c".into(), "k".into())),
        client_certificate: Some(("cc".into(), "ck".into())),
        trusted_ca_file: Some("ca".into()),
        crl_file: Some("crl".into()),
        client_cert_auth: true,
        auto: false,
        allowed_cns: vec!["a".to_owned(), "b".to_owned()],
        allowed_hostnames: Vec::new(),
        skip_client_san_verification: true,
    };
    assert_eq!(c.peer_security, expected);
    assert_eq!((c.tls.min, c.tls.max), (tls::Version::Tls13, tls::Version::Tls13));
    assert_eq!(c.tls_handshake_timeout_ms, 1000);
    assert!(c.warnings.is_empty(), "{:?}", c.warnings);

    let without = config(&["--peer-cert-allowed-cn=a"]).warnings;
    assert_eq!(
        without,
        [
            "--peer-cert-allowed-cn is not applied to who connects: no certificate is asked for without \
          --peer-client-cert-auth or --peer-trusted-ca-file"
        ]
    );
    let plain = config(&["--cert-file=c", "--key-file=k", "--client-cert-auth"]).warnings;
    assert_eq!(plain.len(), 2, "{plain:?}");
    assert!(plain[0].contains("ignoring key and cert files for client url http://localhost:2379"));
    let old = "--cipher-suites=TLS_RSA_WITH_RC4_128_SHA,TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256";
    let warnings = config(&[old]).warnings;
    assert_eq!(
        warnings,
        [
            "--cipher-suites TLS_RSA_WITH_RC4_128_SHA are not spoken, since they are not safe; the others are"
        ]
    );
}

#[test]
fn flags_of_tls_that_make_no_sense_are_refused() {
    let both = "must both be present or both absent";
    for (args, line) in [
        (
            &["--cert-file=c"][..],
            &*format!("--cert-file and --key-file {both} (cert: \"c\", key: \"\")"),
        ),
        (
            &["--peer-client-key-file=k"],
            &*format!(
                "--peer-client-cert-file and --peer-client-key-file {both} (cert: \"\", key: \"k\")"
            ),
        ),
        (
            &["--peer-cert-allowed-cn=a", "--peer-cert-allowed-hostname=b,c"],
            "--peer-cert-allowed-cn and --peer-cert-allowed-hostname are mutually exclusive (cns=[\"a\"], \
             hostnames=[\"b\", \"c\"])",
        ),
        (
            &["--peer-auto-tls", "--self-signed-cert-validity=0"],
            "invalid value \"0\" for flag -self-signed-cert-validity: should be greater than 0, as \
             --peer-auto-tls is given",
        ),
        (
            &["--tls-min-version=TLS1.1"],
            "invalid value \"TLS1.1\" for flag -tls-min-version: unexpected TLS version \"TLS1.1\" (must be \
             one of: TLS1.2, TLS1.3)",
        ),
        (
            &["--tls-min-version=TLS1.3", "--tls-max-version=TLS1.2"],
            "min version (TLS1.3) is greater than max version (TLS1.2)",
        ),
        (
            &["--tls-min-version=TLS1.3", "--cipher-suites=TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256"],
            "cipher suites cannot be configured when only TLS1.3 is enabled",
        ),
        (
            &["--cipher-suites=X"],
            "invalid value \"X\" for flag -cipher-suites: unexpected TLS cipher suite \"X\"",
        ),
    ] {
        assert_eq!(complaint(args), line);
    }
}

#[test]
fn several_urls_are_sorted_and_taken_once() {
    let c = config(&[
        "--listen-client-urls=http://127.0.0.1:3,http://0.0.0.0:2,unix:/tmp/s,http://127.0.0.1:3",
        "--advertise-client-urls=https://etcd.example.com:2379",
    ]);
    let expected = ["http://0.0.0.0:2", "http://127.0.0.1:3", "unix:/tmp/s"];
    assert_eq!(texts(&c.listen_client_urls), expected);
    assert_eq!(texts(&c.advertise_client_urls), ["https://etcd.example.com:2379"]);
}

#[test]
fn who_listens_elsewhere_must_say_where_clients_find_it() {
    let line = "--advertise-client-urls is required when --listen-client-urls is set explicitly"
        .to_owned();
    assert_eq!(complaint(&["--listen-client-urls=http://127.0.0.1:1"]), line);
    let env = [("ETCD_LISTEN_CLIENT_URLS", "http://127.0.0.1:1")];
    assert_eq!(parse_env(&[], &env).unwrap_err().to_string(), line);
    let both = [env[0], ("ETCD_ADVERTISE_CLIENT_URLS", "http://127.0.0.1:1")];
    assert!(parse_env(&[], &both).is_ok());
}

#[test]
fn what_is_advertised_needs_a_host() {
    for flag in ["advertise-client-urls", "initial-advertise-peer-urls"] {
        assert_eq!(
            complaint(&[&format!("--{flag}=http://:1")]),
            format!(
                "invalid value \"http://:1\" for flag -{flag}: unexpected empty host (http://:1)"
            )
        );
    }
}

#[test]
fn elections_need_time_for_five_heartbeats_and_at_most_fifty_seconds() {
    let timing = |heartbeat: &str, election: &str| {
        parse(&["--heartbeat-interval", heartbeat, "--election-timeout", election])
    };
    for (heartbeat, election) in [("100", "500"), ("1", "5"), ("10000", "50000")] {
        assert!(timing(heartbeat, election).is_ok(), "{heartbeat} {election}");
    }
    for (heartbeat, election, expected) in [
        ("0", "1000", "--heartbeat-interval must be >0 (set to 0ms)"),
        ("100", "0", "--election-timeout must be >0 (set to 0ms)"),
        (
            "100",
            "499",
            "--election-timeout[499ms] should be at least as 5 times as --heartbeat-interval[100ms]",
        ),
        (
            "18446744073709551615",
            "1000",
            "--election-timeout[1000ms] should be at least as 5 times as --heartbeat-interval[18446744073709551615ms]",
        ),
        (
            "100",
            "50001",
            "--election-timeout[50001ms] is too long, and should be set less than 50000ms",
        ),
    ] {
        let error = timing(heartbeat, election).unwrap_err().to_string();
        assert_eq!(error, expected, "{heartbeat} {election}");
    }
}

#[test]
fn a_quota_of_zero_is_two_gibibytes_and_a_negative_one_is_none() {
    for (flag, shown, limit) in [
        ("0", 2_147_483_648, Some(2_147_483_648)),
        ("1000", 1000, Some(1000)),
        ("-1", -1, None),
        ("109951162777600", 109_951_162_777_600, Some(109_951_162_777_600)),
    ] {
        let c = config(&["--quota-backend-bytes", flag]);
        assert_eq!((c.quota_backend_bytes, c.quota_bytes()), (shown, limit), "{flag}");
    }
}

#[test]
fn retention_is_a_time_or_a_number_of_revisions() {
    let with = |mode: &str, retention: &str| {
        parse(&["--auto-compaction-mode", mode, "--auto-compaction-retention", retention])
    };
    let periodic = |retention_ms| AutoCompaction::Periodic { retention_ms };
    for (mode, retention, expected) in [
        ("periodic", "0", AutoCompaction::Off),
        ("periodic", "0s", AutoCompaction::Off),
        ("periodic", "1", periodic(3_600_000)),
        ("periodic", "72h", periodic(259_200_000)),
        ("periodic", "1h30m", periodic(5_400_000)),
        ("periodic", "100ms", periodic(100)),
        ("revision", "0", AutoCompaction::Off),
        ("revision", "1000", AutoCompaction::Revision { retention: 1000 }),
    ] {
        assert_eq!(run(with(mode, retention)).auto_compaction, expected, "{mode} {retention}");
    }
    for (mode, retention, rule) in [
        ("periodic", "", "must be a duration such as 100ms, 10s or 1h30m"),
        ("periodic", "1d", "must be a duration such as 100ms, 10s or 1h30m (unknown unit \"d\")"),
        ("periodic", "-1h", "must not be negative"),
        ("periodic", "9223372036854775807", "is too long"),
        ("revision", "1h", "must be a number of revisions, as --auto-compaction-mode is revision"),
        ("revision", "-5", "must be a number of revisions, as --auto-compaction-mode is revision"),
    ] {
        let expected =
            format!("invalid value {retention:?} for flag -auto-compaction-retention: {rule}");
        assert_eq!(with(mode, retention).unwrap_err().to_string(), expected);
    }
    assert_eq!(
        with("never", "1").unwrap_err().to_string(),
        "invalid value \"never\" for flag -auto-compaction-mode: must be one of periodic, revision"
    );
}

#[test]
fn progress_intervals_below_the_least_are_raised_with_a_warning() {
    for (given, ms, warned) in
        [("1m", 60_000, false), ("100ms", 100, false), ("99ms", 100, true), ("0", 100, true)]
    {
        let c = config(&["--watch-progress-notify-interval", given]);
        assert_eq!(c.watch_progress_notify_interval_ms, ms, "{given}");
        assert_eq!(!c.warnings.is_empty(), warned, "{given}: {:?}", c.warnings);
    }
}

#[test]
fn a_request_must_fit_into_the_log_and_large_ones_are_warned_of() {
    let with = |bytes: &str| config(&["--max-request-bytes", bytes]);
    assert_eq!(with("10485760").warnings, Vec::<String>::new());
    let warned = "--max-request-bytes 10485761 is above the recommended 10485760: large requests hold up all others";
    assert_eq!(with("10485761").warnings, [warned]);
    assert_eq!(with("536870912").max_request_bytes, 536_870_912);
    assert_eq!(
        complaint(&["--max-request-bytes=536870913"]),
        "invalid value \"536870913\" for flag -max-request-bytes: must be at most 536870912 (512 MiB), to fit into the log"
    );
}

#[test]
fn a_snapshot_count_of_zero_is_the_default() {
    assert_eq!(config(&["--snapshot-count=0"]).snapshot_count, 10_000);
    assert_eq!(config(&["--snapshot-count=5"]).snapshot_count, 5);
}

#[test]
fn the_data_directory_follows_the_name() {
    assert_eq!(config(&["--name=m1"]).data_dir, PathBuf::from("m1.etcd"));
    let c = config(&["--name=m1", "--data-dir=/var/lib/etcd", "--wal-dir=/fast/wal"]);
    assert_eq!(c.data_dir, PathBuf::from("/var/lib/etcd"));
    assert_eq!(c.wal_dir, Some(PathBuf::from("/fast/wal")));
}

#[test]
fn logs_go_where_and_how_they_are_told() {
    for (name, level) in [
        ("debug", LogLevel::Debug),
        ("info", LogLevel::Info),
        ("warn", LogLevel::Warn),
        ("error", LogLevel::Error),
        ("panic", LogLevel::Panic),
        ("fatal", LogLevel::Fatal),
        ("INFO", LogLevel::Info),
    ] {
        assert_eq!(config(&["--log-level", name]).log.level, level, "{name}");
    }
    assert_eq!(config(&["--log-format=console"]).log.format, LogFormat::Console);
    let file = |path: &str| LogOutput::File(PathBuf::from(path));
    for (flag, outputs) in [
        ("default", vec![LogOutput::Stderr]),
        ("", vec![LogOutput::Stderr]),
        ("systemd/journal", vec![LogOutput::Stderr]),
        ("stdout,stderr,stdout", vec![LogOutput::Stderr, LogOutput::Stdout]),
        ("stderr,/var/log/etcd.log", vec![LogOutput::Stderr, file("/var/log/etcd.log")]),
        ("stderr,/dev/null", vec![file("/dev/null")]),
    ] {
        assert_eq!(config(&["--log-outputs", flag]).log.outputs, outputs, "{flag}");
    }
    for (args, expected) in [
        (
            ["--log-level", "loud"],
            "invalid value \"loud\" for flag -log-level: must be one of debug, info, warn, error, panic, fatal",
        ),
        (
            ["--log-format", "xml"],
            "invalid value \"xml\" for flag -log-format: must be one of json, console",
        ),
        (
            ["--log-outputs", "default,stdout"],
            "invalid value \"default,stdout\" for flag -log-outputs: default cannot be one of several outputs",
        ),
        (["--logger", "capnslog"], "unknown logger option \"capnslog\" for --logger"),
    ] {
        assert_eq!(complaint(&args), expected);
    }
}

#[test]
fn a_cluster_is_found_in_one_way_only() {
    let discovery = ["--discovery-token=t", "--discovery-endpoints=b:1, a:2,b:1"];
    let c = config(&discovery);
    let found = c.discovery.unwrap();
    assert_eq!((found.token.as_str(), found.endpoints), ("t", vec!["a:2".into(), "b:1".into()]));
    assert!(found.insecure_transport && !found.insecure_skip_verify);
    assert_eq!((found.dial_timeout_ms, found.request_timeout_ms), (2_000, 5_000));
    assert_eq!((found.user.as_str(), config(&[]).discovery), ("", None));

    let with = |args: &[&'static str]| [&discovery[..], args].concat();
    let named = config(&with(&["--discovery-user=u:p:q"])).discovery.unwrap();
    assert_eq!((named.user.as_str(), named.password.as_str()), ("u", "p:q"));
    let apart = config(&with(&["--discovery-user=u:p", "--discovery-password=q"]));
    let apart = apart.discovery.unwrap();
    assert_eq!((apart.user.as_str(), apart.password.as_str()), ("u:p", "q"));

    let several = "multiple discovery or bootstrap flags are set. Choose one of \"initial-cluster\", \
                   \"discovery-endpoints\", or \"discovery-srv\"";
    assert_eq!(complaint(&with(&["--initial-cluster=default=http://a:1"])), several);
    assert_eq!(complaint(&with(&["--discovery-srv=example"])), several);
    let both = "both --discovery-token and --discovery-endpoints must be set";
    assert_eq!(complaint(&["--discovery-token=t"]), both);
    assert_eq!(complaint(&["--discovery-endpoints=a:1"]), both);
    assert_eq!(
        complaint(&["--discovery-token=t", "--discovery-endpoints=a:1,"]),
        "--discovery-endpoints must not contain empty endpoints"
    );
    assert_eq!(
        complaint(&["--discovery-fallback=proxy"]),
        "v2 proxy is deprecated, and --discovery-fallback can't be configured as \"proxy\""
    );
}

#[test]
fn discovery_stands_in_maps_of_a_file() {
    let text = "discovery-config:
  token: t
  client:
    endpoints: [a:1, b:2]
    request-timeout: 3000000000
    secure: {cacert: ca.pem, insecure-transport: false, server-name: x}
    auth: {username: u, password: p}
";
    let c = from_file(text).unwrap();
    let found = c.discovery.unwrap();
    assert_eq!((found.token.as_str(), found.endpoints), ("t", vec!["a:1".into(), "b:2".into()]));
    assert_eq!((found.request_timeout_ms, found.insecure_transport), (3_000, false));
    assert_eq!(found.cacert.as_deref(), Some(Path::new("ca.pem")));
    assert_eq!((found.user.as_str(), found.password.as_str()), ("u", "p"));
    assert!(c.warnings.iter().any(|warning| warning.contains("client: secure: server-name")));
}

#[test]
fn flags_without_effect_are_taken_with_one_warning_each() {
    for flag in flags::FLAGS.iter().filter(|f| matches!(f.effect, flags::Effect::None(_))) {
        let value = match flag.kind {
            value::Kind::Bool if flag.default == "true" => "false",
            value::Kind::Bool => "true",
            value::Kind::Duration => "77s",
            value::Kind::OneOf(names) => names[names.len() - 1],
            _ => "77",
        };
        let warnings = config(&[&format!("--{}={value}", flag.name)]).warnings;
        let head = format!("--{} {value:?} has no effect: ", flag.name);
        assert!(warnings.len() == 1 && warnings[0].starts_with(&head), "{warnings:?}");
        let default = format!("--{}={}", flag.name, flag.default);
        assert_eq!(config(&[&default]).warnings, Vec::<String>::new(), "{default}");
    }
}

#[test]
fn flags_that_etcd_itself_ignores_are_ignored() {
    let c = config(&["--vv", "true", "--snapshot=x", "--name=m"]);
    let warnings =
        ["--snapshot is no longer supported - ignoring", "--vv is no longer supported - ignoring"];
    assert_eq!(c.warnings, warnings);
    assert_eq!(c.name, "m");
}

#[test]
fn spellings_of_older_versions_are_understood() {
    let c = config(&["--experimental-watch-progress-notify-interval=30s"]);
    assert_eq!(c.watch_progress_notify_interval_ms, 30_000);
    assert_eq!(
        c.warnings,
        [
            "--experimental-watch-progress-notify-interval is the old name of --watch-progress-notify-interval"
        ]
    );
    let c = config(&["--experimental-initial-corrupt-check", "--name=m"]);
    assert_eq!(c.name, "m");
    assert_eq!(c.warnings, ["--experimental-initial-corrupt-check has no effect"]);
    let env = [("ETCD_EXPERIMENTAL_ENABLE_LEASE_CHECKPOINT", "true")];
    let warnings = run(parse_env(&[], &env)).warnings;
    assert_eq!(warnings, ["ETCD_EXPERIMENTAL_ENABLE_LEASE_CHECKPOINT has no effect"]);
}

#[test]
fn feature_gates_are_known_and_without_effect() {
    let gates = |text: &str| parse(&["--feature-gates", text]);
    assert_eq!(run(gates("FastLeaseKeepAlive=true, AllBeta=false")).warnings, Vec::<String>::new());
    assert_eq!(
        run(gates("InitialCorruptCheck=true")).warnings,
        ["--feature-gates InitialCorruptCheck=true has no effect"]
    );
    for (text, rule) in [
        ("Nope=true", "unrecognized feature gate: Nope"),
        ("AllBeta", "missing bool value for AllBeta"),
        ("AllBeta=x", "must be true or false (AllBeta)"),
    ] {
        assert_eq!(
            gates(text).unwrap_err().to_string(),
            format!("invalid value {text:?} for flag -feature-gates: {rule}")
        );
    }
}

#[test]
fn a_name_alone_makes_a_cluster_of_its_own() {
    let c = config(&["--name=m1", "--initial-advertise-peer-urls=http://b:2,http://a:1"]);
    assert_eq!(c.initial_cluster, "m1=http://a:1,m1=http://b:2");
    let urls = vec!["http://a:1".to_owned(), "http://b:2".to_owned()];
    assert_eq!(c.bootstrap_members(), Ok(vec![("m1".to_owned(), urls)]));
    let default = vec![("default".to_owned(), vec!["http://localhost:2380".to_owned()])];
    assert_eq!(config(&[]).bootstrap_members(), Ok(default));
}

#[test]
fn the_initial_cluster_must_hold_this_member_as_it_advertises_itself() {
    let bootstrap = |args: &[&str]| config(args).bootstrap_members().unwrap_err().to_string();
    let cases: &[(&[&str], &str)] = &[
        (
            &["--name=m1", "--initial-cluster=m2=http://a:1"],
            "couldn't find local name \"m1\" in the initial cluster configuration",
        ),
        (
            &["--initial-cluster="],
            "couldn't find local name \"default\" in the initial cluster configuration",
        ),
        (
            &["--initial-advertise-peer-urls=http://a:1"],
            "--initial-cluster has default=http://localhost:2380 but missing from --initial-advertise-peer-urls=http://a:1",
        ),
        (
            &["--initial-advertise-peer-urls=http://localhost:2380,http://a:1"],
            "--initial-advertise-peer-urls has http://a:1 but missing from --initial-cluster=default=http://localhost:2380",
        ),
        (
            &["--initial-cluster=default=http://localhost:2380,b=http://localhost:2380"],
            "initial cluster default=http://localhost:2380,b=http://localhost:2380 has duplicate url",
        ),
        (
            &["--initial-cluster=default"],
            "invalid value \"default\" for flag -initial-cluster: URL scheme must be http, https, unix, or unixs: ",
        ),
    ];
    for (args, expected) in cases {
        assert_eq!(bootstrap(args), *expected, "{args:?}");
    }
    let same = config(&["--initial-advertise-peer-urls=http://127.0.0.1:2380"]);
    assert!(same.bootstrap_members().is_ok());
    let three = "b=http://b:1,default=http://localhost:2380,a=http://a:2,a=http://a:1";
    let members = config(&["--initial-cluster", three]).bootstrap_members().unwrap();
    let names: Vec<_> = members.iter().map(|(name, urls)| (name.as_str(), urls.len())).collect();
    assert_eq!(names, [("b", 1), ("default", 1), ("a", 2)]);
    // One who joins was announced with its URLs; what it advertises at its first start is moot.
    let joins = config(&[
        "--initial-cluster-state=existing",
        "--initial-cluster=default=http://10.0.0.1:2380,b=http://b:1",
    ]);
    assert_eq!(joins.bootstrap_members().unwrap().len(), 2);
}

#[test]
fn what_a_cluster_is_told_about_itself_is_obeyed() {
    let c = config(&[]);
    assert_eq!((c.snapshot_catchup_entries, c.max_learners), (5_000, 1));
    assert_eq!((c.strict_reconfig_check, c.corrupt_check_ms), (true, None));
    assert!(!c.force_new_cluster && config(&["--force-new-cluster"]).force_new_cluster);
    let c = config(&[
        "--snapshot-catchup-entries=7",
        "--max-learners=3",
        "--strict-reconfig-check=false",
        "--experimental-corrupt-check-time=10m",
    ]);
    assert_eq!((c.snapshot_catchup_entries, c.max_learners), (7, 3));
    assert_eq!((c.strict_reconfig_check, c.corrupt_check_ms), (false, Some(600_000)));
    let renamed = "--experimental-corrupt-check-time is the old name of --corrupt-check-time";
    assert_eq!(c.warnings, [renamed]);
}

fn from_file(text: &str) -> Result<Config, UsageError> {
    Config::from_file(Path::new("a.yaml"), text)
}

#[test]
fn a_file_has_all_of_the_configuration() {
    for asked in [
        parse(&["--config-file", "a.yaml", "--name", "ignored"]),
        parse_env(&[], &[("ETCD_CONFIG_FILE", "a.yaml"), ("ETCD_NAME", "ignored")]),
    ] {
        assert!(matches!(asked, Ok(Command::ReadFile(path)) if path == Path::new("a.yaml")));
    }
    let c = from_file(
        "name: m1\n\
         listen-client-urls: http://127.0.0.1:1,http://127.0.0.1:2\n\
         heartbeat-interval: 50\n\
         election-timeout: 500\n\
         watch-progress-notify-interval: 5000000000\n\
         unsafe-no-fsync: true\n\
         auto-compaction-retention: \"1h\"\n\
         log-outputs: [stdout, stderr]\n\
         nobody-knows: {this: [1, 2]}\n\
         quota-backend-bytes:\n",
    )
    .unwrap();
    assert_eq!((c.name.as_str(), c.heartbeat_interval_ms, c.election_timeout_ms), ("m1", 50, 500));
    assert_eq!(c.listen_client_urls.len(), 2);
    assert_eq!(c.watch_progress_notify_interval_ms, 5_000);
    assert!(c.unsafe_no_fsync);
    assert_eq!(c.auto_compaction, AutoCompaction::Periodic { retention_ms: 3_600_000 });
    assert_eq!(c.log.outputs.len(), 2);
    assert_eq!(c.quota_backend_bytes, QUOTA_DEFAULT_BYTES);
    assert!(c.warnings.iter().any(|line| line.contains("all other flags")), "{:?}", c.warnings);
    assert!(c.warnings.iter().any(|line| line.contains("nobody-knows")), "{:?}", c.warnings);
    assert_eq!(from_file("").unwrap().name, "default");
}

#[test]
fn whose_certificates_a_file_allows_is_obeyed_for_clients_as_for_members() {
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    let file = |of: &str, rule: &str| {
        let text = format!("{of}-transport-security:\n  client-cert-auth: true\n  {rule}\n");
        from_file(&text).unwrap()
    };
    for (key, value, expected) in [
        ("allowed-cn", "[alice, bob]", &["alice", "bob"][..]),
        ("allowed-cns", "[alice]", &["alice"]),
        ("allowed-cn", "alice", &["alice"]),
    ] {
        let rule = format!("{key}: {value}");
        let clients = file("client", &rule).client_security;
        let members = file("peer", &rule).peer_security;
        assert_eq!(clients.allowed_cns, names(expected), "{rule}");
        assert_eq!(members.allowed_cns, names(expected), "{rule}");
        let warnings = file("client", &rule).warnings;
        assert!(!warnings.iter().any(|line| line.contains("passed over")), "{warnings:?}");
    }
    for key in ["allowed-hostname", "allowed-hostnames"] {
        let rule = format!("{key}: [a.example, b.example]");
        let expected = names(&["a.example", "b.example"]);
        assert_eq!(file("client", &rule).client_security.allowed_hostnames, expected);
        assert_eq!(file("peer", &rule).peer_security.allowed_hostnames, expected);
    }
    let both = "client-transport-security: {allowed-cn: [a], allowed-hostname: [b]}";
    let error = from_file(both).unwrap_err().to_string();
    assert!(error.contains("are mutually exclusive (cns=[\"a\"], hostnames=[\"b\"])"), "{error}");
}

#[test]
fn a_map_in_a_file_that_nobody_knows_is_named_itself() {
    let c = from_file("discovery-config: {cli: {endpoints: a}}").unwrap();
    let named = |key: &str| c.warnings.iter().any(|line| line.contains(key));
    assert!(named("\"discovery-config: cli\"") && !named("endpoints"), "{:?}", c.warnings);
}

#[test]
fn what_is_wrong_in_a_file_is_named_in_one_line() {
    let cases = [
        ("name: [", "a.yaml: "),
        ("- name", "a.yaml: must be a map of flags to values"),
        ("max-txn-ops: many", "invalid value \"many\" for max-txn-ops of a.yaml: "),
        ("max-txn-ops: {a: b}", ""),
        ("election-timeout: 1", "--election-timeout[1ms] should be at least"),
    ];
    for (text, start) in cases {
        match from_file(text) {
            Err(error) => {
                let line = error.to_string();
                assert!(line.starts_with(start) && !line.contains('\n'), "{text}: {line}");
            }
            // A map where none belongs has keys that nobody knows.
            Ok(config) => assert!(start.is_empty() && config.warnings.len() == 2, "{text}"),
        }
    }
}

#[test]
fn what_is_shipped_for_operators_is_understood() {
    let c = from_file(include_str!("../../docs/deploy/ringd.yaml")).unwrap();
    assert_eq!(c.warnings.len(), 1, "{:?}", c.warnings);
    c.bootstrap_members().unwrap();
    let unit = include_str!("../../docs/deploy/ringd.service");
    let start = unit.lines().find_map(|line| line.strip_prefix("ExecStart=")).unwrap();
    let args: Vec<&str> = start.split(' ').skip(1).collect();
    assert!(matches!(parse(&args), Ok(Command::ReadFile(_))));
    let pod = include_str!("../../docs/deploy/kubeadm-etcd.yaml");
    let named = pod.lines().filter_map(|line| line.trim().strip_prefix("- --"));
    let names: Vec<&str> = named.map(|arg| arg.split('=').next().unwrap()).collect();
    assert!(names.len() > 15);
    for name in names {
        assert!(flags::find(name).is_some(), "--{name}");
    }
    let profile: serde_json::Value =
        serde_json::from_str(include_str!("../../docs/deploy/seccomp.json")).unwrap();
    let calls = profile["syscalls"][0]["names"].as_array().unwrap();
    for call in ["io_uring_setup", "io_uring_enter", "io_uring_register"] {
        assert!(calls.iter().any(|name| name == call), "{call}");
    }
}

#[test]
fn completions_and_the_manual_name_every_flag_that_is_obeyed() {
    let texts = [completion("bash"), completion("zsh"), completion("fish"), Ok(man())];
    for text in texts.map(Result::unwrap) {
        for flag in flags::FLAGS {
            if let flags::Effect::Obeyed(..) = flag.effect {
                let name = flag.name.replace('-', "\\-");
                assert!(text.contains(flag.name) || text.contains(&name), "{}: {text}", flag.name);
            }
        }
    }
    assert!(completion("tcsh").unwrap_err().to_string().contains("bash, zsh, fish"));
}

#[test]
fn a_log_is_rotated_if_it_is_one_file() {
    let c = config(&["--enable-log-rotation", "--log-outputs=/tmp/a.log"]);
    assert_eq!(c.log.rotation, Some(LogRotation::default()));
    let rules = r#"--log-rotation-config-json={"maxsize":5,"maxbackups":2,"compress":true}"#;
    let c = config(&["--enable-log-rotation", "--log-outputs=/tmp/a.log", rules]);
    let rotation = c.log.rotation.unwrap();
    assert_eq!((rotation.maxsize, rotation.maxbackups, rotation.compress), (5, 2, true));
    assert!(complaint(&["--enable-log-rotation"]).contains("needs --log-outputs to name one file"));
    let bad = "--log-rotation-config-json={";
    let line = complaint(&["--enable-log-rotation", "--log-outputs=/tmp/a.log", bad]);
    assert!(line.contains("no configuration of rotation"), "{line}");
    assert_eq!(config(&["--log-outputs=/tmp/a.log"]).log.rotation, None);
}
