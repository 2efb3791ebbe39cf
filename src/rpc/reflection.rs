//! `grpc.reflection.v1.ServerReflection` and its older name: clients like `grpcurl` ask for the schemas here.
//!
//! A file is sent with all that it imports, but for what the same stream has had before, as grpc-go does it.

use std::collections::{BTreeSet, VecDeque};

use bytes::Bytes;

use super::Core;
use super::connection::{Call, Caller, Connections};
use super::dispatch::decode;
use super::encode::Message;
use super::error::{self, RpcError};
use super::method::{METHODS, Method};
use crate::grpc::{self, Code};
use crate::proto::files::{FILES, File};
use crate::proto::reflection::{
    ErrorResponse, ExtensionNumberResponse, FileDescriptorResponse, ListServiceResponse,
    ServerReflectionRequest, ServerReflectionResponse, ServiceResponse,
    server_reflection_request::MessageRequest as Question,
    server_reflection_response::MessageResponse as Reply,
};

pub struct ReflectionCall {
    pub method: Method,
    pub decoder: grpc::Decoder,
    /// Names of the files that the client has.
    sent: BTreeSet<&'static str>,
}

impl ReflectionCall {
    pub fn new(method: Method, decoder: grpc::Decoder) -> ReflectionCall {
        ReflectionCall { method, decoder, sent: BTreeSet::new() }
    }

    fn answer(&mut self, question: &Question) -> Reply {
        match question {
            Question::FileByFilename(name) => self.files(find(|file| file.name == name), name),
            Question::FileContainingSymbol(name) => {
                self.files(find(|file| file.symbols.contains(&&name[..])), name)
            }
            Question::FileContainingExtension(wanted) => {
                let wanted = (&wanted.containing_type[..], wanted.extension_number);
                let name = format!("extension {} of {}", wanted.1, wanted.0);
                self.files(find(|file| file.extensions.contains(&wanted)), &name)
            }
            Question::AllExtensionNumbersOfType(name) => extensions_of(name),
            Question::ListServices(_) => services(),
        }
    }

    fn files(&mut self, first: Option<&'static File>, name: &str) -> Reply {
        let Some(first) = first else { return not_found(name) };
        let mut found = Vec::new();
        let mut queue = VecDeque::from([first]);
        while let Some(file) = queue.pop_front() {
            // The one that was asked for is the first of the answer, even if it is an old one.
            if self.sent.insert(file.name) || found.is_empty() {
                found.push(Bytes::from_static(file.encoded));
                queue.extend(file.imports.iter().filter_map(|name| find(|one| one.name == *name)));
            }
        }
        Reply::FileDescriptorResponse(FileDescriptorResponse { file_descriptor_proto: found })
    }
}

fn find(is_it: impl Fn(&File) -> bool) -> Option<&'static File> {
    FILES.iter().find(|file| is_it(file))
}

fn not_found(name: &str) -> Reply {
    let error_message = format!("not found: {name}");
    Reply::ErrorResponse(ErrorResponse { error_code: Code::NotFound as i32, error_message })
}

fn extensions_of(name: &str) -> Reply {
    if find(|file| file.symbols.contains(&name)).is_none() {
        return not_found(name);
    }
    let all = FILES.iter().flat_map(|file| file.extensions);
    let mut numbers: Vec<i32> =
        all.filter(|(of, _)| *of == name).map(|(_, number)| *number).collect();
    numbers.sort_unstable();
    Reply::AllExtensionNumbersResponse(ExtensionNumberResponse {
        base_type_name: name.to_owned(),
        extension_number: numbers,
    })
}

fn services() -> Reply {
    let names: BTreeSet<&str> = METHODS.iter().map(|known| known.service).collect();
    let service = names.into_iter().map(|name| ServiceResponse { name: name.to_owned() }).collect();
    Reply::ListServicesResponse(ListServiceResponse { service })
}

impl Core {
    /// One question on a stream, and its answer.
    pub(super) fn reflect(
        &mut self,
        connections: &mut Connections,
        caller: Caller,
        message: Bytes,
    ) -> Result<(), RpcError> {
        let request: ServerReflectionRequest = decode(message)?;
        let Some(connection) = connections.touch(caller.connection) else { return Ok(()) };
        if connection.at_once().is_none() {
            return Err(error::TOO_MANY_REQUESTS);
        }
        let Some(Call::Reflection(call)) = connection.calls.get_mut(&caller.stream) else {
            return Ok(());
        };
        let Some(question) = &request.message_request else {
            return Err(RpcError::new(
                Code::InvalidArgument,
                "a reflection request that asks nothing",
            ));
        };
        let answer = ServerReflectionResponse {
            message_response: Some(call.answer(question)),
            valid_host: request.host.clone(),
            original_request: Some(request),
        };
        connection.send_message(caller.stream, Message::of(&answer));
        self.metrics.sent(caller.method, 1);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use prost::Message as _;

    fn call() -> ReflectionCall {
        ReflectionCall::new(Method::Reflection, grpc::Decoder::new(1 << 20))
    }

    fn sent(reply: Reply) -> Vec<prost_types::FileDescriptorProto> {
        let Reply::FileDescriptorResponse(files) = reply else { panic!("{reply:?}") };
        let decode = |bytes: &Bytes| prost_types::FileDescriptorProto::decode(&bytes[..]).unwrap();
        files.file_descriptor_proto.iter().map(decode).collect()
    }

    #[test]
    fn every_method_is_found_by_its_name_with_all_that_its_file_imports() {
        for known in METHODS {
            let symbol = format!("{}.{}", known.service, known.name);
            let files = sent(call().answer(&Question::FileContainingSymbol(symbol)));
            let services = |file: &prost_types::FileDescriptorProto| {
                let name = |one: &prost_types::ServiceDescriptorProto| {
                    format!("{}.{}", file.package(), one.name())
                };
                file.service.iter().map(name).collect::<Vec<_>>()
            };
            assert!(services(&files[0]).contains(&known.service.to_owned()));
            let names: BTreeSet<&str> = files.iter().map(|file| file.name()).collect();
            assert_eq!(names.len(), files.len(), "each once");
            let imports = files.iter().flat_map(|file| &file.dependency);
            assert!(imports.clone().count() > 0 || files.len() == 1);
            for import in imports {
                assert!(names.contains(&import[..]), "{import} is missing for {}", known.path);
            }
        }
    }

    #[test]
    fn every_file_is_found_by_its_name_and_by_each_of_its_symbols() {
        for file in FILES {
            let found = sent(call().answer(&Question::FileByFilename(file.name.to_owned())));
            assert_eq!(found[0].name(), file.name);
            assert!(!file.symbols.is_empty());
            for symbol in file.symbols {
                let asked = Question::FileContainingSymbol((*symbol).to_owned());
                assert_eq!(sent(call().answer(&asked))[0].name(), file.name, "{symbol}");
            }
        }
        for symbol in [
            "etcdserverpb.Compare.CompareResult",
            "mvccpb.Event.PUT",
            "etcdserverpb.Compare.target_union",
        ] {
            let asked = Question::FileContainingSymbol(symbol.to_owned());
            sent(call().answer(&asked));
        }
    }

    #[test]
    fn a_stream_gets_a_file_twice_only_if_it_asks_for_it() {
        let mut call = call();
        let kv = Question::FileContainingSymbol("etcdserverpb.KV".to_owned());
        let lease = Question::FileContainingSymbol("etcdserverpb.Lease".to_owned());
        assert!(sent(call.answer(&kv)).len() > 1);
        assert_eq!(sent(call.answer(&kv)).len(), 1);
        assert_eq!(sent(call.answer(&lease)).len(), 1, "its import came before");
    }

    #[test]
    fn extensions_and_services_are_told_and_what_is_missing_is_an_error_in_its_answer() {
        let options = "google.protobuf.MessageOptions";
        let Reply::AllExtensionNumbersResponse(numbers) = extensions_of(options) else { panic!() };
        assert_eq!(numbers.extension_number, [50_000]);
        let Reply::AllExtensionNumbersResponse(none) = extensions_of("mvccpb.KeyValue") else {
            panic!()
        };
        assert!(none.extension_number.is_empty() && none.base_type_name == "mvccpb.KeyValue");
        let extension = |extension_number| {
            Question::FileContainingExtension(crate::proto::reflection::ExtensionRequest {
                containing_type: options.to_owned(),
                extension_number,
            })
        };
        assert_eq!(sent(call().answer(&extension(50_000)))[0].name(), "versionpb.proto");
        let Reply::ListServicesResponse(list) = services() else { panic!() };
        let names: Vec<&str> = list.service.iter().map(|one| &one.name[..]).collect();
        assert!(names.is_sorted() && names.contains(&"etcdserverpb.Watch"));
        assert!(names.contains(&"grpc.reflection.v1.ServerReflection"));
        for missing in [
            Question::FileByFilename("none.proto".to_owned()),
            Question::FileContainingSymbol("etcdserverpb.None".to_owned()),
            Question::AllExtensionNumbersOfType("None".to_owned()),
            extension(1),
        ] {
            let Reply::ErrorResponse(error) = call().answer(&missing) else {
                panic!("{missing:?}")
            };
            assert_eq!(error.error_code, 5);
        }
    }
}
