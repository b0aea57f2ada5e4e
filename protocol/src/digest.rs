//! Rolling digest of a data stream: SHA-256 over the payloads of the `Schema` and `Batch` frames, each preceded by
//! its kind and length, so that moving a boundary between frames changes it.

use sha2::{Digest, Sha256};

use crate::frame::FrameKind;

#[derive(Clone, Default)]
pub struct StreamDigest(Sha256);

impl StreamDigest {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn update(&mut self, kind: FrameKind, payload: &[u8]) {
        self.0.update([kind as u8]);
        self.0.update((payload.len() as u64).to_le_bytes());
        self.0.update(payload);
    }

    /// Digest of what has gone in so far.
    pub fn value(&self) -> [u8; 32] {
        self.0.clone().finalize().into()
    }
}
