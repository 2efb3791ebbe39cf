//! A configuration file: YAML, whose keys are the names of flags.
//!
//! As in etcd: who names a file with `--config-file` or `ETCD_CONFIG_FILE` has everything in it, all other flags and
//! variables are ignored; durations are whole numbers of nanoseconds; what concerns TLS stands in two maps; keys that
//! nobody knows are passed over.

use serde_norway::{Mapping, Value};

use super::args::{Settings, Source};
use super::flags::{self, Spelling};
use super::value::Kind;
use super::{UsageError, err};

/// Key of a map, after those of the maps that it is in; key in it; flag.
const NESTED: &[(&str, &str, &str)] = &[
    ("client-transport-security", "cert-file", "cert-file"),
    ("client-transport-security", "key-file", "key-file"),
    ("client-transport-security", "client-cert-file", "client-cert-file"),
    ("client-transport-security", "client-key-file", "client-key-file"),
    ("client-transport-security", "client-cert-auth", "client-cert-auth"),
    ("client-transport-security", "trusted-ca-file", "trusted-ca-file"),
    ("client-transport-security", "auto-tls", "auto-tls"),
    ("client-transport-security", "allowed-cn", "ringd-client-cert-allowed-cn"),
    ("client-transport-security", "allowed-cns", "ringd-client-cert-allowed-cn"),
    ("client-transport-security", "allowed-hostname", "client-cert-allowed-hostname"),
    ("client-transport-security", "allowed-hostnames", "client-cert-allowed-hostname"),
    ("peer-transport-security", "cert-file", "peer-cert-file"),
    ("peer-transport-security", "key-file", "peer-key-file"),
    ("peer-transport-security", "client-cert-file", "peer-client-cert-file"),
    ("peer-transport-security", "client-key-file", "peer-client-key-file"),
    ("peer-transport-security", "client-cert-auth", "peer-client-cert-auth"),
    ("peer-transport-security", "trusted-ca-file", "peer-trusted-ca-file"),
    ("peer-transport-security", "auto-tls", "peer-auto-tls"),
    ("peer-transport-security", "allowed-cn", "peer-cert-allowed-cn"),
    ("peer-transport-security", "allowed-cns", "peer-cert-allowed-cn"),
    ("peer-transport-security", "allowed-hostname", "peer-cert-allowed-hostname"),
    ("peer-transport-security", "allowed-hostnames", "peer-cert-allowed-hostname"),
    (
        "peer-transport-security",
        "skip-client-san-verification",
        "peer-skip-client-san-verification",
    ),
    ("discovery-config", "token", "discovery-token"),
    ("discovery-config client", "endpoints", "discovery-endpoints"),
    ("discovery-config client", "dial-timeout", "discovery-dial-timeout"),
    ("discovery-config client", "request-timeout", "discovery-request-timeout"),
    ("discovery-config client", "keepalive-time", "discovery-keepalive-time"),
    ("discovery-config client", "keepalive-timeout", "discovery-keepalive-timeout"),
    ("discovery-config client secure", "cert", "discovery-cert"),
    ("discovery-config client secure", "key", "discovery-key"),
    ("discovery-config client secure", "cacert", "discovery-cacert"),
    ("discovery-config client secure", "insecure-transport", "discovery-insecure-transport"),
    (
        "discovery-config client secure",
        "insecure-skip-tls-verify",
        "discovery-insecure-skip-tls-verify",
    ),
    ("discovery-config client auth", "username", "discovery-user"),
    ("discovery-config client auth", "password", "discovery-password"),
    ("socket-options", "reuse-port", "socket-reuse-port"),
    ("socket-options", "reuse-address", "socket-reuse-address"),
];

/// The settings of a file. Its name is for messages.
pub fn read(name: &str, text: &str) -> Result<Settings, UsageError> {
    let value: Value = serde_norway::from_str(text).map_err(|error| {
        // One line, wherever the message had its own.
        err(format!("{name}: {}", error.to_string().replace('\n', " ")))
    })?;
    let mut settings = Settings::defaults()?;
    settings.is_file = true;
    settings.warnings.push(format!(
        "the configuration is that of {name}; all other flags and environment variables are ignored"
    ));
    let entries = match value {
        Value::Null => return Ok(settings),
        Value::Mapping(entries) => entries,
        _ => return Err(err(format!("{name}: must be a map of flags to values"))),
    };
    for (key, value) in &entries {
        let Some(key) = key.as_str() else {
            return Err(err(format!("{name}: {key:?} is no name of a flag")));
        };
        match value {
            Value::Mapping(inner) => nested(&mut settings, name, key, inner)?,
            value => set(&mut settings, name, key, key, value)?,
        }
    }
    settings.check_effects()?;
    Ok(settings)
}

/// The entries of a map, whose own keys are `map`.
fn nested(
    settings: &mut Settings,
    name: &str,
    map: &str,
    entries: &Mapping,
) -> Result<(), UsageError> {
    for (key, value) in entries {
        let key = key.as_str().unwrap_or_default();
        let inner = format!("{map} {key}");
        match value {
            Value::Mapping(entries)
                if NESTED.iter().any(|(known, ..)| is_map_of(known, &inner)) =>
            {
                nested(settings, name, &inner, entries)?;
                continue;
            }
            _ => {}
        }
        let text = format!("{}: {key}", map.replace(' ', ": "));
        match NESTED.iter().find(|(known, own, _)| *known == map && *own == key) {
            Some((_, _, flag)) => set(settings, name, &text, flag, value)?,
            None => unknown(settings, name, &text),
        }
    }
    Ok(())
}

/// Whether the map `inner` is `known`, or has it somewhere inside.
fn is_map_of(known: &str, inner: &str) -> bool {
    known.strip_prefix(inner).is_some_and(|rest| rest.is_empty() || rest.starts_with(' '))
}

fn unknown(settings: &mut Settings, name: &str, key: &str) {
    settings.warnings.push(format!("{name}: {key:?} is not known, and passed over"));
}

fn set(
    settings: &mut Settings,
    name: &str,
    key: &str,
    flag: &str,
    value: &Value,
) -> Result<(), UsageError> {
    let Some((at, spelling)) = flags::find(flag).filter(|_| flag != "config-file") else {
        unknown(settings, name, key);
        return Ok(());
    };
    let source = Source::File(format!("{key} of {name}"));
    let kind = if spelling == Spelling::Gate { Kind::Bool } else { super::args::kind(at) };
    match text_of(kind, value) {
        Some(Some(text)) => settings.set(at, spelling, source, text),
        // A key without a value has its default.
        Some(None) => Ok(()),
        None => Err(err(format!("{name}: {key} must be a single value or a list of such"))),
    }
}

/// The value as it would stand on the command line; none within if there is none.
fn text_of(kind: Kind, value: &Value) -> Option<Option<String>> {
    Some(match value {
        Value::Null => None,
        Value::Bool(value) => Some(value.to_string()),
        Value::Number(number) if kind == Kind::Duration && number.is_i64() => {
            Some(format!("{number}ns"))
        }
        Value::Number(number) => Some(number.to_string()),
        Value::String(text) => Some(text.clone()),
        Value::Sequence(items) => {
            let texts: Option<Vec<String>> =
                items.iter().map(|item| text_of(Kind::Text, item).flatten()).collect();
            Some(texts?.join(","))
        }
        Value::Mapping(_) | Value::Tagged(_) => return None,
    })
}
