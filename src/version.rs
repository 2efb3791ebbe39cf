//! The version that this server claims to be, in one place.
//!
//! Clients decide by it: the Kubernetes apiserver wants a semver of at least 3.4.31 outside
//! 3.5.0-3.5.12, test frameworks pick flag names by it, and `RangeStream` begins with 3.7.

/// etcd's version, in `--version`, `/version` and `Status`.
pub const VERSION: &str = "3.7.1";

/// The version the cluster as a whole speaks: `major.minor.0`. It is what `Status.storage_version` says, too; the data
/// format itself is ringd's own.
pub const CLUSTER_VERSION: &str = "3.7.0";

/// ringd's own version.
pub const RINGD_VERSION: &str = env!("CARGO_PKG_VERSION");

/// What `--version` prints: etcd's four lines, since programs read them.
pub fn text() -> String {
    format!(
        "etcd Version: {VERSION}\nGit SHA: ringd {RINGD_VERSION}\nGo Version: none (ringd is written in Rust)\nGo OS/Arch: {}/{}\n",
        std::env::consts::OS,
        go_arch(std::env::consts::ARCH)
    )
}

/// Go's name of an architecture.
fn go_arch(rust: &str) -> &str {
    match rust {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "386",
        "powerpc64" => "ppc64",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_text_has_the_four_lines_that_programs_read() {
        let text = text();
        let heads: Vec<_> = text.lines().map(|l| l.split(": ").next().unwrap_or("")).collect();
        assert_eq!(heads, ["etcd Version", "Git SHA", "Go Version", "Go OS/Arch"]);
        assert!(text.starts_with("etcd Version: 3.7.1\n"));
        assert!(text.ends_with('\n'));
    }

    #[test]
    fn the_cluster_version_is_the_minor_version_of_the_claimed_one() {
        let minor = VERSION.rsplit_once('.').map(|(minor, _)| format!("{minor}.0"));
        assert_eq!(minor.as_deref(), Some(CLUSTER_VERSION));
    }
}
