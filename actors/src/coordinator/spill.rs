//! Rows on disk: batches that wait for their reader and do not fit into memory. One file for each owner, written once
//! and in order, read at any place as often as wanted, gone with its last handle.
//!
//! INVARIANT: what all files of a node hold is counted in [`SpillSpace`] and stays under its limit.

use std::{
    io,
    sync::{Arc, Mutex, PoisonError},
};

use arrow::{
    array::{RecordBatch, RecordBatchOptions},
    datatypes::SchemaRef,
};
use bytes::Bytes;
use greylag_cluster::seams::{Blocking, Scratch, ScratchFile};
use greylag_protocol::{
    ErrorCode, MeshError, Result,
    ipc::{Decoder, Encoder},
    messages::edge::Compression,
};
use tokio::sync::oneshot;

use crate::bounds::Bound;

/// Room on disk that all queries of a node share.
#[derive(Debug)]
pub struct SpillSpace {
    scratch: Arc<dyn Scratch>,
    blocking: Arc<dyn Blocking>,
    used: Arc<Bound>,
}

impl SpillSpace {
    pub fn new(scratch: Arc<dyn Scratch>, blocking: Arc<dyn Blocking>, used: Arc<Bound>) -> Arc<Self> {
        Arc::new(Self { scratch, blocking, used })
    }

    /// A file; nothing is made on disk before something is written.
    pub fn file(self: &Arc<Self>) -> SpillFile {
        let content = Content { space: self.clone(), file: None, codec: None, end: 0 };
        SpillFile { space: self.clone(), content: Arc::new(Mutex::new(content)) }
    }

    /// Bytes on disk.
    pub fn used(&self) -> u64 {
        self.used.used()
    }

    fn reserve(&self, bytes: u64) -> Result<()> {
        if self.used.reserve(bytes) {
            return Ok(());
        }
        let (used, max) = (self.used.used(), self.used.max());
        let message = format!("{used} bytes of rows wait on disk already, and `limits.spill_bytes_max` is {max}");
        Err(MeshError::new(ErrorCode::DiskFull, message))
    }
}

/// Where a batch lies in its file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    offset: u64,
    bytes: u64,
    pub rows: u64,
}

/// Batches of one schema. Clones are the same file.
#[derive(Debug, Clone)]
pub struct SpillFile {
    space: Arc<SpillSpace>,
    content: Arc<Mutex<Content>>,
}

#[derive(Debug)]
struct Content {
    space: Arc<SpillSpace>,
    file: Option<Box<dyn ScratchFile>>,
    codec: Option<Codec>,
    end: u64,
}

struct Codec {
    schema: SchemaRef,
    encoder: Encoder,
    decoder: Decoder,
}

impl std::fmt::Debug for Codec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Codec").field("schema", &self.schema).finish_non_exhaustive()
    }
}

impl SpillFile {
    /// Appends a batch. GL5006 if the node's room or the disk itself is used up.
    pub async fn write(&self, batch: RecordBatch) -> Result<Place> {
        self.run(move |content| content.write(&batch)).await
    }

    /// Reads a batch back.
    pub async fn read(&self, place: Place) -> Result<RecordBatch> {
        self.run(move |content| content.read(place)).await
    }

    async fn run<T: Send + 'static>(&self, work: impl FnOnce(&mut Content) -> Result<T> + Send + 'static) -> Result<T> {
        let (reply, done) = oneshot::channel();
        let content = self.content.clone();
        let job = move || {
            let mut content = content.lock().unwrap_or_else(PoisonError::into_inner);
            // Nobody may wait any more.
            let _ = reply.send(work(&mut content));
        };
        self.space.blocking.run(Box::new(job)).await;
        done.await.unwrap_or_else(|_| Err(MeshError::internal("a spill file's work was lost")))
    }
}

impl Content {
    fn write(&mut self, batch: &RecordBatch) -> Result<Place> {
        if self.codec.is_none() {
            self.codec = Some(Codec::new(batch.schema())?);
        }
        let Some(codec) = &mut self.codec else { return Err(MeshError::internal("a spill file has no schema")) };
        let payload = codec.encoder.batch(batch)?;
        let place = Place { offset: self.end, bytes: payload.len() as u64, rows: batch.num_rows() as u64 };
        self.space.reserve(place.bytes)?;
        let file = match &mut self.file {
            Some(file) => Ok(file),
            none => self.space.scratch.file().map(|file| none.insert(file)),
        };
        if let Err(error) = file.and_then(|file| file.write_at(place.offset, &payload)) {
            self.space.used.release(place.bytes);
            return Err(refused(&error));
        }
        self.end += place.bytes;
        Ok(place)
    }

    fn read(&mut self, place: Place) -> Result<RecordBatch> {
        let (Some(file), Some(codec)) = (&self.file, &mut self.codec) else {
            return Err(MeshError::internal("a spill file was read before it was written"));
        };
        let mut payload = vec![0; usize::try_from(place.bytes).unwrap_or(usize::MAX)];
        file.read_at(place.offset, &mut payload).map_err(|error| refused(&error))?;
        codec.read(payload.into())
    }
}

impl Drop for Content {
    fn drop(&mut self) {
        self.space.used.release(self.end);
    }
}

impl Codec {
    fn new(schema: SchemaRef) -> Result<Self> {
        let mut encoder = Encoder::new(schema.clone(), Compression::Lz4)?;
        let decoder = Decoder::new(&encoder.schema()?)?;
        Ok(Self { schema, encoder, decoder })
    }

    fn read(&mut self, payload: Bytes) -> Result<RecordBatch> {
        let batch = self.decoder.batch(payload)?;
        let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
        RecordBatch::try_new_with_options(self.schema.clone(), batch.columns().to_vec(), &options)
            .map_err(|error| MeshError::internal(format!("a batch came back from disk as another: {error}")))
    }
}

fn refused(error: &io::Error) -> MeshError {
    MeshError::new(ErrorCode::DiskFull, format!("rows that wait could not be kept on disk: {error}"))
}

/// Room in memory, for tests.
#[cfg(test)]
pub(crate) mod fixture {
    use std::{pin::Pin, sync::Arc};

    use greylag_cluster::seams::{Blocking, MemoryScratch, Scratch};

    use super::SpillSpace;
    use crate::bounds::Bound;

    #[derive(Debug)]
    struct Inline;

    impl Blocking for Inline {
        fn run(&self, work: Box<dyn FnOnce() + Send>) -> Pin<Box<dyn Future<Output = ()> + Send>> {
            work();
            Box::pin(async {})
        }
    }

    pub(crate) fn space(max: u64) -> Arc<SpillSpace> {
        over(Arc::new(MemoryScratch), max)
    }

    pub(crate) fn over(scratch: Arc<dyn Scratch>, max: u64) -> Arc<SpillSpace> {
        SpillSpace::new(scratch, Arc::new(Inline), Arc::new(Bound::of(max)))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use arrow::{
        array::{ArrayRef, Int64Array, StringArray},
        datatypes::Schema,
    };

    fn batch(from: i64) -> RecordBatch {
        let numbers: ArrayRef = Arc::new(Int64Array::from(vec![Some(from), None, Some(from + 1)]));
        let texts: ArrayRef = Arc::new(StringArray::from(vec![Some("a"), Some(""), None]));
        RecordBatch::try_from_iter([("n", numbers), ("t", texts)]).unwrap()
    }

    #[tokio::test]
    async fn batches_come_back_in_any_order_and_their_room_is_given_back() {
        let space = fixture::space(1 << 20);
        let file = space.file();
        let (one, two) = (file.write(batch(1)).await.unwrap(), file.write(batch(2)).await.unwrap());
        assert_eq!((file.read(two).await.unwrap(), file.read(one).await.unwrap()), (batch(2), batch(1)));
        assert_eq!(file.read(two).await.unwrap(), batch(2), "as often as wanted");
        assert!(space.used() > 0);
        drop(file);
        assert_eq!(space.used(), 0);
    }

    #[tokio::test]
    async fn rows_without_columns_are_counted() {
        let space = fixture::space(1 << 20);
        let options = RecordBatchOptions::new().with_row_count(Some(7));
        let empty = RecordBatch::try_new_with_options(Arc::new(Schema::empty()), vec![], &options).unwrap();
        let file = space.file();
        let place = file.write(empty.clone()).await.unwrap();
        assert_eq!(file.read(place).await.unwrap(), empty);
    }

    #[tokio::test]
    async fn over_the_nodes_room_a_batch_is_refused_and_the_others_stay() {
        let space = fixture::space(1_000);
        let (file, mut places) = (space.file(), Vec::new());
        let error = loop {
            match file.write(batch(places.len() as i64)).await {
                Ok(place) => places.push(place),
                Err(error) => break error,
            }
        };
        assert_eq!(error.code, ErrorCode::DiskFull);
        assert!(space.used() <= 1_000 && !places.is_empty());
        for (n, place) in places.into_iter().enumerate() {
            assert_eq!(file.read(place).await.unwrap(), batch(n as i64));
        }
    }

    #[derive(Debug)]
    struct Full;

    impl Scratch for Full {
        fn file(&self) -> io::Result<Box<dyn ScratchFile>> {
            Err(io::ErrorKind::StorageFull.into())
        }
    }

    #[tokio::test]
    async fn a_full_disk_is_told_and_takes_no_room() {
        let space = fixture::over(Arc::new(Full), 1_000);
        let error = space.file().write(batch(1)).await.unwrap_err();
        assert_eq!(error.code, ErrorCode::DiskFull);
        assert_eq!(space.used(), 0);
    }
}
