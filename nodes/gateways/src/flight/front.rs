//! The only service that tonic knows: it authenticates each call, asks whether the credential is good for it, adds the
//! session to it, and hands it on.
//!
//! INVARIANT: no call but the handshake reaches the door without a session, and a session is made here only, of a
//! principal that the authenticator has named and a credential that covers the call.

use std::sync::Arc;

use arrow_flight::{
    Action, Criteria, Empty, FlightData, FlightDescriptor, FlightInfo, HandshakeRequest, HandshakeResponse, PollInfo,
    SchemaResult, Ticket, flight_service_server::FlightService,
};
use futures::stream::BoxStream;
use greylag_protocol::{ErrorCode, MeshError, principal::Principal, statement::Session};
use tokio_util::sync::CancellationToken;
use tonic::{
    Request, Response, Status, Streaming,
    metadata::{MetadataMap, MetadataValue},
};

use super::{
    DoorParts,
    connections::{Admission, Caller},
    door::{Door, now_unix_ms},
    needs, session,
    status::{normal, to_status},
    ticket::Sealer,
};
use crate::identity::{Authenticator, Need, Presented, secret};

/// Name of this door in `system.queries`.
const DOOR: &str = "flight";
const AUTHORIZATION: &str = "authorization";

pub(super) struct Front {
    door: Door,
    authenticator: Arc<Authenticator>,
    sealer: Arc<dyn Sealer>,
    closing: CancellationToken,
}

impl Front {
    /// `own` is the door's own address.
    pub(super) fn new(parts: DoorParts, own: String, closing: CancellationToken) -> Self {
        let door = Door::new(&parts, own, closing.clone());
        Self { door, authenticator: parts.authenticator, sealer: parts.sealer, closing }
    }

    /// The request with its session, if it names a principal by a credential that is good for this.
    async fn admit<T>(&self, mut request: Request<T>, need: Need) -> Result<Request<T>, Status> {
        let caller = seated(&request)?;
        let session = self.session(request.metadata(), &caller, need).await.map_err(|e| to_status(&e))?;
        request.extensions_mut().insert(session);
        Ok(request)
    }

    async fn session(&self, headers: &MetadataMap, caller: &Caller, need: Need) -> greylag_protocol::Result<Session> {
        let mut principal = self.principal(authorization(headers)?, caller).await?;
        need.check(&principal)?;
        let options = session::options_of(headers, &principal, self.sealer.as_ref(), now_unix_ms())?;
        session::claim_attributes(headers, &mut principal, &self.authenticator)?;
        Ok(Session { principal, client: Some(caller.address.ip().to_canonical()), door: DOOR, options })
    }

    async fn principal(&self, authorization: Option<&str>, caller: &Caller) -> greylag_protocol::Result<Principal> {
        let certificate = caller.certificate.as_deref();
        self.authenticator.authenticate(Presented { authorization, from: caller.address.ip(), certificate }).await
    }

    /// Awaits a call of the door, unless the door closes first.
    async fn until_closing<T>(&self, call: impl Future<Output = Result<T, Status>>) -> Result<T, Status> {
        tokio::select! {
            biased;
            () = self.closing.cancelled() => {
                Err(to_status(&MeshError::new(ErrorCode::ShuttingDown, "the door closes")))
            }
            answer = call => answer.map_err(normal),
        }
    }

    /// The token or key that a handshake shows, which is what the client goes on with.
    async fn handshake_secret(&self, headers: &MetadataMap, caller: &Caller) -> greylag_protocol::Result<String> {
        let shown = authorization(headers)?;
        self.principal(shown, caller).await?;
        secret(shown.ok_or_else(|| unauthenticated("a certificate alone needs no handshake"))?)
    }
}

/// Who calls, unless it is GL5009: on a connection that was let in only to be told so.
fn seated<T>(request: &Request<T>) -> Result<Caller, Status> {
    let caller = request.extensions().get::<Caller>();
    let caller = caller.ok_or_else(|| to_status(&MeshError::internal("a call came by no connection")))?;
    match caller.admission {
        Admission::Refused { max } => {
            let message = format!("{max} clients are connected to this door already");
            Err(to_status(&MeshError::new(ErrorCode::DoorFull, message)))
        }
        Admission::Seated => Ok(caller.clone()),
    }
}

fn unauthenticated(message: &str) -> MeshError {
    MeshError::new(ErrorCode::Unauthenticated, message)
}

/// The only `authorization` header, if there is one.
fn authorization(headers: &MetadataMap) -> greylag_protocol::Result<Option<&str>> {
    let mut values = headers.get_all(AUTHORIZATION).into_iter();
    match (values.next(), values.next()) {
        (None, _) => Ok(None),
        (Some(value), None) => match value.to_str() {
            Ok(text) => Ok(Some(text)),
            Err(_) => Err(unauthenticated("the `authorization` of the call is not plain text")),
        },
        (Some(_), Some(_)) => Err(unauthenticated("the call has more than one `authorization`")),
    }
}

fn not_offered<T>(what: &str) -> Result<T, Status> {
    Err(to_status(&MeshError::new(ErrorCode::Unsupported, format!("`{what}` is not offered by this door"))))
}

#[tonic::async_trait]
impl FlightService for Front {
    type HandshakeStream = BoxStream<'static, Result<HandshakeResponse, Status>>;
    type ListFlightsStream = BoxStream<'static, Result<FlightInfo, Status>>;
    type DoGetStream = <Door as FlightService>::DoGetStream;
    type DoPutStream = <Door as FlightService>::DoPutStream;
    type DoActionStream = <Door as FlightService>::DoActionStream;
    type ListActionsStream = <Door as FlightService>::ListActionsStream;
    type DoExchangeStream = BoxStream<'static, Result<FlightData, Status>>;

    async fn handshake(
        &self,
        request: Request<Streaming<HandshakeRequest>>,
    ) -> Result<Response<Self::HandshakeStream>, Status> {
        let caller = seated(&request)?;
        let token = self.handshake_secret(request.metadata(), &caller).await.map_err(|e| to_status(&e))?;
        let header = MetadataValue::try_from(format!("Bearer {token}"))
            .map_err(|_| to_status(&unauthenticated("the token is not plain text")))?;
        let answer = HandshakeResponse { protocol_version: 0, payload: token.into() };
        let mut response: Response<Self::HandshakeStream> =
            Response::new(Box::pin(futures::stream::iter([Ok(answer)])));
        response.metadata_mut().insert(AUTHORIZATION, header);
        Ok(response)
    }

    async fn get_flight_info(&self, request: Request<FlightDescriptor>) -> Result<Response<FlightInfo>, Status> {
        let request = self.admit(request, Need::DESCRIBE).await?;
        self.until_closing(FlightService::get_flight_info(&self.door, request)).await
    }

    async fn get_schema(&self, request: Request<FlightDescriptor>) -> Result<Response<SchemaResult>, Status> {
        let request = self.admit(request, Need::DESCRIBE).await?;
        self.until_closing(self.door.schema_of(request)).await
    }

    async fn do_get(&self, request: Request<Ticket>) -> Result<Response<Self::DoGetStream>, Status> {
        let need = needs::of_ticket(request.get_ref());
        let request = self.admit(request, need).await?;
        self.until_closing(FlightService::do_get(&self.door, request)).await
    }

    async fn do_put(&self, request: Request<Streaming<FlightData>>) -> Result<Response<Self::DoPutStream>, Status> {
        let request = self.admit(request, Need::QUERY).await?;
        self.until_closing(FlightService::do_put(&self.door, request)).await
    }

    async fn do_action(&self, request: Request<Action>) -> Result<Response<Self::DoActionStream>, Status> {
        let need = needs::of_action(request.get_ref());
        let request = self.admit(request, need).await?;
        self.until_closing(FlightService::do_action(&self.door, request)).await
    }

    async fn list_actions(&self, request: Request<Empty>) -> Result<Response<Self::ListActionsStream>, Status> {
        let request = self.admit(request, Need::DESCRIBE).await?;
        self.until_closing(FlightService::list_actions(&self.door, request)).await
    }

    async fn list_flights(&self, request: Request<Criteria>) -> Result<Response<Self::ListFlightsStream>, Status> {
        self.admit(request, Need::DESCRIBE).await?;
        not_offered("ListFlights")
    }

    async fn poll_flight_info(&self, request: Request<FlightDescriptor>) -> Result<Response<PollInfo>, Status> {
        let request = self.admit(request, Need::QUERY).await?;
        self.until_closing(self.door.poll(request)).await
    }

    async fn do_exchange(
        &self,
        request: Request<Streaming<FlightData>>,
    ) -> Result<Response<Self::DoExchangeStream>, Status> {
        self.admit(request, Need::QUERY).await?;
        not_offered("DoExchange")
    }
}
