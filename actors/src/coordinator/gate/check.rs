//! Whether a stream is whole: everything that came is counted and digested, and compared with the trailer. Only a
//! stream that fits its trailer yields a [`Verified`], and only that opens a gate's end.

use greylag_protocol::{
    AttemptId, ErrorCode, MeshError, Result, digest::StreamDigest, frame::FrameKind, messages::edge::Trailer,
};

/// Proof that all rows of an attempt have come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verified {
    attempt: u32,
    rows: u64,
}

impl Verified {
    /// For a stream that never leaves the process and says itself that it has ended.
    pub fn in_process(attempt: u32, rows: u64) -> Self {
        Self { attempt, rows }
    }
    pub fn attempt(self) -> u32 {
        self.attempt
    }
    pub fn rows(self) -> u64 {
        self.rows
    }
}

/// Running totals of one attempt.
#[derive(Clone)]
pub struct StreamCheck {
    attempt: AttemptId,
    /// Rows in every batch but the last.
    batch_rows: u64,
    batches: u64,
    rows: u64,
    digest: StreamDigest,
}

impl StreamCheck {
    pub fn new(attempt: AttemptId, batch_rows: u32) -> Self {
        Self { attempt, batch_rows: batch_rows.into(), batches: 0, rows: 0, digest: StreamDigest::new() }
    }

    pub fn schema(&mut self, payload: &[u8]) {
        self.digest.update(FrameKind::Schema, payload);
    }

    /// GL4011 if the batches are not cut canonically: one after a short one, one too long, or an empty one.
    pub fn batch(&mut self, payload: &[u8], rows: usize) -> Result<()> {
        let rows = rows as u64;
        if rows == 0 || rows > self.batch_rows || self.rows != self.batches * self.batch_rows {
            let message = format!("batch {} of attempt {} has {rows} rows out of turn", self.batches + 1, self.attempt);
            return Err(MeshError::new(ErrorCode::MalformedFrame, message));
        }
        self.digest.update(FrameKind::Batch, payload);
        self.batches += 1;
        self.rows += rows;
        Ok(())
    }

    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// The stream has ended without a trailer.
    pub fn truncated(&self) -> MeshError {
        MeshError::new(
            ErrorCode::TruncatedStream,
            format!("attempt {} ended after {} rows without its trailer", self.attempt, self.rows),
        )
    }

    /// GL3007 if the trailer counts other rows or batches than came, or belongs to another attempt; GL3008 if it
    /// counts the same but its digest differs.
    pub fn verify(self, trailer: &Trailer) -> Result<Verified> {
        if trailer.attempt != self.attempt {
            return Err(MeshError::new(
                ErrorCode::TruncatedStream,
                format!("attempt {} got the trailer of attempt {}", self.attempt, trailer.attempt),
            ));
        }
        if (trailer.batches, trailer.rows) != (self.batches, self.rows) {
            return Err(MeshError::new(
                ErrorCode::TruncatedStream,
                format!(
                    "attempt {} sent {} rows in {} batches, but {} rows in {} batches came",
                    self.attempt, trailer.rows, trailer.batches, self.rows, self.batches
                ),
            ));
        }
        if trailer.digest != self.digest.value() {
            return Err(MeshError::new(
                ErrorCode::DigestMismatch,
                format!("attempt {} of {} rows has another digest than its trailer", self.attempt, self.rows),
            ));
        }
        Ok(Verified { attempt: self.attempt.attempt, rows: self.rows })
    }
}
