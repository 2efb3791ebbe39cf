//! Revocation lists, as etcd takes them: whose serial number is on the list is refused, whoever has issued the list.
//! etcd reads DER alone; PEM is taken as well, and more than one list in it.

use std::collections::BTreeSet;

use rustls::pki_types::CertificateRevocationListDer;
use rustls::pki_types::pem::PemObject;
use x509_parser::parse_x509_crl;

use super::certificate::without_zeros;

/// Serial numbers, without leading zeros.
pub type Revoked = BTreeSet<Vec<u8>>;

pub fn read(bytes: &[u8]) -> Result<Revoked, String> {
    const PEM: &[u8] = b"-----BEGIN ";
    let mut revoked = Revoked::new();
    if !bytes.windows(PEM.len()).any(|window| window == PEM) {
        read_one(bytes, &mut revoked)?;
        return Ok(revoked);
    }
    let mut lists = 0;
    for list in CertificateRevocationListDer::pem_slice_iter(bytes) {
        let list = list.map_err(|error| format!("not a revocation list: {error}"))?;
        read_one(&list, &mut revoked)?;
        lists += 1;
    }
    if lists == 0 { Err("has no revocation list in it".to_owned()) } else { Ok(revoked) }
}

fn read_one(der: &[u8], revoked: &mut Revoked) -> Result<(), String> {
    let (rest, list) =
        parse_x509_crl(der).map_err(|error| format!("not a revocation list: {error}"))?;
    if !rest.is_empty() {
        return Err("not a revocation list: there are bytes after its end".to_owned());
    }
    let serials = list.iter_revoked_certificates();
    revoked.extend(serials.map(|entry| without_zeros(entry.raw_serial()).to_vec()));
    Ok(())
}
