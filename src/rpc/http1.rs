//! An HTTP/1.1 connection: bytes in, requests and their bodies; answers, bytes out.
//!
//! Requests are answered one by one, in their order. What one is about is decided elsewhere ([`super::http`],
//! [`super::gateway`]).

use std::io::Write;

use bytes::{Buf, Bytes, BytesMut};

use super::http::{Fields, Request, Response};
use super::limits;
use super::websocket::{self, Frames, Item};
use crate::h2::StreamId;

/// What has arrived.
#[derive(Debug, PartialEq, Eq)]
pub enum Event {
    Head(StreamId, Request),
    Data(StreamId, Bytes),
    End(StreamId),
    /// Nobody waits for the answer any more.
    Gone(StreamId),
}

/// What the next bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reading {
    Head,
    /// So much of a body is left.
    Body(u64),
    ChunkSize,
    /// So much of a chunk is left.
    Chunk(u64),
    ChunkEnd,
    Trailers,
    /// The end of the request, which has not been told yet.
    End,
}

pub struct Connection {
    input: BytesMut,
    output: BytesMut,
    reading: Reading,
    /// The number of the request that is being read or answered.
    stream: StreamId,
    /// It is not answered yet.
    busy: bool,
    /// Its answer ends the connection.
    close: bool,
    /// The client knows no chunks.
    is_http10: bool,
    /// The rest of the request has to wait.
    held: bool,
    /// It has waited, and was not looked at since.
    released: bool,
    /// The connection has become one of WebSocket frames, for this one request.
    websocket: Option<Frames>,
    closed: bool,
}

impl Default for Connection {
    fn default() -> Connection {
        Connection {
            input: BytesMut::new(),
            output: BytesMut::new(),
            reading: Reading::Head,
            stream: StreamId(0),
            busy: false,
            close: false,
            is_http10: false,
            held: false,
            released: false,
            websocket: None,
            closed: false,
        }
    }
}

/// Statuses with which a WebSocket ends: all is said, and the other side has broken the rules.
const WEBSOCKET_NORMAL: u16 = 1000;
const WEBSOCKET_PROTOCOL_ERROR: u16 = 1002;

impl Connection {
    pub fn receive(&mut self, input: &[u8]) {
        self.input.extend_from_slice(input);
    }

    pub fn output_len(&self) -> usize {
        self.output.len()
    }

    pub fn wants_input(&self) -> bool {
        self.output.len() < limits::HTTP1_OUTPUT_MAX_BYTES
            && self.input.len() < limits::HTTP1_HEAD_MAX_BYTES * 2
    }

    /// There is what was not looked at while another request was answered, or while this one was held.
    pub fn has_more(&self) -> bool {
        let has_some = !self.input.is_empty() || self.reading == Reading::End;
        has_some && !self.closed && !self.held && (!self.busy || self.released)
    }

    /// Takes no more of the request that is being read. What waits is bounded, and then nothing is read.
    pub fn hold(&mut self) {
        self.held = true;
    }

    pub fn release(&mut self) {
        self.released |= std::mem::take(&mut self.held);
    }

    pub fn take_output(&mut self, max: usize, out: &mut Vec<u8>) {
        let taken = self.output.len().min(max);
        out.extend_from_slice(&self.output[..taken]);
        self.output.advance(taken);
    }

    pub fn is_closed(&self) -> bool {
        self.closed
    }

    /// The next part of what has arrived. Malformed requests are answered here, and end the connection.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.released = false;
        loop {
            if self.closed || self.held {
                return None;
            }
            if self.reading == Reading::Head
                && let Some(frames) = &mut self.websocket
            {
                let next = frames.next(&mut self.input);
                match next {
                    Ok(None) => return None,
                    Ok(Some(Item::Data(data))) => return Some(Event::Data(self.stream, data)),
                    Ok(Some(Item::EndOfMessage)) => {
                        return Some(Event::Data(self.stream, Bytes::from_static(b"\n")));
                    }
                    Ok(Some(Item::Ping(payload))) => websocket::pong(&payload, &mut self.output),
                    Ok(Some(Item::Close)) => {
                        websocket::close(WEBSOCKET_NORMAL, &mut self.output);
                        self.closed = true;
                        return Some(Event::Gone(self.stream));
                    }
                    Err(_) => {
                        websocket::close(WEBSOCKET_PROTOCOL_ERROR, &mut self.output);
                        self.closed = true;
                        return Some(Event::Gone(self.stream));
                    }
                }
                continue;
            }
            match self.reading {
                Reading::Head if self.busy || self.input.is_empty() => return None,
                Reading::Head => return self.next_head(),
                Reading::Body(left) | Reading::Chunk(left) => {
                    let there = self.input.len().min(usize::try_from(left).unwrap_or(usize::MAX));
                    if there == 0 {
                        return None;
                    }
                    let left = left - there as u64;
                    self.reading = match self.reading {
                        Reading::Body(_) if left == 0 => Reading::End,
                        Reading::Body(_) => Reading::Body(left),
                        _ if left == 0 => Reading::ChunkEnd,
                        _ => Reading::Chunk(left),
                    };
                    let data = self.input.split_to(there).freeze();
                    return Some(Event::Data(self.stream, data));
                }
                Reading::ChunkSize => {
                    let line = self.next_line()?;
                    self.reading = match chunk_size(&line) {
                        Some(0) => Reading::Trailers,
                        Some(len) => Reading::Chunk(len),
                        None => return self.refuse(400, "400 Bad Request"),
                    };
                }
                Reading::ChunkEnd => {
                    let line = self.next_line()?;
                    if !line.is_empty() {
                        return self.refuse(400, "400 Bad Request");
                    }
                    self.reading = Reading::ChunkSize;
                }
                Reading::Trailers => {
                    if self.next_line()?.is_empty() {
                        self.reading = Reading::End;
                    }
                }
                Reading::End => {
                    self.reading = Reading::Head;
                    return Some(Event::End(self.stream));
                }
            }
        }
    }

    /// A line of the frame of a body, without its end. It ends in CR LF and has neither before: who read a line
    /// where another server does not could be made to take a part of a body for a request.
    fn next_line(&mut self) -> Option<Bytes> {
        let Some(len) = self.input.iter().position(|c| *c == b'\n') else {
            if self.input.len() > limits::HTTP1_CHUNK_LINE_MAX_BYTES {
                self.refuse(400, "400 Bad Request");
            }
            return None;
        };
        let line = self.input.split_to(len + 1).freeze();
        match line.strip_suffix(b"\r\n") {
            Some(text) if !text.contains(&b'\r') => Some(line.slice(..text.len())),
            _ => {
                self.refuse(400, "400 Bad Request");
                None
            }
        }
    }

    fn next_head(&mut self) -> Option<Event> {
        let mut headers = [httparse::EMPTY_HEADER; limits::HTTP1_HEADERS_MAX];
        let mut parsed = httparse::Request::new(&mut headers);
        let head_len = match parsed.parse(&self.input) {
            Ok(httparse::Status::Complete(len)) => len,
            Ok(httparse::Status::Partial) if self.input.len() <= limits::HTTP1_HEAD_MAX_BYTES => {
                return None;
            }
            Ok(httparse::Status::Partial) => {
                return self.refuse(431, "431 Request Header Fields Too Large");
            }
            Err(httparse::Error::TooManyHeaders) => {
                return self.refuse(431, "431 Request Header Fields Too Large");
            }
            Err(_) => return self.refuse(400, "400 Bad Request"),
        };
        let all = |name: &'static str| {
            let named =
                parsed.headers.iter().filter(|header| header.name.eq_ignore_ascii_case(name));
            named.map(|header| String::from_utf8_lossy(trim(header.value)).into_owned())
        };
        let first = |name: &'static str| all(name).next();
        let connection = first("connection").unwrap_or_default().to_ascii_lowercase();
        let is_http10 = parsed.version != Some(1);
        let persistent = if is_http10 {
            connection.contains("keep-alive")
        } else {
            !connection.contains("close")
        };
        // One encoding, and only this one, as in Go.
        let encodings: Vec<String> = all("transfer-encoding").collect();
        let is_chunked = match &encodings[..] {
            [] => false,
            [one] if one.eq_ignore_ascii_case("chunked") => true,
            _ => return self.refuse(501, "Unsupported transfer encoding"),
        };
        // Two lengths, a length beside chunks, or chunks before HTTP/1.1, are how requests are smuggled. Go takes the
        // second by its chunks, and of the third it takes the body for the next request.
        let mut lengths = all("content-length");
        let length = lengths.next();
        let reading = match (is_chunked, &length) {
            (true, None) if !is_http10 => Some(Reading::ChunkSize),
            (true, _) => None,
            (false, None) => Some(Reading::End),
            (false, Some(length)) if lengths.all(|other| other == *length) => {
                let digits = length.bytes().all(|c| c.is_ascii_digit());
                length.parse().ok().filter(|_| digits).map(|length| match length {
                    0 => Reading::End,
                    length => Reading::Body(length),
                })
            }
            (false, Some(_)) => None,
        };
        let expectation = first("expect").filter(|_| !is_http10);
        let fields = parsed
            .headers
            .iter()
            .map(|header| (header.name.to_ascii_lowercase(), Bytes::copy_from_slice(header.value)));
        let request = Request::new(
            parsed.method.unwrap_or_default(),
            parsed.path.unwrap_or("/"),
            &first("host").unwrap_or_default(),
            fields.collect(),
        );
        let Some(reading) = reading else { return self.refuse(400, "400 Bad Request") };
        self.input.advance(head_len);
        self.reading = reading;
        self.stream = StreamId(self.stream.0.wrapping_add(1));
        self.busy = true;
        self.close = !persistent;
        self.is_http10 = is_http10;
        match expectation {
            Some(expected) if !expected.eq_ignore_ascii_case("100-continue") => {
                return self.refuse(417, "417 Expectation Failed");
            }
            Some(_) if reading != Reading::End && self.input.is_empty() => {
                self.output.extend_from_slice(b"HTTP/1.1 100 Continue\r\n\r\n");
            }
            _ => {}
        }
        Some(Event::Head(self.stream, request))
    }

    fn refuse(&mut self, status: u16, text: &str) -> Option<Event> {
        self.close = true;
        let mut response = Response::of("text/plain; charset=utf-8", text);
        response.status = status;
        self.answer(&response);
        None
    }

    /// Makes the connection one of WebSocket frames. What has come behind the head are frames already.
    pub fn upgrade(&mut self, key: &str, protocol: Option<&str>) {
        let accept = websocket::accept(key);
        let mut head = format!(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Accept: {accept}\r\n"
        );
        if let Some(protocol) = protocol {
            head.push_str(&format!("Sec-WebSocket-Protocol: {protocol}\r\n"));
        }
        head.push_str("\r\n");
        self.output.extend_from_slice(head.as_bytes());
        self.websocket = Some(Frames::default());
        self.reading = Reading::Head;
    }

    fn head(&mut self, status: u16, fields: &Fields, framing: &str) {
        let reason = reason(status);
        let reason =
            if reason.is_empty() { format!("status code {status}") } else { reason.into() };
        let out = &mut self.output;
        let mut line = |text: &str| out.extend_from_slice(text.as_bytes());
        line(&format!("HTTP/1.1 {status} {reason}\r\n"));
        for (name, value) in fields {
            line(name);
            line(": ");
            // A line break would be the next field.
            line(&value.replace(['\r', '\n'], " "));
            line("\r\n");
        }
        line(framing);
        if self.close {
            line("Connection: close\r\n");
        }
        line("\r\n");
    }

    /// The answer of the request, whole.
    pub fn answer(&mut self, response: &Response) {
        if self.websocket.is_some() {
            self.piece(&response.body);
            return self.end();
        }
        self.keep_whole();
        let framing = format!("Content-Length: {}\r\n", response.body.len());
        self.head(response.status, &response.fields, &framing);
        if !response.is_head {
            self.output.extend_from_slice(&response.body);
        }
        self.finish();
    }

    /// Begins an answer of unknown length.
    pub fn begin(&mut self, status: u16, fields: &Fields) {
        if self.websocket.is_some() {
            return;
        }
        self.close |= self.is_http10;
        let framing = if self.is_http10 { "" } else { "Transfer-Encoding: chunked\r\n" };
        self.head(status, fields, framing);
    }

    pub fn piece(&mut self, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        if self.websocket.is_some() {
            let line = bytes.strip_suffix(b"\n").unwrap_or(bytes);
            return websocket::text(line, &mut self.output);
        }
        if self.is_http10 {
            return self.output.extend_from_slice(bytes);
        }
        // A chunk of the heap that the buffer has: writing cannot fail.
        let mut prefix = [0; 20];
        let mut rest = &mut prefix[..];
        let _ = write!(rest, "{:x}\r\n", bytes.len());
        let left = rest.len();
        self.output.extend_from_slice(&prefix[..prefix.len() - left]);
        self.output.extend_from_slice(bytes);
        self.output.extend_from_slice(b"\r\n");
    }

    pub fn end(&mut self) {
        if self.websocket.is_some() {
            websocket::close(WEBSOCKET_NORMAL, &mut self.output);
            self.closed = true;
            return;
        }
        if !self.is_http10 {
            self.output.extend_from_slice(b"0\r\n\r\n");
        }
        self.keep_whole();
        self.finish();
    }

    /// The answer cannot be finished: the client sees that, since the connection ends in its midst.
    pub fn abort(&mut self) {
        self.closed = true;
    }

    /// An answer that comes before the end of its request ends the connection: the rest is not read.
    fn keep_whole(&mut self) {
        self.close |= self.reading != Reading::Head;
    }

    fn finish(&mut self) {
        self.busy = false;
        self.held = false;
        self.closed |= self.close;
    }
}

/// Without optional white space, which is spaces and tabs alone (RFC 9110, 5.6.3).
fn trim(mut text: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] = text {
        text = rest;
    }
    trim_end(text)
}

fn trim_end(mut text: &[u8]) -> &[u8] {
    while let [rest @ .., b' ' | b'\t'] = text {
        text = rest;
    }
    text
}

/// The length in the line that begins a chunk, to the letter as Go has it: digits, and at most so many as a number
/// has; then an extension, or white space.
fn chunk_size(line: &[u8]) -> Option<u64> {
    let digits = trim_end(line).split(|c| *c == b';').next()?;
    if !(1..=16).contains(&digits.len()) || !digits.iter().all(u8::is_ascii_hexdigit) {
        return None;
    }
    u64::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        307 => "Temporary Redirect",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        409 => "Conflict",
        417 => "Expectation Failed",
        421 => "Misdirected Request",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(event: Option<Event>) -> Request {
        match event {
            Some(Event::Head(_, request)) => request,
            other => panic!("no head: {other:?}"),
        }
    }

    fn body(connection: &mut Connection) -> Vec<u8> {
        let mut body = Vec::new();
        loop {
            match connection.poll_event() {
                Some(Event::Data(_, data)) => body.extend_from_slice(&data),
                Some(Event::End(_)) => return body,
                other => panic!("no body: {other:?}"),
            }
        }
    }

    fn ok() -> Response {
        Response::of("text/plain", "x")
    }

    #[test]
    fn a_request_is_taken_once_it_is_whole_and_those_before_are_answered() {
        let mut connection = Connection::default();
        connection.receive(b"GET /health?exclude=NOSPACE HTTP/1.1\r\nHost: x\r\n");
        assert_eq!(connection.poll_event(), None);
        connection.receive(b"\r\nGET /version HTTP/1.0\r\n\r\n");
        let request = head(connection.poll_event());
        assert_eq!((request.path.as_str(), request.host.as_str()), ("/health", "x"));
        assert_eq!(body(&mut connection), b"");
        assert_eq!(connection.poll_event(), None, "the first is not answered yet");
        connection.answer(&ok());
        assert!(connection.has_more() && !connection.is_closed());
        assert_eq!(head(connection.poll_event()).path, "/version");
        body(&mut connection);
        connection.answer(&ok());
        assert!(connection.is_closed(), "HTTP/1.0 keeps nothing");
    }

    #[test]
    fn bodies_come_by_length_or_in_chunks_whole_or_byte_by_byte() {
        let requests: [(&[u8], &[u8]); 5] = [
            (b"POST / HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello", b"hello"),
            (b"POST / HTTP/1.1\r\nContent-Length: 0\r\n\r\n", b""),
            (
                b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n\
                  3;x=y\r\nhel\r\n2\r\nlo\r\n0\r\nA: b\r\n\r\n",
                b"hello",
            ),
            (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", b""),
            (
                b"POST / HTTP/1.1\r\nTransfer-Encoding: \tChunked \r\n\r\n\
                  0000000000000001 \t\r\nA\r\n00;x\r\n\r\n",
                b"A",
            ),
        ];
        let mut whole = Connection::default();
        for (request, expected) in requests {
            whole.receive(request);
            head(whole.poll_event());
            assert_eq!(body(&mut whole), expected);
            whole.answer(&ok());
            let mut slow = Connection::default();
            let mut found = Vec::new();
            for byte in request {
                slow.receive(&[*byte]);
                while let Some(event) = slow.poll_event() {
                    if let Event::Data(_, data) = event {
                        found.extend_from_slice(&data);
                    }
                }
            }
            assert_eq!(found, expected);
            assert_eq!(slow.reading, Reading::Head);
        }
    }

    #[test]
    fn what_is_malformed_ends_the_connection() {
        let cases: &[(&[u8], &str)] = &[
            (b"\x16\x03\x01 nonsense\r\n\r\n", "400"),
            (b"POST / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", "400"),
            (b"POST / HTTP/1.1\r\nContent-Length: +1\r\n\r\n", "400"),
            (b"POST / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", "400"),
            (b"POST / HTTP/1.1\r\nContent-Length: \xc2\xa01\r\n\r\n", "400"),
            (b"POST / HTTP/1.1\r\nTransfer-Encoding: gzip\r\n\r\n", "501"),
            (b"POST / HTTP/1.1\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", "501"),
            (b"POST / HTTP/1.1\r\nTransfer-Encoding:\r\n\r\n", "501"),
            (
                b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
                "501",
            ),
            (
                b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n",
                "501",
            ),
            (b"POST / HTTP/1.1\r\nTransfer-Encoding: \xc2\xa0chunked\r\n\r\n0\r\n\r\n", "501"),
            (b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n", "400"),
            (
                b"POST / HTTP/1.0\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
                "400",
            ),
            (b"POST / HTTP/1.1\r\nExpect: nothing\r\n\r\n", "417"),
        ];
        let chunks: &[&[u8]] = &[
            b"-1\r\n",
            b"+1\r\na\r\n",
            b"1\r\nab\r\n",
            b"+0\r\n\r\n",
            b"-0\r\n\r\n",
            b"\r\n\r\n",
            b" 0\r\n\r\n",
            b"0 ;x\r\n\r\n",
            b"0\x0c\r\n\r\n",
            b"0\xc2\xa0\r\n\r\n",
            b"00000000000000000\r\n\r\n",
            b"0;x\ry\r\n\r\n",
            // The lines of the frame end in both.
            b"1\na\r\n0\r\n\r\n",
            b"1\r\na\n0\r\n\r\n",
            b"0\n\r\n",
            b"0\r\n\n",
            b"0\r\nA: b\n\r\n",
        ];
        let chunked = b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n";
        let chunks = chunks.iter().map(|body| ([chunked, *body].concat(), "400"));
        let cases = cases.iter().map(|(request, status)| (request.to_vec(), *status)).chain(chunks);
        for (request, status) in cases {
            let mut connection = Connection::default();
            connection.receive(&request);
            while connection.poll_event().is_some() {}
            let text = String::from_utf8_lossy(&connection.output).into_owned();
            let request = request.escape_ascii();
            assert!(text.starts_with(&format!("HTTP/1.1 {status} ")), "{request}: {text}");
            assert!(connection.is_closed());
        }
        let mut connection = Connection::default();
        connection.receive(b"GET / HTTP/1.1\r\nA: ");
        connection.receive(&vec![b'a'; limits::HTTP1_HEAD_MAX_BYTES]);
        assert_eq!(connection.poll_event(), None);
        assert!(connection.is_closed() && connection.output.starts_with(b"HTTP/1.1 431"));
    }

    #[test]
    fn a_client_that_waits_for_leave_gets_it() {
        let mut connection = Connection::default();
        connection.receive(b"POST / HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\n");
        head(connection.poll_event());
        assert_eq!(&connection.output[..], b"HTTP/1.1 100 Continue\r\n\r\n");
        connection.receive(b"x");
        assert_eq!(body(&mut connection), b"x");
    }

    #[test]
    fn an_answer_of_unknown_length_is_chunks_or_ends_with_the_connection() {
        let answered = |request: &[u8]| {
            let mut connection = Connection::default();
            connection.receive(request);
            head(connection.poll_event());
            body(&mut connection);
            connection.begin(200, &Fields::new());
            connection.piece(b"");
            connection.piece(b"0123456789abcdef");
            connection.end();
            (String::from_utf8_lossy(&connection.output).into_owned(), connection.is_closed())
        };
        assert_eq!(
            answered(b"GET / HTTP/1.1\r\n\r\n"),
            (
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n\
                 10\r\n0123456789abcdef\r\n0\r\n\r\n"
                    .to_owned(),
                false
            )
        );
        assert_eq!(
            answered(b"GET / HTTP/1.0\r\n\r\n"),
            ("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n0123456789abcdef".to_owned(), true)
        );
    }

    #[test]
    fn an_answer_before_the_end_of_its_request_ends_the_connection() {
        let mut connection = Connection::default();
        connection.receive(b"POST / HTTP/1.1\r\nContent-Length: 5\r\n\r\nhel");
        head(connection.poll_event());
        connection.answer(&ok());
        assert!(connection.is_closed());
    }
}
