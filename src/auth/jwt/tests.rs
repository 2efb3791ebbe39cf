//! Tokens of every method, and what makes them no good.

use super::*;

macro_rules! key {
    ($name:literal) => {
        include_bytes!(concat!("../../../tests/wire/keys/", $name)).as_slice()
    };
}

const RSA: &[u8] = key!("rsa.pem");
const RSA_PKCS1: &[u8] = key!("rsa-pkcs1.pem");
const RSA_PUBLIC: &[u8] = key!("rsa-public.pem");
const RSA_CERTIFICATE: &[u8] = key!("rsa-certificate.pem");
const P256: &[u8] = key!("p256.pem");
const P256_PKCS8: &[u8] = key!("p256-pkcs8.pem");
const P256_PUBLIC: &[u8] = key!("p256-public.pem");
const P384: &[u8] = key!("p384.pem");
const P384_PUBLIC: &[u8] = key!("p384-public.pem");
const P521: &[u8] = key!("p521.pem");
const P521_PUBLIC: &[u8] = key!("p521-public.pem");
const ED25519: &[u8] = key!("ed25519.pem");
const ED25519_PUBLIC: &[u8] = key!("ed25519-public.pem");

/// The keys of a method: private and public.
fn keys(method: &str) -> (&'static [u8], Option<&'static [u8]>) {
    match method {
        "ES256" => (P256, Some(P256_PUBLIC)),
        "ES384" => (P384, Some(P384_PUBLIC)),
        "ES512" => (P521, Some(P521_PUBLIC)),
        "EdDSA" => (ED25519, Some(ED25519_PUBLIC)),
        hmac if hmac.starts_with("HS") => (b"a secret", None),
        _ => (RSA, Some(RSA_PUBLIC)),
    }
}

fn who() -> Identity {
    Identity { user: "alice".to_owned(), revision: 7 }
}

const NOW_S: u64 = 1_700_000_000;
const NOW_MS: u64 = NOW_S * 1000;

#[test]
fn a_token_of_every_method_is_good_until_it_ends() {
    for method in METHODS {
        let (private, public) = keys(method.name);
        let jwt = Jwt::new(method.name, public, Some(private), 60).unwrap();
        let token = jwt.sign(&who(), NOW_S).unwrap();
        let ends_ms = NOW_MS + 60_000;
        assert_eq!(jwt.verify(&token, NOW_MS), Some((who(), ends_ms)), "{}", method.name);
        assert_eq!(jwt.verify(&token, ends_ms), None, "{}", method.name);
        let Some(public) = public else { continue };
        let reader = Jwt::new(method.name, Some(public), None, 60).unwrap();
        assert!(!reader.can_sign() && reader.sign(&who(), NOW_S).is_none());
        assert_eq!(reader.verify(&token, NOW_MS), Some((who(), ends_ms)), "{}", method.name);
    }
}

#[test]
fn a_token_that_was_touched_is_no_good() {
    for method in METHODS {
        let (private, public) = keys(method.name);
        let jwt = Jwt::new(method.name, public, Some(private), 60).unwrap();
        let token = jwt.sign(&who(), NOW_S).unwrap();
        for at in (0..token.len()).step_by(7) {
            let mut touched = token.clone().into_bytes();
            touched[at] = if touched[at] == b'A' { b'B' } else { b'A' };
            let touched = String::from_utf8(touched).unwrap();
            // The last bits of a part may mean nothing.
            if let Some((found, _)) = jwt.verify(&touched, NOW_MS) {
                assert_eq!(found, who(), "{} at {at}", method.name);
            }
        }
        for token in ["", ".", "..", "a.b.c", &token[..token.len() - 4]] {
            assert_eq!(jwt.verify(token, NOW_MS), None);
        }
    }
}

#[test]
fn a_token_of_another_method_is_no_good() {
    let rsa = Jwt::new("RS256", Some(RSA_PUBLIC), None, 60).unwrap();
    // The public key is known to all: as a shared secret it would prove nothing.
    let forged = Jwt::new("HS256", None, Some(RSA_PUBLIC), 60).unwrap();
    let token = forged.sign(&who(), NOW_S).unwrap();
    assert_eq!(rsa.verify(&token, NOW_MS), None);
    let claims = token.split('.').nth(1).unwrap();
    for head in [r#"{"alg":"none"}"#, r#"{"alg":"RS256"}"#, r#"{"typ":"JWT"}"#, "[]"] {
        let token = format!("{}.{claims}.", BASE64.encode(head));
        assert_eq!(rsa.verify(&token, NOW_MS), None, "{head}");
    }
    let pss = Jwt::new("PS256", None, Some(RSA), 60).unwrap();
    assert_eq!(rsa.verify(&pss.sign(&who(), NOW_S).unwrap(), NOW_MS), None);
}

#[test]
fn what_a_token_has_to_say_is_who_and_as_of_when() {
    let jwt = Jwt::new("HS256", None, Some(b"a secret"), 60).unwrap();
    let verify = |claims: &str| {
        let signed = format!("{}.{}", BASE64.encode(r#"{"alg":"HS256"}"#), BASE64.encode(claims));
        let signature = jwt.signing.as_ref().unwrap().sign(signed.as_bytes()).unwrap();
        jwt.verify(&format!("{signed}.{}", BASE64.encode(signature)), NOW_MS)
    };
    let good = r#"{"username":"alice","revision":7}"#;
    assert_eq!(verify(good), Some((who(), u64::MAX)), "without an end it does not end");
    for bad in [
        r#"{"username":"alice"}"#,
        r#"{"revision":7}"#,
        r#"{"username":1,"revision":7}"#,
        r#"{"username":"alice","revision":"7"}"#,
        r#"{"username":"alice","revision":7,"exp":"soon"}"#,
        r#"{"username":"alice","revision":7,"exp":1}"#,
        r#"{"username":"alice","revision":7,"nbf":1700000001}"#,
        "{",
    ] {
        assert_eq!(verify(bad), None, "{bad}");
    }
    assert!(verify(r#"{"username":"alice","revision":7,"nbf":1700000000,"exp":null}"#).is_some());
}

#[test]
fn keys_that_cannot_be_used_are_told_apart() {
    let new = |method, public, private| Jwt::new(method, public, private, 60).err();
    assert_eq!(new("RS257", None, Some(RSA)), Some(KeyError::Method));
    assert_eq!(new("none", None, Some(RSA)), Some(KeyError::Method));
    for method in METHODS {
        assert_eq!(new(method.name, None, None), Some(KeyError::Missing), "{}", method.name);
        assert_eq!(new(method.name, Some(b""), Some(b"")), Some(KeyError::Missing));
    }
    assert_eq!(new("HS256", Some(RSA_PUBLIC), None), Some(KeyError::Missing));
    assert_eq!(new("RS256", None, Some(P256)), Some(KeyError::Private));
    assert_eq!(new("RS256", None, Some(b"nonsense")), Some(KeyError::Private));
    assert_eq!(new("ES256", None, Some(P384)), Some(KeyError::Private));
    assert_eq!(new("ES256", Some(P384_PUBLIC), None), Some(KeyError::Public));
    assert_eq!(new("ES512", Some(P384_PUBLIC), None), Some(KeyError::Public));
    assert_eq!(new("EdDSA", Some(b"nonsense"), None), Some(KeyError::Public));
    assert_eq!(new("ES256", Some(P384_PUBLIC), Some(P256)), Some(KeyError::Mismatch));
    assert_eq!(new("RS256", Some(RSA_CERTIFICATE), Some(RSA)), None);
    assert_eq!(new("RS256", Some(RSA_CERTIFICATE), Some(RSA_PKCS1)), None);
    assert_eq!(new("ES256", Some(P256_PUBLIC), Some(P256_PKCS8)), None);
}

#[test]
fn a_token_that_was_found_good_still_ends() {
    let jwt = Jwt::new("EdDSA", None, Some(ED25519), 60).unwrap();
    let token = jwt.sign(&who(), NOW_S).unwrap();
    let mut verified = Verified::default();
    for now_ms in [NOW_MS, NOW_MS + 59_999] {
        assert_eq!(verified.identify(&jwt, &token, now_ms), Some(who()));
    }
    assert_eq!(verified.identify(&jwt, &token, NOW_MS + 60_000), None);
    for n in 0..VERIFIED_MAX as u64 + 10 {
        let who = Identity { user: "bob".to_owned(), revision: n };
        let token = jwt.sign(&who, NOW_S).unwrap();
        assert_eq!(verified.identify(&jwt, &token, NOW_MS), Some(who));
    }
    assert!(verified.by_token.len() <= VERIFIED_MAX);
}

#[test]
fn bytes_that_are_no_key_do_no_harm() {
    for file in [RSA, RSA_CERTIFICATE, P256, P521_PUBLIC, ED25519] {
        let der::Block { bytes, .. } = der::pem(file).unwrap();
        for len in 0..bytes.len() {
            let cut = &bytes[..len];
            let _ = (der::public_key(cut), der::key_of_certificate(cut));
            let _ = (der::pkcs8_key(cut), der::ec_key(cut));
        }
        assert!(der::pem(&file[..file.len() / 2]).is_none());
    }
}
