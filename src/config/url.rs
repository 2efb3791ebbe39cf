//! The URLs that flags take: where to listen, and what to tell others.

use core::net::IpAddr;
use std::fmt;

/// `http://host:port`, `https://host:port`, `unix:/path`, `unixs:/path`, and nothing after it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Url {
    text: String,
    pub scheme: Scheme,
    pub address: Address,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scheme {
    Http,
    Https,
    Unix,
    Unixs,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Address {
    /// The host is without the brackets of an IPv6 address, and may be empty or a name.
    Tcp { host: String, port: u16 },
    /// The path of a socket. etcd takes `unix://name:1` as the path `name:1`.
    Unix { path: String },
}

impl Url {
    /// The error is the rule that `text` breaks, in etcd's words, with the text.
    pub fn parse(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let scheme = || format!("URL scheme must be http, https, unix, or unixs: {text}");
        let (head, rest) = text.split_once(':').ok_or_else(scheme)?;
        match head.to_ascii_lowercase().as_str() {
            "http" => Self::tcp(Scheme::Http, "http", rest, text),
            "https" => Self::tcp(Scheme::Https, "https", rest, text),
            "unix" => Self::unix(Scheme::Unix, "unix", rest, text),
            "unixs" => Self::unix(Scheme::Unixs, "unixs", rest, text),
            _ => Err(scheme()),
        }
    }

    fn tcp(scheme: Scheme, name: &str, rest: &str, text: &str) -> Result<Self, String> {
        let form = || format!("URL address does not have the form \"host:port\": {text}");
        let rest = rest.strip_prefix("//").ok_or_else(form)?;
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(end);
        let (host, port) = split_host_port(authority).ok_or_else(form)?;
        if !path.is_empty() {
            return Err(format!("URL must not contain a path: {text}"));
        }
        Ok(Self {
            text: format!("{name}://{authority}"),
            scheme,
            address: Address::Tcp { host: host.to_owned(), port },
        })
    }

    fn unix(scheme: Scheme, name: &str, rest: &str, text: &str) -> Result<Self, String> {
        let path = rest.strip_prefix("//").unwrap_or(rest);
        if path.is_empty() || path.contains(['?', '#', '\0']) {
            return Err(format!("URL must name the path of a socket: {text}"));
        }
        Ok(Self {
            text: format!("{name}:{rest}"),
            scheme,
            address: Address::Unix { path: path.to_owned() },
        })
    }

    /// As it was given, but for the case of the scheme. What members tell each other.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    pub fn is_tls(&self) -> bool {
        matches!(self.scheme, Scheme::Https | Scheme::Unixs)
    }

    /// Whom the certificate of who listens there has to be for.
    pub fn host(&self) -> &str {
        match &self.address {
            Address::Tcp { host, .. } => host,
            Address::Unix { .. } => "localhost",
        }
    }

    /// To listen somewhere, an address is needed and not a name that has to be looked up.
    pub fn check_bind(&self) -> Result<(), String> {
        match &self.address {
            Address::Tcp { host, .. } if host != "localhost" && host.parse::<IpAddr>().is_err() => {
                Err(format!("expected IP in URL for binding ({self})"))
            }
            _ => Ok(()),
        }
    }

    /// To be found by others, a host is needed.
    pub fn check_host(&self) -> Result<(), String> {
        match &self.address {
            Address::Tcp { host, .. } if host.is_empty() => {
                Err(format!("unexpected empty host ({self})"))
            }
            _ => Ok(()),
        }
    }

    /// The URL with the one name of which we know the address without asking anybody replaced by
    /// it, so that `localhost` and `127.0.0.1` can be compared.
    pub fn resolved(&self) -> Self {
        match &self.address {
            Address::Tcp { host, port } if host == "localhost" => {
                let address = Address::Tcp { host: "127.0.0.1".to_owned(), port: *port };
                Self {
                    text: self.text.replacen("localhost", "127.0.0.1", 1),
                    scheme: self.scheme,
                    address,
                }
            }
            _ => self.clone(),
        }
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

fn split_host_port(authority: &str) -> Option<(&str, u16)> {
    let (host, port) = authority.rsplit_once(':')?;
    let host = match host.strip_prefix('[') {
        Some(inner) => inner.strip_suffix(']')?,
        None if host.contains(':') => return None,
        None => host,
    };
    let plain = !host.contains(['[', ']', '@', ' ']) && port.bytes().all(|b| b.is_ascii_digit());
    if plain { Some((host, port.parse().ok()?)) } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_that_etcd_takes_are_taken() {
        let cases = [
            ("http://localhost:2379", Scheme::Http, "localhost", 2379),
            ("https://10.0.0.1:2379", Scheme::Https, "10.0.0.1", 2379),
            ("HTTP://a:1", Scheme::Http, "a", 1),
            ("http://[::1]:80", Scheme::Http, "::1", 80),
            (" http://0.0.0.0:0 ", Scheme::Http, "0.0.0.0", 0),
            ("http://:2379", Scheme::Http, "", 2379),
        ];
        for (text, scheme, host, port) in cases {
            let url = Url::parse(text).unwrap();
            assert_eq!(url.scheme, scheme, "{text}");
            assert_eq!(url.address, Address::Tcp { host: host.into(), port }, "{text}");
        }
        for (text, path) in [
            ("unix:/run/ringd.sock", "/run/ringd.sock"),
            ("unix:///run/ringd.sock", "/run/ringd.sock"),
            ("unixs://localhost:1", "localhost:1"),
        ] {
            assert_eq!(Url::parse(text).unwrap().address, Address::Unix { path: path.into() });
        }
        assert_eq!(Url::parse("HTTP://A:1").unwrap().as_str(), "http://A:1");
    }

    #[test]
    fn urls_that_etcd_refuses_are_refused_in_its_words() {
        let cases = [
            ("", "URL scheme must be http, https, unix, or unixs: "),
            ("localhost:2379", "URL scheme must be http, https, unix, or unixs: localhost:2379"),
            ("ftp://a:1", "URL scheme must be http, https, unix, or unixs: ftp://a:1"),
            ("http://a", "URL address does not have the form \"host:port\": http://a"),
            ("http:a:1", "URL address does not have the form \"host:port\": http:a:1"),
            ("http://::1:2", "URL address does not have the form \"host:port\": http://::1:2"),
            ("http://a:x", "URL address does not have the form \"host:port\": http://a:x"),
            ("http://a:65536", "URL address does not have the form \"host:port\": http://a:65536"),
            ("http://u@a:1", "URL address does not have the form \"host:port\": http://u@a:1"),
            ("http://a:1/", "URL must not contain a path: http://a:1/"),
            ("http://a:1/x", "URL must not contain a path: http://a:1/x"),
            ("unix:", "URL must name the path of a socket: unix:"),
        ];
        for (text, rule) in cases {
            assert_eq!(Url::parse(text).unwrap_err(), rule, "{text}");
        }
    }

    #[test]
    fn listening_needs_an_address_and_advertising_needs_a_host() {
        let bind = |s: &str| Url::parse(s).unwrap().check_bind();
        for good in ["http://localhost:1", "http://127.0.0.1:1", "http://[::]:1", "unix:/a"] {
            assert_eq!(bind(good), Ok(()), "{good}");
        }
        assert_eq!(
            bind("http://example.com:1"),
            Err("expected IP in URL for binding (http://example.com:1)".to_owned())
        );
        assert!(bind("http://:1").is_err());
        let host = |s: &str| Url::parse(s).unwrap().check_host();
        assert_eq!(host("http://example.com:1"), Ok(()));
        assert_eq!(host("http://:1"), Err("unexpected empty host (http://:1)".to_owned()));
    }

    #[test]
    fn localhost_and_its_address_are_the_same_place() {
        let url = |s: &str| Url::parse(s).unwrap().resolved();
        assert_eq!(url("http://localhost:1"), url("http://127.0.0.1:1"));
        assert_ne!(url("http://localhost:1"), url("http://127.0.0.1:2"));
    }
}
