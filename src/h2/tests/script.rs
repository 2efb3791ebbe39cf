//! Scripts of frames and what must come of them, see `script.txt`.
//!
//! A case is a sentence, the commands, and the trace after the line of dashes. The trace of a
//! failing case is printed whole, to be judged and pasted.

use super::*;

const SCRIPT: &str = include_str!("script.txt");

struct Run {
    connection: Connection,
    now_ms: u64,
    decoder: hpack::Decoder,
    trace: String,
}

impl Run {
    fn new() -> Run {
        Run {
            connection: Connection::new(Limits::default()),
            now_ms: 0,
            decoder: hpack::Decoder::default(),
            trace: String::new(),
        }
    }

    fn line(&mut self, line: String) {
        self.trace.push_str(&line);
        self.trace.push('\n');
    }

    fn command(&mut self, line: &str) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let stream = || StreamId(words[1].parse().unwrap());
        match words[0] {
            "start" => {
                self.receive(client_preface(&[]));
                self.drain();
                self.trace.clear();
            }
            "octets" => self.receive(payload(&words[1..])),
            "time" => {
                self.now_ms = words[1].parse().unwrap();
                self.connection.timeout(self.now_ms);
            }
            "headers" => {
                let block = encode_block(&[(b":status", b"200")]);
                self.connection.send_headers(stream(), &block, words.contains(&"end"));
            }
            "data" => {
                let data = vec![b'd'; words[2].parse().unwrap()];
                self.connection.send_data(stream(), data, words.contains(&"end"));
            }
            "trailers" => {
                let block = encode_block(&[(b"grpc-status", b"0")]);
                self.connection.send_headers(stream(), &block, true);
            }
            "reset" => self.connection.reset(stream(), ErrorCode::CANCEL),
            "hold" => self.connection.hold(stream()),
            "release" => self.connection.release(stream()),
            "go-away" => self.connection.go_away(ErrorCode::NO_ERROR, b"bye"),
            _ => {
                let flags = words[1].split('|').map(flag).sum();
                let stream = words[2].parse().unwrap();
                self.receive(frame(kind(words[0]), flags, stream, &payload(&words[3..])));
            }
        }
        self.drain();
    }

    fn receive(&mut self, input: Vec<u8>) {
        if let Err(fatal) = self.connection.receive(Bytes::from(input), self.now_ms) {
            self.line(format!("fatal {fatal}"));
        }
    }

    fn drain(&mut self) {
        for event in events(&mut self.connection) {
            let end = |end_stream| if end_stream { " end" } else { "" };
            let line = match event {
                Event::Headers { stream, head, end_stream } => {
                    let text = |part: &Bytes| String::from_utf8_lossy(part).into_owned();
                    let (method, path) = (text(&head.method), text(&head.path));
                    format!("event headers {} {method} {path}{}", stream.0, end(end_stream))
                }
                Event::Data { stream, data, end_stream } => {
                    format!("event data {} {}{}", stream.0, data.len(), end(end_stream))
                }
                Event::Trailers { stream } => format!("event trailers {}", stream.0),
                Event::Reset { stream, code } => format!("event reset {} {code}", stream.0),
            };
            self.line(line);
        }
        for frame in output(&mut self.connection) {
            let line = self.describe(&frame);
            self.line(line);
        }
        if self.connection.is_closed() && !self.trace.ends_with("closed\n") {
            self.line("closed".into());
        }
    }

    fn describe(&mut self, frame: &Frame) -> String {
        let Frame { stream, payload, .. } = frame;
        let end = if frame.flags & ES != 0 { " end" } else { "" };
        let number =
            |at: usize| u32::from_be_bytes(payload[at..at + 4].try_into().unwrap_or_default());
        match frame.kind {
            Kind::Settings if frame.flags & ACK != 0 => "SETTINGS ack".into(),
            Kind::Settings => format!("SETTINGS {}", payload.len() / 6),
            Kind::Ping if frame.flags & ACK != 0 => format!("PING ack {payload:?}"),
            Kind::Ping => format!("PING {payload:?}"),
            Kind::WindowUpdate => format!("WINDOW_UPDATE {stream} {}", number(0)),
            Kind::RstStream => format!("RST_STREAM {stream} {}", ErrorCode(number(0))),
            Kind::GoAway => {
                let debug = String::from_utf8_lossy(&payload[8..]);
                format!("GOAWAY {} {} {debug}", number(0), ErrorCode(number(4)))
            }
            Kind::Data => format!("DATA {stream} {}{end}", payload.len()),
            Kind::Headers => {
                let mut fields = String::new();
                let decoded = self.decoder.decode(payload, 1 << 16, &mut |decoded| {
                    let field = decoded.field();
                    let name = String::from_utf8_lossy(&field.name).into_owned();
                    fields += &format!(" {name}={}", String::from_utf8_lossy(&field.value));
                });
                assert!(decoded.is_ok(), "header block of the server");
                let update = if payload.starts_with(&[0x20]) { " no-table" } else { "" };
                format!("HEADERS {stream}{update}{fields}{end}")
            }
            kind => format!("{kind:?} {stream}"),
        }
    }
}

fn kind(name: &str) -> Kind {
    match name {
        "DATA" => Kind::Data,
        "HEADERS" => Kind::Headers,
        "PRIORITY" => Kind::Priority,
        "RST_STREAM" => Kind::RstStream,
        "SETTINGS" => Kind::Settings,
        "PUSH_PROMISE" => Kind::PushPromise,
        "PING" => Kind::Ping,
        "GOAWAY" => Kind::GoAway,
        "WINDOW_UPDATE" => Kind::WindowUpdate,
        "CONTINUATION" => Kind::Continuation,
        "UNKNOWN" => Kind::Unknown(0x42),
        other => panic!("no such command: {other}"),
    }
}

fn flag(name: &str) -> u8 {
    match name {
        "-" => 0,
        "ES" => ES,
        "EH" => EH,
        "ACK" => ACK,
        "PADDED" => flags::PADDED,
        "PRIORITY" => flags::PRIORITY,
        other => panic!("no such flag: {other}"),
    }
}

/// Hex digits, `u32:N`, `zeroes:N`, `preface`, `request`, `-name` to leave a field of the request
/// out, `name=value` for a field.
fn payload(words: &[&str]) -> Vec<u8> {
    let mut out = Vec::new();
    for word in words {
        if let Some(number) = word.strip_prefix("u32:") {
            out.extend(number.parse::<u32>().unwrap().to_be_bytes());
        } else if let Some(count) = word.strip_prefix("zeroes:") {
            out.extend(vec![0; count.parse().unwrap()]);
        } else if *word == "preface" {
            out.extend(PREFACE);
        } else if *word == "request" {
            out.extend(request_block());
        } else if let Some((name, value)) = word[1..].split_once('=') {
            let name = [&word[..1], name].concat();
            encode_field(name.as_bytes(), value.replace('_', " ").as_bytes(), &mut out);
        } else {
            let octet = |at| u8::from_str_radix(&word[at..at + 2], 16).unwrap();
            out.extend((0..word.len()).step_by(2).map(octet));
        }
    }
    out
}

#[test]
fn every_script_leaves_its_trace() {
    let mut failures = String::new();
    let cases = SCRIPT.split("\n\n").filter(|case| !case.trim_start().starts_with('#'));
    for case in cases {
        let (commands, expected) = case.split_once("----\n").unwrap_or((case, ""));
        let mut lines = commands.trim().lines();
        let sentence = lines.next().unwrap_or_default();
        let mut run = Run::new();
        for line in lines {
            run.command(line.trim());
        }
        if run.trace.trim() != expected.trim() {
            failures += &format!("{}\n----\n{}\n", commands.trim(), run.trace);
        }
        assert!(!sentence.is_empty());
    }
    assert!(failures.is_empty(), "these have another trace:\n\n{failures}");
}
