//! Certificates that a member makes for itself: they hide what is said from who only listens, and prove nothing.

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose,
};
use time::{Duration, OffsetDateTime};

/// As PEM.
#[derive(Clone, Debug)]
pub struct SelfSigned {
    pub certificate: String,
    pub key: String,
    /// Seconds since 1970.
    pub not_after_s: i64,
}

/// A certificate for these hosts that holds from now on for so many years of 365 days, as etcd counts them.
pub fn self_signed(hosts: &[String], years: u32, now_s: i64) -> Result<SelfSigned, String> {
    let text = |error: &dyn std::fmt::Display| format!("cannot generate a certificate: {error}");
    let mut params = CertificateParams::new(hosts.to_vec()).map_err(|error| text(&error))?;
    let not_before = OffsetDateTime::from_unix_timestamp(now_s).map_err(|error| text(&error))?;
    let not_after = not_before
        .checked_add(Duration::days(365 * i64::from(years)))
        .ok_or_else(|| text(&"it would never end"))?;
    params.not_before = not_before;
    params.not_after = not_after;
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, "ringd");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![
        KeyUsagePurpose::DigitalSignature,
        KeyUsagePurpose::KeyEncipherment,
        KeyUsagePurpose::KeyCertSign,
        KeyUsagePurpose::CrlSign,
    ];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let key = KeyPair::generate().map_err(|error| text(&error))?;
    let certificate = params.self_signed(&key).map_err(|error| text(&error))?;
    Ok(SelfSigned {
        certificate: certificate.pem(),
        key: key.serialize_pem(),
        not_after_s: not_after.unix_timestamp(),
    })
}
