//! A thin client of the door, for the command line, the demo and tests. It speaks plain Flight SQL and the door's own
//! actions, and gives errors back as the mesh made them.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use arrow::datatypes::{Schema, SchemaRef};
use arrow_flight::{
    Action, CancelFlightInfoRequest, CancelFlightInfoResult, CancelStatus, FlightDescriptor, FlightInfo, PollInfo,
    SchemaResult, Ticket,
    decode::{FlightDataDecoder, FlightRecordBatchStream},
    error::FlightError,
    flight_service_client::FlightServiceClient,
    sql::{CommandStatementQuery, ProstMessageExt},
};
use futures::{StreamExt, TryStreamExt};
use greylag_protocol::{
    ErrorCode, MeshError, QueryId, Result,
    prefix::Prefix,
    statement::{AdminCall, AdminReply, BatchStream, Delivery, SessionOptions},
};
use prost::Message;
use tonic::{
    Request,
    metadata::{AsciiMetadataKey, AsciiMetadataValue, MetadataMap},
    transport::{Channel, Endpoint},
};

use super::{
    ADMIN_ACTION, CANCEL_ACTION, MESSAGE_BYTES_MAX, QUERY_HEADER, REQUEST_BYTES_MAX, RESUME_HEADER,
    address::DoorAddress, status::from_status,
};
use crate::tls::{ClientTls, with_causes};

/// Longest wait for a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A door that answers nothing, not even a ping, for so long while a statement runs there is lost: its process is stopped,
/// or the way to it is cut without a word.
const DOOR_PING: Duration = Duration::from_secs(1);
const DOOR_SILENCE_MAX: Duration = Duration::from_secs(2);
/// Bytes that the door may send ahead of what has been read, for one statement and for all of a client's.
const STREAM_WINDOW_BYTES: u32 = 2 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 8 << 20;

/// How a client comes to doors, and what it shows there.
#[derive(Clone, Default)]
pub struct Access {
    /// Bearer token or API key. `None`: the certificate names the principal.
    pub token: Option<String>,
    /// `Some`: every door is spoken to over TLS. `None`: as each door's address says, over TLS with the public
    /// authorities.
    pub tls: Option<ClientTls>,
}

impl Access {
    pub fn by_token(token: &str) -> Self {
        Self { token: Some(token.to_owned()), tls: None }
    }
}

impl std::fmt::Debug for Access {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Access").field("shows_token", &self.token.is_some()).field("tls", &self.tls).finish()
    }
}

/// An authenticated connection to one door. Clones share it.
#[derive(Clone)]
pub struct Client {
    service: FlightServiceClient<Channel>,
    headers: MetadataMap,
    cookies: Cookies,
}

/// The session that doors have given, to be brought back with each call. Clones are the same jar.
#[derive(Clone, Default)]
pub struct Cookies(Arc<Mutex<Option<AsciiMetadataValue>>>);

impl Cookies {
    fn keep(&self, headers: &MetadataMap) {
        let pair = |line: &AsciiMetadataValue| line.to_str().ok()?.split(';').next()?.parse().ok();
        if let Some(cookie) = headers.get_all("set-cookie").iter().filter_map(pair).next_back() {
            *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(cookie);
        }
    }

    fn held(&self) -> Option<AsciiMetadataValue> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// A statement that is running. Dropping `batches` cancels it.
pub struct Answer {
    /// `None` if the server is not a Greylag door.
    pub query: Option<QueryId>,
    pub schema: SchemaRef,
    pub batches: BatchStream,
}

impl Client {
    /// `endpoint` is `http://host:port` or whatever else [`DoorAddress::parse`] reads. GL4013 if nothing answers there; the
    /// token is checked at the first call.
    pub async fn connect(endpoint: &str, token: &str) -> Result<Self> {
        Self::open(&DoorAddress::parse(endpoint, false)?, &Access::by_token(token), Cookies::default()).await
    }

    /// With the session of another door of the mesh. The server's certificate must be good for the name in the address.
    pub async fn open(door: &DoorAddress, access: &Access, cookies: Cookies) -> Result<Self> {
        let mut endpoint = Endpoint::from_shared(door.endpoint())
            .map_err(|_| MeshError::new(ErrorCode::InvalidConfig, format!("`{door}` is no address of a door")))?
            .connect_timeout(CONNECT_TIMEOUT)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(DOOR_PING)
            .keep_alive_timeout(DOOR_SILENCE_MAX)
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES);
        if door.is_tls() {
            let tls = access.tls.clone().unwrap_or_default().config();
            endpoint = endpoint.tls_config(tls).map_err(|error| {
                let why = with_causes(&error);
                MeshError::new(ErrorCode::InvalidConfig, format!("TLS to `{door}` cannot be set up: {why}"))
            })?;
        } else if access.tls.is_some() {
            let message = format!("`{door}` is a door without TLS, and TLS is asked for");
            return Err(MeshError::new(ErrorCode::InvalidConfig, message));
        }
        let channel = endpoint.connect().await.map_err(|error| {
            let why = with_causes(&error);
            MeshError::new(ErrorCode::PeerUnreachable, format!("no door answers at `{door}`: {why}"))
        })?;
        let service = FlightServiceClient::new(channel)
            .max_encoding_message_size(REQUEST_BYTES_MAX)
            .max_decoding_message_size(MESSAGE_BYTES_MAX + (64 << 10));
        let mut client = Self { service, headers: MetadataMap::new(), cookies };
        if let Some(token) = &access.token {
            client.set_header("authorization", &format!("Bearer {token}"))?;
        }
        Ok(client)
    }

    /// Sends a header with every call from now on, such as `greylag-agent-id`.
    pub fn set_header(&mut self, name: &str, value: &str) -> Result<()> {
        let wrong = || MeshError::new(ErrorCode::InvalidConfig, format!("header `{name}` is not plain text"));
        let key: AsciiMetadataKey = name.parse().map_err(|_| wrong())?;
        let value: AsciiMetadataValue = value.parse().map_err(|_| wrong())?;
        self.headers.insert(key, value);
        Ok(())
    }

    /// Sends these options with every call from now on, whatever the session says; those that are as usual are left to
    /// the session.
    pub fn set_options(&mut self, options: &SessionOptions) -> Result<()> {
        let usual = SessionOptions::default();
        let timeout = options.timeout.map(|timeout| timeout.as_millis().to_string());
        let delivery = (options.delivery == Delivery::Spooled).then(|| "spooled".to_owned());
        let batch_rows = (options.batch_rows != usual.batch_rows).then(|| options.batch_rows.to_string());
        let resumable = options.resumable.then(|| "true".to_owned());
        for (name, value) in [
            ("greylag-timeout-ms", timeout),
            ("greylag-delivery", delivery),
            ("greylag-batch-rows", batch_rows),
            ("greylag-resumable", resumable),
        ] {
            match value {
                Some(value) => self.set_header(name, &value)?,
                None => drop(self.headers.remove(name)),
            }
        }
        Ok(())
    }

    fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        *request.metadata_mut() = self.headers.clone();
        if let Some(cookie) = self.cookies.held() {
            request.metadata_mut().insert("cookie", cookie);
        }
        request
    }

    /// Plans a statement without running it, and gives what is needed to fetch it.
    pub async fn flight_info(&self, sql: &str) -> Result<FlightInfo> {
        let descriptor = self.request(statement(sql));
        let response = self.service.clone().get_flight_info(descriptor).await.map_err(told)?;
        self.cookies.keep(response.metadata());
        Ok(response.into_inner())
    }

    /// Begins a statement in the background; what is answered says how to poll for it.
    pub async fn submit(&self, sql: &str) -> Result<PollInfo> {
        self.poll(statement(sql)).await
    }

    /// Asks how far a statement in the background is, as the last poll has said.
    pub async fn poll(&self, descriptor: FlightDescriptor) -> Result<PollInfo> {
        let request = self.request(descriptor);
        Ok(self.service.clone().poll_flight_info(request).await.map_err(told)?.into_inner())
    }

    /// Stops whatever runs for a flight info. False if nothing does.
    pub async fn cancel_flight(&self, info: FlightInfo) -> Result<bool> {
        let body = CancelFlightInfoRequest::new(info).encode_to_vec();
        let action = self.request(Action::new("CancelFlightInfo", body));
        let mut answers = self.service.clone().do_action(action).await.map_err(told)?.into_inner();
        let answer = answers.message().await.map_err(told)?.unwrap_or_default();
        let result = CancelFlightInfoResult::decode(&*answer.body)
            .map_err(|_| MeshError::new(ErrorCode::ProtocolVersion, "the answer to a cancel cannot be read"))?;
        Ok(result.status() == CancelStatus::Cancelled)
    }

    /// Schema of a statement's result, without running it.
    pub async fn schema(&self, sql: &str) -> Result<SchemaRef> {
        let descriptor = self.request(statement(sql));
        let answer: SchemaResult = self.service.clone().get_schema(descriptor).await.map_err(told)?.into_inner();
        Ok(SchemaRef::new(Schema::try_from(answer).map_err(unreadable)?))
    }

    /// Runs a statement; its rows come as they are ready and as they are taken.
    pub async fn query(&self, sql: &str) -> Result<Answer> {
        let info = self.flight_info(sql).await?;
        self.fetch(&info).await
    }

    /// Fetches what a flight info stands for.
    pub async fn fetch(&self, info: &FlightInfo) -> Result<Answer> {
        let Some(ticket) = ticket_of(info) else { return Answer::empty(info) };
        let (query, messages) = self.redeem(&ticket, Prefix::default()).await?;
        let batches = FlightRecordBatchStream::new(messages).map_err(flight_error).boxed();
        Ok(Answer { query, schema: schema_of(info)?, batches })
    }

    /// Messages of a ticket's result, from after what is there already.
    pub(super) async fn redeem(&self, ticket: &Ticket, resume: Prefix) -> Result<(Option<QueryId>, FlightDataDecoder)> {
        let mut request = self.request(ticket.clone());
        if !resume.is_empty() {
            let resume = AsciiMetadataValue::try_from(resume.to_string());
            let resume = resume.map_err(|_| MeshError::internal("a prefix is not plain text"))?;
            request.metadata_mut().insert(RESUME_HEADER, resume);
        }
        let response = self.service.clone().do_get(request).await.map_err(told)?;
        let query = response.metadata().get(QUERY_HEADER).and_then(|id| id.to_str().ok()?.parse().ok());
        Ok((query, FlightDataDecoder::new(response.into_inner().map_err(FlightError::from))))
    }

    pub async fn admin(&self, call: &AdminCall) -> Result<AdminReply> {
        let body = serde_json::to_vec(call).map_err(|e| MeshError::internal(format!("a call is not JSON: {e}")))?;
        self.json_action(ADMIN_ACTION, body).await
    }

    /// Stops a query of this principal. False if no such query runs at this door's node.
    pub async fn cancel(&self, query: QueryId) -> Result<bool> {
        self.json_action(CANCEL_ACTION, query.to_string().into_bytes()).await
    }

    async fn json_action<T: serde::de::DeserializeOwned>(&self, name: &str, body: Vec<u8>) -> Result<T> {
        let action = self.request(Action::new(name, body));
        let mut answers = self.service.clone().do_action(action).await.map_err(told)?.into_inner();
        let answer = answers.message().await.map_err(told)?;
        let answer = answer.ok_or_else(|| MeshError::internal(format!("action `{name}` was not answered")))?;
        serde_json::from_slice(&answer.body).map_err(|e| {
            MeshError::new(ErrorCode::ProtocolVersion, format!("the answer to `{name}` is not known: {e}"))
        })
    }
}

/// `None` for a result that has no rows.
pub(super) fn ticket_of(info: &FlightInfo) -> Option<Ticket> {
    info.endpoint.first().and_then(|endpoint| endpoint.ticket.clone())
}

impl Answer {
    /// A result without rows.
    pub(super) fn empty(info: &FlightInfo) -> Result<Self> {
        Ok(Self { query: None, schema: schema_of(info)?, batches: futures::stream::empty().boxed() })
    }
}

pub(super) fn schema_of(info: &FlightInfo) -> Result<SchemaRef> {
    Ok(SchemaRef::new(info.clone().try_decode_schema().map_err(unreadable)?))
}

fn statement(sql: &str) -> FlightDescriptor {
    let command = CommandStatementQuery { query: sql.to_owned(), transaction_id: None };
    FlightDescriptor::new_cmd(command.as_any().encode_to_vec())
}

fn told(status: tonic::Status) -> MeshError {
    from_status(&status)
}

fn unreadable(error: arrow::error::ArrowError) -> MeshError {
    MeshError::new(ErrorCode::MalformedFrame, format!("the server's schema cannot be read: {error}"))
}

pub(super) fn flight_error(error: FlightError) -> MeshError {
    match error {
        FlightError::Tonic(status) => from_status(&status),
        other => MeshError::new(ErrorCode::MalformedFrame, format!("the server's answer cannot be read: {other}")),
    }
}
