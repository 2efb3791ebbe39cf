//! An authority that issues certificates, for tests and benches.

use core::net::IpAddr;

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer,
    DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, KeyIdMethod, KeyPair,
    KeyUsagePurpose, RevokedCertParams, SanType, SerialNumber, date_time_ymd,
};

/// Its certificates hold until the year 2100, but for those that are to have expired.
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    issued: u64,
}

/// As PEM.
#[derive(Clone, Debug)]
pub struct Issued {
    pub certificate: String,
    pub key: String,
    pub serial: u64,
}

/// What a certificate is to say. It is for both directions.
#[derive(Clone, Copy, Debug)]
pub struct Order<'a> {
    pub common_name: &'a str,
    /// Names of hosts, or addresses.
    pub names: &'a [&'a str],
    pub has_expired: bool,
}

impl Order<'_> {
    pub fn new<'a>(common_name: &'a str, names: &'a [&'a str]) -> Order<'a> {
        Order { common_name, names, has_expired: false }
    }
}

impl Authority {
    pub fn new(name: &str) -> Authority {
        let mut params = CertificateParams::default();
        params.distinguished_name = named(name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().expect("a key");
        let issuer = CertifiedIssuer::self_signed(params, key).expect("an authority");
        Authority { issuer, issued: 0 }
    }

    pub fn certificate(&self) -> String {
        self.issuer.pem()
    }

    pub fn issue(&mut self, order: &Order<'_>) -> Issued {
        self.issued += 1;
        let mut params = CertificateParams::default();
        params.distinguished_name = named(order.common_name);
        params.serial_number = Some(SerialNumber::from(self.issued));
        for name in order.names {
            params.subject_alt_names.push(match name.parse::<IpAddr>() {
                Ok(address) => SanType::IpAddress(address),
                Err(_) => SanType::DnsName((*name).try_into().expect("a name of ASCII")),
            });
        }
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(if order.has_expired { 2021 } else { 2100 }, 1, 1);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate");
        Issued { certificate: certificate.pem(), key: key.serialize_pem(), serial: self.issued }
    }

    /// A revocation list, as DER and as PEM.
    pub fn revoke(&self, serials: &[u64]) -> (Vec<u8>, String) {
        let revoked = serials.iter().map(|serial| RevokedCertParams {
            serial_number: SerialNumber::from(*serial),
            revocation_time: date_time_ymd(2024, 1, 1),
            reason_code: None,
            invalidity_date: None,
        });
        let params = CertificateRevocationListParams {
            this_update: date_time_ymd(2024, 1, 1),
            next_update: date_time_ymd(2100, 1, 1),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: revoked.collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let list = params.signed_by(&self.issuer).expect("a revocation list");
        (list.der().to_vec(), list.pem().expect("as PEM"))
    }
}

fn named(common_name: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::OrganizationName, "ringd");
    if !common_name.is_empty() {
        name.push(DnType::CommonName, common_name);
    }
    name
}
