//! Certificates for both servers and for the generator: one authority, which vouches for all of them.

use std::fs;
use std::path::{Path, PathBuf};

use ringd::tls::authority::{Authority, Issued, Order};

pub struct Files {
    folder: PathBuf,
}

impl Files {
    pub fn make(folder: &Path) -> Result<Files, String> {
        let folder = folder.join("tls");
        let mut authority = Authority::new("ringd compare");
        let server = authority.issue(&Order::new("server", &["127.0.0.1", "localhost"]));
        let client = authority.issue(&Order::new("client", &["127.0.0.1"]));
        let Issued { certificate, key, .. } = server;
        let files = [
            ("ca.pem", authority.certificate()),
            ("server.pem", certificate),
            ("server-key.pem", key),
            ("client.pem", client.certificate),
            ("client-key.pem", client.key),
        ];
        fs::create_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
        for (name, text) in files {
            let path = folder.join(name);
            fs::write(&path, text).map_err(|error| format!("{}: {error}", path.display()))?;
        }
        Ok(Files { folder })
    }

    /// For a server.
    pub fn server_args(&self) -> Vec<String> {
        let mut args = self.flags(&[
            ("cert-file", "server.pem"),
            ("key-file", "server-key.pem"),
            ("trusted-ca-file", "ca.pem"),
        ]);
        args.push("--client-cert-auth".to_owned());
        args
    }

    /// For the generator.
    pub fn client_args(&self) -> Vec<String> {
        self.flags(&[("cacert", "ca.pem"), ("cert", "client.pem"), ("key", "client-key.pem")])
    }

    fn flags(&self, flags: &[(&str, &str)]) -> Vec<String> {
        let flag =
            |(name, file): &(&str, &str)| format!("--{name}={}", self.folder.join(file).display());
        flags.iter().map(flag).collect()
    }
}
