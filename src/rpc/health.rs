//! `grpc.health.v1.Health`: the service "" only.

use bytes::Bytes;

use super::connection::{Call, Caller, Connections};
use super::dispatch::{attempt, decode};
use super::encode::Message;
use super::error::RpcError;
use super::{Answer, Core};
use crate::grpc::Code;
use crate::proto::health::{
    HealthCheckRequest, HealthCheckResponse, HealthListRequest,
    health_check_response::ServingStatus,
};

const UNKNOWN_SERVICE: RpcError = RpcError::new(Code::NotFound, "unknown service");

impl Core {
    pub(super) fn health_check(&mut self, message: Bytes) -> Answer {
        let request: HealthCheckRequest = attempt!(decode(message));
        if !request.service.is_empty() {
            return UNKNOWN_SERVICE.into();
        }
        Answer::Now(Ok(status(ServingStatus::Serving)))
    }

    pub(super) fn health_list(&mut self, message: Bytes) -> Answer {
        let _: HealthListRequest = attempt!(decode(message));
        // One entry of a map. Its key is sent although it is empty, as Go does it.
        const ENTRY: u8 = 1 << 3 | 2;
        const NO_NAME: [u8; 2] = [1 << 3 | 2, 0];
        const VALUE: u8 = 2 << 3 | 2;
        let status = status(ServingStatus::Serving);
        let status = status.body();
        let mut list = Message::with_capacity(2 + NO_NAME.len() + 2 + status.len());
        let out = list.out();
        out.extend([ENTRY, (NO_NAME.len() + 2 + status.len()) as u8]);
        out.extend(NO_NAME);
        out.extend([VALUE, status.len() as u8]);
        out.extend(status);
        Answer::Now(Ok(list))
    }

    /// Told once: it does not change while the process serves.
    pub(super) fn health_watch(
        &mut self,
        connections: &mut Connections,
        caller: Caller,
        message: Bytes,
    ) -> Result<(), RpcError> {
        let request: HealthCheckRequest = decode(message)?;
        let Some(connection) = connections.touch(caller.connection) else { return Ok(()) };
        connection.put(caller.stream, Call::HealthWatch);
        connection.start_stream(caller.stream);
        let known = request.service.is_empty();
        let told = if known { ServingStatus::Serving } else { ServingStatus::ServiceUnknown };
        connection.send_message(caller.stream, status(told));
        Ok(())
    }
}

fn status(status: ServingStatus) -> Message {
    Message::of(&HealthCheckResponse { status: status as i32 })
}
