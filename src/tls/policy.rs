//! Versions and cipher suites, by the names that Go gives them, since those are what the flags take.

use std::sync::Arc;

use rustls::crypto::{CryptoProvider, ring};
use rustls::{CipherSuite, SupportedCipherSuite, SupportedProtocolVersion};

/// TLS 1.0 and 1.1 are taken by nobody here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    Tls12,
    Tls13,
}

/// Empty is the default of that end. The error is the rule, in etcd's words.
pub fn read_version(text: &str, default: Version) -> Result<Version, String> {
    match text {
        "" => Ok(default),
        "TLS1.2" => Ok(Version::Tls12),
        "TLS1.3" => Ok(Version::Tls13),
        _ => Err(format!("unexpected TLS version {text:?} (must be one of: TLS1.2, TLS1.3)")),
    }
}

/// The suites of TLS 1.2 that are spoken here, best first.
const SUITES: [(&str, CipherSuite); 6] = [
    (
        "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256",
        CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
    ),
    ("TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256", CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256),
    (
        "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384",
        CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
    ),
    ("TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384", CipherSuite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384),
    (
        "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256",
        CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
    ),
    (
        "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256",
        CipherSuite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
    ),
];

/// Names that Go knows besides, of suites of TLS 1.3, which no flag chooses among.
const SUITES_13: [&str; 3] =
    ["TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256"];

/// Names that Go knows and nobody should: without forward secrecy, or with CBC, RC4 or 3DES.
const SUITES_OLD: [&str; 15] = [
    "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA",
    "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA256",
    "TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA",
    "TLS_ECDHE_ECDSA_WITH_RC4_128_SHA",
    "TLS_ECDHE_RSA_WITH_3DES_EDE_CBC_SHA",
    "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA",
    "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA256",
    "TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA",
    "TLS_ECDHE_RSA_WITH_RC4_128_SHA",
    "TLS_RSA_WITH_3DES_EDE_CBC_SHA",
    "TLS_RSA_WITH_AES_128_CBC_SHA",
    "TLS_RSA_WITH_AES_128_CBC_SHA256",
    "TLS_RSA_WITH_AES_128_GCM_SHA256",
    "TLS_RSA_WITH_AES_256_CBC_SHA",
    "TLS_RSA_WITH_AES_256_GCM_SHA384",
];

/// See [`SUITES_OLD`].
const SUITE_OLDEST: &str = "TLS_RSA_WITH_RC4_128_SHA";

/// What both ends of all connections keep to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    pub min: Version,
    pub max: Version,
    /// Of TLS 1.2, in the order of preference; all of them if empty.
    pub suites: Vec<CipherSuite>,
}

impl Default for Policy {
    fn default() -> Policy {
        Policy { min: Version::Tls12, max: Version::Tls13, suites: Vec::new() }
    }
}

/// Why versions and suites do not go together.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    #[error("unexpected TLS cipher suite {0:?}")]
    UnknownSuite(String),
    #[error("none of the cipher suites {0} is spoken; spoken are {1}")]
    NoSuite(String, String),
    #[error("min version ({0}) is greater than max version ({1})")]
    MinAboveMax(&'static str, &'static str),
    #[error("cipher suites cannot be configured when only TLS1.3 is enabled")]
    SuitesWithout12,
}

/// The suites that are spoken of those named, and the names of those that are not.
pub fn read_suites(names: &str) -> Result<(Vec<CipherSuite>, Vec<String>), PolicyError> {
    let (mut spoken, mut unspoken) = (Vec::new(), Vec::new());
    let names: Vec<&str> = names.split(',').filter(|name| !name.is_empty()).collect();
    for &name in &names {
        let by_name = |(known, _): &&(&str, CipherSuite)| {
            *known == name
                || known.strip_suffix("_SHA256") == Some(name) && name.ends_with("POLY1305")
        };
        if let Some((_, suite)) = SUITES.iter().find(by_name) {
            spoken.push(*suite);
        } else if SUITES_OLD.contains(&name) || name == SUITE_OLDEST {
            unspoken.push(name.to_owned());
        } else if !SUITES_13.contains(&name) {
            return Err(PolicyError::UnknownSuite(name.to_owned()));
        }
    }
    if spoken.is_empty() && !unspoken.is_empty() {
        let all: Vec<_> = SUITES.iter().map(|(name, _)| *name).collect();
        return Err(PolicyError::NoSuite(unspoken.join(","), all.join(",")));
    }
    Ok((spoken, unspoken))
}

impl Version {
    fn name(self) -> &'static str {
        match self {
            Version::Tls12 => "TLS1.2",
            Version::Tls13 => "TLS1.3",
        }
    }
}

impl Policy {
    pub fn new(
        min: Version,
        max: Version,
        suites: Vec<CipherSuite>,
    ) -> Result<Policy, PolicyError> {
        if min > max {
            return Err(PolicyError::MinAboveMax(min.name(), max.name()));
        }
        if min == Version::Tls13 && !suites.is_empty() {
            return Err(PolicyError::SuitesWithout12);
        }
        Ok(Policy { min, max, suites })
    }

    pub fn provider(&self) -> Arc<CryptoProvider> {
        let mut provider = ring::default_provider();
        if !self.suites.is_empty() {
            let all = std::mem::take(&mut provider.cipher_suites);
            let is_13 = |suite: &&SupportedCipherSuite| suite.tls13().is_some();
            provider.cipher_suites = all.iter().filter(is_13).copied().collect();
            for wanted in &self.suites {
                provider.cipher_suites.extend(all.iter().find(|suite| suite.suite() == *wanted));
            }
        }
        Arc::new(provider)
    }

    pub fn versions(&self) -> Vec<&'static SupportedProtocolVersion> {
        let all =
            [(Version::Tls13, &rustls::version::TLS13), (Version::Tls12, &rustls::version::TLS12)];
        let wanted = all.iter().filter(|(version, _)| (self.min..=self.max).contains(version));
        wanted.map(|(_, version)| *version).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_the_two_that_etcd_names() {
        assert_eq!(read_version("", Version::Tls13), Ok(Version::Tls13));
        assert_eq!(read_version("TLS1.2", Version::Tls13), Ok(Version::Tls12));
        for old in ["TLS1.0", "TLS1.1", "tls1.2", "1.3"] {
            let error = read_version(old, Version::Tls12).unwrap_err();
            let expected =
                format!("unexpected TLS version {old:?} (must be one of: TLS1.2, TLS1.3)");
            assert_eq!(error, expected);
        }
    }

    #[test]
    fn suites_have_gos_names_and_old_ones_are_left_out() {
        let named = "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,TLS_RSA_WITH_AES_128_CBC_SHA,\
                     TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305,TLS_AES_128_GCM_SHA256";
        let (spoken, unspoken) = read_suites(named).unwrap();
        assert_eq!(
            spoken,
            [
                CipherSuite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
                CipherSuite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256
            ]
        );
        assert_eq!(unspoken, ["TLS_RSA_WITH_AES_128_CBC_SHA"]);
        let unknown = read_suites("TLS_NONSENSE").unwrap_err();
        assert_eq!(unknown.to_string(), "unexpected TLS cipher suite \"TLS_NONSENSE\"");
        let none = read_suites("TLS_RSA_WITH_RC4_128_SHA").unwrap_err().to_string();
        assert!(none.starts_with("none of the cipher suites TLS_RSA_WITH_RC4_128_SHA"), "{none}");
        assert_eq!(read_suites(""), Ok((Vec::new(), Vec::new())));
    }

    #[test]
    fn versions_and_suites_must_go_together() {
        let suites = vec![CipherSuite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384];
        assert_eq!(
            Policy::new(Version::Tls13, Version::Tls12, Vec::new()).unwrap_err().to_string(),
            "min version (TLS1.3) is greater than max version (TLS1.2)"
        );
        assert_eq!(
            Policy::new(Version::Tls13, Version::Tls13, suites.clone()),
            Err(PolicyError::SuitesWithout12)
        );
        let policy = Policy::new(Version::Tls12, Version::Tls13, suites.clone()).unwrap();
        assert_eq!(policy.versions().len(), 2);
        let provider = policy.provider();
        let suites_of = |is_13: bool| -> Vec<CipherSuite> {
            let all = provider.cipher_suites.iter();
            let wanted = all.filter(|suite| suite.tls13().is_some() == is_13);
            wanted.map(SupportedCipherSuite::suite).collect()
        };
        assert_eq!(suites_of(true).len(), 3, "no flag chooses among the suites of TLS 1.3");
        assert_eq!(suites_of(false), suites);
    }
}
