//! The stream of reflection: questions, answers, and who asks without end.

use prost::Message;

use super::fixture::Bed;
use crate::grpc;
use crate::proto::reflection::{
    ServerReflectionRequest, ServerReflectionResponse, server_reflection_request::MessageRequest,
    server_reflection_response::MessageResponse,
};
use crate::rpc::limits;
use crate::rpc::method::METHODS;

fn asking(question: MessageRequest) -> ServerReflectionRequest {
    ServerReflectionRequest { host: "a".to_owned(), message_request: Some(question) }
}

#[test]
fn both_names_are_served_and_the_stream_ends_with_its_client() {
    for path in METHODS.iter().map(|known| known.path).filter(|path| path.contains("reflection")) {
        let mut bed = Bed::ready();
        let mut peer = bed.connect();
        let stream = peer.open(&mut bed, path, &[]);
        let list = asking(MessageRequest::ListServices("*".to_owned()));
        peer.message(&mut bed, stream, &list, false);
        bed.settle();
        peer.take(&mut bed);
        let answer = &peer.answers[&stream].data[grpc::PREFIX_LEN..];
        let answer = ServerReflectionResponse::decode(answer).unwrap();
        assert_eq!((&answer.valid_host[..], &answer.original_request), ("a", &Some(list.clone())));
        assert!(matches!(answer.message_response, Some(MessageResponse::ListServicesResponse(_))));
        assert_eq!(peer.answers[&stream].status, None, "it goes on");
        peer.message(&mut bed, stream, &list, true);
        bed.settle();
        peer.take(&mut bed);
        assert_eq!(peer.answer(stream).0, Some("0"), "{path}");
        let stream = peer.call(&mut bed, path, &ServerReflectionRequest::default());
        bed.settle();
        peer.take(&mut bed);
        assert_eq!(peer.answer(stream).0, Some("3"), "it asks nothing");
    }
}

#[test]
fn who_asks_without_reading_is_refused() {
    let mut bed = Bed::ready();
    let mut peer = bed.connect();
    let path = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo";
    let stream = peer.open(&mut bed, path, &[]);
    let question = asking(MessageRequest::FileContainingSymbol("etcdserverpb.KV".to_owned()));
    let least = 1_000;
    for _ in 0..limits::CONNECTION_OUTPUT_MAX_BYTES / least {
        peer.message(&mut bed, stream, &question, false);
        bed.turn();
    }
    peer.grant(&mut bed, stream, i32::MAX as u32 - 65_535);
    bed.settle();
    peer.take(&mut bed);
    assert_eq!(peer.answer(stream), (Some("2"), "etcdserver: too many requests"));
    let bytes = peer.answers[&stream].data.len();
    assert!(bytes < 2 * limits::CONNECTION_OUTPUT_MAX_BYTES, "{bytes} bytes were kept");
}
