//! Values bound to a prepared statement, as a client uploads them: a schema and one batch of one row. They are read
//! by the mesh's own checked reader, not by Arrow's, and kept in the statement's handle as they came.

use arrow::{
    array::{RecordBatch, RecordBatchOptions},
    datatypes::{Field, Schema},
};
use arrow_flight::FlightData;
use futures::{Stream, StreamExt};
use greylag_protocol::{ErrorCode, MeshError, Result, ipc};
use tonic::Status;

use super::status::from_status;

/// Most bytes of bound values: they travel in the handle, there and back.
pub const PARAMETER_BYTES_MAX: usize = 1 << 20;

/// A schema and a batch, as IPC messages.
pub(super) type Bound = (Vec<u8>, Vec<u8>);

/// GL1007 unless the upload is exactly one row.
pub(super) async fn receive(upload: impl Stream<Item = Result<FlightData, Status>>) -> Result<Bound> {
    let mut upload = std::pin::pin!(upload);
    let (mut schema, mut batch, mut bytes): (_, Option<Vec<u8>>, _) = (None, None, 0);
    while let Some(data) = upload.next().await {
        let data = data.map_err(|status| from_status(&status))?;
        bytes += data.data_header.len() + data.data_body.len();
        if bytes > PARAMETER_BYTES_MAX {
            return Err(parameters(format!("bound values take more than {PARAMETER_BYTES_MAX} bytes")));
        }
        if data.data_header.is_empty() {
            continue;
        }
        let message = message(&data);
        match (&schema, &batch) {
            (None, _) => schema = Some(message),
            (Some(_), None) => batch = Some(message),
            (Some(_), Some(_)) => return Err(parameters("more than one batch of values is bound")),
        }
    }
    let (Some(schema), Some(batch)) = (schema, batch) else {
        return Err(parameters("no values are bound"));
    };
    let row = read(&(schema.clone(), batch.clone()))?;
    if row.num_rows() != 1 {
        return Err(parameters(format!("{} rows of values are bound: bind one", row.num_rows())));
    }
    Ok((schema, batch))
}

/// The row that is bound. Its columns are named `$1`, `$2`, ... in order, whatever the client calls them.
pub(super) fn read((schema, batch): &Bound) -> Result<RecordBatch> {
    let read = ipc::Decoder::new(schema).and_then(|mut decoder| decoder.batch(batch.clone().into()));
    let row = read.map_err(|e| parameters(format!("bound values cannot be read: {}", e.message)))?;
    let columns = row.columns().iter().enumerate();
    let fields = columns.map(|(at, column)| Field::new(format!("${}", at + 1), column.data_type().clone(), true));
    let options = RecordBatchOptions::new().with_row_count(Some(row.num_rows()));
    let schema = Schema::new(fields.collect::<Vec<_>>()).into();
    RecordBatch::try_new_with_options(schema, row.columns().to_vec(), &options)
        .map_err(|e| MeshError::internal(format!("bound values could not be named: {e}")))
}

/// An IPC message in one piece: Flight sends its parts apart.
fn message(data: &FlightData) -> Vec<u8> {
    let length = u32::try_from(data.data_header.len()).unwrap_or(u32::MAX).to_le_bytes();
    [&[0xff; 4], &length[..], &data.data_header, &data.data_body].concat()
}

fn parameters(message: impl Into<String>) -> MeshError {
    MeshError::new(ErrorCode::Parameters, message)
}
