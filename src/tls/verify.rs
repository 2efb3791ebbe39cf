//! Whose certificate is taken: the rules of both directions in one place, for every listener and every dial.
//!
//! The chain is verified by webpki. One thing is taken that webpki would not: a certificate that is itself in the file
//! of trusted ones, as Go's library does.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{WebPkiServerVerifier, verify_server_name};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, RootCertStore,
    SignatureScheme,
};
use x509_parser::parse_x509_certificate;

use super::Certificate;
use super::revoked::Revoked;

/// Why a certificate that is well signed is not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("transport: certificate serial {0} revoked")]
    Revoked(String),
    #[error(
        "client certificate authentication failed: its common name {0:?} is not among the allowed ones ({1})"
    )]
    CommonName(String, String),
    #[error(
        "client certificate authentication failed: it is for {0}, and none of the allowed names ({1}) is \
         among them"
    )]
    Hostname(String, String),
    #[error("it may not be used for this purpose")]
    Purpose,
    #[error("there is no trusted certificate to verify it by")]
    NobodyTrusted,
    #[error("{0}")]
    Unreadable(String),
}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Error {
        CertificateError::Other(OtherError(Arc::new(refusal))).into()
    }
}

/// What holds beyond the chain.
#[derive(Clone, Debug, Default)]
pub struct Demands {
    pub allowed_cns: Vec<String>,
    pub allowed_hostnames: Vec<String>,
    pub revoked: Revoked,
}

impl Demands {
    fn check(
        &self,
        end_entity: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
    ) -> Result<(), Error> {
        let certificate = Certificate::read(end_entity).map_err(Refusal::Unreadable)?;
        if !self.revoked.is_empty() {
            for der in std::iter::once(end_entity).chain(others) {
                let sent = Certificate::read(der).map_err(Refusal::Unreadable)?;
                if self.revoked.contains(&sent.serial) {
                    return Err(Refusal::Revoked(sent.serial_hex()).into());
                }
            }
        }
        if !self.allowed_cns.is_empty() && !self.allowed_cns.contains(&certificate.common_name) {
            let allowed = self.allowed_cns.join(", ");
            return Err(Refusal::CommonName(certificate.common_name, allowed).into());
        }
        if !self.allowed_hostnames.is_empty() {
            let parsed = ParsedCertificate::try_from(end_entity)?;
            let fits = |name: &String| {
                ServerName::try_from(name.as_str())
                    .is_ok_and(|name| verify_server_name(&parsed, &name).is_ok())
            };
            if !self.allowed_hostnames.iter().any(fits) {
                let allowed = self.allowed_hostnames.join(", ");
                return Err(Refusal::Hostname(certificate.names(), allowed).into());
            }
        }
        Ok(())
    }
}

/// Whether a certificate that is trusted by itself holds now, and for this purpose.
fn holds(der: &CertificateDer<'_>, now: UnixTime, is_client: bool) -> Result<(), Error> {
    let unreadable = |error: String| Refusal::Unreadable(error);
    let (_, parsed) = parse_x509_certificate(der).map_err(|error| unreadable(error.to_string()))?;
    let now_s = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
    if now_s < parsed.validity().not_before.timestamp() {
        return Err(CertificateError::NotValidYet.into());
    }
    if now_s > parsed.validity().not_after.timestamp() {
        return Err(CertificateError::Expired.into());
    }
    let usage = parsed.extended_key_usage().map_err(|error| unreadable(error.to_string()))?;
    let allowed = usage.is_none_or(|usage| {
        let usage = usage.value;
        usage.any || if is_client { usage.client_auth } else { usage.server_auth }
    });
    if allowed { Ok(()) } else { Err(Refusal::Purpose.into()) }
}

/// Who is trusted: as authorities, and each certificate by itself.
#[derive(Clone, Debug)]
pub struct Trusted {
    pub roots: Arc<RootCertStore>,
    pub certificates: Arc<Vec<CertificateDer<'static>>>,
}

/// For those who dial us.
#[derive(Debug)]
pub struct Clients {
    chain: Arc<dyn ClientCertVerifier>,
    trusted: Trusted,
    demands: Demands,
}

impl Clients {
    pub fn new(
        trusted: Trusted,
        demands: Demands,
        provider: &Arc<CryptoProvider>,
    ) -> Result<Clients, String> {
        let chain =
            WebPkiClientVerifier::builder_with_provider(trusted.roots.clone(), provider.clone())
                .build()
                .map_err(|error| error.to_string())?;
        Ok(Clients { chain, trusted, demands })
    }
}

impl ClientCertVerifier for Clients {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.chain.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        if self.trusted.certificates.contains(end_entity) {
            holds(end_entity, now, true)?;
        } else {
            self.chain.verify_client_cert(end_entity, intermediates, now)?;
        }
        self.demands.check(end_entity, intermediates)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chain.supported_verify_schemes()
    }
}

/// For those whom we dial.
#[derive(Debug)]
pub struct Servers {
    chain: Chain,
    trusted: Trusted,
    demands: Demands,
    provider: Arc<CryptoProvider>,
}

/// By whom a server has to be vouched for.
#[derive(Debug)]
enum Chain {
    Verified(Arc<WebPkiServerVerifier>),
    /// With certificates that members have made for themselves: by nobody. They hide what is said, and prove nothing.
    AnyServer,
    Nobody,
}

impl Servers {
    pub fn new(
        trusted: Trusted,
        takes_any: bool,
        demands: Demands,
        provider: &Arc<CryptoProvider>,
    ) -> Result<Servers, String> {
        let chain = if takes_any {
            Chain::AnyServer
        } else if trusted.roots.is_empty() {
            Chain::Nobody
        } else {
            let roots = trusted.roots.clone();
            let verifier = WebPkiServerVerifier::builder_with_provider(roots, provider.clone());
            Chain::Verified(verifier.build().map_err(|error| error.to_string())?)
        };
        Ok(Servers { chain, trusted, demands, provider: provider.clone() })
    }
}

impl ServerCertVerifier for Servers {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        match &self.chain {
            Chain::AnyServer => {}
            _ if self.trusted.certificates.contains(end_entity) => {
                holds(end_entity, now, false)?;
                verify_server_name(&ParsedCertificate::try_from(end_entity)?, server_name)?;
            }
            Chain::Verified(chain) => {
                chain.verify_server_cert(
                    end_entity,
                    intermediates,
                    server_name,
                    ocsp_response,
                    now,
                )?;
            }
            Chain::Nobody => return Err(Refusal::NobodyTrusted.into()),
        }
        self.demands.check(end_entity, intermediates)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
