//! A gRPC client that hides nothing: every message's bytes, every header and trailer, calls that overlap.
//!
//! Built on the `h2` crate alone. It does not retry, has no deadlines of its own beside a guard against hanging,
//! and does not interpret what it receives.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use h2::client::{ResponseFuture, SendRequest};
use h2::{RecvStream, SendStream};
use http::{HeaderMap, Request};
use prost::Message;
use tokio::net::TcpStream;
use tokio::sync::Notify;

use crate::server::PATIENCE;

/// Larger than any answer of these tests, so that flow control is not what they wait for.
const WINDOW: u32 = 64 << 20;

#[derive(Clone)]
pub struct Client {
    h2: SendRequest<Bytes>,
    authority: String,
}

/// Header or trailer fields, sorted; values are ASCII or shown as Rust shows bytes.
pub type Fields = Vec<(String, String)>;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reply {
    pub head: Fields,
    pub messages: Vec<Bytes>,
    pub tail: Fields,
    /// What ended the stream when it was neither trailers nor a trailers-only head.
    pub broken: Option<String>,
}

impl Reply {
    fn field(&self, name: &str) -> Option<&str> {
        let find = |fields: &'_ Fields| fields.iter().position(|(key, _)| key == name);
        match (find(&self.tail), find(&self.head)) {
            (Some(at), _) => Some(&self.tail[at].1),
            (None, Some(at)) => Some(&self.head[at].1),
            (None, None) => None,
        }
    }

    /// `grpc-status`, or -1 when there was none.
    pub fn code(&self) -> i32 {
        self.field("grpc-status").and_then(|code| code.parse().ok()).unwrap_or(-1)
    }

    /// `grpc-message` without its percent-encoding.
    pub fn text(&self) -> String {
        let raw = self.field("grpc-message").unwrap_or_default().as_bytes();
        let mut text = Vec::new();
        let mut at = 0;
        while at < raw.len() {
            let hex = raw.get(at + 1..at + 3).and_then(|hex| std::str::from_utf8(hex).ok());
            match hex.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
                Some(byte) if raw[at] == b'%' => {
                    text.push(byte);
                    at += 3;
                }
                _ => {
                    text.push(raw[at]);
                    at += 1;
                }
            }
        }
        String::from_utf8_lossy(&text).into_owned()
    }

    /// Code and text, as a table of expectations holds them.
    pub fn status(&self) -> (i32, String) {
        (self.code(), self.text())
    }

    /// The only message of a successful unary call.
    pub fn message<A: Message + Default>(&self) -> A {
        assert_eq!(self.code(), 0, "the call failed: {self:?}");
        assert_eq!(self.messages.len(), 1, "one message is expected: {self:?}");
        A::decode(self.messages[0].clone()).expect("a message of the expected type")
    }
}

impl Client {
    /// Must be called within a tokio runtime, which then also drives the connection.
    pub async fn connect(addr: SocketAddr) -> Client {
        Self::try_connect(addr).await.unwrap_or_else(|err| panic!("no connection to {addr}: {err}"))
    }

    pub async fn try_connect(addr: SocketAddr) -> Result<Client, Box<dyn std::error::Error>> {
        let tcp = TcpStream::connect(addr).await?;
        tcp.set_nodelay(true)?;
        let (h2, connection) = h2::client::Builder::new()
            .initial_window_size(WINDOW)
            .initial_connection_window_size(WINDOW)
            .handshake::<_, Bytes>(tcp)
            .await?;
        tokio::spawn(connection);
        Ok(Client { h2, authority: addr.to_string() })
    }

    /// One message there, all messages back.
    pub async fn call(&self, path: &str, message: &impl Message) -> Reply {
        self.call_raw(path, frame(&message.encode_to_vec())).await
    }

    /// The same with a body as given: nothing says that it must be a message, or a whole frame.
    pub async fn call_raw(&self, path: &str, body: Bytes) -> Reply {
        self.call_with(path, &[], body).await
    }

    /// And with further header fields, which replace the usual ones of the same name.
    pub async fn call_with(&self, path: &str, metadata: &[(&str, &str)], body: Bytes) -> Reply {
        match self.open_raw(path, metadata, Some(body)).await {
            Ok((_, response)) => collect(response).await,
            Err(err) => Reply { broken: Some(err.to_string()), ..Reply::default() },
        }
    }

    /// A call that stays open in both directions.
    pub async fn open(&self, path: &str) -> Stream {
        self.open_with(path, &[]).await
    }

    pub async fn open_with(&self, path: &str, metadata: &[(&str, &str)]) -> Stream {
        let (send, response) =
            self.open_raw(path, metadata, None).await.expect("a stream can be opened");
        let inbox = Arc::new(Inbox::default());
        tokio::spawn(read(response, Arc::clone(&inbox)));
        Stream { send, inbox, taken: 0 }
    }

    async fn open_raw(
        &self,
        path: &str,
        metadata: &[(&str, &str)],
        body: Option<Bytes>,
    ) -> Result<(SendStream<Bytes>, ResponseFuture), h2::Error> {
        let mut request = Request::post(format!("http://{}{path}", self.authority));
        for usual in [("content-type", "application/grpc"), ("te", "trailers")] {
            if !metadata.iter().any(|(name, _)| *name == usual.0) {
                request = request.header(usual.0, usual.1);
            }
        }
        for (name, value) in metadata {
            request = request.header(*name, *value);
        }
        let request = request.body(()).expect("a well-formed request");
        let mut h2 = self.h2.clone().ready().await?;
        let (response, mut send) = h2.send_request(request, false)?;
        if let Some(body) = body {
            // A server that has answered already may have closed the stream: the answer is what counts.
            let _ = send.send_data(body, true);
        }
        Ok((send, response))
    }
}

/// The length-prefixed form in which a message travels.
pub fn frame(message: &[u8]) -> Bytes {
    let mut framed = BytesMut::with_capacity(message.len() + 5);
    framed.put_u8(0);
    framed.put_u32(u32::try_from(message.len()).expect("a message below 4 GiB"));
    framed.put_slice(message);
    framed.freeze()
}

fn fields(map: &HeaderMap) -> Fields {
    let mut fields: Fields = map
        .iter()
        .map(|(name, value)| {
            let value = match value.to_str() {
                Ok(text) => text.to_owned(),
                Err(_) => format!("{:?}", value.as_bytes()),
            };
            (name.as_str().to_owned(), value)
        })
        .collect();
    fields.sort();
    fields
}

async fn collect(response: ResponseFuture) -> Reply {
    let mut reply = Reply::default();
    let collected = tokio::time::timeout(
        PATIENCE,
        receive(response, |event| match event {
            Event::Head(head) => reply.head = head,
            Event::Message(message) => reply.messages.push(message),
            Event::Tail(tail) => reply.tail = tail,
        }),
    )
    .await;
    reply.broken = match collected {
        Ok(Ok(())) => None,
        Ok(Err(err)) => Some(err.to_string()),
        Err(_) => Some("no answer".to_owned()),
    };
    reply
}

enum Event {
    Head(Fields),
    Message(Bytes),
    Tail(Fields),
}

async fn receive(response: ResponseFuture, mut visit: impl FnMut(Event)) -> Result<(), h2::Error> {
    let (head, mut body): (_, RecvStream) = response.await?.into_parts();
    let mut head_fields = fields(&head.headers);
    if head.status != 200 {
        head_fields.push((":status".to_owned(), head.status.as_str().to_owned()));
    }
    visit(Event::Head(head_fields));
    let mut buffer = BytesMut::new();
    while let Some(data) = body.data().await {
        let data = data?;
        let _ = body.flow_control().release_capacity(data.len());
        buffer.extend_from_slice(&data);
        while let Some(length) = buffer.get(1..5) {
            let length = length.iter().fold(0usize, |sum, byte| sum << 8 | usize::from(*byte));
            if buffer.len() < length + 5 {
                break;
            }
            buffer.advance(5);
            visit(Event::Message(buffer.split_to(length).freeze()));
        }
    }
    if let Some(trailers) = body.trailers().await? {
        visit(Event::Tail(fields(&trailers)));
    }
    Ok(())
}

async fn read(response: ResponseFuture, inbox: Arc<Inbox>) {
    let ended = receive(response, |event| {
        let mut state = inbox.state.lock().expect("no poison");
        match event {
            Event::Head(head) => state.reply.head = head,
            Event::Message(message) => state.reply.messages.push(message),
            Event::Tail(tail) => state.reply.tail = tail,
        }
        drop(state);
        inbox.changed.notify_waiters();
    })
    .await;
    let mut state = inbox.state.lock().expect("no poison");
    state.ended = true;
    state.reply.broken = ended.err().map(|err| err.to_string());
    drop(state);
    inbox.changed.notify_waiters();
}

#[derive(Default)]
struct Inbox {
    state: Mutex<InboxState>,
    changed: Notify,
}

#[derive(Default)]
struct InboxState {
    reply: Reply,
    ended: bool,
}

/// A call in progress. Answers are read as they arrive, whether somebody waits for them or not.
pub struct Stream {
    send: SendStream<Bytes>,
    inbox: Arc<Inbox>,
    taken: usize,
}

impl Stream {
    pub fn send(&mut self, message: &impl Message) {
        self.send_raw(frame(&message.encode_to_vec()));
    }

    pub fn send_raw(&mut self, bytes: Bytes) {
        // A stream that the server has ended is noticed by what comes back.
        let _ = self.send.send_data(bytes, false);
    }

    /// Ends this direction.
    pub fn finish(&mut self) {
        let _ = self.send.send_data(Bytes::new(), true);
    }

    /// The next message, `None` when the stream has ended.
    pub async fn next(&mut self) -> Option<Bytes> {
        self.next_in_time().await.expect("a message before patience ends")
    }

    async fn next_in_time(&mut self) -> Result<Option<Bytes>, tokio::time::error::Elapsed> {
        let next = tokio::time::timeout(PATIENCE, async {
            loop {
                let mut changed = std::pin::pin!(self.inbox.changed.notified());
                changed.as_mut().enable();
                {
                    let state = self.inbox.state.lock().expect("no poison");
                    if let Some(message) = state.reply.messages.get(self.taken) {
                        self.taken += 1;
                        return Some(message.clone());
                    }
                    if state.ended {
                        return None;
                    }
                }
                changed.await;
            }
        });
        next.await
    }

    pub async fn message<A: Message + Default>(&mut self) -> A {
        match self.next().await {
            Some(bytes) => A::decode(bytes).expect("a message of the expected type"),
            None => panic!("the stream ended: {:?}", self.reply()),
        }
    }

    /// As a reply: the next message, or how the stream has ended without one.
    pub async fn next_or_end(&mut self) -> Reply {
        match self.next_in_time().await {
            Ok(Some(message)) => {
                Reply { head: self.reply().head, messages: vec![message], ..Reply::default() }
            }
            Ok(None) => Reply { messages: Vec::new(), ..self.reply() },
            Err(_) => Reply { broken: Some("no message".to_owned()), ..Reply::default() },
        }
    }

    /// What is there already and has not been taken.
    pub fn try_next(&mut self) -> Option<Bytes> {
        let state = self.inbox.state.lock().expect("no poison");
        let message = state.reply.messages.get(self.taken).cloned();
        self.taken += usize::from(message.is_some());
        message
    }

    /// Everything so far.
    pub fn reply(&self) -> Reply {
        self.inbox.state.lock().expect("no poison").reply.clone()
    }

    /// Everything, when the server has ended the stream.
    pub async fn end(&mut self) -> Reply {
        while self.next().await.is_some() {}
        self.reply()
    }
}
