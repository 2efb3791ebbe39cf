//! The command line.

use std::path::{Path, PathBuf};

use clap::Parser;

/// Compares two servers, shape by shape.
#[derive(Debug, Parser)]
#[command(name = "cargo bench --bench compare --", disable_version_flag = true)]
pub struct Options {
    /// The first server, "ringd" in the report
    #[arg(long, default_value = env!("CARGO_BIN_EXE_ringd"), value_name = "FILE")]
    pub ringd: PathBuf,
    /// The second server, "etcd" in the report; tests/tools/build makes this one
    #[arg(
        long,
        default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/tools/bin/etcd"),
        value_name = "FILE"
    )]
    pub etcd: PathBuf,
    /// Members of each cluster, all on this machine
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=7))]
    pub members: u8,
    /// How often each of the two is started for each shape
    #[arg(long, default_value_t = 5, value_name = "N")]
    pub pairs: usize,
    /// Only this shape; can be given more than once
    #[arg(long, value_name = "SHAPE")]
    only: Vec<String>,
    /// Short runs over few keys: shows that it works, and no figures to be cited
    #[arg(long)]
    pub quick: bool,
    /// Clients with TLS, and certificates on both sides
    #[arg(long)]
    pub tls: bool,
    /// Where the report goes
    #[arg(
        long,
        default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/target/compare"),
        value_name = "FOLDER"
    )]
    pub out: PathBuf,
}

impl Options {
    pub fn wants(&self, shape: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|only| only == shape)
    }

    /// Of the two servers, name and binary.
    pub fn subjects(&self) -> [(&'static str, &Path); 2] {
        [("ringd", &self.ringd), ("etcd", &self.etcd)]
    }
}
