//! The files of one kind of connection.
//!
//! A thread looks at them twice a second and reads them when they have changed: so neither the loop nor a handshake
//! waits for a file system. A set that cannot be used is logged once, and the one in use stays.

use crate::config::{Address, Config, Security, Url};
use crate::shell::clock::unix_ms;
use crate::shell::files;
use crate::shell::limits::CERTIFICATE_LOOK_PERIOD;
use crate::tls::{
    self, Content, Contents, Material, Pair, Policy, Reload, Role, Rules, Stamp, Step,
};
use rustls::pki_types::CertificateDer;
use std::fmt::Write;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Client,
    Peer,
}

/// What new connections of one kind are made with, and where it comes from.
pub struct Transport {
    kind: Kind,
    source: Source,
    current: Mutex<Arc<Material>>,
    /// Of the files, when they were read.
    stamps: Vec<Stamp>,
    reloads: AtomicU64,
    refused: AtomicU64,
    handshakes: AtomicU64,
    rejected: AtomicU64,
}

impl Kind {
    pub fn name(self) -> &'static str {
        match self {
            Kind::Client => "client",
            Kind::Peer => "peer",
        }
    }
}

struct Source {
    security: Security,
    policy: Policy,
    rules: Rules,
    system_roots: Vec<CertificateDer<'static>>,
}

impl Transport {
    pub fn open(kind: Kind, config: &Config) -> Result<Transport, String> {
        let (security, urls, protocols): (_, Vec<&Url>, Vec<&'static [u8]>) = match kind {
            Kind::Client => {
                let metrics = &config.listen_metrics_urls;
                let urls = config.listen_client_urls.iter().chain(metrics).collect();
                (&config.client_security, urls, vec![b"h2", b"http/1.1"])
            }
            Kind::Peer => {
                let others = &config.initial_advertise_peer_urls;
                let urls = config.listen_peer_urls.iter().chain(others).collect();
                (&config.peer_security, urls, Vec::new())
            }
        };
        let dials = kind == Kind::Peer
            && (urls.iter().any(|url| url.is_tls()) || config.initial_cluster.contains("https://"));
        let trusts_system = security.trusted_ca_file.is_none()
            && !security.auto
            && (dials || security.client_cert_auth);
        let source = Source {
            security: security.clone(),
            policy: config.tls.clone(),
            rules: Rules {
                client_cert_auth: security.client_cert_auth,
                allowed_cns: security.allowed_cns.clone(),
                allowed_hostnames: security.allowed_hostnames.clone(),
                is_self_signed: security.auto,
                protocols,
            },
            system_roots: if trusts_system { system_roots() } else { Vec::new() },
        };
        Transport::read(kind, source)
    }

    fn read(kind: Kind, source: Source) -> Result<Transport, String> {
        let stamps = source.stamps();
        let material = source.read()?;
        Ok(Transport {
            kind,
            source,
            current: Mutex::new(Arc::new(material)),
            stamps,
            reloads: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            handshakes: AtomicU64::new(0),
            rejected: AtomicU64::new(0),
        })
    }

    /// With the certificate that it was told to make for itself: the one that is there from an earlier start, or a
    /// new one.
    pub fn with_own_certificate(
        self,
        config: &Config,
        data_dir: &Path,
    ) -> Result<Transport, String> {
        let Transport { kind, mut source, .. } = self;
        let (name, urls) = match kind {
            Kind::Client => ("client", &config.listen_client_urls),
            Kind::Peer => ("peer", &config.listen_peer_urls),
        };
        let dir = data_dir.join("fixtures").join(name);
        let pair = own_certificate(&dir, urls, config.self_signed_cert_years)
            .map_err(|error| format!("{}: {error}", dir.display()))?;
        source.security.certificate = Some(pair);
        Transport::read(kind, source)
    }

    pub fn is_to_make_certificate(&self) -> bool {
        self.source.security.auto && self.source.security.certificate.is_none()
    }

    /// What the next connection is made with.
    pub fn current(&self) -> Arc<Material> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether the common name of a client's certificate stands for a user.
    pub fn names_users(&self) -> bool {
        self.source.security.client_cert_auth
    }

    pub fn checks_addresses(&self) -> bool {
        self.kind == Kind::Peer && !self.source.security.skip_client_san_verification
    }

    /// For the log: the files, as etcd shows them.
    pub fn describe(&self) -> String {
        let security = &self.source.security;
        let pair = |pair: &Option<(PathBuf, PathBuf)>| match pair {
            Some((certificate, key)) => (show(certificate), show(key)),
            None => Default::default(),
        };
        let (certificate, key) = pair(&security.certificate);
        let (client_certificate, client_key) = pair(&security.client_certificate);
        let path = |path: &Option<PathBuf>| path.as_deref().map_or_else(String::new, show);
        format!(
            "cert = {certificate}, key = {key}, client-cert = {client_certificate}, client-key = {client_key}, \
             trusted-ca = {}, client-cert-auth = {}, crl-file = {}",
            path(&security.trusted_ca_file),
            security.client_cert_auth,
            path(&security.crl_file)
        )
    }

    /// Looks at the files for ever, in a thread of its own.
    pub fn watch(self: &Arc<Transport>) -> Result<(), String> {
        if self.stamps.is_empty() {
            return Ok(());
        }
        let transport = self.clone();
        let thread = std::thread::Builder::new().name("certificates".to_owned()).spawn(move || {
            let mut reload = Reload::new(transport.stamps.clone());
            loop {
                std::thread::sleep(CERTIFICATE_LOOK_PERIOD);
                transport.look(&mut reload);
            }
        });
        thread.map(drop).map_err(|error| format!("cannot start a thread: {error}"))
    }

    fn look(&self, reload: &mut Reload) {
        if reload.look(self.source.stamps()) == Step::Wait {
            return;
        }
        match self.source.read() {
            Ok(material) => {
                reload.took(self.source.stamps());
                *self.current.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(material);
                self.reloads.fetch_add(1, Ordering::Relaxed);
                tracing::info!(
                    kind = self.name(),
                    "certificates have changed; new connections use the new ones"
                );
            }
            Err(error) => {
                reload.refused();
                self.refused.fetch_add(1, Ordering::Relaxed);
                tracing::warn!(
                    kind = self.name(),
                    error,
                    "certificates have changed and cannot be used; the old ones stay in use"
                );
            }
        }
    }

    pub fn name(&self) -> &'static str {
        self.kind.name()
    }

    /// Notes how a handshake with somebody who dialled us has ended.
    pub fn count(&self, done: bool) {
        let counter = if done { &self.handshakes } else { &self.rejected };
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

type Counter = fn(&Transport) -> &AtomicU64;

/// Lines of metrics.
pub fn render(transports: &[&Transport]) -> String {
    let mut out = String::new();
    let mut family = |name: &str, kind: &str, help: &str, lines: Vec<(String, i64)>| {
        if !lines.is_empty() {
            let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
        }
        for (labels, value) in lines {
            let _ = writeln!(out, "{name}{{{labels}}} {value}");
        }
    };
    let now_s = i64::try_from(unix_ms() / 1000).unwrap_or(i64::MAX);
    let mut expiries = Vec::new();
    for transport in transports {
        let prefix = if transport.kind == Kind::Peer { "peer-" } else { "" };
        for (role, end_s) in &transport.current().ends {
            let file = match role {
                Role::Certificate => "cert-file",
                Role::ClientCertificate => "client-cert-file",
                Role::Trusted => "trusted-ca-file",
            };
            expiries.push((format!("file=\"{prefix}{file}\""), end_s - now_s));
        }
    }
    family(
        "ringd_tls_certificate_expiry_seconds",
        "gauge",
        "Time until the first certificate of a file expires.",
        expiries,
    );
    let counts = |of: [(&str, Counter); 2]| {
        let used = transports.iter().filter(|transport| transport.current().server.is_some());
        let lines = used.flat_map(|transport| {
            of.map(|(result, counter)| {
                let labels = format!("kind=\"{}\",result=\"{result}\"", transport.name());
                let count = counter(transport).load(Ordering::Relaxed);
                (labels, i64::try_from(count).unwrap_or(i64::MAX))
            })
        });
        lines.collect::<Vec<_>>()
    };
    family(
        "ringd_tls_reloads_total",
        "counter",
        "How often changed files of certificates were taken, or could not be.",
        counts([("taken", |t| &t.reloads), ("refused", |t| &t.refused)]),
    );
    family(
        "ringd_tls_handshakes_total",
        "counter",
        "Handshakes with those who dialled.",
        counts([("done", |t| &t.handshakes), ("rejected", |t| &t.rejected)]),
    );
    out
}

impl Source {
    fn paths(&self) -> Vec<&Path> {
        let security = &self.security;
        let pairs = [&security.certificate, &security.client_certificate];
        let paired = pairs.into_iter().flatten().flat_map(|(certificate, key)| [certificate, key]);
        let single = [&security.trusted_ca_file, &security.crl_file];
        paired.chain(single.into_iter().flatten()).map(PathBuf::as_path).collect()
    }

    fn stamps(&self) -> Vec<Stamp> {
        let stamp = |path: &Path| {
            let metadata = std::fs::metadata(path).ok()?;
            let changed_ns =
                i128::from(metadata.mtime()) * 1_000_000_000 + i128::from(metadata.mtime_nsec());
            Some((metadata.ino(), metadata.len(), changed_ns))
        };
        self.paths().into_iter().map(stamp).collect()
    }

    fn read(&self) -> Result<Material, String> {
        let read_pair = |pair: &Option<(PathBuf, PathBuf)>| match pair {
            Some((certificate, key)) => {
                Ok::<_, String>(Some(Pair { certificate: read(certificate)?, key: read(key)? }))
            }
            None => Ok(None),
        };
        let read_one = |path: &Option<PathBuf>| path.as_deref().map(read).transpose();
        let contents = Contents {
            certificate: read_pair(&self.security.certificate)?,
            client_certificate: read_pair(&self.security.client_certificate)?,
            trusted: read_one(&self.security.trusted_ca_file)?,
            revoked: read_one(&self.security.crl_file)?,
            system_roots: self.system_roots.clone(),
        };
        Material::new(&contents, &self.rules, &self.policy)
    }
}

fn show(path: &Path) -> String {
    path.display().to_string()
}

fn read(path: &Path) -> Result<Content, String> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(Content { path: show(path), bytes }),
        Err(error) => Err(format!("{}: {error}", path.display())),
    }
}

/// Whom the system trusts, where nobody else is named.
fn system_roots() -> Vec<CertificateDer<'static>> {
    let found = rustls_native_certs::load_native_certs();
    if let Some(error) = found.errors.first() {
        tracing::warn!(error = %error, "not all certificates that the system trusts could be read");
    }
    found.certs
}

/// `cert.pem` and `key.pem` in `dir`, as etcd names them.
fn own_certificate(dir: &Path, urls: &[Url], years: u32) -> Result<(PathBuf, PathBuf), String> {
    let text = |error: std::io::Error| error.to_string();
    let (certificate, key) = (dir.join("cert.pem"), dir.join("key.pem"));
    if certificate.exists() && key.exists() {
        return Ok((certificate, key));
    }
    let hosts = urls.iter().map(|url| match &url.address {
        Address::Tcp { host, .. } if !host.is_empty() => host.clone(),
        _ => "localhost".to_owned(),
    });
    let mut hosts: Vec<String> = hosts.collect();
    hosts.dedup();
    let now_s = i64::try_from(unix_ms() / 1000).unwrap_or(i64::MAX);
    let made = tls::self_signed(&hosts, years, now_s)?;
    files::create_dir_durably(dir).map_err(text)?;
    files::write_synced(&key, made.key.as_bytes()).map_err(text)?;
    files::write_synced(&certificate, made.certificate.as_bytes()).map_err(text)?;
    files::sync_dir(dir).map_err(text)?;
    tracing::warn!(
        path = show(&certificate),
        hosts = hosts.join(","),
        days = (made.not_after_s - now_s) / 86_400,
        "automatically generate certificates"
    );
    Ok((certificate, key))
}
