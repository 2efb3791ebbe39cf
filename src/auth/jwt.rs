//! JSON Web Tokens: signed with a key of the operator's, they say who somebody is, as of which revision, and until
//! when (RFC 7519; the algorithms are those of RFC 7518 and RFC 8037).
//!
//! A token is taken only if it names the algorithm that is configured. Which kind of key an algorithm takes is
//! settled when keys are read, so that a public key is never used as a shared secret.

use std::collections::HashMap;

use base64::Engine;
use base64::alphabet::URL_SAFE;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use p521::ecdsa::signature::{Signer, Verifier};
use ring::rand::SystemRandom;
use ring::signature::{self, EcdsaKeyPair, Ed25519KeyPair, KeyPair, RsaKeyPair, UnparsedPublicKey};
use ring::{hmac, signature as algorithms};
use serde_json::{Value, json};

use super::{Identity, der};

const BASE64: GeneralPurpose = GeneralPurpose::new(
    &URL_SAFE,
    GeneralPurposeConfig::new()
        .with_encode_padding(false)
        .with_decode_padding_mode(DecodePaddingMode::RequireNone)
        .with_decode_allow_trailing_bits(true),
);

/// Tokens whose signature need not be looked at again. Chosen: some megabytes.
const VERIFIED_MAX: usize = 4_096;

/// Why keys cannot be used, for the operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    #[error("invalid auth signature method")]
    Method,
    #[error("missing key data")]
    Missing,
    #[error("public and private keys don't match")]
    Mismatch,
    #[error("the private key cannot be read, or does not fit the method")]
    Private,
    #[error("the public key cannot be read, or does not fit the method")]
    Public,
}

/// A method, as it is written in options and in tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Method {
    name: &'static str,
    family: Family,
    /// Bits of the hash.
    bits: u16,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Family {
    Hmac,
    RsaPkcs1,
    RsaPss,
    Ecdsa,
    Ed25519,
}

pub const METHODS: [Method; 13] = [
    Method { name: "HS256", family: Family::Hmac, bits: 256 },
    Method { name: "HS384", family: Family::Hmac, bits: 384 },
    Method { name: "HS512", family: Family::Hmac, bits: 512 },
    Method { name: "RS256", family: Family::RsaPkcs1, bits: 256 },
    Method { name: "RS384", family: Family::RsaPkcs1, bits: 384 },
    Method { name: "RS512", family: Family::RsaPkcs1, bits: 512 },
    Method { name: "PS256", family: Family::RsaPss, bits: 256 },
    Method { name: "PS384", family: Family::RsaPss, bits: 384 },
    Method { name: "PS512", family: Family::RsaPss, bits: 512 },
    Method { name: "ES256", family: Family::Ecdsa, bits: 256 },
    Method { name: "ES384", family: Family::Ecdsa, bits: 384 },
    Method { name: "ES512", family: Family::Ecdsa, bits: 512 },
    Method { name: "EdDSA", family: Family::Ed25519, bits: 0 },
];

enum Signing {
    Hmac(hmac::Key),
    Rsa(Box<RsaKeyPair>, &'static dyn algorithms::RsaEncoding),
    Ecdsa(EcdsaKeyPair),
    P521(Box<p521::ecdsa::SigningKey>),
    Ed25519(Ed25519KeyPair),
}

enum Verifying {
    Hmac(hmac::Key),
    Ring(UnparsedPublicKey<Vec<u8>>),
    P521(Box<p521::ecdsa::VerifyingKey>),
}

/// A key, and what is done with it.
pub struct Jwt {
    method: Method,
    ttl_s: u64,
    /// None where only a public key was given: tokens come from elsewhere.
    signing: Option<Signing>,
    verifying: Verifying,
}

impl std::fmt::Debug for Jwt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Jwt({})", self.method.name)
    }
}

impl Jwt {
    /// `public` and `private` are files in PEM; for HMAC the private one is the secret as it is.
    pub fn new(
        method: &str,
        public: Option<&[u8]>,
        private: Option<&[u8]>,
        ttl_s: u64,
    ) -> Result<Jwt, KeyError> {
        let method = METHODS.into_iter().find(|known| known.name == method);
        let method = method.ok_or(KeyError::Method)?;
        let public = public.filter(|file| !file.is_empty());
        let private = private.filter(|file| !file.is_empty());
        if method.family == Family::Hmac {
            let key = || Ok(hmac::Key::new(method.hmac(), private.ok_or(KeyError::Missing)?));
            let (signing, verifying) = (Some(Signing::Hmac(key()?)), Verifying::Hmac(key()?));
            return Ok(Jwt { method, ttl_s, signing, verifying });
        }
        let signing = private.map(|file| method.signing(file)).transpose()?;
        let given = match public {
            Some(file) => Some(public_key(file).ok_or(KeyError::Public)?),
            None => None,
        };
        let own = signing.as_ref().map(Signing::public_key);
        let key = match (own, given) {
            (None, None) => return Err(KeyError::Missing),
            (Some(own), Some(given)) if own != given => return Err(KeyError::Mismatch),
            (Some(key), _) | (None, Some(key)) => key,
        };
        let verifying = method.verifying(key)?;
        Ok(Jwt { method, ttl_s, signing, verifying })
    }

    /// Whether it can make tokens.
    pub fn can_sign(&self) -> bool {
        self.signing.is_some()
    }

    /// A token for somebody. None if it cannot be made.
    pub fn sign(&self, who: &Identity, unix_s: u64) -> Option<String> {
        let head = json!({ "alg": self.method.name, "typ": "JWT" });
        let claims = json!({
            "exp": unix_s.saturating_add(self.ttl_s),
            "revision": who.revision,
            "username": who.user,
        });
        let part = |value: &Value| BASE64.encode(value.to_string());
        let signed = format!("{}.{}", part(&head), part(&claims));
        let signature = self.signing.as_ref()?.sign(signed.as_bytes())?;
        Some(format!("{signed}.{}", BASE64.encode(signature)))
    }

    /// Whose token it is, and when it ends, in milliseconds since 1970; none if it is not good.
    pub fn verify(&self, token: &str, unix_ms: u64) -> Option<(Identity, u64)> {
        let (signed, signature) = token.rsplit_once('.')?;
        let (head, claims) = signed.split_once('.')?;
        let object = |part: &str| {
            let bytes = BASE64.decode(part).ok()?;
            serde_json::from_slice::<serde_json::Map<String, Value>>(&bytes).ok()
        };
        if object(head)?.get("alg")?.as_str()? != self.method.name {
            return None;
        }
        if !self.verifying.verify(signed.as_bytes(), &BASE64.decode(signature).ok()?) {
            return None;
        }
        let claims = object(claims)?;
        // Seconds, maybe with fractions.
        let time_ms = |name: &str| match claims.get(name) {
            None | Some(Value::Null) => Some(None),
            Some(value) => Some(Some((value.as_f64()? * 1000.0) as u64)),
        };
        let ends_ms = time_ms("exp")?.unwrap_or(u64::MAX);
        let begins_ms = time_ms("nbf")?.unwrap_or(0);
        if unix_ms >= ends_ms || unix_ms < begins_ms {
            return None;
        }
        let user = claims.get("username")?.as_str()?.to_owned();
        let revision = claims.get("revision")?.as_f64()? as u64;
        Some((Identity { user, revision }, ends_ms))
    }
}

impl Method {
    fn hmac(self) -> hmac::Algorithm {
        match self.bits {
            256 => hmac::HMAC_SHA256,
            384 => hmac::HMAC_SHA384,
            _ => hmac::HMAC_SHA512,
        }
    }

    fn signing(self, file: &[u8]) -> Result<Signing, KeyError> {
        self.read_private(file).ok_or(KeyError::Private)
    }

    fn read_private(self, file: &[u8]) -> Option<Signing> {
        let der::Block { label, bytes } = der::pem(file)?;
        let is_pkcs8 = label == "PRIVATE KEY";
        match self.family {
            Family::RsaPkcs1 | Family::RsaPss => {
                let key = match is_pkcs8 {
                    true => RsaKeyPair::from_pkcs8(&bytes),
                    false => RsaKeyPair::from_der(&bytes),
                };
                Some(Signing::Rsa(Box::new(key.ok()?), self.rsa_encoding()))
            }
            Family::Ecdsa => {
                let inner = if is_pkcs8 { der::pkcs8_key(&bytes)? } else { &bytes };
                let (private, point) = der::ec_key(inner)?;
                let algorithm = match self.bits {
                    256 => &algorithms::ECDSA_P256_SHA256_FIXED_SIGNING,
                    384 => &algorithms::ECDSA_P384_SHA384_FIXED_SIGNING,
                    _ => {
                        let key = p521::ecdsa::SigningKey::from_slice(private).ok()?;
                        return Some(Signing::P521(Box::new(key)));
                    }
                };
                let random = SystemRandom::new();
                let key = EcdsaKeyPair::from_private_key_and_public_key(
                    algorithm, private, point?, &random,
                );
                Some(Signing::Ecdsa(key.ok()?))
            }
            Family::Ed25519 => {
                Some(Signing::Ed25519(Ed25519KeyPair::from_pkcs8_maybe_unchecked(&bytes).ok()?))
            }
            Family::Hmac => None,
        }
    }

    fn rsa_encoding(self) -> &'static dyn algorithms::RsaEncoding {
        match (self.family, self.bits) {
            (Family::RsaPss, 256) => &algorithms::RSA_PSS_SHA256,
            (Family::RsaPss, 384) => &algorithms::RSA_PSS_SHA384,
            (Family::RsaPss, _) => &algorithms::RSA_PSS_SHA512,
            (_, 256) => &algorithms::RSA_PKCS1_SHA256,
            (_, 384) => &algorithms::RSA_PKCS1_SHA384,
            _ => &algorithms::RSA_PKCS1_SHA512,
        }
    }

    fn verifying(self, key: Vec<u8>) -> Result<Verifying, KeyError> {
        let algorithm: &'static dyn signature::VerificationAlgorithm =
            match (self.family, self.bits) {
                (Family::RsaPkcs1, 256) => &algorithms::RSA_PKCS1_2048_8192_SHA256,
                (Family::RsaPkcs1, 384) => &algorithms::RSA_PKCS1_2048_8192_SHA384,
                (Family::RsaPkcs1, _) => &algorithms::RSA_PKCS1_2048_8192_SHA512,
                (Family::RsaPss, 256) => &algorithms::RSA_PSS_2048_8192_SHA256,
                (Family::RsaPss, 384) => &algorithms::RSA_PSS_2048_8192_SHA384,
                (Family::RsaPss, _) => &algorithms::RSA_PSS_2048_8192_SHA512,
                (Family::Ecdsa, 256) => &algorithms::ECDSA_P256_SHA256_FIXED,
                (Family::Ecdsa, 384) => &algorithms::ECDSA_P384_SHA384_FIXED,
                (Family::Ecdsa, _) => {
                    let key = p521::ecdsa::VerifyingKey::from_sec1_bytes(&key);
                    let key = key.map_err(|_| KeyError::Public)?;
                    return Ok(Verifying::P521(Box::new(key)));
                }
                (Family::Ed25519, _) => &algorithms::ED25519,
                (Family::Hmac, _) => return Err(KeyError::Public),
            };
        // A point of another curve has another length.
        let lengths: &[usize] = match (self.family, self.bits) {
            (Family::Ecdsa, 256) => &[65],
            (Family::Ecdsa, _) => &[97],
            (Family::Ed25519, _) => &[32],
            _ => &[],
        };
        if !lengths.is_empty() && !lengths.contains(&key.len()) {
            return Err(KeyError::Public);
        }
        Ok(Verifying::Ring(UnparsedPublicKey::new(algorithm, key)))
    }
}

impl Signing {
    /// In the form in which it stands in files.
    fn public_key(&self) -> Vec<u8> {
        match self {
            Signing::Hmac(_) => Vec::new(),
            Signing::Rsa(key, _) => key.public_key().as_ref().to_vec(),
            Signing::Ecdsa(key) => key.public_key().as_ref().to_vec(),
            Signing::P521(key) => {
                let point = p521::ecdsa::VerifyingKey::from(key.as_ref()).to_encoded_point(false);
                point.as_bytes().to_vec()
            }
            Signing::Ed25519(key) => key.public_key().as_ref().to_vec(),
        }
    }

    fn sign(&self, message: &[u8]) -> Option<Vec<u8>> {
        let random = SystemRandom::new();
        Some(match self {
            Signing::Hmac(key) => hmac::sign(key, message).as_ref().to_vec(),
            Signing::Rsa(key, encoding) => {
                let mut signature = vec![0; key.public().modulus_len()];
                key.sign(*encoding, &random, message, &mut signature).ok()?;
                signature
            }
            Signing::Ecdsa(key) => key.sign(&random, message).ok()?.as_ref().to_vec(),
            Signing::P521(key) => {
                let signature: p521::ecdsa::Signature = key.try_sign(message).ok()?;
                signature.to_bytes().to_vec()
            }
            Signing::Ed25519(key) => key.sign(message).as_ref().to_vec(),
        })
    }
}

impl Verifying {
    fn verify(&self, message: &[u8], signature: &[u8]) -> bool {
        match self {
            Verifying::Hmac(key) => hmac::verify(key, message, signature).is_ok(),
            Verifying::Ring(key) => key.verify(message, signature).is_ok(),
            Verifying::P521(key) => p521::ecdsa::Signature::from_slice(signature)
                .is_ok_and(|signature| key.verify(message, &signature).is_ok()),
        }
    }
}

/// The key in a file: that of its own, or that of a certificate.
fn public_key(file: &[u8]) -> Option<Vec<u8>> {
    let der::Block { label, bytes } = der::pem(file)?;
    match label.as_str() {
        "CERTIFICATE" => der::key_of_certificate(&bytes).map(<[u8]>::to_vec),
        "RSA PUBLIC KEY" => Some(bytes),
        _ => der::public_key(&bytes).map(<[u8]>::to_vec),
    }
}

/// Tokens that were found good, so that each is looked into once.
#[derive(Default)]
pub struct Verified {
    /// Clients choose tokens, so the hash is keyed. Its order is never looked at.
    by_token: HashMap<String, (Identity, u64)>,
}

impl Verified {
    /// Whose token it is, if it is good.
    pub fn identify(&mut self, jwt: &Jwt, token: &str, unix_ms: u64) -> Option<Identity> {
        if let Some((who, ends_ms)) = self.by_token.get(token) {
            return (unix_ms < *ends_ms).then(|| who.clone());
        }
        let (who, ends_ms) = jwt.verify(token, unix_ms)?;
        if self.by_token.len() >= VERIFIED_MAX {
            self.by_token.clear();
        }
        self.by_token.insert(token.to_owned(), (who.clone(), ends_ms));
        Some(who)
    }
}

#[cfg(test)]
mod tests;
