//! Files for connections with TLS.

use std::path::Path;
use std::sync::Arc;

use rustls::ClientConfig;

use crate::bench::Options;
use crate::tls::{Content, Contents, Material, Pair, Policy, Rules};

/// What connections are made with; none if no endpoint asks for TLS.
pub fn config(options: &Options) -> Result<Option<Arc<ClientConfig>>, String> {
    if !options.endpoints.iter().any(|endpoint| endpoint.starts_with("https://")) {
        return Ok(None);
    }
    let Options { cert, key, cacert, insecure, .. } = options;
    client(cert.as_deref(), key.as_deref(), cacert.as_deref(), *insecure).map(Some)
}

/// For a client with these files. Without authorities, those of the system are trusted; or anybody is.
pub fn client(
    cert: Option<&Path>,
    key: Option<&Path>,
    cacert: Option<&Path>,
    insecure: bool,
) -> Result<Arc<ClientConfig>, String> {
    let read = |path: &Path| match std::fs::read(path) {
        Ok(bytes) => Ok(Content { path: path.display().to_string(), bytes }),
        Err(error) => Err(format!("{}: {error}", path.display())),
    };
    let client_certificate = match (cert, key) {
        (Some(certificate), Some(key)) => {
            Some(Pair { certificate: read(certificate)?, key: read(key)? })
        }
        _ => None,
    };
    let trusted = cacert.map(read).transpose()?;
    let system_roots = match trusted.is_none() && !insecure {
        true => rustls_native_certs::load_native_certs().certs,
        false => Vec::new(),
    };
    let contents = Contents { client_certificate, trusted, system_roots, ..Contents::default() };
    let rules = Rules { is_self_signed: insecure, protocols: vec![b"h2"], ..Rules::default() };
    let material = Material::new(&contents, &rules, &Policy::default())?;
    Ok(material.client)
}
