//! A running statement as a stream of Flight messages: the schema, then batches as the client takes them.
//!
//! Of a resumable statement, the last message of each batch says in its `app_metadata` what the client has by then.
//!
//! INVARIANT: the statement is pulled only when everything pulled before has been handed to gRPC, so a slow client
//! holds its own query back; dropping the stream drops, and thereby cancels, the statement.

use std::collections::VecDeque;

use arrow::{array::RecordBatch, datatypes::SchemaRef};
use arrow_flight::{FlightData, SchemaAsIpc};
use arrow_ipc::writer::{DictionaryTracker, IpcDataGenerator, IpcWriteContext, IpcWriteOptions};
use futures::{StreamExt, stream::BoxStream};
use greylag_protocol::{
    ErrorCode, MeshError, Result,
    prefix::{Prefix, content},
    statement::{BatchStream, RunningStatement, SessionOptions},
};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::Status;

use super::{
    running::RunningGuard,
    status::to_status,
    types::{client_batch, client_schema},
};

/// A batch that encodes to more than this is sent in parts, by rows: below 4 MiB, which many gRPC clients take at
/// most unless told otherwise.
pub const MESSAGE_BYTES_SPLIT: usize = 3 << 20;
/// Largest message: one row that is longer cannot be sent. ADBC's limit.
pub const MESSAGE_BYTES_MAX: usize = 16 << 20;

pub(super) type FlightStream = BoxStream<'static, Result<FlightData, Status>>;

/// Streams a statement until its end, its first error, or the closing of the door.
pub(super) fn stream(
    running: RunningStatement,
    options: &SessionOptions,
    guard: RunningGuard,
    closing: &CancellationToken,
) -> FlightStream {
    let schema = client_schema(&running.schema);
    let mut encoder = FlightEncoder::new(SchemaRef::clone(&schema));
    let first = encoder.schema();
    let state = State {
        batches: running.batches,
        encoder,
        ready: VecDeque::from([first]),
        closing: Box::pin(closing.clone().cancelled_owned()),
        ended: false,
        progress: options.resumable.then_some(options.resume),
        _guard: guard,
    };
    futures::stream::unfold(state, State::next).boxed()
}

/// One batch that is there already, as a whole result.
pub(super) fn one(batch: RecordBatch) -> Result<FlightStream> {
    let schema = client_schema(&batch.schema());
    let mut encoder = FlightEncoder::new(SchemaRef::clone(&schema));
    let mut messages = VecDeque::from([encoder.schema()]);
    encoder.batch(&batch, &mut messages)?;
    Ok(futures::stream::iter(messages.into_iter().map(Ok)).boxed())
}

struct State {
    batches: BatchStream,
    encoder: FlightEncoder,
    ready: VecDeque<FlightData>,
    closing: std::pin::Pin<Box<WaitForCancellationFutureOwned>>,
    ended: bool,
    /// What the client has, once it has taken all that is ready.
    progress: Option<Prefix>,
    _guard: RunningGuard,
}

impl State {
    async fn next(mut self) -> Option<(Result<FlightData, Status>, Self)> {
        loop {
            if self.ended {
                return None;
            }
            if let Some(message) = self.ready.pop_front() {
                return Some((Ok(message), self));
            }
            let pulled = tokio::select! {
                biased;
                () = &mut self.closing => Err(MeshError::new(ErrorCode::ShuttingDown, "the door closes")),
                batch = self.batches.next() => match batch {
                    None => return None,
                    Some(batch) => batch.and_then(|batch| self.take(&batch)),
                },
            };
            if let Err(error) = pulled {
                self.ended = true;
                return Some((Err(to_status(&error)), self));
            }
        }
    }
}

impl State {
    fn take(&mut self, batch: &RecordBatch) -> Result<()> {
        self.encoder.batch(batch, &mut self.ready)?;
        if let (Some(progress), Some(last)) = (&mut self.progress, self.ready.back_mut()) {
            progress.extend(batch.num_rows(), content(batch));
            last.app_metadata = progress.to_string().into();
        }
        Ok(())
    }
}

/// Turns batches into Flight messages of bearable size.
struct FlightEncoder {
    schema: SchemaRef,
    options: IpcWriteOptions,
    context: IpcWriteContext,
    /// Never used: no dictionary leaves the door.
    dictionaries: DictionaryTracker,
}

impl FlightEncoder {
    fn new(schema: SchemaRef) -> Self {
        let options = IpcWriteOptions::default();
        Self { schema, options, context: IpcWriteContext::default(), dictionaries: DictionaryTracker::new(true) }
    }

    fn schema(&mut self) -> FlightData {
        SchemaAsIpc::new(&self.schema, &self.options).into()
    }

    fn batch(&mut self, batch: &RecordBatch, out: &mut VecDeque<FlightData>) -> Result<()> {
        let batch = client_batch(&self.schema, batch)?;
        self.part(&batch, out)
    }

    fn part(&mut self, batch: &RecordBatch, out: &mut VecDeque<FlightData>) -> Result<()> {
        let (_, encoded) = IpcDataGenerator::default()
            .encode(batch, &mut self.dictionaries, &self.options, &mut self.context)
            .map_err(|e| MeshError::internal(format!("a batch could not be encoded: {e}")))?;
        let bytes = encoded.ipc_message.len() + encoded.arrow_data.len();
        if bytes > MESSAGE_BYTES_SPLIT && batch.num_rows() > 1 {
            let half = batch.num_rows() / 2;
            self.part(&batch.slice(0, half), out)?;
            return self.part(&batch.slice(half, batch.num_rows() - half), out);
        }
        if bytes > MESSAGE_BYTES_MAX {
            return Err(MeshError::new(
                ErrorCode::FrameTooLarge,
                format!("a row of {bytes} bytes is over the limit of {MESSAGE_BYTES_MAX} of a Flight message"),
            ));
        }
        out.push_back(encoded.into());
        Ok(())
    }
}
