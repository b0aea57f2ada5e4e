//! The only service that tonic knows: it authenticates each call, adds the session to it, and hands it on.
//!
//! INVARIANT: no call but the handshake reaches the door without a session, and a session is made here only, from a
//! verified token.

use std::sync::Arc;

use arrow_flight::{
    Action, Criteria, Empty, FlightData, FlightDescriptor, FlightInfo, HandshakeRequest, HandshakeResponse, PollInfo,
    SchemaResult, Ticket, flight_service_server::FlightService,
};
use base64::{
    Engine, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use futures::stream::BoxStream;
use greylag_protocol::{ErrorCode, MeshError, statement::Session};
use tokio_util::sync::CancellationToken;
use tonic::{
    Request, Response, Status, Streaming,
    metadata::{MetadataMap, MetadataValue},
};

use super::{
    DoorParts,
    connections::Admission,
    door::{Door, now_unix_ms},
    session,
    status::{normal, to_status},
    ticket::Sealer,
};
use crate::bearer::Verifier;

/// Name of this door in `system.queries`.
const DOOR: &str = "flight";
const AUTHORIZATION: &str = "authorization";
/// Clients differ on whether `Basic` credentials are padded.
const BASIC: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

pub(super) struct Front {
    door: Door,
    verifier: Verifier,
    sealer: Arc<dyn Sealer>,
    closing: CancellationToken,
}

impl Front {
    /// `own` is the door's own address.
    pub(super) fn new(parts: DoorParts, own: String, closing: CancellationToken) -> Self {
        let door = Door::new(&parts, own, closing.clone());
        Self { door, verifier: parts.verifier, sealer: parts.sealer, closing }
    }

    /// The request with its session, if it names a principal.
    fn admit<T>(&self, mut request: Request<T>) -> Result<Request<T>, Status> {
        check_seat(&request)?;
        let session = self.session(request.metadata()).map_err(|e| to_status(&e))?;
        request.extensions_mut().insert(session);
        Ok(request)
    }

    fn session(&self, headers: &MetadataMap) -> greylag_protocol::Result<Session> {
        let token = match credentials(headers) {
            Some(("bearer", token)) => token,
            _ => return Err(unauthenticated("send `authorization: Bearer <token>` with each call")),
        };
        let mut principal = self.verifier.verify(token)?;
        let options = session::options_of(headers, &principal, self.sealer.as_ref(), now_unix_ms())?;
        session::claim_attributes(headers, &mut principal)?;
        Ok(Session { principal, door: DOOR, options })
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

    /// Token that a handshake shows: a bearer token, or one in place of a password.
    fn handshake_token(&self, headers: &MetadataMap) -> greylag_protocol::Result<String> {
        let token = match credentials(headers) {
            Some(("bearer", token)) => token.to_owned(),
            Some(("basic", encoded)) => {
                let decoded = BASIC.decode(encoded).ok().and_then(|bytes| String::from_utf8(bytes).ok());
                decoded
                    .and_then(|pair| pair.split_once(':').map(|(_, password)| password.to_owned()))
                    .unwrap_or_default()
            }
            _ => String::new(),
        };
        if token.is_empty() {
            return Err(unauthenticated(
                "there are no passwords here: pass a bearer token of the mesh as the password",
            ));
        }
        self.verifier.verify(&token)?;
        Ok(token)
    }
}

/// GL5009 on a connection that was let in only to be told so.
fn check_seat<T>(request: &Request<T>) -> Result<(), Status> {
    match request.extensions().get::<Admission>() {
        Some(Admission::Refused { max }) => {
            let message = format!("{max} clients are connected to this door already");
            Err(to_status(&MeshError::new(ErrorCode::DoorFull, message)))
        }
        Some(Admission::Seated) | None => Ok(()),
    }
}

fn unauthenticated(message: &str) -> MeshError {
    MeshError::new(ErrorCode::Unauthenticated, message)
}

/// Scheme, in lower case, and credentials of the only `authorization` header.
fn credentials(headers: &MetadataMap) -> Option<(&'static str, &str)> {
    let mut values = headers.get_all(AUTHORIZATION).into_iter();
    let (value, None) = (values.next()?, values.next()) else { return None };
    let (scheme, rest) = value.to_str().ok()?.split_once(' ')?;
    let scheme = ["bearer", "basic"].into_iter().find(|known| scheme.eq_ignore_ascii_case(known))?;
    Some((scheme, rest.trim()))
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
        check_seat(&request)?;
        let token = self.handshake_token(request.metadata()).map_err(|e| to_status(&e))?;
        let header = MetadataValue::try_from(format!("Bearer {token}"))
            .map_err(|_| to_status(&unauthenticated("the token is not plain text")))?;
        let answer = HandshakeResponse { protocol_version: 0, payload: token.into() };
        let mut response: Response<Self::HandshakeStream> =
            Response::new(Box::pin(futures::stream::iter([Ok(answer)])));
        response.metadata_mut().insert(AUTHORIZATION, header);
        Ok(response)
    }

    async fn get_flight_info(&self, request: Request<FlightDescriptor>) -> Result<Response<FlightInfo>, Status> {
        let request = self.admit(request)?;
        self.until_closing(FlightService::get_flight_info(&self.door, request)).await
    }

    async fn get_schema(&self, request: Request<FlightDescriptor>) -> Result<Response<SchemaResult>, Status> {
        let request = self.admit(request)?;
        self.until_closing(self.door.schema_of(request)).await
    }

    async fn do_get(&self, request: Request<Ticket>) -> Result<Response<Self::DoGetStream>, Status> {
        let request = self.admit(request)?;
        self.until_closing(FlightService::do_get(&self.door, request)).await
    }

    async fn do_put(&self, request: Request<Streaming<FlightData>>) -> Result<Response<Self::DoPutStream>, Status> {
        let request = self.admit(request)?;
        self.until_closing(FlightService::do_put(&self.door, request)).await
    }

    async fn do_action(&self, request: Request<Action>) -> Result<Response<Self::DoActionStream>, Status> {
        let request = self.admit(request)?;
        self.until_closing(FlightService::do_action(&self.door, request)).await
    }

    async fn list_actions(&self, request: Request<Empty>) -> Result<Response<Self::ListActionsStream>, Status> {
        let request = self.admit(request)?;
        self.until_closing(FlightService::list_actions(&self.door, request)).await
    }

    async fn list_flights(&self, request: Request<Criteria>) -> Result<Response<Self::ListFlightsStream>, Status> {
        self.admit(request)?;
        not_offered("ListFlights")
    }

    async fn poll_flight_info(&self, request: Request<FlightDescriptor>) -> Result<Response<PollInfo>, Status> {
        let request = self.admit(request)?;
        self.until_closing(self.door.poll(request)).await
    }

    async fn do_exchange(
        &self,
        request: Request<Streaming<FlightData>>,
    ) -> Result<Response<Self::DoExchangeStream>, Status> {
        self.admit(request)?;
        not_offered("DoExchange")
    }
}
