//! One TLS connection, of either end: bytes in, bytes out.

use std::io::{Read, Write};
use std::sync::Arc;

use rustls::client::ClientConnection;
use rustls::pki_types::ServerName;
use rustls::server::{ServerConfig, ServerConnection};
use rustls::{
    AlertDescription, CertificateError, ClientConfig, Connection, Error, InvalidMessage,
    StreamOwned,
};

use super::Certificate;
use super::verify::Refusal;

#[derive(Debug)]
pub struct Session {
    connection: Connection,
    has_ended: bool,
}

impl Session {
    pub fn accept(config: Arc<ServerConfig>) -> Result<Session, Error> {
        ServerConnection::new(config).map(|connection| Session::new(connection.into()))
    }

    /// `host`: whom the certificate of the other end has to be for.
    pub fn dial(config: Arc<ClientConfig>, host: &str) -> Result<Session, Error> {
        let name = ServerName::try_from(host.to_owned())
            .map_err(|_| Error::General(format!("{host:?} is no name of a host")))?;
        ClientConnection::new(config, name).map(|connection| Session::new(connection.into()))
    }

    fn new(mut connection: Connection) -> Session {
        // What is written is bounded by who writes.
        connection.set_buffer_limit(None);
        Session { connection, has_ended: false }
    }

    /// Takes some of what the socket gave, a record or a part of one. To be called until `bytes` is empty, and
    /// [`read`](Session::read) until it gives nothing, in turns. After an error, what [`take_output`] gives is still
    /// to be sent: it tells the other end why.
    ///
    /// [`take_output`]: Session::take_output
    pub fn feed(&mut self, bytes: &mut &[u8]) -> Result<(), Error> {
        let taken = self.connection.read_tls(bytes);
        if taken.map_err(|error| Error::General(error.to_string()))? == 0 {
            // What comes after the end is nothing.
            *bytes = &[];
        }
        let state = self.connection.process_new_packets()?;
        self.has_ended |= state.peer_has_closed();
        Ok(())
    }

    /// Plaintext that has arrived, as far as it goes into `window`.
    pub fn read(&mut self, window: &mut [u8]) -> usize {
        // "Nothing now" is an error there.
        self.connection.reader().read(window).unwrap_or(0)
    }

    /// Puts what is to be sent in the place of `plaintext`. Not before the handshake is done.
    pub fn seal(&mut self, plaintext: &mut Vec<u8>) -> Result<(), Error> {
        assert!(!self.connection.is_handshaking(), "nothing is said before it is known to whom");
        let written = self.connection.writer().write_all(plaintext);
        written.map_err(|error| Error::General(error.to_string()))?;
        plaintext.clear();
        self.take_output(plaintext);
        Ok(())
    }

    /// Adds what the session itself has to say.
    pub fn take_output(&mut self, out: &mut Vec<u8>) {
        while self.connection.wants_write() {
            // A vector takes all it is given.
            if self.connection.write_tls(out).is_err() {
                return;
            }
        }
    }

    /// The last word. Nothing is sealed after it.
    pub fn close(&mut self) {
        self.connection.send_close_notify();
    }

    pub fn is_handshaking(&self) -> bool {
        self.connection.is_handshaking()
    }

    /// The other end has said that it has said everything.
    pub fn has_ended(&self) -> bool {
        self.has_ended
    }

    /// Of the other end, if it has shown one. It is verified when the handshake is done.
    pub fn certificate(&self) -> Option<Certificate> {
        let certificates = self.connection.peer_certificates()?;
        Certificate::read(certificates.first()?).ok()
    }

    /// The name by which the other end has asked for us.
    pub fn server_name(&self) -> &str {
        match &self.connection {
            Connection::Server(connection) => connection.server_name().unwrap_or_default(),
            Connection::Client(_) => "",
        }
    }
}

/// A stream that waits, of the end that dials: for who has no loop.
pub fn dial<S: Read + Write>(
    config: Arc<ClientConfig>,
    host: &str,
    socket: S,
) -> Result<StreamOwned<ClientConnection, S>, String> {
    let name = ServerName::try_from(host.to_owned())
        .map_err(|_| format!("{host:?} is no name of a host"))?;
    let connection = ClientConnection::new(config, name).map_err(|error| describe(&error))?;
    Ok(StreamOwned::new(connection, socket))
}

/// An error of a session in one line.
pub fn describe(error: &Error) -> String {
    match error {
        Error::InvalidCertificate(CertificateError::Other(other)) => {
            match other.0.downcast_ref::<Refusal>() {
                Some(refusal) => refusal.to_string(),
                None => format!("invalid certificate: {}", other.0),
            }
        }
        Error::InvalidCertificate(CertificateError::UnknownIssuer) => {
            "tls: failed to verify certificate: x509: certificate signed by unknown authority"
                .to_owned()
        }
        Error::InvalidCertificate(_) => {
            format!("tls: failed to verify certificate: {error}")
        }
        Error::NoCertificatesPresented => "tls: client didn't provide a certificate".to_owned(),
        Error::InvalidMessage(InvalidMessage::InvalidContentType) => {
            "tls: first record does not look like a TLS handshake: plaintext was sent to a TLS port"
                .to_owned()
        }
        Error::AlertReceived(AlertDescription::UnknownCA | AlertDescription::BadCertificate) => {
            "remote error: tls: the other end does not take this certificate".to_owned()
        }
        Error::PeerIncompatible(how) => {
            format!(
                "tls: the other end offers no version or cipher suite that is taken here ({how:?})"
            )
        }
        Error::AlertReceived(alert) => format!("remote error: tls: {alert:?}"),
        error => format!("tls: {error}"),
    }
}
