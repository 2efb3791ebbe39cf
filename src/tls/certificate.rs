//! What a certificate says about itself.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use x509_parser::extensions::GeneralName;
use x509_parser::parse_x509_certificate;

/// The parts of a certificate that somebody asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// The subject's last common name, as Go takes it; empty if there is none.
    pub common_name: String,
    /// Subject alternative names.
    pub dns_names: Vec<String>,
    pub ip_addresses: Vec<IpAddr>,
    /// Without leading zeros.
    pub serial: Vec<u8>,
    /// Seconds since 1970.
    pub not_after_s: i64,
}

impl Certificate {
    pub fn read(der: &[u8]) -> Result<Certificate, String> {
        let (_, parsed) = parse_x509_certificate(der)
            .map_err(|error| format!("not a certificate that can be read: {error}"))?;
        let common_name = parsed.subject().iter_common_name().last();
        let common_name = common_name.and_then(|name| name.as_str().ok()).unwrap_or_default();
        let (mut dns_names, mut ip_addresses) = (Vec::new(), Vec::new());
        let names = parsed
            .subject_alternative_name()
            .map_err(|error| format!("its alternative names cannot be read: {error}"))?;
        for name in names.iter().flat_map(|extension| &extension.value.general_names) {
            match name {
                GeneralName::DNSName(name) => dns_names.push((*name).to_owned()),
                GeneralName::IPAddress(bytes) => ip_addresses.extend(address(bytes)),
                _ => {}
            }
        }
        Ok(Certificate {
            common_name: common_name.to_owned(),
            dns_names,
            ip_addresses,
            serial: without_zeros(parsed.raw_serial()).to_vec(),
            not_after_s: parsed.validity().not_after.timestamp(),
        })
    }

    /// For messages: `a, b, 10.0.0.1`.
    pub fn names(&self) -> String {
        let addresses = self.ip_addresses.iter().map(ToString::to_string);
        let names: Vec<String> = self.dns_names.iter().cloned().chain(addresses).collect();
        if names.is_empty() { "no names".to_owned() } else { names.join(", ") }
    }

    pub fn serial_hex(&self) -> String {
        self.serial.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    if let Ok(bytes) = <[u8; 4]>::try_from(bytes) {
        return Some(Ipv4Addr::from(bytes).into());
    }
    <[u8; 16]>::try_from(bytes).ok().map(|bytes| Ipv6Addr::from(bytes).into())
}

/// A number's bytes, whichever way its encoding has filled them up.
pub fn without_zeros(bytes: &[u8]) -> &[u8] {
    let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
    bytes.get(zeros..).unwrap_or_default()
}
