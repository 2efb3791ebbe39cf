//! What is computed of passwords. It takes long on purpose, so it is computed on another thread: the core hands out
//! an [`Op`], whoever drives it carries it out by [`Op::run`] and brings back what it came to.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use zeroize::Zeroize;

use super::Identity;
use super::jwt::Jwt;

/// bcrypt's bounds of the cost, and what stands in for one outside of them: etcd's default.
pub const COST_MIN: u32 = 4;
pub const COST_MAX: u32 = 31;
pub const COST_DEFAULT: u32 = 10;

/// The longest password that can be hashed, in bytes.
pub const PASSWORD_BYTES_MAX: usize = 72;

/// A password. It is not shown, and overwritten when it goes.
pub struct Secret(String);

impl Secret {
    pub fn new(text: String) -> Secret {
        Secret(text)
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Clone for Secret {
    fn clone(&self) -> Secret {
        Secret(self.0.clone())
    }
}

impl Drop for Secret {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

/// Random bytes that an operation needs, from a source that nobody can foresee.
pub type Entropy = [u8; 80];

const TOKEN_LETTERS: &[u8] = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";
const TOKEN_PREFIX_LEN: usize = 16;

#[derive(Debug)]
pub enum Op {
    Hash {
        password: Secret,
        cost: u32,
    },
    Compare {
        password: Secret,
        hash: Bytes,
    },
    /// A token for somebody who has shown the right one.
    Sign {
        jwt: Arc<Jwt>,
        who: Identity,
        unix_s: u64,
    },
}

#[derive(Debug, PartialEq, Eq)]
pub enum Done {
    Hashed(String),
    /// The password is the right one: the letters of a token that may be made for it.
    Matches(String),
    Differs,
    /// None if the key does not sign.
    Signed(Option<String>),
}

impl Op {
    pub fn run(self, entropy: &Entropy) -> Done {
        let (salt, letters) = entropy.split_first_chunk::<16>().expect("80 bytes are more than 16");
        match self {
            Op::Sign { jwt, who, unix_s } => Done::Signed(jwt.sign(&who, unix_s)),
            Op::Hash { password, cost } => {
                let cost = cost.clamp(COST_MIN, COST_MAX);
                let hashed = bcrypt::hash_with_salt(&password.0, cost, *salt);
                // etcd's version of the form.
                let version = bcrypt::Version::TwoA;
                Done::Hashed(hashed.expect("the cost is allowed").format_for_version(version))
            }
            Op::Compare { password, hash } => {
                let hash = std::str::from_utf8(&hash).unwrap_or_default();
                match bcrypt::verify(&password.0, hash) {
                    Ok(true) => Done::Matches(token_prefix(letters)),
                    // A hash that is none fits no password.
                    Ok(false) | Err(_) => Done::Differs,
                }
            }
        }
    }
}

fn token_prefix(entropy: &[u8]) -> String {
    let numbers = entropy.as_chunks::<4>().0.iter().map(|bytes| u32::from_be_bytes(*bytes));
    let letters = numbers.filter_map(|n| TOKEN_LETTERS.get(n as usize % TOKEN_LETTERS.len()));
    letters.take(TOKEN_PREFIX_LEN).map(|letter| char::from(*letter)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(text: &str) -> Secret {
        Secret::new(text.to_owned())
    }

    #[test]
    fn what_was_hashed_is_found_to_match_and_nothing_else() {
        let Done::Hashed(hash) = Op::Hash { password: secret("pass"), cost: 4 }.run(&[7; 80])
        else {
            panic!("a hash was asked for")
        };
        assert!(hash.starts_with("$2a$04$") && hash.len() == 60);
        let compare = |password: &str, hash: &str| {
            Op::Compare { password: secret(password), hash: hash.to_owned().into() }.run(&[9; 80])
        };
        assert!(matches!(compare("pass", &hash), Done::Matches(_)));
        assert_eq!(compare("Pass", &hash), Done::Differs);
        assert_eq!(compare("", &hash), Done::Differs);
        assert_eq!(compare("pass", ""), Done::Differs);
        assert_eq!(compare("pass", "no hash"), Done::Differs);
    }

    #[test]
    fn hashes_of_go_are_understood() {
        // golang.org/x/crypto/bcrypt's own vector.
        let hash = "$2a$10$XajjQvNhvvRt5GSeFk1xFeyqRrsxkhBkUiQeg0dt.wU1qD4aFDcga";
        let password = secret("allmine");
        let compared = Op::Compare { password, hash: hash.to_owned().into() }.run(&[0; 80]);
        assert_eq!(compared, Done::Matches("a".repeat(16)));
    }

    #[test]
    fn the_letters_of_a_token_are_sixteen_and_depend_on_the_entropy() {
        let of = |byte: u8| token_prefix(&[byte; 64]);
        assert_eq!(of(1).len(), 16);
        assert!(of(200).bytes().all(|letter| letter.is_ascii_alphabetic()));
        assert_ne!(of(1), of(2));
    }
}
