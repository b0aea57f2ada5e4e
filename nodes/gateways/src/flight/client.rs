//! A thin client of the door, for the command line, the demo and tests. It speaks plain Flight SQL and the door's own
//! actions, and gives errors back as the mesh made them.

use std::time::Duration;

use arrow::datatypes::{Schema, SchemaRef};
use arrow_flight::{
    Action, FlightDescriptor, FlightInfo, SchemaResult, Ticket,
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
    ADMIN_ACTION, CANCEL_ACTION, MESSAGE_BYTES_MAX, QUERY_HEADER, REQUEST_BYTES_MAX, RESUME_HEADER, status::from_status,
};

/// Longest wait for a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A door that answers nothing, not even a ping, for so long while a statement runs there is lost: its process is stopped,
/// or the way to it is cut without a word.
const DOOR_PING: Duration = Duration::from_secs(1);
const DOOR_SILENCE_MAX: Duration = Duration::from_secs(2);
/// Bytes that the door may send ahead of what has been read, for one statement and for all of a client's.
const STREAM_WINDOW_BYTES: u32 = 2 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 8 << 20;

/// An authenticated connection to one door. Clones share it.
#[derive(Clone)]
pub struct Client {
    service: FlightServiceClient<Channel>,
    headers: MetadataMap,
}

/// A statement that is running. Dropping `batches` cancels it.
pub struct Answer {
    /// `None` if the server is not a Greylag door.
    pub query: Option<QueryId>,
    pub schema: SchemaRef,
    pub batches: BatchStream,
}

impl Client {
    /// `endpoint` is `http://host:port`. GL4013 if nothing answers there; the token is checked at the first call.
    pub async fn connect(endpoint: &str, token: &str) -> Result<Self> {
        let endpoint = Endpoint::from_shared(endpoint.to_owned())
            .map_err(|_| MeshError::new(ErrorCode::InvalidConfig, format!("`{endpoint}` is not `http://host:port`")))?
            .connect_timeout(CONNECT_TIMEOUT)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(DOOR_PING)
            .keep_alive_timeout(DOOR_SILENCE_MAX)
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES);
        let channel = endpoint.connect().await.map_err(|error| {
            MeshError::new(ErrorCode::PeerUnreachable, format!("no door answers at `{}`: {error}", endpoint.uri()))
        })?;
        let service = FlightServiceClient::new(channel)
            .max_encoding_message_size(REQUEST_BYTES_MAX)
            .max_decoding_message_size(MESSAGE_BYTES_MAX + (64 << 10));
        let mut client = Self { service, headers: MetadataMap::new() };
        client.set_header("authorization", &format!("Bearer {token}"))?;
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

    /// Sends these options with every call from now on.
    pub fn set_options(&mut self, options: &SessionOptions) -> Result<()> {
        let delivery = match options.delivery {
            Delivery::Streamed => "streamed",
            Delivery::Spooled => "spooled",
        };
        self.set_header("greylag-delivery", delivery)?;
        self.set_header("greylag-batch-rows", &options.batch_rows.to_string())?;
        self.set_header("greylag-resumable", &options.resumable.to_string())?;
        match options.timeout {
            Some(timeout) => self.set_header("greylag-timeout-ms", &timeout.as_millis().to_string()),
            None => {
                self.headers.remove("greylag-timeout-ms");
                Ok(())
            }
        }
    }

    fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        *request.metadata_mut() = self.headers.clone();
        request
    }

    /// Plans a statement without running it, and gives what is needed to fetch it.
    pub async fn flight_info(&self, sql: &str) -> Result<FlightInfo> {
        let descriptor = self.request(statement(sql));
        Ok(self.service.clone().get_flight_info(descriptor).await.map_err(told)?.into_inner())
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
        let (query, messages) = self.redeem(&ticket_of(info)?, Prefix::default()).await?;
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

pub(super) fn ticket_of(info: &FlightInfo) -> Result<Ticket> {
    let ticket: Option<Ticket> = info.endpoint.first().and_then(|endpoint| endpoint.ticket.clone());
    ticket.ok_or_else(|| MeshError::internal("the server has given no ticket"))
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
