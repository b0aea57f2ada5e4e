//! A client of a whole mesh. It learns from each answer which doors honour the ticket, and when the one that it reads from
//! is lost it goes on at another: the ticket is redeemed there with what is there already, the rows come from after that,
//! and whoever reads them notices a pause.
//!
//! Without `resumable` in its options it is a client of one door, and learns of no other.
//!
//! INVARIANT: a token goes to doors over TLS alone if it went to the first one so, and otherwise to no door on another
//! machine that the client was not told to ask. Rows are given out only together with the door's word of what the client has by then; so what has been given
//! out is always what the next door is told.

use std::{
    future::Future,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use arrow::{array::RecordBatch, datatypes::SchemaRef};
use arrow_flight::{
    FlightInfo, PollInfo, Ticket,
    decode::{DecodedPayload, FlightDataDecoder},
};
use futures::{StreamExt, stream};
use greylag_protocol::{
    ErrorCode, MeshError, QueryId, Result,
    prefix::Prefix,
    statement::{AdminCall, AdminReply, SessionOptions},
};

use super::{
    address::DoorAddress,
    client::{Access, Answer, Client, Cookies, flight_error, schema_of, ticket_of},
    handle::JobHandle,
};

/// How long a client looks for a door that goes on, after the last row that it got.
pub const ROAMING_MAX: Duration = Duration::from_secs(30);
/// A door that lives says itself that a statement's time is up. So long after that the client says it.
const LATE_MAX: Duration = Duration::from_secs(1);
/// Pause after all doors have been tried, doubled each time.
const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_millis(800);
/// Most doors that are remembered.
const DOORS_MAX: usize = 64;

/// A connection to whichever door answers. Clones share it.
#[derive(Clone)]
pub struct RoamingClient {
    shared: Arc<Shared>,
}

struct Shared {
    access: Access,
    options: SessionOptions,
    /// The one in use first.
    doors: Mutex<Vec<DoorAddress>>,
    /// Whether they are spoken to over TLS, each of them.
    tls: bool,
    current: Mutex<Option<Client>>,
    /// The session, whichever door it goes on at.
    cookies: Cookies,
}

impl RoamingClient {
    /// `doors` are `host:port` or what else [`DoorAddress::parse`] reads; more are learned from answers. GL4013 if none answers.
    pub async fn connect(doors: Vec<String>, token: &str, options: SessionOptions) -> Result<Self> {
        Self::connect_as(doors, Access::by_token(token), options).await
    }

    /// One door over TLS, or `access` that asks for it, means all of them over TLS; GL6001 for one that is named without.
    pub async fn connect_as(doors: Vec<String>, access: Access, options: SessionOptions) -> Result<Self> {
        let some_tls = doors.iter().any(|door| DoorAddress::parse(door, false).is_ok_and(|door| door.is_tls()));
        let tls = access.tls.is_some() || some_tls;
        let doors = doors.iter().map(|door| DoorAddress::parse(door, tls)).collect::<Result<Vec<_>>>()?;
        let shared = Shared {
            access,
            options,
            doors: Mutex::new(doors),
            tls,
            current: Mutex::default(),
            cookies: Cookies::default(),
        };
        let client = Self { shared: Arc::new(shared) };
        let mut last = MeshError::new(ErrorCode::InvalidConfig, "no door is named");
        let known = client.shared.doors().len();
        for _ in 0..known {
            match client.shared.client().await {
                Ok(_) => return Ok(client),
                Err(error) => last = error,
            }
            client.shared.leave();
        }
        Err(last)
    }

    /// Runs a statement; its rows come as they are ready and as they are taken.
    pub async fn query(&self, sql: &str) -> Result<Answer> {
        let deadline = Deadline::of(&self.shared);
        deadline.bound(&self.shared, self.start(sql, deadline)).await
    }

    async fn start(&self, sql: &str, deadline: Deadline) -> Result<Answer> {
        let mut search = Search::new();
        let info = loop {
            let asked = match self.shared.client().await {
                Ok(client) => client.flight_info(sql).await,
                Err(error) => Err(error),
            };
            match asked {
                Ok(info) => break info,
                Err(error) => search.next(&self.shared, error).await?,
            }
        };
        self.read(&info, search, deadline).await
    }

    /// Begins a statement in the background.
    pub async fn submit(&self, sql: &str) -> Result<JobHandle> {
        JobHandle::of(&self.polled(async |client| client.submit(sql).await).await?)
    }

    /// How many rows a statement in the background has made; `None` while it runs. The door waits a moment for its end.
    /// With its coordinator lost it begins again at another.
    pub async fn poll(&self, job: &JobHandle) -> Result<Option<u64>> {
        let poll = self.polled(async |client| client.poll(job.descriptor()).await).await?;
        let rows = poll.info.and_then(|info| u64::try_from(info.total_records).ok());
        Ok(rows.filter(|_| poll.flight_descriptor.is_none()))
    }

    async fn polled(&self, ask: impl AsyncFn(Client) -> Result<PollInfo>) -> Result<PollInfo> {
        let mut search = Search::new();
        loop {
            let asked = match self.shared.client().await {
                Ok(client) => ask(client).await,
                Err(error) => Err(error),
            };
            match asked {
                Ok(poll) => {
                    poll.info.iter().for_each(|info| self.shared.learn(info));
                    return Ok(poll);
                }
                Err(error) => search.next(&self.shared, error).await?,
            }
        }
    }

    /// The rows of a statement in the background, as far as there are any and then as they come.
    pub async fn results(&self, job: &JobHandle) -> Result<Answer> {
        let poll = self.polled(async |client| client.poll(job.descriptor()).await).await?;
        let info = poll.info.ok_or_else(|| MeshError::internal("the door has given no flight info"))?;
        let deadline = Deadline::of(&self.shared);
        deadline.bound(&self.shared, self.read(&info, Search::new(), deadline)).await
    }

    /// Stops a statement in the background and forgets its rows. False if no coordinator knows it.
    pub async fn cancel_job(&self, job: &JobHandle) -> Result<bool> {
        self.shared.client().await?.cancel_flight(job.info()).await
    }

    async fn read(&self, info: &FlightInfo, search: Search, deadline: Deadline) -> Result<Answer> {
        if self.shared.options.resumable {
            self.shared.learn(info);
        }
        let Some(ticket) = ticket_of(info) else { return Answer::empty(info) };
        let schema = schema_of(info)?;
        let mut reading = Reading::new(self.shared.clone(), ticket, schema.clone());
        let query = reading.open(search).await?;
        let batches = stream::unfold(Some(reading), move |reading| async move {
            let mut reading = reading?;
            let shared = reading.shared.clone();
            match deadline.bound(&shared, reading.next()).await {
                Ok(Some(batch)) => Some((Ok(batch), Some(reading))),
                Ok(None) => None,
                Err(error) => Some((Err(error), None)),
            }
        });
        Ok(Answer { query, schema, batches: batches.boxed() })
    }

    pub async fn admin(&self, call: &AdminCall) -> Result<AdminReply> {
        self.shared.client().await?.admin(call).await
    }

    pub async fn cancel(&self, query: QueryId) -> Result<bool> {
        self.shared.client().await?.cancel(query).await
    }
}

impl Shared {
    fn doors(&self) -> std::sync::MutexGuard<'_, Vec<DoorAddress>> {
        self.doors.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn current(&self) -> std::sync::MutexGuard<'_, Option<Client>> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The connection in use, or a new one to the first door.
    async fn client(&self) -> Result<Client> {
        if let Some(client) = self.current().clone() {
            return Ok(client);
        }
        let door = self.doors().first().cloned();
        let door = door.ok_or_else(|| MeshError::new(ErrorCode::InvalidConfig, "no door is named"))?;
        let cookies = self.cookies.clone();
        let mut client = Client::open(&door, &self.access, cookies).await?;
        client.set_options(&self.options)?;
        *self.current() = Some(client.clone());
        Ok(client)
    }

    /// Gives the door in use up for the next.
    fn leave(&self) {
        *self.current() = None;
        let mut doors = self.doors();
        if !doors.is_empty() {
            doors.rotate_left(1);
        }
    }

    fn learn(&self, info: &FlightInfo) {
        let mut doors = self.doors();
        for location in info.endpoint.iter().flat_map(|endpoint| &endpoint.location) {
            if let Some(door) = DoorAddress::of_location(&location.uri)
                && door.is_tls() == self.tls
                && door.is_private()
                && doors.len() < DOORS_MAX
                && !doors.contains(&door)
            {
                doors.push(door);
            }
        }
    }
}

/// When a client stops waiting for a statement, whatever the doors do.
#[derive(Clone, Copy)]
struct Deadline(Option<Instant>);

impl Deadline {
    fn of(shared: &Shared) -> Self {
        Self(shared.options.timeout.and_then(|timeout| Instant::now().checked_add(timeout.saturating_add(LATE_MAX))))
    }

    /// GL5002 if the work is not done by then; the door that was in use is given up for the next statement.
    async fn bound<T>(self, shared: &Shared, work: impl Future<Output = Result<T>>) -> Result<T> {
        let Some(at) = self.0 else { return work.await };
        match tokio::time::timeout_at(at.into(), work).await {
            Ok(done) => done,
            Err(_) => {
                shared.leave();
                Err(MeshError::new(ErrorCode::Deadline, "no door has answered in time"))
            }
        }
    }
}

/// The search for a door that goes on.
struct Search {
    until: Instant,
    tried: usize,
    pause: Duration,
}

impl Search {
    fn new() -> Self {
        Self { until: Instant::now() + ROAMING_MAX, tried: 0, pause: PAUSE_MIN }
    }

    /// Gives the door up that answered so, and waits once all have been tried. The error, if no door will do better.
    async fn next(&mut self, shared: &Shared, error: MeshError) -> Result<()> {
        let lost = serves_nobody(error.code);
        // A mesh that has just lost a node may have no leader, policy or edge for a moment.
        let passing = self.tried > 0 && error.is_retryable() && error.code != ErrorCode::ReplayDiffers;
        let doors = shared.doors().len();
        if !(lost || passing) || Instant::now() >= self.until || (doors < 2 && self.tried == 0) {
            return Err(error);
        }
        tracing::info!(%error, "the door was lost; going on at another");
        shared.leave();
        self.tried += 1;
        if self.tried.is_multiple_of(doors.max(1)) {
            tokio::time::sleep(self.pause).await;
            self.pause = (self.pause * 2).min(PAUSE_MAX);
        }
        Ok(())
    }
}

/// Whether the door's own node can do nothing for anybody now, and another may.
fn serves_nobody(code: ErrorCode) -> bool {
    use ErrorCode::{
        AuditUnavailable, ClockSkew, DiskFull, DoorFull, NoLeader, NoPolicy, PeerUnreachable, ShuttingDown,
    };
    matches!(
        code,
        PeerUnreachable | ShuttingDown | DoorFull | NoPolicy | NoLeader | ClockSkew | DiskFull | AuditUnavailable
    )
}

/// One result on its way.
struct Reading {
    shared: Arc<Shared>,
    ticket: Ticket,
    schema: SchemaRef,
    messages: Option<FlightDataDecoder>,
    /// Whether the door says what the client has. Otherwise rows are given out as they come, and a loss is the end.
    told: bool,
    /// What has been given out, or is ready to be.
    has: Prefix,
    /// Parts of a batch whose last part is still to come.
    parts: Vec<RecordBatch>,
    ready: std::collections::VecDeque<RecordBatch>,
    ended: bool,
}

impl Reading {
    fn new(shared: Arc<Shared>, ticket: Ticket, schema: SchemaRef) -> Self {
        let (parts, ready, has) = (Vec::new(), Default::default(), Prefix::default());
        Self { shared, ticket, schema, messages: None, told: false, has, parts, ready, ended: false }
    }

    /// Redeems the ticket at the first door that goes on.
    async fn open(&mut self, mut search: Search) -> Result<Option<QueryId>> {
        loop {
            let redeemed = match self.shared.client().await {
                Ok(client) => client.redeem(&self.ticket, self.has).await,
                Err(error) => Err(error),
            };
            match redeemed {
                Ok((query, messages)) => {
                    self.messages = Some(messages);
                    self.told = query.is_some() && self.shared.options.resumable;
                    return Ok(query);
                }
                Err(error) => search.next(&self.shared, error).await?,
            }
        }
    }

    async fn next(&mut self) -> Result<Option<RecordBatch>> {
        loop {
            if let Some(batch) = self.ready.pop_front() {
                return Ok(Some(batch));
            }
            if self.ended {
                return Ok(None);
            }
            let Some(messages) = self.messages.as_mut() else {
                self.open(Search::new()).await?;
                continue;
            };
            match messages.next().await {
                Some(Ok(message)) => self.take(message.payload, &message.inner.app_metadata)?,
                Some(Err(error)) => self.lost(flight_error(error)).await?,
                None => {
                    self.ended = true;
                    self.ready.extend(self.parts.drain(..));
                }
            }
        }
    }

    fn take(&mut self, payload: DecodedPayload, progress: &[u8]) -> Result<()> {
        match payload {
            DecodedPayload::RecordBatch(batch) => self.parts.push(batch),
            DecodedPayload::Schema(schema) if schema.fields() != self.schema.fields() => {
                return Err(MeshError::new(ErrorCode::ReplayDiffers, "another run of the statement has other columns"));
            }
            _ => {}
        }
        if self.told && !progress.is_empty() {
            let text = std::str::from_utf8(progress).unwrap_or_default();
            self.has = text.parse()?;
        }
        if !self.told || !progress.is_empty() {
            self.ready.extend(self.parts.drain(..));
        }
        Ok(())
    }

    /// The connection broke, or the door said that it cannot go on.
    async fn lost(&mut self, error: MeshError) -> Result<()> {
        if !self.told {
            return Err(error);
        }
        self.messages = None;
        self.parts.clear();
        let mut search = Search::new();
        search.next(&self.shared, error).await?;
        self.open(search).await.map(|_| ())
    }
}
