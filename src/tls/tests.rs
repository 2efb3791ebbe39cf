//! Both ends of sessions, without a socket between them.

use std::io::Write;
use std::sync::Arc;

use super::authority::{Authority, Issued, Order};
use super::*;

fn content(path: &str, bytes: impl Into<Vec<u8>>) -> Content {
    Content { path: path.to_owned(), bytes: bytes.into() }
}

fn pair(issued: &Issued) -> Pair {
    Pair {
        certificate: content("cert.pem", issued.certificate.clone()),
        key: content("key.pem", issued.key.clone()),
    }
}

/// One end's files: a certificate, if any, and whom it trusts.
fn files(own: Option<&Issued>, trusted: Option<&Authority>) -> Contents {
    Contents {
        certificate: own.map(pair),
        trusted: trusted.map(|authority| content("ca.pem", authority.certificate())),
        ..Contents::default()
    }
}

fn material(contents: &Contents, rules: &Rules, policy: &Policy) -> Material {
    Material::new(contents, rules, policy).unwrap()
}

fn plain(contents: &Contents) -> Material {
    material(contents, &Rules::default(), &Policy::default())
}

/// The outcome of a handshake as both ends see it.
struct Outcome {
    server: Result<Session, String>,
    client: Result<Session, String>,
}

fn shake(server: &Material, client: &Material, host: &str) -> Outcome {
    let config = server.server.clone().expect("a server with a certificate");
    let mut server = Ok(Session::accept(config).unwrap());
    let mut client = Ok(Session::dial(client.client.clone(), host).unwrap());
    for _ in 0..8 {
        pass(&mut client, &mut server);
        pass(&mut server, &mut client);
    }
    Outcome { server, client }
}

/// Hands what one end has to say to the other.
fn pass(from: &mut Result<Session, String>, to: &mut Result<Session, String>) {
    let mut bytes = Vec::new();
    if let Ok(from) = from {
        from.take_output(&mut bytes);
    }
    feed(to, &bytes);
}

fn feed(to: &mut Result<Session, String>, bytes: &[u8]) {
    let Ok(session) = to else { return };
    let mut rest = bytes;
    while !rest.is_empty() {
        if let Err(error) = session.feed(&mut rest) {
            *to = Err(describe(&error));
            return;
        }
    }
}

fn server_error(outcome: Outcome) -> String {
    outcome.server.expect_err("the server refuses")
}

fn client_error(outcome: Outcome) -> String {
    outcome.client.expect_err("the client refuses")
}

#[test]
fn plaintext_goes_through_in_both_directions_whatever_its_size() {
    let mut authority = Authority::new("ca");
    let own = authority.issue(&Order::new("server", &["localhost"]));
    let server = plain(&files(Some(&own), None));
    let client = plain(&files(None, Some(&authority)));
    let Outcome { server, client } = shake(&server, &client, "localhost");
    let (mut server, mut client) = (server.unwrap(), client.unwrap());
    for size in [0, 1, 300, 16_384, 16_385, 300_000] {
        let said: Vec<u8> = (0..size).map(|n| n as u8).collect();
        for (from, to) in [(true, "server"), (false, "client")] {
            let (from, to_end) =
                if from { (&mut client, &mut server) } else { (&mut server, &mut client) };
            let mut wire = said.clone();
            from.seal(&mut wire).unwrap();
            assert!(size == 0 || wire != said);
            let (mut heard, mut window) = (Vec::new(), [0; 4096]);
            // In pieces, as a socket gives them.
            for piece in wire.chunks(5_000) {
                let mut rest = piece;
                while !rest.is_empty() {
                    to_end.feed(&mut rest).unwrap();
                    loop {
                        let read = to_end.read(&mut window);
                        heard.extend_from_slice(&window[..read]);
                        if read == 0 {
                            break;
                        }
                    }
                }
            }
            assert!(heard == said, "{size} bytes to the {to}");
        }
    }
    let mut last = Vec::new();
    client.close();
    client.take_output(&mut last);
    server.feed(&mut &last[..]).unwrap();
    assert!(server.has_ended());
}

#[test]
fn who_trusts_an_authority_takes_no_client_without_its_certificate() {
    let mut authority = Authority::new("ca");
    let own = authority.issue(&Order::new("server", &["127.0.0.1"]));
    let server = plain(&files(Some(&own), Some(&authority)));

    let with = shake(&server, &plain(&files(Some(&own), Some(&authority))), "127.0.0.1");
    let certificate = with.server.unwrap().certificate().unwrap();
    assert_eq!(certificate.common_name, "server");
    assert_eq!(certificate.names(), "127.0.0.1");

    let without = shake(&server, &plain(&files(None, Some(&authority))), "127.0.0.1");
    assert_eq!(server_error(without), "tls: client didn't provide a certificate");

    let mut other = Authority::new("other");
    let foreign = other.issue(&Order::new("server", &["127.0.0.1"]));
    let with_foreign =
        shake(&server, &plain(&files(Some(&foreign), Some(&authority))), "127.0.0.1");
    assert!(server_error(with_foreign).ends_with("signed by unknown authority"));
}

#[test]
fn a_certificate_that_has_expired_is_refused_by_either_end() {
    let mut authority = Authority::new("ca");
    let own = authority.issue(&Order::new("own", &["localhost"]));
    let old = authority.issue(&Order { has_expired: true, ..Order::new("old", &["localhost"]) });
    let good = plain(&files(Some(&own), Some(&authority)));
    let bad = plain(&files(Some(&old), Some(&authority)));
    let error = server_error(shake(&good, &bad, "localhost"));
    assert!(error.contains("expired"), "{error}");
    let error = client_error(shake(&bad, &good, "localhost"));
    assert!(error.contains("expired"), "{error}");
}

#[test]
fn a_server_that_is_somebody_else_is_refused_by_name() {
    let mut authority = Authority::new("ca");
    let own = authority.issue(&Order::new("server", &["a.example", "10.0.0.1"]));
    let server = plain(&files(Some(&own), None));
    let client = plain(&files(None, Some(&authority)));
    let error = client_error(shake(&server, &client, "b.example"));
    assert!(error.contains("b.example") && error.contains("a.example"), "{error}");
    assert!(shake(&server, &client, "10.0.0.1").client.is_ok());
    let nobody = plain(&Contents::default());
    let error = client_error(shake(&server, &nobody, "a.example"));
    assert!(error.contains("no trusted certificate"), "{error}");
}

#[test]
fn revoked_certificates_are_refused_in_both_directions() {
    let mut authority = Authority::new("ca");
    let good = authority.issue(&Order::new("good", &["localhost"]));
    let bad = authority.issue(&Order::new("bad", &["localhost"]));
    let (der, pem) = authority.revoke(&[bad.serial, 0x80]);
    for list in [der, pem.into_bytes()] {
        let with_list = |own| Contents {
            revoked: Some(content("crl", list.clone())),
            ..files(Some(own), Some(&authority))
        };
        let without = |own| plain(&files(Some(own), Some(&authority)));
        let strict = plain(&with_list(&good));
        assert!(shake(&strict, &without(&good), "localhost").server.is_ok());
        let error = server_error(shake(&strict, &without(&bad), "localhost"));
        assert_eq!(error, "transport: certificate serial 02 revoked");
        let error = client_error(shake(&without(&bad), &strict, "localhost"));
        assert_eq!(error, "transport: certificate serial 02 revoked");
    }
}

#[test]
fn only_allowed_common_names_and_hosts_come_in() {
    let mut authority = Authority::new("ca");
    let own = authority.issue(&Order::new("server", &["localhost"]));
    let client = authority.issue(&Order::new("alice", &["*.clients.example", "10.0.0.5"]));
    let client = plain(&files(Some(&client), Some(&authority)));
    let list = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    let server =
        |rules: &Rules| material(&files(Some(&own), Some(&authority)), rules, &Policy::default());
    let by_name = |names: &[&str]| server(&Rules { allowed_cns: list(names), ..Rules::default() });
    assert!(shake(&by_name(&["bob", "alice"]), &client, "localhost").server.is_ok());
    let error = server_error(shake(&by_name(&["bob"]), &client, "localhost"));
    assert!(
        error.contains("its common name \"alice\" is not among the allowed ones (bob)"),
        "{error}"
    );

    let by_host =
        |names: &[&str]| server(&Rules { allowed_hostnames: list(names), ..Rules::default() });
    for allowed in ["a.clients.example", "10.0.0.5"] {
        assert!(shake(&by_host(&["x.example", allowed]), &client, "localhost").server.is_ok());
    }
    for other in ["clients.example", "a.b.clients.example", "10.0.0.6"] {
        let error = server_error(shake(&by_host(&[other]), &client, "localhost"));
        assert!(error.contains("*.clients.example, 10.0.0.5") && error.contains(other), "{error}");
    }
}

#[test]
fn versions_are_kept_to_by_both_ends() {
    let mut authority = Authority::new("ca");
    let own = authority.issue(&Order::new("server", &["localhost"]));
    let contents = files(Some(&own), Some(&authority));
    let of = |min, max| {
        let policy = Policy::new(min, max, Vec::new()).unwrap();
        material(&contents, &Rules::default(), &policy)
    };
    let (old, new) = (of(Version::Tls12, Version::Tls12), of(Version::Tls13, Version::Tls13));
    let both = of(Version::Tls12, Version::Tls13);
    for (server, client) in [(&old, &both), (&both, &old), (&new, &both), (&both, &new)] {
        let outcome = shake(server, client, "localhost");
        assert!(outcome.server.is_ok() && outcome.client.is_ok());
    }
    let error = server_error(shake(&new, &old, "localhost"));
    assert!(error.to_lowercase().contains("version"), "{error}");
}

#[test]
fn certificates_that_members_make_for_themselves_are_taken_and_hide_what_is_said() {
    let made = self_signed(&["127.0.0.1".to_owned()], 1, 1_700_000_000).unwrap();
    assert_eq!(made.not_after_s, 1_700_000_000 + 365 * 86_400);
    let now_s = 1_790_000_000;
    let made = self_signed(&["127.0.0.1".to_owned()], 20, now_s).unwrap();
    let own = Issued { certificate: made.certificate, key: made.key, serial: 0 };
    let rules = Rules { is_self_signed: true, ..Rules::default() };
    let member = material(&files(Some(&own), None), &rules, &Policy::default());
    assert_eq!(member.ends, [(Role::Certificate, made.not_after_s)]);
    let outcome = shake(&member, &member, "10.0.0.1");
    assert!(outcome.server.is_ok() && outcome.client.is_ok());
}

#[test]
fn a_certificate_that_is_trusted_by_itself_is_taken_for_what_it_is_for() {
    let hosts = ["localhost".to_owned()];
    // From now on by the wall clock, since that is what it is held against.
    let made = self_signed(&hosts, 100, 1_600_000_000).unwrap();
    let own = Issued { certificate: made.certificate, key: made.key, serial: 0 };
    let trusting = Contents {
        trusted: Some(content("ca.pem", own.certificate.clone())),
        ..Contents::default()
    };
    let server = plain(&files(Some(&own), None));
    let outcome = shake(&server, &plain(&trusting), "localhost");
    assert!(outcome.client.is_ok(), "{:?}", outcome.client.err());
    let elsewhere = client_error(shake(&server, &plain(&trusting), "other.example"));
    assert!(elsewhere.contains("other.example"), "{elsewhere}");
    // It is for servers, and no client's.
    let both = Contents { certificate: Some(pair(&own)), ..trusting };
    let error = server_error(shake(&plain(&both), &plain(&both), "localhost"));
    assert_eq!(error, "it may not be used for this purpose");
}

#[test]
fn plaintext_on_a_tls_port_is_told_from_broken_tls() {
    let mut authority = Authority::new("ca");
    let own = authority.issue(&Order::new("server", &["localhost"]));
    let server = plain(&files(Some(&own), None)).server.unwrap();
    for hello in [&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..], b"GET /health HTTP/1.1\r\n\r\n"] {
        let mut session = Ok(Session::accept(server.clone()).unwrap());
        feed(&mut session, hello);
        let error = session.unwrap_err();
        assert!(error.contains("plaintext was sent to a TLS port"), "{error}");
    }
}

#[test]
fn whatever_arrives_is_an_error_and_never_a_panic() {
    let mut authority = Authority::new("ca");
    let own = authority.issue(&Order::new("server", &["localhost"]));
    let contents = files(Some(&own), Some(&authority));
    let (server, client) = (plain(&contents), plain(&contents));
    let mut seed = 1_u64;
    let mut random = move || {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) as usize
    };
    for _ in 0..200 {
        let mut to = Ok(Session::accept(server.server.clone().unwrap()).unwrap());
        let mut from = Ok(Session::dial(client.client.clone(), "localhost").unwrap());
        for _ in 0..3 {
            let mut bytes = Vec::new();
            if let Ok(from) = &mut from {
                from.take_output(&mut bytes);
            }
            // One byte of the flight is another one, or the flight ends early.
            if !bytes.is_empty() {
                let at = random() % bytes.len();
                if random() % 3 == 0 {
                    bytes.truncate(at);
                } else {
                    bytes[at] ^= 1 << (random() % 8);
                }
            }
            feed(&mut to, &bytes);
            std::mem::swap(&mut to, &mut from);
        }
    }
}

#[test]
fn a_set_that_is_not_whole_is_refused_with_the_name_of_the_file() {
    let mut authority = Authority::new("ca");
    let (own, other) =
        (authority.issue(&Order::new("a", &[])), authority.issue(&Order::new("b", &[])));
    let error = |contents: &Contents| {
        Material::new(contents, &Rules::default(), &Policy::default()).unwrap_err()
    };
    let with_pair = |certificate: &str, key: &str| {
        error(&Contents {
            certificate: Some(Pair {
                certificate: content("cert.pem", certificate),
                key: content("key.pem", key),
            }),
            ..Contents::default()
        })
    };
    assert_eq!(
        with_pair(&own.certificate, &other.key),
        "cert.pem with key.pem: the private key is not that of the certificate"
    );
    let half = &own.certificate[..own.certificate.len() / 2];
    for broken in ["", half, "-----BEGIN CERTIFICATE-----\nnonsense\n-----END CERTIFICATE-----\n"] {
        assert!(with_pair(broken, &own.key).starts_with("cert.pem: "));
    }
    let key = with_pair(&own.certificate, "");
    assert!(key.starts_with("key.pem: has no private key"), "{key}");

    // A file of two authorities, of which the second is still being written.
    let torn = format!("{}{half}", authority.certificate());
    let trusted = |bytes: &str| {
        error(&Contents { trusted: Some(content("ca.pem", bytes)), ..Contents::default() })
    };
    assert!(trusted(&torn).starts_with("ca.pem: "), "{}", trusted(&torn));
    assert_eq!(trusted("nothing"), "ca.pem: has no certificate in it");
    let (der, pem) = authority.revoke(&[1]);
    for broken in [&der[..der.len() - 1], &pem.as_bytes()[..pem.len() / 2], b""] {
        let revoked = Some(content("crl.pem", broken));
        let line = error(&Contents { revoked, ..Contents::default() });
        assert!(line.starts_with("crl.pem: "), "{line}");
    }
}

#[test]
fn a_stream_that_waits_speaks_the_same() {
    let mut authority = Authority::new("ca");
    let own = authority.issue(&Order::new("server", &["localhost"]));
    let config = plain(&files(None, Some(&authority))).client;
    let mut sent = Vec::new();
    let socket = (std::io::empty(), &mut sent);
    let mut stream = dial(config, "localhost", Halves(socket.0, socket.1)).unwrap();
    // Nobody answers.
    stream.write_all(b"hello").unwrap_err();
    drop(stream);
    let server = plain(&files(Some(&own), None)).server.unwrap();
    let mut session = Ok(Session::accept(Arc::clone(&server)).unwrap());
    feed(&mut session, &sent);
    assert!(session.is_ok_and(|session| session.server_name() == "localhost"));
}

struct Halves<'a>(std::io::Empty, &'a mut Vec<u8>);

impl std::io::Read for Halves<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        self.0.read(buffer)
    }
}

impl std::io::Write for Halves<'_> {
    fn write(&mut self, data: &[u8]) -> std::io::Result<usize> {
        self.1.write(data)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
