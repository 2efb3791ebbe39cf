//! Does the certificate of a member fit the address that it comes from? etcd asks this of whoever dials its peer port:
//! one of the addresses in the certificate, or a name in it that belongs to the address, forwards or backwards.
//! A certificate without any names fits everywhere.

use core::net::IpAddr;

use super::Certificate;

/// What the resolver says.
pub trait Resolver {
    fn names_of(&mut self, address: IpAddr) -> Result<Vec<String>, String>;
    fn addresses_of(&mut self, name: &str) -> Result<Vec<IpAddr>, String>;
}

/// The error names the address and the names that it does not fit.
pub fn fits_address(
    certificate: &Certificate,
    address: IpAddr,
    resolver: &mut dyn Resolver,
) -> Result<(), String> {
    let Certificate { dns_names, ip_addresses, .. } = certificate;
    if ip_addresses.contains(&address) || (ip_addresses.is_empty() && dns_names.is_empty()) {
        return Ok(());
    }
    if dns_names.is_empty() {
        let valid: Vec<_> = ip_addresses.iter().map(ToString::to_string).collect();
        return Err(format!("x509: certificate is valid for {}, not {address}", valid.join(", ")));
    }
    let looked_up = match is_one_of(dns_names, address, resolver) {
        Ok(true) => return Ok(()),
        Ok(false) => String::new(),
        Err(error) => format!(" ({error})"),
    };
    let quoted: Vec<_> = dns_names.iter().map(|name| format!("{name:?}")).collect();
    Err(format!(
        "tls: \"{address}\" does not match any of DNSNames [{}]{looked_up}",
        quoted.join(" ")
    ))
}

/// An error of a lookup counts only if no other lookup says yes.
fn is_one_of(
    dns_names: &[String],
    address: IpAddr,
    resolver: &mut dyn Resolver,
) -> Result<bool, String> {
    let mut failed = None;
    let plain = |name: &&String| !name.starts_with("*.");
    match resolver.names_of(address) {
        Ok(found) => {
            for name in found.iter().map(|name| name.strip_suffix('.').unwrap_or(name)) {
                let fits = |pattern: &String| match pattern.strip_prefix('*') {
                    Some(domain) if domain.starts_with('.') => name.ends_with(domain),
                    _ => pattern == name,
                };
                if dns_names.iter().any(fits) {
                    return Ok(true);
                }
            }
        }
        Err(error) => failed = Some(error),
    }
    for name in dns_names.iter().filter(plain) {
        match resolver.addresses_of(name) {
            Ok(found) if found.contains(&address) => return Ok(true),
            Ok(_) => {}
            Err(error) => failed = Some(error),
        }
    }
    failed.map_or(Ok(false), Err)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Pairs of name and address; a name that begins with `?` cannot be looked up.
    struct Hosts(&'static [(&'static str, &'static str)]);

    impl Resolver for Hosts {
        fn names_of(&mut self, address: IpAddr) -> Result<Vec<String>, String> {
            let of = |(_, known): &&(&str, &str)| known.parse() == Ok(address);
            let names: Vec<_> =
                self.0.iter().filter(of).map(|(name, _)| format!("{name}.")).collect();
            if names.is_empty() { Err("no such host".to_owned()) } else { Ok(names) }
        }

        fn addresses_of(&mut self, name: &str) -> Result<Vec<IpAddr>, String> {
            let of = |(known, _): &&(&str, &str)| *known == name;
            let found: Vec<_> =
                self.0.iter().filter(of).filter_map(|(_, address)| address.parse().ok()).collect();
            if found.is_empty() { Err(format!("lookup {name}: no such host")) } else { Ok(found) }
        }
    }

    fn certificate(dns_names: &[&str], ip_addresses: &[&str]) -> Certificate {
        Certificate {
            common_name: String::new(),
            dns_names: dns_names.iter().map(|name| (*name).to_owned()).collect(),
            ip_addresses: ip_addresses.iter().map(|ip| ip.parse().unwrap()).collect(),
            serial: vec![1],
            not_after_s: 0,
        }
    }

    #[test]
    fn an_address_fits_by_itself_by_a_name_of_it_or_by_a_name_that_leads_to_it() {
        let mut hosts = Hosts(&[("a.example", "10.0.0.1"), ("b.example", "10.0.0.2")]);
        let mut fits = |dns: &[&str], ips: &[&str], from: &str| {
            fits_address(&certificate(dns, ips), from.parse().unwrap(), &mut hosts).is_ok()
        };
        assert!(fits(&[], &[], "10.9.9.9"), "without names it fits everywhere");
        assert!(fits(&[], &["10.0.0.1"], "10.0.0.1"));
        assert!(fits(&["a.example"], &[], "10.0.0.1"));
        assert!(fits(&["*.example"], &[], "10.0.0.1"), "backwards");
        assert!(
            fits(&["b.example"], &["10.0.0.1"], "10.0.0.2"),
            "an address of one, a name of the other"
        );
        assert!(fits(&[], &["::1"], "::1"));
        assert!(!fits(&[], &["10.0.0.1"], "10.0.0.2"));
        assert!(!fits(&["a.example"], &[], "10.0.0.2"));
        assert!(!fits(&["*.a.example"], &[], "10.0.0.1"));
        assert!(
            !fits(&["*.example"], &[], "10.9.9.9"),
            "nothing leads from a wildcard to an address"
        );
    }

    #[test]
    fn who_is_refused_is_told_by_which_names() {
        let mut hosts = Hosts(&[("a.example", "10.0.0.1")]);
        let mut error = |dns: &[&str], ips: &[&str]| {
            fits_address(&certificate(dns, ips), "10.0.0.7".parse().unwrap(), &mut hosts)
                .unwrap_err()
        };
        assert_eq!(
            error(&[], &["10.0.0.1", "::1"]),
            "x509: certificate is valid for 10.0.0.1, ::1, not 10.0.0.7"
        );
        assert_eq!(
            error(&["a.example", "z.example"], &[]),
            "tls: \"10.0.0.7\" does not match any of DNSNames [\"a.example\" \"z.example\"] (lookup \
             z.example: no such host)"
        );
    }
}
