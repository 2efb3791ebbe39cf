//! From the contents of files to what new connections are made with. All of it or nothing: the files are one set.

use std::sync::Arc;

use rustls::client::{ClientConfig, Resumption};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, ServerConfig, WebPkiClientVerifier};
use rustls::{RootCertStore, crypto::CryptoProvider};

use super::revoked::{self, Revoked};
use super::verify::{Clients, Demands, Servers, Trusted};
use super::{Certificate, Policy};

/// A file: its name, for messages, and what is in it.
#[derive(Clone, Debug)]
pub struct Content {
    pub path: String,
    pub bytes: Vec<u8>,
}

/// A certificate with those that vouch for it, and its key.
#[derive(Clone, Debug)]
pub struct Pair {
    pub certificate: Content,
    pub key: Content,
}

/// The set of files of one kind of connection.
#[derive(Clone, Debug, Default)]
pub struct Contents {
    pub certificate: Option<Pair>,
    /// For dialling, if it is not the same.
    pub client_certificate: Option<Pair>,
    pub trusted: Option<Content>,
    pub revoked: Option<Content>,
    /// Who is trusted without a file of trusted ones.
    pub system_roots: Vec<CertificateDer<'static>>,
}

/// What is asked of the other end.
#[derive(Clone, Debug, Default)]
pub struct Rules {
    pub client_cert_auth: bool,
    pub allowed_cns: Vec<String>,
    pub allowed_hostnames: Vec<String>,
    /// The certificates are made by each member for itself: nobody can be verified.
    pub is_self_signed: bool,
    /// Protocols offered, best first.
    pub protocols: Vec<&'static [u8]>,
}

/// What new connections are made with.
#[derive(Clone, Debug)]
pub struct Material {
    /// None without a certificate.
    pub server: Option<Arc<ServerConfig>>,
    pub client: Arc<ClientConfig>,
    /// Which file, by its name here, and the end of what ends first in it, in seconds since 1970.
    pub ends: Vec<(Role, i64)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    Certificate,
    ClientCertificate,
    Trusted,
}

impl Material {
    /// The error is one line that names the file.
    pub fn new(contents: &Contents, rules: &Rules, policy: &Policy) -> Result<Material, String> {
        let provider = policy.provider();
        let mut ends = Vec::new();
        let mut note = |role, certificates: &[CertificateDer<'static>]| -> Result<(), String> {
            for der in certificates {
                ends.push((role, Certificate::read(der)?.not_after_s));
            }
            Ok(())
        };
        let trusted = match &contents.trusted {
            Some(file) => {
                let certificates = read_certificates(file)?;
                note(Role::Trusted, &certificates).map_err(|error| in_file(file, &error))?;
                trusted(file, certificates)?
            }
            None => {
                let mut roots = RootCertStore::empty();
                roots.add_parsable_certificates(contents.system_roots.iter().cloned());
                Trusted { roots: Arc::new(roots), certificates: Arc::default() }
            }
        };
        let revoked = match &contents.revoked {
            Some(file) => revoked::read(&file.bytes).map_err(|error| in_file(file, &error))?,
            None => Revoked::new(),
        };
        let demands = Demands {
            allowed_cns: rules.allowed_cns.clone(),
            allowed_hostnames: rules.allowed_hostnames.clone(),
            revoked,
        };
        let asks_clients = contents.trusted.is_some() || rules.client_cert_auth;
        let verifier: Arc<dyn ClientCertVerifier> = if asks_clients {
            let clients = Clients::new(trusted.clone(), demands.clone(), &provider);
            Arc::new(clients.map_err(|error| format!("client certificates: {error}"))?)
        } else {
            WebPkiClientVerifier::no_client_auth()
        };
        let mut own = None;
        if let Some(pair) = &contents.certificate {
            let read = read_pair(pair)?;
            note(Role::Certificate, &read.0).map_err(|error| in_file(&pair.certificate, &error))?;
            own = Some((pair, read));
        }
        let server = match &own {
            Some((pair, (chain, key))) => {
                let builder = ServerConfig::builder_with_provider(provider.clone())
                    .with_protocol_versions(&policy.versions())
                    .map_err(|error| error.to_string())?
                    .with_client_cert_verifier(verifier);
                let mut config = builder
                    .with_single_cert(chain.clone(), key.clone_key())
                    .map_err(|error| in_pair(pair, &error))?;
                config.session_storage = Arc::new(NoServerSessionStorage {});
                config.send_tls13_tickets = 0;
                config.alpn_protocols = rules.protocols.iter().map(|name| name.to_vec()).collect();
                Some(Arc::new(config))
            }
            None => None,
        };
        let dialling = match &contents.client_certificate {
            Some(pair) => {
                let read = read_pair(pair)?;
                note(Role::ClientCertificate, &read.0)
                    .map_err(|error| in_file(&pair.certificate, &error))?;
                Some((pair, read))
            }
            None => own,
        };
        let takes_any = rules.is_self_signed;
        let servers = Servers::new(trusted, takes_any, demands, &provider)?;
        let client = client(&provider, policy, Arc::new(servers), dialling, rules)?;
        ends.sort();
        ends.dedup_by_key(|(role, _)| *role);
        Ok(Material { server, client, ends })
    }
}

type Read = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

fn client(
    provider: &Arc<CryptoProvider>,
    policy: &Policy,
    servers: Arc<Servers>,
    own: Option<(&Pair, Read)>,
    rules: &Rules,
) -> Result<Arc<ClientConfig>, String> {
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&policy.versions())
        .map_err(|error| error.to_string())?
        .dangerous()
        .with_custom_certificate_verifier(servers);
    let mut config = match own {
        Some((pair, (chain, key))) => {
            builder.with_client_auth_cert(chain, key).map_err(|error| in_pair(pair, &error))?
        }
        None => builder.with_no_client_auth(),
    };
    config.resumption = Resumption::disabled();
    config.alpn_protocols = rules.protocols.iter().map(|name| name.to_vec()).collect();
    Ok(Arc::new(config))
}

fn trusted(file: &Content, certificates: Vec<CertificateDer<'static>>) -> Result<Trusted, String> {
    let mut roots = RootCertStore::empty();
    for certificate in &certificates {
        roots.add(certificate.clone()).map_err(|error| in_file(file, &error))?;
    }
    Ok(Trusted { roots: Arc::new(roots), certificates: Arc::new(certificates) })
}

fn read_certificates(file: &Content) -> Result<Vec<CertificateDer<'static>>, String> {
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&file.bytes).collect();
    let certificates = read.map_err(|error| in_file(file, &error))?;
    // A block that was begun and not ended is none, and that is no error of the reader's.
    let begun = String::from_utf8_lossy(&file.bytes).matches("-----BEGIN CERTIFICATE").count();
    if begun > certificates.len() {
        return Err(in_file(file, &"the last certificate in it has no end"));
    }
    if certificates.is_empty() {
        return Err(in_file(file, &"has no certificate in it"));
    }
    Ok(certificates)
}

fn read_pair(pair: &Pair) -> Result<Read, String> {
    let chain = read_certificates(&pair.certificate)?;
    let key = PrivateKeyDer::from_pem_slice(&pair.key.bytes).map_err(|error| {
        in_file(&pair.key, &format!("has no private key that can be read: {error}"))
    })?;
    Ok((chain, key))
}

fn in_file(file: &Content, error: &dyn std::fmt::Display) -> String {
    format!("{}: {error}", file.path)
}

fn in_pair(pair: &Pair, error: &rustls::Error) -> String {
    let what = match error {
        rustls::Error::InconsistentKeys(_) => {
            "the private key is not that of the certificate".to_owned()
        }
        error => error.to_string(),
    };
    format!("{} with {}: {what}", pair.certificate.path, pair.key.path)
}
