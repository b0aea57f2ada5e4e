//! Flight SQL itself: statements and prepared statements here, the rest handed to `metadata`, `info` and `actions`.

use std::{
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use arrow::datatypes::Schema;
use arrow_flight::{
    Action, ActionType, FlightDescriptor, FlightEndpoint, FlightInfo, HandshakeRequest, HandshakeResponse, IpcMessage,
    Location, PollInfo, SchemaAsIpc, SchemaResult, Ticket as FlightTicket,
    flight_service_server::FlightService,
    sql::{
        ActionBeginSavepointRequest, ActionBeginSavepointResult, ActionBeginTransactionRequest,
        ActionBeginTransactionResult, ActionCancelQueryRequest, ActionCancelQueryResult,
        ActionClosePreparedStatementRequest, ActionCreatePreparedStatementRequest, ActionCreatePreparedStatementResult,
        ActionEndSavepointRequest, ActionEndTransactionRequest, Any, Command, CommandGetCatalogs,
        CommandGetCrossReference, CommandGetDbSchemas, CommandGetExportedKeys, CommandGetImportedKeys,
        CommandGetPrimaryKeys, CommandGetSqlInfo, CommandGetTableTypes, CommandGetTables, CommandGetXdbcTypeInfo,
        CommandPreparedStatementQuery, CommandPreparedStatementUpdate, CommandStatementIngest, CommandStatementQuery,
        CommandStatementUpdate, DoPutPreparedStatementResult, ProstMessageExt, SqlInfo, TicketStatementQuery,
        server::{FlightSqlService, PeekableFlightDataStream},
    },
};
use arrow_ipc::writer::IpcWriteOptions;
use bytes::Bytes;
use futures::stream::BoxStream;
use greylag_protocol::{
    ErrorCode, MeshError, Result,
    prefix::Prefix,
    statement::{Session, SessionOptions, StatementInfo, StatementService},
};
use prost::Message;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming, metadata::MetadataValue};

use super::{
    DoorParts, QUERY_HEADER, actions,
    address::DoorAddress,
    jobs,
    metadata::{self, Question},
    parameters,
    results::{self, FlightStream},
    running::Running,
    session::{self, resume},
    setting::Setting,
    status::to_status,
    ticket::{Purpose, Sealer, Ticket},
    types::client_schema,
};

/// Addresses, `host:port`, of the doors that honour each other's tickets, this one among them.
pub type Doors = Arc<dyn Fn() -> Vec<String> + Send + Sync>;

pub(super) struct Door {
    pub(super) service: Arc<dyn StatementService>,
    pub(super) sealer: Arc<dyn Sealer>,
    pub(super) running: Running,
    own: String,
    doors: Doors,
    /// Whether this door speaks TLS, and so the others that it names.
    tls: bool,
    closing: CancellationToken,
}

/// Flight's own name for the connection that the info came over.
const SAME_CONNECTION: &str = "arrow-flight-reuse-connection://?";

pub(super) type Answer<T> = Result<T, Status>;

pub(crate) fn now_unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

pub(super) fn told<T>(result: Result<T>) -> Answer<T> {
    result.map_err(|error| to_status(&error))
}

/// The session that the front has added.
pub(super) fn session<T>(request: &Request<T>) -> Answer<Session> {
    let session = request.extensions().get::<Session>().cloned();
    session.ok_or_else(|| to_status(&MeshError::new(ErrorCode::Unauthenticated, "the call has no session")))
}

/// A schema as Flight carries it outside of streams.
pub(super) fn schema_message(schema: &Schema) -> Result<Bytes> {
    let options = IpcWriteOptions::default();
    let message: Result<IpcMessage, _> = SchemaAsIpc::new(schema, &options).try_into();
    message.map(|m| m.0).map_err(|e| MeshError::internal(format!("a schema could not be encoded: {e}")))
}

fn read_only<T>(what: &str) -> Answer<T> {
    Err(to_status(&MeshError::new(ErrorCode::ReadOnly, format!("{what} cannot be done here"))))
}

pub(super) fn command(bytes: &[u8]) -> Result<Command> {
    let read = Any::decode(bytes).ok().and_then(|any| Command::try_from(any).ok());
    read.ok_or_else(|| MeshError::new(ErrorCode::Unsupported, "the command is not one of Flight SQL's"))
}

impl Door {
    pub(super) fn new(parts: &DoorParts, own: String, closing: CancellationToken) -> Self {
        let (service, sealer, doors) = (parts.service.clone(), parts.sealer.clone(), parts.doors.clone());
        Self { service, sealer, running: Running::default(), own, doors, tls: parts.tls.is_some(), closing }
    }

    /// Answers `GetSchema`, which Flight SQL's own dispatcher leaves out.
    pub(super) async fn schema_of(&self, request: Request<FlightDescriptor>) -> Answer<Response<SchemaResult>> {
        let session = session(&request)?;
        let schema = match told(command(&request.get_ref().cmd))? {
            Command::CommandStatementQuery(query) => {
                let described = told(self.service.describe(&session, &query.query).await)?;
                told(schema_message(&client_schema(&described.schema)))?
            }
            Command::CommandPreparedStatementQuery(query) => {
                told(self.prepared(&query.prepared_statement_handle, &session))?.schema.into()
            }
            other => match Question::of(other) {
                Some(question) => told(schema_message(&question.schema()))?,
                None => return Err(to_status(&MeshError::new(ErrorCode::Unsupported, "the command has no schema"))),
            },
        };
        Ok(Response::new(SchemaResult { schema }))
    }

    /// Answers `PollFlightInfo`, which Flight SQL's own dispatcher leaves out.
    pub(super) async fn poll(&self, request: Request<FlightDescriptor>) -> Answer<Response<PollInfo>> {
        let session = session(&request)?;
        Ok(Response::new(told(jobs::poll(self, &session, request.get_ref()).await)?))
    }

    fn prepared(&self, handle: &[u8], session: &Session) -> Result<Ticket> {
        Ticket::open(self.sealer.as_ref(), handle, &[Purpose::Prepared], &session.principal, now_unix_ms())
    }

    /// Where a ticket is honoured: over this very connection first, then at every other door. Nothing means the same as
    /// this connection alone. A client shows its token wherever it is sent, so a door without TLS names none off loopback.
    fn locations(&self) -> Vec<Location> {
        let mut others = (self.doors)();
        others.sort();
        others.dedup();
        others.retain(|door| *door != self.own);
        let mut others: Vec<_> = others.into_iter().map(|door| DoorAddress::new(door, self.tls)).collect();
        others.retain(DoorAddress::is_private);
        if others.is_empty() {
            return Vec::new();
        }
        let others = others.iter().map(DoorAddress::to_string);
        std::iter::once(SAME_CONNECTION.to_owned()).chain(others).map(|uri| Location { uri }).collect()
    }

    /// Flight info of one statement, to be had from any door.
    pub(super) fn statement_info(
        &self,
        ticket: &Ticket,
        schema: Bytes,
        descriptor: FlightDescriptor,
    ) -> Result<FlightInfo> {
        let handle = TicketStatementQuery { statement_handle: ticket.seal(self.sealer.as_ref())?.into() };
        let ticket = FlightTicket::new(handle.as_any().encode_to_vec());
        let endpoint = FlightEndpoint { location: self.locations(), ..FlightEndpoint::new().with_ticket(ticket) };
        Ok(FlightInfo { schema, ..FlightInfo::new() }.with_endpoint(endpoint).with_descriptor(descriptor))
    }

    /// Changes the session's options: a result without rows, and a cookie.
    fn set(&self, session: &Session, setting: &Setting, descriptor: FlightDescriptor) -> Result<Response<FlightInfo>> {
        let options = setting.apply(&session.options)?;
        let cookie = session::cookie_line(options, &session.principal, self.sealer.as_ref(), now_unix_ms())?;
        let cookie = MetadataValue::try_from(cookie).map_err(|_| MeshError::internal("a cookie is not plain text"))?;
        let info = FlightInfo { schema: schema_message(&Schema::empty())?, total_records: 0, ..FlightInfo::new() };
        let mut response = Response::new(info.with_descriptor(descriptor));
        response.metadata_mut().insert("set-cookie", cookie);
        Ok(response)
    }

    /// Starts the statement of an opened ticket.
    async fn run(&self, mut session: Session, ticket: Ticket, resume: Prefix) -> Result<Response<FlightStream>> {
        session.options = SessionOptions { resume, ..ticket.options.clone() };
        let kept = match ticket.purpose {
            Purpose::Job => jobs::results(self, &session, &ticket).await?,
            _ => None,
        };
        let running = match kept {
            Some(running) => running,
            None => {
                let parameters = ticket.parameters.as_ref().map(parameters::read).transpose()?;
                self.service.execute(&session, &ticket.sql, parameters).await?
            }
        };
        let query = running.query;
        let guard = self.running.enter(ticket.nonce, query)?;
        let mut response = Response::new(results::stream(running, &session.options, guard, &self.closing));
        let header = MetadataValue::try_from(query.to_string());
        let header = header.map_err(|e| MeshError::internal(format!("a query's id is not plain text: {e}")))?;
        response.metadata_mut().insert(QUERY_HEADER, header);
        Ok(response)
    }

    /// Flight info of a question about the catalog: the question itself is the ticket.
    fn question_info(
        question: impl Into<Question>,
        request: Request<FlightDescriptor>,
    ) -> Answer<Response<FlightInfo>> {
        let question = question.into();
        let descriptor = request.into_inner();
        let endpoint = FlightEndpoint::new().with_ticket(FlightTicket::new(descriptor.cmd.clone()));
        let info = FlightInfo { schema: told(schema_message(&question.schema()))?, ..FlightInfo::new() };
        Ok(Response::new(info.with_endpoint(endpoint).with_descriptor(descriptor)))
    }

    async fn answer(
        &self,
        question: impl Into<Question>,
        request: Request<FlightTicket>,
    ) -> Answer<Response<FlightStream>> {
        let session = session(&request)?;
        let batch = told(metadata::answer(self.service.as_ref(), &session, question.into()).await)?;
        Ok(Response::new(told(results::one(batch))?))
    }
}

/// One pair of methods for each question about the catalog.
macro_rules! questions {
    ($($info:ident $get:ident $command:ty;)*) => {
        $(
            fn $info<'a, 't>(
                &'a self,
                command: $command,
                request: Request<FlightDescriptor>,
            ) -> std::pin::Pin<Box<dyn Future<Output = Answer<Response<FlightInfo>>> + Send + 't>>
            where
                'a: 't,
                Self: 't,
            {
                Box::pin(async move { Door::question_info(command, request) })
            }

            fn $get<'a, 't>(
                &'a self,
                command: $command,
                request: Request<FlightTicket>,
            ) -> std::pin::Pin<Box<dyn Future<Output = Answer<Response<<Self as FlightService>::DoGetStream>>> + Send + 't>>
            where
                'a: 't,
                Self: 't,
            {
                Box::pin(self.answer(command, request))
            }
        )*
    };
}

#[tonic::async_trait]
impl FlightSqlService for Door {
    type FlightService = Door;

    async fn do_handshake(
        &self,
        _request: Request<Streaming<HandshakeRequest>>,
    ) -> Answer<Response<BoxStream<'static, Result<HandshakeResponse, Status>>>> {
        Err(to_status(&MeshError::internal("a handshake came past the front")))
    }

    async fn get_flight_info_statement(
        &self,
        query: CommandStatementQuery,
        request: Request<FlightDescriptor>,
    ) -> Answer<Response<FlightInfo>> {
        if query.transaction_id.is_some() {
            return read_only("a transaction");
        }
        let session = session(&request)?;
        let mut sql = query.query;
        if let Some(setting) = told(Setting::parse(&sql))? {
            match told(setting.question(&session.options))? {
                Some(question) => sql = question,
                None => return told(self.set(&session, &setting, request.into_inner())),
            }
        }
        let described = told(self.service.describe(&session, &sql).await)?;
        let schema = told(schema_message(&client_schema(&described.schema)))?;
        let Session { principal, options, .. } = session;
        let ticket = Ticket::new(Purpose::Statement, &principal, &sql, options, now_unix_ms());
        Ok(Response::new(told(self.statement_info(&ticket, schema, request.into_inner()))?))
    }

    async fn do_get_statement(
        &self,
        ticket: TicketStatementQuery,
        request: Request<FlightTicket>,
    ) -> Answer<Response<<Self as FlightService>::DoGetStream>> {
        let session = session(&request)?;
        let resume = told(resume(request.metadata()))?;
        let sealed = &ticket.statement_handle;
        let purposes = [Purpose::Statement, Purpose::Job];
        let ticket = Ticket::open(self.sealer.as_ref(), sealed, &purposes, &session.principal, now_unix_ms());
        told(self.run(session, told(ticket)?, resume).await)
    }

    async fn do_action_create_prepared_statement(
        &self,
        query: ActionCreatePreparedStatementRequest,
        request: Request<Action>,
    ) -> Answer<ActionCreatePreparedStatementResult> {
        if query.transaction_id.is_some() {
            return read_only("a transaction");
        }
        let session = session(&request)?;
        let described = match told(Setting::parse(&query.query))? {
            // It is applied when it is run.
            Some(setting @ Setting::Set { .. }) => {
                told(setting.apply(&session.options))?;
                StatementInfo { schema: Schema::empty().into(), parameters: Schema::empty().into() }
            }
            Some(show) => {
                let question = told(show.question(&session.options))?.unwrap_or_default();
                told(self.service.describe(&session, &question).await)?
            }
            None => told(self.service.describe(&session, &query.query).await)?,
        };
        let dataset_schema = told(schema_message(&client_schema(&described.schema)))?;
        let parameter_schema = told(schema_message(&client_schema(&described.parameters)))?;
        let Session { principal, options, .. } = session;
        let mut ticket = Ticket::new(Purpose::Prepared, &principal, &query.query, options, now_unix_ms());
        ticket.schema = dataset_schema.to_vec();
        let prepared_statement_handle = told(ticket.seal(self.sealer.as_ref()))?.into();
        Ok(ActionCreatePreparedStatementResult { prepared_statement_handle, dataset_schema, parameter_schema })
    }

    async fn do_put_prepared_statement_query(
        &self,
        query: CommandPreparedStatementQuery,
        request: Request<PeekableFlightDataStream>,
    ) -> Answer<DoPutPreparedStatementResult> {
        let session = session(&request)?;
        let mut ticket = told(self.prepared(&query.prepared_statement_handle, &session))?;
        ticket.parameters = Some(told(parameters::receive(request.into_inner()).await)?);
        let handle = told(ticket.seal(self.sealer.as_ref()))?;
        Ok(DoPutPreparedStatementResult { prepared_statement_handle: Some(handle.into()) })
    }

    async fn get_flight_info_prepared_statement(
        &self,
        query: CommandPreparedStatementQuery,
        request: Request<FlightDescriptor>,
    ) -> Answer<Response<FlightInfo>> {
        let session = session(&request)?;
        let mut prepared = told(self.prepared(&query.prepared_statement_handle, &session))?;
        if let Some(setting) = told(Setting::parse(&prepared.sql))? {
            match told(setting.question(&session.options))? {
                Some(question) => prepared.sql = question,
                None => return told(self.set(&session, &setting, request.into_inner())),
            }
        }
        let Session { principal, options, .. } = session;
        let mut ticket = Ticket::new(Purpose::Statement, &principal, &prepared.sql, options, now_unix_ms());
        ticket.parameters = prepared.parameters;
        Ok(Response::new(told(self.statement_info(&ticket, prepared.schema.into(), request.into_inner()))?))
    }

    async fn do_get_prepared_statement(
        &self,
        query: CommandPreparedStatementQuery,
        request: Request<FlightTicket>,
    ) -> Answer<Response<<Self as FlightService>::DoGetStream>> {
        let (session, resume) = (session(&request)?, resume(request.metadata()));
        let mut ticket = told(self.prepared(&query.prepared_statement_handle, &session))?;
        let resume = told(resume)?;
        ticket.options = session.options.clone();
        told(self.run(session, ticket, resume).await)
    }

    async fn do_action_close_prepared_statement(
        &self,
        query: ActionClosePreparedStatementRequest,
        request: Request<Action>,
    ) -> Answer<()> {
        // The handle holds everything: there is nothing to free. It must be the caller's own all the same.
        let session = session(&request)?;
        let (handle, sealer) = (&query.prepared_statement_handle, self.sealer.as_ref());
        told(Ticket::open_of_any_age(sealer, handle, &[Purpose::Prepared], &session.principal))?;
        Ok(())
    }

    questions! {
        get_flight_info_catalogs do_get_catalogs CommandGetCatalogs;
        get_flight_info_schemas do_get_schemas CommandGetDbSchemas;
        get_flight_info_tables do_get_tables CommandGetTables;
        get_flight_info_table_types do_get_table_types CommandGetTableTypes;
        get_flight_info_sql_info do_get_sql_info CommandGetSqlInfo;
        get_flight_info_xdbc_type_info do_get_xdbc_type_info CommandGetXdbcTypeInfo;
        get_flight_info_primary_keys do_get_primary_keys CommandGetPrimaryKeys;
        get_flight_info_exported_keys do_get_exported_keys CommandGetExportedKeys;
        get_flight_info_imported_keys do_get_imported_keys CommandGetImportedKeys;
        get_flight_info_cross_reference do_get_cross_reference CommandGetCrossReference;
    }

    async fn do_action_cancel_query(
        &self,
        query: ActionCancelQueryRequest,
        request: Request<Action>,
    ) -> Answer<ActionCancelQueryResult> {
        let session = session(&request)?;
        let info = FlightInfo::decode(&*query.info).map_err(|_| {
            to_status(&MeshError::new(ErrorCode::InvalidStatement, "what is to be cancelled cannot be read"))
        })?;
        Ok(ActionCancelQueryResult { result: told(actions::cancel(self, &session, &info).await)? as i32 })
    }

    async fn do_action_fallback(
        &self,
        request: Request<Action>,
    ) -> Answer<Response<<Self as FlightService>::DoActionStream>> {
        let session = session(&request)?;
        told(actions::run(self, &session, request.into_inner()).await)
    }

    async fn list_custom_actions(&self) -> Option<Vec<Result<ActionType, Status>>> {
        Some(actions::listed().into_iter().map(Ok).collect())
    }

    async fn do_put_statement_update(
        &self,
        _command: CommandStatementUpdate,
        _request: Request<PeekableFlightDataStream>,
    ) -> Answer<i64> {
        read_only("an update")
    }

    async fn do_put_prepared_statement_update(
        &self,
        _command: CommandPreparedStatementUpdate,
        _request: Request<PeekableFlightDataStream>,
    ) -> Answer<i64> {
        read_only("an update")
    }

    async fn do_put_statement_ingest(
        &self,
        _command: CommandStatementIngest,
        _request: Request<PeekableFlightDataStream>,
    ) -> Answer<i64> {
        read_only("an ingest")
    }

    async fn do_action_begin_transaction(
        &self,
        _query: ActionBeginTransactionRequest,
        _request: Request<Action>,
    ) -> Answer<ActionBeginTransactionResult> {
        read_only("a transaction")
    }

    async fn do_action_end_transaction(
        &self,
        _query: ActionEndTransactionRequest,
        _request: Request<Action>,
    ) -> Answer<()> {
        read_only("a transaction")
    }

    async fn do_action_begin_savepoint(
        &self,
        _query: ActionBeginSavepointRequest,
        _request: Request<Action>,
    ) -> Answer<ActionBeginSavepointResult> {
        read_only("a savepoint")
    }

    async fn do_action_end_savepoint(
        &self,
        _query: ActionEndSavepointRequest,
        _request: Request<Action>,
    ) -> Answer<()> {
        read_only("a savepoint")
    }

    async fn register_sql_info(&self, _id: i32, _result: &SqlInfo) {
        // What the door says about itself is fixed: see `info`.
    }
}
