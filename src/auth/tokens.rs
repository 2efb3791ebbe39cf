//! Simple tokens: sixteen letters, a point, and the index of the entry that made them.
//!
//! Every member learns of a token when it applies its entry, and forgets it when it was not used for its time
//! to live, by that member's own clock. They are not persisted.

use std::collections::HashMap;

use super::limits::{TOKEN_SWEEP_MS, TOKENS_MAX};

/// etcd's default time to live.
pub const TOKEN_TTL_MS: u64 = 300_000;

struct Token {
    user: String,
    expiry_ms: u64,
}

pub struct Tokens {
    ttl_ms: u64,
    is_enabled: bool,
    /// Clients choose what is looked up, so the hash is keyed. Its order is never looked at.
    by_text: HashMap<String, Token>,
    sweep_ms: u64,
}

impl Default for Tokens {
    fn default() -> Tokens {
        Tokens { ttl_ms: TOKEN_TTL_MS, is_enabled: false, by_text: HashMap::new(), sweep_ms: 0 }
    }
}

/// The index of the entry that made a token, if it has the form of one.
pub fn applied_at(token: &str) -> Option<u64> {
    let (_, index) = token.split_once('.')?;
    let digits = !index.is_empty() && index.bytes().all(|byte| byte.is_ascii_digit());
    index.parse().ok().filter(|_| digits)
}

impl Tokens {
    /// 0 stands for etcd's default.
    pub fn set_ttl_ms(&mut self, ttl_ms: u64) {
        self.ttl_ms = if ttl_ms == 0 { TOKEN_TTL_MS } else { ttl_ms };
    }

    pub(super) fn set_enabled(&mut self, is_enabled: bool) {
        self.is_enabled = is_enabled;
        if !is_enabled {
            self.by_text.clear();
        }
    }

    pub fn len(&self) -> usize {
        self.by_text.len()
    }

    pub fn is_empty(&self) -> bool {
        self.by_text.is_empty()
    }

    pub(super) fn assign(&mut self, user: &str, token: &str, now_ms: u64) {
        if !self.is_enabled {
            return;
        }
        self.sweep(now_ms);
        if self.by_text.len() >= TOKENS_MAX {
            let first = self.by_text.iter().min_by_key(|(_, token)| token.expiry_ms);
            if let Some(first) = first.map(|(text, _)| text.clone()) {
                self.by_text.remove(&first);
            }
        }
        let expiry_ms = now_ms + self.ttl_ms;
        self.by_text.insert(token.to_owned(), Token { user: user.to_owned(), expiry_ms });
    }

    pub(super) fn drop_user(&mut self, user: &str) {
        self.by_text.retain(|_, token| token.user != user);
    }

    /// Whose token it is. It lives for its full time again.
    pub fn user_of(&mut self, token: &str, now_ms: u64) -> Option<&str> {
        self.sweep(now_ms);
        let found = self.by_text.get_mut(token).filter(|token| token.expiry_ms > now_ms)?;
        found.expiry_ms = now_ms + self.ttl_ms;
        Some(&found.user)
    }

    fn sweep(&mut self, now_ms: u64) {
        if now_ms >= self.sweep_ms {
            self.sweep_ms = now_ms + TOKEN_SWEEP_MS;
            self.by_text.retain(|_, token| token.expiry_ms > now_ms);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens() -> Tokens {
        let mut tokens = Tokens::default();
        tokens.set_ttl_ms(5_000);
        tokens.set_enabled(true);
        tokens
    }

    #[test]
    fn a_token_lives_as_long_as_it_is_used() {
        let mut tokens = tokens();
        tokens.assign("a", "t.1", 0);
        for now_ms in [4_999, 9_998] {
            assert_eq!(tokens.user_of("t.1", now_ms), Some("a"));
        }
        assert_eq!(tokens.user_of("t.1", 14_998), None);
        assert_eq!(tokens.user_of("t.2", 0), None);
        tokens.user_of("t.2", 16_000);
        assert!(tokens.is_empty(), "it was removed");
    }

    #[test]
    fn tokens_go_with_their_user_and_all_of_them_when_disabled() {
        let mut tokens = tokens();
        for (user, token) in [("a", "t.1"), ("b", "t.2"), ("a", "t.3")] {
            tokens.assign(user, token, 0);
        }
        tokens.drop_user("a");
        assert_eq!(tokens.user_of("t.1", 1), None);
        assert_eq!(tokens.user_of("t.3", 1), None);
        assert_eq!(tokens.user_of("t.2", 1), Some("b"));
        tokens.set_enabled(false);
        tokens.assign("b", "t.4", 1);
        tokens.set_enabled(true);
        assert_eq!(tokens.user_of("t.2", 1), None);
        assert_eq!(tokens.user_of("t.4", 1), None);
    }

    #[test]
    fn there_are_never_too_many() {
        let mut tokens = tokens();
        for n in 0..TOKENS_MAX as u64 + 5 {
            // One after the other, so that it is clear which goes first; all within one sweep.
            tokens.assign("a", &format!("t.{n}"), 1 + n / TOKENS_MAX as u64);
        }
        assert_eq!(tokens.len(), TOKENS_MAX);
        assert!(tokens.user_of(&format!("t.{}", TOKENS_MAX + 4), 2).is_some());
    }

    #[test]
    fn the_index_of_a_token_is_what_stands_behind_the_point() {
        assert_eq!(applied_at("abcdefghijklmnop.17"), Some(17));
        for token in ["", "abc", "abc.", "abc.x", "abc.+1", "a.1.2", "abc.99999999999999999999"] {
            assert_eq!(applied_at(token), None, "{token:?}");
        }
    }
}
