//! What the v3 discovery service knows of a cluster that is about to be founded.
//!
//! The service is an ordinary etcd. Under a token that only this cluster uses it holds how many members there are to
//! be, written by whoever made the token, and a key for each member that has reported. Who comes first, by the
//! revision at which its key was created, belongs to it; who comes too late does not. All members see the same order,
//! so they found the same cluster.

/// Why no cluster can be founded from what is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RegistryError {
    #[error("discovery: size key not found")]
    NoSize,
    #[error("discovery: size key is bad")]
    BadSize,
    #[error("discovery: cluster is full")]
    Full,
}

/// Why a key of a member is passed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unusable {
    #[error("invalid peer registry key")]
    Key,
    #[error("invalid peer info returned from discovery service")]
    Value,
    #[error("found duplicate peer from discovery service")]
    Twice,
}

struct Registered {
    key: String,
    /// As in `--initial-cluster`: `name=url`, with commas between them.
    urls: String,
    created: i64,
}

/// The members that have reported.
pub struct Registry {
    prefix: String,
    /// By the revision at which they were created.
    members: Vec<Registered>,
}

impl Registry {
    pub fn new(token: &str) -> Registry {
        Registry { prefix: path(token, "members"), members: Vec::new() }
    }

    /// The key that holds how many members there are to be.
    pub fn size_key(token: &str) -> String {
        path(token, "_config/size")
    }

    /// What the keys of all members begin with.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    pub fn key_of(&self, id: u64) -> String {
        format!("{}/{id:x}", self.prefix)
    }

    pub fn add(&mut self, key: &[u8], value: &[u8], created: i64) -> Result<(), Unusable> {
        let text = |bytes| String::from_utf8_lossy(bytes).trim().to_owned();
        let (key, urls) = (text(key), text(value));
        if !key.starts_with(&self.prefix) {
            return Err(Unusable::Key);
        }
        if !urls.contains('=') {
            return Err(Unusable::Value);
        }
        if self.members.iter().any(|member| member.key == key) {
            return Err(Unusable::Twice);
        }
        let at = self.members.partition_point(|member| member.created <= created);
        self.members.insert(at, Registered { key, urls, created });
        Ok(())
    }

    pub fn count(&self) -> usize {
        self.members.len()
    }

    /// Whether a cluster of this size has a place for a member, or has given it one.
    pub fn expect_place(&self, id: u64, size: usize) -> Result<(), RegistryError> {
        let key = self.key_of(id);
        let has_place = self.members.iter().take(size).any(|member| member.key == key);
        if has_place || self.members.len() < size { Ok(()) } else { Err(RegistryError::Full) }
    }

    /// The text of an `--initial-cluster` of the members that came first.
    pub fn initial_cluster(&self, size: usize) -> String {
        let urls: Vec<&str> = self.members.iter().take(size).map(|m| m.urls.as_str()).collect();
        urls.join(",")
    }
}

/// How many members there are to be, by the value of [`Registry::size_key`].
pub fn registered_size(value: Option<&[u8]>) -> Result<usize, RegistryError> {
    let value = value.ok_or(RegistryError::NoSize)?;
    let text = std::str::from_utf8(value).map_err(|_| RegistryError::BadSize)?;
    match text.parse::<i64>() {
        Ok(size) if size > 0 => usize::try_from(size).map_err(|_| RegistryError::BadSize),
        _ => Err(RegistryError::BadSize),
    }
}

/// A key under a token, in which `.`, `..` and empty parts mean what they mean in the path of a file.
fn path(token: &str, rest: &str) -> String {
    let mut parts = Vec::new();
    for part in ["_etcd", "registry"].into_iter().chain(token.split('/')).chain(rest.split('/')) {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    format!("/{}", parts.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn registry(members: &[(u64, i64)]) -> Registry {
        let mut registry = Registry::new("t");
        for (id, created) in members {
            let value = format!("m{id}=http://10.0.0.{id}:2380");
            registry.add(registry.key_of(*id).as_bytes(), value.as_bytes(), *created).unwrap();
        }
        registry
    }

    #[test]
    fn keys_are_those_of_etcd() {
        assert_eq!(Registry::size_key("t"), "/_etcd/registry/t/_config/size");
        assert_eq!(Registry::new("t").prefix(), "/_etcd/registry/t/members");
        let key = Registry::new("t").key_of(0x00ab_cdef);
        assert_eq!(key, "/_etcd/registry/t/members/abcdef");
        assert_eq!(Registry::size_key("a//./b/../c/"), "/_etcd/registry/a/c/_config/size");
    }

    #[test]
    fn a_size_is_a_number_above_0() {
        assert_eq!(registered_size(Some(b"3")), Ok(3));
        assert_eq!(registered_size(None), Err(RegistryError::NoSize));
        for bad in [&b""[..], b"0", b"-1", b"3 ", b"x", b"\xff", b"99999999999999999999"] {
            assert_eq!(registered_size(Some(bad)), Err(RegistryError::BadSize), "{bad:?}");
        }
    }

    #[test]
    fn who_reports_first_belongs_to_the_cluster() {
        let registry = registry(&[(1, 30), (2, 10), (3, 20)]);
        let [first, second] = ["m2=http://10.0.0.2:2380", "m3=http://10.0.0.3:2380"];
        assert_eq!(registry.initial_cluster(2), format!("{first},{second}"));
        assert_eq!(registry.expect_place(2, 2), Ok(()));
        assert_eq!(registry.expect_place(3, 2), Ok(()));
        assert_eq!(registry.expect_place(1, 2), Err(RegistryError::Full));
        assert_eq!(registry.expect_place(9, 3), Err(RegistryError::Full));
        assert_eq!(registry.expect_place(9, 4), Ok(()));
    }

    #[test]
    fn what_is_no_member_is_passed_over() {
        let mut registry = registry(&[(1, 30)]);
        let mut add = |key: &str, value: &str| registry.add(key.as_bytes(), value.as_bytes(), 1);
        let prefix = "/_etcd/registry/t/members";
        assert_eq!(add("/elsewhere", "a=b"), Err(Unusable::Key));
        assert_eq!(add(&format!("{prefix}/2"), "nothing"), Err(Unusable::Value));
        assert_eq!(add(&format!("{prefix}/1"), "m1=http://10.0.0.9:2380"), Err(Unusable::Twice));
        assert_eq!(add(&format!(" {prefix}/2\n"), " m2=http://10.0.0.2:2380 "), Ok(()));
        assert_eq!(registry.count(), 2);
        assert!(registry.initial_cluster(1).starts_with("m2="));
    }
}
