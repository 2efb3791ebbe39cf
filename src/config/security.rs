//! The flags of TLS: files, and rules for them. The files are read elsewhere.

use std::path::PathBuf;

use super::args::Settings;
use super::{Url, UsageError, err};
use crate::tls::{Policy, Version, read_suites, read_version};

/// Of one kind of connection: with clients, or between members.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Security {
    /// Certificate and key, for who dials us; and for dialling, if there is no other.
    pub certificate: Option<(PathBuf, PathBuf)>,
    pub client_certificate: Option<(PathBuf, PathBuf)>,
    pub trusted_ca_file: Option<PathBuf>,
    pub crl_file: Option<PathBuf>,
    pub client_cert_auth: bool,
    /// A certificate is made when there is none.
    pub auto: bool,
    pub allowed_cns: Vec<String>,
    pub allowed_hostnames: Vec<String>,
    /// Whoever dials us may come from an address that its certificate does not name.
    pub skip_client_san_verification: bool,
}

/// What each flag is called for one kind of connection.
struct Names {
    cert_file: &'static str,
    key_file: &'static str,
    client_cert_file: &'static str,
    client_key_file: &'static str,
    trusted_ca_file: &'static str,
    crl_file: &'static str,
    client_cert_auth: &'static str,
    auto: &'static str,
    allowed_cn: &'static str,
    allowed_hostname: &'static str,
    skip_san: Option<&'static str>,
    /// For messages.
    who: &'static str,
}

const CLIENT: Names = Names {
    cert_file: "cert-file",
    key_file: "key-file",
    client_cert_file: "client-cert-file",
    client_key_file: "client-key-file",
    trusted_ca_file: "trusted-ca-file",
    crl_file: "client-crl-file",
    client_cert_auth: "client-cert-auth",
    auto: "auto-tls",
    // etcd has it in a file alone, without a flag.
    allowed_cn: "ringd-client-cert-allowed-cn",
    allowed_hostname: "client-cert-allowed-hostname",
    skip_san: None,
    who: "client",
};

const PEER: Names = Names {
    cert_file: "peer-cert-file",
    key_file: "peer-key-file",
    client_cert_file: "peer-client-cert-file",
    client_key_file: "peer-client-key-file",
    trusted_ca_file: "peer-trusted-ca-file",
    crl_file: "peer-crl-file",
    client_cert_auth: "peer-client-cert-auth",
    auto: "peer-auto-tls",
    allowed_cn: "peer-cert-allowed-cn",
    allowed_hostname: "peer-cert-allowed-hostname",
    skip_san: Some("peer-skip-client-san-verification"),
    who: "peer",
};

pub fn client(
    s: &Settings,
    urls: &[&[Url]],
    warnings: &mut Vec<String>,
) -> Result<Security, UsageError> {
    read(s, &CLIENT, urls, warnings)
}

pub fn peer(
    s: &Settings,
    urls: &[&[Url]],
    warnings: &mut Vec<String>,
) -> Result<Security, UsageError> {
    read(s, &PEER, urls, warnings)
}

/// `urls`: where is listened.
fn read(
    s: &Settings,
    names: &Names,
    urls: &[&[Url]],
    warnings: &mut Vec<String>,
) -> Result<Security, UsageError> {
    let mut security = Security {
        certificate: pair(s, names.cert_file, names.key_file)?,
        client_certificate: pair(s, names.client_cert_file, names.client_key_file)?,
        trusted_ca_file: path(s, names.trusted_ca_file),
        crl_file: path(s, names.crl_file),
        client_cert_auth: s.bool(names.client_cert_auth),
        auto: s.bool(names.auto),
        allowed_cns: list(s, names.allowed_cn),
        allowed_hostnames: list(s, names.allowed_hostname),
        skip_client_san_verification: names.skip_san.is_some_and(|name| s.bool(name)),
    };
    if security.auto && security.certificate.is_some() {
        warnings.push(format!("ignoring {} auto TLS since certs given", names.who));
        security.auto = false;
    }
    if security.auto && s.uint("self-signed-cert-validity") == 0 {
        let rule = format!("should be greater than 0, as --{} is given", names.auto);
        return Err(s.invalid("self-signed-cert-validity", &rule));
    }
    if !security.allowed_cns.is_empty() && !security.allowed_hostnames.is_empty() {
        return Err(err(format!(
            "--{} and --{} are mutually exclusive (cns={:?}, hostnames={:?})",
            names.allowed_cn,
            names.allowed_hostname,
            security.allowed_cns,
            security.allowed_hostnames
        )));
    }
    let asks = security.client_cert_auth || security.trusted_ca_file.is_some();
    for (flag, given) in [
        (names.allowed_cn, !security.allowed_cns.is_empty()),
        (names.allowed_hostname, !security.allowed_hostnames.is_empty()),
        (names.crl_file, security.crl_file.is_some()),
    ] {
        if given && !asks {
            warnings.push(format!(
                "--{flag} is not applied to who connects: no certificate is asked for without --{} or --{}",
                names.client_cert_auth, names.trusted_ca_file
            ));
        }
    }
    for url in urls.iter().copied().flatten() {
        let has_certificate = security.certificate.is_some() || security.auto;
        if url.is_tls() && !has_certificate {
            return Err(err(format!(
                "TLS key/cert (--{}, --{}) must be provided for {} url {url} with HTTPS scheme",
                names.cert_file, names.key_file, names.who
            )));
        }
        if !url.is_tls() && has_certificate {
            warnings.push(format!(
                "scheme is http or unix while key and cert files are present; ignoring key and cert files \
                 for {} url {url}",
                names.who
            ));
        }
        if !url.is_tls() && security.client_cert_auth {
            warnings.push(format!(
                "scheme is http or unix while --{} is enabled; ignoring client cert auth for {} url {url}",
                names.client_cert_auth, names.who
            ));
        }
    }
    Ok(security)
}

pub fn policy(s: &Settings, warnings: &mut Vec<String>) -> Result<Policy, UsageError> {
    let version = |flag: &str, default| {
        read_version(s.text(flag), default).map_err(|rule| s.invalid(flag, &rule))
    };
    let min = version("tls-min-version", Version::Tls12)?;
    let max = version("tls-max-version", Version::Tls13)?;
    let suites = read_suites(s.text("cipher-suites"));
    let (spoken, unspoken) =
        suites.map_err(|error| s.invalid("cipher-suites", &error.to_string()))?;
    if !unspoken.is_empty() {
        warnings.push(format!(
            "--cipher-suites {} are not spoken, since they are not safe; the others are",
            unspoken.join(",")
        ));
    }
    Policy::new(min, max, spoken).map_err(|error| err(error.to_string()))
}

fn path(s: &Settings, flag: &str) -> Option<PathBuf> {
    Some(s.text(flag)).filter(|text| !text.is_empty()).map(PathBuf::from)
}

fn list(s: &Settings, flag: &str) -> Vec<String> {
    let names = s.text(flag).split(',').map(str::trim).filter(|name| !name.is_empty());
    names.map(str::to_owned).collect()
}

fn pair(
    s: &Settings,
    certificate: &str,
    key: &str,
) -> Result<Option<(PathBuf, PathBuf)>, UsageError> {
    match (path(s, certificate), path(s, key)) {
        (Some(certificate), Some(key)) => Ok(Some((certificate, key))),
        (None, None) => Ok(None),
        _ => Err(err(format!(
            "--{certificate} and --{key} must both be present or both absent (cert: {:?}, key: {:?})",
            s.text(certificate),
            s.text(key)
        ))),
    }
}
